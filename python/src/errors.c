/* The one place where errors of the library become exceptions. */
#include "core.h"

#include <errno.h>

PyObject *mhpy_error_class(const char *name) { return PyObject_GetAttrString(mhpy.errors, name); }

PyObject *mhpy_raise_object(PyObject *exception)
{
    if (exception) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return NULL;
}

PyObject *mhpy_take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (!type)
        return NULL;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback && value)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(traceback);
    Py_DECREF(type);
    return value;
#endif
}

/* The class that the library's table names: a builtin, or one of ours. New reference. */
static PyObject *class_of(mh_err err)
{
    const char *name = mh_err_python(err);
    PyObject *found = PyObject_GetAttrString(mhpy.errors, name);
    if (found)
        return found;
    PyErr_Clear();
    PyObject *builtins = PyEval_GetBuiltins(); /* borrowed */
    found = PyDict_GetItemString(builtins, name);
    return Py_NewRef(found ? found : PyExc_RuntimeError);
}

static PyObject *message_of(mh_err err)
{
    const char *detail = mh_err_detail();
    return detail[0] ? PyUnicode_FromFormat("%s: %s", mh_err_text(err), detail) : PyUnicode_FromString(mh_err_text(err));
}

PyObject *mhpy_raise(mh_err err)
{
    int system = mh_err_errno();
    if (err == MH_ERR_INTERRUPTED && PyErr_CheckSignals() < 0)
        return NULL;
    if (err == MH_ERR_NO_MEMORY)
        return PyErr_NoMemory();
    if (err == MH_ERR_NO_SPACE && !system)
        system = ENOSPC; /* found out before the system was asked */
    PyObject *class = class_of(err), *message = message_of(err), *exception = NULL;
    bool is_os = class && PyType_Check(class) && PyType_IsSubtype((PyTypeObject *)class, (PyTypeObject *)PyExc_OSError);
    if (class && message)
        exception = is_os && system ? PyObject_CallFunction(class, "iO", system, message) : PyObject_CallOneArg(class, message);
    Py_XDECREF(class);
    Py_XDECREF(message);
    return mhpy_raise_object(exception);
}

/* ---- how a task ended ---------------------------------------------------------------------------------- */

/* What the worker said of a failure: a pickled pair of the exception and its traceback's text. */
static PyObject *described_error(const mh_result *r)
{
    PyObject *reply = PyMemoryView_FromMemory((char *)(uintptr_t)r->reply.data, (Py_ssize_t)r->reply.size, PyBUF_READ);
    if (!reply)
        return NULL;
    PyObject *exception = PyObject_CallMethod(mhpy.serial, "load_error", "O", reply);
    Py_DECREF(reply);
    if (exception && !PyExceptionInstance_Check(exception)) {
        Py_DECREF(exception);
        PyErr_SetString(PyExc_SystemError, "a worker's error is no exception");
        return NULL;
    }
    return exception;
}

static PyObject *lost_error(const char *class_name, const mh_result *r)
{
    PyObject *class = mhpy_error_class(class_name);
    PyObject *exception = class ? PyObject_CallFunction(class, "iiKIi", r->signal, r->exit_code, (unsigned long long)r->task_id,
                                                        (unsigned int)r->attempts, r->worker_pid) : NULL;
    Py_XDECREF(class);
    return exception;
}

static PyObject *memory_error(const mh_result *r)
{
    PyObject *class = mhpy_error_class("OutOfMemory");
    PyObject *exception = class ? PyObject_CallFunction(class, "iiKIiK", r->signal, r->exit_code, (unsigned long long)r->task_id,
                                                        (unsigned int)r->attempts, r->worker_pid,
                                                        (unsigned long long)r->memory_bytes) : NULL;
    Py_XDECREF(class);
    return exception;
}

static PyObject *broken_error(void)
{
    PyObject *class = mhpy_error_class("PoolBroken");
    PyObject *exception = class ? PyObject_CallFunction(class, "s", "the pool is broken: its workers do not start") : NULL;
    Py_XDECREF(class);
    return exception;
}

static PyObject *plain_error(const mh_result *r)
{
    PyObject *class = class_of(r->err);
    PyObject *exception = class ? PyObject_CallFunction(class, "s", mh_err_text(r->err)) : NULL;
    Py_XDECREF(class);
    return exception;
}

PyObject *mhpy_task_error(mh_result *r)
{
    PyObject *exception;
    switch (r->err) {
    case MH_ERR_TASK_FAILED: exception = described_error(r); break;
    case MH_ERR_WORKER_LOST: exception = lost_error("WorkerLost", r); break;
    case MH_ERR_POISON_TASK: exception = lost_error("PoisonTask", r); break;
    case MH_ERR_OUT_OF_MEMORY_TASK: exception = memory_error(r); break;
    case MH_ERR_BROKEN: exception = broken_error(); break;
    case MH_ERR_TIMEOUT: exception = lost_error("TaskTimeout", r); break;
    default: exception = plain_error(r);
    }
    return exception;
}

void mhpy_blame(const char *what, Py_ssize_t index, PyObject *function)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return; /* an interrupt has nothing to do with the object */
    PyObject *exception = mhpy_take_exception();
    if (!exception)
        return;
    PyObject *blamed = PyObject_CallMethod(mhpy.serial, "blame", "OsnO", exception, what, index, function ? function : Py_None);
    if (!blamed)
        PyErr_Clear(); /* the exception says enough */
    Py_XDECREF(blamed);
    mhpy_raise_object(exception);
}
