/* The core of an executor: submit. manyhands.futures.ProcessPoolExecutor is its subclass, and makes the pool when the first task comes. */
#include "core.h"

typedef struct executor {
    PyObject_HEAD
    PyObject *dict, *weakrefs;
    mhpy_pool *pool; /* NULL until the first task */
    mh_submit_options options;
} executor;

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((executor *)self)->dict);
    Py_VISIT(((executor *)self)->pool);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int clear(PyObject *self)
{
    Py_CLEAR(((executor *)self)->dict);
    Py_CLEAR(((executor *)self)->pool);
    return 0;
}

static void dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (((executor *)self)->weakrefs)
        PyObject_ClearWeakRefs(self);
    clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- submit --------------------------------------------------------------------------------------------------- */

static PyObject *keywords(PyObject *const *values, PyObject *names)
{
    PyObject *kwargs = PyDict_New();
    for (Py_ssize_t i = 0; kwargs && i < PyTuple_GET_SIZE(names); i++)
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(names, i), values[i]) < 0)
            Py_CLEAR(kwargs);
    return kwargs;
}

/* fn's message into room. False with an exception set. */
static bool pack(mhpy_pool *p, mhpy_room *room, PyObject *const *args, Py_ssize_t nargs, PyObject *names, size_t *size)
{
    mhpy_function function = {0};
    PyObject *items[3] = {NULL}, *blob;
    if (!mhpy_function_find(p, args[0], &function, &blob))
        return false;
    int count = 0;
    if (blob)
        items[count++] = blob;
    PyObject *tuple = items[count++] = PyTuple_New(nargs - 1);
    for (Py_ssize_t i = 1; tuple && i < nargs; i++)
        PyTuple_SET_ITEM(tuple, i - 1, Py_NewRef(args[i]));
    bool ok = tuple;
    if (ok && names && PyTuple_GET_SIZE(names))
        ok = items[count++] = keywords(args + nargs, names);
    if (ok && !mhpy_pack(room, &function, MHPY_OP_CALL, blob ? MHPY_FLAG_INLINE : 0, items, count, size)) {
        mhpy_blame("arguments", -1, args[0]);
        ok = false;
    }
    while (count)
        Py_XDECREF(items[--count]);
    return ok;
}

/* There is no pool yet, or it takes no more calls: make it, or say why not. */
static bool begin(executor *e)
{
    PyObject *begun = PyObject_CallMethod((PyObject *)e, "_begin", NULL);
    Py_XDECREF(begun);
    if (begun && !(e->pool && e->pool->running))
        PyErr_SetString(PyExc_RuntimeError, "the executor has no pool");
    return begun && e->pool && e->pool->running;
}

static PyObject *submit(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    executor *e = (executor *)self;
    if (nargs < 1)
        return PyErr_Format(PyExc_TypeError, "submit() missing 1 required positional argument: 'fn'");
    if (!(e->pool && e->pool->running) && !begin(e))
        return NULL;
    mhpy_pool *p = (mhpy_pool *)Py_NewRef(e->pool);
    mhpy_room room = {.pool = p->pool};
    size_t size;
    PyObject *f = mhpy_future_create(p);
    mh_err err = MH_OK;
    if (f && !pack(p, &room, args, nargs, names, &size)) {
        if (PyErr_ExceptionMatches(PyExc_Exception))
            mhpy_future_fail(f); /* what cannot be pickled is the call's result */
        else
            Py_CLEAR(f);
    } else if (f) {
        mh_future **task = mhpy_future_task(f);
        err = room.block ? MH_ERR_TIMEOUT : mh_pool_submit_now(room.pool, (mh_bytes){room.space, size}, &e->options, task);
        if (err == MH_ERR_TIMEOUT) { /* somebody is inside the pool, who may want the interpreter's lock */
            Py_BEGIN_ALLOW_THREADS
            err = mhpy_room_submit(&room, size, &e->options, task);
            Py_END_ALLOW_THREADS
        }
    }
    mhpy_room_close(&room);
    Py_DECREF(p);
    if (err) {
        mhpy_raise(err);
        mhpy_future_fail(f);
        PyObject *refused = err == MH_ERR_CLOSED ? PyObject_CallMethod(self, "_refuse", "O", f) : Py_NewRef(Py_None);
        if (!refused)
            Py_CLEAR(f);
        Py_XDECREF(refused);
    }
    return f;
}

/* ---- set up ------------------------------------------------------------------------------------------------------ */

static PyObject *attach(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"pool", "timeout", "retries", "memory", NULL};
    executor *e = (executor *)self;
    PyObject *pool, *timeout = NULL, *retries = NULL, *memory = NULL;
    mh_submit_options options;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|OOO", names, mhpy.pool_type, &pool, &timeout, &retries, &memory) ||
        !mhpy_submit_options((mhpy_pool *)pool, timeout, retries, memory, &options))
        return NULL;
    e->options = options;
    Py_XSETREF(e->pool, (mhpy_pool *)Py_NewRef(pool));
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"submit", MHPY_METHOD(submit), METH_FASTCALL | METH_KEYWORDS,
     "submit($self, fn, /, *args, **kwargs)\n--\n\nCall fn(*args, **kwargs) on a worker; returns its future at once."},
    {"_attach", MHPY_METHOD(attach), METH_VARARGS | METH_KEYWORDS, "The pool that runs the calls, and options for them."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(executor, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(executor, weakrefs), READONLY, NULL},
    {"_pool", T_OBJECT, offsetof(executor, pool), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_doc, "The core of an executor; manyhands.futures.ProcessPoolExecutor is made of it."},
    {0, NULL},
};
PyType_Spec mhpy_executor_spec = {
    .name = "manyhands._core.Executor",
    .basicsize = sizeof(executor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};
