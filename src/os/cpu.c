#include "os/cpu.h"

#include "base/memory.h"
#include "base/number.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

size_t mh__cpu_affinity(void)
{
    /* the kernel refuses a mask that is smaller than its own, whose size it does not tell */
    for (size_t cpus = 1024; cpus <= (size_t)1 << 20; cpus *= 4) {
        size_t size = CPU_ALLOC_SIZE(cpus);
        cpu_set_t *set = mh__alloc(size);
        if (!set)
            return 0;
        int rc = sched_getaffinity(0, size, set);
        int failed = errno;
        size_t count = rc == 0 ? (size_t)CPU_COUNT_S(size, set) : 0;
        mh__free(set);
        if (rc == 0 || failed != EINVAL)
            return count;
    }
    return 0;
}

/* The start of a small file, as a string; false when it cannot be read. */
static bool read_text(const char *path, char *text, size_t capacity)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = read(fd, text, capacity - 1);
    close(fd);
    if (size < 0)
        return false;
    text[size] = 0;
    return true;
}

/* Cores from a quota and its period, in any one unit; 0 for none. */
static size_t cores_of(long long quota, long long period)
{
    return quota > 0 && period > 0 ? (size_t)((quota - 1) / period + 1) : 0;
}

/* "max 100000" or "150000 100000" */
static size_t read_v2(const char *folder)
{
    char path[4200], text[64];
    long long quota, period;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (!read_text(path, text, sizeof text) || sscanf(text, "%lld %lld", &quota, &period) != 2)
        return 0;
    return cores_of(quota, period);
}

static size_t read_v1(const char *folder)
{
    char path[4200], quota[32], period[32];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_text(path, quota, sizeof quota))
        return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!read_text(path, period, sizeof period))
        return 0;
    return cores_of(strtoll(quota, NULL, 10), strtoll(period, NULL, 10)); /* -1: no limit */
}

static size_t least(size_t a, size_t b) { return !a ? b : !b ? a : MH__MIN(a, b); }

/* From the group up to the mount's root. A container may see the mount of its own group alone, under a name from outside: then
 * the inner folders do not exist, and the root is the group. */
static size_t walk_up(const char *mount, const char *group, size_t (*read_limit)(const char *folder))
{
    char folder[4096];
    size_t root = strlen(mount), limit = 0;
    if (strstr(group, "..") || snprintf(folder, sizeof folder, "%s%s", mount, group) >= (int)sizeof folder)
        snprintf(folder, sizeof folder, "%s", mount);
    for (;;) {
        limit = least(limit, read_limit(folder));
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= root || !slash || (size_t)(slash - folder) < root)
            return limit;
        *slash = 0;
    }
}

/* Whether `word` is one of the names, parted by commas. */
static bool has_word(const char *names, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = names; (at = strstr(at, word)) != NULL; at += length)
        if ((at == names || at[-1] == ',') && (at[length] == ',' || !at[length]))
            return true;
    return false;
}

/* One line: "0::/group" is version 2, "4:cpu,cpuacct:/group" version 1. */
static size_t limit_of_line(char *line, const char *root)
{
    char mount[4096];
    char *names = strchr(line, ':');
    char *group = names ? strchr(names + 1, ':') : NULL;
    if (!group)
        return 0;
    *group++ = 0;
    names++;
    if (!*names) {
        snprintf(mount, sizeof mount, "%s/unified", root); /* where both versions are mounted */
        return least(walk_up(root, group, read_v2), walk_up(mount, group, read_v2));
    }
    if (!has_word(names, "cpu"))
        return 0;
    snprintf(mount, sizeof mount, "%s/cpu", root);
    size_t limit = walk_up(mount, group, read_v1);
    snprintf(mount, sizeof mount, "%s/%s", root, names);
    return least(limit, walk_up(mount, group, read_v1));
}

size_t mh__cpu_quota(const char *membership, const char *root)
{
    char text[8192], *rest = text;
    size_t limit = 0;
    if (!read_text(membership, text, sizeof text))
        return 0;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        limit = least(limit, limit_of_line(line, root));
    return limit;
}

size_t mh__cpu_count(void)
{
    size_t count = least(mh__cpu_affinity(), mh__cpu_quota("/proc/self/cgroup", "/sys/fs/cgroup"));
    return count ? count : 1;
}
