/* The format of small plain objects in messages, and its reading as far as that needs no Python.
 *
 *     NONE FALSE TRUE      nothing more
 *     INT FLOAT            8 bytes, in the machine's own order: a message never leaves the machine
 *     BYTES                u32 length, then the bytes
 *     TEXT1 TEXT2 TEXT4    u32 code points, then that many units of 1, 2 or 4 bytes, not aligned
 *     TUPLE                u8 count; as many values follow
 *
 * One byte says which. Only immutable values of exactly these types travel so: nobody can tell whether two of them were one object.
 * Nothing is trusted: every length is checked against what is left.
 */
#ifndef MHPY_PLAIN_PARSE_H
#define MHPY_PLAIN_PARSE_H

#include "manyhands/base.h"

#include <stdint.h>
#include <string.h>

enum {
    MHPY_PLAIN_NONE = 1,
    MHPY_PLAIN_FALSE,
    MHPY_PLAIN_TRUE,
    MHPY_PLAIN_INT,
    MHPY_PLAIN_FLOAT,
    MHPY_PLAIN_BYTES,
    MHPY_PLAIN_TEXT1,
    MHPY_PLAIN_TEXT2,
    MHPY_PLAIN_TEXT4,
    MHPY_PLAIN_TUPLE,
};
enum {
    MHPY_PLAIN_MAX = 1024,    /* bytes of a value; larger ones are pickled */
    MHPY_PLAIN_WIDTH_MAX = 32, /* values in a tuple */
    MHPY_PLAIN_DEPTH_MAX = 4, /* tuples in tuples */
};

typedef struct mhpy_plain_value {
    uint8_t code;
    uint32_t count;            /* units of bytes or text, values of a tuple */
    const unsigned char *from; /* the number, the bytes or the text */
} mhpy_plain_value;

/* Read the value at the head of *rest and move *rest behind it; the values of a tuple come next. NULL, or what is wrong. */
static inline const char *mhpy_plain_next(mh_bytes *rest, mhpy_plain_value *out)
{
    const unsigned char *at = rest->data;
    size_t left = rest->size, size = 0;
    if (left == 0)
        return "cut short";
    *out = (mhpy_plain_value){.code = *at++};
    left--;
    switch (out->code) {
    case MHPY_PLAIN_NONE:
    case MHPY_PLAIN_FALSE:
    case MHPY_PLAIN_TRUE: break;
    case MHPY_PLAIN_INT:
    case MHPY_PLAIN_FLOAT: size = 8; break;
    case MHPY_PLAIN_BYTES:
    case MHPY_PLAIN_TEXT1:
    case MHPY_PLAIN_TEXT2:
    case MHPY_PLAIN_TEXT4:
        if (left < 4)
            return "cut short";
        memcpy(&out->count, at, 4);
        at += 4;
        left -= 4;
        size = (size_t)out->count << (out->code == MHPY_PLAIN_TEXT2 ? 1 : out->code == MHPY_PLAIN_TEXT4 ? 2 : 0);
        break;
    case MHPY_PLAIN_TUPLE:
        if (left < 1 || *at > MHPY_PLAIN_WIDTH_MAX)
            return "a tuple is too wide";
        out->count = *at;
        size = 1;
        break;
    default: return "no such value";
    }
    if (size > left)
        return "a value ends beyond it";
    out->from = at;
    *rest = (mh_bytes){at + size, left - size};
    return NULL;
}

#endif
