/* The engine's end of the fast lane (net/lane.h): requests come as records, and replies go back by the lane by which their requests came. */
#include "cluster/engine_state.h"

#include "base/error.h"
#include "os/fd.h"
#include "os/unix.h"

#include <string.h>

enum { LOOK_MS = 1000 };

static void on_end(mh__lane *l, const char *why, void *ctx)
{
    mh_engine *e = ctx;
    (void)l;
    if (e->verbose)
        mh__at_engine_log(e, "the fast lane ended: %s", why);
    e->is_lane_welcome = false;
    mh__lane_close(&e->lane); /* replies go by the stock lane from now on */
    mh__alarm_set(e->loop, &e->lane_alarm, mh_deadline_in(LOOK_MS * MH_MILLISECOND));
}

static void say_hello(mh_engine *e)
{
    if (mh__lane_add(e->lane, &(mh__fast_record){.kind = MH__FAST_HELLO, .flags = MH__FAST_ENGINE | MH__FAST_BRIEF | MH__FAST_BORROWS, .ident_count = 1, .parts = {mh__text(e->uuid)}}) == MH_OK)
        (void)mh__lane_flush(e->lane);
}

/* As it would have come by the stock lane: [task_out, identities..., delimiter, no signature, header, ...]. */
static void take_request(mh_engine *e, const mh__fast_record *r)
{
    mh__parcel *p = e->lane_in;
    mh__parcel_clear(p);
    mh_err err = mh__parcel_add(p, MH__TEXT("task_out"));
    for (size_t i = 0; i < r->ident_count && !err; i++)
        err = mh__parcel_add(p, r->parts[i]);
    if (!err)
        err = mh__parcel_add(p, MH__TEXT(MH__WIRE_DELIMITER));
    if (!err)
        err = mh__parcel_add(p, (mh_bytes){"", 0});
    for (size_t i = 0; i < r->frame_count && !err; i++)
        err = mh__parcel_add(p, r->parts[r->ident_count + i]);
    if (err)
        mh__at_engine_end(e, err);
    else
        mh__at_engine_take_fast(e, p, r->flags & MH__FAST_QUIET);
}

static void take_brief(mh_engine *e, const mh__fast_record *r)
{
    mh__fast_task t;
    if (mh__fast_task_read(r, &t) || !t.who.size || !t.user.size)
        e->dropped++;
    else
        mh__at_engine_take_brief(e, &t);
}

static void take_revoke(mh_engine *e, const mh__fast_record *r)
{
    mh__fast_record answer = {.kind = MH__FAST_REVOKED, .ident_count = 1, .parts = {r->parts[0]}};
    if (r->ident_count != 1)
        return;
    answer.flags = mh__at_engine_give_back(e, r->parts[0]) ? MH__FAST_TAKEN : 0;
    if (mh__lane_add(e->lane, &answer))
        mh__at_engine_log(e, "an answer to the controller is lost: %s", mh_err_detail());
}

static void be_welcome(mh_engine *e, const mh__fast_record *r)
{
    e->is_lane_welcome = true;
    e->can_lend = r->flags & MH__FAST_BORROWS;
}

static void on_record(mh__lane *l, const mh__fast_record *r, void *ctx)
{
    mh_engine *e = ctx;
    switch (r->kind) {
    case MH__FAST_GREETING: say_hello(e); break;
    case MH__FAST_WELCOME: be_welcome(e, r); break;
    case MH__FAST_LEND: mh__lents_take(e->lents, l, r); break;
    case MH__FAST_REQUEST: take_request(e, r); break;
    case MH__FAST_TASK: take_brief(e, r); break;
    case MH__FAST_REVOKE: take_revoke(e, r); break;
    default: e->dropped++; break;
    }
}

void mh__at_engine_fast_alarm(void *ctx)
{
    mh_engine *e = ctx;
    int fd = -1;
    if (e->lane && e->is_lane_welcome)
        return;
    mh__lane_close(&e->lane); /* not welcome: the controller does not know us yet, or not any more */
    mh_err err = mh__os_unix_connect(&fd, e->connection.fast);
    if (!err)
        err = mh__lane_open(&e->lane, e->loop, &fd, &(mh__lane_options){.key = mh__text(e->connection.key), .on_record = on_record, .on_end = on_end,
                                                                        .ctx = e});
    mh__os_close(&fd);
    if (err != MH_ERR_PERMISSION) /* another user's: it won't become ours */
        mh__alarm_set(e->loop, &e->lane_alarm, mh_deadline_in(LOOK_MS * MH_MILLISECOND));
}

void mh__at_engine_fast_start(mh_engine *e)
{
    if (e->connection.fast[0] && !e->is_lane_welcome)
        mh__at_engine_fast_alarm(e);
}

void mh__at_engine_fast_flush(mh_engine *e)
{
    if (e->lane && mh__lane_waiting(e->lane))
        (void)mh__lane_flush(e->lane);
}

void mh__at_engine_fast_stop(mh_engine *e)
{
    if (!e->loop)
        return;
    mh__at_engine_fast_flush(e);
    mh__alarm_clear(e->loop, &e->lane_alarm);
    mh__lane_close(&e->lane);
    e->is_lane_welcome = false;
}
