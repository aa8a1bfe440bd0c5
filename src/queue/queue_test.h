/* What the queue's tests share: messages that prove that they are whole, children, and memory that both see. */
#ifndef MH_QUEUE_TEST_H
#define MH_QUEUE_TEST_H

#include "mh_test.h"

#include "base/number.h"
#include "manyhands/queue.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SOON mh_deadline_in(20 * MH_SECOND) /* for what must happen: only a failure waits so long */

/* Rounds of a loop: MH_LONG=1 multiplies them. */
static inline int test_rounds(int usual)
{
    const char *text = getenv("MH_LONG");
    return text && *text == '1' ? usual * 20 : usual;
}

/* A message says who sent it, as which of its messages, how long it is, and ends in bytes that follow from these. */
typedef struct test_head {
    uint32_t producer, number;
    uint64_t size;
} test_head;

static inline unsigned char test_byte(const test_head *h, size_t i)
{
    return (unsigned char)((h->producer * 31 + h->number * 7 + i + (i >> 8)) & 0xff);
}

static inline void test_fill(unsigned char *at, uint32_t producer, uint32_t number, size_t size)
{
    test_head h = {producer, number, size};
    memcpy(at, &h, sizeof h);
    for (size_t i = sizeof h; i < size; i++)
        at[i] = test_byte(&h, i);
}

/* False when the message is torn. */
static inline bool test_check(const unsigned char *at, size_t size, test_head *h)
{
    if (size < sizeof *h)
        return false;
    memcpy(h, at, sizeof *h);
    if (h->size != size)
        return false;
    for (size_t i = sizeof *h; i < size; i++)
        if (at[i] != test_byte(h, i))
            return false;
    return true;
}

/* Zeroed memory that children share. */
static inline void *test_shared(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    return at;
}

static inline pid_t test_fork(void)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody behind */
    return pid;
}

/* Wait for a child's end: its exit code, or minus the signal that killed it. A child that hangs is killed and gives -1000. */
static inline int test_reap(pid_t pid)
{
    int status, fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int ready = poll(&p, 1, 30000);
    if (ready <= 0)
        kill(pid, SIGKILL);
    close(fd);
    waitpid(pid, &status, 0);
    return ready <= 0 ? -1000 : WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Until *word is `value` or more: yields, and fails the test after a long time. */
static inline void test_await(_Atomic uint32_t *word, uint32_t value)
{
    for (mh_deadline until = SOON; atomic_load(word) < value; sched_yield())
        assert_true(mh_now() < until);
}

/* Until the child's main thread sleeps in the kernel: it waits for something. */
static inline void test_await_sleep(pid_t pid)
{
    char path[40], line[256];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    for (mh_deadline until = SOON; mh_now() < until; sched_yield()) {
        FILE *f = fopen(path, "r");
        char *got = f ? fgets(line, sizeof line, f) : NULL;
        if (f)
            fclose(f);
        if (got && strrchr(line, ')')[2] == 'S')
            return;
    }
    fail_msg("the child does not sleep");
}

#endif
