/* The task library of test_engine.py. */
#include <manyhands/engine.h>

#include <stdlib.h>
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

static mh_err reverse(mh_task *task, void *ctx)
{
    (void)ctx;
    mh_bytes in = mh_task_input(task);
    void *room;
    mh_err err = mh_task_reply_reserve(task, in.size, &room);
    if (err)
        return err;
    for (size_t i = 0; i < in.size; i++)
        ((char *)room)[i] = ((const char *)in.data)[in.size - 1 - i];
    mh_task_reply_size(task, in.size);
    return MH_OK;
}

static mh_err complain(mh_task *task, void *ctx)
{
    mh_err err = mh_task_reply(task, (mh_bytes){ctx, strlen(ctx)});
    return err ? err : MH_ERR_TASK_FAILED;
}

static mh_err die(mh_task *task, void *ctx)
{
    (void)task, (void)ctx;
    abort();
}

static const mh_task_entry entries[] = {{"square", square}, {"reverse", reverse}, {"complain", complain}, {"die", die}};
MH_API const mh_task_library mh_tasks = {MH_TASK_LIBRARY_ABI, 4, entries, (void *)(uintptr_t)"that is no number"};
