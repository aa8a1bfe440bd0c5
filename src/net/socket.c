#include "net/socket.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "net/loop_state.h"
#include "net/parcel_frames.h"
#include "os/fd.h"
#include "os/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HIGH_WATER = 10000,
    LINGER_MS = 1000,
    HANDSHAKE_MS = 5000, /* a peer that connects and says nothing is cut off after this */
    BACKLOG = 1024,
    HEARTBEATS_MISSED = 3,
};
#define FRAME_BYTES_MAX ((INT64_C(1) << 31) + (1 << 16))

typedef struct watch {
    mh__source base;
    mh__socket *of;
    void *socket;
} watch;

struct mh__socket {
    mh__source base;
    mh__loop *loop;
    void *socket;
    mh__parcel *incoming;
    watch *watch;
    mh__socket_kind kind;
    bool is_encrypted, is_paused;
    uint16_t port;
    size_t connections, connections_max;
    mh__connection_budget *budget;
    mh__message_fn on_message;
    mh__peer_fn on_peer;
    void *ctx;
};

/* ---- receiving and sending ------------------------------------------------------------------- */

static mh_err zmq_error(int saved_errno, const char *what)
{
    if (saved_errno == EADDRINUSE)
        return mh__fail_errno(MH_ERR_EXISTS, saved_errno, "%s", what);
    return mh__fail(mh__err_from_errno(saved_errno), "%s: %s", what, zmq_strerror(saved_errno));
}

static mh_err receive_rest(mh__socket *s, mh__parcel *p)
{
    mh_err err = MH_OK;
    for (bool more = true; more;) {
        zmq_msg_t spare, *frame = &spare;
        if (!err)
            err = mh__parcel_reserve(p);
        if (!err)
            frame = &p->frames[p->count];
        zmq_msg_init(frame);
        while (zmq_msg_recv(frame, s->socket, ZMQ_DONTWAIT) < 0) {
            if (errno == EINTR)
                continue;
            int saved = errno;
            zmq_msg_close(frame);
            mh__parcel_clear(p);
            return saved == EAGAIN ? MH_ERR_EMPTY : zmq_error(saved, "receiving");
        }
        more = zmq_msg_more(frame);
        if (frame == &spare)
            zmq_msg_close(frame);
        else
            mh__parcel_count_in(p);
    }
    return err;
}

mh_err mh__socket_receive(mh__socket *s, mh__parcel *p)
{
    mh__parcel_clear(p);
    mh__source_touch(s->loop, &s->base);
    mh_err err = receive_rest(s, p);
    p->is_received = true;
    if (err)
        mh__parcel_clear(p);
    else
        p->connection = s->on_peer ? zmq_msg_get(&p->frames[p->count - 1], ZMQ_SRCFD) : -1; /* a ROUTER's first frame may not know */
    return err;
}

mh_err mh__socket_send(mh__socket *s, mh__parcel *p)
{
    if (p->count == 0)
        return mh__fail(MH_ERR_INVALID, "a message without frames");
    mh__source_touch(s->loop, &s->base);
    for (size_t i = 0; i < p->count; i++) {
        int flags = ZMQ_DONTWAIT | (i + 1 < p->count ? ZMQ_SNDMORE : 0);
        while (zmq_msg_send(&p->frames[i], s->socket, flags) < 0) {
            if (errno == EINTR)
                continue;
            if (i > 0) { /* zmq takes all frames after the first, or drops them with their peer */
                mh__parcel_clear(p);
                return zmq_error(errno, "sending the rest of a message");
            }
            if (errno == EAGAIN)
                return MH_ERR_FULL;
            return errno == EHOSTUNREACH ? MH_ERR_NOT_FOUND : zmq_error(errno, "sending");
        }
    }
    mh__parcel_clear(p); /* closes frames that are empty now */
    return MH_OK;
}

static bool look(mh__source *base)
{
    mh__socket *s = (mh__socket *)base;
    int events = 0;
    size_t size = sizeof events; /* asked in any case: it takes the commands that make the descriptor readable */
    return zmq_getsockopt(s->socket, ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLIN) && s->on_message && !s->is_paused;
}

static void run(mh__source *base)
{
    mh__socket *s = (mh__socket *)base;
    for (int i = 0; i < MH__LOOP_BATCH && !base->is_closed && !s->is_paused; i++) {
        mh_err err = mh__socket_receive(s, s->incoming);
        if (err == MH_ERR_EMPTY)
            break;
        if (!err)
            s->on_message(s, s->incoming, s->ctx);
    }
}

/* ---- watching connections -------------------------------------------------------------------- */

static void tell(mh__socket *s, mh__peer_event event, int connection)
{
    if (s->on_peer)
        s->on_peer(s, event, connection, s->ctx);
}

/* libzmq accepts whatever comes. Ending a connection's traffic makes it look as if its peer had closed it. */
static void take_accepted(mh__socket *s, int connection)
{
    bool is_excess = (s->connections_max && s->connections >= s->connections_max) || (s->budget && s->budget->used >= s->budget->max);
    s->connections++;
    if (s->budget)
        s->budget->used++;
    if (is_excess)
        mh__os_socket_cut(connection, s->port);
    tell(s, is_excess ? MH__PEER_EXCESS : MH__PEER_ACCEPTED, connection);
}

static void take_gone(mh__socket *s, int connection)
{
    bool was_accepted = s->connections > 0; /* those of a socket that connects are not counted */
    if (was_accepted)
        s->connections--;
    if (was_accepted && s->budget && s->budget->used)
        s->budget->used--;
    tell(s, MH__PEER_GONE, connection);
}

static void run_watch(mh__source *base)
{
    watch *w = (watch *)base;
    zmq_msg_t event, address;
    zmq_msg_init(&event);
    zmq_msg_init(&address);
    while (!base->is_closed && zmq_msg_recv(&event, w->socket, ZMQ_DONTWAIT) >= 0) {
        unsigned char bytes[6] = {0};
        uint16_t kind;
        int32_t value;
        memcpy(bytes, zmq_msg_data(&event), MH__MIN(zmq_msg_size(&event), sizeof bytes));
        memcpy(&kind, bytes, sizeof kind);
        memcpy(&value, bytes + 2, sizeof value);
        if (zmq_msg_more(&event) && zmq_msg_recv(&address, w->socket, ZMQ_DONTWAIT) < 0)
            break;
        mh__socket *s = w->of;
        if (kind == ZMQ_EVENT_ACCEPTED)
            take_accepted(s, value);
        else if (kind == ZMQ_EVENT_DISCONNECTED)
            take_gone(s, value);
        else if (kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
            tell(s, MH__PEER_READY, value);
        else if (kind != ZMQ_EVENT_MONITOR_STOPPED)
            tell(s, MH__PEER_REFUSED, -1);
    }
    zmq_msg_close(&event);
    zmq_msg_close(&address);
}

static bool look_watch(mh__source *base)
{
    int events = 0;
    size_t size = sizeof events;
    return zmq_getsockopt(((watch *)base)->socket, ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLIN);
}

static void destroy_watch(mh__source *base)
{
    zmq_close(((watch *)base)->socket);
    mh__free(base);
}

static mh_err fd_of(void *socket, int *fd)
{
    size_t size = sizeof *fd;
    return zmq_getsockopt(socket, ZMQ_FD, fd, &size) < 0 ? zmq_error(errno, "a socket's descriptor") : MH_OK;
}

static mh_err open_watch(mh__socket *s)
{
    char name[64];
    int unlimited = 0;
    watch *w = mh__calloc(1, sizeof *w);
    mh_err err = MH_OK;
    if (!w)
        return MH_ERR_NO_MEMORY;
    snprintf(name, sizeof name, "inproc://watch-%llu", (unsigned long long)s->loop->monitor_count++);
    w->base = (mh__source){.look = look_watch, .run = run_watch, .destroy = destroy_watch};
    w->of = s;
    w->socket = zmq_socket(s->loop->context, ZMQ_PAIR);
    if (!w->socket)
        err = zmq_error(errno, "opening a socket");
    /* no limit here: an I/O thread that can't tell an event would stand still, and each event is a connection, which are limited */
    else if (zmq_setsockopt(w->socket, ZMQ_RCVHWM, &unlimited, sizeof unlimited) < 0 ||
             zmq_socket_monitor(s->socket, name,
                                ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                                    ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) < 0 ||
             zmq_connect(w->socket, name) < 0)
        err = zmq_error(errno, "watching a socket");
    if (!err)
        err = fd_of(w->socket, &w->base.fd);
    if (!err)
        err = mh__source_add(s->loop, &w->base);
    if (err) {
        if (w->socket)
            zmq_close(w->socket);
        mh__free(w);
        return err;
    }
    s->watch = w;
    return MH_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

static mh_err set_int(mh__socket *s, int option, int value)
{
    return zmq_setsockopt(s->socket, option, &value, sizeof value) < 0 ? zmq_error(errno, "a socket option") : MH_OK;
}

static mh_err set_text(mh__socket *s, int option, const char *value)
{
    return zmq_setsockopt(s->socket, option, value, strlen(value)) < 0 ? zmq_error(errno, "a CURVE key") : MH_OK;
}

static int or_default(int value, int otherwise) { return value ? value : otherwise; }

static mh_err set_keys(mh__socket *s, const mh__socket_options *o)
{
    mh_err err = MH_OK;
    if (o->curve_secret) {
        err = set_int(s, ZMQ_CURVE_SERVER, 1);
        if (!err)
            err = set_text(s, ZMQ_CURVE_SECRETKEY, o->curve_secret);
    } else if (o->curve_server) {
        if (!o->curve_public || !o->curve_own_secret)
            return mh__fail(MH_ERR_INVALID, "a CURVE client needs keys of its own");
        err = set_text(s, ZMQ_CURVE_SERVERKEY, o->curve_server);
        if (!err)
            err = set_text(s, ZMQ_CURVE_PUBLICKEY, o->curve_public);
        if (!err)
            err = set_text(s, ZMQ_CURVE_SECRETKEY, o->curve_own_secret);
    }
    s->is_encrypted = o->curve_secret || o->curve_server;
    return err;
}

static mh_err set_options(mh__socket *s, const mh__socket_options *o)
{
    int64_t frame_bytes = o->frame_bytes_max ? o->frame_bytes_max : FRAME_BYTES_MAX;
    const struct {
        int option, value;
        bool wanted;
    } numbers[] = {
        {ZMQ_SNDHWM, or_default(o->send_high_water, HIGH_WATER), true},
        {ZMQ_RCVHWM, or_default(o->receive_high_water, HIGH_WATER), true},
        {ZMQ_LINGER, o->linger_ms < 0 ? 0 : or_default(o->linger_ms, LINGER_MS), true},
        {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS, true},
        {ZMQ_BACKLOG, or_default(o->backlog, BACKLOG), true},
        {ZMQ_HEARTBEAT_IVL, o->heartbeat_ms, o->heartbeat_ms > 0},
        {ZMQ_HEARTBEAT_TIMEOUT, o->heartbeat_ms * HEARTBEATS_MISSED, o->heartbeat_ms > 0},
        {ZMQ_ROUTER_MANDATORY, 1, o->kind == MH__ROUTER},
        {ZMQ_XPUB_VERBOSE, 1, o->kind == MH__XPUB && o->tell_all_subscriptions},
        {ZMQ_RECONNECT_IVL, 50, true},
        {ZMQ_RECONNECT_IVL_MAX, 1000, true},
    };
    for (size_t i = 0; i < MH__COUNT_OF(numbers); i++) {
        mh_err err = numbers[i].wanted ? set_int(s, numbers[i].option, numbers[i].value) : MH_OK;
        if (err)
            return err;
    }
    if (zmq_setsockopt(s->socket, ZMQ_MAXMSGSIZE, &frame_bytes, sizeof frame_bytes) < 0 ||
        (o->identity.size && zmq_setsockopt(s->socket, ZMQ_ROUTING_ID, o->identity.data, o->identity.size) < 0))
        return zmq_error(errno, "a socket option");
    return set_keys(s, o);
}

static void destroy(mh__source *base)
{
    mh__socket *s = (mh__socket *)base;
    if (s->socket)
        zmq_close(s->socket);
    mh__parcel_destroy(&s->incoming);
    mh__free(s);
}

mh_err mh__socket_open(mh__socket **out, mh__loop *l, const mh__socket_options *o)
{
    static const int types[] = {0, ZMQ_ROUTER, ZMQ_DEALER, ZMQ_PUB, ZMQ_XPUB, ZMQ_SUB};
    *out = NULL;
    if (o->kind < MH__ROUTER || o->kind > MH__SUB)
        return mh__fail(MH_ERR_INVALID, "socket kind %d", (int)o->kind);
    mh__socket *s = mh__calloc(1, sizeof *s);
    if (!s)
        return MH_ERR_NO_MEMORY;
    s->base = (mh__source){.look = look, .run = run, .destroy = destroy};
    s->loop = l;
    s->kind = o->kind;
    s->on_message = o->on_message;
    s->on_peer = o->on_peer;
    s->connections_max = o->connections_max;
    s->budget = o->budget;
    s->ctx = o->ctx;
    mh_err err = mh__parcel_create(&s->incoming);
    if (!err && !(s->socket = zmq_socket(l->context, types[o->kind])))
        err = errno == EMFILE ? mh__fail(MH_ERR_LIMIT, "opening a socket: too many are open") : zmq_error(errno, "opening a socket");
    if (!err)
        err = set_options(s, o);
    if (!err)
        err = fd_of(s->socket, &s->base.fd);
    if (!err && (o->on_peer || o->connections_max || o->budget))
        err = open_watch(s);
    if (!err)
        err = mh__source_add(l, &s->base);
    if (err) {
        if (s->watch)
            mh__source_close(l, &s->watch->base);
        destroy(&s->base);
        return err;
    }
    *out = s;
    return MH_OK;
}

void mh__socket_close(mh__socket **s)
{
    if (!*s)
        return;
    if ((*s)->watch) {
        zmq_socket_monitor((*s)->socket, NULL, 0);
        mh__source_close((*s)->loop, &(*s)->watch->base);
    }
    mh__source_close((*s)->loop, &(*s)->base);
    *s = NULL;
}

/* ---- addresses ------------------------------------------------------------------------------- */

bool mh__interface_is_local(const char *interface_)
{
    static const char *const starts[] = {"ipc://", "inproc://", "tcp://127.", "tcp://localhost", "tcp://[::1]"};
    for (size_t i = 0; i < MH__COUNT_OF(starts); i++)
        if (!strncmp(interface_, starts[i], strlen(starts[i])))
            return true;
    return false;
}

static mh_err bind_ipc(mh__socket *s, const char *interface_, uint16_t *port)
{
    char url[512];
    for (unsigned n = *port ? *port : 1; n <= (*port ? *port : UINT16_MAX); n++) {
        int size = snprintf(url, sizeof url, "%s-%u", interface_, n);
        if (size < 0 || (size_t)size >= sizeof url)
            return mh__fail(MH_ERR_INVALID, "an address longer than %zu bytes", sizeof url);
        /* zmq would take over the file of another socket: a path that exists is not ours */
        if (!*port && mh__os_path_exists(url + strlen("ipc://")))
            continue;
        if (zmq_bind(s->socket, url) < 0)
            return zmq_error(errno, url);
        *port = s->port = (uint16_t)n;
        return MH_OK;
    }
    return mh__fail(MH_ERR_EXISTS, "%s: all names are taken", interface_);
}

mh_err mh__socket_bind(mh__socket *s, const char *interface_, uint16_t *port)
{
    char url[512];
    size_t size = sizeof url;
    if (!s->is_encrypted && !mh__interface_is_local(interface_))
        return mh__fail(MH_ERR_PERMISSION, "%s can be reached from other hosts: listening there needs CURVE keys", interface_);
    if (!strncmp(interface_, "ipc://", 6))
        return bind_ipc(s, interface_, port);
    char number[8] = "*";
    if (*port)
        snprintf(number, sizeof number, "%u", *port);
    if (snprintf(url, sizeof url, "%s:%s", interface_, number) >= (int)sizeof url)
        return mh__fail(MH_ERR_INVALID, "an address longer than %zu bytes", sizeof url);
    if (zmq_bind(s->socket, url) < 0)
        return zmq_error(errno, url);
    if (!*port) {
        if (zmq_getsockopt(s->socket, ZMQ_LAST_ENDPOINT, url, &size) < 0)
            return zmq_error(errno, "a socket's address");
        const char *colon = strrchr(url, ':');
        *port = (uint16_t)(colon ? atoi(colon + 1) : 0);
    }
    s->port = *port;
    return MH_OK;
}

mh_err mh__socket_connect(mh__socket *s, const char *url)
{
    return zmq_connect(s->socket, url) < 0 ? zmq_error(errno, url) : MH_OK;
}

mh_err mh__socket_subscribe(mh__socket *s, mh_bytes topic)
{
    return zmq_setsockopt(s->socket, ZMQ_SUBSCRIBE, topic.data ? topic.data : "", topic.size) < 0 ? zmq_error(errno, "subscribing")
                                                                                                 : MH_OK;
}

void mh__socket_pause(mh__socket *s, bool is_paused)
{
    if (s->is_paused && !is_paused)
        mh__source_touch(s->loop, &s->base);
    s->is_paused = is_paused;
}
