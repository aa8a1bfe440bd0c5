/* What the parent keeps of a task, from its submission until its last holder lets go. */
#include "base/error.h"
#include "base/memory.h"
#include "pool/pool.h"

#include <string.h>

enum { CHUNK_RECORDS = 64 };

/* Records come from chunks that live as long as the pool, so that a steady load allocates nothing. */
static mh_err grow(mh_pool *pool)
{
    void **chunks = mh__realloc(pool->chunks, (pool->chunk_count + 1) * sizeof *chunks);
    if (!chunks)
        return MH_ERR_NO_MEMORY;
    pool->chunks = chunks;
    char *chunk = mh__alloc(CHUNK_RECORDS * sizeof(mh_future) + _Alignof(mh_future));
    if (!chunk)
        return MH_ERR_NO_MEMORY;
    chunks[pool->chunk_count++] = chunk;
    mh_future *records = (mh_future *)(void *)(chunk + (-(uintptr_t)chunk & (_Alignof(mh_future) - 1)));
    for (size_t i = CHUNK_RECORDS; i-- > 0;) {
        records[i].next = pool->free_records;
        pool->free_records = &records[i];
    }
    return MH_OK;
}

mh_err mh__record_create(mh_future **out, mh_pool *pool)
{
    if (!pool->free_records) {
        mh_err err = grow(pool);
        if (err)
            return err;
    }
    mh_future *f = pool->free_records;
    pool->free_records = f->next;
    memset(f, 0, offsetof(mh_future, bytes));
    mh__list_init(&f->node);
    mh__list_init(&f->backlog);
    f->pool = pool;
    f->slot = MH__NO_SLOT;
    f->refs = 1;
    f->id = ++pool->next_id;
    pool->refs++;
    *out = f;
    return MH_OK;
}

void mh__records_free(mh_pool *pool)
{
    for (size_t i = 0; i < pool->chunk_count; i++)
        mh__free(pool->chunks[i]);
    mh__free(pool->chunks);
}

void mh__record_drop_request(mh_future *f)
{
    if (!(f->flags & MH__RECORD_FAR))
        return;
    f->flags &= (uint16_t)~MH__RECORD_FAR;
    mh_err err = mh__arena_free(f->pool->requests, f->far_request);
    (void)err; /* the books are ours: it is there */
}

void mh__record_drop_reply(mh_future *f)
{
    size_t size = f->reply.size;
    mh__hand *hand = f->reply_hand;
    f->reply = (mh_bytes){0};
    if (!hand)
        return;
    f->pool->stats.reply_bytes -= size;
    f->reply_hand = NULL;
    mh__hand_acknowledge(hand, f->far_reply);
    mh__hand_drop(hand);
}

static void free_callbacks(mh_future *f)
{
    while (f->callbacks) {
        mh__callback *c = f->callbacks;
        f->callbacks = c->next;
        mh__free(c);
    }
}

void mh__record_drop(mh_future *f)
{
    mh_pool *pool = f->pool;
    if (--f->refs)
        return;
    free_callbacks(f);
    mh__record_drop_request(f);
    mh__record_drop_reply(f);
    f->next = pool->free_records;
    pool->free_records = f;
    pool->refs--; /* never the last: who drops records holds the pool */
}

mh_err mh__record_submit(mh_future *f, const mh_submit_options *o)
{
    mh_pool *pool = f->pool;
    mh_sched_submit_options to_sched = {
        .tag = (uintptr_t)f,
        .lost_retries = o->lost_retries,
        .failed_retries = o->failed_retries,
        .oom_retries = o->oom_retries,
        .timeout_ns = o->timeout_ns,
    };
    mh_err err = mh_sched_submit(pool->sched, &to_sched, &f->handle);
    if (err)
        return err;
    f->tag = o->tag;
    f->timeout_ns = o->timeout_ns;
    f->memory_bytes = o->memory_bytes ? o->memory_bytes : pool->options.task_bytes;
    if (o->timeout_ns)
        f->flags |= MH__RECORD_TIMED;
    if (o->lost_retries || o->failed_retries || o->oom_retries)
        f->flags |= MH__RECORD_RETRIES;
    if (o->failed_retries || o->oom_retries) {
        f->flags |= MH__RECORD_AGAIN;
        pool->retry_count++;
    }
    f->refs++;
    mh__list_push_back(&pool->live, &f->node);
    pool->live_count++;
    pool->stats.submitted++;
    return MH_OK;
}

/* ---- the end of a task ------------------------------------------------------------------------ */

static mh_err error_of(const mh_future *f, mh_sched_outcome outcome)
{
    switch (outcome) {
    case MH_SCHED_OK:
        return MH_OK;
    case MH_SCHED_FAILED:
        return (mh_err)f->err;
    case MH_SCHED_OOM:
        return MH_ERR_OUT_OF_MEMORY_TASK;
    case MH_SCHED_LOST:
        return MH_ERR_WORKER_LOST;
    case MH_SCHED_POISON:
        return MH_ERR_POISON_TASK;
    case MH_SCHED_TIMEOUT:
        return MH_ERR_TIMEOUT;
    default:
        return f->pool->is_broken ? MH_ERR_BROKEN : MH_ERR_CANCELLED;
    }
}

static void count(mh_pool_stats *stats, mh_err err)
{
    stats->finished++;
    if (err == MH_ERR_CANCELLED)
        stats->cancelled++;
    else if (err == MH_ERR_WORKER_LOST || err == MH_ERR_POISON_TASK || err == MH_ERR_OUT_OF_MEMORY_TASK)
        stats->lost++;
    else if (err)
        stats->failed++;
}

void mh__record_finish(mh_future *f, mh_sched_outcome outcome, uint32_t attempts)
{
    mh_pool *pool = f->pool;
    if (outcome != MH_SCHED_OK && outcome != MH_SCHED_FAILED)
        mh__record_drop_reply(f);
    f->err = (int32_t)error_of(f, outcome);
    f->attempts = attempts;
    count(&pool->stats, (mh_err)f->err);
    mh__record_drop_request(f);
    mh__list_remove(&f->node);
    pool->live_count--;
    if (f->flags & MH__RECORD_AGAIN)
        pool->retry_count--;
    if (f->callbacks)
        pool->call_count--;
    atomic_store_explicit(&f->is_done, 1, memory_order_release);
    if (f->stream) {
        mh__stream_done(f->stream, f); /* which takes over the reference of its user */
    } else if (f->callbacks) {
        f->refs++;
        mh__list_push_back(&pool->to_call, &f->node);
    }
    if (f->waiters || (pool->joiners && !pool->live_count))
        mh__waiters_wake(pool);
    mh__record_drop(f);
}

void mh__record_result(mh_future *f, mh_result *result)
{
    *result = (mh_result){
        .tag = f->tag,
        .task_id = f->id,
        .err = (mh_err)f->err,
        .attempts = f->attempts,
        .signal = f->signal,
        .exit_code = f->exit_code,
        .worker_pid = f->worker_pid,
        .memory_bytes = f->heavy_bytes,
        .reply = f->reply,
        .owner = f,
    };
}
