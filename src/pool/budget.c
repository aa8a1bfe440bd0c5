#include "pool/budget.h"

#include "base/error.h"
#include "base/number.h"
#include "os/futex.h"

#define BUDGET_MAGIC UINT64_C(0x7465676475626d68)
enum { LAYOUT_VERSION = 1, DEPTH_MAX = 16, BUSY_SHARE = 8 };
#define INSPECT_NS (4 * MH_MILLISECOND)
#define STALE_NS (100 * MH_MILLISECOND) /* what was seen longer ago says nothing about now */
#define FORCE_NS (2 * MH_SECOND)

void mh__budget_init(mh__budget *b, uint32_t cores)
{
    b->version = LAYOUT_VERSION;
    b->cores = cores;
    b->magic = BUDGET_MAGIC;
}

mh_err mh__budget_check(const mh__budget *b, size_t size)
{
    if (size < sizeof *b || b->magic != BUDGET_MAGIC || b->version != LAYOUT_VERSION)
        return mh__fail(MH_ERR_CORRUPT, "%zu bytes that are no budget of this library's version", size);
    return MH_OK;
}

static mh__seat *seat_at(mh__budget *b, uint32_t seat) { return &b->seats[(seat - 1) % MH__SEATS]; }

static uint32_t used(const mh__budget *b) { return MH__MIN(atomic_load(&b->used), (uint32_t)MH__SEATS); }

static uint32_t state_of(const mh__seat *s) { return atomic_load(&s->state); }

/* ---- seats ------------------------------------------------------------------------------------- */

static bool claim(mh__budget *b, uint32_t at, uint64_t from, mh__identity who)
{
    mh__seat *s = &b->seats[at];
    if (!atomic_compare_exchange_strong(&s->who, &from, who))
        return false;
    /* killed before this, it leaves its predecessor's state: that of a dead process, whichever it was */
    atomic_store(&s->state, MH__SEAT_IDLE);
    atomic_store(&s->heir, 0);
    atomic_store(&s->owner, 0);
    atomic_store(&s->seen_ns, 0);
    uint32_t count = atomic_load(&b->used);
    while (count <= at && !atomic_compare_exchange_weak(&b->used, &count, at + 1))
        ;
    return true;
}

uint32_t mh__budget_sit(mh__budget *b, mh__identity who)
{
    for (uint32_t i = 0; i < MH__SEATS; i++)
        if (atomic_load(&b->seats[i].who) == 0 && claim(b, i, 0, who))
            return i + 1;
    for (uint32_t i = 0; i < MH__SEATS; i++) {
        uint64_t sitter = atomic_load(&b->seats[i].who);
        if (!mh__os_is_process_alive(sitter) && claim(b, i, sitter, who))
            return i + 1;
    }
    return 0;
}

/* ---- waking ------------------------------------------------------------------------------------ */

static bool call(mh__seat *s)
{
    uint32_t waits = MH__SEAT_WAITS;
    if (!atomic_load(&s->who) || !atomic_compare_exchange_strong(&s->state, &waits, MH__SEAT_IDLE))
        return false;
    atomic_fetch_add(&s->wake, 1);
    mh__os_futex_wake(&s->wake, 1);
    return true;
}

/* Wake one that waits: of the workers of `owner`'s pools, or, with 0, anybody, each in turn. */
static bool wake_one(mh__budget *b, uint32_t owner)
{
    if (!atomic_load(&b->waiting))
        return false;
    uint32_t count = used(b), first = owner ? 0 : atomic_load(&b->next);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = (first + i) % count;
        if ((owner && atomic_load(&b->seats[at].owner) != owner) || !call(&b->seats[at]))
            continue;
        if (!owner)
            atomic_store(&b->next, at + 1);
        return true;
    }
    if (!owner)
        atomic_store(&b->waiting, 0); /* who comes to wait now says so first, and tries again */
    return false;
}

/* A seat does not run any more: its heritage goes to one of its siblings first. */
static void pass_on(mh__budget *b, mh__seat *s)
{
    uint32_t owner = atomic_load(&s->owner);
    if (!owner || !wake_one(b, owner))
        wake_one(b, 0);
}

void mh__budget_leave(mh__budget *b, uint32_t seat)
{
    if (!seat)
        return;
    mh__seat *s = seat_at(b, seat);
    atomic_store(&s->state, MH__SEAT_IDLE);
    atomic_store(&s->who, 0);
    pass_on(b, s);
}

void mh__budget_forget(mh__budget *b, int32_t pid)
{
    for (uint32_t i = 0; i < used(b); i++) {
        uint64_t who = atomic_load(&b->seats[i].who);
        if (who && mh__identity_number(who) == pid && !mh__os_is_process_alive(who) &&
            atomic_compare_exchange_strong(&b->seats[i].who, &who, 0))
            pass_on(b, &b->seats[i]);
    }
}

/* ---- running ----------------------------------------------------------------------------------- */

/* Seats but `seat` that run, or ask and were there before it: of two who ask at once for the last core, one gets it. */
static uint32_t count_running(const mh__budget *b, uint32_t seat)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < used(b); i++) {
        const mh__seat *s = &b->seats[i];
        uint32_t state = state_of(s);
        if (i + 1 == seat || !atomic_load(&s->who))
            continue;
        count += state == MH__SEAT_RUNS || (state == MH__SEAT_ASKS && i + 1 < seat);
    }
    return count;
}

/* Whether the owner's core is used by an heir: one that runs, or is away and has an heir of its own. */
static bool is_used_by(mh__budget *b, uint32_t owner, uint32_t heir)
{
    for (int depth = 0; heir && heir <= MH__SEATS && depth < DEPTH_MAX; depth++) {
        const mh__seat *s = seat_at(b, heir);
        if (!atomic_load(&s->who) || atomic_load(&s->owner) != owner)
            return false;
        if (state_of(s) != MH__SEAT_AWAY)
            return state_of(s) == MH__SEAT_RUNS || state_of(s) == MH__SEAT_SLEEPS;
        owner = heir;
        heir = atomic_load(&s->heir);
    }
    return false;
}

static bool can_inherit(mh__budget *b, uint32_t seat, uint32_t owner, uint32_t *heir)
{
    if (!owner || owner > MH__SEATS)
        return false;
    mh__seat *o = seat_at(b, owner);
    *heir = atomic_load(&o->heir);
    return state_of(o) == MH__SEAT_AWAY && (*heir == seat || !is_used_by(b, owner, *heir));
}

static bool inherit(mh__budget *b, uint32_t seat, uint32_t owner)
{
    uint32_t heir;
    return can_inherit(b, seat, owner, &heir) && atomic_compare_exchange_strong(&seat_at(b, owner)->heir, &heir, seat);
}

static bool can_run(mh__budget *b, uint32_t seat, uint32_t owner)
{
    uint32_t heir;
    return can_inherit(b, seat, owner, &heir) || count_running(b, seat) < b->cores;
}

bool mh__budget_try(mh__budget *b, uint32_t seat, uint32_t owner)
{
    if (!seat)
        return true;
    mh__seat *s = seat_at(b, seat);
    atomic_store(&s->owner, owner);
    atomic_store(&s->state, MH__SEAT_ASKS);
    bool may = inherit(b, seat, owner) || count_running(b, seat) < b->cores;
    atomic_store(&s->state, may ? MH__SEAT_RUNS : MH__SEAT_IDLE);
    return may;
}

void mh__budget_run(mh__budget *b, uint32_t seat)
{
    if (seat)
        atomic_store(&seat_at(b, seat)->state, MH__SEAT_RUNS);
}

bool mh__budget_runs(const mh__budget *b, uint32_t seat)
{
    return !seat || atomic_load_explicit(&b->seats[(seat - 1) % MH__SEATS].state, memory_order_relaxed) == MH__SEAT_RUNS;
}

void mh__budget_idle(mh__budget *b, uint32_t seat)
{
    if (!seat)
        return;
    mh__seat *s = seat_at(b, seat);
    atomic_store(&s->state, MH__SEAT_IDLE);
    pass_on(b, s);
}

void mh__budget_away(mh__budget *b, uint32_t seat)
{
    if (!seat)
        return;
    /* waits are cut into slices: who inherited in the last goes on in this one */
    atomic_store(&seat_at(b, seat)->state, MH__SEAT_AWAY);
    wake_one(b, seat);
}

/* ---- waiting ----------------------------------------------------------------------------------- */

/* True when that freed a core. */
static bool inspect_seat(mh__seat *s, int64_t now)
{
    uint64_t who = atomic_load(&s->who);
    uint32_t state = state_of(s);
    if (!who || (state != MH__SEAT_RUNS && state != MH__SEAT_SLEEPS && state != MH__SEAT_ASKS))
        return false;
    mh__activity now_at;
    if (!mh__os_activity(who, &now_at))
        return atomic_compare_exchange_strong(&s->who, &who, 0);
    int64_t gap = now - atomic_exchange(&s->seen_ns, now), ran = now_at.cpu_ns - atomic_exchange(&s->ran_ns, now_at.cpu_ns);
    if (gap <= 0 || gap > STALE_NS)
        return false;
    bool is_busy = now_at.is_runnable || ran > gap / BUSY_SHARE;
    if (is_busy && state == MH__SEAT_SLEEPS)
        atomic_compare_exchange_strong(&s->state, &state, MH__SEAT_RUNS);
    return !is_busy && state == MH__SEAT_RUNS && atomic_compare_exchange_strong(&s->state, &state, MH__SEAT_SLEEPS);
}

static void inspect(mh__budget *b)
{
    int64_t now = mh_now(), due = atomic_load(&b->inspect_ns);
    if ((now < due && due - now <= INSPECT_NS) || !atomic_compare_exchange_strong(&b->inspect_ns, &due, now + INSPECT_NS))
        return;
    for (uint32_t i = 0; i < used(b); i++)
        if (inspect_seat(&b->seats[i], now))
            pass_on(b, &b->seats[i]);
}

void mh__budget_wait(mh__budget *b, uint32_t seat, uint32_t owner, int64_t slice_ns)
{
    if (!seat)
        return;
    mh__seat *s = seat_at(b, seat);
    uint32_t seen = atomic_load(&s->wake);
    atomic_store(&s->owner, owner);
    atomic_store(&s->state, MH__SEAT_WAITS);
    atomic_store(&b->waiting, 1);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the store of a state that is not RUNS any more before `waiting` is looked at */
    if (can_run(b, seat, owner) || mh__os_futex_wait(&s->wake, seen, mh_deadline_in(slice_ns)) == MH_ERR_TIMEOUT)
        inspect(b);
    uint32_t waits = MH__SEAT_WAITS;
    atomic_compare_exchange_strong(&s->state, &waits, MH__SEAT_IDLE);
}

bool mh__budget_force(mh__budget *b, int64_t since_ns)
{
    int64_t now = mh_now(), due = atomic_load(&b->force_ns);
    if (now - since_ns < FORCE_NS || (now < due && due - now <= FORCE_NS))
        return false;
    return atomic_compare_exchange_strong(&b->force_ns, &due, now + FORCE_NS);
}

bool mh__budget_is_wanted(const mh__budget *b) { return atomic_load_explicit(&b->waiting, memory_order_relaxed) != 0; }

uint32_t mh__budget_free(const mh__budget *b)
{
    uint32_t running = count_running(b, 0);
    return running < b->cores ? b->cores - running : 0;
}
