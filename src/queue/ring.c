/* The ring: cursors, records, waiting, pushing and popping. The layout and the rules are in ring.h. */
#include "queue/ring.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/number.h"
#include "os/clock.h"
#include "os/cores.h"
#include "os/memory.h"

#include <string.h>

enum {
    UNIT = 8,
    POSITION_BITS = 40,
    MIN_CAPACITY = 4096,
    CHUNK_MAX = 128 << 10, /* pieces of a stream stay in the second-level cache while they pass */
    WARM = 128 << 10,      /* an empty ring begins again at its start when it has come farther than this: in cached memory */
    GROW_STEP = 64 << 10,
    GROW_MOST = 8 << 20,
    PAUSE_MAX = 16,
    AHEAD = 256, /* bytes behind a message that are fetched for writing the next */
    KEEP = 4 << 20, /* memory above this is given back when the ring is empty */
};
#define POSITION_MASK ((UINT64_C(1) << POSITION_BITS) - 1)
#define ITEMS_MASK UINT64_C(0xffffff)
#define GRACE_NS (100 * MH_MILLISECOND)
#define PATIENCE_NS (10 * MH_MILLISECOND)  /* after so long a producer waits with the lock held, so that smaller messages cannot starve it */
#define STUBBORN_NS (20 * MH_MILLISECOND)  /* signals do not end the wait for the next piece of a stream sooner */
#define SLICE_MIN_NS MH_MILLISECOND
#define SLICE_MAX_NS (40 * MH_MILLISECOND) /* by then a waiter has noticed a missed wake, or that the other side is gone */
#define SPIN_MAX_NS (40 * MH_MICROSECOND)

/* A record begins with its size, its tag and its kind; a piece of a stream goes on with the stream's number and the message's size. */
enum { WHOLE = 1, FIRST = 2, MORE = 3, LAST = 4, KIND_BITS = 4, TAG_BITS = 4, HEAD_BITS = KIND_BITS + TAG_BITS, STREAM_HEAD = 3 * UNIT };
_Static_assert(MH_QUEUE_TAG_MAX == (1 << TAG_BITS) - 1, "every tag fits a record's head");
/* States of the word `stream`, below the stream's number. */
enum { IDLE, STREAMING, COMPLETE, RESTART, STATE_BITS = 2, STATE_MASK = 3 };

/* Internal outcomes; neither leaves this file. */
#define NOTHING MH_ERR_EMPTY
#define AGAIN MH_ERR_CANCELLED

/* ---- cursors --------------------------------------------------------------------------------- */

static uint64_t position_of(uint64_t cursor) { return cursor & POSITION_MASK; }

static uint64_t advance(uint64_t cursor, uint64_t units, uint64_t items)
{
    return ((cursor + units) & POSITION_MASK) | ((cursor >> POSITION_BITS) + items) << POSITION_BITS;
}

static uint64_t units_between(uint64_t from, uint64_t to) { return (to - from) & POSITION_MASK; }
static uint64_t items_between(uint64_t from, uint64_t to)
{
    return ((to >> POSITION_BITS) - (from >> POSITION_BITS)) & ITEMS_MASK;
}

static uint64_t units_of(uint64_t bytes) { return (bytes + UNIT - 1) / UNIT; }

static mh_err corrupt(const char *what) { return mh__fail(MH_ERR_CORRUPT, "queue memory: %s is not valid", what); }

bool mh__ring_has_bytes(const mh__ring *r)
{
    return position_of(atomic_load(&r->s->tail)) != position_of(atomic_load(&r->s->head));
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/* Where the unit at a cursor lies in the ring, in bytes. Guard of base: either lock. */
static uint64_t offset_of(const mh__ring *r, uint64_t cursor)
{
    uint64_t base = atomic_load_explicit(&r->s->base, memory_order_relaxed);
    return ((position_of(cursor) + base) & (r->units - 1)) * UNIT;
}

static void copy_in(const mh__ring *r, uint64_t at, const void *from, size_t size)
{
    size_t first = MH__MIN(size, r->capacity - at);
    memcpy(r->data + at, from, first);
    if (size > first)
        memcpy(r->data, (const unsigned char *)from + first, size - first);
}

static void copy_out(const mh__ring *r, uint64_t at, void *to, size_t size)
{
    size_t first = MH__MIN(size, r->capacity - at);
    memcpy(to, r->data + at, first);
    if (size > first)
        memcpy((unsigned char *)to + first, r->data, size - first);
}

static void put_word(const mh__ring *r, uint64_t cursor, uint64_t index, uint64_t word)
{
    memcpy(r->data + ((offset_of(r, cursor) + index * UNIT) & (r->capacity - 1)), &word, UNIT);
}

static uint64_t get_word(const mh__ring *r, uint64_t cursor, uint64_t index)
{
    uint64_t word;
    memcpy(&word, r->data + ((offset_of(r, cursor) + index * UNIT) & (r->capacity - 1)), UNIT);
    return word;
}

/* Reads the parts of a message one after the other. */
typedef struct gather {
    const mh_bytes *parts;
    size_t count, part, offset;
    uint32_t tag;
} gather;

static void gather_in(const mh__ring *r, uint64_t cursor, uint64_t skip, gather *g, uint64_t size)
{
    uint64_t at = (offset_of(r, cursor) + skip) & (r->capacity - 1);
    while (size) {
        const mh_bytes *part = &g->parts[g->part];
        uint64_t n = MH__MIN(size, part->size - g->offset);
        if (n)
            copy_in(r, at, (const unsigned char *)part->data + g->offset, n);
        at = (at + n) & (r->capacity - 1);
        size -= n;
        g->offset += n;
        if (g->offset == part->size && size) {
            g->part++;
            g->offset = 0;
        }
    }
}

static mh_err total_of(const mh__ring *r, const mh_bytes *parts, size_t count, uint64_t *out)
{
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++)
        if (__builtin_add_overflow(total, parts[i].size, &total))
            total = UINT64_MAX;
    if (total > r->max_message)
        return mh__fail(MH_ERR_TOO_LARGE, "a message of %llu bytes; the limit is %llu", (unsigned long long)total,
                        (unsigned long long)r->max_message);
    *out = total;
    return MH_OK;
}

/* ---- locks and waiting ------------------------------------------------------------------------ */

mh_err mh__ring_lock(mh_mutex *m, mh_deadline until)
{
    mh_err err = mh_mutex_lock(m, until);
    return err == MH_ERR_OWNER_DIED ? mh_mutex_recover(m) : err;
}

/* Even who does not wait lets another finish its copying, unless that one is known to wait itself. */
static mh_err enter(const mh__ring *r, mh_mutex *m, mh_deadline until, const _Atomic uint32_t *patient)
{
    mh_err err = mh_mutex_try(m); /* mostly it is free: then nobody need look at the clock */
    if (err != MH_ERR_TIMEOUT)
        return err == MH_ERR_OWNER_DIED ? mh_mutex_recover(m) : err;
    if (until != MH_FOREVER) {
        if (until == MH_NOW && patient && atomic_load(patient) && mh_mutex_is_locked(m))
            return MH_ERR_TIMEOUT;
        until = MH__MAX(until, mh_deadline_in(r->grace_ns));
    }
    return mh__ring_lock(m, until);
}

typedef struct wait {
    mh__ring *r;
    mh__bell *bell;
    _Atomic uint32_t *luck; /* how spinning has gone lately */
    bool (*is_ready)(const struct wait *w);
    uint64_t units, items;  /* room wanted */
    uint64_t stream;        /* value of the word stream that makes this wait worth while; 0: any */
    bool checks_producer;   /* find out whether the holder of push_lock is dead */
} wait;

static bool has_room(const wait *w)
{
    mh__ring_shared *s = w->r->s;
    uint64_t head = atomic_load(&s->head), tail = atomic_load(&s->tail);
    return units_between(head, tail) + w->units <= w->r->units && items_between(head, tail) + w->items <= w->r->max_items;
}

static bool room_is_ready(const wait *w)
{
    return has_room(w) || atomic_load(&w->r->s->closed) || (w->stream && atomic_load(&w->r->s->stream) != w->stream);
}

static bool items_are_ready(const wait *w)
{
    if (mh__ring_has_bytes(w->r) || !w->stream)
        return mh__ring_has_bytes(w->r) || atomic_load(&w->r->s->closed);
    uint64_t stream = atomic_load(&w->r->s->stream);
    return stream >> STATE_BITS != w->stream >> STATE_BITS || (stream & STATE_MASK) == IDLE;
}

/* Spinning pays as long as it finds something: on idle cores it spares two switches, on busy ones it keeps the core from who is waited for. So each
 * spin in vain doubles the number of waits that go without, up to LEVEL_MAX; one that finds something undoes all of it. */
enum { LEVEL_MAX = 7, LEVEL_BITS = 4, LEVEL_MASK = (1 << LEVEL_BITS) - 1 };

/* Whether to spin this time. Races between threads only cost a spin. */
static bool is_lucky(const wait *w)
{
    uint32_t luck = atomic_load_explicit(w->luck, memory_order_relaxed);
    if (!w->r->spins)
        return false;
    if (luck >> LEVEL_BITS == 0)
        return true;
    atomic_store_explicit(w->luck, luck - (1 << LEVEL_BITS), memory_order_relaxed);
    return false;
}

static void learn(const wait *w, bool found)
{
    uint32_t luck = atomic_load_explicit(w->luck, memory_order_relaxed), level = MH__MIN((luck & LEVEL_MASK) + 1, (uint32_t)LEVEL_MAX);
    uint32_t next = found ? 0 : ((1u << level) - 1) << LEVEL_BITS | level;
    if (next != luck)
        atomic_store_explicit(w->luck, next, memory_order_relaxed);
}

static bool look_for_a_while(const wait *w, int64_t budget)
{
    int64_t start = budget ? mh_now() : 0;
    int pause = 1; /* grows: looking all the time would take the line away from who is about to write it */
    do {
        for (int i = 0; i < 4; i++) {
            if (w->is_ready(w))
                return true;
            for (int j = 0; j < pause; j++)
                mh__os_relax();
        }
        pause = MH__MIN(2 * pause, PAUSE_MAX);
    } while (budget && mh_now() - start < budget);
    return false;
}

static bool spin(const wait *w)
{
    if (!is_lucky(w))
        return look_for_a_while(w, 0);
    bool found = look_for_a_while(w, SPIN_MAX_NS);
    learn(w, found);
    return found;
}

/* A dead holder of push_lock leaves a stream behind that nobody will finish: end it, as the next producer would. */
static void bury_producer(mh__ring *r)
{
    if (mh__ring_lock(&r->s->push_lock, MH_NOW) != MH_OK)
        return;
    uint64_t stream = atomic_load(&r->s->stream);
    atomic_store(&r->s->stream, stream >> STATE_BITS << STATE_BITS | IDLE);
    (void)mh_mutex_unlock(&r->s->push_lock);
}

static bool is_cut_off(const wait *w) { return w->r->is_gone && w->r->is_gone(w->r->ctx); }
static mh_err cut_off(void) { return mh__fail(MH_ERR_CLOSED, "the other end of the pipe is gone"); }

static mh_err sleep_for(const wait *w, mh_deadline until)
{
    for (int64_t slice = SLICE_MIN_NS;; slice = MH__MIN(2 * slice, SLICE_MAX_NS)) {
        uint32_t ticket = mh__bell_prepare(w->bell);
        if (w->is_ready(w))
            return MH_OK;
        if (is_cut_off(w))
            return w->is_ready(w) ? MH_OK : cut_off();
        mh_err err = mh__os_futex_wait(&w->bell->word, ticket, mh__os_sooner(until, slice));
        if (w->is_ready(w))
            return MH_OK;
        if (err && err != MH_ERR_TIMEOUT)
            return err;
        if (err && w->checks_producer)
            bury_producer(w->r);
        if (mh__os_left_ns(until) == 0)
            return MH_ERR_TIMEOUT;
    }
}

/* Wait until w is ready. errors: TIMEOUT, INTERRUPTED, CLOSED the other end is gone. */
static mh_err wait_until(const wait *w, mh_deadline until)
{
    if (w->is_ready(w))
        return MH_OK;
    if (until == MH_NOW)
        return is_cut_off(w) ? w->is_ready(w) ? MH_OK : cut_off() : MH_ERR_TIMEOUT;
    return spin(w) ? MH_OK : sleep_for(w, until);
}

/* The same in the middle of a stream, where giving up costs more than waiting a little. */
static mh_err wait_stubbornly(const wait *w, mh_deadline until)
{
    int64_t start = mh_now();
    until = MH__MAX(until, start + w->r->grace_ns);
    mh_err err;
    do
        err = wait_until(w, until);
    while (err == MH_ERR_INTERRUPTED && mh_now() - start < STUBBORN_NS);
    return err;
}

static mh_err wait_for_room(mh__ring *r, uint64_t units, uint64_t stream, mh_deadline until)
{
    wait w = {.r = r, .bell = &r->s->room, .luck = &r->push_luck, .is_ready = room_is_ready,
              .units = units, .items = stream ? 0 : 1, .stream = stream};
    atomic_store_explicit(&r->s->wanted_units, MH__MAX(units, r->units / 4), memory_order_relaxed);
    return stream ? wait_stubbornly(&w, until) : wait_until(&w, until);
}

static mh_err wait_for_items(mh__ring *r, uint64_t stream, mh_deadline until)
{
    wait w = {.r = r, .bell = &r->s->items, .luck = &r->pop_luck, .is_ready = items_are_ready,
              .stream = stream, .checks_producer = stream != 0};
    return stream ? wait_stubbornly(&w, until) : wait_until(&w, until);
}

/* ---- making a ring --------------------------------------------------------------------------- */

mh_err mh__ring_capacity(size_t asked, size_t fallback, uint64_t *out)
{
    uint64_t bytes = asked ? asked : fallback;
    if (bytes > UINT64_C(1) << 42)
        return mh__fail(MH_ERR_INVALID, "capacity_bytes of %zu: at most 2^42", asked);
    *out = mh__power_of_two(MH__MAX(bytes, (uint64_t)MIN_CAPACITY));
    return MH_OK;
}

mh_err mh__ring_init(mh__ring_shared *s, uint64_t capacity, uint64_t max_items, uint64_t max_message, uint64_t grown)
{
    if (max_items > MH_QUEUE_ITEMS_MAX)
        return mh__fail(MH_ERR_INVALID, "max_items of %llu: at most %zu", (unsigned long long)max_items, MH_QUEUE_ITEMS_MAX);
    if (max_message > MH_QUEUE_MESSAGE_MAX)
        return mh__fail(MH_ERR_INVALID, "max_message_bytes of %llu: at most %zu", (unsigned long long)max_message,
                        MH_QUEUE_MESSAGE_MAX);
    memset(s, 0, sizeof *s);
    s->capacity_bytes = capacity;
    s->max_items = max_items ? max_items : MH_QUEUE_ITEMS_MAX;
    s->max_message_bytes = max_message ? max_message : MH_QUEUE_MESSAGE_MAX;
    atomic_store(&s->grown, grown);
    mh_err err = mh_mutex_init(&s->push_lock, 0);
    return err ? err : mh_mutex_init(&s->pop_lock, 0);
}

mh_err mh__ring_attach(mh__ring *r, mh__ring_shared *s, unsigned char *data, uint64_t room)
{
    uint64_t capacity = __atomic_load_n(&s->capacity_bytes, __ATOMIC_RELAXED);
    uint64_t max_items = __atomic_load_n(&s->max_items, __ATOMIC_RELAXED);
    uint64_t max_message = __atomic_load_n(&s->max_message_bytes, __ATOMIC_RELAXED);
    if (capacity < MIN_CAPACITY || capacity > room || (capacity & (capacity - 1)))
        return corrupt("the capacity");
    if (max_items == 0 || max_items > MH_QUEUE_ITEMS_MAX || max_message == 0 || max_message > MH_QUEUE_MESSAGE_MAX)
        return corrupt("a limit");
    *r = (mh__ring){.s = s, .data = data, .capacity = capacity, .units = capacity / UNIT, .max_items = max_items,
                    .max_message = max_message, .chunk = MH__MIN(capacity / 4, (uint64_t)CHUNK_MAX), .memory = -1,
                    .door = {.ring = -1, .eat = -1}, .grace_ns = GRACE_NS, .spins = mh__os_usable_cores() > 1};
    return MH_OK;
}

/* ---- pushing: all with push_lock held -------------------------------------------------------- */

/* Memory under [0, end) of the ring. */
static mh_err grow(mh__ring *r, uint64_t end)
{
    uint64_t grown = atomic_load_explicit(&r->s->grown, memory_order_relaxed);
    if (r->memory < 0 || end <= grown)
        return MH_OK;
    if (grown > r->capacity || grown % UNIT)
        return corrupt("the grown size");
    uint64_t next = MH__MIN(mh__round_up(MH__MAX(end, MH__MIN(2 * grown, grown + GROW_MOST)), GROW_STEP), r->capacity);
    mh_err err = mh__os_allocate_range(r->memory, r->data_offset + grown, next - grown);
    if (!err)
        atomic_store_explicit(&r->s->grown, next, memory_order_relaxed);
    return err;
}

static mh_err grow_for(mh__ring *r, uint64_t cursor, uint64_t units)
{
    uint64_t end = offset_of(r, cursor) + units * UNIT;
    return grow(r, MH__MIN(end, r->capacity));
}

/* An empty ring that has come far goes back to its start, where memory is cached, and large memory that a burst has used is given back.
 * Nobody may be between reading the base and using it, hence both locks; one store does it. */
static void rewind_if_empty(mh__ring *r, uint64_t tail, uint64_t units)
{
    mh__ring_shared *s = r->s;
    uint64_t offset = offset_of(r, tail); /* looking at head costs a cache line: once a page is enough */
    if (r->memory < 0 || offset < WARM || offset >> 12 == (offset + units * UNIT) >> 12 ||
        position_of(atomic_load(&s->head)) != position_of(tail))
        return;
    if (mh__ring_lock(&s->pop_lock, MH_NOW) != MH_OK)
        return;
    if (position_of(atomic_load(&s->head)) == position_of(tail)) {
        uint64_t grown = atomic_load_explicit(&s->grown, memory_order_relaxed);
        atomic_store_explicit(&s->base, (r->units - (position_of(tail) & (r->units - 1))) & (r->units - 1), memory_order_relaxed);
        if (grown > KEEP && grown <= r->capacity) {
            atomic_store_explicit(&s->grown, KEEP, memory_order_relaxed);
            mh__os_release_range(r->memory, r->data_offset + KEEP, grown - KEEP);
        }
    }
    (void)mh_mutex_unlock(&s->pop_lock);
}

/* Whether `units` and one message fit behind tail. Head is read only when what was last seen of it does not do. */
static bool fits(mh__ring *r, uint64_t tail, uint64_t units, uint64_t items)
{
    uint64_t head = atomic_load_explicit(&r->s->seen_head, memory_order_relaxed);
    for (int i = 0; i < 2; i++) {
        if (units_between(head, tail) + units <= r->units && items_between(head, tail) + items <= r->max_items)
            return true;
        head = atomic_load(&r->s->head);
        atomic_store_explicit(&r->s->seen_head, head, memory_order_relaxed);
    }
    return false;
}

/* All messages ever pushed: tail knows the low bits for certain. */
static uint64_t all_pushed(const mh__ring *r)
{
    uint64_t known = atomic_load(&r->s->pushed), low = atomic_load(&r->s->tail) >> POSITION_BITS;
    int64_t ahead = (int64_t)((low - known) << POSITION_BITS) >> POSITION_BITS;
    return known + (uint64_t)ahead;
}

/* Publish everything up to tail: the one store that counts. */
static void publish(mh__ring *r, uint64_t tail)
{
    mh__door_ring(r);
    atomic_store(&r->s->tail, tail);
    atomic_store_explicit(&r->s->pushed, all_pushed(r), memory_order_relaxed);
    mh__door_ring(r);
}

/* Take back the pieces of a stream that will not be finished, unless a consumer has begun with them: then that side removes them. */
static void retract(mh__ring *r)
{
    mh__ring_shared *s = r->s;
    uint64_t start = atomic_load_explicit(&s->stream_start, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&s->tail, memory_order_relaxed);
    if (items_between(start, tail) != 0 || mh__ring_lock(&s->pop_lock, MH_NOW) != MH_OK)
        return;
    uint64_t head = atomic_load(&s->head);
    if (units_between(head, start) <= units_between(head, tail)) {
        atomic_store_explicit(&s->seen_tail, start, memory_order_relaxed);
        atomic_store(&s->tail, start);
        mh__door_settle(r);
    }
    (void)mh_mutex_unlock(&s->pop_lock);
}

/* Lock the producers' side and make good what a dead one has left. */
static mh_err enter_push(mh__ring *r, mh_deadline until, uint64_t *tail)
{
    mh__ring_shared *s = r->s;
    mh_err err = enter(r, &s->push_lock, until, &s->patient);
    if (err)
        return err;
    if (atomic_load_explicit(&s->patient, memory_order_relaxed))
        atomic_store(&s->patient, 0);
    uint64_t stream = atomic_load_explicit(&s->stream, memory_order_relaxed);
    if ((stream & STATE_MASK) != IDLE) {
        atomic_store(&s->stream, stream >> STATE_BITS << STATE_BITS | IDLE);
        retract(r);
    }
    *tail = atomic_load_explicit(&s->tail, memory_order_relaxed);
    if (atomic_load(&s->closed))
        err = mh__fail(MH_ERR_CLOSED, "push: the queue is closed");
    if (err)
        (void)mh_mutex_unlock(&s->push_lock);
    return err;
}

static void leave_push(mh__ring *r, size_t published)
{
    (void)mh_mutex_unlock(&r->s->push_lock);
    if (published)
        mh__bell_ring(&r->s->items, published > 64 ? 64 : (int)published);
}

/* Take the producers' lock at a moment when there is room for `units`. */
static mh_err enter_push_with_room(mh__ring *r, uint64_t units, mh_deadline until, uint64_t *tail)
{
    int64_t patience_ends = 0;
    for (;;) {
        mh_err err = enter_push(r, until, tail);
        if (err || fits(r, *tail, units, 1))
            return err;
        if (units_between(atomic_load(&r->s->head), *tail) > r->units)
            err = corrupt("a cursor");
        else if (until != MH_NOW && patience_ends && mh_now() >= patience_ends) {
            atomic_store(&r->s->patient, 1);
            err = wait_for_room(r, units, 0, until);
            atomic_store(&r->s->patient, 0);
            if (!err && !atomic_load(&r->s->closed))
                return MH_OK;
        }
        (void)mh_mutex_unlock(&r->s->push_lock);
        if (err)
            return err;
        if (until == MH_NOW)
            return MH_ERR_TIMEOUT;
        if (!patience_ends)
            patience_ends = mh_now() + PATIENCE_NS;
        err = wait_for_room(r, units, 0, MH__MIN(until, patience_ends));
        if (err && !(err == MH_ERR_TIMEOUT && mh__os_left_ns(until)))
            return err;
    }
}

static uint64_t head_word(uint64_t size, uint32_t tag, uint64_t kind) { return size << HEAD_BITS | (uint64_t)tag << KIND_BITS | kind; }

static mh_err put_whole(mh__ring *r, uint64_t *tail, gather *g, uint64_t size)
{
    uint64_t units = 1 + units_of(size);
    mh_err err = grow_for(r, *tail, units);
    if (err)
        return err;
    __builtin_prefetch(r->data + ((offset_of(r, *tail) + units * UNIT + AHEAD) & (r->capacity - 1)), 1);
    put_word(r, *tail, 0, head_word(size, g->tag, WHOLE));
    gather_in(r, *tail, UNIT, g, size);
    *tail = advance(*tail, units, 1);
    return MH_OK;
}

/* One pass over the pieces. AGAIN: a consumer asked for a new beginning. */
static mh_err put_pieces(mh__ring *r, uint64_t *tail, gather *g, uint64_t total, uint64_t id, mh_deadline until)
{
    uint64_t streaming = id << STATE_BITS | STREAMING;
    for (uint64_t sent = 0; sent < total;) {
        uint64_t size = MH__MIN(r->chunk, total - sent), units = STREAM_HEAD / UNIT + units_of(size);
        bool is_last = sent + size == total;
        mh_err err = fits(r, *tail, units, 0) ? MH_OK : wait_for_room(r, units, streaming, until);
        if (!err)
            err = grow_for(r, *tail, units);
        if (err)
            return err;
        if (atomic_load(&r->s->closed))
            return mh__fail(MH_ERR_CLOSED, "push: the queue was closed");
        uint64_t expected = streaming;
        if (is_last ? !atomic_compare_exchange_strong(&r->s->stream, &expected, id << STATE_BITS | COMPLETE)
                    : atomic_load(&r->s->stream) != streaming)
            return AGAIN;
        put_word(r, *tail, 0, head_word(size, g->tag, is_last ? LAST : sent ? MORE : FIRST));
        put_word(r, *tail, 1, id);
        put_word(r, *tail, 2, total);
        gather_in(r, *tail, STREAM_HEAD, g, size);
        *tail = advance(*tail, units, is_last);
        publish(r, *tail);
        mh__bell_ring(&r->s->items, 1);
        sent += size;
    }
    return MH_OK;
}

static mh_err put_stream(mh__ring *r, uint64_t *tail, const gather *message, uint64_t total, mh_deadline until)
{
    mh_err err;
    do {
        uint64_t id = ((atomic_load(&r->s->stream) >> STATE_BITS) + 1) & (UINT64_MAX >> STATE_BITS);
        gather g = *message;
        atomic_store_explicit(&r->s->stream_start, *tail, memory_order_relaxed);
        atomic_store(&r->s->stream, id << STATE_BITS | STREAMING);
        err = put_pieces(r, tail, &g, total, id, until);
        atomic_store(&r->s->stream, id << STATE_BITS | IDLE);
    } while (err == AGAIN);
    if (err)
        retract(r);
    mh__bell_ring(&r->s->items, INT32_MAX); /* a consumer in the middle of it must see that it ended */
    return err;
}

static bool is_whole(const mh__ring *r, uint64_t size) { return 1 + units_of(size) <= r->units; }

static mh_err full(mh_err err, mh_deadline until)
{
    if (err != MH_ERR_TIMEOUT)
        return err;
    return until == MH_NOW ? mh__fail(MH_ERR_FULL, "no room for the message") : MH_ERR_TIMEOUT;
}

mh_err mh__ring_push(mh__ring *r, const mh_bytes *parts, size_t count, uint32_t tag, mh_deadline until)
{
    uint64_t size = 0, tail;
    gather g = {.parts = parts, .count = count, .tag = tag};
    mh_err err = tag <= MH_QUEUE_TAG_MAX ? total_of(r, parts, count, &size) : mh__fail(MH_ERR_INVALID, "tag %u: at most %d", tag, MH_QUEUE_TAG_MAX);
    if (err)
        return err;
    bool whole = is_whole(r, size);
    uint64_t units = whole ? 1 + units_of(size) : STREAM_HEAD / UNIT + units_of(r->chunk);
    err = enter_push_with_room(r, units, until, &tail);
    if (err)
        return full(err, until);
    rewind_if_empty(r, tail, units);
    if (whole) {
        err = put_whole(r, &tail, &g, size);
        if (!err)
            publish(r, tail);
    } else {
        err = put_stream(r, &tail, &g, size, until);
    }
    leave_push(r, err || !whole ? 0 : 1);
    return full(err, until);
}

/* Put as many whole messages as fit, and publish them together. */
static size_t put_batch(mh__ring *r, uint64_t tail, const mh_bytes *messages, size_t count, mh_err *err)
{
    size_t put = 0;
    for (; put < count; put++) {
        uint64_t size = messages[put].size;
        if (size > r->max_message || !is_whole(r, size) || !fits(r, tail, 1 + units_of(size), 1))
            break;
        gather g = {.parts = &messages[put], .count = 1};
        *err = put_whole(r, &tail, &g, size);
        if (*err)
            break;
    }
    if (put)
        publish(r, tail);
    return put;
}

mh_err mh__ring_push_many(mh__ring *r, const mh_bytes *messages, size_t count, mh_deadline until, size_t *pushed)
{
    size_t done = 0;
    mh_err err = MH_OK;
    while (done < count && !err) {
        uint64_t size = 0, tail;
        err = total_of(r, &messages[done], 1, &size);
        if (err)
            break;
        if (!is_whole(r, size)) {
            err = mh__ring_push(r, &messages[done], 1, 0, until);
            done += !err;
            continue;
        }
        err = enter_push_with_room(r, 1 + units_of(size), until, &tail);
        if (err)
            break;
        rewind_if_empty(r, tail, 1 + units_of(size));
        size_t put = put_batch(r, tail, messages + done, count - done, &err);
        leave_push(r, put);
        done += put;
    }
    if (pushed)
        *pushed = done;
    return full(err, until);
}

/* ---- popping: all with pop_lock held --------------------------------------------------------- */

/* Remove everything before head: the one store that counts. */
static void commit(mh__ring *r, uint64_t head)
{
    mh__ring_shared *s = r->s;
    atomic_store(&s->head, head);
    if (mh__bell_is_wanted(&s->room)) {
        uint64_t used = units_between(head, atomic_load(&s->tail));
        uint64_t wanted = atomic_load_explicit(&s->wanted_units, memory_order_relaxed);
        if (used == 0 || used + wanted <= r->units)
            mh__bell_ring(&s->room, 1);
    }
    mh__door_settle(r);
}

/* Units from head to tail; tail is read only when no more is known to be there. */
static mh_err available(mh__ring *r, uint64_t head, uint64_t *units)
{
    uint64_t n = units_between(head, atomic_load_explicit(&r->s->seen_tail, memory_order_relaxed));
    if (n == 0 || n > r->units) {
        uint64_t tail = atomic_load(&r->s->tail);
        atomic_store_explicit(&r->s->seen_tail, tail, memory_order_relaxed);
        n = units_between(head, tail);
    }
    *units = n;
    return n > r->units ? corrupt("a cursor") : MH_OK;
}

typedef struct record {
    uint64_t kind, size, id, total; /* the last two of a piece of a stream */
    uint64_t units, skip;           /* all of it; bytes before its data */
    uint32_t tag;
} record;

/* The record at head, checked. NOTHING: there is none. */
static mh_err read_record(mh__ring *r, uint64_t head, record *out)
{
    uint64_t units;
    mh_err err = available(r, head, &units);
    if (err)
        return err;
    if (!units)
        return NOTHING;
    uint64_t word = get_word(r, head, 0);
    record c = {.kind = word & ((1 << KIND_BITS) - 1), .size = word >> HEAD_BITS, .skip = UNIT,
                .tag = (uint32_t)(word >> KIND_BITS & MH_QUEUE_TAG_MAX)};
    if (c.kind < WHOLE || c.kind > LAST)
        return corrupt("the kind of a record");
    if (c.kind != WHOLE) {
        c.skip = STREAM_HEAD;
        c.id = get_word(r, head, 1);
        c.total = get_word(r, head, 2);
    }
    c.units = c.skip / UNIT + units_of(c.size);
    if (c.size > r->max_message || c.units > units || (c.kind != WHOLE && (c.size > c.total || c.total > r->max_message || !c.size)))
        return corrupt("the size of a record");
    *out = c;
    return MH_OK;
}

static void copy_record(const mh__ring *r, uint64_t head, const record *c, unsigned char *to)
{
    if (c->size)
        copy_out(r, (offset_of(r, head) + c->skip) & (r->capacity - 1), to, c->size);
}

/* Try to make the producer of stream `id` begin again. */
static bool ask_restart(mh__ring *r, uint64_t id)
{
    uint64_t streaming = id << STATE_BITS | STREAMING;
    bool asked = atomic_compare_exchange_strong(&r->s->stream, &streaming, id << STATE_BITS | RESTART);
    if (asked)
        mh__bell_ring(&r->s->room, INT32_MAX);
    return asked;
}

/* The piece of stream `id` that comes next. AGAIN: there will be none, its producer died, gave up or begins again. */
static mh_err next_piece(mh__ring *r, uint64_t head, uint64_t id, mh_deadline until, record *c)
{
    int64_t lost_at = 0;
    for (;;) {
        uint64_t stream = atomic_load(&r->s->stream); /* before looking for the record: IDLE comes after the last */
        mh_err err = read_record(r, head, c);
        if (!err)
            return (c->kind == MORE || c->kind == LAST) && c->id == id ? MH_OK : AGAIN;
        if (err != NOTHING)
            return err;
        if (stream != (id << STATE_BITS | STREAMING) && stream != (id << STATE_BITS | COMPLETE))
            return AGAIN;
        err = wait_for_items(r, stream, until);
        if (err == MH_ERR_CLOSED)
            return AGAIN; /* a pipe's other end is gone, and nothing more has come */
        if (!err)
            continue;
        if (ask_restart(r, id))
            return err;
        /* The producer is one instruction before publishing the last piece, and yet does not. Stopped there for ever, it must not stop us. */
        if (lost_at && mh_now() >= lost_at)
            return err;
        if (!lost_at)
            lost_at = mh_now() + 10 * r->grace_ns;
    }
}

/* A message in pieces: each is removed as soon as it is copied. */
static mh_err take_stream(mh__ring *r, mh__sink *sink, const record *first, mh_deadline until)
{
    unsigned char *to;
    uint64_t got = 0, id = first->id & (UINT64_MAX >> STATE_BITS), total = first->total;
    sink->tag = first->tag;
    mh_err err = sink->place(sink, total, &to);
    record c = *first;
    while (!err) {
        uint64_t head = atomic_load_explicit(&r->s->head, memory_order_relaxed);
        if (c.size > total - got)
            return corrupt("the size of a piece");
        copy_record(r, head, &c, to + got);
        got += c.size;
        head = advance(head, c.units, c.kind == LAST);
        commit(r, head);
        if (c.kind == LAST)
            return got == total ? MH_OK : corrupt("the size of a message");
        err = next_piece(r, head, id, until, &c);
    }
    return err;
}

/* A piece whose consumer is gone: with its producer still at it the message begins again, else it is lost with that consumer. */
static void drop_piece(mh__ring *r, uint64_t head, const record *c)
{
    (void)ask_restart(r, c->id & (UINT64_MAX >> STATE_BITS));
    commit(r, advance(head, c->units, c->kind == LAST));
}

static mh_err take_whole(mh__ring *r, mh__sink *sink, uint64_t *head, const record *c)
{
    unsigned char *to;
    sink->tag = c->tag;
    mh_err err = sink->place(sink, c->size, &to);
    if (err)
        return err;
    copy_record(r, *head, c, to);
    *head = advance(*head, c->units, 1);
    return MH_OK;
}

/* One message into the sink, if there is one. errors: NOTHING. */
static mh_err take(mh__ring *r, mh__sink *sink, mh_deadline until)
{
    for (;;) {
        uint64_t head = atomic_load_explicit(&r->s->head, memory_order_relaxed);
        record c;
        mh_err err = read_record(r, head, &c);
        if (err)
            return err;
        if (c.kind == WHOLE) {
            err = take_whole(r, sink, &head, &c);
            if (!err)
                commit(r, head);
            return err;
        }
        if (c.kind == FIRST) {
            err = take_stream(r, sink, &c, until);
            if (err != AGAIN)
                return err;
        } else {
            drop_piece(r, head, &c);
        }
    }
}

static mh_err empty(mh_err err, mh_deadline until)
{
    if (err != MH_ERR_TIMEOUT)
        return err;
    return until == MH_NOW ? mh__fail(MH_ERR_EMPTY, "no message") : MH_ERR_TIMEOUT;
}

/* Whether messages are there without a look at tail, a line that the producer keeps writing. */
static bool are_known(const mh__ring *r)
{
    uint64_t tail = atomic_load_explicit(&r->s->seen_tail, memory_order_relaxed);
    return position_of(tail) != position_of(atomic_load_explicit(&r->s->head, memory_order_relaxed));
}

/* Wait until there may be a message, then lock the consumers' side. */
static mh_err enter_pop(mh__ring *r, mh_deadline until)
{
    if (until == MH_NOW)
        mh__door_await(r);
    mh_err err = are_known(r) || mh__ring_has_bytes(r) ? MH_OK : wait_for_items(r, 0, until);
    if (err)
        return err;
    if (!are_known(r) && !mh__ring_has_bytes(r) && atomic_load(&r->s->closed) && !mh__ring_has_bytes(r))
        return mh__fail(MH_ERR_CLOSED, "pop: the queue is closed and empty");
    return enter(r, &r->s->pop_lock, until, NULL);
}

mh_err mh__ring_pop(mh__ring *r, mh__sink *sink, mh_deadline until)
{
    for (;;) {
        mh_err err = enter_pop(r, until);
        if (err)
            return empty(err, until);
        err = take(r, sink, until);
        (void)mh_mutex_unlock(&r->s->pop_lock);
        if (err != NOTHING)
            return empty(err, until);
    }
}

static mh_err place_buf(mh__sink *sink, uint64_t size, unsigned char **out)
{
    mh_buf **buf = sink->ctx;
    if (*buf && mh_buf_size(*buf) != size)
        mh_buf_destroy(buf); /* of a stream that was broken off */
    if (!*buf) {
        mh_err err = mh__buf_create_unset(buf, size);
        if (err)
            return err;
    }
    *out = mh_buf_data(*buf);
    return MH_OK;
}

mh_err mh__ring_pop_buf(mh__ring *r, mh_deadline until, mh_buf **out)
{
    mh_buf *buf = NULL;
    mh_err err = mh__ring_pop(r, &(mh__sink){.place = place_buf, .ctx = &buf}, until);
    if (err)
        mh_buf_destroy(&buf);
    else
        *out = buf;
    return err;
}

static mh_err place_memory(mh__sink *sink, uint64_t size, unsigned char **out)
{
    sink->size = size;
    if (size > sink->capacity)
        return mh__fail(MH_ERR_TOO_LARGE, "a message of %llu bytes for a buffer of %zu", (unsigned long long)size, sink->capacity);
    *out = sink->ctx;
    return MH_OK;
}

mh_err mh__ring_pop_into(mh__ring *r, void *buffer, size_t capacity, mh_deadline until, size_t *size, uint32_t *tag)
{
    mh__sink sink = {.place = place_memory, .ctx = buffer, .capacity = capacity};
    mh_err err = mh__ring_pop(r, &sink, until);
    if (!err || err == MH_ERR_TOO_LARGE) {
        *size = sink.size;
        *tag = sink.tag;
    }
    return err;
}

/* Whole messages after the first, as many as fit, by one commit. */
static size_t take_batch(mh__ring *r, mh__sink *sink, size_t *sizes, size_t most)
{
    uint64_t head = atomic_load_explicit(&r->s->head, memory_order_relaxed);
    size_t taken = 0;
    record c;
    while (taken < most && read_record(r, head, &c) == MH_OK && c.kind == WHOLE && c.size <= sink->capacity &&
           take_whole(r, sink, &head, &c) == MH_OK) {
        sizes[taken++] = c.size;
        sink->ctx = (unsigned char *)sink->ctx + c.size;
        sink->capacity -= c.size;
    }
    if (taken)
        commit(r, head);
    return taken;
}

mh_err mh__ring_pop_many(mh__ring *r, void *buffer, size_t capacity, size_t *sizes, size_t most, mh_deadline until, size_t *count)
{
    if (most == 0)
        return mh__fail(MH_ERR_INVALID, "pop_many of at most 0 messages");
    mh__sink sink = {.place = place_memory, .ctx = buffer, .capacity = capacity};
    for (;;) {
        mh_err err = enter_pop(r, until);
        if (err)
            return empty(err, until);
        size_t taken = take_batch(r, &sink, sizes, most);
        if (!taken) { /* the first is a stream, too large or not there */
            err = take(r, &sink, until);
            if (!err || err == MH_ERR_TOO_LARGE)
                sizes[0] = sink.size;
        }
        (void)mh_mutex_unlock(&r->s->pop_lock);
        if (err == NOTHING)
            continue;
        if (!err)
            *count = taken ? taken : 1;
        return empty(err, until);
    }
}

/* ---- the rest -------------------------------------------------------------------------------- */

/* Whether the record at head is part of a message that a pop would get, as far as one can see. */
static bool is_alive(mh__ring *r, uint64_t head, const record *c)
{
    if (c->kind != FIRST)
        return c->kind == WHOLE;
    if ((atomic_load(&r->s->stream) & STATE_MASK) != IDLE)
        bury_producer(r);
    uint64_t stream = atomic_load(&r->s->stream);
    if (stream >> STATE_BITS == c->id && ((stream & STATE_MASK) == STREAMING || (stream & STATE_MASK) == COMPLETE))
        return true;
    record next = *c; /* its producer has gone on, or has died: is the rest of it there? */
    while (next.kind != LAST) {
        head = advance(head, next.units, 0);
        if (position_of(head) == position_of(atomic_load(&r->s->tail)) || read_record(r, head, &next) != MH_OK ||
            (next.kind != MORE && next.kind != LAST) || next.id != c->id)
            return false;
    }
    return true;
}

/* Remove what nobody will take, so that "not empty" means a message. */
static mh_err look(mh__ring *r, mh_deadline until, bool *is_there)
{
    mh_err err = enter(r, &r->s->pop_lock, until, NULL);
    if (err)
        return err;
    for (;;) {
        uint64_t head = atomic_load_explicit(&r->s->head, memory_order_relaxed);
        record c;
        err = read_record(r, head, &c);
        *is_there = !err;
        if (err || is_alive(r, head, &c))
            break;
        drop_piece(r, head, &c);
    }
    if (err == NOTHING)
        mh__door_tidy(r);
    (void)mh_mutex_unlock(&r->s->pop_lock);
    return err == NOTHING ? MH_OK : err;
}

mh_err mh__ring_wait(mh__ring *r, mh_deadline until)
{
    for (;;) {
        bool is_there = false;
        mh_err err = MH_OK;
        if (until == MH_NOW)
            mh__door_await(r);
        if (mh__ring_has_bytes(r) || atomic_load(&r->s->door))
            err = look(r, until, &is_there);
        if (!err && !is_there && !atomic_load(&r->s->closed)) {
            err = wait_for_items(r, 0, until);
            if (!err)
                continue;
        }
        return empty(err, until);
    }
}

void mh__ring_rouse(mh__ring *r)
{
    mh__bell_ring(&r->s->items, INT32_MAX);
    mh__bell_ring(&r->s->room, INT32_MAX);
}

void mh__ring_close(mh__ring *r)
{
    atomic_store(&r->s->closed, 1);
    mh__ring_rouse(r);
}

size_t mh__ring_count(const mh__ring *r)
{
    uint64_t head = atomic_load(&r->s->head), tail = atomic_load(&r->s->tail);
    uint64_t items = items_between(head, tail);
    return items > MH_QUEUE_ITEMS_MAX ? 0 : (size_t)items; /* head was moved between the two looks */
}

bool mh__ring_is_empty(const mh__ring *r)
{
    return mh__ring_count(r) == 0 && !(mh__ring_has_bytes(r) && (atomic_load(&r->s->stream) & STATE_MASK) == STREAMING);
}

bool mh__ring_is_full(const mh__ring *r)
{
    return !has_room(&(wait){.r = (mh__ring *)(uintptr_t)r, .units = 2, .items = 1});
}

uint64_t mh__ring_count_unfinished(const mh__ring *r)
{
    uint64_t done = atomic_load(&r->s->done), pushed = all_pushed(r);
    return pushed - MH__MIN(done, pushed);
}

mh_err mh__ring_task_done(mh__ring *r)
{
    uint64_t done = atomic_load(&r->s->done);
    do {
        if (done >= all_pushed(r))
            return mh__fail(MH_ERR_INVALID, "task_done called more often than messages were pushed");
    } while (!atomic_compare_exchange_weak(&r->s->done, &done, done + 1));
    if (done + 1 == all_pushed(r))
        mh__bell_ring(&r->s->joined, INT32_MAX);
    return MH_OK;
}

static bool all_is_done(const wait *w) { return mh__ring_count_unfinished(w->r) == 0; }

mh_err mh__ring_join(mh__ring *r, mh_deadline until)
{
    wait w = {.r = r, .bell = &r->s->joined, .luck = &r->pop_luck, .is_ready = all_is_done};
    return wait_until(&w, until);
}
