/* manyhands/client.h: a client of a controller, ours or a stock one.
 *
 *     mh_client *c = NULL;
 *     mh_balanced_view *v = NULL;
 *     mh_client_future *f = NULL;
 *     mh_client_result r;
 *     mh_err err = mh_client_open(&c, &(mh_client_options){
 *         .connection_file = "/home/me/.ipython/profile_default/security/ipcontroller-client.json"});
 *     if (!err) err = mh_client_balanced_view(c, &(mh_balanced_options){.retries = 3}, &v);
 *     if (!err) err = mh_balanced_view_submit(v, "square", (mh_bytes){&x, sizeof x}, NULL, &f);      // of a task library: see engine.h
 *     if (!err) err = mh_client_future_result(f, mh_deadline_in(10 * MH_SECOND), &r);
 *     if (!err && !r.err) use(r.value);
 *     mh_client_future_release(&f);
 *     mh_balanced_view_destroy(&v);
 *     mh_client_close(&c);
 *
 * The lower half moves messages: signed ones out, verified ones in, nothing interpreted but who is there. The upper half is made of it: views on
 * engines, and futures. One client has both; replies to calls of the upper half go to their futures, all else to who takes messages.
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
    bool no_fast_lane;           /* use only what stock peers understand, with a controller of ours on this host too */
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
    const char *msg_id;          /* NULL: a new one. Else that of a request that this client sent before, and does not know to have arrived: a controller of ours
                                  * that has it takes no second one, if the metadata say "x_ack": true, and answers again if it has ended */
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
 * when the controller goes and returns (lost is told after the last connection to it ended, if these end within three seconds: what is sent from then on waits for
 * its return), and after its return or a missed notification the registration_notification or
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

/* ---- futures --------------------------------------------------------------------------------- */

typedef struct mh_client_future mh_client_future;

/* How a call ended. Everything lies in the future. */
typedef struct mh_client_result {
    mh_err err;              /* OK; TASK_FAILED, or the code that a native function returned; WORKER_LOST the engine died, or the controller did and forgot
                              * it, or it was sent into a connection that was ending; CANCELLED; TIMEOUT it was not begun within options.wait_ns; NOT_FOUND
                              * what it waits for can't come about, or the engine has no such function; INVALID a dependency is not known; CLOSED the
                              * client was closed; NO_MEMORY */
    const char *ename, *evalue, *traceback; /* of a failure, as the engine tells it; else "" */
    int64_t engine_id;       /* where it ran; -1: not known */
    mh_bytes value;          /* the first buffer of the reply: what a native function replied */
    const mh_client_message *reply; /* all of it; NULL when none came */
} mh_client_result;

/* errors: TIMEOUT; FORKED. */
MH_API MH_NODISCARD mh_err mh_client_future_wait(mh_client_future *f, mh_deadline until);
MH_API bool mh_client_future_is_done(mh_client_future *f);
/* Wait and borrow the result, valid until the future is released; as often as wanted. errors: TIMEOUT; FORKED; NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_client_future_result(mh_client_future *f, mh_deadline until, mh_client_result *out);
/* Ask that it does not run. The result tells: CANCELLED, or how it ended. errors: CLOSED; FULL; NO_MEMORY; FORKED. */
MH_API MH_NODISCARD mh_err mh_client_future_cancel(mh_client_future *f);
/* Call fn(f, ctx) once when it is done: at once if it is, else from the client's thread, under no lock, in the order in which calls end. It may use the client,
 * but not wait for other calls. errors: INVALID one is set already; FORKED. */
MH_API MH_NODISCARD mh_err mh_client_future_on_done(mh_client_future *f, void (*fn)(mh_client_future *f, void *ctx), void *ctx);
/* The id of its request, for dependencies and queries. */
MH_API const char *mh_client_future_id(const mh_client_future *f);
/* Nothing is cancelled. Accepts NULL; the client may be closed. */
MH_API void mh_client_future_release(mh_client_future **f);

/* ---- the balanced view: the controller chooses the engine ------------------------------------ */

typedef struct mh_balanced_view mh_balanced_view;

/* Tasks to wait for. */
typedef struct mh_client_after {
    mh_client_future *const *items; /* of this client's balanced calls; borrowed during submit */
    size_t count;                   /* 0: none */
    bool any;                       /* one of them is enough; else all */
    bool on_failure, not_on_success; /* met also by tasks that fail; not by those that end well */
} mh_client_after;

/* Zeroed means the defaults. */
typedef struct mh_balanced_options {
    uint32_t retries;       /* further attempts, after a failure or after an engine's death */
    int64_t wait_ns;        /* longest time until an engine has it; 0: no limit */
    uint32_t priority;      /* 0 to 3, higher first; stock controllers have none */
    const int64_t *engines; /* ids of those that may run it; copied */
    size_t engine_count;    /* 0: any */
    mh_client_after after;  /* not before these have ended; for a call, not for a view */
    mh_client_after follow; /* the same, and where they ended */
} mh_balanced_options;

/* options NULL: the defaults of every call. errors: INVALID; NO_MEMORY. owns: the caller; before the client is closed. */
MH_API MH_NODISCARD mh_err mh_client_balanced_view(mh_client *c, const mh_balanced_options *options, mh_balanced_view **out);
MH_API void mh_balanced_view_destroy(mh_balanced_view **v);
/* Call a function of the engines' task library; input is copied. options NULL: the view's. Waits while too much waits to be sent.
 * errors: INVALID; CLOSED; BROKEN; FORKED; NO_MEMORY. owns: the caller releases *f. threads: any. */
MH_API MH_NODISCARD mh_err mh_balanced_view_submit(mh_balanced_view *v, const char *function, mh_bytes input, const mh_balanced_options *options,
                                                   mh_client_future **f);
/* Call it for each of `count` items of item_size bytes that lie one after the other in `in`, `chunk` of them (0: 1) in a call, and store the replies, each of
 * out_size bytes for each item of its call, in `out`. At most 10,000 calls are on their way at a time. errors: the first failure's, after what is on its way has
 * ended (detail says which); CORRUPT a reply of another size; TIMEOUT; those of submit. */
MH_API MH_NODISCARD mh_err mh_balanced_view_map(mh_balanced_view *v, const char *function, const void *in, size_t item_size, size_t count, void *out,
                                                size_t out_size, size_t chunk, mh_deadline until);

/* ---- the direct view: these engines, in this order ------------------------------------------- *
 *
 * With Python engines, ours or stock ones, values are JSON texts or raw bytes: push makes what json.loads gives, or a `bytes`; pull takes what json.dumps
 * can write, or anything with the buffer interface. They travel as text inside of code, bytes in base64: for megabytes, not for gigabytes.
 */

typedef struct mh_direct_view mh_direct_view;

/* engine_ids NULL: all that are registered now. errors: NOT_FOUND one is not registered, or none is; NO_MEMORY; FORKED. owns: the caller; before the client is
 * closed. */
MH_API MH_NODISCARD mh_err mh_client_direct_view(mh_client *c, const int64_t *engine_ids, size_t count, mh_direct_view **out);
MH_API void mh_direct_view_destroy(mh_direct_view **v);
MH_API size_t mh_direct_view_count(const mh_direct_view *v);

/* Call a native function on every engine; futures[i] (count of them) is that of the i-th. errors: those of submit (no future is left then). owns: the caller. */
MH_API MH_NODISCARD mh_err mh_direct_view_apply(mh_direct_view *v, const char *function, mh_bytes input, mh_client_future **futures);
/* As mh_balanced_view_map, in contiguous parts of near equal size, one for each engine, each in one call. */
MH_API MH_NODISCARD mh_err mh_direct_view_map(mh_direct_view *v, const char *function, const void *in, size_t item_size, size_t count, void *out,
                                              size_t out_size, mh_deadline until);
/* Run Python code on every engine. Output and display go to who takes messages. */
MH_API MH_NODISCARD mh_err mh_direct_view_execute(mh_direct_view *v, const char *code, mh_client_future **futures);
/* Each of these waits for every engine. errors: INVALID the name is no Python identifier, or the value no JSON; TIMEOUT; the first engine's failure (detail tells
 * it); those of submit. */
MH_API MH_NODISCARD mh_err mh_direct_view_push(mh_direct_view *v, const char *name, mh_bytes json, mh_deadline until);
MH_API MH_NODISCARD mh_err mh_direct_view_push_bytes(mh_direct_view *v, const char *name, mh_bytes value, mh_deadline until);
/* values[i] is that of the i-th engine. owns: the caller destroys each; none is left after an error. */
MH_API MH_NODISCARD mh_err mh_direct_view_pull(mh_direct_view *v, const char *name, mh_buf **values, mh_deadline until);
MH_API MH_NODISCARD mh_err mh_direct_view_pull_bytes(mh_direct_view *v, const char *name, mh_buf **values, mh_deadline until);
/* Cut items into contiguous parts of near equal size, one for each engine, and push them as bytes. */
MH_API MH_NODISCARD mh_err mh_direct_view_scatter(mh_direct_view *v, const char *name, const void *items, size_t item_size, size_t count, mh_deadline until);
/* Pull bytes from each, one after the other. owns: the caller. */
MH_API MH_NODISCARD mh_err mh_direct_view_gather(mh_direct_view *v, const char *name, mh_buf **out, mh_deadline until);

/* ---- looking in ------------------------------------------------------------------------------ */

typedef struct mh_client_stats {
    uint64_t sent, received;
    uint64_t fast;                     /* of those sent: by the fast lane */
    bool has_fast_lane;                /* now */
    uint64_t lent;                     /* requests whose large buffers (from 1 MiB on) went to the controller as memory, not as bytes */
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
