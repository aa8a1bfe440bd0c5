/* A barrier is one 64-bit word under a mutex that survives its holder: the number of the round (low half, on which the
 * parties sleep), how many have arrived, and whether it is broken. Opening, breaking and arriving are each one store of
 * that word, after what belongs to it: the arrived party's identity, or the bit that tells how the round ended.
 *
 * Who waits looks, a few at a time, whether the others that have arrived still live. One that died breaks the
 * round. A last party that dies before it opens is one of them.
 */
#include "base/error.h"
#include "base/number.h"
#include "os/identity.h"
#include "sync/wait.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

#define MAGIC MH__SYNC_MAGIC('b', 1)
#define BROKEN (UINT64_C(1) << 63)

enum { MOST = MH_BARRIER_PARTIES_MAX, ROUNDS_KEPT = 64, LOOKED_AT = 4 };

_Static_assert(sizeof(mh_barrier) == 48 + 8 * MOST && offsetof(mh_barrier, arrived) == 48, "layout between processes");

static uint32_t round_of(uint64_t state) { return (uint32_t)state; }
static uint32_t count_of(uint64_t state) { return (uint32_t)(state >> 32) & 0xffff; }
static uint64_t make_state(uint32_t round, uint32_t count, uint64_t broken)
{
    return (uint64_t)count << 32 | round | broken;
}
static uint32_t *round_word(mh_barrier *b) { return (uint32_t *)(void *)&b->state; }

mh_err mh_barrier_init(mh_barrier *b, uint32_t parties)
{
    mh_err err = mh__sync_check_place(b, "barrier");
    if (err)
        return err;
    if (parties == 0 || parties > MOST)
        return mh__fail(MH_ERR_INVALID, "a barrier has 1 to %d parties, not %u", MOST, parties);
    memset(b, 0, offsetof(mh_barrier, arrived));
    b->parties = parties;
    err = mh_mutex_init(&b->lock, MH_MUTEX_CHECKED);
    if (!err)
        b->magic = MAGIC;
    return err;
}

void mh_barrier_fini(mh_barrier *b)
{
    b->magic = 0;
    mh_mutex_fini(&b->lock);
}

/* Nothing to repair after a dead holder: state is whole at every instruction. */
static mh_err enter_result(mh_barrier *b, mh_err err)
{
    if (err != MH_ERR_OWNER_DIED)
        return err;
    mh_mutex_recover(&b->lock);
    return MH_OK;
}

static mh_err enter(mh_barrier *b, mh_deadline until) { return enter_result(b, mh__inner_lock(&b->lock, until)); }
static mh_err enter_firmly(mh_barrier *b) { return enter_result(b, mh__inner_lock_firmly(&b->lock)); }

/* End the round: under the lock, which it unlocks. `broken` is the state of the barrier that follows. */
static void end_round(mh_barrier *b, bool round_broke, uint64_t broken)
{
    uint32_t round = round_of(b->state);
    uint64_t bit = UINT64_C(1) << round % ROUNDS_KEPT;
    mh__commit(&b->broken_rounds, round_broke ? b->broken_rounds | bit : b->broken_rounds & ~bit);
    mh__commit(&b->state, make_state(round + 1, 0, broken));
    mh_mutex_unlock(&b->lock);
    mh__sync_wake(round_word(b), INT_MAX);
}

static mh_err broken(void) { return mh__fail(MH_ERR_BROKEN, "the barrier is broken"); }

/* How the caller's round ended, when `seen` shows a later one. */
static mh_err outcome(const mh_barrier *b, uint64_t seen, uint32_t round)
{
    uint32_t since = round_of(seen) - round;
    bool broke = since > ROUNDS_KEPT || mh__peek(&b->broken_rounds) >> round % ROUNDS_KEPT & 1;
    return broke ? broken() : MH_OK;
}

/* Break the given round if it is still going on, and tell how it ended. */
static mh_err break_round(mh_barrier *b, uint32_t round)
{
    mh_err err = enter_firmly(b);
    if (err)
        return err;
    uint64_t seen = b->state;
    if (round_of(seen) == round) {
        end_round(b, true, BROKEN);
        return broken();
    }
    mh_mutex_unlock(&b->lock);
    return outcome(b, seen, round);
}

/* Look at a few parties that have arrived, the next ones at each call, and break the round if one has died. */
static void look_at_others(mh_barrier *b, uint32_t round)
{
    uint64_t seen = mh__peek(&b->state);
    uint32_t count = MH__MIN(count_of(seen), (uint32_t)MOST);
    if (count == 0 || round_of(seen) != round)
        return;
    uint32_t from = __atomic_fetch_add(&b->cursor, LOOKED_AT, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < MH__MIN(count, (uint32_t)LOOKED_AT); i++) {
        mh__identity who = mh__peek(&b->arrived[(from + i) % count]);
        /* the place holds the round's party only if the round is still the same after reading it */
        if (round_of(mh__peek(&b->state)) != round)
            return;
        if (who != mh__os_self_thread() && !mh__os_is_alive(who)) {
            break_round(b, round);
            return;
        }
    }
}

/* Sleep until the state is no longer of `round`. errors: TIMEOUT, INTERRUPTED. */
static mh_err sleep_through(mh_barrier *b, uint32_t round, mh_deadline until)
{
    mh__slice slice = {0};
    while (round_of(mh__peek(&b->state)) == round) {
        if (until <= MH_NOW)
            return MH_ERR_TIMEOUT;
        mh_err err = mh__slice_sleep(&slice, round_word(b), round, until);
        if (err == MH_ERR_TIMEOUT) {
            look_at_others(b, round);
            err = mh__has_passed(until) ? MH_ERR_TIMEOUT : MH_OK;
        }
        if (err && round_of(mh__peek(&b->state)) == round)
            return err;
    }
    return MH_OK;
}

/* Under the lock. False when all have arrived and the last runs its action. */
static bool join_round(mh_barrier *b, mh_barrier_ticket *ticket)
{
    uint32_t round = round_of(b->state), count = count_of(b->state);
    if (count >= b->parties || count >= MOST)
        return false;
    *ticket = (mh_barrier_ticket){.round = round, .index = count, .is_last = count + 1 == b->parties};
    mh__commit(&b->arrived[count], mh__os_self_thread());
    mh__commit(&b->state, make_state(round, count + 1, 0));
    return true;
}

mh_err mh_barrier_arrive(mh_barrier *b, mh_deadline until, mh_barrier_ticket *ticket)
{
    for (;;) {
        if (b->magic != MAGIC || b->parties == 0 || b->parties > MOST)
            return mh__sync_corrupt("barrier");
        mh_err err = enter(b, until);
        if (err)
            return err;
        uint64_t seen = b->state;
        bool joined = !(seen & BROKEN) && join_round(b, ticket);
        mh_mutex_unlock(&b->lock);
        if (seen & BROKEN)
            return broken();
        if (joined)
            return MH_OK;
        err = sleep_through(b, round_of(seen), until);
        if (err)
            return err;
    }
}

mh_err mh_barrier_await(mh_barrier *b, const mh_barrier_ticket *ticket, mh_deadline until)
{
    if (b->magic != MAGIC)
        return mh__sync_corrupt("barrier");
    mh_err err = sleep_through(b, ticket->round, until);
    return err ? err : outcome(b, mh__peek(&b->state), ticket->round);
}

mh_err mh_barrier_open(mh_barrier *b, const mh_barrier_ticket *ticket)
{
    if (b->magic != MAGIC)
        return mh__sync_corrupt("barrier");
    if (!ticket->is_last)
        return mh__fail(MH_ERR_NOT_OWNER, "only the last to arrive opens a barrier");
    mh_err err = enter_firmly(b);
    if (err)
        return err;
    uint64_t seen = b->state;
    if (round_of(seen) == ticket->round && !(seen & BROKEN)) {
        end_round(b, false, 0);
        return MH_OK;
    }
    mh_mutex_unlock(&b->lock);
    return broken();
}

mh_err mh_barrier_leave(mh_barrier *b, const mh_barrier_ticket *ticket)
{
    return b->magic == MAGIC ? break_round(b, ticket->round) : mh__sync_corrupt("barrier");
}

static mh_err end_whatever(mh_barrier *b, uint64_t state_after)
{
    if (b->magic != MAGIC)
        return mh__sync_corrupt("barrier");
    mh_err err = enter_firmly(b);
    if (!err)
        end_round(b, true, state_after);
    return err;
}

mh_err mh_barrier_abort(mh_barrier *b) { return end_whatever(b, BROKEN); }
mh_err mh_barrier_reset(mh_barrier *b) { return end_whatever(b, 0); }

static mh_err act_and_open(mh_barrier *b, const mh_barrier_ticket *ticket, mh_barrier_action_fn action, void *ctx)
{
    mh_err err = action ? action(ctx) : MH_OK;
    if (!err)
        return mh_barrier_open(b, ticket);
    mh_barrier_leave(b, ticket);
    return err;
}

mh_err mh_barrier_wait(mh_barrier *b, mh_deadline until, mh_barrier_action_fn action, void *ctx, uint32_t *index)
{
    mh_barrier_ticket ticket;
    mh_err err = mh_barrier_arrive(b, until, &ticket);
    if (err == MH_ERR_TIMEOUT || err == MH_ERR_INTERRUPTED)
        mh_barrier_abort(b);
    if (err)
        return err;
    if (ticket.is_last) {
        err = act_and_open(b, &ticket, action, ctx);
    } else {
        err = mh_barrier_await(b, &ticket, until);
        if ((err == MH_ERR_TIMEOUT || err == MH_ERR_INTERRUPTED) && mh_barrier_leave(b, &ticket) == MH_OK)
            err = MH_OK; /* it opened in the last moment */
    }
    if (!err && index)
        *index = ticket.index;
    return err;
}

uint32_t mh_barrier_count_waiting(const mh_barrier *b)
{
    uint32_t count = count_of(mh__peek(&b->state));
    return b->magic == MAGIC && count < b->parties ? count : 0;
}

bool mh_barrier_is_broken(const mh_barrier *b) { return b->magic == MAGIC && mh__peek(&b->state) & BROKEN; }
uint32_t mh_barrier_parties(const mh_barrier *b) { return b->magic == MAGIC ? b->parties : 0; }
