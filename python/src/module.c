/* The module manyhands._core: types, and the few functions that belong to none. */
#include "core.h"
#include "message.h"
#include "sync.h"

#define MHPY_TEXT_OF(x) #x
#define MHPY_TEXT(x) MHPY_TEXT_OF(x)
#define MHPY_VERSION MHPY_TEXT(MH_VERSION_MAJOR) "." MHPY_TEXT(MH_VERSION_MINOR) "." MHPY_TEXT(MH_VERSION_PATCH)

mhpy_state mhpy;

static PyObject *cpu_count(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromSize_t(mh_cpu_count());
}

static PyObject *default_workers(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromSize_t(mh_pool_default_workers());
}

static PyObject *cores_share(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    int fd;
    mh_err err = mh_cores_share(&fd);
    return err ? mhpy_raise(err) : PyLong_FromLong(fd);
}

static PyObject *cores_join(PyObject *module, PyObject *fd)
{
    (void)module;
    int number = PyObject_AsFileDescriptor(fd);
    mh_err err = number < 0 ? MH_OK : mh_cores_join(number);
    if (number < 0)
        return NULL;
    if (err)
        return mhpy_raise(err);
    Py_RETURN_NONE;
}

static PyObject *fork_count(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromUnsignedLongLong(mh_fork_count());
}

/* The interpreter's lock stays held: other threads do not go on while the C library and others clear up. */
static PyObject *exit_now(PyObject *module, PyObject *code)
{
    (void)module;
    long number = PyLong_AsLong(code);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    exit((int)number);
}

static PyObject *survive_parent(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    mh_err err = mh_parent_survive();
    if (err)
        return mhpy_raise(err);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"cpu_count", cpu_count, METH_NOARGS, "cpu_count(): cores that this process may use."},
    {"default_workers", default_workers, METH_NOARGS, "default_workers(): how many workers a pool made here and now has by default."},
    {"cores_share", cores_share, METH_NOARGS, "cores_share(): a descriptor of the record by which pools share the cores."},
    {"cores_join", cores_join, METH_O, "cores_join(fd): share the cores by the record behind a descriptor."},
    {"fork_count", fork_count, METH_NOARGS, "fork_count(): forks of this process and of those that it was forked from, all together."},
    {"survive_parent", survive_parent, METH_NOARGS, "survive_parent(): go on when the parent of this process ends; in the main thread only."},
    {"exit", exit_now, METH_O, "exit(code): end this process as exit(3) does, without taking the interpreter down."},
    {"marks", mhpy_marks, METH_O, "marks(names): which names a dict has now, for is_marked."},
    {"is_marked", mhpy_is_marked, METH_VARARGS, "is_marked(marks, name): whether the dict had the name."},
    {"worker_main", mhpy_worker_main, METH_VARARGS, "worker_main(socket, prepare): be a pool's worker until it closes."},
    {"worker_server", mhpy_worker_server, METH_VARARGS, "worker_server(socket, prepare): fork a pool's workers on request."},
    {"forkserver_serve", mhpy_forkserver_serve, METH_VARARGS,
     "forkserver_serve(socket, entry, warm): fork children that run entry(message, fds) on request; one that is forked ahead calls warm() first."},
    {"encode", mhpy_encode_py, METH_O, "encode(items): a block of bytes, as tasks and results travel."},
    {"make_future_type", mhpy_make_future_type, METH_VARARGS,
     "make_future_type(base, module): the type of an executor's futures, a subclass of base; module has what they call."},
    {"decode", mhpy_decode_py, METH_O, "decode(block): the items of a block; ValueError when it is not valid."},
    {"shm_unlink", mhpy_shm_unlink, METH_VARARGS, "shm_unlink(name): remove a name from /dev/shm."},
    {"shm_track", mhpy_shm_track, METH_VARARGS, "shm_track(name): have it removed when this program has ended."},
    {"shm_untrack", mhpy_shm_untrack, METH_VARARGS, "shm_untrack(name): let it stay."},
    {"shm_report", mhpy_shm_report, METH_VARARGS, "shm_report(fd): where to write that names were left at the end."},
    {"shm_root", mhpy_shm_root, METH_VARARGS, "shm_root(told=0): the identity of the process that began this program; a child is told it."},
    {"disown_semaphores", mhpy_disown_semaphores, METH_NOARGS, "disown_semaphores(): what this process holds of semaphores is others' to release."},
    {NULL, NULL, 0, NULL},
};

static bool make_type(PyObject *module, PyType_Spec *spec, PyTypeObject **out)
{
    *out = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *out;
}

static bool add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **out)
{
    return make_type(module, spec, out) && PyModule_AddType(module, *out) == 0;
}

static PyObject *attribute(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name), *found = module ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return found;
}

static bool fill_state(PyObject *module)
{
    mhpy.module = module;
    mhpy.loads = attribute("_pickle", "loads");
    mhpy.empty_tuple = PyTuple_New(0);
    mhpy.str_buffers = Py_BuildValue("(s)", "buffers");
    mhpy.pickler = attribute("_pickle", "Pickler");
    mhpy.str_buffer_callback = Py_BuildValue("(s)", "buffer_callback");
    mhpy.str_dump = PyUnicode_InternFromString("dump");
    mhpy.str_clear_memo = PyUnicode_InternFromString("clear_memo");
    mhpy.errors = mhpy.str_buffers ? PyImport_ImportModule("manyhands._errors") : NULL;
    mhpy.serial = mhpy.errors ? PyImport_ImportModule("manyhands._serial") : NULL;
    return mhpy.loads && mhpy.empty_tuple && mhpy.pickler && mhpy.str_buffer_callback && mhpy.str_dump && mhpy.str_clear_memo && mhpy.serial;
}

static int execute(PyObject *module)
{
    PyTypeObject *executor_type;
    if (mhpy.module) {
        PyErr_SetString(PyExc_ImportError, "manyhands._core can be used by one interpreter of a process only");
        return -1;
    }
    if (!fill_state(module) || !add_type(module, &mhpy_buffer_spec, &mhpy.buffer_type) ||
        !add_type(module, &mhpy_process_spec, &mhpy.process_type) ||
        !add_type(module, &mhpy_forkserver_spec, &mhpy.forkserver_type) || !add_type(module, &mhpy_pool_spec, &mhpy.pool_type) ||
        !add_type(module, &mhpy_async_result_spec, &mhpy.async_result_type) ||
        !add_type(module, &mhpy_mailbox_spec, &mhpy.mailbox_type) || !add_type(module, &mhpy_imap_spec, &mhpy.imap_type) ||
        !add_type(module, &mhpy_segment_spec, &mhpy.segment_type) || !add_type(module, &mhpy_proxy_channel_spec, &mhpy.proxy_channel_type) ||
        !add_type(module, &mhpy_queue_spec, &mhpy.queue_type) || !add_type(module, &mhpy_simple_queue_spec, &mhpy.simple_queue_type) ||
        !add_type(module, &mhpy_pipe_spec, &mhpy.pipe_type) || !make_type(module, &mhpy_sink_spec, &mhpy.sink_type) ||
        !make_type(module, &mhpy_reducers_spec, &mhpy.reducers_type) || !mhpy_watch_forks() ||
        !add_type(module, &mhpy_future_base_spec, &mhpy.future_base_type) || !add_type(module, &mhpy_executor_spec, &executor_type) || !mhpy_sync_add(module) ||
        !mhpy_link_add(module)) {
        memset(&mhpy, 0, sizeof mhpy);
        return -1;
    }
    mhpy_install_fork_hooks();
    mhpy_shm_start();
    return PyModule_AddStringConstant(module, "version", MHPY_VERSION);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "manyhands._core",
    .m_doc = "The C core of manyhands: processes, and pools with their codec.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
