/* The example at the top of manyhands/pool.h: one task on a pool, and then many through a stream.
 *
 *     pool
 */
#include <manyhands.h>

#include <stdio.h>
#include <string.h>

static mh_err square(mh_task *task, void *ctx)
{
    (void)ctx;
    int64_t x;
    if (mh_task_input(task).size != sizeof x)
        return MH_ERR_INVALID;
    memcpy(&x, mh_task_input(task).data, sizeof x);
    x *= x;
    return mh_task_reply(task, (mh_bytes){&x, sizeof x});
}

/* Squares of 0 to 9, in order, at most four of them under way. */
static mh_err print_squares(mh_pool *pool)
{
    mh_stream *s = NULL;
    mh_err err = mh_stream_create(&s, pool, &(mh_stream_options){.ordered = true, .window = 4});
    int64_t next = 0;
    while (!err) {
        for (; !err && next < 10 && mh_stream_room(s); next++)
            err = mh_stream_submit(s, (mh_bytes){&next, sizeof next}, (uint64_t)next);
        mh_result result = {0};
        if (!err)
            err = mh_stream_take(s, MH_FOREVER, &result);
        if (!err)
            err = result.err;
        int64_t squared;
        if (!err) {
            memcpy(&squared, result.reply.data, sizeof squared);
            printf("%d squared is %lld\n", (int)result.tag, (long long)squared);
        }
        mh_result_release(&result);
    }
    mh_stream_destroy(&s);
    return err == MH_ERR_EMPTY ? MH_OK : err; /* all are taken */
}

int main(void)
{
    mh_pool *pool = NULL;
    mh_future *f = NULL;
    mh_buf *reply = NULL;
    int64_t x = 7;
    mh_err err = mh_pool_create(&pool, &(mh_pool_options){.run = square});
    if (!err) err = mh_pool_submit(pool, (mh_bytes){&x, sizeof x}, NULL, &f);
    if (!err) err = mh_future_take(f, MH_FOREVER, &reply);
    if (!err) {
        memcpy(&x, mh_buf_data(reply), sizeof x);
        printf("the answer is %lld\n", (long long)x);
        err = print_squares(pool);
    }
    if (err)
        fprintf(stderr, "%s: %s\n", mh_err_text(err), mh_err_detail());
    mh_buf_destroy(&reply);
    mh_future_release(&f);
    mh_pool_destroy(&pool);
    return err ? 1 : 0;
}
