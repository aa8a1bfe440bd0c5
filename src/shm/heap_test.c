#include "mh_test.h"

#include "base/number.h"
#include "manyhands/shm.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static bool is_long(void) { return getenv("MH_LONG") != NULL; }

typedef struct fixture {
    mh_shm *memory;
    mh_heap *heap;
} fixture;

static fixture open_heap(size_t size)
{
    fixture f = {0};
    assert_ok(mh_shm_create(&f.memory, size));
    assert_ok(mh_heap_create(&f.heap, mh_shm_data(f.memory), size));
    assert_ok(mh_heap_check(f.heap, MH_FOREVER));
    return f;
}

static void close_heap(fixture *f)
{
    assert_ok(mh_heap_check(f->heap, MH_FOREVER));
    mh_heap_destroy(&f->heap);
    assert_null(f->heap);
    mh_shm_destroy(&f->memory);
}

static size_t free_bytes(mh_heap *heap)
{
    size_t bytes = 0, largest = 0;
    assert_ok(mh_heap_room(heap, MH_FOREVER, &bytes, &largest));
    return bytes;
}

static size_t largest(mh_heap *heap)
{
    size_t bytes = 0, most = 0;
    assert_ok(mh_heap_room(heap, MH_FOREVER, &bytes, &most));
    return most;
}

static void blocks_are_aligned_and_large_enough(void **state)
{
    (void)state;
    static const struct {
        size_t size, align;
    } rows[] = {{0, 1},   {1, 1},    {16, 16},   {17, 8},     {100, 32},  {100, 64}, {1, 4096},
                {5000, 4096}, {64, 128}, {70000, 16}, {70000, 1024}, {33, 2}};
    fixture f = open_heap(MIB);
    uint64_t at[MH__COUNT_OF(rows)];
    size_t all = free_bytes(f.heap);
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        assert_ok(mh_heap_alloc(f.heap, rows[i].size, rows[i].align, MH_FOREVER, &at[i]));
        assert_int_equal(at[i] % MH__MAX(rows[i].align, (size_t)16), 0);
        assert_true(mh_heap_usable(f.heap, at[i]) >= rows[i].size);
        assert_int_equal(mh_heap_offset(f.heap, mh_heap_at(f.heap, at[i])), at[i]);
        memset(mh_heap_at(f.heap, at[i]), (int)i, mh_heap_usable(f.heap, at[i]));
        assert_ok(mh_heap_check(f.heap, MH_FOREVER));
    }
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        for (size_t j = 0; j < rows[i].size; j++)
            assert_int_equal(((char *)mh_heap_at(f.heap, at[i]))[j], i);
        assert_ok(mh_heap_free(f.heap, at[i], MH_FOREVER));
        assert_ok(mh_heap_check(f.heap, MH_FOREVER));
    }
    assert_int_equal(free_bytes(f.heap), all);
    assert_int_equal(largest(f.heap), all - 16);
    close_heap(&f);
}

static void wrong_arguments(void **state)
{
    (void)state;
    fixture f = open_heap(64 << 10);
    mh_heap *other = NULL;
    uint64_t at = 5, first, second;
    static const size_t aligns[] = {0, 3, 24, 8192, SIZE_MAX};
    for (size_t i = 0; i < MH__COUNT_OF(aligns); i++)
        assert_err(mh_heap_alloc(f.heap, 1, aligns[i], MH_FOREVER, &at), MH_ERR_INVALID);
    static const size_t sizes[] = {64 << 10, 1 << 20, SIZE_MAX, SIZE_MAX - 15, SIZE_MAX / 2};
    for (size_t i = 0; i < MH__COUNT_OF(sizes); i++)
        assert_err(mh_heap_alloc(f.heap, sizes[i], 16, MH_FOREVER, &at), MH_ERR_NO_SPACE);
    assert_int_equal(at, 5);

    assert_ok(mh_heap_alloc(f.heap, 100, 1, MH_FOREVER, &first));
    assert_ok(mh_heap_alloc(f.heap, 100, 1, MH_FOREVER, &second));
    memset(mh_heap_at(f.heap, first), 0, 100);
    const uint64_t bad[] = {0, 1, 8, first + 16, first + 1, second + 160, 64 << 10, UINT64_MAX, UINT64_MAX - 15};
    for (size_t i = 0; i < MH__COUNT_OF(bad); i++)
        assert_err(mh_heap_free(f.heap, bad[i], MH_FOREVER), MH_ERR_INVALID);
    assert_ok(mh_heap_free(f.heap, first, MH_FOREVER));
    assert_err(mh_heap_free(f.heap, first, MH_FOREVER), MH_ERR_INVALID);
    assert_int_equal(mh_heap_usable(f.heap, first), 0);
    assert_null(mh_heap_at(f.heap, 0));
    assert_null(mh_heap_at(f.heap, 64 << 10));
    assert_int_equal(mh_heap_offset(f.heap, &f), 0);

    assert_err(mh_heap_create(&other, mh_shm_data(f.memory), 100), MH_ERR_INVALID);
    assert_err(mh_heap_create(&other, (char *)mh_shm_data(f.memory) + 8, 16384), MH_ERR_INVALID);
    assert_err(mh_heap_attach(&other, NULL, 16384), MH_ERR_INVALID);
    assert_err(mh_heap_attach(&other, mh_shm_data(f.memory), 16384), MH_ERR_CORRUPT); /* cut */
    assert_err(mh_heap_attach(&other, (char *)mh_shm_data(f.memory) + 4096, 16384), MH_ERR_CORRUPT);
    assert_null(other);
    close_heap(&f);
}

static void a_full_heap_says_so_and_goes_on(void **state)
{
    (void)state;
    fixture f = open_heap(256 << 10);
    static uint64_t at[1024];
    size_t count = 0, all = free_bytes(f.heap);
    while (!mh_heap_alloc(f.heap, 1000, 16, MH_FOREVER, &at[count]))
        count++;
    assert_non_null(strstr(mh_err_detail(), "262144"));
    assert_in_range(count, 240, 260);
    for (size_t i = 0; i < count; i += 2)
        assert_ok(mh_heap_free(f.heap, at[i], MH_FOREVER));
    assert_err(mh_heap_alloc(f.heap, 3000, 16, MH_FOREVER, &at[0]), MH_ERR_NO_SPACE);
    for (size_t i = 1; i < count; i += 2)
        assert_ok(mh_heap_free(f.heap, at[i], MH_FOREVER));
    assert_int_equal(free_bytes(f.heap), all);
    assert_ok(mh_heap_alloc(f.heap, largest(f.heap), 16, MH_FOREVER, &at[0])); /* what it says can be had */
    assert_int_equal(largest(f.heap), 0);
    close_heap(&f);
}

static void another_view_sees_the_same_blocks(void **state)
{
    (void)state;
    fixture f = open_heap(MIB);
    mh_heap *other = NULL;
    uint64_t at;
    assert_ok(mh_heap_attach(&other, mh_shm_data(f.memory), MIB));
    assert_ok(mh_heap_alloc(other, 10, 1, MH_NOW, &at));
    strcpy(mh_heap_at(other, at), "here");
    assert_string_equal(mh_heap_at(f.heap, at), "here");
    assert_ok(mh_heap_free(f.heap, at, MH_NOW));
    mh_heap_destroy(&other);
    mh_heap_destroy(&other);
    close_heap(&f);
}

typedef struct piece {
    uint64_t at;
    size_t size;
    unsigned char fill;
} piece;

static void toggle(mh_heap *heap, piece *p, uint64_t *seed)
{
    unsigned char *bytes = mh_heap_at(heap, p->at);
    if (p->at) {
        for (size_t i = 0; i < p->size; i++)
            assert_int_equal(bytes[i], p->fill);
        assert_ok(mh_heap_free(heap, p->at, MH_FOREVER));
        p->at = 0;
        return;
    }
    p->size = mh__splitmix(seed) % (mh__splitmix(seed) % 8 ? 300 : 9000);
    p->fill = (unsigned char)mh__splitmix(seed);
    if (!mh_heap_alloc(heap, p->size, (size_t)1 << mh__splitmix(seed) % 13, MH_FOREVER, &p->at))
        memset(mh_heap_at(heap, p->at), p->fill, p->size);
}

static void random_operations_against_a_model(void **state)
{
    (void)state;
    static piece pieces[200];
    fixture f = open_heap(400 << 10);
    size_t all = free_bytes(f.heap);
    uint64_t seed = 7;
    int rounds = is_long() ? 2000000 : 100000;
    for (int i = 0; i < rounds; i++) {
        toggle(f.heap, &pieces[mh__splitmix(&seed) % MH__COUNT_OF(pieces)], &seed);
        if (i % 256 == 0)
            assert_ok(mh_heap_check(f.heap, MH_FOREVER));
    }
    for (size_t i = 0; i < MH__COUNT_OF(pieces); i++)
        if (pieces[i].at)
            toggle(f.heap, &pieces[i], &seed);
    assert_int_equal(free_bytes(f.heap), all);
    close_heap(&f);
}

static void *thread_work(void *heap)
{
    piece pieces[20] = {{0}};
    uint64_t seed = (uint64_t)(uintptr_t)&seed;
    for (int i = 0; i < 5000; i++)
        toggle(heap, &pieces[mh__splitmix(&seed) % MH__COUNT_OF(pieces)], &seed);
    for (size_t i = 0; i < MH__COUNT_OF(pieces); i++)
        if (pieces[i].at)
            toggle(heap, &pieces[i], &seed);
    return NULL;
}

static void threads_share_a_heap(void **state)
{
    (void)state;
    fixture f = open_heap(4 * MIB);
    size_t all = free_bytes(f.heap);
    pthread_t threads[3];
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, thread_work, f.heap), 0);
    for (size_t i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(free_bytes(f.heap), all);
    close_heap(&f);
}

/* Children take and free blocks and are killed anywhere, often inside. Each notes its blocks in a ledger that outlives it; its
 * successor goes on with them. A block handed out twice would show as foreign content. */
enum { CHILDREN = 2, SLOTS = 40 };
typedef struct ledger {
    _Atomic uint64_t operations[CHILDREN];
    struct {
        _Atomic uint64_t at;
        uint64_t size;
    } slots[CHILDREN + 1][SLOTS];
} ledger;

static bool work_on_slot(mh_heap *heap, ledger *l, size_t owner, size_t slot, uint64_t *seed)
{
    uint64_t at = atomic_load(&l->slots[owner][slot].at), tag = owner << 32 | slot;
    if (at) {
        uint64_t *words = mh_heap_at(heap, at), count = l->slots[owner][slot].size / 8;
        for (uint64_t i = 0; i < count; i++)
            if (words[i] != tag)
                return false;
        atomic_store(&l->slots[owner][slot].at, 0);
        return mh_heap_free(heap, at, MH_FOREVER) == MH_OK;
    }
    uint64_t size = 8 + mh__splitmix(seed) % 60 * 8;
    mh_err err = mh_heap_alloc(heap, size, 16 << mh__splitmix(seed) % 4, MH_FOREVER, &at);
    if (err)
        return err == MH_ERR_NO_SPACE;
    uint64_t *words = mh_heap_at(heap, at);
    for (uint64_t i = 0; i < size / 8; i++)
        words[i] = tag;
    l->slots[owner][slot].size = size;
    atomic_store(&l->slots[owner][slot].at, at);
    return true;
}

static pid_t start_child(mh_heap *heap, ledger *l, size_t owner, uint64_t seed)
{
    pid_t child = fork();
    if (child)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        if (!work_on_slot(heap, l, owner, mh__splitmix(&seed) % SLOTS, &seed))
            _exit(1);
        atomic_fetch_add(&l->operations[owner], 1);
    }
}

static void killed_users_leave_a_whole_heap(void **state)
{
    (void)state;
    fixture f = open_heap(512 << 10);
    mh_shm *books = NULL;
    assert_ok(mh_shm_create(&books, sizeof(ledger)));
    ledger *l = mh_shm_data(books);
    pid_t children[CHILDREN];
    uint64_t seed = 99;
    size_t all = free_bytes(f.heap), kills = is_long() ? 20000 : 200;
    for (size_t i = 0; i < CHILDREN; i++)
        children[i] = start_child(f.heap, l, i, mh__splitmix(&seed));
    for (size_t n = 0; n < kills; n++) {
        size_t i = n % CHILDREN;
        uint64_t before = atomic_load(&l->operations[i]), wanted = mh__splitmix(&seed) % 50;
        while (atomic_load(&l->operations[i]) - before < wanted) /* the parent works, too: it meets dead holders */
            assert_true(work_on_slot(f.heap, l, CHILDREN, mh__splitmix(&seed) % SLOTS, &seed));
        kill(children[i], SIGKILL);
        int status = 0;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_true(WIFSIGNALED(status));
        assert_ok(mh_heap_check(f.heap, MH_FOREVER));
        children[i] = start_child(f.heap, l, i, mh__splitmix(&seed));
    }
    for (size_t i = 0; i < CHILDREN; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    for (size_t i = 0; i <= CHILDREN; i++)
        for (size_t slot = 0; slot < SLOTS; slot++)
            if (atomic_load(&l->slots[i][slot].at))
                assert_true(work_on_slot(f.heap, l, i, slot, &seed));
    /* each killed child may have held one block that its ledger did not have yet, or no longer: at most 480 + 64 + 32 bytes */
    size_t left = free_bytes(f.heap);
    assert_true(all - left <= (kills + CHILDREN) * 640);
    mh_shm_destroy(&books);
    close_heap(&f);
}

static void overwritten_books_are_told(void **state)
{
    (void)state;
    fixture f = open_heap(64 << 10);
    uint64_t at, other;
    assert_ok(mh_heap_alloc(f.heap, 100, 16, MH_FOREVER, &at));
    memset((char *)mh_shm_data(f.memory) + at - 16, 0xff, 8); /* its own head */
    assert_err(mh_heap_free(f.heap, at, MH_FOREVER), MH_ERR_INVALID);
    assert_err(mh_heap_check(f.heap, MH_FOREVER), MH_ERR_CORRUPT);
    memset(mh_shm_data(f.memory), 0xff, 8192);
    assert_err(mh_heap_alloc(f.heap, 100, 16, MH_NOW, &other), MH_ERR_CORRUPT);
    assert_err(mh_heap_attach(&(mh_heap *){NULL}, mh_shm_data(f.memory), 64 << 10), MH_ERR_CORRUPT);
    mh_heap_destroy(&f.heap);
    mh_shm_destroy(&f.memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_and_large_enough),
        cmocka_unit_test(wrong_arguments),
        cmocka_unit_test(a_full_heap_says_so_and_goes_on),
        cmocka_unit_test(another_view_sees_the_same_blocks),
        cmocka_unit_test(random_operations_against_a_model),
        cmocka_unit_test(threads_share_a_heap),
        cmocka_unit_test(killed_users_leave_a_whole_heap),
        cmocka_unit_test(overwritten_books_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
