/* What a process has mapped, as the kernel tells. */
#ifndef MH_OS_MAPS_H
#define MH_OS_MAPS_H

#include "manyhands/base.h"

/* Whether [at, at + size) is memory shared (MAP_SHARED) in this process and the very same memory in process `pid`. Reads files,
 * about 100 us. errors: SYSTEM they can't be read; NO_MEMORY. */
mh_err mh__os_is_common(int32_t pid, const void *at, size_t size, bool *common);

#endif
