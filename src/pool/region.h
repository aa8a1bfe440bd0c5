/* What parent and worker share besides the arenas: a region for each worker, one board for all, and the message in which
 * a worker gets them. */
#ifndef MH_POOL_REGION_H
#define MH_POOL_REGION_H

#include "pool/slot.h"
#include "pool/times.h"
#include "pool/tree.h"

enum { MH__ACKS = 512, MH__SHARED_MAX = 4096, MH__SLOTS_MAX = 32768 };

/* ---- a worker's region ----------------------------------------------------------------------- */

/* How far a worker has come; it only counts up. */
typedef enum mh__phase {
    MH__PHASE_STARTING,
    MH__PHASE_RUNNING, /* initialized */
    MH__PHASE_ENDING,  /* takes no more tasks: recycled or asked to end */
    MH__PHASE_ENDED,
    MH__PHASE_FAILED /* could not be initialized */
} mh__phase;

typedef struct mh__region {
    uint64_t magic;
    uint32_t version;
    uint32_t slot_count;
    uint64_t size;
    uint32_t trace_count;

    /* written by the worker */
    _Alignas(128) _Atomic uint32_t asleep; /* it sleeps, or is about to, on doorbell */
    _Atomic uint32_t phase;
    _Atomic uint64_t acked;     /* acknowledgements read so far */
    _Atomic int64_t started_ns; /* when it began its present task, if that is a timed one */
    _Atomic uint64_t weighed;   /* number of its present task, if that has a memory limit; 0: none */
    _Atomic uint64_t base_bytes; /* its own memory when it began that */

    /* written by the parent */
    _Alignas(128) _Atomic uint32_t doorbell;
    _Atomic uint32_t closing; /* end when nothing is READY */
    _Atomic uint64_t acks_given;
    _Alignas(128) _Atomic uint64_t acks[MH__ACKS]; /* offsets of replies that the parent no longer needs */

    mh__times times; /* written by the worker */

    mh__slot slots[]; /* and behind them a memory limit for each, and the trace */
} mh__region;

static inline size_t mh__region_size(size_t slot_count, size_t trace_count)
{
    return sizeof(mh__region) + slot_count * (sizeof(mh__slot) + sizeof(uint64_t)) + trace_count * sizeof(mh__event);
}
/* Memory limits of the tasks in the slots of a region with so many (the checked number). */
static inline uint64_t *mh__region_limits(mh__region *region, size_t slot_count)
{
    return (uint64_t *)(void *)(region->slots + slot_count);
}
static inline mh__event *mh__region_trace(mh__region *region, size_t slot_count)
{
    return (mh__event *)(void *)(mh__region_limits(region, slot_count) + slot_count);
}
/* Fill in a zeroed region of mh__region_size(slot_count, trace_count) bytes. */
void mh__region_init(mh__region *region, size_t slot_count, size_t trace_count);
/* Whether the `size` bytes at region are one. errors: CORRUPT. *slot_count and *trace_count are checked copies to use. */
MH_NODISCARD mh_err mh__region_check(const mh__region *region, size_t size, uint32_t *slot_count, uint32_t *trace_count);

/* ---- the board ------------------------------------------------------------------------------- */

/* Who wants to hear that a task is finished, and when. Only a hint: who sleeps looks again after a while. */
typedef enum mh__notify {
    MH__NOTIFY_NONE,
    MH__NOTIFY_LEADER,      /* a waiting caller, at once */
    MH__NOTIFY_LEADER_LAZY, /* a waiting caller, after a few tasks or when a worker has nothing left */
    MH__NOTIFY_KEEPER,      /* the housekeeper, at once */
    MH__NOTIFY_KEEPER_IDLE  /* the housekeeper, when a worker has nothing left */
} mh__notify;
enum { MH__NOTIFY_LAZY_TASKS = 16 };

typedef struct mh__shared_entry {
    _Atomic uint32_t id; /* 0: empty */
    uint64_t offset;     /* in the request arena */
    uint64_t size;
} mh__shared_entry;

typedef struct mh__board {
    uint64_t magic;
    _Alignas(128) _Atomic uint32_t notify;
    _Alignas(128) mh__shared_entry shared[MH__SHARED_MAX]; /* by id % MH__SHARED_MAX, written by the parent */
} mh__board;

void mh__board_init(mh__board *board);

/* ---- the message that makes a process a worker ------------------------------------------------ */

enum { MH__FD_SOCKET, MH__FD_REGION, MH__FD_BOARD, MH__FD_REQUESTS, MH__FD_LEADER, MH__FD_KEEPER, MH__FD_CORES, MH__FD_COUNT };

typedef struct mh__hello {
    uint64_t magic;
    uint32_t version;
    uint32_t pad;
    uint64_t max_tasks;
    uint64_t max_worker_bytes;
    uint64_t max_reply_bytes;
    int64_t spin_ns;
    mh__tree_place place;
} mh__hello;

mh__hello mh__hello_make(void);
/* Copy and check a received message. errors: CORRUPT. */
MH_NODISCARD mh_err mh__hello_read(mh__hello *out, mh_bytes message);

#endif
