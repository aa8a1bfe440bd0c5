/* A ring whose memory another process has written at will: every operation must come back, with any result, and touch nothing outside.
 *
 * Input: the first byte chooses which words of a valid, used ring are overwritten, and with how many operations it is then used; the rest is what
 * is written over the head and over the ring's bytes. */
#include "base/number.h"
#include "queue/ring.h"

#include <stdlib.h>
#include <string.h>

enum { CAPACITY = 4096, OUT = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The words that change while a ring is used: what a hostile peer would aim at. */
static void overwrite(mh__ring_shared *s, const uint8_t *data, size_t size)
{
    _Atomic uint64_t *words[] = {&s->tail, &s->head, &s->seen_head, &s->seen_tail, &s->stream, &s->stream_start,
                                 &s->base, &s->grown, &s->pushed, &s->done, &s->wanted_units};
    for (size_t at = 0; at + 3 <= size && at < 48; at += 3) {
        size_t i = data[at] % (MH__COUNT_OF(words) + 3);
        uint64_t value = (uint64_t)data[at + 1] << (data[at + 2] & 63);
        if (i < MH__COUNT_OF(words))
            atomic_store(words[i], data[at + 2] & 64 ? atomic_load(words[i]) + value : value);
        else if (i == MH__COUNT_OF(words))
            atomic_store(&s->door, (uint32_t)value);
        else if (i == MH__COUNT_OF(words) + 1)
            atomic_store(&s->closed, (uint32_t)value);
        else
            s->pop_lock.word = value; /* held by somebody, or nobody */
    }
}

static void use(mh__ring *r, uint64_t choices)
{
    static unsigned char from[3 * CAPACITY], to[OUT];
    for (int i = 0; i < 16; i++, choices = choices >> 4 | choices << 60) {
        size_t got = 0, sizes[4];
        uint32_t tag;
        mh_buf *buf = NULL;
        mh_bytes parts[] = {{from, (size_t)(choices >> 8 & 0x3ff)}, {from, choices & 16 ? sizeof from : 5}};
        mh_err err = MH_OK;
        switch (choices & 7) {
        case 0: err = mh__ring_push(r, parts, 2, (uint32_t)(choices >> 20 & 15), MH_NOW); break;
        case 1: err = mh__ring_push_many(r, parts, 2, MH_NOW, &got); break;
        case 2: err = mh__ring_pop_into(r, to, sizeof to, MH_NOW, &got, &tag); break;
        case 3: err = mh__ring_pop_buf(r, MH_NOW, &buf); break;
        case 4: err = mh__ring_pop_many(r, to, sizeof to, sizes, 4, MH_NOW, &got); break;
        case 5: err = mh__ring_wait(r, MH_NOW); break;
        case 6: err = mh__ring_task_done(r); break;
        case 7: err = mh__door_watch(r); break;
        }
        if (!err && got > OUT)
            abort();
        mh_buf_destroy(&buf);
        (void)(mh__ring_count(r) + mh__ring_is_empty(r) + mh__ring_is_full(r));
        if (mh__ring_join(r, MH_NOW))
            (void)mh__ring_count_unfinished(r);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh__ring_shared *s = aligned_alloc(64, sizeof *s);
    unsigned char *bytes = malloc(CAPACITY);
    mh__ring r;
    uint64_t choices = 0;
    if (!s || !bytes || size < 8 || mh__ring_init(s, CAPACITY, 0, OUT, CAPACITY) || mh__ring_attach(&r, s, bytes, CAPACITY))
        goto done;
    memcpy(&choices, data, 8);
    r.grace_ns = 0;
    r.spins = false;
    memset(bytes, 0, CAPACITY);
    if (mh__ring_push(&r, &(mh_bytes){data, size > 200 ? 200 : size}, 1, 0, MH_NOW))
        abort();
    overwrite(s, data + 8, size - 8);
    for (size_t i = 0; i < (size - 8) / 2; i++) /* records, from the start and from where the first ends */
        bytes[(i + (choices & 1 ? 0 : 8)) % CAPACITY] = data[8 + i];
    if (choices & 2) { /* and the head itself, as a new peer would find it */
        memcpy(s, data + 8, MH__MIN(size - 8, sizeof *s));
        if (mh__ring_attach(&r, s, bytes, CAPACITY))
            goto done;
        r.grace_ns = 0;
        r.spins = false;
    }
    use(&r, choices);
done:
    free(s);
    free(bytes);
    return 0;
}
