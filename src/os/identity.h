/* Who a process or thread is: an identity that a reused number cannot forge, and whether it still lives. */
#ifndef MH_OS_IDENTITY_H
#define MH_OS_IDENTITY_H

#include "manyhands/base.h"

/* A thread (or, with the process's number, a process) of this boot: its kernel number in the low 32 bits and, in the
 * high 32, the time at which it started (clock ticks since boot). 0 is nobody. One 64-bit word, so that it is written by one instruction. */
typedef uint64_t mh__identity;

/* The calling thread, or the calling process. Cached; correct after a fork. */
mh__identity mh__os_self_thread(void);
mh__identity mh__os_self_process(void);
/* The identity of another process now, or 0 when there is none such. */
mh__identity mh__os_identity_of(int32_t pid);
/* False when it has ended (a zombie has ended), or when its number now belongs to another. Costs a file read
 * (about 5 us): call it after a wait has run out, not before. */
bool mh__os_is_alive(mh__identity who);
/* The same for a process: one whose first thread has ended while others run is alive. */
bool mh__os_is_process_alive(mh__identity who);

/* What a living process does: whether its first thread runs or is ready to, and the processor time of all its threads so far (0: unknown). */
typedef struct mh__activity {
    bool is_runnable;
    int64_t cpu_ns;
} mh__activity;
/* False when it has ended. About 10 us. */
bool mh__os_activity(mh__identity who, mh__activity *out);

/* Whether a process began with all of these "NAME=value" in its environment. False too where it has ended or may not be looked at. */
bool mh__os_has_environment(int32_t pid, const char *const *entries, size_t count);

/* See mh_fork_count. */
uint64_t mh__os_fork_count(void);

static inline int32_t mh__identity_number(mh__identity who) { return (int32_t)(uint32_t)who; }

#endif
