// SPDX-License-Identifier: BSD-3-Clause
// What both losses do to a block of samples: load grad_output, and write or add their losses.
#pragma once

#include "weights.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Loads grad_output, (count,), of samples [first, first + count).
inline void load_grad_output(const Plan& plan, index_t first, index_t count, double* to) {
    if (!plan.has(grad_output)) {
        std::fill_n(to, count, plan.grad_output);
        return;
    }
    visit_floating(plan.dtype[grad_output], [&]<class Grad>() {
        const Grad* from = plan.pointer<const Grad>(grad_output);
        plan.samples.for_each(grad_output, first, count,
                              [&](index_t i, index_t offset) { to[i] = to_double(from[offset]); });
    });
}

// Writes the losses, (count,), of samples [first, first + count), each rounded once.
inline void write_losses(const Plan& plan, index_t first, index_t count, const double* from) {
    visit_floating(plan.dtype[losses], [&]<class Result>() {
        Result* to = plan.pointer<Result>(losses);
        plan.samples.for_each(losses, first, count, [&](index_t i, index_t offset) {
            to[offset] = from_double<Result>(from[i] + 0.0);  // -0 + 0 is +0
        });
    });
}

// Writes the losses of a block where the call asks for each, or adds them to the partial's sum.
// values: (count,), without their weights, padded here; certified as numbers of type Scalar.
// weights: (count,), padded, of this range; or nullptr.
template <class Scalar, class Real>
void take_losses(const Plan& plan, index_t first, index_t count, Real* values,
                 const double* weights, const BlockRange<double>& weights_range, Partial& partial) {
    if (plan.has(losses)) {
        alignas(cache_line) double weighted[block_size];
        for (index_t i = 0; i < count; ++i) weighted[i] = static_cast<double>(values[i]);
        for (index_t i = 0; weights && i < count; ++i) weighted[i] *= weights[i];
        return write_losses(plan, first, count, weighted);
    }
    pad(values, count);
    if (weights) add_products(partial.loss, values, weights, count, weights_range);
    else add_block(partial.loss, values, count, block_range(values, count), certified<Scalar>);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
