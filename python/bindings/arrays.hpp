// SPDX-License-Identifier: BSD-3-Clause
// Python objects -> what the core takes. Only native ones: an aligned numpy.ndarray of one of the element types in the
// machine's byte order, an int, a word. For anything else NotNative is thrown, and the Python layer converts or
// explains.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <cmath>
#include <nll/nll.hpp>
#include <optional>
#include <string>

namespace nll::python {

namespace py = pybind11;

struct NotNative : std::runtime_error {
    NotNative() : std::runtime_error("an argument is not native") {}
};

inline const py::detail::PyArray_Proxy* proxy(py::handle array) { return py::detail::array_proxy(array.ptr()); }

inline bool is_array(py::handle object) { return Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_; }

inline bool is_bfloat16(const py::dtype& dtype) {
    static std::atomic<int> known{-1};  // the number that NumPy gave the type when ml_dtypes was imported
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

inline Array array_of(py::handle object) {
    if (!is_array(object)) throw NotNative();
    const auto* array = proxy(object);
    const std::optional<DType> dtype = element_type(py::reinterpret_borrow<py::dtype>(array->descr));
    if (!dtype || !(array->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_)) throw NotNative();
    const auto itemsize = static_cast<py::ssize_t>(py::reinterpret_borrow<py::dtype>(array->descr).itemsize());
    Array view;
    view.data = array->data;
    view.dtype = *dtype;
    view.rank = array->nd;
    for (int a = 0; a < array->nd; ++a) {
        if (array->strides[a] % itemsize != 0) throw NotNative();
        view.shape[a] = array->dimensions[a];
        view.strides[a] = array->strides[a] / itemsize;
    }
    return view;
}

inline Array floating_of(py::handle object) {
    Array array = array_of(object);
    if (!is_floating(array.dtype)) throw NotNative();
    return array;
}

inline Array target_of(py::handle object) {
    Array array = array_of(object);
    if (is_floating(array.dtype)) throw NotNative();
    return array;
}

// Whether two arrays' stretches of memory, from the first to the last byte, have any in common.
inline bool stretches_meet(py::handle one, py::handle other) {
    const auto stretch = [](py::handle object) {
        const auto* array = proxy(object);
        const char *begin = array->data, *end = begin + py::reinterpret_borrow<py::dtype>(array->descr).itemsize();
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

inline Weight weight_of(py::handle object) {
    if (object.is_none()) return {};
    const Array array = array_of(object);
    if (array.rank != 1) throw NotNative();
    return {array.data, array.dtype, array.shape[0], array.strides[0]};
}

inline index_t integer_of(py::handle object) {
    int overflow = 0;
    if (!PyLong_CheckExact(object.ptr())) throw NotNative();
    const long long value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
    if (overflow) throw NotNative();
    return value;
}

inline double float_of(py::handle object) {
    if (!PyFloat_CheckExact(object.ptr())) throw NotNative();
    return PyFloat_AS_DOUBLE(object.ptr());
}

inline IgnoreIndex ignore_index_of(py::handle object) {
    if (object.is_none()) return std::nullopt;
    int overflow = 0;
    if (!PyLong_CheckExact(object.ptr())) throw NotNative();
    const long long value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
    if (!overflow) return value;
    const unsigned long long large = overflow > 0 ? PyLong_AsUnsignedLongLong(object.ptr()) : 0;
    if (overflow < 0 || PyErr_Occurred()) {
        PyErr_Clear();
        throw NotNative();
    }
    return large;
}

inline std::optional<DType> dtype_of_result(py::handle object) {
    if (object.is_none()) return std::nullopt;
    if (!py::isinstance<py::dtype>(object)) throw NotNative();
    const std::optional<DType> dtype = element_type(py::reinterpret_borrow<py::dtype>(object));
    if (!dtype || !is_floating(*dtype)) throw NotNative();
    return dtype;
}

// The words of reduction and empty. Literals in Python code are interned, so that looking at addresses suffices.
template <class Choice, std::size_t count> class Words {
public:
    explicit Words(const char* const (&words)[count]) {
        for (std::size_t i = 0; i < count; ++i) word_[i] = PyUnicode_InternFromString(words[i]);
    }
    Choice operator()(py::handle object) const {
        for (std::size_t i = 0; i < count; ++i)
            if (object.ptr() == word_[i]) return static_cast<Choice>(i);
        throw NotNative();
    }

private:
    PyObject* word_[count];
};

inline Reduction reduction_of(py::handle object) {
    static const Words<Reduction, 3> words({"none", "sum", "mean"});
    return words(object);
}
inline Empty empty_of(py::handle object) {
    static const Words<Empty, 3> words({"nan", "zero", "raise"});
    return words(object);
}

// What is needed of NumPy. Looked up when the module is loaded, and kept.
struct NumPy {
    py::object float16, float32, float64, empty_like, zeros;
};
inline const NumPy& numpy() {
    static const NumPy* const kept = [] {
        const auto module = py::module_::import("numpy");
        return new NumPy{module.attr("float16"), module.attr("float32"), module.attr("float64"),
                         module.attr("empty_like"), module.attr("zeros")};
    }();
    return *kept;
}

// A NumPy scalar of this dtype; the value is one of its numbers. For bfloat16, `like` is the dtype or an array of it.
inline py::object scalar_of(double value, DType dtype, py::handle like = {}) {
    py::object element, bfloat16;
    if (dtype == DType::bfloat16) {
        element =
            py::isinstance<py::dtype>(like) ? py::reinterpret_borrow<py::object>(like) : py::object(like.attr("dtype"));
        bfloat16 = element.attr("type");
    }
    const py::object& type = dtype == DType::float16    ? numpy().float16
                             : dtype == DType::bfloat16 ? bfloat16
                             : dtype == DType::float32  ? numpy().float32
                                                        : numpy().float64;
    if (value != 0 && std::fabs(value) < 0x1p-126 && (dtype == DType::float32 || dtype == DType::bfloat16)) {
        // A subnormal number: made of its bits, for a conversion could flush it, if the caller's thread is set so.
        const auto single = static_cast<std::uint32_t>(std::fabs(value) * 0x1p149) | (value < 0 ? 0x80000000u : 0u);
        const auto half = static_cast<std::uint16_t>(single >> 16);
        if (!element) element = py::dtype::of<float>();
        const void* bits = dtype == DType::float32 ? static_cast<const void*>(&single) : &half;
        return py::array(py::reinterpret_borrow<py::dtype>(element), std::vector<py::ssize_t>(), bits)[py::tuple()];
    }
    const auto number = py::reinterpret_steal<py::object>(PyFloat_FromDouble(value));
    PyObject* result = PyObject_CallOneArg(type.ptr(), number.ptr());
    if (!result) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
}

}  // namespace nll::python
