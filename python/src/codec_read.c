/* A block into items. What touches the bytes is in codec_parse.c; here they become objects. */
#include "codec.h"

bool mhpy_corrupt(const char *what)
{
    PyErr_Format(PyExc_ValueError, "not a valid block: %s", what);
    return false;
}

/* The buffers of a pickle, as a list of objects to make arrays over. */
static PyObject *open_buffers(mhpy_reader *r, mh_bytes bytes, const unsigned char *base, mh_result *lease)
{
    PyObject *list = PyList_New((Py_ssize_t)r->part.row_count);
    for (size_t i = 0; list && i < r->part.row_count; i++) {
        PyObject *o = NULL;
        mh_bytes buffer;
        bool readonly;
        const char *wrong = mhpy_parse_buffer(&r->part, bytes, i, &buffer, &readonly);
        if (wrong) {
            mhpy_corrupt(wrong);
        } else if (lease) {
            if (!r->owner)
                r->owner = mhpy_buffer_lease(lease);
            if (r->owner)
                o = mhpy_buffer_view(r->owner, base, buffer.data, buffer.size, readonly);
        } else {
            o = mhpy_buffer_copy(buffer.data, buffer.size, readonly);
        }
        if (o)
            PyList_SET_ITEM(list, (Py_ssize_t)i, o);
        else
            Py_CLEAR(list);
    }
    return list;
}

static bool open_pickle(mhpy_reader *r, mh_bytes bytes, const unsigned char *base, mh_result *lease)
{
    PyObject *buffers = r->part.row_count ? open_buffers(r, bytes, base, lease) : Py_NewRef(Py_None);
    if (!buffers)
        return false;
    PyObject *view = PyMemoryView_FromMemory((char *)(uintptr_t)r->part.pickle, (Py_ssize_t)r->part.pickle_size, PyBUF_READ);
    if (view) {
        PyObject *args[2] = {view, buffers};
        r->items = PyObject_Vectorcall(mhpy.loads, args, 1, mhpy.str_buffers);
        Py_DECREF(view);
    }
    Py_DECREF(buffers);
    if (!r->items)
        return false;
    if (!PyList_CheckExact(r->items) || (size_t)PyList_GET_SIZE(r->items) != r->part.count)
        return mhpy_corrupt("a pickle of something else");
    return true;
}

static bool open_columns(mhpy_reader *r, mh_bytes bytes, int depth, size_t *used);

/* `used`: how many bytes the block takes. */
static bool open_block(mhpy_reader *r, mh_bytes bytes, const unsigned char *base, mh_result *lease, int depth, size_t *used)
{
    *r = (mhpy_reader){0};
    const char *wrong = mhpy_parse(&r->part, bytes, depth);
    if (wrong)
        return mhpy_corrupt(wrong);
    *used = r->part.used;
    if (r->part.kind == MHPY_TUPLE)
        return open_columns(r, bytes, depth, used);
    return r->part.kind != MHPY_PICKLE || open_pickle(r, bytes, base, lease);
}

static bool open_columns(mhpy_reader *r, mh_bytes bytes, int depth, size_t *used)
{
    if (r->part.width == 0)
        return true;
    r->columns = PyMem_Calloc(r->part.width, sizeof *r->columns);
    if (!r->columns) {
        PyErr_NoMemory();
        return false;
    }
    for (uint32_t c = 0; c < r->part.width; c++) {
        mh_bytes rest = {(const unsigned char *)bytes.data + *used, bytes.size - *used};
        size_t size = 0;
        if (!open_block(&r->columns[c], rest, NULL, NULL, depth + 1, &size))
            return false;
        if (r->columns[c].part.count != r->part.count)
            return mhpy_corrupt("columns of different lengths");
        *used += size;
    }
    return true;
}

bool mhpy_reader_open(mhpy_reader *r, mh_bytes bytes, size_t lead, mh_result *lease)
{
    size_t used = 0;
    memset(r, 0, sizeof *r);
    if (bytes.size < lead)
        return mhpy_corrupt("cut short");
    const unsigned char *base = bytes.data;
    mh_bytes block = {base + lead, bytes.size - lead};
    if (open_block(r, block, base, lease, 0, &used))
        return true;
    mhpy_reader_close(r);
    return false;
}

void mhpy_reader_close(mhpy_reader *r)
{
    for (uint32_t c = 0; r->columns && c < r->part.width; c++)
        mhpy_reader_close(&r->columns[c]);
    PyMem_Free(r->columns);
    Py_XDECREF(r->items);
    Py_XDECREF(r->owner);
    memset(r, 0, sizeof *r);
}

static PyObject *next_bytes(mhpy_reader *r)
{
    const unsigned char *from;
    size_t length, unit;
    const char *wrong = mhpy_parse_span(&r->part, r->at, &from, &length, &unit);
    if (!wrong)
        return PyBytes_FromStringAndSize((const char *)from, (Py_ssize_t)length);
    mhpy_corrupt(wrong);
    return NULL;
}

static PyObject *next_str(mhpy_reader *r)
{
    const unsigned char *from;
    size_t length, unit;
    const char *wrong = mhpy_parse_span(&r->part, r->at, &from, &length, &unit);
    if (wrong) {
        mhpy_corrupt(wrong);
        return NULL;
    }
    if (((uintptr_t)from & (unit - 1)) == 0)
        return PyUnicode_FromKindAndData((int)unit, from, (Py_ssize_t)length);
    void *aligned = PyMem_Malloc(length * unit); /* a message that began at an odd place */
    if (!aligned)
        return PyErr_NoMemory();
    memcpy(aligned, from, length * unit);
    PyObject *o = PyUnicode_FromKindAndData((int)unit, aligned, (Py_ssize_t)length);
    PyMem_Free(aligned);
    return o;
}

static PyObject *next_tuple(mhpy_reader *r)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)r->part.width);
    for (uint32_t c = 0; tuple && c < r->part.width; c++) {
        PyObject *o = mhpy_reader_next(&r->columns[c]);
        if (o)
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)c, o);
        else
            Py_CLEAR(tuple);
    }
    return tuple;
}

static inline PyObject *int_of(const unsigned char *from)
{
    int64_t v;
    memcpy(&v, from, sizeof v);
    return PyLong_FromLongLong(v);
}

PyObject *mhpy_reader_next(mhpy_reader *r)
{
    PyObject *o = NULL;
    double real;
    if (r->at >= r->part.count) {
        mhpy_corrupt("fewer items than expected");
        return NULL;
    }
    switch (r->part.kind) {
    case MHPY_NONE: o = Py_NewRef(Py_None); break;
    case MHPY_BOOL: o = Py_NewRef(r->part.data[r->at] ? Py_True : Py_False); break;
    case MHPY_INT: o = int_of(r->part.data + 8 * (size_t)r->at); break;
    case MHPY_FLOAT:
        memcpy(&real, r->part.data + 8 * (size_t)r->at, sizeof real);
        o = PyFloat_FromDouble(real);
        break;
    case MHPY_BYTES: o = next_bytes(r); break;
    case MHPY_STR: o = next_str(r); break;
    case MHPY_TUPLE: o = next_tuple(r); break;
    default: /* the list lets go of each item, so that none lives longer than its turn */
        o = PyList_GET_ITEM(r->items, (Py_ssize_t)r->at);
        PyList_SET_ITEM(r->items, (Py_ssize_t)r->at, Py_NewRef(Py_None));
    }
    r->at++;
    return o;
}

bool mhpy_reader_fill(mhpy_reader *r, PyObject **to, Py_ssize_t count)
{
    Py_ssize_t i = 0;
    if (r->part.kind == MHPY_INT && (size_t)count <= r->part.count - r->at) {
        const unsigned char *from = r->part.data + 8 * (size_t)r->at;
        for (; i < count && (to[i] = int_of(from)); i++)
            from += 8;
        r->at += (uint32_t)i;
        return i == count;
    }
    while (i < count && (to[i] = mhpy_reader_next(r)))
        i++;
    return i == count;
}

PyObject *mhpy_decode_py(PyObject *module, PyObject *bytes)
{
    (void)module;
    Py_buffer view;
    mhpy_reader r;
    if (PyObject_GetBuffer(bytes, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *list = NULL;
    if (mhpy_reader_open(&r, (mh_bytes){view.buf, (size_t)view.len}, 0, NULL)) {
        if (r.part.count >> 24) /* items without bytes of their own can be as many as they say; a pool knows how many it awaits */
            mhpy_corrupt("too many items");
        else
            list = PyList_New(0);
        for (uint32_t i = 0; list && i < r.part.count; i++) {
            PyObject *o = mhpy_reader_next(&r);
            if (!o || PyList_Append(list, o) < 0)
                Py_CLEAR(list);
            Py_XDECREF(o);
        }
        mhpy_reader_close(&r);
    }
    PyBuffer_Release(&view);
    return list;
}
