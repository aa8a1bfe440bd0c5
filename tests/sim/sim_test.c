/* Thousands of simulated clusters, each history checked; and one history that is written down. */
#include "mh_test.h"

#include <stdlib.h>
#include <string.h>

#include "base/number.h"
#include "sim.h"

enum { SEEDS = 10000, SEEDS_LONG = 100000, SEED_OF_VALIDATION = 4, REPLAYS = 20 };

static uint64_t seeds(void) { return getenv("MH_LONG") ? SEEDS_LONG : SEEDS; }

/* Run a broken history again, with its trace, so that the failure can be read. */
static void show(uint64_t seed, const char *what)
{
    sim_report report;
    printf("# seed %llu: %s\n", (unsigned long long)seed, what);
    fflush(stdout);
    sim_run(seed, stderr, true, &report);
}

static void test_histories(void **state)
{
    (void)state;
    uint64_t outcomes[MH_SCHED_REFUSED] = {0}, deaths = 0, kills = 0, hosts = 0, late = 0, revoked = 0, reoffered = 0, refused = 0;
    for (uint64_t seed = 1; seed <= seeds(); seed++) {
        sim_report report;
        if (!sim_run(seed, NULL, seed % SEED_OF_VALIDATION == 0, &report)) {
            show(seed, report.fault);
            fail_msg("seed %llu: %s", (unsigned long long)seed, report.fault);
        }
        for (size_t i = 0; i < MH__COUNT_OF(outcomes); i++)
            outcomes[i] += report.stats.outcomes[i];
        deaths += report.deaths;
        kills += report.kills;
        hosts += report.hosts;
        late += report.stats.late;
        revoked += report.stats.revoked;
        reoffered += report.stats.reoffered;
        refused += report.stats.refused;
    }
    /* The simulation is worth something only while all of this happens in it. */
    for (size_t i = MH_SCHED_OK; i < MH__COUNT_OF(outcomes); i++)
        assert_true(outcomes[i] > 50);
    assert_true(deaths > 1000 && kills > 1000 && hosts > 1000 && late > 1000 && revoked > 1000 && reoffered > 1000 && refused > 1000);
}

static void test_seed_replays(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= REPLAYS; seed++) {
        char *text[2];
        size_t size[2];
        for (int i = 0; i < 2; i++) {
            sim_report report;
            FILE *f = open_memstream(&text[i], &size[i]);
            assert_non_null(f);
            assert_true(sim_run(seed, f, false, &report));
            fclose(f);
        }
        assert_true(size[0] > 0);
        assert_string_equal(text[0], text[1]);
        free(text[0]);
        free(text[1]);
    }
}

static void test_story(void **state)
{
    (void)state;
    static const char golden[] =
        "[  0] worker 0  > joins, takes 1\n"
        "[  0] worker 1  > joins, takes 1\n"
        "[  0] client    > submits t0\n"
        "[  0] scheduler > t0 to worker 0, attempt 1\n"
        "[  0] client    > submits t1\n"
        "[  0] scheduler > t1 to worker 1, attempt 1\n"
        "[ 10] client    > submits t2\n"
        "[ 40] worker 1  > killed\n"
        "[ 41] driver    > worker 1 is gone\n"
        "[ 50] worker 0  > t0 ok\n"
        "[ 50] scheduler > t0 done: ok after 1 attempts\n"
        "[ 50] scheduler > t1 to worker 0, attempt 2\n"
        "[ 70] worker 2  > joins, takes 1\n"
        "[ 70] scheduler > t2 to worker 2, attempt 1\n"
        "[ 80] worker 2  > cut off\n"
        "[ 81] driver    > worker 2 is gone\n"
        "[100] worker 0  > t1 ok\n"
        "[100] scheduler > t1 done: ok after 2 attempts\n"
        "[100] scheduler > t2 to worker 0, attempt 2\n"
        "[120] worker 2  > t2 ok (late, dropped)\n"
        "[150] worker 0  > t2 ok\n"
        "[150] scheduler > t2 done: ok after 2 attempts\n";
    char *text;
    size_t size;
    sim_report report;
    FILE *f = open_memstream(&text, &size);
    assert_non_null(f);
    bool right = sim_story(f, &report);
    fclose(f);
    assert_string_equal(text, golden);
    assert_string_equal(report.fault, "");
    assert_true(right);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_story),
        cmocka_unit_test(test_seed_replays),
        cmocka_unit_test(test_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
