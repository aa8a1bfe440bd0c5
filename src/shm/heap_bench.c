/* The heap among processes beside malloc and beside a plain process-shared pthread mutex around malloc (what a lock alone costs):
 * nanoseconds for each alloc + free. All run in turns, in rounds; printed are the median and the 99th percentile of the rounds. */
#include "base/number.h"
#include "manyhands/shm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 101, LIVE = 256, OPERATIONS = 5000, PEERS = 3 };

static mh_heap *heap;
static pthread_mutex_t mutex;

static void *heap_take(size_t size)
{
    uint64_t at;
    return mh_heap_alloc(heap, size, 16, MH_FOREVER, &at) ? NULL : mh_heap_at(heap, at);
}
static void heap_give(void *block) { (void)mh_heap_free(heap, mh_heap_offset(heap, block), MH_FOREVER); }

static void *locked_take(size_t size)
{
    pthread_mutex_lock(&mutex);
    void *block = malloc(size);
    pthread_mutex_unlock(&mutex);
    return block;
}
static void locked_give(void *block)
{
    pthread_mutex_lock(&mutex);
    free(block);
    pthread_mutex_unlock(&mutex);
}

static const struct {
    const char *name;
    void *(*take)(size_t size);
    void (*give)(void *block);
} peers[PEERS] = {{"heap", heap_take, heap_give}, {"malloc", malloc, free}, {"locked malloc", locked_take, locked_give}};

static double run(int peer, size_t largest, uint64_t seed)
{
    static void *live[LIVE];
    memset(live, 0, sizeof live);
    int64_t start = mh_now();
    for (int i = 0; i < OPERATIONS; i++) {
        size_t slot = mh__splitmix(&seed) % LIVE, size = 16 + mh__splitmix(&seed) % largest;
        if (live[slot])
            peers[peer].give(live[slot]);
        live[slot] = peers[peer].take(size);
        if (!live[slot])
            abort();
    }
    for (size_t i = 0; i < LIVE; i++)
        if (live[i])
            peers[peer].give(live[i]);
    return (double)(mh_now() - start) / OPERATIONS;
}

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static void measure(size_t largest)
{
    static double times[PEERS][ROUNDS];
    for (int round = 0; round < ROUNDS; round++)
        for (int p = 0; p < PEERS; p++)
            times[p][round] = run(p, largest, (uint64_t)round);
    printf("16 to %zu B:\n", largest + 15);
    for (int p = 0; p < PEERS; p++) {
        qsort(times[p], ROUNDS, sizeof(double), compare);
        printf("  %-14s p50 %8.1f ns  p99 %8.1f ns  ratio of heap to it %5.2f\n", peers[p].name, times[p][ROUNDS / 2],
               times[p][ROUNDS - 2], times[0][ROUNDS / 2] / times[p][ROUNDS / 2]);
    }
}

int main(void)
{
    mh_shm *memory = NULL;
    pthread_mutexattr_t shared;
    pthread_mutexattr_init(&shared);
    pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&mutex, &shared);
    if (mh_shm_create(&memory, 64 << 20) || mh_heap_create(&heap, mh_shm_data(memory), 64 << 20))
        return 1;
    measure(64);
    measure(1000);
    measure(60000);
    mh_heap_destroy(&heap);
    mh_shm_destroy(&memory);
    return 0;
}
