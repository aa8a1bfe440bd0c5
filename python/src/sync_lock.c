/* SemLock: locks and semaphores, over the library's mutexes and semaphore in memory that children see.
 *
 * Taking a free one and giving it back is one call each, under the interpreter's lock, which is released only in order to wait. Besides
 * what all processes share, each process counts for itself how often it holds the lock and which thread took it last: that is what
 * `_is_mine` and `_count` tell of locks that anybody may release.
 *
 * Whoever takes a lock whose holder has died has it like any other, and is told: by a warning, and by `owner_died` until the next one takes it.
 */
#include "sync.h"

enum { RECURSIVE = 0, SEMAPHORE = 1, LOCK = 2 };
enum { SPINS = 20 };

typedef struct semlock {
    PyObject_HEAD
    mhpy_block block;
    int kind;
    uint32_t max;
    bool owner_died;
    char fork_only; /* for manyhands.synchronize: here, so that locks need no dictionary */
    int64_t count; /* times that this process took it, less those that it released it */
    unsigned long thread; /* the one that took it last */
    uint64_t life; /* mh_fork_depth of the process that count and thread are about */
    int64_t looked_ns; /* when a caller that does not wait last looked whether the holder lives */
    struct semlock *next, *previous; /* semaphores in this process, for disowning */
} semlock;

static semlock *semaphores;

static const int64_t look_every_ns = MH_MILLISECOND;

static size_t size_of(int kind)
{
    return kind == RECURSIVE ? sizeof(mh_rmutex) : kind == SEMAPHORE ? sizeof(mh_semaphore) : sizeof(mh_mutex);
}

static bool is_there(const semlock *l)
{
    if (l->block.at)
        return true;
    PyErr_SetString(PyExc_ValueError, "this lock has no memory: it was not initialised");
    return false;
}

/* A forked child holds nothing of what its parent holds. */
static void forget_parent(semlock *l)
{
    if (l->life == mh_fork_depth())
        return;
    l->life = mh_fork_depth();
    l->count = 0;
}

/* ---- the library's calls, by kind ------------------------------------------------------------------------ */

static mh_err try_lock(semlock *l)
{
    switch (l->kind) {
    case LOCK: return mh_mutex_try(l->block.at);
    case RECURSIVE: return mh_rmutex_try(l->block.at);
    default: return mh_semaphore_try(l->block.at);
    }
}

static mh_err wait_lock(semlock *l, mh_deadline until)
{
    switch (l->kind) {
    case LOCK: return mh_mutex_lock(l->block.at, until);
    case RECURSIVE: return mh_rmutex_lock(l->block.at, until);
    default: return mh_semaphore_acquire(l->block.at, until);
    }
}

static mh_err unlock(semlock *l)
{
    if (l->kind == LOCK)
        return mh_mutex_unlock(l->block.at);
    if (l->kind == RECURSIVE)
        return mh_rmutex_unlock(l->block.at);
    mh_err err = mh_semaphore_try_release(l->block.at, 1);
    if (err == MH_ERR_TIMEOUT) /* somebody is inside */
        MHPY_UNLOCKED(err = mh_semaphore_release(l->block.at, 1));
    return err;
}

/* ---- acquire --------------------------------------------------------------------------------------------- */

/* The lock is held, and its last holder died. If the warning is turned into an exception the lock is given back, and the next is told again. */
static bool tell_of_death(semlock *l)
{
    PyObject *category = mhpy_error_class("OwnerDiedWarning");
    int told = category ? PyErr_WarnFormat(category, 1, "the last holder of this %s died without releasing it: what it guards may be half changed",
                                           l->kind == RECURSIVE ? "RLock" : "Lock") : -1;
    Py_XDECREF(category);
    if (told < 0) {
        unlock(l);
        return false;
    }
    (void)(l->kind == RECURSIVE ? mh_rmutex_recover(l->block.at) : mh_mutex_recover(l->block.at));
    return true;
}

static bool note_taken(semlock *l, mh_err err)
{
    if (err == MH_ERR_OWNER_DIED && !tell_of_death(l))
        return false;
    forget_parent(l);
    l->owner_died = err == MH_ERR_OWNER_DIED || (l->owner_died && l->kind == RECURSIVE && mh_rmutex_depth(l->block.at) > 1);
    l->count++;
    l->thread = PyThread_get_thread_ident();
    return true;
}

static inline bool is_taken(mh_err err) { return err == MH_OK || err == MH_ERR_OWNER_DIED; }

/* How a try or wait ended: 1 taken, 0 not, -1 with an exception set. */
static int outcome(semlock *l, mh_err err)
{
    if (is_taken(err))
        return note_taken(l, err) ? 1 : -1;
    if (err == MH_ERR_TIMEOUT)
        return 0;
    mhpy_raise(err);
    return -1;
}

/* For a caller that does not want to wait and found it taken: perhaps by somebody who is dead. Looking costs microseconds, so it is
 * not done at every try of a loop. */
static int look_once(semlock *l)
{
    int64_t now = mh_now();
    if (l->kind != SEMAPHORE) {
        if (now - l->looked_ns < look_every_ns)
            return 0;
        l->looked_ns = now;
    }
    mh_err err;
    MHPY_UNLOCKED(err = wait_lock(l, MH_NOW));
    return outcome(l, err == MH_ERR_INTERRUPTED ? MH_ERR_TIMEOUT : err);
}

static int wait_in_slices(semlock *l, mh_deadline until)
{
    for (;;) {
        mh_err err;
        MHPY_UNLOCKED(err = wait_lock(l, mhpy_slice_of(until)));
        if (is_taken(err))
            return outcome(l, err);
        int again = mhpy_after_slice(err, until);
        if (again <= 0)
            return again < 0 ? -1 : outcome(l, err);
    }
}

/* A holder on another core often needs less time than giving the interpreter's lock away and taking it again. */
static mh_err try_a_while(semlock *l)
{
    static size_t cores;
    if (!cores)
        cores = mh_cpu_count();
    mh_err err = MH_ERR_TIMEOUT;
    for (int i = cores > 1 ? SPINS : 0; i > 0 && err == MH_ERR_TIMEOUT; i--)
        err = try_lock(l);
    return err;
}

static int acquire(semlock *l, mh_deadline until)
{
    mh_err err = try_lock(l);
    if (err == MH_ERR_TIMEOUT && until != MH_NOW)
        err = try_a_while(l);
    if (err != MH_ERR_TIMEOUT)
        return outcome(l, err);
    return until == MH_NOW ? look_once(l) : wait_in_slices(l, until);
}

/* Positions and names of acquire's two arguments. False with an exception set. */
static bool parse_acquire(PyObject *const *args, Py_ssize_t count, PyObject *names, PyObject **block, PyObject **timeout)
{
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    PyObject **to[] = {block, timeout};
    if (count + named > 2) {
        PyErr_Format(PyExc_TypeError, "acquire() takes at most 2 arguments (%zd given)", count + named);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        *to[i] = args[i];
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int at = PyUnicode_CompareWithASCIIString(name, "block") == 0 ? 0 : PyUnicode_CompareWithASCIIString(name, "timeout") == 0 ? 1 : -1;
        if (at < 0 || at < count) {
            PyErr_Format(PyExc_TypeError, at < 0 ? "acquire() got an unexpected argument '%U'" : "acquire() got argument '%U' twice", name);
            return false;
        }
        *to[at] = args[count + i];
    }
    return true;
}

static PyObject *acquire_slowly(semlock *l, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *block = NULL, *timeout = NULL;
    mh_deadline until = MH_FOREVER;
    if (!parse_acquire(args, count, names, &block, &timeout))
        return NULL;
    int waits = block ? PyObject_IsTrue(block) : 1;
    if (waits < 0)
        return NULL;
    if (!waits)
        until = MH_NOW;
    else if (!mhpy_deadline(timeout, &until))
        return NULL;
    int taken = acquire(l, until);
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *lock_acquire(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    semlock *l = (semlock *)self;
    if (!is_there(l))
        return NULL;
    if (count || names)
        return acquire_slowly(l, args, count, names);
    int taken = acquire(l, MH_FOREVER);
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *lock_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    return lock_acquire(self, NULL, 0, NULL);
}

/* ---- release ---------------------------------------------------------------------------------------------- */

static bool release(semlock *l)
{
    mh_err err = l->kind == SEMAPHORE && l->max == 0 ? MH_ERR_FULL : unlock(l); /* BoundedSemaphore(0) is never released */
    if (err == MH_OK) {
        forget_parent(l);
        l->count--;
        return true;
    }
    if (err == MH_ERR_NOT_OWNER && l->kind == RECURSIVE)
        PyErr_SetString(PyExc_AssertionError, "attempt to release recursive lock not owned by thread");
    else if (err == MH_ERR_NOT_OWNER)
        PyErr_SetString(PyExc_ValueError, "semaphore or lock released too many times: nobody holds this lock");
    else if (err == MH_ERR_FULL)
        PyErr_Format(PyExc_ValueError, "semaphore or lock released too many times: it has its %u permits", l->max);
    else
        mhpy_raise(err);
    return false;
}

static PyObject *lock_release(PyObject *self, PyObject *unused)
{
    (void)unused;
    semlock *l = (semlock *)self;
    if (!is_there(l) || !release(l))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    (void)args, (void)count;
    return lock_release(self, NULL);
}

/* ---- semaphores that a process leaves behind ----------------------------------------------------------------- */

/* A process that ends in good order may leave what it took to others, who will release it. Who is killed leaves nothing to anybody. */
static void disown(semlock *l)
{
    if (l->kind == SEMAPHORE && l->block.at && l->life == mh_fork_depth() && l->count > 0)
        (void)mh_semaphore_disown(l->block.at);
}

PyObject *mhpy_disown_semaphores(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    for (semlock *l = semaphores; l; l = l->next)
        disown(l);
    Py_RETURN_NONE;
}

static void enlist(semlock *l)
{
    if (l->kind != SEMAPHORE)
        return;
    l->next = semaphores;
    if (semaphores)
        semaphores->previous = l;
    semaphores = l;
}

static void delist(semlock *l)
{
    if (l->next)
        l->next->previous = l->previous;
    if (l->previous)
        l->previous->next = l->next;
    else if (semaphores == l)
        semaphores = l->next;
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static mh_err format(semlock *l, uint32_t value)
{
    switch (l->kind) {
    case LOCK: return mh_mutex_init(l->block.at, MH_MUTEX_PROCESS | MH_MUTEX_ANYONE);
    case RECURSIVE: return mh_rmutex_init(l->block.at);
    default: return mh_semaphore_init(l->block.at, value, l->max ? l->max : 1);
    }
}

static bool check_new(const semlock *l, int kind)
{
    if (l->block.at)
        PyErr_SetString(PyExc_RuntimeError, "this lock is initialised already");
    else if (kind != RECURSIVE && kind != SEMAPHORE && kind != LOCK)
        PyErr_Format(PyExc_ValueError, "unrecognized kind %d: 0 recursive, 1 semaphore, 2 lock", kind);
    else
        return true;
    return false;
}

static bool check_value(long long value, long long max)
{
    if (value < 0 || max > MH_SEMAPHORE_VALUE_MAX || value > max) {
        PyErr_Format(PyExc_ValueError, "semaphore value %lld of at most %lld: 0 <= value <= maximum <= %u", value, max, MH_SEMAPHORE_VALUE_MAX);
        return false;
    }
    return true;
}

static int lock_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"kind", "value", "maxvalue", NULL};
    semlock *l = (semlock *)self;
    int kind;
    long long value, max;
    mhpy_block block = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iLL", names, &kind, &value, &max) || !check_new(l, kind))
        return -1;
    if (!check_value(value, max) || !mhpy_block_take(&block, size_of(kind), 64))
        return -1;
    l->kind = kind;
    l->max = (uint32_t)max;
    l->block = block;
    l->life = mh_fork_depth();
    mh_err err = format(l, (uint32_t)value);
    if (err) {
        mhpy_block_drop(&l->block);
        mhpy_raise(err);
        return -1;
    }
    enlist(l);
    return 0;
}

static void lock_dealloc(PyObject *self)
{
    semlock *l = (semlock *)self;
    PyTypeObject *type = Py_TYPE(self);
    disown(l);
    if (l->block.at)
        delist(l);
    mhpy_block_drop(&l->block);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *lock_place(PyObject *self, PyObject *unused)
{
    (void)unused;
    semlock *l = (semlock *)self;
    PyObject *place = is_there(l) ? mhpy_block_place(&l->block) : NULL;
    return place ? Py_BuildValue("NiI", place, l->kind, l->max) : NULL;
}

static PyObject *lock_join(PyObject *self, PyObject *args)
{
    semlock *l = (semlock *)self;
    PyObject *place;
    int kind;
    unsigned int max;
    if (!PyArg_ParseTuple(args, "OiI", &place, &kind, &max) || !check_new(l, kind) || !mhpy_block_join(&l->block, place, size_of(kind)))
        return NULL;
    l->kind = kind;
    l->max = max;
    l->life = mh_fork_depth();
    enlist(l);
    Py_RETURN_NONE;
}

/* ---- questions ------------------------------------------------------------------------------------------------- */

static bool is_mine(semlock *l)
{
    forget_parent(l);
    if (l->kind == RECURSIVE)
        return mh_rmutex_is_mine(l->block.at);
    return l->count > 0 && l->thread == PyThread_get_thread_ident() && (l->kind != LOCK || mh_mutex_is_mine(l->block.at));
}

static uint32_t value_of(const semlock *l)
{
    if (l->kind == SEMAPHORE)
        return mh_semaphore_value(l->block.at);
    return !(l->kind == LOCK ? mh_mutex_is_locked(l->block.at) : mh_rmutex_is_locked(l->block.at));
}

static int64_t count_of(semlock *l)
{
    forget_parent(l);
    return l->count;
}

static PyObject *lock_is_mine(PyObject *self, PyObject *unused)
{
    (void)unused;
    return is_there((semlock *)self) ? PyBool_FromLong(is_mine((semlock *)self)) : NULL;
}

static PyObject *lock_count(PyObject *self, PyObject *unused)
{
    (void)unused;
    return is_there((semlock *)self) ? PyLong_FromLongLong(count_of((semlock *)self)) : NULL;
}

static PyObject *lock_get_value(PyObject *self, PyObject *unused)
{
    (void)unused;
    return is_there((semlock *)self) ? PyLong_FromUnsignedLong(value_of((semlock *)self)) : NULL;
}

static PyObject *lock_is_zero(PyObject *self, PyObject *unused)
{
    (void)unused;
    return is_there((semlock *)self) ? PyBool_FromLong(value_of((semlock *)self) == 0) : NULL;
}

static PyObject *get_self(PyObject *self, void *unused)
{
    (void)unused;
    return Py_NewRef(self);
}

static PyObject *get_kind(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(((semlock *)self)->kind == RECURSIVE ? RECURSIVE : SEMAPHORE);
}

static PyObject *get_max(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(((semlock *)self)->max);
}

static PyObject *get_owner_died(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((semlock *)self)->owner_died);
}

/* The interpreter calls a method of C quickly only on objects of the very class that has it. So each class that inherits ours gets them
 * as its own. */
static PyObject *lock_init_subclass(PyObject *class, PyObject *args, PyObject *kwargs);

static PyMethodDef methods[] = {
    {"acquire", MHPY_METHOD(lock_acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire(block=True, timeout=None): whether it was taken. Waits at most timeout seconds; not at all unless block."},
    {"release", lock_release, METH_NOARGS, "release(): give it back; ValueError or AssertionError when there is nothing to give back."},
    {"__enter__", lock_enter, METH_NOARGS, "Acquire."},
    {"__exit__", MHPY_METHOD(lock_exit), METH_FASTCALL, "Release."},
    {"_is_mine", lock_is_mine, METH_NOARGS, "Whether the calling thread holds it."},
    {"_count", lock_count, METH_NOARGS, "How many times this process took it, less releases."},
    {"_get_value", lock_get_value, METH_NOARGS, "Permits that are free now."},
    {"_is_zero", lock_is_zero, METH_NOARGS, "Whether none is free now."},
    {"_place", lock_place, METH_NOARGS, "_place(): what _join needs in another process."},
    {"_join", lock_join, METH_VARARGS, "_join(place, kind, maxvalue): be the lock that lies there."},
    {"__init_subclass__", MHPY_METHOD(lock_init_subclass), METH_VARARGS | METH_KEYWORDS | METH_CLASS, "Prepare a subclass."},
    {NULL, NULL, 0, NULL},
};
enum { HOT = 2 }; /* the first of them */

static bool own_method(PyObject *class, PyMethodDef *method)
{
    PyObject *found = PyObject_GetAttrString(class, method->ml_name), *its_own = NULL;
    bool fine = found;
    if (found && Py_TYPE(found) == &PyMethodDescr_Type && ((PyMethodDescrObject *)found)->d_method == method) {
        its_own = PyDescr_NewMethod((PyTypeObject *)class, method);
        fine = its_own && PyObject_SetAttrString(class, method->ml_name, its_own) == 0;
    }
    Py_XDECREF(its_own);
    Py_XDECREF(found);
    return fine;
}

static PyObject *lock_init_subclass(PyObject *class, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "", names))
        return NULL;
    for (int i = 0; i < HOT; i++)
        if (!own_method(class, &methods[i]))
            return NULL;
    Py_RETURN_NONE;
}

static PyGetSetDef getset[] = {
    {"_semlock", get_self, NULL, "Itself: where the standard library keeps the lock inside the lock.", NULL},
    {"kind", get_kind, NULL, "0 recursive, 1 not.", NULL},
    {"maxvalue", get_max, NULL, "Most permits it can have.", NULL},
    {"owner_died", get_owner_died, NULL, "Whether the one who took it last, in this process, took it over from a holder that had died.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMemberDef members[] = {
    {"_is_fork_ctx", T_BOOL, offsetof(semlock, fork_only), 0, "Whether it was made for forked children only."},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, lock_init},
    {Py_tp_dealloc, lock_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_tp_members, members},
    {Py_tp_doc, "SemLock(kind, value, maxvalue): a lock (2), recursive lock (0) or semaphore (1) that children share."},
    {0, NULL},
};
PyType_Spec mhpy_semlock_spec = {
    .name = "manyhands._core.SemLock",
    .basicsize = sizeof(semlock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

/* ---- for the other types ------------------------------------------------------------------------------------------ */

bool mhpy_semlock_check(PyObject *object) { return PyObject_TypeCheck(object, mhpy_sync.semlock) && ((semlock *)object)->block.at; }
int mhpy_semlock_acquire(PyObject *lock, mh_deadline until) { return acquire((semlock *)lock, until); }
bool mhpy_semlock_release(PyObject *lock) { return release((semlock *)lock); }
bool mhpy_semlock_is_mine(PyObject *lock) { return is_mine((semlock *)lock); }
bool mhpy_semlock_is_held(PyObject *lock) { return ((semlock *)lock)->kind == RECURSIVE && mh_rmutex_is_mine(((semlock *)lock)->block.at); }
int64_t mhpy_semlock_count(PyObject *lock) { return count_of((semlock *)lock); }
