#include "os/memory.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "os/fd.h"

size_t mh__os_page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

size_t mh__os_shm_free_bytes(void)
{
    struct statvfs fs;
    return statvfs("/dev/shm", &fs) == 0 ? (size_t)fs.f_bavail * fs.f_frsize : 0;
}

/* memfds live on the kernel's own tmpfs: what limits them is memory, not the size of /dev/shm */
static size_t memory_free_bytes(void)
{
    long pages = sysconf(_SC_AVPHYS_PAGES);
    return pages > 0 ? (size_t)pages * mh__os_page_size() : 0;
}

static mh_err sparse(int *out, const char *label, size_t size)
{
    int fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    *out = -1;
    if (fd < 0)
        return mh__fail_os(errno, "memfd_create of %zu bytes", size);
    if (size > (size_t)INT64_MAX || ftruncate(fd, (off_t)size) < 0) {
        mh_err err = mh__fail_os(errno, "sizing a memfd to %zu bytes", size);
        mh__os_close(&fd);
        return err;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        mh_err err = mh__fail_os(errno, "sealing a memfd");
        mh__os_close(&fd);
        return err;
    }
    *out = fd;
    return MH_OK;
}

mh_err mh__os_memfd_sparse(int *fd, const char *label, size_t size) { return sparse(fd, label, size); }

mh_err mh__os_memfd(int *fd, const char *label, size_t size)
{
    mh_err err = sparse(fd, label, size);
    if (err || size == 0)
        return err;
    err = mh__os_allocate_range(*fd, 0, size);
    if (err)
        mh__os_close(fd);
    return err;
}

/* posix_fallocate restarts by hand: a signal that keeps coming (a profiler's timer) must not fail it */
static int allocate(int fd, size_t offset, size_t size)
{
    int rc;
    do
        rc = posix_fallocate(fd, (off_t)offset, (off_t)size);
    while (rc == EINTR);
    return rc;
}

mh_err mh__os_allocate_range(int fd, size_t offset, size_t size)
{
    int rc = allocate(fd, offset, size);
    if (rc == ENOSPC || rc == ENOMEM)
        return mh__fail(MH_ERR_NO_SPACE, "no room for %zu bytes of shared memory: %zu bytes of memory are free",
                        size, memory_free_bytes());
    return rc ? mh__fail_os(rc, "allocating %zu bytes of shared memory", size) : MH_OK;
}

void mh__os_release_range(int fd, size_t offset, size_t size)
{
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size);
}

static mh_err named_path(char path[256], const char *name)
{
    if (!*name || strchr(name, '/') || strlen(name) > 200)
        return mh__fail(MH_ERR_INVALID, "shared memory name \"%.60s\": 1 to 200 characters without a slash", name);
    snprintf(path, 256, "/dev/shm/%s", name);
    return MH_OK;
}

mh_err mh__os_named_create(int *fd, const char *name, size_t size)
{
    char path[256];
    *fd = -1;
    mh_err err = named_path(path, name);
    if (err)
        return err;
    int opened = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (opened < 0)
        return mh__fail_os(errno, "creating %s of %zu bytes", path, size);
    int rc = ftruncate(opened, (off_t)size) < 0 ? errno : size ? allocate(opened, 0, size) : 0;
    if (rc) {
        unlink(path);
        mh__os_close(&opened);
        if (rc == ENOSPC || rc == ENOMEM)
            return mh__fail(MH_ERR_NO_SPACE, "no room for %zu bytes in /dev/shm: %zu bytes are free", size,
                            mh__os_shm_free_bytes());
        return mh__fail_os(rc, "sizing %s to %zu bytes", path, size);
    }
    *fd = opened;
    return MH_OK;
}

mh_err mh__os_named_open(int *fd, const char *name)
{
    char path[256];
    *fd = -1;
    mh_err err = named_path(path, name);
    if (err)
        return err;
    *fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    return *fd < 0 ? mh__fail_os(errno, "opening %s", path) : MH_OK;
}

mh_err mh__os_named_unlink(const char *name)
{
    char path[256];
    mh_err err = named_path(path, name);
    if (err)
        return err;
    return unlink(path) < 0 ? mh__fail_os(errno, "removing %s", path) : MH_OK;
}

mh_err mh__os_fd_size(int fd, size_t *size)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return mh__fail_os(errno, "fstat");
    *size = (size_t)st.st_size;
    return MH_OK;
}

mh_err mh__os_random(void *out, size_t size)
{
    unsigned char *at = out;
    while (size) {
        ssize_t got = getrandom(at, size, 0);
        if (got < 0 && errno != EINTR)
            return mh__fail_os(errno, "getrandom");
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        }
    }
    return MH_OK;
}

static mh_err map(void **out, int fd, size_t offset, size_t size, int protection, int flags)
{
    void *at = mmap(NULL, size, protection, flags, fd, (off_t)offset);
    if (at == MAP_FAILED) {
        *out = NULL;
        return mh__fail_os(errno, "mapping %zu bytes", size);
    }
    *out = at;
    return MH_OK;
}

mh_err mh__os_map(void **out, int fd, size_t offset, size_t size, bool writable)
{
    int flags = MAP_SHARED | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0);
    return map(out, fd, offset, size, PROT_READ | (writable ? PROT_WRITE : 0), flags);
}

mh_err mh__os_map_private(void **out, int fd, size_t offset, size_t size)
{
    return map(out, fd, offset, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
}

void mh__os_unmap(void *at, size_t size)
{
    if (at)
        munmap(at, size);
}
