/* Clusters under simulated time: workers that join, crash, hang, answer late or twice, hosts that are lost, and clients that submit and cancel,
 * all drawn from a seed, so that a history can be run again and read. */
#ifndef MH_SIM_SIM_H
#define MH_SIM_SIM_H

#include "checker.h"

#include <stdio.h>

typedef struct sim_report {
    uint64_t seed;
    char fault[256]; /* "" when the history was right */
    mh_sched_stats stats;
    uint32_t deaths, kills, hosts, steps;
} sim_report;

/* Run the history of `seed`; its trace goes to `trace` (may be NULL). With `validate`, the scheduler's state is checked
 * after each step. True when no rule was broken. */
bool sim_run(uint64_t seed, FILE *trace, bool validate, sim_report *report);

/* Run one short history that is written down, not drawn: a worker dies, another is cut off and answers late. */
bool sim_story(FILE *trace, sim_report *report);

#endif
