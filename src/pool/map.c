/* mh_pool_map: a function over plain arrays that the workers share. */
#include "pool/map.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/maps.h"
#include "pool/pool.h"

#include <string.h>

/* ---- in the worker ------------------------------------------------------------------------------ */

static mh_err find(mh_task *task, mh__map_place place, uint64_t count, uint64_t each, void **out)
{
    mh__worker *w = task->worker;
    uint64_t size;
    if (__builtin_mul_overflow(count, each, &size))
        return mh__fail(MH_ERR_CORRUPT, "a chunk of too many items");
    if (place.segment)
        return mh__segments_find(&w->segments, w->socket, place.segment, place.at, size, out);
    *out = (void *)(uintptr_t)place.at;
    return MH_OK;
}

mh_err mh__map_run(mh_task *task)
{
    mh__map_chunk chunk;
    mh_bytes input = mh_task_input(task);
    if (input.size < sizeof chunk)
        return mh__fail(MH_ERR_CORRUPT, "a chunk of %zu bytes", input.size);
    memcpy(&chunk, input.data, sizeof chunk);
    void *in = NULL, *out = NULL;
    mh_err err = find(task, chunk.in, chunk.count, chunk.in_size, &in);
    if (!err)
        err = find(task, chunk.out, chunk.count, chunk.out_size, &out);
    if (err)
        return err;
    mh_map_fn fn = (mh_map_fn)(uintptr_t)chunk.fn;
    int64_t begin = mh_now();
    err = fn(in, out, (size_t)chunk.count, (const char *)input.data + sizeof chunk);
    int64_t spent = mh_now() - begin;
    return err ? err : mh_task_reply(task, (mh_bytes){&spent, sizeof spent});
}

/* ---- in the parent ------------------------------------------------------------------------------ */

enum {
    CHUNKS_EACH = 3, /* chunks under way for each worker: one runs, the others wait so that it never does */
    FIRST_SHARE = 64 /* the first chunks, of items whose cost nobody knows, are this part of a fair share */
};
#define CHUNK_LEAST_NS (1 * MH_MILLISECOND)
#define CHUNK_MOST_NS (50 * MH_MILLISECOND)

typedef struct mapping {
    mh_pool *pool;
    mh_stream *stream;
    const mh_map_options *options;
    mh__map_chunk *request; /* with the caller's ctx behind it */
    size_t request_size;
    size_t count, next, done;
    double item_ns; /* 0: not known yet */
    mh_err err;     /* the first */
    size_t active;  /* chunks under way */
} mapping;

static mh_err locate(mh_pool *pool, const char *name, const void *at, size_t count, size_t each, mh__map_place *out)
{
    size_t size;
    if (__builtin_mul_overflow(count, each, &size) || (!at && size))
        return mh__fail(MH_ERR_INVALID, "%s: %zu items of %zu bytes at %p", name, count, each, at);
    *out = (mh__map_place){.at = (uintptr_t)at};
    if (pool->options.kind == MH_WORKER_THREAD || size == 0)
        return MH_OK;
    bool common = false;
    int32_t server = -1;
    mh__pool_lock(pool);
    if (mh__attached_find(pool, at, size, &out->segment, &out->at))
        common = true;
    else if (pool->server)
        server = mh_forkserver_pid(pool->server);
    mh__pool_unlock(pool);
    mh_err err = common || server < 0 ? MH_OK : mh__os_is_common(server, at, size, &common);
    if (!err && !common)
        err = mh__fail(MH_ERR_INVALID, "%s: the workers do not see the %zu bytes at %p (see mh_pool_attach)", name, size, at);
    return err;
}

/* As many items as keep a worker busy for long enough to make the handing over cheap, and not so many that others wait for
 * the last one: a part of what is left, shrinking towards the end. */
static size_t next_chunk(const mapping *m)
{
    size_t left = m->count - m->next, workers = m->pool->options.workers, chunk;
    if (m->options->chunk) {
        chunk = m->options->chunk;
    } else if (m->item_ns <= 0) {
        chunk = left / (workers * FIRST_SHARE);
    } else {
        double least = (double)CHUNK_LEAST_NS / m->item_ns, most = (double)CHUNK_MOST_NS / m->item_ns;
        double guided = (double)left / (double)(2 * workers);
        guided = MH__MAX(least, MH__MIN(guided, most));
        chunk = guided < (double)left ? (size_t)guided : left;
    }
    return MH__MAX((size_t)1, MH__MIN(chunk, left));
}

static uint64_t move_on(mh__map_place place, size_t items, uint64_t each) { return place.at + items * each; }

static mh_err submit_chunk(mapping *m)
{
    mh__map_chunk base = *m->request;
    size_t items = next_chunk(m);
    m->request->count = items;
    m->request->in.at = move_on(base.in, m->next, base.in_size);
    m->request->out.at = move_on(base.out, m->next, base.out_size);
    mh_err err = mh__stream_submit_map(m->stream, (mh_bytes){m->request, m->request_size}, items);
    *m->request = base;
    if (!err) {
        m->next += items;
        m->active++;
    }
    return err;
}

static void learn(mapping *m, const mh_result *result)
{
    int64_t spent;
    if (result->err || result->reply.size != sizeof spent || !result->tag)
        return;
    memcpy(&spent, result->reply.data, sizeof spent);
    double item = (double)MH__MAX(spent, 1) / (double)result->tag;
    m->item_ns = m->item_ns > 0 ? (3 * m->item_ns + item) / 4 : item;
}

static void note(mapping *m, mh_err err)
{
    if (!err || m->err)
        return;
    m->err = err;
    mh_stream_cancel(m->stream);
}

static void take_some(mapping *m)
{
    mh_result results[16];
    size_t got = 0;
    mh_err err = mh_stream_take_many(m->stream, MH_FOREVER, results, MH__COUNT_OF(results), &got);
    if (err) {
        note(m, err);
        return;
    }
    for (size_t i = 0; i < got; i++) {
        learn(m, &results[i]);
        m->done += results[i].err ? 0 : results[i].tag;
        note(m, results[i].err);
    }
    m->active -= got;
    mh_results_release(results, got);
    if (m->options->progress && !m->err)
        m->options->progress(m->done, m->count, m->options->progress_ctx);
}

static mh_err run(mapping *m)
{
    size_t most = CHUNKS_EACH * m->pool->options.workers;
    while (m->active || (m->next < m->count && !m->err)) {
        while (!m->err && m->active < most && m->next < m->count) {
            /* before the cost of an item is known, one small chunk for each worker is enough */
            if (!m->options->chunk && m->item_ns <= 0 && m->active >= m->pool->options.workers)
                break;
            note(m, submit_chunk(m));
        }
        if (m->active)
            take_some(m);
    }
    return m->err;
}

static mh_err check(mh_pool *pool, mh_map_fn fn)
{
    mh_err err = mh__pool_check(pool);
    if (err)
        return err;
    if (!fn)
        return mh__fail(MH_ERR_INVALID, "fn: a map needs a function");
    if (pool->options.kind == MH_WORKER_PROCESS && pool->worker_argv && pool->options.start != MH_START_FORK)
        return mh__fail(MH_ERR_UNSUPPORTED, "the workers run a program of their own, which has fn elsewhere");
    return MH_OK;
}

static mh_err make_request(mapping *m, mh_map_fn fn, size_t in_size, size_t out_size)
{
    mh_bytes ctx = m->options->ctx;
    m->request_size = sizeof *m->request + ctx.size;
    m->request = mh__calloc(1, m->request_size);
    if (!m->request)
        return MH_ERR_NO_MEMORY;
    m->request->fn = (uint64_t)(uintptr_t)fn;
    m->request->in_size = in_size;
    m->request->out_size = out_size;
    if (ctx.size)
        memcpy(m->request + 1, ctx.data, ctx.size);
    return MH_OK;
}

mh_err mh_pool_map(mh_pool *pool, mh_map_fn fn, const void *in, size_t in_size, void *out, size_t out_size, size_t count,
                   const mh_map_options *options)
{
    static const mh_map_options no_options;
    mapping m = {.pool = pool, .options = options ? options : &no_options, .count = count};
    mh_err err = check(pool, fn);
    if (!err)
        err = make_request(&m, fn, in_size, out_size);
    if (!err)
        err = locate(pool, "in", in, count, in_size, &m.request->in);
    if (!err)
        err = locate(pool, "out", out, count, out_size, &m.request->out);
    if (!err)
        err = mh_stream_create(&m.stream, pool,
                               &(mh_stream_options){.window = CHUNKS_EACH * pool->options.workers, .defaults = m.options->submit});
    if (!err)
        err = run(&m);
    mh_stream_destroy(&m.stream);
    mh__free(m.request);
    return err;
}
