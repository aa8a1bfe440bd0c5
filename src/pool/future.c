/* One task's result to come. */
#include "base/error.h"
#include "base/memory.h"
#include "pool/pool.h"

#include <string.h>

static bool is_done(const mh_future *f) { return atomic_load_explicit(&f->is_done, memory_order_acquire); }
static bool is_future_done(void *f) { return is_done(f); }

static mh_err wait_locked(mh_future *f, mh_deadline until)
{
    mh__waiter waiter = {.is_ready = is_future_done, .what = f};
    f->waiters++;
    mh_err err = mh__wait(f->pool, &waiter, until);
    f->waiters--;
    return err;
}

mh_err mh_future_wait(mh_future *f, mh_deadline until)
{
    mh_err err = mh__pool_check(f->pool);
    if (err || is_done(f))
        return err;
    mh__pool_lock(f->pool);
    err = wait_locked(f, until);
    mh__pool_unlock(f->pool);
    return err;
}

bool mh_future_is_done(const mh_future *f)
{
    if (is_done(f))
        return true;
    if (mh__pool_check(f->pool) || !mh__lock_try(f->pool->lock))
        return false;
    /* nobody may be driving because nobody waits: who asks does it */
    if (!f->pool->is_led && mh__any_finished(f->pool)) {
        mh__drive(f->pool);
        mh__arm_keeper(f->pool);
    }
    mh__pool_unlock(f->pool);
    return is_done(f);
}

mh_err mh_future_result(mh_future *f, mh_deadline until, mh_result *result)
{
    mh_err err = mh__pool_check(f->pool);
    if (err)
        return err;
    mh__pool_lock(f->pool);
    err = wait_locked(f, until);
    if (!err && f->flags & MH__RECORD_TAKEN)
        err = mh__fail(MH_ERR_INVALID, "the result was taken already");
    if (!err) {
        f->flags |= MH__RECORD_TAKEN;
        f->refs++;
        mh__record_result(f, result);
    }
    mh__pool_unlock(f->pool);
    return err;
}

mh_err mh_future_collect(mh_future **future, void *room, size_t capacity, mh_result *result)
{
    mh_future *f = *future;
    mh_pool *pool = f->pool;
    mh_err err = mh__pool_check(pool);
    if (err)
        return err;
    if (!is_done(f) || !mh__lock_try(pool->lock))
        return MH_ERR_TIMEOUT;
    if (f->flags & MH__RECORD_TAKEN) {
        mh__pool_unlock(pool);
        return mh__fail(MH_ERR_INVALID, "the result was taken already");
    }
    f->flags |= MH__RECORD_TAKEN;
    mh__record_result(f, result); /* which borrows by the reference that was the caller's */
    if (f->reply.size > capacity) {
        mh__pool_unlock(pool);
    } else {
        if (f->reply.size)
            memcpy(room, f->reply.data, f->reply.size);
        result->reply.data = room;
        result->owner = NULL;
        pool->refs++;
        mh__record_drop(f);
        mh__pool_unlock_release(pool);
    }
    *future = NULL;
    return MH_OK;
}

mh_err mh_future_take(mh_future *f, mh_deadline until, mh_buf **reply)
{
    mh_result result;
    mh_err err = mh_future_result(f, until, &result);
    if (err)
        return err;
    mh_buf *copy = NULL;
    err = mh_buf_copy(&copy, result.reply);
    if (err) {
        mh__pool_lock(f->pool);
        f->flags &= (uint16_t)~MH__RECORD_TAKEN; /* it may be tried again */
        mh__pool_unlock(f->pool);
    } else {
        *reply = copy;
        err = result.err;
    }
    mh_result_release(&result);
    return err;
}

bool mh_future_cancel(mh_future *f)
{
    if (mh__pool_check(f->pool))
        return false;
    mh__pool_lock(f->pool);
    if (!is_done(f)) {
        mh_err err = mh_sched_cancel(f->pool->sched, f->handle);
        (void)err; /* it is not done, so it is there */
        mh__drive(f->pool);
        mh__arm_keeper(f->pool);
    }
    bool cancelled = is_done(f) && f->err == MH_ERR_CANCELLED;
    mh__pool_unlock(f->pool);
    return cancelled;
}

/* Its worker, once it has started, begins with it. */
static bool is_first(const mh_future *f)
{
    const mh__hand *hand = f->hand;
    return hand && !hand->has_run && f->slot != MH__NO_SLOT && f->slot == (hand->ring.head & hand->ring.mask);
}

void mh_pool_cancel(mh_pool *pool)
{
    if (mh__pool_check(pool))
        return;
    mh__pool_lock(pool);
    for (mh__list *node = pool->live.next; node != &pool->live; node = node->next) {
        const mh_future *f = mh__list_entry(node, mh_future, node);
        mh_err err = is_first(f) ? MH_OK : mh_sched_cancel(pool->sched, f->handle);
        (void)err; /* it is not done, so it is there */
    }
    mh__drive(pool);
    mh__arm_keeper(pool);
    mh__pool_unlock(pool);
}

bool mh_future_is_running(mh_future *f)
{
    if (mh__pool_check(f->pool) || is_done(f))
        return false;
    mh__pool_lock(f->pool);
    bool runs = false;
    if (!is_done(f) && f->hand && f->slot != MH__NO_SLOT) {
        const mh__ring *ring = &f->hand->ring;
        uint64_t now = atomic_load_explicit(&ring->slots[f->slot].control, memory_order_acquire);
        runs = now == mh__control_to(ring->fillings[f->slot], MH__SLOT_RUN);
    }
    mh__pool_unlock(f->pool);
    return runs;
}

mh_err mh_future_on_done(mh_future *f, void (*fn)(mh_future *f, void *ctx), void *ctx)
{
    mh_err err = mh__pool_check(f->pool);
    if (err)
        return err;
    mh__callback *c = mh__alloc(sizeof *c);
    if (!c)
        return MH_ERR_NO_MEMORY;
    *c = (mh__callback){.fn = fn, .ctx = ctx};
    mh__pool_lock(f->pool);
    bool done = is_done(f);
    if (!done) {
        f->pool->call_count += !f->callbacks;
        mh__callback **end = &f->callbacks;
        while (*end)
            end = &(*end)->next;
        *end = c;
        mh__arm_keeper(f->pool);
    }
    mh__pool_unlock(f->pool);
    if (done) {
        mh__free(c);
        fn(f, ctx);
    }
    return MH_OK;
}

void mh_future_release(mh_future **future)
{
    mh_future *f = *future;
    if (!f)
        return;
    *future = NULL;
    if (mh__pool_check(f->pool))
        return; /* in a forked child: the parent's books are not ours to change */
    mh__pool_lock(f->pool);
    mh_pool *pool = f->pool;
    pool->refs++;
    mh__record_drop(f);
    mh__pool_unlock_release(pool);
}

/* ---- results ----------------------------------------------------------------------------------- */

void mh_result_release(mh_result *result) { mh_results_release(result, 1); }

void mh_results_release(mh_result *results, size_t count)
{
    mh_pool *pool = NULL;
    for (size_t i = 0; i < count; i++) {
        mh_future *f = results[i].owner;
        results[i].owner = NULL;
        results[i].reply = (mh_bytes){0};
        if (!f || mh__pool_check(f->pool))
            continue;
        if (f->pool != pool) {
            if (pool)
                mh__pool_unlock_release(pool);
            pool = f->pool;
            mh__pool_lock(pool);
            pool->refs++;
        }
        mh__record_drop(f);
    }
    if (pool)
        mh__pool_unlock_release(pool);
}
