/* Small arithmetic that several modules share. */
#ifndef MH_BASE_NUMBER_H
#define MH_BASE_NUMBER_H

#include <stddef.h>
#include <stdint.h>

#define MH__COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define MH__MIN(a, b) ((a) < (b) ? (a) : (b))
#define MH__MAX(a, b) ((a) > (b) ? (a) : (b))
#define MH__CACHE_LINE 64

/* `value` rounded up to a multiple of `unit`, a power of two; the caller knows that it cannot overflow. */
static inline size_t mh__round_up(size_t value, size_t unit) { return (value + unit - 1) & ~(unit - 1); }

/* The smallest power of two that is >= value (value 0 gives 1). */
static inline uint64_t mh__power_of_two(uint64_t value)
{
    return value < 2 ? 1 : UINT64_C(1) << (64 - __builtin_clzll(value - 1));
}

/* `size` bytes as 2 * size lower-case hexadecimal digits, with no 0 behind them. */
static inline void mh__write_hex(const uint8_t *from, size_t size, char *to)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        to[2 * i] = digits[from[i] >> 4];
        to[2 * i + 1] = digits[from[i] & 15];
    }
}

/* One step of splitmix64: a small, seedable source of numbers for simulations and back-off, not for secrets. */
static inline uint64_t mh__splitmix(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

#endif
