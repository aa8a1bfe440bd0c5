/* mh_pipe: a ring for each direction in one segment, and a unix socket between the ends whose hang-up tells that nobody has the other
 * end any more, however they ended. */
#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/cores.h"
#include "os/fd.h"
#include "os/memory.h"
#include "queue/ring.h"

#define MAGIC UINT64_C(0x31657069706d6801) /* version in the low byte */
enum { DATA_AT = 4096, DEFAULT_CAPACITY = 2 << 20 };
#define LOOK_NS (5 * MH_MILLISECOND) /* how long a sender that never waits may believe that the other end is there */

/* At offset 0 of the segment. Ring 0 carries what side 1 sends to side 0; ring 1, of a duplex pipe, the other way. */
typedef struct segment {
    uint64_t magic; /* written last */
    uint64_t is_duplex;
    mh__ring_shared rings[2];
} segment;
_Static_assert(sizeof(segment) <= DATA_AT, "the head of a pipe lies before its bytes");

struct mh_pipe {
    mh__ring in, out; /* all zero where this end does not receive, or send */
    segment *at;
    size_t size;
    mh_pipe_parts parts;
    _Atomic int poller;       /* epoll descriptor, made when first asked for; -1 before */
    _Atomic int64_t looked_ns; /* when the other end was last seen, */
    _Atomic uint32_t left;     /* and what out.s->left was then */
};

static bool is_hung_up(void *ctx) { return mh__os_is_hung_up(((const mh_pipe *)ctx)->parts.socket); }

static mh_err attach_ring(mh_pipe *p, mh__ring *ring, unsigned index, uint64_t room, uint64_t offset)
{
    mh_err err = mh__ring_attach(ring, &p->at->rings[index], (unsigned char *)p->at + DATA_AT + offset, room);
    if (err)
        return err;
    ring->door = (mh__door){.ring = p->parts.socket, .eat = p->parts.socket, .self = -1, .is_socket = true};
    ring->memory = p->parts.memory;
    ring->data_offset = DATA_AT + offset;
    ring->is_gone = is_hung_up;
    ring->ctx = p;
    return MH_OK;
}

static mh_err map_pipe(mh_pipe **out, mh_pipe_parts parts, size_t size)
{
    mh_pipe *p = mh__calloc(1, sizeof *p);
    if (!p)
        return MH_ERR_NO_MEMORY;
    void *at;
    mh_err err = mh__os_map(&at, parts.memory, 0, size, true);
    if (err) {
        mh__free(p);
        return err;
    }
    p->at = at;
    p->size = size;
    p->parts = parts;
    atomic_store(&p->poller, -1);
    *out = p;
    return MH_OK;
}

static mh_err attach_rings(mh_pipe *p)
{
    uint64_t room = p->size - DATA_AT;
    bool is_duplex = __atomic_load_n(&p->at->is_duplex, __ATOMIC_RELAXED) != 0;
    uint64_t each = is_duplex ? room / 2 : room;
    mh_err err = attach_ring(p, p->parts.side == 0 ? &p->in : &p->out, 0, each, 0);
    if (!err && is_duplex)
        err = attach_ring(p, p->parts.side == 0 ? &p->out : &p->in, 1, each, each);
    return err;
}

static void free_pipe(mh_pipe *p)
{
    int poller = atomic_load(&p->poller), self = p->in.s ? atomic_load(&p->in.door.self) : -1;
    mh__os_close(&poller);
    mh__os_close(&self);
    mh__os_unmap(p->at, p->size);
    mh__free(p);
}

/* A handle on valid memory. On failure the descriptors stay the caller's. */
static mh_err attach(mh_pipe **out, mh_pipe_parts parts, size_t size)
{
    mh_pipe *p = NULL;
    mh_err err = map_pipe(&p, parts, size);
    if (err)
        return err;
    if (__atomic_load_n(&p->at->magic, __ATOMIC_ACQUIRE) != MAGIC)
        err = mh__fail(MH_ERR_CORRUPT, "this segment is not a pipe");
    else
        err = attach_rings(p);
    if (err) {
        free_pipe(p);
        return err;
    }
    *out = p;
    return MH_OK;
}

static mh_err lay_out(int memory, const mh_pipe_options *o, uint64_t capacity)
{
    void *at;
    mh_err err = mh__os_map(&at, memory, 0, DATA_AT, true);
    if (err)
        return err;
    segment *s = at;
    s->is_duplex = o->duplex;
    for (int i = 0; i < 2 && !err; i++)
        err = mh__ring_init(&s->rings[i], capacity, 0, o->max_message_bytes, 0);
    __atomic_store_n(&s->magic, MAGIC, __ATOMIC_RELEASE);
    mh__os_unmap(at, DATA_AT);
    return err;
}

/* The descriptors of both ends: each has its own of the memory. */
static mh_err make_parts(mh_pipe_parts parts[2], const mh_pipe_options *o, size_t *size)
{
    int sockets[2] = {-1, -1};
    uint64_t capacity;
    mh_err err = mh__ring_capacity(o->capacity_bytes, DEFAULT_CAPACITY, &capacity);
    if (err)
        return err;
    *size = DATA_AT + (size_t)capacity * (o->duplex ? 2 : 1);
    err = mh__os_memfd_sparse(&parts[0].memory, "manyhands-pipe", *size);
    if (!err)
        err = mh__os_allocate_range(parts[0].memory, 0, DATA_AT);
    if (!err)
        err = lay_out(parts[0].memory, o, capacity);
    if (!err)
        err = mh__os_duplicate(&parts[1].memory, parts[0].memory);
    if (!err)
        err = mh__os_socketpair(sockets);
    parts[0].socket = sockets[0];
    parts[1].socket = sockets[1];
    return err;
}

mh_err mh_pipe_create(mh_pipe **a, mh_pipe **b, const mh_pipe_options *options)
{
    static const mh_pipe_options defaults;
    mh_pipe_parts parts[2] = {{-1, -1, 0}, {-1, -1, 1}};
    size_t size;
    *a = *b = NULL;
    mh_err err = make_parts(parts, options ? options : &defaults, &size);
    if (!err)
        err = attach(a, parts[0], size);
    if (!err)
        err = attach(b, parts[1], size);
    if (!err)
        return MH_OK;
    if (*a)
        free_pipe(*a);
    *a = NULL;
    for (int i = 0; i < 2; i++) {
        mh__os_close(&parts[i].memory);
        mh__os_close(&parts[i].socket);
    }
    return err;
}

mh_pipe_parts mh_pipe_borrow_parts(const mh_pipe *p) { return p->parts; }

mh_err mh_pipe_attach(mh_pipe **out, mh_pipe_parts parts)
{
    size_t size;
    *out = NULL;
    if (parts.side > 1)
        return mh__fail(MH_ERR_INVALID, "side %u of a pipe: 0 or 1", parts.side);
    mh_err err = mh__os_fd_sealed(parts.memory, &size);
    if (!err && size <= DATA_AT)
        err = mh__fail(MH_ERR_CORRUPT, "a segment of %zu bytes is not a pipe", size);
    return err ? err : attach(out, parts, size);
}

void mh_pipe_destroy(mh_pipe **pipe)
{
    mh_pipe *p = *pipe;
    if (!p)
        return;
    mh__os_close(&p->parts.socket); /* first, so that who is woken sees it */
    for (mh__ring *r = &p->in; r; r = r == &p->in ? &p->out : NULL) {
        if (!r->s)
            continue;
        if (r == &p->in)
            atomic_fetch_add(&r->s->left, 1);
        mh__ring_rouse(r);
    }
    mh__os_close(&p->parts.memory);
    free_pipe(p);
    *pipe = NULL;
}

bool mh_pipe_can_send(const mh_pipe *p) { return p->out.s != NULL; }
bool mh_pipe_can_receive(const mh_pipe *p) { return p->in.s != NULL; }

static mh_err check_receives(const mh_pipe *p)
{
    return p->in.s ? MH_OK : mh__fail(MH_ERR_UNSUPPORTED, "this end of the pipe only sends");
}

/* A sender with room never waits, and so never notices that nobody is there: look now and then, and when somebody left. */
static mh_err check_sends(mh_pipe *p)
{
    if (!p->out.s)
        return mh__fail(MH_ERR_UNSUPPORTED, "this end of the pipe only receives");
    uint32_t left = atomic_load_explicit(&p->out.s->left, memory_order_acquire);
    int64_t now = mh_now();
    if (left == atomic_load_explicit(&p->left, memory_order_relaxed) &&
        now - atomic_load_explicit(&p->looked_ns, memory_order_relaxed) < LOOK_NS)
        return MH_OK;
    if (is_hung_up(p))
        return mh__fail(MH_ERR_CLOSED, "send: the other end of the pipe is gone");
    atomic_store_explicit(&p->left, left, memory_order_relaxed);
    atomic_store_explicit(&p->looked_ns, now, memory_order_relaxed);
    return MH_OK;
}

mh_err mh_pipe_send_parts(mh_pipe *p, const mh_bytes *parts, size_t count, mh_deadline until)
{
    mh_err err = check_sends(p);
    return err ? err : mh__ring_push(&p->out, parts, count, until);
}

mh_err mh_pipe_send(mh_pipe *p, mh_bytes message, mh_deadline until) { return mh_pipe_send_parts(p, &message, 1, until); }

mh_err mh_pipe_receive(mh_pipe *p, mh_deadline until, mh_buf **out)
{
    mh_err err = check_receives(p);
    return err ? err : mh__ring_pop_buf(&p->in, until, out);
}

mh_err mh_pipe_receive_into(mh_pipe *p, void *buffer, size_t capacity, mh_deadline until, size_t *size)
{
    mh_err err = check_receives(p);
    return err ? err : mh__ring_pop_into(&p->in, buffer, capacity, until, size);
}

mh_err mh_pipe_wait(mh_pipe *p, mh_deadline until)
{
    mh_err err = check_receives(p);
    return err ? err : mh__ring_wait(&p->in, until);
}

/* An epoll descriptor over the socket and an eventfd of this process's own. */
static mh_err make_poller(mh_pipe *p)
{
    int poller = -1, self = -1, none = -1;
    mh_err err = mh__os_poller_open(&poller);
    if (!err)
        err = mh__os_eventfd(&self);
    if (!err)
        err = mh__os_poller_add(poller, self, 0);
    if (!err)
        err = mh__os_poller_add(poller, p->parts.socket, 1);
    if (!err && atomic_compare_exchange_strong(&p->in.door.self, &none, self)) {
        atomic_store(&p->poller, poller);
        return MH_OK;
    }
    mh__os_close(&poller);
    mh__os_close(&self);
    while (!err && atomic_load(&p->poller) < 0)
        mh__os_relax(); /* another thread was faster, and stores its own now */
    return err;
}

mh_err mh_pipe_borrow_descriptor(mh_pipe *p, int *out)
{
    mh_err err = check_receives(p);
    if (!err && atomic_load(&p->poller) < 0)
        err = make_poller(p);
    if (!err)
        err = mh__door_watch(&p->in);
    if (!err)
        *out = atomic_load(&p->poller);
    return err;
}
