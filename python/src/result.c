/* AsyncResult: what apply_async, map_async and starmap_async return. One future for each task, decoded when somebody looks. */
#include "core.h"

#include <stdatomic.h>

enum { PENDING, TAKING, DONE_OK, DONE_FAILED };
enum { NEAR_BYTES = 128 }; /* a reply that lies in its slot */

typedef struct result {
    PyObject_HEAD
    PyObject *weakrefs;
    mhpy_pool *pool; /* until it is settled */
    mh_future **futures;
    mh_future *single; /* where futures points for one task */
    Py_ssize_t count, first_open; /* futures before first_open are known to be done */
    Py_ssize_t chunk, items;      /* of a map: items in each task, and in all; items is -1 for a call */
    mhpy_function function;       /* of a map, to be dropped at its end */
    PyObject *value;              /* once settled: the result or the exception */
    int state;                    /* under the interpreter's lock */
    int waiters;                  /* threads inside mh_future_wait: the futures stay */
    PyThread_type_lock settled;   /* held until it is settled; made when somebody has to wait for another thread */
    PyObject *callback, *error_callback, *mailbox;
    PyObject *more; /* functions to be called with it once it is settled and its callbacks were called */
    mhpy_letter letter;
    atomic_size_t open; /* tasks whose end was not yet announced */
} result;

static result *create(mhpy_pool *pool)
{
    result *r = (result *)mhpy.async_result_type->tp_alloc(mhpy.async_result_type, 0);
    if (!r)
        return NULL;
    r->pool = (mhpy_pool *)Py_NewRef(pool);
    r->futures = &r->single;
    r->items = -1;
    PyObject_GC_UnTrack(r); /* without callbacks or containers it is in no cycle, and collections need not visit it */
    return r;
}

static void drop_futures(result *r)
{
    if (r->waiters)
        return; /* the last of them does it */
    mh_future **futures = r->futures;
    Py_ssize_t count = r->count;
    r->futures = &r->single;
    r->count = 0; /* first: another thread may come by while the futures are released */
    if (count)
        MHPY_UNLOCKED(for (Py_ssize_t i = 0; i < count; i++) mh_future_release(&futures[i]));
    if (futures != &r->single)
        PyMem_Free(futures);
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    result *r = (result *)self;
    Py_VISIT(r->pool);
    Py_VISIT(r->value);
    Py_VISIT(r->callback);
    Py_VISIT(r->error_callback);
    Py_VISIT(r->more);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int clear(PyObject *self)
{
    result *r = (result *)self;
    Py_CLEAR(r->value);
    Py_CLEAR(r->callback);
    Py_CLEAR(r->error_callback);
    Py_CLEAR(r->more);
    return 0;
}

static void dealloc(PyObject *self)
{
    result *r = (result *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (r->weakrefs)
        PyObject_ClearWeakRefs(self);
    clear(self);
    drop_futures(r); /* the tasks go on */
    mhpy_settled_drop(&r->settled);
    Py_XDECREF(r->mailbox);
    Py_XDECREF(r->pool);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- settling -------------------------------------------------------------------------------------------- */

static void call_more(result *r)
{
    PyObject *more = r->more;
    r->more = NULL; /* what comes from now on is called at once */
    for (Py_ssize_t i = 0; more && i < PyList_GET_SIZE(more); i++) {
        PyObject *function = PyList_GET_ITEM(more, i), *answer = PyObject_CallOneArg(function, (PyObject *)r);
        if (!answer)
            PyErr_WriteUnraisable(function);
        Py_XDECREF(answer);
    }
    Py_XDECREF(more);
}

/* The result is there: take `value`, or the exception that is set. */
static void settle(result *r, PyObject *value)
{
    int state = value ? DONE_OK : DONE_FAILED;
    r->value = value ? value : mhpy_take_exception();
    drop_futures(r);
    if (r->pool)
        mhpy_function_drop(r->pool, &r->function);
    Py_CLEAR(r->pool);
    if (r->value && PyObject_IS_GC(r->value) && !PyObject_GC_IsTracked((PyObject *)r))
        PyObject_GC_Track(r);
    r->state = state;
    if (r->callback || r->error_callback)
        return; /* not ready before they were called */
    mhpy_settled_tell(r->settled);
    call_more(r);
}

/* Mostly nobody else is inside the pool, and then the interpreter's lock need not be given up. */
static PyObject *take_single(result *r)
{
    _Alignas(64) unsigned char room[NEAR_BYTES];
    mh_result ended;
    mh_err err = r->waiters ? MH_ERR_TIMEOUT : mh_future_collect(&r->single, room, sizeof room, &ended);
    if (!err)
        r->count = 0;
    else if (err == MH_ERR_TIMEOUT)
        MHPY_UNLOCKED(err = mh_future_result(r->single, MH_NOW, &ended));
    return err ? mhpy_raise(err) : mhpy_take_item(&ended);
}

/* All chunks into one list; the first failure in the order of the items is the map's. */
static PyObject *take_list(result *r)
{
    PyObject *list = PyList_New(r->items), *failure = NULL;
    if (!list)
        return NULL;
    PyObject_GC_UnTrack(list); /* nobody must find it half filled */
    for (Py_ssize_t i = 0; i < r->count; i++) {
        mh_result ended;
        mh_err err;
        MHPY_UNLOCKED(err = mh_future_result(r->futures[i], MH_NOW, &ended));
        Py_ssize_t start = i * r->chunk, count = r->items - start < r->chunk ? r->items - start : r->chunk;
        if (err)
            mhpy_raise(err);
        else if (!failure)
            mhpy_take_items(&ended, list, start, count, NULL);
        if (!err)
            MHPY_UNLOCKED(mh_result_release(&ended));
        if (PyErr_Occurred() && !failure)
            failure = mhpy_take_exception();
        PyErr_Clear();
    }
    PyObject_GC_Track(list);
    if (!failure)
        return list;
    Py_DECREF(list);
    return mhpy_raise_object(failure);
}

/* All tasks have ended and nobody has decoded them yet. */
static void take(result *r)
{
    r->state = TAKING;
    Py_INCREF(r); /* decoding runs anybody's code */
    mhpy_pool *p = (mhpy_pool *)Py_NewRef(r->pool);
    mhpy_watch watch = mhpy_watch_begin(p, r->items < 0);
    settle(r, r->items < 0 ? take_single(r) : take_list(r));
    mhpy_watch_end(p, watch);
    Py_DECREF(p);
    Py_DECREF(r);
}

static bool has_callbacks(const result *r) { return r->callback || r->error_callback; }

/* True when all tasks are known to have ended, as far as can be told without waiting. */
static bool all_done(result *r)
{
    while (r->first_open < r->count && mh_future_is_done(r->futures[r->first_open]))
        r->first_open++;
    return r->first_open == r->count;
}

/* Whether it is settled, callbacks called and all; settles it when it can be. */
static bool is_ready(result *r)
{
    if (r->state == PENDING && !has_callbacks(r) && all_done(r))
        take(r);
    return r->state >= DONE_OK && !has_callbacks(r);
}

static mh_err wait_for_next(result *r, mh_deadline until);

/* Called by the callback thread: the result is there. */
static void settle_and_call(PyObject *self)
{
    result *r = (result *)self;
    while (r->state == PENDING && !all_done(r)) /* only when there was no memory to be told */
        if (wait_for_next(r, mh_deadline_in(MHPY_SLICE_NS)) == MH_ERR_FORKED)
            return;
    if (r->state == PENDING)
        take(r);
    PyObject *callback = r->state == DONE_OK ? r->callback : r->error_callback;
    if (callback && callback != Py_None) {
        PyObject *answer = PyObject_CallOneArg(callback, r->value);
        if (!answer)
            PyErr_WriteUnraisable(callback);
        Py_XDECREF(answer);
    }
    Py_CLEAR(r->callback);
    Py_CLEAR(r->error_callback);
    mhpy_settled_tell(r->settled);
    call_more(r);
}

/* From whichever thread drives the pool, without the interpreter's lock. The letter keeps r. */
static void announce(mh_future *f, void *ctx)
{
    (void)f;
    result *r = ctx;
    if (atomic_fetch_sub(&r->open, 1) == 1)
        mhpy_mailbox_post(r->mailbox, &r->letter);
}

/* ---- waiting ------------------------------------------------------------------------------------------------- */

static mh_err wait_for_next(result *r, mh_deadline until)
{
    mh_err err;
    mh_future *f = r->futures[r->first_open];
    r->waiters++;
    Py_BEGIN_ALLOW_THREADS
    err = mh_future_wait(f, until);
    Py_END_ALLOW_THREADS
    if (--r->waiters == 0 && r->state >= DONE_OK)
        drop_futures(r);
    return err;
}

/* False with an exception set; else see is_ready. */
static bool wait_until(result *r, mh_deadline until)
{
    while (!is_ready(r)) {
        mh_deadline slice = mh_deadline_in(MHPY_SLICE_NS);
        mh_err err = MH_OK;
        if (slice > until)
            slice = until;
        if (r->state == PENDING && !has_callbacks(r)) {
            err = wait_for_next(r, slice);
        } else if (!mhpy_settled_wait(&r->settled, slice)) {
            return false;
        }
        if (err && err != MH_ERR_TIMEOUT && err != MH_ERR_INTERRUPTED) {
            mhpy_raise(err);
            return false;
        }
        if (PyErr_CheckSignals() < 0)
            return false;
        if (until != MH_FOREVER && mh_now() >= until)
            return is_ready(r), true;
    }
    return true;
}

static PyObject *answer(result *r)
{
    if (r->state == DONE_OK)
        return Py_NewRef(r->value);
    return mhpy_raise_object(Py_NewRef(r->value));
}

/* ---- methods ------------------------------------------------------------------------------------------------- */

static PyObject *timeout_argument(PyObject *args, PyObject *kwargs, mh_deadline *until)
{
    static char *names[] = {"timeout", NULL};
    PyObject *timeout = Py_None;
    if (PyTuple_GET_SIZE(args) == 0 && !kwargs) {
        *until = MH_FOREVER;
        return timeout;
    }
    return PyArg_ParseTupleAndKeywords(args, kwargs, "|O", names, &timeout) && mhpy_deadline(timeout, until) ? timeout : NULL;
}

static PyObject *get(PyObject *self, PyObject *args, PyObject *kwargs)
{
    result *r = (result *)self;
    mh_deadline until;
    if (!timeout_argument(args, kwargs, &until) || !wait_until(r, until))
        return NULL;
    if (is_ready(r))
        return answer(r);
    PyObject *class = mhpy_error_class("TimeoutError");
    if (class)
        PyErr_SetNone(class);
    Py_XDECREF(class);
    return NULL;
}

static PyObject *wait(PyObject *self, PyObject *args, PyObject *kwargs)
{
    mh_deadline until;
    if (!timeout_argument(args, kwargs, &until) || !wait_until((result *)self, until))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *ready(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(is_ready((result *)self));
}

static PyObject *successful(PyObject *self, PyObject *unused)
{
    (void)unused;
    result *r = (result *)self;
    if (!is_ready(r))
        return PyErr_Format(PyExc_ValueError, "%R not ready", self);
    return PyBool_FromLong(r->state == DONE_OK);
}

static void expect_letter(result *r, PyObject *pool, size_t tasks);
static void watch(result *r, size_t tasks);

/* Nobody is told yet when it ends, so that the callback thread has to be. False with an exception set. */
static bool be_told(result *r)
{
    PyObject *pool = Py_NewRef(r->pool);
    PyObject *started = PyObject_CallMethod(pool, "_start_callbacks", NULL);
    bool ok = started;
    if (started && r->state == PENDING && !r->mailbox) { /* no other thread was faster */
        r->callback = Py_NewRef(Py_None);
        size_t tasks = (size_t)r->count;
        expect_letter(r, pool, tasks);
        watch(r, tasks);
    }
    Py_XDECREF(started);
    Py_DECREF(pool);
    return ok;
}

/* fn is called with it when it is ready: at once, else by whoever settles it. */
static PyObject *when_done(PyObject *self, PyObject *function)
{
    result *r = (result *)self;
    if (is_ready(r))
        return PyObject_CallOneArg(function, self);
    if (!r->more && !(r->more = PyList_New(0)))
        return NULL;
    if (!PyObject_GC_IsTracked(self))
        PyObject_GC_Track(self);
    if (PyList_Append(r->more, function) < 0 || (r->state == PENDING && !r->mailbox && !be_told(r)))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *cancel(PyObject *self, PyObject *unused)
{
    (void)unused;
    result *r = (result *)self;
    bool all = r->state == PENDING && r->count;
    Py_ssize_t count = r->state == PENDING ? r->count : 0;
    mh_future **futures = r->futures;
    r->waiters++;
    MHPY_UNLOCKED(for (Py_ssize_t i = 0; i < count; i++) all = mh_future_cancel(futures[i]) && all);
    if (--r->waiters == 0 && r->state >= DONE_OK)
        drop_futures(r);
    return PyBool_FromLong(all);
}

static PyMethodDef methods[] = {
    {"cancel", cancel, METH_NOARGS,
     "cancel($self, /)\n--\n\nAsk that what has not started does not run; get() then raises CancelledError. Whether nothing of it will have run."},
    {"_when_done", when_done, METH_O, "_when_done(fn): call fn(result) when it is ready; at once when it is."},
    {"get", MHPY_METHOD(get), METH_VARARGS | METH_KEYWORDS,
     "get($self, /, timeout=None)\n--\n\nWait and return the result, or raise what the call raised; TimeoutError after timeout seconds."},
    {"wait", MHPY_METHOD(wait), METH_VARARGS | METH_KEYWORDS,
     "wait($self, /, timeout=None)\n--\n\nWait until the result is there, or timeout seconds."},
    {"ready", ready, METH_NOARGS, "ready($self, /)\n--\n\nWhether the call has ended."},
    {"successful", successful, METH_NOARGS,
     "successful($self, /)\n--\n\nWhether it ended without an exception; ValueError when it has not ended."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, "See PEP 585."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(result, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_am_await, mhpy_await},
    {Py_tp_doc, "The result of apply_async, map_async or starmap_async, to come."},
    {0, NULL},
};
PyType_Spec mhpy_async_result_spec = {
    .name = "manyhands._core.AsyncResult",
    .basicsize = sizeof(result),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

/* ---- making results -------------------------------------------------------------------------------------------- */

/* From here on the letter will come. */
static void expect_letter(result *r, PyObject *pool, size_t tasks)
{
    if (!PyObject_GC_IsTracked((PyObject *)r))
        PyObject_GC_Track(r);
    r->mailbox = Py_NewRef(((mhpy_pool *)pool)->mailbox);
    atomic_store(&r->open, tasks);
    r->letter.deliver = settle_and_call;
    mhpy_mailbox_expect(r->mailbox, &r->letter, (PyObject *)r);
}

/* Callbacks before anything is submitted: from here on the letter will come. */
static bool expect_callbacks(result *r, PyObject *self, PyObject *callback, PyObject *error_callback, size_t tasks)
{
    bool any = (callback && callback != Py_None) || (error_callback && error_callback != Py_None);
    if (!any)
        return true;
    PyObject *started = PyObject_CallMethod(self, "_start_callbacks", NULL);
    if (!started)
        return false;
    Py_DECREF(started);
    r->callback = Py_NewRef(callback ? callback : Py_None);
    r->error_callback = Py_NewRef(error_callback ? error_callback : Py_None);
    expect_letter(r, (PyObject *)r->pool, tasks);
    return true;
}

/* After submission: have each end announced; `count` futures are there of the `tasks` that were expected. */
static void watch(result *r, size_t tasks)
{
    if (!r->mailbox)
        return;
    mh_future **futures = r->futures;
    Py_ssize_t count = r->count;
    r->waiters++; /* the callback thread may settle it before the last is watched */
    for (Py_ssize_t i = 0; i < count; i++) {
        mh_err err;
        MHPY_UNLOCKED(err = mh_future_on_done(futures[i], announce, r));
        if (err)
            announce(NULL, r); /* no memory for the watch: the callback thread will wait instead */
    }
    for (size_t i = (size_t)count; i < tasks; i++)
        announce(NULL, r);
    if (--r->waiters == 0 && r->state >= DONE_OK)
        drop_futures(r);
}

/* The call could not even be submitted: that is its result. */
static void fail(result *r)
{
    r->state = TAKING;
    if (r->count)
        r->function.temporary = false; /* tasks that were submitted still use it */
    settle(r, NULL);
}

typedef struct call {
    PyObject *function, *args, *kwargs, *callback, *error_callback, *timeout, *retries, *memory;
} call;

static bool parse_call(PyObject *const *args, Py_ssize_t nargs, PyObject *names, bool callbacks, call *c)
{
    enum { KEYWORDS = 8 };
    static const char *const keywords[KEYWORDS] = {"func", "args", "kwds", "callback", "error_callback", "timeout", "retries", "memory"};
    PyObject **places[KEYWORDS] = {&c->function, &c->args, &c->kwargs, &c->callback, &c->error_callback, &c->timeout, &c->retries, &c->memory};
    const char *name = callbacks ? "apply_async" : "apply";
    Py_ssize_t most = callbacks ? 5 : 3, named = names ? PyTuple_GET_SIZE(names) : 0;
    *c = (call){0};
    if (nargs > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd positional arguments (%zd given)", name, most, nargs);
        return false;
    }
    for (Py_ssize_t i = 0; i < nargs; i++)
        *places[i] = args[i];
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *key = PyTuple_GET_ITEM(names, i);
        size_t at = 0;
        while (at < KEYWORDS && PyUnicode_CompareWithASCIIString(key, keywords[at]))
            at++;
        if (at == KEYWORDS || (!callbacks && (at == 3 || at == 4))) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", name, key);
            return false;
        }
        if (*places[at]) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", name, key);
            return false;
        }
        *places[at] = args[nargs + i];
    }
    if (!c->function) {
        PyErr_Format(PyExc_TypeError, "%s() missing 1 required positional argument: 'func'", name);
        return false;
    }
    return true;
}

/* f(*args) takes any iterable, and **kwds any mapping. New references. */
static bool call_arguments(const call *c, PyObject **args, PyObject **kwargs)
{
    *kwargs = NULL;
    *args = !c->args ? Py_NewRef(mhpy.empty_tuple) : PyTuple_CheckExact(c->args) ? Py_NewRef(c->args) : PySequence_Tuple(c->args);
    if (!*args || !c->kwargs)
        return *args;
    if (PyDict_Check(c->kwargs)) {
        *kwargs = PyDict_GET_SIZE(c->kwargs) ? Py_NewRef(c->kwargs) : NULL;
        return true;
    }
    *kwargs = PyDict_New();
    if (*kwargs && PyDict_Update(*kwargs, c->kwargs) == 0 && PyDict_GET_SIZE(*kwargs))
        return true;
    bool empty = *kwargs && !PyErr_Occurred();
    if (!empty && PyErr_ExceptionMatches(PyExc_AttributeError))
        PyErr_Format(PyExc_TypeError, "argument after ** must be a mapping, not %.200s", Py_TYPE(c->kwargs)->tp_name);
    Py_CLEAR(*kwargs);
    if (!empty)
        Py_CLEAR(*args);
    return empty;
}

static bool pack_call(mhpy_room *room, const mhpy_function *f, PyObject *blob, PyObject *args, PyObject *kwargs, size_t *size)
{
    PyObject *items[3];
    Py_ssize_t count = 0;
    if (blob)
        items[count++] = blob;
    items[count++] = args;
    if (kwargs)
        items[count++] = kwargs;
    return mhpy_pack(room, f, MHPY_OP_CALL, blob ? MHPY_FLAG_INLINE : 0, items, count, size);
}

/* Pack and submit the one task of r. False with the exception that is r's result. */
static bool submit_call(result *r, const call *c, const mh_submit_options *options)
{
    mhpy_room room = {.pool = r->pool->pool};
    mhpy_function f = {0};
    PyObject *args = NULL, *kwargs = NULL, *blob = NULL;
    size_t size;
    mh_err err = MH_OK;
    mhpy_watch watch = mhpy_watch_begin(r->pool, true);
    bool ok = mhpy_function_find(r->pool, c->function, &f, &blob) && call_arguments(c, &args, &kwargs);
    if (ok && !pack_call(&room, &f, blob, args, kwargs, &size)) {
        mhpy_blame("arguments", -1, c->function);
        ok = false;
    }
    mhpy_watch_end(r->pool, watch);
    if (ok) {
        err = room.block ? MH_ERR_TIMEOUT : mh_pool_submit_now(room.pool, (mh_bytes){room.space, size}, options, &r->single);
        if (err == MH_ERR_TIMEOUT) { /* somebody is inside the pool, who may want the interpreter's lock */
            Py_BEGIN_ALLOW_THREADS
            err = mhpy_room_submit(&room, size, options, &r->single);
            Py_END_ALLOW_THREADS
        }
        r->count = !err;
        if (err)
            mhpy_raise(err);
    }
    mhpy_room_close(&room);
    Py_XDECREF(blob);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    return ok && !err;
}

static result *apply(PyObject *self, const call *c)
{
    mhpy_pool *p = (mhpy_pool *)self;
    mh_submit_options options;
    if (!mhpy_check_running(p) || !mhpy_submit_options(p, c->timeout, c->retries, c->memory, &options))
        return NULL;
    result *r = create(p);
    if (!r || !expect_callbacks(r, self, c->callback, c->error_callback, 1)) {
        Py_XDECREF(r);
        return NULL;
    }
    if (!submit_call(r, c, &options))
        fail(r);
    watch(r, 1);
    return r;
}

PyObject *mhpy_apply_async(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    call c;
    return parse_call(args, nargs, names, true, &c) ? (PyObject *)apply(self, &c) : NULL;
}

PyObject *mhpy_apply(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    call c;
    result *r = parse_call(args, nargs, names, false, &c) ? apply(self, &c) : NULL;
    if (!r)
        return NULL;
    PyObject *value = wait_until(r, MH_FOREVER) ? answer(r) : NULL;
    Py_DECREF(r);
    return value;
}

/* ---- map_async: everything is packed and submitted at once ------------------------------------------------------- */

static bool submit_chunk(result *r, PyObject *items, Py_ssize_t at, uint8_t op, const mh_submit_options *options, PyObject *function)
{
    mhpy_room room = {.pool = r->pool->pool};
    Py_ssize_t start = at * r->chunk, left = PySequence_Fast_GET_SIZE(items) - start;
    size_t size;
    mh_err err = MH_OK;
    if (left < 0)
        left = 0;
    mhpy_watch watch = mhpy_watch_begin(r->pool, r->chunk == 1);
    bool ok = mhpy_pack_slice(&room, &r->function, op, 0, items, start, left < r->chunk ? left : r->chunk, &size);
    mhpy_watch_end(r->pool, watch);
    if (!ok)
        mhpy_blame("items from number", start, function);
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        err = mhpy_room_submit(&room, size, options, &r->futures[at]);
        Py_END_ALLOW_THREADS
        if (err)
            mhpy_raise(err);
    }
    mhpy_room_close(&room);
    return ok && !err;
}

static bool submit_map(result *r, PyObject *items, Py_ssize_t tasks, uint8_t op, const mh_submit_options *options, PyObject *function)
{
    if (!mhpy_function_share(r->pool, function, &r->function))
        return false;
    mh_future **futures = PyMem_Calloc((size_t)tasks + 1, sizeof *futures);
    if (!futures) {
        PyErr_NoMemory();
        return false;
    }
    r->futures = futures;
    for (; r->count < tasks; r->count++)
        if (!submit_chunk(r, items, r->count, op, options, function) || ((r->count & 255) == 255 && PyErr_CheckSignals() < 0))
            return false;
    return true;
}

static result *map_async(PyObject *self, PyObject *function, PyObject *items, Py_ssize_t chunk, uint8_t op, PyObject *callback,
                         PyObject *error_callback, const mh_submit_options *options)
{
    mhpy_pool *p = (mhpy_pool *)self;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items), quarter = (Py_ssize_t)p->workers * 4;
    if (chunk == 0)
        chunk = count / quarter + (count % quarter != 0);
    Py_ssize_t tasks = count ? count / chunk + (count % chunk != 0) : 0;
    result *r = create(p);
    if (!r)
        return NULL;
    r->items = count;
    r->chunk = chunk;
    /* one letter more than tasks: it is announced below, when all are submitted, so that an empty map is announced too */
    if (!expect_callbacks(r, self, callback, error_callback, (size_t)tasks + 1)) {
        Py_DECREF(r);
        return NULL;
    }
    if (!submit_map(r, items, tasks, op, options, function))
        fail(r);
    watch(r, (size_t)tasks + 1);
    return r;
}

PyObject *mhpy_map_async(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"func", "iterable", "chunksize", "star", "callback", "error_callback", "timeout", "retries", "memory", NULL};
    PyObject *function, *iterable, *callback = NULL, *error_callback = NULL, *timeout = NULL, *retries = NULL, *memory = NULL;
    Py_ssize_t chunk = 0;
    int star = 0;
    mh_submit_options options;
    mhpy_pool *p = (mhpy_pool *)self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOnp|OOOOO", names, &function, &iterable, &chunk, &star, &callback, &error_callback,
                                     &timeout, &retries, &memory) ||
        !mhpy_check_running(p) || !mhpy_submit_options(p, timeout, retries, memory, &options))
        return NULL;
    PyObject *items = PySequence_Fast(iterable, "map needs an iterable");
    if (!items)
        return NULL;
    result *r = map_async(self, function, items, chunk, star ? MHPY_OP_STARMAP : MHPY_OP_MAP, callback, error_callback, &options);
    Py_DECREF(items);
    return (PyObject *)r;
}
