/* Memory limits of tasks: the parent looks how much the workers' memory has grown. The worker's half is in worker.c. */
#include "os/fd.h"
#include "os/usage.h"
#include "pool/pool.h"

#define FIRST_NS (1 * MH_MILLISECOND)
#define SOON_NS (2 * MH_MILLISECOND) /* until a task that waits behind others has begun */
#define LAST_NS (50 * MH_MILLISECOND)
#define BYTES_EACH_NS 8 /* no faster can memory be filled: what is left of a limit lasts for so long at least */
#define KILLS_NS (1 * MH_SECOND)

void mh__weigh_soon(mh__hand *hand)
{
    hand->weigh_ns = MH__MIN(hand->weigh_ns, mh__deadline_after(hand->pool->now, FIRST_NS));
}

/* The task that it is to be weighed for, if it runs: the first that is in a slot. *waits: there is one that has not begun. */
static mh_future *weighed_task(const mh__hand *hand, bool *waits)
{
    const mh__ring *ring = &hand->ring;
    mh_future *runs = NULL;
    bool is_first = true;
    *waits = false;
    for (uint32_t at = ring->head; at != ring->tail; at++) {
        uint32_t index = at & ring->mask;
        mh_future *f = hand->tasks[index];
        if (!f)
            continue;
        uint64_t running = mh__control_to(ring->fillings[index], MH__SLOT_RUN);
        bool begun = is_first && atomic_load_explicit(&ring->slots[index].control, memory_order_acquire) == running;
        is_first = false;
        if (f->memory_bytes && begun)
            runs = f;
        else if (f->memory_bytes)
            *waits = true;
        if (*waits)
            break;
    }
    return runs;
}

/* As with a task that is too late: its worker is fenced off first, so that it can neither answer nor begin an innocent one, then killed. */
static void stop_heavy(mh_future *f, mh__hand *hand)
{
    if (!mh__ring_fence(&hand->ring, f->slot))
        return; /* it has just answered */
    f->worker_pid = hand->pid;
    hand->late = f;
    hand->is_heavy = true;
    mh_err err = mh_sched_worker_resize(hand->pool->sched, hand->worker, 0);
    (void)err; /* it has joined */
    mh__hand_stop(hand);
}

static void weigh(mh__hand *hand, mh_future *f)
{
    mh__usage usage;
    int64_t now = hand->pool->now;
    hand->weigh_ns = mh__deadline_after(now, FIRST_NS);
    if (atomic_load_explicit(&hand->region->weighed, memory_order_acquire) != f->id || !mh__os_usage(hand->pid, &usage))
        return; /* it has not looked at itself yet, or is ending */
    uint64_t base = atomic_load_explicit(&hand->region->base_bytes, memory_order_relaxed);
    uint64_t used = usage.own_bytes > base ? usage.own_bytes - base : 0;
    if (used > f->memory_bytes) {
        f->heavy_bytes = used;
        hand->weigh_ns = INT64_MAX;
        stop_heavy(f, hand);
        return;
    }
    uint64_t left_ns = (f->memory_bytes - used) / BYTES_EACH_NS;
    hand->weigh_ns = mh__deadline_after(now, left_ns > (uint64_t)LAST_NS ? LAST_NS : MH__MAX((int64_t)left_ns, FIRST_NS));
}

void mh__weigh(mh_pool *pool)
{
    if (pool->kills_ns <= pool->now) {
        pool->kills_ns = pool->now + KILLS_NS;
        pool->kills = mh__os_oom_kills();
    }
    for (size_t i = 0; i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        bool waits;
        if (!hand || hand->weigh_ns > pool->now)
            continue;
        hand->weigh_ns = INT64_MAX;
        if (hand->late || hand->is_corrupt)
            continue;
        mh_future *f = weighed_task(hand, &waits);
        if (f && hand->is_known)
            weigh(hand, f);
        else if (f || waits)
            hand->weigh_ns = mh__deadline_after(pool->now, SOON_NS);
    }
}

bool mh__was_oom_killed(mh_pool *pool)
{
    int64_t kills = mh__os_oom_kills();
    if (pool->kills < 0 || kills <= pool->kills)
        return false;
    pool->kills++; /* of several that died, each has one */
    return true;
}
