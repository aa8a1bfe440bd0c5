/* A pool's life: create, close, terminate, join, destroy. */
#include "pool/pool.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/cores.h"
#include "os/fd.h"
#include "os/futex.h"
#include "os/memory.h"
#include "os/process.h"
#include "os/usage.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TRACE_MAX = 1 << 20, DEFAULT_SLOTS = 256, WORKERS_MAX = 4096, DEFAULT_START_FAILURES = 16, QUEUE_NS = 2000000 };
#define GROW_NS (20 * MH_MILLISECOND)

mh_err mh__pool_check(const mh_pool *pool)
{
    if (pool->fork_depth != mh__os_fork_depth())
        return mh__fail(MH_ERR_FORKED, "the pool belongs to the process that created it");
    return MH_OK;
}

/* ---- options ----------------------------------------------------------------------------------- */

mh_err mh__run_nothing(mh_task *task, void *ctx)
{
    (void)task;
    (void)ctx;
    return mh__fail(MH_ERR_INVALID, "options.run: this pool has no function for tasks, only maps");
}

/* Programs of their own know what they run. */
static bool has_program(const mh_pool_options *o)
{
    return o->worker_argv && o->kind == MH_WORKER_PROCESS &&
           (o->start == MH_START_SPAWN || o->start == MH_START_FORKSERVER);
}

bool mh__pool_runs_tasks(const mh_pool *pool)
{
    return pool->options.worker.run != mh__run_nothing || has_program(&pool->options);
}

size_t mh_pool_default_workers(void) { return mh__tree_width(); }

mh_err mh_cores_share(int *fd)
{
    mh_err err = mh__tree_make();
    if (!err)
        *fd = mh__tree_fd();
    return err;
}

mh_err mh_cores_join(int fd) { return mh__tree_join(fd); }

static mh_err check_options(const mh_pool_options *o)
{
    if (o->workers > WORKERS_MAX)
        return mh__fail(MH_ERR_INVALID, "options.workers: %zu; at most %d", o->workers, WORKERS_MAX);
    if (o->kind != MH_WORKER_PROCESS && o->kind != MH_WORKER_THREAD)
        return mh__fail(MH_ERR_INVALID, "options.kind: %d", (int)o->kind);
    if ((unsigned)o->start > MH_START_FORKSERVER)
        return mh__fail(MH_ERR_INVALID, "options.start: %d", (int)o->start);
    if (o->start == MH_START_SPAWN && !o->worker_argv)
        return mh__fail(MH_ERR_INVALID, "options.worker_argv: spawning needs a program");
    if (o->slots & (o->slots - 1) || o->slots > MH__SLOTS_MAX)
        return mh__fail(MH_ERR_INVALID, "options.slots: %zu is not a power of two up to %d", o->slots, MH__SLOTS_MAX);
    if (o->task_bytes && o->kind == MH_WORKER_THREAD)
        return mh__fail(MH_ERR_INVALID, "options.task_bytes: only processes can have a memory limit");
    return MH_OK;
}

static size_t default_bytes(void)
{
    size_t machine = mh__os_machine_bytes();
    return mh__round_up(machine ? machine / 2 : (size_t)1 << 30, mh__os_page_size());
}

static mh_err fill_options(mh_pool_options *o, const mh_pool_options *given)
{
    *o = given ? *given : (mh_pool_options){0};
    if (!o->worker.run)
        o->worker.run = o->run ? o->run : mh__run_nothing;
    mh_err err = check_options(o);
    if (err)
        return err;
    if (!o->workers)
        o->workers = mh_pool_default_workers();
    if (!o->task_bytes && o->kind == MH_WORKER_PROCESS)
        o->task_bytes = mh__task_limit_here();
    if (o->trace_events > TRACE_MAX)
        return mh__fail(MH_ERR_INVALID, "options.trace_events: %zu; at most %d", o->trace_events, TRACE_MAX);
    if (!o->slots)
        o->slots = DEFAULT_SLOTS;
    if (!o->max_bytes)
        o->max_bytes = default_bytes();
    if (!o->max_start_failures)
        o->max_start_failures = DEFAULT_START_FAILURES;
    if (o->start == MH_START_DEFAULT)
        o->start = mh_start_method_default();
    return MH_OK;
}

static mh_err copy_argv(mh_pool *pool, const char *const *argv)
{
    size_t count = 0;
    if (!argv)
        return MH_OK;
    while (argv[count])
        count++;
    pool->worker_argv = mh__calloc(count + 1, sizeof(char *));
    if (!pool->worker_argv)
        return MH_ERR_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        pool->worker_argv[i] = mh__strdup(argv[i]);
        if (!pool->worker_argv[i])
            return MH_ERR_NO_MEMORY;
    }
    return MH_OK;
}

static mh_err copy_fds(mh_pool *pool)
{
    size_t count = pool->options.worker_fd_count;
    if (!count)
        return MH_OK;
    pool->worker_fds = mh__calloc(count, sizeof *pool->worker_fds);
    if (!pool->worker_fds)
        return MH_ERR_NO_MEMORY;
    memcpy(pool->worker_fds, pool->options.worker_fds, count * sizeof *pool->worker_fds);
    pool->options.worker_fds = pool->worker_fds;
    return MH_OK;
}

/* ---- create ------------------------------------------------------------------------------------ */

static mh_err make_memory(mh_pool *pool)
{
    void *board;
    mh_err err = mh__lock_create(&pool->lock);
    if (!err)
        err = mh__os_memfd(&pool->board_fd, "manyhands board", sizeof(mh__board));
    if (!err)
        err = mh__os_map(&board, pool->board_fd, 0, sizeof(mh__board), true);
    if (!err) {
        pool->board = board;
        mh__board_init(pool->board);
        err = mh__arena_create(&pool->requests, pool->options.max_bytes, "manyhands requests");
    }
    if (err)
        return err;
    pool->hands = mh__calloc(pool->options.workers, sizeof(mh__hand *));
    if (pool->options.trace_events && !(pool->trace = mh__calloc(pool->options.trace_events, sizeof *pool->trace)))
        return MH_ERR_NO_MEMORY;
    pool->share_offsets = mh__calloc(MH__SHARED_MAX, sizeof *pool->share_offsets);
    return pool->hands && pool->share_offsets ? MH_OK : MH_ERR_NO_MEMORY;
}

static mh_err make_bells(mh_pool *pool)
{
    mh_err err = mh__os_eventfd(&pool->leader_bell);
    if (!err)
        err = mh__os_eventfd(&pool->keeper_bell);
    if (!err)
        err = mh__os_poller_open(&pool->hands_poller);
    return err;
}

static mh_err start_workers(mh_pool *pool)
{
    mh_sched_options o = {.high_water = (uint32_t)pool->options.slots, .queue_ns = QUEUE_NS, .steal = true};
    mh_err err = mh_sched_create(&pool->sched, &o);
    pool->now = mh_now();
    if (!err)
        mh_sched_tick(pool->sched, pool->now);
    bool is_slow = pool->options.on_demand || pool->first;
    pool->wanted = is_slow ? 1 : pool->options.workers;
    /* a pool that lives for one task never forks the others */
    pool->grow_ns = pool->options.on_demand || !pool->first || pool->options.workers == 1 ? INT64_MAX : pool->now + GROW_NS;
    pool->missing = pool->options.workers - pool->wanted;
    for (size_t i = 0; !err && i < pool->wanted; i++)
        err = mh__hand_start(pool, i);
    return err;
}

static void stop(mh_pool *pool);
static void free_pool(mh_pool *pool);

mh_err mh_pool_create(mh_pool **out, const mh_pool_options *options)
{
    *out = NULL;
    mh_pool_options filled;
    mh_err err = fill_options(&filled, options);
    if (err)
        return err;
    mh_pool *pool = mh__calloc(1, sizeof *pool);
    if (!pool)
        return MH_ERR_NO_MEMORY;
    pool->options = filled;
    pool->refs = 1;
    pool->began_ns = mh_now();
    pool->fork_depth = mh__os_fork_depth();
    pool->cores = (size_t)mh__os_usable_cores();
    pool->spin = mh__spin_init(filled.spin_ns, pool->cores);
    pool->board_fd = pool->leader_bell = pool->keeper_bell = pool->first_socket = -1;
    pool->hands_poller = -1;
    mh__list_init(&pool->live);
    mh__list_init(&pool->to_call);
    mh__list_init(&pool->to_notify);
    mh__list_init(&pool->waiters);
    err = copy_argv(pool, filled.worker_argv);
    if (!err)
        err = copy_fds(pool);
    if (!err && filled.kind == MH_WORKER_PROCESS)
        err = mh__tree_open();
    if (!mh__tree_is_root()) /* the core that would spin is wanted elsewhere */
        pool->spin = mh__spin_init(-1, pool->cores);
    /* before there is anything that is not theirs: their memory and descriptors are a copy of ours. The first worker is forked here and gets
     * ready while the server is forked, which drops what is there by then */
    bool forks = filled.kind == MH_WORKER_PROCESS && filled.start == MH_START_FORK;
    if (!err && forks)
        err = mh__first_start(pool);
    if (!err && filled.kind == MH_WORKER_PROCESS && filled.start == MH_START_FORKSERVER)
        err = mh__server_start(pool);
    if (!err && filled.pin)
        err = mh__topology_spread(&pool->cores_to_bind, filled.workers);
    if (!err)
        err = make_memory(pool);
    if (!err)
        err = make_bells(pool);
    if (!err)
        err = start_workers(pool);
    if (!err && forks)
        err = mh__server_start(pool);
    if (!err)
        err = mh__thread_start(&pool->keeper, "mh-keeper", mh__keeper_run, pool);
    if (err) {
        stop(pool);
        free_pool(pool);
        return err;
    }
    *out = pool;
    return MH_OK;
}

/* ---- stop -------------------------------------------------------------------------------------- */

void mh__pool_break(mh_pool *pool, const char *format, ...)
{
    if (pool->is_broken)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(pool->why_broken, sizeof pool->why_broken, format, args);
    va_end(args);
    pool->is_broken = true;
    for (mh__list *node = pool->live.next; node != &pool->live; node = node->next) {
        mh_err err = mh_sched_cancel(pool->sched, mh__list_entry(node, mh_future, node)->handle);
        (void)err; /* it is not done, so it is there */
    }
}

bool mh_pool_is_broken(mh_pool *pool)
{
    if (mh__pool_check(pool))
        return false;
    mh__pool_lock(pool);
    bool broken = pool->is_broken;
    mh__pool_unlock(pool);
    return broken;
}

static void close_hands(mh_pool *pool)
{
    for (size_t i = 0; i < pool->options.workers; i++)
        if (pool->hands[i])
            mh__hand_close(pool->hands[i]);
}

void mh_pool_close(mh_pool *pool)
{
    if (mh__pool_check(pool))
        return;
    mh__pool_lock(pool);
    if (pool->state == MH__POOL_OPEN) {
        pool->now = mh_now();
        mh__hands_want_all(pool); /* what workers do when they start and end is done by all, however soon this comes */
        pool->state = MH__POOL_CLOSED;
    }
    mh__pool_unlock(pool);
}

static void kill_hands(mh_pool *pool, bool known)
{
    for (size_t i = 0; i < pool->options.workers; i++)
        if (pool->hands[i] && pool->hands[i]->is_known == known)
            mh__hand_kill(pool->hands[i]);
}

static void terminate(mh_pool *pool)
{
    pool->state = MH__POOL_TERMINATED;
    for (mh__list *node = pool->live.next; node != &pool->live; node = node->next) {
        mh_err err = mh_sched_cancel(pool->sched, mh__list_entry(node, mh_future, node)->handle);
        (void)err; /* it is not done, so it is there */
    }
    mh__drive(pool); /* takes back what has not started */
    kill_hands(pool, true);
    if (pool->server)
        mh_forkserver_stop(pool->server); /* which kills those that we do not know yet, and ends while we wait for the others */
    else
        kill_hands(pool, false);
    close_hands(pool); /* threads cannot be killed */
}

void mh_pool_terminate(mh_pool *pool)
{
    if (mh__pool_check(pool))
        return;
    mh__pool_lock(pool);
    if (pool->state != MH__POOL_TERMINATED)
        terminate(pool);
    mh__arm_keeper(pool);
    mh__pool_unlock(pool);
}

static bool is_drained(void *pool) { return ((mh_pool *)pool)->live_count == 0; }
static bool is_empty(void *pool) { return ((mh_pool *)pool)->missing == ((mh_pool *)pool)->options.workers; }

static mh_err join(mh_pool *pool, mh_deadline until)
{
    mh__waiter drained = {.is_ready = is_drained, .what = pool};
    mh__waiter empty = {.is_ready = is_empty, .what = pool};
    pool->joiners++;
    mh_err err = mh__wait(pool, &drained, until);
    if (!err) {
        close_hands(pool);
        mh__keeper_ring(pool); /* to watch workers that have hardly started */
        err = mh__wait(pool, &empty, until);
    }
    if (!err && pool->server)
        mh_forkserver_stop(pool->server); /* while our caller goes on */
    pool->joiners--;
    return err;
}

mh_err mh_pool_join(mh_pool *pool, mh_deadline until)
{
    mh_err err = mh__pool_check(pool);
    if (err)
        return err;
    mh__pool_lock(pool);
    err = pool->state == MH__POOL_OPEN ? mh__fail(MH_ERR_INVALID, "join comes after close or terminate") : join(pool, until);
    mh__pool_unlock(pool);
    return err;
}

/* ---- destroy ----------------------------------------------------------------------------------- */

static void end_keeper(mh_pool *pool)
{
    if (!pool->keeper)
        return;
    mh__pool_lock(pool);
    pool->keeper_ends = true;
    atomic_store(&pool->nap, 1);
    mh__os_futex_wake(&pool->nap, 1);
    mh__keeper_ring(pool);
    mh__pool_unlock(pool);
    mh__thread_join(&pool->keeper);
}

/* Also of a pool that was made only in part. */
static void stop(mh_pool *pool)
{
    for (size_t i = 0; pool->hands && i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (!hand)
            continue;
        mh__hand_kill(hand);
        mh__hand_close(hand);
        mh__thread_join(&hand->thread);
        pool->hands[i] = NULL;
        hand->is_gone = true;
        mh__os_close(&hand->socket);
        mh_process_destroy(&hand->process);
        mh__hand_drop(hand);
    }
    mh_process_destroy(&pool->first);
    mh__os_close(&pool->first_socket);
    while (pool->given_up) {
        mh__hand *hand = pool->given_up;
        pool->given_up = hand->next_given_up;
        mh__thread_join(&hand->thread);
        mh__hand_drop(hand);
    }
    mh_forkserver_destroy(&pool->server);
    mh_sched_destroy(&pool->sched);
    mh__os_close(&pool->hands_poller);
    mh__os_close(&pool->leader_bell);
    mh__os_close(&pool->keeper_bell);
    mh__os_close(&pool->board_fd);
}

static void free_pool(mh_pool *pool)
{
    mh__records_free(pool);
    mh__arena_destroy(&pool->requests);
    if (pool->board)
        mh__os_unmap(pool->board, sizeof(mh__board));
    mh__attached_free(pool);
    for (size_t i = 0; pool->worker_argv && pool->worker_argv[i]; i++)
        mh__free(pool->worker_argv[i]);
    mh__free(pool->worker_argv);
    mh__free(pool->worker_fds);
    mh__free(pool->share_offsets);
    mh__free(pool->trace);
    mh__topology_destroy(&pool->cores_to_bind);
    mh__free(pool->hand_of);
    mh__free(pool->hands);
    mh__lock_destroy(&pool->lock);
    mh__free(pool);
}

void mh__pool_unlock_release(mh_pool *pool)
{
    bool last = --pool->refs == 0;
    mh__pool_unlock(pool);
    if (last)
        free_pool(pool);
}

/* In a forked child or fork server: the threads are not here, the workers not ours, the lock perhaps taken for ever, and results and futures
 * may still point into the books. The copies of the descriptors are all that can be given back. */
static void give_up_copy(mh_pool *pool)
{
    for (size_t i = 0; i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (!hand)
            continue;
        mh__os_close(&hand->socket);
        mh_process_destroy(&hand->process);
    }
    mh_forkserver_destroy(&pool->server);
    mh__os_close(&pool->hands_poller);
    mh__os_close(&pool->leader_bell);
    mh__os_close(&pool->keeper_bell);
    mh__os_close(&pool->board_fd);
}

void mh__pool_leave(void *worker_options)
{
    mh_pool *pool = (mh_pool *)(void *)((char *)worker_options - offsetof(mh_pool, options.worker));
    give_up_copy(pool);
    if (pool->keeper)
        return; /* a server that was started anew: results may still be held here that lie in the pool's memory */
    for (size_t i = 0; i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (hand) {
            mh__os_unmap(hand->region, mh__region_size(hand->ring.mask + 1, hand->pool_trace));
            hand->region = NULL;
        }
    }
    mh__os_unmap(pool->board, sizeof(mh__board));
    pool->board = NULL;
    mh__arena_destroy(&pool->requests);
}

void mh_pool_destroy(mh_pool **out)
{
    mh_pool *pool = *out;
    if (!pool)
        return;
    *out = NULL;
    if (mh__pool_check(pool)) {
        give_up_copy(pool);
        return;
    }
    mh_pool_terminate(pool);
    mh_err err = mh_pool_join(pool, MH_FOREVER);
    (void)err;
    end_keeper(pool);
    stop(pool);
    mh__pool_lock(pool);
    mh__pool_unlock_release(pool);
}

/* ---- looking in -------------------------------------------------------------------------------- */

void mh_pool_pids(mh_pool *pool, int32_t *pids, size_t *count)
{
    size_t found = 0;
    if (!mh__pool_check(pool)) {
        mh__pool_lock(pool);
        pool->now = mh_now();
        mh__hands_want_all(pool);
        mh__hands_await(pool);
        for (size_t i = 0; i < pool->options.workers; i++) {
            mh__hand *hand = pool->hands[i];
            if (!hand || hand->pid <= 0)
                continue;
            if (found < *count)
                pids[found] = hand->pid;
            found++;
        }
        mh__pool_unlock(pool);
    }
    *count = found;
}
