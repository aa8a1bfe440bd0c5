/* Results into a block as they are made, so that a worker holds no list of them: a column as long as all are of one plain type. */
#include "codec.h"

enum { LIST = MHPY_PICKLE + 1 }; /* no column: the items wait in a list */

void mhpy_writer_open(mhpy_writer *w, uint32_t count, size_t lead, mhpy_room_fn room, void *ctx)
{
    *w = (mhpy_writer){.count = count, .lead = lead, .room = room, .ctx = ctx};
}

/* The first item decides what is tried. */
static bool writer_begin(mhpy_writer *w, PyObject *item)
{
    w->kind = mhpy_kind_of(item);
    if (w->kind == MHPY_NONE)
        return true;
    if (w->kind == MHPY_INT || w->kind == MHPY_FLOAT) {
        w->column = w->room(w->ctx, w->lead + sizeof(mhpy_block_head) + (size_t)w->count * 8);
        if (w->column)
            w->column += w->lead + sizeof(mhpy_block_head);
        return w->column;
    }
    w->kind = LIST;
    w->list = PyList_New(0);
    return w->list;
}

/* Another type came: what was written becomes a list again. */
static bool writer_widen(mhpy_writer *w)
{
    mhpy_reader r = {.part = {.kind = w->kind, .count = w->at, .data = w->column}};
    w->kind = LIST;
    w->column = NULL;
    w->list = PyList_New(0);
    for (uint32_t i = 0; w->list && i < w->at; i++) {
        PyObject *o = mhpy_reader_next(&r);
        if (!o || PyList_Append(w->list, o) < 0)
            Py_CLEAR(w->list);
        Py_XDECREF(o);
    }
    return w->list;
}

/* True when the item went into the column. */
static inline bool writer_column(mhpy_writer *w, PyObject *item)
{
    int64_t value;
    double real;
    switch (w->kind) {
    case MHPY_INT:
        if (!PyLong_CheckExact(item) || !mhpy_int_value(item, &value))
            return false;
        memcpy(w->column + 8 * (size_t)w->at, &value, 8);
        return true;
    case MHPY_FLOAT:
        if (!PyFloat_CheckExact(item))
            return false;
        real = PyFloat_AS_DOUBLE(item);
        memcpy(w->column + 8 * (size_t)w->at, &real, 8);
        return true;
    case MHPY_NONE: return item == Py_None;
    default: return false;
    }
}

bool mhpy_writer_add(mhpy_writer *w, PyObject *item)
{
    bool ok = true;
    if (w->at == w->count)
        ok = mhpy_corrupt("more items than promised");
    else if (w->at == 0)
        ok = writer_begin(w, item);
    if (ok && !writer_column(w, item))
        ok = (w->list || writer_widen(w)) && PyList_Append(w->list, item) == 0;
    Py_DECREF(item);
    w->at += ok;
    return ok;
}

bool mhpy_writer_finish(mhpy_writer *w, size_t *size)
{
    if (w->list || w->at == 0) {
        PyObject *const *items = w->list ? ((PyListObject *)w->list)->ob_item : NULL;
        return mhpy_encode(items, w->at, w->lead, false, w->room, w->ctx, size);
    }
    if (w->kind == MHPY_NONE) {
        unsigned char *to = w->room(w->ctx, w->lead + sizeof(mhpy_block_head));
        if (!to)
            return false;
        w->column = to + w->lead + sizeof(mhpy_block_head);
    }
    mhpy_write_head(w->column - sizeof(mhpy_block_head), w->kind, 0, w->at);
    *size = w->lead + sizeof(mhpy_block_head) + (w->kind == MHPY_NONE ? 0 : (size_t)w->at * 8);
    return true;
}

static inline int64_t int_at(const unsigned char *from)
{
    int64_t v;
    memcpy(&v, from, sizeof v);
    return v;
}

/* An int of value v, made of `old` (a reference that is taken; may be NULL) when nobody else can see it: what zip does with its tuples.
 * Only between ints of one digit that are not of the interpreter's small ones. */
static inline PyObject *int_again(PyObject *old, int64_t v)
{
    enum { SMALL_MAX = 1024 }; /* above what any version keeps */
    if (old && v > SMALL_MAX && v <= (int64_t)PyLong_MASK && Py_REFCNT(old) == 1) {
#if PY_VERSION_HEX >= 0x030C0000
        PyLongObject *o = (PyLongObject *)old;
        if (PyUnstable_Long_IsCompact(o) && PyUnstable_Long_CompactValue(o) > SMALL_MAX) {
            o->long_value.ob_digit[0] = (digit)v;
            return old;
        }
#else
        PyLongObject *o = (PyLongObject *)old;
        if (Py_SIZE(o) == 1 && o->ob_digit[0] > SMALL_MAX) {
            o->ob_digit[0] = (digit)v;
            return old;
        }
#endif
    }
    Py_XDECREF(old);
    return PyLong_FromLongLong(v);
}

/* Plain ints in and plain ints out, without a call for each but the function's own. Stops at what is of another kind. */
bool mhpy_run_ints(mhpy_reader *r, mhpy_writer *w, PyObject *function)
{
    vectorcallfunc call = PyVectorcall_Function(function);
    if (!call || r->part.kind != MHPY_INT)
        return true;
    const unsigned char *from = r->part.data + 8 * (size_t)r->at;
    PyObject *args[2] = {NULL, NULL};
    for (; r->at < r->part.count; from += 8) {
        args[1] = int_again(args[1], int_at(from));
        PyObject *result = args[1] ? call(function, args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL) : NULL;
        if (!result)
            break;
        r->at++;
        int64_t value;
        if (w->kind == MHPY_INT && w->column && PyLong_CheckExact(result) && w->at < w->count && mhpy_int_value(result, &value)) {
            memcpy(w->column + 8 * (size_t)w->at++, &value, 8);
            Py_DECREF(result);
        } else if (!mhpy_writer_add(w, result)) {
            w->failed = true;
            break;
        }
    }
    Py_XDECREF(args[1]);
    return r->at == r->part.count && !w->failed;
}

void mhpy_writer_close(mhpy_writer *w) { Py_CLEAR(w->list); }
