// SPDX-License-Identifier: BSD-3-Clause
// The module nll._jax: the losses as handlers of XLA's foreign function interface. They read and
// write XLA's own buffers with the kernels of nll._core, and wait for no other work of XLA.
//
// vmap puts axes before those of an operand: of its size, or of size 1 where the operand is the
// same for all ("expand_dims"). Calls without reduction take them as axes of samples; others are
// made one after the other.
#include <pybind11/pybind11.h>
#include <xla/ffi/api/ffi.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <nll/detail/floating_point.hpp>
#include <nll/detail/formats.hpp>
#include <nll/nll.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "calls.hpp"

namespace nll::python {
namespace {

namespace py = pybind11;
namespace ffi = xla::ffi;

// Says how to read the bits of ignore_index, which may be any integer of [-2^63, 2^64).
enum class Ignored : std::uint8_t { nothing, negative, other };

// Holds what nll.jax has checked and says with each call. rank: of an input without vmap's axes.
struct Choices {
    std::int64_t rank, axis;
    Reduction reduction;
    Ignored ignored;
    std::int64_t ignore_index, index_base;
    Empty empty;
    double label_smoothing;
};

}  // namespace
}  // namespace nll::python

XLA_FFI_REGISTER_ENUM_ATTR_DECODING(nll::Reduction);
XLA_FFI_REGISTER_ENUM_ATTR_DECODING(nll::Empty);
XLA_FFI_REGISTER_ENUM_ATTR_DECODING(nll::python::Ignored);
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(
    nll::python::Choices, StructMember<std::int64_t>("rank"), StructMember<std::int64_t>("axis"),
    StructMember<nll::Reduction>("reduction"), StructMember<nll::python::Ignored>("ignored"),
    StructMember<std::int64_t>("ignore_index"), StructMember<std::int64_t>("index_base"),
    StructMember<nll::Empty>("empty"), StructMember<double>("label_smoothing"));

namespace nll::python {
namespace {

const Calls* calls = nullptr;  // of nll._core

// ---------------------------------------------------------------- operands

DType element_type(ffi::DataType type) {
    switch (type) {
        case ffi::F16: return DType::float16;
        case ffi::BF16: return DType::bfloat16;
        case ffi::F32: return DType::float32;
        case ffi::F64: return DType::float64;
        case ffi::S8: return DType::int8;
        case ffi::S16: return DType::int16;
        case ffi::S32: return DType::int32;
        case ffi::S64: return DType::int64;
        case ffi::U8: return DType::uint8;
        case ffi::U16: return DType::uint16;
        case ffi::U32: return DType::uint32;
        case ffi::U64: return DType::uint64;
        default: throw std::invalid_argument("a buffer has elements that nll does not take");
    }
}

// Reads a buffer of XLA, which is dense and in C order.
Array array_of(const ffi::AnyBuffer& buffer) {
    const auto extents = buffer.dimensions();
    if (extents.size() > max_rank)
        throw std::invalid_argument("an array has more than 64 dimensions");
    Array array;
    array.data = buffer.untyped_data();
    array.dtype = element_type(buffer.element_type());
    array.rank = static_cast<int>(extents.size());
    index_t stride = 1;
    for (int a = array.rank - 1; a >= 0; --a) {
        array.shape[a] = extents[static_cast<std::size_t>(a)];
        array.strides[a] = stride;
        stride *= std::max<index_t>(array.shape[a], 1);
    }
    return array;
}

// Names what a call may have.
enum Role : int { input, target, weight, grad_output, loss, total_weight, gradient, roles };

// Holds an operand of a call, and how it moves along vmap's axes.
struct Operand {
    Array array;
    std::vector<index_t> steps;  // in bytes; 0 along size 1

    explicit Operand(const ffi::AnyBuffer& buffer) : array(array_of(buffer)) {}

    // Takes vmap's axes off the array.
    void take_off(std::size_t axes) {
        for (std::size_t a = 0; a < axes; ++a)
            steps.push_back(array.shape[a] == 1 ? 0 : array.strides[a] * size_of(array.dtype));
        array.rank -= static_cast<int>(axes);
        for (std::size_t a = 0; a < static_cast<std::size_t>(array.rank); ++a) {
            array.shape[a] = array.shape[a + axes];
            array.strides[a] = array.strides[a + axes];
        }
    }
    // Makes vmap's axes its own: repeats the array along those of size 1.
    void repeat(const std::vector<index_t>& extents) {
        for (std::size_t a = 0; a < extents.size(); ++a) {
            if (array.shape[a] == extents[a]) continue;
            array.shape[a] = extents[a];
            array.strides[a] = 0;
        }
    }
    void move(std::size_t axis, index_t by) {
        array.data = static_cast<char*>(array.data) + steps[axis] * by;
    }
};

double number(const Array& array) {
    return detail::visit_floating(array.dtype, [&]<class Scalar>() {
        return detail::to_double(*static_cast<const Scalar*>(array.data));
    });
}

void write(double value, const Array& array) {
    detail::visit_floating(array.dtype, [&]<class Scalar>() {
        *static_cast<Scalar*>(array.data) = detail::from_double<Scalar>(value);
    });
}

// Asks the system for huge pages where XLA's memory is not yet on any: clearing small ones, as it
// does when they are first written, takes longer than the rest of a large call.
void advise_huge_pages([[maybe_unused]] const Array& array) {
#if defined(__linux__)
    constexpr std::uintptr_t huge_page = 2 << 20;
    index_t size = size_of(array.dtype);
    for (int a = 0; a < array.rank; ++a) size *= array.shape[a];
    const auto address = reinterpret_cast<std::uintptr_t>(array.data);
    const auto begin = (address + huge_page - 1) / huge_page * huge_page;
    const auto end = (address + static_cast<std::uintptr_t>(size)) / huge_page * huge_page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// ---------------------------------------------------------------- calls

// Makes the calls of a loss that one call of XLA stands for: one, or as many as vmap has put
// together.
class Calling {
public:
    Calling(Core* core, const Choices& choices) : core_(core), rank_(choices.rank) {
        options_.reduction = choices.reduction;
        options_.axis = choices.axis;
        options_.index_base = choices.index_base;
        options_.empty = choices.empty;
        options_.label_smoothing = choices.label_smoothing;
        options_.ignore_index = std::nullopt;
        if (choices.ignored == Ignored::negative) options_.ignore_index = choices.ignore_index;
        if (choices.ignored == Ignored::other)
            options_.ignore_index = static_cast<std::uint64_t>(choices.ignore_index);
    }

    void give(Role role, const ffi::AnyBuffer& buffer) { operand_[role].emplace(buffer); }

    void run() {
        const detail::DefaultFloatingPoint environment;
        const auto rank = (has(gradient) ? array(gradient) : array(input))->rank;
        const auto axes = static_cast<std::size_t>(rank - rank_);
        if (axes == 0) return call();
        const auto* full = array(has(gradient) ? gradient : loss)->shape.data();
        const std::vector<index_t> extents(full, full + axes);
        if (is_one_call(axes)) {
            for (int role = 0; role < roles; ++role)
                if (role != weight && has(role)) operand_[role]->repeat(extents);
            if (has(weight)) operand_[weight]->take_off(axes);
            options_.axis += static_cast<index_t>(axes);
            return call();
        }
        for (auto& operand : operand_)
            if (operand) operand->take_off(axes);
        call_each(extents);
    }

    // Says which of vmap's calls is under way.
    std::string where() const {
        std::string text;
        for (const index_t i : index_) text += (text.empty() ? "[" : ", ") + std::to_string(i);
        return text.empty() ? text : "call " + text + "] of vmap: ";
    }

private:
    bool has(int role) const { return operand_[role].has_value(); }
    const Array* array(int role) const { return has(role) ? &operand_[role]->array : nullptr; }

    // Tells whether vmap's axes may become axes of the samples of one call.
    bool is_one_call(std::size_t axes) const {
        if (options_.reduction != Reduction::none || has(total_weight)) return false;
        if (!has(weight)) return true;
        const auto* extents = array(weight)->shape.data();
        return std::all_of(extents, extents + axes, [](index_t extent) { return extent == 1; });
    }

    // Makes a call for each position along vmap's axes.
    void call_each(const std::vector<index_t>& extents) {
        index_t count = 1;
        for (const index_t extent : extents) count *= extent;
        for (index_.assign(extents.size(), 0); count > 0; --count) {
            call();
            for (std::size_t axis = extents.size(); axis-- > 0;) {
                const bool wraps = ++index_[axis] == extents[axis];
                for (auto& operand : operand_)
                    if (operand) operand->move(axis, wraps ? 1 - extents[axis] : 1);
                if (!wraps) break;
                index_[axis] = 0;
            }
        }
    }

    void call() {
        if (has(gradient)) advise_huge_pages(*array(gradient));
        const bool none = options_.reduction == Reduction::none;
        if (const Array* of_classes = array(weight))
            options_.weight = {of_classes->data, of_classes->dtype, of_classes->shape[0],
                               of_classes->strides[0]};
        if (has(loss)) options_.dtype = array(loss)->dtype;
        const double factor = has(grad_output) && !none ? number(*array(grad_output)) : 1.0;
        const Loss result = core_({{array(input), array(target), none ? array(loss) : nullptr,
                                    none ? array(grad_output) : nullptr, array(gradient)},
                                   options_,
                                   factor,
                                   has(loss),
                                   !has(gradient)});
        if (has(loss) && !none) write(result.value, *array(loss));
        if (has(total_weight)) write(result.total_weight, *array(total_weight));
    }

    Core* core_;
    index_t rank_;
    Options options_;
    std::array<std::optional<Operand>, roles> operand_;
    std::vector<index_t> index_;  // of the call under way, along vmap's axes
};

// ---------------------------------------------------------------- handlers

using Buffer = ffi::AnyBuffer;
using MaybeBuffer = std::optional<ffi::AnyBuffer>;
using Result = ffi::Result<ffi::AnyBuffer>;
using MaybeResult = std::optional<ffi::Result<ffi::AnyBuffer>>;

MaybeBuffer buffer_of(MaybeResult result) { return result ? MaybeBuffer(**result) : std::nullopt; }

// Makes the calls with these buffers; exceptions become XLA's errors.
ffi::Error run(Core* core, const Choices& choices,
               std::initializer_list<std::pair<Role, MaybeBuffer>> given) {
    Calling calling(core, choices);
    const auto error = [&](ffi::ErrorCode code, const char* message) {
        return ffi::Error(code, calling.where() + message);
    };
    try {
        for (const auto& [role, buffer] : given)
            if (buffer) calling.give(role, *buffer);
        calling.run();
    } catch (const std::out_of_range& label) {
        return error(ffi::ErrorCode::kOutOfRange, label.what());
    } catch (const std::bad_alloc&) {
        return error(ffi::ErrorCode::kResourceExhausted, "out of memory");
    } catch (const std::exception& argument) {
        return error(ffi::ErrorCode::kInvalidArgument, argument.what());
    }
    return ffi::Error::Success();
}

// (input, target[, weight]) -> (loss[, total_weight])
template <Core* Calls::* core>
ffi::Error value(Choices choices, Buffer from, Buffer labels, MaybeBuffer weights, Result value,
                 MaybeResult total) {
    return run(calls->*core, choices,
               {{input, from},
                {target, labels},
                {weight, weights},
                {loss, *value},
                {total_weight, buffer_of(total)}});
}

// (input, target[, weight]) -> (loss, gradient[, total_weight])
ffi::Error value_and_grad(Choices choices, Buffer from, Buffer labels, MaybeBuffer weights,
                          Result value, Result to, MaybeResult total) {
    return run(calls->cross_entropy, choices,
               {{input, from},
                {target, labels},
                {weight, weights},
                {loss, *value},
                {gradient, *to},
                {total_weight, buffer_of(total)}});
}

// (grad_output, input, target[, weight]) -> gradient
ffi::Error cross_entropy_backward(Choices choices, Buffer of_loss, Buffer from, Buffer labels,
                                  MaybeBuffer weights, Result to) {
    return run(calls->cross_entropy, choices,
               {{grad_output, of_loss},
                {input, from},
                {target, labels},
                {weight, weights},
                {gradient, *to}});
}

// (grad_output, target[, weight]) -> gradient
ffi::Error nll_loss_backward(Choices choices, Buffer of_loss, Buffer labels, MaybeBuffer weights,
                             Result to) {
    return run(calls->nll_loss, choices,
               {{grad_output, of_loss}, {target, labels}, {weight, weights}, {gradient, *to}});
}

auto bind() { return ffi::Ffi::Bind().Attrs<Choices>(); }

XLA_FFI_DEFINE_HANDLER(
    nll_loss_handler, value<&Calls::nll_loss>,
    bind().Arg<Buffer>().Arg<Buffer>().OptionalArg<Buffer>().Ret<Buffer>().OptionalRet<Buffer>());
XLA_FFI_DEFINE_HANDLER(nll_loss_backward_handler, nll_loss_backward,
                       bind().Arg<Buffer>().Arg<Buffer>().OptionalArg<Buffer>().Ret<Buffer>());
XLA_FFI_DEFINE_HANDLER(
    cross_entropy_handler, value<&Calls::cross_entropy>,
    bind().Arg<Buffer>().Arg<Buffer>().OptionalArg<Buffer>().Ret<Buffer>().OptionalRet<Buffer>());
XLA_FFI_DEFINE_HANDLER(cross_entropy_value_and_grad_handler, value_and_grad,
                       bind()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .OptionalArg<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>()
                           .OptionalRet<Buffer>());
XLA_FFI_DEFINE_HANDLER(
    cross_entropy_backward_handler, cross_entropy_backward,
    bind().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>().OptionalArg<Buffer>().Ret<Buffer>());

}  // namespace

// handlers: capsules by the names of the functions. api_version: of the interface they are for.
PYBIND11_MODULE(_jax, m, py::mod_gil_not_used()) {
    py::module_::import("nll._core");
    calls = static_cast<const Calls*>(PyCapsule_Import(capsule_of_calls, 0));
    if (!calls) throw py::error_already_set();

    py::dict handlers;
    const auto add = [&](const char* name, XLA_FFI_Handler* handler) {
        handlers[name] = py::capsule(reinterpret_cast<void*>(handler));
    };
    add("nll_loss", nll_loss_handler);
    add("nll_loss_backward", nll_loss_backward_handler);
    add("cross_entropy", cross_entropy_handler);
    add("cross_entropy_value_and_grad", cross_entropy_value_and_grad_handler);
    add("cross_entropy_backward", cross_entropy_backward_handler);
    m.attr("handlers") = handlers;
    m.attr("api_version") = py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}

}  // namespace nll::python
