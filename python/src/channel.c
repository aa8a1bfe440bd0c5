/* What a queue and a pipe's end have in common: calls on a handle that wait in slices, and the handle's life. */
#include "message.h"

/* Counts forks that this process is the child of: the threads that were inside calls then are not in the child. */
static uint32_t generation;

static PyObject *count_fork(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    generation++;
    Py_RETURN_NONE;
}
static PyMethodDef count_fork_def = {"count_fork", count_fork, METH_NOARGS, NULL};

bool mhpy_watch_forks(void)
{
    PyObject *function = PyCFunction_New(&count_fork_def, NULL), *os = function ? PyImport_ImportModule("os") : NULL;
    PyObject *watch = os ? PyObject_GetAttrString(os, "register_at_fork") : NULL, *names = Py_BuildValue("(s)", "after_in_child"), *done = NULL;
    if (watch && names)
        done = PyObject_Vectorcall(watch, &function, 0, names);
    Py_XDECREF(done);
    Py_XDECREF(names);
    Py_XDECREF(watch);
    Py_XDECREF(os);
    Py_XDECREF(function);
    return done;
}

/* ---- the handle's life ------------------------------------------------------------------------------------- */

static void enter(mhpy_channel *c)
{
    if (c->generation != generation) {
        c->generation = generation;
        c->users = 0;
    }
    c->users++;
}

static void leave(mhpy_channel *c)
{
    if (--c->users == 0 && c->released)
        c->kind->destroy(c);
}

void mhpy_channel_close(mhpy_channel *c)
{
    c->closed = c->released = true;
    if (c->users == 0 || c->generation != generation)
        c->kind->destroy(c);
}

void mhpy_channel_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    mhpy_channel *c = (mhpy_channel *)self;
    if (c->kind)
        c->kind->destroy(c);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- waiting ------------------------------------------------------------------------------------------------- */

static mh_deadline slice_until(mh_deadline until)
{
    if (until == MH_NOW)
        return MH_NOW;
    mh_deadline slice = mh_now_about() + MHPY_SLICE_NS;
    return slice < until ? slice : until;
}

/* What to do after a slice: MHPY_DONE here means go on waiting. */
static mhpy_wait judge(const mhpy_channel *c, mh_err err, mh_deadline until)
{
    switch (err) {
    case MH_ERR_EMPTY:
    case MH_ERR_FULL: return MHPY_LATE;
    case MH_ERR_CLOSED: return MHPY_GONE;
    case MH_ERR_TIMEOUT:
    case MH_ERR_INTERRUPTED: break;
    default: mhpy_raise(err); return MHPY_ERROR;
    }
    if (PyErr_CheckSignals() < 0)
        return MHPY_ERROR;
    if (c->released) {
        PyErr_SetString(PyExc_OSError, "handle is closed"); /* by another thread, meanwhile */
        return MHPY_ERROR;
    }
    return until != MH_FOREVER && mh_now() >= until ? MHPY_LATE : MHPY_DONE;
}

mhpy_wait mhpy_channel_call(mhpy_channel *c, mhpy_channel_fn fn, void *ctx, mh_deadline until)
{
    mhpy_wait end = MHPY_DONE;
    mh_err err;
    enter(c);
    do {
        mh_deadline slice = slice_until(until);
        Py_BEGIN_ALLOW_THREADS
        err = fn(c, slice, ctx);
        Py_END_ALLOW_THREADS
        if (err)
            end = judge(c, err, until);
    } while (err && end == MHPY_DONE);
    leave(c);
    return end;
}

static mh_err push(mhpy_channel *c, mh_deadline until, void *ctx)
{
    const mhpy_outgoing *m = ctx;
    return c->kind->push(c, m->parts, m->count, m->tag, until);
}

mhpy_wait mhpy_channel_push(mhpy_channel *c, const mhpy_outgoing *m, mh_deadline until)
{
    return mhpy_channel_call(c, push, (void *)(uintptr_t)m, until);
}

static mh_err wait(mhpy_channel *c, mh_deadline until, void *ctx)
{
    (void)ctx;
    return c->kind->wait(c, until);
}

mhpy_wait mhpy_channel_wait(mhpy_channel *c, mh_deadline until) { return mhpy_channel_call(c, wait, NULL, until); }

/* ---- taking a message ------------------------------------------------------------------------------------------ */

typedef struct taking {
    mhpy_incoming *m;
    unsigned char *room;
    size_t capacity;
    bool too_large;
} taking;

static mh_err pop(mhpy_channel *c, mh_deadline until, void *ctx)
{
    taking *t = ctx;
    mh_err err = c->kind->pop(c, t->room, t->capacity, until, &t->m->size, &t->m->tag);
    t->too_large = err == MH_ERR_TOO_LARGE;
    return t->too_large ? MH_OK : err;
}

/* Room for a message of this size: the place that was asked for where it fits, else memory of its own in the shape in which it will be kept. */
static bool make_room(taking *t)
{
    mhpy_incoming *m = t->m;
    Py_CLEAR(m->owner);
    if (m->place && m->size <= m->place_size && (m->tag == MHPY_RAW || m->tag == MHPY_PICKLED)) {
        t->room = m->place;
        t->capacity = m->place_size;
        return true;
    }
    if (m->tag == MHPY_BESIDE) {
        m->owner = mhpy_buffer_create(m->size, &t->room);
    } else {
        m->owner = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)m->size);
        t->room = m->owner ? (unsigned char *)PyBytes_AS_STRING(m->owner) : NULL;
    }
    t->capacity = m->size;
    return m->owner;
}

/* Somebody else had taken the message that the memory was made for, and what came is smaller or of another shape. */
static bool fit_owner(taking *t, uint32_t tag)
{
    mhpy_incoming *m = t->m;
    if (m->size == t->capacity && (m->tag == MHPY_BESIDE) == (tag == MHPY_BESIDE))
        return true;
    PyObject *old = m->owner;
    const unsigned char *from = t->room;
    m->owner = NULL;
    bool ok = make_room(t);
    if (ok)
        memcpy(t->room, from, m->size);
    Py_DECREF(old);
    return ok;
}

mhpy_wait mhpy_channel_pop_into(mhpy_channel *c, mhpy_incoming *m, unsigned char *place, size_t place_size, mh_deadline until)
{
    taking t = {.m = m, .room = m->space, .capacity = sizeof m->space};
    m->owner = NULL;
    m->place = place;
    m->place_size = place_size;
    m->tag = MHPY_RAW;
    for (;;) {
        uint32_t tag = m->tag;
        mhpy_wait end = mhpy_channel_call(c, pop, &t, until);
        if (end == MHPY_DONE && t.too_large && make_room(&t))
            continue;
        if (end == MHPY_DONE && !t.too_large && (!m->owner || fit_owner(&t, tag))) {
            m->at = t.room;
            return MHPY_DONE;
        }
        Py_CLEAR(m->owner);
        return end == MHPY_DONE ? MHPY_ERROR : end;
    }
}

mhpy_wait mhpy_channel_pop(mhpy_channel *c, mhpy_incoming *m, mh_deadline until)
{
    return mhpy_channel_pop_into(c, m, NULL, 0, until);
}
