/* Segments that the parent attached to the pool, as a worker maps them. */
#ifndef MH_POOL_SEGMENTS_H
#define MH_POOL_SEGMENTS_H

#include "manyhands/base.h"

enum { MH__SEGMENTS_MAX = 1024 };

/* The message with which the parent passes a segment's descriptor, or (size 0, no descriptor) says that it is not used any more. */
typedef struct mh__segment_message {
    uint64_t magic;
    uint32_t id; /* never used again; id % MH__SEGMENTS_MAX is its place among those that are attached */
    uint32_t readonly;
    uint64_t size;
} mh__segment_message;
#define MH__SEGMENT_MAGIC UINT64_C(0x746e656d6765736d)

typedef struct mh__segment {
    uint32_t id;
    char *base;
    size_t size;
} mh__segment;

typedef struct mh__segments {
    mh__segment *items; /* by place */
    size_t count;
} mh__segments;

/* Take one message from the socket and map what it brings. errors: TIMEOUT none there; CLOSED the parent is gone; CORRUPT; SYSTEM. */
MH_NODISCARD mh_err mh__segments_receive(mh__segments *s, int socket, mh_deadline until);
/* The bytes [offset, offset + size) of segment id, receiving until it is there. errors: CORRUPT; as above. */
MH_NODISCARD mh_err mh__segments_find(mh__segments *s, int socket, uint32_t id, uint64_t offset, uint64_t size, void **out);
void mh__segments_fini(mh__segments *s);

#endif
