/* Segments with a name, for manyhands.shared_memory; counted ones, for manyhands.shared_array. */
#include "core.h"

#include "manyhands/shm.h"

/* The process at the root of this program: names of its children's trees stay until it has ended. */
static uint64_t root;
static uint64_t told_root_in; /* the process that has told its janitor so */

typedef struct segment {
    PyObject_HEAD
    mh_shm *plain;
    mh_shared *counted;
    Py_ssize_t exports; /* buffers that point into it */
    PyObject *weakrefs;
} segment;

static bool is_open(const segment *s)
{
    if (s->plain || s->counted)
        return true;
    PyErr_SetString(PyExc_ValueError, "the segment is closed");
    return false;
}

/* Have names of this process's tree outlive it as long as the program runs. Calls that may start a janitor are made with the interpreter's lock
 * let go of, for it forks. */
static mh_err follow_root(void)
{
    uint64_t self = mh_shm_tree_self();
    if (!root || root == self || told_root_in == self)
        return MH_OK;
    mh_err err = mh_shm_tree_await(root);
    if (!err)
        told_root_in = self;
    return err;
}

static PyObject *wrap(PyObject *type, mh_shm *plain, mh_shared *counted)
{
    segment *s = (segment *)((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    if (s) {
        s->plain = plain;
        s->counted = counted;
        return (PyObject *)s;
    }
    mh_shm_destroy(&plain);
    mh_shared_close(&counted);
    return NULL;
}

static bool parse_size(PyObject *number, size_t *size)
{
    Py_ssize_t n = PyNumber_AsSsize_t(number, PyExc_OverflowError);
    if (n == -1 && PyErr_Occurred())
        return false;
    if (n <= 0) {
        PyErr_Format(PyExc_ValueError, "size must be a positive number of bytes, not %zd", n);
        return false;
    }
    *size = (size_t)n;
    return true;
}

static PyObject *segment_create(PyObject *type, PyObject *args)
{
    const char *name;
    PyObject *number;
    size_t size;
    mh_shm *shm = NULL;
    mh_err err;
    if (!PyArg_ParseTuple(args, "zO", &name, &number) || !parse_size(number, &size))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    err = mh_shm_create_named(&shm, name, size);
    if (!err)
        err = follow_root();
    if (err && shm) {
        (void)mh_shm_unlink(mh_shm_name(shm));
        mh_shm_destroy(&shm);
    }
    Py_END_ALLOW_THREADS
    return err ? mhpy_raise(err) : wrap(type, shm, NULL);
}

static PyObject *segment_open(PyObject *type, PyObject *args)
{
    const char *name;
    int readonly = 0;
    mh_shm *shm = NULL;
    mh_err err;
    if (!PyArg_ParseTuple(args, "s|p", &name, &readonly))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    err = mh_shm_open_named(&shm, name, readonly ? MH_SHM_READONLY : 0);
    Py_END_ALLOW_THREADS
    return err ? mhpy_raise(err) : wrap(type, shm, NULL);
}

static PyObject *segment_create_counted(PyObject *type, PyObject *number)
{
    size_t size;
    mh_shared *shared = NULL;
    mh_err err;
    if (!parse_size(number, &size))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    err = mh_shared_create(&shared, size);
    if (!err)
        err = follow_root();
    if (err)
        mh_shared_close(&shared);
    Py_END_ALLOW_THREADS
    return err ? mhpy_raise(err) : wrap(type, NULL, shared);
}

static PyObject *segment_open_counted(PyObject *type, PyObject *args)
{
    const char *name;
    int readonly = 0;
    mh_shared *shared = NULL;
    mh_err err;
    if (!PyArg_ParseTuple(args, "s|p", &name, &readonly))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    err = mh_shared_open(&shared, name, readonly ? MH_SHM_READONLY : 0);
    Py_END_ALLOW_THREADS
    return err ? mhpy_raise(err) : wrap(type, NULL, shared);
}

/* True when a reference was counted, False when only a copy will do. */
static PyObject *segment_post(PyObject *self, PyObject *unused)
{
    (void)unused;
    segment *s = (segment *)self;
    mh_err err;
    if (!is_open(s))
        return NULL;
    if (!s->counted) {
        PyErr_SetString(PyExc_TypeError, "only counted segments are posted");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = mh_shared_post(s->counted);
    Py_END_ALLOW_THREADS
    return err && err != MH_ERR_CLOSED ? mhpy_raise(err) : PyBool_FromLong(!err);
}

static PyObject *segment_arrive(PyObject *self, PyObject *unused)
{
    (void)unused;
    segment *s = (segment *)self;
    if (!is_open(s))
        return NULL;
    if (s->counted)
        mh_shared_arrive(s->counted);
    Py_RETURN_NONE;
}

static void close_segment(segment *s)
{
    mh_shm *plain = s->plain;
    mh_shared *counted = s->counted;
    s->plain = NULL;
    s->counted = NULL;
    Py_BEGIN_ALLOW_THREADS
    mh_shm_destroy(&plain);
    mh_shared_close(&counted);
    Py_END_ALLOW_THREADS
}

static PyObject *segment_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    segment *s = (segment *)self;
    if (s->exports)
        return PyErr_Format(PyExc_BufferError, "cannot close shared memory: %zd views of it (memoryviews, arrays) are still in use", s->exports);
    close_segment(s);
    Py_RETURN_NONE;
}

static void segment_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (((segment *)self)->weakrefs)
        PyObject_ClearWeakRefs(self);
    close_segment((segment *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int segment_get(PyObject *self, Py_buffer *view, int flags)
{
    segment *s = (segment *)self;
    if (!is_open(s))
        return -1;
    void *data = s->plain ? mh_shm_data(s->plain) : mh_shared_data(s->counted);
    size_t size = s->plain ? mh_shm_size(s->plain) : mh_shared_size(s->counted);
    bool readonly = s->plain ? mh_shm_is_readonly(s->plain) : mh_shared_is_readonly(s->counted);
    if (PyBuffer_FillInfo(view, self, data, (Py_ssize_t)size, readonly, flags) < 0)
        return -1;
    s->exports++;
    return 0;
}

static void segment_release(PyObject *self, Py_buffer *view)
{
    (void)view;
    ((segment *)self)->exports--;
}

static PyObject *segment_name(PyObject *self, void *unused)
{
    (void)unused;
    segment *s = (segment *)self;
    if (!is_open(s))
        return NULL;
    return PyUnicode_DecodeFSDefault(s->plain ? mh_shm_name(s->plain) : mh_shared_name(s->counted));
}

static PyObject *segment_size(PyObject *self, void *unused)
{
    (void)unused;
    segment *s = (segment *)self;
    return is_open(s) ? PyLong_FromSize_t(s->plain ? mh_shm_size(s->plain) : mh_shared_size(s->counted)) : NULL;
}

static PyObject *segment_address(PyObject *self, void *unused)
{
    (void)unused;
    segment *s = (segment *)self;
    return is_open(s) ? PyLong_FromVoidPtr(s->plain ? mh_shm_data(s->plain) : mh_shared_data(s->counted)) : NULL;
}

static PyObject *segment_readonly(PyObject *self, void *unused)
{
    (void)unused;
    segment *s = (segment *)self;
    return is_open(s) ? PyBool_FromLong(s->plain ? mh_shm_is_readonly(s->plain) : mh_shared_is_readonly(s->counted)) : NULL;
}

static PyObject *segment_fileno(PyObject *self, PyObject *unused)
{
    (void)unused;
    segment *s = (segment *)self;
    if (!is_open(s))
        return NULL;
    return s->plain ? PyLong_FromLong(mh_shm_fd(s->plain)) : PyErr_Format(PyExc_TypeError, "a counted segment lends no descriptor");
}

static PyMethodDef segment_methods[] = {
    {"create", segment_create, METH_VARARGS | METH_CLASS, "create(name, size): a new segment, zeroed; None gives it a random name."},
    {"open", segment_open, METH_VARARGS | METH_CLASS, "open(name, readonly=False): map an existing one."},
    {"create_counted", segment_create_counted, METH_O | METH_CLASS, "create_counted(size): one whose last user removes its name."},
    {"open_counted", segment_open_counted, METH_VARARGS | METH_CLASS, "open_counted(name, readonly=False): become a user of it."},
    {"post", segment_post, METH_NOARGS, "post(): count a reference that is on its way; False when the name is gone, so that only a copy will do."},
    {"arrive", segment_arrive, METH_NOARGS, "arrive(): a reference has arrived where it is open already."},
    {"close", segment_close, METH_NOARGS, "close(): unmap it here; BufferError while views are in use."},
    {"fileno", segment_fileno, METH_NOARGS, "fileno(): its descriptor."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef segment_getset[] = {
    {"name", segment_name, NULL, "Its name in /dev/shm.", NULL},
    {"size", segment_size, NULL, "Bytes.", NULL},
    {"address", segment_address, NULL, "Where it is mapped in this process.", NULL},
    {"readonly", segment_readonly, NULL, "Whether it is mapped for reading only.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMemberDef segment_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(segment, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot segment_slots[] = {
    {Py_tp_dealloc, segment_dealloc},
    {Py_tp_methods, segment_methods},
    {Py_tp_getset, segment_getset},
    {Py_tp_members, segment_members},
    {Py_bf_getbuffer, segment_get},
    {Py_bf_releasebuffer, segment_release},
    {Py_tp_doc, "Memory with a name that several processes see. It lives as long as a view of it."},
    {0, NULL},
};
PyType_Spec mhpy_segment_spec = {
    .name = "manyhands._core.Segment",
    .basicsize = sizeof(segment),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = segment_slots,
};

/* ---- names ------------------------------------------------------------------------------------------- */

static PyObject *by_name(PyObject *args, mh_err (*verb)(const char *name))
{
    const char *name;
    mh_err err;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    err = verb(name);
    if (!err && verb == mh_shm_track)
        err = follow_root();
    Py_END_ALLOW_THREADS
    if (err)
        return mhpy_raise(err);
    Py_RETURN_NONE;
}

PyObject *mhpy_shm_unlink(PyObject *module, PyObject *args) { (void)module; return by_name(args, mh_shm_unlink); }
PyObject *mhpy_shm_track(PyObject *module, PyObject *args) { (void)module; return by_name(args, mh_shm_track); }
PyObject *mhpy_shm_untrack(PyObject *module, PyObject *args) { (void)module; return by_name(args, mh_shm_untrack); }

PyObject *mhpy_shm_report(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    mh_err err;
    if (!PyArg_ParseTuple(args, "i", &fd))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    err = mh_shm_tree_report(fd);
    Py_END_ALLOW_THREADS
    if (err)
        return mhpy_raise(err);
    Py_RETURN_NONE;
}

void mhpy_shm_start(void) { root = mh_shm_tree_self(); }

/* The process at the root of the program: this one, unless it was told that another started it. */
PyObject *mhpy_shm_root(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long told = 0;
    if (!PyArg_ParseTuple(args, "|K", &told))
        return NULL;
    if (told)
        root = told;
    return PyLong_FromUnsignedLongLong(root);
}
