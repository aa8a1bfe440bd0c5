/* A memory limit for each task, and a report of where the time went. */
#include <manyhands.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Takes as many megabytes as its input says. */
static mh_err take(mh_task *task, void *ctx)
{
    (void)ctx;
    size_t megabytes;
    if (mh_task_input(task).size != sizeof megabytes)
        return MH_ERR_INVALID;
    memcpy(&megabytes, mh_task_input(task).data, sizeof megabytes);
    mh_task_label(task, "take");
    char *memory = malloc(megabytes << 20);
    if (!memory)
        return MH_ERR_NO_MEMORY;
    memset(memory, 1, megabytes << 20);
    size_t sum = 0;
    for (size_t i = 0; i < megabytes << 20; i += 4096)
        sum += (unsigned char)memory[i];
    free(memory);
    return mh_task_reply(task, (mh_bytes){&sum, sizeof sum});
}

static mh_err run(mh_pool *pool, size_t megabytes)
{
    mh_future *future = NULL;
    mh_buf *reply = NULL;
    mh_submit_options limit = {.memory_bytes = (size_t)64 << 20, .oom_retries = 1};
    mh_err err = mh_pool_submit(pool, (mh_bytes){&megabytes, sizeof megabytes}, &limit, &future);
    if (!err)
        err = mh_future_take(future, MH_FOREVER, &reply);
    printf("%5zu MB: %s\n", megabytes, mh_err_text(err));
    mh_buf_destroy(&reply);
    mh_future_release(&future);
    return err;
}

static void report(mh_pool *pool)
{
    mh_worker_stats workers[16];
    size_t count = sizeof workers / sizeof *workers;
    mh_buf *json = NULL;
    mh_pool_worker_stats(pool, workers, &count);
    for (size_t i = 0; i < count && i < sizeof workers / sizeof *workers; i++)
        printf("worker %d: %llu tasks, busy %.3f ms, idle %.3f ms\n", (int)workers[i].pid, (unsigned long long)workers[i].tasks,
               (double)workers[i].busy_ns / 1e6, (double)workers[i].idle_ns / 1e6);
    if (!mh_pool_trace(pool, &json))
        printf("%zu bytes of trace\n", mh_buf_size(json));
    mh_buf_destroy(&json);
}

int main(void)
{
    mh_pool *pool = NULL;
    if (mh_pool_create(&pool, &(mh_pool_options){.run = take, .workers = 2, .trace_events = 1000})) {
        fprintf(stderr, "%s\n", mh_err_detail());
        return 1;
    }
    mh_err small = run(pool, 8), large = run(pool, 4096), again = run(pool, 8);
    report(pool);
    mh_pool_destroy(&pool);
    return small || again || large != MH_ERR_OUT_OF_MEMORY_TASK;
}
