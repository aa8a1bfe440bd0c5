/* Processes, threads and shared memory for the tests beside this. */
#ifndef MH_SYNC_TEST_H
#define MH_SYNC_TEST_H

#include "mh_test.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/number.h"
#include "manyhands/sync.h"
#include "os/identity.h"

enum { SOON_S = 10 }; /* for what must happen: long enough for a loaded machine under a sanitizer */
static inline mh_deadline soon(void) { return mh_deadline_in(SOON_S * MH_SECOND); }
static inline mh_deadline ms(int64_t count) { return mh_deadline_in(count * MH_MILLISECOND); }

static inline int rounds(int count)
{
    const char *is_long = getenv("MH_LONG");
    return is_long && *is_long == '1' ? count * 20 : count;
}

static inline void *share(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    return at;
}

static inline void unshare_pages(void *at, size_t size) { munmap(at, size); }

/* A child process that runs fn(ctx) and ends with what it returns. */
static inline pid_t start_process(int (*fn)(void *), void *ctx)
{
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(fn(ctx));
    }
    return pid;
}

static inline int join_process(pid_t pid)
{
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static inline void kill_process(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(join_process(pid), 1000 + SIGKILL);
}

static inline int run_process(int (*fn)(void *), void *ctx) { return join_process(start_process(fn, ctx)); }

static inline char state_of(int32_t number)
{
    char path[40], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", number);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (size <= 0)
        return '?';
    text[size] = 0;
    char *at = strrchr(text, ')');
    return at && at[1] ? at[2] : '?';
}

/* Until a thread or process is in the given state ('S' asleep, 'T' stopped). */
static inline void await_state(int32_t number, char state)
{
    for (int64_t until = soon(); state_of(number) != state;) {
        if (mh_now() > until)
            fail_msg("thread %d is in state %c, not %c", number, state_of(number), state);
        sched_yield();
    }
}

static inline void stop_process(pid_t pid)
{
    kill(pid, SIGSTOP);
    await_state(pid, 'T');
}

/* A thread that tells its kernel number before it runs fn(ctx). */
typedef struct test_thread {
    pthread_t id;
    int32_t number;
    void (*fn)(void *);
    void *ctx;
} test_thread;

static inline void *run_test_thread(void *arg)
{
    test_thread *t = arg;
    __atomic_store_n(&t->number, gettid(), __ATOMIC_RELEASE);
    t->fn(t->ctx);
    return NULL;
}

static inline void start_thread(test_thread *t, void (*fn)(void *), void *ctx)
{
    *t = (test_thread){.fn = fn, .ctx = ctx};
    assert_int_equal(pthread_create(&t->id, NULL, run_test_thread, t), 0);
    while (!__atomic_load_n(&t->number, __ATOMIC_ACQUIRE))
        sched_yield();
}

static inline void join_thread(test_thread *t) { assert_int_equal(pthread_join(t->id, NULL), 0); }

static inline void run_thread(void (*fn)(void *), void *ctx)
{
    test_thread t;
    start_thread(&t, fn, ctx);
    join_thread(&t);
}

static inline void ignore_signal(int number) { (void)number; }

/* Send a signal with a handler to a thread that sleeps, until it has ended: one that arrives just while the thread looks
 * around between two sleeps ends no sleep. */
static inline void interrupt_and_join(test_thread *t)
{
    struct sigaction action = {.sa_handler = ignore_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    await_state(t->number, 'S');
    for (mh_deadline until = soon(); pthread_tryjoin_np(t->id, NULL) != 0; sched_yield()) {
        assert_true(mh_now() < until);
        pthread_kill(t->id, SIGUSR1);
    }
}

#endif
