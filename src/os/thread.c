#include "os/thread.h"

#include "base/error.h"
#include "base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

struct mh__thread {
    pthread_t id;
    void (*fn)(void *);
    void *ctx;
    char name[16];
};
struct mh__lock {
    pthread_mutex_t mutex;
};
struct mh__cond {
    pthread_cond_t cond;
};

static void *run(void *arg)
{
    mh__thread *thread = arg;
    pthread_setname_np(pthread_self(), thread->name);
    thread->fn(thread->ctx);
    return NULL;
}

mh_err mh__thread_start(mh__thread **out, const char *name, void (*fn)(void *), void *ctx)
{
    *out = NULL;
    mh__thread *thread = mh__calloc(1, sizeof *thread);
    if (!thread)
        return MH_ERR_NO_MEMORY;
    thread->fn = fn;
    thread->ctx = ctx;
    strncpy(thread->name, name, sizeof thread->name - 1);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&thread->id, NULL, run, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        mh__free(thread);
        return mh__fail_os(rc, "starting thread %s", name);
    }
    *out = thread;
    return MH_OK;
}

void mh__thread_join(mh__thread **thread)
{
    if (!*thread)
        return;
    pthread_join((*thread)->id, NULL);
    mh__free(*thread);
    *thread = NULL;
}

int mh__os_thread_count(void)
{
    DIR *dir = opendir("/proc/self/task");
    if (!dir)
        return 1;
    int count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count - 2;
}

mh_err mh__lock_create(mh__lock **out)
{
    *out = mh__alloc(sizeof **out);
    if (!*out)
        return MH_ERR_NO_MEMORY;
    pthread_mutex_init(&(*out)->mutex, NULL);
    return MH_OK;
}

void mh__lock_destroy(mh__lock **lock)
{
    if (!*lock)
        return;
    pthread_mutex_destroy(&(*lock)->mutex);
    mh__free(*lock);
    *lock = NULL;
}

void mh__lock_take(mh__lock *lock) { pthread_mutex_lock(&lock->mutex); }
void mh__lock_drop(mh__lock *lock) { pthread_mutex_unlock(&lock->mutex); }
bool mh__lock_try(mh__lock *lock) { return pthread_mutex_trylock(&lock->mutex) == 0; }

mh_err mh__cond_create(mh__cond **out)
{
    *out = mh__alloc(sizeof **out);
    if (!*out)
        return MH_ERR_NO_MEMORY;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&(*out)->cond, &attr);
    pthread_condattr_destroy(&attr);
    return MH_OK;
}

void mh__cond_destroy(mh__cond **cond)
{
    if (!*cond)
        return;
    pthread_cond_destroy(&(*cond)->cond);
    mh__free(*cond);
    *cond = NULL;
}

mh_err mh__cond_wait(mh__cond *cond, mh__lock *lock, mh_deadline until)
{
    if (until == MH_FOREVER) {
        pthread_cond_wait(&cond->cond, &lock->mutex);
        return MH_OK;
    }
    struct timespec ts = {.tv_sec = until / MH_SECOND, .tv_nsec = until % MH_SECOND};
    return pthread_cond_timedwait(&cond->cond, &lock->mutex, &ts) == ETIMEDOUT ? MH_ERR_TIMEOUT : MH_OK;
}

void mh__cond_wake_all(mh__cond *cond) { pthread_cond_broadcast(&cond->cond); }
void mh__cond_wake_one(mh__cond *cond) { pthread_cond_signal(&cond->cond); }
