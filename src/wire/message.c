#include "wire/message.h"

#include "base/error.h"
#include "base/number.h"

#include <string.h>

/* ---- reading --------------------------------------------------------------------------------- */

mh_err mh__message_split(const mh_bytes *frames, size_t count, mh__message *out)
{
    size_t at = 0;
    while (at < count && at <= MH__WIRE_IDENTS_MAX && !mh__bytes_are(frames[at], MH__WIRE_DELIMITER))
        at++;
    if (at == count || at > MH__WIRE_IDENTS_MAX)
        return mh__fail(MH_ERR_CORRUPT, "no delimiter among the first frames of %zu", count);
    if (count - at < MH__FRAMES_SIGNED)
        return mh__fail(MH_ERR_CORRUPT, "%zu frames after the delimiter: a message has 5 or more", count - at - 1);
    for (size_t i = 0; i < at; i++)
        if (frames[i].size > MH__WIRE_ID_MAX)
            return mh__fail(MH_ERR_CORRUPT, "an identity of %zu bytes", frames[i].size);
    const mh_bytes *f = frames + at + 1;
    if (f[1].size > MH__WIRE_HEADER_MAX || f[2].size > MH__WIRE_HEADER_MAX || f[3].size > MH__WIRE_META_MAX)
        return mh__fail(MH_ERR_CORRUPT, "headers of %zu and %zu bytes, metadata of %zu", f[1].size, f[2].size, f[3].size);
    *out = (mh__message){
        .idents = frames,
        .ident_count = at,
        .signature = f[0],
        .header = f[1],
        .parent = f[2],
        .metadata = f[3],
        .content = f[4],
        .buffers = f + 5,
        .buffer_count = count - at - MH__FRAMES_SIGNED,
    };
    return MH_OK;
}

mh_err mh__message_verify(const mh__message *m, const mh__signer *signer)
{
    if (!signer->digest)
        return MH_OK;
    if (m->signature.size != MH__SIGNATURE_SIZE)
        return mh__fail(MH_ERR_PERMISSION, "a signature of %zu bytes", m->signature.size);
    uint8_t digest[32];
    char expected[MH__SIGNATURE_SIZE];
    signer->digest((const mh_bytes[]){m->header, m->parent, m->metadata, m->content}, 4, digest, signer->ctx);
    mh__write_hex(digest, sizeof digest, expected);
    volatile unsigned char differ = 0; /* volatile: every byte is compared, wherever the first difference lies */
    for (size_t i = 0; i < MH__SIGNATURE_SIZE; i++)
        differ |= (unsigned char)(expected[i] ^ ((const char *)m->signature.data)[i]);
    return differ ? mh__fail(MH_ERR_PERMISSION, "the signature does not fit the message") : MH_OK;
}

/* A name: a string without escapes of 1 to MH__WIRE_ID_MAX bytes; or absent or null where that is allowed. */
static bool take_name(mh__json v, bool required, mh_bytes *out)
{
    *out = (mh_bytes){"", 0};
    if (mh__json_kind_of(v) <= MH__JSON_NULL)
        return !required;
    return mh__json_plain(v, out) && out->size <= MH__WIRE_ID_MAX && (out->size || !required);
}

/* What follows `before` up to the next quote, where that is plain. */
static bool take_plain(const char **at, const char *end, const char *before, size_t size, mh_bytes *out)
{
    if ((size_t)(end - *at) <= size || memcmp(*at, before, size) != 0)
        return false;
    const char *begin = *at + size, *quote = memchr(begin, '"', (size_t)(end - begin));
    if (!quote)
        return false;
    unsigned odd = 0;
    for (const char *p = begin; p < quote; p++)
        odd |= (unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f || *p == '\\';
    *out = (mh_bytes){begin, (size_t)(quote - begin)};
    *at = quote;
    return !odd && out->size <= MH__WIRE_ID_MAX;
}
#define TAKE_PLAIN(before, out) take_plain(&at, end, before, sizeof(before) - 1, out)

/* A header as mh__session_build writes it: nearly all are. Valid then, without being read as JSON. */
static bool read_own_header(mh_bytes frame, mh__header *h)
{
    static const char tail[] = "\",\"version\":\"5.3\"}";
    const char *at = frame.data, *end = at + frame.size;
    mh_bytes date;
    if (!frame.size || !TAKE_PLAIN("{\"msg_id\":\"", &h->msg_id) || !TAKE_PLAIN("\",\"msg_type\":\"", &h->msg_type) ||
        !TAKE_PLAIN("\",\"username\":\"", &h->username) || !TAKE_PLAIN("\",\"session\":\"", &h->session) || !TAKE_PLAIN("\",\"date\":\"", &date))
        return false;
    h->date = (mh__json){(const char *)date.data - 1, date.size + 2};
    h->whole = (mh__json){frame.data, frame.size};
    return h->msg_id.size && h->msg_type.size && (size_t)(end - at) == sizeof tail - 1 && !memcmp(at, tail, sizeof tail - 1);
}

mh_err mh__header_read(mh_bytes frame, mh__header *out)
{
    mh__header own;
    if (read_own_header(frame, &own)) {
        *out = own;
        return MH_OK;
    }
    static const char *const keys[] = {"msg_id", "msg_type", "session", "username", "date"};
    mh__json got[MH__COUNT_OF(keys)];
    mh_err err = mh__json_pick(frame, keys, MH__COUNT_OF(keys), got);
    if (err)
        return err;
    mh__header h = {.date = got[4], .whole = {frame.data, frame.size}};
    if (!take_name(got[0], true, &h.msg_id))
        return mh__fail(MH_ERR_CORRUPT, "a header without a usable msg_id");
    if (!take_name(got[1], true, &h.msg_type))
        return mh__fail(MH_ERR_CORRUPT, "a header without a usable msg_type");
    if (!take_name(got[2], false, &h.session))
        return mh__fail(MH_ERR_CORRUPT, "a header without a usable session");
    if (!take_name(got[3], false, &h.username))
        h.username = (mh_bytes){"", 0}; /* decoration: anything goes */
    *out = h;
    return MH_OK;
}

mh_err mh__parent_read(mh_bytes frame, mh_bytes *msg_id)
{
    static const char *const keys[] = {"msg_id"};
    mh__header own;
    mh__json got[1];
    if (read_own_header(frame, &own)) {
        *msg_id = own.msg_id;
        return MH_OK;
    }
    mh_err err = mh__json_pick(frame, keys, 1, got);
    if (err)
        return err;
    return take_name(got[0], false, msg_id) ? MH_OK : mh__fail(MH_ERR_CORRUPT, "a parent header whose msg_id is not usable");
}

/* ---- writing --------------------------------------------------------------------------------- */

void mh__session_sign(const mh__session *s, mh_bytes header, mh_bytes parent, mh_bytes metadata, mh_bytes content,
                      mh__built *out)
{
    mh_bytes parts[] = {header, parent, metadata, content};
    out->frames[0] = MH__TEXT(MH__WIRE_DELIMITER);
    out->frames[1] = (mh_bytes){out->signature, 0};
    if (s->signer.digest) {
        uint8_t digest[32];
        s->signer.digest(parts, 4, digest, s->signer.ctx);
        mh__write_hex(digest, sizeof digest, out->signature);
        out->frames[1].size = MH__SIGNATURE_SIZE;
    }
    memcpy(&out->frames[2], parts, sizeof parts);
}

static bool needs_escape(mh_bytes text)
{
    for (size_t i = 0; i < text.size; i++) {
        unsigned char c = ((const unsigned char *)text.data)[i];
        if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\')
            return true;
    }
    return false;
}

static char *put(char *at, mh_bytes text)
{
    memcpy(at, text.data, text.size);
    return at + text.size;
}

/* "<session>_<count>" */
static mh_bytes write_id(const mh__session *s, char id[MH__WIRE_ID_MAX + 1])
{
    char digits[20], *at = digits + sizeof digits;
    uint64_t n = s->count;
    do
        *--at = (char)('0' + n % 10);
    while (n /= 10);
    char *end = put(id, mh__text(s->id));
    *end++ = '_';
    end = put(end, (mh_bytes){at, (size_t)(digits + sizeof digits - at)});
    return (mh_bytes){id, (size_t)(end - id)};
}

mh_err mh__session_build(mh__session *s, const mh__draft *d, mh__built *out)
{
    char date[MH__DATE_SIZE], id[MH__WIRE_ID_MAX + 1];
    mh_bytes msg_id = d->msg_id;
    if (!msg_id.size)
        msg_id = write_id(s, id);
    if (msg_id.size > MH__WIRE_ID_MAX || needs_escape(msg_id) || strlen(d->type) > 64 || needs_escape(mh__text(d->type)) ||
        needs_escape(mh__text(s->username)))
        return mh__fail(MH_ERR_INVALID, "message %.*s of type %s: a name is too long or not plain ASCII", (int)msg_id.size,
                        (const char *)msg_id.data, d->type);
    mh__date_write(d->unix_ns, date);
    char *at = out->header; /* no printf: every message has one */
    at = put(at, MH__TEXT("{\"msg_id\":\""));
    out->msg_id = (mh_bytes){at, msg_id.size};
    at = put(at, msg_id);
    at = put(at, MH__TEXT("\",\"msg_type\":\""));
    at = put(at, mh__text(d->type));
    at = put(at, MH__TEXT("\",\"username\":\""));
    at = put(at, mh__text(s->username));
    at = put(at, MH__TEXT("\",\"session\":\""));
    at = put(at, mh__text(s->id));
    at = put(at, MH__TEXT("\",\"date\":\""));
    at = put(at, (mh_bytes){date, sizeof date - 1});
    at = put(at, MH__TEXT("\",\"version\":\"5.3\"}"));
    s->count++;
    mh_bytes none = MH__TEXT("{}");
    mh__session_sign(s, (mh_bytes){out->header, (size_t)(at - out->header)}, d->parent.size ? d->parent : none,
                     d->metadata.size ? d->metadata : none, d->content.size ? d->content : none, out);
    return MH_OK;
}
