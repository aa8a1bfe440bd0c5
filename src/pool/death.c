/* What follows when a worker ends: its answers are taken, its other tasks given away, and its place filled again. */
#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"
#include "pool/pool.h"

enum { REFILL_AGAIN_MS = 20, REAP_AT_ONCE = 32, SIGNAL_KILL = 9 };

/* The task that was running in a worker whose finished tasks have been collected. */
static mh_future *running_task(const mh__hand *hand)
{
    const mh__ring *ring = &hand->ring;
    if (hand->late)
        return hand->late;
    for (uint32_t at = ring->head; at != ring->tail; at++) {
        uint32_t index = at & ring->mask;
        mh_future *f = hand->tasks[index];
        if (!f)
            continue; /* taken back */
        uint64_t now = atomic_load_explicit(&ring->slots[index].control, memory_order_acquire);
        bool runs = now == mh__control_to(ring->fillings[index], MH__SLOT_RUN);
        return runs || hand->is_corrupt ? f : NULL; /* of a corrupt worker we believe the worst */
    }
    return NULL;
}

/* Its tasks are with nobody. The scheduler offers them again. */
static void let_go(mh__hand *hand)
{
    mh_pool *pool = hand->pool;
    if (!mh__ring_is_empty(&hand->ring))
        pool->busy_hands--;
    for (; !mh__ring_is_empty(&hand->ring); hand->ring.head++) {
        mh_future *f = hand->tasks[hand->ring.head & hand->ring.mask];
        if (!f)
            continue;
        hand->tasks[hand->ring.head & hand->ring.mask] = NULL;
        f->hand = NULL;
        f->slot = MH__NO_SLOT;
        pool->assigned_count--;
    }
    for (mh__list *node; (node = mh__list_pop_front(&hand->backlog));) {
        mh_future *f = mh__list_entry(node, mh_future, backlog);
        f->hand = NULL;
        pool->assigned_count--;
    }
}

static bool ended_as_asked(const mh__hand *hand, const mh_exit *status)
{
    uint32_t phase = atomic_load_explicit(&hand->region->phase, memory_order_acquire);
    return phase == MH__PHASE_ENDED && (!status || mh_exit_number(*status) == 0);
}

/* It ended, or could not start, because its fork server has ended or is about to. */
static bool lost_its_server(const mh__hand *hand, const mh_exit *status)
{
    return hand->process && hand->server && (!status || status->lost);
}

/* However many workers go with a server, and however often a dying one is asked in vain, it is one failure. */
static bool is_counted(mh__hand *hand, const mh_exit *status)
{
    mh_pool *pool = hand->pool;
    if (!lost_its_server(hand, status))
        return false;
    bool counted = pool->server_losses == hand->server;
    pool->server_losses = hand->server;
    return counted;
}

/* A crash loop is broken off: workers that end one after the other before they have taken a task. */
static void count_start(mh__hand *hand, const mh_future *running, bool asked, const mh_exit *status)
{
    mh_pool *pool = hand->pool;
    uint32_t phase = atomic_load_explicit(&hand->region->phase, memory_order_acquire);
    bool took = hand->has_run || (running && !hand->is_corrupt);
    bool was_idle = phase != MH__PHASE_STARTING && phase != MH__PHASE_FAILED && mh__ring_is_empty(&hand->ring);
    if (phase == MH__PHASE_FAILED && pool->options.must_initialize && pool->state != MH__POOL_TERMINATED)
        mh__pool_break(pool, "a worker could not be initialized");
    else if (took || asked || was_idle || pool->state == MH__POOL_TERMINATED)
        pool->start_failures = took ? 0 : pool->start_failures;
    else if (!is_counted(hand, status) && ++pool->start_failures >= pool->options.max_start_failures)
        mh__pool_break(pool, "%u workers in a row ended before they took a task; the last one with %s %d",
                       pool->start_failures, status && status->signal ? "signal" : "exit code",
                       !status ? -1 : status->signal ? status->signal : status->code);
}

/* Asking a dying server again at once would only fail again. */
static void give_server_time(mh__hand *hand, const mh_exit *status)
{
    if (lost_its_server(hand, status))
        hand->pool->refill_ns = mh__deadline_after(mh_now(), REFILL_AGAIN_MS * MH_MILLISECOND);
}

static void leave_place(mh__hand *hand)
{
    mh_pool *pool = hand->pool;
    mh__report_departed(hand);
    pool->hands[hand->place] = NULL;
    pool->hand_of[hand->worker.index] = NULL;
    pool->missing++;
    pool->stats.workers--;
    if (!hand->is_known)
        pool->unawaited--;
    hand->is_gone = true;
    mh__os_close(&hand->socket);
    if (hand->process) {
        int sentinel = mh_process_sentinel(hand->process);
        if (hand->is_known && sentinel >= 0)
            mh__os_poller_remove(pool->hands_poller, sentinel);
        if (!hand->awaiting)
            mh_process_destroy(&hand->process);
    }
}

static bool was_oom_killed(const mh__hand *hand, const mh_exit *status)
{
    return status && status->signal == SIGNAL_KILL && !status->lost && !hand->is_stopped &&
           hand->pool->state != MH__POOL_TERMINATED && mh__was_oom_killed(hand->pool);
}

void mh__hand_leave(mh__hand *hand, const mh_exit *status)
{
    mh_pool *pool = hand->pool;
    mh__collect_hand(hand);
    mh_future *running = running_task(hand);
    bool asked = ended_as_asked(hand, status) && !running;
    if (running) {
        running->worker_pid = hand->pid;
        running->signal = status ? status->signal : 0;
        running->exit_code = status && !status->signal ? status->code : 0;
    }
    count_start(hand, running, asked, status);
    give_server_time(hand, status);
    if (asked)
        pool->stats.workers_recycled += pool->state == MH__POOL_OPEN || pool->live_count;
    else
        pool->stats.workers_lost++;
    mh_sched_task task = running ? running->handle : (mh_sched_task){0};
    let_go(hand);
    bool oom = running && (hand->is_heavy || was_oom_killed(hand, status));
    mh_sched_cause cause = asked ? MH_SCHED_REMOVED : oom ? MH_SCHED_DIED_OOM : MH_SCHED_DIED;
    mh_err err = mh_sched_worker_leave(pool->sched, hand->worker, cause, task);
    (void)err; /* it had joined */
    leave_place(hand);
    mh__tree_forget(hand->pid);
    mh__hand_drop(hand);
    if (pool->joiners)
        mh__waiters_wake(pool);
}

void mh__hand_stop(mh__hand *hand)
{
    hand->is_stopped = true;
    if (hand->process)
        mh__hand_kill(hand);
    else
        hand->pool->has_stopped = true;
}

/* Its thread may still be inside a task. If that is not fenced off yet, it is now, or has just been answered. */
static void fence_running(mh__hand *hand)
{
    for (mh_future *running; !hand->late && (running = running_task(hand));) {
        if (hand->is_corrupt || mh__ring_fence(&hand->ring, running->slot))
            hand->late = running;
        else
            mh__collect_hand(hand); /* and it may have begun the next */
    }
}

void mh__hand_give_up(mh__hand *hand)
{
    mh_pool *pool = hand->pool;
    mh__collect_hand(hand);
    fence_running(hand);
    atomic_store_explicit(&hand->region->closing, 1, memory_order_seq_cst);
    mh_sched_task task = hand->late ? hand->late->handle : (mh_sched_task){0};
    let_go(hand);
    mh_err err = mh_sched_worker_leave(pool->sched, hand->worker, MH_SCHED_DIED, task);
    (void)err; /* it had joined */
    pool->stats.workers_lost++;
    leave_place(hand);
    hand->next_given_up = pool->given_up;
    pool->given_up = hand; /* with the pool's reference */
}

static void reap_threads(mh_pool *pool)
{
    for (size_t i = 0; i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (hand && atomic_load_explicit(&hand->thread_ended, memory_order_acquire)) {
            mh__thread_join(&hand->thread);
            mh__hand_leave(hand, NULL);
        }
    }
}

void mh__hands_reap(mh_pool *pool)
{
    if (pool->options.kind == MH_WORKER_THREAD) {
        reap_threads(pool);
        return;
    }
    uint64_t places[REAP_AT_ONCE];
    size_t count;
    do {
        mh_err err = mh__os_poller_wait(pool->hands_poller, places, REAP_AT_ONCE, &count, MH_NOW);
        for (size_t i = 0; !err && i < count; i++) {
            mh__hand *hand = pool->hands[places[i]];
            mh_exit status;
            if (hand && hand->is_known && !mh_process_wait(hand->process, MH_NOW, &status))
                mh__hand_leave(hand, &status);
        }
    } while (count == REAP_AT_ONCE);
}

bool mh__wants_hands(const mh_pool *pool)
{
    bool has_use = pool->state == MH__POOL_OPEN || (pool->state == MH__POOL_CLOSED && pool->live_count);
    return pool->options.workers - pool->missing < pool->wanted && has_use && !pool->is_broken;
}

void mh__hands_refill(mh_pool *pool)
{
    if (!mh__wants_hands(pool) || pool->refill_ns > pool->now)
        return;
    for (size_t i = 0; i < pool->options.workers && mh__wants_hands(pool); i++) {
        if (pool->hands[i])
            continue;
        if (mh__hand_start(pool, i)) {
            /* descriptors or memory are short: they may come back; without any worker we wait so long only */
            pool->refill_ns = pool->now + REFILL_AGAIN_MS * MH_MILLISECOND;
            if (pool->missing == pool->options.workers && ++pool->start_failures >= pool->options.max_start_failures)
                mh__pool_break(pool, "no worker can be started: %s", mh_err_detail());
            return;
        }
        pool->missing--;
    }
    if (pool->unawaited)
        mh__keeper_ring(pool);
}

void mh__hands_want_all(mh_pool *pool)
{
    if (pool->grow_ns == INT64_MAX)
        return;
    pool->grow_ns = INT64_MAX;
    pool->wanted = pool->options.workers;
    mh__hands_refill(pool);
}

void mh__hands_meet_demand(mh_pool *pool)
{
    if (pool->live_count <= pool->wanted || pool->wanted == pool->options.workers)
        return;
    mh__drive(pool); /* workers do not say that they have finished: collect, and see how many tasks are left */
    if (pool->live_count <= pool->wanted)
        return;
    pool->wanted = MH__MIN(pool->live_count, pool->options.workers);
    mh__hands_refill(pool);
}
