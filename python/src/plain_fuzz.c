/* Hostile messages of plain values: whatever the bytes are, parsing them reads nothing outside and ends. Needs no Python. */
#include "plain_parse.h"

#include <stdlib.h>

static unsigned seen; /* so that the reads are not optimised away */

/* Whether a value was there. */
static int read_value(mh_bytes *rest, int depth)
{
    mhpy_plain_value v;
    size_t before = rest->size;
    if (depth > MHPY_PLAIN_DEPTH_MAX || mhpy_plain_next(rest, &v))
        return 0;
    if (rest->size >= before)
        abort();
    size_t size = before - rest->size - (size_t)(v.from ? v.from - ((const unsigned char *)rest->data - (before - rest->size)) : 0);
    for (size_t i = 0; v.from && i < size; i++)
        seen += v.from[i];
    for (uint32_t i = 0; v.code == MHPY_PLAIN_TUPLE && i < v.count; i++)
        if (!read_value(rest, depth + 1))
            return 0;
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh_bytes rest = {data, size};
    while (rest.size && read_value(&rest, 0))
        ;
    return 0;
}
