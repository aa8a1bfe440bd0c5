#include "os/fd.h"

#include "base/error.h"
#include "base/number.h"
#include "os/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void mh__os_close(int *fd)
{
    int saved = errno;
    if (*fd >= 0)
        close(*fd); /* Linux frees the descriptor even when it reports EINTR */
    *fd = -1;
    errno = saved;
}

mh_err mh__os_set_inherit(int fd, bool inherit)
{
    if (fcntl(fd, F_SETFD, inherit ? 0 : FD_CLOEXEC) < 0)
        return mh__fail_os(errno, "setting close-on-exec of descriptor %d", fd);
    return MH_OK;
}

static mh_err make_pair(int fds[2], int type)
{
    if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) < 0) {
        fds[0] = fds[1] = -1;
        return mh__fail_os(errno, "socketpair");
    }
    return MH_OK;
}

mh_err mh__os_socketpair(int fds[2]) { return make_pair(fds, SOCK_SEQPACKET); }
mh_err mh__os_socketpair_stream(int fds[2]) { return make_pair(fds, SOCK_STREAM); }

mh_err mh__os_eventfd(int *out)
{
    *out = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return *out < 0 ? mh__fail_os(errno, "eventfd") : MH_OK;
}

void mh__os_eventfd_set(int fd)
{
    int saved = errno;
    uint64_t one = 1;
    /* the only failure is EAGAIN at 2^64-2, where the reader is awake anyway */
    ssize_t rc = write(fd, &one, sizeof one);
    (void)rc;
    errno = saved;
}

void mh__os_eventfd_clear(int fd)
{
    uint64_t value;
    ssize_t rc = read(fd, &value, sizeof value);
    (void)rc; /* EAGAIN: it was 0 */
}

static mh_err wait_for(int fd, short events, mh_deadline until)
{
    int64_t left = mh__os_left_ns(until);
    struct timespec ts = {.tv_sec = left / MH_SECOND, .tv_nsec = left % MH_SECOND};
    struct pollfd p = {.fd = fd, .events = events};
    int rc = ppoll(&p, 1, until == MH_FOREVER ? NULL : &ts, NULL);
    if (rc > 0)
        return p.revents & POLLNVAL ? mh__fail(MH_ERR_INVALID, "descriptor %d is not open", fd) : MH_OK;
    if (rc == 0)
        return MH_ERR_TIMEOUT;
    return errno == EINTR ? MH_ERR_INTERRUPTED : mh__fail_os(errno, "poll of descriptor %d", fd);
}

mh_err mh__os_wait_readable(int fd, mh_deadline until) { return wait_for(fd, POLLIN, until); }
mh_err mh__os_wait_writable(int fd, mh_deadline until) { return wait_for(fd, POLLOUT, until); }

mh_err mh__os_wait_any(const int *fds, size_t count, mh_deadline until, unsigned *ready)
{
    struct pollfd p[8];
    int64_t left = mh__os_left_ns(until);
    struct timespec ts = {.tv_sec = left / MH_SECOND, .tv_nsec = left % MH_SECOND};
    *ready = 0;
    if (count > MH__COUNT_OF(p))
        return mh__fail(MH_ERR_LIMIT, "waiting for %zu descriptors", count);
    for (size_t i = 0; i < count; i++)
        p[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    int rc = ppoll(p, (nfds_t)count, until == MH_FOREVER ? NULL : &ts, NULL);
    if (rc < 0)
        return errno == EINTR ? MH_ERR_INTERRUPTED : mh__fail_os(errno, "poll");
    for (size_t i = 0; i < count; i++)
        *ready |= p[i].revents ? 1u << i : 0;
    return rc ? MH_OK : MH_ERR_TIMEOUT;
}

static mh_err socket_error(int saved_errno, const char *what)
{
    if (saved_errno == EPIPE || saved_errno == ECONNRESET || saved_errno == ENOTCONN)
        return mh__fail(MH_ERR_CLOSED, "%s: the other end is closed", what);
    return mh__fail_os(saved_errno, "%s", what);
}

mh_err mh__os_send(int sock, mh_bytes message, const int *fds, size_t fd_count, mh_deadline until)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MH__OS_FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = (void *)(uintptr_t)message.data, .iov_len = message.size};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count > MH__OS_FDS_MAX)
        return mh__fail(MH_ERR_LIMIT, "%zu descriptors in one message; at most %d", fd_count, MH__OS_FDS_MAX);
    if (fd_count) {
        memset(&control, 0, sizeof control);
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
    }
    for (;;) {
        if (sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
            return MH_OK;
        if (errno != EAGAIN && errno != EINTR)
            return socket_error(errno, "send");
        mh_err err = mh__os_wait_writable(sock, until);
        if (err)
            return err;
    }
}

static size_t take_fds(struct msghdr *m, int *fds)
{
    size_t count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds + count, CMSG_DATA(c), here * sizeof(int)); /* the control buffer bounds the sum */
        count += here;
    }
    return count;
}

mh_err mh__os_receive(int sock, void *buffer, size_t capacity, size_t *size, int *fds, size_t *fd_count,
                      mh_deadline until)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MH__OS_FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = buffer, .iov_len = capacity};
    for (;;) {
        struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
        ssize_t got = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            mh_err err = mh__os_wait_readable(sock, until);
            if (err)
                return err;
            continue;
        }
        if (got < 0)
            return socket_error(errno, "receive");
        int received[MH__OS_FDS_MAX];
        size_t count = take_fds(&m, received);
        bool cut = m.msg_flags & (MSG_TRUNC | MSG_CTRUNC);
        if (cut || !fds) {
            for (size_t i = 0; i < count; i++)
                mh__os_close(&received[i]);
            count = 0;
        }
        if (cut)
            return mh__fail(MH_ERR_TOO_LARGE, "a message was larger than the %zu bytes expected", capacity);
        if (got == 0 && count == 0)
            return mh__fail(MH_ERR_CLOSED, "receive: the other end is closed");
        if (fds)
            memcpy(fds, received, count * sizeof(int));
        if (fd_count)
            *fd_count = count;
        *size = (size_t)got;
        return MH_OK;
    }
}

int mh__os_peek(int sock)
{
    unsigned char byte;
    int saved = errno;
    ssize_t got = recv(sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    errno = saved;
    return got == 1 ? byte : -1;
}

bool mh__os_is_hung_up(int sock)
{
    struct pollfd p = {.fd = sock, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLRDHUP | POLLNVAL);
}

mh_err mh__os_duplicate(int *out, int fd)
{
    *out = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return *out < 0 ? mh__fail_os(errno, "duplicating descriptor %d", fd) : MH_OK;
}

mh_err mh__os_poller_open(int *out)
{
    *out = epoll_create1(EPOLL_CLOEXEC);
    return *out < 0 ? mh__fail_os(errno, "epoll_create1") : MH_OK;
}

mh_err mh__os_poller_add(int poller, int fd, uint64_t tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        return mh__fail_os(errno, "adding descriptor %d to a poller", fd);
    return MH_OK;
}

void mh__os_poller_remove(int poller, int fd) { epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL); }

mh_err mh__os_poller_wait(int poller, uint64_t *tags, size_t capacity, size_t *count, mh_deadline until)
{
    struct epoll_event events[32];
    int most = (int)MH__MIN(capacity, MH__COUNT_OF(events));
    int64_t left = mh__os_left_ns(until);
    struct timespec ts = {.tv_sec = left / MH_SECOND, .tv_nsec = left % MH_SECOND};
    *count = 0;
    int rc = epoll_pwait2(poller, events, most, until == MH_FOREVER ? NULL : &ts, NULL);
    if (rc < 0)
        return errno == EINTR ? MH_ERR_INTERRUPTED : mh__fail_os(errno, "epoll_pwait2");
    for (int i = 0; i < rc; i++)
        tags[i] = events[i].data.u64;
    *count = (size_t)rc;
    return rc ? MH_OK : MH_ERR_TIMEOUT;
}

int mh__os_fd_count(void)
{
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return -1;
    int count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count - 3; /* ".", ".." and the directory's own descriptor */
}

static bool is_to_port(int sock, uint16_t port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un path;
        struct sockaddr_storage room;
    } own;
    socklen_t size = sizeof own;
    memset(&own, 0, sizeof own);
    if (getsockname(sock, &own.any, &size) < 0)
        return false;
    if (own.any.sa_family == AF_INET)
        return ntohs(own.v4.sin_port) == port;
    if (own.any.sa_family == AF_INET6)
        return ntohs(own.v6.sin6_port) == port;
    own.path.sun_path[sizeof own.path.sun_path - 1] = 0;
    const char *number = own.any.sa_family == AF_UNIX ? strrchr(own.path.sun_path, '-') : NULL;
    return number && strtoul(number + 1, NULL, 10) == port;
}

void mh__os_socket_cut(int sock, uint16_t port)
{
    if (is_to_port(sock, port))
        shutdown(sock, SHUT_RDWR);
}

size_t mh__os_fd_limit_raise(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 1024;
    if (limit.rlim_cur < limit.rlim_max) {
        struct rlimit raised = {limit.rlim_max, limit.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
            limit = raised;
    }
    return limit.rlim_cur > 1 << 20 ? 1 << 20 : (size_t)limit.rlim_cur;
}
