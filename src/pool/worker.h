/* The worker's half of the pool: take tasks from the region, run them, answer. A process or a thread. */
#ifndef MH_POOL_WORKER_H
#define MH_POOL_WORKER_H

#include "manyhands/pool.h"
#include "os/usage.h"
#include "pool/region.h"
#include "pool/segments.h"
#include "pool/spin.h"
#include "shm/arena.h"

typedef struct mh__worker {
    mh__region *region;
    size_t region_bytes;
    uint32_t mask; /* checked slot count less one */
    uint32_t next; /* the slot at which it stands */
    mh__board *board;
    mh__arena_view requests;
    mh__arena *replies; /* its own; made when the first large reply needs it */
    size_t max_reply_bytes;
    uint64_t acked;
    int socket; /* to the parent; -1: a thread */
    int leader_bell, keeper_bell;
    mh__spin spin;
    mh_worker_options options;
    uint64_t done, max_tasks;
    size_t max_worker_bytes;
    uint32_t unmeasured, measure_each; /* tasks since the last that was measured; every which one is */
    uint32_t trace_count;              /* events in the region, or 0 */
    bool has_place;     /* in the tree of pools: it is a process */
    int64_t weighed_ns; /* when its memory was last looked at */
    int64_t usage_ns;   /* when usage was: of tasks with a memory limit */
    mh__usage usage;
    mh__segments segments;
    mh__arena *_Atomic *show_replies; /* a thread shows its arena here; NULL: a process sends it */
} mh__worker;

/* What a task function sees. It reads the slot once, so that nobody can change the numbers under it. */
struct mh_task {
    mh__worker *worker;
    mh__slot *slot;
    mh_bytes input;
    uint64_t id, tag;
    uint32_t attempt;
    uint16_t flags;
    uint64_t limit; /* of its memory, or 0 */
    int64_t began_ns, mark_ns; /* when it and its present part began; 0: not measured */
    int64_t run_ns, code_ns;   /* its parts so far */
    int64_t first_run_ns, last_run_ns;
    mh_task_part_kind part;
    char label[MH__TRACE_LABEL];
    void *reply; /* where it is being written: the slot, or a block at `far` */
    uint64_t far;
    size_t capacity, size;
};

/* Initialize, run tasks until there is a reason to end, finalize. errors: CLOSED the parent is gone; what initialize returned. */
mh_err mh__worker_serve(mh__worker *w);
/* Wake whoever wants to hear that this worker has finished a task (`idle`: and has no other). */
void mh__worker_tell(mh__worker *w, bool idle);

/* The memory limit of the task that this process is running, or 0. */
size_t mh__task_limit_here(void);

/* Begin, and put the reply into the slot of, a task. */
void mh__task_begin(mh_task *task, mh__worker *w, mh__slot *slot);
void mh__task_end(mh_task *task, mh_err err);
/* The reply does not leave this worker. */
void mh__task_drop_reply(mh_task *task);
/* Free the replies that the parent no longer needs. */
void mh__worker_take_acks(mh__worker *w);

#endif
