/* The budget of cores: who may run, who inherits, and what is left of those that die. */
#include "mh_test.h"
#include "pool/budget.h"
#include "os/process.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static mh__budget *make(uint32_t cores)
{
    mh__budget *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(b, MAP_FAILED);
    mh__budget_init(b, cores);
    assert_ok(mh__budget_check(b, sizeof *b));
    return b;
}

static void end(mh__budget *b) { munmap(b, sizeof *b); }
static uint32_t sit(mh__budget *b) { return mh__budget_sit(b, mh__os_self_process()); }

static void test_as_many_as_cores(void **state)
{
    (void)state;
    mh__budget *b = make(2);
    uint32_t seats[4];
    for (int i = 0; i < 4; i++)
        seats[i] = sit(b);
    assert_true(mh__budget_try(b, seats[3], 0));
    assert_true(mh__budget_try(b, seats[0], 0));
    assert_false(mh__budget_try(b, seats[1], 0));
    assert_int_equal(mh__budget_free(b), 0);
    assert_true(mh__budget_runs(b, seats[3]));
    assert_false(mh__budget_runs(b, seats[1]));
    mh__budget_idle(b, seats[3]);
    assert_true(mh__budget_try(b, seats[1], 0));
    assert_false(mh__budget_try(b, seats[2], 0));
    mh__budget_run(b, seats[2]); /* without asking */
    assert_true(mh__budget_runs(b, seats[2]));
    mh__budget_leave(b, seats[0]);
    mh__budget_leave(b, seats[1]);
    assert_int_equal(mh__budget_free(b), 1);
    assert_int_equal(sit(b), seats[0]); /* the first that is empty */
    assert_true(mh__budget_try(b, 0, 0)); /* who has no seat is not held up */
    end(b);
}

/* One worker of each pool may always use the core of whoever waits for that pool. */
static void test_heirs(void **state)
{
    (void)state;
    mh__budget *b = make(1);
    uint32_t owner = sit(b), other = sit(b), child = sit(b), sibling = sit(b), grandchild = sit(b);
    mh__budget_run(b, owner);
    mh__budget_run(b, other); /* uses the only core */
    assert_false(mh__budget_try(b, child, owner));
    mh__budget_away(b, owner);
    assert_true(mh__budget_try(b, child, owner));
    assert_false(mh__budget_try(b, sibling, owner));
    assert_false(mh__budget_try(b, grandchild, child));
    mh__budget_away(b, child); /* its own pool goes on with that core, or else a sibling does */
    assert_true(mh__budget_try(b, grandchild, child));
    assert_false(mh__budget_try(b, sibling, owner));
    mh__budget_idle(b, grandchild);
    assert_true(mh__budget_try(b, sibling, owner));
    mh__budget_idle(b, sibling);
    mh__budget_run(b, owner); /* back: its core is its own */
    assert_false(mh__budget_try(b, sibling, owner));
    mh__budget_away(b, owner);
    assert_true(mh__budget_try(b, sibling, owner));
    mh__budget_run(b, owner);
    mh__budget_away(b, owner); /* a wait in slices makes no second heir */
    assert_false(mh__budget_try(b, child, owner));
    end(b);
}

/* A process that ended as it ran uses no core; its seat is taken anew when it is needed. */
static void test_the_dead(void **state)
{
    (void)state;
    mh__budget *b = make(1);
    uint32_t mine = sit(b);
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            mh__budget_run(b, sit(b));
            raise(SIGKILL);
        }
        waitpid(pid, NULL, 0);
        if (i == 0)
            mh__budget_forget(b, pid); /* its parent knows */
    }
    assert_false(mh__budget_try(b, mine, 0)); /* two dead that nobody has noticed */
    for (int i = 0; i < 100 && !mh__budget_try(b, mine, 0); i++)
        mh__budget_wait(b, mine, 0, 5 * MH_MILLISECOND);
    assert_true(mh__budget_runs(b, mine));
    end(b);
}

static void test_full(void **state)
{
    (void)state;
    mh__budget *b = make(1);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < MH__SEATS; i++)
            if (sit(b) != (uint32_t)i + 1)
                _exit(1);
        _exit(sit(b) != 0);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    assert_int_equal(sit(b), 1); /* of a dead one */
    end(b);
}

/* A core whose user sleeps is free after a while, and is not any more when he wakes up. */
static void test_a_sleeper_lends_its_core(void **state)
{
    (void)state;
    mh__budget *b = make(1);
    int go[2];
    assert_int_equal(pipe(go), 0);
    uint32_t mine = sit(b), its = 2;
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        mh__budget_run(b, sit(b));
        if (read(go[0], &byte, 1) != 1)
            _exit(1);
        for (;;)
            ;
    }
    int64_t since = mh_now();
    while (!atomic_load(&b->seats[its - 1].who) || !mh__budget_runs(b, its))
        mh__budget_wait(b, mine, 0, MH_MILLISECOND);
    while (!mh__budget_try(b, mine, 0)) {
        mh__budget_wait(b, mine, 0, 5 * MH_MILLISECOND);
        assert_true(mh_now() - since < 20 * MH_SECOND);
    }
    assert_int_equal(atomic_load(&b->seats[its - 1].state), MH__SEAT_SLEEPS);
    mh__budget_idle(b, mine);
    assert_int_equal(write(go[1], "x", 1), 1);
    while (!mh__budget_runs(b, its)) {
        mh__budget_wait(b, mine, 0, 5 * MH_MILLISECOND);
        assert_true(mh_now() - since < 20 * MH_SECOND);
    }
    assert_false(mh__budget_try(b, mine, 0));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(go[0]);
    close(go[1]);
    end(b);
}

/* Whoever waits is let in after a while, one after the other. */
static void test_force(void **state)
{
    (void)state;
    mh__budget *b = make(1);
    int64_t now = mh_now();
    assert_false(mh__budget_force(b, now));
    assert_true(mh__budget_force(b, now - 3 * MH_SECOND));
    assert_false(mh__budget_force(b, now - 3 * MH_SECOND));
    end(b);
}

/* No content of the memory leads anywhere else. */
static void test_garbage(void **state)
{
    (void)state;
    mh__budget *b = make(2);
    uint32_t mine = sit(b);
    for (int fill = 1; fill < 256; fill += 17) {
        memset((char *)b + 64, fill, sizeof *b - 64);
        bool may = mh__budget_try(b, mine, (uint32_t)fill);
        (void)may;
        mh__budget_away(b, mine);
        mh__budget_wait(b, mine, (uint32_t)fill, 1);
        mh__budget_idle(b, mine);
        mh__budget_forget(b, fill);
        may = mh__budget_try(b, 0x7fffffff, 0x7fffffff);
    }
    b->magic++;
    assert_err(mh__budget_check(b, sizeof *b), MH_ERR_CORRUPT);
    end(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_many_as_cores),
        cmocka_unit_test(test_heirs),
        cmocka_unit_test(test_the_dead),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_a_sleeper_lends_its_core),
        cmocka_unit_test(test_force),
        cmocka_unit_test(test_garbage),
    };
    return cmocka_run_group_tests_name("budget", tests, NULL, NULL);
}
