/* Any bytes as a connection file: what is accepted is the same after being written and read again. */
#include "wire/connection.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh__connection c, again;
    mh_buf *buf = NULL;
    char url[600];
    if (mh__connection_read((mh_bytes){data, size}, &c))
        return 0;
    if (mh__connection_url(&c, c.mux, url, sizeof url) || mh_buf_create(&buf, 0) || mh__connection_write(&c, buf) ||
        mh__connection_read((mh_bytes){mh_buf_data(buf), mh_buf_size(buf)}, &again))
        abort();
    if (c.is_engine != again.is_engine || c.mux != again.mux || strcmp(c.key, again.key) || strcmp(c.interface_, again.interface_))
        abort();
    mh_buf_destroy(&buf);
    return 0;
}
