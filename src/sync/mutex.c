/* The mutex is one 64-bit word: 0 when free, else its owner's identity, so that taking and owning are one
 * instruction and there is no moment in which it is taken by nobody. Two bits beside the owner's number:
 *
 *   WAITERS  somebody may sleep on the low half: unlocking wakes one
 *   DIED     an owner ended inside, and nobody has said since that the data are whole; also set while free
 *
 * A waiter whose slice is over looks whether the owner lives and, if not, puts itself in its place by one
 * compare-and-swap, which one waiter wins. An owner that dies between unlocking and waking leaves a free word with
 * sleepers on it: their slices end. (Why not the kernel's robust list: it frees at most 2,048 locks of a thread,
 * none in memory that the thread unmapped, and needs a list in memory that a hostile peer can write.)
 */
#include "base/error.h"
#include "os/cores.h"
#include "os/identity.h"
#include "sync/wait.h"

#include <stddef.h>

#define MAGIC MH__SYNC_MAGIC('m', 1)
#define RECURSIVE_MAGIC MH__SYNC_MAGIC('r', 1)
#define DIED (UINT64_C(1) << 30)
#define WAITERS (UINT64_C(1) << 31)
#define STATE (DIED | WAITERS)

enum { KNOWN_FLAGS = MH_MUTEX_CHECKED | MH_MUTEX_PROCESS | MH_MUTEX_ANYONE, SPINS = 100 };

_Static_assert(sizeof(mh_mutex) == 16 && offsetof(mh_mutex, word) == 8, "layout between processes");
_Static_assert(sizeof(mh_rmutex) == 24 && offsetof(mh_rmutex, depth) == 20, "layout between processes");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "sleepers wait on the low half, at the word's address");
_Static_assert(__GCC_ATOMIC_LLONG_LOCK_FREE == 2, "locks must work between processes");

static uint64_t load(const mh_mutex *m) { return __atomic_load_n(&m->word, __ATOMIC_RELAXED); }

static bool swap(mh_mutex *m, uint64_t *seen, uint64_t to)
{
    return __atomic_compare_exchange_n(&m->word, seen, to, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static uint32_t *low_half(mh_mutex *m) { return (uint32_t *)(void *)&m->word; }

static mh__identity caller(const mh_mutex *m)
{
    return m->flags & MH_MUTEX_PROCESS ? mh__os_self_process() : mh__os_self_thread();
}

static bool is_alive(const mh_mutex *m, mh__identity owner)
{
    return m->flags & MH_MUTEX_PROCESS ? mh__os_is_process_alive(owner) : mh__os_is_alive(owner);
}

mh_err mh_mutex_init(mh_mutex *m, uint32_t flags)
{
    mh_err err = mh__sync_check_place(m, "mutex");
    if (err)
        return err;
    if (flags & ~(uint32_t)KNOWN_FLAGS)
        return mh__fail(MH_ERR_INVALID, "unknown mutex flags 0x%x", flags);
    *m = (mh_mutex){.magic = MAGIC, .flags = flags};
    return MH_OK;
}

void mh_mutex_fini(mh_mutex *m) { m->magic = 0; }

/* Take the word if it is free. `extra` is WAITERS when the caller has slept, because others may sleep still. */
static bool take_free(mh_mutex *m, mh__identity self, uint64_t extra, mh_err *err)
{
    uint64_t seen = load(m);
    while ((seen & ~STATE) == 0) {
        if (swap(m, &seen, self | (seen & STATE) | extra)) {
            *err = seen & DIED ? mh__fail(MH_ERR_OWNER_DIED, "the last holder of a mutex died") : MH_OK;
            return true;
        }
    }
    return false;
}

/* Put the caller in the place of an owner that has ended. */
static bool take_over(mh_mutex *m, mh__identity self)
{
    uint64_t seen = load(m);
    mh__identity owner = seen & ~STATE;
    if (owner == 0 || owner == self || is_alive(m, owner) || !swap(m, &seen, self | DIED | WAITERS))
        return false;
    mh__fail(MH_ERR_OWNER_DIED, "thread or process %d died holding a mutex", mh__identity_number(owner));
    return true;
}

static bool spin(mh_mutex *m, mh__identity self, mh_err *err)
{
    for (int i = mh__os_usable_cores() > 1 ? SPINS : 1; i > 0; i--) {
        if (take_free(m, self, 0, err))
            return true;
        mh__os_relax();
    }
    return false;
}

static mh_err sleep_until_free(mh_mutex *m, mh__identity self, mh_deadline until)
{
    mh__slice slice = {0};
    mh_err err;
    while (!take_free(m, self, WAITERS, &err)) {
        uint64_t seen = load(m);
        if ((seen & ~STATE) == 0 || (!(seen & WAITERS) && !swap(m, &seen, seen | WAITERS)))
            continue;
        err = mh__slice_sleep(&slice, low_half(m), (uint32_t)(seen | WAITERS), until);
        if (err == MH_OK)
            continue;
        if (err != MH_ERR_TIMEOUT)
            return err;
        if (take_over(m, self))
            return MH_ERR_OWNER_DIED;
        if (mh__has_passed(until)) /* one last look: it may have been freed just now */
            return take_free(m, self, WAITERS, &err) ? err : MH_ERR_TIMEOUT;
    }
    return err;
}

static mh_err lock_slowly(mh_mutex *m, mh__identity self, mh_deadline until)
{
    mh_err err;
    if (take_free(m, self, 0, &err))
        return err;
    if (m->flags & MH_MUTEX_CHECKED && (load(m) & ~STATE) == self)
        return mh__fail(MH_ERR_DEADLOCK, "the caller holds this mutex already");
    if (until <= MH_NOW)
        return take_over(m, self) ? MH_ERR_OWNER_DIED : MH_ERR_TIMEOUT;
    return spin(m, self, &err) ? err : sleep_until_free(m, self, until);
}

mh_err mh_mutex_try(mh_mutex *m)
{
    if (m->magic != MAGIC)
        return mh__sync_corrupt("mutex");
    mh_err err;
    return take_free(m, caller(m), 0, &err) ? err : MH_ERR_TIMEOUT;
}

mh_err mh_mutex_lock(mh_mutex *m, mh_deadline until)
{
    if (m->magic != MAGIC)
        return mh__sync_corrupt("mutex");
    mh__identity self = caller(m);
    uint64_t seen = 0;
    if (__atomic_compare_exchange_n(&m->word, &seen, self, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return MH_OK;
    return lock_slowly(m, self, until);
}

/* Where others than the locking thread may unlock, two of them may try at once: one wins. */
static mh_err unlock_by_any(mh_mutex *m)
{
    uint64_t seen = load(m);
    do {
        mh__identity owner = seen & ~STATE;
        if (owner == 0 || (!(m->flags & MH_MUTEX_ANYONE) && owner != caller(m)))
            return mh__fail(MH_ERR_NOT_OWNER, "unlocking a mutex that the caller does not hold");
    } while (!swap(m, &seen, seen & DIED));
    if (seen & WAITERS)
        mh__sync_wake(low_half(m), 1);
    return MH_OK;
}

mh_err mh_mutex_unlock(mh_mutex *m)
{
    if (m->magic != MAGIC)
        return mh__sync_corrupt("mutex");
    if (m->flags & (MH_MUTEX_PROCESS | MH_MUTEX_ANYONE))
        return unlock_by_any(m);
    uint64_t seen = load(m);
    if ((seen & ~STATE) != mh__os_self_thread())
        return mh__fail(MH_ERR_NOT_OWNER, "unlocking a mutex that the caller does not hold");
    seen = __atomic_exchange_n(&m->word, seen & DIED, __ATOMIC_RELEASE);
    if (seen & WAITERS)
        mh__sync_wake(low_half(m), 1);
    return MH_OK;
}

mh_err mh_mutex_recover(mh_mutex *m)
{
    if (m->magic != MAGIC)
        return mh__sync_corrupt("mutex");
    if (!(m->flags & MH_MUTEX_ANYONE ? mh_mutex_is_locked(m) : mh_mutex_is_mine(m)))
        return mh__fail(MH_ERR_NOT_OWNER, "recovering a mutex that the caller does not hold");
    __atomic_fetch_and(&m->word, ~DIED, __ATOMIC_RELAXED);
    return MH_OK;
}

bool mh_mutex_is_locked(const mh_mutex *m) { return (load(m) & ~STATE) != 0; }
bool mh_mutex_is_mine(const mh_mutex *m) { return (load(m) & ~STATE) == caller(m); }
int32_t mh_mutex_holder(const mh_mutex *m) { return mh__identity_number(load(m) & ~STATE); }

/* ---- recursive: depth counts only while it is held, so that a dead holder's is forgotten with it ---- */

mh_err mh_rmutex_init(mh_rmutex *m)
{
    mh_err err = mh_mutex_init(&m->mutex, 0);
    if (err)
        return err;
    m->depth = 0;
    m->magic = RECURSIVE_MAGIC;
    return MH_OK;
}

void mh_rmutex_fini(mh_rmutex *m)
{
    m->magic = 0;
    mh_mutex_fini(&m->mutex);
}

mh_err mh_rmutex_lock(mh_rmutex *m, mh_deadline until)
{
    if (m->magic != RECURSIVE_MAGIC || m->mutex.flags)
        return mh__sync_corrupt("recursive mutex");
    if (mh_mutex_is_mine(&m->mutex)) {
        if (m->depth == UINT32_MAX)
            return mh__fail(MH_ERR_LIMIT, "a recursive mutex was locked 2^32 - 1 times");
        m->depth++;
        return MH_OK;
    }
    mh_err err = mh_mutex_lock(&m->mutex, until);
    if (err == MH_OK || err == MH_ERR_OWNER_DIED)
        m->depth = 1;
    return err;
}

mh_err mh_rmutex_try(mh_rmutex *m)
{
    if (m->magic != RECURSIVE_MAGIC || m->mutex.flags)
        return mh__sync_corrupt("recursive mutex");
    if (mh_mutex_is_mine(&m->mutex))
        return mh_rmutex_lock(m, MH_NOW);
    mh_err err = mh_mutex_try(&m->mutex);
    if (err == MH_OK || err == MH_ERR_OWNER_DIED)
        m->depth = 1;
    return err;
}

mh_err mh_rmutex_unlock(mh_rmutex *m)
{
    if (m->magic != RECURSIVE_MAGIC || m->mutex.flags)
        return mh__sync_corrupt("recursive mutex");
    if (mh_mutex_is_mine(&m->mutex) && m->depth > 1) {
        m->depth--;
        return MH_OK;
    }
    return mh_mutex_unlock(&m->mutex);
}

mh_err mh_rmutex_recover(mh_rmutex *m)
{
    return m->magic == RECURSIVE_MAGIC ? mh_mutex_recover(&m->mutex) : mh__sync_corrupt("recursive mutex");
}

bool mh_rmutex_is_locked(const mh_rmutex *m) { return mh_mutex_is_locked(&m->mutex); }
bool mh_rmutex_is_mine(const mh_rmutex *m) { return mh_mutex_is_mine(&m->mutex); }
int32_t mh_rmutex_holder(const mh_rmutex *m) { return mh_mutex_holder(&m->mutex); }
uint32_t mh_rmutex_depth(const mh_rmutex *m) { return mh_rmutex_is_mine(m) ? m->depth : 0; }
