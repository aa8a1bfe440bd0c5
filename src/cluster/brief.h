/* Requests and replies of the fast lane in brief (mh__fast_task): kept, and made into the messages that they stand for. Controller, engine and client make the
 * same message of the same brief, so that what a client was told is what the history says.
 *
 * threads: any; no state.
 */
#ifndef MH_CLUSTER_BRIEF_H
#define MH_CLUSTER_BRIEF_H

#include "net/parcel.h"
#include "wire/fast.h"

/* A copy in one block, for mh__free; *bytes: its size. NULL: no memory. */
mh__fast_task *mh__brief_copy(const mh__fast_task *t, size_t *bytes);

/* The id of a request: "<client>_<number>". Its size; `out` has room for MH__BRIEF_ID_SIZE. */
enum { MH__BRIEF_ID_SIZE = MH__FAST_CLIENT_MAX + 1 + 20 };
size_t mh__brief_id(mh_bytes client, uint64_t number, char out[MH__BRIEF_ID_SIZE]);
/* The content of a call. Its size; `out` has room for MH__BRIEF_CONTENT_SIZE. */
enum { MH__BRIEF_CONTENT_SIZE = MH__FAST_NAME_MAX + 16 };
size_t mh__brief_content(mh_bytes function, char out[MH__BRIEF_CONTENT_SIZE]);
/* The function that such a content calls, where it is written like that; else empty. */
mh_bytes mh__brief_function(mh_bytes content);
/* The content of a reply as it is in brief: empty for that of success. */
mh_bytes mh__brief_said(mh_bytes content);
/* Whether a reply's metadata need nothing of the request's. errors: CORRUPT they are no JSON object. */
MH_NODISCARD mh_err mh__brief_is_plain(mh_bytes metadata, bool *is_plain);

/* Append the frames of the message from its delimiter on, with an empty signature. errors: NO_MEMORY; CORRUPT; INVALID. */
MH_NODISCARD mh_err mh__brief_add_request(mh__parcel *p, const mh__fast_task *t, mh_bytes client, mh_bytes user);
/* The same of a reply: `metadata` are the request's (empty: {}), `parent` its header. */
MH_NODISCARD mh_err mh__brief_add_reply(mh__parcel *p, const mh__fast_task *t, mh_bytes engine, mh_bytes parent, mh_bytes metadata);

#endif
