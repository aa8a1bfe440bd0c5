/* Any frames as a message: the first byte of each says how long it is (255: the delimiter). What has a shape is read. */
#include "wire/message.h"
#include "wire/replay.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void no_digest(const mh_bytes *parts, size_t count, uint8_t digest[32], void *ctx)
{
    (void)ctx;
    for (int i = 0; i < 32; i++)
        digest[i] = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < parts[i].size; j++)
            digest[j % 32] = (uint8_t)(digest[j % 32] + ((const uint8_t *)parts[i].data)[j]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh_bytes frames[64];
    size_t count = 0;
    for (size_t at = 0; at < size && count < 64;) {
        size_t length = data[at++];
        if (length == 255) {
            frames[count++] = MH__TEXT(MH__WIRE_DELIMITER);
            continue;
        }
        length = length < size - at ? length : size - at;
        frames[count++] = (mh_bytes){data + at, length};
        at += length;
    }
    mh__message m;
    mh__header h;
    mh_bytes parent;
    if (mh__message_split(frames, count, &m))
        return 0;
    if (m.ident_count + MH__FRAMES_SIGNED + m.buffer_count != count)
        abort();
    (void)!mh__message_verify(&m, &(mh__signer){no_digest, NULL});
    (void)!mh__parent_read(m.parent, &parent);
    if (mh__header_read(m.header, &h))
        return 0;
    if (!h.msg_id.size || h.msg_id.size > MH__WIRE_ID_MAX || !h.msg_type.size)
        abort();
    int64_t ns;
    mh_bytes date;
    if (mh__json_plain(h.date, &date))
        (void)!mh__date_read(date, &ns);
    mh__replay *r = NULL;
    if (mh__replay_create(&r) || mh__replay_admit(r, m.signature, h.msg_id, 1) ||
        mh__replay_admit(r, m.signature, h.msg_id, 2) != MH_ERR_EXISTS)
        abort();
    mh__replay_destroy(&r);
    return 0;
}
