/* mh_shared: a segment with a table of its users in front, the last of whom removes its name.
 *
 * A user is an object in a process. Its place in the table is one word, the process's identity, so that being killed leaves a word
 * that everybody can see to be stale. Who closes takes his word out and looks whether anybody is left; if not:
 *
 *     STANDING -> CLOSING    by compare-and-swap: one closer at a time; then he looks again
 *     CLOSING  -> GONE       still nobody: the name is removed
 *     CLOSING  -> STANDING   somebody came meanwhile; and he looks once more, for that one may have left again
 *
 * Who posts a reference is in the table, counts it, and then reads the state. All of it is sequentially consistent: either the closer's second
 * look finds the poster, or the poster finds CLOSING and waits for what becomes of it. A closer killed in CLOSING leaves the
 * name to the janitor; posters then send copies.
 *
 * Whatever is written over the table, no call crashes or hangs: at worst the name goes too early or stays until the tree ends.
 */
#include "shm/segment.h"

#include "base/error.h"
#include "base/memory.h"
#include "os/futex.h"
#include "os/identity.h"
#include "os/memory.h"

#include <stdatomic.h>
#include <string.h>

#define MAGIC UINT64_C(0x3164657261687301) /* version in the low byte */
enum { STANDING, CLOSING, GONE };
enum { HEAD_BYTES = 4096, USERS_MAX = 508 };
#define CLOSING_NS (200 * MH_MILLISECOND) /* a closer looks at as many processes as there are users; then he is taken for dead */

typedef struct head {
    _Atomic uint64_t magic;
    _Atomic uint32_t state;
    _Atomic uint32_t posted; /* references on their way */
    _Atomic uint32_t pinned; /* there were too many users at a time: the name stays until the tree ends */
    uint32_t unused[3];
    _Atomic uint64_t users[USERS_MAX]; /* mh__identity; 0: free */
} head;
_Static_assert(sizeof(head) <= HEAD_BYTES, "the table lies in front of the bytes");

struct mh_shared {
    mh_shm *shm; /* writable, for the table's sake */
    head *h;
    void *data;
    size_t size;
    bool readonly;         /* data is a mapping of its own */
    mh__identity user;     /* whose place it is: this process, or the one that forked it */
    size_t place;          /* in the table; USERS_MAX: none */
};

/* ---- the table ------------------------------------------------------------------------------------- */

static bool is_stale(mh__identity who, mh__identity self) { return who != self && !mh__os_is_process_alive(who); }

static bool take_place(mh_shared *s, mh__identity self, size_t at)
{
    uint64_t nobody = 0;
    if (!atomic_compare_exchange_strong(&s->h->users[at], &nobody, self))
        return false;
    s->place = at;
    return true;
}

/* Enter this process. A full table is first rid of those who are dead. */
static void enter(mh_shared *s)
{
    mh__identity self = mh__os_self_process();
    s->user = self;
    s->place = USERS_MAX;
    for (size_t i = 0; i < USERS_MAX; i++)
        if (take_place(s, self, i))
            return;
    for (size_t i = 0; i < USERS_MAX; i++) {
        uint64_t who = atomic_load(&s->h->users[i]);
        if (who && is_stale(who, self))
            atomic_compare_exchange_strong(&s->h->users[i], &who, 0);
        if (take_place(s, self, i))
            return;
    }
    atomic_store(&s->h->pinned, 1);
}

static bool is_used(head *h)
{
    mh__identity self = mh__os_self_process();
    if (atomic_load(&h->pinned) || atomic_load(&h->posted))
        return true;
    for (size_t i = 0; i < USERS_MAX; i++) {
        uint64_t who = atomic_load(&h->users[i]);
        if (who && !is_stale(who, self))
            return true;
        if (who)
            atomic_compare_exchange_strong(&h->users[i], &who, 0);
    }
    return false;
}

static void leave(mh_shared *s)
{
    head *h = s->h;
    if (s->place < USERS_MAX) {
        uint64_t self = s->user;
        atomic_compare_exchange_strong(&h->users[s->place], &self, 0);
    }
    while (!is_used(h)) {
        uint32_t state = STANDING;
        if (!atomic_compare_exchange_strong(&h->state, &state, CLOSING))
            return;
        if (!is_used(h)) {
            atomic_store(&h->state, GONE);
            (void)mh_shm_unlink(mh_shm_name(s->shm)); /* whoever removed it before wanted the same */
            return;
        }
        atomic_store(&h->state, STANDING);
    }
}

/* ---- life --------------------------------------------------------------------------------------------- */

static mh_err wrap(mh_shared **out, mh_shm **shm, uint32_t flags)
{
    size_t size = mh_shm_size(*shm) - HEAD_BYTES;
    mh_shared *s = mh__calloc(1, sizeof *s);
    if (!s)
        return MH_ERR_NO_MEMORY;
    *s = (mh_shared){.h = mh_shm_data(*shm), .data = (char *)mh_shm_data(*shm) + HEAD_BYTES, .size = size};
    if (flags & MH_SHM_READONLY) {
        mh_err err = mh__os_map(&s->data, mh_shm_fd(*shm), HEAD_BYTES, size, false);
        if (err) {
            mh__free(s);
            return err;
        }
        s->readonly = true;
    }
    s->shm = *shm;
    *shm = NULL;
    *out = s;
    return MH_OK;
}

mh_err mh_shared_create(mh_shared **out, size_t size)
{
    mh_shm *shm = NULL;
    *out = NULL;
    if (!size || size > SIZE_MAX / 2)
        return mh__fail(MH_ERR_INVALID, "a segment of %zu bytes", size);
    mh_err err = mh__shm_create_named(&shm, NULL, HEAD_BYTES + size, true);
    if (err)
        return err;
    err = wrap(out, &shm, 0);
    if (err) {
        (void)mh_shm_unlink(mh_shm_name(shm));
        mh_shm_destroy(&shm);
        return err;
    }
    enter(*out);
    atomic_store(&(*out)->h->magic, MAGIC);
    return MH_OK;
}

/* A reference has arrived. */
static void take_off(head *h)
{
    uint32_t posted = atomic_load(&h->posted);
    while (posted && !atomic_compare_exchange_weak(&h->posted, &posted, posted - 1))
        ;
}

mh_err mh_shared_open(mh_shared **out, const char *name, uint32_t flags)
{
    mh_shm *shm = NULL;
    *out = NULL;
    if (flags & ~MH_SHM_READONLY)
        return mh__fail(MH_ERR_INVALID, "unknown flags %#x for a segment", flags);
    mh_err err = mh_shm_open_named(&shm, name, 0);
    if (err)
        return err;
    if (mh_shm_is_readonly(shm) || mh_shm_size(shm) <= HEAD_BYTES || atomic_load(&((head *)mh_shm_data(shm))->magic) != MAGIC)
        err = mh__fail(MH_ERR_CORRUPT, "%.80s is no counted segment", name);
    else
        err = wrap(out, &shm, flags);
    if (err) {
        mh_shm_destroy(&shm);
        return err;
    }
    enter(*out);
    take_off((*out)->h); /* in this order: at no moment is it neither used nor on its way */
    return MH_OK;
}

/* What became of a closing that is under way. */
static uint32_t settled_state(head *h)
{
    mh_deadline until = mh_deadline_in(CLOSING_NS);
    uint32_t state;
    while ((state = atomic_load(&h->state)) == CLOSING && mh_now() < until)
        (void)mh__os_futex_wait(&h->state, CLOSING, mh_deadline_in(MH_MILLISECOND)); /* nobody wakes: it is rare and short */
    return state;
}

mh_err mh_shared_post(mh_shared *s)
{
    if (s->user != mh__os_self_process())
        enter(s);
    atomic_fetch_add(&s->h->posted, 1);
    if (settled_state(s->h) == STANDING)
        return MH_OK;
    take_off(s->h);
    return mh__fail(MH_ERR_CLOSED, "the name %.80s was removed when its last user closed it", mh_shm_name(s->shm));
}

void mh_shared_arrive(mh_shared *s) { take_off(s->h); }

void *mh_shared_data(const mh_shared *s) { return s->data; }
size_t mh_shared_size(const mh_shared *s) { return s->size; }
const char *mh_shared_name(const mh_shared *s) { return mh_shm_name(s->shm); }
bool mh_shared_is_readonly(const mh_shared *s) { return s->readonly; }

void mh_shared_close(mh_shared **shared)
{
    mh_shared *s = *shared;
    if (!s)
        return;
    if (s->user == mh__os_self_process())
        leave(s);
    if (s->readonly)
        mh__os_unmap(s->data, s->size);
    mh_shm_destroy(&s->shm);
    mh__free(s);
    *shared = NULL;
}
