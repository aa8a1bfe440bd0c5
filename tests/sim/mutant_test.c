/* The scheduler with one rule broken at a time: the checker of histories must notice each. A checker that misses one
 * proves nothing about the rule. The scheduler is compiled into this program, with its faults, and goes before the library's,
 * which has none. */
#include "mh_test.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int mutant;
#define MH_SCHED_MUTANT mutant

#include "../../src/sched/attempt.c"
#include "../../src/sched/depend.c"
#include "../../src/sched/sched.c"
#include "../../src/sched/timer.c"
#include "../../src/sched/validate.c"
#include "../../src/sched/worker.c"

#include "sim.h"

enum { SEEDS = 400, CAUGHT = 0, MISSED = 1, TIME_LIMIT_S = 30 };

static const struct {
    int number;
    const char *rule;
} mutants[] = {
    {1, "an answer from an older attempt changes nothing"},
    {2, "a task whose worker died is retried or ends"},
    {3, "a task is not retried beyond its budget"},
    {4, "a task ends once"},
    {5, "a worker that is to be killed gets no more tasks"},
    {6, "a cancelled task does not run"},
    {7, "only what ran counts as lost"},
    {8, "a worker holds no more than its capacity"},
    {9, "what a dead worker held goes before new work"},
    {10, "a task over its time is stopped"},
    {11, "a task waits for all that it is to wait for"},
    {12, "tasks are assigned in the order in which they came"},
    {13, "a task runs on none but its targets"},
    {14, "the tasks of a dead worker keep their order"},
};

/* In a process of its own, because a broken scheduler may also crash. */
static int run_mutant(int number)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        mutant = number;
        alarm(TIME_LIMIT_S);
        int result = MISSED;
        for (uint64_t seed = 1; seed <= SEEDS && result == MISSED; seed++) {
            sim_report report;
            if (!sim_run(seed, NULL, false, &report)) {
                printf("# mutant %d, seed %llu: %s\n", number, (unsigned long long)seed, report.fault);
                fflush(stdout);
                result = CAUGHT;
            }
        }
        _exit(result);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void test_no_mutant_is_right(void **state)
{
    (void)state;
    int status = run_mutant(0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == MISSED);
}

static void test_mutants_are_caught(void **state)
{
    (void)state;
    for (size_t i = 0; i < MH__COUNT_OF(mutants); i++) {
        int status = run_mutant(mutants[i].number);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != CAUGHT)
            fail_msg("not noticed (status %#x): %s", (unsigned)status, mutants[i].rule);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_mutant_is_right),
        cmocka_unit_test(test_mutants_are_caught),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
