/* The Python executor: a child process at the other end of a pipe in shared memory. */
#include "cluster/executor.h"
#include "cluster/link.h"

#include "base/error.h"
#include "base/memory.h"
#include "manyhands/shm.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { ARGV_MAX = 32, NUMBER_SIZE = 12, MESSAGES_A_ROUND = 64 };
/* Sparse: a message that fits never waits for its reader. Larger ones pass in pieces, and the reader must move. */
#define CAPACITY ((size_t)1 << 30)
#define SEND_NS (10 * MH_SECOND)
#define NO_CLAIM UINT32_MAX

typedef struct python_executor {
    mh__executor base;
    mh_pipe *pipe;
    mh_process *process;
    int pipe_fd, sentinel;
    bool has_ended;
    mh_shm *claims;
    _Atomic uint32_t *claim;     /* MH__LINK_CLAIMS of them: link.h */
    uint32_t given[MH__LINK_CLAIMS]; /* what has not been answered, oldest first: its claim, or NO_CLAIM */
    size_t given_count;
    uint32_t next;               /* claims are used in turn, as they become free */
} python_executor;

typedef struct held_message {
    mh__hold base;
    mh__link_message message;
} held_message;

static void destroy_held(mh__hold *h)
{
    held_message *held = (held_message *)h;
    mh__link_message_clear(&held->message);
    mh__free(held);
}

/* ---- its end --------------------------------------------------------------------------------- */

static void stop_listening(python_executor *e)
{
    if (e->pipe_fd >= 0)
        mh__loop_remove_fd(e->base.loop, e->pipe_fd);
    if (e->sentinel >= 0)
        mh__loop_remove_fd(e->base.loop, e->sentinel);
    e->pipe_fd = e->sentinel = -1;
}

static void end(python_executor *e, const char *why)
{
    if (e->has_ended)
        return;
    e->has_ended = true;
    stop_listening(e);
    e->base.events.on_end(e->base.events.ctx, why);
}

static void take_all(python_executor *e);

static void on_exit(int fd, void *ctx)
{
    python_executor *e = ctx;
    mh_exit status = {0};
    char why[96];
    (void)fd;
    if (mh_process_wait(e->process, MH_NOW, &status) == MH_ERR_TIMEOUT)
        return;
    take_all(e); /* what it said before it died counts */
    if (status.signal)
        snprintf(why, sizeof why, "the executor was killed by signal %d (%s)", status.signal, strsignal(status.signal));
    else
        snprintf(why, sizeof why, "the executor exited with code %d", status.code);
    end(e, why);
}

/* ---- what it says ---------------------------------------------------------------------------- */

static bool is_frame(const mh__link_message *m, size_t index, const char *text)
{
    return m->frames[index].size == strlen(text) && !memcmp(m->frames[index].data, text, m->frames[index].size);
}

static void forget_given(python_executor *e, size_t nth)
{
    if (nth < e->given_count)
        memmove(e->given + nth, e->given + nth + 1, (--e->given_count - nth) * sizeof *e->given);
}

static bool hear(python_executor *e, held_message *held)
{
    const mh__link_message *m = &held->message;
    const mh__executor_events *events = &e->base.events;
    switch (m->kind) {
    case MH__LINK_READY:
        events->on_ready(events->ctx);
        return true;
    case MH__LINK_REPLY:
        if (m->count < 2)
            return false;
        forget_given(e, 0);
        events->on_answer(events->ctx, &(mh__answer){.content = m->frames[0], .is_met = is_frame(m, 1, "1"), .buffers = m->frames + 2,
                                                     .buffer_count = m->count - 2, .hold = &held->base});
        return true;
    case MH__LINK_OUTPUT:
        if (m->count < 3)
            return false;
        events->on_output(events->ctx, &(mh__output){.type = m->frames[0], .content = m->frames[1], .metadata = m->frames[2],
                                                     .buffers = m->frames + 3, .buffer_count = m->count - 3, .hold = &held->base});
        return true;
    default: return false;
    }
}

/* One message. False when there is none, or the executor is at its end. */
static bool take_one(python_executor *e)
{
    held_message *held = mh__calloc(1, sizeof *held);
    if (!held)
        return false; /* it stays in the pipe for the next round */
    held->base.destroy = destroy_held;
    atomic_store(&held->base.refs, 1);
    mh_err err = mh__link_receive(e->pipe, MH_NOW, &held->message);
    bool is_good = !err && hear(e, held);
    mh__hold_drop(&held->base);
    if (err == MH_ERR_CORRUPT || (!err && !is_good)) {
        end(e, "the executor's pipe holds no valid message");
        return false;
    }
    return is_good; /* CLOSED: the process itself tells how it ended */
}

static void take_all(python_executor *e)
{
    while (!e->has_ended && take_one(e))
        continue;
}

static void on_readable(int fd, void *ctx)
{
    python_executor *e = ctx;
    (void)fd;
    for (int i = 0; i < MESSAGES_A_ROUND && !e->has_ended && take_one(e); i++)
        continue;
    if (!e->has_ended && mh_pipe_wait(e->pipe, MH_NOW) == MH_ERR_CLOSED && e->pipe_fd >= 0) {
        mh__loop_remove_fd(e->base.loop, e->pipe_fd); /* hung up: would be readable for ever */
        e->pipe_fd = -1;
    }
}

/* ---- the interface --------------------------------------------------------------------------- */

static mh_err run(mh__executor *base, const mh__request *r)
{
    python_executor *e = (python_executor *)base;
    mh_bytes *frames = mh__calloc(r->buffer_count + 2, sizeof *frames);
    size_t count = 0;
    uint32_t kind = MH__LINK_OTHER, claim = NO_CLAIM;
    if (!frames)
        return MH_ERR_NO_MEMORY;
    if (e->given_count == MH__LINK_CLAIMS) {
        mh__free(frames);
        return mh__fail(MH_ERR_LIMIT, "the executor has %d requests", MH__LINK_CLAIMS);
    }
    if (r->kind == MH__REQUEST_APPLY) {
        kind = MH__LINK_APPLY;
        claim = e->next % MH__LINK_CLAIMS;
        frames[count++] = (mh_bytes){&claim, sizeof claim};
        if (r->buffer_count)
            memcpy(frames + count, r->buffers, r->buffer_count * sizeof *frames);
        count += r->buffer_count;
    } else if (r->kind == MH__REQUEST_EXECUTE) {
        kind = MH__LINK_EXECUTE;
        frames[count++] = r->content;
    } else {
        frames[count++] = r->type;
        frames[count++] = r->content;
    }
    if (claim != NO_CLAIM)
        atomic_store_explicit(&e->claim[claim], MH__LINK_OFFERED, memory_order_relaxed); /* the pipe orders it */
    mh_err err = mh__link_send(e->pipe, kind, frames, count, mh_deadline_in(SEND_NS));
    mh__free(frames);
    if (!err) {
        e->given[e->given_count++] = claim;
        e->next += claim != NO_CLAIM;
    }
    return err;
}

/* Claims become free in their turn. What the executor writes there can only make us wait: the engine gives one request however that is. */
static size_t window(mh__executor *base)
{
    python_executor *e = (python_executor *)base;
    bool is_free = atomic_load_explicit(&e->claim[e->next % MH__LINK_CLAIMS], memory_order_acquire) == MH__LINK_FREE;
    return e->given_count + (is_free && e->given_count < MH__LINK_CLAIMS);
}

static bool take_back(mh__executor *base, size_t nth)
{
    python_executor *e = (python_executor *)base;
    uint32_t offered = MH__LINK_OFFERED;
    if (nth >= e->given_count || e->given[nth] == NO_CLAIM ||
        !atomic_compare_exchange_strong(&e->claim[e->given[nth]], &offered, MH__LINK_REVOKED))
        return false;
    forget_given(e, nth);
    return true;
}

static mh_err send_signal(mh__executor *base, int number) { return mh_process_signal(((python_executor *)base)->process, number); }

static void destroy(mh__executor *base)
{
    python_executor *e = (python_executor *)base;
    stop_listening(e);
    mh_process_destroy(&e->process);
    mh_pipe_destroy(&e->pipe);
    mh_shm_destroy(&e->claims);
    mh__free(e);
}

static const mh__executor_kind python_kind = {run, send_signal, destroy, window, NULL, NULL, take_back};

/* ---- its start ------------------------------------------------------------------------------- */

static mh_err start_process(python_executor *e, const mh_pipe *theirs, const char *const *argv)
{
    const char *whole[ARGV_MAX + 5];
    char numbers[4][NUMBER_SIZE];
    mh_pipe_parts parts = mh_pipe_borrow_parts(theirs);
    size_t count = 0;
    while (argv[count] && count < ARGV_MAX) {
        whole[count] = argv[count];
        count++;
    }
    if (argv[count])
        return mh__fail(MH_ERR_INVALID, "an executor's command has more than %d words", ARGV_MAX);
    snprintf(numbers[0], NUMBER_SIZE, "%d", parts.memory);
    snprintf(numbers[1], NUMBER_SIZE, "%d", parts.socket);
    snprintf(numbers[2], NUMBER_SIZE, "%u", parts.side);
    snprintf(numbers[3], NUMBER_SIZE, "%d", mh_shm_fd(e->claims));
    for (int i = 0; i < 4; i++)
        whole[count++] = numbers[i];
    whole[count] = NULL;
    mh_pass_fd fds[] = {{parts.memory, -1}, {parts.socket, -1}, {mh_shm_fd(e->claims), -1}};
    return mh_process_start(&e->process, &(mh_process_options){.argv = whole, .fds = fds, .fd_count = 3, .stdin_null = true, .new_group = true});
}

static mh_err start(python_executor *e, const char *const *argv, mh_bytes settings)
{
    mh_pipe *theirs = NULL;
    mh_err err = mh_pipe_create(&e->pipe, &theirs, &(mh_pipe_options){.duplex = true, .capacity_bytes = CAPACITY});
    if (!err)
        err = mh_shm_create(&e->claims, MH__LINK_CLAIMS * sizeof *e->claim);
    if (!err) {
        e->claim = mh_shm_data(e->claims);
        err = start_process(e, theirs, argv);
    }
    mh_pipe_destroy(&theirs); /* the child has its own */
    if (!err)
        err = mh__link_send(e->pipe, MH__LINK_SETUP, &settings, 1, mh_deadline_in(SEND_NS));
    if (!err)
        err = mh_pipe_borrow_descriptor(e->pipe, &e->pipe_fd);
    if (!err && (err = mh__loop_add_fd(e->base.loop, e->pipe_fd, on_readable, e)))
        e->pipe_fd = -1;
    if (!err && !(err = mh__loop_add_fd(e->base.loop, mh_process_sentinel(e->process), on_exit, e)))
        e->sentinel = mh_process_sentinel(e->process);
    return err;
}

mh_err mh__python_executor_create(mh__executor **out, mh__loop *l, const char *const *argv, mh_bytes settings,
                                  const mh__executor_events *events)
{
    *out = NULL;
    python_executor *e = mh__calloc(1, sizeof *e);
    if (!e)
        return MH_ERR_NO_MEMORY;
    e->base = (mh__executor){&python_kind, *events, l};
    e->pipe_fd = e->sentinel = -1;
    mh_err err = start(e, argv, settings);
    if (err) {
        destroy(&e->base);
        return err;
    }
    *out = &e->base;
    return MH_OK;
}
