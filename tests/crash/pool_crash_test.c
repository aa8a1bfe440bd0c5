/* Each place where a worker, the fork server or the whole process can die, and what must follow: every task ends once, the
 * innocent ones well, the pool goes on, and nothing is left behind. */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/number.h"
#include "manyhands/pool.h"
#include "mh_test.h"
#include "os/fd.h"
#include "os/usage.h"
#include "pool/point.h"

#define PATIENCE mh_deadline_in(30 * MH_SECOND)

static int rounds(int usual) { return getenv("MH_LONG") ? 30 * usual : usual; }

/* ---- faults at named points ------------------------------------------------------------------------ */

enum { TASKS = 60 };

/* Shared with the workers. */
static struct plan {
    char point[32];
    char fault;        /* k: SIGKILL, s: SIGSTOP, x: exit(0), a: abort */
    atomic_int shots;  /* how often it is still to happen */
    atomic_int passes; /* and how often the point is passed before */
    atomic_int hits;
    atomic_int runs[TASKS];
} *plan;

static void hit(const char *name)
{
    if (strcmp(name, plan->point) != 0 || atomic_fetch_sub(&plan->passes, 1) > 0 ||
        atomic_fetch_sub(&plan->shots, 1) <= 0)
        return;
    atomic_fetch_add(&plan->hits, 1);
    if (plan->fault == 'k')
        raise(SIGKILL);
    if (plan->fault == 's')
        raise(SIGSTOP);
    if (plan->fault == 'a')
        abort();
    _exit(0);
}

static mh_err count_and_square(mh_task *task, void *ctx)
{
    (void)ctx;
    int64_t value;
    memcpy(&value, mh_task_input(task).data, sizeof value);
    if (value < TASKS)
        atomic_fetch_add(&plan->runs[value], 1);
    int64_t large[64] = {value * value}; /* larger than a slot */
    return mh_task_reply(task, (mh_bytes){large, value % 2 ? sizeof large : sizeof *large});
}

static mh_err do_nothing(void *ctx)
{
    (void)ctx;
    return MH_OK;
}

static const struct place {
    const char *point;
    bool in_task; /* the worker is known to have begun a task that it has not answered */
    bool at_end;  /* comes only when the pool closes */
} places[] = {
    {"worker initializes", false, false}, {"worker looks", false, false},   {"worker before sleep", false, false},
    {"worker took", true, false},         {"worker mid reply", true, false}, {"worker ran", true, false},
    {"worker done", false, false},        {"worker finalizes", false, true}, {"worker ends", false, true},
};

static void check_results(mh_future **f, bool retried, const struct place *place, char fault)
{
    int lost = 0;
    for (int i = 0; i < TASKS; i++) {
        mh_result result;
        assert_ok(mh_future_result(f[i], PATIENCE, &result));
        int started = atomic_load(&plan->runs[i]);
        if (result.err) {
            lost++;
            assert_int_equal(result.err, fault == 's' ? MH_ERR_TIMEOUT : MH_ERR_WORKER_LOST);
            assert_int_equal(result.attempts, 1);
            assert_int_equal(result.signal, fault == 'x' ? 0 : fault == 'a' ? SIGABRT : SIGKILL);
        } else {
            assert_int_equal(*(const int64_t *)result.reply.data, (int64_t)i * i);
            assert_in_range(started, 1, result.attempts); /* what was not lost ran once */
        }
        mh_result_release(&result);
        mh_future_release(&f[i]);
    }
    /* the task in hand is the only one that may be lost, and a retry saves it from death, but not from its deadline. A worker that is
     * stopped between tasks has its tasks taken away, though nothing ends it. */
    assert_int_equal(lost, place->in_task && (!retried || fault == 's') ? 1 : 0);
}

static void strike(const struct place *place, char fault, int passes, bool retried)
{
    memset(plan, 0, sizeof *plan);
    strcpy(plan->point, place->point);
    plan->fault = fault;
    atomic_store(&plan->passes, passes);
    atomic_store(&plan->shots, 1);
    mh_pool *pool = NULL;
    mh_pool_options o = {.worker = {.run = count_and_square, .initialize = do_nothing}, .workers = 2};
    assert_ok(mh_pool_create(&pool, &o));
    mh_submit_options with = {.lost_retries = retried ? 1 : 0, .timeout_ns = fault == 's' ? 40 * MH_MILLISECOND : 0};
    mh_future *f[TASKS];
    for (int64_t i = 0; i < TASKS; i++)
        assert_ok(mh_pool_submit(pool, (mh_bytes){&i, sizeof i}, &with, &f[i]));
    check_results(f, retried, place, fault);
    mh_pool_close(pool);
    mh_err err = mh_pool_join(pool, fault == 's' ? mh_deadline_in(20 * MH_MILLISECOND) : PATIENCE);
    if (fault != 's') /* a worker that was stopped can't be waited for */
        assert_int_equal(err, MH_OK);
    mh_pool_destroy(&pool);
    if (!passes && strcmp(place->point, "worker before sleep") != 0)
        assert_int_equal(atomic_load(&plan->hits), 1);
}

static void test_faults_at_points(void **state)
{
    (void)state;
    mh__point_hook = hit;
    for (int round = 0; round < rounds(1); round++)
        for (size_t i = 0; i < MH__COUNT_OF(places); i++)
            for (const char *fault = "kxas"; *fault; fault++) {
                strike(&places[i], *fault, 0, false);
                strike(&places[i], *fault, 0, true);
                strike(&places[i], *fault, 7 + round, true);
            }
    mh__point_hook = NULL;
}

/* ---- random deaths under load ----------------------------------------------------------------------- */

static struct killer {
    mh_pool *pool;
    atomic_bool ends;
    int kills;
} killer;

static void *kill_at_random(void *ctx)
{
    (void)ctx;
    uint64_t seed = 42;
    while (!atomic_load(&killer.ends)) {
        int32_t pids[8];
        size_t count = MH__COUNT_OF(pids);
        mh_pool_pids(killer.pool, pids, &count);
        if (count > 0 && kill(pids[mh__splitmix(&seed) % count], SIGKILL) == 0)
            killer.kills++;
        struct timespec pause = {0, (long)(mh__splitmix(&seed) % 3000000)};
        nanosleep(&pause, NULL); /* the interval between deaths is what is being chosen at random */
    }
    return NULL;
}

static void test_nothing_lost_or_doubled(void **state)
{
    (void)state;
    size_t count = (size_t)rounds(100000);
    mh_pool *pool = NULL;
    mh_stream *s = NULL;
    assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = count_and_square, .workers = 2}));
    mh_stream_options o = {.ordered = true, .window = 2000, .defaults = {.lost_retries = 100000}};
    assert_ok(mh_stream_create(&s, pool, &o));
    killer = (struct killer){.pool = pool};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, kill_at_random, NULL), 0);
    mh_result results[256];
    for (size_t sent = 0, taken = 0, got; taken < count;) {
        for (int64_t value; sent < count && (value = (int64_t)(sent + TASKS), mh_stream_room(s)); sent++)
            assert_ok(mh_stream_submit(s, (mh_bytes){&value, sizeof value}, sent));
        assert_ok(mh_stream_take_many(s, PATIENCE, results, MH__COUNT_OF(results), &got));
        for (size_t i = 0; i < got; i++, taken++) {
            int64_t value = (int64_t)(taken + TASKS);
            assert_int_equal(results[i].err, MH_OK);
            assert_int_equal(results[i].tag, taken);
            assert_int_equal(*(const int64_t *)results[i].reply.data, value * value);
        }
        mh_results_release(results, got);
    }
    atomic_store(&killer.ends, true);
    pthread_join(thread, NULL);
    mh_stream_destroy(&s);
    mh_pool_stats stats;
    mh_pool_stats_read(pool, &stats);
    assert_int_equal(stats.finished, count);
    printf("# %d kills, %d workers started\n", killer.kills, (int)stats.workers_started);
    mh_pool_destroy(&pool);
}

/* ---- the fork server, and the parent ------------------------------------------------------------------ */

static int32_t parent_of(int32_t pid)
{
    char path[40], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = 0;
    char *at = strrchr(text, ')');
    int32_t parent = -1;
    if (!at || sscanf(at + 1, " %*c %d", &parent) != 1)
        return -1;
    return parent;
}

static mh_err slow_square(mh_task *task, void *ctx)
{
    struct timespec pause = {0, 200000}; /* long enough for many tasks to be under way */
    nanosleep(&pause, NULL);
    return count_and_square(task, ctx);
}

static void test_fork_server_killed(void **state)
{
    (void)state;
    mh_pool *pool = NULL;
    assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = slow_square, .workers = 2}));
    for (int round = 0; round < rounds(5); round++) {
        mh_future *f[TASKS];
        mh_submit_options with = {.lost_retries = 3};
        for (int64_t i = 0; i < TASKS; i++)
            assert_ok(mh_pool_submit(pool, (mh_bytes){&i, sizeof i}, &with, &f[i]));
        int32_t pid;
        size_t count = 1;
        mh_pool_pids(pool, &pid, &count);
        int32_t server = count ? parent_of(pid) : -1;
        if (server > 1 && server != getpid())
            kill(server, SIGKILL);
        for (int64_t i = 0; i < TASKS; i++) {
            mh_result result;
            assert_ok(mh_future_result(f[i], PATIENCE, &result));
            assert_int_equal(result.err, MH_OK);
            assert_int_equal(*(const int64_t *)result.reply.data, i * i);
            mh_result_release(&result);
            mh_future_release(&f[i]);
        }
    }
    mh_pool_destroy(&pool);
}

static int count_shm_files(void)
{
    int count = 0;
    DIR *dir = opendir("/dev/shm");
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

static void hold_a_pool(int tell)
{
    mh_pool *pool = NULL;
    mh_future *f[8];
    if (mh_pool_create(&pool, &(mh_pool_options){.run = slow_square, .workers = 2}))
        _exit(1);
    for (int64_t i = 0; i < 8; i++)
        if (mh_pool_submit(pool, (mh_bytes){&i, sizeof i}, NULL, &f[i]))
            _exit(1);
    int32_t pids[3];
    size_t count = 2;
    mh_pool_pids(pool, pids, &count);
    pids[2] = parent_of(pids[0]);
    if (count != 2 || write(tell, pids, sizeof pids) != sizeof pids)
        _exit(1);
    for (;;)
        pause();
}

static void test_parent_killed(void **state)
{
    (void)state;
    int before = count_shm_files();
    for (int round = 0; round < rounds(3); round++) {
        int tell[2];
        assert_int_equal(pipe(tell), 0);
        pid_t child = fork();
        if (child == 0)
            hold_a_pool(tell[1]);
        int32_t pids[3];
        assert_int_equal(read(tell[0], pids, sizeof pids), sizeof pids);
        int fds[3];
        for (int i = 0; i < 3; i++)
            fds[i] = (int)syscall(SYS_pidfd_open, pids[i], 0);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        mh_deadline until = mh_deadline_in(MH_SECOND);
        for (int i = 0; i < 3; i++) {
            if (fds[i] >= 0)
                assert_err(mh__os_wait_readable(fds[i], until), MH_OK); /* no orphan after one second */
            mh__os_close(&fds[i]);
        }
        close(tell[0]);
        close(tell[1]);
    }
    assert_int_equal(count_shm_files(), before);
}

/* ---- shortage --------------------------------------------------------------------------------------------- */

static struct shortage {
    int32_t pid;
    atomic_long countdown;
    atomic_bool struck;
} shortage;

static void *allocate(void *old, size_t size, void *ctx)
{
    (void)ctx;
    if (size == 0) {
        free(old);
        return NULL;
    }
    if (getpid() == shortage.pid && atomic_fetch_sub(&shortage.countdown, 1) == 1) {
        atomic_store(&shortage.struck, true);
        return NULL;
    }
    return realloc(old, size);
}

/* A life in short; any step may fail, none may hang, crash or leave anything. */
static void live(void)
{
    mh_pool *pool = NULL;
    mh_future *f = NULL;
    mh_stream *s = NULL;
    mh_result result = {0};
    mh_buf *reply = NULL;
    char large[1000] = {0};
    if (mh_pool_create(&pool, &(mh_pool_options){.run = count_and_square, .workers = 2}))
        return;
    int64_t value = TASKS;
    if (!mh_pool_submit(pool, (mh_bytes){&value, sizeof value}, NULL, &f) && !mh_future_take(f, PATIENCE, &reply))
        assert_int_equal(*(int64_t *)mh_buf_data(reply), value * value);
    mh_buf_destroy(&reply);
    mh_future_release(&f);
    memcpy(large, &value, sizeof value);
    if (!mh_stream_create(&s, pool, &(mh_stream_options){.ordered = true}) &&
        !mh_stream_submit(s, (mh_bytes){large, sizeof large}, 0)) {
        assert_ok(mh_stream_take(s, PATIENCE, &result));
        assert_true(result.err == MH_OK || result.err == MH_ERR_BROKEN);
    }
    mh_result_release(&result);
    mh_stream_destroy(&s);
    mh_pool_destroy(&pool);
}

static void test_every_allocation_fails_once(void **state)
{
    (void)state;
    live(); /* what is allocated once and for all */
    int fds = mh__os_fd_count();
    shortage.pid = getpid();
    mh_allocator_set(allocate, NULL);
    long k = 0;
    do {
        atomic_store(&shortage.struck, false);
        atomic_store(&shortage.countdown, ++k);
        live();
        assert_int_equal(mh__os_fd_count(), fds);
    } while (atomic_load(&shortage.struck) && k < 1000);
    mh_allocator_set(NULL, NULL);
    printf("# %ld allocations\n", k - 1);
    assert_in_range(k, 20, 999);
}

static void test_few_descriptors(void **state)
{
    (void)state;
    struct rlimit usual, few;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    int fds = mh__os_fd_count();
    for (int more = 0; more < 30; more++) {
        few = (struct rlimit){(rlim_t)(fds + more), usual.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        live();
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
        assert_int_equal(mh__os_fd_count(), fds);
    }
}

/* ---- growth ----------------------------------------------------------------------------------------------- */

static void run_many(mh_pool *pool, size_t count)
{
    static int64_t values[512];
    static mh_result results[512];
    mh_stream *s = NULL;
    assert_ok(mh_stream_create(&s, pool, NULL));
    for (size_t sent = 0, taken = 0, got; taken < count;) {
        size_t most = MH__MIN(MH__MIN(count - sent, MH__COUNT_OF(values)), mh_stream_room(s));
        for (size_t i = 0; i < most; i++)
            values[i] = (int64_t)(sent + i) * 2 + TASKS;
        if (most)
            assert_ok(mh_stream_submit_many(s, values, sizeof *values, most, sent, &got));
        sent += most ? got : 0;
        assert_ok(mh_stream_take_many(s, PATIENCE, results, MH__COUNT_OF(results), &got));
        taken += got;
        mh_results_release(results, got);
    }
    mh_stream_destroy(&s);
}

static void test_a_million_tasks_grow_nothing(void **state)
{
    (void)state;
    mh_pool *pool = NULL;
    assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = count_and_square, .workers = 2}));
    run_many(pool, 50000); /* warm up */
    size_t workers = 0;
    mh_pool_pids(pool, NULL, &workers); /* and have them all there */
#ifndef __SANITIZE_ADDRESS__
    size_t bytes = mh__os_own_bytes();
#endif
    int fds = mh__os_fd_count(), files = count_shm_files();
    run_many(pool, (size_t)rounds(1000000));
    assert_int_equal(mh__os_fd_count(), fds);
    assert_int_equal(count_shm_files(), files);
#ifndef __SANITIZE_ADDRESS__ /* which keeps freed blocks back for a while */
    assert_true(mh__os_own_bytes() <= bytes + (1 << 20));
#endif
    mh_pool_stats stats;
    mh_pool_stats_read(pool, &stats);
    assert_int_equal(stats.request_bytes, 0);
    assert_int_equal(stats.workers_started, 2);
    mh_pool_destroy(&pool);
}

int main(void)
{
    plan = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (plan == MAP_FAILED)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults_at_points),
        cmocka_unit_test(test_nothing_lost_or_doubled),
        cmocka_unit_test(test_fork_server_killed),
        cmocka_unit_test(test_parent_killed),
        cmocka_unit_test(test_every_allocation_fails_once),
        cmocka_unit_test(test_few_descriptors),
        cmocka_unit_test(test_a_million_tasks_grow_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
