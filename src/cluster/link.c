#include "cluster/link.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"

#include <string.h>

enum { HEAD_SIZE = 8, SIZE_SIZE = 8 };

/* ---- sending --------------------------------------------------------------------------------- */

static void *write_head(uint32_t kind, const mh_bytes *frames, size_t count)
{
    unsigned char *head = mh__alloc(HEAD_SIZE + SIZE_SIZE * count);
    if (!head)
        return NULL;
    uint32_t counted = (uint32_t)count;
    memcpy(head, &kind, sizeof kind);
    memcpy(head + sizeof kind, &counted, sizeof counted);
    for (size_t i = 0; i < count; i++) {
        uint64_t size = frames[i].size;
        memcpy(head + HEAD_SIZE + SIZE_SIZE * i, &size, sizeof size);
    }
    return head;
}

mh_err mh__link_send(mh_pipe *p, uint32_t kind, const mh_bytes *frames, size_t count, mh_deadline until)
{
    static const unsigned char zeros[MH__LINK_ALIGN];
    if (count > MH__LINK_FRAMES_MAX)
        return mh__fail(MH_ERR_LIMIT, "%zu frames for an executor; at most %d", count, MH__LINK_FRAMES_MAX);
    void *head = write_head(kind, frames, count);
    mh_bytes *parts = mh__calloc(2 * count + 1, sizeof *parts);
    mh_err err = head && parts ? MH_OK : MH_ERR_NO_MEMORY;
    size_t part = 0, at = HEAD_SIZE + SIZE_SIZE * count;
    if (!err) {
        parts[part++] = (mh_bytes){head, at};
        for (size_t i = 0; i < count; i++) {
            size_t gap = mh__round_up(at, MH__LINK_ALIGN) - at;
            if (gap)
                parts[part++] = (mh_bytes){zeros, gap};
            if (frames[i].size)
                parts[part++] = frames[i];
            at += gap + frames[i].size;
        }
        err = mh_pipe_send_parts(p, parts, part, until);
    }
    mh__free(parts);
    mh__free(head);
    return err;
}

/* ---- receiving ------------------------------------------------------------------------------- */

mh_err mh__link_parse(mh_bytes message, uint32_t *kind, mh_bytes **frames, size_t *count)
{
    const unsigned char *bytes = message.data;
    uint32_t said_kind, said;
    if (message.size < HEAD_SIZE)
        return mh__fail(MH_ERR_CORRUPT, "a message of an executor has %zu bytes", message.size);
    memcpy(&said_kind, bytes, sizeof said_kind);
    memcpy(&said, bytes + sizeof said_kind, sizeof said);
    if (said > MH__LINK_FRAMES_MAX || said > (message.size - HEAD_SIZE) / SIZE_SIZE)
        return mh__fail(MH_ERR_CORRUPT, "a message of an executor claims %u frames", said);
    mh_bytes *found = mh__calloc(said ? said : 1, sizeof *found);
    if (!found)
        return MH_ERR_NO_MEMORY;
    size_t at = HEAD_SIZE + SIZE_SIZE * said;
    for (uint32_t i = 0; i < said; i++) {
        uint64_t size;
        memcpy(&size, bytes + HEAD_SIZE + SIZE_SIZE * i, sizeof size);
        size_t start = mh__round_up(at, MH__LINK_ALIGN);
        if (start > message.size || size > message.size - start) {
            mh__free(found);
            return mh__fail(MH_ERR_CORRUPT, "frame %u of an executor's message does not fit in it", i);
        }
        found[i] = (mh_bytes){bytes + start, (size_t)size};
        at = start + (size_t)size;
    }
    if (at != message.size) {
        mh__free(found);
        return mh__fail(MH_ERR_CORRUPT, "an executor's message has %zu bytes after its last frame", message.size - at);
    }
    *kind = said_kind;
    *frames = found;
    *count = said;
    return MH_OK;
}

mh_err mh__link_receive(mh_pipe *p, mh_deadline until, mh__link_message *out)
{
    mh__link_message m = {0};
    mh_err err = mh_pipe_receive(p, until, &m.buf);
    if (!err)
        err = mh__link_parse((mh_bytes){mh_buf_data(m.buf), mh_buf_size(m.buf)}, &m.kind, &m.frames, &m.count);
    if (err) {
        mh_buf_destroy(&m.buf);
        return err;
    }
    *out = m;
    return MH_OK;
}

void mh__link_message_clear(mh__link_message *m)
{
    mh__free(m->frames);
    mh_buf_destroy(&m->buf);
    *m = (mh__link_message){0};
}
