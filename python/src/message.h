/* Objects as messages of queues and pipes, and what both do with them. */
#ifndef MHPY_MESSAGE_H
#define MHPY_MESSAGE_H

#include "core.h"
#include "plain_parse.h"

#include "manyhands/queue.h"

/* What a message is: its tag. */
enum {
    MHPY_RAW = 0,     /* bytes that somebody sent as such; for recv, a pickle */
    MHPY_VALUE = 1,   /* a small plain object, see plain_parse.h */
    MHPY_OCTETS = 2,  /* a bytes object */
    MHPY_PICKLED = 3, /* a pickle with everything in it */
    MHPY_BESIDE = 4,  /* a block as in codec_parse.h: a pickle, and big buffers beside it */
};

/* An object on its way out. Its parts point into it and into what it holds. */
typedef struct mhpy_outgoing {
    uint32_t tag;
    size_t count;
    mh_bytes *parts, few;
    PyObject *held;             /* the object, where the parts lie in it */
    PyObject *chunks, *beside;  /* lists: of a pickle and its buffers */
    Py_buffer *views;           /* of all of them, in this order */
    size_t view_count;
    unsigned char *head;
    unsigned char space[MHPY_PLAIN_MAX];
} mhpy_outgoing;

/* Make a message of `object`. False with an exception set; close it in any case. */
bool mhpy_outgoing_write(mhpy_outgoing *m, PyObject *object);
/* A message of the bytes of a view, which outlives it. */
void mhpy_outgoing_raw(mhpy_outgoing *m, mh_bytes bytes);
void mhpy_outgoing_close(mhpy_outgoing *m);

/* A message that has come: its bytes are private, in `space`, in memory of their own, or where the caller wanted them. */
typedef struct mhpy_incoming {
    uint32_t tag;
    size_t size;
    unsigned char *at;
    PyObject *owner; /* of large ones: bytes (all of it, exactly) or, for MHPY_BESIDE, a buffer */
    unsigned char *place; /* where large raw bytes should go if they fit, or NULL */
    size_t place_size;
    _Alignas(64) unsigned char space[4096];
} mhpy_incoming;

/* The object; NULL with an exception set. */
PyObject *mhpy_incoming_read(mhpy_incoming *m);
/* The bytes, as recv_bytes gives them: of an object that was sent, its pickle. New reference to a bytes object. */
PyObject *mhpy_incoming_bytes(mhpy_incoming *m);
void mhpy_incoming_close(mhpy_incoming *m);

/* ---- what a queue and a pipe's end have in common: channel.c --------------------------------------------- */

typedef struct mhpy_channel mhpy_channel;
typedef struct mhpy_channel_kind {
    mh_err (*push)(mhpy_channel *c, const mh_bytes *parts, size_t count, uint32_t tag, mh_deadline until);
    mh_err (*pop)(mhpy_channel *c, void *buffer, size_t capacity, mh_deadline until, size_t *size, uint32_t *tag);
    mh_err (*wait)(mhpy_channel *c, mh_deadline until);
    void (*destroy)(mhpy_channel *c);
} mhpy_channel_kind;

/* Guarded by the interpreter's lock. The handle lives while somebody is inside a call on it. */
struct mhpy_channel {
    PyObject_HEAD
    const mhpy_channel_kind *kind;
    union {
        mh_queue *queue;
        mh_pipe *pipe;
    };
    bool closed;   /* a queue that takes no more calls of put and get */
    bool fed;      /* this process has put something, or tried to */
    bool released; /* the handle goes with its last user */
    uint32_t users, generation; /* threads inside a call, of the process whose generation this is */
};

/* How a wait ended. */
typedef enum mhpy_wait {
    MHPY_DONE,
    MHPY_LATE,  /* not within the deadline */
    MHPY_GONE,  /* the other end of the pipe is gone */
    MHPY_ERROR, /* an exception is set */
} mhpy_wait;

/* Each lets go of the interpreter's lock, and runs signal handlers at least every 50 ms while it waits. The caller has seen that c is open. */
mhpy_wait mhpy_channel_push(mhpy_channel *c, const mhpy_outgoing *m, mh_deadline until);
mhpy_wait mhpy_channel_pop(mhpy_channel *c, mhpy_incoming *m, mh_deadline until);
mhpy_wait mhpy_channel_pop_into(mhpy_channel *c, mhpy_incoming *m, unsigned char *place, size_t place_size, mh_deadline until);
mhpy_wait mhpy_channel_wait(mhpy_channel *c, mh_deadline until);
/* The same for another call on the handle. */
typedef mh_err (*mhpy_channel_fn)(mhpy_channel *c, mh_deadline until, void *ctx);
mhpy_wait mhpy_channel_call(mhpy_channel *c, mhpy_channel_fn fn, void *ctx, mh_deadline until);

/* The handle goes as soon as nobody is inside a call. */
void mhpy_channel_close(mhpy_channel *c);
void mhpy_channel_dealloc(PyObject *self);
/* Have forks noticed: the child's threads are inside no call. Once. False with an exception set. */
bool mhpy_watch_forks(void);

extern PyType_Spec mhpy_sink_spec, mhpy_reducers_spec, mhpy_queue_spec, mhpy_simple_queue_spec, mhpy_pipe_spec;

#endif
