#include "mh_test.h"

#include "base/number.h"
#include "os/cpu.h"
#include "os/topology.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file below `root`, with the folders above it; no slash-less names. */
static void put(const char *root, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = 0;
        mkdir(path, 0700);
        *at = '/';
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void remove_tree(const char *root)
{
    char command[300];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    assert_int_equal(system(command), 0);
}

static void quotas_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *membership;
        const char *files[6]; /* name, text, ... */
        size_t expected;
        const char *why;
    } rows[] = {
        {"0::/a/b\n", {"a/b/cpu.max", "200000 100000\n"}, 2, "version 2"},
        {"0::/a/b\n", {"a/b/cpu.max", "150000 100000\n"}, 2, "rounded up"},
        {"0::/a/b\n", {"a/b/cpu.max", "1000 100000\n"}, 1, "a hundredth of a core is one"},
        {"0::/a/b\n", {"a/b/cpu.max", "max 100000\n"}, 0, "no limit"},
        {"0::/a/b\n", {"a/b/cpu.max", "max 100000\n", "a/cpu.max", "300000 100000\n"}, 3, "the parent's holds too"},
        {"0::/a/b\n", {"a/b/cpu.max", "400000 100000\n", "a/cpu.max", "300000 100000\n"}, 3, "the least counts"},
        {"0::/a/b\n", {"a/b/cpu.max", "100000 100000\n", "cpu.max", "300000 100000\n"}, 1, "up to the root"},
        {"0::/\n", {"cpu.max", "500000 100000\n"}, 5, "the root itself"},
        {"0::/outside/name\n", {"cpu.max", "500000 100000\n"}, 5, "a container's view"},
        {"0::/../../up\n", {"cpu.max", "500000 100000\n"}, 5, "a group above our namespace's root"},
        {"0::/a/b", {"a/b/cpu.max", "200000 100000"}, 2, "no newlines"},
        {"0::/a/b\n", {"a/b/cpu.max", "200000 0\n"}, 0, "nonsense"},
        {"0::/a/b\n", {"a/b/cpu.max", "-5 100\n"}, 0, "nonsense"},
        {"0::/a/b\n", {"a/b/cpu.max", ""}, 0, "an empty file"},
        {"4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us", "250000\n", "cpu/a/cpu.cfs_period_us", "100000\n"}, 3, "version 1"},
        {"4:cpuacct,cpu:/a\n", {"cpuacct,cpu/a/cpu.cfs_quota_us", "100000\n", "cpuacct,cpu/a/cpu.cfs_period_us", "100000\n"}, 1,
         "the mount named as in the file"},
        {"4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us", "-1\n", "cpu/a/cpu.cfs_period_us", "100000\n"}, 0, "no limit"},
        {"4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us", "100000\n"}, 0, "no period"},
        {"4:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us", "100000\n", "cpu/a/cpu.cfs_period_us", "100000\n"}, 0, "another controller"},
        {"4:cpu:/a\n0::/b\n", {"cpu/a/cpu.cfs_quota_us", "400000\n", "cpu/a/cpu.cfs_period_us", "100000\n", "unified/b/cpu.max", "200000 100000\n"},
         2, "both"},
        {"", {NULL}, 0, "no membership"},
        {"rubbish\n:\n::\n1::\n", {NULL}, 0, "rubbish"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        char root[] = "/tmp/mh-cgroup-XXXXXX", membership[300];
        assert_non_null(mkdtemp(root));
        for (size_t j = 0; j < MH__COUNT_OF(rows[i].files) && rows[i].files[j]; j += 2)
            put(root, rows[i].files[j], rows[i].files[j + 1]);
        put(root, "membership", rows[i].membership);
        snprintf(membership, sizeof membership, "%s/membership", root);
        size_t got = mh__cpu_quota(membership, root);
        remove_tree(root);
        if (got != rows[i].expected)
            fail_msg("%s: %zu, expected %zu", rows[i].why, got, rows[i].expected);
    }
    assert_int_equal(mh__cpu_quota("/nowhere", "/nowhere"), 0);
}

static void the_affinity_mask_counts(void **state)
{
    (void)state;
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(mh__cpu_affinity(), CPU_COUNT(&before));
    assert_true(mh__cpu_count() >= 1 && mh__cpu_count() <= (size_t)CPU_COUNT(&before));
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && !CPU_COUNT(&one); cpu++)
        if (CPU_ISSET(cpu, &before))
            CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(mh__cpu_affinity(), 1);
    assert_int_equal(mh__cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void places_are_spread(void **state)
{
    (void)state;
    mh__places *places;
    cpu_set_t before, now, all;
    sched_getaffinity(0, sizeof before, &before);
    size_t cores = (size_t)CPU_COUNT(&before);
    CPU_ZERO(&all);
    for (size_t count = 1; count <= 2 * cores; count++) {
        assert_ok(mh__topology_spread(&places, count));
        for (size_t i = 0; i < count; i++) {
            assert_ok(mh__topology_bind(places, i, i % 2 ? getpid() : 0));
            sched_getaffinity(0, sizeof now, &now);
            assert_true(CPU_ISSET(mh__topology_processor(places, i), &now));
            CPU_OR(&all, &all, &now);
            CPU_AND(&now, &now, &before);
            assert_true(CPU_COUNT(&now) >= 1); /* a core that we may use */
            assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
        }
        assert_ok(mh__topology_bind(places, count, 0)); /* modulo the count */
        sched_setaffinity(0, sizeof before, &before);
        mh__topology_destroy(&places);
        assert_null(places);
        mh__topology_destroy(&places);
    }
    CPU_AND(&all, &all, &before);
    assert_true(CPU_EQUAL(&all, &before)); /* every core was somebody's */
    assert_err(mh__topology_spread(&places, 0), MH_ERR_INVALID);
    assert_null(places);
}

/* Bound to one core, we place everybody on it. */
static void places_stay_within_the_mask(void **state)
{
    (void)state;
    mh__places *places;
    cpu_set_t before, one;
    sched_getaffinity(0, sizeof before, &before);
    size_t last = CPU_SETSIZE - 1;
    while (!CPU_ISSET(last, &before))
        last--;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    sched_setaffinity(0, sizeof one, &one);
    assert_ok(mh__topology_spread(&places, 3));
    sched_setaffinity(0, sizeof before, &before);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(mh__topology_processor(places, i), last);
    assert_err(mh__topology_bind(places, 0, 0x3fffffff), MH_ERR_EXITED);
    mh__topology_destroy(&places);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quotas_are_read),
        cmocka_unit_test(the_affinity_mask_counts),
        cmocka_unit_test(places_are_spread),
        cmocka_unit_test(places_stay_within_the_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
