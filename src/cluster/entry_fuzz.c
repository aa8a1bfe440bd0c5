/* Any bytes as a row of the database, with a checksum that is right, so that what lies behind it is reached too: what is accepted
 * lies inside the row, and packing it again gives the same bytes. */
#include "base/crc.h"
#include "cluster/entry.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(mh_bytes row, const mh__entry *e)
{
    const char *start = row.data, *end = start + row.size;
    mh_buf *again = NULL;
    bool is_elsewhere = false;
    for (size_t i = 0; i < e->frame_count; i++) {
        const char *at = e->frames[i].data;
        is_elsewhere |= !at;
        if (at && (at < start || at > end || e->frames[i].size > (size_t)(end - at)))
            abort();
    }
    if (is_elsewhere)
        return; /* packing decides by size what goes elsewhere */
    if (mh_buf_create(&again, 0) || mh__entry_pack(e, again) || mh_buf_size(again) != row.size || memcmp(mh_buf_data(again), row.data, row.size) != 0)
        abort();
    mh_buf_destroy(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh_buf *row = NULL, *frames = NULL;
    mh__entry e;
    if (size < 16 || mh_buf_copy(&row, (mh_bytes){data, size}) || mh_buf_create(&frames, 0))
        return 0;
    uint8_t *bytes = mh_buf_data(row);
    uint32_t crc = mh__crc32c(0, bytes, size - 4), kind;
    uint64_t seq;
    for (int i = 0; i < 4; i++)
        bytes[size - 4 + (size_t)i] = (uint8_t)(crc >> 8 * i);
    memcpy(&kind, bytes + 4, sizeof kind);
    memcpy(&seq, bytes + 8, sizeof seq);
    int64_t id = seq <= MH__ENTRY_SEQ_MAX && kind < MH__ENTRY_KINDS ? mh__entry_id(seq, (mh__entry_kind)kind) : 0;
    if (!mh__entry_unpack(id, (mh_bytes){bytes, size}, &e, frames))
        check((mh_bytes){bytes, size}, &e);
    mh_buf_destroy(&row);
    mh_buf_destroy(&frames);
    return 0;
}
