#include "price.h"

#include <math.h>

static double or_nothing(double v) { return v > 0 ? v : 0; }

/* ---- random numbers -------------------------------------------------------------------------- */

/* The finaliser of SplitMix64, of a counter: any place of the sequence can be had at once. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* In (0, 1), never at its ends. */
static double uniform(uint64_t key, uint64_t counter) { return ((double)(mix(key + counter * 0x9e3779b97f4a7c15u) >> 12) + 0.5) / 4503599627370496.0; }

static double polynomial(const double *c, int count, double x)
{
    double sum = c[count - 1];
    for (int i = count - 2; i >= 0; i--)
        sum = sum * x + c[i];
    return sum;
}

/* The value below which a part p of all normal numbers lies, to 16 digits: M. J. Wichura, "Algorithm AS 241", 1988. */
static double normal_quantile(double p)
{
    static const double a[] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
                               4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3};
    static const double b[] = {1.0,                     4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
                               2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3};
    static const double c[] = {1.42343711074968357734e0,  4.63033784615654529590e0,  5.76949722146069140550e0,  3.64784832476320460504e0,
                               1.27045825245236838258e0,  2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static const double d[] = {1.0,                       2.05319162663775882187e0,  1.67638483018380384940e0,  6.89767334985100004550e-1,
                               1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9};
    static const double e[] = {6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,  2.96560571828504891230e-1,
                               2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static const double f[] = {1.0,                       5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
                               7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15};
    double q = p - 0.5;
    if (fabs(q) <= 0.425) {
        double r = 0.180625 - q * q;
        return q * polynomial(a, 8, r) / polynomial(b, 8, r);
    }
    double r = sqrt(-log(q < 0 ? p : 1 - p));
    double x = r <= 5 ? polynomial(c, 8, r - 1.6) / polynomial(d, 8, r - 1.6) : polynomial(e, 8, r - 5) / polynomial(f, 8, r - 5);
    return q < 0 ? -x : x;
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

void price_block(const price_option *o, uint64_t seed, uint64_t block, price_sums *out)
{
    double drift = (o->rate - o->dividend - o->volatility * o->volatility / 2) * o->years, spread = o->volatility * sqrt(o->years);
    double sign = o->is_call ? 1 : -1;
    uint64_t key = mix(seed + 1) + block * PRICE_BLOCK * 0x9e3779b97f4a7c15u;
    price_sums sum = {0, 0};
    for (uint64_t i = 0; i < PRICE_BLOCK; i++) {
        double end = o->spot * exp(drift + spread * normal_quantile(uniform(key, i)));
        double pays = or_nothing(sign * (end - o->strike));
        sum.value += pays;
        sum.square += pays * pays;
    }
    *out = sum;
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
