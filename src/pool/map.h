/* Chunks of mh_pool_map, as the worker runs them. */
#ifndef MH_POOL_MAP_H
#define MH_POOL_MAP_H

#include "manyhands/pool.h"

/* Where an array lies: a plain address that parent and worker have in common, or bytes of an attached segment. */
typedef struct mh__map_place {
    uint64_t at; /* address, or offset when segment is not 0 */
    uint32_t segment;
    uint32_t pad;
} mh__map_place;

/* The request of a chunk; the caller's ctx bytes follow. */
typedef struct mh__map_chunk {
    uint64_t fn;
    uint64_t count, in_size, out_size; /* items, and the bytes of one */
    mh__map_place in, out;
} mh__map_chunk;

/* Run the chunk that is the task's input. */
mh_err mh__map_run(mh_task *task);

#endif
