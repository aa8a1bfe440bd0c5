#include "sync/sync_test.h"

typedef struct shared {
    mh_event e;
    mh_err got;
    uint64_t data; /* written before set, read after wait */
} shared;

static shared *sh;

static int setup(void **state)
{
    (void)state;
    sh = share(sizeof *sh);
    assert_ok(mh_event_init(&sh->e, false));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unshare_pages(sh, sizeof *sh);
    return 0;
}

static int wait_in_process(void *e) { return (int)mh_event_wait(e, soon()); }
static void wait_in_thread(void *e)
{
    sh->got = mh_event_wait(e, soon());
    if (!sh->got && sh->data != 42)
        sh->got = MH_ERR_CORRUPT;
}

static void it_is_set_and_cleared(void **state)
{
    (void)state;
    assert_err(mh_event_init((mh_event *)(void *)((char *)&sh->e + 4), false), MH_ERR_INVALID);
    assert_false(mh_event_is_set(&sh->e));
    assert_err(mh_event_wait(&sh->e, MH_NOW), MH_ERR_TIMEOUT);
    int64_t start = mh_now();
    assert_err(mh_event_wait(&sh->e, ms(15)), MH_ERR_TIMEOUT);
    assert_true(mh_now() - start >= 15 * MH_MILLISECOND);
    for (int i = 0; i < 2; i++)
        assert_ok(mh_event_set(&sh->e));
    assert_true(mh_event_is_set(&sh->e));
    assert_ok(mh_event_wait(&sh->e, MH_NOW));
    assert_int_equal(run_process(wait_in_process, &sh->e), 0);
    assert_ok(mh_event_clear(&sh->e));
    assert_err(mh_event_wait(&sh->e, MH_NOW), MH_ERR_TIMEOUT);
    assert_ok(mh_event_init(&sh->e, true));
    assert_ok(mh_event_wait(&sh->e, MH_NOW));
    mh_event_fini(&sh->e);
    assert_err(mh_event_set(&sh->e), MH_ERR_CORRUPT);
    assert_err(mh_event_clear(&sh->e), MH_ERR_CORRUPT);
    assert_err(mh_event_wait(&sh->e, MH_NOW), MH_ERR_CORRUPT);
}

static void all_who_wait_see_even_a_short_pulse(void **state)
{
    (void)state;
    enum { WAITERS = 5 };
    pid_t waiters[WAITERS];
    for (int i = 0; i < WAITERS; i++)
        waiters[i] = start_process(wait_in_process, &sh->e);
    for (int i = 0; i < WAITERS; i++)
        await_state(waiters[i], 'S');
    kill(waiters[0], SIGKILL); /* a dead waiter holds nobody up */
    assert_ok(mh_event_set(&sh->e));
    assert_ok(mh_event_clear(&sh->e));
    join_process(waiters[0]);
    for (int i = 1; i < WAITERS; i++)
        assert_int_equal(join_process(waiters[i]), 0);
}

static void what_was_written_before_is_seen_after(void **state)
{
    (void)state;
    for (int i = 0; i < rounds(200); i++) {
        test_thread t;
        sh->data = 0;
        assert_ok(mh_event_clear(&sh->e));
        start_thread(&t, wait_in_thread, &sh->e);
        sh->data = 42; /* the thread sanitizer watches this */
        assert_ok(mh_event_set(&sh->e));
        join_thread(&t);
        assert_ok(sh->got);
    }
}

static void a_signal_interrupts_a_wait(void **state)
{
    (void)state;
    test_thread t;
    start_thread(&t, wait_in_thread, &sh->e);
    interrupt_and_join(&t);
    assert_int_equal(sh->got, MH_ERR_INTERRUPTED);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(it_is_set_and_cleared),
        TEST(all_who_wait_see_even_a_short_pulse),
        TEST(what_was_written_before_is_seen_after),
        TEST(a_signal_interrupts_a_wait),
    };
    return cmocka_run_group_tests_name("event", tests, NULL, NULL);
}
