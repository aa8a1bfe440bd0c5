#include "cluster/entry.h"

#include "base/crc.h"
#include "base/error.h"

#include <string.h>

enum { MAGIC = 0x3145484d, HEAD = 56, NAME_MAX_ = 255, FRAMES_MAX = 1 << 16 };
#define ELSEWHERE (UINT64_C(1) << 63)
#define FRAME_MAX ((uint64_t)MH__ENTRY_PIECE * MH__ENTRY_PIECES_MAX)

bool mh__entry_is_inline(size_t size, size_t *total)
{
    if (size > MH__ENTRY_INLINE_MAX || *total + size > MH__ENTRY_INLINE_TOTAL)
        return false;
    *total += size;
    return true;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void put32(uint8_t **at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        *(*at)++ = (uint8_t)(value >> 8 * i);
}

static void put64(uint8_t **at, uint64_t value)
{
    put32(at, (uint32_t)value);
    put32(at, (uint32_t)(value >> 32));
}

static void put_bytes(uint8_t **at, mh_bytes bytes)
{
    if (bytes.size)
        memcpy(*at, bytes.data, bytes.size);
    *at += bytes.size;
}

mh_err mh__entry_pack(const mh__entry *e, mh_buf *to)
{
    size_t before = mh_buf_size(to), inline_bytes = 0, total = 0;
    if (e->name.size > NAME_MAX_ || e->frame_count > FRAMES_MAX)
        return mh__fail(MH_ERR_TOO_LARGE, "a record with %zu frames", e->frame_count);
    for (size_t i = 0; i < e->frame_count; i++) {
        if (e->frames[i].size > FRAME_MAX)
            return mh__fail(MH_ERR_TOO_LARGE, "a frame of %zu bytes", e->frames[i].size);
        (void)mh__entry_is_inline(e->frames[i].size, &inline_bytes);
    }
    size_t size = HEAD + 8 * e->frame_count + e->name.size + inline_bytes + 4;
    mh_err err = mh_buf_resize(to, before + size);
    if (err)
        return err;
    uint8_t *start = (uint8_t *)mh_buf_data(to) + before, *at = start;
    put32(&at, MAGIC);
    put32(&at, e->kind);
    put64(&at, e->seq);
    put64(&at, e->order);
    put64(&at, e->token);
    put64(&at, (uint64_t)e->time_ns);
    put32(&at, e->how);
    put32(&at, e->at);
    put32(&at, (uint32_t)e->name.size);
    put32(&at, (uint32_t)e->frame_count);
    for (size_t i = 0; i < e->frame_count; i++)
        put64(&at, e->frames[i].size | (mh__entry_is_inline(e->frames[i].size, &total) ? 0 : ELSEWHERE));
    put_bytes(&at, e->name);
    total = 0;
    for (size_t i = 0; i < e->frame_count; i++)
        if (mh__entry_is_inline(e->frames[i].size, &total))
            put_bytes(&at, e->frames[i]);
    put32(&at, mh__crc32c(0, start, size - 4));
    return MH_OK;
}

/* ---- reading --------------------------------------------------------------------------------- */

static uint32_t get32(const uint8_t **at)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++)
        value |= (uint32_t)*(*at)++ << 8 * i;
    return value;
}

static uint64_t get64(const uint8_t **at)
{
    uint64_t low = get32(at);
    return low | (uint64_t)get32(at) << 32;
}

static mh_err wrong(int64_t id, const char *what) { return mh__fail(MH_ERR_CORRUPT, "row %lld: %s", (long long)id, what); }

static mh_err read_head(int64_t id, const uint8_t *at, mh__entry *e, size_t *name_size)
{
    uint32_t magic = get32(&at), kind = get32(&at);
    *e = (mh__entry){.kind = (mh__entry_kind)kind};
    e->seq = get64(&at);
    e->order = get64(&at);
    e->token = get64(&at);
    e->time_ns = (int64_t)get64(&at);
    e->how = get32(&at);
    e->at = get32(&at);
    *name_size = get32(&at);
    e->frame_count = get32(&at);
    if (magic != MAGIC)
        return wrong(id, "it is none of this program's");
    if (kind > MH__ENTRY_ENGINES || e->seq > MH__ENTRY_SEQ_MAX || mh__entry_id(e->seq, e->kind) != id)
        return wrong(id, "it is in the wrong place");
    if (*name_size > NAME_MAX_ || e->frame_count > FRAMES_MAX || (e->frame_count && e->at >= e->frame_count))
        return wrong(id, "its numbers do not fit together");
    return MH_OK;
}

mh_err mh__entry_unpack(int64_t id, mh_bytes row, mh__entry *out, mh_buf *frames)
{
    const uint8_t *start = row.data, *at = start;
    size_t name_size, inline_bytes = 0;
    if (row.size < HEAD + 4)
        return wrong(id, "it is cut off");
    const uint8_t *tail = start + row.size - 4;
    if (get32(&tail) != mh__crc32c(0, start, row.size - 4))
        return wrong(id, "its checksum is wrong");
    mh_err err = read_head(id, at, out, &name_size);
    if (err)
        return err;
    size_t left = row.size - HEAD - 4;
    if (left < 8 * out->frame_count + name_size)
        return wrong(id, "it is cut off");
    err = mh_buf_resize(frames, out->frame_count * sizeof(mh_bytes));
    if (err)
        return err;
    mh_bytes *list = mh_buf_data(frames);
    const uint8_t *sizes = start + HEAD, *bytes = sizes + 8 * out->frame_count + name_size;
    left -= 8 * out->frame_count + name_size;
    out->name = (mh_bytes){bytes - name_size, name_size};
    for (size_t i = 0; i < out->frame_count; i++) {
        uint64_t size = get64(&sizes);
        bool is_elsewhere = size & ELSEWHERE;
        size &= ~ELSEWHERE;
        if (size > FRAME_MAX || (!is_elsewhere && size > left - inline_bytes))
            return wrong(id, "a frame is longer than the row");
        list[i] = (mh_bytes){is_elsewhere ? NULL : bytes + inline_bytes, size};
        inline_bytes += is_elsewhere ? 0 : size;
    }
    if (inline_bytes != left)
        return wrong(id, "bytes are left over");
    out->frames = list;
    return MH_OK;
}
