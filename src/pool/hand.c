/* A worker's life, as the parent leads it: start, wake, kill, and the memory that outlives it. */
#include "base/error.h"
#include "base/memory.h"
#include "os/fd.h"
#include "os/futex.h"
#include "os/memory.h"
#include "os/process.h"
#include "pool/pool.h"

#include <stdio.h>
#include <string.h>

enum { SPAWNED_SOCKET = 3 };
#define STANDBY_NS (50 * MH_MILLISECOND)

/* ---- memory ----------------------------------------------------------------------------------- */

static void free_hand(mh__hand *hand)
{
    if (hand->replies_are_ours)
        mh__arena_view_close(&hand->replies);
    mh__arena_destroy(&hand->body.replies);
    if (hand->region)
        mh__os_unmap(hand->region, mh__region_size(hand->ring.mask + 1, hand->pool_trace));
    mh__free(hand->ring.fillings);
    mh__free(hand->tasks);
    mh__free(hand->unacked);
    mh__free(hand);
}

void mh__hand_drop(mh__hand *hand)
{
    if (--hand->refs == 0)
        free_hand(hand);
}

static mh_err make_region(mh__hand *hand, int *fd)
{
    size_t slots = hand->pool->options.slots, traced = hand->pool_trace, size = mh__region_size(slots, traced);
    void *at;
    mh_err err = MH_OK;
    *fd = -1;
    if (hand->pool->options.kind == MH_WORKER_PROCESS)
        err = mh__os_memfd(fd, "manyhands worker", size);
    if (!err)
        err = mh__os_map(&at, *fd, 0, size, true);
    if (err) {
        mh__os_close(fd);
        return err;
    }
    mh__region_init(at, slots, traced);
    hand->region = at;
    hand->ring = (mh__ring){.slots = hand->region->slots, .mask = (uint32_t)slots - 1, .fillings = hand->ring.fillings};
    return MH_OK;
}

static mh_err make_hand(mh__hand **out, mh_pool *pool, size_t place, int *region_fd)
{
    mh__hand *hand = mh__calloc(1, sizeof *hand);
    if (!hand)
        return MH_ERR_NO_MEMORY;
    hand->pool = pool;
    hand->refs = 1;
    hand->place = place;
    hand->pool_trace = pool->options.trace_events;
    hand->socket = -1;
    hand->check_ns = hand->stop_ns = hand->weigh_ns = INT64_MAX;
    hand->ring.mask = (uint32_t)pool->options.slots - 1;
    mh__list_init(&hand->backlog);
    hand->ring.fillings = mh__calloc(pool->options.slots, sizeof *hand->ring.fillings);
    hand->tasks = mh__calloc(pool->options.slots, sizeof(mh_future *));
    mh_err err = MH_ERR_NO_MEMORY;
    if (hand->ring.fillings && hand->tasks)
        err = make_region(hand, region_fd);
    if (err) {
        mh__hand_drop(hand);
        return err;
    }
    *out = hand;
    return MH_OK;
}

/* ---- starting --------------------------------------------------------------------------------- */

static mh__hello hello_for(const mh__hand *hand)
{
    const mh_pool_options *o = &hand->pool->options;
    mh__hello hello = mh__hello_make();
    hello.max_tasks = o->max_tasks_per_worker;
    hello.max_worker_bytes = o->max_worker_bytes;
    hello.max_reply_bytes = o->max_bytes;
    hello.spin_ns = mh__tree_is_root() ? o->spin_ns : -1;
    hello.place = mh__tree_place_for(o->workers);
    return hello;
}

/* Its fork server is a program of its own, and not a copy of this process. */
static bool has_program(const mh_pool *pool) { return pool->options.start == MH_START_FORKSERVER && pool->worker_argv; }

mh_err mh__server_start(mh_pool *pool)
{
    mh_forkserver_options o = {.child = {.entry = mh_worker_child, .ctx = &pool->options.worker, .ignore_interrupt = true}};
    if (pool->options.start == MH_START_FORK)
        o.child.begin = mh__pool_leave;
    if (has_program(pool)) {
        o.argv = (const char *const *)pool->worker_argv;
        o.fds = pool->options.worker_fds;
        o.fd_count = pool->options.worker_fd_count;
    } else {
        o.child.standby_ns = STANDBY_NS;
    }
    mh_forkserver_destroy(&pool->server);
    pool->server_starts++;
    return mh_forkserver_start(&pool->server, &o);
}

static mh_err ask_server(mh__hand *hand, mh_bytes message, const int *fds)
{
    hand->server = hand->pool->server_starts;
    return mh_forkserver_post(hand->pool->server, message, fds, MH__FD_COUNT, mh_deadline_in(10 * MH_SECOND), &hand->process);
}

/* Its standby takes over. This process, which may have threads by now that hold something, is forked again only where that is gone as well, or was not
 * there yet: rather this than tasks that wait for workers for ever. */
static mh_err replace_server(mh_pool *pool)
{
    bool replaced = !has_program(pool) && pool->server && !mh_forkserver_replace(&pool->server);
    return replaced ? MH_OK : mh__server_start(pool);
}

static mh_err fork_worker(mh__hand *hand, const mh__hello *hello, const int *fds)
{
    mh_pool *pool = hand->pool;
    mh_bytes message = {hello, sizeof *hello};
    mh_err err = pool->server ? MH_OK : mh__server_start(pool);
    if (!err)
        err = ask_server(hand, message, fds);
    if (err != MH_ERR_CLOSED)
        return err;
    err = replace_server(pool); /* the last one is gone, and its workers with it */
    return err ? err : ask_server(hand, message, fds);
}

static mh_err spawn_worker(mh__hand *hand, const mh__hello *hello, const int *fds)
{
    mh_pool *pool = hand->pool;
    size_t count = 0;
    while (pool->worker_argv[count])
        count++;
    size_t fd_count = pool->options.worker_fd_count + 1;
    const char **argv = mh__calloc(count + 1, sizeof *argv);
    mh_pass_fd *pass = mh__calloc(fd_count, sizeof *pass);
    if (!argv || !pass) {
        mh__free(argv);
        mh__free(pass);
        return MH_ERR_NO_MEMORY;
    }
    pass[0] = (mh_pass_fd){fds[MH__FD_SOCKET], SPAWNED_SOCKET};
    if (fd_count > 1)
        memcpy(pass + 1, pool->options.worker_fds, (fd_count - 1) * sizeof *pass);
    char number[16];
    snprintf(number, sizeof number, "%d", SPAWNED_SOCKET);
    for (size_t i = 0; i < count; i++)
        argv[i] = strcmp(pool->worker_argv[i], "{socket}") == 0 ? number : pool->worker_argv[i];
    mh_err err = mh_process_start(&hand->process, &(mh_process_options){.argv = argv, .fds = pass, .fd_count = fd_count, .ignore_interrupt = true});
    mh__free(argv);
    mh__free(pass);
    if (err)
        return err;
    /* the socket's buffer takes the message whether or not the worker listens yet */
    return mh__os_send(hand->socket, (mh_bytes){hello, sizeof *hello}, fds + 1, MH__FD_COUNT - 1, mh_deadline_in(MH_SECOND));
}

/* Have its sentinel watched. */
static mh_err know(mh__hand *hand)
{
    mh_pool *pool = hand->pool;
    mh_err err = MH_OK;
    hand->is_known = true;
    hand->pid = mh_process_pid(hand->process);
    if (pool->cores_to_bind)
        err = mh__topology_bind(pool->cores_to_bind, hand->place, hand->pid);
    int sentinel = mh_process_sentinel(hand->process);
    return err ? err : sentinel < 0 ? MH_ERR_SYSTEM : mh__os_poller_add(pool->hands_poller, sentinel, hand->place);
}

typedef struct first {
    int socket, parents;
    const mh_worker_options *options;
} first;

static int be_first(void *ctx)
{
    first *f = ctx;
    mh__os_close(&f->parents);
    return mh_worker_run(f->socket, f->options) ? 1 : 0;
}

mh_err mh__first_start(mh_pool *pool)
{
    int pair[2];
    mh_err err = mh__os_socketpair(pair);
    if (err)
        return err;
    first f = {.socket = pair[1], .parents = pair[0], .options = &pool->options.worker};
    err = mh_process_start(&pool->first, &(mh_process_options){.method = MH_START_FORK, .run = be_first, .ctx = &f, .keep_signals = true,
                                                               .ignore_interrupt = true});
    pool->first_socket = pair[0];
    mh__os_close(&pair[1]);
    return err;
}

static mh_err adopt_first(mh__hand *hand, const mh__hello *hello, const int *fds)
{
    mh_pool *pool = hand->pool;
    hand->process = pool->first;
    pool->first = NULL;
    mh_err err = mh__os_send(hand->socket, (mh_bytes){hello, sizeof *hello}, fds + 1, MH__FD_COUNT - 1, mh_deadline_in(MH_SECOND));
    return err ? err : know(hand);
}

static mh_err start_process(mh__hand *hand, int region_fd)
{
    mh_pool *pool = hand->pool;
    int pair[2] = {pool->first_socket, -1};
    mh_err err = pool->first ? MH_OK : mh__os_socketpair(pair);
    if (err)
        return err;
    pool->first_socket = -1;
    hand->socket = pair[0];
    int fds[MH__FD_COUNT] = {[MH__FD_SOCKET] = pair[1],
                             [MH__FD_REGION] = region_fd,
                             [MH__FD_BOARD] = pool->board_fd,
                             [MH__FD_REQUESTS] = mh__arena_fd(pool->requests),
                             [MH__FD_LEADER] = pool->leader_bell,
                             [MH__FD_KEEPER] = pool->keeper_bell,
                             [MH__FD_CORES] = mh__tree_fd()};
    mh__hello hello = hello_for(hand);
    err = mh__attached_send_all(pool, hand->socket);
    if (!err && pool->first)
        err = adopt_first(hand, &hello, fds);
    else if (!err)
        err = pool->options.start == MH_START_SPAWN ? spawn_worker(hand, &hello, fds) : fork_worker(hand, &hello, fds);
    mh__os_close(&pair[1]);
    return err;
}

static void run_thread(void *ctx)
{
    mh__hand *hand = ctx;
    mh_err err = MH_OK;
    if (hand->pool->cores_to_bind)
        err = mh__topology_bind(hand->pool->cores_to_bind, hand->place, 0);
    if (!err)
        err = mh__worker_serve(&hand->body);
    atomic_store_explicit(&hand->thread_ended, 1, memory_order_seq_cst);
    mh__os_eventfd_set(hand->body.keeper_bell);
}

static mh_err start_thread(mh__hand *hand)
{
    mh_pool *pool = hand->pool;
    hand->body = (mh__worker){
        .region = hand->region,
        .mask = hand->ring.mask,
        .trace_count = (uint32_t)pool->options.trace_events,
        .board = pool->board,
        .requests = mh__arena_view_of(pool->requests),
        .max_reply_bytes = pool->options.max_bytes,
        .socket = -1,
        .leader_bell = pool->leader_bell,
        .keeper_bell = pool->keeper_bell,
        .spin = mh__spin_init(pool->options.spin_ns, pool->cores),
        .options = pool->options.worker,
        .max_tasks = pool->options.max_tasks_per_worker,
        .show_replies = &hand->thread_replies,
    };
    hand->pid = mh__os_pid();
    hand->is_known = true;
    return mh__thread_start(&hand->thread, "mh-worker", run_thread, hand);
}

/* Make room to find a hand by the scheduler's index. */
static mh_err reserve_index(mh_pool *pool, uint32_t index)
{
    if (index < pool->hand_of_count)
        return MH_OK;
    mh__hand **grown = mh__realloc(pool->hand_of, (index + 1) * sizeof *grown);
    if (!grown)
        return MH_ERR_NO_MEMORY;
    memset(grown + pool->hand_of_count, 0, (index + 1 - pool->hand_of_count) * sizeof *grown);
    pool->hand_of = grown;
    pool->hand_of_count = index + 1;
    return MH_OK;
}

static mh_err join_sched(mh__hand *hand)
{
    mh_pool *pool = hand->pool;
    mh_sched_worker_options o = {.capacity = (uint32_t)pool->options.slots};
    mh_err err = mh_sched_worker_join(pool->sched, &o, &hand->worker);
    if (err)
        return err;
    err = reserve_index(pool, hand->worker.index);
    if (err) {
        mh_err ignored = mh_sched_worker_leave(pool->sched, hand->worker, MH_SCHED_REMOVED, (mh_sched_task){0});
        (void)ignored; /* it has just joined */
        return err;
    }
    pool->hand_of[hand->worker.index] = hand;
    return MH_OK;
}

static void leave_sched(mh__hand *hand)
{
    mh_err err = mh_sched_worker_leave(hand->pool->sched, hand->worker, MH_SCHED_REMOVED, (mh_sched_task){0});
    (void)err;
    hand->pool->hand_of[hand->worker.index] = NULL;
}

mh_err mh__hand_start(mh_pool *pool, size_t place)
{
    mh__hand *hand;
    int region_fd = -1;
    mh_err err = make_hand(&hand, pool, place, &region_fd);
    if (err)
        return err;
    err = join_sched(hand);
    if (!err) {
        err = pool->options.kind == MH_WORKER_THREAD ? start_thread(hand) : start_process(hand, region_fd);
        if (err)
            leave_sched(hand);
    }
    mh__os_close(&region_fd);
    if (err) {
        mh_process_destroy(&hand->process);
        mh__os_close(&hand->socket);
        mh__hand_drop(hand);
        return err;
    }
    pool->hands[place] = hand;
    pool->stats.workers_started++;
    pool->stats.workers++;
    if (!hand->is_known)
        pool->unawaited++;
    return MH_OK;
}

/* A worker that could not be started after all looks like one that ended at once. */
static void await_one(mh_pool *pool, mh__hand *hand)
{
    hand->refs++;
    hand->awaiting++;
    mh__pool_unlock(pool);
    mh_err err = mh_process_await_start(hand->process, mh_deadline_in(MH_SECOND));
    mh__pool_lock(pool);
    hand->awaiting--;
    bool is_there = pool->hands[hand->place] == hand;
    if (is_there && !hand->is_known && err != MH_ERR_TIMEOUT && err != MH_ERR_INTERRUPTED) {
        pool->unawaited--;
        if (!err)
            err = know(hand);
        hand->is_known = true;
        if (err)
            mh__hand_leave(hand, NULL);
    }
    if (hand->is_gone && !hand->awaiting)
        mh_process_destroy(&hand->process);
    mh__hand_drop(hand);
}

void mh__hands_await(mh_pool *pool)
{
    for (size_t i = 0; pool->unawaited && i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (hand && !hand->is_known)
            await_one(pool, hand);
    }
}

/* ---- while it lives --------------------------------------------------------------------------- */

static void ring_doorbell(mh__hand *hand)
{
    atomic_fetch_add_explicit(&hand->region->doorbell, 1, memory_order_seq_cst);
    mh__os_futex_wake(&hand->region->doorbell, 1);
}

void mh__hand_wake(mh__hand *hand)
{
    _Atomic uint32_t *asleep = &hand->region->asleep;
    if (atomic_load_explicit(asleep, memory_order_relaxed) && atomic_exchange(asleep, 0))
        ring_doorbell(hand);
}

void mh__hand_close(mh__hand *hand)
{
    atomic_store_explicit(&hand->region->closing, 1, memory_order_seq_cst);
    ring_doorbell(hand);
}

void mh__hand_kill(mh__hand *hand)
{
    if (!hand->process)
        return;
    mh_err err;
    do
        err = mh_process_kill(hand->process);
    while (err == MH_ERR_INTERRUPTED); /* a young worker is waited for first; no signal may save it */
    (void)err;                         /* it has ended: that is what we want */
}

/* The worker made its arena before it answered, so its message is there: waiting for it would be waiting for a liar. */
mh_err mh__hand_open_replies(mh__hand *hand)
{
    if (hand->replies.base)
        return MH_OK;
    if (hand->pool->options.kind == MH_WORKER_THREAD) {
        hand->replies = mh__arena_view_of(atomic_load(&hand->thread_replies));
        return MH_OK;
    }
    char text[16];
    int fds[MH__OS_FDS_MAX];
    size_t size, fd_count = 0;
    mh_err err = mh__os_receive(hand->socket, text, sizeof text, &size, fds, &fd_count, MH_NOW);
    if (!err)
        err = fd_count == 1 ? mh__arena_view_open(&hand->replies, fds[0], true)
                            : mh__fail(MH_ERR_CORRUPT, "a worker answered from memory that it did not show");
    for (size_t i = 0; i < fd_count; i++)
        mh__os_close(&fds[i]);
    hand->replies_are_ours = !err;
    return err;
}

static bool give_ack(mh__hand *hand, uint64_t offset)
{
    mh__region *region = hand->region;
    uint64_t waiting = hand->acks_given - atomic_load_explicit(&region->acked, memory_order_acquire);
    if (waiting >= MH__ACKS) /* also when the worker's number is nonsense */
        return false;
    atomic_store_explicit(&region->acks[hand->acks_given % MH__ACKS], offset, memory_order_relaxed);
    atomic_store_explicit(&region->acks_given, ++hand->acks_given, memory_order_release);
    return true;
}

void mh__hand_flush_acks(mh__hand *hand)
{
    while (hand->unacked_count && give_ack(hand, hand->unacked[hand->unacked_count - 1]))
        hand->unacked_count--;
}

void mh__hand_acknowledge(mh__hand *hand, uint64_t offset)
{
    if (hand->is_gone)
        return;
    mh__hand_flush_acks(hand);
    if (!hand->unacked_count && give_ack(hand, offset))
        return;
    if (hand->unacked_count == hand->unacked_capacity) {
        size_t capacity = hand->unacked_capacity ? 2 * hand->unacked_capacity : 64;
        uint64_t *grown = mh__realloc(hand->unacked, capacity * sizeof *grown);
        if (!grown)
            return; /* the block stays taken until its worker ends */
        hand->unacked = grown;
        hand->unacked_capacity = capacity;
    }
    hand->unacked[hand->unacked_count++] = offset;
}
