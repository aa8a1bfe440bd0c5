/* The door: tokens in a descriptor, for consumers that wait in poll(2) instead of in the ring.
 *
 *     QUIET    nobody polls: producers make no system call
 *     WANTED   pollers, and no token: the producer of the next message writes one
 *     RINGING  a producer is writing it; if it is dead, the next producer writes another
 *     RUNG     a token is there, or was read by who found the ring not empty
 *
 * The descriptor is readable whenever the ring is not empty, because the token is written before the message is published (and after it, should
 * a consumer have wanted one meanwhile), and because a consumer that reads tokens looks again afterwards and then writes one to
 * itself. It may be readable while the ring is empty after a kill; and for a moment before a message, which who does not want
 * to wait waits for all the same.
 *
 * A queue has one eventfd for all of this. A pipe's tokens go through the socket whose hang-up tells that the other end
 * is gone; since nobody can write to his own end of it, each watching process has an eventfd of its own beside it.
 */
#include "queue/ring.h"

#include "os/fd.h"

enum { QUIET, WANTED, RINGING, RUNG };

static void write_token(const mh__door *door)
{
    if (door->is_socket)
        (void)mh__os_send(door->ring, (mh_bytes){"", 1}, NULL, 0, MH_NOW); /* full: readable anyway; closed: nobody cares */
    else if (door->ring >= 0)
        mh__os_eventfd_set(door->ring);
}

static void eat_tokens(mh__door *door)
{
    char token;
    size_t size;
    if (door->is_socket)
        while (mh__os_receive(door->eat, &token, 1, &size, NULL, NULL, MH_NOW) == MH_OK)
            ;
    else if (door->eat >= 0)
        mh__os_eventfd_clear(door->eat);
    int self = atomic_load(&door->self);
    if (self >= 0 && self != door->eat)
        mh__os_eventfd_clear(self);
}

void mh__door_ring(mh__ring *r)
{
    uint32_t state = atomic_load(&r->s->door);
    if (state != WANTED && state != RINGING)
        return;
    if (!atomic_compare_exchange_strong(&r->s->door, &state, RINGING))
        return; /* only a consumer can have come between: it wants one, and is asked again after publishing */
    write_token(&r->door);
    state = RINGING;
    atomic_compare_exchange_strong(&r->s->door, &state, RUNG);
}

/* A poller that was woken by a token is ahead of the message for a moment: let its producer publish. */
void mh__door_await(mh__ring *r)
{
    uint32_t state = atomic_load(&r->s->door);
    if ((state != RINGING && state != RUNG) || mh__ring_has_bytes(r))
        return;
    if (mh__ring_lock(&r->s->push_lock, mh_deadline_in(r->grace_ns)) == MH_OK)
        (void)mh_mutex_unlock(&r->s->push_lock);
}

void mh__door_settle(mh__ring *r)
{
    uint32_t state = atomic_load(&r->s->door);
    if (state == QUIET || mh__ring_has_bytes(r) || atomic_load(&r->s->closed))
        return;
    if (state == WANTED && atomic_load(&r->door.self) < 0)
        return; /* no token is due */
    atomic_store(&r->s->door, WANTED);
    eat_tokens(&r->door);
    int self = atomic_load(&r->door.self);
    if ((mh__ring_has_bytes(r) || atomic_load(&r->s->closed)) && self >= 0)
        mh__os_eventfd_set(self);
}

mh_err mh__door_watch(mh__ring *r)
{
    mh_err err = mh__ring_lock(&r->s->pop_lock, mh_deadline_in(r->grace_ns));
    if (err == MH_ERR_CORRUPT)
        return err;
    uint32_t quiet = QUIET;
    atomic_compare_exchange_strong(&r->s->door, &quiet, WANTED);
    if (mh__ring_has_bytes(r) || atomic_load(&r->s->closed))
        mh__os_eventfd_set(atomic_load(&r->door.self));
    else if (!err)
        mh__door_settle(r);
    if (!err)
        (void)mh_mutex_unlock(&r->s->pop_lock);
    return MH_OK;
}
