/* The books of a single-owner arena.
 *
 * Everything is counted in pages of 4 KiB. A *span* is a run of pages in one of four states: bare (no memory behind it),
 * free (memory behind it, kept for reuse), large (one block), or slab (up to 64 small blocks of one size class and a word of
 * free bits). The table `page_span` tells which span a page belongs to; only the pages that somebody may look up are kept up to date in it (the first
 * and last page of a free run, the first of a large block, all of a slab), so whatever it says is checked against the span itself.
 * Bare and free spans wait in two indexes by size: lists of similar sizes under a two-level bitmap, so
 * that finding, adding and removing take constant time. Neighbours of the same kind are always merged. */
#include "shm/arena.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"
#include "os/memory.h"

#include <string.h>

enum {
    PAGE_SHIFT = 12,
    CLASS_COUNT = 24,
    SLAB_PAGES_MAX = 32,  /* 128 KiB */
    BIN_SPLIT_SHIFT = 4,  /* 16 lists for each power of two */
    BIN_SPLIT = 1 << BIN_SPLIT_SHIFT,
    BIN_ROWS = 33 - BIN_SPLIT_SHIFT,
    PEEK = 4,             /* how many spans of the request's own list may be tried, freshest first */
    FIRST_PAGES = 8,      /* what is taken from the system at first: many pools live for one small task */
    GROW_PAGES = 256,     /* later as much again as there is, up to 1 MiB at least */
    KEEP_PAGES = 16384,   /* 64 MiB of free pages are never too many */
    SPARE_SPANS = 4,      /* the most records that one operation makes */
};
#define PAGE_BYTES ((size_t)1 << PAGE_SHIFT)
#define AGE_NS MH_SECOND /* how fast yesterday's peak is forgotten */

typedef enum span_state {
    UNUSED = 0, /* the record, not the pages */
    BARE,
    FREE,
    LARGE,
    SLAB
} span_state;

typedef struct span {
    uint64_t free_bits; /* SLAB: a bit for each block that may be handed out */
    uint32_t start, pages;
    uint32_t next, previous; /* in a bin, a class's list of slabs with room, or the list of unused records (next) */
    uint8_t state, class;
} span;

typedef struct size_class {
    uint32_t size, slab_pages, count;
    uint32_t inverse; /* ceil(2^32 / size): offset in slab times this, shifted, is the block's number */
} size_class;

typedef struct size_index {
    uint32_t rows;
    uint16_t lists[BIN_ROWS];
    uint32_t head[BIN_ROWS][BIN_SPLIT];
} size_index;

struct mh__arena {
    char *base;
    int fd;
    size_t page_count;
    span *spans; /* [0] is nobody */
    uint32_t span_capacity, span_count, unused_span;
    uint32_t *page_span;
    size_t page_span_count; /* pages beyond have never had memory */
    uint32_t partial[CLASS_COUNT];
    size_t used_bytes;
    size_t backed_pages, free_pages; /* pages with memory behind them; those of them in no block and no slab */
    size_t peak_pages;               /* most pages in blocks and slabs lately */
    int64_t aged_ns;
    size_index bare, free;
};

static size_class classes[CLASS_COUNT];
static uint8_t class_of_lines[MH__ARENA_SMALL_MAX / MH__ARENA_ALIGN + 1];

/* 64 to 512 in steps of 64, then four sizes for each power of two up to 8192. */
__attribute__((constructor)) static void make_classes(void)
{
    uint32_t size = 64;
    for (uint32_t i = 0, line = 0; i < CLASS_COUNT; i++) {
        uint32_t pages = MH__MIN(size / 64, (uint32_t)SLAB_PAGES_MAX);
        classes[i] = (size_class){.size = size,
                                  .slab_pages = pages,
                                  .count = (pages << PAGE_SHIFT) / size,
                                  .inverse = (uint32_t)((UINT64_C(0xffffffff) + size) / size)};
        for (; line * MH__ARENA_ALIGN <= size; line++)
            class_of_lines[line] = (uint8_t)i;
        size += size < 512 ? 64 : (UINT32_C(1) << (31 - __builtin_clz(size))) / 4;
    }
}

/* ---- the index of spans by size ---------------------------------------------------------------- */

static void bin_of(uint64_t pages, uint32_t *row, uint32_t *list)
{
    if (pages < BIN_SPLIT) {
        *row = 0;
        *list = (uint32_t)pages;
        return;
    }
    uint32_t log = 63 - (uint32_t)__builtin_clzll(pages);
    *row = log - BIN_SPLIT_SHIFT + 1;
    *list = (uint32_t)(pages >> (log - BIN_SPLIT_SHIFT)) & (BIN_SPLIT - 1);
}

static size_index *index_of(mh__arena *a, span_state state) { return state == BARE ? &a->bare : &a->free; }

static void index_add(mh__arena *a, uint32_t id)
{
    span *s = &a->spans[id];
    size_index *x = index_of(a, s->state);
    uint32_t row, list;
    bin_of(s->pages, &row, &list);
    s->previous = 0;
    s->next = x->head[row][list];
    if (s->next)
        a->spans[s->next].previous = id;
    x->head[row][list] = id;
    x->lists[row] |= (uint16_t)(1u << list);
    x->rows |= 1u << row;
    if (s->state == FREE)
        a->free_pages += s->pages;
}

static void index_remove(mh__arena *a, uint32_t id)
{
    span *s = &a->spans[id];
    size_index *x = index_of(a, s->state);
    if (s->next)
        a->spans[s->next].previous = s->previous;
    if (s->previous) {
        a->spans[s->previous].next = s->next;
    } else {
        uint32_t row, list;
        bin_of(s->pages, &row, &list);
        x->head[row][list] = s->next;
        if (!s->next) {
            x->lists[row] &= (uint16_t)~(1u << list);
            if (!x->lists[row])
                x->rows &= ~(1u << row);
        }
    }
    if (s->state == FREE)
        a->free_pages -= s->pages;
}

/* A span of at least `pages`: first the freshest of its own list (a block of the same size that was just freed), then the
 * smallest list all of whose spans are large enough. */
static uint32_t index_find(const mh__arena *a, const size_index *x, size_t pages)
{
    uint32_t row, list;
    bin_of(pages, &row, &list);
    uint32_t id = x->head[row][list];
    for (int i = 0; id && i < PEEK; i++, id = a->spans[id].next)
        if (a->spans[id].pages >= pages)
            return id;
    uint32_t lists = x->lists[row] & (uint32_t)(UINT32_C(0xffff) << list << 1);
    if (!lists) {
        uint32_t rows = x->rows & (uint32_t)(UINT64_C(0xffffffff) << row << 1);
        if (!rows)
            return 0;
        row = (uint32_t)__builtin_ctz(rows);
        lists = x->lists[row];
    }
    return x->head[row][__builtin_ctz(lists)];
}

/* ---- records and the page table ---------------------------------------------------------------- */

/* Make sure that `count` records can be taken without allocating. */
static mh_err reserve_spans(mh__arena *a, uint32_t count)
{
    uint32_t in_list = 0;
    for (uint32_t id = a->unused_span; id && in_list < count; id = a->spans[id].next)
        in_list++;
    if (in_list + (a->span_capacity - a->span_count) >= count)
        return MH_OK;
    uint32_t capacity = a->span_capacity + a->span_capacity / 2 + count;
    span *grown = mh__realloc(a->spans, capacity * sizeof(span));
    if (!grown)
        return MH_ERR_NO_MEMORY;
    a->spans = grown;
    a->span_capacity = capacity;
    return MH_OK;
}

static uint32_t take_record(mh__arena *a, span_state state, size_t start, size_t pages)
{
    uint32_t id = a->unused_span;
    if (id)
        a->unused_span = a->spans[id].next;
    else
        id = a->span_count++;
    a->spans[id] = (span){.start = (uint32_t)start, .pages = (uint32_t)pages, .state = (uint8_t)state};
    return id;
}

static void drop_record(mh__arena *a, uint32_t id)
{
    a->spans[id] = (span){.state = UNUSED, .next = a->unused_span};
    a->unused_span = id;
}

static mh_err cover_pages(mh__arena *a, size_t end)
{
    if (end > a->page_count)
        end = a->page_count;
    if (end <= a->page_span_count)
        return MH_OK;
    size_t count = MH__MIN(MH__MAX(end, a->page_span_count + a->page_span_count / 2), a->page_count);
    uint32_t *grown = mh__realloc(a->page_span, count * sizeof *grown);
    if (!grown)
        return MH_ERR_NO_MEMORY;
    memset(grown + a->page_span_count, 0, (count - a->page_span_count) * sizeof *grown);
    a->page_span = grown;
    a->page_span_count = count;
    return MH_OK;
}

/* The span at a page, unchecked; 0 where there never was one. */
static uint32_t look(const mh__arena *a, size_t page) { return page < a->page_span_count ? a->page_span[page] : 0; }

/* The last span reaches beyond the table; nobody looks up its end, for nothing lies behind it. */
static void tag(mh__arena *a, size_t page, uint32_t id)
{
    if (page < a->page_span_count)
        a->page_span[page] = id;
}

static void tag_ends(mh__arena *a, uint32_t id)
{
    tag(a, a->spans[id].start, id);
    tag(a, (size_t)a->spans[id].start + a->spans[id].pages - 1, id);
}

static uint32_t span_ending_at(const mh__arena *a, size_t end, span_state state)
{
    uint32_t id = end ? look(a, end - 1) : 0;
    const span *s = &a->spans[id];
    return id && s->state == state && (size_t)s->start + s->pages == end ? id : 0;
}

static uint32_t span_starting_at(const mh__arena *a, size_t start, span_state state)
{
    uint32_t id = look(a, start);
    const span *s = &a->spans[id];
    return id && s->state == state && s->start == start ? id : 0;
}

/* Put a span that is in no index into its state's one, merged with its neighbours there. Returns the merged span. */
static uint32_t add_merged(mh__arena *a, uint32_t id, span_state state)
{
    a->spans[id].state = (uint8_t)state;
    uint32_t before = span_ending_at(a, a->spans[id].start, state);
    if (before) {
        index_remove(a, before);
        a->spans[before].pages += a->spans[id].pages;
        drop_record(a, id);
        id = before;
    }
    uint32_t after = span_starting_at(a, (size_t)a->spans[id].start + a->spans[id].pages, state);
    if (after) {
        index_remove(a, after);
        a->spans[id].pages += a->spans[after].pages;
        drop_record(a, after);
    }
    tag_ends(a, id);
    index_add(a, id);
    return id;
}

/* Cut a span that is in no index to `pages`; the rest becomes a span of `state`. A record was reserved. */
static void cut(mh__arena *a, uint32_t id, size_t pages, span_state state)
{
    span *s = &a->spans[id];
    if (s->pages == pages)
        return;
    uint32_t rest = take_record(a, state, s->start + pages, s->pages - pages);
    a->spans[id].pages = (uint32_t)pages;
    add_merged(a, rest, state);
}

/* ---- pages from and to the system -------------------------------------------------------------- */

/* Give pages of a free span back: its last `pages` when a record is there for the rest, else all of it. */
static void release_span(mh__arena *a, uint32_t id, size_t pages)
{
    index_remove(a, id);
    if (pages < a->spans[id].pages && !reserve_spans(a, 1)) {
        size_t kept = a->spans[id].pages - pages;
        uint32_t tail = take_record(a, FREE, a->spans[id].start + kept, pages);
        a->spans[id].pages = (uint32_t)kept;
        tag_ends(a, id);
        index_add(a, id);
        id = tail;
    }
    span s = a->spans[id];
    mh__os_release_range(a->fd, (size_t)s.start << PAGE_SHIFT, (size_t)s.pages << PAGE_SHIFT);
    a->backed_pages -= s.pages;
    add_merged(a, id, BARE);
}

/* Give free pages back, largest spans first, until at most `keep` are left. */
static void shrink(mh__arena *a, size_t keep)
{
    while (a->free_pages > keep) {
        uint32_t row = 31 - (uint32_t)__builtin_clz(a->free.rows);
        uint32_t list = 31 - (uint32_t)__builtin_clz(a->free.lists[row]);
        release_span(a, a->free.head[row][list], a->free_pages - keep);
    }
}

/* As many free pages are kept as were in use lately: the peak fades by half each second. */
static void bound_free_pages(mh__arena *a)
{
    size_t keep = MH__MAX(a->peak_pages, (size_t)KEEP_PAGES);
    if (a->free_pages <= KEEP_PAGES)
        return;
    int64_t now = mh_now();
    if (now - a->aged_ns > AGE_NS) {
        a->aged_ns = now;
        a->peak_pages = MH__MAX(a->peak_pages / 2, a->backed_pages - a->free_pages);
        keep = MH__MAX(a->peak_pages, (size_t)KEEP_PAGES);
    }
    shrink(a, keep);
}

static mh_err back(mh__arena *a, size_t start, size_t pages)
{
    mh_err err = mh__os_allocate_range(a->fd, start << PAGE_SHIFT, pages << PAGE_SHIFT);
    if (err == MH_ERR_NO_SPACE && a->free_pages) {
        shrink(a, 0); /* what we kept for later may be what is missing now */
        err = mh__os_allocate_range(a->fd, start << PAGE_SHIFT, pages << PAGE_SHIFT);
    }
    if (err)
        return err;
    /* mapping the pages in one call is a fifth cheaper than faulting on each when the owner writes */
    mh__os_populate(a->base + (start << PAGE_SHIFT), pages << PAGE_SHIFT);
    a->backed_pages += pages;
    return MH_OK;
}

static mh_err no_room(const mh__arena *a, size_t pages)
{
    return mh__fail(MH_ERR_NO_SPACE, "no room for %zu bytes in an arena of %zu bytes: %zu bytes are used",
                    pages << PAGE_SHIFT, a->page_count << PAGE_SHIFT, a->used_bytes);
}

/* Make a free span of at least `pages` from bare ones. */
static mh_err grow(mh__arena *a, size_t pages, uint32_t *id)
{
    size_t again = MH__MIN(MH__MAX(a->backed_pages, (size_t)FIRST_PAGES), (size_t)GROW_PAGES), want = MH__MAX(pages, again);
    uint32_t from = index_find(a, &a->bare, want);
    if (!from) {
        want = pages;
        from = index_find(a, &a->bare, want);
    }
    if (!from && a->free_pages) {
        shrink(a, 0); /* bare and free runs do not merge with each other: make all of them bare */
        from = index_find(a, &a->bare, want);
    }
    if (!from)
        return no_room(a, pages);
    size_t start = a->spans[from].start;
    mh_err err = cover_pages(a, start + want + 1);
    if (!err)
        err = reserve_spans(a, SPARE_SPANS);
    if (err)
        return err;
    index_remove(a, from);
    a->spans[from].state = LARGE; /* nothing merges with it while `back` may be releasing others */
    cut(a, from, want, BARE);
    err = back(a, start, want);
    *id = add_merged(a, from, err ? BARE : FREE);
    return err;
}

static void note_peak(mh__arena *a)
{
    size_t taken = a->backed_pages - a->free_pages;
    if (taken > a->peak_pages)
        a->peak_pages = taken;
}

/* A span of exactly `pages` in no index, with memory behind it. */
static mh_err take_pages(mh__arena *a, size_t pages, span_state state, uint32_t *out)
{
    mh_err err = reserve_spans(a, SPARE_SPANS);
    if (err)
        return err;
    uint32_t id = index_find(a, &a->free, pages);
    if (!id) {
        err = grow(a, pages, &id);
        if (err)
            return err;
    }
    index_remove(a, id);
    a->spans[id].state = (uint8_t)state; /* before cutting, so that the rest does not merge with it again */
    cut(a, id, pages, FREE);
    tag(a, a->spans[id].start, id);
    note_peak(a);
    *out = id;
    return MH_OK;
}

static void give_pages(mh__arena *a, uint32_t id)
{
    add_merged(a, id, FREE);
    bound_free_pages(a);
}

/* ---- blocks ------------------------------------------------------------------------------------ */

static void partial_add(mh__arena *a, uint32_t id)
{
    span *s = &a->spans[id];
    s->previous = 0;
    s->next = a->partial[s->class];
    if (s->next)
        a->spans[s->next].previous = id;
    a->partial[s->class] = id;
}

static void partial_remove(mh__arena *a, uint32_t id)
{
    span *s = &a->spans[id];
    if (s->next)
        a->spans[s->next].previous = s->previous;
    if (s->previous)
        a->spans[s->previous].next = s->next;
    else
        a->partial[s->class] = s->next;
}

static uint64_t all_free(const size_class *c) { return c->count == 64 ? UINT64_MAX : (UINT64_C(1) << c->count) - 1; }

static mh_err add_slab(mh__arena *a, uint8_t class)
{
    uint32_t id;
    mh_err err = take_pages(a, classes[class].slab_pages, SLAB, &id);
    if (err)
        return err;
    span *s = &a->spans[id];
    s->class = class;
    s->free_bits = all_free(&classes[class]);
    for (uint32_t i = 0; i < s->pages; i++)
        a->page_span[s->start + i] = id;
    partial_add(a, id);
    return MH_OK;
}

static mh_err alloc_small(mh__arena *a, size_t size, uint64_t *offset)
{
    uint8_t class = class_of_lines[(size + MH__ARENA_ALIGN - 1) / MH__ARENA_ALIGN];
    if (!a->partial[class]) {
        mh_err err = add_slab(a, class);
        if (err)
            return err;
    }
    uint32_t id = a->partial[class];
    span *s = &a->spans[id];
    uint32_t number = (uint32_t)__builtin_ctzll(s->free_bits);
    s->free_bits &= s->free_bits - 1;
    if (!s->free_bits)
        partial_remove(a, id);
    a->used_bytes += classes[class].size;
    *offset = ((uint64_t)s->start << PAGE_SHIFT) + number * classes[class].size;
    return MH_OK;
}

static void free_small(mh__arena *a, uint32_t id, uint32_t number)
{
    span *s = &a->spans[id];
    const size_class *c = &classes[s->class];
    a->used_bytes -= c->size;
    if (!s->free_bits)
        partial_add(a, id);
    s->free_bits |= UINT64_C(1) << number;
    /* the last slab with room stays, so that one block allocated and freed in turn costs no slab each time */
    if (s->free_bits == all_free(c) && (s->next || s->previous)) {
        partial_remove(a, id);
        give_pages(a, id);
    }
}

/* The span whose block starts at offset, or 0. For a slab *number is the block's. */
static uint32_t find_block(const mh__arena *a, uint64_t offset, uint32_t *number)
{
    uint64_t page = offset >> PAGE_SHIFT;
    if (page >= a->page_span_count)
        return 0;
    uint32_t id = a->page_span[page];
    const span *s = &a->spans[id];
    *number = 0;
    if (s->state == LARGE)
        return offset == (uint64_t)s->start << PAGE_SHIFT ? id : 0;
    if (s->state != SLAB || page < s->start || page - s->start >= s->pages)
        return 0;
    const size_class *c = &classes[s->class];
    uint64_t within = offset - ((uint64_t)s->start << PAGE_SHIFT);
    *number = (uint32_t)(within * c->inverse >> 32);
    if (*number >= c->count || *number * (uint64_t)c->size != within || s->free_bits >> *number & 1)
        return 0;
    return id;
}

static mh_err no_block(uint64_t offset)
{
    return mh__fail(MH_ERR_INVALID, "no block starts at offset %llu of this arena", (unsigned long long)offset);
}

static size_t pages_for(size_t size) { return size ? ((size - 1) >> PAGE_SHIFT) + 1 : 1; }

mh_err mh__arena_alloc(mh__arena *a, size_t size, uint64_t *offset)
{
    if (size <= MH__ARENA_SMALL_MAX)
        return alloc_small(a, size ? size : 1, offset);
    if (size > mh__arena_capacity(a))
        return mh__fail(MH_ERR_TOO_LARGE, "a block of %zu bytes in an arena of %zu bytes", size,
                        mh__arena_capacity(a));
    uint32_t id;
    mh_err err = take_pages(a, pages_for(size), LARGE, &id);
    if (err)
        return err;
    a->used_bytes += (size_t)a->spans[id].pages << PAGE_SHIFT;
    *offset = (uint64_t)a->spans[id].start << PAGE_SHIFT;
    return MH_OK;
}

mh_err mh__arena_free(mh__arena *a, uint64_t offset)
{
    uint32_t number, id = find_block(a, offset, &number);
    if (!id)
        return no_block(offset);
    if (a->spans[id].state == SLAB) {
        free_small(a, id, number);
        return MH_OK;
    }
    a->used_bytes -= (size_t)a->spans[id].pages << PAGE_SHIFT;
    give_pages(a, id);
    return MH_OK;
}

size_t mh__arena_usable(const mh__arena *a, uint64_t offset)
{
    uint32_t number, id = find_block(a, offset, &number);
    const span *s = &a->spans[id];
    if (!id)
        return 0;
    return s->state == SLAB ? classes[s->class].size : (size_t)s->pages << PAGE_SHIFT;
}

/* Whether free and bare spans follow directly behind the block up to `pages` pages from its start. */
static bool has_room_behind(const mh__arena *a, uint32_t id, size_t pages)
{
    size_t end = (size_t)a->spans[id].start + a->spans[id].pages, wanted = a->spans[id].start + pages;
    while (end < wanted) {
        uint32_t next = span_starting_at(a, end, FREE);
        if (!next)
            next = span_starting_at(a, end, BARE);
        if (!next)
            return false;
        end += a->spans[next].pages;
    }
    return true;
}

/* Add the beginning of the span behind the block to it: at most up to `pages`. */
static mh_err absorb(mh__arena *a, uint32_t id, size_t pages)
{
    size_t end = (size_t)a->spans[id].start + a->spans[id].pages;
    mh_err err = reserve_spans(a, SPARE_SPANS);
    if (!err)
        err = cover_pages(a, a->spans[id].start + pages + 1);
    if (err)
        return err;
    uint32_t next = span_starting_at(a, end, FREE);
    span_state state = next ? FREE : BARE;
    if (!next)
        next = span_starting_at(a, end, BARE);
    index_remove(a, next);
    a->spans[next].state = LARGE;
    cut(a, next, MH__MIN((size_t)a->spans[next].pages, pages - a->spans[id].pages), state);
    if (state == BARE)
        err = back(a, end, a->spans[next].pages);
    if (err) {
        add_merged(a, next, BARE);
        return err;
    }
    a->spans[id].pages += a->spans[next].pages;
    drop_record(a, next);
    return MH_OK;
}

static mh_err grow_block(mh__arena *a, uint32_t id, size_t pages)
{
    size_t before = a->spans[id].pages;
    mh_err err = MH_OK;
    if (!has_room_behind(a, id, pages))
        return MH_ERR_FULL; /* without a detail: it is the usual answer, and the caller knows what to do */
    while (!err && a->spans[id].pages < pages)
        err = absorb(a, id, pages);
    if (err && a->spans[id].pages > before && !reserve_spans(a, 1))
        cut(a, id, before, FREE);
    a->used_bytes += (a->spans[id].pages - before) << PAGE_SHIFT;
    note_peak(a);
    return err;
}

mh_err mh__arena_resize(mh__arena *a, uint64_t offset, size_t size)
{
    uint32_t number, id = find_block(a, offset, &number);
    if (!id)
        return no_block(offset);
    if (a->spans[id].state == SLAB)
        return size <= classes[a->spans[id].class].size ? MH_OK : MH_ERR_FULL;
    size_t pages = pages_for(size), before = a->spans[id].pages;
    if (pages > a->page_count)
        return MH_ERR_FULL;
    if (pages > before)
        return grow_block(a, id, pages);
    if (pages < before && !reserve_spans(a, 1)) { /* without a record for the rest it simply keeps it */
        a->used_bytes -= (before - pages) << PAGE_SHIFT;
        cut(a, id, pages, FREE);
        bound_free_pages(a);
    }
    return MH_OK;
}

void mh__arena_trim(mh__arena *a, size_t keep_bytes)
{
    a->peak_pages = a->backed_pages - a->free_pages;
    shrink(a, keep_bytes >> PAGE_SHIFT);
}

/* ---- life -------------------------------------------------------------------------------------- */

/* Where the address space is limited the arena takes at most a quarter of it. */
static size_t choose_pages(size_t max_bytes)
{
    size_t limit = mh__os_address_limit();
    size_t bytes = limit ? MH__MIN(max_bytes, limit / 4) : max_bytes;
    size_t pages = bytes >> PAGE_SHIFT;
    return MH__MIN(MH__MAX(pages, (size_t)2 * SLAB_PAGES_MAX), (size_t)UINT32_MAX - 1);
}

static mh_err start_books(mh__arena *a)
{
    mh_err err = reserve_spans(a, 64);
    if (!err)
        err = cover_pages(a, GROW_PAGES + 2);
    if (err)
        return err;
    a->span_count = 1;
    a->spans[0] = (span){.state = UNUSED};
    add_merged(a, take_record(a, BARE, 1, a->page_count - 1), BARE); /* page 0 is never handed out */
    return MH_OK;
}

mh_err mh__arena_create(mh__arena **out, size_t max_bytes, const char *label)
{
    *out = NULL;
    if (!max_bytes)
        return mh__fail(MH_ERR_INVALID, "an arena of 0 bytes");
    mh__arena *a = mh__calloc(1, sizeof *a);
    if (!a)
        return MH_ERR_NO_MEMORY;
    void *base = NULL;
    a->page_count = choose_pages(max_bytes);
    mh_err err = mh__os_memfd_sparse(&a->fd, label, mh__arena_capacity(a));
    if (!err)
        err = mh__os_map(&base, a->fd, 0, mh__arena_capacity(a), true);
    a->base = base;
    if (!err)
        err = start_books(a);
    if (err)
        mh__arena_destroy(&a);
    *out = a;
    return err;
}

void mh__arena_destroy(mh__arena **arena)
{
    mh__arena *a = *arena;
    if (!a)
        return;
    mh__os_unmap(a->base, mh__arena_capacity(a));
    mh__os_close(&a->fd);
    mh__free(a->page_span);
    mh__free(a->spans);
    mh__free(a);
    *arena = NULL;
}

int mh__arena_fd(const mh__arena *a) { return a->fd; }
void *mh__arena_base(const mh__arena *a) { return a->base; }
size_t mh__arena_capacity(const mh__arena *a) { return a->page_count << PAGE_SHIFT; }
size_t mh__arena_used_bytes(const mh__arena *a) { return a->used_bytes; }
size_t mh__arena_page_bytes(const mh__arena *a) { return a->backed_pages << PAGE_SHIFT; }

/* ---- soundness, for tests ---------------------------------------------------------------------- */

typedef struct sums {
    size_t pages, backed, free, used;
} sums;

static bool check_span(const mh__arena *a, uint32_t id, span_state before, sums *sum)
{
    const span *s = &a->spans[id];
    size_t bytes = (size_t)s->pages << PAGE_SHIFT;
    if (!s->pages || s->start != sum->pages || (s->state == before && (before == BARE || before == FREE)))
        return false;
    sum->pages += s->pages;
    if (s->state != BARE)
        sum->backed += s->pages;
    if (s->state == FREE)
        sum->free += s->pages;
    if (s->state == LARGE)
        sum->used += bytes;
    if (s->state == SLAB)
        sum->used += (classes[s->class].count - (size_t)__builtin_popcountll(s->free_bits)) * classes[s->class].size;
    return s->state != UNUSED;
}

bool mh__arena_is_sound(const mh__arena *a)
{
    sums sum = {.pages = 1};
    span_state before = UNUSED;
    while (sum.pages < a->page_count) {
        uint32_t id = look(a, sum.pages);
        if (!id || !check_span(a, id, before, &sum))
            return false;
        before = a->spans[id].state;
    }
    return sum.pages == a->page_count && sum.backed == a->backed_pages && sum.free == a->free_pages &&
           sum.used == a->used_bytes;
}

/* ---- views ------------------------------------------------------------------------------------- */

mh_err mh__arena_view_open(mh__arena_view *view, int fd, bool writable)
{
    size_t size = 0;
    void *base = NULL;
    *view = (mh__arena_view){0};
    mh_err err = mh__os_fd_sealed(fd, &size);
    if (!err && size == 0)
        err = mh__fail(MH_ERR_INVALID, "descriptor %d holds an empty segment", fd);
    if (!err)
        err = mh__os_map(&base, fd, 0, size, writable);
    if (!err)
        *view = (mh__arena_view){base, size};
    return err;
}

void mh__arena_view_close(mh__arena_view *view)
{
    mh__os_unmap(view->base, view->size);
    *view = (mh__arena_view){0};
}

mh__arena_view mh__arena_view_of(const mh__arena *a) { return (mh__arena_view){a->base, mh__arena_capacity(a)}; }
