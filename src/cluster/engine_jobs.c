/* What an engine does with requests: they wait in order, one runs at a time, some are aborted; control requests are answered at once. */
#include "cluster/engine_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "net/seal.h"
#include "os/clock.h"
#include "os/signals.h"

#include <signal.h>
#include <string.h>

enum { LAST_BYTES_MAX = 64 << 10 }; /* of a request that is kept after its end */

/* ---- jobs ------------------------------------------------------------------------------------ */

static void free_job(mh__waiting_request **job)
{
    if (*job) {
        mh__parcel_destroy(&(*job)->parcel);
        mh__free((*job)->brief);
    }
    mh__free(*job);
    *job = NULL;
}

void mh__at_engine_drop_jobs(mh_engine *e)
{
    while (!mh__list_is_empty(&e->queue)) {
        mh__waiting_request *job = mh__list_entry(mh__list_pop_front(&e->queue), mh__waiting_request, link);
        free_job(&job);
    }
    while (!mh__list_is_empty(&e->ahead)) {
        mh__waiting_request *job = mh__list_entry(mh__list_pop_front(&e->ahead), mh__waiting_request, link);
        free_job(&job);
    }
    e->ahead_count = 0;
    free_job(&e->running);
    free_job(&e->last);
}

/* Shape, then who wrote it, then what it says. */
static mh_err read_message(const mh_engine *e, const mh__parcel *p, mh__message *m, mh__header *h)
{
    mh_err err = mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), m);
    if (!err)
        err = mh__message_verify(m, &e->session.signer);
    if (!err)
        err = mh__seal_check(&e->session, m);
    if (!err)
        err = mh__header_read(m->header, h);
    return err;
}

/* One that is not valid. Without memory for it the engine ends: who sent it would wait for ever, and an end is noticed. */
static void drop(mh_engine *e, mh_err err)
{
    e->dropped++;
    mh__at_engine_log(e, "a message was dropped (%llu in all): %s", (unsigned long long)e->dropped, mh_err_detail());
    if (err == MH_ERR_NO_MEMORY)
        mh__at_engine_end(e, err);
}

static mh__request_kind kind_of(mh_bytes type)
{
    if (mh__bytes_are(type, "apply_request"))
        return MH__REQUEST_APPLY;
    if (mh__bytes_are(type, "execute_request"))
        return MH__REQUEST_EXECUTE;
    if (mh__bytes_are(type, "call_request"))
        return MH__REQUEST_CALL;
    return MH__REQUEST_OTHER;
}

/* Calls of our clients, which know what a reply says of output; or of native functions, which print nothing. */
static bool asks_for_quiet(const mh__waiting_request *job)
{
    static const char *const keys[] = {"x_quiet"};
    mh__json said;
    bool is_quiet = false;
    bool may_be = (job->kind == MH__REQUEST_APPLY || job->kind == MH__REQUEST_CALL) && job->message.metadata.size > 2;
    return may_be && !mh__json_pick(job->message.metadata, keys, 1, &said) && mh__json_bool(said, &is_quiet) && is_quiet;
}

/* From s; NULL: the fast lane, where who wrote it was verified already. */
static mh_err make_job(mh_engine *e, mh__socket *s, mh__parcel *p, mh__waiting_request **out)
{
    mh__waiting_request *job = mh__calloc(1, sizeof *job);
    mh_err err = job ? mh__parcel_create(&job->parcel) : MH_ERR_NO_MEMORY;
    if (!err) {
        mh__parcel_move(job->parcel, p);
        err = s ? read_message(e, job->parcel, &job->message, &job->header)
                : mh__message_split(mh__parcel_frames(job->parcel), mh__parcel_count(job->parcel), &job->message);
        if (!err && !s)
            err = mh__header_read(job->message.header, &job->header);
    }
    if (err) {
        free_job(&job);
        return err;
    }
    job->kind = kind_of(job->header.msg_type);
    job->bytes = mh__parcel_bytes(job->parcel);
    job->from = s ? s : e->shell;
    job->is_fast = !s;
    job->is_quiet = asks_for_quiet(job);
    *out = job;
    return MH_OK;
}

static void write_token(uint64_t token, char *to)
{
    for (int i = 0; i < 16; i++)
        to[i] = "0123456789abcdef"[token >> (60 - 4 * i) & 15];
}

static mh_err make_brief_job(mh_engine *e, const mh__fast_task *t, mh__waiting_request **out)
{
    mh__waiting_request *job = mh__calloc(1, sizeof *job);
    if (!job || !(job->brief = mh__brief_copy(t, &job->bytes))) {
        mh__free(job);
        return MH_ERR_NO_MEMORY;
    }
    bool is_call = t->flags & MH__FAST_CALL;
    size_t id = mh__brief_id(job->brief->who, t->number, job->text);
    write_token(t->token, job->text + id);
    job->idents[0] = MH__TEXT("task_out");
    job->idents[1] = job->brief->who;
    job->idents[2] = (mh_bytes){job->text + id, 16};
    job->message = (mh__message){.idents = job->idents, .ident_count = 3, .buffers = job->brief->buffers, .buffer_count = job->brief->buffer_count};
    job->header = (mh__header){.msg_id = {job->text, id}, .msg_type = is_call ? MH__TEXT("call_request") : MH__TEXT("apply_request"),
                               .session = job->brief->who, .username = job->brief->user};
    job->kind = is_call ? MH__REQUEST_CALL : MH__REQUEST_APPLY;
    job->from = e->shell;
    job->is_fast = true;
    job->is_quiet = t->flags & MH__FAST_QUIET;
    *out = job;
    return MH_OK;
}

mh_err mh__at_engine_see(mh__waiting_request *job)
{
    mh__parcel *p = NULL;
    if (job->parcel || !job->brief)
        return MH_OK;
    mh_err err = mh__parcel_create(&p);
    for (size_t i = 0; i < 3 && !err; i++)
        err = mh__parcel_add(p, job->idents[i]);
    if (!err)
        err = mh__brief_add_request(p, job->brief, job->brief->who, job->brief->user);
    if (!err)
        err = mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &job->message);
    if (err)
        mh__parcel_destroy(&p);
    job->parcel = p;
    return err;
}

/* In its turn, or ahead of everything that waits. */
static void enqueue(mh_engine *e, mh__waiting_request *job, bool is_first)
{
    if (is_first)
        mh__list_push_front(&e->queue, &job->link);
    else
        mh__list_push_back(&e->queue, &job->link);
    e->queue_count++;
    e->queue_bytes += job->bytes;
}

static void dequeue(mh_engine *e, mh__waiting_request *job)
{
    mh__list_remove(&job->link);
    e->queue_count--;
    e->queue_bytes -= job->bytes;
}

/* What waits here is bounded; the rest waits where it came from. */
static void hold_back(mh_engine *e)
{
    bool is_full = e->queue_count >= MH__AT_ENGINE_QUEUE_COUNT_MAX || e->queue_bytes >= MH__AT_ENGINE_QUEUE_BYTES_MAX;
    mh__socket_pause(e->shell, is_full);
}

static void publish_status(mh_engine *e, mh__waiting_request *job, const char *state)
{
    if (!job->is_quiet && !mh__at_engine_see(job))
        mh__at_engine_publish_status(e, job->message.header, state);
}

/* ---- aborting -------------------------------------------------------------------------------- */

static void abort_job(mh_engine *e, mh__waiting_request *job)
{
    mh__at_engine_reply(e, job, &(mh__answer){.content = MH__TEXT("{\"status\":\"aborted\"}"), .is_met = true});
    publish_status(e, job, "idle");
    free_job(&job);
}

static bool take_aborted(mh_engine *e, mh_bytes id)
{
    for (size_t i = 0; i < e->aborted_count; i++) {
        mh__aborted_id *a = &e->aborted[i];
        if (a->size == id.size && !memcmp(a->text, id.data, id.size)) {
            *a = e->aborted[--e->aborted_count];
            return true;
        }
    }
    return false;
}

/* Of those that have not come yet; the oldest give way. */
static mh_err note_aborted(mh_engine *e, mh_bytes id)
{
    if (!e->aborted && !(e->aborted = mh__calloc(MH__AT_ENGINE_ABORTED_MAX, sizeof *e->aborted)))
        return MH_ERR_NO_MEMORY;
    size_t at = e->aborted_count < MH__AT_ENGINE_ABORTED_MAX ? e->aborted_count++ : e->aborted_next++ % MH__AT_ENGINE_ABORTED_MAX;
    e->aborted[at].size = id.size;
    memcpy(e->aborted[at].text, id.data, id.size);
    return MH_OK;
}

/* An attempt that is over for the controller, as [id, token]: the request may be here again under another token. */
static bool is_attempt(const mh__waiting_request *job, mh_bytes id, mh_bytes token)
{
    return mh__bytes_equal(job->header.msg_id, id) && job->message.ident_count == 3 && mh__bytes_equal(job->message.idents[2], token);
}

/* A request (token NULL: any attempt of it) that the executor has, and has not begun. *is_there: it has it, and keeps it. */
static mh__waiting_request *take_from_executor(mh_engine *e, mh_bytes id, const mh_bytes *token, bool *is_there)
{
    size_t nth = 1; /* before them is the running one */
    for (mh__list *node = e->ahead.next; node != &e->ahead; node = node->next, nth++) {
        mh__waiting_request *job = mh__list_entry(node, mh__waiting_request, link);
        if (token ? !is_attempt(job, id, *token) : !mh__bytes_equal(job->header.msg_id, id))
            continue;
        *is_there = !mh__executor_take_back(e->executor, nth);
        if (*is_there)
            return NULL;
        mh__list_remove(&job->link);
        e->ahead_count--;
        return job;
    }
    return NULL;
}

static mh_err abort_id(mh_engine *e, mh_bytes id)
{
    if (e->running && mh__bytes_equal(e->running->header.msg_id, id))
        return MH_OK; /* it runs: an interrupt is a signal, not an abort */
    bool is_taken = false;
    mh__waiting_request *ahead = take_from_executor(e, id, NULL, &is_taken);
    if (ahead)
        abort_job(e, ahead);
    if (ahead || is_taken)
        return MH_OK;
    for (mh__list *node = e->queue.next; node != &e->queue; node = node->next) {
        mh__waiting_request *job = mh__list_entry(node, mh__waiting_request, link);
        if (mh__bytes_equal(job->header.msg_id, id)) {
            dequeue(e, job);
            abort_job(e, job);
            return MH_OK;
        }
    }
    return id.size <= MH__WIRE_ID_MAX ? note_aborted(e, id) : mh__fail(MH_ERR_INVALID, "a msg_id of %zu bytes", id.size);
}

static mh_err abort_all(mh_engine *e)
{
    size_t nth = 1;
    for (mh__list *node = e->ahead.next, *after; node != &e->ahead; node = after) {
        mh__waiting_request *job = mh__list_entry(node, mh__waiting_request, link);
        after = node->next;
        if (!mh__executor_take_back(e->executor, nth)) {
            nth++;
            continue;
        }
        mh__list_remove(&job->link);
        e->ahead_count--;
        abort_job(e, job);
    }
    while (!mh__list_is_empty(&e->queue)) {
        mh__waiting_request *job = mh__list_entry(e->queue.next, mh__waiting_request, link);
        dequeue(e, job);
        abort_job(e, job);
    }
    return MH_OK;
}

static mh_err abort_ids(mh_engine *e, mh__json ids)
{
    mh_bytes id;
    mh__json key, value;
    mh_err err = MH_OK;
    if (mh__json_plain(ids, &id))
        return abort_id(e, id);
    if (mh__json_kind_of(ids) == MH__JSON_ABSENT || mh__json_kind_of(ids) == MH__JSON_NULL)
        return abort_all(e);
    if (mh__json_kind_of(ids) != MH__JSON_ARRAY)
        return mh__fail(MH_ERR_INVALID, "msg_ids is to be a list of message ids");
    for (mh__json_walk w = mh__json_walk_of(ids); !err && mh__json_next(&w, &key, &value);)
        err = mh__json_plain(value, &id) ? abort_id(e, id) : mh__fail(MH_ERR_INVALID, "msg_ids holds something else than a message id");
    return err;
}

void mh__at_engine_abort_attempt(mh_engine *e, mh_bytes id, mh_bytes token)
{
    for (mh__list *node = e->queue.next; node != &e->queue; node = node->next) {
        mh__waiting_request *job = mh__list_entry(node, mh__waiting_request, link);
        if (is_attempt(job, id, token)) {
            dequeue(e, job);
            free_job(&job);
            return;
        }
    }
    bool is_there = false;
    mh__waiting_request *ahead = take_from_executor(e, id, &token, &is_there);
    free_job(&ahead);
}

/* ---- running --------------------------------------------------------------------------------- */

/* A request that has ended, and is not needed any more but as the parent of output that comes late. */
static void remember(mh_engine *e, mh__waiting_request *job)
{
    mh_buf *copy = NULL;
    if (!job->parcel && job->brief && job->bytes <= LAST_BYTES_MAX && job->kind != MH__REQUEST_CALL) {
        free_job(&e->last);
        e->last = job;
        return;
    }
    if (job->kind != MH__REQUEST_CALL && !mh__at_engine_see(job) && !mh_buf_copy(&copy, job->message.header)) { /* else late output has an older parent */
        mh_buf_destroy(&e->last_header);
        e->last_header = copy;
        free_job(&e->last);
    }
    free_job(&job);
}

/* It is its turn. NULL: nobody's. */
static void be_running(mh_engine *e, mh__waiting_request *job)
{
    e->running = job;
    if (!job)
        return;
    job->started_ns = mh__os_wall_ns();
    publish_status(e, job, "busy");
}

static mh_err give_to_executor(mh_engine *e, mh__waiting_request *job)
{
    job->given_ns = mh_now();
    if (e->running) {
        mh__list_push_back(&e->ahead, &job->link);
        e->ahead_count++;
    } else {
        be_running(e, job);
    }
    char content[MH__BRIEF_CONTENT_SIZE];
    mh__request r = {.kind = job->kind, .type = job->header.msg_type, .msg_id = job->header.msg_id, .content = job->message.content,
                     .buffers = job->message.buffers, .buffer_count = job->message.buffer_count};
    if (job->brief && job->kind == MH__REQUEST_CALL) {
        r.function = job->brief->what;
        r.content = (mh_bytes){content, mh__brief_content(r.function, content)};
    }
    return mh__executor_run(e->executor, &r);
}

/* Calls only go ahead of their turn: what else there is may be stopped by what runs before it. */
static bool may_begin(mh_engine *e, const mh__waiting_request *job)
{
    if (!e->running)
        return true;
    return job->kind == e->running->kind && (job->kind == MH__REQUEST_APPLY || job->kind == MH__REQUEST_CALL) &&
           1 + e->ahead_count < mh__executor_window(e->executor);
}

void mh__at_engine_next(mh_engine *e)
{
    if (e->is_starting)
        return; /* an executor that refuses answers at once: the loop below goes on, and the stack does not grow */
    e->is_starting = true;
    while (e->is_executor_ready && !mh__list_is_empty(&e->queue) && !e->must_stop) {
        mh__waiting_request *job = mh__list_entry(e->queue.next, mh__waiting_request, link);
        if (!may_begin(e, job))
            break;
        dequeue(e, job);
        mh_err err = give_to_executor(e, job);
        if (err) {
            mh__at_engine_log(e, "the executor takes no request: %s", mh_err_detail());
            mh__at_engine_end(e, MH_ERR_WORKER_LOST);
        }
    }
    e->is_starting = false;
    hold_back(e);
}

/* Large buffers came by the fast lane, before the message. */
static mh_err claim(mh_engine *e, mh__waiting_request *job)
{
    mh_err err = mh__lents_claim(e->lents, e->lane, job->message.metadata, job->parcel, job->message.ident_count + MH__FRAMES_SIGNED);
    job->bytes = mh__parcel_bytes(job->parcel);
    return err;
}

static void refuse_job(mh_engine *e, mh__waiting_request *job)
{
    mh_buf *content = NULL;
    mh__at_engine_log(e, "a request can't be run: %s", mh_err_detail());
    mh_err err = mh_buf_create(&content, 0);
    if (!err)
        err = mh__answer_write_error(content, "EngineError", mh__text(mh_err_detail()));
    if (!err) {
        mh__at_engine_reply(e, job, &(mh__answer){.content = {mh_buf_data(content), mh_buf_size(content)}, .is_met = true});
        publish_status(e, job, "idle");
    }
    mh_buf_destroy(&content);
    free_job(&job);
}

void mh__at_engine_on_request(mh__socket *s, mh__parcel *p, void *ctx)
{
    mh_engine *e = ctx;
    mh__waiting_request *job = NULL;
    mh_err err = make_job(e, s, p, &job);
    if (err) {
        drop(e, err);
        return;
    }
    if (mh__at_engine_answer_holds(e, job)) {
        free_job(&job);
        return;
    }
    if (mh__lent_is_named(job->message.metadata) && claim(e, job)) {
        refuse_job(e, job);
        return;
    }
    if (e->verbose)
        mh__at_engine_log(e, "%.*s %.*s", (int)job->header.msg_type.size, (const char *)job->header.msg_type.data, (int)job->header.msg_id.size,
                       (const char *)job->header.msg_id.data);
    if (take_aborted(e, job->header.msg_id)) { /* its abort was faster, by another channel */
        abort_job(e, job);
        return;
    }
    enqueue(e, job, false);
    mh__at_engine_next(e);
}

void mh__at_engine_take_fast(mh_engine *e, mh__parcel *p, bool is_quiet)
{
    mh__waiting_request *job = NULL;
    mh_err err = make_job(e, NULL, p, &job);
    if (err) {
        drop(e, err);
        return;
    }
    job->is_quiet |= is_quiet && job->kind == MH__REQUEST_CALL;
    if (e->aborted_count && take_aborted(e, job->header.msg_id)) {
        abort_job(e, job);
        return;
    }
    enqueue(e, job, false);
    mh__at_engine_next(e);
}

void mh__at_engine_take_brief(mh_engine *e, const mh__fast_task *t)
{
    mh__waiting_request *job = NULL;
    if (make_brief_job(e, t, &job)) {
        mh__at_engine_end(e, MH_ERR_NO_MEMORY);
        return;
    }
    if (e->aborted_count && take_aborted(e, job->header.msg_id)) {
        abort_job(e, job);
        return;
    }
    enqueue(e, job, false);
    mh__at_engine_next(e);
}

bool mh__at_engine_give_back(mh_engine *e, mh_bytes id)
{
    for (mh__list *node = e->queue.prev; node != &e->queue; node = node->prev) { /* the youngest are asked for */
        mh__waiting_request *job = mh__list_entry(node, mh__waiting_request, link);
        if (mh__bytes_equal(job->header.msg_id, id)) {
            dequeue(e, job);
            free_job(&job);
            return true;
        }
    }
    bool is_there = false;
    mh__waiting_request *ahead = take_from_executor(e, id, NULL, &is_there);
    bool is_back = ahead != NULL;
    free_job(&ahead);
    return is_back;
}

/* ---- what the executor says ------------------------------------------------------------------ */

static void on_ready(void *ctx)
{
    mh_engine *e = ctx;
    e->is_executor_ready = true;
    mh__at_engine_register(e);
}

/* Whether what waits behind this request is not to run: cells that were sent together end with the first that fails. */
static bool stops_others(const mh__waiting_request *job, const mh__answer *a)
{
    const char *const asked_keys[] = {"silent", "stop_on_error"}, *const said_keys[] = {"status"};
    mh__json asked[2], said[1];
    bool is_silent = false, stops = true;
    if (job->kind != MH__REQUEST_EXECUTE || mh__json_pick(a->content, said_keys, 1, said) || !mh__json_is(said[0], "error") ||
        mh__json_pick(job->message.content, asked_keys, 2, asked))
        return false;
    mh__json_bool(asked[0], &is_silent);
    mh__json_bool(asked[1], &stops);
    return stops && !is_silent;
}

/* The cells of this session that wait now. Those of others, and everything else, have nothing to do with it. */
static void abort_cells(mh_engine *e, mh_bytes session)
{
    for (mh__list *node = e->queue.next, *after; node != &e->queue; node = after) {
        mh__waiting_request *job = mh__list_entry(node, mh__waiting_request, link);
        after = node->next;
        if (job->kind != MH__REQUEST_EXECUTE || !mh__bytes_equal(job->header.session, session))
            continue;
        dequeue(e, job);
        abort_job(e, job);
    }
}

static void on_answer(void *ctx, const mh__answer *a)
{
    mh_engine *e = ctx;
    mh__waiting_request *job = e->running;
    if (!job) {
        mh__at_engine_log(e, "the executor answered what nobody asked");
        mh__at_engine_end(e, MH_ERR_WORKER_LOST);
        return;
    }
    mh__at_engine_reply(e, job, a);
    publish_status(e, job, "idle");
    e->answered_ns = mh_now();
    mh__list *next = mh__list_pop_front(&e->ahead);
    e->ahead_count -= next != NULL;
    be_running(e, next ? mh__list_entry(next, mh__waiting_request, link) : NULL);
    if (stops_others(job, a))
        abort_cells(e, job->header.session);
    remember(e, job);
    mh__at_engine_next(e);
}

static void on_output(void *ctx, const mh__output *o)
{
    mh_engine *e = ctx;
    mh__waiting_request *by = e->running ? e->running : e->last;
    if (by && mh__at_engine_see(by))
        return; /* no memory for its header */
    mh_bytes parent = by ? by->message.header : (mh_bytes){0};
    if (e->running && e->running->is_quiet) {
        e->running->is_quiet = false;
        publish_status(e, e->running, "busy");
    }
    if (!by && e->last_header)
        parent = (mh_bytes){mh_buf_data(e->last_header), mh_buf_size(e->last_header)};
    mh__at_engine_publish(e, parent, o);
}

static void on_end(void *ctx, const char *why)
{
    mh_engine *e = ctx;
    mh__at_engine_log(e, "%s", why);
    mh__at_engine_end(e, MH_ERR_WORKER_LOST);
}

mh__executor_events mh__at_engine_events(mh_engine *e) { return (mh__executor_events){on_ready, on_answer, on_output, on_end, e}; }

/* ---- control --------------------------------------------------------------------------------- */

static mh_err on_abort(mh_engine *e, const mh__message *m)
{
    const char *const keys[] = {"msg_ids"};
    mh__json ids;
    mh_err err = mh__json_pick(m->content, keys, 1, &ids);
    return err ? err : abort_ids(e, ids);
}

static mh_err on_signal(mh_engine *e, const mh__message *m)
{
    const char *const keys[] = {"sig"};
    mh__json said;
    mh_bytes name;
    int64_t number;
    mh_err err = mh__json_pick(m->content, keys, 1, &said);
    if (err)
        return err;
    if (mh__json_plain(said, &name))
        number = mh__os_signal_number(name) ? mh__os_signal_number(name) : -1;
    else if (!mh__json_int(said, &number))
        number = -1;
    if (number < 0 || number > 64)
        return mh__fail(MH_ERR_INVALID, "\"sig\" is no signal: give its number or its name, such as \"SIGINT\"");
    return number ? mh__executor_signal(e->executor, (int)number) : MH_OK; /* 0 asks only whether it lives */
}

static mh_err on_shutdown(mh_engine *e, const mh__message *m)
{
    (void)m;
    mh__at_engine_log(e, "a client asked for shutdown");
    mh__at_engine_end(e, MH_OK);
    return MH_OK;
}

static mh_err on_interrupt(mh_engine *e, const mh__message *m)
{
    (void)m;
    return mh__executor_signal(e->executor, SIGINT);
}

static const struct control {
    const char *request, *reply;
    mh_err (*act)(mh_engine *e, const mh__message *m);
    const char *content;
} controls[] = {
    {"abort_request", "abort_reply", on_abort, "{\"status\":\"ok\"}"},
    {"signal_request", "signal_reply", on_signal, "{\"status\":\"ok\"}"},
    {"shutdown_request", "shutdown_reply", on_shutdown, "{\"status\":\"ok\",\"restart\":false}"},
    {"interrupt_request", "interrupt_reply", on_interrupt, "{\"status\":\"ok\"}"},
};

static void answer_control(mh_engine *e, mh__socket *s, const mh__parcel *p, const mh__message *m, const struct control *c)
{
    mh_buf *content = NULL;
    mh_err err = c->act(e, m), failed = mh_buf_create(&content, 0);
    if (!failed)
        failed = err ? mh__answer_write_error(content, mh_err_python(err), mh__text(mh_err_detail())) : mh_buf_append(content, mh__text(c->content));
    if (!failed)
        mh__at_engine_reply_control(e, s, p, m, c->reply, (mh_bytes){mh_buf_data(content), mh_buf_size(content)});
    mh_buf_destroy(&content);
}

/* What needs the executor waits for it, ahead of everything else. */
static void queue_first(mh_engine *e, mh__socket *s, mh__parcel *p)
{
    mh__waiting_request *job = NULL;
    mh_err err = make_job(e, s, p, &job);
    if (err) {
        drop(e, err);
        return;
    }
    enqueue(e, job, true);
    mh__at_engine_next(e);
}

void mh__at_engine_on_control(mh__socket *s, mh__parcel *p, void *ctx)
{
    mh_engine *e = ctx;
    mh__message m;
    mh__header h;
    if (read_message(e, p, &m, &h)) {
        drop(e, MH_ERR_CORRUPT);
        return;
    }
    for (size_t i = 0; i < sizeof controls / sizeof controls[0]; i++) {
        if (mh__bytes_are(h.msg_type, controls[i].request)) {
            answer_control(e, s, p, &m, &controls[i]);
            return;
        }
    }
    queue_first(e, s, p);
}
