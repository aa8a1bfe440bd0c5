/* Checks the whole state after each step of tests, simulator and fuzz target: every list, count, heap and bitmap. */
#include "sched/sched_state.h"

#define CHECK(condition)                  \
    do {                                  \
        if (!(condition))                 \
            return #condition;            \
    } while (0)

static const char *check_task_list(const mh_sched *s, const mh__ends *list, mh__task_state state, uint32_t *count)
{
    uint32_t prev = MH__NONE;
    for (uint32_t i = list->head; i != MH__NONE; prev = i, i = mh__task_at(s, i)->next) {
        CHECK(i < s->tasks.used && mh__task_at(s, i)->prev == prev);
        CHECK(mh__task_at(s, i)->state == state
              || (state == MH__TASK_QUEUED && mh__task_at(s, i)->state == MH__TASK_RUNNING));
        CHECK(++*count <= s->tasks.live);
    }
    CHECK(list->tail == prev);
    return NULL;
}

static const char *check_bucket(const mh_sched *s, const mh__worker *w, uint32_t wi)
{
    if (w->state != MH__WORKER_ALIVE) {
        CHECK(w->bucket == MH__NONE);
        return NULL;
    }
    uint32_t set = w->is_open ? MH__OPEN : MH__FULL;
    CHECK(w->bucket == set * MH__BUCKETS + MH__MIN(w->load, (uint32_t)MH__BUCKETS - 1));
    CHECK(s->bits[set][w->bucket % MH__BUCKETS / 64] & (UINT64_C(1) << (w->bucket % 64)));
    CHECK(w->prev == MH__NONE ? s->buckets[w->bucket].head == wi : mh__worker_at(s, w->prev)->next == wi);
    CHECK(w->next == MH__NONE ? s->buckets[w->bucket].tail == wi : mh__worker_at(s, w->next)->prev == wi);
    return NULL;
}

static const char *check_queue(const mh_sched *s, const mh__worker *w, uint32_t wi)
{
    uint32_t count = 0, revoking = 0;
    const char *fault = check_task_list(s, &w->queue, MH__TASK_QUEUED, &count);
    if (fault)
        return fault;
    CHECK(count == w->load);
    for (uint32_t i = w->queue.head; i != MH__NONE; i = mh__task_at(s, i)->next) {
        const mh__task *t = mh__task_at(s, i);
        CHECK(t->worker == wi && t->worker_generation == w->generation && t->epoch > 0);
        CHECK(!(t->flags & (MH__TASK_AVOIDING | MH__TASK_PLACED)));
        CHECK(!(t->flags & MH__TASK_REVOKE_OUT) || (t->flags & MH__TASK_REVOKING));
        CHECK(!(t->flags & MH__TASK_TIMED_OUT) || w->state == MH__WORKER_KILLING);
        revoking += (t->flags & MH__TASK_REVOKING) != 0;
    }
    CHECK(revoking == w->revoking);
    return NULL;
}

static const char *check_wants(const mh_sched *s, const mh__worker *w, uint32_t wi)
{
    uint32_t prev = MH__NONE;
    for (uint32_t i = w->wants.head; i != MH__NONE; prev = i, i = mh__place_at(s, i)->next) {
        const mh__place *p = mh__place_at(s, i);
        CHECK(i < s->places.used && p->prev == prev && p->is_linked && !p->is_avoided);
        CHECK(p->worker == wi && p->worker_generation == w->generation);
        CHECK(mh__task_at(s, p->task)->flags & MH__TASK_PLACED);
    }
    CHECK(w->wants.tail == prev);
    CHECK(w->in_wanting == (w->is_open && w->wants.head != MH__NONE));
    return NULL;
}

static const char *check_worker(const mh_sched *s, uint32_t wi)
{
    const mh__worker *w = mh__worker_at(s, wi);
    bool full = s->options.policy == MH_SCHED_PURE ? w->capacity == 0 : w->load >= w->limit;
    CHECK(w->is_open == (w->state == MH__WORKER_ALIVE && !full));
    CHECK(w->limit <= w->capacity);
    CHECK(!w->kill_out || w->state == MH__WORKER_KILLING);
    CHECK(!w->kill_out || (mh__task_at(s, w->kill_task)->flags & MH__TASK_TIMED_OUT));
    if (s->uses_open)
        CHECK(w->is_open ? w->open_at < s->open_count && s->open[w->open_at] == wi : w->open_at == MH__NONE);
    const char *fault = s->uses_buckets ? check_bucket(s, w, wi) : NULL;
    if (!fault)
        fault = check_queue(s, w, wi);
    return fault ? fault : check_wants(s, w, wi);
}

/* That no member lacks its bit, check_bucket sees. */
static const char *check_bitmaps(const mh_sched *s)
{
    for (uint32_t word = 0; word < 2 * MH__BUCKET_WORDS; word++) {
        uint64_t bits = s->bits[word / MH__BUCKET_WORDS][word % MH__BUCKET_WORDS];
        CHECK((s->summary[word / MH__BUCKET_WORDS] >> (word % MH__BUCKET_WORDS) & 1) == (bits != 0));
        for (; bits; bits &= bits - 1)
            CHECK(s->buckets[word * 64 + (uint32_t)__builtin_ctzll(bits)].head != MH__NONE);
    }
    return NULL;
}

static const char *check_workers(const mh_sched *s, uint32_t *assigned)
{
    uint32_t alive = 0, open = 0;
    for (uint32_t wi = 0; wi < s->workers.used; wi++) {
        const mh__worker *w = mh__worker_at(s, wi);
        if (w->state == MH__WORKER_FREE)
            continue;
        alive++;
        open += w->is_open;
        *assigned += w->load;
        const char *fault = check_worker(s, wi);
        if (fault)
            return fault;
    }
    CHECK(alive == s->alive && alive == s->workers.live);
    CHECK(!s->uses_open || open == s->open_count);
    for (uint32_t i = 1; s->uses_heap && i < s->open_count; i++)
        CHECK(mh__worker_at(s, s->open[(i - 1) / 2])->used_at <= mh__worker_at(s, s->open[i])->used_at);
    return check_bitmaps(s);
}

static const char *check_extra(const mh_sched *s, const mh__task *t, uint32_t ti)
{
    const mh__extra *e = mh__extra_at(s, t->extra);
    uint32_t linked = 0, edges = 0;
    CHECK(e->task == ti);
    for (uint32_t i = e->places; i != MH__NONE; i = mh__place_at(s, i)->mine_next) {
        CHECK(i < s->places.used && mh__place_at(s, i)->task == ti);
        linked += mh__place_at(s, i)->is_linked;
    }
    CHECK(linked == e->linked && (linked == 0 || (t->flags & MH__TASK_PLACED)));
    for (uint32_t i = e->edges; i != MH__NONE; i = mh__edge_at(s, i)->mine_next, edges++) {
        CHECK(i < s->edges.used && mh__edge_at(s, i)->waiter == ti);
        CHECK(mh__task_at(s, mh__edge_at(s, i)->on)->state != MH__TASK_FREE);
    }
    CHECK(edges + e->after.met + e->after.unmet + e->follow.met + e->follow.unmet == e->after.total + e->follow.total);
    return NULL;
}

static const char *check_task(const mh_sched *s, uint32_t ti, uint32_t *placed)
{
    const mh__task *t = mh__task_at(s, ti);
    CHECK((t->state == MH__TASK_FREE) == (t->generation == 0));
    if (t->state == MH__TASK_FREE)
        return NULL;
    CHECK(t->state <= MH__TASK_ENDED);
    CHECK(t->timer == MH__NONE || (t->timer < s->timer_count && s->timers[t->timer].task == ti));
    CHECK(t->timer == MH__NONE || (t->flags & MH__TASK_TIMED));
    CHECK(t->state != MH__TASK_WAITING || t->extra != MH__NONE);
    CHECK(t->state != MH__TASK_ENDED || (t->extra == MH__NONE && t->timer == MH__NONE && t->outcome != MH_SCHED_UNKNOWN));
    CHECK(t->state == MH__TASK_PENDING || !(t->flags & (MH__TASK_AVOIDING | MH__TASK_PLACED)));
    CHECK(t->state == MH__TASK_QUEUED || t->state == MH__TASK_RUNNING || !(t->flags & MH__TASK_REVOKING));
    *placed += (t->flags & MH__TASK_PLACED) != 0;
    for (uint32_t i = t->edges, prev = MH__NONE; i != MH__NONE; prev = i, i = mh__edge_at(s, i)->next)
        CHECK(mh__edge_at(s, i)->on == ti && mh__edge_at(s, i)->prev == prev);
    return t->extra == MH__NONE ? NULL : check_extra(s, t, ti);
}

static const char *check_tasks(const mh_sched *s, uint32_t *placed)
{
    uint32_t counts[MH__TASK_ENDED + 1] = {0}, live = 0, timed = 0;
    for (uint32_t ti = 0; ti < s->tasks.used; ti++) {
        const mh__task *t = mh__task_at(s, ti);
        const char *fault = check_task(s, ti, placed);
        if (fault)
            return fault;
        counts[t->state]++;
        live += t->state != MH__TASK_FREE;
        timed += t->state != MH__TASK_FREE && t->state != MH__TASK_ENDED && (t->flags & MH__TASK_TIMED);
    }
    CHECK(live == s->tasks.live && timed == s->timed);
    for (uint32_t state = MH__TASK_WAITING; state <= MH__TASK_ENDED; state++)
        CHECK(counts[state] == s->alive_count_of_state[state]);
    CHECK(s->timed <= s->timer_capacity && s->timer_count <= s->timed);
    for (uint32_t i = 0; i < s->timer_count; i++)
        CHECK(mh__task_at(s, s->timers[i].task)->timer == i && (i == 0 || s->timers[(i - 1) / 2].at <= s->timers[i].at));
    return NULL;
}

static const char *check_lists(const mh_sched *s, uint32_t assigned, uint32_t placed)
{
    uint32_t pending = placed, ended = 0;
    const char *fault = check_task_list(s, &s->avoiding, MH__TASK_PENDING, &pending);
    for (uint32_t i = 0; !fault && i <= MH_SCHED_PRIORITY_MAX; i++) {
        CHECK((s->pending_mask >> i & 1) == (s->pending[i].head != MH__NONE));
        fault = check_task_list(s, &s->pending[i], MH__TASK_PENDING, &pending);
    }
    if (!fault)
        fault = check_task_list(s, &s->ended, MH__TASK_ENDED, &ended);
    if (fault)
        return fault;
    CHECK(pending == s->alive_count_of_state[MH__TASK_PENDING]);
    CHECK(ended == s->alive_count_of_state[MH__TASK_ENDED]);
    CHECK(assigned == s->alive_count_of_state[MH__TASK_QUEUED] + s->alive_count_of_state[MH__TASK_RUNNING]);
    uint32_t prev = MH__NONE;
    for (uint32_t i = s->revokes.head; i != MH__NONE; prev = i, i = mh__task_at(s, i)->revoke_next)
        CHECK((mh__task_at(s, i)->flags & MH__TASK_REVOKE_OUT) && mh__task_at(s, i)->revoke_prev == prev);
    CHECK(s->revokes.tail == prev);
    return NULL;
}

static const char *check_groups(const mh_sched *s)
{
    for (uint32_t gi = 0; gi < s->groups.used; gi++) {
        const mh__group *g = mh__group_at(s, gi);
        uint32_t count = 0;
        for (uint32_t i = g->generation ? g->head : MH__NONE; i != MH__NONE; i = mh__task_at(s, i)->group_next, count++)
            CHECK(mh__task_at(s, i)->group == gi && mh__task_at(s, i)->state != MH__TASK_ENDED);
        CHECK(!g->generation || count == g->count);
    }
    return NULL;
}

const char *mh__sched_validate(const mh_sched *s)
{
    uint32_t assigned = 0, placed = 0;
    const char *fault = check_workers(s, &assigned);
    if (!fault)
        fault = check_tasks(s, &placed);
    if (!fault)
        fault = check_lists(s, assigned, placed);
    return fault ? fault : check_groups(s);
}
