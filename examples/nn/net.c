#include "net.h"

#include "../mesh/mesh.h"
#include "../team.h"

#include <math.h>
#include <signal.h>

#include <cblas.h>

#ifdef NET_DOUBLE
#define GEMM cblas_dgemm
#else
#define GEMM cblas_sgemm
#endif

#define MEAN 0.286f      /* of all brightnesses of Fashion-MNIST, 0 to 1, and their deviation: what a sample is scaled by */
#define DEVIATION 0.353f

enum {
    LINE = 64,
    LEG_STEPS = 64 /* of engines, between two returns to the client */
};

typedef struct header {
    net_options options;
    uint64_t parameters, shards; /* of a batch */
    uint32_t epoch_steps, killed;
    uint64_t images, labels, test_images, test_labels; /* offsets */
    _Alignas(LINE) uint32_t step; /* what is done: a new team goes on from here. Step k reads parameters k % 2 and writes the others */
    _Alignas(LINE) uint64_t next_piece;
    _Alignas(LINE) mh_barrier barrier;
} header;

/* One process's view. */
typedef struct world {
    header *h;
    net_real *parameters[2], *velocity[2];
    net_real *gradients;  /* [shard][parameter] */
    double *shard_losses; /* of each shard */
    uint32_t *right;      /* of each piece of the tests: how many were told right */
    uint32_t *order;      /* of the samples in this epoch */
    double *losses;
    double *leg_losses;   /* [step of a leg][shard]: what engines have told */
    net_record *records;
    const uint8_t *images, *labels, *test_images, *test_labels;
} world;

/* One process's own memory. */
typedef struct room {
    net_real *inputs, *hidden, *outputs, *hidden_change; /* [shard][...] */
    uint8_t *labels;
} room;

/* Where the four kinds of parameters lie. */
typedef struct layers {
    net_real *weights, *biases, *out_weights, *out_biases;
} layers;

static layers layers_of(const net_options *o, net_real *at)
{
    net_real *biases = at + (size_t)o->inputs * o->hidden, *out_weights = biases + o->hidden;
    return (layers){at, biases, out_weights, out_weights + (size_t)o->hidden * o->classes};
}

static size_t count_parameters(const net_options *o)
{
    return (size_t)o->inputs * o->hidden + o->hidden + (size_t)o->hidden * o->classes + o->classes;
}

/* ---- layout ---------------------------------------------------------------------------------- */

static char *take(char **at, size_t size)
{
    char *here = *at;
    *at += (size + LINE - 1) / LINE * LINE;
    return here;
}

static uint32_t test_pieces(const net_options *o) { return (o->tests + o->shard - 1) / o->shard; }

static size_t lay_out(world *w, char *memory, const net_options *o)
{
    char *at = memory;
    size_t count = count_parameters(o), shards = o->batch / o->shard, steps = (size_t)o->samples / o->batch * o->epochs;
    w->h = (void *)take(&at, sizeof(header));
    for (int i = 0; i < 2; i++) {
        w->parameters[i] = (void *)take(&at, count * sizeof(net_real));
        w->velocity[i] = (void *)take(&at, count * sizeof(net_real));
    }
    w->gradients = (void *)take(&at, shards * count * sizeof(net_real));
    w->shard_losses = (void *)take(&at, shards * sizeof(double));
    w->right = (void *)take(&at, test_pieces(o) * sizeof(uint32_t));
    w->order = (void *)take(&at, o->samples * sizeof(uint32_t));
    w->losses = (void *)take(&at, steps * sizeof(double));
    w->leg_losses = (void *)take(&at, LEG_STEPS * shards * sizeof(double));
    w->records = (void *)take(&at, o->epochs * sizeof(net_record));
    w->images = (void *)take(&at, (size_t)o->samples * o->inputs);
    w->labels = (void *)take(&at, o->samples);
    w->test_images = (void *)take(&at, (size_t)o->tests * o->inputs);
    w->test_labels = (void *)take(&at, o->tests);
    return (size_t)(at - memory);
}

mh_err net_check(const net_options *o)
{
    const uint32_t most = 1 << 24;
    const char *wrong = o->inputs < 1 || o->inputs > 65536 || o->hidden < 1 || o->hidden > 65536 ? "inputs and hidden: 1 to 65536"
                        : o->classes < 2 || o->classes > 256                                    ? "classes: 2 to 256"
                        : o->shard < 1 || o->batch < 1 || o->batch % o->shard                   ? "batch: a multiple of shard"
                        : o->samples < o->batch || o->samples > most || o->tests < 1 || o->tests > most
                            ? "samples: at least one batch, at most 16,777,216; tests: at least one"
                        : o->epochs < 1 || o->epochs > 10000   ? "epochs: 1 to 10,000"
                        : o->workers < 1 || o->workers > TEAM_WORKERS_MAX ? "workers: 1 to 256"
                        : !(o->rate >= 0 && o->rate <= 100) || !(o->momentum >= 0 && o->momentum < 1) ? "rate: 0 to 100; momentum: 0 to less than 1"
                                                                                                      : NULL;
    if (wrong)
        fprintf(stderr, "net: %s\n", wrong);
    return wrong ? MH_ERR_INVALID : MH_OK;
}

size_t net_bytes(const net_options *o)
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

uint8_t *net_images(void *memory) { return (uint8_t *)memory + ((header *)memory)->images; }
uint8_t *net_labels(void *memory) { return (uint8_t *)memory + ((header *)memory)->labels; }
uint8_t *net_test_images(void *memory) { return (uint8_t *)memory + ((header *)memory)->test_images; }
uint8_t *net_test_labels(void *memory) { return (uint8_t *)memory + ((header *)memory)->test_labels; }

/* ---- random numbers -------------------------------------------------------------------------- */

/* SplitMix64: any seed is good. */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double draw_between(uint64_t *state, double low, double high) { return low + (high - low) * (double)(draw(state) >> 11) / 9007199254740992.0; }

/* The order of samples in an epoch depends on the seed and the epoch alone. */
static void shuffle(const world *w, uint32_t epoch)
{
    const net_options *o = &w->h->options;
    uint64_t state = (uint64_t)o->seed << 32 | epoch;
    for (uint32_t i = 0; i < o->samples; i++)
        w->order[i] = i;
    for (uint32_t i = o->samples - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(draw(&state) % (i + 1)), was = w->order[i];
        w->order[i] = w->order[j];
        w->order[j] = was;
    }
}

static void draw_weights(net_real *weights, size_t inputs, size_t outputs, uint64_t *state)
{
    double reach = sqrt(6.0 / (double)(inputs + outputs)); /* Glorot and Bengio 2010 */
    for (size_t i = 0; i < inputs * outputs; i++)
        weights[i] = (net_real)draw_between(state, -reach, reach);
}

mh_err net_init(void *memory, const net_options *o)
{
    mh_err err = net_check(o);
    if (err)
        return err;
    world w;
    lay_out(&w, memory, o);
    header *h = w.h;
    h->options = *o;
    h->parameters = count_parameters(o);
    h->shards = o->batch / o->shard;
    h->epoch_steps = o->samples / o->batch;
    h->images = (uint64_t)(w.images - (uint8_t *)memory);
    h->labels = (uint64_t)(w.labels - (uint8_t *)memory);
    h->test_images = (uint64_t)(w.test_images - (uint8_t *)memory);
    h->test_labels = (uint64_t)(w.test_labels - (uint8_t *)memory);
    layers l = layers_of(o, w.parameters[0]);
    uint64_t state = o->seed;
    draw_weights(l.weights, o->inputs, o->hidden, &state);
    draw_weights(l.out_weights, o->hidden, o->classes, &state);
    return MH_OK;
}

/* ---- forward and backward -------------------------------------------------------------------- */

static mh_err make_room(room *r, const net_options *o)
{
    size_t rows = o->shard, inputs = rows * o->inputs, hidden = rows * o->hidden, outputs = rows * o->classes;
    openblas_set_num_threads(1); /* the team is what is parallel */
    r->inputs = malloc((inputs + 2 * hidden + outputs) * sizeof(net_real) + rows);
    if (!r->inputs)
        return MH_ERR_NO_MEMORY;
    r->hidden = r->inputs + inputs;
    r->hidden_change = r->hidden + hidden;
    r->outputs = r->hidden_change + hidden;
    r->labels = (uint8_t *)(r->outputs + outputs);
    return MH_OK;
}

static void load_sample(net_real *to, const uint8_t *image, uint32_t inputs)
{
    for (uint32_t i = 0; i < inputs; i++)
        to[i] = ((net_real)image[i] * (net_real)(1 / 255.0f) - (net_real)MEAN) * (net_real)(1 / DEVIATION);
}

static void add_biases(net_real *rows, const net_real *biases, uint32_t count, uint32_t width, bool rectify)
{
    for (uint32_t r = 0; r < count; r++, rows += width)
        for (uint32_t i = 0; i < width; i++) {
            net_real v = rows[i] + biases[i];
            rows[i] = rectify && v < 0 ? 0 : v;
        }
}

/* outputs, before the softmax, of `count` samples in r->inputs */
static void go_forward(const net_options *o, const room *r, layers l, uint32_t count)
{
    int rows = (int)count, inputs = (int)o->inputs, hidden = (int)o->hidden, classes = (int)o->classes;
    GEMM(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, hidden, inputs, 1, r->inputs, inputs, l.weights, hidden, 0, r->hidden, hidden);
    add_biases(r->hidden, l.biases, count, o->hidden, true);
    GEMM(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, classes, hidden, 1, r->hidden, hidden, l.out_weights, classes, 0, r->outputs, classes);
    add_biases(r->outputs, l.out_biases, count, o->classes, false);
}

/* Outputs become the loss's derivative by them, divided by `batch`. Returns the sum of losses. */
static double go_back_from_loss(const net_options *o, const room *r, const uint8_t *labels, uint32_t count, uint32_t batch)
{
    double loss = 0;
    for (uint32_t k = 0; k < count; k++) {
        net_real *out = r->outputs + (size_t)k * o->classes, most = out[0];
        double sum = 0;
        for (uint32_t c = 1; c < o->classes; c++)
            most = out[c] > most ? out[c] : most;
        double of_label = (double)(out[labels[k]] - most);
        for (uint32_t c = 0; c < o->classes; c++)
            sum += exp((double)(out[c] - most));
        for (uint32_t c = 0; c < o->classes; c++)
            out[c] = (net_real)((exp((double)(out[c] - most)) / sum - (c == labels[k])) / batch);
        loss += log(sum) - of_label;
    }
    return loss;
}

static void sum_rows(const net_real *rows, uint32_t count, uint32_t width, net_real *to)
{
    memset(to, 0, width * sizeof *to);
    for (uint32_t r = 0; r < count; r++, rows += width)
        for (uint32_t i = 0; i < width; i++)
            to[i] += rows[i];
}

static void go_back(const net_options *o, const room *r, layers l, uint32_t count, layers gradient)
{
    int rows = (int)count, inputs = (int)o->inputs, hidden = (int)o->hidden, classes = (int)o->classes;
    GEMM(CblasRowMajor, CblasTrans, CblasNoTrans, hidden, classes, rows, 1, r->hidden, hidden, r->outputs, classes, 0, gradient.out_weights, classes);
    sum_rows(r->outputs, count, o->classes, gradient.out_biases);
    GEMM(CblasRowMajor, CblasNoTrans, CblasTrans, rows, hidden, classes, 1, r->outputs, classes, l.out_weights, classes, 0, r->hidden_change, hidden);
    for (size_t i = 0; i < (size_t)count * o->hidden; i++)
        r->hidden_change[i] = r->hidden[i] > 0 ? r->hidden_change[i] : 0;
    GEMM(CblasRowMajor, CblasTrans, CblasNoTrans, inputs, hidden, rows, 1, r->inputs, inputs, r->hidden_change, hidden, 0, gradient.weights, hidden);
    sum_rows(r->hidden_change, count, o->hidden, gradient.biases);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void maybe_die(header *h, uint32_t step)
{
    if (h->options.kill_step && h->options.kill_step == step && !__atomic_exchange_n(&h->killed, 1, __ATOMIC_RELAXED))
        raise(SIGKILL);
}

static void do_shard(const world *w, const room *r, uint32_t step, uint64_t shard)
{
    const net_options *o = &w->h->options;
    const uint32_t *chosen = w->order + (size_t)(step % w->h->epoch_steps) * o->batch + shard * o->shard;
    layers l = layers_of(o, w->parameters[step % 2]);
    for (uint32_t k = 0; k < o->shard; k++) {
        load_sample(r->inputs + (size_t)k * o->inputs, w->images + (size_t)chosen[k] * o->inputs, o->inputs);
        r->labels[k] = w->labels[chosen[k]];
    }
    go_forward(o, r, l, o->shard);
    w->shard_losses[shard] = go_back_from_loss(o, r, r->labels, o->shard, o->batch);
    go_back(o, r, l, o->shard, layers_of(o, w->gradients + shard * w->h->parameters));
}

static void add_to(net_real *restrict sum, const net_real *restrict more, size_t count)
{
    for (size_t i = 0; i < count; i++)
        sum[i] += more[i];
}

static void move_some(const net_real *restrict sum, const net_real *restrict from, const net_real *restrict velocity, net_real *restrict to,
                      net_real *restrict new_velocity, size_t count, net_real momentum, net_real rate)
{
    for (size_t i = 0; i < count; i++) {
        new_velocity[i] = momentum * velocity[i] + sum[i];
        to[i] = from[i] - rate * new_velocity[i];
    }
}

/* This worker's part of the parameters, a thousand at a time, so that their sum stays in the cache. */
static void move_parameters(const world *w, uint32_t rank, uint32_t workers, uint32_t step)
{
    enum { SOME = 1024 };
    const header *h = w->h;
    const net_options *o = &h->options;
    size_t end = h->parameters * (rank + 1) / workers;
    uint32_t now = step % 2, next = 1 - now;
    net_real rate = (net_real)(o->rate * (1 - (double)step / ((double)h->epoch_steps * o->epochs))), sum[SOME];
    for (size_t i = h->parameters * rank / workers, count; i < end; i += count) {
        count = end - i < SOME ? end - i : SOME;
        memcpy(sum, w->gradients + i, count * sizeof *sum);
        for (uint64_t s = 1; s < h->shards; s++)
            add_to(sum, w->gradients + s * h->parameters + i, count);
        move_some(sum, w->parameters[now] + i, w->velocity[now] + i, w->parameters[next] + i, w->velocity[next] + i, count, (net_real)o->momentum, rate);
    }
}

static mh_err begin_moving(void *memory)
{
    world w = view(memory);
    double loss = 0;
    for (uint64_t s = 0; s < w.h->shards; s++)
        loss += w.shard_losses[s];
    w.losses[w.h->step] = loss / w.h->options.batch;
    return MH_OK;
}

static mh_err end_step(void *memory)
{
    header *h = memory;
    __atomic_store_n(&h->step, h->step + 1, __ATOMIC_RELEASE);
    return MH_OK;
}

static void test_piece(const world *w, const room *r, uint32_t step, uint32_t piece)
{
    const net_options *o = &w->h->options;
    uint32_t first = piece * o->shard, count = o->tests - first < o->shard ? o->tests - first : o->shard, right = 0;
    for (uint32_t k = 0; k < count; k++)
        load_sample(r->inputs + (size_t)k * o->inputs, w->test_images + (size_t)(first + k) * o->inputs, o->inputs);
    go_forward(o, r, layers_of(o, w->parameters[step % 2]), count);
    for (uint32_t k = 0; k < count; k++) {
        const net_real *out = r->outputs + (size_t)k * o->classes;
        uint32_t best = 0;
        for (uint32_t c = 1; c < o->classes; c++)
            best = out[c] > out[best] ? c : best;
        right += best == w->test_labels[first + k];
    }
    w->right[piece] = right;
}

/* The epoch that ends with `step`, of whose tests so many were told right. */
static void record_epoch(const world *w, uint32_t step, uint32_t right)
{
    uint32_t steps = w->h->epoch_steps;
    double loss = 0;
    for (uint32_t s = step - steps; s < step; s++)
        loss += w->losses[s];
    w->records[step / steps - 1] = (net_record){loss / steps, (double)right / w->h->options.tests};
}

static mh_err end_epoch(void *memory)
{
    world w = view(memory);
    const net_options *o = &w.h->options;
    uint32_t epoch = w.h->step / w.h->epoch_steps - 1, right = 0;
    for (uint32_t p = 0; p < test_pieces(o); p++)
        right += w.right[p];
    record_epoch(&w, w.h->step, right);
    w.h->next_piece = 0;
    if (epoch + 1 < o->epochs)
        shuffle(&w, epoch + 1);
    return MH_OK;
}

static uint64_t next_piece(const world *w) { return __atomic_fetch_add(&w->h->next_piece, 1, __ATOMIC_RELAXED); }

static mh_err meet(const world *w, team_action_fn action)
{
    return w->h->options.workers == 1 ? action(w->h) : team_meet(&w->h->barrier, w->h, action);
}

static mh_err do_step(const world *w, const room *r, uint32_t rank, uint32_t step)
{
    /* not whoever is free: a shard's gradient lies in its worker's cache since the last step */
    for (uint64_t shard = rank; shard < w->h->shards; shard += w->h->options.workers) {
        do_shard(w, r, step, shard);
        maybe_die(w->h, step);
    }
    mh_err err = meet(w, begin_moving);
    if (err)
        return err;
    move_parameters(w, rank, w->h->options.workers, step);
    return meet(w, end_step);
}

static mh_err do_test(const world *w, const room *r, uint32_t step)
{
    for (uint64_t piece; (piece = next_piece(w)) < test_pieces(&w->h->options);)
        test_piece(w, r, step, (uint32_t)piece);
    return meet(w, end_epoch);
}

mh_err net_work(void *memory, uint32_t rank)
{
    world w = view(memory);
    room r = {NULL};
    if (rank >= w.h->options.workers)
        return MH_ERR_INVALID;
    mh_err err = make_room(&r, &w.h->options);
    uint32_t steps = net_steps(memory), step = w.h->step;
    while (!err) {
        /* a team that begins here may test once more what another has tested: nothing changes */
        if (step > 0 && step % w.h->epoch_steps == 0)
            err = do_test(&w, &r, step);
        if (err || step == steps)
            break;
        err = do_step(&w, &r, rank, step++);
    }
    if (err)
        net_abort(memory);
    free(r.inputs);
    return err;
}

mh_err net_begin(void *memory)
{
    world w = view(memory);
    const net_options *o = &w.h->options;
    for (uint32_t i = 0; i < o->samples; i++)
        if (w.labels[i] >= o->classes)
            return MH_ERR_INVALID;
    for (uint32_t i = 0; i < o->tests; i++)
        if (w.test_labels[i] >= o->classes)
            return MH_ERR_INVALID;
    w.h->next_piece = 0;
    /* at an epoch's end the order is still that of the epoch to be tested, or already the next one's: testing needs none, and ends with it */
    uint32_t epoch = w.h->step / w.h->epoch_steps;
    shuffle(&w, epoch < o->epochs ? epoch : o->epochs - 1);
    return mh_barrier_init(&w.h->barrier, o->workers);
}

mh_barrier *net_barrier(void *memory) { return &((header *)memory)->barrier; }

void net_abort(void *memory) { (void)mh_barrier_abort(&((header *)memory)->barrier); }

/* ---- on engines ------------------------------------------------------------------------------ *
 *
 * Every engine has the data and all parameters; its shards' gradients are its own, and so is the velocity of its part of the parameters. A step is a reduce-scatter
 * (everyone gets of each shard its own part of the gradient, and sums it in the order of the shards, as on one machine) and an all-gather of the moved parameters.
 */

#define PARCEL_MAGIC 0x74656e6a6d6cull

enum { PART_SHARDS_MAX = 512 };

/* What an engine gets for a leg: this, all parameters, the velocity of its part. It gives back the losses of its shards in each step, how many tests were told right, its
 * part of the parameters and their velocity. */
typedef struct parcel_head {
    uint64_t magic;
    net_options options;
    uint32_t step, end, rank, count, kill_step, unused;
} parcel_head;

/* The parameters that a rank moves. */
typedef struct part {
    size_t first, count;
} part;

static part part_of(const header *h, uint32_t rank, uint32_t count)
{
    size_t first = h->parameters * rank / count;
    return (part){first, h->parameters * (rank + 1) / count - first};
}

/* The steps from where the parameters are to the end of the leg: at most LEG_STEPS, and not beyond an epoch's end. */
static uint32_t leg_end(const header *h, uint32_t step)
{
    uint32_t epoch_end = (step / h->epoch_steps + 1) * h->epoch_steps;
    return step + LEG_STEPS < epoch_end ? step + LEG_STEPS : epoch_end;
}

/* Shards of a batch that a rank computes: rank, rank + count, ... */
static size_t shards_of(const header *h, uint32_t rank, uint32_t count) { return rank < h->shards ? (h->shards - rank + count - 1) / count : 0; }

static size_t reply_bytes(const header *h, uint32_t step, uint32_t end, uint32_t rank, uint32_t count)
{
    return ((end - step) * shards_of(h, rank, count) + 1) * sizeof(double) + 2 * part_of(h, rank, count).count * sizeof(net_real);
}

static char *put(char *to, const void *from, size_t size)
{
    memcpy(to, from, size);
    return to + size;
}

/* What the client does. */

size_t net_part_bytes(const void *memory, uint32_t rank, uint32_t count)
{
    const header *h = memory;
    return sizeof(parcel_head) + (h->parameters + part_of(h, rank, count).count) * sizeof(net_real);
}

void net_part_pack(void *memory, uint32_t rank, uint32_t count, void *out)
{
    world w = view(memory);
    header *h = w.h;
    part own = part_of(h, rank, count);
    uint32_t now = h->step % 2;
    parcel_head head = {.magic = PARCEL_MAGIC, .options = h->options, .step = h->step, .end = leg_end(h, h->step), .rank = rank, .count = count};
    uint32_t kill = h->options.kill_step;
    if (rank + 1 == count && !h->killed && kill && kill >= head.step && kill < head.end) {
        head.kill_step = kill;
        h->killed = 1;
    }
    char *at = put(out, &head, sizeof head);
    at = put(at, w.parameters[now], h->parameters * sizeof(net_real));
    put(at, w.velocity[now] + own.first, own.count * sizeof(net_real));
}

mh_err net_part_unpack(void *memory, uint32_t rank, uint32_t count, mh_bytes reply)
{
    world w = view(memory);
    header *h = w.h;
    part own = part_of(h, rank, count);
    uint32_t end = leg_end(h, h->step);
    if (reply.size != reply_bytes(h, h->step, end, rank, count))
        return MH_ERR_CORRUPT;
    if (rank == 0)
        h->next_piece = 0;
    const char *at = reply.data;
    double right;
    for (uint32_t step = h->step; step < end; step++)
        for (uint64_t shard = rank; shard < h->shards; shard += count, at += sizeof(double))
            memcpy(&w.leg_losses[(step - h->step) * h->shards + shard], at, sizeof(double));
    memcpy(&right, at, sizeof right);
    if (!(right >= 0 && right <= h->options.tests))
        return MH_ERR_CORRUPT;
    h->next_piece += (uint64_t)right; /* the sum, until the leg's end */
    at = at + sizeof right;
    memcpy(w.parameters[end % 2] + own.first, at, own.count * sizeof(net_real));
    memcpy(w.velocity[end % 2] + own.first, at + own.count * sizeof(net_real), own.count * sizeof(net_real));
    return MH_OK;
}

bool net_leg_end(void *memory)
{
    world w = view(memory);
    header *h = w.h;
    uint32_t end = leg_end(h, h->step);
    for (uint32_t step = h->step; step < end; step++) {
        double loss = 0;
        for (uint64_t s = 0; s < h->shards; s++)
            loss += w.leg_losses[(step - h->step) * h->shards + s];
        w.losses[step] = loss / h->options.batch;
    }
    if (end % h->epoch_steps == 0)
        record_epoch(&w, end, (uint32_t)h->next_piece);
    __atomic_store_n(&h->step, end, __ATOMIC_RELEASE);
    return end < net_steps(memory);
}

/* What an engine does. */

mh_err net_part_options(mh_bytes parcel, net_options *out)
{
    parcel_head head;
    if (parcel.size < sizeof head)
        return MH_ERR_CORRUPT;
    memcpy(&head, parcel.data, sizeof head);
    if (head.magic != PARCEL_MAGIC || net_check(&head.options))
        return MH_ERR_CORRUPT;
    uint64_t steps = (uint64_t)(head.options.samples / head.options.batch) * head.options.epochs;
    if (head.step >= head.end || head.end > steps || head.end - head.step > LEG_STEPS || head.count < 1 || head.count > TEAM_WORKERS_MAX ||
        head.rank >= head.count)
        return MH_ERR_CORRUPT;
    *out = head.options;
    return MH_OK;
}

size_t net_part_reply_bytes(const void *memory, mh_bytes parcel)
{
    parcel_head head;
    net_options o;
    if (net_part_options(parcel, &o))
        return 0;
    memcpy(&head, parcel.data, sizeof head);
    return reply_bytes(memory, head.step, head.end, head.rank, head.count);
}

/* Each peer gets its part of the gradient of each of our shards, and we ours of each of theirs. */
static mh_err scatter_gradients(const world *w, mesh *m, uint32_t rank, uint32_t count)
{
    const header *h = w->h;
    mesh_message out[TEAM_WORKERS_MAX], in[TEAM_WORKERS_MAX];
    struct iovec parts[2 * PART_SHARDS_MAX];
    size_t used = 0;
    part own = part_of(h, rank, count);
    for (uint32_t k = 0; k < count; k++) {
        part theirs = part_of(h, k, count);
        out[k] = (mesh_message){parts + used, 0};
        for (uint64_t s = rank; k != rank && s < h->shards; s += count, out[k].count++)
            parts[used++] = (struct iovec){w->gradients + s * h->parameters + theirs.first, theirs.count * sizeof(net_real)};
        in[k] = (mesh_message){parts + used, 0};
        for (uint64_t s = k; k != rank && s < h->shards; s += count, in[k].count++)
            parts[used++] = (struct iovec){w->gradients + s * h->parameters + own.first, own.count * sizeof(net_real)};
    }
    return mesh_exchange(m, out, in, mh_deadline_in(TEAM_PATIENCE_NS));
}

/* Everyone gets everyone's moved part. */
static mh_err gather_parameters(const world *w, mesh *m, uint32_t rank, uint32_t count, net_real *parameters)
{
    mesh_message out[TEAM_WORKERS_MAX], in[TEAM_WORKERS_MAX];
    struct iovec parts[TEAM_WORKERS_MAX];
    for (uint32_t k = 0; k < count; k++) {
        part theirs = part_of(w->h, k, count);
        parts[k] = (struct iovec){parameters + theirs.first, theirs.count * sizeof(net_real)};
    }
    for (uint32_t k = 0; k < count; k++) {
        out[k] = (mesh_message){&parts[rank], k != rank};
        in[k] = (mesh_message){&parts[k], k != rank};
    }
    return mesh_exchange(m, out, in, mh_deadline_in(TEAM_PATIENCE_NS));
}

static mh_err do_part_step(const world *w, const room *r, mesh *m, const parcel_head *p, uint32_t step, char **reply)
{
    for (uint64_t shard = p->rank; shard < w->h->shards; shard += p->count) {
        do_shard(w, r, step, shard);
        *reply = put(*reply, &w->shard_losses[shard], sizeof(double));
    }
    if (p->kill_step && p->kill_step == step)
        raise(SIGKILL);
    mh_err err = scatter_gradients(w, m, p->rank, p->count);
    if (err)
        return err;
    move_parameters(w, p->rank, p->count, step);
    return gather_parameters(w, m, p->rank, p->count, w->parameters[1 - step % 2]);
}

static mh_err do_leg(const world *w, const room *r, mesh *m, const parcel_head *p, char *reply)
{
    const header *h = w->h;
    part own = part_of(h, p->rank, p->count);
    double right = 0;
    shuffle(w, p->step / h->epoch_steps);
    for (uint32_t step = p->step; step < p->end; step++) {
        mh_err err = do_part_step(w, r, m, p, step, &reply);
        if (err)
            return err;
    }
    for (uint32_t piece = p->rank; p->end % h->epoch_steps == 0 && piece < test_pieces(&h->options); piece += p->count) {
        test_piece(w, r, p->end, piece);
        right += w->right[piece];
    }
    reply = put(reply, &right, sizeof right);
    reply = put(reply, w->parameters[p->end % 2] + own.first, own.count * sizeof(net_real));
    put(reply, w->velocity[p->end % 2] + own.first, own.count * sizeof(net_real));
    return MH_OK;
}

mh_err net_part_work(void *memory, mh_bytes parcel, struct mesh *m, void *reply)
{
    net_options o;
    parcel_head p;
    room r = {NULL};
    mh_err err = net_part_options(parcel, &o);
    if (err)
        return err;
    world w = view(memory);
    header *h = w.h;
    memcpy(&p, parcel.data, sizeof p);
    if (memcmp(&o, &h->options, offsetof(net_options, workers)) != 0 || p.rank != mesh_rank(m) || p.count != mesh_count(m) ||
        h->shards + p.count > PART_SHARDS_MAX)
        return MH_ERR_INVALID;
    if (parcel.size != net_part_bytes(memory, p.rank, p.count))
        return MH_ERR_CORRUPT;
    part own = part_of(h, p.rank, p.count);
    const char *from = (const char *)parcel.data + sizeof p;
    h->options = o;
    memcpy(w.parameters[p.step % 2], from, h->parameters * sizeof(net_real));
    memcpy(w.velocity[p.step % 2] + own.first, from + h->parameters * sizeof(net_real), own.count * sizeof(net_real));
    err = make_room(&r, &o);
    if (!err)
        err = do_leg(&w, &r, m, &p, reply);
    free(r.inputs);
    return err;
}

/* ---- looking in ------------------------------------------------------------------------------ */

uint32_t net_step(const void *memory) { return __atomic_load_n(&((const header *)memory)->step, __ATOMIC_ACQUIRE); }

uint32_t net_steps(const void *memory)
{
    const header *h = memory;
    return h->epoch_steps * h->options.epochs;
}

const double *net_losses(const void *memory) { return view((void *)(uintptr_t)memory).losses; }
const net_record *net_records(const void *memory) { return view((void *)(uintptr_t)memory).records; }
net_real *net_parameters(void *memory) { return view(memory).parameters[net_step(memory) % 2]; }
size_t net_parameter_count(const void *memory) { return ((const header *)memory)->parameters; }

mh_err net_gradient(void *memory, uint32_t first, uint32_t count, net_real *gradient, double *loss)
{
    world w = view(memory);
    net_options o = w.h->options;
    if (count < 1 || count > o.batch || first > o.samples || count > o.samples - first)
        return MH_ERR_INVALID;
    o.shard = count;
    room r;
    mh_err err = make_room(&r, &o);
    if (err)
        return err;
    for (uint32_t k = 0; k < count; k++)
        load_sample(r.inputs + (size_t)k * o.inputs, w.images + (size_t)(first + k) * o.inputs, o.inputs);
    layers l = layers_of(&o, net_parameters(memory));
    go_forward(&o, &r, l, count);
    *loss = go_back_from_loss(&o, &r, w.labels + first, count, count) / count;
    go_back(&o, &r, l, count, layers_of(&o, gradient));
    free(r.inputs);
    return MH_OK;
}
