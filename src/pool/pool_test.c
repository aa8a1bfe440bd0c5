/* Every public function of pools of processes and of threads. */
#include "os/fd.h"
#include "pool/pool_test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

static const mh_worker_kind both_kinds[] = {MH_WORKER_PROCESS, MH_WORKER_THREAD};
#define FOR_BOTH(kind) \
    for (size_t k_ = 0, once_ = 1; k_ < 2; k_++, once_ = 1) \
        for (mh_worker_kind kind = both_kinds[k_]; once_; once_ = 0)

static const char *program; /* this test, which is also the worker program */

/* ---- one task at a time ------------------------------------------------------------------------- */

static void test_submit(void **state)
{
    (void)state;
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 2);
        for (int i = 0; i < 1000; i++)
            check_square(pool, i);
        end_pool(&pool);
    }
}

static const struct {
    const char *why;
    mh_pool_options options;
} bad_options[] = {
    {"too many workers", {.run = do_job, .workers = 1 << 20}},
    {"no such kind", {.run = do_job, .kind = (mh_worker_kind)7}},
    {"no such start method", {.run = do_job, .start = (mh_start_method)9}},
    {"nothing to spawn", {.run = do_job, .start = MH_START_SPAWN}},
    {"slots not a power of two", {.run = do_job, .slots = 100}},
    {"too many slots", {.run = do_job, .slots = 1 << 20}},
};

static void test_bad_options(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_options / sizeof *bad_options; i++) {
        mh_pool *pool = (mh_pool *)&pool;
        if (mh_pool_create(&pool, &bad_options[i].options) != MH_ERR_INVALID || pool)
            fail_msg("%s was accepted", bad_options[i].why);
        assert_non_null(strstr(mh_err_detail(), "options."));
    }
}

/* Every option has a default, but then there are only maps to run. */
static void test_no_options(void **state)
{
    (void)state;
    mh_pool *pool = NULL;
    mh_future *f = NULL;
    mh_block *block = NULL;
    assert_ok(mh_pool_create(&pool, NULL));
    job j = {.what = 'q'};
    assert_err(mh_pool_submit(pool, bytes_of(&j), NULL, &f), MH_ERR_INVALID);
    assert_ok(mh_block_create(&block, pool, 8));
    assert_err(mh_pool_submit_block(pool, &block, 8, NULL, &f), MH_ERR_INVALID);
    mh_block_destroy(&block);
    end_pool(&pool);
}

/* Sizes around every border: in the slot, in the arena, of many pages; the same bytes must come back. */
static void test_sizes(void **state)
{
    (void)state;
    static const size_t sizes[] = {16, 87, 88, 89, 127, 128, 129, 4095, 4096, 8192, 8193, 1 << 20, (8 << 20) + 1};
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 2);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            size_t size = sizes[i];
            char *bytes = malloc(size);
            for (size_t b = 0; b < size; b++)
                bytes[b] = (char)(b * 7 + i);
            memcpy(bytes, &(job){.what = 'E'}, sizeof(job));
            mh_future *f = NULL;
            assert_ok(mh_pool_submit(pool, (mh_bytes){bytes, size}, NULL, &f));
            mh_result result = result_of(f);
            assert_int_equal(result.err, MH_OK);
            assert_int_equal(result.reply.size, size);
            assert_memory_equal(result.reply.data, bytes, size);
            assert_int_equal((uintptr_t)result.reply.data % 64, 0);
            mh_pool_stats now;
            mh_pool_stats_read(pool, &now);
            assert_int_equal(now.reply_bytes, size > 128 ? size : 0);
            mh_result_release(&result);
            mh_future_release(&f);
            free(bytes);
        }
        mh_pool_stats stats;
        mh_pool_stats_read(pool, &stats);
        assert_int_equal(stats.request_bytes + stats.reply_bytes, 0); /* nothing is left behind */
        end_pool(&pool);
    }
}

/* ---- what a task sees ---------------------------------------------------------------------------- */

static mh_err look_around(mh_task *task, void *ctx)
{
    uint64_t seen[4] = {mh_task_attempt(task), mh_task_tag(task), mh_task_id(task), *(const uint64_t *)ctx};
    void *room, *more;
    mh_err err = mh_task_reply_reserve(task, 8, &room);
    if (err)
        return err;
    memcpy(room, seen, 8);
    mh_task_reply_size(task, 8);
    err = mh_task_reply_reserve(task, 100000, &more); /* replaces the first and keeps what is in it */
    if (err || (uintptr_t)more % 64)
        return MH_ERR_TASK_FAILED;
    memcpy((char *)more + 8, seen + 1, 24);
    mh_task_reply_size(task, 32);
    /* no later attempt can follow, so the input may be written over */
    void *input = mh_task_input_writable(task);
    if (!input != (mh_task_input(task).size == 1))
        return MH_ERR_TASK_FAILED;
    if (input)
        memset(input, 0, mh_task_input(task).size);
    return mh_task_attempt(task) < 2 && !input ? MH_ERR_TASK_FAILED : MH_OK;
}

static void test_task_api(void **state)
{
    (void)state;
    uint64_t context = 4711;
    FOR_BOTH(kind)
    {
        mh_pool *pool = NULL;
        mh_pool_options o = {.worker = {.run = look_around, .ctx = &context}, .workers = 1, .kind = kind};
        assert_ok(mh_pool_create(&pool, &o));
        for (uint32_t retries = 0; retries < 2; retries++) {
            mh_future *f = NULL;
            mh_submit_options with = {.tag = 99, .failed_retries = retries};
            assert_ok(mh_pool_submit(pool, (mh_bytes){"xy", retries ? 1 : 2}, &with, &f));
            mh_result result = result_of(f);
            assert_int_equal(result.err, MH_OK);
            const uint64_t want[4] = {1 + retries, 99, result.task_id, context};
            assert_int_equal(result.reply.size, sizeof want);
            assert_memory_equal(result.reply.data, want, sizeof want);
            assert_int_equal(result.attempts, 1 + retries);
            mh_result_release(&result);
            mh_future_release(&f);
        }
        end_pool(&pool);
    }
}

static mh_err use_shared(mh_task *task, void *ctx)
{
    (void)ctx;
    uint32_t id;
    mh_bytes shared;
    memcpy(&id, mh_task_input(task).data, sizeof id);
    mh_err err = mh_task_shared(task, id, &shared);
    return err ? err : mh_task_reply(task, shared);
}

static void test_share(void **state)
{
    (void)state;
    FOR_BOTH(kind)
    {
        mh_pool *pool = NULL;
        uint32_t ids[50], last = 0;
        assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = use_shared, .workers = 2, .kind = kind}));
        for (int i = 0; i < 50; i++) {
            char text[32];
            snprintf(text, sizeof text, "shared number %d", i);
            assert_ok(mh_pool_share(pool, (mh_bytes){text, strlen(text)}, &ids[i]));
            assert_int_not_equal(ids[i], last);
            last = ids[i];
        }
        mh_pool_unshare(pool, ids[7]);
        for (int i = 0; i < 50; i++) {
            mh_future *f = NULL;
            assert_ok(mh_pool_submit(pool, (mh_bytes){&ids[i], sizeof ids[i]}, NULL, &f));
            mh_result result = result_of(f);
            assert_int_equal(result.err, i == 7 ? MH_ERR_NOT_FOUND : MH_OK);
            char text[32];
            snprintf(text, sizeof text, "shared number %d", i);
            if (i != 7)
                assert_memory_equal(result.reply.data, text, strlen(text));
            mh_result_release(&result);
            mh_future_release(&f);
        }
        end_pool(&pool);
    }
}

static void test_blocks(void **state)
{
    (void)state;
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 1), *other = make_pool(kind, 1);
        mh_block *block = NULL, *unused = NULL;
        assert_ok(mh_block_create(&block, pool, 300000));
        assert_ok(mh_block_create(&unused, pool, 10));
        assert_int_equal((uintptr_t)mh_block_data(block) % 64, 0);
        memset(mh_block_data(block), 5, 300000);
        memcpy(mh_block_data(block), &(job){.what = 'E'}, sizeof(job));
        mh_future *f = NULL;
        assert_err(mh_pool_submit_block(other, &block, 300000, NULL, &f), MH_ERR_INVALID);
        assert_err(mh_pool_submit_block(pool, &block, 300001, NULL, &f), MH_ERR_INVALID);
        assert_non_null(block);
        assert_ok(mh_pool_submit_block(pool, &block, 299999, NULL, &f));
        assert_null(block);
        mh_result result = result_of(f);
        assert_int_equal(result.reply.size, 299999);
        assert_int_equal(((const char *)result.reply.data)[299998], 5);
        assert_err(mh_block_create(&block, pool, SIZE_MAX / 2), MH_ERR_TOO_LARGE);
        assert_null(block);
        end_pool(&other);
        /* results, futures and blocks may be let go of after the pool */
        mh_pool_destroy(&pool);
        assert_int_equal(((const char *)result.reply.data)[299998], 5);
        mh_result_release(&result);
        mh_future_release(&f);
        mh_block_destroy(&unused);
        mh_block_destroy(&unused);
    }
}

/* ---- futures --------------------------------------------------------------------------------------- */

static void test_future(void **state)
{
    (void)state;
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 1);
        mh_future *f = submit(pool, (job){.what = 'w', .value = gate[0]}, NULL);
        assert_false(mh_future_is_done(f));
        assert_err(mh_future_wait(f, MH_NOW), MH_ERR_TIMEOUT);
        assert_err(mh_future_wait(f, mh_deadline_in(MH_MILLISECOND)), MH_ERR_TIMEOUT);
        mh_result result;
        mh_buf *copy = NULL;
        assert_err(mh_future_result(f, MH_NOW, &result), MH_ERR_TIMEOUT);
        assert_err(mh_future_take(f, MH_NOW, &copy), MH_ERR_TIMEOUT);
        assert_int_equal(write(gate[1], "x", 1), 1);
        assert_ok(mh_future_wait(f, PATIENCE));
        assert_true(mh_future_is_done(f));
        assert_ok(mh_future_take(f, MH_NOW, &copy));
        assert_int_equal(mh_buf_size(copy), 8);
        mh_buf_destroy(&copy);
        assert_err(mh_future_result(f, MH_NOW, &result), MH_ERR_INVALID); /* taken already */
        mh_future_release(&f);
        mh_future_release(&f);
        /* the task's own error, with what it said */
        f = submit(pool, (job){.what = 'f', .until = 1}, NULL);
        assert_err(mh_future_take(f, PATIENCE, &copy), MH_ERR_TASK_FAILED);
        assert_memory_equal(mh_buf_data(copy), "it failed", 9);
        mh_buf_destroy(&copy);
        mh_future_release(&f);
        end_pool(&pool);
    }
    close(gate[0]);
    close(gate[1]);
}

/* Submit and collect without waiting for anybody: near replies are copied, far ones borrowed. */
static void test_now(void **state)
{
    (void)state;
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 2);
        for (size_t size = sizeof(job); size <= 300; size += 60) {
            char bytes[300] = {0}, room[128];
            memcpy(bytes, &(job){.what = 'E', .value = (int64_t)size}, sizeof(job));
            mh_future *f = NULL;
            mh_err err;
            while ((err = mh_pool_submit_now(pool, (mh_bytes){bytes, size}, NULL, &f)) == MH_ERR_TIMEOUT)
                ; /* the housekeeper is inside */
            assert_ok(err);
            mh_result result = {0};
            assert_ok(mh_future_wait(f, PATIENCE));
            while ((err = mh_future_collect(&f, room, sizeof room, &result)) == MH_ERR_TIMEOUT)
                ;
            assert_ok(err);
            assert_null(f);
            assert_int_equal(result.err, MH_OK);
            assert_int_equal(result.reply.size, size);
            assert_memory_equal(result.reply.data, bytes, size);
            assert_int_equal(result.owner != NULL, size > sizeof room);
            mh_result_release(&result);
        }
        mh_pool_stats stats;
        mh_pool_stats_read(pool, &stats);
        assert_int_equal(stats.request_bytes + stats.reply_bytes, 0);
        static const char large[16385];
        mh_future *f = NULL;
        assert_err(mh_pool_submit_now(pool, (mh_bytes){large, sizeof large}, NULL, &f), MH_ERR_TIMEOUT);
        end_pool(&pool);
    }
}

/* What is not done yet, or was taken, is not collected. */
static void test_collect_too_early_or_late(void **state)
{
    (void)state;
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 1);
    mh_future *f = submit(pool, (job){.what = 'w', .value = gate[0]}, NULL);
    mh_result first, second;
    char room[128];
    assert_err(mh_future_collect(&f, room, sizeof room, &first), MH_ERR_TIMEOUT);
    assert_int_equal(write(gate[1], "x", 1), 1);
    first = result_of(f);
    mh_err err;
    while ((err = mh_future_collect(&f, room, sizeof room, &second)) == MH_ERR_TIMEOUT)
        ;
    assert_int_equal(err, MH_ERR_INVALID);
    assert_non_null(f);
    mh_result_release(&first);
    mh_future_release(&f);
    end_pool(&pool);
    close(gate[0]);
    close(gate[1]);
}

static void test_is_done_needs_no_waiter(void **state)
{
    (void)state;
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 1);
    mh_future *f = submit(pool, (job){.what = 'q', .value = 2}, NULL);
    mh_deadline until = PATIENCE;
    while (!mh_future_is_done(f))
        assert_true(mh_now() < until);
    mh_future_release(&f);
    /* nobody wants this result: it must not stay in the books */
    job j = {.what = 'q'};
    assert_ok(mh_pool_submit(pool, bytes_of(&j), NULL, NULL));
    end_pool(&pool);
}

static void test_cancel(void **state)
{
    (void)state;
    enum { QUEUED = 600 }; /* more than the slots of a worker */
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 1);
        mh_future *runs = submit(pool, (job){.what = 'w', .value = gate[0]}, NULL), *f[QUEUED];
        for (int i = 0; i < QUEUED; i++)
            f[i] = submit(pool, (job){.what = 'q', .value = i}, NULL);
        for (int i = 0; i < QUEUED; i += 2)
            assert_true(mh_future_cancel(f[i]));
        assert_true(mh_future_cancel(f[0]));
        for (int i = 0; i < 3; i++) /* more after the cancelled ones: their slots do not get in the way */
            check_square(pool, 0 * write(gate[1], "x", i == 0));
        for (int i = 0; i < QUEUED; i++) {
            mh_result result = result_of(f[i]);
            assert_int_equal(result.err, i % 2 ? MH_OK : MH_ERR_CANCELLED);
            if (i % 2)
                assert_int_equal(number_in(result.reply), (int64_t)i * i);
            mh_result_release(&result);
            mh_future_release(&f[i]);
        }
        assert_ok(mh_future_wait(runs, PATIENCE));
        assert_false(mh_future_cancel(runs));
        mh_future_release(&runs);
        end_pool(&pool);
    }
    close(gate[0]);
    close(gate[1]);
}

static void test_cancel_all(void **state)
{
    (void)state;
    enum { QUEUED = 600 }; /* more than the slots of a worker */
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 1);
        mh_future *runs = submit(pool, (job){.what = 'w', .value = gate[0]}, NULL), *f[QUEUED];
        mh_deadline until = PATIENCE;
        while (!mh_future_is_running(runs) && mh_now() < until)
            sched_yield();
        assert_true(mh_future_is_running(runs));
        for (int i = 0; i < QUEUED; i++)
            f[i] = submit(pool, (job){.what = 'q', .value = i}, NULL);
        assert_false(mh_future_is_running(f[0]) || mh_future_is_running(f[QUEUED - 1]));
        mh_pool_cancel(pool);
        for (int i = 0; i < QUEUED; i++) {
            mh_result result = result_of(f[i]);
            assert_int_equal(result.err, MH_ERR_CANCELLED);
            mh_result_release(&result);
            mh_future_release(&f[i]);
        }
        assert_true(mh_future_is_running(runs));
        assert_int_equal(write(gate[1], "x", 1), 1);
        assert_ok(mh_future_wait(runs, PATIENCE));
        assert_false(mh_future_is_running(runs));
        mh_result result = result_of(runs);
        assert_int_equal(result.err, MH_OK);
        mh_result_release(&result);
        mh_future_release(&runs);
        check_square(pool, 7);
        end_pool(&pool);
    }
    close(gate[0]);
    close(gate[1]);
}

static atomic_int called;
static void count_call(mh_future *f, void *ctx)
{
    assert_true(mh_future_is_done(f));
    mh_result result;
    if (ctx && !mh_future_result(f, MH_NOW, &result)) /* a callback may use the pool */
        mh_result_release(&result);
    atomic_fetch_add(&called, 1);
}

static void test_callbacks(void **state)
{
    (void)state;
    enum { TASKS = 500 };
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 2);
        mh_future *f[TASKS];
        atomic_store(&called, 0);
        for (int i = 0; i < TASKS; i++) {
            f[i] = submit(pool, (job){.what = 'q', .value = i}, NULL);
            assert_ok(mh_future_on_done(f[i], count_call, pool));
            assert_ok(mh_future_on_done(f[i], count_call, NULL));
            if (i % 3 == 0)
                mh_future_release(&f[i]); /* the callback comes all the same */
        }
        mh_deadline until = PATIENCE; /* nobody waits or asks: the housekeeper must do it alone */
        while (atomic_load(&called) < 2 * TASKS && mh_now() < until)
            sched_yield();
        assert_int_equal(atomic_load(&called), 2 * TASKS);
        assert_ok(mh_future_on_done(f[1], count_call, NULL)); /* done already: called at once */
        assert_int_equal(atomic_load(&called), 2 * TASKS + 1);
        for (int i = 0; i < TASKS; i++)
            mh_future_release(&f[i]);
        end_pool(&pool);
    }
}

typedef struct caller {
    mh_pool *pool;
    int base;
    atomic_int *wrong;
} caller;

static void *call_a_lot(void *arg)
{
    caller *c = arg;
    for (int i = 0; i < 300; i++) {
        job j = {.what = 'q', .value = c->base + i};
        mh_future *f = NULL;
        mh_result result = {0};
        mh_err err = mh_pool_submit(c->pool, bytes_of(&j), NULL, &f);
        if (!err)
            err = mh_future_result(f, PATIENCE, &result);
        int64_t got = 0;
        if (!err && result.reply.size == sizeof got)
            memcpy(&got, result.reply.data, sizeof got);
        if (got != j.value * j.value)
            atomic_fetch_add(c->wrong, 1);
        mh_result_release(&result);
        mh_future_release(&f);
    }
    return NULL;
}

/* Several threads wait at once: one leads, and the lead goes round. */
static void test_many_callers(void **state)
{
    (void)state;
    enum { CALLERS = 4 };
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 2);
        pthread_t threads[CALLERS];
        caller callers[CALLERS];
        atomic_int wrong = 0;
        for (int i = 0; i < CALLERS; i++) {
            callers[i] = (caller){pool, i * 1000, &wrong};
            assert_int_equal(pthread_create(&threads[i], NULL, call_a_lot, &callers[i]), 0);
        }
        for (int i = 0; i < CALLERS; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(atomic_load(&wrong), 0);
        end_pool(&pool);
    }
}

static void ignore_signal(int number) { (void)number; }

/* A signal handler that runs while a caller waits ends the wait. */
static void test_interrupted(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = ignore_signal};
    sigaction(SIGALRM, &action, NULL);
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 1);
    mh_future *f = submit(pool, (job){.what = 'w', .value = gate[0]}, NULL);
    ualarm(20000, 20000);
    assert_err(mh_future_wait(f, PATIENCE), MH_ERR_INTERRUPTED);
    ualarm(0, 0);
    assert_int_equal(write(gate[1], "x", 1), 1);
    assert_ok(mh_future_wait(f, PATIENCE));
    mh_future_release(&f);
    end_pool(&pool);
    close(gate[0]);
    close(gate[1]);
}

/* ---- streams --------------------------------------------------------------------------------------- */

static void run_stream(mh_pool *pool, bool ordered, size_t window, int count)
{
    mh_stream *s = NULL;
    assert_ok(mh_stream_create(&s, pool, &(mh_stream_options){.ordered = ordered, .window = window}));
    char *seen = calloc((size_t)count, 1);
    mh_result result;
    assert_err(mh_stream_take(s, PATIENCE, &result), MH_ERR_EMPTY);
    for (int sent = 0, taken = 0; taken < count;) {
        while (sent < count && mh_stream_room(s)) {
            job j = {.what = 'q', .value = sent};
            assert_ok(mh_stream_submit(s, bytes_of(&j), (uint64_t)sent));
            sent++;
        }
        if (sent < count) {
            job j = {0};
            assert_err(mh_stream_submit(s, bytes_of(&j), 0), MH_ERR_FULL);
            assert_true((size_t)(sent - taken) == window || !window);
        }
        assert_ok(mh_stream_take(s, PATIENCE, &result));
        assert_int_equal(result.err, MH_OK);
        assert_in_range(result.tag, 0, count - 1);
        assert_int_equal(seen[result.tag]++, 0);
        if (ordered)
            assert_int_equal(result.tag, taken);
        assert_int_equal(number_in(result.reply), (int64_t)(result.tag * result.tag));
        mh_result_release(&result);
        taken++;
    }
    assert_err(mh_stream_take(s, PATIENCE, &result), MH_ERR_EMPTY);
    free(seen);
    mh_stream_destroy(&s);
    mh_stream_destroy(&s);
}

static void test_streams(void **state)
{
    (void)state;
    static const size_t windows[] = {1, 3, 64, 0, 5000};
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 2);
        for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
            run_stream(pool, true, windows[i], rounds(2000));
            run_stream(pool, false, windows[i], rounds(2000));
        }
        end_pool(&pool);
    }
}

static void test_stream_many(void **state)
{
    (void)state;
    enum { COUNT = 20000, AT_ONCE = 700 };
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 2);
        mh_stream *s = NULL;
        assert_ok(mh_stream_create(&s, pool, &(mh_stream_options){.window = 1000}));
        static job jobs[AT_ONCE];
        static char seen[COUNT];
        mh_result results[64];
        memset(seen, 0, sizeof seen);
        for (size_t sent = 0, taken = 0, got; taken < COUNT;) {
            size_t most = COUNT - sent < AT_ONCE ? COUNT - sent : AT_ONCE, accepted = 0;
            for (size_t i = 0; i < most; i++)
                jobs[i] = (job){.what = 'q', .value = (int64_t)(sent + i)};
            mh_err err = mh_stream_submit_many(s, jobs, sizeof *jobs, most, sent, &accepted);
            assert_true(err == MH_OK || err == MH_ERR_FULL);
            sent += accepted;
            assert_ok(mh_stream_take_many(s, PATIENCE, results, 64, &got));
            for (size_t i = 0; i < got; i++) {
                assert_int_equal(number_in(results[i].reply), (int64_t)(results[i].tag * results[i].tag));
                assert_int_equal(seen[results[i].tag]++, 0);
            }
            mh_results_release(results, got);
            taken += got;
        }
        mh_block *block = NULL;
        assert_ok(mh_block_create(&block, pool, sizeof(job)));
        memcpy(mh_block_data(block), &(job){.what = 'q', .value = 12}, sizeof(job));
        assert_ok(mh_stream_submit_block(s, &block, sizeof(job), 3));
        assert_ok(mh_stream_take(s, PATIENCE, results));
        assert_int_equal(number_in(results[0].reply), 144);
        mh_result_release(&results[0]);
        mh_stream_destroy(&s);
        end_pool(&pool);
    }
}

static void test_stream_cancel_and_destroy(void **state)
{
    (void)state;
    enum { COUNT = 50 };
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    FOR_BOTH(kind)
        for (int ordered = 0; ordered < 2; ordered++) {
            mh_pool *pool = make_pool(kind, 1);
            mh_stream *s = NULL, *dropped = NULL;
            assert_ok(mh_stream_create(&s, pool, &(mh_stream_options){.ordered = ordered}));
            assert_ok(mh_stream_create(&dropped, pool, &(mh_stream_options){.ordered = ordered}));
            job wait = {.what = 'w', .value = gate[0]};
            for (uint64_t i = 0; i < COUNT; i++) {
                assert_ok(mh_stream_submit(s, bytes_of(&wait), i));
                assert_ok(mh_stream_submit(dropped, bytes_of(&wait), i));
            }
            mh_stream_cancel(s);
            mh_stream_destroy(&dropped);
            assert_int_equal(write(gate[1], "xx", 2), 2); /* at most two had started */
            int cancelled = 0;
            mh_result result;
            for (int i = 0; i < COUNT; i++) {
                assert_ok(mh_stream_take(s, PATIENCE, &result));
                assert_true(result.err == MH_OK || result.err == MH_ERR_CANCELLED);
                cancelled += result.err == MH_ERR_CANCELLED;
                mh_result_release(&result);
            }
            assert_true(cancelled >= COUNT - 1);
            assert_err(mh_stream_take(s, MH_NOW, &result), MH_ERR_EMPTY);
            end_pool(&pool);
            mh_stream_destroy(&s); /* a stream may outlive its pool */
            char rest[2];
            if (!cancelled || cancelled == COUNT) /* nobody read them */
                assert_true(read(gate[0], rest, cancelled == COUNT ? 2 : 1) >= 0);
            else
                assert_true(read(gate[0], rest, 1) >= 0);
        }
    close(gate[0]);
    close(gate[1]);
}

static void count_notice(void *ctx)
{
    atomic_fetch_add((atomic_int *)ctx, 1);
}

static void test_stream_on_result(void **state)
{
    (void)state;
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    FOR_BOTH(kind)
        for (int ordered = 0; ordered < 2; ordered++) {
            atomic_int told = 0;
            mh_pool *pool = make_pool(kind, 1);
            mh_stream *s = NULL;
            assert_ok(mh_stream_create(&s, pool, &(mh_stream_options){.ordered = ordered}));
            assert_ok(mh_stream_on_result(s, count_notice, &told)); /* nothing is outstanding: at once */
            assert_int_equal(atomic_load(&told), 1);
            job wait = {.what = 'w', .value = gate[0]};
            for (uint64_t i = 0; i < 2; i++)
                assert_ok(mh_stream_submit(s, bytes_of(&wait), i));
            assert_ok(mh_stream_on_result(s, count_notice, &told));
            assert_err(mh_stream_on_result(s, count_notice, &told), MH_ERR_INVALID);
            assert_int_equal(atomic_load(&told), 1);
            assert_int_equal(write(gate[1], "x", 1), 1);
            mh_deadline until = PATIENCE; /* nobody waits: the housekeeper must do it alone */
            while (atomic_load(&told) < 2 && mh_now() < until)
                sched_yield();
            assert_int_equal(atomic_load(&told), 2);
            mh_result result;
            assert_ok(mh_stream_take(s, MH_NOW, &result));
            mh_result_release(&result);
            assert_ok(mh_stream_on_result(s, count_notice, &told));
            assert_int_equal(atomic_load(&told), 2);
            mh_stream_destroy(&s); /* given at the latest now */
            assert_int_equal(atomic_load(&told), 3);
            assert_int_equal(write(gate[1], "x", 1), 1);
            end_pool(&pool);
        }
    close(gate[0]);
    close(gate[1]);
}

/* ---- life ------------------------------------------------------------------------------------------ */

static void test_close_drains(void **state)
{
    (void)state;
    enum { TASKS = 2000 };
    FOR_BOTH(kind)
    {
        mh_pool *pool = make_pool(kind, 2);
        static mh_future *f[TASKS];
        for (int i = 0; i < TASKS; i++)
            f[i] = submit(pool, (job){.what = 'q', .value = i}, NULL);
        assert_err(mh_pool_join(pool, MH_NOW), MH_ERR_INVALID);
        mh_pool_close(pool);
        job j = {.what = 'q'};
        mh_future *late = NULL;
        assert_err(mh_pool_submit(pool, bytes_of(&j), NULL, &late), MH_ERR_CLOSED);
        assert_ok(mh_pool_join(pool, PATIENCE));
        for (int i = 0; i < TASKS; i++) {
            assert_true(mh_future_is_done(f[i]));
            mh_result result = result_of(f[i]);
            assert_int_equal(number_in(result.reply), (int64_t)i * i);
            mh_result_release(&result);
            mh_future_release(&f[i]);
        }
        size_t count = 0;
        mh_pool_pids(pool, NULL, &count);
        assert_int_equal(count, 0);
        mh_pool_destroy(&pool);
        mh_pool_destroy(&pool);
    }
}

static size_t count_workers(mh_pool *pool)
{
    size_t count = 0;
    mh_pool_pids(pool, NULL, &count);
    return count;
}

/* One worker while one does; another for each task that has to wait; never more than there may be; one that dies is replaced. */
static void test_on_demand(void **state)
{
    (void)state;
    enum { WORKERS = 3, TASKS = 5 };
    mh_pool *pool = NULL;
    mh_future *f[TASKS];
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = do_job, .workers = WORKERS, .on_demand = true}));
    for (int i = 0; i < 3; i++) {
        check_square(pool, i);
        assert_int_equal(count_workers(pool), 1);
    }
    for (size_t i = 0; i < TASKS; i++) {
        f[i] = submit(pool, (job){.what = 'w', .value = pipes[0]}, NULL);
        assert_int_equal(count_workers(pool), i < WORKERS ? i + 1 : WORKERS);
    }
    assert_int_equal(write(pipes[1], "12345", TASKS), TASKS);
    for (size_t i = 0; i < TASKS; i++) {
        mh_result result = result_of(f[i]);
        assert_ok(result.err);
        mh_result_release(&result);
        mh_future_release(&f[i]);
    }
    mh_future *killed = submit(pool, (job){.what = 'k', .until = 1}, NULL);
    mh_result result = result_of(killed);
    assert_err(result.err, MH_ERR_WORKER_LOST);
    mh_result_release(&result);
    mh_future_release(&killed);
    check_square(pool, 7);
    end_pool(&pool);
    close(pipes[0]);
    close(pipes[1]);
}

/* By fork, whatever threads a sanitizer has. */
static mh_pool *make_forking_pool(size_t workers)
{
    mh_pool *pool = NULL;
    assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = do_job, .workers = workers, .start = MH_START_FORK}));
    return pool;
}

/* Those beyond the first are there for whoever needs them, counts them, or waits a while. */
static void test_first_and_others(void **state)
{
    (void)state;
    enum { WORKERS = 3 };
    mh_pool *pool = make_forking_pool(WORKERS);
    mh_pool_stats stats;
    do
        mh_pool_stats_read(pool, &stats);
    while (stats.workers < WORKERS && !sched_yield());
    while (count_workers(pool) < WORKERS) /* it waits a second for each */
        sched_yield();
    end_pool(&pool);

    pool = make_forking_pool(WORKERS);
    while (count_workers(pool) < WORKERS) /* it waits a second for each */
        sched_yield();
    end_pool(&pool);

    mh_future *f[WORKERS];
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pool = make_forking_pool(WORKERS);
    for (int i = 0; i < WORKERS; i++)
        f[i] = submit(pool, (job){.what = 'w', .value = pipes[0]}, NULL); /* each keeps a worker */
    for (int i = 0; i < WORKERS; i++)
        while (!mh_future_is_running(f[i]))
            sched_yield();
    assert_int_equal(write(pipes[1], "123", WORKERS), WORKERS);
    for (int i = 0; i < WORKERS; i++) {
        mh_result result = result_of(f[i]);
        assert_ok(result.err);
        mh_result_release(&result);
        mh_future_release(&f[i]);
    }
    end_pool(&pool);
    close(pipes[0]);
    close(pipes[1]);
}

static bool is_pools(const char *text)
{
    return strstr(text, "memfd:manyhands board") || strstr(text, "memfd:manyhands requests") || strstr(text, "memfd:manyhands worker");
}

/* Whether a line of /proc/PID/NAME is one of those. */
static bool has_line(long pid, const char *name, bool (*is_one)(const char *line))
{
    char path[64], *line = NULL;
    size_t size = 0;
    bool found = false;
    snprintf(path, sizeof path, "/proc/%ld/%s", pid, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (!found && getline(&line, &size, file) > 0)
        found = is_one(line);
    fclose(file);
    free(line);
    return found;
}

static bool maps_pool(long pid) { return has_line(pid, "maps", is_pools); }

static bool has_open(long pid, int fd)
{
    char path[64], link[256];
    snprintf(path, sizeof path, "/proc/%ld/fd/%d", pid, fd);
    ssize_t length = readlink(path, link, sizeof link - 1);
    link[length > 0 ? length : 0] = 0;
    return is_pools(link);
}

/* The fork server, forked when the pool's memory was there, has dropped it: what it forks must find nothing of other workers. */
static void test_the_server_holds_nothing(void **state)
{
    (void)state;
    char path[64], *text = NULL;
    size_t size = 0, count = 2, servers = 0;
    int32_t pids[2];
    mh_pool *pool = make_forking_pool(2);
    check_square(pool, 5);
    mh_pool_pids(pool, pids, &count);
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_true(getline(&text, &size, file) > 0);
    fclose(file);
    char *at = text;
    for (long pid; (pid = strtol(at, &at, 10)) > 0;) {
        bool is_worker = false;
        for (size_t i = 0; i < count; i++)
            is_worker = is_worker || pids[i] == pid;
        if (is_worker)
            continue;
        servers++;
        assert_false(maps_pool(pid));
        mh_deadline until = mh_deadline_in(10 * MH_SECOND); /* it tells of a worker's start before it has closed what it forwarded */
        for (int fd = 0; fd < 64; fd++)
            while (has_open(pid, fd) && mh_now() < until)
                sched_yield();
        for (int fd = 0; fd < 64; fd++)
            assert_false(has_open(pid, fd));
    }
    assert_int_equal(servers, 1);
    free(text);
    end_pool(&pool);
}

/* Another child of `parent` than the first `count` of pids; 0: none. */
static int32_t other_child(int32_t parent, const int32_t *pids, size_t count)
{
    char path[64], *text = NULL;
    size_t size = 0;
    int32_t found = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", parent, parent);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    ssize_t length = getline(&text, &size, file);
    fclose(file);
    char *at = text;
    for (long pid; length > 0 && !found && (pid = strtol(at, &at, 10)) > 0;) {
        found = (int32_t)pid;
        for (size_t i = 0; i < count; i++)
            found = pids[i] == found ? 0 : found;
    }
    free(text);
    return found;
}

static bool blocks_nothing(const char *line) { return strncmp(line, "SigBlk:", 7) == 0 && strtoull(line + 7, NULL, 16) == 0; }

/* Whether a forked process has been set up: until then signals are blocked. */
static bool is_set_up(int32_t pid) { return has_line(pid, "status", blocks_nothing); }

static void *linger(void *fd)
{
    char c;
    return read(*(int *)fd, &c, 1) == 1 ? fd : NULL;
}

/* Tasks are run, by two workers in the end. */
static void check_both(mh_pool *pool)
{
    mh_future *f[2];
    for (int i = 0; i < 2; i++)
        f[i] = submit(pool, (job){.what = 'q', .value = 3}, &(mh_submit_options){.lost_retries = 9});
    for (int i = 0; i < 2; i++) {
        mh_result result = result_of(f[i]);
        assert_ok(result.err);
        mh_result_release(&result);
        mh_future_release(&f[i]);
    }
    size_t count;
    do {
        count = 0;
        mh_pool_pids(pool, NULL, &count);
    } while (count < 2 && !sched_yield());
}

/* By its standby: this process, which has a thread by then, is forked only when that is gone as well. */
static void test_a_killed_server_is_replaced(void **state)
{
    (void)state;
    pthread_t thread;
    int gate[2];
    size_t count = 2;
    int32_t pids[2], server, standby = 0;
    assert_int_equal(pipe(gate), 0);
    mh_pool *pool = make_forking_pool(2);
    check_both(pool);
    mh_pool_pids(pool, pids, &count);
    server = other_child(getpid(), pids, count);
    while (!(standby = other_child(server, pids, count)) || !is_set_up(standby))
        sched_yield();
    assert_int_equal(pthread_create(&thread, NULL, linger, &gate[0]), 0);
    uint64_t forks = mh_fork_count();
    assert_int_equal(kill(server, SIGKILL), 0);
    while (mh_pool_pids(pool, pids, &count), count < 2 || !other_child(standby, NULL, 0))
        sched_yield(); /* the standby has forked a worker */
    check_both(pool);
    assert_int_equal(mh_fork_count(), forks);
    assert_int_equal(kill(standby, SIGKILL), 0);
    while (mh_fork_count() == forks) /* rather that than workers that never come */
        check_both(pool);
    check_both(pool);
    mh_pool_destroy(&pool);
    assert_int_equal(write(gate[1], "x", 1), 1);
    pthread_join(thread, NULL);
    close(gate[0]);
    close(gate[1]);
    while (waitpid(-1, NULL, 0) > 0) /* should orphans come to us */
        ;
}

static void test_terminate(void **state)
{
    (void)state;
    enum { TASKS = 1000 };
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 2);
    static mh_future *f[TASKS];
    for (int i = 0; i < TASKS; i++)
        f[i] = submit(pool, (job){.what = 'h', .until = 9}, NULL);
    mh_pool_terminate(pool);
    assert_ok(mh_pool_join(pool, PATIENCE));
    for (int i = 0; i < TASKS; i++) {
        mh_result result = result_of(f[i]);
        assert_int_equal(result.err, MH_ERR_CANCELLED);
        mh_result_release(&result);
        mh_future_release(&f[i]);
    }
    mh_pool_destroy(&pool);
}

static mh_err note_start(void *ctx)
{
    return write(*(int *)ctx, "i", 1) == 1 ? MH_OK : MH_ERR_TASK_FAILED;
}
static void note_end(void *ctx)
{
    ssize_t rc = write(*(int *)ctx, "f", 1);
    (void)rc;
}

static void test_initialize_and_finalize(void **state)
{
    (void)state;
    FOR_BOTH(kind)
    {
        int tell[2];
        assert_int_equal(pipe(tell), 0);
        mh_pool *pool = NULL;
        mh_pool_options o = {
            .worker = {.run = do_job, .initialize = note_start, .finalize = note_end, .ctx = &tell[1]},
            .workers = 3,
            .kind = kind};
        assert_ok(mh_pool_create(&pool, &o));
        check_square(pool, 3);
        end_pool(&pool);
        char notes[16];
        assert_int_equal(read(tell[0], notes, sizeof notes), 6);
        int starts = 0;
        for (int i = 0; i < 6; i++)
            starts += notes[i] == 'i';
        assert_int_equal(starts, 3);
        close(tell[0]);
        close(tell[1]);
    }
}

static mh_err refuse_to_start(void *ctx)
{
    (void)ctx;
    return MH_ERR_TASK_FAILED;
}

static void test_must_initialize(void **state)
{
    (void)state;
    FOR_BOTH(kind)
    {
        mh_pool *pool = NULL;
        mh_pool_options o = {.worker = {.run = do_job, .initialize = refuse_to_start}, .workers = 2, .kind = kind, .must_initialize = true};
        assert_ok(mh_pool_create(&pool, &o));
        mh_deadline until = PATIENCE;
        while (!mh_pool_is_broken(pool) && mh_now() < until)
            sched_yield();
        assert_true(mh_pool_is_broken(pool));
        job j = {.what = 'q'};
        assert_err(mh_pool_submit(pool, bytes_of(&j), NULL, NULL), MH_ERR_CLOSED);
        assert_true(strstr(mh_err_detail(), "could not be initialized") != NULL);
        end_pool(&pool);
    }
}

static atomic_int waits_begun, waits_ended;
static void begin_wait(void *ctx)
{
    (void)ctx;
    atomic_fetch_add(&waits_begun, 1);
}
static void end_wait(void *ctx)
{
    (void)ctx;
    atomic_fetch_add(&waits_ended, 1);
}

static void test_wait_hooks(void **state)
{
    (void)state;
    mh_pool *pool = NULL;
    mh_pool_options o = {.worker = {.run = do_job, .before_wait = begin_wait, .after_wait = end_wait},
                         .workers = 1,
                         .kind = MH_WORKER_THREAD,
                         .spin_ns = -1};
    assert_ok(mh_pool_create(&pool, &o));
    check_square(pool, 3);
    mh_deadline until = PATIENCE;
    while (!atomic_load(&waits_begun) && mh_now() < until)
        sched_yield();
    end_pool(&pool);
    assert_true(atomic_load(&waits_begun) > 0);
    assert_int_equal(atomic_load(&waits_begun), atomic_load(&waits_ended));
}

static void test_own_programs(void **state)
{
    (void)state;
    const char *spawned[] = {program, "worker", "{socket}", NULL};
    const char *server[] = {program, "server", "{socket}", NULL};
    enum { NUMBER = 77 };
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    mh_pass_fd pass = {gate[0], NUMBER};
    for (int i = 0; i < 2; i++) {
        mh_pool *pool = NULL;
        mh_pool_options o = {.worker_argv = i ? server : spawned,
                             .start = i ? MH_START_FORKSERVER : MH_START_SPAWN,
                             .worker_fds = &pass,
                             .worker_fd_count = 1,
                             .workers = 2};
        assert_ok(mh_pool_create(&pool, &o));
        for (int n = 0; n < 100; n++)
            check_square(pool, n);
        mh_future *f = submit(pool, (job){.what = 'k', .until = 1, .value = 5}, &(mh_submit_options){.lost_retries = 1});
        mh_result result = result_of(f);
        assert_int_equal(result.err, MH_OK);
        mh_result_release(&result);
        mh_future_release(&f);
        f = submit(pool, (job){.what = 'w', .value = NUMBER}, NULL);
        assert_int_equal(write(gate[1], "x", 1), 1);
        result = result_of(f);
        assert_int_equal(result.err, MH_OK);
        mh_result_release(&result);
        mh_future_release(&f);
        assert_err(mh_pool_map(pool, NULL, NULL, 0, NULL, 0, 0, NULL), MH_ERR_INVALID);
        end_pool(&pool);
    }
    mh_pool *pool = NULL;
    mh_pass_fd taken = {gate[0], 3};
    assert_err(mh_pool_create(&pool, &(mh_pool_options){.worker_argv = server, .start = MH_START_FORKSERVER, .workers = 1, .worker_fds = &taken,
                                                        .worker_fd_count = 1}), MH_ERR_INVALID);
    close(gate[0]);
    close(gate[1]);
    const char *missing[] = {"/nonexistent/program", NULL};
    assert_err(mh_pool_create(&pool, &(mh_pool_options){.worker_argv = missing, .start = MH_START_SPAWN, .workers = 1}),
               MH_ERR_NOT_FOUND);
    assert_null(pool);
}

static void test_pinned(void **state)
{
    (void)state;
    FOR_BOTH(kind)
    {
        mh_pool *pool = NULL;
        mh_err err = mh_pool_create(&pool, &(mh_pool_options){.run = do_job, .workers = 2, .kind = kind, .pin = true});
        if (err == MH_ERR_UNSUPPORTED)
            MH_SKIP("hwloc shows no cores here");
        assert_ok(err);
        check_square(pool, 3);
        end_pool(&pool);
    }
}

/* In a forked child nothing works, and nothing hangs. */
static void test_forked(void **state)
{
    (void)state;
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 1);
    mh_future *f = submit(pool, (job){.what = 'q', .value = 3}, NULL);
    mh_stream *s = NULL;
    mh_block *block = NULL;
    assert_ok(mh_stream_create(&s, pool, NULL));
    assert_ok(mh_block_create(&block, pool, 10));
    assert_ok(mh_future_wait(f, PATIENCE));
    pid_t child = fork();
    if (child == 0) {
        job j = {.what = 'q'};
        mh_future *other = NULL;
        mh_result result;
        mh_result results[1];
        mh_stream *t = NULL;
        mh_block *b = NULL;
        mh_buf *buf = NULL;
        mh_pool_stats stats;
        size_t count = 0;
        uint32_t id;
        int bad = 0;
        bad += mh_pool_submit(pool, bytes_of(&j), NULL, &other) != MH_ERR_FORKED;
        bad += mh_pool_submit_block(pool, &block, 1, NULL, &other) != MH_ERR_FORKED;
        bad += mh_future_wait(f, MH_NOW) != MH_ERR_FORKED;
        bad += mh_future_result(f, MH_NOW, &result) != MH_ERR_FORKED;
        bad += mh_future_take(f, MH_NOW, &buf) != MH_ERR_FORKED;
        bad += mh_future_on_done(f, count_call, NULL) != MH_ERR_FORKED;
        bad += mh_future_cancel(f);
        bad += mh_stream_create(&t, pool, NULL) != MH_ERR_FORKED;
        bad += mh_stream_submit(s, bytes_of(&j), 0) != MH_ERR_FORKED;
        bad += mh_stream_take(s, MH_NOW, &result) != MH_ERR_FORKED;
        bad += mh_stream_take_many(s, MH_NOW, results, 1, &count) != MH_ERR_FORKED;
        bad += mh_stream_room(s) != 0;
        bad += mh_block_create(&b, pool, 1) != MH_ERR_FORKED;
        bad += mh_pool_share(pool, bytes_of(&j), &id) != MH_ERR_FORKED;
        bad += mh_pool_join(pool, MH_NOW) != MH_ERR_FORKED;
        mh_pool_close(pool);
        mh_pool_terminate(pool);
        mh_pool_stats_read(pool, &stats);
        mh_stream_cancel(s);
        mh_stream_destroy(&s);
        mh_block_destroy(&block);
        mh_future_release(&f);
        mh_pool_destroy(&pool);
        _exit(bad);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    check_square(pool, 4); /* the parent's is as it was */
    mh_stream_destroy(&s);
    mh_block_destroy(&block);
    mh_future_release(&f);
    end_pool(&pool);
}

/* A pool may be made and used by many threads' process, again and again, and leaves nothing behind. */
static void test_leaves_nothing(void **state)
{
    (void)state;
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 2);
    check_square(pool, 1);
    mh_pool_destroy(&pool);
    int before = mh__os_fd_count();
    for (int i = 0; i < rounds(10); i++) {
        pool = make_pool(i % 3 ? MH_WORKER_PROCESS : MH_WORKER_THREAD, 2);
        check_square(pool, i);
        mh_pool_destroy(&pool);
    }
    assert_int_equal(mh__os_fd_count(), before);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no zombie */
}

/* ---- as a program that a pool starts ------------------------------------------------------------- */

static int be_worker(char **argv)
{
    mh_worker_options o = {.run = do_job};
    mh_err err = strcmp(argv[1], "server") == 0
                     ? mh_forkserver_serve(atoi(argv[2]), &(mh_forkserver_child){.entry = mh_worker_child, .ctx = &o})
                     : mh_worker_run(atoi(argv[2]), &o);
    return err ? 1 : 0;
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return be_worker(argv);
    static char self[4096];
    ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
    program = size > 0 ? self : argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_submit),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_no_options),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_task_api),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_future),
        cmocka_unit_test(test_now),
        cmocka_unit_test(test_collect_too_early_or_late),
        cmocka_unit_test(test_is_done_needs_no_waiter),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_cancel_all),
        cmocka_unit_test(test_callbacks),
        cmocka_unit_test(test_many_callers),
        cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_stream_many),
        cmocka_unit_test(test_stream_cancel_and_destroy),
        cmocka_unit_test(test_stream_on_result),
        cmocka_unit_test(test_close_drains),
        cmocka_unit_test(test_on_demand),
        cmocka_unit_test(test_first_and_others),
        cmocka_unit_test(test_the_server_holds_nothing),
        cmocka_unit_test(test_a_killed_server_is_replaced),
        cmocka_unit_test(test_terminate),
        cmocka_unit_test(test_initialize_and_finalize),
        cmocka_unit_test(test_must_initialize),
        cmocka_unit_test(test_wait_hooks),
        cmocka_unit_test(test_own_programs),
        cmocka_unit_test(test_pinned),
        cmocka_unit_test(test_forked),
        cmocka_unit_test(test_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
