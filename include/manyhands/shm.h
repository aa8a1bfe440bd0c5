/* manyhands/shm.h: memory that several processes see: segments, with or without a name, and a heap inside one.
 *
 *     mh_shm *memory = NULL;
 *     mh_heap *heap = NULL;
 *     uint64_t at = 0;
 *     mh_err err = mh_shm_create(&memory, 1 << 20);               anonymous, sealed, every page there
 *     if (!err) err = mh_heap_create(&heap, mh_shm_data(memory), mh_shm_size(memory));
 *     if (!err) err = mh_heap_alloc(heap, 6, 1, MH_FOREVER, &at); children that are forked now see it, too
 *     if (!err) strcpy(mh_heap_at(heap, at), "hello");
 *     if (err) fprintf(stderr, "%s: %s\n", mh_err_text(err), mh_err_detail());
 *     mh_heap_destroy(&heap);
 *     mh_shm_destroy(&memory);
 *
 * Every page of a segment is allocated before anybody sees it: when there is no room, creating fails with MH_ERR_NO_SPACE and the
 * detail says how much was asked for and how much is free. Using it never raises SIGBUS, unless somebody cuts a segment with a
 * name while it is mapped: the kernel does not let us seal those against it. Anonymous ones are sealed.
 *
 * Fork: a segment or heap that was there before a fork works in the child, on the same memory. Each process destroys its own
 * copy of the object, which unmaps and closes here and changes nothing for the others; names are removed as told at mh_shm_create_named.
 */
#ifndef MANYHANDS_SHM_H
#define MANYHANDS_SHM_H

#include "manyhands/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mh_shm mh_shm;   /* a segment, mapped */
typedef struct mh_heap mh_heap; /* this process's view of a heap in shared memory */

/* Map for reading only: writing then raises SIGSEGV. A guard against one's own mistakes, not against the process's malice. */
#define MH_SHM_READONLY UINT32_C(1)

/* ---- anonymous segments ----------------------------------------------------------------------- */

/* A segment of `size` bytes, zeroed, sealed so that nobody can make it shorter or longer. It vanishes with its last user.
 * errors: INVALID size 0; NO_SPACE; NO_MEMORY; SYSTEM (descriptors are used up). owns: the caller. */
MH_API MH_NODISCARD mh_err mh_shm_create(mh_shm **out, size_t size);
/* Map the segment behind a descriptor that was inherited (or received in some other way). Takes fd on success. Whatever
 * the descriptor is, nothing bad happens: accepted is only memory that its other users cannot cut and whose pages are all there.
 * errors: INVALID it is something else; NO_MEMORY; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_shm_from_fd(mh_shm **out, int fd, uint32_t flags);
/* Pass a segment over a connected unix socket (SEQPACKET, STREAM or DGRAM) and take one from it. The receiver checks as
 * mh_shm_from_fd does. errors: TIMEOUT, INTERRUPTED; CLOSED the other end is gone; UNSUPPORTED (sending) a segment with a name: pass its
 * name; CORRUPT what came is no segment. */
MH_API MH_NODISCARD mh_err mh_shm_send(const mh_shm *shm, int socket, mh_deadline until);
MH_API MH_NODISCARD mh_err mh_shm_receive(mh_shm **out, int socket, uint32_t flags, mh_deadline until);

/* ---- segments with a name --------------------------------------------------------------------- */

/* As mh_shm_create, with a name in /dev/shm, readable and writable by this user only. The name exists from the moment at which the
 * segment is complete. NULL makes a random one: see mh_shm_name.
 *
 * Who removes the name: mh_shm_unlink, by whoever calls it; else it is removed when the creator's tree has ended, in whatever way
 * (every process of it killed at once included). The tree is the creator and what is forked from it, from its first named segment on;
 * mh_shm_tree_fd takes in others. Processes that only open the segment have no part in that: when they end nothing is removed.
 *
 * The first named segment of a tree starts a small process, the janitor, which waits for that end. It is a fork of the caller
 * that gives up memory, descriptors and signals; wait() and SIGCHLD do not tell of it; it exits by itself. When it is killed, too,
 * random names of ended processes are removed when another tree starts its janitor.
 *
 * errors: INVALID size 0, or the name: 1 to 200 characters, no slash; EXISTS; NO_SPACE; PERMISSION /dev/shm is not writable; SYSTEM; NO_MEMORY */
MH_API MH_NODISCARD mh_err mh_shm_create_named(mh_shm **out, const char *name, size_t size);
/* Map an existing one. errors: INVALID the name, or it is empty; NOT_FOUND; PERMISSION it belongs to somebody else, or others may
 * use it, or it is a link or no plain file; NO_SPACE it has holes that cannot be filled; NO_MEMORY; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_shm_open_named(mh_shm **out, const char *name, uint32_t flags);
/* Remove the name; the memory lives on for those who have it. errors: INVALID, NOT_FOUND, PERMISSION. */
MH_API mh_err mh_shm_unlink(const char *name);

/* The descriptor that makes a process a member of this one's tree, for passing it to a program that is started (not forked): let
 * it be inherited, and call mh_shm_tree_join with its number there. Borrowed, close-on-exec. errors: SYSTEM, NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_shm_tree_fd(int *fd);
/* Takes fd on success. errors: INVALID it is something else; EXISTS this process has a tree already; NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_shm_tree_join(int fd);
/* A process that cannot be given the descriptor has a tree of its own; what it creates must not go with it when a program that started
 * it still works with the name: names of this tree stay until `process` has ended, too. It is what mh_shm_tree_self gave there.
 * errors: INVALID; SYSTEM, NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_shm_tree_await(uint64_t process);
MH_API uint64_t mh_shm_tree_self(void);
/* Whenever names are left that the janitor has to remove, it writes one line that says how many to (its copy of) fd; the last call counts.
 * errors: INVALID it is not open; SYSTEM, NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_shm_tree_report(int fd);
/* Let the end of this process's tree remove an existing name, whoever created it; let it not. errors: INVALID, NOT_FOUND; SYSTEM, NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_shm_track(const char *name);
MH_API mh_err mh_shm_untrack(const char *name);

/* ---- any segment ------------------------------------------------------------------------------ */

MH_API void *mh_shm_data(const mh_shm *shm);
MH_API size_t mh_shm_size(const mh_shm *shm);
/* Borrowed, close-on-exec. */
MH_API int mh_shm_fd(const mh_shm *shm);
/* Its name, or "" for an anonymous one. Borrowed. */
MH_API const char *mh_shm_name(const mh_shm *shm);
MH_API bool mh_shm_is_readonly(const mh_shm *shm);
/* Unmap and close in this process. A name stays. */
MH_API void mh_shm_destroy(mh_shm **shm);

/* ---- counted segments ------------------------------------------------------------------------- */

/* A segment that lives as long as anybody uses it, with nobody to say who removes its name: what shared arrays are made of. It has a random
 * name, by which it is opened elsewhere. In front of its bytes lies a table of the processes that have it open. Whoever closes it last
 * removes the name; processes that were killed do not count; the end of the creator's tree removes it at the latest.
 *
 * A name that is on its way from one process to another (in a queue, in a task) is announced with mh_shared_post and taken off with the first
 * mh_shared_open that follows, so that the sender may close meanwhile. Announced but never opened it stays until the tree ends.
 * What is opened twice for one announcement is there the second time only as long as somebody has it open.
 *
 * After a fork the child may use and must close its copy of the object. It counts as a user of its own from its first mh_shared_post on. */
typedef struct mh_shared mh_shared;

/* Zeroed. errors: as mh_shm_create_named. */
MH_API MH_NODISCARD mh_err mh_shared_create(mh_shared **out, size_t size);
/* errors: as mh_shm_open_named; CORRUPT it is no such segment. NOT_FOUND also means that its last user has closed it. */
MH_API MH_NODISCARD mh_err mh_shared_open(mh_shared **out, const char *name, uint32_t flags);
/* Count one reference that is on its way. errors: CLOSED the name is gone, only forked children have the memory: send a copy. */
MH_API MH_NODISCARD mh_err mh_shared_post(mh_shared *s);
/* A reference arrived in a process that has it open already: take it off the count instead of opening once more. */
MH_API void mh_shared_arrive(mh_shared *s);
MH_API void *mh_shared_data(const mh_shared *s); /* 4096-byte aligned */
MH_API size_t mh_shared_size(const mh_shared *s);
MH_API const char *mh_shared_name(const mh_shared *s);
MH_API bool mh_shared_is_readonly(const mh_shared *s);
MH_API void mh_shared_close(mh_shared **s);

/* ---- heap ------------------------------------------------------------------------------------- */

/* An allocator whose blocks are named by offsets, for any number of processes at once. A process may be killed at any
 * instruction inside any call: the next caller repairs the heap; no block is lost or handed out twice, but for the one that the killed
 * process was just getting, which may stay allocated. Whatever is written over its books, no call crashes: MH_ERR_CORRUPT.
 *
 * Offsets count from `memory`; 0 is never a block. Threads: any, on one object. */

#define MH_HEAP_ALIGN_MAX 4096

/* Make [memory, memory + size), 64-byte aligned, an empty heap / use the heap that lies there. The memory is the caller's and stays mapped
 * until the object is destroyed. errors: INVALID alignment, or too small (8 KiB); CORRUPT (attach) no heap is there; NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_heap_create(mh_heap **out, void *memory, size_t size);
MH_API MH_NODISCARD mh_err mh_heap_attach(mh_heap **out, void *memory, size_t size);
/* A block of `size` bytes, not cleared, at a multiple of `align` (a power of two up to MH_HEAP_ALIGN_MAX, as far as `memory` is aligned itself;
 * 16 at least). `until` bounds the wait for the lock. errors: INVALID align; NO_SPACE; TIMEOUT, INTERRUPTED; CORRUPT. */
MH_API MH_NODISCARD mh_err mh_heap_alloc(mh_heap *heap, size_t size, size_t align, mh_deadline until, uint64_t *offset);
/* Any process may free any block. errors: INVALID no block is there; TIMEOUT, INTERRUPTED: it is still there; CORRUPT. */
MH_API mh_err mh_heap_free(mh_heap *heap, uint64_t offset, mh_deadline until);
/* The address of a block here, or NULL when the offset lies outside; the offset of an address in the heap, or 0. */
MH_API void *mh_heap_at(const mh_heap *heap, uint64_t offset);
MH_API uint64_t mh_heap_offset(const mh_heap *heap, const void *address);
/* Bytes that the block at offset has, or 0 when no block can be there. */
MH_API size_t mh_heap_usable(const mh_heap *heap, uint64_t offset);
/* Bytes that are free, in pieces; the largest block that could be had now, with an alignment of 16. errors: TIMEOUT, INTERRUPTED, CORRUPT. */
MH_API MH_NODISCARD mh_err mh_heap_room(mh_heap *heap, mh_deadline until, size_t *free_bytes, size_t *largest);
/* Check everything, taking as long as there are blocks. errors: CORRUPT; TIMEOUT, INTERRUPTED. */
MH_API MH_NODISCARD mh_err mh_heap_check(mh_heap *heap, mh_deadline until);
/* Forget this process's object; the heap stays. */
MH_API void mh_heap_destroy(mh_heap **heap);

#ifdef __cplusplus
}
#endif
#endif
