/* Hostile blocks: whatever the bytes are, parsing them reads nothing outside. Needs no Python. */
#include "codec_parse.c"

#include <stdlib.h>

static unsigned seen; /* so that the reads are not optimised away */

static void touch(const unsigned char *from, size_t size)
{
    for (size_t i = 0; i < size; i++)
        seen += from[i];
}

static void read_spans(mhpy_part *p)
{
    const unsigned char *from;
    size_t length, unit;
    for (uint32_t i = 0; i < p->count; i++) {
        if (mhpy_parse_span(p, i, &from, &length, &unit))
            abort(); /* it was checked, and has not changed */
        touch(from, length * unit);
    }
}

static void read_pickle(const mhpy_part *p, mh_bytes bytes)
{
    mh_bytes buffer;
    bool readonly;
    touch(p->pickle, p->pickle_size);
    for (size_t i = 0; i < p->row_count; i++)
        if (!mhpy_parse_buffer(p, bytes, i, &buffer, &readonly))
            touch(buffer.data, buffer.size < 4096 ? buffer.size : 4096); /* rows may overlap */
}

/* What the block took; 0 when it is not valid. */
static size_t read_block(mh_bytes bytes, int depth)
{
    mhpy_part p;
    if (mhpy_parse(&p, bytes, depth))
        return 0;
    if (p.used > bytes.size)
        abort();
    switch (p.kind) {
    case MHPY_BOOL: touch(p.data, p.count); break;
    case MHPY_INT:
    case MHPY_FLOAT: touch(p.data, (size_t)p.count * 8); break;
    case MHPY_BYTES:
    case MHPY_STR: read_spans(&p); break;
    case MHPY_PICKLE: read_pickle(&p, bytes); break;
    default: break;
    }
    size_t used = p.used;
    for (unsigned c = 0; p.kind == MHPY_TUPLE && c < p.width; c++) {
        mh_bytes rest = {(const unsigned char *)bytes.data + used, bytes.size - used};
        size_t column = read_block(rest, depth + 1);
        if (!column)
            return 0;
        used += column;
    }
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    (void)read_block((mh_bytes){data, size}, 0);
    return 0;
}
