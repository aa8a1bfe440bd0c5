/* The monotonic clock and deadlines on it. */
#ifndef MH_OS_CLOCK_H
#define MH_OS_CLOCK_H

#include "manyhands/base.h"

/* Nanoseconds since 1970 by the clock on the wall, which may jump: for dates that people read, never for waiting. */
int64_t mh__os_wall_ns(void);

/* Nanoseconds left until `until`: 0 when it has passed, INT64_MAX for MH_FOREVER. */
int64_t mh__os_left_ns(mh_deadline until);

/* The earlier of `until` and `ns` from now: how a wait that must re-check is bounded. */
static inline mh_deadline mh__os_sooner(mh_deadline until, int64_t ns)
{
    mh_deadline slice = mh_deadline_in(ns);
    return slice < until ? slice : until;
}

#endif
