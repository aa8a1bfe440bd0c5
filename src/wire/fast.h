/* The fast lane's bytes: messages as on the stock lane, many in one signed frame, without the text around them. Both ends are on one host, and ours.
 *
 *     frame:   u32 size of the records, u32 0, 16 bytes of a MAC, records
 *     record:  u32 size (of the whole, a multiple of 8), u8 kind, u8 flags, u16 idents, u32 frames, u32 0, i64 duration, u32 size of each part, the parts, zeros
 *
 * A record's parts are identities, then frames: header, parent, metadata, content, buffers. In replies the parent is only the id of the request, as it is: both
 * ends know its header. The MAC is the first half of an HMAC-SHA256 over a number that the
 * listener chose for the connection, the direction, the frame's number in it, its size, and its first MH__FAST_MAC_COVERS bytes: so nothing can be forged, played
 * again or left out by who has not the key. What lies beyond is buffers, which the stock lane does not sign either.
 *
 * Little-endian. Nothing here allocates or copies: views point into the frame.
 */
#ifndef MH_WIRE_FAST_H
#define MH_WIRE_FAST_H

#include "wire/message.h"

enum {
    MH__FAST_HEAD = 24,
    MH__FAST_MAC_SIZE = 16,
    MH__FAST_MAC_COVERS = 64 << 10,
    MH__FAST_PARTS_MAX = 64,           /* of a record: what has more goes by the stock lane */
    MH__FAST_RECORD_MAX = 256 << 10,   /* bytes of one: likewise */
    MH__FAST_FRAME_MAX = 4 << 20,      /* bytes of records in a frame: a peer that announces more is cut off */
    MH__FAST_NONCE_SIZE = 16,
};

typedef enum mh__fast_kind {
    MH__FAST_GREETING = 1, /* listener: one ident, the connection's number */
    MH__FAST_HELLO,        /* one ident, who connects: an engine's uuid or a client's session; flags: MH__FAST_ENGINE */
    MH__FAST_WELCOME,      /* the listener knows who it is, and will use this lane */
    MH__FAST_REQUEST,      /* a message to an engine, or from a client */
    MH__FAST_REPLY,        /* the other way */
    MH__FAST_REVOKE,       /* to an engine: one ident, the id of a request that is not to be begun */
    MH__FAST_REVOKED,      /* its answer; flags: MH__FAST_TAKEN, it was not and will not be begun */
    MH__FAST_TASK,         /* a request in brief (mh__fast_task), to an engine or from a client */
    MH__FAST_DONE,         /* its reply, the other way */
    MH__FAST_LEND,         /* with a descriptor: one ident, the key by which a message that comes by the stock lane names what is in it */
} mh__fast_kind;
enum {
    MH__FAST_ENGINE = 1, /* HELLO */
    MH__FAST_BORROWS = 4, /* HELLO, WELCOME: who says it understands LEND */
    MH__FAST_KEY_SIZE = 16,
    MH__FAST_BRIEF = 2,  /* HELLO: who says it understands TASK and DONE; a client names its user in a frame. WELCOME: so does the listener */
    MH__FAST_QUIET = 1,  /* REQUEST: nobody wants to hear when it begins and ends */
    MH__FAST_TAKEN = 1,  /* REVOKED */
};

typedef struct mh__fast_record {
    mh__fast_kind kind;
    uint8_t flags;
    int64_t duration_ns; /* REPLY: how long it ran; 0: not known */
    size_t ident_count, frame_count;
    mh_bytes parts[MH__FAST_PARTS_MAX]; /* idents, then frames */
} mh__fast_record;

/* How many bytes a record with these parts takes; 0: it has too many parts, or is too large. */
size_t mh__fast_size(const mh__fast_record *r);
/* Write it to `to`, which has that much room. */
void mh__fast_write(const mh__fast_record *r, void *to);
/* The next record of *at, which moves behind it. errors: EMPTY there is none; CORRUPT. */
MH_NODISCARD mh_err mh__fast_next(mh_bytes *at, mh__fast_record *out);

/* ---- requests and replies in brief ----------------------------------------------------------- */

/* A balanced request, or its reply, without the text of a message: that can be made of it, the same by everybody, when somebody asks (cluster/brief.h).
 * Everything is borrowed. */
enum {
    MH__FAST_CALL = 2,       /* TASK and DONE: a call_request, and `what` its function; else an apply_request */
    MH__FAST_NOT_MET = 4,    /* DONE: a dependency is not met */
    MH__FAST_SILENT = 8,     /* DONE: the engine published nothing meanwhile */
    MH__FAST_TASK_HEAD = 48, /* bytes of the fixed part, in a record's first identity */
    MH__FAST_CLIENT_MAX = 39, /* bytes of a client's name, .. */
    MH__FAST_USER_MAX = 63,   /* .. of a user's, .. */
    MH__FAST_NAME_MAX = 255,  /* .. and of a function's; all of them plain ASCII that needs no escape */
};
typedef struct mh__fast_task {
    bool is_reply;
    uint8_t flags;
    uint64_t number;     /* the request's id is "<client>_<number>" */
    uint64_t ref, token; /* between controller and engine: what the controller knows the attempt by; the engine gives both back */
    int64_t date_ns;     /* when it was made, by the wall clock */
    int64_t started_ns;  /* DONE: when the task was begun, likewise */
    int64_t duration_ns; /* DONE: how long it ran; 0: not known */
    mh_bytes who, user;  /* of a request, to an engine: its client, and the client's user. Of a reply, to a client: the engine. Else empty */
    mh_bytes what;       /* TASK: of a call, the function's name. DONE: the content, a JSON object; empty: {"status":"ok"} */
    mh_bytes metadata;   /* TASK: a JSON object; empty: {} */
    const mh_bytes *buffers;
    size_t buffer_count;
} mh__fast_task;

/* As a record, whose fixed part lies in `fixed`. False: it has too many parts. */
bool mh__fast_task_record(const mh__fast_task *t, uint8_t fixed[MH__FAST_TASK_HEAD], mh__fast_record *out);
/* errors: CORRUPT it is no TASK or DONE, or a name in it is not plain. */
MH_NODISCARD mh_err mh__fast_task_read(const mh__fast_record *r, mh__fast_task *out);
/* Whether it is 1 to `most` characters that stand for themselves in JSON. */
bool mh__fast_is_plain(mh_bytes text, size_t most);

/* ---- authenticity ---------------------------------------------------------------------------- */

/* The MAC of a frame's records. */
typedef struct mh__fast_mac_input {
    const uint8_t *nonce;
    bool from_listener;
    uint64_t number;
} mh__fast_mac_input;
void mh__fast_mac(const mh__signer *signer, const mh__fast_mac_input *in, mh_bytes records, uint8_t out[MH__FAST_MAC_SIZE]);
/* In constant time. */
bool mh__fast_mac_is(const uint8_t a[MH__FAST_MAC_SIZE], const uint8_t b[MH__FAST_MAC_SIZE]);

/* The records of a frame of four JSON frames and buffers as a message. errors: CORRUPT it has fewer than four frames, or one is over its limit. */
MH_NODISCARD mh_err mh__fast_message(const mh__fast_record *r, mh__message *out);

#endif
