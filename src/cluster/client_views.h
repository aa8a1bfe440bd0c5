/* What the views of a client share. */
#ifndef MH_CLUSTER_CLIENT_VIEWS_H
#define MH_CLUSTER_CLIENT_VIEWS_H

#include "cluster/client_state.h"

/* Call a native function at one engine, or with NULL wherever the controller chooses. */
mh_err mh__views_call(mh_client *c, const char *engine, const char *function, mh_bytes input, mh_bytes metadata, mh_client_future **out);
/* The result of f; its failure as an error. */
mh_err mh__views_check(mh_client_future *f, mh_deadline until, mh_client_result *r);

typedef struct mh__views_map {
    const void *in;
    size_t item_size, count;
    void *out;
    size_t out_size;
} mh__views_map;
mh_err mh__views_check_sizes(const mh__views_map *m);
mh_bytes mh__views_part(const mh__views_map *m, size_t first, size_t count);
/* Wait for the call that computes `count` items from `first` on, store them, and release it in any case. */
mh_err mh__views_collect(const mh__views_map *m, mh_client_future **f, size_t first, size_t count, mh_deadline until);

#endif
