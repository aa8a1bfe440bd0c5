/* Digests of buffers. A message's signature covers its four JSON frames and not the buffers behind them, so who sits between two peers could swap
 * those. In a strict cluster ("x_buffers": "signed" in the connection files) the metadata of each message with buffers holds their SHA-256, in
 * order, as "x_buf", and what has none, or others, is refused. Encrypted connections need none of it: there nobody sits between. */
#ifndef MH_NET_SEAL_H
#define MH_NET_SEAL_H

#include "net/parcel.h"
#include "wire/message.h"

/* Add digests to a signed message that has buffers, and sign it again, unless as many digests as buffers are there already (who verified the message
 * verified those). Nothing is done where is_strict is off, or signatures are. errors: CORRUPT no message, or metadata that is no object; NO_MEMORY (p is
 * unchanged). */
MH_NODISCARD mh_err mh__seal_add(const mh__session *s, mh__parcel *p);
/* Whether a verified message's buffers are what its metadata says. errors: PERMISSION they are others, or it does not say. */
MH_NODISCARD mh_err mh__seal_check(const mh__session *s, const mh__message *m);

#endif
