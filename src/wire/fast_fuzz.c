/* Records of the fast lane: whatever comes, each part lies within the input, and what was read can be written again. */
#include "wire/fast.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int condition)
{
    if (!condition)
        abort();
}

/* What was read as a task in brief is the same when it was written and read again. */
static void check_task(const mh__fast_record *r)
{
    static mh__fast_record again;
    uint8_t head[MH__FAST_TASK_HEAD];
    mh__fast_task t, other;
    if (mh__fast_task_read(r, &t))
        return;
    check(t.buffer_count <= MH__FAST_PARTS_MAX && t.date_ns >= 0 && t.started_ns >= 0);
    if (!mh__fast_task_record(&t, head, &again))
        return;
    check(mh__fast_task_read(&again, &other) == MH_OK);
    check(other.number == t.number && other.ref == t.ref && other.token == t.token && other.flags == t.flags && other.buffer_count == t.buffer_count);
    check(mh__bytes_equal(other.what, t.what) && mh__bytes_equal(other.metadata, t.metadata));
    if (t.who.size) /* else the user takes its place */
        check(mh__bytes_equal(other.who, t.who) && mh__bytes_equal(other.user, t.user));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static mh__fast_record r, again;
    static uint64_t space[(MH__FAST_RECORD_MAX + MH__FAST_PARTS_MAX * 4 + 64) / 8];
    mh_bytes left = {data, size};
    while (mh__fast_next(&left, &r) == MH_OK) {
        mh__message m;
        check((const uint8_t *)left.data + left.size == data + size);
        for (size_t i = 0; i < r.ident_count + r.frame_count; i++) {
            const uint8_t *part = r.parts[i].data;
            check(part >= data && part + r.parts[i].size <= (const uint8_t *)left.data);
        }
        check_task(&r);
        if (mh__fast_message(&r, &m) == MH_OK)
            check(m.ident_count == r.ident_count && m.buffer_count == r.frame_count - 4);
        size_t needed = mh__fast_size(&r);
        if (!needed)
            continue;
        check(needed <= sizeof space);
        mh__fast_write(&r, space);
        mh_bytes written = {space, needed};
        check(mh__fast_next(&written, &again) == MH_OK && !written.size);
        check(again.kind == r.kind && again.flags == r.flags && again.ident_count == r.ident_count && again.frame_count == r.frame_count);
        for (size_t i = 0; i < r.ident_count + r.frame_count; i++)
            check(again.parts[i].size == r.parts[i].size && !memcmp(again.parts[i].data, r.parts[i].data, r.parts[i].size));
    }
    return 0;
}
