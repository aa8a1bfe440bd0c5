#include "os/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Thread identities are cached in thread-local storage, which a fork copies: the atfork handler of the child
 * clears the one thread that survives. */
static _Thread_local mh__identity cached_thread;
static mh__identity cached_process; /* written by one value only; racing writers store the same */

static void forget(void)
{
    cached_thread = 0;
    __atomic_store_n(&cached_process, 0, __ATOMIC_RELAXED);
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, forget); }

/* Field 22 of /proc/<number>/stat (start time) and field 3 (state). The name in field 2 may hold anything, so
 * parsing starts after the last ')'. Returns false when there is no such thread. */
static bool read_stat(int32_t number, uint32_t *start, char *state)
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
    char *at = strrchr(text, ')');
    if (!at || !at[1])
        return false;
    *state = at[2];
    at += 2;
    for (int field = 3; field < 22; field++) {
        at = strchr(at, ' ');
        if (!at)
            return false;
        at++;
    }
    *start = (uint32_t)strtoull(at, NULL, 10);
    return true;
}

mh__identity mh__os_identity_of(int32_t pid)
{
    int saved = errno;
    uint32_t start = 0;
    char state = 0;
    bool found = read_stat(pid, &start, &state) && state != 'Z' && state != 'X';
    errno = saved;
    return found ? (uint64_t)start << 32 | (uint32_t)pid : 0;
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

bool mh__os_is_alive(mh__identity who)
{
    if (!who)
        return false;
    int saved = errno;
    int32_t number = mh__identity_number(who);
    uint32_t start = 0;
    char state = 0;
    bool alive;
    if (read_stat(number, &start, &state))
        alive = state != 'Z' && state != 'X' && ((uint32_t)(who >> 32) == 0 || start == (uint32_t)(who >> 32));
    else
        alive = access("/proc/self/stat", F_OK) != 0 && (kill(number, 0) == 0 || errno == EPERM);
    errno = saved;
    return alive;
}
