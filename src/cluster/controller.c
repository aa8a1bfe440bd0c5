/* The controller's life: options, sockets, the loop. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "net/seal.h"
#include "os/clock.h"
#include "os/fd.h"
#include "os/file.h"
#include "os/memory.h"
#include "os/signals.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PINGS_MISSED = 10,
    HISTORY_COUNT = 1024,
    HISTORY_BYTES = 64 << 20,
    HEARTBEAT_MS = 1000, /* of connections: a host that vanished is noticed within three of it */
    IOPUB_HIGH_WATER = 50000,
    HUB_HIGH_WATER = 100000,
    DESCRIPTORS_KEPT = 256, /* for all but connections of peers: sockets' own, files, the fast lane's */
    CONNECTIONS = 16384,    /* of one socket */
};
#define CLIENT_BYTES ((size_t)512 << 20)
#define STEAL_NS (5 * MH_MILLISECOND)
static const int stop_signals[] = {SIGINT, SIGTERM, SIGHUP};

/* ---- saying what happens --------------------------------------------------------------------- */

void mh__log(mh_controller *c, mh_log_level level, const char *format, ...)
{
    char line[512];
    va_list args;
    if (level < c->options.level || !c->options.log)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    c->options.log(level, line, c->options.log_ctx);
}

void mh__controller_fail(mh_controller *c, mh_err err)
{
    mh__log(c, MH_LOG_ERROR, "giving up: %s: %s", mh_err_text(err), mh_err_detail());
    c->failure = err;
}

/* All four frames are JSON. The signature is over their sum, so a copy whose bytes were moved over a boundary has the right one; but
 * four JSON texts can be cut in one way only. It must be stopped before its signature is remembered, or it would keep out the original. */
static mh_err check_frames(mh__incoming *in)
{
    static const char *const keys[] = {"x_ack", "x_lent"};
    mh__json v, got[2];
    mh_err err = mh__json_check(in->m.parent, &v);
    in->wants_ack = false;
    if (!err)
        err = mh__json_pick(in->m.metadata, keys, 2, got);
    in->is_lent = !err && mh__json_kind_of(got[1]) != MH__JSON_ABSENT;
    if (!err)
        mh__json_bool(got[0], &in->wants_ack);
    return err ? err : mh__json_check(in->m.content, &v);
}

/* Requests that have no record by which the next controller would know them again. */
static bool is_unrecorded(mh__channel ch) { return ch == MH__CH_QUERY || ch == MH__CH_CONTROL_IN || ch == MH__CH_BROADCAST_IN; }

static mh_err admit_once(mh_controller *c, mh__channel channel, const mh__incoming *in)
{
    mh_err err = mh__replay_admit(c->replays[channel], in->m.signature, in->header.msg_id, mh_now());
    if (!err && mh__seen_before(c, in->m.signature) && !mh__job_find(c, in->header.msg_id))
        err = mh__fail(MH_ERR_EXISTS, "the controller before this one had it");
    if (!err && is_unrecorded(channel))
        mh__seen_note(c, in->m.signature);
    return err;
}

bool mh__controller_admit(mh_controller *c, mh__channel channel, mh__parcel *p, mh__incoming *in)
{
    c->stats.messages++;
    mh_err err = mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &in->m);
    if (!err)
        err = mh__message_verify(&in->m, &c->session.signer);
    if (!err)
        err = mh__seal_check(&c->session, &in->m);
    if (!err)
        err = mh__header_read(in->m.header, &in->header);
    if (!err)
        err = check_frames(in);
    if (err) {
        if (c->stats.refused++ < 100 || c->stats.refused % 10000 == 0)
            mh__log(c, MH_LOG_WARNING, "message %llu refused: %s", (unsigned long long)c->stats.refused, mh_err_detail());
        return false;
    }
    in->at = in->m.ident_count;
    if (c->session.signer.digest && (err = admit_once(c, channel, in))) {
        c->stats.replayed++;
        mh__log(c, MH_LOG_WARNING, "message %.*s dropped: %s", (int)in->header.msg_id.size, (const char *)in->header.msg_id.data,
                mh_err_detail());
        return false;
    }
    if (in->is_lent)
        mh__fast_claim(c, channel, p, in);
    return true;
}

bool mh__controller_admit_fast(mh_controller *c, const mh__parcel *p, mh__incoming *in)
{
    c->stats.messages++;
    mh_err err = mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &in->m);
    if (!err)
        err = mh__header_read(in->m.header, &in->header);
    if (!err)
        err = check_frames(in);
    if (err) {
        c->stats.refused++;
        mh__log(c, MH_LOG_WARNING, "a message of the fast lane refused: %s", mh_err_detail());
        return false;
    }
    in->at = in->m.ident_count;
    return true;
}

/* ---- sockets --------------------------------------------------------------------------------- */

typedef struct channel {
    mh__channel channel;
    mh__socket_kind kind;
    bool is_signed;
    const char *identity; /* a ROUTER that engines' ROUTERs reach by name */
    mh__message_fn on_message;
    int high_water;
} channel;

/* In the order in which given ports are used. */
static const channel channels[] = {
    {MH__CH_QUERY, MH__ROUTER, true, NULL, mh__hub_on_query, HUB_HIGH_WATER},
    {MH__CH_CONTROL_OUT, MH__ROUTER, true, "control_out", mh__relay_control_result, HUB_HIGH_WATER},
    {MH__CH_MUX_OUT, MH__ROUTER, true, "mux_out", mh__relay_mux_result, HUB_HIGH_WATER},
    {MH__CH_TASK_OUT, MH__ROUTER, true, "task_out", mh__tasks_on_result, HUB_HIGH_WATER},
    {MH__CH_IOPUB_IN, MH__SUB, true, NULL, mh__relay_iopub, HUB_HIGH_WATER},
    {MH__CH_PING, MH__PUB, false, NULL, NULL, 1000},
    {MH__CH_PONG, MH__ROUTER, false, NULL, mh__engine_on_pong, 1000},
    {MH__CH_BROADCAST_OUT, MH__ROUTER, true, "sub_scheduler_00", mh__broadcast_on_result, HUB_HIGH_WATER},
    {MH__CH_CONTROL_IN, MH__ROUTER, true, "control_in", mh__relay_control_request, HUB_HIGH_WATER},
    {MH__CH_MUX_IN, MH__ROUTER, true, "mux_in", mh__relay_mux_request, HUB_HIGH_WATER},
    {MH__CH_TASK_IN, MH__ROUTER, true, "task_in", mh__tasks_on_request, HUB_HIGH_WATER},
    {MH__CH_IOPUB_OUT, MH__XPUB, false, NULL, mh__durable_on_subscription, IOPUB_HIGH_WATER},
    {MH__CH_NOTIFY, MH__PUB, false, NULL, NULL, HUB_HIGH_WATER},
    {MH__CH_BROADCAST_IN, MH__ROUTER, true, "sub_scheduler_0", mh__broadcast_on_request, HUB_HIGH_WATER},
};

static void on_peer(mh__socket *s, mh__peer_event event, int connection, void *ctx)
{
    mh_controller *c = ctx;
    if (event == MH__PEER_EXCESS && (c->excess_connections++ < 10 || c->excess_connections % 1000 == 0))
        mh__log(c, MH_LOG_WARNING, "connection %llu beyond the limit refused: there are %zu; peers that are there go on", (unsigned long long)c->excess_connections,
                c->budget.used);
    if (s == c->sockets[MH__CH_QUERY] || s == c->sockets[MH__CH_PONG])
        mh__engine_on_peer(s, event, connection, ctx);
}

static void limit_connections(mh_controller *c)
{
    size_t descriptors = mh__os_fd_limit_raise();
    c->budget.max = MH__MAX(descriptors / 2, descriptors > DESCRIPTORS_KEPT ? descriptors - DESCRIPTORS_KEPT : 0);
    if (!c->options.connections)
        c->options.connections = MH__MIN((size_t)CONNECTIONS, MH__MAX(c->budget.max / 4 * 3, (size_t)16));
}

static mh_err open_channel(mh_controller *c, const channel *ch)
{
    mh__socket_options o = {
        .kind = ch->kind,
        .identity = ch->identity ? mh__text(ch->identity) : (mh_bytes){0},
        .send_high_water = ch->high_water,
        .receive_high_water = ch->high_water,
        .heartbeat_ms = HEARTBEAT_MS,
        .curve_secret = c->options.curve ? c->curve.secret_key : NULL,
        .tell_all_subscriptions = ch->kind == MH__XPUB,
        .connections_max = c->options.connections,
        .budget = &c->budget,
        .on_message = ch->on_message,
        .on_peer = on_peer,
        .ctx = c,
    };
    mh_err err = ch->is_signed ? mh__replay_create(&c->replays[ch->channel]) : MH_OK;
    return err ? err : mh__socket_open(&c->sockets[ch->channel], c->loop, &o);
}

static uint16_t *port_of(mh_controller *c, mh__channel which)
{
    mh__connection *e = &c->engine_file, *l = &c->client_file;
    uint16_t *const ports[MH__CHANNELS] = {
        [MH__CH_QUERY] = &e->registration, [MH__CH_NOTIFY] = &l->notification,
        [MH__CH_MUX_IN] = &l->mux, [MH__CH_MUX_OUT] = &e->mux,
        [MH__CH_TASK_IN] = &l->task, [MH__CH_TASK_OUT] = &e->task,
        [MH__CH_CONTROL_IN] = &l->control, [MH__CH_CONTROL_OUT] = &e->control,
        [MH__CH_BROADCAST_IN] = &l->broadcast[0], [MH__CH_BROADCAST_OUT] = &e->broadcast[0],
        [MH__CH_IOPUB_IN] = &e->iopub, [MH__CH_IOPUB_OUT] = &l->iopub,
        [MH__CH_PING] = &e->hb_ping, [MH__CH_PONG] = &e->hb_pong,
    };
    return ports[which];
}

static mh_err bind_channel(mh_controller *c, const channel *ch, size_t *used)
{
    uint16_t *port = port_of(c, ch->channel);
    bool is_given = *port != 0;
    if (!is_given && *used < c->options.port_count)
        *port = c->options.ports[(*used)++];
    return mh__socket_bind(c->sockets[ch->channel], c->engine_file.interface_, port);
}

static mh_err open_sockets(mh_controller *c)
{
    size_t used = 0;
    mh_err err = MH_OK;
    limit_connections(c);
    for (size_t i = 0; i < MH__COUNT_OF(channels) && !err; i++) {
        err = open_channel(c, &channels[i]);
        if (!err)
            err = bind_channel(c, &channels[i], &used);
    }
    if (!err)
        err = mh__socket_subscribe(c->sockets[MH__CH_IOPUB_IN], (mh_bytes){"", 0});
    c->client_file.registration = c->engine_file.registration;
    return err;
}

/* ---- keys and options ------------------------------------------------------------------------ */

static mh_err copy_text(mh_controller *c, size_t at, const char **text)
{
    if (!*text)
        return MH_OK;
    mh_err err = mh_buf_copy(&c->strings[at], (mh_bytes){*text, strlen(*text) + 1});
    if (!err)
        *text = mh_buf_data(c->strings[at]);
    return err;
}

static mh_err copy_options(mh_controller *c, const mh_controller_options *options)
{
    mh_controller_options *o = &c->options;
    *o = *options;
    if (!o->folder || !*o->folder)
        return mh__fail(MH_ERR_INVALID, "no folder for the connection files");
    if (o->policy > MH_SCHED_PURE)
        return mh__fail(MH_ERR_INVALID, "policy %d", (int)o->policy);
    if (o->database && strcmp(o->database, "sqlite") != 0 && strcmp(o->database, "memory") != 0 && strncmp(o->database, "postgresql://", 13) != 0)
        return mh__fail(MH_ERR_INVALID, "database is neither \"sqlite\", \"memory\" nor a URL that begins with postgresql://");
    if (o->ping_ns < 0)
        return mh__fail(MH_ERR_INVALID, "ping_ns is negative");
    if (o->cluster_id && (strchr(o->cluster_id, '/') || strlen(o->cluster_id) > 100))
        return mh__fail(MH_ERR_INVALID, "the cluster id holds a slash or is longer than 100 characters");
    const char **texts[] = {&o->folder, &o->cluster_id, &o->ip, &o->location, &o->ssh, &o->engine_ssh, &o->curve_secret, &o->key, &o->database};
    mh_err err = MH_OK;
    for (size_t i = 0; i < MH__COUNT_OF(texts) && !err; i++)
        err = copy_text(c, i, texts[i]);
    o->high_water = o->high_water_set ? o->high_water : 1;
    o->ping_ns = o->ping_ns ? o->ping_ns : 3 * MH_SECOND;
    o->pings_missed = o->pings_missed ? o->pings_missed : PINGS_MISSED;
    o->history_count = o->no_history ? 0 : o->history_count ? o->history_count : HISTORY_COUNT;
    o->history_bytes = o->history_bytes ? o->history_bytes : HISTORY_BYTES;
    o->client_bytes = o->client_bytes ? o->client_bytes : CLIENT_BYTES;
    o->level = o->level ? o->level : MH_LOG_INFO;
    return err;
}

static mh_err prepare_keys(mh_controller *c)
{
    mh__connection *e = &c->engine_file;
    char secret[MH__SECRET_SIZE], id[MH__SECRET_SIZE];
    mh_err err = mh__secret_create(secret);
    if (!err)
        err = mh__secret_create(id);
    if (!err && c->options.curve) {
        if (c->options.curve_secret) {
            snprintf(c->curve.secret_key, sizeof c->curve.secret_key, "%s", c->options.curve_secret);
            err = mh__curve_pair_complete(&c->curve);
        } else {
            err = mh__place_curve(c);
        }
        snprintf(e->curve_serverkey, sizeof e->curve_serverkey, "%s", c->curve.public_key);
        e->key[0] = 0;
    } else if (!err) {
        if (c->options.key && strlen(c->options.key) >= sizeof e->key)
            err = mh__fail(MH_ERR_INVALID, "a key of more than %zu characters", sizeof e->key - 1);
        else if (!*e->key)
            snprintf(e->key, sizeof e->key, "%s", c->options.key ? c->options.key : secret);
        if (!err)
            err = mh__sign_key_create(&c->key, mh__text(e->key));
    }
    memcpy(c->client_file.key, e->key, sizeof e->key);
    memcpy(c->client_file.curve_serverkey, e->curve_serverkey, sizeof e->curve_serverkey);
    c->session.signer = mh__sign_key_signer(c->key);
    c->session.is_strict = c->options.strict;
    snprintf(c->session.id, sizeof c->session.id, "%.32s", id);
    const char *user = getenv("USER");
    snprintf(c->session.username, sizeof c->session.username, "%s", user ? user : "manyhands");
    for (char *p = c->session.username; *p; p++)
        if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\')
            *p = '_';
    mh__secret_clear(secret, sizeof secret);
    return err;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void stop_now(void *ctx) { ((mh_controller *)ctx)->is_stopping = true; }

static void on_signal(int fd, void *ctx)
{
    mh_controller *c = ctx;
    int signal = mh__os_signals_take(fd);
    if (signal) {
        mh__log(c, MH_LOG_INFO, "received signal %d, shutting down", signal);
        c->is_stopping = true;
    }
}

static void on_stop_event(int fd, void *ctx)
{
    mh__os_eventfd_clear(fd);
    stop_now(ctx);
}

void mh__controller_stop_in(mh_controller *c, int64_t ns) { mh__alarm_set(c->loop, &c->stop_alarm, mh_deadline_in(ns)); }

void mh_controller_stop(mh_controller *c) { mh__os_eventfd_set(c->stop_event); }

static mh_err create_parts(mh_controller *c)
{
    uint64_t seed;
    mh_err err = mh__os_random(&seed, sizeof seed);
    if (!err)
        err = mh_sched_create(&c->sched, &(mh_sched_options){.policy = c->options.policy, .high_water = c->options.high_water,
                                                          .steal = c->options.policy == MH_SCHED_LEASTLOAD || c->options.policy == MH_SCHED_WEIGHTED,
                                                          .steal_ns = STEAL_NS, .seed = seed});
    if (!err)
        err = mh__parcel_create(&c->out);
    if (!err)
        err = mh_buf_create(&c->text, 0);
    if (!err)
        err = mh_buf_create(&c->text2, 0);
    if (!err)
        err = mh__loop_create(&c->loop);
    if (!err)
        err = mh__os_eventfd(&c->stop_event);
    if (!err)
        err = mh__loop_add_fd(c->loop, c->stop_event, on_stop_event, c);
    return err;
}

static mh_err watch_signals(mh_controller *c)
{
    mh_err err = mh__os_signals_open(&c->signals, stop_signals, MH__COUNT_OF(stop_signals));
    return err ? err : mh__loop_add_fd(c->loop, c->signals, on_signal, c);
}

mh_err mh_controller_create(mh_controller **out, const mh_controller_options *options)
{
    if (!out || !options)
        return mh__fail(MH_ERR_INVALID, "out or options is NULL");
    *out = NULL;
    mh_controller *c = mh__calloc(1, sizeof *c);
    if (!c)
        return MH_ERR_NO_MEMORY;
    c->signals = c->stop_event = -1;
    mh__list_init(&c->engines);
    mh__list_init(&c->order);
    mh__list_init(&c->history);
    c->stop_alarm = (mh__alarm){.fn = stop_now, .ctx = c};
    c->sched_alarm = (mh__alarm){.fn = mh__tasks_wake, .ctx = c};
    c->beat_alarm = (mh__alarm){.fn = mh__engines_beat, .ctx = c};
    c->hold_alarm = (mh__alarm){.fn = mh__outbox_retry, .ctx = c};
    c->state_alarm = (mh__alarm){.fn = mh__place_save_engines, .ctx = c};
    c->give_up_alarm = (mh__alarm){.fn = mh__engines_give_up, .ctx = c};
    mh_err err = copy_options(c, options);
    if (!err)
        err = mh__place_prepare(c);
    if (!err)
        err = prepare_keys(c);
    if (!err)
        err = create_parts(c);
    if (!err)
        err = open_sockets(c);
    if (!err && c->options.reuse)
        err = mh__place_load_engines(c);
    if (!err)
        err = mh__seen_open(c);
    if (!err)
        err = mh__durable_open(c);
    if (!err)
        err = mh__fast_open(c);
    if (!err && !c->options.leave_signals) /* before anybody can know of it: a signal must find it ready to clean up */
        err = watch_signals(c);
    if (!err)
        err = mh__place_publish(c);
    if (err) {
        mh_controller_destroy(&c);
        return err;
    }
    *out = c;
    return MH_OK;
}

mh_err mh_controller_run(mh_controller *c)
{
    mh_err err = MH_OK;
    mh__alarm_set(c->loop, &c->beat_alarm, MH_NOW);
    while (!err && !c->is_stopping) {
        err = mh__loop_wait(c->loop, MH_FOREVER);
        if (err == MH_ERR_INTERRUPTED)
            err = MH_OK;
        if (!err)
            mh__loop_dispatch(c->loop);
        mh__tasks_run(c);
        mh__durable_round(c);
        mh__fast_flush(c);
        err = err ? err : c->failure;
    }
    return err;
}

void mh_controller_destroy(mh_controller **at)
{
    if (!at || !*at)
        return;
    mh_controller *c = *at;
    mh__durable_close(c);
    mh__place_remove(c);
    mh__fast_close(c);
    for (size_t i = 0; i < MH__CHANNELS; i++) {
        mh__socket_close(&c->sockets[i]);
        mh__replay_destroy(&c->replays[i]);
    }
    mh__seen_close(c);
    mh__outbox_fini(c);
    mh__quota_fini(c);
    mh__broadcasts_fini(c);
    mh__aborts_fini(c);
    mh__jobs_fini(c);
    mh__engines_fini(c);
    mh_sched_destroy(&c->sched);
    mh__parcel_destroy(&c->out);
    mh_buf_destroy(&c->text);
    mh_buf_destroy(&c->text2);
    mh__loop_destroy(&c->loop);
    mh__os_close(&c->stop_event);
    mh__os_signals_close(&c->signals, stop_signals, MH__COUNT_OF(stop_signals));
    mh__sign_key_destroy(&c->key);
    for (size_t i = 0; i < MH__COUNT_OF(c->strings); i++)
        mh_buf_destroy(&c->strings[i]);
    mh__secret_clear(c, sizeof *c);
    mh__free(c);
    *at = NULL;
}

void mh_controller_stats_read(const mh_controller *c, mh_controller_stats *out)
{
    *out = c->stats;
    out->engines = c->engine_count;
    out->tasks_live = c->tasks_live;
    out->records = c->record_count;
    out->record_bytes = c->record_bytes;
    out->held_bytes = c->held_bytes;
}
