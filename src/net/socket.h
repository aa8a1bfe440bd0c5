/* ZeroMQ sockets, with limits that are always finite and defaults that are safe.
 *
 *     mh__socket *s = NULL;
 *     uint16_t port = 0;
 *     mh_err err = mh__socket_open(&s, loop, &(mh__socket_options){.kind = MH__ROUTER, .identity = MH__TEXT("mux_out"),
 *                                                                 .on_message = relay, .ctx = me});
 *     if (!err) err = mh__socket_bind(s, "tcp://127.0.0.1", &port);
 *     ...
 *     mh__socket_close(&s);
 *
 * The one place that knows <zmq.h>. threads: the loop's.
 */
#ifndef MH_NET_SOCKET_H
#define MH_NET_SOCKET_H

#include "net/loop.h"
#include "net/parcel.h"

typedef enum mh__socket_kind {
    MH__ROUTER = 1, /* sends by identity: the first frame says to whom, and a peer that is not there is an error */
    MH__DEALER,
    MH__PUB,
    MH__XPUB, /* as PUB, and receives subscriptions: one frame, 1 or 0 and the topic */
    MH__SUB,
} mh__socket_kind;

typedef struct mh__socket mh__socket;
typedef void (*mh__message_fn)(mh__socket *s, mh__parcel *p, void *ctx); /* may mh__parcel_move p's frames away */

typedef enum mh__peer_event { MH__PEER_ACCEPTED = 1, MH__PEER_GONE, MH__PEER_REFUSED, MH__PEER_READY, MH__PEER_EXCESS } mh__peer_event;
/* A connection came, ended, failed its handshake, has gone through it (either end's), or came when there were as many as there may be, and was cut. `connection` is its descriptor, as in mh__parcel_connection: a number that is
 * used again once it is gone. */
typedef void (*mh__peer_fn)(mh__socket *s, mh__peer_event event, int connection, void *ctx);

typedef struct mh__connection_budget {
    size_t used, max;
} mh__connection_budget;

typedef struct mh__socket_options {
    mh__socket_kind kind;
    mh_bytes identity;         /* the routing id that peers see; empty: a random one */
    int send_high_water;       /* messages queued for each peer; 0: 10,000. Beyond it send says FULL (PUB and XPUB drop) */
    int receive_high_water;    /* the same for each peer's; 0: 10,000. Beyond it the peer waits */
    int64_t frame_bytes_max;   /* a peer that announces a larger frame is cut off; 0: 2 GiB + 64 KiB */
    int linger_ms;             /* how long close may go on sending; 0: 1,000; negative: not at all */
    int heartbeat_ms;          /* ping peers so often; those that don't answer within three of it are cut off; 0: don't */
    bool tell_all_subscriptions; /* XPUB: those too that it has from somebody else */
    size_t connections_max;    /* accepted at once; 0: no limit. Who comes beyond it is cut off, and the others notice nothing */
    mh__connection_budget *budget; /* the same for several sockets together; NULL: none */
    int backlog;               /* connections that wait to be accepted; 0: 1,024 */
    const char *curve_secret;  /* server: encrypt, and be the one with this secret key (Z85) */
    const char *curve_server;  /* client: the server's public key; with curve_public and curve_own_secret */
    const char *curve_public, *curve_own_secret;
    mh__message_fn on_message; /* NULL: only mh__socket_receive takes messages */
    mh__peer_fn on_peer;       /* NULL: don't watch */
    void *ctx;
} mh__socket_options;

/* Option strings are copied. errors: INVALID; LIMIT too many sockets; NO_MEMORY; SYSTEM. */
MH_NODISCARD mh_err mh__socket_open(mh__socket **out, mh__loop *l, const mh__socket_options *o);
void mh__socket_close(mh__socket **s);

/* Listen at a port of an interface ("tcp://127.0.0.1", "ipc:///folder/name": then port n is the file name-n). *port 0: any free
 * one, which is stored. errors: PERMISSION an interface beyond this host, without CURVE; EXISTS the port is taken; SYSTEM. */
MH_NODISCARD mh_err mh__socket_bind(mh__socket *s, const char *interface_, uint16_t *port);
/* Whether such an address can be reached from this host alone. */
bool mh__interface_is_local(const char *interface_);
/* Connect to a whole address, in the background, again and again. errors: INVALID. */
MH_NODISCARD mh_err mh__socket_connect(mh__socket *s, const char *url);
/* SUB: receive what begins with this (empty: everything). errors: SYSTEM. */
MH_NODISCARD mh_err mh__socket_subscribe(mh__socket *s, mh_bytes topic);

/* Send all frames of p, which is empty afterwards. Never waits. errors (p unchanged): FULL the high water mark; NOT_FOUND
 * no such peer (ROUTER); INVALID no frames; SYSTEM. */
MH_NODISCARD mh_err mh__socket_send(mh__socket *s, mh__parcel *p);
/* Take one message, dropping what p held. Never waits. errors: EMPTY; LIMIT the message had too many frames and was dropped;
 * NO_MEMORY; SYSTEM. */
MH_NODISCARD mh_err mh__socket_receive(mh__socket *s, mh__parcel *p);
/* Whether on_message is called no more for now: what comes waits in the socket up to its high water mark, then at its peers. */
void mh__socket_pause(mh__socket *s, bool is_paused);

#endif
