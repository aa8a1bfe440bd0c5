/* Which cores to bind workers to (hwloc). */
#ifndef MH_OS_TOPOLOGY_H
#define MH_OS_TOPOLOGY_H

#include "manyhands/base.h"

typedef struct mh__places mh__places; /* one core for each of a number of workers */

/* Choose cores for `count` workers among those that this process may use, spread over packages, caches and cores as evenly
 * as may be; with more workers than cores, cores are shared, hardware threads apart. Takes milliseconds: it reads the
 * machine's topology. The result may be used in forked children. errors: SYSTEM, NO_MEMORY, INVALID count 0. */
mh_err mh__topology_spread(mh__places **out, size_t count);
/* Bind a process's main thread, or with pid 0 the calling thread, and all that they start later, to place `index`, modulo
 * the count. errors: EXITED, SYSTEM. */
mh_err mh__topology_bind(const mh__places *places, size_t index, int32_t pid);
/* The first processor of place `index`, in the kernel's numbers. */
size_t mh__topology_processor(const mh__places *places, size_t index);
void mh__topology_destroy(mh__places **places);

#endif
