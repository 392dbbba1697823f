// SPDX-License-Identifier: BSD-3-Clause
// Every rule about sizes, strides and values, and the words for breaking it: the same for C++ and
// Python. (Python's words and dtypes are checked in the Python layer.)
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <numeric>
#include <string>

#include "parallel.hpp"
#include "weights.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

inline namespace NLL_INSTRUCTION_SET {

// ---------------------------------------------------------------- words

inline std::string text(std::uint64_t bits, bool negative) {
    return negative ? std::to_string(static_cast<std::int64_t>(bits)) : std::to_string(bits);
}

// Writes as few digits as tell the number.
inline std::string text(double value) {
    char digits[32];
    for (int precision = 1; precision <= 17; ++precision) {
        std::snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (std::strtod(digits, nullptr) == value) break;
    }
    return digits;
}

inline std::string text(const index_t* shape, int rank) {
    std::string text = "(";
    for (int a = 0; a < rank; ++a) text += (a ? ", " : "") + std::to_string(shape[a]);
    return text + (rank == 1 ? ",)" : ")");
}
inline std::string shape_text(const Array& array) { return text(array.shape.data(), array.rank); }

// Names an element type as NumPy does.
inline std::string text(DType dtype) {
    static constexpr const char* name[] = {"float16", "bfloat16", "float32", "float64",
                                           "int8",    "int16",    "int32",   "int64",
                                           "uint8",   "uint16",   "uint32",  "uint64"};
    const auto number = static_cast<unsigned>(dtype);
    return number < std::size(name) ? name[number] : "DType(" + std::to_string(number) + ")";
}

// ---------------------------------------------------------------- arrays

// Returns the class axis of an input of this rank: negative axes count from the end, and 1 is the
// only axis of a 1-d input.
inline int class_axis(index_t axis, int rank) {
    if (rank == 0)
        throw std::invalid_argument(
            "input has 0 dimensions; it needs a class axis: (C,), (N, C) or (N, C, d1, ...)");
    if (rank == 1 && axis == 1) return 0;
    if (axis < -rank || axis >= rank)
        throw AxisError("axis " + std::to_string(axis) + " is out of bounds for input with " +
                        std::to_string(rank) + (rank == 1 ? " dimension" : " dimensions"));
    return static_cast<int>(axis < 0 ? axis + rank : axis);
}

inline bool is_empty(const Array& array) {
    const index_t* shape = array.shape.data();
    return std::find(shape, shape + array.rank, 0) != shape + array.rank;
}

inline constexpr const char* float_types = "float16, bfloat16, float32 or float64";
inline constexpr const char* integer_types = "an integer of 8 to 64 bits";

// Refuse elements of a type that an argument does not take: what reads or writes them would take
// them for those of another.
[[noreturn]] inline void throw_other_type(const char* name, DType dtype, const std::string& types) {
    throw std::invalid_argument(std::string(name) + " is of " + text(dtype) + "; it must be of " +
                                types);
}
inline void check_floating(const char* name, DType dtype) {
    if (!is_floating(dtype)) throw_other_type(name, dtype, float_types);
}
inline void check_integer(const char* name, DType dtype) {
    if (!is_integer(dtype)) throw_other_type(name, dtype, integer_types);
}
inline void check_element(const char* name, DType dtype) {
    if (!is_floating(dtype) && !is_integer(dtype))
        throw_other_type(name, dtype, float_types + (", or " + std::string(integer_types)));
}
inline void check_like_input(const Array& out, const Array& input) {
    if (out.dtype != input.dtype)
        throw_other_type("out", out.dtype, text(input.dtype) + ", as input is");
}

// Refuses more axes than an Array has room for. It comes before anything else is asked of one.
inline void check_rank(const char* name, const Array& array) {
    if (array.rank < 0 || array.rank > max_rank)
        throw std::invalid_argument(std::string(name) + " has " + std::to_string(array.rank) +
                                    " dimensions, outside [0, " + std::to_string(max_rank) + "]");
}

// Refuses sizes whose product, or whose reach in bytes, 64 bits cannot count.
inline void check_sizes(const char* name, const Array& array) {
    const auto fail = [&](const char* rule) {
        throw std::invalid_argument(std::string(name) + " of shape " + shape_text(array) + rule);
    };
    for (int a = 0; a < array.rank; ++a)
        if (array.shape[a] < 0) fail(" has a negative size");
    if (is_empty(array)) return;
    constexpr index_t limit = std::numeric_limits<index_t>::max() / 16;  // 8 bytes, room for a sum
    index_t elements = 1, reach = 0;
    for (int a = 0; a < array.rank; ++a) {
        const index_t extent = array.shape[a], stride = array.strides[a];
        if (extent > limit / elements || stride > limit || stride < -limit ||
            (extent > 1 && absolute(stride) > (limit - reach) / (extent - 1)))
            fail(" has more elements, or a longer reach, than 64 bits can count");
        elements *= extent;
        reach += (extent - 1) * absolute(stride);
    }
}

inline void check_target(const Array& input, const Array& target, int axis) {
    std::array<index_t, max_rank> expected;
    std::copy_n(input.shape.begin(), axis, expected.begin());
    std::copy_n(input.shape.begin() + axis + 1, input.rank - axis - 1, expected.begin() + axis);
    if (target.rank == input.rank - 1 &&
        std::equal(expected.begin(), expected.begin() + target.rank, target.shape.begin()))
        return;
    std::string message = "target has shape " + shape_text(target) + ", but input of shape " +
                          shape_text(input) + " with its classes on axis " + std::to_string(axis) +
                          " needs " + text(expected.data(), input.rank - 1);
    if (target.rank == input.rank && target.shape[axis] == 1)
        message += ": without the axis of length 1, as target.squeeze(" + std::to_string(axis) +
                   ") gives it";
    throw std::invalid_argument(message);
}

inline void check_same_shape(const char* name, const Array& array, const char* other_name,
                             const Array& other) {
    if (array.rank != other.rank ||
        !std::equal(array.shape.begin(), array.shape.begin() + array.rank, other.shape.begin()))
        throw std::invalid_argument(std::string(name) + " has shape " + shape_text(array) +
                                    ", but " + other_name + " has " + shape_text(other));
}

// Refuses elements that share memory, as far as two axes tell, or there are more of them than
// places. Sizes and strides have been checked. What only three axes and more could tell passes: to
// decide it is a problem of integers that takes long.
inline void check_no_overlap(const char* name, const Array& array) {
    const auto fail = [&](const std::string& fact) {
        throw std::invalid_argument(name + (" has " + fact) +
                                    ": elements that share memory cannot be written");
    };
    index_t elements = 1, places = 1;
    for (int a = 0; a < array.rank; ++a) {
        const index_t extent = array.shape[a], stride = absolute(array.strides[a]);
        if (extent == 1) continue;
        if (stride == 0) fail("stride 0 on axis " + std::to_string(a));
        elements *= extent;
        places += (extent - 1) * stride;
        for (int b = 0; b < a; ++b) {
            // i steps of one axis lead where j of the other do, for the least i and j above 0.
            const index_t other = absolute(array.strides[b]), other_extent = array.shape[b];
            if (other_extent == 1 || other >= extent * stride || stride >= other_extent * other)
                continue;
            const index_t common = std::gcd(stride, other);
            if (other / common < extent && stride / common < other_extent)
                fail("strides " + std::to_string(array.strides[b]) + " and " +
                     std::to_string(array.strides[a]) + " on axes " + std::to_string(b) + " and " +
                     std::to_string(a));
        }
    }
    if (elements > places)
        fail(std::to_string(elements) + " elements in " + std::to_string(places) + " places");
}

// Refuses an array that is to be written, of another shape or with elements that share memory.
inline void check_output(const Array& array, const char* like_name, const Array& like) {
    check_same_shape("out", array, like_name, like);
    check_sizes("out", array);
    if (!is_empty(array)) check_no_overlap("out", array);
}

// Refuses an array for logsumexp of logits, (N, C, d1, ..., dk) without their class axis, whose
// type has more digits than they are computed to.
inline void check_log_sums(const Array& out, const Array& of_samples) {
    check_output(out, "a number of each sample", of_samples);
    const DType own = of_samples.dtype;
    if (out.dtype != own && (size_of(own) == 2 || size_of(out.dtype) > size_of(own)))
        throw std::invalid_argument("out has another type than input, and not a narrower one");
}

// ---------------------------------------------------------------- options

// Returns "name[a, b]" for coordinates (rank,).
inline std::string place_text(std::string name, const index_t* coordinate, int rank) {
    for (int a = 0; a < rank; ++a) name += (a ? ", " : "[") + std::to_string(coordinate[a]);
    return rank ? name + "]" : name;
}

// Names an integer weight, at these coordinates, (rank,), that a double would round.
[[noreturn]] inline void throw_beyond_doubles(const char* name, const index_t* coordinate, int rank,
                                              std::uint64_t bits, DType dtype) {
    throw std::invalid_argument(place_text(name, coordinate, rank) + " is " +
                                text(bits, dtype == DType::int64 && bits >> 63) +
                                ", beyond 2^53: as a double it would be another number");
}

// Refuses weights that cannot be read, or that are not taken as numbers.
inline void check_weight_numbers(const Options& options) {
    const Weight& weight = options.weight;
    if (!weight) return;
    check_element("weight", weight.dtype);
    Array array;
    array.rank = 1;
    array.shape[0] = weight.size;
    array.strides[0] = weight.stride;
    check_sizes("weight", array);
    const auto for_each_class = [&](auto&& visit) {
        parallel::Interruptible interruptible(options.interrupt);
        for_each_block(0, weight.size, block_size, [&](index_t first, index_t count) {
            for (index_t c = first; c < first + count; ++c) visit(c);
            interruptible.ask();
        });
    };
    if (weight.dtype == DType::int64 || weight.dtype == DType::uint64) {
        for_each_class([&](index_t c) {
            const auto bits = static_cast<const std::uint64_t*>(weight.data)[c * weight.stride];
            if (is_beyond_doubles(bits, weight.dtype))
                throw_beyond_doubles("weight", &c, 1, bits, weight.dtype);
        });
    }
    if (weight.dtype != DType::float64 || options.label_smoothing == 0) return;
    for_each_class([&](index_t c) {
        const double value = static_cast<const double*>(weight.data)[c * weight.stride];
        const double size = std::fabs(value);
        if (size != 0 && size < infinity && !(size >= 0x1p-500 && size <= 0x1p500))
            throw std::invalid_argument("weight[" + std::to_string(c) + "] is " + text(value) +
                                        "; with label_smoothing, weights are 0, infinite, or of "
                                        "2^-500 to 2^500");
    });
}

inline void check_weight(const Options& options, index_t classes) {
    const Weight& weight = options.weight;
    if (weight && weight.size != classes)
        throw std::invalid_argument("weight has shape (" + std::to_string(weight.size) +
                                    ",), but there are " + std::to_string(classes) +
                                    (classes == 1 ? " class" : " classes"));
    check_weight_numbers(options);
}

inline void check_smoothing(double label_smoothing) {
    if (!(label_smoothing >= 0 && label_smoothing <= 1))
        throw std::invalid_argument("label_smoothing is " + text(label_smoothing) +
                                    ", outside [0, 1]");
}

inline void check_num_threads(int num_threads) {
    if (num_threads < 0 || num_threads > parallel::max_threads)
        throw std::invalid_argument("num_threads is " + std::to_string(num_threads) +
                                    ", outside [0, " + std::to_string(parallel::max_threads) + "]");
}

// Refuses what no enumerator is, and a loss that is no float.
inline void check_choices(const Options& options) {
    const auto check = [](const char* name, auto choice, auto last) {
        if (choice > last)
            throw std::invalid_argument(
                std::string(name) + " is " + std::to_string(static_cast<int>(choice)) +
                ", outside [0, " + std::to_string(static_cast<int>(last)) + "]");
    };
    check("reduction", options.reduction, Reduction::mean);
    check("empty", options.empty, Empty::raise);
    if (options.dtype && !is_floating(*options.dtype))
        throw std::invalid_argument("dtype is " + text(*options.dtype) + "; a loss is of " +
                                    float_types);
}

inline void check_options(const Options& options, index_t classes) {
    check_choices(options);
    const index_t base = options.index_base;
    if (base > 0 && static_cast<std::uint64_t>(base) + static_cast<std::uint64_t>(classes) >
                        std::uint64_t{1} << 63)
        throw std::invalid_argument("index_base " + std::to_string(base) + " and " +
                                    std::to_string(classes) + " classes go beyond 2^63");
    check_num_threads(options.num_threads);
    check_smoothing(options.label_smoothing);
    check_weight(options, classes);
}

inline void check_reduction(const Arrays& arrays, const Options& options) {
    const bool none = options.reduction == Reduction::none;
    if (arrays[input] && arrays[gradient] && !arrays[grad_output] && none)
        throw std::invalid_argument(
            "reduction is none, but a value and its gradient need 'mean' or 'sum'");
    if (arrays[gradient] && none != (arrays[grad_output] != nullptr))
        throw std::invalid_argument(
            "grad_output is an array of target's shape for reduction none, and a number "
            "otherwise");
    if (!arrays[gradient] && none != (arrays[losses] != nullptr))
        throw std::invalid_argument(
            "reduction is none exactly where there is an array for the losses");
}

// Returns the type of a call's elements, which its kernels are for.
inline DType dtype_of_call(const Call& call) {
    const bool reads = call.arrays[input];
    const DType dtype = call.arrays[reads ? input : gradient]->dtype;
    check_floating(reads ? "input" : "out", dtype);
    return dtype;
}

inline constexpr const char* name_of_operand[operands] = {"input",       "target", "out",
                                                          "grad_output", "out",    "sample_weight"};

// Refuses arrays that have elements, but no address. Without elements they need none.
inline void check_addresses(const Arrays& arrays) {
    for (int o = 0; o < operands; ++o)
        if (arrays[o] && !arrays[o]->data && !is_empty(*arrays[o]))
            throw std::invalid_argument(std::string(name_of_operand[o]) + " of shape " +
                                        shape_text(*arrays[o]) + " has no address");
}

// Refuses arrays that are none, or whose elements are not those of their role. Those of input, or
// of the gradient without it, are known: the kernels are chosen by them (dtype_of_call).
inline void check_elements(const Arrays& arrays) {
    for (int o = 0; o < operands; ++o)
        if (arrays[o]) check_rank(name_of_operand[o], *arrays[o]);
    if (arrays[target]) check_integer("target", arrays[target]->dtype);
    if (arrays[losses]) check_floating("out", arrays[losses]->dtype);
    if (arrays[grad_output]) check_floating("grad_output", arrays[grad_output]->dtype);
    if (arrays[gradient] && arrays[input]) check_like_input(*arrays[gradient], *arrays[input]);
    if (arrays[sample_weight]) check_element("sample_weight", arrays[sample_weight]->dtype);
}

// Checks the arguments of a call of either loss. Returns the class axis.
inline int check_arguments(const Arrays& arrays, const Options& options) {
    check_elements(arrays);
    const bool reads = arrays[input] != nullptr;
    const Array& shaped = reads ? *arrays[input] : *arrays[gradient];
    const int axis = class_axis(options.axis, shaped.rank);
    if (reads) check_sizes("input", shaped);
    check_target(shaped, *arrays[target], axis);
    check_sizes("target", *arrays[target]);
    if (arrays[losses]) check_output(*arrays[losses], "target", *arrays[target]);
    if (arrays[gradient]) check_output(*arrays[gradient], "input", shaped);
    if (arrays[grad_output]) {
        check_same_shape("grad_output", *arrays[grad_output], "target", *arrays[target]);
        check_sizes("grad_output", *arrays[grad_output]);
    }
    if (arrays[sample_weight]) {
        check_same_shape("sample_weight", *arrays[sample_weight], "target", *arrays[target]);
        check_sizes("sample_weight", *arrays[sample_weight]);
    }
    check_reduction(arrays, options);
    check_options(options, shaped.shape[axis]);
    check_addresses(arrays);
    return axis;
}

inline void check_no_smoothing(const Options& options) {
    if (options.label_smoothing != 0)
        throw std::invalid_argument(
            "label_smoothing is for cross-entropy: the negative log likelihood reads one class");
}

// ---------------------------------------------------------------- labels

[[noreturn]] inline void throw_bad_label(const Plan& plan, const Partial& partial) {
    std::array<index_t, max_rank> coordinate;
    position(plan.samples, partial.bad_sample, coordinate);
    std::string message = place_text("target", coordinate.data(), plan.samples.target_rank);
    const index_t base = plan.index_base;
    const auto end = static_cast<std::uint64_t>(base) + static_cast<std::uint64_t>(plan.classes);
    const bool negative = is_signed_integer(plan.dtype[target]) && partial.bad_label >> 63;
    const IgnoreIndex& ignore = plan.ignore_index;
    message += " is " + text(partial.bad_label, negative) + ", outside [" + std::to_string(base) +
               ", " + text(end, base < 0 && base + plan.classes < 0) + ") (ignore_index is " +
               (ignore ? text(ignore.bits(), ignore.negative()) : "None") + ")";
    throw std::out_of_range(message);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
