#include "os/usage.h"

#include "base/memory.h"
#include "os/memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* The start of a small file, as a string; false when it cannot be read. */
static bool read_text(const char *path, char *text, size_t capacity)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = read(fd, text, capacity - 1);
    close(fd);
    if (size <= 0)
        return false;
    text[size] = 0;
    return true;
}

static bool read_usage(const char *path, mh__usage *out)
{
    char text[160];
    size_t total, resident, shared, code, libraries, data;
    if (!read_text(path, text, sizeof text) ||
        sscanf(text, "%zu %zu %zu %zu %zu %zu", &total, &resident, &shared, &code, &libraries, &data) != 6 || shared > resident)
        return false;
    *out = (mh__usage){(resident - shared) * mh__os_page_size(), data * mh__os_page_size()};
    return true;
}

size_t mh__os_own_bytes(void)
{
    mh__usage usage;
    return read_usage("/proc/self/statm", &usage) ? usage.own_bytes : 0;
}

bool mh__os_usage(int32_t pid, mh__usage *out)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    return read_usage(path, out);
}

/* ---- a process and its children -------------------------------------------------------------- */

enum { GENERATIONS_MAX = 16, CHILDREN_TEXT = 4096 };

/* User and system time of all threads: fields 14 and 15 of /proc/<pid>/stat, the name in field 2 skipped. */
static int64_t cpu_of(int32_t pid)
{
    char path[40], text[1024];
    unsigned long long user, system;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    const char *at = read_text(path, text, sizeof text) ? strrchr(text, ')') : NULL;
    if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
        return 0;
    return (int64_t)((user + system) * (UINT64_C(1000000000) / (uint64_t)sysconf(_SC_CLK_TCK)));
}

static bool add_tree(int32_t pid, mh__tree_usage *sum, int generation)
{
    char path[64], text[CHILDREN_TEXT];
    mh__usage usage;
    int child, used;
    if (!mh__os_usage(pid, &usage))
        return false;
    sum->own_bytes += usage.own_bytes;
    sum->cpu_ns += cpu_of(pid);
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
    if (generation < GENERATIONS_MAX && read_text(path, text, sizeof text))
        for (const char *at = text; sscanf(at, "%d%n", &child, &used) == 1; at += used)
            add_tree(child, sum, generation + 1);
    return true;
}

bool mh__os_tree_usage(int32_t pid, mh__tree_usage *out)
{
    *out = (mh__tree_usage){0};
    return add_tree(pid, out, 0);
}

void mh__os_limit_data(size_t bytes)
{
    static struct rlimit before;
    static bool is_known;
    struct rlimit limit;
    if (!is_known && getrlimit(RLIMIT_DATA, &before) < 0)
        return;
    is_known = true;
    limit = before;
    if (bytes && bytes < limit.rlim_cur)
        limit.rlim_cur = bytes;
    setrlimit(RLIMIT_DATA, &limit);
}

/* ---- what the kernel kills --------------------------------------------------------------------- */

/* The number after `word` at the beginning of a line; -1 when there is none. */
static int64_t number_after(const char *path, const char *word)
{
    static const size_t capacity = 32768; /* vmstat has some 5,000 bytes */
    char *text = mh__alloc(capacity);
    int64_t number = -1;
    size_t length = strlen(word);
    for (char *line = text && read_text(path, text, capacity) ? text : NULL; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, word, length) && line[length] == ' ') {
            number = strtoll(line + length, NULL, 10);
            break;
        }
    }
    mh__free(text);
    return number < 0 ? -1 : number;
}

/* "4:memory:/a/b" or "0::/a/b" */
static int64_t kills_of_group(const char *line, const char *root)
{
    char path[4500];
    const char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
    if (!group)
        return -1;
    size_t length = (size_t)(group - names) - 1;
    group++;
    size_t end = strcspn(group, "\n");
    bool unified = length == 0;
    if (!unified && (length != 6 || strncmp(names + 1, "memory", 6)))
        return -1;
    snprintf(path, sizeof path, "%s%s%.*s/%s", root, unified ? "" : "/memory", (int)(end > 4000 ? 4000 : end), group,
             unified ? "memory.events" : "memory.oom_control");
    return number_after(path, "oom_kill");
}

int64_t mh__oom_kills_in(const char *membership, const char *root, const char *vmstat)
{
    char text[8192];
    int64_t kills = -1;
    for (const char *line = read_text(membership, text, sizeof text) ? text : NULL; line && kills < 0; line = strchr(line, '\n')) {
        line += *line == '\n';
        kills = kills_of_group(line, root);
    }
    return kills >= 0 ? kills : number_after(vmstat, "oom_kill");
}

int64_t mh__os_oom_kills(void) { return mh__oom_kills_in("/proc/self/cgroup", "/sys/fs/cgroup", "/proc/vmstat"); }

size_t mh__os_machine_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    return pages > 0 ? (size_t)pages * mh__os_page_size() : 0;
}
