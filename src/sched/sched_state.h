/* The scheduler's state and the words that its files share. Everything refers to everything by index, so that arrays
 * may grow, and no event but submit, worker_join and a refusal takes memory: the others can't fail for want of it. */
#ifndef MH_SCHED_SCHED_STATE_H
#define MH_SCHED_SCHED_STATE_H

#include "base/number.h"
#include "manyhands/sched.h"
#include "sched/slab.h"

/* Faults that the simulator's checker must find. tests/sim/mutant_test.c compiles the scheduler with them. */
#ifdef MH_SCHED_MUTANT
#define MH__MUTANT(n) (MH_SCHED_MUTANT == (n))
#else
#define MH__MUTANT(n) 0
#endif

typedef enum mh__task_state {
    MH__TASK_FREE = 0,
    MH__TASK_WAITING, /* for other tasks; in no list */
    MH__TASK_PENDING, /* for a worker: in pending[priority], in avoiding, or in the wants of the workers of its places */
    MH__TASK_QUEUED,  /* at a worker: in its queue */
    MH__TASK_RUNNING, /* the same, and known to have started */
    MH__TASK_ENDED    /* in ended, until its DONE is taken */
} mh__task_state;

enum {
    MH__TASK_CANCEL = 1,      /* is not to run (again) */
    MH__TASK_TIMED_OUT = 2,   /* its worker is to be killed, or was */
    MH__TASK_REVOKING = 4,    /* a REVOKE is to be handed out, or was and is not answered */
    MH__TASK_REVOKE_OUT = 8,  /* it is to be handed out: in revokes */
    MH__TASK_LOST_BUDGET = 16,/* it had lost_retries */
    MH__TASK_AVOIDING = 32,   /* PENDING: in avoiding */
    MH__TASK_PLACED = 64,     /* PENDING: in the wants of its places */
    MH__TASK_TIMED = 128,     /* counted in timed */
};

/* The first 64 bytes are all that a plain task needs. */
typedef struct mh__task {
    uint32_t next, prev; /* in the list that its state names */
    uint32_t generation; /* its number among all submitted, so also its age; 0: free */
    uint32_t epoch;
    uint32_t worker, worker_generation; /* present or last one */
    uint32_t attempts;                  /* that ended, or were lost */
    uint8_t state, flags, priority, outcome;
    uint64_t tag;
    uint32_t lost_left, failed_left, oom_left;
    uint32_t extra; /* what it waits for and where it may run */
    uint32_t edges; /* first of those who wait for it */
    uint32_t group;
    int64_t timeout_ns;
    uint32_t timer; /* index in timers */
    uint32_t group_next, group_prev;
    uint32_t revoke_next, revoke_prev;
} mh__task;

typedef struct mh__ends {
    uint32_t head, tail;
} mh__ends;

typedef enum mh__worker_state {
    MH__WORKER_FREE = 0,
    MH__WORKER_ALIVE,
    MH__WORKER_KILLING /* gets nothing more; KILL_WORKER is to be handed out, or was */
} mh__worker_state;

typedef struct mh__worker {
    uint32_t next, prev; /* in its bucket; free: in the free list */
    uint32_t generation; /* kept while free */
    uint32_t load;       /* tasks in queue */
    uint32_t limit;      /* that it may hold now */
    uint32_t bucket;     /* set * MH__BUCKETS + load, or MH__NONE */
    mh__ends queue;      /* tasks in the order in which they were given */
    uint64_t task_ns;    /* moving average of durations; 0: not known */
    uint64_t task_ns_low, task_ns_high; /* limit is right while task_ns is between */
    int64_t progress_at; /* when it last took up or ended a task */
    uint64_t used_at;    /* the scheduler's count of assignments then */
    uint32_t capacity;
    uint32_t open_at;    /* index in open, or MH__NONE */
    uint32_t revoking;   /* tasks with MH__TASK_REVOKING */
    uint8_t state;
    bool is_open;        /* may be given a task */
    bool keeps;          /* nothing is stolen from it */
    bool in_wanting, kill_out;
    mh__ends wants;      /* places of pending tasks that want this worker */
    uint32_t wanting_next, wanting_prev;
    uint32_t kill_next, kill_prev;
    uint32_t kill_task;  /* whose time was over */
} mh__worker;

/* What a task waits for: how many of `total` ended as it wants and otherwise. */
typedef struct mh__need {
    uint32_t total, met, unmet;
    bool any;
    uint8_t when;
} mh__need;

/* Only of tasks with dependencies, targets or refusals, and of those that go elsewhere. */
typedef struct mh__extra {
    uint32_t next; /* free list */
    uint32_t task;
    mh__need after, follow;
    uint32_t edges;  /* first of those that lead to what it waits for */
    uint32_t places; /* first */
    uint32_t spare;  /* blank places, one for each task in follow that has not ended */
    uint32_t linked; /* places in workers' wants */
    bool has_targets, has_avoid, elsewhere;
    int64_t give_up_at; /* elsewhere: how long it waits for another worker; 0: not at all */
} mh__extra;

/* `waiter` waits for `on`. */
typedef struct mh__edge {
    uint32_t next, prev; /* among those of `on`; free list */
    uint32_t mine_next, mine_prev; /* among those of `waiter` */
    uint32_t waiter, on;
    bool is_follow;
} mh__edge;

/* What a task has to do with one worker. */
typedef struct mh__place {
    uint32_t next, prev; /* in the worker's wants; free list */
    uint32_t mine_next;  /* among the task's */
    uint32_t task;
    uint32_t worker, worker_generation;
    uint32_t followed; /* tasks in follow that ended there as wanted */
    bool is_target, is_linked;
    bool is_avoided, is_failed; /* it is not to run there; because it failed there */
} mh__place;

typedef struct mh__group {
    uint32_t next; /* free list */
    uint32_t generation;
    uint32_t head; /* of its tasks */
    uint32_t count;
} mh__group;

typedef struct mh__timer {
    int64_t at;
    uint32_t task;
} mh__timer;

/* Workers by load: open ones and full ones apart. Loads from MH__BUCKETS - 1 on share the last bucket. */
enum { MH__BUCKETS = 1024, MH__BUCKET_WORDS = MH__BUCKETS / 64, MH__OPEN = 0, MH__FULL = 1 /* sets */ };

struct mh_sched {
    mh_sched_options options;
    int64_t now;
    mh__slab tasks, workers, extras, edges, places, groups;
    uint32_t sequence;   /* the last task's generation */
    uint32_t workers_sequence, groups_sequence;
    uint32_t alive;      /* workers that joined and have not left */
    uint32_t alive_count_of_state[6]; /* tasks by mh__task_state */
    uint32_t pending_mask;            /* priorities with pending tasks */
    mh__ends pending[MH_SCHED_PRIORITY_MAX + 1];
    mh__ends avoiding;    /* pending tasks that some worker refused */
    bool avoiding_stale;  /* none of them could be assigned when last tried, and nothing changed since */
    mh__ends ended;
    mh__ends revokes;
    mh__ends kills;       /* workers */
    mh__ends wanting;     /* open workers with wants */
    uint32_t summary[2];
    uint64_t bits[2][MH__BUCKET_WORDS];
    mh__ends buckets[2 * MH__BUCKETS];
    uint32_t *open;       /* open workers; a heap by used_at where the policy asks for it */
    uint32_t open_count, open_capacity;
    bool uses_buckets, uses_open, uses_heap;
    uint64_t uses;        /* assignments so far */
    uint64_t task_ns;     /* moving average over all workers: what a new one starts with */
    uint64_t random;
    mh__timer *timers;
    uint32_t timer_count, timer_capacity;
    uint32_t timed;       /* live tasks that may need a timer */
    int64_t steal_at;     /* when to look again for a queue to steal from */
    mh_sched_stats stats;
};

static inline mh__task *mh__task_at(const mh_sched *s, uint32_t i) { return (mh__task *)s->tasks.items + i; }
static inline mh__worker *mh__worker_at(const mh_sched *s, uint32_t i) { return (mh__worker *)s->workers.items + i; }
static inline mh__extra *mh__extra_at(const mh_sched *s, uint32_t i) { return (mh__extra *)s->extras.items + i; }
static inline mh__edge *mh__edge_at(const mh_sched *s, uint32_t i) { return (mh__edge *)s->edges.items + i; }
static inline mh__place *mh__place_at(const mh_sched *s, uint32_t i) { return (mh__place *)s->places.items + i; }
static inline mh__group *mh__group_at(const mh_sched *s, uint32_t i) { return (mh__group *)s->groups.items + i; }

/* The index that a handle stands for, or MH__NONE. */
static inline uint32_t mh__sched_find_task(const mh_sched *s, mh_sched_task task)
{
    if (task.index >= s->tasks.used || task.generation == 0)
        return MH__NONE;
    return mh__task_at(s, task.index)->generation == task.generation ? task.index : MH__NONE;
}

static inline uint32_t mh__sched_find_worker(const mh_sched *s, mh_sched_worker worker)
{
    if (worker.index >= s->workers.used)
        return MH__NONE;
    const mh__worker *w = mh__worker_at(s, worker.index);
    return w->state != MH__WORKER_FREE && w->generation == worker.generation ? worker.index : MH__NONE;
}

static inline int64_t mh__time_after(int64_t at, int64_t ns)
{
    int64_t sum;
    return __builtin_add_overflow(at, ns, &sum) ? INT64_MAX : sum;
}

static inline void mh__set_state(mh_sched *s, mh__task *t, mh__task_state state)
{
    s->alive_count_of_state[t->state]--;
    s->alive_count_of_state[state]++;
    t->state = (uint8_t)state;
}

/* Lists of tasks through next and prev. */
static inline void mh__task_push_back(mh_sched *s, mh__ends *list, uint32_t i)
{
    mh__task *t = mh__task_at(s, i);
    t->next = MH__NONE;
    t->prev = list->tail;
    if (list->tail == MH__NONE)
        list->head = i;
    else
        mh__task_at(s, list->tail)->next = i;
    list->tail = i;
}

static inline void mh__task_push_front(mh_sched *s, mh__ends *list, uint32_t i)
{
    mh__task *t = mh__task_at(s, i);
    t->prev = MH__NONE;
    t->next = list->head;
    if (list->head == MH__NONE)
        list->tail = i;
    else
        mh__task_at(s, list->head)->prev = i;
    list->head = i;
}

static inline void mh__task_unlink(mh_sched *s, mh__ends *list, uint32_t i)
{
    const mh__task *t = mh__task_at(s, i);
    if (t->prev == MH__NONE)
        list->head = t->next;
    else
        mh__task_at(s, t->prev)->next = t->next;
    if (t->next == MH__NONE)
        list->tail = t->prev;
    else
        mh__task_at(s, t->next)->prev = t->prev;
}

/* worker.c: who may be given tasks, and who is */
void mh__worker_place(mh_sched *s, uint32_t wi); /* after its load, limit, state or wants changed */
void mh__worker_set_limit(mh_sched *s, mh__worker *w);
void mh__worker_used(mh_sched *s, uint32_t wi); /* it was given a task */
uint32_t mh__worker_choose(mh_sched *s);        /* an open worker by the policy, or MH__NONE */
uint32_t mh__worker_choose_for(mh_sched *s, const mh__task *t); /* the same, of those that did not refuse t */
uint32_t mh__worker_idle(const mh_sched *s);    /* one without tasks, or MH__NONE; only where buckets are kept */
uint32_t mh__worker_longest(const mh_sched *s); /* one with the most tasks, or MH__NONE; only where buckets are kept */
void mh__worker_want_changed(mh_sched *s, uint32_t wi);
void mh__worker_kill(mh_sched *s, uint32_t wi, uint32_t ti);
void mh__worker_kill_retract(mh_sched *s, uint32_t wi);

/* A moving average of durations, which follows within about four tasks; the limit is worked out anew only when that has
 * moved by an eighth. */
static inline void mh__worker_measure(mh_sched *s, mh__worker *w, uint64_t duration_ns)
{
    uint64_t ns = MH__MIN(duration_ns, UINT64_C(1) << 60);
    ns = w->task_ns ? w->task_ns - w->task_ns / 4 + ns / 4 : ns;
    w->task_ns = MH__MAX(ns, UINT64_C(1));
    if (w->task_ns >= w->task_ns_low && w->task_ns <= w->task_ns_high)
        return;
    s->task_ns = w->task_ns;
    mh__worker_set_limit(s, w);
}

/* attempt.c: a task at a worker */
void mh__attempt_begin(mh_sched *s, uint32_t ti, uint32_t wi, mh_sched_action *out);
void mh__attempt_revoke(mh_sched *s, uint32_t ti);  /* ask for it back */
void mh__attempt_unrevoke(mh_sched *s, uint32_t ti);/* what was asked is answered, or moot */
void mh__attempt_overdue(mh_sched *s, uint32_t ti);

/* sched.c: a task's life */
void mh__task_enter_pending(mh_sched *s, uint32_t ti, bool front);
void mh__task_leave_pending(mh_sched *s, uint32_t ti);
void mh__task_finish(mh_sched *s, uint32_t ti, mh_sched_outcome outcome); /* it is in no list */
void mh__task_expire(mh_sched *s, uint32_t ti);

/* depend.c: what tasks wait for, and where they may run */
mh_err mh__depend_reserve(mh_sched *s, const mh_sched_submit_options *o); /* check and make room */
void mh__depend_attach(mh_sched *s, uint32_t ti, const mh_sched_submit_options *o);
void mh__depend_start(mh_sched *s, uint32_t ti);    /* WAITING: pending or ended, if it is time */
void mh__depend_notify(mh_sched *s, uint32_t ti);   /* ti has ended: tell those who wait for it */
void mh__depend_release(mh_sched *s, uint32_t ti);  /* drop its extra */
bool mh__depend_may_pend(mh_sched *s, uint32_t ti); /* false: it can run nowhere any more */
void mh__depend_link(mh_sched *s, uint32_t ti, bool front); /* into the wants of its places */
void mh__depend_unlink(mh_sched *s, uint32_t ti);
bool mh__depend_is_placed(const mh__extra *e);      /* it may run only on particular workers */
bool mh__depend_is_choosy(const mh__extra *e);      /* the same, or some worker refused it */
bool mh__depend_is_avoiding(const mh_sched *s, const mh__task *t); /* some live worker refused it */
bool mh__depend_avoids(const mh_sched *s, const mh__task *t, uint32_t wi);
mh_err mh__depend_refuse_reserve(mh_sched *s, uint32_t ti);
void mh__depend_refuse(mh_sched *s, uint32_t ti, uint32_t wi);
void mh__depend_fail(mh_sched *s, uint32_t ti, uint32_t wi); /* it failed there, and is to be tried again */
void mh__depend_worker_left(mh_sched *s, uint32_t wi);
uint32_t mh__depend_best_place(mh_sched *s, const mh__task *t); /* the best open worker of a pending placed task */

/* timer.c: a heap of tasks by time */
mh_err mh__timer_reserve(mh_sched *s);
void mh__timer_set(mh_sched *s, uint32_t ti, int64_t at);
void mh__timer_clear(mh_sched *s, uint32_t ti);

/* validate.c: check every list, count and heap. Returns what is wrong, or NULL. For tests; linear in everything. */
const char *mh__sched_validate(const mh_sched *s);

#endif
