/* An engine's life: connection, registration, heartbeats, the loop, the end. */
#include "cluster/engine_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/clock.h"
#include "os/fd.h"
#include "os/file.h"
#include "os/signals.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MISSED_BEATS = 10, BEAT_MS = 3000, RETRY_MS = 1000, LOOK_AGAIN_MS = 50, PATH_SIZE = 4096, LINGER_MS = 1000, URL_SIZE = 320,
       LINK_BEAT_MS = 1000, /* a connection that is silent for three of these is opened anew: a network may have lost it without a word */
};
#define READY_NS (120 * MH_SECOND)
#define REGISTER_NS (30 * MH_SECOND)
#define PATIENCE_LEAST_NS (5 * MH_SECOND)

static const int end_signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
enum { END_SIGNALS = sizeof end_signals / sizeof end_signals[0] };

/* ---- telling --------------------------------------------------------------------------------- */

void mh__at_engine_log(const mh_engine *e, const char *format, ...)
{
    char date[MH__DATE_SIZE];
    va_list args;
    mh__date_write(mh__os_wall_ns(), date);
    fprintf(stderr, "%s manyhands engine", date);
    if (e->id >= 0)
        fprintf(stderr, " %lld", (long long)e->id);
    fputs(": ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

void mh__at_engine_end(mh_engine *e, mh_err err)
{
    if (!e->must_stop)
        e->end = err;
    e->must_stop = true;
}

/* ---- registration ---------------------------------------------------------------------------- */

static mh_err send_to_registrar(mh_engine *e, const char *type, const char *content)
{
    mh__parcel *p = NULL;
    mh__built built;
    mh_err err = mh__parcel_create(&p);
    if (!err)
        err = mh__session_build(&e->session, &(mh__draft){.type = type, .content = mh__text(content), .unix_ns = mh__os_wall_ns()}, &built);
    for (size_t i = 0; !err && i < MH__FRAMES_SIGNED; i++)
        err = mh__parcel_add(p, built.frames[i]);
    if (!err)
        err = mh__socket_send(e->registrar, p);
    mh__parcel_destroy(&p);
    return err;
}

static void ask_to_register(mh_engine *e)
{
    char content[MH__AT_ENGINE_UUID_SIZE + 64];
    int64_t id = e->id >= 0 ? e->id : e->wanted_id;
    if (id >= 0)
        snprintf(content, sizeof content, "{\"uuid\":\"%s\",\"id\":%lld,\"x_holds\":true}", e->uuid, (long long)id);
    else
        snprintf(content, sizeof content, "{\"uuid\":\"%s\",\"x_holds\":true}", e->uuid);
    if (send_to_registrar(e, "registration_request", content))
        mh__at_engine_log(e, "registering: %s", mh_err_detail());
}

/* Once the executor can run something. */
void mh__at_engine_register(mh_engine *e)
{
    e->register_until = mh_deadline_in(e->register_timeout_ns);
    ask_to_register(e);
    mh__alarm_set(e->loop, &e->register_alarm, mh_deadline_in(RETRY_MS * MH_MILLISECOND));
}

static void on_register_alarm(void *ctx)
{
    mh_engine *e = ctx;
    if (e->is_registered)
        return;
    if (!e->is_executor_ready) {
        mh__fail(MH_ERR_TIMEOUT, "the executor did not get ready");
        mh__at_engine_end(e, MH_ERR_TIMEOUT);
        return;
    }
    if (e->id < 0 && mh_now() >= e->register_until) { /* it never was registered */
        mh__fail(MH_ERR_TIMEOUT, "the controller at %s, port %u, did not answer", e->connection.interface_, e->connection.registration);
        mh__at_engine_end(e, MH_ERR_TIMEOUT);
        return;
    }
    if (e->id >= 0)
        ask_to_register(e);
    mh__alarm_set(e->loop, &e->register_alarm, mh_deadline_in(RETRY_MS * MH_MILLISECOND));
}

static mh_err url_of(const mh_engine *e, uint16_t port, char url[URL_SIZE]) { return mh__connection_url(&e->connection, port, url, URL_SIZE); }

static mh_err connect_to(mh_engine *e, mh__socket *s, uint16_t port)
{
    char url[URL_SIZE];
    mh_err err = url_of(e, port, url);
    return err ? err : mh__socket_connect(s, url);
}

/* The broadcast tree has leaves; which is this engine's depends on its number. */
static mh_err join_broadcast(mh_engine *e)
{
    if (e->has_broadcast || !e->connection.broadcast_count)
        return MH_OK;
    e->has_broadcast = true;
    return connect_to(e, e->shell, e->connection.broadcast[(uint64_t)e->id % e->connection.broadcast_count]);
}

/* Not before: a stock controller takes an engine up when it hears its heart for the first time after it registered. */
static mh_err join_heartbeats(mh_engine *e)
{
    mh_err err = connect_to(e, e->pong, e->connection.hb_pong);
    return err ? err : connect_to(e, e->ping, e->connection.hb_ping);
}

static void be_registered(mh_engine *e, int64_t id, int64_t period_ms)
{
    bool is_first = e->id < 0;
    mh_err err = is_first ? join_heartbeats(e) : MH_OK;
    if (err) {
        mh__at_engine_end(e, err);
        return;
    }
    if (!is_first && id != e->id)
        mh__at_engine_log(e, "the controller calls this engine %lld now", (long long)id);
    e->id = id;
    e->is_registered = true;
    e->beat_period_ns = (period_ms > 0 ? period_ms : BEAT_MS) * MH_MILLISECOND;
    e->last_ping_ns = mh_now();
    if (join_broadcast(e))
        mh__at_engine_log(e, "no broadcast: %s", mh_err_detail());
    mh__alarm_set(e->loop, &e->beat_alarm, mh_deadline_in(e->beat_period_ns));
    mh__at_engine_fast_start(e);
    mh__at_engine_log(e, is_first ? "Completed registration with id %lld" : "Registered again with id %lld", (long long)id);
    if (is_first && e->on_registered)
        e->on_registered(id, e->on_registered_ctx);
}

static void be_refused(mh_engine *e, mh__json why)
{
    mh_bytes text = MH__TEXT("no reason given");
    mh__json_plain(why, &text);
    if (e->id >= 0) { /* it was registered before, and the controller remembers: it was only slow */
        e->is_registered = true;
        e->last_ping_ns = mh_now();
        return;
    }
    mh__fail(MH_ERR_PERMISSION, "the controller refused this engine: %.*s", (int)text.size, (const char *)text.data);
    mh__at_engine_end(e, MH_ERR_PERMISSION);
}

static void on_registrar(mh__socket *s, mh__parcel *p, void *ctx)
{
    mh_engine *e = ctx;
    mh__message m;
    mh__header h;
    mh__json said[4];
    const char *const keys[] = {"status", "id", "hb_period", "evalue"};
    int64_t id, period = 0;
    (void)s;
    if (mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &m) || mh__message_verify(&m, &e->session.signer) ||
        mh__header_read(m.header, &h) || mh__json_pick(m.content, keys, 4, said)) {
        mh__at_engine_log(e, "an answer of the controller was dropped: %s", mh_err_detail());
        return;
    }
    if (!mh__bytes_are(h.msg_type, "registration_reply") || e->is_registered)
        return;
    mh__json_int(said[2], &period);
    if (mh__json_is(said[0], "ok") && mh__json_int(said[1], &id) && id >= 0)
        be_registered(e, id, period);
    else
        be_refused(e, said[3]);
}

/* The connection by which this engine registered ended, and is there again: the controller may have given it up meanwhile, or be another. One that
 * has not refuses, which is as good. */
static void on_registrar_peer(mh__socket *s, mh__peer_event event, int connection, void *ctx)
{
    mh_engine *e = ctx;
    (void)s;
    (void)connection;
    if (event == MH__PEER_GONE && e->id >= 0) {
        e->was_cut_off = true;
    } else if (event == MH__PEER_READY && e->was_cut_off) {
        e->was_cut_off = false;
        e->is_registered = false;
        on_register_alarm(e);
    }
}

/* ---- heartbeats ------------------------------------------------------------------------------ */

static void on_ping(mh__socket *s, mh__parcel *p, void *ctx)
{
    mh_engine *e = ctx;
    (void)s;
    e->last_ping_ns = mh_now();
    if (mh__socket_send(e->pong, p) && e->verbose)
        mh__at_engine_log(e, "a heartbeat is lost: %s", mh_err_detail());
}

static void on_beat_alarm(void *ctx)
{
    mh_engine *e = ctx;
    int64_t patience_ns = MH__MAX(e->beat_period_ns * e->missed_beats_max, PATIENCE_LEAST_NS);
    if (e->is_registered && mh_now() - e->last_ping_ns > patience_ns) {
        mh__at_engine_log(e, "no heartbeat for %lld ms: registering anew", (long long)((mh_now() - e->last_ping_ns) / MH_MILLISECOND));
        e->is_registered = false;
        on_register_alarm(e);
    }
    mh__alarm_set(e->loop, &e->beat_alarm, mh_deadline_in(e->beat_period_ns));
}

/* ---- sockets --------------------------------------------------------------------------------- */

static mh_err open_socket(mh_engine *e, mh__socket **out, mh__socket_kind kind, mh__message_fn fn)
{
    bool is_curve = e->connection.curve_serverkey[0];
    return mh__socket_open(out, e->loop, &(mh__socket_options){
        .kind = kind,
        .identity = kind == MH__SUB ? (mh_bytes){0} : mh__text(e->uuid),
        .linger_ms = LINGER_MS,
        .heartbeat_ms = LINK_BEAT_MS,
        .on_peer = out == &e->registrar ? on_registrar_peer : NULL,
        .curve_server = is_curve ? e->connection.curve_serverkey : NULL,
        .curve_public = is_curve ? e->curve.public_key : NULL,
        .curve_own_secret = is_curve ? e->curve.secret_key : NULL,
        .on_message = fn,
        .ctx = e,
    });
}

static mh_err open_sockets(mh_engine *e)
{
    const struct {
        mh__socket **socket;
        mh__socket_kind kind;
        mh__message_fn fn;
        uint16_t ports[2];
    } wanted[] = {
        {&e->registrar, MH__DEALER, on_registrar, {e->connection.registration}},
        {&e->shell, MH__ROUTER, mh__at_engine_on_request, {e->connection.mux, e->connection.task}},
        {&e->control, MH__ROUTER, mh__at_engine_on_control, {e->connection.control}},
        {&e->iopub, MH__PUB, NULL, {e->connection.iopub}},
        {&e->pong, MH__DEALER, NULL, {0}},
        {&e->ping, MH__SUB, on_ping, {0}},
    };
    mh_err err = MH_OK;
    for (size_t i = 0; !err && i < sizeof wanted / sizeof wanted[0]; i++) {
        err = open_socket(e, wanted[i].socket, wanted[i].kind, wanted[i].fn);
        for (size_t j = 0; !err && j < 2 && wanted[i].ports[j]; j++)
            err = connect_to(e, *wanted[i].socket, wanted[i].ports[j]);
    }
    if (!err)
        err = mh__socket_subscribe(e->ping, (mh_bytes){0});
    return err;
}

static void close_sockets(mh_engine *e)
{
    mh__socket **all[] = {&e->registrar, &e->shell, &e->control, &e->iopub, &e->ping, &e->pong};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        mh__socket_close(all[i]);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* The controller may still be starting. */
static mh_err wait_for_file(mh_engine *e, const char *path, int64_t wait_ns)
{
    mh_deadline until = mh_deadline_in(wait_ns);
    while (wait_ns > 0 && !mh__os_path_exists(path) && mh_now() < until) {
        mh_err err = mh__os_wait_readable(e->stop_bell, mh__os_sooner(until, LOOK_AGAIN_MS * MH_MILLISECOND));
        if (err != MH_ERR_TIMEOUT)
            return err ? err : mh__fail(MH_ERR_CANCELLED, "stopped before it began");
    }
    return MH_OK;
}

static mh_err read_connection(mh_engine *e, const mh_engine_options *o)
{
    mh_buf *file = NULL;
    mh_bytes text = o->connection_text ? mh__text(o->connection_text) : (mh_bytes){0};
    mh_err err = MH_OK;
    if (!o->connection_text) {
        if (!o->connection_file)
            return mh__fail(MH_ERR_INVALID, "an engine needs connection_file or connection_text");
        err = wait_for_file(e, o->connection_file, o->connection_wait_ns);
        if (!err)
            err = mh__os_file_read_private(&file, o->connection_file, MH__CONNECTION_FILE_MAX);
        if (!err)
            text = (mh_bytes){mh_buf_data(file), mh_buf_size(file)};
    }
    if (!err)
        err = mh__connection_read(text, &e->connection);
    if (!err && !e->connection.is_engine)
        err = mh__fail(MH_ERR_INVALID, "this connection file is for clients: an engine needs the one that ends in -engine.json");
    if (!err) {
        char host[256];
        mh__os_host_name(host, sizeof host);
        err = mh__connection_find_host(&e->connection, host);
    }
    if (file)
        mh__secret_clear(mh_buf_data(file), mh_buf_size(file));
    mh_buf_destroy(&file);
    return err;
}

static mh_err make_identity(mh_engine *e)
{
    char secret[MH__SECRET_SIZE];
    mh_err err = mh__secret_create(secret);
    if (err)
        return err;
    snprintf(e->uuid, sizeof e->uuid, "%.8s-%.4s-4%.3s-a%.3s-%.12s", secret, secret + 8, secret + 12, secret + 15, secret + 18);
    snprintf(e->session.id, sizeof e->session.id, "%.32s", secret + 30);
    snprintf(e->session.username, sizeof e->session.username, "engine");
    if (e->connection.key[0])
        err = mh__sign_key_create(&e->key, mh__text(e->connection.key));
    if (!err)
        e->session.signer = mh__sign_key_signer(e->key);
    e->session.is_strict = e->connection.buffers[0] != 0;
    if (!err && e->connection.curve_serverkey[0])
        err = mh__curve_pair_create(&e->curve);
    return err;
}

static mh_err start_executor(mh_engine *e, const mh_engine_options *o)
{
    char beside[PATH_SIZE];
    bool is_there = mh__os_path_beside_program("python3", beside, sizeof beside) == MH_OK && mh__os_path_exists(beside);
    const char *const python[] = {is_there ? beside : "python3", "-m", "manyhands.parallel.engine", NULL};
    mh__executor_events events = mh__at_engine_events(e);
    if (o->library)
        return mh__native_executor_create(&e->executor, e->loop, o->library, &events);
    return mh__python_executor_create(&e->executor, e->loop, o->python_argv ? o->python_argv : python, mh__text(o->settings ? o->settings : "{}"),
                                      &events);
}

static void take_signal(int fd, void *ctx)
{
    mh_engine *e = ctx;
    if (fd == e->stop_bell) {
        mh__os_eventfd_clear(fd);
        mh__at_engine_end(e, MH_OK);
        return;
    }
    int number = mh__os_signals_take(fd);
    if (number == SIGTERM) {
        mh__at_engine_log(e, "SIGTERM: stopping");
        mh__at_engine_end(e, MH_OK);
    } else if (number && e->is_executor_ready && (number != SIGINT || e->running)) { /* it is meant for the task */
        if (mh__executor_signal(e->executor, number))
            mh__at_engine_log(e, "%s was not passed on: %s", strsignal(number), mh_err_detail());
    } else if (number) {
        mh__at_engine_log(e, "ignoring %s; stop an engine with SIGTERM", strsignal(number));
    }
}

static mh_err set_up(mh_engine *e, const mh_engine_options *o)
{
    mh_err err = mh__os_eventfd(&e->stop_bell);
    if (!err)
        err = read_connection(e, o);
    if (!err)
        err = make_identity(e);
    if (!err)
        err = mh__parcel_create(&e->lane_in);
    if (!err)
        err = mh__lents_create(&e->lents, false);
    for (int i = 0; i < 2 && !err; i++)
        err = mh_buf_create(&e->texts[i], 0);
    if (!err)
        err = mh__loop_create(&e->loop);
    if (!err)
        err = start_executor(e, o); /* before the sockets, which bring threads: it may fork */
    if (!err)
        err = mh__loop_add_fd(e->loop, e->stop_bell, take_signal, e);
    if (!err)
        err = open_sockets(e);
    return err;
}

mh_err mh_engine_create(mh_engine **out, const mh_engine_options *o)
{
    *out = NULL;
    if (o->library && o->python_argv)
        return mh__fail(MH_ERR_INVALID, "an engine runs a library or Python, not both");
    mh_engine *e = mh__calloc(1, sizeof *e);
    if (!e)
        return MH_ERR_NO_MEMORY;
    e->id = -1;
    e->wanted_id = o->wants_id ? (int64_t)o->wanted_id : -1;
    e->register_timeout_ns = o->register_timeout_ns ? o->register_timeout_ns : REGISTER_NS;
    e->missed_beats_max = o->missed_beats_max ? o->missed_beats_max : MISSED_BEATS;
    e->verbose = o->verbose;
    e->on_registered = o->on_registered;
    e->on_registered_ctx = o->on_registered_ctx;
    e->stop_bell = e->signals = -1;
    mh__list_init(&e->queue);
    mh__list_init(&e->ahead);
    e->lane_alarm = (mh__alarm){.fn = mh__at_engine_fast_alarm, .ctx = e};
    mh__list_init(&e->unsent);
    e->register_alarm = (mh__alarm){.fn = on_register_alarm, .ctx = e};
    e->beat_alarm = (mh__alarm){.fn = on_beat_alarm, .ctx = e};
    e->unsent_alarm = (mh__alarm){.fn = mh__at_engine_send_unsent, .ctx = e};
    mh_err err = set_up(e, o);
    if (err) {
        mh_engine_destroy(&e);
        return err;
    }
    *out = e;
    return MH_OK;
}

/* Who leaves says so, that nobody waits for its heartbeat. */
static void say_goodbye(mh_engine *e)
{
    char content[64];
    if (e->id < 0)
        return;
    snprintf(content, sizeof content, "{\"id\":%lld}", (long long)e->id);
    if (send_to_registrar(e, "unregistration_request", content))
        mh__at_engine_log(e, "leaving without a word: %s", mh_err_detail());
}

mh_err mh_engine_run(mh_engine *e)
{
    mh_err err = mh__os_signals_open(&e->signals, end_signals, END_SIGNALS);
    if (!err)
        err = mh__loop_add_fd(e->loop, e->signals, take_signal, e);
    if (!err)
        mh__alarm_set(e->loop, &e->register_alarm, mh_deadline_in(READY_NS));
    while (!err && !e->must_stop) {
        mh_deadline until = mh__executor_settle(e->executor, false);
        mh__at_engine_fast_flush(e);
        if (until != MH_NOW && e->running && !e->ahead_count) { /* what there was to say is said */
            until = mh__executor_settle(e->executor, true);
            mh__at_engine_fast_flush(e);
        }
        err = mh__loop_wait(e->loop, until);
        if (err == MH_ERR_INTERRUPTED || err == MH_ERR_TIMEOUT)
            err = MH_OK;
        mh__executor_wake(e->executor);
        mh__loop_dispatch(e->loop);
    }
    mh__at_engine_fast_flush(e);
    say_goodbye(e);
    if (e->signals >= 0)
        mh__loop_remove_fd(e->loop, e->signals);
    mh__os_signals_close(&e->signals, end_signals, END_SIGNALS);
    return err ? err : e->end;
}

void mh_engine_stop(mh_engine *e) { mh__os_eventfd_set(e->stop_bell); }

int64_t mh_engine_id(const mh_engine *e) { return e->id; }

void mh_engine_destroy(mh_engine **e)
{
    mh_engine *gone = *e;
    if (!gone)
        return;
    mh__executor_destroy(&gone->executor);
    mh__at_engine_fast_stop(gone);
    mh__at_engine_drop_jobs(gone);
    mh__at_engine_drop_unsent(gone);
    close_sockets(gone);
    mh__loop_destroy(&gone->loop);
    mh__os_close(&gone->stop_bell);
    mh__sign_key_destroy(&gone->key);
    mh__secret_clear(&gone->curve, sizeof gone->curve);
    mh__secret_clear(&gone->connection, sizeof gone->connection);
    mh_buf_destroy(&gone->last_header);
    mh_buf_destroy(&gone->texts[0]);
    mh_buf_destroy(&gone->texts[1]);
    mh__parcel_destroy(&gone->lane_in);
    mh__lents_destroy(&gone->lents);
    mh__free(gone->aborted);
    mh__free(gone);
    *e = NULL;
}
