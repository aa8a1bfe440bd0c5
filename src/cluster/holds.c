/* What engines have from before: after the controller, or the way to an engine, was away. The question goes by each of the two channels
 * that requests take, and the answer comes back behind the answers to everything that was sent there before. So what is not answered
 * by then, and not listed, the engine does not have: it never arrived, or its answer is lost. Ours list what they hold; a stock engine
 * answers a question that every kernel knows, when it has done all that came before it. */
#include "cluster/controller_state.h"

#include "base/memory.h"

#include <stdio.h>
#include <string.h>

void mh__holds_ask(mh_controller *c, const mh__engine *e)
{
    static const mh__channel ways[] = {MH__CH_TASK_OUT, MH__CH_MUX_OUT};
    mh_bytes idents[] = {e->name.key, MH__TEXT(MH__HOLDS_NAME)};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
        mh__reply_send(c, ways[i], idents, 2, &(mh__draft){.type = e->is_ours ? "x_holds_request" : "kernel_info_request"});
}

void mh__holds_suspect(mh_controller *c, mh__engine *e)
{
    mh__list *heads[] = {&e->tasks, &e->queue};
    for (size_t i = 0; i < 2; i++)
        for (mh__list *node = heads[i]->next; node != heads[i]; node = node->next)
            mh__list_entry(node, mh__job, place)->is_adopted = true;
    mh__holds_ask(c, e);
}

/* Whether [id, token] is of an attempt that is not over. */
static mh__job *find_held(const mh_controller *c, const mh__engine *e, bool is_task, mh__json pair)
{
    mh__json_walk w = mh__json_walk_of(pair);
    mh__json key, id, token;
    mh_bytes name, text;
    uint64_t number;
    if (!mh__json_next(&w, &key, &id) || !mh__json_next(&w, &key, &token) || !mh__json_plain(id, &name) || !mh__json_plain(token, &text))
        return NULL;
    mh__job *r = mh__job_find(c, name);
    if (!r || r->is_ended || r->is_task != is_task || r->engine != e)
        return NULL;
    return is_task && (!mh__token_read(text, &number) || number != r->token) ? NULL : r;
}

/* Attempts that are over here are to be over there. What runs already runs on, and its answer is dropped. */
static void tell_to_abort(mh_controller *c, const mh__engine *e, mh__channel channel, mh__json held)
{
    mh_bytes idents[] = {e->name.key, MH__TEXT(MH__HOLDS_NAME)};
    mh__json_walk w = mh__json_walk_of(held);
    size_t count = 0;
    (void)!mh_buf_resize(c->text, 0);
    mh__json_out o = mh__json_into(c->text);
    mh__json_open(&o, '{');
    mh__json_key(&o, "holds");
    mh__json_open(&o, '[');
    for (mh__json key, pair; mh__json_next(&w, &key, &pair);) {
        if (find_held(c, e, channel == MH__CH_TASK_OUT, pair))
            continue;
        mh__json_add(&o, pair);
        count++;
    }
    mh__json_close(&o, ']');
    mh__json_close(&o, '}');
    if (!count || mh__json_finish(&o))
        return;
    mh__log(c, MH_LOG_INFO, "engine %lld is told to abort %zu requests that are no longer its own", (long long)e->id, count);
    mh__reply_send(c, channel, idents, 2, &(mh__draft){.type = "x_abort_request", .content = {mh_buf_data(c->text), mh_buf_size(c->text)}});
}

/* What it keeps is no longer in question; everything else that was, it does not have. */
static void use(mh_controller *c, mh__engine *e, mh__channel channel, mh__json held)
{
    bool is_task = channel == MH__CH_TASK_OUT;
    mh__list *head = is_task ? &e->tasks : &e->queue;
    size_t kept = 0, lost = 0;
    mh__json_walk w = mh__json_walk_of(held);
    for (mh__json key, pair; mh__json_next(&w, &key, &pair);) {
        mh__job *r = find_held(c, e, is_task, pair);
        if (r) {
            kept += r->is_adopted;
            r->is_adopted = false;
        }
    }
    for (mh__list *node = head->next, *next; node != head; node = next) {
        mh__job *r = mh__list_entry(node, mh__job, place);
        next = node->next;
        if (!r->is_adopted)
            continue;
        lost++;
        if (is_task) {
            mh__tasks_give_back(c, r);
        } else {
            r->is_adopted = false;
            mh__relay_again(c, r);
        }
    }
    if (kept + lost)
        mh__log(c, MH_LOG_INFO, "engine %lld holds %zu %s from before; %zu others are sent again", (long long)e->id, kept,
                is_task ? "tasks" : "direct requests", lost);
}

bool mh__holds_take(mh_controller *c, mh__channel channel, const mh__incoming *in)
{
    static const char *const keys[] = {"holds"};
    mh__json got[1] = {{0}};
    if (in->at != 2 || !mh__bytes_are(in->m.idents[1], MH__HOLDS_NAME))
        return false;
    mh__engine *e = mh__engine_find(c, in->m.idents[0]);
    bool is_list = mh__bytes_are(in->header.msg_type, "x_holds_reply");
    if (!e || (!is_list && !mh__bytes_are(in->header.msg_type, "kernel_info_reply")))
        return true;
    if (is_list && mh__json_pick(in->m.content, keys, 1, got))
        return true;
    use(c, e, channel, got[0]);
    if (is_list)
        tell_to_abort(c, e, channel, got[0]);
    return true;
}
