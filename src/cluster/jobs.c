/* Requests and their results: all that live, and the last of those that ended. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/clock.h"

#include <stdio.h>
#include <string.h>

enum {
    ID_USUAL = 64,          /* bytes of an id, with its end, for which a blank record has room */
    SPARE_MAX = 1024,
    RECORD_BYTES = 2048,    /* about what the books for one take */
    OUTCOMES = 1 << 15,     /* ended tasks of which at least the outcome is known, for those that depend on them */
};

/* ---- outcomes: two generations, so that memory is bounded and the youngest are always there --- */

typedef struct outcome {
    uint64_t hash;
    mh_sched_worker where;
    mh_sched_outcome how;
} outcome;

struct mh__outcomes {
    outcome at[2][2 * OUTCOMES];
    size_t count;
    int young;
};

static outcome *outcome_place(struct mh__outcomes *o, int generation, uint64_t hash)
{
    size_t i = hash & (2 * OUTCOMES - 1);
    while (o->at[generation][i].hash && o->at[generation][i].hash != hash)
        i = (i + 1) & (2 * OUTCOMES - 1);
    return &o->at[generation][i];
}

static void note_outcome(mh_controller *c, const mh__job *r, mh_sched_outcome how)
{
    if (!c->outcomes && !(c->outcomes = mh__calloc(1, sizeof *c->outcomes)))
        return; /* tasks that wait for this one will be told that it is not known */
    struct mh__outcomes *o = c->outcomes;
    if (o->count == OUTCOMES) {
        o->young = !o->young;
        memset(o->at[o->young], 0, sizeof o->at[o->young]);
        o->count = 0;
    }
    uint64_t hash = r->name.hash ? r->name.hash : 1;
    outcome *place = outcome_place(o, o->young, hash);
    o->count += !place->hash;
    *place = (outcome){hash, r->worker, how};
}

mh_sched_outcome mh__job_outcome(const mh_controller *c, mh_bytes msg_id, mh_sched_worker *where)
{
    uint64_t hash = mh__names_hash(msg_id);
    hash = hash ? hash : 1;
    for (int i = 0; i < 2 && c->outcomes; i++) {
        const outcome *o = outcome_place(c->outcomes, i, hash);
        if (o->hash) {
            *where = o->where;
            return o->how;
        }
    }
    return MH_SCHED_UNKNOWN;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Records come and go by the hundred thousand a second: some are kept for the next. */
static mh__job *take_blank(mh_controller *c, size_t id_size)
{
    mh__job *r = id_size < ID_USUAL ? c->spare_jobs : NULL;
    if (!r)
        return mh__calloc(1, sizeof *r + MH__MAX(id_size + 1, (size_t)ID_USUAL));
    c->spare_jobs = r->next_spare;
    c->spare_count--;
    memset(r, 0, sizeof *r);
    return r;
}

static void give_blank(mh_controller *c, mh__job *r)
{
    if (r->name.key.size >= ID_USUAL || c->spare_count >= SPARE_MAX) {
        mh__free(r);
        return;
    }
    r->next_spare = c->spare_jobs;
    c->spare_jobs = r;
    c->spare_count++;
}

static mh_err make(mh_controller *c, mh__job **out, mh_bytes msg_id, bool is_task)
{
    mh__job *r = take_blank(c, msg_id.size);
    if (!r)
        return MH_ERR_NO_MEMORY;
    memcpy(r->id, msg_id.data, msg_id.size);
    r->name.key = (mh_bytes){r->id, msg_id.size};
    mh_err err = mh__names_add_new(&c->by_id, &r->name);
    if (err) {
        give_blank(c, r);
        return err == MH_ERR_EXISTS ? mh__fail(err, "message %.*s is known already", (int)msg_id.size, (const char *)msg_id.data) : err;
    }
    r->is_task = is_task;
    mh__list_init(&r->place);
    mh__list_init(&r->noisy);
    *out = r;
    return MH_OK;
}

static void unmake(mh_controller *c, mh__job *r)
{
    mh__names_remove(&c->by_id, &r->name);
    mh__parcel_destroy(&r->request.parcel);
    mh__parcel_destroy(&r->result.parcel);
    mh__free(r->brief);
    mh__free(r->brief_result);
    give_blank(c, r);
}

static void enter(mh_controller *c, mh__job *r, size_t bytes)
{
    mh__list_push_back(&c->order, &r->order);
    r->bytes += RECORD_BYTES + bytes;
    c->record_bytes += RECORD_BYTES + bytes;
    c->record_count++;
    c->tasks_live++;
    if (r->is_task) {
        r->is_unassigned = true;
        c->unassigned_count++;
    }
}

mh_err mh__job_create(mh_controller *c, mh__job **out, mh__parcel *request, size_t at, mh_bytes msg_id, bool is_task)
{
    mh__job *r;
    mh_err err = make(c, &r, msg_id, is_task);
    if (err)
        return err;
    err = mh__parcel_create(&r->request.parcel);
    if (err) {
        unmake(c, r);
        return err;
    }
    mh__parcel_move(r->request.parcel, request);
    r->request.at = at;
    if ((err = mh__durable_request(c, r))) {
        mh__parcel_move(request, r->request.parcel);
        unmake(c, r);
        return err;
    }
    enter(c, r, mh__parcel_bytes(r->request.parcel));
    *out = r;
    return MH_OK;
}

mh_err mh__job_create_brief(mh_controller *c, mh__job **out, mh__fast_task *t, size_t bytes, mh_bytes msg_id)
{
    mh__job *r;
    mh_err err = make(c, &r, msg_id, true);
    if (err)
        return err;
    r->brief = t;
    if (c->journal) /* which has messages */
        err = mh__job_see(c, r) ? mh__durable_request(c, r) : MH_ERR_NO_MEMORY;
    if (err) {
        r->brief = NULL;
        c->record_bytes -= r->bytes;
        unmake(c, r);
        return err;
    }
    enter(c, r, bytes);
    *out = r;
    return MH_OK;
}

/* ---- what is there in brief ------------------------------------------------------------------ */

static void add_bytes(mh_controller *c, mh__job *r, size_t bytes)
{
    r->bytes += bytes;
    c->record_bytes += bytes;
}

/* [client, message...] */
static mh_err see_request(mh__job *r)
{
    mh__parcel *p = NULL;
    mh_err err = mh__parcel_create(&p);
    if (!err)
        err = mh__parcel_add(p, r->brief->who);
    if (!err)
        err = mh__brief_add_request(p, r->brief, r->brief->who, r->brief->user);
    if (err)
        mh__parcel_destroy(&p);
    else
        r->request = (mh__kept){p, 1};
    return err;
}

/* [engine, message...] */
static mh_err see_result(mh__job *r)
{
    mh__parcel *p = NULL;
    mh_bytes engine = mh__text(r->engine_uuid);
    mh_err err = mh__parcel_create(&p);
    if (!err)
        err = mh__parcel_add(p, engine);
    if (!err)
        err = mh__brief_add_reply(p, r->brief_result, engine, mh__kept_header(&r->request), mh__kept_metadata(&r->request));
    if (err) {
        mh__parcel_destroy(&p);
        return err;
    }
    mh__parcel_destroy(&r->result.parcel);
    r->result = (mh__kept){p, 1};
    return MH_OK;
}

bool mh__job_see(mh_controller *c, mh__job *r)
{
    mh_err err = MH_OK;
    if (r->brief && !r->request.parcel && !(err = see_request(r)))
        add_bytes(c, r, mh__parcel_bytes(r->request.parcel));
    if (!err && r->brief_result && !(r->result.parcel && mh__parcel_count(r->result.parcel)) && !(err = see_result(r)))
        add_bytes(c, r, mh__parcel_bytes(r->result.parcel));
    if (err)
        mh__controller_fail(c, err);
    return !err;
}

void mh__job_forget_result(mh_controller *c, mh__job *r)
{
    if (r->result.parcel) {
        add_bytes(c, r, -mh__parcel_bytes(r->result.parcel));
        mh__parcel_clear(r->result.parcel);
    }
    mh__free(r->brief_result);
    r->brief_result = NULL;
}

void mh__job_keep_brief(mh_controller *c, mh__job *r, mh__fast_task *t, size_t bytes)
{
    mh__job_forget_result(c, r);
    r->brief_result = t;
    add_bytes(c, r, bytes);
}

mh__job *mh__job_find(const mh_controller *c, mh_bytes msg_id)
{
    mh__name *node = mh__names_find(&c->by_id, msg_id);
    return node ? mh__name_entry(node, mh__job, name) : NULL;
}

void mh__job_at_engine(mh__job *r, mh__engine *e)
{
    if (r->engine) {
        --*(r->is_task ? &r->engine->task_count : &r->engine->queue_count);
        mh__list_remove(&r->place);
    }
    r->engine = e;
    if (!e)
        return;
    size_t size = MH__MIN(e->name.key.size, sizeof r->engine_uuid - 1);
    memcpy(r->engine_uuid, e->uuid, size);
    r->engine_uuid[size] = 0;
    mh__list_push_back(r->is_task ? &e->tasks : &e->queue, &r->place);
    ++*(r->is_task ? &e->task_count : &e->queue_count);
}

static void destroy_output(mh__output *o)
{
    if (!o)
        return;
    mh_buf **all[] = {&o->stdout_, &o->stderr_, &o->execute_input, &o->execute_result, &o->display_data, &o->error};
    for (size_t i = 0; i < MH__COUNT_OF(all); i++)
        mh_buf_destroy(all[i]);
    mh__free(o);
}

void mh__job_drop(mh_controller *c, mh__job *r)
{
    mh__job_at_engine(r, NULL);
    if (r->is_ended) {
        mh__list_remove(&r->place);
        c->history_count--;
    } else {
        c->tasks_live--;
        c->unassigned_count -= r->is_unassigned;
    }
    mh__durable_forget(c, r);
    mh__fast_let_go(c, r);
    mh__list_remove(&r->noisy);
    mh__list_remove(&r->order);
    c->record_bytes -= r->bytes;
    c->record_count--;
    destroy_output(r->output);
    mh__free(r->resubmitted);
    unmake(c, r);
}

/* Frames that were received share the block in which they came with others': copied, so that a record keeps no more than itself. */
static void settle(mh__kept *k)
{
    if (k->parcel)
        (void)!mh__parcel_settle(k->parcel);
}

static void enter_history(mh_controller *c, mh__job *r, mh_sched_outcome how, int64_t received_ns)
{
    if (r->is_task)
        note_outcome(c, r, how);
    mh__job_at_engine(r, NULL);
    mh__fast_let_go(c, r);
    c->tasks_live--;
    c->unassigned_count -= r->is_unassigned;
    r->is_unassigned = r->is_adopted = false;
    r->is_ended = true;
    r->is_resent = c->resent_until && mh_now() < c->resent_until;
    r->received_ns = received_ns;
    mh__list_push_back(&c->history, &r->place);
    c->history_count++;
    if (c->options.no_history) {
        mh__job_drop(c, r);
        return;
    }
    settle(&r->request);
    settle(&r->result);
    while (c->history_count > c->options.history_count || (c->record_bytes > c->options.history_bytes && c->history_count > 1))
        mh__job_drop(c, mh__list_entry(c->history.next, mh__job, place));
}

void mh__job_end(mh_controller *c, mh__job *r, mh_sched_outcome how)
{
    int64_t now = mh__os_wall_ns();
    r->received_ns = now;
    mh__durable_result(c, r, how);
    enter_history(c, r, how, now);
}

void mh__job_end_again(mh_controller *c, mh__job *r, mh_sched_outcome how, int64_t received_ns) { enter_history(c, r, how, received_ns); }

/* [engine, ..., message...] goes as [client, engine, message...]; what was made here has no engine. */
bool mh__job_build_answer(mh_controller *c, mh__job *r)
{
    const mh__kept *k = &r->result;
    mh__parcel_clear(c->out);
    if (!mh__job_see(c, r))
        return false;
    if (!k->parcel || mh__parcel_count(k->parcel) == 0 || !mh__parcel_frames(r->request.parcel)[0].size)
        return false;
    mh_err err = mh__parcel_share(c->out, r->request.parcel, 0, 1);
    if (!err && k->at > 0)
        err = mh__parcel_share(c->out, k->parcel, 0, 1);
    if (!err)
        err = mh__parcel_share(c->out, k->parcel, k->at, mh__parcel_count(k->parcel) - k->at);
    if (err)
        mh__controller_fail(c, err);
    return !err;
}

void mh__job_answer(mh_controller *c, mh__job *r, mh_sched_outcome how)
{
    mh__channel channel = r->is_task ? MH__CH_TASK_IN : MH__CH_MUX_IN;
    if (r->brief_result && !c->journal && mh__fast_answer(c, r)) { /* nothing is to be written first */
        mh__job_end(c, r, how);
        return;
    }
    bool is_wanted = mh__job_build_answer(c, r);
    mh__job_end(c, r, how); /* r may be gone */
    if (is_wanted)
        mh__durable_send(c, channel, c->out);
}

mh_err mh__job_keep_result(mh_controller *c, mh__job *r, mh__parcel *result, size_t at)
{
    mh__free(r->brief_result);
    r->brief_result = NULL;
    if (!r->result.parcel) {
        mh_err err = mh__parcel_create(&r->result.parcel);
        if (err)
            return err;
    }
    c->record_bytes -= mh__parcel_bytes(r->result.parcel);
    r->bytes -= mh__parcel_bytes(r->result.parcel);
    mh__parcel_move(r->result.parcel, result);
    r->result.at = at;
    c->record_bytes += mh__parcel_bytes(r->result.parcel);
    r->bytes += mh__parcel_bytes(r->result.parcel);
    return MH_OK;
}

/* ---- output ---------------------------------------------------------------------------------- */

static void append_stream(mh_controller *c, mh__job *r, mh_buf **to, mh__json text)
{
    static const char marker[] = "\n[output beyond this was not kept]\n";
    if (!*to && mh_buf_create(to, 0))
        return;
    size_t before = mh_buf_size(*to);
    if (before >= MH__OUTPUT_MAX)
        return;
    (void)!mh__json_string(text, *to);
    if (mh_buf_size(*to) >= MH__OUTPUT_MAX) {
        (void)!mh_buf_resize(*to, MH__OUTPUT_MAX);
        (void)!mh_buf_append(*to, (mh_bytes){marker, sizeof marker - 1});
    }
    add_bytes(c, r, mh_buf_size(*to) - before);
}

static void set_json(mh_controller *c, mh__job *r, mh_buf **to, mh__json value)
{
    if (!value.text || value.size > MH__OUTPUT_MAX)
        return;
    if (*to)
        add_bytes(c, r, -mh_buf_size(*to));
    mh_buf_destroy(to);
    if (mh_buf_copy(to, mh__json_bytes(value)) == MH_OK)
        add_bytes(c, r, value.size);
}

void mh__job_note_output(mh_controller *c, mh_bytes type, mh_bytes parent_id, mh_bytes content)
{
    static const char *const keys[] = {"name", "text", "code"};
    mh__job *r = mh__job_find(c, parent_id);
    mh__json got[3], whole;
    if (!r || mh__json_pick(content, keys, 3, got) || mh__json_check(content, &whole))
        return;
    mh__durable_noise(c, r);
    if (!r->output && !(r->output = mh__calloc(1, sizeof *r->output)))
        return;
    if (mh__bytes_are(type, "stream"))
        append_stream(c, r, mh__json_is(got[0], "stderr") ? &r->output->stderr_ : &r->output->stdout_, got[1]);
    else if (mh__bytes_are(type, "execute_input"))
        set_json(c, r, &r->output->execute_input, got[2]);
    else if (mh__bytes_are(type, "execute_result"))
        set_json(c, r, &r->output->execute_result, whole);
    else if (mh__bytes_are(type, "display_data"))
        set_json(c, r, &r->output->display_data, whole);
    else if (mh__bytes_are(type, "error"))
        set_json(c, r, &r->output->error, whole);
}

/* ---- errors of our own ----------------------------------------------------------------------- */

void mh__job_keep_error(mh_controller *c, mh__job *r, const mh__built *b, const mh__engine *e)
{
    mh__parcel *p = NULL;
    mh_err err = mh__parcel_create(&p);
    for (size_t i = 0; i < MH__FRAMES_SIGNED && !err; i++)
        err = mh__parcel_add(p, b->frames[i]);
    if (!err)
        err = mh__job_keep_result(c, r, p, 0);
    if (!err && e)
        snprintf(r->engine_uuid, sizeof r->engine_uuid, "%s", e->uuid);
    mh__parcel_destroy(&p);
}

void mh__jobs_fini(mh_controller *c)
{
    while (!mh__list_is_empty(&c->order))
        mh__job_drop(c, mh__list_entry(c->order.next, mh__job, order));
    for (mh__job *r; (r = c->spare_jobs);) {
        c->spare_jobs = r->next_spare;
        mh__free(r);
    }
    mh__names_fini(&c->by_id);
    mh__free(c->outcomes);
    c->outcomes = NULL;
}
