/* Signals that a loop receives through a descriptor instead of a handler. */
#ifndef MH_OS_SIGNALS_H
#define MH_OS_SIGNALS_H

#include "manyhands/base.h"

/* Block these signals in the calling thread, and in threads that it starts later, and deliver them through *fd (close-on-exec,
 * non-blocking). errors: SYSTEM. */
mh_err mh__os_signals_open(int *fd, const int *signals, size_t count);
/* The next one that came, or 0. */
int mh__os_signals_take(int fd);
/* Close *fd and unblock them; those that came meanwhile are delivered. */
void mh__os_signals_close(int *fd, const int *signals, size_t count);

/* The number of a signal by its name ("SIGINT"), or 0. */
int mh__os_signal_number(mh_bytes name);

#endif
