#include "net/lane.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"
#include "os/memory.h"
#include "os/unix.h"

#include <string.h>

enum { READ_BYTES = 64 << 10, READS_IN_ROUND = 4, RETRY_US = 200, KEEP_BYTES = 1 << 20, FDS_MAX = 16 };
#define WAITING_MAX ((size_t)64 << 20)

/* Bytes at [begin, end) of `at`. */
typedef struct bytes {
    uint8_t *at;
    size_t begin, end, capacity;
} bytes;

struct mh__lane {
    mh__loop *loop;
    int fd;
    mh__lane_options options;
    mh__sign_key *write_key, *read_key; /* a signer each: threads that write and the loop that reads don't share one */
    mh__signer writer, reader;
    uint8_t nonce[MH__FAST_NONCE_SIZE];
    bool is_greeted, is_ended, is_dispatching, is_closed, is_paused;
    uint64_t written, read;
    bytes in;
    bytes out;        /* finished frames that the socket has not taken, then the frame being built */
    size_t open_at;   /* where the frame being built begins, with its head; == out.end: none is */
    mh__alarm retry;
    int fds[FDS_MAX]; /* that came, and belong to records that are still to be taken, in their order */
    size_t fd_count;
};

/* ---- bytes ----------------------------------------------------------------------------------- */

static mh_err make_room(bytes *b, size_t size)
{
    if (b->begin == b->end)
        b->begin = b->end = 0;
    if (b->capacity - b->end >= size)
        return MH_OK;
    size_t held = b->end - b->begin;
    if (b->begin) { /* what is held moves to the front */
        memmove(b->at, b->at + b->begin, held);
        b->begin = 0;
        b->end = held;
    }
    if (b->capacity - held >= size)
        return MH_OK;
    size_t capacity = MH__MAX(2 * b->capacity, (size_t)mh__power_of_two(held + size));
    uint8_t *grown = mh__realloc(b->at, capacity);
    if (!grown)
        return MH_ERR_NO_MEMORY;
    b->at = grown;
    b->capacity = capacity;
    return MH_OK;
}

static void let_go(bytes *b)
{
    if (b->begin != b->end || b->capacity <= KEEP_BYTES)
        return;
    mh__free(b->at);
    *b = (bytes){0};
}

/* ---- writing --------------------------------------------------------------------------------- */

size_t mh__lane_waiting(const mh__lane *l) { return l->out.end - l->out.begin; }

static size_t open_bytes(const mh__lane *l) { return l->out.end - l->open_at; }

static void finish_frame(mh__lane *l)
{
    size_t size = open_bytes(l);
    if (!size)
        return;
    uint8_t *head = l->out.at + l->open_at;
    uint32_t words[2] = {(uint32_t)(size - MH__FAST_HEAD), 0};
    memcpy(head, words, sizeof words);
    mh__fast_mac(&l->writer, &(mh__fast_mac_input){l->nonce, l->options.is_listener, l->written++},
                 (mh_bytes){head + MH__FAST_HEAD, size - MH__FAST_HEAD}, head + sizeof words);
    l->open_at = l->out.end;
}

/* Room for `size` bytes of records in the open frame. */
static mh_err reserve(mh__lane *l, size_t size, uint8_t **at)
{
    if (l->is_ended)
        return mh__fail(MH_ERR_CLOSED, "the fast lane has ended");
    if (mh__lane_waiting(l) + size > WAITING_MAX)
        return mh__fail(MH_ERR_FULL, "%zu bytes wait in the fast lane", mh__lane_waiting(l));
    if (open_bytes(l) && open_bytes(l) + size > MH__FAST_FRAME_MAX)
        finish_frame(l);
    size_t open = open_bytes(l), head = open ? 0 : MH__FAST_HEAD;
    mh_err err = make_room(&l->out, head + size);
    if (err)
        return err;
    l->open_at = l->out.end - open;
    l->out.end += head;
    *at = l->out.at + l->out.end;
    l->out.end += size;
    return MH_OK;
}

mh_err mh__lane_add(mh__lane *l, const mh__fast_record *r)
{
    uint8_t *at;
    size_t size = mh__fast_size(r);
    mh_err err = size ? reserve(l, size, &at) : MH_ERR_TOO_LARGE;
    if (!err)
        mh__fast_write(r, at);
    return err;
}

mh_err mh__lane_add_written(mh__lane *l, mh_bytes records)
{
    uint8_t *at;
    mh_err err = reserve(l, records.size, &at);
    if (!err)
        memcpy(at, records.data, records.size);
    return err;
}

bool mh__lane_flush(mh__lane *l)
{
    if (l->is_ended || !l->is_greeted)
        return true;
    finish_frame(l);
    while (l->out.begin < l->out.end) {
        size_t count;
        mh_err err = mh__os_unix_write(l->fd, (mh_bytes){l->out.at + l->out.begin, l->out.end - l->out.begin}, &count);
        if (err == MH_ERR_FULL) {
            if (!l->options.is_shared)
                mh__alarm_set(l->loop, &l->retry, mh_deadline_in(RETRY_US * MH_MICROSECOND));
            return false;
        }
        if (err)
            break; /* the loop will read the end */
        l->out.begin += count;
    }
    l->out.begin = l->out.end = l->open_at = 0;
    let_go(&l->out);
    return true;
}

/* Nothing waits before it then, and of its own frame the socket has taken a first byte, and with it the descriptor. */
mh_err mh__lane_pass(mh__lane *l, const mh__fast_record *r, int fd)
{
    size_t count = 0;
    if (!l->is_greeted || !mh__lane_flush(l))
        return MH_ERR_FULL;
    mh_err err = mh__lane_add(l, r);
    if (err)
        return err;
    finish_frame(l);
    err = mh__os_unix_write_fd(l->fd, (mh_bytes){l->out.at + l->out.begin, l->out.end - l->out.begin}, fd, &count);
    if (err) { /* as if it had never been there */
        l->out.begin = l->out.end = l->open_at = 0;
        l->written--;
        return err;
    }
    l->out.begin += count;
    (void)mh__lane_flush(l);
    return MH_OK;
}

static void retry(void *ctx) { (void)mh__lane_flush(ctx); }

/* ---- reading --------------------------------------------------------------------------------- */

static void end(mh__lane *l, const char *why)
{
    if (l->is_ended)
        return;
    l->is_ended = true;
    if (!l->is_paused)
        mh__loop_remove_fd(l->loop, l->fd);
    l->options.on_end(l, why, l->options.ctx);
}

static bool take_greeting(mh__lane *l, const mh__fast_record *r)
{
    if (l->is_greeted || l->options.is_listener || r->kind != MH__FAST_GREETING)
        return r->kind != MH__FAST_GREETING && l->is_greeted;
    if (r->ident_count != 1 || r->parts[0].size != MH__FAST_NONCE_SIZE)
        return false;
    memcpy(l->nonce, r->parts[0].data, MH__FAST_NONCE_SIZE);
    l->is_greeted = true;
    return true;
}

static mh_err take_records(mh__lane *l, mh_bytes records)
{
    static _Thread_local mh__fast_record r;
    mh_err err;
    while (!(err = mh__fast_next(&records, &r))) {
        if (!take_greeting(l, &r))
            return mh__fail(MH_ERR_CORRUPT, "fast lane: a record out of turn");
        l->options.on_record(l, &r, l->options.ctx);
        if (l->is_closed || l->is_ended)
            return MH_OK;
    }
    return err == MH_ERR_EMPTY ? MH_OK : err;
}

/* The first frame of the connecting end's is a greeting, whose number it can't know before. */
static bool is_right(mh__lane *l, const uint8_t *mac, mh_bytes records)
{
    uint8_t expected[MH__FAST_MAC_SIZE];
    mh__fast_mac(&l->reader, &(mh__fast_mac_input){l->nonce, !l->options.is_listener, l->read++}, records, expected);
    return mh__fast_mac_is(mac, expected);
}

/* Whole frames of what was read. */
static mh_err take_frames(mh__lane *l)
{
    mh_err err = MH_OK;
    while (!err && !l->is_closed && !l->is_ended && l->in.end - l->in.begin >= MH__FAST_HEAD) {
        uint32_t words[2];
        const uint8_t *head = l->in.at + l->in.begin;
        memcpy(words, head, sizeof words);
        if (words[0] > MH__FAST_FRAME_MAX || words[1])
            return mh__fail(MH_ERR_CORRUPT, "fast lane: a frame of %u bytes", words[0]);
        if (l->in.end - l->in.begin - MH__FAST_HEAD < words[0])
            return make_room(&l->in, MH__FAST_HEAD + words[0] - (l->in.end - l->in.begin));
        mh_bytes records = {head + MH__FAST_HEAD, words[0]};
        if (!is_right(l, head + sizeof words, records))
            return mh__fail(MH_ERR_PERMISSION, "fast lane: a frame's MAC is wrong");
        l->in.begin += MH__FAST_HEAD + words[0];
        err = take_records(l, records);
    }
    return err;
}

int mh__lane_take_fd(mh__lane *l)
{
    if (!l->fd_count)
        return -1;
    int fd = l->fds[0];
    memmove(l->fds, l->fds + 1, --l->fd_count * sizeof *l->fds);
    return fd;
}

static mh_err read_some(mh__lane *l, size_t room, size_t *count)
{
    int fds[MH__OS_UNIX_FDS];
    size_t fd_count;
    mh_err err = mh__os_unix_read_fds(l->fd, l->in.at + l->in.end, room, count, fds, &fd_count);
    for (size_t i = 0; i < fd_count; i++) {
        if (l->fd_count < FDS_MAX) {
            l->fds[l->fd_count++] = fds[i];
            continue;
        }
        mh__os_close(&fds[i]);
        err = mh__fail(MH_ERR_CORRUPT, "fast lane: more descriptors than records that they belong to");
    }
    return err;
}

static void destroy(mh__lane *l)
{
    for (int fd; (fd = mh__lane_take_fd(l)) >= 0;)
        mh__os_close(&fd);
    mh__os_close(&l->fd);
    mh__sign_key_destroy(&l->write_key);
    mh__sign_key_destroy(&l->read_key);
    mh__free(l->in.at);
    mh__free(l->out.at);
    mh__free(l);
}

/* A few reads; whether they brought anything, and the lane is still there. */
static bool read_round(mh__lane *l)
{
    mh_err err = MH_OK;
    size_t total = 0;
    if (l->is_dispatching || l->is_ended || l->is_paused)
        return false;
    l->is_dispatching = true;
    for (int i = 0; i < READS_IN_ROUND && !err && !l->is_closed && !l->is_ended && !l->is_paused; i++) {
        size_t count = 0;
        err = make_room(&l->in, READ_BYTES);
        size_t room = l->in.capacity - l->in.end;
        if (!err)
            err = read_some(l, room, &count);
        l->in.end += count;
        total += count;
        if (!err)
            err = take_frames(l);
        if (!err && count < room)
            break;
    }
    if (!l->is_closed && l->options.on_batch)
        l->options.on_batch(l, l->options.ctx);
    if (err && err != MH_ERR_EMPTY && !l->is_closed)
        end(l, err == MH_ERR_CLOSED ? "it was closed" : mh_err_detail());
    l->is_dispatching = false;
    if (l->is_closed) {
        destroy(l);
        return false;
    }
    if (l->in.begin == l->in.end)
        let_go(&l->in);
    return total && !l->is_ended;
}

static void on_readable(int fd, void *ctx)
{
    (void)fd;
    (void)!read_round(ctx);
}

bool mh__lane_read(mh__lane *l) { return read_round(l); }

void mh__lane_pause(mh__lane *l, bool is_paused)
{
    if (l->is_ended || l->is_paused == is_paused)
        return;
    if (is_paused)
        mh__loop_remove_fd(l->loop, l->fd);
    else if (mh__loop_add_fd(l->loop, l->fd, on_readable, l))
        return; /* it is tried again by who finds it paused */
    l->is_paused = is_paused;
}

/* ---- life ------------------------------------------------------------------------------------ */

static mh_err greet(mh__lane *l)
{
    uint8_t number[MH__FAST_NONCE_SIZE];
    mh__fast_record r = {.kind = MH__FAST_GREETING, .ident_count = 1, .parts = {{number, sizeof number}}};
    mh_err err = mh__os_random(number, sizeof number);
    if (!err)
        err = mh__lane_add(l, &r);
    l->is_greeted = true;
    if (!err)
        (void)mh__lane_flush(l); /* under the number zero, as the other end expects it */
    memcpy(l->nonce, number, sizeof number);
    return err;
}

mh_err mh__lane_open(mh__lane **out, mh__loop *loop, int *fd, const mh__lane_options *o)
{
    *out = NULL;
    mh__lane *l = mh__calloc(1, sizeof *l);
    if (!l)
        return MH_ERR_NO_MEMORY;
    l->loop = loop;
    l->fd = -1;
    l->options = *o;
    l->retry = (mh__alarm){.fn = retry, .ctx = l};
    mh_err err = o->key.size ? mh__sign_key_create(&l->write_key, o->key) : MH_OK;
    if (!err && o->key.size)
        err = mh__sign_key_create(&l->read_key, o->key);
    l->writer = mh__sign_key_signer(l->write_key);
    l->reader = mh__sign_key_signer(l->read_key);
    l->options.key = (mh_bytes){0};
    if (!err)
        err = mh__loop_add_fd(loop, *fd, on_readable, l);
    if (!err) {
        l->fd = *fd;
        if (o->is_listener && (err = greet(l))) {
            mh__loop_remove_fd(loop, l->fd);
            l->fd = -1;
        }
    }
    if (err) {
        destroy(l);
        return err;
    }
    *fd = -1;
    *out = l;
    return MH_OK;
}

void mh__lane_close(mh__lane **at)
{
    mh__lane *l = *at;
    if (!l)
        return;
    *at = NULL;
    mh__alarm_clear(l->loop, &l->retry);
    if (!l->is_ended && !l->is_paused)
        mh__loop_remove_fd(l->loop, l->fd);
    l->is_closed = true;
    if (!l->is_dispatching)
        destroy(l);
}
