/* manyhands/queue.h: bounded queues and two-ended pipes of messages, between processes and threads.
 *
 *     mh_queue *q = NULL;
 *     mh_buf *message = NULL;
 *     mh_err err = mh_queue_create(&q, NULL);
 *     if (!err && fork() == 0)
 *         _exit(mh_queue_push(q, (mh_bytes){"hello", 5}, MH_FOREVER));
 *     if (!err)
 *         err = mh_queue_pop(q, mh_deadline_in(MH_SECOND), &message);
 *     if (!err)
 *         printf("%.*s\n", (int)mh_buf_size(message), (const char *)mh_buf_data(message));
 *     mh_buf_destroy(&message);
 *     mh_queue_destroy(&q);
 *
 * Messages are copied into a ring in shared memory and out of it; no thread and no other process stands between. When a
 * push has returned, a pop by anybody finds the message. The messages of one producer come in its order.
 *
 * What holds when a user is killed at any instruction (SIGKILL, in any process):
 * - Nobody waits for ever for it: the others recover its lock within about 50 ms and go on.
 * - No message is torn: a message is published by one store after it is complete, and removed by one store after it was
 *   copied out. A killed producer's message is there whole or not at all.
 * - A message that a killed consumer had not yet taken in full stays for the next. What it had taken is gone with it.
 *   One exception: of a message larger than the ring, which passes through it in pieces, the last pieces may be gone with the killed
 *   consumer when its producer has finished already; while the producer is still at it, it starts again for the next consumer.
 * A stopped user (SIGSTOP) is alive: one that is stopped in the middle of copying holds up its own side (pushes or pops)
 * until the others' deadlines. One that is stopped while it waits for a message or for room holds up nobody.
 *
 * MH_NOW does not wait for messages or for room, but lets another user who is just copying finish, for at most 100 ms. A
 * message larger than the ring, once begun, goes on beyond the deadline as long as the other side moves at least every 100 ms.
 *
 * What other processes write into the memory is checked: the worst that they can do is MH_ERR_CORRUPT, wrong
 * bytes in messages, or waits until the deadline.
 *
 * Threads: any thread may call any function on any handle, but nothing else may run on a handle that is being destroyed.
 * A handle works in a child after a fork, as another user. Not from signal handlers.
 */
#ifndef MANYHANDS_QUEUE_H
#define MANYHANDS_QUEUE_H

#include "manyhands/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mh_queue mh_queue; /* this process's handle of a queue */
typedef struct mh_pipe mh_pipe;   /* this process's handle of one end of a pipe */

/* ---- options --------------------------------------------------------------------------------- */

typedef struct mh_queue_options {
    size_t capacity_bytes;    /* of the ring, 8 bytes of it for each message; rounded up to a power of two, at least 4096; 0: 2 MiB. Memory is taken as it is first used */
    size_t max_items;         /* most messages in the queue, at most MH_QUEUE_ITEMS_MAX, which is also what 0 means */
    size_t max_message_bytes; /* larger messages are refused, by both sides; may exceed the capacity; 0: MH_QUEUE_MESSAGE_MAX */
} mh_queue_options;
#define MH_QUEUE_ITEMS_MAX ((size_t)1 << 23)
#define MH_QUEUE_MESSAGE_MAX ((size_t)1 << 40)
#define MH_QUEUE_TAG_MAX 15 /* of a message's tag: what the users tell each other about it, beside its bytes */

typedef struct mh_pipe_options {
    bool duplex;              /* both ends send and receive; else the first receives and the second sends */
    size_t capacity_bytes;    /* of the ring of each direction, as above */
    size_t max_message_bytes; /* as above */
} mh_pipe_options;

/* What a handle consists of, for passing it to another process by inheritance or over a socket (mh_process, SCM_RIGHTS). */
typedef struct mh_queue_parts {
    int memory; /* sealed memfd */
    int notify; /* eventfd */
} mh_queue_parts;
typedef struct mh_pipe_parts {
    int memory; /* sealed memfd */
    int socket; /* unix socket: tells when the other end is gone, and makes this one pollable */
    uint32_t side;
} mh_pipe_parts;

/* ---- queue: life ----------------------------------------------------------------------------- */

/* A new, empty queue; options NULL means the defaults. errors: INVALID names the option; NO_MEMORY; NO_SPACE; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_queue_create(mh_queue **out, const mh_queue_options *options);
/* The descriptors of this handle. owns: borrowed until it is destroyed. */
MH_API mh_queue_parts mh_queue_borrow_parts(const mh_queue *q);
/* A handle of the queue that these descriptors belong to.
 * owns     the handle owns the descriptors after OK, the caller keeps them otherwise
 * errors   CORRUPT this is not a queue; INVALID the memory is not sealed; NO_MEMORY; SYSTEM
 */
MH_API MH_NODISCARD mh_err mh_queue_attach(mh_queue **out, mh_queue_parts parts);
/* No more pushes, by anybody: who waits in one gets CLOSED. Pops take what is left, then give CLOSED. A push that is just
 * copying may still finish. Closing again does nothing. */
MH_API void mh_queue_close(mh_queue *q);
MH_API bool mh_queue_is_closed(const mh_queue *q);
/* Free this process's handle. The queue lives, with its messages, as long as anybody has a handle or its descriptors. */
MH_API void mh_queue_destroy(mh_queue **q);

/* ---- queue: messages ------------------------------------------------------------------------- */

/* Append a copy of `message` (size 0 is a message), waiting for room.
 * errors   FULL no room, with MH_NOW; TIMEOUT; INTERRUPTED; CLOSED; TOO_LARGE above max_message_bytes;
 *          NO_SPACE the system has no memory for the ring to grow; CORRUPT. The message is not in the queue after any of them.
 */
MH_API MH_NODISCARD mh_err mh_queue_push(mh_queue *q, mh_bytes message, mh_deadline until);
/* The same for one message that lies in `count` parts, one after the other. */
MH_API MH_NODISCARD mh_err mh_queue_push_parts(mh_queue *q, const mh_bytes *parts, size_t count, mh_deadline until);
/* The same with a tag; messages that are pushed without one have tag 0. errors: also INVALID the tag is too large. */
MH_API MH_NODISCARD mh_err mh_queue_push_tagged(mh_queue *q, const mh_bytes *parts, size_t count, uint32_t tag, mh_deadline until);
/* Append `count` messages, as many at once as there is room for; another producer's may come between. *pushed (may be NULL)
 * of them, the first ones, are in the queue, on failure too. errors: as mh_queue_push. */
MH_API MH_NODISCARD mh_err mh_queue_push_many(mh_queue *q, const mh_bytes *messages, size_t count, mh_deadline until, size_t *pushed);

/* Take the oldest message, waiting for one.
 * owns     the caller owns *out
 * errors   EMPTY no message, with MH_NOW; TIMEOUT; INTERRUPTED; CLOSED closed and empty; NO_MEMORY (the message stays); CORRUPT
 */
MH_API MH_NODISCARD mh_err mh_queue_pop(mh_queue *q, mh_deadline until, mh_buf **out);
/* The same into the caller's memory. *size is the message's size, also when it is TOO_LARGE for `capacity`: then it stays, and the
 * caller comes again with more room (meanwhile somebody else may have taken it). errors: as mh_queue_pop; TOO_LARGE. */
MH_API MH_NODISCARD mh_err mh_queue_pop_into(mh_queue *q, void *buffer, size_t capacity, mh_deadline until, size_t *size);
/* The same, and its tag; both are known when it is TOO_LARGE. */
MH_API MH_NODISCARD mh_err mh_queue_pop_tagged(mh_queue *q, void *buffer, size_t capacity, mh_deadline until, size_t *size, uint32_t *tag);
/* Wait for one message, then take all that are there, up to `most` of them and as many as `capacity` bytes hold, one behind the other in
 * buffer; sizes[0..*count) are their sizes. When already the first is TOO_LARGE, sizes[0] is its size and it stays. They leave the queue
 * by one store: a consumer that is killed before has taken none. errors: as mh_queue_pop_into. */
MH_API MH_NODISCARD mh_err mh_queue_pop_many(mh_queue *q, void *buffer, size_t capacity, size_t *sizes, size_t most,
                                             mh_deadline until, size_t *count);

/* Wait until there is a message to pop or the queue is closed; another consumer may be faster. errors: EMPTY, TIMEOUT, INTERRUPTED, CORRUPT. */
MH_API MH_NODISCARD mh_err mh_queue_wait(mh_queue *q, mh_deadline until);
/* Snapshots. A message larger than the ring counts when it is complete; is_empty is false as soon as it begins. */
MH_API size_t mh_queue_count(const mh_queue *q);
MH_API bool mh_queue_is_empty(const mh_queue *q);
/* Whether max_items messages are there, or no room for one of size 1. */
MH_API bool mh_queue_is_full(const mh_queue *q);
/* A descriptor that poll(2) and select(2) call readable when there is something to pop (or it is closed). Call this before every wait, so that
 * it is brought up to date; from the first call on, producers write to it. It may seldom be readable for nothing: confirm with mh_queue_wait(q, MH_NOW).
 * owns: borrowed until q is destroyed; never read from it. errors: CORRUPT. */
MH_API MH_NODISCARD mh_err mh_queue_borrow_descriptor(mh_queue *q, int *out);

/* ---- queue: work that is done ---------------------------------------------------------------- */

/* A consumer has finished with one message that it took. errors: INVALID called more often than messages were pushed; CORRUPT. */
MH_API MH_NODISCARD mh_err mh_queue_task_done(mh_queue *q);
/* Messages pushed for which nobody called mh_queue_task_done yet. */
MH_API uint64_t mh_queue_count_unfinished(const mh_queue *q);
/* Wait until there are none. What a killed consumer had taken stays unfinished until somebody calls task_done for it. errors: TIMEOUT, INTERRUPTED, CORRUPT. */
MH_API MH_NODISCARD mh_err mh_queue_join(mh_queue *q, mh_deadline until);

/* ---- pipe ------------------------------------------------------------------------------------ */

/* A new pipe. Without options->duplex, *a receives and *b sends. Each end lives as long as any process has a handle or its descriptors:
 * after a fork both sides close the end that they do not use, so that the other is told when they end.
 * errors: as mh_queue_create. */
MH_API MH_NODISCARD mh_err mh_pipe_create(mh_pipe **a, mh_pipe **b, const mh_pipe_options *options);
/* As mh_queue_borrow_parts and mh_queue_attach. */
MH_API mh_pipe_parts mh_pipe_borrow_parts(const mh_pipe *p);
MH_API MH_NODISCARD mh_err mh_pipe_attach(mh_pipe **out, mh_pipe_parts parts);
/* Free this handle. When it was the last of its end, the other end receives what is left in the pipe, then CLOSED; it sends CLOSED at once. The
 * same happens when all processes that have this end are gone, however they ended, at the latest 50 ms after. */
MH_API void mh_pipe_destroy(mh_pipe **p);

MH_API bool mh_pipe_can_send(const mh_pipe *p);
MH_API bool mh_pipe_can_receive(const mh_pipe *p);
/* As the queue's push. errors: FULL with MH_NOW; TIMEOUT; INTERRUPTED; CLOSED the other end is gone; UNSUPPORTED this end only
 * receives; TOO_LARGE; CORRUPT. */
MH_API MH_NODISCARD mh_err mh_pipe_send(mh_pipe *p, mh_bytes message, mh_deadline until);
MH_API MH_NODISCARD mh_err mh_pipe_send_parts(mh_pipe *p, const mh_bytes *parts, size_t count, mh_deadline until);
MH_API MH_NODISCARD mh_err mh_pipe_send_tagged(mh_pipe *p, const mh_bytes *parts, size_t count, uint32_t tag, mh_deadline until);
/* As the queue's pop. errors: EMPTY with MH_NOW; TIMEOUT; INTERRUPTED; CLOSED nothing is left and the other end is gone; UNSUPPORTED
 * this end only sends; TOO_LARGE; NO_MEMORY; CORRUPT. */
MH_API MH_NODISCARD mh_err mh_pipe_receive(mh_pipe *p, mh_deadline until, mh_buf **out);
MH_API MH_NODISCARD mh_err mh_pipe_receive_into(mh_pipe *p, void *buffer, size_t capacity, mh_deadline until, size_t *size);
MH_API MH_NODISCARD mh_err mh_pipe_receive_tagged(mh_pipe *p, void *buffer, size_t capacity, mh_deadline until, size_t *size, uint32_t *tag);
/* Wait until there is a message to receive. errors: EMPTY with MH_NOW; TIMEOUT; INTERRUPTED; CLOSED; UNSUPPORTED; CORRUPT. */
MH_API MH_NODISCARD mh_err mh_pipe_wait(mh_pipe *p, mh_deadline until);
/* As mh_queue_borrow_descriptor (confirm with mh_pipe_wait): readable when there is a message or the other end is gone. It is the pipe's socket, and
 * the same in all processes; who keeps it in an event loop need not call this again. Of an end that only sends: readable when the other end is gone. */
MH_API MH_NODISCARD mh_err mh_pipe_borrow_descriptor(mh_pipe *p, int *out);

/* Give the other end a duplicate of an open descriptor. Descriptors travel beside the messages, in an order of their own, and
 * the other end's descriptor is readable while one is there. Both ends may, whichever way messages go.
 * errors: TIMEOUT, INTERRUPTED; CLOSED the other end is gone; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_pipe_send_descriptor(mh_pipe *p, int descriptor, mh_deadline until);
/* Wait for one. owns: the caller owns *out, which is close-on-exec.
 * errors: EMPTY with MH_NOW; TIMEOUT; INTERRUPTED; CLOSED; CORRUPT something else was sent through the socket; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_pipe_receive_descriptor(mh_pipe *p, mh_deadline until, int *out);

#ifdef __cplusplus
}
#endif
#endif
