/* What answers are made of, whoever gives them: see executor.h. */
#include "cluster/executor.h"
#include "wire/json.h"

#include <stdatomic.h>

void mh__hold_keep(mh__hold *h) { atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed); }

void mh__hold_drop(mh__hold *h)
{
    if (atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) == 1)
        h->destroy(h);
}

mh_err mh__answer_write_error(mh_buf *content, const char *ename, mh_bytes evalue)
{
    mh__json_out o = mh__json_into(content);
    mh__json_open(&o, '{');
    mh__json_key(&o, "status");
    mh__json_add_string(&o, "error");
    mh__json_key(&o, "ename");
    mh__json_add_string(&o, ename);
    mh__json_key(&o, "evalue");
    mh__json_add_bytes(&o, evalue);
    mh__json_key(&o, "traceback");
    mh__json_open(&o, '[');
    mh__json_close(&o, ']');
    mh__json_close(&o, '}');
    return mh__json_finish(&o);
}
