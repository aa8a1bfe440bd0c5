/* Square ten million integers in C: a plain loop, and a map on a pool of processes over arrays in shared memory.
 *
 *     squares [count]
 *
 * Nothing is copied: the workers read and write the caller's arrays. Checks that both results are equal.
 */
#include <manyhands.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static mh_err square(const void *in, void *out, size_t count, const void *ctx)
{
    (void)ctx;
    const int64_t *x = in;
    int64_t *y = out;
    for (size_t i = 0; i < count; i++)
        y[i] = x[i] * x[i];
    return MH_OK;
}

static void check(mh_err err, const char *what)
{
    if (!err)
        return;
    fprintf(stderr, "squares: %s: %s: %s\n", what, mh_err_text(err), mh_err_detail());
    exit(1);
}

static double milliseconds_since(int64_t start) { return (double)(mh_now() - start) / MH_MILLISECOND; }

int main(int argc, char **argv)
{
    size_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000000;
    size_t size = count * sizeof(int64_t);
    mh_shm *memory = NULL;
    mh_pool *pool = NULL;
    check(mh_shm_create(&memory, 3 * size), "shared memory");
    int64_t *in = mh_shm_data(memory), *alone = in + count, *together = alone + count;
    for (size_t i = 0; i < count; i++)
        in[i] = (int64_t)i;
    memset(alone, 0, 2 * size); /* both results find their pages there already */

    int64_t start = mh_now();
    check(square(in, alone, count, NULL), "the loop");
    double loop_ms = milliseconds_since(start);

    check(mh_pool_create(&pool, NULL), "pool");
    check(mh_pool_map(pool, square, in, sizeof *in, together, sizeof *together, count, NULL), "map"); /* warms the workers */
    memset(together, 0, size);
    start = mh_now();
    check(mh_pool_map(pool, square, in, sizeof *in, together, sizeof *together, count, NULL), "map");
    double pool_ms = milliseconds_since(start);

    bool equal = memcmp(alone, together, size) == 0;
    printf("%zu squares: loop %.1f ms, pool %.1f ms (%.2f times the loop), results %s\n", count, loop_ms, pool_ms,
           pool_ms / loop_ms, equal ? "equal" : "DIFFER");
    mh_pool_destroy(&pool);
    mh_shm_destroy(&memory);
    return equal ? 0 : 1;
}
