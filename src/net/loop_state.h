/* What the loop and its sockets know of each other. */
#ifndef MH_NET_LOOP_STATE_H
#define MH_NET_LOOP_STATE_H

#include "net/loop.h"

#include "base/list.h"

/* Anything with a descriptor. One that is closed during a round stays until it is over: the round may stand on it. */
typedef struct mh__source mh__source;
struct mh__source {
    mh__list link;    /* in loop->sources, later in loop->closed */
    mh__list touched; /* in loop->touched: look at it before sleeping */
    int fd;
    bool is_closed, is_ready;
    bool (*look)(mh__source *s); /* sockets: whether there is something to receive; NULL: the poller knows */
    void (*run)(mh__source *s);
    void (*destroy)(mh__source *s);
};

struct mh__loop {
    void *context; /* of zmq */
    int poller;
    mh__list sources, closed, touched;
    mh__alarm *timers; /* soonest first */
    bool is_dispatching;
    uint64_t monitor_count;
};

mh_err mh__source_add(mh__loop *l, mh__source *s);
void mh__source_close(mh__loop *l, mh__source *s);
/* The state of s may have changed in a way that its descriptor doesn't show. */
void mh__source_touch(mh__loop *l, mh__source *s);

#endif
