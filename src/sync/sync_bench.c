/* What each primitive costs, beside its POSIX peer in the same run: rounds of both are interleaved. */
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/number.h"
#include "manyhands/sync.h"

enum { ROUNDS = 9, MOST_SAMPLES = 20000 };

typedef struct shared {
    mh_mutex m;
    mh_mutex lent; /* as Python's Lock: any thread or process may unlock */
    mh_rmutex r;
    mh_semaphore s;
    pthread_mutex_t robust;
    sem_t sem;
    mh_event start, ping;
    mh_semaphore wake;
    sem_t posix_wake;
    mh_event taken;
    int64_t sent_ns;
    double samples[MOST_SAMPLES];
    uint64_t counter;
} shared;

static shared *sh;

static void must(bool failed)
{
    if (failed) {
        fprintf(stderr, "a call failed: %s\n", mh_err_detail());
        abort();
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double *values, size_t count, double part)
{
    qsort(values, count, sizeof *values, by_value);
    return values[MH__MIN((size_t)(part * (double)count), count - 1)];
}

/* ---- lock and unlock --------------------------------------------------------------------------- */

static void use_mutex(void) { must(mh_mutex_lock(&sh->m, MH_FOREVER)), must(mh_mutex_unlock(&sh->m)); }
static void use_lent(void) { must(mh_mutex_lock(&sh->lent, MH_FOREVER)), must(mh_mutex_unlock(&sh->lent)); }
static void use_rmutex(void) { must(mh_rmutex_lock(&sh->r, MH_FOREVER)), must(mh_rmutex_unlock(&sh->r)); }
static void use_robust(void) { must(pthread_mutex_lock(&sh->robust)), must(pthread_mutex_unlock(&sh->robust)); }
static void use_semaphore(void) { must(mh_semaphore_acquire(&sh->s, MH_FOREVER)), must(mh_semaphore_release(&sh->s, 1)); }
static void use_sem_t(void) { must(sem_wait(&sh->sem)), must(sem_post(&sh->sem)); }

static double time_alone(void (*use)(void))
{
    enum { TIMES = 200000 };
    int64_t start = mh_now();
    for (int i = 0; i < TIMES; i++)
        use();
    return (double)(mh_now() - start) / TIMES;
}

static void count(void (*use)(void), int times)
{
    for (int i = 0; i < times; i++) {
        use();
        __atomic_fetch_add(&sh->counter, 1, __ATOMIC_RELAXED);
    }
}

/* Wall time for each lock+unlock of two processes that do nothing else. */
static double time_contended(void (*use)(void))
{
    enum { TIMES = 50000 };
    must(mh_event_clear(&sh->start));
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        must(mh_event_wait(&sh->start, MH_FOREVER));
        count(use, TIMES);
        _exit(0);
    }
    must(mh_event_set(&sh->start));
    int64_t begin = mh_now();
    count(use, TIMES);
    waitpid(pid, NULL, 0);
    return (double)(mh_now() - begin) / (2 * TIMES);
}

static void compare(const char *what, double (*timed)(void (*)(void)), void (*ours)(void), void (*peer)(void),
                    const char *peer_name, double target)
{
    double a[ROUNDS], b[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        a[i] = timed(ours);
        b[i] = timed(peer);
    }
    double mine = percentile(a, ROUNDS, 0.5), theirs = percentile(b, ROUNDS, 0.5);
    printf("%-34s p50 %7.1f ns  max %7.1f ns   %-20s p50 %7.1f ns   ratio %.2f", what, mine, a[ROUNDS - 1], peer_name,
           theirs, mine / theirs);
    if (target > 0)
        printf("   target %.0f ns: %s", target, mine <= target ? "reached" : "MISSED");
    printf("\n");
}

/* ---- waking ------------------------------------------------------------------------------------ */

static void set_event(void) { must(mh_event_set(&sh->ping)); }
static void await_event(void)
{
    must(mh_event_wait(&sh->ping, MH_FOREVER));
    must(mh_event_clear(&sh->ping));
}
static void release_semaphore(void) { must(mh_semaphore_release(&sh->wake, 1)); }
static void acquire_semaphore(void) { must(mh_semaphore_acquire(&sh->wake, MH_FOREVER)); }
static void post_sem_t(void) { must(sem_post(&sh->posix_wake)); }
static void wait_sem_t(void) { must(sem_wait(&sh->posix_wake)); }

static void sleep_until_asleep(void)
{
    int64_t until = mh_now() + 60 * MH_MICROSECOND; /* the waiter is in its wait by then */
    while (mh_now() < until)
        ;
}

/* From just before the wake to the woken process running: *p99 too. */
static double time_wake(void (*wake)(void), void (*wait)(void), double *p99)
{
    enum { TIMES = 1500 };
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int i = 0; i < TIMES; i++) {
            wait();
            sh->samples[i] = (double)(mh_now() - __atomic_load_n(&sh->sent_ns, __ATOMIC_ACQUIRE));
            must(mh_event_set(&sh->taken));
        }
        _exit(0);
    }
    for (int i = 0; i < TIMES; i++) {
        sleep_until_asleep();
        __atomic_store_n(&sh->sent_ns, mh_now(), __ATOMIC_RELEASE);
        wake();
        must(mh_event_wait(&sh->taken, MH_FOREVER));
        must(mh_event_clear(&sh->taken));
    }
    waitpid(pid, NULL, 0);
    *p99 = percentile(sh->samples, TIMES, 0.99);
    return percentile(sh->samples, TIMES, 0.5);
}

static void compare_wake(const char *what, void (*wake)(void), void (*wait)(void))
{
    double a[ROUNDS], b[ROUNDS], tail[ROUNDS], ignored;
    for (int i = 0; i < ROUNDS; i++) {
        a[i] = time_wake(wake, wait, &tail[i]);
        b[i] = time_wake(post_sem_t, wait_sem_t, &ignored);
    }
    double mine = percentile(a, ROUNDS, 0.5), theirs = percentile(b, ROUNDS, 0.5);
    printf("%-34s p50 %7.1f us  p99 %7.1f us   %-20s p50 %7.1f us   ratio %.2f   target 12 us: %s\n", what, mine / 1e3,
           percentile(tail, ROUNDS, 0.5) / 1e3, "sem_t", theirs / 1e3, mine / theirs, mine <= 12e3 ? "reached" : "MISSED");
}

static void set_up(void)
{
    sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(sh == MAP_FAILED);
    must(mh_mutex_init(&sh->m, 0));
    must(mh_mutex_init(&sh->lent, MH_MUTEX_PROCESS | MH_MUTEX_ANYONE));
    must(mh_rmutex_init(&sh->r));
    must(mh_semaphore_init(&sh->s, 1, 1));
    must(mh_semaphore_init(&sh->wake, 0, MH_SEMAPHORE_VALUE_MAX));
    must(mh_event_init(&sh->start, false));
    must(mh_event_init(&sh->ping, false));
    must(mh_event_init(&sh->taken, false));
    must(sem_init(&sh->sem, 1, 1));
    must(sem_init(&sh->posix_wake, 1, 0));
    pthread_mutexattr_t attr;
    must(pthread_mutexattr_init(&attr));
    must(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
    must(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST));
    must(pthread_mutex_init(&sh->robust, &attr));
}

int main(void)
{
    set_up();
    compare("mutex lock+unlock", time_alone, use_mutex, use_robust, "robust pthread mutex", 60);
    compare("process mutex lock+unlock", time_alone, use_lent, use_robust, "robust pthread mutex", 60);
    compare("recursive mutex lock+unlock", time_alone, use_rmutex, use_robust, "robust pthread mutex", 60);
    compare("semaphore acquire+release", time_alone, use_semaphore, use_sem_t, "sem_t", 0);
    compare("mutex, two processes", time_contended, use_mutex, use_robust, "robust pthread mutex", 200);
    compare("semaphore, two processes", time_contended, use_semaphore, use_sem_t, "sem_t", 0);
    compare_wake("event set to wake", set_event, await_event);
    compare_wake("semaphore release to wake", release_semaphore, acquire_semaphore);
    return 0;
}
