/* SIGKILL at every instruction of each step that a worker takes in its ring: what it answered counts, the one task in hand is
 * known, all others can be given away, and nothing is torn. */
#include <stdatomic.h>
#include <string.h>

#include "mh_test.h"
#include "pool/region.h"
#include "stepkill.h"

enum { SLOTS = 4, FILLED = 3 };

/* The parent's books and the ring, where both processes see them. */
typedef struct scene {
    mh__ring ring; /* the parent's: pointers are valid in both, for one is a fork of the other */
    uint64_t fillings[SLOTS];
    mh__slot slots[SLOTS];
    uint32_t next; /* the worker's */
    uint64_t control;
} scene;

static void fill(scene *s, uint8_t value)
{
    mh__slot *slot = mh__ring_next(&s->ring);
    memset(slot->request, value, sizeof slot->request);
    memset(slot->reply, 0, sizeof slot->reply);
    slot->task_id = value;
    mh__ring_publish(&s->ring);
}

static void set_up(void *shared)
{
    scene *s = shared;
    s->ring = (mh__ring){.slots = s->slots, .fillings = s->fillings, .mask = SLOTS - 1};
    for (uint8_t i = 1; i <= FILLED; i++)
        fill(s, i);
}

/* One task is taken back from the middle, so that the worker has something to go over. */
static void set_up_gap(void *shared)
{
    scene *s = shared;
    set_up(s);
    mh__ring_revoke(&s->ring, 0);
}

static void take(void *shared)
{
    scene *s = shared;
    mh__slot_take(s->slots, SLOTS - 1, &s->next, &s->control);
}

static void answer(void *shared)
{
    scene *s = shared;
    mh__slot *slot = &s->slots[s->next & (SLOTS - 1)];
    memcpy(slot->reply, slot->request, sizeof slot->request);
    slot->reply_size = sizeof slot->request;
    mh__slot_finish(s->slots, SLOTS - 1, &s->next, s->control);
}

static void run_all(void *shared)
{
    scene *s = shared;
    while (mh__slot_take(s->slots, SLOTS - 1, &s->next, &s->control) == MH__SLOT_TAKEN)
        answer(s);
}

/* Every filled slot is in one of the states that the parent knows, in this order: answered or passed over, at most one running,
 * ready. An answer is whole. */
static const char *check(void *shared, const struct stepkill_point *at)
{
    scene *s = shared;
    mh__ring *ring = &s->ring;
    (void)at;
    for (mh__ring_got got; !mh__ring_is_empty(ring) && (got = mh__ring_look(ring)) != MH__RING_NOTHING; mh__ring_drop(ring)) {
        if (got == MH__RING_CORRUPT)
            return "a slot is corrupt";
        const mh__slot *slot = mh__ring_slot(ring, ring->head);
        if (got == MH__RING_DONE && (slot->reply_size != sizeof slot->request ||
                                     memcmp(slot->reply, slot->request, sizeof slot->request) != 0))
            return "an answer is torn";
    }
    int running = 0;
    for (uint32_t i = ring->head; i != ring->tail; i++) {
        uint64_t filled = ring->fillings[i & ring->mask], now = atomic_load(&mh__ring_slot(ring, i)->control);
        bool runs = now == mh__control_to(filled, MH__SLOT_RUN);
        bool waits = now == filled || now == mh__control_to(filled, MH__SLOT_SKIP);
        if (!runs && !waits)
            return "a slot behind the running one was touched";
        running += runs;
        if (runs && i != ring->head)
            return "a task was begun before the oldest was answered";
    }
    if (running > 1)
        return "two tasks were begun";
    /* what waits can be given away; what runs can be fenced off */
    for (uint32_t i = ring->tail; i != ring->head;) {
        uint32_t index = --i & ring->mask;
        uint64_t filled = ring->fillings[index], now = atomic_load(&ring->slots[index].control);
        if (now == filled ? !mh__ring_revoke(ring, index)
                          : now == mh__control_to(filled, MH__SLOT_RUN) && !mh__ring_fence(ring, index))
            return "a dead worker's task cannot be taken back";
    }
    return NULL;
}

static const struct stepkill_case cases[] = {
    {.name = "take", .shared_bytes = sizeof(scene), .setup = set_up, .operation = take, .check = check},
    {.name = "go over a gap and take", .shared_bytes = sizeof(scene), .setup = set_up_gap, .operation = take, .check = check},
    {.name = "answer", .shared_bytes = sizeof(scene), .setup = set_up, .prepare = take, .operation = answer, .check = check},
    {.name = "run all", .shared_bytes = sizeof(scene), .setup = set_up_gap, .operation = run_all, .check = check, .sparse = 8},
};

static void test_killed_at_every_instruction(void **state)
{
    (void)state;
    stepkill_run_all(cases, MH__COUNT_OF(cases));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_killed_at_every_instruction)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
