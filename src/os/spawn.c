/* Starting another program. The child shares this process's memory until it has exec'ed (CLONE_VM with CLONE_VFORK): nothing is copied,
 * however large this process is, and a failure is simply found in a variable. What posix_spawn lacks is the parent-death
 * signal, the pidfd, and the closing of all other descriptors. */
#include "base/error.h"
#include "base/memory.h"
#include "os/child.h"
#include "os/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

/* The thread sanitizer's own clone takes the child for a fork and breaks its books, which the child shares: call past it. */
#ifdef __clang__
#if __has_feature(thread_sanitizer)
#define PAST_SANITIZER
#endif
#elif defined __SANITIZE_THREAD__
#define PAST_SANITIZER
#endif
#ifdef PAST_SANITIZER
extern __typeof__(clone) __clone;
#define clone __clone
#endif

enum { STACK_BYTES = 64 * 1024 };

typedef struct spawn_order {
    const mh__child_setup *setup;
    mh__lifeline lifeline;
    const char *path;
    char *const *argv, *const *env;
    sigset_t mask;                    /* for the new program */
    volatile mh__child_report report; /* written by the child */
} spawn_order;

MH__BARE static int run_child(void *arg)
{
    spawn_order *order = arg;
    mh__child_report done = mh__child_prepare(order->setup, order->lifeline, true);
    if (!done.step) {
        mh__child_reset_signals(!order->setup->keep_handlers);
        if (order->setup->ignore_interrupt)
            mh__child_ignore_interrupt();
        syscall(SYS_rt_sigprocmask, SIG_SETMASK, &order->mask, NULL, (size_t)8);
        syscall(SYS_execve, order->path, order->argv, order->env);
        done = (mh__child_report){MH__STEP_EXEC, errno};
    }
    order->report.step = done.step;
    order->report.error = done.error;
    syscall(SYS_exit_group, 127);
    return 0;
}

/* The first program `name` in a directory of PATH. owns: the caller frees *out. */
static mh_err look_in_path(char **out, const char *name)
{
    const char *dirs = getenv("PATH");
    if (!dirs)
        dirs = "/usr/local/bin:/bin:/usr/bin";
    char *path = mh__alloc(strlen(dirs) + strlen(name) + 2);
    if (!path)
        return MH_ERR_NO_MEMORY;
    int failed = ENOENT;
    for (;; dirs++) {
        size_t length = strcspn(dirs, ":");
        memcpy(path, dirs, length);
        if (length)
            path[length++] = '/';
        strcpy(path + length, name);
        struct stat st;
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
            if (faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0) {
                *out = path;
                return MH_OK;
            }
            failed = EACCES;
        }
        dirs += strcspn(dirs, ":");
        if (!*dirs)
            break;
    }
    mh__free(path);
    return mh__fail_os(failed, "looking for \"%s\" in PATH", name);
}

static mh_err find_program(char **out, const char *name)
{
    if (!*name)
        return mh__fail_os(ENOENT, "starting a program with an empty name");
    if (!strchr(name, '/'))
        return look_in_path(out, name);
    *out = mh__strdup(name);
    return *out ? MH_OK : MH_ERR_NO_MEMORY;
}

/* clone returns when the child has exec'ed or ended. All signals are blocked meanwhile, so that no handler runs in the shared memory,
 * and the thread cannot be cancelled. */
static mh_err clone_child(spawn_order *order, const mh__child_setup *setup, int32_t *pid, int *pidfd)
{
    char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        return mh__fail_os(errno, "a stack for a new process");
    sigset_t all, before;
    int cancel, fd = -1;
    sigfillset(&all);
    sigemptyset(&order->mask);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (setup->keep_mask)
        order->mask = before;
    if (setup->spare_interrupt)
        sigaddset(&order->mask, SIGINT);
    pid_t child = clone(run_child, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, order, &fd);
    int failed = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_setcancelstate(cancel, NULL);
    munmap(stack, STACK_BYTES);
    if (child < 0)
        return mh__fail_os(failed, "clone");
    mh__child_report report = {order->report.step, order->report.error};
    if (report.step) {
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
        mh__os_close(&fd);
        return mh__child_error(report, order->path);
    }
    *pid = child;
    *pidfd = fd;
    return MH_OK;
}

mh_err mh__os_spawn(const mh__child_setup *setup, const char *const *argv, const char *const *env, int32_t *pid, int *pidfd)
{
    char *path = NULL;
    spawn_order order = {.setup = setup, .lifeline = {.fd = -1}};
    mh_err err = find_program(&path, argv[0]);
    if (!err)
        err = mh__lifeline_take(&order.lifeline, setup->survive_parent);
    if (!err) {
        order.path = path;
        order.argv = (char *const *)(uintptr_t)argv;
        order.env = env ? (char *const *)(uintptr_t)env : environ;
        err = clone_child(&order, setup, pid, pidfd);
    }
    mh__os_close(&order.lifeline.fd);
    mh__free(path);
    return err;
}
