/* Where everything lies: `header`, then arrays at offsets that only depend on the options. Positions exist three times (the
 * state to which a team can go back, this step's, the next one's), velocities twice.
 *
 * A step: whoever is free takes the next piece of 64 atoms, computes their forces from this step's positions, changes their
 * velocities, and writes their next positions; then all meet. Every EVERY steps atoms are sorted by the bin they lie in, so that
 * neighbours are near in memory, and the lists are made anew by whoever takes a piece first.
 */
#include "lj.h"

#include "../mesh/mesh.h"
#include "../team.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#if defined __x86_64__
#include <immintrin.h>
#endif

#define DENSITY 0.8442
#define TEMPERATURE 1.44
#define SEED 87287
#define CUT 2.5
#define SKIN 0.3
#define TIME_STEP 0.005

enum {
    EVERY = 20,    /* steps between two list makings */
    PIECE = 64,    /* atoms that a worker takes at once */
    ROOM = 160,    /* neighbours of one atom; 78 are usual */
    FAR = 1 << 30, /* in a list's length: the atom has neighbours across the box's edge */
    FILLERS = 4,   /* what stands behind the atoms, with no number as position */
    SPANS = 512,   /* of atoms that a part of them has near: two for each layer of bins */
    LINE = 64
};

typedef struct atom {
    double x, y, z, number; /* of the velocity, number is 0 */
} atom;

typedef struct sums {
    double pair, kinetic;
} sums;

/* The steps from one list making to the next, and where their atoms lie. */
typedef struct leg {
    uint32_t step, end; /* end is not done any more */
    uint32_t x, x_next, v;
} leg;

typedef struct header {
    lj_options options;
    uint64_t atoms, bins, pieces;
    uint32_t bins_edge;
    double edge;
    _Alignas(LINE) uint64_t mark; /* what lj_begin goes back to: one word, so that it is always whole. See make_mark */
    uint32_t step, killed, records;
    uint32_t x_last, v_last; /* where the last step has left the atoms */
    struct leg leg;          /* of engines: the one that was begun */
    _Alignas(LINE) uint64_t next_piece;
    _Alignas(LINE) mh_barrier barrier;
} header;

/* One process's view. */
typedef struct world {
    header *h;
    atom *x[3], *v[2];
    lj_record *records;
    sums *sums;             /* of each piece */
    sums *leg_sums;         /* [record of a leg][piece]: what engines have told */
    uint32_t *bin;          /* of each atom */
    uint32_t *start;        /* first atom of each bin, and one behind the last */
    uint32_t *place;        /* [worker][bin]: how many atoms, then where the next one goes */
    uint32_t *count, *list; /* of neighbours; ROOM for each atom */
} world;

static uint64_t make_mark(uint32_t step, uint32_t x, uint32_t v) { return (uint64_t)step << 8 | x << 4 | v; }

/* ---- layout ---------------------------------------------------------------------------------- */

static double edge_of(const lj_options *o) { return o->cells * cbrt(4 / DENSITY); }
static size_t atoms_of(const lj_options *o) { return (size_t)4 * o->cells * o->cells * o->cells; }
static uint32_t bins_edge_of(const lj_options *o) { return (uint32_t)(edge_of(o) / ((CUT + SKIN) / 2)); }

static size_t take(size_t *at, size_t size)
{
    size_t here = *at;
    *at += (size + LINE - 1) / LINE * LINE;
    return here;
}

static size_t lay_out(world *w, char *memory, const lj_options *o)
{
    size_t atoms = atoms_of(o), edge = bins_edge_of(o), bins = edge * edge * edge, at = 0;
    w->h = (void *)(memory + take(&at, sizeof(header)));
    for (int i = 0; i < 3; i++)
        w->x[i] = (void *)(memory + take(&at, (atoms + FILLERS) * sizeof(atom)));
    for (int i = 0; i < 2; i++)
        w->v[i] = (void *)(memory + take(&at, atoms * sizeof(atom)));
    w->records = (void *)(memory + take(&at, (o->steps / o->thermo + 1) * sizeof(lj_record)));
    w->sums = (void *)(memory + take(&at, (atoms / PIECE + 1) * sizeof(sums)));
    w->leg_sums = (void *)(memory + take(&at, EVERY * (atoms / PIECE + 1) * sizeof(sums)));
    w->bin = (void *)(memory + take(&at, atoms * sizeof(uint32_t)));
    w->start = (void *)(memory + take(&at, (bins + 1) * sizeof(uint32_t)));
    w->place = (void *)(memory + take(&at, o->workers * bins * sizeof(uint32_t)));
    w->count = (void *)(memory + take(&at, atoms * sizeof(uint32_t)));
    w->list = (void *)(memory + take(&at, atoms * ROOM * sizeof(uint32_t)));
    return at;
}

mh_err lj_check(const lj_options *o)
{
    const char *wrong = o->cells < 5 || o->cells > 100          ? "cells: 5 to 100"
                        : o->steps > 1000000                    ? "steps: at most 1,000,000"
                        : o->thermo < 1                         ? "thermo: at least 1"
                        : o->workers < 1 || o->workers > 256    ? "workers: 1 to 256"
                                                                : NULL;
    if (wrong)
        fprintf(stderr, "lj: %s\n", wrong);
    return wrong ? MH_ERR_INVALID : MH_OK;
}

size_t lj_bytes(const lj_options *o)
{
    world w;
    return lay_out(&w, NULL, o);
}

static world view(void *memory)
{
    world w;
    lay_out(&w, memory, &((header *)memory)->options);
    return w;
}

/* ---- the start, as LAMMPS makes it ----------------------------------------------------------- */

/* `velocity all create T seed loop geom`: three numbers by the generator of Park and Miller, whose seed is Jenkins's one-at-a-time hash of the
 * command's seed and the atom's position, so that they do not depend on the order of atoms. */
static uint32_t hash_more(uint32_t hash, const void *bytes, size_t size)
{
    const signed char *b = bytes;
    for (size_t i = 0; i < size; i++) {
        hash += (uint32_t)b[i];
        hash += hash << 10;
        hash ^= hash >> 6;
    }
    return hash;
}

static double uniform(uint32_t *seed)
{
    *seed = (uint32_t)((uint64_t)*seed * 16807 % 2147483647);
    return *seed * (1.0 / 2147483647);
}

static atom draw_velocity(const atom *at)
{
    int32_t command = SEED;
    double position[3] = {at->x, at->y, at->z};
    uint32_t hash = hash_more(hash_more(0, &command, sizeof command), position, sizeof position);
    hash += hash << 3;
    hash ^= hash >> 11;
    hash += hash << 15;
    uint32_t seed = hash & 0x7ffffff;
    seed += seed == 0;
    for (int i = 0; i < 5; i++)
        uniform(&seed);
    atom v = {.number = 0};
    v.x = uniform(&seed) - 0.5;
    v.y = uniform(&seed) - 0.5;
    v.z = uniform(&seed) - 0.5;
    return v;
}

static void place_atoms(const world *w, uint32_t cells)
{
    static const double corners[4][3] = {{0, 0, 0}, {0.5, 0.5, 0}, {0.5, 0, 0.5}, {0, 0.5, 0.5}};
    double unit = cbrt(4 / DENSITY);
    atom *to = w->x[0];
    for (uint32_t z = 0; z < cells; z++)
        for (uint32_t y = 0; y < cells; y++)
            for (uint32_t x = 0; x < cells; x++)
                for (int c = 0; c < 4; c++, to++)
                    *to = (atom){(x + corners[c][0]) * unit, (y + corners[c][1]) * unit, (z + corners[c][2]) * unit,
                                 (double)(to - w->x[0])};
}

static double kinetic_of(const atom *v) { return v->x * v->x + v->y * v->y + v->z * v->z; }

/* Velocities without a drift of the whole, and of the wanted temperature. */
static void give_velocities(const world *w, size_t atoms)
{
    atom *v = w->v[0], mean = {.number = 0};
    for (size_t i = 0; i < atoms; i++) {
        v[i] = draw_velocity(&w->x[0][i]);
        mean.x += v[i].x / (double)atoms;
        mean.y += v[i].y / (double)atoms;
        mean.z += v[i].z / (double)atoms;
    }
    double twice = 0;
    for (size_t i = 0; i < atoms; i++) {
        v[i].x -= mean.x;
        v[i].y -= mean.y;
        v[i].z -= mean.z;
        twice += kinetic_of(&v[i]);
    }
    double factor = sqrt(TEMPERATURE * (3 * (double)atoms - 3) / twice);
    for (size_t i = 0; i < atoms; i++) {
        v[i].x *= factor;
        v[i].y *= factor;
        v[i].z *= factor;
    }
}

/* A memory that has no atoms yet. */
static void init_empty(world *w, void *memory, const lj_options *o)
{
    lay_out(w, memory, o);
    header *h = w->h;
    h->options = *o;
    h->atoms = atoms_of(o);
    h->edge = edge_of(o);
    h->bins_edge = bins_edge_of(o);
    h->bins = (uint64_t)h->bins_edge * h->bins_edge * h->bins_edge;
    h->pieces = (h->atoms + PIECE - 1) / PIECE;
    for (int i = 0; i < 3 * FILLERS; i++) /* what fills up a list: no distance to it is below the cut-off */
        w->x[i / FILLERS][h->atoms + (uint64_t)i % FILLERS] = (atom){NAN, NAN, NAN, NAN};
}

mh_err lj_init(void *memory, const lj_options *o)
{
    mh_err err = lj_check(o);
    if (err)
        return err;
    world w;
    init_empty(&w, memory, o);
    place_atoms(&w, o->cells);
    give_velocities(&w, w.h->atoms);
    w.h->mark = make_mark(0, 0, 0);
    return MH_OK;
}

/* ---- meeting --------------------------------------------------------------------------------- */

static mh_err no_action(void *memory)
{
    (void)memory;
    return MH_OK;
}

static mh_err meet_alone(void *memory, mh_err (*action)(void *)) { return action(memory); }

static mh_err meet_at_barrier(void *memory, mh_err (*action)(void *)) { return team_meet(&((header *)memory)->barrier, memory, action); }

/* ---- sorting --------------------------------------------------------------------------------- */

static size_t share_begin(const header *h, uint32_t rank) { return h->atoms * rank / h->options.workers; }

static double wrapped(double x, double edge) { return x < 0 ? x + edge : x >= edge ? x - edge : x; }

static uint32_t bin_along(const header *h, double x)
{
    uint32_t bin = (uint32_t)(x / h->edge * h->bins_edge);
    return bin < h->bins_edge ? bin : h->bins_edge - 1;
}

/* Count this worker's atoms in each bin. errors: INVALID an atom is further away than one box, or nowhere. */
static mh_err count_bins(const world *w, uint32_t rank, uint32_t x_now)
{
    const header *h = w->h;
    uint32_t *place = w->place + rank * h->bins;
    memset(place, 0, h->bins * sizeof *place);
    for (size_t i = share_begin(h, rank); i < share_begin(h, rank + 1); i++) {
        atom *a = &w->x[x_now][i];
        a->x = wrapped(a->x, h->edge);
        a->y = wrapped(a->y, h->edge);
        a->z = wrapped(a->z, h->edge);
        if (!(a->x >= 0 && a->x <= h->edge && a->y >= 0 && a->y <= h->edge && a->z >= 0 && a->z <= h->edge))
            return MH_ERR_INVALID;
        w->bin[i] = (bin_along(h, a->z) * h->bins_edge + bin_along(h, a->y)) * h->bins_edge + bin_along(h, a->x);
        place[w->bin[i]]++;
    }
    return MH_OK;
}

/* Counts become places, in the order of bins, then of workers: the sort is stable, whatever the number of workers. */
static mh_err assign_places(void *memory)
{
    world w = view(memory);
    uint32_t sum = 0;
    for (size_t b = 0; b < w.h->bins; b++) {
        w.start[b] = sum;
        for (size_t k = 0; k < w.h->options.workers; k++) {
            uint32_t *place = &w.place[k * w.h->bins + b], count = *place;
            *place = sum;
            sum += count;
        }
    }
    w.start[w.h->bins] = sum;
    return MH_OK;
}

static void move_atoms(const world *w, uint32_t rank, const atom *x, const atom *v, atom *x_to, atom *v_to)
{
    uint32_t *place = w->place + rank * w->h->bins;
    for (size_t i = share_begin(w->h, rank); i < share_begin(w->h, rank + 1); i++) {
        uint32_t to = place[w->bin[i]]++;
        x_to[to] = x[i];
        v_to[to] = v[i];
    }
}

/* ---- lists ----------------------------------------------------------------------------------- */

/* The nearest image of a distance; at most one edge away. */
static double nearest(double d, double edge) { return d - edge * rint(d / edge); }

static uint32_t append_plain(const atom *x, uint32_t self, uint32_t from, uint32_t to, bool is_far, double edge, uint32_t *list, uint32_t count)
{
    for (uint32_t j = from; j < to; j++) {
        double dx = x[self].x - x[j].x, dy = x[self].y - x[j].y, dz = x[self].z - x[j].z;
        if (is_far)
            dx = nearest(dx, edge), dy = nearest(dy, edge), dz = nearest(dz, edge);
        list[count] = j;
        count += dx * dx + dy * dy + dz * dz < (CUT + SKIN) * (CUT + SKIN) && j != self;
    }
    return count;
}

#if defined __x86_64__
#define WITH_AVX2 __attribute__((target("avx2,fma")))

typedef struct quad {
    __m256d x, y, z;
} quad; /* a coordinate of four atoms each */

WITH_AVX2 static inline quad load_four(const atom *a, const atom *b, const atom *c, const atom *d)
{
    __m256d xy0 = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_load_pd(&a->x)), _mm_load_pd(&c->x), 1);
    __m256d xy1 = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_load_pd(&b->x)), _mm_load_pd(&d->x), 1);
    __m256d z0 = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_load_pd(&a->z)), _mm_load_pd(&c->z), 1);
    __m256d z1 = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_load_pd(&b->z)), _mm_load_pd(&d->z), 1);
    return (quad){_mm256_unpacklo_pd(xy0, xy1), _mm256_unpackhi_pd(xy0, xy1), _mm256_unpacklo_pd(z0, z1)};
}

WITH_AVX2 static inline __m256d nearest_four(__m256d d, __m256d edge, __m256d per_edge)
{
    __m256d turns = _mm256_round_pd(_mm256_mul_pd(d, per_edge), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_fnmadd_pd(turns, edge, d);
}

/* For each mask of four the bytes that bring the chosen ones to the front. */
static const uint8_t to_front[16][4] = {{0, 1, 2, 3}, {0, 1, 2, 3}, {1, 0, 2, 3}, {0, 1, 2, 3}, {2, 0, 1, 3}, {0, 2, 1, 3}, {1, 2, 0, 3},
                                        {0, 1, 2, 3}, {3, 0, 1, 2}, {0, 3, 1, 2}, {1, 3, 0, 2}, {0, 1, 3, 2}, {2, 3, 0, 1}, {0, 2, 3, 1},
                                        {1, 2, 3, 0}, {0, 1, 2, 3}};

WITH_AVX2 static uint32_t append_avx2(const atom *x, uint32_t self, uint32_t from, uint32_t to, bool is_far, double edge, uint32_t *list,
                                      uint32_t count)
{
    __m256d box = _mm256_set1_pd(edge), per_box = _mm256_set1_pd(1 / edge), reach = _mm256_set1_pd((CUT + SKIN) * (CUT + SKIN));
    __m256d sx = _mm256_set1_pd(x[self].x), sy = _mm256_set1_pd(x[self].y), sz = _mm256_set1_pd(x[self].z);
    for (uint32_t j = from; j < to; j += 4) {
        quad q = load_four(&x[j], &x[j + 1], &x[j + 2], &x[j + 3]); /* behind the last atom lie FILLERS more */
        __m256d dx = _mm256_sub_pd(sx, q.x), dy = _mm256_sub_pd(sy, q.y), dz = _mm256_sub_pd(sz, q.z);
        if (is_far)
            dx = nearest_four(dx, box, per_box), dy = nearest_four(dy, box, per_box), dz = nearest_four(dz, box, per_box);
        __m256d square = _mm256_fmadd_pd(dx, dx, _mm256_fmadd_pd(dy, dy, _mm256_mul_pd(dz, dz)));
        unsigned mask = (unsigned)_mm256_movemask_pd(_mm256_cmp_pd(square, reach, _CMP_LT_OQ));
        if (to - j < 4)
            mask &= (1u << (to - j)) - 1;
        if (self - j < 4)
            mask &= ~(1u << (self - j));
        for (int k = 0; k < 4; k++)
            list[count + (uint32_t)k] = j + to_front[mask][k];
        count += (uint32_t)__builtin_popcount(mask);
    }
    return count;
}
#endif

typedef uint32_t (*append_fn)(const atom *x, uint32_t self, uint32_t from, uint32_t to, bool is_far, double edge, uint32_t *list, uint32_t count);

/* Bins [first, last] of one row, some of which may lie across the edge. errors: LIMIT. */
static mh_err append_row(const world *w, append_fn append, const atom *x, uint32_t self, size_t row, int first, int last, bool is_far, uint32_t *count)
{
    int edge = (int)w->h->bins_edge;
    int parts[2][2] = {{first, last}, {0, -1}};
    if (first < 0) {
        parts[0][0] = 0, parts[1][0] = first + edge, parts[1][1] = edge - 1;
    } else if (last >= edge) {
        parts[0][1] = edge - 1, parts[1][0] = 0, parts[1][1] = last - edge;
    }
    for (int p = 0; p < 2; p++) {
        if (parts[p][0] > parts[p][1])
            continue;
        uint32_t from = w->start[row + (size_t)parts[p][0]], to = w->start[row + (size_t)parts[p][1] + 1];
        if (*count + (to - from) + 4 > ROOM) /* 4: what is written at once */
            return MH_ERR_LIMIT;
        *count = append(x, self, from, to, is_far, w->h->edge, w->list + (size_t)self * ROOM, *count);
    }
    return MH_OK;
}

static mh_err list_atom(const world *w, append_fn append, const atom *x, uint32_t self)
{
    int edge = (int)w->h->bins_edge;
    int bx = (int)bin_along(w->h, x[self].x), by = (int)bin_along(w->h, x[self].y), bz = (int)bin_along(w->h, x[self].z);
    bool is_far = bx < 2 || by < 2 || bz < 2 || bx >= edge - 2 || by >= edge - 2 || bz >= edge - 2;
    uint32_t count = 0;
    for (int z = bz - 2; z <= bz + 2; z++) {
        for (int y = by - 2; y <= by + 2; y++) {
            size_t row = ((size_t)((z + edge) % edge) * (size_t)edge + (size_t)((y + edge) % edge)) * (size_t)edge;
            mh_err err = append_row(w, append, x, self, row, bx - 2, bx + 2, is_far, &count);
            if (err)
                return err;
        }
    }
    while (count % 4)
        w->list[(size_t)self * ROOM + count++] = (uint32_t)w->h->atoms;
    w->count[self] = count | (is_far ? FAR : 0);
    return MH_OK;
}

/* ---- forces ---------------------------------------------------------------------------------- */

typedef struct force {
    double x, y, z, pair; /* pair: twice the atom's share of the energy */
} force;

static force force_plain(const world *w, const atom *x, uint32_t self, bool is_far)
{
    const uint32_t *list = w->list + (size_t)self * ROOM;
    uint32_t count = w->count[self] & ~(uint32_t)FAR;
    double edge = w->h->edge;
    force f = {0};
    for (uint32_t k = 0; k < count; k++) {
        const atom *o = &x[list[k]];
        double dx = x[self].x - o->x, dy = x[self].y - o->y, dz = x[self].z - o->z;
        if (is_far)
            dx = nearest(dx, edge), dy = nearest(dy, edge), dz = nearest(dz, edge);
        double square = dx * dx + dy * dy + dz * dz;
        if (!(square < CUT * CUT))
            continue;
        double i2 = 1 / square, i6 = i2 * i2 * i2, size = i6 * (48 * i6 - 24) * i2;
        f.x += dx * size;
        f.y += dy * size;
        f.z += dz * size;
        f.pair += 4 * i6 * (i6 - 1);
    }
    return f;
}

#if defined __x86_64__
WITH_AVX2 static inline double sum_four(__m256d v)
{
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

WITH_AVX2 static inline force force_avx2_of(const world *w, const atom *x, uint32_t self, bool is_far)
{
    const uint32_t *list = w->list + (size_t)self * ROOM;
    uint32_t count = w->count[self] & ~(uint32_t)FAR;
    __m256d box = _mm256_set1_pd(w->h->edge), per_box = _mm256_set1_pd(1 / w->h->edge);
    __m256d reach = _mm256_set1_pd(CUT * CUT), one = _mm256_set1_pd(1), c48 = _mm256_set1_pd(48), c24 = _mm256_set1_pd(24);
    __m256d sx = _mm256_set1_pd(x[self].x), sy = _mm256_set1_pd(x[self].y), sz = _mm256_set1_pd(x[self].z);
    __m256d fx = _mm256_setzero_pd(), fy = fx, fz = fx, pair = fx;
    for (uint32_t k = 0; k < count; k += 4) {
        quad q = load_four(&x[list[k]], &x[list[k + 1]], &x[list[k + 2]], &x[list[k + 3]]);
        __m256d dx = _mm256_sub_pd(sx, q.x), dy = _mm256_sub_pd(sy, q.y), dz = _mm256_sub_pd(sz, q.z);
        if (is_far)
            dx = nearest_four(dx, box, per_box), dy = nearest_four(dy, box, per_box), dz = nearest_four(dz, box, per_box);
        __m256d square = _mm256_fmadd_pd(dx, dx, _mm256_fmadd_pd(dy, dy, _mm256_mul_pd(dz, dz)));
        __m256d near = _mm256_cmp_pd(square, reach, _CMP_LT_OQ);
        __m256d i2 = _mm256_and_pd(_mm256_div_pd(one, square), near);
        __m256d i6 = _mm256_mul_pd(_mm256_mul_pd(i2, i2), i2);
        __m256d size = _mm256_mul_pd(_mm256_mul_pd(i6, i2), _mm256_fmsub_pd(c48, i6, c24));
        fx = _mm256_fmadd_pd(_mm256_and_pd(dx, near), size, fx); /* a filler's distance is no number */
        fy = _mm256_fmadd_pd(_mm256_and_pd(dy, near), size, fy);
        fz = _mm256_fmadd_pd(_mm256_and_pd(dz, near), size, fz);
        pair = _mm256_fmadd_pd(i6, _mm256_sub_pd(i6, one), pair);
    }
    return (force){sum_four(fx), sum_four(fy), sum_four(fz), 4 * sum_four(pair)};
}

WITH_AVX2 static force force_avx2(const world *w, const atom *x, uint32_t self, bool is_far)
{
    return is_far ? force_avx2_of(w, x, self, true) : force_avx2_of(w, x, self, false);
}
#endif

typedef force (*force_fn)(const world *w, const atom *x, uint32_t self, bool is_far);

/* The code for this processor. */
typedef struct kernel {
    append_fn append;
    force_fn force;
} kernel;

static kernel choose_kernel(void)
{
#if defined __x86_64__
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (kernel){append_avx2, force_avx2};
#endif
    return (kernel){append_plain, force_plain};
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* What a member of the team knows of the present step. Every member's is the same. */
typedef struct turn {
    uint32_t step;
    uint32_t x, v;   /* which of the copies are this step's */
    uint32_t x_back; /* and which one stays for lj_begin */
    bool makes_lists;
} turn;

static uint32_t x_next(const turn *t) { return 3 - t->x - t->x_back; }

static mh_err do_piece(const world *w, const kernel *k, const turn *t, uint64_t piece)
{
    const header *h = w->h;
    const atom *x = w->x[t->x];
    atom *next = w->x[x_next(t)], *velocities = w->v[t->v];
    uint32_t end = (uint32_t)((piece + 1) * PIECE < h->atoms ? (piece + 1) * PIECE : h->atoms);
    double half = t->step == 0 ? 0 : TIME_STEP / 2, other_half = t->step == h->options.steps ? 0 : TIME_STEP / 2;
    double move = t->step == h->options.steps ? 0 : TIME_STEP;
    sums sum = {0};
    for (uint32_t i = (uint32_t)(piece * PIECE); i < end; i++) {
        mh_err err = t->makes_lists ? list_atom(w, k->append, x, i) : MH_OK;
        if (err)
            return err;
        force f = k->force(w, x, i, w->count[i] & FAR);
        atom v = velocities[i];
        v.x += half * f.x;
        v.y += half * f.y;
        v.z += half * f.z;
        sum.pair += f.pair / 2;
        sum.kinetic += kinetic_of(&v) / 2;
        v.x += other_half * f.x;
        v.y += other_half * f.y;
        v.z += other_half * f.z;
        velocities[i] = v;
        next[i] = (atom){x[i].x + move * v.x, x[i].y + move * v.y, x[i].z + move * v.z, x[i].number};
    }
    w->sums[piece] = sum;
    return MH_OK;
}

static void record(const world *w, uint32_t step, const sums *of_pieces)
{
    const header *h = w->h;
    sums all = {0};
    for (size_t p = 0; p < h->pieces; p++) {
        all.pair += of_pieces[p].pair;
        all.kinetic += of_pieces[p].kinetic;
    }
    double atoms = (double)h->atoms;
    w->records[step / h->options.thermo] = (lj_record){step, 2 * all.kinetic / (3 * atoms - 3), all.pair / atoms, (all.pair + all.kinetic) / atoms};
    __atomic_store_n(&w->h->records, step / h->options.thermo + 1, __ATOMIC_RELEASE);
}

static mh_err end_step(void *memory)
{
    world w = view(memory);
    header *h = w.h;
    if (h->step % h->options.thermo == 0)
        record(&w, h->step, w.sums);
    h->next_piece = 0;
    __atomic_store_n(&h->step, h->step + 1, __ATOMIC_RELEASE);
    return MH_OK;
}

static mh_err sort_atoms(const world *w, uint32_t rank, lj_meet_fn meet, turn *t)
{
    header *h = w->h;
    mh_err err = count_bins(w, rank, t->x);
    if (!err)
        err = meet(h, assign_places);
    if (err)
        return err;
    /* All have come this far, and what they came with is what lj_begin shall go back to: every member says so, with the same word. */
    __atomic_store_n(&h->mark, make_mark(t->step, t->x, t->v), __ATOMIC_RELEASE);
    uint32_t to = t->x == 0 ? 1 : 0;
    move_atoms(w, rank, w->x[t->x], w->v[t->v], w->x[to], w->v[1 - t->v]);
    *t = (turn){.step = t->step, .x = to, .v = 1 - t->v, .x_back = t->x, .makes_lists = true};
    return meet(h, no_action);
}

static void maybe_die(header *h, uint32_t step)
{
    if (h->options.kill_step && h->options.kill_step == step && !__atomic_exchange_n(&h->killed, 1, __ATOMIC_RELAXED))
        raise(SIGKILL);
}

static mh_err do_step(const world *w, const kernel *k, const turn *t)
{
    for (;;) {
        uint64_t piece = __atomic_fetch_add(&w->h->next_piece, 1, __ATOMIC_RELAXED);
        if (piece >= w->h->pieces)
            return MH_OK;
        mh_err err = do_piece(w, k, t, piece);
        if (err)
            return err;
        if (piece == w->h->pieces / 2)
            maybe_die(w->h, t->step);
    }
}

static mh_err run(void *memory, uint32_t rank, lj_meet_fn meet)
{
    world w = view(memory);
    kernel k = choose_kernel();
    uint64_t mark = w.h->mark;
    turn t = {.step = (uint32_t)(mark >> 8), .x = mark >> 4 & 3, .v = mark & 1, .makes_lists = true};
    for (uint32_t first = t.step; t.step <= w.h->options.steps; t.step++) {
        mh_err err = MH_OK;
        t.makes_lists = t.step == first || t.step % EVERY == 0;
        if (t.makes_lists)
            err = sort_atoms(&w, rank, meet, &t);
        if (!err)
            err = do_step(&w, &k, &t);
        if (!err)
            err = meet(memory, end_step);
        if (err)
            return err;
        t.x = x_next(&t);
    }
    w.h->x_last = t.x; /* the last step moved nothing: where it wrote to is where it read from */
    w.h->v_last = t.v;
    return MH_OK;
}

mh_err lj_work_with(void *memory, uint32_t rank, lj_meet_fn meet)
{
    header *h = memory;
    if (rank >= h->options.workers)
        return MH_ERR_INVALID;
    return run(memory, rank, meet);
}

mh_err lj_work(void *memory, uint32_t rank)
{
    header *h = memory;
    mh_err err = lj_work_with(memory, rank, h->options.workers == 1 ? meet_alone : meet_at_barrier);
    if (err)
        lj_abort(memory);
    return err;
}

mh_err lj_begin(void *memory)
{
    header *h = memory;
    h->next_piece = 0;
    h->step = (uint32_t)(h->mark >> 8);
    return mh_barrier_init(&h->barrier, h->options.workers);
}

mh_barrier *lj_barrier(void *memory) { return &((header *)memory)->barrier; }

void lj_abort(void *memory) { (void)mh_barrier_abort(&((header *)memory)->barrier); }

/* ---- on engines ------------------------------------------------------------------------------ *
 *
 * The client has all atoms, sorts them and cuts them into parts of whole pieces. Engines have the same layout of memory, but of its pages they touch only those
 * of their part and of what is near. Atoms are sorted by layers of bins first, so what is near are a few spans.
 */

#define PARCEL_MAGIC 0x6c6c6a6d6cull

/* What an engine gets for a leg: this, `start`, positions of its part, those of what is near, velocities of its part. It gives back the sums of its pieces for each step
 * that is recorded, its positions and its velocities. */
typedef struct parcel_head {
    uint64_t magic;
    lj_options options;
    uint32_t step, end, rank, count, unused;
} parcel_head;

typedef struct span {
    uint32_t first, end;
} span;

static uint32_t cut(const header *h, uint32_t rank, uint32_t count)
{
    uint64_t at = h->pieces * rank / count * PIECE;
    return (uint32_t)(at < h->atoms ? at : h->atoms);
}

static span part_of(const header *h, uint32_t rank, uint32_t count) { return (span){cut(h, rank, count), cut(h, rank + 1, count)}; }

static span in_both(span a, span b)
{
    span both = {a.first > b.first ? a.first : b.first, a.end < b.end ? a.end : b.end};
    return both.first < both.end ? both : (span){0, 0};
}

/* The layer of bins that an atom lies in. */
static uint32_t layer_of(const world *w, uint32_t atom_index)
{
    uint32_t layer = 0, per_layer = w->h->bins_edge * w->h->bins_edge;
    while (layer + 1 < w->h->bins_edge && w->start[(layer + 1) * per_layer] <= atom_index)
        layer++;
    return layer;
}

static bool is_near(int layer, int low, int high, int edge)
{
    for (int image = layer - edge; image <= layer + edge; image += edge)
        if (image >= low - 2 && image <= high + 2)
            return true;
    return false;
}

static uint32_t append_span(span *spans, uint32_t count, span s)
{
    if (s.first >= s.end)
        return count;
    if (count && spans[count - 1].end == s.first)
        spans[count - 1].end = s.end;
    else
        spans[count++] = s;
    return count;
}

/* What is near a part and not in it. */
static uint32_t find_near(const world *w, uint32_t rank, uint32_t count, span spans[SPANS])
{
    uint32_t edge = w->h->bins_edge, found = 0;
    span own = part_of(w->h, rank, count);
    if (own.first == own.end)
        return 0;
    int low = (int)layer_of(w, own.first), high = (int)layer_of(w, own.end - 1);
    for (uint32_t layer = 0; layer < edge; layer++) {
        span all = {w->start[layer * edge * edge], w->start[(layer + 1) * edge * edge]};
        if (!is_near((int)layer, low, high, (int)edge))
            continue;
        found = append_span(spans, found, (span){all.first, all.end < own.first ? all.end : own.first});
        found = append_span(spans, found, (span){all.first > own.end ? all.first : own.end, all.end});
    }
    return found;
}

/* Records of the leg's steps. */
static uint32_t records_of(const header *h, const leg *l)
{
    uint32_t t = h->options.thermo;
    return (l->end + t - 1) / t - (l->step + t - 1) / t;
}

static uint32_t pieces_of(span part) { return (part.end - part.first + PIECE - 1) / PIECE; }

static size_t reply_bytes(const header *h, const leg *l, span part)
{
    return (size_t)records_of(h, l) * pieces_of(part) * sizeof(sums) + 2 * (size_t)(part.end - part.first) * sizeof(atom);
}

/* What the client does. */

mh_err lj_leg_begin(void *memory)
{
    world w = view(memory);
    header *h = w.h;
    uint32_t step = (uint32_t)(h->mark >> 8);
    turn t = {.step = step, .x = h->mark >> 4 & 3, .v = h->mark & 1};
    mh_err err = h->options.workers == 1 ? sort_atoms(&w, 0, meet_alone, &t) : MH_ERR_INVALID;
    if (err)
        return err;
    uint32_t end = (step / EVERY + 1) * EVERY;
    h->leg = (leg){step, end < h->options.steps + 1 ? end : h->options.steps + 1, t.x, x_next(&t), t.v};
    return MH_OK;
}

size_t lj_part_bytes(void *memory, uint32_t rank, uint32_t count)
{
    world w = view(memory);
    span spans[SPANS], own = part_of(w.h, rank, count);
    uint32_t found = find_near(&w, rank, count, spans);
    size_t atoms = 2 * (size_t)(own.end - own.first);
    for (uint32_t i = 0; i < found; i++)
        atoms += spans[i].end - spans[i].first;
    return sizeof(parcel_head) + (w.h->bins + 1) * sizeof *w.start + atoms * sizeof(atom);
}

static char *put(char *to, const void *from, size_t size)
{
    memcpy(to, from, size);
    return to + size;
}

static char *put_atoms(char *to, const atom *from, span s) { return put(to, from + s.first, (s.end - s.first) * sizeof *from); }

void lj_part_pack(void *memory, uint32_t rank, uint32_t count, void *out)
{
    world w = view(memory);
    header *h = w.h;
    span spans[SPANS], own = part_of(h, rank, count);
    uint32_t found = find_near(&w, rank, count, spans);
    parcel_head head = {.magic = PARCEL_MAGIC, .options = h->options, .step = h->leg.step, .end = h->leg.end, .rank = rank, .count = count};
    if (rank + 1 < count || h->killed || h->options.kill_step < h->leg.step || h->options.kill_step >= h->leg.end)
        head.options.kill_step = 0;
    h->killed |= head.options.kill_step != 0;
    char *at = put(out, &head, sizeof head);
    at = put(at, w.start, (h->bins + 1) * sizeof *w.start);
    at = put_atoms(at, w.x[h->leg.x], own);
    for (uint32_t i = 0; i < found; i++)
        at = put_atoms(at, w.x[h->leg.x], spans[i]);
    put_atoms(at, w.v[h->leg.v], own);
}

mh_err lj_part_unpack(void *memory, uint32_t rank, uint32_t count, mh_bytes reply)
{
    world w = view(memory);
    const header *h = w.h;
    span own = part_of(h, rank, count);
    const char *at = reply.data;
    size_t pieces = pieces_of(own), atoms = (own.end - own.first) * sizeof(atom);
    if (reply.size != reply_bytes(h, &h->leg, own))
        return MH_ERR_CORRUPT;
    for (uint32_t r = 0; r < records_of(h, &h->leg); r++, at += pieces * sizeof(sums))
        memcpy(w.leg_sums + r * h->pieces + own.first / PIECE, at, pieces * sizeof(sums));
    memcpy(w.x[h->leg.x_next] + own.first, at, atoms);
    memcpy(w.v[h->leg.v] + own.first, at + atoms, atoms);
    return MH_OK;
}

bool lj_leg_end(void *memory)
{
    world w = view(memory);
    header *h = w.h;
    uint32_t records = 0;
    for (uint32_t step = h->leg.step; step < h->leg.end; step++)
        if (step % h->options.thermo == 0)
            record(&w, step, w.leg_sums + records++ * h->pieces);
    h->mark = make_mark(h->leg.end, h->leg.x_next, h->leg.v);
    h->x_last = h->leg.x_next;
    h->v_last = h->leg.v;
    __atomic_store_n(&h->step, h->leg.end, __ATOMIC_RELEASE);
    return h->leg.end <= h->options.steps;
}

/* What an engine does. */

/* The next atoms of a parcel, into their places. errors: CORRUPT there are fewer, or one is outside of the box. */
static mh_err get_atoms(mh_bytes *from, atom *to, span s, double edge)
{
    size_t size = (s.end - s.first) * sizeof *to;
    if (from->size < size)
        return MH_ERR_CORRUPT;
    memcpy(to + s.first, from->data, size);
    *from = (mh_bytes){(const char *)from->data + size, from->size - size};
    for (uint32_t i = s.first; i < s.end; i++)
        if (edge > 0 && !(to[i].x >= 0 && to[i].x <= edge && to[i].y >= 0 && to[i].y <= edge && to[i].z >= 0 && to[i].z <= edge))
            return MH_ERR_CORRUPT;
    return MH_OK;
}

static mh_err get_start(const world *w, mh_bytes *from)
{
    size_t size = (w->h->bins + 1) * sizeof *w->start;
    if (from->size < size)
        return MH_ERR_CORRUPT;
    memcpy(w->start, from->data, size);
    *from = (mh_bytes){(const char *)from->data + size, from->size - size};
    for (size_t b = 0; b < w->h->bins; b++)
        if (w->start[b] > w->start[b + 1])
            return MH_ERR_CORRUPT;
    return w->start[0] == 0 && w->start[w->h->bins] == w->h->atoms ? MH_OK : MH_ERR_CORRUPT;
}

/* What goes to each neighbour after a step, and what comes: which atoms it is is the same in all steps of a leg. */
typedef struct halo {
    uint32_t count;
    mesh_message *out, *in; /* [rank] */
    struct iovec *parts;
    uint32_t *offsets;      /* of each part: its first atom */
    size_t used;
} halo;

static void free_halo(halo *n)
{
    free(n->out);
    free(n->in);
    free(n->parts);
    free(n->offsets);
}

/* Parts of `of` that lie in `near`: sizes now, addresses when it is known which copy is meant. */
static mesh_message add_parts(halo *n, span of, const span *near, uint32_t near_count)
{
    mesh_message m = {n->parts + n->used, 0};
    for (uint32_t i = 0; i < near_count; i++) {
        span both = in_both(of, near[i]);
        if (both.first == both.end)
            continue;
        n->offsets[n->used] = both.first;
        n->parts[n->used++] = (struct iovec){NULL, (both.end - both.first) * sizeof(atom)};
        m.count++;
    }
    return m;
}

static mh_err make_halo(halo *n, const world *w, uint32_t rank, uint32_t count)
{
    span own = part_of(w->h, rank, count), near[SPANS], theirs[SPANS];
    uint32_t near_count = find_near(w, rank, count, near);
    *n = (halo){.count = count};
    n->out = calloc(count, sizeof *n->out);
    n->in = calloc(count, sizeof *n->in);
    n->parts = malloc(2 * (size_t)count * SPANS * sizeof *n->parts);
    n->offsets = malloc(2 * (size_t)count * SPANS * sizeof *n->offsets);
    if (!n->out || !n->in || !n->parts || !n->offsets)
        return MH_ERR_NO_MEMORY;
    for (uint32_t k = 0; k < count; k++) {
        if (k == rank)
            continue;
        uint32_t theirs_count = find_near(w, k, count, theirs);
        n->out[k] = add_parts(n, own, theirs, theirs_count);
        n->in[k] = add_parts(n, part_of(w->h, k, count), near, near_count);
    }
    return MH_OK;
}

static mh_err exchange_halo(halo *n, mesh *m, atom *x)
{
    for (size_t i = 0; i < n->used; i++)
        n->parts[i].iov_base = x + n->offsets[i];
    return mesh_exchange(m, n->out, n->in, mh_deadline_in(TEAM_PATIENCE_NS));
}

static mh_err do_leg(const world *w, const leg *l, span own, mesh *m, halo *n, char **reply)
{
    kernel k = choose_kernel();
    turn t = {.step = l->step, .x = 0, .v = 0, .x_back = 2};
    for (; t.step < l->end; t.step++) {
        t.makes_lists = t.step == l->step;
        for (uint64_t piece = own.first / PIECE; piece * PIECE < own.end; piece++) {
            mh_err err = do_piece(w, &k, &t, piece);
            if (err)
                return err;
        }
        maybe_die(w->h, t.step);
        if (t.step % w->h->options.thermo == 0)
            *reply = put(*reply, w->sums + own.first / PIECE, pieces_of(own) * sizeof(sums));
        t.x = x_next(&t);
        mh_err err = t.step + 1 < l->end ? exchange_halo(n, m, w->x[t.x]) : MH_OK;
        if (err)
            return err;
    }
    *reply = put_atoms(*reply, w->x[t.x], own);
    *reply = put_atoms(*reply, w->v[t.v], own);
    return MH_OK;
}

mh_err lj_part_options(mh_bytes parcel, lj_options *out)
{
    parcel_head head;
    if (parcel.size < sizeof head)
        return MH_ERR_CORRUPT;
    memcpy(&head, parcel.data, sizeof head);
    if (head.magic != PARCEL_MAGIC || lj_check(&head.options) || head.options.workers != 1)
        return MH_ERR_CORRUPT;
    *out = head.options;
    return MH_OK;
}

/* What a parcel holds, into memory. */
static mh_err open_parcel(world *w, void *memory, mh_bytes parcel, parcel_head *head)
{
    lj_options o;
    span near[SPANS];
    mh_err err = lj_part_options(parcel, &o);
    if (err)
        return err;
    memcpy(head, parcel.data, sizeof *head);
    if (head->step >= head->end || head->end > o.steps + 1 || head->end - head->step > EVERY || head->count < 1 || head->rank >= head->count)
        return MH_ERR_CORRUPT;
    init_empty(w, memory, &o);
    w->h->killed = 0;
    mh_bytes rest = {(const char *)parcel.data + sizeof *head, parcel.size - sizeof *head};
    err = get_start(w, &rest);
    if (err)
        return err;
    span own = part_of(w->h, head->rank, head->count);
    uint32_t near_count = find_near(w, head->rank, head->count, near);
    err = get_atoms(&rest, w->x[0], own, w->h->edge);
    for (uint32_t i = 0; i < near_count && !err; i++)
        err = get_atoms(&rest, w->x[0], near[i], w->h->edge);
    if (!err)
        err = get_atoms(&rest, w->v[0], own, 0);
    return !err && rest.size ? MH_ERR_CORRUPT : err;
}

size_t lj_part_reply_bytes(mh_bytes parcel)
{
    parcel_head head;
    lj_options o;
    if (lj_part_options(parcel, &o))
        return 0;
    memcpy(&head, parcel.data, sizeof head);
    header h = {.options = o, .atoms = atoms_of(&o), .pieces = (atoms_of(&o) + PIECE - 1) / PIECE};
    leg l = {.step = head.step, .end = head.end};
    return head.count && head.rank < head.count && head.end - head.step <= EVERY ? reply_bytes(&h, &l, part_of(&h, head.rank, head.count)) : 0;
}

mh_err lj_part_work(void *memory, mh_bytes parcel, struct mesh *m, void *reply)
{
    world w;
    parcel_head head;
    halo n = {0};
    mh_err err = open_parcel(&w, memory, parcel, &head);
    if (!err && (head.rank != mesh_rank(m) || head.count != mesh_count(m)))
        err = MH_ERR_INVALID;
    if (!err)
        err = make_halo(&n, &w, head.rank, head.count);
    char *to = reply;
    leg l = {.step = head.step, .end = head.end};
    if (!err)
        err = do_leg(&w, &l, part_of(w.h, head.rank, head.count), m, &n, &to);
    free_halo(&n);
    return err;
}

/* ---- results --------------------------------------------------------------------------------- */

uint32_t lj_step(const void *memory) { return __atomic_load_n(&((const header *)memory)->step, __ATOMIC_ACQUIRE); }
size_t lj_atoms(const void *memory) { return ((const header *)memory)->atoms; }
double lj_edge(const void *memory) { return ((const header *)memory)->edge; }

const lj_record *lj_records(const void *memory, size_t *count)
{
    world w;
    lay_out(&w, (char *)(uintptr_t)memory, &((const header *)memory)->options);
    *count = __atomic_load_n(&w.h->records, __ATOMIC_ACQUIRE);
    return w.records;
}

void lj_copy(const void *memory, double *positions, double *velocities)
{
    world w;
    lay_out(&w, (char *)(uintptr_t)memory, &((const header *)memory)->options);
    const atom *x = w.x[w.h->x_last], *v = w.v[w.h->v_last];
    for (size_t i = 0; i < w.h->atoms; i++) {
        size_t to = 3 * (size_t)x[i].number;
        if (positions)
            memcpy(positions + to, &x[i], 3 * sizeof(double));
        if (velocities)
            memcpy(velocities + to, &v[i], 3 * sizeof(double));
    }
}
