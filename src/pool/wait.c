/* Callers that wait. One of them leads: it drives the pool itself, so that a result reaches it without another thread between.
 * The others sleep until their condition holds or the lead is theirs. */
#include "base/error.h"
#include "base/number.h"
#include "os/cores.h"
#include "os/fd.h"
#include "os/futex.h"
#include "pool/pool.h"

enum { LAZY_TASK_NS = 20000, LAZY_TASKS = 2 * MH__NOTIFY_LAZY_TASKS, LAZY_WAIT_NS = 500000 };

static bool is_ready(const mh__waiter *w) { return w->is_ready(w->what); }

static void wake(mh__waiter *w)
{
    atomic_store_explicit(&w->woken, 1, memory_order_release);
    mh__os_futex_wake(&w->woken, 1);
}

void mh__waiters_wake(mh_pool *pool)
{
    for (mh__list *node = pool->waiters.next; node != &pool->waiters; node = node->next) {
        mh__waiter *w = mh__list_entry(node, mh__waiter, node);
        if (is_ready(w))
            wake(w);
    }
    if (pool->sleeping_leader && is_ready(pool->sleeping_leader))
        mh__os_eventfd_set(pool->leader_bell);
}

static void note_wait(mh_pool *pool, int64_t begin)
{
    int64_t now = mh_now();
    pool->waiting_ns += now - begin;
    mh__report_own(pool, "wait", begin, now);
}

/* ---- leading ---------------------------------------------------------------------------------- */

static void set_notify(mh_pool *pool, mh__notify notify)
{
    atomic_store_explicit(&pool->board->notify, notify, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the worker's CAS to DONE */
}

/* Look for finished tasks without sleeping. The lock is held before and after, and free while we pause. */
static bool spin(mh_pool *pool, const mh__waiter *w)
{
    int64_t budget = pool->busy_hands < pool->cores ? mh__spin_budget(&pool->spin) : 0;
    if (budget == 0)
        return false;
    atomic_store_explicit(&pool->board->notify, MH__NOTIFY_NONE, memory_order_relaxed);
    int64_t begin = mh_now(), spent = 0;
    bool found = false;
    while (!found && spent < budget) {
        mh__pool_unlock(pool);
        for (int i = 0; i < 4; i++)
            mh__os_relax();
        mh__pool_lock(pool);
        found = mh__any_finished(pool) || is_ready(w);
        spent = mh_now() - begin;
    }
    mh__spin_learn(&pool->spin, found, spent);
    return found;
}

static bool may_be_lazy(const mh_pool *pool, const mh__waiter *w)
{
    return w->is_lazy && pool->mean_ns < LAZY_TASK_NS && pool->assigned_count > LAZY_TASKS;
}

bool mh__lead_spin(mh_pool *pool, const mh__waiter *w) { return spin(pool, w); }

bool mh__lead_prepare(mh_pool *pool, mh__waiter *w, mh_deadline until)
{
    bool lazy = may_be_lazy(pool, w);
    set_notify(pool, lazy ? MH__NOTIFY_LEADER_LAZY : MH__NOTIFY_LEADER);
    if (mh__any_finished(pool) || is_ready(w)) {
        set_notify(pool, MH__NOTIFY_NONE);
        return false;
    }
    until = MH__MIN(until, mh__wake_at(pool));
    if (lazy)
        until = MH__MIN(until, mh__deadline_after(pool->now, LAZY_WAIT_NS));
    pool->sleeping_leader = w;
    pool->leader_until = until;
    return true;
}

void mh__lead_awake(mh_pool *pool, unsigned ready)
{
    pool->sleeping_leader = NULL;
    if (ready & 1)
        mh__os_eventfd_clear(pool->leader_bell);
    if (ready & 2)
        mh__hands_reap(pool);
}

/* Sleep until a worker rings, one ends, or something is due. */
static mh_err sleep(mh_pool *pool, mh__waiter *w, mh_deadline until)
{
    if (!mh__lead_prepare(pool, w, until))
        return MH_OK;
    until = pool->leader_until;
    /* not an epoll: that would be ended by signals which nobody handles, such as SIGCHLD */
    const int fds[] = {pool->leader_bell, pool->hands_poller};
    unsigned ready;
    int64_t begin = mh_now();
    mh__pool_unlock(pool);
    mh_err err = mh__os_wait_any(fds, MH__COUNT_OF(fds), until, &ready);
    mh__pool_lock(pool);
    note_wait(pool, begin);
    mh__lead_awake(pool, ready);
    return err == MH_ERR_TIMEOUT ? MH_OK : err;
}

static mh_err lead(mh_pool *pool, mh__waiter *w, mh_deadline until)
{
    for (;;) {
        mh__drive(pool);
        if (mh__has_calls(pool))
            mh__keeper_ring(pool);
        if (is_ready(w))
            return MH_OK;
        if (pool->now >= until)
            return MH_ERR_TIMEOUT;
        if (spin(pool, w))
            continue;
        mh_err err = sleep(pool, w, until);
        if (err) {
            mh__drive(pool);
            return is_ready(w) ? MH_OK : err;
        }
    }
}

/* Nobody leads: the next waiter does, or else the housekeeper gets what it needs to. */
static void pass_lead_on(mh_pool *pool)
{
    if (mh__list_is_empty(&pool->waiters))
        mh__arm_keeper(pool);
    else
        wake(mh__list_entry(pool->waiters.next, mh__waiter, node));
}

static mh_err follow(mh_pool *pool, mh__waiter *w, mh_deadline until)
{
    atomic_store_explicit(&w->woken, 0, memory_order_relaxed);
    mh__list_push_back(&pool->waiters, &w->node);
    int64_t begin = mh_now();
    mh__pool_unlock(pool);
    mh_err err = mh__os_futex_wait(&w->woken, 0, until);
    mh__pool_lock(pool);
    note_wait(pool, begin);
    mh__list_remove(&w->node);
    return err;
}

static mh_err wait_here(mh_pool *pool, mh__waiter *w, mh_deadline until)
{
    mh_err err = MH_OK;
    while (!is_ready(w)) {
        if (!pool->is_led) {
            pool->is_led = true;
            err = lead(pool, w, until);
            pool->is_led = false;
            pass_lead_on(pool);
            return err;
        }
        err = follow(pool, w, until);
        if (err && !is_ready(w))
            break;
    }
    if (!pool->is_led)
        pass_lead_on(pool); /* the lead may have been offered to us while we were called away */
    return is_ready(w) ? MH_OK : err;
}

mh_err mh__wait(mh_pool *pool, mh__waiter *w, mh_deadline until)
{
    /* a worker that waits for a pool of its own lets that have its core */
    bool is_away = until > MH_NOW && !is_ready(w) && mh__tree_away();
    mh_err err = wait_here(pool, w, until);
    if (is_away)
        mh__tree_back();
    return err;
}
