/* Find what moves in a video, on a pool of processes, and write the video with what was found drawn into it.
 *
 *     detect [--workers N] [--slots N] [--frames N] [--boxes FILE] [--kill BATCH] [--quiet] IN [OUT]
 *
 * OUT is an .avi; without it everything is done but writing. The last lines are the time and numbers computed from all drawn pixels and
 * all encoded bytes, which are the same for any number of workers.
 *
 *     --workers N    0, the default: the cores; 1: no pool, one process
 *     --slots N      batches of 12 frames between reading and writing, at most (default 6): what bounds the memory
 *     --frames N     only the first N
 *     --boxes FILE   a line for each box: frame,x,y,width,height,area
 *     --kill BATCH   a worker is killed in the middle of scanning that batch, and one in the middle of finishing it
 */
#include "motion.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RETRIES 3 /* of a piece of work whose worker was killed */

static void check(mh_err err, const char *what)
{
    if (!err)
        return;
    fprintf(stderr, "detect: %s: %s: %s\n", what, mh_err_text(err), mh_err_detail());
    exit(1);
}

static void *shared; /* mapped before the pool was made: the workers inherit it */
static size_t shared_size;
static motion_reader *reader;
static motion_writer *writer;
static FILE *boxes;
static bool is_quiet;

static void show_progress(void)
{
    uint64_t frames = motion_sum(writer).frames;
    if (!is_quiet && isatty(2))
        fprintf(stderr, "\rdetect: %" PRIu64 " frames written, %" PRIu64 " boxes", frames, motion_sum(writer).boxes);
}

static void write_batch(mh_bytes finished)
{
    check(motion_write(writer, finished, boxes), "writing");
    show_progress();
}

/* ---- one process ----------------------------------------------------------------------------- */

static bool read_batch(uint32_t batch)
{
    bool is_complete = false;
    while (!is_complete) {
        mh_err err = motion_read(reader, shared, batch, &is_complete);
        if (err == MH_ERR_EMPTY)
            return false;
        check(err, "reading");
    }
    return true;
}

static void run_alone(void)
{
    size_t room = motion_finish_bytes(shared), used;
    char *out = malloc(room);
    if (!out)
        check(MH_ERR_NO_MEMORY, "finishing");
    for (uint32_t batch = 0; read_batch(batch); batch++) {
        for (uint32_t band = 0; band < MOTION_BANDS; band++)
            check(motion_scan(shared, batch, band), "scanning");
        check(motion_finish(shared, batch, out, room, &used), "finishing");
        write_batch((mh_bytes){out, used});
    }
    free(out);
}

/* ---- on a pool ------------------------------------------------------------------------------- */

typedef struct job {
    uint32_t batch;
    uint32_t band; /* MOTION_BANDS: finish */
} job;

static mh_err work(mh_task *task, void *ctx)
{
    (void)ctx;
    job j;
    void *out = NULL;
    size_t used = 0;
    if (mh_task_input(task).size != sizeof j)
        return MH_ERR_INVALID;
    memcpy(&j, mh_task_input(task).data, sizeof j);
    if (j.band < MOTION_BANDS)
        return motion_scan(shared, j.batch, j.band);
    mh_err err = mh_task_reply_reserve(task, motion_finish_bytes(shared), &out);
    if (!err)
        err = motion_finish(shared, j.batch, out, motion_finish_bytes(shared), &used);
    if (!err)
        mh_task_reply_size(task, used);
    return err;
}

/* What was begun and what is done, in batches: written <= finished <= scanned <= read. */
typedef struct line {
    mh_pool *pool;
    mh_stream *stream;
    uint32_t slots;
    uint32_t read, written, outstanding;
    uint32_t scanned[MOTION_BANDS]; /* batches, each band */
    bool is_busy[MOTION_BANDS];
    uint32_t finish_next;           /* the next batch to be finished */
    bool is_read_out;
    mh_result finished[MOTION_SLOTS_MAX]; /* that wait for earlier ones to be written */
} line;

static void submit(line *l, uint32_t batch, uint32_t band)
{
    job j = {batch, band};
    check(mh_stream_submit(l->stream, (mh_bytes){&j, sizeof j}, (uint64_t)batch << 8 | band), "submit");
    l->outstanding++;
}

static void submit_possible(line *l)
{
    uint32_t all = l->read;
    for (uint32_t band = 0; band < MOTION_BANDS; band++) {
        if (!l->is_busy[band] && l->scanned[band] < l->read) {
            l->is_busy[band] = true;
            submit(l, l->scanned[band], band);
        }
        all = l->scanned[band] < all ? l->scanned[band] : all;
    }
    for (; l->finish_next < all; l->finish_next++)
        submit(l, l->finish_next, MOTION_BANDS);
}

static void take_result(line *l, mh_result *result)
{
    uint32_t batch = (uint32_t)(result->tag >> 8), band = result->tag & 0xff;
    l->outstanding--;
    check(result->err, band < MOTION_BANDS ? "scanning" : "finishing");
    if (band < MOTION_BANDS) {
        l->scanned[band] = batch + 1;
        l->is_busy[band] = false;
        mh_result_release(result);
        return;
    }
    l->finished[batch % l->slots] = *result;
    for (mh_result *next = &l->finished[l->written % l->slots]; next->owner || next->reply.size; next = &l->finished[l->written % l->slots]) {
        write_batch(next->reply);
        mh_result_release(next);
        *next = (mh_result){.tag = 0};
        l->written++;
    }
}

/* Take what is there; wait if there is nothing else to do. */
static void take_results(line *l, bool may_wait)
{
    mh_result result;
    mh_err err = MH_OK;
    while (!err && l->outstanding) {
        err = mh_stream_take(l->stream, may_wait ? mh_deadline_in(MH_SECOND) : MH_NOW, &result);
        if (!err)
            take_result(l, &result);
        may_wait = false;
    }
    if (err && err != MH_ERR_TIMEOUT && err != MH_ERR_INTERRUPTED)
        check(err, "results");
}

/* One frame; then there may be results to look after. */
static void read_frame(line *l)
{
    bool is_complete = false;
    mh_err err = motion_read(reader, shared, l->read, &is_complete);
    if (err == MH_ERR_EMPTY)
        l->is_read_out = true;
    else
        check(err, "reading");
    l->read += is_complete;
}

/* A new worker has none of the memory's pages mapped. One call brings them all, where a fault each would cost ten times as much. */
static mh_err populate(void *ctx)
{
    (void)ctx;
#if defined MADV_POPULATE_WRITE
    (void)!madvise(shared, shared_size, MADV_POPULATE_WRITE); /* a hint: older kernels do not know it */
#endif
    return MH_OK;
}

static void run_pool(uint32_t workers, uint32_t slots)
{
    line l = {.slots = slots};
    check(mh_pool_create(&l.pool, &(mh_pool_options){.worker = {.run = work, .initialize = populate}, .workers = workers}), "pool");
    check(mh_stream_create(&l.stream, l.pool, &(mh_stream_options){.defaults = {.lost_retries = RETRIES}}), "stream");
    while (!l.is_read_out || l.written < l.read) {
        bool may_read = !l.is_read_out && l.read - l.written < slots;
        if (may_read)
            read_frame(&l);
        take_results(&l, !may_read);
        submit_possible(&l);
    }
    mh_stream_destroy(&l.stream);
    mh_pool_destroy(&l.pool);
}

/* ---- options --------------------------------------------------------------------------------- */

static uint32_t number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value > UINT32_MAX) {
        fprintf(stderr, "detect: \"%s\" is not a number\n", text);
        exit(2);
    }
    return (uint32_t)value;
}

static int usage(void)
{
    fprintf(stderr, "usage: detect [--workers N] [--slots N] [--frames N] [--boxes FILE] [--kill BATCH] [--quiet] IN [OUT]\n");
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {{"workers", 1, NULL, 'w'}, {"slots", 1, NULL, 's'}, {"boxes", 1, NULL, 'b'}, {"frames", 1, NULL, 'f'},
                                          {"kill", 1, NULL, 'k'},    {"quiet", 0, NULL, 'q'}, {0}};
    uint32_t workers = 0, slots = 6, kill = UINT32_MAX, frames = UINT32_MAX;
    const char *boxes_path = NULL;
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'w': workers = number(optarg); break;
        case 's': slots = number(optarg); break;
        case 'b': boxes_path = optarg; break;
        case 'f': frames = number(optarg); break;
        case 'k': kill = number(optarg); break;
        case 'q': is_quiet = true; break;
        default: return usage();
        }
    }
    if (argc - optind < 1 || argc - optind > 2 || slots < 1 || slots > MOTION_SLOTS_MAX)
        return usage();
    workers = workers ? workers : (uint32_t)mh_pool_default_workers();
    motion_size size;
    if (motion_open(&reader, argv[optind], &size) || motion_create(&writer, optind + 1 < argc ? argv[optind + 1] : NULL, &size))
        return 1;
    motion_limit(reader, frames);
    if (boxes_path && !(boxes = fopen(boxes_path, "w"))) {
        perror(boxes_path);
        return 1;
    }
    mh_shm *memory = NULL;
    check(mh_shm_create(&memory, motion_bytes(&size, slots)), "memory");
    shared = mh_shm_data(memory);
    shared_size = mh_shm_size(memory);
    check(motion_init(shared, &size, slots), "memory");
    if (kill != UINT32_MAX)
        motion_kill(shared, kill);
    int64_t began = mh_now();
    if (workers == 1)
        run_alone();
    else
        run_pool(workers, slots);
    motion_sums sums = motion_sum(writer);
    check(motion_end(&writer), "writing");
    double seconds = (double)(mh_now() - began) / MH_SECOND;
    if (boxes)
        fclose(boxes);
    if (!is_quiet && isatty(2))
        fprintf(stderr, "\n");
    printf("%" PRIu64 " frames of %u x %u, %" PRIu64 " boxes, %.1f MB: %.3f s, %u workers, %.0f MB of shared memory\n", sums.frames, size.width,
           size.height, sums.boxes, (double)sums.bytes / 1e6, seconds, workers, (double)mh_shm_size(memory) / 1e6);
    printf("frames %016" PRIx64 " packets %016" PRIx64 "\n", sums.digest, sums.packets);
    motion_close(&reader);
    mh_shm_destroy(&memory);
    return 0;
}
