/* Memory for locks and their kin, and for ctypes objects: blocks in segments that children inherit or are handed.
 *
 * No process may ever see memory used anew while it still knows it as something else. So a block is free for another use only when no other
 * process can have heard of it: no fork since it was taken, and never passed to a process that starts. The others are retired:
 * they stay as they are until all objects in their arena are gone here, and the arena is unmapped. A process that was forked knows its
 * parent's arenas and allocates in its own. One descriptor serves all blocks of an arena, so that thousands of locks need few.
 */
#include "sync.h"

struct mhpy_arena {
    PyObject_HEAD
    mh_shm *shm;
    mh_heap *heap; /* NULL: one block alone, or an arena that another process allocates in */
    uint64_t life; /* mh_fork_depth of the process that made or got it */
    bool has_room; /* something was given back since it was last found full */
    mhpy_arena *next;
};

enum { FIRST_BYTES = 128 << 10, LAST_BYTES = 4 << 20, ALONE_BYTES = 1 << 20, OVERHEAD_BYTES = 16 << 10 };

/* This process's own arenas: the list borrows, `current` owns. Other fields are guarded by the interpreter's lock. */
static struct {
    uint64_t life;
    size_t next_bytes;
    mhpy_arena *first, *current;
} own;

/* ---- arenas ------------------------------------------------------------------------------------------- */

/* After a fork the parent's arenas are the parent's. */
static void forget_ancestors(void)
{
    if (own.life == mh_fork_depth() && own.next_bytes)
        return;
    mhpy_arena *old = own.current;
    own.life = mh_fork_depth();
    own.next_bytes = FIRST_BYTES;
    own.first = own.current = NULL;
    Py_XDECREF(old);
}

static mhpy_arena *wrap(mh_shm *shm)
{
    mhpy_arena *a = PyObject_New(mhpy_arena, mhpy_sync.arena);
    if (!a) {
        mh_shm_destroy(&shm);
        return NULL;
    }
    a->shm = shm;
    a->heap = NULL;
    a->life = mh_fork_depth();
    a->has_room = false;
    a->next = NULL;
    return a;
}

static mhpy_arena *make_arena(size_t bytes)
{
    mh_shm *shm = NULL;
    mh_err err;
    MHPY_UNLOCKED(err = mh_shm_create(&shm, bytes));
    if (!err)
        return wrap(shm);
    mhpy_raise(err);
    return NULL;
}

static mhpy_arena *make_current(size_t size)
{
    size_t least = size + OVERHEAD_BYTES, bytes = own.next_bytes;
    while (bytes < least)
        bytes *= 2;
    mhpy_arena *a = make_arena(bytes);
    if (!a)
        return NULL;
    mh_err err = mh_heap_create(&a->heap, mh_shm_data(a->shm), mh_shm_size(a->shm));
    if (err) {
        Py_DECREF(a);
        mhpy_raise(err);
        return NULL;
    }
    if (own.next_bytes < LAST_BYTES)
        own.next_bytes *= 2;
    a->next = own.first;
    own.first = a;
    Py_XSETREF(own.current, a);
    return a;
}

static void arena_dealloc(PyObject *self)
{
    mhpy_arena *a = (mhpy_arena *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (a->heap && a->life == own.life)
        for (mhpy_arena **at = &own.first; *at; at = &(*at)->next)
            if (*at == a) {
                *at = a->next;
                break;
            }
    mh_heap_destroy(&a->heap);
    mh_shm_destroy(&a->shm);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *arena_from_fd(PyObject *type, PyObject *fd)
{
    (void)type;
    int number = (int)PyLong_AsLong(fd);
    mh_shm *shm = NULL;
    if (number == -1 && PyErr_Occurred())
        return NULL;
    mh_err err = mh_shm_from_fd(&shm, number, 0);
    return err ? mhpy_raise(err) : (PyObject *)wrap(shm);
}

static PyObject *arena_fd(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(mh_shm_fd(((mhpy_arena *)self)->shm));
}

static PyObject *arena_size(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(mh_shm_size(((mhpy_arena *)self)->shm));
}

/* How a descriptor travels is for Python to say. */
static PyObject *arena_reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *heap = PyImport_ImportModule("manyhands.heap");
    PyObject *reduced = heap ? PyObject_CallMethod(heap, "reduce_arena", "O", self) : NULL;
    Py_XDECREF(heap);
    return reduced;
}

static PyMethodDef arena_methods[] = {
    {"from_fd", arena_from_fd, METH_O | METH_CLASS, "from_fd(fd): the arena behind a descriptor, which is taken."},
    {"__reduce__", arena_reduce, METH_NOARGS, "Travels to a process that starts, as a descriptor."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef arena_getset[] = {
    {"fd", arena_fd, NULL, "Its descriptor, borrowed.", NULL},
    {"size", arena_size, NULL, "Bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot arena_slots[] = {
    {Py_tp_dealloc, arena_dealloc},
    {Py_tp_methods, arena_methods},
    {Py_tp_getset, arena_getset},
    {Py_tp_doc, "A segment of memory that several processes see, with the shared objects in it."},
    {0, NULL},
};
PyType_Spec mhpy_arena_spec = {
    .name = "manyhands._core.Arena",
    .basicsize = sizeof(mhpy_arena),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = arena_slots,
};

/* ---- blocks ------------------------------------------------------------------------------------------- */

static void fill(mhpy_block *b, mhpy_arena *arena, uint64_t offset, size_t size)
{
    *b = (mhpy_block){.arena = arena, .offset = offset, .size = size, .at = (char *)mh_shm_data(arena->shm) + offset, .forks = mh_fork_count()};
}

static bool take_alone(mhpy_block *b, size_t size)
{
    mhpy_arena *a = make_arena(size);
    if (a)
        fill(b, a, 0, size);
    return a != NULL;
}

/* From this arena, whatever the reason why not. Nobody else uses its heap, so there is nothing to wait for. */
static bool take_from(mhpy_arena *a, mhpy_block *b, size_t size, size_t align)
{
    uint64_t offset = 0;
    if (mh_heap_alloc(a->heap, size, align, MH_NOW, &offset))
        return false;
    fill(b, (mhpy_arena *)Py_NewRef((PyObject *)a), offset, size);
    return true;
}

bool mhpy_block_take(mhpy_block *b, size_t size, size_t align)
{
    forget_ancestors();
    if (size > ALONE_BYTES)
        return take_alone(b, size);
    if (own.current && take_from(own.current, b, size, align))
        return true;
    for (mhpy_arena *a = own.first; a; a = a->next) {
        if (!a->has_room)
            continue;
        if (take_from(a, b, size, align))
            return true;
        a->has_room = false;
    }
    mhpy_arena *fresh = make_current(size);
    if (!fresh)
        return false;
    if (take_from(fresh, b, size, align))
        return true;
    mhpy_raise(MH_ERR_NO_SPACE);
    return false;
}

bool mhpy_block_join(mhpy_block *b, PyObject *place, size_t size)
{
    PyObject *arena;
    unsigned long long offset, its_size;
    if (!PyTuple_Check(place)) {
        PyErr_SetString(PyExc_TypeError, "the place of a shared object is a tuple");
        return false;
    }
    if (!PyArg_ParseTuple(place, "O!KK", mhpy_sync.arena, &arena, &offset, &its_size))
        return false;
    size_t whole = mh_shm_size(((mhpy_arena *)arena)->shm);
    if (offset % 8 || offset > whole || its_size > whole - offset || (size && its_size != size)) {
        PyErr_Format(PyExc_ValueError, "no shared object can lie at %llu with %llu bytes in an arena of %zu", offset, its_size, whole);
        return false;
    }
    fill(b, (mhpy_arena *)Py_NewRef(arena), offset, (size_t)its_size);
    b->passed = true;
    return true;
}

PyObject *mhpy_block_place(mhpy_block *b)
{
    b->passed = true;
    return Py_BuildValue("OKK", b->arena, (unsigned long long)b->offset, (unsigned long long)b->size);
}

void mhpy_block_drop(mhpy_block *b)
{
    mhpy_arena *a = b->arena;
    if (a && a->heap && a->life == mh_fork_depth() && b->forks == mh_fork_count() && !b->passed && mh_heap_free(a->heap, b->offset, MH_NOW) == MH_OK)
        a->has_room = true;
    *b = (mhpy_block){0};
    Py_XDECREF((PyObject *)a);
}

/* ---- Block: a block as Python sees it, for ctypes objects ------------------------------------------------- */

typedef struct block_object {
    PyObject_HEAD
    mhpy_block block;
} block_object;

enum { BLOCK_ALIGN = 64 }; /* a cache line: neighbours do not slow each other down */

static int block_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"size", NULL};
    mhpy_block *b = &((block_object *)self)->block;
    Py_ssize_t size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n", names, &size))
        return -1;
    if (b->arena) {
        PyErr_SetString(PyExc_RuntimeError, "this block has its memory already");
        return -1;
    }
    if (size < 0) {
        PyErr_Format(PyExc_ValueError, "Size %zd out of range", size);
        return -1;
    }
    return mhpy_block_take(b, size ? (size_t)size : 1, BLOCK_ALIGN) ? 0 : -1;
}

static void block_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    mhpy_block_drop(&((block_object *)self)->block);
    type->tp_free(self);
    Py_DECREF(type);
}

static bool block_is_there(const mhpy_block *b)
{
    if (!b->arena)
        PyErr_SetString(PyExc_ValueError, "this block has no memory: it was not initialised");
    return b->arena;
}

static int block_buffer(PyObject *self, Py_buffer *view, int flags)
{
    mhpy_block *b = &((block_object *)self)->block;
    if (block_is_there(b))
        return PyBuffer_FillInfo(view, self, b->at, (Py_ssize_t)b->size, 0, flags);
    view->obj = NULL;
    return -1;
}

static PyObject *block_place(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_block *b = &((block_object *)self)->block;
    return block_is_there(b) ? mhpy_block_place(b) : NULL;
}

static PyObject *block_join(PyObject *self, PyObject *place)
{
    mhpy_block *b = &((block_object *)self)->block;
    if (b->arena) {
        PyErr_SetString(PyExc_RuntimeError, "this block has its memory already");
        return NULL;
    }
    if (!mhpy_block_join(b, place, 0))
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef block_methods[] = {
    {"_place", block_place, METH_NOARGS, "_place(): where it lies, for another process: (arena, offset, size)."},
    {"_join", block_join, METH_O, "_join(place): be the block that lies there."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot block_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, block_init},
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_methods, block_methods},
    {Py_bf_getbuffer, block_buffer},
    {Py_tp_doc, "Block(size): memory that children see, writable through the buffer protocol; not cleared."},
    {0, NULL},
};
PyType_Spec mhpy_block_spec = {
    .name = "manyhands._core.Block",
    .basicsize = sizeof(block_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = block_slots,
};

/* ---- all types ----------------------------------------------------------------------------------------- */

mhpy_sync_types mhpy_sync;

static bool add(PyObject *module, PyType_Spec *spec, PyTypeObject *base, PyTypeObject **out)
{
    *out = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, (PyObject *)base);
    return *out && PyModule_AddType(module, *out) == 0;
}

bool mhpy_sync_add(PyObject *module)
{
    return add(module, &mhpy_arena_spec, NULL, &mhpy_sync.arena) && add(module, &mhpy_block_spec, NULL, &mhpy_sync.block) &&
           add(module, &mhpy_semlock_spec, NULL, &mhpy_sync.semlock) && add(module, &mhpy_event_spec, NULL, &mhpy_sync.event) &&
           add(module, &mhpy_condition_spec, NULL, &mhpy_sync.condition) && add(module, &mhpy_barrier_spec, NULL, &mhpy_sync.barrier) &&
           add(module, &mhpy_synchronized_spec, NULL, &mhpy_sync.synchronized) &&
           add(module, &mhpy_synchronized_array_spec, mhpy_sync.synchronized, &mhpy_sync.synchronized_array) &&
           add(module, &mhpy_locked_field_spec, NULL, &mhpy_sync.locked_field);
}
