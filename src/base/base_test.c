/* Errors, buffers, the allocation hook, and the small containers. */
#include "base/crc.h"
#include "base/error.h"
#include "base/list.h"
#include "base/memory.h"
#include "base/number.h"

#include "mh_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void every_error_is_at_its_own_value(void **state)
{
    (void)state;
    static const struct {
        mh_err code;
        const char *name;
    } rows[] = {
#define ROW(name, value, text, python) {MH_ERR_##name, "MH_ERR_" #name},
        MH_ERRORS(ROW)
#undef ROW
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        assert_int_equal(rows[i].code, i); /* dense, so that the value is the index */
        assert_string_equal(mh_err_name(rows[i].code), rows[i].name);
        assert_true(*mh_err_text(rows[i].code));
        assert_true(*mh_err_python(rows[i].code) || rows[i].code == MH_OK);
    }
    assert_string_equal(mh_err_name((mh_err)MH__COUNT_OF(rows)), "MH_ERR_UNKNOWN");
    assert_string_equal(mh_err_name((mh_err)-1), "MH_ERR_UNKNOWN");
    assert_string_equal(mh_err_python((mh_err)9999), "RuntimeError");
    assert_string_equal(mh_err_text((mh_err)9999), "unknown error");
}

static void a_failure_leaves_its_detail(void **state)
{
    (void)state;
    assert_int_equal(mh__fail(MH_ERR_LIMIT, "%d of %d", 3, 2), MH_ERR_LIMIT);
    assert_string_equal(mh_err_detail(), "3 of 2");
    assert_int_equal(mh_err_errno(), 0);
    assert_int_equal(mh__fail_os(ENOENT, "opening %s", "x"), MH_ERR_NOT_FOUND);
    assert_string_equal(mh_err_detail(), "opening x: No such file or directory");
    assert_int_equal(mh_err_errno(), ENOENT);
    char longer[600];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    assert_int_equal(mh__fail_os(EIO, "%s", longer), MH_ERR_SYSTEM);
    assert_int_equal(strlen(mh_err_detail()), 255); /* cut, and ended */
}

static void errno_maps_to_a_code(void **state)
{
    (void)state;
    static const struct {
        int from;
        mh_err to;
    } rows[] = {
        {ENOMEM, MH_ERR_NO_MEMORY}, {ENOSPC, MH_ERR_NO_SPACE},     {EACCES, MH_ERR_PERMISSION}, {EPERM, MH_ERR_PERMISSION},
        {ENOENT, MH_ERR_NOT_FOUND}, {EEXIST, MH_ERR_EXISTS},       {EINTR, MH_ERR_INTERRUPTED}, {ETIMEDOUT, MH_ERR_TIMEOUT},
        {ESRCH, MH_ERR_EXITED},     {EINVAL, MH_ERR_INVALID},      {EMFILE, MH_ERR_SYSTEM},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++)
        assert_int_equal(mh__err_from_errno(rows[i].from), rows[i].to);
}

static void a_buffer_grows_and_keeps_its_bytes(void **state)
{
    (void)state;
    mh_buf *b = NULL;
    assert_int_equal(mh_buf_create(&b, 4), MH_OK);
    assert_memory_equal(mh_buf_data(b), "\0\0\0\0", 4);
    memcpy(mh_buf_data(b), "abcd", 4);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(mh_buf_append(b, (mh_bytes){"xyz", 3}), MH_OK);
    assert_int_equal(mh_buf_size(b), 3004);
    assert_memory_equal(mh_buf_data(b), "abcdxyz", 7);
    assert_int_equal(mh_buf_resize(b, 2), MH_OK);
    assert_int_equal(mh_buf_resize(b, 6), MH_OK);
    assert_memory_equal(mh_buf_data(b), "ab\0\0\0\0", 6); /* new bytes are zero even where old ones were */
    assert_int_equal(mh_buf_append(b, (mh_bytes){b, SIZE_MAX}), MH_ERR_NO_MEMORY);
    assert_int_equal(mh_buf_size(b), 6);
    mh_buf_destroy(&b);
    assert_null(b);
    mh_buf_destroy(&b);
    assert_int_equal(mh_buf_copy(&b, (mh_bytes){"hi", 2}), MH_OK);
    assert_int_equal(mh_buf_size(b), 2);
    assert_memory_equal(mh_buf_data(b), "hi", 2);
    mh_buf_destroy(&b);
}

/* ---- the allocation hook --------------------------------------------------------------------- */

typedef struct ledger {
    int fail_at, calls, live;
} ledger;

static void *counting_realloc(void *old, size_t size, void *ctx)
{
    ledger *l = ctx;
    if (size == 0) {
        l->live--;
        free(old);
        return NULL;
    }
    if (++l->calls == l->fail_at)
        return NULL;
    l->live += !old;
    return realloc(old, size);
}

static mh_err use_buffers(void)
{
    mh_buf *a = NULL, *b = NULL;
    mh_err err = mh_buf_create(&a, 10);
    if (!err)
        err = mh_buf_append(a, (mh_bytes){"0123456789abcdef", 16});
    if (!err)
        err = mh_buf_copy(&b, (mh_bytes){mh_buf_data(a), mh_buf_size(a)});
    mh_buf_destroy(&a);
    mh_buf_destroy(&b);
    return err;
}

static void every_failed_allocation_is_an_error_and_leaks_nothing(void **state)
{
    (void)state;
    mh_err err = MH_ERR_NO_MEMORY;
    int n = 0;
    while (err == MH_ERR_NO_MEMORY && n < 100) {
        ledger l = {.fail_at = ++n};
        mh_allocator_set(counting_realloc, &l);
        err = use_buffers();
        mh_allocator_set(NULL, NULL);
        assert_int_equal(l.live, 0);
    }
    assert_int_equal(err, MH_OK);
    assert_in_range(n, 5, 20);
}

static void overflowing_sizes_are_refused(void **state)
{
    (void)state;
    assert_null(mh__calloc(SIZE_MAX / 2, 3));
    assert_non_null(strstr(mh_err_detail(), "overflows"));
    char *copy = mh__strdup("text");
    assert_string_equal(copy, "text");
    mh__free(copy);
    mh__free(NULL);
}

/* ---- containers and numbers ------------------------------------------------------------------ */

typedef struct item {
    int value;
    mh__list node;
} item;

static void a_list_keeps_order_and_gives_back(void **state)
{
    (void)state;
    mh__list head;
    item items[3] = {{.value = 0}, {.value = 1}, {.value = 2}};
    mh__list_init(&head);
    assert_null(mh__list_pop_front(&head));
    mh__list_push_back(&head, &items[1].node);
    mh__list_push_back(&head, &items[2].node);
    mh__list_push_front(&head, &items[0].node);
    mh__list_remove(&items[1].node);
    mh__list_remove(&items[1].node); /* nothing happens the second time */
    assert_int_equal(mh__list_entry(mh__list_pop_front(&head), item, node)->value, 0);
    assert_int_equal(mh__list_entry(mh__list_pop_front(&head), item, node)->value, 2);
    assert_true(mh__list_is_empty(&head));
}

static void numbers_round(void **state)
{
    (void)state;
    static const struct {
        uint64_t from, to;
    } rows[] = {{0, 1}, {1, 1}, {2, 2}, {3, 4}, {64, 64}, {65, 128}, {UINT64_C(1) << 62, UINT64_C(1) << 62}};
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++)
        assert_int_equal(mh__power_of_two(rows[i].from), rows[i].to);
    char hex[6];
    mh__write_hex((const uint8_t[]){0x00, 0x9a, 0xff}, 3, hex);
    assert_memory_equal(hex, "009aff", 6);
    assert_int_equal(mh__round_up(65, 64), 128);
    assert_int_equal(mh__round_up(64, 64), 64);
    uint64_t a = 1, b = 1;
    assert_int_equal(mh__splitmix(&a), mh__splitmix(&b)); /* a seed gives the same numbers again */
    assert_true(mh__splitmix(&a) != mh__splitmix(&a));
}

static void checksums_are_those_that_everybody_has(void **state)
{
    (void)state;
    uint8_t bytes[64] = {0};
    assert_int_equal(mh__crc32c(0, "123456789", 9), 0xe3069283); /* the check value of the catalogue of CRCs */
    assert_int_equal(mh__crc32c(0, "", 0), 0);
    assert_int_equal(mh__crc32c(0, bytes, 32), 0x8a9136aa); /* RFC 3720, B.4 */
    for (size_t cut = 0; cut <= sizeof bytes; cut++) { /* in parts as in one */
        bytes[cut % sizeof bytes] = (uint8_t)(cut * 7 + 1);
        uint32_t crc = mh__crc32c(mh__crc32c(0, bytes, cut), bytes + cut, sizeof bytes - cut);
        assert_int_equal(crc, mh__crc32c(0, bytes, sizeof bytes));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_is_at_its_own_value),
        cmocka_unit_test(a_failure_leaves_its_detail),
        cmocka_unit_test(errno_maps_to_a_code),
        cmocka_unit_test(a_buffer_grows_and_keeps_its_bytes),
        cmocka_unit_test(every_failed_allocation_is_an_error_and_leaks_nothing),
        cmocka_unit_test(overflowing_sizes_are_refused),
        cmocka_unit_test(a_list_keeps_order_and_gives_back),
        cmocka_unit_test(numbers_round),
        cmocka_unit_test(checksums_are_those_that_everybody_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
