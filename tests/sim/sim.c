#include "sim.h"

#include "base/number.h"

#include <stdarg.h>
#include <string.h>

#include "sched/sched_state.h"

enum { SIM_EVENTS = 1024, SIM_STEPS = 20000, SIM_QUEUE = 2 * SIM_TASKS, SIM_SPARE_WORKERS = 16, SIM_HOSTS = 3 };
#define SIM_MS MH_MILLISECOND

/* What a task does when it runs. */
typedef enum sim_temper {
    STEADY,   /* ends as MH_SCHED_OK */
    FAILS,    /* reports a failure, now and then */
    SWELLS,   /* goes over its memory limit, now and then */
    KILLS,    /* kills its worker, now and then */
    POISONS,  /* kills every worker */
    HANGS,    /* never ends, now and then */
    CHOOSY    /* is refused by workers with an odd number */
} sim_temper;

typedef enum sim_kind {
    SUBMIT,
    CANCEL,
    CANCEL_GROUP,
    JOIN,
    RESIZE,
    CRASH,     /* a worker dies, or is cut off */
    LOSE_HOST, /* all workers on one of SIM_HOSTS hosts at once */
    LEAVE,     /* the driver learns of it */
    ARRIVE,    /* an assignment reaches its worker */
    ASK_BACK,  /* so does a revocation */
    END,       /* what a worker runs ends */
    TELL_START,/* messages from workers reach the driver */
    TELL_END,
    TELL_REVOKED
} sim_kind;

typedef struct sim_event {
    int64_t at;
    uint64_t order; /* of events at the same time */
    sim_kind kind;
    uint32_t worker, task, epoch;
    mh_sched_outcome outcome;
    mh_sched_cause cause;
    bool flag;
    int64_t duration;
} sim_event;

typedef struct sim_item {
    uint32_t task, epoch;
} sim_item;

typedef struct sim_worker {
    mh_sched_worker handle;
    bool runs, is_known, is_cut_off, is_running;
    uint32_t count;          /* of items; the first one runs if is_running */
    sim_item items[SIM_QUEUE];
    int64_t last_message;    /* messages of one worker keep their order */
} sim_worker;

typedef struct sim {
    mh_sched *s;
    checker check;
    uint64_t random;
    FILE *trace;
    sim_report *report;
    int64_t now;
    sim_event events[SIM_EVENTS];
    uint32_t event_count;
    uint64_t order;
    sim_spec specs[SIM_TASKS];
    mh_sched_task handles[SIM_TASKS];
    sim_temper tempers[SIM_TASKS];
    bool in_group[SIM_TASKS];
    sim_worker workers[SIM_WORKERS];
    uint32_t task_count, tasks_to_come, worker_count;
    mh_sched_group group;
    int64_t delay;           /* longest time that a message takes; 0: a driver on the same machine */
    bool tells_start, names_running, duplicates;
    bool is_story;           /* nothing is drawn: every task takes 50 ms, every worker one task */
    int64_t calm_at;         /* from then on nothing breaks, so that everything can end */
} sim;

static uint32_t draw(sim *m, uint32_t n) { return (uint32_t)((mh__splitmix(&m->random) >> 32) * n >> 32); }
static bool chance(sim *m, uint32_t percent) { return draw(m, 100) < percent; }

/* ---- the queue of events --------------------------------------------------------------------- */

static bool is_sooner(const sim_event *a, const sim_event *b) { return a->at != b->at ? a->at < b->at : a->order < b->order; }

static void sim_breaks(sim *m, const char *what)
{
    if (!m->report->fault[0])
        snprintf(m->report->fault, sizeof m->report->fault, "%s", what);
}

static void post(sim *m, int64_t at, sim_event event)
{
    if (m->event_count == SIM_EVENTS) {
        sim_breaks(m, "too many events: something goes round in circles");
        return;
    }
    event.at = at;
    event.order = m->order++;
    uint32_t i = m->event_count++;
    for (; i > 0 && is_sooner(&event, &m->events[(i - 1) / 2]); i = (i - 1) / 2)
        m->events[i] = m->events[(i - 1) / 2];
    m->events[i] = event;
}

static sim_event take_event(sim *m)
{
    sim_event first = m->events[0], last = m->events[--m->event_count];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < m->event_count; i = child) {
        if (child + 1 < m->event_count && is_sooner(&m->events[child + 1], &m->events[child]))
            child++;
        if (!is_sooner(&m->events[child], &last))
            break;
        m->events[i] = m->events[child];
    }
    m->events[i] = last;
    return first;
}

/* ---- the trace ------------------------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static void tell(sim *m, const char *who, int number, const char *format, ...)
{
    if (!m->trace)
        return;
    char name[32];
    if (number < 0)
        snprintf(name, sizeof name, "%s", who);
    else
        snprintf(name, sizeof name, "%s %d", who, number);
    fprintf(m->trace, "[%3lld] %-9s > ", (long long)(m->now / SIM_MS), name);
    va_list args;
    va_start(args, format);
    vfprintf(m->trace, format, args);
    va_end(args);
    fputc('\n', m->trace);
}

static const char *outcome_name(mh_sched_outcome o)
{
    static const char *const names[] = {"unknown", "ok", "failed", "out of memory", "lost", "poison",
                                        "timeout", "cancelled", "expired", "impossible", "refused"};
    return names[o];
}

/* ---- messages -------------------------------------------------------------------------------- */

static int64_t arrival(sim *m, uint32_t w)
{
    sim_worker *worker = &m->workers[w];
    int64_t at = m->now + (m->delay ? (int64_t)draw(m, (uint32_t)m->delay) * SIM_MS : 0);
    worker->last_message = MH__MAX(at, worker->last_message);
    return worker->last_message;
}

static void send_to_driver(sim *m, sim_event event)
{
    int64_t at = arrival(m, event.worker);
    post(m, at, event);
    if (m->duplicates && event.kind == TELL_END && chance(m, 20))
        post(m, at + (int64_t)draw(m, 30) * SIM_MS, event);
}

/* ---- workers --------------------------------------------------------------------------------- */

static void start_next(sim *m, uint32_t w);

static void join_worker(sim *m)
{
    if (m->worker_count == SIM_WORKERS)
        return;
    uint32_t w = m->worker_count, capacity = m->is_story ? 1 : 1 + draw(m, 6);
    mh_err err = mh_sched_worker_join(m->s, &(mh_sched_worker_options){.capacity = capacity}, &m->workers[w].handle);
    if (err) {
        sim_breaks(m, "a worker can't join");
        return;
    }
    m->worker_count++;
    m->workers[w].runs = m->workers[w].is_known = true;
    saw_join(&m->check, w, capacity);
    tell(m, "worker", (int)w, "joins, takes %u", capacity);
}

/* The process dies, or (flag) is cut off and goes on unseen; the driver learns of it later. */
static void crash_worker(sim *m, uint32_t w, mh_sched_cause cause, bool cut_off)
{
    sim_worker *worker = &m->workers[w];
    if (!worker->runs || worker->is_cut_off)
        return;
    worker->runs = cut_off;
    worker->is_cut_off = cut_off;
    tell(m, "worker", (int)w, "%s", cut_off ? "cut off" : cause == MH_SCHED_DIED_OOM ? "killed for its memory" : "killed");
    m->report->deaths++;
    sim_event leave = {.kind = LEAVE, .worker = w, .cause = cause, .task = SIM_TASKS};
    if (worker->is_running)
        leave.task = worker->items[0].task;
    post(m, MH__MAX(arrival(m, w), m->now + SIM_MS), leave);
}

/* A host fails, or the network to it: the driver learns of each of its workers at another time. */
static void lose_host(sim *m, const sim_event *e)
{
    if (m->worker_count + SIM_SPARE_WORKERS > SIM_WORKERS)
        return;
    m->report->hosts++;
    for (uint32_t w = e->worker % SIM_HOSTS; w < m->worker_count; w += SIM_HOSTS)
        crash_worker(m, w, MH_SCHED_DIED, e->flag);
}

static void leave_worker_event(sim *m, const sim_event *e)
{
    sim_worker *worker = &m->workers[e->worker];
    if (!worker->is_known)
        return;
    worker->is_known = false;
    uint32_t running = m->names_running || m->delay == 0 ? e->task : SIM_TASKS;
    saw_leave(&m->check, e->worker, e->cause, running);
    tell(m, "driver", -1, "worker %u is gone", e->worker);
    mh_sched_task handle = running < SIM_TASKS ? m->handles[running] : (mh_sched_task){0};
    if (mh_sched_worker_leave(m->s, worker->handle, e->cause, handle))
        sim_breaks(m, "a worker can't leave");
    if (!m->is_story && (chance(m, 70) || m->now >= m->calm_at))
        post(m, m->now + (int64_t)draw(m, 10) * SIM_MS, (sim_event){.kind = JOIN});
}

static void end_of(sim *m, uint32_t w, sim_event *end)
{
    uint32_t task = m->workers[w].items[0].task;
    bool now_and_then = m->now < m->calm_at && chance(m, 60);
    bool may_kill = m->worker_count + SIM_SPARE_WORKERS < SIM_WORKERS;
    sim_temper temper = m->tempers[task];
    end->duration = (int64_t)(1 + draw(m, 12)) * SIM_MS;
    end->outcome = MH_SCHED_OK;
    if (m->is_story)
        end->duration = 50 * SIM_MS;
    else if (temper == FAILS && now_and_then)
        end->outcome = MH_SCHED_FAILED;
    else if (temper == SWELLS && now_and_then)
        end->outcome = MH_SCHED_OOM;
    else if (temper == CHOOSY && w % 2 == 1)
        end->outcome = MH_SCHED_REFUSED;
    else if (may_kill && (temper == POISONS || (temper == KILLS && now_and_then)))
        end->flag = true;
}

static void start_next(sim *m, uint32_t w)
{
    sim_worker *worker = &m->workers[w];
    if (!worker->runs || worker->is_running || worker->count == 0)
        return;
    worker->is_running = true;
    sim_event e = {.worker = w, .task = worker->items[0].task, .epoch = worker->items[0].epoch};
    if (m->tells_start || m->specs[e.task].timeout_ns) {
        e.kind = TELL_START;
        e.duration = m->now;
        send_to_driver(m, e);
    }
    e.kind = END;
    end_of(m, w, &e);
    if (m->tempers[e.task] == HANGS && m->now < m->calm_at && chance(m, 60)) {
        if (!m->specs[e.task].timeout_ns) /* nobody else would end it */
            post(m, m->now + 60 * SIM_MS, (sim_event){.kind = CRASH, .worker = w});
        return;
    }
    post(m, m->now + e.duration, e);
}

static void drop_first(sim_worker *worker, uint32_t i)
{
    memmove(&worker->items[i], &worker->items[i + 1], (--worker->count - i) * sizeof worker->items[0]);
}

static void end_task(sim *m, sim_event e)
{
    sim_worker *worker = &m->workers[e.worker];
    if (!worker->runs || !worker->is_running || worker->items[0].task != e.task || worker->items[0].epoch != e.epoch)
        return;
    if (e.flag) {
        crash_worker(m, e.worker, chance(m, 20) ? MH_SCHED_DIED_OOM : MH_SCHED_DIED, false);
        return;
    }
    drop_first(worker, 0);
    worker->is_running = false;
    e.kind = TELL_END;
    send_to_driver(m, e);
    start_next(m, e.worker);
}

static void arrive(sim *m, const sim_event *e)
{
    sim_worker *worker = &m->workers[e->worker];
    if (!worker->runs)
        return;
    worker->items[worker->count++] = (sim_item){e->task, e->epoch};
    start_next(m, e->worker);
}

static void ask_back(sim *m, sim_event e)
{
    sim_worker *worker = &m->workers[e.worker];
    if (!worker->runs)
        return;
    e.kind = TELL_REVOKED;
    e.flag = false;
    for (uint32_t i = worker->is_running; i < worker->count && !e.flag; i++) {
        if (worker->items[i].task == e.task && worker->items[i].epoch == e.epoch) {
            drop_first(worker, i);
            e.flag = true;
        }
    }
    send_to_driver(m, e);
}

/* ---- the driver ------------------------------------------------------------------------------ */

static void tell_start(sim *m, const sim_event *e)
{
    mh_err err = mh_sched_started(m->s, m->workers[e->worker].handle, m->handles[e->task], e->epoch, e->duration);
    saw_started(&m->check, e->worker, e->task, e->epoch, e->duration, err);
}

static void tell_end(sim *m, const sim_event *e)
{
    mh_err err = mh_sched_result(m->s, m->workers[e->worker].handle, m->handles[e->task], e->epoch, e->outcome, e->duration);
    tell(m, "worker", (int)e->worker, "t%u %s%s", e->task, outcome_name(e->outcome), err ? " (late, dropped)" : "");
    saw_result(&m->check, e->worker, e->task, e->epoch, e->outcome, err);
}

static void tell_revoked(sim *m, const sim_event *e)
{
    mh_err err = mh_sched_revoked(m->s, m->workers[e->worker].handle, m->handles[e->task], e->epoch, e->flag);
    tell(m, "worker", (int)e->worker, "t%u %s", e->task, e->flag ? "given back" : "not given back");
    saw_revoked(&m->check, e->worker, e->task, e->epoch, e->flag, err);
}

static uint32_t worker_number(const sim *m, mh_sched_worker handle)
{
    for (uint32_t w = m->worker_count; w-- > 0;)
        if (m->workers[w].handle.index == handle.index && m->workers[w].handle.generation == handle.generation)
            return w;
    return SIM_NOWHERE;
}

static void carry_out(sim *m, const mh_sched_action *a)
{
    uint32_t task = (uint32_t)a->tag, w = worker_number(m, a->worker);
    if (task >= m->task_count || (w == SIM_NOWHERE && a->kind != MH_SCHED_DONE)) {
        sim_breaks(m, "an action names what does not exist");
        return;
    }
    saw_action(&m->check, a, task, w);
    int64_t at = m->now + (m->delay ? (int64_t)draw(m, (uint32_t)m->delay) * SIM_MS : 0);
    at = MH__MAX(at, w == SIM_NOWHERE ? at : m->workers[w].last_message);
    switch (a->kind) {
    case MH_SCHED_ASSIGN:
        tell(m, "scheduler", -1, "t%u to worker %u, attempt %u", task, w, a->attempts);
        if (m->delay)
            post(m, m->workers[w].last_message = at, (sim_event){.kind = ARRIVE, .worker = w, .task = task, .epoch = a->epoch});
        else
            arrive(m, &(sim_event){.worker = w, .task = task, .epoch = a->epoch});
        break;
    case MH_SCHED_REVOKE:
        tell(m, "scheduler", -1, "t%u back from worker %u", task, w);
        if (m->delay)
            post(m, m->workers[w].last_message = at, (sim_event){.kind = ASK_BACK, .worker = w, .task = task, .epoch = a->epoch});
        else
            ask_back(m, (sim_event){.worker = w, .task = task, .epoch = a->epoch});
        break;
    case MH_SCHED_KILL_WORKER:
        tell(m, "scheduler", -1, "t%u is over its time: kill worker %u", task, w);
        m->report->kills++;
        m->workers[w].is_cut_off = false;
        crash_worker(m, w, MH_SCHED_DIED, false);
        break;
    case MH_SCHED_DONE:
        tell(m, "scheduler", -1, "t%u done: %s after %u attempts", task, outcome_name(a->outcome), a->attempts);
        break;
    }
}

static void drain(sim *m)
{
    mh_sched_action todo[8];
    for (size_t n; !m->report->fault[0] && (n = mh_sched_actions(m->s, todo, 1 + draw(m, 8))) > 0;) {
        if (++m->report->steps > SIM_STEPS)
            sim_breaks(m, "too many actions");
        for (size_t i = 0; i < n; i++)
            carry_out(m, &todo[i]);
    }
}

/* ---- clients --------------------------------------------------------------------------------- */

static void draw_need(sim *m, sim_need *need, uint32_t percent)
{
    if (m->task_count == 0 || !chance(m, percent))
        return;
    need->count = 1 + draw(m, SIM_ITEMS - 1);
    for (uint32_t i = 0; i < need->count; i++)
        need->items[i] = m->task_count - 1 - draw(m, MH__MIN(m->task_count, 12u));
    need->any = chance(m, 50);
    need->when = (mh_sched_when)draw(m, 3);
}

static void draw_spec(sim *m, sim_spec *spec)
{
    bool pure = m->check.policy == MH_SCHED_PURE;
    if (m->is_story) {
        *spec = (sim_spec){.lost_retries = 3};
        return;
    }
    *spec = (sim_spec){
        .priority = chance(m, 20) ? draw(m, MH_SCHED_PRIORITY_MAX + 1) : 0,
        .lost_retries = draw(m, 4),
        .failed_retries = draw(m, 3),
        .elsewhere = chance(m, 50) && !pure,
        .oom_retries = draw(m, 2),
        .timeout_ns = chance(m, 30) ? (int64_t)(4 + draw(m, 12)) * SIM_MS : 0,
        .wait_ns = chance(m, 8) ? (int64_t)(1 + draw(m, 60)) * SIM_MS : 0,
    };
    if (pure)
        return;
    draw_need(m, &spec->after, 12);
    draw_need(m, &spec->follow, 6);
    for (uint32_t w = 0; w < m->worker_count && w < 8 && chance(m, 30); w++)
        spec->targets |= UINT64_C(1) << draw(m, m->worker_count);
}

static mh_sched_dependencies dependencies_of(const sim *m, const sim_need *need, mh_sched_dependency *items)
{
    for (uint32_t i = 0; i < need->count; i++) {
        const checked_task *t = &m->check.tasks[need->items[i]];
        items[i] = (mh_sched_dependency){.task = m->handles[need->items[i]]};
        if (t->is_ended) {
            items[i].known = t->outcome;
            items[i].worker = t->worker < SIM_WORKERS ? m->workers[t->worker].handle : (mh_sched_worker){0};
        }
    }
    return (mh_sched_dependencies){.items = items, .count = need->count, .any = need->any, .when = need->when};
}

static void submit_task(sim *m)
{
    static const sim_temper tempers[] = {STEADY, STEADY, STEADY, STEADY, FAILS, SWELLS, KILLS, POISONS, HANGS, CHOOSY};
    uint32_t task = m->task_count;
    sim_spec *spec = &m->specs[task];
    mh_sched_dependency after[SIM_ITEMS], follow[SIM_ITEMS];
    mh_sched_worker targets[64];
    draw_spec(m, spec);
    m->tempers[task] = m->is_story || chance(m, 60) ? STEADY : tempers[draw(m, MH__COUNT_OF(tempers))];
    mh_sched_submit_options o = {
        .tag = task, .priority = spec->priority, .lost_retries = spec->lost_retries, .failed_retries = spec->failed_retries,
        .oom_retries = spec->oom_retries, .elsewhere = spec->elsewhere, .timeout_ns = spec->timeout_ns, .wait_ns = spec->wait_ns,
        .after = dependencies_of(m, &spec->after, after), .follow = dependencies_of(m, &spec->follow, follow),
        .targets = targets, .group = !m->is_story && chance(m, 10) ? m->group : (mh_sched_group){0},
    };
    for (uint32_t w = 0; w < SIM_WORKERS; w++)
        if (spec->targets >> w & 1)
            targets[o.target_count++] = m->workers[w].handle;
    m->task_count++;
    saw_submit(&m->check, task, spec);
    tell(m, "client", -1, "submits t%u", task);
    if (mh_sched_submit(m->s, &o, &m->handles[task]))
        sim_breaks(m, "a task is not accepted");
    m->in_group[task] = o.group.generation != 0;
    if (!m->is_story && --m->tasks_to_come > 0)
        post(m, m->now + (int64_t)(chance(m, 50) ? 0 : draw(m, 6)) * SIM_MS, (sim_event){.kind = SUBMIT});
}

static void cancel_one(sim *m, uint32_t task)
{
    if (m->task_count == 0)
        return;
    task %= m->task_count;
    tell(m, "client", -1, "cancels t%u", task);
    saw_cancel(&m->check, task, mh_sched_cancel(m->s, m->handles[task]));
}

static void cancel_group(sim *m)
{
    tell(m, "client", -1, "cancels its group");
    if (mh_sched_group_cancel(m->s, m->group))
        sim_breaks(m, "a group can't be cancelled");
    for (uint32_t i = 0; i < m->task_count; i++)
        if (m->in_group[i] && !m->check.tasks[i].is_ended)
            saw_cancel(&m->check, i, MH_OK);
}

static void resize_worker(sim *m, uint32_t w, uint32_t capacity)
{
    if (w >= m->worker_count || !m->workers[w].is_known)
        return;
    tell(m, "driver", -1, "worker %u may hold %u", w, capacity);
    saw_resize(&m->check, w, capacity);
    if (mh_sched_worker_resize(m->s, m->workers[w].handle, capacity))
        sim_breaks(m, "a worker can't be resized");
}

/* ---- one history ----------------------------------------------------------------------------- */

static void handle(sim *m, const sim_event *e)
{
    switch (e->kind) {
    case SUBMIT:
        submit_task(m);
        break;
    case CANCEL:
        cancel_one(m, e->task);
        break;
    case CANCEL_GROUP:
        cancel_group(m);
        break;
    case JOIN:
        join_worker(m);
        break;
    case RESIZE:
        resize_worker(m, e->worker, e->epoch);
        break;
    case CRASH:
        if (e->worker < m->worker_count && m->worker_count + SIM_SPARE_WORKERS / 2 < SIM_WORKERS)
            crash_worker(m, e->worker, e->cause, e->flag);
        break;
    case LOSE_HOST:
        lose_host(m, e);
        break;
    case LEAVE:
        leave_worker_event(m, e);
        break;
    case ARRIVE:
        arrive(m, e);
        break;
    case ASK_BACK:
        ask_back(m, *e);
        break;
    case END:
        end_task(m, *e);
        break;
    case TELL_START:
        tell_start(m, e);
        break;
    case TELL_END:
        tell_end(m, e);
        break;
    case TELL_REVOKED:
        tell_revoked(m, e);
        break;
    }
}

/* Misfortune at random times; after calm_at none, workers enough, and so everything must end. */
static void plan(sim *m)
{
    int64_t busy_ms = 20 + draw(m, 120);
    m->calm_at = (busy_ms + 20) * SIM_MS;
    m->tasks_to_come = 1 + draw(m, chance(m, 20) ? SIM_TASKS : 30);
    uint32_t joins = 1 + draw(m, 6), faults = chance(m, 30) ? 0 : draw(m, 10);
    for (uint32_t i = 0; i < joins; i++)
        post(m, chance(m, 70) ? 0 : (int64_t)draw(m, 40) * SIM_MS, (sim_event){.kind = JOIN});
    post(m, 0, (sim_event){.kind = SUBMIT});
    for (uint32_t i = 0; i < faults; i++) {
        static const sim_kind kinds[] = {CANCEL, CANCEL, CRASH, CRASH, LOSE_HOST, RESIZE, JOIN, CANCEL_GROUP};
        sim_event e = {.kind = kinds[draw(m, MH__COUNT_OF(kinds))], .worker = draw(m, 8), .task = draw(m, SIM_TASKS),
                       .epoch = draw(m, 5), .cause = (mh_sched_cause)draw(m, 3), .flag = m->delay && chance(m, 30)};
        post(m, (int64_t)draw(m, (uint32_t)busy_ms) * SIM_MS, e);
    }
    for (uint32_t w = 0; w < SIM_WORKERS; w++)
        post(m, m->calm_at, (sim_event){.kind = RESIZE, .worker = w, .epoch = 2});
    post(m, m->calm_at, (sim_event){.kind = JOIN});
    post(m, m->calm_at, (sim_event){.kind = JOIN});
}

static bool set_up(sim *m, uint64_t seed, FILE *trace, sim_report *report)
{
    *m = (sim){.random = seed * 2 + 1, .trace = trace, .report = report};
    mh_sched_options o = {.policy = chance(m, 50) ? MH_SCHED_LEASTLOAD : (mh_sched_policy)draw(m, 6), .seed = seed};
    if (o.policy == MH_SCHED_LEASTLOAD || o.policy == MH_SCHED_WEIGHTED) {
        o.steal = chance(m, 60);
        o.steal_ns = chance(m, 50) ? 5 * SIM_MS : 0;
    }
    o.queue_ns = chance(m, 40) ? (int64_t)draw(m, 30) * SIM_MS : 0;
    m->delay = chance(m, 50) ? 0 : 1 + draw(m, 8);
    m->tells_start = chance(m, 50);
    m->names_running = chance(m, 50);
    m->duplicates = chance(m, 30);
    m->check.policy = o.policy;
    m->check.adapts = o.queue_ns > 0;
    if (mh_sched_create(&m->s, &o) || mh_sched_group_open(m->s, &m->group))
        return false;
    plan(m);
    return true;
}

/* One step: time passes, one thing happens, the driver does what the scheduler says. */
static void step(sim *m, bool validate)
{
    int64_t wake_at = mh_sched_wake_at(m->s);
    bool wakes = m->event_count == 0 || wake_at < m->events[0].at;
    m->now = MH__MAX(m->now, wakes ? wake_at : m->events[0].at);
    mh_sched_tick(m->s, m->now);
    saw_tick(&m->check, m->now);
    if (!wakes) {
        sim_event e = take_event(m);
        handle(m, &e);
    }
    drain(m);
    mh_sched_stats stats;
    mh_sched_stats_read(m->s, &stats);
    saw_settled(&m->check, &stats);
    const char *fault = validate ? mh__sched_validate(m->s) : NULL;
    if (fault)
        sim_breaks(m, fault);
    if (++m->report->steps > SIM_STEPS)
        sim_breaks(m, "too many steps");
    if (m->check.fault[0])
        sim_breaks(m, m->check.fault);
}

static bool run_to_end(sim *m, bool validate)
{
    sim_report *report = m->report;
    while (!report->fault[0] && (m->event_count > 0 || mh_sched_wake_at(m->s) < INT64_MAX))
        step(m, validate);
    mh_sched_stats_read(m->s, &report->stats);
    if (!report->fault[0])
        saw_end(&m->check, &report->stats);
    if (m->check.fault[0])
        sim_breaks(m, m->check.fault);
    mh_sched_destroy(&m->s);
    return !report->fault[0];
}

bool sim_run(uint64_t seed, FILE *trace, bool validate, sim_report *report)
{
    static sim m;
    *report = (sim_report){.seed = seed};
    if (!set_up(&m, seed, trace, report)) {
        sim_breaks(&m, "the scheduler can't be created");
        return false;
    }
    return run_to_end(&m, validate);
}

bool sim_story(FILE *trace, sim_report *report)
{
    static sim m;
    static const struct {
        int64_t at_ms;
        sim_event event;
    } story[] = {
        {0, {.kind = JOIN}},
        {0, {.kind = JOIN}},
        {0, {.kind = SUBMIT}},
        {0, {.kind = SUBMIT}},
        {10, {.kind = SUBMIT}},
        {40, {.kind = CRASH, .worker = 1}},
        {70, {.kind = JOIN}},
        {80, {.kind = CRASH, .worker = 2, .flag = true}},
    };
    *report = (sim_report){0};
    m = (sim){.trace = trace, .report = report, .is_story = true, .calm_at = INT64_MAX};
    if (mh_sched_create(&m.s, NULL)) {
        sim_breaks(&m, "the scheduler can't be created");
        return false;
    }
    for (size_t i = 0; i < MH__COUNT_OF(story); i++)
        post(&m, story[i].at_ms * SIM_MS, story[i].event);
    return run_to_end(&m, true);
}
