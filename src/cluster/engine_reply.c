/* What an engine says: replies to requests, and output. */
#include "cluster/engine_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "net/seal.h"
#include "base/number.h"
#include "os/clock.h"

#include <stdio.h>
#include <string.h>

enum { TYPE_SIZE = 128, UNSENT_MS = 50 };
#define UNSENT_BYTES_MAX ((size_t)256 << 20)

typedef struct unsent {
    mh__list link;
    mh__parcel *parcel;
    mh__socket *to;
    size_t bytes;
} unsent;

/* ---- sending --------------------------------------------------------------------------------- */

static void release(void *data, void *ctx)
{
    (void)data;
    mh__hold_drop(ctx);
}

static mh_err lend(mh__parcel *p, const mh_bytes *buffers, size_t count, mh__hold *hold)
{
    for (size_t i = 0; i < count; i++) {
        mh_err err;
        if (hold) {
            mh__hold_keep(hold);
            err = mh__parcel_lend(p, buffers[i], release, hold);
            if (err)
                mh__hold_drop(hold);
        } else {
            err = mh__parcel_add(p, buffers[i]);
        }
        if (err)
            return err;
    }
    return MH_OK;
}

static mh_err add_signed(mh_engine *e, mh__parcel *p, const mh__draft *d)
{
    mh__built built;
    mh_err err = mh__session_build(&e->session, d, &built);
    for (size_t i = 0; !err && i < MH__FRAMES_SIGNED; i++)
        err = mh__parcel_add(p, built.frames[i]);
    return err;
}

/* A reply that the controller is not there to take waits for it to come back. */
static mh_err keep_unsent(mh_engine *e, mh__socket *to, mh__parcel **p)
{
    size_t bytes = mh__parcel_bytes(*p);
    if (bytes > UNSENT_BYTES_MAX - e->unsent_bytes)
        return mh__fail(MH_ERR_LIMIT, "replies of %zu bytes wait for the controller already", e->unsent_bytes);
    unsent *u = mh__calloc(1, sizeof *u);
    if (!u)
        return MH_ERR_NO_MEMORY;
    *u = (unsent){.parcel = *p, .to = to, .bytes = bytes};
    *p = NULL;
    mh__list_push_back(&e->unsent, &u->link);
    e->unsent_bytes += bytes;
    if (!e->unsent_alarm.is_set)
        mh__alarm_set(e->loop, &e->unsent_alarm, mh_deadline_in(UNSENT_MS * MH_MILLISECOND));
    return MH_OK;
}

static bool is_away(mh_err err) { return err == MH_ERR_NOT_FOUND || err == MH_ERR_FULL; }

/* Its client would wait for ever. An engine that ends is noticed, and what it had is tried again, or fails. */
static void lose_reply(mh_engine *e, mh_err err)
{
    mh__at_engine_log(e, "a reply is lost: %s", mh_err_detail());
    mh__at_engine_end(e, err);
}

/* Takes *p. Replies leave in their order. */
static void send_reply(mh_engine *e, mh__socket *to, mh__parcel **p)
{
    mh_err err = mh__seal_add(&e->session, *p);
    if (!err)
        err = mh__list_is_empty(&e->unsent) ? mh__socket_send(to, *p) : MH_ERR_FULL;
    if (is_away(err))
        err = keep_unsent(e, to, p);
    if (err)
        lose_reply(e, err);
    mh__parcel_destroy(p);
}

static void drop_first(mh_engine *e)
{
    unsent *u = mh__list_entry(mh__list_pop_front(&e->unsent), unsent, link);
    e->unsent_bytes -= u->bytes;
    mh__parcel_destroy(&u->parcel);
    mh__free(u);
}

void mh__at_engine_send_unsent(void *ctx)
{
    mh_engine *e = ctx;
    while (!mh__list_is_empty(&e->unsent)) {
        unsent *u = mh__list_entry(e->unsent.next, unsent, link);
        mh_err err = mh__socket_send(u->to, u->parcel);
        if (is_away(err)) {
            mh__alarm_set(e->loop, &e->unsent_alarm, mh_deadline_in(UNSENT_MS * MH_MILLISECOND));
            return;
        }
        if (err)
            lose_reply(e, err);
        drop_first(e);
    }
}

void mh__at_engine_drop_unsent(mh_engine *e)
{
    while (!mh__list_is_empty(&e->unsent))
        drop_first(e);
}

/* ---- replies --------------------------------------------------------------------------------- */

/* "apply_request" -> "apply_reply" */
static mh_err reply_type(mh_bytes request, char out[TYPE_SIZE])
{
    static const char suffix[] = "_request";
    size_t stem = request.size;
    const char *text = request.data;
    if (stem >= sizeof suffix - 1 && !memcmp(text + stem - (sizeof suffix - 1), suffix, sizeof suffix - 1))
        stem -= sizeof suffix - 1;
    int size = snprintf(out, TYPE_SIZE, "%.*s_reply", (int)stem, text);
    return size >= TYPE_SIZE ? mh__fail(MH_ERR_TOO_LARGE, "a message type of %zu bytes", request.size) : MH_OK;
}

static void add_or(mh__json_out *o, const char *key, mh__json value, void (*otherwise)(mh__json_out *o))
{
    mh__json_key(o, key);
    if (value.text)
        mh__json_add(o, value);
    else
        otherwise(o);
}

static void add_false(mh__json_out *o) { mh__json_add_bool(o, false); }
static void add_empty(mh__json_out *o) { mh__json_add_string(o, ""); }

static void add_engine_info(const mh_engine *e, mh__json_out *o, const char *method)
{
    mh__json_key(o, "engine_info");
    mh__json_open(o, '{');
    mh__json_key(o, "engine_uuid");
    mh__json_add_string(o, e->uuid);
    mh__json_key(o, "engine_id");
    mh__json_add_int(o, e->id);
    mh__json_key(o, "method");
    mh__json_add_string(o, method);
    mh__json_close(o, '}');
}

static const char *method_of(const mh__waiting_request *job)
{
    switch (job->kind) {
    case MH__REQUEST_APPLY: return "apply";
    case MH__REQUEST_EXECUTE: return "execute";
    case MH__REQUEST_CALL: return "call";
    case MH__REQUEST_OTHER: break;
    }
    return "request";
}

/* What the controller reads of a reply. */
static mh_err write_metadata(const mh_engine *e, const mh__waiting_request *job, mh__json status, bool is_met, mh_buf *out)
{
    mh__json said[4];
    const char *const keys[] = {"is_broadcast", "is_coalescing", "original_msg_id", "label"};
    char date[MH__DATE_SIZE];
    if (mh__json_pick(job->message.metadata, keys, 4, said))
        memset(said, 0, sizeof said);
    mh__date_write(job->started_ns ? job->started_ns : mh__os_wall_ns(), date);
    mh__json_out o = mh__json_into(out);
    mh__json_open(&o, '{');
    mh__json_key(&o, "started");
    mh__json_add_string(&o, date);
    mh__json_key(&o, "dependencies_met");
    mh__json_add_bool(&o, is_met);
    mh__json_key(&o, "engine");
    mh__json_add_string(&o, e->uuid);
    add_or(&o, "is_broadcast", said[0], add_false);
    add_or(&o, "is_coalescing", said[1], add_false);
    add_or(&o, "original_msg_id", said[2], add_empty);
    add_or(&o, "label", said[3], mh__json_add_null);
    mh__json_key(&o, "status");
    mh__json_add(&o, status);
    if (mh__json_is(status, "error"))
        add_engine_info(e, &o, method_of(job));
    if (job->is_quiet && job->kind == MH__REQUEST_APPLY) { /* nothing was published: its client need not wait for output */
        mh__json_key(&o, "x_quiet");
        mh__json_add_bool(&o, true);
    }
    mh__json_close(&o, '}');
    return mh__json_finish(&o);
}

/* The content as the executor gave it; of an error, with the engine that it happened on. */
static mh_err write_content(const mh_engine *e, const mh__waiting_request *job, mh_bytes content, mh__json status, mh_buf *out)
{
    mh__json whole, key, value;
    if (!mh__json_is(status, "error"))
        return mh_buf_append(out, content);
    mh_err err = mh__json_check(content, &whole);
    if (err)
        return err;
    mh__json_out o = mh__json_into(out);
    mh__json_open(&o, '{');
    for (mh__json_walk w = mh__json_walk_of(whole); mh__json_next(&w, &key, &value);) {
        if (mh__json_is(key, "engine_info"))
            continue;
        mh_bytes name;
        if (mh__json_plain(key, &name)) {
            mh__json_key_bytes(&o, name);
            mh__json_add(&o, value);
        }
    }
    add_engine_info(e, &o, method_of(job));
    mh__json_close(&o, '}');
    return mh__json_finish(&o);
}

/* Large buffers go by the fast lane. Whether any does. */
static bool offer_buffers(mh_engine *e, const mh__answer *a, mh__lent_offer *o)
{
    for (size_t i = 0; e->lane && e->is_lane_welcome && e->can_lend && i < a->buffer_count; i++)
        if (a->buffers[i].size >= MH__LENT_FROM && mh__lent_add(o, i, a->buffers[i], e->lane))
            break;
    return o->count;
}

static mh_err note_offer(const mh__lent_offer *o, mh_buf *metadata)
{
    mh_buf *with = NULL;
    mh_err err = mh_buf_create(&with, 0);
    if (!err)
        err = mh__lent_write(o, (mh_bytes){mh_buf_data(metadata), mh_buf_size(metadata)}, with);
    if (!err)
        err = mh_buf_resize(metadata, 0);
    if (!err)
        err = mh_buf_append(metadata, (mh_bytes){mh_buf_data(with), mh_buf_size(with)});
    mh_buf_destroy(&with);
    return err;
}

static mh_err build_reply_of(mh_engine *e, const mh__waiting_request *job, const mh__answer *a, mh__parcel *p, mh_buf *content, mh_buf *metadata)
{
    const char *const keys[] = {"status"};
    mh__json status;
    mh__lent_offer offer = {0};
    char type[TYPE_SIZE];
    mh_err err = mh__json_pick(a->content, keys, 1, &status);
    if (!err)
        err = reply_type(job->header.msg_type, type);
    if (!err)
        err = write_content(e, job, a->content, status, content);
    if (!err)
        err = write_metadata(e, job, status, a->is_met, metadata);
    if (!err && offer_buffers(e, a, &offer))
        err = note_offer(&offer, metadata);
    if (!err)
        err = mh__parcel_share(p, job->parcel, 0, job->message.ident_count);
    if (!err)
        err = add_signed(e, p, &(mh__draft){.type = type, .parent = job->message.header, .unix_ns = mh__os_wall_ns(),
                                            .metadata = {mh_buf_data(metadata), mh_buf_size(metadata)},
                                            .content = {mh_buf_data(content), mh_buf_size(content)}});
    if (!err)
        err = lend(p, a->buffers, a->buffer_count, a->hold);
    for (size_t i = 0, first = mh__parcel_count(p) - a->buffer_count; i < offer.count && !err; i++)
        mh__parcel_blank(p, first + offer.index[i]);
    return err;
}

/* The answer or, where its content is none that could be sent, the reason in its place: nobody waits for ever. */
static mh_err build_reply(mh_engine *e, const mh__waiting_request *job, const mh__answer *a, mh__parcel *p, mh_buf *content, mh_buf *metadata)
{
    mh_buf *reason = NULL;
    mh_err err = build_reply_of(e, job, a, p, content, metadata);
    if (err != MH_ERR_CORRUPT && err != MH_ERR_TOO_LARGE)
        return err;
    mh__at_engine_log(e, "an answer can't be sent: %s", mh_err_detail());
    err = mh_buf_create(&reason, 0);
    if (!err)
        err = mh__answer_write_error(reason, "ValueError", MH__TEXT("the engine's answer was not valid JSON, or nested too deep"));
    mh__parcel_clear(p);
    if (!err)
        err = mh_buf_resize(content, 0);
    if (!err)
        err = mh_buf_resize(metadata, 0);
    if (!err)
        err = build_reply_of(e, job, &(mh__answer){.content = {mh_buf_data(reason), mh_buf_size(reason)}, .is_met = true}, p, content, metadata);
    mh_buf_destroy(&reason);
    return err;
}

/* The same by the lane by which the request came: no signature, and of the parent only its id. */
static mh_err reply_fast(mh_engine *e, const mh__waiting_request *job, const mh__answer *a, mh_buf *content, mh_buf *metadata)
{
    const char *const keys[] = {"status"};
    mh__json status;
    mh__built built;
    char type[TYPE_SIZE];
    mh__signer signer = e->session.signer;
    mh__fast_record r = {.kind = MH__FAST_REPLY, .ident_count = job->message.ident_count - 1, .frame_count = 4 + a->buffer_count};
    if (!e->is_lane_welcome || r.ident_count + r.frame_count > MH__FAST_PARTS_MAX)
        return MH_ERR_TOO_LARGE;
    mh_err err = mh__json_pick(a->content, keys, 1, &status);
    if (!err)
        err = reply_type(job->header.msg_type, type);
    if (!err)
        err = write_content(e, job, a->content, status, content);
    if (!err)
        err = write_metadata(e, job, status, a->is_met, metadata);
    e->session.signer = (mh__signer){0};
    if (!err)
        err = mh__session_build(&e->session, &(mh__draft){.type = type, .unix_ns = mh__os_wall_ns()}, &built);
    e->session.signer = signer;
    if (err)
        return err;
    mh_bytes frames[] = {built.frames[2], job->header.msg_id, {mh_buf_data(metadata), mh_buf_size(metadata)}, {mh_buf_data(content), mh_buf_size(content)}};
    memcpy(r.parts, job->message.idents + 1, r.ident_count * sizeof r.parts[0]);
    memcpy(r.parts + r.ident_count, frames, sizeof frames);
    if (a->buffer_count)
        memcpy(r.parts + r.ident_count + 4, a->buffers, a->buffer_count * sizeof *a->buffers);
    r.duration_ns = mh_now() - MH__MAX(job->given_ns, e->answered_ns); /* it was given while another ran */
    return mh__lane_add(e->lane, &r);
}

/* In brief, as the request came. */
static mh_err reply_brief(mh_engine *e, const mh__waiting_request *job, const mh__answer *a, mh_buf *content)
{
    static const char *const keys[] = {"status"};
    static _Thread_local mh__fast_record r;
    uint8_t head[MH__FAST_TASK_HEAD];
    mh__json status;
    int64_t now = mh_now();
    if (!e->is_lane_welcome)
        return MH_ERR_TOO_LARGE;
    mh_bytes said = mh__brief_said(a->content);
    mh_err err = MH_OK;
    if (said.size && !(err = mh__json_pick(said, keys, 1, &status))) {
        err = write_content(e, job, said, status, content);
        said = (mh_bytes){mh_buf_data(content), mh_buf_size(content)};
    }
    if (err)
        return err;
    int64_t wall = mh__os_wall_ns();
    mh__fast_task t = {
        .is_reply = true,
        .flags = (uint8_t)((job->brief->flags & MH__FAST_CALL) | (a->is_met ? 0 : MH__FAST_NOT_MET) |
                           (job->is_quiet && job->kind == MH__REQUEST_APPLY ? MH__FAST_SILENT : 0)),
        .number = job->brief->number,
        .ref = job->brief->ref,
        .token = job->brief->token,
        .date_ns = wall,
        .started_ns = job->started_ns ? job->started_ns : wall,
        .duration_ns = job->given_ns ? now - MH__MAX(job->given_ns, e->answered_ns) : 0, /* it was given while another ran */
        .what = said,
        .buffers = a->buffers,
        .buffer_count = a->buffer_count,
    };
    return mh__fast_task_record(&t, head, &r) ? mh__lane_add(e->lane, &r) : MH_ERR_TOO_LARGE;
}

void mh__at_engine_reply(mh_engine *e, mh__waiting_request *job, const mh__answer *a)
{
    if (job->is_fast) {
        (void)!mh_buf_resize(e->texts[0], 0);
        (void)!mh_buf_resize(e->texts[1], 0);
        if (job->brief ? !reply_brief(e, job, a, e->texts[0]) : !reply_fast(e, job, a, e->texts[0], e->texts[1]))
            return;
    }
    mh__parcel *p = NULL;
    mh_buf *content = NULL, *metadata = NULL;
    mh_err err = mh__at_engine_see(job);
    if (!err)
        err = mh__parcel_create(&p);
    if (!err)
        err = mh_buf_create(&content, 0);
    if (!err)
        err = mh_buf_create(&metadata, 0);
    if (!err)
        err = build_reply(e, job, a, p, content, metadata);
    if (err)
        lose_reply(e, err);
    else
        send_reply(e, job->from, &p);
    mh__parcel_destroy(&p);
    mh_buf_destroy(&content);
    mh_buf_destroy(&metadata);
}

void mh__at_engine_reply_control(mh_engine *e, mh__socket *s, const mh__parcel *p, const mh__message *m, const char *type, mh_bytes content)
{
    mh__parcel *reply = NULL;
    char metadata[MH__AT_ENGINE_UUID_SIZE + 16];
    snprintf(metadata, sizeof metadata, "{\"engine\":\"%s\"}", e->uuid);
    mh_err err = mh__parcel_create(&reply);
    if (!err)
        err = mh__parcel_share(reply, p, 0, m->ident_count);
    if (!err)
        err = add_signed(e, reply, &(mh__draft){.type = type, .parent = m->header, .metadata = mh__text(metadata), .content = content,
                                                .unix_ns = mh__os_wall_ns()});
    if (err)
        mh__at_engine_log(e, "a %s is lost: %s", type, mh_err_detail());
    else
        send_reply(e, s, &reply);
    mh__parcel_destroy(&reply);
}

/* ---- output ---------------------------------------------------------------------------------- */

void mh__at_engine_publish(mh_engine *e, mh_bytes parent, const mh__output *o)
{
    mh__parcel *p = NULL;
    char topic[TYPE_SIZE + 40], type[TYPE_SIZE], metadata[MH__AT_ENGINE_UUID_SIZE + 16];
    if (o->type.size >= sizeof type)
        return;
    snprintf(type, sizeof type, "%.*s", (int)o->type.size, (const char *)o->type.data);
    snprintf(topic, sizeof topic, "engine.%lld.%s", (long long)e->id, type);
    snprintf(metadata, sizeof metadata, "{\"engine\":\"%s\"}", e->uuid);
    mh_err err = mh__parcel_create(&p);
    if (!err)
        err = mh__parcel_add(p, mh__text(topic));
    if (!err)
        err = add_signed(e, p, &(mh__draft){.type = type, .parent = parent, .metadata = mh__text(metadata), .content = o->content,
                                            .unix_ns = mh__os_wall_ns()});
    if (!err)
        err = lend(p, o->buffers, o->buffer_count, o->hold);
    if (!err)
        err = mh__seal_add(&e->session, p);
    if (!err)
        err = mh__socket_send(e->iopub, p);
    if (err)
        mh__at_engine_log(e, "output is lost: %s", mh_err_detail());
    mh__parcel_destroy(&p);
}

void mh__at_engine_publish_status(mh_engine *e, mh_bytes parent, const char *state)
{
    char content[64];
    snprintf(content, sizeof content, "{\"execution_state\":\"%s\"}", state);
    mh__at_engine_publish(e, parent, &(mh__output){.type = MH__TEXT("status"), .content = mh__text(content)});
}
