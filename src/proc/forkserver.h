/* What travels between a fork server and its starter. Both are the same version of this library on one machine. */
#ifndef MH_PROC_FORKSERVER_H
#define MH_PROC_FORKSERVER_H

#include "manyhands/process.h"

#include <assert.h>

#define MH__FORKSERVER_MAGIC UINT32_C(0x32736672) /* "rfs2": the version is the last character */
#define MH__REQUEST_INLINE ((size_t)(64 * 1024))  /* longer messages come in a memfd */

/* On the server's socket. Descriptors: the child's channel, the memfd of a large message, those for the child. The message follows. */
typedef struct mh__request {
    uint32_t magic;
    uint16_t large;    /* 0 or 1 */
    uint16_t survives; /* 0 or 1: the child goes on when the server ends */
    uint64_t size;  /* of the message */
} mh__request;
static_assert(sizeof(mh__request) == 16, "the same in both processes");

typedef enum mh__note_kind {
    MH__NOTE_STARTED = 1, /* number: pid; a descriptor: the pidfd */
    MH__NOTE_FAILED = 2,  /* number: mh_err; detail: errno or 0 */
    MH__NOTE_ENDED = 3,   /* number: exit code; detail: signal */
    MH__NOTE_STANDBY = 5, /* on the standby's socket. number: pid; a descriptor: the pidfd */
    MH__NOTE_DETACH = 4,  /* from the starter: hanging up is no reason to kill it */
} mh__note_kind;

/* On a child's channel. */
typedef struct mh__note {
    uint32_t magic;
    uint32_t kind;
    int32_t number;
    int32_t detail;
    uint32_t core;
} mh__note;
static_assert(sizeof(mh__note) == 20, "the same in both processes");

/* Serve on `socket`; on `standby`, if that is not -1, a copy of this process does when it is needed. Takes both. */
MH_NODISCARD mh_err mh__forkserver_serve(int socket, int standby, const mh_forkserver_child *child);

#endif
