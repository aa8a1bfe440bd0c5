/* The history checker: it is told every event and every action, keeps its own plain account of what must hold, and knows
 * nothing of how the scheduler works inside. */
#ifndef MH_SIM_CHECKER_H
#define MH_SIM_CHECKER_H

#include "manyhands/sched.h"

enum { SIM_TASKS = 96, SIM_WORKERS = 64, SIM_ITEMS = 4, SIM_NOWHERE = SIM_WORKERS };

typedef struct sim_need {
    uint32_t items[SIM_ITEMS]; /* numbers of earlier tasks */
    uint32_t count;
    bool any;
    mh_sched_when when;
} sim_need;

/* What a client asks for. Tasks and workers have numbers of their own here, which are never used again. */
typedef struct sim_spec {
    uint32_t priority, lost_retries, failed_retries, oom_retries;
    int64_t timeout_ns, wait_ns;
    bool elsewhere;
    sim_need after, follow;
    uint64_t targets; /* a bit for each worker; 0: any */
} sim_spec;

typedef struct checked_task {
    const sim_spec *spec;
    bool is_submitted, is_assigned, is_running, is_late, is_cancelled, is_revoked, was_assigned, was_refused, is_ended;
    uint32_t worker, epoch, attempts, lost, failed, oom;
    uint64_t refused, failed_at; /* workers */
    bool waits_elsewhere;        /* it failed wherever it may run, and waits for another worker */
    uint64_t front;              /* order among tasks offered again; 0: not one of them; at a worker: order there */
    uint32_t leave;              /* which worker's death gave it back, by number; 0: none */
    int64_t deadline, give_up_at;/* of the running attempt; of the wait for the first one */
    mh_sched_outcome must_end, outcome;
} checked_task;

typedef struct checked_worker {
    bool is_alive, is_killed;
    uint32_t capacity, load;
} checked_worker;

typedef struct checker {
    checked_task tasks[SIM_TASKS];
    checked_worker workers[SIM_WORKERS];
    uint32_t task_count, worker_count;
    mh_sched_policy policy;
    bool adapts;          /* limits below the capacity are the scheduler's affair */
    int64_t now;
    uint64_t fronts, late;
    uint32_t leaves;
    char fault[200];      /* the first rule that was broken; "" while none was */
} checker;

void saw_submit(checker *c, uint32_t task, const sim_spec *spec);
void saw_join(checker *c, uint32_t worker, uint32_t capacity);
void saw_resize(checker *c, uint32_t worker, uint32_t capacity);
/* `running` is the task that the driver named, or SIM_TASKS. */
void saw_leave(checker *c, uint32_t worker, mh_sched_cause cause, uint32_t running);
void saw_started(checker *c, uint32_t worker, uint32_t task, uint32_t epoch, int64_t at, mh_err answer);
void saw_result(checker *c, uint32_t worker, uint32_t task, uint32_t epoch, mh_sched_outcome outcome, mh_err answer);
void saw_revoked(checker *c, uint32_t worker, uint32_t task, uint32_t epoch, bool taken, mh_err answer);
void saw_cancel(checker *c, uint32_t task, mh_err answer);
void saw_tick(checker *c, int64_t now);
void saw_action(checker *c, const mh_sched_action *action, uint32_t task, uint32_t worker);
/* All actions have been taken: what had to follow must have followed. */
void saw_settled(checker *c, const mh_sched_stats *stats);
/* Everything has come to rest: every task must have ended. */
void saw_end(checker *c, const mh_sched_stats *stats);

#endif
