/* Tasks going in. */
#include "base/error.h"
#include "base/memory.h"
#include "pool/pool.h"

#include <string.h>

enum { COPY_UNLOCKED_BYTES = 16384, DRIVE_EVERY = 32 };

static const mh_submit_options no_options;

struct mh_block {
    mh_pool *pool;
    uint64_t offset;
    size_t size;
};

mh_err mh__can_submit(mh_pool *pool, const mh_submit_options *o)
{
    if (o->timeout_ns < 0)
        return mh__fail(MH_ERR_INVALID, "a timeout of %lld ns", (long long)o->timeout_ns);
    if (o->memory_bytes && pool->options.kind == MH_WORKER_THREAD)
        return mh__fail(MH_ERR_INVALID, "a memory limit of %zu bytes for a thread: only processes can have one", o->memory_bytes);
    if (pool->is_broken)
        return mh__fail(MH_ERR_CLOSED, "the pool is broken: %s", pool->why_broken);
    if (pool->state != MH__POOL_OPEN)
        return mh__fail(MH_ERR_CLOSED, "the pool is closed");
    return MH_OK;
}

/* Room in the request arena; finished tasks may have to be collected before there is any. */
static mh_err reserve(mh_pool *pool, size_t size, uint64_t *offset)
{
    mh_err err = mh__arena_alloc(pool->requests, size, offset);
    if (err != MH_ERR_NO_SPACE)
        return err;
    mh__drive(pool);
    return mh__arena_alloc(pool->requests, size, offset);
}

static void unreserve(mh_pool *pool, uint64_t offset)
{
    mh_err err = mh__arena_free(pool->requests, offset);
    (void)err; /* the books are ours: it is there */
}

/* Copy a task that does not fit its record. A long copy is made without the lock: the block is nobody else's. */
static mh_err place_far(mh_pool *pool, mh_bytes task, uint64_t *offset)
{
    mh_err err = reserve(pool, task.size, offset);
    if (err)
        return err;
    bool is_long = task.size > COPY_UNLOCKED_BYTES;
    void *at = mh__arena_at(pool->requests, *offset);
    if (is_long)
        mh__pool_unlock(pool);
    if (task.size)
        memcpy(at, task.data, task.size);
    if (is_long)
        mh__pool_lock(pool);
    return MH_OK;
}

/* A near request shares its record's bytes with the reply, so a task that may be run again after it answered goes far. */
static bool is_near(size_t size, const mh_submit_options *o)
{
    return size <= MH__SLOT_REQUEST_BYTES && !o->failed_retries && !o->oom_retries;
}

mh_err mh__submit(mh_pool *pool, mh_bytes task, uint16_t flags, const mh_submit_options *o, mh_stream *s, mh_future **out)
{
    mh_future *f;
    uint64_t offset = 0;
    if (!(flags & MH__RECORD_MAP) && !mh__pool_runs_tasks(pool))
        return mh__fail(MH_ERR_INVALID, "options.run: this pool has no function for tasks, only maps");
    bool near = is_near(task.size, o);
    mh_err err = near ? MH_OK : place_far(pool, task, &offset);
    if (err)
        return err;
    err = mh__record_create(&f, pool);
    if (err) {
        if (!near)
            unreserve(pool, offset);
        return err;
    }
    f->flags = flags;
    f->stream = s;
    if (near) {
        f->size = (uint16_t)task.size;
        if (task.size)
            memcpy(f->bytes, task.data, task.size);
    } else {
        f->flags |= MH__RECORD_FAR;
        f->far_request = offset;
        f->far_size = task.size;
    }
    err = mh__can_submit(pool, o); /* here, because the lock may have been free for a while */
    if (!err)
        err = mh__record_submit(f, o);
    if (err) {
        mh__record_drop(f);
        return err;
    }
    *out = f;
    return MH_OK;
}

void mh__after_submit(mh_pool *pool)
{
    pool->now = mh_now();
    mh__hands_meet_demand(pool);
    mh__dispatch(pool);
    /* when workers are full, collect at once, so that nobody need be woken for it, and then now and then, many at a time */
    if (pool->live_count <= pool->assigned_count)
        pool->submits = 0;
    else if (pool->submits++ % DRIVE_EVERY == 0 || mh__any_run_out(pool))
        mh__drive(pool);
    mh__arm_keeper(pool);
}

static mh_err finish_submit(mh_pool *pool, mh_err err, mh_future *record, mh_future **f)
{
    if (!err) {
        if (!f)
            mh__record_drop(record); /* nobody wants the result: the pool's reference remains */
        mh__after_submit(pool);
        if (f)
            *f = record;
    }
    mh__pool_unlock(pool);
    return err;
}

/* The lock is held before, and not after. */
static mh_err submit_locked(mh_pool *pool, mh_bytes task, const mh_submit_options *options, mh_future **f)
{
    mh_future *record = NULL;
    const mh_submit_options *o = options ? options : &no_options;
    mh_err err = mh__can_submit(pool, o);
    if (!err)
        err = mh__submit(pool, task, 0, o, NULL, &record);
    return finish_submit(pool, err, record, f);
}

mh_err mh_pool_submit(mh_pool *pool, mh_bytes task, const mh_submit_options *options, mh_future **f)
{
    mh_err err = mh__pool_check(pool);
    if (err)
        return err;
    mh__pool_lock(pool);
    return submit_locked(pool, task, options, f);
}

mh_err mh_pool_submit_now(mh_pool *pool, mh_bytes task, const mh_submit_options *options, mh_future **f)
{
    mh_err err = mh__pool_check(pool);
    if (err)
        return err;
    if (task.size > COPY_UNLOCKED_BYTES || !mh__lock_try(pool->lock))
        return MH_ERR_TIMEOUT;
    return submit_locked(pool, task, options, f);
}

/* ---- blocks ------------------------------------------------------------------------------------ */

mh_err mh_block_create(mh_block **out, mh_pool *pool, size_t size)
{
    *out = NULL;
    mh_err err = mh__pool_check(pool);
    if (err)
        return err;
    mh_block *block = mh__alloc(sizeof *block);
    if (!block)
        return MH_ERR_NO_MEMORY;
    *block = (mh_block){.pool = pool, .size = size};
    mh__pool_lock(pool);
    err = reserve(pool, size, &block->offset);
    if (!err)
        pool->refs++;
    mh__pool_unlock(pool);
    if (err)
        mh__free(block);
    else
        *out = block;
    return err;
}

void *mh_block_data(mh_block *block) { return mh__arena_at(block->pool->requests, block->offset); }

void mh_block_destroy(mh_block **block)
{
    mh_block *b = *block;
    if (!b)
        return;
    *block = NULL;
    if (!mh__pool_check(b->pool)) {
        mh__pool_lock(b->pool);
        unreserve(b->pool, b->offset);
        mh__pool_unlock_release(b->pool);
    }
    mh__free(b);
}

static mh_err submit_block(mh_pool *pool, const mh_block *b, size_t size, const mh_submit_options *o, mh_stream *s,
                           mh_future **out)
{
    mh_err err = mh__can_submit(pool, o);
    if (!err && !mh__pool_runs_tasks(pool))
        err = mh__fail(MH_ERR_INVALID, "options.run: this pool has no function for tasks, only maps");
    if (!err)
        err = mh__record_create(out, pool);
    if (err)
        return err;
    mh_future *f = *out;
    f->stream = s;
    err = mh__record_submit(f, o);
    if (err) {
        mh__record_drop(f);
        return err;
    }
    f->flags |= MH__RECORD_FAR;
    f->far_request = b->offset;
    f->far_size = size;
    pool->refs--; /* the block's; the record has its own */
    return MH_OK;
}

mh_err mh__submit_block(mh_pool *pool, mh_block **block, size_t size, const mh_submit_options *o, mh_stream *s,
                        mh_future **out)
{
    mh_block *b = *block;
    if (b->pool != pool)
        return mh__fail(MH_ERR_INVALID, "the block belongs to another pool");
    if (size > b->size)
        return mh__fail(MH_ERR_INVALID, "a task of %zu bytes in a block of %zu", size, b->size);
    mh_err err = submit_block(pool, b, size, o, s, out);
    if (!err) {
        mh__free(b);
        *block = NULL;
    }
    return err;
}

mh_err mh_pool_submit_block(mh_pool *pool, mh_block **block, size_t size, const mh_submit_options *options, mh_future **f)
{
    mh_err err = mh__pool_check(pool);
    if (err)
        return err;
    mh_future *record = NULL;
    mh__pool_lock(pool);
    err = mh__submit_block(pool, block, size, options ? options : &no_options, NULL, &record);
    return finish_submit(pool, err, record, f);
}
