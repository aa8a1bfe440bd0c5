/* What the parts of the codec share: plain values, and a block's head. */
#ifndef MHPY_CODEC_H
#define MHPY_CODEC_H

#include "core.h"

#if PY_VERSION_HEX < 0x030B0000
#include "longintrepr.h"
#endif

/* Raise ValueError: the block is not valid. Always returns false. */
bool mhpy_corrupt(const char *what);

/* The value of an exact int that fits 64 bits. */
static inline bool mhpy_int_value(PyObject *o, int64_t *out)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (PyUnstable_Long_IsCompact((PyLongObject *)o)) {
        *out = (int64_t)PyUnstable_Long_CompactValue((PyLongObject *)o);
        return true;
    }
#else
    const digit *d = ((PyLongObject *)o)->ob_digit;
    switch (Py_SIZE(o)) {
    case 0: *out = 0; return true;
    case 1: *out = (int64_t)d[0]; return true;
    case -1: *out = -(int64_t)d[0]; return true;
    case 2: *out = (int64_t)d[0] | (int64_t)d[1] << PyLong_SHIFT; return true;
    case -2: *out = -((int64_t)d[0] | (int64_t)d[1] << PyLong_SHIFT); return true;
    default: break;
    }
#endif
    int overflow;
    *out = PyLong_AsLongLongAndOverflow(o, &overflow);
    return !overflow;
}

static inline uint8_t mhpy_kind_of(PyObject *item)
{
    if (PyLong_CheckExact(item))
        return MHPY_INT;
    if (PyFloat_CheckExact(item))
        return MHPY_FLOAT;
    if (item == Py_None)
        return MHPY_NONE;
    if (PyBool_Check(item))
        return MHPY_BOOL;
    if (PyUnicode_CheckExact(item))
        return MHPY_STR;
    if (PyBytes_CheckExact(item))
        return MHPY_BYTES;
    if (PyTuple_CheckExact(item))
        return MHPY_TUPLE;
    return MHPY_PICKLE;
}

static inline unsigned char *mhpy_write_head(unsigned char *to, uint8_t kind, uint16_t width, uint32_t count)
{
    mhpy_block_head head = {.kind = kind, .width = width, .count = count};
    memcpy(to, &head, sizeof head);
    return to + sizeof head;
}

#endif
