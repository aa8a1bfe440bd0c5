/* Eight bytes a step, by eight tables ("slicing by eight"), which are worked out at the first use. */
#include "base/crc.h"

#include <stdatomic.h>
#include <string.h>

enum { SLICES = 8 };
#define POLYNOMIAL 0x82f63b78u /* reflected */

static uint32_t table[SLICES][256];
static _Atomic int is_ready;

/* Two threads that come first at once write the same values: a reader sees is_ready only after its writer's tables. */
static void prepare(void)
{
    uint32_t made[SLICES][256];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        made[0][i] = crc;
    }
    for (int s = 1; s < SLICES; s++)
        for (uint32_t i = 0; i < 256; i++)
            made[s][i] = made[s - 1][i] >> 8 ^ made[0][made[s - 1][i] & 255];
    for (int s = 0; s < SLICES; s++)
        for (uint32_t i = 0; i < 256; i++)
            __atomic_store_n(&table[s][i], made[s][i], __ATOMIC_RELAXED);
    atomic_store_explicit(&is_ready, 1, memory_order_release);
}

uint32_t mh__crc32c(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *p = data;
    if (!atomic_load_explicit(&is_ready, memory_order_acquire))
        prepare();
    crc = ~crc;
    for (; size >= 8; size -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        word ^= crc;
        crc = table[7][word & 255] ^ table[6][word >> 8 & 255] ^ table[5][word >> 16 & 255] ^ table[4][word >> 24 & 255] ^
              table[3][word >> 32 & 255] ^ table[2][word >> 40 & 255] ^ table[1][word >> 48 & 255] ^ table[0][word >> 56];
    }
    for (; size; size--)
        crc = crc >> 8 ^ table[0][(crc ^ *p++) & 255];
    return ~crc;
}
