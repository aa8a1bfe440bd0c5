#include "os/folder.h"

#include "base/error.h"
#include "base/memory.h"
#include "os/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 16, UNIQUE_LETTERS = 6 };

/* ---- names ----------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static mh_err add_name(char ***names, size_t *count, size_t *room, const char *name)
{
    if (*count == *room) {
        size_t more = *room ? 2 * *room : 16;
        char **grown = mh__realloc(*names, more * sizeof *grown);
        if (!grown)
            return MH_ERR_NO_MEMORY;
        *names = grown;
        *room = more;
    }
    char *copy = mh__strdup(name);
    if (!copy)
        return MH_ERR_NO_MEMORY;
    (*names)[(*count)++] = copy;
    return MH_OK;
}

mh_err mh__os_folder_names(const char *path, char ***names, size_t *count)
{
    size_t room = 0;
    mh_err err = MH_OK;
    *names = NULL;
    *count = 0;
    DIR *folder = opendir(path);
    if (!folder)
        return mh__fail_os(errno, "opening the folder %s", path);
    for (struct dirent *entry; !err && (entry = readdir(folder));)
        if (entry->d_name[0] != '.')
            err = add_name(names, count, &room, entry->d_name);
    closedir(folder);
    if (err) {
        mh__os_names_free(names, *count);
        *count = 0; /* callers free what they were given, also after an error */
    } else if (*count)
        qsort(*names, *count, sizeof **names, by_text);
    return err;
}

void mh__os_names_free(char ***names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mh__free((*names)[i]);
    mh__free(*names);
    *names = NULL;
}

/* ---- removing -------------------------------------------------------------------------------- */

/* Takes `fd`. */
static mh_err empty_folder(int fd, const char *what, int depth)
{
    mh_err err = MH_OK;
    DIR *folder = fdopendir(fd);
    if (!folder) {
        err = mh__fail_os(errno, "opening %s", what);
        close(fd);
        return err;
    }
    for (struct dirent *entry; !err && (entry = readdir(folder));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT)
            continue;
        int inner = depth < DEPTH_MAX ? openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        err = inner < 0 ? mh__fail_os(errno, "removing %s/%s", what, entry->d_name) : empty_folder(inner, entry->d_name, depth + 1);
        if (!err && unlinkat(fd, entry->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
            err = mh__fail_os(errno, "removing %s/%s", what, entry->d_name);
    }
    closedir(folder);
    return err;
}

mh_err mh__os_folder_remove(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? MH_OK : mh__fail_os(errno, "opening the folder %s", path);
    mh_err err = empty_folder(fd, path, 0);
    return !err && rmdir(path) < 0 && errno != ENOENT ? mh__fail_os(errno, "removing %s", path) : err;
}

/* ---- short-lived folders --------------------------------------------------------------------- */

static bool is_own_folder(const char *path)
{
    struct stat st;
    return path && *path == '/' && stat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 077) &&
           access(path, W_OK | X_OK) == 0;
}

const char *mh__os_runtime_folder(void)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR"), *temporary = getenv("TMPDIR");
    if (is_own_folder(runtime))
        return runtime;
    return temporary && *temporary == '/' ? temporary : "/tmp";
}

mh_err mh__os_folder_unique(char *path, size_t capacity)
{
    size_t size = strlen(path);
    if (size + UNIQUE_LETTERS >= capacity)
        return mh__fail(MH_ERR_INVALID, "the path %s is too long", path);
    strcpy(path + size, "XXXXXX");
    return mkdtemp(path) ? MH_OK : mh__fail_os(errno, "making a folder %s", path);
}

/* ---- logs and locks -------------------------------------------------------------------------- */

mh_err mh__os_log_open(const char *path, int *fd)
{
    *fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    return *fd < 0 ? mh__fail_os(errno, "opening the log %s", path) : MH_OK;
}

mh_err mh__os_output_to(int fd)
{
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    fflush(NULL);
    if (nothing < 0 || dup2(nothing, STDIN_FILENO) < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0) {
        mh_err err = mh__fail_os(errno, "redirecting output");
        mh__os_close(&nothing);
        return err;
    }
    mh__os_close(&nothing);
    return MH_OK;
}

/* Whether the file that was locked still has the name: its last holder may have removed it meanwhile. */
static bool is_named(int fd, const char *path)
{
    struct stat locked, named;
    return fstat(fd, &locked) == 0 && lstat(path, &named) == 0 && locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
}

mh_err mh__os_lock_take(const char *path, int *fd)
{
    for (;;) {
        *fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (*fd < 0)
            return mh__fail_os(errno, "opening the lock %s", path);
        if (flock(*fd, LOCK_EX | LOCK_NB) < 0) {
            mh_err err = errno == EWOULDBLOCK ? mh__fail(MH_ERR_EXISTS, "%s is held by a running process", path) : mh__fail_os(errno, "locking %s", path);
            mh__os_close(fd);
            return err;
        }
        if (is_named(*fd, path))
            return MH_OK;
        mh__os_close(fd);
    }
}
