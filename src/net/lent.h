/* Large buffers between processes of ours on one host: a buffer is a memfd that nobody can change any more. Its descriptor goes by the fast lane, under a key, and the
 * message by the stock lane, with an empty frame in the buffer's place; its (signed) metadata say which: "x_lent": [[index, key], ...]. Who sends passes the
 * descriptors first. So who gets the message has them, once it has read its lane; it maps them where the frames were, and everybody behind it sees a message like
 * any other. Who can't pass a descriptor sends the bytes.
 *
 *     sender:    mh__lent_offer o = {0};
 *                for each buffer >= MH__LENT_FROM:  if (mh__lent_add(&o, index, bytes, lane) == MH_OK) ... leave the frame empty ...
 *                mh__lent_write(&o, metadata, buf);                      // the metadata to send
 *     receiver:  on MH__FAST_LEND:     mh__lents_take(table, lane, record);
 *                on a message:         if (mh__lent_is_named(metadata)) err = mh__lents_claim(table, lane, metadata, parcel, first buffer);
 *
 * Threads: a table is its loop's; what was mapped is let go of in any thread, also after the table is gone.
 */
#ifndef MH_NET_LENT_H
#define MH_NET_LENT_H

#include "net/lane.h"
#include "net/parcel.h"

enum {
    MH__LENT_FROM = 1 << 20, /* bytes of a buffer: with less, copying is as cheap */
    MH__LENT_BUFFERS_MAX = 8, /* of one message */
    MH__LENT_WAITING_MAX = 1024, /* buffers that came and that no message has named yet: the oldest are dropped */
    MH__LENT_OPEN_MAX = 128,  /* descriptors of mapped buffers that are kept to be passed on; what is beyond goes as bytes */
};

typedef struct mh__lents mh__lents;
/* passes_on: descriptors are kept for mh__lents_pass_on, as long as their buffers are used. errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__lents_create(mh__lents **out, bool passes_on);
void mh__lents_destroy(mh__lents **t);

/* ---- sending --------------------------------------------------------------------------------- */

typedef struct mh__lent_offer {
    size_t count;
    size_t index[MH__LENT_BUFFERS_MAX];
    uint8_t key[MH__LENT_BUFFERS_MAX][MH__FAST_KEY_SIZE];
} mh__lent_offer;
/* Copy bytes into a memfd and pass it. errors: FULL, CLOSED, NO_SPACE, LIMIT, SYSTEM: the bytes are to be sent. */
MH_NODISCARD mh_err mh__lent_add(mh__lent_offer *o, size_t index, mh_bytes bytes, mh__lane *lane);
/* Append metadata (a JSON object, or empty) with what was passed. errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__lent_write(const mh__lent_offer *o, mh_bytes metadata, mh_buf *to);

/* Pass on the buffers of p that were mapped by this table. *out: p with empty frames in their place; NULL: there are none that could be passed. errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__lents_pass_on(mh__lents *t, const mh__parcel *p, mh__lane *lane, mh__parcel **out);

/* ---- receiving ------------------------------------------------------------------------------- */

/* A LEND record that came by this lane. What is not valid is closed. */
void mh__lents_take(mh__lents *t, mh__lane *lane, const mh__fast_record *r);
bool mh__lent_is_named(mh_bytes metadata);
/* Put what the metadata name into empty frames, of which the first buffer is frame `first`; what is not here yet is read from the lane (NULL: none), which may end by
 * it. errors: CORRUPT; NOT_FOUND no such buffer came; NO_MEMORY. */
MH_NODISCARD mh_err mh__lents_claim(mh__lents *t, mh__lane *lane, mh_bytes metadata, mh__parcel *p, size_t first);

#endif
