/* An allocator that fails once, at a chosen time, and counts what is not freed. */
#ifndef MH_BOOKS_H
#define MH_BOOKS_H

#include <stdatomic.h>
#include <stdlib.h>

typedef struct books {
    _Atomic long live;
    _Atomic long until_failure; /* fails the call that takes it to 0 */
} books;

/* For mh_allocator_set. threads: any. */
static inline void *keep_books(void *old, size_t size, void *ctx)
{
    books *b = ctx;
    if (size == 0) {
        if (old)
            b->live--;
        free(old);
        return NULL;
    }
    if (--b->until_failure == 0)
        return NULL;
    void *block = realloc(old, size);
    if (block && !old)
        b->live++;
    return block;
}

#endif
