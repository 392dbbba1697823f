// SPDX-License-Identifier: BSD-3-Clause
// An extension module, EMBEDDER, that embeds nll: in one process with others, which embed other
// builds of it.
#include <Python.h>

#include <cstdint>
#include <nll/nll.hpp>
#include <vector>

namespace {

// The mean of 100 000 losses of 3.5, by as many threads as are set.
PyObject* mean_loss(PyObject*, PyObject*) {
    constexpr nll::index_t samples = 100'000;
    static const std::vector<float> input(samples * 2, -3.5f);
    static const std::vector<std::int32_t> target(samples, 1);
    return PyFloat_FromDouble(
        nll::nll_loss(nll::View<const float, 2>{input.data(), {samples, 2}},
                      nll::View<const std::int32_t, 1>{target.data(), {samples}})
            .value);
}

PyObject* set_num_threads(PyObject*, PyObject* threads) {
    nll::set_num_threads(static_cast<int>(PyLong_AsLong(threads)));
    Py_RETURN_NONE;
}

PyObject* get_num_threads(PyObject*, PyObject*) { return PyLong_FromLong(nll::get_num_threads()); }

PyObject* version(PyObject*, PyObject*) { return PyUnicode_FromString(nll::build_info().version); }

PyMethodDef methods[] = {{"mean_loss", mean_loss, METH_NOARGS, nullptr},
                         {"set_num_threads", set_num_threads, METH_O, nullptr},
                         {"get_num_threads", get_num_threads, METH_NOARGS, nullptr},
                         {"version", version, METH_NOARGS, nullptr},
                         {nullptr, nullptr, 0, nullptr}};

#define QUOTED(name) #name
#define TEXT(name) QUOTED(name)
#define INIT_OF(name) PyInit_##name
#define INIT(name) INIT_OF(name)

PyModuleDef definition{PyModuleDef_HEAD_INIT, TEXT(EMBEDDER), nullptr, 0, methods, {}, {}, {}, {}};

}  // namespace

PyMODINIT_FUNC INIT(EMBEDDER)() { return PyModule_Create(&definition); }
