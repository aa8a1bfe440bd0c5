/* motion_state.h: what motion.c and files.c share: how batches lie in memory. */
#ifndef MOTION_STATE_H
#define MOTION_STATE_H

#include "motion.h"

#define NO_BATCH UINT32_MAX

enum { MODES = 3 };

typedef struct motion_header {
    motion_size size;
    uint32_t slots;
    uint32_t kill_scan, kill_finish;
    uint64_t model[2]; /* offsets; batch k reads number k % 2 and writes the other */
    uint64_t first_slot;
} motion_header;

typedef struct motion_slot {
    uint32_t batch; /* which one lies here, or NO_BATCH */
    uint32_t frames;
    char unused[56];
    /* then each frame's planes, in the order below */
} motion_slot;

enum { PLANE_Y, PLANE_U, PLANE_V, PLANE_EDGES, PLANE_MASK };

static inline size_t motion_frame_bytes(const motion_size *size) { return ((size_t)size->width * size->height * 7 / 2 + 63) / 64 * 64; }

static inline size_t motion_slot_bytes(const motion_size *size) { return sizeof(motion_slot) + MOTION_BATCH * motion_frame_bytes(size); }

static inline motion_slot *motion_slot_of(motion_header *h, uint32_t index)
{
    return (motion_slot *)(void *)((char *)h + h->first_slot + index * motion_slot_bytes(&h->size));
}

static inline uint8_t *motion_plane(const motion_header *h, motion_slot *s, uint32_t frame, int plane)
{
    static const uint8_t quarters[] = {0, 4, 5, 6, 10}; /* of a picture that lie before it */
    return (uint8_t *)(s + 1) + frame * motion_frame_bytes(&h->size) + (size_t)h->size.width * h->size.height / 4 * quarters[plane];
}

uint64_t motion_hash(uint64_t hash, const void *bytes, size_t size);

#endif
