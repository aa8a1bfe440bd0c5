/* The arena beside malloc: cost of one alloc + free, for patterns that the pool has. Both run in turns, in rounds; printed
 * are the median and the 99th percentile of the rounds, and the ratio of the medians. */
#include "base/number.h"
#include "shm/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 101, LIVE = 256 };

typedef struct peer {
    const char *name;
    void *(*take)(mh__arena *a, size_t size);
    void (*give)(mh__arena *a, void *block);
} peer;

static void *arena_take(mh__arena *a, size_t size)
{
    uint64_t at;
    return mh__arena_alloc(a, size, &at) ? NULL : mh__arena_at(a, at);
}

static void arena_give(mh__arena *a, void *block)
{
    mh__arena_free(a, (uint64_t)((char *)block - (char *)mh__arena_base(a)));
}

static void *malloc_take(mh__arena *a, size_t size)
{
    (void)a;
    return malloc(size);
}

static void malloc_give(mh__arena *a, void *block)
{
    (void)a;
    free(block);
}

static const peer peers[] = {{"arena", arena_take, arena_give}, {"malloc", malloc_take, malloc_give}};

typedef struct pattern {
    const char *name;
    size_t smallest, largest; /* sizes, uniformly */
    int operations;
    bool touch; /* write every byte, as a task's payload is */
} pattern;

static const pattern patterns[] = {
    {"64 B", 64, 64, 20000, false},
    {"64 B - 1 KiB", 64, 1024, 20000, false},
    {"64 B - 16 KiB", 64, 16384, 20000, false},
    {"64 KiB", 65536, 65536, 2000, false},
    {"64 KiB written", 65536, 65536, 2000, true},
    {"8 MiB written", 8 << 20, 8 << 20, 4, true},
};

/* Nanoseconds for each alloc + free, LIVE blocks (fewer when large) being alive at any time. */
static double run(const peer *p, const pattern *w, mh__arena *a, uint64_t seed)
{
    static void *live[LIVE];
    size_t count = w->largest > 1 << 20 ? 4 : LIVE;
    memset(live, 0, sizeof live);
    int64_t start = mh_now();
    for (int i = 0; i < w->operations; i++) {
        size_t slot = mh__splitmix(&seed) % count;
        size_t size = w->smallest + mh__splitmix(&seed) % (w->largest - w->smallest + 1);
        if (live[slot])
            p->give(a, live[slot]);
        live[slot] = p->take(a, size);
        if (!live[slot])
            abort();
        if (w->touch)
            memset(live[slot], i, size);
    }
    for (size_t i = 0; i < count; i++)
        if (live[i])
            p->give(a, live[i]);
    return (double)(mh_now() - start) / w->operations;
}

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

int main(void)
{
    static double times[2][ROUNDS];
    mh__arena *a = NULL;
    if (mh__arena_create(&a, (size_t)1 << 30, "bench"))
        return 1;
    printf("%-16s %12s %12s %12s %12s %8s\n", "ns, alloc + free", "arena p50", "p99", "malloc p50", "p99", "ratio");
    for (size_t i = 0; i < MH__COUNT_OF(patterns); i++) {
        for (int round = 0; round < ROUNDS; round++)
            for (int p = 0; p < 2; p++)
                times[p][round] = run(&peers[p], &patterns[i], a, (uint64_t)round);
        for (int p = 0; p < 2; p++)
            qsort(times[p], ROUNDS, sizeof(double), compare);
        printf("%-16s %12.1f %12.1f %12.1f %12.1f %8.2f\n", patterns[i].name, times[0][ROUNDS / 2],
               times[0][ROUNDS - 2], times[1][ROUNDS / 2], times[1][ROUNDS - 2],
               times[0][ROUNDS / 2] / times[1][ROUNDS / 2]);
    }
    mh__arena_destroy(&a);
    return 0;
}
