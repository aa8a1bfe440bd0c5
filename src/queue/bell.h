/* An event count in shared memory: who rings pays for a system call only when somebody may be asleep.
 *
 * Bit 0 of the word says that somebody may be asleep; the rest counts. A sleeper prepares (which changes the word and sets the bit),
 * looks at its condition once more, and sleeps only while the word is what it prepared. Who has made the condition true rings. The bit
 * is cleared by a ring that woke nobody, so that a sleeper which was killed costs one idle system call and no more.
 * A wake that a killed process owed or swallowed is made up for by the sleeper, which looks again after a bounded time.
 */
#ifndef MH_QUEUE_BELL_H
#define MH_QUEUE_BELL_H

#include "os/futex.h"

#include <stdatomic.h>

typedef struct mh__bell {
    _Atomic uint32_t word;
} mh__bell;

/* What to sleep on, if the condition still does not hold afterwards. */
static inline uint32_t mh__bell_prepare(mh__bell *bell)
{
    uint32_t now = atomic_load(&bell->word), next;
    do
        next = (now + 2) | 1;
    while (!atomic_compare_exchange_weak(&bell->word, &now, next));
    return next;
}

static inline bool mh__bell_is_wanted(mh__bell *bell) { return atomic_load(&bell->word) & 1; }

/* Wake up to `count` sleepers. Call it after a sequentially consistent store that made their condition true. */
static inline void mh__bell_ring(mh__bell *bell, int count)
{
    if (!mh__bell_is_wanted(bell))
        return;
    uint32_t rung = atomic_fetch_add(&bell->word, 2) + 2;
    if (mh__os_futex_wake(&bell->word, count) == 0)
        atomic_compare_exchange_strong(&bell->word, &rung, (rung + 2) & ~UINT32_C(1)); /* fails when another prepared */
}

#endif
