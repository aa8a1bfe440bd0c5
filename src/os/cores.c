#include "os/cores.h"

#include <sched.h>

int mh__os_usable_cores(void)
{
    static int cached; /* racing writers store the same */
    int count = __atomic_load_n(&cached, __ATOMIC_RELAXED);
    if (count)
        return count;
    cpu_set_t set;
    CPU_ZERO(&set);
    /* more than 1,024 cores do not fit the set and fail: then there are surely several */
    count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 2;
    count = count > 0 ? count : 1;
    __atomic_store_n(&cached, count, __ATOMIC_RELAXED);
    return count;
}
