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

#endif
