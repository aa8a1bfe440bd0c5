/* Load-balanced tasks: the scheduler's driver. Events go in as they come; at the end of each round of the loop its actions are
 * carried out, so that what came together is decided together. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/clock.h"

#include <stdio.h>
#include <string.h>

enum { ACTIONS = 64, DEPENDENCIES_MAX = 1 << 20 };

/* ---- what a request asks for ----------------------------------------------------------------- */

/* Why a task can't be accepted: what its client is told. */
typedef struct refusal {
    const char *ename;
    char evalue[200];
} refusal;

static bool refuse(refusal *r, const char *ename, const char *evalue)
{
    r->ename = ename;
    snprintf(r->evalue, sizeof r->evalue, "%s", evalue);
    return false;
}

static bool take_dependency(mh_controller *c, mh_bytes own_id, mh__json id, mh_sched_dependency *out, refusal *why)
{
    mh_bytes name;
    if (!mh__json_plain(id, &name))
        return refuse(why, "InvalidDependency", "a dependency is not the id of a message");
    mh__job *r = mh__job_find(c, name);
    if (r && r->is_task && !r->is_ended && !mh__bytes_equal(name, own_id)) {
        *out = (mh_sched_dependency){.task = r->task};
        return true;
    }
    *out = (mh_sched_dependency){0};
    out->known = mh__job_outcome(c, name, &out->worker);
    return out->known != MH_SCHED_UNKNOWN || refuse(why, "InvalidDependency", "a dependency is no task that is known here");
}

/* A list of ids, or {"dependencies": [...], "all": ..., "success": ..., "failure": ...}. items is the caller's, also on failure. */
static bool take_dependencies(mh_controller *c, mh_bytes own_id, mh__json v, mh_sched_dependencies *out,
                              mh_sched_dependency **items, refusal *why)
{
    bool all = true, success = true, failure = false;
    *out = (mh_sched_dependencies){0};
    if (mh__json_kind_of(v) == MH__JSON_OBJECT) {
        mh__json_bool(mh__json_get(v, "all"), &all);
        mh__json_bool(mh__json_get(v, "success"), &success);
        mh__json_bool(mh__json_get(v, "failure"), &failure);
        v = mh__json_get(v, "dependencies");
    }
    size_t count = mh__json_kind_of(v) == MH__JSON_ARRAY ? mh__json_count(v) : 0;
    if (count == 0)
        return true;
    if (!success && !failure)
        return refuse(why, "InvalidDependency", "a dependency must be on successes, failures or both");
    if (count > DEPENDENCIES_MAX || !(*items = mh__calloc(count, sizeof **items)))
        return refuse(why, "InvalidDependency", "too many dependencies");
    mh__json_walk w = mh__json_walk_of(v);
    size_t i = 0;
    for (mh__json key, id; mh__json_next(&w, &key, &id); i++)
        if (!take_dependency(c, own_id, id, &(*items)[i], why))
            return false;
    *out = (mh_sched_dependencies){.items = *items, .count = count, .any = !all,
                                   .when = success && failure ? MH_SCHED_ON_END : success ? MH_SCHED_ON_SUCCESS : MH_SCHED_ON_FAILURE};
    return true;
}

/* The uuids of engines. Those that are not there are passed over; when none is, the task is impossible. */
static bool take_targets(mh_controller *c, mh__json v, mh_sched_submit_options *o, mh_sched_worker **targets, refusal *why)
{
    size_t count = mh__json_kind_of(v) == MH__JSON_ARRAY ? mh__json_count(v) : 0;
    if (count == 0)
        return true;
    if (!(*targets = mh__calloc(count, sizeof **targets)))
        return refuse(why, "MemoryError", "no memory for the targets");
    mh__json_walk w = mh__json_walk_of(v);
    for (mh__json key, id; mh__json_next(&w, &key, &id);) {
        mh_bytes uuid;
        mh__engine *e = mh__json_plain(id, &uuid) ? mh__engine_find(c, uuid) : NULL;
        if (e)
            (*targets)[o->target_count++] = e->worker;
    }
    o->targets = *targets;
    return o->target_count > 0 || refuse(why, "ImpossibleDependency", "none of the targets is there");
}

static bool take_numbers(mh__json timeout, mh__json retries, mh__json priority, mh_sched_submit_options *o, refusal *why)
{
    double seconds;
    int64_t n;
    if (mh__json_double(timeout, &seconds) && seconds > 0)
        o->wait_ns = seconds < 1e9 ? (int64_t)(seconds * 1e9) + 1 : 0;
    if (mh__json_int(retries, &n)) {
        if (n < 0 || n > INT32_MAX)
            return refuse(why, "ValueError", "retries is not from 0 to 2147483647");
        o->failed_retries = o->lost_retries = (uint32_t)n;
    }
    o->elsewhere = o->elsewhere && o->failed_retries;
    if (mh__json_int(priority, &n) && n > 0)
        o->priority = (uint32_t)MH__MIN(n, (int64_t)MH_SCHED_PRIORITY_MAX);
    return true;
}

/* ---- answers of our own ---------------------------------------------------------------------- */

/* Of a request that is there as a message. */
static const char *reply_type(const mh__job *r)
{
    mh__header h;
    return mh__header_read(mh__kept_header(&r->request), &h) == MH_OK && mh__bytes_are(h.msg_type, "execute_request") ? "execute_reply"
                                                                                                                    : "apply_reply";
}

/* Answer in an engine's place: that is the result. */
static void answer(mh_controller *c, mh__job *r, const char *status, mh_bytes content)
{
    char metadata[200];
    if (!mh__job_see(c, r))
        return;
    int size = snprintf(metadata, sizeof metadata, "{\"status\":\"%s\"%s%s%s}", status, *r->engine_uuid ? ",\"engine\":\"" : "",
                        r->engine_uuid, *r->engine_uuid ? "\"" : "");
    mh__draft d = {.type = reply_type(r), .parent = mh__kept_header(&r->request), .metadata = {metadata, (size_t)size}, .content = content};
    d.unix_ns = mh__os_wall_ns();
    if (mh__session_build(&c->session, &d, &c->built) == MH_OK)
        mh__job_keep_error(c, r, &c->built, NULL);
}

static void answer_outcome(mh_controller *c, mh__job *r, mh_sched_outcome how)
{
    switch (how) {
    case MH_SCHED_CANCELLED: answer(c, r, "aborted", MH__TEXT("{\"status\":\"aborted\"}")); return;
    case MH_SCHED_EXPIRED: answer(c, r, "error", mh__reply_error(c, "TaskTimeout", MH__TEXT(""))); return;
    case MH_SCHED_IMPOSSIBLE: answer(c, r, "error", mh__reply_error(c, "ImpossibleDependency", MH__TEXT(""))); return;
    default:
        answer(c, r, "error", mh__reply_errorf(c, "EngineError", "Engine '%s' died while running task '%s'", r->engine_uuid, r->id));
        return;
    }
}

/* ---- submitting ------------------------------------------------------------------------------ */

static bool schedule(mh_controller *c, mh__job *r, mh_bytes metadata, refusal *why)
{
    static const char *const keys[] = {"after", "follow", "timeout", "targets", "retries", "priority"};
    mh__json got[MH__COUNT_OF(keys)] = {{0}};
    mh_sched_dependency *after = NULL, *follow = NULL;
    mh_sched_worker *targets = NULL;
    /* as stock: an engine that failed a task is not given it again while there is, or with a timeout may come, another */
    mh_sched_submit_options o = {.tag = (uint64_t)(uintptr_t)r, .elsewhere = c->options.policy != MH_SCHED_PURE};
    bool ok = !metadata.size || mh__json_pick(metadata, keys, MH__COUNT_OF(keys), got) == MH_OK ||
              refuse(why, "ValueError", "the metadata are no JSON object");
    ok = ok && take_numbers(got[2], got[4], got[5], &o, why) && take_dependencies(c, r->name.key, got[0], &o.after, &after, why) &&
         take_dependencies(c, r->name.key, got[1], &o.follow, &follow, why) && take_targets(c, got[3], &o, &targets, why);
    mh_sched_tick(c->sched, mh_now()); /* from now on its timeout counts, and not from what happened last */
    mh_err err = ok ? mh_sched_submit(c->sched, &o, &r->task) : MH_OK;
    if (err)
        ok = refuse(why, "InvalidDependency", mh_err_detail());
    mh__free(after);
    mh__free(follow);
    mh__free(targets);
    return ok;
}

void mh__tasks_restore(mh_controller *c, mh__job *r)
{
    refusal why;
    if (schedule(c, r, r->brief ? r->brief->metadata : mh__kept_metadata(&r->request), &why))
        return;
    answer(c, r, "error", mh__reply_error(c, why.ename, mh__text(why.evalue)));
    mh__job_answer(c, r, MH_SCHED_IMPOSSIBLE);
}

/* Whether a controller was told to abort it before it came. */
static bool begin(mh_controller *c, mh__job *r, bool wants_ack, mh_bytes client)
{
    if (mh__aborts_take(c, r->name.key)) {
        answer_outcome(c, r, MH_SCHED_CANCELLED);
        mh__job_answer(c, r, MH_SCHED_CANCELLED);
        return false;
    }
    if (wants_ack)
        mh__durable_confirm(c, MH__CH_TASK_IN, client, r);
    mh__tasks_restore(c, r);
    return true;
}

/* The same id with the same content is the same task: its client may not know that it came. */
static void submit_again(mh_controller *c, mh__parcel *p, const mh__incoming *in)
{
    mh__job *r = mh__job_find(c, in->header.msg_id);
    size_t count = mh__parcel_count(p) - in->at;
    bool is_same = r && r->is_task && in->wants_ack && mh__job_see(c, r) && mh__parcel_count(r->request.parcel) - r->request.at == count;
    for (size_t i = 5; i < count && is_same; i++) /* content and buffers: date and signature may be new */
        is_same = mh__bytes_equal(mh__parcel_frames(p)[in->at + i], mh__kept_frame(&r->request, i));
    if (!is_same) {
        mh__log(c, MH_LOG_WARNING, "task dropped: its id %.*s is another's", (int)in->header.msg_id.size, (const char *)in->header.msg_id.data);
        c->stats.dropped++;
        return;
    }
    mh__durable_confirm(c, MH__CH_TASK_IN, mh__parcel_frames(p)[0], r);
    if (r->is_ended && mh__job_build_answer(c, r))
        mh__durable_send(c, MH__CH_TASK_IN, c->out);
}

void mh__tasks_submit(mh_controller *c, mh__parcel *p, const mh__incoming *in)
{
    mh__job *r = NULL;
    mh_err err = mh__job_create(c, &r, p, in->at, in->header.msg_id, true);
    if (err == MH_ERR_EXISTS) {
        submit_again(c, p, in);
        return;
    }
    if (err) {
        mh__log(c, MH_LOG_WARNING, "task dropped: %s", mh_err_detail());
        return;
    }
    begin(c, r, in->wants_ack, mh__parcel_frames(r->request.parcel)[0]);
}

bool mh__tasks_take_brief(mh_controller *c, const mh__fast_task *t, mh_bytes client, mh_bytes user)
{
    static const char *const keys[] = {"x_ack"};
    char id[MH__BRIEF_ID_SIZE];
    const char *why;
    mh__json got[1] = {{0}};
    mh__job *r = NULL;
    size_t bytes = 0;
    bool wants_ack = false, is_plain;
    mh__fast_task with = *t;
    with.who = client;
    with.user = user;
    if (mh__durable_is_full(c, &why) || mh__brief_is_plain(t->metadata, &is_plain) ||
        (t->metadata.size && mh__json_pick(t->metadata, keys, 1, got)))
        return false;
    mh__json_bool(got[0], &wants_ack);
    mh__fast_task *kept = mh__brief_copy(&with, &bytes);
    mh_err err = kept ? mh__job_create_brief(c, &r, kept, bytes, (mh_bytes){id, mh__brief_id(client, t->number, id)}) : MH_ERR_NO_MEMORY;
    if (err) {
        mh__free(kept);
        return false;
    }
    c->stats.messages++;
    r->is_plain = is_plain;
    begin(c, r, wants_ack, kept->who);
    return true;
}

/* No room to write it down: better no task than one that may be forgotten. */
static void refuse_full(mh_controller *c, const mh__incoming *in, const char *why)
{
    const char *type = mh__bytes_are(in->header.msg_type, "execute_request") ? "execute_reply" : "apply_reply";
    mh_bytes content = mh__reply_error(c, "OSError", mh__text(why));
    mh__reply_send(c, MH__CH_TASK_IN, in->m.idents, 1, &(mh__draft){.type = type, .parent = in->m.header, .content = content,
                                                                     .metadata = MH__TEXT("{\"status\":\"error\"}")});
}

void mh__tasks_on_request(mh__socket *s, mh__parcel *p, void *ctx)
{
    (void)s;
    mh_controller *c = ctx;
    mh__incoming in;
    if (mh__controller_admit(c, MH__CH_TASK_IN, p, &in) && in.at == 1)
        mh__tasks_take_request(c, p, &in);
}

void mh__tasks_take_request(mh_controller *c, mh__parcel *p, const mh__incoming *in)
{
    const char *why;
    if (mh__durable_is_full(c, &why))
        refuse_full(c, in, why);
    else
        mh__tasks_submit(c, p, in);
}

void mh__tasks_abort(mh_controller *c, mh__json msg_ids)
{
    mh__json_walk w = mh__json_walk_of(msg_ids);
    for (mh__json key, id; mh__json_next(&w, &key, &id);) {
        mh_bytes name;
        if (!mh__json_plain(id, &name))
            continue;
        mh__job *r = mh__job_find(c, name);
        if (!r && mh__job_outcome(c, name, &(mh_sched_worker){0}) == MH_SCHED_UNKNOWN)
            mh__aborts_note(c, name);
        if (r && r->is_task && !r->is_ended && !r->engine)
            (void)!mh_sched_cancel(c->sched, r->task);
    }
}

/* ---- results --------------------------------------------------------------------------------- */

void mh__token_write(uint64_t token, char text[MH__TOKEN_SIZE + 1])
{
    snprintf(text, MH__TOKEN_SIZE + 1, "%016llx", (unsigned long long)token);
}

bool mh__token_read(mh_bytes text, uint64_t *token)
{
    uint64_t value = 0;
    if (text.size != MH__TOKEN_SIZE)
        return false;
    for (size_t i = 0; i < MH__TOKEN_SIZE; i++) {
        char ch = ((const char *)text.data)[i];
        int digit = ch >= '0' && ch <= '9' ? ch - '0' : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
        if (digit < 0)
            return false;
        value = value << 4 | (uint64_t)digit;
    }
    *token = value;
    return true;
}

/* Whether it comes from the present attempt. One whose engine gives no token back is known by its engine alone. */
static bool is_present(const mh__job *r, const mh__incoming *in)
{
    uint64_t token;
    return in->at < 3 || (mh__token_read(in->m.idents[2], &token) && token == r->token);
}

void mh__tasks_on_result(mh__socket *s, mh__parcel *p, void *ctx)
{
    (void)s;
    mh_controller *c = ctx;
    mh__incoming in;
    if (mh__controller_admit(c, MH__CH_TASK_OUT, p, &in) && !mh__holds_take(c, MH__CH_TASK_OUT, &in))
        mh__tasks_take_result(c, p, &in, 0);
}

void mh__tasks_take_result(mh_controller *c, mh__parcel *p, const mh__incoming *in, int64_t duration_ns)
{
    static const char *const keys[] = {"status", "dependencies_met"};
    mh__json got[2];
    mh_bytes parent;
    bool is_met = true;
    if (in->at < 2 || in->at > 3 || mh__parent_read(in->m.parent, &parent) || mh__json_pick(in->m.metadata, keys, 2, got))
        return;
    mh__engine *e = mh__engine_find(c, in->m.idents[0]);
    mh__job *r = mh__job_find(c, parent);
    if (!e || !r || !r->is_task || r->engine != e || !is_present(r, in)) {
        mh__log(c, MH_LOG_INFO, "a late or unknown result was dropped");
        c->stats.dropped++;
        c->stats.late++;
        return;
    }
    mh__json_bool(got[1], &is_met);
    bool is_aborted = mh__json_is(got[0], "aborted");
    mh_sched_outcome how = !is_met ? MH_SCHED_REFUSED : mh__json_is(got[0], "ok") ? MH_SCHED_OK : MH_SCHED_FAILED;
    mh_err err = mh__job_keep_result(c, r, p, in->at);
    if (!err && is_aborted)
        err = mh_sched_cancel(c->sched, r->task); /* not to be tried again */
    if (!err)
        err = mh_sched_result(c->sched, r->worker, r->task, r->epoch, how, duration_ns);
    if (err && err != MH_ERR_NOT_FOUND)
        mh__controller_fail(c, err);
    e->completed += is_met && !is_aborted;
    mh__job_at_engine(r, NULL);
}

void mh__tasks_take_brief_result(mh_controller *c, mh__job *r, mh__engine *e, const mh__fast_task *t)
{
    static const char *const keys[] = {"status"};
    mh__json got[1] = {{0}};
    size_t bytes = 0;
    bool is_ok = !t->what.size, is_met = !(t->flags & MH__FAST_NOT_MET);
    c->stats.messages++;
    if (!is_ok && mh__json_pick(t->what, keys, 1, got)) {
        c->stats.refused++;
        mh__log(c, MH_LOG_WARNING, "a result of the fast lane refused: %s", mh_err_detail());
        return;
    }
    bool is_aborted = mh__json_is(got[0], "aborted");
    mh_sched_outcome how = !is_met ? MH_SCHED_REFUSED : is_ok || mh__json_is(got[0], "ok") ? MH_SCHED_OK : MH_SCHED_FAILED;
    mh__fast_task *kept = mh__brief_copy(t, &bytes);
    mh_err err = kept ? MH_OK : MH_ERR_NO_MEMORY;
    if (!err) {
        mh__job_keep_brief(c, r, kept, bytes);
        err = is_aborted ? mh_sched_cancel(c->sched, r->task) : MH_OK; /* not to be tried again */
    }
    if (!err)
        err = mh_sched_result(c->sched, r->worker, r->task, r->epoch, how, t->duration_ns);
    if (err && err != MH_ERR_NOT_FOUND)
        mh__controller_fail(c, err);
    e->completed += is_met && !is_aborted;
    mh__job_at_engine(r, NULL);
}

void mh__tasks_revoked(mh_controller *c, mh__job *r, bool is_taken)
{
    if (mh_sched_revoked(c->sched, r->worker, r->task, r->epoch, is_taken) || !is_taken)
        return;
    mh__job_at_engine(r, NULL);
    c->unassigned_count += !r->is_unassigned;
    r->is_unassigned = true;
}

/* ---- actions --------------------------------------------------------------------------------- */

/* [engine, client, token, message...]: engines give identities back as they got them. */
static mh_err build_assignment(mh_controller *c, mh__job *r, const mh__engine *e)
{
    bool is_again = r->was_sent;
    r->was_sent = true;
    char token[MH__TOKEN_SIZE + 1];
    if (!mh__job_see(c, r))
        return MH_ERR_NO_MEMORY;
    const mh__parcel *request = r->request.parcel;
    mh__token_write(r->token, token);
    mh__parcel_clear(c->out);
    mh_err err = mh__parcel_add(c->out, e->name.key);
    if (!err)
        err = mh__parcel_share(c->out, request, 0, 1);
    if (!err)
        err = mh__parcel_add(c->out, (mh_bytes){token, MH__TOKEN_SIZE});
    if (!err && is_again)
        return mh__reply_add_again(c, &r->request, token);
    return err ? err : mh__parcel_share(c->out, request, r->request.at, mh__parcel_count(request) - r->request.at);
}

static void take_up(mh_controller *c, mh__job *r, mh__engine *e, mh_sched_worker worker, uint32_t epoch)
{
    r->worker = worker;
    r->epoch = epoch;
    c->unassigned_count -= r->is_unassigned;
    r->is_unassigned = false;
    mh__job_at_engine(r, e);
}

static void carry_out_assign(mh_controller *c, const mh_sched_action *a, mh__job *r)
{
    mh__engine *e = mh__engine_of_worker(c, a->worker);
    if (!e) {
        (void)!mh_sched_revoked(c->sched, a->worker, a->task, a->epoch, true);
        return;
    }
    take_up(c, r, e, a->worker, a->epoch);
    r->token = (uint64_t)c->generation << 32 | (uint32_t)++c->last_attempt;
    mh__job_forget_result(c, r);
    mh__durable_place(c, r);
    if (r->brief && mh__fast_assign(c, r, e))
        return;
    mh_err err = build_assignment(c, r, e);
    if (err) {
        mh__controller_fail(c, err);
        return;
    }
    mh__outbox_send(c, MH__CH_TASK_OUT, c->out);
}

void mh__tasks_adopt(mh_controller *c, mh__job *r, mh__engine *e)
{
    uint32_t epoch;
    if (mh_sched_adopt(c->sched, e->worker, r->task, &epoch))
        return; /* it waits for others: then no engine can have it */
    take_up(c, r, e, e->worker, epoch);
    r->is_adopted = true;
}

void mh__tasks_give_back(mh_controller *c, mh__job *r)
{
    r->is_adopted = false;
    mh__job_at_engine(r, NULL);
    r->is_unassigned = true;
    c->unassigned_count++;
    (void)!mh_sched_revoked(c->sched, r->worker, r->task, r->epoch, true);
}

static void carry_out_done(mh_controller *c, const mh_sched_action *a, mh__job *r)
{
    if (!mh__job_has_result(r) || (a->outcome != MH_SCHED_OK && a->outcome != MH_SCHED_FAILED))
        answer_outcome(c, r, a->outcome);
    mh__job_answer(c, r, a->outcome);
}

void mh__tasks_run(mh_controller *c)
{
    mh_sched_action todo[ACTIONS];
    mh_sched_tick(c->sched, mh_now());
    for (size_t n; (n = mh_sched_actions(c->sched, todo, ACTIONS)) > 0;)
        for (size_t i = 0; i < n; i++) {
            mh__job *r = (mh__job *)(uintptr_t)todo[i].tag;
            if (todo[i].kind == MH_SCHED_ASSIGN)
                carry_out_assign(c, &todo[i], r);
            else if (todo[i].kind == MH_SCHED_DONE)
                carry_out_done(c, &todo[i], r);
            else if (todo[i].kind == MH_SCHED_REVOKE && !mh__fast_revoke(c, r)) /* a stock engine can't give a task back */
                (void)!mh_sched_revoked(c->sched, todo[i].worker, todo[i].task, todo[i].epoch, false);
        }
    int64_t wake = mh_sched_wake_at(c->sched);
    if (wake == INT64_MAX)
        mh__alarm_clear(c->loop, &c->sched_alarm);
    else if (!c->sched_alarm.is_set || c->sched_alarm.at != wake)
        mh__alarm_set(c->loop, &c->sched_alarm, wake);
}

void mh__tasks_wake(void *c) { (void)c; /* the round that follows does it */ }
