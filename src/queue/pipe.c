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
#define LOOK_NS (200 * MH_MICROSECOND) /* how long a sender that never waits may believe that the other end is there: less than it takes to die and be reaped */

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
    _Atomic int64_t looked_ns; /* when the other end was last seen, */
    _Atomic uint32_t left;     /* and what out.s->left was then */
};

static bool is_hung_up(void *ctx) { return mh__os_is_hung_up(((const mh_pipe *)ctx)->parts.socket); }

static mh_err attach_ring(mh_pipe *p, mh__ring *ring, unsigned index, uint64_t room, uint64_t offset)
{
    mh_err err = mh__ring_attach(ring, &p->at->rings[index], (unsigned char *)p->at + DATA_AT + offset, room);
    if (err)
        return err;
    ring->door = (mh__door){.ring = p->parts.socket, .eat = p->parts.socket, .is_socket = true};
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
        err = mh__os_socketpair_stream(sockets);
    for (int sender = o->duplex ? 0 : 1; sender < 2 && !err; sender++)
        err = mh__door_prepare(sockets[sender]);
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

mh_err mh_pipe_send_tagged(mh_pipe *p, const mh_bytes *parts, size_t count, uint32_t tag, mh_deadline until)
{
    mh_err err = check_sends(p);
    return err ? err : mh__ring_push(&p->out, parts, count, tag, until);
}

mh_err mh_pipe_send_parts(mh_pipe *p, const mh_bytes *parts, size_t count, mh_deadline until)
{
    return mh_pipe_send_tagged(p, parts, count, 0, until);
}

mh_err mh_pipe_send(mh_pipe *p, mh_bytes message, mh_deadline until) { return mh_pipe_send_parts(p, &message, 1, until); }

mh_err mh_pipe_receive(mh_pipe *p, mh_deadline until, mh_buf **out)
{
    mh_err err = check_receives(p);
    return err ? err : mh__ring_pop_buf(&p->in, until, out);
}

mh_err mh_pipe_receive_tagged(mh_pipe *p, void *buffer, size_t capacity, mh_deadline until, size_t *size, uint32_t *tag)
{
    mh_err err = check_receives(p);
    return err ? err : mh__ring_pop_into(&p->in, buffer, capacity, until, size, tag);
}

mh_err mh_pipe_receive_into(mh_pipe *p, void *buffer, size_t capacity, mh_deadline until, size_t *size)
{
    uint32_t tag;
    return mh_pipe_receive_tagged(p, buffer, capacity, until, size, &tag);
}

mh_err mh_pipe_wait(mh_pipe *p, mh_deadline until)
{
    mh_err err = check_receives(p);
    return err ? err : mh__ring_wait(&p->in, until);
}

mh_err mh_pipe_borrow_descriptor(mh_pipe *p, int *out)
{
    mh_err err = p->in.s ? mh__door_watch(&p->in) : MH_OK;
    if (!err)
        *out = p->parts.socket;
    return err;
}

/* ---- descriptors, beside the messages -------------------------------------------------------------------- */

/* One byte with the descriptor, as multiprocessing.reduction sends it; it says how many there are. */
enum { ONE_DESCRIPTOR = 1 };

mh_err mh_pipe_send_descriptor(mh_pipe *p, int descriptor, mh_deadline until)
{
    mh_err err = mh__os_send(p->parts.socket, (mh_bytes){&(char){ONE_DESCRIPTOR}, 1}, &descriptor, 1, until);
    if (!err && p->out.s)
        mh__door_repeat(&p->out);
    return err;
}

mh_err mh_pipe_receive_descriptor(mh_pipe *p, mh_deadline until, int *out)
{
    unsigned char byte = 0;
    size_t size, count = 0;
    int found[MH__OS_FDS_MAX];
    mh_err err = MH_OK;
    if (p->in.s)
        err = mh__door_watch(&p->in);
    do {
        if (!err)
            err = mh__os_receive(p->parts.socket, &byte, 1, &size, found, &count, until);
    } while (!err && !count && byte == MH__DOOR_TOKEN); /* a token is repeated behind each descriptor */
    if (err)
        return err == MH_ERR_TIMEOUT && until == MH_NOW ? mh__fail(MH_ERR_EMPTY, "no descriptor") : err;
    if (p->in.s)
        (void)mh__door_watch(&p->in); /* tokens that lay behind it may be one too many */
    if (count == 1) {
        *out = found[0];
        return MH_OK;
    }
    for (size_t i = 0; i < count; i++)
        mh__os_close(&found[i]);
    return mh__fail(MH_ERR_CORRUPT, "received %zu descriptors instead of one", count);
}
