#include "wire/fast.h"

#include "base/error.h"
#include "base/number.h"

#include <string.h>

enum { RECORD_HEAD = 24 };

typedef struct head {
    uint32_t size;
    uint8_t kind, flags;
    uint16_t ident_count;
    uint32_t frame_count, zero;
    int64_t duration_ns;
} head;
_Static_assert(sizeof(head) == RECORD_HEAD, "no gaps on the wire");

size_t mh__fast_size(const mh__fast_record *r)
{
    size_t count = r->ident_count + r->frame_count, size = RECORD_HEAD + count * sizeof(uint32_t);
    if (count > MH__FAST_PARTS_MAX)
        return 0;
    for (size_t i = 0; i < count; i++) {
        if (r->parts[i].size > MH__FAST_RECORD_MAX)
            return 0;
        size += r->parts[i].size;
    }
    size = mh__round_up(size, 8);
    return size <= MH__FAST_RECORD_MAX ? size : 0;
}

void mh__fast_write(const mh__fast_record *r, void *to)
{
    size_t count = r->ident_count + r->frame_count;
    uint8_t *base = to, *at = base + RECORD_HEAD + count * sizeof(uint32_t);
    uint32_t sizes[MH__FAST_PARTS_MAX];
    for (size_t i = 0; i < count; i++) {
        sizes[i] = (uint32_t)r->parts[i].size;
        if (sizes[i])
            memcpy(at, r->parts[i].data, sizes[i]);
        at += sizes[i];
    }
    size_t size = mh__round_up((size_t)(at - base), 8);
    memset(at, 0, (size_t)(base + size - at));
    head h = {.size = (uint32_t)size, .kind = (uint8_t)r->kind, .flags = r->flags, .ident_count = (uint16_t)r->ident_count,
              .frame_count = (uint32_t)r->frame_count, .duration_ns = r->duration_ns};
    memcpy(base, &h, sizeof h);
    memcpy(base + RECORD_HEAD, sizes, count * sizeof *sizes);
}

mh_err mh__fast_next(mh_bytes *at, mh__fast_record *out)
{
    const uint8_t *base = at->data;
    head h;
    uint32_t sizes[MH__FAST_PARTS_MAX];
    if (!at->size)
        return MH_ERR_EMPTY;
    if (at->size < sizeof h)
        return mh__fail(MH_ERR_CORRUPT, "fast lane: %zu bytes after the last record", at->size);
    memcpy(&h, base, sizeof h);
    size_t count = (size_t)h.ident_count + h.frame_count, used = RECORD_HEAD + count * sizeof(uint32_t);
    if (h.size > at->size || h.size % 8 || count > MH__FAST_PARTS_MAX || used > h.size || h.ident_count > MH__WIRE_IDENTS_MAX || h.duration_ns < 0 ||
        h.kind < MH__FAST_GREETING || h.kind > MH__FAST_LEND)
        return mh__fail(MH_ERR_CORRUPT, "fast lane: a record of %u bytes, kind %u, with %zu parts", h.size, h.kind, count);
    memcpy(sizes, base + RECORD_HEAD, count * sizeof *sizes);
    for (size_t i = 0; i < count; i++) {
        if (sizes[i] > h.size - used || (i < h.ident_count && sizes[i] > MH__WIRE_ID_MAX))
            return mh__fail(MH_ERR_CORRUPT, "fast lane: part %zu of a record has %u bytes", i, sizes[i]);
        out->parts[i] = (mh_bytes){base + used, sizes[i]};
        used += sizes[i];
    }
    if (h.size - used >= 8)
        return mh__fail(MH_ERR_CORRUPT, "fast lane: %zu bytes after the parts of a record", h.size - used);
    out->kind = (mh__fast_kind)h.kind;
    out->flags = h.flags;
    out->duration_ns = h.duration_ns;
    out->ident_count = h.ident_count;
    out->frame_count = h.frame_count;
    *at = (mh_bytes){base + h.size, at->size - h.size};
    return MH_OK;
}

/* ---- in brief -------------------------------------------------------------------------------- */

typedef struct task_head {
    uint64_t number, ref, token;
    int64_t date_ns, started_ns;
    uint64_t zero;
} task_head;
_Static_assert(sizeof(task_head) == MH__FAST_TASK_HEAD, "no gaps on the wire");

#define ONES UINT64_C(0x0101010101010101)
#define HIGHS UINT64_C(0x8080808080808080)
/* High bits where a byte is zero: exact as long as all are below 0x80, which is looked at, too. */
static uint64_t has_zero(uint64_t w) { return (w - ONES) & ~w; }

bool mh__fast_is_plain(mh_bytes text, size_t most)
{
    const unsigned char *at = text.data;
    uint64_t odd = 0, word;
    size_t i = 0;
    if (!text.size || text.size > most)
        return false;
    for (; i + sizeof word <= text.size; i += sizeof word) { /* eight at a time: the high bit of each byte tells */
        memcpy(&word, at + i, sizeof word);
        odd |= word | (word - 0x20 * ONES) | (word + ONES) | has_zero(word ^ '"' * ONES) | has_zero(word ^ '\\' * ONES);
    }
    for (; i < text.size; i++)
        odd |= at[i] < 0x20 || at[i] >= 0x7f || at[i] == '"' || at[i] == '\\' ? HIGHS : 0;
    return !(odd & HIGHS);
}

bool mh__fast_task_record(const mh__fast_task *t, uint8_t fixed[MH__FAST_TASK_HEAD], mh__fast_record *out)
{
    const task_head h = {t->number, t->ref, t->token, t->date_ns, t->started_ns, 0};
    size_t part = 0, texts = t->is_reply ? 1 : 2;
    memcpy(fixed, &h, sizeof h);
    out->kind = t->is_reply ? MH__FAST_DONE : MH__FAST_TASK;
    out->flags = t->flags;
    out->duration_ns = t->duration_ns;
    out->parts[part++] = (mh_bytes){fixed, MH__FAST_TASK_HEAD};
    if (t->who.size)
        out->parts[part++] = t->who;
    if (t->user.size)
        out->parts[part++] = t->user;
    out->ident_count = part;
    out->frame_count = texts + t->buffer_count;
    if (t->buffer_count > MH__FAST_PARTS_MAX - part - texts)
        return false;
    out->parts[part++] = t->what;
    if (!t->is_reply)
        out->parts[part++] = t->metadata;
    for (size_t i = 0; i < t->buffer_count; i++)
        out->parts[part++] = t->buffers[i];
    return true;
}

mh_err mh__fast_task_read(const mh__fast_record *r, mh__fast_task *out)
{
    task_head h;
    bool is_reply = r->kind == MH__FAST_DONE;
    size_t texts = is_reply ? 1 : 2;
    const mh_bytes *f = r->parts + r->ident_count;
    if ((r->kind != MH__FAST_TASK && !is_reply) || !r->ident_count || r->ident_count > 3 || r->parts[0].size != sizeof h || r->frame_count < texts)
        return mh__fail(MH_ERR_CORRUPT, "fast lane: a task in brief of %zu and %zu parts", r->ident_count, r->frame_count);
    memcpy(&h, r->parts[0].data, sizeof h);
    *out = (mh__fast_task){
        .is_reply = is_reply,
        .flags = r->flags,
        .number = h.number,
        .ref = h.ref,
        .token = h.token,
        .date_ns = h.date_ns,
        .started_ns = h.started_ns,
        .duration_ns = r->duration_ns,
        .who = r->ident_count > 1 ? r->parts[1] : (mh_bytes){"", 0},
        .user = r->ident_count > 2 ? r->parts[2] : (mh_bytes){"", 0},
        .what = f[0],
        .metadata = is_reply ? (mh_bytes){"", 0} : f[1],
        .buffers = f + texts,
        .buffer_count = r->frame_count - texts,
    };
    bool is_call = !is_reply && (r->flags & MH__FAST_CALL);
    if (h.date_ns < 0 || h.started_ns < 0 || (is_call && !mh__fast_is_plain(f[0], MH__FAST_NAME_MAX)) || (!is_call && !is_reply && f[0].size) ||
        (out->who.size && !mh__fast_is_plain(out->who, MH__FAST_CLIENT_MAX)) || (out->user.size && !mh__fast_is_plain(out->user, MH__FAST_USER_MAX)) ||
        f[0].size > MH__WIRE_META_MAX || out->metadata.size > MH__WIRE_META_MAX)
        return mh__fail(MH_ERR_CORRUPT, "fast lane: a task in brief whose names or times are not valid");
    return MH_OK;
}

/* ---- authenticity ---------------------------------------------------------------------------- */

void mh__fast_mac(const mh__signer *signer, const mh__fast_mac_input *in, mh_bytes records, uint8_t out[MH__FAST_MAC_SIZE])
{
    uint8_t fixed[MH__FAST_NONCE_SIZE + 16] = {0}, digest[32] = {0};
    uint32_t size = (uint32_t)records.size;
    memcpy(fixed, in->nonce, MH__FAST_NONCE_SIZE);
    memcpy(fixed + MH__FAST_NONCE_SIZE, &in->number, sizeof in->number);
    memcpy(fixed + MH__FAST_NONCE_SIZE + 8, &size, sizeof size);
    fixed[MH__FAST_NONCE_SIZE + 12] = in->from_listener;
    if (signer->digest)
        signer->digest((const mh_bytes[]){{fixed, sizeof fixed}, {records.data, MH__MIN(records.size, (size_t)MH__FAST_MAC_COVERS)}}, 2, digest, signer->ctx);
    memcpy(out, digest, MH__FAST_MAC_SIZE);
}

bool mh__fast_mac_is(const uint8_t a[MH__FAST_MAC_SIZE], const uint8_t b[MH__FAST_MAC_SIZE])
{
    volatile uint8_t differ = 0;
    for (size_t i = 0; i < MH__FAST_MAC_SIZE; i++)
        differ |= (uint8_t)(a[i] ^ b[i]);
    return !differ;
}

mh_err mh__fast_message(const mh__fast_record *r, mh__message *out)
{
    const mh_bytes *f = r->parts + r->ident_count;
    if (r->frame_count < 4 || f[0].size > MH__WIRE_HEADER_MAX || f[1].size > MH__WIRE_HEADER_MAX)
        return mh__fail(MH_ERR_CORRUPT, "fast lane: a message of %zu frames", r->frame_count);
    *out = (mh__message){.idents = r->parts, .ident_count = r->ident_count, .signature = {"", 0}, .header = f[0], .parent = f[1], .metadata = f[2],
                         .content = f[3], .buffers = f + 4, .buffer_count = r->frame_count - 4};
    return MH_OK;
}
