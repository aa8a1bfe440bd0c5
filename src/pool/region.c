#include "pool/region.h"

#include "base/error.h"

#include <string.h>

#define REGION_MAGIC UINT64_C(0x6e6f696765726d68) /* "hmregion" */
#define BOARD_MAGIC UINT64_C(0x6472616f622d6d68)
#define HELLO_MAGIC UINT64_C(0x6f6c6c65682d6d68)
enum { LAYOUT_VERSION = 6 };

void mh__region_init(mh__region *region, size_t slot_count, size_t trace_count)
{
    region->magic = REGION_MAGIC;
    region->version = LAYOUT_VERSION;
    region->slot_count = (uint32_t)slot_count;
    region->trace_count = (uint32_t)trace_count;
    region->size = mh__region_size(slot_count, trace_count);
}

mh_err mh__region_check(const mh__region *region, size_t size, uint32_t *slot_count, uint32_t *trace_count)
{
    if (size < sizeof *region || region->magic != REGION_MAGIC)
        return mh__fail(MH_ERR_CORRUPT, "%zu bytes that are no worker's region", size);
    if (region->version != LAYOUT_VERSION)
        return mh__fail(MH_ERR_CORRUPT, "a region of layout %u; this library's is %d", region->version, LAYOUT_VERSION);
    uint32_t count = region->slot_count; /* one read: what is checked is what is used */
    uint32_t traced = region->trace_count;
    bool power = count && !(count & (count - 1));
    if (!power || count > MH__SLOTS_MAX || region->size != mh__region_size(count, traced) || size < mh__region_size(count, traced))
        return mh__fail(MH_ERR_CORRUPT, "a region of %zu bytes that claims %u slots", size, count);
    *slot_count = count;
    *trace_count = traced;
    return MH_OK;
}

void mh__board_init(mh__board *board) { board->magic = BOARD_MAGIC; }

mh__hello mh__hello_make(void) { return (mh__hello){.magic = HELLO_MAGIC, .version = LAYOUT_VERSION}; }

mh_err mh__hello_read(mh__hello *out, mh_bytes message)
{
    mh__hello hello;
    if (message.size != sizeof hello)
        return mh__fail(MH_ERR_CORRUPT, "a worker's first message has %zu bytes, not %zu", message.size, sizeof hello);
    memcpy(&hello, message.data, sizeof hello);
    if (hello.magic != HELLO_MAGIC || hello.version != LAYOUT_VERSION)
        return mh__fail(MH_ERR_CORRUPT, "a worker's first message is not one of this library's version");
    *out = hello;
    return MH_OK;
}
