// SPDX-License-Identifier: BSD-3-Clause
// The module nll._core: the core's functions for Python's arguments.
#include "accumulator.hpp"
#include "arguments.hpp"
#include "calls.hpp"
#include "threads.hpp"

namespace nll::python {
namespace {

// ---------------------------------------------------------------- calls of the core

// The arrays and choices that all losses share.
struct Common {
    Options options;
    Array from, labels, weights;
};
bool read_common(const Arguments& given, Common& common) {
    Options& options = common.options;
    options.num_threads = threads_of_context();
    return read_floats(given[input], common.from) && read_integers(given[target], common.labels) &&
           read_sample_weight(given[sample_weight], common.labels, common.weights, options) &&
           read(given[weight], options.weight) && read(given[ignore_index], options.ignore_index) &&
           read(given[reduction], options.reduction) && read(given[axis], options.axis) &&
           read(given[index_base], options.index_base) && read(given[empty], options.empty) &&
           (!given[label_smoothing] || read(given[label_smoothing], options.label_smoothing));
}

// The array that a call writes in the shape of its input.
struct Written {
    py::object returned;
    Array memory;
    bool is_new = false;
};

// Allocates it in the memory order of input. Beyond what malloc may keep of freed memory, zeros
// cost nothing: they are how pages come from the system.
bool allocate(py::handle input, Written& written) {
    constexpr py::ssize_t kept_by_malloc = 32 << 20;
    const auto* array = proxy(input);
    if (array->flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_) {
        std::vector<py::ssize_t> shape(array->dimensions, array->dimensions + array->nd);
        const auto dtype = py::reinterpret_borrow<py::dtype>(array->descr);
        py::ssize_t bytes = dtype.itemsize();
        for (const py::ssize_t extent : shape) bytes *= extent;
        written.is_new = bytes > kept_by_malloc;
        written.returned = written.is_new ? packages().zeros(input.attr("shape"), dtype)
                                          : py::array(dtype, std::move(shape));
    } else {
        written.returned = packages().empty_like(input);
    }
    return read_floats(written.returned, written.memory);
}

// Tells whether `out` can be written without a closer look: an array in C order of input's dtype
// and shape, whose memory is far from that of the others, or where that is allowed input's own.
bool is_plain_out(const Arguments& given) {
    using api = py::detail::npy_api;
    if (!is_array(given[out]) || !is_array(given[input])) return false;
    const auto *to = proxy(given[out]), *from = proxy(given[input]);
    constexpr int needed =
        api::NPY_ARRAY_C_CONTIGUOUS_ | api::NPY_ARRAY_WRITEABLE_ | api::NPY_ARRAY_ALIGNED_;
    if ((to->flags & needed) != needed || to->descr != from->descr || to->nd != from->nd)
        return false;
    if (!std::equal(to->dimensions, to->dimensions + to->nd, from->dimensions)) return false;
    const bool same = to->data == from->data && (from->flags & api::NPY_ARRAY_C_CONTIGUOUS_);
    const auto meets = [&](Name name) {
        return given[name] && is_array(given[name]) && stretches_meet(given[out], given[name]);
    };
    if (!(given.in_place && same) && meets(input)) return false;
    return !meets(target) && !meets(weight) && !meets(sample_weight) && !meets(grad_output);
}

bool read_out(const Arguments& given, Written& written) {
    if (given[out].is_none()) return allocate(given[input], written);
    written.returned = py::reinterpret_borrow<py::object>(given.returned);
    return (given.converted || is_plain_out(given)) && read_floats(given[out], written.memory);
}

// ---------------------------------------------------------------- what the losses share

py::object loss_of(Core* core, const Arguments& given) {
    Common common;
    Options& options = common.options;
    const Array &from = common.from, &labels = common.labels;
    bool with_total_weight = false;
    if (!read_common(given, common) || !read(given[dtype], options.dtype) ||
        !read(given[return_total_weight], with_total_weight))
        return {};
    Loss loss;
    py::object result;
    if (options.reduction == Reduction::none) {
        const py::dtype element = py::reinterpret_borrow<py::dtype>(
            options.dtype ? given[dtype] : py::handle(proxy(given[input])->descr));
        py::array losses(element, std::vector<py::ssize_t>(labels.shape.begin(),
                                                           labels.shape.begin() + labels.rank));
        Array to;
        read(losses, to);
        loss = run(from, options, [&] {
            return core({{&from, &labels, &to, nullptr, nullptr}, options, 1.0, true, true});
        });
        result = labels.rank == 0 ? losses[py::tuple()].cast<py::object>() : losses;
    } else {
        loss = run(from, options,
                   [&] { return core({{&from, &labels, nullptr, nullptr, nullptr}, options}); });
        result = scalar_of(loss.value, options.dtype.value_or(from.dtype),
                           options.dtype ? given[dtype] : given[input]);
    }
    if (!with_total_weight) return result;
    return py::make_tuple(result, scalar_of(loss.total_weight, DType::float64));
}

// Takes a gradient alone; `reads` says whether it depends on input.
py::object gradient_of(Core* core, bool reads, const Arguments& given) {
    Common common;
    Options& options = common.options;
    const Array &from = common.from, &labels = common.labels;
    Array grad_outputs;
    double number = 1;
    Written gradient;
    if (!read_common(given, common)) return {};
    const bool of_samples = options.reduction == Reduction::none;
    if (of_samples ? !read_floats(given[grad_output], grad_outputs)
                   : !read(given[grad_output], number))
        return {};
    if (!read_out(given, gradient)) return {};
    run(from, options, [&] {
        return core({{reads ? &from : nullptr, &labels, nullptr,
                      of_samples ? &grad_outputs : nullptr, &gradient.memory},
                     options,
                     number,
                     false,
                     gradient.is_new});
    });
    return gradient.returned;
}

py::object value_and_grad_of(Core* core, const Arguments& given) {
    Common common;
    Options& options = common.options;
    const Array &from = common.from, &labels = common.labels;
    double number = 1;
    bool with_total_weight = false;
    Written gradient;
    if (!read_common(given, common) || !read(given[grad_output], number) ||
        !read(given[return_total_weight], with_total_weight) || !read_out(given, gradient))
        return {};
    const Loss loss = run(from, options, [&] {
        return core({{&from, &labels, nullptr, nullptr, &gradient.memory},
                     options,
                     number,
                     true,
                     gradient.is_new});
    });
    const py::object value = scalar_of(loss.value, from.dtype, given[input]);
    if (!with_total_weight) return py::make_tuple(value, gradient.returned);
    return py::make_tuple(value, scalar_of(loss.total_weight, DType::float64), gradient.returned);
}

// ---------------------------------------------------------------- the module's functions

py::object nll_loss(const Arguments& given) { return loss_of(detail::nll_loss, given); }
py::object nll_loss_backward(const Arguments& given) {
    return gradient_of(detail::nll_loss, false, given);
}
py::object nll_loss_value_and_grad(const Arguments& given) {
    return value_and_grad_of(detail::nll_loss, given);
}

py::object cross_entropy(const Arguments& given) { return loss_of(detail::cross_entropy, given); }
py::object cross_entropy_backward(const Arguments& given) {
    return gradient_of(detail::cross_entropy, true, given);
}
py::object cross_entropy_value_and_grad(const Arguments& given) {
    return value_and_grad_of(detail::cross_entropy, given);
}

template <detail::SoftmaxResult what> py::object softmax(const Arguments& given) {
    Options options;
    options.num_threads = threads_of_context();
    Array from;
    Written result;
    if (!read_floats(given[input], from) || !read(given[axis], options.axis) ||
        !read_out(given, result))
        return {};
    run(from, options, [&] {
        auto call = detail::call_of(from, result.memory, options, what);
        call.fresh = result.is_new;
        detail::softmax(call);
    });
    return result.returned;
}

// An axis that input does not have counts as not native, and a result with more digits than input:
// nll._arguments raises for the one, and converts input for the other.
py::object logsumexp(const Arguments& given) {
    Options options;
    options.num_threads = threads_of_context();
    Array from;
    bool keeps = false;
    if (!read_floats(given[input], from) || !read(given[axis], options.axis) ||
        !read(given[keepdims], keeps) || !read(given[dtype], options.dtype))
        return {};
    const DType wanted = options.dtype.value_or(from.dtype);
    if (wanted != from.dtype && (size_of(from.dtype) == 2 || size_of(wanted) > size_of(from.dtype)))
        return {};
    const index_t rank = from.rank;
    const index_t class_axis = rank == 1 && options.axis == 1 ? 0
                               : options.axis < 0             ? options.axis + rank
                                                              : options.axis;
    if (rank > 0 && (class_axis < 0 || class_axis >= rank)) return {};
    std::vector<py::ssize_t> shape(from.shape.begin(), from.shape.begin() + from.rank);
    std::vector<py::ssize_t> kept = shape;
    if (rank > 0) {  // the core says so of 0 dimensions
        shape.erase(shape.begin() + class_axis);
        kept[static_cast<std::size_t>(class_axis)] = 1;
    }
    const py::dtype element = py::reinterpret_borrow<py::dtype>(
        options.dtype ? given[dtype] : py::handle(proxy(given[input])->descr));
    py::array result(element, std::move(shape));
    Array to;
    read(result, to);
    run(from, options, [&] {
        detail::softmax(detail::call_of(from, to, options, detail::SoftmaxResult::log_sum_exp));
    });
    if (!keeps) return to.rank == 0 ? result[py::tuple()].cast<py::object>() : result;
    return result.reshape(std::move(kept));
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    packages();
    find_main_thread();
    py::register_exception_translator([](std::exception_ptr error) {
        try {
            std::rethrow_exception(error);
        } catch (const AxisError& axis) {
            const py::object type = py::module_::import("numpy.exceptions").attr("AxisError");
            PyErr_SetString(type.ptr(), axis.what());
        }
    });

    constexpr bool apart = false, in_place = true;  // where `out` may lie
    define<nll_loss, apart, input, target, weight, sample_weight, ignore_index, reduction, axis,
           index_base, empty, dtype, return_total_weight>(m, "nll_loss");
    define<nll_loss_backward, apart, grad_output, input, target, weight, sample_weight,
           ignore_index, reduction, axis, index_base, empty, out>(m, "nll_loss_backward");
    define<nll_loss_value_and_grad, apart, input, target, weight, sample_weight, ignore_index,
           reduction, axis, index_base, empty, grad_output, return_total_weight, out>(
        m, "nll_loss_value_and_grad");
    define<cross_entropy, apart, input, target, weight, sample_weight, ignore_index, reduction,
           axis, index_base, empty, label_smoothing, dtype, return_total_weight>(m,
                                                                                 "cross_entropy");
    define<cross_entropy_backward, in_place, grad_output, input, target, weight, sample_weight,
           ignore_index, reduction, axis, index_base, empty, label_smoothing, out>(
        m, "cross_entropy_backward");
    define<cross_entropy_value_and_grad, in_place, input, target, weight, sample_weight,
           ignore_index, reduction, axis, index_base, empty, label_smoothing, grad_output,
           return_total_weight, out>(m, "cross_entropy_value_and_grad");
    using detail::SoftmaxResult;
    define<softmax<SoftmaxResult::softmax>, in_place, input, axis, out>(m, "softmax");
    define<softmax<SoftmaxResult::log_softmax>, in_place, input, axis, out>(m, "log_softmax");
    define<logsumexp, in_place, input, axis, keepdims, dtype>(m, "logsumexp");

    static constexpr Calls calls{detail::nll_loss, detail::cross_entropy};
    m.attr("calls") = py::capsule(&calls, capsule_of_calls);

    define_accumulator(m);

    m.attr("thread_context") = thread_context();
    m.def("get_num_threads", [] { return nll::get_num_threads(threads_of_context()); });
    m.def("set_num_threads", &nll::set_num_threads);
    m.def("build_info", [] {
        const BuildInfo info = nll::build_info();
        return py::dict(py::arg("version") = info.version, py::arg("compiler") = info.compiler,
                        py::arg("instruction_set") = info.instruction_set,
                        py::arg("openmp") = info.openmp ? py::object(py::int_(info.openmp))
                                                        : py::object(py::none()),
                        py::arg("num_threads") = nll::get_num_threads());
    });
}

}  // namespace nll::python
