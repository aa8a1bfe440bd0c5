#include "mh_test.h"

#include "sched/sched_state.h"

#include <stdlib.h>
#include <string.h>

enum { MANY = 256 };

/* A scheduler, what it said last, and its check after every step. */
typedef struct bench {
    mh_sched *s;
    mh_sched_worker w[16];
    mh_sched_task t[MANY];
    mh_sched_action done[MANY]; /* by tag */
    mh_sched_action at[MANY];   /* last ASSIGN, by tag */
    mh_sched_action log[MANY];  /* of the last drain */
    size_t log_count;
} bench;

static void valid(bench *b)
{
    const char *fault = mh__sched_validate(b->s);
    if (fault)
        fail_msg("invalid state: %s", fault);
}

static void drain(bench *b)
{
    b->log_count = 0;
    for (size_t n; (n = mh_sched_actions(b->s, b->log + b->log_count, MANY - b->log_count)) > 0; b->log_count += n) {
        for (size_t i = b->log_count; i < b->log_count + n; i++) {
            const mh_sched_action *a = &b->log[i];
            if (a->kind == MH_SCHED_DONE)
                b->done[a->tag] = *a;
            else if (a->kind == MH_SCHED_ASSIGN)
                b->at[a->tag] = *a;
        }
        valid(b);
    }
}

static bench *open_bench(const mh_sched_options *options, size_t workers, uint32_t capacity)
{
    bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    assert_ok(mh_sched_create(&b->s, options));
    for (size_t i = 0; i < workers; i++)
        assert_ok(mh_sched_worker_join(b->s, &(mh_sched_worker_options){.capacity = capacity}, &b->w[i]));
    return b;
}

static void close_bench(bench *b)
{
    valid(b);
    mh_sched_destroy(&b->s);
    assert_null(b->s);
    free(b);
}

static void submit(bench *b, uint64_t tag, mh_sched_submit_options o)
{
    o.tag = tag;
    assert_ok(mh_sched_submit(b->s, &o, &b->t[tag]));
}

static mh_err answer(bench *b, uint64_t tag, mh_sched_outcome outcome)
{
    const mh_sched_action *a = &b->at[tag];
    return mh_sched_result(b->s, a->worker, a->task, a->epoch, outcome, 0);
}

static mh_err start(bench *b, uint64_t tag, int64_t at)
{
    return mh_sched_started(b->s, b->at[tag].worker, b->at[tag].task, b->at[tag].epoch, at);
}

static mh_sched_stats stats_of(const bench *b)
{
    mh_sched_stats stats;
    mh_sched_stats_read(b->s, &stats);
    return stats;
}

#define PLAIN ((mh_sched_submit_options){0})
static const mh_sched_task no_task;

/* ---- arguments and handles ------------------------------------------------------------------- */

static void test_create_refuses(void **state)
{
    (void)state;
    static const mh_sched_options wrong[] = {
        {.policy = (mh_sched_policy)6}, {.queue_ns = -1}, {.steal_ns = -1}, {.steal = true, .policy = MH_SCHED_LRU},
    };
    for (size_t i = 0; i < MH__COUNT_OF(wrong); i++) {
        mh_sched *s = (mh_sched *)&i;
        assert_err(mh_sched_create(&s, &wrong[i]), MH_ERR_INVALID);
        assert_null(s);
    }
    assert_err(mh_sched_create(NULL, NULL), MH_ERR_INVALID);
    mh_sched_destroy(NULL);
}

static void test_submit_refuses(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 1, 1);
    mh_sched_dependency ended = {.task = {7, 7}}, refused = {.known = MH_SCHED_REFUSED};
    const struct {
        mh_sched_submit_options o;
        mh_err expected;
    } rows[] = {
        {{.priority = MH_SCHED_PRIORITY_MAX + 1}, MH_ERR_INVALID},
        {{.timeout_ns = -1}, MH_ERR_INVALID},
        {{.wait_ns = -1}, MH_ERR_INVALID},
        {{.group = {3, 3}}, MH_ERR_NOT_FOUND},
        {{.after = {.items = &ended, .count = 1}}, MH_ERR_NOT_FOUND},
        {{.follow = {.items = &refused, .count = 1}}, MH_ERR_INVALID},
        {{.after = {.count = 1}}, MH_ERR_INVALID},
        {{.after = {.items = &ended, .count = 1, .when = (mh_sched_when)3}}, MH_ERR_INVALID},
        {{.after = {.items = &ended, .count = SIZE_MAX}}, MH_ERR_INVALID},
        {{.target_count = 1}, MH_ERR_INVALID},
        {{.targets = b->w, .target_count = SIZE_MAX}, MH_ERR_INVALID},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_sched_task t = {5, 5};
        assert_err(mh_sched_submit(b->s, &rows[i].o, &t), rows[i].expected);
        assert_int_equal(t.index, 5);
        valid(b);
    }
    assert_err(mh_sched_submit(b->s, NULL, NULL), MH_ERR_INVALID);
    assert_err(mh_sched_worker_join(b->s, NULL, NULL), MH_ERR_INVALID);
    assert_err(mh_sched_group_open(b->s, NULL), MH_ERR_INVALID);
    assert_int_equal(stats_of(b).submitted, 0);
    close_bench(b);
}

static void test_wrong_handles_change_nothing(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 2, 1);
    submit(b, 0, PLAIN);
    drain(b);
    mh_sched_action a = b->at[0];
    mh_sched_worker other = a.worker.index == b->w[0].index ? b->w[1] : b->w[0];
    mh_sched_task newer = {a.task.index, a.task.generation + 1}, beyond = {1000, 1};
    assert_err(mh_sched_result(b->s, other, a.task, a.epoch, MH_SCHED_OK, 0), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_result(b->s, a.worker, newer, a.epoch, MH_SCHED_OK, 0), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_result(b->s, a.worker, beyond, a.epoch, MH_SCHED_OK, 0), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_result(b->s, a.worker, no_task, a.epoch, MH_SCHED_OK, 0), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_result(b->s, a.worker, a.task, a.epoch + 1, MH_SCHED_OK, 0), MH_ERR_NOT_FOUND);
    assert_int_equal(stats_of(b).late, 5);
    assert_err(mh_sched_result(b->s, a.worker, a.task, a.epoch, MH_SCHED_LOST, 0), MH_ERR_INVALID);
    assert_err(mh_sched_started(b->s, a.worker, a.task, a.epoch - 1, 0), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_revoked(b->s, other, a.task, a.epoch, true), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_cancel(b->s, beyond), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_worker_leave(b->s, (mh_sched_worker){9, 9}, MH_SCHED_DIED, no_task), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_worker_leave(b->s, a.worker, (mh_sched_cause)3, no_task), MH_ERR_INVALID);
    assert_err(mh_sched_worker_resize(b->s, (mh_sched_worker){0, 9}, 1), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_worker_load(b->s, (mh_sched_worker){0, 0}, NULL, NULL), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_group_cancel(b->s, (mh_sched_group){0}), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_group_close(b->s, (mh_sched_group){0, 1}), MH_ERR_NOT_FOUND);
    assert_ok(answer(b, 0, MH_SCHED_OK));
    drain(b);
    assert_err(answer(b, 0, MH_SCHED_OK), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_cancel(b->s, a.task), MH_ERR_NOT_FOUND);
    close_bench(b);
}

/* ---- attempts and budgets -------------------------------------------------------------------- */

static void test_budgets(void **state)
{
    (void)state;
    /* What ends every attempt ('l' worker lost, 'm' worker killed for its memory, 'f' failed, 'o' out of memory, '.' ok). */
    static const struct {
        uint32_t lost, failed, oom;
        const char *attempts;
        mh_sched_outcome expected;
    } rows[] = {
        {0, 0, 0, ".", MH_SCHED_OK},
        {0, 9, 9, "l", MH_SCHED_LOST},
        {1, 0, 0, "ll", MH_SCHED_POISON},
        {3, 0, 0, "llll", MH_SCHED_POISON},
        {3, 0, 0, "lll.", MH_SCHED_OK},
        {9, 0, 9, "f", MH_SCHED_FAILED},
        {0, 2, 0, "fff", MH_SCHED_FAILED},
        {9, 9, 0, "o", MH_SCHED_OOM},
        {9, 9, 1, "om", MH_SCHED_OOM},
        {9, 9, 0, "m", MH_SCHED_OOM},
        {1, 1, 1, "lfo.", MH_SCHED_OK},
        {1, 1, 1, "lfml", MH_SCHED_POISON},
        {1, 1, 1, "folf", MH_SCHED_FAILED},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        bench *b = open_bench(NULL, 0, 1);
        submit(b, 0, (mh_sched_submit_options){.lost_retries = rows[i].lost, .failed_retries = rows[i].failed, .oom_retries = rows[i].oom});
        for (const char *c = rows[i].attempts; *c; c++) {
            if (stats_of(b).workers == 0)
                assert_ok(mh_sched_worker_join(b->s, &(mh_sched_worker_options){.capacity = 1}, &b->w[0]));
            drain(b);
            assert_int_equal(b->at[0].attempts, c - rows[i].attempts + 1);
            if (*c == 'l' || *c == 'm')
                assert_ok(mh_sched_worker_leave(b->s, b->w[0], *c == 'l' ? MH_SCHED_DIED : MH_SCHED_DIED_OOM, b->t[0]));
            else
                assert_ok(answer(b, 0, *c == '.' ? MH_SCHED_OK : *c == 'f' ? MH_SCHED_FAILED : MH_SCHED_OOM));
            valid(b);
        }
        drain(b);
        assert_int_equal(b->done[0].outcome, rows[i].expected);
        assert_int_equal(b->done[0].attempts, strlen(rows[i].attempts));
        assert_int_equal(stats_of(b).outcomes[rows[i].expected], 1);
        close_bench(b);
    }
}

static void test_dead_worker_loses_only_what_ran(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 1, 4);
    for (uint64_t i = 0; i < 6; i++)
        submit(b, i, PLAIN);
    drain(b);
    assert_int_equal(b->log_count, 4);
    assert_ok(start(b, 0, 0));
    assert_ok(mh_sched_worker_leave(b->s, b->w[0], MH_SCHED_DIED, no_task));
    assert_ok(mh_sched_worker_join(b->s, &(mh_sched_worker_options){.capacity = 8}, &b->w[1]));
    drain(b);
    assert_int_equal(b->done[0].outcome, MH_SCHED_LOST);
    for (uint64_t i = 1; i < 6; i++) { /* after the DONE, in order and before new work */
        assert_int_equal(b->log[i].tag, i);
        assert_int_equal(b->log[i].attempts, 1);
        assert_int_equal(b->log[i].epoch, i < 4 ? 2 : 1);
    }
    assert_int_equal(stats_of(b).reoffered, 3);
    assert_int_equal(stats_of(b).lost, 1);
    close_bench(b);
}

static void test_old_epoch_is_fenced(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 1, 1);
    submit(b, 0, PLAIN);
    drain(b);
    mh_sched_action old = b->at[0];
    assert_ok(mh_sched_revoked(b->s, old.worker, old.task, old.epoch, true)); /* the driver gives it back unasked */
    drain(b);
    assert_int_equal(b->at[0].epoch, 2);
    assert_err(mh_sched_result(b->s, old.worker, old.task, old.epoch, MH_SCHED_OK, 0), MH_ERR_NOT_FOUND);
    assert_int_equal(stats_of(b).late, 1);
    assert_ok(answer(b, 0, MH_SCHED_OK));
    drain(b);
    assert_int_equal(b->done[0].attempts, 1);
    close_bench(b);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void test_a_task_that_is_at_a_worker_already_is_adopted(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 2, 1);
    mh_sched_worker targets[] = {b->w[1]};
    uint32_t epoch = 0;
    submit(b, 0, PLAIN);
    submit(b, 1, (mh_sched_submit_options){.targets = targets, .target_count = 1, .lost_retries = 1});
    submit(b, 2, PLAIN);
    submit(b, 3, (mh_sched_submit_options){.after = {.items = &(mh_sched_dependency){.task = b->t[2]}, .count = 1}});
    assert_ok(mh_sched_adopt(b->s, b->w[0], b->t[1], &epoch)); /* although no target */
    assert_int_equal(epoch, 1);
    assert_ok(mh_sched_adopt(b->s, b->w[0], b->t[2], &epoch)); /* although it holds as many as it may */
    valid(b);
    assert_err(mh_sched_adopt(b->s, b->w[1], b->t[2], &epoch), MH_ERR_INVALID); /* is somewhere */
    assert_err(mh_sched_adopt(b->s, b->w[1], b->t[3], &epoch), MH_ERR_INVALID); /* waits for another */
    assert_err(mh_sched_adopt(b->s, b->w[1], no_task, &epoch), MH_ERR_NOT_FOUND);
    assert_err(mh_sched_adopt(b->s, (mh_sched_worker){7, 7}, b->t[0], &epoch), MH_ERR_NOT_FOUND);
    drain(b);
    assert_int_equal(b->log_count, 1); /* nothing is told twice: only task 0 is given to a worker */
    assert_int_equal(b->at[0].worker.index, b->w[1].index);
    assert_ok(mh_sched_worker_leave(b->s, b->w[0], MH_SCHED_DIED, b->t[1])); /* as if it had been assigned */
    assert_ok(answer(b, 0, MH_SCHED_OK));
    drain(b);
    assert_int_equal(b->at[1].epoch, 2);
    assert_int_equal(b->at[1].attempts, 2);
    assert_ok(answer(b, 1, MH_SCHED_OK));
    drain(b);
    assert_int_equal(b->at[2].attempts, 1); /* it did not run there */
    assert_ok(answer(b, 2, MH_SCHED_OK));
    drain(b);
    assert_ok(answer(b, 3, MH_SCHED_OK));
    drain(b);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(b->done[i].outcome, MH_SCHED_OK);
    close_bench(b);
}

static void test_late_task_has_its_worker_killed(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 1, 2);
    submit(b, 0, (mh_sched_submit_options){.timeout_ns = 100, .lost_retries = 5});
    submit(b, 1, PLAIN);
    drain(b);
    mh_sched_tick(b->s, 1000); /* not started: its time does not run */
    assert_int_equal(mh_sched_wake_at(b->s), INT64_MAX);
    assert_ok(start(b, 0, 1000));
    assert_int_equal(mh_sched_wake_at(b->s), 1100);
    mh_sched_tick(b->s, 1099);
    drain(b);
    assert_int_equal(b->log_count, 0);
    mh_sched_tick(b->s, 1100);
    drain(b);
    assert_int_equal(b->log_count, 1);
    assert_int_equal(b->log[0].kind, MH_SCHED_KILL_WORKER);
    assert_int_equal(b->log[0].task.index, b->t[0].index);
    assert_ok(mh_sched_worker_join(b->s, NULL, &b->w[1]));
    drain(b);
    assert_int_equal(b->log_count, 0); /* nothing is given away before the worker is gone */
    assert_ok(mh_sched_worker_leave(b->s, b->w[0], MH_SCHED_DIED, b->t[0]));
    drain(b);
    assert_int_equal(b->done[0].outcome, MH_SCHED_TIMEOUT);
    assert_int_equal(b->at[1].worker.index, b->w[1].index);
    close_bench(b);
}

static void test_answer_just_in_time_saves_the_worker(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 1, 2);
    submit(b, 0, (mh_sched_submit_options){.timeout_ns = 100});
    submit(b, 1, PLAIN);
    drain(b);
    assert_ok(start(b, 0, 0));
    mh_sched_tick(b->s, 100);
    assert_ok(mh_sched_cancel(b->s, b->t[1])); /* no REVOKE to a worker that is to be killed */
    valid(b);
    assert_ok(answer(b, 0, MH_SCHED_OK));
    drain(b);
    assert_int_equal(b->done[0].outcome, MH_SCHED_OK);
    assert_int_equal(b->log_count, 2); /* but to one that is not */
    assert_int_equal(b->log[1].kind, MH_SCHED_REVOKE);
    close_bench(b);
}

static void test_wait_expires(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 0, 0);
    mh_sched_tick(b->s, 50);
    submit(b, 0, (mh_sched_submit_options){.wait_ns = 10});
    submit(b, 1, (mh_sched_submit_options){.wait_ns = 20});
    submit(b, 2, (mh_sched_submit_options){.wait_ns = INT64_MAX});
    assert_int_equal(mh_sched_wake_at(b->s), 60);
    mh_sched_tick(b->s, 60);
    mh_sched_tick(b->s, 5); /* time does not go back */
    assert_ok(mh_sched_worker_join(b->s, NULL, &b->w[0]));
    drain(b);
    assert_int_equal(b->done[0].outcome, MH_SCHED_EXPIRED);
    assert_int_equal(b->at[1].epoch, 1);
    mh_sched_tick(b->s, 1000); /* assigned in time */
    drain(b);
    assert_int_equal(b->log_count, 0);
    close_bench(b);
}

/* ---- cancelling ------------------------------------------------------------------------------ */

static void test_cancel(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 1, 3);
    for (uint64_t i = 0; i < 4; i++)
        submit(b, i, (mh_sched_submit_options){.lost_retries = 3, .failed_retries = 3});
    drain(b);
    assert_ok(start(b, 0, 0));
    for (uint64_t i = 0; i < 4; i++)
        assert_ok(mh_sched_cancel(b->s, b->t[i]));
    drain(b);
    assert_int_equal(b->log_count, 3); /* t3 was pending and has ended; t1 and t2 are asked back; t0 runs */
    assert_int_equal(b->done[3].outcome, MH_SCHED_CANCELLED);
    assert_int_equal(b->done[3].attempts, 0);
    assert_ok(mh_sched_cancel(b->s, b->t[1])); /* again: not asked again */
    assert_ok(mh_sched_revoked(b->s, b->w[0], b->t[1], 1, true));
    assert_ok(mh_sched_revoked(b->s, b->w[0], b->t[2], 1, false));
    assert_ok(answer(b, 0, MH_SCHED_FAILED)); /* no retry */
    drain(b);
    assert_int_equal(b->done[1].outcome, MH_SCHED_CANCELLED);
    assert_int_equal(b->done[0].outcome, MH_SCHED_FAILED);
    assert_ok(mh_sched_worker_leave(b->s, b->w[0], MH_SCHED_DIED, no_task));
    drain(b);
    assert_int_equal(b->done[2].outcome, MH_SCHED_CANCELLED);
    assert_int_equal(stats_of(b).done, 4);
    close_bench(b);
}

static void test_groups(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 0, 0);
    mh_sched_group a, c;
    assert_ok(mh_sched_group_open(b->s, &a));
    assert_ok(mh_sched_group_open(b->s, &c));
    for (uint64_t i = 0; i < 6; i++)
        submit(b, i, (mh_sched_submit_options){.group = i % 2 ? a : c});
    assert_ok(mh_sched_group_cancel(b->s, a));
    assert_ok(mh_sched_group_close(b->s, a));
    assert_ok(mh_sched_group_close(b->s, c));
    assert_err(mh_sched_group_cancel(b->s, a), MH_ERR_NOT_FOUND);
    drain(b);
    for (uint64_t i = 0; i < 6; i++)
        assert_int_equal(b->done[i].outcome, i % 2 ? MH_SCHED_CANCELLED : MH_SCHED_UNKNOWN);
    assert_int_equal(stats_of(b).pending, 3);
    close_bench(b);
}

/* ---- who gets what --------------------------------------------------------------------------- */

static void test_priorities(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 0, 0);
    for (uint64_t i = 0; i < 8; i++)
        submit(b, i, (mh_sched_submit_options){.priority = (uint32_t)i % 4});
    assert_ok(mh_sched_worker_join(b->s, NULL, &b->w[0]));
    drain(b);
    static const uint64_t order[] = {3, 7, 2, 6, 1, 5, 0, 4};
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(b->log[i].tag, order[i]);
    close_bench(b);
}

static void test_policies_share(void **state)
{
    (void)state;
    /* 60 tasks for 3 workers with room for 30 each: how many the first, busiest and least busy may get. */
    static const struct {
        mh_sched_policy policy;
        uint32_t least, most, capacity;
    } rows[] = {
        {MH_SCHED_LEASTLOAD, 20, 20, 30}, {MH_SCHED_LRU, 20, 20, 30},  {MH_SCHED_TWOBIN, 10, 30, 30}, {MH_SCHED_WEIGHTED, 12, 28, 30},
        {MH_SCHED_PLAINRANDOM, 5, 30, 30}, {MH_SCHED_PURE, 20, 20, 5},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        bench *b = open_bench(&(mh_sched_options){.policy = rows[i].policy, .seed = 3}, 3, rows[i].capacity);
        for (uint64_t t = 0; t < 60; t++)
            submit(b, t, PLAIN);
        drain(b);
        assert_int_equal(b->log_count, 60);
        for (size_t w = 0; w < 3; w++) {
            uint32_t load, room;
            assert_ok(mh_sched_worker_load(b->s, b->w[w], &load, &room));
            assert_int_equal(room, rows[i].capacity);
            assert_in_range(load, rows[i].least, rows[i].most);
        }
        close_bench(b);
    }
}

static void test_lru_gives_to_who_waited_longest(void **state)
{
    (void)state;
    bench *b = open_bench(&(mh_sched_options){.policy = MH_SCHED_LRU}, 3, 1);
    for (uint64_t i = 0; i < 3; i++)
        submit(b, i, PLAIN);
    drain(b);
    for (uint64_t i = 3; i-- > 0;) /* freed in the opposite order */
        assert_ok(answer(b, i, MH_SCHED_OK));
    for (uint64_t i = 3; i < 6; i++)
        submit(b, i, PLAIN);
    drain(b);
    for (uint64_t i = 3; i < 6; i++)
        assert_int_equal(b->at[i].worker.index, b->at[i - 3].worker.index);
    close_bench(b);
}

static void test_capacity_and_resize(void **state)
{
    (void)state;
    bench *b = open_bench(&(mh_sched_options){.high_water = 2}, 1, 0);
    for (uint64_t i = 0; i < 9; i++)
        submit(b, i, PLAIN);
    drain(b);
    assert_int_equal(b->log_count, 2);
    assert_ok(mh_sched_worker_resize(b->s, b->w[0], 5));
    drain(b);
    assert_int_equal(b->log_count, 3);
    assert_ok(mh_sched_worker_resize(b->s, b->w[0], 0));
    for (uint64_t i = 0; i < 5; i++)
        assert_ok(answer(b, i, MH_SCHED_OK));
    drain(b);
    assert_int_equal(b->log_count, 5); /* five DONE, no ASSIGN */
    assert_int_equal(stats_of(b).pending, 4);
    close_bench(b);
}

static void test_queue_follows_the_time_of_a_task(void **state)
{
    (void)state;
    static const struct {
        int64_t duration_ns;
        uint32_t expected;
    } rows[] = {{0, 2}, {1, 100}, {10000, 100}, {50000, 21}, {1000000, 2}, {1000001, 1}, {INT64_MAX, 1}};
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        bench *b = open_bench(&(mh_sched_options){.queue_ns = MH_MILLISECOND}, 1, 100);
        submit(b, 0, PLAIN);
        drain(b);
        assert_ok(mh_sched_result(b->s, b->at[0].worker, b->t[0], 1, MH_SCHED_OK, rows[i].duration_ns));
        for (uint64_t t = 1; t <= 120; t++)
            submit(b, t, PLAIN);
        drain(b);
        uint32_t load;
        assert_ok(mh_sched_worker_load(b->s, b->w[0], &load, NULL));
        assert_int_equal(load, rows[i].expected);
        close_bench(b);
    }
}

static void test_idle_worker_steals(void **state)
{
    (void)state;
    bench *b = open_bench(&(mh_sched_options){.steal = true}, 1, 10);
    for (uint64_t i = 0; i < 5; i++)
        submit(b, i, PLAIN);
    drain(b);
    assert_ok(mh_sched_worker_join(b->s, &(mh_sched_worker_options){.capacity = 10}, &b->w[1]));
    assert_ok(mh_sched_worker_keep(b->s, b->w[0], true));
    drain(b);
    assert_int_equal(b->log_count, 0);
    assert_ok(mh_sched_worker_keep(b->s, b->w[0], false));
    assert_err(mh_sched_worker_keep(b->s, (mh_sched_worker){7, 7}, true), MH_ERR_NOT_FOUND);
    drain(b);
    assert_int_equal(b->log_count, 2); /* half, from the tail */
    assert_int_equal(b->log[0].kind, MH_SCHED_REVOKE);
    assert_int_equal(b->log[0].tag, 4);
    assert_int_equal(b->log[1].tag, 3);
    drain(b);
    assert_int_equal(b->log_count, 0); /* not asked twice */
    assert_ok(mh_sched_revoked(b->s, b->w[0], b->t[4], 1, true));
    assert_ok(mh_sched_revoked(b->s, b->w[0], b->t[3], 1, true));
    drain(b);
    assert_int_equal(b->log[0].tag, 3); /* in their old order */
    assert_int_equal(b->log[1].tag, 4);
    assert_int_equal(b->at[3].worker.index, b->w[1].index);
    assert_int_equal(b->at[4].worker.index, b->w[1].index);
    close_bench(b);
}

static void test_short_queues_are_left_alone_until_they_stand(void **state)
{
    (void)state;
    bench *b = open_bench(&(mh_sched_options){.steal = true, .steal_ns = 1000}, 1, 10);
    submit(b, 0, PLAIN);
    drain(b);
    assert_ok(mh_sched_result(b->s, b->w[0], b->t[0], 1, MH_SCHED_OK, 10)); /* tiny tasks */
    drain(b);
    for (uint64_t i = 1; i < 5; i++)
        submit(b, i, PLAIN);
    drain(b);
    assert_ok(mh_sched_worker_join(b->s, NULL, &b->w[1]));
    drain(b);
    assert_int_equal(b->log_count, 0);
    assert_int_equal(mh_sched_wake_at(b->s), 1000);
    mh_sched_tick(b->s, 1000); /* but the first one turns out to be long */
    drain(b);
    assert_int_equal(b->log[0].kind, MH_SCHED_REVOKE);
    close_bench(b);
}

/* ---- dependencies, targets, refusals --------------------------------------------------------- */

static void test_dependencies(void **state)
{
    (void)state;
    /* t0 ends as OK, t1 fails; t2 waits for both. */
    static const struct {
        bool any;
        mh_sched_when when;
        bool after_first, impossible_first, runs; /* decided once t0 has ended; at the end */
    } rows[] = {
        {false, MH_SCHED_ON_SUCCESS, false, false, false}, {false, MH_SCHED_ON_FAILURE, false, true, false},
        {false, MH_SCHED_ON_END, false, false, true},      {true, MH_SCHED_ON_SUCCESS, true, false, true},
        {true, MH_SCHED_ON_FAILURE, false, false, true},   {true, MH_SCHED_ON_END, true, false, true},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        bench *b = open_bench(NULL, 2, 1);
        submit(b, 0, PLAIN);
        submit(b, 1, PLAIN);
        mh_sched_dependency both[] = {{.task = b->t[0]}, {.task = b->t[1]}};
        submit(b, 2, (mh_sched_submit_options){.after = {both, 2, rows[i].any, rows[i].when}});
        drain(b);
        assert_int_equal(stats_of(b).waiting, 1);
        assert_ok(answer(b, 0, MH_SCHED_OK));
        drain(b);
        assert_int_equal(b->at[2].epoch, rows[i].after_first);
        assert_int_equal(b->done[2].outcome, rows[i].impossible_first ? MH_SCHED_IMPOSSIBLE : MH_SCHED_UNKNOWN);
        assert_ok(answer(b, 1, MH_SCHED_FAILED));
        drain(b);
        assert_int_equal(b->at[2].epoch, rows[i].runs);
        assert_int_equal(b->done[2].outcome, rows[i].runs ? MH_SCHED_UNKNOWN : MH_SCHED_IMPOSSIBLE);
        close_bench(b);
    }
}

static void test_long_chain_of_dependencies_falls(void **state)
{
    (void)state;
    enum { CHAIN = 200000 };
    mh_sched *s;
    mh_sched_task first, last;
    assert_ok(mh_sched_create(&s, NULL));
    assert_ok(mh_sched_submit(s, NULL, &first));
    last = first;
    for (int i = 0; i < CHAIN; i++) {
        mh_sched_dependency d = {.task = last};
        assert_ok(mh_sched_submit(s, &(mh_sched_submit_options){.after = {.items = &d, .count = 1}}, &last));
    }
    assert_ok(mh_sched_cancel(s, first));
    size_t ended = 0;
    for (mh_sched_action a; mh_sched_actions(s, &a, 1) > 0;)
        ended++;
    assert_int_equal(ended, CHAIN + 1);
    mh_sched_destroy(&s);
}

static void test_follow_goes_where_it_was(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 3, 4);
    submit(b, 0, PLAIN);
    submit(b, 1, PLAIN);
    drain(b);
    mh_sched_dependency both[] = {{.task = b->t[0]}, {.task = b->t[1]}};
    submit(b, 2, (mh_sched_submit_options){.follow = {both, 1, false, MH_SCHED_ON_SUCCESS}});
    submit(b, 3, (mh_sched_submit_options){.follow = {both, 2, false, MH_SCHED_ON_SUCCESS}}); /* they end on two workers */
    submit(b, 4, (mh_sched_submit_options){.follow = {both, 2, true, MH_SCHED_ON_SUCCESS}});
    assert_ok(answer(b, 1, MH_SCHED_OK));
    drain(b);
    assert_int_equal(b->at[4].worker.index, b->at[1].worker.index);
    assert_ok(answer(b, 0, MH_SCHED_OK));
    drain(b);
    assert_int_equal(b->at[2].worker.index, b->at[0].worker.index);
    assert_int_equal(b->done[3].outcome, MH_SCHED_IMPOSSIBLE);
    mh_sched_dependency known = {.known = MH_SCHED_OK, .worker = b->w[2]};
    submit(b, 5, (mh_sched_submit_options){.follow = {&known, 1, false, MH_SCHED_ON_SUCCESS}});
    drain(b);
    assert_int_equal(b->at[5].worker.index, b->w[2].index);
    close_bench(b);
}

static void test_targets(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 3, 1);
    mh_sched_worker two[] = {b->w[1], b->w[2]}, gone[] = {{77, 1}};
    submit(b, 0, (mh_sched_submit_options){.targets = two, .target_count = 2});
    submit(b, 1, (mh_sched_submit_options){.targets = two, .target_count = 1});
    submit(b, 2, (mh_sched_submit_options){.targets = two, .target_count = 2});
    submit(b, 3, (mh_sched_submit_options){.targets = gone, .target_count = 1});
    drain(b);
    assert_int_equal(b->done[3].outcome, MH_SCHED_IMPOSSIBLE);
    assert_int_equal(stats_of(b).assigned + stats_of(b).pending, 3);
    assert_int_equal(stats_of(b).assigned, 2);
    assert_ok(mh_sched_worker_leave(b->s, b->w[1], MH_SCHED_DIED, no_task));
    drain(b); /* t1 may run nowhere else */
    assert_int_equal(b->done[1].outcome, MH_SCHED_IMPOSSIBLE);
    assert_ok(mh_sched_worker_leave(b->s, b->w[2], MH_SCHED_DIED, no_task));
    drain(b);
    assert_int_equal(stats_of(b).outcomes[MH_SCHED_IMPOSSIBLE], 4);
    close_bench(b);
}

static void test_refused_task_goes_elsewhere(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 2, 1);
    submit(b, 0, PLAIN);
    drain(b);
    uint32_t first = b->at[0].worker.index;
    assert_ok(answer(b, 0, MH_SCHED_REFUSED));
    drain(b);
    assert_int_not_equal(b->at[0].worker.index, first);
    assert_int_equal(b->at[0].attempts, 1);
    assert_ok(answer(b, 0, MH_SCHED_REFUSED));
    drain(b);
    assert_int_equal(b->done[0].outcome, MH_SCHED_IMPOSSIBLE);
    assert_int_equal(stats_of(b).refused, 2);
    close_bench(b);
}

/* A failed task is tried where it has not failed. Where nobody is left: what it may wait for decides. */
static void test_failed_task_goes_elsewhere(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 2, 1);
    submit(b, 0, (mh_sched_submit_options){.failed_retries = 3, .elsewhere = true});
    drain(b);
    uint32_t first = b->at[0].worker.index;
    assert_ok(answer(b, 0, MH_SCHED_FAILED));
    drain(b);
    assert_int_not_equal(b->at[0].worker.index, first);
    for (uint32_t attempt = 2; attempt <= 3; attempt++) { /* both failed it: both may try again */
        assert_int_equal(b->at[0].attempts, attempt);
        assert_ok(answer(b, 0, MH_SCHED_FAILED));
        drain(b);
    }
    assert_ok(answer(b, 0, MH_SCHED_FAILED));
    drain(b);
    assert_int_equal(b->done[0].outcome, MH_SCHED_FAILED);
    assert_int_equal(b->done[0].attempts, 4);

    submit(b, 1, (mh_sched_submit_options){.failed_retries = 9, .elsewhere = true, .wait_ns = 10});
    drain(b);
    assert_ok(answer(b, 1, MH_SCHED_FAILED));
    mh_sched_tick(b->s, 20);
    drain(b); /* there is another, so it is not given up, however late */
    assert_int_equal(b->at[1].attempts, 2);
    assert_ok(answer(b, 1, MH_SCHED_FAILED));
    mh_sched_tick(b->s, 20);
    drain(b);
    assert_int_equal(b->done[1].outcome, MH_SCHED_EXPIRED);
    assert_int_equal(b->done[1].attempts, 2);
    close_bench(b);
}

static void test_failed_task_waits_for_another_worker(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 1, 1);
    submit(b, 0, (mh_sched_submit_options){.failed_retries = 1, .elsewhere = true, .wait_ns = 100});
    drain(b);
    assert_ok(answer(b, 0, MH_SCHED_FAILED));
    drain(b);
    assert_int_equal(stats_of(b).pending, 1);
    assert_ok(mh_sched_worker_join(b->s, &(mh_sched_worker_options){.capacity = 1}, &b->w[1]));
    drain(b);
    assert_int_equal(b->at[0].worker.index, b->w[1].index);
    mh_sched_tick(b->s, 200); /* it waits no longer */
    assert_ok(answer(b, 0, MH_SCHED_OK));
    drain(b);
    assert_int_equal(b->done[0].outcome, MH_SCHED_OK);
    close_bench(b);
}

static void test_pure_knows_no_places(void **state)
{
    (void)state;
    bench *b = open_bench(&(mh_sched_options){.policy = MH_SCHED_PURE}, 1, 1);
    mh_sched_task t;
    assert_err(mh_sched_submit(b->s, &(mh_sched_submit_options){.targets = b->w, .target_count = 1}, &t), MH_ERR_INVALID);
    close_bench(b);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void run_through(mh_sched *s, uint64_t count, uint64_t in_flight)
{
    uint64_t submitted = 0, done = 0;
    mh_sched_action todo[64];
    while (done < count) {
        for (; submitted < count && submitted - done < in_flight; submitted++) {
            mh_sched_task t;
            assert_ok(mh_sched_submit(s, NULL, &t));
        }
        size_t n = mh_sched_actions(s, todo, MH__COUNT_OF(todo));
        for (size_t i = 0; i < n; i++) {
            if (todo[i].kind == MH_SCHED_ASSIGN)
                assert_ok(mh_sched_result(s, todo[i].worker, todo[i].task, todo[i].epoch, MH_SCHED_OK, 1));
            done += todo[i].kind == MH_SCHED_DONE;
        }
    }
}

static void test_a_million_tasks_take_no_more_memory(void **state)
{
    (void)state;
    bench *b = open_bench(NULL, 2, 64);
    run_through(b->s, 10000, 1000);
    size_t before = stats_of(b).bytes;
    run_through(b->s, 1000000, 1000);
    assert_int_equal(stats_of(b).bytes, before);
    run_through(b->s, 400000, 400000); /* a burst is given back */
    assert_true(stats_of(b).bytes <= before);
    submit(b, 0, PLAIN); /* and old handles stay old */
    assert_int_equal(b->t[0].generation, 1410001);
    close_bench(b);
}

typedef struct failing {
    uint64_t left;
    bool has_failed;
} failing;

static void *fail_at(void *old, size_t size, void *ctx)
{
    failing *f = ctx;
    if (size > 0 && f->left-- == 0) {
        f->has_failed = true;
        return NULL;
    }
    if (size > 0)
        return realloc(old, size);
    free(old);
    return NULL;
}

/* Every call that takes memory, often enough to make each array grow. False when an allocation failed. */
static bool use_memory(mh_sched *s)
{
    mh_sched_worker w[80];
    mh_sched_task t[160];
    mh_sched_group g;
    mh_sched_action a;
    for (int i = 0; i < 80; i++) {
        mh_err err = mh_sched_group_open(s, &g);
        if (!err)
            err = mh_sched_worker_join(s, NULL, &w[i]);
        assert_true(err == MH_OK || err == MH_ERR_NO_MEMORY);
        if (err)
            return false;
    }
    for (int i = 0; i < 160; i++) {
        mh_sched_dependency d[] = {{.task = i ? t[i - 1] : no_task}, {.task = i > 1 ? t[i - 2] : no_task}};
        mh_sched_submit_options o = {.timeout_ns = 5, .after = {.items = d, .count = (size_t)MH__MIN(i % 80, 2)},
                                     .follow = {.items = d, .count = i % 80 > 1}, .targets = w, .target_count = i % 3 == 0};
        mh_err err = mh_sched_submit(s, &o, &t[i]);
        assert_true(err == MH_OK || err == MH_ERR_NO_MEMORY);
        if (err)
            return false;
        assert_null(mh__sched_validate(s));
    }
    while (mh_sched_actions(s, &a, 1) > 0) {
        if (a.kind != MH_SCHED_ASSIGN)
            continue;
        mh_err err = mh_sched_result(s, a.worker, a.task, a.epoch, MH_SCHED_REFUSED, 1);
        assert_true(err == MH_OK || err == MH_ERR_NO_MEMORY);
        if (err)
            return false;
        assert_null(mh__sched_validate(s));
    }
    return true;
}

/* Whatever failed, the scheduler goes on: all that it accepted can still end. */
static void end_everything(mh_sched *s)
{
    mh_sched_stats stats;
    mh_sched_action a;
    for (uint32_t i = 0; i < s->workers.used; i++)
        if (mh__worker_at(s, i)->state != MH__WORKER_FREE)
            assert_ok(mh_sched_worker_leave(s, (mh_sched_worker){i, mh__worker_at(s, i)->generation}, MH_SCHED_DIED, no_task));
    for (uint32_t i = 0; i < s->tasks.used; i++)
        if (mh__task_at(s, i)->generation)
            assert_ok(mh_sched_cancel(s, (mh_sched_task){i, mh__task_at(s, i)->generation}));
    while (mh_sched_actions(s, &a, 1) > 0)
        assert_int_equal(a.kind, MH_SCHED_DONE);
    mh_sched_stats_read(s, &stats);
    assert_int_equal(stats.done, stats.submitted);
}

static void test_each_allocation_may_fail(void **state)
{
    (void)state;
    static const mh_sched_policy policies[] = {MH_SCHED_LEASTLOAD, MH_SCHED_LRU};
    for (size_t p = 0; p < MH__COUNT_OF(policies); p++) {
        bool finished = false;
        uint64_t n = 0;
        for (; !finished; n++) {
            failing f = {.left = n};
            mh_sched *s = NULL;
            mh_allocator_set(fail_at, &f);
            mh_err err = mh_sched_create(&s, &(mh_sched_options){.policy = policies[p]});
            if (err) {
                assert_int_equal(err, MH_ERR_NO_MEMORY);
                assert_null(s);
                continue;
            }
            finished = use_memory(s);
            assert_true(finished != f.has_failed);
            assert_null(mh__sched_validate(s));
            f.left = UINT64_MAX;
            end_everything(s);
            assert_null(mh__sched_validate(s));
            mh_sched_destroy(&s);
        }
        mh_allocator_set(NULL, NULL);
        assert_true(n > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_refuses),
        cmocka_unit_test(test_submit_refuses),
        cmocka_unit_test(test_wrong_handles_change_nothing),
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_dead_worker_loses_only_what_ran),
        cmocka_unit_test(test_old_epoch_is_fenced),
        cmocka_unit_test(test_a_task_that_is_at_a_worker_already_is_adopted),
        cmocka_unit_test(test_late_task_has_its_worker_killed),
        cmocka_unit_test(test_answer_just_in_time_saves_the_worker),
        cmocka_unit_test(test_wait_expires),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_policies_share),
        cmocka_unit_test(test_lru_gives_to_who_waited_longest),
        cmocka_unit_test(test_capacity_and_resize),
        cmocka_unit_test(test_queue_follows_the_time_of_a_task),
        cmocka_unit_test(test_idle_worker_steals),
        cmocka_unit_test(test_short_queues_are_left_alone_until_they_stand),
        cmocka_unit_test(test_dependencies),
        cmocka_unit_test(test_long_chain_of_dependencies_falls),
        cmocka_unit_test(test_follow_goes_where_it_was),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_refused_task_goes_elsewhere),
        cmocka_unit_test(test_failed_task_goes_elsewhere),
        cmocka_unit_test(test_failed_task_waits_for_another_worker),
        cmocka_unit_test(test_pure_knows_no_places),
        cmocka_unit_test(test_a_million_tasks_take_no_more_memory),
        cmocka_unit_test(test_each_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
