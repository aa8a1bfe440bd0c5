/* map and starmap: one loop in the calling thread packs chunks, hands them in and unpacks what comes back, waiting only when there is
 * nothing else to do. What is in flight is bounded, so that memory holds the input, the output and little more.
 *
 * With a chunk size of the caller's each chunk is one task. Without, chunks grow from a few items to what takes a worker about half
 * a millisecond, as measured.
 */
#include "core.h"

enum { BATCH = 256, RESULTS = 64, PROBE_ITEMS = 8, GROWTH = 16, CHUNKS_AHEAD = 5, MANY_ITEMS = 1 << 18 };
/* All chunks ahead fit into what the pool lets a worker hold, so that nobody need wake to hand them on. */
#define CHUNK_NS (MH_MILLISECOND / 2)
#define CHUNK_BYTES ((size_t)4 << 20)
#define FLIGHT_BYTES ((size_t)48 << 20)
#define COUNT_BITS 24 /* a stream's tag: items in the chunk, then the place of the first */
#define COUNT_MAX ((Py_ssize_t)(1 << COUNT_BITS) - 1)
#define START_BITS (64 - COUNT_BITS)

/* ---- messages ---------------------------------------------------------------------------------------------- */

bool mhpy_pack(mhpy_room *room, const mhpy_function *f, uint8_t op, uint8_t flags, PyObject *const *items, Py_ssize_t count, size_t *size)
{
    mhpy_task_head head = {.op = op, .flags = flags, .function_id = f->id, .function_serial = f->serial};
    if (!mhpy_encode(items, count, sizeof head, true, mhpy_room_take, room, size))
        return false;
    memcpy(mhpy_room_data(room), &head, sizeof head);
    return true;
}

bool mhpy_pack_slice(mhpy_room *room, const mhpy_function *f, uint8_t op, uint8_t flags, PyObject *fast, Py_ssize_t start, Py_ssize_t count,
                     size_t *size)
{
    mhpy_task_head head = {.op = op, .flags = flags, .function_id = f->id, .function_serial = f->serial};
    if (!mhpy_encode_slice(fast, start, count, sizeof head, mhpy_room_take, room, size))
        return false;
    memcpy(mhpy_room_data(room), &head, sizeof head);
    return true;
}

/* Small replies are copied out: a few bytes kept by somebody must not keep a block of shared memory. */
#define LEASE_MIN ((size_t)32 << 10)

static bool open_reply(mh_result *r, mhpy_reader *reader, uint64_t *elapsed_ns)
{
    if (r->err) {
        mhpy_raise_object(mhpy_task_error(r));
        return false;
    }
    mhpy_reply_head head;
    mh_bytes reply = r->reply;
    if (reply.size >= sizeof head) {
        memcpy(&head, reply.data, sizeof head);
        if (elapsed_ns)
            *elapsed_ns = head.elapsed_ns;
    }
    return mhpy_reader_open(reader, reply, sizeof head, reply.size >= LEASE_MIN ? r : NULL);
}

/* The reply's own exception says that it was a reply. */
static void explain_result(void)
{
    PyObject *exception = mhpy_take_exception();
    PyObject *better = PyObject_CallMethod(mhpy.serial, "decoding_error", "Os", exception, "the task's result, in the caller");
    if (better)
        Py_DECREF(exception);
    else
        PyErr_Clear();
    mhpy_raise_object(better ? better : exception);
}

static bool read_items(mhpy_reader *reader, PyObject *list, Py_ssize_t start, Py_ssize_t count)
{
    if (reader->part.count != (size_t)count) {
        PyErr_Format(PyExc_ValueError, "a worker answered %u items for %zd", reader->part.count, count);
        return false;
    }
    return mhpy_reader_fill(reader, ((PyListObject *)list)->ob_item + start, count);
}

bool mhpy_take_items(mh_result *r, PyObject *list, Py_ssize_t start, Py_ssize_t count, uint64_t *elapsed_ns)
{
    mhpy_reader reader;
    bool answered = r->err == MH_OK, ok = open_reply(r, &reader, elapsed_ns);
    if (ok) {
        ok = read_items(&reader, list, start, count);
        mhpy_reader_close(&reader);
    }
    if (!ok && answered)
        explain_result();
    return ok;
}

static PyObject *read_item(mhpy_reader *reader)
{
    if (reader->part.count == 1)
        return mhpy_reader_next(reader);
    PyErr_Format(PyExc_ValueError, "a worker answered %u items for one", reader->part.count);
    return NULL;
}

PyObject *mhpy_take_item(mh_result *r)
{
    mhpy_reader reader;
    PyObject *item = NULL;
    bool answered = r->err == MH_OK;
    if (open_reply(r, &reader, NULL)) {
        item = read_item(&reader);
        mhpy_reader_close(&reader);
    }
    if (!item && answered)
        explain_result();
    if (r->owner)
        MHPY_UNLOCKED(mh_result_release(r));
    return item;
}

/* ---- a map on its way ------------------------------------------------------------------------------------------ */

typedef struct map {
    mhpy_pool *pool;
    mh_stream *stream;
    mhpy_function function;
    PyObject *callable, *items, *results, *progress;
    Py_ssize_t count, next, chunk; /* chunk 0: adapts */
    uint8_t op;
    size_t window, flying;
    size_t sent_bytes, sent_tasks, sent_items, got_bytes, got_tasks; /* to tell the size of what flies */
    double item_ns;                                                  /* measured; 0: not yet */
    Py_ssize_t last_chunk;
    PyObject *failure; /* of the first item in order that failed */
    Py_ssize_t failed_at;
} map;

/* Whether more may fly: a few chunks for each worker always, more while they are small. */
static bool has_room(const map *m)
{
    size_t few = CHUNKS_AHEAD * m->pool->workers;
    if (m->flying >= m->window)
        return false;
    if (m->flying < few || !m->sent_tasks)
        return true;
    size_t each = m->sent_bytes / m->sent_tasks + (m->got_tasks ? m->got_bytes / m->got_tasks : 0);
    return m->flying * each < FLIGHT_BYTES;
}

static Py_ssize_t adapted_chunk(map *m)
{
    Py_ssize_t left = m->count - m->next, workers = (Py_ssize_t)m->pool->workers, chunk;
    if (m->item_ns > 0) {
        double fit = (double)CHUNK_NS / m->item_ns;
        chunk = fit < 1 ? 1 : fit > (double)COUNT_MAX ? COUNT_MAX : (Py_ssize_t)fit;
        if (chunk > m->last_chunk * GROWTH)
            chunk = m->last_chunk * GROWTH;
        m->last_chunk = chunk;
    } else {
        chunk = PROBE_ITEMS; /* a few, in case each takes long; fewer when there are few for each worker */
    }
    if (m->sent_items) {
        size_t each = m->sent_bytes / m->sent_items + 1;
        if ((size_t)chunk > CHUNK_BYTES / each)
            chunk = (Py_ssize_t)(CHUNK_BYTES / each);
    }
    Py_ssize_t fair = left / (workers * 2);
    chunk = chunk < fair ? chunk : fair;
    return chunk < 1 ? 1 : chunk;
}

static uint64_t tag_of(Py_ssize_t start, Py_ssize_t count) { return (uint64_t)count << START_BITS | (uint64_t)start; }

static void note_sent(map *m, size_t bytes, Py_ssize_t tasks, Py_ssize_t items)
{
    m->sent_bytes += bytes;
    m->sent_tasks += (size_t)tasks;
    m->sent_items += (size_t)items;
    m->flying += (size_t)tasks;
    m->next += items;
}

/* Plain numbers one by one: as many as lie together, in one go. The number handed in; -1 with an exception set. */
static Py_ssize_t send_singles(map *m)
{
    enum { SIZE = sizeof(mhpy_task_head) + MHPY_ONE_BYTES };
    _Alignas(64) unsigned char records[BATCH * SIZE];
    mhpy_task_head head = {.op = m->op, .function_id = m->function.id, .function_serial = m->function.serial};
    PyObject **items = PySequence_Fast_ITEMS(m->items);
    Py_ssize_t most = m->count - m->next, free = (Py_ssize_t)(m->window - m->flying), count = 0;
    most = most < free ? most : free;
    most = most < BATCH ? most : BATCH;
    mhpy_watch watch = mhpy_watch_begin(m->pool, false);
    for (; count < most; count++) {
        unsigned char *to = records + count * SIZE;
        if (!mhpy_encode_one(items[m->next + count], to + sizeof head))
            break;
        memcpy(to, &head, sizeof head);
    }
    if (!count)
        return 0;
    mhpy_watch_end(m->pool, watch);
    size_t taken = 0;
    mh_err err;
    Py_BEGIN_ALLOW_THREADS
    err = mh_stream_submit_many(m->stream, records, SIZE, (size_t)count, tag_of(m->next, 1), &taken);
    Py_END_ALLOW_THREADS
    if (err && err != MH_ERR_FULL && !(err == MH_ERR_NO_SPACE && m->flying)) {
        mhpy_raise(err);
        return -1;
    }
    note_sent(m, taken * SIZE, (Py_ssize_t)taken, (Py_ssize_t)taken);
    return (Py_ssize_t)taken;
}

static mh_err submit_room(map *m, mhpy_room *room, size_t size, uint64_t tag)
{
    mh_err err;
    Py_BEGIN_ALLOW_THREADS
    if (room->block)
        err = mh_stream_submit_block(m->stream, &room->block, size, tag);
    else
        err = mh_stream_submit(m->stream, (mh_bytes){room->space, size}, tag);
    Py_END_ALLOW_THREADS
    return err;
}

/* An item that cannot be packed fails its own chunk: the others run. */
static void fail_chunk(map *m, Py_ssize_t start)
{
    PyObject *exception = mhpy_take_exception();
    if (!m->failure || start < m->failed_at) {
        Py_XSETREF(m->failure, exception);
        m->failed_at = start;
    } else {
        Py_XDECREF(exception);
    }
}

/* One chunk: 1 handed in, 0 not now, -1 with an exception set. */
static int send_chunk(map *m)
{
    Py_ssize_t chunk = m->chunk ? m->chunk : adapted_chunk(m), left = PySequence_Fast_GET_SIZE(m->items) - m->next;
    left = left < m->count - m->next ? left : m->count - m->next;
    if (left <= 0) {
        PyErr_SetString(PyExc_RuntimeError, "the iterable changed its size during map");
        return -1;
    }
    chunk = chunk < left ? chunk : left;
    mhpy_room room = {.pool = m->pool->pool};
    size_t size;
    uint8_t flags = m->chunk ? 0 : MHPY_FLAG_TIMED;
    mhpy_watch watch = mhpy_watch_begin(m->pool, m->chunk == 1);
    bool packed = mhpy_pack_slice(&room, &m->function, m->op, flags, m->items, m->next, chunk, &size);
    mhpy_watch_end(m->pool, watch);
    if (!packed) {
        mhpy_room_close(&room);
        if (room.err == MH_ERR_NO_SPACE && m->flying) {
            PyErr_Clear();
            return 0;
        }
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        mhpy_blame("items from number", m->next, m->callable);
        fail_chunk(m, m->next);
        m->next += chunk;
        return 1;
    }
    mh_err err = submit_room(m, &room, size, tag_of(m->next, chunk));
    mhpy_room_close(&room);
    if (!err) {
        note_sent(m, size, 1, chunk);
        return 1;
    }
    if ((err == MH_ERR_FULL || err == MH_ERR_NO_SPACE) && m->flying)
        return 0;
    mhpy_raise(err);
    return -1;
}

/* Hand in some more. *full: no more can be handed in now. False with an exception set. */
static bool send(map *m, bool *full)
{
    *full = true;
    if (m->next >= m->count || !has_room(m))
        return true;
    Py_ssize_t sent = 0;
    if (m->chunk == 1 && m->op == MHPY_OP_MAP && PySequence_Fast_GET_SIZE(m->items) >= m->count)
        sent = send_singles(m);
    if (sent == 0)
        sent = send_chunk(m);
    *full = sent == 0 || m->next >= m->count || !has_room(m);
    /* while nothing is measured, the first chunks alone fly */
    if (!m->chunk && m->item_ns == 0 && m->flying >= m->pool->workers)
        *full = true;
    return sent >= 0;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static void measure_time(map *m, uint64_t elapsed_ns, Py_ssize_t count)
{
    if (m->chunk || !elapsed_ns)
        return;
    double each = (double)elapsed_ns / (double)count;
    each = each < 1 ? 1 : each;
    if (m->item_ns == 0)
        m->last_chunk = count;
    m->item_ns = m->item_ns == 0 ? each : 0.75 * m->item_ns + 0.25 * each;
}

/* False with an exception set that ends the map (an interrupt); a task's own is kept for the end. */
static bool take_result(map *m, mh_result *r)
{
    Py_ssize_t start = (Py_ssize_t)(r->tag & ((UINT64_C(1) << START_BITS) - 1)), count = (Py_ssize_t)(r->tag >> START_BITS);
    uint64_t elapsed = 0;
    m->flying--;
    m->got_tasks++;
    m->got_bytes += r->reply.size;
    if (start > m->count || count > m->count - start) {
        PyErr_SetString(PyExc_SystemError, "a result of another map");
        return false;
    }
    if (mhpy_take_items(r, m->results, start, count, &elapsed)) {
        measure_time(m, elapsed, count);
        return true;
    }
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return false;
    fail_chunk(m, start);
    return true;
}

static bool report(map *m, Py_ssize_t done)
{
    if (!done || m->progress == Py_None)
        return true;
    PyObject *number = PyLong_FromSsize_t(done), *answer = number ? PyObject_CallOneArg(m->progress, number) : NULL;
    Py_XDECREF(number);
    Py_XDECREF(answer);
    return answer;
}

/* Take what is there; wait for it only when nothing else is to do. */
static bool receive(map *m, bool wait)
{
    mh_result results[RESULTS];
    size_t count = 0;
    mh_err err;
    Py_BEGIN_ALLOW_THREADS
    err = mh_stream_take_many(m->stream, wait ? mh_deadline_in(MHPY_SLICE_NS) : MH_NOW, results, RESULTS, &count);
    Py_END_ALLOW_THREADS
    if (err && err != MH_ERR_TIMEOUT && err != MH_ERR_INTERRUPTED && err != MH_ERR_EMPTY) {
        mhpy_raise(err);
        return false;
    }
    Py_ssize_t done = 0;
    bool ok = true;
    mhpy_watch watch = err ? (mhpy_watch){0} : mhpy_watch_begin(m->pool, false);
    for (size_t i = 0; !err && i < count; i++) {
        done += (Py_ssize_t)(results[i].tag >> START_BITS);
        ok = ok && take_result(m, &results[i]);
    }
    mhpy_watch_end(m->pool, watch);
    if (!err)
        MHPY_UNLOCKED(mh_results_release(results, count));
    return ok && report(m, done) && PyErr_CheckSignals() == 0;
}

static bool run(map *m)
{
    while (m->next < m->count || m->flying) {
        bool full;
        if (!send(m, &full))
            return false;
        if (m->flying && !receive(m, full))
            return false;
        if (!m->flying && PyErr_CheckSignals() < 0)
            return false;
    }
    return true;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static bool open_map(map *m, const mh_submit_options *options)
{
    size_t workers = m->pool->workers;
    m->window = CHUNKS_AHEAD * workers;
    if (m->chunk) {
        size_t many = ((size_t)64 << 10) / (size_t)m->chunk, most = 2048 * workers;
        many = many < most ? many : most;
        m->window = many > m->window ? many : m->window;
    }
    mh_stream_options stream = {.ordered = false, .window = m->window, .defaults = *options};
    mh_err err;
    Py_BEGIN_ALLOW_THREADS
    err = mh_stream_create(&m->stream, m->pool->pool, &stream);
    Py_END_ALLOW_THREADS
    if (err)
        mhpy_raise(err);
    return !err;
}

static PyObject *finish(map *m, bool ok)
{
    bool idle = m->flying == 0;
    Py_BEGIN_ALLOW_THREADS
    mh_stream_destroy(&m->stream);
    Py_END_ALLOW_THREADS
    if (idle) /* else tasks that run may still look it up */
        mhpy_function_drop(m->pool, &m->function);
    PyObject_GC_Track(m->results);
    if (ok && !m->failure)
        return m->results;
    Py_DECREF(m->results);
    if (!ok) {
        Py_XDECREF(m->failure);
        return NULL;
    }
    return mhpy_raise_object(m->failure);
}

static PyObject *run_map(map *m, const mh_submit_options *options)
{
    m->count = PySequence_Fast_GET_SIZE(m->items);
    if (m->chunk > COUNT_MAX)
        m->chunk = COUNT_MAX;
    if (m->count == 0)
        return PyList_New(0);
    if (!mhpy_function_share(m->pool, m->callable, &m->function))
        return NULL;
    m->results = PyList_New(m->count);
    if (!m->results || !open_map(m, options)) {
        Py_XDECREF(m->results);
        mhpy_function_drop(m->pool, &m->function);
        return NULL;
    }
    PyObject_GC_UnTrack(m->results); /* nobody must find it half filled */
    bool many = m->count >= MANY_ITEMS;
    if (many) {
        mhpy_arenas_begin();
        mhpy_want_huge(m->results);
    }
    bool ok = run(m);
    if (many)
        mhpy_arenas_end();
    return finish(m, ok);
}

PyObject *mhpy_map(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"func", "iterable", "chunksize", "star", "progress", "timeout", "retries", "memory", NULL};
    PyObject *iterable, *timeout = NULL, *retries = NULL, *memory = NULL;
    int star = 0;
    mh_submit_options options;
    map m = {.pool = (mhpy_pool *)self, .progress = Py_None};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOnp|OOOO", names, &m.callable, &iterable, &m.chunk, &star, &m.progress, &timeout,
                                     &retries, &memory) ||
        !mhpy_check_running(m.pool) || !mhpy_submit_options(m.pool, timeout, retries, memory, &options))
        return NULL;
    m.op = star ? MHPY_OP_STARMAP : MHPY_OP_MAP;
    m.items = PySequence_Fast(iterable, "map needs an iterable");
    if (!m.items)
        return NULL;
    PyObject *results = run_map(&m, &options);
    Py_DECREF(m.items);
    return results;
}
