/* The housekeeper: one thread that watches the workers, drives when no caller waits, and calls the callbacks. */
#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"
#include "os/futex.h"
#include "pool/pool.h"

enum { NAP_NS = 100000, RESTLESS_NS = 1000000 };

void mh__keeper_ring(mh_pool *pool)
{
    if (pool->keeper_rung)
        return; /* it may be waiting for the lock: whoever holds that need not ring once more */
    pool->keeper_rung = true;
    mh__os_eventfd_set(pool->keeper_bell);
}

static void call_back(mh_pool *pool)
{
    for (mh__list *node; (node = mh__list_pop_front(&pool->to_call));) {
        mh_future *f = mh__list_entry(node, mh_future, node);
        while (f->callbacks) {
            mh__callback *c = f->callbacks;
            f->callbacks = c->next;
            mh__pool_unlock(pool);
            c->fn(f, c->ctx);
            mh__free(c);
            mh__pool_lock(pool);
        }
        mh__record_drop(f);
    }
    for (mh__list *node; (node = mh__list_pop_front(&pool->to_notify));) {
        mh__notice *n = mh__list_entry(node, mh__notice, node);
        void (*fn)(void *ctx) = n->fn;
        void *ctx = n->ctx;
        n->fn = NULL;
        pool->call_count--;
        mh__pool_unlock(pool);
        fn(ctx); /* and with the lock gone, its stream may be too */
        mh__pool_lock(pool);
    }
}

/* Sleep until something is to be done. A worker rings at once for callbacks, else when it has nothing left to run. Woken again and again
 * by short tasks, let some more of them finish. */
static void sleep(mh_pool *pool, int64_t *last)
{
    pool->keeper_awake = false;
    pool->keeper_until = INT64_MIN; /* so that arming does not ring ourselves */
    mh__arm_keeper(pool);
    pool->keeper_until = mh__wake_at(pool);
    mh_deadline until = pool->keeper_until;
    bool restless = pool->live_count > 0;
    const int fds[] = {pool->keeper_bell, pool->hands_poller};
    unsigned ready;
    mh__pool_unlock(pool);
    mh_err err = mh__os_wait_any(fds, MH__COUNT_OF(fds), until, &ready);
    int64_t now = mh_now();
    if (restless && now - *last < RESTLESS_NS)
        err = mh__os_futex_wait(&pool->nap, 0, mh__deadline_after(now, NAP_NS));
    (void)err; /* whatever woke us: look */
    *last = now;
    if (ready & 1)
        mh__os_eventfd_clear(pool->keeper_bell);
    mh__pool_lock(pool);
    pool->keeper_rung = false;
    pool->keeper_awake = true;
}

void mh__keeper_run(void *ctx)
{
    mh_pool *pool = ctx;
    mh__pool_lock(pool);
    pool->keeper_awake = true;
    int64_t last = 0;
    while (!pool->keeper_ends) {
        mh__hands_reap(pool);
        mh__hands_await(pool);
        mh__drive(pool);
        call_back(pool);
        if (pool->keeper_ends)
            break;
        if (!pool->unawaited)
            sleep(pool, &last);
    }
    mh__pool_unlock(pool);
}
