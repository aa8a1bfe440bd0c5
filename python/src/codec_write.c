/* Items into a block: columns where all are of one plain type, else a pickle. */
#include "codec.h"

#define ITEMS_MAX UINT32_MAX

/* ---- measuring: how a run of items can travel as columns ------------------------------------------ */

static bool str_ready(PyObject *s)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(s) < 0) {
        PyErr_Clear();
        return false;
    }
#endif
    return (size_t)PyUnicode_GET_LENGTH(s) <= MHPY_TEXT_MAX;
}

static size_t measure(PyObject *const *items, Py_ssize_t count, int depth);

static size_t measure_lengths(PyObject *const *items, Py_ssize_t count, uint8_t kind)
{
    size_t heap = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *o = items[i];
        if (kind == MHPY_BYTES) {
            if (!PyBytes_CheckExact(o) || (uint64_t)PyBytes_GET_SIZE(o) > UINT32_MAX)
                return 0;
            heap += (size_t)PyBytes_GET_SIZE(o);
        } else {
            if (!PyUnicode_CheckExact(o) || !str_ready(o))
                return 0;
            size_t unit = (size_t)PyUnicode_KIND(o);
            heap = mhpy_pad(heap, unit) + (size_t)PyUnicode_GET_LENGTH(o) * unit;
        }
    }
    return sizeof(mhpy_block_head) + mhpy_pad((size_t)count * 4, 8) + mhpy_pad(heap, 8);
}

/* The items in place `at` of each tuple; for one tuple its own array serves. `room` is NULL then. */
static PyObject *const *column_of(PyObject *const *tuples, Py_ssize_t count, Py_ssize_t at, PyObject **room)
{
    if (!room)
        return &PyTuple_GET_ITEM(tuples[0], at);
    for (Py_ssize_t i = 0; i < count; i++)
        room[i] = PyTuple_GET_ITEM(tuples[i], at);
    return room;
}

static size_t measure_tuples(PyObject *const *items, Py_ssize_t count, int depth)
{
    Py_ssize_t width = PyTuple_GET_SIZE(items[0]);
    if (width > MHPY_WIDTH_MAX || depth == MHPY_DEPTH_MAX)
        return 0;
    for (Py_ssize_t i = 0; i < count; i++)
        if (!PyTuple_CheckExact(items[i]) || PyTuple_GET_SIZE(items[i]) != width)
            return 0;
    PyObject **room = NULL;
    if (count > 1 && !(room = PyMem_New(PyObject *, (size_t)count)))
        return 0;
    size_t size = sizeof(mhpy_block_head);
    for (Py_ssize_t c = 0; c < width; c++) {
        size_t column = measure(column_of(items, count, c, room), count, depth + 1);
        size = column ? size + column : 0;
        if (!column)
            break;
    }
    PyMem_Free(room);
    return size;
}

/* Bytes of the items as columns, a multiple of 8; 0 when they cannot travel so. */
static size_t measure(PyObject *const *items, Py_ssize_t count, int depth)
{
    if (count == 0)
        return sizeof(mhpy_block_head);
    uint8_t kind = mhpy_kind_of(items[0]);
    int64_t value;
    switch (kind) {
    case MHPY_INT:
        for (Py_ssize_t i = 0; i < count; i++)
            if (!PyLong_CheckExact(items[i]) || !mhpy_int_value(items[i], &value))
                return 0;
        return sizeof(mhpy_block_head) + (size_t)count * 8;
    case MHPY_FLOAT:
        for (Py_ssize_t i = 0; i < count; i++)
            if (!PyFloat_CheckExact(items[i]))
                return 0;
        return sizeof(mhpy_block_head) + (size_t)count * 8;
    case MHPY_NONE:
        for (Py_ssize_t i = 0; i < count; i++)
            if (items[i] != Py_None)
                return 0;
        return sizeof(mhpy_block_head);
    case MHPY_BOOL:
        for (Py_ssize_t i = 0; i < count; i++)
            if (!PyBool_Check(items[i]))
                return 0;
        return sizeof(mhpy_block_head) + mhpy_pad((size_t)count, 8);
    case MHPY_STR:
    case MHPY_BYTES: return measure_lengths(items, count, kind);
    case MHPY_TUPLE: return measure_tuples(items, count, depth);
    default: return 0;
    }
}

/* ---- writing columns that were measured ------------------------------------------------------------ */

/* Fill the gap up to the next multiple of 8 from `start`, so that no old bytes travel. */
static unsigned char *write_padding(unsigned char *start, unsigned char *to)
{
    size_t size = (size_t)(to - start), gap = mhpy_pad(size, 8) - size;
    memset(to, 0, gap);
    return to + gap;
}

static unsigned char *write_bytes(unsigned char *to, PyObject *const *items, Py_ssize_t count)
{
    unsigned char *lengths = to, *heap = to + mhpy_pad((size_t)count * 4, 8), *start = heap;
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t length = (uint32_t)PyBytes_GET_SIZE(items[i]);
        memcpy(lengths + 4 * i, &length, 4);
        memcpy(heap, PyBytes_AS_STRING(items[i]), length);
        heap += length;
    }
    write_padding(lengths, lengths + (size_t)count * 4);
    return write_padding(start, heap);
}

static unsigned char *write_strs(unsigned char *to, PyObject *const *items, Py_ssize_t count)
{
    unsigned char *lengths = to, *heap = to + mhpy_pad((size_t)count * 4, 8), *start = heap;
    for (Py_ssize_t i = 0; i < count; i++) {
        size_t unit = (size_t)PyUnicode_KIND(items[i]), length = (size_t)PyUnicode_GET_LENGTH(items[i]);
        uint32_t code = (uint32_t)(length << 2 | (unit >> 1));
        memcpy(lengths + 4 * i, &code, 4);
        size_t at = (size_t)(heap - start), gap = mhpy_pad(at, unit) - at;
        memset(heap, 0, gap);
        memcpy(heap + gap, PyUnicode_DATA(items[i]), length * unit);
        heap += gap + length * unit;
    }
    write_padding(lengths, lengths + (size_t)count * 4);
    return write_padding(start, heap);
}

static unsigned char *write_columns(unsigned char *to, PyObject *const *items, Py_ssize_t count);

static unsigned char *write_tuples(unsigned char *to, PyObject *const *items, Py_ssize_t count)
{
    Py_ssize_t width = PyTuple_GET_SIZE(items[0]);
    PyObject **room = NULL;
    if (count > 1 && !(room = PyMem_New(PyObject *, (size_t)count))) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t c = 0; to && c < width; c++)
        to = write_columns(to, column_of(items, count, c, room), count);
    PyMem_Free(room);
    return to;
}

/* The end of what was written; NULL with an exception set. */
static unsigned char *write_columns(unsigned char *to, PyObject *const *items, Py_ssize_t count)
{
    uint8_t kind = count ? mhpy_kind_of(items[0]) : MHPY_NONE;
    uint16_t width = kind == MHPY_TUPLE ? (uint16_t)PyTuple_GET_SIZE(items[0]) : 0;
    unsigned char *start = to = mhpy_write_head(to, kind, width, (uint32_t)count);
    int64_t value;
    double real;
    switch (kind) {
    case MHPY_INT:
        for (Py_ssize_t i = 0; i < count; i++, to += 8) {
            (void)mhpy_int_value(items[i], &value);
            memcpy(to, &value, 8);
        }
        return to;
    case MHPY_FLOAT:
        for (Py_ssize_t i = 0; i < count; i++, to += 8) {
            real = PyFloat_AS_DOUBLE(items[i]);
            memcpy(to, &real, 8);
        }
        return to;
    case MHPY_BOOL:
        for (Py_ssize_t i = 0; i < count; i++)
            *to++ = items[i] == Py_True;
        return write_padding(start, to);
    case MHPY_BYTES: return write_bytes(to, items, count);
    case MHPY_STR: return write_strs(to, items, count);
    case MHPY_TUPLE: return write_tuples(to, items, count);
    default: return to;
    }
}

/* ---- pickles ---------------------------------------------------------------------------------------- */

/* A list of items with its pickle and the buffers that travel beside it. */
typedef struct pickled {
    PyObject *bytes;
    Py_buffer bytes_view;
    PyObject *buffers; /* list of PickleBuffer */
    Py_buffer *views;
    Py_ssize_t view_count;
} pickled;

static void pickled_close(pickled *p)
{
    for (Py_ssize_t i = 0; i < p->view_count; i++)
        PyBuffer_Release(&p->views[i]);
    PyMem_Free(p->views);
    if (p->bytes_view.obj)
        PyBuffer_Release(&p->bytes_view);
    Py_XDECREF(p->bytes);
    Py_XDECREF(p->buffers);
    memset(p, 0, sizeof *p);
}

static bool pickled_views(pickled *p)
{
    Py_ssize_t count = PyList_GET_SIZE(p->buffers);
    p->views = PyMem_New(Py_buffer, (size_t)(count ? count : 1));
    if (!p->views) {
        PyErr_NoMemory();
        return false;
    }
    for (; p->view_count < count; p->view_count++)
        if (PyObject_GetBuffer(PyList_GET_ITEM(p->buffers, p->view_count), &p->views[p->view_count], PyBUF_ANY_CONTIGUOUS | PyBUF_FORMAT) < 0)
            return false;
    return PyObject_GetBuffer(p->bytes, &p->bytes_view, PyBUF_SIMPLE) == 0;
}

static bool pickled_open(pickled *p, PyObject *list, bool by_value)
{
    memset(p, 0, sizeof *p);
    PyObject *pair = PyObject_CallMethod(mhpy.serial, "dumps", "OO", list, by_value ? Py_True : Py_False);
    if (!pair)
        return false;
    if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2 && PyList_Check(PyTuple_GET_ITEM(pair, 1))) {
        p->bytes = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
        p->buffers = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
        Py_DECREF(pair);
        if (pickled_views(p))
            return true;
    } else {
        Py_DECREF(pair);
        PyErr_SetString(PyExc_SystemError, "dumps must return (bytes, list)");
    }
    pickled_close(p);
    return false;
}

/* Where buffers begin: on 64-byte boundaries of the whole message, whose first `lead` bytes precede the block. */
static size_t buffer_place(size_t at, size_t lead) { return mhpy_pad(at + lead, 64) - lead; }

static size_t pickled_size(const pickled *p, size_t lead)
{
    size_t size = sizeof(mhpy_block_head) + 16 + (size_t)p->view_count * sizeof(mhpy_buffer_row) + (size_t)p->bytes_view.len;
    for (Py_ssize_t i = 0; i < p->view_count; i++)
        size = buffer_place(size, lead) + (size_t)p->views[i].len;
    return mhpy_pad(size, 8);
}

/* Long copies let other threads run: the views keep the memory where it is. */
static void copy_out(unsigned char *to, const Py_buffer *from)
{
    if (from->len >= 1 << 20) {
        Py_BEGIN_ALLOW_THREADS
        memcpy(to, from->buf, (size_t)from->len);
        Py_END_ALLOW_THREADS
    } else if (from->len) {
        memcpy(to, from->buf, (size_t)from->len);
    }
}

static void pickled_write(const pickled *p, unsigned char *block, size_t lead, uint32_t count)
{
    unsigned char *to = mhpy_write_head(block, MHPY_PICKLE, 0, count);
    uint64_t pair[2] = {(uint64_t)p->bytes_view.len, (uint64_t)p->view_count};
    memcpy(to, pair, sizeof pair);
    unsigned char *rows = to + sizeof pair;
    size_t at = sizeof(mhpy_block_head) + sizeof pair + (size_t)p->view_count * sizeof(mhpy_buffer_row);
    copy_out(block + at, &p->bytes_view);
    at += (size_t)p->bytes_view.len;
    for (Py_ssize_t i = 0; i < p->view_count; i++) {
        const Py_buffer *view = &p->views[i];
        size_t place = buffer_place(at, lead);
        memset(block + at, 0, place - at);
        mhpy_buffer_row row = {place, (uint64_t)view->len << 1 | (view->readonly ? 1 : 0)};
        memcpy(rows + (size_t)i * sizeof row, &row, sizeof row);
        copy_out(block + place, view);
        at = place + (size_t)view->len;
    }
    memset(block + at, 0, mhpy_pad(at, 8) - at);
}

static bool encode_pickle(PyObject *list, size_t lead, bool by_value, mhpy_room_fn room, void *ctx, size_t *size)
{
    pickled p;
    if (!pickled_open(&p, list, by_value))
        return false;
    size_t total = lead + pickled_size(&p, lead);
    unsigned char *to = room(ctx, total);
    if (to) {
        pickled_write(&p, to + lead, lead, (uint32_t)PyList_GET_SIZE(list));
        *size = total;
    }
    pickled_close(&p);
    return to;
}

/* ---- encoding --------------------------------------------------------------------------------------- */

/* Numbers, the hot case, are checked while they are written. False without an exception: some item is of another kind. */
static bool write_numbers(unsigned char *to, PyObject *const *items, Py_ssize_t count, uint8_t kind)
{
    to = mhpy_write_head(to, kind, 0, (uint32_t)count);
    if (kind == MHPY_INT) {
        for (Py_ssize_t i = 0; i < count; i++, to += 8) {
            int64_t value;
            if (!PyLong_CheckExact(items[i]) || !mhpy_int_value(items[i], &value))
                return false;
            memcpy(to, &value, 8);
        }
    } else {
        for (Py_ssize_t i = 0; i < count; i++, to += 8) {
            if (!PyFloat_CheckExact(items[i]))
                return false;
            double value = PyFloat_AS_DOUBLE(items[i]);
            memcpy(to, &value, 8);
        }
    }
    return true;
}

static PyObject *list_of(PyObject *const *items, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list && i < count; i++)
        PyList_SET_ITEM(list, i, Py_NewRef(items[i]));
    return list;
}

bool mhpy_encode(PyObject *const *items, Py_ssize_t count, size_t lead, bool by_value, mhpy_room_fn room, void *ctx, size_t *size)
{
    if ((uint64_t)count > ITEMS_MAX) {
        PyErr_SetString(PyExc_OverflowError, "too many items for one block");
        return false;
    }
    uint8_t kind = count ? mhpy_kind_of(items[0]) : MHPY_NONE;
    if (kind == MHPY_INT || kind == MHPY_FLOAT) {
        size_t total = lead + sizeof(mhpy_block_head) + (size_t)count * 8;
        unsigned char *to = room(ctx, total);
        if (!to)
            return false;
        *size = total;
        if (write_numbers(to + lead, items, count, kind))
            return true;
    } else {
        size_t columns = measure(items, count, 0);
        if (columns) {
            unsigned char *to = room(ctx, lead + columns);
            *size = lead + columns;
            return to && write_columns(to + lead, items, count);
        }
    }
    PyObject *list = list_of(items, count); /* owns the items while pickling runs anybody's code */
    bool ok = list && encode_pickle(list, lead, by_value, room, ctx, size);
    Py_XDECREF(list);
    return ok;
}

bool mhpy_encode_slice(PyObject *fast, Py_ssize_t start, Py_ssize_t count, size_t lead, mhpy_room_fn room, void *ctx, size_t *size)
{
    uint8_t kind = count && start < PySequence_Fast_GET_SIZE(fast) ? mhpy_kind_of(PySequence_Fast_GET_ITEM(fast, start)) : MHPY_NONE;
    if ((kind == MHPY_INT || kind == MHPY_FLOAT) && (uint64_t)count <= ITEMS_MAX) {
        size_t total = lead + sizeof(mhpy_block_head) + (size_t)count * 8;
        unsigned char *to = room(ctx, total);
        if (!to)
            return false;
        *size = total;
        if (start + count <= PySequence_Fast_GET_SIZE(fast) &&
            write_numbers(to + lead, PySequence_Fast_ITEMS(fast) + start, count, kind))
            return true;
    }
    PyObject *own = PySequence_GetSlice(fast, start, start + count), *list = own ? PySequence_List(own) : NULL;
    Py_XDECREF(own);
    bool ok = false;
    if (list && PyList_GET_SIZE(list) != count)
        PyErr_SetString(PyExc_RuntimeError, "the iterable changed its size meanwhile");
    else if (list)
        ok = mhpy_encode(((PyListObject *)list)->ob_item, count, lead, true, room, ctx, size);
    Py_XDECREF(list);
    return ok;
}

bool mhpy_encode_one(PyObject *item, unsigned char *to)
{
    if (PyLong_CheckExact(item))
        return write_numbers(to, &item, 1, MHPY_INT);
    if (PyFloat_CheckExact(item))
        return write_numbers(to, &item, 1, MHPY_FLOAT);
    return false;
}

/* ---- for tests: blocks as bytes ---------------------------------------------------------------------------- */

static unsigned char *room_on_heap(void *ctx, size_t size)
{
    unsigned char **block = ctx;
    PyMem_Free(*block);
    *block = PyMem_Malloc(size);
    if (!*block)
        PyErr_NoMemory();
    return *block;
}

PyObject *mhpy_encode_py(PyObject *module, PyObject *items)
{
    (void)module;
    unsigned char *block = NULL;
    size_t size = 0;
    PyObject *out = NULL, *list = PySequence_List(items);
    if (list && mhpy_encode(((PyListObject *)list)->ob_item, PyList_GET_SIZE(list), 0, true, room_on_heap, &block, &size))
        out = PyBytes_FromStringAndSize((const char *)block, (Py_ssize_t)size);
    PyMem_Free(block);
    Py_XDECREF(list);
    return out;
}
