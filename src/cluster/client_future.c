/* Futures: calls whose replies the client's thread finds by their ids. */
#include "cluster/client_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/process.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A reply may be read after the notification that its engine is gone, which comes by another connection. */
#define STRANDED_NS (200 * MH_MILLISECOND)
/* After a connection ended, or a controller came back: sockets connect one after the other, and what was sent meanwhile arrives last. */
#define LOOK_FOR_LOST_NS (2 * MH_SECOND)
enum { IDS_IN_QUERY = 500 };

/* ---- what outlives the client ---------------------------------------------------------------- */

mh_err mh__client_core_create(mh_client *c)
{
    mh__client_core *core = mh__calloc(1, sizeof *core);
    if (!core)
        return MH_ERR_NO_MEMORY;
    atomic_store(&core->refs, 1);
    core->client = c;
    core->fork_depth = mh__os_fork_depth();
    mh_err err = mh__lock_create(&core->lock);
    if (!err)
        err = mh__cond_create(&core->done);
    if (err) {
        mh__lock_destroy(&core->lock);
        mh__free(core);
        return err;
    }
    c->core = core;
    c->lock = core->lock;
    return MH_OK;
}

void mh__client_core_drop(mh__client_core *core)
{
    if (!core || atomic_fetch_sub_explicit(&core->refs, 1, memory_order_acq_rel) > 1)
        return;
    mh__cond_destroy(&core->done);
    mh__lock_destroy(&core->lock);
    mh__free(core);
}

static mh_err check(const mh_client_future *f)
{
    return f->core->fork_depth == mh__os_fork_depth() ? MH_OK : mh__fail(MH_ERR_FORKED, "the client belongs to the process that opened it");
}

/* ---- life ------------------------------------------------------------------------------------ */

mh_err mh__client_future_create(mh_client *c, mh_client_future **out)
{
    mh_client_future *f = mh__calloc(1, sizeof *f);
    if (!f)
        return MH_ERR_NO_MEMORY;
    atomic_store(&f->refs, 1);
    f->core = c->core;
    atomic_fetch_add_explicit(&c->core->refs, 1, memory_order_relaxed);
    *out = f;
    return MH_OK;
}

static void drop(mh_client_future *f)
{
    if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) > 1)
        return;
    mh_client_message_free(&f->reply);
    mh__free(f->brief);
    mh_buf_destroy(&f->texts);
    mh__client_core_drop(f->core);
    mh__free(f);
}

void mh_client_future_release(mh_client_future **f)
{
    if (*f && !check(*f))
        drop(*f);
    *f = NULL;
}

const char *mh_client_future_id(const mh_client_future *f) { return f->id; }

/* ---- the table of those that wait: with the lock --------------------------------------------- */

mh_err mh__client_expect(mh_client *c, mh_client_future *f)
{
    f->name.key = mh__text(f->id);
    mh_err err = mh__names_add(&c->pending, &f->name);
    if (err)
        return err;
    f->is_pending = true;
    atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
    return MH_OK;
}

/* With the lock, which is given up for the callback. Takes the reference of the table. True: somebody waits for it, who is to be woken. */
static bool end(mh_client *c, mh_client_future *f)
{
    bool is_waited_for = f->waiters;
    mh__names_remove(&c->pending, &f->name);
    f->is_pending = false;
    f->is_done = true;
    void (*fn)(mh_client_future *, void *) = f->fn;
    f->fn = NULL;
    if (fn) {
        mh__lock_drop(c->lock);
        fn(f, f->fn_ctx);
        mh__lock_take(c->lock);
    }
    drop(f);
    return is_waited_for;
}

static void finish(mh_client *c, mh_client_future *f, mh_client_message *reply, mh_err err, const char *why)
{
    f->reply = reply;
    f->err = err;
    f->why = why;
    if (end(c, f))
        mh__cond_wake_all(c->core->done);
}

static mh_client_future *find(const mh_client *c, mh_bytes id)
{
    mh__name *node = mh__names_find(&c->pending, id);
    return node ? mh__name_entry(node, mh_client_future, name) : NULL;
}

bool mh__client_deliver(mh_client *c, mh_client_message *m)
{
    bool is_reply = m->channel == MH_CLIENT_TASK || m->channel == MH_CLIENT_MUX || m->channel == MH_CLIENT_REGISTRATION;
    mh__lock_take(c->lock);
    mh_client_future *f = is_reply && c->pending.count ? find(c, m->parent_id) : NULL;
    if (f)
        finish(c, f, m, MH_OK, NULL);
    mh__lock_drop(c->lock);
    return f != NULL;
}

size_t mh__client_deliver_briefs(mh_client *c, mh__fast_task **came, size_t count)
{
    char id[MH__BRIEF_ID_SIZE];
    size_t left = 0;
    bool is_waited_for = false;
    mh__lock_take(c->lock);
    for (size_t i = 0; i < count; i++) {
        mh_client_future *f = c->pending.count ? find(c, (mh_bytes){id, mh__brief_id(mh__text(c->session.id), came[i]->number, id)}) : NULL;
        if (!f) {
            came[left++] = came[i];
            continue;
        }
        f->brief = came[i];
        is_waited_for |= end(c, f);
    }
    if (is_waited_for)
        mh__cond_wake_all(c->core->done);
    mh__lock_drop(c->lock);
    return left;
}

bool mh__client_is_expected(mh_client *c, mh_bytes id)
{
    mh__lock_take(c->lock);
    bool is_expected = c->pending.count && find(c, id);
    mh__lock_drop(c->lock);
    return is_expected;
}

/* Any of those that wait for which `is` says so; NULL: none. */
static mh_client_future *find_any(mh_client *c, bool (*is)(const mh_client_future *f, const void *ctx), const void *ctx)
{
    for (size_t i = 0; i < c->pending.bucket_count; i++)
        for (mh__name *node = c->pending.buckets[i]; node; node = node->next) {
            mh_client_future *f = mh__name_entry(node, mh_client_future, name);
            if (is(f, ctx))
                return f;
        }
    return NULL;
}

static bool any(const mh_client_future *f, const void *ctx) { return (void)ctx, f->is_pending; }

void mh__client_finish_all(mh_client *c)
{
    mh__lock_take(c->lock);
    for (mh_client_future *f; (f = find_any(c, any, NULL));)
        finish(c, f, NULL, MH_ERR_CLOSED, "the client was closed");
    mh__lock_drop(c->lock);
    mh__names_fini(&c->pending);
}

/* ---- engines that are gone ------------------------------------------------------------------- */

static bool is_due(const mh_client_future *f, const void *now) { return f->fail_at && f->fail_at <= *(const int64_t *)now; }

void mh__client_fail_stranded(void *ctx)
{
    mh_client *c = ctx;
    int64_t now = mh_now();
    mh__lock_take(c->lock);
    for (mh_client_future *f; (f = find_any(c, is_due, &now));)
        finish(c, f, NULL, MH_ERR_WORKER_LOST, "the engine died");
    mh_deadline next = MH_FOREVER;
    for (size_t i = 0; i < c->pending.bucket_count; i++)
        for (mh__name *node = c->pending.buckets[i]; node; node = node->next) {
            mh_client_future *f = mh__name_entry(node, mh_client_future, name);
            next = f->fail_at ? MH__MIN(next, f->fail_at) : next;
        }
    mh__lock_drop(c->lock);
    if (next != MH_FOREVER)
        mh__alarm_set(c->loop, &c->stranded, next);
}

void mh__client_engine_gone(mh_client *c, const char *uuid)
{
    mh_deadline at = mh_deadline_in(STRANDED_NS);
    bool has_any = false;
    mh__lock_take(c->lock);
    for (size_t i = 0; i < c->pending.bucket_count; i++)
        for (mh__name *node = c->pending.buckets[i]; node; node = node->next) {
            mh_client_future *f = mh__name_entry(node, mh_client_future, name);
            if (!f->fail_at && !strcmp(f->uuid, uuid)) {
                f->fail_at = at;
                has_any = true;
            }
        }
    mh__lock_drop(c->lock);
    if (has_any && !c->stranded.is_set)
        mh__alarm_set(c->loop, &c->stranded, at);
}

/* ---- calls that went into a connection that ended, or to a controller that came back without its memory ----------------------- */

static void forget_unknown(mh_client *c, mh_client_future *asked);

static void on_known(mh_client_future *f, void *ctx) { forget_unknown(ctx, f); }

/* {"query":{"msg_id":{"$in":[...]}},"keys":["msg_id"]} of those that were sent before the controller went; false: none. */
static bool write_query(mh_client *c, mh_buf *content)
{
    size_t count = 0;
    mh__json_out o = mh__json_into(content);
    mh__json_open(&o, '{');
    mh__json_key(&o, "keys");
    mh__json_add(&o, (mh__json){"[\"msg_id\"]", 10});
    mh__json_key(&o, "query");
    mh__json_open(&o, '{');
    mh__json_key(&o, "msg_id");
    mh__json_open(&o, '{');
    mh__json_key(&o, "$in");
    mh__json_open(&o, '[');
    for (size_t i = 0; i < c->pending.bucket_count; i++)
        for (mh__name *node = c->pending.buckets[i]; node; node = node->next) {
            mh_client_future *f = mh__name_entry(node, mh_client_future, name);
            if (f->sent_ns < c->lost_ns && !f->is_query && f->looks < 2 && count < IDS_IN_QUERY) {
                f->looks++;
                f->is_looked_for = true;
                mh__json_add_string(&o, f->id);
                count++;
            }
        }
    mh__json_close(&o, ']');
    mh__json_close(&o, '}');
    mh__json_close(&o, '}');
    mh__json_close(&o, '}');
    return !mh__json_finish(&o) && count;
}

void mh__client_look_for_lost(void *ctx)
{
    mh_client *c = ctx;
    mh_buf *content = NULL;
    mh_client_future *f = NULL;
    char id[MH_CLIENT_ID_SIZE];
    if (!c->is_lost && c->is_in_doubt) {
        c->is_in_doubt = false;
        mh__client_tell(c, "x_calls_in_doubt", NULL);
    }
    if (c->is_lost || mh_buf_create(&content, 0)) /* when it is back we are called again: two questions that wait for it would be answered at once */
        return;
    mh__lock_take(c->lock);
    bool has_any = write_query(c, content);
    mh__lock_drop(c->lock);
    if (has_any && !mh__client_future_create(c, &f)) {
        f->is_query = true;
        f->fn = on_known;
        f->fn_ctx = c;
        (void)!mh__client_send(c, &(mh_client_request){.channel = MH_CLIENT_REGISTRATION, .type = "db_request",
                                                       .content = {mh_buf_data(content), mh_buf_size(content)}}, MH_NOW, id, f);
        mh_client_future_release(&f);
        mh__alarm_set(c->loop, &c->look, mh_deadline_in(LOOK_FOR_LOST_NS)); /* the next ones, or the same a second time */
    }
    mh_buf_destroy(&content);
}

static bool is_lost(const mh_client_future *f, const void *ctx) { return (void)ctx, f->is_looked_for; }

/* What the controller does not know, twice in a row, it has lost. */
static void forget_unknown(mh_client *c, mh_client_future *asked)
{
    static const char *const keys[] = {"records", "status"};
    mh__json got[2], key, record;
    mh_bytes id;
    bool is_answer = asked->reply && !mh__json_pick(asked->reply->content, keys, 2, got) && mh__json_is(got[1], "ok");
    mh__lock_take(c->lock);
    mh__json_walk w = mh__json_walk_of(is_answer ? got[0] : (mh__json){0});
    while (mh__json_next(&w, &key, &record)) {
        mh_client_future *f = mh__json_plain(mh__json_get(record, "msg_id"), &id) ? find(c, id) : NULL;
        if (f)
            f->is_looked_for = false, f->looks = 2;
    }
    for (size_t i = 0; i < c->pending.bucket_count; i++)
        for (mh__name *node = c->pending.buckets[i]; node; node = node->next) {
            mh_client_future *f = mh__name_entry(node, mh_client_future, name);
            f->is_looked_for &= is_answer && f->looks >= 2;
        }
    for (mh_client_future *f; (f = find_any(c, is_lost, NULL));) {
        f->is_looked_for = false;
        finish(c, f, NULL, MH_ERR_WORKER_LOST, "the controller was started again and does not know the call");
    }
    mh__lock_drop(c->lock);
}

void mh__client_look_soon(mh_client *c)
{
    mh__lock_take(c->lock);
    for (size_t i = 0; i < c->pending.bucket_count; i++)
        for (mh__name *node = c->pending.buckets[i]; node; node = node->next)
            mh__name_entry(node, mh_client_future, name)->looks = 0;
    mh__lock_drop(c->lock);
    mh__alarm_set(c->loop, &c->look, mh_deadline_in(LOOK_FOR_LOST_NS));
}

/* ---- waiting --------------------------------------------------------------------------------- */

mh_err mh_client_future_wait(mh_client_future *f, mh_deadline until)
{
    mh_err err = check(f);
    if (err)
        return err;
    mh__lock_take(f->core->lock);
    f->waiters++;
    while (!f->is_done && !err)
        err = until == MH_NOW ? MH_ERR_TIMEOUT : mh__cond_wait(f->core->done, f->core->lock, until);
    f->waiters--;
    bool is_done = f->is_done;
    mh__lock_drop(f->core->lock);
    return is_done ? MH_OK : mh__fail(MH_ERR_TIMEOUT, "call %s has not ended", f->id);
}

bool mh_client_future_is_done(mh_client_future *f) { return mh_client_future_wait(f, MH_NOW) == MH_OK; }

mh_err mh_client_future_on_done(mh_client_future *f, void (*fn)(mh_client_future *f, void *ctx), void *ctx)
{
    mh_err err = check(f);
    if (err)
        return err;
    mh__lock_take(f->core->lock);
    bool is_done = f->is_done;
    if (f->has_fn) {
        err = mh__fail(MH_ERR_INVALID, "call %s has a callback already", f->id);
    } else {
        f->has_fn = true;
        f->fn = is_done ? NULL : fn;
        f->fn_ctx = ctx;
    }
    mh__lock_drop(f->core->lock);
    if (!err && is_done)
        fn(f, ctx);
    return err;
}

/* ---- results --------------------------------------------------------------------------------- */

static const struct {
    const char *ename;
    mh_err err;
} known[] = {
    {"EngineError", MH_ERR_WORKER_LOST},     {"WorkerLost", MH_ERR_WORKER_LOST},          {"TaskTimeout", MH_ERR_TIMEOUT},
    {"InvalidDependency", MH_ERR_INVALID},   {"ImpossibleDependency", MH_ERR_NOT_FOUND},  {"UnknownFunction", MH_ERR_NOT_FOUND},
    {"TaskAborted", MH_ERR_CANCELLED},       {"NotImplementedError", MH_ERR_UNSUPPORTED}, {"TaskFailed", MH_ERR_TASK_FAILED},
};

static mh_err code_of(const char *ename)
{
    for (size_t i = 0; i < MH__COUNT_OF(known); i++)
        if (!strcmp(ename, known[i].ename))
            return known[i].err;
    if (!strncmp(ename, "MH_ERR_", 7)) /* what a native function returned */
        for (int i = 1; i <= MH_ERR_OUT_OF_MEMORY_TASK; i++)
            if (!strcmp(ename, mh_err_name((mh_err)i)))
                return (mh_err)i;
    return MH_ERR_TASK_FAILED;
}

/* Append a string and its end; where it begins. */
static mh_err add_text(mh_buf *texts, mh__json v, size_t *at)
{
    mh_err err = MH_OK;
    *at = mh_buf_size(texts);
    if (mh__json_kind_of(v) == MH__JSON_STRING)
        err = mh__json_string(v, texts);
    mh__json_walk w = mh__json_walk_of(v);
    if (mh__json_kind_of(v) == MH__JSON_ARRAY) /* a traceback in lines */
        for (mh__json key, line; !err && mh__json_next(&w, &key, &line);) {
            if (mh_buf_size(texts) > *at)
                err = mh_buf_append(texts, MH__TEXT("\n"));
            if (!err && mh__json_kind_of(line) == MH__JSON_STRING)
                err = mh__json_string(line, texts);
        }
    return err ? err : mh_buf_append(texts, (mh_bytes){"", 1});
}

static mh_err describe(mh_client_future *f, const mh__json *got)
{
    mh_buf *texts = NULL;
    mh_err err = mh_buf_create(&texts, 0);
    for (int i = 0; i < 3 && !err; i++)
        err = add_text(texts, got[i], &f->text_at[i]);
    if (err)
        mh_buf_destroy(&texts);
    f->texts = texts;
    return err;
}

static mh_err read_reply(mh_client_future *f)
{
    static const char *const keys[] = {"ename", "evalue", "traceback", "status"};
    mh__json got[4];
    mh_err err = mh__json_pick(f->reply->content, keys, 4, got);
    if (err)
        return err;
    if (mh__json_is(got[3], "ok"))
        return MH_OK;
    if (mh__json_is(got[3], "aborted") || mh__json_is(got[3], "abort")) {
        f->err = MH_ERR_CANCELLED;
        f->why = "it was aborted";
        return MH_OK;
    }
    err = describe(f, got);
    if (!err)
        f->err = code_of((const char *)mh_buf_data(f->texts) + f->text_at[0]);
    return err;
}

static int64_t engine_of(mh_client_future *f)
{
    mh_client *c;
    int64_t id = -1;
    mh__lock_take(f->core->lock);
    if ((c = f->core->client) && f->reply)
        for (size_t i = 0; i < c->engine_count; i++)
            if (mh__bytes_are(f->reply->source, c->engines[i].uuid))
                id = c->engines[i].id;
    mh__lock_drop(f->core->lock);
    return id;
}

static mh_err see(mh_client_future *f)
{
    mh__received *r = NULL;
    if (!f->brief || f->reply)
        return MH_OK;
    mh_err err = mh__client_fast_see(MH_CLIENT_TASK, f->brief, mh__text(f->id), &r);
    f->reply = err ? NULL : &r->seen;
    return err;
}

/* The first who asks reads the reply; others wait for it. */
static mh_err read_once(mh_client_future *f)
{
    mh__lock_take(f->core->lock);
    mh_err err = see(f);
    if (!err && !f->is_read && f->reply)
        err = read_reply(f);
    f->is_read = !err;
    mh__lock_drop(f->core->lock);
    return err;
}

mh_err mh_client_future_result(mh_client_future *f, mh_deadline until, mh_client_result *out)
{
    mh_err err = mh_client_future_wait(f, until);
    if (!err)
        err = read_once(f);
    if (err)
        return err;
    const char *texts = f->texts ? mh_buf_data(f->texts) : NULL;
    *out = (mh_client_result){
        .err = f->err,
        .ename = texts ? texts + f->text_at[0] : f->err ? mh_err_name(f->err) : "",
        .evalue = texts ? texts + f->text_at[1] : f->why ? f->why : "",
        .traceback = texts ? texts + f->text_at[2] : "",
        .engine_id = engine_of(f),
        .value = f->reply && f->reply->buffer_count ? f->reply->buffers[0] : (mh_bytes){"", 0},
        .reply = f->reply,
    };
    return MH_OK;
}

mh_err mh__client_future_value(mh_client_future *f, mh_deadline until, mh_client_result *out)
{
    mh_err err = mh_client_future_wait(f, until);
    if (err || !f->brief || f->brief->what.size)
        return err ? err : mh_client_future_result(f, until, out);
    *out = (mh_client_result){.ename = "", .evalue = "", .traceback = "", .engine_id = -1,
                              .value = f->brief->buffer_count ? f->brief->buffers[0] : (mh_bytes){"", 0}};
    return MH_OK;
}

/* ---- cancelling ------------------------------------------------------------------------------ */

static mh_err abort_at(mh_client *c, const char *uuid, const char *id)
{
    char content[MH_CLIENT_ID_SIZE + 32], sent[MH_CLIENT_ID_SIZE];
    int size = snprintf(content, sizeof content, "{\"msg_ids\":[\"%s\"]}", id);
    return mh_client_send(c, &(mh_client_request){.channel = MH_CLIENT_CONTROL, .type = "abort_request", .engine = uuid,
                                                  .content = {content, (size_t)size}}, MH_NOW, sent);
}

mh_err mh_client_future_cancel(mh_client_future *f)
{
    mh_err err = check(f);
    if (err)
        return err;
    mh__lock_take(f->core->lock);
    mh_client *c = f->is_done ? NULL : f->core->client;
    if (c)
        c->users++; /* it is not closed meanwhile */
    mh__lock_drop(f->core->lock);
    if (!c)
        return MH_OK;
    /* of a balanced call the controller reads each abort; which engine has it nobody knows, so that all hear of it */
    mh_client_engine *engines = NULL;
    size_t count = 0;
    if (f->uuid[0]) {
        err = abort_at(c, f->uuid, f->id);
    } else {
        mh_client_engines(c, NULL, &count);
        engines = mh__calloc(count + 1, sizeof *engines);
        if (engines)
            mh_client_engines(c, engines, &(size_t){count});
        for (size_t i = 0; engines && !err && i < MH__MAX(count, (size_t)1); i++)
            err = abort_at(c, engines[i].uuid[0] ? engines[i].uuid : "none", f->id);
        err = engines ? err : MH_ERR_NO_MEMORY;
    }
    mh__free(engines);
    mh__lock_take(f->core->lock);
    if (!--c->users)
        mh__cond_wake_all(c->changed);
    mh__lock_drop(f->core->lock);
    return err;
}
