/* What this engine holds, for a controller that was away: it keeps what it still wants, and tells the rest to be forgotten. */
#include "cluster/engine_state.h"

#include "base/memory.h"

#include <string.h>

/* [id, token]; token "": a direct request. Only what came by this way: [channel's identity, client, token]. */
static void add_one(mh__json_out *o, const mh__waiting_request *job, mh_bytes way)
{
    const mh__message *m = &job->message;
    if (m->ident_count < 2 || !mh__bytes_equal(m->idents[0], way))
        return;
    mh__json_open(o, '[');
    mh__json_add_bytes(o, job->header.msg_id);
    mh__json_add_bytes(o, m->ident_count > 2 ? m->idents[2] : (mh_bytes){"", 0});
    mh__json_close(o, ']');
}

static void list_holds(mh_engine *e, const mh__waiting_request *asked)
{
    mh_buf *content = NULL;
    mh_err err = mh_buf_create(&content, 0);
    if (err)
        return; /* the controller asks again when it comes back again */
    mh__json_out o = mh__json_into(content);
    mh_bytes way = asked->message.idents[0];
    mh__json_open(&o, '{');
    mh__json_key(&o, "holds");
    mh__json_open(&o, '[');
    if (e->running)
        add_one(&o, e->running, way);
    for (mh__list *node = e->ahead.next; node != &e->ahead; node = node->next)
        add_one(&o, mh__list_entry(node, mh__waiting_request, link), way);
    for (mh__list *node = e->queue.next; node != &e->queue; node = node->next)
        add_one(&o, mh__list_entry(node, mh__waiting_request, link), way);
    mh__json_close(&o, ']');
    mh__json_close(&o, '}');
    if (mh__json_finish(&o) == MH_OK)
        mh__at_engine_reply_control(e, asked->from, asked->parcel, &asked->message, "x_holds_reply",
                                    (mh_bytes){mh_buf_data(content), mh_buf_size(content)});
    mh_buf_destroy(&content);
}

static void abort_attempts(mh_engine *e, const mh__waiting_request *asked)
{
    const char *const keys[] = {"holds"};
    mh__json got, key, pair, id, token;
    mh_bytes name, text;
    if (mh__json_pick(asked->message.content, keys, 1, &got))
        return;
    for (mh__json_walk w = mh__json_walk_of(got); mh__json_next(&w, &key, &pair);) {
        mh__json_walk both = mh__json_walk_of(pair);
        if (mh__json_next(&both, &key, &id) && mh__json_next(&both, &key, &token) && mh__json_plain(id, &name) && mh__json_plain(token, &text))
            mh__at_engine_abort_attempt(e, name, text);
    }
}

bool mh__at_engine_answer_holds(mh_engine *e, const mh__waiting_request *job)
{
    if (job->kind != MH__REQUEST_OTHER || job->message.ident_count < 2)
        return false;
    if (mh__bytes_are(job->header.msg_type, "x_holds_request"))
        list_holds(e, job);
    else if (mh__bytes_are(job->header.msg_type, "x_abort_request"))
        abort_attempts(e, job);
    else
        return false;
    return true;
}
