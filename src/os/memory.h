/* Pages: sealed memfds, mapping, and what room is left. (Segments with a name: os/named.h.) */
#ifndef MH_OS_MEMORY_H
#define MH_OS_MEMORY_H

#include "manyhands/base.h"

size_t mh__os_page_size(void);

/* A memfd of `size` bytes whose pages are all allocated (no SIGBUS later), sealed against resizing.
 * errors: NO_SPACE naming the size and what is free; SYSTEM. owns: the caller closes *fd. */
mh_err mh__os_memfd(int *fd, const char *label, size_t size);
/* A memfd of `size` bytes sealed against resizing, with no page allocated: each range must be passed to
 * mh__os_allocate_range before it is touched. */
mh_err mh__os_memfd_sparse(int *fd, const char *label, size_t size);
/* Allocate, or give back, the pages under [offset, offset + size). errors: NO_SPACE. */
mh_err mh__os_allocate_range(int fd, size_t offset, size_t size);
void mh__os_release_range(int fd, size_t offset, size_t size);

/* Size of the file behind fd. */
mh_err mh__os_fd_size(int fd, size_t *size);
/* Random bytes from the kernel. */
mh_err mh__os_random(void *out, size_t size);

/* Map [offset, offset + size) of fd shared (readable, and writable if asked); fd -1 maps fresh anonymous shared memory. */
mh_err mh__os_map(void **out, int fd, size_t offset, size_t size, bool writable);
/* As above with a private copy-on-write view. */
mh_err mh__os_map_private(void **out, int fd, size_t offset, size_t size);
void mh__os_unmap(void *at, size_t size);
/* Map the allocated pages under [at, at + size) now, writable, in one call; only a hint. */
void mh__os_populate(void *at, size_t size);
/* Size of the memfd behind fd, once it is certain that nobody can make it shorter.
 * errors: INVALID no memfd, or not sealed against shrinking; SYSTEM. */
mh_err mh__os_fd_sealed(int fd, size_t *size);
/* A memfd with these bytes, which nobody can change any more. errors: NO_SPACE; SYSTEM. owns: the caller closes *fd. */
mh_err mh__os_memfd_frozen(int *fd, const char *label, mh_bytes bytes);
/* Size of the memfd behind fd, once it is certain that it is like that, and that every page of it is allocated. errors: INVALID it is not; SYSTEM. */
mh_err mh__os_fd_frozen(int fd, size_t *size);
/* Whether every page of the file behind fd is allocated. */
bool mh__os_fd_is_solid(int fd);
/* RLIMIT_AS in bytes, or 0 when there is no limit. */
size_t mh__os_address_limit(void);

#endif
