#include "wire/json.h"

#include "base/error.h"
#include "base/number.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- scanning: each gives what comes after the token at p, or NULL --------------------------- */

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    return p;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
static bool is_tail(const char *p, const char *end) { return p < end && ((unsigned char)*p & 0xc0) == 0x80; }

/* The length of the UTF-8 sequence at p: 1 to 4, or 0 where it is cut, overlong, a surrogate or beyond U+10FFFF. */
static size_t utf8_size(const char *p, const char *end)
{
    unsigned char c = (unsigned char)*p, next = p + 1 < end ? (unsigned char)p[1] : 0;
    if (c < 0x80)
        return 1;
    if (c < 0xc2 || c > 0xf4 || !is_tail(p + 1, end))
        return 0;
    if (c < 0xe0)
        return 2;
    if (!is_tail(p + 2, end) || (c == 0xe0 && next < 0xa0) || (c == 0xed && next > 0x9f))
        return 0;
    if (c < 0xf0)
        return 3;
    return !is_tail(p + 3, end) || (c == 0xf0 && next < 0x90) || (c == 0xf4 && next > 0x8f) ? 0 : 4;
}

static const char *skip_escape(const char *p, const char *end)
{
    if (end - p < 2)
        return NULL;
    if (p[1] != 'u')
        return strchr("\"\\/bfnrt", p[1]) && p[1] ? p + 2 : NULL;
    if (end - p < 6)
        return NULL;
    return is_hex(p[2]) && is_hex(p[3]) && is_hex(p[4]) && is_hex(p[5]) ? p + 6 : NULL;
}

static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end;) {
        unsigned char c = (unsigned char)*p;
        if (c == '"')
            return p + 1;
        if (c == '\\') {
            p = skip_escape(p, end);
            if (!p)
                return NULL;
        } else if (c < 0x20) {
            return NULL;
        } else if (c < 0x80) {
            p++;
        } else {
            size_t size = utf8_size(p, end);
            if (!size)
                return NULL;
            p += size;
        }
    }
    return NULL;
}

static const char *skip_digits(const char *p, const char *end)
{
    const char *first = p;
    while (p < end && is_digit(*p))
        p++;
    return p > first ? p : NULL;
}

static const char *skip_number(const char *p, const char *end)
{
    if (p < end && *p == '-')
        p++;
    if (p < end && *p == '0')
        p++;
    else
        p = skip_digits(p, end);
    if (p && p < end && *p == '.')
        p = skip_digits(p + 1, end);
    if (p && p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        p = skip_digits(p, end);
    }
    return p;
}

static const char *skip_word(const char *p, const char *end, const char *word)
{
    size_t size = strlen(word);
    return (size_t)(end - p) >= size && !memcmp(p, word, size) ? p + size : NULL;
}

static const char *skip_scalar(const char *p, const char *end)
{
    switch (*p) {
    case '"': return skip_string(p, end);
    case 't': return skip_word(p, end, "true");
    case 'f': return skip_word(p, end, "false");
    case 'n': return skip_word(p, end, "null");
    default: return skip_number(p, end);
    }
}

/* A member's name and its colon, spaces before and between. */
static const char *skip_key(const char *p, const char *end)
{
    p = skip_space(p, end);
    if (p == end || *p != '"')
        return NULL;
    p = skip_string(p, end);
    if (!p)
        return NULL;
    p = skip_space(p, end);
    return p < end && *p == ':' ? p + 1 : NULL;
}

/* One value, however deep: which of the open brackets are objects is kept as bits. */
static const char *skip_value(const char *p, const char *end)
{
    uint64_t objects[MH__JSON_DEPTH / 64];
    size_t depth = 0;
    for (;;) {
        p = skip_space(p, end);
        if (p == end)
            return NULL;
        if (*p == '{' || *p == '[') {
            bool is_object = *p == '{';
            if (depth == MH__JSON_DEPTH)
                return NULL;
            p = skip_space(p + 1, end);
            if (p == end)
                return NULL;
            if (*p != (is_object ? '}' : ']')) {
                uint64_t bit = UINT64_C(1) << depth % 64;
                objects[depth / 64] = (depth % 64 ? objects[depth / 64] & ~bit : 0) | (is_object ? bit : 0);
                depth++;
                if (is_object && !(p = skip_key(p, end)))
                    return NULL;
                continue;
            }
            p++;
        } else if (!(p = skip_scalar(p, end))) {
            return NULL;
        }
        /* a value ended: so may some of those around it */
        for (;;) {
            if (depth == 0)
                return p;
            bool is_object = objects[(depth - 1) / 64] >> (depth - 1) % 64 & 1;
            p = skip_space(p, end);
            if (p == end)
                return NULL;
            if (*p == ',') {
                p++;
                if (is_object && !(p = skip_key(p, end)))
                    return NULL;
                break;
            }
            if (*p != (is_object ? '}' : ']'))
                return NULL;
            p++;
            depth--;
        }
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

static mh_err corrupt(void) { return mh__fail(MH_ERR_CORRUPT, "not valid JSON, or nested deeper than %d", MH__JSON_DEPTH); }

mh_err mh__json_check(mh_bytes text, mh__json *out)
{
    const char *p = text.data, *end = p + text.size;
    if (!p)
        return corrupt();
    p = skip_space(p, end);
    const char *after = skip_value(p, end);
    if (!after || skip_space(after, end) != end)
        return corrupt();
    *out = (mh__json){p, (size_t)(after - p)};
    return MH_OK;
}

static bool is_key(const char *key, size_t size, const char *wanted)
{
    return strlen(wanted) == size && !memcmp(key, wanted, size);
}

/* A step of a walk whose text may be wrong: 1 a member or element, 0 the end, -1 not valid. */
static int step(mh__json_walk *w, mh__json *key, mh__json *value)
{
    const char *p = skip_space(w->at, w->end);
    *key = (mh__json){0};
    if (p == w->end)
        return -1;
    if (*p == (w->is_object ? '}' : ']')) {
        w->at = p + 1;
        return 0;
    }
    if (w->is_object) {
        const char *first = p;
        p = *p == '"' ? skip_string(p, w->end) : NULL;
        if (!p)
            return -1;
        *key = (mh__json){first, (size_t)(p - first)};
        p = skip_space(p, w->end);
        if (p == w->end || *p != ':')
            return -1;
        p = skip_space(p + 1, w->end);
    }
    const char *after = skip_value(p, w->end);
    if (!after)
        return -1;
    *value = (mh__json){p, (size_t)(after - p)};
    p = skip_space(after, w->end);
    if (p == w->end)
        return -1;
    if (*p == ',') {
        p = skip_space(p + 1, w->end);
        if (p == w->end || *p == '}' || *p == ']')
            return -1;
    } else if (*p != (w->is_object ? '}' : ']')) {
        return -1;
    }
    w->at = p;
    return 1;
}

mh_err mh__json_pick(mh_bytes text, const char *const *keys, size_t count, mh__json *found)
{
    const char *p = text.data, *end = p + text.size;
    p = p ? skip_space(p, end) : NULL;
    if (!p || p == end || *p != '{')
        return mh__fail(MH_ERR_CORRUPT, "not a JSON object");
    for (size_t i = 0; i < count; i++)
        found[i] = (mh__json){0};
    mh__json_walk w = {p + 1, end, true};
    mh__json key, value;
    int more;
    while ((more = step(&w, &key, &value)) > 0)
        for (size_t i = 0; i < count; i++)
            if (is_key(key.text + 1, key.size - 2, keys[i])) {
                found[i] = value;
                break;
            }
    return more < 0 || skip_space(w.at, end) != end ? corrupt() : MH_OK;
}

mh__json_kind mh__json_kind_of(mh__json v)
{
    if (!v.text || !v.size)
        return MH__JSON_ABSENT;
    switch (*v.text) {
    case 'n': return MH__JSON_NULL;
    case 't':
    case 'f': return MH__JSON_BOOL;
    case '"': return MH__JSON_STRING;
    case '[': return MH__JSON_ARRAY;
    case '{': return MH__JSON_OBJECT;
    default: return MH__JSON_NUMBER;
    }
}

mh__json_walk mh__json_walk_of(mh__json v)
{
    mh__json_kind kind = mh__json_kind_of(v);
    if (kind != MH__JSON_ARRAY && kind != MH__JSON_OBJECT)
        return (mh__json_walk){0};
    return (mh__json_walk){v.text + 1, v.text + v.size, kind == MH__JSON_OBJECT};
}

bool mh__json_next(mh__json_walk *w, mh__json *key, mh__json *value) { return w->at && step(w, key, value) > 0; }

mh__json mh__json_get(mh__json object, const char *key)
{
    mh__json found = {0}, name, value;
    mh__json_walk w = mh__json_walk_of(object);
    if (!w.is_object)
        return found;
    while (mh__json_next(&w, &name, &value))
        if (is_key(name.text + 1, name.size - 2, key))
            found = value;
    return found;
}

size_t mh__json_count(mh__json v)
{
    size_t count = 0;
    mh__json_walk w = mh__json_walk_of(v);
    for (mh__json key, value; mh__json_next(&w, &key, &value);)
        count++;
    return count;
}

bool mh__json_plain(mh__json v, mh_bytes *out)
{
    if (mh__json_kind_of(v) != MH__JSON_STRING || memchr(v.text, '\\', v.size))
        return false;
    *out = (mh_bytes){v.text + 1, v.size - 2};
    return true;
}

bool mh__json_bool(mh__json v, bool *out)
{
    if (mh__json_kind_of(v) != MH__JSON_BOOL)
        return false;
    *out = *v.text == 't';
    return true;
}

bool mh__json_int(mh__json v, int64_t *out)
{
    if (mh__json_kind_of(v) != MH__JSON_NUMBER)
        return false;
    const char *p = v.text, *end = v.text + v.size;
    bool negative = *p == '-';
    int64_t n = 0;
    for (p += negative; p < end && is_digit(*p); p++)
        if (__builtin_mul_overflow(n, INT64_C(10), &n) || __builtin_sub_overflow(n, *p - '0', &n)) /* towards INT64_MIN */
            return false;
    if (p < end && *p == '.')
        for (p++; p < end && *p == '0';)
            p++;
    if (p < end || (!negative && n == INT64_MIN))
        return false;
    *out = negative ? n : -n;
    return true;
}

static long double ten_to(int64_t n)
{
    long double power = 1, base = 10;
    for (n = MH__MIN(n, 4900); n > 0; n >>= 1, base *= base)
        power *= n & 1 ? base : 1;
    return power;
}

/* Right to the last digit but one: strtod would follow the locale and want an end. */
bool mh__json_double(mh__json v, double *out)
{
    if (mh__json_kind_of(v) != MH__JSON_NUMBER)
        return false;
    const char *p = v.text, *end = v.text + v.size;
    bool negative = *p == '-', in_fraction = false;
    uint64_t mantissa = 0;
    int64_t scale = 0, exponent = 0;
    for (p += negative; p < end && (is_digit(*p) || *p == '.'); p++) {
        if (*p == '.') {
            in_fraction = true;
        } else if (mantissa < UINT64_MAX / 10 - 1) {
            mantissa = mantissa * 10 + (uint64_t)(*p - '0');
            scale -= in_fraction;
        } else {
            scale += !in_fraction;
        }
    }
    if (p < end) {
        bool below = p[1] == '-';
        for (p += 1 + (p[1] == '-' || p[1] == '+'); p < end && exponent < 100000; p++)
            exponent = exponent * 10 + (*p - '0');
        exponent = below ? -exponent : exponent;
    }
    scale += exponent;
    long double x = (long double)mantissa;
    if (mantissa)
        x = scale < 0 ? x / ten_to(-scale) : x * ten_to(scale);
    *out = (double)(negative ? -x : x);
    return true;
}

/* ---- strings --------------------------------------------------------------------------------- */

static uint32_t hex4(const char *p)
{
    uint32_t n = 0;
    for (int i = 0; i < 4; i++)
        n = n << 4 | (uint32_t)(is_digit(p[i]) ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
    return n;
}

/* The code point at *p, which moves on; escapes resolved. In a string that was checked. */
static uint32_t take_code(const char **p)
{
    const unsigned char *u = (const unsigned char *)*p;
    if (u[0] != '\\') {
        size_t size = u[0] < 0x80 ? 1 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
        uint32_t code = size == 1 ? u[0] : (uint32_t)u[0] & (0x7fu >> size);
        for (size_t i = 1; i < size; i++)
            code = code << 6 | (u[i] & 0x3fu);
        *p += size;
        return code;
    }
    static const char names[] = "bfnrt", codes[] = "\b\f\n\r\t";
    if (u[1] != 'u') {
        const char *at = strchr(names, u[1]);
        *p += 2;
        return at ? (uint32_t)codes[at - names] : u[1];
    }
    uint32_t code = hex4(*p + 2);
    *p += 6;
    if (code >= 0xd800 && code < 0xdc00 && (*p)[0] == '\\' && (*p)[1] == 'u') {
        uint32_t low = hex4(*p + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            *p += 6;
            return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    return code >= 0xd800 && code < 0xe000 ? 0xfffd : code;
}

static size_t put_code(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)((0xf00u >> size) | code);
    return size;
}

mh_err mh__json_string(mh__json v, mh_buf *out)
{
    mh_bytes plain;
    if (mh__json_plain(v, &plain))
        return mh_buf_append(out, plain);
    if (mh__json_kind_of(v) != MH__JSON_STRING)
        return mh__fail(MH_ERR_INVALID, "not a JSON string");
    const char *p = v.text + 1, *end = v.text + v.size - 1;
    while (p < end) {
        const char *escape = memchr(p, '\\', (size_t)(end - p));
        mh_err err = mh_buf_append(out, (mh_bytes){p, (size_t)((escape ? escape : end) - p)});
        if (err || !escape)
            return err;
        char bytes[4];
        p = escape;
        size_t size = put_code(take_code(&p), bytes);
        err = mh_buf_append(out, (mh_bytes){bytes, size});
        if (err)
            return err;
    }
    return MH_OK;
}

int mh__json_compare_strings(mh__json a, mh__json b)
{
    const char *p = a.text + 1, *q = b.text + 1, *p_end = a.text + a.size - 1, *q_end = b.text + b.size - 1;
    while (p < p_end && q < q_end) {
        uint32_t x = take_code(&p), y = take_code(&q);
        if (x != y)
            return x < y ? -1 : 1;
    }
    return p < p_end ? 1 : q < q_end ? -1 : 0;
}

bool mh__json_is(mh__json v, const char *string)
{
    if (mh__json_kind_of(v) != MH__JSON_STRING)
        return false;
    const char *p = v.text + 1, *end = v.text + v.size - 1;
    for (char bytes[4]; p < end;) {
        size_t size = put_code(take_code(&p), bytes);
        if (strncmp(bytes, string, size) != 0)
            return false;
        string += size;
    }
    return !*string;
}

/* ---- equality -------------------------------------------------------------------------------- */

static bool equal_scalars(mh__json a, mh__json b)
{
    int64_t i, j;
    double x = 0, y = 0;
    switch (mh__json_kind_of(a)) {
    case MH__JSON_STRING: return mh__json_compare_strings(a, b) == 0;
    case MH__JSON_NUMBER:
        if (mh__json_int(a, &i) && mh__json_int(b, &j))
            return i == j;
        return mh__json_double(a, &x) && mh__json_double(b, &y) && x == y;
    default: return a.size == b.size && !memcmp(a.text, b.text, a.size);
    }
}

/* The member of `object` whose name equals `key`, escapes resolved. */
static mh__json find_member(mh__json object, mh__json key)
{
    mh__json found = {0}, name, value;
    mh__json_walk w = mh__json_walk_of(object);
    while (mh__json_next(&w, &name, &value))
        if (mh__json_compare_strings(name, key) == 0)
            found = value;
    return found;
}

/* Containers go on a stack of pairs; one that is deeper or wider than a question has any reason to be counts as different. */
bool mh__json_equal(mh__json a, mh__json b)
{
    enum { PAIRS = 64 };
    struct {
        mh__json a, b;
    } stack[PAIRS];
    size_t count = 0;
    stack[count++].a = a;
    stack[0].b = b;
    while (count > 0) {
        a = stack[--count].a;
        b = stack[count].b;
        mh__json_kind kind = mh__json_kind_of(a);
        if (kind != mh__json_kind_of(b))
            return false;
        if (kind < MH__JSON_ARRAY) {
            if (!equal_scalars(a, b))
                return false;
            continue;
        }
        if (mh__json_count(a) != mh__json_count(b))
            return false;
        mh__json_walk w = mh__json_walk_of(a), other = mh__json_walk_of(b);
        for (mh__json key, value, ignored, its; mh__json_next(&w, &key, &value);) {
            if (kind == MH__JSON_OBJECT)
                its = find_member(b, key);
            else if (!mh__json_next(&other, &ignored, &its))
                return false;
            if (!its.text || count == PAIRS)
                return false;
            stack[count].a = value;
            stack[count++].b = its;
        }
    }
    return true;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void put(mh__json_out *o, const void *data, size_t size)
{
    if (!o->err)
        o->err = mh_buf_append(o->buf, (mh_bytes){data, size});
}

static void begin_value(mh__json_out *o)
{
    if (o->comma)
        put(o, ",", 1);
    o->comma = true;
}

void mh__json_open(mh__json_out *o, char bracket)
{
    begin_value(o);
    put(o, &bracket, 1);
    o->comma = false;
}

void mh__json_close(mh__json_out *o, char bracket)
{
    put(o, &bracket, 1);
    o->comma = true;
}

static void put_string(mh__json_out *o, mh_bytes text)
{
    static const char digits[] = "0123456789abcdef";
    const char *p = text.data, *end = p + text.size, *run = p;
    put(o, "\"", 1);
    while (p < end) {
        unsigned char c = (unsigned char)*p;
        size_t size = c < 0x80 ? 1 : utf8_size(p, end);
        if (c >= 0x20 && c != '"' && c != '\\' && size) {
            p += size;
            continue;
        }
        put(o, run, (size_t)(p - run));
        if (!size)
            put(o, "\\ufffd", 6);
        else if (c == '"' || c == '\\')
            put(o, (char[]){'\\', (char)c}, 2);
        else
            put(o, (char[]){'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]}, 6);
        run = ++p;
    }
    put(o, run, (size_t)(p - run));
    put(o, "\"", 1);
}

void mh__json_key_bytes(mh__json_out *o, mh_bytes key)
{
    begin_value(o);
    put_string(o, key);
    put(o, ":", 1);
    o->comma = false;
}

void mh__json_add_bytes(mh__json_out *o, mh_bytes text)
{
    begin_value(o);
    put_string(o, text);
}

void mh__json_key(mh__json_out *o, const char *key) { mh__json_key_bytes(o, (mh_bytes){key, strlen(key)}); }
void mh__json_add_string(mh__json_out *o, const char *text) { mh__json_add_bytes(o, (mh_bytes){text, strlen(text)}); }

static void put_word(mh__json_out *o, const char *word)
{
    begin_value(o);
    put(o, word, strlen(word));
}

void mh__json_add_int(mh__json_out *o, int64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)value);
    put_word(o, text);
}

void mh__json_add_double(mh__json_out *o, double value)
{
    char text[40];
    if (!(fabs(value) <= DBL_MAX)) {
        mh__json_add_null(o);
        return;
    }
    snprintf(text, sizeof text, "%.17g", value);
    for (char *p = text; *p; p++)
        if (!is_digit(*p) && !strchr("+-e.", *p))
            *p = '.'; /* the locale's decimal point */
    put_word(o, text);
}

void mh__json_add_bool(mh__json_out *o, bool value) { put_word(o, value ? "true" : "false"); }
void mh__json_add_null(mh__json_out *o) { put_word(o, "null"); }

void mh__json_add(mh__json_out *o, mh__json value)
{
    if (!value.text) {
        mh__json_add_null(o);
        return;
    }
    begin_value(o);
    put(o, value.text, value.size);
}

mh_err mh__json_finish(const mh__json_out *o) { return o->err; }
