/* motion.h: find what moves in a video: pieces of work that any process may do, over frames in one piece of shared memory.
 *
 *     motion_reader *in = NULL;
 *     motion_size size;
 *     mh_err err = motion_open(&in, "vtest.avi", &size);              decodes; one process
 *     if (!err) err = motion_init(memory, &size, 4);                  motion_bytes(&size, 4) bytes, zeroed
 *     while (!err && !is_complete)
 *         err = motion_read(in, memory, 0, &is_complete);             batch 0: its frames are there now
 *     if (!err) err = motion_scan(memory, 0, band);                   each band: whoever is free, at the same time
 *     if (!err) err = motion_finish(memory, 0, buffer, capacity, &used);   boxes drawn, frames encoded
 *     if (!err) err = motion_write(out, (mh_bytes){buffer, used});    batches in order; one process
 *
 * Frames go in batches of MOTION_BATCH. What is to be done in which order:
 *
 *     read 0, read 1, ...           at most `slots` batches are between reading and writing
 *     scan k of a band              after read k and after scan k - 1 of the same band: blur, Sobel, and background subtraction, whose
 *                                   model of the background learns from frame to frame
 *     finish k                      after scan k of all bands: components of the foreground, boxes, encoding
 *     write k                       after finish k and write k - 1
 *
 * Every piece of work may be done again (its worker was killed in the middle): it gives the same bytes, because scans read one copy of
 * the model and write the other, and drawing twice is drawing once.
 */
#ifndef MOTION_H
#define MOTION_H

#include <manyhands.h>

#define MOTION_EXPORT __attribute__((visibility("default")))

enum {
    MOTION_BATCH = 12, /* frames; one is encoded without the others, the rest as changes */
    MOTION_BANDS = 8,
    MOTION_SLOTS_MAX = 64,
    MOTION_BOXES_MAX = 256 /* in one frame; more are not told */
};

typedef struct motion_size {
    uint32_t width, height;         /* 16 to 8192 */
    uint32_t rate, rate_divisor;    /* frames a second */
    uint32_t unused;
} motion_size;

typedef struct motion_box {
    uint16_t x, y, width, height;
    uint32_t area; /* pixels of the component in it */
} motion_box;

typedef struct motion_frame {
    uint64_t digest;      /* of the drawn frame's pixels */
    uint32_t box_count;
    uint32_t packet_size; /* bytes of the encoded frame */
    uint32_t is_key, unused;
} motion_frame;           /* in what motion_finish writes: each frame's, then its boxes, then its packet, padded to 8 bytes */

typedef struct motion_reader motion_reader;
typedef struct motion_writer motion_writer;

/* errors: INVALID the file is no video that libav can decode to yuv420p; the reason is on the error stream. NO_MEMORY. */
MOTION_EXPORT mh_err motion_open(motion_reader **out, const char *path, motion_size *size);
/* Read only so many frames. */
MOTION_EXPORT void motion_limit(motion_reader *r, uint64_t frames);
/* Decode the next frame into the slot of `batch`. *is_complete: the batch is full, or has the video's last frames.
 * errors: EMPTY there are no more frames, and none in the batch; INVALID it is full; CORRUPT; NO_MEMORY. */
MOTION_EXPORT mh_err motion_read(motion_reader *r, void *memory, uint32_t batch, bool *is_complete);
MOTION_EXPORT void motion_close(motion_reader **r);

MOTION_EXPORT size_t motion_bytes(const motion_size *size, uint32_t slots);
/* memory is zeroed and 64-byte aligned. errors: INVALID size, or slots: 1 to MOTION_SLOTS_MAX. */
MOTION_EXPORT mh_err motion_init(void *memory, const motion_size *size, uint32_t slots);
/* errors: INVALID band, or the batch is not in its slot; NO_MEMORY. */
MOTION_EXPORT mh_err motion_scan(void *memory, uint32_t batch, uint32_t band);
/* As many bytes as motion_finish may need. */
MOTION_EXPORT size_t motion_finish_bytes(const void *memory);
/* errors: INVALID the batch is not in its slot; NO_SPACE; NO_MEMORY. */
MOTION_EXPORT mh_err motion_finish(void *memory, uint32_t batch, void *out, size_t capacity, size_t *used);
/* For tests: the next worker that is in the middle of a scan, or of finishing, of this batch is killed, once each. */
MOTION_EXPORT void motion_kill(void *memory, uint32_t batch);

/* path NULL: nothing is written, only looked at. errors: INVALID, NO_MEMORY. */
MOTION_EXPORT mh_err motion_create(motion_writer **out, const char *path, const motion_size *size);
/* Append what motion_finish made. boxes, if not NULL, is a FILE that gets a line for each box: frame,x,y,width,height,area.
 * errors: CORRUPT; SYSTEM the file can't be written. */
MOTION_EXPORT mh_err motion_write(motion_writer *w, mh_bytes finished, void *boxes);
/* How many frames and boxes were written; one number for all drawn frames and one for all packets. */
typedef struct motion_sums {
    uint64_t frames, boxes, digest, packets, bytes;
} motion_sums;
MOTION_EXPORT motion_sums motion_sum(const motion_writer *w);
/* End the file. errors: SYSTEM. */
MOTION_EXPORT mh_err motion_end(motion_writer **w);

#endif
