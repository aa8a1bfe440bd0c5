/* One request to many engines, in a message each; and for those who want it, all answers in one. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TARGETS_MAX = 100000, COALESCING_MAX = 10000 };

typedef struct target {
    char uuid[64];
    int64_t id;
    mh__parcel *answer; /* NULL: none yet */
} target;

/* A request whose answers are put together. */
typedef struct gathering {
    mh__name name; /* by the id of the request, in id[] */
    size_t count, left;
    target *targets;
    char id[];
} gathering;

/* ---- writing changed JSON -------------------------------------------------------------------- */

/* `object` with one member set to a string (or, with `text` NULL, left out), and another added raw, into `to`. */
static mh_err rewrite(mh_buf *to, mh_bytes object, const char *replaced, const char *text, const char *added, mh_bytes raw)
{
    mh__json whole;
    mh_err err = mh__json_check(object, &whole);
    if (err)
        return err;
    (void)!mh_buf_resize(to, 0);
    mh__json_out o = mh__json_into(to);
    mh__json_walk w = mh__json_walk_of(whole);
    mh__json_open(&o, '{');
    for (mh__json key, value; mh__json_next(&w, &key, &value);) {
        if (mh__json_is(key, replaced) || (added && mh__json_is(key, added)))
            continue;
        mh__json_key_bytes(&o, (mh_bytes){key.text + 1, key.size - 2});
        mh__json_add(&o, value);
    }
    if (text) {
        mh__json_key(&o, replaced);
        mh__json_add_string(&o, text);
    }
    if (added) {
        mh__json_key(&o, added);
        mh__json_add(&o, (mh__json){raw.data, raw.size});
    }
    mh__json_close(&o, '}');
    return mh__json_finish(&o);
}

static mh_bytes bytes_of(mh_buf *b) { return (mh_bytes){mh_buf_data(b), mh_buf_size(b)}; }

/* ---- out to the engines ---------------------------------------------------------------------- */

static void destroy(mh_controller *c, gathering *g)
{
    mh__names_remove(&c->broadcasts, &g->name);
    for (size_t i = 0; i < g->count; i++)
        mh__parcel_destroy(&g->targets[i].answer);
    mh__free(g->targets);
    mh__free(g);
}

static bool read_target(mh__json pair, target *t)
{
    mh__json_walk w = mh__json_walk_of(pair);
    mh__json key, uuid, id;
    mh_bytes name;
    *t = (target){0};
    if (!mh__json_next(&w, &key, &uuid) || !mh__json_next(&w, &key, &id) || !mh__json_plain(uuid, &name) ||
        name.size >= sizeof t->uuid || !mh__json_int(id, &t->id))
        return false;
    memcpy(t->uuid, name.data, name.size);
    return true;
}

static mh_err gather(mh_controller *c, mh_bytes id, mh__json targets, size_t count)
{
    if (mh__names_find(&c->broadcasts, id) || c->broadcasts.count >= COALESCING_MAX)
        return mh__fail(MH_ERR_LIMIT, "a broadcast that came twice, or too many at once");
    gathering *g = mh__calloc(1, sizeof *g + id.size + 1);
    if (!g)
        return MH_ERR_NO_MEMORY;
    memcpy(g->id, id.data, id.size);
    g->name.key = (mh_bytes){g->id, id.size};
    g->count = g->left = count;
    g->targets = mh__calloc(count, sizeof *g->targets);
    mh_err err = g->targets ? mh__names_add(&c->broadcasts, &g->name) : MH_ERR_NO_MEMORY;
    if (err) {
        mh__free(g->targets);
        mh__free(g);
        return err;
    }
    mh__json_walk w = mh__json_walk_of(targets);
    size_t i = 0;
    for (mh__json key, pair; mh__json_next(&w, &key, &pair); i++)
        read_target(pair, &g->targets[i]);
    return MH_OK;
}

/* The request as `uuid` gets it: an id of its own, which the client knows how to make too. */
static mh_err send_to(mh_controller *c, const mh__incoming *in, const mh__parcel *p, mh_bytes original, const char *uuid,
                      mh_bytes metadata)
{
    char id[MH__WIRE_ID_MAX + 1];
    if (snprintf(id, sizeof id, "%.*s_%s", (int)original.size, (const char *)original.data, uuid) >= (int)sizeof id)
        return mh__fail(MH_ERR_CORRUPT, "the id of a broadcast is too long");
    mh_err err = rewrite(c->text, in->m.header, "msg_id", id, NULL, (mh_bytes){0});
    if (err)
        return err;
    mh__session_sign(&c->session, bytes_of(c->text), in->m.parent, metadata, in->m.content, &c->built);
    mh__parcel_clear(c->out);
    err = mh__parcel_add(c->out, mh__text(uuid));
    if (!err)
        err = mh__parcel_share(c->out, p, 0, 1);
    for (size_t i = 0; i < MH__FRAMES_SIGNED - 1 && !err; i++)
        err = mh__parcel_add(c->out, c->built.frames[i]);
    if (!err)
        err = mh__parcel_share(c->out, p, in->at + MH__FRAMES_SIGNED - 1, 1 + in->m.buffer_count); /* content and buffers */
    if (!err)
        mh__outbox_send(c, MH__CH_BROADCAST_OUT, c->out);
    return err;
}

void mh__broadcast_on_request(mh__socket *s, mh__parcel *p, void *ctx)
{
    static const char *const keys[] = {"targets", "is_coalescing", "original_msg_id"};
    (void)s;
    mh_controller *c = ctx;
    mh__incoming in;
    mh__json got[3];
    mh_bytes original;
    char quoted[MH__WIRE_ID_MAX + 3];
    bool is_coalescing = false;
    if (!mh__controller_admit(c, MH__CH_BROADCAST_IN, p, &in) || in.at != 1 || mh__json_pick(in.m.metadata, keys, 3, got))
        return;
    size_t count = mh__json_count(got[0]);
    mh__json_bool(got[1], &is_coalescing);
    original = in.header.msg_id;
    mh_err err = count && count <= TARGETS_MAX ? MH_OK : mh__fail(MH_ERR_CORRUPT, "a broadcast to %zu engines", count);
    if (!err && is_coalescing)
        err = gather(c, original, got[0], count);
    snprintf(quoted, sizeof quoted, "\"%.*s\"", (int)original.size, (const char *)original.data);
    mh_buf *metadata = NULL;
    if (!err)
        err = mh_buf_create(&metadata, 0);
    if (!err)
        err = rewrite(metadata, in.m.metadata, "targets", NULL, "original_msg_id", mh__text(quoted));
    mh__json_walk w = mh__json_walk_of(got[0]);
    for (mh__json key, pair; !err && mh__json_next(&w, &key, &pair);) {
        target t;
        if (read_target(pair, &t) && mh__engine_find(c, mh__text(t.uuid)))
            err = send_to(c, &in, p, original, t.uuid, bytes_of(metadata));
        else if (is_coalescing) /* it ended, which the client is told by a notification */
            err = mh__fail(MH_ERR_NOT_FOUND, "an engine of a broadcast is not there");
    }
    mh__name *node = err && is_coalescing ? mh__names_find(&c->broadcasts, original) : NULL;
    if (node && err != MH_ERR_LIMIT)
        destroy(c, mh__name_entry(node, gathering, name));
    mh_buf_destroy(&metadata);
    if (err)
        mh__log(c, MH_LOG_WARNING, "a broadcast was dropped: %s", mh_err_detail());
}

/* ---- back to the client ---------------------------------------------------------------------- */

static bool is_error(const mh__parcel *answer, size_t at)
{
    static const char *const keys[] = {"status"};
    mh__json got[1];
    return mh__json_pick(mh__parcel_frames(answer)[at + 5], keys, 1, got) || !mh__json_is(got[0], "ok");
}

static mh_err write_targets(mh_buf *to, const gathering *g)
{
    mh__json_out o = mh__json_into(to);
    mh__json_open(&o, '[');
    for (size_t i = 0; i < g->count; i++) {
        mh__json_open(&o, '[');
        mh__json_add_string(&o, g->targets[i].uuid);
        mh__json_add_int(&o, g->targets[i].id);
        mh__json_close(&o, ']');
    }
    mh__json_close(&o, ']');
    return mh__json_finish(&o);
}

/* All answered, as [engine, client, message...]: one message with the buffers of all, or the first error. */
static mh_err send_gathered(mh_controller *c, const gathering *g)
{
    const size_t at = 2;
    const mh__parcel *chosen = g->targets[g->count - 1].answer;
    bool any_error = false;
    for (size_t i = 0; i < g->count && !any_error; i++)
        if (is_error(g->targets[i].answer, at)) {
            chosen = g->targets[i].answer;
            any_error = true;
        }
    const mh_bytes *f = mh__parcel_frames(chosen) + at;
    (void)!mh_buf_resize(c->text2, 0);
    mh_err err = write_targets(c->text2, g);
    if (!err)
        err = rewrite(c->text, f[4], "broadcast_targets", NULL, "broadcast_targets", bytes_of(c->text2));
    if (err)
        return err;
    mh__session_sign(&c->session, f[2], f[3], bytes_of(c->text), f[5], &c->built);
    mh__parcel_clear(c->out);
    err = mh__parcel_share(c->out, chosen, 1, 1);
    for (size_t i = 0; i < MH__FRAMES_SIGNED && !err; i++)
        err = mh__parcel_add(c->out, c->built.frames[i]);
    for (size_t i = 0; i < g->count && !err && !any_error; i++) {
        const mh__parcel *a = g->targets[i].answer;
        err = mh__parcel_share(c->out, a, at + MH__FRAMES_SIGNED, mh__parcel_count(a) - at - MH__FRAMES_SIGNED);
    }
    if (!err)
        mh__outbox_send(c, MH__CH_BROADCAST_IN, c->out);
    return err;
}

static void note_answer(mh_controller *c, gathering *g, mh__parcel *p)
{
    mh_bytes uuid = mh__parcel_frames(p)[0];
    for (size_t i = 0; i < g->count; i++) {
        target *t = &g->targets[i];
        if (!mh__bytes_are(uuid, t->uuid) || t->answer)
            continue;
        if (mh__parcel_create(&t->answer))
            return;
        mh__parcel_move(t->answer, p);
        g->left--;
        break;
    }
    if (g->left)
        return;
    mh_err err = send_gathered(c, g);
    if (err)
        mh__log(c, MH_LOG_ERROR, "answers could not be put together: %s", mh_err_detail());
    destroy(c, g);
}

void mh__broadcast_on_result(mh__socket *s, mh__parcel *p, void *ctx)
{
    static const char *const keys[] = {"original_msg_id", "is_coalescing"};
    (void)s;
    mh_controller *c = ctx;
    mh__incoming in;
    mh__json got[2];
    mh_bytes original;
    bool is_coalescing = false;
    if (!mh__controller_admit(c, MH__CH_BROADCAST_OUT, p, &in) || in.at != 2 || mh__json_pick(in.m.metadata, keys, 2, got))
        return;
    mh__json_bool(got[1], &is_coalescing);
    if (is_coalescing) {
        mh__name *node = mh__json_plain(got[0], &original) ? mh__names_find(&c->broadcasts, original) : NULL;
        if (node)
            note_answer(c, mh__name_entry(node, gathering, name), p);
        return;
    }
    mh__parcel_clear(c->out);
    mh_err err = mh__parcel_share(c->out, p, 1, mh__parcel_count(p) - 1);
    if (err)
        mh__controller_fail(c, err);
    else
        mh__outbox_send(c, MH__CH_BROADCAST_IN, c->out);
}

/* The notification of its end fails the whole request at the client: nothing is left to gather. */
void mh__broadcast_engine_gone(mh_controller *c, mh__engine *e)
{
    for (size_t b = 0; b < c->broadcasts.bucket_count; b++)
        for (mh__name *node = c->broadcasts.buckets[b], *next; node; node = next) {
            gathering *g = mh__name_entry(node, gathering, name);
            next = node->next;
            for (size_t i = 0; i < g->count; i++)
                if (!strcmp(g->targets[i].uuid, e->uuid) && !g->targets[i].answer) {
                    destroy(c, g);
                    break;
                }
        }
}

void mh__broadcasts_fini(mh_controller *c)
{
    for (size_t b = 0; b < c->broadcasts.bucket_count; b++)
        while (c->broadcasts.buckets[b])
            destroy(c, mh__name_entry(c->broadcasts.buckets[b], gathering, name));
    mh__names_fini(&c->broadcasts);
}
