/* Allocating and freeing in a shared heap, killed at every instruction: the heap stays whole, what others hold stays theirs,
 * and at most the block that the killed process was getting stays allocated. */
#include "mh_test.h"

#include "base/number.h"
#include "manyhands/shm.h"
#include "stepkill.h"

#include <stdlib.h>
#include <string.h>

enum { HEAP_BYTES = 16384, HELD = 6, TAKEN_BYTES = 200, ALIGNED = 256 };
enum { HELD_BYTES = 128, HOLE_BYTES = 624 }; /* of blocks of 100 and 600 bytes with their heads */

/* The ledger of the operation lies before the heap. */
typedef struct shared {
    uint64_t held[HELD]; /* blocks of others */
    uint64_t taken;      /* what the operation got, or gives back */
    uint64_t free_before;
    char room[4096 - (HELD + 2) * sizeof(uint64_t)];
    char heap[HEAP_BYTES];
} shared;

static mh_heap *attach(shared *sh)
{
    mh_heap *heap = NULL;
    if (mh_heap_attach(&heap, sh->heap, HEAP_BYTES))
        abort();
    return heap;
}

static uint64_t take(mh_heap *heap, size_t size, size_t align)
{
    uint64_t at = 0;
    if (mh_heap_alloc(heap, size, align, MH_FOREVER, &at))
        abort();
    return at;
}

static void give(mh_heap *heap, uint64_t at)
{
    if (mh_heap_free(heap, at, MH_FOREVER))
        abort();
}

/* Six blocks of others with holes between: [0] hole [1] hole [2] ... so that the operation splits, and merges on both sides. */
static void setup(void *at)
{
    shared *sh = at;
    mh_heap *heap = NULL;
    uint64_t holes[HELD];
    size_t largest;
    if (mh_heap_create(&heap, sh->heap, HEAP_BYTES))
        abort();
    for (size_t i = 0; i < HELD; i++) {
        sh->held[i] = take(heap, 100, 16);
        memset(mh_heap_at(heap, sh->held[i]), (int)i + 1, 100);
        holes[i] = take(heap, 600, 16);
    }
    for (size_t i = 0; i < HELD; i++)
        give(heap, holes[i]);
    size_t bytes;
    if (mh_heap_room(heap, MH_FOREVER, &bytes, &largest))
        abort();
    sh->free_before = bytes;
    mh_heap_destroy(&heap);
}

static void setup_taken(void *at)
{
    shared *sh = at;
    setup(at);
    mh_heap *heap = attach(sh);
    sh->taken = take(heap, TAKEN_BYTES, 16);
    mh_heap_destroy(&heap);
}

static mh_heap *child_heap;
static void prepare(void *at) { child_heap = attach(at); }

static void alloc_plain(void *at) { ((shared *)at)->taken = take(child_heap, TAKEN_BYTES, 16); }
static void alloc_aligned(void *at) { ((shared *)at)->taken = take(child_heap, TAKEN_BYTES, ALIGNED); }
static void alloc_whole_hole(void *at) { ((shared *)at)->taken = take(child_heap, 600, 16); }
static void free_plain(void *at) { give(child_heap, ((shared *)at)->taken); }

static const char *check_held(mh_heap *heap, shared *sh)
{
    for (size_t i = 0; i < HELD; i++) {
        const char *bytes = mh_heap_at(heap, sh->held[i]);
        for (size_t j = 0; j < 100; j++)
            if (bytes[j] != (int)i + 1)
                return "somebody else's block was overwritten";
    }
    return NULL;
}

/* After the kill: use the heap until it is full, which would hand a block out twice if it could be; free all; count. */
static const char *use_all(mh_heap *heap, shared *sh)
{
    static uint64_t blocks[HEAP_BYTES / 32];
    size_t count = 0;
    while (!mh_heap_alloc(heap, 16, 16, MH_FOREVER, &blocks[count])) {
        memset(mh_heap_at(heap, blocks[count]), 0x7f, 16);
        count++;
    }
    const char *why = check_held(heap, sh);
    for (size_t i = 0; i < count; i++)
        if (mh_heap_free(heap, blocks[i], MH_FOREVER))
            return "a block cannot be freed";
    return why;
}

static const char *check(void *at, const struct stepkill_point *point)
{
    shared *sh = at;
    mh_heap *heap = attach(sh);
    size_t bytes = 0, largest = 0;
    uint64_t probe;
    (void)point;
    if (mh_heap_alloc(heap, 32, 16, mh_deadline_in(2 * MH_SECOND), &probe))
        return "the heap cannot be used";
    give(heap, probe);
    if (mh_heap_check(heap, MH_FOREVER))
        return "the heap is not sound";
    const char *why = use_all(heap, sh);
    if (!why && mh_heap_check(heap, MH_FOREVER))
        why = "the heap is not sound after use";
    for (size_t i = 0; i < HELD && !why; i++)
        give(heap, sh->held[i]);
    if (!why && mh_heap_room(heap, MH_FOREVER, &bytes, &largest))
        why = "the heap does not say how much room it has";
    /* with all of the others' blocks back, what is missing is what the killed process was getting, or had */
    if (!why && bytes + HOLE_BYTES < sh->free_before + HELD * HELD_BYTES)
        why = "more than one block was lost";
    if (!why && bytes > HEAP_BYTES)
        why = "there is more room than there was";
    mh_heap_destroy(&heap);
    return why;
}

#define CASE(title, setup_fn, operation_fn) \
    {.name = title, .shared_bytes = sizeof(shared), .setup = setup_fn, .prepare = prepare, .operation = operation_fn, .check = check, .sparse = 16}
static const struct stepkill_case cases[] = {
    CASE("allocating with a rest", setup, alloc_plain),
    CASE("allocating with a gap before", setup, alloc_aligned),
    CASE("allocating a whole hole", setup, alloc_whole_hole),
    CASE("freeing with neighbours", setup_taken, free_plain),
};

static void test_every_instruction(void **state)
{
    (void)state;
    stepkill_run_all(cases, MH__COUNT_OF(cases));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_instruction)};
    return cmocka_run_group_tests_name("heap_stepkill", tests, NULL, NULL);
}
