/* Queue and SimpleQueue: what manyhands.queues is made of. */
#include "message.h"

/* Of a Queue: as much as it may hold, whatever its maxsize. Memory is taken only as it is used; where the address space is limited, less does. */
#define CAPACITY_LARGE ((size_t)4 << 30)
#define CAPACITY_SMALL ((size_t)2 << 20)

static mh_err push(mhpy_channel *c, const mh_bytes *parts, size_t count, uint32_t tag, mh_deadline until)
{
    return mh_queue_push_tagged(c->queue, parts, count, tag, until);
}
static mh_err pop(mhpy_channel *c, void *buffer, size_t capacity, mh_deadline until, size_t *size, uint32_t *tag)
{
    return mh_queue_pop_tagged(c->queue, buffer, capacity, until, size, tag);
}
static mh_err wait(mhpy_channel *c, mh_deadline until) { return mh_queue_wait(c->queue, until); }
static void destroy(mhpy_channel *c) { mh_queue_destroy(&c->queue); }
static const mhpy_channel_kind kind = {push, pop, wait, destroy};

/* ---- life ------------------------------------------------------------------------------------------------------ */

/* The handle, or NULL with an exception. It lives after Queue.close(), for qsize, join and their like. */
static mhpy_channel *handle(PyObject *self)
{
    mhpy_channel *c = (mhpy_channel *)self;
    if (c->queue && !c->released)
        return c;
    PyErr_SetString(PyExc_OSError, c->kind ? "handle is closed" : "the queue was not initialised: call __init__ of its base class");
    return NULL;
}

/* The handle of a queue that takes calls. */
static mhpy_channel *open_queue(PyObject *self)
{
    mhpy_channel *c = handle(self);
    if (c && c->closed) {
        PyErr_Format(PyExc_ValueError, "Queue %R is closed", self);
        return NULL;
    }
    return c;
}

static bool is_new(const mhpy_channel *c)
{
    if (c->kind)
        PyErr_SetString(PyExc_RuntimeError, "the queue is initialised already");
    return !c->kind;
}

static PyObject *open_new(PyObject *self, PyObject *args)
{
    mhpy_channel *c = (mhpy_channel *)self;
    Py_ssize_t max_items;
    int large;
    if (!PyArg_ParseTuple(args, "np", &max_items, &large) || !is_new(c))
        return NULL;
    mh_queue_options options = {.capacity_bytes = large ? CAPACITY_LARGE : CAPACITY_SMALL,
                                .max_items = (size_t)max_items > MH_QUEUE_ITEMS_MAX ? MH_QUEUE_ITEMS_MAX : (size_t)max_items};
    mh_err err = mh_queue_create(&c->queue, &options);
    while ((err == MH_ERR_NO_MEMORY || err == MH_ERR_SYSTEM) && options.capacity_bytes > CAPACITY_SMALL) {
        options.capacity_bytes /= 4;
        err = mh_queue_create(&c->queue, &options);
    }
    if (err)
        return mhpy_raise(err);
    c->kind = &kind;
    Py_RETURN_NONE;
}

static PyObject *attach(PyObject *self, PyObject *args)
{
    mhpy_channel *c = (mhpy_channel *)self;
    mh_queue_parts parts;
    if (!PyArg_ParseTuple(args, "ii", &parts.memory, &parts.notify) || !is_new(c))
        return NULL;
    mh_err err = mh_queue_attach(&c->queue, parts);
    if (err)
        return mhpy_raise(err);
    c->kind = &kind;
    Py_RETURN_NONE;
}

static PyObject *borrow_parts(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = handle(self);
    if (!c)
        return NULL;
    mh_queue_parts parts = mh_queue_borrow_parts(c->queue);
    return Py_BuildValue("ii", parts.memory, parts.notify);
}

static PyObject *descriptor(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = handle(self);
    int fd;
    if (!c)
        return NULL;
    mh_err err = mh_queue_borrow_descriptor(c->queue, &fd);
    return err ? mhpy_raise(err) : PyLong_FromLong(fd);
}

/* Queue: no more calls of put and get in this process. */
static PyObject *close_queue(PyObject *self, PyObject *unused)
{
    (void)unused;
    ((mhpy_channel *)self)->closed = true;
    Py_RETURN_NONE;
}

/* SimpleQueue: no more calls at all. */
static PyObject *close_simple(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (((mhpy_channel *)self)->kind)
        mhpy_channel_close((mhpy_channel *)self);
    Py_RETURN_NONE;
}

static PyObject *is_closed(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((mhpy_channel *)self)->closed);
}

/* ---- messages --------------------------------------------------------------------------------------------------- */

static PyObject *raise_from_queue(const char *name)
{
    PyObject *module = PyImport_ImportModule("queue"), *class = module ? PyObject_GetAttrString(module, name) : NULL;
    if (class)
        PyErr_SetNone(class);
    Py_XDECREF(class);
    Py_XDECREF(module);
    return NULL;
}

/* NULL for MHPY_DONE and with the exception set for all else. */
static PyObject *raise_end(mhpy_wait end, const char *late)
{
    if (end == MHPY_LATE)
        return raise_from_queue(late);
    if (end == MHPY_GONE)
        PyErr_SetString(PyExc_ValueError, "the queue is closed for everybody");
    return NULL;
}

/* What the standard library's feeder thread does with an object that cannot be pickled: the queue's hook is told, the caller is not. */
static PyObject *report(PyObject *self, PyObject *object)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return NULL;
    PyObject *exception = mhpy_take_exception();
    PyObject *done = exception ? PyObject_CallMethod(self, "_feed_failed", "OO", exception, object) : NULL;
    Py_XDECREF(exception);
    return done;
}

static PyObject *put(PyObject *self, PyObject *object, mh_deadline until)
{
    mhpy_outgoing m;
    mhpy_channel *c = open_queue(self);
    if (!c)
        return NULL;
    c->fed = true;
    if (!mhpy_outgoing_write(&m, object)) {
        mhpy_outgoing_close(&m);
        return report(self, object);
    }
    mhpy_wait end = open_queue(self) ? mhpy_channel_push(c, &m, until) : MHPY_ERROR; /* pickling ran anybody's code */
    mhpy_outgoing_close(&m);
    if (end == MHPY_DONE)
        Py_RETURN_NONE;
    return raise_end(end, "Full");
}

static PyObject *take(mhpy_channel *c, mh_deadline until)
{
    mhpy_incoming m;
    mhpy_wait end = mhpy_channel_pop(c, &m, until);
    if (end != MHPY_DONE)
        return raise_end(end, "Empty");
    PyObject *object = mhpy_incoming_read(&m);
    mhpy_incoming_close(&m);
    return object;
}

/* The arguments of put (with an object) and get (without): [obj,] block=True, timeout=None. */
static bool parse(const char *name, bool has_object, PyObject *const *args, Py_ssize_t nargs, PyObject *names, PyObject **object,
                  mh_deadline *until)
{
    static const char *const keywords[] = {"obj", "block", "timeout"};
    PyObject *found[3] = {NULL};
    int first = has_object ? 0 : 1;
    if (nargs + first > 3) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d arguments (%zd given)", name, 3 - first, nargs);
        return false;
    }
    for (Py_ssize_t i = 0; i < nargs; i++)
        found[first + i] = args[i];
    for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *key = PyTuple_GET_ITEM(names, i);
        int at = first;
        while (at < 3 && PyUnicode_CompareWithASCIIString(key, keywords[at]))
            at++;
        if (at == 3 || found[at]) {
            PyErr_Format(PyExc_TypeError, at == 3 ? "%s() got an unexpected keyword argument '%U'" : "%s() got multiple values for argument '%U'",
                         name, key);
            return false;
        }
        found[at] = args[nargs + i];
    }
    if (has_object && !found[0]) {
        PyErr_Format(PyExc_TypeError, "%s() missing 1 required positional argument: 'obj'", name);
        return false;
    }
    *object = found[0];
    int block = found[1] ? PyObject_IsTrue(found[1]) : 1;
    if (block < 0)
        return false;
    *until = MH_NOW;
    return !block || mhpy_deadline(found[2], until);
}

static PyObject *queue_put(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    PyObject *object;
    mh_deadline until;
    return parse("put", true, args, nargs, names, &object, &until) ? put(self, object, until) : NULL;
}

static PyObject *queue_get(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    PyObject *object;
    mh_deadline until;
    mhpy_channel *c = parse("get", false, args, nargs, names, &object, &until) ? open_queue(self) : NULL;
    return c ? take(c, until) : NULL;
}

/* The only argument, by position or by its name. */
static PyObject *only_object(const char *method, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    if (nargs + named == 1 && (!named || PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "obj") == 0))
        return args[0];
    PyErr_Format(PyExc_TypeError, "%s() takes one argument, obj", method);
    return NULL;
}

static PyObject *queue_put_nowait(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    PyObject *object = only_object("put_nowait", args, nargs, names);
    return object ? put(self, object, MH_NOW) : NULL;
}

static PyObject *queue_get_nowait(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = open_queue(self);
    return c ? take(c, MH_NOW) : NULL;
}

static PyObject *simple_put(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    mhpy_outgoing m;
    PyObject *object = only_object("put", args, nargs, names);
    mhpy_channel *c = object ? handle(self) : NULL;
    if (!c)
        return NULL;
    mhpy_wait end = MHPY_ERROR;
    if (mhpy_outgoing_write(&m, object) && (c = handle(self)))
        end = mhpy_channel_push(c, &m, MH_FOREVER);
    mhpy_outgoing_close(&m);
    if (end == MHPY_DONE)
        Py_RETURN_NONE;
    return raise_end(end, "Full");
}

static PyObject *simple_get(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = handle(self);
    return c ? take(c, MH_FOREVER) : NULL;
}

/* ---- bytes, for the views of a queue's two ends ------------------------------------------------------------------- */

static PyObject *send_bytes(PyObject *self, PyObject *data)
{
    Py_buffer view;
    mhpy_outgoing m;
    mhpy_channel *c = handle(self);
    if (!c || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    mhpy_outgoing_raw(&m, (mh_bytes){view.buf, (size_t)view.len});
    mhpy_wait end = mhpy_channel_push(c, &m, MH_FOREVER);
    PyBuffer_Release(&view);
    if (end == MHPY_DONE)
        Py_RETURN_NONE;
    return raise_end(end, "Full");
}

static PyObject *recv_bytes(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_incoming m;
    mhpy_channel *c = handle(self);
    if (!c)
        return NULL;
    mhpy_wait end = mhpy_channel_pop(c, &m, MH_FOREVER);
    if (end != MHPY_DONE)
        return raise_end(end, "Empty");
    PyObject *bytes = mhpy_incoming_bytes(&m);
    mhpy_incoming_close(&m);
    return bytes;
}

static PyObject *poll(PyObject *self, PyObject *timeout)
{
    mh_deadline until;
    mhpy_channel *c = handle(self);
    if (!c || !mhpy_deadline(timeout, &until))
        return NULL;
    mhpy_wait end = mhpy_channel_wait(c, until);
    return end == MHPY_ERROR ? NULL : PyBool_FromLong(end != MHPY_LATE);
}

/* ---- state --------------------------------------------------------------------------------------------------------- */

static PyObject *queue_qsize(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = handle(self);
    return c ? PyLong_FromSize_t(mh_queue_count(c->queue)) : NULL;
}

static PyObject *queue_empty(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = handle(self);
    if (!c)
        return NULL;
    if (c->closed && c->fed) { /* as in the standard library, where closing means nothing to who has put nothing */
        PyErr_SetString(PyExc_OSError, "handle is closed");
        return NULL;
    }
    bool is_empty = mh_queue_is_empty(c->queue);
    if (!is_empty && mh_queue_count(c->queue) == 0) { /* the beginning of a large object: unless its producer is dead */
        mh_err err;
        MHPY_UNLOCKED(err = mh_queue_wait(c->queue, MH_NOW));
        is_empty = err == MH_ERR_EMPTY;
    }
    return PyBool_FromLong(is_empty);
}

static PyObject *queue_full(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = handle(self);
    return c ? PyBool_FromLong(mh_queue_is_full(c->queue)) : NULL;
}

static PyObject *queue_task_done(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = handle(self);
    if (!c)
        return NULL;
    mh_err err = mh_queue_task_done(c->queue);
    if (err == MH_ERR_INVALID) {
        PyErr_SetString(PyExc_ValueError, "task_done() called too many times");
        return NULL;
    }
    if (err)
        return mhpy_raise(err);
    Py_RETURN_NONE;
}

static mh_err join(mhpy_channel *c, mh_deadline until, void *ctx)
{
    (void)ctx;
    return mh_queue_join(c->queue, until);
}

static PyObject *queue_join(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = handle(self);
    if (!c)
        return NULL;
    mhpy_wait end = mhpy_channel_call(c, join, NULL, MH_FOREVER);
    if (end == MHPY_DONE)
        Py_RETURN_NONE;
    return raise_end(end, "Empty");
}

#define COMMON_METHODS                                                                                                      \
    {"empty", queue_empty, METH_NOARGS, "empty($self, /)\n--\n\nWhether nothing is in the queue now."},                      \
    {"_open", open_new, METH_VARARGS, "_open(max_items, large): a new queue."},                                           \
    {"_attach", attach, METH_VARARGS, "_attach(memory, notify): the queue that these descriptors, now ours, belong to."},   \
    {"_parts", borrow_parts, METH_NOARGS, "_parts(): the descriptors (memory, notify)."},                                   \
    {"_descriptor", descriptor, METH_NOARGS, "_descriptor(): readable while something is there; to be asked before each wait."}, \
    {"_poll", poll, METH_O, "_poll(timeout): wait until something is there, and tell whether it is."},                      \
    {"_send_bytes", send_bytes, METH_O, "_send_bytes(data): put a pickle as it is."},                                       \
    {"_recv_bytes", recv_bytes, METH_NOARGS, "_recv_bytes(): get an object as its pickle."}

static PyMethodDef queue_methods[] = {
    {"put", MHPY_METHOD(queue_put), METH_FASTCALL | METH_KEYWORDS,
     "put($self, /, obj, block=True, timeout=None)\n--\n\n"
     "Put an object, waiting for room if block is true, at most timeout seconds; queue.Full when there was none.\n\n"
     "When it returns, get_nowait() of any process finds the object."},
    {"get", MHPY_METHOD(queue_get), METH_FASTCALL | METH_KEYWORDS,
     "get($self, /, block=True, timeout=None)\n--\n\n"
     "Take the oldest object, waiting for one if block is true, at most timeout seconds; queue.Empty when there was none."},
    {"put_nowait", MHPY_METHOD(queue_put_nowait), METH_FASTCALL | METH_KEYWORDS, "put_nowait($self, obj)\n--\n\nPut an object without waiting for room; queue.Full when there is none."},
    {"get_nowait", queue_get_nowait, METH_NOARGS, "get_nowait($self, /)\n--\n\nTake the oldest object that is there; queue.Empty when none is."},
    {"qsize", queue_qsize, METH_NOARGS, "qsize($self, /)\n--\n\nHow many objects are in the queue now."},
    {"full", queue_full, METH_NOARGS, "full($self, /)\n--\n\nWhether put would have to wait now."},
    {"close", close_queue, METH_NOARGS, "close($self, /)\n--\n\nThis process will put and get no more; others still may."},
    {"_task_done", queue_task_done, METH_NOARGS, "_task_done(): one object that was taken is finished."},
    {"_join", queue_join, METH_NOARGS, "_join(): wait until all objects are finished."},
    COMMON_METHODS,
    {NULL, NULL, 0, NULL},
};
static PyMethodDef simple_methods[] = {
    {"put", MHPY_METHOD(simple_put), METH_FASTCALL | METH_KEYWORDS, "put($self, obj)\n--\n\nPut an object, waiting for room."},
    {"get", simple_get, METH_NOARGS, "get($self, /)\n--\n\nTake the oldest object, waiting for one."},
    {"close", close_simple, METH_NOARGS, "close($self, /)\n--\n\nLet go of the queue: this process makes no more calls on it."},
    COMMON_METHODS,
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef getset[] = {
    {"_closed", is_closed, NULL, "Whether close() was called in this process.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot queue_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, mhpy_channel_dealloc},
    {Py_tp_methods, queue_methods},
    {Py_tp_getset, getset},
    {Py_tp_doc, "A queue between processes."},
    {0, NULL},
};
PyType_Spec mhpy_queue_spec = {
    .name = "manyhands._core.Queue",
    .basicsize = sizeof(mhpy_channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = queue_slots,
};

static PyType_Slot simple_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, mhpy_channel_dealloc},
    {Py_tp_methods, simple_methods},
    {Py_tp_getset, getset},
    {Py_tp_doc, "A queue between processes, without timeouts."},
    {0, NULL},
};
PyType_Spec mhpy_simple_queue_spec = {
    .name = "manyhands._core.SimpleQueue",
    .basicsize = sizeof(mhpy_channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = simple_slots,
};
