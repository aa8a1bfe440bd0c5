/* Which names a dictionary had at one moment, without touching the names: a set of them would write to the count of each, and so to pages that
 * this process shares with every worker that it has forked. */
#include "core.h"

/* marks(names): what is_marked looks into. Names are told apart by their hashes, all 64 bits of them. */
PyObject *mhpy_marks(PyObject *module, PyObject *names)
{
    (void)module;
    if (!PyDict_Check(names)) {
        PyErr_SetString(PyExc_TypeError, "names must be a dict");
        return NULL;
    }
    PyObject *marks = PyBytes_FromStringAndSize(NULL, PyDict_GET_SIZE(names) * (Py_ssize_t)sizeof(Py_hash_t)), *name;
    char *out = marks ? PyBytes_AS_STRING(marks) : NULL;
    Py_ssize_t at = 0, count = 0;
    while (marks && PyDict_Next(names, &at, &name, NULL)) {
        Py_hash_t hash = PyUnicode_CheckExact(name) ? PyObject_Hash(name) : 0; /* kept in the name, and so no code of the program's runs */
        memcpy(out + count++ * (Py_ssize_t)sizeof hash, &hash, sizeof hash);
    }
    return marks;
}

/* is_marked(marks, name): whether the dictionary had it. */
PyObject *mhpy_is_marked(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *marks, *name;
    if (!PyArg_ParseTuple(args, "SU", &marks, &name))
        return NULL;
    Py_hash_t wanted = PyObject_Hash(name), hash;
    Py_ssize_t size = PyBytes_GET_SIZE(marks);
    for (Py_ssize_t at = 0; at + (Py_ssize_t)sizeof hash <= size; at += (Py_ssize_t)sizeof hash) {
        memcpy(&hash, PyBytes_AS_STRING(marks) + at, sizeof hash);
        if (hash == wanted)
            Py_RETURN_TRUE;
    }
    Py_RETURN_FALSE;
}
