/* Pages: sealed memfds, named segments in /dev/shm, mapping, and what room is left. */
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

/* Create (exclusively, mode 0600, pages allocated), open or remove /dev/shm/<name> (no slash in name).
 * errors: EXISTS, NOT_FOUND, PERMISSION, NO_SPACE (the name is removed again). */
mh_err mh__os_named_create(int *fd, const char *name, size_t size);
mh_err mh__os_named_open(int *fd, const char *name);
mh_err mh__os_named_unlink(const char *name);
/* Size of the file behind fd. */
mh_err mh__os_fd_size(int fd, size_t *size);
/* Bytes free in the file system that holds /dev/shm; 0 when unknown. */
size_t mh__os_shm_free_bytes(void);
/* Random bytes from the kernel. */
mh_err mh__os_random(void *out, size_t size);

/* Map [offset, offset + size) of fd shared (readable, and writable if asked); fd -1 maps fresh anonymous shared memory. */
mh_err mh__os_map(void **out, int fd, size_t offset, size_t size, bool writable);
/* As above with a private copy-on-write view. */
mh_err mh__os_map_private(void **out, int fd, size_t offset, size_t size);
void mh__os_unmap(void *at, size_t size);

#endif
