/* What a client receives: verified by its own thread, queued within limits, taken by the caller's. */
#include "cluster/client_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "net/seal.h"
#include "base/number.h"
#include "os/fd.h"

#include <stdio.h>
#include <string.h>

enum { COUNT_MAX = 200000 };

/* ---- messages -------------------------------------------------------------------------------- */

void mh_client_message_free(mh_client_message **m)
{
    if (!*m)
        return;
    mh__received *r = (mh__received *)(void *)*m;
    mh__parcel_destroy(&r->parcel);
    mh__free(r);
    *m = NULL;
}

static void free_received(mh__received *r)
{
    mh_client_message *m = &r->seen;
    mh_client_message_free(&m);
}

/* All four frames are JSON: see check_frames in controller.c. */
static mh_err check_json(const mh__message *m)
{
    mh__json v;
    mh_err err = mh__json_check(m->metadata, &v);
    return err ? err : mh__json_check(m->content, &v);
}

/* Replies are matched with requests by who takes them, so an old one finds nobody; and one that the controller kept through a crash may
 * come after later ones of its writer. What is published has neither, and comes in order. */
static mh_err admit(mh__client_channel *ch, const mh__message *m, const mh__header *h)
{
    bool is_published = ch->which == MH_CLIENT_IOPUB || ch->which == MH_CLIENT_NOTIFICATION;
    if (!ch->client->reader.digest)
        return MH_OK;
    return mh__replay_admit(ch->replay, m->signature, is_published ? h->msg_id : (mh_bytes){0}, mh_now());
}

static const char buffers_lost[] = "{\"status\":\"error\",\"ename\":\"EngineError\",\"evalue\":\"a large buffer of the result was lost with the fast lane\",\"traceback\":[]}";

/* Large buffers came by the fast lane, before the message. */
static mh_err claim(mh_client *c, mh__parcel *p, const mh__message *m)
{
    return mh__lents_claim(c->lents, c->lane, m->metadata, p, m->ident_count + MH__FRAMES_SIGNED);
}

/* Shape, who wrote it, what it says, and whether it came before. */
static mh_err read_message(mh__client_channel *ch, mh__received *r)
{
    mh__message m;
    mh__header h;
    mh_bytes parent_id = {0};
    mh_err err = mh__message_split(mh__parcel_frames(r->parcel), mh__parcel_count(r->parcel), &m);
    if (!err)
        err = mh__message_verify(&m, &ch->client->reader);
    if (!err)
        err = mh__seal_check(&ch->client->session, &m); /* is_strict does not change, and the signer is not used */
    if (!err)
        err = mh__header_read(m.header, &h);
    if (!err)
        err = mh__parent_read(m.parent, &parent_id);
    if (!err)
        err = check_json(&m);
    if (!err)
        err = admit(ch, &m, &h);
    if (err)
        return err;
    if (parent_id.size)
        mh__client_fast_answered(ch->client, parent_id);
    if (mh__lent_is_named(m.metadata) && claim(ch->client, r->parcel, &m))
        m.content = mh__text(buffers_lost);
    r->seen = (mh_client_message){
        .channel = ch->which,
        .source = m.ident_count ? m.idents[0] : (mh_bytes){"", 0},
        .type = h.msg_type,
        .id = h.msg_id,
        .parent_id = parent_id,
        .header = m.header,
        .parent = m.parent,
        .metadata = m.metadata,
        .content = m.content,
        .buffers = m.buffers,
        .buffer_count = m.buffer_count,
    };
    return MH_OK;
}

/* ---- the client's thread --------------------------------------------------------------------- */

static void pause_all(mh_client *c, bool is_paused)
{
    for (size_t i = 0; i < MH__CLIENT_CHANNELS; i++)
        if (c->channels[i].socket)
            mh__socket_pause(c->channels[i].socket, is_paused);
    if (c->lane)
        mh__lane_pause(c->lane, is_paused);
}

static bool is_full(const mh_client *c) { return c->in_bytes >= c->in_bytes_max || c->in_count >= COUNT_MAX; }

void mh__client_push(mh_client *c, mh__received *r)
{
    mh__lock_take(c->lock);
    mh__list_push_back(&c->in, &r->link);
    c->in_bytes += r->bytes;
    bool was_empty = c->in_count++ == 0, pauses = !c->is_paused && is_full(c);
    c->is_paused |= pauses;
    c->stats.received += r->parcel || r->seen.channel != MH_CLIENT_NOTIFICATION;
    if (was_empty && c->fd >= 0)
        mh__os_eventfd_set(c->fd);
    mh__cond_wake_all(c->changed);
    mh__lock_drop(c->lock);
    if (pauses)
        pause_all(c, true);
}

void mh__client_resume(mh_client *c)
{
    mh__lock_take(c->lock);
    bool resumes = c->is_paused && c->in_bytes <= c->in_bytes_max / 2 && c->in_count <= COUNT_MAX / 2;
    c->is_paused &= !resumes;
    mh__lock_drop(c->lock);
    if (resumes)
        pause_all(c, false);
}

static void refuse(mh_client *c, mh_err err)
{
    mh__lock_take(c->lock);
    if (err == MH_ERR_NO_MEMORY)
        mh__client_fail(c, MH_ERR_BROKEN, "no memory for a message that came");
    else if (err == MH_ERR_EXISTS)
        c->stats.replayed++;
    else
        c->stats.refused++;
    mh__lock_drop(c->lock);
}

void mh__client_on_message(mh__socket *s, mh__parcel *p, void *ctx)
{
    mh__client_channel *ch = ctx;
    mh_client *c = ch->client;
    (void)s;
    mh__received *r = mh__calloc(1, sizeof *r);
    mh_err err = r ? mh__parcel_create(&r->parcel) : MH_ERR_NO_MEMORY;
    if (!err) {
        mh__parcel_move(r->parcel, p);
        r->bytes = mh__parcel_bytes(r->parcel) + sizeof *r;
        err = read_message(ch, r);
    }
    if (err)
        refuse(c, err);
    if (err || (ch->which == MH_CLIENT_REGISTRATION && mh__client_take_answer(c, &r->seen))) {
        if (r)
            free_received(r);
        return;
    }
    if (mh__client_deliver(c, &r->seen))
        return;
    if (ch->which == MH_CLIENT_NOTIFICATION)
        mh__client_take_notification(c, &r->seen);
    mh__client_push(c, r);
}

void mh__client_tell(mh_client *c, const char *type, const mh_client_engine *e)
{
    enum { TEXT_SIZE = 320 };
    mh__received *r = mh__calloc(1, sizeof *r + TEXT_SIZE);
    if (!r) {
        refuse(c, MH_ERR_NO_MEMORY);
        return;
    }
    int head = snprintf(r->text, TEXT_SIZE, "{\"msg_type\":\"%s\"}", type), body = 2;
    char *content = r->text + head;
    if (e)
        body = snprintf(content, TEXT_SIZE - (size_t)head, "{\"id\":%lld,\"uuid\":\"%s\"}", (long long)e->id, e->uuid);
    else
        memcpy(content, "{}", 2);
    r->bytes = sizeof *r + TEXT_SIZE;
    r->seen = (mh_client_message){
        .channel = MH_CLIENT_NOTIFICATION,
        .source = {"", 0},
        .type = mh__text(type),
        .id = {"", 0},
        .parent_id = {"", 0},
        .header = {r->text, (size_t)head},
        .parent = MH__TEXT("{}"),
        .metadata = MH__TEXT("{}"),
        .content = {content, (size_t)body},
    };
    mh__client_push(c, r);
}

/* ---- taking ---------------------------------------------------------------------------------- */

/* With the lock; there is one. */
static mh__received *pop(mh_client *c)
{
    mh__received *r = mh__list_entry(mh__list_pop_front(&c->in), mh__received, link);
    c->in_bytes -= r->bytes;
    c->in_count--;
    if (!c->in_count && c->fd >= 0 && !c->failure && !c->is_closing)
        mh__os_eventfd_clear(c->fd);
    if (c->is_paused && c->in_bytes <= c->in_bytes_max / 2 && c->in_count <= COUNT_MAX / 2)
        mh__client_ring(c);
    return r;
}

mh_err mh_client_take(mh_client *c, mh_deadline until, mh_client_message **out)
{
    mh_err err = mh__client_check(c), waited = MH_OK;
    if (err)
        return err;
    mh__lock_take(c->lock);
    c->users++;
    while (!c->in_count && !(err = mh__client_state(c)) && !waited)
        waited = until == MH_NOW ? MH_ERR_TIMEOUT : mh__cond_wait(c->changed, c->lock, until);
    mh__received *r = c->in_count ? pop(c) : NULL;
    if (!--c->users && c->is_closing)
        mh__cond_wake_all(c->changed);
    mh__lock_drop(c->lock);
    if (!r)
        return err ? err : mh__fail(MH_ERR_TIMEOUT, "no message came");
    *out = &r->seen;
    return MH_OK;
}

void mh__client_drop_in(mh_client *c)
{
    for (mh__list *node; (node = mh__list_pop_front(&c->in));)
        free_received(mh__list_entry(node, mh__received, link));
}
