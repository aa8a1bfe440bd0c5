/* Descriptors: opening (always close-on-exec), closing, waiting, and passing them over a socket. */
#ifndef MH_OS_FD_H
#define MH_OS_FD_H

#include "manyhands/base.h"

/* Close *fd unless it is -1, and store -1. Keeps errno. */
void mh__os_close(int *fd);
/* Set or clear close-on-exec. */
mh_err mh__os_set_inherit(int fd, bool inherit);
/* A connected pair of unix sockets keeping message boundaries (SEQPACKET). */
mh_err mh__os_socketpair(int fds[2]);
/* The same as a stream of bytes. */
mh_err mh__os_socketpair_stream(int fds[2]);
/* An eventfd with value 0, non-blocking. */
mh_err mh__os_eventfd(int *out);
/* Add 1 to an eventfd, waking who polls it; async-signal-safe. */
void mh__os_eventfd_set(int fd);
/* Take an eventfd back to 0. */
void mh__os_eventfd_clear(int fd);

/* Send one message with up to MH__OS_FDS_MAX descriptors. errors: CLOSED the peer is gone; TIMEOUT; INTERRUPTED. */
#define MH__OS_FDS_MAX 16
mh_err mh__os_send(int sock, mh_bytes message, const int *fds, size_t fd_count, mh_deadline until);
/* Receive one message into buffer[capacity]; *size is its size; received descriptors (close-on-exec) go to
 * fds[*fd_count], which holds MH__OS_FDS_MAX and belong to the caller.
 * errors: CLOSED end of file; TOO_LARGE the message was cut (its descriptors are closed); TIMEOUT; INTERRUPTED. */
mh_err mh__os_receive(int sock, void *buffer, size_t capacity, size_t *size, int *fds, size_t *fd_count,
                      mh_deadline until);

/* Wait until fd is readable (or writable). errors: TIMEOUT, INTERRUPTED. A hung-up descriptor counts as ready. */
mh_err mh__os_wait_readable(int fd, mh_deadline until);
mh_err mh__os_wait_writable(int fd, mh_deadline until);

/* The next byte to be received, which stays there; -1 when there is none. */
int mh__os_peek(int sock);
/* Whether nobody has the other end of this socket any more; one cheap system call. */
bool mh__os_is_hung_up(int sock);
/* End the traffic of an accepted connection, whose owner then finds it closed. Nothing happens unless it is one to this port (or to a path that ends
 * in "-port"), so that a descriptor that was closed and used again meanwhile keeps what it has now. */
void mh__os_socket_cut(int sock, uint16_t port);
/* Let this process have as many descriptors as its hard limit allows; how many that is. */
size_t mh__os_fd_limit_raise(void);
/* Another descriptor (close-on-exec) of the same thing. */
mh_err mh__os_duplicate(int *out, int fd);

/* Wait until any of up to 8 descriptors is readable or hung up; bit i of *ready stands for fds[i]. errors: TIMEOUT; INTERRUPTED a
 * signal handler ran (an ignored signal does not end it, as it does end a poller's wait). */
mh_err mh__os_wait_any(const int *fds, size_t count, mh_deadline until, unsigned *ready);

/* A set of descriptors to wait on, each with a number of the caller's. */
mh_err mh__os_poller_open(int *out);
mh_err mh__os_poller_add(int poller, int fd, uint64_t tag);
void mh__os_poller_remove(int poller, int fd);
/* Wait for up to `capacity` readable descriptors; *count tags stored. errors: TIMEOUT (*count 0), INTERRUPTED. */
mh_err mh__os_poller_wait(int poller, uint64_t *tags, size_t capacity, size_t *count, mh_deadline until);

/* How many descriptors this process has open (for leak tests), or -1. */
int mh__os_fd_count(void);

#endif
