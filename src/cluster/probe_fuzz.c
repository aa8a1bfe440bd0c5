/* Any bytes as a controller's answers, the list of engines and (after a zero byte) their queues: an error, or engines by id whose names end. */
#include "cluster/probe.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh_cluster_probe p = {0};
    mh_cluster_status s = {0};
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t first = end ? (size_t)(end - data) : size;
    mh_err err = mh__probe_read_engines(&p, (mh_bytes){data, first}, &s);
    if (!err && end)
        mh__probe_read_queues((mh_bytes){end + 1, size - first - 1}, &s);
    for (size_t i = 0; !err && i < s.engine_count; i++)
        if (!memchr(s.engines[i].uuid, 0, sizeof s.engines[i].uuid) || (i && s.engines[i].id < s.engines[i - 1].id))
            abort();
    mh__free(p.engines);
    return 0;
}
