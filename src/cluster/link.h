/* Messages between an engine and its Python executor, over a pipe in shared memory: a kind, and frames.
 *
 * Layout, little-endian: u32 kind, u32 count, u64 size[count], then the frames, each at the next multiple of 16 bytes counted
 * from the start, and nothing after the last. The executor runs its user's code, so whatever it writes is checked.
 */
#ifndef MH_CLUSTER_LINK_H
#define MH_CLUSTER_LINK_H

#include "manyhands/queue.h"

enum { MH__LINK_ALIGN = 16, MH__LINK_FRAMES_MAX = 1 << 16 };

/* What a message is. The engine sends SETUP, then requests; the executor READY, then replies and output. */
typedef enum mh__link_kind {
    MH__LINK_SETUP = 1,   /* [settings] */
    MH__LINK_APPLY = 2,   /* [u32 number of its claim, buffer, ...] */
    MH__LINK_EXECUTE = 3, /* [content] */
    MH__LINK_OTHER = 4,   /* [message type, content] */
    MH__LINK_READY = 16,  /* [] */
    MH__LINK_REPLY = 17,  /* [content, "1" unless a dependency is not met, buffer, ...] */
    MH__LINK_OUTPUT = 18, /* [message type, content, metadata, buffer, ...] */
} mh__link_kind;

/* Calls are handed to the executor ahead of their turn, and may be taken back. So each has a claim, a u32 in memory that both share: who brings it from
 * OFFERED to something else first has the call. The executor makes it FREE again, before it answers, or when it passes by a call that was taken back. */
enum { MH__LINK_CLAIMS = 64 };
typedef enum mh__link_claim {
    MH__LINK_FREE = 0,
    MH__LINK_OFFERED,  /* by the engine */
    MH__LINK_BEGUN,    /* by the executor */
    MH__LINK_REVOKED,  /* by the engine */
} mh__link_claim;

/* A message that came: frames point into buf. Both are the holder's. */
typedef struct mh__link_message {
    uint32_t kind;
    size_t count;
    mh_bytes *frames;
    mh_buf *buf;
} mh__link_message;

/* errors: those of mh_pipe_send_parts; LIMIT too many frames; NO_MEMORY. */
MH_NODISCARD mh_err mh__link_send(mh_pipe *p, uint32_t kind, const mh_bytes *frames, size_t count, mh_deadline until);
/* errors: those of mh_pipe_receive; CORRUPT (the message is gone). owns: the caller clears *out after OK. */
MH_NODISCARD mh_err mh__link_receive(mh_pipe *p, mh_deadline until, mh__link_message *out);
void mh__link_message_clear(mh__link_message *m);
/* Where the frames of a message lie. errors: CORRUPT; NO_MEMORY. owns: the caller frees *frames (mh__free) after OK. */
MH_NODISCARD mh_err mh__link_parse(mh_bytes message, uint32_t *kind, mh_bytes **frames, size_t *count);

#endif
