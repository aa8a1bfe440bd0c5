/* Unix sockets with a name: streams of bytes between processes of one user on one host. Nothing here waits. */
#ifndef MH_OS_UNIX_H
#define MH_OS_UNIX_H

#include "manyhands/base.h"

/* Listen under this path, mode 0600; a socket that was left there and that nobody listens at is replaced.
 * errors: TOO_LARGE the path is longer than addresses can be (107 bytes); EXISTS somebody listens there; SYSTEM. */
MH_NODISCARD mh_err mh__os_unix_listen(int *out, const char *path);
/* A connection that waits. errors: EMPTY none does; PERMISSION it was another user's, and is closed; LIMIT no descriptor is left; SYSTEM. */
MH_NODISCARD mh_err mh__os_unix_accept(int listener, int *out);
/* errors: NOT_FOUND nobody listens there; PERMISSION the listener is another user's; TOO_LARGE; SYSTEM. */
MH_NODISCARD mh_err mh__os_unix_connect(int *out, const char *path);

/* Read what is there, at most `capacity`. errors: EMPTY nothing; CLOSED the peer has ended or closed. */
MH_NODISCARD mh_err mh__os_unix_read(int fd, void *to, size_t capacity, size_t *count);
/* Write what there is room for. errors: FULL no room at all; CLOSED. */
MH_NODISCARD mh_err mh__os_unix_write(int fd, mh_bytes bytes, size_t *count);
/* The same with a descriptor, which the reader gets no later than the first byte. */
MH_NODISCARD mh_err mh__os_unix_write_fd(int fd, mh_bytes bytes, int passed, size_t *count);
/* Read what is there, and the descriptors that came with it: *fd_count of them, the caller's. errors: as mh__os_unix_read; TOO_LARGE more than
 * MH__OS_UNIX_FDS came at once (all are closed). */
enum { MH__OS_UNIX_FDS = 4 };
MH_NODISCARD mh_err mh__os_unix_read_fds(int fd, void *to, size_t capacity, size_t *count, int fds[MH__OS_UNIX_FDS], size_t *fd_count);

#endif
