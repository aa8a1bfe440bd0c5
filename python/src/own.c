/* The methods of C types, given to the Python classes that are made of them.
 *
 * CPython calls a method of a C type without looking it up, by a specialised instruction, only on objects of exactly the type that the method's
 * descriptor names. The classes that users have are Python subclasses: with descriptors of their own a call costs a third less.
 */
#include "core.h"

/* Whether `method` is what the class finds under `name`, and not its own already. */
static bool is_inherited(PyTypeObject *class, PyObject *name, PyObject *method)
{
    PyObject *found = PyObject_GetAttr((PyObject *)class, name);
    Py_XDECREF(found);
    if (!found)
        PyErr_Clear();
    return found == method && PyDescr_TYPE(method) != class;
}

static bool own_methods_of(PyTypeObject *class, PyTypeObject *base)
{
    PyObject *name, *method;
    Py_ssize_t at = 0;
    while (PyDict_Next(base->tp_dict, &at, &name, &method)) {
        if (!Py_IS_TYPE(method, &PyMethodDescr_Type) || !is_inherited(class, name, method))
            continue;
        PyObject *own = PyDescr_NewMethod(class, ((PyMethodDescrObject *)method)->d_method);
        int done = own ? PyObject_SetAttr((PyObject *)class, name, own) : -1;
        Py_XDECREF(own);
        if (done < 0)
            return false;
    }
    return true;
}

/* own_methods(class): the class, with descriptors of its own for the methods that it inherits from types of this module. */
PyObject *mhpy_own_methods(PyObject *module, PyObject *class)
{
    if (!PyType_Check(class)) {
        PyErr_SetString(PyExc_TypeError, "own_methods() takes a class");
        return NULL;
    }
    PyObject *bases = ((PyTypeObject *)class)->tp_mro;
    for (Py_ssize_t i = 1; i < PyTuple_GET_SIZE(bases); i++) {
        PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(bases, i);
        bool is_ours = PyType_HasFeature(base, Py_TPFLAGS_HEAPTYPE) && ((PyHeapTypeObject *)base)->ht_module == module;
        if (is_ours && !own_methods_of((PyTypeObject *)class, base))
            return NULL;
    }
    return Py_NewRef(class);
}
