/* manyhands/sync.h: locks and their kin in shared memory, which survive the death of whoever uses them.
 *
 *     mh_mutex *m = ...;                  in memory that all its users map, e.g. mh_shm_data()
 *     mh_err err = mh_mutex_init(m, 0);   once, by one process, before the others use it
 *
 *     err = mh_mutex_lock(m, mh_deadline_in(MH_SECOND));
 *     if (err == MH_ERR_OWNER_DIED) {     a process was killed while it held m: the data may be half written
 *         repair(data);
 *         mh_mutex_recover(m);
 *         err = MH_OK;
 *     }
 *     if (!err) {
 *         data->count++;
 *         err = mh_mutex_unlock(m);
 *     }
 *
 * What holds for all of them:
 * - Storage is the caller's: 8-byte aligned, mapped wherever each process likes, zero or garbage before init. Its pages must
 *   not be unmapped, nor the memory used for something else, while any process may still be inside a call on it.
 * - A user may be killed at any instruction. The others are told or recover within about 50 ms; nobody waits for ever.
 *   A stopped user (SIGSTOP) is alive: whoever waits for it waits until the deadline.
 * - Waits take an absolute deadline; MH_NOW tries once. They return MH_ERR_INTERRUPTED when a signal handler ran while the
 *   caller slept; who must not miss one that runs just before waits in slices.
 * - MH_ERR_CORRUPT means that the memory was not initialised, was finished, or was overwritten. No content of it makes a call
 *   crash. MH_ERR_TIMEOUT from what gives back (release, notify, open, abort, leave) means that a process has been stopped
 *   for 30 s inside a call on it.
 * - Identities are those of one process-number namespace: do not share these objects between containers.
 * - No call here is async-signal-safe. After a fork the child holds nothing of what its parent holds.
 */
#ifndef MANYHANDS_SYNC_H
#define MANYHANDS_SYNC_H

#include "manyhands/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- types: their sizes are part of the interface, their fields are not ----------------------- */

typedef struct mh_mutex {
    uint32_t magic;
    uint32_t flags;
    uint64_t word; /* the owner's identity, with two bits of state: one instruction takes and owns */
} mh_mutex;

typedef struct mh_rmutex {
    mh_mutex mutex;
    uint32_t magic;
    uint32_t depth; /* guard: mutex */
} mh_rmutex;

typedef struct mh_event {
    uint32_t magic;
    uint32_t word;
} mh_event;

enum {
    MH_SEMAPHORE_HOLDERS_MAX = 1024, /* live processes whose permits come back when they die */
    MH_COND_WAITERS_MAX = 1024,      /* threads that wait at one time */
    MH_BARRIER_PARTIES_MAX = 4096
};

typedef struct mh_semaphore {
    uint32_t magic;
    uint32_t wake; /* changes when permits come back: what waiters sleep on */
    mh_mutex lock; /* guards all below */
    int64_t value; /* base - sum of held, cached */
    int64_t base, initial, max;
    int64_t owed; /* came back from processes that had ended, and may still be released in their place */
    int64_t swept_ns;
    uint32_t waiting, used;
    uint64_t redo;
    int64_t redo_base, redo_held, redo_owed;
    struct {
        uint64_t who;
        int64_t held;
    } holders[MH_SEMAPHORE_HOLDERS_MAX];
} mh_semaphore;

typedef struct mh_cond {
    uint32_t magic;
    uint32_t used; /* guarded by lock, as all below */
    mh_mutex lock;
    uint64_t next_ticket;
    uint64_t redo;
    struct {
        uint64_t who, ticket, bound;
        uint32_t state, unused;
    } waiters[MH_COND_WAITERS_MAX];
} mh_cond;

typedef struct mh_cond_ticket {
    uint64_t number;
    uint32_t slot;
} mh_cond_ticket;

typedef struct mh_barrier {
    uint32_t magic;
    uint32_t parties;
    mh_mutex lock; /* guards all below */
    uint64_t state;
    uint64_t broken_rounds;
    uint32_t cursor, unused;
    uint64_t arrived[MH_BARRIER_PARTIES_MAX];
} mh_barrier;

typedef struct mh_barrier_ticket {
    uint32_t round;
    uint32_t index; /* 0 for the first to arrive, parties - 1 for the last */
    bool is_last;
} mh_barrier_ticket;

/* ---- mutex ----------------------------------------------------------------------------------- */

enum {
    MH_MUTEX_CHECKED = 1, /* locking it again by its holder is MH_ERR_DEADLOCK instead of a wait */
    MH_MUTEX_PROCESS = 2, /* the holder is the process: any of its threads may unlock; only the process's end frees it */
    MH_MUTEX_ANYONE = 4   /* any thread of any process may unlock it */
};

/* Make m an unlocked mutex. errors: INVALID unknown flags, or m is not 8-byte aligned. */
MH_API MH_NODISCARD mh_err mh_mutex_init(mh_mutex *m, uint32_t flags);
/* Later calls on m give CORRUPT. The caller knows that nobody uses it. */
MH_API void mh_mutex_fini(mh_mutex *m);
/* Lock m, waiting no later than `until`.
 *
 * owns     the caller holds m after OK and after OWNER_DIED
 * errors   TIMEOUT      a live holder kept it past `until`
 *          OWNER_DIED   the last holder ended inside: repair the data, call mh_mutex_recover, unlock as usual. Without
 *                       mh_mutex_recover the next holder is told again
 *          DEADLOCK     (MH_MUTEX_CHECKED) the caller holds it
 *          INTERRUPTED, CORRUPT
 * threads  any; not recursive
 */
MH_API MH_NODISCARD mh_err mh_mutex_lock(mh_mutex *m, mh_deadline until);
/* The caller, who was told OWNER_DIED, has repaired what m guards. errors: NOT_OWNER, CORRUPT. */
MH_API mh_err mh_mutex_recover(mh_mutex *m);
/* As mh_mutex_lock with MH_NOW, which looks whether a holder still lives and so costs some microseconds when there is one: this one only
 * tries. errors: TIMEOUT somebody holds it, dead or alive; OWNER_DIED, CORRUPT as there. */
MH_API MH_NODISCARD mh_err mh_mutex_try(mh_mutex *m);
/* errors: NOT_OWNER the caller does not hold it (MH_MUTEX_ANYONE: nobody does); CORRUPT. */
MH_API mh_err mh_mutex_unlock(mh_mutex *m);
/* Snapshots. Whether somebody holds it; whether the caller does; the number of the thread (MH_MUTEX_PROCESS: process) that holds it, or 0. */
MH_API bool mh_mutex_is_locked(const mh_mutex *m);
MH_API bool mh_mutex_is_mine(const mh_mutex *m);
MH_API int32_t mh_mutex_holder(const mh_mutex *m);

/* ---- recursive mutex ------------------------------------------------------------------------- */

/* As the mutex, but its holder (one thread of one process) may lock it again, and unlocks it as many times. */
MH_API MH_NODISCARD mh_err mh_rmutex_init(mh_rmutex *m);
MH_API void mh_rmutex_fini(mh_rmutex *m);
/* errors: as mh_mutex_lock; LIMIT locked 2^32 - 1 times. */
MH_API MH_NODISCARD mh_err mh_rmutex_lock(mh_rmutex *m, mh_deadline until);
MH_API mh_err mh_rmutex_recover(mh_rmutex *m);
MH_API mh_err mh_rmutex_unlock(mh_rmutex *m);
MH_API bool mh_rmutex_is_locked(const mh_rmutex *m);
MH_API bool mh_rmutex_is_mine(const mh_rmutex *m);
MH_API int32_t mh_rmutex_holder(const mh_rmutex *m);
/* As mh_mutex_try; never TIMEOUT for the thread that holds it. */
MH_API MH_NODISCARD mh_err mh_rmutex_try(mh_rmutex *m);
/* How many times the calling thread holds it. */
MH_API uint32_t mh_rmutex_depth(const mh_rmutex *m);

/* ---- semaphore ------------------------------------------------------------------------------- */

/* `value` permits; it never has more than `max` (bounded: max == value; MH_SEMAPHORE_VALUE_MAX: no bound).
 * The permits that a process holds when it ends come back by themselves; permits that it took but that others
 * released in its place (a semaphore used as a signal) do not, and if such a release comes later than they do, it gives nothing more.
 * Only MH_SEMAPHORE_HOLDERS_MAX processes are remembered: what further ones hold is taken for good until it is released.
 * errors: INVALID value > max, max 0 or too large, alignment. */
#define MH_SEMAPHORE_VALUE_MAX UINT32_C(0x7fffffff)
MH_API MH_NODISCARD mh_err mh_semaphore_init(mh_semaphore *s, uint32_t value, uint32_t max);
MH_API void mh_semaphore_fini(mh_semaphore *s);
/* Take one permit. errors: TIMEOUT, INTERRUPTED, CORRUPT. */
MH_API MH_NODISCARD mh_err mh_semaphore_acquire(mh_semaphore *s, mh_deadline until);
/* Give `count` permits; the caller need not hold them. errors: FULL it would have more than max, none is given; CORRUPT. */
MH_API mh_err mh_semaphore_release(mh_semaphore *s, uint32_t count);
/* The same two without any waiting, not even for who is just inside a call, and without looking for the dead.
 * errors: TIMEOUT none is free, or somebody is inside; FULL, CORRUPT. */
MH_API MH_NODISCARD mh_err mh_semaphore_try(mh_semaphore *s);
MH_API MH_NODISCARD mh_err mh_semaphore_try_release(mh_semaphore *s, uint32_t count);
/* The calling process will not be thought of as a holder any more: what it took stays taken after its end, until somebody
 * releases it. For a process that ends in good order and leaves the releasing to others. errors: CORRUPT. */
MH_API mh_err mh_semaphore_disown(mh_semaphore *s);
/* Permits left now (a snapshot), 0 for invalid memory. */
MH_API uint32_t mh_semaphore_value(const mh_semaphore *s);

/* ---- condition ------------------------------------------------------------------------------- */

/* A notification wakes exactly as many waiters as it says, the longest waiting first; there are no spurious wakes. The
 * notification of a waiter that is killed before it holds the mutex again goes to another that waited at the time. */
MH_API MH_NODISCARD mh_err mh_cond_init(mh_cond *c);
MH_API void mh_cond_fini(mh_cond *c);
/* Unlock m, wait to be notified, lock m again.
 *
 * owns     the caller holds m before and after, whatever is returned (but for CORRUPT of m)
 * errors   TIMEOUT, INTERRUPTED  it was not notified
 *          OWNER_DIED            as mh_mutex_lock; whether it was notified is not known: check the data
 *          NOT_OWNER             the caller did not hold m
 *          LIMIT                 MH_COND_WAITERS_MAX threads wait already
 *          CORRUPT
 */
MH_API MH_NODISCARD mh_err mh_cond_wait(mh_cond *c, mh_mutex *m, mh_deadline until);
/* The same with a recursive mutex, which is unlocked fully and locked again as many times. */
MH_API MH_NODISCARD mh_err mh_cond_wait_recursive(mh_cond *c, mh_rmutex *m, mh_deadline until);
/* Notify up to `count` of those that wait (UINT32_MAX: all). The caller should hold the mutex that they wait with. errors: CORRUPT. */
MH_API mh_err mh_cond_notify(mh_cond *c, uint32_t count);
/* How many wait and are not notified yet (a snapshot). */
MH_API uint32_t mh_cond_count_waiting(const mh_cond *c);

/* The steps of mh_cond_wait, for callers with a lock of their own or who wait in slices: with the lock held enter;
 * unlock; await, as often as needed; lock; leave. */
MH_API MH_NODISCARD mh_err mh_cond_enter(mh_cond *c, mh_cond_ticket *ticket);
/* errors: TIMEOUT, INTERRUPTED: still waiting. CORRUPT. */
MH_API MH_NODISCARD mh_err mh_cond_await(mh_cond *c, const mh_cond_ticket *ticket, mh_deadline until);
/* Stop waiting; every enter needs one. OK: it had been notified. errors: TIMEOUT it had not; CORRUPT. */
MH_API mh_err mh_cond_leave(mh_cond *c, const mh_cond_ticket *ticket);

/* ---- event ----------------------------------------------------------------------------------- */

MH_API MH_NODISCARD mh_err mh_event_init(mh_event *e, bool is_set);
MH_API void mh_event_fini(mh_event *e);
/* Set it and wake all who wait: they return OK even when it is cleared before they run. errors: CORRUPT. */
MH_API mh_err mh_event_set(mh_event *e);
MH_API mh_err mh_event_clear(mh_event *e);
MH_API bool mh_event_is_set(const mh_event *e);
/* Wait until it is set. errors: TIMEOUT, INTERRUPTED, CORRUPT. */
MH_API MH_NODISCARD mh_err mh_event_wait(mh_event *e, mh_deadline until);

/* ---- barrier --------------------------------------------------------------------------------- */

/* `parties` threads meet. Once it is broken (a party that had arrived died, gave up or called abort) every wait gives BROKEN
 * until mh_barrier_reset. errors: INVALID 0 parties, more than MH_BARRIER_PARTIES_MAX, alignment. */
MH_API MH_NODISCARD mh_err mh_barrier_init(mh_barrier *b, uint32_t parties);
MH_API void mh_barrier_fini(mh_barrier *b);
/* Arrive and wait until all have. The last to arrive calls action(ctx) (may be NULL) before anyone goes on; when it returns an error the barrier breaks.
 * *index (may be NULL) is the order of arrival.
 * errors: BROKEN; TIMEOUT, INTERRUPTED: the caller gave up, which breaks it for the others; the action's; CORRUPT. */
typedef mh_err (*mh_barrier_action_fn)(void *ctx);
MH_API MH_NODISCARD mh_err mh_barrier_wait(mh_barrier *b, mh_deadline until, mh_barrier_action_fn action, void *ctx, uint32_t *index);
/* The steps of mh_barrier_wait, for callers who wait in slices: arrive; then the last runs its action and calls open (or
 * abort), and the others await, as often as needed; who gives up calls leave.
 * Arriving waits only while the last round's action runs. errors: BROKEN; TIMEOUT, INTERRUPTED: has not arrived; CORRUPT. */
MH_API MH_NODISCARD mh_err mh_barrier_arrive(mh_barrier *b, mh_deadline until, mh_barrier_ticket *ticket);
/* errors: BROKEN; TIMEOUT, INTERRUPTED: still waiting; CORRUPT. */
MH_API MH_NODISCARD mh_err mh_barrier_await(mh_barrier *b, const mh_barrier_ticket *ticket, mh_deadline until);
/* errors: BROKEN meanwhile; NOT_OWNER the ticket is not that of the last to arrive; CORRUPT. */
MH_API mh_err mh_barrier_open(mh_barrier *b, const mh_barrier_ticket *ticket);
/* Give up waiting. OK: it had opened before. errors: BROKEN it was broken, or is now by this call; CORRUPT. */
MH_API mh_err mh_barrier_leave(mh_barrier *b, const mh_barrier_ticket *ticket);
/* Break it: who waits gets BROKEN. errors: CORRUPT. */
MH_API mh_err mh_barrier_abort(mh_barrier *b);
/* Make it whole and empty; who waits gets BROKEN. errors: CORRUPT. */
MH_API mh_err mh_barrier_reset(mh_barrier *b);
/* Snapshots: how many wait now; whether it is broken; its number of parties. */
MH_API uint32_t mh_barrier_count_waiting(const mh_barrier *b);
MH_API bool mh_barrier_is_broken(const mh_barrier *b);
MH_API uint32_t mh_barrier_parties(const mh_barrier *b);

#ifdef __cplusplus
}
#endif
#endif
