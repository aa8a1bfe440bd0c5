/* What a task costs the scheduler, from submission to DONE, by the number of workers, beside a peer that does the least
 * that a hand-written dispatcher could: a ring of tasks and a round of workers, with neither retries nor fences. */
#include "base/number.h"
#include "manyhands/sched.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64, TASKS = 200000, ROUNDS = 15 };

typedef struct answer {
    mh_sched_worker worker;
    mh_sched_task task;
    uint32_t epoch;
} answer;

static void must(mh_err err)
{
    if (err) {
        fprintf(stderr, "%s: %s\n", mh_err_name(err), mh_err_detail());
        exit(1);
    }
}

/* Each round submits a batch and answers what was assigned in the round before, as a pool's parent does. */
static double run_sched(mh_sched *s, size_t in_flight)
{
    static mh_sched_action todo[BATCH];
    static answer answers[1 << 20];
    uint64_t head = 0, tail = 0, done = 0, submitted = 0;
    mh_sched_submit_options options = {.lost_retries = 2};
    int64_t start = mh_now();
    while (done < TASKS) {
        mh_sched_tick(s, mh_now());
        for (int i = 0; i < BATCH && submitted < TASKS && submitted - done < in_flight; i++, submitted++) {
            mh_sched_task t;
            options.tag = submitted;
            must(mh_sched_submit(s, &options, &t));
        }
        for (int i = 0; i < BATCH && tail != head; i++, tail++) {
            const answer *a = &answers[tail % MH__COUNT_OF(answers)];
            must(mh_sched_result(s, a->worker, a->task, a->epoch, MH_SCHED_OK, 500));
        }
        for (size_t n; (n = mh_sched_actions(s, todo, BATCH)) > 0;) {
            for (size_t i = 0; i < n; i++) {
                if (todo[i].kind == MH_SCHED_DONE)
                    done++;
                else if (todo[i].kind == MH_SCHED_ASSIGN)
                    answers[head++ % MH__COUNT_OF(answers)] = (answer){todo[i].worker, todo[i].task, todo[i].epoch};
            }
        }
    }
    return (double)(mh_now() - start) / TASKS;
}

/* The peer: first in, first out, workers in turn. */
static double run_ring(size_t workers, size_t in_flight)
{
    typedef struct entry {
        uint64_t tag, worker;
    } entry;
    static entry ring[1 << 20];
    uint64_t sum = 0;
    uint64_t submitted = 0, done = 0, next = 0;
    int64_t start = mh_now();
    while (done < TASKS) {
        for (int i = 0; i < BATCH && submitted < TASKS && submitted - done < in_flight; i++, submitted++)
            ring[submitted % MH__COUNT_OF(ring)] = (entry){submitted, next++ % workers};
        for (int i = 0; i < BATCH && done < submitted; i++, done++)
            sum += ring[done % MH__COUNT_OF(ring)].tag;
    }
    if (sum == 0)
        abort(); /* and so it had to be computed */
    return (double)(mh_now() - start) / TASKS;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench(const char *name, mh_sched_policy policy, size_t workers, uint32_t capacity)
{
    double ours[ROUNDS], ring[ROUNDS];
    mh_sched *s;
    must(mh_sched_create(&s, &(mh_sched_options){.policy = policy, .queue_ns = policy ? 0 : MH_MILLISECOND, .steal = !policy}));
    for (size_t i = 0; i < workers; i++) {
        mh_sched_worker w;
        must(mh_sched_worker_join(s, &(mh_sched_worker_options){.capacity = capacity}, &w));
    }
    size_t in_flight = MH__MAX(workers * 2, (size_t)1024);
    run_sched(s, in_flight);
    for (int i = 0; i < ROUNDS; i++) {
        ours[i] = run_sched(s, in_flight);
        ring[i] = run_ring(workers, in_flight);
    }
    mh_sched_destroy(&s);
    qsort(ours, ROUNDS, sizeof *ours, by_value);
    qsort(ring, ROUNDS, sizeof *ring, by_value);
    printf("%-12s %6zu workers  %6.1f ns/task  worst round %6.1f  ring %5.1f ns  ratio %5.1f\n", name, workers,
           ours[ROUNDS / 2], ours[ROUNDS - 1], ring[ROUNDS / 2], ours[ROUNDS / 2] / ring[ROUNDS / 2]);
}

int main(void)
{
    static const struct {
        const char *name;
        mh_sched_policy policy;
        uint32_t capacity;
    } policies[] = {
        {"leastload", MH_SCHED_LEASTLOAD, 256}, {"lru", MH_SCHED_LRU, 256},           {"twobin", MH_SCHED_TWOBIN, 256},
        {"weighted", MH_SCHED_WEIGHTED, 256},   {"plainrandom", MH_SCHED_PLAINRANDOM, 256}, {"pure", MH_SCHED_PURE, 256},
    };
    static const size_t counts[] = {2, 64, 1000, 10000};
    for (size_t p = 0; p < MH__COUNT_OF(policies); p++)
        for (size_t c = 0; c < MH__COUNT_OF(counts); c++)
            bench(policies[p].name, policies[p].policy, counts[c], policies[p].capacity);
    return 0;
}
