/* Bytes and segments that all workers see. */
#include "base/error.h"
#include "base/memory.h"
#include "manyhands/shm.h"
#include "os/fd.h"
#include "pool/pool.h"

#include <string.h>

enum { SEND_MS = 200 };

/* ---- segments ---------------------------------------------------------------------------------- */

/* One of the caller's segments, by its place. Empty when base is NULL. */
struct mh__attached {
    uint32_t id; /* its place, and how often that has been used */
    const char *base;
    size_t size;
    int fd;
    bool readonly;
};

static mh_err send_one(mh_pool *pool, int socket, size_t index)
{
    const struct mh__attached *a = &pool->attached[index];
    mh__segment_message m = {
        .magic = MH__SEGMENT_MAGIC, .id = a->id, .readonly = a->readonly, .size = a->base ? a->size : 0};
    return mh__os_send(socket, (mh_bytes){&m, sizeof m}, &a->fd, a->base ? 1 : 0, mh_deadline_in(SEND_MS * MH_MILLISECOND));
}

mh_err mh__attached_send_all(mh_pool *pool, int socket)
{
    mh_err err = MH_OK;
    for (size_t i = 0; !err && i < pool->attached_count; i++)
        if (pool->attached[i].base)
            err = send_one(pool, socket, i);
    return err;
}

void mh__attached_free(mh_pool *pool)
{
    for (size_t i = 0; i < pool->attached_count; i++)
        mh__os_close(&pool->attached[i].fd);
    mh__free(pool->attached);
}

/* Every live worker gets it; one whose socket is full or gone is as good as dead, and its successor will get it. */
static void send_to_hands(mh_pool *pool, size_t index)
{
    for (size_t i = 0; i < pool->options.workers; i++) {
        mh__hand *hand = pool->hands[i];
        if (hand && hand->socket >= 0 && send_one(pool, hand->socket, index))
            mh__hand_kill(hand);
    }
}

static mh_err free_index(mh_pool *pool, size_t *index)
{
    for (*index = 0; *index < pool->attached_count; ++*index)
        if (!pool->attached[*index].base)
            return MH_OK;
    if (*index == MH__SEGMENTS_MAX)
        return mh__fail(MH_ERR_LIMIT, "%d segments are attached already", MH__SEGMENTS_MAX);
    struct mh__attached *grown = mh__realloc(pool->attached, (*index + 1) * sizeof *grown);
    if (!grown)
        return MH_ERR_NO_MEMORY;
    grown[*index] = (struct mh__attached){.id = (uint32_t)*index, .fd = -1};
    pool->attached = grown;
    pool->attached_count++;
    return MH_OK;
}

mh_err mh_pool_attach(mh_pool *pool, const mh_shm *shm)
{
    size_t index;
    int fd = -1;
    mh_err err = mh__pool_check(pool);
    if (!err)
        err = mh__os_duplicate(&fd, mh_shm_fd(shm));
    if (err)
        return err;
    mh__pool_lock(pool);
    err = free_index(pool, &index);
    if (!err) {
        uint32_t id = pool->attached[index].id + MH__SEGMENTS_MAX;
        pool->attached[index] =
            (struct mh__attached){id, mh_shm_data(shm), mh_shm_size(shm), fd, mh_shm_is_readonly(shm)};
        send_to_hands(pool, index);
    }
    mh__pool_unlock(pool);
    if (err)
        mh__os_close(&fd);
    return err;
}

void mh_pool_detach(mh_pool *pool, const mh_shm *shm)
{
    if (mh__pool_check(pool))
        return;
    mh__pool_lock(pool);
    for (size_t i = 0; i < pool->attached_count; i++) {
        struct mh__attached *a = &pool->attached[i];
        if (!a->base || a->base != mh_shm_data(shm))
            continue;
        a->base = NULL;
        send_to_hands(pool, i);
        mh__os_close(&a->fd);
        break;
    }
    mh__pool_unlock(pool);
}

bool mh__attached_find(const mh_pool *pool, const void *at, size_t size, uint32_t *id, uint64_t *offset)
{
    for (size_t i = 0; i < pool->attached_count; i++) {
        const struct mh__attached *a = &pool->attached[i];
        uintptr_t from = (uintptr_t)at - (uintptr_t)a->base;
        if (!a->base || (uintptr_t)at < (uintptr_t)a->base || from > a->size || size > a->size - from)
            continue;
        *id = a->id;
        *offset = from;
        return true;
    }
    return false;
}

/* ---- bytes under a number ----------------------------------------------------------------------- */

/* A number is its entry's index and how often numbers were given, so that a worker that kept what an old one meant is not
 * mistaken. Empty entry or 0. */
static uint32_t next_id(mh_pool *pool)
{
    for (uint32_t tries = 0; tries < MH__SHARED_MAX; tries++) {
        uint32_t id = ++pool->share_next;
        if (id && !atomic_load_explicit(&pool->board->shared[id % MH__SHARED_MAX].id, memory_order_relaxed))
            return id;
    }
    return 0;
}

mh_err mh_pool_share(mh_pool *pool, mh_bytes bytes, uint32_t *out)
{
    mh_err err = mh__pool_check(pool);
    if (err)
        return err;
    uint64_t offset;
    mh__pool_lock(pool);
    uint32_t id = next_id(pool);
    err = id ? mh__arena_alloc(pool->requests, bytes.size, &offset)
             : mh__fail(MH_ERR_LIMIT, "%d things are shared already", MH__SHARED_MAX);
    if (!err) {
        mh__shared_entry *entry = &pool->board->shared[id % MH__SHARED_MAX];
        if (bytes.size)
            memcpy(mh__arena_at(pool->requests, offset), bytes.data, bytes.size);
        pool->share_offsets[id % MH__SHARED_MAX] = offset;
        entry->offset = offset;
        entry->size = bytes.size;
        atomic_store_explicit(&entry->id, id, memory_order_release);
        *out = id;
    }
    mh__pool_unlock(pool);
    return err;
}

void mh_pool_unshare(mh_pool *pool, uint32_t id)
{
    if (mh__pool_check(pool) || !id)
        return;
    mh__pool_lock(pool);
    mh__shared_entry *entry = &pool->board->shared[id % MH__SHARED_MAX];
    if (atomic_load_explicit(&entry->id, memory_order_relaxed) == id) {
        atomic_store_explicit(&entry->id, 0, memory_order_release);
        mh_err err = mh__arena_free(pool->requests, pool->share_offsets[id % MH__SHARED_MAX]);
        (void)err; /* the books are ours: it is there */
    }
    mh__pool_unlock(pool);
}
