/* The slot protocol: how one task goes to a worker and its reply comes back, whatever instruction either dies at.
 *
 * A ring of slots lies in memory that the parent shares with one worker. Each slot has one control word, [epoch | state]:
 *
 *     FREE  --parent-->  READY  --worker, CAS-->  RUN  --worker, CAS-->  DONE  --parent-->  FREE
 *                          |  parent, CAS (the task is cancelled or moves to another worker)
 *                          +----------------->  SKIP  --worker, CAS-->  PASSED  --parent-->  FREE
 *                          |                      |  parent, CAS (it was the last slot filled)
 *                          +-------------------->-+-------------------------->  FREE
 *
 * Both sides go round the ring in the same order. The parent fills at its tail and takes at its head; the worker stands
 * at one slot until that is READY or SKIP, and moves on only after its own CAS. The epoch changes with every filling, so
 * that a worker which slept over a change fails its CAS; raising it on a slot in RUN fences that worker off for ever, because it
 * stands there. When a worker dies its DONE slots count, and all others are dropped with the ring: the next worker gets a
 * new one. Whoever is in RUN owns the slot's request and reply; in all other
 * states they are the parent's. slot.pml is the model of this file; keep them alike.
 */
#ifndef MH_POOL_SLOT_H
#define MH_POOL_SLOT_H

#include "base/number.h"
#include "manyhands/base.h"

#include <stdatomic.h>

typedef enum mh__slot_state {
    MH__SLOT_FREE,
    MH__SLOT_READY,
    MH__SLOT_RUN,
    MH__SLOT_DONE,
    MH__SLOT_SKIP,
    MH__SLOT_PASSED
} mh__slot_state;

enum { MH__SLOT_STATE_BITS = 3, MH__SLOT_REQUEST_BYTES = 88, MH__SLOT_REPLY_BYTES = 128 };

/* Where a request or a reply lies: in the slot, or in the arena of whoever wrote it. */
enum {
    MH__SLOT_FAR = 1,   /* in the arena: bytes[] holds an mh__slot_far */
    MH__SLOT_MAP = 2,   /* a chunk of mh_pool_map, run by the library */
    MH__SLOT_TIMED = 4, /* the worker notes in its region when it starts */
    MH__SLOT_WEIGHED = 16, /* it has a memory limit: see mh__region */
    MH__SLOT_FINAL = 8  /* no later attempt can follow, so that the task may write over its input */
};
typedef struct mh__slot_far {
    uint64_t offset;
    uint64_t size;
} mh__slot_far;

/* Two pairs of cache lines, because processors fetch lines in pairs: a task without a reply needs only the first. */
typedef struct mh__slot {
    _Alignas(128) _Atomic uint64_t control;
    uint64_t task_id;
    uint64_t tag;
    uint32_t attempt;
    uint16_t flags;
    uint16_t size; /* of a near request */
    int32_t err;   /* from here to reply_size: the worker's answer */
    uint16_t reply_flags;
    uint16_t reply_size; /* of a near reply */
    _Alignas(8) uint8_t request[MH__SLOT_REQUEST_BYTES];
    _Alignas(64) uint8_t reply[MH__SLOT_REPLY_BYTES];
} mh__slot;
_Static_assert(sizeof(mh__slot) == 256, "a slot is four cache lines");
_Static_assert(offsetof(mh__slot, reply) == 128, "a near reply is aligned as a far one is");

static inline uint64_t mh__control(uint64_t epoch, mh__slot_state state)
{
    return epoch << MH__SLOT_STATE_BITS | (uint64_t)state;
}
static inline mh__slot_state mh__control_state(uint64_t control)
{
    return (mh__slot_state)(control & ((1u << MH__SLOT_STATE_BITS) - 1));
}
/* The same epoch in another state. */
static inline uint64_t mh__control_to(uint64_t control, mh__slot_state state)
{
    return mh__control(control >> MH__SLOT_STATE_BITS, state);
}

/* Move a slot from exactly `from` to `state` of the same epoch. False: the other side was first. */
static inline bool mh__slot_move(mh__slot *slot, uint64_t from, mh__slot_state state)
{
    return atomic_compare_exchange_strong_explicit(&slot->control, &from, mh__control_to(from, state),
                                                   memory_order_seq_cst, memory_order_acquire);
}

/* ---- the parent's side ----------------------------------------------------------------------- */

/* The parent's view of a ring. Everything here is private memory: what the slots say is checked against it. */
typedef struct mh__ring {
    mh__slot *slots;
    uint64_t *fillings; /* the READY word of each slot's last filling */
    uint32_t mask;      /* slots - 1, a power of two less one */
    uint32_t head;      /* the oldest slot not yet taken; counts on, masked for use */
    uint32_t tail;      /* the next to fill */
    uint64_t epoch;
} mh__ring;

typedef enum mh__ring_got {
    MH__RING_NOTHING, /* the oldest slot is not finished */
    MH__RING_DONE,    /* it is DONE: read it, then mh__ring_drop */
    MH__RING_PASSED,  /* it was taken back and the worker went over it: mh__ring_drop */
    MH__RING_CORRUPT  /* it holds what no worker of ours writes */
} mh__ring_got;

static inline bool mh__ring_is_empty(const mh__ring *r) { return r->head == r->tail; }
static inline bool mh__ring_is_full(const mh__ring *r) { return r->tail - r->head > r->mask; }
static inline uint32_t mh__ring_count(const mh__ring *r) { return r->tail - r->head; }
static inline mh__slot *mh__ring_slot(const mh__ring *r, uint32_t at) { return &r->slots[at & r->mask]; }

/* The next slot to fill; the caller knows that the ring is not full, writes the request and publishes. */
static inline mh__slot *mh__ring_next(const mh__ring *r) { return mh__ring_slot(r, r->tail); }

/* Hand the slot at the tail to the worker. Returns its index. */
static inline uint32_t mh__ring_publish(mh__ring *r)
{
    uint32_t index = r->tail++ & r->mask;
    uint64_t ready = mh__control(++r->epoch, MH__SLOT_READY);
    r->fillings[index] = ready;
    atomic_store_explicit(&r->slots[index].control, ready, memory_order_release);
    return index;
}

/* What the oldest slot holds. Only for a ring that is not empty. */
static inline mh__ring_got mh__ring_look(const mh__ring *r)
{
    uint64_t filled = r->fillings[r->head & r->mask];
    uint64_t now = atomic_load_explicit(&mh__ring_slot(r, r->head)->control, memory_order_acquire);
    if (now == mh__control_to(filled, MH__SLOT_DONE))
        return MH__RING_DONE;
    if (now == mh__control_to(filled, MH__SLOT_PASSED))
        return MH__RING_PASSED;
    mh__slot_state state = mh__control_state(now);
    if (now != mh__control_to(filled, state) || state == MH__SLOT_FREE || state > MH__SLOT_PASSED)
        return MH__RING_CORRUPT;
    return MH__RING_NOTHING;
}

/* The oldest slot is free again. No store is needed: the worker leaves what is neither READY nor SKIP alone. */
static inline void mh__ring_drop(mh__ring *r) { r->head++; }

/* Take the task in slot `index` back before the worker starts it. False: too late. The slots at the tail that hold
 * nothing any more become free at once; one in the middle waits until the worker has gone over it. */
static inline bool mh__ring_revoke(mh__ring *r, uint32_t index)
{
    if (!mh__slot_move(&r->slots[index], r->fillings[index], MH__SLOT_SKIP))
        return false;
    while (r->tail != r->head) {
        uint32_t last = (r->tail - 1) & r->mask;
        if (!mh__slot_move(&r->slots[last], mh__control_to(r->fillings[last], MH__SLOT_SKIP), MH__SLOT_FREE))
            break;
        r->tail--;
    }
    return true;
}

/* Fence off the worker that runs the task in slot `index`: it can neither answer nor take another from this ring. False: it
 * has answered. */
static inline bool mh__ring_fence(mh__ring *r, uint32_t index)
{
    uint64_t running = mh__control_to(r->fillings[index], MH__SLOT_RUN);
    return atomic_compare_exchange_strong(&r->slots[index].control, &running,
                                          mh__control(r->epoch + r->mask + 2, MH__SLOT_FREE));
}

/* ---- the worker's side ----------------------------------------------------------------------- */

typedef enum mh__slot_found {
    MH__SLOT_NONE, /* nothing to do here yet */
    MH__SLOT_TAKEN /* the caller runs it and then calls mh__slot_finish with *control */
} mh__slot_found;

/* Try to take the task at *next, going over what was taken back. */
static inline mh__slot_found mh__slot_take(mh__slot *slots, uint32_t mask, uint32_t *next, uint64_t *control)
{
    for (;;) {
        mh__slot *slot = &slots[*next & mask];
        uint64_t now = atomic_load_explicit(&slot->control, memory_order_acquire);
        if (mh__control_state(now) == MH__SLOT_READY) {
            if (!mh__slot_move(slot, now, MH__SLOT_RUN))
                continue;
            *control = mh__control_to(now, MH__SLOT_RUN);
            return MH__SLOT_TAKEN;
        }
        if (mh__control_state(now) != MH__SLOT_SKIP)
            return MH__SLOT_NONE;
        if (mh__slot_move(slot, now, MH__SLOT_PASSED))
            ++*next;
    }
}

/* Publish the reply of the task taken with `control`. False: the parent has fenced this worker off. */
static inline bool mh__slot_finish(mh__slot *slots, uint32_t mask, uint32_t *next, uint64_t control)
{
    if (!mh__slot_move(&slots[*next & mask], control, MH__SLOT_DONE))
        return false;
    ++*next;
    return true;
}

#endif
