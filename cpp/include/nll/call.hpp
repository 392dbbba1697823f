// SPDX-License-Identifier: BSD-3-Clause
// A call from its arguments to its result: check sizes, plan, run the kernels, finish. The same rules, and the same
// words for breaking them, for C++ and Python.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"

namespace nll {

#if defined(NLL_COMPILED)
const Kernels& kernels(DType dtype);  // of the compiled library, for this machine
#else
inline Kernels kernels(DType dtype) {
    return visit_floating(dtype, []<class Scalar>() { return kernels_of<Scalar>(); });
}
#endif

inline namespace NLL_INSTRUCTION_SET {

// ---------------------------------------------------------------- arguments

inline std::string text(std::uint64_t bits, bool negative) {
    return negative ? std::to_string(static_cast<std::int64_t>(bits)) : std::to_string(bits);
}

// As few digits as tell the number.
inline std::string text(double value) {
    char digits[32];
    for (int precision = 1; precision <= 17; ++precision) {
        std::snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (std::strtod(digits, nullptr) == value) break;
    }
    return digits;
}

inline void check_target(const Array& input, const Array& target, int axis) {
    std::array<index_t, max_rank> expected;
    std::copy_n(input.shape.begin(), axis, expected.begin());
    std::copy_n(input.shape.begin() + axis + 1, input.rank - axis - 1, expected.begin() + axis);
    if (target.rank != input.rank - 1 ||
        !std::equal(expected.begin(), expected.begin() + target.rank, target.shape.begin()))
        throw std::invalid_argument("target has shape " + shape_text(target.shape.data(), target.rank) +
                                    ", but input of shape " + shape_text(input.shape.data(), input.rank) +
                                    " with its classes on axis " + std::to_string(axis) + " needs " +
                                    shape_text(expected.data(), input.rank - 1));
}

inline void check_same_shape(const char* name, const Array& array, const char* other_name, const Array& other) {
    if (array.rank != other.rank ||
        !std::equal(array.shape.begin(), array.shape.begin() + array.rank, other.shape.begin()))
        throw std::invalid_argument(std::string(name) + " has shape " + shape_text(array.shape.data(), array.rank) +
                                    ", but " + other_name + " has " + shape_text(other.shape.data(), other.rank));
}

inline void check_output(const char* name, const Array& array) {
    check_sizes(name, array);
    const index_t* shape = array.shape.data();
    if (std::find(shape, shape + array.rank, 0) != shape + array.rank) return;  // nothing to write
    for (int a = 0; a < array.rank; ++a)
        if (shape[a] > 1 && array.strides[a] == 0)
            throw std::invalid_argument(std::string(name) + " has stride 0 on axis " + std::to_string(a) +
                                        ": elements that share memory cannot be written");
}

inline void check_options(const Options& options, index_t classes) {
    if (options.index_base > 0 &&
        static_cast<std::uint64_t>(options.index_base) + static_cast<std::uint64_t>(classes) > std::uint64_t{1} << 63)
        throw std::invalid_argument("index_base " + std::to_string(options.index_base) + " and " +
                                    std::to_string(classes) + " classes go beyond 2^63");
    if (options.num_threads < 0 || options.num_threads > parallel::max_threads)
        throw std::invalid_argument("num_threads is " + std::to_string(options.num_threads) + ", outside [0, 256]");
    if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1))
        throw std::invalid_argument("label_smoothing is " + text(options.label_smoothing) + ", outside [0, 1]");
    const Weight& weight = options.weight;
    if (!weight) return;
    if (weight.size != classes)
        throw std::invalid_argument("weight has shape (" + std::to_string(weight.size) + ",), but there are " +
                                    std::to_string(classes) + (classes == 1 ? " class" : " classes"));
    if (weight.dtype != DType::int64 && weight.dtype != DType::uint64) return;
    constexpr std::uint64_t limit = std::uint64_t{1} << 53;
    for (index_t c = 0; c < classes; ++c) {
        const auto bits = static_cast<const std::uint64_t*>(weight.data)[c * weight.stride];
        const bool negative = weight.dtype == DType::int64 && bits >> 63;
        if ((negative ? 0 - bits : bits) > limit)
            throw std::invalid_argument("weight[" + std::to_string(c) + "] is " + text(bits, negative) +
                                        ", beyond 2^53: as a double it would be another number");
    }
}

// What the three kinds of call check of their arrays. They return the class axis.

inline int check_forward(const Array& input, const Array& target, const Array* losses, const Options& options) {
    const int axis = class_axis(options.axis, input.rank);
    check_sizes("input", input);
    check_target(input, target, axis);
    check_sizes("target", target);
    if (losses) {
        check_same_shape("out", *losses, "target", target);
        check_output("out", *losses);
    }
    if (losses ? options.reduction != Reduction::none : options.reduction == Reduction::none)
        throw std::invalid_argument("reduction is none exactly where there is an array for the losses");
    check_options(options, input.shape[axis]);
    return axis;
}

inline int check_backward(const Array* grad_outputs, const Array& target, const Array& grad_input,
                          const Options& options) {
    const int axis = class_axis(options.axis, grad_input.rank);
    check_target(grad_input, target, axis);
    check_sizes("target", target);
    check_output("out", grad_input);
    if (grad_outputs) {
        check_same_shape("grad_output", *grad_outputs, "target", target);
        check_sizes("grad_output", *grad_outputs);
    }
    if (grad_outputs ? options.reduction != Reduction::none : options.reduction == Reduction::none)
        throw std::invalid_argument(
            "grad_output is an array of target's shape for reduction none, and a number otherwise");
    check_options(options, grad_input.shape[axis]);
    return axis;
}

inline int check_value_and_grad(const Array& input, const Array& target, const Array& grad_input,
                                const Options& options) {
    const int axis = class_axis(options.axis, input.rank);
    check_sizes("input", input);
    check_target(input, target, axis);
    check_sizes("target", target);
    check_same_shape("out", grad_input, "input", input);
    check_output("out", grad_input);
    if (options.reduction == Reduction::none)
        throw std::invalid_argument("reduction is none, but a value and its gradient need 'mean' or 'sum'");
    check_options(options, input.shape[axis]);
    return axis;
}

inline void check_no_smoothing(const Options& options) {
    if (options.label_smoothing != 0)
        throw std::invalid_argument(
            "label_smoothing is for cross-entropy: the negative log likelihood reads one class");
}

// ---------------------------------------------------------------- running

[[noreturn]] inline void throw_bad_label(const Plan& plan, const Partial& partial) {
    std::array<index_t, max_rank> coordinate;
    position(plan.samples, partial.bad_sample, coordinate);
    std::string message = "target";
    for (int a = 0; a < plan.samples.target_rank; ++a) message += (a ? ", " : "[") + std::to_string(coordinate[a]);
    if (plan.samples.target_rank) message += "]";
    const bool is_signed = plan.dtype[target] <= DType::int64;
    const index_t base = plan.index_base;
    message += " is " + text(partial.bad_label, is_signed && partial.bad_label >> 63) + ", outside [" +
               std::to_string(base) + ", " +
               text(static_cast<std::uint64_t>(base) + static_cast<std::uint64_t>(plan.classes),
                    base < 0 && base + plan.classes < 0) +
               ") (ignore_index is " +
               (plan.ignore_index ? text(plan.ignore_index.bits(), plan.ignore_index.negative()) : "None") + ")";
    throw std::out_of_range(message);
}

// Runs a kernel over [0, count), in threads if its work is worth them, until a bad label is found.
inline void run_until_bad(const Plan& plan, Kernel kernel, index_t count, index_t block, int threads,
                          const Options& options, Partial& total) {
    if (count == 0) return;
    // Many pieces a thread, so that a thread which is held up holds up little; and a few milliseconds at most each.
    const index_t most = std::max<index_t>(64, 16384 / block);
    const index_t pieces = std::clamp<index_t>(count / (block * threads * 8), 1, most);
    parallel::reduce(
        total, count, block * pieces, threads, options.interrupt,
        [&](index_t first, index_t last, Partial& part) {
            kernel(plan, first, last, part);
            return part.bad_sample < 0;
        },
        [](Partial& sum, const Partial& part) { merge(sum, part); });
}

// Throws for the lowest bad label. The walk, which ended at some bad one, need not have been in C order; so target is
// looked through once more, in that order, to the first.
[[noreturn]] inline void throw_lowest_bad_label(const Plan& plan, const Partial& known, const Array& target_array,
                                                const Options& options) {
    Array c_order = target_array;
    index_t stride = 1;
    for (int a = c_order.rank - 1; a >= 0; --a) c_order.strides[a] = std::exchange(stride, stride * c_order.shape[a]);
    Plan scan = plan;
    scan.weight = {};
    scan.samples = samples_of({nullptr, &target_array, &c_order, nullptr}, 0, output);
    Partial found;
    run_until_bad(scan, kernels(DType::float32).nll_check, scan.samples.count, block_size, 1, options, found);
    if (found.bad_sample >= 0) throw_bad_label(scan, found);
    throw_bad_label(plan, known);  // another thread has mended the lowest since
}

inline Partial run(const Plan& plan, Kernel kernel, index_t block, bool parallel_pays, const Array& target_array,
                   const Options& options) {
    const int threads = parallel_pays ? parallel::limit(options.num_threads) : 1;
    Partial total;
    run_until_bad(plan, kernel, plan.samples.count, block, threads, options, total);
    if (total.bad_sample >= 0) throw_lowest_bad_label(plan, total, target_array, options);
    return total;
}

inline constexpr index_t serial_samples = 8192;    // fewer take less time than it takes to wake a thread
inline constexpr index_t serial_elements = 32768;  // the same where every element is written
inline constexpr index_t serial_powers = 16384;    // the same where every element is exponentiated

inline Partial run_samples(const Plan& plan, Kernel kernel, const Array& target_array, const Options& options) {
    return run(plan, kernel, block_size, plan.samples.count >= serial_samples, target_array, options);
}

inline Partial run_gradient(Plan& plan, Kernel kernel, const Array& target_array, const Options& options) {
    if (plan.samples.count == 0) return {};
    prepare_gradient(plan, true, options);
    const bool pays = std::max(plan.samples.count * plan.classes, plan.samples.count) >= serial_elements;
    return run(plan, kernel, gradient_block(plan, gradient_size(plan)), pays, target_array, options);
}

// Each row in turn, by all threads.
inline Partial run_shared(Plan& plan, const SoftmaxKernels& kernel, int threads, const Array& target_array,
                          const Options& options) {
    constexpr index_t most = 8192;  // chunks at a time
    const index_t chunks = (plan.classes + chunk_size - 1) / chunk_size;
    std::vector<Softmax> softmax(static_cast<std::size_t>(std::min(chunks, most)));
    Partial total;
    parallel::Interruptible interruptible(options.interrupt);
    for (index_t sample = 0; sample < plan.samples.count; ++sample) {
        SharedRow row{.sample = sample, .chunks = softmax.data()};
        plan.shared = &row;
        const auto run_chunks = [&](Kernel step, index_t first, index_t last, int team) {
            parallel::reduce(
                total, last - first,
                step == kernel.merge_chunks ? last - first : std::max<index_t>(1, (last - first) / (team * 8)), team,
                options.interrupt,
                [&](index_t begin, index_t end, Partial& found) {
                    step(plan, first + begin, first + end, found);
                    return found.bad_sample < 0;
                },
                [](Partial& sum, const Partial& found) { merge(sum, found); });
            if (total.bad_sample >= 0) throw_lowest_bad_label(plan, total, target_array, options);
        };
        while (!row.finished)
            for (index_t first = 0; first < chunks; first += most) {
                const index_t last = std::min(first + most, chunks);
                row.first_chunk = first;
                interruptible.ask();
                run_chunks(kernel.take_chunks, first, last, threads);
                run_chunks(kernel.merge_chunks, first, last, 1);
            }
        if (plan.data[gradient]) run_chunks(kernel.use_chunks, 0, chunks, threads);
    }
    return total;
}

// Kernels that read all classes of a sample.
inline Partial run_softmax(Plan& plan, const SoftmaxKernels& kernel, const Array& target_array,
                           const Options& options) {
    if (plan.samples.count == 0) return {};
    if (plan.data[gradient]) prepare_gradient(plan, false, options);
    const bool pays = std::max(plan.samples.count * plan.classes, plan.samples.count) >= serial_powers;
    const int threads = pays ? parallel::limit(options.num_threads) : 1;
    constexpr index_t long_row = 16 * chunk_size;
    constexpr index_t endless_row = index_t{1} << 22;  // a few milliseconds, after which a call can be stopped
    const bool shares = plan.samples.count < threads && plan.classes >= long_row;
    if (by_rows(plan) && (shares || plan.classes >= endless_row))
        return run_shared(plan, kernel, threads, target_array, options);
    return run(plan, kernel.sweep, softmax_block(plan), pays, target_array, options);
}

// A bound of what a softmax is multiplied with: weights, over a divisor, times gradients of losses.
inline double largest_factor(const Plan& plan) {
    double weight = plan.weight ? 0.0 : 1.0, grad_output = std::max(1.0, std::fabs(plan.grad_output));
    alignas(64) double values[block_size];
    if (plan.weight)
        for_each_block(0, plan.classes, block_size, [&](index_t first, index_t count) {
            load_class_weights(plan, first, count, values);
            for (index_t c = 0; c < count; ++c) weight = std::max(weight, std::fabs(values[c]));
        });
    if (plan.data[gradient] && plan.data[output])
        for_each_block(0, plan.samples.count, block_size, [&](index_t first, index_t count) {
            load_grad_output(plan, first, count, values);
            for (index_t i = 0; i < count; ++i) grad_output = std::max(grad_output, std::fabs(values[i]));
        });
    return std::max(weight, 1.0) * grad_output / std::min(1.0, std::fabs(plan.divisor));
}

// The losses in this dtype, and the gradient if the plan has one.
inline Partial run_cross_entropy(Plan& plan, DType dtype, const Array& target_array, const Options& options) {
    if (options.label_smoothing != 0) {
        ExactSum sum;
        for (index_t c = 0; c < plan.classes; ++c) {
            double weight;
            load_class_weights(plan, c, 1, &weight);
            add(sum, weight);
        }
        plan.class_weights = rounded(sum, format_of<double>);
    }
    const Kernels& kernel = kernels(plan.dtype[input]);
    const SoftmaxKernels& own = dtype == plan.dtype[input] ? kernel.cross_entropy : kernel.cross_entropy_single;
    // Powers that are too small to be exact matter only where factors are huge, and smoothing's terms may be huge, too.
    const double factor = largest_factor(plan);
    const bool usual = factor < 0x1p20 && options.label_smoothing == 0;
    const bool wide = dtype == DType::float64 || !(factor < 0x1p500);
    const SoftmaxKernels& chosen = wide ? kernel.cross_entropy_double : usual ? own : kernel.cross_entropy_single;
    return run_softmax(plan, chosen, target_array, options);
}

// The exact total weight: without class weights it is the count.
inline const ExactSum& total_weight(Partial& partial, const Options& options) {
    const bool added = partial.weight.high != 0;
    if (!options.weight && !added) add(partial.weight, static_cast<std::uint64_t>(partial.count), 0, false);
    return partial.weight;
}

inline bool is_zero(const ExactSum& sum) { return is_finite(sum) && magnitude(sum).count == 0; }

inline void check_empty(const ExactSum& weight, const Partial& partial, const Options& options) {
    if (options.reduction == Reduction::mean && options.empty == Empty::raise && is_zero(weight))
        throw std::invalid_argument("the total weight of the " + std::to_string(partial.count) +
                                    " samples that are not ignored is 0: they have no mean (empty is 'raise')");
}

inline Loss loss_of(Partial& partial, DType dtype, const Options& options) {
    const ExactSum& weight = total_weight(partial, options);
    Loss loss{std::numeric_limits<double>::quiet_NaN(), rounded(weight, format_of<double>), partial.count};
    if (options.reduction == Reduction::sum) loss.value = rounded(partial.loss, format(dtype));
    if (options.reduction == Reduction::mean) {
        check_empty(weight, partial, options);
        const bool zero = options.empty == Empty::zero && is_zero(weight);
        loss.value = zero ? 0.0 : rounded_quotient(partial.loss, weight, format(dtype));
    }
    return loss;
}

// What the gradient of a mean is divided by, or that it is zero.
inline void set_divisor(Plan& plan, Partial& partial, const Options& options) {
    if (options.reduction != Reduction::mean) return;
    const ExactSum& weight = total_weight(partial, options);
    check_empty(weight, partial, options);
    plan.divisor = rounded(weight, format_of<double>);
    plan.zero_gradient = options.empty == Empty::zero && is_zero(weight);
}

}  // namespace NLL_INSTRUCTION_SET

// ---------------------------------------------------------------- calls

inline BuildInfo build_info_of(const char* instruction_set) {
#if defined(_OPENMP)
    constexpr int openmp = _OPENMP;
#else
    constexpr int openmp = 0;
#endif
#if defined(__VERSION__)
    return {NLL_VERSION, __VERSION__, instruction_set, openmp};
#else
    return {NLL_VERSION, "MSVC", instruction_set, openmp};
#endif
}

#if defined(NLL_COMPILED)
#define NLL_INLINE
#else
#define NLL_INLINE inline

inline BuildInfo build_info() { return build_info_of("native"); }
#endif

NLL_INLINE Loss nll_loss(const Array& input, const Array& target, const Array* losses, const Options& options) {
    check_no_smoothing(options);
    const int axis = check_forward(input, target, losses, options);
    const Plan plan({&input, &target, losses, nullptr}, axis, options);
    const Kernels& kernel = kernels(input.dtype);
    if (losses && !options.out_is_new) run_samples(plan, kernel.nll_check, target, options);
    Partial partial = run_samples(plan, kernel.nll_sweep, target, options);
    return loss_of(partial, options.dtype.value_or(input.dtype), options);
}

NLL_INLINE void nll_loss_backward(const Array* grad_outputs, double grad_output, const Array& target,
                                  const Array& grad_input, const Options& options) {
    check_no_smoothing(options);
    const int axis = check_backward(grad_outputs, target, grad_input, options);
    Plan plan({nullptr, &target, grad_outputs, &grad_input}, axis, options);
    const Kernels& kernel = kernels(grad_input.dtype);
    Partial partial = run_samples(plan, kernel.nll_check, target, options);
    plan.grad_output = grad_output;
    set_divisor(plan, partial, options);
    run_gradient(plan, kernel.nll_sweep, target, options);
}

NLL_INLINE Loss nll_loss_value_and_grad(const Array& input, const Array& target, double grad_output,
                                        const Array& grad_input, const Options& options) {
    check_no_smoothing(options);
    const int axis = check_value_and_grad(input, target, grad_input, options);
    Plan plan({&input, &target, nullptr, &grad_input}, axis, options);
    const Kernels& kernel = kernels(input.dtype);
    Partial checked = run_samples(plan, kernel.nll_check, target, options);
    plan.grad_output = grad_output;
    set_divisor(plan, checked, options);
    Partial partial = run_gradient(plan, kernel.nll_sweep, target, options);
    return loss_of(partial, options.dtype.value_or(input.dtype), options);
}

NLL_INLINE Loss cross_entropy(const Array& input, const Array& target, const Array* losses, const Options& options) {
    const int axis = check_forward(input, target, losses, options);
    Plan plan({&input, &target, losses, nullptr}, axis, options);
    const DType dtype = options.dtype.value_or(losses ? losses->dtype : input.dtype);
    if (losses && !options.out_is_new) run_samples(plan, kernels(input.dtype).nll_check, target, options);
    Partial partial = run_cross_entropy(plan, dtype, target, options);
    return loss_of(partial, dtype, options);
}

NLL_INLINE void cross_entropy_backward(const Array* grad_outputs, double grad_output, const Array& input,
                                       const Array& target, const Array& grad_input, const Options& options) {
    check_same_shape("out", grad_input, "input", input);
    check_sizes("input", input);
    const int axis = check_backward(grad_outputs, target, grad_input, options);
    Plan plan({&input, &target, grad_outputs, &grad_input}, axis, options);
    Partial checked = run_samples(plan, kernels(input.dtype).nll_check, target, options);
    plan.grad_output = grad_output;
    set_divisor(plan, checked, options);
    run_cross_entropy(plan, input.dtype, target, options);
}

NLL_INLINE Loss cross_entropy_value_and_grad(const Array& input, const Array& target, double grad_output,
                                             const Array& grad_input, const Options& options) {
    const int axis = check_value_and_grad(input, target, grad_input, options);
    Plan plan({&input, &target, nullptr, &grad_input}, axis, options);
    Partial checked = run_samples(plan, kernels(input.dtype).nll_check, target, options);
    plan.grad_output = grad_output;
    set_divisor(plan, checked, options);
    const DType dtype = options.dtype.value_or(input.dtype);
    Partial partial = run_cross_entropy(plan, dtype, target, options);
    return loss_of(partial, dtype, options);
}

NLL_INLINE void log_softmax(const Array& input, const Array& out, const Options& options) {
    const int axis = class_axis(options.axis, input.rank);
    check_sizes("input", input);
    check_same_shape("out", out, "input", input);
    check_output("out", out);
    check_options(options, input.shape[axis]);
    Array samples = input;  // of target's shape, but there is no target
    samples.data = nullptr;
    --samples.rank;
    std::copy(input.shape.begin() + axis + 1, input.shape.begin() + input.rank, samples.shape.begin() + axis);
    std::fill_n(samples.strides.begin(), samples.rank, 0);
    Plan plan({&input, &samples, nullptr, &out}, axis, options);
    run_softmax(plan, kernels(input.dtype).log_softmax, samples, options);
}

NLL_INLINE int get_num_threads(int num_threads) { return parallel::limit(num_threads); }

NLL_INLINE void set_num_threads(int threads) {
    if (threads < 1 || threads > parallel::max_threads)
        throw std::invalid_argument("num_threads is " + std::to_string(threads) + ", outside [1, 256]");
    parallel::set_limit(threads);
}

}  // namespace nll
