/* The direct view: calls of native functions, and code and values for Python engines. */
#include "cluster/client_views.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"

#include <stdio.h>
#include <string.h>

struct mh_direct_view {
    mh_client *client;
    size_t count;
    mh_client_engine engines[];
};

/* ---- the view -------------------------------------------------------------------------------- */

mh_err mh_client_direct_view(mh_client *c, const int64_t *ids, size_t count, mh_direct_view **out)
{
    *out = NULL;
    mh_err err = mh__client_check(c);
    if (err)
        return err;
    size_t known = 0;
    if (!ids)
        mh_client_engines(c, NULL, &known);
    size_t capacity = ids ? count : known;
    mh_direct_view *v = mh__calloc(1, sizeof *v + capacity * sizeof v->engines[0]);
    if (!v)
        return MH_ERR_NO_MEMORY;
    v->client = c;
    v->count = capacity;
    if (!ids) {
        mh_client_engines(c, v->engines, &known);
        v->count = MH__MIN(capacity, known);
    }
    for (size_t i = 0; ids && i < count && !err; i++)
        if (!mh__client_engine_find(c, ids[i], &v->engines[i]))
            err = mh__fail(MH_ERR_NOT_FOUND, "no engine %lld is registered", (long long)ids[i]);
    if (!err && !v->count)
        err = mh__fail(MH_ERR_NOT_FOUND, "no engine is registered");
    if (err)
        mh__free(v);
    else
        *out = v;
    return err;
}

void mh_direct_view_destroy(mh_direct_view **v)
{
    mh__free(*v);
    *v = NULL;
}

size_t mh_direct_view_count(const mh_direct_view *v) { return v->count; }

static void release_all(mh_client_future **futures, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mh_client_future_release(&futures[i]);
}

/* ---- native functions ------------------------------------------------------------------------ */

mh_err mh_direct_view_apply(mh_direct_view *v, const char *function, mh_bytes input, mh_client_future **futures)
{
    mh_err err = MH_OK;
    size_t sent = 0;
    while (!err && sent < v->count) {
        err = mh__views_call(v->client, v->engines[sent].uuid, function, input, (mh_bytes){0}, &futures[sent]);
        sent += !err;
    }
    if (err)
        release_all(futures, sent);
    return err;
}

/* Where the part of the i-th of n begins: the first ones have one item more. */
static size_t part_begin(size_t count, size_t n, size_t i) { return count / n * i + MH__MIN(i, count % n); }

mh_err mh_direct_view_map(mh_direct_view *v, const char *function, const void *in, size_t item_size, size_t count, void *out,
                          size_t out_size, mh_deadline until)
{
    const mh__views_map m = {in, item_size, count, out, out_size};
    mh_err err = mh__views_check_sizes(&m);
    size_t sent = 0, used = MH__MIN(v->count, count);
    mh_client_future **futures = err ? NULL : mh__calloc(used ? used : 1, sizeof(mh_client_future *));
    if (!err && !futures)
        err = MH_ERR_NO_MEMORY;
    while (!err && sent < used) {
        size_t begin = part_begin(count, used, sent), end = part_begin(count, used, sent + 1);
        err = mh__views_call(v->client, v->engines[sent].uuid, function, mh__views_part(&m, begin, end - begin), (mh_bytes){0}, &futures[sent]);
        sent += !err;
    }
    for (size_t i = 0; i < sent; i++) {
        size_t begin = part_begin(count, used, i), end = part_begin(count, used, i + 1);
        mh_err ended = mh__views_collect(&m, &futures[i], begin, end - begin, until);
        err = err ? err : ended;
    }
    mh__free(futures);
    return err;
}

/* ---- code ------------------------------------------------------------------------------------ */

/* Run code at one engine; `expression` may be NULL, else its value comes with the reply. What is_silent is published nowhere. */
static mh_err execute(mh_direct_view *v, size_t at, mh_bytes code, const char *expression, bool is_silent, mh_client_future **out)
{
    mh_buf *content = NULL;
    mh_client_future *f = NULL;
    char id[MH_CLIENT_ID_SIZE];
    mh_err err = mh_buf_create(&content, code.size + code.size / 8);
    if (!err)
        err = mh__client_check(v->client);
    if (!err)
        err = mh__client_future_create(v->client, &f);
    if (err) {
        mh_buf_destroy(&content);
        return err;
    }
    (void)!mh_buf_resize(content, 0);
    mh__json_out o = mh__json_into(content);
    mh__json_open(&o, '{');
    mh__json_key(&o, "code");
    mh__json_add_bytes(&o, code);
    mh__json_key(&o, "silent");
    mh__json_add_bool(&o, is_silent);
    mh__json_key(&o, "store_history");
    mh__json_add_bool(&o, false);
    mh__json_key(&o, "allow_stdin");
    mh__json_add_bool(&o, false);
    mh__json_key(&o, "user_expressions");
    mh__json_open(&o, '{');
    if (expression) {
        mh__json_key(&o, "v");
        mh__json_add_string(&o, expression);
    }
    mh__json_close(&o, '}');
    mh__json_close(&o, '}');
    err = mh__json_finish(&o);
    if (!err)
        err = mh__client_send(v->client, &(mh_client_request){.channel = MH_CLIENT_MUX, .engine = v->engines[at].uuid, .type = "execute_request",
                                                              .content = {mh_buf_data(content), mh_buf_size(content)}}, MH_FOREVER, id, f);
    mh_buf_destroy(&content);
    if (err)
        mh_client_future_release(&f);
    else
        *out = f;
    return err;
}

mh_err mh_direct_view_execute(mh_direct_view *v, const char *code, mh_client_future **futures)
{
    mh_err err = MH_OK;
    size_t sent = 0;
    while (!err && sent < v->count) {
        err = execute(v, sent, mh__text(code), NULL, false, &futures[sent]);
        sent += !err;
    }
    if (err)
        release_all(futures, sent);
    return err;
}

/* ---- values: in ------------------------------------------------------------------------------ */

static mh_err check_name(const char *name)
{
    bool ok = name && *name && !(*name >= '0' && *name <= '9');
    for (const char *p = name; ok && *p; p++)
        ok = *p == '_' || (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
    return ok ? MH_OK : mh__fail(MH_ERR_INVALID, "\"%.40s\" is no plain Python identifier", name ? name : "");
}

static mh_err append(mh_buf *b, const char *text) { return mh_buf_append(b, mh__text(text)); }

/* <name> = __import__('json').loads(<the JSON as a JSON string, which is a Python string too>) */
static mh_err write_json(mh_buf *code, const char *name, mh_bytes json)
{
    mh__json value;
    mh_err err = mh__json_check(json, &value);
    if (err)
        return mh__fail(MH_ERR_INVALID, "the value for %s is no JSON", name);
    err = append(code, name);
    if (!err)
        err = append(code, " = __import__('json').loads(");
    if (!err) {
        mh__json_out o = mh__json_into(code);
        mh__json_add_bytes(&o, json);
        err = mh__json_finish(&o);
    }
    return err ? err : append(code, ")\n");
}

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static mh_err append_base64(mh_buf *b, mh_bytes from)
{
    const unsigned char *in = from.data;
    size_t at = mh_buf_size(b), groups = from.size / 3 + (from.size % 3 != 0);
    mh_err err = groups > (SIZE_MAX - at) / 4 ? MH_ERR_NO_MEMORY : mh_buf_resize(b, at + 4 * groups);
    if (err)
        return err;
    char *out = (char *)mh_buf_data(b) + at;
    for (size_t i = 0; i < from.size; i += 3, out += 4) {
        size_t left = from.size - i;
        uint32_t bits = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) | (left > 2 ? in[i + 2] : 0);
        out[0] = base64_digits[bits >> 18];
        out[1] = base64_digits[bits >> 12 & 63];
        out[2] = left > 1 ? base64_digits[bits >> 6 & 63] : '=';
        out[3] = left > 2 ? base64_digits[bits & 63] : '=';
    }
    return MH_OK;
}

static mh_err write_bytes(mh_buf *code, const char *name, mh_bytes value)
{
    mh_err err = append(code, name);
    if (!err)
        err = append(code, " = __import__('base64').b64decode('");
    if (!err)
        err = append_base64(code, value);
    return err ? err : append(code, "')\n");
}

typedef mh_err (*write_fn)(mh_buf *code, const char *name, mh_bytes value);

/* All are waited for, also after a failure, which is the first one's. */
static mh_err await_all(mh_client_future **futures, size_t count, mh_deadline until)
{
    mh_client_result r;
    mh_err first = MH_OK;
    for (size_t i = 0; i < count; i++) {
        mh_err err = mh__views_check(futures[i], first ? MH_NOW : until, &r);
        first = first ? first : err;
    }
    release_all(futures, count);
    return first;
}

/* values[i], or the same for all, to the i-th engine. */
static mh_err push(mh_direct_view *v, const char *name, write_fn write, const mh_bytes *values, bool is_same, mh_deadline until)
{
    mh_buf *code = NULL;
    size_t sent = 0;
    mh_client_future **futures = mh__calloc(v->count, sizeof(mh_client_future *));
    mh_err err = futures ? mh_buf_create(&code, 0) : MH_ERR_NO_MEMORY;
    if (!err)
        err = check_name(name);
    for (size_t i = 0; !err && i < v->count; i++) {
        if (i == 0 || !is_same) {
            (void)!mh_buf_resize(code, 0);
            err = write(code, name, values[i]);
        }
        if (!err)
            err = execute(v, i, (mh_bytes){mh_buf_data(code), mh_buf_size(code)}, NULL, true, &futures[i]);
        sent += !err;
    }
    mh_buf_destroy(&code);
    if (err)
        release_all(futures, sent);
    else
        err = await_all(futures, v->count, until);
    mh__free(futures);
    return err;
}

mh_err mh_direct_view_push(mh_direct_view *v, const char *name, mh_bytes json, mh_deadline until)
{
    return push(v, name, write_json, &json, true, until);
}

mh_err mh_direct_view_push_bytes(mh_direct_view *v, const char *name, mh_bytes value, mh_deadline until)
{
    return push(v, name, write_bytes, &value, true, until);
}

mh_err mh_direct_view_scatter(mh_direct_view *v, const char *name, const void *items, size_t item_size, size_t count, mh_deadline until)
{
    const mh__views_map m = {.in = items, .item_size = item_size, .count = count};
    mh_err err = mh__views_check_sizes(&m);
    mh_bytes *parts = err ? NULL : mh__calloc(v->count, sizeof *parts);
    if (!err && !parts)
        err = MH_ERR_NO_MEMORY;
    for (size_t i = 0; !err && i < v->count; i++) {
        size_t begin = part_begin(count, v->count, i);
        parts[i] = mh__views_part(&m, begin, part_begin(count, v->count, i + 1) - begin);
    }
    if (!err)
        err = push(v, name, write_bytes, parts, false, until);
    mh__free(parts);
    return err;
}

/* ---- values: out ----------------------------------------------------------------------------- */

static int base64_value(unsigned char c)
{
    const char *at = c ? strchr(base64_digits, c) : NULL;
    return at ? (int)(at - base64_digits) : -1;
}

/* Both expressions give a string of plain ASCII in base64, whose repr is itself between quotes. */
static mh_err read_base64(mh_bytes repr, mh_buf **out)
{
    const unsigned char *text = repr.data;
    if (repr.size < 2 || text[0] != '\'' || text[repr.size - 1] != '\'' || (repr.size - 2) % 4)
        return mh__fail(MH_ERR_CORRUPT, "the engine's value is not in base64");
    size_t digits = repr.size - 2, padding = 0;
    while (padding < 2 && padding < digits && text[digits - padding] == '=')
        padding++;
    mh_buf *b = NULL;
    mh_err err = mh_buf_create(&b, digits / 4 * 3);
    unsigned char *to = err ? NULL : mh_buf_data(b);
    for (size_t i = 0; !err && i < digits; i += 4, to += 3) {
        uint32_t bits = 0;
        for (size_t j = 0; j < 4; j++) {
            int value = i + j >= digits - padding ? 0 : base64_value(text[1 + i + j]);
            if (value < 0)
                err = mh__fail(MH_ERR_CORRUPT, "the engine's value is not in base64");
            bits = bits << 6 | (uint32_t)(value & 63);
        }
        to[0] = (unsigned char)(bits >> 16);
        to[1] = (unsigned char)(bits >> 8);
        to[2] = (unsigned char)bits;
    }
    if (!err)
        err = mh_buf_resize(b, digits / 4 * 3 - padding);
    if (err)
        mh_buf_destroy(&b);
    else
        *out = b;
    return err;
}

/* "user_expressions": {"v": {"status": "ok", "data": {"text/plain": repr}}} */
static mh_err read_value(const mh_client_result *r, mh_buf **out)
{
    static const char *const keys[] = {"user_expressions"};
    mh__json got[1];
    mh_buf *repr = NULL, *why = NULL;
    mh_err err = mh__json_pick(r->reply->content, keys, 1, got);
    mh__json v = mh__json_get(got[0], "v");
    if (!err)
        err = mh_buf_create(&repr, 0);
    if (!err && !mh__json_is(mh__json_get(v, "status"), "ok")) {
        err = mh__json_string(mh__json_get(v, "ename"), repr);
        if (!err && !mh_buf_create(&why, 0) && !mh__json_string(mh__json_get(v, "evalue"), why))
            err = mh__fail(MH_ERR_TASK_FAILED, "%.*s: %.*s", (int)mh_buf_size(repr), (const char *)mh_buf_data(repr), (int)mh_buf_size(why),
                           (const char *)mh_buf_data(why));
        err = err ? err : mh__fail(MH_ERR_TASK_FAILED, "the value could not be read");
    }
    if (!err)
        err = mh__json_string(mh__json_get(mh__json_get(v, "data"), "text/plain"), repr);
    if (!err)
        err = read_base64((mh_bytes){mh_buf_data(repr), mh_buf_size(repr)}, out);
    mh_buf_destroy(&repr);
    mh_buf_destroy(&why);
    return err;
}

static mh_err pull(mh_direct_view *v, const char *name, const char *format, mh_buf **values, mh_deadline until)
{
    char expression[512];
    size_t sent = 0, have = 0;
    mh_client_result r;
    mh_err err = check_name(name);
    if (!err && (size_t)snprintf(expression, sizeof expression, format, name) >= sizeof expression)
        err = mh__fail(MH_ERR_INVALID, "a name of %zu characters", strlen(name));
    if (err)
        return err;
    mh_client_future **futures = mh__calloc(v->count, sizeof(mh_client_future *));
    if (!futures)
        return MH_ERR_NO_MEMORY;
    for (; !err && sent < v->count; sent += !err)
        err = execute(v, sent, (mh_bytes){"", 0}, expression, true, &futures[sent]);
    for (; !err && have < v->count; have += !err) {
        err = mh__views_check(futures[have], until, &r);
        if (!err)
            err = read_value(&r, &values[have]);
    }
    if (err)
        while (have)
            mh_buf_destroy(&values[--have]);
    release_all(futures, sent);
    mh__free(futures);
    return err;
}

mh_err mh_direct_view_pull(mh_direct_view *v, const char *name, mh_buf **values, mh_deadline until)
{
    return pull(v, name, "__import__('base64').b64encode(__import__('json').dumps(%s).encode()).decode()", values, until);
}

mh_err mh_direct_view_pull_bytes(mh_direct_view *v, const char *name, mh_buf **values, mh_deadline until)
{
    return pull(v, name, "__import__('base64').b64encode(memoryview(%s)).decode()", values, until);
}

mh_err mh_direct_view_gather(mh_direct_view *v, const char *name, mh_buf **out, mh_deadline until)
{
    mh_buf **parts = mh__calloc(v->count, sizeof(mh_buf *));
    mh_buf *whole = NULL;
    if (!parts)
        return MH_ERR_NO_MEMORY;
    mh_err err = mh_direct_view_pull_bytes(v, name, parts, until);
    size_t have = err ? 0 : v->count;
    if (!err)
        err = mh_buf_create(&whole, 0);
    for (size_t i = 0; !err && i < have; i++)
        err = mh_buf_append(whole, (mh_bytes){mh_buf_data(parts[i]), mh_buf_size(parts[i])});
    for (size_t i = 0; i < have; i++)
        mh_buf_destroy(&parts[i]);
    mh__free(parts);
    if (err)
        mh_buf_destroy(&whole);
    else
        *out = whole;
    return err;
}
