#include "os/identity.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Thread identities are cached in thread-local storage, which a fork copies: the atfork handler of the child
 * clears the one thread that survives. */
static _Thread_local mh__identity cached_thread;
static mh__identity cached_process; /* written by one value only; racing writers store the same */

static uint64_t fork_count;

static void count_fork(void) { __atomic_fetch_add(&fork_count, 1, __ATOMIC_RELAXED); }

static void forget(void)
{
    cached_thread = 0;
    __atomic_store_n(&cached_process, 0, __ATOMIC_RELAXED);
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(count_fork, NULL, forget); }

uint64_t mh__os_fork_count(void) { return __atomic_load_n(&fork_count, __ATOMIC_RELAXED); }

typedef struct thread_stat {
    uint32_t start;
    uint32_t threads; /* of its process */
    char state;
} thread_stat;

/* Fields 3 (state), 20 (threads) and 22 (start time) of /proc/<number>/stat. The name in field 2 may hold anything, so
 * parsing starts after the last ')'. */
static bool parse_stat(const char *text, thread_stat *out)
{
    const char *at = strrchr(text, ')');
    if (!at || !at[1] || !at[2])
        return false;
    at += 2;
    out->state = *at;
    for (int field = 4; field <= 22; field++) {
        at = strchr(at, ' ');
        if (!at)
            return false;
        at++;
        if (field == 20)
            out->threads = (uint32_t)strtoul(at, NULL, 10);
    }
    out->start = (uint32_t)strtoull(at, NULL, 10);
    return true;
}

/* False when there is no such thread, or when nothing can be read about it. */
static bool read_stat(int32_t number, thread_stat *out)
{
    char path[40], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", number);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0)
        return false;
    text[size] = 0;
    return parse_stat(text, out);
}

static bool has_ended(const thread_stat *stat) { return stat->state == 'Z' || stat->state == 'X'; }

mh__identity mh__os_identity_of(int32_t pid)
{
    int saved = errno;
    thread_stat stat;
    bool found = read_stat(pid, &stat) && !has_ended(&stat);
    errno = saved;
    return found ? (uint64_t)stat.start << 32 | (uint32_t)pid : 0;
}

/* Where /proc is not mounted the start time stays 0, and only the number counts. */
static mh__identity identify_self(int32_t number)
{
    mh__identity who = mh__os_identity_of(number);
    return who ? who : (uint32_t)number;
}

mh__identity mh__os_self_thread(void)
{
    if (!cached_thread)
        cached_thread = identify_self(gettid());
    return cached_thread;
}

mh__identity mh__os_self_process(void)
{
    mh__identity who = __atomic_load_n(&cached_process, __ATOMIC_RELAXED);
    if (!who) {
        who = identify_self(getpid());
        __atomic_store_n(&cached_process, who, __ATOMIC_RELAXED);
    }
    return who;
}

static bool is_alive(mh__identity who, bool counts_threads)
{
    int32_t number = mh__identity_number(who);
    if (number <= 0)
        return false;
    int saved = errno;
    thread_stat stat;
    bool alive;
    if (read_stat(number, &stat)) {
        uint32_t start = (uint32_t)(who >> 32);
        bool ended = has_ended(&stat) && !(counts_threads && stat.threads > 1);
        alive = !ended && (start == 0 || start == stat.start);
    } else {
        /* No descriptor free, /proc hidden or not mounted: only the number can be asked for. Who cannot be looked at
         * counts as living: to call the living dead would break a lock, the reverse costs a wait. */
        alive = kill(number, 0) == 0 || errno != ESRCH;
    }
    errno = saved;
    return alive;
}

bool mh__os_is_alive(mh__identity who) { return is_alive(who, false); }
bool mh__os_is_process_alive(mh__identity who) { return is_alive(who, true); }

bool mh__os_activity(mh__identity who, mh__activity *out)
{
    thread_stat stat;
    clockid_t clock;
    struct timespec ran;
    int32_t number = mh__identity_number(who);
    if (!mh__os_is_process_alive(who))
        return false;
    int saved = errno;
    *out = (mh__activity){.is_runnable = true}; /* what can't be looked at counts as busy */
    if (read_stat(number, &stat))
        out->is_runnable = stat.state == 'R';
    if (clock_getcpuclockid(number, &clock) == 0 && clock_gettime(clock, &ran) == 0)
        out->cpu_ns = ran.tv_sec * MH_SECOND + ran.tv_nsec;
    errno = saved;
    return true;
}

/* ---- environment ----------------------------------------------------------------------------- */

enum { ENVIRONMENT_MAX = 1 << 20 };

static bool holds(const char *text, size_t size, const char *entry)
{
    for (const char *at = text; at < text + size; at += strlen(at) + 1)
        if (!strcmp(at, entry))
            return true;
    return false;
}

bool mh__os_has_environment(int32_t pid, const char *const *entries, size_t count)
{
    char path[40];
    bool has_all = false;
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = fd < 0 ? NULL : mh__alloc(ENVIRONMENT_MAX + 1);
    size_t size = 0;
    if (text) {
        for (ssize_t got; size < ENVIRONMENT_MAX && (got = read(fd, text + size, ENVIRONMENT_MAX - size)) > 0;)
            size += (size_t)got;
        text[size] = 0;
        has_all = true;
        for (size_t i = 0; has_all && i < count; i++)
            has_all = holds(text, size, entries[i]);
    }
    mh__free(text);
    if (fd >= 0)
        close(fd);
    return has_all;
}
