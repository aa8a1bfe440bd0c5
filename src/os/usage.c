#include "os/usage.h"

#include "os/memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

size_t mh__os_own_bytes(void)
{
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0)
        return 0;
    text[size] = 0;
    size_t total, resident, shared;
    if (sscanf(text, "%zu %zu %zu", &total, &resident, &shared) != 3 || shared > resident)
        return 0;
    return (resident - shared) * mh__os_page_size();
}

size_t mh__os_machine_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    return pages > 0 ? (size_t)pages * mh__os_page_size() : 0;
}
