/* Counted bytes: see executor.h. */
#include "cluster/executor.h"

#include <stdatomic.h>

void mh__hold_keep(mh__hold *h) { atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed); }

void mh__hold_drop(mh__hold *h)
{
    if (atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) == 1)
        h->destroy(h);
}
