#include "checker.h"

#include <stdarg.h>
#include <stdio.h>

__attribute__((format(printf, 2, 3))) static void fault(checker *c, const char *format, ...)
{
    if (c->fault[0])
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(c->fault, sizeof c->fault, format, args);
    va_end(args);
}

/* ---- dependencies and places ----------------------------------------------------------------- */

typedef enum judgement {
    NEED_OPEN,
    NEED_MET,
    NEED_NEVER
} judgement;

static bool ended_as_wanted(const checked_task *t, mh_sched_when when)
{
    if (!t->is_ended)
        return false;
    return when == MH_SCHED_ON_END || (t->outcome == MH_SCHED_OK) == (when == MH_SCHED_ON_SUCCESS);
}

static judgement judge_need(const checker *c, const sim_need *n)
{
    uint32_t good = 0, bad = 0;
    for (uint32_t i = 0; i < n->count; i++) {
        const checked_task *t = &c->tasks[n->items[i]];
        good += ended_as_wanted(t, n->when);
        bad += t->is_ended && !ended_as_wanted(t, n->when);
    }
    if (n->count == 0)
        return NEED_MET;
    if (n->any)
        return good ? NEED_MET : bad == n->count ? NEED_NEVER : NEED_OPEN;
    return bad ? NEED_NEVER : good == n->count ? NEED_MET : NEED_OPEN;
}

static bool all_ended(const checker *c, const sim_need *n)
{
    for (uint32_t i = 0; i < n->count; i++)
        if (!c->tasks[n->items[i]].is_ended)
            return false;
    return true;
}

static bool may_run_on(const checker *c, const checked_task *t, uint32_t worker)
{
    const sim_need *follow = &t->spec->follow;
    uint32_t there = 0;
    if ((t->refused | t->failed_at) >> worker & 1 || (t->spec->targets && !(t->spec->targets >> worker & 1)))
        return false;
    for (uint32_t i = 0; i < follow->count; i++) {
        const checked_task *f = &c->tasks[follow->items[i]];
        there += ended_as_wanted(f, follow->when) && f->worker == worker;
    }
    return follow->count == 0 || there >= (follow->any ? 1 : follow->count);
}

/* No worker that is there may run the task, and none will come to be one by what it follows. */
static bool has_nowhere(const checker *c, const checked_task *t)
{
    uint32_t alive = 0;
    for (uint32_t w = 0; w < c->worker_count; w++) {
        alive += c->workers[w].is_alive;
        if (c->workers[w].is_alive && may_run_on(c, t, w))
            return false;
    }
    return all_ended(c, &t->spec->follow) && (alive || t->spec->targets || t->spec->follow.count);
}

/* It may be tried again where it failed, or waits for another worker. */
static bool may_try_again(const checker *c, const checked_task *t)
{
    if (t->spec->wait_ns)
        return t->failed_at != 0;
    for (uint32_t w = 0; w < c->worker_count; w++)
        if (c->workers[w].is_alive && t->failed_at >> w & 1)
            return true;
    return false;
}

/* After each event: those that failed wherever they may run wait for others, or may go anywhere again. */
static void settle_elsewhere(checker *c)
{
    for (uint32_t i = 0; i < c->task_count; i++) {
        checked_task *t = &c->tasks[i];
        if (!t->failed_at || t->is_ended || t->is_assigned || t->must_end || !has_nowhere(c, t) || !may_try_again(c, t))
            continue;
        if (t->spec->wait_ns)
            t->waits_elsewhere = true;
        else
            t->failed_at = 0;
    }
}

/* A task that no worker has can't run any more. */
static bool is_impossible(const checker *c, const checked_task *t)
{
    judgement after = judge_need(c, &t->spec->after), follow = judge_need(c, &t->spec->follow);
    uint32_t alive = 0;
    if (after == NEED_NEVER || follow == NEED_NEVER)
        return true;
    if (after != NEED_MET || follow != NEED_MET || !all_ended(c, &t->spec->follow))
        return false;
    for (uint32_t w = 0; w < c->worker_count; w++) {
        alive += c->workers[w].is_alive;
        if (c->workers[w].is_alive && may_run_on(c, t, w))
            return false;
    }
    if (may_try_again(c, t))
        return false;
    return t->spec->targets || t->spec->follow.count > 0 || (t->refused && alive > 0);
}

static bool is_plain(const checked_task *t)
{
    return !t->was_refused && !t->spec->targets && t->spec->after.count == 0 && t->spec->follow.count == 0;
}

static bool is_pending(const checked_task *t)
{
    return t->is_submitted && !t->is_ended && !t->is_assigned && !t->must_end;
}

/* ---- events ---------------------------------------------------------------------------------- */

static void must_end(checked_task *t, mh_sched_outcome outcome) { t->must_end = outcome; }

void saw_submit(checker *c, uint32_t task, const sim_spec *spec)
{
    checked_task *t = &c->tasks[task];
    *t = (checked_task){.spec = spec, .is_submitted = true, .worker = SIM_NOWHERE, .deadline = INT64_MAX};
    t->give_up_at = spec->wait_ns ? c->now + spec->wait_ns : INT64_MAX;
    c->task_count = task + 1;
}

void saw_join(checker *c, uint32_t worker, uint32_t capacity)
{
    c->workers[worker] = (checked_worker){.is_alive = true, .capacity = capacity};
    c->worker_count = worker + 1;
}

void saw_resize(checker *c, uint32_t worker, uint32_t capacity) { c->workers[worker].capacity = capacity; }

static void take_back(checker *c, checked_task *t)
{
    c->workers[t->worker].load--;
    t->is_assigned = t->is_running = t->is_late = t->is_revoked = false;
    t->deadline = INT64_MAX;
    t->leave = 0;
}

/* One more attempt was used up of a budget. */
static void count_attempt(checked_task *t, uint32_t *used, uint32_t retries, mh_sched_outcome end)
{
    t->attempts++;
    ++*used;
    if (*used > retries || t->is_cancelled)
        must_end(t, end);
}

static void offer_again(checker *c, checked_task *t)
{
    if (t->is_cancelled)
        must_end(t, MH_SCHED_CANCELLED);
    else
        t->front = ++c->fronts;
}

static void lose(checker *c, checked_task *t, mh_sched_cause cause, bool was_late)
{
    if (was_late) {
        t->attempts++;
        must_end(t, MH_SCHED_TIMEOUT);
    } else if (cause == MH_SCHED_DIED_OOM && !t->is_cancelled) {
        count_attempt(t, &t->oom, t->spec->oom_retries, MH_SCHED_OOM);
    } else {
        mh_sched_outcome end = t->spec->lost_retries ? MH_SCHED_POISON : MH_SCHED_LOST;
        count_attempt(t, &t->lost, t->spec->lost_retries, t->is_cancelled ? MH_SCHED_CANCELLED : end);
    }
    t->front = t->must_end ? 0 : ++c->fronts;
}

void saw_leave(checker *c, uint32_t worker, mh_sched_cause cause, uint32_t running)
{
    c->leaves++;
    for (;;) {
        uint32_t first = SIM_TASKS;
        for (uint32_t i = 0; i < c->task_count; i++)
            if (c->tasks[i].is_assigned && c->tasks[i].worker == worker
                && (first == SIM_TASKS || c->tasks[i].front < c->tasks[first].front))
                first = i;
        if (first == SIM_TASKS)
            break;
        checked_task *t = &c->tasks[first];
        bool ran = t->is_running || first == running, was_late = t->is_late;
        take_back(c, t);
        if (ran)
            lose(c, t, cause, was_late);
        else
            offer_again(c, t);
        t->leave = t->front ? c->leaves : 0;
    }
    c->workers[worker].is_alive = false;
    settle_elsewhere(c);
}

static bool is_present(const checker *c, uint32_t worker, uint32_t task, uint32_t epoch)
{
    const checked_task *t = &c->tasks[task];
    return t->is_assigned && t->worker == worker && t->epoch == epoch;
}

static bool check_answer(checker *c, const char *what, uint32_t task, bool present, mh_err answer)
{
    if (present != (answer == MH_OK))
        fault(c, "%s of t%u: %s though the attempt is %s", what, task, mh_err_name(answer), present ? "present" : "over");
    return present;
}

void saw_started(checker *c, uint32_t worker, uint32_t task, uint32_t epoch, int64_t at, mh_err answer)
{
    checked_task *t = &c->tasks[task];
    if (!check_answer(c, "start", task, is_present(c, worker, task, epoch), answer))
        return;
    t->is_running = true;
    if (t->spec->timeout_ns && t->deadline == INT64_MAX && !t->is_late)
        t->deadline = at + t->spec->timeout_ns;
}

void saw_result(checker *c, uint32_t worker, uint32_t task, uint32_t epoch, mh_sched_outcome outcome, mh_err answer)
{
    checked_task *t = &c->tasks[task];
    if (!check_answer(c, "result", task, is_present(c, worker, task, epoch), answer)) {
        c->late++;
        return;
    }
    take_back(c, t);
    t->front = 0;
    if (outcome == MH_SCHED_OK) {
        t->attempts++;
        must_end(t, MH_SCHED_OK);
    } else if (outcome == MH_SCHED_FAILED) {
        count_attempt(t, &t->failed, t->spec->failed_retries, MH_SCHED_FAILED);
        if (t->spec->elsewhere && !t->must_end) {
            t->failed_at |= UINT64_C(1) << worker;
            t->was_refused = true;
        }
    } else if (outcome == MH_SCHED_OOM) {
        count_attempt(t, &t->oom, t->spec->oom_retries, MH_SCHED_OOM);
    } else {
        t->refused |= UINT64_C(1) << worker;
        t->was_refused = true;
        if (t->is_cancelled)
            must_end(t, MH_SCHED_CANCELLED);
    }
    settle_elsewhere(c);
}

void saw_revoked(checker *c, uint32_t worker, uint32_t task, uint32_t epoch, bool taken, mh_err answer)
{
    checked_task *t = &c->tasks[task];
    if (!check_answer(c, "revocation", task, is_present(c, worker, task, epoch), answer))
        return;
    if (taken) {
        take_back(c, t);
        offer_again(c, t);
        settle_elsewhere(c);
    } else {
        t->is_running = true;
        t->is_revoked = false;
    }
}

void saw_cancel(checker *c, uint32_t task, mh_err answer)
{
    checked_task *t = &c->tasks[task];
    if (t->is_ended != (answer == MH_ERR_NOT_FOUND))
        fault(c, "cancel of t%u: %s", task, mh_err_name(answer));
    if (t->is_ended)
        return;
    t->is_cancelled = true;
    if (!t->is_assigned && !t->must_end)
        must_end(t, MH_SCHED_CANCELLED);
}

void saw_tick(checker *c, int64_t now)
{
    c->now = now;
    for (uint32_t i = 0; i < c->task_count; i++) {
        checked_task *t = &c->tasks[i];
        if (t->is_assigned && t->deadline <= now) {
            t->is_late = true;
            t->deadline = INT64_MAX;
        }
        if (is_pending(t) && (!t->was_assigned || t->waits_elsewhere) && t->give_up_at <= now)
            must_end(t, MH_SCHED_EXPIRED);
    }
}

/* ---- actions --------------------------------------------------------------------------------- */

/* Whether `other`, also waiting, had to be assigned before `t`. */
static bool comes_before(const checked_task *other, const checked_task *t)
{
    if (!is_pending(other) || !is_plain(other) || other == t)
        return false;
    if (other->spec->priority != t->spec->priority)
        return other->spec->priority > t->spec->priority;
    if (t->leave && other->leave == t->leave && other->front < t->front)
        return true; /* one worker's tasks keep their order */
    if (!t->was_assigned) /* new work comes after what was offered again, and after what was submitted before */
        return other->was_assigned ? other->front > 0 : other < t;
    return false;
}

static void check_assign(checker *c, const mh_sched_action *a, uint32_t task, uint32_t worker)
{
    checked_task *t = &c->tasks[task];
    checked_worker *w = &c->workers[worker];
    if (t->is_assigned || t->must_end || t->is_cancelled)
        fault(c, "t%u assigned while it is %s", task, t->is_assigned ? "assigned" : "to end");
    if (!w->is_alive || w->is_killed)
        fault(c, "t%u assigned to worker %u, which is %s", task, worker, w->is_alive ? "to be killed" : "dead");
    if (w->load >= w->capacity && c->policy != MH_SCHED_PURE)
        fault(c, "t%u assigned to worker %u beyond its capacity %u", task, worker, w->capacity);
    if (a->epoch != t->epoch + 1 || a->attempts != t->attempts + 1)
        fault(c, "t%u assigned under epoch %u as attempt %u, not %u and %u", task, a->epoch, a->attempts, t->epoch + 1, t->attempts + 1);
    if (judge_need(c, &t->spec->after) != NEED_MET || judge_need(c, &t->spec->follow) != NEED_MET)
        fault(c, "t%u assigned before what it waits for", task);
    if (!may_run_on(c, t, worker))
        fault(c, "t%u assigned to worker %u, where it must not run", task, worker);
    for (uint32_t i = 0; is_plain(t) && i < c->task_count; i++)
        if (comes_before(&c->tasks[i], t))
            fault(c, "t%u assigned before t%u", task, i);
    w->load++;
    t->is_assigned = t->was_assigned = true;
    t->waits_elsewhere = false;
    t->worker = worker;
    t->epoch = a->epoch;
    t->front = ++c->fronts;
    t->leave = 0;
}

static void check_done(checker *c, const mh_sched_action *a, uint32_t task)
{
    checked_task *t = &c->tasks[task];
    mh_sched_outcome expected = t->must_end;
    if (!expected && !t->is_assigned && is_impossible(c, t))
        expected = MH_SCHED_IMPOSSIBLE;
    if (t->is_ended)
        fault(c, "t%u ended twice", task);
    if (a->outcome != expected)
        fault(c, "t%u ended as %d, expected %d", task, (int)a->outcome, (int)expected);
    if (a->attempts != t->attempts)
        fault(c, "t%u ended after %u attempts, not %u", task, t->attempts, a->attempts);
    t->is_ended = true;
    t->outcome = a->outcome;
    settle_elsewhere(c);
}

static void check_kill(checker *c, uint32_t task, uint32_t worker)
{
    checked_task *t = &c->tasks[task];
    if (!t->is_assigned || t->worker != worker || !t->is_late)
        fault(c, "worker %u to be killed for t%u, which is not late there", worker, task);
    if (!c->workers[worker].is_alive || c->workers[worker].is_killed)
        fault(c, "worker %u to be killed twice", worker);
    c->workers[worker].is_killed = true;
}

static void check_revoke(checker *c, const mh_sched_action *a, uint32_t task, uint32_t worker)
{
    checked_task *t = &c->tasks[task];
    if (!is_present(c, worker, task, a->epoch) || !c->workers[worker].is_alive || c->workers[worker].is_killed)
        fault(c, "t%u revoked from worker %u, which does not hold it", task, worker);
    if (t->is_running || t->is_revoked)
        fault(c, "t%u revoked though it %s", task, t->is_running ? "runs" : "was before");
    t->is_revoked = true;
}

void saw_action(checker *c, const mh_sched_action *a, uint32_t task, uint32_t worker)
{
    if (task >= c->task_count) {
        fault(c, "an action for a task that never was");
        return;
    }
    if (c->tasks[task].is_ended)
        fault(c, "action %d for t%u after its end", (int)a->kind, task);
    if (a->kind == MH_SCHED_ASSIGN)
        check_assign(c, a, task, worker);
    else if (a->kind == MH_SCHED_REVOKE)
        check_revoke(c, a, task, worker);
    else if (a->kind == MH_SCHED_KILL_WORKER)
        check_kill(c, task, worker);
    else
        check_done(c, a, task);
}

/* ---- what must have followed ----------------------------------------------------------------- */

static void check_settled_task(checker *c, uint32_t i, bool any_idle, bool any_room)
{
    const checked_task *t = &c->tasks[i];
    if (t->is_ended)
        return;
    if (t->must_end)
        fault(c, "t%u should have ended as %d", i, (int)t->must_end);
    if (t->is_assigned && t->is_late && !c->workers[t->worker].is_killed)
        fault(c, "t%u is over its time, and worker %u was not to be killed", i, t->worker);
    if (!t->is_assigned && is_impossible(c, t))
        fault(c, "t%u can't run and has not ended", i);
    if (!t->is_assigned && is_plain(t) && (any_idle || (any_room && !c->adapts)))
        fault(c, "t%u waits while a worker has room", i);
    if (t->is_cancelled && t->is_assigned && !t->is_running && !t->is_revoked && !c->workers[t->worker].is_killed)
        fault(c, "t%u is cancelled and was not revoked", i);
}

void saw_settled(checker *c, const mh_sched_stats *stats)
{
    bool any_idle = false, any_room = false;
    for (uint32_t i = 0; i < c->worker_count; i++) {
        const checked_worker *w = &c->workers[i];
        bool takes = w->is_alive && !w->is_killed && w->capacity > 0;
        any_idle |= takes && w->load == 0;
        any_room |= takes && (w->load < w->capacity || c->policy == MH_SCHED_PURE);
    }
    for (uint32_t i = 0; i < c->task_count; i++)
        check_settled_task(c, i, any_idle, any_room);
    if (stats->late != c->late)
        fault(c, "%llu late answers, not %llu", (unsigned long long)stats->late, (unsigned long long)c->late);
}

void saw_end(checker *c, const mh_sched_stats *stats)
{
    for (uint32_t i = 0; i < c->task_count; i++)
        if (!c->tasks[i].is_ended)
            fault(c, "t%u was accepted and never ended", i);
    if (stats->submitted != c->task_count || stats->done != c->task_count)
        fault(c, "%u tasks, but %llu submitted and %llu done", c->task_count, (unsigned long long)stats->submitted,
              (unsigned long long)stats->done);
}
