/* Paths go by thousands through short loops without branches, of which the compiler makes vector code, for this processor or an older one. No operation is fused with another
 * (-ffp-contract=off): every processor gives the same bits. */
#include "price.h"

#include <math.h>
#include <string.h>

#if defined __x86_64__ && !defined __SANITIZE_THREAD__ /* which is not ready yet when the choice is made */
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

enum { SOME = 512 }; /* pairs of paths that are on their way at once: their numbers stay in the cache */

static double or_nothing(double v) { return v > 0 ? v : 0; }

/* ---- functions that become vector code -------------------------------------------------------- */

INLINE uint64_t bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE double from_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52: what is added to it loses what is behind the point */

/* Natural logarithm of 0 < x < 2, to 15 digits: x = m * 2^e with m around 1, and log m = 2 atanh((m - 1) / (m + 1)). */
INLINE double log_of(double x)
{
    uint64_t bits = bits_of(x);
    double m = from_bits((bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
    double e = from_bits((bits >> 52) | 0x4330000000000000u) - (4503599627370496.0 + 1023.0);
    double is_high = m > 1.4142135623730951 ? 1 : 0;
    m -= is_high * 0.5 * m;
    e += is_high;
    double s = (m - 1) / (m + 1), q = s * s;
    double sum = 1 / 19.0;
    sum = sum * q + 1 / 17.0;
    sum = sum * q + 1 / 15.0;
    sum = sum * q + 1 / 13.0;
    sum = sum * q + 1 / 11.0;
    sum = sum * q + 1 / 9.0;
    sum = sum * q + 1 / 7.0;
    sum = sum * q + 1 / 5.0;
    sum = sum * q + 1 / 3.0;
    sum = sum * q + 1;
    return e * 0.6931471805599453 + 2 * s * sum;
}

/* e^x, to 15 digits: x = n log 2 + r. Beyond 700 it stays what it is there. */
INLINE double exp_of(double x)
{
    x = x > 700 ? 700 : x < -700 ? -700 : x;
    double shifted = x * 1.4426950408889634 + ROUNDER, n = shifted - ROUNDER;
    double r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
    double sum = 1 / 479001600.0;
    sum = sum * r + 1 / 39916800.0;
    sum = sum * r + 1 / 3628800.0;
    sum = sum * r + 1 / 362880.0;
    sum = sum * r + 1 / 40320.0;
    sum = sum * r + 1 / 5040.0;
    sum = sum * r + 1 / 720.0;
    sum = sum * r + 1 / 120.0;
    sum = sum * r + 1 / 24.0;
    sum = sum * r + 1 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1;
    sum = sum * r + 1;
    return sum * from_bits((bits_of(shifted) + 1023) << 52); /* n is in the last bits of what it was rounded by */
}

/* Sine and cosine of `turns` turns, 0 to 1: of a quarter turn around 0, then the quadrant tells which is which. */
INLINE void sine_of(double turns, double *sine, double *cosine)
{
    double shifted = turns * 4 + ROUNDER, quadrant = shifted - ROUNDER;
    uint64_t k = bits_of(shifted);
    double x = (turns * 4 - quadrant) * 1.5707963267948966, q = x * x;
    double s = -1 / 1307674368000.0;
    s = s * q + 1 / 6227020800.0;
    s = s * q - 1 / 39916800.0;
    s = s * q + 1 / 362880.0;
    s = s * q - 1 / 5040.0;
    s = s * q + 1 / 120.0;
    s = s * q - 1 / 6.0;
    s = x + x * q * s;
    double c = 1 / 20922789888000.0;
    c = c * q - 1 / 87178291200.0;
    c = c * q + 1 / 479001600.0;
    c = c * q - 1 / 3628800.0;
    c = c * q + 1 / 40320.0;
    c = c * q - 1 / 720.0;
    c = c * q + 1 / 24.0;
    c = c * q - 0.5;
    c = c * q + 1;
    uint64_t swap = 0 - (k & 1), from = bits_of(s), to = bits_of(c), both = (from ^ to) & swap;
    *sine = from_bits((from ^ both) ^ (k & 2) << 62);
    *cosine = from_bits((to ^ both) ^ ((k + 1) & 2) << 62);
}

/* ---- random numbers -------------------------------------------------------------------------- */

/* The finaliser of SplitMix64, of a counter: any place of the sequence can be had at once. */
INLINE uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* In (0, 1), never at its ends. */
INLINE double uniform(uint64_t key, uint64_t counter)
{
    return from_bits((mix(key + counter * 0x9e3779b97f4a7c15u) >> 12) | 0x3ff0000000000000u) - (1 - 0x1p-53);
}

/* Two normal numbers of two uniform ones: G. E. P. Box and M. E. Muller, 1958. */
FOR_EVERY_PROCESSOR static void draw_normals(uint64_t key, uint64_t first, double *restrict a, double *restrict b)
{
    for (uint64_t i = 0; i < SOME; i++) {
        double size = sqrt(-2 * log_of(uniform(key, 2 * (first + i)))), sine, cosine;
        sine_of(uniform(key, 2 * (first + i) + 1), &sine, &cosine);
        a[i] = size * cosine;
        b[i] = size * sine;
    }
}

/* ---- prices ---------------------------------------------------------------------------------- */

const char *price_check(const price_option *o)
{
    return !(o->spot > 0 && o->spot < 1e12)                            ? "spot: more than 0"
           : !(o->strike > 0 && o->strike < 1e12)                      ? "strike: more than 0"
           : !(fabs(o->rate) <= 10 && fabs(o->dividend) <= 10)         ? "rate and dividend: -10 to 10"
           : !(o->volatility > 0 && o->volatility <= 10)               ? "volatility: more than 0, at most 10"
           : !(o->years > 0 && o->years <= 100)                        ? "years: more than 0, at most 100"
                                                                       : NULL;
}

/* What the paths with these normal numbers pay; they may be overwritten. */
FOR_EVERY_PROCESSOR static void pay(const price_option *o, double *normals)
{
    double drift = (o->rate - o->dividend - o->volatility * o->volatility / 2) * o->years, spread = o->volatility * sqrt(o->years);
    double sign = o->is_call ? 1 : -1, spot = o->spot, strike = o->strike;
    for (int i = 0; i < 2 * SOME; i++) {
        double pays = sign * (spot * exp_of(drift + spread * normals[i]) - strike);
        normals[i] = pays > 0 ? pays : 0;
    }
}

/* Eight sums at once, so that there is vector code for it, and always in the same order. */
FOR_EVERY_PROCESSOR static void add(const double *pays, price_sums *out)
{
    double sum[8] = {0}, square[8] = {0};
    for (int i = 0; i < 2 * SOME; i += 8) {
        for (int k = 0; k < 8; k++) {
            sum[k] += pays[i + k];
            square[k] += pays[i + k] * pays[i + k];
        }
    }
    for (int k = 0; k < 8; k++) {
        out->value += sum[k];
        out->square += square[k];
    }
}

void price_block(const price_option *o, uint64_t seed, uint64_t block, price_sums *out)
{
    uint64_t key = mix(seed + 1) + block * PRICE_BLOCK * 0x9e3779b97f4a7c15u;
    double normals[2 * SOME];
    *out = (price_sums){0, 0};
    for (uint64_t first = 0; first < PRICE_BLOCK / 2; first += SOME) {
        draw_normals(key, first, normals, normals + SOME);
        pay(o, normals);
        add(normals, out);
    }
}

price_result price_sum(const price_option *o, const price_sums *sums, size_t blocks)
{
    double paths = (double)blocks * PRICE_BLOCK, discount = exp(-o->rate * o->years);
    price_sums all = {0, 0};
    for (size_t b = 0; b < blocks; b++) {
        all.value += sums[b].value;
        all.square += sums[b].square;
    }
    double mean = all.value / paths;
    return (price_result){discount * mean, discount * sqrt(or_nothing(all.square / paths - mean * mean) / (paths - 1))};
}

static double normal_below(double x) { return erfc(-x / sqrt(2)) / 2; }

double price_black_scholes(const price_option *o)
{
    double spread = o->volatility * sqrt(o->years), sign = o->is_call ? 1 : -1;
    double d1 = (log(o->spot / o->strike) + (o->rate - o->dividend) * o->years) / spread + spread / 2, d2 = d1 - spread;
    return sign * (o->spot * exp(-o->dividend * o->years) * normal_below(sign * d1) - o->strike * exp(-o->rate * o->years) * normal_below(sign * d2));
}
