/* The monotonic clock and deadlines on it. */
#include "os/clock.h"

#include <time.h>

int64_t mh_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with a valid clock and pointer */
    return (int64_t)ts.tv_sec * MH_SECOND + ts.tv_nsec;
}

int64_t mh_now_about(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (int64_t)ts.tv_sec * MH_SECOND + ts.tv_nsec;
}

int64_t mh__os_wall_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * MH_SECOND + ts.tv_nsec;
}

mh_deadline mh_deadline_in(int64_t ns)
{
    int64_t at;
    if (ns <= 0)
        return mh_now();
    return __builtin_add_overflow(mh_now(), ns, &at) ? MH_FOREVER : at;
}

int64_t mh__os_left_ns(mh_deadline until)
{
    if (until == MH_FOREVER)
        return INT64_MAX;
    if (until <= 0)
        return 0;
    int64_t left = until - mh_now();
    return left > 0 ? left : 0;
}
