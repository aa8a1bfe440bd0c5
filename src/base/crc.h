/* CRC-32C (Castagnoli), as storage and networks use it: finds every burst of up to 32 wrong bits. No protection against intent. */
#ifndef MH_BASE_CRC_H
#define MH_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* That of the bytes behind those that gave `crc` (0: there are none). */
uint32_t mh__crc32c(uint32_t crc, const void *data, size_t size);

#endif
