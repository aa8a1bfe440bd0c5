/* imap and imap_unordered: lazy. Items are pulled from the iterable only a bounded number of tasks ahead of the consumer; the bound
 * grows only while the consumer has to wait for results.
 */
#include "core.h"

enum { RESULTS = 64, WINDOW_MAX_EACH = 256 };
#define FLIGHT_BYTES ((size_t)48 << 20)

typedef struct imap {
    PyObject_HEAD
    PyObject *weakrefs;
    mhpy_pool *pool;
    mh_stream *stream;
    mhpy_function function;
    PyObject *callable, *iterator; /* iterator is NULL once it is exhausted */
    PyObject *ready;               /* number of a task -> its list of results, or the tuple (exception,) */
    PyObject *current;             /* the list that is being handed out */
    Py_ssize_t current_at, chunk;
    uint64_t submitted, consumed; /* numbers of tasks; consumed: their results began to be handed out */
    size_t flying, window, window_max, sent_bytes;
    uint8_t op;
    bool ordered, begun, ended;
    PyThread_type_lock busy; /* one thread at a time */
    PyObject *notify, *mailbox; /* notify: to be called once when a result has come */
    mhpy_letter letter;
} imap;

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    imap *m = (imap *)self;
    Py_VISIT(m->pool);
    Py_VISIT(m->callable);
    Py_VISIT(m->iterator);
    Py_VISIT(m->ready);
    Py_VISIT(m->current);
    Py_VISIT(m->notify);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void release(imap *m)
{
    if (m->stream) {
        Py_BEGIN_ALLOW_THREADS
        mh_stream_destroy(&m->stream); /* cancels what has not started */
        Py_END_ALLOW_THREADS
    }
    if (m->pool && m->flying == 0)
        mhpy_function_drop(m->pool, &m->function);
    Py_CLEAR(m->iterator);
    Py_CLEAR(m->callable);
}

static int clear(PyObject *self)
{
    imap *m = (imap *)self;
    release(m);
    m->ended = true;
    Py_CLEAR(m->ready);
    Py_CLEAR(m->current);
    Py_CLEAR(m->notify);
    Py_CLEAR(m->pool);
    return 0;
}

static void dealloc(PyObject *self)
{
    imap *m = (imap *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (m->weakrefs)
        PyObject_ClearWeakRefs(self);
    clear(self);
    if (m->busy)
        PyThread_free_lock(m->busy);
    Py_XDECREF(m->mailbox);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- feeding ------------------------------------------------------------------------------------------------ */

/* Keep what task `number` came to: a list, or NULL for the exception that is set. False with an exception set. */
static bool keep(imap *m, uint64_t number, PyObject *list)
{
    PyObject *key = PyLong_FromUnsignedLongLong(number), *value = list;
    if (!list) {
        PyObject *exception = mhpy_take_exception();
        value = exception ? PyTuple_Pack(1, exception) : NULL;
        Py_XDECREF(exception);
    }
    bool ok = key && value && PyDict_SetItem(m->ready, key, value) == 0;
    Py_XDECREF(key);
    Py_XDECREF(value);
    return ok;
}

/* The iterable's next chunk; NULL without an exception at its end. A chunk in which it raises is dropped, as in the standard library. */
static PyObject *pull(imap *m)
{
    PyObject *list = PyList_New(0);
    while (list && PyList_GET_SIZE(list) < m->chunk) {
        PyObject *item = PyIter_Next(m->iterator);
        if (!item)
            break;
        if (PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_DECREF(item);
    }
    if (list && (PyErr_Occurred() || PyList_GET_SIZE(list) == 0))
        Py_CLEAR(list);
    return list;
}

/* No more items are pulled; after what was handed in comes the exception that is set. */
static bool cut(imap *m)
{
    Py_CLEAR(m->iterator);
    return keep(m, m->submitted++, NULL);
}

/* Hand in one chunk. False with an exception set. */
static bool submit(imap *m, PyObject *list)
{
    mhpy_room room = {.pool = m->pool->pool};
    size_t size;
    uint64_t number = m->submitted++;
    Py_ssize_t count = PyList_GET_SIZE(list);
    mhpy_watch watch = mhpy_watch_begin(m->pool, m->chunk == 1);
    bool packed = mhpy_pack(&room, &m->function, m->op, 0, ((PyListObject *)list)->ob_item, count, &size);
    mhpy_watch_end(m->pool, watch);
    if (!packed) {
        mhpy_room_close(&room);
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return false;
        mhpy_blame("items from number", (Py_ssize_t)number * m->chunk, m->callable);
        return keep(m, number, NULL);
    }
    mh_err err;
    Py_BEGIN_ALLOW_THREADS
    if (room.block)
        err = mh_stream_submit_block(m->stream, &room.block, size, number);
    else
        err = mh_stream_submit(m->stream, (mh_bytes){room.space, size}, number);
    Py_END_ALLOW_THREADS
    mhpy_room_close(&room);
    if (err) {
        mhpy_raise(err);
        return false;
    }
    m->sent_bytes += size;
    m->flying++;
    return true;
}

static bool may_submit(const imap *m)
{
    size_t ahead = (size_t)(m->submitted - m->consumed), few = 2 * m->pool->workers;
    if (!m->iterator || ahead >= m->window || m->flying >= m->window_max)
        return false;
    return ahead < few || m->window > m->window_max || m->flying * (m->sent_bytes / m->submitted) < FLIGHT_BYTES;
}

/* False with an exception set that is nobody's result (an interrupt, a pool that was terminated). */
static bool feed(imap *m)
{
    while (may_submit(m)) {
        PyObject *list = pull(m);
        if (list) {
            bool ok = submit(m, list);
            Py_DECREF(list);
            if (ok)
                continue;
            if (!PyErr_ExceptionMatches(PyExc_Exception))
                return false;
            Py_CLEAR(m->iterator);
            return keep(m, m->submitted - 1, NULL); /* a pool that takes no more: the last result says why */
        }
        if (!PyErr_Occurred()) {
            Py_CLEAR(m->iterator);
            return true;
        }
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return false;
        return cut(m); /* the iterable's exception is its last result */
    }
    return true;
}

/* ---- collecting ---------------------------------------------------------------------------------------------- */

static PyObject *list_of_result(mh_result *r)
{
    mhpy_reply_head head;
    uint32_t count = 1; /* of a failed task: any */
    if (!r->err && r->reply.size >= sizeof head + 8)
        memcpy(&count, (const unsigned char *)r->reply.data + sizeof head + 4, sizeof count);
    PyObject *list = PyList_New((Py_ssize_t)count);
    if (!list)
        return NULL;
    PyObject_GC_UnTrack(list);
    bool ok = mhpy_take_items(r, list, 0, (Py_ssize_t)count, NULL);
    PyObject_GC_Track(list);
    if (!ok)
        Py_CLEAR(list);
    return list;
}

/* Wait no longer than `until` for the next results, and keep them. */
static bool collect(imap *m, mh_deadline until)
{
    mh_result results[RESULTS];
    size_t count = 0;
    mh_err err;
    Py_BEGIN_ALLOW_THREADS
    err = mh_stream_take_many(m->stream, until, results, RESULTS, &count);
    Py_END_ALLOW_THREADS
    if (err == MH_ERR_TIMEOUT || err == MH_ERR_INTERRUPTED || err == MH_ERR_EMPTY)
        return PyErr_CheckSignals() == 0;
    if (err) {
        mhpy_raise(err);
        return false;
    }
    bool ok = true;
    mhpy_watch watch = mhpy_watch_begin(m->pool, false);
    for (size_t i = 0; i < count; i++) {
        uint64_t number = results[i].tag;
        m->flying--;
        PyObject *list = ok ? list_of_result(&results[i]) : NULL;
        ok = ok && (list || PyErr_ExceptionMatches(PyExc_Exception)) && keep(m, number, list);
    }
    mhpy_watch_end(m->pool, watch);
    MHPY_UNLOCKED(mh_results_release(results, count));
    return ok && PyErr_CheckSignals() == 0;
}

/* The result that is due, taken out of `ready`; NULL when it is not there. */
static PyObject *take_due(imap *m)
{
    PyObject *key = NULL, *value = NULL;
    if (m->ordered) {
        key = PyLong_FromUnsignedLongLong(m->consumed);
        value = key ? PyDict_GetItemWithError(m->ready, key) : NULL;
    } else {
        Py_ssize_t at = 0;
        if (PyDict_Next(m->ready, &at, &key, &value))
            Py_INCREF(key);
    }
    if (value) {
        Py_INCREF(value);
        if (PyDict_DelItem(m->ready, key) < 0)
            Py_CLEAR(value);
        m->consumed++;
    }
    Py_XDECREF(key);
    return value;
}

static bool tell_pool(imap *m, const char *what)
{
    PyObject *answer = m->pool ? PyObject_CallMethod((PyObject *)m->pool, what, "O", m) : Py_NewRef(Py_None);
    Py_XDECREF(answer);
    return answer;
}

/* No more results: let everything go. */
static void end(imap *m)
{
    if (m->ended)
        return;
    m->ended = true;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    release(m);
    if (!tell_pool(m, "_lazy_ended"))
        PyErr_WriteUnraisable((PyObject *)m);
    Py_CLEAR(m->pool);
    PyErr_Restore(type, value, traceback);
}

/* ---- handing out ----------------------------------------------------------------------------------------------- */

/* The next item of the list that is being handed out; NULL without an exception when there is none. */
static PyObject *from_current(imap *m)
{
    if (!m->current)
        return NULL;
    if (m->current_at == PyList_GET_SIZE(m->current)) {
        Py_CLEAR(m->current);
        return NULL;
    }
    PyObject *item = PyList_GET_ITEM(m->current, m->current_at);
    PyList_SET_ITEM(m->current, m->current_at++, Py_NewRef(Py_None));
    return item;
}

/* Begin to hand out what is due. False when nothing is; with an exception set when that is what is due. */
static bool begin_due(imap *m)
{
    PyObject *due = take_due(m);
    if (!due)
        return false;
    if (PyTuple_Check(due)) {
        mhpy_raise_object(Py_NewRef(PyTuple_GET_ITEM(due, 0)));
        Py_DECREF(due);
        return false;
    }
    Py_XSETREF(m->current, due);
    m->current_at = 0;
    return true;
}

static void *raise_timeout(void)
{
    PyObject *class = mhpy_error_class("TimeoutError");
    if (class)
        PyErr_SetNone(class);
    Py_XDECREF(class);
    return NULL;
}

/* Feed and wait a slice. False with an exception set. */
static bool wait_a_little(imap *m, mh_deadline until)
{
    if (!feed(m))
        return false;
    if (!m->flying)
        return true;
    mh_deadline slice = mh_deadline_in(MHPY_SLICE_NS);
    if (!collect(m, MH_NOW))
        return false;
    if (PyDict_GET_SIZE(m->ready))
        return true;
    m->window = m->window * 2 < m->window_max ? m->window * 2 : m->window_max; /* the consumer is faster than the workers */
    return feed(m) && collect(m, slice < until ? slice : until);
}

static PyObject *next_item(imap *m, mh_deadline until)
{
    for (;;) {
        PyObject *item = from_current(m);
        if (item || PyErr_Occurred())
            return item;
        if (begin_due(m))
            continue;
        if (PyErr_Occurred())
            return NULL;
        if (m->ended)
            return NULL;
        if (!m->iterator && m->consumed == m->submitted) {
            end(m);
            return NULL;
        }
        if (!wait_a_little(m, until))
            return NULL;
        if (until != MH_FOREVER && mh_now() >= until && !begin_due(m)) {
            if (!PyErr_Occurred() && (m->iterator || m->consumed != m->submitted))
                return raise_timeout();
        }
        if (PyErr_Occurred())
            return NULL;
    }
}

/* Enter: one thread at a time. False with an exception set. */
static bool enter(imap *m)
{
    while (!PyThread_acquire_lock(m->busy, NOWAIT_LOCK)) {
        PyLockStatus got;
        Py_BEGIN_ALLOW_THREADS
        got = PyThread_acquire_lock_timed(m->busy, MHPY_SLICE_NS / 1000, 0);
        Py_END_ALLOW_THREADS
        if (got == PY_LOCK_ACQUIRED)
            break;
        if (PyErr_CheckSignals() < 0)
            return false;
    }
    return true;
}

static PyObject *next_until(imap *m, mh_deadline until)
{
    if (!enter(m))
        return NULL;
    Py_INCREF(m); /* the pool may hold the last reference, and lets go of it */
    PyObject *item = NULL;
    if (!m->begun) {
        m->begun = true;
        if (!tell_pool(m, "_lazy_begun"))
            goto out;
    }
    item = next_item(m, until);
    if (item && !m->ended && m->submitted - m->consumed <= m->window / 2 && !feed(m)) { /* keep the workers busy meanwhile */
        PyList_SetItem(m->current, --m->current_at, item); /* an interrupt: the item is still to come */
        item = NULL;
    }
out:
    PyThread_release_lock(m->busy);
    Py_DECREF(m);
    return item;
}

static PyObject *iter_next(PyObject *self) { return next_until((imap *)self, MH_FOREVER); }

static PyObject *next_method(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"timeout", NULL};
    PyObject *timeout = Py_None;
    mh_deadline until;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O", names, &timeout) || !mhpy_deadline(timeout, &until))
        return NULL;
    PyObject *item = next_until((imap *)self, until);
    if (!item && !PyErr_Occurred())
        PyErr_SetNone(PyExc_StopIteration);
    return item;
}

/* ---- being told -------------------------------------------------------------------------------------------------- */

/* By the callback thread. */
static void deliver(PyObject *self)
{
    imap *m = (imap *)self;
    PyObject *notify = m->notify;
    m->notify = NULL;
    PyObject *answer = notify ? PyObject_CallNoArgs(notify) : NULL;
    if (notify && !answer)
        PyErr_WriteUnraisable(notify);
    Py_XDECREF(answer);
    Py_XDECREF(notify);
}

/* From whichever thread drives the pool, without the interpreter's lock. The letter keeps m. */
static void announce(void *ctx)
{
    imap *m = ctx;
    mhpy_mailbox_post(m->mailbox, &m->letter);
}

/* fn is called from the callback thread when a result has come that was not yet looked at, or when none can come any more. */
static PyObject *when_ready(PyObject *self, PyObject *function)
{
    imap *m = (imap *)self;
    if (m->notify) {
        PyErr_SetString(PyExc_RuntimeError, "somebody waits for this iterator's next result already");
        return NULL;
    }
    if (m->ended || !m->pool || !m->stream)
        return PyObject_CallNoArgs(function);
    PyObject *started = PyObject_CallMethod((PyObject *)m->pool, "_start_callbacks", NULL);
    if (!started)
        return NULL;
    Py_DECREF(started);
    if (!enter(m)) /* else another thread's end takes the stream away */
        return NULL;
    mh_err err = MH_OK;
    if (!m->stream || m->notify) {
        PyThread_release_lock(m->busy);
        return PyObject_CallNoArgs(function);
    }
    m->notify = Py_NewRef(function);
    Py_XSETREF(m->mailbox, Py_NewRef(m->pool->mailbox));
    m->letter.deliver = deliver;
    mhpy_mailbox_expect(m->mailbox, &m->letter, self);
    MHPY_UNLOCKED(err = mh_stream_on_result(m->stream, announce, m));
    PyThread_release_lock(m->busy);
    if (err)
        announce(m); /* rather too early than never */
    Py_RETURN_NONE;
}

static PyObject *async_iterator(PyObject *self)
{
    PyObject *module = PyImport_ImportModule("manyhands.asyncio");
    PyObject *iterator = module ? PyObject_CallMethod(module, "_iterate", "O", self) : NULL;
    Py_XDECREF(module);
    return iterator;
}

/* Run everything and keep the results: for a pool that is joined before its iterators were consumed. */
static PyObject *drain(PyObject *self, PyObject *unused)
{
    (void)unused;
    imap *m = (imap *)self;
    if (!enter(m))
        return NULL;
    bool ok = true;
    m->window = SIZE_MAX / 2;
    while (ok && !m->ended && (m->iterator || m->flying))
        ok = feed(m) && (!m->flying || collect(m, mh_deadline_in(MHPY_SLICE_NS)));
    if (ok && !m->ended)
        end(m);
    PyThread_release_lock(m->busy);
    if (!ok)
        return NULL;
    Py_RETURN_NONE;
}

/* Pull no more items, for the pool is about to close; whoever goes on consuming is told. */
static PyObject *stop(PyObject *self, PyObject *unused)
{
    (void)unused;
    imap *m = (imap *)self;
    if (!enter(m))
        return NULL;
    bool ok = true;
    if (m->iterator) {
        PyErr_SetString(PyExc_RuntimeError, "the pool was shut down before the iterable was exhausted");
        ok = cut(m);
    }
    PyThread_release_lock(m->busy);
    if (!ok)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"next", MHPY_METHOD(next_method), METH_VARARGS | METH_KEYWORDS,
     "next($self, /, timeout=None)\n--\n\nThe next result; TimeoutError after timeout seconds."},
    {"_when_ready", when_ready, METH_O, "_when_ready(fn): call fn() when a result has come."},
    {"_stop", stop, METH_NOARGS, "Pull no more items."},
    {"_drain", drain, METH_NOARGS, "Run everything and keep the results."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(imap, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iter_next},
    {Py_am_aiter, async_iterator},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_doc, "The results of imap or imap_unordered."},
    {0, NULL},
};
PyType_Spec mhpy_imap_spec = {
    .name = "manyhands._core.IMapIterator",
    .basicsize = sizeof(imap),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

/* ---- the call ------------------------------------------------------------------------------------------------- */

static bool open_imap(imap *m, PyObject *iterable, Py_ssize_t ahead, const mh_submit_options *options)
{
    m->ready = PyDict_New();
    m->busy = PyThread_allocate_lock();
    m->iterator = PyObject_GetIter(iterable);
    if (!m->ready || !m->busy || !m->iterator || !mhpy_function_share(m->pool, m->callable, &m->function))
        return false;
    size_t workers = m->pool->workers;
    m->window = 4 * workers;
    m->window_max = WINDOW_MAX_EACH * workers;
    if (ahead > 0) {
        m->window = (size_t)ahead;
        m->window_max = m->window > m->window_max ? m->window : m->window_max;
    }
    mh_stream_options stream = {.ordered = false, .window = m->window_max, .defaults = *options};
    mh_err err;
    Py_BEGIN_ALLOW_THREADS
    err = mh_stream_create(&m->stream, m->pool->pool, &stream);
    Py_END_ALLOW_THREADS
    if (err)
        mhpy_raise(err);
    return !err && feed(m) && tell_pool(m, "_lazy_made");
}

PyObject *mhpy_imap(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"func", "iterable", "chunksize", "ordered", "timeout", "retries", "memory", "star", "ahead", NULL};
    PyObject *function, *iterable, *timeout = NULL, *retries = NULL, *memory = NULL;
    Py_ssize_t chunk, ahead = 0;
    int ordered, star = 0;
    mh_submit_options options;
    mhpy_pool *p = (mhpy_pool *)self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOnp|OOOpn", names, &function, &iterable, &chunk, &ordered, &timeout, &retries, &memory,
                                     &star, &ahead) ||
        !mhpy_check_running(p) || !mhpy_submit_options(p, timeout, retries, memory, &options))
        return NULL;
    imap *m = (imap *)mhpy.imap_type->tp_alloc(mhpy.imap_type, 0);
    if (!m)
        return NULL;
    m->pool = (mhpy_pool *)Py_NewRef(p);
    m->callable = Py_NewRef(function);
    m->chunk = chunk;
    m->ordered = ordered;
    m->op = star ? MHPY_OP_STARMAP : MHPY_OP_MAP;
    if (open_imap(m, iterable, ahead, &options))
        return (PyObject *)m;
    Py_DECREF(m);
    return NULL;
}
