/* Jupyter messages (protocol 5.3) as ipyparallel uses them, in frames:
 *
 *     [identity ...] <IDS|MSG> signature header parent_header metadata content [buffer ...]
 *
 * The signature is the lowercase hexadecimal HMAC-SHA256 of the four JSON frames; buffers are not covered by it. With an
 * empty key (CURVE protects the connection) signatures are empty.
 *
 *     mh__message m;
 *     mh__header h;
 *     mh_err err = mh__message_split(frames, count, &m);           // shape
 *     if (!err) err = mh__message_verify(&m, &signer);             // who wrote it: before anything in it is believed
 *     if (!err) err = mh__replay_admit(&replay, m.signature, h...) // only then is it remembered
 *     if (!err) err = mh__header_read(m.header, &h);               // JSON
 *
 * Nothing here allocates, and nothing is copied: views point into the frames, which must outlive them.
 */
#ifndef MH_WIRE_MESSAGE_H
#define MH_WIRE_MESSAGE_H

#include "wire/date.h"
#include "wire/json.h"

enum {
    MH__WIRE_IDENTS_MAX = 16,      /* identities before the delimiter */
    MH__WIRE_ID_MAX = 255,         /* bytes of an identity, a message's, session's or engine's name */
    MH__WIRE_HEADER_MAX = 1 << 16, /* bytes of a header or parent header */
    MH__WIRE_META_MAX = 1 << 22,   /* bytes of metadata */
    MH__SIGNATURE_SIZE = 64,
};
#define MH__WIRE_DELIMITER "<IDS|MSG>"

/* ---- signatures ------------------------------------------------------------------------------ */

/* HMAC-SHA256 under a key that ctx holds, over the parts one after the other. It can't fail. This module is pure, so the
 * digest comes from outside: net/sign.h. */
typedef void (*mh__digest_fn)(const mh_bytes *parts, size_t count, uint8_t digest[32], void *ctx);
typedef struct mh__signer {
    mh__digest_fn digest; /* NULL: messages are not signed */
    void *ctx;            /* used by one thread at a time */
} mh__signer;

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct mh__message {
    const mh_bytes *idents;
    size_t ident_count;
    mh_bytes signature, header, parent, metadata, content;
    const mh_bytes *buffers;
    size_t buffer_count;
} mh__message;

/* The parts of a message in received frames (borrowed). errors: CORRUPT no delimiter within MH__WIRE_IDENTS_MAX, too few
 * frames, or a JSON frame over its limit. */
MH_NODISCARD mh_err mh__message_split(const mh_bytes *frames, size_t count, mh__message *out);
/* Compare the signature, in constant time. errors: PERMISSION it is another, or missing. */
MH_NODISCARD mh_err mh__message_verify(const mh__message *m, const mh__signer *signer);

typedef struct mh__header {
    mh_bytes msg_id, msg_type, session, username; /* username, session: empty when absent */
    mh__json date;                                /* as it was written; absent in some hand-made messages */
    mh__json whole;
} mh__header;

/* Read a header. errors: CORRUPT no JSON object; msg_id or msg_type are missing, no strings, empty or too long. */
MH_NODISCARD mh_err mh__header_read(mh_bytes frame, mh__header *out);
/* The msg_id of a parent header; an empty object is valid and has none (size 0). errors: CORRUPT. */
MH_NODISCARD mh_err mh__parent_read(mh_bytes frame, mh_bytes *msg_id);

static inline bool mh__bytes_are(mh_bytes b, const char *text)
{
    return b.size == __builtin_strlen(text) && (!b.size || !__builtin_memcmp(b.data, text, b.size));
}
static inline bool mh__bytes_equal(mh_bytes a, mh_bytes b)
{
    return a.size == b.size && (!a.size || !__builtin_memcmp(a.data, b.data, a.size));
}
/* The bytes of a C string. */
static inline mh_bytes mh__text(const char *text) { return (mh_bytes){text, __builtin_strlen(text)}; }
#define MH__TEXT(literal) ((mh_bytes){(literal), sizeof(literal) - 1})

/* ---- writing --------------------------------------------------------------------------------- */

/* Who writes: message ids are <session>_<count>. */
typedef struct mh__session {
    mh__signer signer;
    char id[40];       /* the session's name: hexadecimal digits from the kernel's random numbers */
    char username[64];
    uint64_t count;    /* messages written so far */
    bool is_strict;    /* buffers are signed too: net/seal.h */
} mh__session;

typedef struct mh__draft {
    const char *type;
    mh_bytes msg_id;                   /* empty: a new one */
    mh_bytes parent, metadata, content; /* JSON objects as text; empty: {} */
    int64_t unix_ns;                   /* the date */
} mh__draft;

enum { MH__FRAMES_SIGNED = 6 };
/* The six frames of a signed message, delimiter first; identities go before and buffers after them. The parent, metadata and
 * content point to what the draft borrowed; the rest lies in here, so it must neither move nor be copied while in use. */
typedef struct mh__built {
    mh_bytes frames[MH__FRAMES_SIGNED];
    char signature[MH__SIGNATURE_SIZE];
    char header[1024];
    mh_bytes msg_id; /* within header */
} mh__built;

/* Write and sign. errors: INVALID the type or msg_id is too long, or holds what would need an escape. */
MH_NODISCARD mh_err mh__session_build(mh__session *s, const mh__draft *d, mh__built *out);
/* Sign four JSON frames that are there already; sets frames[] and signature. */
void mh__session_sign(const mh__session *s, mh_bytes header, mh_bytes parent, mh_bytes metadata, mh_bytes content,
                      mh__built *out);

#endif
