/* A heap among processes, any of which may be killed at any instruction.
 *
 * The truth is the chain of block heads: each is one 64-bit word, the block's size, whether it is free, and a tag, so that the next
 * block's head is found behind it. Every operation changes the truth by single stores in an order in which each leaves a whole
 * chain: allocating writes the heads inside a free block first, which nobody reads yet, and then shortens that block's own; freeing sets one
 * bit; merging lengthens one head over the next. All else (lists of free blocks by size, the sizes of the blocks
 * before, the count of free bytes) is derived, and is made anew from the chain by the next process when one was killed inside.
 *
 * A process that was killed while it was getting a block left the block's offset in `intent`: the repair frees it, for nobody knows it.
 *
 * Everything read from the memory is hostile. A number is read once, checked, and used from then on; no loop trusts the
 * memory to end it. So the books may be wrong, but no access leaves the heap. */
#include "manyhands/shm.h"
#include "manyhands/sync.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/memory.h"

#include <stdatomic.h>
#include <string.h>

enum {
    HEAD_BYTES = 16,
    UNIT = 16,
    BLOCK_MIN = 32, /* a head, and the links of a free block */
    SPLIT_SHIFT = 3,
    SPLIT = 1 << SPLIT_SHIFT, /* lists for each power of two */
    ROWS = 45,                /* sizes up to 2^48 units */
    PEEK = 8,
    SIZE_MIN = 8192,
    VERSION = 1,
};
#define MAGIC UINT64_C(0x3170616568686d00) /* a zero and "mhheap1" */
#define FREE_BIT UINT64_C(1)

typedef struct head {
    _Atomic uint64_t word; /* size in bytes, a multiple of 16, with FREE_BIT: the truth */
    uint64_t before;       /* size of the block before this one, 0 for the first: derived */
    uint64_t next, previous; /* in a free block: offsets in its list, 0 at the ends: derived */
} head;

typedef struct books {
    _Atomic uint64_t magic; /* written last */
    uint32_t version, unused;
    uint64_t size; /* of the whole memory */
    uint64_t secret; /* random for each heap: see tag_of */
    mh_mutex lock; /* guards all below and every head */
    _Atomic uint64_t intent;
    uint64_t free_bytes; /* derived, as all below */
    uint64_t rows;
    uint8_t lists[48];
    uint64_t first[ROWS][SPLIT];
} books;

_Static_assert(offsetof(head, next) == HEAD_BYTES && sizeof(head) == BLOCK_MIN, "a free block holds its links");
_Static_assert(offsetof(books, lock) % 8 == 0 && sizeof(mh_mutex) == 16, "the layout is shared between builds");
_Static_assert(sizeof(books) < SIZE_MIN / 2 && ROWS <= 48, "the smallest heap has room for blocks");

struct mh_heap {
    char *base;
    uint64_t size; /* as checked: the one in the memory is never read again */
    uint64_t begin, end;
    uint64_t secret;
};

/* The code once more, so that the compiler sees that it is not OK. */
#define CORRUPT(...) ((void)mh__fail(MH_ERR_CORRUPT, "heap in shared memory: " __VA_ARGS__), MH_ERR_CORRUPT)
#define TRY(call)            \
    do {                     \
        mh_err err_ = (call); \
        if (err_)            \
            return err_;     \
    } while (0)

static books *books_of(const mh_heap *h) { return (books *)(void *)h->base; }

/* A block as it was read and checked. */
typedef struct block {
    head *head;
    uint64_t at, size;
    bool is_free;
} block;

/* The upper 16 bits of a head: differs by heap and place, so that the content of a block (perhaps what an earlier heap left in this
 * memory) is not taken for a head when somebody frees an offset that is none. */
static uint64_t tag_of(const mh_heap *h, uint64_t at)
{
    return ((at ^ h->secret) * UINT64_C(0x9e3779b97f4a7c15) | UINT64_C(1) << 48) & UINT64_C(0xffff) << 48;
}

/* ---- reading the chain -------------------------------------------------------------------------- */

static bool may_be_block(const mh_heap *h, uint64_t at)
{
    return at >= h->begin && at <= h->end - BLOCK_MIN && at % UNIT == 0;
}

static mh_err load(const mh_heap *h, uint64_t at, block *b)
{
    if (!may_be_block(h, at))
        return CORRUPT("no block can lie at %llu", (unsigned long long)at);
    head *p = (head *)(void *)(h->base + at);
    uint64_t word = atomic_load_explicit(&p->word, memory_order_relaxed) ^ tag_of(h, at), size = word & ~FREE_BIT;
    if (size < BLOCK_MIN || size % UNIT || size > h->end - at) /* so the tag was right, too: else this is larger than any heap */
        return CORRUPT("the block at %llu says that it has %llu bytes", (unsigned long long)at, (unsigned long long)size);
    *b = (block){.head = p, .at = at, .size = size, .is_free = word & FREE_BIT};
    return MH_OK;
}

/* Changing the truth: one store, after everything before it in the program and before everything after. */
static void commit(const mh_heap *h, uint64_t at, uint64_t size, bool is_free)
{
    head *p = (head *)(void *)(h->base + at);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&p->word, tag_of(h, at) | size | (is_free ? FREE_BIT : 0), memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
}

/* Lengthen a free block over the one behind it, whose head is wiped then: it must not look like a block's to who frees a wrong offset. */
static void swallow(const mh_heap *h, block *b, const block *behind)
{
    b->size += behind->size;
    commit(h, b->at, b->size, true);
    atomic_store_explicit(&behind->head->word, 0, memory_order_relaxed);
}

static void set_intent(const mh_heap *h, uint64_t at)
{
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&books_of(h)->intent, at, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
}

/* Tell the block behind how long the one before it is. */
static void set_before(const mh_heap *h, uint64_t behind, uint64_t size)
{
    if (behind < h->end)
        ((head *)(void *)(h->base + behind))->before = size;
}

/* ---- lists of free blocks ----------------------------------------------------------------------- */

static void list_of(uint64_t size, uint32_t *row, uint32_t *list)
{
    uint64_t units = size / UNIT;
    if (units < SPLIT) {
        *row = 0;
        *list = (uint32_t)units;
        return;
    }
    uint32_t log = 63 - (uint32_t)__builtin_clzll(units);
    *row = log - SPLIT_SHIFT + 1;
    *list = (uint32_t)(units >> (log - SPLIT_SHIFT)) & (SPLIT - 1);
}

static mh_err load_free(const mh_heap *h, uint64_t at, block *b)
{
    TRY(load(h, at, b));
    return b->is_free ? MH_OK : CORRUPT("the block at %llu is in a list and not free", (unsigned long long)at);
}

static mh_err list_add(const mh_heap *h, head *p, uint64_t at, uint64_t size)
{
    books *k = books_of(h);
    uint32_t row, list;
    list_of(size, &row, &list);
    uint64_t next = k->first[row][list];
    block b;
    if (next) {
        TRY(load_free(h, next, &b));
        b.head->previous = at;
    }
    p->next = next;
    p->previous = 0;
    k->first[row][list] = at;
    k->lists[row] |= (uint8_t)(1u << list);
    k->rows |= UINT64_C(1) << row;
    k->free_bytes += size;
    return MH_OK;
}

static mh_err list_remove(const mh_heap *h, const block *b)
{
    books *k = books_of(h);
    uint32_t row, list;
    list_of(b->size, &row, &list);
    uint64_t next = b->head->next, previous = b->head->previous;
    block neighbour;
    if (next) {
        TRY(load_free(h, next, &neighbour));
        if (neighbour.head->previous != b->at)
            return CORRUPT("the list of free blocks is torn at %llu", (unsigned long long)b->at);
        neighbour.head->previous = previous;
    }
    if (previous) {
        TRY(load_free(h, previous, &neighbour));
        if (neighbour.head->next != b->at)
            return CORRUPT("the list of free blocks is torn at %llu", (unsigned long long)b->at);
        neighbour.head->next = next;
    } else {
        if (k->first[row][list] != b->at)
            return CORRUPT("the list of free blocks is torn at %llu", (unsigned long long)b->at);
        k->first[row][list] = next;
        if (!next) {
            k->lists[row] &= (uint8_t)~(1u << list);
            if (!k->lists[row])
                k->rows &= ~(UINT64_C(1) << row);
        }
    }
    k->free_bytes -= b->size;
    return MH_OK;
}

/* The lowest list at or above (row, from) that has a block; false when there is none. */
static bool next_list(const books *k, uint32_t *row, uint32_t from, uint32_t *list)
{
    uint32_t lists = *row < ROWS && from < SPLIT ? k->lists[*row] & (0xffu << from) : 0;
    if (!lists) {
        uint64_t rows = k->rows & ~UINT64_C(0) << *row << 1 & ((UINT64_C(1) << ROWS) - 1);
        if (!rows)
            return false;
        *row = (uint32_t)__builtin_ctzll(rows);
        lists = k->lists[*row];
        if (!lists)
            return false; /* the bitmaps disagree: nothing is found, nothing happens */
    }
    *list = (uint32_t)__builtin_ctz(lists);
    return true;
}

/* A free block of at least `size` bytes, or *b zeroed. First the freshest ones of the size's own list, then any of a higher one. */
static mh_err find(const mh_heap *h, uint64_t size, block *b)
{
    const books *k = books_of(h);
    uint32_t row, list;
    list_of(size, &row, &list);
    uint64_t at = k->first[row][list];
    for (int i = 0; at && i < PEEK; i++, at = b->head->next) {
        TRY(load_free(h, at, b));
        if (b->size >= size)
            return MH_OK;
    }
    if (next_list(k, &row, list + 1, &list)) {
        TRY(load_free(h, k->first[row][list], b));
        if (b->size >= size)
            return MH_OK;
        return CORRUPT("a block of %llu bytes is in the wrong list", (unsigned long long)b->size);
    }
    *b = (block){0};
    return MH_OK;
}

/* The size's own list may hold a fitting block behind those that `find` looks at: the last resort before "no space". */
static mh_err find_thoroughly(const mh_heap *h, uint64_t size, block *b)
{
    TRY(find(h, size, b));
    if (b->head)
        return MH_OK;
    uint32_t row, list;
    list_of(size, &row, &list);
    uint64_t most = h->size / BLOCK_MIN, at = books_of(h)->first[row][list];
    for (; at && most; most--, at = b->head->next) {
        TRY(load_free(h, at, b));
        if (b->size >= size)
            return MH_OK;
    }
    *b = (block){0};
    return at ? CORRUPT("a list of free blocks has no end") : MH_OK;
}

/* ---- repair -------------------------------------------------------------------------------------- */

static void clear_lists(const mh_heap *h)
{
    books *k = books_of(h);
    memset(k->lists, 0, sizeof k->lists);
    memset(k->first, 0, sizeof k->first);
    k->rows = 0;
    k->free_bytes = 0;
}

/* Make everything derived anew from the chain. May itself be killed anywhere, and repeated. */
static mh_err repair(const mh_heap *h)
{
    uint64_t intent = atomic_load_explicit(&books_of(h)->intent, memory_order_relaxed), before = 0;
    clear_lists(h);
    for (uint64_t at = h->begin; at < h->end;) {
        block b, behind;
        TRY(load(h, at, &b));
        if (at == intent && !b.is_free) { /* its taker was killed before it was told */
            commit(h, b.at, b.size, true);
            b.is_free = true;
        }
        while (b.is_free && at + b.size < h->end) {
            TRY(load(h, at + b.size, &behind));
            if (!behind.is_free && behind.at != intent)
                break;
            swallow(h, &b, &behind);
        }
        b.head->before = before;
        if (b.is_free)
            TRY(list_add(h, b.head, at, b.size));
        before = b.size;
        at += b.size;
    }
    set_intent(h, 0);
    return MH_OK;
}

static mh_err lock(const mh_heap *h, mh_deadline until)
{
    books *k = books_of(h);
    mh_err err = mh_mutex_lock(&k->lock, until);
    if (err != MH_ERR_OWNER_DIED)
        return err;
    err = repair(h);
    if (!err)
        err = mh_mutex_recover(&k->lock);
    if (err)
        (void)mh_mutex_unlock(&k->lock); /* not recovered: the next one is told, too */
    return err;
}

/* The error of what was done under the lock, or else that of giving it back. */
static mh_err unlock(const mh_heap *h, mh_err err)
{
    mh_err unlocked = mh_mutex_unlock(&books_of(h)->lock);
    return err ? err : unlocked;
}

/* ---- allocating and freeing ----------------------------------------------------------------------- */

/* Bytes to leave free before the block so that its content is aligned: 0, or enough for a block. */
static uint64_t gap_for(uint64_t at, uint64_t align)
{
    uint64_t gap = (align - (at + HEAD_BYTES) % align) % align;
    return gap && gap < BLOCK_MIN ? gap + align : gap;
}

/* Cut a block of `size` out of the free block b, at `gap` bytes from its start. */
static mh_err carve(const mh_heap *h, const block *b, uint64_t gap, uint64_t size, uint64_t *offset)
{
    uint64_t at = b->at + gap, rest = b->size - gap - size;
    if (rest < BLOCK_MIN) {
        size += rest;
        rest = 0;
    }
    TRY(list_remove(h, b));
    set_intent(h, at);
    head *taken = (head *)(void *)(h->base + at), *tail = (head *)(void *)(h->base + at + size);
    if (rest) {
        commit(h, at + size, rest, true); /* nobody sees it yet */
        tail->before = size;
    }
    if (gap) {
        commit(h, at, size, false); /* nor this */
        taken->before = gap;
        commit(h, b->at, gap, true); /* now both are there */
    } else {
        commit(h, at, size, false);
    }
    set_before(h, b->at + b->size, rest ? rest : size);
    if (rest)
        TRY(list_add(h, tail, at + size, rest));
    if (gap)
        TRY(list_add(h, b->head, b->at, gap));
    set_intent(h, 0);
    *offset = at + HEAD_BYTES;
    return MH_OK;
}

static mh_err no_space(const mh_heap *h, size_t size)
{
    return mh__fail(MH_ERR_NO_SPACE, "no room for %zu bytes in a heap of %llu: %llu are free, in pieces", size,
                    (unsigned long long)h->size, (unsigned long long)books_of(h)->free_bytes);
}

static mh_err take(const mh_heap *h, size_t size, size_t align, uint64_t *offset)
{
    if (size > h->size)
        return no_space(h, size);
    uint64_t need = MH__MAX(mh__round_up(size, UNIT) + HEAD_BYTES, (uint64_t)BLOCK_MIN);
    uint64_t slack = align > UNIT ? align + UNIT : 0;
    block b;
    TRY(find_thoroughly(h, need + slack, &b));
    if (!b.head)
        return no_space(h, size);
    return carve(h, &b, gap_for(b.at, align), need, offset);
}

mh_err mh_heap_alloc(mh_heap *h, size_t size, size_t align, mh_deadline until, uint64_t *offset)
{
    uint64_t at = 0;
    if (align < UNIT && align && !(align & (align - 1)))
        align = UNIT;
    if (!align || align & (align - 1) || align > MH_HEAP_ALIGN_MAX)
        return mh__fail(MH_ERR_INVALID, "alignment %zu is no power of two up to %d", align, MH_HEAP_ALIGN_MAX);
    TRY(lock(h, until));
    mh_err err = unlock(h, take(h, size, align, &at));
    if (!err)
        *offset = at;
    return err;
}

/* The block whose content is at offset, if the blocks on both sides agree that there is one. */
static mh_err load_used(const mh_heap *h, uint64_t offset, block *b)
{
    block before, behind;
    uint64_t at = offset - HEAD_BYTES;
    bool found = may_be_block(h, at) && !load(h, at, b) && !b->is_free;
    if (found) {
        uint64_t size = b->head->before;
        found = size ? size <= at - h->begin && !load(h, at - size, &before) && before.size == size : at == h->begin;
    }
    if (found && at + b->size < h->end)
        found = !load(h, at + b->size, &behind) && behind.head->before == b->size;
    return found ? MH_OK
                 : mh__fail(MH_ERR_INVALID, "no block is at offset %llu of the heap", (unsigned long long)offset);
}

static mh_err give(const mh_heap *h, uint64_t offset)
{
    block b, other;
    TRY(load_used(h, offset, &b));
    commit(h, b.at, b.size, true); /* free; the rest is tidying */
    if (b.at + b.size < h->end) {
        TRY(load(h, b.at + b.size, &other));
        if (other.is_free) {
            TRY(list_remove(h, &other));
            swallow(h, &b, &other);
        }
    }
    uint64_t before = b.head->before;
    if (before && before <= b.at - h->begin) {
        TRY(load(h, b.at - before, &other));
        if (other.is_free && other.size == before) {
            TRY(list_remove(h, &other));
            swallow(h, &other, &b);
            b = other;
        }
    }
    set_before(h, b.at + b.size, b.size);
    return list_add(h, b.head, b.at, b.size);
}

mh_err mh_heap_free(mh_heap *h, uint64_t offset, mh_deadline until)
{
    TRY(lock(h, until));
    return unlock(h, give(h, offset));
}

/* ---- questions ------------------------------------------------------------------------------------ */

void *mh_heap_at(const mh_heap *h, uint64_t offset)
{
    return offset >= h->begin + HEAD_BYTES && offset < h->end ? h->base + offset : NULL;
}

uint64_t mh_heap_offset(const mh_heap *h, const void *address)
{
    uint64_t offset = (uint64_t)((uintptr_t)address - (uintptr_t)h->base);
    return mh_heap_at(h, offset) ? offset : 0;
}

size_t mh_heap_usable(const mh_heap *h, uint64_t offset)
{
    block b;
    uint64_t at = offset - HEAD_BYTES;
    return may_be_block(h, at) && !load(h, at, &b) && !b.is_free ? (size_t)b.size - HEAD_BYTES : 0;
}

/* The largest is in the highest list that has any. */
static mh_err find_largest(const mh_heap *h, uint64_t *largest)
{
    const books *k = books_of(h);
    uint64_t rows = k->rows & ((UINT64_C(1) << ROWS) - 1), most = h->size / BLOCK_MIN;
    uint32_t row = rows ? 63 - (uint32_t)__builtin_clzll(rows) : 0;
    uint32_t lists = k->lists[row];
    uint64_t at = lists ? k->first[row][31 - __builtin_clz(lists)] : 0;
    block b;
    *largest = HEAD_BYTES;
    for (; at && most; most--, at = b.head->next) {
        TRY(load_free(h, at, &b));
        *largest = MH__MAX(*largest, b.size);
    }
    return at ? CORRUPT("a list of free blocks has no end") : MH_OK;
}

mh_err mh_heap_room(mh_heap *h, mh_deadline until, size_t *free_bytes, size_t *largest)
{
    uint64_t size = 0;
    TRY(lock(h, until));
    uint64_t bytes = books_of(h)->free_bytes;
    TRY(unlock(h, find_largest(h, &size)));
    *free_bytes = (size_t)bytes;
    *largest = (size_t)size - HEAD_BYTES;
    return MH_OK;
}

static mh_err check_lists(const mh_heap *h, uint64_t free_count)
{
    const books *k = books_of(h);
    uint64_t seen = 0;
    for (uint32_t row = 0; row < ROWS; row++)
        for (uint32_t list = 0; list < SPLIT; list++) {
            uint64_t previous = 0;
            block b = {0};
            for (uint64_t at = k->first[row][list]; at; previous = at, at = b.head->next) {
                uint32_t its_row, its_list;
                TRY(load_free(h, at, &b));
                list_of(b.size, &its_row, &its_list);
                if (its_row != row || its_list != list || b.head->previous != previous || ++seen > free_count)
                    return CORRUPT("the free block at %llu is in the wrong place", (unsigned long long)at);
            }
            bool said = k->lists[row] >> list & 1 && k->rows >> row & 1;
            if (said != (k->first[row][list] != 0))
                return CORRUPT("the bitmap of free blocks is wrong");
        }
    return seen == free_count ? MH_OK : CORRUPT("%llu free blocks are in no list", (unsigned long long)(free_count - seen));
}

static mh_err check(const mh_heap *h)
{
    uint64_t before = 0, free_count = 0, free_bytes = 0;
    bool free_before = false;
    block b;
    for (uint64_t at = h->begin; at < h->end; at += b.size) {
        TRY(load(h, at, &b));
        if (b.head->before != before || (b.is_free && free_before))
            return CORRUPT("the block at %llu does not fit the one before it", (unsigned long long)at);
        free_count += b.is_free;
        free_bytes += b.is_free ? b.size : 0;
        before = b.size;
        free_before = b.is_free;
    }
    if (free_bytes != books_of(h)->free_bytes)
        return CORRUPT("the count of free bytes is wrong");
    return check_lists(h, free_count);
}

mh_err mh_heap_check(mh_heap *h, mh_deadline until)
{
    TRY(lock(h, until));
    return unlock(h, check(h));
}

/* ---- life ------------------------------------------------------------------------------------------ */

static mh_err wrap(mh_heap **out, void *memory, size_t size)
{
    mh_heap *h = mh__alloc(sizeof *h);
    if (!h)
        return MH_ERR_NO_MEMORY;
    uint64_t begin = mh__round_up(sizeof(books), MH__CACHE_LINE);
    *h = (mh_heap){memory, size, begin, size / UNIT * UNIT, ((const books *)memory)->secret};
    *out = h;
    return MH_OK;
}

static mh_err check_memory(const void *memory, size_t size)
{
    if (!memory || (uintptr_t)memory % MH__CACHE_LINE)
        return mh__fail(MH_ERR_INVALID, "a heap must begin at a multiple of %d bytes", MH__CACHE_LINE);
    if (size < SIZE_MIN || size >= UINT64_C(1) << 48)
        return mh__fail(MH_ERR_INVALID, "a heap of %zu bytes; at least %d", size, SIZE_MIN);
    return MH_OK;
}

mh_err mh_heap_create(mh_heap **out, void *memory, size_t size)
{
    *out = NULL;
    TRY(check_memory(memory, size));
    TRY(wrap(out, memory, size));
    mh_heap *h = *out;
    books *k = memory;
    memset(k, 0, sizeof *k);
    k->version = VERSION;
    k->size = size;
    mh_err err = mh_mutex_init(&k->lock, 0);
    if (!err)
        err = mh__os_random(&k->secret, sizeof k->secret);
    h->secret = k->secret;
    commit(h, h->begin, h->end - h->begin, true);
    if (!err)
        err = repair(h);
    if (err)
        mh_heap_destroy(out);
    else
        atomic_store_explicit(&k->magic, MAGIC, memory_order_release);
    return err;
}

mh_err mh_heap_attach(mh_heap **out, void *memory, size_t size)
{
    *out = NULL;
    TRY(check_memory(memory, size));
    books *k = memory;
    uint64_t said = k->size;
    if (atomic_load_explicit(&k->magic, memory_order_acquire) != MAGIC || k->version != VERSION)
        return CORRUPT("there is none, or one of another version");
    if (said < SIZE_MIN || said > size)
        return CORRUPT("it has %llu bytes where %zu are mapped", (unsigned long long)said, size);
    return wrap(out, memory, (size_t)said);
}

void mh_heap_destroy(mh_heap **heap)
{
    mh__free(*heap);
    *heap = NULL;
}
