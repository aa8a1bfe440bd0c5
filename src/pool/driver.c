/* The scheduler's driver: collect what the workers finished, let the scheduler decide, carry out what it says, wake the workers. */
#include "base/error.h"
#include "base/number.h"
#include "os/fd.h"
#include "pool/pool.h"

#include <string.h>

enum { ACTIONS = 64, LOOK_AGAIN_MS = 1000, LEAVE_MS = 1000, FAR_ALIGN = MH__ARENA_ALIGN };
#define STALL_NS (1 * MH_MILLISECOND)
#define LOOK_IDLE_NS (5 * MH_MILLISECOND)
#define PROBE_LEAST_NS (5 * MH_MILLISECOND)
#define PROBE_MOST_NS (100 * MH_MILLISECOND)

/* ---- collect ---------------------------------------------------------------------------------- */

/* Copy, check, use: the worker may be anything. */
static bool read_answer(mh__hand *hand, const mh__slot *slot, mh_future *f)
{
    int32_t err = slot->err;
    uint16_t flags = slot->reply_flags, size = slot->reply_size;
    if (flags & ~MH__SLOT_FAR || err < 0)
        return false;
    if (flags & MH__SLOT_FAR) {
        mh__slot_far far;
        memcpy(&far, slot->reply, sizeof far);
        if (mh__hand_open_replies(hand))
            return false;
        void *at = mh__arena_view_at(&hand->replies, far.offset, far.size);
        if (!at || far.offset % FAR_ALIGN)
            return false;
        f->reply = (mh_bytes){at, (size_t)far.size};
        f->far_reply = far.offset;
        f->reply_hand = hand;
        hand->refs++;
        hand->pool->stats.reply_bytes += f->reply.size;
    } else {
        if (size > MH__SLOT_REPLY_BYTES)
            return false;
        memcpy(f->bytes, slot->reply, size);
        f->reply = (mh_bytes){f->bytes, size};
    }
    f->err = err;
    f->worker_pid = hand->pid;
    f->signal = f->exit_code = 0;
    return true;
}

bool mh__take_answer(mh__hand *hand, uint32_t index, int64_t duration_ns)
{
    mh_pool *pool = hand->pool;
    mh_future *f = hand->tasks[index];
    if (!f || !read_answer(hand, &hand->ring.slots[index], f))
        return false;
    hand->tasks[index] = NULL;
    f->hand = NULL;
    f->slot = MH__NO_SLOT;
    pool->assigned_count--;
    mh_sched_outcome outcome = !f->err ? MH_SCHED_OK : f->err == MH_ERR_OUT_OF_MEMORY_TASK ? MH_SCHED_OOM : MH_SCHED_FAILED;
    mh_err err = mh_sched_result(pool->sched, hand->worker, f->handle, f->epoch, outcome, duration_ns);
    (void)err; /* NOT_FOUND can't be: the assignment was ours a moment ago */
    return true;
}

/* How many slots from the head on are finished. Looking at them all first lets the processor fetch them together. */
static uint32_t count_finished(const mh__ring *ring)
{
    mh__ring look = *ring;
    while (!mh__ring_is_empty(&look)) {
        mh__ring_got got = mh__ring_look(&look);
        if (got != MH__RING_DONE && got != MH__RING_PASSED)
            break;
        look.head++;
    }
    return look.head - ring->head;
}

static void publish(mh__hand *hand, mh_future *f);
static void move_again(mh__hand *hand);

/* Tasks for which there was no slot get the slots that are free now. */
static void refill_slots(mh__hand *hand)
{
    while (!mh__list_is_empty(&hand->backlog) && !mh__ring_is_full(&hand->ring)) {
        publish(hand, mh__list_entry(mh__list_pop_front(&hand->backlog), mh_future, backlog));
    }
}

static void be_corrupt(mh__hand *hand)
{
    hand->is_corrupt = true;
    mh__hand_stop(hand);
}

void mh__collect_hand(mh__hand *hand)
{
    mh__ring *ring = &hand->ring;
    if (mh__ring_is_empty(ring) || hand->is_corrupt || hand->late)
        return;
    uint32_t count = count_finished(ring);
    int64_t each = count ? (hand->pool->now - hand->busy_ns) / count : 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = ring->head & ring->mask;
        mh__ring_got got = mh__ring_look(ring);
        bool is_answer = got == MH__RING_DONE && mh__take_answer(hand, index, MH__MAX(each, 1));
        bool is_empty = got == MH__RING_PASSED && !hand->tasks[index];
        if (!is_answer && !is_empty) {
            be_corrupt(hand);
            return;
        }
        mh__ring_drop(ring);
    }
    if (count) {
        hand->pool->mean_ns += (each - hand->pool->mean_ns) / 8;
        hand->has_run = true;
        if (hand->is_stalled)
            move_again(hand);
        hand->pool->start_failures = 0;
        hand->busy_ns = hand->pool->now;
        if (mh__ring_is_empty(ring))
            hand->pool->busy_hands--;
        refill_slots(hand);
    } else if (mh__ring_look(ring) == MH__RING_CORRUPT) {
        be_corrupt(hand);
    }
}

bool mh__any_finished(mh_pool *pool)
{
    for (size_t i = 0; i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (hand && !hand->is_corrupt && !hand->late && !mh__ring_is_empty(&hand->ring) &&
            mh__ring_look(&hand->ring) != MH__RING_NOTHING)
            return true;
    }
    return false;
}

/* Going by the newest slot: the worker takes them in order. */
static bool has_run_out(const mh__hand *hand)
{
    const mh__ring *ring = &hand->ring;
    if (hand->is_corrupt || hand->late || mh__ring_is_empty(ring))
        return false;
    mh__slot_state state = mh__control_state(atomic_load_explicit(&mh__ring_slot(ring, ring->tail - 1)->control, memory_order_acquire));
    return state != MH__SLOT_READY && state != MH__SLOT_RUN && state != MH__SLOT_SKIP;
}

bool mh__any_run_out(mh_pool *pool)
{
    for (size_t i = 0; i < pool->options.workers; i++)
        if (pool->hands[i] && has_run_out(pool->hands[i]))
            return true;
    return false;
}

/* ---- act -------------------------------------------------------------------------------------- */

static void publish(mh__hand *hand, mh_future *f)
{
    mh_pool *pool = hand->pool;
    mh__ring *ring = &hand->ring;
    mh__slot *slot = mh__ring_next(ring);
    uint16_t flags = 0;
    if (f->flags & MH__RECORD_FAR) {
        mh__slot_far far = {f->far_request, f->far_size};
        memcpy(slot->request, &far, sizeof far);
        flags |= MH__SLOT_FAR;
    } else {
        memcpy(slot->request, f->bytes, f->size);
    }
    if (f->flags & MH__RECORD_MAP)
        flags |= MH__SLOT_MAP;
    if (f->flags & MH__RECORD_TIMED)
        flags |= MH__SLOT_TIMED;
    if (f->memory_bytes) {
        flags |= MH__SLOT_WEIGHED;
        mh__region_limits(hand->region, ring->mask + 1)[ring->tail & ring->mask] = f->memory_bytes;
        mh__weigh_soon(hand);
    }
    if (!(f->flags & MH__RECORD_RETRIES))
        flags |= MH__SLOT_FINAL;
    slot->task_id = f->id;
    slot->tag = f->tag;
    slot->attempt = f->attempts;
    slot->flags = flags;
    slot->size = f->size;
    if (mh__ring_is_empty(ring)) {
        hand->busy_ns = pool->now;
        pool->busy_hands++;
    }
    f->slot = mh__ring_publish(ring);
    hand->tasks[f->slot] = f;
    hand->is_dirty = true;
    if (f->timeout_ns)
        hand->check_ns = MH__MIN(hand->check_ns, mh__deadline_after(pool->now, f->timeout_ns));
}

static void assign(mh_pool *pool, mh_future *f, const mh_sched_action *a)
{
    mh__hand *hand = pool->hand_of[a->worker.index];
    if (f->attempts && f->attempts < a->attempts)
        pool->stats.retried++;
    mh__record_drop_reply(f); /* of an attempt that failed */
    f->heavy_bytes = 0;
    f->hand = hand;
    f->epoch = a->epoch;
    f->attempts = a->attempts;
    pool->assigned_count++;
    if (mh__ring_is_full(&hand->ring))
        mh__list_push_back(&hand->backlog, &f->backlog);
    else
        publish(hand, f);
}

static bool take_back(mh_future *f)
{
    mh__hand *hand = f->hand;
    if (!hand)
        return false;
    if (f->slot == MH__NO_SLOT) {
        mh__list_remove(&f->backlog);
    } else {
        if (!mh__ring_revoke(&hand->ring, f->slot))
            return false;
        hand->tasks[f->slot] = NULL;
        if (mh__ring_is_empty(&hand->ring))
            f->pool->busy_hands--;
        f->slot = MH__NO_SLOT;
    }
    f->hand = NULL;
    f->pool->assigned_count--;
    return true;
}

static void revoke(mh_pool *pool, mh_future *f, const mh_sched_action *a)
{
    bool taken = take_back(f);
    mh_err err = mh_sched_revoked(pool->sched, a->worker, a->task, a->epoch, taken);
    (void)err; /* NOT_FOUND: the attempt is over, which is an answer too */
}

/* A task is too late. Fenced off, its worker can't begin another, which would die with it. Where the task has ended in this very
 * moment, the worker may finish what it has; the scheduler wants it to leave all the same. */
static void stop_late(mh_pool *pool, mh_future *f, mh__hand *hand)
{
    f->worker_pid = hand->pid;
    if (f->hand == hand && f->slot != MH__NO_SLOT && mh__ring_fence(&hand->ring, f->slot)) {
        hand->late = f;
        mh__hand_stop(hand);
    } else {
        mh__hand_close(hand);
        hand->stop_ns = pool->now + LEAVE_MS * MH_MILLISECOND;
    }
}

static void give_up_threads(mh_pool *pool)
{
    pool->has_stopped = false;
    for (size_t i = 0; i < pool->options.workers; i++)
        if (pool->hands[i] && pool->hands[i]->is_stopped)
            mh__hand_give_up(pool->hands[i]);
    mh__hands_refill(pool);
}

static void act(mh_pool *pool, const mh_sched_action *a)
{
    mh_future *f = (mh_future *)(uintptr_t)a->tag;
    switch (a->kind) {
    case MH_SCHED_ASSIGN:
        assign(pool, f, a);
        break;
    case MH_SCHED_REVOKE:
        revoke(pool, f, a);
        break;
    case MH_SCHED_KILL_WORKER:
        if (pool->hand_of[a->worker.index])
            stop_late(pool, f, pool->hand_of[a->worker.index]);
        break;
    case MH_SCHED_DONE:
        mh__record_finish(f, a->outcome, a->attempts);
        break;
    }
}

static void wake_hands(mh_pool *pool)
{
    bool any = false;
    for (size_t i = 0; i < pool->options.workers; i++)
        any |= pool->hands[i] && pool->hands[i]->is_dirty;
    if (!any)
        return;
    /* pairs with the worker's fence after it says that it sleeps: either it sees READY or we see it asleep */
    atomic_thread_fence(memory_order_seq_cst);
    for (size_t i = 0; i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (hand && hand->is_dirty) {
            hand->is_dirty = false;
            mh__hand_wake(hand);
        }
    }
}

void mh__dispatch(mh_pool *pool)
{
    mh_sched_action todo[ACTIONS];
    do {
        for (size_t count; (count = mh_sched_actions(pool->sched, todo, ACTIONS));)
            for (size_t i = 0; i < count; i++)
                act(pool, &todo[i]);
        if (pool->has_stopped)
            give_up_threads(pool); /* now, because actions at hand may have been for them */
        else
            break;
    } while (true);
    wake_hands(pool);
}

/* ---- deadlines of tasks ------------------------------------------------------------------------ */

/* A worker notes when it starts a timed task, but rings nobody. It is looked at once in the shortest timeout that it has, so
 * that a start is always seen before its deadline. */
static void look_at_start(mh__hand *hand)
{
    mh_pool *pool = hand->pool;
    const mh__ring *ring = &hand->ring;
    if (hand->check_ns > pool->now)
        return;
    hand->check_ns = INT64_MAX;
    int64_t shortest = INT64_MAX;
    for (uint32_t at = ring->head; at != ring->tail; at++) {
        uint32_t index = at & ring->mask;
        mh_future *f = hand->tasks[index];
        if (!f || !f->timeout_ns)
            continue;
        uint64_t running = mh__control_to(ring->fillings[index], MH__SLOT_RUN);
        if (atomic_load_explicit(&ring->slots[index].control, memory_order_acquire) == running) {
            int64_t began = atomic_load_explicit(&hand->region->started_ns, memory_order_acquire);
            if (began > pool->now || began < hand->busy_ns)
                began = hand->busy_ns; /* not noted yet, or a lie */
            mh_err err = mh_sched_started(pool->sched, hand->worker, f->handle, f->epoch, began);
            (void)err;
        } else {
            shortest = MH__MIN(shortest, f->timeout_ns);
        }
    }
    if (shortest != INT64_MAX)
        hand->check_ns = mh__deadline_after(pool->now, shortest);
}

static void look_at_starts(mh_pool *pool)
{
    for (size_t i = 0; i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (!hand)
            continue;
        look_at_start(hand);
        if (hand->stop_ns <= pool->now) {
            hand->stop_ns = INT64_MAX;
            mh__hand_stop(hand);
        }
    }
}

/* ---- workers that do not move -------------------------------------------------------------------- */

static bool is_idle(const mh__hand *hand)
{
    return mh__ring_is_empty(&hand->ring) && !hand->is_stopped && !hand->is_stalled;
}

static bool any_idle(const mh_pool *pool)
{
    for (size_t i = 0; i < pool->options.workers; i++)
        if (pool->hands[i] && is_idle(pool->hands[i]))
            return true;
    return false;
}

/* Whether the worker has begun the oldest task that it holds. */
static bool has_begun(const mh__hand *hand)
{
    uint32_t at = hand->ring.head & hand->ring.mask;
    uint64_t ready = hand->ring.fillings[at];
    return atomic_load_explicit(&hand->ring.slots[at].control, memory_order_relaxed) != ready;
}

/* When hand counts as stalled unless it finishes something; INT64_MAX: nothing waits there. */
static int64_t stalls_at(const mh__hand *hand)
{
    uint32_t count = mh__ring_count(&hand->ring);
    if (count == 0 || hand->is_stopped || (count == 1 && has_begun(hand)) || (hand->is_stalled && has_begun(hand)))
        return INT64_MAX;
    return mh__deadline_after(hand->busy_ns, STALL_NS);
}

static void resize(mh__hand *hand, uint32_t capacity)
{
    mh_err err = mh_sched_worker_resize(hand->pool->sched, hand->worker, capacity);
    (void)err; /* it has joined */
}

static void give_back(mh_pool *pool, mh_future *f, mh__hand *hand)
{
    if (!f || !take_back(f))
        return;
    mh_err err = mh_sched_revoked(pool->sched, hand->worker, f->handle, f->epoch, true);
    (void)err; /* the assignment was ours a moment ago */
}

/* The scheduler goes by the usual time of a task. What waits behind one that takes much longer, or behind a worker that hangs,
 * goes to others, who have nothing to do. */
static void unload(mh__hand *hand)
{
    mh_pool *pool = hand->pool;
    hand->probe_gap_ns = hand->is_stalled ? MH__MIN(2 * hand->probe_gap_ns, PROBE_MOST_NS) : PROBE_LEAST_NS;
    hand->probe_ns = mh__deadline_after(pool->now, hand->probe_gap_ns);
    hand->is_stalled = true;
    resize(hand, 0);
    while (!mh__list_is_empty(&hand->backlog))
        give_back(pool, mh__list_entry(hand->backlog.prev, mh_future, backlog), hand);
    for (uint32_t at = hand->ring.tail; at != hand->ring.head;)
        give_back(pool, hand->tasks[--at & hand->ring.mask], hand);
}

static void move_again(mh__hand *hand)
{
    hand->is_stalled = false;
    resize(hand, (uint32_t)hand->pool->options.slots);
}

/* A worker that holds nothing can't show that it moves. */
static void probe(mh__hand *hand)
{
    if (!hand->is_stalled || hand->probe_ns > hand->pool->now || !mh__ring_is_empty(&hand->ring))
        return;
    hand->probe_ns = INT64_MAX;
    resize(hand, 1);
}

static void look_for_stalls(mh_pool *pool)
{
    bool idle = any_idle(pool);
    for (size_t i = 0; i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (!hand)
            continue;
        if (idle && stalls_at(hand) <= pool->now)
            unload(hand);
        probe(hand);
    }
}

/* Workers do not say when they have become idle unless somebody waits, so while tasks wait behind others it is looked. Who is awake may as
 * well look soon; nobody is woken for that. */
static int64_t next_stall(const mh_pool *pool, bool soon)
{
    int64_t at = INT64_MAX, look = mh__deadline_after(pool->now, soon && any_idle(pool) ? STALL_NS : LOOK_IDLE_NS);
    for (size_t i = 0; i < pool->options.workers; i++) {
        const mh__hand *hand = pool->hands[i];
        if (!hand)
            continue;
        if (stalls_at(hand) != INT64_MAX)
            at = MH__MIN(at, MH__MAX(look, stalls_at(hand)));
        if (hand->is_stalled && mh__ring_is_empty(&hand->ring))
            at = MH__MIN(at, hand->probe_ns);
    }
    return at;
}

static int64_t wake_at(mh_pool *pool, bool soon)
{
    int64_t at = mh_sched_wake_at(pool->sched);
    for (size_t i = 0; i < pool->options.workers; i++)
        if (pool->hands[i])
            at = MH__MIN(at, MH__MIN(pool->hands[i]->weigh_ns, MH__MIN(pool->hands[i]->check_ns, pool->hands[i]->stop_ns)));
    if (pool->live_count > 1)
        at = MH__MIN(at, next_stall(pool, soon));
    if (mh__wants_hands(pool))
        at = MH__MIN(at, pool->refill_ns);
    if (pool->state == MH__POOL_OPEN)
        at = MH__MIN(at, pool->grow_ns);
    /* wakes are hints: while anything is under way, look now and then */
    if (pool->live_count)
        at = MH__MIN(at, mh__deadline_after(pool->now, LOOK_AGAIN_MS * MH_MILLISECOND));
    return at;
}

int64_t mh__wake_at(mh_pool *pool) { return wake_at(pool, true); }

/* ---- all of it --------------------------------------------------------------------------------- */

void mh__drive(mh_pool *pool)
{
    if (!pool->sched)
        return; /* destroyed, and alive only for what its users still hold */
    pool->now = mh_now();
    for (size_t i = 0; i < pool->options.workers; i++)
        if (pool->hands[i])
            mh__collect_hand(pool->hands[i]);
    look_at_starts(pool);
    mh__weigh(pool);
    look_for_stalls(pool);
    if (pool->grow_ns <= pool->now)
        mh__hands_want_all(pool);
    mh__hands_refill(pool);
    mh_sched_tick(pool->sched, pool->now);
    mh__dispatch(pool);
    pool->transport_ns += mh_now() - pool->now;
}

static mh__notify what_keeper_needs(const mh_pool *pool)
{
    if (pool->call_count)
        return MH__NOTIFY_KEEPER;
    return pool->live_count > pool->assigned_count || pool->retry_count ? MH__NOTIFY_KEEPER_IDLE : MH__NOTIFY_NONE;
}

void mh__arm_keeper(mh_pool *pool)
{
    if (!pool->sched)
        return;
    if (pool->sleeping_leader && wake_at(pool, false) < pool->leader_until) {
        pool->leader_until = 0; /* rung: once is enough */
        mh__os_eventfd_set(pool->leader_bell);
    }
    if (pool->keeper_awake)
        return; /* it looks before it sleeps */
    if (mh__has_calls(pool))
        mh__keeper_ring(pool); /* callbacks are its own, whoever leads */
    if (pool->is_led)
        return;
    if (wake_at(pool, false) < pool->keeper_until)
        mh__keeper_ring(pool);
    mh__notify needs = what_keeper_needs(pool);
    if (atomic_load_explicit(&pool->board->notify, memory_order_relaxed) == needs)
        return;
    atomic_store_explicit(&pool->board->notify, needs, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
    if (needs == MH__NOTIFY_KEEPER ? mh__any_finished(pool) : needs != MH__NOTIFY_NONE && mh__any_run_out(pool))
        mh__keeper_ring(pool); /* a worker that looked before the store has told nobody */
}
