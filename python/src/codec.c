/* The codec: a list of items as one block of bytes.
 *
 * Items that all have one plain type (None, bool, int that fits 64 bits, float, bytes, str, tuples of these of one length) travel
 * as columns; types are compared exactly, so that what arrives is what was sent. Everything else is one pickle (protocol 5) of
 * the list of items, its big buffers beside it on 64-byte boundaries. Numbers are in the machine's own order: a block never
 * leaves the machine.
 *
 *     u8 kind, u8 0, u16 width, u32 count       then, padded to 8 bytes:
 *     NONE    nothing
 *     BOOL    a byte each, 0 or 1
 *     INT     int64 each
 *     FLOAT   double each
 *     BYTES   u32 length each, then all bytes
 *     STR     u32 (code points << 2 | log2 of bytes for each), then all text, each aligned to its unit
 *     TUPLE   `width` blocks, one for each place
 *     PICKLE  u64 pickle's size, u64 buffer count, for each buffer u64 offset from the block and u64 (size << 1 | readonly),
 *             the pickle, the buffers
 *
 * Readers trust nothing: every length is checked against what is left, and read only once.
 */
#include "core.h"

#if PY_VERSION_HEX < 0x030B0000
#include "longintrepr.h"
#endif

enum { NONE = 1, BOOL, INT, FLOAT, BYTES, STR, TUPLE, PICKLE, LIST };

typedef struct block_head {
    uint8_t kind, zero;
    uint16_t width;
    uint32_t count;
} block_head;
_Static_assert(sizeof(block_head) == 8, "a block's head is 8 bytes");

typedef struct buffer_row {
    uint64_t offset, size_readonly;
} buffer_row;

#define DEPTH_MAX 4
#define WIDTH_MAX 16
#define TEXT_MAX (UINT32_MAX >> 2)
#define ITEMS_MAX UINT32_MAX

static size_t pad(size_t size, size_t unit) { return (size + unit - 1) & ~(unit - 1); }

static uint32_t get_u32(const unsigned char *from)
{
    uint32_t v;
    memcpy(&v, from, sizeof v);
    return v;
}

static uint64_t get_u64(const unsigned char *from)
{
    uint64_t v;
    memcpy(&v, from, sizeof v);
    return v;
}

/* ---- plain ints --------------------------------------------------------------------------------- */

/* The value of an exact int that fits 64 bits. */
static inline bool int_value(PyObject *o, int64_t *out)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (PyUnstable_Long_IsCompact((PyLongObject *)o)) {
        *out = (int64_t)PyUnstable_Long_CompactValue((PyLongObject *)o);
        return true;
    }
#else
    const digit *d = ((PyLongObject *)o)->ob_digit;
    switch (Py_SIZE(o)) {
    case 0: *out = 0; return true;
    case 1: *out = (int64_t)d[0]; return true;
    case -1: *out = -(int64_t)d[0]; return true;
    case 2: *out = (int64_t)d[0] | (int64_t)d[1] << PyLong_SHIFT; return true;
    case -2: *out = -((int64_t)d[0] | (int64_t)d[1] << PyLong_SHIFT); return true;
    default: break;
    }
#endif
    int overflow;
    *out = PyLong_AsLongLongAndOverflow(o, &overflow);
    return !overflow;
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

static inline double float_bits(PyObject *o) { return PyFloat_AS_DOUBLE(o); }

/* ---- measuring: how a run of items can travel as columns ------------------------------------------ */

static uint8_t kind_of(PyObject *item)
{
    if (PyLong_CheckExact(item))
        return INT;
    if (PyFloat_CheckExact(item))
        return FLOAT;
    if (item == Py_None)
        return NONE;
    if (PyBool_Check(item))
        return BOOL;
    if (PyUnicode_CheckExact(item))
        return STR;
    if (PyBytes_CheckExact(item))
        return BYTES;
    if (PyTuple_CheckExact(item))
        return TUPLE;
    return PICKLE;
}

static bool str_ready(PyObject *s)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(s) < 0) {
        PyErr_Clear();
        return false;
    }
#endif
    return (size_t)PyUnicode_GET_LENGTH(s) <= TEXT_MAX;
}

static size_t measure(PyObject *const *items, Py_ssize_t count, int depth);

static size_t measure_lengths(PyObject *const *items, Py_ssize_t count, uint8_t kind)
{
    size_t heap = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *o = items[i];
        if (kind == BYTES) {
            if (!PyBytes_CheckExact(o) || (uint64_t)PyBytes_GET_SIZE(o) > UINT32_MAX)
                return 0;
            heap += (size_t)PyBytes_GET_SIZE(o);
        } else {
            if (!PyUnicode_CheckExact(o) || !str_ready(o))
                return 0;
            size_t unit = (size_t)PyUnicode_KIND(o);
            heap = pad(heap, unit) + (size_t)PyUnicode_GET_LENGTH(o) * unit;
        }
    }
    return sizeof(block_head) + pad((size_t)count * 4, 8) + pad(heap, 8);
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
    if (width > WIDTH_MAX || depth == DEPTH_MAX)
        return 0;
    for (Py_ssize_t i = 0; i < count; i++)
        if (!PyTuple_CheckExact(items[i]) || PyTuple_GET_SIZE(items[i]) != width)
            return 0;
    PyObject **room = NULL;
    if (count > 1 && !(room = PyMem_New(PyObject *, (size_t)count)))
        return 0;
    size_t size = sizeof(block_head);
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
        return sizeof(block_head);
    uint8_t kind = kind_of(items[0]);
    int64_t value;
    switch (kind) {
    case INT:
        for (Py_ssize_t i = 0; i < count; i++)
            if (!PyLong_CheckExact(items[i]) || !int_value(items[i], &value))
                return 0;
        return sizeof(block_head) + (size_t)count * 8;
    case FLOAT:
        for (Py_ssize_t i = 0; i < count; i++)
            if (!PyFloat_CheckExact(items[i]))
                return 0;
        return sizeof(block_head) + (size_t)count * 8;
    case NONE:
        for (Py_ssize_t i = 0; i < count; i++)
            if (items[i] != Py_None)
                return 0;
        return sizeof(block_head);
    case BOOL:
        for (Py_ssize_t i = 0; i < count; i++)
            if (!PyBool_Check(items[i]))
                return 0;
        return sizeof(block_head) + pad((size_t)count, 8);
    case STR:
    case BYTES: return measure_lengths(items, count, kind);
    case TUPLE: return measure_tuples(items, count, depth);
    default: return 0;
    }
}

/* ---- writing columns that were measured ------------------------------------------------------------ */

static unsigned char *write_head(unsigned char *to, uint8_t kind, uint16_t width, uint32_t count)
{
    block_head head = {.kind = kind, .width = width, .count = count};
    memcpy(to, &head, sizeof head);
    return to + sizeof head;
}

/* Fill the gap up to the next multiple of 8 from `start`, so that no old bytes travel. */
static unsigned char *write_padding(unsigned char *start, unsigned char *to)
{
    size_t size = (size_t)(to - start), gap = pad(size, 8) - size;
    memset(to, 0, gap);
    return to + gap;
}

static unsigned char *write_bytes(unsigned char *to, PyObject *const *items, Py_ssize_t count)
{
    unsigned char *lengths = to, *heap = to + pad((size_t)count * 4, 8), *start = heap;
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
    unsigned char *lengths = to, *heap = to + pad((size_t)count * 4, 8), *start = heap;
    for (Py_ssize_t i = 0; i < count; i++) {
        size_t unit = (size_t)PyUnicode_KIND(items[i]), length = (size_t)PyUnicode_GET_LENGTH(items[i]);
        uint32_t code = (uint32_t)(length << 2 | (unit >> 1));
        memcpy(lengths + 4 * i, &code, 4);
        size_t at = (size_t)(heap - start), gap = pad(at, unit) - at;
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
    uint8_t kind = count ? kind_of(items[0]) : NONE;
    uint16_t width = kind == TUPLE ? (uint16_t)PyTuple_GET_SIZE(items[0]) : 0;
    unsigned char *start = to = write_head(to, kind, width, (uint32_t)count);
    int64_t value;
    double real;
    switch (kind) {
    case INT:
        for (Py_ssize_t i = 0; i < count; i++, to += 8) {
            (void)int_value(items[i], &value);
            memcpy(to, &value, 8);
        }
        return to;
    case FLOAT:
        for (Py_ssize_t i = 0; i < count; i++, to += 8) {
            real = float_bits(items[i]);
            memcpy(to, &real, 8);
        }
        return to;
    case BOOL:
        for (Py_ssize_t i = 0; i < count; i++)
            *to++ = items[i] == Py_True;
        return write_padding(start, to);
    case BYTES: return write_bytes(to, items, count);
    case STR: return write_strs(to, items, count);
    case TUPLE: return write_tuples(to, items, count);
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
static size_t buffer_place(size_t at, size_t lead) { return pad(at + lead, 64) - lead; }

static size_t pickled_size(const pickled *p, size_t lead)
{
    size_t size = sizeof(block_head) + 16 + (size_t)p->view_count * sizeof(buffer_row) + (size_t)p->bytes_view.len;
    for (Py_ssize_t i = 0; i < p->view_count; i++)
        size = buffer_place(size, lead) + (size_t)p->views[i].len;
    return pad(size, 8);
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
    unsigned char *to = write_head(block, PICKLE, 0, count);
    uint64_t pair[2] = {(uint64_t)p->bytes_view.len, (uint64_t)p->view_count};
    memcpy(to, pair, sizeof pair);
    unsigned char *rows = to + sizeof pair;
    size_t at = sizeof(block_head) + sizeof pair + (size_t)p->view_count * sizeof(buffer_row);
    copy_out(block + at, &p->bytes_view);
    at += (size_t)p->bytes_view.len;
    for (Py_ssize_t i = 0; i < p->view_count; i++) {
        const Py_buffer *view = &p->views[i];
        size_t place = buffer_place(at, lead);
        memset(block + at, 0, place - at);
        buffer_row row = {place, (uint64_t)view->len << 1 | (view->readonly ? 1 : 0)};
        memcpy(rows + (size_t)i * sizeof row, &row, sizeof row);
        copy_out(block + place, view);
        at = place + (size_t)view->len;
    }
    memset(block + at, 0, pad(at, 8) - at);
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
    to = write_head(to, kind, 0, (uint32_t)count);
    if (kind == INT) {
        for (Py_ssize_t i = 0; i < count; i++, to += 8) {
            int64_t value;
            if (!PyLong_CheckExact(items[i]) || !int_value(items[i], &value))
                return false;
            memcpy(to, &value, 8);
        }
    } else {
        for (Py_ssize_t i = 0; i < count; i++, to += 8) {
            if (!PyFloat_CheckExact(items[i]))
                return false;
            double value = float_bits(items[i]);
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
    uint8_t kind = count ? kind_of(items[0]) : NONE;
    if (kind == INT || kind == FLOAT) {
        size_t total = lead + sizeof(block_head) + (size_t)count * 8;
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
    uint8_t kind = count && start < PySequence_Fast_GET_SIZE(fast) ? kind_of(PySequence_Fast_GET_ITEM(fast, start)) : NONE;
    if ((kind == INT || kind == FLOAT) && (uint64_t)count <= ITEMS_MAX) {
        size_t total = lead + sizeof(block_head) + (size_t)count * 8;
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
        return write_numbers(to, &item, 1, INT);
    if (PyFloat_CheckExact(item))
        return write_numbers(to, &item, 1, FLOAT);
    return false;
}

/* ---- reading ---------------------------------------------------------------------------------------- */

static bool corrupt(const char *what)
{
    PyErr_Format(PyExc_ValueError, "not a valid block: %s", what);
    return false;
}

static PyObject *view_of(PyObject *owner, const unsigned char *base, const unsigned char *from, size_t size, bool readonly)
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

/* The buffers of a pickle, as a list of objects to make arrays over. */
static PyObject *open_buffers(mhpy_reader *r, mh_bytes bytes, const unsigned char *rows, size_t count, const unsigned char *base, mh_result *lease)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list && i < count; i++) {
        uint64_t offset = get_u64(rows + i * sizeof(buffer_row)), word = get_u64(rows + i * sizeof(buffer_row) + 8);
        uint64_t size = word >> 1;
        PyObject *o = NULL;
        if (offset > bytes.size || size > bytes.size - offset) {
            corrupt("a buffer ends beyond it");
        } else if (lease) {
            if (!r->owner)
                r->owner = mhpy_buffer_lease(lease);
            if (r->owner)
                o = view_of(r->owner, base, (const unsigned char *)bytes.data + offset, size, word & 1);
        } else {
            o = mhpy_buffer_copy((const unsigned char *)bytes.data + offset, size, word & 1);
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
    const unsigned char *at = (const unsigned char *)bytes.data + sizeof(block_head);
    size_t left = bytes.size - sizeof(block_head);
    if (left < 16)
        return corrupt("cut short");
    uint64_t size = get_u64(at), count = get_u64(at + 8);
    left -= 16;
    if (count > left / sizeof(buffer_row) || size > left - count * sizeof(buffer_row))
        return corrupt("a pickle ends beyond it");
    const unsigned char *rows = at + 16, *pickle = rows + count * sizeof(buffer_row);
    PyObject *buffers = count ? open_buffers(r, bytes, rows, count, base, lease) : Py_NewRef(Py_None);
    if (!buffers)
        return false;
    PyObject *view = PyMemoryView_FromMemory((char *)(uintptr_t)pickle, (Py_ssize_t)size, PyBUF_READ);
    if (view) {
        PyObject *args[2] = {view, buffers};
        r->items = PyObject_Vectorcall(mhpy.loads, args, 1, mhpy.str_buffers);
        Py_DECREF(view);
    }
    Py_DECREF(buffers);
    if (!r->items)
        return false;
    if (!PyList_CheckExact(r->items) || (size_t)PyList_GET_SIZE(r->items) != r->count)
        return corrupt("a pickle of something else");
    return true;
}

static bool open_block(mhpy_reader *r, mh_bytes bytes, const unsigned char *base, mh_result *lease, int depth, size_t *used);

static bool open_tuples(mhpy_reader *r, mh_bytes bytes, int depth, size_t *used)
{
    if (depth == DEPTH_MAX || r->width > WIDTH_MAX)
        return corrupt("tuples too deep or too wide");
    if (r->width == 0)
        return true;
    r->columns = PyMem_Calloc(r->width, sizeof *r->columns);
    if (!r->columns) {
        PyErr_NoMemory();
        return false;
    }
    for (uint32_t c = 0; c < r->width; c++) {
        mh_bytes rest = {(const unsigned char *)bytes.data + *used, bytes.size - *used};
        size_t size = 0;
        if (!open_block(&r->columns[c], rest, NULL, NULL, depth + 1, &size))
            return false;
        if (r->columns[c].count != r->count)
            return corrupt("columns of different lengths");
        *used += size;
    }
    return true;
}

/* Check that each length of a heap fits, and find where the heap ends. */
static bool measure_heap(const mhpy_reader *r, size_t limit, size_t *end)
{
    size_t at = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        uint32_t code = get_u32(r->data + 4 * (size_t)i);
        size_t unit = 1, length = code;
        if (r->kind == STR) {
            if ((code & 3) == 3)
                return corrupt("no such text");
            unit = (size_t)1 << (code & 3);
            length = (size_t)(code >> 2) * unit;
        }
        at = pad(at, unit);
        if (at > limit || length > limit - at)
            return corrupt("text ends beyond it");
        at += length;
    }
    *end = pad(at, 8);
    return *end <= limit || corrupt("cut short");
}

/* `used`: how many bytes the block takes. A column inside tuples is never a pickle. */
static bool open_block(mhpy_reader *r, mh_bytes bytes, const unsigned char *base, mh_result *lease, int depth, size_t *used)
{
    memset(r, 0, sizeof *r);
    if (bytes.size < sizeof(block_head))
        return corrupt("cut short");
    block_head head;
    memcpy(&head, bytes.data, sizeof head);
    r->count = head.count;
    r->width = head.width;
    r->data = (const unsigned char *)bytes.data + sizeof head;
    size_t left = bytes.size - sizeof head, size = 0, heap = 0;
    r->kind = head.kind;
    switch (head.kind) {
    case NONE: break;
    case BOOL: size = pad(head.count, 8); break;
    case INT:
    case FLOAT: size = (size_t)head.count * 8; break;
    case BYTES:
    case STR: size = pad((size_t)head.count * 4, 8); break;
    case TUPLE: *used = sizeof head; return open_tuples(r, bytes, depth, used);
    case PICKLE: *used = bytes.size; return depth == 0 ? open_pickle(r, bytes, base, lease) : corrupt("a pickle inside tuples");
    default: r->kind = NONE; return corrupt("no such kind");
    }
    if (size > left)
        return corrupt("cut short");
    if (head.kind == BYTES || head.kind == STR) {
        r->heap = r->data + size;
        if (!measure_heap(r, left - size, &heap))
            return false;
        r->heap_size = left - size;
    }
    *used = sizeof head + size + heap;
    return true;
}

bool mhpy_reader_open(mhpy_reader *r, mh_bytes bytes, size_t lead, mh_result *lease)
{
    size_t used = 0;
    memset(r, 0, sizeof *r);
    if (bytes.size < lead)
        return corrupt("cut short");
    const unsigned char *base = bytes.data;
    mh_bytes block = {base + lead, bytes.size - lead};
    if (open_block(r, block, base, lease, 0, &used))
        return true;
    mhpy_reader_close(r);
    return false;
}

void mhpy_reader_close(mhpy_reader *r)
{
    for (uint32_t c = 0; r->columns && c < r->width; c++)
        mhpy_reader_close(&r->columns[c]);
    PyMem_Free(r->columns);
    Py_XDECREF(r->items);
    Py_XDECREF(r->owner);
    memset(r, 0, sizeof *r);
}

static PyObject *next_bytes(mhpy_reader *r)
{
    size_t length = get_u32(r->data + 4 * (size_t)r->at);
    if (length > r->heap_size - r->heap_at) { /* checked when opened, and changed since */
        corrupt("text ends beyond it");
        return NULL;
    }
    const unsigned char *from = r->heap + r->heap_at;
    r->heap_at += length;
    return PyBytes_FromStringAndSize((const char *)from, (Py_ssize_t)length);
}

static PyObject *next_str(mhpy_reader *r)
{
    uint32_t code = get_u32(r->data + 4 * (size_t)r->at);
    size_t unit = (size_t)1 << (code & 3), length = code >> 2, at = pad(r->heap_at, unit);
    if ((code & 3) == 3 || at > r->heap_size || length * unit > r->heap_size - at) {
        corrupt("text ends beyond it");
        return NULL;
    }
    const unsigned char *from = r->heap + at;
    r->heap_at = at + length * unit;
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
    PyObject *tuple = PyTuple_New((Py_ssize_t)r->width);
    for (uint32_t c = 0; tuple && c < r->width; c++) {
        PyObject *o = mhpy_reader_next(&r->columns[c]);
        if (o)
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)c, o);
        else
            Py_CLEAR(tuple);
    }
    return tuple;
}

PyObject *mhpy_reader_next(mhpy_reader *r)
{
    PyObject *o = NULL;
    double real;
    if (r->at >= r->count) {
        corrupt("fewer items than expected");
        return NULL;
    }
    switch (r->kind) {
    case NONE: o = Py_NewRef(Py_None); break;
    case BOOL: o = Py_NewRef(r->data[r->at] ? Py_True : Py_False); break;
    case INT: o = PyLong_FromLongLong((int64_t)get_u64(r->data + 8 * (size_t)r->at)); break;
    case FLOAT:
        memcpy(&real, r->data + 8 * (size_t)r->at, sizeof real);
        o = PyFloat_FromDouble(real);
        break;
    case BYTES: o = next_bytes(r); break;
    case STR: o = next_str(r); break;
    case TUPLE: o = next_tuple(r); break;
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
    if (r->kind == INT && (size_t)count <= r->count - r->at) {
        const unsigned char *from = r->data + 8 * (size_t)r->at;
        for (; i < count && (to[i] = PyLong_FromLongLong((int64_t)get_u64(from))); i++)
            from += 8;
        r->at += (uint32_t)i;
        return i == count;
    }
    while (i < count && (to[i] = mhpy_reader_next(r)))
        i++;
    return i == count;
}

/* ---- results as they are made -------------------------------------------------------------------------- */

void mhpy_writer_open(mhpy_writer *w, uint32_t count, size_t lead, mhpy_room_fn room, void *ctx)
{
    *w = (mhpy_writer){.count = count, .lead = lead, .room = room, .ctx = ctx};
}

/* The first item decides what is tried. */
static bool writer_begin(mhpy_writer *w, PyObject *item)
{
    w->kind = kind_of(item);
    if (w->kind == NONE)
        return true;
    if (w->kind == INT || w->kind == FLOAT) {
        w->column = w->room(w->ctx, w->lead + sizeof(block_head) + (size_t)w->count * 8);
        if (w->column)
            w->column += w->lead + sizeof(block_head);
        return w->column;
    }
    w->kind = LIST;
    w->list = PyList_New(0);
    return w->list;
}

/* Another type came: what was written becomes a list again. */
static bool writer_widen(mhpy_writer *w)
{
    mhpy_reader r = {.kind = w->kind, .count = w->at, .data = w->column};
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
    case INT:
        if (!PyLong_CheckExact(item) || !int_value(item, &value))
            return false;
        memcpy(w->column + 8 * (size_t)w->at, &value, 8);
        return true;
    case FLOAT:
        if (!PyFloat_CheckExact(item))
            return false;
        real = float_bits(item);
        memcpy(w->column + 8 * (size_t)w->at, &real, 8);
        return true;
    case NONE: return item == Py_None;
    default: return false;
    }
}

bool mhpy_writer_add(mhpy_writer *w, PyObject *item)
{
    bool ok = true;
    if (w->at == w->count)
        ok = corrupt("more items than promised");
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
    if (w->kind == NONE) {
        unsigned char *to = w->room(w->ctx, w->lead + sizeof(block_head));
        if (!to)
            return false;
        w->column = to + w->lead + sizeof(block_head);
    }
    write_head(w->column - sizeof(block_head), w->kind, 0, w->at);
    *size = w->lead + sizeof(block_head) + (w->kind == NONE ? 0 : (size_t)w->at * 8);
    return true;
}

/* Plain ints in and plain ints out, without a call for each but the function's own. Stops at what is of another kind. */
bool mhpy_run_ints(mhpy_reader *r, mhpy_writer *w, PyObject *function)
{
    vectorcallfunc call = PyVectorcall_Function(function);
    if (!call || r->kind != INT)
        return true;
    const unsigned char *from = r->data + 8 * (size_t)r->at;
    PyObject *args[2] = {NULL, NULL};
    for (; r->at < r->count; from += 8) {
        args[1] = int_again(args[1], (int64_t)get_u64(from));
        PyObject *result = args[1] ? call(function, args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL) : NULL;
        if (!result)
            break;
        r->at++;
        int64_t value;
        if (w->kind == INT && w->column && PyLong_CheckExact(result) && w->at < w->count && int_value(result, &value)) {
            memcpy(w->column + 8 * (size_t)w->at++, &value, 8);
            Py_DECREF(result);
        } else if (!mhpy_writer_add(w, result)) {
            w->failed = true;
            break;
        }
    }
    Py_XDECREF(args[1]);
    return r->at == r->count && !w->failed;
}

void mhpy_writer_close(mhpy_writer *w) { Py_CLEAR(w->list); }

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

PyObject *mhpy_decode_py(PyObject *module, PyObject *bytes)
{
    (void)module;
    Py_buffer view;
    mhpy_reader r;
    if (PyObject_GetBuffer(bytes, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *list = NULL;
    if (mhpy_reader_open(&r, (mh_bytes){view.buf, (size_t)view.len}, 0, NULL)) {
        if (r.count >> 24) /* items without bytes of their own can be as many as they say; a pool knows how many it awaits */
            corrupt("too many items");
        else
            list = PyList_New(0);
        for (uint32_t i = 0; list && i < r.count; i++) {
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
