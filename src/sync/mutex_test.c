#include "sync/sync_test.h"

#include "sync/wait.h"

typedef struct shared {
    mh_mutex m;
    mh_rmutex r;
    mh_event held, go;
    uint64_t count; /* guarded by m */
    int32_t told_dead;
    mh_err got;
} shared;

static shared *sh;

static int setup(void **state)
{
    (void)state;
    sh = share(sizeof *sh);
    assert_ok(mh_mutex_init(&sh->m, 0));
    assert_ok(mh_rmutex_init(&sh->r));
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

/* ---- children and threads ---------------------------------------------------------------------- */

static int hold(void *m)
{
    mh_err err = mh_mutex_lock(m, soon());
    mh_event_set(&sh->held);
    return err || mh_event_wait(&sh->go, soon()) || mh_mutex_unlock(m);
}
static int lock_and_end(void *m) { return (int)mh_mutex_lock(m, soon()); }
static int unlock_result(void *m) { return (int)mh_mutex_unlock(m); }
static int try_result(void *m) { return (int)mh_mutex_lock(m, MH_NOW); }
static int lock_recover_unlock(void *m)
{
    mh_err err = mh_mutex_lock(m, soon());
    if (err == MH_ERR_OWNER_DIED) {
        __atomic_fetch_add(&sh->told_dead, 1, __ATOMIC_RELAXED);
        err = mh_mutex_recover(m);
    }
    return err || mh_mutex_unlock(m);
}
static void lock_in_thread(void *m) { sh->got = mh_mutex_lock(m, soon()); }
static void try_in_thread(void *m) { sh->got = mh_mutex_lock(m, MH_NOW); }
static void unlock_in_thread(void *m) { sh->got = mh_mutex_unlock(m); }

static pid_t start_holder(mh_mutex *m)
{
    pid_t pid = start_process(hold, m);
    assert_ok(mh_event_wait(&sh->held, soon()));
    return pid;
}

/* ---- tests ------------------------------------------------------------------------------------- */

static void init_refuses(void **state)
{
    (void)state;
    const struct {
        void *at;
        uint32_t flags;
        mh_err expected;
        const char *why;
    } table[] = {
        {&sh->m, 0, MH_OK, "plain"},
        {&sh->m, MH_MUTEX_CHECKED | MH_MUTEX_PROCESS | MH_MUTEX_ANYONE, MH_OK, "all flags"},
        {&sh->m, 8, MH_ERR_INVALID, "unknown flag"},
        {(char *)&sh->m + 4, 0, MH_ERR_INVALID, "misaligned"},
        {NULL, 0, MH_ERR_INVALID, "nowhere"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(table); i++)
        if (mh_mutex_init(table[i].at, table[i].flags) != table[i].expected)
            fail_msg("%s", table[i].why);
}

static void memory_that_holds_no_mutex_is_refused(void **state)
{
    (void)state;
    assert_ok(mh_mutex_lock(&sh->m, MH_NOW));
    mh_mutex_fini(&sh->m);
    assert_err(mh_mutex_lock(&sh->m, MH_NOW), MH_ERR_CORRUPT);
    assert_err(mh_mutex_unlock(&sh->m), MH_ERR_CORRUPT);
    assert_err(mh_mutex_recover(&sh->m), MH_ERR_CORRUPT);
    mh_rmutex_fini(&sh->r);
    assert_err(mh_rmutex_lock(&sh->r, MH_NOW), MH_ERR_CORRUPT);
    assert_err(mh_rmutex_unlock(&sh->r), MH_ERR_CORRUPT);
    assert_err(mh_rmutex_recover(&sh->r), MH_ERR_CORRUPT);
}

static void one_holds_it(void **state)
{
    (void)state;
    assert_false(mh_mutex_is_locked(&sh->m));
    assert_int_equal(mh_mutex_holder(&sh->m), 0);
    assert_err(mh_mutex_unlock(&sh->m), MH_ERR_NOT_OWNER);
    assert_err(mh_mutex_recover(&sh->m), MH_ERR_NOT_OWNER);
    assert_ok(mh_mutex_lock(&sh->m, MH_NOW));
    assert_true(mh_mutex_is_locked(&sh->m) && mh_mutex_is_mine(&sh->m));
    assert_int_equal(mh_mutex_holder(&sh->m), gettid());
    run_thread(try_in_thread, &sh->m);
    assert_int_equal(sh->got, MH_ERR_TIMEOUT);
    run_thread(unlock_in_thread, &sh->m);
    assert_int_equal(sh->got, MH_ERR_NOT_OWNER);
    assert_int_equal(run_process(try_result, &sh->m), MH_ERR_TIMEOUT);
    assert_int_equal(run_process(unlock_result, &sh->m), MH_ERR_NOT_OWNER);
    assert_ok(mh_mutex_unlock(&sh->m));
    assert_int_equal(run_process(lock_recover_unlock, &sh->m), 0);
    assert_int_equal(sh->told_dead, 0);
}

static void relocking_waits_or_is_refused(void **state)
{
    (void)state;
    int64_t start = mh_now();
    assert_ok(mh_mutex_lock(&sh->m, MH_NOW));
    assert_err(mh_mutex_lock(&sh->m, MH_NOW), MH_ERR_TIMEOUT);
    assert_err(mh_mutex_lock(&sh->m, ms(20)), MH_ERR_TIMEOUT);
    assert_true(mh_now() - start >= 20 * MH_MILLISECOND);
    assert_ok(mh_mutex_init(&sh->m, MH_MUTEX_CHECKED));
    assert_ok(mh_mutex_lock(&sh->m, MH_NOW));
    assert_err(mh_mutex_lock(&sh->m, MH_FOREVER), MH_ERR_DEADLOCK);
    assert_ok(mh_mutex_unlock(&sh->m));
}

static void a_process_mutex_is_its_processs(void **state)
{
    (void)state;
    assert_ok(mh_mutex_init(&sh->m, MH_MUTEX_PROCESS));
    run_thread(lock_in_thread, &sh->m); /* the thread's end frees nothing */
    assert_err(mh_mutex_lock(&sh->m, ms(5)), MH_ERR_TIMEOUT);
    assert_int_equal(mh_mutex_holder(&sh->m), getpid());
    assert_true(mh_mutex_is_mine(&sh->m));
    assert_int_equal(run_process(unlock_result, &sh->m), MH_ERR_NOT_OWNER);
    assert_ok(mh_mutex_unlock(&sh->m)); /* another thread may */
    assert_err(mh_mutex_unlock(&sh->m), MH_ERR_NOT_OWNER);
    assert_int_equal(run_process(lock_and_end, &sh->m), 0);
    assert_err(mh_mutex_lock(&sh->m, soon()), MH_ERR_OWNER_DIED);
}

static void anyone_may_unlock_a_mutex_made_so(void **state)
{
    (void)state;
    assert_ok(mh_mutex_init(&sh->m, MH_MUTEX_PROCESS | MH_MUTEX_ANYONE));
    assert_err(mh_mutex_unlock(&sh->m), MH_ERR_NOT_OWNER);
    assert_ok(mh_mutex_lock(&sh->m, MH_NOW));
    assert_int_equal(run_process(unlock_result, &sh->m), 0);
    assert_ok(mh_mutex_lock(&sh->m, MH_NOW));
    assert_ok(mh_mutex_unlock(&sh->m));
}

static void the_death_of_a_holder_is_told_once(void **state)
{
    (void)state;
    enum { WAITERS = 4 };
    pid_t holder = start_holder(&sh->m), waiters[WAITERS];
    for (int i = 0; i < WAITERS; i++)
        waiters[i] = start_process(lock_recover_unlock, &sh->m);
    for (int i = 0; i < WAITERS; i++)
        await_state(waiters[i], 'S');
    kill_process(holder);
    for (int i = 0; i < WAITERS; i++)
        assert_int_equal(join_process(waiters[i]), 0);
    assert_int_equal(sh->told_dead, 1);
    assert_ok(mh_mutex_lock(&sh->m, MH_NOW));
}

static void a_death_is_told_until_recovered(void **state)
{
    (void)state;
    assert_int_equal(run_process(lock_and_end, &sh->m), 0);
    for (int i = 0; i < 3; i++) {
        assert_err(mh_mutex_lock(&sh->m, MH_NOW), MH_ERR_OWNER_DIED);
        assert_ok(mh_mutex_unlock(&sh->m));
    }
    assert_err(mh_mutex_lock(&sh->m, soon()), MH_ERR_OWNER_DIED);
    assert_ok(mh_mutex_recover(&sh->m));
    assert_ok(mh_mutex_unlock(&sh->m));
    assert_ok(mh_mutex_lock(&sh->m, MH_NOW));
}

static void a_thread_that_ends_inside_counts_as_dead(void **state)
{
    (void)state;
    run_thread(lock_in_thread, &sh->m);
    assert_err(mh_mutex_lock(&sh->m, soon()), MH_ERR_OWNER_DIED);
}

static void the_death_of_a_waiter_stops_nobody(void **state)
{
    (void)state;
    enum { WAITERS = 6 };
    pid_t waiters[WAITERS];
    assert_ok(mh_mutex_lock(&sh->m, MH_NOW));
    for (int i = 0; i < WAITERS; i++)
        waiters[i] = start_process(lock_recover_unlock, &sh->m);
    for (int i = 0; i < WAITERS; i++)
        await_state(waiters[i], 'S');
    for (int i = 0; i < WAITERS / 2; i++)
        kill(waiters[i], SIGKILL); /* not reaped yet: as zombies they are dead all the same */
    assert_ok(mh_mutex_unlock(&sh->m));
    for (int i = 0; i < WAITERS; i++) {
        int status = join_process(waiters[i]);
        assert_true(status == 0 || (status == 1000 + SIGKILL && i < WAITERS / 2));
    }
}

static void a_stopped_holder_is_not_dead(void **state)
{
    (void)state;
    pid_t holder = start_holder(&sh->m);
    stop_process(holder);
    assert_err(mh_mutex_lock(&sh->m, MH_NOW), MH_ERR_TIMEOUT);
    assert_err(mh_mutex_lock(&sh->m, ms(30)), MH_ERR_TIMEOUT);
    kill(holder, SIGCONT);
    assert_ok(mh_event_set(&sh->go));
    assert_ok(mh_mutex_lock(&sh->m, soon()));
    assert_int_equal(join_process(holder), 0);
}

static int lock_unmap_and_end(void *m)
{
    mh_err err = mh_mutex_lock(m, soon());
    return munmap((void *)((uintptr_t)m & ~(uintptr_t)4095), 4096) || err;
}

static void a_holder_that_unmapped_it_is_noticed(void **state)
{
    (void)state;
    assert_true(sizeof *sh <= 4096);
    assert_int_equal(run_process(lock_unmap_and_end, &sh->m), 0);
    assert_err(mh_mutex_lock(&sh->m, soon()), MH_ERR_OWNER_DIED);
}

enum { MANY = 3200 }; /* the kernel's own robust locks: 2,048 of a thread */

static int lock_many_and_die(void *at)
{
    for (mh_mutex *m = at; m < (mh_mutex *)at + MANY; m++)
        if (mh_mutex_lock(m, MH_NOW))
            return 1;
    raise(SIGKILL);
    return 2;
}

static void all_of_many_locks_recover(void **state)
{
    (void)state;
    mh_mutex *many = share(MANY * sizeof *many);
    for (int i = 0; i < MANY; i++)
        assert_ok(mh_mutex_init(&many[i], 0));
    assert_int_equal(run_process(lock_many_and_die, many), 1000 + SIGKILL);
    for (int i = 0; i < MANY; i++)
        assert_err(mh_mutex_lock(&many[i], MH_NOW), MH_ERR_OWNER_DIED);
    unshare_pages(many, MANY * sizeof *many);
}

/* A reused number does not make a dead owner live: the start time differs. */
static void a_reused_number_cannot_forge_an_owner(void **state)
{
    (void)state;
    mh__identity parent = mh__os_identity_of(getppid());
    assert_true(parent && mh__os_is_alive(parent) && mh__os_is_process_alive(parent));
    assert_false(mh__os_is_alive(parent + (UINT64_C(1) << 32)) || mh__os_is_alive(parent - (UINT64_C(1) << 32)));
    assert_false(mh__os_is_alive(0) || mh__os_is_alive(UINT64_C(1) << 32 | 0x7fffffff));
    sh->m.word = parent;
    assert_err(mh_mutex_lock(&sh->m, MH_NOW), MH_ERR_TIMEOUT);
    sh->m.word = parent + (UINT64_C(1) << 32);
    assert_err(mh_mutex_lock(&sh->m, MH_NOW), MH_ERR_OWNER_DIED);
}

static void *outlive_main(void *arg)
{
    (void)arg;
    await_state(getpid(), 'Z'); /* the first thread has ended, the process has not */
    bool alive = mh__os_is_process_alive(mh__os_self_process()) && !mh__os_is_alive(mh__os_self_process());
    _exit(alive ? 0 : 1);
}

static int end_main_thread(void *arg)
{
    pthread_t id;
    mh__os_self_process();
    if (pthread_create(&id, NULL, outlive_main, arg))
        return 2;
    pthread_exit(NULL);
}

static void a_process_outlives_its_first_thread(void **state)
{
    (void)state;
    assert_int_equal(run_process(end_main_thread, NULL), 0);
}

static void wait_long(void *m) { sh->got = mh_mutex_lock(m, MH_FOREVER); }

static void a_signal_interrupts_a_wait(void **state)
{
    (void)state;
    test_thread t;
    assert_ok(mh_mutex_lock(&sh->m, MH_NOW));
    start_thread(&t, wait_long, &sh->m);
    interrupt_and_join(&t);
    assert_int_equal(sh->got, MH_ERR_INTERRUPTED);
}

static void count_up(void *arg)
{
    int times = *(int *)arg;
    for (int i = 0; i < times; i++) {
        if (mh_mutex_lock(&sh->m, soon()))
            abort();
        sh->count++; /* the thread sanitizer watches this */
        if (mh_mutex_unlock(&sh->m))
            abort();
    }
}
static int count_up_process(void *arg)
{
    count_up(arg);
    return 0;
}

static void it_excludes(void **state)
{
    (void)state;
    enum { EACH = 3 };
    int times = rounds(20000);
    test_thread threads[EACH];
    pid_t processes[EACH];
    for (int i = 0; i < EACH; i++)
        processes[i] = start_process(count_up_process, &times);
    for (int i = 0; i < EACH; i++)
        start_thread(&threads[i], count_up, &times);
    for (int i = 0; i < EACH; i++) {
        join_thread(&threads[i]);
        assert_int_equal(join_process(processes[i]), 0);
    }
    assert_int_equal(sh->count, 2 * EACH * times);
}

static void pass_us(int64_t count)
{
    for (int64_t until = mh_now() + count * MH_MICROSECOND; mh_now() < until;)
        ;
}

/* Held half of the time. */
static void toggle(void *stop)
{
    while (!__atomic_load_n((bool *)stop, __ATOMIC_RELAXED)) {
        if (mh_mutex_lock(&sh->m, soon()))
            abort();
        pass_us(20);
        if (mh_mutex_unlock(&sh->m))
            abort();
        pass_us(20);
    }
}

/* TIMEOUT means that the caller does not hold it, even when it was freed in the last moment. */
static void a_timeout_never_holds(void **state)
{
    (void)state;
    bool stop = false;
    test_thread t;
    start_thread(&t, toggle, &stop);
    mh_deadline until = ms(rounds(500));
    for (int i = 0, timeouts = 0; timeouts < rounds(100) && mh_now() < until; i++) {
        mh_err err = mh_mutex_lock(&sh->m, mh_deadline_in(i % 2000));
        timeouts += err == MH_ERR_TIMEOUT;
        assert_int_equal(mh_mutex_is_mine(&sh->m), err == MH_OK);
        if (!err)
            assert_ok(mh_mutex_unlock(&sh->m));
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    join_thread(&t);
}

static int lock_thrice_and_end(void *r) { return mh_rmutex_lock(r, soon()) || mh_rmutex_lock(r, soon()) || mh_rmutex_lock(r, soon()); }
static void rmutex_try_in_thread(void *r) { sh->got = mh_rmutex_lock(r, MH_NOW); }
static void rmutex_unlock_in_thread(void *r) { sh->got = mh_rmutex_unlock(r); }

static void a_recursive_mutex_counts(void **state)
{
    (void)state;
    assert_err(mh_rmutex_unlock(&sh->r), MH_ERR_NOT_OWNER);
    for (uint32_t i = 1; i <= 3; i++) {
        assert_ok(mh_rmutex_lock(&sh->r, MH_NOW));
        assert_int_equal(mh_rmutex_depth(&sh->r), i);
    }
    assert_true(mh_rmutex_is_mine(&sh->r));
    assert_int_equal(mh_rmutex_holder(&sh->r), gettid());
    run_thread(rmutex_unlock_in_thread, &sh->r);
    assert_int_equal(sh->got, MH_ERR_NOT_OWNER);
    for (int i = 0; i < 3; i++) {
        run_thread(rmutex_try_in_thread, &sh->r);
        assert_int_equal(sh->got, MH_ERR_TIMEOUT);
        assert_ok(mh_rmutex_unlock(&sh->r));
    }
    assert_false(mh_rmutex_is_locked(&sh->r));
    sh->r.depth = UINT32_MAX;
    assert_ok(mh_rmutex_lock(&sh->r, MH_NOW));
    sh->r.depth = UINT32_MAX;
    assert_err(mh_rmutex_lock(&sh->r, MH_NOW), MH_ERR_LIMIT);
}

static void a_dead_holders_depth_dies_with_it(void **state)
{
    (void)state;
    assert_int_equal(run_process(lock_thrice_and_end, &sh->r), 0);
    assert_err(mh_rmutex_lock(&sh->r, soon()), MH_ERR_OWNER_DIED);
    assert_int_equal(mh_rmutex_depth(&sh->r), 1);
    assert_ok(mh_rmutex_recover(&sh->r));
    assert_ok(mh_rmutex_unlock(&sh->r));
    assert_false(mh_rmutex_is_locked(&sh->r));
}

static int lock_and_die(void *m) { return (int)mh_mutex_lock(m, soon()); }
static int rlock_and_die(void *r) { return (int)mh_rmutex_lock(r, soon()); }

static void a_try_does_not_look_for_the_dead(void **state)
{
    (void)state;
    assert_ok(mh_mutex_init(&sh->m, 0));
    assert_ok(mh_mutex_try(&sh->m));
    assert_err(mh_mutex_try(&sh->m), MH_ERR_TIMEOUT);
    assert_ok(mh_mutex_unlock(&sh->m));
    assert_int_equal(run_process(lock_and_die, &sh->m), 0);
    assert_err(mh_mutex_try(&sh->m), MH_ERR_TIMEOUT);
    assert_err(mh_mutex_lock(&sh->m, MH_NOW), MH_ERR_OWNER_DIED);
    mh_mutex_fini(&sh->m);
    assert_err(mh_mutex_try(&sh->m), MH_ERR_CORRUPT);

    assert_ok(mh_rmutex_init(&sh->r));
    assert_ok(mh_rmutex_try(&sh->r));
    assert_ok(mh_rmutex_try(&sh->r));
    assert_int_equal(mh_rmutex_depth(&sh->r), 2);
    assert_ok(mh_rmutex_unlock(&sh->r));
    assert_ok(mh_rmutex_unlock(&sh->r));
    assert_int_equal(run_process(rlock_and_die, &sh->r), 0);
    assert_err(mh_rmutex_try(&sh->r), MH_ERR_TIMEOUT);
    assert_err(mh_rmutex_lock(&sh->r, MH_NOW), MH_ERR_OWNER_DIED);
    assert_ok(mh_rmutex_unlock(&sh->r));
    assert_err(mh_rmutex_try(&sh->r), MH_ERR_OWNER_DIED); /* not recovered: told again */
    mh_rmutex_fini(&sh->r);
    assert_err(mh_rmutex_try(&sh->r), MH_ERR_CORRUPT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_try_does_not_look_for_the_dead),
        TEST(init_refuses),
        TEST(memory_that_holds_no_mutex_is_refused),
        TEST(one_holds_it),
        TEST(relocking_waits_or_is_refused),
        TEST(a_process_mutex_is_its_processs),
        TEST(anyone_may_unlock_a_mutex_made_so),
        TEST(the_death_of_a_holder_is_told_once),
        TEST(a_death_is_told_until_recovered),
        TEST(a_thread_that_ends_inside_counts_as_dead),
        TEST(the_death_of_a_waiter_stops_nobody),
        TEST(a_stopped_holder_is_not_dead),
        TEST(a_holder_that_unmapped_it_is_noticed),
        TEST(all_of_many_locks_recover),
        TEST(a_reused_number_cannot_forge_an_owner),
        TEST(a_process_outlives_its_first_thread),
        TEST(a_signal_interrupts_a_wait),
        TEST(it_excludes),
        TEST(a_timeout_never_holds),
        TEST(a_recursive_mutex_counts),
        TEST(a_dead_holders_depth_dies_with_it),
    };
    return cmocka_run_group_tests_name("mutex", tests, NULL, NULL);
}
