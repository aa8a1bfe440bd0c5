/* How much memory this process uses, and how much there is. */
#ifndef MH_OS_USAGE_H
#define MH_OS_USAGE_H

#include "manyhands/base.h"

/* Resident memory of this process that it shares with nobody's files or segments; 0 when unknown. Reads a file, about 2 us. */
size_t mh__os_own_bytes(void);
/* Bytes of memory in this machine; 0 when unknown. */
size_t mh__os_machine_bytes(void);

#endif
