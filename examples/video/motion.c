/* What is done with the pixels. Reading and writing files is in files.c. */
#include "motion_state.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>

#define AREA_MIN 200     /* pixels of a component that counts, after the opening and widening of it */
#define QUALITY 4        /* of MPEG-4: 1 is best, 31 worst */
#define FNV_START 14695981039346656037u

/* ---- layout ---------------------------------------------------------------------------------- */

static size_t take(size_t *at, size_t size)
{
    size_t here = *at;
    *at += (size + 63) / 64 * 64;
    return here;
}

/* Floats in a row of the model: eight are read at once. */
static size_t model_stride(const motion_size *size) { return (size->width + 7) / 8 * 8; }

/* Where the arrays of a memory lie. */
typedef struct places {
    size_t model[2], slots, slot_size, end;
} places;

static places lay_out(const motion_size *size, uint32_t slots)
{
    size_t at = 0;
    places p;
    take(&at, sizeof(motion_header));
    for (int i = 0; i < 2; i++)
        p.model[i] = take(&at, model_stride(size) * size->height * 3 * MODES * sizeof(float));
    p.slots = at;
    p.slot_size = motion_slot_bytes(size);
    p.end = at + slots * p.slot_size;
    return p;
}

size_t motion_bytes(const motion_size *size, uint32_t slots) { return lay_out(size, slots).end; }

mh_err motion_init(void *memory, const motion_size *size, uint32_t slots)
{
    motion_header *h = memory;
    if (size->width < 16 || size->height < 16 || size->width > 8192 || size->height > 8192 || size->width % 2 || size->height % 2 || slots < 1 ||
        slots > MOTION_SLOTS_MAX)
        return MH_ERR_INVALID;
    places p = lay_out(size, slots);
    *h = (motion_header){.size = *size, .slots = slots, .model = {p.model[0], p.model[1]}, .first_slot = p.slots, .kill_scan = NO_BATCH, .kill_finish = NO_BATCH};
    for (uint32_t i = 0; i < slots; i++)
        motion_slot_of(h, i)->batch = NO_BATCH;
    return MH_OK;
}

void motion_kill(void *memory, uint32_t batch)
{
    motion_header *h = memory;
    h->kill_scan = h->kill_finish = batch;
}

static void maybe_die(uint32_t *when, uint32_t batch)
{
    if (__atomic_compare_exchange_n(when, &batch, NO_BATCH, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        raise(SIGKILL);
}

/* ---- blur and edges -------------------------------------------------------------------------- */

static int clamp(int v, int low, int high) { return v < low ? low : v > high ? high : v; }

/* One row of a blur by 5 x 5 binomial weights; rows beyond the edge are the last one. `sum` has room for a row and 4 more. */
static void blur_row(const uint8_t *picture, int width, int height, int y, uint16_t *sum, uint8_t *out)
{
    const uint8_t *rows[5];
    for (int k = 0; k < 5; k++)
        rows[k] = picture + (size_t)clamp(y + k - 2, 0, height - 1) * (size_t)width;
    uint16_t *middle = sum + 2;
    for (int x = 0; x < width; x++)
        middle[x] = (uint16_t)(rows[0][x] + rows[4][x] + 4 * (rows[1][x] + rows[3][x]) + 6 * rows[2][x]);
    sum[0] = sum[1] = middle[0];
    middle[width] = middle[width + 1] = middle[width - 1];
    for (int x = 0; x < width; x++)
        out[x] = (uint8_t)((sum[x] + sum[x + 4] + 4 * (sum[x + 1] + sum[x + 3]) + 6 * sum[x + 2] + 128) >> 8);
}

/* How steep the blurred picture is: half the sum of Sobel's two directions, at most 255. The first and the last column have none. */
static void edge_row(const uint8_t *above, const uint8_t *row, const uint8_t *below, int width, uint8_t *out)
{
    out[0] = out[width - 1] = 0;
    for (int x = 1; x < width - 1; x++) {
        int16_t across = (int16_t)(above[x + 1] - above[x - 1] + 2 * (row[x + 1] - row[x - 1]) + below[x + 1] - below[x - 1]);
        int16_t down = (int16_t)(below[x - 1] - above[x - 1] + 2 * (below[x] - above[x]) + below[x + 1] - above[x + 1]);
        int16_t steep = (int16_t)(((across < 0 ? -across : across) + (down < 0 ? -down : down)) >> 1);
        out[x] = (uint8_t)(steep > 255 ? 255 : steep);
    }
}

/* ---- background ------------------------------------------------------------------------------ */

/* Each pixel's past is a mixture of up to MODES normal distributions, the most frequent first, that learns by and by: Z. Zivkovic and
 * F. van der Heijden, "Efficient adaptive density estimation per image pixel for the task of background subtraction", 2006; with the
 * numbers that OpenCV's MOG2 uses by default. A weight of 0 is no mode. */
#define HISTORY 500
#define BACKGROUND 0.9f    /* the first modes that make up so much are background */
#define NEAR 16.0f         /* squared distance, in variances, of what belongs to the background */
#define SAME 9.0f          /* and of what belongs to a mode */
#define VARIANCE_NEW 15.0f
#define VARIANCE_MIN 4.0f
#define VARIANCE_MAX 75.0f
#define COMPLEXITY 0.05f   /* how fast modes without evidence fade away */

/* Eight pixels at once: the compiler makes of this what the processor has. */
typedef float eight __attribute__((vector_size(32)));
typedef int32_t truth __attribute__((vector_size(32))); /* 0 or -1 each */
typedef uint8_t bytes8 __attribute__((vector_size(8)));
#define INLINE static inline __attribute__((always_inline))

INLINE eight choose(truth which, eight yes, eight no) { return (eight)((which & (truth)yes) | (~which & (truth)no)); }
INLINE eight only(truth which, eight value) { return (eight)(which & (truth)value); }
INLINE eight load(const float *at)
{
    eight v;
    memcpy(&v, at, sizeof v);
    return v;
}
INLINE void store(float *at, eight v) { memcpy(at, &v, sizeof v); }

typedef struct mode {
    eight weight, mean, variance;
} mode;

/* Where b weighs more than a, they change places. */
INLINE void sort_two(mode *a, mode *b)
{
    truth up = b->weight > a->weight;
    mode was = *a;
    *a = (mode){choose(up, b->weight, a->weight), choose(up, b->mean, a->mean), choose(up, b->variance, a->variance)};
    *b = (mode){choose(up, was.weight, b->weight), choose(up, was.mean, b->mean), choose(up, was.variance, b->variance)};
}

/* Let the modes see `value`. Returns where it is background. */
INLINE truth learn_eight(mode *m, eight value, float rate)
{
    const float fade = rate * COMPLEXITY;
    const eight zero = {0}, one = zero + 1;
    eight total = zero;
    truth fitted = zero > one, background = fitted;
    for (int k = 0; k < MODES; k++) {
        eight d = value - m[k].mean, square = d * d;
        truth open = (m[k].weight > zero) & ~fitted, fits = open & (square < SAME * m[k].variance);
        background |= open & (total < BACKGROUND) & (square < NEAR * m[k].variance);
        eight now = (1 - rate) * m[k].weight - fade + only(fits, zero + rate);
        eight step = rate / choose(fits, now, one);
        eight wide = m[k].variance + step * (square - m[k].variance);
        wide = choose(wide < VARIANCE_MIN, zero + VARIANCE_MIN, choose(wide > VARIANCE_MAX, zero + VARIANCE_MAX, wide));
        m[k].mean += only(fits, step * d);
        m[k].variance = choose(fits, wide, m[k].variance);
        m[k].weight = only((m[k].weight > zero) & (now >= fade), now);
        total += m[k].weight;
        fitted |= fits;
    }
    /* nothing fits: a new mode behind the others, or in the last one's place */
    truth missing = ~fitted, some = total > zero;
    eight scale = choose(missing, zero + (1 - rate), one) / choose(some, total, one);
    for (int k = 0; k < MODES; k++) {
        truth here = k + 1 < MODES ? missing & (m[k].weight <= zero) : missing;
        missing &= ~here;
        m[k].weight = choose(here, choose(some, zero + rate, one), m[k].weight * scale);
        m[k].mean = choose(here, value, m[k].mean);
        m[k].variance = choose(here, zero + VARIANCE_NEW, m[k].variance);
    }
    /* one mode at most has gained: it moves up */
    sort_two(&m[1], &m[2]);
    sort_two(&m[0], &m[1]);
    return background;
}

/* One row of one frame. A model: for each of the MODES a row of weights, one of means, one of variances, each `stride` long. `to` may be `from`. */
INLINE void learn_row_body(const uint8_t *row, const float *from, float *to, size_t stride, uint8_t *mask, size_t width, float rate)
{
    for (size_t x = 0; x < width; x += 8) {
        size_t count = width - x < 8 ? width - x : 8;
        bytes8 bytes = {0};
        mode m[MODES];
        if (count == 8)
            memcpy(&bytes, row + x, 8);
        else
            memcpy(&bytes, row + x, count);
        for (size_t k = 0; k < MODES; k++)
            m[k] = (mode){load(from + 3 * k * stride + x), load(from + (3 * k + 1) * stride + x), load(from + (3 * k + 2) * stride + x)};
        eight value = __builtin_convertvector(__builtin_convertvector(bytes, truth), eight);
        bytes = __builtin_convertvector(~learn_eight(m, value, rate), bytes8);
        for (size_t k = 0; k < MODES; k++) {
            store(to + 3 * k * stride + x, m[k].weight);
            store(to + (3 * k + 1) * stride + x, m[k].mean);
            store(to + (3 * k + 2) * stride + x, m[k].variance);
        }
        if (count == 8)
            memcpy(mask + x, &bytes, 8);
        else
            memcpy(mask + x, &bytes, count);
    }
}

static void learn_row_plain(const uint8_t *row, const float *from, float *to, size_t stride, uint8_t *mask, size_t width, float rate)
{
    learn_row_body(row, from, to, stride, mask, width, rate);
}

#if defined __x86_64__
__attribute__((target("avx2,fma"))) static void learn_row_avx2(const uint8_t *row, const float *from, float *to, size_t stride, uint8_t *mask, size_t width, float rate)
{
    learn_row_body(row, from, to, stride, mask, width, rate);
}
#endif

typedef void (*learn_fn)(const uint8_t *row, const float *from, float *to, size_t stride, uint8_t *mask, size_t width, float rate);

static learn_fn choose_learn(void)
{
#if defined __x86_64__
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return learn_row_avx2;
#endif
    return learn_row_plain;
}

static float rate_at(uint64_t frame) { return 1.0f / (float)(2 * (frame + 1) < HISTORY ? 2 * (frame + 1) : HISTORY); }

/* ---- scan ------------------------------------------------------------------------------------ */

static motion_slot *find_slot(motion_header *h, uint32_t batch)
{
    motion_slot *s = motion_slot_of(h, batch % h->slots);
    return s->batch == batch && s->frames >= 1 && s->frames <= MOTION_BATCH ? s : NULL;
}

/* Blur the band's rows and one more on either side into `blurred`, and write the edges between them. */
static void filter_frame(const motion_header *h, motion_slot *s, uint32_t frame, int first, int end, uint16_t *sum, uint8_t *blurred)
{
    int width = (int)h->size.width, height = (int)h->size.height;
    const uint8_t *picture = motion_plane(h, s, frame, PLANE_Y);
    uint8_t *edges = motion_plane(h, s, frame, PLANE_EDGES);
    for (int y = first - 1; y < end + 1; y++)
        blur_row(picture, width, height, clamp(y, 0, height - 1), sum, blurred + (size_t)(y - first + 1) * h->size.width);
    for (int y = first; y < end; y++) {
        const uint8_t *row = blurred + (size_t)(y - first + 1) * h->size.width;
        edge_row(row - width, row, row + width, width, edges + (size_t)y * h->size.width);
    }
}

/* Row by row, each through all frames of the batch: its part of the model stays in the cache. */
static void learn_band(motion_header *h, motion_slot *s, int first, int end, const uint8_t *blurred, size_t blurred_size)
{
    size_t width = h->size.width, stride = model_stride(&h->size), row_floats = 3 * MODES * stride;
    const float *old = (const float *)(const void *)((char *)h + h->model[s->batch % 2]);
    float *new = (float *)(void *)((char *)h + h->model[1 - s->batch % 2]);
    learn_fn learn = choose_learn();
    for (int y = first; y < end; y++) {
        const float *from = old + (size_t)y * row_floats;
        float *to = new + (size_t)y * row_floats;
        for (uint32_t f = 0; f < s->frames; f++)
            learn(blurred + f * blurred_size + (size_t)(y - first + 1) * width, f == 0 ? from : to, to, stride,
                  motion_plane(h, s, f, PLANE_MASK) + (size_t)y * width, width, rate_at((uint64_t)s->batch * MOTION_BATCH + f));
        if (y == (first + end) / 2)
            maybe_die(&h->kill_scan, s->batch);
    }
}

mh_err motion_scan(void *memory, uint32_t batch, uint32_t band)
{
    motion_header *h = memory;
    motion_slot *s = find_slot(h, batch);
    if (!s || band >= MOTION_BANDS)
        return MH_ERR_INVALID;
    int first = (int)(h->size.height * band / MOTION_BANDS), end = (int)(h->size.height * (band + 1) / MOTION_BANDS);
    size_t width = h->size.width, blurred_size = (size_t)(end - first + 2) * width;
    uint16_t *sum = malloc((width + 4) * sizeof *sum);
    uint8_t *blurred = malloc(s->frames * blurred_size);
    mh_err err = sum && blurred ? MH_OK : MH_ERR_NO_MEMORY;
    for (uint32_t f = 0; f < s->frames && !err; f++)
        filter_frame(h, s, f, first, end, sum, blurred + f * blurred_size);
    if (!err)
        learn_band(h, s, first, end, blurred, blurred_size);
    free(blurred);
    free(sum);
    return err;
}

/* ---- components ------------------------------------------------------------------------------ */

/* The least (or most) of three neighbours, `step` apart, along a row or a column; what lies outside does not count. */
static void narrow(const uint8_t *restrict a, const uint8_t *restrict b, const uint8_t *restrict c, uint8_t *restrict out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t ab = a[i] < b[i] ? a[i] : b[i];
        out[i] = ab < c[i] ? ab : c[i];
    }
}

static void widen(const uint8_t *restrict a, const uint8_t *restrict b, const uint8_t *restrict c, uint8_t *restrict out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t ab = a[i] > b[i] ? a[i] : b[i];
        out[i] = ab > c[i] ? ab : c[i];
    }
}

typedef void (*three_fn)(const uint8_t *restrict a, const uint8_t *restrict b, const uint8_t *restrict c, uint8_t *restrict out, size_t count);

static void along_rows(three_fn three, const uint8_t *in, uint8_t *out, size_t width, size_t height, size_t step)
{
    for (size_t y = 0; y < height; y++) {
        const uint8_t *row = in + y * width;
        uint8_t *to = out + y * width;
        three(row, row, row + step, to, step);
        three(row, row + step, row + 2 * step, to + step, width - 2 * step);
        three(row + width - 2 * step, row + width - step, row + width - step, to + width - step, step);
    }
}

static void along_columns(three_fn three, const uint8_t *in, uint8_t *out, size_t width, size_t height, size_t step)
{
    for (size_t y = 0; y < height; y++) {
        const uint8_t *row = in + y * width;
        three(y >= step ? row - step * width : row, row, y + step < height ? row + step * width : row, out + y * width, width);
    }
}

/* Take single dots away (3 x 3), then widen what is left by four pixels (9 x 9), so that the parts of a body come together. */
static void clean_mask(uint8_t *mask, uint8_t *other, size_t width, size_t height)
{
    along_rows(narrow, mask, other, width, height, 1);
    along_columns(narrow, other, mask, width, height, 1);
    along_rows(widen, mask, other, width, height, 1);
    along_rows(widen, other, mask, width, height, 3);
    along_columns(widen, mask, other, width, height, 1);
    along_columns(widen, other, mask, width, height, 3);
}

typedef struct run {
    uint16_t first, end;
    uint32_t label; /* the number of an earlier run of the component, or its own */
} run;

static uint32_t find_root(run *runs, uint32_t i)
{
    while (runs[i].label != i)
        i = runs[i].label = runs[runs[i].label].label;
    return i;
}

static void join_runs(run *runs, uint32_t a, uint32_t b)
{
    a = find_root(runs, a), b = find_root(runs, b);
    runs[a > b ? a : b].label = a > b ? b : a;
}

/* The runs of a row, from `count` on; those of the row above begin at `above`. Returns the new count. */
static uint32_t scan_row(const uint8_t *row, size_t width, run *runs, uint32_t above, uint32_t count)
{
    uint32_t above_end = count, a = above;
    for (size_t x = 0; x < width;) {
        const uint8_t *start = memchr(row + x, 255, width - x);
        if (!start)
            break;
        const uint8_t *end = memchr(start, 0, (size_t)(row + width - start));
        size_t first = (size_t)(start - row);
        x = end ? (size_t)(end - row) : width;
        runs[count] = (run){(uint16_t)first, (uint16_t)x, count};
        while (a < above_end && runs[a].end < first) /* 8-connected: corners touch */
            a++;
        for (uint32_t b = a; b < above_end && runs[b].first <= x; b++)
            join_runs(runs, b, count);
        count++;
    }
    return count;
}

typedef struct extent {
    uint32_t left, top, right, bottom, area;
} extent;

/* Boxes of the components with at least AREA_MIN pixels, in the order of their first rows. */
static uint32_t gather_boxes(const run *runs, const uint32_t *row_of, uint32_t count, extent *extents, motion_box *boxes)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t root = i;
        while (runs[root].label != root)
            root = runs[root].label;
        extent *e = &extents[root];
        if (root == i)
            *e = (extent){UINT32_MAX, row_of[i], 0, 0, 0};
        e->left = e->left < runs[i].first ? e->left : runs[i].first;
        e->right = e->right > runs[i].end ? e->right : runs[i].end;
        e->bottom = row_of[i] + 1;
        e->area += (uint32_t)(runs[i].end - runs[i].first);
    }
    uint32_t found = 0;
    for (uint32_t i = 0; i < count && found < MOTION_BOXES_MAX; i++) {
        const extent *e = &extents[i];
        if (runs[i].label == i && e->area >= AREA_MIN)
            boxes[found++] = (motion_box){(uint16_t)e->left, (uint16_t)e->top, (uint16_t)(e->right - e->left), (uint16_t)(e->bottom - e->top), e->area};
    }
    return found;
}

static mh_err find_boxes(const uint8_t *mask, size_t width, size_t height, motion_box *boxes, uint32_t *count)
{
    size_t most = (width / 2 + 1) * height;
    run *runs = malloc(most * sizeof *runs);
    uint32_t *row_of = malloc(most * sizeof *row_of), used = 0, above = 0;
    extent *extents = malloc(most * sizeof *extents);
    mh_err err = runs && row_of && extents ? MH_OK : MH_ERR_NO_MEMORY;
    for (size_t y = 0; !err && y < height; y++) {
        uint32_t begin = used;
        used = scan_row(mask + y * width, width, runs, above, used);
        for (uint32_t i = begin; i < used; i++)
            row_of[i] = (uint32_t)y;
        above = begin;
    }
    if (!err)
        *count = gather_boxes(runs, row_of, used, extents, boxes);
    free(extents);
    free(row_of);
    free(runs);
    return err;
}

/* ---- drawing --------------------------------------------------------------------------------- */

/* Edges of what moves shine. */
static void draw_edges(uint8_t *picture, const uint8_t *edges, const uint8_t *mask, size_t pixels)
{
    for (size_t i = 0; i < pixels; i++) {
        uint8_t edge = edges[i] & mask[i];
        picture[i] = picture[i] > edge ? picture[i] : edge;
    }
}

static void fill(uint8_t *plane, uint32_t stride, uint32_t x, uint32_t y, uint32_t width, uint32_t height, uint8_t value)
{
    for (uint32_t row = y; row < y + height; row++)
        memset(plane + (size_t)row * stride + x, value, width);
}

static void outline(uint8_t *plane, uint32_t stride, const motion_box *b, uint32_t scale, uint8_t value)
{
    uint32_t x = b->x / scale, y = b->y / scale, width = b->width / scale, height = b->height / scale, thick = 2 / scale;
    fill(plane, stride, x, y, width, thick, value);
    fill(plane, stride, x, y + height - thick, width, thick, value);
    fill(plane, stride, x, y, thick, height, value);
    fill(plane, stride, x + width - thick, y, thick, height, value);
}

static void draw_box(const motion_header *h, motion_slot *s, uint32_t frame, const motion_box *b)
{
    outline(motion_plane(h, s, frame, PLANE_Y), h->size.width, b, 1, 200);
    outline(motion_plane(h, s, frame, PLANE_U), h->size.width / 2, b, 2, 40);
    outline(motion_plane(h, s, frame, PLANE_V), h->size.width / 2, b, 2, 40); /* green */
}

uint64_t motion_hash(uint64_t hash, const void *bytes, size_t size)
{
    const char *b = bytes;
    for (; size >= 8; b += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, b, sizeof word);
        hash = (hash ^ word) * 1099511628211u;
        hash ^= hash >> 32;
    }
    for (; size > 0; b++, size--)
        hash = (hash ^ (unsigned char)*b) * 1099511628211u;
    return hash;
}

/* ---- encoding -------------------------------------------------------------------------------- */

static void keep(void *opaque, uint8_t *data)
{
    (void)opaque;
    (void)data; /* it is shared memory */
}

static mh_err open_encoder(const motion_header *h, AVCodecContext **out)
{
    const AVCodec *codec = avcodec_find_encoder(AV_CODEC_ID_MPEG4);
    AVCodecContext *c = codec ? avcodec_alloc_context3(codec) : NULL;
    if (!c)
        return codec ? MH_ERR_NO_MEMORY : MH_ERR_UNSUPPORTED;
    c->width = (int)h->size.width;
    c->height = (int)h->size.height;
    c->pix_fmt = AV_PIX_FMT_YUV420P;
    c->time_base = (AVRational){(int)h->size.rate_divisor, (int)h->size.rate};
    c->gop_size = MOTION_BATCH;
    c->flags |= AV_CODEC_FLAG_QSCALE | AV_CODEC_FLAG_BITEXACT;
    c->global_quality = QUALITY * FF_QP2LAMBDA;
    c->thread_count = 1;
    if (avcodec_open2(c, codec, NULL) < 0) {
        avcodec_free_context(&c);
        return MH_ERR_UNSUPPORTED;
    }
    *out = c;
    return MH_OK;
}

/* A frame whose pixels are those in shared memory. */
static mh_err send_frame(AVCodecContext *c, const motion_header *h, motion_slot *s, uint32_t index)
{
    AVFrame *f = av_frame_alloc();
    if (!f)
        return MH_ERR_NO_MEMORY;
    f->format = AV_PIX_FMT_YUV420P;
    f->width = (int)h->size.width;
    f->height = (int)h->size.height;
    f->quality = c->global_quality;
    f->pts = (int64_t)s->batch * MOTION_BATCH + index;
    mh_err err = MH_OK;
    for (int plane = 0; plane < 3 && !err; plane++) {
        size_t size = (size_t)h->size.width * h->size.height >> (plane ? 2 : 0);
        f->data[plane] = motion_plane(h, s, index, plane);
        f->linesize[plane] = (int)(h->size.width >> (plane ? 1 : 0));
        f->buf[plane] = av_buffer_create(f->data[plane], size, keep, NULL, 0);
        err = f->buf[plane] ? MH_OK : MH_ERR_NO_MEMORY;
    }
    if (!err && avcodec_send_frame(c, f) < 0)
        err = MH_ERR_NO_MEMORY;
    av_frame_free(&f);
    return err;
}

/* ---- finish ---------------------------------------------------------------------------------- */

/* Appends to memory of the caller's. */
typedef struct sink {
    char *at, *end;
} sink;

static mh_err append(sink *to, const void *bytes, size_t size)
{
    size_t padded = (size + 7) / 8 * 8;
    if (padded > (size_t)(to->end - to->at))
        return MH_ERR_NO_SPACE;
    memcpy(to->at, bytes, size);
    memset(to->at + size, 0, padded - size);
    to->at += padded;
    return MH_OK;
}

size_t motion_finish_bytes(const void *memory)
{
    const motion_header *h = memory;
    return MOTION_BATCH * (sizeof(motion_frame) + MOTION_BOXES_MAX * sizeof(motion_box) + 2 * (size_t)h->size.width * h->size.height + 4096);
}

static mh_err finish_frame(motion_header *h, motion_slot *s, uint32_t index, AVCodecContext *encoder, AVPacket *packet, uint8_t *other, sink *out)
{
    size_t width = h->size.width, height = h->size.height;
    uint8_t *mask = motion_plane(h, s, index, PLANE_MASK), *picture = motion_plane(h, s, index, PLANE_Y);
    motion_box boxes[MOTION_BOXES_MAX];
    motion_frame frame = {.box_count = 0};
    /* the mask stays as it is, for whoever has to do this again */
    uint8_t *cleaned = other + width * height;
    memcpy(cleaned, mask, width * height);
    clean_mask(cleaned, other, width, height);
    mh_err err = find_boxes(cleaned, width, height, boxes, &frame.box_count);
    if (err)
        return err;
    draw_edges(picture, motion_plane(h, s, index, PLANE_EDGES), mask, width * height);
    for (uint32_t b = 0; b < frame.box_count; b++)
        draw_box(h, s, index, &boxes[b]);
    frame.digest = motion_hash(FNV_START, picture, width * height * 3 / 2); /* the three planes lie one after the other */
    err = send_frame(encoder, h, s, index);
    if (err)
        return err;
    if (avcodec_receive_packet(encoder, packet) < 0)
        return MH_ERR_NO_MEMORY;
    frame.packet_size = (uint32_t)packet->size;
    frame.is_key = !!(packet->flags & AV_PKT_FLAG_KEY);
    err = append(out, &frame, sizeof frame);
    if (!err)
        err = append(out, boxes, frame.box_count * sizeof *boxes);
    if (!err)
        err = append(out, packet->data, (size_t)packet->size);
    av_packet_unref(packet);
    return err;
}

mh_err motion_finish(void *memory, uint32_t batch, void *out, size_t capacity, size_t *used)
{
    motion_header *h = memory;
    motion_slot *s = find_slot(h, batch);
    if (!s)
        return MH_ERR_INVALID;
    AVCodecContext *encoder = NULL;
    AVPacket *packet = av_packet_alloc();
    uint8_t *other = malloc(2 * (size_t)h->size.width * h->size.height);
    sink to = {out, (char *)out + capacity};
    mh_err err = packet && other ? open_encoder(h, &encoder) : MH_ERR_NO_MEMORY;
    for (uint32_t f = 0; f < s->frames && !err; f++) {
        err = finish_frame(h, s, f, encoder, packet, other, &to);
        if (f == s->frames / 2)
            maybe_die(&h->kill_finish, batch);
    }
    *used = (size_t)(to.at - (char *)out);
    avcodec_free_context(&encoder);
    av_packet_free(&packet);
    free(other);
    return err;
}
