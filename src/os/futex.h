/* Waiting on a 32-bit word, between threads or between processes that map it. */
#ifndef MH_OS_FUTEX_H
#define MH_OS_FUTEX_H

#include "manyhands/base.h"

#include <stdatomic.h>

/* Sleep while *word == expected. OK after a wake or when the word differs already (re-check the
 * condition: wakes are hints), TIMEOUT past `until`, INTERRUPTED when a signal handler ran. Words lie in
 * memory that other processes may map. */
mh_err mh__os_futex_wait(_Atomic uint32_t *word, uint32_t expected, mh_deadline until);
/* Wake up to `count` sleepers on word; returns how many. async-signal-safe. */
int mh__os_futex_wake(_Atomic uint32_t *word, int count);

#endif
