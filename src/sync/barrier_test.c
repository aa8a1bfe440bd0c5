#include "sync/sync_test.h"

enum { PARTIES = 4 };

typedef struct shared {
    mh_barrier b;
    mh_err got[1];
    uint32_t actions;   /* written by the action only, read after the barrier */
    uint64_t indices;   /* atomic: sum over all rounds */
    mh_deadline until;
    mh_err action_result;
} shared;

static shared *sh;

static int setup(void **state)
{
    (void)state;
    sh = share(sizeof *sh);
    assert_ok(mh_barrier_init(&sh->b, PARTIES));
    sh->until = soon();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unshare_pages(sh, sizeof *sh);
    return 0;
}

static mh_err act(void *ctx)
{
    (void)ctx;
    sh->actions++;
    return sh->action_result;
}

static int wait_in_process(void *arg)
{
    (void)arg;
    return (int)mh_barrier_wait(&sh->b, sh->until, act, NULL, NULL);
}
static void wait_in_thread(void *got) { *(mh_err *)got = (mh_err)wait_in_process(NULL); }

static void await_arrived(uint32_t count)
{
    for (mh_deadline until = soon(); mh_barrier_count_waiting(&sh->b) != count; sched_yield())
        assert_true(mh_now() < until);
}

static void start_waiters(pid_t *pids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        pids[i] = start_process(wait_in_process, NULL);
    await_arrived(count);
}

static void join_waiters(const pid_t *pids, uint32_t count, mh_err expected)
{
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(join_process(pids[i]), expected);
}

static void init_refuses(void **state)
{
    (void)state;
    assert_err(mh_barrier_init(&sh->b, 0), MH_ERR_INVALID);
    assert_err(mh_barrier_init(&sh->b, MH_BARRIER_PARTIES_MAX + 1), MH_ERR_INVALID);
    assert_err(mh_barrier_init((mh_barrier *)(void *)((char *)&sh->b + 4), 1), MH_ERR_INVALID);
    assert_ok(mh_barrier_init(&sh->b, 1));
    assert_int_equal(mh_barrier_parties(&sh->b), 1);
    for (int i = 0; i < 200; i++)
        assert_ok(mh_barrier_wait(&sh->b, MH_NOW, NULL, NULL, NULL));
    mh_barrier_fini(&sh->b);
    assert_err(mh_barrier_wait(&sh->b, MH_NOW, NULL, NULL, NULL), MH_ERR_CORRUPT);
    assert_err(mh_barrier_abort(&sh->b), MH_ERR_CORRUPT);
    assert_err(mh_barrier_reset(&sh->b), MH_ERR_CORRUPT);
}

typedef struct walker {
    int rounds;
    uint32_t me;
} walker;

static void walk(void *arg)
{
    const walker *w = arg;
    for (int i = 0; i < w->rounds; i++) {
        uint32_t index = UINT32_MAX;
        if (mh_barrier_wait(&sh->b, soon(), act, NULL, &index) || index >= PARTIES)
            abort();
        if (sh->actions != (uint32_t)(2 * i + 1)) /* the thread sanitizer watches this: it ran once, before anyone went on */
            abort();
        __atomic_fetch_add(&sh->indices, index, __ATOMIC_RELAXED);
        if (mh_barrier_wait(&sh->b, soon(), act, NULL, NULL))
            abort();
    }
}
static int walk_process(void *arg)
{
    walk(arg);
    return 0;
}

static void all_meet_and_one_acts(void **state)
{
    (void)state;
    int count = rounds(200);
    walker w = {.rounds = count};
    test_thread threads[PARTIES];
    pid_t pids[PARTIES];
    for (int i = 0; i < PARTIES; i++)
        start_thread(&threads[i], walk, &w);
    for (int i = 0; i < PARTIES; i++)
        join_thread(&threads[i]);
    assert_int_equal(sh->indices, (uint64_t)count * PARTIES * (PARTIES - 1) / 2);
    sh->actions = 0;
    for (int i = 0; i < PARTIES; i++)
        pids[i] = start_process(walk_process, &w);
    join_waiters(pids, PARTIES, MH_OK);
    assert_int_equal(sh->actions, 2 * count);
}

static void who_gives_up_breaks_it(void **state)
{
    (void)state;
    pid_t pids[2];
    start_waiters(pids, 2);
    int64_t start = mh_now();
    assert_err(mh_barrier_wait(&sh->b, ms(15), NULL, NULL, NULL), MH_ERR_TIMEOUT);
    assert_true(mh_now() - start >= 15 * MH_MILLISECOND);
    join_waiters(pids, 2, MH_ERR_BROKEN);
    assert_true(mh_barrier_is_broken(&sh->b));
    assert_int_equal(mh_barrier_count_waiting(&sh->b), 0);
    assert_err(mh_barrier_wait(&sh->b, soon(), NULL, NULL, NULL), MH_ERR_BROKEN);
    assert_ok(mh_barrier_reset(&sh->b));
    start_waiters(pids, 2);
    assert_ok(mh_barrier_reset(&sh->b)); /* of a barrier in use: who waits is told, the barrier is whole */
    join_waiters(pids, 2, MH_ERR_BROKEN);
    assert_false(mh_barrier_is_broken(&sh->b));
    start_waiters(pids, 2);
    assert_ok(mh_barrier_abort(&sh->b));
    join_waiters(pids, 2, MH_ERR_BROKEN);
    assert_true(mh_barrier_is_broken(&sh->b));
}

static void a_failing_action_breaks_it(void **state)
{
    (void)state;
    pid_t pids[PARTIES - 1];
    start_waiters(pids, PARTIES - 1);
    sh->action_result = MH_ERR_TASK_FAILED;
    assert_err(mh_barrier_wait(&sh->b, soon(), act, NULL, NULL), MH_ERR_TASK_FAILED);
    join_waiters(pids, PARTIES - 1, MH_ERR_BROKEN);
}

static void a_party_killed_after_arriving_breaks_it(void **state)
{
    (void)state;
    pid_t pids[3];
    start_waiters(pids, 3);
    kill_process(pids[0]);
    join_waiters(pids + 1, 2, MH_ERR_BROKEN);
    assert_true(mh_barrier_is_broken(&sh->b));
}

static int arrive_last_and_die(void *arg)
{
    mh_barrier_ticket ticket;
    (void)arg;
    if (mh_barrier_arrive(&sh->b, MH_NOW, &ticket) || !ticket.is_last)
        return 1;
    raise(SIGKILL);
    return 2;
}

static void the_last_party_killed_in_its_action_breaks_it(void **state)
{
    (void)state;
    pid_t pids[PARTIES - 1];
    start_waiters(pids, PARTIES - 1);
    assert_int_equal(run_process(arrive_last_and_die, NULL), 1000 + SIGKILL);
    join_waiters(pids, PARTIES - 1, MH_ERR_BROKEN);
}

static void a_stopped_party_breaks_nothing(void **state)
{
    (void)state;
    pid_t pids[PARTIES - 1];
    start_waiters(pids, PARTIES - 1);
    stop_process(pids[0]);
    assert_ok(mh_barrier_wait(&sh->b, soon(), NULL, NULL, NULL));
    kill(pids[0], SIGCONT); /* it learns of its round's end although others may have gone on */
    join_waiters(pids, PARTIES - 1, MH_OK);
}

static void a_signal_interrupts_a_wait(void **state)
{
    (void)state;
    test_thread t;
    start_thread(&t, wait_in_thread, &sh->got[0]);
    await_arrived(1);
    interrupt_and_join(&t);
    assert_int_equal(sh->got[0], MH_ERR_INTERRUPTED);
    assert_true(mh_barrier_is_broken(&sh->b));
}

static void it_goes_by_steps(void **state)
{
    (void)state;
    mh_barrier_ticket tickets[PARTIES], late;
    for (uint32_t i = 0; i < PARTIES; i++) {
        assert_ok(mh_barrier_arrive(&sh->b, MH_NOW, &tickets[i]));
        assert_int_equal(tickets[i].index, i);
        assert_int_equal(tickets[i].is_last, i == PARTIES - 1);
    }
    assert_err(mh_barrier_await(&sh->b, &tickets[0], ms(2)), MH_ERR_TIMEOUT);
    assert_err(mh_barrier_arrive(&sh->b, ms(2), &late), MH_ERR_TIMEOUT); /* until the action has run */
    assert_err(mh_barrier_open(&sh->b, &tickets[0]), MH_ERR_NOT_OWNER);
    assert_ok(mh_barrier_open(&sh->b, &tickets[PARTIES - 1]));
    for (int i = 0; i < PARTIES - 1; i++)
        assert_ok(mh_barrier_await(&sh->b, &tickets[i], MH_NOW));
    assert_ok(mh_barrier_leave(&sh->b, &tickets[0])); /* too late to break it */
    assert_ok(mh_barrier_arrive(&sh->b, MH_NOW, &late));
    assert_err(mh_barrier_leave(&sh->b, &late), MH_ERR_BROKEN);
    assert_err(mh_barrier_open(&sh->b, &tickets[PARTIES - 1]), MH_ERR_BROKEN);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(init_refuses),
        TEST(all_meet_and_one_acts),
        TEST(who_gives_up_breaks_it),
        TEST(a_failing_action_breaks_it),
        TEST(a_party_killed_after_arriving_breaks_it),
        TEST(the_last_party_killed_in_its_action_breaks_it),
        TEST(a_stopped_party_breaks_nothing),
        TEST(a_signal_interrupts_a_wait),
        TEST(it_goes_by_steps),
    };
    return cmocka_run_group_tests_name("barrier", tests, NULL, NULL);
}
