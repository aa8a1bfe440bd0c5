/* Processes and the fork server, for manyhands._popen. */
#include "core.h"

/* ---- fork hooks: what os.fork does around its system call -------------------------------------------------- */

static _Thread_local PyGILState_STATE held[8]; /* forks do not nest; a few places for hooks that fork nevertheless */
static _Thread_local int held_count;

static void before_fork(void *ctx)
{
    (void)ctx;
    PyGILState_STATE state = PyGILState_Ensure();
    if (held_count < (int)(sizeof held / sizeof held[0]))
        held[held_count++] = state;
    PyOS_BeforeFork();
}

static void after_fork_in_parent(void *ctx)
{
    (void)ctx;
    PyOS_AfterFork_Parent();
    if (held_count > 0)
        PyGILState_Release(held[--held_count]);
}

static void after_fork_in_child(void *ctx)
{
    (void)ctx;
    PyOS_AfterFork_Child(); /* the child keeps the interpreter's lock */
    held_count = 0;
}

void mhpy_install_fork_hooks(void) { mh_fork_hooks_set(before_fork, after_fork_in_parent, after_fork_in_child, NULL); }

/* ---- helpers ------------------------------------------------------------------------------------------------ */

bool mhpy_deadline(PyObject *seconds, mh_deadline *out)
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

/* A list of str or bytes as a NULL-ended array; the bytes objects live in *keep. */
static bool strings(PyObject *sequence, PyObject **keep, const char ***out)
{
    *out = NULL;
    *keep = PySequence_List(sequence);
    if (!*keep)
        return false;
    Py_ssize_t count = PyList_GET_SIZE(*keep);
    const char **array = PyMem_Calloc((size_t)count + 1, sizeof *array);
    for (Py_ssize_t i = 0; array && i < count; i++) {
        PyObject *encoded = NULL;
        if (!PyUnicode_FSConverter(PyList_GET_ITEM(*keep, i), &encoded)) {
            PyMem_Free(array);
            return false;
        }
        array[i] = PyBytes_AS_STRING(encoded);
        PyList_SetItem(*keep, i, encoded);
    }
    if (!array)
        PyErr_NoMemory();
    *out = array;
    return array;
}

#define FDS_MAX 256
static bool descriptors(PyObject *sequence, int *fds, size_t *count)
{
    *count = 0;
    PyObject *fast = PySequence_Fast(sequence, "descriptors must be a sequence");
    if (!fast)
        return false;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fast); i++) {
        if (i == FDS_MAX) {
            PyErr_SetString(PyExc_ValueError, "too many fds");
            break;
        }
        fds[i] = (int)PyLong_AsLong(PySequence_Fast_GET_ITEM(fast, i));
        if (PyErr_Occurred())
            break;
        ++*count;
    }
    Py_DECREF(fast);
    return !PyErr_Occurred();
}

/* ---- Process --------------------------------------------------------------------------------------------------- */

typedef struct process {
    PyObject_HEAD
    mh_process *process;
} process;

static PyObject *wrap(mh_process *p)
{
    process *self = PyObject_New(process, mhpy.process_type);
    if (self)
        self->process = p;
    else
        mh_process_destroy(&p);
    return (PyObject *)self;
}

static void process_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    mh_process_detach(&((process *)self)->process);
    PyObject_Free(self);
    Py_DECREF(type);
}

static mh_process *open_process(PyObject *self)
{
    mh_process *p = ((process *)self)->process;
    if (!p)
        PyErr_SetString(PyExc_ValueError, "process object is closed");
    return p;
}

/* A forked child: the callable's int is the exit code. */
static int run_child(void *ctx)
{
    PyObject *code = PyObject_CallNoArgs(ctx);
    long number = code && PyLong_Check(code) ? PyLong_AsLong(code) : 1;
    if (!code)
        PyErr_Print();
    return (int)(number & 0xff);
}

static PyObject *start_fork(PyObject *type, PyObject *args, PyObject *kwargs)
{
    (void)type;
    static char *names[] = {"run", "survive_parent", NULL};
    PyObject *run;
    int survive = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$p", names, &run, &survive))
        return NULL;
    mh_process *p = NULL;
    mh_process_options options = {.method = MH_START_FORK, .run = run_child, .ctx = run, .survive_parent = survive, .keep_signals = true};
    mh_err err; /* the interpreter's lock stays held: the child goes on under it */
    err = mh_process_start(&p, &options);
    return err ? mhpy_raise(err) : wrap(p);
}

static PyObject *start_spawn(PyObject *type, PyObject *args, PyObject *kwargs)
{
    (void)type;
    static char *names[] = {"argv", "fds", "survive_parent", NULL};
    PyObject *argv_list, *fd_list, *keep = NULL;
    int survive = 0, fds[FDS_MAX];
    mh_pass_fd pass[FDS_MAX];
    const char **argv = NULL;
    mh_process *p = NULL;
    mh_process_options options = {.method = MH_START_SPAWN, .fds = pass, .keep_signals = true};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$p", names, &argv_list, &fd_list, &survive) ||
        !descriptors(fd_list, fds, &options.fd_count) || !strings(argv_list, &keep, &argv)) {
        Py_XDECREF(keep);
        return NULL;
    }
    for (size_t i = 0; i < options.fd_count; i++)
        pass[i] = (mh_pass_fd){fds[i], -1};
    options.argv = argv;
    options.survive_parent = survive;
    mh_err err;
    Py_BEGIN_ALLOW_THREADS
    err = mh_process_start(&p, &options);
    Py_END_ALLOW_THREADS
    PyMem_Free(argv);
    Py_DECREF(keep);
    return err ? mhpy_raise(err) : wrap(p);
}

/* The exit status, or None when it has not ended in time. */
static PyObject *process_wait(PyObject *self, PyObject *args)
{
    PyObject *timeout = Py_None;
    mh_deadline until;
    mh_process *p = open_process(self);
    if (!p || !PyArg_ParseTuple(args, "|O", &timeout) || !mhpy_deadline(timeout, &until))
        return NULL;
    for (;;) {
        mh_exit status;
        mh_err err;
        mh_deadline slice = until == MH_NOW ? MH_NOW : mh_deadline_in(MHPY_SLICE_NS);
        if (slice > until)
            slice = until;
        Py_BEGIN_ALLOW_THREADS
        err = mh_process_wait(p, slice, &status);
        Py_END_ALLOW_THREADS
        if (!err)
            return PyLong_FromLong(mh_exit_number(status));
        if (err != MH_ERR_TIMEOUT && err != MH_ERR_INTERRUPTED)
            return mhpy_raise(err);
        if (PyErr_CheckSignals() < 0)
            return NULL;
        if (until != MH_FOREVER && mh_now() >= until)
            Py_RETURN_NONE;
    }
}

static PyObject *process_signal(PyObject *self, PyObject *number)
{
    mh_process *p = open_process(self);
    int signal_number = p ? (int)PyLong_AsLong(number) : 0;
    if (!p || PyErr_Occurred())
        return NULL;
    mh_err err = mh_process_signal(p, signal_number);
    if (err && err != MH_ERR_EXITED)
        return mhpy_raise(err);
    Py_RETURN_NONE;
}

static PyObject *process_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    mh_process_detach(&((process *)self)->process);
    Py_RETURN_NONE;
}

static PyObject *process_pid(PyObject *self, void *unused)
{
    (void)unused;
    mh_process *p = open_process(self);
    return p ? PyLong_FromLong(mh_process_pid(p)) : NULL;
}

static PyObject *process_sentinel(PyObject *self, void *unused)
{
    (void)unused;
    mh_process *p = open_process(self);
    return p ? PyLong_FromLong(mh_process_sentinel(p)) : NULL;
}

static PyMethodDef process_methods[] = {
    {"fork", MHPY_METHOD(start_fork), METH_VARARGS | METH_KEYWORDS | METH_CLASS,
     "fork(run, *, survive_parent=False): a forked child that calls run(), which returns its exit code."},
    {"spawn", MHPY_METHOD(start_spawn), METH_VARARGS | METH_KEYWORDS | METH_CLASS,
     "spawn(argv, fds, *, survive_parent=False): another program, with these descriptors and no others."},
    {"wait", process_wait, METH_VARARGS, "wait(timeout=None): the exit code or minus the signal; None when it still runs."},
    {"signal", process_signal, METH_O, "signal(number): send a signal; nothing happens when it has ended."},
    {"close", process_close, METH_NOARGS, "close(): forget it; it goes on."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef process_getset[] = {
    {"pid", process_pid, NULL, "Process number.", NULL},
    {"sentinel", process_sentinel, NULL, "Descriptor that is readable once it has ended.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot process_slots[] = {
    {Py_tp_dealloc, process_dealloc},
    {Py_tp_methods, process_methods},
    {Py_tp_getset, process_getset},
    {Py_tp_doc, "A child process."},
    {0, NULL},
};
PyType_Spec mhpy_process_spec = {
    .name = "manyhands._core.Process",
    .basicsize = sizeof(process),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = process_slots,
};

/* ---- ForkServer ---------------------------------------------------------------------------------------------------- */

typedef struct forkserver {
    PyObject_HEAD
    mh_forkserver *server;
} forkserver;

static PyObject *forkserver_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"argv", NULL};
    PyObject *argv_list, *keep = NULL;
    const char **argv = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", names, &argv_list) || !strings(argv_list, &keep, &argv)) {
        Py_XDECREF(keep);
        return NULL;
    }
    forkserver *self = (forkserver *)type->tp_alloc(type, 0);
    mh_err err = MH_OK;
    if (self) {
        mh_forkserver_options options = {.method = MH_START_SPAWN, .argv = argv};
        Py_BEGIN_ALLOW_THREADS
        err = mh_forkserver_start(&self->server, &options);
        Py_END_ALLOW_THREADS
    }
    PyMem_Free(argv);
    Py_DECREF(keep);
    if (err) {
        Py_DECREF(self);
        return mhpy_raise(err);
    }
    return (PyObject *)self;
}

static void forkserver_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    mh_forkserver_destroy(&((forkserver *)self)->server);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *forkserver_fork(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"message", "fds", "survive_parent", NULL};
    int survive = 0;
    Py_buffer message;
    PyObject *fd_list;
    int fds[FDS_MAX];
    size_t count = 0;
    mh_process *p = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*O|$p", names, &message, &fd_list, &survive))
        return NULL;
    if (!descriptors(fd_list, fds, &count)) {
        PyBuffer_Release(&message);
        return NULL;
    }
    mh_err err;
    mh_deadline until = mh_deadline_in(60 * MH_SECOND);
    mh_forkserver *server = ((forkserver *)self)->server;
    do { /* a signal before the request was sent leaves no child: ask again unless its handler raised */
        Py_BEGIN_ALLOW_THREADS
        err = (survive ? mh_forkserver_post_surviving : mh_forkserver_post)(server, (mh_bytes){message.buf, (size_t)message.len}, fds, count, until, &p);
        Py_END_ALLOW_THREADS
    } while (err == MH_ERR_INTERRUPTED && PyErr_CheckSignals() == 0);
    PyBuffer_Release(&message);
    /* once asked for it is waited for, however often signals come: asking anew for each would never end */
    while (!err && !PyErr_Occurred()) {
        Py_BEGIN_ALLOW_THREADS
        err = mh_process_await_start(p, until);
        Py_END_ALLOW_THREADS
        if (err != MH_ERR_INTERRUPTED)
            break;
        err = MH_OK;
        PyErr_CheckSignals();
    }
    if (!err && !PyErr_Occurred())
        return wrap(p);
    if (p)
        MHPY_UNLOCKED(mh_process_destroy(&p));
    return PyErr_Occurred() ? NULL : mhpy_raise(err);
}

static PyObject *forkserver_stop(PyObject *self, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    mh_forkserver_stop(((forkserver *)self)->server);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *forkserver_pid(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(mh_forkserver_pid(((forkserver *)self)->server));
}

static PyMethodDef forkserver_methods[] = {
    {"fork", (PyCFunction)(void (*)(void))forkserver_fork, METH_VARARGS | METH_KEYWORDS,
     "fork(message, fds, *, survive_parent=False): a child of the server that gets copies of both."},
    {"stop", forkserver_stop, METH_NOARGS, "stop(): ask the server to end, and its children with it."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef forkserver_getset[] = {
    {"pid", forkserver_pid, NULL, "Process number of the server.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot forkserver_slots[] = {
    {Py_tp_new, forkserver_new},
    {Py_tp_dealloc, forkserver_dealloc},
    {Py_tp_methods, forkserver_methods},
    {Py_tp_getset, forkserver_getset},
    {Py_tp_doc, "ForkServer(argv): a program that forks children on request; \"{socket}\" in argv becomes its socket's number."},
    {0, NULL},
};
PyType_Spec mhpy_forkserver_spec = {
    .name = "manyhands._core.ForkServer",
    .basicsize = sizeof(forkserver),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = forkserver_slots,
};

/* ---- being the fork server ---------------------------------------------------------------------------------------------- */

/* What a server has for its children: what they run, and what a spare does before it waits. */
typedef struct entries {
    PyObject *run, *warm;
} entries;

static int serve_child(mh_bytes message, const int *fds, size_t fd_count, void *ctx)
{
    PyObject *list = PyList_New((Py_ssize_t)fd_count);
    for (size_t i = 0; list && i < fd_count; i++) {
        PyObject *number = PyLong_FromLong(fds[i]);
        if (!number)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, number);
    }
    PyObject *run = ((entries *)ctx)->run;
    PyObject *code = list ? PyObject_CallFunction(run, "y#O", message.data, (Py_ssize_t)message.size, list) : NULL;
    long number = code && PyLong_Check(code) ? PyLong_AsLong(code) : 1;
    if (!code)
        PyErr_Print();
    return (int)(number & 0xff);
}

static void warm_spare(void *ctx)
{
    PyObject *done = PyObject_CallNoArgs(((entries *)ctx)->warm);
    if (!done)
        PyErr_Print();
    Py_XDECREF(done);
}

PyObject *mhpy_forkserver_serve(PyObject *module, PyObject *args)
{
    (void)module;
    int socket;
    entries e;
    if (!PyArg_ParseTuple(args, "iOO", &socket, &e.run, &e.warm))
        return NULL;
    /* one thread: the lock stays held */
    mh_err err = mh_forkserver_serve(socket, &(mh_forkserver_child){.entry = serve_child, .ctx = &e, .spare = true, .warm = warm_spare});
    if (err)
        return mhpy_raise(err);
    Py_RETURN_NONE;
}
