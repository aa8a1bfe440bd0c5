#include "pool/tree.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/cpu.h"
#include "os/fd.h"
#include "os/memory.h"
#include "os/process.h"
#include "pool/budget.h"

#define SLICE_FIRST_NS (1 * MH_MILLISECOND)
#define SLICE_LAST_NS (16 * MH_MILLISECOND)
#define TURN_NS (10 * MH_MILLISECOND) /* how long a worker keeps a core that others wait for */

/* What the budget is reached by. Made once and never freed; a fork inherits it. */
typedef struct tree {
    mh__budget *budget;
    int fd;
    bool is_ours;        /* made here or by a process of which this one is a fork */
    unsigned root_depth; /* fork depth of the process that made it, if it is ours */
} tree;

/* Of this process, but for what a fork copied: a seat of another fork depth is the parent's. Guard of place and since_ns: they
 * are a worker's, which has one thread for all this. */
static struct {
    tree *_Atomic tree;
    _Atomic uint32_t seat;
    _Atomic unsigned seat_depth;
    mh__tree_place place; /* of a worker, and of what it forks */
    int64_t since_ns;     /* when this worker got its core */
    _Atomic uint32_t away; /* threads that wait for pools */
} here;

static uint32_t my_seat(void)
{
    uint32_t seat = atomic_load_explicit(&here.seat, memory_order_relaxed);
    return seat && atomic_load_explicit(&here.seat_depth, memory_order_relaxed) == mh__os_fork_depth() ? seat : 0;
}

static mh__budget *budget(void)
{
    tree *t = atomic_load_explicit(&here.tree, memory_order_acquire);
    return t ? t->budget : NULL;
}

bool mh__tree_is_root(void)
{
    tree *t = atomic_load(&here.tree);
    return !t || (t->is_ours && t->root_depth == mh__os_fork_depth());
}

static void sit(void)
{
    uint32_t seat = mh__budget_sit(budget(), mh__os_self_process());
    atomic_store(&here.away, 0);
    atomic_store(&here.seat_depth, mh__os_fork_depth());
    atomic_store(&here.seat, seat);
}

/* Takes fd, also on failure. Of two threads that make one at the same time, the first wins. */
static mh_err publish(void *at, int fd, bool is_ours)
{
    tree *none = NULL, *t = mh__alloc(sizeof *t);
    if (t)
        *t = (tree){.budget = at, .fd = fd, .is_ours = is_ours, .root_depth = mh__os_fork_depth()};
    if (t && atomic_compare_exchange_strong(&here.tree, &none, t))
        return MH_OK;
    mh__os_unmap(at, sizeof(mh__budget));
    mh__os_close(&fd);
    mh_err err = t ? MH_OK : MH_ERR_NO_MEMORY;
    mh__free(t);
    return err;
}

static mh_err make_budget(void)
{
    int fd;
    void *at;
    mh_err err = mh__os_memfd(&fd, "manyhands cores", sizeof(mh__budget));
    if (err)
        return err;
    err = mh__os_map(&at, fd, 0, sizeof(mh__budget), true);
    if (err) {
        mh__os_close(&fd);
        return err;
    }
    mh__budget_init(at, (uint32_t)mh__cpu_count());
    return publish(at, fd, true);
}

mh_err mh__tree_make(void) { return budget() ? MH_OK : make_budget(); }

mh_err mh__tree_open(void)
{
    mh_err err = mh__tree_make();
    if (err || mh__tree_is_root() || my_seat())
        return err;
    sit();
    mh__budget_run(budget(), my_seat());
    return MH_OK;
}

int mh__tree_fd(void)
{
    tree *t = atomic_load(&here.tree);
    return t ? t->fd : -1;
}

static uint32_t share(void) { return here.place.share ? here.place.share : budget()->cores; }

mh__tree_place mh__tree_place_for(size_t workers)
{
    uint32_t each = (uint32_t)((share() + workers - 1) / workers);
    return (mh__tree_place){.owner = my_seat(), .share = MH__MAX(each, UINT32_C(1)), .asks = !mh__tree_is_root()};
}

size_t mh__tree_width(void)
{
    mh__budget *b = budget();
    if (!b)
        return mh__cpu_count();
    if (mh__tree_is_root())
        return b->cores;
    size_t open = mh__budget_free(b) + (my_seat() && mh__budget_runs(b, my_seat())); /* its own, while it waits for the pool */
    return MH__MAX((size_t)share(), MH__MIN(open, (size_t)b->cores));
}

void mh__tree_forget(int32_t pid)
{
    if (budget() && pid > 0)
        mh__budget_forget(budget(), pid);
}

/* ---- workers ----------------------------------------------------------------------------------- */

static mh_err map_budget(int fd)
{
    size_t size;
    void *at;
    int own;
    mh_err err = mh__os_fd_sealed(fd, &size);
    if (!err && size < sizeof(mh__budget))
        err = mh__fail(MH_ERR_CORRUPT, "a budget of %zu bytes", size);
    if (!err)
        err = mh__os_duplicate(&own, fd);
    if (err)
        return err;
    err = mh__os_map(&at, own, 0, sizeof(mh__budget), true);
    if (!err && (err = mh__budget_check(at, size)))
        mh__os_unmap(at, sizeof(mh__budget));
    if (!err)
        return publish(at, own, false);
    mh__os_close(&own);
    return err;
}

mh_err mh__tree_join(int fd) { return budget() ? MH_OK : map_budget(fd); }

mh_err mh__tree_enter(int fd, mh__tree_place place)
{
    mh_err err = mh__tree_join(fd);
    if (err)
        return err;
    here.place = place;
    sit();
    return MH_OK;
}

void mh__tree_leave(void)
{
    uint32_t seat = my_seat();
    if (!seat)
        return;
    atomic_store(&here.seat, 0);
    mh__budget_leave(budget(), seat);
}

bool mh__tree_runs(void)
{
    uint32_t seat = my_seat();
    return !seat || mh__budget_runs(budget(), seat);
}

bool mh__tree_try(void)
{
    uint32_t seat = my_seat();
    if (!seat)
        return true;
    if (!here.place.asks) {
        mh__budget_run(budget(), seat);
        return true;
    }
    if (!mh__budget_try(budget(), seat, here.place.owner))
        return false;
    here.since_ns = mh_now();
    return true;
}

bool mh__tree_wait(int64_t *slice_ns, int64_t since_ns)
{
    *slice_ns = *slice_ns ? MH__MIN(2 * *slice_ns, SLICE_LAST_NS) : SLICE_FIRST_NS;
    mh__budget_wait(budget(), my_seat(), here.place.owner, *slice_ns);
    if (!mh__budget_force(budget(), since_ns))
        return false;
    mh__budget_run(budget(), my_seat());
    return true;
}

bool mh__tree_should_yield(void)
{
    return here.place.asks && my_seat() && mh__budget_is_wanted(budget()) && mh_now() - here.since_ns > TURN_NS;
}

void mh__tree_idle(void)
{
    if (my_seat())
        mh__budget_idle(budget(), my_seat());
}

/* ---- waiting for a pool ------------------------------------------------------------------------ */

bool mh__tree_away(void)
{
    uint32_t seat = my_seat();
    if (!seat)
        return false;
    if (atomic_fetch_add(&here.away, 1) == 0)
        mh__budget_away(budget(), seat);
    return true;
}

void mh__tree_back(void)
{
    if (atomic_fetch_sub(&here.away, 1) == 1)
        mh__budget_run(budget(), my_seat());
}
