/* Where a worker's time goes: it counts in its region, and the parent reads. Falling asleep and waking up are counted exactly; of short tasks
 * one in MH__TIMES_EACH is measured and stands for those before it. */
#ifndef MH_POOL_TIMES_H
#define MH_POOL_TIMES_H

#include "manyhands/pool.h"

#include <stdatomic.h>

enum { MH__TIMES_EACH = 16, MH__TRACE_LABEL = 32 };

typedef enum mh__rest { MH__REST_NONE, MH__REST_IDLE, MH__REST_CORE } mh__rest;

/* A task that has been run. */
typedef struct mh__event {
    uint64_t task_id;
    int64_t begin_ns, run_ns, ran_ns, end_ns; /* it ran from run_ns to ran_ns; before and after it was read and written */
    uint64_t bytes_in, bytes_out;
    uint32_t attempt;
    int32_t err;
    int32_t pid; /* set by the parent */
    char label[MH__TRACE_LABEL];
} mh__event;

/* Written by the worker. */
typedef struct mh__times {
    _Alignas(128) _Atomic int64_t began_ns;
    _Atomic int64_t idle_ns, core_ns; /* that it slept for want of tasks, and waited for a core */
    _Atomic int64_t rest_ns;          /* since when it does one of the two */
    _Atomic uint32_t rest;
    _Atomic uint32_t runs;            /* a task is under way */
    _Atomic uint32_t part;            /* of the measured task under way: see mh_task_part */
    _Atomic int64_t part_ns;          /* since when; 0: none is under way */
    _Atomic int64_t run_ns, code_ns;  /* of the tasks until known_ns, in which time no rest lies */
    _Atomic int64_t known_ns;
    _Atomic uint64_t known_tasks;     /* how many had ended then */
    _Atomic uint64_t tasks, bytes_in, bytes_out;
    _Atomic uint64_t events; /* that were ever written: the next lies at this number, modulo the size of the trace */
} mh__times;

struct mh__worker;

void mh__times_begin(struct mh__worker *w);
void mh__times_rest(struct mh__worker *w, mh__rest why);
void mh__times_resume(struct mh__worker *w);
/* Around a task that is to be measured: when it is, mh_task.mark_ns is set. */
void mh__times_task(struct mh__worker *w, mh_task *task);
void mh__times_task_end(struct mh__worker *w, mh_task *task, mh_err err);

/* The parent's side: what a worker's counters say at `now`, copied and made to add up. */
void mh__times_read(const mh__times *t, int64_t now, mh_worker_stats *out);

#endif
