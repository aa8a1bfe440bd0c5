/* price.h: what a European option is worth, by simulating the price of what it is on.
 *
 *     price_option option = {.spot = 36, .strike = 40, .rate = 0.06, .dividend = 0, .volatility = 0.2, .years = 1, .is_call = 0};
 *     price_block(&option, 1, k, &sums[k]);                for each block k of PRICE_BLOCK paths: by whoever is free
 *     price_result result = price_sum(&option, sums, blocks);
 *
 * A block's random numbers depend on the seed and the block's number alone, so that the result does not depend, to the last bit, on who computed
 * which block.
 */
#ifndef PRICE_H
#define PRICE_H

#include <stddef.h>
#include <stdint.h>

#define PRICE_EXPORT __attribute__((visibility("default")))

enum { PRICE_BLOCK = 65536 }; /* paths */

typedef struct price_option {
    double spot, strike;     /* the price now, and the one agreed on */
    double rate, dividend;   /* a year, continuously compounded */
    double volatility;       /* a year */
    double years;            /* until it ends */
    int32_t is_call, unused; /* the right to buy; else to sell */
} price_option;

typedef struct price_sums {
    double value, square; /* of what the paths pay */
} price_sums;

typedef struct price_result {
    double value, error; /* its standard error */
} price_result;

/* NULL, or what is wrong with the option. */
PRICE_EXPORT const char *price_check(const price_option *option);
PRICE_EXPORT void price_block(const price_option *option, uint64_t seed, uint64_t block, price_sums *out);
PRICE_EXPORT price_result price_sum(const price_option *option, const price_sums *sums, size_t blocks);
/* The same without chance: Black and Scholes 1973. */
PRICE_EXPORT double price_black_scholes(const price_option *option);

#endif
