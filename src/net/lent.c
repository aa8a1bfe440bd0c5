#include "net/lent.h"

#include "base/error.h"
#include "base/list.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"
#include "os/memory.h"
#include "os/thread.h"

#include <stdatomic.h>
#include <string.h>

static const char member[] = "\"x_lent\"";

/* A buffer that is mapped, until the last frame lets go of it. */
typedef struct mapping {
    mh__list link;    /* in table->open while it has a descriptor; under its lock */
    mh__list waiting; /* in table->waiting until a message names it; the loop's */
    mh__lents *table;
    void *at;
    size_t size;
    int fd;
    uint8_t key[MH__FAST_KEY_SIZE];
} mapping;

struct mh__lents {
    _Atomic size_t refs; /* its own, and one of each mapping */
    mh__lock *lock;
    mh__list open;
    size_t open_count;
    bool passes_on;
    mh__list waiting; /* oldest first; the loop's */
    size_t waiting_count;
};

/* ---- life ------------------------------------------------------------------------------------ */

mh_err mh__lents_create(mh__lents **out, bool passes_on)
{
    mh__lents *t = mh__calloc(1, sizeof *t);
    *out = NULL;
    if (!t)
        return MH_ERR_NO_MEMORY;
    mh_err err = mh__lock_create(&t->lock);
    if (err) {
        mh__free(t);
        return err;
    }
    atomic_store(&t->refs, 1);
    t->passes_on = passes_on;
    mh__list_init(&t->open);
    mh__list_init(&t->waiting);
    *out = t;
    return MH_OK;
}

static void drop(mh__lents *t)
{
    if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) > 1)
        return;
    mh__lock_destroy(&t->lock);
    mh__free(t);
}

static void let_go(void *data, void *ctx)
{
    mapping *m = ctx;
    (void)data;
    mh__lock_take(m->table->lock);
    if (m->fd >= 0) {
        mh__list_remove(&m->link);
        m->table->open_count--;
    }
    mh__lock_drop(m->table->lock);
    mh__os_close(&m->fd);
    mh__os_unmap(m->at, m->size);
    drop(m->table);
    mh__free(m);
}

static void drop_oldest(mh__lents *t)
{
    t->waiting_count--;
    let_go(NULL, mh__list_entry(mh__list_pop_front(&t->waiting), mapping, waiting));
}

void mh__lents_destroy(mh__lents **t)
{
    if (!*t)
        return;
    while ((*t)->waiting_count)
        drop_oldest(*t);
    drop(*t);
    *t = NULL;
}

/* ---- keys in text ---------------------------------------------------------------------------- */

static bool is_key(mh_bytes text, const uint8_t key[MH__FAST_KEY_SIZE])
{
    char own[2 * MH__FAST_KEY_SIZE];
    mh__write_hex(key, MH__FAST_KEY_SIZE, own);
    return text.size == sizeof own && !memcmp(text.data, own, sizeof own);
}

/* ---- sending --------------------------------------------------------------------------------- */

static mh_err pass(mh__lane *lane, const uint8_t key[MH__FAST_KEY_SIZE], int fd)
{
    return mh__lane_pass(lane, &(mh__fast_record){.kind = MH__FAST_LEND, .ident_count = 1, .parts = {{key, MH__FAST_KEY_SIZE}}}, fd);
}

mh_err mh__lent_add(mh__lent_offer *o, size_t index, mh_bytes bytes, mh__lane *lane)
{
    int fd = -1;
    uint8_t *key = o->key[o->count];
    if (o->count == MH__LENT_BUFFERS_MAX)
        return MH_ERR_FULL;
    mh_err err = mh__os_random(key, MH__FAST_KEY_SIZE);
    if (!err)
        err = mh__os_memfd_frozen(&fd, "manyhands-lent", bytes);
    if (!err)
        err = pass(lane, key, fd);
    mh__os_close(&fd);
    if (!err)
        o->index[o->count++] = index;
    return err;
}

mh_err mh__lent_write(const mh__lent_offer *o, mh_bytes metadata, mh_buf *to)
{
    char text[2 * MH__FAST_KEY_SIZE];
    mh__json whole, key, value;
    mh__json_out out = mh__json_into(to);
    mh__json_open(&out, '{');
    if (metadata.size && mh__json_check(metadata, &whole) == MH_OK)
        for (mh__json_walk w = mh__json_walk_of(whole); mh__json_next(&w, &key, &value);) {
            mh__json_key_bytes(&out, (mh_bytes){key.text + 1, key.size - 2});
            mh__json_add(&out, value);
        }
    mh__json_key(&out, "x_lent");
    mh__json_open(&out, '[');
    for (size_t i = 0; i < o->count; i++) {
        mh__write_hex(o->key[i], MH__FAST_KEY_SIZE, text);
        mh__json_open(&out, '[');
        mh__json_add_int(&out, (int64_t)o->index[i]);
        mh__json_add_bytes(&out, (mh_bytes){text, sizeof text});
        mh__json_close(&out, ']');
    }
    mh__json_close(&out, ']');
    mh__json_close(&out, '}');
    return mh__json_finish(&out);
}

/* A descriptor of its own for a buffer at this address, and its key; -1: it is none of ours. */
static int find_open(mh__lents *t, mh_bytes frame, uint8_t key[MH__FAST_KEY_SIZE])
{
    int fd = -1;
    mh__lock_take(t->lock);
    for (mh__list *node = t->open.next; node != &t->open && fd < 0; node = node->next) {
        mapping *m = mh__list_entry(node, mapping, link);
        if (m->at == frame.data && m->size == frame.size) {
            fd = m->fd; /* it stays open as long as the frame is there, which is the caller's */
            memcpy(key, m->key, MH__FAST_KEY_SIZE);
        }
    }
    mh__lock_drop(t->lock);
    return fd;
}

mh_err mh__lents_pass_on(mh__lents *t, const mh__parcel *p, mh__lane *lane, mh__parcel **out)
{
    const mh_bytes *frames = mh__parcel_frames(p);
    uint8_t key[MH__FAST_KEY_SIZE];
    mh_err err = MH_OK;
    *out = NULL;
    for (size_t i = 0; i < mh__parcel_count(p) && !err; i++) {
        int fd = frames[i].size >= MH__LENT_FROM ? find_open(t, frames[i], key) : -1;
        if (fd < 0 || pass(lane, key, fd))
            continue;
        if (!*out && !(err = mh__parcel_create(out)))
            err = mh__parcel_share(*out, p, 0, mh__parcel_count(p));
        if (!err)
            mh__parcel_blank(*out, i);
    }
    if (err)
        mh__parcel_destroy(out);
    return err;
}

/* ---- receiving ------------------------------------------------------------------------------- */

/* Takes *fd on success. */
static mh_err map(mh__lents *t, int *fd, mapping **out)
{
    mapping *m = mh__calloc(1, sizeof *m);
    if (!m)
        return MH_ERR_NO_MEMORY;
    mh_err err = mh__os_fd_frozen(*fd, &m->size);
    if (!err && !m->size)
        err = mh__fail(MH_ERR_CORRUPT, "an empty buffer was lent");
    if (!err)
        err = mh__os_map(&m->at, *fd, 0, m->size, false);
    if (err) {
        mh__free(m);
        return err;
    }
    m->table = t;
    m->fd = -1;
    mh__list_init(&m->link);
    mh__list_init(&m->waiting);
    atomic_fetch_add(&t->refs, 1);
    mh__lock_take(t->lock);
    if (t->passes_on && t->open_count < MH__LENT_OPEN_MAX) {
        m->fd = *fd;
        *fd = -1;
        mh__list_push_back(&t->open, &m->link);
        t->open_count++;
    }
    mh__lock_drop(t->lock);
    mh__os_close(fd);
    *out = m;
    return MH_OK;
}

void mh__lents_take(mh__lents *t, mh__lane *lane, const mh__fast_record *r)
{
    int fd = mh__lane_take_fd(lane);
    mapping *m;
    if (fd < 0)
        return;
    if (r->ident_count != 1 || r->parts[0].size != MH__FAST_KEY_SIZE || map(t, &fd, &m)) {
        mh__os_close(&fd);
        return;
    }
    memcpy(m->key, r->parts[0].data, MH__FAST_KEY_SIZE);
    if (t->waiting_count == MH__LENT_WAITING_MAX)
        drop_oldest(t);
    mh__list_push_back(&t->waiting, &m->waiting);
    t->waiting_count++;
}

bool mh__lent_is_named(mh_bytes metadata) { return metadata.size > sizeof member && memmem(metadata.data, metadata.size, member, sizeof member - 1); }

static mapping *find_waiting(const mh__lents *t, mh_bytes key)
{
    for (mh__list *node = t->waiting.next; node != &t->waiting; node = node->next)
        if (is_key(key, mh__list_entry(node, mapping, waiting)->key))
            return mh__list_entry(node, mapping, waiting);
    return NULL;
}

static mh_err claim_one(mh__lents *t, mh__lane *lane, mh_bytes key, mh__parcel *p, size_t frame)
{
    mapping *m;
    while (!(m = find_waiting(t, key)) && lane)
        if (!mh__lane_read(lane))
            lane = NULL; /* which may be no more */
    if (!m)
        return mh__fail(MH_ERR_NOT_FOUND, "a large buffer did not come by the fast lane, or was lost with it");
    mh_err err = mh__parcel_replace(p, frame, (mh_bytes){m->at, m->size}, let_go, m);
    if (err)
        return err;
    mh__list_remove(&m->waiting);
    t->waiting_count--;
    return MH_OK;
}

mh_err mh__lents_claim(mh__lents *t, mh__lane *lane, mh_bytes metadata, mh__parcel *p, size_t first)
{
    static const char *const keys[] = {"x_lent"};
    mh__json got[1], key, pair, index, name;
    mh_bytes text;
    size_t count = 0;
    int64_t i;
    mh_err err = mh__json_pick(metadata, keys, 1, got);
    if (err || mh__json_kind_of(got[0]) != MH__JSON_ARRAY)
        return err;
    mh__json_walk all = mh__json_walk_of(got[0]);
    while (!err && mh__json_next(&all, &key, &pair)) {
        mh__json_walk w = mh__json_walk_of(pair);
        if (++count > MH__LENT_BUFFERS_MAX || !mh__json_next(&w, &key, &index) || !mh__json_next(&w, &key, &name) || !mh__json_int(index, &i) ||
            !mh__json_plain(name, &text) || i < 0 || first > mh__parcel_count(p) || (uint64_t)i >= mh__parcel_count(p) - first)
            err = mh__fail(MH_ERR_CORRUPT, "x_lent names what is no buffer of its message");
        else if (!mh__parcel_frames(p)[first + (size_t)i].size) /* else it came as bytes: somebody on the way had no lane, or no room in it */
            err = claim_one(t, lane, text, p, first + (size_t)i);
    }
    return err;
}
