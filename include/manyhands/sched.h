/* manyhands/sched.h: decides which worker runs which task, and what follows when one dies. It makes no system call and
 * knows no clock: a driver tells it what happened, takes its actions, and carries them out.
 *
 *     mh_sched *s = NULL;
 *     mh_sched_worker w;
 *     mh_sched_task t;
 *     mh_sched_action todo[64];
 *     mh_err err = mh_sched_create(&s, NULL);
 *     if (!err) err = mh_sched_worker_join(s, &(mh_sched_worker_options){.capacity = 2}, &w);
 *     if (!err) err = mh_sched_submit(s, &(mh_sched_submit_options){.tag = 42, .lost_retries = 3}, &t);
 *     size_t n = mh_sched_actions(s, todo, 64);    // one ASSIGN: give task 42 to worker w
 *     if (!err) err = mh_sched_result(s, w, t, todo[0].epoch, MH_SCHED_OK, 1000);
 *     n = mh_sched_actions(s, todo, 64);           // one DONE: task 42 ended, MH_SCHED_OK
 *     mh_sched_destroy(&s);
 *
 * The driver's loop: mh_sched_tick with the time; report what happened; carry out mh_sched_actions until there are none;
 * sleep no longer than until mh_sched_wake_at. Reporting an event never assigns: mh_sched_actions decides, when it is
 * called, on everything known by then, so that batches are cheap and no action is ever out of date when it is handed out.
 * (An event reported before the rest of a batch was carried out can outdate that rest: a worker that left takes none of it.)
 *
 * Rules. A task ends exactly once: one DONE. An attempt is fenced by its epoch: answers from an older one change nothing.
 * A worker that is too late is killed and reaped by the driver (KILL_WORKER, then mh_sched_worker_leave) before any of its
 * tasks is given away. When a worker leaves, only tasks known to be running count as lost; the others are offered again,
 * in order and ahead of new work. Tasks of one priority are first assigned in the order of their submission, except those
 * that wait for other tasks or for particular workers.
 *
 * Threads: none is started and nothing is locked; the driver serialises all calls on one scheduler.
 * Handles are checked: one that was never given out is INVALID or NOT_FOUND, one that ended is NOT_FOUND.
 */
#ifndef MANYHANDS_SCHED_H
#define MANYHANDS_SCHED_H

#include "manyhands/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mh_sched mh_sched;

/* Small indices, reused after the end, and a generation that is not; a zeroed handle names nothing. A driver may keep
 * what it knows of a worker or task in an array at `index`. */
typedef struct mh_sched_task {
    uint32_t index, generation;
} mh_sched_task;
typedef struct mh_sched_worker {
    uint32_t index, generation;
} mh_sched_worker;
typedef struct mh_sched_group {
    uint32_t index, generation;
} mh_sched_group;

/* How an attempt or a task ended. An attempt may end as OK, FAILED, OOM or REFUSED; a task as any but REFUSED. */
typedef enum mh_sched_outcome {
    MH_SCHED_UNKNOWN = 0,
    MH_SCHED_OK,
    MH_SCHED_FAILED,     /* it reported a failure, and its failed_retries are used up */
    MH_SCHED_OOM,        /* it went over its memory limit, and its oom_retries are used up */
    MH_SCHED_LOST,       /* its worker died while running it, and it had no lost_retries */
    MH_SCHED_POISON,     /* its worker died while running it, and so did that of each of its lost_retries */
    MH_SCHED_TIMEOUT,    /* an attempt took longer than timeout_ns */
    MH_SCHED_CANCELLED,  /* it does not run, or not again */
    MH_SCHED_EXPIRED,    /* it was not assigned within wait_ns */
    MH_SCHED_IMPOSSIBLE, /* what it waits for can't come about any more, or no worker is left that may run it */
    MH_SCHED_REFUSED     /* this worker can't run it; another may: not counted as an attempt */
} mh_sched_outcome;

/* ---- options --------------------------------------------------------------------------------- */

typedef enum mh_sched_policy {
    MH_SCHED_LEASTLOAD = 0, /* the worker with the fewest tasks; of these the one that waited longest */
    MH_SCHED_LRU,           /* the worker that was given none for longest */
    MH_SCHED_TWOBIN,        /* of two at random, the one that was given none for longer */
    MH_SCHED_WEIGHTED,      /* of two at random weighted by inverse load, the one with fewer tasks */
    MH_SCHED_PLAINRANDOM,   /* any at random */
    MH_SCHED_PURE           /* each in turn, whatever its load and capacity; no dependencies and targets */
} mh_sched_policy;

typedef struct mh_sched_options {
    mh_sched_policy policy;
    uint32_t high_water; /* capacity of workers that join with 0; 0: unlimited */
    int64_t queue_ns;    /* a worker holds at most about so much time's worth of tasks, by the measured time of a task,
                            but no more than its capacity; 0: always up to its capacity */
    bool steal;          /* take tasks back (REVOKE) from long queues when a worker is idle; LEASTLOAD and WEIGHTED only */
    int64_t steal_ns;    /* but not from queues that should be empty sooner than this; 0: 50 microseconds */
    uint64_t seed;       /* of the random policies */
} mh_sched_options;

typedef struct mh_sched_worker_options {
    uint32_t capacity; /* most tasks it may hold, running one included; 0: options.high_water */
} mh_sched_worker_options;

typedef enum mh_sched_when {
    MH_SCHED_ON_SUCCESS = 0, /* met by tasks that end as MH_SCHED_OK */
    MH_SCHED_ON_FAILURE,     /* by those that end otherwise */
    MH_SCHED_ON_END          /* by both */
} mh_sched_when;

/* A task to wait for: one that has not ended (known = 0), or how and where one ended whose handle is no longer valid. */
typedef struct mh_sched_dependency {
    mh_sched_task task;
    mh_sched_outcome known;
    mh_sched_worker worker; /* where it ended, when known */
} mh_sched_dependency;

typedef struct mh_sched_dependencies {
    const mh_sched_dependency *items; /* borrowed during submit */
    size_t count;                     /* 0: none, always met */
    bool any;                         /* one of them is enough; else all */
    mh_sched_when when;
} mh_sched_dependencies;

typedef struct mh_sched_submit_options {
    uint64_t tag;            /* the driver's; comes back in every action on the task */
    mh_sched_group group;    /* or zeroed */
    uint32_t priority;       /* 0 (usual) to MH_SCHED_PRIORITY_MAX: higher ones are always assigned first */
    uint32_t lost_retries;   /* further attempts after a worker died while running it */
    uint32_t failed_retries; /* further attempts after it reported a failure */
    bool elsewhere;          /* ... on workers where it has not failed. When none is left: with wait_ns it waits for one, no
                                longer than wait_ns after its submission; else it may go to any again. Not with PURE */
    uint32_t oom_retries;    /* further attempts after it went over its memory limit */
    int64_t timeout_ns;      /* longest time from the start of an attempt; 0: none. Needs mh_sched_started */
    int64_t wait_ns;         /* longest time from submission to its first assignment; 0: none */
    mh_sched_dependencies after;    /* start when these have ended */
    mh_sched_dependencies follow;   /* the same, and on a worker on which they (any: one of them) ended */
    const mh_sched_worker *targets; /* only on one of these; borrowed during submit; those that have left are passed over */
    size_t target_count;            /* 0: any worker */
} mh_sched_submit_options;
#define MH_SCHED_PRIORITY_MAX 3u

/* ---- actions --------------------------------------------------------------------------------- */

typedef enum mh_sched_action_kind {
    MH_SCHED_ASSIGN = 1,  /* queue task at worker under epoch; if that can't be done: mh_sched_revoked(.., true) */
    MH_SCHED_REVOKE,      /* take task back from worker if it has not started; answer with mh_sched_revoked */
    MH_SCHED_KILL_WORKER, /* task is over its time: kill and reap worker, then mh_sched_worker_leave */
    MH_SCHED_DONE         /* task has ended as `outcome`; its handle is no longer valid */
} mh_sched_action_kind;

typedef struct mh_sched_action {
    mh_sched_action_kind kind;
    mh_sched_outcome outcome; /* DONE only */
    mh_sched_task task;
    mh_sched_worker worker;   /* DONE: the one that it was last assigned to, or zeroed */
    uint32_t epoch;           /* of the assignment; from 1 in each task. DONE: the last one, or 0 */
    uint32_t attempts;        /* ASSIGN: which attempt this will be, from 1. DONE: attempts that were made */
    uint64_t tag;             /* of the task */
} mh_sched_action;

/* ---- the scheduler's life -------------------------------------------------------------------- */

/* A scheduler at time 0. options may be NULL. errors: INVALID names the option; NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_sched_create(mh_sched **out, const mh_sched_options *options);
MH_API void mh_sched_destroy(mh_sched **s);

/* ---- events: workers ------------------------------------------------------------------------- */

/* A worker joins and may be given tasks. options may be NULL. errors: INVALID; NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_sched_worker_join(mh_sched *s, const mh_sched_worker_options *options,
                                                mh_sched_worker *out);

typedef enum mh_sched_cause {
    MH_SCHED_DIED = 0, /* unexpectedly: what it ran counts as lost */
    MH_SCHED_DIED_OOM, /* killed for its memory: what it ran counts as out of memory */
    MH_SCHED_REMOVED   /* recycled or taken away on purpose: what it ran, if anything, counts as lost */
} mh_sched_cause;

/* A worker is gone for certain: nothing that it was given can run there any more, and every answer that it left behind
 * was reported before. `running` is the task that it was running, where the driver knows (zeroed otherwise); tasks
 * reported by mh_sched_started count besides. errors: NOT_FOUND. */
MH_API MH_NODISCARD mh_err mh_sched_worker_leave(mh_sched *s, mh_sched_worker worker, mh_sched_cause cause,
                                                 mh_sched_task running);
/* Whether it keeps what it was given: nothing is taken back from its queue (options.steal). Not so when it joins. errors: NOT_FOUND. */
MH_API MH_NODISCARD mh_err mh_sched_worker_keep(mh_sched *s, mh_sched_worker worker, bool keeps);
/* Let it hold at most `capacity` tasks from now on; 0: give it no more (what it holds stays). errors: NOT_FOUND. */
MH_API MH_NODISCARD mh_err mh_sched_worker_resize(mh_sched *s, mh_sched_worker worker, uint32_t capacity);

/* ---- events: tasks --------------------------------------------------------------------------- */

/* Accept a task. options may be NULL. It ends with exactly one DONE.
 * errors: INVALID names the option; NOT_FOUND a task to wait for has ended (say how: `known`) or the group is closed;
 * NO_MEMORY; LIMIT 2^31 tasks are there already. */
MH_API MH_NODISCARD mh_err mh_sched_submit(mh_sched *s, const mh_sched_submit_options *options, mh_sched_task *out);
/* An attempt began at `at` (mh_sched_tick's clock). Needed only for tasks with timeout_ns, and to count what a worker
 * ran when it died where mh_sched_worker_leave can't say. errors: NOT_FOUND that attempt is over (nothing changed). */
MH_API MH_NODISCARD mh_err mh_sched_started(mh_sched *s, mh_sched_worker worker, mh_sched_task task, uint32_t epoch,
                                            int64_t at);
/* An attempt ended as OK, FAILED, OOM or REFUSED after duration_ns (0: not known).
 * errors: NOT_FOUND it is not the task's present attempt: drop the answer, it was counted as late; INVALID;
 * NO_MEMORY REFUSED only: nothing changed, report it again. */
MH_API MH_NODISCARD mh_err mh_sched_result(mh_sched *s, mh_sched_worker worker, mh_sched_task task, uint32_t epoch,
                                           mh_sched_outcome outcome, int64_t duration_ns);
/* A task that waits for a worker is at this one already, as a driver that was started again finds: that counts as its assignment,
 * even where the worker has more than it may hold or is no target of the task. *epoch is that of the attempt.
 * errors: NOT_FOUND the task or the worker; INVALID it does not wait for a worker. */
MH_API MH_NODISCARD mh_err mh_sched_adopt(mh_sched *s, mh_sched_worker worker, mh_sched_task task, uint32_t *epoch);
/* The answer to REVOKE: `taken` when it had not started and now never will; false when it started or ended. Without a
 * REVOKE, true gives an assignment back. errors: NOT_FOUND that attempt is over (nothing changed). */
MH_API MH_NODISCARD mh_err mh_sched_revoked(mh_sched *s, mh_sched_worker worker, mh_sched_task task, uint32_t epoch,
                                            bool taken);
/* Let a task end without running (again): at once as CANCELLED when no worker has it; as soon as it is taken back; or,
 * when it runs already, as that attempt ends (OK, FAILED, CANCELLED if the worker dies). errors: NOT_FOUND. */
MH_API MH_NODISCARD mh_err mh_sched_cancel(mh_sched *s, mh_sched_task task);

/* A group of tasks that can be cancelled together. errors: NO_MEMORY; NOT_FOUND. */
MH_API MH_NODISCARD mh_err mh_sched_group_open(mh_sched *s, mh_sched_group *out);
MH_API MH_NODISCARD mh_err mh_sched_group_cancel(mh_sched *s, mh_sched_group group);
/* No more tasks in it; those that are there go on, out of any group. */
MH_API MH_NODISCARD mh_err mh_sched_group_close(mh_sched *s, mh_sched_group group);

/* ---- time and actions ------------------------------------------------------------------------ */

/* It is `now` (monotonic nanoseconds; earlier than before counts as no change): what is due happens. */
MH_API void mh_sched_tick(mh_sched *s, int64_t now);
/* When to call mh_sched_tick again at the latest; INT64_MAX: not needed. Valid after mh_sched_actions returned 0. */
MH_API int64_t mh_sched_wake_at(const mh_sched *s);
/* Decide, and hand out up to `capacity` actions in the order in which they are to be carried out. Call again until it
 * returns 0; events may be reported between two calls. */
MH_API size_t mh_sched_actions(mh_sched *s, mh_sched_action *out, size_t capacity);

/* ---- looking in ------------------------------------------------------------------------------ */

typedef struct mh_sched_stats {
    size_t workers;                           /* that have joined and not left */
    size_t waiting, pending, assigned, ended; /* tasks that wait for others; for a worker; at a worker; for their DONE to be taken */
    uint64_t submitted, done, outcomes[MH_SCHED_REFUSED]; /* all so far; outcomes by mh_sched_outcome */
    uint64_t assignments, lost, failed, oom, refused;     /* attempts that ended so */
    uint64_t reoffered, revoked, late; /* taken over from workers that left; taken back from a queue; answers dropped */
    size_t bytes;                      /* memory in use */
} mh_sched_stats;
MH_API void mh_sched_stats_read(const mh_sched *s, mh_sched_stats *out);
/* How many tasks a worker holds, and how many it may hold now. errors: NOT_FOUND. */
MH_API MH_NODISCARD mh_err mh_sched_worker_load(const mh_sched *s, mh_sched_worker worker, uint32_t *load, uint32_t *room);

#ifdef __cplusplus
}
#endif
#endif
