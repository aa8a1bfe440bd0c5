/* What a task waits for, and where it may run. A task with dependencies, targets or refusals has an `extra`, and so has one
 * that goes elsewhere after a failure; an `edge` leads from a task that has not ended to each that waits for it; a `place`
 * is what a task has to do with one worker. */
#include "base/error.h"
#include "sched/sched_state.h"

typedef enum verdict {
    NOT_YET,
    MET,
    NEVER
} verdict;

static verdict judge(const mh__need *n)
{
    if (n->any && n->total > 0)
        return n->met > 0 ? MET : n->unmet == n->total ? NEVER : NOT_YET;
    if (MH__MUTANT(11) && n->met > 0)
        return MET;
    return n->unmet > 0 ? NEVER : n->met == n->total ? MET : NOT_YET;
}

/* Count one task that ended; true if it ended as wanted. */
static bool count_end(mh__need *n, mh_sched_outcome outcome)
{
    bool ok = outcome == MH_SCHED_OK;
    bool wanted = n->when == MH_SCHED_ON_END || ok == (n->when == MH_SCHED_ON_SUCCESS);
    if (wanted)
        n->met++;
    else
        n->unmet++;
    return wanted;
}

static bool is_live_place(const mh_sched *s, const mh__place *p)
{
    const mh__worker *w = mh__worker_at(s, p->worker);
    return w->state != MH__WORKER_FREE && w->generation == p->worker_generation;
}

/* ---- places ---------------------------------------------------------------------------------- */

static mh__place *find_place(const mh_sched *s, const mh__extra *e, uint32_t wi, uint32_t generation)
{
    for (uint32_t i = e->places; i != MH__NONE; i = mh__place_at(s, i)->mine_next) {
        mh__place *p = mh__place_at(s, i);
        if (p->worker == wi && p->worker_generation == generation)
            return p;
    }
    return NULL;
}

static void add_place(mh_sched *s, mh__extra *e, uint32_t pi, uint32_t wi, uint32_t generation)
{
    *mh__place_at(s, pi) = (mh__place){.next = MH__NONE, .prev = MH__NONE, .mine_next = e->places,
                                       .task = e->task, .worker = wi, .worker_generation = generation};
    e->places = pi;
}

bool mh__depend_is_placed(const mh__extra *e) { return e->has_targets || e->follow.total > 0; }
bool mh__depend_is_choosy(const mh__extra *e) { return mh__depend_is_placed(e) || e->has_avoid; }

static bool is_usable(const mh_sched *s, const mh__extra *e, const mh__place *p)
{
    if (!is_live_place(s, p) || p->is_avoided)
        return false;
    if (e->has_targets && !p->is_target)
        return false;
    return e->follow.total == 0 || p->followed >= (e->follow.any ? 1 : e->follow.total);
}

static void link_place(mh_sched *s, mh__extra *e, uint32_t pi, bool front)
{
    mh__place *p = mh__place_at(s, pi);
    mh__worker *w = mh__worker_at(s, p->worker);
    mh__ends *list = &w->wants;
    p->next = front ? list->head : MH__NONE;
    p->prev = front ? MH__NONE : list->tail;
    *(p->prev == MH__NONE ? &list->head : &mh__place_at(s, p->prev)->next) = pi;
    *(p->next == MH__NONE ? &list->tail : &mh__place_at(s, p->next)->prev) = pi;
    p->is_linked = true;
    e->linked++;
    mh__worker_want_changed(s, p->worker);
}

static void unlink_place(mh_sched *s, mh__extra *e, uint32_t pi)
{
    mh__place *p = mh__place_at(s, pi);
    mh__ends *list = &mh__worker_at(s, p->worker)->wants;
    *(p->prev == MH__NONE ? &list->head : &mh__place_at(s, p->prev)->next) = p->next;
    *(p->next == MH__NONE ? &list->tail : &mh__place_at(s, p->next)->prev) = p->prev;
    p->is_linked = false;
    e->linked--;
    mh__worker_want_changed(s, p->worker);
}

/* Whether places may still be added: a task in follow has not ended. */
static bool may_find_places(const mh__extra *e) { return e->follow.met + e->follow.unmet < e->follow.total; }

void mh__depend_link(mh_sched *s, uint32_t ti, bool front)
{
    mh__extra *e = mh__extra_at(s, mh__task_at(s, ti)->extra);
    for (uint32_t i = e->places; i != MH__NONE; i = mh__place_at(s, i)->mine_next)
        if (is_usable(s, e, mh__place_at(s, i)))
            link_place(s, e, i, front);
}

/* Whether there is a worker where t may run, or may come to be one. */
static bool may_run(const mh_sched *s, const mh__task *t)
{
    const mh__extra *e = mh__extra_at(s, t->extra);
    uint32_t avoided = 0;
    for (uint32_t i = e->places; i != MH__NONE; i = mh__place_at(s, i)->mine_next) {
        const mh__place *p = mh__place_at(s, i);
        avoided += p->is_avoided && is_live_place(s, p);
        if (mh__depend_is_placed(e) && is_usable(s, e, p))
            return true;
    }
    return mh__depend_is_placed(e) ? may_find_places(e) : avoided == 0 || avoided < s->alive;
}

/* It failed wherever it may run: it waits for another worker until it is given up, or else forgets where it failed.
 * False: neither helps. */
static bool may_try_again(mh_sched *s, uint32_t ti)
{
    mh__extra *e = mh__extra_at(s, mh__task_at(s, ti)->extra);
    bool any = false;
    for (uint32_t i = e->places; i != MH__NONE; i = mh__place_at(s, i)->mine_next) {
        mh__place *p = mh__place_at(s, i);
        if (!p->is_failed || (!e->give_up_at && !is_live_place(s, p)))
            continue;
        any = true;
        if (!e->give_up_at)
            p->is_failed = p->is_avoided = false;
    }
    if (any && e->give_up_at)
        mh__timer_set(s, ti, e->give_up_at);
    return any;
}

bool mh__depend_may_pend(mh_sched *s, uint32_t ti)
{
    return may_run(s, mh__task_at(s, ti)) || may_try_again(s, ti);
}

/* No worker is left that ti, pending, may go to. */
static void place_again(mh_sched *s, uint32_t ti)
{
    mh__task_leave_pending(s, ti);
    mh__task_enter_pending(s, ti, true);
}

void mh__depend_unlink(mh_sched *s, uint32_t ti)
{
    mh__extra *e = mh__extra_at(s, mh__task_at(s, ti)->extra);
    for (uint32_t i = e->places; i != MH__NONE; i = mh__place_at(s, i)->mine_next)
        if (mh__place_at(s, i)->is_linked)
            unlink_place(s, e, i);
}

uint32_t mh__depend_best_place(mh_sched *s, const mh__task *t)
{
    const mh__extra *e = mh__extra_at(s, t->extra);
    uint32_t best = MH__NONE;
    for (uint32_t i = e->places; i != MH__NONE; i = mh__place_at(s, i)->mine_next) {
        const mh__place *p = mh__place_at(s, i);
        const mh__worker *w = mh__worker_at(s, p->worker);
        if (!p->is_linked || !w->is_open)
            continue;
        if (best == MH__NONE || w->load < mh__worker_at(s, best)->load
            || (w->load == mh__worker_at(s, best)->load && w->used_at < mh__worker_at(s, best)->used_at))
            best = p->worker;
    }
    return best;
}

/* One of the tasks that `e` follows ended as wanted at this worker. Takes a spare place. */
static void add_followed(mh_sched *s, mh__extra *e, uint32_t wi, uint32_t generation)
{
    mh__place *p = find_place(s, e, wi, generation);
    if (!p) {
        uint32_t pi = e->spare;
        e->spare = mh__place_at(s, pi)->mine_next;
        add_place(s, e, pi, wi, generation);
        p = mh__place_at(s, pi);
    }
    p->followed++;
    if ((mh__task_at(s, e->task)->flags & MH__TASK_PLACED) && !p->is_linked && is_usable(s, e, p))
        link_place(s, e, (uint32_t)(p - (mh__place *)s->places.items), false);
}

/* ---- submission ------------------------------------------------------------------------------ */

static mh_err check_dependencies(const mh_sched *s, const mh_sched_dependencies *d, const char *what, uint64_t *edges)
{
    if (d->count > 0 && !d->items)
        return mh__fail(MH_ERR_INVALID, "%s: %zu items at NULL", what, d->count);
    if (d->count >= MH__NONE / 4)
        return mh__fail(MH_ERR_INVALID, "%s: %zu tasks", what, d->count);
    if (d->when > MH_SCHED_ON_END)
        return mh__fail(MH_ERR_INVALID, "%s: when is %d", what, (int)d->when);
    for (size_t i = 0; i < d->count; i++) {
        const mh_sched_dependency *item = &d->items[i];
        if (item->known >= MH_SCHED_REFUSED)
            return mh__fail(MH_ERR_INVALID, "%s: task %zu is known as %d", what, i, (int)item->known);
        if (item->known == MH_SCHED_UNKNOWN && mh__sched_find_task(s, item->task) == MH__NONE)
            return mh__fail(MH_ERR_NOT_FOUND, "%s: task %zu has ended or never was", what, i);
        *edges += item->known == MH_SCHED_UNKNOWN;
    }
    return MH_OK;
}

mh_err mh__depend_reserve(mh_sched *s, const mh_sched_submit_options *o)
{
    uint64_t edges = 0, places = (uint64_t)o->target_count + o->follow.count;
    mh_err err = check_dependencies(s, &o->after, "after", &edges);
    if (!err)
        err = check_dependencies(s, &o->follow, "follow", &edges);
    if (err)
        return err;
    if (o->target_count > 0 && !o->targets)
        return mh__fail(MH_ERR_INVALID, "%zu targets at NULL", o->target_count);
    if (o->target_count >= MH__NONE / 4)
        return mh__fail(MH_ERR_INVALID, "%zu targets", o->target_count);
    if (s->options.policy == MH_SCHED_PURE)
        return mh__fail(MH_ERR_INVALID, "the policy PURE knows no dependencies and targets, and no elsewhere");
    err = mh__slab_reserve(&s->extras, 1);
    if (!err)
        err = mh__slab_reserve(&s->edges, (uint32_t)edges);
    if (!err)
        err = mh__slab_reserve(&s->places, (uint32_t)places);
    return err;
}

static void add_edge(mh_sched *s, mh__extra *e, uint32_t on, bool is_follow)
{
    uint32_t i = mh__slab_take(&s->edges);
    mh__task *t = mh__task_at(s, on);
    *mh__edge_at(s, i) = (mh__edge){.next = t->edges, .prev = MH__NONE, .mine_next = e->edges, .mine_prev = MH__NONE,
                                    .waiter = e->task, .on = on, .is_follow = is_follow};
    if (t->edges != MH__NONE)
        mh__edge_at(s, t->edges)->prev = i;
    if (e->edges != MH__NONE)
        mh__edge_at(s, e->edges)->mine_prev = i;
    t->edges = e->edges = i;
}

static void attach_need(mh_sched *s, mh__extra *e, const mh_sched_dependencies *d, bool is_follow)
{
    mh__need *n = is_follow ? &e->follow : &e->after;
    *n = (mh__need){.total = (uint32_t)d->count, .any = d->any, .when = (uint8_t)d->when};
    for (size_t i = 0; i < d->count; i++) {
        const mh_sched_dependency *item = &d->items[i];
        if (item->known == MH_SCHED_UNKNOWN)
            add_edge(s, e, item->task.index, is_follow);
        else if (count_end(n, item->known) && is_follow && mh__sched_find_worker(s, item->worker) != MH__NONE)
            add_followed(s, e, item->worker.index, item->worker.generation);
    }
}

/* Give ti what `o` says of dependencies and targets; mh__depend_reserve made room. */
void mh__depend_attach(mh_sched *s, uint32_t ti, const mh_sched_submit_options *o)
{
    uint32_t ei = mh__slab_take(&s->extras);
    mh__extra *e = mh__extra_at(s, ei);
    *e = (mh__extra){.task = ti, .edges = MH__NONE, .places = MH__NONE, .spare = MH__NONE};
    mh__task_at(s, ti)->extra = ei;
    e->has_targets = o->target_count > 0;
    for (size_t i = 0; i < o->target_count; i++) {
        const mh_sched_worker *w = &o->targets[i];
        if (mh__sched_find_worker(s, *w) == MH__NONE || find_place(s, e, w->index, w->generation))
            continue;
        add_place(s, e, mh__slab_take(&s->places), w->index, w->generation);
        mh__place_at(s, e->places)->is_target = true;
    }
    e->elsewhere = o->elsewhere;
    e->give_up_at = o->wait_ns > 0 ? mh__time_after(s->now, o->wait_ns) : 0;
    for (size_t i = 0; i < o->follow.count; i++) {
        uint32_t pi = mh__slab_take(&s->places);
        mh__place_at(s, pi)->mine_next = e->spare;
        e->spare = pi;
    }
    attach_need(s, e, &o->after, false);
    attach_need(s, e, &o->follow, true);
}

void mh__depend_start(mh_sched *s, uint32_t ti)
{
    const mh__extra *e = mh__extra_at(s, mh__task_at(s, ti)->extra);
    verdict after = judge(&e->after), follow = judge(&e->follow);
    if (after == NEVER || follow == NEVER)
        mh__task_finish(s, ti, MH_SCHED_IMPOSSIBLE);
    else if (after == MET && follow == MET)
        mh__task_enter_pending(s, ti, false);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void drop_edge(mh_sched *s, uint32_t i)
{
    mh__edge *edge = mh__edge_at(s, i);
    mh__extra *e = mh__extra_at(s, mh__task_at(s, edge->waiter)->extra);
    *(edge->prev == MH__NONE ? &mh__task_at(s, edge->on)->edges : &mh__edge_at(s, edge->prev)->next) = edge->next;
    if (edge->next != MH__NONE)
        mh__edge_at(s, edge->next)->prev = edge->prev;
    *(edge->mine_prev == MH__NONE ? &e->edges : &mh__edge_at(s, edge->mine_prev)->mine_next) = edge->mine_next;
    if (edge->mine_next != MH__NONE)
        mh__edge_at(s, edge->mine_next)->mine_prev = edge->mine_prev;
    mh__slab_give(&s->edges, i);
}

static void tell_waiter(mh_sched *s, uint32_t waiter, const mh__task *ended, bool is_follow)
{
    mh__task *t = mh__task_at(s, waiter);
    mh__extra *e = mh__extra_at(s, t->extra);
    bool wanted = count_end(is_follow ? &e->follow : &e->after, (mh_sched_outcome)ended->outcome);
    if (wanted && is_follow && ended->worker != MH__NONE)
        add_followed(s, e, ended->worker, ended->worker_generation);
    if (t->state == MH__TASK_WAITING) {
        mh__depend_start(s, waiter);
    } else if ((t->flags & MH__TASK_PLACED) && e->linked == 0 && !may_find_places(e)) {
        place_again(s, waiter);
    }
}

void mh__depend_notify(mh_sched *s, uint32_t ti)
{
    for (uint32_t i; (i = mh__task_at(s, ti)->edges) != MH__NONE;) {
        uint32_t waiter = mh__edge_at(s, i)->waiter;
        bool is_follow = mh__edge_at(s, i)->is_follow;
        drop_edge(s, i);
        tell_waiter(s, waiter, mh__task_at(s, ti), is_follow);
    }
}

static void give_places(mh_sched *s, uint32_t first)
{
    for (uint32_t next; first != MH__NONE; first = next) {
        next = mh__place_at(s, first)->mine_next;
        mh__slab_give(&s->places, first);
    }
}

void mh__depend_release(mh_sched *s, uint32_t ti)
{
    uint32_t ei = mh__task_at(s, ti)->extra;
    mh__extra *e = mh__extra_at(s, ei);
    while (e->edges != MH__NONE)
        drop_edge(s, e->edges);
    give_places(s, e->places);
    give_places(s, e->spare);
    mh__slab_give(&s->extras, ei);
    mh__task_at(s, ti)->extra = MH__NONE;
}

/* ---- refusals and workers that leave --------------------------------------------------------- */

bool mh__depend_avoids(const mh_sched *s, const mh__task *t, uint32_t wi)
{
    const mh__place *p = find_place(s, mh__extra_at(s, t->extra), wi, mh__worker_at(s, wi)->generation);
    return p && p->is_avoided;
}

static uint32_t count_avoided(const mh_sched *s, const mh__task *t)
{
    uint32_t count = 0;
    for (uint32_t i = mh__extra_at(s, t->extra)->places; i != MH__NONE; i = mh__place_at(s, i)->mine_next)
        count += mh__place_at(s, i)->is_avoided && is_live_place(s, mh__place_at(s, i));
    return count;
}

bool mh__depend_is_avoiding(const mh_sched *s, const mh__task *t)
{
    return mh__extra_at(s, t->extra)->has_avoid && count_avoided(s, t) > 0;
}

/* Make room for what mh__depend_refuse adds. errors: NO_MEMORY. */
mh_err mh__depend_refuse_reserve(mh_sched *s, uint32_t ti)
{
    mh_err err = mh__slab_reserve(&s->places, 1);
    if (!err && mh__task_at(s, ti)->extra == MH__NONE)
        err = mh__slab_reserve(&s->extras, 1);
    return err;
}

void mh__depend_refuse(mh_sched *s, uint32_t ti, uint32_t wi)
{
    mh__task *t = mh__task_at(s, ti);
    if (t->extra == MH__NONE)
        mh__depend_attach(s, ti, &(mh_sched_submit_options){0});
    mh__extra *e = mh__extra_at(s, t->extra);
    uint32_t generation = mh__worker_at(s, wi)->generation;
    mh__place *p = find_place(s, e, wi, generation);
    if (!p) {
        add_place(s, e, mh__slab_take(&s->places), wi, generation);
        p = mh__place_at(s, e->places);
    }
    p->is_avoided = e->has_avoid = true;
}

/* Without memory for the note it may go there again. */
void mh__depend_fail(mh_sched *s, uint32_t ti, uint32_t wi)
{
    uint32_t ei = mh__task_at(s, ti)->extra;
    if (ei == MH__NONE || !mh__extra_at(s, ei)->elsewhere || mh__slab_reserve(&s->places, 1))
        return;
    mh__depend_refuse(s, ti, wi);
    find_place(s, mh__extra_at(s, ei), wi, mh__worker_at(s, wi)->generation)->is_failed = true;
}

/* Called once the worker counts as gone: pending tasks that could run nowhere else are given up. */
void mh__depend_worker_left(mh_sched *s, uint32_t wi)
{
    for (uint32_t pi; (pi = mh__worker_at(s, wi)->wants.head) != MH__NONE;) {
        uint32_t ti = mh__place_at(s, pi)->task;
        mh__extra *e = mh__extra_at(s, mh__task_at(s, ti)->extra);
        unlink_place(s, e, pi);
        if (e->linked == 0 && !may_find_places(e))
            place_again(s, ti);
    }
    for (uint32_t ti = s->avoiding.head, next; ti != MH__NONE; ti = next) {
        next = mh__task_at(s, ti)->next;
        if (!may_run(s, mh__task_at(s, ti)))
            place_again(s, ti);
    }
}
