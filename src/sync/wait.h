/* What all primitives share: magic numbers, waiting in slices, and the lock inside the larger ones. */
#ifndef MH_SYNC_WAIT_H
#define MH_SYNC_WAIT_H

#include "manyhands/sync.h"

/* First word of each primitive: a letter for the kind and the version of its layout. */
#define MH__SYNC_MAGIC(kind, version) \
    ((uint32_t)'M' | (uint32_t)'H' << 8 | (uint32_t)(kind) << 16 | (uint32_t)(version) << 24)

/* Sleeping in slices of 5 ms, doubling to 50 ms: after each the sleeper looks whether somebody died, and so
 * no wake that a dead process owed or swallowed is missed for longer than that. */
typedef struct mh__slice {
    int64_t ns;
} mh__slice;
extern int64_t mh__first_slice_ns; /* for tests that must not see the first slice end */

/* Sleep while *word == expected. OK: look again. TIMEOUT: this slice is over, perhaps not the wait. INTERRUPTED. */
mh_err mh__slice_sleep(mh__slice *slice, uint32_t *word, uint32_t expected, mh_deadline until);
/* Wake up to `count` sleepers on word. Gone memory is no error: the last user may have unmapped it. */
void mh__sync_wake(uint32_t *word, int count);
bool mh__has_passed(mh_deadline until);

/* Lock the mutex inside a primitive on behalf of a wait until `until`. Nobody holds it for long but a process that was
 * stopped or killed inside, so that even MH_NOW waits for it a little. errors: OWNER_DIED (held: repair, then
 * mh_mutex_recover), TIMEOUT, INTERRUPTED, CORRUPT. */
mh_err mh__inner_lock(mh_mutex *lock, mh_deadline until);
/* The same for what gives something back and so has no deadline: signals do not end it, only a holder that has been
 * stopped for mh__inner_patience_ns (30 s; shorter in the fuzz target). errors: OWNER_DIED, TIMEOUT, CORRUPT. */
mh_err mh__inner_lock_firmly(mh_mutex *lock);
extern int64_t mh__inner_wait_ns, mh__inner_patience_ns;

/* Common refusals, with their detail. */
mh_err mh__sync_corrupt(const char *what);
mh_err mh__sync_check_place(const void *at, const char *what);

/* Stores and loads of what is read outside the lock, or whose order matters when the writer is killed between two:
 * each store is seen by the others only together with all that the writer stored before. */
#define mh__commit(at, value) __atomic_store_n((at), (value), __ATOMIC_RELEASE)
#define mh__peek(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)

#endif
