/* Memory limits of tasks: who takes too much is stopped, and nobody else notices. */
#include "os/memory.h"
#include "os/usage.h"
#include "pool/pool_test.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MB ((size_t)1 << 20)

typedef struct order {
    char how;      /* see take_memory */
    char pad[3];
    uint32_t until; /* the attempts that take too much: all up to this one */
    size_t bytes;
} order;

static mh_err take_memory(mh_task *task, void *ctx)
{
    (void)ctx;
    order o;
    if (mh_task_input(task).size != sizeof o)
        return MH_ERR_INVALID;
    memcpy(&o, mh_task_input(task).data, sizeof o);
    if (mh_task_attempt(task) > o.until)
        return mh_task_reply(task, (mh_bytes){&o.bytes, sizeof o.bytes});
    char *volatile kept = NULL;
    switch (o.how) {
    case 'f': /* fill at once, as fast as can be, and hold */
    case 'n': /* and be nobody's victim: end */
        kept = malloc(o.bytes);
        if (!kept)
            return MH_ERR_NO_MEMORY;
        memset(kept, 1, o.bytes);
        break;
    case 's': /* many small ones */
        for (size_t taken = 0; taken < o.bytes; taken += 1024) {
            char **next = malloc(1024);
            if (!next)
                return MH_ERR_NO_MEMORY;
            memset(next, 1, 1024);
            memcpy(next, (char *[]){kept}, sizeof kept);
            kept = (char *)next;
        }
        break;
    case 'r': /* reserve, and touch nothing */
        kept = mmap(NULL, o.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (kept == MAP_FAILED)
            return MH_ERR_NO_MEMORY;
        munmap(kept, o.bytes);
        kept = NULL;
        break;
    }
    if (kept && o.how != 'n')
        hang();
    free(kept);
    size_t limit = mh_task_memory_limit(task);
    return mh_task_reply(task, (mh_bytes){&limit, sizeof limit});
}

static mh_pool *make(size_t workers, size_t task_bytes)
{
    mh_pool *pool = NULL;
    assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = take_memory, .workers = workers, .task_bytes = task_bytes}));
    return pool;
}

static mh_future *give(mh_pool *pool, order o, mh_submit_options options)
{
    mh_future *f = NULL;
    assert_ok(mh_pool_submit(pool, (mh_bytes){&o, sizeof o}, &options, &f));
    return f;
}

static const struct {
    const char *why;
    char how;
    size_t bytes, limit, pool_limit;
    uint32_t until, oom_retries, lost_retries;
    mh_err err;
    uint32_t attempts;
    bool is_seen;
} rows[] = {
    {"no limit", 'n', 64 * MB, 0, 0, 9, 0, 0, MH_OK, 1, false},
    {"within its limit", 'n', 32 * MB, 64 * MB, 0, 9, 0, 0, MH_OK, 1, false},
    {"a limit of its own beats the pool's", 'n', 64 * MB, 128 * MB, 8 * MB, 9, 0, 0, MH_OK, 1, false},
    {"filled at once", 'f', 128 * MB, 32 * MB, 0, 9, 0, 0, MH_ERR_OUT_OF_MEMORY_TASK, 1, true},
    {"over the pool's limit", 'f', 128 * MB, 0, 32 * MB, 9, 0, 0, MH_ERR_OUT_OF_MEMORY_TASK, 1, true},
    {"many small pieces", 's', 128 * MB, 32 * MB, 0, 9, 0, 0, MH_ERR_OUT_OF_MEMORY_TASK, 1, true},
    {"its own budget", 'f', 128 * MB, 32 * MB, 0, 9, 2, 0, MH_ERR_OUT_OF_MEMORY_TASK, 3, true},
    {"not that of lost workers", 'f', 128 * MB, 32 * MB, 0, 9, 0, 3, MH_ERR_OUT_OF_MEMORY_TASK, 1, true},
    {"better the second time", 'f', 128 * MB, 32 * MB, 0, 1, 1, 0, MH_OK, 2, false},
    {"far too much at once", 'r', (size_t)64 << 30, 32 * MB, 0, 9, 0, 0, MH_ERR_OUT_OF_MEMORY_TASK, 1, false},
    {"far too much, tried again", 'r', (size_t)64 << 30, 32 * MB, 0, 1, 1, 0, MH_OK, 2, false},
    {"reserved and not used", 'r', 128 * MB, 32 * MB, 0, 9, 0, 0, MH_OK, 1, false},
};

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mh_pool *pool = make(2, rows[i].pool_limit);
        mh_submit_options o = {
            .memory_bytes = rows[i].limit, .oom_retries = rows[i].oom_retries, .lost_retries = rows[i].lost_retries};
        mh_future *f = give(pool, (order){.how = rows[i].how, .until = rows[i].until, .bytes = rows[i].bytes}, o);
        mh_result r = result_of(f);
        if (r.err != rows[i].err || r.attempts != rows[i].attempts || (r.memory_bytes > 0) != rows[i].is_seen)
            fail_msg("%s: %s after %u attempts, seen to use %zu", rows[i].why, mh_err_name(r.err), r.attempts, (size_t)r.memory_bytes);
        if (r.memory_bytes)
            assert_true(r.memory_bytes > (rows[i].limit ? rows[i].limit : rows[i].pool_limit));
        mh_result_release(&r);
        mh_future_release(&f);
        end_pool(&pool);
    }
}

/* Only the task that takes too much is stopped: those that waited behind it and beside it run once. */
static void test_neighbours(void **state)
{
    (void)state;
    enum { TASKS = 100 };
    mh_pool *pool = make(2, 64 * MB);
    mh_future *futures[TASKS];
    for (int i = 0; i < TASKS; i++)
        futures[i] = give(pool, (order){.how = i % 10 == 3 ? 'f' : 'n', .until = 9, .bytes = i % 10 == 3 ? 128 * MB : MB},
                          (mh_submit_options){0});
    for (int i = 0; i < TASKS; i++) {
        mh_result r = result_of(futures[i]);
        assert_int_equal(r.err, i % 10 == 3 ? MH_ERR_OUT_OF_MEMORY_TASK : MH_OK);
        assert_int_equal(r.attempts, 1);
        mh_result_release(&r);
        mh_future_release(&futures[i]);
    }
    end_pool(&pool);
}

/* What an earlier task left behind is not the next one's. */
static void test_each_task_by_itself(void **state)
{
    (void)state;
    mh_pool *pool = make(1, 0);
    for (int i = 0; i < 6; i++) {
        mh_future *f = give(pool, (order){.how = 'n', .until = 9, .bytes = 16 * MB}, (mh_submit_options){.memory_bytes = i % 2 ? 32 * MB : 0});
        mh_result r = result_of(f);
        assert_int_equal(r.err, MH_OK);
        assert_int_equal(number_in(r.reply), i % 2 ? 32 * MB : 0);
        mh_result_release(&r);
        mh_future_release(&f);
    }
    end_pool(&pool);
}

static void test_threads_have_no_limit(void **state)
{
    (void)state;
    mh_pool *pool = NULL;
    mh_future *f = NULL;
    mh_pool_options o = {.run = take_memory, .workers = 1, .kind = MH_WORKER_THREAD, .task_bytes = MB};
    assert_err(mh_pool_create(&pool, &o), MH_ERR_INVALID);
    o.task_bytes = 0;
    assert_ok(mh_pool_create(&pool, &o));
    order task = {.how = 'n'};
    assert_err(mh_pool_submit(pool, (mh_bytes){&task, sizeof task}, &(mh_submit_options){.memory_bytes = MB}, &f), MH_ERR_INVALID);
    end_pool(&pool);
}

/* ---- what the kernel counts -------------------------------------------------------------------- */

static void write_file(const char *folder, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static const struct {
    const char *why, *membership, *v2, *v1, *vmstat;
    int64_t kills;
} kills[] = {
    {"a group of version 2", "0::/g\n", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 5\noom_group_kill 0\n", NULL, "oom_kill 9\n", 5},
    {"a group of version 1", "9:cpu:/x\n4:memory:/g\n0::/\n", NULL, "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "oom_kill 9\n", 7},
    {"none: the machine", "0::/g\n", NULL, NULL, "nr_free_pages 1\noom_kill 9\npgfault 3\n", 9},
    {"an old kernel", "0::/g\n", "oom 2\n", NULL, "nr_free_pages 1\n", -1},
    {"nonsense", "0\n::\n:memory", "oom_kill\n", NULL, "oom_kill x", 0},
};

static void test_kills(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof kills / sizeof *kills; i++) {
        char folder[] = "/tmp/weigh_test_XXXXXX", path[64], membership[64], vmstat[64];
        assert_non_null(mkdtemp(folder));
        write_file(folder, "membership", kills[i].membership);
        write_file(folder, "vmstat", kills[i].vmstat);
        snprintf(path, sizeof path, "%s/g", folder);
        assert_int_equal(mkdir(path, 0700), 0);
        if (kills[i].v2)
            write_file(path, "memory.events", kills[i].v2);
        snprintf(path, sizeof path, "%s/memory", folder);
        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(path, sizeof path, "%s/memory/g", folder);
        assert_int_equal(mkdir(path, 0700), 0);
        if (kills[i].v1)
            write_file(path, "memory.oom_control", kills[i].v1);
        snprintf(membership, sizeof membership, "%s/membership", folder);
        snprintf(vmstat, sizeof vmstat, "%s/vmstat", folder);
        if (mh__oom_kills_in(membership, folder, vmstat) != kills[i].kills)
            fail_msg("%s: %lld", kills[i].why, (long long)mh__oom_kills_in(membership, folder, vmstat));
        snprintf(path, sizeof path, "rm -r %s", folder);
        assert_int_equal(system(path), 0);
    }
    assert_true(mh__os_oom_kills() >= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_each_task_by_itself),
        cmocka_unit_test(test_threads_have_no_limit),
        cmocka_unit_test(test_kills),
    };
    return cmocka_run_group_tests_name("weigh", tests, NULL, NULL);
}
