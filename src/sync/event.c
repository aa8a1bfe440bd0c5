/* An event is one 32-bit word: SET, WAITERS (somebody may sleep on it), and the number of times that it was set, so that
 * a waiter knows that it was set even when it has been cleared again. Nobody owns anything: a killed setter has set it or
 * not; if it died before waking the sleepers, their slices end. */
#include "os/cores.h"
#include "sync/wait.h"

#include <limits.h>
#include <stddef.h>

#define MAGIC MH__SYNC_MAGIC('e', 1)

enum { SET = 1, WAITERS = 2, ROUND = 4, SPINS = 100 };

_Static_assert(sizeof(mh_event) == 8 && offsetof(mh_event, word) == 4, "layout between processes");

mh_err mh_event_init(mh_event *e, bool is_set)
{
    mh_err err = mh__sync_check_place(e, "event");
    if (err)
        return err;
    *e = (mh_event){.magic = MAGIC, .word = is_set ? SET : 0};
    return MH_OK;
}

void mh_event_fini(mh_event *e) { e->magic = 0; }

bool mh_event_is_set(const mh_event *e) { return mh__peek(&e->word) & SET; }

static bool swap(mh_event *e, uint32_t *seen, uint32_t to)
{
    return __atomic_compare_exchange_n(&e->word, seen, to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

mh_err mh_event_set(mh_event *e)
{
    if (e->magic != MAGIC)
        return mh__sync_corrupt("event");
    uint32_t seen = mh__peek(&e->word);
    do {
        /* set already: still an atomic write, so that what the caller wrote before is seen by who finds it set */
    } while (!swap(e, &seen, seen & SET ? seen & ~(uint32_t)WAITERS : ((seen + ROUND) | SET) & ~(uint32_t)WAITERS));
    if (seen & WAITERS)
        mh__sync_wake(&e->word, INT_MAX);
    return MH_OK;
}

mh_err mh_event_clear(mh_event *e)
{
    if (e->magic != MAGIC)
        return mh__sync_corrupt("event");
    __atomic_fetch_and(&e->word, ~(uint32_t)SET, __ATOMIC_ACQ_REL);
    return MH_OK;
}

/* Set now, or set since the caller first looked. */
static bool has_happened(uint32_t first, uint32_t seen)
{
    return seen & SET || (first ^ seen) & ~(uint32_t)(SET | WAITERS);
}

static bool spin(mh_event *e, uint32_t first, uint32_t *seen)
{
    int spins = mh__os_usable_cores() > 1 ? SPINS : 0;
    for (int i = 0; i < spins && !has_happened(first, *seen); i++) {
        mh__os_relax();
        *seen = mh__peek(&e->word);
    }
    return has_happened(first, *seen);
}

mh_err mh_event_wait(mh_event *e, mh_deadline until)
{
    if (e->magic != MAGIC)
        return mh__sync_corrupt("event");
    mh__slice slice = {0};
    const uint32_t first = mh__peek(&e->word);
    uint32_t seen = first;
    if (seen & SET)
        return MH_OK;
    if (until <= MH_NOW)
        return MH_ERR_TIMEOUT;
    bool happened = spin(e, first, &seen);
    while (!happened) {
        if (!(seen & WAITERS) && !swap(e, &seen, seen | WAITERS)) {
            happened = has_happened(first, seen);
            continue;
        }
        mh_err err = mh__slice_sleep(&slice, &e->word, seen | WAITERS, until);
        seen = mh__peek(&e->word);
        happened = has_happened(first, seen);
        if (!happened && (err == MH_ERR_INTERRUPTED || (err == MH_ERR_TIMEOUT && mh__has_passed(until))))
            return err;
    }
    return MH_OK;
}
