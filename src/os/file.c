#include "os/file.h"

#include "base/error.h"
#include "os/fd.h"
#include "os/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool mh__os_path_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static mh_err make_one(const char *path)
{
    struct stat st;
    if (mkdir(path, 0700) == 0 || (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
        return MH_OK;
    return errno == EEXIST ? mh__fail(MH_ERR_INVALID, "%s is no folder", path) : mh__fail_os(errno, "making the folder %s", path);
}

mh_err mh__os_folder_make(const char *path)
{
    char part[PATH_MAX];
    size_t size = strlen(path);
    if (size == 0 || size >= sizeof part)
        return mh__fail(MH_ERR_INVALID, "a path of %zu bytes", size);
    for (size_t at = 1; at <= size; at++) {
        if (path[at] != '/' && path[at] != 0)
            continue;
        memcpy(part, path, at);
        part[at] = 0;
        mh_err err = make_one(part);
        if (err)
            return err;
    }
    return MH_OK;
}

static mh_err write_all(int fd, mh_bytes content)
{
    const char *at = content.data;
    for (size_t left = content.size; left > 0;) {
        ssize_t done = write(fd, at, left);
        if (done < 0 && errno != EINTR)
            return mh__fail_os(errno, "writing");
        if (done > 0) {
            at += done;
            left -= (size_t)done;
        }
    }
    return fsync(fd) < 0 ? mh__fail_os(errno, "fsync") : MH_OK;
}

/* A new name in a folder is safe once the folder is. */
static mh_err sync_folder_of(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t size = slash ? (size_t)(slash - path) : 0;
    memcpy(folder, slash ? path : ".", slash ? size : 1);
    folder[slash ? size : 1] = 0;
    int fd = open(*folder ? folder : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return mh__fail_os(errno, "opening the folder of %s", path);
    mh_err err = fsync(fd) < 0 && errno != EINVAL ? mh__fail_os(errno, "fsync of the folder of %s", path) : MH_OK;
    mh__os_close(&fd);
    return err;
}

mh_err mh__os_file_write_private(const char *path, mh_bytes content)
{
    char temporary[PATH_MAX];
    uint64_t number;
    mh_err err = mh__os_random(&number, sizeof number);
    if (err)
        return err;
    if (snprintf(temporary, sizeof temporary, "%s.%016llx", path, (unsigned long long)number) >= (int)sizeof temporary)
        return mh__fail(MH_ERR_INVALID, "a path of %zu bytes", strlen(path));
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return mh__fail_os(errno, "creating %s", temporary);
    err = write_all(fd, content);
    mh__os_close(&fd);
    if (!err && rename(temporary, path) < 0)
        err = mh__fail_os(errno, "renaming to %s", path);
    if (err) {
        unlink(temporary);
        return err;
    }
    return sync_folder_of(path);
}

static mh_err check_file(int fd, const char *path, unsigned forbidden, size_t size_max, size_t *size)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return mh__fail_os(errno, "fstat");
    if (!S_ISREG(st.st_mode))
        return mh__fail(MH_ERR_PERMISSION, "%s is no plain file", path);
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return mh__fail(MH_ERR_PERMISSION, "%s belongs to user %u", path, (unsigned)st.st_uid);
    if (st.st_mode & forbidden)
        return mh__fail(MH_ERR_PERMISSION, "%s has mode %03o: others may %s", path, (unsigned)st.st_mode & 0777,
                        forbidden & 044 ? "use it; chmod 600 it, and change its key" : "write it; chmod 644 it");
    if ((uint64_t)st.st_size > size_max)
        return mh__fail(MH_ERR_TOO_LARGE, "%s has %lld bytes; at most %zu are expected", path, (long long)st.st_size, size_max);
    *size = (size_t)st.st_size;
    return MH_OK;
}

static mh_err read_all(int fd, const char *path, mh_buf *buf)
{
    char *at = mh_buf_data(buf);
    size_t size = mh_buf_size(buf), have = 0;
    while (have < size) {
        ssize_t got = read(fd, at + have, size - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return mh__fail_os(errno, "reading %s", path);
        if (got == 0)
            break;
        have += (size_t)got;
    }
    return mh_buf_resize(buf, have);
}

static mh_err read_file(mh_buf **out, const char *path, unsigned forbidden, size_t size_max)
{
    size_t size = 0;
    *out = NULL;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK); /* not blocking: it may be a pipe */
    if (fd < 0)
        return errno == ELOOP ? mh__fail(MH_ERR_PERMISSION, "%s is a link", path) : mh__fail_os(errno, "opening %s", path);
    mh_err err = check_file(fd, path, forbidden, size_max, &size);
    if (!err)
        err = mh_buf_create(out, size);
    if (!err)
        err = read_all(fd, path, *out);
    if (err)
        mh_buf_destroy(out);
    mh__os_close(&fd);
    return err;
}

mh_err mh__os_file_read_private(mh_buf **out, const char *path, size_t size_max) { return read_file(out, path, 077, size_max); }
mh_err mh__os_file_read_own(mh_buf **out, const char *path, size_t size_max) { return read_file(out, path, 002, size_max); }

mh_err mh__os_file_claim_private(const char *path, bool *is_new)
{
    size_t size;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    *is_new = fd >= 0;
    if (fd < 0 && errno == EEXIST)
        fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ELOOP ? mh__fail(MH_ERR_PERMISSION, "%s is a link", path) : mh__fail_os(errno, "opening %s", path);
    mh_err err = check_file(fd, path, 077, SIZE_MAX, &size);
    mh__os_close(&fd);
    return err;
}

mh_err mh__os_file_open_to_sync(int *out, const char *path)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return mh__fail_os(errno, "opening %s", path);
    *out = fd;
    return MH_OK;
}

mh_err mh__os_file_open_to_change(int *out, const char *path)
{
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return mh__fail_os(errno, "opening %s", path);
    *out = fd;
    return MH_OK;
}

mh_err mh__os_file_read_at(int fd, uint64_t offset, void *to, size_t capacity, size_t *size)
{
    *size = 0;
    while (*size < capacity) {
        ssize_t n = pread(fd, (char *)to + *size, capacity - *size, (off_t)(offset + *size));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mh__fail_os(errno, "reading a file");
        if (n == 0)
            break;
        *size += (size_t)n;
    }
    return MH_OK;
}

mh_err mh__os_file_write_at(int fd, uint64_t offset, mh_bytes bytes)
{
    for (size_t done = 0; done < bytes.size;) {
        ssize_t n = pwrite(fd, (const char *)bytes.data + done, bytes.size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mh__fail_os(errno, "writing a file");
        done += (size_t)n;
    }
    return MH_OK;
}

mh_err mh__os_file_sync(int fd) { return fdatasync(fd) < 0 ? mh__fail_os(errno, "fdatasync") : MH_OK; }

mh_err mh__os_file_rename(const char *from, const char *to)
{
    return rename(from, to) < 0 ? mh__fail_os(errno, "renaming %s to %s", from, to) : MH_OK;
}

mh_err mh__os_file_unlink(const char *path)
{
    return unlink(path) < 0 && errno != ENOENT ? mh__fail_os(errno, "removing %s", path) : MH_OK;
}

void mh__os_host_name(char *out, size_t capacity)
{
    if (gethostname(out, capacity) < 0)
        snprintf(out, capacity, "localhost");
    out[capacity - 1] = 0;
}

void mh__os_umask_private(void) { umask(077); }

mh_err mh__os_path_make_absolute(char *path, size_t capacity)
{
    char here[PATH_MAX];
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/')
        path[--size] = 0;
    if (*path == '/')
        return MH_OK;
    if (!getcwd(here, sizeof here))
        return mh__fail_os(errno, "the working folder");
    size_t before = strlen(here) + 1;
    if (before + size >= capacity)
        return mh__fail(MH_ERR_INVALID, "the path %s is too long", path);
    memmove(path + before, path, size + 1);
    memcpy(path, here, before - 1);
    path[before - 1] = '/';
    return MH_OK;
}

mh_err mh__os_program_path(char *out, size_t capacity)
{
    ssize_t size = readlink("/proc/self/exe", out, capacity);
    if (size < 0)
        return mh__fail_os(errno, "the program's own path");
    if ((size_t)size == capacity)
        return mh__fail(MH_ERR_TOO_LARGE, "the program's own path");
    out[size] = 0;
    return MH_OK;
}

mh_err mh__os_path_beside_program(const char *name, char *out, size_t capacity)
{
    mh_err err = mh__os_program_path(out, capacity);
    if (err)
        return err;
    char *slash = strrchr(out, '/');
    size_t folder = slash ? (size_t)(slash - out) + 1 : 0;
    if (folder + strlen(name) >= capacity)
        return mh__fail(MH_ERR_TOO_LARGE, "the path of \"%s\" beside the program", name);
    strcpy(out + folder, name);
    return MH_OK;
}
