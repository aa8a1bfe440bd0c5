/* What the pool's tests share: task functions and a few words. */
#ifndef POOL_TEST_H
#define POOL_TEST_H

#include "manyhands/pool.h"
#include "mh_test.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the test's task does, in the first byte of its bytes; the rest is its argument. */
typedef struct job {
    char what;      /* see do_job */
    char pad[3];
    uint32_t until; /* the attempts that misbehave: all up to this one */
    int64_t value;
} job;

#define PATIENCE mh_deadline_in(20 * MH_SECOND)

static inline void hang(void)
{
    for (;;)
        pause();
}

static mh_err do_job(mh_task *task, void *ctx)
{
    (void)ctx;
    mh_bytes in = mh_task_input(task);
    job j;
    if (in.size < sizeof j)
        return MH_ERR_INVALID;
    memcpy(&j, in.data, sizeof j);
    bool bad = mh_task_attempt(task) <= j.until;
    if (bad && j.what == 'k')
        raise(SIGKILL);
    if (bad && j.what == 'a')
        abort();
    if (bad && j.what == 'e')
        _exit((int)j.value);
    if (bad && j.what == 's')
        raise(SIGSTOP);
    if (bad && j.what == 'h')
        hang();
    if (j.what == 'p') { /* who ran it */
        int32_t pid = getpid();
        return mh_task_reply(task, (mh_bytes){&pid, sizeof pid});
    }
    if (bad && j.what == 'f') {
        mh_err err = mh_task_reply(task, (mh_bytes){"it failed", 9});
        return err ? err : MH_ERR_TASK_FAILED;
    }
    if (j.what == 'w') { /* wait until somebody writes a byte into the pipe whose number is the value */
        char byte;
        if (read((int)j.value, &byte, 1) != 1)
            return MH_ERR_TASK_FAILED;
    }
    if (j.what == 'E') /* give back all that came */
        return mh_task_reply(task, in);
    int64_t squared = j.value * j.value;
    return mh_task_reply(task, (mh_bytes){&squared, sizeof squared});
}

static inline mh_bytes bytes_of(const job *j) { return (mh_bytes){j, sizeof *j}; }

static inline mh_future *submit(mh_pool *pool, job j, const mh_submit_options *o)
{
    mh_future *f = NULL;
    assert_ok(mh_pool_submit(pool, bytes_of(&j), o, &f));
    return f;
}

static inline mh_result result_of(mh_future *f)
{
    mh_result result;
    assert_ok(mh_future_result(f, PATIENCE, &result));
    return result;
}

static inline int64_t number_in(mh_bytes reply)
{
    int64_t value;
    assert_int_equal(reply.size, sizeof value);
    memcpy(&value, reply.data, sizeof value);
    return value;
}

/* Submit, wait and check the square. */
static inline void check_square(mh_pool *pool, int64_t value)
{
    mh_future *f = submit(pool, (job){.what = 'q', .value = value}, NULL);
    mh_result result = result_of(f);
    assert_int_equal(result.err, MH_OK);
    assert_int_equal(number_in(result.reply), value * value);
    mh_result_release(&result);
    mh_future_release(&f);
}

static inline mh_pool *make_pool(mh_worker_kind kind, size_t workers)
{
    mh_pool *pool = NULL;
    assert_ok(mh_pool_create(&pool, &(mh_pool_options){.run = do_job, .workers = workers, .kind = kind}));
    return pool;
}

static inline void end_pool(mh_pool **pool)
{
    mh_pool_close(*pool);
    assert_ok(mh_pool_join(*pool, PATIENCE));
    mh_pool_destroy(pool);
    assert_null(*pool);
}

static inline int rounds(int usual) { return getenv("MH_LONG") ? 50 * usual : usual; }

#endif
