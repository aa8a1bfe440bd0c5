/* What happens to a task while a worker has it: it starts, ends, is asked back, runs out of time, loses its worker. */
#include "base/error.h"
#include "sched/sched_state.h"

/* ---- taking tasks to workers and from them --------------------------------------------------- */

void mh__attempt_begin(mh_sched *s, uint32_t ti, uint32_t wi, mh_sched_action *out)
{
    mh__task *t = mh__task_at(s, ti);
    mh__worker *w = mh__worker_at(s, wi);
    if (t->timer != MH__NONE)
        mh__timer_clear(s, ti); /* wait_ns ends with the first assignment; so does waiting for another worker */
    mh__set_state(s, t, MH__TASK_QUEUED);
    t->epoch++;
    t->worker = wi;
    t->worker_generation = w->generation;
    mh__task_push_back(s, &w->queue, ti);
    if (w->load++ == 0)
        w->progress_at = s->now;
    mh__worker_used(s, wi);
    s->stats.assignments++;
    *out = (mh_sched_action){
        .kind = MH_SCHED_ASSIGN,
        .task = {ti, t->generation},
        .worker = {wi, w->generation},
        .epoch = t->epoch,
        .attempts = t->attempts + 1,
        .tag = t->tag,
    };
}

static void mark_revoking(mh_sched *s, mh__task *t)
{
    t->flags |= MH__TASK_REVOKING;
    mh__worker_at(s, t->worker)->revoking++;
}

void mh__attempt_revoke(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    if ((t->flags & MH__TASK_REVOKING) || mh__worker_at(s, t->worker)->state != MH__WORKER_ALIVE)
        return;
    mark_revoking(s, t);
    t->flags |= MH__TASK_REVOKE_OUT;
    t->revoke_next = MH__NONE;
    t->revoke_prev = s->revokes.tail;
    *(s->revokes.tail == MH__NONE ? &s->revokes.head : &mh__task_at(s, s->revokes.tail)->revoke_next) = ti;
    s->revokes.tail = ti;
}

void mh__attempt_unrevoke(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    if (t->flags & MH__TASK_REVOKE_OUT) {
        *(t->revoke_prev == MH__NONE ? &s->revokes.head : &mh__task_at(s, t->revoke_prev)->revoke_next) = t->revoke_next;
        *(t->revoke_next == MH__NONE ? &s->revokes.tail : &mh__task_at(s, t->revoke_next)->revoke_prev) = t->revoke_prev;
    }
    if (t->flags & MH__TASK_REVOKING)
        mh__worker_at(s, t->worker)->revoking--;
    t->flags &= (uint8_t) ~(MH__TASK_REVOKE_OUT | MH__TASK_REVOKING);
}

/* The kill that ti's lateness asked for was not handed out: if no other task is late, the worker may live. */
static void reconsider_kill(mh_sched *s, uint32_t wi)
{
    mh__worker *w = mh__worker_at(s, wi);
    for (uint32_t i = w->queue.head; i != MH__NONE; i = mh__task_at(s, i)->next) {
        if (mh__task_at(s, i)->flags & MH__TASK_TIMED_OUT) {
            w->kill_task = i;
            return;
        }
    }
    mh__worker_kill_retract(s, wi);
    w->state = MH__WORKER_ALIVE;
    for (uint32_t i = w->queue.head; i != MH__NONE; i = mh__task_at(s, i)->next)
        if (mh__task_at(s, i)->state == MH__TASK_QUEUED && (mh__task_at(s, i)->flags & MH__TASK_CANCEL))
            mh__attempt_revoke(s, i);
}

/* Take ti out of its worker's queue; the caller puts it somewhere else. */
static void leave_worker(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    uint32_t wi = t->worker;
    mh__worker *w = mh__worker_at(s, wi);
    if (t->flags & MH__TASK_REVOKING)
        mh__attempt_unrevoke(s, ti);
    if (t->timer != MH__NONE)
        mh__timer_clear(s, ti);
    mh__task_unlink(s, &w->queue, ti);
    w->load--;
    w->progress_at = s->now;
    if ((t->flags & MH__TASK_TIMED_OUT) && w->kill_out && w->kill_task == ti)
        reconsider_kill(s, wi);
    t->flags &= (uint8_t)~MH__TASK_TIMED_OUT;
    mh__worker_place(s, wi);
}

/* ---- how attempts end ------------------------------------------------------------------------ */

/* Uses up one of `left`; false when there was none, or the task is cancelled. */
static bool may_retry(const mh__task *t, uint32_t *left)
{
    if (t->flags & MH__TASK_CANCEL)
        return false;
    if (*left == 0)
        return false;
    --*left;
    return true;
}

static void end_failed(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    s->stats.failed++;
    t->attempts++;
    if (may_retry(t, &t->failed_left))
        mh__task_enter_pending(s, ti, false);
    else
        mh__task_finish(s, ti, MH_SCHED_FAILED);
}

static void end_oom(mh_sched *s, uint32_t ti, bool front)
{
    mh__task *t = mh__task_at(s, ti);
    s->stats.oom++;
    t->attempts++;
    if (may_retry(t, &t->oom_left))
        mh__task_enter_pending(s, ti, front);
    else
        mh__task_finish(s, ti, MH_SCHED_OOM);
}

static void end_lost(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    s->stats.lost++;
    t->attempts++;
    if (may_retry(t, &t->lost_left))
        mh__task_enter_pending(s, ti, true);
    else if (t->flags & MH__TASK_CANCEL)
        mh__task_finish(s, ti, MH_SCHED_CANCELLED);
    else
        mh__task_finish(s, ti, t->flags & MH__TASK_LOST_BUDGET ? MH_SCHED_POISON : MH_SCHED_LOST);
}

static void end_refused(mh_sched *s, uint32_t ti)
{
    s->stats.refused++;
    if (mh__task_at(s, ti)->flags & MH__TASK_CANCEL)
        mh__task_finish(s, ti, MH_SCHED_CANCELLED);
    else
        mh__task_enter_pending(s, ti, true);
}

/* It did not run; it is offered again, before new work. */
static void end_unstarted(mh_sched *s, uint32_t ti)
{
    if (mh__task_at(s, ti)->flags & MH__TASK_CANCEL)
        mh__task_finish(s, ti, MH_SCHED_CANCELLED);
    else
        mh__task_enter_pending(s, ti, !MH__MUTANT(9));
}

/* ---- events ---------------------------------------------------------------------------------- */

/* The task's index, if this is its present attempt; else MH__NONE. */
static uint32_t find_attempt(const mh_sched *s, mh_sched_worker worker, mh_sched_task task, uint32_t epoch)
{
    uint32_t ti = mh__sched_find_task(s, task);
    if (ti == MH__NONE)
        return MH__NONE;
    const mh__task *t = mh__task_at(s, ti);
    if (t->state != MH__TASK_QUEUED && t->state != MH__TASK_RUNNING)
        return MH__NONE;
    if (MH__MUTANT(1))
        return ti;
    bool present = t->epoch == epoch && t->worker == worker.index && t->worker_generation == worker.generation;
    return present ? ti : MH__NONE;
}

static mh_err late(mh_sched *s)
{
    s->stats.late++;
    return mh__fail(MH_ERR_NOT_FOUND, "that attempt is over");
}

mh_err mh_sched_result(mh_sched *s, mh_sched_worker worker, mh_sched_task task, uint32_t epoch,
                       mh_sched_outcome outcome, int64_t duration_ns)
{
    uint32_t ti = find_attempt(s, worker, task, epoch);
    if (ti == MH__NONE)
        return late(s);
    if (outcome != MH_SCHED_OK && outcome != MH_SCHED_FAILED && outcome != MH_SCHED_OOM && outcome != MH_SCHED_REFUSED)
        return mh__fail(MH_ERR_INVALID, "outcome %d of an attempt", (int)outcome);
    if (outcome == MH_SCHED_REFUSED) {
        mh_err err = mh__depend_refuse_reserve(s, ti);
        if (err)
            return err;
        mh__depend_refuse(s, ti, mh__task_at(s, ti)->worker);
    }
    if (outcome == MH_SCHED_FAILED && mh__task_at(s, ti)->failed_left > 0)
        mh__depend_fail(s, ti, mh__task_at(s, ti)->worker);
    if (duration_ns > 0)
        mh__worker_measure(s, mh__worker_at(s, mh__task_at(s, ti)->worker), (uint64_t)duration_ns);
    leave_worker(s, ti);
    switch (outcome) {
    case MH_SCHED_OK:
        mh__task_at(s, ti)->attempts++;
        mh__task_finish(s, ti, MH_SCHED_OK);
        break;
    case MH_SCHED_FAILED:
        end_failed(s, ti);
        break;
    case MH_SCHED_OOM:
        end_oom(s, ti, false);
        break;
    default:
        end_refused(s, ti);
    }
    return MH_OK;
}

mh_err mh_sched_started(mh_sched *s, mh_sched_worker worker, mh_sched_task task, uint32_t epoch, int64_t at)
{
    uint32_t ti = find_attempt(s, worker, task, epoch);
    if (ti == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "that attempt is over");
    mh__task *t = mh__task_at(s, ti);
    if (t->state == MH__TASK_QUEUED)
        mh__set_state(s, t, MH__TASK_RUNNING);
    mh__worker_at(s, t->worker)->progress_at = s->now;
    if (t->timeout_ns > 0 && t->timer == MH__NONE && !(t->flags & MH__TASK_TIMED_OUT))
        mh__timer_set(s, ti, mh__time_after(at, t->timeout_ns));
    return MH_OK;
}

mh_err mh_sched_revoked(mh_sched *s, mh_sched_worker worker, mh_sched_task task, uint32_t epoch, bool taken)
{
    uint32_t ti = find_attempt(s, worker, task, epoch);
    if (ti == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "that attempt is over");
    mh__task *t = mh__task_at(s, ti);
    if (!taken) {
        mh__attempt_unrevoke(s, ti);
        if (t->state == MH__TASK_QUEUED)
            mh__set_state(s, t, MH__TASK_RUNNING);
        return MH_OK;
    }
    leave_worker(s, ti);
    s->stats.revoked++;
    end_unstarted(s, ti);
    return MH_OK;
}

mh_err mh_sched_adopt(mh_sched *s, mh_sched_worker worker, mh_sched_task task, uint32_t *epoch)
{
    uint32_t ti = mh__sched_find_task(s, task), wi = mh__sched_find_worker(s, worker);
    mh_sched_action begun;
    if (ti == MH__NONE || wi == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "no such task or worker to bring together");
    if (mh__task_at(s, ti)->state != MH__TASK_PENDING || mh__worker_at(s, wi)->state != MH__WORKER_ALIVE)
        return mh__fail(MH_ERR_INVALID, "the task does not wait for a worker, or the worker is being killed");
    mh__task_leave_pending(s, ti);
    mh__attempt_begin(s, ti, wi, &begun);
    *epoch = begun.epoch;
    return MH_OK;
}

void mh__attempt_overdue(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    if (MH__MUTANT(10))
        return;
    t->flags |= MH__TASK_TIMED_OUT;
    mh__worker_kill(s, t->worker, ti);
}

/* ---- a worker leaves ------------------------------------------------------------------------- */

static void end_with_worker(mh_sched *s, uint32_t ti, mh_sched_cause cause, bool ran)
{
    mh__task *t = mh__task_at(s, ti);
    bool timed_out = (t->flags & MH__TASK_TIMED_OUT) != 0;
    leave_worker(s, ti);
    if (!ran && !MH__MUTANT(7)) {
        s->stats.reoffered++;
        end_unstarted(s, ti);
    } else if (timed_out) {
        t->attempts++;
        mh__task_finish(s, ti, MH_SCHED_TIMEOUT);
    } else if (cause == MH_SCHED_DIED_OOM && !(t->flags & MH__TASK_CANCEL)) {
        end_oom(s, ti, true);
    } else if (!MH__MUTANT(2)) {
        end_lost(s, ti);
    }
}

mh_err mh_sched_worker_leave(mh_sched *s, mh_sched_worker worker, mh_sched_cause cause, mh_sched_task running)
{
    uint32_t wi = mh__sched_find_worker(s, worker);
    if (wi == MH__NONE)
        return mh__fail(MH_ERR_NOT_FOUND, "worker %u of generation %u", worker.index, worker.generation);
    if (cause > MH_SCHED_REMOVED)
        return mh__fail(MH_ERR_INVALID, "cause %d", (int)cause);
    mh__worker *w = mh__worker_at(s, wi);
    mh__worker_kill_retract(s, wi);
    w->state = MH__WORKER_FREE;
    s->alive--;
    mh__worker_place(s, wi);
    mh__depend_worker_left(s, wi);
    /* From the tail, each to the front: so they keep their order. */
    for (uint32_t ti; (ti = MH__MUTANT(14) ? w->queue.head : w->queue.tail) != MH__NONE;) {
        mh__task *t = mh__task_at(s, ti);
        bool ran = t->state == MH__TASK_RUNNING || (ti == running.index && t->generation == running.generation);
        end_with_worker(s, ti, cause, ran);
    }
    mh__slab_give(&s->workers, wi);
    return MH_OK;
}
