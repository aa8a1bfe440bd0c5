#include "pool/times.h"

#include "base/number.h"
#include "pool/worker.h"

#include <string.h>

#define SHORT_NS (20 * MH_MICROSECOND) /* shorter tasks are not all measured */
#define ODD_NS (1 * MH_MILLISECOND)    /* so much more than expected was no short task */

#define GET(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define SET(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)
#define ADD(field, value) SET(field, GET(field) + (value))

/* ---- in the worker ----------------------------------------------------------------------------- */

void mh__times_begin(mh__worker *w)
{
    mh__times *t = &w->region->times;
    int64_t now = mh_now();
    SET(t->known_ns, now);
    SET(t->began_ns, now);
}

void mh__times_rest(mh__worker *w, mh__rest why)
{
    mh__times *t = &w->region->times;
    int64_t now = mh_now(), before = now - GET(t->known_ns);
    if (w->unmeasured && before > ODD_NS) { /* a long one among those that were not measured */
        ADD(t->run_ns, before);
        SET(t->known_ns, now);
        SET(t->known_tasks, GET(t->tasks));
        w->unmeasured = 0;
    }
    SET(t->rest_ns, now);
    atomic_store_explicit(&t->rest, why, memory_order_release);
}

void mh__times_resume(mh__worker *w)
{
    mh__times *t = &w->region->times;
    int64_t rested = mh_now() - GET(t->rest_ns);
    if (GET(t->rest) == MH__REST_CORE)
        ADD(t->core_ns, rested);
    else
        ADD(t->idle_ns, rested);
    ADD(t->known_ns, rested);
    atomic_store_explicit(&t->rest, MH__REST_NONE, memory_order_release);
}

void mh__times_task(mh__worker *w, mh_task *task)
{
    SET(w->region->times.runs, 1);
    w->unmeasured++;
    if (w->unmeasured < w->measure_each && !w->trace_count)
        return;
    mh__times *t = &w->region->times;
    task->began_ns = task->mark_ns = mh_now();
    SET(t->part, MH_TASK_RUNS);
    SET(t->part_ns, task->mark_ns);
}

void mh_task_part(mh_task *task, mh_task_part_kind part)
{
    if (!task->mark_ns)
        return;
    mh__times *t = &task->worker->region->times;
    int64_t now = mh_now();
    *(task->part == MH_TASK_RUNS ? &task->run_ns : &task->code_ns) += now - task->mark_ns;
    if (part == MH_TASK_RUNS && !task->first_run_ns)
        task->first_run_ns = now;
    if (part != MH_TASK_RUNS && task->part == MH_TASK_RUNS && task->first_run_ns)
        task->last_run_ns = now;
    task->mark_ns = now;
    task->part = part;
    SET(t->part, part);
    SET(t->part_ns, now);
}

static void write_event(mh__worker *w, const mh_task *task, int64_t now, mh_err err)
{
    mh__times *t = &w->region->times;
    uint64_t number = GET(t->events);
    mh__event *e = &mh__region_trace(w->region, w->mask + 1)[number % w->trace_count];
    *e = (mh__event){.task_id = task->id,
                     .begin_ns = task->began_ns,
                     .run_ns = task->first_run_ns ? task->first_run_ns : task->began_ns,
                     .ran_ns = task->last_run_ns ? task->last_run_ns : now,
                     .end_ns = now,
                     .bytes_in = task->input.size,
                     .bytes_out = task->size,
                     .attempt = task->attempt,
                     .err = (int32_t)err};
    memcpy(e->label, task->label, sizeof e->label);
    atomic_store_explicit(&t->events, number + 1, memory_order_release);
}

void mh__times_task_end(mh__worker *w, mh_task *task, mh_err err)
{
    mh__times *t = &w->region->times;
    SET(t->runs, 0);
    ADD(t->tasks, 1);
    ADD(t->bytes_in, task->input.size);
    ADD(t->bytes_out, task->size);
    if (!task->mark_ns)
        return;
    mh_task_part(task, MH_TASK_SERIALISES); /* only to close the last part */
    int64_t now = task->mark_ns, before = task->began_ns - GET(t->known_ns), whole = now - task->began_ns;
    uint32_t others = w->unmeasured - 1;
    if (others && before > 4 * whole * others + ODD_NS) { /* one of those that were not measured was a long one */
        ADD(t->run_ns, before);
        others = 0;
    }
    ADD(t->run_ns, task->run_ns * (others + 1));
    ADD(t->code_ns, task->code_ns * (others + 1));
    SET(t->part_ns, 0);
    SET(t->known_ns, now);
    SET(t->known_tasks, GET(t->tasks));
    w->unmeasured = 0;
    w->measure_each = whole < SHORT_NS ? MH__TIMES_EACH : 1;
    if (w->trace_count)
        write_event(w, task, now, err);
}

bool mh_task_is_traced(const mh_task *task) { return task->worker->trace_count != 0; }
void mh_task_label(mh_task *task, const char *label) { strncpy(task->label, label, sizeof task->label - 1); }

/* ---- in the parent ----------------------------------------------------------------------------- */

/* What another process wrote must not overflow. */
static int64_t minus(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }

static int64_t between(int64_t least, int64_t value, int64_t most) { return value < least ? least : MH__MIN(value, most); }

void mh__times_read(const mh__times *t, int64_t now, mh_worker_stats *out)
{
    int64_t began = GET(t->began_ns);
    int64_t lived = began > 0 ? between(0, minus(now, began), INT64_MAX / 4) : 0;
    uint32_t rest = atomic_load_explicit(&t->rest, memory_order_acquire);
    int64_t resting = rest ? between(0, minus(now, GET(t->rest_ns)), lived) : 0;
    int64_t idle = between(0, GET(t->idle_ns), lived), core = between(0, GET(t->core_ns), lived);
    *(rest == MH__REST_CORE ? &core : &idle) += resting;
    core = between(0, core, lived);
    idle = between(0, idle, lived - core);
    int64_t worked = lived - core - idle, part = GET(t->part_ns);
    int64_t run = between(0, GET(t->run_ns), worked), code = between(0, GET(t->code_ns), worked);
    if (part > 0 && part <= now)
        *(GET(t->part) == MH_TASK_RUNS ? &run : &code) += now - part;
    else if (!rest && (GET(t->runs) || GET(t->tasks) != GET(t->known_tasks)) && minus(now, GET(t->known_ns)) > ODD_NS)
        run += between(0, minus(now, GET(t->known_ns)), worked);
    run = between(0, run, worked);
    code = between(0, code, worked - run);
    out->tasks = GET(t->tasks);
    out->bytes_in = GET(t->bytes_in);
    out->bytes_out = GET(t->bytes_out);
    out->lived_ns = lived;
    out->busy_ns = run;
    out->idle_ns = idle;
    out->core_ns = core;
    out->serialising_ns = code;
    out->transport_ns = worked - run - code;
}
