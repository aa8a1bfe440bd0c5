/* A multipart message whose frames it owns: what sockets receive into and send from. No frame over 33 bytes is ever copied
 * on the way from one socket to another.
 *
 * threads: one at a time.
 */
#ifndef MH_NET_PARCEL_H
#define MH_NET_PARCEL_H

#include "manyhands/base.h"

enum { MH__PARCEL_FRAMES_MAX = 1 << 16 };

typedef struct mh__parcel mh__parcel;

/* errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__parcel_create(mh__parcel **out);
void mh__parcel_destroy(mh__parcel **p);

/* The frames, borrowed until the parcel changes. */
const mh_bytes *mh__parcel_frames(const mh__parcel *p);
size_t mh__parcel_count(const mh__parcel *p);
/* All their bytes. */
size_t mh__parcel_bytes(const mh__parcel *p);
/* The descriptor of the connection by which it came in, which the events of its socket name too; -1: not known. */
int mh__parcel_connection(const mh__parcel *p);

void mh__parcel_clear(mh__parcel *p);
/* Put a copy of frame `at`, which should be a small one, in its place; release(NULL, ctx) is called from any thread when nothing needs it any
 * more: when it has left, or was dropped. errors: INVALID no such frame; NO_MEMORY (the parcel is unchanged). */
typedef void (*mh__release_fn)(void *data, void *ctx);
MH_NODISCARD mh_err mh__parcel_watch(mh__parcel *p, size_t at, mh__release_fn release, void *ctx);
/* Give *from's frames to *to, whose own are dropped; *from is empty then. Cheap: the two change places. */
void mh__parcel_move(mh__parcel *to, mh__parcel *from);

/* Copy frames below 4 KiB that share the block in which they were received with other messages, so that keeping this parcel keeps
 * nothing else. errors: NO_MEMORY (some still share). */
MH_NODISCARD mh_err mh__parcel_settle(mh__parcel *p);

/* Each adds a frame at the end. errors: NO_MEMORY; LIMIT (the parcel is unchanged, and what was to be given stays the caller's). */
MH_NODISCARD mh_err mh__parcel_add(mh__parcel *p, mh_bytes copied);
/* Frames [first, first + count) of another parcel, shared with it. */
MH_NODISCARD mh_err mh__parcel_share(mh__parcel *p, const mh__parcel *from, size_t first, size_t count);
/* Bytes that stay where they are; release(data, ctx) is called from any thread when nothing needs them any more. */
MH_NODISCARD mh_err mh__parcel_lend(mh__parcel *p, mh_bytes lent, mh__release_fn release, void *ctx);
/* Another content for a frame that is there. errors: NO_MEMORY (it is unchanged). */
MH_NODISCARD mh_err mh__parcel_replace(mh__parcel *p, size_t frame, mh_bytes lent, mh__release_fn release, void *ctx);
void mh__parcel_blank(mh__parcel *p, size_t frame); /* none */
/* A buffer, which the parcel then owns: *buf becomes NULL. */
MH_NODISCARD mh_err mh__parcel_give(mh__parcel *p, mh_buf **buf);

#endif
