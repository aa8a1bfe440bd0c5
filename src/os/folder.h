/* Folders, logs and locks: what programs that outlive a command keep on the disk. */
#ifndef MH_OS_FOLDER_H
#define MH_OS_FOLDER_H

#include "manyhands/base.h"

/* The names in a folder, sorted, but for those that begin with a dot. The caller frees them. errors: NOT_FOUND; PERMISSION; NO_MEMORY; SYSTEM. */
mh_err mh__os_folder_names(const char *path, char ***names, size_t *count);
void mh__os_names_free(char ***names, size_t count);
/* Remove a folder and all that is in it, following no link, at most 16 folders deep. errors: of the system; one that is not there is none. */
mh_err mh__os_folder_remove(const char *path);
/* Where this user's short-lived folders go: XDG_RUNTIME_DIR where it is this user's, else TMPDIR, else /tmp. owns: static or the environment's. */
const char *mh__os_runtime_folder(void);
/* A new folder of mode 0700: "<prefix><six random letters>", stored in `path`, which holds the prefix and has room for them. errors: of mkdtemp. */
mh_err mh__os_folder_unique(char *path, size_t capacity);

/* Open a file of mode 0600 to append to, made if it is not there; follows no link. errors: of open. */
mh_err mh__os_log_open(const char *path, int *fd);
/* Make stdout and stderr that file, and stdin nothing. */
mh_err mh__os_output_to(int fd);

/* Hold a name until `fd` is closed, by its end at the latest. errors: EXISTS somebody else does; of open. Remove the name with
 * mh__os_file_unlink, before closing it. */
mh_err mh__os_lock_take(const char *path, int *fd);

#endif
