/* One end of a fast lane: a unix socket that carries records (wire/fast.h) in signed frames. What is added waits until it is flushed, and goes as one frame.
 *
 *     mh__lane *l = NULL;
 *     mh_err err = mh__lane_open(&l, loop, fd, &(mh__lane_options){.key = key, .on_record = take, .on_end = forget, .ctx = me});
 *     ... mh__lane_add(l, &record); ... once a round: mh__lane_flush(l);
 *     mh__lane_close(&l);
 *
 * Threads: the loop's; but add and flush may be called by any thread where the caller serialises all calls of the two with a lock of its own (see
 * mh__lane_options.is_shared).
 */
#ifndef MH_NET_LANE_H
#define MH_NET_LANE_H

#include "net/loop.h"
#include "net/sign.h"
#include "wire/fast.h"

typedef struct mh__lane mh__lane;
/* A record that came: borrowed. It may close the lane. The connecting end's first is a GREETING; nothing is sent before it. */
typedef void (*mh__lane_record_fn)(mh__lane *l, const mh__fast_record *r, void *ctx);
/* The peer has gone, or said what is not valid (then `why` says so). The lane is to be closed, in this call or later; nothing more comes. */
typedef void (*mh__lane_end_fn)(mh__lane *l, const char *why, void *ctx);

typedef struct mh__lane_options {
    mh_bytes key;         /* of the MACs; empty: none */
    bool is_listener;     /* greets the other end */
    bool is_shared;       /* other threads add and flush: what does not fit into the socket is left to mh__lane_flush calls, not to an alarm */
    mh__lane_record_fn on_record;
    mh__lane_end_fn on_end;
    void (*on_batch)(mh__lane *l, void *ctx); /* after the last record of what was read at once; may be NULL */
    void *ctx;
} mh__lane_options;

/* Takes *fd on success. errors: NO_MEMORY; SYSTEM. */
MH_NODISCARD mh_err mh__lane_open(mh__lane **out, mh__loop *l, int *fd, const mh__lane_options *o);
void mh__lane_close(mh__lane **l);

/* Queue a record. errors: TOO_LARGE it goes by another way; FULL too much waits for the peer to read; CLOSED; NO_MEMORY. */
MH_NODISCARD mh_err mh__lane_add(mh__lane *l, const mh__fast_record *r);
/* The same with records that are written already (mh__fast_write), whole. */
MH_NODISCARD mh_err mh__lane_add_written(mh__lane *l, mh_bytes records);
/* Write a record at once, with a descriptor (borrowed): its reader has both as soon as this has returned OK. errors: FULL there is no room now, and nothing was
 * written; CLOSED; TOO_LARGE; NO_MEMORY. */
MH_NODISCARD mh_err mh__lane_pass(mh__lane *l, const mh__fast_record *r, int fd);
/* In on_record: the descriptor that came with a record; -1: none did. owns: the caller. */
int mh__lane_take_fd(mh__lane *l);
/* Read some of what has come, now; the loop's thread. False: there was nothing, or the lane is no more. */
bool mh__lane_read(mh__lane *l);
/* Write what waits. False: some of it still does, for want of room. */
bool mh__lane_flush(mh__lane *l);
size_t mh__lane_waiting(const mh__lane *l);
/* Whether nothing is read for now: what comes waits at the peer. */
void mh__lane_pause(mh__lane *l, bool is_paused);

#endif
