/* What a client sends: signed in the caller's thread, queued within limits, handed to the sockets by the client's own. */
#include "cluster/client_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "net/seal.h"
#include "os/clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    LEND_FROM = 16 << 10, /* bytes from which a buffer is lent, not copied */
    BUFFERS_MAX = 60000,
    COUNT_MAX = 100000, /* messages that wait */
    RETRY_MS = 1,
};

/* ---- loans ----------------------------------------------------------------------------------- */

/* Buffers of the caller's that frames point to. Its bytes count as waiting until the last is released, by whichever thread. */
typedef struct loan {
    _Atomic size_t refs;
    mh_client *client;
    size_t bytes;
    void (*release)(void *ctx);
    void *ctx;
} loan;

static void settle(loan *l)
{
    mh_client *c = l->client;
    void (*release)(void *) = l->release;
    void *ctx = l->ctx;
    if (l->bytes) {
        mh__lock_take(c->lock);
        c->out_bytes -= l->bytes;
        mh__cond_wake_all(c->changed);
        mh__lock_drop(c->lock);
    }
    mh__free(l);
    if (release)
        release(ctx);
}

static void give_back(void *data, void *ctx)
{
    loan *l = ctx;
    (void)data;
    if (atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) == 1)
        settle(l);
}

static mh_err add_buffers(mh__parcel *p, const mh_client_request *r, loan *l)
{
    mh_err err = MH_OK;
    for (size_t i = 0; !err && i < r->buffer_count; i++) {
        if (!l || r->buffers[i].size < LEND_FROM) {
            err = mh__parcel_add(p, r->buffers[i]);
            continue;
        }
        atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
        err = mh__parcel_lend(p, r->buffers[i], give_back, l);
        if (err)
            atomic_fetch_sub_explicit(&l->refs, 1, memory_order_relaxed);
        else
            l->bytes += r->buffers[i].size;
    }
    return err;
}

/* ---- building -------------------------------------------------------------------------------- */

static mh_err check_object(mh_bytes text, const char *what)
{
    mh__json v = {0};
    if (!text.size)
        return MH_OK;
    mh_err err = mh__json_check(text, &v);
    return err || mh__json_kind_of(v) != MH__JSON_OBJECT ? mh__fail(MH_ERR_INVALID, "%s is no JSON object", what) : MH_OK;
}

static mh_err check(const mh_client_request *r)
{
    bool is_direct = r->channel == MH_CLIENT_MUX || r->channel == MH_CLIENT_CONTROL;
    if (r->channel < MH_CLIENT_REGISTRATION || r->channel > MH_CLIENT_BROADCAST)
        return mh__fail(MH_ERR_INVALID, "channel %d can't be sent by", (int)r->channel);
    if (!r->type || !*r->type)
        return mh__fail(MH_ERR_INVALID, "a message without a type");
    if (is_direct && (!r->engine || !*r->engine || strlen(r->engine) >= MH_CLIENT_UUID_SIZE))
        return mh__fail(MH_ERR_INVALID, "mux and control need the uuid of an engine, of up to %d characters", MH_CLIENT_UUID_SIZE - 1);
    if (!is_direct && r->engine)
        return mh__fail(MH_ERR_INVALID, "an engine is named on mux and control only");
    if (r->msg_id && (!*r->msg_id || strlen(r->msg_id) >= MH_CLIENT_ID_SIZE))
        return mh__fail(MH_ERR_INVALID, "the id of a message has 1 to %d characters", MH_CLIENT_ID_SIZE - 1);
    if (r->buffer_count > BUFFERS_MAX)
        return mh__fail(MH_ERR_INVALID, "%zu buffers: a message has up to %d", r->buffer_count, BUFFERS_MAX);
    if (r->metadata.size > MH__WIRE_META_MAX)
        return mh__fail(MH_ERR_INVALID, "metadata of %zu bytes: up to %d", r->metadata.size, MH__WIRE_META_MAX);
    mh_err err = check_object(r->content, "content");
    return err ? err : check_object(r->metadata, "metadata");
}

/* Identity, the frames and buffers. With the lock: numbers of messages rise in the order in which they are queued. */
static mh_err build(mh_client *c, const mh_client_request *r, mh__parcel *p, loan *l, char id[MH_CLIENT_ID_SIZE])
{
    mh__built built;
    mh__draft d = {.type = r->type, .metadata = r->metadata, .content = r->content, .unix_ns = mh__os_wall_ns()};
    if (r->msg_id)
        d.msg_id = mh__text(r->msg_id);
    mh_err err = r->engine ? mh__parcel_add(p, mh__text(r->engine)) : MH_OK;
    if (!err)
        err = mh__session_build(&c->session, &d, &built);
    for (size_t i = 0; !err && i < MH__FRAMES_SIGNED; i++)
        err = mh__parcel_add(p, built.frames[i]);
    if (!err)
        err = add_buffers(p, r, l);
    if (!err)
        err = mh__seal_add(&c->session, p);
    if (!err)
        snprintf(id, MH_CLIENT_ID_SIZE, "%.*s", (int)built.msg_id.size, (const char *)built.msg_id.data);
    return err;
}

/* ---- sending --------------------------------------------------------------------------------- */

static size_t size_of(const mh_client_request *r)
{
    size_t size = r->content.size + r->metadata.size;
    for (size_t i = 0; i < r->buffer_count; i++)
        size += r->buffers[i].size;
    return size;
}

static bool has_room(const mh_client *c, size_t bytes)
{
    return c->out_count < COUNT_MAX && (!c->out_bytes || (c->out_bytes <= c->out_bytes_max && bytes <= c->out_bytes_max - c->out_bytes));
}

/* With the lock. */
static mh_err wait_for_room(mh_client *c, size_t bytes, mh_deadline until)
{
    mh_err err, waited = MH_OK;
    c->users++;
    while (!(err = mh__client_state(c)) && !has_room(c, bytes) && !waited)
        waited = until == MH_NOW ? MH_ERR_TIMEOUT : mh__cond_wait(c->changed, c->lock, until);
    if (!--c->users && c->is_closing)
        mh__cond_wake_all(c->changed);
    if (!err && !has_room(c, bytes))
        err = mh__fail(MH_ERR_FULL, "%zu messages of %zu bytes wait to be sent already", c->out_count, c->out_bytes);
    return err;
}

/* With the lock. */
static void enqueue(mh_client *c, mh__outgoing *o, loan *l)
{
    size_t lent = l ? l->bytes : 0;
    o->bytes = mh__parcel_bytes(o->parcel) - lent;
    c->out_bytes += o->bytes + lent;
    c->out_count++;
    mh__list_push_back(&c->out, &o->link);
    mh__client_ring(c);
}

/* With the lock. */
static mh_err expect(mh_client *c, const mh_client_request *r, mh_client_future *f, const char *id)
{
    memcpy(f->id, id, sizeof f->id);
    f->sent_ns = mh_now();
    if (r->engine)
        snprintf(f->uuid, sizeof f->uuid, "%s", r->engine);
    return mh__client_expect(c, f);
}

/* By the fast lane, if there is one and the request fits into it: everything is copied then. */
static mh_err send_fast(mh_client *c, const mh_client_request *r, mh_deadline until, char id[MH_CLIENT_ID_SIZE], mh_client_future *f, bool *is_sent)
{
    if (r->channel != MH_CLIENT_TASK || r->msg_id)
        return MH_OK;
    mh_err err = MH_OK;
    bool is_alone = false;
    mh__lock_take(c->lock);
    if (mh__client_fast_takes(c, r)) {
        err = wait_for_room(c, size_of(r), until);
        if (!err)
            err = mh__client_fast_put(c, r, id);
        if (!err && f)
            err = expect(c, r, f, id);
        *is_sent = !err;
        is_alone = !err && f && c->pending.count == 1; /* one after the other: each as soon as can be */
        if (!err && !is_alone)
            mh__client_ring(c);
    }
    mh__lock_drop(c->lock);
    if (is_alone && !mh__client_fast_flush(c)) {
        mh__lock_take(c->lock);
        mh__client_ring(c);
        mh__lock_drop(c->lock);
    }
    if (*is_sent && r->release)
        r->release(r->release_ctx);
    return err;
}

static void destroy_outgoing(mh__outgoing *o)
{
    mh__parcel_destroy(&o->parcel);
    mh__free(o);
}

mh_err mh_client_send(mh_client *c, const mh_client_request *r, mh_deadline until, char id[MH_CLIENT_ID_SIZE])
{
    return mh__client_send(c, r, until, id, NULL);
}

static bool is_large(const mh_client_request *r)
{
    for (size_t i = 0; i < r->buffer_count; i++)
        if (r->buffers[i].size >= MH__LENT_FROM)
            return r->channel == MH_CLIENT_MUX || r->channel == MH_CLIENT_TASK;
    return false;
}

static mh_err send_checked(mh_client *c, const mh_client_request *r, mh_deadline until, char id[MH_CLIENT_ID_SIZE], mh_client_future *f);

/* Large buffers go by the fast lane, where there is one, and the rest as ever. */
static mh_err send_large(mh_client *c, const mh_client_request *r, mh_deadline until, char id[MH_CLIENT_ID_SIZE], mh_client_future *f)
{
    mh__lent_offer offer = {0};
    mh_client_request lean = *r;
    mh_buf *metadata = NULL;
    mh__client_fast_lend(c, r, &offer);
    if (!offer.count)
        return send_checked(c, r, until, id, f);
    mh_bytes *buffers = mh__calloc(r->buffer_count, sizeof *buffers);
    mh_err err = buffers ? mh_buf_create(&metadata, 0) : MH_ERR_NO_MEMORY;
    if (!err)
        err = mh__lent_write(&offer, r->metadata, metadata);
    if (!err) {
        memcpy(buffers, r->buffers, r->buffer_count * sizeof *buffers);
        for (size_t i = 0; i < offer.count; i++)
            buffers[offer.index[i]] = (mh_bytes){"", 0};
        lean.buffers = buffers;
        lean.metadata = (mh_bytes){mh_buf_data(metadata), mh_buf_size(metadata)};
        err = send_checked(c, &lean, until, id, f);
    }
    mh_buf_destroy(&metadata);
    mh__free(buffers);
    return err;
}

mh_err mh__client_send(mh_client *c, const mh_client_request *r, mh_deadline until, char id[MH_CLIENT_ID_SIZE], mh_client_future *f)
{
    mh_err err = mh__client_check(c);
    if (!err)
        err = check(r);
    if (err)
        return err;
    return is_large(r) ? send_large(c, r, until, id, f) : send_checked(c, r, until, id, f);
}

static mh_err send_checked(mh_client *c, const mh_client_request *r, mh_deadline until, char id[MH_CLIENT_ID_SIZE], mh_client_future *f)
{
    mh_err err = MH_OK;
    bool is_sent = false, is_lent = mh__lent_is_named(r->metadata);
    if (!is_lent) /* whose message is read after the buffers' lane */
        err = send_fast(c, r, until, id, f, &is_sent);
    if (err || is_sent)
        return err;
    mh__outgoing *o = mh__calloc(1, sizeof *o);
    loan *l = r->release ? mh__calloc(1, sizeof *l) : NULL;
    err = o && (l || !r->release) ? mh__parcel_create(&o->parcel) : MH_ERR_NO_MEMORY;
    if (err)
        goto fail;
    o->channel = r->channel;
    if (l) {
        l->client = c;
        atomic_store_explicit(&l->refs, 1, memory_order_relaxed);
    }
    mh__lock_take(c->lock);
    err = wait_for_room(c, size_of(r), until);
    if (!err)
        err = build(c, r, o->parcel, l, id);
    if (!err && f)
        err = expect(c, r, f, id);
    if (err) {
        if (l)
            l->bytes = 0; /* nothing was counted */
        mh__lock_drop(c->lock);
        goto fail;
    }
    if (l)
        l->release = r->release, l->ctx = r->release_ctx;
    if (is_lent)
        mh__client_fast_lent(c, id);
    enqueue(c, o, l);
    mh__lock_drop(c->lock);
    if (l)
        give_back(NULL, l);
    return MH_OK;

fail:
    if (o)
        destroy_outgoing(o); /* its frames let go of the loan, whose last reference is ours */
    mh__free(l);
    return err;
}

/* ---- the client's thread --------------------------------------------------------------------- */

/* False: it has to wait. */
static bool pass_on(mh_client *c, mh__outgoing *o)
{
    mh_err err = mh__socket_send(c->channels[o->channel].socket, o->parcel);
    if (err == MH_ERR_FULL)
        return false;
    mh__lock_take(c->lock);
    c->out_bytes -= o->bytes;
    c->out_count--;
    c->stats.sent += !err;
    if (err)
        mh__client_fail(c, MH_ERR_BROKEN, mh_err_detail());
    mh__cond_wake_all(c->changed);
    mh__lock_drop(c->lock);
    destroy_outgoing(o);
    return true;
}

static bool flush_channel(mh_client *c, mh__list *waiting)
{
    while (!mh__list_is_empty(waiting)) {
        mh__outgoing *o = mh__list_entry(waiting->next, mh__outgoing, link);
        mh__list_remove(&o->link);
        if (!pass_on(c, o)) {
            mh__list_push_front(waiting, &o->link);
            return false;
        }
    }
    return true;
}

void mh__client_flush(void *ctx)
{
    mh_client *c = ctx;
    bool all;
    mh__lock_take(c->lock);
    c->bell_rung = false;
    for (mh__list *node; (node = mh__list_pop_front(&c->out));)
        mh__list_push_back(&c->channels[mh__list_entry(node, mh__outgoing, link)->channel].waiting, node);
    mh__lock_drop(c->lock);
    all = mh__client_fast_flush(c);
    for (size_t i = 0; i < MH__CLIENT_CHANNELS; i++)
        all &= flush_channel(c, &c->channels[i].waiting);
    if (!all) /* neither sockets nor lanes tell of room */
        mh__alarm_set(c->loop, &c->retry, mh_deadline_in(RETRY_MS * MH_MILLISECOND));
}

static void drop_all(mh__list *list)
{
    for (mh__list *node; (node = mh__list_pop_front(list));)
        destroy_outgoing(mh__list_entry(node, mh__outgoing, link));
}

void mh__client_drop_out(mh_client *c)
{
    drop_all(&c->out);
    for (size_t i = 0; i < MH__CLIENT_CHANNELS; i++)
        drop_all(&c->channels[i].waiting);
}
