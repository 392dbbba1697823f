// SPDX-License-Identifier: BSD-3-Clause
// nll: the negative log likelihood loss, the cross-entropy of logits, and their gradients on CPUs,
// exact and at the memory limit.
//
//     nll::View<const float, 3> input{data, {N, C, D}};         // or {data, shape, strides}
//     nll::View<const std::uint8_t, 2> target{labels, {N, D}};  // any integer type
//     nll::Loss loss = nll::cross_entropy(input, target, {.ignore_index = 255});
//
// input      (N, C, d1, ..., dk) or (C,), of float16, bfloat16, float or double: log-probabilities
//            for nll_loss, logits for cross_entropy. Options::axis says where the classes are.
// target     input's shape without the class axis: labels in [index_base, index_base + C), or
//            ignore_index.
// loss       of a sample with label t: -w·input[t], or w·(log Σ exp(input) - input[t]), where w is
//            weight[t] times sample_weight, those that Options has. An ignored sample's loss is 0,
//            and nothing of it is read.
// sum, mean  Σ loss, and Σ loss / Σ w over the samples that are kept: of the given numbers
//            for nll_loss, of the losses in double for cross_entropy. Both are added up without
//            error and rounded once, so they have the same bits for any order, layout, and number
//            of threads.
// exactness  Losses and entries of cross_entropy, softmax and log_softmax are within 0.51 ULP of
//            the true value for float16, bfloat16 and float, and within 4 for double; with label
//            smoothing, of the largest term of theirs.
// memory     What is written shares none with what is read, and no element of it with another. But
//            grad_input of cross_entropy_value_and_grad and cross_entropy_backward, and out of
//            softmax and log_softmax, may be input itself: its address, shape and strides.
//
// nll::State (state.hpp) adds up the losses of batches, of threads, of machines: exactly, as one
// call would have; it travels as bytes.
//
// Every function throws before it writes anything: std::invalid_argument for shapes, lengths and
// values (AxisError for the axis), std::out_of_range for a label, which names the lowest bad
// position, and std::bad_alloc. Only Interrupted (Options::interrupt) may leave results half
// written.
//
// Link nll::nll for kernels that are compiled once and picked for the machine at run time, with
// OpenMP inside. Or link nll::headers for templates compiled with your own flags: a file that
// includes this one compiles the kernels of the element types that it calls.
#pragma once

#include "detail/operands.hpp"
#include "state.hpp"
#include "types.hpp"
#include "view.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {

namespace NLL_HIDDEN detail {
#if defined(NLL_COMPILED)
NLL_API Loss nll_loss(const Call& call);
NLL_API Loss cross_entropy(const Call& call);
NLL_API void softmax(const Call& call);
template <class> Loss nll_loss_as(const Call& call) { return nll_loss(call); }
template <class> Loss cross_entropy_as(const Call& call) { return cross_entropy(call); }
template <class> void softmax_as(const Call& call) { softmax(call); }
#else
template <class = void> Loss nll_loss(const Call& call);
template <class = void> Loss cross_entropy(const Call& call);
template <class = void> void softmax(const Call& call);
template <class Scalar> Loss nll_loss_as(const Call& call);
template <class Scalar> Loss cross_entropy_as(const Call& call);
template <class Scalar> void softmax_as(const Call& call);
#endif

inline Options with_reduction_none(Options options) {
    options.reduction = Reduction::none;
    return options;
}
// Returns the call that computes a result of logits without labels.
inline Call call_of(const Array& input, const Array& out, const Options& options,
                    SoftmaxResult result) {
    const bool of_samples = result == SoftmaxResult::log_sum_exp;
    Call call{{&input, nullptr, nullptr, nullptr, nullptr}, options};
    call.arrays[of_samples ? losses : gradient] = &out;
    call.softmax_result = result;
    return call;
}
template <class Scalar, class Gradient> void require_same_type() {
    static_assert(std::is_same_v<std::remove_const_t<Scalar>, Gradient>,
                  "the gradient, or result, has input's type");
}
}  // namespace NLL_HIDDEN detail

// ---------------------------------------------------------------- the negative log likelihood

// Returns the loss of log-probabilities `input`, (N, C, d1, ..., dk), as one number, for
// Reduction::sum or mean. target: (N, d1, ..., dk).
template <class Scalar, int Rank, class Label>
NLL_HIDDEN Loss nll_loss(View<Scalar, Rank> input, View<Label, Rank - 1> target,
                         const Options& options = {}) {
    const Array from = detail::input_array(input), labels = detail::target_array(target);
    return detail::nll_loss_as<std::remove_const_t<Scalar>>(
        {{&from, &labels, nullptr, nullptr, nullptr}, options});
}

// Writes the loss of each sample into losses, (N, d1, ..., dk), of any float type, which it is
// rounded to, whatever Options::dtype says. The value that it returns is NaN.
template <class Scalar, int Rank, class Label, class Result>
NLL_HIDDEN Loss nll_loss(View<Scalar, Rank> input, View<Label, Rank - 1> target,
                         View<Result, Rank - 1> losses, const Options& options = {}) {
    const Array from = detail::input_array(input), labels = detail::target_array(target),
                to = detail::output_array(losses);
    return detail::nll_loss_as<std::remove_const_t<Scalar>>(
        {{&from, &labels, &to, nullptr, nullptr}, detail::with_reduction_none(options)});
}

// Writes the gradient of input, times grad_output, into grad_input, (N, C, d1, ..., dk), for
// Reduction::sum or mean: -(w·grad_output) at the target, for a mean divided by Σ w
// (rounded to double), in double, in this order, rounded once; +0 elsewhere and at ignored samples.
template <class Label, class Scalar, int Rank>
NLL_HIDDEN void nll_loss_backward(double grad_output, View<Label, Rank - 1> target,
                                  View<Scalar, Rank> grad_input, const Options& options = {}) {
    const Array labels = detail::target_array(target), to = detail::output_array(grad_input);
    detail::nll_loss_as<Scalar>(
        {{nullptr, &labels, nullptr, nullptr, &to}, options, grad_output, false});
}

// Writes the gradient of the losses of each sample; grad_output, (N, d1, ..., dk), is of any float
// type.
template <class Grad, class Label, class Scalar, int Rank>
NLL_HIDDEN void nll_loss_backward(View<Grad, Rank - 1> grad_output, View<Label, Rank - 1> target,
                                  View<Scalar, Rank> grad_input, const Options& options = {}) {
    const Array of_losses = detail::grad_output_array(grad_output),
                labels = detail::target_array(target), to = detail::output_array(grad_input);
    detail::nll_loss_as<Scalar>({{nullptr, &labels, nullptr, &of_losses, &to},
                                 detail::with_reduction_none(options),
                                 1.0,
                                 false});
}

// Returns the loss and writes its gradient, in one sweep over memory.
template <class Scalar, int Rank, class Label, class Gradient>
NLL_HIDDEN Loss nll_loss_value_and_grad(View<Scalar, Rank> input, View<Label, Rank - 1> target,
                                        View<Gradient, Rank> grad_input,
                                        const Options& options = {}, double grad_output = 1.0) {
    detail::require_same_type<Scalar, Gradient>();
    const Array from = detail::input_array(input), labels = detail::target_array(target),
                to = detail::output_array(grad_input);
    return detail::nll_loss_as<Gradient>(
        {{&from, &labels, nullptr, nullptr, &to}, options, grad_output});
}

// ---------------------------------------------------------------- cross-entropy

// Returns the loss of logits `input`, (N, C, d1, ..., dk), as one number, for Reduction::sum or
// mean. A loss that is wider than input (Options::dtype, or the type of losses) is as exact as its
// type.
template <class Scalar, int Rank, class Label>
NLL_HIDDEN Loss cross_entropy(View<Scalar, Rank> input, View<Label, Rank - 1> target,
                              const Options& options = {}) {
    const Array from = detail::input_array(input), labels = detail::target_array(target);
    return detail::cross_entropy_as<std::remove_const_t<Scalar>>(
        {{&from, &labels, nullptr, nullptr, nullptr}, options});
}

// Writes the loss of each sample into losses, (N, d1, ..., dk), of any float type, which it is
// rounded to, whatever Options::dtype says. The value that it returns is NaN.
template <class Scalar, int Rank, class Label, class Result>
NLL_HIDDEN Loss cross_entropy(View<Scalar, Rank> input, View<Label, Rank - 1> target,
                              View<Result, Rank - 1> losses, const Options& options = {}) {
    const Array from = detail::input_array(input), labels = detail::target_array(target),
                to = detail::output_array(losses);
    return detail::cross_entropy_as<std::remove_const_t<Scalar>>(
        {{&from, &labels, &to, nullptr, nullptr}, detail::with_reduction_none(options)});
}

// Writes the gradient of input, times grad_output, into grad_input, which may be input itself:
// w·grad_output·(softmax - [c = t]), for a mean divided by Σ w; +0 at ignored
// samples.
template <class Scalar, int Rank, class Label, class Gradient>
NLL_HIDDEN void cross_entropy_backward(double grad_output, View<Scalar, Rank> input,
                                       View<Label, Rank - 1> target,
                                       View<Gradient, Rank> grad_input,
                                       const Options& options = {}) {
    detail::require_same_type<Scalar, Gradient>();
    const Array from = detail::input_array(input), labels = detail::target_array(target),
                to = detail::output_array(grad_input);
    detail::cross_entropy_as<Gradient>(
        {{&from, &labels, nullptr, nullptr, &to}, options, grad_output, false});
}

// Writes the gradient of the losses of each sample; grad_output, (N, d1, ..., dk), is of any float
// type.
template <class Grad, class Scalar, int Rank, class Label, class Gradient>
NLL_HIDDEN void cross_entropy_backward(View<Grad, Rank - 1> grad_output, View<Scalar, Rank> input,
                                       View<Label, Rank - 1> target,
                                       View<Gradient, Rank> grad_input,
                                       const Options& options = {}) {
    detail::require_same_type<Scalar, Gradient>();
    const Array of_losses = detail::grad_output_array(grad_output),
                from = detail::input_array(input), labels = detail::target_array(target),
                to = detail::output_array(grad_input);
    detail::cross_entropy_as<Gradient>({{&from, &labels, nullptr, &of_losses, &to},
                                        detail::with_reduction_none(options),
                                        1.0,
                                        false});
}

// Returns the loss and writes its gradient, which may take the place of input, in one sweep.
template <class Scalar, int Rank, class Label, class Gradient>
NLL_HIDDEN Loss cross_entropy_value_and_grad(View<Scalar, Rank> input, View<Label, Rank - 1> target,
                                             View<Gradient, Rank> grad_input,
                                             const Options& options = {},
                                             double grad_output = 1.0) {
    detail::require_same_type<Scalar, Gradient>();
    const Array from = detail::input_array(input), labels = detail::target_array(target),
                to = detail::output_array(grad_input);
    return detail::cross_entropy_as<Gradient>(
        {{&from, &labels, nullptr, nullptr, &to}, options, grad_output});
}

// ---------------------------------------------------------------- softmax

// Writes the softmax of logits over the class axis, e^x_c / Σ e^x, into out, which may be input
// itself.
template <class Scalar, int Rank, class Result>
NLL_HIDDEN void softmax(View<Scalar, Rank> input, View<Result, Rank> out,
                        const Options& options = {}) {
    detail::require_same_type<Scalar, Result>();
    const Array from = detail::input_array(input), to = detail::output_array(out);
    detail::softmax_as<Result>(detail::call_of(from, to, options, detail::SoftmaxResult::softmax));
}

// Writes its logarithm, x_c - log Σ e^x, into out, which may be input itself.
template <class Scalar, int Rank, class Result>
NLL_HIDDEN void log_softmax(View<Scalar, Rank> input, View<Result, Rank> out,
                            const Options& options = {}) {
    detail::require_same_type<Scalar, Result>();
    const Array from = detail::input_array(input), to = detail::output_array(out);
    detail::softmax_as<Result>(
        detail::call_of(from, to, options, detail::SoftmaxResult::log_softmax));
}

// Writes log Σ e^x of each sample into out, (N, d1, ..., dk), of input's type or a narrower one.
// Its terms may cancel: the bound of its error is that of the largest logit.
template <class Scalar, int Rank, class Result>
NLL_HIDDEN void logsumexp(View<Scalar, Rank> input, View<Result, Rank - 1> out,
                          const Options& options = {}) {
    const Array from = detail::input_array(input), to = detail::output_array(out);
    detail::softmax_as<std::remove_const_t<Scalar>>(
        detail::call_of(from, to, options, detail::SoftmaxResult::log_sum_exp));
}

// ---------------------------------------------------------------- threads

// Returns the threads that a large call with this Options::num_threads would use: for 0 as set,
// else what OpenMP, the affinity and the cgroup quota allow. Throws for one that a call refuses.
NLL_API int get_num_threads(int num_threads = 0);
// Sets the threads of large calls, 1 to 256.
NLL_API void set_num_threads(int threads);

NLL_API BuildInfo build_info();

// ---------------------------------------------------------------- arrays of run-time type

// Call what is above for arrays whose element type and rank are known at run time only. Types that
// do not compile above throw std::invalid_argument here; what may be written is up to the caller.
// An operand that a call does without is nullptr: losses but for Reduction::none, grad_outputs
// likewise, beside which grad_output is not used.

#if defined(NLL_COMPILED)
#define NLL_ON_USE NLL_HIDDEN inline
#else
#define NLL_ON_USE \
    template <class = void> NLL_HIDDEN  // compiles the kernels of every type when it is called
#endif

NLL_ON_USE Loss nll_loss(const Array& input, const Array& target, const Array* losses,
                         const Options& options) {
    return detail::nll_loss({{&input, &target, losses, nullptr, nullptr}, options});
}
NLL_ON_USE void nll_loss_backward(const Array* grad_outputs, double grad_output,
                                  const Array& target, const Array& grad_input,
                                  const Options& options) {
    detail::nll_loss(
        {{nullptr, &target, nullptr, grad_outputs, &grad_input}, options, grad_output, false});
}
NLL_ON_USE Loss nll_loss_value_and_grad(const Array& input, const Array& target, double grad_output,
                                        const Array& grad_input, const Options& options) {
    return detail::nll_loss(
        {{&input, &target, nullptr, nullptr, &grad_input}, options, grad_output});
}
NLL_ON_USE Loss cross_entropy(const Array& input, const Array& target, const Array* losses,
                              const Options& options) {
    return detail::cross_entropy({{&input, &target, losses, nullptr, nullptr}, options});
}
NLL_ON_USE void cross_entropy_backward(const Array* grad_outputs, double grad_output,
                                       const Array& input, const Array& target,
                                       const Array& grad_input, const Options& options) {
    detail::cross_entropy(
        {{&input, &target, nullptr, grad_outputs, &grad_input}, options, grad_output, false});
}
NLL_ON_USE Loss cross_entropy_value_and_grad(const Array& input, const Array& target,
                                             double grad_output, const Array& grad_input,
                                             const Options& options) {
    return detail::cross_entropy(
        {{&input, &target, nullptr, nullptr, &grad_input}, options, grad_output});
}
NLL_ON_USE void softmax(const Array& input, const Array& out, const Options& options) {
    detail::softmax(detail::call_of(input, out, options, detail::SoftmaxResult::softmax));
}
NLL_ON_USE void log_softmax(const Array& input, const Array& out, const Options& options) {
    detail::softmax(detail::call_of(input, out, options, detail::SoftmaxResult::log_softmax));
}
NLL_ON_USE void logsumexp(const Array& input, const Array& out, const Options& options) {
    detail::softmax(detail::call_of(input, out, options, detail::SoftmaxResult::log_sum_exp));
}

#undef NLL_ON_USE

}  // namespace nll::inline NLL_VERSION_NAMESPACE

#if !defined(NLL_COMPILED)
#include "detail/call.hpp"
#include "detail/state.hpp"
#endif
