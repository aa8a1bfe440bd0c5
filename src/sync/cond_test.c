#include "sync/sync_test.h"

enum { MOST = 8 };

typedef struct shared {
    mh_mutex m;
    mh_rmutex r;
    mh_cond c;
    mh_err got;
    uint32_t woken;       /* guarded by m */
    uint32_t order[MOST]; /* who woke first; guarded by m */
    uint64_t produced, consumed; /* guarded by m */
    mh_deadline until;
} shared;

static shared *sh;

static int setup(void **state)
{
    (void)state;
    sh = share(sizeof *sh);
    assert_ok(mh_mutex_init(&sh->m, 0));
    assert_ok(mh_rmutex_init(&sh->r));
    assert_ok(mh_cond_init(&sh->c));
    sh->until = soon();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unshare_pages(sh, sizeof *sh);
    return 0;
}

static mh_err lock(void)
{
    mh_err err = mh_mutex_lock(&sh->m, soon());
    return err == MH_ERR_OWNER_DIED ? mh_mutex_recover(&sh->m) : err;
}

/* Until `count` wait, counting the dead: with m held. */
static void lock_when_waiting(uint32_t count)
{
    for (mh_deadline until = soon();; sched_yield()) {
        assert_ok(lock());
        if (mh_cond_count_waiting(&sh->c) == count)
            return;
        assert_ok(mh_mutex_unlock(&sh->m));
        assert_true(mh_now() < until);
    }
}

static int wait_in_process(void *arg)
{
    (void)arg;
    mh_err err = lock();
    if (!err)
        err = mh_cond_wait(&sh->c, &sh->m, sh->until);
    if (err == MH_ERR_OWNER_DIED && mh_mutex_recover(&sh->m))
        return -1;
    if (!err)
        sh->order[sh->woken++ % MOST] = (uint32_t)getpid();
    mh_mutex_unlock(&sh->m);
    return (int)err;
}
static void wait_in_thread(void *arg) { sh->got = (mh_err)wait_in_process(arg); }

static void notify_wakes_exactly_so_many_in_order(void **state)
{
    (void)state;
    enum { WAITERS = 6 };
    pid_t waiters[WAITERS];
    for (uint32_t i = 0; i < WAITERS; i++) {
        waiters[i] = start_process(wait_in_process, NULL);
        lock_when_waiting(i + 1);
        assert_ok(mh_mutex_unlock(&sh->m));
    }
    assert_ok(lock());
    assert_ok(mh_cond_notify(&sh->c, 0));
    assert_ok(mh_cond_notify(&sh->c, 1));
    assert_ok(mh_cond_notify(&sh->c, 2));
    assert_int_equal(mh_cond_count_waiting(&sh->c), WAITERS - 3);
    assert_ok(mh_mutex_unlock(&sh->m));
    for (int i = 0; i < 3; i++)
        assert_int_equal(join_process(waiters[i]), 0);
    assert_ok(lock());
    assert_int_equal(sh->woken, 3); /* the first three, and nobody else */
    for (int i = 3; i < WAITERS; i++)
        assert_int_equal(waitpid(waiters[i], NULL, WNOHANG), 0);
    assert_ok(mh_cond_notify(&sh->c, UINT32_MAX));
    assert_ok(mh_mutex_unlock(&sh->m));
    for (int i = 3; i < WAITERS; i++)
        assert_int_equal(join_process(waiters[i]), 0);
    assert_int_equal(sh->woken, WAITERS);
}

static void a_wait_times_out_with_the_mutex_held(void **state)
{
    (void)state;
    assert_err(mh_cond_wait(&sh->c, &sh->m, MH_NOW), MH_ERR_NOT_OWNER);
    assert_ok(lock());
    assert_ok(mh_cond_notify(&sh->c, 5)); /* nobody waits: it is not kept */
    int64_t start = mh_now();
    assert_err(mh_cond_wait(&sh->c, &sh->m, ms(15)), MH_ERR_TIMEOUT);
    assert_true(mh_now() - start >= 15 * MH_MILLISECOND);
    assert_err(mh_cond_wait(&sh->c, &sh->m, MH_NOW), MH_ERR_TIMEOUT);
    assert_true(mh_mutex_is_mine(&sh->m));
    assert_int_equal(mh_cond_count_waiting(&sh->c), 0);
}

static void a_signal_interrupts_a_wait(void **state)
{
    (void)state;
    test_thread t;
    start_thread(&t, wait_in_thread, NULL);
    lock_when_waiting(1);
    assert_ok(mh_mutex_unlock(&sh->m));
    interrupt_and_join(&t);
    assert_int_equal(sh->got, MH_ERR_INTERRUPTED);
    assert_int_equal(mh_cond_count_waiting(&sh->c), 0);
}

static void a_killed_waiters_notification_passes_on(void **state)
{
    (void)state;
    pid_t first = start_process(wait_in_process, NULL);
    lock_when_waiting(1);
    assert_ok(mh_mutex_unlock(&sh->m));
    pid_t second = start_process(wait_in_process, NULL);
    lock_when_waiting(2);
    assert_ok(mh_mutex_unlock(&sh->m));
    kill_process(first);
    assert_ok(lock());
    assert_ok(mh_cond_notify(&sh->c, 1)); /* goes to the dead, who has waited longest */
    assert_ok(mh_mutex_unlock(&sh->m));
    assert_int_equal(join_process(second), 0);
    assert_int_equal(sh->woken, 1);
}

static void it_passes_to_nobody_who_came_later(void **state)
{
    (void)state;
    pid_t first = start_process(wait_in_process, NULL);
    lock_when_waiting(1);
    kill_process(first);
    assert_ok(mh_cond_notify(&sh->c, 1));
    assert_err(mh_cond_wait(&sh->c, &sh->m, ms(30)), MH_ERR_TIMEOUT);
}

static int wait_then_die_before_the_mutex(void *arg)
{
    (void)arg;
    mh_cond_ticket ticket;
    mh_err err = lock();
    if (!err)
        err = mh_cond_enter(&sh->c, &ticket);
    if (!err)
        err = mh_mutex_unlock(&sh->m);
    if (!err)
        err = mh_cond_await(&sh->c, &ticket, soon());
    if (err)
        return (int)err;
    raise(SIGKILL);
    return -1;
}

static void a_waiter_killed_after_its_wake_passes_it_on_too(void **state)
{
    (void)state;
    pid_t first = start_process(wait_then_die_before_the_mutex, NULL);
    lock_when_waiting(1);
    assert_ok(mh_mutex_unlock(&sh->m));
    pid_t second = start_process(wait_in_process, NULL);
    lock_when_waiting(2);
    assert_ok(mh_cond_notify(&sh->c, 1));
    assert_ok(mh_mutex_unlock(&sh->m));
    assert_int_equal(join_process(first), 1000 + SIGKILL);
    assert_int_equal(join_process(second), 0);
}

static int lock_notify_and_die(void *arg)
{
    (void)arg;
    if (lock() || mh_cond_notify(&sh->c, 1))
        return 1;
    raise(SIGKILL);
    return 2;
}

static void a_notifier_killed_with_the_mutex_is_told(void **state)
{
    (void)state;
    pid_t waiter = start_process(wait_in_process, NULL);
    lock_when_waiting(1);
    assert_ok(mh_mutex_unlock(&sh->m));
    assert_int_equal(run_process(lock_notify_and_die, NULL), 1000 + SIGKILL);
    assert_int_equal(join_process(waiter), MH_ERR_OWNER_DIED);
}

static void wait_recursively(void *arg)
{
    (void)arg;
    sh->got = MH_ERR_INVALID;
    if (mh_rmutex_lock(&sh->r, soon()) || mh_rmutex_lock(&sh->r, soon()))
        return;
    mh_err err = mh_cond_wait_recursive(&sh->c, &sh->r, soon());
    if (mh_rmutex_depth(&sh->r) == 2 && !mh_rmutex_unlock(&sh->r) && !mh_rmutex_unlock(&sh->r))
        sh->got = err;
}

static void a_recursive_mutex_is_freed_and_taken_as_deep(void **state)
{
    (void)state;
    test_thread t;
    assert_err(mh_cond_wait_recursive(&sh->c, &sh->r, MH_NOW), MH_ERR_NOT_OWNER);
    start_thread(&t, wait_recursively, NULL);
    lock_when_waiting(1);
    assert_ok(mh_mutex_unlock(&sh->m));
    assert_ok(mh_rmutex_lock(&sh->r, soon()));
    assert_ok(mh_cond_notify(&sh->c, 1));
    assert_ok(mh_rmutex_unlock(&sh->r));
    join_thread(&t);
    assert_ok(sh->got);
}

/* Waiting in slices by steps: a notification between two slices is not lost. */
static void steps_keep_the_place(void **state)
{
    (void)state;
    mh_cond_ticket first, second;
    assert_ok(mh_cond_enter(&sh->c, &first));
    assert_ok(mh_cond_enter(&sh->c, &second));
    assert_err(mh_cond_await(&sh->c, &first, ms(2)), MH_ERR_TIMEOUT);
    assert_ok(mh_cond_notify(&sh->c, 1));
    assert_ok(mh_cond_await(&sh->c, &first, MH_NOW));
    assert_err(mh_cond_await(&sh->c, &second, MH_NOW), MH_ERR_TIMEOUT);
    assert_ok(mh_cond_leave(&sh->c, &first));
    assert_err(mh_cond_leave(&sh->c, &second), MH_ERR_TIMEOUT);
    mh_cond_ticket nowhere = {.slot = MH_COND_WAITERS_MAX};
    assert_err(mh_cond_await(&sh->c, &nowhere, MH_NOW), MH_ERR_CORRUPT);
    assert_err(mh_cond_leave(&sh->c, &nowhere), MH_ERR_CORRUPT);
}

static int enter_and_end(void *arg)
{
    mh_cond_ticket ticket;
    (void)arg;
    return (int)mh_cond_enter(&sh->c, &ticket);
}

static void the_table_of_waiters_has_an_end(void **state)
{
    (void)state;
    mh_cond_ticket tickets[MH_COND_WAITERS_MAX], more;
    assert_int_equal(run_process(enter_and_end, NULL), 0); /* a dead one, whose place is used again */
    for (int i = 0; i < MH_COND_WAITERS_MAX; i++)
        assert_ok(mh_cond_enter(&sh->c, &tickets[i]));
    assert_err(mh_cond_enter(&sh->c, &more), MH_ERR_LIMIT);
    assert_ok(mh_cond_notify(&sh->c, 100));
    assert_int_equal(mh_cond_count_waiting(&sh->c), MH_COND_WAITERS_MAX - 100);
    for (int i = 0; i < MH_COND_WAITERS_MAX; i++)
        assert_err(mh_cond_leave(&sh->c, &tickets[i]), i < 100 ? MH_OK : MH_ERR_TIMEOUT);
    mh_cond_fini(&sh->c);
    assert_err(mh_cond_enter(&sh->c, &more), MH_ERR_CORRUPT);
    assert_err(mh_cond_notify(&sh->c, 1), MH_ERR_CORRUPT);
    assert_err(mh_cond_init((mh_cond *)(void *)((char *)&sh->c + 1)), MH_ERR_INVALID);
}

static void consume(void *arg)
{
    uint64_t all = *(const uint64_t *)arg;
    if (mh_mutex_lock(&sh->m, soon()))
        abort();
    while (sh->consumed < all) {
        if (sh->produced > sh->consumed)
            sh->consumed++;
        else if (mh_cond_wait(&sh->c, &sh->m, soon()))
            abort();
    }
    mh_cond_notify(&sh->c, UINT32_MAX); /* the others see the end */
    mh_mutex_unlock(&sh->m);
}
static int consume_process(void *arg)
{
    consume(arg);
    return 0;
}

static void nothing_is_missed_among_threads_and_processes(void **state)
{
    (void)state;
    enum { EACH = 2 };
    uint64_t all = (uint64_t)rounds(2000);
    test_thread threads[EACH];
    pid_t processes[EACH];
    for (int i = 0; i < EACH; i++)
        processes[i] = start_process(consume_process, &all);
    for (int i = 0; i < EACH; i++)
        start_thread(&threads[i], consume, &all);
    for (uint64_t i = 0; i < all; i++) {
        assert_ok(mh_mutex_lock(&sh->m, soon()));
        sh->produced++;
        assert_ok(mh_cond_notify(&sh->c, 1));
        assert_ok(mh_mutex_unlock(&sh->m));
    }
    for (int i = 0; i < EACH; i++) {
        join_thread(&threads[i]);
        assert_int_equal(join_process(processes[i]), 0);
    }
    assert_int_equal(sh->consumed, all);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(notify_wakes_exactly_so_many_in_order),
        TEST(a_wait_times_out_with_the_mutex_held),
        TEST(a_signal_interrupts_a_wait),
        TEST(a_killed_waiters_notification_passes_on),
        TEST(it_passes_to_nobody_who_came_later),
        TEST(a_waiter_killed_after_its_wake_passes_it_on_too),
        TEST(a_notifier_killed_with_the_mutex_is_told),
        TEST(a_recursive_mutex_is_freed_and_taken_as_deep),
        TEST(steps_keep_the_place),
        TEST(the_table_of_waiters_has_an_end),
        TEST(nothing_is_missed_among_threads_and_processes),
    };
    return cmocka_run_group_tests_name("cond", tests, NULL, NULL);
}
