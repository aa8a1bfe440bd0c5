#include "sync/sync_test.h"

typedef struct shared {
    mh_semaphore s;
    mh_event held, go;
    mh_err got;
    int32_t inside, most; /* how many hold a permit at once */
} shared;

static shared *sh;

static int setup(void **state)
{
    (void)state;
    sh = share(sizeof *sh);
    assert_ok(mh_event_init(&sh->held, false));
    assert_ok(mh_event_init(&sh->go, false));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unshare_pages(sh, sizeof *sh);
    return 0;
}

static int acquire(void *s) { return (int)mh_semaphore_acquire(s, soon()); }
static int acquire_twice(void *s) { return acquire(s) || acquire(s); }
static int release(void *s) { return (int)mh_semaphore_release(s, 1); }
static int acquire_and_release(void *s) { return acquire(s) || release(s); }
static int acquire_and_stay(void *s)
{
    int rc = acquire(s);
    mh_event_set(&sh->held);
    return rc || mh_event_wait(&sh->go, soon()) || mh_semaphore_release(s, 1);
}
static void acquire_in_thread(void *s) { sh->got = mh_semaphore_acquire(s, soon()); }

static void init_refuses(void **state)
{
    (void)state;
    const struct {
        void *at;
        uint32_t value, max;
        mh_err expected;
    } table[] = {
        {&sh->s, 0, 1, MH_OK},
        {&sh->s, 7, 7, MH_OK},
        {&sh->s, 0, MH_SEMAPHORE_VALUE_MAX, MH_OK},
        {&sh->s, 2, 1, MH_ERR_INVALID},
        {&sh->s, 0, 0, MH_ERR_INVALID},
        {&sh->s, 0, MH_SEMAPHORE_VALUE_MAX + 1, MH_ERR_INVALID},
        {(char *)&sh->s + 1, 0, 1, MH_ERR_INVALID},
    };
    for (size_t i = 0; i < MH__COUNT_OF(table); i++)
        assert_err(mh_semaphore_init(table[i].at, table[i].value, table[i].max), table[i].expected);
}

static void it_counts_and_is_bounded(void **state)
{
    (void)state;
    assert_ok(mh_semaphore_init(&sh->s, 2, 3));
    assert_ok(mh_semaphore_release(&sh->s, 1));
    assert_err(mh_semaphore_release(&sh->s, 1), MH_ERR_FULL);
    for (uint32_t left = 3; left > 0; left--) {
        assert_int_equal(mh_semaphore_value(&sh->s), left);
        assert_ok(mh_semaphore_acquire(&sh->s, MH_NOW));
    }
    assert_err(mh_semaphore_acquire(&sh->s, MH_NOW), MH_ERR_TIMEOUT);
    int64_t start = mh_now();
    assert_err(mh_semaphore_acquire(&sh->s, ms(15)), MH_ERR_TIMEOUT);
    assert_true(mh_now() - start >= 15 * MH_MILLISECOND);
    assert_ok(mh_semaphore_release(&sh->s, 0));
    assert_err(mh_semaphore_release(&sh->s, 4), MH_ERR_FULL);
    assert_ok(mh_semaphore_release(&sh->s, 3));
    assert_int_equal(mh_semaphore_value(&sh->s), 3);
    mh_semaphore_fini(&sh->s);
    assert_err(mh_semaphore_acquire(&sh->s, MH_NOW), MH_ERR_CORRUPT);
    assert_err(mh_semaphore_release(&sh->s, 1), MH_ERR_CORRUPT);
    assert_int_equal(mh_semaphore_value(&sh->s), 0);
}

static void a_dead_holders_permits_come_back(void **state)
{
    (void)state;
    assert_ok(mh_semaphore_init(&sh->s, 3, 3));
    assert_int_equal(run_process(acquire_twice, &sh->s), 0);
    assert_int_equal(mh_semaphore_value(&sh->s), 1);
    for (int i = 0; i < 3; i++)
        assert_ok(mh_semaphore_acquire(&sh->s, soon()));
    assert_err(mh_semaphore_acquire(&sh->s, ms(5)), MH_ERR_TIMEOUT);
}

static void a_try_finds_them_too(void **state)
{
    (void)state;
    assert_ok(mh_semaphore_init(&sh->s, 1, 1));
    assert_int_equal(run_process(acquire, &sh->s), 0);
    assert_ok(mh_semaphore_acquire(&sh->s, MH_NOW));
}

static void a_killed_holder_wakes_a_sleeping_waiter(void **state)
{
    (void)state;
    assert_ok(mh_semaphore_init(&sh->s, 1, 1));
    pid_t holder = start_process(acquire_and_stay, &sh->s);
    assert_ok(mh_event_wait(&sh->held, soon()));
    pid_t waiter = start_process(acquire_and_release, &sh->s);
    await_state(waiter, 'S');
    kill_process(holder);
    assert_int_equal(join_process(waiter), 0);
}

static void a_stopped_holder_keeps_its_permit(void **state)
{
    (void)state;
    assert_ok(mh_semaphore_init(&sh->s, 1, 1));
    pid_t holder = start_process(acquire_and_stay, &sh->s);
    assert_ok(mh_event_wait(&sh->held, soon()));
    stop_process(holder);
    assert_err(mh_semaphore_acquire(&sh->s, ms(20)), MH_ERR_TIMEOUT);
    kill(holder, SIGCONT);
    assert_ok(mh_event_set(&sh->go));
    assert_int_equal(join_process(holder), 0);
    assert_int_equal(mh_semaphore_value(&sh->s), 1);
}

/* What the dead took as a signal is not given back; what was taken as a permit is. */
static void signals_are_not_permits(void **state)
{
    (void)state;
    const struct {
        uint32_t initial, signals; /* the tester releases so many */
        int takers;                /* processes that take one each, and end */
        uint32_t expected;         /* permits to be had afterwards */
        const char *why;
    } table[] = {
        {0, 5, 3, 2, "a consumer's end brings no signal back"},
        {2, 0, 2, 2, "a holder's end brings its permit back"},
        {1, 1, 1, 1, "handed over: another released what the dead had taken"},
        {2, 1, 3, 2, "one of three was released by another"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(table); i++) {
        assert_ok(mh_semaphore_init(&sh->s, table[i].initial, 100));
        for (uint32_t n = 0; n < table[i].signals; n++)
            assert_ok(mh_semaphore_release(&sh->s, 1));
        for (int n = 0; n < table[i].takers; n++)
            assert_int_equal(run_process(acquire, &sh->s), 0);
        uint32_t count = 0;
        while (mh_semaphore_acquire(&sh->s, ms(count < table[i].expected ? 5000 : 2)) == MH_OK)
            count++;
        if (count != table[i].expected)
            fail_msg("%s: %u permits, not %u", table[i].why, count, table[i].expected);
    }
}

static void the_table_of_holders_is_reused(void **state)
{
    (void)state;
    assert_ok(mh_semaphore_init(&sh->s, 1, 1));
    for (int i = 0; i < MH_SEMAPHORE_HOLDERS_MAX + 20; i++) /* some die holding, some gave it back */
        assert_int_equal(run_process(i % 4 ? acquire_and_release : acquire, &sh->s), 0);
    assert_ok(mh_semaphore_acquire(&sh->s, soon()));
}

/* As though every place belonged to a living process. */
static void fill_the_table(uint32_t spare)
{
    assert_ok(mh_semaphore_init(&sh->s, 1, 1));
    sh->s.initial = sh->s.base = sh->s.max = MH_SEMAPHORE_HOLDERS_MAX + spare;
    for (int i = 0; i < MH_SEMAPHORE_HOLDERS_MAX; i++) {
        sh->s.holders[i].who = mh__os_identity_of(getppid());
        sh->s.holders[i].held = 1;
    }
    sh->s.used = MH_SEMAPHORE_HOLDERS_MAX;
    sh->s.value = spare;
}

static void more_holders_than_are_remembered(void **state)
{
    (void)state;
    fill_the_table(2);
    assert_err(mh_semaphore_try(&sh->s), MH_ERR_TIMEOUT); /* a place might be got by looking for the dead */
    assert_int_equal(run_process(acquire, &sh->s), 0); /* not remembered, and so not missed */
    assert_int_equal(run_process(acquire_and_release, &sh->s), 0);
    assert_int_equal(mh_semaphore_value(&sh->s), 1);
    assert_ok(mh_semaphore_release(&sh->s, 1)); /* in its place */
    assert_int_equal(mh_semaphore_value(&sh->s), 2);

    fill_the_table(1);
    sh->s.holders[77].who += UINT64_C(1) << 32; /* now this one is dead: its place is the caller's */
    assert_ok(mh_semaphore_acquire(&sh->s, soon()));
    assert_int_equal(sh->s.holders[77].who, mh__os_self_process());
    assert_int_equal(mh_semaphore_value(&sh->s), 1);
}

static void a_release_that_comes_after_the_settlement_adds_nothing(void **state)
{
    (void)state;
    assert_ok(mh_semaphore_init(&sh->s, 2, 2));
    assert_int_equal(run_process(acquire_twice, &sh->s), 0); /* as a producer that ends: the consumer is to release */
    assert_ok(mh_semaphore_acquire(&sh->s, soon()));         /* both came back, one is taken */
    assert_int_equal(mh_semaphore_value(&sh->s), 1);
    assert_int_equal(run_process(release, &sh->s), 0);
    assert_int_equal(run_process(release, &sh->s), 0);
    assert_int_equal(mh_semaphore_value(&sh->s), 1);
    assert_ok(mh_semaphore_release(&sh->s, 1)); /* the caller's own */
    assert_err(mh_semaphore_release(&sh->s, 1), MH_ERR_FULL);
    assert_int_equal(run_process(acquire_twice, &sh->s), 0);
    assert_ok(mh_semaphore_acquire(&sh->s, soon()));
    assert_ok(mh_semaphore_release(&sh->s, 3)); /* one of its own, two of the dead's, all in one call */
    assert_int_equal(mh_semaphore_value(&sh->s), 2);
}

static int acquire_and_disown(void *s) { return acquire_twice(s) || mh_semaphore_disown(s); }

static void what_was_disowned_stays_taken(void **state)
{
    (void)state;
    assert_ok(mh_semaphore_init(&sh->s, 2, 2));
    assert_int_equal(run_process(acquire_and_disown, &sh->s), 0);
    assert_err(mh_semaphore_acquire(&sh->s, ms(20)), MH_ERR_TIMEOUT);
    assert_ok(mh_semaphore_release(&sh->s, 2));
    assert_err(mh_semaphore_release(&sh->s, 1), MH_ERR_FULL);
    assert_ok(mh_semaphore_disown(&sh->s)); /* holds none: nothing happens */
    assert_int_equal(mh_semaphore_value(&sh->s), 2);
    mh_semaphore_fini(&sh->s);
    assert_err(mh_semaphore_disown(&sh->s), MH_ERR_CORRUPT);
}

static void tries_wait_for_nobody(void **state)
{
    (void)state;
    assert_ok(mh_semaphore_init(&sh->s, 1, 2));
    assert_ok(mh_semaphore_try(&sh->s));
    assert_err(mh_semaphore_try(&sh->s), MH_ERR_TIMEOUT);
    assert_ok(mh_semaphore_try_release(&sh->s, 2));
    assert_err(mh_semaphore_try_release(&sh->s, 1), MH_ERR_FULL);
    assert_ok(mh_mutex_lock(&sh->s.lock, MH_NOW)); /* as though somebody were inside */
    assert_err(mh_semaphore_try(&sh->s), MH_ERR_TIMEOUT);
    assert_err(mh_semaphore_try_release(&sh->s, 1), MH_ERR_TIMEOUT);
    assert_ok(mh_mutex_unlock(&sh->s.lock));
    mh_semaphore_fini(&sh->s);
    assert_err(mh_semaphore_try(&sh->s), MH_ERR_CORRUPT);
    assert_err(mh_semaphore_try_release(&sh->s, 1), MH_ERR_CORRUPT);
}

static void quick_releases_wake_as_many(void **state)
{
    (void)state;
    enum { WAITERS = 5 };
    pid_t waiters[WAITERS];
    assert_ok(mh_semaphore_init(&sh->s, 0, 100));
    for (int i = 0; i < WAITERS; i++)
        waiters[i] = start_process(acquire, &sh->s);
    for (int i = 0; i < WAITERS; i++)
        await_state(waiters[i], 'S');
    kill_process(waiters[0]); /* a dead waiter takes none */
    for (int i = 1; i < WAITERS; i++)
        assert_ok(mh_semaphore_release(&sh->s, 1));
    for (int i = 1; i < WAITERS; i++)
        assert_int_equal(join_process(waiters[i]), 0);
    assert_int_equal(mh_semaphore_value(&sh->s), 0);
}

static void a_signal_interrupts_a_wait(void **state)
{
    (void)state;
    test_thread t;
    assert_ok(mh_semaphore_init(&sh->s, 0, 1));
    start_thread(&t, acquire_in_thread, &sh->s);
    interrupt_and_join(&t);
    assert_int_equal(sh->got, MH_ERR_INTERRUPTED);
}

enum { PERMITS = 2 };

static void use_permits(void *arg)
{
    int times = *(int *)arg;
    for (int i = 0; i < times; i++) {
        if (mh_semaphore_acquire(&sh->s, soon()))
            abort();
        int32_t now = __atomic_add_fetch(&sh->inside, 1, __ATOMIC_RELAXED);
        if (now > PERMITS)
            abort();
        __atomic_sub_fetch(&sh->inside, 1, __ATOMIC_RELAXED);
        if (mh_semaphore_release(&sh->s, 1))
            abort();
    }
}
static int use_permits_process(void *arg)
{
    use_permits(arg);
    return 0;
}

static void no_more_hold_it_than_permits(void **state)
{
    (void)state;
    enum { EACH = 3 };
    int times = rounds(3000);
    test_thread threads[EACH];
    pid_t processes[EACH];
    assert_ok(mh_semaphore_init(&sh->s, PERMITS, PERMITS));
    for (int i = 0; i < EACH; i++)
        processes[i] = start_process(use_permits_process, &times);
    for (int i = 0; i < EACH; i++)
        start_thread(&threads[i], use_permits, &times);
    for (int i = 0; i < EACH; i++) {
        join_thread(&threads[i]);
        assert_int_equal(join_process(processes[i]), 0);
    }
    assert_int_equal(mh_semaphore_value(&sh->s), PERMITS);
}

/* Random kills while permits go round: at the end all of them are there. */
static int use_for_ever(void *arg)
{
    (void)arg;
    for (;;)
        if (acquire(&sh->s) || mh_event_set(&sh->held) || release(&sh->s))
            return 1;
}

static void kills_lose_no_permit(void **state)
{
    (void)state;
    enum { USERS = 3 };
    pid_t users[USERS];
    assert_ok(mh_semaphore_init(&sh->s, PERMITS, PERMITS));
    for (int i = 0; i < USERS; i++)
        users[i] = start_process(use_for_ever, NULL);
    for (int i = 0; i < rounds(60); i++) {
        assert_ok(mh_event_clear(&sh->held));
        assert_ok(mh_event_wait(&sh->held, soon())); /* somebody goes on */
        kill_process(users[i % USERS]);
        users[i % USERS] = start_process(use_for_ever, NULL);
    }
    for (int i = 0; i < USERS; i++)
        kill_process(users[i]);
    for (int i = 0; i < PERMITS; i++)
        assert_ok(mh_semaphore_acquire(&sh->s, soon()));
    assert_err(mh_semaphore_acquire(&sh->s, ms(2)), MH_ERR_TIMEOUT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(init_refuses),
        TEST(it_counts_and_is_bounded),
        TEST(a_dead_holders_permits_come_back),
        TEST(a_try_finds_them_too),
        TEST(a_killed_holder_wakes_a_sleeping_waiter),
        TEST(a_stopped_holder_keeps_its_permit),
        TEST(signals_are_not_permits),
        TEST(the_table_of_holders_is_reused),
        TEST(more_holders_than_are_remembered),
        TEST(a_release_that_comes_after_the_settlement_adds_nothing),
        TEST(what_was_disowned_stays_taken),
        TEST(tries_wait_for_nobody),
        TEST(quick_releases_wake_as_many),
        TEST(a_signal_interrupts_a_wait),
        TEST(no_more_hold_it_than_permits),
        TEST(kills_lose_no_permit),
    };
    return cmocka_run_group_tests_name("semaphore", tests, NULL, NULL);
}
