/* Simulate a Lennard-Jones melt on a pool of processes over one segment of shared memory, and print its energies.
 *
 *     melt [--cells N] [--steps N] [--thermo N] [--workers N] [--openmp] [--kill STEP] [--start FILE] [--quiet]
 *
 * With the defaults (20 cells along each edge, which are 32,000 atoms; 100 steps) this is the benchmark in.lj of LAMMPS. The last lines are
 * the time of the steps and a number computed from every bit of the final state, which is the same for any number of workers.
 *
 *     --workers N    0, the default: the cores; 1: no pool, one process
 *     --openmp       the same kernel with threads of OpenMP instead of a pool
 *     --kill STEP    a worker is killed in the middle of that step; the others go back to the last list making, and nothing changes
 *     --start FILE   write the velocities at the start, a line an atom
 */
#include "../team.h"
#include "lj.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *shared; /* mapped before the pool was made: the workers inherit it */

static void check(mh_err err, const char *what)
{
    if (!err)
        return;
    fprintf(stderr, "melt: %s: %s: %s\n", what, mh_err_text(err), mh_err_detail());
    exit(1);
}

/* ---- the progress bar ------------------------------------------------------------------------ */

static bool is_quiet;

static uint32_t steps;

static void show_progress(const void *memory)
{
    static uint32_t shown = UINT32_MAX;
    uint32_t step = lj_step(memory), width = 40, filled = steps ? step * width / (steps + 1) : width;
    if (is_quiet || !isatty(2) || step == shown)
        return;
    shown = step;
    fprintf(stderr, "\rmelt: |%.*s%*s| step %u of %u%s", (int)filled, "########################################", (int)(width - filled), "",
            step < steps ? step : steps, steps, step > steps ? "\n" : "");
}

/* ---- OpenMP ---------------------------------------------------------------------------------- */

#if defined _OPENMP
static mh_err meet_openmp(void *memory, mh_err (*action)(void *))
{
#pragma omp barrier
#pragma omp single
    (void)!action(memory);
    return MH_OK;
}

static void run_openmp(const lj_options *o)
{
    mh_err all = MH_OK;
    check(lj_begin(shared), "barrier");
#pragma omp parallel for num_threads((int)o->workers) schedule(static, 1) reduction(| : all)
    for (uint32_t rank = 0; rank < o->workers; rank++)
        all |= lj_work_with(shared, rank, meet_openmp);
    check(all, "simulation");
}
#else
static void run_openmp(const lj_options *o)
{
    (void)o;
    check(MH_ERR_UNSUPPORTED, "--openmp");
}
#endif

/* ---- results --------------------------------------------------------------------------------- */

static double *copy_state(void)
{
    size_t numbers = 3 * lj_atoms(shared);
    double *state = malloc(2 * numbers * sizeof *state);
    if (!state)
        check(MH_ERR_NO_MEMORY, "state");
    lj_copy(shared, state, state + numbers);
    return state;
}

/* FNV-1a over the bits of all positions and velocities. */
static uint64_t digest(void)
{
    double *state = copy_state();
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < 6 * lj_atoms(shared); i++) {
        uint64_t bits;
        memcpy(&bits, &state[i], sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
    }
    free(state);
    return hash;
}

static void write_start(const char *path)
{
    FILE *file = fopen(path, "w");
    double *state = copy_state();
    const double *v = state + 3 * lj_atoms(shared);
    for (size_t i = 0; file && i < lj_atoms(shared); i++, v += 3)
        fprintf(file, "%.17g %.17g %.17g\n", v[0], v[1], v[2]);
    if (!file || fclose(file)) {
        perror(path);
        exit(1);
    }
    free(state);
}

static void print_records(void)
{
    size_t count;
    const lj_record *records = lj_records(shared, &count);
    printf("    step  temperature  pair energy  total energy\n");
    for (size_t i = 0; i < count; i++)
        printf("%8" PRIu64 "  %11.7f  %11.7f  %12.7f\n", records[i].step, records[i].temperature, records[i].pair_energy, records[i].total_energy);
}

static uint32_t number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value > UINT32_MAX) {
        fprintf(stderr, "melt: \"%s\" is not a number\n", text);
        exit(2);
    }
    return (uint32_t)value;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {{"cells", 1, NULL, 'c'}, {"steps", 1, NULL, 's'}, {"thermo", 1, NULL, 't'}, {"workers", 1, NULL, 'w'},
                                          {"openmp", 0, NULL, 'o'}, {"kill", 1, NULL, 'k'}, {"start", 1, NULL, 'f'}, {"quiet", 0, NULL, 'q'}, {0}};
    lj_options o = {.cells = 20, .steps = 100, .thermo = 10};
    const char *start = NULL;
    bool openmp = false;
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'c': o.cells = number(optarg); break;
        case 's': o.steps = number(optarg); break;
        case 't': o.thermo = number(optarg); break;
        case 'w': o.workers = number(optarg); break;
        case 'k': o.kill_step = number(optarg); break;
        case 'f': start = optarg; break;
        case 'o': openmp = true; break;
        case 'q': is_quiet = true; break;
        default: return 2;
        }
    }
    if (o.workers == 0)
        o.workers = (uint32_t)mh_pool_default_workers();
    if (lj_check(&o))
        return 2;
    steps = o.steps;
    mh_shm *memory = NULL;
    check(mh_shm_create(&memory, lj_bytes(&o)), "memory");
    shared = mh_shm_data(memory);
    check(lj_init(shared, &o), "start");
    if (start)
        write_start(start);
    team t = {"melt", o.workers, shared, mh_shm_size(memory), lj_begin, lj_work, lj_abort, show_progress, lj_barrier(shared), 0, 0};
    if (openmp) {
        int64_t began = mh_now();
        run_openmp(&o);
        t.work_ns = mh_now() - began;
    } else {
        team_run(&t);
    }
    show_progress(shared);
    print_records();
    printf("%zu atoms, %u workers: %u steps in %.3f s, started in %.3f s\nstate %016" PRIx64 "\n", lj_atoms(shared), o.workers, o.steps,
           (double)t.work_ns / MH_SECOND, (double)t.start_ns / MH_SECOND, digest());
    mh_shm_destroy(&memory);
    return 0;
}
