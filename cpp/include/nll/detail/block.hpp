// SPDX-License-Identifier: BSD-3-Clause
// What both losses do to a block of samples: load grad_output, and write or add their losses.
#pragma once

#include "slice_products.hpp"
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
        constexpr index_t at_once = 64;  // side by side, for SIMD; on a small stack
        for_each_block(0, count, at_once, [&](index_t begin, index_t some) {
            alignas(cache_line) Result rounded[at_once];
            for (index_t i = 0; i < some; ++i)
                rounded[i] = from_double<Result>(from[begin + i] + 0.0);  // -0 + 0 is +0
            plan.samples.for_each(losses, first + begin, some,
                                  [&](index_t i, index_t offset) { to[offset] = rounded[i]; });
        });
    });
}

// Holds the losses of a block, and what they are weighted with. All are (count,).
template <class Real> struct TakenLosses {
    index_t first, count;
    const index_t* classes;
    Real* values;           // losses without weights, or smoothed ones with them; padded here
    const double* factors;  // what values are multiplied with, padded; or nullptr: they are losses
    const double* weights;  // the samples' weights, padded; or nullptr: every weight is 1
    BlockRange<double> weights_range;
};

// Computes losses times factors, (count,).
template <class Real> void multiply_losses(const TakenLosses<Real>& taken, double* weighted) {
    for (index_t i = 0; i < taken.count; ++i) weighted[i] = static_cast<double>(taken.values[i]);
    for (index_t i = 0; taken.factors && i < taken.count; ++i) weighted[i] *= taken.factors[i];
}

// Adds the sums of squares of a block whose values are padded. range: that of the values, if they
// have no factors.
template <class Real>
[[gnu::noinline]] void add_moments(const TakenLosses<Real>& taken, const BlockRange<Real>& range,
                                   Partial& partial) {
    const index_t count = taken.count;
    if (!taken.weights) return add_squares(partial.square, taken.values, count, range);
    alignas(cache_line) double weighted[block_size];
    multiply_losses(taken, weighted);
    pad(weighted, count);
    const BlockRange<double> weighted_range = block_range(weighted, count);
    add_squares(partial.square, weighted, count, weighted_range);
    add_cross(partial.cross, weighted, weighted_range, taken.weights, taken.weights_range, count);
    add_squares(partial.weight_square, taken.weights, count, taken.weights_range);
}

// Notes each sample of a block.
template <class Real>
[[gnu::noinline]] void note_losses(const Record& record, const TakenLosses<Real>& taken) {
    for (index_t i = 0; i < taken.count; ++i) {
        const index_t at = taken.first + i;
        record.values[at] = static_cast<double>(taken.values[i]);
        if (record.weights) record.weights[at] = taken.weights[i];
        const bool is_ignored = taken.classes[i] == ignored;
        if (record.by_class) record.groups[at] = taken.classes[i];
        else if (is_ignored) record.groups[at] = ~record.groups[at];
    }
}

// Adds a block to the partial's sum of losses, and to those of squares for `moments`. Values are
// certified as numbers of type Scalar.
template <class Scalar, class Real>
void add_losses(const TakenLosses<Real>& taken, bool moments, Partial& partial) {
    const index_t count = taken.count;
    Real* values = taken.values;
    BlockRange<Real> range;
    pad(values, count);
    if (taken.factors) {
        add_products(partial.loss, values, taken.factors, count, taken.weights_range);
    } else {
        range = block_range(values, count);
        add_block(partial.loss, values, count, range, certified<Scalar>);
    }
    if (moments) add_moments(taken, range, partial);
}

// Writes the losses of a block where the call asks for each, notes them for sums by group, or adds
// them to the partial's sums.
template <class Scalar, class Real>
void take_losses(const Plan& plan, const TakenLosses<Real>& taken, Partial& partial) {
    const index_t count = taken.count;
    if (plan.has(losses)) {
        alignas(cache_line) double weighted[block_size];
        multiply_losses(taken, weighted);
        return write_losses(plan, taken.first, count, weighted);
    }
    if (plan.record) return note_losses(*plan.record, taken);
    add_losses<Scalar>(taken, plan.moments, partial);
}

// Implements SumGroup for an instruction set.
inline index_t sum_group(const Record& record, const index_t* samples, index_t count, bool smooths,
                         Partial& partial) {
    const index_t before = partial.count;
    for_each_block(0, count, block_size, [&](index_t first, index_t some) {
        alignas(cache_line) double values[block_size], weights[block_size];
        index_t kept = 0;
        for (index_t i = first; i < first + some; ++i) {
            const index_t sample = samples[i];
            if (record.groups[sample] < 0) continue;
            values[kept] = record.values[sample];
            weights[kept++] = record.weights ? record.weights[sample] : 1.0;
        }
        partial.count += kept;
        const double* const of_samples = record.weights ? weights : nullptr;
        BlockRange<double> range;
        if (record.weights) range = add_weights(weights, kept, partial);
        const TakenLosses<double> taken{
            0, kept, nullptr, values, smooths ? nullptr : of_samples, of_samples, range};
        add_losses<double>(taken, true, partial);
    });
    return count - (partial.count - before);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
