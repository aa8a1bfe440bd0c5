/* Price European options by Monte Carlo, as a map on a pool of processes, and compare with Black and Scholes.
 *
 *     options [--paths MILLIONS] [--workers N] [--kill BLOCK] [--quiet] [--spot X] [--strike X] [--rate X] [--dividend X] [--volatility X] [--years X] [--call]
 *
 * The defaults are the put of QuantLib's example EquityOption, for which it prints 3.844308. --workers 1: no pool, one process.
 * --kill BLOCK: the worker that has that block is killed in the middle of it.
 */
#include "price.h"

#include <manyhands.h>

#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEED 42
#define RETRIES 3 /* of a chunk of blocks whose worker was killed */

typedef struct job {
    price_option option;
    uint64_t kill_block;
} job;

static void check(mh_err err, const char *what)
{
    if (!err)
        return;
    fprintf(stderr, "options: %s: %s: %s\n", what, mh_err_text(err), mh_err_detail());
    exit(1);
}

static uint32_t *killed; /* in shared memory: only one worker dies */

static mh_err map_blocks(const void *in, void *out, size_t count, const void *ctx)
{
    const uint64_t *blocks = in;
    price_sums *sums = out;
    const job *j = ctx;
    for (size_t i = 0; i < count; i++) {
        price_block(&j->option, SEED, blocks[i], &sums[i]);
        if (blocks[i] == j->kill_block && !__atomic_exchange_n(killed, 1, __ATOMIC_RELAXED))
            raise(SIGKILL);
    }
    return MH_OK;
}

static bool is_quiet;

static void show_progress(size_t done, size_t count, void *ctx)
{
    (void)ctx;
    if (!is_quiet && isatty(2))
        fprintf(stderr, "\roptions: %3zu %%%s", done * 100 / count, done == count ? "\n" : "");
}

static double number(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value)) {
        fprintf(stderr, "options: \"%s\" is not a number\n", text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {{"paths", 1, NULL, 'p'}, {"workers", 1, NULL, 'w'}, {"kill", 1, NULL, 'k'}, {"quiet", 0, NULL, 'q'},
                                          {"spot", 1, NULL, 's'}, {"strike", 1, NULL, 'K'}, {"rate", 1, NULL, 'r'}, {"dividend", 1, NULL, 'd'},
                                          {"volatility", 1, NULL, 'v'}, {"years", 1, NULL, 'y'}, {"call", 0, NULL, 'c'}, {0}};
    job j = {.option = {.spot = 36, .strike = 40, .rate = 0.06, .volatility = 0.2, .years = 1}, .kill_block = UINT64_MAX};
    double millions = 20, workers = 0, kill_block = -1;
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'p': millions = number(optarg); break;
        case 'w': workers = number(optarg); break;
        case 'k': kill_block = number(optarg); break;
        case 'q': is_quiet = true; break;
        case 's': j.option.spot = number(optarg); break;
        case 'K': j.option.strike = number(optarg); break;
        case 'r': j.option.rate = number(optarg); break;
        case 'd': j.option.dividend = number(optarg); break;
        case 'v': j.option.volatility = number(optarg); break;
        case 'y': j.option.years = number(optarg); break;
        case 'c': j.option.is_call = 1; break;
        default: return 2;
        }
    }
    const char *wrong = price_check(&j.option);
    if (wrong || millions <= 0 || millions > 1e6 || workers < 0 || workers > 4096) {
        fprintf(stderr, "options: %s\n", wrong ? wrong : "paths: more than 0, at most a million millions; workers: 0 to 4096");
        return 2;
    }
    if (kill_block >= 0)
        j.kill_block = (uint64_t)kill_block;
    size_t blocks = (size_t)ceil(millions * 1e6 / PRICE_BLOCK);
    mh_shm *memory = NULL;
    check(mh_shm_create(&memory, blocks * (sizeof(uint64_t) + sizeof(price_sums)) + sizeof *killed), "memory");
    price_sums *sums = mh_shm_data(memory);
    uint64_t *numbers = (uint64_t *)(void *)(sums + blocks);
    killed = (uint32_t *)(void *)(numbers + blocks);
    for (size_t b = 0; b < blocks; b++)
        numbers[b] = b;

    mh_pool *pool = NULL;
    if (workers != 1)
        check(mh_pool_create(&pool, &(mh_pool_options){.workers = (size_t)workers}), "pool");
    int64_t began = mh_now();
    if (pool)
        check(mh_pool_map(pool, map_blocks, numbers, sizeof *numbers, sums, sizeof *sums, blocks,
                          &(mh_map_options){.ctx = {&j, sizeof j}, .submit = {.lost_retries = RETRIES}, .progress = show_progress}),
              "pricing");
    else
        check(map_blocks(numbers, sums, blocks, &j), "pricing");
    price_result result = price_sum(&j.option, sums, blocks);
    double seconds = (double)(mh_now() - began) / MH_SECOND, exact = price_black_scholes(&j.option);
    mh_pool_destroy(&pool);
    printf("%zu paths in %.3f s\n", blocks * PRICE_BLOCK, seconds);
    printf("Monte Carlo   %.6f, standard error %.6f (%a)\nBlack-Scholes %.6f, %.1f standard errors away\n", result.value, result.error, result.value, exact,
           fabs(result.value - exact) / result.error);
    mh_shm_destroy(&memory);
    return 0;
}
