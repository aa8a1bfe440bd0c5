/* ctypes objects behind a lock: what `Value` and `Array` give.
 *
 * A LockedField is an attribute that is read and written under the lock of the object that it belongs to. The `value` of a plain number whose
 * address is known is read and written here, in the cases in which ctypes would do no more; everything else is ctypes' own.
 */
#include "sync.h"

typedef struct synchronized {
    PyObject_HEAD
    PyObject *obj, *lock;
    bool is_ours; /* the lock is a SemLock */
    char code;    /* of a plain number, as ctypes has it; 0 for anything else */
    void *at;     /* where the number lies: obj keeps the memory */
} synchronized;

/* ---- the lock ------------------------------------------------------------------------------------------- */

static bool is_there(const synchronized *s)
{
    if (!s->obj)
        PyErr_SetString(PyExc_ValueError, "this synchronized object was not initialised");
    return s->obj;
}

static bool acquire(synchronized *s)
{
    if (s->is_ours)
        return mhpy_semlock_acquire(s->lock, MH_FOREVER) >= 0;
    PyObject *done = PyObject_CallMethod(s->lock, "acquire", NULL);
    Py_XDECREF(done);
    return done;
}

/* An exception that is set stays set. False with an exception set. */
static bool release(synchronized *s)
{
    if (s->is_ours && !PyErr_Occurred())
        return mhpy_semlock_release(s->lock);
    PyObject *before = mhpy_take_exception();
    PyObject *done = s->is_ours ? PyBool_FromLong(mhpy_semlock_release(s->lock)) : PyObject_CallMethod(s->lock, "release", NULL);
    Py_XDECREF(done);
    if (PyErr_Occurred())
        Py_XDECREF(before);
    else
        mhpy_raise_object(before);
    return !PyErr_Occurred();
}

/* A plain number whose recursive lock the caller holds: no code of anybody's runs while it is read or written, so the lock need not be taken once more. */
static bool is_inside(const synchronized *s) { return s->code && s->is_ours && mhpy_semlock_is_held(s->lock); }

/* ---- numbers ---------------------------------------------------------------------------------------------- */

#define AS(type) (*(type *)s->at)

/* NULL without an exception: not one of the plain cases. */
static PyObject *read_number(const synchronized *s)
{
    switch (s->code) {
    case 'b': return PyLong_FromLong(AS(signed char));
    case 'B': return PyLong_FromLong(AS(unsigned char));
    case 'h': return PyLong_FromLong(AS(short));
    case 'H': return PyLong_FromLong(AS(unsigned short));
    case 'i': return PyLong_FromLong(AS(int));
    case 'I': return PyLong_FromUnsignedLong(AS(unsigned int));
    case 'l': return PyLong_FromLong(AS(long));
    case 'L': return PyLong_FromUnsignedLong(AS(unsigned long));
    case 'q': return PyLong_FromLongLong(AS(long long));
    case 'Q': return PyLong_FromUnsignedLongLong(AS(unsigned long long));
    case 'f': return PyFloat_FromDouble((double)AS(float));
    case 'd': return PyFloat_FromDouble(AS(double));
    default: return NULL;
    }
}

/* As ctypes: what is too long loses its upper bits. */
static bool write_int(synchronized *s, PyObject *value)
{
    unsigned long long bits = PyLong_AsUnsignedLongLongMask(value);
    switch (s->code) {
    case 'b':
    case 'B': AS(unsigned char) = (unsigned char)bits; return true;
    case 'h':
    case 'H': AS(unsigned short) = (unsigned short)bits; return true;
    case 'i':
    case 'I': AS(unsigned int) = (unsigned int)bits; return true;
    case 'l':
    case 'L':
    case 'q':
    case 'Q': AS(unsigned long long) = bits; return true;
    default: return false;
    }
}

_Static_assert(sizeof(long) == sizeof(long long), "one case for both");

/* False without an exception: not one of the plain cases. */
static bool write_number(synchronized *s, PyObject *value)
{
    if (!s->code)
        return false;
    if (PyLong_CheckExact(value))
        return write_int(s, value);
    if (!PyFloat_CheckExact(value) || (s->code != 'd' && s->code != 'f'))
        return false;
    if (s->code == 'd')
        AS(double) = PyFloat_AS_DOUBLE(value);
    else
        AS(float) = (float)PyFloat_AS_DOUBLE(value);
    return true;
}

/* ---- LockedField --------------------------------------------------------------------------------------------- */

typedef struct locked_field {
    PyObject_HEAD
    PyObject *name;
    bool is_value; /* named "value": the number itself, where there is one */
} locked_field;

static int field_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", NULL};
    locked_field *f = (locked_field *)self;
    PyObject *name;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U", names, &name))
        return -1;
    Py_XSETREF(f->name, Py_NewRef(name));
    f->is_value = PyUnicode_CompareWithASCIIString(name, "value") == 0;
    return 0;
}

static void field_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((locked_field *)self)->name);
    type->tp_free(self);
    Py_DECREF(type);
}

static synchronized *owner_of(locked_field *f, PyObject *object)
{
    if (f->name && PyObject_TypeCheck(object, mhpy_sync.synchronized))
        return is_there((synchronized *)object) ? (synchronized *)object : NULL;
    PyErr_Format(PyExc_TypeError, "a locked field belongs to synchronized objects, not to %.100s", Py_TYPE(object)->tp_name);
    return NULL;
}

static PyObject *field_get(PyObject *self, PyObject *object, PyObject *type)
{
    (void)type;
    locked_field *f = (locked_field *)self;
    if (!object || object == Py_None)
        return Py_NewRef(self);
    synchronized *s = owner_of(f, object);
    if (s && f->is_value && is_inside(s))
        return read_number(s);
    if (!s || !acquire(s))
        return NULL;
    PyObject *found = f->is_value ? read_number(s) : NULL;
    if (!found && !PyErr_Occurred())
        found = PyObject_GetAttr(s->obj, f->name);
    if (release(s))
        return found;
    Py_XDECREF(found);
    return NULL;
}

static int field_set(PyObject *self, PyObject *object, PyObject *value)
{
    locked_field *f = (locked_field *)self;
    synchronized *s = owner_of(f, object);
    if (!s)
        return -1;
    if (!value) {
        PyErr_Format(PyExc_AttributeError, "can't delete attribute '%U'", f->name);
        return -1;
    }
    if (f->is_value && is_inside(s) && write_number(s, value))
        return 0;
    if (!acquire(s))
        return -1;
    if (!(f->is_value && write_number(s, value)))
        (void)PyObject_SetAttr(s->obj, f->name, value);
    return release(s) ? 0 : -1;
}

static PyType_Slot field_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, field_init},
    {Py_tp_dealloc, field_dealloc},
    {Py_tp_descr_get, field_get},
    {Py_tp_descr_set, field_set},
    {Py_tp_doc, "LockedField(name): an attribute of a synchronized object's ctypes object, used under the lock."},
    {0, NULL},
};
PyType_Spec mhpy_locked_field_spec = {
    .name = "manyhands._core.LockedField",
    .basicsize = sizeof(locked_field),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = field_slots,
};

/* ---- SynchronizedBase ------------------------------------------------------------------------------------------ */

static int synchronized_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"obj", "lock", "address", "code", NULL};
    synchronized *s = (synchronized *)self;
    PyObject *obj, *lock;
    unsigned long long address = 0;
    const char *code = "";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|Ks", names, &obj, &lock, &address, &code))
        return -1;
    Py_XSETREF(s->obj, Py_NewRef(obj));
    Py_XSETREF(s->lock, Py_NewRef(lock));
    s->is_ours = mhpy_semlock_check(lock);
    s->at = (void *)(uintptr_t)address;
    s->code = address && code[0] && !code[1] && strchr("bBhHiIlLqQfd", code[0]) ? code[0] : 0;
    return 0;
}

static int synchronized_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((synchronized *)self)->obj);
    Py_VISIT(((synchronized *)self)->lock);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int synchronized_clear(PyObject *self)
{
    synchronized *s = (synchronized *)self;
    s->code = 0;
    Py_CLEAR(s->obj);
    Py_CLEAR(s->lock);
    return 0;
}

static void synchronized_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    synchronized_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *get_obj(PyObject *self, PyObject *unused)
{
    (void)unused;
    synchronized *s = (synchronized *)self;
    return is_there(s) ? Py_NewRef(s->obj) : NULL;
}

static PyObject *get_lock(PyObject *self, PyObject *unused)
{
    (void)unused;
    synchronized *s = (synchronized *)self;
    return is_there(s) ? Py_NewRef(s->lock) : NULL;
}

static PyObject *synchronized_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    synchronized *s = (synchronized *)self;
    if (!is_there(s))
        return NULL;
    if (!s->is_ours)
        return PyObject_CallMethod(s->lock, "__enter__", NULL);
    return acquire(s) ? Py_NewRef(Py_True) : NULL;
}

static PyObject *synchronized_exit(PyObject *self, PyObject *args)
{
    synchronized *s = (synchronized *)self;
    if (!is_there(s))
        return NULL;
    if (!s->is_ours) {
        PyObject *method = PyObject_GetAttrString(s->lock, "__exit__"), *done = method ? PyObject_CallObject(method, args) : NULL;
        Py_XDECREF(method);
        return done;
    }
    if (!release(s))
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef synchronized_methods[] = {
    {"get_obj", get_obj, METH_NOARGS, "get_obj(): the ctypes object without the lock."},
    {"get_lock", get_lock, METH_NOARGS, "get_lock(): the lock."},
    {"__enter__", synchronized_enter, METH_NOARGS, "Acquire the lock."},
    {"__exit__", synchronized_exit, METH_VARARGS, "Release the lock."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef synchronized_members[] = {
    {"_obj", T_OBJECT, offsetof(synchronized, obj), READONLY, "The ctypes object."},
    {"_lock", T_OBJECT, offsetof(synchronized, lock), READONLY, "The lock."},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot synchronized_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, synchronized_init},
    {Py_tp_traverse, synchronized_traverse},
    {Py_tp_clear, synchronized_clear},
    {Py_tp_dealloc, synchronized_dealloc},
    {Py_tp_methods, synchronized_methods},
    {Py_tp_members, synchronized_members},
    {Py_tp_doc, "SynchronizedBase(obj, lock, address=0, code=''): a ctypes object and the lock that guards it."},
    {0, NULL},
};
PyType_Spec mhpy_synchronized_spec = {
    .name = "manyhands._core.SynchronizedBase",
    .basicsize = sizeof(synchronized),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = synchronized_slots,
};

/* ---- SynchronizedArray -------------------------------------------------------------------------------------------- */

static Py_ssize_t array_length(PyObject *self)
{
    synchronized *s = (synchronized *)self;
    return is_there(s) ? PyObject_Length(s->obj) : -1;
}

static PyObject *array_get(PyObject *self, PyObject *key)
{
    synchronized *s = (synchronized *)self;
    if (!is_there(s) || !acquire(s))
        return NULL;
    PyObject *found = PyObject_GetItem(s->obj, key);
    if (release(s))
        return found;
    Py_XDECREF(found);
    return NULL;
}

static int array_set(PyObject *self, PyObject *key, PyObject *value)
{
    synchronized *s = (synchronized *)self;
    if (!is_there(s) || !acquire(s))
        return -1;
    (void)(value ? PyObject_SetItem(s->obj, key, value) : PyObject_DelItem(s->obj, key));
    return release(s) ? 0 : -1;
}

/* Iterating goes by number, each under the lock. */
static PyObject *array_item(PyObject *self, Py_ssize_t at)
{
    PyObject *key = PyLong_FromSsize_t(at), *found = key ? array_get(self, key) : NULL;
    Py_XDECREF(key);
    return found;
}

static PyType_Slot array_slots[] = {
    {Py_tp_traverse, synchronized_traverse},
    {Py_tp_clear, synchronized_clear},
    {Py_tp_dealloc, synchronized_dealloc},
    {Py_mp_length, array_length},
    {Py_mp_subscript, array_get},
    {Py_mp_ass_subscript, array_set},
    {Py_sq_item, array_item},
    {Py_tp_doc, "SynchronizedArray(obj, lock): a ctypes array whose items are used under the lock."},
    {0, NULL},
};
PyType_Spec mhpy_synchronized_array_spec = {
    .name = "manyhands._core.SynchronizedArray",
    .basicsize = sizeof(synchronized),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = array_slots,
};
