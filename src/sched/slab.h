/* Records of one size in one growable array, named by index; those given back are used again first, the last one soonest.
 * A record's first field is a uint32_t, which links it while it is free. */
#ifndef MH_SCHED_SLAB_H
#define MH_SCHED_SLAB_H

#include "base/memory.h"
#include "manyhands/base.h"

#include <string.h>

#define MH__NONE UINT32_MAX

typedef struct mh__slab {
    void *items;
    size_t item_bytes;
    uint32_t used;     /* records that were ever taken: above it nothing is initialised */
    uint32_t capacity;
    uint32_t free;     /* first free record below used */
    uint32_t live;     /* records taken and not given back */
} mh__slab;

static inline void mh__slab_init(mh__slab *slab, size_t item_bytes)
{
    *slab = (mh__slab){.item_bytes = item_bytes, .free = MH__NONE};
}

static inline void *mh__slab_at(const mh__slab *slab, uint32_t i) { return (char *)slab->items + i * slab->item_bytes; }

/* Make sure that `more` records can be taken. errors: NO_MEMORY (nothing changed). */
static inline mh_err mh__slab_reserve(mh__slab *slab, uint32_t more)
{
    if (slab->capacity - slab->live >= more)
        return MH_OK;
    uint64_t need = (uint64_t)slab->live + more;
    uint64_t capacity = slab->capacity ? slab->capacity + (uint64_t)slab->capacity / 2 : 64;
    if (capacity < need)
        capacity = need;
    if (capacity >= MH__NONE)
        return MH_ERR_LIMIT;
    void *items = mh__realloc(slab->items, (size_t)capacity * slab->item_bytes);
    if (!items)
        return MH_ERR_NO_MEMORY;
    slab->items = items;
    slab->capacity = (uint32_t)capacity;
    return MH_OK;
}

/* Take a record after mh__slab_reserve; it is zeroed when it is taken for the first time. */
static inline uint32_t mh__slab_take(mh__slab *slab)
{
    uint32_t i = slab->free;
    slab->live++;
    if (i == MH__NONE) {
        i = slab->used++;
        memset(mh__slab_at(slab, i), 0, slab->item_bytes);
    } else {
        memcpy(&slab->free, mh__slab_at(slab, i), sizeof slab->free);
    }
    return i;
}

static inline void mh__slab_give(mh__slab *slab, uint32_t i)
{
    memcpy(mh__slab_at(slab, i), &slab->free, sizeof slab->free);
    slab->free = i;
    slab->live--;
}

/* Free the memory of a slab without live records. */
static inline void mh__slab_fini(mh__slab *slab)
{
    mh__free(slab->items);
    mh__slab_init(slab, slab->item_bytes);
}

#endif
