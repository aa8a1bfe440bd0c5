/* What the last controller left in the journal, as jobs again. Rows come by request; results and assignments are then put into their
 * own order, and what has not ended goes on. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A job and its place in an order. */
typedef struct ordered {
    uint64_t order;
    mh__job *job;
    int64_t time_ns;
    mh_sched_outcome how;
    bool was_held; /* its client was away when it ended */
} ordered;

typedef struct list {
    ordered *items;
    size_t count, capacity;
} list;

typedef struct recovery {
    mh_controller *c;
    mh__job *last; /* that whose rows are coming */
    list ended, placed;
    size_t orphans;
} recovery;

static mh_err add(list *l, ordered item)
{
    if (l->count == l->capacity) {
        size_t capacity = MH__MAX((size_t)256, 2 * l->capacity);
        ordered *grown = mh__realloc(l->items, capacity * sizeof *grown);
        if (!grown)
            return MH_ERR_NO_MEMORY;
        l->items = grown;
        l->capacity = capacity;
    }
    l->items[l->count++] = item;
    return MH_OK;
}

static int by_order(const void *a, const void *b)
{
    const ordered *x = a, *y = b;
    return (x->order > y->order) - (x->order < y->order);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static mh_err take_note(recovery *v, const mh__entry *e)
{
    if (e->token >= UINT32_MAX)
        return mh__fail(MH_ERR_CORRUPT, "generation %llu of a controller", (unsigned long long)e->token);
    v->c->generation = (uint32_t)e->token;
    v->c->settled_order = e->order;
    return MH_OK;
}

static mh_err take_request(recovery *v, const mh__entry *e, mh__parcel *message)
{
    mh__message m;
    mh__header h;
    mh_err err = mh__message_split(mh__parcel_frames(message), mh__parcel_count(message), &m);
    if (!err)
        err = mh__header_read(m.header, &h);
    bool is_task = e->how & MH__ENTRY_IS_TASK;
    if (err || m.ident_count != e->at || e->at != (is_task ? 1 : 2))
        return mh__fail(MH_ERR_CORRUPT, "request %llu is no message", (unsigned long long)e->seq);
    err = mh__job_create(v->c, &v->last, message, e->at, h.msg_id, is_task);
    if (err)
        return err == MH_ERR_EXISTS ? mh__fail(MH_ERR_CORRUPT, "request %llu is there twice", (unsigned long long)e->seq) : err;
    v->last->seq = e->seq;
    v->last->was_sent = true; /* perhaps */
    v->last->has_pieces = true; /* it costs little to look for pieces where there are none */
    return MH_OK;
}

static void take_name(mh__job *r, mh_bytes name) { snprintf(r->engine_uuid, sizeof r->engine_uuid, "%.*s", (int)name.size, (const char *)name.data); }

static mh_err take_place(recovery *v, const mh__entry *e)
{
    v->c->last_place = MH__MAX(v->c->last_place, e->order);
    take_name(v->last, e->name);
    v->last->token = e->token;
    return add(&v->placed, (ordered){.order = e->order, .job = v->last});
}

static mh_err take_result(recovery *v, const mh__entry *e, mh__parcel *message)
{
    mh_err err = MH_OK;
    mh__message m;
    v->c->last_order = MH__MAX(v->c->last_order, e->order);
    take_name(v->last, e->name);
    if (e->how > MH_SCHED_IMPOSSIBLE)
        return mh__fail(MH_ERR_CORRUPT, "request %llu ended in an unknown way", (unsigned long long)e->seq);
    if (mh__parcel_count(message)) {
        if (mh__message_split(mh__parcel_frames(message), mh__parcel_count(message), &m) || m.ident_count != e->at)
            return mh__fail(MH_ERR_CORRUPT, "the result of request %llu is no message", (unsigned long long)e->seq);
        err = mh__job_keep_result(v->c, v->last, message, e->at);
    }
    return err ? err : add(&v->ended, (ordered){.order = e->order, .job = v->last, .time_ns = e->time_ns, .how = (mh_sched_outcome)e->how,
                                                  .was_held = e->token == MH__RESULT_HELD});
}

static mh_err take_extra(recovery *v, mh__parcel *message)
{
    mh__job *r = v->last;
    if (mh__parcel_count(message) != 7)
        return mh__fail(MH_ERR_CORRUPT, "the output of request %llu is not whole", (unsigned long long)r->seq);
    if (!r->output && !(r->output = mh__calloc(1, sizeof *r->output)))
        return MH_ERR_NO_MEMORY;
    mh_buf **to[] = {&r->output->stdout_, &r->output->stderr_, &r->output->execute_input, &r->output->execute_result,
                     &r->output->display_data, &r->output->error};
    const mh_bytes *frames = mh__parcel_frames(message);
    mh_err err = MH_OK;
    for (size_t i = 0; i < MH__COUNT_OF(to) && !err; i++) {
        if (!frames[i].size)
            continue;
        err = mh_buf_copy(to[i], frames[i]);
        r->bytes += frames[i].size;
        v->c->record_bytes += frames[i].size;
    }
    if (!err && frames[6].size && frames[6].size < MH__WIRE_ID_MAX) {
        char id[MH__WIRE_ID_MAX + 1];
        snprintf(id, sizeof id, "%.*s", (int)frames[6].size, (const char *)frames[6].data);
        if (!(r->resubmitted = mh__strdup(id)))
            err = MH_ERR_NO_MEMORY;
    }
    return err;
}

static mh_err take_entry(const mh__entry *e, mh__parcel *message, void *ctx)
{
    recovery *v = ctx;
    if (e->kind == MH__ENTRY_NOTE)
        return take_note(v, e);
    if (e->kind == MH__ENTRY_ENGINES)
        return mh__parcel_count(message) ? mh__place_restore_engines(v->c, mh__parcel_frames(message)[0]) : MH_OK;
    v->c->last_seq = MH__MAX(v->c->last_seq, e->seq);
    if (e->kind == MH__ENTRY_REQUEST)
        return take_request(v, e, message);
    if (!v->last || v->last->seq != e->seq) {
        v->orphans++; /* of a request that was forgotten: of no use to anybody */
        return mh__journal_forget(v->c->journal, e->seq, true);
    }
    switch (e->kind) {
    case MH__ENTRY_PLACE: return take_place(v, e);
    case MH__ENTRY_RESULT: return take_result(v, e, message);
    default: return take_extra(v, message);
    }
}

/* ---- going on -------------------------------------------------------------------------------- */

/* A result may have been on its way to its client when the last controller ended. A client that asks to be told of acceptance drops what it
 * gets twice. A stock client stumbles over it, and may then wait for ever; that its result was lost in the fraction of a
 * millisecond between its writing and its sending is less likely. So it gets only what was certainly held back for it. */
static bool may_send_again(const ordered *o)
{
    static const char *const keys[] = {"x_ack"};
    mh__json got[1] = {{0}};
    bool is_ours = false;
    if (!mh__json_pick(mh__kept_metadata(&o->job->request), keys, 1, got))
        mh__json_bool(got[0], &is_ours);
    return is_ours || o->was_held;
}

static void go_on_with_ended(recovery *v)
{
    mh_controller *c = v->c;
    size_t again = 0;
    if (v->ended.count) /* qsort takes no NULL, not for nothing either */
        qsort(v->ended.items, v->ended.count, sizeof *v->ended.items, by_order);
    for (size_t i = 0; i < v->ended.count; i++) {
        mh__job *r = v->ended.items[i].job;
        mh__engine *e = mh__engine_find(c, mh__text(r->engine_uuid));
        bool is_settled = v->ended.items[i].order <= c->settled_order;
        if (e)
            r->worker = e->worker; /* where those that follow it are to go */
        if (!is_settled && may_send_again(&v->ended.items[i]) && mh__job_build_answer(c, r)) {
            again++;
            mh__outbox_send(c, r->is_task ? MH__CH_TASK_IN : MH__CH_MUX_IN, c->out);
        }
        mh_deadline until = c->resent_until;
        c->resent_until = is_settled ? 0 : until;
        mh__job_end_again(c, r, v->ended.items[i].how, v->ended.items[i].time_ns);
        c->resent_until = until;
    }
    c->sent_order = c->last_order;
    if (c->settled_order < c->sent_order)
        mh__alarm_set(c->loop, &c->settle_alarm, mh_now());
    if (again)
        mh__log(c, MH_LOG_INFO, "%zu results that may not have arrived are sent again", again);
}

static void lose(mh_controller *c, mh__job *r, mh_bytes uuid)
{
    char metadata[400];
    int size = snprintf(metadata, sizeof metadata, "{\"status\":\"error\",\"engine\":\"%.*s\"}", (int)uuid.size, (const char *)uuid.data);
    mh_bytes content = mh__reply_errorf(c, "EngineError", "Engine '%.*s' was gone when the controller came back", (int)uuid.size,
                                        (const char *)uuid.data);
    mh__draft d = {.type = "apply_reply", .parent = mh__kept_header(&r->request), .metadata = {metadata, (size_t)size}, .content = content,
                   .unix_ns = mh__os_wall_ns()};
    if (mh__session_build(&c->session, &d, &c->built) == MH_OK)
        mh__job_keep_error(c, r, &c->built, NULL);
    mh__job_answer(c, r, MH_SCHED_LOST);
}

static void go_on_with_direct(mh_controller *c, mh__job *r)
{
    mh_bytes uuid = mh__parcel_frames(r->request.parcel)[1];
    mh__engine *e = mh__engine_find(c, uuid);
    if (!e) {
        lose(c, r, uuid);
        return;
    }
    mh__job_at_engine(r, e);
    r->is_adopted = true;
}

static size_t go_on_with_live(recovery *v)
{
    mh_controller *c = v->c;
    size_t live = 0;
    for (mh__list *node = c->order.next, *next; node != &c->order; node = next) {
        mh__job *r = mh__list_entry(node, mh__job, order);
        next = node->next;
        if (r->is_ended)
            continue;
        live++;
        if (r->is_task)
            mh__tasks_restore(c, r); /* may end it; forgetting others for it reaches only what has ended, which lies before */
        else
            go_on_with_direct(c, r);
    }
    if (v->placed.count)
        qsort(v->placed.items, v->placed.count, sizeof *v->placed.items, by_order);
    for (size_t i = 0; i < v->placed.count; i++) {
        mh__job *r = v->placed.items[i].job;
        mh__engine *e = mh__engine_find(c, mh__text(r->engine_uuid));
        if (e && !r->is_ended)
            mh__tasks_adopt(c, r, e);
    }
    return live;
}

/* What has ended may have been dropped from memory when its place is looked at: those go first. */
static void drop_ended_places(recovery *v)
{
    size_t kept = 0;
    for (size_t i = 0; i < v->ended.count; i++)
        v->ended.items[i].job->is_adopted = true; /* a mark; enter_history takes it away */
    for (size_t i = 0; i < v->placed.count; i++)
        if (!v->placed.items[i].job->is_adopted)
            v->placed.items[kept++] = v->placed.items[i];
    v->placed.count = kept;
}

mh_err mh__recover(mh_controller *c)
{
    recovery v = {.c = c};
    int64_t began = mh_now();
    c->is_loading = true;
    mh_err err = mh__journal_load(c->journal, take_entry, &v);
    c->is_loading = false;
    if (!err && c->record_count) {
        drop_ended_places(&v);
        go_on_with_ended(&v);
        size_t live = go_on_with_live(&v);
        for (mh__list *node = c->engines.next; node != &c->engines; node = node->next)
            mh__holds_ask(c, mh__list_entry(node, mh__engine, link));
        mh__log(c, MH_LOG_INFO, "the task log holds %zu requests that ended and %zu that go on (%lld ms)", v.ended.count, live,
                (long long)((mh_now() - began) / MH_MILLISECOND));
    }
    mh__free(v.ended.items);
    mh__free(v.placed.items);
    return err;
}
