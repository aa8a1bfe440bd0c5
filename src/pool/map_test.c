/* mh_pool_map over memory that the workers share in each way that there is. */
#include "pool/pool_test.h"

#include <sys/mman.h>

enum { ITEMS = 200000 };

/* out = in * ctx; a 13 kills the worker, a 17 fails. */
static mh_err scale(const void *in, void *out, size_t count, const void *ctx)
{
    const int64_t *from = in;
    int64_t *to = out, by;
    memcpy(&by, ctx, sizeof by);
    for (size_t i = 0; i < count; i++) {
        if (from[i] == -13)
            raise(SIGKILL);
        if (from[i] == -17)
            return MH_ERR_TASK_FAILED;
        to[i] = from[i] * by;
    }
    return MH_OK;
}

static mh_map_options with(int64_t *by) { return (mh_map_options){.ctx = {by, sizeof *by}}; }

static void check_map(mh_pool *pool, int64_t *in, int64_t *out, size_t count, size_t chunk)
{
    int64_t by = 3;
    mh_map_options o = with(&by);
    o.chunk = chunk;
    for (size_t i = 0; i < count; i++)
        in[i] = (int64_t)i;
    memset(out, 0, count * sizeof *out);
    assert_ok(mh_pool_map(pool, scale, in, sizeof *in, out, sizeof *out, count, &o));
    for (size_t i = 0; i < count; i++)
        if (out[i] != (int64_t)i * 3)
            fail_msg("item %zu of %zu is %lld", i, count, (long long)out[i]);
}

static int64_t *map_shared(size_t count)
{
    void *at = mmap(NULL, count * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    return at;
}

static void check_counts(mh_pool *pool, int64_t *in, int64_t *out)
{
    static const size_t counts[] = {0, 1, 2, 7, 1000, ITEMS}, chunks[] = {0, 1000, 33333, 1 << 30};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (size_t k = 0; k < sizeof chunks / sizeof *chunks; k++)
            check_map(pool, in, out, counts[i], chunks[k]);
    check_map(pool, in, out, 500, 1);
}

static void test_mapped_before(void **state)
{
    (void)state;
    int64_t *in = map_shared(ITEMS), *out = map_shared(ITEMS);
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 2);
    check_counts(pool, in, out);
    end_pool(&pool);
    munmap(in, ITEMS * sizeof *in);
    munmap(out, ITEMS * sizeof *out);
}

static void test_threads(void **state)
{
    (void)state;
    int64_t *in = malloc(ITEMS * sizeof *in), *out = malloc(ITEMS * sizeof *out);
    mh_pool *pool = make_pool(MH_WORKER_THREAD, 2);
    check_counts(pool, in, out);
    end_pool(&pool);
    free(in);
    free(out);
}

static void test_attached(void **state)
{
    (void)state;
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 2);
    check_square(pool, 2);
    for (int i = 0; i < 3; i++) {
        mh_shm *in = NULL, *out = NULL;
        assert_ok(mh_shm_create(&in, ITEMS * sizeof(int64_t)));
        assert_ok(mh_shm_create(&out, ITEMS * sizeof(int64_t)));
        assert_ok(mh_pool_attach(pool, in));
        assert_ok(mh_pool_attach(pool, out));
        check_counts(pool, mh_shm_data(in), mh_shm_data(out));
        /* and from the middle of a segment */
        check_map(pool, (int64_t *)mh_shm_data(in) + 1000, (int64_t *)mh_shm_data(out) + 77, ITEMS - 1000, 0);
        /* a worker that comes later sees it, too */
        mh_future *f = submit(pool, (job){.what = 'k', .until = 1}, &(mh_submit_options){.lost_retries = 1});
        assert_ok(mh_future_wait(f, PATIENCE));
        mh_future_release(&f);
        check_map(pool, mh_shm_data(in), mh_shm_data(out), ITEMS, 100);
        mh_pool_detach(pool, in);
        mh_pool_detach(pool, out);
        int64_t by = 1;
        mh_map_options o = with(&by);
        assert_err(mh_pool_map(pool, scale, mh_shm_data(in), 8, mh_shm_data(out), 8, ITEMS, &o), MH_ERR_INVALID);
        mh_shm_destroy(&in);
        mh_shm_destroy(&out);
    }
    end_pool(&pool);
}

/* Memory that the workers do not have, or have another copy of, is refused, not computed wrongly. */
static void test_not_shared(void **state)
{
    (void)state;
    int64_t *shared = map_shared(1000), *private = malloc(1000 * sizeof *private), by = 2;
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 1);
    int64_t *later = map_shared(1000);
    mh_map_options o = with(&by);
    assert_err(mh_pool_map(pool, scale, private, 8, shared, 8, 1000, &o), MH_ERR_INVALID);
    assert_non_null(strstr(mh_err_detail(), "in:"));
    assert_err(mh_pool_map(pool, scale, shared, 8, private, 8, 1000, &o), MH_ERR_INVALID);
    assert_non_null(strstr(mh_err_detail(), "out:"));
    assert_err(mh_pool_map(pool, scale, shared, 8, later, 8, 1000, &o), MH_ERR_INVALID);
    assert_err(mh_pool_map(pool, scale, shared, 8, shared + 1, 8, 1 << 20, &o), MH_ERR_INVALID); /* beyond the end */
    assert_err(mh_pool_map(pool, scale, NULL, 8, shared, 8, 10, &o), MH_ERR_INVALID);
    assert_err(mh_pool_map(pool, scale, shared, SIZE_MAX, shared, 8, 10, &o), MH_ERR_INVALID);
    assert_err(mh_pool_map(pool, NULL, shared, 8, shared, 8, 10, &o), MH_ERR_INVALID);
    assert_ok(mh_pool_map(pool, scale, shared, 8, shared, 8, 1000, &o)); /* in place */
    end_pool(&pool);
    free(private);
    munmap(shared, 8000);
    munmap(later, 8000);
}

static void count_progress(size_t done, size_t count, void *ctx)
{
    size_t *last = ctx;
    assert_true(done >= *last && done <= count);
    *last = done;
}

static void test_failures_and_progress(void **state)
{
    (void)state;
    int64_t *in = map_shared(ITEMS), *out = map_shared(ITEMS), by = 2;
    mh_pool *pool = make_pool(MH_WORKER_PROCESS, 2);
    mh_map_options o = with(&by);
    size_t last = 0;
    o.progress = count_progress;
    o.progress_ctx = &last;
    o.chunk = 1000;
    for (int i = 0; i < ITEMS; i++)
        in[i] = i;
    assert_ok(mh_pool_map(pool, scale, in, 8, out, 8, ITEMS, &o));
    assert_int_equal(last, ITEMS);
    o.progress = NULL;
    in[ITEMS / 2] = -17;
    assert_err(mh_pool_map(pool, scale, in, 8, out, 8, ITEMS, &o), MH_ERR_TASK_FAILED);
    in[ITEMS / 2] = -13;
    assert_err(mh_pool_map(pool, scale, in, 8, out, 8, ITEMS, &o), MH_ERR_WORKER_LOST);
    o.submit.lost_retries = 2;
    assert_err(mh_pool_map(pool, scale, in, 8, out, 8, ITEMS, &o), MH_ERR_POISON_TASK);
    in[ITEMS / 2] = 1;
    assert_ok(mh_pool_map(pool, scale, in, 8, out, 8, ITEMS, &o));
    end_pool(&pool);
    munmap(in, ITEMS * sizeof *in);
    munmap(out, ITEMS * sizeof *out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mapped_before),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_attached),
        cmocka_unit_test(test_not_shared),
        cmocka_unit_test(test_failures_and_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
