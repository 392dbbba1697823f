// SPDX-License-Identifier: BSD-3-Clause
// Reads Python objects into what the core takes, if they are native: an aligned numpy.ndarray of
// one of the element types in the machine's byte order, an int, a float, a bool, a word. Each
// read() returns false for anything else: no exception is thrown, for it would cost more than a
// small call.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <nll/detail/floating_point.hpp>
#include <nll/nll.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nll::python {

namespace py = pybind11;

inline const py::detail::PyArray_Proxy* proxy(py::handle array) {
    return py::detail::array_proxy(array.ptr());
}

inline bool is_array(py::handle object) {
    return Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_;
}

inline bool is_bfloat16(const py::dtype& dtype) {
    // The number that NumPy gave the type when ml_dtypes was imported.
    static std::atomic<int> known{-1};
    if (dtype.num() == known) return true;
    const py::object type = dtype.attr("type");
    const bool same = type.attr("__name__").cast<std::string>() == "bfloat16" &&
                      type.attr("__module__").cast<std::string>() == "ml_dtypes";
    if (same) known = dtype.num();
    return same;
}

inline std::optional<DType> element_type(const py::dtype& dtype) {
    using api = py::detail::npy_api;
    constexpr int half = 23, first_user_type = 256;  // of NumPy; pybind11 has no names for them
    const auto integer = [&](DType narrowest) {
        return static_cast<DType>(static_cast<int>(narrowest) +
                                  std::countr_zero(static_cast<std::size_t>(dtype.itemsize())));
    };
    const int number = dtype.num();
    if (number == api::NPY_FLOAT_ || number == api::NPY_DOUBLE_ || number == half ||
        (number >= api::NPY_BYTE_ && number <= api::NPY_ULONGLONG_)) {
        if (const char order = dtype.byteorder(); order != '=' && order != '|') return std::nullopt;
        if (number == api::NPY_FLOAT_) return DType::float32;
        if (number == api::NPY_DOUBLE_) return DType::float64;
        if (number == half) return DType::float16;
        return integer((number - api::NPY_BYTE_) % 2 == 0 ? DType::int8 : DType::uint8);
    }
    if (number >= first_user_type && is_bfloat16(dtype)) return DType::bfloat16;
    return std::nullopt;
}

inline bool read(py::handle object, Array& view) {
    if (!is_array(object)) return false;
    const auto* array = proxy(object);
    const auto element = py::reinterpret_borrow<py::dtype>(array->descr);
    const std::optional<DType> dtype = element_type(element);
    if (!dtype || !(array->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_)) return false;
    const py::ssize_t itemsize = element.itemsize();
    view.data = array->data;
    view.dtype = *dtype;
    view.rank = array->nd;
    for (int a = 0; a < array->nd; ++a) {
        if (array->strides[a] % itemsize != 0) return false;
        view.shape[a] = array->dimensions[a];
        view.strides[a] = array->strides[a] / itemsize;
    }
    return true;
}

inline bool read_floats(py::handle object, Array& view) {
    return read(object, view) && is_floating(view.dtype);
}

inline bool read_integers(py::handle object, Array& view) {
    return read(object, view) && !is_floating(view.dtype);
}

// Tells whether two arrays' stretches of memory, from the first to the last byte, have any in
// common.
inline bool stretches_meet(py::handle one, py::handle other) {
    const auto stretch = [](py::handle object) {
        const auto* array = proxy(object);
        const char *begin = array->data,
                   *end = begin + py::reinterpret_borrow<py::dtype>(array->descr).itemsize();
        for (int a = 0; a < array->nd; ++a) {
            if (array->dimensions[a] == 0) return std::pair(begin, begin);
            const auto reach = (array->dimensions[a] - 1) * array->strides[a];
            (reach < 0 ? begin : end) += reach;
        }
        return std::pair(begin, end);
    };
    const auto [begin, end] = stretch(one);
    const auto [other_begin, other_end] = stretch(other);
    return begin < other_end && other_begin < end;
}

inline bool read(py::handle object, Weight& weight) {
    if (object.is_none()) return true;
    Array array;
    if (!read(object, array) || array.rank != 1) return false;
    weight = {array.data, array.dtype, array.shape[0], array.strides[0]};
    return true;
}

// Reads the weights of samples into `memory`, which has to stay, if they have target's shape.
inline bool read_sample_weight(py::handle given, const Array& labels, Array& memory,
                               Options& options) {
    if (given.is_none()) return true;
    if (!read(given, memory) || memory.rank != labels.rank ||
        !std::equal(labels.shape.begin(), labels.shape.begin() + labels.rank, memory.shape.begin()))
        return false;
    options.sample_weight = &memory;
    return true;
}

inline bool read(py::handle object, index_t& value) {
    int overflow = 0;
    if (!PyLong_CheckExact(object.ptr())) return false;
    value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
    return !overflow;
}

inline bool read(py::handle object, double& value) {
    if (!PyFloat_CheckExact(object.ptr())) return false;
    value = PyFloat_AS_DOUBLE(object.ptr());
    return true;
}

inline bool read(py::handle object, bool& value) {
    value = object.ptr() == Py_True;
    return PyBool_Check(object.ptr());
}

inline bool read(py::handle object, IgnoreIndex& ignore_index) {
    ignore_index = std::nullopt;
    if (object.is_none()) return true;
    if (index_t value; read(object, value)) {
        ignore_index = value;
        return true;
    }
    if (!PyLong_CheckExact(object.ptr())) return false;
    const unsigned long long large = PyLong_AsUnsignedLongLong(object.ptr());
    if (PyErr_Occurred()) {  // negative, or larger still
        PyErr_Clear();
        return false;
    }
    ignore_index = large;
    return true;
}

inline bool read(py::handle object, std::optional<DType>& dtype) {
    if (object.is_none()) return true;
    if (!py::isinstance<py::dtype>(object)) return false;
    dtype = element_type(py::reinterpret_borrow<py::dtype>(object));
    return dtype && is_floating(*dtype);
}

// Reads one of the words, which stand in the order of the enum. Literals in Python code are
// interned: their addresses are the same. Words that a program has read are compared.
template <class Choice, std::size_t count> class Words {
public:
    explicit Words(const char* const (&words)[count]) {
        for (std::size_t i = 0; i < count; ++i) word_[i] = PyUnicode_InternFromString(words[i]);
    }
    bool read(py::handle object, Choice& choice) const {
        const auto* found = std::find(word_, word_ + count, object.ptr());
        if (found == word_ + count && PyUnicode_CheckExact(object.ptr()))
            found = std::find_if(word_, word_ + count, [&](PyObject* word) {
                return PyUnicode_Compare(object.ptr(), word) == 0;
            });
        choice = static_cast<Choice>(found - word_);
        return found != word_ + count;
    }

private:
    PyObject* word_[count];
};

inline bool read(py::handle object, Reduction& reduction) {
    static const Words<Reduction, 3> words({"none", "sum", "mean"});
    return words.read(object, reduction);
}

inline bool read(py::handle object, Empty& empty) {
    static const Words<Empty, 3> words({"nan", "zero", "raise"});
    return words.read(object, empty);
}

// What is needed of NumPy and of nll._arguments. Looked up when the module is loaded, and kept.
struct Packages {
    py::object float16, float32, float64, empty_like, zeros, as_native, as_batch;
};
inline const Packages& packages() {
    static const Packages* const kept = [] {
        const auto numpy = py::module_::import("numpy");
        const auto arguments = py::module_::import("nll._arguments");
        return new Packages{numpy.attr("float16"),     numpy.attr("float32"),
                            numpy.attr("float64"),     numpy.attr("empty_like"),
                            numpy.attr("zeros"),       arguments.attr("as_native"),
                            arguments.attr("as_batch")};
    }();
    return *kept;
}

// Makes a NumPy scalar of this dtype; the value is one of its numbers. For bfloat16, `like` is the
// dtype or an array of it.
inline py::object scalar_of(double value, DType dtype, py::handle like = {}) {
    const detail::DefaultFloatingPoint environment;  // NumPy converts the number
    py::object bfloat16;
    if (dtype == DType::bfloat16)
        bfloat16 = (py::isinstance<py::dtype>(like) ? py::reinterpret_borrow<py::object>(like)
                                                    : py::object(like.attr("dtype")))
                       .attr("type");
    const py::object& type = dtype == DType::float16    ? packages().float16
                             : dtype == DType::bfloat16 ? bfloat16
                             : dtype == DType::float32  ? packages().float32
                                                        : packages().float64;
    const auto number = py::reinterpret_steal<py::object>(PyFloat_FromDouble(value));
    PyObject* result = PyObject_CallOneArg(type.ptr(), number.ptr());
    if (!result) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
}

}  // namespace nll::python
