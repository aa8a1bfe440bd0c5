#include "os/futex.h"

#include "base/error.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

mh_err mh__os_futex_wait(_Atomic uint32_t *word, uint32_t expected, mh_deadline until)
{
    if (until == MH_NOW)
        return atomic_load(word) == expected ? MH_ERR_TIMEOUT : MH_OK;
    struct timespec ts = {.tv_sec = until / MH_SECOND, .tv_nsec = until % MH_SECOND};
    /* FUTEX_WAIT_BITSET takes an absolute monotonic time, so an interrupted wait does not drift */
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, until == MH_FOREVER ? NULL : &ts, NULL,
                      FUTEX_BITSET_MATCH_ANY);
    if (rc == 0 || errno == EAGAIN)
        return MH_OK;
    if (errno == ETIMEDOUT)
        return MH_ERR_TIMEOUT;
    if (errno == EINTR)
        return MH_ERR_INTERRUPTED;
    return mh__fail_os(errno, "futex wait");
}

int mh__os_futex_wake(_Atomic uint32_t *word, int count)
{
    long woken = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
    return woken > 0 ? (int)woken : 0;
}
