#include "cluster/journal.h"

#include "base/crc.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"
#include "os/thread.h"

#include <stdio.h>
#include <string.h>

#define RETRY_NS (500 * MH_MILLISECOND) /* after a full disk, a lost server */
#define LAZY_SYNC_NS (50 * MH_MILLISECOND) /* while nobody waits for the disk */
enum { KEEP_BYTES = 1 << 20 }; /* of a batch's buffer, when it was larger */

/* What is to be written, in this order. */
typedef struct op {
    int64_t id, last; /* last: of those to be dropped; 0: a row */
    size_t at, size;  /* of the row, in the batch's bytes */
    bool has_pieces;
    mh__parcel *large; /* the message of a row some frames of which are elsewhere; owned */
} op;

typedef struct batch {
    mh_buf *bytes;
    op *ops;
    size_t count, capacity, weight; /* weight: bytes, with those of large frames */
    uint64_t last;                  /* ticket of its last op */
} batch;

struct mh__journal {
    mh__store *store;
    int bell;
    batch batches[3];
    batch *open; /* the loop's: being filled */
    uint64_t ticket;
    size_t backlog; /* the loop's books: added and not known to be written */

    mh__lock *lock; /* of everything below, and of the batches but the open one */
    mh__cond *cond;
    batch *next; /* waits for the writer */
    size_t written_weight; /* since the loop last looked */
    uint64_t written, synced, wanted;
    mh__journal_state state;
    mh_err err;
    char why[300];
    bool is_closing, is_writing_over;
    mh__thread *writer, *syncer;
};

/* ---- batches --------------------------------------------------------------------------------- */

static void empty(batch *b)
{
    for (size_t i = 0; i < b->count; i++)
        mh__parcel_destroy(&b->ops[i].large);
    b->count = b->weight = 0;
    if (!b->bytes)
        return;
    if (mh_buf_size(b->bytes) > KEEP_BYTES)
        mh_buf_destroy(&b->bytes);
    else
        (void)!mh_buf_resize(b->bytes, 0);
}

static mh_err add_op(mh__journal *j, op **out)
{
    batch *b = j->open;
    if (b->count == b->capacity) {
        size_t capacity = MH__MAX((size_t)64, 2 * b->capacity);
        op *grown = mh__realloc(b->ops, capacity * sizeof *grown);
        if (!grown)
            return MH_ERR_NO_MEMORY;
        b->ops = grown;
        b->capacity = capacity;
    }
    *out = &b->ops[b->count];
    **out = (op){0};
    return MH_OK;
}

static void count_op(mh__journal *j, size_t weight)
{
    batch *b = j->open;
    b->count++;
    b->weight += weight;
    b->last = ++j->ticket;
    j->backlog += weight;
}

static bool has_large(const mh__entry *e)
{
    size_t total = 0;
    for (size_t i = 0; i < e->frame_count; i++)
        if (!mh__entry_is_inline(e->frames[i].size, &total))
            return true;
    return false;
}

mh_err mh__journal_put(mh__journal *j, const mh__entry *entry, const mh__parcel *message, uint64_t *ticket)
{
    mh__entry e = *entry;
    op *o;
    if (message) {
        e.frames = mh__parcel_frames(message);
        e.frame_count = mh__parcel_count(message);
    }
    mh_err err = j->open->bytes ? MH_OK : mh_buf_create(&j->open->bytes, 0);
    if (!err)
        err = add_op(j, &o);
    if (err)
        return err;
    size_t at = mh_buf_size(j->open->bytes), weight = sizeof *o;
    err = mh__entry_pack(&e, j->open->bytes);
    if (err)
        return err;
    *o = (op){.id = mh__entry_id(e.seq, e.kind), .at = at, .size = mh_buf_size(j->open->bytes) - at};
    weight += o->size;
    if (message && has_large(&e)) {
        o->has_pieces = true;
        err = mh__parcel_create(&o->large);
        if (!err)
            err = mh__parcel_share(o->large, message, 0, e.frame_count);
        if (err) {
            mh__parcel_destroy(&o->large);
            (void)!mh_buf_resize(j->open->bytes, at);
            return err;
        }
        weight += mh__parcel_bytes(message);
    }
    count_op(j, weight);
    if (ticket)
        *ticket = j->ticket;
    return MH_OK;
}

mh_err mh__journal_forget(mh__journal *j, uint64_t seq, bool has_pieces)
{
    op *o;
    mh_err err = j->open->bytes ? MH_OK : mh_buf_create(&j->open->bytes, 0);
    if (!err)
        err = add_op(j, &o);
    if (err)
        return err;
    *o = (op){.id = mh__entry_id(seq, MH__ENTRY_REQUEST), .last = mh__entry_id(seq, MH__ENTRY_EXTRA), .has_pieces = has_pieces};
    count_op(j, sizeof *o);
    return MH_OK;
}

/* ---- the writer ------------------------------------------------------------------------------ */

static mh_err write_pieces(mh__store *s, const op *o)
{
    const mh_bytes *frames = mh__parcel_frames(o->large);
    size_t total = 0;
    mh_err err = MH_OK;
    for (size_t i = 0; i < mh__parcel_count(o->large) && !err; i++) {
        if (mh__entry_is_inline(frames[i].size, &total))
            continue;
        for (size_t at = 0, n = 0; at < frames[i].size && !err; at += MH__ENTRY_PIECE, n++) {
            mh_bytes part = {(const char *)frames[i].data + at, MH__MIN((size_t)MH__ENTRY_PIECE, frames[i].size - at)};
            err = s->kind->put_piece(s, o->id, mh__entry_piece(i, n), mh__crc32c(0, part.data, part.size), part);
        }
    }
    return err;
}

static mh_err write_batch(mh__store *s, batch *b)
{
    const char *bytes = mh_buf_data(b->bytes);
    mh_err err = s->kind->begin(s);
    if (err)
        return err;
    for (size_t i = 0; i < b->count && !err; i++) {
        const op *o = &b->ops[i];
        if (o->last)
            err = s->kind->drop(s, o->id, o->last, o->has_pieces);
        else
            err = s->kind->put(s, o->id, (mh_bytes){bytes + o->at, o->size});
        if (!err && o->large)
            err = write_pieces(s, o);
    }
    if (!err)
        err = s->kind->commit(s);
    if (err)
        s->kind->rollback(s);
    return err;
}

static void note_state(mh__journal *j, mh__journal_state state, mh_err err)
{
    bool is_news = j->state != state;
    j->state = state;
    j->err = err;
    snprintf(j->why, sizeof j->why, "%s", mh_err_detail());
    if (!is_news)
        return;
    mh__cond_wake_all(j->cond);
    mh__os_eventfd_set(j->bell);
}

static void note_written(mh__journal *j, batch *b)
{
    j->written = b->last;
    j->written_weight += b->weight;
    if (!j->store->kind->sync)
        j->synced = j->written;
    empty(b);
    j->state = MH__JOURNAL_OK;
    mh__cond_wake_all(j->cond);
    mh__os_eventfd_set(j->bell);
}

/* Until it is written, or never will be. The lock is held, but not while it is being written. */
static void write_one(mh__journal *j, batch *b)
{
    while (j->state != MH__JOURNAL_FAILED) {
        mh__lock_drop(j->lock);
        mh_err err = write_batch(j->store, b);
        mh__lock_take(j->lock);
        if (!err) {
            note_written(j, b);
            return;
        }
        bool may_get_better = err == MH_ERR_NO_SPACE || err == MH_ERR_TIMEOUT;
        note_state(j, may_get_better && !j->is_closing ? MH__JOURNAL_WAITING : MH__JOURNAL_FAILED, err);
        if (j->state == MH__JOURNAL_WAITING)
            (void)!mh__cond_wait(j->cond, j->lock, mh_deadline_in(RETRY_NS));
    }
}

static void write_on(void *ctx)
{
    mh__journal *j = ctx;
    mh__lock_take(j->lock);
    for (;;) {
        while (!j->next && !j->is_closing)
            (void)!mh__cond_wait(j->cond, j->lock, MH_FOREVER);
        batch *b = j->next;
        if (!b || j->state == MH__JOURNAL_FAILED)
            break;
        j->next = NULL;
        write_one(j, b);
    }
    j->is_writing_over = true;
    mh__cond_wake_all(j->cond);
    mh__lock_drop(j->lock);
}

/* ---- the syncer ------------------------------------------------------------------------------ */

static void sync_on(void *ctx)
{
    mh__journal *j = ctx;
    mh_deadline lazy = MH_FOREVER;
    mh__lock_take(j->lock);
    while (j->state != MH__JOURNAL_FAILED) {
        if (j->written == j->synced) {
            if (j->is_writing_over)
                break;
            lazy = MH_FOREVER;
            (void)!mh__cond_wait(j->cond, j->lock, MH_FOREVER);
            continue;
        }
        if (lazy == MH_FOREVER)
            lazy = mh_deadline_in(LAZY_SYNC_NS);
        if (j->wanted <= j->synced && !j->is_writing_over && mh_now() < lazy) { /* nobody waits for it */
            (void)!mh__cond_wait(j->cond, j->lock, lazy);
            continue;
        }
        uint64_t upto = j->written;
        mh__lock_drop(j->lock);
        mh_err err = j->store->kind->sync(j->store);
        mh__lock_take(j->lock);
        if (err) { /* the system may have thrown away what it could not write: trying again would prove nothing */
            note_state(j, MH__JOURNAL_FAILED, err);
            break;
        }
        j->synced = upto;
        lazy = MH_FOREVER;
        mh__os_eventfd_set(j->bell);
    }
    mh__lock_drop(j->lock);
}

/* ---- the loop's side ------------------------------------------------------------------------- */

static void take_weight(mh__journal *j)
{
    j->backlog -= j->written_weight;
    j->written_weight = 0;
}

/* Of three, one is open, one may wait, one may be with the writer. */
static batch *unused(mh__journal *j)
{
    for (size_t i = 0; i < MH__COUNT_OF(j->batches); i++) {
        batch *b = &j->batches[i];
        if (b != j->open && b != j->next && b->count == 0)
            return b;
    }
    return NULL;
}

void mh__journal_flush(mh__journal *j)
{
    if (!j->open->count)
        return;
    mh__lock_take(j->lock);
    take_weight(j);
    batch *spare = j->next ? NULL : unused(j);
    if (spare) {
        j->next = j->open;
        j->open = spare;
        mh__cond_wake_all(j->cond);
    }
    mh__lock_drop(j->lock);
}

void mh__journal_want_synced(mh__journal *j, uint64_t ticket)
{
    mh__lock_take(j->lock);
    if (ticket > j->wanted) {
        j->wanted = ticket;
        mh__cond_wake_all(j->cond);
    }
    mh__lock_drop(j->lock);
}

uint64_t mh__journal_last(const mh__journal *j) { return j->ticket; }

size_t mh__journal_backlog(const mh__journal *j) { return j->backlog; }

int mh__journal_bell(const mh__journal *j) { return j->bell; }

void mh__journal_look(mh__journal *j, mh__journal_view *out)
{
    mh__os_eventfd_clear(j->bell);
    mh__lock_take(j->lock);
    take_weight(j);
    *out = (mh__journal_view){.written = j->written, .synced = j->synced, .backlog = j->backlog, .state = j->state, .err = j->err};
    if (j->state != MH__JOURNAL_OK)
        memcpy(out->why, j->why, sizeof out->why);
    mh__lock_drop(j->lock);
}

/* ---- what is there --------------------------------------------------------------------------- */

typedef struct loading {
    mh__journal *j;
    mh__entry_fn fn;
    void *ctx;
    mh_buf *frames;
    mh__parcel *message;
} loading;

/* A frame that is in pieces, in one buffer, which the parcel then owns. */
static mh_err load_large(mh__store *s, int64_t id, size_t frame, size_t size, mh__parcel *to)
{
    mh_buf *bytes = NULL;
    mh_err err = mh_buf_create(&bytes, 0);
    for (size_t n = 0, have = 0; have < size && !err; n++) {
        uint32_t crc = 0;
        size_t expected = MH__MIN((size_t)MH__ENTRY_PIECE, size - have);
        err = s->kind->piece(s, id, mh__entry_piece(frame, n), &crc, bytes);
        if (err == MH_ERR_NOT_FOUND || (!err && (mh_buf_size(bytes) - have != expected ||
                                                 mh__crc32c(0, (const char *)mh_buf_data(bytes) + have, expected) != crc)))
            err = mh__fail(MH_ERR_CORRUPT, "row %lld: a piece of a large frame is missing or wrong", (long long)id);
        have = mh_buf_size(bytes);
    }
    if (!err)
        err = mh__parcel_give(to, &bytes);
    mh_buf_destroy(&bytes);
    return err;
}

static mh_err load_row(int64_t id, mh_bytes row, void *ctx)
{
    loading *l = ctx;
    mh__entry e = {0}; /* a row of which nothing can be read leaves it so */
    mh_err err = mh__entry_unpack(id, row, &e, l->frames);
    mh__parcel_clear(l->message);
    for (size_t i = 0; i < e.frame_count && !err; i++)
        err = e.frames[i].data ? mh__parcel_add(l->message, e.frames[i])
                               : load_large(l->j->store, id, i, e.frames[i].size, l->message);
    return err ? err : l->fn(&e, l->message, l->ctx);
}

mh_err mh__journal_load(mh__journal *j, mh__entry_fn fn, void *ctx)
{
    loading l = {.j = j, .fn = fn, .ctx = ctx};
    mh_err err = mh__parcel_create(&l.message);
    if (!err)
        err = mh_buf_create(&l.frames, 0);
    if (!err)
        err = j->store->kind->scan(j->store, load_row, &l);
    mh_buf_destroy(&l.frames);
    mh__parcel_destroy(&l.message);
    return err;
}

/* ---- life ------------------------------------------------------------------------------------ */

mh_err mh__journal_open(mh__journal **out, mh__store *store)
{
    *out = NULL;
    mh__journal *j = mh__calloc(1, sizeof *j);
    if (!j) {
        mh__store_close(&store);
        return MH_ERR_NO_MEMORY;
    }
    j->store = store;
    j->bell = -1;
    j->open = &j->batches[0];
    mh_err err = mh__os_eventfd(&j->bell);
    if (!err)
        err = mh__lock_create(&j->lock);
    if (!err)
        err = mh__cond_create(&j->cond);
    for (size_t i = 0; i < MH__COUNT_OF(j->batches) && !err; i++)
        err = mh_buf_create(&j->batches[i].bytes, 0);
    if (err) {
        mh__journal_close(&j);
        return err;
    }
    *out = j;
    return MH_OK;
}

mh_err mh__journal_start(mh__journal *j)
{
    mh_err err = mh__thread_start(&j->writer, "mh-journal", write_on, j);
    if (!err && j->store->kind->sync)
        err = mh__thread_start(&j->syncer, "mh-sync", sync_on, j);
    return err;
}

/* The writer takes one batch, then what was added since. */
void mh__journal_finish(mh__journal *j)
{
    if (!j->writer)
        return;
    mh__lock_take(j->lock);
    while (j->next && j->state == MH__JOURNAL_OK)
        (void)!mh__cond_wait(j->cond, j->lock, mh_deadline_in(RETRY_NS));
    if (!j->next && j->open->count && j->state == MH__JOURNAL_OK)
        j->next = j->open;
    j->is_closing = true;
    mh__cond_wake_all(j->cond);
    mh__lock_drop(j->lock);
    mh__thread_join(&j->writer);
    mh__thread_join(&j->syncer);
}

void mh__journal_close(mh__journal **at)
{
    mh__journal *j = *at;
    if (!j)
        return;
    mh__journal_finish(j);
    for (size_t i = 0; i < MH__COUNT_OF(j->batches); i++) {
        empty(&j->batches[i]);
        mh_buf_destroy(&j->batches[i].bytes);
        mh__free(j->batches[i].ops);
    }
    mh__cond_destroy(&j->cond);
    mh__lock_destroy(&j->lock);
    mh__os_close(&j->bell);
    mh__store_close(&j->store);
    mh__free(j);
    *at = NULL;
}
