/* What counted segments need of segments. */
#ifndef MH_SHM_SEGMENT_H
#define MH_SHM_SEGMENT_H

#include "manyhands/shm.h"

/* mh_shm_create_named; quietly: when the end of the tree removes the name, that is no leak to be reported. */
mh_err mh__shm_create_named(mh_shm **out, const char *name, size_t size, bool quietly);

#endif
