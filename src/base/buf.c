/* mh_buf: bytes with one owner, in one allocation that grows by half. */
#include "base/buf.h"

#include "base/error.h"
#include "base/memory.h"

#include <string.h>

struct mh_buf {
    unsigned char *data;
    size_t size, capacity;
};

static mh_err create(mh_buf **out, size_t size, bool clear)
{
    *out = NULL;
    mh_buf *b = mh__alloc(sizeof *b);
    if (!b)
        return MH_ERR_NO_MEMORY;
    b->size = b->capacity = size;
    b->data = !size ? NULL : clear ? mh__calloc(1, size) : mh__alloc(size);
    if (size && !b->data) {
        mh__free(b);
        return MH_ERR_NO_MEMORY;
    }
    *out = b;
    return MH_OK;
}

mh_err mh_buf_create(mh_buf **out, size_t size) { return create(out, size, true); }
mh_err mh__buf_create_unset(mh_buf **out, size_t size) { return create(out, size, false); }

mh_err mh_buf_copy(mh_buf **out, mh_bytes from)
{
    mh_err err = mh_buf_create(out, 0);
    if (err)
        return err;
    err = mh_buf_append(*out, from);
    if (err)
        mh_buf_destroy(out);
    return err;
}

void *mh_buf_data(mh_buf *b) { return b->data; }
size_t mh_buf_size(const mh_buf *b) { return b->size; }

static mh_err reserve(mh_buf *b, size_t size)
{
    if (size <= b->capacity)
        return MH_OK;
    size_t grown = b->capacity + b->capacity / 2;
    size_t capacity = grown > size ? grown : size;
    unsigned char *data = mh__realloc(b->data, capacity);
    if (!data)
        return MH_ERR_NO_MEMORY;
    b->data = data;
    b->capacity = capacity;
    return MH_OK;
}

mh_err mh_buf_resize(mh_buf *b, size_t size)
{
    mh_err err = reserve(b, size);
    if (err)
        return err;
    if (size > b->size)
        memset(b->data + b->size, 0, size - b->size);
    b->size = size;
    return MH_OK;
}

mh_err mh_buf_append(mh_buf *b, mh_bytes from)
{
    size_t total;
    if (__builtin_add_overflow(b->size, from.size, &total))
        return mh__fail(MH_ERR_NO_MEMORY, "buffer of %zu bytes cannot take %zu more", b->size, from.size);
    mh_err err = reserve(b, total);
    if (err)
        return err;
    if (from.size)
        memcpy(b->data + b->size, from.data, from.size);
    b->size = total;
    return MH_OK;
}

void mh_buf_destroy(mh_buf **b)
{
    if (!*b)
        return;
    mh__free((*b)->data);
    mh__free(*b);
    *b = NULL;
}
