#include "os/process.h"

#include "base/error.h"
#include "os/child.h"
#include "os/clock.h"
#include "os/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* What SIGINT did before this process became a server. Dispositions are the process's own, so one place is enough. */
static struct sigaction interrupt_before;
static bool interrupt_spared;

int32_t mh__os_pid(void) { return getpid(); }
int32_t mh__os_parent_pid(void) { return getppid(); }
bool mh__os_is_main_thread(void) { return gettid() == getpid(); }

void mh__os_spare_interrupt(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    if (interrupt_spared)
        return;
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigaction(SIGINT, &ignore, &interrupt_before); /* also drops one that is pending */
    pthread_sigmask(SIG_UNBLOCK, &interrupt, NULL);
    interrupt_spared = true;
}

void mh__os_restore_interrupt(void)
{
    if (interrupt_spared)
        sigaction(SIGINT, &interrupt_before, NULL);
    interrupt_spared = false;
}

/* What the parent has not written yet would come out of the child a second time. */
static void flush_std(void)
{
    if (__fpending(stdout))
        fflush(stdout);
    if (__fpending(stderr))
        fflush(stderr);
}

void mh__os_exit_child(int code)
{
    fflush(stdout);
    fflush(stderr);
    _exit(code);
}

/* ---- pidfds ---------------------------------------------------------------------------------- */

mh_err mh__os_pidfd_open(int32_t pid, int *pidfd)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0); /* always close-on-exec */
    if (fd < 0)
        return mh__fail_os(errno, "pidfd_open of process %d", pid);
    *pidfd = fd;
    return MH_OK;
}

mh_err mh__os_pidfd_signal(int pidfd, int number)
{
    if (syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) < 0)
        return mh__fail_os(errno, "sending signal %d", number);
    return MH_OK;
}

mh_err mh__os_reap(int pidfd, mh__end *end)
{
    siginfo_t info = {.si_pid = 0};
    int rc;
    do
        rc = waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG);
    while (rc < 0 && errno == EINTR);
    if (rc < 0)
        return errno == ECHILD ? mh__fail_errno(MH_ERR_EXITED, errno, "taking a child's exit status")
                               : mh__fail_os(errno, "taking a child's exit status");
    if (info.si_pid == 0)
        return MH_ERR_TIMEOUT;
    bool exited = info.si_code == CLD_EXITED;
    *end = (mh__end){.code = exited ? info.si_status : 0,
                     .signal = exited ? 0 : info.si_status,
                     .core = info.si_code == CLD_DUMPED};
    return MH_OK;
}

/* ---- fork ------------------------------------------------------------------------------------ */

/* What the parent opens before it forks. */
typedef struct fork_fds {
    int placeholder; /* keeps the number that the pidfd will take, so that running out is noticed while there is no child */
    int report[2];   /* a pipe for how the setup went. Also for when: a child that somebody stopped before it was tied to its
                      * parent would outlive it, so nobody hears of a child before */
    bool gated;      /* the child may vanish as soon as it ends (SIGCHLD is ignored): it waits at the placeholder for its pidfd */
    mh__lifeline lifeline;
} fork_fds;

static void close_all(fork_fds *f)
{
    mh__os_close(&f->placeholder);
    mh__os_close(&f->report[0]);
    mh__os_close(&f->report[1]);
    mh__os_close(&f->lifeline.fd);
}

static mh_err open_all(fork_fds *f, const mh__child_setup *setup)
{
    *f = (fork_fds){.placeholder = -1, .report = {-1, -1}, .lifeline = {.fd = -1}};
    mh_err err = mh__os_eventfd(&f->placeholder);
    if (!err)
        err = mh__lifeline_take(&f->lifeline, setup->survive_parent);
    struct sigaction on_child;
    f->gated = sigaction(SIGCHLD, NULL, &on_child) == 0 &&
               (on_child.sa_handler == SIG_IGN || (on_child.sa_flags & SA_NOCLDWAIT));
    if (!err && pipe2(f->report, O_CLOEXEC) < 0)
        err = mh__fail_os(errno, "pipe to a child");
    if (err)
        close_all(f);
    return err;
}

static void send_report(int pipe, mh__child_report report)
{
    ssize_t rc = write(pipe, &report, sizeof report); /* a pipe takes 8 bytes whole */
    (void)rc;
}

static void pass_gate(int gate)
{
    struct pollfd p = {.fd = gate, .events = POLLIN};
    while (poll(&p, 1, -1) < 0 && errno == EINTR)
        ;
}

/* The report's descriptor may be a number that the setup is about to give away: it moves above them all first. */
static void set_up_child(const mh__child_setup *setup, fork_fds *f, const sigset_t *mask)
{
    int highest = 2;
    for (size_t i = 0; i < setup->fd_count; i++)
        highest = setup->numbers[i] > highest ? setup->numbers[i] : highest;
    int report = fcntl(f->report[1], F_DUPFD_CLOEXEC, highest + 1);
    int gate = f->gated ? fcntl(f->placeholder, F_DUPFD_CLOEXEC, highest + 1) : -1;
    if (report < 0) {
        send_report(f->report[1], (mh__child_report){MH__STEP_FDS, errno});
        _exit(126);
    }
    mh__os_close(&f->placeholder);
    mh__os_close(&f->report[0]);
    mh__os_close(&f->report[1]);
    mh__child_report done = mh__child_prepare(setup, f->lifeline, false);
    send_report(report, done);
    close(report);
    if (done.step)
        _exit(126);
    if (gate >= 0)
        pass_gate(gate);
    mh__os_close(&gate);
    if (!setup->keep_handlers)
        mh__child_reset_signals(true);
    if (setup->spare_interrupt)
        mh__os_spare_interrupt();
    if (setup->restore_interrupt)
        mh__os_restore_interrupt();
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, setup->keep_mask ? mask : &none, NULL);
}

/* Wait for the report, or for the child's end: another child, forked meanwhile, may hold a copy of the pipe's other end. */
static mh__child_report await_report(int pipe, int pidfd)
{
    mh__child_report report = {MH__STEP_NONE, 0};
    struct pollfd both[2] = {{.fd = pipe, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
    while (poll(both, 2, -1) < 0 && errno == EINTR)
        ;
    if (!(both[0].revents & POLLIN))
        return (mh__child_report){MH__STEP_NONE, 0}; /* killed from outside: its exit status tells */
    if (read(pipe, &report, sizeof report) != (ssize_t)sizeof report)
        return (mh__child_report){MH__STEP_NONE, 0};
    return report;
}

static void put_down(pid_t pid)
{
    kill(pid, SIGKILL); /* our own child, not reaped: the number is still its own */
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static mh_err adopt(pid_t pid, fork_fds *f, int *pidfd)
{
    int fd = -1;
    if (!f->gated)
        mh__os_close(&f->placeholder);
    mh_err err = mh__os_pidfd_open(pid, &fd);
    if (f->gated)
        mh__os_eventfd_set(f->placeholder);
    if (!err) {
        mh__child_report report = await_report(f->report[0], fd);
        if (report.step)
            err = mh__child_error(report, "a forked process");
    }
    if (err) {
        put_down(pid);
        mh__os_close(&fd);
        return err;
    }
    *pidfd = fd;
    return MH_OK;
}

mh_err mh__os_fork(const mh__child_setup *setup, int32_t *pid, int *pidfd, bool *in_child)
{
    fork_fds f;
    sigset_t all, before;
    *in_child = false;
    mh_err err = open_all(&f, setup);
    if (err)
        return err;
    flush_std();
    /* so that no handler of the parent's runs in the child before the setup decides what signals do */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t child = fork();
    int failed = errno;
    if (child == 0) {
        set_up_child(setup, &f, &before);
        *in_child = true;
        return MH_OK;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    mh__os_close(&f.report[1]);
    err = child < 0 ? mh__fail_os(failed, "fork") : adopt(child, &f, pidfd);
    close_all(&f);
    if (!err)
        *pid = child;
    return err;
}

/* ---- sockets and descriptors ----------------------------------------------------------------- */

mh_err mh__os_peer_pid(int sock, int32_t *pid)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.pid <= 0)
        return mh__fail(MH_ERR_INVALID, "descriptor %d is not a socket with a known peer", sock);
    *pid = peer.pid;
    return MH_OK;
}

void mh__os_hang_up(int sock) { shutdown(sock, SHUT_RDWR); }

bool mh__os_is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

mh_err mh__os_wait_either(int a, int b, mh_deadline until)
{
    int64_t left = mh__os_left_ns(until);
    struct timespec ts = {.tv_sec = left / MH_SECOND, .tv_nsec = left % MH_SECOND};
    struct pollfd both[2] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};
    int rc = ppoll(both, 2, until == MH_FOREVER ? NULL : &ts, NULL);
    if (rc > 0)
        return MH_OK;
    if (rc == 0)
        return MH_ERR_TIMEOUT;
    return errno == EINTR ? MH_ERR_INTERRUPTED : mh__fail_os(errno, "poll");
}

mh_err mh__os_become(const char *const *argv)
{
    execvp(argv[0], (char *const *)argv);
    return mh__fail_os(errno, "%s", argv[0]);
}
