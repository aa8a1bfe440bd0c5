/* Many tasks' results, in order or as they come, with a bound on how many are under way. */
#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "pool/lead.h"
#include "pool/pool.h"

enum { WINDOW_RINGS = 2, WINDOW_MAX = 1 << 24 };

struct mh_stream {
    mh_pool *pool;
    mh_stream_options options;
    mh_future **order; /* ordered: outstanding tasks by number */
    size_t mask;
    uint64_t submitted, taken; /* numbers */
    mh__list done;             /* unordered: finished and not taken */
    uint32_t waiters;
    mh__waiter leader; /* see lead.h */
    mh__notice notice; /* to be given when there is a result; node in pool->to_notify once it is due */
};

mh_err mh_stream_create(mh_stream **out, mh_pool *pool, const mh_stream_options *options)
{
    *out = NULL;
    mh_err err = mh__pool_check(pool);
    if (err)
        return err;
    mh_stream *s = mh__calloc(1, sizeof *s);
    if (!s)
        return MH_ERR_NO_MEMORY;
    if (options)
        s->options = *options;
    if (!s->options.window)
        s->options.window = WINDOW_RINGS * pool->options.workers * pool->options.slots;
    s->options.window = MH__MIN(s->options.window, (size_t)WINDOW_MAX);
    s->pool = pool;
    mh__list_init(&s->done);
    mh__list_init(&s->notice.node);
    if (s->options.ordered) {
        s->mask = mh__power_of_two(s->options.window) - 1;
        s->order = mh__calloc(s->mask + 1, sizeof(mh_future *));
        if (!s->order) {
            mh__free(s);
            return MH_ERR_NO_MEMORY;
        }
    }
    mh__pool_lock(pool);
    pool->refs++;
    mh__pool_unlock(pool);
    *out = s;
    return MH_OK;
}

/* ---- going in ---------------------------------------------------------------------------------- */

static size_t room(const mh_stream *s) { return s->options.window - (size_t)(s->submitted - s->taken); }

size_t mh_stream_room(mh_stream *s)
{
    if (mh__pool_check(s->pool))
        return 0;
    mh__pool_lock(s->pool);
    size_t left = room(s);
    mh__pool_unlock(s->pool);
    return left;
}

static void accept(mh_stream *s, mh_future *f)
{
    if (s->options.ordered)
        s->order[s->submitted & s->mask] = f;
    s->submitted++;
}

static mh_err submit_one(mh_stream *s, mh_bytes task, uint16_t flags, const mh_submit_options *o)
{
    mh_future *f;
    mh_err err = mh__submit(s->pool, task, flags, o, s, &f);
    if (!err)
        accept(s, f);
    return err;
}

static mh_err submit_flagged(mh_stream *s, mh_bytes task, uint16_t flags, uint64_t tag)
{
    mh_err err = mh__pool_check(s->pool);
    if (err)
        return err;
    mh_submit_options o = s->options.defaults;
    o.tag = tag;
    mh__pool_lock(s->pool);
    err = mh__can_submit(s->pool, &o);
    if (!err)
        err = room(s) ? submit_one(s, task, flags, &o) : MH_ERR_FULL;
    if (!err)
        mh__after_submit(s->pool);
    mh__pool_unlock(s->pool);
    return err;
}

mh_err mh_stream_submit(mh_stream *s, mh_bytes task, uint64_t tag) { return submit_flagged(s, task, 0, tag); }

mh_err mh__stream_submit_map(mh_stream *s, mh_bytes chunk, uint64_t tag)
{
    return submit_flagged(s, chunk, MH__RECORD_MAP, tag);
}

mh_err mh_stream_submit_block(mh_stream *s, mh_block **block, size_t size, uint64_t tag)
{
    mh_err err = mh__pool_check(s->pool);
    if (err)
        return err;
    mh_submit_options o = s->options.defaults;
    o.tag = tag;
    mh_future *f;
    mh__pool_lock(s->pool);
    err = room(s) ? mh__submit_block(s->pool, block, size, &o, s, &f) : MH_ERR_FULL;
    if (!err) {
        accept(s, f);
        mh__after_submit(s->pool);
    }
    mh__pool_unlock(s->pool);
    return err;
}

mh_err mh_stream_submit_many(mh_stream *s, const void *tasks, size_t size, size_t count, uint64_t tag, size_t *taken)
{
    mh_err err = mh__pool_check(s->pool);
    if (err)
        return err;
    mh_submit_options o = s->options.defaults;
    mh__pool_lock(s->pool);
    err = mh__can_submit(s->pool, &o);
    size_t most = MH__MIN(count, room(s)), done = 0;
    if (!err && !most && count)
        err = MH_ERR_FULL;
    for (; !err && done < most; done++) {
        o.tag = tag + done;
        err = submit_one(s, (mh_bytes){(const char *)tasks + done * size, size}, 0, &o);
        if (err)
            break;
    }
    if (done)
        mh__after_submit(s->pool);
    mh__pool_unlock(s->pool);
    if (done || !err) {
        *taken = done;
        return MH_OK;
    }
    return err;
}

/* ---- coming out -------------------------------------------------------------------------------- */

static mh_future *oldest(const mh_stream *s) { return s->order[s->taken & s->mask]; }

static bool has_result(void *stream)
{
    mh_stream *s = stream;
    if (s->submitted == s->taken)
        return true; /* nothing is outstanding, for another thread took it */
    if (s->options.ordered)
        return atomic_load_explicit(&oldest(s)->is_done, memory_order_relaxed);
    return !mh__list_is_empty(&s->done);
}

void mh__stream_done(mh_stream *s, mh_future *f)
{
    if (!s->options.ordered)
        mh__list_push_back(&s->done, &f->node);
    if (s->waiters)
        mh__waiters_wake(s->pool);
    if (s->notice.fn && mh__list_is_empty(&s->notice.node) && has_result(s))
        mh__list_push_back(&s->pool->to_notify, &s->notice.node);
}

mh_err mh_stream_on_result(mh_stream *s, void (*fn)(void *ctx), void *ctx)
{
    mh_err err = mh__pool_check(s->pool);
    if (err)
        return err;
    mh__pool_lock(s->pool);
    bool now = has_result(s);
    if (s->notice.fn)
        err = mh__fail(MH_ERR_INVALID, "the stream has a notice to give already");
    if (!err && !now) {
        s->notice.fn = fn;
        s->notice.ctx = ctx;
        s->pool->call_count++;
        mh__arm_keeper(s->pool);
    }
    mh__pool_unlock(s->pool);
    if (!err && now)
        fn(ctx);
    return err;
}

static mh_future *take_one(mh_stream *s)
{
    mh_future *f;
    if (s->options.ordered) {
        f = oldest(s);
        s->order[s->taken & s->mask] = NULL;
    } else {
        f = mh__list_entry(mh__list_pop_front(&s->done), mh_future, node);
    }
    f->stream = NULL;
    s->taken++;
    return f;
}

mh_err mh_stream_take_many(mh_stream *s, mh_deadline until, mh_result *results, size_t capacity, size_t *count)
{
    mh_err err = mh__pool_check(s->pool);
    if (err)
        return err;
    if (!capacity)
        return mh__fail(MH_ERR_INVALID, "room for no result");
    mh__pool_lock(s->pool);
    mh__waiter waiter = {.is_ready = has_result, .what = s, .is_lazy = capacity > 1};
    s->waiters++;
    err = mh__wait(s->pool, &waiter, until);
    s->waiters--;
    if (!err && s->submitted == s->taken)
        err = MH_ERR_EMPTY;
    if (!err) {
        size_t got = 0;
        while (got < capacity && s->submitted != s->taken && has_result(s))
            mh__record_result(take_one(s), &results[got++]); /* the stream's reference is the result's now */
        *count = got;
    }
    mh__pool_unlock(s->pool);
    return err;
}

mh_err mh_stream_take(mh_stream *s, mh_deadline until, mh_result *result)
{
    size_t count;
    return mh_stream_take_many(s, until, result, 1, &count);
}

/* ---- led by a loop of the caller's ------------------------------------------------------------- */

static bool has_any(void *stream)
{
    mh_stream *s = stream;
    return s->submitted != s->taken && has_result(s);
}

void mh__stream_lead(mh_stream *s, int fds[MH__LEAD_FDS])
{
    mh__pool_lock(s->pool);
    s->leader = (mh__waiter){.is_ready = has_any, .what = s, .is_lazy = true};
    s->waiters = 1; /* for ever: the housekeeper may collect, too */
    s->pool->is_led = true;
    fds[0] = s->pool->leader_bell;
    fds[1] = s->pool->hands_poller;
    mh__pool_unlock(s->pool);
}

bool mh__stream_before_sleep(mh_stream *s, bool spins, mh_deadline *until)
{
    mh_pool *pool = s->pool;
    *until = MH_NOW;
    if (mh__pool_check(pool))
        return true;
    mh__pool_lock(pool);
    mh__drive(pool);
    if (mh__has_calls(pool))
        mh__keeper_ring(pool);
    bool any = has_any(s);
    if (!any && spins && s->submitted != s->taken && mh__lead_spin(pool, &s->leader)) {
        mh__drive(pool);
        any = has_any(s);
    }
    if (!any)
        any = !mh__lead_prepare(pool, &s->leader, MH_FOREVER);
    *until = any ? MH_NOW : pool->leader_until;
    mh__pool_unlock(pool);
    return !any;
}

void mh__stream_after_sleep(mh_stream *s, unsigned is_readable)
{
    if (mh__pool_check(s->pool))
        return;
    mh__pool_lock(s->pool);
    mh__lead_awake(s->pool, is_readable);
    mh__pool_unlock(s->pool);
}

size_t mh__stream_take_led(mh_stream *s, mh_result *results, size_t capacity)
{
    size_t got = 0;
    if (mh__pool_check(s->pool))
        return 0;
    mh__pool_lock(s->pool);
    while (got < capacity && has_any(s))
        mh__record_result(take_one(s), &results[got++]);
    mh__pool_unlock(s->pool);
    return got;
}

/* ---- giving up --------------------------------------------------------------------------------- */

static void cancel_all(mh_stream *s)
{
    mh_pool *pool = s->pool;
    for (mh__list *node = pool->live.next; node != &pool->live; node = node->next) {
        mh_future *f = mh__list_entry(node, mh_future, node);
        if (f->stream != s)
            continue;
        mh_err err = mh_sched_cancel(pool->sched, f->handle);
        (void)err; /* it is not done, so it is there */
    }
}

void mh_stream_cancel(mh_stream *s)
{
    if (mh__pool_check(s->pool))
        return;
    mh__pool_lock(s->pool);
    cancel_all(s);
    mh__drive(s->pool);
    mh__arm_keeper(s->pool);
    mh__pool_unlock(s->pool);
}

/* What still runs belongs to nobody then. */
static void disown(mh_stream *s)
{
    mh_pool *pool = s->pool;
    for (mh__list *node = pool->live.next; node != &pool->live; node = node->next) {
        mh_future *f = mh__list_entry(node, mh_future, node);
        if (f->stream == s) {
            f->stream = NULL;
            mh__record_drop(f); /* the stream's reference; the pool's remains */
        }
    }
}

/* It is given by the caller then. */
static void drop_notice(mh_stream *s, mh__notice *out)
{
    *out = s->notice;
    if (!s->notice.fn)
        return;
    s->pool->call_count--;
    mh__list_remove(&s->notice.node);
    s->notice.fn = NULL;
}

void mh_stream_destroy(mh_stream **stream)
{
    mh_stream *s = *stream;
    if (!s)
        return;
    *stream = NULL;
    mh_pool *pool = s->pool;
    mh__notice notice = {0};
    if (!mh__pool_check(pool)) {
        mh__pool_lock(pool);
        if (s->leader.what) { /* who led leads no longer */
            pool->is_led = false;
            pool->sleeping_leader = NULL;
        }
        cancel_all(s);
        mh__drive(pool);
        while (s->submitted != s->taken && !s->options.ordered && !mh__list_is_empty(&s->done))
            mh__record_drop(take_one(s));
        for (; s->options.ordered && s->submitted != s->taken; s->taken++)
            if (atomic_load(&oldest(s)->is_done))
                mh__record_drop(oldest(s));
        disown(s);
        drop_notice(s, &notice);
        mh__arm_keeper(pool);
        mh__pool_unlock_release(pool);
        if (notice.fn)
            notice.fn(notice.ctx);
    }
    mh__free(s->order);
    mh__free(s);
}
