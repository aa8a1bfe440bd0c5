/* What process.c and forkserver.c share. */
#ifndef MH_PROC_PROCESS_H
#define MH_PROC_PROCESS_H

#include "manyhands/process.h"

#include "os/process.h"
#include "os/thread.h"

#include <stdatomic.h>

enum { MH__LOST_CODE = 255 }; /* exit code of who ended nobody knows how */

typedef enum mh__process_state {
    MH__PROCESS_POSTED,  /* asked of a fork server, not answered yet */
    MH__PROCESS_RUNNING, /* or ended, and its status not taken yet */
    MH__PROCESS_FAILED,  /* there never was one */
    MH__PROCESS_ENDED,   /* status is valid */
} mh__process_state;

struct mh_process {
    unsigned fork_depth;   /* of its owner; constant */
    mh_forkserver *server; /* who forked it and holds its status; NULL: this process did. Retained, constant */
    int channel;           /* to the server, which sends notes on it; -1 without one. Constant; who reads holds the lock */
    _Atomic int32_t pid;   /* -1 until it is known; then constant */
    _Atomic int pidfd;     /* the same */
    bool survives;         /* its fork server's end is not its own; constant */

    mh__lock *lock; /* guards what follows */
    mh__process_state state;
    mh_exit status;
    mh_err failure;
    int failure_errno;
    mh_process *next; /* among detached ones; guard: being in that list */
};

/* A process in state POSTED or, with a pidfd, RUNNING. */
mh_err mh__process_create(mh_process **out);
void mh__process_free(mh_process **p);

/* Fork between the hooks. */
mh_err mh__fork(const mh__child_setup *setup, int32_t *pid, int *pidfd, bool *in_child);
/* The same for a child that only forks others and runs nothing of the program's: the hook for children waits for those. */
mh_err mh__fork_image(const mh__child_setup *setup, int32_t *pid, int *pidfd, bool *in_child);

/* For p of a fork server, with its lock held: take one note, without waiting, and move p's state on. errors: TIMEOUT none there. */
mh_err mh__forkserver_take_note(mh_process *p);
/* Sleep until p's channel may hold a note or its server has ended; returns at intervals besides, since another thread may
 * have taken the note. errors: INTERRUPTED. */
mh_err mh__forkserver_await_note(const mh_process *p, mh_deadline until);
/* Tell the server that p's owner has lost interest, but that the process may go on. */
void mh__forkserver_detach(mh_process *p);
/* In a server's child: tell the server that it is not to be killed with the others. */
void mh__forkserver_note_survival(void);
void mh__forkserver_retain(mh_forkserver *server);
void mh__forkserver_release(mh_forkserver *server);

#endif
