/* Sending, and holding what can't be sent yet. An engine is announced when it registers, which is before it has connected to
 * every channel; a client may read more slowly than results come. Both are rare, so what is held is tried again by an alarm. */
#include "cluster/controller_state.h"

#include "base/memory.h"
#include "base/number.h"
#include "net/seal.h"

#include <string.h>

enum { KEY_MAX = MH__WIRE_ID_MAX + 1 };
#define BYTES_FOR_ONE ((size_t)512 << 20)  /* held for one peer on one channel; clients: see quota.c */
#define BYTES_FOR_ALL ((size_t)2048 << 20) /* and for all */
#define CLIENT_AWAY_NS (30 * MH_SECOND) /* a client that had a name may come back under it for so long */
#define RETRY_FIRST_NS MH_MILLISECOND
#define RETRY_LAST_NS (20 * MH_MILLISECOND)

typedef struct outbox {
    mh__name name; /* channel and identity */
    mh__list held;
    size_t bytes;
    mh_deadline until; /* a client that is away is not waited for any longer */
    mh__channel channel;
    char key[];
} outbox;

typedef struct held {
    mh__list link;
    mh__parcel *parcel;
    size_t bytes;
} held;

static mh_bytes key_of(mh__channel channel, mh_bytes identity, char space[KEY_MAX])
{
    size_t size = MH__MIN(identity.size, (size_t)MH__WIRE_ID_MAX);
    space[0] = (char)channel;
    memcpy(space + 1, identity.data, size);
    return (mh_bytes){space, size + 1};
}

static outbox *find(const mh_controller *c, mh__channel channel, mh_bytes identity)
{
    char space[KEY_MAX];
    if (!c->outboxes.count)
        return NULL;
    mh__name *node = mh__names_find(&c->outboxes, key_of(channel, identity, space));
    return node ? mh__name_entry(node, outbox, name) : NULL;
}

static void drop_first(mh_controller *c, outbox *b)
{
    held *h = mh__list_entry(mh__list_pop_front(&b->held), held, link);
    b->bytes -= h->bytes;
    c->held_bytes -= h->bytes;
    mh__parcel_destroy(&h->parcel);
    mh__free(h);
}

static void destroy(mh_controller *c, outbox *b)
{
    while (!mh__list_is_empty(&b->held))
        drop_first(c, b);
    mh__names_remove(&c->outboxes, &b->name);
    mh__free(b);
}

static outbox *make(mh_controller *c, mh__channel channel, mh_bytes identity)
{
    char space[KEY_MAX];
    mh_bytes key = key_of(channel, identity, space);
    outbox *b = mh__calloc(1, sizeof *b + key.size);
    if (!b)
        return NULL;
    memcpy(b->key, key.data, key.size);
    b->name.key = (mh_bytes){b->key, key.size};
    b->channel = channel;
    b->until = mh_deadline_in(CLIENT_AWAY_NS);
    mh__list_init(&b->held);
    if (mh__names_add(&c->outboxes, &b->name)) {
        mh__free(b);
        return NULL;
    }
    return b;
}

static bool hold(mh_controller *c, outbox *b, mh__parcel *p)
{
    size_t bytes = mh__parcel_bytes(p) + 1024;
    if (b->bytes + bytes > BYTES_FOR_ONE || c->held_bytes + bytes > BYTES_FOR_ALL)
        return false;
    held *h = mh__calloc(1, sizeof *h);
    if (!h)
        return false;
    if (mh__parcel_create(&h->parcel)) {
        mh__free(h);
        return false;
    }
    mh__parcel_move(h->parcel, p);
    h->bytes = bytes;
    b->bytes += bytes;
    c->held_bytes += bytes;
    mh__list_push_back(&b->held, &h->link);
    return true;
}

static bool is_to_engine(mh__channel channel)
{
    return channel == MH__CH_MUX_OUT || channel == MH__CH_TASK_OUT || channel == MH__CH_CONTROL_OUT || channel == MH__CH_BROADCAST_OUT;
}

/* Whether a client may come back under its name: one of its own; or one that a socket made up (it begins with a zero), as long as this
 * controller has just come back itself, and its clients connect again. */
static bool may_return(const mh_controller *c, mh__channel channel, mh_bytes identity)
{
    bool is_own = identity.size && *(const char *)identity.data, is_early = c->resent_until && mh_now() < c->resent_until;
    return (channel == MH__CH_TASK_IN || channel == MH__CH_MUX_IN) && (is_own || is_early);
}

/* Whether a peer that has no connection may still get one. b NULL: nothing is held for it yet. */
static bool may_come(const mh_controller *c, mh__channel channel, mh_bytes identity, const outbox *b)
{
    if (may_return(c, channel, identity))
        return !b || mh_now() < b->until;
    return is_to_engine(channel) && mh__engine_find(c, identity);
}

static void drop(mh_controller *c, mh__parcel *p, const char *why)
{
    c->stats.dropped++;
    mh__log(c, MH_LOG_DEBUG, "a message could not be delivered: %s", why);
    mh__parcel_clear(p);
}

void mh__outbox_send(mh_controller *c, mh__channel channel, mh__parcel *p)
{
    if (mh__fast_send(c, channel, p))
        return;
    if ((channel == MH__CH_TASK_OUT || channel == MH__CH_TASK_IN) && mh__fast_sign(c, p)) {
        drop(c, p, "no memory for a signature");
        return;
    }
    if (channel != MH__CH_PING && mh__seal_add(&c->session, p)) { /* what is relayed has its digests */
        drop(c, p, "no memory for digests of its buffers");
        return;
    }
    bool is_routed = channel != MH__CH_NOTIFY && channel != MH__CH_IOPUB_OUT && channel != MH__CH_PING;
    mh_bytes identity = is_routed && mh__parcel_count(p) ? mh__parcel_frames(p)[0] : (mh_bytes){"", 0};
    if (is_routed && !mh__quota_take(c, channel, p)) {
        drop(c, p, "too much is waiting for its receiver");
        return;
    }
    outbox *b = is_routed ? find(c, channel, identity) : NULL;
    mh__parcel *lean = b ? NULL : mh__fast_lend(c, channel, p);
    mh_err err = b ? MH_ERR_FULL : mh__socket_send(c->sockets[channel], lean ? lean : p);
    mh__parcel_destroy(&lean);
    if (!err) {
        mh__parcel_clear(p);
        return;
    }
    if (!is_routed || (err != MH_ERR_FULL && !(err == MH_ERR_NOT_FOUND && may_come(c, channel, identity, b)))) {
        drop(c, p, err == MH_ERR_NOT_FOUND ? "no such peer" : mh_err_text(err));
        return;
    }
    if (!b)
        b = make(c, channel, identity);
    if (!b || !hold(c, b, p)) {
        drop(c, p, "too much is waiting for its receiver");
        return;
    }
    c->hold_ns = RETRY_FIRST_NS;
    mh__alarm_set(c->loop, &c->hold_alarm, mh_deadline_in(c->hold_ns));
}

/* Send what is held; false when some of it has to wait on. */
static bool flush(mh_controller *c, outbox *b)
{
    mh_bytes identity = {b->key + 1, b->name.key.size - 1};
    while (!mh__list_is_empty(&b->held)) {
        held *h = mh__list_entry(b->held.next, held, link);
        mh_err err = mh__socket_send(c->sockets[b->channel], h->parcel);
        if (err == MH_ERR_FULL || (err == MH_ERR_NOT_FOUND && may_come(c, b->channel, identity, b)))
            return false;
        c->stats.dropped += err != MH_OK;
        drop_first(c, b);
    }
    return true;
}

void mh__outbox_retry(void *ctx)
{
    mh_controller *c = ctx;
    for (size_t i = 0; i < c->outboxes.bucket_count; i++)
        for (mh__name *node = c->outboxes.buckets[i], *next; node; node = next) {
            next = node->next;
            outbox *b = mh__name_entry(node, outbox, name);
            if (flush(c, b))
                destroy(c, b);
        }
    if (!c->outboxes.count)
        return;
    c->hold_ns = MH__MIN(2 * c->hold_ns, RETRY_LAST_NS);
    mh__alarm_set(c->loop, &c->hold_alarm, mh_deadline_in(c->hold_ns));
}

void mh__outbox_drop(mh_controller *c, mh__channel channel, mh_bytes identity)
{
    outbox *b = find(c, channel, identity);
    if (b)
        destroy(c, b);
}

bool mh__outbox_is_held(const mh_controller *c, mh__channel channel, mh_bytes identity) { return find(c, channel, identity); }

void mh__outbox_fini(mh_controller *c)
{
    for (size_t i = 0; i < c->outboxes.bucket_count; i++)
        while (c->outboxes.buckets[i])
            destroy(c, mh__name_entry(c->outboxes.buckets[i], outbox, name));
    mh__names_fini(&c->outboxes);
}
