/* What becomes of tasks, and of the pool, when workers die, are late or are recycled. */
#include "os/fd.h"
#include "pool/pool.h"
#include "pool/pool_test.h"

/* Each row: one task that misbehaves in its first `until` attempts, and what its result must be. */
static const struct row {
    const char *name;
    char what;
    uint32_t until, lost_retries, failed_retries;
    int64_t timeout_ns, value;
    mh_err err;
    uint32_t attempts;
    int signal, exit_code;
} table[] = {
    {"killed, no retry", 'k', 99, 0, 0, 0, 3, MH_ERR_WORKER_LOST, 1, SIGKILL, 0},
    {"killed once, one retry", 'k', 1, 1, 0, 0, 3, MH_OK, 2, 0, 0},
    {"killed twice, five retries", 'k', 2, 5, 0, 0, 3, MH_OK, 3, 0, 0},
    {"kills every worker", 'k', 99, 3, 0, 0, 3, MH_ERR_POISON_TASK, 4, SIGKILL, 0},
    {"aborts", 'a', 99, 0, 0, 0, 3, MH_ERR_WORKER_LOST, 1, SIGABRT, 0},
    {"exits with 0", 'e', 99, 0, 0, 0, 0, MH_ERR_WORKER_LOST, 1, 0, 0},
    {"exits with 7", 'e', 99, 0, 0, 0, 7, MH_ERR_WORKER_LOST, 1, 0, 7},
    {"exits once, one retry", 'e', 1, 1, 0, 0, 7, MH_OK, 2, 0, 0},
    {"fails, no retry", 'f', 99, 5, 0, 0, 3, MH_ERR_TASK_FAILED, 1, 0, 0},
    {"fails twice, two retries", 'f', 2, 0, 2, 0, 3, MH_OK, 3, 0, 0},
    {"fails three times, two retries", 'f', 99, 0, 2, 0, 3, MH_ERR_TASK_FAILED, 3, 0, 0},
    {"killed, but only failures are retried", 'k', 99, 0, 4, 0, 3, MH_ERR_WORKER_LOST, 1, SIGKILL, 0},
    {"hangs past its deadline", 'h', 99, 0, 0, 30 * MH_MILLISECOND, 3, MH_ERR_TIMEOUT, 1, SIGKILL, 0},
    {"stopped past its deadline", 's', 99, 0, 0, 30 * MH_MILLISECOND, 3, MH_ERR_TIMEOUT, 1, SIGKILL, 0},
    {"in time", 'q', 0, 0, 0, 20 * MH_SECOND, 3, MH_OK, 1, 0, 0},
};

static void check_row(mh_pool *pool, const struct row *r)
{
    mh_submit_options o = {
        .tag = 77, .lost_retries = r->lost_retries, .failed_retries = r->failed_retries, .timeout_ns = r->timeout_ns};
    mh_future *f = submit(pool, (job){.what = r->what, .until = r->until, .value = r->value}, &o);
    mh_result result = result_of(f);
    if (result.err != r->err || result.attempts != r->attempts || result.signal != r->signal ||
        result.exit_code != r->exit_code || result.tag != 77)
        fail_msg("%s: %s after %u attempts, signal %d, exit code %d", r->name, mh_err_name(result.err), result.attempts,
                 result.signal, result.exit_code);
    if (!r->err)
        assert_int_equal(number_in(result.reply), r->value * r->value);
    if (r->err == MH_ERR_TASK_FAILED)
        assert_memory_equal(result.reply.data, "it failed", 9);
    mh_result_release(&result);
    mh_future_release(&f);
}

static void test_table(void **state)
{
    (void)state;
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 2);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        check_row(pool, &table[i]);
        check_square(pool, (int64_t)i); /* the pool goes on */
    }
    end_pool(&pool);
}

/* Every task but the one that kills must be done, and once. */
static void test_only_the_culprit_is_lost(void **state)
{
    (void)state;
    enum { TASKS = 400, EVERY = 50 };
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 2);
    mh_future *f[TASKS];
    for (int i = 0; i < TASKS; i++)
        f[i] = submit(pool, (job){.what = i % EVERY ? 'q' : 'k', .until = 99, .value = i}, NULL);
    for (int i = 0; i < TASKS; i++) {
        mh_result result = result_of(f[i]);
        assert_int_equal(result.err, i % EVERY ? MH_OK : MH_ERR_WORKER_LOST);
        assert_int_equal(result.attempts, 1);
        if (i % EVERY)
            assert_int_equal(number_in(result.reply), (int64_t)i * i);
        mh_result_release(&result);
        mh_future_release(&f[i]);
    }
    mh_pool_stats stats;
    mh_pool_stats_read(pool, &stats);
    assert_int_equal(stats.lost, TASKS / EVERY);
    assert_int_equal(stats.workers_lost, TASKS / EVERY);
    assert_int_equal(stats.finished, TASKS);
    end_pool(&pool);
}

/* A worker that is killed from outside while it does nothing is replaced, and nobody notices. */
static void test_idle_worker_killed(void **state)
{
    (void)state;
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 2);
    for (int i = 0; i < rounds(20); i++) {
        check_square(pool, i);
        int32_t pids[2];
        size_t count = 2;
        mh_pool_pids(pool, pids, &count);
        if (count > 0)
            kill(pids[i % (int)count], SIGKILL);
        check_square(pool, i + 1);
    }
    end_pool(&pool);
}

static void test_all_killed_while_busy(void **state)
{
    (void)state;
    enum { TASKS = 64 };
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 3);
    mh_future *f[TASKS];
    int gate[2];
    /* the workers wait in their first tasks, so that all three are known to run one */
    assert_int_equal(pipe(gate), 0);
    mh_pool_destroy(&pool);
    pool = make_pool(MH_WORKER_PROCESS, 3);
    for (int i = 0; i < TASKS; i++)
        f[i] = submit(pool, (job){.what = 'w', .value = gate[0]}, &(mh_submit_options){.lost_retries = 1});
    int32_t pids[3];
    size_t count = 3;
    mh_pool_pids(pool, pids, &count);
    assert_int_equal(count, 3);
    for (size_t i = 0; i < count; i++)
        kill(pids[i], SIGKILL);
    char bytes[TASKS * 2] = {0};
    assert_int_equal(write(gate[1], bytes, sizeof bytes), sizeof bytes);
    for (int i = 0; i < TASKS; i++) {
        mh_result result = result_of(f[i]);
        assert_int_equal(result.err, MH_OK);
        assert_in_range(result.attempts, 1, 2);
        mh_result_release(&result);
        mh_future_release(&f[i]);
    }
    end_pool(&pool);
    close(gate[0]);
    close(gate[1]);
}

static void test_recycled_by_count(void **state)
{
    (void)state;
    enum { TASKS = 40, EACH = 5 };
    mh_pool *pool = NULL;
    assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = do_job, .workers = 2, .max_tasks_per_worker = EACH}));
    int32_t pids[TASKS];
    mh_future *f[TASKS];
    for (int i = 0; i < TASKS; i++)
        f[i] = submit(pool, (job){.what = 'p'}, NULL);
    for (int i = 0; i < TASKS; i++) {
        mh_result result = result_of(f[i]);
        assert_int_equal(result.err, MH_OK);
        assert_int_equal(result.attempts, 1);
        memcpy(&pids[i], result.reply.data, sizeof pids[i]);
        mh_result_release(&result);
        mh_future_release(&f[i]);
    }
    for (int i = 0; i < TASKS; i++) {
        int same = 0;
        for (int k = 0; k < TASKS; k++)
            same += pids[k] == pids[i];
        assert_in_range(same, 1, EACH);
    }
    end_pool(&pool);
}

static mh_err eat(mh_task *task, void *ctx)
{
    (void)ctx;
    static char *volatile eaten;
    eaten = malloc(8 << 20); /* never freed: a leak is what recycling by memory is for */
    memset(eaten, 1, 8 << 20);
    int32_t pid = getpid();
    return mh_task_reply(task, (mh_bytes){&pid, sizeof pid});
}

static void test_recycled_by_memory(void **state)
{
    (void)state;
    mh_pool *pool = NULL;
    assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = eat, .workers = 1, .max_worker_bytes = 64 << 20}));
    int32_t first = 0, pid = 0;
    for (int i = 0; i < 40 && (i == 0 || pid == first); i++) {
        mh_future *f = NULL;
        assert_ok(mh_pool_submit(pool, (mh_bytes){"", 0}, NULL, &f));
        mh_result result = result_of(f);
        assert_int_equal(result.err, MH_OK);
        memcpy(&pid, result.reply.data, sizeof pid);
        first = i ? first : pid;
        mh_result_release(&result);
        mh_future_release(&f);
    }
    assert_int_not_equal(pid, first);
    end_pool(&pool);
}

static mh_err refuse(void *ctx)
{
    (void)ctx;
    return MH_ERR_TASK_FAILED;
}
static mh_err die(void *ctx)
{
    (void)ctx;
    raise(SIGKILL);
    return MH_OK;
}

/* Workers that never get as far as a task: the pool gives up, and says so to everybody. */
static void test_crash_loop_is_broken_off(void **state)
{
    (void)state;
    mh_err (*const initializers[])(void *) = {refuse, die};
    for (int i = 0; i < 2; i++) {
        mh_pool *pool = NULL;
        mh_pool_options o = {
            .worker = {.run = do_job, .initialize = initializers[i]}, .workers = 2, .max_start_failures = 4};
        assert_ok(mh_pool_create(&pool, &o));
        job j = {.what = 'q', .value = 2};
        mh_future *f = NULL;
        if (!mh_pool_submit(pool, bytes_of(&j), NULL, &f)) {
            mh_result result = result_of(f);
            assert_int_equal(result.err, MH_ERR_BROKEN);
            mh_result_release(&result);
            mh_future_release(&f);
        }
        assert_err(mh_pool_submit(pool, bytes_of(&j), NULL, &f), MH_ERR_CLOSED);
        assert_non_null(strstr(mh_err_detail(), "before they took a task"));
        mh_pool_destroy(&pool);
    }
}

static mh_err wait_for_byte(void *ctx)
{
    char byte;
    return read(*(int *)ctx, &byte, 1) == 1 ? MH_OK : MH_ERR_TASK_FAILED;
}

/* A fork server takes all workers with it that it has started. That they had not come as far as a task says nothing about them. */
static void test_server_killed_while_workers_start(void **state)
{
    (void)state;
    enum { WORKERS = 4, KILLS = 3 };
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    mh_pool *pool = NULL;
    mh_pool_options o = {.worker = {.run = do_job, .initialize = wait_for_byte, .ctx = &gate[0]}, .workers = WORKERS, .max_start_failures = KILLS + 1};
    assert_ok(mh_pool_create(&pool, &o));
    mh_future *f = submit(pool, (job){.what = 'q', .value = 9}, &(mh_submit_options){.lost_retries = KILLS});
    int32_t last = 0;
    for (int i = 0; i < KILLS; i++) {
        int32_t pids[WORKERS];
        size_t count = 0;
        for (mh_deadline until = PATIENCE; count < WORKERS || mh_forkserver_pid(pool->server) == last; assert_true(mh_now() < until)) {
            assert_err(mh_future_wait(f, mh_deadline_in(MH_MILLISECOND)), MH_ERR_TIMEOUT);
            count = WORKERS;
            mh_pool_pids(pool, pids, &count);
        }
        last = mh_forkserver_pid(pool->server);
        kill(last, SIGKILL);
    }
    char bytes[8 * WORKERS] = {0};
    assert_int_equal(write(gate[1], bytes, sizeof bytes), sizeof bytes);
    mh_result result = result_of(f);
    assert_int_equal(result.err, MH_OK);
    mh_result_release(&result);
    mh_future_release(&f);
    end_pool(&pool);
    close(gate[0]);
    close(gate[1]);
}

/* What waits behind a task that runs for long does not wait for it when another worker has nothing to do. */
static void test_long_task_holds_nobody_up(void **state)
{
    (void)state;
    enum { TASKS = 100 };
    for (int kind = MH_WORKER_PROCESS; kind <= MH_WORKER_THREAD; kind++)
        for (int round = 0; round < 3; round++) {
            int gate[2];
            assert_int_equal(pipe(gate), 0);
            mh_pool *pool = make_pool((mh_worker_kind)kind, 2);
            mh_future *f[TASKS];
            for (int i = 0; i < round * 40; i++)
                check_square(pool, i); /* the scheduler learns that tasks are short */
            for (int i = 0; i < TASKS; i++)
                f[i] = submit(pool, (job){.what = i ? 'q' : 'w', .value = i ? i : gate[0]}, NULL);
            for (int i = 1; i < TASKS; i++)
                assert_ok(mh_future_wait(f[i], PATIENCE));
            assert_false(mh_future_is_done(f[0]));
            assert_int_equal(write(gate[1], "x", 1), 1);
            assert_ok(mh_future_wait(f[0], PATIENCE));
            for (int i = 0; i < TASKS; i++)
                mh_future_release(&f[i]);
            for (int i = 0; i < 50; i++)
                check_square(pool, i); /* and the worker that was busy works again */
            end_pool(&pool);
            close(gate[0]);
            close(gate[1]);
        }
}

/* A thread can't be killed: its task is given up, the thread replaced. */
static void test_late_thread(void **state)
{
    (void)state;
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    mh_pool *pool = make_pool(MH_WORKER_THREAD, 1);
    mh_submit_options o = {.timeout_ns = 20 * MH_MILLISECOND};
    mh_future *late = submit(pool, (job){.what = 'w', .value = gate[0]}, &o);
    mh_future *behind = submit(pool, (job){.what = 'q', .value = 5}, NULL);
    mh_result result = result_of(late);
    assert_int_equal(result.err, MH_ERR_TIMEOUT);
    mh_result_release(&result);
    result = result_of(behind);
    assert_int_equal(result.err, MH_OK);
    assert_int_equal(number_in(result.reply), 25);
    mh_result_release(&result);
    mh_future_release(&late);
    mh_future_release(&behind);
    assert_int_equal(write(gate[1], "x", 1), 1); /* let it end */
    end_pool(&pool);
    close(gate[0]);
    close(gate[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_only_the_culprit_is_lost),
        cmocka_unit_test(test_idle_worker_killed),
        cmocka_unit_test(test_all_killed_while_busy),
        cmocka_unit_test(test_recycled_by_count),
        cmocka_unit_test(test_recycled_by_memory),
        cmocka_unit_test(test_crash_loop_is_broken_off),
        cmocka_unit_test(test_server_killed_while_workers_start),
        cmocka_unit_test(test_long_task_holds_nobody_up),
        cmocka_unit_test(test_late_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
