/* What a parcel is made of, for the sockets. */
#ifndef MH_NET_PARCEL_FRAMES_H
#define MH_NET_PARCEL_FRAMES_H

#include "net/parcel.h"

#include <zmq.h>

struct mh__parcel {
    zmq_msg_t *frames; /* small ones hold their bytes themselves, so views move with them */
    mh_bytes *views;
    size_t count, capacity, bytes;
    int connection;
    bool is_received; /* some frames may share blocks with what else was received */
};

/* Room for one more frame, which the caller fills in and counts. errors: NO_MEMORY, LIMIT. */
mh_err mh__parcel_reserve(mh__parcel *p);
/* Count the frame at [count], which is initialised. */
void mh__parcel_count_in(mh__parcel *p);

#endif
