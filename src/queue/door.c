/* The door: tokens in a descriptor, for consumers that wait in poll(2) instead of in the ring.
 *
 *     QUIET    nobody polls: producers make no system call. In a socket a token lies ready
 *     WANTED   pollers, and no token: the producer of the next message writes one
 *     RINGING  a producer is writing it; if it is dead, the next producer writes another
 *     RUNG     a token is there
 *
 * The descriptor is readable whenever the ring is not empty, because the token is written before the message is published (and after it, should
 * a consumer have wanted one meanwhile), and because a consumer takes a token away only when it has seen the ring empty since it
 * wanted the next one. It may be readable while the ring is empty: after a kill, until somebody finds the ring empty; and for a moment before
 * a message, which who does not want to wait waits for all the same.
 *
 * A queue has one eventfd for all of this, in which tokens are one, so that a consumer reads it, looks again and may then write
 * it itself. A pipe's tokens go through the socket whose hang-up tells that the other end is gone. There nobody can write to his own
 * end, hence the token that lies ready from the beginning. Tokens are counted there: for each RUNG there is one. The only ones
 * too many are those of dead producers, which are removed with both locks held. Descriptors that are sent through the
 * socket keep their place among the tokens; so there is a token behind the last of them while the ring is not empty.
 */
#include "queue/ring.h"

#include "os/fd.h"

enum { QUIET, WANTED, RINGING, RUNG };

static bool is_due(const mh__ring *r) { return mh__ring_has_bytes(r) || atomic_load(&r->s->closed); }

static void write_token(const mh__door *door)
{
    const unsigned char token = MH__DOOR_TOKEN;
    if (door->is_socket)
        (void)mh__os_send(door->ring, (mh_bytes){&token, 1}, NULL, 0, MH_NOW); /* full: readable anyway; closed: nobody cares */
    else if (door->ring >= 0)
        mh__os_eventfd_set(door->ring);
}

/* Remove a token from the head of the socket. False when something else is there, or nothing. */
static bool eat_token(int socket)
{
    char token;
    size_t size;
    return mh__os_peek(socket) == MH__DOOR_TOKEN && mh__os_receive(socket, &token, 1, &size, NULL, NULL, MH_NOW) == MH_OK;
}

mh_err mh__door_prepare(int ring)
{
    const unsigned char token = MH__DOOR_TOKEN;
    return mh__os_send(ring, (mh_bytes){&token, 1}, NULL, 0, MH_NOW);
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

void mh__door_repeat(mh__ring *r)
{
    if (mh__ring_lock(&r->s->push_lock, mh_deadline_in(r->grace_ns)) != MH_OK)
        return;
    if (atomic_load(&r->s->door) != WANTED)
        write_token(&r->door);
    (void)mh_mutex_unlock(&r->s->push_lock);
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

static void settle_eventfd(mh__ring *r)
{
    if (atomic_load(&r->s->door) == QUIET)
        return;
    atomic_store(&r->s->door, WANTED);
    if (r->door.eat >= 0)
        mh__os_eventfd_clear(r->door.eat);
    if (is_due(r))
        write_token(&r->door);
}

/* Want the next token before this one is eaten: a message that came between has either rung again, or is told by the one that is still there. */
static void settle_socket(mh__ring *r)
{
    uint32_t rung = RUNG, wanted = WANTED;
    if (!atomic_compare_exchange_strong(&r->s->door, &rung, WANTED))
        return;
    if (is_due(r) && (atomic_compare_exchange_strong(&r->s->door, &wanted, RUNG) || wanted == RINGING))
        return; /* RINGING: its producer may be dead */
    (void)eat_token(r->door.eat);
}

void mh__door_settle(mh__ring *r)
{
    if (atomic_load(&r->s->door) == QUIET || is_due(r))
        return;
    if (r->door.is_socket)
        settle_socket(r);
    else
        settle_eventfd(r);
}

void mh__door_tidy(mh__ring *r)
{
    mh__door_settle(r);
    uint32_t state = atomic_load(&r->s->door);
    if (!r->door.is_socket || (state != WANTED && state != RINGING) || mh__ring_lock(&r->s->push_lock, MH_NOW) != MH_OK)
        return;
    if (!is_due(r)) { /* nobody rings now, and no token is due */
        atomic_store(&r->s->door, WANTED);
        while (eat_token(r->door.eat))
            ;
    }
    (void)mh_mutex_unlock(&r->s->push_lock);
}

mh_err mh__door_watch(mh__ring *r)
{
    uint32_t quiet = QUIET;
    mh_err err = mh__ring_lock(&r->s->pop_lock, mh_deadline_in(r->grace_ns));
    if (err == MH_ERR_CORRUPT)
        return err;
    atomic_compare_exchange_strong(&r->s->door, &quiet, r->door.is_socket ? RUNG : WANTED);
    if (!r->door.is_socket && is_due(r))
        write_token(&r->door);
    else if (!err)
        mh__door_tidy(r);
    if (!err)
        (void)mh_mutex_unlock(&r->s->pop_lock);
    return MH_OK;
}
