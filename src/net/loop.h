/* One thread's loop over sockets, descriptors and timers.
 *
 *     while (!done && !err) {
 *         err = mh__loop_wait(loop, MH_FOREVER);   // sleeps until something is ready
 *         mh__loop_dispatch(loop);                 // calls what belongs to it
 *         ... what the program does after each round: decide, send, commit
 *     }
 *
 * Readiness is level-triggered: what a callback leaves unread is offered again in the next round. No round takes more than
 * MH__LOOP_BATCH messages from one socket, so that none starves the others. A callback may close its own or any other source.
 *
 * threads: the one that runs it, and only that one, calls anything here.
 */
#ifndef MH_NET_LOOP_H
#define MH_NET_LOOP_H

#include "manyhands/base.h"

enum { MH__LOOP_BATCH = 64 };

typedef struct mh__loop mh__loop;

/* errors: NO_MEMORY; SYSTEM. */
MH_NODISCARD mh_err mh__loop_create(mh__loop **out);
/* Every socket of the loop must be closed before. Waits for messages that are still being sent, as long as their sockets' linger_ms. */
void mh__loop_destroy(mh__loop **l);

/* Sleep until a source is ready or a timer due, but no longer than `until`. errors: TIMEOUT; INTERRUPTED a signal handler ran; SYSTEM. */
MH_NODISCARD mh_err mh__loop_wait(mh__loop *l, mh_deadline until);
void mh__loop_dispatch(mh__loop *l);

/* ---- descriptors ----------------------------------------------------------------------------- */

typedef void (*mh__fd_fn)(int fd, void *ctx);
/* Call fn while fd is readable or hung up. fd stays the caller's. errors: NO_MEMORY; SYSTEM. */
MH_NODISCARD mh_err mh__loop_add_fd(mh__loop *l, int fd, mh__fd_fn fn, void *ctx);
void mh__loop_remove_fd(mh__loop *l, int fd);

/* ---- timers ---------------------------------------------------------------------------------- */

/* Lies in its owner, zeroed but for fn and ctx. It fires once; set it again to repeat. For tens of timers, not thousands. */
typedef struct mh__alarm mh__alarm;
struct mh__alarm {
    void (*fn)(void *ctx);
    void *ctx;
    mh_deadline at;
    mh__alarm *next;
    bool is_set;
};
void mh__alarm_set(mh__loop *l, mh__alarm *t, mh_deadline at); /* also moves one that is set */
void mh__alarm_clear(mh__loop *l, mh__alarm *t);

#endif
