#include "os/unix.h"

#include "base/error.h"
#include "os/fd.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024, BUFFER_BYTES = 4 << 20 };

static mh_err make_address(const char *path, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof out->sun_path)
        return mh__fail(MH_ERR_TOO_LARGE, "\"%s\" is too long for the name of a socket", path);
    strcpy(out->sun_path, path);
    return MH_OK;
}

static mh_err make_socket(int *out)
{
    int size = BUFFER_BYTES; /* the kernel cuts it to its limit */
    *out = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*out < 0)
        return mh__fail_os(errno, "a unix socket");
    (void)!setsockopt(*out, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return MH_OK;
}

static mh_err check_peer(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return mh__fail_os(errno, "a unix socket's peer");
    return peer.uid == geteuid() || peer.uid == 0 ? MH_OK : mh__fail(MH_ERR_PERMISSION, "a unix socket's peer is user %u", (unsigned)peer.uid);
}

static bool is_anybody_there(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool is_there = fd >= 0 && (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EAGAIN);
    mh__os_close(&fd);
    return is_there;
}

/* A name made under a mask that others can't change meanwhile would be made for all threads; so the folder is private, and the mode is set before anybody can
 * connect: listen comes last. */
static mh_err bind_private(int fd, const struct sockaddr_un *address)
{
    if (bind(fd, (const struct sockaddr *)address, sizeof *address) < 0) {
        if (errno != EADDRINUSE)
            return mh__fail_os(errno, "a socket at \"%s\"", address->sun_path);
        if (is_anybody_there(address))
            return mh__fail(MH_ERR_EXISTS, "somebody listens at \"%s\"", address->sun_path);
        struct stat st;
        if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
            return mh__fail(MH_ERR_EXISTS, "\"%s\" is there and is no socket", address->sun_path);
        unlink(address->sun_path);
        if (bind(fd, (const struct sockaddr *)address, sizeof *address) < 0)
            return mh__fail_os(errno, "a socket at \"%s\"", address->sun_path);
    }
    if (chmod(address->sun_path, 0600) < 0 || listen(fd, BACKLOG) < 0)
        return mh__fail_os(errno, "listening at \"%s\"", address->sun_path);
    return MH_OK;
}

mh_err mh__os_unix_listen(int *out, const char *path)
{
    struct sockaddr_un address;
    mh_err err = make_address(path, &address);
    *out = -1;
    if (!err)
        err = make_socket(out);
    if (!err)
        err = bind_private(*out, &address);
    if (err)
        mh__os_close(out);
    return err;
}

mh_err mh__os_unix_accept(int listener, int *out)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), size = BUFFER_BYTES;
    if (fd < 0) {
        if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
            return MH_ERR_EMPTY;
        return errno == EMFILE || errno == ENFILE ? mh__fail(MH_ERR_LIMIT, "too many descriptors are open") : mh__fail_os(errno, "accept");
    }
    mh_err err = check_peer(fd);
    if (err) {
        mh__os_close(&fd);
        return err;
    }
    (void)!setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    *out = fd;
    return MH_OK;
}

mh_err mh__os_unix_connect(int *out, const char *path)
{
    struct sockaddr_un address;
    mh_err err = make_address(path, &address);
    *out = -1;
    if (!err)
        err = make_socket(out);
    if (!err && connect(*out, (const struct sockaddr *)&address, sizeof address) < 0)
        err = errno == ECONNREFUSED || errno == EAGAIN ? mh__fail(MH_ERR_NOT_FOUND, "nobody listens at \"%s\"", path) : mh__fail_os(errno, "\"%s\"", path);
    if (!err)
        err = check_peer(*out);
    if (err)
        mh__os_close(out);
    return err;
}

mh_err mh__os_unix_read(int fd, void *to, size_t capacity, size_t *count)
{
    ssize_t n;
    do
        n = recv(fd, to, capacity, 0);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        *count = (size_t)n;
        return MH_OK;
    }
    return n < 0 && errno == EAGAIN ? MH_ERR_EMPTY : MH_ERR_CLOSED;
}

mh_err mh__os_unix_write(int fd, mh_bytes bytes, size_t *count)
{
    ssize_t n;
    do
        n = send(fd, bytes.data, bytes.size, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0) {
        *count = (size_t)n;
        return MH_OK;
    }
    return errno == EAGAIN ? MH_ERR_FULL : MH_ERR_CLOSED;
}

/* ---- with descriptors ------------------------------------------------------------------------ */

mh_err mh__os_unix_write_fd(int fd, mh_bytes bytes, int passed, size_t *count)
{
    struct iovec part = {(void *)(uintptr_t)bytes.data, bytes.size};
    union {
        struct cmsghdr head; /* aligns */
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &passed, sizeof passed);
    ssize_t n;
    do
        n = sendmsg(fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0) {
        *count = (size_t)n;
        return MH_OK;
    }
    return errno == EAGAIN || errno == ETOOMANYREFS || errno == ENOBUFS ? MH_ERR_FULL : MH_ERR_CLOSED;
}

static size_t take_fds(struct msghdr *m, int fds[MH__OS_UNIX_FDS])
{
    size_t count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds + count, CMSG_DATA(c), here * sizeof(int)); /* the room for control data bounds the sum */
        count += here;
    }
    return count;
}

mh_err mh__os_unix_read_fds(int fd, void *to, size_t capacity, size_t *count, int fds[MH__OS_UNIX_FDS], size_t *fd_count)
{
    struct iovec part = {to, capacity};
    union {
        struct cmsghdr head; /* aligns */
        char room[CMSG_SPACE(MH__OS_UNIX_FDS * sizeof(int))];
    } control;
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    ssize_t n;
    *fd_count = 0;
    do
        n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? MH_ERR_EMPTY : MH_ERR_CLOSED;
    *fd_count = take_fds(&m, fds);
    if (m.msg_flags & MSG_CTRUNC) {
        for (size_t i = 0; i < *fd_count; i++)
            mh__os_close(&fds[i]);
        *fd_count = 0;
        return mh__fail(MH_ERR_TOO_LARGE, "too many descriptors came with a message, or too many are open");
    }
    if (!n) {
        for (size_t i = 0; i < *fd_count; i++)
            mh__os_close(&fds[i]);
        *fd_count = 0;
        return MH_ERR_CLOSED;
    }
    *count = (size_t)n;
    return MH_OK;
}
