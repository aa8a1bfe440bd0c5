/* Threads of this process, and mutexes and conditions among them (for locks between processes see sync). */
#ifndef MH_OS_THREAD_H
#define MH_OS_THREAD_H

#include "manyhands/base.h"

typedef struct mh__thread mh__thread;
typedef struct mh__lock mh__lock; /* a plain, private, non-recursive mutex */
typedef struct mh__cond mh__cond; /* waits on the monotonic clock */

/* Start fn(ctx) with every signal blocked, so that handlers run in the caller's own threads. */
mh_err mh__thread_start(mh__thread **out, const char *name, void (*fn)(void *ctx), void *ctx);
/* Wait for its end and free it. */
void mh__thread_join(mh__thread **thread);
/* Threads of this process now. */
int mh__os_thread_count(void);

mh_err mh__lock_create(mh__lock **out);
void mh__lock_destroy(mh__lock **lock);
void mh__lock_take(mh__lock *lock);
void mh__lock_drop(mh__lock *lock);
bool mh__lock_try(mh__lock *lock);

mh_err mh__cond_create(mh__cond **out);
void mh__cond_destroy(mh__cond **cond);
/* The caller holds lock. errors: TIMEOUT. Wakes may be spurious. */
mh_err mh__cond_wait(mh__cond *cond, mh__lock *lock, mh_deadline until);
void mh__cond_wake_all(mh__cond *cond);
void mh__cond_wake_one(mh__cond *cond);

#endif
