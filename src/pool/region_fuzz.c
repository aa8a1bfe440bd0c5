/* Arbitrary bytes where a worker writes: the parent neither crashes nor loses or doubles a task. And arbitrary bytes where a
 * worker looks for its region and its orders: it takes none that are not sound. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"
#include "os/fd.h"
#include "os/process.h"
#include "pool/pool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SLOTS = 4, TASKS = 6, REPLY_BYTES = 4096, TRACE = 4 };
#define REGION_BYTES mh__region_size(SLOTS, TRACE)

static void must(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

static mh_err run_nothing(mh_task *task, void *ctx)
{
    (void)task;
    (void)ctx;
    return MH_OK;
}

/* A pool of one worker, whose part the input plays. */
static mh_pool *make_pool(void)
{
    static mh__board board;
    mh_pool *pool = calloc(1, sizeof *pool);
    must(pool != NULL, "memory");
    pool->options = (mh_pool_options){
        .workers = 1, .slots = SLOTS, .max_start_failures = 1000, .kind = MH_WORKER_THREAD, .worker.run = run_nothing, .trace_events = TRACE};
    pool->trace = calloc(TRACE, sizeof *pool->trace);
    pool->refs = 1;
    pool->fork_depth = mh__os_fork_depth();
    pool->board = &board;
    pool->is_broken = true; /* no other worker is started */
    pool->keeper_awake = true;
    pool->leader_bell = pool->keeper_bell = -1;
    mh__list_init(&pool->live);
    mh__list_init(&pool->to_call);
    mh__list_init(&pool->to_notify);
    mh__list_init(&pool->waiters);
    pool->hands = calloc(1, sizeof(mh__hand *));
    pool->hand_of = calloc(1, sizeof(mh__hand *));
    pool->hand_of_count = 1;
    mh_sched_options o = {.high_water = SLOTS};
    must(!mh__lock_create(&pool->lock) && !mh_sched_create(&pool->sched, &o), "a pool");
    must(!mh__arena_create(&pool->requests, 1 << 20, "fuzz"), "an arena");
    return pool;
}

static mh__hand *make_hand(mh_pool *pool)
{
    static char replies[REPLY_BYTES];
    mh__hand *hand = calloc(1, sizeof *hand);
    must(hand != NULL, "memory");
    hand->pool = pool;
    hand->refs = 2; /* the pool's and ours */
    hand->socket = -1;
    hand->check_ns = hand->stop_ns = hand->weigh_ns = INT64_MAX;
    hand->pool_trace = TRACE;
    hand->pid = mh__os_pid();
    hand->is_known = true;
    mh__list_init(&hand->backlog);
    hand->region = aligned_alloc(128, mh__round_up(REGION_BYTES, 128));
    hand->tasks = calloc(SLOTS, sizeof(mh_future *));
    must(hand->region && hand->tasks, "memory");
    memset(hand->region, 0, REGION_BYTES);
    mh__region_init(hand->region, SLOTS, TRACE);
    hand->ring = (mh__ring){hand->region->slots, calloc(SLOTS, sizeof(uint64_t)), SLOTS - 1, 0, 0, 0};
    hand->replies = (mh__arena_view){replies, sizeof replies};
    must(!mh_sched_worker_join(pool->sched, &(mh_sched_worker_options){.capacity = SLOTS}, &hand->worker), "a worker");
    pool->hands[0] = hand;
    pool->hand_of[0] = hand;
    return hand;
}

static void free_all(mh_pool *pool, mh__hand *hand)
{
    free(hand->region);
    free(hand->tasks);
    free(hand->ring.fillings);
    free(hand->unacked);
    free(hand);
    mh_sched_destroy(&pool->sched);
    mh__arena_destroy(&pool->requests);
    mh__records_free(pool);
    mh__lock_destroy(&pool->lock);
    free(pool->trace);
    free(pool->hands);
    free(pool->hand_of);
    free(pool);
}

/* Part of the input says for each slot: which state, and with the right epoch or not; the rest lies over the region. */
static void play_worker(mh__hand *hand, const uint8_t *data, size_t size)
{
    if (size < SLOTS + 2)
        return;
    uint32_t at = (uint32_t)(data[SLOTS] | data[SLOTS + 1] << 8) % (uint32_t)REGION_BYTES;
    size_t most = MH__MIN(size - SLOTS - 2, REGION_BYTES - at);
    memcpy((char *)hand->region + at, data + SLOTS + 2, most);
    for (int i = 0; i < SLOTS; i++) {
        uint64_t filled = hand->ring.fillings[i];
        if (data[i] & 0x80)
            atomic_store(&hand->region->slots[i].control, mh__control_to(filled, (mh__slot_state)(data[i] & 7)));
    }
}

/* Whatever a worker counts, it adds up. */
static void look_in(mh_pool *pool)
{
    mh_buf *json;
    mh_worker_stats w;
    size_t count = 1;
    mh_pool_worker_stats(pool, &w, &count);
    must(!count || (w.busy_ns >= 0 && w.idle_ns >= 0 && w.core_ns >= 0 && w.serialising_ns >= 0 && w.transport_ns >= 0), "negative times");
    must(!count || w.busy_ns + w.idle_ns + w.core_ns + w.serialising_ns + w.transport_ns == w.lived_ns, "times that do not add up");
    must(!mh_pool_trace(pool, &json), "a trace");
    mh_buf_destroy(&json);
}

static void fuzz_parent(const uint8_t *data, size_t size)
{
    mh_pool *pool = make_pool();
    mh__hand *hand = make_hand(pool);
    mh_future *f[TASKS];
    char bytes[200] = {0};
    pool->is_broken = false;
    for (int i = 0; i < TASKS; i++) {
        mh_submit_options o = {.tag = (uint64_t)i, .lost_retries = i == 1, .failed_retries = i == 2};
        must(!mh__submit(pool, (mh_bytes){bytes, i % 2 ? sizeof bytes : 8}, 0, &o, NULL, &f[i]), "submit");
    }
    pool->is_broken = true;
    mh__dispatch(pool);
    for (int turn = 0; turn < 3 && pool->hands[0]; turn++) {
        size_t part = size / 3;
        play_worker(hand, data + (size_t)turn * part, part);
        mh__drive(pool);
        look_in(pool);
    }
    if (pool->hands[0])
        mh__hand_leave(hand, NULL);
    for (int i = 0; i < TASKS; i++)
        if (!f[i]->is_done)
            must(!mh_sched_cancel(pool->sched, f[i]->handle), "a task that is not done is not known");
    mh__drive(pool);
    must(pool->live_count == 0 && pool->assigned_count == 0, "the books are wrong");
    for (int i = 0; i < TASKS; i++) {
        must(f[i]->is_done, "a task is lost");
        must(f[i]->refs == 1, "a task is held twice");
        mh__record_drop(f[i]);
    }
    must(mh__arena_used_bytes(pool->requests) == 0, "request memory is lost");
    must(hand->refs == 1 + (pool->given_up == hand), "a worker is held by nobody");
    free_all(pool, hand);
}

static void fuzz_worker(const uint8_t *data, size_t size)
{
    mh__region *region = aligned_alloc(128, mh__round_up(MH__MAX(size, sizeof *region), 128));
    must(region != NULL, "memory");
    mh__region_init(region, 1, 0);
    memset((char *)region + sizeof region->magic, 0, sizeof *region - sizeof region->magic);
    memcpy((char *)region + (size % 2 ? 0 : sizeof region->magic), data, size % 2 ? size : MH__MIN(size, sizeof *region - 8));
    uint32_t slots = 0, traced = 0;
    if (!mh__region_check(region, size, &slots, &traced))
        must(mh__region_size(slots, traced) <= size && !(slots & (slots - 1)) && slots, "a region that is too large for its memory");
    free(region);
    mh__hello hello;
    mh_err err = mh__hello_read(&hello, (mh_bytes){data, size});
    (void)err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_parent(data, size);
    if (size)
        fuzz_worker(data, size);
    return 0;
}
