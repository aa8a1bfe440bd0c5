/* Small private files: written whole or not at all, and read only when nobody else could have written them. */
#ifndef MH_OS_FILE_H
#define MH_OS_FILE_H

#include "manyhands/base.h"

bool mh__os_path_exists(const char *path);
/* Make a folder and those above it that are missing, each with mode 0700. errors: of mkdir; INVALID the path is too long, or
 * something else has the name. */
mh_err mh__os_folder_make(const char *path);
/* Write a file of mode 0600 under a temporary name, bring it to the disk and give it its name, replacing what had it. The
 * temporary name is exclusive and follows no link. errors: of the system; no file is left behind. */
mh_err mh__os_file_write_private(const char *path, mh_bytes content);
/* Read a whole file of at most `size_max` bytes. errors: NOT_FOUND; TOO_LARGE; PERMISSION it is a link, no plain file, belongs to
 * neither this user nor root, or its mode lets others read or write it. */
mh_err mh__os_file_read_private(mh_buf **out, const char *path, size_t size_max);
/* The same for a file that holds no secret, in a folder that is private: its group may write it, and others read it. */
mh_err mh__os_file_read_own(mh_buf **out, const char *path, size_t size_max);
/* The path of the running program. errors: TOO_LARGE it does not fit; those of readlink. */
mh_err mh__os_program_path(char *out, size_t capacity);
/* Make sure that a file which others will open by its name is private: create it empty with mode 0600, or check the one that is there.
 * *is_new tells which. errors: PERMISSION as above; of the system. */
mh_err mh__os_file_claim_private(const char *path, bool *is_new);
/* A descriptor for mh__os_file_sync alone. */
mh_err mh__os_file_open_to_sync(int *out, const char *path);
/* One to read and write the file with, which is there. Follows no link. */
mh_err mh__os_file_open_to_change(int *out, const char *path);
/* Bytes at an offset; *size is how many there were. */
mh_err mh__os_file_read_at(int fd, uint64_t offset, void *to, size_t capacity, size_t *size);
/* errors: of the system; some of them may be written then. */
mh_err mh__os_file_write_at(int fd, uint64_t offset, mh_bytes bytes);
/* Bring what was written to this file to the disk. errors: of fdatasync, after which nothing that it held can be relied on. */
mh_err mh__os_file_sync(int fd);
/* Give a file another name, replacing what has it. errors: NOT_FOUND; of the system. */
mh_err mh__os_file_rename(const char *from, const char *to);
/* "<folder of the running program>/<name>". errors: TOO_LARGE it does not fit; those of readlink. */
mh_err mh__os_path_beside_program(const char *name, char *out, size_t capacity);
/* Put the working folder before a path that is not absolute, and take a slash off its end. errors: INVALID it does not fit. */
mh_err mh__os_path_make_absolute(char *path, size_t capacity);
/* Remove a name; one that is not there is no error. */
mh_err mh__os_file_unlink(const char *path);

/* This host's name, cut to fit. */
void mh__os_host_name(char *out, size_t capacity);
/* New files are the owner's only, from now on. */
void mh__os_umask_private(void);

#endif
