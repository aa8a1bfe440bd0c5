/* A semaphore keeps, under a mutex that survives its holder, a ledger of how many permits each process holds, and
 *
 *     value = base - sum of held
 *
 * where base is the initial value and what was released beyond what its releaser held. Each operation commits by one store
 * into the ledger (or by one store that commits a redo record); value itself is a cache that is computed afresh when
 * a holder of the mutex died. So a process killed at any instruction has taken a permit or not, has given one or not.
 *
 * Permits of an ended process are given back by whoever waits for one. But a semaphore also serves as a signal: one process
 * releases, another acquires and never releases. There base exceeds the initial value by just those permits, and
 * what a dead process holds is first set off against that surplus: a consumer's death brings no signal back.
 */
#include "base/error.h"
#include "base/number.h"
#include "os/cores.h"
#include "os/identity.h"
#include "sync/wait.h"

#include <limits.h>
#include <stddef.h>

#define MAGIC MH__SYNC_MAGIC('s', 1)

enum { MOST = MH_SEMAPHORE_HOLDERS_MAX, SPINS = 60 };
static const int64_t sweep_every_ns = MH_MILLISECOND; /* for callers that try without waiting */

_Static_assert(sizeof(mh_semaphore) == 96 + 16 * MOST && offsetof(mh_semaphore, holders) == 96,
               "layout between processes");

/* What another process may have scribbled must not overflow a signed sum. */
static int64_t add(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
static int64_t subtract(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }

mh_err mh_semaphore_init(mh_semaphore *s, uint32_t value, uint32_t max)
{
    mh_err err = mh__sync_check_place(s, "semaphore");
    if (err)
        return err;
    if (max == 0 || max > MH_SEMAPHORE_VALUE_MAX || value > max)
        return mh__fail(MH_ERR_INVALID, "semaphore value %u of at most %u: 0 <= value <= max, 1 <= max <= 2^31 - 1",
                        value, max);
    *s = (mh_semaphore){.value = value, .base = value, .initial = value, .max = max};
    err = mh_mutex_init(&s->lock, MH_MUTEX_CHECKED);
    if (!err)
        s->magic = MAGIC;
    return err;
}

void mh_semaphore_fini(mh_semaphore *s)
{
    s->magic = 0;
    mh_mutex_fini(&s->lock);
}

/* ---- under the lock ---------------------------------------------------------------------------- */

static uint32_t used(const mh_semaphore *s)
{
    uint32_t count = mh__peek(&s->used);
    return MH__MIN(count, (uint32_t)MOST);
}

static void apply_redo(mh_semaphore *s, size_t slot)
{
    mh__commit(&s->base, s->redo_base);
    mh__commit(&s->holders[slot].held, s->redo_held);
    mh__commit(&s->redo, UINT64_C(0));
}

/* Change base and one holding together. */
static void change_both(mh_semaphore *s, size_t slot, int64_t base, int64_t held)
{
    s->redo_base = base;
    s->redo_held = held;
    mh__commit(&s->redo, slot + 1);
    apply_redo(s, slot);
}

static void add_value(mh_semaphore *s, int64_t count) { mh__commit(&s->value, add(s->value, count)); }

/* After a holder of the lock died: finish what it had committed, and count again. */
static void repair(mh_semaphore *s)
{
    uint64_t redo = mh__peek(&s->redo);
    if (redo >= 1 && redo <= MOST)
        apply_redo(s, (size_t)redo - 1);
    int64_t value = s->base;
    for (size_t i = 0; i < used(s); i++)
        value = subtract(value, s->holders[i].held);
    mh__commit(&s->value, value);
    s->waiting = 1; /* the dead may have owed a wake */
    mh_mutex_recover(&s->lock);
}

static mh_err enter_result(mh_semaphore *s, mh_err err)
{
    if (err == MH_ERR_OWNER_DIED) {
        repair(s);
        err = MH_OK;
    }
    if (err)
        return err;
    if (s->value < 0 || s->value > s->max) {
        mh_mutex_unlock(&s->lock);
        return mh__sync_corrupt("semaphore");
    }
    return MH_OK;
}

static mh_err enter(mh_semaphore *s, mh_deadline until)
{
    return enter_result(s, mh__inner_lock(&s->lock, until));
}

static mh_err enter_firmly(mh_semaphore *s) { return enter_result(s, mh__inner_lock_firmly(&s->lock)); }

/* Unlock; then wake up to `count` if somebody may sleep. Who is woken declares again that others may sleep. */
static void leave(mh_semaphore *s, uint32_t count)
{
    bool wakes = count && s->waiting;
    if (wakes) {
        s->waiting = 0;
        mh__commit(&s->wake, s->wake + 1);
    }
    mh_mutex_unlock(&s->lock);
    if (wakes)
        mh__sync_wake(&s->wake, (int)MH__MIN(count, (uint32_t)INT_MAX));
}

static size_t slot_of(const mh_semaphore *s, mh__identity who)
{
    size_t count = used(s), i = 0;
    while (i < count && s->holders[i].who != who)
        i++;
    return i < count ? i : MOST;
}

static size_t claim_slot(mh_semaphore *s, mh__identity who)
{
    size_t count = used(s), i = 0;
    while (i < count && s->holders[i].held != 0)
        i++;
    if (i == MOST)
        return MOST;
    mh__commit(&s->holders[i].held, INT64_C(0)); /* beyond `used` may lie what a killed claimer left */
    mh__commit(&s->holders[i].who, who);
    if (i == count)
        mh__commit(&s->used, (uint32_t)i + 1);
    return i;
}

/* Give back what an ended process holds, but for what others released in its place. True if that freed a permit. */
static bool settle(mh_semaphore *s, size_t slot)
{
    int64_t held = s->holders[slot].held, surplus = subtract(s->base, s->initial);
    int64_t set_off = MH__MIN(held, MH__MAX(surplus, INT64_C(0)));
    change_both(s, slot, subtract(s->base, set_off), 0);
    add_value(s, held - set_off);
    return held > set_off;
}

/* ---- the dead ---------------------------------------------------------------------------------- */

/* Looking whether processes live is slow, so it is done outside the lock: who has ended stays ended. */
static size_t find_dead(mh_semaphore *s, mh__identity dead[MOST])
{
    mh__identity self = mh__os_self_process();
    size_t found = 0, count = used(s);
    for (size_t i = 0; i < count; i++) {
        mh__identity who = mh__peek(&s->holders[i].who);
        bool is_dead = mh__peek(&s->holders[i].held) > 0 && who != self && !mh__os_is_process_alive(who);
        dead[i] = is_dead ? who : 0;
        found += is_dead;
    }
    return found ? count : 0;
}

/* True when permits came back. */
static bool sweep(mh_semaphore *s, mh_deadline until)
{
    mh__identity dead[MOST];
    size_t count = find_dead(s, dead);
    if (count == 0 || enter(s, until))
        return false;
    bool freed = false;
    for (size_t i = 0; i < count; i++)
        if (dead[i] && s->holders[i].who == dead[i] && s->holders[i].held > 0)
            freed |= settle(s, i);
    leave(s, freed ? UINT32_MAX : 0);
    return freed;
}

static bool sweep_if_due(mh_semaphore *s)
{
    int64_t now = mh_now(), last = __atomic_load_n(&s->swept_ns, __ATOMIC_RELAXED);
    if (last <= now && subtract(now, last) < sweep_every_ns)
        return false;
    __atomic_store_n(&s->swept_ns, now, __ATOMIC_RELAXED);
    return sweep(s, MH_NOW);
}

/* ---- acquire and release ----------------------------------------------------------------------- */

static void spin(const mh_semaphore *s)
{
    int spins = mh__os_usable_cores() > 1 ? SPINS : 0;
    for (int i = 0; i < spins && mh__peek(&s->value) <= 0; i++)
        mh__os_relax();
}

static mh_err take(mh_semaphore *s)
{
    mh__identity self = mh__os_self_process();
    size_t slot = slot_of(s, self);
    if (slot == MOST)
        slot = claim_slot(s, self);
    if (slot == MOST)
        return mh__fail(MH_ERR_LIMIT, "%d processes hold permits of this semaphore already", MOST);
    mh__commit(&s->holders[slot].held, add(s->holders[slot].held, 1)); /* here it is taken */
    add_value(s, -1);
    return MH_OK;
}

/* One try. TIMEOUT: none was free, and *seen is what to sleep on. */
static mh_err try_take(mh_semaphore *s, mh_deadline until, bool has_slept, uint32_t *seen)
{
    mh_err err = enter(s, until);
    if (err)
        return err;
    if (s->value > 0)
        err = take(s);
    else
        err = MH_ERR_TIMEOUT;
    if (has_slept || (err == MH_ERR_TIMEOUT && until > MH_NOW))
        s->waiting = 1;
    *seen = s->wake;
    /* two releases may have sent one wake: whoever got it passes on what is left */
    leave(s, has_slept && err == MH_OK && s->value > 0 ? 1 : 0);
    return err;
}

static mh_err sleep_until_free(mh_semaphore *s, mh_deadline until, uint32_t seen)
{
    mh__slice slice = {0};
    for (;;) {
        mh_err err = mh__slice_sleep(&slice, &s->wake, seen, until);
        if (err == MH_ERR_TIMEOUT) {
            sweep(s, until);
            err = try_take(s, until, true, &seen);
            if (err == MH_ERR_TIMEOUT && mh__has_passed(until))
                return err;
        } else if (err == MH_OK) {
            err = try_take(s, until, true, &seen);
        }
        if (err != MH_ERR_TIMEOUT)
            return err;
    }
}

/* The table of holders is full: make room by settling the dead. */
static mh_err take_with_room(mh_semaphore *s, mh_deadline until, uint32_t *seen)
{
    mh_err err = try_take(s, until, false, seen);
    if (err != MH_ERR_LIMIT)
        return err;
    sweep(s, until);
    return try_take(s, until, false, seen);
}

mh_err mh_semaphore_acquire(mh_semaphore *s, mh_deadline until)
{
    if (s->magic != MAGIC)
        return mh__sync_corrupt("semaphore");
    uint32_t seen = 0;
    if (until > MH_NOW && mh__peek(&s->value) <= 0)
        spin(s);
    mh_err err = take_with_room(s, until, &seen);
    if (err != MH_ERR_TIMEOUT)
        return err;
    if (until <= MH_NOW)
        return sweep_if_due(s) ? try_take(s, until, false, &seen) : MH_ERR_TIMEOUT;
    return sleep_until_free(s, until, seen);
}

static void give(mh_semaphore *s, int64_t count)
{
    size_t slot = slot_of(s, mh__os_self_process());
    int64_t held = slot == MOST ? 0 : s->holders[slot].held;
    if (held >= count)
        mh__commit(&s->holders[slot].held, held - count);
    else if (held <= 0)
        mh__commit(&s->base, add(s->base, count));
    else
        change_both(s, slot, add(s->base, count - held), 0);
    add_value(s, count);
}

mh_err mh_semaphore_release(mh_semaphore *s, uint32_t count)
{
    if (s->magic != MAGIC)
        return mh__sync_corrupt("semaphore");
    mh_err err = count ? enter_firmly(s) : MH_OK;
    if (err || count == 0)
        return err;
    if (s->max - s->value < (int64_t)count)
        err = mh__fail(MH_ERR_FULL, "releasing %u permits of a semaphore that has %lld of at most %lld", count,
                       (long long)s->value, (long long)s->max);
    else
        give(s, count);
    leave(s, err ? 0 : count);
    return err;
}

uint32_t mh_semaphore_value(const mh_semaphore *s)
{
    int64_t value = mh__peek(&s->value);
    return s->magic == MAGIC && value > 0 && value <= MH_SEMAPHORE_VALUE_MAX ? (uint32_t)value : 0;
}
