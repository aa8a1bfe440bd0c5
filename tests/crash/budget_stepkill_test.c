/* The budget of cores: a worker is killed at every instruction of what it does with its seat, alone and with somebody who waits for its core.
 * Whoever waits gets it. */
#include "mh_test.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/number.h"
#include "pool/budget.h"
#include "stepkill.h"

typedef struct scene {
    mh__budget budget;
    uint32_t owner; /* the tester's, which is away in some scenes */
} scene;

static uint32_t seat; /* of the process that is killed */

static void set_up(void *at) { mh__budget_init(&((scene *)at)->budget, 1); }

static void set_up_owner(void *at)
{
    scene *s = at;
    set_up(at);
    s->owner = mh__budget_sit(&s->budget, mh__os_self_process());
    mh__budget_away(&s->budget, s->owner);
}

static void know_itself(void *at)
{
    (void)at;
    mh__os_self_process();
}
static void sit(void *at) { seat = mh__budget_sit(&((scene *)at)->budget, mh__os_self_process()); }
static void try(void *at)
{
    scene *s = at;
    if (!mh__budget_try(&s->budget, seat, s->owner) && mh__os_self_process() == s->budget.seats[0].who)
        abort(); /* nobody else was there */
}
static void sit_and_run(void *at)
{
    sit(at);
    mh__budget_run(&((scene *)at)->budget, seat);
}
static void run(void *at) { mh__budget_run(&((scene *)at)->budget, seat); }
static void idle(void *at) { mh__budget_idle(&((scene *)at)->budget, seat); }
static void leave(void *at) { mh__budget_leave(&((scene *)at)->budget, seat); }
static void away(void *at) { mh__budget_away(&((scene *)at)->budget, seat); }
static void sit_and_go(void *at)
{
    sit_and_run(at);
    away(at);
}

/* Get the core, as a worker does. */
static bool get(mh__budget *b, uint32_t mine, uint32_t owner, int64_t slice_ns, mh_deadline until)
{
    while (!mh__budget_try(b, mine, owner)) {
        mh__budget_wait(b, mine, owner, slice_ns);
        if (mh_now() > until)
            return false;
    }
    return true;
}

/* For ever: how long the steps before the kill take is up to the machine. In long slices, because after each it may find that the process that
 * is stepped through does nothing, and take its core. */
static void wait_for_it(void *at)
{
    scene *s = at;
    uint32_t mine = mh__budget_sit(&s->budget, mh__os_self_process());
    if (!get(&s->budget, mine, s->owner, 250 * MH_MILLISECOND, MH_FOREVER))
        abort();
    mh__budget_leave(&s->budget, mine);
}

static const char *check(void *at, const struct stepkill_point *point)
{
    (void)point;
    scene *s = at;
    uint32_t mine = mh__budget_sit(&s->budget, mh__os_self_process());
    if (!mine)
        return "no seat is left";
    if (!get(&s->budget, mine, s->owner, 8 * MH_MILLISECOND, mh_deadline_in(10 * MH_SECOND)))
        return "the core is never free again";
    mh__budget_leave(&s->budget, mine);
    return NULL;
}

#define CASE(title, ...) {.name = title, .shared_bytes = sizeof(scene), .check = check, .sparse = 16, __VA_ARGS__}
static const struct stepkill_case cases[] = {
    CASE("sit", .setup = set_up, .prepare = know_itself, .operation = sit),
    CASE("try", .setup = set_up, .prepare = sit, .operation = try),
    CASE("inherit", .setup = set_up_owner, .prepare = sit, .operation = try),
    CASE("idle", .setup = set_up, .prepare = sit_and_run, .operation = idle),
    CASE("idle before a waiter", .setup = set_up, .prepare = sit_and_run, .operation = idle, .waiter = wait_for_it),
    CASE("leave before a waiter", .setup = set_up, .prepare = sit_and_run, .operation = leave, .waiter = wait_for_it),
    CASE("away before a waiter", .setup = set_up, .prepare = sit_and_run, .operation = away, .waiter = wait_for_it),
    CASE("back", .setup = set_up, .prepare = sit_and_go, .operation = run),
};

static void test_every_instruction(void **state)
{
    (void)state;
    stepkill_run_all(cases, MH__COUNT_OF(cases));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_instruction)};
    return cmocka_run_group_tests_name("budget_stepkill", tests, NULL, NULL);
}
