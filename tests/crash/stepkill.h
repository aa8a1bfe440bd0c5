/* SIGKILL at every instruction of one operation.
 *
 * For k = 1, 2, 3, ... a child process prepares, runs the operation's first k instructions by single steps, and is killed
 * there; then the survivors' promises are checked. Each k gets fresh shared memory. A system call counts as one instruction.
 *
 *     static const struct stepkill_case unlock = {
 *         .name = "unlock", .shared_bytes = sizeof(mh_mutex),
 *         .setup = init_mutex, .prepare = lock_it, .operation = unlock_it, .waiter = lock_and_unlock, .check = can_lock,
 *     };
 *     struct stepkill_report report;
 *     if (stepkill_run(&unlock, &report) == STEPKILL_REFUSED)
 *         MH_SKIP(report.why);
 *     assert_int_equal(report.broken, 0);
 */
#ifndef MH_STEPKILL_H
#define MH_STEPKILL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STEPKILL_WHY_BYTES = 256 };

struct stepkill_point {
    unsigned step; /* how many instructions of the operation ran */
    bool ended;    /* the operation was complete */
    bool blocked;  /* it slept in its last system call */
};

/* Every callback gets the shared memory. Those of child and waiter run in processes of their own: they may
 * call abort() when something that must work does not. */
struct stepkill_case {
    const char *name;
    size_t shared_bytes;               /* zeroed before setup; aligned to a page */
    void (*setup)(void *shared);       /* tester: initialise the objects */
    void (*prepare)(void *shared);     /* child, unobserved: what precedes the operation. May be NULL */
    void (*operation)(void *shared);   /* child, single-stepped and killed */
    bool may_block;                    /* operation may sleep: that is then its last point */
    void (*waiter)(void *shared);      /* another process, asleep inside this before operation starts. May be NULL */
    void (*rescue)(void *shared, const struct stepkill_point *at); /* tester, after the kill: whatever lets waiter end. May be NULL */
    /* tester, after the kill and after waiter has ended: NULL, or what is broken. The child is a zombie by now. */
    const char *(*check)(void *shared, const struct stepkill_point *at);
    unsigned sparse;    /* 0: kill at every instruction. n: after each that changed the shared memory or called the system, and
                           after every n-th; the others differ in nothing that outlives the child. MH_LONG=1 sets it to 0 */
    bool always_sparse; /* with MH_LONG=1 too. For thousands of instructions: the time grows with their square */
    size_t waiter_ms; /* within how long a waiter must end; 0: 5,000 */
};

struct stepkill_report {
    unsigned steps;        /* instructions of the whole operation */
    unsigned points;       /* kills */
    unsigned broken;       /* points at which check failed, or the waiter failed or hung */
    unsigned first_broken; /* its step */
    char why[STEPKILL_WHY_BYTES]; /* what was broken first; why it could not run */
};

enum stepkill_outcome {
    STEPKILL_DONE,
    STEPKILL_REFUSED, /* no permission to trace, or instrumented code: report->why says which */
    STEPKILL_FAILED   /* the harness or the operation itself failed: report->why */
};

enum stepkill_outcome stepkill_run(const struct stepkill_case *c, struct stepkill_report *report);

/* All cases whose names hold $MH_CASE, each reported in a line. Skips the running test where stepkill_run refuses, and fails it, after the last case,
 * when one is broken;
 * at once when one could not be run or nobody was killed in it. */
void stepkill_run_all(const struct stepkill_case *cases, size_t count);

#endif
