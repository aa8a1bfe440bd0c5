/* What the controller writes down, and what waits until it is written. A client is told a result when the result is written, so that no
 * client knows what a controller after this one does not; and that a request is accepted, for those who ask, when it is on the disk. Engines
 * get their work at once: what was begun and is then forgotten was accepted by nobody. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/clock.h"
#include "os/file.h"

#include <stdio.h>
#include <string.h>

#define NOISE_NS (100 * MH_MILLISECOND)
#define SETTLE_NS MH_SECOND
#define BACKLOG_HIGH ((size_t)256 << 20) /* bytes that are not written: beyond it nothing more is taken from peers, ... */
#define BACKLOG_LOW ((size_t)128 << 20)  /* ... until it is below this */
#define RESENT_NS (30 * MH_SECOND)
enum { CONFIRM_MAX = 1000 };

/* A message that waits until `ticket` is written. */
typedef struct unsaid {
    mh__list link;
    uint64_t ticket, order;
    mh__channel channel;
    mh__parcel *parcel;
} unsaid;

/* A client that waits until `ticket` is on the disk. */
typedef struct unconfirmed {
    mh__list link;
    uint64_t ticket;
    mh__channel channel;
    mh_bytes client, id; /* in text[] */
    char text[];
} unconfirmed;

static const mh__channel from_peers[] = {MH__CH_TASK_IN, MH__CH_MUX_IN, MH__CH_TASK_OUT, MH__CH_MUX_OUT};

/* ---- writing down ---------------------------------------------------------------------------- */

static void put(mh_controller *c, const mh__entry *e, const mh__parcel *message)
{
    mh_err err = mh__journal_put(c->journal, e, message, NULL);
    if (err)
        mh__controller_fail(c, err);
}

static bool is_large(const mh__parcel *p)
{
    size_t total = 0;
    for (size_t i = 0; i < mh__parcel_count(p); i++)
        if (!mh__entry_is_inline(mh__parcel_frames(p)[i].size, &total))
            return true;
    return false;
}

mh_err mh__durable_request(mh_controller *c, mh__job *r)
{
    if (!c->journal || c->is_loading)
        return MH_OK;
    mh__entry e = {.kind = MH__ENTRY_REQUEST, .seq = c->last_seq + 1, .how = r->is_task ? MH__ENTRY_IS_TASK : 0, .at = (uint32_t)r->request.at};
    mh_err err = mh__journal_put(c->journal, &e, r->request.parcel, &r->ticket);
    if (err)
        return err;
    r->seq = ++c->last_seq;
    r->has_pieces = is_large(r->request.parcel);
    return MH_OK;
}

void mh__durable_place(mh_controller *c, const mh__job *r)
{
    if (c->journal)
        put(c, &(mh__entry){.kind = MH__ENTRY_PLACE, .seq = r->seq, .order = ++c->last_place, .token = r->token, .name = mh__text(r->engine_uuid)}, NULL);
}

static void put_engines(mh_controller *c)
{
    (void)!mh_buf_resize(c->text, 0);
    mh__parcel *p = NULL;
    mh_err err = mh__place_write_engines(c, c->text);
    if (!err)
        err = mh__parcel_create(&p);
    if (!err)
        err = mh__parcel_add(p, (mh_bytes){mh_buf_data(c->text), mh_buf_size(c->text)});
    if (!err)
        err = mh__journal_put(c->journal, &(mh__entry){.kind = MH__ENTRY_ENGINES}, p, NULL);
    mh__parcel_destroy(&p);
    c->has_new_engines = false;
    if (err)
        mh__controller_fail(c, err);
}

static mh_bytes bytes_of(mh_buf *b) { return b ? (mh_bytes){mh_buf_data(b), mh_buf_size(b)} : (mh_bytes){NULL, 0}; }

static void put_noise(mh_controller *c, mh__job *r)
{
    const mh__output none = {0}, *o = r->output ? r->output : &none;
    const mh_bytes frames[] = {bytes_of(o->stdout_), bytes_of(o->stderr_), bytes_of(o->execute_input), bytes_of(o->execute_result),
                               bytes_of(o->display_data), bytes_of(o->error), r->resubmitted ? mh__text(r->resubmitted) : (mh_bytes){NULL, 0}};
    mh__parcel *p = NULL;
    mh_err err = mh__parcel_create(&p);
    for (size_t i = 0; i < MH__COUNT_OF(frames) && !err; i++)
        err = mh__parcel_add(p, frames[i]);
    if (!err) {
        put(c, &(mh__entry){.kind = MH__ENTRY_EXTRA, .seq = r->seq}, p);
        r->has_pieces |= is_large(p);
    }
    mh__parcel_destroy(&p);
    mh__list_remove(&r->noisy);
    if (err)
        mh__controller_fail(c, err);
}

void mh__durable_result(mh_controller *c, mh__job *r, mh_sched_outcome how)
{
    if (!c->journal || !mh__job_see(c, r))
        return;
    bool is_held = mh__outbox_is_held(c, r->is_task ? MH__CH_TASK_IN : MH__CH_MUX_IN, mh__parcel_frames(r->request.parcel)[0]);
    put(c, &(mh__entry){.kind = MH__ENTRY_RESULT, .seq = r->seq, .order = ++c->last_order, .time_ns = r->received_ns, .how = how,
                        .token = is_held ? MH__RESULT_HELD : 0,
                        .at = (uint32_t)r->result.at, .name = mh__text(r->engine_uuid)}, r->result.parcel);
    r->has_pieces |= r->result.parcel && is_large(r->result.parcel);
    if (!mh__list_is_empty(&r->noisy))
        put_noise(c, r);
}

void mh__durable_forget(mh_controller *c, const mh__job *r)
{
    if (!c->journal || !r->seq)
        return;
    mh__seen_note(c, mh__kept_frame(&r->request, 1));
    mh_err err = mh__journal_forget(c->journal, r->seq, r->has_pieces);
    if (err)
        mh__controller_fail(c, err);
}

void mh__durable_extra(mh_controller *c, mh__job *r)
{
    if (c->journal)
        put_noise(c, r);
}

void mh__durable_noise(mh_controller *c, mh__job *r)
{
    if (!c->journal || !mh__list_is_empty(&r->noisy))
        return;
    mh__list_push_back(&c->noisy, &r->noisy);
    if (!c->noisy_alarm.is_set)
        mh__alarm_set(c->loop, &c->noisy_alarm, mh_deadline_in(NOISE_NS));
}

static void write_noise(void *ctx)
{
    mh_controller *c = ctx;
    while (!mh__list_is_empty(&c->noisy))
        put_noise(c, mh__list_entry(c->noisy.next, mh__job, noisy));
}

/* ---- telling --------------------------------------------------------------------------------- */

static void say(mh_controller *c, mh__channel channel, mh__parcel *p, uint64_t order)
{
    mh__outbox_send(c, channel, p);
    c->sent_order = MH__MAX(c->sent_order, order);
    if (c->journal && !c->settle_alarm.is_set)
        mh__alarm_set(c->loop, &c->settle_alarm, mh_deadline_in(SETTLE_NS));
}

/* The number of the last thing that was put into the journal. */
static uint64_t last_ticket(const mh_controller *c) { return mh__journal_last(c->journal); }

void mh__durable_send(mh_controller *c, mh__channel channel, mh__parcel *p)
{
    if (!c->journal || (last_ticket(c) <= c->progress.written && mh__list_is_empty(&c->unsaid))) {
        say(c, channel, p, c->last_order);
        return;
    }
    unsaid *u = mh__calloc(1, sizeof *u);
    mh_err err = u ? mh__parcel_create(&u->parcel) : MH_ERR_NO_MEMORY;
    if (err) {
        mh__free(u);
        mh__controller_fail(c, err);
        return;
    }
    mh__parcel_move(u->parcel, p);
    u->ticket = last_ticket(c);
    u->order = c->last_order;
    u->channel = channel;
    c->unsaid_bytes += mh__parcel_bytes(u->parcel);
    mh__list_push_back(&c->unsaid, &u->link);
}

static void drop_first(mh_controller *c)
{
    unsaid *u = mh__list_entry(mh__list_pop_front(&c->unsaid), unsaid, link);
    c->unsaid_bytes -= mh__parcel_bytes(u->parcel);
    mh__parcel_destroy(&u->parcel);
    mh__free(u);
}

static void say_what_is_written(mh_controller *c)
{
    while (!mh__list_is_empty(&c->unsaid)) {
        unsaid *u = mh__list_entry(c->unsaid.next, unsaid, link);
        if (u->ticket > c->progress.written)
            return;
        c->unsaid_bytes -= mh__parcel_bytes(u->parcel);
        say(c, u->channel, u->parcel, u->order); /* empties it */
        mh__list_remove(&u->link);
        mh__parcel_destroy(&u->parcel);
        mh__free(u);
    }
}

/* Results that were sent a few seconds ago have arrived, unless some are held here: only those after them are sent again by a
 * controller that comes after this one. */
static void settle(void *ctx)
{
    mh_controller *c = ctx;
    enum { LAST = MH__COUNT_OF(c->sent_orders) - 1 };
    if (!c->held_bytes && c->sent_orders[LAST] > c->settled_order) {
        c->settled_order = c->sent_orders[LAST];
        put(c, &(mh__entry){.kind = MH__ENTRY_NOTE, .order = c->settled_order, .token = c->generation}, NULL);
    }
    memmove(c->sent_orders + 1, c->sent_orders, LAST * sizeof c->sent_orders[0]);
    c->sent_orders[0] = c->sent_order;
    if (c->settled_order < c->sent_order)
        mh__alarm_set(c->loop, &c->settle_alarm, mh_deadline_in(SETTLE_NS));
}

/* ---- confirming ------------------------------------------------------------------------------ */

void mh__durable_confirm(mh_controller *c, mh__channel channel, mh_bytes client, const mh__job *r)
{
    if (!client.size)
        return;
    unconfirmed *u = mh__calloc(1, sizeof *u + client.size + r->name.key.size);
    if (!u) {
        mh__controller_fail(c, MH_ERR_NO_MEMORY);
        return;
    }
    memcpy(u->text, client.data, client.size);
    memcpy(u->text + client.size, r->name.key.data, r->name.key.size);
    u->client = (mh_bytes){u->text, client.size};
    u->id = (mh_bytes){u->text + client.size, r->name.key.size};
    u->channel = channel;
    u->ticket = c->journal ? MH__MAX(r->ticket, c->progress.synced) : 0; /* in its place: what waits is in the order of tickets */
    mh__list_push_back(&c->unconfirmed, &u->link);
    if (c->journal)
        mh__journal_want_synced(c->journal, u->ticket);
}

/* One message about as many requests of the same client as come one after the other. */
static void confirm_some(mh_controller *c, unconfirmed *first)
{
    mh__list *node = &first->link;
    (void)!mh_buf_resize(c->text, 0);
    mh__json_out o = mh__json_into(c->text);
    mh__json_open(&o, '{');
    mh__json_key(&o, "durable");
    mh__json_add_bool(&o, c->journal != NULL);
    mh__json_key(&o, "msg_ids");
    mh__json_open(&o, '[');
    for (int n = 0; n < CONFIRM_MAX && node != &c->unconfirmed; n++, node = node->next) {
        const unconfirmed *u = mh__list_entry(node, unconfirmed, link);
        if (u->channel != first->channel || !mh__bytes_equal(u->client, first->client) || u->ticket > c->progress.synced)
            break;
        mh__json_add_bytes(&o, u->id);
    }
    mh__json_close(&o, ']');
    mh__json_close(&o, '}');
    if (mh__json_finish(&o) == MH_OK)
        mh__reply_send(c, first->channel, &first->client, 1, &(mh__draft){.type = "x_accepted",
                       .content = {mh_buf_data(c->text), mh_buf_size(c->text)}});
    while (c->unconfirmed.next != node)
        mh__free(mh__list_entry(mh__list_pop_front(&c->unconfirmed), unconfirmed, link));
}

static void confirm_what_is_synced(mh_controller *c)
{
    while (!mh__list_is_empty(&c->unconfirmed)) {
        unconfirmed *u = mh__list_entry(c->unconfirmed.next, unconfirmed, link);
        if (u->ticket > c->progress.synced)
            return;
        confirm_some(c, u);
    }
}

/* ---- when the journal rings ------------------------------------------------------------------ */

static void hold_back(mh_controller *c)
{
    size_t bytes = c->progress.backlog + c->unsaid_bytes;
    bool is_held_back = bytes > (c->is_held_back ? BACKLOG_LOW : BACKLOG_HIGH);
    if (is_held_back == c->is_held_back)
        return;
    c->is_held_back = is_held_back;
    mh__log(c, MH_LOG_INFO, is_held_back ? "the task log is %zu MiB behind: peers have to wait" : "the task log has caught up", bytes >> 20);
    for (size_t i = 0; i < MH__COUNT_OF(from_peers); i++)
        mh__socket_pause(c->sockets[from_peers[i]], is_held_back);
}

static void note_state(mh_controller *c, mh__journal_state before)
{
    const mh__journal_view *v = &c->progress;
    if (v->state == MH__JOURNAL_FAILED)
        mh__controller_fail(c, mh__fail(v->err, "the task log can't be written: %s", v->why));
    else if (v->state == MH__JOURNAL_WAITING && before == MH__JOURNAL_OK)
        mh__log(c, MH_LOG_ERROR, "the task log can't be written for now: %s%s", v->why,
                v->err == MH_ERR_NO_SPACE ? "; new tasks are refused and results held until there is room" : "");
    else if (v->state == MH__JOURNAL_OK && before == MH__JOURNAL_WAITING)
        mh__log(c, MH_LOG_WARNING, "the task log is written again");
}

static void look(mh_controller *c)
{
    mh__journal_state before = c->progress.state;
    mh__journal_look(c->journal, &c->progress);
    note_state(c, before);
    say_what_is_written(c);
    confirm_what_is_synced(c);
}

static void on_bell(int fd, void *ctx)
{
    (void)fd;
    look(ctx);
}

void mh__durable_round(mh_controller *c)
{
    confirm_what_is_synced(c); /* also what was so before */
    if (!c->journal)
        return;
    if (c->has_new_engines)
        put_engines(c);
    mh__journal_flush(c->journal);
    c->progress.backlog = mh__journal_backlog(c->journal);
    hold_back(c);
}

bool mh__durable_is_full(const mh_controller *c, const char **why)
{
    *why = c->progress.why;
    return c->progress.state == MH__JOURNAL_WAITING && c->progress.err == MH_ERR_NO_SPACE;
}

/* ---- clients that come back ------------------------------------------------------------------ */

/* Its end was told on a channel that its client had not connected again: without this a stock client waits for the rest of the output. */
static void publish_idle(mh_controller *c, const mh__job *r)
{
    mh_bytes topic = MH__TEXT("engine.status");
    mh__reply_send(c, MH__CH_IOPUB_OUT, &topic, 1, &(mh__draft){.type = "status", .parent = mh__kept_header(&r->request),
                   .content = MH__TEXT("{\"execution_state\":\"idle\"}")});
}

void mh__durable_on_subscription(mh__socket *s, mh__parcel *p, void *ctx)
{
    (void)s;
    mh_controller *c = ctx;
    const char *is_new = mh__parcel_count(p) && mh__parcel_frames(p)[0].size ? mh__parcel_frames(p)[0].data : "";
    if (*is_new != 1 || !c->resent_until || mh_now() > c->resent_until)
        return;
    for (mh__list *node = c->history.prev; node != &c->history; node = node->prev) {
        mh__job *r = mh__list_entry(node, mh__job, place);
        if (r->is_resent && mh__job_see(c, r))
            publish_idle(c, r);
    }
}

/* ---- opening and closing --------------------------------------------------------------------- */

static mh_err set_aside(mh_controller *c, const char *tail, char *to, size_t capacity)
{
    char from_log[540], to_log[560];
    snprintf(to, capacity, "%s.%s", c->journal_path, tail);
    snprintf(from_log, sizeof from_log, "%s-wal", c->journal_path);
    snprintf(to_log, sizeof to_log, "%s-wal", to);
    (void)!mh__os_file_unlink(to_log);
    mh_err err = mh__os_file_rename(c->journal_path, to);
    if (!err && mh__os_path_exists(from_log))
        err = mh__os_file_rename(from_log, to_log);
    return err;
}

static bool is_file(const mh_controller *c) { return !c->options.database || !strcmp(c->options.database, "sqlite"); }

static mh_err refuse_damaged(mh_controller *c)
{
    char why[300], to[540];
    snprintf(why, sizeof why, "%s", mh_err_detail());
    if (!is_file(c))
        return mh__fail(MH_ERR_CORRUPT, "the task log is damaged: %s", why);
    mh_err err = set_aside(c, "damaged", to, sizeof to);
    return err ? err : mh__fail(MH_ERR_CORRUPT, "the task log is damaged (%s): it is now %s; a controller that is started again begins without it", why, to);
}

static mh_err count_rows(int64_t id, mh_bytes row, void *ctx)
{
    (void)id;
    (void)row;
    ++*(size_t *)ctx;
    return MH_OK;
}

/* What another cluster left here is nothing for this one, which has other keys; but nobody's tasks are thrown away. */
static mh_err begin_anew(mh_controller *c, mh__store **store)
{
    char to[540];
    size_t rows = 0;
    mh_err err = *store ? (*store)->kind->scan(*store, count_rows, &rows) : MH_ERR_CORRUPT;
    if (!err && rows == 0)
        return MH_OK;
    mh__store_close(store);
    err = set_aside(c, err ? "damaged" : "previous", to, sizeof to);
    if (!err)
        mh__log(c, MH_LOG_INFO, "the task log of the last controller is now %s (--restore would have gone on with it)", to);
    return err ? err : mh__sqlite_open(store, c->journal_path);
}

/* A cluster's rows are in a schema of its own; what is there is another's, unless this controller is to go on with it. */
static mh_err open_server(mh_controller *c, mh__store **store)
{
    char schema[128];
    size_t rows = 0;
    const char *id = c->options.cluster_id ? c->options.cluster_id : "";
    snprintf(schema, sizeof schema, "manyhands%s%s", *id ? "_" : "", id);
    mh_err err = mh__postgres_open(store, c->options.database, schema);
    if (err || c->options.reuse)
        return err;
    err = (*store)->kind->scan(*store, count_rows, &rows);
    return err || !rows ? err : mh__fail(MH_ERR_EXISTS, "schema %s of the database holds %zu rows of another controller: start with --restore to go on "
                                         "with them, or drop the schema", schema, rows);
}

static mh_err open_store(mh_controller *c, mh__store **store)
{
    if (!is_file(c))
        return open_server(c, store);
    mh_err err = mh__sqlite_open(store, c->journal_path);
    if (!c->options.reuse && (!err || err == MH_ERR_CORRUPT))
        return begin_anew(c, store);
    return err == MH_ERR_CORRUPT ? refuse_damaged(c) : err;
}

static bool is_wanted(const mh_controller *c)
{
    return !c->options.no_history && (!c->options.database || strcmp(c->options.database, "memory") != 0);
}

mh_err mh__durable_open(mh_controller *c)
{
    mh__store *store = NULL;
    mh__list_init(&c->unsaid);
    mh__list_init(&c->unconfirmed);
    mh__list_init(&c->noisy);
    c->noisy_alarm = (mh__alarm){.fn = write_noise, .ctx = c};
    c->settle_alarm = (mh__alarm){.fn = settle, .ctx = c};
    if (!is_wanted(c))
        return MH_OK;
    mh_err err = open_store(c, &store);
    if (!err)
        err = mh__journal_open(&c->journal, store);
    if (!err) {
        c->resent_until = c->options.reuse ? mh_deadline_in(RESENT_NS) : 0;
        err = mh__recover(c);
        if (err == MH_ERR_CORRUPT) {
            mh__journal_close(&c->journal);
            return refuse_damaged(c);
        }
    }
    if (!err)
        put(c, &(mh__entry){.kind = MH__ENTRY_NOTE, .order = c->settled_order, .token = ++c->generation}, NULL);
    if (!err)
        err = mh__journal_start(c->journal);
    if (!err)
        err = mh__loop_add_fd(c->loop, mh__journal_bell(c->journal), on_bell, c);
    return err;
}

void mh__durable_close(mh_controller *c)
{
    if (c->journal) {
        write_noise(c);
        mh__loop_remove_fd(c->loop, mh__journal_bell(c->journal));
        mh__journal_finish(c->journal);
        look(c); /* what is written may be told */
        mh__journal_close(&c->journal);
        if (c->is_stopping && !c->options.reuse && !c->tasks_live && c->wrote_files && is_file(c))
            (void)!mh__os_file_unlink(c->journal_path); /* with keys and ports that nobody will have again, it is of no use */
        else if (c->tasks_live)
            mh__log(c, MH_LOG_WARNING, "%zu requests have not ended; started with --restore, a controller goes on with them", c->tasks_live);
    }
    while (c->unsaid.next && !mh__list_is_empty(&c->unsaid))
        drop_first(c);
    while (c->unconfirmed.next && !mh__list_is_empty(&c->unconfirmed))
        mh__free(mh__list_entry(mh__list_pop_front(&c->unconfirmed), unconfirmed, link));
}
