// SPDX-License-Identifier: BSD-3-Clause
// What the module needs of Python's threads: how many a call may use, signals, the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <nll/nll.hpp>
#include <thread>

namespace nll::python {

namespace py = pybind11;

// num_threads(n) as a context manager: a context variable, so that it holds in its thread, task and
// block alone.
inline py::handle thread_context() {
    static const py::handle variable = PyContextVar_New("nll.num_threads", py::int_(0).ptr());
    return variable;
}

inline int threads_of_context() {
    PyObject* value = nullptr;
    if (PyContextVar_Get(thread_context().ptr(), nullptr, &value) < 0)
        throw py::error_already_set();
    return static_cast<int>(PyLong_AsLong(py::reinterpret_steal<py::object>(value).ptr()));
}

// Identifies Python's main thread. It alone runs the handlers of signals, so that other threads
// need no GIL in the middle of a call.
inline std::atomic<unsigned long> main_thread;

inline void find_main_thread() {
    main_thread =
        py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
    const auto os = py::module_::import("os");
    if (py::hasattr(os, "register_at_fork"))
        os.attr("register_at_fork")(py::arg("after_in_child") = py::cpp_function(
                                        [] { main_thread = PyThread_get_thread_ident(); }));
}

inline bool signalled() {
    const py::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

// Sleeps until the process is gone. When the interpreter exits, Python before 3.14 ends any other
// thread that wants the GIL, by unwinding its stack: this would destroy Python objects without the
// GIL. Such a thread is kept here, as from Python 3.14 on.
[[noreturn]] inline void sleep_until_the_end() {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

// Calls a function of Python, which may give the GIL to other threads and want it back. Here is no
// object that unwinding could destroy. Returns a new reference, or nullptr with the error set.
inline PyObject* call_or_sleep(PyObject* function, PyObject* arguments) {
    try {
        return PyObject_CallObject(function, arguments);
    } catch (...) {
        sleep_until_the_end();
    }
}
template <class... Arguments>
py::object call_python(const py::object& function, const Arguments&... arguments) {
    const py::tuple all = py::make_tuple(arguments...);
    PyObject* const result = call_or_sleep(function.ptr(), all.ptr());
    if (!result) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
}

// Releases the GIL in its block.
class ReleasedGil {
public:
    ReleasedGil() : state_(PyEval_SaveThread()) {}
    ReleasedGil(const ReleasedGil&) = delete;
    ReleasedGil& operator=(const ReleasedGil&) = delete;
    ~ReleasedGil() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            sleep_until_the_end();
        }
    }

private:
    PyThreadState* state_;
};

// Calls the core without the GIL, if the work is worth more than handing it over.
template <class Work> auto run(const Array& largest, Options& options, Work&& core) {
    constexpr index_t worth = 4096;  // elements
    index_t elements = 1;
    for (int a = 0; a < largest.rank && elements < worth; ++a)
        elements *= std::min(std::max<index_t>(largest.shape[a], 1), worth);
    if (elements < worth) return core();
    if (PyThread_get_thread_ident() == main_thread) options.interrupt = signalled;
    try {
        const ReleasedGil released;
        return core();
    } catch (const Interrupted&) {
        throw py::error_already_set();
    }
}

}  // namespace nll::python
