#include "os/child.h"

#include "base/error.h"
#include "os/fd.h"
#include "os/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The pipe whose writing end only this process holds; made when a thread other than the main one first needs it. A fork must not
 * happen while it is half made, and the child must not keep the writing end: hence the handlers. */
static pthread_mutex_t pipe_lock = PTHREAD_MUTEX_INITIALIZER;
static int pipe_ends[2] = {-1, -1}; /* guard: pipe_lock */
static unsigned fork_depth;         /* written only by a child's first and only thread */

static void before_fork(void) { pthread_mutex_lock(&pipe_lock); }
static void after_fork(void) { pthread_mutex_unlock(&pipe_lock); }

static void after_fork_in_child(void)
{
    mh__os_close(&pipe_ends[0]);
    mh__os_close(&pipe_ends[1]);
    fork_depth++;
    pthread_mutex_unlock(&pipe_lock);
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

unsigned mh__os_fork_depth(void) { return fork_depth; }

mh_err mh__lifeline_take(mh__lifeline *out, bool survive_parent)
{
    *out = (mh__lifeline){.parent = mh__os_pid(), .fd = -1};
    if (survive_parent || mh__os_is_main_thread())
        return MH_OK;
    int failed = 0;
    pthread_mutex_lock(&pipe_lock);
    if (pipe_ends[0] < 0 && pipe2(pipe_ends, O_CLOEXEC) < 0)
        failed = errno;
    if (!failed && (out->fd = fcntl(pipe_ends[0], F_DUPFD_CLOEXEC, 3)) < 0)
        failed = errno;
    pthread_mutex_unlock(&pipe_lock);
    return failed ? mh__fail_os(failed, "pipe that tells a child of its parent's end") : MH_OK;
}

/* The thread sanitizer keeps books on descriptors, in memory that a vfork child shares with its parent though not the
 * descriptors: it must not see these. */
MH__BARE static void bare_close(int fd) { syscall(SYS_close, fd); }
MH__BARE static int bare_dup(int from, int to) { return (int)syscall(SYS_dup3, from, to, 0); }

/* snprintf is not for here */
MH__BARE static void write_path(char path[32], int fd)
{
    static const char prefix[] = "/proc/self/fd/";
    char digits[12];
    size_t at = 0, count = 0;
    for (; prefix[at]; at++)
        path[at] = prefix[at];
    do
        digits[count++] = (char)('0' + fd % 10);
    while ((fd /= 10) > 0);
    while (count)
        path[at++] = digits[--count];
    path[at] = 0;
}

/* Have the kernel send SIGKILL when the pipe's other end is closed. Owner and signal belong to an open file and not to a
 * descriptor, so each child opens the pipe anew. Closing is not done by the parent: it is what its end amounts to. */
MH__BARE static int watch_pipe(int fd, int above, bool keep_on_exec)
{
    char path[32];
    write_path(path, fd);
    int own = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
    int high = own < 0 ? -1 : fcntl(own, keep_on_exec ? F_DUPFD : F_DUPFD_CLOEXEC, above);
    int failed = high < 0 ? errno : 0;
    if (own >= 0)
        bare_close(own);
    bare_close(fd);
    if (failed)
        return failed;
    if (fcntl(high, F_SETOWN, getpid()) < 0 || fcntl(high, F_SETSIG, SIGKILL) < 0 ||
        fcntl(high, F_SETFL, O_NONBLOCK | O_ASYNC) < 0)
        return errno;
    struct pollfd p = {.fd = high};
    struct timespec none = {0, 0};
    if (syscall(SYS_ppoll, &p, 1U, &none, NULL, (size_t)8) > 0) /* it hung up before we watched */
        kill(getpid(), SIGKILL);
    return 0;
}

MH__BARE static int die_with_parent(mh__lifeline lifeline, int above, bool exec)
{
    if (lifeline.fd >= 0)
        return watch_pipe(lifeline.fd, above, exec);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return errno;
    if (getppid() != lifeline.parent) /* it ended before the call */
        kill(getpid(), SIGKILL);
    return 0;
}

/* The kernel tells of such a pipe whoever opened it, so an exec'ed child finds its own too. */
static void unwatch_pipes(void)
{
    DIR *dir = opendir("/proc/self/fd");
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        int fd = atoi(entry->d_name), flags = fcntl(fd, F_GETFL);
        if (entry->d_name[0] != '.' && flags >= 0 && (flags & O_ASYNC) && fcntl(fd, F_GETSIG) == SIGKILL && fcntl(fd, F_GETOWN) == getpid())
            fcntl(fd, F_SETFL, flags & ~O_ASYNC);
    }
    if (dir)
        closedir(dir);
}

mh_err mh__os_survive_parent(void)
{
    if (!mh__os_is_main_thread())
        return mh__fail(MH_ERR_INVALID, "only the main thread can untie a process from its parent");
    if (prctl(PR_SET_PDEATHSIG, 0) < 0)
        return mh__fail_os(errno, "prctl");
    unwatch_pipes();
    return MH_OK;
}

MH__BARE static int highest_number(const mh__child_setup *setup)
{
    int highest = 2;
    for (size_t i = 0; i < setup->fd_count; i++)
        if (setup->numbers[i] > highest)
            highest = setup->numbers[i];
    return highest;
}

/* Copies first, out of the way of every number, since a number may be another one's source. */
MH__BARE static int lift_fds(const mh__child_setup *setup, int above)
{
    for (size_t i = 0; i < setup->fd_count; i++) {
        setup->scratch[i] = fcntl(setup->fds[i], F_DUPFD_CLOEXEC, above);
        if (setup->scratch[i] < 0)
            return errno;
    }
    return 0;
}

MH__BARE static int place_fds(const mh__child_setup *setup)
{
    for (size_t i = 0; i < setup->fd_count; i++) {
        if (bare_dup(setup->scratch[i], setup->numbers[i]) < 0)
            return errno;
        bare_close(setup->scratch[i]);
    }
    return 0;
}

MH__BARE static int read_null(void)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY, 0);
    if (fd < 0)
        return errno;
    if (fd == 0)
        return 0;
    int failed = bare_dup(fd, 0) < 0 ? errno : 0;
    bare_close(fd);
    return failed;
}

MH__BARE mh__child_report mh__child_prepare(const mh__child_setup *setup, mh__lifeline lifeline, bool exec)
{
    int above = highest_number(setup) + 1, error;
#define STEP(step, failed) if ((error = (failed)) != 0) return (mh__child_report){step, error}
    STEP(MH__STEP_FDS, lift_fds(setup, above));
    if (exec)
        STEP(MH__STEP_CLOSE, syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) < 0 ? errno : 0);
    if (!setup->survive_parent)
        STEP(MH__STEP_PARENT, die_with_parent(lifeline, above, exec));
    if (setup->new_session)
        STEP(MH__STEP_SESSION, setsid() < 0 ? errno : 0);
    if (setup->new_group && !setup->new_session)
        STEP(MH__STEP_GROUP, setpgid(0, 0) < 0 ? errno : 0);
    if (setup->cwd)
        STEP(MH__STEP_CWD, chdir(setup->cwd) < 0 ? errno : 0);
    if (setup->stdin_null)
        STEP(MH__STEP_STDIN, read_null());
    STEP(MH__STEP_FDS, place_fds(setup));
#undef STEP
    return (mh__child_report){MH__STEP_NONE, 0};
}

/* By the bare system call: the sanitizers' sigaction keeps books, in memory that a vfork child shares with its parent. The
 * handler comes first in the kernel's structure, and all zeroes are the default action. */
MH__BARE void mh__child_reset_signals(bool ignored_too)
{
    for (int number = 1; number <= 64; number++) {
        uintptr_t now[8] = {0};
        static const uintptr_t default_action[8];
        if (syscall(SYS_rt_sigaction, number, NULL, now, (size_t)8) < 0)
            continue;
        if (now[0] == (uintptr_t)SIG_DFL || (now[0] == (uintptr_t)SIG_IGN && !ignored_too))
            continue;
        syscall(SYS_rt_sigaction, number, default_action, NULL, (size_t)8);
    }
}

MH__BARE void mh__child_ignore_interrupt(void)
{
    static const uintptr_t ignore[8] = {(uintptr_t)SIG_IGN};
    syscall(SYS_rt_sigaction, SIGINT, ignore, NULL, (size_t)8);
}

mh_err mh__child_error(mh__child_report report, const char *what)
{
    static const char *const steps[] = {
        [MH__STEP_NONE] = "start",
        [MH__STEP_PARENT] = "tying it to its parent",
        [MH__STEP_SESSION] = "setsid",
        [MH__STEP_GROUP] = "setpgid",
        [MH__STEP_CWD] = "changing the directory",
        [MH__STEP_STDIN] = "opening /dev/null",
        [MH__STEP_FDS] = "passing descriptors",
        [MH__STEP_CLOSE] = "close_range",
        [MH__STEP_EXEC] = "exec",
    };
    return mh__fail_os(report.error, "starting %s: %s", what, steps[report.step]);
}
