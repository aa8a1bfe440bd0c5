/* Train a perceptron on Fashion-MNIST, on a pool of processes over one segment of shared memory.
 *
 *     train [--hidden N] [--epochs N] [--batch N] [--shard N] [--rate X] [--momentum X] [--samples N] [--workers N] [--kill STEP]
 *           [--losses FILE] [--quiet] [FOLDER]
 *
 * FOLDER has the four files of the data set (default: those of Debian's package dataset-fashion-mnist). The last line has a number computed
 * from every bit of the parameters and losses, which is the same for any number of workers.
 *
 *     --workers N    0, the default: the cores; 1: no pool, one process
 *     --kill STEP    a worker is killed in the middle of that step
 *     --losses FILE  the loss of each step, a line each
 */
#include "../team.h"
#include "net.h"

#include <getopt.h>
#include <inttypes.h>

#include <zlib.h>

#define FOLDER "/usr/share/datasets/fashion-mnist"

static void *shared;
static bool is_quiet;

static void show_progress(const void *memory)
{
    static uint32_t shown = UINT32_MAX;
    uint32_t step = net_step(memory), steps = net_steps(memory), width = 40, filled = (uint32_t)((uint64_t)step * width / steps);
    if (is_quiet || !isatty(2) || step == shown)
        return;
    shown = step;
    fprintf(stderr, "\rtrain: |%.*s%*s| step %u of %u, loss %.4f%s", (int)filled, "########################################", (int)(width - filled), "", step,
            steps, step ? net_losses(memory)[step - 1] : 0, step == steps ? "\n" : "");
}

/* ---- data ------------------------------------------------------------------------------------ */

static void refuse(const char *path, const char *why)
{
    fprintf(stderr, "train: %s: %s\n", path, why);
    exit(1);
}

static uint32_t read_number(gzFile file, const char *path)
{
    uint8_t b[4];
    if (gzread(file, b, 4) != 4)
        refuse(path, "ends in its header");
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* Read `count` records of `size` bytes from an IDX file. Without `to` only its header: returns how many records it has. */
static uint32_t read_idx(const char *folder, const char *name, uint32_t size, uint8_t *to, uint32_t count)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        refuse(folder, "is too long a name");
    gzFile file = gzopen(path, "rb");
    if (!file)
        refuse(path, "cannot be opened; Debian's package dataset-fashion-mnist has it");
    uint32_t magic = read_number(file, path), records = read_number(file, path), found = 1;
    if (magic >> 8 != 8 || (magic & 0xff) < 1 || (magic & 0xff) > 3)
        refuse(path, "is no IDX file of bytes");
    for (uint32_t d = 1; d < (magic & 0xff); d++)
        found *= read_number(file, path);
    if (found != size)
        refuse(path, "has records of another size");
    for (size_t got = 0, all = (size_t)count * size; to && got < all;) {
        int more = gzread(file, to + got, (unsigned)(all - got < 1 << 20 ? all - got : 1 << 20));
        if (more <= 0)
            refuse(path, "ends too early");
        got += (size_t)more;
    }
    gzclose(file);
    return records;
}

/* ---- results --------------------------------------------------------------------------------- */

static uint64_t digest(void)
{
    uint64_t hash = 14695981039346656037u;
    const unsigned char *parts[2] = {(const void *)net_parameters(shared), (const void *)net_losses(shared)};
    size_t sizes[2] = {net_parameter_count(shared) * sizeof(net_real), net_steps(shared) * sizeof(double)};
    for (int p = 0; p < 2; p++)
        for (size_t i = 0; i < sizes[p]; i++)
            hash = (hash ^ parts[p][i]) * 1099511628211u;
    return hash;
}

static void write_losses(const char *path)
{
    FILE *file = fopen(path, "w");
    for (uint32_t s = 0; file && s < net_steps(shared); s++)
        fprintf(file, "%.9g\n", net_losses(shared)[s]);
    if (!file || fclose(file)) {
        perror(path);
        exit(1);
    }
}

static uint32_t number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value > UINT32_MAX) {
        fprintf(stderr, "train: \"%s\" is not a number\n", text);
        exit(2);
    }
    return (uint32_t)value;
}

static double real_number(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end) {
        fprintf(stderr, "train: \"%s\" is not a number\n", text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {{"hidden", 1, NULL, 'h'},  {"epochs", 1, NULL, 'e'},  {"batch", 1, NULL, 'b'},  {"shard", 1, NULL, 's'},
                                          {"rate", 1, NULL, 'r'},    {"momentum", 1, NULL, 'm'}, {"samples", 1, NULL, 'n'}, {"workers", 1, NULL, 'w'},
                                          {"kill", 1, NULL, 'k'},    {"losses", 1, NULL, 'l'},  {"quiet", 0, NULL, 'q'},  {0}};
    net_options o = {.inputs = 784, .hidden = 128, .classes = 10, .batch = 256, .shard = 128, .epochs = 10, .seed = 1, .rate = 0.1, .momentum = 0.9};
    const char *losses = NULL;
    uint32_t samples = UINT32_MAX;
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'h': o.hidden = number(optarg); break;
        case 'e': o.epochs = number(optarg); break;
        case 'b': o.batch = number(optarg); break;
        case 's': o.shard = number(optarg); break;
        case 'r': o.rate = real_number(optarg); break;
        case 'm': o.momentum = real_number(optarg); break;
        case 'n': samples = number(optarg); break;
        case 'w': o.workers = number(optarg); break;
        case 'k': o.kill_step = number(optarg); break;
        case 'l': losses = optarg; break;
        case 'q': is_quiet = true; break;
        default: return 2;
        }
    }
    const char *folder = optind < argc ? argv[optind] : FOLDER;
    o.samples = read_idx(folder, "train-images-idx3-ubyte.gz", o.inputs, NULL, 0);
    o.samples = samples < o.samples ? samples : o.samples;
    o.tests = read_idx(folder, "t10k-images-idx3-ubyte.gz", o.inputs, NULL, 0);
    o.workers = o.workers ? o.workers : (uint32_t)mh_pool_default_workers();
    if (net_check(&o))
        return 2;
    mh_shm *memory = NULL;
    if (mh_shm_create(&memory, net_bytes(&o)) || net_init(shared = mh_shm_data(memory), &o)) {
        fprintf(stderr, "train: memory: %s\n", mh_err_detail());
        return 1;
    }
    read_idx(folder, "train-images-idx3-ubyte.gz", o.inputs, net_images(shared), o.samples);
    read_idx(folder, "train-labels-idx1-ubyte.gz", 1, net_labels(shared), o.samples);
    read_idx(folder, "t10k-images-idx3-ubyte.gz", o.inputs, net_test_images(shared), o.tests);
    read_idx(folder, "t10k-labels-idx1-ubyte.gz", 1, net_test_labels(shared), o.tests);
    team t = {"train", o.workers, shared, mh_shm_size(memory), net_begin, net_work, net_abort, show_progress, net_barrier(shared), 0, 0};
    team_run(&t);
    printf("   epoch      loss  test accuracy\n");
    for (uint32_t e = 0; e < o.epochs; e++)
        printf("%8u  %8.4f  %13.4f\n", e + 1, net_records(shared)[e].loss, net_records(shared)[e].accuracy);
    printf("%u samples, %u workers: %u epochs in %.3f s, started in %.3f s\nstate %016" PRIx64 "\n", o.samples, o.workers, o.epochs,
           (double)t.work_ns / MH_SECOND, (double)t.start_ns / MH_SECOND, digest());
    if (losses)
        write_losses(losses);
    mh_shm_destroy(&memory);
    return 0;
}
