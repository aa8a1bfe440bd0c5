/* The cores of this machine, as all pools of one tree of processes share them: a board of seats in memory that they all map.
 *
 * Each worker has a seat, which says what it does. Whoever is to wait for a core may run while fewer seats than there are cores
 * run; nobody counts up or down, so that a process killed at any instruction leaves nothing but a seat whose owner is dead, and that is
 * noticed. The budget is a courtesy and not a lock. It never holds anybody up for good:
 *
 * - a task that waits for a pool of its own is away meanwhile, and one worker of that pool may use its core whatever the others do;
 * - a core whose user is seen asleep counts as free after some milliseconds;
 * - who has waited for two seconds goes on, one process every two seconds, for tasks that burn time until another task has run.
 */
#ifndef MH_POOL_BUDGET_H
#define MH_POOL_BUDGET_H

#include "manyhands/base.h"
#include "os/identity.h"

#include <stdatomic.h>

enum { MH__SEATS = 1024 };

typedef enum mh__seat_state {
    MH__SEAT_IDLE,   /* has nothing to run, or is about to ask again */
    MH__SEAT_WAITS,  /* for a core */
    MH__SEAT_ASKS,   /* looks whether it may run */
    MH__SEAT_RUNS,
    MH__SEAT_SLEEPS, /* runs a task that was seen asleep: its core counts as free */
    MH__SEAT_AWAY    /* waits for its own pools */
} mh__seat_state;

typedef struct mh__seat {
    _Alignas(64) _Atomic uint64_t who; /* the process; 0: nobody */
    _Atomic uint32_t state;
    _Atomic uint32_t wake;  /* on which it waits */
    _Atomic uint32_t heir;  /* the seat that last used its core while it was AWAY, or 0 */
    _Atomic uint32_t owner; /* the seat whose pool it works for, or 0 */
    _Atomic int64_t seen_ns, ran_ns; /* when it was last looked at, and its processor time then */
} mh__seat;

typedef struct mh__budget {
    uint64_t magic;
    uint32_t version, cores;
    _Alignas(64) _Atomic uint32_t waiting; /* somebody may wait: a hint */
    _Atomic uint32_t next;                 /* where to look first for whom to wake */
    _Alignas(64) _Atomic uint32_t used;    /* seats beyond have never been taken */
    _Atomic int64_t inspect_ns, force_ns; /* not before */
    mh__seat seats[MH__SEATS];
} mh__budget;

/* Fill in zeroed memory. */
void mh__budget_init(mh__budget *b, uint32_t cores);
/* errors: CORRUPT. */
MH_NODISCARD mh_err mh__budget_check(const mh__budget *b, size_t size);

/* Seats are numbered from 1; 0 is none, and every function here takes it: who has no seat is not held up.
 * Take a seat for process `who`; 0 when all are taken. */
uint32_t mh__budget_sit(mh__budget *b, mh__identity who);
void mh__budget_leave(mh__budget *b, uint32_t seat);
/* Process `pid` has ended: free its seat. */
void mh__budget_forget(mh__budget *b, int32_t pid);

/* Run if there is a core for it: a free one, or that of `owner` (the seat that waits for this one's pool; 0: none). */
bool mh__budget_try(mh__budget *b, uint32_t seat, uint32_t owner);
/* Run without asking. */
void mh__budget_run(mh__budget *b, uint32_t seat);
bool mh__budget_runs(const mh__budget *b, uint32_t seat);
void mh__budget_idle(mh__budget *b, uint32_t seat);
void mh__budget_away(mh__budget *b, uint32_t seat);

/* Sleep until there may be a core for it, at most `slice_ns`; then see who is asleep or dead. Try again afterwards. */
void mh__budget_wait(mh__budget *b, uint32_t seat, uint32_t owner, int64_t slice_ns);
/* Whether somebody who has waited since `since_ns` may run all the same. */
bool mh__budget_force(mh__budget *b, int64_t since_ns);
bool mh__budget_is_wanted(const mh__budget *b);
/* Cores that nobody uses now. */
uint32_t mh__budget_free(const mh__budget *b);

#endif
