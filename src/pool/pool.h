/* The parent's half of the pool: what its files share. Every field is guarded by the pool's lock unless it says otherwise.
 *
 *     pool.c     a pool's life          hand.c    a worker's life           death.c   what follows when one ends
 *     submit.c   tasks going in         driver.c  collect, decide, act      keeper.c  the thread that drives when nobody waits
 *     record.c   what is kept of a task wait.c    waiting callers           future.c stream.c map.c share.c   what users hold
 */
#ifndef MH_POOL_POOL_H
#define MH_POOL_POOL_H

#include "base/list.h"
#include "manyhands/pool.h"
#include "manyhands/sched.h"
#include "os/thread.h"
#include "os/topology.h"
#include "pool/region.h"
#include "pool/spin.h"
#include "pool/worker.h"
#include "shm/arena.h"

typedef struct mh__hand mh__hand;

/* ---- a task, as the parent keeps it: also what a future is ------------------------------------ */

typedef struct mh__callback {
    struct mh__callback *next;
    void (*fn)(mh_future *f, void *ctx);
    void *ctx;
} mh__callback;

/* To be called once, by the housekeeper. */
typedef struct mh__notice {
    mh__list node; /* in pool->to_notify when it is due */
    void (*fn)(void *ctx);
    void *ctx;
} mh__notice;

enum {
    MH__RECORD_TAKEN = 1,    /* its result was taken */
    MH__RECORD_FAR = 2,      /* its request lies in the arena */
    MH__RECORD_MAP = 4,      /* a chunk of mh_pool_map */
    MH__RECORD_RETRIES = 8,  /* there may be a later attempt */
    MH__RECORD_AGAIN = 16,   /* ... after a failure, so that somebody must look at its answer soon */
    MH__RECORD_TIMED = 32    /* each attempt has a deadline */
};

struct mh_future {
    _Alignas(64) mh__list node; /* in pool->live until it is done, then in its stream or in pool->to_call */
    mh__list backlog;           /* in hand->backlog while it waits for a slot */
    mh_pool *pool;
    mh__hand *hand; /* that it is assigned to, or NULL */
    mh_stream *stream;
    mh_sched_task handle;
    uint32_t epoch; /* of the assignment */
    uint32_t slot;  /* its index at hand, or MH__NO_SLOT in the hand's backlog */
    uint32_t refs;  /* the pool's until it is done; the user's */
    _Atomic uint32_t is_done;
    uint64_t id, tag;
    uint64_t far_request, far_size; /* the request, when MH__RECORD_FAR */
    uint16_t flags, size;           /* size: of a near request */
    uint32_t attempts;
    int32_t err, signal, exit_code, worker_pid;
    uint32_t waiters; /* callers that sleep until it is done */
    int64_t timeout_ns;
    uint64_t memory_bytes, heavy_bytes; /* its memory limit, or 0; what it was seen to use when that was over it */
    mh__callback *callbacks;
    mh_bytes reply;
    mh__hand *reply_hand; /* whose arena holds the reply (counted), or NULL */
    uint64_t far_reply;
    mh_future *next; /* in the pool's free records */
    _Alignas(64) uint8_t bytes[MH__SLOT_REPLY_BYTES]; /* first the request, then the reply */
};
#define MH__NO_SLOT UINT32_MAX

/* ---- a worker, as the parent sees it: one process or thread, not the place that it fills ------- */

struct mh__hand {
    mh_pool *pool;
    uint32_t refs; /* the pool's; replies in its arena */
    size_t place;  /* in pool->hands */
    size_t pool_trace; /* the pool's options.trace_events: it may outlive that */
    mh_sched_worker worker;
    mh__region *region;
    mh__ring ring;
    mh_future **tasks; /* by slot */
    mh__list backlog;  /* assigned when slots were still held up by tasks taken back */
    bool is_dirty;     /* slots were published since the last wake */
    uint32_t awaiting; /* threads inside mh_process_await_start on it */
    bool is_known;     /* it has started: its pid is known and its sentinel watched */
    bool has_run;      /* it has been seen running: it initialized */
    mh_future *late;   /* its task that was too late; its slot is fenced */
    int64_t stop_ns;   /* when to stop it by force, having asked; INT64_MAX: never */
    bool is_corrupt;
    bool is_stalled;   /* it has not moved for a while, and gets no more tasks until it does */
    int64_t probe_ns;  /* when it is given one all the same; INT64_MAX: it has one */
    int64_t probe_gap_ns;
    bool is_stopped;   /* killed, or to be given up */
    bool is_gone;      /* the process has ended, or the thread has been given up */
    int64_t busy_ns;   /* since when it has been working on what was not yet collected */
    int64_t weigh_ns;  /* when to look how much memory its task uses; INT64_MAX: never */
    bool is_heavy;     /* killed because that was too much */
    int64_t check_ns;  /* when to look whether a timed task has started; INT64_MAX: never */
    mh__arena_view replies;
    bool replies_are_ours; /* to unmap */
    uint64_t acks_given;
    uint64_t *unacked; /* replies that the ring of acknowledgements had no room for */
    size_t unacked_count, unacked_capacity;

    mh_process *process;
    uint32_t server; /* the fork server that was asked for it, by pool->server_starts; 0: none */
    int32_t pid;
    int socket;

    mh__thread *thread;
    mh__worker body;                   /* of a thread */
    mh__arena *_Atomic thread_replies; /* shown by the thread */
    _Atomic uint32_t thread_ended;
    mh__hand *next_given_up;
};

/* ---- waiting callers --------------------------------------------------------------------------- */

typedef struct mh__waiter {
    mh__list node; /* in pool->waiters while it sleeps and does not lead */
    bool (*is_ready)(void *what);
    void *what;
    _Atomic uint32_t woken;
    bool is_lazy; /* many results are welcome at once */
} mh__waiter;

typedef enum mh__pool_state { MH__POOL_OPEN, MH__POOL_CLOSED, MH__POOL_TERMINATED } mh__pool_state;

struct mh_pool {
    mh__lock *lock;
    uint32_t refs; /* the user's, and one for each record, block and stream that he holds */
    unsigned fork_depth; /* of its creator */
    mh_pool_options options; /* with every default filled in */
    char **worker_argv;
    mh_pass_fd *worker_fds; /* options.worker_fd_count of them */
    mh__places *cores_to_bind; /* NULL: not pinned */
    size_t cores;
    mh__pool_state state;
    bool is_broken;
    char why_broken[256];

    mh_sched *sched;
    mh__hand **hands; /* options.workers of them, NULL between two workers */
    mh__hand **hand_of; /* by the scheduler's index of a worker */
    size_t hand_of_count;
    mh__hand *given_up; /* threads that were too late, to be joined at the end */
    uint32_t start_failures; /* workers in a row that ended before they took a task */
    size_t missing;          /* places without a hand */
    size_t wanted;           /* how many places are to have one; less than all while workers start on demand */
    int64_t grow_ns;         /* when all are, demand or not; INT64_MAX: only on demand, or they are */
    int64_t refill_ns;       /* when to try again to start workers */
    size_t unawaited; /* hands that are not yet known to have started */

    mh__list live; /* records not done */
    size_t live_count, assigned_count, retry_count, call_count, busy_hands, submits;
    int64_t mean_ns; /* of a task, lately */
    bool has_stopped; /* a thread is to be given up */
    uint32_t joiners; /* callers that wait for the pool's end */
    mh__list to_call; /* done records with callbacks to be called */
    mh__list to_notify; /* notices that are due */
    mh_future *free_records;
    void **chunks;
    size_t chunk_count;
    uint64_t next_id;

    mh_process *first; /* the first worker while it waits for its place; then its hand has it */
    int first_socket;
    mh_forkserver *server;
    uint32_t server_starts, server_losses; /* which one it is; the last whose end was counted as a failure to start */
    mh__board *board;
    int board_fd;
    mh__arena *requests;
    uint32_t share_next;
    uint64_t *share_offsets; /* what the board says, as we know it */
    struct mh__attached *attached;
    size_t attached_count;

    int leader_bell, keeper_bell;
    int hands_poller; /* the sentinels of all workers */
    bool is_led;
    mh__waiter *sleeping_leader; /* NULL while the leader looks by itself */
    int64_t leader_until;        /* when it will look by itself */
    mh__list waiters;
    mh__spin spin;
    mh__thread *keeper;
    bool keeper_awake, keeper_rung, keeper_ends; /* rung: since it was last awake */
    int64_t keeper_until; /* when it will look by itself */
    _Atomic uint32_t nap; /* on which it naps */
    int64_t now;
    int64_t kills_ns, kills; /* how many processes the kernel had killed for want of memory, and when to look again */

    int64_t began_ns, waiting_ns, transport_ns;
    _Atomic int64_t serialising_ns;
    mh_worker_stats departed; /* of all workers that have ended */
    mh__event *trace;         /* options.trace_events of them: what departed workers left, and the pool's own; NULL: none is kept */
    uint64_t trace_written;

    mh_pool_stats stats; /* but for what is asked of others */
};

/* `ns` after `now`, or never. */
static inline int64_t mh__deadline_after(int64_t now, int64_t ns) { return ns > INT64_MAX - now ? INT64_MAX : now + ns; }

/* Whether the housekeeper has something to call. */
static inline bool mh__has_calls(const mh_pool *pool)
{
    return !mh__list_is_empty(&pool->to_call) || !mh__list_is_empty(&pool->to_notify);
}

/* Runs tasks in a pool that was given no function. */
mh_err mh__run_nothing(mh_task *task, void *ctx);
bool mh__pool_runs_tasks(const mh_pool *pool);
/* FORKED in a child of the pool's process. */
mh_err mh__pool_check(const mh_pool *pool);
static inline void mh__pool_lock(mh_pool *pool) { mh__lock_take(pool->lock); }
static inline void mh__pool_unlock(mh_pool *pool) { mh__lock_drop(pool->lock); }
/* Drop a reference and the lock; frees the pool after the last. */
void mh__pool_unlock_release(mh_pool *pool);
/* In a fork server: what it has of the pool that `worker_options` are of. */
void mh__pool_leave(void *worker_options);
/* Too many workers failed to start: no task can run any more. */
void mh__pool_break(mh_pool *pool, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* record.c */
MH_NODISCARD mh_err mh__record_create(mh_future **out, mh_pool *pool);
void mh__record_drop(mh_future *f); /* one reference */
void mh__record_drop_request(mh_future *f);
void mh__record_drop_reply(mh_future *f);
/* It has ended. */
void mh__record_finish(mh_future *f, mh_sched_outcome outcome, uint32_t attempts);
void mh__record_result(mh_future *f, mh_result *result);
void mh__records_free(mh_pool *pool);
/* Hand a record to the scheduler. errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__record_submit(mh_future *f, const mh_submit_options *options);

/* hand.c */
MH_NODISCARD mh_err mh__hand_start(mh_pool *pool, size_t place);
/* Fork the worker that will have the first place, before anything of the pool is there that it should not inherit. */
MH_NODISCARD mh_err mh__first_start(mh_pool *pool);
void mh__hand_drop(mh__hand *hand);
void mh__hand_kill(mh__hand *hand);
/* Wake it if it sleeps; the caller has issued a fence since publishing. */
void mh__hand_wake(mh__hand *hand);
void mh__hand_close(mh__hand *hand);
/* Its replies' arena, if it has one by now. errors: CORRUPT. */
MH_NODISCARD mh_err mh__hand_open_replies(mh__hand *hand);
/* The worker may reuse the block of a reply. */
void mh__hand_acknowledge(mh__hand *hand, uint64_t offset);
void mh__hand_flush_acks(mh__hand *hand);
/* Wait, without the lock for a while, until posted workers have started, and watch them. */
void mh__hands_await(mh_pool *pool);
MH_NODISCARD mh_err mh__server_start(mh_pool *pool);

/* death.c */
void mh__hands_reap(mh_pool *pool); /* every one that has ended */
void mh__hand_leave(mh__hand *hand, const mh_exit *status);
void mh__hand_stop(mh__hand *hand);    /* kill the process, or give the thread up when the actions at hand are carried out */
void mh__hand_give_up(mh__hand *hand); /* a thread that can't be killed */
bool mh__wants_hands(const mh_pool *pool);
void mh__hands_refill(mh_pool *pool);  /* start a worker in each empty place, if any are wanted */
void mh__hands_meet_demand(mh_pool *pool); /* want a worker for each task, as far as there are places */
void mh__hands_want_all(mh_pool *pool);    /* unless they start on demand only */

/* report.c */
void mh__report_departed(mh__hand *hand); /* its counters, before its region goes */
void mh__report_own(mh_pool *pool, const char *label, int64_t begin_ns, int64_t end_ns);

/* weigh.c */
/* See who uses how much, and stop who is over its limit. */
void mh__weigh(mh_pool *pool);
/* The task in a slot is to be weighed from now on. */
void mh__weigh_soon(mh__hand *hand);
/* Whether a worker that was killed by a signal that we did not send was so by the kernel, for want of memory. */
bool mh__was_oom_killed(mh_pool *pool);

/* driver.c */
void mh__drive(mh_pool *pool);   /* collect, decide, act, wake */
void mh__dispatch(mh_pool *pool); /* decide, act, wake */
bool mh__any_finished(mh_pool *pool);
bool mh__any_run_out(mh_pool *pool); /* whether a worker has finished all that it was given, and nobody has collected it */
int64_t mh__wake_at(mh_pool *pool);
void mh__collect_hand(mh__hand *hand);
/* Take the finished task in slot `index` out. False: the slot holds nonsense. */
bool mh__take_answer(mh__hand *hand, uint32_t index, int64_t duration_ns);
/* Have the housekeeper told of what nobody else waits for. */
void mh__arm_keeper(mh_pool *pool);

/* keeper.c */
void mh__keeper_run(void *pool);
void mh__keeper_ring(mh_pool *pool);

/* wait.c: the lock is held before and after */
MH_NODISCARD mh_err mh__wait(mh_pool *pool, mh__waiter *waiter, mh_deadline until);
/* Wake those whose condition holds now. */
void mh__waiters_wake(mh_pool *pool);
/* The parts of waiting as the leader, which a loop outside plays (lead.h). False: something is there, so it must not sleep; else the leader looks again at
 * leader_until. */
bool mh__lead_prepare(mh_pool *pool, mh__waiter *w, mh_deadline until);
void mh__lead_awake(mh_pool *pool, unsigned ready); /* bits: leader_bell, hands_poller */
bool mh__lead_spin(mh_pool *pool, const mh__waiter *w);

/* share.c */
mh_err mh__attached_send_all(mh_pool *pool, int socket);
void mh__attached_free(mh_pool *pool);
/* Which attached segment holds [at, at + size), and where in it. */
bool mh__attached_find(const mh_pool *pool, const void *at, size_t size, uint32_t *id, uint64_t *offset);

/* submit.c */
/* Wait for nothing: see that what was submitted gets to the workers. */
void mh__after_submit(mh_pool *pool);
MH_NODISCARD mh_err mh__submit(mh_pool *pool, mh_bytes task, uint16_t flags, const mh_submit_options *o, mh_stream *s,
                               mh_future **out);
MH_NODISCARD mh_err mh__submit_block(mh_pool *pool, mh_block **block, size_t size, const mh_submit_options *o, mh_stream *s,
                                     mh_future **out);
MH_NODISCARD mh_err mh__can_submit(mh_pool *pool, const mh_submit_options *o);

/* stream.c */
void mh__stream_done(mh_stream *s, mh_future *f);
/* Hand in a chunk of mh_pool_map. */
MH_NODISCARD mh_err mh__stream_submit_map(mh_stream *s, mh_bytes chunk, uint64_t tag);

#endif
