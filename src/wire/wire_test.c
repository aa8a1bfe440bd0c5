/* JSON, dates, messages, replays and connection files, by tables. */
#include "base/number.h"
#include "wire/connection.h"
#include "wire/message.h"
#include "wire/replay.h"

#include "mh_test.h"

#include <string.h>

static mh_bytes bytes_of(const char *text) { return (mh_bytes){text, strlen(text)}; }

static mh__json json_of(const char *text)
{
    mh__json v;
    assert_ok(mh__json_check(bytes_of(text), &v));
    return v;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void accepts_what_is_json(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        mh__json_kind kind; /* ABSENT: not valid */
    } table[] = {
        {"{}", MH__JSON_OBJECT},
        {" [ ] ", MH__JSON_ARRAY},
        {"null", MH__JSON_NULL},
        {"true", MH__JSON_BOOL},
        {"\"a\\u00e9\\n\xc3\xa9\xf0\x9f\x98\x80\"", MH__JSON_STRING},
        {"-0.5e+10", MH__JSON_NUMBER},
        {"0", MH__JSON_NUMBER},
        {"{\"a\":[1,{\"b\":[]}],\"c\":{}}", MH__JSON_OBJECT},
        {"[[],[[]],{},{\"a\":{}}]", MH__JSON_ARRAY},
        {"", 0},
        {" ", 0},
        {"{", 0},
        {"[", 0},
        {"{}}", 0},
        {"[1,]", 0},
        {"{\"a\":1,}", 0},
        {"{\"a\"}", 0},
        {"{\"a\":}", 0},
        {"{a:1}", 0},
        {"{\"a\":1]", 0},
        {"[1}", 0},
        {"[1 2]", 0},
        {"01", 0},
        {"1.", 0},
        {".5", 0},
        {"+1", 0},
        {"-", 0},
        {"1e", 0},
        {"NaN", 0},
        {"Infinity", 0},
        {"nul", 0},
        {"truex", 0},
        {"\"", 0},
        {"\"\\", 0},
        {"\"\\x\"", 0},
        {"\"\\u12g4\"", 0},
        {"\"\\u12", 0},
        {"\"\n\"", 0},
        {"\"\xff\"", 0},             /* no UTF-8 */
        {"\"\xc0\xaf\"", 0},         /* overlong */
        {"\"\xe0\x80\xaf\"", 0},     /* overlong */
        {"\"\xed\xa0\x80\"", 0},     /* a surrogate */
        {"\"\xf4\x90\x80\x80\"", 0}, /* beyond Unicode */
        {"\"\xc3\"", 0},             /* cut */
        {"'a'", 0},
    };
    for (size_t i = 0; i < MH__COUNT_OF(table); i++) {
        mh__json v = {0};
        mh_err err = mh__json_check(bytes_of(table[i].text), &v);
        if (err != (table[i].kind ? MH_OK : MH_ERR_CORRUPT) || mh__json_kind_of(v) != table[i].kind)
            fail_msg("%s: %s, kind %d", table[i].text, mh_err_name(err), (int)mh__json_kind_of(v));
    }
    mh__json v;
    assert_err(mh__json_check((mh_bytes){"\"\0\"", 3}, &v), MH_ERR_CORRUPT);
    assert_err(mh__json_check((mh_bytes){"\"\\\0\"", 4}, &v), MH_ERR_CORRUPT);
    assert_err(mh__json_check((mh_bytes){NULL, 0}, &v), MH_ERR_CORRUPT);
}

static void nests_to_a_limit(void **state)
{
    (void)state;
    static char text[200000];
    mh__json v;
    for (size_t depth = MH__JSON_DEPTH - 1; depth <= MH__JSON_DEPTH + 1; depth++) {
        for (size_t i = 0; i < depth; i++) {
            text[i] = '[';
            text[2 * depth - 1 - i] = ']';
        }
        assert_err(mh__json_check((mh_bytes){text, 2 * depth}, &v), depth <= MH__JSON_DEPTH ? MH_OK : MH_ERR_CORRUPT);
    }
    memset(text, '[', sizeof text);
    assert_err(mh__json_check((mh_bytes){text, sizeof text}, &v), MH_ERR_CORRUPT);
    for (size_t i = 0; i + 5 <= sizeof text; i += 5)
        memcpy(text + i, "{\"\":", 5);
    assert_err(mh__json_check((mh_bytes){text, sizeof text}, &v), MH_ERR_CORRUPT);
}

static void picks_members(void **state)
{
    (void)state;
    static const char *const keys[] = {"a", "b", "c"};
    mh__json got[3];
    assert_ok(mh__json_pick(bytes_of(" { \"b\" : [1, {\"a\":2}] , \"x\":{\"c\":1},\"a\" : \"s\", \"b\":3 } "), keys, 3, got));
    assert_true(mh__json_is(got[0], "s"));
    assert_true(got[1].size == 1 && *got[1].text == '3'); /* the last of two */
    assert_int_equal(mh__json_kind_of(got[2]), MH__JSON_ABSENT);
    assert_ok(mh__json_pick(bytes_of("{}"), keys, 3, got));
    static const char *const bad[] = {"", "[]", "1", "{\"a\":1", "{\"a\":1}x", "{\"a\":1,}", "{\"a\" 1}", "{,}", "{\"a\":1 \"b\":2}"};
    for (size_t i = 0; i < MH__COUNT_OF(bad); i++)
        assert_err(mh__json_pick(bytes_of(bad[i]), keys, 3, got), MH_ERR_CORRUPT);
    mh__json v = json_of("{\"a\":{\"b\":[10,20]},\"n\":null}");
    mh__json list = mh__json_get(mh__json_get(v, "a"), "b");
    assert_int_equal(mh__json_count(list), 2);
    assert_int_equal(mh__json_kind_of(mh__json_get(list, "b")), MH__JSON_ABSENT);
    assert_int_equal(mh__json_kind_of(mh__json_get(v, "n")), MH__JSON_NULL);
    assert_int_equal(mh__json_count(json_of("7")), 0);
}

static void reads_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool is_int;
        int64_t number;
        double real;
    } table[] = {
        {"0", true, 0, 0},
        {"-0", true, 0, 0},
        {"7.000", true, 7, 7},
        {"9223372036854775807", true, INT64_MAX, 9223372036854775807.0},
        {"-9223372036854775808", true, INT64_MIN, -9223372036854775808.0},
        {"9223372036854775808", false, 0, 9223372036854775808.0},
        {"99999999999999999999999999", false, 0, 1e26},
        {"1.5", false, 0, 1.5},
        {"-2.5e-3", false, 0, -0.0025},
        {"1e300", false, 0, 1e300},
        {"5e-324", false, 0, 5e-324},
        {"1E2", false, 0, 100},
        {"0.1", false, 0, 0.1},
        {"1e-99999", false, 0, 0},
    };
    for (size_t i = 0; i < MH__COUNT_OF(table); i++) {
        int64_t n = -1;
        double x = -1;
        mh__json v = json_of(table[i].text);
        assert_int_equal(mh__json_int(v, &n), table[i].is_int);
        if (table[i].is_int)
            assert_true(n == table[i].number);
        assert_true(mh__json_double(v, &x));
        if (x != table[i].real && !(x / table[i].real > 1 - 1e-15 && x / table[i].real < 1 + 1e-15))
            fail_msg("%s read as %.17g", table[i].text, x);
    }
    int64_t n;
    double x;
    bool b;
    mh_bytes plain;
    assert_false(mh__json_int(json_of("\"1\""), &n) || mh__json_double(json_of("true"), &x) || mh__json_bool(json_of("1"), &b));
    assert_false(mh__json_plain(json_of("\"a\\u0062\""), &plain) || mh__json_plain(json_of("1"), &plain));
}

static void resolves_and_compares_strings(void **state)
{
    (void)state;
    static const struct {
        const char *text, *decoded;
    } table[] = {
        {"\"\"", ""},
        {"\"a\\\\\\/\\\"\\b\\f\\n\\r\\t\"", "a\\/\"\b\f\n\r\t"},
        {"\"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\"", "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\"\\ud83d\"", "\xef\xbf\xbd"},
        {"\"\\ud83d\\u0041\"", "\xef\xbf\xbd" "A"},
        {"\"\\ude00\xc3\xa9\"", "\xef\xbf\xbd\xc3\xa9"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(table); i++) {
        mh_buf *out = NULL;
        assert_ok(mh_buf_create(&out, 0));
        assert_ok(mh__json_string(json_of(table[i].text), out));
        assert_int_equal(mh_buf_size(out), strlen(table[i].decoded));
        if (mh_buf_size(out))
            assert_memory_equal(mh_buf_data(out), table[i].decoded, mh_buf_size(out));
        assert_true(mh__json_is(json_of(table[i].text), table[i].decoded));
        assert_false(mh__json_is(json_of(table[i].text), "other"));
        mh_buf_destroy(&out);
    }
    static const struct {
        const char *a, *b;
        int order;
    } orders[] = {
        {"\"a\"", "\"\\u0061\"", 0}, {"\"a\"", "\"b\"", -1}, {"\"ab\"", "\"a\"", 1}, {"\"\"", "\"a\"", -1},
        {"\"\\uffff\"", "\"\\ud83d\\ude00\"", -1}, /* by code points, not by UTF-16 units */
    };
    for (size_t i = 0; i < MH__COUNT_OF(orders); i++) {
        int order = mh__json_compare_strings(json_of(orders[i].a), json_of(orders[i].b));
        assert_int_equal((order > 0) - (order < 0), orders[i].order);
    }
    assert_false(mh__json_is(json_of("\"abc\""), "ab") || mh__json_is(json_of("\"ab\""), "abc") || mh__json_is(json_of("1"), "1"));
}

static void finds_equal_values(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool equal;
    } table[] = {
        {"1", "1.0", true},
        {"1", "2", false},
        {"100", "1e2", true},
        {"\"a\"", "\"\\u0061\"", true},
        {"{\"a\":1,\"b\":[1,2]}", "{ \"b\":[1.0, 2], \"a\":1 }", true},
        {"{\"a\":1}", "{\"b\":1}", false},
        {"{\"a\":1}", "{\"a\":1,\"b\":2}", false},
        {"[1,2]", "[2,1]", false},
        {"[1]", "[1,2]", false},
        {"null", "false", false},
        {"[[[]]]", "[[[]]]", true},
        {"true", "true", true},
    };
    for (size_t i = 0; i < MH__COUNT_OF(table); i++)
        if (mh__json_equal(json_of(table[i].a), json_of(table[i].b)) != table[i].equal)
            fail_msg("%s and %s", table[i].a, table[i].b);
}

static void writes_what_it_can_read(void **state)
{
    (void)state;
    mh_buf *buf = NULL;
    assert_ok(mh_buf_create(&buf, 0));
    mh__json_out o = mh__json_into(buf);
    mh__json_open(&o, '{');
    mh__json_key(&o, "a\"\\");
    mh__json_open(&o, '[');
    mh__json_add_int(&o, INT64_MIN);
    mh__json_add_double(&o, 0.1);
    mh__json_add_double(&o, 1.0 / 0.0);
    mh__json_add_bool(&o, true);
    mh__json_add_null(&o);
    mh__json_open(&o, '{');
    mh__json_close(&o, '}');
    mh__json_close(&o, ']');
    mh__json_key(&o, "b");
    mh__json_add_bytes(&o, (mh_bytes){"\x01\n\xff\xc3\xa9z", 6});
    mh__json_key(&o, "c");
    mh__json_add(&o, json_of(" [1] "));
    mh__json_key(&o, "d");
    mh__json_add(&o, (mh__json){0});
    mh__json_close(&o, '}');
    assert_ok(mh__json_finish(&o));
    static const char expected[] = "{\"a\\\"\\\\\":[-9223372036854775808,0.10000000000000001,null,true,null,{}],"
                                   "\"b\":\"\\u0001\\u000a\\ufffd\xc3\xa9z\",\"c\":[1],\"d\":null}";
    assert_int_equal(mh_buf_size(buf), strlen(expected));
    assert_memory_equal(mh_buf_data(buf), expected, strlen(expected));
    mh__json v;
    assert_ok(mh__json_check((mh_bytes){mh_buf_data(buf), mh_buf_size(buf)}, &v));
    mh_buf_destroy(&buf);
}

/* ---- dates ----------------------------------------------------------------------------------- */

static void reads_and_writes_dates(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t unix_us;
        bool is_valid;
    } table[] = {
        {"1970-01-01T00:00:00.000000Z", 0, true},
        {"1970-01-01T00:00:00", 0, true},
        {"1970-01-01 00:00:00.5Z", 500000, true},
        {"2024-02-29T12:34:56.789012Z", 1709210096789012, true},
        {"2024-02-29T12:34:56.789012345+00:00", 1709210096789012, true},
        {"2024-02-29T14:34:56.789012+0200", 1709210096789012, true},
        {"2024-02-29T07:04:56.789012-05:30", 1709210096789012, true},
        {"1969-12-31T23:59:59.999999Z", -1, true},
        {"2000-03-01T00:00:00Z", 951868800000000, true},
        {"2023-02-29T00:00:00Z", 0, false},
        {"2023-13-01T00:00:00Z", 0, false},
        {"2023-01-01T24:00:00Z", 0, false},
        {"2023-01-01", 0, false},
        {"2023-01-01T00:00:00.Z", 0, false},
        {"2023-01-01T00:00:00+1", 0, false},
        {"2023-01-01T00:00:00Zx", 0, false},
        {"9999-12-31T00:00:00Z", 0, false}, /* beyond 64 bits of nanoseconds */
        {"", 0, false},
    };
    for (size_t i = 0; i < MH__COUNT_OF(table); i++) {
        int64_t ns = 0;
        mh_err err = mh__date_read(bytes_of(table[i].text), &ns);
        if (err != (table[i].is_valid ? MH_OK : MH_ERR_CORRUPT) ||
            (table[i].is_valid && (ns - table[i].unix_us * 1000) / 1000 != 0))
            fail_msg("%s: %s, %lld", table[i].text, mh_err_name(err), (long long)ns);
    }
    uint64_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        char text[MH__DATE_SIZE];
        int64_t ns = (int64_t)(mh__splitmix(&seed) % (UINT64_C(9000000000) * 1000000000)) / 1000 * 1000, back;
        mh__date_write(ns, text);
        assert_ok(mh__date_read(bytes_of(text), &back));
        assert_true(ns == back);
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

/* A stand-in for the real digest (net/sign.h, which has a test of its own): it depends on the key and on every byte and boundary... of the sum. */
static void toy_digest(const mh_bytes *parts, size_t count, uint8_t digest[32], void *ctx)
{
    uint64_t h = *(const uint64_t *)ctx;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < parts[i].size; j++) {
            h ^= ((const uint8_t *)parts[i].data)[j];
            mh__splitmix(&h);
        }
    for (int i = 0; i < 32; i++)
        digest[i] = (uint8_t)mh__splitmix(&h);
}

static mh__session session_with(uint64_t *key)
{
    mh__session s = {.signer = {toy_digest, key}};
    strcpy(s.id, "0123abcd");
    strcpy(s.username, "u");
    return s;
}

static void builds_what_it_reads(void **state)
{
    (void)state;
    uint64_t key = 7;
    mh__session s = session_with(&key);
    mh__built b;
    mh__message m;
    mh__header h;
    mh_bytes parent;
    assert_ok(mh__session_build(&s, &(mh__draft){.type = "queue_reply", .content = MH__TEXT("{\"a\":1}"), .unix_ns = 1000}, &b));
    mh_bytes frames[MH__FRAMES_SIGNED + 3] = {MH__TEXT("id1"), MH__TEXT("id2")};
    memcpy(frames + 2, b.frames, sizeof b.frames);
    frames[MH__FRAMES_SIGNED + 2] = MH__TEXT("buffer");
    assert_ok(mh__message_split(frames, MH__COUNT_OF(frames), &m));
    assert_int_equal(m.ident_count, 2);
    assert_int_equal(m.buffer_count, 1);
    assert_true(mh__bytes_are(m.content, "{\"a\":1}") && mh__bytes_are(m.buffers[0], "buffer"));
    assert_ok(mh__message_verify(&m, &s.signer));
    assert_ok(mh__header_read(m.header, &h));
    assert_true(mh__bytes_are(h.msg_id, "0123abcd_0") && mh__bytes_equal(h.msg_id, b.msg_id));
    assert_true(mh__bytes_are(h.msg_type, "queue_reply") && mh__bytes_are(h.session, "0123abcd") && mh__bytes_are(h.username, "u"));
    assert_true(mh__json_is(h.date, "1970-01-01T00:00:00.000001Z"));
    assert_ok(mh__parent_read(m.parent, &parent));
    assert_int_equal(parent.size, 0);
    assert_ok(mh__parent_read(m.header, &parent));
    assert_true(mh__bytes_are(parent, "0123abcd_0"));
    /* each byte of each signed frame counts, and so does the key; buffers don't (as with every stock peer) */
    for (mh_bytes *f = &m.header; f <= &m.content; f++)
        for (size_t i = 0; i < f->size; i++) {
            char *byte = (char *)(uintptr_t)f->data + i, old = *byte;
            char copy[256];
            memcpy(copy, f->data, f->size);
            copy[i] = (char)(old ^ 1);
            mh_bytes whole = *f;
            *f = (mh_bytes){copy, whole.size};
            assert_err(mh__message_verify(&m, &s.signer), MH_ERR_PERMISSION);
            *f = whole;
        }
    uint64_t other = 8;
    assert_err(mh__message_verify(&m, &(mh__signer){toy_digest, &other}), MH_ERR_PERMISSION);
    m.signature.size = 0;
    assert_err(mh__message_verify(&m, &s.signer), MH_ERR_PERMISSION);
    assert_ok(mh__message_verify(&m, &(mh__signer){0}));
    /* the next has the next number; a given id is kept; without a key there is no signature */
    assert_ok(mh__session_build(&s, &(mh__draft){.type = "x"}, &b));
    assert_true(mh__bytes_are(b.msg_id, "0123abcd_1"));
    s.signer = (mh__signer){0};
    assert_ok(mh__session_build(&s, &(mh__draft){.type = "x", .msg_id = MH__TEXT("mine")}, &b));
    assert_true(mh__bytes_are(b.msg_id, "mine") && b.frames[1].size == 0);
    assert_err(mh__session_build(&s, &(mh__draft){.type = "x", .msg_id = MH__TEXT("a\"b")}, &b), MH_ERR_INVALID);
    assert_err(mh__session_build(&s, &(mh__draft){.type = "x\n"}, &b), MH_ERR_INVALID);
}

static void refuses_other_shapes(void **state)
{
    (void)state;
    mh_bytes frames[40];
    mh__message m;
    for (size_t i = 0; i < MH__COUNT_OF(frames); i++)
        frames[i] = MH__TEXT("{}");
    assert_err(mh__message_split(frames, 0, &m), MH_ERR_CORRUPT);
    assert_err(mh__message_split(frames, 40, &m), MH_ERR_CORRUPT);
    for (size_t at = 0; at < MH__COUNT_OF(frames); at++)
        for (size_t count = at; count <= MH__COUNT_OF(frames); count++) {
            frames[at] = MH__TEXT(MH__WIRE_DELIMITER);
            bool is_valid = at <= MH__WIRE_IDENTS_MAX && count >= at + MH__FRAMES_SIGNED;
            assert_err(mh__message_split(frames, count, &m), is_valid ? MH_OK : MH_ERR_CORRUPT);
            frames[at] = MH__TEXT("{}");
        }
    static char big[MH__WIRE_META_MAX + 1];
    frames[1] = MH__TEXT(MH__WIRE_DELIMITER);
    assert_ok(mh__message_split(frames, 7, &m));
    frames[0] = (mh_bytes){big, MH__WIRE_ID_MAX + 1};
    assert_err(mh__message_split(frames, 7, &m), MH_ERR_CORRUPT);
    frames[0] = MH__TEXT("");
    static const size_t limits[] = {MH__WIRE_HEADER_MAX, MH__WIRE_HEADER_MAX, MH__WIRE_META_MAX};
    for (size_t i = 0; i < 3; i++) {
        frames[3 + i] = (mh_bytes){big, limits[i]};
        assert_ok(mh__message_split(frames, 7, &m));
        frames[3 + i].size++;
        assert_err(mh__message_split(frames, 7, &m), MH_ERR_CORRUPT);
        frames[3 + i] = MH__TEXT("{}");
    }
    static const char *const headers[] = {
        "", "[]", "{}", "{\"msg_id\":1,\"msg_type\":\"a\"}", "{\"msg_id\":\"a\"}", "{\"msg_id\":\"\",\"msg_type\":\"a\"}",
        "{\"msg_id\":\"\\u0041\",\"msg_type\":\"a\"}", "{\"msg_id\":\"a\",\"msg_type\":\"b\",\"session\":5}",
    };
    mh__header h;
    for (size_t i = 0; i < MH__COUNT_OF(headers); i++)
        assert_err(mh__header_read(bytes_of(headers[i]), &h), MH_ERR_CORRUPT);
    assert_ok(mh__header_read(bytes_of("{\"msg_id\":\"a\",\"msg_type\":\"b\",\"username\":3,\"session\":null}"), &h));
    assert_int_equal(h.session.size + h.username.size, 0);
}

/* ---- replays --------------------------------------------------------------------------------- */

static mh_err admit(mh__replay *r, uint64_t signature, const char *msg_id, int64_t now)
{
    uint64_t bytes[2] = {signature, ~signature};
    return mh__replay_admit(r, (mh_bytes){bytes, sizeof bytes}, bytes_of(msg_id), now);
}

static void admits_each_message_once(void **state)
{
    (void)state;
    mh__replay *r = NULL;
    char id[40];
    assert_ok(mh__replay_create(&r));
    assert_ok(admit(r, 1, "a_1", 1));
    assert_err(admit(r, 1, "a_1", 2), MH_ERR_EXISTS);
    assert_ok(admit(r, 2, "a_0", 3)); /* out of order, but not seen */
    assert_ok(admit(r, 3, "odd", 3));
    /* long after, and after a million others, by the count as by the clock */
    for (int i = 0; i < 1000000; i++) {
        snprintf(id, sizeof id, "b_%d", i);
        assert_ok(admit(r, 1000 + (uint64_t)i, id, 4));
    }
    assert_err(admit(r, 1, "a_1", 5), MH_ERR_EXISTS);
    assert_err(admit(r, 2, "a_0", 5), MH_ERR_EXISTS);
    assert_err(admit(r, 1000, "b_0", 5), MH_ERR_EXISTS);
    assert_err(admit(r, 1000999, "b_999999", 5), MH_ERR_EXISTS);
    assert_ok(admit(r, 4, "a_2", 6));
    int64_t later = 2 * MH__REPLAY_NS + 10;
    assert_ok(admit(r, 5, "c_1", later));
    assert_ok(admit(r, 6, "c_2", 2 * later));
    assert_ok(admit(r, 7, "c_3", 3 * later));
    assert_err(admit(r, 4, "a_2", 3 * later), MH_ERR_EXISTS);
    assert_err(admit(r, 5, "c_1", 3 * later), MH_ERR_EXISTS);
    assert_ok(admit(r, 8, "a_3", 3 * later));
    mh__replay_destroy(&r);
    mh__replay_destroy(&r);
}

/* ---- connection files ------------------------------------------------------------------------ */

static const char stock_engine[] =
    "{\n  \"ssh\": \"\",\n  \"interface\": \"tcp://127.0.0.1\",\n  \"registration\": 1,\n  \"control\": 2,\n  \"mux\": 3,\n"
    "  \"task\": 4,\n  \"iopub\": 5,\n  \"hb_ping\": 6,\n  \"hb_pong\": 7,\n  \"broadcast\": [\n    8,\n    9\n  ],\n"
    "  \"key\": \"11111111-22222222\",\n  \"curve_serverkey\": null,\n  \"location\": \"host\",\n  \"pack\": \"json\",\n"
    "  \"unpack\": \"json\",\n  \"signature_scheme\": \"hmac-sha256\"\n}";
static const char stock_client[] =
    "{\"ssh\": \"\", \"interface\": \"tcp://127.0.0.1\", \"registration\": 1, \"control\": 2, \"mux\": 3, \"task\": 4, "
    "\"task_scheme\": \"leastload\", \"iopub\": 5, \"notification\": 6, \"broadcast\": 7, \"key\": \"k\", "
    "\"curve_serverkey\": null, \"location\": \"host\", \"pack\": \"json\", \"unpack\": \"json\", "
    "\"signature_scheme\": \"hmac-sha256\"}";

static void reads_stock_connection_files(void **state)
{
    (void)state;
    static const char *const texts[] = {stock_engine, stock_client};
    for (size_t i = 0; i < 2; i++) {
        mh__connection c, again;
        mh_buf *buf = NULL;
        char url[64];
        assert_ok(mh__connection_read(bytes_of(texts[i]), &c));
        assert_int_equal(c.is_engine, i == 0);
        assert_string_equal(c.interface_, "tcp://127.0.0.1");
        assert_int_equal(c.mux, 3);
        assert_ok(mh__connection_url(&c, c.mux, url, sizeof url));
        assert_string_equal(url, "tcp://127.0.0.1:3");
        strcpy(c.fast, "/run/x/fast");
        strcpy(c.curve_serverkey, "abc");
        assert_ok(mh_buf_create(&buf, 0));
        assert_ok(mh__connection_write(&c, buf));
        assert_ok(mh__connection_read((mh_bytes){mh_buf_data(buf), mh_buf_size(buf)}, &again));
        assert_memory_equal(&c, &again, sizeof c);
        mh_buf_destroy(&buf);
    }
    mh__connection ipc = {.interface_ = "ipc:///tmp/x"};
    char url[64];
    assert_ok(mh__connection_url(&ipc, 4, url, sizeof url));
    assert_string_equal(url, "ipc:///tmp/x-4");
    assert_err(mh__connection_url(&ipc, 4, url, 10), MH_ERR_TOO_LARGE);
}

/* Replace the first `from` of a stock file: what a reader must say to it. */
/* Who listens everywhere is connected to where it is. */
static void finds_a_controllers_host(void **state)
{
    (void)state;
    static const struct {
        const char *interface_, *location, *expected;
    } table[] = {
        {"tcp://10.0.0.1", "other", "tcp://10.0.0.1"},     {"tcp://0.0.0.0", "here", "tcp://127.0.0.1"}, {"tcp://0.0.0.0", "", "tcp://127.0.0.1"},
        {"tcp://0.0.0.0", "10.0.0.7", "tcp://10.0.0.7"},   {"tcp://*", "there", "tcp://there"},          {"tcp://[::]", "here", "tcp://[::1]"},
        {"tcp://[::]", "fe80::1", "tcp://[fe80::1]"},      {"ipc:///tmp/x", "there", "ipc:///tmp/x"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(table); i++) {
        mh__connection c = {0};
        snprintf(c.interface_, sizeof c.interface_, "%s", table[i].interface_);
        snprintf(c.location, sizeof c.location, "%s", table[i].location);
        assert_ok(mh__connection_find_host(&c, "here"));
        assert_string_equal(c.interface_, table[i].expected);
    }
    mh__connection c = {.interface_ = "tcp://*"};
    memset(c.location, 'x', sizeof c.location - 1);
    assert_err(mh__connection_find_host(&c, "here"), MH_ERR_CORRUPT);
}

static void refuses_bad_connection_files(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *named;
        mh_err err;
    } table[] = {
        {"\"mux\"", "\"nux\"", "mux", MH_ERR_CORRUPT},
        {"\"mux\": 3", "\"mux\": 0", "mux", MH_ERR_CORRUPT},
        {"\"mux\": 3", "\"mux\": 65536", "mux", MH_ERR_CORRUPT},
        {"\"mux\": 3", "\"mux\": \"3\"", "mux", MH_ERR_CORRUPT},
        {"\"hb_pong\"", "\"hb_ponk\"", "hb_pong", MH_ERR_CORRUPT},
        {"tcp://127.0.0.1", "localhost", "interface", MH_ERR_CORRUPT},
        {"\"tcp://127.0.0.1\"", "12", "interface", MH_ERR_CORRUPT},
        {"\"host\"", "\"a\\u0000b\"", "location", MH_ERR_CORRUPT},
        {"\"json\"", "\"pickle\"", "pickle", MH_ERR_UNSUPPORTED},
        {"hmac-sha256", "hmac-md5", "hmac-md5", MH_ERR_UNSUPPORTED},
        {"[\n    8,\n    9\n  ]", "[]", "broadcast", MH_ERR_CORRUPT},
        {"[\n    8,\n    9\n  ]", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]", "broadcast", MH_ERR_CORRUPT},
        {"{", "[", "JSON", MH_ERR_CORRUPT},
    };
    for (size_t i = 0; i < MH__COUNT_OF(table); i++) {
        char text[2048];
        mh__connection c;
        const char *at = strstr(stock_engine, table[i].from);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - stock_engine), stock_engine, table[i].to, at + strlen(table[i].from));
        assert_err(mh__connection_read(bytes_of(text), &c), table[i].err);
        if (!strstr(mh_err_detail(), table[i].named))
            fail_msg("\"%s\" does not name %s", mh_err_detail(), table[i].named);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_what_is_json),
        cmocka_unit_test(nests_to_a_limit),
        cmocka_unit_test(picks_members),
        cmocka_unit_test(reads_numbers),
        cmocka_unit_test(resolves_and_compares_strings),
        cmocka_unit_test(finds_equal_values),
        cmocka_unit_test(writes_what_it_can_read),
        cmocka_unit_test(reads_and_writes_dates),
        cmocka_unit_test(builds_what_it_reads),
        cmocka_unit_test(refuses_other_shapes),
        cmocka_unit_test(admits_each_message_once),
        cmocka_unit_test(reads_stock_connection_files),
        cmocka_unit_test(finds_a_controllers_host),
        cmocka_unit_test(refuses_bad_connection_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
