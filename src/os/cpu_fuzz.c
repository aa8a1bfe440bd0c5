/* Any bytes as /proc/self/cgroup: no crash, and no folder outside the given root is looked into (there is none inside). */
#include "os/cpu.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <stdio.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[40];
    int fd = memfd_create("cgroup", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (mh__cpu_quota(path, "/proc/self/no-such-folder") != 0)
        abort();
    close(fd);
    return 0;
}
