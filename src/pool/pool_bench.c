/* What the pool costs, beside its peers in the same run: a pool of threads with one mutex and one condition (the usual way),
 * and OpenMP. Rounds of all are interleaved; medians of the rounds. */
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/number.h"
#include "manyhands/pool.h"

enum { ROUNDS = 7, WORKERS = 2, TASKS = 200000, TRIPS = 3000, ITEMS = 1 << 23, ARRAYS = 64, DEATHS = 60 };
enum { ARRAY_BYTES = 8 << 20 };

static void must(mh_err err)
{
    if (!err)
        return;
    fprintf(stderr, "%s: %s\n", mh_err_name(err), mh_err_detail());
    abort();
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double part(double *values, size_t count, double share)
{
    qsort(values, count, sizeof *values, by_value);
    return values[MH__MIN((size_t)(share * (double)count), count - 1)];
}

static double since_us(int64_t begin) { return (double)(mh_now() - begin) / 1e3; }

/* ---- tasks --------------------------------------------------------------------------------------- */

static mh_err square(mh_task *task, void *ctx)
{
    (void)ctx;
    mh_bytes in = mh_task_input(task);
    int64_t x;
    if (in.size >= ARRAY_BYTES) { /* an array: add one to each item */
        void *out;
        mh_err err = mh_task_reply_reserve(task, in.size, &out);
        if (err)
            return err;
        for (size_t i = 0; i < in.size / 8; i++)
            ((int64_t *)out)[i] = ((const int64_t *)in.data)[i] + 1;
        mh_task_reply_size(task, in.size);
        return MH_OK;
    }
    memcpy(&x, in.data, sizeof x);
    if (x == -1 && mh_task_attempt(task) == 1)
        raise(SIGKILL);
    x *= x;
    return mh_task_reply(task, (mh_bytes){&x, sizeof x});
}

static mh_pool *make_pool(mh_worker_kind kind)
{
    mh_pool *pool = NULL;
    must(mh_pool_create(&pool, &(mh_pool_options){.run = square, .workers = WORKERS, .kind = kind}));
    return pool;
}

static double stream_tasks(void *arg)
{
    static int64_t values[512];
    static mh_result results[1024];
    mh_pool *pool = arg;
    mh_stream *s = NULL;
    int64_t begin = mh_now();
    must(mh_stream_create(&s, pool, NULL));
    for (size_t sent = 0, taken = 0, got; taken < TASKS;) {
        size_t most = MH__MIN(MH__MIN((size_t)TASKS - sent, MH__COUNT_OF(values)), mh_stream_room(s));
        for (size_t i = 0; i < most; i++)
            values[i] = (int64_t)(sent + i);
        if (most) {
            must(mh_stream_submit_many(s, values, sizeof *values, most, sent, &got));
            sent += got;
            if (sent < TASKS && mh_stream_room(s))
                continue;
        }
        must(mh_stream_take_many(s, MH_FOREVER, results, MH__COUNT_OF(results), &got));
        taken += got;
        mh_results_release(results, got);
    }
    mh_stream_destroy(&s);
    return TASKS / since_us(begin);
}

static double future_tasks(void *arg)
{
    enum { AT_ONCE = 10000 };
    static mh_future *f[AT_ONCE];
    int64_t begin = mh_now();
    for (int64_t done = 0; done < TASKS; done += AT_ONCE) {
        for (int64_t i = 0; i < AT_ONCE; i++)
            must(mh_pool_submit(arg, (mh_bytes){&i, sizeof i}, NULL, &f[i]));
        for (int64_t i = 0; i < AT_ONCE; i++) {
            mh_result result;
            must(mh_future_result(f[i], MH_FOREVER, &result));
            mh_result_release(&result);
            mh_future_release(&f[i]);
        }
    }
    return TASKS / since_us(begin);
}

static double trips[TRIPS];

static void round_trips(mh_pool *pool, double *p50, double *p99)
{
    for (int i = 0; i < TRIPS; i++) {
        int64_t begin = mh_now(), x = i;
        mh_future *f = NULL;
        mh_result result;
        must(mh_pool_submit(pool, (mh_bytes){&x, sizeof x}, NULL, &f));
        must(mh_future_result(f, MH_FOREVER, &result));
        mh_result_release(&result);
        mh_future_release(&f);
        trips[i] = since_us(begin);
    }
    *p50 = part(trips, TRIPS, 0.5);
    *p99 = part(trips, TRIPS, 0.99);
}

/* ---- the peer: threads, a mutex, a condition ------------------------------------------------------- */

static struct queue {
    pthread_mutex_t lock;
    pthread_cond_t some, finished;
    int64_t tasks[1024], sum;
    size_t head, tail, done;
    bool ends;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .some = PTHREAD_COND_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER};

static void *serve_queue(void *ctx)
{
    (void)ctx;
    pthread_mutex_lock(&queue.lock);
    for (;;) {
        while (queue.head == queue.tail && !queue.ends)
            pthread_cond_wait(&queue.some, &queue.lock);
        if (queue.head == queue.tail)
            break;
        int64_t x = queue.tasks[queue.head++ % MH__COUNT_OF(queue.tasks)];
        pthread_mutex_unlock(&queue.lock);
        x *= x;
        pthread_mutex_lock(&queue.lock);
        queue.sum += x;
        queue.done++;
        pthread_cond_signal(&queue.finished);
    }
    pthread_mutex_unlock(&queue.lock);
    return NULL;
}

static double queue_tasks(void *arg)
{
    (void)arg;
    size_t target = queue.done + TASKS;
    int64_t begin = mh_now();
    pthread_mutex_lock(&queue.lock);
    for (int64_t i = 0; i < TASKS; i++) {
        while (queue.tail - queue.head == MH__COUNT_OF(queue.tasks))
            pthread_cond_wait(&queue.finished, &queue.lock);
        queue.tasks[queue.tail++ % MH__COUNT_OF(queue.tasks)] = i;
        pthread_cond_signal(&queue.some);
        pthread_mutex_unlock(&queue.lock); /* a task at a time, as a submitter does */
        pthread_mutex_lock(&queue.lock);
    }
    while (queue.done < target)
        pthread_cond_wait(&queue.finished, &queue.lock);
    pthread_mutex_unlock(&queue.lock);
    return TASKS / since_us(begin);
}

static void queue_trips(double *p50, double *p99)
{
    for (int i = 0; i < TRIPS; i++) {
        int64_t begin = mh_now();
        pthread_mutex_lock(&queue.lock);
        size_t target = queue.done + 1;
        queue.tasks[queue.tail++ % MH__COUNT_OF(queue.tasks)] = i;
        pthread_cond_signal(&queue.some);
        while (queue.done < target)
            pthread_cond_wait(&queue.finished, &queue.lock);
        pthread_mutex_unlock(&queue.lock);
        trips[i] = since_us(begin);
    }
    *p50 = part(trips, TRIPS, 0.5);
    *p99 = part(trips, TRIPS, 0.99);
}

static double omp_tasks(void *arg)
{
    (void)arg;
    static int64_t out[TASKS];
    int64_t begin = mh_now();
#pragma omp parallel num_threads(WORKERS)
#pragma omp single
    for (int64_t i = 0; i < TASKS; i++) {
#pragma omp task firstprivate(i)
        out[i] = i * i;
    }
    double rate = TASKS / since_us(begin);
    return out[TASKS - 1] ? rate : 0;
}

/* ---- maps ------------------------------------------------------------------------------------------ */

static mh_err work(const void *in, void *out, size_t count, const void *ctx)
{
    (void)ctx;
    const int64_t *from = in;
    int64_t *to = out;
    for (size_t i = 0; i < count; i++) { /* some nanoseconds each, so that memory is not the limit */
        uint64_t x = (uint64_t)from[i];
        for (int k = 0; k < 8; k++)
            x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        to[i] = (int64_t)x;
    }
    return MH_OK;
}

typedef struct arrays {
    mh_pool *pool;
    int64_t *in, *out;
} arrays;

static double map_loop(void *arg)
{
    arrays *a = arg;
    int64_t begin = mh_now();
    must(work(a->in, a->out, ITEMS, NULL));
    return ITEMS / since_us(begin);
}

static double map_pool(void *arg)
{
    arrays *a = arg;
    int64_t begin = mh_now();
    must(mh_pool_map(a->pool, work, a->in, sizeof *a->in, a->out, sizeof *a->out, ITEMS, NULL));
    return ITEMS / since_us(begin);
}

static double map_omp(void *arg)
{
    arrays *a = arg;
    int64_t begin = mh_now();
#pragma omp parallel for num_threads(WORKERS) schedule(static)
    for (int i = 0; i < ITEMS; i += 4096)
        must(work(a->in + i, a->out + i, 4096, NULL));
    return ITEMS / since_us(begin);
}

/* ---- large arrays ------------------------------------------------------------------------------------ */

static double move_arrays(void *arg)
{
    mh_pool *pool = arg;
    static int64_t *source;
    if (!source)
        source = calloc(1, ARRAY_BYTES);
    mh_stream *s = NULL;
    int64_t begin = mh_now();
    must(mh_stream_create(&s, pool, &(mh_stream_options){.window = 2 * WORKERS}));
    for (int sent = 0, taken = 0; taken < ARRAYS;) {
        for (; sent < ARRAYS && mh_stream_room(s); sent++) {
            mh_block *block = NULL;
            must(mh_block_create(&block, pool, ARRAY_BYTES));
            memcpy(mh_block_data(block), source, ARRAY_BYTES);
            must(mh_stream_submit_block(s, &block, ARRAY_BYTES, (uint64_t)sent));
        }
        mh_result result;
        must(mh_stream_take(s, MH_FOREVER, &result));
        taken++;
        mh_result_release(&result);
    }
    mh_stream_destroy(&s);
    return 2.0 * ARRAYS * ARRAY_BYTES / since_us(begin) / 1e3;
}

/* ---- deaths and lives --------------------------------------------------------------------------------- */

static void deaths(mh_pool *pool)
{
    static double moved[DEATHS];
    for (int i = 0; i < DEATHS; i++) {
        int64_t x = -1, begin = mh_now();
        mh_future *f = NULL;
        must(mh_pool_submit(pool, (mh_bytes){&x, sizeof x}, &(mh_submit_options){.lost_retries = 1}, &f));
        must(mh_future_wait(f, MH_FOREVER));
        moved[i] = since_us(begin);
        mh_future_release(&f);
    }
    double p50 = part(moved, DEATHS, 0.5), p99 = part(moved, DEATHS, 0.99);
    printf("task killed with its worker, run by another    p50 %8.0f us  p99 %8.0f us\n", p50, p99);
}

static void lives(mh_worker_kind kind, const char *name)
{
    static double whole[40];
    for (size_t i = 0; i < MH__COUNT_OF(whole); i++) {
        int64_t begin = mh_now(), x = 3;
        mh_pool *pool = make_pool(kind);
        mh_future *f = NULL;
        must(mh_pool_submit(pool, (mh_bytes){&x, sizeof x}, NULL, &f));
        must(mh_future_wait(f, MH_FOREVER));
        mh_future_release(&f);
        mh_pool_destroy(&pool);
        whole[i] = since_us(begin);
    }
    double p50 = part(whole, MH__COUNT_OF(whole), 0.5), p99 = part(whole, MH__COUNT_OF(whole), 0.99);
    printf("pool of %-9s created, one task, destroyed   p50 %8.0f us  p99 %8.0f us\n", name, p50, p99);
}

/* ---- the table ------------------------------------------------------------------------------------------ */

typedef struct row {
    const char *name;
    double (*run)(void *arg);
    void *arg;
    double rounds[ROUNDS];
} row;

static void compare(const char *unit, row *rows, size_t count)
{
    for (int r = 0; r < ROUNDS; r++)
        for (size_t i = 0; i < count; i++)
            rows[i].rounds[r] = rows[i].run(rows[i].arg);
    double first = part(rows[0].rounds, ROUNDS, 0.5);
    for (size_t i = 0; i < count; i++) {
        double median = part(rows[i].rounds, ROUNDS, 0.5), worst = part(rows[i].rounds, ROUNDS, 0);
        printf("%-46s %8.2f %s  worst %7.2f  ratio to the first %.2f\n", rows[i].name, median, unit, worst, median / first);
    }
    puts("");
}

static void compare_trips(mh_pool *processes, mh_pool *threads)
{
    double p[3][ROUNDS], q[3][ROUNDS];
    static const char *const names[] = {"pthreads, mutex and condition", "threads", "processes"};
    for (int r = 0; r < ROUNDS; r++) {
        queue_trips(&p[0][r], &q[0][r]);
        round_trips(threads, &p[1][r], &q[1][r]);
        round_trips(processes, &p[2][r], &q[2][r]);
    }
    for (int i = 0; i < 3; i++)
        printf("round trip, %-34s p50 %8.1f us  p99 %8.1f us\n", names[i], part(p[i], ROUNDS, 0.5), part(q[i], ROUNDS, 0.5));
    puts("");
}

int main(void)
{
    lives(MH_WORKER_PROCESS, "processes");
    lives(MH_WORKER_THREAD, "threads");
    mh_shm *memory = NULL;
    must(mh_shm_create(&memory, 2 * sizeof(int64_t) * ITEMS));
    mh_pool *processes = make_pool(MH_WORKER_PROCESS), *threads = make_pool(MH_WORKER_THREAD);
    deaths(processes);
    pthread_t servers[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        pthread_create(&servers[i], NULL, serve_queue, NULL);
    compare_trips(processes, threads);
    row tasks[] = {{"tasks, pthreads, mutex and condition", queue_tasks, NULL, {0}},
                   {"tasks, OpenMP task", omp_tasks, NULL, {0}},
                   {"tasks, stream to processes", stream_tasks, processes, {0}},
                   {"tasks, stream to threads", stream_tasks, threads, {0}},
                   {"tasks, futures from processes", future_tasks, processes, {0}},
                   {"tasks, futures from threads", future_tasks, threads, {0}}};
    compare("M/s", tasks, MH__COUNT_OF(tasks));
    arrays a = {processes, mh_shm_data(memory), (int64_t *)mh_shm_data(memory) + ITEMS};
    row maps[] = {{"map, plain loop", map_loop, &a, {0}},
                  {"map, OpenMP parallel for", map_omp, &a, {0}},
                  {"map, mh_pool_map on processes", map_pool, &a, {0}}};
    compare("M items/s", maps, MH__COUNT_OF(maps));
    row large[] = {{"arrays of 8 MB in and out, processes", move_arrays, processes, {0}}};
    compare("GB/s", large, 1);
    pthread_mutex_lock(&queue.lock);
    queue.ends = true;
    pthread_cond_broadcast(&queue.some);
    pthread_mutex_unlock(&queue.lock);
    for (int i = 0; i < WORKERS; i++)
        pthread_join(servers[i], NULL);
    mh_pool_destroy(&processes);
    mh_pool_destroy(&threads);
    mh_shm_destroy(&memory);
    return 0;
}
