/* The task library of test_engine.py. */
#include <manyhands/engine.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* Ends when the file that is named exists, or after a minute. */
static mh_err await_file(mh_task *task, void *ctx)
{
    char path[256] = "";
    (void)ctx;
    mh_bytes in = mh_task_input(task);
    memcpy(path, in.data, in.size < sizeof path ? in.size : sizeof path - 1);
    for (int i = 0; i < 12000 && access(path, F_OK) < 0; i++)
        usleep(5000);
    return mh_task_reply(task, in);
}

/* Squares of int64_t, as many as there are. */
static mh_err squares(mh_task *task, void *ctx)
{
    (void)ctx;
    mh_bytes in = mh_task_input(task);
    void *room;
    mh_err err = mh_task_reply_reserve(task, in.size, &room);
    for (size_t i = 0; !err && i < in.size / sizeof(int64_t); i++)
        ((int64_t *)room)[i] = ((const int64_t *)in.data)[i] * ((const int64_t *)in.data)[i];
    if (!err)
        mh_task_reply_size(task, in.size);
    return err;
}

/* Add a line to the file that the input names, then wait until "<name>.go" is there: who runs how often, and until when. */
static mh_err mark(mh_task *task, void *ctx)
{
    char path[512], go[520];
    mh_bytes in = mh_task_input(task);
    (void)ctx;
    if (in.size >= sizeof path)
        return MH_ERR_INVALID;
    memcpy(path, in.data, in.size);
    path[in.size] = 0;
    snprintf(go, sizeof go, "%s.go", path);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, "ran\n", 4) != 4)
        return MH_ERR_SYSTEM;
    close(fd);
    while (access(go, F_OK) < 0)
        usleep(2000);
    return mh_task_reply(task, in);
}

/* How many bytes came, and the sum of the first and last. */
static mh_err measure(mh_task *task, void *ctx)
{
    (void)ctx;
    mh_bytes in = mh_task_input(task);
    const unsigned char *at = in.data;
    int64_t said[2] = {(int64_t)in.size, in.size ? at[0] + at[in.size - 1] : 0};
    return mh_task_reply(task, (mh_bytes){said, sizeof said});
}

/* As many bytes as the input says, of which the first and the last are ones. */
static mh_err fill(mh_task *task, void *ctx)
{
    (void)ctx;
    int64_t size;
    void *room;
    if (mh_task_input(task).size != sizeof size)
        return MH_ERR_INVALID;
    memcpy(&size, mh_task_input(task).data, sizeof size);
    mh_err err = size < 1 ? MH_ERR_INVALID : mh_task_reply_reserve(task, (size_t)size, &room);
    if (err)
        return err;
    ((char *)room)[0] = ((char *)room)[size - 1] = 1;
    mh_task_reply_size(task, (size_t)size);
    return MH_OK;
}

static const mh_task_entry entries[] = {{"square", square}, {"reverse", reverse}, {"complain", complain}, {"die", die},
                                        {"await_file", await_file}, {"squares", squares}, {"mark", mark},
                                        {"measure", measure}, {"fill", fill}};
MH_API const mh_task_library mh_tasks = {MH_TASK_LIBRARY_ABI, sizeof entries / sizeof entries[0], entries, (void *)(uintptr_t)"that is no number"};
