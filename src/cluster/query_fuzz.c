/* Any bytes as a database query about one ended task: an error or an answer, and the same one the second time. */
#include "cluster/controller_state.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static mh_controller c;
static mh__job *job;

static void prepare(void)
{
    static const char header[] = "{\"msg_id\":\"s_1\",\"msg_type\":\"apply_request\",\"session\":\"s\",\"date\":\"2031-01-01T00:00:00.000000Z\"}";
    mh__parcel *p = NULL;
    mh__list_init(&c.engines);
    mh__list_init(&c.order);
    mh__list_init(&c.history);
    c.options.history_count = 10;
    c.options.history_bytes = 1 << 20;
    const mh_bytes frames[] = {MH__TEXT("client"), MH__TEXT(MH__WIRE_DELIMITER), MH__TEXT(""), {header, sizeof header - 1},
                               MH__TEXT("{}"), MH__TEXT("{\"label\":\"run-1\"}"), MH__TEXT("{\"n\":[1,2,3]}")};
    if (mh__parcel_create(&p))
        abort();
    for (size_t i = 0; i < sizeof frames / sizeof frames[0]; i++)
        if (mh__parcel_add(p, frames[i]))
            abort();
    if (mh__job_create(&c, &job, p, 1, MH__TEXT("s_1"), true))
        abort();
    for (size_t i = 0; i < sizeof frames / sizeof frames[0]; i++)
        if (mh__parcel_add(p, frames[i]))
            abort();
    if (mh__job_keep_result(&c, job, p, 1))
        abort();
    mh__job_end(&c, job, MH_SCHED_OK);
    mh__parcel_destroy(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh__json query;
    bool first = false, second = false;
    if (!job)
        prepare();
    if (mh__json_check((mh_bytes){data, size}, &query))
        return 0;
    mh_err err = mh__query_match(&c, job, query, &first);
    if (mh__query_match(&c, job, query, &second) != err || (!err && first != second))
        abort();
    return 0;
}
