/* A shared arena with one owner: everybody maps it, ONE process allocates in it, and its books are in that process's
 * private memory. A peer that is hostile or dies halfway can spoil the bytes of blocks that it was given, never the books.
 *
 *     mh__arena *arena = NULL;
 *     uint64_t at;
 *     mh_err err = mh__arena_create(&arena, (size_t)1 << 30, "requests");
 *     if (!err) err = mh__arena_alloc(arena, size, &at);          // the owner
 *     if (!err) memcpy(mh__arena_at(arena, at), bytes, size);
 *
 *     mh__arena_view view;
 *     if (!err) err = mh__arena_view_open(&view, fd, true);        // a peer, with the descriptor passed to it
 *     void *block = mh__arena_view_at(&view, at, size);            // NULL when the numbers are nonsense
 *
 * The arena is a sparse sealed memfd: `max_bytes` of addresses, pages only where something was handed out. A block's pages
 * exist before its offset is known to anybody, so touching it never raises SIGBUS. Freed pages are kept for reuse, as many as were in use
 * lately, and given back to the system beyond that and by mh__arena_trim.
 *
 * threads: none of the owner's functions may run at the same time on one arena; the caller's lock guards it. Views are plain values.
 * fork:    a child inherits the mapping and may use mh__arena_view_of and mh__arena_destroy (which gives up its mapping
 *          and descriptor only); it must not allocate.
 */
#ifndef MH_SHM_ARENA_H
#define MH_SHM_ARENA_H

#include "manyhands/base.h"

typedef struct mh__arena mh__arena;

/* Blocks are aligned to this; blocks of more than MH__ARENA_SMALL_MAX bytes to pages. Offset 0 is never handed out. */
#define MH__ARENA_ALIGN 64
#define MH__ARENA_SMALL_MAX 8192

/* An arena that may grow to max_bytes (less where RLIMIT_AS forbids such a mapping: see mh__arena_capacity).
 * errors: INVALID; NO_MEMORY; SYSTEM. owns: the caller. */
MH_NODISCARD mh_err mh__arena_create(mh__arena **out, size_t max_bytes, const char *label);
/* Unmap, close and free; what peers have mapped stays valid for them. Accepts NULL. */
void mh__arena_destroy(mh__arena **arena);

/* The memfd to pass to peers (borrowed), the mapping, and the bytes of addresses that it has. */
int mh__arena_fd(const mh__arena *arena);
void *mh__arena_base(const mh__arena *arena);
size_t mh__arena_capacity(const mh__arena *arena);
/* The owner's address of an offset that it was given. */
static inline void *mh__arena_at(const mh__arena *arena, uint64_t offset)
{
    return (char *)mh__arena_base(arena) + offset;
}

/* A block of at least `size` bytes (0 counts as 1), not cleared. errors: TOO_LARGE more than the arena's capacity;
 * NO_SPACE the arena or the system's memory is full; NO_MEMORY for the books. */
MH_NODISCARD mh_err mh__arena_alloc(mh__arena *arena, size_t size, uint64_t *offset);
/* Give a block back. errors: INVALID when no block starts at that offset now (so an offset that a peer names may be passed). */
mh_err mh__arena_free(mh__arena *arena, uint64_t offset);
/* Make a block at least `size` bytes where it lies, giving back what it does not need. errors: FULL there is no room behind it (allocate and copy);
 * INVALID; NO_SPACE; NO_MEMORY. The block is unchanged then. */
MH_NODISCARD mh_err mh__arena_resize(mh__arena *arena, uint64_t offset, size_t size);
/* Bytes that the block at offset has, or 0 when no block starts there. */
size_t mh__arena_usable(const mh__arena *arena, uint64_t offset);

/* Give back free pages beyond `keep_bytes` and forget how much was in use lately; call it when idle. */
void mh__arena_trim(mh__arena *arena, size_t keep_bytes);
/* Bytes in blocks; bytes of pages taken from the system (blocks, and pages kept for reuse). */
size_t mh__arena_used_bytes(const mh__arena *arena);
size_t mh__arena_page_bytes(const mh__arena *arena);
/* For tests: true when the books are consistent. */
bool mh__arena_is_sound(const mh__arena *arena);

/* ---- views: what a peer maps ------------------------------------------------------------------ */

typedef struct mh__arena_view {
    char *base;
    size_t size;
} mh__arena_view;

/* Map the arena behind fd (which stays the caller's and may be closed afterwards), read-only unless `writable`.
 * errors: INVALID fd is no sealed memfd, so that its other users could cut it; SYSTEM; NO_MEMORY. On failure *view is zeroed. */
MH_NODISCARD mh_err mh__arena_view_open(mh__arena_view *view, int fd, bool writable);
void mh__arena_view_close(mh__arena_view *view);
/* The view that the owner, or a child forked from it, has already; it is not to be closed. */
mh__arena_view mh__arena_view_of(const mh__arena *arena);
/* Address of [offset, offset + size), or NULL when that does not lie inside; nothing overflows. */
static inline void *mh__arena_view_at(const mh__arena_view *view, uint64_t offset, uint64_t size)
{
    return offset <= view->size && size <= view->size - offset ? view->base + offset : NULL;
}

#endif
