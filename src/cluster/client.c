/* A client's life: connection, sockets, its thread, the end. */
#include "cluster/client_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/clock.h"
#include "os/fd.h"
#include "os/file.h"
#include "os/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    URL_SIZE = 320,
    LINGER_MS = 1000,
    HEARTBEAT_MS = 1000, /* a host that vanished is noticed within three of it */
    HIGH_WATER = 1000,   /* messages in each socket; what else waits is counted in bytes here */
    TELL_LOST_MS = 3 * HEARTBEAT_MS, /* that the controller is lost is told at the latest so long after the first connection to it ended */
    REFRESH_MS = 250,    /* after the first answer: an engine that came or went before the subscription was there */
};
#define ANSWER_NS (10 * MH_SECOND)
#define BYTES_MAX ((size_t)256 << 20)

/* ---- states ---------------------------------------------------------------------------------- */

mh_err mh__client_check(const mh_client *c)
{
    return c->fork_depth == mh__os_fork_depth() ? MH_OK : mh__fail(MH_ERR_FORKED, "the client belongs to the process that opened it");
}

mh_err mh__client_state(const mh_client *c)
{
    if (c->is_closing)
        return mh__fail(MH_ERR_CLOSED, "the client is being closed");
    return c->failure ? mh__fail(c->failure, "%s", c->why) : MH_OK;
}

void mh__client_ring(mh_client *c)
{
    if (!c->bell_rung)
        mh__os_eventfd_set(c->bell);
    c->bell_rung = true;
}

void mh__client_fail(mh_client *c, mh_err err, const char *why)
{
    if (!c->failure) {
        c->failure = err;
        snprintf(c->why, sizeof c->why, "%s", why);
    }
    if (c->fd >= 0)
        mh__os_eventfd_set(c->fd);
    mh__cond_wake_all(c->changed);
}

/* ---- the client's thread --------------------------------------------------------------------- */

static void on_bell(int fd, void *ctx)
{
    mh_client *c = ctx;
    mh__os_eventfd_clear(fd);
    mh__client_flush(c);
    mh__client_resume(c);
}

static bool must_stop(mh_client *c)
{
    mh__lock_take(c->lock);
    bool stop = c->must_stop;
    mh__lock_drop(c->lock);
    return stop;
}

static void run(void *ctx)
{
    mh_client *c = ctx;
    mh_err err = MH_OK;
    while (!err && !must_stop(c)) {
        err = mh__loop_wait(c->loop, MH_FOREVER);
        if (err == MH_ERR_INTERRUPTED || err == MH_ERR_TIMEOUT)
            err = MH_OK;
        if (!err)
            mh__loop_dispatch(c->loop);
    }
    if (err) {
        mh__lock_take(c->lock);
        mh__client_fail(c, MH_ERR_BROKEN, mh_err_detail());
        mh__lock_drop(c->lock);
    }
}

static bool is_cut_off(const mh_client *c)
{
    if (!c->is_lost)
        return false;
    for (size_t i = 0; i < MH__CLIENT_CHANNELS; i++)
        if (c->channels[i].is_up)
            return false;
    return !c->lane || !c->is_fast;
}

static void tell_lost(void *ctx)
{
    mh_client *c = ctx;
    mh__alarm_clear(c->loop, &c->lost);
    if ((c->is_lost && !c->is_lost_told) || c->is_lane_lost)
        mh__client_tell(c, "x_connection_lost", NULL);
    if (!c->is_lost && c->is_lane_lost) /* the lane alone ended: what was on its way in it may not have arrived */
        mh__client_tell(c, "x_connection_back", NULL);
    c->is_lane_lost = false;
    c->is_lost_told = c->is_lost;
}

/* Connections to one controller end one after the other, and what goes into one that is ending is lost: so the loss is told after the last of them. */
void mh__client_may_have_lost(mh_client *c)
{
    c->lost_ns = mh_now();
    c->is_in_doubt = true;
    if (!c->is_lost) /* it lives, as far as we know */
        mh__client_look_soon(c);
    bool is_untold = c->is_lane_lost || (c->is_lost && !c->is_lost_told);
    if (is_untold && is_cut_off(c))
        tell_lost(c);
    else if (is_untold && !c->lost.is_set)
        mh__alarm_set(c->loop, &c->lost, mh_deadline_in(TELL_LOST_MS * MH_MILLISECOND));
}

void mh__client_note_back(mh_client *c)
{
    if (!c->is_lost)
        return;
    tell_lost(c);
    c->is_lost = c->is_lost_told = false;
    mh__client_tell(c, "x_connection_back", NULL);
    mh__client_tell(c, "x_calls_in_doubt", NULL); /* and once more when the other connections are there, too */
    mh__client_look_soon(c);
}

static void on_peer(mh__socket *s, mh__peer_event event, int connection, void *ctx)
{
    mh__client_channel *ch = ctx;
    mh_client *c = ch->client;
    bool is_query = ch->which == MH_CLIENT_REGISTRATION;
    (void)s, (void)connection;
    if (event == MH__PEER_GONE && ch->is_up) {
        ch->is_up = false;
        c->is_lost |= is_query && c->was_ready;
        mh__client_may_have_lost(c);
    } else if (event == MH__PEER_READY) {
        ch->is_up = true;
        if (!is_query)
            return;
        mh__lock_take(c->lock);
        c->was_reached = true;
        c->stats.reconnects += c->was_ready;
        mh__lock_drop(c->lock);
        if (c->was_ready)
            mh__client_ask(c);
        c->was_ready = true;
    }
}

/* ---- the connection -------------------------------------------------------------------------- */

static mh_err read_connection(mh_client *c, const mh_client_options *o)
{
    mh_buf *file = NULL;
    mh_bytes text = o->connection_text ? mh__text(o->connection_text) : (mh_bytes){0};
    mh_err err = MH_OK;
    if (!o->connection_text == !o->connection_file)
        return mh__fail(MH_ERR_INVALID, "a client needs connection_file or connection_text, one of them");
    if (!o->connection_text) {
        err = mh__os_file_read_private(&file, o->connection_file, MH__CONNECTION_FILE_MAX);
        if (!err)
            text = (mh_bytes){mh_buf_data(file), mh_buf_size(file)};
    }
    if (!err)
        err = mh__connection_read(text, &c->connection);
    if (!err && c->connection.is_engine)
        err = mh__fail(MH_ERR_INVALID, "this connection file is for engines: a client needs the one that ends in -client.json");
    if (file)
        mh__secret_clear(mh_buf_data(file), mh_buf_size(file));
    mh_buf_destroy(&file);
    return err;
}

static mh_err choose_interface(mh__connection *n)
{
    char host[256];
    mh__os_host_name(host, sizeof host);
    return mh__connection_find_host(n, host);
}

static void choose_username(mh_client *c, const char *name)
{
    if (!name)
        name = getenv("USER");
    snprintf(c->session.username, sizeof c->session.username, "%s", name ? name : "manyhands");
    for (char *p = c->session.username; *p; p++)
        if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\')
            *p = '_';
}

static mh_err make_identity(mh_client *c, const mh_client_options *o)
{
    char secret[MH__SECRET_SIZE];
    mh_err err = mh__secret_create(secret);
    if (err)
        return err;
    snprintf(c->session.id, sizeof c->session.id, "%.32s", secret);
    choose_username(c, o->username);
    if (c->connection.key[0]) {
        err = mh__sign_key_create(&c->key, mh__text(c->connection.key));
        if (!err)
            err = mh__sign_key_create(&c->read_key, mh__text(c->connection.key));
    } else if (!c->connection.curve_serverkey[0]) {
        err = mh__fail(MH_ERR_CORRUPT, "connection file: neither \"key\" nor \"curve_serverkey\": anybody could speak for the controller");
    }
    if (!err && c->connection.curve_serverkey[0])
        err = mh__curve_pair_create(&c->curve);
    c->session.signer = mh__sign_key_signer(c->key);
    c->session.is_strict = c->connection.buffers[0] != 0;
    c->reader = mh__sign_key_signer(c->read_key);
    return err;
}

static const struct route {
    mh_client_channel which;
    mh__socket_kind kind;
    size_t port; /* its place in mh__connection */
} routes[] = {
    {MH_CLIENT_NOTIFICATION, MH__SUB, offsetof(mh__connection, notification)}, /* before we ask who is there */
    {MH_CLIENT_IOPUB, MH__SUB, offsetof(mh__connection, iopub)},
    {MH_CLIENT_MUX, MH__DEALER, offsetof(mh__connection, mux)},
    {MH_CLIENT_TASK, MH__DEALER, offsetof(mh__connection, task)},
    {MH_CLIENT_CONTROL, MH__DEALER, offsetof(mh__connection, control)},
    {MH_CLIENT_BROADCAST, MH__DEALER, offsetof(mh__connection, broadcast)},
    {MH_CLIENT_REGISTRATION, MH__DEALER, offsetof(mh__connection, registration)},
};

static mh_err open_channel(mh_client *c, const struct route *r)
{
    char url[URL_SIZE];
    uint16_t port;
    mh__client_channel *ch = &c->channels[r->which];
    bool is_curve = c->connection.curve_serverkey[0], is_sent_by = r->kind == MH__DEALER;
    memcpy(&port, (const char *)&c->connection + r->port, sizeof port);
    ch->client = c;
    ch->which = r->which;
    mh_err err = mh__replay_create(&ch->replay);
    if (!err)
        err = mh__socket_open(&ch->socket, c->loop, &(mh__socket_options){
            .kind = r->kind,
            .identity = is_sent_by ? mh__text(c->session.id) : (mh_bytes){0}, /* by which a controller that came back finds us */
            .send_high_water = HIGH_WATER,
            .receive_high_water = r->kind == MH__SUB ? 10 * HIGH_WATER : HIGH_WATER,
            .linger_ms = LINGER_MS,
            .heartbeat_ms = HEARTBEAT_MS,
            .curve_server = is_curve ? c->connection.curve_serverkey : NULL,
            .curve_public = is_curve ? c->curve.public_key : NULL,
            .curve_own_secret = is_curve ? c->curve.secret_key : NULL,
            .on_message = mh__client_on_message,
            .on_peer = is_sent_by ? on_peer : NULL,
            .ctx = ch,
        });
    if (!err)
        err = mh__connection_url(&c->connection, port, url, sizeof url);
    if (!err)
        err = mh__socket_connect(ch->socket, url);
    if (!err && r->kind == MH__SUB)
        err = mh__socket_subscribe(ch->socket, (mh_bytes){0});
    return err;
}

/* ---- life ------------------------------------------------------------------------------------ */

static mh_err set_up(mh_client *c, const mh_client_options *o)
{
    mh_err err = read_connection(c, o);
    if (!err)
        err = choose_interface(&c->connection);
    if (!err)
        err = make_identity(c, o);
    if (!err)
        err = mh__client_core_create(c);
    if (!err)
        err = mh__cond_create(&c->changed);
    if (!err)
        err = mh__lock_create(&c->lane_lock);
    if (!err)
        err = mh__lents_create(&c->lents, false);
    if (!err)
        err = mh_buf_create(&c->fast_out, 0);
    if (!err)
        err = mh__os_eventfd(&c->bell);
    if (!err)
        err = mh__loop_create(&c->loop);
    if (!err)
        err = mh__loop_add_fd(c->loop, c->bell, on_bell, c);
    for (size_t i = 0; !err && i < MH__COUNT_OF(routes); i++)
        err = open_channel(c, &routes[i]);
    if (err)
        return err;
    mh__client_ask(c);
    if (o->no_fast_lane)
        c->connection.fast[0] = 0;
    mh__client_fast_look(c);
    mh__alarm_set(c->loop, &c->refresh, mh_deadline_in(REFRESH_MS * MH_MILLISECOND));
    return mh__thread_start(&c->thread, "mh-client", run, c);
}

mh_err mh_client_open(mh_client **out, const mh_client_options *o)
{
    *out = NULL;
    if (o->timeout_ns == INT64_MIN)
        return mh__fail(MH_ERR_INVALID, "timeout_ns");
    mh_client *c = mh__calloc(1, sizeof *c);
    if (!c)
        return MH_ERR_NO_MEMORY;
    c->fork_depth = mh__os_fork_depth();
    c->bell = c->fd = -1;
    c->out_bytes_max = o->out_bytes_max ? o->out_bytes_max : BYTES_MAX;
    c->in_bytes_max = o->in_bytes_max ? o->in_bytes_max : BYTES_MAX;
    mh__list_init(&c->out);
    mh__list_init(&c->in);
    for (size_t i = 0; i < MH__CLIENT_CHANNELS; i++)
        mh__list_init(&c->channels[i].waiting);
    c->retry = (mh__alarm){.fn = mh__client_flush, .ctx = c};
    c->refresh = (mh__alarm){.fn = mh__client_ask_again, .ctx = c};
    c->stranded = (mh__alarm){.fn = mh__client_fail_stranded, .ctx = c};
    c->lane_alarm = (mh__alarm){.fn = mh__client_fast_look, .ctx = c};
    c->lost = (mh__alarm){.fn = tell_lost, .ctx = c};
    c->look = (mh__alarm){.fn = mh__client_look_for_lost, .ctx = c};
    mh_err err = set_up(c, o);
    if (!err && o->timeout_ns >= 0)
        err = mh_client_wait(c, mh_deadline_in(o->timeout_ns ? o->timeout_ns : ANSWER_NS));
    if (err) {
        mh_client_close(&c);
        return err;
    }
    *out = c;
    return MH_OK;
}

static mh_err nobody_answers(const mh_client *c, bool was_reached)
{
    char url[URL_SIZE] = "";
    if (mh__connection_url(&c->connection, c->connection.registration, url, sizeof url))
        url[0] = 0;
    if (was_reached)
        return mh__fail(MH_ERR_TIMEOUT, "%s was reached but does not answer: it is busy, or the connection file is of another controller", url);
    return mh__fail(MH_ERR_TIMEOUT, "no controller answers at %s: it has ended, or can't be reached from here", url);
}

mh_err mh_client_wait(mh_client *c, mh_deadline until)
{
    mh_err err = mh__client_check(c), waited = MH_OK;
    if (err)
        return err;
    mh__lock_take(c->lock);
    c->users++;
    while (!(err = mh__client_state(c)) && !(c->is_known && c->is_lane_settled) && !waited)
        waited = mh__cond_wait(c->changed, c->lock, until);
    bool is_known = c->is_known, was_reached = c->was_reached;
    if (!--c->users)
        mh__cond_wake_all(c->changed);
    mh__lock_drop(c->lock);
    if (err || is_known)
        return err;
    return nobody_answers(c, was_reached);
}

void mh_client_stop(mh_client *c)
{
    if (mh__client_check(c))
        return;
    mh__lock_take(c->lock);
    c->is_closing = true;
    if (c->fd >= 0)
        mh__os_eventfd_set(c->fd);
    mh__cond_wake_all(c->changed);
    mh__lock_drop(c->lock);
}

static void stop_thread(mh_client *c)
{
    mh__lock_take(c->lock);
    c->is_closing = true;
    mh__cond_wake_all(c->changed);
    while (c->users)
        (void)!mh__cond_wait(c->changed, c->lock, MH_FOREVER);
    c->must_stop = true;
    mh__client_ring(c);
    mh__lock_drop(c->lock);
    mh__thread_join(&c->thread);
}

/* In a child of the client's process: its thread is not here, its locks may be held for ever, and its sockets are another's. */
static void leave(mh_client *c)
{
    mh__os_close(&c->bell);
    mh__os_close(&c->fd);
    mh__secret_clear(&c->connection, sizeof c->connection);
}

void mh_client_close(mh_client **at)
{
    mh_client *c = *at;
    if (!c)
        return;
    *at = NULL;
    if (mh__client_check(c)) {
        leave(c);
        return;
    }
    if (c->thread) {
        stop_thread(c);
        mh__client_flush(c);
        mh__client_finish_all(c);
    }
    mh__client_fast_close(c);
    mh__client_drop_out(c);
    mh__client_drop_in(c);
    for (size_t i = 0; i < MH__CLIENT_CHANNELS; i++) {
        mh__socket_close(&c->channels[i].socket);
        mh__replay_destroy(&c->channels[i].replay);
    }
    mh__loop_destroy(&c->loop); /* waits for what is being sent; after it no loan is out */
    mh__os_close(&c->bell);
    mh__os_close(&c->fd);
    mh__sign_key_destroy(&c->key);
    mh__sign_key_destroy(&c->read_key);
    mh__cond_destroy(&c->changed);
    mh__lock_destroy(&c->lane_lock);
    mh__lents_destroy(&c->lents);
    mh_buf_destroy(&c->fast_out);
    if (c->core) {
        mh__lock_take(c->lock);
        c->core->client = NULL;
        mh__lock_drop(c->lock);
    }
    mh__client_core_drop(c->core);
    mh__free(c->engines);
    mh__secret_clear(c, sizeof *c);
    mh__free(c);
}

/* ---- questions ------------------------------------------------------------------------------- */

const char *mh_client_session(const mh_client *c) { return c->session.id; }

void mh_client_stats_read(mh_client *c, mh_client_stats *out)
{
    *out = (mh_client_stats){0};
    if (mh__client_check(c))
        return;
    mh__lock_take(c->lock);
    *out = c->stats;
    out->out_bytes = c->out_bytes;
    out->out_count = c->out_count;
    out->in_bytes = c->in_bytes;
    out->in_count = c->in_count;
    out->has_fast_lane = c->is_fast;
    mh__lock_drop(c->lock);
}

mh_err mh_client_fd(mh_client *c, int *fd)
{
    mh_err err = mh__client_check(c);
    if (err)
        return err;
    mh__lock_take(c->lock);
    if (c->fd < 0)
        err = mh__os_eventfd(&c->fd);
    if (!err && (c->in_count || c->failure || c->is_closing))
        mh__os_eventfd_set(c->fd);
    if (!err)
        *fd = c->fd;
    mh__lock_drop(c->lock);
    return err;
}
