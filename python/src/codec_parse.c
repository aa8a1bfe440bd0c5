#include "codec_parse.h"

static uint32_t get_u32(const unsigned char *from)
{
    uint32_t v;
    memcpy(&v, from, sizeof v);
    return v;
}

static uint64_t get_u64(const unsigned char *from)
{
    uint64_t v;
    memcpy(&v, from, sizeof v);
    return v;
}

const char *mhpy_parse_span(mhpy_part *p, uint32_t at, const unsigned char **from, size_t *length, size_t *unit)
{
    uint32_t code = get_u32(p->data + 4 * (size_t)at);
    size_t width = 1, count = code;
    if (p->kind == MHPY_STR) {
        if ((code & 3) == 3)
            return "no such text";
        width = (size_t)1 << (code & 3);
        count = code >> 2;
    }
    size_t begin = mhpy_pad(p->heap_at, width);
    if (begin > p->heap_size || count * width > p->heap_size - begin)
        return "text ends beyond it";
    p->heap_at = begin + count * width;
    *from = p->heap + begin;
    *length = count;
    *unit = width;
    return NULL;
}

/* Check that each length of a heap fits, and find where the heap ends. */
static const char *measure_heap(mhpy_part *p)
{
    const unsigned char *from;
    size_t length, unit;
    for (uint32_t i = 0; i < p->count; i++) {
        const char *wrong = mhpy_parse_span(p, i, &from, &length, &unit);
        if (wrong)
            return wrong;
    }
    size_t end = mhpy_pad(p->heap_at, 8);
    if (end > p->heap_size)
        return "cut short";
    p->heap_at = 0;
    p->used += end;
    return NULL;
}

static const char *parse_pickle(mhpy_part *p, size_t left, int depth)
{
    if (depth)
        return "a pickle inside tuples";
    if (left < 16)
        return "cut short";
    uint64_t size = get_u64(p->data), count = get_u64(p->data + 8);
    left -= 16;
    if (count > left / sizeof(mhpy_buffer_row) || size > left - count * sizeof(mhpy_buffer_row))
        return "a pickle ends beyond it";
    p->rows = p->data + 16;
    p->row_count = (size_t)count;
    p->pickle = p->rows + count * sizeof(mhpy_buffer_row);
    p->pickle_size = (size_t)size;
    p->used += 16 + left;
    return NULL;
}

const char *mhpy_parse_buffer(const mhpy_part *p, mh_bytes bytes, size_t at, mh_bytes *buffer, bool *readonly)
{
    const unsigned char *row = p->rows + at * sizeof(mhpy_buffer_row);
    uint64_t offset = get_u64(row), word = get_u64(row + 8), size = word >> 1;
    if (offset > bytes.size || size > bytes.size - offset)
        return "a buffer ends beyond it";
    *buffer = (mh_bytes){(const unsigned char *)bytes.data + offset, (size_t)size};
    *readonly = word & 1;
    return NULL;
}

/* Bytes of a column without its heap, padded. */
static size_t column_size(const mhpy_part *p)
{
    switch (p->kind) {
    case MHPY_BOOL: return mhpy_pad(p->count, 8);
    case MHPY_INT:
    case MHPY_FLOAT: return (size_t)p->count * 8;
    case MHPY_BYTES:
    case MHPY_STR: return mhpy_pad((size_t)p->count * 4, 8);
    default: return 0;
    }
}

const char *mhpy_parse(mhpy_part *out, mh_bytes bytes, int depth)
{
    mhpy_block_head head;
    *out = (mhpy_part){0};
    if (bytes.size < sizeof head)
        return "cut short";
    memcpy(&head, bytes.data, sizeof head);
    if (head.kind < MHPY_NONE || head.kind > MHPY_PICKLE)
        return "no such kind";
    if (head.kind == MHPY_TUPLE && (depth == MHPY_DEPTH_MAX || head.width > MHPY_WIDTH_MAX))
        return "tuples too deep or too wide";
    *out = (mhpy_part){.kind = head.kind, .width = head.width, .count = head.count, .used = sizeof head,
                       .data = (const unsigned char *)bytes.data + sizeof head};
    size_t left = bytes.size - sizeof head, size = column_size(out);
    if (head.kind == MHPY_PICKLE)
        return parse_pickle(out, left, depth);
    if (size > left)
        return "cut short";
    out->used += size;
    if (head.kind != MHPY_BYTES && head.kind != MHPY_STR)
        return NULL;
    out->heap = out->data + size;
    out->heap_size = left - size;
    return measure_heap(out);
}
