/* A ring of messages of any size in shared memory, with a lock at each end: what queues and pipes are made of.
 *
 * The lock at an end keeps its users apart; between the ends there is none. A cursor is one word that holds a position (in units of
 * 8 bytes) and a count of messages: the producer moves `tail` by one store after the message is complete, the consumer
 * moves `head` by one store after it has copied the message out. Who is killed before that store has changed nothing.
 * So whoever inherits a lock from the dead has nothing to repair but the state of a stream.
 *
 * A message that is larger than the ring goes through it as a stream of pieces, while its producer holds the producers' lock and
 * its consumer the consumers'. The word `stream` says what became of it:
 *
 *     IDLE -> STREAMING -> COMPLETE (by the producer, before it publishes the last piece) -> IDLE
 *     STREAMING -> RESTART (by a consumer that gives up, or that finds pieces whose consumer has died): the producer begins again
 *     STREAMING -> IDLE (by a producer that gives up, or the next one after a dead one): the consumer forgets the pieces
 *
 * Waiting goes by event counts (bell.h). The `door` is for those who wait in poll(2), see door.c.
 */
#ifndef MH_QUEUE_RING_H
#define MH_QUEUE_RING_H

#include "manyhands/queue.h"
#include "manyhands/sync.h"
#include "queue/bell.h"

#include <stdalign.h>

/* Lies in shared memory. Each cache line has one kind of writer. */
typedef struct mh__ring_shared {
    /* written before anybody else sees it */
    uint64_t capacity_bytes, max_items, max_message_bytes;

    alignas(64) mh_mutex push_lock;
    _Atomic uint64_t seen_head; /* guard: push_lock. What head was at least: spares reading it while there is room */
    _Atomic uint64_t pushed;    /* guard: push_lock. All messages ever pushed; tail has its low bits, and is right when they differ */
    _Atomic uint64_t grown;     /* guard: push_lock. Bytes of the ring that have memory under them */
    _Atomic uint64_t base;      /* guard: both locks. Where in the ring position 0 lies, in units */
    _Atomic uint32_t patient;   /* the holder of push_lock waits for room: a hint for those who do not want to */

    alignas(64) _Atomic uint64_t tail;   /* guard: push_lock */
    _Atomic uint64_t stream;             /* guard: see above */
    _Atomic uint64_t stream_start;       /* guard: push_lock. Where tail was when it began */

    alignas(64) mh_mutex pop_lock;
    _Atomic uint64_t seen_tail; /* guard: pop_lock. What tail was at least */

    alignas(64) _Atomic uint64_t head; /* guard: pop_lock */

    alignas(64) mh__bell items; /* rung when there is a message */
    _Atomic uint32_t door;      /* see door.c */
    _Atomic uint32_t closed;
    _Atomic uint32_t left;      /* pipes: how often a handle of the consumers' end was destroyed: a hint to look */

    alignas(64) mh__bell room;      /* rung when there is room */
    _Atomic uint64_t wanted_units;  /* what the last producer that went to sleep waits for: a hint */

    alignas(64) _Atomic uint64_t done; /* messages that mh_queue_task_done was called for */
    mh__bell joined;                   /* rung when done reaches pushed */
} mh__ring_shared;

/* How pollers are told: see door.c. */
typedef struct mh__door {
    int ring, eat;  /* descriptors: where producers write a token, and where consumers read it */
    bool is_socket; /* two ends of a socket, else one eventfd, which consumers can write to as well */
} mh__door;
enum { MH__DOOR_TOKEN = 0xa5 }; /* the byte that is a token in a socket */

/* A process's view. All but the luck is constant after attaching. */
typedef struct mh__ring {
    mh__ring_shared *s;
    unsigned char *data;
    uint64_t capacity, units, max_items, max_message; /* copies: shared memory is not asked twice */
    uint64_t chunk;                                   /* bytes in a piece of a stream */
    int memory;                                       /* descriptor under data, or -1 when all of it is allocated */
    size_t data_offset;
    mh__door door;
    bool (*is_gone)(void *ctx); /* whether the other side is gone for good; NULL: it never is */
    void *ctx;
    int64_t grace_ns;
    bool spins;
    _Atomic uint32_t push_luck, pop_luck;
} mh__ring;

/* Where a popped message goes: `place` returns room for `size` bytes, or says why not. */
typedef struct mh__sink {
    mh_err (*place)(struct mh__sink *sink, uint64_t size, unsigned char **out);
    void *ctx;
    size_t capacity, size;
    uint32_t tag; /* of the message, known before it is placed */
} mh__sink;

/* The capacity that is really used. errors: INVALID. */
mh_err mh__ring_capacity(size_t asked, size_t fallback, uint64_t *out);
/* Lay out an empty ring in s. */
mh_err mh__ring_init(mh__ring_shared *s, uint64_t capacity, uint64_t max_items, uint64_t max_message, uint64_t grown);
/* Check what can be checked of s and make a view. `room` is how many bytes lie at data. errors: CORRUPT. */
mh_err mh__ring_attach(mh__ring *r, mh__ring_shared *s, unsigned char *data, uint64_t room);

mh_err mh__ring_push(mh__ring *r, const mh_bytes *parts, size_t count, uint32_t tag, mh_deadline until);
mh_err mh__ring_push_many(mh__ring *r, const mh_bytes *messages, size_t count, mh_deadline until, size_t *pushed);
mh_err mh__ring_pop(mh__ring *r, mh__sink *sink, mh_deadline until);
mh_err mh__ring_pop_buf(mh__ring *r, mh_deadline until, mh_buf **out);
mh_err mh__ring_pop_into(mh__ring *r, void *buffer, size_t capacity, mh_deadline until, size_t *size, uint32_t *tag);
mh_err mh__ring_pop_many(mh__ring *r, void *buffer, size_t capacity, size_t *sizes, size_t most, mh_deadline until, size_t *count);
mh_err mh__ring_wait(mh__ring *r, mh_deadline until);
void mh__ring_close(mh__ring *r);
/* Wake everybody, so that they look around. */
void mh__ring_rouse(mh__ring *r);

size_t mh__ring_count(const mh__ring *r);
bool mh__ring_is_empty(const mh__ring *r);
bool mh__ring_is_full(const mh__ring *r);
mh_err mh__ring_task_done(mh__ring *r);
uint64_t mh__ring_count_unfinished(const mh__ring *r);
mh_err mh__ring_join(mh__ring *r, mh_deadline until);

/* door.c: called by the ring with the named lock held. */
void mh__door_ring(mh__ring *r);   /* push_lock: before and after a message is published */
void mh__door_settle(mh__ring *r); /* pop_lock: after a message was taken */
void mh__door_tidy(mh__ring *r);   /* pop_lock: it was found that there is no message */
void mh__door_await(mh__ring *r);  /* no lock: before it is said that there is no message */
/* Begin to tell pollers, and bring the descriptor up to date. Takes pop_lock. */
mh_err mh__door_watch(mh__ring *r);
/* Put the first token into a new socket, through the producers' end. */
mh_err mh__door_prepare(int ring);
/* The token that may be on its way must be behind what was just sent through the socket: write another. Takes push_lock. */
void mh__door_repeat(mh__ring *r);

/* ring.c, for door.c */
mh_err mh__ring_lock(mh_mutex *m, mh_deadline until);
bool mh__ring_has_bytes(const mh__ring *r);

#endif
