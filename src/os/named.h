/* Segments with a name in /dev/shm. */
#ifndef MH_OS_NAMED_H
#define MH_OS_NAMED_H

#include "manyhands/base.h"

#define MH__OS_NAME_MAX 200

/* Which file it is, whatever its name. */
typedef struct mh__file_id {
    uint64_t device, number;
} mh__file_id;
mh_err mh__os_file_id(int fd, mh__file_id *id);
/* The file that has the name now. errors: INVALID, NOT_FOUND. */
mh_err mh__os_named_id(const char *name, mh__file_id *id);

/* OK when name has 1 to MH__OS_NAME_MAX characters, no slash, and is not "." or "..". errors: INVALID. */
mh_err mh__os_name_check(const char *name);

/* A file in /dev/shm that has no name yet: mode 0600, `size` bytes, pages allocated. It is gone when it is closed.
 * errors: NO_SPACE naming the size and what is free; PERMISSION, SYSTEM. */
mh_err mh__os_named_prepare(int *fd, size_t size);
/* Give it its name. errors: INVALID, EXISTS. */
mh_err mh__os_named_publish(int fd, const char *name);
/* Both. */
mh_err mh__os_named_create(int *fd, const char *name, size_t size);
/* Open a segment, allocating the pages that it may lack. Writable if permitted.
 * errors: INVALID the name; NOT_FOUND; PERMISSION it is a link, is no plain file, belongs to somebody else, or others may use it; NO_SPACE. */
mh_err mh__os_named_open(int *fd, const char *name);
/* Remove a name. errors: INVALID, NOT_FOUND, PERMISSION. */
mh_err mh__os_named_unlink(const char *name);
/* Remove the name only while it belongs to that file; says whether it did. async-signal-safe. */
bool mh__os_named_unlink_file(const char *name, mh__file_id id);
/* Call fn for every name in /dev/shm that begins with prefix and belongs to this user. */
void mh__os_named_each(const char *prefix, void (*fn)(const char *name, mh__file_id id, void *ctx), void *ctx);

/* Bytes free in the file system that holds /dev/shm; 0 when unknown, SIZE_MAX without a bound. */
size_t mh__os_shm_free_bytes(void);
/* posix_fallocate that a signal does not interrupt; returns 0 or an errno. */
int mh__os_fallocate(int fd, size_t offset, size_t size);

#endif
