#include "net/seal.h"

#include "base/error.h"
#include "base/number.h"

#include <nettle/sha2.h>
#include <string.h>

enum { HEX_SIZE = 2 * SHA256_DIGEST_SIZE };

static const char *const keys[] = {"x_buf"};

static void write_digest(mh_bytes bytes, char hex[HEX_SIZE])
{
    struct sha256_ctx ctx;
    uint8_t digest[SHA256_DIGEST_SIZE];
    nettle_sha256_init(&ctx);
    nettle_sha256_update(&ctx, bytes.size, bytes.data);
    nettle_sha256_digest(&ctx, sizeof digest, digest);
    mh__write_hex(digest, sizeof digest, hex);
}

static bool is_wanted(const mh__session *s, const mh__message *m) { return s->is_strict && s->signer.digest && m->buffer_count; }

mh_err mh__seal_check(const mh__session *s, const mh__message *m)
{
    mh__json got[1], key, item;
    mh_bytes said;
    char hex[HEX_SIZE];
    if (!is_wanted(s, m))
        return MH_OK;
    if (mh__json_pick(m->metadata, keys, 1, got) || mh__json_kind_of(got[0]) != MH__JSON_ARRAY || mh__json_count(got[0]) != m->buffer_count)
        return mh__fail(MH_ERR_PERMISSION, "%zu buffers without digests (x_buf): this cluster is strict, and stock peers can't be in it", m->buffer_count);
    mh__json_walk w = mh__json_walk_of(got[0]);
    for (size_t i = 0; mh__json_next(&w, &key, &item); i++) {
        write_digest(m->buffers[i], hex);
        if (!mh__json_plain(item, &said) || said.size != HEX_SIZE || memcmp(said.data, hex, HEX_SIZE) != 0)
            return mh__fail(MH_ERR_PERMISSION, "buffer %zu is not the one that was signed", i);
    }
    return MH_OK;
}

/* `metadata` with other digests, or with the first ones. */
static mh_err write_metadata(const mh__message *m, mh_buf *to)
{
    mh__json whole, key, value;
    char hex[HEX_SIZE];
    mh_err err = mh__json_check(m->metadata, &whole);
    if (err)
        return err;
    mh__json_out o = mh__json_into(to);
    mh__json_walk w = mh__json_walk_of(whole);
    mh__json_open(&o, '{');
    while (mh__json_next(&w, &key, &value)) {
        if (mh__json_is(key, keys[0]))
            continue;
        mh__json_key_bytes(&o, (mh_bytes){key.text + 1, key.size - 2});
        mh__json_add(&o, value);
    }
    mh__json_key(&o, keys[0]);
    mh__json_open(&o, '[');
    for (size_t i = 0; i < m->buffer_count; i++) {
        write_digest(m->buffers[i], hex);
        mh__json_add_bytes(&o, (mh_bytes){hex, sizeof hex});
    }
    mh__json_close(&o, ']');
    mh__json_close(&o, '}');
    return mh__json_finish(&o);
}

static bool has_digests(const mh__message *m)
{
    mh__json got[1];
    return !mh__json_pick(m->metadata, keys, 1, got) && mh__json_kind_of(got[0]) == MH__JSON_ARRAY && mh__json_count(got[0]) == m->buffer_count;
}

mh_err mh__seal_add(const mh__session *s, mh__parcel *p)
{
    mh__message m;
    mh_buf *metadata = NULL;
    mh__parcel *copy = NULL;
    mh__built built;
    mh_err err = s->is_strict && s->signer.digest ? mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &m) : MH_OK;
    if (err || !s->is_strict || !s->signer.digest || !m.buffer_count || has_digests(&m))
        return err;
    err = mh_buf_create(&metadata, 0);
    if (!err)
        err = write_metadata(&m, metadata);
    if (!err) {
        mh__session_sign(s, m.header, m.parent, (mh_bytes){mh_buf_data(metadata), mh_buf_size(metadata)}, m.content, &built);
        err = mh__parcel_create(&copy);
    }
    if (!err)
        err = mh__parcel_share(copy, p, 0, m.ident_count);
    for (size_t i = 0; i < MH__FRAMES_SIGNED && !err; i++)
        err = mh__parcel_add(copy, built.frames[i]);
    if (!err)
        err = mh__parcel_share(copy, p, m.ident_count + MH__FRAMES_SIGNED, m.buffer_count);
    if (!err)
        mh__parcel_move(p, copy);
    mh__parcel_destroy(&copy);
    mh_buf_destroy(&metadata);
    return err;
}
