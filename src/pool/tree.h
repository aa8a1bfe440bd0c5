/* This process's place in the tree of pools, whose processes share the machine's cores by one budget. The root makes it
 * with its first pool; forks inherit it, and exec'ed workers get it with their first message. */
#ifndef MH_POOL_TREE_H
#define MH_POOL_TREE_H

#include "manyhands/base.h"

/* What a worker is told of its place. */
typedef struct mh__tree_place {
    uint32_t owner; /* the seat of the process that has the pool, or 0 */
    uint32_t share; /* cores for each worker, at least 1 */
    uint32_t asks;  /* workers wait for a core: the pool's process is not the root */
    uint32_t pad;
} mh__tree_place;

/* See that there is a budget, and that this process has a seat if it is not the root. threads: any. errors: NO_SPACE, NO_MEMORY, SYSTEM. */
MH_NODISCARD mh_err mh__tree_open(void);
/* Only the first half of it. */
MH_NODISCARD mh_err mh__tree_make(void);
/* Have the budget behind fd, unless there is one already. errors: CORRUPT, INVALID; those of mapping. */
MH_NODISCARD mh_err mh__tree_join(int fd);
/* The budget's memory, to pass on; -1 when there is none. */
int mh__tree_fd(void);
mh__tree_place mh__tree_place_for(size_t workers);
bool mh__tree_is_root(void);
/* How many workers a pool made here has by default. */
size_t mh__tree_width(void);
/* A worker that this process started has ended. */
void mh__tree_forget(int32_t pid);

/* In a worker process: take the place. The descriptor stays the caller's. errors: CORRUPT; those of mapping. */
MH_NODISCARD mh_err mh__tree_enter(int fd, mh__tree_place place);
void mh__tree_leave(void);
/* Whether this worker may run a task; true for whoever has no seat. */
bool mh__tree_runs(void);
/* Ask for a core without waiting. */
bool mh__tree_try(void);
/* Sleep until it is worth to ask again, longer each time (*slice_ns, 0 at first). True: run without a core, it has taken too long. */
bool mh__tree_wait(int64_t *slice_ns, int64_t since_ns);
/* After a task: others wait for a core, and this worker has had one for a while. */
bool mh__tree_should_yield(void);
void mh__tree_idle(void);

/* Around a wait for a pool of this process's own. threads: any. */
bool mh__tree_away(void); /* false: nothing to take back */
void mh__tree_back(void);

#endif
