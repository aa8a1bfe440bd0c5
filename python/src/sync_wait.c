/* Event, Condition and Barrier, over the library's in memory that children see.
 *
 * Waits run in slices with the interpreter's lock released. Whoever leaves a wait because of a signal's exception leaves it in order: a
 * condition's notification goes to another waiter, a barrier breaks.
 */
#include "sync.h"

static bool is_there(const mhpy_block *b, const char *what)
{
    if (!b->at)
        PyErr_Format(PyExc_ValueError, "this %s has no memory: it was not initialised", what);
    return b->at;
}

static bool check_new(const mhpy_block *b, const char *what)
{
    if (b->at)
        PyErr_Format(PyExc_RuntimeError, "this %s is initialised already", what);
    return !b->at;
}

/* What the constructors end with: a fresh block that could not be formatted is given back. */
static int settle(mhpy_block *b, mh_err err)
{
    if (!err)
        return 0;
    mhpy_block_drop(b);
    mhpy_raise(err);
    return -1;
}

/* The one optional argument of the wait functions. False with an exception set. */
static bool parse_timeout(PyObject *const *args, Py_ssize_t count, PyObject *names, PyObject **timeout)
{
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    if (count + named > 1 || (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "timeout"))) {
        PyErr_SetString(PyExc_TypeError, "wait() takes one argument, timeout");
        return false;
    }
    *timeout = count + named ? args[0] : Py_None;
    return true;
}

/* ---- Event -------------------------------------------------------------------------------------------------- */

typedef struct event {
    PyObject_HEAD
    mhpy_block block;
} event;

static mh_event *event_at(PyObject *self)
{
    event *e = (event *)self;
    return is_there(&e->block, "event") ? e->block.at : NULL;
}

static int event_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    mhpy_block *b = &((event *)self)->block;
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "", names) || !check_new(b, "event") || !mhpy_block_take(b, sizeof(mh_event), 64))
        return -1;
    return settle(b, mh_event_init(b->at, false));
}

static void event_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    mhpy_block_drop(&((event *)self)->block);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *event_is_set(PyObject *self, PyObject *unused)
{
    (void)unused;
    mh_event *e = event_at(self);
    return e ? PyBool_FromLong(mh_event_is_set(e)) : NULL;
}

static PyObject *none_or_raise(mh_err err)
{
    if (err)
        return mhpy_raise(err);
    Py_RETURN_NONE;
}

static PyObject *event_set(PyObject *self, PyObject *unused)
{
    (void)unused;
    mh_event *e = event_at(self);
    return e ? none_or_raise(mh_event_set(e)) : NULL;
}

static PyObject *event_clear(PyObject *self, PyObject *unused)
{
    (void)unused;
    mh_event *e = event_at(self);
    return e ? none_or_raise(mh_event_clear(e)) : NULL;
}

static PyObject *event_wait(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    mh_event *e = event_at(self);
    PyObject *timeout;
    mh_deadline until;
    if (!e || !parse_timeout(args, count, names, &timeout) || !mhpy_deadline(timeout, &until))
        return NULL;
    mh_err err = mh_event_wait(e, MH_NOW);
    for (int again = err == MH_ERR_TIMEOUT && until != MH_NOW; again > 0;) {
        MHPY_UNLOCKED(err = mh_event_wait(e, mhpy_slice_of(until)));
        again = mhpy_after_slice(err, until);
        if (again < 0)
            return NULL;
    }
    if (err == MH_ERR_TIMEOUT)
        Py_RETURN_FALSE;
    if (err)
        return mhpy_raise(err);
    Py_RETURN_TRUE;
}

static PyObject *place_of(mhpy_block *b, const char *what) { return is_there(b, what) ? mhpy_block_place(b) : NULL; }
static PyObject *event_place(PyObject *self, PyObject *unused)
{
    (void)unused;
    return place_of(&((event *)self)->block, "event");
}

static PyObject *event_join(PyObject *self, PyObject *place)
{
    mhpy_block *b = &((event *)self)->block;
    if (!check_new(b, "event") || !mhpy_block_join(b, place, sizeof(mh_event)))
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef event_methods[] = {
    {"is_set", event_is_set, METH_NOARGS, "is_set($self)\n--\n\nWhether it is set."},
    {"set", event_set, METH_NOARGS, "set($self)\n--\n\nSet it and wake all who wait. Never waits for anybody."},
    {"clear", event_clear, METH_NOARGS, "clear($self)\n--\n\nUnset it."},
    {"wait", MHPY_METHOD(event_wait), METH_FASTCALL | METH_KEYWORDS, "wait($self, timeout=None)\n--\n\nTrue once it is set, False after timeout seconds."},
    {"_place", event_place, METH_NOARGS, "_place(): what _join needs in another process."},
    {"_join", event_join, METH_O, "_join(place): be the event that lies there."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot event_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, event_init},
    {Py_tp_dealloc, event_dealloc},
    {Py_tp_methods, event_methods},
    {Py_tp_doc, "Event(): a flag that children share and wait for."},
    {0, NULL},
};
PyType_Spec mhpy_event_spec = {
    .name = "manyhands._core.Event",
    .basicsize = sizeof(event),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = event_slots,
};

/* ---- Condition ----------------------------------------------------------------------------------------------- */

typedef struct condition {
    PyObject_HEAD
    mhpy_block block;
    PyObject *lock; /* a SemLock */
} condition;

static mh_cond *cond_at(condition *c) { return is_there(&c->block, "condition") ? c->block.at : NULL; }

static bool take_lock(condition *c, PyObject *lock)
{
    if (!mhpy_semlock_check(lock)) {
        PyErr_Format(PyExc_TypeError, "a condition's lock is a Lock or RLock of manyhands, not %R", lock);
        return false;
    }
    c->lock = Py_NewRef(lock);
    return true;
}

static int cond_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    condition *c = (condition *)self;
    static char *names[] = {"lock", NULL};
    PyObject *lock;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", names, &lock) || !check_new(&c->block, "condition") || !take_lock(c, lock))
        return -1;
    if (mhpy_block_take(&c->block, sizeof(mh_cond), 64))
        return settle(&c->block, mh_cond_init(c->block.at));
    return -1;
}

static int cond_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((condition *)self)->lock);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int cond_clear(PyObject *self)
{
    Py_CLEAR(((condition *)self)->lock);
    return 0;
}

static void cond_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    cond_clear(self);
    mhpy_block_drop(&((condition *)self)->block);
    type->tp_free(self);
    Py_DECREF(type);
}

static bool is_held(condition *c, const char *otherwise)
{
    if (c->lock && mhpy_semlock_is_mine(c->lock))
        return true;
    PyErr_SetString(PyExc_AssertionError, otherwise);
    return false;
}

/* Release the lock as often as this process holds it: *count. False with an exception set, and it is held as before or not at all. */
static bool release_fully(condition *c, int64_t *count)
{
    *count = mhpy_semlock_count(c->lock);
    for (int64_t i = 0; i < *count; i++)
        if (!mhpy_semlock_release(c->lock))
            return false;
    return true;
}

/* An exception that is set, or comes while the lock is waited for, stays set: false then. With it the lock is held, unless one more comes:
 * whoever interrupts it twice is let go. */
static bool acquire_again(condition *c, int64_t count)
{
    PyObject *exception = mhpy_take_exception();
    for (int64_t i = 0; i < count; i++) {
        if (mhpy_semlock_acquire(c->lock, MH_FOREVER) >= 0)
            continue;
        if (exception) {
            Py_DECREF(exception);
            return false;
        }
        exception = mhpy_take_exception();
        i--;
    }
    mhpy_raise_object(exception);
    return !PyErr_Occurred();
}

/* 1 notified, 0 not, -1 with an exception set. */
static int await_notification(mh_cond *at, const mh_cond_ticket *ticket, mh_deadline until)
{
    for (;;) {
        mh_err err;
        MHPY_UNLOCKED(err = mh_cond_await(at, ticket, until == MH_NOW ? MH_NOW : mhpy_slice_of(until)));
        int again = mhpy_after_slice(err, until);
        if (again < 0)
            return -1;
        if (again > 0)
            continue;
        if (err && err != MH_ERR_TIMEOUT)
            mhpy_raise(err);
        return err == MH_OK ? 1 : err == MH_ERR_TIMEOUT ? 0 : -1;
    }
}

/* Entered and unlocked: wait, lock again, leave. */
static PyObject *wait_and_return(condition *c, mh_cond *at, const mh_cond_ticket *ticket, int64_t count, mh_deadline until)
{
    mh_err left;
    (void)await_notification(at, ticket, until);
    bool failed = !acquire_again(c, count) || PyErr_CheckSignals() < 0;
    PyObject *exception = failed ? mhpy_take_exception() : NULL;
    MHPY_UNLOCKED(left = mh_cond_leave(at, ticket)); /* only now: until here a notification that cannot be used passes on */
    if (failed) {
        if (left == MH_OK)
            MHPY_UNLOCKED(mh_cond_notify(at, 1)); /* the caller gets an exception; the notification is another's */
        return mhpy_raise_object(exception);
    }
    if (left && left != MH_ERR_TIMEOUT)
        return mhpy_raise(left);
    return PyBool_FromLong(left == MH_OK);
}

static PyObject *cond_wait(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    condition *c = (condition *)self;
    mh_cond *at = cond_at(c);
    PyObject *timeout;
    mh_deadline until;
    mh_cond_ticket ticket;
    int64_t count;
    mh_err err;
    if (!at || !parse_timeout(args, nargs, names, &timeout) || !mhpy_deadline(timeout, &until) ||
        !is_held(c, "must acquire() condition before using wait()"))
        return NULL;
    MHPY_UNLOCKED(err = mh_cond_enter(at, &ticket));
    if (err)
        return mhpy_raise(err);
    if (!release_fully(c, &count)) {
        MHPY_UNLOCKED(mh_cond_leave(at, &ticket));
        return NULL;
    }
    return wait_and_return(c, at, &ticket, count, until);
}

static PyObject *notify(condition *c, uint32_t count)
{
    mh_cond *at = cond_at(c);
    if (!at || !is_held(c, "lock is not owned"))
        return NULL;
    mh_err err;
    MHPY_UNLOCKED(err = mh_cond_notify(at, count));
    return none_or_raise(err);
}

static PyObject *cond_notify(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"n", NULL};
    Py_ssize_t n = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|n", names, &n))
        return NULL;
    return notify((condition *)self, n < 0 ? 0 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n);
}

static PyObject *cond_notify_all(PyObject *self, PyObject *unused)
{
    (void)unused;
    return notify((condition *)self, UINT32_MAX);
}

static PyObject *cond_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    condition *c = (condition *)self;
    int taken = cond_at(c) ? mhpy_semlock_acquire(c->lock, MH_FOREVER) : -1;
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *cond_exit(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    (void)args, (void)count;
    condition *c = (condition *)self;
    if (!cond_at(c) || !mhpy_semlock_release(c->lock))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *cond_waiting(PyObject *self, PyObject *unused)
{
    (void)unused;
    mh_cond *at = cond_at((condition *)self);
    return at ? PyLong_FromUnsignedLong(mh_cond_count_waiting(at)) : NULL;
}

static PyObject *cond_place(PyObject *self, PyObject *unused)
{
    (void)unused;
    return place_of(&((condition *)self)->block, "condition");
}

static PyObject *cond_join(PyObject *self, PyObject *args)
{
    condition *c = (condition *)self;
    PyObject *place, *lock;
    if (!PyArg_ParseTuple(args, "OO", &place, &lock) || !check_new(&c->block, "condition") || !take_lock(c, lock) ||
        !mhpy_block_join(&c->block, place, sizeof(mh_cond)))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *cond_lock(PyObject *self, void *unused)
{
    (void)unused;
    PyObject *lock = ((condition *)self)->lock;
    return Py_NewRef(lock ? lock : Py_None);
}

static PyMethodDef cond_methods[] = {
    {"wait", MHPY_METHOD(cond_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, timeout=None)\n--\n\nRelease the lock, wait to be notified, acquire it again; whether it was notified."},
    {"notify", MHPY_METHOD(cond_notify), METH_VARARGS | METH_KEYWORDS, "notify($self, n=1)\n--\n\nWake up to n that wait, the longest waiting first."},
    {"notify_all", cond_notify_all, METH_NOARGS, "notify_all($self)\n--\n\nWake all that wait."},
    {"__enter__", cond_enter, METH_NOARGS, "Acquire the lock."},
    {"__exit__", MHPY_METHOD(cond_exit), METH_FASTCALL, "Release the lock."},
    {"_waiting", cond_waiting, METH_NOARGS, "How many wait and are not notified yet."},
    {"_place", cond_place, METH_NOARGS, "_place(): what _join needs in another process, with the lock."},
    {"_join", cond_join, METH_VARARGS, "_join(place, lock): be the condition that lies there."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef cond_getset[] = {
    {"_lock", cond_lock, NULL, "The lock.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot cond_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, cond_init},
    {Py_tp_traverse, cond_traverse},
    {Py_tp_clear, cond_clear},
    {Py_tp_dealloc, cond_dealloc},
    {Py_tp_methods, cond_methods},
    {Py_tp_getset, cond_getset},
    {Py_tp_doc, "Condition(lock): processes wait in it until another notifies them."},
    {0, NULL},
};
PyType_Spec mhpy_condition_spec = {
    .name = "manyhands._core.Condition",
    .basicsize = sizeof(condition),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = cond_slots,
};

/* ---- Barrier ----------------------------------------------------------------------------------------------------- */

typedef struct barrier {
    PyObject_HEAD
    mhpy_block block;
    PyObject *action, *timeout;
} barrier;

static mh_barrier *barrier_at(PyObject *self)
{
    barrier *b = (barrier *)self;
    return is_there(&b->block, "barrier") ? b->block.at : NULL;
}

static bool take_options(barrier *b, PyObject *action, PyObject *timeout)
{
    mh_deadline unused;
    if (!mhpy_deadline(timeout, &unused)) /* now, rather than at the first wait */
        return false;
    Py_XSETREF(b->action, Py_NewRef(action));
    Py_XSETREF(b->timeout, Py_NewRef(timeout));
    return true;
}

static int barrier_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"parties", "action", "timeout", NULL};
    barrier *b = (barrier *)self;
    Py_ssize_t parties;
    PyObject *action = Py_None, *timeout = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n|OO", names, &parties, &action, &timeout) || !check_new(&b->block, "barrier") ||
        !take_options(b, action, timeout))
        return -1;
    if (parties < 1 || parties > MH_BARRIER_PARTIES_MAX) {
        PyErr_Format(PyExc_ValueError, "parties must be >= 1 and at most %d, not %zd", MH_BARRIER_PARTIES_MAX, parties);
        return -1;
    }
    if (mhpy_block_take(&b->block, sizeof(mh_barrier), 64))
        return settle(&b->block, mh_barrier_init(b->block.at, (uint32_t)parties));
    return -1;
}

static int barrier_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((barrier *)self)->action);
    Py_VISIT(((barrier *)self)->timeout);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int barrier_clear(PyObject *self)
{
    Py_CLEAR(((barrier *)self)->action);
    Py_CLEAR(((barrier *)self)->timeout);
    return 0;
}

static void barrier_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    barrier_clear(self);
    mhpy_block_drop(&((barrier *)self)->block);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *raise_broken(const char *why)
{
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *class = threading ? PyObject_GetAttrString(threading, "BrokenBarrierError") : NULL;
    if (class)
        PyErr_SetString(class, why);
    Py_XDECREF(class);
    Py_XDECREF(threading);
    return NULL;
}

static PyObject *raise_barrier(mh_err err)
{
    return err == MH_ERR_BROKEN ? raise_broken("the barrier is broken: a party died, gave up or aborted it") : mhpy_raise(err);
}

static PyObject *give_up(mh_barrier *at, const mh_barrier_ticket *ticket, const char *why)
{
    mh_err err;
    PyObject *exception = mhpy_take_exception(); /* a signal's comes first */
    MHPY_UNLOCKED(err = mh_barrier_leave(at, ticket));
    if (exception)
        return mhpy_raise_object(exception);
    if (err == MH_OK) /* it had opened just before */
        return PyLong_FromUnsignedLong(ticket->index);
    return err == MH_ERR_BROKEN ? raise_broken(why) : mhpy_raise(err);
}

/* The last to arrive runs the action, and the others go on only after it. */
static PyObject *act_and_open(barrier *b, mh_barrier *at, const mh_barrier_ticket *ticket)
{
    if (b->action && b->action != Py_None && PyObject_IsTrue(b->action)) {
        PyObject *done = PyObject_CallNoArgs(b->action);
        if (!done) {
            PyObject *exception = mhpy_take_exception();
            MHPY_UNLOCKED(mh_barrier_leave(at, ticket));
            return mhpy_raise_object(exception);
        }
        Py_DECREF(done);
    }
    mh_err err;
    MHPY_UNLOCKED(err = mh_barrier_open(at, ticket));
    return err ? raise_barrier(err) : PyLong_FromUnsignedLong(ticket->index);
}

static PyObject *await_others(mh_barrier *at, const mh_barrier_ticket *ticket, mh_deadline until)
{
    for (;;) {
        mh_err err;
        MHPY_UNLOCKED(err = mh_barrier_await(at, ticket, until == MH_NOW ? MH_NOW : mhpy_slice_of(until)));
        int again = mhpy_after_slice(err, until);
        if (again < 0)
            return give_up(at, ticket, "");
        if (again > 0)
            continue;
        if (err == MH_ERR_TIMEOUT)
            return give_up(at, ticket, "the barrier is broken: not all parties came in time");
        return err ? raise_barrier(err) : PyLong_FromUnsignedLong(ticket->index);
    }
}

/* 1 arrived, 0 with an exception set. Waits only while the action of the round before still runs. */
static bool arrive(mh_barrier *at, mh_deadline until, mh_barrier_ticket *ticket)
{
    for (;;) {
        mh_err err;
        MHPY_UNLOCKED(err = mh_barrier_arrive(at, until == MH_NOW ? MH_NOW : mhpy_slice_of(until), ticket));
        if (err == MH_OK)
            return true;
        int again = mhpy_after_slice(err, until);
        if (again < 0)
            return false;
        if (again > 0)
            continue;
        if (err == MH_ERR_TIMEOUT) {
            MHPY_UNLOCKED(mh_barrier_abort(at));
            raise_broken("the barrier is broken: the action of the round before did not end in time");
        } else {
            raise_barrier(err);
        }
        return false;
    }
}

static PyObject *barrier_wait(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    barrier *b = (barrier *)self;
    mh_barrier *at = barrier_at(self);
    PyObject *timeout;
    mh_deadline until;
    mh_barrier_ticket ticket;
    if (!at || !parse_timeout(args, count, names, &timeout) || !mhpy_deadline(timeout == Py_None ? b->timeout : timeout, &until) ||
        !arrive(at, until, &ticket))
        return NULL;
    return ticket.is_last ? act_and_open(b, at, &ticket) : await_others(at, &ticket, until);
}

static PyObject *barrier_reset(PyObject *self, PyObject *unused)
{
    (void)unused;
    mh_barrier *at = barrier_at(self);
    mh_err err = MH_OK;
    if (at)
        MHPY_UNLOCKED(err = mh_barrier_reset(at));
    return at ? none_or_raise(err) : NULL;
}

static PyObject *barrier_abort(PyObject *self, PyObject *unused)
{
    (void)unused;
    mh_barrier *at = barrier_at(self);
    mh_err err = MH_OK;
    if (at)
        MHPY_UNLOCKED(err = mh_barrier_abort(at));
    return at ? none_or_raise(err) : NULL;
}

static PyObject *barrier_parties(PyObject *self, void *unused)
{
    (void)unused;
    mh_barrier *at = barrier_at(self);
    return at ? PyLong_FromUnsignedLong(mh_barrier_parties(at)) : NULL;
}

static PyObject *barrier_n_waiting(PyObject *self, void *unused)
{
    (void)unused;
    mh_barrier *at = barrier_at(self);
    return at ? PyLong_FromUnsignedLong(mh_barrier_count_waiting(at)) : NULL;
}

static PyObject *barrier_broken(PyObject *self, void *unused)
{
    (void)unused;
    mh_barrier *at = barrier_at(self);
    return at ? PyBool_FromLong(mh_barrier_is_broken(at)) : NULL;
}

static PyObject *barrier_place(PyObject *self, PyObject *unused)
{
    (void)unused;
    barrier *b = (barrier *)self;
    PyObject *place = place_of(&b->block, "barrier");
    return place ? Py_BuildValue("NOO", place, b->action, b->timeout) : NULL;
}

static PyObject *barrier_join(PyObject *self, PyObject *args)
{
    barrier *b = (barrier *)self;
    PyObject *place, *action, *timeout;
    if (!PyArg_ParseTuple(args, "OOO", &place, &action, &timeout) || !check_new(&b->block, "barrier") || !take_options(b, action, timeout) ||
        !mhpy_block_join(&b->block, place, sizeof(mh_barrier)))
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef barrier_methods[] = {
    {"wait", MHPY_METHOD(barrier_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, timeout=None)\n--\n\nWait until all parties have come; the order of arrival, from 0. BrokenBarrierError when one gave up or died."},
    {"reset", barrier_reset, METH_NOARGS, "reset($self)\n--\n\nMake it whole and empty; those who wait get BrokenBarrierError."},
    {"abort", barrier_abort, METH_NOARGS, "abort(): break it, until reset()."},
    {"_place", barrier_place, METH_NOARGS, "_place(): what _join needs in another process."},
    {"_join", barrier_join, METH_VARARGS, "_join(place, action, timeout): be the barrier that lies there."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef barrier_getset[] = {
    {"parties", barrier_parties, NULL, "How many meet.", NULL},
    {"n_waiting", barrier_n_waiting, NULL, "How many wait now.", NULL},
    {"broken", barrier_broken, NULL, "Whether it is broken.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot barrier_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, barrier_init},
    {Py_tp_traverse, barrier_traverse},
    {Py_tp_clear, barrier_clear},
    {Py_tp_dealloc, barrier_dealloc},
    {Py_tp_methods, barrier_methods},
    {Py_tp_getset, barrier_getset},
    {Py_tp_doc, "Barrier(parties, action=None, timeout=None): processes meet at it."},
    {0, NULL},
};
PyType_Spec mhpy_barrier_spec = {
    .name = "manyhands._core.Barrier",
    .basicsize = sizeof(barrier),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = barrier_slots,
};
