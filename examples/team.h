/* team.h: tasks of a pool that work as one team over shared memory and meet at a barrier; what to do when one of them dies.
 *
 * A team's memory holds a barrier, and what a new team needs to go on from where an earlier one was sure to be. When a member is killed the
 * others wait for it and cannot know; the parent, which is told, aborts: they give up, and a new team goes on.
 */
#ifndef TEAM_H
#define TEAM_H

#include <manyhands.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TEAM_WORKERS_MAX 256
#define TEAM_SPIN_NS (300 * MH_MICROSECOND) /* what is done between two meetings takes milliseconds, and sleeping tens of microseconds */
#define TEAM_PATIENCE_NS (120 * MH_SECOND)
#define TEAM_TRIES 5                        /* teams that lose a member until we give up */

/* ---- in a member ------------------------------------------------------------------------------ */

typedef mh_err (*team_action_fn)(void *memory);

/* Meet: the last to come calls action(memory) before anyone goes on. A wait that spins for a while before it sleeps. */
static inline mh_err team_meet(mh_barrier *b, void *memory, team_action_fn action)
{
    mh_deadline until = mh_deadline_in(TEAM_PATIENCE_NS), spin_until = mh_deadline_in(TEAM_SPIN_NS);
    mh_barrier_ticket ticket;
    mh_err err;
    while ((err = mh_barrier_arrive(b, until, &ticket)) == MH_ERR_INTERRUPTED)
        ;
    if (err)
        return err;
    if (ticket.is_last) {
        err = action(memory);
        return err ? err : mh_barrier_open(b, &ticket);
    }
    do
        err = mh_barrier_await(b, &ticket, mh_now() < spin_until ? MH_NOW : until);
    while (err == MH_ERR_INTERRUPTED || (err == MH_ERR_TIMEOUT && mh_now() < until));
    return err;
}

/* ---- in the parent ---------------------------------------------------------------------------- */

/* What the parent does with a team's memory. */
typedef struct team {
    const char *program;             /* for messages */
    uint32_t workers;
    void *memory;
    size_t size;
    mh_err (*begin)(void *memory);   /* before each team */
    mh_err (*work)(void *memory, uint32_t rank);
    void (*abort)(void *memory);
    void (*progress)(const void *memory);
    mh_barrier *barrier;             /* in memory: where the team meets */
    int64_t start_ns;                /* out: how long it took until all workers were there, */
    int64_t work_ns;                 /* and from then on until all work was done */
} team;

static team *team_here; /* of this program: its workers are forks */

/* A new worker has none of the memory's pages mapped. One call brings them all, where a fault each would cost ten times as much. */
static inline mh_err team_populate(void *ctx)
{
    (void)ctx;
#if defined MADV_POPULATE_WRITE
    (void)!madvise(team_here->memory, team_here->size, MADV_POPULATE_WRITE); /* a hint: older kernels do not know it */
#endif
    return MH_OK;
}

typedef struct team_job {
    uint32_t rank;
    bool only_meets;
} team_job;

static inline mh_err team_no_action(void *memory)
{
    (void)memory;
    return MH_OK;
}

static inline mh_err team_member(mh_task *task, void *ctx)
{
    (void)ctx;
    team_job job;
    if (mh_task_input(task).size != sizeof job)
        return MH_ERR_INVALID;
    memcpy(&job, mh_task_input(task).data, sizeof job);
    return job.only_meets ? team_meet(team_here->barrier, team_here->memory, team_no_action) : team_here->work(team_here->memory, job.rank);
}

static inline void team_check(mh_err err, const char *what)
{
    if (!err)
        return;
    fprintf(stderr, "%s: %s: %s: %s\n", team_here->program, what, mh_err_text(err), mh_err_detail());
    exit(1);
}

/* The result of a member that has ended. When it failed, the others must not wait for it. */
static inline mh_err team_collect(mh_future **f)
{
    mh_result result;
    mh_err err;
    while ((err = mh_future_result(*f, MH_FOREVER, &result)) == MH_ERR_INTERRUPTED)
        ;
    team_check(err, "result");
    err = result.err;
    mh_result_release(&result);
    mh_future_release(f);
    if (err)
        team_here->abort(team_here->memory);
    return err;
}

/* One team, until all members have ended. *is_lost: one was killed. errors: of the first that failed by itself. */
static inline mh_err team_try(mh_pool *pool, bool only_meets, bool *is_lost)
{
    mh_future *members[TEAM_WORKERS_MAX] = {NULL};
    mh_err first = MH_OK;
    uint32_t count = team_here->workers, left = count;
    *is_lost = false;
    team_check(team_here->begin(team_here->memory), "begin");
    for (uint32_t rank = 0; rank < count; rank++) {
        team_job job = {.rank = rank, .only_meets = only_meets};
        team_check(mh_pool_submit(pool, (mh_bytes){&job, sizeof job}, NULL, &members[rank]), "submit");
    }
    while (left) {
        for (uint32_t i = 0; i < count; i++) {
            if (!members[i] || !mh_future_is_done(members[i]))
                continue;
            mh_err err = team_collect(&members[i]);
            left--;
            *is_lost |= err == MH_ERR_WORKER_LOST;
            if (err && (!first || first == MH_ERR_BROKEN))
                first = err;
        }
        for (uint32_t i = 0; i < count; i++) {
            if (!members[i])
                continue;
            mh_err err = mh_future_wait(members[i], mh_deadline_in(20 * MH_MILLISECOND)); /* another one may end before it */
            if (err != MH_ERR_TIMEOUT && err != MH_ERR_INTERRUPTED)
                team_check(err, "wait");
            break;
        }
        team_here->progress(team_here->memory);
    }
    return first;
}

/* Run the work to its end: with one worker in this process, else by as many teams as it takes. Ends the program when it can't be done. */
static inline void team_run(team *t)
{
    int64_t began = mh_now();
    team_here = t;
    if (t->workers == 1) {
        team_check(t->begin(t->memory), "begin");
        team_check(t->work(t->memory, 0), "work");
        t->work_ns = mh_now() - began;
        return;
    }
    mh_pool *pool = NULL;
    bool is_lost;
    team_check(mh_pool_create(&pool, &(mh_pool_options){.worker = {.run = team_member, .initialize = team_populate}, .workers = t->workers}), "pool");
    team_check(team_try(pool, true, &is_lost), "start");
    t->start_ns = mh_now() - began;
    mh_err err = MH_OK;
    for (int i = 0; i < TEAM_TRIES; i++) {
        err = team_try(pool, false, &is_lost);
        if (!is_lost)
            break;
        fprintf(stderr, "%s: a worker was lost; a new team goes on\n", t->program);
    }
    t->work_ns = mh_now() - began - t->start_ns;
    team_check(err, "work");
    mh_pool_destroy(&pool);
}

#endif
