#include "net/parcel_frames.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"

#include <errno.h>
#include <string.h>

enum { FRAMES_AT_FIRST = 12 };

mh_err mh__parcel_create(mh__parcel **out)
{
    *out = mh__calloc(1, sizeof **out);
    if (!*out)
        return MH_ERR_NO_MEMORY;
    (*out)->connection = -1;
    return MH_OK;
}

void mh__parcel_clear(mh__parcel *p)
{
    for (size_t i = 0; i < p->count; i++)
        zmq_msg_close(&p->frames[i]);
    p->count = p->bytes = 0;
    p->connection = -1;
    p->is_received = false;
}

void mh__parcel_destroy(mh__parcel **p)
{
    if (!*p)
        return;
    mh__parcel_clear(*p);
    mh__free((*p)->frames);
    mh__free((*p)->views);
    mh__free(*p);
    *p = NULL;
}

const mh_bytes *mh__parcel_frames(const mh__parcel *p) { return p->views; }
size_t mh__parcel_count(const mh__parcel *p) { return p->count; }
size_t mh__parcel_bytes(const mh__parcel *p) { return p->bytes; }
int mh__parcel_connection(const mh__parcel *p) { return p->connection; }

void mh__parcel_move(mh__parcel *to, mh__parcel *from)
{
    mh__parcel other = *to;
    mh__parcel_clear(&other);
    *to = *from;
    *from = other;
}

static mh_bytes view_of(zmq_msg_t *frame) { return (mh_bytes){zmq_msg_data(frame), zmq_msg_size(frame)}; }

mh_err mh__parcel_reserve(mh__parcel *p)
{
    if (p->count < p->capacity)
        return MH_OK;
    if (p->count >= MH__PARCEL_FRAMES_MAX)
        return mh__fail(MH_ERR_LIMIT, "a message of more than %d frames", MH__PARCEL_FRAMES_MAX);
    size_t capacity = p->capacity ? 2 * p->capacity : FRAMES_AT_FIRST;
    mh_bytes *views = mh__realloc(p->views, capacity * sizeof *views);
    if (views)
        p->views = views;
    zmq_msg_t *frames = views ? mh__alloc(capacity * sizeof *frames) : NULL;
    if (!frames)
        return MH_ERR_NO_MEMORY;
    for (size_t i = 0; i < p->count; i++) {
        zmq_msg_init(&frames[i]);
        zmq_msg_move(&frames[i], &p->frames[i]);
        p->views[i] = view_of(&frames[i]);
    }
    mh__free(p->frames);
    p->frames = frames;
    p->capacity = capacity;
    return MH_OK;
}

void mh__parcel_count_in(mh__parcel *p)
{
    p->views[p->count] = view_of(&p->frames[p->count]);
    p->bytes += p->views[p->count].size;
    p->count++;
}

mh_err mh__parcel_add(mh__parcel *p, mh_bytes copied)
{
    mh_err err = mh__parcel_reserve(p);
    if (err)
        return err;
    if (zmq_msg_init_size(&p->frames[p->count], copied.size) < 0)
        return mh__fail(MH_ERR_NO_MEMORY, "a frame of %zu bytes", copied.size);
    if (copied.size)
        memcpy(zmq_msg_data(&p->frames[p->count]), copied.data, copied.size);
    mh__parcel_count_in(p);
    return MH_OK;
}

mh_err mh__parcel_share(mh__parcel *p, const mh__parcel *from, size_t first, size_t count)
{
    p->is_received |= from->is_received;
    for (size_t i = first; i < first + count; i++) {
        mh_err err = mh__parcel_reserve(p);
        if (err)
            return err;
        zmq_msg_init(&p->frames[p->count]);
        zmq_msg_copy(&p->frames[p->count], &from->frames[i]); /* counts a reference; can't fail with valid frames */
        mh__parcel_count_in(p);
    }
    return MH_OK;
}

mh_err mh__parcel_lend(mh__parcel *p, mh_bytes lent, mh__release_fn release, void *ctx)
{
    mh_err err = mh__parcel_reserve(p);
    if (err)
        return err;
    if (zmq_msg_init_data(&p->frames[p->count], (void *)(uintptr_t)lent.data, lent.size, release, ctx) < 0)
        return mh__fail(MH_ERR_NO_MEMORY, "a frame of %zu bytes", lent.size);
    mh__parcel_count_in(p);
    return MH_OK;
}

typedef struct watched {
    mh__release_fn release;
    void *ctx;
    char bytes[];
} watched;

static void release_watched(void *data, void *ctx)
{
    (void)data;
    watched *w = ctx;
    w->release(NULL, w->ctx);
    mh__free(w);
}

mh_err mh__parcel_watch(mh__parcel *p, size_t at, mh__release_fn release, void *ctx)
{
    zmq_msg_t copy;
    if (at >= p->count)
        return mh__fail(MH_ERR_INVALID, "frame %zu of %zu", at, p->count);
    mh_bytes old = p->views[at];
    watched *w = mh__alloc(sizeof *w + old.size);
    if (!w)
        return MH_ERR_NO_MEMORY;
    *w = (watched){.release = release, .ctx = ctx};
    memcpy(w->bytes, old.data, old.size);
    if (zmq_msg_init_data(&copy, w->bytes, old.size, release_watched, w) < 0) {
        mh__free(w);
        return mh__fail(MH_ERR_NO_MEMORY, "a frame of %zu bytes", old.size);
    }
    zmq_msg_move(&p->frames[at], &copy);
    zmq_msg_close(&copy);
    p->views[at] = view_of(&p->frames[at]);
    return MH_OK;
}

static void put_in_place(mh__parcel *p, size_t frame, zmq_msg_t *content)
{
    p->bytes -= p->views[frame].size;
    zmq_msg_move(&p->frames[frame], content);
    zmq_msg_close(content);
    p->views[frame] = view_of(&p->frames[frame]);
    p->bytes += p->views[frame].size;
}

mh_err mh__parcel_replace(mh__parcel *p, size_t frame, mh_bytes lent, mh__release_fn release, void *ctx)
{
    zmq_msg_t content;
    if (zmq_msg_init_data(&content, (void *)(uintptr_t)lent.data, lent.size, release, ctx) < 0)
        return mh__fail(MH_ERR_NO_MEMORY, "a frame of %zu bytes", lent.size);
    put_in_place(p, frame, &content);
    return MH_OK;
}

void mh__parcel_blank(mh__parcel *p, size_t frame)
{
    zmq_msg_t content;
    zmq_msg_init(&content);
    put_in_place(p, frame, &content);
}

static void release_buf(void *data, void *ctx)
{
    (void)data;
    mh_buf *buf = ctx;
    mh_buf_destroy(&buf);
}

mh_err mh__parcel_give(mh__parcel *p, mh_buf **buf)
{
    mh_err err = mh__parcel_lend(p, (mh_bytes){mh_buf_data(*buf), mh_buf_size(*buf)}, release_buf, *buf);
    if (!err)
        *buf = NULL;
    return err;
}

mh_err mh__parcel_settle(mh__parcel *p)
{
    enum { SMALL = 4096, INLINE = 33 }; /* up to INLINE a frame holds its bytes itself */
    for (size_t i = 0; i < p->count && p->is_received; i++) {
        zmq_msg_t copy;
        size_t size = zmq_msg_size(&p->frames[i]);
        if (size <= INLINE || size >= SMALL)
            continue;
        if (zmq_msg_init_size(&copy, size) < 0)
            return mh__fail(MH_ERR_NO_MEMORY, "a frame of %zu bytes", size);
        memcpy(zmq_msg_data(&copy), zmq_msg_data(&p->frames[i]), size);
        zmq_msg_move(&p->frames[i], &copy);
        zmq_msg_close(&copy);
        p->views[i] = view_of(&p->frames[i]);
    }
    p->is_received = false;
    return MH_OK;
}
