/* What the files of the probe share with its fuzz target: reading a controller's answers. */
#ifndef MH_CLUSTER_PROBE_H
#define MH_CLUSTER_PROBE_H

#include "cluster/ask.h"
#include "manyhands/cluster.h"

struct mh_cluster_probe {
    mh__asker *ask;
    mh_cluster_engine *engines;
    size_t room;
};

/* The answer to a connection_request: out->engines, by id. errors: CORRUPT; NO_MEMORY. */
MH_NODISCARD mh_err mh__probe_read_engines(mh_cluster_probe *p, mh_bytes text, mh_cluster_status *out);
/* The answer to a queue_request, about those engines; what can't be read stays as it is. */
void mh__probe_read_queues(mh_bytes text, mh_cluster_status *out);

#endif
