/* The module manyhands.parallel._client: a client's messages, as Python objects. It alone of the extensions loads libzmq.
 *
 * What a message means is Python's business; here is only what is cheaper to know before it becomes an object: what other clients' tasks
 * publish, and that an engine is busy, is dropped.
 */
#include "core.h"

#include <stdatomic.h>

#include "manyhands/client.h"

enum {
    LEND_FROM = 64 << 10, /* bytes of buffers from which they are lent, not copied */
    COPY_BELOW = 4 << 10, /* a buffer that came becomes bytes below this, else a view */
};
#define SLICE_NS (50 * MH_MILLISECOND) /* after which a wait looks whether it is to end */

mhpy_state mhpy; /* this module's own: what errors.c needs of it */
static PyTypeObject *message_type, *frame_type, *loan_type;

/* ---- loans: buffers that are being sent ----------------------------------------------------------- */

/* Shared by the library, which releases it from any thread without the interpreter's lock, and by Loan objects. Its buffers are let go
 * of later, by whoever holds that lock. */
typedef struct lending {
    struct lending *next;          /* in `returned` of its client */
    _Atomic(struct lending *) *returned;
    _Atomic bool is_done;
    PyThread_type_lock until_done; /* held until then */
    Py_ssize_t refs;               /* guarded by the interpreter's lock */
    Py_ssize_t count;
    Py_buffer views[];
} lending;

static void drop_views(lending *l)
{
    while (l->count)
        PyBuffer_Release(&l->views[--l->count]);
}

static void drop_lending(lending *l)
{
    if (--l->refs)
        return;
    drop_views(l);
    PyThread_free_lock(l->until_done);
    PyMem_Free(l);
}

static void mark_done(lending *l)
{
    atomic_store_explicit(&l->is_done, true, memory_order_release);
    PyThread_release_lock(l->until_done);
}

/* Called by the library. */
static void release(void *ctx)
{
    lending *l = ctx;
    _Atomic(lending *) *returned = l->returned;
    mark_done(l);
    l->next = atomic_load_explicit(returned, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(returned, &l->next, l, memory_order_release, memory_order_relaxed))
        ;
}

static void collect(_Atomic(lending *) *returned)
{
    lending *l = atomic_load_explicit(returned, memory_order_relaxed);
    if (l)
        l = atomic_exchange_explicit(returned, NULL, memory_order_acquire);
    while (l) {
        lending *next = l->next;
        drop_views(l);
        drop_lending(l);
        l = next;
    }
}

static lending *create_lending(PyObject *fast)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast);
    lending *l = PyMem_Calloc(1, sizeof *l + (size_t)count * sizeof *l->views);
    if (!l || !(l->until_done = PyThread_allocate_lock())) {
        PyMem_Free(l);
        PyErr_NoMemory();
        return NULL;
    }
    PyThread_acquire_lock(l->until_done, WAIT_LOCK);
    l->refs = 1;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyObject_GetBuffer(PySequence_Fast_GET_ITEM(fast, i), &l->views[l->count], PyBUF_SIMPLE) < 0) {
            PyThread_release_lock(l->until_done);
            drop_lending(l);
            return NULL;
        }
        l->count++;
    }
    return l;
}

typedef struct loan {
    PyObject_HEAD
    lending *lending;
} loan;

static PyObject *make_loan(lending *l)
{
    loan *self = PyObject_New(loan, loan_type);
    if (!self)
        return NULL;
    l->refs++;
    self->lending = l;
    return (PyObject *)self;
}

static void loan_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    drop_lending(((loan *)self)->lending);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *loan_done(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(atomic_load_explicit(&((loan *)self)->lending->is_done, memory_order_acquire));
}

static bool read_timeout(PyObject *seconds, mh_deadline *out)
{
    if (!seconds || seconds == Py_None) {
        *out = MH_FOREVER;
        return true;
    }
    double s = PyFloat_AsDouble(seconds);
    if (s == -1 && PyErr_Occurred())
        return false;
    if (s != s) {
        PyErr_SetString(PyExc_ValueError, "timeout is not a number");
        return false;
    }
    *out = s <= 0 ? MH_NOW : s > 1e9 ? MH_FOREVER : mh_deadline_in((int64_t)(s * 1e9));
    return true;
}

/* The end of the next slice of a wait until `until`. */
static mh_deadline slice_of(mh_deadline until)
{
    mh_deadline slice = until == MH_NOW ? MH_NOW : mh_deadline_in(SLICE_NS);
    return slice < until ? slice : until;
}

static PyObject *loan_wait(PyObject *self, PyObject *args)
{
    lending *l = ((loan *)self)->lending;
    PyObject *timeout = NULL;
    mh_deadline until;
    if (!PyArg_ParseTuple(args, "|O", &timeout) || !read_timeout(timeout, &until))
        return NULL;
    for (;;) {
        PyLockStatus got = PY_LOCK_FAILURE;
        bool done = atomic_load_explicit(&l->is_done, memory_order_acquire);
        if (done || until == MH_NOW || (until != MH_FOREVER && mh_now() >= until))
            return PyBool_FromLong(done);
        Py_BEGIN_ALLOW_THREADS
        got = PyThread_acquire_lock_timed(l->until_done, SLICE_NS / 1000, 0);
        if (got == PY_LOCK_ACQUIRED)
            PyThread_release_lock(l->until_done); /* for the next who waits */
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
}

static PyMethodDef loan_methods[] = {
    {"wait", loan_wait, METH_VARARGS, "wait(timeout=None): wait until the buffers are not needed any more; whether that is so."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef loan_getset[] = {
    {"done", loan_done, NULL, "Whether the buffers are not needed any more.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot loan_slots[] = {
    {Py_tp_dealloc, loan_dealloc},
    {Py_tp_methods, loan_methods},
    {Py_tp_getset, loan_getset},
    {Py_tp_doc, "Buffers of a message that is being sent."},
    {0, NULL},
};
static PyType_Spec loan_spec = {
    .name = "manyhands.parallel._client.Loan",
    .basicsize = sizeof(loan),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = loan_slots,
};

/* ---- messages ---------------------------------------------------------------------------------- */

typedef struct message {
    PyObject_HEAD
    mh_client_message *m;
} message;

static PyObject *make_message(mh_client_message *m)
{
    message *self = PyObject_New(message, message_type);
    if (!self) {
        mh_client_message_free(&m);
        return NULL;
    }
    self->m = m;
    return (PyObject *)self;
}

static void message_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    mh_client_message_free(&((message *)self)->m);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *text_of(PyObject *self, void *closure)
{
    const mh_bytes *b = (const void *)((const char *)((message *)self)->m + (size_t)closure);
    return PyUnicode_DecodeUTF8(b->data, (Py_ssize_t)b->size, "replace");
}

static PyObject *is_quiet(PyObject *self, void *unused)
{
    static const char said[] = "\"x_quiet\":true"; /* in a text it would have backslashes */
    const mh_bytes m = ((message *)self)->m->metadata;
    (void)unused;
    return PyBool_FromLong(memmem(m.data, m.size, said, sizeof said - 1) != NULL);
}

/* The value of "date" in its header, which is JSON and of no depth: one text of a reply that most programs look at never. */
static PyObject *date_of(PyObject *self, void *unused)
{
    static const char key[] = "\"date\":";
    const mh_bytes h = ((message *)self)->m->header;
    (void)unused;
    const char *end = (const char *)h.data + h.size, *at = memmem(h.data, h.size, key, sizeof key - 1);
    at = at ? memchr(at + sizeof key - 1, '"', (size_t)(end - at) - (sizeof key - 1)) : NULL;
    const char *close = at ? memchr(at + 1, '"', (size_t)(end - at - 1)) : NULL;
    if (!close)
        Py_RETURN_NONE;
    return PyUnicode_DecodeUTF8(at + 1, close - at - 1, "replace");
}

static PyObject *channel_of(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong((long)((message *)self)->m->channel);
}

/* One buffer of a message, which keeps the whole of it. */
typedef struct frame {
    PyObject_HEAD
    mh_bytes bytes;
    PyObject *owner;
} frame;

static void frame_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(((frame *)self)->owner);
    PyObject_Free(self);
    Py_DECREF(type);
}

static int frame_get(PyObject *self, Py_buffer *view, int flags)
{
    frame *f = (frame *)self;
    return PyBuffer_FillInfo(view, self, (void *)(uintptr_t)f->bytes.data, (Py_ssize_t)f->bytes.size, true, flags);
}

static PyType_Slot frame_slots[] = {
    {Py_tp_dealloc, frame_dealloc},
    {Py_bf_getbuffer, frame_get},
    {Py_tp_doc, "Memory of a message that came."},
    {0, NULL},
};
static PyType_Spec frame_spec = {
    .name = "manyhands.parallel._client.Frame",
    .basicsize = sizeof(frame),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = frame_slots,
};

static PyObject *buffer_of(PyObject *owner, mh_bytes bytes)
{
    if (bytes.size < COPY_BELOW)
        return PyBytes_FromStringAndSize(bytes.data, (Py_ssize_t)bytes.size);
    frame *f = PyObject_New(frame, frame_type);
    if (!f)
        return NULL;
    f->bytes = bytes;
    f->owner = Py_NewRef(owner);
    PyObject *view = PyMemoryView_FromObject((PyObject *)f);
    Py_DECREF(f);
    return view;
}

/* Not kept: a frame refers to its message. */
static PyObject *buffers_of(PyObject *self, void *unused)
{
    const mh_client_message *m = ((message *)self)->m;
    (void)unused;
    PyObject *list = PyList_New((Py_ssize_t)m->buffer_count);
    for (size_t i = 0; list && i < m->buffer_count; i++) {
        PyObject *item = buffer_of(self, m->buffers[i]);
        if (item)
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
        else
            Py_CLEAR(list);
    }
    return list;
}

#define PART(name) ((void *)offsetof(mh_client_message, name))
static PyGetSetDef message_getset[] = {
    {"channel", channel_of, NULL, "The channel that it came by.", NULL},
    {"type", text_of, NULL, "What it is.", PART(type)},
    {"id", text_of, NULL, "Its own id.", PART(id)},
    {"parent_id", text_of, NULL, "The id of the request that it answers or belongs to, or nothing.", PART(parent_id)},
    {"source", text_of, NULL, "The uuid of the engine that it came from, or the topic.", PART(source)},
    {"header", text_of, NULL, "JSON.", PART(header)},
    {"parent", text_of, NULL, "JSON: the header of the request.", PART(parent)},
    {"metadata", text_of, NULL, "JSON.", PART(metadata)},
    {"content", text_of, NULL, "JSON.", PART(content)},
    {"is_quiet", is_quiet, NULL, "Whether the engine says that it published nothing while it ran what this replies to.", NULL},
    {"date", date_of, NULL, "When it was written, as its header says, or None.", NULL},
    {"buffers", buffers_of, NULL, "A list of bytes and memoryviews.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot message_slots[] = {
    {Py_tp_dealloc, message_dealloc},
    {Py_tp_getset, message_getset},
    {Py_tp_doc, "A message that came, and was verified."},
    {0, NULL},
};
static PyType_Spec message_spec = {
    .name = "manyhands.parallel._client.Message",
    .basicsize = sizeof(message),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = message_slots,
};

/* ---- the client -------------------------------------------------------------------------------- */

typedef struct client {
    PyObject_HEAD
    mh_client *c; /* NULL once it is closed */
    _Atomic(lending *) returned;
    Py_ssize_t users; /* calls inside the library; it is not closed before they have left */
    bool is_closing;
    char session[MH_CLIENT_ID_SIZE];
} client;

static client *open_client(PyObject *self)
{
    client *k = (client *)self;
    if (k->c && !k->is_closing)
        return k;
    PyErr_SetString(PyExc_OSError, "the client is closed");
    return NULL;
}

/* Around each call of the library. */
static void enter(client *k) { k->users++; }
static void leave(client *k) { k->users--; }

static PyObject *client_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"file", "text", "timeout", "username", NULL};
    const char *file = NULL, *text = NULL, *username = NULL;
    double timeout = 10;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|zzdz", names, &file, &text, &timeout, &username))
        return NULL;
    mh_client_options options = {.connection_file = file, .connection_text = text, .username = username, .timeout_ns = -1};
    client *k = (client *)type->tp_alloc(type, 0);
    mh_err err = MH_OK;
    if (!k)
        return NULL;
    MHPY_UNLOCKED(err = mh_client_open(&k->c, &options));
    mh_deadline until = timeout > 1e9 ? MH_FOREVER : mh_deadline_in((int64_t)(timeout * 1e9));
    while (!err) { /* for the controller's first answer */
        MHPY_UNLOCKED(err = mh_client_wait(k->c, slice_of(until)));
        if (!err)
            break;
        if (PyErr_CheckSignals() < 0) {
            Py_DECREF(k);
            return NULL;
        }
        if (err == MH_ERR_TIMEOUT && mh_now() < until)
            err = MH_OK;
    }
    if (err) {
        mhpy_raise(err);
        Py_DECREF(k);
        return NULL;
    }
    snprintf(k->session, sizeof k->session, "%s", mh_client_session(k->c));
    return (PyObject *)k;
}

static void close_now(client *k)
{
    mh_client *c = k->c;
    k->c = NULL;
    MHPY_UNLOCKED(mh_client_close(&c));
    collect(&k->returned);
}

static void client_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    close_now((client *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *client_close(PyObject *self, PyObject *unused)
{
    client *k = (client *)self;
    (void)unused;
    if (!k->c || k->is_closing)
        Py_RETURN_NONE;
    k->is_closing = true;
    MHPY_UNLOCKED(mh_client_stop(k->c));
    if (!k->users) /* else the last of them does it */
        close_now(k);
    Py_RETURN_NONE;
}

/* After a call of the library, and what it read of k->c. */
static void finish(client *k)
{
    leave(k);
    if (k->is_closing && !k->users && k->c)
        close_now(k);
}

/* ---- sending */

static bool split(lending *l, mh_bytes *small, mh_bytes **out, size_t *bytes)
{
    mh_bytes *to = l->count <= 16 ? small : PyMem_Malloc((size_t)l->count * sizeof *to);
    if (!to) {
        PyErr_NoMemory();
        return false;
    }
    *bytes = 0;
    for (Py_ssize_t i = 0; i < l->count; i++) {
        to[i] = (mh_bytes){l->views[i].buf, (size_t)l->views[i].len};
        *bytes += to[i].size;
    }
    *out = to;
    return true;
}

/* The id as a str, None when there is no room now, NULL with an exception set. *lent: the library has the buffers. */
static PyObject *send_request(client *k, mh_client_request *r, lending *l, bool *lent)
{
    mh_bytes small[16], *parts;
    size_t bytes;
    char id[MH_CLIENT_ID_SIZE];
    mh_err err;
    if (!split(l, small, &parts, &bytes))
        return NULL;
    r->buffers = parts;
    r->buffer_count = (size_t)l->count;
    if (bytes >= LEND_FROM) {
        r->release = release;
        r->release_ctx = l;
        l->returned = &k->returned;
        l->refs++; /* before it may be released */
    }
    enter(k);
    if (bytes >= LEND_FROM)
        MHPY_UNLOCKED(err = mh_client_send(k->c, r, MH_NOW, id));
    else /* it waits for nobody, and is over sooner than a thread that took the interpreter's lock meanwhile would give it back */
        err = mh_client_send(k->c, r, MH_NOW, id);
    *lent = !err && r->release;
    if (r->release && err)
        l->refs--;
    if (parts != small)
        PyMem_Free(parts);
    PyObject *made = !err ? PyUnicode_FromString(id) : err == MH_ERR_FULL ? Py_NewRef(Py_None) : mhpy_raise(err);
    finish(k);
    return made;
}

static PyObject *client_send(PyObject *self, PyObject *args)
{
    client *k = open_client(self);
    mh_client_request r = {0};
    int channel, track = 0;
    const char *msg_id = NULL;
    Py_ssize_t content_size, metadata_size;
    const char *content, *metadata;
    PyObject *buffers, *fast, *id, *pair = NULL;
    bool lent = false;
    if (!k || !PyArg_ParseTuple(args, "isy#y#Oz|pz", &channel, &r.type, &content, &content_size, &metadata, &metadata_size, &buffers, &r.engine, &track,
                                &msg_id))
        return NULL;
    r.msg_id = msg_id;
    r.channel = (mh_client_channel)channel;
    r.content = (mh_bytes){content, (size_t)content_size};
    r.metadata = (mh_bytes){metadata, (size_t)metadata_size};
    collect(&k->returned);
    fast = PySequence_Fast(buffers, "buffers must be a sequence");
    lending *l = fast ? create_lending(fast) : NULL;
    Py_XDECREF(fast);
    if (!l)
        return NULL;
    id = send_request(k, &r, l, &lent);
    if (id && !lent)
        mark_done(l); /* what was sent are copies */
    if (id && track) {
        PyObject *tracker = make_loan(l);
        pair = tracker ? PyTuple_Pack(2, id, tracker) : NULL;
        Py_XDECREF(tracker);
        Py_DECREF(id);
        id = pair;
    }
    drop_lending(l);
    return id;
}

/* ---- receiving */

/* Nobody here wants to know. */
static bool is_noise(const client *k, const mh_client_message *m)
{
    static const char busy[] = "\"busy\"", status[] = "status";
    size_t size = strlen(k->session);
    if (m->channel != MH_CLIENT_IOPUB)
        return false;
    if (m->parent_id.size < size || memcmp(m->parent_id.data, k->session, size))
        return true;
    return m->type.size == sizeof status - 1 && !memcmp(m->type.data, status, sizeof status - 1) &&
           memmem(m->content.data, m->content.size, busy, sizeof busy - 1);
}

/* Up to `limit` messages, waiting for the first. */
static mh_err take_some(client *k, mh_deadline until, size_t limit, mh_client_message **out, size_t *count)
{
    mh_err err = MH_OK;
    *count = 0;
    while (*count < limit) {
        mh_client_message *m;
        err = mh_client_take(k->c, *count ? MH_NOW : until, &m);
        if (err)
            break;
        if (is_noise(k, m))
            mh_client_message_free(&m);
        else
            out[(*count)++] = m;
    }
    return *count ? MH_OK : err;
}

static PyObject *list_of(mh_client_message **taken, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; i < count; i++) {
        PyObject *item = list ? make_message(taken[i]) : NULL;
        if (item)
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
        else if (!list)
            mh_client_message_free(&taken[i]);
        else
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *client_take(PyObject *self, PyObject *args)
{
    enum { LIMIT = 64 };
    client *k = open_client(self);
    PyObject *timeout = NULL;
    mh_deadline until;
    mh_client_message *taken[LIMIT];
    size_t count;
    mh_err err;
    if (!k || !PyArg_ParseTuple(args, "|O", &timeout) || !read_timeout(timeout, &until))
        return NULL;
    collect(&k->returned);
    for (;;) {
        mh_deadline slice = slice_of(until);
        enter(k);
        MHPY_UNLOCKED(err = take_some(k, slice, LIMIT, taken, &count));
        bool is_closing = k->is_closing;
        if (err && err != MH_ERR_TIMEOUT) {
            mhpy_raise(err);
            finish(k);
            return NULL;
        }
        finish(k);
        if (!err)
            return list_of(taken, count);
        if (is_closing) {
            open_client(self);
            return NULL;
        }
        if (PyErr_CheckSignals() < 0)
            return NULL;
        if (until == MH_NOW || (until != MH_FOREVER && mh_now() >= until))
            return PyList_New(0);
    }
}

/* ---- questions */

static PyObject *client_engines(PyObject *self, PyObject *unused)
{
    client *k = open_client(self);
    mh_client_engine *found = NULL;
    size_t count = 0, capacity;
    (void)unused;
    if (!k)
        return NULL;
    do { /* more may come meanwhile */
        capacity = count + 16;
        mh_client_engine *more = PyMem_Realloc(found, capacity * sizeof *found);
        if (!more) {
            PyMem_Free(found);
            return PyErr_NoMemory();
        }
        found = more;
        count = capacity;
        enter(k);
        MHPY_UNLOCKED(mh_client_engines(k->c, found, &count));
        finish(k);
    } while (count > capacity);
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict && i < count; i++) {
        PyObject *id = PyLong_FromLongLong((long long)found[i].id), *uuid = PyUnicode_FromString(found[i].uuid);
        if (!id || !uuid || PyDict_SetItem(dict, id, uuid) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(id);
        Py_XDECREF(uuid);
    }
    PyMem_Free(found);
    return dict;
}

static PyObject *client_stats(PyObject *self, PyObject *unused)
{
    client *k = open_client(self);
    mh_client_stats s;
    (void)unused;
    if (!k)
        return NULL;
    enter(k);
    MHPY_UNLOCKED(mh_client_stats_read(k->c, &s));
    finish(k);
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:n,s:n,s:n,s:n,s:K}", "sent", (unsigned long long)s.sent, "received", (unsigned long long)s.received,
                         "refused", (unsigned long long)s.refused, "replayed", (unsigned long long)s.replayed, "out_bytes", (Py_ssize_t)s.out_bytes,
                         "out_count", (Py_ssize_t)s.out_count, "in_bytes", (Py_ssize_t)s.in_bytes, "in_count", (Py_ssize_t)s.in_count,
                         "reconnects", (unsigned long long)s.reconnects);
}

static PyObject *client_fileno(PyObject *self, PyObject *unused)
{
    client *k = open_client(self);
    int fd = -1;
    mh_err err;
    (void)unused;
    if (!k)
        return NULL;
    enter(k);
    MHPY_UNLOCKED(err = mh_client_fd(k->c, &fd));
    PyObject *made = err ? mhpy_raise(err) : PyLong_FromLong(fd);
    finish(k);
    return made;
}

static PyObject *client_closed(PyObject *self, void *unused)
{
    client *k = (client *)self;
    (void)unused;
    return PyBool_FromLong(!k->c || k->is_closing);
}

static PyObject *client_session(PyObject *self, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((client *)self)->session);
}

static PyMethodDef client_methods[] = {
    {"send", client_send, METH_VARARGS,
     "send(channel, type, content, metadata, buffers, engine, track=False, msg_id=None): send a message; its id, or None when there is no room now.\n"
     "With track: that and a Loan. msg_id: it was sent before, and may not have arrived."},
    {"take", client_take, METH_VARARGS, "take(timeout=None): wait for messages; a list of up to 64, empty when none came in time."},
    {"engines", client_engines, METH_NOARGS, "engines(): {id: uuid} of the engines that are registered."},
    {"stats", client_stats, METH_NOARGS, "stats(): counts of messages and bytes."},
    {"fileno", client_fileno, METH_NOARGS, "fileno(): a descriptor that is readable while messages can be taken."},
    {"close", client_close, METH_NOARGS, "close(): send what waits, for up to a second, and end. Calls that wait raise."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef client_getset[] = {
    {"closed", client_closed, NULL, "Whether it was closed.", NULL},
    {"session", client_session, NULL, "What its messages' ids begin with.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot client_slots[] = {
    {Py_tp_new, client_new},
    {Py_tp_dealloc, client_dealloc},
    {Py_tp_methods, client_methods},
    {Py_tp_getset, client_getset},
    {Py_tp_doc, "Client(file=None, text=None, timeout=10.0, username=None): a connection to a controller, by its connection file or that file's text."},
    {0, NULL},
};
static PyType_Spec client_spec = {
    .name = "manyhands.parallel._client.Client",
    .basicsize = sizeof(client),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = client_slots,
};

/* ---- the module -------------------------------------------------------------------------------- */

static bool add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **out)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (out)
        *out = type;
    bool ok = type && PyModule_AddType(module, type) == 0;
    if (!out)
        Py_XDECREF(type);
    return ok;
}

static int execute(PyObject *module)
{
    static const struct {
        const char *name;
        mh_client_channel channel;
    } channels[] = {{"REGISTRATION", MH_CLIENT_REGISTRATION}, {"MUX", MH_CLIENT_MUX}, {"TASK", MH_CLIENT_TASK}, {"CONTROL", MH_CLIENT_CONTROL},
                    {"BROADCAST", MH_CLIENT_BROADCAST}, {"IOPUB", MH_CLIENT_IOPUB}, {"NOTIFICATION", MH_CLIENT_NOTIFICATION}};
    if (mhpy.module) {
        PyErr_SetString(PyExc_ImportError, "manyhands.parallel._client can be used by one interpreter of a process only");
        return -1;
    }
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++)
        if (PyModule_AddIntConstant(module, channels[i].name, (long)channels[i].channel) < 0)
            return -1;
    mhpy.errors = PyImport_ImportModule("manyhands._errors");
    if (!mhpy.errors || !add_type(module, &loan_spec, &loan_type) || !add_type(module, &frame_spec, &frame_type) ||
        !add_type(module, &message_spec, &message_type) || !add_type(module, &client_spec, NULL))
        return -1;
    mhpy.module = module;
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "manyhands.parallel._client",
    .m_doc = "The connection of a client to its controller, in C.",
    .m_size = 0,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__client(void);
PyMODINIT_FUNC PyInit__client(void) { return PyModuleDef_Init(&definition); }
