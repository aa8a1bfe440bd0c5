/* The pool: its life, the functions that its workers know, and room for tasks. manyhands.pool.Pool is its thin subclass. */
#include "core.h"

enum { FUNCTIONS_MAX = 4096, PASS_MAX = 64 };

bool mhpy_check_running(const mhpy_pool *p)
{
    if (p->pool && p->running)
        return true;
    PyErr_SetString(PyExc_ValueError, "Pool not running");
    return false;
}

/* ---- options ---------------------------------------------------------------------------------------------- */

static bool retry_count(PyObject *number, uint32_t *out)
{
    long n = PyLong_AsLong(number);
    if (n == -1 && PyErr_Occurred())
        return false;
    if (n < 0 || n > 1000000) {
        PyErr_SetString(PyExc_ValueError, "retries must be between 0 and 1000000");
        return false;
    }
    *out = (uint32_t)n;
    return true;
}

static bool memory_limit(PyObject *number, size_t *out)
{
    size_t bytes = PyLong_Check(number) ? PyLong_AsSize_t(number) : 0;
    if (bytes == (size_t)-1 && PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_OverflowError))
        return false;
    if (PyErr_Occurred() || bytes == 0) {
        PyErr_SetString(PyExc_ValueError, "memory must be a positive number of bytes, an int");
        return false;
    }
    *out = bytes;
    return true;
}

bool mhpy_submit_options(const mhpy_pool *p, PyObject *timeout, PyObject *retries, PyObject *memory, mh_submit_options *out)
{
    *out = p->defaults;
    if (timeout && timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1 && PyErr_Occurred())
            return false;
        if (!(seconds > 0 && seconds < 1e9)) {
            PyErr_SetString(PyExc_ValueError, "timeout must be a positive number of seconds");
            return false;
        }
        out->timeout_ns = (int64_t)(seconds * 1e9);
    }
    if (memory && memory != Py_None && !memory_limit(memory, &out->memory_bytes))
        return false;
    if (!retries || retries == Py_None)
        return true;
    if (!PyTuple_Check(retries)) {
        if (!retry_count(retries, &out->lost_retries))
            return false;
        out->failed_retries = out->oom_retries = out->lost_retries;
        return true;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(retries);
    if (count != 2 && count != 3) {
        PyErr_SetString(PyExc_ValueError, "retries must be a number, the pair (lost, failed) or (lost, failed, memory)");
        return false;
    }
    return retry_count(PyTuple_GET_ITEM(retries, 0), &out->lost_retries) &&
           retry_count(PyTuple_GET_ITEM(retries, 1), &out->failed_retries) &&
           retry_count(PyTuple_GET_ITEM(retries, count == 3 ? 2 : 0), &out->oom_retries);
}

enum { WATCH_EACH = 16 };

mhpy_watch mhpy_watch_begin(mhpy_pool *p, bool often)
{
    if (often && !p->traced && ++p->watched % WATCH_EACH)
        return (mhpy_watch){0};
    return (mhpy_watch){.begin = mh_now(), .each = often && !p->traced ? WATCH_EACH : 1};
}

void mhpy_watch_end(mhpy_pool *p, mhpy_watch watch)
{
    if (!watch.begin || !p->pool)
        return;
    int64_t end = watch.begin + (mh_now() - watch.begin) * watch.each;
    if (p->traced)
        MHPY_UNLOCKED(mh_pool_note_serialising(p->pool, watch.begin, end));
    else
        mh_pool_note_serialising(p->pool, watch.begin, end); /* which takes no lock then */
}

/* ---- functions ----------------------------------------------------------------------------------------------- */

static bool share_blob(mhpy_pool *p, PyObject *blob, mhpy_function *out)
{
    mh_bytes bytes = {PyBytes_AS_STRING(blob), (size_t)PyBytes_GET_SIZE(blob)};
    mh_err err;
    Py_BEGIN_ALLOW_THREADS
    err = mh_pool_share(p->pool, bytes, &out->id);
    Py_END_ALLOW_THREADS
    if (err) {
        mhpy_raise(err);
        return false;
    }
    out->serial = ++p->serials;
    return true;
}

/* Entry of the cache as a function; false when it is not there. */
static bool cached(mhpy_pool *p, PyObject *key, mhpy_function *out)
{
    PyObject *row = PyDict_GetItemWithError(p->functions, key);
    if (!row)
        return false;
    *out = (mhpy_function){.object = PyTuple_GET_ITEM(row, 0),
                           .id = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(row, 1)),
                           .serial = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(row, 2))};
    return true;
}

static bool keep(mhpy_pool *p, PyObject *key, PyObject *function, PyObject *blob, mhpy_function *out)
{
    *out = (mhpy_function){.object = function};
    if (!share_blob(p, blob, out))
        return false;
    PyObject *row = Py_BuildValue("(OkK)", function, (unsigned long)out->id, (unsigned long long)out->serial);
    bool ok = row && PyDict_SetItem(p->functions, key, row) == 0;
    Py_XDECREF(row);
    if (!ok)
        MHPY_UNLOCKED(mh_pool_unshare(p->pool, out->id));
    return ok;
}

/* (blob, pure) of a function that is not in the cache. */
static PyObject *dump_function(mhpy_pool *p, PyObject *function)
{
    PyObject *pair = PyObject_CallMethod(mhpy.serial, "dump_function", "OO", function, p->names);
    if (pair && !(PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2 && PyBytes_Check(PyTuple_GET_ITEM(pair, 0)))) {
        Py_CLEAR(pair);
        PyErr_SetString(PyExc_SystemError, "dump_function must return (bytes, bool)");
    }
    return pair;
}

bool mhpy_function_find(mhpy_pool *p, PyObject *function, mhpy_function *out, PyObject **blob)
{
    *blob = NULL;
    if (function == p->last.object) {
        *out = p->last;
        return true;
    }
    PyObject *key = PyLong_FromVoidPtr(function);
    if (!key)
        return false;
    bool ok = cached(p, key, out);
    if (!ok && !PyErr_Occurred()) {
        PyObject *pair = dump_function(p, function);
        if (!pair)
            mhpy_blame("function", -1, function);
        ok = pair;
        if (ok && PyTuple_GET_ITEM(pair, 1) == Py_True && PyDict_GET_SIZE(p->functions) < FUNCTIONS_MAX)
            ok = keep(p, key, function, PyTuple_GET_ITEM(pair, 0), out);
        else if (ok)
            *blob = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
        Py_XDECREF(pair);
    }
    Py_DECREF(key);
    if (ok && !*blob)
        p->last = *out;
    return ok;
}

bool mhpy_function_share(mhpy_pool *p, PyObject *function, mhpy_function *out)
{
    PyObject *blob;
    if (!mhpy_function_find(p, function, out, &blob))
        return false;
    if (!blob)
        return true;
    *out = (mhpy_function){.temporary = true};
    bool ok = share_blob(p, blob, out);
    Py_DECREF(blob);
    out->temporary = ok;
    return ok;
}

void mhpy_function_drop(mhpy_pool *p, mhpy_function *f)
{
    if (f->temporary && p->pool)
        MHPY_UNLOCKED(mh_pool_unshare(p->pool, f->id));
    f->temporary = false;
}

/* ---- room for tasks --------------------------------------------------------------------------------------------- */

unsigned char *mhpy_room_take(void *ctx, size_t size)
{
    mhpy_room *r = ctx;
    mhpy_room_close(r);
    if (size <= sizeof r->space)
        return r->space;
    MHPY_UNLOCKED(r->err = mh_block_create(&r->block, r->pool, size));
    return r->err ? (unsigned char *)mhpy_raise(r->err) : mh_block_data(r->block);
}

unsigned char *mhpy_room_data(mhpy_room *r) { return r->block ? mh_block_data(r->block) : r->space; }

void mhpy_room_close(mhpy_room *r)
{
    if (r->block)
        MHPY_UNLOCKED(mh_block_destroy(&r->block));
}

mh_err mhpy_room_submit(mhpy_room *r, size_t size, const mh_submit_options *options, mh_future **out)
{
    if (r->block)
        return mh_pool_submit_block(r->pool, &r->block, size, options, out);
    return mh_pool_submit(r->pool, (mh_bytes){r->space, size}, options, out);
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

/* argv as a NULL-ended array whose strings live in `keep`. */
static const char **program(PyObject *list, PyObject **keep)
{
    *keep = PySequence_List(list);
    if (!*keep)
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(*keep);
    const char **argv = PyMem_Calloc((size_t)count + 1, sizeof *argv);
    for (Py_ssize_t i = 0; argv && i < count; i++) {
        PyObject *encoded = NULL;
        if (!PyUnicode_FSConverter(PyList_GET_ITEM(*keep, i), &encoded)) {
            PyMem_Free(argv);
            return NULL;
        }
        PyList_SetItem(*keep, i, encoded);
        argv[i] = PyBytes_AS_STRING(encoded);
    }
    if (!argv)
        PyErr_NoMemory();
    return argv;
}

/* Descriptors, or None, that exec'ed workers inherit under their numbers. */
static bool descriptors(PyObject *list, mh_pass_fd *pass, size_t *count)
{
    *count = 0;
    if (list == Py_None)
        return true;
    PyObject *fast = PySequence_Fast(list, "fds must be a sequence");
    Py_ssize_t given = fast ? PySequence_Fast_GET_SIZE(fast) : 0;
    bool ok = fast;
    if (given > PASS_MAX) {
        PyErr_Format(PyExc_ValueError, "the initializer's arguments hold %zd descriptors; at most %d", given, PASS_MAX);
        ok = false;
    }
    for (Py_ssize_t i = 0; ok && i < given; i++) {
        int fd = PyObject_AsFileDescriptor(PySequence_Fast_GET_ITEM(fast, i));
        ok = fd >= 0;
        pass[(*count)++] = (mh_pass_fd){fd, -1};
    }
    Py_XDECREF(fast);
    return ok;
}

static mh_err create(mhpy_pool *p, const mh_pool_options *options)
{
    mh_err err;
    Py_BEGIN_ALLOW_THREADS
    err = mh_pool_create(&p->pool, options);
    Py_END_ALLOW_THREADS
    return err;
}

static PyObject *open_pool(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"workers", "start", "argv", "prepare", "names", "max_tasks", "max_bytes", "pin", "timeout", "retries", "memory",
                               "must_initialize", "fds", "trace", "on_demand", NULL};
    mhpy_pool *p = (mhpy_pool *)self;
    Py_ssize_t workers, max_tasks = 0, max_bytes = 0, trace = 0;
    int start, pin = 0, must_initialize = 0, on_demand = 0;
    PyObject *argv_list, *prepare, *names, *timeout = NULL, *retries = NULL, *memory = NULL, *keep_argv = NULL, *fds = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "niOOO|$nnpOOOpOnp", keywords, &workers, &start, &argv_list, &prepare, &names, &max_tasks,
                                     &max_bytes, &pin, &timeout, &retries, &memory, &must_initialize, &fds, &trace,
                                     &on_demand))
        return NULL;
    if (p->pool) {
        PyErr_SetString(PyExc_RuntimeError, "the pool is open already");
        return NULL;
    }
    if (!mhpy_submit_options(p, timeout, retries, memory, &p->defaults))
        return NULL;
    const char **argv = NULL;
    if (argv_list != Py_None && !(argv = program(argv_list, &keep_argv))) {
        Py_XDECREF(keep_argv);
        return NULL;
    }
    mh_pass_fd pass[PASS_MAX];
    size_t pass_count;
    if (!descriptors(fds, pass, &pass_count)) {
        PyMem_Free(argv);
        Py_XDECREF(keep_argv);
        return NULL;
    }
    Py_XSETREF(p->prepare, Py_NewRef(prepare));
    Py_XSETREF(p->names, Py_NewRef(names));
    mh_pool_options options = {
        .workers = (size_t)workers, .start = (mh_start_method)start, .worker_argv = argv, .worker = mhpy_worker_options(prepare),
        .max_tasks_per_worker = (size_t)max_tasks, .max_worker_bytes = (size_t)max_bytes, .pin = pin,
        .must_initialize = must_initialize, .worker_fds = pass, .worker_fd_count = pass_count, .trace_events = (size_t)trace,
        .on_demand = on_demand};
    mh_err err = create(p, &options);
    PyMem_Free(argv);
    Py_XDECREF(keep_argv);
    if (err)
        return mhpy_raise(err);
    p->workers = (size_t)workers;
    p->traced = trace > 0;
    p->running = true;
    Py_RETURN_NONE;
}

static PyObject *pool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    mhpy_pool *p = (mhpy_pool *)type->tp_alloc(type, 0);
    if (!p)
        return NULL;
    p->functions = PyDict_New();
    p->mailbox = mhpy_mailbox_create();
    if (p->functions && p->mailbox)
        return (PyObject *)p;
    Py_DECREF(p);
    return NULL;
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    mhpy_pool *p = (mhpy_pool *)self;
    Py_VISIT(p->names);
    Py_VISIT(p->functions);
    Py_VISIT(p->prepare);
    Py_VISIT(p->mailbox);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int clear(PyObject *self)
{
    mhpy_pool *p = (mhpy_pool *)self;
    p->last = (mhpy_function){0};
    if (p->functions)
        PyDict_Clear(p->functions);
    return 0;
}

static void dealloc(PyObject *self)
{
    mhpy_pool *p = (mhpy_pool *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (p->weakrefs)
        PyObject_ClearWeakRefs(self);
    if (p->pool) {
        Py_BEGIN_ALLOW_THREADS
        mh_pool_destroy(&p->pool);
        Py_END_ALLOW_THREADS
    }
    if (p->mailbox)
        mhpy_mailbox_close(p->mailbox);
    Py_XDECREF(p->names);
    Py_XDECREF(p->functions);
    Py_XDECREF(p->prepare); /* after the pool: a fork server that starts anew needs it */
    Py_XDECREF(p->mailbox);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *stop_calls(PyObject *self, PyObject *unused)
{
    (void)unused;
    ((mhpy_pool *)self)->running = false;
    Py_RETURN_NONE;
}

static PyObject *close_pool(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_pool *p = (mhpy_pool *)self;
    p->running = false;
    if (p->pool) {
        Py_BEGIN_ALLOW_THREADS
        mh_pool_close(p->pool);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static PyObject *terminate_pool(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_pool *p = (mhpy_pool *)self;
    p->running = false;
    if (p->pool) {
        Py_BEGIN_ALLOW_THREADS
        mh_pool_terminate(p->pool);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static PyObject *join_pool(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_pool *p = (mhpy_pool *)self;
    while (p->pool) {
        mh_err err;
        Py_BEGIN_ALLOW_THREADS
        err = mh_pool_join(p->pool, mh_deadline_in(MHPY_SLICE_NS));
        Py_END_ALLOW_THREADS
        if (!err)
            break;
        if (err != MH_ERR_TIMEOUT && err != MH_ERR_INTERRUPTED)
            return mhpy_raise(err);
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *cancel_tasks(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_pool *p = (mhpy_pool *)self;
    if (p->pool)
        MHPY_UNLOCKED(mh_pool_cancel(p->pool));
    Py_RETURN_NONE;
}

static PyObject *is_broken(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_pool *p = (mhpy_pool *)self;
    bool broken = false;
    if (p->pool)
        MHPY_UNLOCKED(broken = mh_pool_is_broken(p->pool));
    return PyBool_FromLong(broken);
}

static PyObject *pids(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_pool *p = (mhpy_pool *)self;
    int32_t numbers[1024];
    size_t count = sizeof numbers / sizeof numbers[0];
    if (p->pool)
        MHPY_UNLOCKED(mh_pool_pids(p->pool, numbers, &count));
    else
        count = 0;
    count = count < 1024 ? count : 1024;
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list && i < count; i++) {
        PyObject *number = PyLong_FromLong(numbers[i]);
        if (!number)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, number);
    }
    return list;
}

static PyObject *counts(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_pool *p = (mhpy_pool *)self;
    mh_pool_stats s = {0};
    if (p->pool)
        MHPY_UNLOCKED(mh_pool_stats_read(p->pool, &s));
    return Py_BuildValue("{sK sK sK sK sK sK sK sK sK sK sK sK sK}", "workers", (unsigned long long)s.workers, "submitted",
                         (unsigned long long)s.submitted, "finished", (unsigned long long)s.finished, "failed",
                         (unsigned long long)s.failed, "cancelled", (unsigned long long)s.cancelled, "lost", (unsigned long long)s.lost,
                         "retried", (unsigned long long)s.retried, "late_answers", (unsigned long long)s.late_answers,
                         "workers_started", (unsigned long long)s.workers_started, "workers_lost", (unsigned long long)s.workers_lost,
                         "workers_recycled", (unsigned long long)s.workers_recycled, "request_bytes",
                         (unsigned long long)s.request_bytes, "reply_bytes", (unsigned long long)s.reply_bytes);
}


static double seconds(int64_t ns) { return (double)ns / 1e9; }

static PyObject *worker_row(const mh_worker_stats *w)
{
    return Py_BuildValue("{si sK sK sK sd sd sd sd sd sd}", "pid", (int)w->pid, "tasks", (unsigned long long)w->tasks, "bytes_in",
                         (unsigned long long)w->bytes_in, "bytes_out", (unsigned long long)w->bytes_out, "lived", seconds(w->lived_ns), "busy",
                         seconds(w->busy_ns), "serialising", seconds(w->serialising_ns), "transport", seconds(w->transport_ns), "idle",
                         seconds(w->idle_ns), "waiting_for_core", seconds(w->core_ns));
}

static bool put_new(PyObject *dict, const char *key, PyObject *value)
{
    bool ok = value && PyDict_SetItemString(dict, key, value) == 0;
    Py_XDECREF(value);
    return ok;
}

static PyObject *worker_rows(mhpy_pool *p)
{
    size_t capacity = p->workers, count = p->workers;
    mh_worker_stats *rows = PyMem_Calloc(capacity + 1, sizeof *rows);
    PyObject *list = rows ? PyList_New(0) : PyErr_NoMemory();
    if (list && p->pool)
        MHPY_UNLOCKED(mh_pool_worker_stats(p->pool, rows, &count));
    for (size_t i = 0; list && p->pool && i < count && i < capacity; i++) {
        PyObject *row = worker_row(&rows[i]);
        if (!row || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    PyMem_Free(rows);
    return list;
}

static PyObject *stats(PyObject *self, PyObject *unused)
{
    mhpy_pool *p = (mhpy_pool *)self;
    mh_pool_time_stats t = {0};
    PyObject *all = counts(self, unused);
    if (p->pool)
        MHPY_UNLOCKED(mh_pool_time_stats_read(p->pool, &t));
    if (all && put_new(all, "each_worker", worker_rows(p)) && put_new(all, "departed", worker_row(&t.departed)) &&
        put_new(all, "caller", Py_BuildValue("{sd sd sd sd}", "lived", seconds(t.lived_ns), "waiting", seconds(t.waiting_ns), "serialising",
                                             seconds(t.serialising_ns), "transport", seconds(t.transport_ns))))
        return all;
    Py_XDECREF(all);
    return NULL;
}

static PyObject *trace_text(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_pool *p = (mhpy_pool *)self;
    mh_buf *json = NULL;
    mh_err err = MH_ERR_INVALID;
    if (p->pool)
        MHPY_UNLOCKED(err = mh_pool_trace(p->pool, &json));
    if (err)
        return mhpy_raise(err);
    PyObject *bytes = PyBytes_FromStringAndSize(mh_buf_data(json), (Py_ssize_t)mh_buf_size(json));
    mh_buf_destroy(&json);
    return bytes;
}

static PyMethodDef methods[] = {
    {"_open", MHPY_METHOD(open_pool), METH_VARARGS | METH_KEYWORDS, "Start the workers."},
    {"_stop_calls", stop_calls, METH_NOARGS, "Take no new calls; lazy iterators go on."},
    {"_close", close_pool, METH_NOARGS, "Take no more tasks; what was accepted goes on."},
    {"_terminate", terminate_pool, METH_NOARGS, "Kill the workers; unfinished tasks are cancelled."},
    {"_join", join_pool, METH_NOARGS, "Wait until a closed or terminated pool has ended."},
    {"_cancel", cancel_tasks, METH_NOARGS, "Cancel what has not started."},
    {"_is_broken", is_broken, METH_NOARGS, "Whether it was given up because its workers do not start."},
    {"_pids", pids, METH_NOARGS, "Process numbers of the live workers."},
    {"_stats", stats, METH_NOARGS, "Counts of tasks and workers, and bytes of shared memory."},
    {"_trace", trace_text, METH_NOARGS, "The trace as JSON in bytes."},
    {"apply", MHPY_METHOD(mhpy_apply), METH_FASTCALL | METH_KEYWORDS,
     "apply($self, /, func, args=(), kwds={}, *, timeout=None, retries=None, memory=None)\n--\n\n"
     "Call func(*args, **kwds) on a worker and wait for the result."},
    {"apply_async", MHPY_METHOD(mhpy_apply_async), METH_FASTCALL | METH_KEYWORDS,
     "apply_async($self, /, func, args=(), kwds={}, callback=None, error_callback=None, *, timeout=None, retries=None, memory=None)\n--\n\n"
     "Call func(*args, **kwds) on a worker; returns an AsyncResult at once."},
    {"_map", MHPY_METHOD(mhpy_map), METH_VARARGS | METH_KEYWORDS, "map and starmap: the whole of them."},
    {"_map_async", MHPY_METHOD(mhpy_map_async), METH_VARARGS | METH_KEYWORDS, "map_async and starmap_async."},
    {"_imap", MHPY_METHOD(mhpy_imap), METH_VARARGS | METH_KEYWORDS, "imap and imap_unordered."},
    {NULL, NULL, 0, NULL},
};
/* Whether an attribute is there and equal to `value`, which is released. */
static bool has(PyObject *o, const char *name, PyObject *value)
{
    PyObject *found = value ? PyObject_GetAttrString(o, name) : NULL;
    int equal = found ? PyObject_RichCompareBool(found, value, Py_EQ) : 0;
    Py_XDECREF(found);
    Py_XDECREF(value);
    PyErr_Clear();
    return equal == 1;
}

/* In C, because an exception inside a finalizer is ignored: Ctrl-C at the end of a pool that was closed would be lost in one that is Python. */
static void finalize(PyObject *o)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (!has(o, "_start_data", PyLong_FromLong(-1)) || has(o, "_state", PyUnicode_FromString("RUN"))) {
        PyObject *done = PyObject_CallMethod(o, "_left_open", NULL);
        if (!done)
            PyErr_WriteUnraisable(o);
        Py_XDECREF(done);
    }
    PyErr_Restore(type, value, trace);
}

static PyMemberDef members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(mhpy_pool, weakrefs), READONLY, NULL},
    {"_mailbox", T_OBJECT, offsetof(mhpy_pool, mailbox), READONLY, NULL},
    {"_running", T_BOOL, offsetof(mhpy_pool, running), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot slots[] = {
    {Py_tp_new, pool_new},
    {Py_tp_dealloc, dealloc},
    {Py_tp_finalize, finalize},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_doc, "The core of a pool; manyhands.pool.Pool is made of it."},
    {0, NULL},
};
PyType_Spec mhpy_pool_spec = {
    .name = "manyhands._core.Pool",
    .basicsize = sizeof(mhpy_pool),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
