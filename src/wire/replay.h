/* What a receiver remembers of the messages that it admitted, so that none is admitted twice.
 *
 * Only verified messages are recorded, so somebody without the key can't push anything out. Signatures are kept for at
 * least MH__REPLAY_NS, or until MH__REPLAY_COUNT more have come; memory is bounded. What is forgotten leaves a floor behind: message
 * ids end in a number that each writer counts up, so from the writers of forgotten messages no number up to theirs is
 * admitted any more. Clocks play no part: a peer whose clock jumps loses nothing.
 */
#ifndef MH_WIRE_REPLAY_H
#define MH_WIRE_REPLAY_H

#include "manyhands/base.h"

#define MH__REPLAY_NS (300 * MH_SECOND)
enum {
    MH__REPLAY_COUNT = 1 << 16,
    MH__REPLAY_WRITERS = 1 << 14, /* of whom floors are kept; beyond it the rest have only the signatures */
};

typedef struct mh__replay mh__replay;

/* errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__replay_create(mh__replay **out);
void mh__replay_destroy(mh__replay **r);
/* Admit a verified message at monotonic time `now`, and remember it. `signature`: any 16 or more bytes of it that are its own.
 * errors: EXISTS it was admitted before, or may have been; NO_MEMORY. */
MH_NODISCARD mh_err mh__replay_admit(mh__replay *r, mh_bytes signature, mh_bytes msg_id, int64_t now);

#endif
