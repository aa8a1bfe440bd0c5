/* Any bytes as JSON: what is accepted can be walked, compared and written again as something that is accepted and equal. */
#include "wire/json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_at(mh__json v)
{
    mh_bytes plain;
    int64_t n;
    double x;
    bool b;
    mh__json_walk w = mh__json_walk_of(v);
    size_t count = 0;
    for (mh__json key, value; mh__json_next(&w, &key, &value); count++) {
        if (mh__json_kind_of(value) == MH__JSON_ABSENT || (w.is_object && mh__json_kind_of(key) != MH__JSON_STRING))
            abort();
        mh__json_int(value, &n);
        mh__json_double(value, &x);
        mh__json_bool(value, &b);
        mh__json_plain(value, &plain);
        mh__json_is(value, "a");
        if (!mh__json_equal(value, value) && mh__json_kind_of(value) < MH__JSON_ARRAY)
            abort();
    }
    if (count != mh__json_count(v))
        abort();
    mh__json_get(v, "a");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {"a", "msg_id"};
    mh__json v, again, found[2];
    mh_buf *buf = NULL;
    mh_err err = mh__json_check((mh_bytes){data, size}, &v);
    mh_err picked = mh__json_pick((mh_bytes){data, size}, keys, 2, found);
    if ((picked == MH_OK) != (err == MH_OK && mh__json_kind_of(v) == MH__JSON_OBJECT))
        abort();
    if (err)
        return 0;
    look_at(v);
    if (mh_buf_create(&buf, 0))
        abort();
    mh__json_out o = mh__json_into(buf);
    if (mh__json_kind_of(v) == MH__JSON_STRING) {
        mh_buf *decoded = NULL;
        if (mh_buf_create(&decoded, 0) || mh__json_string(v, decoded))
            abort();
        mh__json_add_bytes(&o, (mh_bytes){mh_buf_data(decoded), mh_buf_size(decoded)});
        mh_buf_destroy(&decoded);
    } else {
        mh__json_add(&o, v);
    }
    if (mh__json_finish(&o) || mh__json_check((mh_bytes){mh_buf_data(buf), mh_buf_size(buf)}, &again))
        abort();
    if (mh__json_kind_of(v) == MH__JSON_STRING && !mh__json_equal(v, again))
        abort();
    mh_buf_destroy(&buf);
    return 0;
}
