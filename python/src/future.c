/* The future of an executor's call: a concurrent.futures.Future whose task is the pool's.
 *
 * As long as nobody but the caller of result() wants to know, nothing is done for it when its task ends: who asks takes the result, and
 * drives the pool meanwhile. Once somebody adds a callback, or looks at the condition that wait() and as_completed() lock, it is
 * watched: the pool's callback thread settles it, under that condition where there is one. The slow parts of that are Python's, in
 * manyhands.futures. Everything here is guarded by the interpreter's lock.
 */
#include "core.h"

enum { PENDING, TAKING, FINISHED, FAILED, CANCELLED };
enum { NEAR_BYTES = 128 }; /* a reply that lies in its slot */

typedef struct future {
    PyObject_HEAD
    PyObject *dict, *weakrefs;
    mhpy_pool *pool;    /* until it is settled */
    mh_future *task;    /* until it is settled and no thread waits for it */
    PyObject *value;    /* once settled: the result or the exception */
    PyObject *condition, *waiters, *callbacks; /* made when somebody asks for them */
    PyThread_type_lock settled;                /* held until it is settled; made when a thread has to wait for another */
    PyObject *mailbox;                         /* of the pool, once watched */
    mhpy_letter letter;
    int waiting; /* threads inside mh_future_wait: the task stays */
    uint8_t state;
    bool is_watched;
} future;

static bool is_settled(const future *f) { return f->state > TAKING; }

/* ---- life ------------------------------------------------------------------------------------------------------ */

PyObject *mhpy_future_create(mhpy_pool *pool)
{
    future *f = (future *)mhpy.future_type->tp_alloc(mhpy.future_type, 0);
    if (!f)
        return NULL;
    f->pool = (mhpy_pool *)Py_NewRef(pool);
    PyObject_GC_UnTrack(f); /* without callbacks or containers it is in no cycle, and collections need not visit it */
    return (PyObject *)f;
}

mh_future **mhpy_future_task(PyObject *self) { return &((future *)self)->task; }

static void track(future *f)
{
    if (!PyObject_GC_IsTracked((PyObject *)f))
        PyObject_GC_Track(f);
}

static void drop_task(future *f)
{
    mh_future *task = f->task;
    if (!task || f->waiting)
        return; /* the last who waits does it */
    f->task = NULL;
    MHPY_UNLOCKED(mh_future_release(&task));
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    future *f = (future *)self;
    Py_VISIT(f->dict);
    Py_VISIT(f->pool);
    Py_VISIT(f->value);
    Py_VISIT(f->condition);
    Py_VISIT(f->waiters);
    Py_VISIT(f->callbacks);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int clear(PyObject *self)
{
    future *f = (future *)self;
    Py_CLEAR(f->dict);
    Py_CLEAR(f->value);
    Py_CLEAR(f->condition);
    Py_CLEAR(f->waiters);
    Py_CLEAR(f->callbacks);
    return 0;
}

static void dealloc(PyObject *self)
{
    future *f = (future *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (f->weakrefs)
        PyObject_ClearWeakRefs(self);
    clear(self);
    drop_task(f); /* the task goes on */
    mhpy_settled_drop(&f->settled);
    Py_XDECREF(f->mailbox);
    Py_XDECREF(f->pool);
    type->tp_free(self);
    Py_DECREF(type);
}

static int set_attribute(PyObject *self, PyObject *name, PyObject *value)
{
    int done = PyObject_GenericSetAttr(self, name, value);
    if (((future *)self)->dict)
        track((future *)self);
    return done;
}

/* Call a function of manyhands.futures. New reference. */
static PyObject *call_futures(const char *name, PyObject *one, PyObject *two)
{
    PyObject *function = PyObject_GetAttrString(mhpy.futures, name);
    PyObject *answer = function ? PyObject_CallFunctionObjArgs(function, one, two, NULL) : NULL;
    Py_XDECREF(function);
    return answer;
}

static PyObject *raise_futures(const char *name)
{
    PyObject *class = PyObject_GetAttrString(mhpy.futures, name);
    if (class)
        PyErr_SetNone(class);
    Py_XDECREF(class);
    return NULL;
}

/* ---- settling ---------------------------------------------------------------------------------------------------- */

static void call_back(future *f, PyObject *function)
{
    PyObject *answer = PyObject_CallOneArg(function, (PyObject *)f);
    if (!answer && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyObject *exception = mhpy_take_exception();
        answer = exception ? call_futures("_log_callback", (PyObject *)f, exception) : NULL;
        Py_XDECREF(exception);
    }
    if (!answer)
        PyErr_WriteUnraisable(function);
    Py_XDECREF(answer);
}

static void call_all_back(future *f)
{
    PyObject *callbacks = f->callbacks;
    f->callbacks = NULL; /* what is added from now on is called at once */
    for (Py_ssize_t i = 0; callbacks && i < PyList_GET_SIZE(callbacks); i++)
        call_back(f, PyList_GET_ITEM(callbacks, i));
    Py_XDECREF(callbacks);
}

/* From TAKING to its end: from here on everybody may know. Takes `value`. */
static void commit(future *f, int state, PyObject *value)
{
    f->value = value;
    f->state = (uint8_t)state;
    if (value && PyObject_IS_GC(value))
        track(f);
    drop_task(f);
    Py_CLEAR(f->pool);
}

/* Its end while others may hold the condition: under it, and with what waits told. */
static void commit_locked(future *f, int state, PyObject *value)
{
    PyObject *condition = f->condition, *got = PyObject_CallMethod(condition, "acquire", NULL);
    commit(f, state, value);
    if (got) {
        PyObject *told = call_futures("_tell_waiters", (PyObject *)f, condition);
        if (!told)
            PyErr_WriteUnraisable((PyObject *)f);
        Py_XDECREF(told);
        Py_SETREF(got, PyObject_CallMethod(condition, "release", NULL));
    }
    if (!got)
        PyErr_WriteUnraisable((PyObject *)f);
    Py_XDECREF(got);
}

/* The state is TAKING and this thread's to end; `value` is taken. */
static void settle(future *f, int state, PyObject *value)
{
    Py_INCREF(f); /* what is called may drop the last other reference */
    if (f->condition)
        commit_locked(f, state, value);
    else
        commit(f, state, value);
    call_all_back(f);
    mhpy_settled_tell(f->settled);
    Py_DECREF(f);
}

/* The exception that is set, as an executor's caller gets it. */
static PyObject *take_failure(void)
{
    PyObject *exception = mhpy_take_exception();
    PyObject *better = exception ? call_futures("_adapt", exception, NULL) : NULL;
    if (!better) {
        PyErr_Clear();
        return exception;
    }
    Py_DECREF(exception);
    return better;
}

void mhpy_future_fail(PyObject *self)
{
    future *f = (future *)self;
    f->state = TAKING;
    settle(f, FAILED, take_failure());
}

/* Its task has ended and nobody has decoded its result yet. */
static void take(future *f)
{
    _Alignas(64) unsigned char room[NEAR_BYTES];
    mh_result ended;
    /* mostly nobody else is inside the pool, and then the interpreter's lock need not be given up */
    mh_err err = f->waiting ? MH_ERR_TIMEOUT : mh_future_collect(&f->task, room, sizeof room, &ended);
    mh_future *task = f->task;
    f->state = TAKING;
    Py_INCREF(f);
    f->waiting++; /* decoding runs anybody's code, which must not drop the task */
    if (err == MH_ERR_TIMEOUT)
        MHPY_UNLOCKED(err = mh_future_result(task, MH_NOW, &ended));
    PyObject *value = NULL;
    if (err)
        mhpy_raise(err);
    else if (ended.err != MH_ERR_CANCELLED)
        value = mhpy_take_item(&ended);
    else if (ended.owner)
        MHPY_UNLOCKED(mh_result_release(&ended));
    f->waiting--;
    if (value)
        settle(f, FINISHED, value);
    else if (PyErr_Occurred())
        settle(f, FAILED, take_failure());
    else
        settle(f, CANCELLED, NULL);
    Py_DECREF(f);
}

/* ---- being watched -------------------------------------------------------------------------------------------------- */

static mh_err wait_for_task(future *f, mh_deadline until);

/* By the callback thread: its task has ended. */
static void deliver(PyObject *self)
{
    future *f = (future *)self;
    while (f->state == PENDING && !mh_future_is_done(f->task)) /* only when there was no memory to be told */
        if (wait_for_task(f, mh_deadline_in(MHPY_SLICE_NS)) == MH_ERR_FORKED)
            return;
    if (f->state == PENDING)
        take(f);
}

/* From whichever thread drives the pool, without the interpreter's lock. The letter keeps f. */
static void announce(mh_future *task, void *ctx)
{
    (void)task;
    future *f = ctx;
    mhpy_mailbox_post(f->mailbox, &f->letter);
}

/* From here on the callback thread settles it, unless it has ended already: then it is settled now. False with an exception set. */
static bool watch(future *f)
{
    if (f->state != PENDING || f->is_watched)
        return true;
    if (mh_future_is_done(f->task)) {
        take(f);
        return true;
    }
    PyObject *started = PyObject_CallMethod((PyObject *)f->pool, "_start_callbacks", NULL);
    if (!started)
        return false;
    Py_DECREF(started);
    if (f->state != PENDING || f->is_watched)
        return true; /* another thread was faster */
    track(f);
    f->is_watched = true;
    f->mailbox = Py_NewRef(f->pool->mailbox);
    f->letter.deliver = deliver;
    mhpy_mailbox_expect(f->mailbox, &f->letter, (PyObject *)f);
    mh_err err;
    f->waiting++; /* it may be settled before the call returns */
    MHPY_UNLOCKED(err = mh_future_on_done(f->task, announce, f));
    if (--f->waiting == 0 && is_settled(f))
        drop_task(f);
    if (err)
        announce(NULL, f); /* no memory for the watch: the callback thread will wait instead */
    return true;
}

/* ---- waiting ------------------------------------------------------------------------------------------------------------ */

static mh_err wait_for_task(future *f, mh_deadline until)
{
    mh_err err;
    mh_future *task = f->task;
    f->waiting++;
    Py_BEGIN_ALLOW_THREADS
    err = mh_future_wait(task, until);
    Py_END_ALLOW_THREADS
    if (--f->waiting == 0 && is_settled(f))
        drop_task(f);
    return err;
}

/* Settle it when that can be done without waiting. Whether it is settled. */
static bool look(future *f)
{
    if (f->state == PENDING && !f->is_watched && mh_future_is_done(f->task))
        take(f);
    return is_settled(f);
}

/* False with an exception set: TimeoutError, or what a signal handler raised. */
static bool wait_until(future *f, mh_deadline until)
{
    while (!look(f)) {
        if (until != MH_FOREVER && mh_now() >= until) {
            raise_futures("TimeoutError");
            return false;
        }
        mh_deadline slice = mh_deadline_in(MHPY_SLICE_NS);
        mh_err err = MH_OK;
        slice = slice < until ? slice : until;
        if (f->state == PENDING && !f->is_watched)
            err = wait_for_task(f, slice);
        else if (!mhpy_settled_wait(&f->settled, slice))
            return false;
        if (err && err != MH_ERR_TIMEOUT && err != MH_ERR_INTERRUPTED) {
            mhpy_raise(err);
            return false;
        }
        if (PyErr_CheckSignals() < 0)
            return false;
    }
    return true;
}

/* ---- methods ---------------------------------------------------------------------------------------------------------------- */

static bool timeout_argument(PyObject *const *args, Py_ssize_t nargs, PyObject *names, const char *name, mh_deadline *until)
{
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    *until = MH_FOREVER;
    if (nargs + named > 1 || (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "timeout"))) {
        PyErr_Format(PyExc_TypeError, "%s() takes one argument, timeout", name);
        return false;
    }
    return nargs + named == 0 || mhpy_deadline(args[0], until);
}

static PyObject *result(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    future *f = (future *)self;
    mh_deadline until;
    if (!timeout_argument(args, nargs, names, "result", &until) || !wait_until(f, until))
        return NULL;
    if (f->state == FINISHED)
        return Py_NewRef(f->value);
    return f->state == FAILED ? mhpy_raise_object(Py_NewRef(f->value)) : raise_futures("CancelledError");
}

static PyObject *exception(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    future *f = (future *)self;
    mh_deadline until;
    if (!timeout_argument(args, nargs, names, "exception", &until) || !wait_until(f, until))
        return NULL;
    if (f->state == CANCELLED)
        return raise_futures("CancelledError");
    return Py_NewRef(f->state == FAILED ? f->value : Py_None);
}

static PyObject *cancel(PyObject *self, PyObject *unused)
{
    (void)unused;
    future *f = (future *)self;
    bool cancelled = f->state == CANCELLED;
    if (f->state == PENDING) {
        f->waiting++;
        MHPY_UNLOCKED(cancelled = mh_future_cancel(f->task));
        f->waiting--;
        if (cancelled && f->state == PENDING) {
            f->state = TAKING;
            settle(f, CANCELLED, NULL);
        } else if (is_settled(f)) {
            drop_task(f);
        }
    }
    return PyBool_FromLong(cancelled);
}

static bool is_running(future *f)
{
    bool runs = false;
    if (f->state != PENDING)
        return f->state == TAKING;
    f->waiting++;
    MHPY_UNLOCKED(runs = mh_future_is_running(f->task));
    if (--f->waiting == 0 && is_settled(f))
        drop_task(f);
    return runs && !is_settled(f);
}

static PyObject *cancelled(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(look((future *)self) && ((future *)self)->state == CANCELLED);
}

static PyObject *running(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(!look((future *)self) && is_running((future *)self));
}

static PyObject *done(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(look((future *)self));
}

static PyObject *add_done_callback(PyObject *self, PyObject *function)
{
    future *f = (future *)self;
    if (!look(f)) {
        if (!f->callbacks && !(f->callbacks = PyList_New(0)))
            return NULL;
        track(f);
        Py_ssize_t at = PyList_GET_SIZE(f->callbacks);
        if (PyList_Append(f->callbacks, function) < 0)
            return NULL;
        if (!watch(f)) { /* which settles it, callbacks and all, when it has just ended */
            if (f->callbacks && at < PyList_GET_SIZE(f->callbacks)) {
                PyObject *type, *value, *traceback;
                PyErr_Fetch(&type, &value, &traceback);
                PyList_SetSlice(f->callbacks, at, at + 1, NULL);
                PyErr_Restore(type, value, traceback);
            }
            return NULL;
        }
        Py_RETURN_NONE;
    }
    call_back(f, function);
    Py_RETURN_NONE;
}

/* What only the executor's own side of a future does, which here is the pool's. */
static PyObject *refuse(PyObject *self, PyObject *args)
{
    (void)args;
    PyObject *class = PyObject_GetAttrString(mhpy.futures, "InvalidStateError");
    if (class)
        PyErr_Format(class, "%R: its result comes from its worker and cannot be set", self);
    Py_XDECREF(class);
    return NULL;
}

static const char *state_name(future *f)
{
    switch (look(f) ? f->state : PENDING) {
    case FINISHED:
    case FAILED: return "FINISHED";
    case CANCELLED: return "CANCELLED_AND_NOTIFIED";
    default: return is_running(f) ? "RUNNING" : "PENDING";
    }
}

static PyObject *repr(PyObject *self)
{
    future *f = (future *)self;
    const char *class = strrchr(Py_TYPE(self)->tp_name, '.');
    class = class ? class + 1 : Py_TYPE(self)->tp_name;
    if (look(f) && f->state != CANCELLED)
        return PyUnicode_FromFormat("<%s at %p state=finished %s %s>", class, (void *)self, f->state == FAILED ? "raised" : "returned",
                                    Py_TYPE(f->value)->tp_name);
    return PyUnicode_FromFormat("<%s at %p state=%s>", class, (void *)self,
                                f->state == CANCELLED ? "cancelled" : is_running(f) ? "running" : "pending");
}

/* ---- what the standard library's wait() and as_completed() look at ------------------------------------------------------------ */

static PyObject *get_state(PyObject *self, void *unused)
{
    (void)unused;
    return PyUnicode_InternFromString(state_name((future *)self));
}

static PyObject *get_condition(PyObject *self, void *unused)
{
    (void)unused;
    future *f = (future *)self;
    if (!f->condition) {
        PyObject *made = call_futures("_make_condition", NULL, NULL);
        if (!made)
            return NULL;
        if (f->condition)
            Py_DECREF(made); /* another thread was faster */
        else
            f->condition = made;
        track(f);
    }
    return watch(f) ? Py_NewRef(f->condition) : NULL;
}

static PyObject *list_of(future *f, PyObject **place)
{
    if (!*place && !(*place = PyList_New(0)))
        return NULL;
    track(f);
    return Py_NewRef(*place);
}

static PyObject *get_waiters(PyObject *self, void *unused)
{
    (void)unused;
    return list_of((future *)self, &((future *)self)->waiters);
}

static PyObject *get_callbacks(PyObject *self, void *unused)
{
    (void)unused;
    return list_of((future *)self, &((future *)self)->callbacks);
}

static PyObject *get_value(PyObject *self, void *state)
{
    future *f = (future *)self;
    int wanted = state ? FAILED : FINISHED;
    return Py_NewRef(look(f) && f->state == wanted ? f->value : Py_None);
}

PyObject *mhpy_await(PyObject *self)
{
    PyObject *module = PyImport_ImportModule("manyhands.asyncio");
    PyObject *iterator = module ? PyObject_CallMethod(module, "_await", "O", self) : NULL;
    Py_XDECREF(module);
    return iterator;
}

static PyMethodDef methods[] = {
    {"result", MHPY_METHOD(result), METH_FASTCALL | METH_KEYWORDS,
     "result($self, /, timeout=None)\n--\n\nWait and return the call's result, or raise what it raised; TimeoutError after timeout seconds, "
     "CancelledError when it was cancelled."},
    {"exception", MHPY_METHOD(exception), METH_FASTCALL | METH_KEYWORDS,
     "exception($self, /, timeout=None)\n--\n\nWait and return what the call raised, or None; raises as result() does when that is not known."},
    {"cancel", cancel, METH_NOARGS, "cancel($self, /)\n--\n\nAsk that it does not run: False when it runs already or has ended."},
    {"cancelled", cancelled, METH_NOARGS, "cancelled($self, /)\n--\n\nWhether it was cancelled."},
    {"running", running, METH_NOARGS, "running($self, /)\n--\n\nWhether a worker is running it."},
    {"done", done, METH_NOARGS, "done($self, /)\n--\n\nWhether it has ended or was cancelled."},
    {"add_done_callback", add_done_callback, METH_O,
     "add_done_callback($self, fn, /)\n--\n\nCall fn(future) when it has ended, in a thread of the pool's; at once when it has ended already."},
    {"set_result", refuse, METH_VARARGS, "Not for a future of a pool: raises InvalidStateError."},
    {"set_exception", refuse, METH_VARARGS, "Not for a future of a pool: raises InvalidStateError."},
    {"set_running_or_notify_cancel", refuse, METH_VARARGS, "Not for a future of a pool: raises InvalidStateError."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, "See PEP 585."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef attributes[] = {
    {"_state", get_state, NULL, NULL, NULL},
    {"_condition", get_condition, NULL, NULL, NULL},
    {"_waiters", get_waiters, NULL, NULL, NULL},
    {"_done_callbacks", get_callbacks, NULL, NULL, NULL},
    {"_result", get_value, NULL, NULL, NULL},
    {"_exception", get_value, NULL, NULL, (void *)1},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMemberDef members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(future, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(future, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
#define COMMON_SLOTS            \
    {Py_tp_dealloc, dealloc},   \
    {Py_tp_traverse, traverse}, \
    {Py_tp_clear, clear}

static PyType_Slot base_slots[] = {
    COMMON_SLOTS,
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_tp_members, members},
    {Py_tp_repr, repr},
    {Py_tp_setattro, set_attribute},
    {Py_am_await, mhpy_await},
    {Py_tp_doc, "The part in C of an executor's futures."},
    {0, NULL},
};
PyType_Spec mhpy_future_base_spec = {
    .name = "manyhands._core.FutureBase",
    .basicsize = sizeof(future),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = base_slots,
};

/* The layout is the base's; the standard library's class adds its name to the ancestors, and methods that we lack. */
static PyType_Slot slots[] = {
    COMMON_SLOTS,
    {Py_tp_doc, "The result of an executor's call, to come. A concurrent.futures.Future, and can be awaited."},
    {0, NULL},
};
static PyType_Spec future_spec = {
    .name = "manyhands.futures.TaskFuture",
    .basicsize = sizeof(future),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

PyObject *mhpy_make_future_type(PyObject *module, PyObject *args)
{
    PyObject *base, *futures;
    if (!PyArg_ParseTuple(args, "O!O!", &PyType_Type, &base, &PyModule_Type, &futures))
        return NULL;
    PyObject *bases = PyTuple_Pack(2, mhpy.future_base_type, base);
    PyObject *made = bases ? PyType_FromModuleAndSpec(module, &future_spec, bases) : NULL;
    Py_XDECREF(bases);
    if (!made)
        return NULL;
    Py_XSETREF(mhpy.futures, Py_NewRef(futures));
    Py_XSETREF(mhpy.future_type, (PyTypeObject *)Py_NewRef(made));
    return made;
}
