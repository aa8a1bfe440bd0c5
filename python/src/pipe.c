/* The ends of a pipe: what manyhands.connection.Pipe gives. */
#include "message.h"

#include <errno.h>

typedef struct end {
    mhpy_channel channel;
    bool readable, writable;
} end;

static mh_err push(mhpy_channel *c, const mh_bytes *parts, size_t count, uint32_t tag, mh_deadline until)
{
    return mh_pipe_send_tagged(c->pipe, parts, count, tag, until);
}
static mh_err pop(mhpy_channel *c, void *buffer, size_t capacity, mh_deadline until, size_t *size, uint32_t *tag)
{
    return mh_pipe_receive_tagged(c->pipe, buffer, capacity, until, size, tag);
}
static mh_err wait(mhpy_channel *c, mh_deadline until) { return mh_pipe_wait(c->pipe, until); }
static void destroy(mhpy_channel *c) { mh_pipe_destroy(&c->pipe); }
static const mhpy_channel_kind kind = {push, pop, wait, destroy};

/* ---- life ------------------------------------------------------------------------------------------------------ */

static mhpy_channel *handle(PyObject *self)
{
    mhpy_channel *c = (mhpy_channel *)self;
    if (c->pipe && !c->released)
        return c;
    PyErr_SetString(PyExc_OSError, "handle is closed");
    return NULL;
}

static mhpy_channel *reader(PyObject *self)
{
    mhpy_channel *c = handle(self);
    if (!c || ((end *)c)->readable)
        return c;
    PyErr_SetString(PyExc_OSError, "connection is write-only");
    return NULL;
}

static mhpy_channel *writer(PyObject *self)
{
    mhpy_channel *c = handle(self);
    if (!c || ((end *)c)->writable)
        return c;
    PyErr_SetString(PyExc_OSError, "connection is read-only");
    return NULL;
}

static PyObject *wrap(PyTypeObject *type, mh_pipe **p)
{
    mhpy_channel *c = (mhpy_channel *)type->tp_alloc(type, 0);
    if (!c) {
        mh_pipe_destroy(p);
        return NULL;
    }
    c->kind = &kind;
    c->pipe = *p;
    ((end *)c)->readable = mh_pipe_can_receive(*p);
    ((end *)c)->writable = mh_pipe_can_send(*p);
    *p = NULL;
    return (PyObject *)c;
}

static PyObject *pair(PyObject *type, PyObject *duplex)
{
    mh_pipe *a = NULL, *b = NULL;
    int both = PyObject_IsTrue(duplex);
    if (both < 0)
        return NULL;
    mh_err err = mh_pipe_create(&a, &b, &(mh_pipe_options){.duplex = both});
    if (err)
        return mhpy_raise(err);
    PyObject *first = wrap((PyTypeObject *)type, &a);
    PyObject *second = wrap((PyTypeObject *)type, &b);
    PyObject *ends = first && second ? PyTuple_Pack(2, first, second) : NULL;
    Py_XDECREF(first);
    Py_XDECREF(second);
    return ends;
}

static PyObject *attach(PyObject *type, PyObject *args)
{
    mh_pipe_parts parts;
    mh_pipe *p = NULL;
    if (!PyArg_ParseTuple(args, "iiI", &parts.memory, &parts.socket, &parts.side))
        return NULL;
    mh_err err = mh_pipe_attach(&p, parts);
    return err ? mhpy_raise(err) : wrap((PyTypeObject *)type, &p);
}

static PyObject *borrow_parts(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = handle(self);
    if (!c)
        return NULL;
    mh_pipe_parts parts = mh_pipe_borrow_parts(c->pipe);
    return Py_BuildValue("iiI", parts.memory, parts.socket, parts.side);
}

static PyObject *pipe_fileno(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel *c = handle(self);
    int fd;
    if (!c)
        return NULL;
    mh_err err = mh_pipe_borrow_descriptor(c->pipe, &fd);
    return err ? mhpy_raise(err) : PyLong_FromLong(fd);
}

static PyObject *pipe_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_channel_close((mhpy_channel *)self);
    Py_RETURN_NONE;
}

static PyObject *pipe_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(self);
}

static PyObject *pipe_exit(PyObject *self, PyObject *args)
{
    (void)args;
    return pipe_close(self, NULL);
}

static PyObject *is_closed(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((mhpy_channel *)self)->closed);
}

static PyObject *is_readable(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((end *)self)->readable);
}

static PyObject *is_writable(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((end *)self)->writable);
}

/* ---- sending ------------------------------------------------------------------------------------------------------ */

static PyObject *sent(mhpy_wait how)
{
    if (how == MHPY_DONE)
        Py_RETURN_NONE;
    if (how == MHPY_GONE) {
        errno = EPIPE;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return NULL;
}

static PyObject *pipe_send(PyObject *self, PyObject *object)
{
    mhpy_outgoing m;
    mhpy_channel *c = writer(self);
    mhpy_wait how = MHPY_ERROR;
    if (!c)
        return NULL;
    if (mhpy_outgoing_write(&m, object) && handle(self))
        how = mhpy_channel_push(c, &m, MH_FOREVER);
    mhpy_outgoing_close(&m);
    return sent(how);
}

/* The bytes of a view that are asked for. False with ValueError set. */
static bool cut(const Py_buffer *view, Py_ssize_t offset, PyObject *size_object, mh_bytes *out)
{
    const char *wrong = NULL;
    Py_ssize_t size = view->len - offset;
    if (offset < 0)
        wrong = "offset is negative";
    else if (view->len < offset)
        wrong = "buffer length < offset";
    if (!wrong && size_object != Py_None) {
        size = PyNumber_AsSsize_t(size_object, PyExc_OverflowError);
        if (size == -1 && PyErr_Occurred())
            return false;
        if (size < 0)
            wrong = "size is negative";
        else if (size > view->len - offset)
            wrong = "buffer length < offset + size";
    }
    if (wrong)
        PyErr_SetString(PyExc_ValueError, wrong);
    else
        *out = (mh_bytes){(const char *)view->buf + offset, (size_t)size};
    return !wrong;
}

static PyObject *pipe_send_bytes(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buf", "offset", "size", NULL};
    Py_buffer view;
    Py_ssize_t offset = 0;
    PyObject *size = Py_None;
    mh_bytes bytes;
    mhpy_outgoing m;
    mhpy_channel *c = writer(self);
    if (!c || !PyArg_ParseTupleAndKeywords(args, kwargs, "y*|nO", names, &view, &offset, &size))
        return NULL;
    mhpy_wait how = MHPY_ERROR;
    if (cut(&view, offset, size, &bytes) && handle(self)) {
        mhpy_outgoing_raw(&m, bytes);
        how = mhpy_channel_push(c, &m, MH_FOREVER);
    }
    PyBuffer_Release(&view);
    return sent(how);
}

/* ---- receiving ---------------------------------------------------------------------------------------------------- */

/* Take one message. False with an exception set. */
static bool take_into(mhpy_channel *c, mhpy_incoming *m, unsigned char *place, size_t place_size)
{
    mhpy_wait how = mhpy_channel_pop_into(c, m, place, place_size, MH_FOREVER);
    if (how == MHPY_GONE)
        PyErr_SetNone(PyExc_EOFError);
    return how == MHPY_DONE;
}

static bool take(mhpy_channel *c, mhpy_incoming *m) { return take_into(c, m, NULL, 0); }

static PyObject *pipe_recv(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_incoming m;
    mhpy_channel *c = reader(self);
    if (!c || !take(c, &m))
        return NULL;
    PyObject *object = mhpy_incoming_read(&m);
    mhpy_incoming_close(&m);
    return object;
}

/* A message beyond maxlength ends the reading: who sends such a thing is not to be believed. */
static PyObject *refuse_length(PyObject *self)
{
    if (((end *)self)->writable)
        ((end *)self)->readable = false;
    else
        mhpy_channel_close((mhpy_channel *)self);
    PyErr_SetString(PyExc_OSError, "bad message length");
    return NULL;
}

static PyObject *pipe_recv_bytes(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"maxlength", NULL};
    PyObject *most_object = Py_None;
    Py_ssize_t most = PY_SSIZE_T_MAX;
    mhpy_incoming m;
    mhpy_channel *c = reader(self);
    if (!c || !PyArg_ParseTupleAndKeywords(args, kwargs, "|O", names, &most_object))
        return NULL;
    if (most_object != Py_None) {
        most = PyNumber_AsSsize_t(most_object, NULL);
        if (most == -1 && PyErr_Occurred())
            return NULL;
        if (most < 0) {
            PyErr_SetString(PyExc_ValueError, "negative maxlength");
            return NULL;
        }
    }
    if (!take(c, &m))
        return NULL;
    PyObject *bytes = mhpy_incoming_bytes(&m);
    mhpy_incoming_close(&m);
    if (bytes && PyBytes_GET_SIZE(bytes) > most) {
        Py_DECREF(bytes);
        return refuse_length(self);
    }
    return bytes;
}

static PyObject *raise_too_short(PyObject *bytes)
{
    PyObject *class = mhpy_error_class("BufferTooShort"), *exception = class ? PyObject_CallOneArg(class, bytes) : NULL;
    Py_XDECREF(class);
    return mhpy_raise_object(exception);
}

/* The bytes of a message into a view at an offset that is valid. */
static PyObject *copy_into(const Py_buffer *view, Py_ssize_t offset, const unsigned char *from, size_t size)
{
    if ((size_t)(view->len - offset) < size) {
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)from, (Py_ssize_t)size);
        PyObject *none = bytes ? raise_too_short(bytes) : NULL;
        Py_XDECREF(bytes);
        return none;
    }
    if (from != (unsigned char *)view->buf + offset) /* it is not there yet */
        memcpy((char *)view->buf + offset, from, size);
    return PyLong_FromSize_t(size);
}

static PyObject *pipe_recv_bytes_into(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buf", "offset", NULL};
    Py_buffer view;
    Py_ssize_t offset = 0;
    mhpy_incoming m;
    PyObject *size = NULL;
    mhpy_channel *c = reader(self);
    if (!c || !PyArg_ParseTupleAndKeywords(args, kwargs, "w*|n", names, &view, &offset))
        return NULL;
    if (offset < 0) {
        PyErr_SetString(PyExc_ValueError, "negative offset");
    } else if (offset > view.len) {
        PyErr_SetString(PyExc_ValueError, "offset too large");
    } else if (take_into(c, &m, (unsigned char *)view.buf + offset, (size_t)(view.len - offset))) {
        if (m.tag == MHPY_RAW || m.tag == MHPY_PICKLED) {
            size = copy_into(&view, offset, m.at, m.size);
        } else {
            PyObject *bytes = mhpy_incoming_bytes(&m);
            if (bytes)
                size = copy_into(&view, offset, (const unsigned char *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
            Py_XDECREF(bytes);
        }
        mhpy_incoming_close(&m);
    }
    PyBuffer_Release(&view);
    return size;
}

static PyObject *pipe_poll(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"timeout", NULL};
    PyObject *timeout = NULL;
    mh_deadline until = MH_NOW;
    mhpy_channel *c = reader(self);
    if (!c || !PyArg_ParseTupleAndKeywords(args, kwargs, "|O", names, &timeout) || (timeout && !mhpy_deadline(timeout, &until)))
        return NULL;
    mhpy_wait how = mhpy_channel_wait(c, until);
    return how == MHPY_ERROR ? NULL : PyBool_FromLong(how != MHPY_LATE); /* there is something to be had, if only EOFError */
}

/* ---- descriptors ----------------------------------------------------------------------------------------------------- */

static mh_err send_one(mhpy_channel *c, mh_deadline until, void *fd) { return mh_pipe_send_descriptor(c->pipe, *(int *)fd, until); }
static mh_err receive_one(mhpy_channel *c, mh_deadline until, void *fd) { return mh_pipe_receive_descriptor(c->pipe, until, fd); }

static PyObject *send_descriptor(PyObject *self, PyObject *number)
{
    mhpy_channel *c = handle(self);
    int fd = c ? (int)PyLong_AsLong(number) : -1;
    if (!c || PyErr_Occurred())
        return NULL;
    return sent(mhpy_channel_call(c, send_one, &fd, MH_FOREVER));
}

static PyObject *receive_descriptor(PyObject *self, PyObject *unused)
{
    (void)unused;
    int fd;
    mhpy_channel *c = handle(self);
    mhpy_wait how = c ? mhpy_channel_call(c, receive_one, &fd, MH_FOREVER) : MHPY_ERROR;
    if (how == MHPY_GONE)
        PyErr_SetNone(PyExc_EOFError);
    return how == MHPY_DONE ? PyLong_FromLong(fd) : NULL;
}

static PyMethodDef methods[] = {
    {"send", pipe_send, METH_O, "send($self, obj, /)\n--\n\nSend an object, waiting for room; BrokenPipeError when the other end is gone."},
    {"recv", pipe_recv, METH_NOARGS, "recv($self, /)\n--\n\nReceive an object, waiting for one; EOFError when nothing is left and the other end is gone."},
    {"send_bytes", MHPY_METHOD(pipe_send_bytes), METH_VARARGS | METH_KEYWORDS,
     "send_bytes($self, /, buf, offset=0, size=None)\n--\n\nSend size bytes of a bytes-like object from offset on, as one message."},
    {"recv_bytes", MHPY_METHOD(pipe_recv_bytes), METH_VARARGS | METH_KEYWORDS,
     "recv_bytes($self, /, maxlength=None)\n--\n\nReceive a message as bytes; OSError, and the end of reading, when it is longer than maxlength."},
    {"recv_bytes_into", MHPY_METHOD(pipe_recv_bytes_into), METH_VARARGS | METH_KEYWORDS,
     "recv_bytes_into($self, /, buf, offset=0)\n--\n\nReceive a message into a writable buffer and return its length; BufferTooShort, with the message, when it does not fit."},
    {"poll", MHPY_METHOD(pipe_poll), METH_VARARGS | METH_KEYWORDS,
     "poll($self, /, timeout=0.0)\n--\n\nWait at most timeout seconds (None: without end), and tell whether recv would return or raise EOFError at once."},
    {"fileno", pipe_fileno, METH_NOARGS, "fileno($self, /)\n--\n\nA descriptor for select and its like: readable while recv would not have to wait. Never read from it."},
    {"close", pipe_close, METH_NOARGS, "close($self, /)\n--\n\nLet go of this end."},
    {"__enter__", pipe_enter, METH_NOARGS, NULL},
    {"__exit__", pipe_exit, METH_VARARGS, NULL},
    {"_pair", pair, METH_O | METH_CLASS, "_pair(duplex): the two ends of a new pipe."},
    {"_attach", attach, METH_VARARGS | METH_CLASS, "_attach(memory, socket, side): the end that these descriptors, now ours, belong to."},
    {"_parts", borrow_parts, METH_NOARGS, "_parts(): what the end consists of: (memory, socket, side)."},
    {"_send_descriptor", send_descriptor, METH_O, "_send_descriptor(fd): give the other end a duplicate of a descriptor."},
    {"_receive_descriptor", receive_descriptor, METH_NOARGS, "_receive_descriptor(): a descriptor that the other end gave."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef getset[] = {
    {"closed", is_closed, NULL, "Whether it was closed.", NULL},
    {"readable", is_readable, NULL, "Whether this end receives.", NULL},
    {"writable", is_writable, NULL, "Whether this end sends.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, mhpy_channel_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_tp_doc, "One end of a pipe."},
    {0, NULL},
};
PyType_Spec mhpy_pipe_spec = {
    .name = "manyhands._core.Pipe",
    .basicsize = sizeof(end),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};
