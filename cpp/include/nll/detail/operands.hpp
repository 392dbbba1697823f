// SPDX-License-Identifier: BSD-3-Clause
// What a call is given: its arrays by name, its options, and where results go.
#pragma once

#include "../view.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

// Names the arrays of a call: those with a class axis, (N, C, d1, ..., dk), are input and gradient;
// the others have target's shape. softmax and log_softmax write their results where a gradient
// would be, logsumexp where losses would be. The weights of samples come with the options.
enum Operand : int { input, target, losses, grad_output, gradient, sample_weight, operands };

constexpr bool has_class_axis(int operand) { return operand == input || operand == gradient; }

// Points at the arrays of a call; nullptr where an operand is not part of it.
using Arrays = std::array<const Array*, operands>;

// Names what is computed of logits without labels.
enum class SoftmaxResult : std::uint8_t { softmax, log_softmax, log_sum_exp };
struct Partial;
struct Record;

struct Call {
    Arrays arrays;
    const Options& options;
    double grad_output = 1.0;  // where it is not an array
    bool wants_loss = true;    // beside a gradient
    // Results go to memory that nobody has seen: losses may be written before all labels are
    // checked, and a gradient's is zeros.
    bool fresh = false;
    SoftmaxResult softmax_result{};  // of a call without labels
    // Gets what the samples add up to, squares included, in place of a loss.
    Partial* collected = nullptr;
    const Record* record = nullptr;  // what is noted of each sample instead of most sums
};

// Make the array of a view that has some role in a call. They do not compile for elements that the
// role does not have.
template <class T, int Rank> Array input_array(View<T, Rank> view) {
    static_assert(FloatElement<std::remove_const_t<T>>,
                  "input is of float, double, nll::float16 or nll::bfloat16");
    return view;
}
template <class T, int Rank> Array target_array(View<T, Rank> view) {
    static_assert(IntegerElement<std::remove_const_t<T>>,
                  "target is of integers of at most 64 bits");
    return view;
}
template <class T, int Rank> Array group_array(View<T, Rank> view) {
    static_assert(IntegerElement<std::remove_const_t<T>>,
                  "group is of integers of at most 64 bits");
    return view;
}
template <class T, int Rank> Array grad_output_array(View<T, Rank> view) {
    static_assert(FloatElement<std::remove_const_t<T>>,
                  "grad_output is of float, double, nll::float16 or nll::bfloat16");
    return view;
}
template <class T, int Rank> Array output_array(View<T, Rank> view) {
    static_assert(!std::is_const_v<T>, "losses, a gradient or a result are written: not const");
    static_assert(FloatElement<std::remove_const_t<T>>,
                  "losses, a gradient or a result are of float, double, nll::float16 or "
                  "nll::bfloat16");
    return view;
}

}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
