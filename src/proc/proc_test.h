/* What the tests of this module share: processes that talk over pipes, threads that start processes, and books of what is open. */
#ifndef MH_PROC_TEST_H
#define MH_PROC_TEST_H

#include "mh_books.h"
#include "mh_test.h"

#include "manyhands/process.h"

#include "base/number.h"
#include "os/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONG_ENOUGH mh_deadline_in(20 * MH_SECOND)

static inline int rounds(int normal) { return getenv("MH_LONG") ? normal * 20 : normal; }

/* Wait for p's end, which must have been an exit with that code or (negative) that signal, and free it. */
#define expect_end(p, number) test_expect_end((p), (number), __FILE__, __LINE__)
static inline void test_expect_end(mh_process **p, int number, const char *file, int line)
{
    mh_exit status;
    mh_err err = mh_process_wait(*p, LONG_ENOUGH, &status);
    if (err || mh_exit_number(status) != number) {
        print_error("ended with %s %d, expected %d\n", mh_err_name(err), err ? 0 : mh_exit_number(status), number);
        _fail(file, line);
    }
    mh_process_destroy(p);
}

/* A process, its ends of two pipes in the test, and its own. */
typedef struct talk {
    int to[2], from[2];
} talk;

static inline void talk_open(talk *t)
{
    assert_int_equal(pipe2(t->to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(t->from, O_CLOEXEC), 0);
}

static inline void talk_close(talk *t)
{
    mh__os_close(&t->to[0]);
    mh__os_close(&t->to[1]);
    mh__os_close(&t->from[0]);
    mh__os_close(&t->from[1]);
}

/* In a child: say a byte, then answer each byte with the next one until the pipe ends; returns the last. */
static inline int answer(int in, int out, unsigned char hello)
{
    unsigned char c = hello;
    while (write(out, &c, 1) == 1 && read(in, &c, 1) == 1)
        c++;
    return c;
}

static inline int answer_talk(void *ctx)
{
    talk *t = ctx;
    mh__os_close(&t->to[1]);
    mh__os_close(&t->from[0]);
    return answer(t->to[0], t->from[1], 'a');
}

/* In the test: the next byte, or -1 when the pipe ended. */
static inline int hear(int fd)
{
    unsigned char c;
    if (mh__os_wait_readable(fd, LONG_ENOUGH))
        return -2;
    return read(fd, &c, 1) == 1 ? c : -1;
}

static inline int ask(talk *t, unsigned char c)
{
    if (write(t->to[1], &c, 1) != 1)
        return -3;
    return hear(t->from[0]);
}

static inline int open_pidfd(int32_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

/* No child of this process is left, living or dead. */
#define assert_no_children()                       \
    do {                                           \
        assert_int_equal(waitpid(-1, NULL, 0), -1); \
        assert_int_equal(errno, ECHILD);           \
    } while (0)

/* Run fn(ctx) in a thread until it and its traces in the kernel are gone. */
typedef struct in_thread {
    void (*fn)(void *ctx);
    void *ctx;
    pid_t tid;
} in_thread;

static inline void *run_in_thread(void *arg)
{
    in_thread *t = arg;
    t->tid = gettid();
    t->fn(t->ctx);
    return NULL;
}

static inline void call_in_thread(void (*fn)(void *ctx), void *ctx)
{
    in_thread t = {.fn = fn, .ctx = ctx};
    pthread_t id;
    char path[64];
    assert_int_equal(pthread_create(&id, NULL, run_in_thread, &t), 0);
    pthread_join(id, NULL);
    snprintf(path, sizeof path, "/proc/self/task/%d", t.tid);
    while (access(path, F_OK) == 0)
        sched_yield();
}

#endif
