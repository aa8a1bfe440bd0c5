#include "cluster/brief.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"

#include <stdio.h>
#include <string.h>

static const char call_begin[] = "{\"function\":\"", call_end[] = "\"}";

/* ---- keeping --------------------------------------------------------------------------------- */

static mh_bytes copy(mh_bytes from, char **at)
{
    mh_bytes to = {*at, from.size};
    if (from.size)
        memcpy(*at, from.data, from.size);
    *at += from.size;
    return to;
}

mh__fast_task *mh__brief_copy(const mh__fast_task *t, size_t *bytes)
{
    size_t views = t->buffer_count * sizeof *t->buffers, size = sizeof *t + views + t->who.size + t->user.size + t->what.size + t->metadata.size;
    for (size_t i = 0; i < t->buffer_count; i++)
        size += mh__round_up(t->buffers[i].size, 16) + 16;
    mh__fast_task *k = mh__alloc(size + 16);
    if (!k)
        return NULL;
    *k = *t;
    mh_bytes *buffers = (mh_bytes *)(void *)(k + 1);
    char *at = (char *)(k + 1) + views;
    for (size_t i = 0; i < t->buffer_count; i++) { /* first, for who reads numbers in them finds them where numbers may lie */
        at = (char *)mh__round_up((uintptr_t)at, 16);
        buffers[i] = copy(t->buffers[i], &at);
    }
    k->buffers = buffers;
    k->who = copy(t->who, &at);
    k->user = copy(t->user, &at);
    k->what = copy(t->what, &at);
    k->metadata = copy(t->metadata, &at);
    *bytes = size + 16;
    return k;
}

/* ---- names and contents ---------------------------------------------------------------------- */

size_t mh__brief_id(mh_bytes client, uint64_t number, char out[MH__BRIEF_ID_SIZE])
{
    char digits[20], *first = digits + sizeof digits;
    size_t size = MH__MIN(client.size, (size_t)MH__FAST_CLIENT_MAX);
    memcpy(out, client.data, size);
    out[size++] = '_';
    do
        *--first = (char)('0' + number % 10);
    while (number /= 10);
    size_t count = (size_t)(digits + sizeof digits - first);
    memcpy(out + size, first, count);
    return size + count;
}

size_t mh__brief_content(mh_bytes function, char out[MH__BRIEF_CONTENT_SIZE])
{
    char *at = out;
    (void)copy((mh_bytes){call_begin, sizeof call_begin - 1}, &at);
    (void)copy(function, &at);
    (void)copy((mh_bytes){call_end, sizeof call_end - 1}, &at);
    return (size_t)(at - out);
}

mh_bytes mh__brief_function(mh_bytes content)
{
    size_t before = sizeof call_begin - 1, after = sizeof call_end - 1;
    const char *text = content.data;
    if (content.size <= before + after || memcmp(text, call_begin, before) || memcmp(text + content.size - after, call_end, after))
        return (mh_bytes){"", 0};
    mh_bytes name = {text + before, content.size - before - after};
    return mh__fast_is_plain(name, MH__FAST_NAME_MAX) ? name : (mh_bytes){"", 0};
}

mh_bytes mh__brief_said(mh_bytes content)
{
    bool is_ok = mh__bytes_are(content, "{\"status\":\"ok\"}") || mh__bytes_are(content, "{\"status\": \"ok\"}");
    return is_ok ? (mh_bytes){"", 0} : content;
}

mh_err mh__brief_is_plain(mh_bytes metadata, bool *is_plain)
{
    static const char *const keys[] = {"is_broadcast", "is_coalescing", "original_msg_id", "label"};
    mh__json got[MH__COUNT_OF(keys)];
    *is_plain = true;
    if (!metadata.size)
        return MH_OK;
    mh_err err = mh__json_pick(metadata, keys, MH__COUNT_OF(keys), got);
    for (size_t i = 0; i < MH__COUNT_OF(keys) && !err; i++) {
        bool says = true;
        bool is_none = mh__json_kind_of(got[i]) <= MH__JSON_NULL || mh__json_is(got[i], "") || (mh__json_bool(got[i], &says) && !says);
        *is_plain &= is_none;
    }
    return err;
}

/* ---- messages -------------------------------------------------------------------------------- */

static mh_err add_message(mh__parcel *p, mh__session *s, const mh__draft *d, const mh_bytes *buffers, size_t count)
{
    mh__built built;
    mh_err err = mh__session_build(s, d, &built);
    for (size_t i = 0; i < MH__FRAMES_SIGNED && !err; i++)
        err = mh__parcel_add(p, built.frames[i]);
    for (size_t i = 0; i < count && !err; i++)
        err = mh__parcel_add(p, buffers[i]);
    return err;
}

static mh__session session_of(mh_bytes id, mh_bytes user)
{
    mh__session s = {0};
    snprintf(s.id, sizeof s.id, "%.*s", (int)id.size, (const char *)id.data);
    snprintf(s.username, sizeof s.username, "%.*s", (int)user.size, (const char *)user.data);
    return s;
}

mh_err mh__brief_add_request(mh__parcel *p, const mh__fast_task *t, mh_bytes client, mh_bytes user)
{
    char id[MH__BRIEF_ID_SIZE], content[MH__BRIEF_CONTENT_SIZE];
    mh__session s = session_of(client, user);
    bool is_call = t->flags & MH__FAST_CALL;
    mh__draft d = {.type = is_call ? "call_request" : "apply_request", .msg_id = {id, mh__brief_id(client, t->number, id)}, .metadata = t->metadata,
                   .unix_ns = t->date_ns};
    if (is_call)
        d.content = (mh_bytes){content, mh__brief_content(t->what, content)};
    return add_message(p, &s, &d, t->buffers, t->buffer_count);
}

static void add_or(mh__json_out *o, const char *key, mh__json value, const char *otherwise)
{
    mh__json_key(o, key);
    mh__json_add(o, value.text ? value : (mh__json){otherwise, strlen(otherwise)});
}

/* What engines say of a task beside its result: see write_metadata in engine_reply.c. */
static mh_err write_metadata(const mh__fast_task *t, mh_bytes engine, mh_bytes content, mh_bytes metadata, mh_buf *out)
{
    static const char *const keys[] = {"is_broadcast", "is_coalescing", "original_msg_id", "label"}, *const said_keys[] = {"status", "engine_info"};
    mh__json asked[MH__COUNT_OF(keys)] = {{0}}, said[2];
    char started[MH__DATE_SIZE];
    if (metadata.size && mh__json_pick(metadata, keys, MH__COUNT_OF(keys), asked))
        memset(asked, 0, sizeof asked);
    mh_err err = mh__json_pick(content, said_keys, 2, said);
    if (err)
        return err;
    mh__date_write(t->started_ns, started);
    mh__json_out o = mh__json_into(out);
    mh__json_open(&o, '{');
    mh__json_key(&o, "started");
    mh__json_add_string(&o, started);
    mh__json_key(&o, "dependencies_met");
    mh__json_add_bool(&o, !(t->flags & MH__FAST_NOT_MET));
    mh__json_key(&o, "engine");
    mh__json_add_bytes(&o, engine);
    add_or(&o, "is_broadcast", asked[0], "false");
    add_or(&o, "is_coalescing", asked[1], "false");
    add_or(&o, "original_msg_id", asked[2], "\"\"");
    add_or(&o, "label", asked[3], "null");
    add_or(&o, "status", said[0], "\"error\"");
    if (said[1].text) {
        mh__json_key(&o, "engine_info");
        mh__json_add(&o, said[1]);
    }
    if (t->flags & MH__FAST_SILENT) {
        mh__json_key(&o, "x_quiet");
        mh__json_add_bool(&o, true);
    }
    mh__json_close(&o, '}');
    return mh__json_finish(&o);
}

mh_err mh__brief_add_reply(mh__parcel *p, const mh__fast_task *t, mh_bytes engine, mh_bytes parent, mh_bytes metadata)
{
    char id[MH__WIRE_ID_MAX + 1];
    mh_buf *said = NULL;
    mh__session s = session_of(engine, MH__TEXT("engine"));
    mh_bytes content = t->what.size ? t->what : MH__TEXT("{\"status\":\"ok\"}");
    int size = snprintf(id, sizeof id, "%s_%llx", s.id, (unsigned long long)t->token); /* an attempt is answered once */
    mh_err err = mh_buf_create(&said, 0);
    if (!err)
        err = write_metadata(t, engine, content, metadata, said);
    if (!err)
        err = add_message(p, &s, &(mh__draft){.type = t->flags & MH__FAST_CALL ? "call_reply" : "apply_reply", .msg_id = {id, (size_t)size}, .parent = parent,
                                              .metadata = {mh_buf_data(said), mh_buf_size(said)}, .content = content, .unix_ns = t->date_ns},
                          t->buffers, t->buffer_count);
    mh_buf_destroy(&said);
    return err;
}
