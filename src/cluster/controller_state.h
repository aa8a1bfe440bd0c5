/* What the controller knows. One thread, one loop: nothing here is locked.
 *
 *     controller.c  life, sockets, the loop          engines.c  who is registered, and lives
 *     place.c       folders and connection files     jobs.c     requests and their results, while they live and after
 *     outbox.c      sending, and holding what        tasks.c    the load-balanced ones: the scheduler's driver
 *                   can't be sent yet                relay.c    mux, control, iopub
 *     reply.c       messages of our own              broadcast.c one request to many engines
 *     hub.c         queries                          query.c    which records a query means
 *     quota.c       how much waits for each client
 *     seen.c        what was admitted before it began
 *     durable.c     what is written down, and what   recover.c  what the last one left
 *                   waits until it is                holds.c    what engines have from before
 */
#ifndef MH_CLUSTER_CONTROLLER_STATE_H
#define MH_CLUSTER_CONTROLLER_STATE_H

#include "manyhands/controller.h"

#include "base/list.h"
#include "cluster/brief.h"
#include "cluster/journal.h"
#include "cluster/names.h"
#include "net/loop.h"
#include "net/sign.h"
#include "net/socket.h"
#include "wire/connection.h"
#include "wire/message.h"
#include "wire/replay.h"

/* ---- channels -------------------------------------------------------------------------------- */

typedef enum mh__channel {
    MH__CH_QUERY = 0, /* registration and queries; engines and clients */
    MH__CH_NOTIFY,
    MH__CH_MUX_IN, /* _IN: clients; _OUT: engines */
    MH__CH_MUX_OUT,
    MH__CH_TASK_IN,
    MH__CH_TASK_OUT,
    MH__CH_CONTROL_IN,
    MH__CH_CONTROL_OUT,
    MH__CH_BROADCAST_IN,
    MH__CH_BROADCAST_OUT,
    MH__CH_IOPUB_IN,
    MH__CH_IOPUB_OUT,
    MH__CH_PING,
    MH__CH_PONG,
    MH__CHANNELS
} mh__channel;

/* ---- records --------------------------------------------------------------------------------- */

typedef struct mh__engine mh__engine;

/* A multipart message that was received (or made here) and is kept; `at` is its delimiter's place. */
typedef struct mh__kept {
    mh__parcel *parcel;
    size_t at;
} mh__kept;

typedef struct mh__output { /* of a request, from iopub; each NULL until there is some */
    mh_buf *stdout_, *stderr_, *execute_input, *execute_result, *display_data, *error;
} mh__output;

typedef struct mh__job mh__job;
struct mh__job {
    mh__job *next_spare; /* in c->spare_jobs, while it is none */
    mh__name name;      /* in c->by_id, by msg_id, which lies in id[] */
    mh__list order;     /* in c->order: by submission */
    mh__list place;     /* in c->history when ended, else in its engine's queue or tasks */
    mh__engine *engine; /* while it is there */
    char engine_uuid[64];
    bool is_task, is_ended, is_unassigned;
    bool is_adopted; /* its engine had it before this controller began, and has not said yet whether it still has */
    bool is_resent;  /* its end was told, or told again, soon after this controller began */
    bool was_sent;   /* to an engine */
    bool has_pieces; /* in the journal */
    mh_sched_task task; /* tasks while they live */
    mh_sched_worker worker;
    uint32_t epoch;
    uint64_t token;  /* of its present attempt: no other attempt of any task has the same */
    uint64_t seq, ticket; /* in the journal: its number, and when it was written down */
    mh__list noisy;  /* in c->noisy: it printed what is not in the journal yet */
    mh__kept request, result; /* parcel NULL: none yet, or only in brief: mh__job_see */
    mh__fast_task *brief, *brief_result; /* as the fast lane brought them, or NULL; `who` and `user` of the request are its client's */
    bool is_plain;  /* the reply to it can be told in brief */
    uint32_t slot;  /* by which engines answer it in brief: see fast.c; 0: none */
    mh__output *output;
    char *resubmitted; /* the id that it was sent again under, or NULL */
    int64_t received_ns;
    size_t bytes;
    char id[];
};

/* ---- engines --------------------------------------------------------------------------------- */

struct mh__engine {
    mh__name name; /* in c->by_uuid; the key lies in uuid[] */
    mh__list link; /* in c->engines, by id */
    int64_t id;
    mh_sched_worker worker;
    mh__list queue, tasks; /* records that it was given and has not answered, oldest first */
    size_t queue_count, task_count;
    uint64_t completed;
    int connection;      /* of its registration; -1: gone */
    mh_deadline give_up; /* its connection ended: unless it says something before then, it is dead */
    int64_t beat_at;     /* when it last answered a ping, or registered */
    bool has_beaten;
    bool is_ours;        /* it can list what it holds */
    bool is_restored;    /* known from before the controller's last end, and not heard of since */
    int pong_connection; /* by which it answered last; -1: none */
    struct mh__fast_peer *fast; /* its fast lane; NULL: none */
    int64_t task_ns;     /* how long tasks of the fast lane take it, about; 0: not known */
    uint32_t capacity;   /* that it was given for that */
    int64_t lane_at;     /* when its fast lane came */
    bool lost_fast;      /* it was sent tasks by a fast lane, which may have ended since */
    char uuid[];
};

/* One that was given up, and may have been only cut off. */
typedef struct mh__departed {
    char uuid[64]; /* "": nobody */
    int64_t id;
    bool is_ours;
    uint64_t ping; /* the last one before that: it lives if it answers a later one */
} mh__departed;

/* ---- the controller -------------------------------------------------------------------------- */

enum { MH__PATH_BESIDE_SIZE = 520 }; /* of the path of any file beside the connection files */

struct mh_controller {
    mh_controller_options options; /* strings in `strings` */
    mh_buf *strings[9];
    char client_path[512], engine_path[512], state_path[512], journal_path[MH__PATH_BESIDE_SIZE];
    bool wrote_files;
    mh__connection client_file, engine_file;
    mh__curve_pair curve;
    mh__loop *loop;
    mh__socket *sockets[MH__CHANNELS];
    mh__replay *replays[MH__CHANNELS]; /* of the channels by which signed messages come */
    mh__sign_key *key;
    mh__session session;
    int signals, stop_event;
    bool is_stopping;
    mh__alarm stop_alarm, sched_alarm, beat_alarm, hold_alarm, give_up_alarm, state_alarm;
    mh__parcel *out; /* for building what is sent */
    mh__built built;
    mh_buf *text, *text2; /* for building JSON */
    mh_err failure;       /* what ends the loop */

    mh__names by_uuid;
    mh__list engines;
    size_t engine_count;
    int64_t next_id;
    mh__engine **by_worker; /* at mh_sched_worker.index */
    size_t by_worker_capacity;
    uint64_t pings;
    mh__departed departed[64];
    size_t departed_count; /* all that ever were */

    mh_sched *sched;

    mh__names by_id;
    mh__list order, history;
    size_t history_count, record_count, record_bytes, tasks_live, unassigned_count;
    struct mh__outcomes *outcomes;
    mh__job *spare_jobs;
    size_t spare_count;

    /* durable.c */
    mh__journal *journal; /* NULL: nothing is written down */
    uint64_t last_seq, last_order, last_place, last_attempt; /* the last ones given out; order: of results, place: of assignments */
    uint32_t generation;  /* how often a controller began with this journal */
    bool is_loading;
    mh__journal_view progress;
    mh__list unsaid;      /* messages to clients about what is not written yet */
    mh__list unconfirmed; /* clients that want to know when their request is on the disk */
    size_t unsaid_bytes;
    mh__list noisy;
    mh__alarm noisy_alarm, settle_alarm;
    uint64_t sent_order, settled_order; /* results up to it were sent; have been for long enough to have arrived */
    uint64_t sent_orders[4];            /* what sent_order was at the last ticks */
    bool is_held_back, has_new_engines;
    mh_deadline resent_until; /* clients and engines are coming back */

    struct mh__seen *seen; /* NULL: the key is new, or there is none */
    mh__names accounts; /* quota.c */
    size_t accounts_swept_at;
    mh__connection_budget budget;
    uint64_t excess_connections;
    mh__names outboxes;
    size_t held_bytes;
    int64_t hold_ns;

    mh__names broadcasts;
    struct mh__aborts *aborts; /* NULL: none yet */
    struct mh__fast *fast;     /* NULL: there is no fast lane */
    mh_controller_stats stats;
};

/* ---- controller.c ---------------------------------------------------------------------------- */

void mh__log(mh_controller *c, mh_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The loop ends with this, as soon as it comes round. */
void mh__controller_fail(mh_controller *c, mh_err err);
void mh__controller_stop_in(mh_controller *c, int64_t ns);

/* A received message that may be believed: split, verified, not a replay, its header read. Counts and logs what is not. */
typedef struct mh__incoming {
    mh__message m;
    mh__header header;
    size_t at;      /* of the delimiter */
    bool wants_ack; /* metadata x_ack: tell when it is on the disk */
    bool is_lent;   /* metadata x_lent: some of its buffers came by a fast lane (net/lent.h) */
} mh__incoming;
bool mh__controller_admit(mh_controller *c, mh__channel channel, mh__parcel *p, mh__incoming *in);
/* The same for one whose lane has shown already who wrote it, and that it came once. */
bool mh__controller_admit_fast(mh_controller *c, const mh__parcel *p, mh__incoming *in);

/* ---- place.c --------------------------------------------------------------------------------- */

/* The path of a file of this controller's beside its connection files: "tasks.sqlite" gives FOLDER/security/ipcontroller[-ID]-tasks.sqlite. */
void mh__place_beside(const mh_controller *c, const char *name, char path[MH__PATH_BESIDE_SIZE]);
mh_err mh__place_prepare(mh_controller *c); /* paths; folders; what --reuse finds */
mh_err mh__place_curve(mh_controller *c);   /* keys that encrypt: new ones, or with --reuse those of the last time */
mh_err mh__place_publish(mh_controller *c);
void mh__place_remove(mh_controller *c);
/* With `reuse`, who is registered lies in a file, so that a controller that is started again knows its engines. */
void mh__place_save_engines(void *c);
mh_err mh__place_write_engines(const mh_controller *c, mh_buf *to);
mh_err mh__place_restore_engines(mh_controller *c, mh_bytes text); /* errors: CORRUPT */
mh_err mh__place_load_engines(mh_controller *c);

/* ---- outbox.c -------------------------------------------------------------------------------- */

/* Send p, whose first frame is the receiver's identity on a ROUTER; p is empty afterwards. What can't be sent yet is held, in
 * order, within limits: for engines that are registered but not yet connected, and for clients that read slowly. */
void mh__outbox_send(mh_controller *c, mh__channel channel, mh__parcel *p);
/* Nothing more for this identity: it is gone. */
void mh__outbox_drop(mh_controller *c, mh__channel channel, mh_bytes identity);
/* Whether something is held for this identity. */
bool mh__outbox_is_held(const mh_controller *c, mh__channel channel, mh_bytes identity);
void mh__outbox_retry(void *c);
void mh__outbox_fini(mh_controller *c);

/* ---- quota.c --------------------------------------------------------------------------------- */

/* Count p, which is for the client that its first frame names, until it has left this process. False: too much waits for it already, or there is
 * no memory. What is not for a client, or is small, is not counted: of that the sockets' high water marks let only so much wait. */
bool mh__quota_take(mh_controller *c, mh__channel channel, mh__parcel *p);
void mh__quota_fini(mh_controller *c);

/* ---- seen.c ---------------------------------------------------------------------------------- */

/* With `reuse`: signatures that controllers with this key admitted, and that nothing else would know again. */
mh_err mh__seen_open(mh_controller *c);
void mh__seen_note(mh_controller *c, mh_bytes signature);
bool mh__seen_before(const mh_controller *c, mh_bytes signature);
void mh__seen_close(mh_controller *c);

/* ---- reply.c --------------------------------------------------------------------------------- */

/* Send a message of our own: identities, then the built frames, then buffers ([first, count) of `from`, or none). */
void mh__reply_send(mh_controller *c, mh__channel channel, const mh_bytes *idents, size_t ident_count, const mh__draft *draft);
/* Add a request's message to c->out as one that an engine takes although it may have had it before. */
mh_err mh__reply_add_again(mh_controller *c, const mh__kept *k, const char *token);
/* Build an error as Python's traceback would say it, into c->text: {"status":"error",...}. */
mh_bytes mh__reply_error(mh_controller *c, const char *ename, mh_bytes evalue);
/* The same, printf-like. */
mh_bytes mh__reply_errorf(mh_controller *c, const char *ename, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- engines.c ------------------------------------------------------------------------------- */

mh__engine *mh__engine_find(const mh_controller *c, mh_bytes uuid);
mh__engine *mh__engine_by_id(const mh_controller *c, int64_t id);
mh__engine *mh__engine_of_worker(const mh_controller *c, mh_sched_worker worker);
/* One that was registered before the controller ended; given up unless it is heard of soon. errors: EXISTS; NO_MEMORY. */
mh_err mh__engine_restore(mh_controller *c, mh_bytes uuid, int64_t id, bool is_ours);
void mh__engine_register(mh_controller *c, const mh__incoming *in, int connection);
void mh__engine_unregister(mh_controller *c, mh__engine *e, const char *why);
void mh__engine_on_peer(mh__socket *s, mh__peer_event event, int connection, void *ctx);
void mh__engine_on_pong(mh__socket *s, mh__parcel *p, void *ctx);
void mh__engines_beat(void *c);
void mh__engines_give_up(void *c);
void mh__engines_fini(mh_controller *c);

/* ---- jobs.c ------------------------------------------------------------------------------- */

enum { MH__OUTPUT_MAX = 1 << 20 }; /* bytes of one kind of output kept for a record */

/* A record of a request, whose parcel it takes. errors: EXISTS the id is known; NO_MEMORY. */
mh_err mh__job_create(mh_controller *c, mh__job **out, mh__parcel *request, size_t at, mh_bytes msg_id, bool is_task);
/* The same of a task in brief, which it takes. */
mh_err mh__job_create_brief(mh_controller *c, mh__job **out, mh__fast_task *t, size_t bytes, mh_bytes msg_id);
mh__job *mh__job_find(const mh_controller *c, mh_bytes msg_id);
/* Make messages of what is there only in brief. False: no memory (the loop ends). Before anything else looks into request or result of a task. */
bool mh__job_see(mh_controller *c, mh__job *r);
/* Whether it has a result, or had one that was not the last word. */
static inline bool mh__job_has_result(const mh__job *r)
{
    return r->brief_result || (r->result.parcel && mh__parcel_count(r->result.parcel) > 0);
}
void mh__job_forget_result(mh_controller *c, mh__job *r); /* of an attempt that failed */
/* Keep a result in brief, which it takes. */
void mh__job_keep_brief(mh_controller *c, mh__job *r, mh__fast_task *t, size_t bytes);
void mh__job_drop(mh_controller *c, mh__job *r);
/* It has ended; its result, if any, was kept before. Writes that down, and moves it to the history, which forgets its oldest. */
void mh__job_end(mh_controller *c, mh__job *r, mh_sched_outcome outcome);
/* The same, and its client is sent the result once that is written. */
void mh__job_answer(mh_controller *c, mh__job *r, mh_sched_outcome outcome);
/* One that had ended before this controller began. */
void mh__job_end_again(mh_controller *c, mh__job *r, mh_sched_outcome outcome, int64_t received_ns);
/* The message with its result for its client, into c->out; false: it has no client, or no result. */
bool mh__job_build_answer(mh_controller *c, mh__job *r);
mh_err mh__job_keep_result(mh_controller *c, mh__job *r, mh__parcel *result, size_t at);
/* Keep an error of our own as its result, as an apply_reply or execute_reply. */
void mh__job_keep_error(mh_controller *c, mh__job *r, const mh__built *b, const mh__engine *e);
void mh__job_note_output(mh_controller *c, mh_bytes msg_type, mh_bytes parent_id, mh_bytes content);
/* How a task that may be forgotten ended: UNKNOWN when it is not known (any more). */
mh_sched_outcome mh__job_outcome(const mh_controller *c, mh_bytes msg_id, mh_sched_worker *where);
void mh__job_at_engine(mh__job *r, mh__engine *e); /* NULL: nowhere */
void mh__jobs_fini(mh_controller *c);

static inline mh_bytes mh__kept_frame(const mh__kept *k, size_t n)
{
    size_t i = k->at + n;
    return k->parcel && i < mh__parcel_count(k->parcel) ? mh__parcel_frames(k->parcel)[i] : (mh_bytes){NULL, 0};
}
static inline mh_bytes mh__kept_header(const mh__kept *k) { return mh__kept_frame(k, 2); }
static inline mh_bytes mh__kept_parent(const mh__kept *k) { return mh__kept_frame(k, 3); }
static inline mh_bytes mh__kept_metadata(const mh__kept *k) { return mh__kept_frame(k, 4); }
static inline mh_bytes mh__kept_content(const mh__kept *k) { return mh__kept_frame(k, 5); }
static inline size_t mh__kept_buffer_count(const mh__kept *k)
{
    return k->parcel ? mh__parcel_count(k->parcel) - k->at - MH__FRAMES_SIGNED : 0;
}

/* ---- durable.c ------------------------------------------------------------------------------- */

/* What a client is told is written down first: then a controller that comes after this one knows it too. What engines are told
 * is not held up. */
mh_err mh__durable_open(mh_controller *c); /* the journal, if there is to be one, and what is in it */
void mh__durable_close(mh_controller *c);
mh_err mh__durable_request(mh_controller *c, mh__job *r);
void mh__durable_place(mh_controller *c, const mh__job *r);
void mh__durable_result(mh_controller *c, mh__job *r, mh_sched_outcome how);
void mh__durable_forget(mh_controller *c, const mh__job *r);
void mh__durable_extra(mh_controller *c, mh__job *r); /* output, and what it was submitted again as: now, or ... */
void mh__durable_noise(mh_controller *c, mh__job *r); /* ... soon, for there may be more of it */
/* Send p, which is empty afterwards, once everything is written that was put into the journal so far. */
void mh__durable_send(mh_controller *c, mh__channel channel, mh__parcel *p);
/* Tell this client when its request is on the disk. */
void mh__durable_confirm(mh_controller *c, mh__channel channel, mh_bytes client, const mh__job *r);
void mh__durable_round(mh_controller *c); /* after each round of the loop */
/* Whether there is no room for another request; then *why is what to tell. */
bool mh__durable_is_full(const mh_controller *c, const char **why);
/* A client has subscribed to output. */
void mh__durable_on_subscription(mh__socket *s, mh__parcel *p, void *ctx);

/* ---- recover.c ------------------------------------------------------------------------------- */

/* Jobs as the journal has them: those that ended into the history, the others to the scheduler and to the engines that have them. */
mh_err mh__recover(mh_controller *c);

/* ---- holds.c --------------------------------------------------------------------------------- */

#define MH__HOLDS_NAME "controller.holds" /* who asks: answers with this identity are not for a client */
/* Ask an engine what it holds; until it answers, what it was given before stays its own. */
void mh__holds_ask(mh_controller *c, const mh__engine *e);
/* The way to it was cut: what it was given may not have arrived, and its answers neither. */
void mh__holds_suspect(mh_controller *c, mh__engine *e);
/* If this is the answer, use it. */
bool mh__holds_take(mh_controller *c, mh__channel channel, const mh__incoming *in);

/* ---- tasks.c --------------------------------------------------------------------------------- */

void mh__tasks_on_request(mh__socket *s, mh__parcel *p, void *ctx);
void mh__tasks_on_result(mh__socket *s, mh__parcel *p, void *ctx);
/* A request of a client's that was admitted. p is taken. */
void mh__tasks_take_request(mh_controller *c, mh__parcel *p, const mh__incoming *in);
/* A request in brief, of `client`; true: it is taken. Else it has to be taken as a message. */
bool mh__tasks_take_brief(mh_controller *c, const mh__fast_task *t, mh_bytes client, mh_bytes user);
/* A result in brief of r, whose engine is e. */
void mh__tasks_take_brief_result(mh_controller *c, mh__job *r, mh__engine *e, const mh__fast_task *t);
/* A result that was admitted; duration_ns 0: not known. p is taken. */
void mh__tasks_take_result(mh_controller *c, mh__parcel *p, const mh__incoming *in, int64_t duration_ns);
/* An engine gave a task back, or says that it can't. */
void mh__tasks_revoked(mh_controller *c, mh__job *r, bool is_taken);
/* Submit a request that is in p at `at`; its client is frame 0. p is taken. */
void mh__tasks_submit(mh_controller *c, mh__parcel *p, const mh__incoming *in);
/* One from before this controller began: to the scheduler. */
void mh__tasks_restore(mh_controller *c, mh__job *r);
void mh__tasks_adopt(mh_controller *c, mh__job *r, mh__engine *e); /* and this engine has it */
void mh__tasks_give_back(mh_controller *c, mh__job *r);            /* its engine does not have it after all */
enum { MH__TOKEN_SIZE = 16 }; /* a token as an engine sees it: an identity of hexadecimal digits, which it gives back with its answer */
void mh__token_write(uint64_t token, char text[MH__TOKEN_SIZE + 1]);
bool mh__token_read(mh_bytes text, uint64_t *token);
void mh__tasks_abort(mh_controller *c, mh__json msg_ids);
void mh__tasks_run(mh_controller *c); /* carry out the scheduler's actions, and set its alarm */
void mh__tasks_wake(void *c);

/* ---- aborts.c -------------------------------------------------------------------------------- */

typedef struct mh__aborts mh__aborts;
/* An abort of a task that is not here (yet). */
void mh__aborts_note(mh_controller *c, mh_bytes id);
/* Whether there was one of this task, which then is forgotten. */
bool mh__aborts_take(mh_controller *c, mh_bytes id);
void mh__aborts_fini(mh_controller *c);

/* ---- fast.c: the lane for peers of ours on this host ----------------------------------------- */

/* Listen, if the folder's path allows it, and say where in the connection files. */
mh_err mh__fast_open(mh_controller *c);
void mh__fast_close(mh_controller *c);
/* Whether the peer that p is for has a fast lane and p fits into it: then it is sent, and p empty. */
bool mh__fast_send(mh_controller *c, mh__channel channel, mh__parcel *p);
/* Send a task in brief to its engine, and its result in brief to its client; false: as a message, then. */
bool mh__fast_assign(mh_controller *c, mh__job *r, mh__engine *e);
bool mh__fast_answer(mh_controller *c, const mh__job *r);
/* Put buffers that came by the sender's lane into a message of the stock lane. What can't be found stays empty: who reads it tells. */
void mh__fast_claim(mh_controller *c, mh__channel channel, mh__parcel *p, const mh__incoming *in);
/* The other way: p without the buffers that its receiver gets by its lane. NULL: p is to be sent as it is. */
mh__parcel *mh__fast_lend(mh_controller *c, mh__channel channel, const mh__parcel *p);
/* Its answer is not waited for any more. */
void mh__fast_let_go(mh_controller *c, mh__job *r);
/* Messages that came by a fast lane bear no signature: give p one before it goes to a stock peer. errors: NO_MEMORY. */
mh_err mh__fast_sign(mh_controller *c, mh__parcel *p);
/* Ask an engine for a task back; false: it can't be asked. */
bool mh__fast_revoke(mh_controller *c, const mh__job *r);
void mh__fast_engine_gone(mh_controller *c, mh__engine *e);
void mh__fast_flush(mh_controller *c); /* after each round of the loop */

/* ---- relay.c, broadcast.c, hub.c ------------------------------------------------------------- */

void mh__relay_mux_request(mh__socket *s, mh__parcel *p, void *ctx);
void mh__relay_mux_result(mh__socket *s, mh__parcel *p, void *ctx);
void mh__relay_control_request(mh__socket *s, mh__parcel *p, void *ctx);
void mh__relay_control_result(mh__socket *s, mh__parcel *p, void *ctx);
void mh__relay_iopub(mh__socket *s, mh__parcel *p, void *ctx);
/* Send a request that an engine does not have, once more. */
void mh__relay_again(mh_controller *c, const mh__job *r);
void mh__relay_engine_gone(mh_controller *c, mh__engine *e);
void mh__broadcast_on_request(mh__socket *s, mh__parcel *p, void *ctx);
void mh__broadcast_on_result(mh__socket *s, mh__parcel *p, void *ctx);
void mh__broadcast_engine_gone(mh_controller *c, mh__engine *e);
void mh__broadcasts_fini(mh_controller *c);
void mh__hub_on_query(mh__socket *s, mh__parcel *p, void *ctx);
/* Whether a record is one that the query (a JSON object, Mongo's operators) means. errors: INVALID names the operator. */
mh_err mh__query_match(mh_controller *c, mh__job *r, mh__json query, bool *match);
/* A field of a record as JSON, in `scratch` where it is not there as such. errors: NO_MEMORY; NOT_FOUND no such field. */
mh_err mh__query_field(mh_controller *c, mh__job *r, const char *name, mh_buf *scratch, mh__json *out);

#endif
