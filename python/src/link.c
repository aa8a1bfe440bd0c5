/* An executor's end of the pipe to its engine, and its loop (src/cluster/link.h has the layout of messages and says what claims are).
 *
 * A call whose function was seen before and whose arguments and result are plain values begins and ends here, without a line of Python but the function's
 * own. Everything else goes to the executor in Python, which answers with the same bytes: what is done here is what it would do, in fewer steps.
 */
#include "core.h"

#include <stdatomic.h>

#include "manyhands/queue.h"
#include "manyhands/shm.h"

enum { ALIGN = 16, HEAD_SIZE = 8, FRAMES_MAX = 1 << 16, SMALL = 16, CLAIMS = 64 };
enum { FREE = 0, OFFERED, BEGUN, REVOKED };
enum { SETUP = 1, APPLY = 2, REPLY = 17 };
enum {
    LEARN_MAX = 16 << 10, /* bytes of a pickled function up to which it is remembered */
    KNOWN_MAX = 256,      /* functions, and shapes of calls, that are remembered */
    PLAIN_MAX = 1000,     /* values in a result that are looked at before it is taken for one that is not plain */
    PLAIN_DEPTH = 8,
    SHARE_EVERY = 16,     /* messages after which the interpreter's lock is let go of */
    BIG = 1 << 20,        /* bytes from which others run while they are copied */
};

typedef struct joint {
    PyObject_HEAD
    mh_pipe *pipe;
    mh_shm *claims;
    PyThread_type_lock sending; /* messages of several threads do not mix */
    char is_running, has_printed;
    unsigned taken;
    PyObject *functions; /* pickle: a known */
    PyObject *calls;     /* pickle of what follows the function: how many plain arguments, or -1 */
    PyObject *dumps, *serialize, *interrupt, *getsignal;
} joint;

static PyTypeObject *received_type;

/* ---- what came ----------------------------------------------------------------------------------- */

/* The bytes of a message; frames are views of them. */
typedef struct received {
    PyObject_HEAD
    mh_buf *buf;
} received;

static void received_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    mh_buf_destroy(&((received *)self)->buf);
    PyObject_Free(self);
    Py_DECREF(type);
}

static int received_buffer(PyObject *self, Py_buffer *view, int flags)
{
    mh_buf *buf = ((received *)self)->buf;
    return PyBuffer_FillInfo(view, self, mh_buf_data(buf), (Py_ssize_t)mh_buf_size(buf), 1, flags);
}

static PyType_Slot received_slots[] = {
    {Py_tp_dealloc, received_dealloc},
    {Py_bf_getbuffer, received_buffer},
    {0, NULL},
};
static PyType_Spec received_spec = {
    .name = "manyhands._core._Received",
    .basicsize = sizeof(received),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = received_slots,
};

typedef struct message {
    uint32_t kind, count;
    mh_buf *buf;
    mh_bytes few[SMALL], *frames;
} message;

static void clear(message *m)
{
    if (m->frames != m->few)
        PyMem_Free(m->frames);
    m->frames = NULL;
    mh_buf_destroy(&m->buf);
}

/* The engine is ours, but what a task may have done to its pipe is not known. */
static bool parse(message *m)
{
    const unsigned char *bytes = mh_buf_data(m->buf);
    size_t size = mh_buf_size(m->buf), at;
    m->frames = m->few;
    if (size < HEAD_SIZE)
        goto bad;
    memcpy(&m->kind, bytes, 4);
    memcpy(&m->count, bytes + 4, 4);
    if (m->count > FRAMES_MAX || (size - HEAD_SIZE) / 8 < m->count)
        goto bad;
    if (m->count > SMALL && !(m->frames = PyMem_Malloc(m->count * sizeof *m->frames))) {
        PyErr_NoMemory();
        return false;
    }
    at = HEAD_SIZE + 8 * (size_t)m->count;
    for (uint32_t i = 0; i < m->count; i++) {
        uint64_t part;
        memcpy(&part, bytes + HEAD_SIZE + 8 * (size_t)i, sizeof part);
        at = (at + ALIGN - 1) & ~(size_t)(ALIGN - 1);
        if (at > size || part > size - at)
            goto bad;
        m->frames[i] = (mh_bytes){bytes + at, (size_t)part};
        at += (size_t)part;
    }
    if (at == size)
        return true;
bad:
    PyErr_SetString(PyExc_ValueError, "the frames of a message from the engine do not fill it");
    return false;
}

static bool raise_end(mh_err err)
{
    if (err == MH_ERR_CLOSED)
        PyErr_SetString(PyExc_EOFError, "the engine is gone");
    else
        mhpy_raise(err);
    return false;
}

/* Between tasks nobody is there to take what a handler raises. */
static void hear_signals(void)
{
    if (PyErr_CheckSignals() < 0)
        PyErr_WriteUnraisable(NULL);
}

/* Wait for the next message. False with an exception set: EOFError when the engine is gone. */
static bool take(joint *l, message *m)
{
    *m = (message){.frames = m->few};
    mh_err err = mh_pipe_receive(l->pipe, MH_NOW, &m->buf);
    if (++l->taken % SHARE_EVERY == 0) { /* so that other threads run, however much waits here */
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
    while (err == MH_ERR_EMPTY || err == MH_ERR_TIMEOUT || err == MH_ERR_INTERRUPTED) {
        MHPY_UNLOCKED(err = mh_pipe_receive(l->pipe, mh_deadline_in(MHPY_SLICE_NS), &m->buf));
        hear_signals();
    }
    if (err)
        return raise_end(err);
    if (parse(m))
        return true;
    clear(m);
    return false;
}

/* The frames from `first` on as views; the bytes are theirs from now on. */
static PyObject *frames_of(message *m, uint32_t first)
{
    received *owner = PyObject_New(received, received_type);
    if (!owner)
        return NULL;
    owner->buf = m->buf;
    m->buf = NULL;
    const unsigned char *base = mh_buf_data(owner->buf);
    PyObject *list = PyList_New(m->count - first);
    for (uint32_t i = first; list && i < m->count; i++) {
        PyObject *view = mhpy_buffer_view((PyObject *)owner, base, m->frames[i].data, m->frames[i].size, false);
        if (view)
            PyList_SET_ITEM(list, i - first, view);
        else
            Py_CLEAR(list);
    }
    Py_DECREF(owner);
    return list;
}

/* ---- sending ------------------------------------------------------------------------------------- */

static bool send_parts(joint *l, const mh_bytes *parts, size_t count, size_t size)
{
    mh_err err = MH_ERR_FULL;
    if (!PyThread_acquire_lock(l->sending, NOWAIT_LOCK)) {
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(l->sending, WAIT_LOCK);
        Py_END_ALLOW_THREADS
    }
    if (size < BIG)
        err = mh_pipe_send_parts(l->pipe, parts, count, MH_NOW);
    while (err == MH_ERR_FULL || err == MH_ERR_TIMEOUT || err == MH_ERR_INTERRUPTED) /* a message goes whole or not at all */
        MHPY_UNLOCKED(err = mh_pipe_send_parts(l->pipe, parts, count, MH_FOREVER));
    PyThread_release_lock(l->sending);
    if (!err)
        return true;
    if (err == MH_ERR_CLOSED)
        PyErr_SetString(PyExc_BrokenPipeError, "the engine is gone");
    else
        mhpy_raise(err);
    return false;
}

static bool send_message(joint *l, uint32_t kind, const mh_bytes *frames, uint32_t count)
{
    static const char zeros[ALIGN];
    enum { HEAD_MAX = HEAD_SIZE + 8 * SMALL };
    unsigned char few[HEAD_MAX], *head = few;
    mh_bytes few_parts[2 * SMALL + 1], *parts = few_parts;
    bool sent = false;
    size_t at = HEAD_SIZE + 8 * (size_t)count, part = 0;
    if (count > SMALL) {
        head = PyMem_Malloc(at);
        parts = PyMem_Malloc((2 * (size_t)count + 1) * sizeof *parts);
        if (!head || !parts) {
            PyErr_NoMemory();
            goto done;
        }
    }
    memcpy(head, &kind, 4);
    memcpy(head + 4, &count, 4);
    parts[part++] = (mh_bytes){head, at};
    for (uint32_t i = 0; i < count; i++) {
        uint64_t size = frames[i].size;
        size_t gap = (ALIGN - at % ALIGN) % ALIGN;
        memcpy(head + HEAD_SIZE + 8 * (size_t)i, &size, sizeof size);
        if (gap)
            parts[part++] = (mh_bytes){zeros, gap};
        if (size)
            parts[part++] = frames[i];
        at += gap + (size_t)size;
    }
    sent = send_parts(l, parts, part, at);
done:
    if (count > SMALL) {
        PyMem_Free(head);
        PyMem_Free(parts);
    }
    return sent;
}

/* ---- values that need no classes ------------------------------------------------------------------ */

/* A pickle of protocol 4 or 5 that names nothing: whichever unpickler reads it, it says the same. Its numbers may look as if it did. */
static bool names_nothing(mh_bytes p)
{
    const unsigned char *b = p.data;
    return p.size > 3 && b[0] == 0x80 && (b[1] == 4 || b[1] == 5) && !memchr(b + 2, 0x93, p.size - 2);
}

static PyObject *read_plain(mh_bytes p)
{
    const unsigned char *b = p.data;
    if (p.size == 5 && b[2] == 'K' && b[4] == '.')
        return PyLong_FromLong(b[3]);
    if (p.size == 6 && b[2] == 'M' && b[5] == '.')
        return PyLong_FromLong(b[3] | b[4] << 8);
    if (p.size == 4 && b[2] == 'N' && b[3] == '.')
        return Py_NewRef(Py_None);
    PyObject *bytes = PyBytes_FromStringAndSize(p.data, (Py_ssize_t)p.size), *made = bytes ? PyObject_CallOneArg(mhpy.loads, bytes) : NULL;
    Py_XDECREF(bytes);
    return made;
}

/* Exactly such types that canning leaves alone, and pickle too. *left: how many more are looked at. */
static bool is_plain(PyObject *o, int depth, int *left)
{
    Py_ssize_t at = 0;
    PyObject *key, *value;
    if (o == Py_None || PyBool_Check(o) || PyLong_CheckExact(o) || PyFloat_CheckExact(o) || PyUnicode_CheckExact(o))
        return --*left >= 0;
    if (depth == PLAIN_DEPTH || --*left < 0)
        return false;
    if (PyList_CheckExact(o) || PyTuple_CheckExact(o)) {
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(o); i++)
            if (!is_plain(PySequence_Fast_GET_ITEM(o, i), depth + 1, left))
                return false;
        return true;
    }
    if (!PyDict_CheckExact(o) || depth == 0) /* a dict at the top is sorted, which may fail */
        return false;
    while (PyDict_Next(o, &at, &key, &value))
        if (!is_plain(key, depth + 1, left) || !is_plain(value, depth + 1, left))
            return false;
    return true;
}

/* ---- functions ------------------------------------------------------------------------------------ */

/* What a pickled function is here: a tuple that executor.py makes: how it is made; the name and the module that must be there still (or None); its name in there, or
 * its code; the object itself, or the code's globals; its own name, and annotations (or None). */
enum { BY_NAME = 1, BY_CODE = 2, IS_MAP = 3 };
enum { HOW, MODULE_NAME, MODULE, WHAT, OBJECT, NAME, ANNOTATIONS, KNOWN_SIZE };

/* The function of it, as new as if it had been unpickled; NULL without an exception: it must be. */
static PyObject *make_function(PyObject *known)
{
    PyObject **k = &PyTuple_GET_ITEM(known, 0);
    if (k[MODULE_NAME] != Py_None && PyDict_GetItem(PyImport_GetModuleDict(), k[MODULE_NAME]) != k[MODULE])
        return NULL;
    long how = PyLong_AsLong(k[HOW]);
    if (how == BY_CODE) {
        PyObject *f = PyFunction_New(k[WHAT], k[OBJECT]);
        PyObject *annotations = k[ANNOTATIONS] != Py_None ? PyDict_Copy(k[ANNOTATIONS]) : NULL;
        if (f && (PyObject_SetAttrString(f, "__name__", k[NAME]) < 0 || (annotations && PyFunction_SetAnnotations(f, annotations) < 0)))
            Py_CLEAR(f);
        Py_XDECREF(annotations);
        return f;
    }
    PyObject *names = PyModule_GetDict(k[MODULE]);
    return names && PyDict_GetItem(names, k[WHAT]) == k[OBJECT] ? Py_NewRef(k[OBJECT]) : NULL;
}

/* What is known of this pickle, borrowed; `learn`, if there is one, is asked once. NULL without an exception: it is none of those. */
static PyObject *find_known(joint *l, mh_bytes pickle, PyObject *learn)
{
    if (pickle.size > LEARN_MAX)
        return NULL;
    PyObject *key = PyBytes_FromStringAndSize(pickle.data, (Py_ssize_t)pickle.size);
    PyObject *known = key ? PyDict_GetItemWithError(l->functions, key) : NULL, *made;
    if (key && !known && learn && !PyErr_Occurred() && (made = PyObject_CallOneArg(learn, key))) {
        if (PyDict_GET_SIZE(l->functions) >= KNOWN_MAX)
            PyDict_Clear(l->functions);
        if (PyDict_SetItem(l->functions, key, made) == 0)
            known = made;
        Py_DECREF(made);
    }
    Py_XDECREF(key);
    if (!known || known == Py_None)
        return NULL;
    if (PyTuple_CheckExact(known) && PyTuple_GET_SIZE(known) == KNOWN_SIZE)
        return known;
    PyErr_SetString(PyExc_TypeError, "what is known of a function is no such tuple");
    return NULL;
}

/* How many arguments a call has, if each is one buffer and none has a keyword; else -1. -2 with an exception set. */
static long read_shape(joint *l, mh_bytes pickle)
{
    PyObject *key = PyBytes_FromStringAndSize(pickle.data, (Py_ssize_t)pickle.size), *shape = key ? PyDict_GetItemWithError(l->calls, key) : NULL, *said;
    long count = -2;
    if (shape)
        count = PyLong_AsLong(shape);
    else if (key && !PyErr_Occurred() && names_nothing(pickle) && pickle.size < LEARN_MAX && (said = PyObject_CallOneArg(mhpy.loads, key))) {
        PyObject *args = PyDict_Check(said) ? PyDict_GetItemString(said, "nargs") : NULL, *bufs = args ? PyDict_GetItemString(said, "narg_bufs") : NULL;
        PyObject *keys = bufs ? PyDict_GetItemString(said, "kw_keys") : NULL;
        bool is_simple = keys && PyList_Check(keys) && !PyList_GET_SIZE(keys) && PyLong_Check(args) && PyLong_Check(bufs);
        count = is_simple && PyLong_AsLong(args) == PyLong_AsLong(bufs) ? PyLong_AsLong(args) : -1;
        if (PyErr_Occurred())
            count = -1;
        PyErr_Clear();
        Py_DECREF(said);
        if (PyDict_GET_SIZE(l->calls) >= KNOWN_MAX)
            PyDict_Clear(l->calls);
        PyObject *number = PyLong_FromLong(count);
        if (!number || PyDict_SetItem(l->calls, key, number) < 0)
            count = -2;
        Py_XDECREF(number);
    } else if (key && !PyErr_Occurred()) {
        count = -1;
    }
    Py_XDECREF(key);
    return count;
}

/* ---- a call --------------------------------------------------------------------------------------- */

typedef struct call {
    PyObject *function, *args[SMALL];
    Py_ssize_t count;
} call;

static void drop(call *c)
{
    Py_CLEAR(c->function);
    while (c->count)
        Py_DECREF(c->args[--c->count]);
}

/* Whether it can be read here; not: it is read in Python, which also tells what is wrong with it. */
static bool read_call(joint *l, const mh_bytes *frames, size_t count, PyObject *learn, call *c)
{
    *c = (call){0};
    if (count < 2 || count > SMALL)
        return false;
    PyObject *known = find_known(l, frames[0], learn);
    if (!known)
        return false;
    bool is_map = PyLong_AsLong(PyTuple_GET_ITEM(known, HOW)) == IS_MAP;
    c->function = make_function(known);
    long said = c->function ? read_shape(l, frames[1]) : -1;
    bool is_read = said >= 0 && (size_t)said == count - 2;
    for (long i = 0; is_read && i < said; i++) {
        mh_bytes frame = frames[2 + i];
        PyObject *argument = NULL, *named = names_nothing(frame) ? NULL : find_known(l, frame, is_map && i == 0 ? learn : NULL);
        if (named)
            argument = make_function(named);
        else if (names_nothing(frame))
            argument = read_plain(frame);
        if (argument)
            c->args[c->count++] = argument;
        is_read = argument != NULL;
    }
    if (!is_read)
        drop(c);
    return is_read;
}

/* The buffers of a result: one in the common case, which *bytes keeps. False with an exception set. */
static bool dump(joint *l, PyObject *result, PyObject **kept, mh_bytes *frame, PyObject **many)
{
    int left = PLAIN_MAX;
    *many = *kept = NULL;
    if (is_plain(result, 0, &left)) {
        *kept = PyObject_CallOneArg(l->dumps, result);
        if (*kept)
            *frame = (mh_bytes){PyBytes_AS_STRING(*kept), (size_t)PyBytes_GET_SIZE(*kept)};
        return *kept;
    }
    *many = PyObject_CallOneArg(l->serialize, result);
    return *many;
}

/* Interrupts reach what a task does, and nothing else: the handler that executor.py has set looks at is_running. A task may have set another. */
static bool restore_handler(joint *l)
{
    PyObject *number = PyLong_FromLong(2), *now = number ? PyObject_CallOneArg(l->getsignal, number) : NULL;
    bool ok = now != NULL;
    if (now && now != l->interrupt) {
        PyObject *set = PyImport_ImportModule("_signal"), *old = set ? PyObject_CallMethod(set, "signal", "OO", number, l->interrupt) : NULL;
        ok = old;
        Py_XDECREF(set);
        Py_XDECREF(old);
    }
    Py_XDECREF(now);
    Py_XDECREF(number);
    return ok;
}

static bool send_frames(joint *l, uint32_t kind, PyObject *frames);

static void set_free(joint *l, uint32_t claim)
{
    if (claim < CLAIMS)
        atomic_store_explicit((_Atomic uint32_t *)mh_shm_data(l->claims) + claim, FREE, memory_order_release);
}

/* The answer to a call that failed. */
static bool send_failure(joint *l, PyObject *executor, PyObject *exception, uint32_t claim)
{
    PyObject *frames = PyObject_CallMethod(executor, "failure", "O", exception); /* it publishes the exception, and flushes */
    set_free(l, claim);
    bool sent = frames && send_frames(l, REPLY, frames);
    Py_XDECREF(frames);
    return sent;
}

static bool send_result(joint *l, PyObject *many, mh_bytes frame)
{
    static const char ok[] = "{\"status\": \"ok\"}";
    mh_bytes frames[3] = {{ok, sizeof ok - 1}, {"1", 1}, frame};
    if (!many)
        return send_message(l, REPLY, frames, 3);
    PyObject *all = Py_BuildValue("[yy]", ok, "1"), *whole = all ? PySequence_Concat(all, many) : NULL;
    bool sent = whole && send_frames(l, REPLY, whole);
    Py_XDECREF(all);
    Py_XDECREF(whole);
    return sent;
}

/* What was printed comes before the answer. */
static bool flush(joint *l, PyObject *executor)
{
    if (!l->has_printed)
        return true;
    PyObject *done = PyObject_CallMethod(executor, "flush", NULL);
    Py_XDECREF(done);
    return done;
}

static bool run_call(joint *l, call *c, PyObject *executor, uint32_t claim)
{
    PyObject *kept = NULL, *many = NULL;
    mh_bytes frame = {0};
    if (!restore_handler(l))
        return false;
    hear_signals(); /* which were meant for the task before */
    l->is_running = true;
    PyObject *result = PyObject_Vectorcall(c->function, c->args, (size_t)c->count, NULL);
    bool is_good = result && dump(l, result, &kept, &frame, &many);
    l->is_running = false;
    PyObject *exception = is_good ? NULL : mhpy_take_exception();
    bool sent = is_good || exception;
    if (exception) {
        sent = send_failure(l, executor, exception, claim);
    } else if (sent) {
        sent = flush(l, executor);
        set_free(l, claim);
        sent = sent && send_result(l, many, frame);
    }
    Py_XDECREF(exception);
    Py_XDECREF(result);
    Py_XDECREF(kept);
    Py_XDECREF(many);
    return sent;
}

/* Whether the call behind this claim is still to be begun; it is then. */
static bool begin(joint *l, const message *m, uint32_t *claim)
{
    uint32_t offered = OFFERED;
    *claim = CLAIMS;
    if (!m->count || m->frames[0].size != sizeof *claim)
        return true;
    memcpy(claim, m->frames[0].data, sizeof *claim);
    if (*claim >= CLAIMS)
        return true;
    if (atomic_compare_exchange_strong((_Atomic uint32_t *)mh_shm_data(l->claims) + *claim, &offered, BEGUN))
        return true;
    set_free(l, *claim);
    return false;
}

static bool serve_in_python(joint *l, message *m, PyObject *executor, uint32_t claim)
{
    PyObject *frames = frames_of(m, 0);
    PyObject *answer = frames && restore_handler(l) ? PyObject_CallMethod(executor, "answer", "IO", (unsigned)m->kind, frames) : NULL;
    Py_XDECREF(frames);
    l->is_running = false;
    set_free(l, claim);
    bool sent = answer && send_frames(l, REPLY, answer);
    Py_XDECREF(answer);
    return sent;
}

static bool serve_one(joint *l, message *m, PyObject *executor, PyObject *learn)
{
    uint32_t claim = CLAIMS;
    call c = {0};
    if (m->kind != APPLY)
        return serve_in_python(l, m, executor, claim);
    if (!begin(l, m, &claim))
        return true;
    if (read_call(l, m->frames + 1, m->count ? m->count - 1 : 0, learn, &c)) {
        bool sent = run_call(l, &c, executor, claim);
        drop(&c);
        return sent;
    }
    PyErr_Clear();
    return serve_in_python(l, m, executor, claim);
}

static PyObject *link_serve(PyObject *self, PyObject *executor)
{
    joint *l = (joint *)self;
    PyObject *learn = PyObject_GetAttrString(executor, "learn");
    Py_XSETREF(l->serialize, PyObject_GetAttrString(executor, "serialize"));
    Py_XSETREF(l->interrupt, PyObject_GetAttrString(executor, "interrupt"));
    bool goes_on = learn && l->serialize && l->interrupt;
    while (goes_on) {
        message m;
        goes_on = take(l, &m);
        if (goes_on) {
            goes_on = serve_one(l, &m, executor, learn);
            clear(&m);
        }
    }
    Py_XDECREF(learn);
    return NULL;
}

/* ---- for Python ----------------------------------------------------------------------------------- */

static bool send_frames(joint *l, uint32_t kind, PyObject *frames)
{
    PyObject *fast = PySequence_Fast(frames, "frames must be a sequence");
    Py_ssize_t count = fast ? PySequence_Fast_GET_SIZE(fast) : 0, got = 0;
    if (!fast)
        return false;
    Py_buffer *views = PyMem_Calloc((size_t)count + 1, sizeof *views);
    mh_bytes *parts = PyMem_Calloc((size_t)count + 1, sizeof *parts);
    bool sent = views && parts;
    if (!sent)
        PyErr_NoMemory();
    if (sent && count > FRAMES_MAX) {
        PyErr_Format(PyExc_ValueError, "%zd frames for an engine: at most %d", count, FRAMES_MAX);
        sent = false;
    }
    for (; sent && got < count; got++) {
        sent = PyObject_GetBuffer(PySequence_Fast_GET_ITEM(fast, got), &views[got], PyBUF_SIMPLE) == 0;
        if (!sent)
            break;
        parts[got] = (mh_bytes){views[got].buf, (size_t)views[got].len};
    }
    sent = sent && send_message(l, kind, parts, (uint32_t)count);
    while (got)
        PyBuffer_Release(&views[--got]);
    PyMem_Free(views);
    PyMem_Free(parts);
    Py_DECREF(fast);
    return sent;
}

static PyObject *link_send(PyObject *self, PyObject *args)
{
    unsigned kind;
    PyObject *frames;
    if (!PyArg_ParseTuple(args, "IO", &kind, &frames) || !send_frames((joint *)self, kind, frames))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *link_receive(PyObject *self, PyObject *unused)
{
    message m;
    (void)unused;
    if (!take((joint *)self, &m))
        return NULL;
    PyObject *frames = frames_of(&m, 0), *pair = frames ? Py_BuildValue("IO", (unsigned)m.kind, frames) : NULL;
    Py_XDECREF(frames);
    clear(&m);
    return pair;
}

static PyObject *attribute(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name), *found = module ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return found;
}

static PyObject *link_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    mh_pipe_parts parts;
    int claims;
    if ((kwargs && PyDict_GET_SIZE(kwargs)) || !PyArg_ParseTuple(args, "iiIi", &parts.memory, &parts.socket, &parts.side, &claims)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "EngineLink takes no keywords");
        return NULL;
    }
    joint *l = (joint *)type->tp_alloc(type, 0);
    if (!l)
        return NULL;
    l->sending = PyThread_allocate_lock();
    l->functions = PyDict_New();
    l->calls = PyDict_New();
    l->dumps = attribute("_pickle", "dumps");
    l->getsignal = attribute("_signal", "getsignal");
    mh_err err = MH_OK;
    bool ok = l->sending && l->functions && l->calls && l->dumps && l->getsignal;
    if (ok) {
        err = mh_shm_from_fd(&l->claims, claims, 0);
        if (!err)
            err = mh_pipe_attach(&l->pipe, parts);
    }
    if (!err && ok && mh_shm_size(l->claims) < CLAIMS * sizeof(uint32_t)) {
        PyErr_SetString(PyExc_ValueError, "the memory for claims is too small");
        ok = false;
    }
    if (err)
        mhpy_raise(err);
    if (err || !ok)
        Py_CLEAR(l);
    return (PyObject *)l;
}

static void link_dealloc(PyObject *self)
{
    joint *l = (joint *)self;
    PyTypeObject *type = Py_TYPE(self);
    mh_pipe_destroy(&l->pipe);
    mh_shm_destroy(&l->claims);
    if (l->sending)
        PyThread_free_lock(l->sending);
    Py_XDECREF(l->functions);
    Py_XDECREF(l->calls);
    Py_XDECREF(l->dumps);
    Py_XDECREF(l->getsignal);
    Py_XDECREF(l->serialize);
    Py_XDECREF(l->interrupt);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef link_methods[] = {
    {"send", link_send, METH_VARARGS, "send(kind, frames): send a message. BrokenPipeError when the engine is gone. Any thread may."},
    {"receive", link_receive, METH_NOARGS, "receive(): wait for a message: its kind and a list of views. EOFError when the engine is gone."},
    {"serve", link_serve, METH_O,
     "serve(executor): answer requests until the engine is gone, with EOFError or BrokenPipeError. Calls of known functions with plain arguments are run at\n"
     "once; for the rest there is executor.answer(kind, frames), which gives the frames of the reply. See manyhands.parallel.engine.executor."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef link_members[] = {
    {"is_running", T_BOOL, offsetof(joint, is_running), 0, "Whether an interrupt is for the task that runs now."},
    {"has_printed", T_BOOL, offsetof(joint, has_printed), 0, "Whether something was printed that is to be flushed before the answer."},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot link_slots[] = {
    {Py_tp_new, link_new},
    {Py_tp_dealloc, link_dealloc},
    {Py_tp_methods, link_methods},
    {Py_tp_members, link_members},
    {Py_tp_doc, "EngineLink(memory, socket, side, claims): an executor's end of the pipe to its engine, by the numbers that the engine gave it."},
    {0, NULL},
};
static PyType_Spec link_spec = {
    .name = "manyhands._core.EngineLink",
    .basicsize = sizeof(joint),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = link_slots,
};

bool mhpy_link_add(PyObject *module)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &link_spec, NULL);
    received_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &received_spec, NULL);
    bool ok = type && received_type && PyModule_AddType(module, type) == 0;
    Py_XDECREF(type);
    return ok;
}
