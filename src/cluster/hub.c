/* Queries: who is there, what became of requests, and what to do with them. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RESUBMIT_ID = 96 };
#define SHUTDOWN_NS (200 * MH_MILLISECOND) /* so that clients and engines hear of it first */

/* ---- answering ------------------------------------------------------------------------------- */

static void reply(mh_controller *c, const mh__incoming *in, const char *type, mh_bytes content)
{
    mh__reply_send(c, MH__CH_QUERY, in->m.idents, in->m.ident_count,
                   &(mh__draft){.type = type, .parent = in->m.header, .content = content});
}

static mh__json_out begin(mh_controller *c)
{
    (void)!mh_buf_resize(c->text, 0);
    mh__json_out o = mh__json_into(c->text);
    mh__json_open(&o, '{');
    mh__json_key(&o, "status");
    mh__json_add_string(&o, "ok");
    return o;
}

static mh_bytes end(mh_controller *c, mh__json_out *o)
{
    mh__json_close(o, '}');
    if (mh__json_finish(o))
        return mh__reply_error(c, "MemoryError", MH__TEXT("no memory for the answer"));
    return (mh_bytes){mh_buf_data(c->text), mh_buf_size(c->text)};
}

/* An answer with buffers: those of request or result of each of these records. */
typedef struct attachment {
    const mh__kept *of;
} attachment;

static void reply_with_buffers(mh_controller *c, const mh__incoming *in, const char *type, mh_bytes content,
                               const attachment *attached, size_t count)
{
    mh__draft d = {.type = type, .parent = in->m.header, .content = content, .unix_ns = mh__os_wall_ns()};
    mh_err err = mh__session_build(&c->session, &d, &c->built);
    mh__parcel_clear(c->out);
    for (size_t i = 0; i < in->m.ident_count && !err; i++)
        err = mh__parcel_add(c->out, in->m.idents[i]);
    for (size_t i = 0; i < MH__FRAMES_SIGNED && !err; i++)
        err = mh__parcel_add(c->out, c->built.frames[i]);
    for (size_t i = 0; i < count && !err; i++) {
        const mh__kept *k = attached[i].of;
        err = mh__parcel_share(c->out, k->parcel, k->at + MH__FRAMES_SIGNED, mh__kept_buffer_count(k));
    }
    if (err) {
        reply(c, in, type, mh__reply_error(c, "RuntimeError", mh__text(mh_err_detail())));
        return;
    }
    mh__durable_send(c, MH__CH_QUERY, c->out);
}

/* ---- engines --------------------------------------------------------------------------------- */

static void answer_connection(mh_controller *c, const mh__incoming *in)
{
    char id[24];
    mh__json_out o = begin(c);
    mh__json_key(&o, "engines");
    mh__json_open(&o, '{');
    for (mh__list *node = c->engines.next; node != &c->engines; node = node->next) {
        const mh__engine *e = mh__list_entry(node, mh__engine, link);
        snprintf(id, sizeof id, "%lld", (long long)e->id);
        mh__json_key(&o, id);
        mh__json_add_string(&o, e->uuid);
    }
    mh__json_close(&o, '}');
    mh__json_key(&o, "x_run"); /* of this process; and whether the next one will know what it knows */
    mh__json_add_string(&o, c->session.id);
    mh__json_key(&o, "x_durable");
    mh__json_add_bool(&o, c->journal != NULL);
    reply(c, in, "connection_reply", end(c, &o));
}

static void unregister(mh_controller *c, const mh__incoming *in)
{
    static const char *const keys[] = {"id"};
    mh__json got[1];
    int64_t id;
    mh__engine *e = !mh__json_pick(in->m.content, keys, 1, got) && mh__json_int(got[0], &id) ? mh__engine_by_id(c, id) : NULL;
    if (e)
        mh__engine_unregister(c, e, "it, or its nanny, said so");
}

/* The engines that `targets` means (null: all), marked in order. The caller frees *out. */
static mh_err find_targets(mh_controller *c, mh__json targets, mh__engine ***out, size_t *count)
{
    mh__json_kind kind = mh__json_kind_of(targets);
    size_t wanted = kind == MH__JSON_ARRAY ? mh__json_count(targets) : kind <= MH__JSON_NULL ? c->engine_count : 1;
    *count = 0;
    *out = mh__calloc(wanted ? wanted : 1, sizeof **out);
    if (!*out)
        return MH_ERR_NO_MEMORY;
    if (kind <= MH__JSON_NULL) {
        for (mh__list *node = c->engines.next; node != &c->engines; node = node->next)
            (*out)[(*count)++] = mh__list_entry(node, mh__engine, link);
        return MH_OK;
    }
    mh__json_walk w = mh__json_walk_of(targets);
    mh__json key, t = targets;
    while (kind != MH__JSON_ARRAY || mh__json_next(&w, &key, &t)) {
        int64_t id;
        mh_bytes uuid;
        mh__engine *e = mh__json_int(t, &id) ? mh__engine_by_id(c, id) : mh__json_plain(t, &uuid) ? mh__engine_find(c, uuid) : NULL;
        if (!e)
            return mh__fail(MH_ERR_NOT_FOUND, "No Such Engine: [%.*s]", (int)MH__MIN(t.size, (size_t)60), t.text);
        (*out)[(*count)++] = e;
        if (kind != MH__JSON_ARRAY)
            break;
    }
    return *count ? MH_OK : mh__fail(MH_ERR_NOT_FOUND, "No Engines Registered");
}

static void add_ids(mh__json_out *o, const mh__list *head)
{
    mh__json_open(o, '[');
    for (const mh__list *node = head->next; node != head; node = node->next)
        mh__json_add_string(o, mh__list_entry(node, mh__job, place)->id);
    mh__json_close(o, ']');
}

static void add_completed(mh_controller *c, mh__json_out *o, const mh__engine *e)
{
    mh__json_open(o, '[');
    for (mh__list *node = c->history.next; node != &c->history; node = node->next) {
        const mh__job *r = mh__list_entry(node, mh__job, place);
        if (!strcmp(r->engine_uuid, e->uuid))
            mh__json_add_string(o, r->id);
    }
    mh__json_close(o, ']');
}

static void add_queue(mh_controller *c, mh__json_out *o, const mh__engine *e, bool verbose)
{
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)e->id);
    mh__json_key(o, id);
    mh__json_open(o, '{');
    mh__json_key(o, "queue");
    if (verbose)
        add_ids(o, &e->queue);
    else
        mh__json_add_int(o, (int64_t)e->queue_count);
    mh__json_key(o, "completed");
    if (verbose)
        add_completed(c, o, e);
    else
        mh__json_add_int(o, (int64_t)e->completed);
    mh__json_key(o, "tasks");
    if (verbose)
        add_ids(o, &e->tasks);
    else
        mh__json_add_int(o, (int64_t)e->task_count);
    mh__json_close(o, '}');
}

static void add_unassigned(mh_controller *c, mh__json_out *o, bool verbose)
{
    mh__json_key(o, "unassigned");
    if (!verbose) {
        mh__json_add_int(o, (int64_t)c->unassigned_count);
        return;
    }
    mh__json_open(o, '[');
    for (mh__list *node = c->order.next; node != &c->order; node = node->next) {
        const mh__job *r = mh__list_entry(node, mh__job, order);
        if (r->is_unassigned)
            mh__json_add_string(o, r->id);
    }
    mh__json_close(o, ']');
}

static void answer_queue(mh_controller *c, const mh__incoming *in)
{
    static const char *const keys[] = {"targets", "verbose"};
    mh__json got[2] = {{0}};
    mh__engine **engines = NULL;
    size_t count = 0;
    bool verbose = false;
    mh_err err = mh__json_pick(in->m.content, keys, 2, got);
    mh__json_bool(got[1], &verbose);
    if (!err)
        err = find_targets(c, got[0], &engines, &count);
    if (err) {
        reply(c, in, "hub_error", mh__reply_error(c, "IndexError", mh__text(mh_err_detail())));
    } else {
        mh__json_out o = begin(c);
        for (size_t i = 0; i < count; i++)
            add_queue(c, &o, engines[i], verbose);
        add_unassigned(c, &o, verbose);
        reply(c, in, "queue_reply", end(c, &o));
    }
    mh__free(engines);
}

static void answer_load(mh_controller *c, const mh__incoming *in)
{
    static const char *const keys[] = {"targets"};
    mh__json got[1];
    mh__engine **engines = NULL;
    size_t count = 0;
    char id[24];
    mh_err err = mh__json_pick(in->m.content, keys, 1, got);
    if (!err)
        err = find_targets(c, got[0], &engines, &count);
    if (err) {
        reply(c, in, "hub_error", mh__reply_error(c, "IndexError", mh__text(mh_err_detail())));
    } else {
        mh__json_out o = begin(c);
        for (size_t i = 0; i < count; i++) {
            snprintf(id, sizeof id, "%lld", (long long)engines[i]->id);
            mh__json_key(&o, id);
            mh__json_add_int(&o, (int64_t)(engines[i]->queue_count + engines[i]->task_count));
        }
        reply(c, in, "load_reply", end(c, &o));
    }
    mh__free(engines);
}

/* ---- results --------------------------------------------------------------------------------- */

static int by_bytes(const void *a, const void *b)
{
    const mh_bytes *x = a, *y = b;
    int n = memcmp(x->data, y->data, MH__MIN(x->size, y->size));
    return n ? n : (x->size > y->size) - (x->size < y->size);
}

/* The ids of a JSON list, in order, each once. The caller frees *out. errors: CORRUPT not all are plain strings. */
static mh_err take_ids(mh__json list, mh_bytes **out, size_t *count)
{
    mh__json one = list;
    bool is_one = mh__json_kind_of(list) == MH__JSON_STRING;
    size_t wanted = is_one ? 1 : mh__json_count(list), kept = 0;
    *out = mh__calloc(wanted ? wanted : 1, sizeof **out);
    *count = 0;
    if (!*out)
        return MH_ERR_NO_MEMORY;
    mh__json_walk w = mh__json_walk_of(list);
    mh__json key;
    while (is_one ? *count == 0 : mh__json_next(&w, &key, &one))
        if (!mh__json_plain(one, &(*out)[(*count)++]))
            return mh__fail(MH_ERR_CORRUPT, "a message id is not a string");
    qsort(*out, *count, sizeof **out, by_bytes);
    for (size_t i = 0; i < *count; i++)
        if (kept == 0 || by_bytes(&(*out)[kept - 1], &(*out)[i]) != 0)
            (*out)[kept++] = (*out)[i];
    *count = kept;
    return MH_OK;
}

static mh_err add_field(mh_controller *c, mh__json_out *o, mh__job *r, const char *field)
{
    mh__json v;
    mh_err err = mh__query_field(c, r, field, c->text2, &v);
    if (!err) {
        mh__json_key(o, field);
        mh__json_add(o, v);
    }
    return err;
}

static void add_result(mh_controller *c, mh__json_out *o, mh__job *r)
{
    static const char *const fields[] = {"header", "metadata", "result_metadata", "result_header", "result_content", "received"};
    static const char *const output[] = {"execute_input", "execute_result", "error", "stdout", "stderr"};
    mh__json_key_bytes(o, r->name.key);
    mh__json_open(o, '{');
    for (size_t i = 0; i < MH__COUNT_OF(fields); i++)
        (void)!add_field(c, o, r, fields[i]);
    mh__json_key(o, "io");
    mh__json_open(o, '{');
    for (size_t i = 0; i < MH__COUNT_OF(output); i++)
        (void)!add_field(c, o, r, output[i]);
    mh__json_close(o, '}');
    mh__json_close(o, '}');
}

static void answer_result(mh_controller *c, const mh__incoming *in)
{
    static const char *const keys[] = {"msg_ids", "status_only"};
    mh__json got[2] = {{0}};
    mh_bytes *ids = NULL;
    size_t count = 0, attached_count = 0;
    bool status_only = false;
    attachment *attached = NULL;
    mh_err err = mh__json_pick(in->m.content, keys, 2, got);
    mh__json_bool(got[1], &status_only);
    if (!err)
        err = take_ids(got[0], &ids, &count);
    if (!err && !(attached = mh__calloc(count ? count : 1, sizeof *attached)))
        err = MH_ERR_NO_MEMORY;
    for (size_t i = 0; i < count && !err; i++)
        if (!mh__job_find(c, ids[i]))
            err = mh__fail(MH_ERR_NOT_FOUND, "'No such message: %.*s'", (int)MH__MIN(ids[i].size, (size_t)100), (const char *)ids[i].data);
    if (err) {
        reply(c, in, "result_reply", mh__reply_error(c, err == MH_ERR_NOT_FOUND ? "KeyError" : "ValueError", mh__text(mh_err_detail())));
    } else {
        mh__json_out o = begin(c);
        for (int ended = 0; ended < 2; ended++) {
            mh__json_key(&o, ended ? "completed" : "pending");
            mh__json_open(&o, '[');
            for (size_t i = 0; i < count; i++)
                if (mh__job_find(c, ids[i])->is_ended == (ended == 1))
                    mh__json_add_bytes(&o, ids[i]);
            mh__json_close(&o, ']');
        }
        for (size_t i = 0; i < count && !status_only; i++) {
            mh__job *r = mh__job_find(c, ids[i]);
            if (!r->is_ended || !mh__job_see(c, r))
                continue;
            add_result(c, &o, r);
            if (r->result.parcel)
                attached[attached_count++].of = &r->result;
        }
        reply_with_buffers(c, in, "result_reply", end(c, &o), attached, attached_count);
    }
    mh__free(ids);
    mh__free(attached);
}

static void answer_history(mh_controller *c, const mh__incoming *in)
{
    mh__json_out o = begin(c);
    mh__json_key(&o, "history");
    mh__json_open(&o, '[');
    for (mh__list *node = c->order.next; node != &c->order; node = node->next)
        mh__json_add_string(&o, mh__list_entry(node, mh__job, order)->id);
    mh__json_close(&o, ']');
    reply(c, in, "history_reply", end(c, &o));
}

/* ---- the database ---------------------------------------------------------------------------- */

static const char *const all_fields[] = {
    "msg_id", "header", "metadata", "content", "submitted", "client_uuid", "engine_uuid", "started", "completed", "resubmitted",
    "received", "result_header", "result_metadata", "result_content", "queue", "execute_input", "execute_result", "error", "stdout",
    "stderr", "label",
};

static mh_err add_wanted(mh_controller *c, mh__json_out *o, mh__job *r, mh__json keys)
{
    mh_err err = MH_OK;
    mh__json_open(o, '{');
    if (mh__json_kind_of(keys) != MH__JSON_ARRAY) {
        for (size_t i = 0; i < MH__COUNT_OF(all_fields) && !err; i++)
            err = add_field(c, o, r, all_fields[i]);
    } else {
        mh__json_walk w = mh__json_walk_of(keys);
        err = add_field(c, o, r, "msg_id");
        for (mh__json ignored, key; !err && mh__json_next(&w, &ignored, &key);) {
            char name[32];
            mh_bytes plain;
            if (mh__json_is(key, "buffers") || mh__json_is(key, "result_buffers") || mh__json_is(key, "msg_id"))
                continue;
            if (!mh__json_plain(key, &plain) || plain.size >= sizeof name)
                err = mh__fail(MH_ERR_NOT_FOUND, "records have no field %.*s", (int)MH__MIN(key.size, (size_t)60), key.text);
            else {
                memcpy(name, plain.data, plain.size);
                name[plain.size] = 0;
                err = add_field(c, o, r, name);
            }
        }
    }
    mh__json_close(o, '}');
    return err;
}

static bool lists(mh__json keys, const char *name)
{
    mh__json_walk w = mh__json_walk_of(keys);
    for (mh__json ignored, key; mh__json_next(&w, &ignored, &key);)
        if (mh__json_is(key, name))
            return true;
    return false;
}

static void add_lengths(mh__json_out *o, const char *name, bool wanted, mh__job *const *found, size_t count, bool of_result)
{
    mh__json_key(o, name);
    if (!wanted) {
        mh__json_add_null(o);
        return;
    }
    mh__json_open(o, '[');
    for (size_t i = 0; i < count; i++)
        mh__json_add_int(o, (int64_t)mh__kept_buffer_count(of_result ? &found[i]->result : &found[i]->request));
    mh__json_close(o, ']');
}

static mh_err find_records(mh_controller *c, mh__json query, mh__job **found, size_t *count)
{
    mh_err err = MH_OK;
    for (mh__list *node = c->order.next; node != &c->order && !err; node = node->next) {
        mh__job *r = mh__list_entry(node, mh__job, order);
        bool match = false;
        err = mh__query_match(c, r, query, &match);
        if (!err && match)
            found[(*count)++] = r;
    }
    return err;
}

static mh_err answer_found(mh_controller *c, const mh__incoming *in, mh__json keys, mh__job *const *found, size_t count)
{
    bool requests = lists(keys, "buffers"), results = lists(keys, "result_buffers");
    attachment *attached = mh__calloc(2 * count + 1, sizeof *attached);
    size_t attached_count = 0;
    if (!attached)
        return MH_ERR_NO_MEMORY;
    mh_err err = MH_OK;
    mh__json_out o = begin(c);
    mh__json_key(&o, "records");
    mh__json_open(&o, '[');
    for (size_t i = 0; i < count && !err; i++) {
        if ((requests || results) && !mh__job_see(c, found[i]))
            err = MH_ERR_NO_MEMORY;
        else
            err = add_wanted(c, &o, found[i], keys);
        if (requests)
            attached[attached_count++].of = &found[i]->request;
        if (results && found[i]->result.parcel)
            attached[attached_count++].of = &found[i]->result;
    }
    mh__json_close(&o, ']');
    add_lengths(&o, "buffer_lens", requests, found, count, false);
    add_lengths(&o, "result_buffer_lens", results, found, count, true);
    if (!err)
        reply_with_buffers(c, in, "db_reply", end(c, &o), attached, attached_count);
    mh__free(attached);
    return err;
}

static void answer_db(mh_controller *c, const mh__incoming *in)
{
    static const char *const keys[] = {"query", "keys"};
    mh__json got[2];
    size_t count = 0;
    mh__job **found = mh__calloc(c->record_count + 1, sizeof(mh__job *));
    mh_err err = found ? mh__json_pick(in->m.content, keys, 2, got) : MH_ERR_NO_MEMORY;
    if (!err)
        err = find_records(c, got[0], found, &count);
    if (!err)
        err = answer_found(c, in, got[1], found, count);
    if (err)
        reply(c, in, "db_reply", mh__reply_error(c, err == MH_ERR_INVALID || err == MH_ERR_NOT_FOUND ? "KeyError" : "RuntimeError",
                                                 mh__text(mh_err_detail())));
    mh__free(found);
}

static void purge_engine(mh_controller *c, const char *uuid)
{
    for (mh__list *node = c->history.next, *next; node != &c->history; node = next) {
        mh__job *r = mh__list_entry(node, mh__job, place);
        next = node->next;
        if (!uuid || !strcmp(r->engine_uuid, uuid))
            mh__job_drop(c, r);
    }
}

static mh_err purge(mh_controller *c, mh__json msg_ids, mh__json engine_ids)
{
    mh_bytes *ids = NULL;
    size_t count = 0;
    if (mh__json_is(msg_ids, "all")) {
        purge_engine(c, NULL);
        return MH_OK;
    }
    mh_err err = take_ids(msg_ids, &ids, &count);
    for (size_t i = 0; i < count && !err; i++) {
        const mh__job *r = mh__job_find(c, ids[i]);
        if (r && !r->is_ended)
            err = mh__fail(MH_ERR_NOT_FOUND, "msg pending: '%.*s'", (int)MH__MIN(ids[i].size, (size_t)100), (const char *)ids[i].data);
    }
    for (size_t i = 0; i < count && !err; i++) {
        mh__job *r = mh__job_find(c, ids[i]);
        if (r)
            mh__job_drop(c, r);
    }
    mh__free(ids);
    mh__json_walk w = mh__json_walk_of(engine_ids);
    for (mh__json key, v; !err && mh__json_next(&w, &key, &v);) {
        int64_t id;
        const mh__engine *e = mh__json_int(v, &id) ? mh__engine_by_id(c, id) : NULL;
        if (e)
            purge_engine(c, e->uuid);
        else
            err = mh__fail(MH_ERR_NOT_FOUND, "No such engine: %.*s", (int)MH__MIN(v.size, (size_t)60), v.text);
    }
    return err;
}

static void answer_purge(mh_controller *c, const mh__incoming *in)
{
    static const char *const keys[] = {"msg_ids", "engine_ids"};
    mh__json got[2];
    mh_err err = mh__json_pick(in->m.content, keys, 2, got);
    if (!err)
        err = purge(c, got[0], got[1]);
    if (err) {
        reply(c, in, "purge_reply", mh__reply_error(c, "IndexError", mh__text(mh_err_detail())));
        return;
    }
    mh__json_out o = begin(c);
    reply(c, in, "purge_reply", end(c, &o));
}

/* ---- submitting again ------------------------------------------------------------------------ */

/* The old header with a new id and date. */
static mh_err renew_header(mh_controller *c, mh_bytes old, mh_buf *to, const char *id)
{
    char date[MH__DATE_SIZE];
    mh__json whole;
    mh_err err = mh__json_check(old, &whole);
    if (err)
        return err;
    (void)c;
    mh__date_write(mh__os_wall_ns(), date);
    mh__json_out o = mh__json_into(to);
    mh__json_walk w = mh__json_walk_of(whole);
    mh__json_open(&o, '{');
    for (mh__json key, value; mh__json_next(&w, &key, &value);) {
        if (mh__json_is(key, "msg_id") || mh__json_is(key, "date"))
            continue;
        mh__json_key_bytes(&o, (mh_bytes){key.text + 1, key.size - 2});
        mh__json_add(&o, value);
    }
    mh__json_key(&o, "msg_id");
    mh__json_add_string(&o, id);
    mh__json_key(&o, "date");
    mh__json_add_string(&o, date);
    mh__json_close(&o, '}');
    return mh__json_finish(&o);
}

/* The request of r once more, as from a client without a name: its answer is for whoever asks for it. */
static mh_err resubmit(mh_controller *c, mh__job *r, char id[RESUBMIT_ID])
{
    mh_buf *header = NULL;
    mh__parcel *p = NULL;
    if (!mh__job_see(c, r))
        return MH_ERR_NO_MEMORY;
    mh_bytes old = mh__kept_header(&r->request), none = MH__TEXT("{}");
    snprintf(id, RESUBMIT_ID, "%s_%llu", c->session.id, (unsigned long long)c->session.count++);
    mh_err err = mh_buf_create(&header, 0);
    if (!err)
        err = renew_header(c, old, header, id);
    if (!err)
        err = mh__parcel_create(&p);
    if (!err) {
        mh__session_sign(&c->session, (mh_bytes){mh_buf_data(header), mh_buf_size(header)}, old, none, mh__kept_content(&r->request), &c->built);
        err = mh__parcel_add(p, (mh_bytes){"", 0});
    }
    for (size_t i = 0; i < MH__FRAMES_SIGNED && !err; i++)
        err = mh__parcel_add(p, c->built.frames[i]);
    if (!err)
        err = mh__parcel_share(p, r->request.parcel, r->request.at + MH__FRAMES_SIGNED, mh__kept_buffer_count(&r->request));
    mh__free(r->resubmitted);
    if (!(r->resubmitted = mh__strdup(id)) && !err)
        err = MH_ERR_NO_MEMORY;
    if (!err)
        mh__durable_extra(c, r);
    if (!err) {
        mh__incoming in = {.at = 1, .header.msg_id = mh__text(id)};
        mh__tasks_submit(c, p, &in); /* may push r itself out of the history */
    }
    mh__parcel_destroy(&p);
    mh_buf_destroy(&header);
    return err;
}

static void answer_resubmit(mh_controller *c, const mh__incoming *in)
{
    static const char *const keys[] = {"msg_ids"};
    mh__json got[1];
    mh_bytes *ids = NULL;
    size_t count = 0;
    mh_err err = mh__json_pick(in->m.content, keys, 1, got);
    if (!err)
        err = take_ids(got[0], &ids, &count);
    for (size_t i = 0; i < count && !err; i++)
        if (!mh__job_find(c, ids[i]))
            err = mh__fail(MH_ERR_NOT_FOUND, "\"No such msg(s): ['%.*s']\"", (int)MH__MIN(ids[i].size, (size_t)100), (const char *)ids[i].data);
    mh_buf *pairs = NULL;
    if (!err)
        err = mh_buf_create(&pairs, 0);
    mh__json_out o = mh__json_into(pairs);
    if (!err)
        mh__json_open(&o, '{');
    for (size_t i = 0; i < count && !err; i++) {
        char new_id[RESUBMIT_ID];
        mh__job *r = mh__job_find(c, ids[i]);
        err = r ? resubmit(c, r, new_id) : mh__fail(MH_ERR_NOT_FOUND, "the history is too short for all of them");
        if (!err) {
            mh__json_key_bytes(&o, ids[i]);
            mh__json_add_string(&o, new_id);
        }
    }
    if (err) {
        reply(c, in, "resubmit_reply", mh__reply_error(c, err == MH_ERR_NOT_FOUND ? "KeyError" : "RuntimeError", mh__text(mh_err_detail())));
    } else {
        mh__json_close(&o, '}');
        mh__json_out answer = begin(c);
        mh__json_key(&answer, "resubmitted");
        mh__json_add(&answer, (mh__json){mh_buf_data(pairs), mh_buf_size(pairs)});
        reply(c, in, "resubmit_reply", end(c, &answer));
    }
    mh_buf_destroy(&pairs);
    mh__free(ids);
}

/* ---- the end, and the rest ------------------------------------------------------------------- */

static void answer_shutdown(mh_controller *c, const mh__incoming *in)
{
    mh_bytes ok = MH__TEXT("{\"status\":\"ok\"}");
    mh__log(c, MH_LOG_INFO, "a client asked for shutdown");
    reply(c, in, "shutdown_reply", ok);
    mh__reply_send(c, MH__CH_NOTIFY, NULL, 0, &(mh__draft){.type = "shutdown_notification", .parent = in->m.header, .content = ok});
    mh__controller_stop_in(c, SHUTDOWN_NS);
}

static void answer_become_dask(mh_controller *c, const mh__incoming *in)
{
    reply(c, in, "hub_error", mh__reply_error(c, "NotImplementedError",
                                              MH__TEXT("this controller starts no dask scheduler: start one with dask-scheduler")));
}

static void answer_stop_dask(mh_controller *c, const mh__incoming *in)
{
    reply(c, in, "stop_distributed_reply", MH__TEXT("{\"status\":\"ok\"}"));
}

static const struct {
    const char *type;
    void (*answer)(mh_controller *c, const mh__incoming *in);
} handlers[] = {
    {"connection_request", answer_connection}, {"unregistration_request", unregister},
    {"queue_request", answer_queue},           {"load_request", answer_load},
    {"result_request", answer_result},         {"history_request", answer_history},
    {"db_request", answer_db},                 {"purge_request", answer_purge},
    {"resubmit_request", answer_resubmit},     {"shutdown_request", answer_shutdown},
    {"become_dask_request", answer_become_dask}, {"stop_distributed_request", answer_stop_dask},
};

void mh__hub_on_query(mh__socket *s, mh__parcel *p, void *ctx)
{
    (void)s;
    mh_controller *c = ctx;
    mh__incoming in;
    if (!mh__controller_admit(c, MH__CH_QUERY, p, &in) || in.at < 1)
        return;
    mh_bytes type = in.header.msg_type;
    if (mh__bytes_are(type, "registration_request")) {
        mh__engine_register(c, &in, mh__parcel_connection(p));
        return;
    }
    for (size_t i = 0; i < MH__COUNT_OF(handlers); i++)
        if (mh__bytes_are(type, handlers[i].type)) {
            handlers[i].answer(c, &in);
            return;
        }
    reply(c, &in, "hub_error", mh__reply_errorf(c, "KeyError", "\"Bad Message Type: '%.*s'\"", (int)type.size, (const char *)type.data));
}
