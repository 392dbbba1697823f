// SPDX-License-Identifier: BSD-3-Clause
// The module nll._core: the core's functions for native arguments.
#include "arrays.hpp"

namespace nll::python {
namespace {

// num_threads(n) as a context manager: a context variable, so that it holds in its thread, task and block alone.
py::handle thread_context() {
    static const py::handle variable = PyContextVar_New("nll.num_threads", py::int_(0).ptr());
    return variable;
}

int threads_of_context() {
    PyObject* value = nullptr;
    if (PyContextVar_Get(thread_context().ptr(), nullptr, &value) < 0) throw py::error_already_set();
    return static_cast<int>(PyLong_AsLong(py::reinterpret_steal<py::object>(value).ptr()));
}

bool signalled() {
    const py::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

// The choices that all functions share, in the order in which Python hands them over.
Options options_of(py::handle weight, py::handle ignore_index, py::handle reduction, py::handle axis,
                   py::handle index_base, py::handle empty) {
    Options options;
    options.weight = weight_of(weight);
    options.ignore_index = ignore_index_of(ignore_index);
    options.reduction = reduction_of(reduction);
    options.axis = integer_of(axis);
    options.index_base = integer_of(index_base);
    options.empty = empty_of(empty);
    options.num_threads = threads_of_context();
    return options;
}

// Calls the core; without the GIL if the work is worth more than handing it over.
template <class Call> auto call(const Array& largest, Options& options, Call&& core) {
    constexpr index_t worth = 4096;  // elements
    index_t elements = 1;
    for (int a = 0; a < largest.rank && elements < worth; ++a)
        elements *= std::min(std::max<index_t>(largest.shape[a], 1), worth);
    if (elements < worth) return core();
    options.interrupt = signalled;
    try {
        const py::gil_scoped_release released;
        return core();
    } catch (const Interrupted&) {
        throw py::error_already_set();
    }
}

// A new array for the gradient of an input, in its memory order. Beyond what malloc may keep of freed memory, zeros
// cost nothing: they are how pages come from the system.
py::object new_gradient(py::handle input, bool& fresh) {
    constexpr py::ssize_t kept_by_malloc = 32 << 20;
    const auto* array = proxy(input);
    if (!(array->flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_)) return numpy().empty_like(input);
    std::vector<py::ssize_t> shape(array->dimensions, array->dimensions + array->nd);
    const auto dtype = py::reinterpret_borrow<py::dtype>(array->descr);
    py::ssize_t bytes = dtype.itemsize();
    for (const py::ssize_t extent : shape) bytes *= extent;
    fresh = bytes > kept_by_malloc;
    if (!fresh) return py::array(dtype, std::move(shape));
    return numpy().zeros(input.attr("shape"), dtype);
}

// Whether `out` can be written without a closer look: an array in C order of input's dtype and shape, whose memory is
// far from that of the others, or where that is allowed input's own.
bool is_plain_out(py::handle out, py::handle input, bool in_place, const py::args& apart_from) {
    using api = py::detail::npy_api;
    if (!is_array(out) || !is_array(input)) return false;
    const auto *to = proxy(out), *from = proxy(input);
    constexpr int needed = api::NPY_ARRAY_C_CONTIGUOUS_ | api::NPY_ARRAY_WRITEABLE_ | api::NPY_ARRAY_ALIGNED_;
    if ((to->flags & needed) != needed || to->descr != from->descr || to->nd != from->nd) return false;
    if (!std::equal(to->dimensions, to->dimensions + to->nd, from->dimensions)) return false;
    const bool same = to->data == from->data && (from->flags & api::NPY_ARRAY_C_CONTIGUOUS_);
    if (!(in_place && same) && stretches_meet(out, input)) return false;
    return std::none_of(apart_from.begin(), apart_from.end(),
                        [&](py::handle other) { return is_array(other) && stretches_meet(out, other); });
}

// ---------------------------------------------------------------- what the losses share

using Core = Loss(const detail::Call&);

py::object loss_of(Core* core, Options& options, py::handle input, py::handle target, py::handle dtype,
                   bool return_total_weight) {
    const Array from = floating_of(input), labels = target_of(target);
    options.dtype = dtype_of_result(dtype);
    Loss loss;
    py::object result;
    if (options.reduction == Reduction::none) {
        const py::dtype element =
            py::reinterpret_borrow<py::dtype>(options.dtype ? dtype : py::handle(proxy(input)->descr));
        py::array losses(element, std::vector<py::ssize_t>(labels.shape.begin(), labels.shape.begin() + labels.rank));
        const Array to = array_of(losses);
        loss = call(from, options, [&] { return core({{&from, &labels, &to, nullptr, nullptr}, options, 1.0, true, true}); });
        result = labels.rank == 0 ? losses[py::tuple()].cast<py::object>() : losses;
    } else {
        loss = call(from, options, [&] { return core({{&from, &labels, nullptr, nullptr, nullptr}, options}); });
        result = scalar_of(loss.value, options.dtype.value_or(from.dtype), options.dtype ? dtype : input);
    }
    if (!return_total_weight) return result;
    return py::make_tuple(result, scalar_of(loss.total_weight, DType::float64));
}

py::object gradient_of(Core* core, bool reads, Options& options, py::handle grad_output, py::handle input,
                       py::handle target, py::handle out) {
    const Array like = floating_of(input), labels = target_of(target);
    const bool number = PyFloat_CheckExact(grad_output.ptr());
    if (number == (options.reduction == Reduction::none)) throw NotNative();
    Array grad_outputs;
    if (!number) grad_outputs = floating_of(grad_output);
    bool fresh = false;
    py::object result = out.is_none() ? new_gradient(input, fresh) : py::reinterpret_borrow<py::object>(out);
    const Array to = floating_of(result);
    call(to, options, [&] {
        return core({{reads ? &like : nullptr, &labels, nullptr, number ? nullptr : &grad_outputs, &to}, options,
              number ? PyFloat_AS_DOUBLE(grad_output.ptr()) : 1.0, false, fresh});
    });
    return result;
}

py::object value_and_grad_of(Core* core, Options& options, py::handle input, py::handle target,
                             py::handle grad_output, bool return_total_weight, py::handle out) {
    const Array from = floating_of(input), labels = target_of(target);
    if (!PyFloat_CheckExact(grad_output.ptr())) throw NotNative();
    bool fresh = false;
    py::object gradient = out.is_none() ? new_gradient(input, fresh) : py::reinterpret_borrow<py::object>(out);
    const Array to = floating_of(gradient);
    const Loss loss = call(
        from, options, [&] { return core({{&from, &labels, nullptr, nullptr, &to}, options, PyFloat_AS_DOUBLE(grad_output.ptr()), true, fresh}); });
    py::object value = scalar_of(loss.value, from.dtype, input);
    if (!return_total_weight) return py::make_tuple(value, gradient);
    return py::make_tuple(value, scalar_of(loss.total_weight, DType::float64), gradient);
}

// ---------------------------------------------------------------- the module's functions

py::object nll_loss(py::handle input, py::handle target, py::handle weight, py::handle ignore_index,
                    py::handle reduction, py::handle axis, py::handle index_base, py::handle empty, py::handle dtype,
                    bool return_total_weight) {
    Options options = options_of(weight, ignore_index, reduction, axis, index_base, empty);
    return loss_of(detail::nll_loss, options, input, target, dtype, return_total_weight);
}

py::object nll_loss_backward(py::handle grad_output, py::handle input, py::handle target, py::handle weight,
                             py::handle ignore_index, py::handle reduction, py::handle axis, py::handle index_base,
                             py::handle empty, py::handle out) {
    Options options = options_of(weight, ignore_index, reduction, axis, index_base, empty);
    return gradient_of(detail::nll_loss, false, options, grad_output, input, target, out);
}

py::object nll_loss_value_and_grad(py::handle input, py::handle target, py::handle weight, py::handle ignore_index,
                                   py::handle reduction, py::handle axis, py::handle index_base, py::handle empty,
                                   py::handle grad_output, bool return_total_weight, py::handle out) {
    Options options = options_of(weight, ignore_index, reduction, axis, index_base, empty);
    return value_and_grad_of(detail::nll_loss, options, input, target, grad_output, return_total_weight,
                             out);
}

py::object cross_entropy(py::handle input, py::handle target, py::handle weight, py::handle ignore_index,
                         py::handle reduction, py::handle axis, py::handle index_base, py::handle empty,
                         py::handle label_smoothing, py::handle dtype, bool return_total_weight) {
    Options options = options_of(weight, ignore_index, reduction, axis, index_base, empty);
    options.label_smoothing = float_of(label_smoothing);
    return loss_of(detail::cross_entropy, options, input, target, dtype, return_total_weight);
}

py::object cross_entropy_backward(py::handle grad_output, py::handle input, py::handle target, py::handle weight,
                                  py::handle ignore_index, py::handle reduction, py::handle axis, py::handle index_base,
                                  py::handle empty, py::handle label_smoothing, py::handle out) {
    Options options = options_of(weight, ignore_index, reduction, axis, index_base, empty);
    options.label_smoothing = float_of(label_smoothing);
    return gradient_of(detail::cross_entropy, true, options, grad_output, input, target, out);
}

py::object cross_entropy_value_and_grad(py::handle input, py::handle target, py::handle weight, py::handle ignore_index,
                                        py::handle reduction, py::handle axis, py::handle index_base, py::handle empty,
                                        py::handle label_smoothing, py::handle grad_output, bool return_total_weight,
                                        py::handle out) {
    Options options = options_of(weight, ignore_index, reduction, axis, index_base, empty);
    options.label_smoothing = float_of(label_smoothing);
    return value_and_grad_of(detail::cross_entropy, options, input, target, grad_output,
                             return_total_weight, out);
}

py::object log_softmax(py::handle input, py::handle axis, py::handle out) {
    Options options;
    options.axis = integer_of(axis);
    options.num_threads = threads_of_context();
    const Array from = floating_of(input);
    bool fresh = false;
    py::object result = out.is_none() ? new_gradient(input, fresh) : py::reinterpret_borrow<py::object>(out);
    const Array to = floating_of(result);
    call(from, options, [&] { detail::log_softmax({{&from, nullptr, nullptr, nullptr, &to}, options, 1.0, true, fresh}); });
    return result;
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    numpy();
    py::register_exception<NotNative>(m, "NotNative", PyExc_TypeError);
    py::register_exception_translator([](std::exception_ptr error) {
        try {
            std::rethrow_exception(error);
        } catch (const AxisError& axis) {
            const py::object type = py::module_::import("numpy.exceptions").attr("AxisError");
            PyErr_SetString(type.ptr(), axis.what());
        }
    });

    m.def("nll_loss", &nll_loss);
    m.def("nll_loss_backward", &nll_loss_backward);
    m.def("nll_loss_value_and_grad", &nll_loss_value_and_grad);
    m.def("cross_entropy", &cross_entropy);
    m.def("cross_entropy_backward", &cross_entropy_backward);
    m.def("cross_entropy_value_and_grad", &cross_entropy_value_and_grad);
    m.def("log_softmax", &log_softmax);

    m.def("is_plain_out", &is_plain_out);
    m.attr("thread_context") = thread_context();
    m.def("get_num_threads", [] { return nll::get_num_threads(threads_of_context()); });
    m.def("set_num_threads", &nll::set_num_threads);
    m.def("build_info", [] {
        const BuildInfo info = nll::build_info();
        return py::dict(py::arg("version") = info.version, py::arg("compiler") = info.compiler,
                        py::arg("instruction_set") = info.instruction_set,
                        py::arg("openmp") = info.openmp ? py::object(py::int_(info.openmp)) : py::object(py::none()),
                        py::arg("num_threads") = nll::get_num_threads());
    });
}

}  // namespace nll::python
