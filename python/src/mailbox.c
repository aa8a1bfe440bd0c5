/* The mailbox of a pool: results that have ended and whose callbacks are to be called, by one thread, under no lock.
 *
 * Letters are posted by whichever thread drives the pool, without the interpreter's lock; the two locks here need none.
 */
#include "core.h"

typedef struct mailbox {
    PyObject_HEAD
    PyThread_type_lock guard; /* guards first and last */
    PyThread_type_lock bell;  /* free when somebody should look */
    mhpy_letter *first, **last;
    size_t expected; /* letters to come; under the interpreter's lock, as is what follows */
    bool closed;     /* no letter will be expected any more */
    bool claimed;    /* somebody starts the callback thread */
    bool serving;    /* it runs */
} mailbox;

PyObject *mhpy_mailbox_create(void)
{
    mailbox *m = PyObject_New(mailbox, mhpy.mailbox_type);
    if (!m)
        return NULL;
    m->guard = PyThread_allocate_lock();
    m->bell = PyThread_allocate_lock();
    m->first = NULL;
    m->last = &m->first;
    m->expected = 0;
    m->closed = m->claimed = m->serving = false;
    if (m->guard && m->bell) {
        PyThread_acquire_lock(m->bell, NOWAIT_LOCK);
        return (PyObject *)m;
    }
    Py_DECREF(m);
    return PyErr_NoMemory();
}

static void dealloc(PyObject *self)
{
    mailbox *m = (mailbox *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (m->guard)
        PyThread_free_lock(m->guard);
    if (m->bell) {
        PyThread_acquire_lock(m->bell, NOWAIT_LOCK);
        PyThread_release_lock(m->bell);
        PyThread_free_lock(m->bell);
    }
    PyObject_Free(self);
    Py_DECREF(type);
}

/* With the guard held, so that two ringers do not release twice. */
static void ring(mailbox *m)
{
    PyThread_acquire_lock(m->bell, NOWAIT_LOCK); /* whether it was taken or is now: it is held, by nobody in particular */
    PyThread_release_lock(m->bell);
}

void mhpy_mailbox_expect(PyObject *self, mhpy_letter *letter, PyObject *owner)
{
    ((mailbox *)self)->expected++;
    letter->owner = Py_NewRef(owner);
}

void mhpy_mailbox_post(PyObject *self, mhpy_letter *letter)
{
    mailbox *m = (mailbox *)self;
    PyThread_acquire_lock(m->guard, WAIT_LOCK);
    letter->next = NULL;
    *m->last = letter;
    m->last = &letter->next;
    ring(m);
    PyThread_release_lock(m->guard);
}

static mhpy_letter *take_all(mailbox *m)
{
    PyThread_acquire_lock(m->guard, WAIT_LOCK);
    mhpy_letter *all = m->first;
    m->first = NULL;
    m->last = &m->first;
    PyThread_release_lock(m->guard);
    return all;
}

/* True for one caller only, until it says that it could not start the thread. */
static PyObject *claim(PyObject *self, PyObject *yes)
{
    mailbox *m = (mailbox *)self;
    bool wanted = PyObject_IsTrue(yes) == 1, got = wanted && !m->claimed;
    m->claimed = wanted;
    return PyBool_FromLong(got);
}

/* The callback thread's main: ends when the mailbox is closed and every expected letter was read. One thread at a time: the end rings
 * for one. */
static PyObject *serve(PyObject *self, PyObject *unused)
{
    (void)unused;
    mailbox *m = (mailbox *)self;
    if (m->serving)
        Py_RETURN_NONE;
    m->serving = true;
    while (m->expected || !m->closed) {
        mhpy_letter *letter = take_all(m);
        if (!letter) {
            Py_BEGIN_ALLOW_THREADS
            PyThread_acquire_lock(m->bell, WAIT_LOCK);
            Py_END_ALLOW_THREADS
        }
        while (letter) {
            mhpy_letter *next = letter->next;
            PyObject *owner = letter->owner;
            letter->deliver(owner);
            m->expected--;
            Py_DECREF(owner); /* the letter lies in it */
            letter = next;
        }
    }
    Py_RETURN_NONE;
}

void mhpy_mailbox_close(PyObject *self)
{
    mailbox *m = (mailbox *)self;
    m->closed = true;
    PyThread_acquire_lock(m->guard, WAIT_LOCK);
    ring(m);
    PyThread_release_lock(m->guard);
}

static PyObject *close_mailbox(PyObject *self, PyObject *unused)
{
    (void)unused;
    mhpy_mailbox_close(self);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"claim", claim, METH_O, "claim(True): whether the caller is to start the thread that serves; claim(False): it could not."},
    {"serve", serve, METH_NOARGS, "serve(): call callbacks until the mailbox is closed and all were called."},
    {"close", close_mailbox, METH_NOARGS, "close(): no more results will want a callback."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, dealloc},
    {Py_tp_methods, methods},
    {Py_tp_doc, "Results that wait for their callbacks."},
    {0, NULL},
};
PyType_Spec mhpy_mailbox_spec = {
    .name = "manyhands._core.Mailbox",
    .basicsize = sizeof(mailbox),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};
