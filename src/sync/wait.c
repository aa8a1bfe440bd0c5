#include "sync/wait.h"

#include "base/error.h"
#include "base/number.h"
#include "os/clock.h"
#include "os/futex.h"

static const int64_t last_slice_ns = 50 * MH_MILLISECOND;
int64_t mh__first_slice_ns = 5 * MH_MILLISECOND; /* beyond the next tick: a timer that is not the first to end costs less to set */
int64_t mh__inner_wait_ns = 20 * MH_MILLISECOND;
int64_t mh__inner_patience_ns = 30 * MH_SECOND;

static _Atomic uint32_t *as_atomic(uint32_t *word)
{
    _Static_assert(sizeof(_Atomic uint32_t) == sizeof(uint32_t), "the futex word is the plain word");
    return (_Atomic uint32_t *)(void *)word;
}

mh_err mh__slice_sleep(mh__slice *slice, uint32_t *word, uint32_t expected, mh_deadline until)
{
    slice->ns = slice->ns ? MH__MIN(slice->ns * 2, last_slice_ns) : mh__first_slice_ns;
    return mh__os_futex_wait(as_atomic(word), expected, mh__os_sooner(until, slice->ns));
}

void mh__sync_wake(uint32_t *word, int count) { mh__os_futex_wake(as_atomic(word), count); }

bool mh__has_passed(mh_deadline until) { return mh__os_left_ns(until) == 0; }

/* A word that says that the caller is inside already was not written by this library. */
static mh_err inner_result(mh_err err)
{
    return err == MH_ERR_DEADLOCK ? mh__sync_corrupt("lock inside a primitive") : err;
}

mh_err mh__inner_lock(mh_mutex *lock, mh_deadline until)
{
    mh_err err = mh_mutex_try(lock);
    if (err != MH_ERR_TIMEOUT)
        return inner_result(err);
    mh_deadline least = mh_deadline_in(mh__inner_wait_ns);
    return inner_result(mh_mutex_lock(lock, MH__MAX(until, least)));
}

mh_err mh__inner_lock_firmly(mh_mutex *lock)
{
    mh_err err = mh_mutex_try(lock);
    if (err != MH_ERR_TIMEOUT)
        return inner_result(err);
    mh_deadline until = mh_deadline_in(mh__inner_patience_ns);
    do
        err = mh_mutex_lock(lock, until);
    while (err == MH_ERR_INTERRUPTED);
    if (err == MH_ERR_TIMEOUT)
        return mh__fail(err, "process or thread %d has stopped inside a primitive", mh_mutex_holder(lock));
    return inner_result(err);
}

mh_err mh__sync_corrupt(const char *what)
{
    return mh__fail(MH_ERR_CORRUPT, "this memory does not hold a valid %s", what);
}

mh_err mh__sync_check_place(const void *at, const char *what)
{
    if (!at || (uintptr_t)at % 8)
        return mh__fail(MH_ERR_INVALID, "a %s needs memory aligned to 8 bytes", what);
    return MH_OK;
}
