/* How much waits for each client. libzmq counts messages, and a client that never reads may be sent large ones: so a message to a client takes its
 * bytes along, and gives them back when it has left this process, or was dropped with its client. That may be in another thread. */
#include "cluster/controller_state.h"

#include "base/memory.h"
#include "base/number.h"

#include <stdatomic.h>
#include <string.h>

enum { KEY_MAX = MH__WIRE_ID_MAX + 1, UNCOUNTED_BYTES = 1024, SWEEP_AT_LEAST = 256 };

typedef struct account {
    mh__name name; /* channel and identity, in key[]; in c->accounts */
    atomic_size_t bytes, refs; /* refs: one of the table, and of each message that waits */
    bool is_full;
    char key[];
} account;

typedef struct message {
    account *of;
    size_t bytes;
} message;

static void drop(account *a)
{
    if (atomic_fetch_sub(&a->refs, 1) == 1)
        mh__free(a);
}

static void give_back(void *data, void *ctx)
{
    (void)data;
    message *m = ctx;
    atomic_fetch_sub(&m->of->bytes, m->bytes);
    drop(m->of);
    mh__free(m);
}

/* Of clients for whom nothing waits nothing is known. */
static void sweep(mh_controller *c)
{
    for (size_t i = 0; i < c->accounts.bucket_count; i++)
        for (mh__name *node = c->accounts.buckets[i], *next; node; node = next) {
            account *a = mh__name_entry(node, account, name);
            next = node->next;
            if (atomic_load(&a->bytes))
                continue;
            mh__names_remove(&c->accounts, node);
            drop(a);
        }
    c->accounts_swept_at = MH__MAX((size_t)SWEEP_AT_LEAST, 2 * c->accounts.count);
}

static account *open_account(mh_controller *c, mh__channel channel, mh_bytes identity)
{
    char key[KEY_MAX];
    size_t size = MH__MIN(identity.size, (size_t)MH__WIRE_ID_MAX);
    key[0] = (char)channel;
    memcpy(key + 1, identity.data, size);
    mh__name *node = c->accounts.count ? mh__names_find(&c->accounts, (mh_bytes){key, size + 1}) : NULL;
    if (node)
        return mh__name_entry(node, account, name);
    if (c->accounts.count >= c->accounts_swept_at)
        sweep(c);
    account *a = mh__calloc(1, sizeof *a + size + 1);
    if (!a)
        return NULL;
    memcpy(a->key, key, size + 1);
    a->name.key = (mh_bytes){a->key, size + 1};
    atomic_store(&a->refs, 1);
    if (mh__names_add(&c->accounts, &a->name)) {
        mh__free(a);
        return NULL;
    }
    return a;
}

static void say_full(mh_controller *c, account *a, size_t waiting)
{
    if (!a->is_full)
        mh__log(c, MH_LOG_WARNING, "a client does not read: %zu bytes wait for it, and what comes now is dropped (results stay in the history)", waiting);
    a->is_full = true;
}

static bool is_client(mh__channel channel)
{
    return channel == MH__CH_TASK_IN || channel == MH__CH_MUX_IN || channel == MH__CH_CONTROL_IN || channel == MH__CH_BROADCAST_IN || channel == MH__CH_QUERY;
}

bool mh__quota_take(mh_controller *c, mh__channel channel, mh__parcel *p)
{
    size_t bytes = mh__parcel_bytes(p);
    if (!is_client(channel) || bytes <= UNCOUNTED_BYTES || mh__parcel_count(p) < 2)
        return true;
    account *a = open_account(c, channel, mh__parcel_frames(p)[0]);
    message *m = a ? mh__alloc(sizeof *m) : NULL;
    if (!m)
        return false;
    size_t waiting = atomic_load(&a->bytes);
    if (waiting && waiting + bytes > c->options.client_bytes) { /* one message may be as large as it likes */
        say_full(c, a, waiting);
        mh__free(m);
        return false;
    }
    *m = (message){.of = a, .bytes = bytes};
    if (mh__parcel_watch(p, 1, give_back, m)) {
        mh__free(m);
        return false;
    }
    a->is_full = false;
    atomic_fetch_add(&a->refs, 1);
    atomic_fetch_add(&a->bytes, bytes);
    return true;
}

void mh__quota_fini(mh_controller *c)
{
    for (size_t i = 0; i < c->accounts.bucket_count; i++)
        for (mh__name *node = c->accounts.buckets[i], *next; node; node = next) {
            next = node->next;
            drop(mh__name_entry(node, account, name));
        }
    mh__names_fini(&c->accounts);
}
