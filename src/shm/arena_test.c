#include "mh_test.h"

#include "base/number.h"
#include "os/fd.h"
#include "os/memory.h"
#include "shm/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __has_feature
#define __has_feature(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || \
    __has_feature(thread_sanitizer)
#define SANITIZED true
#else
#define SANITIZED false
#endif

enum { MIB = 1 << 20 };

static mh__arena *create(size_t max_bytes)
{
    mh__arena *a = NULL;
    assert_ok(mh__arena_create(&a, max_bytes, "test"));
    assert_true(mh__arena_is_sound(a));
    return a;
}

static void sizes_are_rounded_as_promised(void **state)
{
    (void)state;
    static const struct {
        size_t size, usable;
        const char *why;
    } rows[] = {
        {0, 64, "an empty block has an address of its own"},
        {1, 64, "smallest class"},
        {64, 64, "exactly a class"},
        {65, 128, "next class"},
        {512, 512, "last of the fine steps"},
        {513, 640, "first of the coarse steps"},
        {1000, 1024, ""},
        {8192, 8192, "largest class"},
        {8193, 12288, "pages"},
        {MIB + 1, MIB + 4096, "pages"},
    };
    mh__arena *a = create(64 * MIB);
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        uint64_t at = 0;
        assert_ok(mh__arena_alloc(a, rows[i].size, &at));
        assert_int_equal(mh__arena_usable(a, at), rows[i].usable);
        assert_true(at != 0 && at % MH__ARENA_ALIGN == 0);
        memset(mh__arena_at(a, at), 0xa5, rows[i].usable);
        assert_int_equal(mh__arena_used_bytes(a), rows[i].usable);
        assert_ok(mh__arena_free(a, at));
        assert_int_equal(mh__arena_used_bytes(a), 0);
        assert_true(mh__arena_is_sound(a));
    }
    mh__arena_destroy(&a);
    assert_null(a);
    mh__arena_destroy(&a);
}

static void wrong_offsets_are_refused(void **state)
{
    (void)state;
    mh__arena *a = create(16 * MIB);
    uint64_t small, large, gone;
    assert_ok(mh__arena_alloc(a, 100, &small));
    assert_ok(mh__arena_alloc(a, 100000, &large));
    assert_ok(mh__arena_alloc(a, 100000, &gone));
    assert_ok(mh__arena_free(a, gone));
    const uint64_t bad[] = {0,         1,          small + 64, small + 1,        small + 128, large + 64,
                            large + 4096, gone, gone + 4096, mh__arena_capacity(a), UINT64_MAX, UINT64_MAX - 4095};
    size_t used = mh__arena_used_bytes(a);
    for (size_t i = 0; i < MH__COUNT_OF(bad); i++) {
        assert_err(mh__arena_free(a, bad[i]), MH_ERR_INVALID);
        assert_err(mh__arena_resize(a, bad[i], 10), MH_ERR_INVALID);
        assert_int_equal(mh__arena_usable(a, bad[i]), 0);
    }
    assert_ok(mh__arena_free(a, small));
    assert_err(mh__arena_free(a, small), MH_ERR_INVALID);
    assert_int_equal(mh__arena_used_bytes(a), used - 128);
    assert_ok(mh__arena_free(a, large));
    assert_true(mh__arena_is_sound(a));
    mh__arena_destroy(&a);
}

static void a_full_arena_says_so_and_goes_on(void **state)
{
    (void)state;
    mh__arena *a = create(8 * MIB);
    uint64_t blocks[16], at = 77;
    size_t count = 0;
    assert_err(mh__arena_alloc(a, 9 * MIB, &at), MH_ERR_TOO_LARGE);
    while (count < 16 && !mh__arena_alloc(a, MIB, &blocks[count]))
        count++;
    assert_int_equal(count, 7); /* page 0 costs the eighth */
    assert_err(mh__arena_alloc(a, MIB, &at), MH_ERR_NO_SPACE);
    assert_non_null(strstr(mh_err_detail(), "8388608"));
    assert_int_equal(at, 77);
    for (size_t i = 0; i < count; i += 2)
        assert_ok(mh__arena_free(a, blocks[i]));
    assert_err(mh__arena_alloc(a, 3 * MIB, &at), MH_ERR_NO_SPACE); /* there is room, but not in one piece */
    for (size_t i = 1; i < count; i += 2)
        assert_ok(mh__arena_free(a, blocks[i]));
    assert_ok(mh__arena_alloc(a, 7 * MIB, &at));
    assert_true(mh__arena_is_sound(a));
    mh__arena_destroy(&a);
}

/* Free runs and bare runs lie side by side: together they must still make one large block. */
static void kept_pages_do_not_stand_in_the_way(void **state)
{
    (void)state;
    mh__arena *a = create(8 * MIB);
    uint64_t blocks[4], at;
    for (size_t i = 0; i < 4; i++)
        assert_ok(mh__arena_alloc(a, MIB + 4096 * i, &blocks[i]));
    for (size_t i = 0; i < 4; i++)
        assert_ok(mh__arena_free(a, blocks[i]));
    assert_ok(mh__arena_alloc(a, 7 * MIB, &at));
    memset(mh__arena_at(a, at), 1, 7 * MIB);
    assert_true(mh__arena_is_sound(a));
    mh__arena_destroy(&a);
}

static size_t resident(const mh__arena *a)
{
    size_t pages = mh__arena_capacity(a) / 4096, count = 0;
    unsigned char *in = malloc(pages);
    assert_int_equal(mincore(mh__arena_base(a), mh__arena_capacity(a), in), 0);
    for (size_t i = 0; i < pages; i++)
        count += in[i] & 1;
    free(in);
    return count * 4096;
}

static void pages_are_kept_for_reuse_and_trimmed(void **state)
{
    (void)state;
    mh__arena *a = create(256 * MIB);
    uint64_t at, again;
    assert_ok(mh__arena_alloc(a, 16 * MIB, &at));
    assert_int_equal(resident(a), mh__arena_page_bytes(a)); /* all there before anybody touched them */
    assert_ok(mh__arena_free(a, at));
    assert_int_equal(mh__arena_page_bytes(a), 16 * MIB);
    assert_ok(mh__arena_alloc(a, 16 * MIB, &again));
    assert_int_equal(again, at);
    assert_int_equal(mh__arena_page_bytes(a), 16 * MIB);
    assert_ok(mh__arena_free(a, again));
    mh__arena_trim(a, 4 * MIB);
    assert_int_equal(mh__arena_page_bytes(a), 4 * MIB);
    assert_int_equal(resident(a), 4 * MIB);
    mh__arena_trim(a, 0);
    assert_int_equal(mh__arena_page_bytes(a), 0);
    assert_int_equal(resident(a), 0);
    assert_true(mh__arena_is_sound(a));
    mh__arena_destroy(&a);
}

static void resizing_in_place(void **state)
{
    (void)state;
    mh__arena *a = create(64 * MIB);
    uint64_t at, next, small;
    assert_ok(mh__arena_alloc(a, 100, &small));
    assert_ok(mh__arena_resize(a, small, 128));
    assert_err(mh__arena_resize(a, small, 129), MH_ERR_FULL);

    assert_ok(mh__arena_alloc(a, 20000, &at));
    memset(mh__arena_at(a, at), 3, 20000);
    assert_ok(mh__arena_resize(a, at, 5 * MIB)); /* over kept pages and into bare ones */
    assert_int_equal(mh__arena_usable(a, at), 5 * MIB);
    memset((char *)mh__arena_at(a, at) + 20000, 4, 5 * MIB - 20000);
    for (size_t i = 0; i < 20000; i++)
        assert_int_equal(((char *)mh__arena_at(a, at))[i], 3);
    assert_int_equal(mh__arena_used_bytes(a), 5 * MIB + 128);
    assert_true(mh__arena_is_sound(a));

    assert_ok(mh__arena_resize(a, at, 1)); /* a large block stays one */
    assert_int_equal(mh__arena_usable(a, at), 4096);
    assert_ok(mh__arena_alloc(a, 9000, &next));
    assert_err(mh__arena_resize(a, at, 9 * MIB), MH_ERR_FULL);
    assert_err(mh__arena_resize(a, at, 100 * MIB), MH_ERR_FULL);
    assert_err(mh__arena_resize(a, at, SIZE_MAX), MH_ERR_FULL);
    assert_int_equal(mh__arena_usable(a, at), 4096);
    assert_true(mh__arena_is_sound(a));
    mh__arena_destroy(&a);
}

/* Against a model: random blocks, each filled with its number; no two may overlap, and the books stay sound. */
typedef struct block {
    uint64_t at;
    size_t size;
    unsigned char fill;
} block;

static void check_fill(mh__arena *a, const block *b)
{
    const unsigned char *bytes = mh__arena_at(a, b->at);
    for (size_t i = 0; i < b->size; i += b->size > 4096 ? 509 : 1)
        assert_int_equal(bytes[i], b->fill);
    assert_int_equal(b->size ? bytes[b->size - 1] : b->fill, b->fill);
}

static size_t random_size(uint64_t *seed)
{
    uint64_t kind = mh__splitmix(seed) % 16;
    return mh__splitmix(seed) % (kind < 10 ? 600 : kind < 14 ? 20000 : 700000);
}

static void random_operations_against_a_model(void **state)
{
    (void)state;
    enum { BLOCKS = 300 };
    static block blocks[BLOCKS];
    int rounds = getenv("MH_LONG") ? 2000000 : 60000;
    uint64_t seed = 42;
    mh__arena *a = create(24 * MIB);
    memset(blocks, 0, sizeof blocks);
    for (int i = 0; i < rounds; i++) {
        block *b = &blocks[mh__splitmix(&seed) % BLOCKS];
        size_t size = random_size(&seed);
        if (b->at && mh__splitmix(&seed) % 4 == 0) {
            mh_err err = mh__arena_resize(a, b->at, size);
            if (!err) {
                b->size = MH__MIN(b->size, size);
                check_fill(a, b);
                memset(mh__arena_at(a, b->at), b->fill, b->size = size);
            } else {
                assert_true(err == MH_ERR_FULL || err == MH_ERR_NO_SPACE);
            }
        } else if (b->at) {
            check_fill(a, b);
            assert_ok(mh__arena_free(a, b->at));
            b->at = 0;
        } else if (!mh__arena_alloc(a, size, &b->at)) {
            b->size = size;
            b->fill = (unsigned char)(i + 1);
            assert_true(mh__arena_usable(a, b->at) >= size);
            memset(mh__arena_at(a, b->at), b->fill, size);
        } else {
            b->at = 0;
        }
        if (i % 8192 == 0)
            mh__arena_trim(a, mh__splitmix(&seed) % (4 * MIB));
        if (i % 64 == 0)
            assert_true(mh__arena_is_sound(a));
    }
    for (size_t i = 0; i < BLOCKS; i++)
        if (blocks[i].at)
            assert_ok(mh__arena_free(a, blocks[i].at));
    assert_int_equal(mh__arena_used_bytes(a), 0);
    assert_true(mh__arena_is_sound(a));
    mh__arena_destroy(&a);
}

static int allocations_left;

static void *failing_realloc(void *old, size_t size, void *ctx)
{
    (void)ctx;
    if (!size) {
        free(old);
        return NULL;
    }
    return allocations_left-- > 0 ? realloc(old, size) : NULL;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    for (int n = 0; n < 40; n++) {
        mh__arena *a = NULL;
        static uint64_t blocks[4000];
        size_t count = 0;
        mh_err err = MH_OK;
        allocations_left = n;
        mh_allocator_set(failing_realloc, NULL);
        err = mh__arena_create(&a, 64 * MIB, "test");
        for (size_t i = 0; i < 4000 && !err; i++)
            if (!(err = mh__arena_alloc(a, i % 7 ? 700 : 9000, &blocks[count])))
                count++;
        if (err)
            assert_int_equal(err, MH_ERR_NO_MEMORY);
        if (a) {
            assert_true(mh__arena_is_sound(a));
            for (size_t i = 0; i < count; i++)
                assert_ok(mh__arena_free(a, blocks[i]));
            assert_int_equal(mh__arena_used_bytes(a), 0);
            assert_true(mh__arena_is_sound(a));
        }
        mh__arena_destroy(&a);
        mh_allocator_set(NULL, NULL);
        if (!err)
            return;
    }
    fail_msg("the sweep never got through");
}

static void views_check_bounds(void **state)
{
    (void)state;
    mh__arena *a = create(4 * MIB);
    size_t size = mh__arena_capacity(a);
    mh__arena_view view;
    uint64_t at;
    assert_ok(mh__arena_alloc(a, 5000, &at));
    strcpy(mh__arena_at(a, at), "hello");
    assert_ok(mh__arena_view_open(&view, mh__arena_fd(a), true));
    assert_string_equal(mh__arena_view_at(&view, at, 6), "hello");
    const struct {
        uint64_t offset, size;
        bool inside;
    } rows[] = {
        {0, 0, true},         {size, 0, true},           {size - 1, 1, true},  {size - 1, 2, false},
        {size + 1, 0, false}, {UINT64_MAX, 2, false},    {2, UINT64_MAX, false}, {0, size, true},
        {0, size + 1, false}, {UINT64_MAX, UINT64_MAX, false},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++)
        assert_int_equal(mh__arena_view_at(&view, rows[i].offset, rows[i].size) != NULL, rows[i].inside);
    mh__arena_view_close(&view);
    mh__arena_view_close(&view);
    mh__arena_view own = mh__arena_view_of(a);
    assert_ptr_equal(own.base, mh__arena_base(a));
    mh__arena_destroy(&a);
}

static void views_refuse_what_may_be_cut(void **state)
{
    (void)state;
    mh__arena_view view;
    int fd = memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING), pipes[2];
    assert_int_equal(ftruncate(fd, 8192), 0);
    assert_err(mh__arena_view_open(&view, fd, true), MH_ERR_INVALID);
    assert_null(view.base);
    close(fd);
    assert_int_equal(pipe(pipes), 0);
    assert_err(mh__arena_view_open(&view, pipes[0], true), MH_ERR_INVALID);
    close(pipes[0]);
    close(pipes[1]);
    assert_int_not_equal(mh__arena_view_open(&view, -1, true), MH_OK);
    mh__arena *a = create(MIB);
    assert_int_equal(ftruncate(mh__arena_fd(a), 4096), -1);
    assert_int_equal(errno, EPERM);
    mh__arena_destroy(&a);
}

/* What a child writes through a view of its own is seen here; a read-only view faults on writing. */
static void a_child_writes_through_its_view(void **state)
{
    (void)state;
    mh__arena *a = create(4 * MIB);
    uint64_t at;
    assert_ok(mh__arena_alloc(a, 64, &at));
    for (int writable = 0; writable <= 1; writable++) {
        pid_t child = fork();
        if (child == 0) {
            struct rlimit no_core = {0};
            setrlimit(RLIMIT_CORE, &no_core);
            mh__arena_view view;
            if (mh__arena_view_open(&view, mh__arena_fd(a), writable))
                _exit(2);
            signal(SIGSEGV, SIG_DFL);
            strcpy(mh__arena_view_at(&view, at, 6), "child");
            _exit(0);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (writable)
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        else
            assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    assert_string_equal(mh__arena_at(a, at), "child");
    mh__arena_destroy(&a);
}

/* More than the machine has: an error that names both numbers instead of the out-of-memory killer. */
static void more_than_the_machine_has(void **state)
{
    (void)state;
    size_t all = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    mh__arena *a = create(4 * all);
    char text[32];
    uint64_t at;
    snprintf(text, sizeof text, "%zu", 2 * all);
    assert_err(mh__arena_alloc(a, 2 * all, &at), MH_ERR_NO_SPACE);
    assert_non_null(strstr(mh_err_detail(), text));
    assert_ok(mh__arena_alloc(a, MIB, &at));
    assert_true(mh__arena_is_sound(a));
    mh__arena_destroy(&a);
}

static void a_limited_address_space_makes_it_smaller(void **state)
{
    (void)state;
    if (SANITIZED)
        MH_SKIP("does not apply: a sanitizer needs the whole address space");
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {(rlim_t)1 << 32, (rlim_t)1 << 32};
        mh__arena *a = NULL;
        uint64_t at;
        _exit(setrlimit(RLIMIT_AS, &limit) || mh__arena_create(&a, (size_t)1 << 40, "test") ||
              mh__arena_capacity(a) > (size_t)1 << 30 || mh__arena_alloc(a, MIB, &at));
    }
    int status = 0;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_rounded_as_promised),
        cmocka_unit_test(wrong_offsets_are_refused),
        cmocka_unit_test(a_full_arena_says_so_and_goes_on),
        cmocka_unit_test(kept_pages_do_not_stand_in_the_way),
        cmocka_unit_test(pages_are_kept_for_reuse_and_trimmed),
        cmocka_unit_test(resizing_in_place),
        cmocka_unit_test(random_operations_against_a_model),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(views_check_bounds),
        cmocka_unit_test(views_refuse_what_may_be_cut),
        cmocka_unit_test(a_child_writes_through_its_view),
        cmocka_unit_test(more_than_the_machine_has),
        cmocka_unit_test(a_limited_address_space_makes_it_smaller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
