/* lj.h: molecular dynamics of a Lennard-Jones melt, by a team of workers over one piece of shared memory.
 *
 *     lj_options options = {.cells = 20, .steps = 100, .thermo = 10, .workers = 2};
 *     mh_shm *memory = NULL;
 *     mh_err err = lj_check(&options);
 *     if (!err) err = mh_shm_create(&memory, lj_bytes(&options));
 *     if (!err) err = lj_init(mh_shm_data(memory), &options);
 *     if (!err) err = lj_begin(mh_shm_data(memory));
 *     ...                                 each worker, 0 to workers - 1, at the same time: lj_work(memory, worker)
 *
 * The system is that of the benchmark in.lj of LAMMPS: cells^3 cells of an fcc lattice, 4 atoms each, density 0.8442,
 * temperature 1.44, cut-off 2.5, time step 0.005, neighbour lists with a skin of 0.3 that are made anew every 20 steps; in
 * reduced units.
 *
 * The result does not depend, to the last bit, on how many workers there are and which of them did what: each atom's force is summed
 * over the same list in the same order by whoever computes it, and energies are summed over pieces of fixed size.
 *
 * The team may lose members at any instruction. What a step reads is never what it writes, and the state at the last list making
 * stays untouched until the next: lj_begin goes back to it, and a new team goes on.
 */
#ifndef LJ_H
#define LJ_H

#include <manyhands.h>

#define LJ_EXPORT __attribute__((visibility("default")))

typedef struct lj_options {
    uint32_t cells;     /* of the lattice along each edge, 5 to 100 */
    uint32_t steps;     /* at most 1,000,000 */
    uint32_t thermo;    /* record energies every so many steps, from step 0; at least 1 */
    uint32_t workers;   /* 1 to 256 */
    uint32_t kill_step; /* for tests: a worker is killed in the middle of this step, once; 0: none is */
} lj_options;

typedef struct lj_record {
    uint64_t step;
    double temperature;
    double pair_energy;  /* for each atom, as the next */
    double total_energy;
} lj_record;

/* Whether the options are in their bounds. errors: INVALID; the reason is on the error stream. */
LJ_EXPORT mh_err lj_check(const lj_options *options);
/* How many bytes of memory, 64-byte aligned, the simulation needs. */
LJ_EXPORT size_t lj_bytes(const lj_options *options);
/* Place the atoms and give them the velocities that LAMMPS gives them. memory is zeroed. errors: INVALID. */
LJ_EXPORT mh_err lj_init(void *memory, const lj_options *options);

/* Before a team works: first, and after lj_work failed. Nobody works meanwhile. */
LJ_EXPORT mh_err lj_begin(void *memory);
/* Be member `rank` of the team until the last step.
 * errors   BROKEN   another member gave up or died: lj_begin, and work again
 *          LIMIT    more neighbours than there is room for: the system is too dense
 *          INVALID  rank; or atoms moved so far in one step that the simulation makes no sense
 *          TIMEOUT  another member did not come for two minutes
 */
LJ_EXPORT mh_err lj_work(void *memory, uint32_t rank);
/* Make the others give up: whoever sees a member die calls it, for those that wait for it cannot know. */
LJ_EXPORT void lj_abort(void *memory);
/* Where the team meets. */
LJ_EXPORT mh_barrier *lj_barrier(void *memory);

/* The same with another way to meet: the last of the team to come calls action(memory) before anyone goes on. */
typedef mh_err (*lj_meet_fn)(void *memory, mh_err (*action)(void *memory));
LJ_EXPORT mh_err lj_work_with(void *memory, uint32_t rank, lj_meet_fn meet);

/* ---- on engines, each with memory of its own ------------------------------------------------- *
 *
 * The client's memory (made with workers = 1) has all atoms. It sorts them, cuts them into `count` parts, and gives each engine a parcel: its part and what is near.
 * Engines go on for up to 20 steps, until lists must be made anew, and in every step tell their neighbours where the atoms near the borders are. Then the client
 * gathers all. When an engine dies nothing is gathered, and the client cuts and gives the same atoms to those that are left.
 *
 *     bool goes_on = true;
 *     while (goes_on) {
 *         err = lj_leg_begin(memory);
 *         for each rank: lj_part_pack(memory, rank, count, parcel), lj_part_bytes(memory, rank, count) bytes
 *         engines:       lj_part_work(own_memory, parcel, mesh, reply)
 *         for each rank: lj_part_unpack(memory, rank, count, reply), when all are there
 *         goes_on = lj_leg_end(memory);
 *     }
 *
 * Bits are those of lj_work: atoms, lists and pieces are the same, only elsewhere.
 */
struct mesh; /* ../mesh/mesh.h */

/* errors: INVALID workers is not 1, or atoms are nowhere. */
LJ_EXPORT mh_err lj_leg_begin(void *memory);
/* 1 <= count <= 256, rank < count, between lj_leg_begin and lj_leg_end. */
LJ_EXPORT size_t lj_part_bytes(void *memory, uint32_t rank, uint32_t count);
LJ_EXPORT void lj_part_pack(void *memory, uint32_t rank, uint32_t count, void *out);
/* errors: CORRUPT it is no reply to this part. */
LJ_EXPORT mh_err lj_part_unpack(void *memory, uint32_t rank, uint32_t count, mh_bytes reply);
/* Whether there is another leg. */
LJ_EXPORT bool lj_leg_end(void *memory);

/* In an engine: which options the memory must have been made for (lj_bytes of them, zeroed once; the next parcels may use it again). errors: CORRUPT. */
LJ_EXPORT mh_err lj_part_options(mh_bytes parcel, lj_options *out);
/* 0: the parcel is none. */
LJ_EXPORT size_t lj_part_reply_bytes(mh_bytes parcel);
/* Be one of the team until the end of the leg. reply: lj_part_reply_bytes(parcel) bytes.
 * errors: CORRUPT the parcel; INVALID it is for another rank; LIMIT as lj_work; those of mesh_exchange: BROKEN an engine is gone. */
LJ_EXPORT mh_err lj_part_work(void *memory, mh_bytes parcel, struct mesh *m, void *reply);

/* How far the team is; how many atoms there are; the edge of the box. */
LJ_EXPORT uint32_t lj_step(const void *memory);
LJ_EXPORT size_t lj_atoms(const void *memory);
LJ_EXPORT double lj_edge(const void *memory);
/* What was recorded so far: *count of them. Borrowed from memory. */
LJ_EXPORT const lj_record *lj_records(const void *memory, size_t *count);
/* Positions and velocities after the last step, in the order in which the atoms were placed: each n * 3 numbers; either may be NULL. */
LJ_EXPORT void lj_copy(const void *memory, double *positions, double *velocities);

#endif
