/* A ring's push and pop, of small, batched, wrapping and large messages, killed at every instruction, without and with somebody waiting. */
#include "mh_test.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"
#include "queue/ring.h"
#include "stepkill.h"

enum { CAPACITY = 4096, SMALL = 100, LARGE = 6000, FAR = 3960, UNTIL_S = 4 };

struct shared {
    mh__ring_shared s;
    unsigned char data[CAPACITY];
    _Atomic int waiter_got; /* size of the message that the waiter popped; -1: torn */
    _Atomic int waiter_done;
    _Atomic int rescued;    /* messages that the tester took to let the waiter end; negative: torn */
};

static void must(bool ok)
{
    if (!ok)
        abort();
}

/* Each process has its own view; nobody spins, for every turn would be a step. */
static mh__ring *view(struct shared *sh)
{
    static mh__ring r;
    must(!mh__ring_attach(&r, &sh->s, sh->data, CAPACITY));
    r.spins = false;
    return &r;
}

static mh_deadline soon(void) { return mh_deadline_in(UNTIL_S * MH_SECOND); }

/* A message of `size` bytes, all of which follow from `mark`. */
static const unsigned char *message(unsigned char mark, size_t size)
{
    static unsigned char bytes[LARGE];
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)(mark + i * 3 + (i >> 8));
    return bytes;
}

static bool is_message(const unsigned char *got, size_t size) { return size == 0 || memcmp(got, message(got[0], size), size) == 0; }

static void push(struct shared *sh, unsigned char mark, size_t size, mh_deadline until)
{
    must(!mh__ring_push(view(sh), &(mh_bytes){message(mark, size), size}, 1, 0, until));
}

/* The size of the next message, 0: none (or the empty one), -1: torn. */
static int pop(struct shared *sh, mh_deadline until, unsigned char *mark)
{
    static unsigned char into[LARGE];
    size_t size = 0;
    uint32_t tag;
    mh_err err = mh__ring_pop_into(view(sh), into, LARGE, until, &size, &tag);
    must(!err || err == MH_ERR_EMPTY || err == MH_ERR_TIMEOUT);
    if (err)
        return 0;
    *mark = into[0];
    return is_message(into, size) ? (int)size : -1;
}

/* ---- setups ---------------------------------------------------------------------------------- */

static void setup_empty(void *at) { must(!mh__ring_init(&((struct shared *)at)->s, CAPACITY, 0, LARGE, CAPACITY)); }

/* The next message goes around the end of the ring. */
static void setup_far(void *at)
{
    unsigned char mark;
    setup_empty(at);
    push(at, 9, FAR, MH_NOW);
    must(pop(at, MH_NOW, &mark) == FAR);
}
static void setup_two(void *at)
{
    setup_far(at);
    push(at, 1, SMALL, MH_NOW);
    push(at, 2, SMALL, MH_NOW);
}
static void setup_full(void *at)
{
    setup_far(at);
    while (!mh__ring_push(view(at), &(mh_bytes){message(1, SMALL), SMALL}, 1, 0, MH_NOW))
        ;
}

/* ---- operations ------------------------------------------------------------------------------ */

static struct {
    mh__ring *r;
    unsigned char into[LARGE];
    const unsigned char *from;
} mine; /* what an operation needs is made ready before it is stepped */

static void prepare_small(void *at)
{
    mine.r = view(at);
    mine.from = message(1, SMALL);
}
static void prepare_large(void *at)
{
    mine.r = view(at);
    mine.from = message(1, LARGE);
}
static void push_small(void *at)
{
    (void)at;
    must(!mh__ring_push(mine.r, &(mh_bytes){mine.from, SMALL}, 1, 0, MH_FOREVER));
}
static void push_two(void *at)
{
    (void)at;
    mh_bytes both[] = {{mine.from, SMALL}, {mine.from, SMALL}};
    must(!mh__ring_push_many(mine.r, both, 2, MH_FOREVER, NULL));
}
static void push_large(void *at)
{
    (void)at;
    must(!mh__ring_push(mine.r, &(mh_bytes){mine.from, LARGE}, 1, 0, MH_FOREVER));
}
static void pop_one(void *at)
{
    (void)at;
    size_t size;
    uint32_t tag;
    must(!mh__ring_pop_into(mine.r, mine.into, LARGE, MH_FOREVER, &size, &tag));
}
static void pop_two(void *at)
{
    (void)at;
    size_t sizes[2], count;
    must(!mh__ring_pop_many(mine.r, mine.into, LARGE, sizes, 2, MH_FOREVER, &count) && count == 2);
}

/* ---- those who wait: for ever, since how long the steps before the kill take is up to the machine; from the kill on,
 * stepkill's own bound tells a waiter that hangs -------------------------------------------------- */

static void wait_pop(void *at)
{
    struct shared *sh = at;
    unsigned char mark = 0;
    int got = pop(sh, MH_FOREVER, &mark);
    atomic_store(&sh->waiter_got, got < 0 ? -1 : mark);
}
static void wait_push_small(void *at) { push(at, 7, SMALL, MH_FOREVER); }
static void wait_push_large(void *at)
{
    struct shared *sh = at;
    push(sh, 7, LARGE, MH_FOREVER);
    atomic_store(&sh->waiter_done, 1);
}

/* The killed push may not have happened: then a message of the tester's lets the waiter end. */
static void rescue_pop(void *at, const struct stepkill_point *point)
{
    (void)point;
    push(at, 5, SMALL, soon());
}
/* The killed pop may not have happened: then there is no room yet. */
static void rescue_push(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    unsigned char mark;
    if (!point->ended && pop(sh, MH_NOW, &mark) < 0)
        atomic_store(&sh->rescued, -1);
}
static void rescue_push_large(void *at, const struct stepkill_point *point)
{
    (void)point;
    struct shared *sh = at;
    unsigned char mark;
    for (mh_deadline until = soon(); mh_now() < until; sched_yield()) {
        int done = atomic_load(&sh->waiter_done), got = pop(sh, MH_NOW, &mark);
        if (got)
            atomic_store(&sh->rescued, got);
        if (got || done)
            return;
    }
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* Pushes and pops go on at once, what is left is whole, and then the ring is empty and has all its room. */
static const char *check_works(struct shared *sh, int most, int *left)
{
    unsigned char mark = 0;
    int64_t start = mh_now();
    if (mh__ring_count(view(sh)) > (size_t)most)
        return "there are more messages than were pushed";
    for (*left = 0;; (*left)++) {
        int got = pop(sh, MH_NOW, &mark);
        if (got < 0)
            return "a message is torn";
        if (got == 0)
            break;
        if (*left == most)
            return "there are more messages than were pushed";
    }
    if (!mh__ring_is_empty(view(sh)) || mh__ring_wait(view(sh), MH_NOW) != MH_ERR_EMPTY)
        return "an empty ring does not say so";
    if (mh__ring_push(view(sh), &(mh_bytes){message(3, CAPACITY - 8), CAPACITY - 8}, 1, 0, MH_NOW))
        return "there is less room than before";
    if (pop(sh, MH_NOW, &mark) != CAPACITY - 8)
        return "a message does not come out";
    return mh_now() - start < MH_SECOND ? NULL : "it takes too long";
}

static const char *check_pushed(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    int left;
    const char *broken = check_works(sh, 1, &left);
    return broken ? broken : point->ended && left != 1 ? "a finished push is lost" : NULL;
}
static const char *check_pushed_two(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    int left;
    const char *broken = check_works(sh, 2, &left);
    return broken ? broken : left == 1 ? "half of a batch is there" : point->ended && left != 2 ? "a finished push is lost" : NULL;
}
/* The waiter had one of the killed child's and the tester's message, and the other is left. */
static const char *check_waiter_popped(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    int left, got = atomic_load(&sh->waiter_got);
    const char *broken = check_works(sh, 1, &left);
    if (broken)
        return broken;
    if (got != 1 && got != 5)
        return "the waiter got no whole message";
    return point->ended && (got != 1 || left != 1) ? "a finished push is lost" : NULL;
}
static const char *check_push_large_alone(void *at, const struct stepkill_point *point)
{
    (void)point; /* without a consumer it never ends */
    int left;
    const char *broken = check_works(at, 0, &left);
    struct shared *sh = at;
    return broken ? broken : mh__ring_count_unfinished(view(sh)) != 2 ? "pieces were counted" : NULL;
}
static const char *check_popped(void *at, const struct stepkill_point *point)
{
    int left;
    const char *broken = check_works(at, 2, &left);
    return broken ? broken : left == 0 ? "two are gone" : point->ended != (left == 1) && point->ended ? "a message came twice" : NULL;
}
static const char *check_popped_two(void *at, const struct stepkill_point *point)
{
    int left;
    const char *broken = check_works(at, 2, &left);
    return broken ? broken : left == 1 ? "half of a batch is gone" : point->ended && left ? "a message came twice" : NULL;
}
static const char *check_waiter_pushed(void *at, const struct stepkill_point *point)
{
    (void)point;
    struct shared *sh = at;
    int left;
    return atomic_load(&sh->rescued) < 0 ? "a message is torn" : check_works(sh, 64, &left);
}
static const char *check_popped_large(void *at, const struct stepkill_point *point)
{
    (void)point;
    struct shared *sh = at;
    int left, rescued = atomic_load(&sh->rescued);
    if (rescued != 0 && rescued != LARGE)
        return "a message is torn";
    return check_works(sh, 0, &left);
}

/* ---- running --------------------------------------------------------------------------------- */

#define CASE(title, ...) {.name = title, .shared_bytes = sizeof(struct shared), __VA_ARGS__}
static const struct stepkill_case cases[] = {
    CASE("push", .setup = setup_empty, .prepare = prepare_small, .operation = push_small, .check = check_pushed, .sparse = 16),
    CASE("push around the end", .setup = setup_far, .prepare = prepare_small, .operation = push_small, .check = check_pushed, .sparse = 16),
    CASE("push to a waiting consumer", .setup = setup_far, .prepare = prepare_small, .operation = push_small, .waiter = wait_pop,
         .rescue = rescue_pop, .check = check_waiter_popped, .sparse = 16),
    CASE("push of two", .setup = setup_far, .prepare = prepare_small, .operation = push_two, .check = check_pushed_two, .sparse = 16),
    CASE("push of a large message", .setup = setup_far, .prepare = prepare_large, .operation = push_large, .may_block = true,
         .check = check_push_large_alone, .sparse = 100),
    CASE("push of a large message to a waiting consumer", .setup = setup_far, .prepare = prepare_large, .operation = push_large,
         .may_block = true, .waiter = wait_pop, .rescue = rescue_pop, .check = check_waiter_popped, .sparse = 100),
    CASE("pop", .setup = setup_two, .prepare = prepare_small, .operation = pop_one, .check = check_popped, .sparse = 16),
    CASE("pop before a waiting producer", .setup = setup_full, .prepare = prepare_small, .operation = pop_one, .waiter = wait_push_small,
         .rescue = rescue_push, .check = check_waiter_pushed, .sparse = 16),
    CASE("pop of two", .setup = setup_two, .prepare = prepare_small, .operation = pop_two, .check = check_popped_two, .sparse = 16),
    CASE("pop of a large message", .setup = setup_far, .prepare = prepare_small, .operation = pop_one, .may_block = true,
         .waiter = wait_push_large, .rescue = rescue_push_large, .check = check_popped_large, .sparse = 100),
};

static void test_kill_at_every_instruction(void **state)
{
    (void)state;
    stepkill_run_all(cases, MH__COUNT_OF(cases));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kill_at_every_instruction)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
