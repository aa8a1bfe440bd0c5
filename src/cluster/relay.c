/* Messages between one client and one engine, and what engines publish. Verified, then forwarded as they came. */
#include "cluster/controller_state.h"

#include "os/clock.h"

#include <stdio.h>
#include <string.h>

/* Send [b, a, rest...] of a parcel that is [a, b, rest...] to b. */
static bool cross(mh_controller *c, mh__channel to, const mh__parcel *p)
{
    mh__parcel_clear(c->out);
    mh_err err = mh__parcel_share(c->out, p, 1, 1);
    if (!err)
        err = mh__parcel_share(c->out, p, 0, 1);
    if (!err)
        err = mh__parcel_share(c->out, p, 2, mh__parcel_count(p) - 2);
    if (err) {
        mh__controller_fail(c, err);
        return false;
    }
    mh__outbox_send(c, to, c->out);
    return true;
}

static bool ends_in_request(mh_bytes type)
{
    static const char tail[] = "_request";
    return type.size > sizeof tail - 1 &&
           !memcmp((const char *)type.data + type.size - (sizeof tail - 1), tail, sizeof tail - 1);
}

static void answer_error(mh_controller *c, mh__channel channel, const mh__incoming *in, mh_bytes content)
{
    char type[80];
    mh_bytes t = in->header.msg_type, client = in->m.idents[0];
    if (!ends_in_request(t) || t.size > 64)
        return;
    snprintf(type, sizeof type, "%.*sreply", (int)(t.size - strlen("request")), (const char *)t.data);
    mh__reply_send(c, channel, &client, 1, &(mh__draft){.type = type, .parent = in->m.header, .content = content});
}

/* Nobody there to answer: say so in its place, so that no client waits for ever. */
static void answer_for_missing(mh_controller *c, mh__channel channel, const mh__incoming *in)
{
    mh_bytes engine = in->m.idents[1];
    answer_error(c, channel, in,
                 mh__reply_errorf(c, "EngineError", "Engine '%.*s' is not registered", (int)engine.size, (const char *)engine.data));
}

/* ---- mux ------------------------------------------------------------------------------------- */

/* Its client may not know that it came, or its answer was lost on the way. The same request is answered again, or will be answered. */
static void take_again(mh_controller *c, mh__job *r, mh__parcel *p, const mh__incoming *in)
{
    bool is_same = in->wants_ack && !r->is_task && mh__job_see(c, r) && mh__bytes_equal(mh__parcel_frames(r->request.parcel)[0], in->m.idents[0]);
    if (!is_same) {
        mh__log(c, MH_LOG_WARNING, "request %.*s came twice", (int)in->header.msg_id.size, (const char *)in->header.msg_id.data);
        return;
    }
    mh__durable_confirm(c, MH__CH_MUX_IN, mh__parcel_frames(p)[0], r);
    if (r->is_ended && mh__job_build_answer(c, r))
        mh__durable_send(c, MH__CH_MUX_IN, c->out);
}

void mh__relay_mux_request(mh__socket *s, mh__parcel *p, void *ctx)
{
    (void)s;
    mh_controller *c = ctx;
    mh__incoming in;
    if (!mh__controller_admit(c, MH__CH_MUX_IN, p, &in) || in.at != 2)
        return;
    mh__engine *e = mh__engine_find(c, in.m.idents[1]);
    const char *why;
    if (!e) {
        answer_for_missing(c, MH__CH_MUX_IN, &in);
        return;
    }
    if (mh__durable_is_full(c, &why) && ends_in_request(in.header.msg_type)) {
        answer_error(c, MH__CH_MUX_IN, &in, mh__reply_error(c, "OSError", mh__text(why)));
        return;
    }
    mh__job *known = mh__job_find(c, in.header.msg_id);
    if (known) {
        take_again(c, known, p, &in);
        return;
    }
    if (!cross(c, MH__CH_MUX_OUT, p) || !ends_in_request(in.header.msg_type))
        return;
    mh__job *r = NULL;
    mh_err err = mh__job_create(c, &r, p, in.at, in.header.msg_id, false);
    if (err) {
        mh__controller_fail(c, err);
        return;
    }
    mh__job_at_engine(r, e);
    if (in.wants_ack)
        mh__durable_confirm(c, MH__CH_MUX_IN, mh__parcel_frames(r->request.parcel)[0], r);
}

void mh__relay_again(mh_controller *c, const mh__job *r)
{
    char token[MH__TOKEN_SIZE + 1];
    mh__token_write((uint64_t)c->generation << 32 | (uint32_t)++c->last_attempt, token);
    mh__parcel_clear(c->out);
    mh_err err = mh__parcel_share(c->out, r->request.parcel, 1, 1);
    if (!err)
        err = mh__parcel_share(c->out, r->request.parcel, 0, 1);
    if (!err)
        err = mh__reply_add_again(c, &r->request, token);
    if (err)
        mh__controller_fail(c, err);
    else
        mh__outbox_send(c, MH__CH_MUX_OUT, c->out);
}

void mh__relay_mux_result(mh__socket *s, mh__parcel *p, void *ctx)
{
    (void)s;
    mh_controller *c = ctx;
    mh__incoming in;
    mh_bytes parent;
    if (!mh__controller_admit(c, MH__CH_MUX_OUT, p, &in) || mh__holds_take(c, MH__CH_MUX_OUT, &in) || in.at != 2 ||
        mh__parent_read(in.m.parent, &parent))
        return;
    mh__engine *e = mh__engine_find(c, in.m.idents[0]);
    mh__job *r = mh__job_find(c, parent);
    if (!r) {
        cross(c, MH__CH_MUX_IN, p);
        return;
    }
    if (r->is_task || r->is_ended || !e || r->engine != e) {
        mh__log(c, MH_LOG_INFO, "a second, late or wrong %.*s was dropped", (int)in.header.msg_type.size, (const char *)in.header.msg_type.data);
        c->stats.dropped++;
        c->stats.late++;
        return;
    }
    e->completed++;
    mh_err err = mh__job_keep_result(c, r, p, in.at);
    if (err)
        mh__controller_fail(c, err);
    else
        mh__job_answer(c, r, MH_SCHED_OK);
}

/* What a dead engine had not answered. The notification tells the clients; the record tells who asks later. */
void mh__relay_engine_gone(mh_controller *c, mh__engine *e)
{
    while (!mh__list_is_empty(&e->queue)) {
        mh__job *r = mh__list_entry(e->queue.next, mh__job, place);
        char metadata[160];
        int size = snprintf(metadata, sizeof metadata, "{\"status\":\"error\",\"engine\":\"%s\"}", e->uuid);
        mh_bytes content = mh__reply_errorf(c, "EngineError", "Engine %lld died while running task '%s'", (long long)e->id, r->id);
        mh__draft d = {.type = "apply_reply", .parent = mh__kept_header(&r->request), .metadata = {metadata, (size_t)size},
                       .content = content, .unix_ns = mh__os_wall_ns()};
        if (mh__session_build(&c->session, &d, &c->built) == MH_OK)
            mh__job_keep_error(c, r, &c->built, e);
        mh__job_end(c, r, MH_SCHED_LOST);
    }
}

/* ---- control --------------------------------------------------------------------------------- */

void mh__relay_control_request(mh__socket *s, mh__parcel *p, void *ctx)
{
    static const char *const keys[] = {"msg_ids"};
    (void)s;
    mh_controller *c = ctx;
    mh__incoming in;
    mh__json got[1];
    if (!mh__controller_admit(c, MH__CH_CONTROL_IN, p, &in) || in.at != 2)
        return;
    if (mh__bytes_are(in.header.msg_type, "abort_request") && !mh__json_pick(in.m.content, keys, 1, got))
        mh__tasks_abort(c, got[0]); /* those that no engine has yet; the engines get the same message for theirs */
    if (mh__engine_find(c, in.m.idents[1]))
        cross(c, MH__CH_CONTROL_OUT, p);
    else
        answer_for_missing(c, MH__CH_CONTROL_IN, &in);
}

void mh__relay_control_result(mh__socket *s, mh__parcel *p, void *ctx)
{
    (void)s;
    mh_controller *c = ctx;
    mh__incoming in;
    if (mh__controller_admit(c, MH__CH_CONTROL_OUT, p, &in) && in.at == 2)
        cross(c, MH__CH_CONTROL_IN, p);
}

/* ---- iopub ----------------------------------------------------------------------------------- */

void mh__relay_iopub(mh__socket *s, mh__parcel *p, void *ctx)
{
    (void)s;
    mh_controller *c = ctx;
    mh__incoming in;
    mh_bytes parent;
    if (!mh__controller_admit(c, MH__CH_IOPUB_IN, p, &in))
        return;
    if (mh__bytes_are(in.header.msg_type, "shutdown_reply")) {
        mh__engine *e = mh__engine_find(c, in.header.session);
        if (e)
            mh__engine_unregister(c, e, "it is shutting down");
    } else if (!mh__bytes_are(in.header.msg_type, "status") && !mh__parent_read(in.m.parent, &parent) && parent.size) {
        mh__job_note_output(c, in.header.msg_type, parent, in.m.content);
    }
    mh__outbox_send(c, MH__CH_IOPUB_OUT, p);
}
