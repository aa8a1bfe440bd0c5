/* A condition is a table of waiters under a mutex that survives its holder. Each waiter has a ticket (the order of arrival)
 * and sleeps on its own state word, so that a notification names whom it wakes and nobody else wakes.
 *
 * A waiter stays in the table until it holds the caller's mutex again. If it is found dead there and notified, its
 * notification passes to the waiter that has waited longest, among those who waited when it was sent (ticket <= bound).
 * Every step commits by one store: who != 0 below `used` is a waiter, state tells whether it is notified, and
 * `redo` (receiver and giver in one word) passes a notification on.
 */
#include "base/error.h"
#include "base/number.h"
#include "os/identity.h"
#include "sync/wait.h"

#include <stddef.h>
#include <string.h>

#define MAGIC MH__SYNC_MAGIC('c', 1)

enum { MOST = MH_COND_WAITERS_MAX, WAITING = 0, NOTIFIED = 1 };

_Static_assert(sizeof(mh_cond) == 40 + 32 * MOST && offsetof(mh_cond, waiters) == 40, "layout between processes");

typedef struct slot_set {
    uint64_t bits[MOST / 64];
} slot_set;

static void set_add(slot_set *set, size_t slot) { set->bits[slot / 64] |= UINT64_C(1) << slot % 64; }

mh_err mh_cond_init(mh_cond *c)
{
    mh_err err = mh__sync_check_place(c, "condition");
    if (err)
        return err;
    memset(c, 0, offsetof(mh_cond, waiters)); /* places beyond `used` are never read */
    c->next_ticket = 1;
    err = mh_mutex_init(&c->lock, MH_MUTEX_CHECKED);
    if (!err)
        c->magic = MAGIC;
    return err;
}

void mh_cond_fini(mh_cond *c)
{
    c->magic = 0;
    mh_mutex_fini(&c->lock);
}

/* ---- under the lock ---------------------------------------------------------------------------- */

static size_t used(const mh_cond *c)
{
    uint32_t count = mh__peek(&c->used);
    return MH__MIN(count, (uint32_t)MOST);
}

static bool is_waiting(const mh_cond *c, size_t slot)
{
    return mh__peek(&c->waiters[slot].who) && mh__peek(&c->waiters[slot].state) == WAITING;
}

static void notify_slot(mh_cond *c, size_t slot, uint64_t bound)
{
    mh__commit(&c->waiters[slot].bound, bound);
    mh__commit(&c->waiters[slot].state, (uint32_t)NOTIFIED);
}

static void free_slot(mh_cond *c, size_t slot)
{
    mh__commit(&c->waiters[slot].who, UINT64_C(0));
    size_t count = used(c);
    while (count && !c->waiters[count - 1].who)
        mh__commit(&c->used, (uint32_t)--count);
}

static void apply_redo(mh_cond *c, size_t from, size_t to)
{
    notify_slot(c, to, c->waiters[from].bound);
    mh__commit(&c->waiters[from].who, UINT64_C(0));
    mh__commit(&c->redo, UINT64_C(0));
}

static void pass_on(mh_cond *c, size_t from, size_t to)
{
    mh__commit(&c->redo, UINT64_C(1) << 63 | (uint64_t)from << 16 | to);
    apply_redo(c, from, to);
}

static mh_err enter_result(mh_cond *c, mh_err err)
{
    if (err != MH_ERR_OWNER_DIED)
        return err;
    uint64_t redo = mh__peek(&c->redo);
    size_t from = redo >> 16 & 0xffff, to = redo & 0xffff;
    if (redo >> 63 && from < MOST && to < MOST)
        apply_redo(c, from, to);
    mh_mutex_recover(&c->lock);
    return MH_OK;
}

static mh_err enter_firmly(mh_cond *c) { return enter_result(c, mh__inner_lock_firmly(&c->lock)); }

/* The waiter not notified that has waited longest, with a ticket up to `bound`; MOST if there is none. */
static size_t oldest(const mh_cond *c, uint64_t bound)
{
    size_t best = MOST;
    for (size_t i = 0; i < used(c); i++)
        if (is_waiting(c, i) && c->waiters[i].ticket <= bound &&
            (best == MOST || c->waiters[i].ticket < c->waiters[best].ticket))
            best = i;
    return best;
}

static void wake(mh_cond *c, const slot_set *slots)
{
    for (size_t word = 0; word < MOST / 64; word++)
        for (uint64_t bits = slots->bits[word]; bits; bits &= bits - 1)
            mh__sync_wake(&c->waiters[word * 64 + (size_t)__builtin_ctzll(bits)].state, 1);
}

/* ---- the dead ---------------------------------------------------------------------------------- */

/* Looking whether threads live is slow, so it is done outside the lock: who has ended stays ended. */
static bool find_dead(const mh_cond *c, bool only_notified, mh__identity dead[MOST])
{
    bool found = false;
    size_t count = used(c);
    for (size_t i = 0; i < MOST; i++) {
        mh__identity who = i < count ? mh__peek(&c->waiters[i].who) : 0;
        bool counts = who && !(only_notified && is_waiting(c, i));
        dead[i] = counts && !mh__os_is_alive(who) ? who : 0;
        found |= dead[i] != 0;
    }
    return found;
}

/* First the dead who wait, so that no notification passes to them, then those who were notified. */
static void remove_dead(mh_cond *c, const mh__identity dead[MOST], slot_set *woken)
{
    for (size_t i = 0; i < used(c); i++)
        if (dead[i] && c->waiters[i].who == dead[i] && is_waiting(c, i))
            free_slot(c, i);
    for (size_t i = 0; i < used(c); i++) {
        if (!dead[i] || c->waiters[i].who != dead[i])
            continue;
        size_t to = oldest(c, c->waiters[i].bound);
        if (to == MOST) {
            free_slot(c, i);
        } else {
            pass_on(c, i, to);
            set_add(woken, to);
        }
    }
}

static mh_err sweep(mh_cond *c, bool only_notified)
{
    mh__identity dead[MOST];
    if (!find_dead(c, only_notified, dead))
        return MH_OK;
    mh_err err = enter_result(c, mh__inner_lock(&c->lock, MH_NOW));
    if (err)
        return err;
    slot_set woken = {{0}};
    remove_dead(c, dead, &woken);
    mh_mutex_unlock(&c->lock);
    wake(c, &woken);
    return MH_OK;
}

/* ---- waiting ----------------------------------------------------------------------------------- */

static mh_err claim(mh_cond *c, mh_cond_ticket *ticket)
{
    mh_err err = enter_firmly(c);
    if (err)
        return err;
    size_t count = used(c), i = 0;
    while (i < count && c->waiters[i].who)
        i++;
    if (i < MOST) {
        *ticket = (mh_cond_ticket){.number = c->next_ticket, .slot = (uint32_t)i};
        mh__commit(&c->next_ticket, ticket->number + 1);
        mh__commit(&c->waiters[i].ticket, ticket->number);
        mh__commit(&c->waiters[i].state, (uint32_t)WAITING);
        mh__commit(&c->waiters[i].who, mh__os_self_thread());
        if (i == count)
            mh__commit(&c->used, (uint32_t)i + 1);
    } else {
        err = mh__fail(MH_ERR_LIMIT, "%d threads wait for this condition already", MOST);
    }
    mh_mutex_unlock(&c->lock);
    return err;
}

mh_err mh_cond_enter(mh_cond *c, mh_cond_ticket *ticket)
{
    if (c->magic != MAGIC)
        return mh__sync_corrupt("condition");
    mh_err err = claim(c, ticket);
    if (err != MH_ERR_LIMIT)
        return err;
    err = sweep(c, false);
    return err ? err : claim(c, ticket);
}

static bool is_valid(const mh_cond *c, const mh_cond_ticket *ticket)
{
    return c->magic == MAGIC && ticket->slot < MOST && mh__peek(&c->waiters[ticket->slot].ticket) == ticket->number;
}

mh_err mh_cond_await(mh_cond *c, const mh_cond_ticket *ticket, mh_deadline until)
{
    mh__slice slice = {0};
    if (!is_valid(c, ticket))
        return mh__sync_corrupt("condition");
    uint32_t *state = &c->waiters[ticket->slot].state;
    for (;;) {
        uint32_t seen = mh__peek(state);
        if (seen != WAITING)
            return seen == NOTIFIED ? MH_OK : mh__sync_corrupt("condition");
        if (until <= MH_NOW)
            return MH_ERR_TIMEOUT;
        mh_err err = mh__slice_sleep(&slice, state, WAITING, until);
        if (!is_valid(c, ticket))
            return mh__sync_corrupt("condition");
        if (err == MH_ERR_TIMEOUT) {
            sweep(c, true); /* a notification may pass to the caller */
            err = mh__has_passed(until) ? MH_ERR_TIMEOUT : MH_OK;
        }
        if (err && mh__peek(state) != NOTIFIED)
            return err;
    }
}

mh_err mh_cond_leave(mh_cond *c, const mh_cond_ticket *ticket)
{
    if (!is_valid(c, ticket))
        return mh__sync_corrupt("condition");
    mh_err err = enter_firmly(c);
    if (err)
        return err;
    err = mh__peek(&c->waiters[ticket->slot].state) == NOTIFIED ? MH_OK : MH_ERR_TIMEOUT;
    free_slot(c, ticket->slot);
    mh_mutex_unlock(&c->lock);
    return err;
}

/* ---- notifying --------------------------------------------------------------------------------- */

static uint32_t count_waiting(const mh_cond *c)
{
    uint32_t count = 0;
    for (size_t i = 0; i < used(c); i++)
        count += is_waiting(c, i);
    return count;
}

static void notify(mh_cond *c, uint32_t count, slot_set *woken)
{
    uint64_t bound = c->next_ticket - 1; /* all who wait now, nobody who comes later */
    if (count >= MOST || count >= count_waiting(c)) {
        for (size_t i = 0; i < used(c); i++) {
            if (is_waiting(c, i)) {
                notify_slot(c, i, bound);
                set_add(woken, i);
            }
        }
        return;
    }
    for (; count > 0; count--) {
        size_t slot = oldest(c, UINT64_MAX);
        if (slot == MOST) /* memory that changed under the lock */
            return;
        notify_slot(c, slot, bound);
        set_add(woken, slot);
    }
}

mh_err mh_cond_notify(mh_cond *c, uint32_t count)
{
    if (c->magic != MAGIC)
        return mh__sync_corrupt("condition");
    mh_err err = enter_firmly(c);
    if (err)
        return err;
    slot_set woken = {{0}};
    notify(c, count, &woken);
    mh_mutex_unlock(&c->lock);
    wake(c, &woken);
    return MH_OK;
}

uint32_t mh_cond_count_waiting(const mh_cond *c) { return c->magic == MAGIC ? count_waiting(c) : 0; }

/* ---- with the caller's mutex ------------------------------------------------------------------- */

static mh_err lock_again(mh_mutex *m)
{
    for (;;) {
        mh_err err = mh_mutex_lock(m, MH_FOREVER);
        if (err != MH_ERR_INTERRUPTED && err != MH_ERR_TIMEOUT)
            return err;
    }
}

mh_err mh_cond_wait(mh_cond *c, mh_mutex *m, mh_deadline until)
{
    mh_cond_ticket ticket;
    if (!(m->flags & MH_MUTEX_ANYONE ? mh_mutex_is_locked(m) : mh_mutex_is_mine(m)))
        return mh__fail(MH_ERR_NOT_OWNER, "waiting with a mutex that the caller does not hold");
    mh_err err = mh_cond_enter(c, &ticket);
    if (err)
        return err;
    err = mh_mutex_unlock(m);
    if (err) {
        mh_cond_leave(c, &ticket);
        return err;
    }
    err = mh_cond_await(c, &ticket, until);
    mh_err locked = lock_again(m);
    /* only now, with the mutex held: until here a notification that the caller could not use passes on */
    mh_err left = mh_cond_leave(c, &ticket);
    if (locked || left != MH_ERR_TIMEOUT)
        return locked ? locked : left;
    return err;
}

mh_err mh_cond_wait_recursive(mh_cond *c, mh_rmutex *m, mh_deadline until)
{
    uint32_t depth = mh_rmutex_depth(m);
    if (depth == 0)
        return mh__fail(MH_ERR_NOT_OWNER, "waiting with a recursive mutex that the caller does not hold");
    mh_err err = mh_cond_wait(c, &m->mutex, until);
    m->depth = depth;
    return err;
}
