/* manyhands/client.h: a client of a controller, ours or a stock one: messages to engines, and what comes back.
 *
 *     mh_client *c = NULL;
 *     mh_client_message *m = NULL;
 *     char id[MH_CLIENT_ID_SIZE];
 *     mh_err err = mh_client_open(&c, &(mh_client_options){
 *         .connection_file = "/home/me/.ipython/profile_default/security/ipcontroller-client.json"});
 *     if (!err) err = mh_client_send(c, &(mh_client_request){.channel = MH_CLIENT_TASK, .type = "call_request",
 *                                        .content = {"{\"function\":\"square\"}", 21}, .buffers = &input, .buffer_count = 1},
 *                                    mh_deadline_in(MH_SECOND), id);
 *     while (!err && !(err = mh_client_take(c, mh_deadline_in(10 * MH_SECOND), &m)) && !is_reply_to(m, id))
 *         mh_client_message_free(&m);
 *     mh_client_message_free(&m);
 *     mh_client_close(&c);
 *
 * This is the lower half: signed messages out, verified messages in, nothing interpreted but who is there.
 *
 * A thread of the client's own runs its sockets. What waits to be sent and what waits to be taken is bounded; a controller that is gone
 * and comes back on the same ports is found again, and what waited is sent then.
 *
 * Threads: any thread may call any function here on one client, but mh_client_close only one, and none after it. A client does not survive a fork: in the
 * child every function returns MH_ERR_FORKED (or does nothing), and mh_client_close only closes copies of descriptors.
 */
#ifndef MANYHANDS_CLIENT_H
#define MANYHANDS_CLIENT_H

#include "manyhands/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mh_client mh_client;

/* ---- options --------------------------------------------------------------------------------- */

/* Zeroed means the defaults. Strings are copied. */
typedef struct mh_client_options {
    const char *connection_file; /* what the controller wrote for clients; only the owner may be able to read and write it */
    const char *connection_text; /* or its text itself */
    const char *username;        /* in what is sent; NULL: that of the environment. Characters other than plain ASCII become '_' */
    int64_t timeout_ns;          /* how long the controller may take to answer; 0: 10 s; negative: open does not wait, see mh_client_wait */
    size_t out_bytes_max;        /* what may wait to be sent, buffers included; 0: 256 MiB. One message is taken whatever its size */
    size_t in_bytes_max;         /* what may wait to be taken; 0: 256 MiB. Beyond it nothing is read, and it waits at the controller */
} mh_client_options;

/* ---- life ------------------------------------------------------------------------------------ */

/* Read the connection, connect, ask the controller who is there and wait for its answer.
 * errors: INVALID names the option; NOT_FOUND, PERMISSION, CORRUPT, TOO_LARGE the connection file; UNSUPPORTED another packer or signature scheme; TIMEOUT
 * no controller answers (detail says where, and whether it was reached at all); PERMISSION it refused; NO_MEMORY; LIMIT; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_client_open(mh_client **out, const mh_client_options *options);
/* Wait until the controller has answered, if it has not. errors: TIMEOUT; PERMISSION; BROKEN as in mh_client_take; FORKED. */
MH_API MH_NODISCARD mh_err mh_client_wait(mh_client *c, mh_deadline until);
/* Calls that wait return MH_ERR_CLOSED, and so do later ones: other threads leave before it is closed. threads: any. */
MH_API void mh_client_stop(mh_client *c);
/* Send what waits, for up to a second, and free everything; other calls that wait return MH_ERR_CLOSED. Every `release` has been called when
 * it returns. Messages that were taken stay valid. */
MH_API void mh_client_close(mh_client **c);

/* The name by which this client's messages go: ids are "<session>_<number>". owns: the client. */
MH_API const char *mh_client_session(const mh_client *c);

enum { MH_CLIENT_UUID_SIZE = 64 };
typedef struct mh_client_engine {
    int64_t id;
    char uuid[MH_CLIENT_UUID_SIZE];
} mh_client_engine;
/* Who is registered, by id, as far as this client knows; *count in: capacity, out: how many there are. */
MH_API void mh_client_engines(mh_client *c, mh_client_engine *out, size_t *count);

/* ---- sending --------------------------------------------------------------------------------- */

typedef enum mh_client_channel {
    MH_CLIENT_REGISTRATION = 1, /* queries to the controller */
    MH_CLIENT_MUX,              /* to one engine */
    MH_CLIENT_TASK,             /* to whichever engine the controller chooses */
    MH_CLIENT_CONTROL,          /* to one engine, past what it is doing */
    MH_CLIENT_BROADCAST,        /* to the engines that metadata.targets names */
    MH_CLIENT_IOPUB,            /* incoming only: what engines publish */
    MH_CLIENT_NOTIFICATION,     /* incoming only: engines that come and go */
} mh_client_channel;

enum { MH_CLIENT_ID_SIZE = 64 };
typedef struct mh_client_request {
    mh_client_channel channel;
    const char *engine;          /* mux and control: the uuid of the engine */
    const char *type;            /* "apply_request"; plain ASCII, up to 64 characters */
    mh_bytes content, metadata;  /* JSON objects as text; empty: {} */
    const mh_bytes *buffers;     /* raw bytes; the signature does not cover them */
    size_t buffer_count;         /* up to 60,000 */
    void (*release)(void *ctx);  /* NULL: buffers are copied. Else large ones are not; it is called once, from any thread (also inside this call), under no lock,
                                  * when no buffer is needed any more */
    void *release_ctx;
} mh_client_request;

/* Sign a message and queue it; its id is stored in id. Messages of one channel arrive in the order of their ids.
 * errors: FULL no room before `until`; INVALID names what is wrong with the request; CLOSED; BROKEN; FORKED; NO_MEMORY.
 * owns: after OK the buffers are lent until `release`; else nothing is, and `release` is not called. */
MH_API MH_NODISCARD mh_err mh_client_send(mh_client *c, const mh_client_request *request, mh_deadline until, char id[MH_CLIENT_ID_SIZE]);

/* ---- receiving ------------------------------------------------------------------------------- */

/* A message that came: its signature was right, it came once, and its four JSON frames are JSON. Everything lies in the message.
 *
 * On the notification channel the client itself says, beside what the controller publishes: "x_connection_lost" and "x_connection_back" (content {})
 * when the controller goes and returns, and after its return or a missed notification the registration_notification or
 * unregistration_notification of each engine that came or went meanwhile (their header holds msg_type alone). */
typedef struct mh_client_message {
    mh_client_channel channel;
    mh_bytes source;       /* the first identity: an engine's uuid on mux and control, the topic on iopub; else empty */
    mh_bytes type, id;     /* of the header */
    mh_bytes parent_id;    /* the request that it answers or belongs to; empty: none */
    mh_bytes header, parent, metadata, content; /* JSON objects as text */
    const mh_bytes *buffers;
    size_t buffer_count;
} mh_client_message;

/* The next message of any channel, in the order in which they came. errors: TIMEOUT; CLOSED; FORKED; BROKEN the client's own thread failed:
 * nothing more will come. owns: the caller. */
MH_API MH_NODISCARD mh_err mh_client_take(mh_client *c, mh_deadline until, mh_client_message **out);
/* Accepts NULL. threads: any; the client may be closed. */
MH_API void mh_client_message_free(mh_client_message **m);
/* A descriptor that is readable while a message can be taken, or BROKEN or CLOSED told: for event loops. errors: FORKED; SYSTEM. owns: the client. */
MH_API MH_NODISCARD mh_err mh_client_fd(mh_client *c, int *fd);

/* ---- looking in ------------------------------------------------------------------------------ */

typedef struct mh_client_stats {
    uint64_t sent, received;
    uint64_t refused, replayed;        /* badly signed or shaped; seen before: dropped */
    size_t out_bytes, out_count;       /* waiting to be sent */
    size_t in_bytes, in_count;         /* waiting to be taken */
    uint64_t reconnects;
} mh_client_stats;
MH_API void mh_client_stats_read(mh_client *c, mh_client_stats *out);

#ifdef __cplusplus
}
#endif
#endif
