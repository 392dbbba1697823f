// SPDX-License-Identifier: BSD-3-Clause
// Takes the arguments of a call by their names, and has those that are not native converted.
#pragma once

#include "arrays.hpp"
#include "threads.hpp"

namespace nll::python {

enum Name {
    input,
    target,
    weight,
    sample_weight,
    ignore_index,
    reduction,
    axis,
    index_base,
    empty,
    label_smoothing,
    grad_output,
    dtype,
    return_total_weight,
    out,
    keepdims,
    names
};

// Spells a name as in Python.
inline py::handle spelled(Name name) {
    static const std::vector<py::handle> strings = [] {
        std::vector<py::handle> interned;
        for (const char* text : {"input", "target", "weight", "sample_weight", "ignore_index",
                                 "reduction", "axis", "index_base", "empty", "label_smoothing",
                                 "grad_output", "dtype", "return_total_weight", "out", "keepdims"})
            interned.emplace_back(PyUnicode_InternFromString(text));
        return interned;
    }();
    return strings[name];
}

// Holds the arguments of one call: null where the function takes none of that name.
struct Arguments {
    py::handle given[names];
    py::handle returned;     // what was given as `out`, which the call returns
    bool in_place;           // `out` may be input itself
    bool converted = false;  // by nll._arguments, which has checked `out`, too

    py::handle operator[](Name name) const { return given[name]; }
};

// Guards what nll._arguments has converted.
inline void require_native(bool native) {
    if (!native) throw py::type_error("an argument is not native, though it was converted");
}

// A function of the module: returns null if an argument is not native.
using Function = py::object(const Arguments&);

// Defines `function` in the module, with arguments of these names in this order. If one is not
// native, it calls nll._arguments to convert all of them, or to raise, and starts again.
template <Function* function, bool in_place, Name... takes>
void define(py::module_& m, const char* name) {
    m.def(name, [](const py::args& given) {
        if (given.size() != sizeof...(takes)) throw py::type_error("wrong number of arguments");
        Arguments arguments;
        arguments.in_place = in_place;
        py::ssize_t i = 0;
        ((arguments.given[takes] = PyTuple_GET_ITEM(given.ptr(), i++)), ...);
        arguments.returned = arguments[out];
        py::object result = function(arguments);
        if (result) return result;

        py::dict native;
        ((native[spelled(takes)] = arguments[takes]), ...);
        native = call_python(packages().as_native, native, in_place);
        ((arguments.given[takes] = PyDict_GetItem(native.ptr(), spelled(takes).ptr())), ...);
        arguments.converted = true;
        result = function(arguments);
        require_native(static_cast<bool>(result));
        return result;
    });
}

}  // namespace nll::python
