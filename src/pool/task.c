/* What a task function may ask and answer. */
#include "base/error.h"
#include "os/fd.h"
#include "pool/point.h"
#include "pool/worker.h"

#include <string.h>

static mh_bytes input_of(const mh__worker *w, const mh__slot *slot, uint16_t flags)
{
    if (flags & MH__SLOT_FAR) {
        mh__slot_far far;
        memcpy(&far, slot->request, sizeof far);
        void *at = mh__arena_view_at(&w->requests, far.offset, far.size);
        return (mh_bytes){at, at ? (size_t)far.size : 0};
    }
    return (mh_bytes){slot->request, MH__MIN(slot->size, (size_t)MH__SLOT_REQUEST_BYTES)};
}

void mh__task_begin(mh_task *task, mh__worker *w, mh__slot *slot)
{
    uint16_t flags = slot->flags;
    *task = (mh_task){
        .worker = w,
        .slot = slot,
        .input = input_of(w, slot, flags),
        .id = slot->task_id,
        .tag = slot->tag,
        .attempt = slot->attempt,
        .flags = flags,
        .reply = slot->reply,
        .capacity = MH__SLOT_REPLY_BYTES,
    };
}

mh_bytes mh_task_input(const mh_task *task) { return task->input; }
uint32_t mh_task_attempt(const mh_task *task) { return task->attempt; }
uint64_t mh_task_tag(const mh_task *task) { return task->tag; }
uint64_t mh_task_id(const mh_task *task) { return task->id; }
size_t mh_task_memory_limit(const mh_task *task) { return (size_t)task->limit; }

void *mh_task_input_writable(const mh_task *task)
{
    return task->flags & MH__SLOT_FINAL ? (void *)(uintptr_t)task->input.data : NULL;
}

/* The arena for large replies; the parent gets to know it when it is made. */
static mh_err need_arena(mh__worker *w)
{
    if (w->replies)
        return MH_OK;
    mh__arena *arena;
    mh_err err = mh__arena_create(&arena, w->max_reply_bytes, "manyhands replies");
    if (err)
        return err;
    if (w->show_replies) {
        atomic_store(w->show_replies, arena);
    } else {
        int fd = mh__arena_fd(arena);
        err = mh__os_send(w->socket, (mh_bytes){"arena", 5}, &fd, 1, mh_deadline_in(MH_SECOND));
        if (err) {
            mh__arena_destroy(&arena);
            return err;
        }
    }
    w->replies = arena;
    return MH_OK;
}

void mh__worker_take_acks(mh__worker *w)
{
    if (!w->replies)
        return;
    uint64_t given = atomic_load_explicit(&w->region->acks_given, memory_order_acquire);
    if (given == w->acked)
        return;
    for (; w->acked != given; w->acked++) {
        uint64_t offset = atomic_load_explicit(&w->region->acks[w->acked % MH__ACKS], memory_order_relaxed);
        mh_err err = mh__arena_free(w->replies, offset);
        (void)err; /* an offset that is not ours: nothing to free */
    }
    atomic_store_explicit(&w->region->acked, w->acked, memory_order_release);
}

void mh__task_drop_reply(mh_task *task)
{
    if (task->far) {
        mh_err err = mh__arena_free(task->worker->replies, task->far);
        (void)err; /* cannot fail: the block is ours */
    }
    task->far = 0;
    task->reply = task->slot->reply;
    task->capacity = MH__SLOT_REPLY_BYTES;
    task->size = 0;
}

mh_err mh_task_reply_reserve(mh_task *task, size_t size, void **out)
{
    mh__worker *w = task->worker;
    if (size > task->capacity) {
        uint64_t offset;
        mh_err err = need_arena(w);
        if (!err) {
            mh__worker_take_acks(w);
            err = mh__arena_alloc(w->replies, size, &offset);
        }
        if (err)
            return err;
        void *block = mh__arena_at(w->replies, offset);
        size_t keep = task->size;
        memcpy(block, task->reply, keep);
        mh__task_drop_reply(task);
        task->far = offset;
        task->reply = block;
        task->capacity = size;
        task->size = keep;
    }
    *out = task->reply;
    return MH_OK;
}

void mh_task_reply_size(mh_task *task, size_t size) { task->size = MH__MIN(size, task->capacity); }

mh_err mh_task_reply(mh_task *task, mh_bytes reply)
{
    void *at;
    task->size = 0;
    mh_err err = mh_task_reply_reserve(task, reply.size, &at);
    if (err)
        return err;
    mh__point("worker mid reply");
    if (reply.size)
        memmove(at, reply.data, reply.size);
    task->size = reply.size;
    return MH_OK;
}

mh_err mh_task_shared(mh_task *task, uint32_t id, mh_bytes *out)
{
    const mh__shared_entry *entry = &task->worker->board->shared[id % MH__SHARED_MAX];
    if (id == 0 || atomic_load_explicit(&entry->id, memory_order_acquire) != id)
        return mh__fail(MH_ERR_NOT_FOUND, "nothing is shared under number %u", id);
    uint64_t size = entry->size;
    void *at = mh__arena_view_at(&task->worker->requests, entry->offset, size);
    if (!at)
        return mh__fail(MH_ERR_CORRUPT, "what is shared under number %u lies outside", id);
    *out = (mh_bytes){at, (size_t)size};
    return MH_OK;
}

/* A far reply that turned out small goes home in the slot; one that is much smaller than its block gives the rest back. */
static void settle(mh_task *task)
{
    if (task->far && task->size <= MH__SLOT_REPLY_BYTES) {
        uint8_t small[MH__SLOT_REPLY_BYTES];
        size_t size = task->size;
        memcpy(small, task->reply, size);
        mh__task_drop_reply(task);
        memcpy(task->reply, small, size);
        task->size = size;
    } else if (task->far && task->capacity - task->size > task->capacity / 4) {
        mh_err err = mh__arena_resize(task->worker->replies, task->far, task->size);
        (void)err; /* it stays as large as it is */
    }
}

void mh__task_end(mh_task *task, mh_err err)
{
    mh__slot *slot = task->slot;
    settle(task);
    slot->err = (int32_t)err;
    if (task->far) {
        mh__slot_far far = {task->far, task->size};
        memcpy(slot->reply, &far, sizeof far);
        slot->reply_flags = MH__SLOT_FAR;
        slot->reply_size = 0;
    } else {
        slot->reply_flags = 0;
        slot->reply_size = (uint16_t)task->size;
    }
}
