/* What threads wait in for another thread that settles a result or future: a lock, made by the first who waits, and held until it is settled. */
#include "core.h"

bool mhpy_settled_wait(PyThread_type_lock *place, mh_deadline until)
{
    if (!*place) {
        if (!(*place = PyThread_allocate_lock())) {
            PyErr_NoMemory();
            return false;
        }
        PyThread_acquire_lock(*place, NOWAIT_LOCK);
    }
    int64_t left = until - mh_now();
    PyThread_type_lock lock = *place;
    Py_BEGIN_ALLOW_THREADS
    if (left > 0 && PyThread_acquire_lock_timed(lock, left / 1000 + 1, 0) == PY_LOCK_ACQUIRED)
        PyThread_release_lock(lock); /* for the next who waits */
    Py_END_ALLOW_THREADS
    return true;
}

void mhpy_settled_tell(PyThread_type_lock lock)
{
    if (lock)
        PyThread_release_lock(lock);
}

void mhpy_settled_drop(PyThread_type_lock *place)
{
    if (!*place)
        return;
    PyThread_acquire_lock(*place, NOWAIT_LOCK);
    PyThread_release_lock(*place);
    PyThread_free_lock(*place);
    *place = NULL;
}
