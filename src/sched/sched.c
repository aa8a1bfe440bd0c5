/* The scheduler's life, a task's life from submission to DONE, and the decisions that mh_sched_actions makes. */
#include "sched/sched_state.h"

#include "base/error.h"

#include <string.h>

enum { SHRINK_TASKS = 1 << 18 }; /* with more room than this and no task left, memory is given back */

#define STEAL_NS_DEFAULT (50 * MH_MICROSECOND)

/* ---- life ------------------------------------------------------------------------------------ */

static mh_err check_options(const mh_sched_options *o)
{
    if (o->policy > MH_SCHED_PURE)
        return mh__fail(MH_ERR_INVALID, "policy %d", (int)o->policy);
    if (o->queue_ns < 0 || o->steal_ns < 0)
        return mh__fail(MH_ERR_INVALID, "queue_ns or steal_ns is negative");
    if (o->steal && o->policy != MH_SCHED_LEASTLOAD && o->policy != MH_SCHED_WEIGHTED)
        return mh__fail(MH_ERR_INVALID, "steal with policy %d", (int)o->policy);
    return MH_OK;
}

static void empty_list(mh__ends *list) { *list = (mh__ends){MH__NONE, MH__NONE}; }

mh_err mh_sched_create(mh_sched **out, const mh_sched_options *options)
{
    if (!out)
        return mh__fail(MH_ERR_INVALID, "out is NULL");
    *out = NULL;
    mh_sched_options o = options ? *options : (mh_sched_options){0};
    mh_err err = check_options(&o);
    if (err)
        return err;
    mh_sched *s = mh__calloc(1, sizeof *s);
    if (!s)
        return MH_ERR_NO_MEMORY;
    s->options = o;
    if (!o.steal_ns)
        s->options.steal_ns = STEAL_NS_DEFAULT;
    mh__slab_init(&s->tasks, sizeof(mh__task));
    mh__slab_init(&s->workers, sizeof(mh__worker));
    mh__slab_init(&s->extras, sizeof(mh__extra));
    mh__slab_init(&s->edges, sizeof(mh__edge));
    mh__slab_init(&s->places, sizeof(mh__place));
    mh__slab_init(&s->groups, sizeof(mh__group));
    for (uint32_t i = 0; i <= MH_SCHED_PRIORITY_MAX; i++)
        empty_list(&s->pending[i]);
    for (uint32_t i = 0; i < MH__COUNT_OF(s->buckets); i++)
        empty_list(&s->buckets[i]);
    mh__ends *lists[] = {&s->avoiding, &s->ended, &s->revokes, &s->kills, &s->wanting};
    for (size_t i = 0; i < MH__COUNT_OF(lists); i++)
        empty_list(lists[i]);
    s->uses_buckets = o.policy == MH_SCHED_LEASTLOAD || o.policy == MH_SCHED_WEIGHTED;
    s->uses_open = o.policy != MH_SCHED_LEASTLOAD;
    s->uses_heap = o.policy == MH_SCHED_LRU || o.policy == MH_SCHED_PURE;
    s->random = o.seed;
    s->steal_at = INT64_MAX;
    *out = s;
    return MH_OK;
}

void mh_sched_destroy(mh_sched **s)
{
    if (!s || !*s)
        return;
    mh__slab *slabs[] = {&(*s)->tasks, &(*s)->workers, &(*s)->extras, &(*s)->edges, &(*s)->places, &(*s)->groups};
    for (size_t i = 0; i < MH__COUNT_OF(slabs); i++)
        mh__slab_fini(slabs[i]);
    mh__free((*s)->open);
    mh__free((*s)->timers);
    mh__free(*s);
    *s = NULL;
}

/* ---- handles --------------------------------------------------------------------------------- */

static uint32_t find_group(const mh_sched *s, mh_sched_group group)
{
    if (group.index >= s->groups.used || group.generation == 0)
        return MH__NONE;
    return mh__group_at(s, group.index)->generation == group.generation ? group.index : MH__NONE;
}

/* The next number that is not 0, which means none. */
static uint32_t next_generation(uint32_t *sequence)
{
    if (++*sequence == 0)
        ++*sequence;
    return *sequence;
}

/* ---- workers --------------------------------------------------------------------------------- */

static mh_err reserve_worker(mh_sched *s)
{
    mh_err err = mh__slab_reserve(&s->workers, 1);
    if (err || !s->uses_open || s->open_capacity >= s->workers.capacity)
        return err;
    uint32_t *open = mh__realloc(s->open, s->workers.capacity * sizeof *open);
    if (!open)
        return MH_ERR_NO_MEMORY;
    s->open = open;
    s->open_capacity = s->workers.capacity;
    return MH_OK;
}

mh_err mh_sched_worker_join(mh_sched *s, const mh_sched_worker_options *options, mh_sched_worker *out)
{
    if (!out)
        return mh__fail(MH_ERR_INVALID, "out is NULL");
    mh_err err = reserve_worker(s);
    if (err)
        return err;
    uint32_t wi = mh__slab_take(&s->workers);
    mh__worker *w = mh__worker_at(s, wi);
    uint32_t capacity = options && options->capacity ? options->capacity : s->options.high_water;
    *w = (mh__worker){
        .generation = next_generation(&s->workers_sequence),
        .bucket = MH__NONE,
        .queue = {MH__NONE, MH__NONE},
        .wants = {MH__NONE, MH__NONE},
        .task_ns = s->task_ns,
        .progress_at = s->now,
        .capacity = capacity ? capacity : UINT32_MAX,
        .open_at = MH__NONE,
        .state = MH__WORKER_ALIVE,
    };
    s->alive++;
    mh__worker_set_limit(s, w);
    mh__worker_place(s, wi);
    *out = (mh_sched_worker){wi, w->generation};
    return MH_OK;
}

mh_err mh_sched_worker_resize(mh_sched *s, mh_sched_worker worker, uint32_t capacity)
{
    uint32_t wi = mh__sched_find_worker(s, worker);
    if (wi == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "worker %u of generation %u", worker.index, worker.generation);
    mh__worker_at(s, wi)->capacity = capacity;
    mh__worker_set_limit(s, mh__worker_at(s, wi));
    mh__worker_place(s, wi);
    return MH_OK;
}

mh_err mh_sched_worker_keep(mh_sched *s, mh_sched_worker worker, bool keeps)
{
    uint32_t wi = mh__sched_find_worker(s, worker);
    if (wi == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "worker %u of generation %u", worker.index, worker.generation);
    mh__worker_at(s, wi)->keeps = keeps;
    return MH_OK;
}

mh_err mh_sched_worker_load(const mh_sched *s, mh_sched_worker worker, uint32_t *load, uint32_t *room)
{
    uint32_t wi = mh__sched_find_worker(s, worker);
    if (wi == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "worker %u of generation %u", worker.index, worker.generation);
    if (load)
        *load = mh__worker_at(s, wi)->load;
    if (room)
        *room = mh__worker_at(s, wi)->limit;
    return MH_OK;
}

/* ---- groups ---------------------------------------------------------------------------------- */

static void enter_group(mh_sched *s, uint32_t ti, uint32_t gi)
{
    mh__group *g = mh__group_at(s, gi);
    mh__task *t = mh__task_at(s, ti);
    t->group = gi;
    t->group_prev = MH__NONE;
    t->group_next = g->head;
    if (g->head != MH__NONE)
        mh__task_at(s, g->head)->group_prev = ti;
    g->head = ti;
    g->count++;
}

static void leave_group(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    mh__group *g = mh__group_at(s, t->group);
    *(t->group_prev == MH__NONE ? &g->head : &mh__task_at(s, t->group_prev)->group_next) = t->group_next;
    if (t->group_next != MH__NONE)
        mh__task_at(s, t->group_next)->group_prev = t->group_prev;
    g->count--;
    t->group = MH__NONE;
}

mh_err mh_sched_group_open(mh_sched *s, mh_sched_group *out)
{
    if (!out)
        return mh__fail(MH_ERR_INVALID, "out is NULL");
    mh_err err = mh__slab_reserve(&s->groups, 1);
    if (err)
        return err;
    uint32_t gi = mh__slab_take(&s->groups);
    *mh__group_at(s, gi) = (mh__group){.generation = next_generation(&s->groups_sequence), .head = MH__NONE};
    *out = (mh_sched_group){gi, mh__group_at(s, gi)->generation};
    return MH_OK;
}

mh_err mh_sched_group_close(mh_sched *s, mh_sched_group group)
{
    uint32_t gi = find_group(s, group);
    if (gi == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "group %u of generation %u", group.index, group.generation);
    while (mh__group_at(s, gi)->head != MH__NONE)
        leave_group(s, mh__group_at(s, gi)->head);
    mh__group_at(s, gi)->generation = 0;
    mh__slab_give(&s->groups, gi);
    return MH_OK;
}

/* ---- a task's life --------------------------------------------------------------------------- */

static mh_err reserve_task(mh_sched *s, const mh_sched_submit_options *o, bool *has_extra)
{
    if (s->tasks.live >= UINT32_C(1) << 31)
        return mh__fail(MH_ERR_LIMIT, "%u tasks", s->tasks.live);
    mh_err err = mh__slab_reserve(&s->tasks, 1);
    if (!err && (o->timeout_ns > 0 || o->wait_ns > 0))
        err = mh__timer_reserve(s);
    *has_extra = o->after.count > 0 || o->follow.count > 0 || o->target_count > 0 || o->elsewhere;
    if (!err && *has_extra)
        err = mh__depend_reserve(s, o);
    return err;
}

static mh_err check_submit(const mh_sched *s, const mh_sched_submit_options *o)
{
    if (o->priority > MH_SCHED_PRIORITY_MAX)
        return mh__fail(MH_ERR_INVALID, "priority %u", o->priority);
    if (o->timeout_ns < 0 || o->wait_ns < 0)
        return mh__fail(MH_ERR_INVALID, "timeout_ns or wait_ns is negative");
    if (o->group.generation != 0 && find_group(s, o->group) == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "group %u of generation %u", o->group.index, o->group.generation);
    return MH_OK;
}

static void init_task(mh_sched *s, uint32_t ti, const mh_sched_submit_options *o)
{
    mh__task *t = mh__task_at(s, ti);
    t->generation = next_generation(&s->sequence);
    t->epoch = 0;
    t->worker = MH__NONE;
    t->worker_generation = 0;
    t->attempts = 0;
    t->state = MH__TASK_WAITING;
    s->alive_count_of_state[MH__TASK_WAITING]++;
    t->flags = o->lost_retries ? MH__TASK_LOST_BUDGET : 0;
    t->priority = (uint8_t)o->priority;
    t->outcome = MH_SCHED_UNKNOWN;
    t->tag = o->tag;
    t->lost_left = o->lost_retries + (MH__MUTANT(3) && o->lost_retries);
    t->failed_left = o->failed_retries;
    t->oom_left = o->oom_retries;
    t->extra = t->edges = t->group = t->timer = MH__NONE;
    t->timeout_ns = o->timeout_ns;
    if (o->timeout_ns > 0 || o->wait_ns > 0) {
        t->flags |= MH__TASK_TIMED;
        s->timed++;
    }
    if (o->wait_ns > 0)
        mh__timer_set(s, ti, mh__time_after(s->now, o->wait_ns));
}

mh_err mh_sched_submit(mh_sched *s, const mh_sched_submit_options *options, mh_sched_task *out)
{
    static const mh_sched_submit_options defaults;
    const mh_sched_submit_options *o = options ? options : &defaults;
    if (!out)
        return mh__fail(MH_ERR_INVALID, "out is NULL");
    bool has_extra = false;
    mh_err err = check_submit(s, o);
    if (!err)
        err = reserve_task(s, o, &has_extra);
    if (err)
        return err;
    uint32_t ti = mh__slab_take(&s->tasks);
    init_task(s, ti, o);
    s->stats.submitted++;
    *out = (mh_sched_task){ti, mh__task_at(s, ti)->generation};
    if (o->group.generation != 0)
        enter_group(s, ti, o->group.index);
    if (has_extra) {
        mh__depend_attach(s, ti, o);
        mh__depend_start(s, ti);
    } else {
        mh__task_enter_pending(s, ti, MH__MUTANT(12));
    }
    return MH_OK;
}

static void push_pending(mh_sched *s, uint32_t ti, bool front)
{
    uint32_t priority = mh__task_at(s, ti)->priority;
    if (front)
        mh__task_push_front(s, &s->pending[priority], ti);
    else
        mh__task_push_back(s, &s->pending[priority], ti);
    s->pending_mask |= 1u << priority;
}

void mh__task_enter_pending(mh_sched *s, uint32_t ti, bool front)
{
    mh__task *t = mh__task_at(s, ti);
    mh__set_state(s, t, MH__TASK_PENDING);
    if (t->extra == MH__NONE || MH__MUTANT(13)) {
        push_pending(s, ti, front);
    } else if (!mh__depend_may_pend(s, ti)) {
        mh__task_finish(s, ti, MH_SCHED_IMPOSSIBLE);
    } else if (mh__depend_is_placed(mh__extra_at(s, t->extra))) {
        t->flags |= MH__TASK_PLACED;
        mh__depend_link(s, ti, front);
    } else if (!mh__depend_is_avoiding(s, t)) {
        push_pending(s, ti, front);
    } else {
        t->flags |= MH__TASK_AVOIDING;
        s->avoiding_stale = false;
        if (front)
            mh__task_push_front(s, &s->avoiding, ti);
        else
            mh__task_push_back(s, &s->avoiding, ti);
    }
}

void mh__task_leave_pending(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    if (t->flags & MH__TASK_PLACED) {
        mh__depend_unlink(s, ti);
    } else if (t->flags & MH__TASK_AVOIDING) {
        mh__task_unlink(s, &s->avoiding, ti);
    } else {
        mh__task_unlink(s, &s->pending[t->priority], ti);
        if (s->pending[t->priority].head == MH__NONE)
            s->pending_mask &= ~(1u << t->priority);
    }
    t->flags &= (uint8_t) ~(MH__TASK_PLACED | MH__TASK_AVOIDING);
}

void mh__task_finish(mh_sched *s, uint32_t ti, mh_sched_outcome outcome)
{
    mh__task *t = mh__task_at(s, ti);
    if (t->timer != MH__NONE)
        mh__timer_clear(s, ti);
    if (t->flags & MH__TASK_TIMED)
        s->timed--;
    if (t->extra != MH__NONE)
        mh__depend_release(s, ti);
    if (t->group != MH__NONE)
        leave_group(s, ti);
    mh__set_state(s, t, MH__TASK_ENDED);
    t->outcome = (uint8_t)outcome;
    mh__task_push_back(s, &s->ended, ti);
}

void mh__task_expire(mh_sched *s, uint32_t ti)
{
    if (mh__task_at(s, ti)->state == MH__TASK_PENDING)
        mh__task_leave_pending(s, ti);
    mh__task_finish(s, ti, MH_SCHED_EXPIRED);
}

static void cancel_task(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    switch (t->state) {
    case MH__TASK_PENDING:
        if (MH__MUTANT(6))
            return;
        mh__task_leave_pending(s, ti);
        mh__task_finish(s, ti, MH_SCHED_CANCELLED);
        break;
    case MH__TASK_WAITING:
        mh__task_finish(s, ti, MH_SCHED_CANCELLED);
        break;
    case MH__TASK_QUEUED:
        mh__attempt_revoke(s, ti);
        t->flags |= MH__TASK_CANCEL;
        break;
    case MH__TASK_RUNNING:
        t->flags |= MH__TASK_CANCEL;
        break;
    default:
        break;
    }
}

mh_err mh_sched_cancel(mh_sched *s, mh_sched_task task)
{
    uint32_t ti = mh__sched_find_task(s, task);
    if (ti == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "task %u of generation %u", task.index, task.generation);
    cancel_task(s, ti);
    return MH_OK;
}

mh_err mh_sched_group_cancel(mh_sched *s, mh_sched_group group)
{
    uint32_t gi = find_group(s, group);
    if (gi == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "group %u of generation %u", group.index, group.generation);
    /* Cancelling takes no other task out of the group: those that wait for one learn of its end later. */
    for (uint32_t ti = mh__group_at(s, gi)->head, next; ti != MH__NONE; ti = next) {
        next = mh__task_at(s, ti)->group_next;
        cancel_task(s, ti);
    }
    return MH_OK;
}

/* ---- time ------------------------------------------------------------------------------------ */

void mh_sched_tick(mh_sched *s, int64_t now)
{
    if (now > s->now)
        s->now = now;
    while (s->timer_count > 0 && s->timers[0].at <= s->now) {
        uint32_t ti = s->timers[0].task;
        mh__timer_clear(s, ti);
        if (mh__task_at(s, ti)->state == MH__TASK_RUNNING)
            mh__attempt_overdue(s, ti);
        else
            mh__task_expire(s, ti);
    }
}

int64_t mh_sched_wake_at(const mh_sched *s)
{
    int64_t timer = s->timer_count > 0 ? s->timers[0].at : INT64_MAX;
    return MH__MIN(timer, s->steal_at);
}

/* ---- actions --------------------------------------------------------------------------------- */

static void free_task(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    mh__set_state(s, t, MH__TASK_FREE);
    t->generation = 0;
    mh__slab_give(&s->tasks, ti);
    if (s->tasks.live == 0 && s->tasks.capacity > SHRINK_TASKS)
        mh__slab_fini(&s->tasks);
}

static void hand_out_done(mh_sched *s, mh_sched_action *out)
{
    uint32_t ti = s->ended.head;
    mh__task *t = mh__task_at(s, ti);
    *out = (mh_sched_action){
        .kind = MH_SCHED_DONE,
        .outcome = (mh_sched_outcome)t->outcome,
        .task = {ti, t->generation},
        .worker = {t->worker == MH__NONE ? 0 : t->worker, t->worker_generation},
        .epoch = t->epoch,
        .attempts = t->attempts,
        .tag = t->tag,
    };
    if (MH__MUTANT(4) && t->attempts == 2 && t->flags != 0xff) {
        t->flags = 0xff;
        return;
    }
    if (t->edges != MH__NONE)
        mh__depend_notify(s, ti);
    mh__task_unlink(s, &s->ended, ti);
    s->stats.done++;
    s->stats.outcomes[out->outcome]++;
    free_task(s, ti);
}

static void hand_out_kill(mh_sched *s, mh_sched_action *out)
{
    uint32_t wi = s->kills.head;
    const mh__worker *w = mh__worker_at(s, wi);
    const mh__task *t = mh__task_at(s, w->kill_task);
    mh__worker_kill_retract(s, wi);
    *out = (mh_sched_action){
        .kind = MH_SCHED_KILL_WORKER,
        .task = {w->kill_task, t->generation},
        .worker = {wi, w->generation},
        .epoch = t->epoch,
        .attempts = t->attempts + 1,
        .tag = t->tag,
    };
}

static void hand_out_revoke(mh_sched *s, mh_sched_action *out)
{
    uint32_t ti = s->revokes.head;
    mh__task *t = mh__task_at(s, ti);
    s->revokes.head = t->revoke_next;
    *(t->revoke_next == MH__NONE ? &s->revokes.tail : &mh__task_at(s, t->revoke_next)->revoke_prev) = MH__NONE;
    t->flags &= (uint8_t)~MH__TASK_REVOKE_OUT;
    *out = (mh_sched_action){
        .kind = MH_SCHED_REVOKE,
        .task = {ti, t->generation},
        .worker = {t->worker, t->worker_generation},
        .epoch = t->epoch,
        .attempts = t->attempts + 1,
        .tag = t->tag,
    };
}

/* The task to be assigned next among those that may go anywhere, or MH__NONE. */
static uint32_t first_pending(const mh_sched *s)
{
    return s->pending_mask ? s->pending[31 - __builtin_clz(s->pending_mask)].head : MH__NONE;
}

static bool goes_before(const mh__task *a, const mh__task *b)
{
    return a->priority != b->priority ? a->priority > b->priority : (int32_t)(a->generation - b->generation) < 0;
}

static void assign(mh_sched *s, uint32_t ti, uint32_t wi, mh_sched_action *out)
{
    mh__task_leave_pending(s, ti);
    mh__attempt_begin(s, ti, wi, out);
}

/* An open worker has a task that wants it: assign that, unless one that may go anywhere comes before. */
static bool assign_placed(mh_sched *s, mh_sched_action *out)
{
    uint32_t ti = mh__place_at(s, mh__worker_at(s, s->wanting.head)->wants.head)->task;
    uint32_t other = first_pending(s);
    if (other != MH__NONE && goes_before(mh__task_at(s, other), mh__task_at(s, ti)))
        return false;
    assign(s, ti, mh__depend_best_place(s, mh__task_at(s, ti)), out);
    return true;
}

/* A task that some worker refused goes to one that did not. Each is tried once for each worker that becomes open. */
static bool assign_avoiding(mh_sched *s, mh_sched_action *out)
{
    for (uint32_t ti = s->avoiding.head; ti != MH__NONE; ti = mh__task_at(s, ti)->next) {
        uint32_t wi = mh__worker_choose_for(s, mh__task_at(s, ti));
        if (wi != MH__NONE) {
            assign(s, ti, wi, out);
            return true;
        }
    }
    s->avoiding_stale = true;
    return false;
}

static bool hand_out_assignment(mh_sched *s, mh_sched_action *out)
{
    if (s->avoiding.head != MH__NONE && !s->avoiding_stale && assign_avoiding(s, out))
        return true;
    if (s->wanting.head != MH__NONE && assign_placed(s, out))
        return true;
    uint32_t ti = first_pending(s);
    if (ti == MH__NONE)
        return false;
    uint32_t wi = mh__worker_choose(s);
    if (wi == MH__NONE)
        return false;
    assign(s, ti, wi, out);
    return true;
}

/* Ask back half of what stands behind the first task of a queue, from its end; only what the idle worker may run. */
static bool revoke_tail(mh_sched *s, mh__worker *w)
{
    uint32_t wanted = w->load / 2;
    bool any = false;
    for (uint32_t ti = w->queue.tail; wanted > 0 && ti != w->queue.head; ti = mh__task_at(s, ti)->prev, wanted--) {
        const mh__task *t = mh__task_at(s, ti);
        if (t->state != MH__TASK_QUEUED || (t->flags & (MH__TASK_REVOKING | MH__TASK_CANCEL)))
            continue;
        if (t->extra != MH__NONE && mh__depend_is_choosy(mh__extra_at(s, t->extra)))
            continue;
        mh__attempt_revoke(s, ti);
        any = true;
    }
    return any;
}

/* When a worker is idle and nothing is pending, take tasks back from the longest queue, unless that should be empty
 * soon: by the measured time of its tasks, and by having moved lately, as a long task may stand before short ones. */
static bool steal(mh_sched *s)
{
    s->steal_at = INT64_MAX;
    if (!s->options.steal || s->pending_mask || mh__worker_idle(s) == MH__NONE)
        return false;
    uint32_t wi = mh__worker_longest(s);
    if (wi == MH__NONE)
        return false;
    mh__worker *w = mh__worker_at(s, wi);
    if (w->load < 2 || w->revoking > 0 || w->keeps)
        return false;
    uint64_t left_ns, gate_ns = (uint64_t)s->options.steal_ns;
    if (w->task_ns == 0 || __builtin_mul_overflow((uint64_t)w->load - 1, w->task_ns, &left_ns))
        left_ns = UINT64_MAX;
    uint64_t still_ns = (uint64_t)s->now - (uint64_t)w->progress_at;
    if (left_ns < gate_ns && still_ns < gate_ns) {
        s->steal_at = mh__time_after(s->now, s->options.steal_ns);
        return false;
    }
    return revoke_tail(s, w);
}

static bool hand_out(mh_sched *s, mh_sched_action *out)
{
    if (s->ended.head != MH__NONE) {
        hand_out_done(s, out);
    } else if (s->kills.head != MH__NONE) {
        hand_out_kill(s, out);
    } else if (s->revokes.head == MH__NONE && hand_out_assignment(s, out)) {
        return true;
    } else if (s->revokes.head != MH__NONE || steal(s)) {
        hand_out_revoke(s, out);
    } else {
        return false;
    }
    return true;
}

size_t mh_sched_actions(mh_sched *s, mh_sched_action *out, size_t capacity)
{
    size_t count = 0;
    while (count < capacity && hand_out(s, &out[count]))
        count++;
    return count;
}

/* ---- looking in ------------------------------------------------------------------------------ */

void mh_sched_stats_read(const mh_sched *s, mh_sched_stats *out)
{
    const mh__slab *slabs[] = {&s->tasks, &s->workers, &s->extras, &s->edges, &s->places, &s->groups};
    *out = s->stats;
    out->workers = s->alive;
    out->waiting = s->alive_count_of_state[MH__TASK_WAITING];
    out->pending = s->alive_count_of_state[MH__TASK_PENDING];
    out->assigned = s->alive_count_of_state[MH__TASK_QUEUED] + s->alive_count_of_state[MH__TASK_RUNNING];
    out->ended = s->alive_count_of_state[MH__TASK_ENDED];
    out->bytes = sizeof *s + s->open_capacity * sizeof *s->open + s->timer_capacity * sizeof *s->timers;
    for (size_t i = 0; i < MH__COUNT_OF(slabs); i++)
        out->bytes += slabs[i]->capacity * slabs[i]->item_bytes;
}
