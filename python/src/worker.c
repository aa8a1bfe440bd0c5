/* The worker's half: read a task's items, call the function for each, write the results where the parent reads them. */
#include "core.h"

/* Functions that tasks of this worker named, by serial number; one of them is used again and again. */
static struct {
    uint64_t last_serial;
    PyObject *last; /* borrowed from all */
    PyObject *all;  /* serial -> callable */
} functions;

enum { FUNCTIONS_MAX = 256 };

/* ---- the function of a task ------------------------------------------------------------------------------ */

static PyObject *load_function(mh_task *task, const mhpy_task_head *head)
{
    mh_bytes blob;
    mh_err err = mh_task_shared(task, head->function_id, &blob);
    if (err)
        return mhpy_raise(err);
    PyObject *view = PyMemoryView_FromMemory((char *)(uintptr_t)blob.data, (Py_ssize_t)blob.size, PyBUF_READ);
    PyObject *function = view ? PyObject_CallMethod(mhpy.serial, "load_function", "O", view) : NULL;
    Py_XDECREF(view);
    return function;
}

/* Borrowed from the cache; NULL with an exception set. */
static PyObject *function_of(mh_task *task, const mhpy_task_head *head)
{
    if (functions.last && functions.last_serial == head->function_serial)
        return functions.last;
    if (!functions.all && !(functions.all = PyDict_New()))
        return NULL;
    PyObject *key = PyLong_FromUnsignedLongLong(head->function_serial);
    PyObject *function = key ? PyDict_GetItemWithError(functions.all, key) : NULL;
    if (key && !function && !PyErr_Occurred()) {
        PyObject *loaded = load_function(task, head);
        if (loaded && PyDict_GET_SIZE(functions.all) >= FUNCTIONS_MAX) {
            functions.last = NULL;
            PyDict_Clear(functions.all);
        }
        if (loaded && PyDict_SetItem(functions.all, key, loaded) == 0)
            function = loaded; /* the dictionary keeps it */
        Py_XDECREF(loaded);
    }
    Py_XDECREF(key);
    if (function) {
        functions.last = function;
        functions.last_serial = head->function_serial;
    }
    return function;
}

/* ---- answers ---------------------------------------------------------------------------------------------- */

typedef struct reply {
    mh_task *task;
    void *base; /* what was reserved last */
} reply;

static unsigned char *reply_room(void *ctx, size_t size)
{
    reply *r = ctx;
    mh_err err = mh_task_reply_reserve(r->task, size, &r->base);
    return err ? (unsigned char *)mhpy_raise(err) : r->base;
}

/* Answer with the exception that is set. */
static mh_err reply_error(mh_task *task)
{
    bool is_over = mh_task_memory_limit(task) && PyErr_ExceptionMatches(PyExc_MemoryError);
    PyObject *exception = mhpy_take_exception();
    if (is_over) { /* its memory goes first */
        Py_XDECREF(exception);
        return mh_task_reply(task, (mh_bytes){"", 0}) == MH_OK ? MH_ERR_OUT_OF_MEMORY_TASK : MH_ERR_NO_SPACE;
    }
    PyObject *bytes = exception ? PyObject_CallMethod(mhpy.serial, "dump_error", "O", exception) : NULL;
    mh_err err = MH_ERR_TASK_FAILED;
    if (!bytes || !PyBytes_Check(bytes) ||
        mh_task_reply(task, (mh_bytes){PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes)}) != MH_OK)
        err = mh_task_reply(task, (mh_bytes){"", 0}) == MH_OK ? MH_ERR_TASK_FAILED : MH_ERR_NO_SPACE;
    Py_XDECREF(bytes);
    Py_XDECREF(exception);
    PyErr_Clear();
    return err;
}

/* Let `helper` of manyhands._serial turn the exception that is set into one that says what happened to `object`. */
static void explain(const char *helper, PyObject *object)
{
    PyObject *exception = mhpy_take_exception();
    if (!exception)
        return;
    PyObject *better = PyObject_CallMethod(mhpy.serial, helper, "OO", exception, object ? object : Py_None);
    if (better && PyExceptionInstance_Check(better)) {
        Py_DECREF(exception);
        exception = better;
    } else {
        Py_XDECREF(better);
        PyErr_Clear();
    }
    mhpy_raise_object(exception);
}

/* ---- running ------------------------------------------------------------------------------------------------- */

static PyObject *call_star(PyObject *function, PyObject *item)
{
    if (PyTuple_CheckExact(item))
        return PyObject_Vectorcall(function, ((PyTupleObject *)item)->ob_item, (size_t)PyTuple_GET_SIZE(item), NULL);
    PyObject *args = PySequence_Tuple(item);
    PyObject *result = args ? PyObject_CallObject(function, args) : NULL;
    Py_XDECREF(args);
    return result;
}

static inline PyObject *call_one(PyObject *function, PyObject *item, bool star)
{
    if (star)
        return call_star(function, item);
    PyObject *args[2] = {NULL, item};
    return PyObject_Vectorcall(function, args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

/* The results of a whole chunk into the writer. False with an exception set. */
static bool run_items(mhpy_reader *r, PyObject *function, bool star, mhpy_writer *w)
{
    if (!star && !mhpy_run_ints(r, w, function)) {
        if (w->failed)
            explain("encoding_error", w->list);
        return false;
    }
    while (r->at < r->part.count) {
        PyObject *item = mhpy_reader_next(r);
        if (!item) {
            explain("decoding_error", NULL);
            return false;
        }
        PyObject *result = call_one(function, item, star);
        Py_DECREF(item);
        if (!result)
            return false;
        if (!mhpy_writer_add(w, result)) {
            explain("encoding_error", w->list);
            return false;
        }
    }
    return true;
}

/* f(*args, **kwargs); the items are [args], [args, kwargs], or before them the function's pickle. */
static PyObject *run_call(mhpy_reader *r, PyObject *function, bool is_inline)
{
    PyObject *own = NULL, *args = NULL, *kwargs = NULL, *blob = NULL, *result = NULL;
    if (is_inline && (blob = mhpy_reader_next(r))) {
        function = own = PyObject_CallMethod(mhpy.serial, "load_function", "O", blob);
        if (!own)
            explain("decoding_error", NULL);
        Py_DECREF(blob);
    }
    if (function && !(args = mhpy_reader_next(r)))
        explain("decoding_error", NULL);
    if (args && r->at < r->part.count && !(kwargs = mhpy_reader_next(r)))
        explain("decoding_error", NULL);
    if (args && !PyErr_Occurred()) {
        if (PyTuple_CheckExact(args) && !kwargs)
            result = call_star(function, args);
        else if (PyTuple_Check(args))
            result = PyObject_Call(function, args, kwargs);
        else
            PyErr_SetString(PyExc_TypeError, "a call's arguments are no tuple");
    }
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(own);
    return result;
}

static bool finish(mhpy_writer *w, int64_t began)
{
    reply *to = w->ctx;
    size_t size;
    if (!mhpy_writer_finish(w, &size)) {
        explain("encoding_error", w->list);
        return false;
    }
    mhpy_reply_head head = {.elapsed_ns = began ? (uint64_t)(mh_now() - began) : 0};
    memcpy(to->base, &head, sizeof head);
    mh_task_reply_size(to->task, size);
    return true;
}

/* The trace calls a task by its function's name. */
static void label(mh_task *task, PyObject *function)
{
    PyObject *name = PyObject_GetAttrString(function, "__qualname__");
    const char *text = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : Py_TYPE(function)->tp_name;
    if (text)
        mh_task_label(task, text);
    Py_XDECREF(name);
    PyErr_Clear();
}

static bool run_task(mh_task *task, const mhpy_task_head *head, mhpy_reader *r)
{
    bool is_inline = head->flags & MHPY_FLAG_INLINE;
    PyObject *function = is_inline ? NULL : function_of(task, head);
    if (!function && !is_inline) {
        explain("decoding_error", NULL);
        return false;
    }
    int64_t began = head->flags & MHPY_FLAG_TIMED ? mh_now() : 0;
    reply room = {.task = task};
    mhpy_writer w;
    mhpy_writer_open(&w, head->op == MHPY_OP_CALL ? 1 : r->part.count, sizeof(mhpy_reply_head), reply_room, &room);
    if (function && mh_task_is_traced(task))
        label(task, function);
    mh_task_part(task, MH_TASK_RUNS);
    Py_XINCREF(function); /* a nested task or a full cache must not take it away */
    bool ok;
    if (head->op == MHPY_OP_CALL) {
        PyObject *result = run_call(r, function, is_inline);
        ok = result;
        if (ok && !mhpy_writer_add(&w, result)) {
            explain("encoding_error", w.list);
            ok = false;
        }
    } else {
        ok = run_items(r, function, head->op == MHPY_OP_STARMAP, &w);
    }
    Py_XDECREF(function);
    mh_task_part(task, MH_TASK_SERIALISES);
    ok = ok && finish(&w, began);
    mhpy_writer_close(&w);
    return ok;
}

static mh_err run(mh_task *task, void *ctx)
{
    (void)ctx;
    mh_bytes input = mh_task_input(task);
    mhpy_task_head head;
    mhpy_reader r;
    if (input.size < sizeof head)
        return MH_ERR_CORRUPT;
    memcpy(&head, input.data, sizeof head);
    mh_task_part(task, MH_TASK_SERIALISES);
    if (!mhpy_reader_open(&r, input, sizeof head, NULL)) {
        explain("decoding_error", NULL);
        return reply_error(task);
    }
    bool ok = run_task(task, &head, &r);
    mhpy_reader_close(&r);
    return ok ? MH_OK : reply_error(task);
}

/* ---- the worker's life ------------------------------------------------------------------------------------------ */

static _Thread_local PyThreadState *saved;

static void before_wait(void *ctx)
{
    (void)ctx;
    saved = PyEval_SaveThread();
}

static void after_wait(void *ctx)
{
    (void)ctx;
    PyEval_RestoreThread(saved);
    if (PyErr_CheckSignals() < 0) /* a handler of the program's that raised has no caller here */
        PyErr_WriteUnraisable(NULL);
}

static mh_err initialize(void *prepare)
{
    functions.last = NULL; /* a worker of a worker inherited its parent's, under the same numbers */
    Py_CLEAR(functions.all);
    PyObject *done = PyObject_CallNoArgs(prepare);
    if (!done) {
        PyErr_Print();
        return MH_ERR_TASK_FAILED;
    }
    Py_DECREF(done);
    return MH_OK;
}

static void finalize(void *prepare)
{
    (void)prepare;
    PyObject *done = PyObject_CallMethod(mhpy.serial, "finish_worker", NULL);
    if (!done)
        PyErr_Print();
    Py_XDECREF(done);
}

mh_worker_options mhpy_worker_options(PyObject *prepare)
{
    return (mh_worker_options){.run = run, .initialize = initialize, .finalize = finalize,
                               .before_wait = before_wait, .after_wait = after_wait, .ctx = prepare};
}

PyObject *mhpy_worker_main(PyObject *module, PyObject *args)
{
    (void)module;
    int socket;
    PyObject *prepare;
    if (!PyArg_ParseTuple(args, "iO", &socket, &prepare))
        return NULL;
    mh_worker_options options = mhpy_worker_options(prepare);
    mh_err err = mh_worker_run(socket, &options); /* takes and gives the interpreter's lock by the hooks */
    if (err && err != MH_ERR_CLOSED)
        return mhpy_raise(err);
    Py_RETURN_NONE;
}

PyObject *mhpy_worker_server(PyObject *module, PyObject *args)
{
    (void)module;
    int socket;
    PyObject *prepare;
    if (!PyArg_ParseTuple(args, "iO", &socket, &prepare))
        return NULL;
    mh_worker_options options = mhpy_worker_options(prepare);
    mh_err err = mh_forkserver_serve(socket, &(mh_forkserver_child){.entry = mh_worker_child, .ctx = &options, .ignore_interrupt = true});
    if (err)
        return mhpy_raise(err);
    Py_RETURN_NONE;
}
