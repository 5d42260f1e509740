// What Python would be asked before each solve, object by object, asked in one call: whether it is as it was.
//
// Nothing is kept here: who asks holds the objects, and Python's garbage collector sees them.

#include <nanobind/nanobind.h>

#include <cstring>

#include "objects.hpp"

namespace nb = nanobind;

namespace thalweg {
namespace {

PyObject* item(PyObject* tuple, Py_ssize_t i) { return PyTuple_GET_ITEM(tuple, i); }

// The answer; an object that could not be asked has said no, and left an error.
bool answered(bool found) {
  if (!found) PyErr_Clear();
  return found;
}

// Whether a list, or a set in the order that it has, holds the very elements of another list.
bool holds_same(PyObject* held, PyObject* then) {
  const nb::object elements = nb::steal(PySequence_Fast(held, ""));
  if (!elements.is_valid() || PySequence_Fast_GET_SIZE(elements.ptr()) != PyList_GET_SIZE(then)) return false;
  for (Py_ssize_t i = 0, n = PyList_GET_SIZE(then); i < n; ++i)
    if (PySequence_Fast_GET_ITEM(elements.ptr(), i) != PyList_GET_ITEM(then, i)) return false;
  return true;
}

// Whether the keys of a mapping come in that order.
bool is_in_order(PyObject* mapping, PyObject* keys) {
  Py_ssize_t n = 0;
  if (PyDict_CheckExact(mapping)) {
    PyObject* key;
    for (Py_ssize_t i = 0; PyDict_Next(mapping, &i, &key, nullptr); ++n)
      if (key != item(keys, n)) return false;
    return true;
  }
  const nb::object listed = nb::steal(PyMapping_Keys(mapping));
  const nb::object found = nb::steal(listed.is_valid() ? PySequence_Fast(listed.ptr(), "") : nullptr);
  if (!found.is_valid()) return false;
  for (; n < PyTuple_GET_SIZE(keys); ++n)
    if (PySequence_Fast_GET_ITEM(found.ptr(), n) != item(keys, n)) return false;
  return true;
}

// (mapping, size, keys, values): the size is -1 where it does not matter.
bool is_same_mapping(PyObject* entry) {
  PyObject *held = item(entry, 0), *keys = item(entry, 2), *values = item(entry, 3);
  const bool dict = PyDict_Check(held);
  const Py_ssize_t size = PyLong_AsSsize_t(item(entry, 1));
  if (size >= 0 && (dict ? PyDict_GET_SIZE(held) : PyObject_Size(held)) != size) return false;
  for (Py_ssize_t i = 0, n = PyTuple_GET_SIZE(keys); i < n; ++i) {
    PyObject* key = item(keys, i);
    PyObject* found = dict ? PyDict_GetItemWithError(held, key) : PyObject_GetItem(held, key);
    if (!dict) Py_XDECREF(found);  // the mapping holds it
    if (found != item(values, i)) return false;
  }
  // where all keys are known, their order is: what runs through the mapping meets them so
  return PyTuple_GET_SIZE(keys) < 2 || PyTuple_GET_SIZE(keys) != size || is_in_order(held, keys);
}

// (owner, name, value)
bool is_same_attribute(PyObject* entry) {
  const nb::object found = nb::steal(PyObject_GetAttr(item(entry, 0), item(entry, 1)));
  return found.is_valid() && PyObject_RichCompareBool(found.ptr(), item(entry, 2), Py_EQ) == 1;
}

// (function, code, defaults, defaults of keywords)
bool is_same_function(PyObject* entry) {
  PyObject* const function = item(entry, 0);
  const auto same = [&](PyObject* found, int i) { return (found ? found : Py_None) == item(entry, i); };
  return same(PyFunction_GET_CODE(function), 1) && same(PyFunction_GET_DEFAULTS(function), 2) &&
         same(PyFunction_GET_KW_DEFAULTS(function), 3);
}

// (weak reference, class); of what is gone nobody asks any more
bool is_same_class(PyObject* entry) {
  const nb::object found = nb::steal(PyObject_CallNoArgs(item(entry, 0)));
  return found.is_valid() && (found.is_none() || reinterpret_cast<PyObject*>(Py_TYPE(found.ptr())) == item(entry, 1));
}

template <class Is>
bool all_of(nb::list entries, Is is) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(entries.ptr()); ++i)
    if (!is(PyList_GET_ITEM(entries.ptr(), i))) return false;
  return true;
}

bool as_it_was(nb::list mappings, nb::list attributes, nb::list sequences, nb::list cells, nb::list absent,
               nb::list functions, nb::list classes) {
  return answered(
      all_of(mappings, is_same_mapping) && all_of(attributes, is_same_attribute) &&
      all_of(sequences, [](PyObject* entry) { return holds_same(item(entry, 0), item(entry, 1)); }) &&
      all_of(cells, [](PyObject* entry) { return PyCell_GET(item(entry, 0)) == item(entry, 1); }) &&
      all_of(absent, [](PyObject* entry) { return PyDict_Contains(item(entry, 0), item(entry, 1)) == 0; }) &&
      all_of(functions, is_same_function) && all_of(classes, is_same_class));
}

// Equal, of one type, and so their elements if they are tuples: 1 is not 1.0, and not True; 0.0 is not -0.0.
bool is_alike(PyObject* a, PyObject* b) {
  if (a == b) return true;
  if (Py_TYPE(a) != Py_TYPE(b)) return false;
  if (PyFloat_CheckExact(a)) {
    const double x = PyFloat_AS_DOUBLE(a), y = PyFloat_AS_DOUBLE(b);
    return std::memcmp(&x, &y, sizeof x) == 0;
  }
  if (!PyTuple_CheckExact(a)) return PyObject_RichCompareBool(a, b, Py_EQ) == 1;
  const Py_ssize_t n = PyTuple_GET_SIZE(a);
  if (PyTuple_GET_SIZE(b) != n) return false;
  for (Py_ssize_t i = 0; i < n; ++i)
    if (!is_alike(item(a, i), item(b, i))) return false;
  return true;
}

nb::object found_by(nb::list ways, nb::tuple key) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(ways.ptr()); ++i) {
    PyObject* way = PyList_GET_ITEM(ways.ptr(), i);
    if (answered(is_alike(item(way, 0), key.ptr()))) return nb::borrow(way);
  }
  return nb::none();
}

PyObject* name(const char* text) { return PyUnicode_InternFromString(text); }

bool is_in_place(PyObject* tensor, PyObject* dtype) {
  static PyObject *const of_dtype = name("dtype"), *const contiguous = name("is_contiguous"), *const negative = name("is_neg");
  const nb::object its = nb::steal(PyObject_GetAttr(tensor, of_dtype));
  if (its.ptr() != dtype) return false;
  const nb::object dense = nb::steal(PyObject_CallMethodNoArgs(tensor, contiguous));
  const nb::object turned = nb::steal(PyObject_CallMethodNoArgs(tensor, negative));
  return dense.ptr() == Py_True && turned.ptr() == Py_False && address_of(tensor) != 0;
}

bool in_place(nb::list tensors, nb::handle dtype) {
  return answered(all_of(tensors, [&](PyObject* tensor) { return is_in_place(tensor, dtype.ptr()); }));
}

}  // namespace

std::uintptr_t address_of(nb::handle tensor) {
  if (tensor.is_none()) return 0;
  static PyObject* const data_ptr = name("data_ptr");
  const nb::object found = nb::steal(PyObject_CallMethodNoArgs(tensor.ptr(), data_ptr));
  if (!found.is_valid()) throw nb::python_error();
  return PyLong_AsUnsignedLongLong(found.ptr());
}

void bind_objects(nb::module_& m) {
  m.def("as_it_was", as_it_was);
  m.def("found_by", found_by);
  m.def("in_place", in_place);
}

}  // namespace thalweg
