#include "os/memory.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "os/fd.h"
#include "os/named.h"

size_t mh__os_page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

/* The number that follows `key` in a file of the kernel's (the file's first number when key is ""), or `otherwise`. */
static size_t read_number(const char *path, const char *key, size_t otherwise)
{
    char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    mh__os_close(&fd);
    if (size <= 0)
        return otherwise;
    text[size] = 0;
    const char *at = strstr(text, key);
    char *end;
    if (!at)
        return otherwise;
    at += strlen(key);
    unsigned long long value = strtoull(at, &end, 10);
    return end == at ? otherwise : (size_t)value;
}

/* memfds live on the kernel's own tmpfs: what limits them is memory (the machine's, and that of the container), not
 * the size of /dev/shm. Without this check the kernel would grant anything and then kill somebody for it. */
static size_t memory_free_bytes(void)
{
    size_t kib = read_number("/proc/meminfo", "MemAvailable:", SIZE_MAX / 2048) +
                 read_number("/proc/meminfo", "SwapFree:", 0);
    size_t limit = read_number("/sys/fs/cgroup/memory.max", "", SIZE_MAX);
    size_t used = read_number("/sys/fs/cgroup/memory.current", "", 0);
    size_t left = limit > used ? limit - used : 0;
    return kib * 1024 < left ? kib * 1024 : left;
}

enum { CHECK_BYTES = 16 << 20 }; /* smaller requests are not worth the microseconds */

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3; some systems refuse memfds without it */
#endif

static mh_err sparse(int *out, const char *label, size_t size)
{
    int fd = memfd_create(label, MFD_CLOEXEC | MFD_NOEXEC_SEAL); /* allows sealing, too */
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
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

mh_err mh__os_allocate_range(int fd, size_t offset, size_t size)
{
    int rc = size >= CHECK_BYTES && size > memory_free_bytes() ? ENOSPC : mh__os_fallocate(fd, offset, size);
    if (rc == ENOSPC || rc == ENOMEM)
        return mh__fail(MH_ERR_NO_SPACE, "no room for %zu bytes of shared memory: %zu bytes of memory are free",
                        size, memory_free_bytes());
    return rc ? mh__fail_os(rc, "allocating %zu bytes of shared memory", size) : MH_OK;
}

void mh__os_release_range(int fd, size_t offset, size_t size)
{
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size);
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

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

void mh__os_populate(void *at, size_t size)
{
    int saved = errno;
    madvise(at, size, MADV_POPULATE_WRITE);
    errno = saved;
}

mh_err mh__os_fd_sealed(int fd, size_t *size)
{
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 && errno == EBADF)
        return mh__fail_os(errno, "descriptor %d", fd);
    /* huge pages are sealed alike, but one that is missing when it is touched raises SIGBUS */
    struct statfs fs;
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
        return mh__fail(MH_ERR_INVALID, "descriptor %d is no segment sealed against shrinking", fd);
    return mh__os_fd_size(fd, size);
}

enum { FROZEN = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };

static mh_err write_all(int fd, mh_bytes bytes)
{
    for (size_t at = 0; at < bytes.size;) {
        ssize_t n = write(fd, (const char *)bytes.data + at, bytes.size - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 || errno == ENOSPC || errno == ENOMEM ? mh__fail(MH_ERR_NO_SPACE, "no room for %zu bytes of shared memory", bytes.size)
                                                                : mh__fail_os(errno, "writing %zu bytes of shared memory", bytes.size);
        at += (size_t)n;
    }
    return MH_OK;
}

mh_err mh__os_memfd_frozen(int *fd, const char *label, mh_bytes bytes)
{
    *fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0)
        return mh__fail_os(errno, "shared memory without a name");
    mh_err err = bytes.size >= CHECK_BYTES && bytes.size > memory_free_bytes() ? mh__fail(MH_ERR_NO_SPACE, "no room for %zu bytes", bytes.size)
                                                                               : write_all(*fd, bytes);
    if (!err && fcntl(*fd, F_ADD_SEALS, FROZEN | F_SEAL_SEAL) < 0)
        err = mh__fail_os(errno, "sealing shared memory");
    if (err)
        mh__os_close(fd);
    return err;
}

mh_err mh__os_fd_frozen(int fd, size_t *size)
{
    mh_err err = mh__os_fd_sealed(fd, size);
    if (err)
        return err;
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & FROZEN) == FROZEN && mh__os_fd_is_solid(fd) ? MH_OK
                                                                              : mh__fail(MH_ERR_INVALID, "descriptor %d is no frozen memory", fd);
}

bool mh__os_fd_is_solid(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && (uint64_t)st.st_blocks * 512 >= (uint64_t)st.st_size;
}

size_t mh__os_address_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY ? (size_t)limit.rlim_cur : 0;
}

void mh_memory_want_huge(void *at, size_t size)
{
    const uintptr_t page = (uintptr_t)2 << 20;
    uintptr_t begin = ((uintptr_t)at + page - 1) & ~(page - 1), end = ((uintptr_t)at + size) & ~(page - 1);
    if (end > begin)
        madvise((void *)begin, end - begin, MADV_HUGEPAGE); /* a kernel without them refuses, and all is as before */
}
