/* The native executor: a pool of one worker process that has loaded a task library. The pool does what is hard: a task that kills
 * its worker is answered with an error, and the next worker is there. */
#include "cluster/executor.h"
#include "wire/message.h"

#include "base/error.h"
#include "base/list.h"
#include "base/memory.h"
#include "base/number.h"
#include "manyhands/engine.h"
#include "os/library.h"
#include "pool/lead.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define LOAD_NS (60 * MH_SECOND)
#define AHEAD_NS (200 * MH_MICROSECOND) /* calls that the pool gets ahead take about so long together */
enum { WINDOW = 128, RESULTS = 64, COPY_UP_TO = 4096, TURNS = 4 };

typedef struct native_executor {
    mh__executor base;
    mh_pool *pool;
    char *path;
    const mh_task_library *library; /* in the worker only */
    mh_stream *stream;              /* of calls, answered in order */
    uint64_t given, answered;       /* requests so far */
    mh__list refusals;              /* answers to what was not called, in their places */
    bool is_answering;              /* refusals are being answered */
    bool has_failed;
    int64_t since_ns, call_ns;      /* since when the oldest call is the oldest; how long calls take, about */
    int fds[MH__LEAD_FDS];          /* the pool's: this loop leads it */
    mh__alarm ready;
} native_executor;

/* ---- in the worker --------------------------------------------------------------------------- */

/* FNV-1a: what a function's name is in a task's tag. */
static uint64_t hash_of(mh_bytes name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < name.size; i++)
        hash = (hash ^ ((const unsigned char *)name.data)[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static uint64_t hash_of_entry(const mh_task_entry *e) { return hash_of((mh_bytes){e->name, strlen(e->name)}); }

static mh_err check_library(const mh_task_library *l, const char *path)
{
    if (l->abi != MH_TASK_LIBRARY_ABI)
        return mh__fail(MH_ERR_UNSUPPORTED, "task library \"%s\" was built for version %u of the interface, not %u", path, l->abi,
                        MH_TASK_LIBRARY_ABI);
    for (uint32_t i = 0; i < l->count; i++) {
        for (uint32_t j = 0; j < i; j++) {
            if (hash_of_entry(&l->entries[i]) == hash_of_entry(&l->entries[j]))
                return mh__fail(MH_ERR_INVALID, "task library \"%s\" names \"%s\" twice", path, l->entries[i].name);
        }
    }
    return MH_OK;
}

static mh_err initialize(void *ctx)
{
    native_executor *e = ctx;
    const void *found = NULL;
    mh_err err = mh__os_library_open(e->path, MH_TASK_LIBRARY_SYMBOL, &found);
    if (!err)
        err = check_library(found, e->path);
    if (!err)
        e->library = found;
    return err;
}

static mh_err run_task(mh_task *task, void *ctx)
{
    const mh_task_library *l = ((native_executor *)ctx)->library;
    for (uint32_t i = 0; i < l->count; i++) {
        if (hash_of_entry(&l->entries[i]) == mh_task_tag(task))
            return l->entries[i].run(task, l->ctx);
    }
    return MH_ERR_NOT_FOUND;
}

/* ---- answers --------------------------------------------------------------------------------- */

typedef struct held_result {
    mh__hold base;
    mh_result result;
} held_result;

static void destroy_held(mh__hold *h)
{
    held_result *held = (held_result *)h;
    mh_result_release(&held->result);
    mh__free(held);
}

static const char *name_of(mh_err err)
{
    switch (err) {
    case MH_ERR_WORKER_LOST: return "WorkerLost";
    case MH_ERR_NOT_FOUND: return "UnknownFunction";
    case MH_ERR_TASK_FAILED: return "TaskFailed";
    default: return mh_err_name(err);
    }
}

static mh_err describe(const mh_result *r, mh_buf *content)
{
    return mh__answer_write_error(content, name_of(r->err), r->reply.size ? r->reply : mh__text(mh_err_text(r->err)));
}

static mh_err answer(native_executor *e, const mh_result *r, mh__hold *hold)
{
    mh_buf *content = NULL;
    mh_err err = MH_OK;
    mh__answer a = {.content = MH__TEXT("{\"status\":\"ok\"}"), .is_met = true, .buffers = &r->reply, .buffer_count = r->err ? 0 : 1, .hold = hold};
    if (r->err) {
        err = mh_buf_create(&content, 0);
        if (!err)
            err = describe(r, content);
        if (!err)
            a.content = (mh_bytes){mh_buf_data(content), mh_buf_size(content)};
    }
    if (!err)
        e->base.events.on_answer(e->base.events.ctx, &a);
    mh_buf_destroy(&content);
    return err;
}

/* Small replies are copied, and large ones lent until they are sent. */
static mh_err answer_result(native_executor *e, mh_result *r)
{
    held_result *held = NULL;
    if (r->reply.size > COPY_UP_TO && (held = mh__calloc(1, sizeof *held))) {
        held->base.destroy = destroy_held;
        held->result = *r;
        atomic_store(&held->base.refs, 1);
    }
    mh_err err = answer(e, r, held ? &held->base : NULL);
    if (held)
        mh__hold_drop(&held->base);
    else
        mh_result_release(r);
    return err;
}

typedef struct refusal {
    mh__list link;
    uint64_t place;
    const char *name, *why; /* static */
} refusal;

static mh_err answer_refusal(native_executor *e, const refusal *r)
{
    mh_buf *content = NULL;
    mh_err err = mh_buf_create(&content, 0);
    if (!err)
        err = mh__answer_write_error(content, r->name, mh__text(r->why));
    if (!err)
        e->base.events.on_answer(e->base.events.ctx, &(mh__answer){.content = {mh_buf_data(content), mh_buf_size(content)}, .is_met = true});
    mh_buf_destroy(&content);
    return err;
}

/* Those whose turn it is. An answer may bring the next request, and so come here again: then the loop goes on. */
static mh_err answer_refusals(native_executor *e)
{
    mh_err err = MH_OK;
    if (e->is_answering)
        return MH_OK;
    e->is_answering = true;
    while (!err && !mh__list_is_empty(&e->refusals)) {
        refusal *r = mh__list_entry(e->refusals.next, refusal, link);
        if (r->place != e->answered)
            break;
        mh__list_remove(&r->link);
        e->answered++;
        err = answer_refusal(e, r);
        mh__free(r);
    }
    e->is_answering = false;
    return err;
}

static void note_duration(native_executor *e, size_t count)
{
    int64_t now = mh_now(), ns = (now - e->since_ns) / (int64_t)count;
    e->call_ns = e->call_ns ? e->call_ns + (ns - e->call_ns) / 4 : ns;
    e->since_ns = now;
}

static mh_err answer_some(native_executor *e)
{
    mh_result results[RESULTS];
    mh_err err = MH_OK;
    for (size_t count; !err && (count = mh__stream_take_led(e->stream, results, RESULTS)) > 0;) {
        note_duration(e, count);
        for (size_t i = 0; i < count; i++) {
            e->answered++;
            mh_err failed = answer_result(e, &results[i]);
            if (!failed)
                failed = answer_refusals(e);
            err = err ? err : failed;
        }
    }
    return err;
}

/* Answers may bring the next calls, and these be answered soon: but others wait for the loop, too. */
static mh_deadline settle(mh__executor *base, bool may_spin)
{
    native_executor *e = (native_executor *)base;
    mh_deadline until = MH_NOW;
    for (int i = 0; i < TURNS && !e->has_failed; i++) {
        if (mh__stream_before_sleep(e->stream, may_spin, &until))
            return until;
        if (answer_some(e)) {
            e->has_failed = true;
            e->base.events.on_end(e->base.events.ctx, "no memory for an answer");
        }
    }
    return MH_NOW;
}

static void wake(mh__executor *base) { mh__stream_after_sleep(((native_executor *)base)->stream, 0); }

static void on_readable(int fd, void *ctx)
{
    native_executor *e = ctx;
    mh__stream_after_sleep(e->stream, fd == e->fds[0] ? 1 : 2);
}

/* ---- the interface --------------------------------------------------------------------------- */

static mh_err refuse(native_executor *e, const char *name, const char *why)
{
    refusal *r = mh__calloc(1, sizeof *r);
    if (!r)
        return MH_ERR_NO_MEMORY;
    *r = (refusal){.place = e->given++, .name = name, .why = why};
    mh__list_push_back(&e->refusals, &r->link);
    return answer_refusals(e);
}

static size_t window(mh__executor *base)
{
    const native_executor *e = (native_executor *)base;
    return e->call_ns ? (size_t)MH__MAX(MH__MIN(AHEAD_NS / e->call_ns, (int64_t)WINDOW), INT64_C(1)) : 1;
}

static mh_err run(mh__executor *base, const mh__request *r)
{
    native_executor *e = (native_executor *)base;
    mh__json function = {0};
    mh_bytes name = r->function;
    const char *const keys[] = {"function"};
    if (r->kind != MH__REQUEST_CALL)
        return refuse(e, "NotImplementedError", "this engine runs native functions only: call them by name");
    if (!name.size && (mh__json_pick(r->content, keys, 1, &function) || !mh__json_plain(function, &name)))
        return refuse(e, "ValueError", "the content of a call_request needs \"function\", a name without escapes");
    if (r->buffer_count > 1)
        return refuse(e, "ValueError", "a native function takes one buffer");
    mh_bytes input = r->buffer_count ? r->buffers[0] : (mh_bytes){0};
    if (e->given == e->answered)
        e->since_ns = mh_now();
    mh_err err = mh_stream_submit(e->stream, input, hash_of(name));
    e->given += !err;
    return err;
}

static mh_err send_signal(mh__executor *base, int number)
{
    (void)base, (void)number;
    return mh__fail(MH_ERR_UNSUPPORTED, "a native executor takes no signals");
}

static void destroy(mh__executor *base)
{
    native_executor *e = (native_executor *)base;
    mh__alarm_clear(base->loop, &e->ready);
    for (int i = 0; i < MH__LEAD_FDS && e->stream; i++)
        mh__loop_remove_fd(base->loop, e->fds[i]);
    mh_stream_destroy(&e->stream);
    mh_pool_destroy(&e->pool);
    for (mh__list *node; (node = mh__list_pop_front(&e->refusals));)
        mh__free(mh__list_entry(node, refusal, link));
    mh__free(e->path);
    mh__free(e);
}

static const mh__executor_kind native_kind = {run, send_signal, destroy, window, settle, wake, NULL};

static void tell_ready(void *ctx)
{
    native_executor *e = ctx;
    e->base.events.on_ready(e->base.events.ctx);
}

/* In a child of its own: a library may do anything while it is loaded. */
static int try_library(void *ctx)
{
    mh_err err = initialize(ctx);
    if (err)
        fprintf(stderr, "manyhands engine: %s\n", mh_err_detail());
    return err ? 1 : 0;
}

static mh_err check_in_child(native_executor *e)
{
    mh_process *p = NULL;
    mh_exit status = {0};
    mh_err err = mh__os_library_check(e->path);
    if (!err)
        err = mh_process_start(&p, &(mh_process_options){.method = MH_START_FORK, .run = try_library, .ctx = e});
    if (!err)
        err = mh_process_wait(p, mh_deadline_in(LOAD_NS), &status);
    if (err) {
        mh_process_detach(&p);
        return err;
    }
    mh_process_destroy(&p);
    if (status.signal)
        return mh__fail(MH_ERR_INVALID, "task library \"%s\": signal %d while it was loaded", e->path, status.signal);
    return status.code ? mh__fail(MH_ERR_INVALID, "task library \"%s\" can't be used: stderr says why", e->path) : MH_OK;
}

mh_err mh__native_executor_create(mh__executor **out, mh__loop *l, const char *library, const mh__executor_events *events)
{
    *out = NULL;
    native_executor *e = mh__calloc(1, sizeof *e);
    if (!e)
        return MH_ERR_NO_MEMORY;
    e->base = (mh__executor){&native_kind, *events, l};
    e->ready = (mh__alarm){.fn = tell_ready, .ctx = e};
    mh__list_init(&e->refusals);
    e->path = mh__strdup(library);
    mh_err err = e->path ? check_in_child(e) : MH_ERR_NO_MEMORY;
    if (!err)
        err = mh_pool_create(&e->pool, &(mh_pool_options){.workers = 1, .start = MH_START_FORK,
                                                          .worker = {.run = run_task, .initialize = initialize, .ctx = e}});
    if (!err)
        err = mh_stream_create(&e->stream, e->pool, &(mh_stream_options){.ordered = true, .window = WINDOW});
    if (!err)
        mh__stream_lead(e->stream, e->fds);
    for (int i = 0; i < MH__LEAD_FDS && !err; i++)
        err = mh__loop_add_fd(l, e->fds[i], on_readable, e);
    if (err) {
        destroy(&e->base);
        return err;
    }
    mh__alarm_set(l, &e->ready, MH_NOW); /* in the loop's next round, not inside this call */
    *out = &e->base;
    return MH_OK;
}
