#include "os/named.h"

#include "base/error.h"
#include "os/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FOLDER "/dev/shm"

typedef struct path {
    char text[sizeof FOLDER + 1 + MH__OS_NAME_MAX];
} path;

static path path_of(const char *name)
{
    path p;
    snprintf(p.text, sizeof p.text, "%s/%s", FOLDER, name);
    return p;
}

mh_err mh__os_name_check(const char *name)
{
    size_t size = strlen(name);
    if (size < 1 || size > MH__OS_NAME_MAX || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
        return mh__fail(MH_ERR_INVALID, "shared memory name \"%.60s\": 1 to %d characters without a slash", name,
                        MH__OS_NAME_MAX);
    return MH_OK;
}

size_t mh__os_shm_free_bytes(void)
{
    struct statvfs fs;
    if (statvfs(FOLDER, &fs) < 0)
        return 0;
    return fs.f_blocks ? (size_t)fs.f_bavail * fs.f_frsize : SIZE_MAX; /* a tmpfs without a bound says 0 of 0 */
}

/* by hand, because a signal that keeps coming (a profiler's timer) must not fail it */
int mh__os_fallocate(int fd, size_t offset, size_t size)
{
    int rc;
    do
        rc = posix_fallocate(fd, (off_t)offset, (off_t)size);
    while (rc == EINTR);
    return rc;
}

static mh_err size_error(int rc, size_t size)
{
    if (rc == ENOSPC || rc == ENOMEM || rc == EFBIG)
        return mh__fail(MH_ERR_NO_SPACE, "no room for %zu bytes in " FOLDER ": %zu bytes are free", size,
                        mh__os_shm_free_bytes());
    return mh__fail_os(rc, "sizing a segment in " FOLDER " to %zu bytes", size);
}

mh_err mh__os_file_id(int fd, mh__file_id *id)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return mh__fail_os(errno, "fstat");
    *id = (mh__file_id){st.st_dev, st.st_ino};
    return MH_OK;
}

mh_err mh__os_named_prepare(int *out, size_t size)
{
    *out = -1;
    if (size > (size_t)INT64_MAX)
        return size_error(EFBIG, size);
    int fd = open(FOLDER, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && errno == ENOSPC)
        return size_error(errno, size);
    if (fd < 0)
        return mh__fail_os(errno, "creating a segment of %zu bytes in " FOLDER, size);
    /* posix_fallocate first fills what is free and then fails: ask before */
    int rc = size > mh__os_shm_free_bytes() ? ENOSPC : 0;
    if (!rc && (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t)size) < 0)) /* the umask may have taken bits away */
        rc = errno;
    if (!rc && size)
        rc = mh__os_fallocate(fd, 0, size);
    if (rc) {
        mh__os_close(&fd);
        return size_error(rc, size);
    }
    *out = fd;
    return MH_OK;
}

mh_err mh__os_named_publish(int fd, const char *name)
{
    mh_err err = mh__os_name_check(name);
    if (err)
        return err;
    path to = path_of(name);
    char from[32];
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, from, AT_FDCWD, to.text, AT_SYMLINK_FOLLOW) < 0)
        return mh__fail_os(errno, "creating %s", to.text);
    return MH_OK;
}

mh_err mh__os_named_create(int *fd, const char *name, size_t size)
{
    *fd = -1;
    mh_err err = mh__os_name_check(name);
    if (!err)
        err = mh__os_named_prepare(fd, size);
    if (!err)
        err = mh__os_named_publish(*fd, name);
    if (err)
        mh__os_close(fd);
    return err;
}

/* Who else could have written it, or could still? */
static mh_err check_file(int fd, const char *name)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return mh__fail_os(errno, "fstat");
    if (!S_ISREG(st.st_mode))
        return mh__fail(MH_ERR_PERMISSION, "%.60s is not a plain file", name);
    if (st.st_uid != geteuid())
        return mh__fail(MH_ERR_PERMISSION, "%.60s belongs to user %u", name, (unsigned)st.st_uid);
    if (st.st_mode & 077)
        return mh__fail(MH_ERR_PERMISSION, "%.60s has mode %o: others may use it", name, (unsigned)st.st_mode & 07777);
    /* a page that is missing would raise SIGBUS when it is touched and the file system is full */
    if ((uint64_t)st.st_blocks * 512 < (uint64_t)st.st_size) {
        int rc = mh__os_fallocate(fd, 0, (size_t)st.st_size);
        if (rc)
            return size_error(rc, (size_t)st.st_size);
    }
    return MH_OK;
}

mh_err mh__os_named_open(int *out, const char *name)
{
    *out = -1;
    mh_err err = mh__os_name_check(name);
    if (err)
        return err;
    path at = path_of(name);
    int flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY; /* a pipe of that name must not block us */
    int fd = open(at.text, O_RDWR | flags);
    if (fd < 0 && (errno == EACCES || errno == EROFS))
        fd = open(at.text, O_RDONLY | flags);
    if (fd < 0)
        return errno == ELOOP ? mh__fail(MH_ERR_PERMISSION, "%s is a symbolic link", at.text)
                              : mh__fail_os(errno, "opening %s", at.text);
    err = check_file(fd, name);
    if (err)
        mh__os_close(&fd);
    *out = fd;
    return err;
}

mh_err mh__os_named_id(const char *name, mh__file_id *id)
{
    struct stat st;
    mh_err err = mh__os_name_check(name);
    if (err)
        return err;
    path at = path_of(name);
    if (lstat(at.text, &st) < 0)
        return mh__fail_os(errno, "looking for %s", at.text);
    *id = (mh__file_id){st.st_dev, st.st_ino};
    return MH_OK;
}

mh_err mh__os_named_unlink(const char *name)
{
    mh_err err = mh__os_name_check(name);
    if (err)
        return err;
    path at = path_of(name);
    return unlink(at.text) < 0 ? mh__fail_os(errno, "removing %s", at.text) : MH_OK;
}

/* Written without snprintf: the janitor calls it in a process that was forked beside running threads. */
bool mh__os_named_unlink_file(const char *name, mh__file_id id)
{
    struct stat st;
    path at;
    size_t size = strlen(name);
    if (size > MH__OS_NAME_MAX)
        return false;
    memcpy(at.text, FOLDER "/", sizeof FOLDER);
    memcpy(at.text + sizeof FOLDER, name, size + 1);
    return lstat(at.text, &st) == 0 && st.st_dev == id.device && st.st_ino == id.number && unlink(at.text) == 0;
}

void mh__os_named_each(const char *prefix, void (*fn)(const char *name, mh__file_id id, void *ctx), void *ctx)
{
    struct stat st;
    DIR *dir = opendir(FOLDER);
    if (!dir)
        return;
    for (struct dirent *e; (e = readdir(dir));)
        if (!strncmp(e->d_name, prefix, strlen(prefix)) && !mh__os_name_check(e->d_name) &&
            fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_uid == geteuid())
            fn(e->d_name, (mh__file_id){st.st_dev, st.st_ino}, ctx);
    closedir(dir);
}
