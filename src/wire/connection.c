#include "wire/connection.h"

#include "base/error.h"
#include "base/number.h"
#include "wire/json.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef enum need { ANY, ENGINE, CLIENT, OPTIONAL } need;

typedef struct field {
    const char *name;
    size_t offset, size; /* size 0: a port */
    need need;
} field;

#define TEXT(name, member, need) {name, offsetof(mh__connection, member), sizeof((mh__connection *)0)->member, need}
#define PORT(name, need) {#name, offsetof(mh__connection, name), 0, need}

/* In the order in which they are written. */
static const field fields[] = {
    TEXT("ssh", ssh, OPTIONAL),
    TEXT("interface", interface_, ANY),
    PORT(registration, ANY),
    PORT(control, ANY),
    PORT(mux, ANY),
    PORT(task, ANY),
    TEXT("task_scheme", task_scheme, OPTIONAL),
    PORT(iopub, ANY),
    PORT(hb_ping, ENGINE),
    PORT(hb_pong, ENGINE),
    PORT(notification, CLIENT),
    TEXT("key", key, OPTIONAL),
    TEXT("curve_serverkey", curve_serverkey, OPTIONAL),
    TEXT("location", location, OPTIONAL),
    TEXT("pack", pack, OPTIONAL),
    TEXT("unpack", unpack, OPTIONAL),
    TEXT("signature_scheme", signature_scheme, OPTIONAL),
    TEXT("x_fast", fast, OPTIONAL),
    TEXT("x_buffers", buffers, OPTIONAL),
};

static mh_err bad(const char *name, const char *why) { return mh__fail(MH_ERR_CORRUPT, "connection file: \"%s\" %s", name, why); }

static mh_err read_text(const field *f, mh__json v, void *at)
{
    char *text = at;
    mh_buf *decoded = NULL;
    mh_err err = mh_buf_create(&decoded, 0);
    if (!err)
        err = mh__json_string(v, decoded);
    if (err == MH_ERR_INVALID)
        err = bad(f->name, "is not a string");
    if (!err && (mh_buf_size(decoded) >= f->size || (mh_buf_size(decoded) && memchr(mh_buf_data(decoded), 0, mh_buf_size(decoded)))))
        err = bad(f->name, "is too long, or holds a zero byte");
    if (!err) {
        size_t size = mh_buf_size(decoded);
        if (size)
            memcpy(text, mh_buf_data(decoded), size);
        text[size] = 0;
    }
    mh_buf_destroy(&decoded);
    return err;
}

static mh_err read_port(const char *name, mh__json v, uint16_t *out)
{
    int64_t port;
    if (!mh__json_int(v, &port) || port < 1 || port > UINT16_MAX)
        return bad(name, "is not a port from 1 to 65535");
    *out = (uint16_t)port;
    return MH_OK;
}

/* One port, or for engines a list of them. */
static mh_err read_broadcast(mh__json v, mh__connection *c)
{
    c->is_engine = mh__json_kind_of(v) == MH__JSON_ARRAY;
    if (!c->is_engine) {
        c->broadcast_count = 1;
        return read_port("broadcast", v, &c->broadcast[0]);
    }
    mh__json_walk w = mh__json_walk_of(v);
    for (mh__json key, port; mh__json_next(&w, &key, &port);) {
        if (c->broadcast_count == MH__CONNECTION_LEAVES)
            return bad("broadcast", "lists more than 16 ports");
        mh_err err = read_port("broadcast", port, &c->broadcast[c->broadcast_count++]);
        if (err)
            return err;
    }
    return c->broadcast_count ? MH_OK : bad("broadcast", "lists no port");
}

static bool is_needed(const field *f, bool is_engine)
{
    return f->need == ANY || f->need == (is_engine ? ENGINE : CLIENT);
}

static mh_err read_fields(const mh__json *found, mh__connection *c)
{
    for (size_t i = 0; i < MH__COUNT_OF(fields); i++) {
        const field *f = &fields[i];
        void *at = (char *)c + f->offset;
        mh_err err = MH_OK;
        if (mh__json_kind_of(found[i]) <= MH__JSON_NULL)
            err = is_needed(f, c->is_engine) ? bad(f->name, "is missing") : MH_OK;
        else if (f->size)
            err = read_text(f, found[i], at);
        else
            err = read_port(f->name, found[i], at);
        if (err)
            return err;
    }
    return MH_OK;
}

static bool is_one_of(const char *text, const char *a, const char *b, const char *c)
{
    return !strcmp(text, a) || !strcmp(text, b) || !strcmp(text, c);
}

mh_err mh__connection_read(mh_bytes text, mh__connection *out)
{
    const char *keys[MH__COUNT_OF(fields) + 1];
    mh__json found[MH__COUNT_OF(fields) + 1];
    mh__connection c = {0};
    if (text.size > MH__CONNECTION_FILE_MAX)
        return mh__fail(MH_ERR_CORRUPT, "connection file of %zu bytes", text.size);
    for (size_t i = 0; i < MH__COUNT_OF(fields); i++)
        keys[i] = fields[i].name;
    keys[MH__COUNT_OF(fields)] = "broadcast";
    mh_err err = mh__json_pick(text, keys, MH__COUNT_OF(keys), found);
    if (err)
        return mh__fail(MH_ERR_CORRUPT, "connection file: not a JSON object");
    err = read_broadcast(found[MH__COUNT_OF(fields)], &c);
    if (!err)
        err = read_fields(found, &c);
    if (err)
        return err;
    if (!strstr(c.interface_, "://"))
        return bad("interface", "is not like tcp://127.0.0.1");
    if (!is_one_of(c.pack, "json", "", "orjson") || !is_one_of(c.unpack, "json", "", "orjson"))
        return mh__fail(MH_ERR_UNSUPPORTED, "connection file: packer \"%s\"; only json is spoken here", c.pack);
    if (!is_one_of(c.signature_scheme, "hmac-sha256", "", ""))
        return mh__fail(MH_ERR_UNSUPPORTED, "connection file: signature scheme \"%s\"; only hmac-sha256 is spoken here",
                        c.signature_scheme);
    if (!is_one_of(c.buffers, "", "signed", "signed"))
        return mh__fail(MH_ERR_UNSUPPORTED, "connection file: x_buffers \"%s\"; only \"signed\" is known", c.buffers);
    *out = c;
    return MH_OK;
}

mh_err mh__connection_write(const mh__connection *c, mh_buf *out)
{
    mh__json_out o = mh__json_into(out);
    mh__json_open(&o, '{');
    for (size_t i = 0; i < MH__COUNT_OF(fields); i++) {
        const field *f = &fields[i];
        const void *at = (const char *)c + f->offset;
        if ((f->need != OPTIONAL && !is_needed(f, c->is_engine)) || (at == c->task_scheme && c->is_engine) ||
            (at == c->fast && !*c->fast) || (at == c->buffers && !*c->buffers))
            continue;
        mh__json_key(&o, f->name);
        if (!f->size)
            mh__json_add_int(&o, *(const uint16_t *)at);
        else if (at == c->curve_serverkey && !*c->curve_serverkey)
            mh__json_add_null(&o);
        else
            mh__json_add_string(&o, at);
    }
    mh__json_key(&o, "broadcast");
    if (c->is_engine) {
        mh__json_open(&o, '[');
        for (size_t i = 0; i < c->broadcast_count; i++)
            mh__json_add_int(&o, c->broadcast[i]);
        mh__json_close(&o, ']');
    } else {
        mh__json_add_int(&o, c->broadcast[0]);
    }
    mh__json_close(&o, '}');
    return mh__json_finish(&o);
}

mh_err mh__connection_find_host(mh__connection *c, const char *own_host)
{
    bool is_v6 = !strcmp(c->interface_, "tcp://[::]");
    if (!is_v6 && strcmp(c->interface_, "tcp://*") && strcmp(c->interface_, "tcp://0.0.0.0"))
        return MH_OK;
    bool is_here = !*c->location || !strcmp(c->location, own_host);
    bool is_bare_v6 = !is_here && strchr(c->location, ':') && *c->location != '[';
    int size = snprintf(c->interface_, sizeof c->interface_, "tcp://%s%s%s", is_bare_v6 ? "[" : "",
                        !is_here ? c->location : is_v6 ? "[::1]" : "127.0.0.1", is_bare_v6 ? "]" : "");
    return size < (int)sizeof c->interface_ ? MH_OK : mh__fail(MH_ERR_CORRUPT, "connection file: \"location\" is too long");
}

mh_err mh__connection_url(const mh__connection *c, uint16_t port, char *out, size_t capacity)
{
    bool is_ipc = !strncmp(c->interface_, "ipc:", 4);
    int size = snprintf(out, capacity, "%s%c%u", c->interface_, is_ipc ? '-' : ':', port);
    return size < 0 || (size_t)size >= capacity ? mh__fail(MH_ERR_TOO_LARGE, "an address longer than %zu bytes", capacity) : MH_OK;
}
