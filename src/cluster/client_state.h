/* What the files of the client share. `lane_lock` guards what is written to the fast lane, and is taken before `lock`; `lock` guards what the caller's threads and the client's own one both touch; no callback runs under it,
 * and it is taken inside no other lock of the library. The rest belongs to the client's thread. */
#ifndef MH_CLUSTER_CLIENT_STATE_H
#define MH_CLUSTER_CLIENT_STATE_H

#include "manyhands/client.h"

#include "base/list.h"
#include "cluster/brief.h"
#include "cluster/names.h"
#include "net/lane.h"
#include "net/lent.h"
#include "net/sign.h"
#include "net/socket.h"
#include "os/thread.h"
#include "wire/connection.h"
#include "wire/replay.h"

/* Metadata of calls of native functions, which print nothing: the engine need not publish when they begin and end. */
#define MH__CLIENT_QUIET "{\"x_quiet\":true}"

enum { MH__CLIENT_LENT_MAX = 16 };
enum { MH__CLIENT_CHANNELS = MH_CLIENT_NOTIFICATION + 1 };

/* A message on its way out. */
typedef struct mh__outgoing {
    mh__list link;
    mh__parcel *parcel;
    mh_client_channel channel;
    size_t bytes; /* counted in out_bytes until the socket has it; what is lent is counted by its loan */
} mh__outgoing;

/* A message on its way in; what the caller sees of it is its beginning. */
typedef struct mh__received {
    mh_client_message seen;
    mh__list link;
    mh__parcel *parcel; /* NULL: made here, in text[] */
    size_t bytes;
    char text[];
} mh__received;

typedef struct mh__client_channel {
    mh_client *client;
    mh_client_channel which;
    mh__socket *socket;
    mh__replay *replay;
    mh__list waiting; /* mh__outgoing that the socket has no room for yet */
    bool is_up;       /* connected: of those that are sent by */
} mh__client_channel;

/* What futures share with their client, and keep when it is closed. */
typedef struct mh__client_core {
    _Atomic size_t refs;
    unsigned fork_depth;
    mh__lock *lock;
    mh__cond *done;    /* a future that somebody waits for has ended */
    mh_client *client; /* NULL: closed. Under lock */
} mh__client_core;

/* A call. One reference is the caller's, one the table's in which it waits. Under the core's lock, but for what never changes. */
struct mh_client_future {
    _Atomic size_t refs;
    mh__client_core *core;
    mh__name name; /* in client->pending while is_pending */
    char id[MH_CLIENT_ID_SIZE];
    char uuid[MH_CLIENT_UUID_SIZE]; /* of the engine that it was sent to; "": balanced */
    int64_t sent_ns;
    mh_deadline fail_at;  /* its engine is gone; 0: no */
    unsigned waiters, looks;
    bool is_pending, is_done, is_read, has_fn, is_query, is_looked_for;
    mh_err err;
    const char *why;      /* static; NULL: the reply tells */
    mh_client_message *reply;
    mh__fast_task *brief; /* or the reply in brief: `reply` is made of it when somebody asks */
    mh_buf *texts;        /* ename, evalue, traceback at text_at[] */
    size_t text_at[3];
    void (*fn)(mh_client_future *f, void *ctx);
    void *fn_ctx;
};

struct mh_client {
    unsigned fork_depth;
    mh__client_core *core;
    mh__connection connection;
    mh__sign_key *key;      /* its signer belongs to who holds `lock` ... */
    mh__session session;    /* ... and so does `count` in here */
    mh__sign_key *read_key; /* this one's belongs to the client's thread */
    mh__signer reader;
    mh__curve_pair curve;
    size_t out_bytes_max, in_bytes_max;

    /* the client's thread */
    mh__thread *thread;
    mh__loop *loop;
    mh__client_channel channels[MH__CLIENT_CHANNELS];
    mh__alarm retry, refresh, stranded, look, lost;
    int64_t lost_ns; /* when the last connection ended that calls go by: what was sent before may be lost */
    bool was_ready, is_lost, is_lost_told, is_lane_lost;
    bool is_in_doubt; /* a connection ended, and who takes messages was not told yet */
    bool is_outdated; /* a notification came since we asked */
    char asked[MH_CLIENT_ID_SIZE]; /* the connection_request that waits for its answer, or "" */
    int bell;                      /* rung for: something to send, room to read again, the end */

    /* the fast lane: client_fast.c */
    mh__lock *lane_lock;
    mh__lane *lane;       /* set and closed by the client's thread, under lane_lock */
    mh__alarm lane_alarm;
    mh__lents *lents;
    mh__fast_task *came[256]; /* replies in brief that were read, and are given to their calls together */
    size_t came_count;

    /* under lock */
    bool is_fast;         /* the controller takes tasks by the lane, .. */
    bool is_brief;        /* .. and in brief */
    bool can_lend;        /* it takes large buffers by it */
    struct {
        char id[MH_CLIENT_ID_SIZE]; /* "": free */
        mh_deadline until;          /* its reply won't come any more */
    } lent[MH__CLIENT_LENT_MAX];    /* requests with large buffers that are under way */
    size_t lent_count;
    bool is_lane_settled; /* it does, or did not say so soon: calls need not wait for it to keep their order */
    mh_buf *fast_out;     /* records that wait for it */
    size_t fast_count;    /* how many */
    mh__lock *lock;    /* the core's */
    mh__names pending; /* of mh_client_future, by id */
    mh__cond *changed; /* room to send, a message to take, the controller's first answer, a user less, the end */
    mh__list out, in;
    size_t out_bytes, out_count, in_bytes, in_count;
    bool bell_rung, is_paused, is_closing, must_stop, is_known, was_reached;
    unsigned users;    /* calls that wait inside */
    int fd;            /* see mh_client_fd; -1: nobody asked */
    mh_err failure;    /* of the client's thread, or the controller's refusal */
    char why[256];
    mh_client_engine *engines;
    size_t engine_count, engine_capacity;
    mh_client_stats stats;
};

/* ---- client.c -------------------------------------------------------------------------------- */

/* FORKED in a child of the client's process. */
mh_err mh__client_check(const mh_client *c);
/* What a call that finds the client closing or failed is to return; with the lock. OK: neither. */
mh_err mh__client_state(const mh_client *c);
/* Wake the client's thread; with the lock. */
void mh__client_ring(mh_client *c);
/* A connection by which calls go has ended: those sent until now are looked for at the controller, soon or when it is back; its thread. */
void mh__client_may_have_lost(mh_client *c);
/* The controller has answered; its thread. */
void mh__client_note_back(mh_client *c);
/* Nothing works any more; with the lock. */
void mh__client_fail(mh_client *c, mh_err err, const char *why);

/* ---- client_send.c --------------------------------------------------------------------------- */

/* Hand what waits to the sockets. ctx: the client; its thread. */
void mh__client_flush(void *ctx);
void mh__client_drop_out(mh_client *c);

/* mh_client_send, and `f` (may be NULL) waits for the reply: its id is set. */
mh_err mh__client_send(mh_client *c, const mh_client_request *r, mh_deadline until, char id[MH_CLIENT_ID_SIZE], mh_client_future *f);

/* ---- client_future.c ------------------------------------------------------------------------- */

mh_err mh__client_core_create(mh_client *c);
void mh__client_core_drop(mh__client_core *core);
mh_err mh__client_future_create(mh_client *c, mh_client_future **out);
/* It waits for the reply to f->id; with the lock. */
mh_err mh__client_expect(mh_client *c, mh_client_future *f);
/* Give a message to the call that waits for it, which owns it then. False: none does. */
bool mh__client_deliver(mh_client *c, mh_client_message *m);
/* Give replies in brief, which it takes, to the calls that wait for them; those that nobody waits for are moved to the front of `came`. Their number. */
size_t mh__client_deliver_briefs(mh_client *c, mh__fast_task **came, size_t count);
/* Wait, and borrow what a call replied: as mh_client_future_result, which it calls unless it was a success in brief. */
mh_err mh__client_future_value(mh_client_future *f, mh_deadline until, mh_client_result *out);
/* Whether a call waits for the reply to this id. */
bool mh__client_is_expected(mh_client *c, mh_bytes id);
void mh__client_finish_all(mh_client *c);
void mh__client_engine_gone(mh_client *c, const char *uuid);
void mh__client_look_soon(mh_client *c);
void mh__client_fail_stranded(void *ctx); /* alarms; ctx: the client */
void mh__client_look_for_lost(void *ctx);

/* ---- client_fast.c --------------------------------------------------------------------------- */

/* Look for the controller's fast lane. ctx: the client; its thread, or before there is one. */
void mh__client_fast_look(void *ctx);
void mh__client_fast_settle(mh_client *c);
void mh__client_fast_close(mh_client *c);
/* With the lock: whether a request may go by the lane, and then put it there. errors: NO_MEMORY; INVALID. */
bool mh__client_fast_takes(const mh_client *c, const mh_client_request *r);
mh_err mh__client_fast_put(mh_client *c, const mh_client_request *r, char id[MH_CLIENT_ID_SIZE]);
/* Without the lock: hand what waits to the lane. False: it has no room for all of it. threads: any. */
bool mh__client_fast_flush(mh_client *c);

/* Pass large buffers by the lane, as long as few requests with such are not answered. `o` says which. threads: any; without the lock. */
void mh__client_fast_lend(mh_client *c, const mh_client_request *r, mh__lent_offer *o);
void mh__client_fast_lent(mh_client *c, const char *id);          /* with this request; with the lock */
void mh__client_fast_answered(mh_client *c, mh_bytes id);         /* which has its reply */
/* The message of a reply in brief. errors: NO_MEMORY; CORRUPT. */
mh_err mh__client_fast_see(mh_client_channel which, const mh__fast_task *t, mh_bytes id, mh__received **out);

/* ---- client_take.c --------------------------------------------------------------------------- */

void mh__client_on_message(mh__socket *s, mh__parcel *p, void *channel);
/* Queue a message that came; its thread. */
void mh__client_push(mh_client *c, mh__received *r);
/* Queue a message that the client itself makes; its thread. */
void mh__client_tell(mh_client *c, const char *type, const mh_client_engine *engine);
/* Read again if there is room; its thread. */
void mh__client_resume(mh_client *c);
void mh__client_drop_in(mh_client *c);

/* ---- client_engines.c ------------------------------------------------------------------------ */

/* The answer to a connection_request of our own; false: it was asked by the caller. */
bool mh__client_take_answer(mh_client *c, const mh_client_message *m);
/* A notification of the controller's. */
void mh__client_take_notification(mh_client *c, const mh_client_message *m);
/* The engine of this id; false: none is registered. threads: any. */
bool mh__client_engine_find(mh_client *c, int64_t id, mh_client_engine *out);
/* Ask who is there. */
void mh__client_ask(mh_client *c);
/* The same, unless an answer is still to come. ctx: the client. */
void mh__client_ask_again(void *ctx);

#endif
