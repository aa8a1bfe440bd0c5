#include "pool/worker.h"

#include "base/error.h"
#include "base/memory.h"
#include "os/cores.h"
#include "os/fd.h"
#include "os/futex.h"
#include "os/memory.h"
#include "os/process.h"
#include "os/usage.h"
#include "pool/map.h"
#include "pool/point.h"

#include <string.h>

enum { LOOK_AFTER_PARENT_MS = 500, WEIGH_EVERY_MS = 2 };
#define GUARD_BYTES ((size_t)256 << 20)

static mh__slot *slot_at(mh__worker *w) { return &w->region->slots[w->next & w->mask]; }

/* ---- telling the parent ---------------------------------------------------------------------- */

static bool wants_telling(const mh__worker *w, uint32_t notify, bool idle)
{
    switch (notify) {
    case MH__NOTIFY_LEADER:
    case MH__NOTIFY_KEEPER:
        return true;
    case MH__NOTIFY_LEADER_LAZY:
        return idle || w->next % MH__NOTIFY_LAZY_TASKS == 0;
    case MH__NOTIFY_KEEPER_IDLE:
        return idle;
    default:
        return false;
    }
}

void mh__worker_tell(mh__worker *w, bool idle)
{
    /* pairs with the fence after the parent's store of notify: either we see it or the parent sees our DONE */
    uint32_t notify = atomic_load_explicit(&w->board->notify, memory_order_seq_cst);
    if (!wants_telling(w, notify, idle))
        return;
    notify = atomic_exchange_explicit(&w->board->notify, MH__NOTIFY_NONE, memory_order_seq_cst);
    if (notify == MH__NOTIFY_LEADER || notify == MH__NOTIFY_LEADER_LAZY)
        mh__os_eventfd_set(w->leader_bell);
    else if (notify != MH__NOTIFY_NONE)
        mh__os_eventfd_set(w->keeper_bell);
}

/* ---- waiting for the parent ------------------------------------------------------------------ */

static bool has_work(mh__worker *w)
{
    mh__slot_state state = mh__control_state(atomic_load_explicit(&slot_at(w)->control, memory_order_acquire));
    return state == MH__SLOT_READY || state == MH__SLOT_SKIP;
}

static bool is_closing(mh__worker *w)
{
    return atomic_load_explicit(&w->region->closing, memory_order_acquire) != 0;
}

static bool spin_for_work(mh__worker *w)
{
    int64_t budget = mh__spin_budget(&w->spin);
    if (budget == 0)
        return false;
    int64_t begin = mh_now(), spent = 0;
    bool found = false;
    while (!found && spent < budget) {
        for (int i = 0; i < 8 && !found; i++) {
            mh__os_relax();
            found = has_work(w);
        }
        found = found || is_closing(w);
        spent = mh_now() - begin;
    }
    mh__spin_learn(&w->spin, found, spent);
    return found;
}

static mh_err sleep_for_work(mh__worker *w)
{
    mh__region *region = w->region;
    uint32_t seen = atomic_load_explicit(&region->doorbell, memory_order_acquire);
    atomic_store_explicit(&region->asleep, 1, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
    mh_err err = MH_OK;
    if (!has_work(w) && !is_closing(w)) {
        if (w->has_place)
            mh__tree_idle();
        mh__point("worker before sleep");
        if (w->options.before_wait)
            w->options.before_wait(w->options.ctx);
        err = mh__os_futex_wait(&region->doorbell, seen, mh_deadline_in(LOOK_AFTER_PARENT_MS * MH_MILLISECOND));
        if (w->options.after_wait)
            w->options.after_wait(w->options.ctx);
    }
    atomic_store_explicit(&region->asleep, 0, memory_order_relaxed);
    return err;
}

/* A parent that died while its death signal was not yet set has closed the socket. */
static bool parent_is_gone(mh__worker *w)
{
    return w->socket >= 0 && mh__segments_receive(&w->segments, w->socket, MH_NOW) == MH_ERR_CLOSED;
}

/* True: look for a task again. False: it is time to end; *err says whether the parent is gone. */
static bool wait_for_more(mh__worker *w, mh_err *err)
{
    if (spin_for_work(w))
        return has_work(w) || !is_closing(w);
    if (sleep_for_work(w) == MH_ERR_TIMEOUT && parent_is_gone(w)) {
        *err = mh__fail(MH_ERR_CLOSED, "the pool's process is gone");
        return false;
    }
    return has_work(w) || !is_closing(w);
}

static bool wait_for_work(mh__worker *w, mh_err *err)
{
    mh__worker_tell(w, true);
    mh__times_rest(w, MH__REST_IDLE);
    bool goes_on = wait_for_more(w, err);
    mh__times_resume(w);
    return goes_on;
}

/* ---- a core to run on ------------------------------------------------------------------------ */

static bool has_task(mh__worker *w)
{
    return mh__control_state(atomic_load_explicit(&slot_at(w)->control, memory_order_acquire)) == MH__SLOT_READY;
}

/* Wait for one as long as there is a task to run. False: the parent is gone. */
static bool wait_for_core(mh__worker *w, mh_err *err)
{
    int64_t slice = 0, since = mh_now();
    bool is_gone = false;
    mh__point("worker waits for a core");
    mh__times_rest(w, MH__REST_CORE);
    if (w->options.before_wait)
        w->options.before_wait(w->options.ctx);
    while (has_task(w) && !is_gone && !mh__tree_wait(&slice, since) && !mh__tree_try())
        is_gone = mh__os_is_hung_up(w->socket);
    if (w->options.after_wait)
        w->options.after_wait(w->options.ctx);
    mh__times_resume(w);
    if (is_gone)
        *err = mh__fail(MH_ERR_CLOSED, "the pool's process is gone");
    return !is_gone;
}

/* False: the parent is gone. */
static bool have_core(mh__worker *w, mh_err *err)
{
    if (!w->has_place || mh__tree_runs() || !has_task(w))
        return true;
    return mh__tree_try() || wait_for_core(w, err);
}

/* Others wait for a core, and this worker has had its for a while: they get a turn. */
static bool take_turns(mh__worker *w, mh_err *err)
{
    if (!w->has_place || !mh__tree_should_yield())
        return true;
    mh__tree_idle();
    return wait_for_core(w, err);
}

/* ---- running --------------------------------------------------------------------------------- */

/* The parent weighs this process while it runs a task with a memory limit. Should it come too late, allocations fail far beyond. */
static size_t limit_here;

size_t mh__task_limit_here(void) { return limit_here; }

static void begin_weighed(mh__worker *w, mh_task *task)
{
    int64_t now = mh_now();
    if (!w->has_place)
        return;
    if (now - w->usage_ns > WEIGH_EVERY_MS * MH_MILLISECOND) { /* between short tasks nothing grows much */
        if (!mh__os_usage(mh__os_pid(), &w->usage))
            return;
        w->usage_ns = now;
    }
    mh__usage usage = w->usage;
    task->limit = mh__region_limits(w->region, w->mask + 1)[w->next & w->mask];
    limit_here = (size_t)task->limit;
    if (task->limit < SIZE_MAX / 8 && usage.data_bytes < SIZE_MAX / 8)
        mh__os_limit_data(usage.data_bytes + 2 * (size_t)task->limit + GUARD_BYTES);
    atomic_store_explicit(&w->region->base_bytes, usage.own_bytes, memory_order_relaxed);
    atomic_store_explicit(&w->region->weighed, task->id, memory_order_release);
}

static void end_weighed(mh__worker *w, mh_task *task, mh_err *err)
{
    if (!task->limit)
        return;
    atomic_store_explicit(&w->region->weighed, 0, memory_order_release);
    mh__os_limit_data(0);
    limit_here = 0;
    if (*err == MH_ERR_NO_MEMORY)
        *err = MH_ERR_OUT_OF_MEMORY_TASK;
}

/* False: this worker has been fenced off. */
static bool run_task(mh__worker *w, uint64_t control)
{
    mh_task task;
    mh__point("worker took");
    mh__task_begin(&task, w, slot_at(w));
    if (task.flags & MH__SLOT_TIMED)
        atomic_store_explicit(&w->region->started_ns, mh_now(), memory_order_release);
    if (task.flags & MH__SLOT_WEIGHED)
        begin_weighed(w, &task);
    mh__times_task(w, &task);
    mh_err err;
    if (!task.input.data)
        err = mh__fail(MH_ERR_CORRUPT, "a task's bytes lie outside the arena");
    else if (task.flags & MH__SLOT_MAP)
        err = mh__map_run(&task);
    else
        err = w->options.run(&task, w->options.ctx);
    end_weighed(w, &task, &err);
    mh__point("worker ran");
    mh__task_end(&task, err);
    mh__times_task_end(w, &task, err);
    if (!mh__slot_finish(w->region->slots, w->mask, &w->next, control)) {
        mh__task_drop_reply(&task);
        return false;
    }
    mh__point("worker done");
    mh__worker_tell(w, false);
    mh__worker_take_acks(w);
    w->done++;
    return true;
}

static bool is_to_be_recycled(mh__worker *w)
{
    if (w->max_tasks && w->done >= w->max_tasks)
        return true;
    if (!w->max_worker_bytes)
        return false;
    int64_t now = mh_now();
    if (now - w->weighed_ns < WEIGH_EVERY_MS * MH_MILLISECOND)
        return false;
    w->weighed_ns = now;
    return mh__os_own_bytes() > w->max_worker_bytes;
}

static mh_err run_tasks(mh__worker *w)
{
    mh_err err = MH_OK;
    for (;;) {
        uint64_t control;
        mh__point("worker looks");
        if (!have_core(w, &err))
            return err;
        if (mh__slot_take(w->region->slots, w->mask, &w->next, &control) == MH__SLOT_TAKEN) {
            if (!run_task(w, control) || is_to_be_recycled(w))
                return MH_OK;
            if (!take_turns(w, &err))
                return err;
        } else if (!wait_for_work(w, &err)) {
            return err;
        }
    }
}

mh_err mh__worker_serve(mh__worker *w)
{
    mh_err err = MH_OK;
    if (w->options.initialize) {
        mh__point("worker initializes");
        err = w->options.initialize(w->options.ctx);
        if (err)
            atomic_store_explicit(&w->region->phase, MH__PHASE_FAILED, memory_order_release);
    }
    if (!err) {
        mh__times_begin(w);
        atomic_store_explicit(&w->region->phase, MH__PHASE_RUNNING, memory_order_release);
        err = run_tasks(w);
        atomic_store_explicit(&w->region->phase, MH__PHASE_ENDING, memory_order_release);
        mh__point("worker finalizes");
        if (w->options.finalize)
            w->options.finalize(w->options.ctx);
    }
    mh__point("worker ends");
    if (!err)
        atomic_store_explicit(&w->region->phase, MH__PHASE_ENDED, memory_order_release);
    return err;
}

/* ---- becoming a worker process ---------------------------------------------------------------- */

static mh_err map_region(mh__worker *w, int fd)
{
    size_t size;
    void *at;
    uint32_t slot_count, trace_count;
    mh_err err = mh__os_fd_size(fd, &size);
    if (!err)
        err = mh__os_map(&at, fd, 0, size, true);
    if (err)
        return err;
    w->region = at;
    w->region_bytes = size;
    err = mh__region_check(w->region, size, &slot_count, &trace_count);
    if (!err) {
        w->mask = slot_count - 1;
        w->trace_count = trace_count;
    }
    return err;
}

static mh_err map_board(mh__worker *w, int fd)
{
    size_t size;
    void *at;
    mh_err err = mh__os_fd_size(fd, &size);
    if (!err && size < sizeof(mh__board))
        err = mh__fail(MH_ERR_CORRUPT, "a board of %zu bytes", size);
    if (!err)
        err = mh__os_map(&at, fd, 0, sizeof(mh__board), true);
    if (!err)
        w->board = at;
    return err;
}

static mh_err set_up(mh__worker *w, mh_bytes message, const int *fds, size_t fd_count)
{
    mh__hello hello;
    mh_err err = mh__hello_read(&hello, message);
    if (!err && fd_count != MH__FD_COUNT)
        err = mh__fail(MH_ERR_CORRUPT, "a worker's first message brought %zu descriptors, not %d", fd_count, MH__FD_COUNT);
    if (!err)
        err = map_region(w, fds[MH__FD_REGION]);
    if (!err)
        err = map_board(w, fds[MH__FD_BOARD]);
    if (!err)
        err = mh__arena_view_open(&w->requests, fds[MH__FD_REQUESTS], true);
    if (err)
        return err;
    w->socket = fds[MH__FD_SOCKET];
    w->leader_bell = fds[MH__FD_LEADER];
    w->keeper_bell = fds[MH__FD_KEEPER];
    w->max_reply_bytes = (size_t)hello.max_reply_bytes;
    w->max_tasks = hello.max_tasks;
    w->max_worker_bytes = (size_t)hello.max_worker_bytes;
    w->spin = mh__spin_init(hello.spin_ns, (size_t)mh__os_usable_cores());
    w->has_place = true;
    return mh__tree_enter(fds[MH__FD_CORES], hello.place);
}

static mh_err serve(const mh_worker_options *options, mh_bytes message, const int *fds, size_t fd_count)
{
    mh__worker w = {.socket = -1, .options = *options};
    if (!options->run)
        return mh__fail(MH_ERR_INVALID, "a worker needs a function to run");
    mh_err err = set_up(&w, message, fds, fd_count);
    if (!err)
        err = mh__worker_serve(&w);
    if (w.has_place)
        mh__tree_leave();
    mh__arena_destroy(&w.replies);
    mh__arena_view_close(&w.requests);
    mh__segments_fini(&w.segments);
    if (w.board)
        mh__os_unmap(w.board, sizeof *w.board);
    if (w.region)
        mh__os_unmap(w.region, w.region_bytes);
    return err;
}

int mh_worker_child(mh_bytes message, const int *fds, size_t fd_count, void *ctx)
{
    return serve(ctx, message, fds, fd_count) ? 1 : 0;
}

mh_err mh_worker_run(int socket, const mh_worker_options *options)
{
    mh__hello hello;
    int fds[MH__OS_FDS_MAX + 1];
    size_t size, fd_count = 0;
    /* the socket itself is not among the descriptors that it brings: it goes before them */
    mh_deadline until = mh_deadline_in(30 * MH_SECOND);
    mh_err err;
    do
        err = mh__os_receive(socket, &hello, sizeof hello, &size, fds + 1, &fd_count, until);
    while (err == MH_ERR_INTERRUPTED);
    if (err)
        return err;
    fds[MH__FD_SOCKET] = socket;
    err = serve(options, (mh_bytes){&hello, size}, fds, fd_count + 1);
    for (size_t i = 1; i <= fd_count; i++)
        mh__os_close(&fds[i]);
    return err;
}
