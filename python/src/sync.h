/* What the files of the synchronisation types share: memory that children see, and locks that conditions and values use from C.
 *
 * Everything here needs the interpreter's lock unless it says otherwise.
 */
#ifndef MHPY_SYNC_H
#define MHPY_SYNC_H

#include "core.h"

#include "manyhands/shm.h"
#include "manyhands/sync.h"

/* ---- sync_memory.c: where shared objects lie --------------------------------------------------------- */

/* A segment, mapped: unmapped here when the last object in it is gone here. Only the process that made it allocates in it. */
typedef struct mhpy_arena mhpy_arena;

/* A piece of an arena. All zero: none. */
typedef struct mhpy_block {
    mhpy_arena *arena; /* owned reference */
    uint64_t offset;
    size_t size;
    void *at;
    uint64_t forks; /* what mh_fork_count was when it was taken */
    bool passed;    /* another process was told of it */
} mhpy_block;

/* Memory of this size, not cleared, at a multiple of `align` (a power of two up to 4096). False with an exception set. */
bool mhpy_block_take(mhpy_block *b, size_t size, size_t align);
/* The memory that another process told of: `place` is (arena, offset, size), and the size must be `size` unless that is 0.
 * False with an exception set. */
bool mhpy_block_join(mhpy_block *b, PyObject *place, size_t size);
/* The same tuple, for passing on: from now on the memory is never used again for anything else. New reference. */
PyObject *mhpy_block_place(mhpy_block *b);
/* Memory that no other process can know is free for others at once; the rest when the arena goes. */
void mhpy_block_drop(mhpy_block *b);

extern PyType_Spec mhpy_arena_spec, mhpy_block_spec;

/* ---- sync_lock.c: SemLock ------------------------------------------------------------------------------ */

bool mhpy_semlock_check(PyObject *object);
/* Acquire, waiting until `until`: 1 it is held, 0 it is not, -1 with an exception set. */
int mhpy_semlock_acquire(PyObject *lock, mh_deadline until);
/* False with an exception set. */
bool mhpy_semlock_release(PyObject *lock);
/* Whether the calling thread holds it, and how many times this process does. */
bool mhpy_semlock_is_mine(PyObject *lock);
/* Whether it is recursive and the calling thread holds it. */
bool mhpy_semlock_is_held(PyObject *lock);
int64_t mhpy_semlock_count(PyObject *lock);
PyObject *mhpy_disown_semaphores(PyObject *module, PyObject *unused);
extern PyType_Spec mhpy_semlock_spec;

/* ---- sync_wait.c: Event, Condition, Barrier; sync_value.c: SynchronizedBase, SynchronizedArray, LockedField -------------------- */

extern PyType_Spec mhpy_event_spec, mhpy_condition_spec, mhpy_barrier_spec;
extern PyType_Spec mhpy_synchronized_spec, mhpy_synchronized_array_spec, mhpy_locked_field_spec;

typedef struct mhpy_sync_types {
    PyTypeObject *arena, *block, *semlock, *event, *condition, *barrier, *synchronized, *synchronized_array, *locked_field;
} mhpy_sync_types;
extern mhpy_sync_types mhpy_sync;

/* Add the types to the module. False with an exception set. */
bool mhpy_sync_add(PyObject *module);

/* The next slice of a wait until `until`, after which signals are looked at. */
static inline mh_deadline mhpy_slice_of(mh_deadline until)
{
    mh_deadline slice = mh_deadline_in(MHPY_SLICE_NS);
    return slice < until ? slice : until;
}

static inline bool mhpy_has_passed(mh_deadline until) { return until != MH_FOREVER && (until == MH_NOW || mh_now() >= until); }

/* What follows a slice: 1 go on waiting, 0 the wait is over with *err, -1 with an exception set. */
static inline int mhpy_after_slice(mh_err err, mh_deadline until)
{
    if (err != MH_ERR_TIMEOUT && err != MH_ERR_INTERRUPTED)
        return 0;
    if (PyErr_CheckSignals() < 0)
        return -1;
    return err == MH_ERR_TIMEOUT && mhpy_has_passed(until) ? 0 : 1;
}

#endif
