/* The client's end of the fast lane (net/lane.h): balanced requests go as records, many in one signed frame, and so do their replies come. A request that is alone is
 * written by the thread that sends it; else what waits is written by the client's thread at once: as much as came while it woke. */
#include "cluster/client_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "net/seal.h"
#include "base/number.h"
#include "os/clock.h"
#include "os/fd.h"
#include "os/unix.h"

#include <stdio.h>
#include <string.h>

#define LENT_NS (60 * MH_SECOND) /* of requests with large buffers that were not answered so long, others do not wait for the answer */
enum { LOOK_MS = 500, LANE_BYTES_MAX = 8 << 20 };

/* ---- sending --------------------------------------------------------------------------------- */

bool mh__client_fast_takes(const mh_client *c, const mh_client_request *r)
{
    size_t size = r->content.size + r->metadata.size + 1024;
    if (!c->is_fast || r->buffer_count > MH__FAST_PARTS_MAX - 4)
        return false;
    for (size_t i = 0; i < r->buffer_count; i++)
        size += r->buffers[i].size;
    return size <= MH__FAST_RECORD_MAX && !c->is_closing;
}

static mh_bytes or_empty(mh_bytes json) { return json.size ? json : MH__TEXT("{}"); }

/* A record's room in what waits. */
static mh_err put_record(mh_client *c, const mh__fast_record *record)
{
    size_t size = mh__fast_size(record), at = mh_buf_size(c->fast_out);
    mh_err err = size ? mh_buf_resize(c->fast_out, at + size) : mh__fail(MH_ERR_TOO_LARGE, "a request of more than %d bytes", MH__FAST_RECORD_MAX);
    if (err)
        return err;
    mh__fast_write(record, (char *)mh_buf_data(c->fast_out) + at);
    c->out_bytes += size;
    c->out_count++;
    c->fast_count++;
    return MH_OK;
}

/* Calls of native functions, and functions in buffers; of others the content is needed. */
static bool can_be_brief(const mh_client *c, const mh_client_request *r, mh__fast_task *t)
{
    bool is_call = !strcmp(r->type, "call_request");
    *t = (mh__fast_task){.flags = is_call ? MH__FAST_CALL : 0, .what = is_call ? mh__brief_function(r->content) : (mh_bytes){"", 0},
                         .metadata = mh__bytes_are(r->metadata, MH__CLIENT_QUIET) ? (mh_bytes){"", 0} : r->metadata, .buffers = r->buffers, .buffer_count = r->buffer_count};
    if (!c->is_brief)
        return false;
    return is_call ? t->what.size : !strcmp(r->type, "apply_request") && (!r->content.size || mh__bytes_are(r->content, "{}"));
}

static mh_err put_brief(mh_client *c, mh__fast_task *t, char id[MH_CLIENT_ID_SIZE])
{
    static _Thread_local mh__fast_record record;
    uint8_t head[MH__FAST_TASK_HEAD];
    mh_bytes session = mh__text(c->session.id);
    t->number = c->session.count;
    t->date_ns = mh__os_wall_ns();
    mh_err err = mh__fast_task_record(t, head, &record) ? put_record(c, &record) : mh__fail(MH_ERR_TOO_LARGE, "%zu buffers", t->buffer_count);
    if (err)
        return err;
    id[mh__brief_id(session, c->session.count++, id)] = 0;
    return MH_OK;
}

mh_err mh__client_fast_put(mh_client *c, const mh_client_request *r, char id[MH_CLIENT_ID_SIZE])
{
    mh__built built;
    mh__fast_task brief;
    if (can_be_brief(c, r, &brief))
        return put_brief(c, &brief, id);
    mh__signer signer = c->session.signer;
    c->session.signer = (mh__signer){0}; /* the frame is signed, not the message */
    mh_err err = mh__session_build(&c->session, &(mh__draft){.type = r->type, .unix_ns = mh__os_wall_ns()}, &built);
    c->session.signer = signer;
    if (err)
        return err;
    mh__fast_record record = {.kind = MH__FAST_REQUEST, .frame_count = 4 + r->buffer_count,
                              .parts = {built.frames[2], MH__TEXT("{}"), or_empty(r->metadata), or_empty(r->content)}};
    if (r->buffer_count)
        memcpy(record.parts + 4, r->buffers, r->buffer_count * sizeof *r->buffers);
    err = put_record(c, &record);
    if (!err)
        snprintf(id, MH_CLIENT_ID_SIZE, "%.*s", (int)built.msg_id.size, (const char *)built.msg_id.data);
    return err;
}

bool mh__client_fast_flush(mh_client *c)
{
    bool has_room = false, all = true;
    mh__lock_take(c->lane_lock);
    mh__lock_take(c->lock);
    size_t size = mh_buf_size(c->fast_out);
    if (size && c->lane && c->is_fast && mh__lane_waiting(c->lane) < LANE_BYTES_MAX &&
        mh__lane_add_written(c->lane, (mh_bytes){mh_buf_data(c->fast_out), size}) == MH_OK) {
        (void)!mh_buf_resize(c->fast_out, 0);
        c->out_bytes -= size;
        c->out_count -= c->fast_count;
        c->stats.sent += c->fast_count;
        c->stats.fast += c->fast_count;
        c->fast_count = 0;
        has_room = true;
    }
    if (has_room)
        mh__cond_wake_all(c->changed);
    all = !c->fast_count || !c->is_fast; /* without a lane it was sent elsewhere */
    mh__lock_drop(c->lock);
    if (c->lane && mh__lane_waiting(c->lane))
        all &= mh__lane_flush(c->lane);
    mh__lock_drop(c->lane_lock);
    return all;
}

/* With the lock. */
static bool has_lent_room(mh_client *c)
{
    int64_t now = mh_now();
    for (size_t i = 0; c->lent_count == MH__CLIENT_LENT_MAX && i < MH__CLIENT_LENT_MAX; i++)
        if (c->lent[i].until <= now) {
            c->lent[i].id[0] = 0;
            c->lent_count--;
        }
    return c->lent_count < MH__CLIENT_LENT_MAX;
}

void mh__client_fast_lent(mh_client *c, const char *id)
{
    c->stats.lent++;
    for (size_t i = 0; i < MH__CLIENT_LENT_MAX; i++)
        if (!c->lent[i].id[0]) {
            snprintf(c->lent[i].id, sizeof c->lent[i].id, "%s", id);
            c->lent[i].until = mh_deadline_in(LENT_NS);
            c->lent_count++;
            break;
        }
}

void mh__client_fast_answered(mh_client *c, mh_bytes id)
{
    mh__lock_take(c->lock);
    for (size_t i = 0; c->lent_count && i < MH__CLIENT_LENT_MAX; i++)
        if (c->lent[i].id[0] && mh__bytes_are(id, c->lent[i].id)) {
            c->lent[i].id[0] = 0;
            c->lent_count--;
        }
    mh__lock_drop(c->lock);
}

void mh__client_fast_lend(mh_client *c, const mh_client_request *r, mh__lent_offer *o)
{
    mh__lock_take(c->lane_lock);
    mh__lock_take(c->lock);
    bool can_lend = c->lane && c->can_lend && !c->is_closing && has_lent_room(c);
    mh__lock_drop(c->lock);
    for (size_t i = 0; can_lend && i < r->buffer_count; i++)
        if (r->buffers[i].size >= MH__LENT_FROM && mh__lent_add(o, i, r->buffers[i], c->lane))
            break;
    mh__lock_drop(c->lane_lock);
}

/* ---- replies --------------------------------------------------------------------------------- */

/* [idents; header, id of the request, metadata, content, buffers] in one piece. */
static mh__received *make_received(const mh__fast_record *r)
{
    static const char before[] = "{\"msg_id\":\"", after[] = "\"}";
    size_t count = r->ident_count + r->frame_count, buffers = r->frame_count - 4, views = buffers * sizeof(mh_bytes), size = 0;
    for (size_t i = 0; i < count; i++)
        size += r->parts[i].size;
    const mh_bytes *f = r->parts + r->ident_count;
    size = mh__round_up(size + sizeof before + sizeof after, sizeof(void *));
    mh__received *m = mh__alloc(sizeof *m + size + views + sizeof(void *));
    if (!m)
        return NULL;
    *m = (mh__received){.bytes = sizeof *m + size + views};
    mh_bytes *at_views = (mh_bytes *)(void *)(((uintptr_t)m->text + size + sizeof(void *) - 1) & ~(uintptr_t)(sizeof(void *) - 1));
    char *at = m->text;
    mh_bytes copies[MH__FAST_PARTS_MAX];
    for (size_t i = 0; i < count; i++) {
        copies[i] = (mh_bytes){at, r->parts[i].size};
        if (i == r->ident_count + 1) { /* the parent: its id, as an object */
            memcpy(at, before, sizeof before - 1);
            at += sizeof before - 1;
        }
        if (r->parts[i].size)
            memcpy(at, r->parts[i].data, r->parts[i].size);
        at += r->parts[i].size;
        if (i == r->ident_count + 1) {
            memcpy(at, after, sizeof after - 1);
            at += sizeof after - 1;
            copies[i].size += sizeof before + sizeof after - 2;
        }
    }
    const mh_bytes *c = copies + r->ident_count;
    for (size_t i = 0; i < buffers; i++)
        at_views[i] = c[4 + i];
    m->seen = (mh_client_message){
        .channel = MH_CLIENT_TASK,
        .source = r->ident_count ? copies[0] : (mh_bytes){"", 0},
        .parent_id = {(const char *)c[1].data + sizeof before - 1, f[1].size},
        .header = c[0],
        .parent = c[1],
        .metadata = c[2],
        .content = c[3],
        .buffers = at_views,
        .buffer_count = buffers,
    };
    return m;
}

static void take_reply(mh_client *c, const mh__fast_record *r)
{
    mh__header h;
    mh__json v;
    if (r->frame_count < 4 || !r->parts[r->ident_count + 1].size)
        return;
    mh__received *m = make_received(r);
    mh_err err = m ? mh__header_read(m->seen.header, &h) : MH_ERR_NO_MEMORY;
    if (!err)
        err = mh__json_check(m->seen.parent, &v); /* an id that needs an escape */
    if (!err)
        err = mh__json_check(m->seen.metadata, &v);
    if (!err)
        err = mh__json_check(m->seen.content, &v);
    if (err) {
        mh__lock_take(c->lock);
        c->stats.refused++;
        if (err == MH_ERR_NO_MEMORY)
            mh__client_fail(c, MH_ERR_BROKEN, "no memory for a message that came");
        mh__lock_drop(c->lock);
        mh__free(m);
        return;
    }
    m->seen.type = h.msg_type;
    m->seen.id = h.msg_id;
    if (!mh__client_deliver(c, &m->seen))
        mh__client_push(c, m);
}

/* ---- replies in brief ------------------------------------------------------------------------ */

mh_err mh__client_fast_see(mh_client_channel which, const mh__fast_task *t, mh_bytes id, mh__received **out)
{
    char parent[MH_CLIENT_ID_SIZE + 16];
    mh__message m;
    mh__header h;
    int size = snprintf(parent, sizeof parent, "{\"msg_id\":\"%.*s\"}", (int)id.size, (const char *)id.data);
    mh__received *r = mh__calloc(1, sizeof *r);
    mh_err err = r ? mh__parcel_create(&r->parcel) : MH_ERR_NO_MEMORY;
    if (!err)
        err = mh__parcel_add(r->parcel, t->who);
    if (!err)
        err = mh__brief_add_reply(r->parcel, t, t->who, (mh_bytes){parent, (size_t)size}, (mh_bytes){0});
    if (!err)
        err = mh__message_split(mh__parcel_frames(r->parcel), mh__parcel_count(r->parcel), &m);
    if (!err)
        err = mh__header_read(m.header, &h);
    if (err) {
        if (r)
            mh__parcel_destroy(&r->parcel);
        mh__free(r);
        return err;
    }
    r->bytes = sizeof *r + mh__parcel_bytes(r->parcel);
    r->seen = (mh_client_message){.channel = which, .source = m.idents[0], .type = h.msg_type, .id = h.msg_id,
                                  .parent_id = {(const char *)m.parent.data + 11, id.size}, .header = m.header, .parent = m.parent,
                                  .metadata = m.metadata, .content = m.content, .buffers = m.buffers, .buffer_count = m.buffer_count};
    *out = r;
    return MH_OK;
}

/* For who takes messages. */
static void push_brief(mh_client *c, const mh__fast_task *t)
{
    char id[MH__BRIEF_ID_SIZE];
    mh__received *m = NULL;
    mh_err err = mh__client_fast_see(MH_CLIENT_TASK, t, (mh_bytes){id, mh__brief_id(mh__text(c->session.id), t->number, id)}, &m);
    if (!err) {
        if (!mh__client_deliver(c, &m->seen))
            mh__client_push(c, m);
        return;
    }
    mh__lock_take(c->lock);
    c->stats.refused++;
    if (err == MH_ERR_NO_MEMORY)
        mh__client_fail(c, MH_ERR_BROKEN, "no memory for a message that came");
    mh__lock_drop(c->lock);
}

static void give_out(mh_client *c)
{
    size_t left = mh__client_deliver_briefs(c, c->came, c->came_count);
    for (size_t i = 0; i < left; i++) {
        push_brief(c, c->came[i]);
        mh__free(c->came[i]);
    }
    c->came_count = 0;
}

static void on_batch(mh__lane *l, void *ctx)
{
    mh_client *c = ctx;
    (void)l;
    if (c->came_count)
        give_out(c);
}

static void take_done(mh_client *c, const mh__fast_record *r)
{
    mh__fast_task t;
    size_t bytes;
    mh_err err = mh__fast_task_read(r, &t);
    mh__fast_task *kept = !err && t.who.size ? mh__brief_copy(&t, &bytes) : NULL;
    if (!kept) {
        mh__lock_take(c->lock);
        c->stats.refused++;
        if (!err && t.who.size)
            mh__client_fail(c, MH_ERR_BROKEN, "no memory for a message that came");
        mh__lock_drop(c->lock);
        return;
    }
    c->came[c->came_count++] = kept;
    if (c->came_count == MH__COUNT_OF(c->came))
        give_out(c);
}

/* ---- the lane -------------------------------------------------------------------------------- */

/* A record as a signed message. */
static mh_err add_redirected(mh_client *c, const mh__fast_record *r, mh__parcel *p)
{
    mh__built built;
    mh__fast_task t;
    mh__message m;
    mh__parcel *unsigned_ = NULL;
    mh_err err = mh__parcel_create(&unsigned_);
    if (!err && r->kind == MH__FAST_TASK) {
        err = mh__fast_task_read(r, &t);
        if (!err)
            err = mh__brief_add_request(unsigned_, &t, mh__text(c->session.id), mh__text(c->session.username));
        if (!err)
            err = mh__message_split(mh__parcel_frames(unsigned_), mh__parcel_count(unsigned_), &m);
    } else if (!err) {
        err = mh__fast_message(r, &m);
    }
    if (!err)
        mh__session_sign(&c->session, m.header, m.parent, m.metadata, m.content, &built);
    for (size_t i = 0; i < MH__FRAMES_SIGNED && !err; i++)
        err = mh__parcel_add(p, built.frames[i]);
    for (size_t i = 0; !err && i < m.buffer_count; i++)
        err = mh__parcel_add(p, m.buffers[i]);
    if (!err)
        err = mh__seal_add(&c->session, p);
    mh__parcel_destroy(&unsigned_);
    return err;
}

/* What the lane was to carry goes by the stock lane: its records hold whole messages. */
static void redirect(mh_client *c, mh_bytes records)
{
    mh__fast_record *r = mh__alloc(sizeof *r);
    while (r && mh__fast_next(&records, r) == MH_OK) {
        mh__outgoing *o = mh__calloc(1, sizeof *o);
        mh_err err = o ? mh__parcel_create(&o->parcel) : MH_ERR_NO_MEMORY;
        if (!err)
            err = add_redirected(c, r, o->parcel);
        if (err) {
            if (o)
                mh__parcel_destroy(&o->parcel);
            mh__free(o);
            mh__client_fail(c, MH_ERR_BROKEN, "no memory for a message that waits");
            break;
        }
        o->channel = MH_CLIENT_TASK;
        o->bytes = mh__parcel_bytes(o->parcel);
        c->out_bytes += o->bytes;
        c->out_count++;
        mh__list_push_back(&c->out, &o->link);
    }
    mh__free(r);
}

/* The lane is no more. What waits here is sent by the stock lane, where replies come too from now on; what was in the lane may be lost. */
static void leave_lane(mh_client *c)
{
    mh__lock_take(c->lane_lock);
    mh__lane_close(&c->lane);
    mh__lock_drop(c->lane_lock);
    mh__lock_take(c->lock);
    bool was_fast = c->is_fast;
    c->is_fast = c->can_lend = false;
    size_t size = mh_buf_size(c->fast_out);
    c->out_bytes -= size;
    c->out_count -= c->fast_count;
    c->fast_count = 0;
    if (size && !c->is_closing)
        redirect(c, (mh_bytes){mh_buf_data(c->fast_out), size});
    (void)!mh_buf_resize(c->fast_out, 0);
    if (size)
        mh__client_ring(c);
    mh__lock_drop(c->lock);
    if (!was_fast)
        return;
    c->is_lane_lost = true;
    mh__client_may_have_lost(c);
}

static void on_end(mh__lane *l, const char *why, void *ctx)
{
    mh_client *c = ctx;
    (void)l, (void)why;
    leave_lane(c);
    mh__client_fast_settle(c);
    mh__alarm_set(c->loop, &c->lane_alarm, mh_deadline_in(LOOK_MS * MH_MILLISECOND));
}

static void say_hello(mh_client *c)
{
    mh__lock_take(c->lane_lock);
    if (mh__lane_add(c->lane, &(mh__fast_record){.kind = MH__FAST_HELLO, .flags = MH__FAST_BRIEF | MH__FAST_BORROWS, .ident_count = 1, .frame_count = 1,
                                                 .parts = {mh__text(c->session.id), mh__text(c->session.username)}}) == MH_OK)
        (void)mh__lane_flush(c->lane);
    mh__lock_drop(c->lane_lock);
}

void mh__client_fast_settle(mh_client *c)
{
    mh__lock_take(c->lock);
    if (!c->is_lane_settled)
        mh__cond_wake_all(c->changed);
    c->is_lane_settled = true;
    mh__lock_drop(c->lock);
}

static void be_welcome(mh_client *c, const mh__fast_record *r)
{
    mh__lock_take(c->lock);
    c->is_fast = true;
    c->is_brief = r->flags & MH__FAST_BRIEF;
    c->can_lend = r->flags & MH__FAST_BORROWS;
    mh__lock_drop(c->lock);
    mh__client_fast_settle(c);
}

static void on_record(mh__lane *l, const mh__fast_record *r, void *ctx)
{
    mh_client *c = ctx;
    if (r->kind == MH__FAST_DONE)
        take_done(c, r);
    else if (r->kind == MH__FAST_LEND)
        mh__lents_take(c->lents, l, r);
    else if (r->kind == MH__FAST_REPLY)
        take_reply(c, r);
    else if (r->kind == MH__FAST_GREETING)
        say_hello(c);
    else if (r->kind == MH__FAST_WELCOME)
        be_welcome(c, r);
}

void mh__client_fast_look(void *ctx)
{
    mh_client *c = ctx;
    int fd = -1;
    if (!c->connection.fast[0])
        mh__client_fast_settle(c);
    if (!c->connection.fast[0] || (c->lane && c->is_fast))
        return;
    mh__lock_take(c->lane_lock);
    mh__lane_close(&c->lane);
    mh_err err = mh__os_unix_connect(&fd, c->connection.fast);
    if (!err)
        err = mh__lane_open(&c->lane, c->loop, &fd, &(mh__lane_options){.key = mh__text(c->connection.key), .is_shared = true, .on_record = on_record,
                                                                        .on_batch = on_batch, .on_end = on_end, .ctx = c});
    mh__os_close(&fd);
    mh__lock_drop(c->lane_lock);
    if (err)
        mh__client_fast_settle(c);
    if (err && c->was_ready) /* else the controller is on another host, or has none; a lost one may come back */
        mh__alarm_set(c->loop, &c->lane_alarm, mh_deadline_in(LOOK_MS * MH_MILLISECOND));
}

void mh__client_fast_close(mh_client *c)
{
    if (!c->lane_lock)
        return;
    if (c->lane) {
        mh_deadline until = mh_deadline_in(MH_SECOND);
        while (mh__lane_waiting(c->lane) && !mh__lane_flush(c->lane) && mh_now() < until)
            continue;
    }
    mh__lane_close(&c->lane);
}
