/* The format of a block, and its reading as far as that needs no Python: everything that touches bytes of another process's is here.
 *
 * Items that all have one plain type (None, bool, int that fits 64 bits, float, bytes, str, tuples of these of one length) travel
 * as columns; types are compared exactly, so that what arrives is what was sent. Everything else is one pickle (protocol 5) of
 * the list of items, its big buffers beside it on 64-byte boundaries. Numbers are in the machine's own order: a block never
 * leaves the machine.
 *
 *     u8 kind, u8 0, u16 width, u32 count       then, padded to 8 bytes:
 *     NONE    nothing
 *     BOOL    a byte each, 0 or 1
 *     INT     int64 each
 *     FLOAT   double each
 *     BYTES   u32 length each, then all bytes
 *     STR     u32 (code points << 2 | log2 of bytes for each), then all text, each aligned to its unit
 *     TUPLE   `width` blocks, one for each place
 *     PICKLE  u64 pickle's size, u64 buffer count, for each buffer u64 offset from the block and u64 (size << 1 | readonly),
 *             the pickle, the buffers
 *
 * Nothing is trusted: every length is checked against what is left, in the copy that is then used. The bytes may change at any time,
 * so a length that was checked when the block was opened is checked again when it is read again.
 */
#ifndef MHPY_CODEC_PARSE_H
#define MHPY_CODEC_PARSE_H

#include "manyhands/base.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { MHPY_NONE = 1, MHPY_BOOL, MHPY_INT, MHPY_FLOAT, MHPY_BYTES, MHPY_STR, MHPY_TUPLE, MHPY_PICKLE };

typedef struct mhpy_block_head {
    uint8_t kind, zero;
    uint16_t width;
    uint32_t count;
} mhpy_block_head;
_Static_assert(sizeof(mhpy_block_head) == 8, "a block's head is 8 bytes");

typedef struct mhpy_buffer_row {
    uint64_t offset, size_readonly;
} mhpy_buffer_row;

#define MHPY_DEPTH_MAX 4  /* tuples in tuples */
#define MHPY_WIDTH_MAX 16 /* places of a tuple */
#define MHPY_TEXT_MAX (UINT32_MAX >> 2)

static inline size_t mhpy_pad(size_t size, size_t unit) { return (size + unit - 1) & ~(unit - 1); }

/* A block, or a column of one. */
typedef struct mhpy_part {
    uint8_t kind;
    uint16_t width;
    uint32_t count;
    size_t used;                      /* how many bytes it takes; of a tuple only the head, as its columns follow */
    const unsigned char *data, *heap; /* the column; for bytes and text what the lengths in it talk about */
    size_t heap_size, heap_at;
    const unsigned char *rows, *pickle; /* of a pickle */
    size_t row_count, pickle_size;
} mhpy_part;

/* Find the parts of the block at the beginning of `bytes`. NULL, or what is wrong with it. A column inside tuples (depth > 0) is never a pickle. */
const char *mhpy_parse(mhpy_part *out, mh_bytes bytes, int depth);

/* Bytes or text number `at`, which follows the one before: its place, its units and their size. NULL, or what is wrong with it. */
const char *mhpy_parse_span(mhpy_part *p, uint32_t at, const unsigned char **from, size_t *length, size_t *unit);

/* Buffer number `at` of a pickle whose block is `bytes`. NULL, or what is wrong with it. */
const char *mhpy_parse_buffer(const mhpy_part *p, mh_bytes bytes, size_t at, mh_bytes *buffer, bool *readonly);

#endif
