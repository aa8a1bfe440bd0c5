/* What the files of the engine share. Everything belongs to the thread that runs it, but for `stop_bell`. */
#ifndef MH_CLUSTER_ENGINE_STATE_H
#define MH_CLUSTER_ENGINE_STATE_H

#include "base/list.h"
#include "cluster/brief.h"
#include "cluster/executor.h"
#include "manyhands/engine.h"
#include "net/lane.h"
#include "net/lent.h"
#include "net/sign.h"
#include "net/socket.h"
#include "wire/connection.h"

enum {
    MH__AT_ENGINE_UUID_SIZE = 37,
    MH__AT_ENGINE_ABORTED_MAX = 4096,          /* message ids to be aborted that have not arrived */
    MH__AT_ENGINE_QUEUE_BYTES_MAX = 256 << 20, /* requests that wait here; beyond it they wait at the controller */
    MH__AT_ENGINE_QUEUE_COUNT_MAX = 10000,
};

/* A request that arrived. */
typedef struct mh__waiting_request {
    mh__list link;
    mh__parcel *parcel;
    mh__message message; /* points into parcel */
    mh__header header;
    mh__request_kind kind;
    mh__socket *from;
    int64_t started_ns; /* wall clock; 0: it waits */
    int64_t given_ns;   /* when the executor got it, by the monotonic clock */
    bool is_fast;       /* came by the fast lane */
    bool is_quiet;      /* who asked wants to hear of its begin and end only if something is published meanwhile: the reply tells that nothing was */
    size_t bytes;
    mh__fast_task *brief;   /* it came in brief. Then parcel is NULL, and of the message there are only identities, buffers and ids, until
                             * mh__at_engine_see */
    mh_bytes idents[3];     /* as a message has them: channel, client, token */
    char text[MH__BRIEF_ID_SIZE + 16]; /* id and token */
} mh__waiting_request;

typedef struct mh__aborted_id {
    size_t size;
    char text[MH__WIRE_ID_MAX];
} mh__aborted_id;

struct mh_engine {
    mh__connection connection;
    char uuid[MH__AT_ENGINE_UUID_SIZE];
    int64_t id, wanted_id, register_timeout_ns;
    uint32_t missed_beats_max;
    bool verbose;
    void (*on_registered)(int64_t id, void *ctx);
    void *on_registered_ctx;

    mh__loop *loop;
    mh__sign_key *key;
    mh__session session;
    mh__curve_pair curve;
    mh__socket *registrar, *shell, *control, *iopub, *ping, *pong;
    bool has_broadcast;

    /* registration and heartbeats */
    bool is_registered;
    bool was_cut_off; /* the connection to the registrar ended since then */
    mh__alarm register_alarm, beat_alarm;
    mh_deadline register_until;
    int64_t beat_period_ns, last_ping_ns;

    /* work: engine_jobs.c */
    mh__executor *executor;
    bool is_executor_ready, is_starting; /* is_starting: mh__at_engine_next is at it */
    mh__list queue; /* of mh__waiting_request; the running one is not in it */
    size_t queue_count, queue_bytes;
    mh__waiting_request *running; /* the oldest that the executor has */
    mh__list ahead;               /* the next ones, where it takes several */
    size_t ahead_count;
    int64_t answered_ns;          /* when it answered last */
    mh__waiting_request *last; /* that ran last: the parent of output that comes late. NULL: last_header is its header */
    mh_buf *last_header;
    mh__aborted_id *aborted;
    size_t aborted_count, aborted_next;
    mh__list unsent; /* replies that the controller was not there to take */
    size_t unsent_bytes;
    mh__alarm unsent_alarm;
    uint64_t dropped; /* messages that were not valid */

    /* the fast lane: engine_fast.c */
    mh__lane *lane;
    bool is_lane_welcome, can_lend;
    mh__lents *lents;
    mh__alarm lane_alarm;
    mh__parcel *lane_in; /* what a record becomes */
    mh_buf *texts[2];    /* for building replies */

    /* the end */
    int stop_bell, signals;
    bool must_stop;
    mh_err end;
};

/* ---- engine.c -------------------------------------------------------------------------------- */

void mh__at_engine_log(const mh_engine *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ask the controller for a number. */
void mh__at_engine_register(mh_engine *e);
/* End with err after this round. */
void mh__at_engine_end(mh_engine *e, mh_err err);

/* ---- engine_jobs.c --------------------------------------------------------------------------- */

/* What came from a client by way of the controller. ctx: the engine. */
void mh__at_engine_on_request(mh__socket *s, mh__parcel *p, void *ctx);
void mh__at_engine_on_control(mh__socket *s, mh__parcel *p, void *ctx);
/* Forget a request that waits, if it is this attempt: nobody wants its answer. */
void mh__at_engine_abort_attempt(mh_engine *e, mh_bytes id, mh_bytes token);
/* Begin the next request if nothing runs. */
void mh__at_engine_next(mh_engine *e);
void mh__at_engine_send_unsent(void *ctx);
mh__executor_events mh__at_engine_events(mh_engine *e);
void mh__at_engine_drop_jobs(mh_engine *e);

/* A request that came by the fast lane. p is taken. */
void mh__at_engine_take_fast(mh_engine *e, mh__parcel *p, bool is_quiet);
/* The same in brief. */
void mh__at_engine_take_brief(mh_engine *e, const mh__fast_task *t);
/* The message of a request that came in brief. errors: NO_MEMORY. */
mh_err mh__at_engine_see(mh__waiting_request *job);
/* The controller wants this request back: whether it was waiting, and is gone now. */
bool mh__at_engine_give_back(mh_engine *e, mh_bytes msg_id);

/* ---- engine_holds.c -------------------------------------------------------------------------- */

/* What a controller asks that was away: true when `job` is such a question, and is answered. */
bool mh__at_engine_answer_holds(mh_engine *e, const mh__waiting_request *job);

/* ---- engine_fast.c --------------------------------------------------------------------------- */

/* Look for the controller's fast lane, now and as long as there is none. */
void mh__at_engine_fast_start(mh_engine *e);
void mh__at_engine_fast_flush(mh_engine *e);
void mh__at_engine_fast_alarm(void *ctx);
void mh__at_engine_fast_stop(mh_engine *e);

/* ---- engine_reply.c -------------------------------------------------------------------------- */

/* Answer a job with this content; buffers may be lent by hold (borrowed). Its parcel keeps the identities. */
void mh__at_engine_reply(mh_engine *e, mh__waiting_request *job, const mh__answer *a);
/* The same on the control channel, with a content of its own. */
void mh__at_engine_reply_control(mh_engine *e, mh__socket *s, const mh__parcel *p, const mh__message *m, const char *type, mh_bytes content);
/* Publish output of the request whose header is `parent`. */
void mh__at_engine_publish(mh_engine *e, mh_bytes parent, const mh__output *o);
void mh__at_engine_publish_status(mh_engine *e, mh_bytes parent, const char *state);
void mh__at_engine_drop_unsent(mh_engine *e);

#endif
