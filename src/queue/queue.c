/* mh_queue: one ring in a segment of its own, whose memory is taken as it is first used. */
#include "base/error.h"
#include "base/memory.h"
#include "os/fd.h"
#include "os/memory.h"
#include "queue/ring.h"

#include <stddef.h>

#define MAGIC UINT64_C(0x3175657571686d01) /* version in the low byte */
enum { DATA_AT = 4096, DEFAULT_CAPACITY = 2 << 20 };

/* At offset 0 of the segment; the ring's bytes begin at DATA_AT. */
typedef struct segment {
    uint64_t magic; /* written last */
    mh__ring_shared ring;
} segment;
_Static_assert(sizeof(segment) <= DATA_AT, "the head of a queue lies before its bytes");

struct mh_queue {
    mh__ring ring;
    segment *at;
    size_t size;
    mh_queue_parts parts;
};

static mh_err map_queue(mh_queue **out, mh_queue_parts parts, size_t size)
{
    mh_queue *q = mh__calloc(1, sizeof *q);
    if (!q)
        return MH_ERR_NO_MEMORY;
    void *at;
    mh_err err = mh__os_map(&at, parts.memory, 0, size, true);
    if (err) {
        mh__free(q);
        return err;
    }
    q->at = at;
    q->size = size;
    q->parts = parts;
    *out = q;
    return MH_OK;
}

static void unmap_queue(mh_queue *q)
{
    mh__os_unmap(q->at, q->size);
    mh__free(q);
}

static mh_err attach_ring(mh_queue *q)
{
    mh_err err = mh__ring_attach(&q->ring, &q->at->ring, (unsigned char *)q->at + DATA_AT, q->size - DATA_AT);
    if (err)
        return err;
    q->ring.memory = q->parts.memory;
    q->ring.data_offset = DATA_AT;
    q->ring.door = (mh__door){.ring = q->parts.notify, .eat = q->parts.notify};
    return MH_OK;
}

mh_err mh_queue_create(mh_queue **out, const mh_queue_options *options)
{
    static const mh_queue_options defaults;
    const mh_queue_options *o = options ? options : &defaults;
    mh_queue_parts parts = {-1, -1};
    mh_queue *q = NULL;
    uint64_t capacity;
    *out = NULL;
    mh_err err = mh__ring_capacity(o->capacity_bytes, DEFAULT_CAPACITY, &capacity);
    if (!err)
        err = mh__os_memfd_sparse(&parts.memory, "manyhands-queue", DATA_AT + (size_t)capacity);
    if (!err)
        err = mh__os_allocate_range(parts.memory, 0, DATA_AT);
    if (!err)
        err = mh__os_eventfd(&parts.notify);
    if (!err)
        err = map_queue(&q, parts, DATA_AT + (size_t)capacity);
    if (!err)
        err = mh__ring_init(&q->at->ring, capacity, o->max_items, o->max_message_bytes, 0);
    if (!err)
        err = attach_ring(q);
    if (err) {
        if (q)
            unmap_queue(q);
        mh__os_close(&parts.memory);
        mh__os_close(&parts.notify);
        return err;
    }
    __atomic_store_n(&q->at->magic, MAGIC, __ATOMIC_RELEASE);
    *out = q;
    return MH_OK;
}

mh_queue_parts mh_queue_borrow_parts(const mh_queue *q) { return q->parts; }

mh_err mh_queue_attach(mh_queue **out, mh_queue_parts parts)
{
    size_t size;
    mh_queue *q = NULL;
    *out = NULL;
    mh_err err = mh__os_fd_sealed(parts.memory, &size);
    if (!err && size <= DATA_AT)
        err = mh__fail(MH_ERR_CORRUPT, "a segment of %zu bytes is not a queue", size);
    if (!err)
        err = map_queue(&q, parts, size);
    if (err)
        return err;
    if (__atomic_load_n(&q->at->magic, __ATOMIC_ACQUIRE) != MAGIC)
        err = mh__fail(MH_ERR_CORRUPT, "this segment is not a queue");
    else
        err = attach_ring(q);
    if (err) {
        unmap_queue(q);
        return err;
    }
    *out = q;
    return MH_OK;
}

void mh_queue_destroy(mh_queue **q)
{
    if (!*q)
        return;
    mh__os_close(&(*q)->parts.memory);
    mh__os_close(&(*q)->parts.notify);
    unmap_queue(*q);
    *q = NULL;
}

void mh_queue_close(mh_queue *q)
{
    mh__ring_close(&q->ring);
    mh__os_eventfd_set(q->parts.notify); /* pollers are told too */
}

bool mh_queue_is_closed(const mh_queue *q) { return atomic_load(&q->ring.s->closed) != 0; }

mh_err mh_queue_push(mh_queue *q, mh_bytes message, mh_deadline until)
{
    return mh__ring_push(&q->ring, &message, 1, 0, until);
}

mh_err mh_queue_push_parts(mh_queue *q, const mh_bytes *parts, size_t count, mh_deadline until)
{
    return mh__ring_push(&q->ring, parts, count, 0, until);
}

mh_err mh_queue_push_tagged(mh_queue *q, const mh_bytes *parts, size_t count, uint32_t tag, mh_deadline until)
{
    return mh__ring_push(&q->ring, parts, count, tag, until);
}

mh_err mh_queue_push_many(mh_queue *q, const mh_bytes *messages, size_t count, mh_deadline until, size_t *pushed)
{
    return mh__ring_push_many(&q->ring, messages, count, until, pushed);
}

mh_err mh_queue_pop(mh_queue *q, mh_deadline until, mh_buf **out) { return mh__ring_pop_buf(&q->ring, until, out); }

mh_err mh_queue_pop_into(mh_queue *q, void *buffer, size_t capacity, mh_deadline until, size_t *size)
{
    uint32_t tag;
    return mh__ring_pop_into(&q->ring, buffer, capacity, until, size, &tag);
}

mh_err mh_queue_pop_tagged(mh_queue *q, void *buffer, size_t capacity, mh_deadline until, size_t *size, uint32_t *tag)
{
    return mh__ring_pop_into(&q->ring, buffer, capacity, until, size, tag);
}

mh_err mh_queue_pop_many(mh_queue *q, void *buffer, size_t capacity, size_t *sizes, size_t most, mh_deadline until,
                         size_t *count)
{
    return mh__ring_pop_many(&q->ring, buffer, capacity, sizes, most, until, count);
}

mh_err mh_queue_wait(mh_queue *q, mh_deadline until) { return mh__ring_wait(&q->ring, until); }
size_t mh_queue_count(const mh_queue *q) { return mh__ring_count(&q->ring); }
bool mh_queue_is_empty(const mh_queue *q) { return mh__ring_is_empty(&q->ring); }
bool mh_queue_is_full(const mh_queue *q) { return mh__ring_is_full(&q->ring); }

mh_err mh_queue_borrow_descriptor(mh_queue *q, int *out)
{
    mh_err err = mh__door_watch(&q->ring);
    if (!err)
        *out = q->parts.notify;
    return err;
}

mh_err mh_queue_task_done(mh_queue *q) { return mh__ring_task_done(&q->ring); }
uint64_t mh_queue_count_unfinished(const mh_queue *q) { return mh__ring_count_unfinished(&q->ring); }
mh_err mh_queue_join(mh_queue *q, mh_deadline until) { return mh__ring_join(&q->ring, until); }
