// SPDX-License-Identifier: BSD-3-Clause
// nll: the negative log likelihood loss, the cross-entropy of logits, and their gradients on CPUs, exact and at the
// memory limit.
//
//     nll::View<const float, 3> input{data, {N, C, D}};           // contiguous, or {data, shape, strides in elements}
//     nll::View<const std::uint8_t, 2> target{labels, {N, D}};    // any integer type
//     nll::Loss loss = nll::cross_entropy(input, target, {.ignore_index = 255});
//
// input      (N, C, d1, …, dk), or (C,), in float16, bfloat16, float or double: log-probabilities for nll_loss, logits
//            for cross_entropy. Options::axis says where the classes are, 1 unless given.
// target     input's shape without the class axis: labels in [index_base, index_base + C), or ignore_index.
// loss       of a sample with label t: -weight[t]·input[t], or weight[t]·(log Σ exp(input) - input[t]). 0 if it is
//            ignored: then nothing of it is read.
// sum, mean  Σ loss, and Σ loss / Σ weight[t] over the samples that are kept: of the given numbers for nll_loss, of the
//            losses in double for cross_entropy; added up without error and rounded once. So it has the same bits for
//            any order, layout, and number of threads.
// gradient   of input. nll_loss: -(weight[t]·g) at the target, for the mean divided by Σ weight[t] (rounded to double);
//            in double, in this order, rounded once; +0 elsewhere. cross_entropy: weight[t]·g·(softmax - [c = t])
//            likewise; it may take the place of input.
// exactness  A loss and a gradient's entry of cross_entropy, and log_softmax, are within 0.51 ULP of the true value for
//            float16, bfloat16 and float, and within 4 for double.
//
// Errors, before anything is written: std::invalid_argument for shapes, lengths and values (AxisError for the axis),
// std::out_of_range for a label, which names the lowest bad position, and std::bad_alloc.
//
// Link nll::nll for kernels that are compiled once and picked for the machine at run time, with OpenMP inside; or
// nll::headers for templates compiled with your own flags (threads if these include OpenMP).
#pragma once

#include "types.hpp"
#include "view.hpp"

namespace nll {

// For views whose element type and rank are known only at run time; the typed functions below call these.
Loss nll_loss(const Array& input, const Array& target, const Array* losses, const Options& options);
void nll_loss_backward(const Array* grad_outputs, double grad_output, const Array& target, const Array& grad_input,
                       const Options& options);
Loss nll_loss_value_and_grad(const Array& input, const Array& target, double grad_output, const Array& grad_input,
                             const Options& options);

Loss cross_entropy(const Array& input, const Array& target, const Array* losses, const Options& options);
void cross_entropy_backward(const Array* grad_outputs, double grad_output, const Array& input, const Array& target,
                            const Array& grad_input, const Options& options);
Loss cross_entropy_value_and_grad(const Array& input, const Array& target, double grad_output, const Array& grad_input,
                                  const Options& options);
void log_softmax(const Array& input, const Array& out, const Options& options);

// The loss as one number: Reduction::sum or mean.
template <class Scalar, int Rank, class Label>
Loss nll_loss(View<Scalar, Rank> input, View<Label, Rank - 1> target, const Options& options = {}) {
    return nll_loss(Array(input), Array(target), nullptr, options);
}

// Reduction::none: the loss of each sample into losses, (N, d1, …, dk), of any float type. Its value is NaN.
template <class Scalar, int Rank, class Label, class Result>
Loss nll_loss(View<Scalar, Rank> input, View<Label, Rank - 1> target, View<Result, Rank - 1> losses,
              Options options = {}) {
    const Array to(losses);
    options.reduction = Reduction::none;
    return nll_loss(Array(input), Array(target), &to, options);
}

// The gradient of input, times grad_output, into grad_input, (N, C, d1, …, dk): Reduction::sum or mean.
template <class Label, class Scalar, int Rank>
void nll_loss_backward(double grad_output, View<Label, Rank - 1> target, View<Scalar, Rank> grad_input,
                       const Options& options = {}) {
    nll_loss_backward(nullptr, grad_output, Array(target), Array(grad_input), options);
}

// The same for Reduction::none: grad_output is (N, d1, …, dk), of any float type.
template <class Grad, class Label, class Scalar, int Rank>
void nll_loss_backward(View<Grad, Rank - 1> grad_output, View<Label, Rank - 1> target, View<Scalar, Rank> grad_input,
                       Options options = {}) {
    const Array from(grad_output);
    options.reduction = Reduction::none;
    nll_loss_backward(&from, 1.0, Array(target), Array(grad_input), options);
}

// Both in one call: the loss, and its gradient into grad_input.
template <class Scalar, int Rank, class Label, class Gradient>
Loss nll_loss_value_and_grad(View<Scalar, Rank> input, View<Label, Rank - 1> target, View<Gradient, Rank> grad_input,
                             const Options& options = {}, double grad_output = 1.0) {
    static_assert(std::same_as<std::remove_const_t<Scalar>, Gradient>, "the gradient has input's type");
    return nll_loss_value_and_grad(Array(input), Array(target), grad_output, Array(grad_input), options);
}

// The same from logits. A loss that is wider than input (Options::dtype, or the type of losses) is as exact as its
// type.
template <class Scalar, int Rank, class Label>
Loss cross_entropy(View<Scalar, Rank> input, View<Label, Rank - 1> target, const Options& options = {}) {
    return cross_entropy(Array(input), Array(target), nullptr, options);
}

template <class Scalar, int Rank, class Label, class Result>
Loss cross_entropy(View<Scalar, Rank> input, View<Label, Rank - 1> target, View<Result, Rank - 1> losses,
                   Options options = {}) {
    const Array to(losses);
    options.reduction = Reduction::none;
    return cross_entropy(Array(input), Array(target), &to, options);
}

template <class Scalar, int Rank, class Label, class Gradient>
void cross_entropy_backward(double grad_output, View<Scalar, Rank> input, View<Label, Rank - 1> target,
                            View<Gradient, Rank> grad_input, const Options& options = {}) {
    static_assert(std::same_as<std::remove_const_t<Scalar>, Gradient>, "the gradient has input's type");
    cross_entropy_backward(nullptr, grad_output, Array(input), Array(target), Array(grad_input), options);
}

template <class Grad, class Scalar, int Rank, class Label, class Gradient>
void cross_entropy_backward(View<Grad, Rank - 1> grad_output, View<Scalar, Rank> input, View<Label, Rank - 1> target,
                            View<Gradient, Rank> grad_input, Options options = {}) {
    static_assert(std::same_as<std::remove_const_t<Scalar>, Gradient>, "the gradient has input's type");
    const Array from(grad_output);
    options.reduction = Reduction::none;
    cross_entropy_backward(&from, 1.0, Array(input), Array(target), Array(grad_input), options);
}

template <class Scalar, int Rank, class Label, class Gradient>
Loss cross_entropy_value_and_grad(View<Scalar, Rank> input, View<Label, Rank - 1> target,
                                  View<Gradient, Rank> grad_input, const Options& options = {},
                                  double grad_output = 1.0) {
    static_assert(std::same_as<std::remove_const_t<Scalar>, Gradient>, "the gradient has input's type");
    return cross_entropy_value_and_grad(Array(input), Array(target), grad_output, Array(grad_input), options);
}

// log(softmax(input)) over the class axis, into out, which may be input itself.
template <class Scalar, int Rank, class Result>
void log_softmax(View<Scalar, Rank> input, View<Result, Rank> out, const Options& options = {}) {
    static_assert(std::same_as<std::remove_const_t<Scalar>, Result>, "the result has input's type");
    log_softmax(Array(input), Array(out), options);
}

// Threads that a large call with this Options::num_threads would use: for 0 as set, else what OpenMP, the affinity and
// the cgroup quota allow.
int get_num_threads(int num_threads = 0);
void set_num_threads(int threads);  // 1 to 256

BuildInfo build_info();

}  // namespace nll

#if !defined(NLL_COMPILED)
#include "call.hpp"
#endif
