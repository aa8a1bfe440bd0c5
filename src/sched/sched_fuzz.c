/* Bytes become events, right and wrong ones, with handles that are present, old or made up. After each the whole state
 * must be valid, and at the end every task that was accepted must have ended once. */
#include "base/number.h"
#include "sched/sched_state.h"

#include <stdlib.h>
#include <string.h>

enum { HANDLES = 64, FUZZ_EVENTS = 600 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct input {
    const uint8_t *bytes;
    size_t left;
} input;

typedef struct fuzz {
    mh_sched *s;
    input in;
    mh_sched_task tasks[HANDLES];
    uint32_t epochs[HANDLES], task_count;
    mh_sched_worker workers[HANDLES], holders[HANDLES];
    uint32_t worker_count;
    mh_sched_group group;
    uint64_t accepted, ended;
    int64_t now;
} fuzz;

static uint32_t byte(input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->bytes++;
}

static void require(bool condition)
{
    if (!condition)
        abort();
}

static mh_sched_worker any_worker(fuzz *f)
{
    uint32_t i = byte(&f->in);
    return i < 250 ? f->workers[i % HANDLES] : (mh_sched_worker){i, i - 249};
}

static mh_sched_dependencies any_need(fuzz *f, mh_sched_dependency *items, uint32_t bits)
{
    uint32_t count = bits & 3;
    for (uint32_t i = 0; i < count; i++) {
        items[i] = (mh_sched_dependency){.task = f->tasks[byte(&f->in) % HANDLES]};
        if (bits & 64)
            items[i] = (mh_sched_dependency){.known = (mh_sched_outcome)(bits % 13), .worker = any_worker(f)};
    }
    return (mh_sched_dependencies){.items = items, .count = count, .any = bits & 4, .when = (mh_sched_when)(bits >> 3 & 3)};
}

static void submit(fuzz *f)
{
    mh_sched_dependency after[3], follow[3];
    mh_sched_worker targets[3];
    uint32_t bits = byte(&f->in), task = f->task_count % HANDLES;
    mh_sched_submit_options o = {
        .tag = task, .priority = bits & 7, .lost_retries = bits >> 3 & 1, .failed_retries = bits >> 4 & 1, .oom_retries = bits >> 5 & 1,
        .timeout_ns = bits & 64 ? 5 : 0, .wait_ns = bits & 128 ? (int64_t)byte(&f->in) : 0, .targets = targets,
    };
    bits = byte(&f->in);
    o.elsewhere = bits & 32;
    o.group = bits & 1 ? f->group : (mh_sched_group){0};
    if (bits & 2)
        o.after = any_need(f, after, byte(&f->in));
    if (bits & 4)
        o.follow = any_need(f, follow, byte(&f->in));
    for (o.target_count = 0; o.target_count < (bits >> 3 & 3); o.target_count++)
        targets[o.target_count] = any_worker(f);
    if (mh_sched_submit(f->s, &o, &f->tasks[task]) == MH_OK) {
        f->task_count++;
        f->accepted++;
    }
}

static void take_actions(fuzz *f, size_t capacity)
{
    mh_sched_action todo[16];
    size_t n = mh_sched_actions(f->s, todo, MH__MIN(capacity, MH__COUNT_OF(todo)));
    for (size_t i = 0; i < n; i++) {
        f->ended += todo[i].kind == MH_SCHED_DONE;
        if (todo[i].kind == MH_SCHED_ASSIGN) {
            f->epochs[todo[i].tag % HANDLES] = todo[i].epoch;
            f->holders[todo[i].tag % HANDLES] = todo[i].worker;
        }
    }
}

static void join(fuzz *f)
{
    mh_sched_worker_options o = {.capacity = byte(&f->in) % 5};
    if (f->worker_count < 200 && mh_sched_worker_join(f->s, &o, &f->workers[f->worker_count % HANDLES]) == MH_OK)
        f->worker_count++;
}

static void about_task(fuzz *f, uint32_t kind)
{
    uint32_t i = byte(&f->in) % HANDLES, more = byte(&f->in);
    mh_sched_task task = f->tasks[i];
    mh_sched_worker worker = more & 1 ? f->holders[i] : any_worker(f);
    uint32_t epoch = f->epochs[i] - (more >> 1 & 1);
    mh_err err = MH_OK;
    if (kind == 0)
        err = mh_sched_started(f->s, worker, task, epoch, f->now);
    else if (kind == 1)
        err = mh_sched_result(f->s, worker, task, epoch, (mh_sched_outcome)(more >> 2 & 15), (int64_t)byte(&f->in) - 1);
    else if (kind == 2)
        err = mh_sched_revoked(f->s, worker, task, epoch, more & 4);
    else
        err = mh_sched_cancel(f->s, task);
    require(err == MH_OK || err == MH_ERR_NOT_FOUND || err == MH_ERR_INVALID);
}

static void adopt(fuzz *f)
{
    uint32_t i = byte(&f->in) % HANDLES;
    mh_sched_worker worker = any_worker(f);
    if (mh_sched_adopt(f->s, worker, f->tasks[i], &f->epochs[i]) == MH_OK)
        f->holders[i] = worker;
}

static void one_event(fuzz *f)
{
    uint32_t kind = byte(&f->in) % 16;
    mh_err err = MH_OK;
    if (kind < 3)
        submit(f);
    else if (kind < 5)
        join(f);
    else if (kind < 7)
        take_actions(f, byte(&f->in));
    else if (kind < 13)
        about_task(f, kind - 7 > 3 ? 1 : kind - 7);
    else if (kind == 13)
        err = mh_sched_worker_leave(f->s, any_worker(f), (mh_sched_cause)(byte(&f->in) % 4), f->tasks[byte(&f->in) % HANDLES]);
    else if (kind == 14 && byte(&f->in) % 2)
        adopt(f);
    else if (kind == 14)
        err = mh_sched_worker_resize(f->s, any_worker(f), byte(&f->in) % 4);
    else if (byte(&f->in) % 8 == 0)
        err = byte(&f->in) % 2 ? mh_sched_group_cancel(f->s, f->group) : mh_sched_group_close(f->s, f->group);
    else
        mh_sched_tick(f->s, f->now += byte(&f->in));
    require(err == MH_OK || err == MH_ERR_NOT_FOUND || err == MH_ERR_INVALID);
}

/* All workers leave, all tasks are cancelled: each must end. */
static void end_all(fuzz *f)
{
    for (uint32_t i = 0; i < f->s->workers.used; i++) {
        const mh__worker *w = mh__worker_at(f->s, i);
        if (w->state != MH__WORKER_FREE)
            require(mh_sched_worker_leave(f->s, (mh_sched_worker){i, w->generation}, MH_SCHED_REMOVED, (mh_sched_task){0}) == MH_OK);
    }
    for (uint32_t i = 0; i < f->s->tasks.used; i++)
        (void)!mh_sched_cancel(f->s, (mh_sched_task){i, mh__task_at(f->s, i)->generation});
    for (int i = 0; i < 100000 && f->ended < f->accepted; i++)
        take_actions(f, 16);
    require(f->ended == f->accepted);
    require(mh__sched_validate(f->s) == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz f = {.in = {data, size}};
    uint32_t bits = byte(&f.in);
    mh_sched_options o = {.policy = (mh_sched_policy)(bits & 7), .steal = bits & 8, .queue_ns = bits & 16 ? 20 : 0,
                          .steal_ns = bits & 32 ? 1 : 0, .high_water = bits >> 6, .seed = bits};
    if (mh_sched_create(&f.s, &o))
        return 0;
    if (mh_sched_group_open(f.s, &f.group))
        abort();
    for (int i = 0; f.in.left > 0 && i < FUZZ_EVENTS; i++) {
        one_event(&f);
        require(mh__sched_validate(f.s) == NULL);
    }
    end_all(&f);
    mh_sched_destroy(&f.s);
    return 0;
}
