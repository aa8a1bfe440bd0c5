/* Any bytes as a message of an executor: frames that are accepted lie inside it, in order, one after the other. */
#include "base/memory.h"
#include "cluster/link.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t kind;
    mh_bytes *frames = NULL;
    size_t count = 0;
    if (mh__link_parse((mh_bytes){data, size}, &kind, &frames, &count))
        return 0;
    const uint8_t *end = data + 8 + 8 * count;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *start = frames[i].data;
        if (start < end || start - end >= MH__LINK_ALIGN || frames[i].size > size || start + frames[i].size > data + size)
            abort();
        end = start + frames[i].size;
    }
    if (end != data + size)
        abort();
    mh__free(frames);
    return 0;
}
