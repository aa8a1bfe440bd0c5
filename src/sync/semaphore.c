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
 * what a dead process holds is first set off against that surplus: a consumer's death brings no signal back. The other way
 * round, permits may come back from the dead before somebody releases them in its place: `owed` counts them, and such a release, by a
 * process that holds none itself, gives nothing more.
 */
#include "base/error.h"
#include "base/number.h"
#include "os/cores.h"
#include "os/identity.h"
#include "sync/wait.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

#define MAGIC MH__SYNC_MAGIC('s', 2)

enum { MOST = MH_SEMAPHORE_HOLDERS_MAX, SPINS = 60 };
/* Looking costs about 5 us for each holder: all callers together spend a twentieth of a core on it at most. */
static const int64_t sweep_every_ns = MH_MILLISECOND, sweep_holder_ns = 100 * MH_MICROSECOND;

_Static_assert(sizeof(mh_semaphore) == 112 + 16 * MOST && offsetof(mh_semaphore, holders) == 112,
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
    memset(s, 0, offsetof(mh_semaphore, holders)); /* places beyond `used` are never read */
    s->value = s->base = s->initial = value;
    s->max = max;
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

/* A slot of MOST: no holder is concerned. */
static void apply_redo(mh_semaphore *s, size_t slot)
{
    mh__commit(&s->base, s->redo_base);
    mh__commit(&s->owed, s->redo_owed);
    if (slot < MOST)
        mh__commit(&s->holders[slot].held, s->redo_held);
    mh__commit(&s->redo, UINT64_C(0));
}

/* Change base, what is owed and one holding together. */
static void change_all(mh_semaphore *s, size_t slot, int64_t base, int64_t owed, int64_t held)
{
    s->redo_base = base;
    s->redo_owed = owed;
    s->redo_held = held;
    mh__commit(&s->redo, slot + 1);
    apply_redo(s, slot);
}

static void add_value(mh_semaphore *s, int64_t count) { mh__commit(&s->value, add(s->value, count)); }

/* After a holder of the lock died: finish what it had committed, and count again. */
static void repair(mh_semaphore *s)
{
    uint64_t redo = mh__peek(&s->redo);
    if (redo >= 1 && redo <= MOST + 1)
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

static mh_err try_enter(mh_semaphore *s) { return enter_result(s, mh_mutex_try(&s->lock)); }
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
    int64_t back = held - set_off;
    change_all(s, slot, subtract(s->base, set_off), add(s->owed, back), 0);
    add_value(s, back);
    return back > 0;
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
    int64_t interval = MH__MAX(sweep_every_ns, used(s) * sweep_holder_ns);
    if (last <= now && subtract(now, last) < interval)
        return false;
    if (!__atomic_compare_exchange_n(&s->swept_ns, &last, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        return false; /* another does it just now */
    return sweep(s, MH_NOW);
}

/* ---- acquire and release ----------------------------------------------------------------------- */

static void spin(const mh_semaphore *s)
{
    int spins = mh__os_usable_cores() > 1 ? SPINS : 0;
    for (int i = 0; i < spins && mh__peek(&s->value) <= 0; i++)
        mh__os_relax();
}

/* False when it can only be taken untracked, which the caller does not want yet. */
static bool take(mh_semaphore *s, bool untracked)
{
    mh__identity self = mh__os_self_process();
    size_t slot = slot_of(s, self);
    if (slot == MOST)
        slot = claim_slot(s, self);
    if (slot < MOST)
        mh__commit(&s->holders[slot].held, add(s->holders[slot].held, 1)); /* here it is taken */
    else if (untracked)
        mh__commit(&s->base, subtract(s->base, 1));
    else
        return false;
    add_value(s, -1);
    return true;
}

/* One try. TIMEOUT: none was free, and *seen is what to sleep on. LIMIT: there is no place to remember the holder in. */
static mh_err try_take(mh_semaphore *s, mh_deadline until, bool has_slept, bool untracked, uint32_t *seen)
{
    mh_err err = enter(s, until);
    if (err)
        return err;
    if (s->value > 0)
        err = take(s, untracked) ? MH_OK : MH_ERR_LIMIT;
    else
        err = MH_ERR_TIMEOUT;
    if (has_slept || (err == MH_ERR_TIMEOUT && until > MH_NOW))
        s->waiting = 1;
    *seen = s->wake;
    /* two releases may have sent one wake: whoever got it passes on what is left */
    leave(s, has_slept && err == MH_OK && s->value > 0 ? 1 : 0);
    return err;
}

/* When all places are taken, those of the dead are freed first. */
static mh_err take_with_room(mh_semaphore *s, mh_deadline until, bool has_slept, uint32_t *seen)
{
    mh_err err = try_take(s, until, has_slept, false, seen);
    if (err != MH_ERR_LIMIT)
        return err;
    sweep_if_due(s);
    return try_take(s, until, has_slept, true, seen);
}

static mh_err sleep_until_free(mh_semaphore *s, mh_deadline until, uint32_t seen)
{
    mh__slice slice = {0};
    for (;;) {
        mh_err err = mh__slice_sleep(&slice, &s->wake, seen, until);
        if (err == MH_ERR_TIMEOUT) {
            sweep_if_due(s);
            err = take_with_room(s, until, true, &seen);
            if (err == MH_ERR_TIMEOUT && mh__has_passed(until))
                return err;
        } else if (err == MH_OK) {
            err = take_with_room(s, until, true, &seen);
        }
        if (err != MH_ERR_TIMEOUT)
            return err;
    }
}

mh_err mh_semaphore_acquire(mh_semaphore *s, mh_deadline until)
{
    if (s->magic != MAGIC)
        return mh__sync_corrupt("semaphore");
    uint32_t seen = 0;
    if (until > MH_NOW && mh__peek(&s->value) <= 0)
        spin(s);
    mh_err err = take_with_room(s, until, false, &seen);
    if (err != MH_ERR_TIMEOUT)
        return err;
    if (until <= MH_NOW)
        return sweep_if_due(s) ? take_with_room(s, until, false, &seen) : MH_ERR_TIMEOUT;
    return sleep_until_free(s, until, seen);
}

mh_err mh_semaphore_try(mh_semaphore *s)
{
    if (s->magic != MAGIC)
        return mh__sync_corrupt("semaphore");
    if (mh__peek(&s->value) <= 0)
        return MH_ERR_TIMEOUT;
    mh_err err = try_enter(s);
    if (err)
        return err;
    if (s->value <= 0 || !take(s, false))
        err = MH_ERR_TIMEOUT;
    leave(s, 0);
    return err;
}

/* First what the caller holds itself, then what it owes for the dead, which adds nothing, then more than there was.
 * Under the lock. errors: FULL. */
static mh_err give(mh_semaphore *s, int64_t count, int64_t *added)
{
    size_t slot = slot_of(s, mh__os_self_process());
    int64_t held = slot == MOST ? 0 : s->holders[slot].held;
    int64_t own = MH__MIN(MH__MAX(held, INT64_C(0)), count);
    int64_t forgiven = MH__MIN(MH__MAX(s->owed, INT64_C(0)), count - own);
    int64_t more = count - own - forgiven;
    *added = own + more;
    if (s->max - s->value < *added)
        return mh__fail(MH_ERR_FULL, "releasing %lld permits of a semaphore that has %lld of at most %lld", (long long)count,
                        (long long)s->value, (long long)s->max);
    if (own == count)
        mh__commit(&s->holders[slot].held, held - count);
    else if (more == count)
        mh__commit(&s->base, add(s->base, count));
    else
        change_all(s, slot, add(s->base, more), s->owed - forgiven, held - own);
    add_value(s, *added);
    return MH_OK;
}

static mh_err give_and_leave(mh_semaphore *s, uint32_t count)
{
    int64_t added = 0;
    mh_err err = give(s, count, &added);
    leave(s, err ? 0 : (uint32_t)added);
    return err;
}

mh_err mh_semaphore_release(mh_semaphore *s, uint32_t count)
{
    if (s->magic != MAGIC)
        return mh__sync_corrupt("semaphore");
    mh_err err = count ? enter_firmly(s) : MH_OK;
    return err || count == 0 ? err : give_and_leave(s, count);
}

mh_err mh_semaphore_try_release(mh_semaphore *s, uint32_t count)
{
    if (s->magic != MAGIC)
        return mh__sync_corrupt("semaphore");
    mh_err err = count ? try_enter(s) : MH_OK;
    return err || count == 0 ? err : give_and_leave(s, count);
}

mh_err mh_semaphore_disown(mh_semaphore *s)
{
    if (s->magic != MAGIC)
        return mh__sync_corrupt("semaphore");
    mh_err err = enter_firmly(s);
    if (err)
        return err;
    size_t slot = slot_of(s, mh__os_self_process());
    int64_t held = slot == MOST ? 0 : s->holders[slot].held;
    if (held > 0)
        change_all(s, slot, subtract(s->base, held), s->owed, 0);
    leave(s, 0);
    return MH_OK;
}

uint32_t mh_semaphore_value(const mh_semaphore *s)
{
    int64_t value = mh__peek(&s->value);
    return s->magic == MAGIC && value > 0 && value <= MH_SEMAPHORE_VALUE_MAX ? (uint32_t)value : 0;
}
