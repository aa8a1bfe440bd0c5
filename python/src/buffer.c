/* Memory that arrays are made over: a copy of its own, or a result's bytes in the pool's shared memory. */
#include "core.h"

typedef struct buffer {
    PyObject_HEAD
    void *data, *memory; /* memory: what is freed, when it is our own */
    Py_ssize_t size;
    bool readonly;
    mh_result result; /* zeroed when the memory is our own */
} buffer;

static buffer *create(void)
{
    buffer *b = PyObject_New(buffer, mhpy.buffer_type);
    if (!b)
        return NULL;
    b->data = b->memory = NULL;
    b->size = 0;
    b->readonly = false;
    memset(&b->result, 0, sizeof b->result);
    return b;
}

PyObject *mhpy_buffer_copy(const void *data, size_t size, bool readonly)
{
    buffer *b = create();
    if (!b)
        return NULL;
    b->data = b->memory = PyMem_RawMalloc(size);
    if (!b->data) {
        Py_DECREF(b);
        return PyErr_NoMemory();
    }
    if (size >= 1 << 20) { /* long enough for others to run meanwhile */
        Py_BEGIN_ALLOW_THREADS
        memcpy(b->data, data, size);
        Py_END_ALLOW_THREADS
    } else {
        memcpy(b->data, data, size);
    }
    b->size = (Py_ssize_t)size;
    b->readonly = readonly;
    return (PyObject *)b;
}

PyObject *mhpy_buffer_create(size_t size, unsigned char **data)
{
    enum { ALIGN = 64, HUGE_MIN = 4 << 20 };
    buffer *b = create();
    if (!b)
        return NULL;
    b->memory = PyMem_RawMalloc(size + ALIGN);
    if (!b->memory) {
        Py_DECREF(b);
        return PyErr_NoMemory();
    }
    *data = b->data = (unsigned char *)b->memory + (ALIGN - (uintptr_t)b->memory % ALIGN) % ALIGN;
    b->size = (Py_ssize_t)size;
    if (size >= HUGE_MIN)
        mh_memory_want_huge(b->data, size);
    return (PyObject *)b;
}

PyObject *mhpy_buffer_view(PyObject *owner, const unsigned char *base, const unsigned char *from, size_t size, bool readonly)
{
    PyObject *all = PyMemoryView_FromObject(owner);
    PyObject *part = all ? PySequence_GetSlice(all, from - base, from - base + (Py_ssize_t)size) : NULL;
    Py_XDECREF(all);
    if (part && readonly) {
        PyObject *fixed = PyObject_CallMethod(part, "toreadonly", NULL);
        Py_DECREF(part);
        part = fixed;
    }
    return part;
}

PyObject *mhpy_buffer_lease(mh_result *result)
{
    buffer *b = create();
    if (!b)
        return NULL;
    b->data = (void *)(uintptr_t)result->reply.data; /* the header promises that its borrower may write */
    b->size = (Py_ssize_t)result->reply.size;
    b->result = *result;
    memset(result, 0, sizeof *result);
    return (PyObject *)b;
}

static void dealloc(PyObject *self)
{
    buffer *b = (buffer *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (b->result.owner)
        MHPY_UNLOCKED(mh_result_release(&b->result));
    else
        PyMem_RawFree(b->memory);
    PyObject_Free(self);
    Py_DECREF(type);
}

static int get(PyObject *self, Py_buffer *view, int flags)
{
    buffer *b = (buffer *)self;
    return PyBuffer_FillInfo(view, self, b->data, b->size, b->readonly, flags);
}

static PyType_Slot slots[] = {
    {Py_tp_dealloc, dealloc},
    {Py_bf_getbuffer, get},
    {Py_tp_doc, "Memory that a task's arrays lie in."},
    {0, NULL},
};
PyType_Spec mhpy_buffer_spec = {
    .name = "manyhands._core.Buffer",
    .basicsize = sizeof(buffer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};
