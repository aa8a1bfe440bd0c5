/* Which workers may be given a task, and which one is. No step looks at all workers: those with the same load share a
 * bucket, a bitmap tells which buckets are not empty, and random choices index an array of the open workers. */
#include "sched/sched_state.h"

enum { FIRST_LIMIT = 2, WEIGHTED_TRIES = 32 };

/* ---- the open array: unordered, or a heap by used_at ----------------------------------------- */

static void put_open(mh_sched *s, uint32_t at, uint32_t wi)
{
    s->open[at] = wi;
    mh__worker_at(s, wi)->open_at = at;
}

static uint64_t open_key(const mh_sched *s, uint32_t at) { return mh__worker_at(s, s->open[at])->used_at; }

static void sift_open_up(mh_sched *s, uint32_t at)
{
    uint32_t wi = s->open[at];
    uint64_t key = open_key(s, at);
    for (uint32_t parent; at > 0 && open_key(s, parent = (at - 1) / 2) > key; at = parent)
        put_open(s, at, s->open[parent]);
    put_open(s, at, wi);
}

static void sift_open_down(mh_sched *s, uint32_t at)
{
    uint32_t wi = s->open[at];
    uint64_t key = open_key(s, at);
    for (uint32_t child; (child = 2 * at + 1) < s->open_count; at = child) {
        if (child + 1 < s->open_count && open_key(s, child + 1) < open_key(s, child))
            child++;
        if (open_key(s, child) >= key)
            break;
        put_open(s, at, s->open[child]);
    }
    put_open(s, at, wi);
}

static void add_open(mh_sched *s, uint32_t wi)
{
    put_open(s, s->open_count, wi);
    if (s->uses_heap)
        sift_open_up(s, s->open_count);
    s->open_count++;
}

static void remove_open(mh_sched *s, uint32_t wi)
{
    mh__worker *w = mh__worker_at(s, wi);
    uint32_t at = w->open_at;
    w->open_at = MH__NONE;
    if (at == --s->open_count)
        return;
    put_open(s, at, s->open[s->open_count]);
    if (s->uses_heap) {
        sift_open_up(s, at);
        sift_open_down(s, at);
    }
}

/* ---- buckets --------------------------------------------------------------------------------- */

static void leave_bucket(mh_sched *s, mh__worker *w)
{
    mh__ends *list = &s->buckets[w->bucket];
    if (w->prev == MH__NONE)
        list->head = w->next;
    else
        mh__worker_at(s, w->prev)->next = w->next;
    if (w->next == MH__NONE)
        list->tail = w->prev;
    else
        mh__worker_at(s, w->next)->prev = w->prev;
    if (list->head != MH__NONE)
        return;
    uint32_t set = w->bucket / MH__BUCKETS, load = w->bucket % MH__BUCKETS;
    s->bits[set][load / 64] &= ~(UINT64_C(1) << (load % 64));
    if (!s->bits[set][load / 64])
        s->summary[set] &= ~(1u << (load / 64));
}

static void enter_bucket(mh_sched *s, uint32_t wi, uint32_t bucket)
{
    mh__worker *w = mh__worker_at(s, wi);
    mh__ends *list = &s->buckets[bucket];
    w->next = MH__NONE;
    w->prev = list->tail;
    if (list->tail == MH__NONE)
        list->head = wi;
    else
        mh__worker_at(s, list->tail)->next = wi;
    list->tail = wi;
    uint32_t set = bucket / MH__BUCKETS, load = bucket % MH__BUCKETS;
    s->bits[set][load / 64] |= UINT64_C(1) << (load % 64);
    s->summary[set] |= 1u << (load / 64);
}

static uint32_t lowest_bucket(const mh_sched *s, uint32_t set)
{
    if (!s->summary[set])
        return MH__NONE;
    uint32_t word = (uint32_t)__builtin_ctz(s->summary[set]);
    return set * MH__BUCKETS + word * 64 + (uint32_t)__builtin_ctzll(s->bits[set][word]);
}

static uint32_t highest_load(const mh_sched *s, uint32_t set)
{
    if (!s->summary[set])
        return 0;
    uint32_t word = 31 - (uint32_t)__builtin_clz(s->summary[set]);
    return word * 64 + 63 - (uint32_t)__builtin_clzll(s->bits[set][word]);
}

uint32_t mh__worker_idle(const mh_sched *s) { return s->buckets[0].head; }

uint32_t mh__worker_longest(const mh_sched *s)
{
    uint32_t open = highest_load(s, MH__OPEN), full = highest_load(s, MH__FULL);
    return full >= open ? s->buckets[MH__FULL * MH__BUCKETS + full].head : s->buckets[MH__OPEN * MH__BUCKETS + open].head;
}

/* ---- keeping a worker in its place ----------------------------------------------------------- */

static bool may_take(const mh_sched *s, const mh__worker *w)
{
    if (w->state != MH__WORKER_ALIVE)
        return MH__MUTANT(5) && w->state == MH__WORKER_KILLING && w->load < w->limit;
    if (s->options.policy == MH_SCHED_PURE)
        return w->capacity > 0;
    return w->load < w->limit || (MH__MUTANT(8) && w->load == w->limit);
}

void mh__worker_want_changed(mh_sched *s, uint32_t wi)
{
    mh__worker *w = mh__worker_at(s, wi);
    bool wanting = w->is_open && w->wants.head != MH__NONE;
    if (wanting == w->in_wanting)
        return;
    w->in_wanting = wanting;
    if (wanting) {
        w->wanting_next = MH__NONE;
        w->wanting_prev = s->wanting.tail;
        *(s->wanting.tail == MH__NONE ? &s->wanting.head : &mh__worker_at(s, s->wanting.tail)->wanting_next) = wi;
        s->wanting.tail = wi;
    } else {
        *(w->wanting_prev == MH__NONE ? &s->wanting.head : &mh__worker_at(s, w->wanting_prev)->wanting_next) = w->wanting_next;
        *(w->wanting_next == MH__NONE ? &s->wanting.tail : &mh__worker_at(s, w->wanting_next)->wanting_prev) = w->wanting_prev;
    }
}

static void set_open(mh_sched *s, uint32_t wi, bool is_open)
{
    mh__worker *w = mh__worker_at(s, wi);
    w->is_open = is_open;
    if (s->uses_open) {
        if (is_open)
            add_open(s, wi);
        else
            remove_open(s, wi);
    }
    if (is_open)
        s->avoiding_stale = false;
    if (w->wants.head != MH__NONE || w->in_wanting)
        mh__worker_want_changed(s, wi);
}

void mh__worker_place(mh_sched *s, uint32_t wi)
{
    mh__worker *w = mh__worker_at(s, wi);
    bool is_open = may_take(s, w);
    if (s->uses_buckets) {
        uint32_t bucket = MH__NONE;
        if (w->state == MH__WORKER_ALIVE || is_open)
            bucket = (is_open ? 0u : (uint32_t)MH__BUCKETS) + MH__MIN(w->load, (uint32_t)MH__BUCKETS - 1);
        if (bucket != w->bucket) {
            if (w->bucket != MH__NONE)
                leave_bucket(s, w);
            if (bucket != MH__NONE)
                enter_bucket(s, wi, bucket);
            w->bucket = bucket;
        }
    }
    if (is_open != w->is_open)
        set_open(s, wi, is_open);
}

void mh__worker_used(mh_sched *s, uint32_t wi)
{
    mh__worker *w = mh__worker_at(s, wi);
    w->used_at = ++s->uses;
    mh__worker_place(s, wi);
    if (s->uses_heap && w->open_at != MH__NONE)
        sift_open_down(s, w->open_at);
}

/* ---- how much a worker may hold -------------------------------------------------------------- */

/* One running task and queue_ns worth of others, as far as the capacity goes. */
void mh__worker_set_limit(mh_sched *s, mh__worker *w)
{
    uint64_t limit = w->capacity;
    if (s->options.queue_ns > 0) {
        uint64_t others = w->task_ns ? (uint64_t)s->options.queue_ns / w->task_ns : FIRST_LIMIT - 1;
        limit = MH__MIN(limit, others + 1);
    }
    w->task_ns_low = w->task_ns - w->task_ns / 8;
    w->task_ns_high = w->task_ns + w->task_ns / 8;
    w->limit = (uint32_t)limit;
}

/* ---- choosing -------------------------------------------------------------------------------- */

static uint32_t random_below(mh_sched *s, uint32_t n) { return (uint32_t)(((mh__splitmix(&s->random) >> 32) * n) >> 32); }

static uint32_t choose_twobin(mh_sched *s)
{
    uint32_t a = s->open[random_below(s, s->open_count)], b = s->open[random_below(s, s->open_count)];
    return mh__worker_at(s, a)->used_at <= mh__worker_at(s, b)->used_at ? a : b;
}

/* An open worker at random, weighted by 1/load: picks evenly and accepts with the probability least/load. */
static uint32_t pick_weighted(mh_sched *s, uint32_t least)
{
    uint32_t wi = MH__NONE;
    for (int i = 0; i < WEIGHTED_TRIES; i++) {
        wi = s->open[random_below(s, s->open_count)];
        if (random_below(s, mh__worker_at(s, wi)->load) < least)
            break;
    }
    return wi;
}

static uint32_t choose_weighted(mh_sched *s, uint32_t bucket)
{
    uint32_t least = bucket % MH__BUCKETS;
    if (least == 0)
        return s->buckets[bucket].head; /* idle: its weight is beyond all others */
    uint32_t a = pick_weighted(s, least), b = pick_weighted(s, least);
    return mh__worker_at(s, a)->load <= mh__worker_at(s, b)->load ? a : b;
}

uint32_t mh__worker_choose(mh_sched *s)
{
    if (s->uses_buckets) {
        uint32_t bucket = lowest_bucket(s, MH__OPEN);
        if (bucket == MH__NONE)
            return MH__NONE;
        return s->options.policy == MH_SCHED_WEIGHTED ? choose_weighted(s, bucket) : s->buckets[bucket].head;
    }
    if (s->open_count == 0)
        return MH__NONE;
    switch (s->options.policy) {
    case MH_SCHED_TWOBIN:
        return choose_twobin(s);
    case MH_SCHED_PLAINRANDOM:
        return s->open[random_below(s, s->open_count)];
    default:
        return s->open[0];
    }
}

/* Looks at no more workers than refused t, and one. */
uint32_t mh__worker_choose_for(mh_sched *s, const mh__task *t)
{
    if (!s->uses_buckets) {
        uint32_t start = s->uses_heap || !s->open_count ? 0 : random_below(s, s->open_count);
        for (uint32_t i = 0; i < s->open_count; i++) {
            uint32_t wi = s->open[(start + i) % s->open_count];
            if (!mh__depend_avoids(s, t, wi))
                return wi;
        }
        return MH__NONE;
    }
    for (uint32_t bucket = lowest_bucket(s, MH__OPEN); bucket < MH__BUCKETS; bucket++)
        for (uint32_t wi = s->buckets[bucket].head; wi != MH__NONE; wi = mh__worker_at(s, wi)->next)
            if (!mh__depend_avoids(s, t, wi))
                return wi;
    return MH__NONE;
}

/* ---- killing --------------------------------------------------------------------------------- */

void mh__worker_kill(mh_sched *s, uint32_t wi, uint32_t ti)
{
    mh__worker *w = mh__worker_at(s, wi);
    if (w->state != MH__WORKER_ALIVE)
        return;
    w->state = MH__WORKER_KILLING;
    w->kill_task = ti;
    w->kill_out = true;
    w->kill_next = MH__NONE;
    w->kill_prev = s->kills.tail;
    *(s->kills.tail == MH__NONE ? &s->kills.head : &mh__worker_at(s, s->kills.tail)->kill_next) = wi;
    s->kills.tail = wi;
    mh__worker_place(s, wi);
    /* What a dying worker holds need not be asked back; what was asked may still be answered. */
    for (uint32_t i = w->queue.head; w->revoking > 0 && i != MH__NONE; i = mh__task_at(s, i)->next)
        if (mh__task_at(s, i)->flags & MH__TASK_REVOKE_OUT)
            mh__attempt_unrevoke(s, i);
}

/* KILL_WORKER is not to be handed out, or was just now. */
void mh__worker_kill_retract(mh_sched *s, uint32_t wi)
{
    mh__worker *w = mh__worker_at(s, wi);
    if (!w->kill_out)
        return;
    w->kill_out = false;
    *(w->kill_prev == MH__NONE ? &s->kills.head : &mh__worker_at(s, w->kill_prev)->kill_next) = w->kill_next;
    *(w->kill_next == MH__NONE ? &s->kills.tail : &mh__worker_at(s, w->kill_next)->kill_prev) = w->kill_prev;
}
