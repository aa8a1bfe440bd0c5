/* Channels: how a proxy talks to the server of its manager on the same machine. A pipe of the core, over which objects go one by one.
 *
 * What is made of plain values only travels in the interpreter's own marshal format, which costs a tenth of a pickle; all else is pickled as
 * connections do it. Both ends hold the manager's key, so neither trusts the other less than a pickle asks for.
 */
#include "core.h"

#include <errno.h>
#include <marshal.h>

#include "manyhands/queue.h"

enum { MARSHAL = 1, PICKLE = 2 };
#define MARSHAL_VERSION 2 /* without references among objects: those take a table */
#define INLINE_BYTES 4096
#define CAPACITY_BYTES (256 << 10)

typedef struct channel {
    PyObject_HEAD
    mh_pipe *pipe;
    size_t users;  /* threads inside a call on the pipe: it is not destroyed under them */
    bool doomed;   /* destroyed by the last of them */
    bool busy;     /* a request is out whose answer has not come */
} channel;

static PyObject *wrap(PyTypeObject *type, mh_pipe *pipe)
{
    channel *c = (channel *)type->tp_alloc(type, 0);
    if (!c)
        mh_pipe_destroy(&pipe);
    else
        c->pipe = pipe;
    return (PyObject *)c;
}

static PyObject *channel_pair(PyObject *type, PyObject *unused)
{
    (void)unused;
    mh_pipe *a = NULL, *b = NULL;
    mh_err err = mh_pipe_create(&a, &b, &(mh_pipe_options){.duplex = true, .capacity_bytes = CAPACITY_BYTES});
    if (err)
        return mhpy_raise(err);
    PyObject *first = wrap((PyTypeObject *)type, a), *second = wrap((PyTypeObject *)type, b);
    PyObject *both = first && second ? PyTuple_Pack(2, first, second) : NULL;
    Py_XDECREF(first);
    Py_XDECREF(second);
    return both;
}

static PyObject *channel_attach(PyObject *type, PyObject *args)
{
    mh_pipe_parts parts;
    unsigned int side;
    mh_pipe *pipe = NULL;
    if (!PyArg_ParseTuple(args, "iiI", &parts.memory, &parts.socket, &side))
        return NULL;
    parts.side = side;
    mh_err err = mh_pipe_attach(&pipe, parts);
    return err ? mhpy_raise(err) : wrap((PyTypeObject *)type, pipe);
}

/* ---- using the pipe ---------------------------------------------------------------------------------- */

static bool enter(channel *c)
{
    if (c->pipe && !c->doomed) {
        c->users++;
        return true;
    }
    errno = EBADF;
    PyErr_SetString(PyExc_OSError, "the connection to the manager is closed");
    return false;
}

static void destroy(channel *c)
{
    mh_pipe *pipe = c->pipe;
    c->pipe = NULL;
    Py_BEGIN_ALLOW_THREADS
    mh_pipe_destroy(&pipe);
    Py_END_ALLOW_THREADS
}

static void leave(channel *c)
{
    if (--c->users == 0 && c->doomed)
        destroy(c);
}

/* What a failed call on the pipe becomes: the exceptions of a socket. */
static void raise_broken(mh_err err, bool sending)
{
    if (err == MH_ERR_CLOSED && sending) {
        errno = EPIPE;
        PyErr_SetFromErrno(PyExc_OSError);
    } else if (err == MH_ERR_CLOSED) {
        PyErr_SetString(PyExc_EOFError, "the process at the other end of the connection has ended");
    } else {
        mhpy_raise(err);
    }
}

/* Whether to go on waiting after a slice. False with an exception set. */
static bool goes_on(channel *c, mh_err err, bool sending)
{
    if (err != MH_ERR_TIMEOUT && err != MH_ERR_INTERRUPTED) {
        raise_broken(err, sending);
        return false;
    }
    if (PyErr_CheckSignals() < 0)
        return false;
    if (!c->doomed)
        return true;
    PyErr_SetString(PyExc_EOFError, "the connection was closed meanwhile");
    return false;
}

/* ---- objects as messages -------------------------------------------------------------------------------- */

/* Whether marshal gives back what pickle would: values without identity, and at most one list or dict, so that none can be there twice. */
static bool is_plain(PyObject *o, unsigned depth, unsigned *containers)
{
    PyTypeObject *type = Py_TYPE(o);
    if (o == Py_None || type == &PyUnicode_Type || type == &PyLong_Type || type == &PyFloat_Type || type == &PyBytes_Type ||
        type == &PyBool_Type)
        return true;
    if (depth == 0)
        return false;
    if (type == &PyTuple_Type) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(o); i++)
            if (!is_plain(PyTuple_GET_ITEM(o, i), depth - 1, containers))
                return false;
        return true;
    }
    if (type == &PyList_Type && (*containers)++ == 0) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(o); i++)
            if (!is_plain(PyList_GET_ITEM(o, i), depth - 1, containers))
                return false;
        return true;
    }
    if (type == &PyDict_Type && (*containers)++ == 0) {
        PyObject *key, *value;
        Py_ssize_t at = 0;
        while (PyDict_Next(o, &at, &key, &value))
            if (!is_plain(key, depth - 1, containers) || !is_plain(value, depth - 1, containers))
                return false;
        return true;
    }
    return false;
}

/* A message as a bytes-like object; *kind says which it is. */
static PyObject *encode(PyObject *object, char *kind)
{
    unsigned containers = 0;
    *kind = MARSHAL;
    if (is_plain(object, 16, &containers))
        return PyMarshal_WriteObjectToString(object, MARSHAL_VERSION);
    *kind = PICKLE;
    return PyObject_CallMethod(mhpy.serial, "dump_message", "(O)", object);
}

static PyObject *decode(const char *data, size_t size)
{
    if (size > 0 && data[0] == MARSHAL)
        return PyMarshal_ReadObjectFromString(data + 1, (Py_ssize_t)size - 1);
    if (size == 0 || data[0] != PICKLE) {
        PyErr_SetString(PyExc_OSError, "what came over the manager's connection is no message");
        return NULL;
    }
    PyObject *view = PyMemoryView_FromMemory((char *)(uintptr_t)data + 1, (Py_ssize_t)size - 1, PyBUF_READ);
    PyObject *object = view ? PyObject_CallOneArg(mhpy.loads, view) : NULL;
    Py_XDECREF(view);
    return object;
}

static bool send_object(channel *c, PyObject *object)
{
    char kind;
    PyObject *message = encode(object, &kind);
    Py_buffer view;
    mh_err err = MH_OK;
    if (!message)
        return false;
    if (PyObject_GetBuffer(message, &view, PyBUF_SIMPLE) < 0 || !enter(c)) {
        Py_DECREF(message);
        return false;
    }
    mh_bytes parts[2] = {{&kind, 1}, {view.buf, (size_t)view.len}};
    do {
        Py_BEGIN_ALLOW_THREADS
        err = mh_pipe_send_parts(c->pipe, parts, 2, mh_deadline_in(MHPY_SLICE_NS));
        Py_END_ALLOW_THREADS
    } while (err && goes_on(c, err, true));
    leave(c);
    PyBuffer_Release(&view);
    Py_DECREF(message);
    return !err;
}

static PyObject *receive_object(channel *c)
{
    char small[INLINE_BYTES];
    size_t size = 0;
    mh_buf *big = NULL;
    mh_err err;
    if (!enter(c))
        return NULL;
    do {
        Py_BEGIN_ALLOW_THREADS
        err = mh_pipe_receive_into(c->pipe, small, sizeof small, mh_deadline_in(MHPY_SLICE_NS), &size);
        if (err == MH_ERR_TOO_LARGE)
            err = mh_pipe_receive(c->pipe, mh_deadline_in(MHPY_SLICE_NS), &big);
        Py_END_ALLOW_THREADS
    } while (err && goes_on(c, err, false));
    leave(c);
    if (err)
        return NULL;
    PyObject *object = big ? decode(mh_buf_data(big), mh_buf_size(big)) : decode(small, size);
    mh_buf_destroy(&big);
    return object;
}

/* ---- methods ------------------------------------------------------------------------------------------------ */

static PyObject *channel_send(PyObject *self, PyObject *object)
{
    if (!send_object((channel *)self, object))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *channel_recv(PyObject *self, PyObject *unused)
{
    (void)unused;
    return receive_object((channel *)self);
}

static void close_channel(channel *c)
{
    if (!c->pipe)
        return;
    c->doomed = true;
    if (c->users == 0)
        destroy(c);
}

/* A request and its answer. When the answer was not waited for to its end the channel is closed, for it would be taken for that of the next request. */
static PyObject *channel_call(PyObject *self, PyObject *request)
{
    channel *c = (channel *)self;
    if (c->busy) { /* a finalizer or a signal handler in the middle of another call */
        PyErr_SetString(PyExc_BlockingIOError, "a request is out on this connection");
        return NULL;
    }
    c->busy = true;
    PyObject *answer = NULL;
    bool sent = send_object(c, request);
    mh_pipe *pipe = c->pipe;
    if (sent)
        answer = receive_object(c);
    c->busy = false;
    if (sent && !answer && pipe && (PyErr_ExceptionMatches(PyExc_EOFError) || !PyErr_ExceptionMatches(PyExc_Exception)))
        close_channel(c);
    return answer;
}

static PyObject *channel_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    close_channel((channel *)self);
    Py_RETURN_NONE;
}

static PyObject *channel_parts(PyObject *self, PyObject *unused)
{
    (void)unused;
    channel *c = (channel *)self;
    if (!enter(c))
        return NULL;
    mh_pipe_parts parts = mh_pipe_borrow_parts(c->pipe);
    leave(c);
    return Py_BuildValue("iiI", parts.memory, parts.socket, (unsigned int)parts.side);
}

static PyObject *channel_closed(PyObject *self, void *unused)
{
    (void)unused;
    channel *c = (channel *)self;
    return PyBool_FromLong(!c->pipe || c->doomed);
}

static PyObject *channel_busy(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((channel *)self)->busy);
}

static void channel_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    close_channel((channel *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef channel_methods[] = {
    {"pair", channel_pair, METH_NOARGS | METH_CLASS, "pair(): both ends of a new channel."},
    {"attach", channel_attach, METH_VARARGS | METH_CLASS, "attach(memory, socket, side): the end that these descriptors belong to; it owns them then."},
    {"parts", channel_parts, METH_NOARGS, "parts(): (memory, socket, side), borrowed."},
    {"call", channel_call, METH_O, "call(request): send it and wait for the answer."},
    {"send", channel_send, METH_O, "send(object)"},
    {"recv", channel_recv, METH_NOARGS, "recv(): the next object; EOFError when the other end is gone."},
    {"close", channel_close, METH_NOARGS, "close(): the other end is told."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef channel_getset[] = {
    {"closed", channel_closed, NULL, "Whether it is closed here.", NULL},
    {"busy", channel_busy, NULL, "Whether a call is under way.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot channel_slots[] = {
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_methods, channel_methods},
    {Py_tp_getset, channel_getset},
    {Py_tp_doc, "One end of a connection between a proxy and its manager."},
    {0, NULL},
};
PyType_Spec mhpy_proxy_channel_spec = {
    .name = "manyhands._core.ProxyChannel",
    .basicsize = sizeof(channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = channel_slots,
};
