/* What is written down about a request, as one row of a database: a few numbers, a name, and the frames of a message.
 *
 *     0 magic | 4 kind | 8 seq | 16 order | 24 token | 32 time | 40 how | 44 at | 48 name's size | 52 frames
 *     56 size of each frame, the top bit set where its bytes are not in this row | name | bytes of frames | CRC-32C of all this
 *
 * Numbers are little-endian. What is read is checked in full before any of it is believed: a disk may have lied.
 */
#ifndef MH_CLUSTER_ENTRY_H
#define MH_CLUSTER_ENTRY_H

#include "manyhands/base.h"

typedef enum mh__entry_kind {
    MH__ENTRY_REQUEST = 0, /* it came; how: MH__ENTRY_IS_TASK */
    MH__ENTRY_PLACE,       /* a task was given to the engine `name` under `token`; order: of assignments */
    MH__ENTRY_RESULT,      /* it ended as `how` (mh_sched_outcome) at `time`, at the engine `name`; order: of results */
    MH__ENTRY_EXTRA,       /* what it printed, and the id that it was submitted again under */
    MH__ENTRY_NOTE,        /* of the controller's own, seq 0: order: results up to it are delivered; token: the generation */
    MH__ENTRY_ENGINES,     /* the same, frame 0: who is registered, as JSON */
    MH__ENTRY_KINDS = 8
} mh__entry_kind;
enum { MH__ENTRY_IS_TASK = 1, MH__RESULT_HELD = 1 /* token of a RESULT: its client was away, or slow */ };

typedef struct mh__entry {
    mh__entry_kind kind;
    uint64_t seq, order, token;
    int64_t time_ns;
    uint32_t how, at; /* at: of the delimiter among the frames */
    mh_bytes name;
    const mh_bytes *frames;
    size_t frame_count;
} mh__entry;

/* The key of its row: all rows of a request are neighbours. */
static inline int64_t mh__entry_id(uint64_t seq, mh__entry_kind kind) { return (int64_t)(seq * MH__ENTRY_KINDS + kind); }
#define MH__ENTRY_SEQ_MAX (INT64_MAX / MH__ENTRY_KINDS - 1)

/* Large frames are rows of their own, in pieces: a row has limits, and these need not be copied. `total` starts at 0 for each entry. */
enum {
    MH__ENTRY_INLINE_MAX = 64 << 10,
    MH__ENTRY_INLINE_TOTAL = 16 << 20,
    MH__ENTRY_PIECE = 64 << 20,
    MH__ENTRY_PIECES_MAX = 64, /* of one frame */
};
bool mh__entry_is_inline(size_t size, size_t *total);
static inline int64_t mh__entry_piece(size_t frame, size_t piece) { return (int64_t)(frame * MH__ENTRY_PIECES_MAX + piece); }

/* Append e as a row. errors: NO_MEMORY; TOO_LARGE. */
MH_NODISCARD mh_err mh__entry_pack(const mh__entry *e, mh_buf *to);
/* Read the row with this key. Frames that are elsewhere have data NULL. The name and frames borrow from `row`; `frames` gets the
 * array of them. errors: CORRUPT; NO_MEMORY. */
MH_NODISCARD mh_err mh__entry_unpack(int64_t id, mh_bytes row, mh__entry *out, mh_buf *frames);

#endif
