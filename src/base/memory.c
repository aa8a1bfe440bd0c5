#include "base/memory.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

static void *libc_realloc(void *old, size_t size, void *ctx)
{
    (void)ctx;
    if (size == 0) {
        free(old);
        return NULL;
    }
    return realloc(old, size);
}

static mh_realloc_fn allocate = libc_realloc;
static void *allocate_ctx;

void mh_allocator_set(mh_realloc_fn fn, void *ctx)
{
    allocate = fn ? fn : libc_realloc;
    allocate_ctx = fn ? ctx : NULL;
}

void *mh__realloc(void *old, size_t size)
{
    void *block = allocate(old, size ? size : 1, allocate_ctx);
    if (!block)
        (void)mh__fail(MH_ERR_NO_MEMORY, "allocation of %zu bytes failed", size);
    return block;
}

void *mh__alloc(size_t size) { return mh__realloc(NULL, size); }

void *mh__calloc(size_t count, size_t size)
{
    size_t total;
    if (__builtin_mul_overflow(count, size, &total)) {
        (void)mh__fail(MH_ERR_NO_MEMORY, "allocation of %zu times %zu bytes overflows", count, size);
        return NULL;
    }
    /* The C library's calloc knows which pages are fresh and need no clearing. */
    if (allocate == libc_realloc) {
        void *block = calloc(1, total ? total : 1);
        if (!block)
            (void)mh__fail(MH_ERR_NO_MEMORY, "allocation of %zu bytes failed", total);
        return block;
    }
    void *block = mh__alloc(total);
    if (block)
        memset(block, 0, total);
    return block;
}

void mh__free(void *block)
{
    if (block)
        allocate(block, 0, allocate_ctx);
}

char *mh__strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = mh__alloc(size);
    if (copy)
        memcpy(copy, text, size);
    return copy;
}
