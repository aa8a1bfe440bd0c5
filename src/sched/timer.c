/* A binary heap of the tasks that something happens to when time passes. */
#include "sched/sched_state.h"

static void put_timer(mh_sched *s, uint32_t at, mh__timer timer)
{
    s->timers[at] = timer;
    mh__task_at(s, timer.task)->timer = at;
}

static void sift_timer_up(mh_sched *s, uint32_t at)
{
    mh__timer timer = s->timers[at];
    while (at > 0 && s->timers[(at - 1) / 2].at > timer.at) {
        put_timer(s, at, s->timers[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    put_timer(s, at, timer);
}

static void sift_timer_down(mh_sched *s, uint32_t at)
{
    mh__timer timer = s->timers[at];
    for (uint32_t child; (child = 2 * at + 1) < s->timer_count; at = child) {
        if (child + 1 < s->timer_count && s->timers[child + 1].at < s->timers[child].at)
            child++;
        if (s->timers[child].at >= timer.at)
            break;
        put_timer(s, at, s->timers[child]);
    }
    put_timer(s, at, timer);
}

/* Room for the timers of all tasks that may need one, and of one more. */
mh_err mh__timer_reserve(mh_sched *s)
{
    if (s->timed < s->timer_capacity)
        return MH_OK;
    uint32_t capacity = s->timer_capacity ? s->timer_capacity * 2 : 64;
    mh__timer *timers = mh__realloc(s->timers, capacity * sizeof *timers);
    if (!timers)
        return MH_ERR_NO_MEMORY;
    s->timers = timers;
    s->timer_capacity = capacity;
    return MH_OK;
}

void mh__timer_set(mh_sched *s, uint32_t ti, int64_t at)
{
    mh__timer_clear(s, ti);
    s->timers[s->timer_count] = (mh__timer){at, ti};
    sift_timer_up(s, s->timer_count++);
}

void mh__timer_clear(mh_sched *s, uint32_t ti)
{
    mh__task *t = mh__task_at(s, ti);
    uint32_t at = t->timer;
    if (at == MH__NONE)
        return;
    t->timer = MH__NONE;
    if (at == --s->timer_count)
        return;
    put_timer(s, at, s->timers[s->timer_count]);
    sift_timer_up(s, at);
    sift_timer_down(s, at);
}
