/* What a pool tells of itself: counts, times, and the trace. */
#include "base/buf.h"
#include "base/error.h"
#include "base/memory.h"
#include "os/process.h"
#include "pool/pool.h"

#include <stdio.h>
#include <string.h>

/* ---- counts and times -------------------------------------------------------------------------- */

void mh_pool_stats_read(mh_pool *pool, mh_pool_stats *out)
{
    if (mh__pool_check(pool))
        return;
    mh__pool_lock(pool);
    mh_sched_stats sched;
    mh_sched_stats_read(pool->sched, &sched);
    *out = pool->stats;
    out->late_answers = sched.late;
    out->request_bytes = mh__arena_used_bytes(pool->requests);
    mh__pool_unlock(pool);
}

void mh_pool_worker_stats(mh_pool *pool, mh_worker_stats *out, size_t *count)
{
    size_t found = 0;
    if (!mh__pool_check(pool)) {
        mh__pool_lock(pool);
        int64_t now = mh_now();
        for (size_t i = 0; i < pool->options.workers; i++) {
            mh__hand *hand = pool->hands[i];
            if (!hand || hand->pid <= 0)
                continue;
            if (found < *count) {
                mh__times_read(&hand->region->times, now, &out[found]);
                out[found].pid = hand->pid;
            }
            found++;
        }
        mh__pool_unlock(pool);
    }
    *count = found;
}

void mh_pool_time_stats_read(mh_pool *pool, mh_pool_time_stats *out)
{
    if (mh__pool_check(pool))
        return;
    mh__pool_lock(pool);
    *out = (mh_pool_time_stats){.lived_ns = mh_now() - pool->began_ns,
                                .waiting_ns = pool->waiting_ns,
                                .serialising_ns = atomic_load(&pool->serialising_ns),
                                .transport_ns = pool->transport_ns,
                                .departed = pool->departed};
    mh__pool_unlock(pool);
}

/* ---- the trace's memory ------------------------------------------------------------------------ */

static void keep_event(mh_pool *pool, const mh__event *e)
{
    pool->trace[pool->trace_written++ % pool->options.trace_events] = *e;
}

/* The events of one worker, oldest first, each checked: what is overwritten meanwhile is left out. */
static void each_event(mh__hand *hand, void (*fn)(void *ctx, const mh__event *e), void *ctx)
{
    size_t size = hand->pool->options.trace_events;
    const mh__times *t = &hand->region->times;
    const mh__event *ring = mh__region_trace(hand->region, hand->ring.mask + 1);
    uint64_t end = atomic_load_explicit(&t->events, memory_order_acquire), at = end > size ? end - size : 0;
    for (; size && at < end; at++) {
        mh__event e = ring[at % size];
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(&t->events, memory_order_relaxed) - at >= size)
            continue; /* it was being written over, perhaps */
        e.label[sizeof e.label - 1] = 0;
        e.pid = hand->pid;
        fn(ctx, &e);
    }
}

static void keep_one(void *ctx, const mh__event *e) { keep_event(ctx, e); }

void mh__report_departed(mh__hand *hand)
{
    mh_pool *pool = hand->pool;
    mh_worker_stats last, *all = &pool->departed;
    mh__times_read(&hand->region->times, mh_now(), &last);
    all->tasks += last.tasks;
    all->bytes_in += last.bytes_in;
    all->bytes_out += last.bytes_out;
    all->lived_ns += last.lived_ns;
    all->busy_ns += last.busy_ns;
    all->idle_ns += last.idle_ns;
    all->core_ns += last.core_ns;
    all->serialising_ns += last.serialising_ns;
    all->transport_ns += last.transport_ns;
    if (pool->trace)
        each_event(hand, keep_one, pool);
}

void mh__report_own(mh_pool *pool, const char *label, int64_t begin_ns, int64_t end_ns)
{
    if (!pool->trace)
        return;
    mh__event e = {.begin_ns = begin_ns, .run_ns = begin_ns, .ran_ns = end_ns, .end_ns = end_ns};
    strncpy(e.label, label, sizeof e.label - 1);
    keep_event(pool, &e);
}

void mh_pool_note_serialising(mh_pool *pool, int64_t begin_ns, int64_t end_ns)
{
    if (end_ns <= begin_ns || mh__pool_check(pool))
        return;
    atomic_fetch_add_explicit(&pool->serialising_ns, end_ns - begin_ns, memory_order_relaxed);
    if (!pool->trace)
        return;
    mh__pool_lock(pool);
    mh__report_own(pool, "serialise", begin_ns, end_ns);
    mh__pool_unlock(pool);
}

/* ---- the trace as text ------------------------------------------------------------------------- */

typedef struct writer {
    mh_buf *out;
    int32_t owner; /* process number of the pool's own */
    int64_t began_ns;
    bool is_first;
    mh_err err;
} writer;

static void put(writer *w, const char *text)
{
    if (!w->err)
        w->err = mh_buf_append(w->out, (mh_bytes){text, strlen(text)});
}

/* A label is anybody's bytes: what JSON or UTF-8 could stumble over becomes a question mark. */
static void put_label(writer *w, const char *label)
{
    char text[MH__TRACE_LABEL + 1];
    size_t i = 0;
    for (; label[i] && i < MH__TRACE_LABEL; i++)
        text[i] = label[i] < ' ' || label[i] > '~' || label[i] == '"' || label[i] == '\\' ? '?' : label[i];
    text[i] = 0;
    put(w, text);
}

static double microseconds(const writer *w, int64_t at) { return (double)(at - w->began_ns) / 1e3; }

static void put_span(writer *w, const char *name, int32_t pid, int64_t begin, int64_t end)
{
    char text[160];
    put(w, w->is_first ? "" : ",\n");
    w->is_first = false;
    put(w, "{\"name\":\"");
    put_label(w, name);
    snprintf(text, sizeof text, "\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f", w->owner, pid, microseconds(w, begin),
             (double)(end - begin) / 1e3);
    put(w, text);
}

static void put_event(void *ctx, const mh__event *e)
{
    writer *w = ctx;
    char text[200];
    bool is_sound = e->begin_ns >= w->began_ns && e->begin_ns <= e->run_ns && e->run_ns <= e->ran_ns && e->ran_ns <= e->end_ns;
    if (!is_sound)
        return;
    put_span(w, e->label[0] ? e->label : "task", e->pid, e->begin_ns, e->end_ns);
    if (!e->task_id) {
        put(w, "}");
        return;
    }
    snprintf(text, sizeof text, ",\"args\":{\"task\":%llu,\"attempt\":%u,\"error\":\"%s\",\"bytes_in\":%llu,\"bytes_out\":%llu}}",
             (unsigned long long)e->task_id, e->attempt, e->err ? mh_err_name((mh_err)e->err) : "", (unsigned long long)e->bytes_in,
             (unsigned long long)e->bytes_out);
    put(w, text);
    if (e->run_ns > e->begin_ns) {
        put_span(w, "read", e->pid, e->begin_ns, e->run_ns);
        put(w, "}");
    }
    if (e->end_ns > e->ran_ns) {
        put_span(w, "write", e->pid, e->ran_ns, e->end_ns);
        put(w, "}");
    }
}

static void put_name(writer *w, const char *what, int32_t tid, const char *name)
{
    char text[160];
    snprintf(text, sizeof text, "%s{\"name\":\"%s\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"%s\"}}", w->is_first ? "" : ",\n", what,
             w->owner, tid, name);
    w->is_first = false;
    put(w, text);
}

static void put_all(mh_pool *pool, writer *w)
{
    char name[32];
    size_t size = pool->options.trace_events;
    put(w, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
    put_name(w, "process_name", 0, "manyhands pool");
    put_name(w, "thread_name", 0, "caller");
    for (uint64_t at = pool->trace_written > size ? pool->trace_written - size : 0; at < pool->trace_written; at++)
        put_event(w, &pool->trace[at % size]);
    for (size_t i = 0; i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (!hand || hand->pid <= 0)
            continue;
        snprintf(name, sizeof name, "worker %d", hand->pid);
        put_name(w, "thread_name", hand->pid, name);
        each_event(hand, put_event, w);
    }
    put(w, "\n]}\n");
}

mh_err mh_pool_trace(mh_pool *pool, mh_buf **json)
{
    *json = NULL;
    mh_err err = mh__pool_check(pool);
    if (err)
        return err;
    if (!pool->trace)
        return mh__fail(MH_ERR_INVALID, "options.trace_events: this pool keeps no trace");
    writer w = {.owner = mh__os_pid(), .began_ns = pool->began_ns, .is_first = true};
    err = mh_buf_create(&w.out, 0);
    if (err)
        return err;
    mh__pool_lock(pool);
    put_all(pool, &w);
    mh__pool_unlock(pool);
    if (w.err)
        mh_buf_destroy(&w.out);
    *json = w.out;
    return w.err;
}
