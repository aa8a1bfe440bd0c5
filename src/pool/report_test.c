/* What a pool tells of itself: times that add up, and a trace that shows what ran. */
#include "pool/pool_test.h"

#include <stdio.h>

/* Burns as many milliseconds as the first two bytes say: reading, running, writing, and again reading for the third. */
static void burn(int milliseconds)
{
    int64_t until = mh_now() + milliseconds * MH_MILLISECOND;
    while (mh_now() < until)
        ;
}

static mh_err spend(mh_task *task, void *ctx)
{
    (void)ctx;
    mh_bytes in = mh_task_input(task);
    const unsigned char *ms = in.data;
    if (in.size != 3)
        return MH_ERR_INVALID;
    if (mh_task_is_traced(task))
        mh_task_label(task, "spend \"it\"");
    mh_task_part(task, MH_TASK_SERIALISES);
    burn(ms[0]);
    mh_task_part(task, MH_TASK_RUNS);
    burn(ms[1]);
    mh_task_part(task, MH_TASK_SERIALISES);
    burn(ms[2]);
    return ms[1] == 255 ? MH_ERR_TASK_FAILED : mh_task_reply(task, in);
}

static mh_pool *make(mh_worker_kind kind, size_t events)
{
    mh_pool *pool = NULL;
    assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = spend, .workers = 2, .kind = kind, .trace_events = events}));
    return pool;
}

static void run(mh_pool *pool, int read, int runs, int write)
{
    mh_future *f = NULL;
    unsigned char ms[3] = {(unsigned char)read, (unsigned char)runs, (unsigned char)write};
    assert_ok(mh_pool_submit(pool, (mh_bytes){ms, sizeof ms}, NULL, &f));
    mh_result r = result_of(f);
    mh_result_release(&r);
    mh_future_release(&f);
}

/* All workers, those that have ended among them; each must add up. */
static mh_worker_stats sum_of(mh_pool *pool)
{
    mh_worker_stats all[3] = {{0}}, sum = {0};
    mh_pool_time_stats own;
    size_t count = 2;
    mh_pool_worker_stats(pool, all, &count);
    assert_in_range(count, 0, 2);
    mh_pool_time_stats_read(pool, &own);
    all[2] = own.departed;
    for (int i = 0; i < 3; i++) {
        const mh_worker_stats *w = &all[i];
        assert_true(w->busy_ns >= 0 && w->serialising_ns >= 0 && w->idle_ns >= 0 && w->core_ns >= 0 && w->transport_ns >= 0);
        assert_int_equal(w->busy_ns + w->serialising_ns + w->idle_ns + w->core_ns + w->transport_ns, w->lived_ns);
        sum.tasks += w->tasks;
        sum.bytes_in += w->bytes_in;
        sum.bytes_out += w->bytes_out;
        sum.busy_ns += w->busy_ns;
        sum.serialising_ns += w->serialising_ns;
    }
    return sum;
}

static const mh_worker_kind kinds[] = {MH_WORKER_PROCESS, MH_WORKER_THREAD};

static void test_times(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        mh_pool *pool = make(kinds[k], 0);
        for (int i = 0; i < 2000; i++) /* short ones, of which some are measured */
            run(pool, 0, 0, 0);
        run(pool, 20, 40, 10);
        run(pool, 0, 30, 0);
        mh_worker_stats sum = sum_of(pool);
        assert_int_equal(sum.tasks, 2002);
        assert_int_equal(sum.bytes_in, 3 * 2002);
        assert_int_equal(sum.bytes_out, 3 * 2002);
        assert_true(sum.busy_ns + sum.serialising_ns >= 99 * MH_MILLISECOND);
        mh_pool_time_stats own;
        int64_t now = mh_now();
        mh_pool_note_serialising(pool, now - 5 * MH_MILLISECOND, now);
        mh_pool_note_serialising(pool, now + MH_SECOND, now); /* the wrong way round: nothing */
        mh_pool_time_stats_read(pool, &own);
        assert_true(own.serialising_ns >= 5 * MH_MILLISECOND && own.serialising_ns < MH_SECOND);
        assert_true(own.waiting_ns > 0 && own.transport_ns > 0);
        assert_true(own.waiting_ns + own.transport_ns <= own.lived_ns);
        mh_pool_close(pool);
        assert_ok(mh_pool_join(pool, PATIENCE));
        sum = sum_of(pool);
        assert_int_equal(sum.tasks, 2002); /* they have departed */
        mh_pool_destroy(&pool);
    }
}

static size_t count_of(const char *text, const char *what)
{
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
        count++;
    return count;
}

static void test_trace(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        mh_pool *pool = make(kinds[k], 100);
        for (int i = 0; i < 20; i++)
            run(pool, i == 3, 1, i == 3);
        run(pool, 0, 255, 0);
        mh_buf *json = NULL;
        assert_ok(mh_pool_trace(pool, &json));
        assert_ok(mh_buf_append(json, (mh_bytes){"", 1}));
        const char *text = mh_buf_data(json);
        assert_int_equal(count_of(text, "\"spend ?it?\""), 21);
        assert_int_equal(count_of(text, "\"MH_ERR_TASK_FAILED\""), 1);
        assert_true(count_of(text, "\"read\"") >= 1 && count_of(text, "\"write\"") >= 1);
        assert_true(count_of(text, "\"wait\"") >= 1);
        assert_int_equal(count_of(text, "{"), count_of(text, "}"));
        mh_buf_destroy(&json);
        for (int i = 0; i < 300; i++)
            run(pool, 0, 0, 0);
        assert_ok(mh_pool_trace(pool, &json));
        assert_ok(mh_buf_append(json, (mh_bytes){"", 1}));
        assert_in_range(count_of(mh_buf_data(json), "\"spend ?it?\""), 90, 200); /* the last hundred of each worker, at most */
        mh_buf_destroy(&json);
        end_pool(&pool);
    }
}

static void test_no_trace(void **state)
{
    (void)state;
    mh_pool *pool = make(MH_WORKER_THREAD, 0);
    mh_buf *json = (mh_buf *)&json;
    assert_err(mh_pool_trace(pool, &json), MH_ERR_INVALID);
    assert_null(json);
    end_pool(&pool);
    assert_err(mh_pool_create(&pool, &(mh_pool_options){.run = spend, .trace_events = (size_t)1 << 21}), MH_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_trace),
        cmocka_unit_test(test_no_trace),
    };
    return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
