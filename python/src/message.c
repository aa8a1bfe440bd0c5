/* Objects into messages and back. Small plain objects are written as such: a pickle of an int costs ten times as much as the ring. */
#include "codec.h"
#include "message.h"

/* Buffers of fewer bytes stay inside the pickle, as in tasks. */
enum { BUFFER_MIN = 4096, BUFFER_ALIGN = 64, OCTETS_MIN = 512 };

/* ---- plain values ---------------------------------------------------------------------------------------- */

typedef struct room {
    unsigned char *at, *end;
} room;

static bool put(room *r, uint8_t code, const void *head, size_t head_size, const void *data, size_t size)
{
    if ((size_t)(r->end - r->at) < 1 + head_size + size)
        return false;
    *r->at++ = code;
    memcpy(r->at, head, head_size);
    r->at += head_size;
    if (size)
        memcpy(r->at, data, size);
    r->at += size;
    return true;
}

static bool put_text(room *r, PyObject *o)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(o) < 0) {
        PyErr_Clear();
        return false;
    }
#endif
    Py_ssize_t length = PyUnicode_GET_LENGTH(o);
    int kind = PyUnicode_KIND(o);
    uint32_t count = (uint32_t)length;
    if (length > MHPY_PLAIN_MAX)
        return false;
    uint8_t code = kind == 1 ? MHPY_PLAIN_TEXT1 : kind == 2 ? MHPY_PLAIN_TEXT2 : MHPY_PLAIN_TEXT4;
    return put(r, code, &count, 4, PyUnicode_DATA(o), (size_t)length * (size_t)kind);
}

static bool put_bytes(room *r, PyObject *o)
{
    Py_ssize_t length = PyBytes_GET_SIZE(o);
    uint32_t count = (uint32_t)length;
    return length <= MHPY_PLAIN_MAX && put(r, MHPY_PLAIN_BYTES, &count, 4, PyBytes_AS_STRING(o), (size_t)length);
}

static bool put_value(room *r, PyObject *o, int depth);

static bool put_tuple(room *r, PyObject *o, int depth)
{
    Py_ssize_t count = PyTuple_GET_SIZE(o);
    uint8_t width = (uint8_t)count;
    if (depth == MHPY_PLAIN_DEPTH_MAX || count > MHPY_PLAIN_WIDTH_MAX || !put(r, MHPY_PLAIN_TUPLE, &width, 1, NULL, 0))
        return false;
    for (Py_ssize_t i = 0; i < count; i++)
        if (!put_value(r, PyTuple_GET_ITEM(o, i), depth + 1))
            return false;
    return true;
}

/* False, without an exception: it is no small plain value. */
static bool put_value(room *r, PyObject *o, int depth)
{
    int64_t number;
    double real;
    if (PyLong_CheckExact(o)) {
        bool fits = mhpy_int_value(o, &number);
        return fits && put(r, MHPY_PLAIN_INT, &number, 8, NULL, 0);
    }
    if (PyUnicode_CheckExact(o))
        return put_text(r, o);
    if (PyTuple_CheckExact(o))
        return put_tuple(r, o, depth);
    if (o == Py_None)
        return put(r, MHPY_PLAIN_NONE, NULL, 0, NULL, 0);
    if (PyBool_Check(o))
        return put(r, o == Py_True ? MHPY_PLAIN_TRUE : MHPY_PLAIN_FALSE, NULL, 0, NULL, 0);
    if (PyFloat_CheckExact(o)) {
        real = PyFloat_AS_DOUBLE(o);
        return put(r, MHPY_PLAIN_FLOAT, &real, 8, NULL, 0);
    }
    return PyBytes_CheckExact(o) && put_bytes(r, o);
}

static PyObject *get_text(const mhpy_plain_value *v)
{
    _Alignas(4) unsigned char aligned[MHPY_PLAIN_MAX];
    int unit = v->code == MHPY_PLAIN_TEXT1 ? 1 : v->code == MHPY_PLAIN_TEXT2 ? 2 : 4;
    size_t size = (size_t)v->count * (size_t)unit;
    if (unit == 1)
        return PyUnicode_FromKindAndData(unit, v->from, (Py_ssize_t)v->count);
    if (size > sizeof aligned) {
        mhpy_corrupt("a text is too long");
        return NULL;
    }
    memcpy(aligned, v->from, size);
    return PyUnicode_FromKindAndData(unit, aligned, (Py_ssize_t)v->count);
}

static PyObject *get_value(mh_bytes *rest, int depth);

static PyObject *get_tuple(mh_bytes *rest, uint32_t count, int depth)
{
    if (depth == MHPY_PLAIN_DEPTH_MAX) {
        mhpy_corrupt("tuples too deep");
        return NULL;
    }
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (uint32_t i = 0; tuple && i < count; i++) {
        PyObject *o = get_value(rest, depth + 1);
        if (o)
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, o);
        else
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *get_value(mh_bytes *rest, int depth)
{
    mhpy_plain_value v;
    int64_t number;
    double real;
    const char *wrong = mhpy_plain_next(rest, &v);
    if (wrong) {
        mhpy_corrupt(wrong);
        return NULL;
    }
    switch (v.code) {
    case MHPY_PLAIN_INT: memcpy(&number, v.from, 8); return PyLong_FromLongLong(number);
    case MHPY_PLAIN_FLOAT: memcpy(&real, v.from, 8); return PyFloat_FromDouble(real);
    case MHPY_PLAIN_FALSE: Py_RETURN_FALSE;
    case MHPY_PLAIN_TRUE: Py_RETURN_TRUE;
    case MHPY_PLAIN_BYTES: return PyBytes_FromStringAndSize((const char *)v.from, (Py_ssize_t)v.count);
    case MHPY_PLAIN_TUPLE: return get_tuple(rest, v.count, depth);
    case MHPY_PLAIN_NONE: Py_RETURN_NONE;
    default: return get_text(&v);
    }
}

/* ---- pickles ---------------------------------------------------------------------------------------------- */

/* Where a pickle goes: its chunks as the pickler hands them out, big objects among them without a copy, and the buffers beside it. */
typedef struct sink {
    PyObject_HEAD
    PyObject *chunks, *beside; /* lists */
    bool inside;               /* no buffer stays beside */
} sink;

static PyObject *sink_write(PyObject *self, PyObject *chunk)
{
    if (PyList_Append(((sink *)self)->chunks, chunk) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* The pickler's buffer_callback: false keeps the buffer beside. */
static PyObject *sink_keep(PyObject *self, PyObject *buffer)
{
    sink *s = (sink *)self;
    Py_buffer view;
    if (s->inside)
        Py_RETURN_TRUE;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_ANY_CONTIGUOUS | PyBUF_FORMAT) < 0) {
        PyErr_Clear(); /* what is not contiguous cannot be sent as it lies */
        Py_RETURN_TRUE;
    }
    bool beside = view.len >= BUFFER_MIN;
    PyBuffer_Release(&view);
    if (!beside)
        Py_RETURN_TRUE;
    if (PyList_Append(s->beside, buffer) < 0)
        return NULL;
    Py_RETURN_FALSE;
}

static void sink_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_CLEAR(((sink *)self)->chunks);
    Py_CLEAR(((sink *)self)->beside);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef sink_methods[] = {
    {"write", sink_write, METH_O, NULL},
    {"keep", sink_keep, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot sink_slots[] = {
    {Py_tp_dealloc, sink_dealloc},
    {Py_tp_methods, sink_methods},
    {0, NULL},
};
PyType_Spec mhpy_sink_spec = {
    .name = "manyhands._core._Sink",
    .basicsize = sizeof(sink),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = sink_slots,
};

/* The pickler's dispatch_table: what others registered with the standard library's ForkingPickler, then copyreg, then arrays, which
 * must be writable where they arrive. Looked up one by one, as most pickles need none. */
static PyObject *find_reducer(PyObject *self, PyObject *type)
{
    (void)self;
    PyObject *found = PyObject_CallMethod(mhpy.serial, "_reducer", "O", type);
    if (found != Py_None)
        return found;
    Py_DECREF(found);
    PyErr_SetNone(PyExc_KeyError);
    return NULL;
}

static PyType_Slot reducers_slots[] = {
    {Py_mp_subscript, find_reducer},
    {0, NULL},
};
PyType_Spec mhpy_reducers_spec = {
    .name = "manyhands._core._Reducers",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = reducers_slots,
};

/* A pickler and its sink. One pair is kept for the next object; pickling may run code that pickles. */
typedef struct pair {
    PyObject *pickler;
    sink *sink;
} pair;
static pair kept;

static void drop_pair(pair *p)
{
    Py_CLEAR(p->pickler);
    Py_CLEAR(p->sink);
}

static bool make_pair(pair *p)
{
    p->sink = PyObject_New(sink, mhpy.sink_type);
    if (!p->sink)
        return false;
    p->sink->chunks = p->sink->beside = NULL;
    PyObject *keep = PyObject_GetAttrString((PyObject *)p->sink, "keep"), *five = PyLong_FromLong(5);
    PyObject *table = (PyObject *)PyObject_New(PyObject, mhpy.reducers_type);
    if (keep && five && table) {
        PyObject *args[] = {(PyObject *)p->sink, five, keep};
        p->pickler = PyObject_Vectorcall(mhpy.pickler, args, 2, mhpy.str_buffer_callback);
    }
    if (p->pickler && PyObject_SetAttrString(p->pickler, "dispatch_table", table) < 0)
        Py_CLEAR(p->pickler);
    Py_XDECREF(keep);
    Py_XDECREF(five);
    Py_XDECREF(table);
    return p->pickler;
}

/* Pickle into two new lists: the chunks of the pickle, and the buffers beside it. False with an exception set. */
static bool pickle(PyObject *object, bool inside, PyObject **chunks, PyObject **beside)
{
    pair p = kept;
    kept = (pair){NULL, NULL};
    *chunks = *beside = NULL;
    bool ok = p.pickler || make_pair(&p);
    if (ok) {
        p.sink->chunks = PyList_New(0);
        p.sink->beside = PyList_New(0);
        p.sink->inside = inside;
        ok = p.sink->chunks && p.sink->beside;
    }
    PyObject *done = ok ? PyObject_CallMethodOneArg(p.pickler, mhpy.str_dump, object) : NULL;
    PyObject *cleared = done ? PyObject_CallMethodNoArgs(p.pickler, mhpy.str_clear_memo) : NULL; /* else it would keep the object */
    ok = cleared;
    Py_XDECREF(done);
    Py_XDECREF(cleared);
    if (ok) {
        *chunks = p.sink->chunks;
        *beside = p.sink->beside;
        p.sink->chunks = p.sink->beside = NULL;
    }
    if (ok && !kept.pickler)
        kept = p;
    else
        drop_pair(&p);
    return ok;
}

/* The bytes of every chunk and buffer, and room for the parts that they make. */
static bool open_views(mhpy_outgoing *m)
{
    size_t chunks = (size_t)PyList_GET_SIZE(m->chunks), buffers = (size_t)PyList_GET_SIZE(m->beside), all = chunks + buffers;
    m->views = PyMem_New(Py_buffer, all ? all : 1);
    m->parts = PyMem_New(mh_bytes, 1 + chunks + 2 * buffers);
    m->head = buffers ? PyMem_Malloc(sizeof(mhpy_block_head) + 16 + buffers * sizeof(mhpy_buffer_row)) : NULL;
    if (!m->views || !m->parts || (buffers && !m->head)) {
        PyErr_NoMemory();
        return false;
    }
    for (; m->view_count < all; m->view_count++) {
        size_t i = m->view_count;
        PyObject *from = i < chunks ? PyList_GET_ITEM(m->chunks, (Py_ssize_t)i) : PyList_GET_ITEM(m->beside, (Py_ssize_t)(i - chunks));
        if (PyObject_GetBuffer(from, &m->views[i], i < chunks ? PyBUF_SIMPLE : PyBUF_ANY_CONTIGUOUS | PyBUF_FORMAT) < 0)
            return false;
    }
    return true;
}

static size_t lay_chunks(mhpy_outgoing *m, size_t chunks)
{
    size_t size = 0;
    for (size_t i = 0; i < chunks; i++) {
        m->parts[m->count++] = (mh_bytes){m->views[i].buf, (size_t)m->views[i].len};
        size += (size_t)m->views[i].len;
    }
    return size;
}

/* The parts of a block: its head and rows, the pickle, and each buffer behind the bytes that bring it to its place. */
static void lay_beside(mhpy_outgoing *m, size_t chunks)
{
    static const unsigned char zeros[BUFFER_ALIGN];
    size_t buffers = m->view_count - chunks;
    size_t head_size = sizeof(mhpy_block_head) + 16 + buffers * sizeof(mhpy_buffer_row);
    m->parts[m->count++] = (mh_bytes){m->head, head_size};
    size_t pickle_size = lay_chunks(m, chunks), place = head_size + pickle_size;
    uint64_t pair_of_sizes[2] = {pickle_size, buffers};
    unsigned char *at = mhpy_write_head(m->head, MHPY_PICKLE, 0, 1);
    memcpy(at, pair_of_sizes, sizeof pair_of_sizes);
    at += sizeof pair_of_sizes;
    for (size_t i = 0; i < buffers; i++) {
        const Py_buffer *view = &m->views[chunks + i];
        size_t gap = mhpy_pad(place, BUFFER_ALIGN) - place;
        mhpy_buffer_row row = {place + gap, (uint64_t)view->len << 1 | (view->readonly ? 1 : 0)};
        memcpy(at + i * sizeof row, &row, sizeof row);
        m->parts[m->count++] = (mh_bytes){zeros, gap};
        m->parts[m->count++] = (mh_bytes){view->buf, (size_t)view->len};
        place += gap + (size_t)view->len;
    }
}

static bool write_pickle(mhpy_outgoing *m, PyObject *object)
{
    if (!pickle(object, false, &m->chunks, &m->beside))
        return false;
    size_t chunks = (size_t)PyList_GET_SIZE(m->chunks);
    m->tag = PyList_GET_SIZE(m->beside) ? MHPY_BESIDE : MHPY_PICKLED;
    if (!open_views(m))
        return false;
    if (m->tag == MHPY_BESIDE)
        lay_beside(m, chunks);
    else
        (void)lay_chunks(m, chunks);
    return true;
}

/* The whole pickle as a bytes object. */
static PyObject *pickle_bytes(PyObject *object)
{
    PyObject *chunks, *beside, *empty, *all;
    if (!pickle(object, true, &chunks, &beside))
        return NULL;
    empty = PyBytes_FromStringAndSize(NULL, 0);
    all = empty ? PyObject_CallMethod(empty, "join", "O", chunks) : NULL;
    Py_XDECREF(empty);
    Py_DECREF(chunks);
    Py_DECREF(beside);
    return all;
}

/* ---- outgoing ---------------------------------------------------------------------------------------------- */

static void open_outgoing(mhpy_outgoing *m)
{
    memset(m, 0, offsetof(mhpy_outgoing, space));
    m->parts = &m->few;
}

bool mhpy_outgoing_write(mhpy_outgoing *m, PyObject *object)
{
    open_outgoing(m);
    if (PyBytes_CheckExact(object) && PyBytes_GET_SIZE(object) > OCTETS_MIN) {
        m->tag = MHPY_OCTETS;
        m->held = Py_NewRef(object);
        m->few = (mh_bytes){PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object)};
        m->count = 1;
        return true;
    }
    room r = {m->space, m->space + sizeof m->space};
    if (!put_value(&r, object, 0))
        return write_pickle(m, object);
    m->tag = MHPY_VALUE;
    m->few = (mh_bytes){m->space, (size_t)(r.at - m->space)};
    m->count = 1;
    return true;
}

void mhpy_outgoing_raw(mhpy_outgoing *m, mh_bytes bytes)
{
    open_outgoing(m);
    m->tag = MHPY_RAW;
    m->few = bytes;
    m->count = 1;
}

void mhpy_outgoing_close(mhpy_outgoing *m)
{
    if (!m->chunks) {
        Py_XDECREF(m->held);
        return;
    }
    for (size_t i = 0; i < m->view_count; i++)
        PyBuffer_Release(&m->views[i]);
    PyMem_Free(m->views);
    PyMem_Free(m->head);
    if (m->parts != &m->few)
        PyMem_Free(m->parts);
    Py_XDECREF(m->beside);
    Py_XDECREF(m->chunks);
}

/* ---- incoming ---------------------------------------------------------------------------------------------- */

static PyObject *unpickle(const unsigned char *at, size_t size, PyObject *buffers)
{
    PyObject *view = PyMemoryView_FromMemory((char *)(uintptr_t)at, (Py_ssize_t)size, PyBUF_READ);
    if (!view)
        return NULL;
    PyObject *args[] = {view, buffers};
    PyObject *o = PyObject_Vectorcall(mhpy.loads, args, 1, buffers ? mhpy.str_buffers : NULL);
    Py_DECREF(view);
    return o;
}

/* The buffers of a block, each over its place in the message's own memory. */
static PyObject *views_beside(const mhpy_incoming *m, const mhpy_part *part)
{
    PyObject *list = PyList_New((Py_ssize_t)part->row_count);
    for (size_t i = 0; list && i < part->row_count; i++) {
        mh_bytes buffer;
        bool readonly;
        PyObject *o = NULL;
        const char *wrong = mhpy_parse_buffer(part, (mh_bytes){m->at, m->size}, i, &buffer, &readonly);
        if (wrong)
            mhpy_corrupt(wrong);
        else if (m->owner)
            o = mhpy_buffer_view(m->owner, m->at, buffer.data, buffer.size, readonly);
        else
            o = mhpy_buffer_copy(buffer.data, buffer.size, readonly);
        if (o)
            PyList_SET_ITEM(list, (Py_ssize_t)i, o);
        else
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *read_beside(const mhpy_incoming *m)
{
    mhpy_part part;
    const char *wrong = mhpy_parse(&part, (mh_bytes){m->at, m->size}, 0);
    if (wrong || part.kind != MHPY_PICKLE) {
        mhpy_corrupt(wrong ? wrong : "no pickle");
        return NULL;
    }
    PyObject *buffers = views_beside(m, &part);
    PyObject *o = buffers ? unpickle(part.pickle, part.pickle_size, buffers) : NULL;
    Py_XDECREF(buffers);
    return o;
}

PyObject *mhpy_incoming_read(mhpy_incoming *m)
{
    mh_bytes rest = {m->at, m->size};
    switch (m->tag) {
    case MHPY_VALUE: return get_value(&rest, 0);
    case MHPY_OCTETS: return m->owner ? Py_NewRef(m->owner) : PyBytes_FromStringAndSize((const char *)m->at, (Py_ssize_t)m->size);
    case MHPY_RAW:
    case MHPY_PICKLED: return unpickle(m->at, m->size, NULL);
    case MHPY_BESIDE: return read_beside(m);
    default: mhpy_corrupt("no such message"); return NULL;
    }
}

PyObject *mhpy_incoming_bytes(mhpy_incoming *m)
{
    if (m->tag == MHPY_RAW || m->tag == MHPY_PICKLED)
        return m->owner ? Py_NewRef(m->owner) : PyBytes_FromStringAndSize((const char *)m->at, (Py_ssize_t)m->size);
    PyObject *object = mhpy_incoming_read(m), *bytes = object ? pickle_bytes(object) : NULL;
    Py_XDECREF(object);
    return bytes;
}

void mhpy_incoming_close(mhpy_incoming *m) { Py_CLEAR(m->owner); }
