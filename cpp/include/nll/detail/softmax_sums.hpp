// SPDX-License-Identifier: BSD-3-Clause
// The sums of up to 128 samples side by side, and what is made of them: losses, logarithms, and
// what gradients are scaled with. Each loop brings sums here, so that the long chains of dependent
// operations at a sample's end are computed of many samples at a time.
#pragma once

#include "lane_sums.hpp"
#include "softmax_block.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

template <class Precision> class SoftmaxSums {
    using Real = typename Precision::Real;
    using Scale = typename Precision::Scale;
    using ExpScale = typename Precision::ExpScale;

public:
    using Shift = ExpShift<Precision, max_tile_samples>;

    // Begins with so many samples, without pivots.
    void begin(index_t samples) {
        count = samples;
        width = padded(samples);
        std::fill_n(pivot, width, Real{0});
        std::fill_n(pivot_chunk_of, width, index_t{0});
    }
    // Sets the sums to 0.
    void clear() {
        for (double* zero : {sum, error, smoothing, most, pivot_chunk})
            std::fill_n(zero, width, 0.0);
    }
    void clear(index_t i) { sum[i] = error[i] = smoothing[i] = most[i] = 0; }
    // Adds the sums of a chunk to those of sample i, in the order of classes. Returns whether every
    // logit had an exponential.
    bool add(index_t i, index_t chunk, const ExpSum& found) {
        add(i, chunk, found.sum, found.error);
        smoothing[i] += found.smoothing;
        most[i] = std::max(most[i], found.most);
        return found.in_range;
    }
    void add(index_t i, index_t chunk, double of_chunk, double error_of_chunk) {
        add_chunk(sum[i], error[i], of_chunk, error_of_chunk);
        if (pivot_chunk_of[i] == chunk) pivot_chunk[i] = of_chunk;
    }

    // Sets the pivot of sample i, whose sums are complete, to its largest logit, which find_max()
    // returns. Where no class has half of the sum, which lanes of classes show, log_sum_exp needs
    // none; where one may be nearly all of it, sum_chunk(chunk) returns the sum of its chunk.
    template <class FindMax, class SumChunk>
    void set_pivot_to_max(index_t i, FindMax&& find_max, SumChunk&& sum_chunk) {
        if (!Precision::exact && sum[i] > 0 && sum[i] < infinity && most[i] < 0.49 * sum[i]) {
            pivot[i] = -std::numeric_limits<Real>::infinity();
            return;
        }
        const Pivot max = find_max();
        pivot[i] = static_cast<Real>(max.logit);
        pivot_chunk_of[i] = max.chunk;
        if (!Precision::exact && most[i] > 0.99 * sum[i]) pivot_chunk[i] = sum_chunk(max.chunk);
    }

    // Takes the pivots out of the sums; that of an ignored sample is none. targets: (count,).
    // Calls add_again() if some pivots are nearly all of their sums, which is to exclude them
    // again.
    template <class AddAgain>
    void exclude_pivots(const index_t* targets, bool ignores, AddAgain&& add_again) {
        exps_of_samples(pivot, width, shift, exp_pivot);
        for (index_t i = 0; i < count && ignores; ++i)
            if (targets[i] == ignored) exp_pivot[i] = 0;
        std::uint64_t few = 0;
        for (index_t i = 0; i < width; ++i) {
            sum[i] = defined_sum(sum[i]);
            others[i] = sum_others<Precision>(sum[i], error[i], exp_pivot[i]);
        }
        for (index_t i = 0; i < count; ++i) few |= std::uint64_t{dominates(i)};
        if (!few) return;
        add_again();
        for (index_t i = 0; i < width; ++i)
            others[i] = sum_others<Precision>(sum[i], error[i], exp_pivot[i]);
    }
    // Returns the shift of sample i, for a row.
    ExpShift<Precision, 1> shift_of(index_t i) const {
        ExpShift<Precision, 1> of_row;
        of_row.take(0, shift, i);
        return of_row;
    }
    // Tells whether the pivot is nearly all of the sum.
    bool dominates(index_t i) const { return !leaves_enough<Precision>(sum[i], exp_pivot[i]); }
    // Mends the error of a sample whose pivot's chunk was added up again without it.
    void exclude_again(index_t i, double others_of_chunk) {
        error[i] += error_of_chunk(exp_pivot[i], pivot_chunk[i], others_of_chunk);
    }
    // Sets the sums of a sample that was added up again without its pivot.
    void exclude_again(index_t i, const ExpSum& all_others) {
        if (sum[i] != sum[i]) return;
        const double total = compensated_total(all_others.sum, all_others.error);
        sum[i] = exp_pivot[i] + total;
        error[i] = two_sum_error(exp_pivot[i], total, sum[i]);
    }

    // Computes log Σ e^x of each sample, in two parts; `smooths`: in those that smoothing_sum
    // needs.
    [[gnu::noinline]] void take_logs(bool smooths) {
        for (index_t i = 0; i < width; ++i) {
            const LogSumExp log_sum = log_sum_exp<Precision>(
                sum[i], error[i], exp_pivot[i], others[i], static_cast<double>(pivot[i]),
                shift.shift(i), Shift::scale, smooths);
            center[i] = log_sum.center;
            log[i] = log_sum.log;
        }
    }
    // Computes the losses of samples of a block, from `at` on.
    template <class Scalar>
    [[gnu::noinline]] void take_losses(const Plan& plan, SoftmaxBlock<Precision>& block,
                                       index_t at) {
        take_logs(is_smoothed<Precision>(plan));
        double* losses = block.losses + at;
        for (index_t i = 0; i < count; ++i)
            losses[i] = negative_log_softmax({center[i], log[i]}, pivot[i]);
        if (is_smoothed<Precision>(plan)) smooth_losses<Scalar>(plan, block, at);
        for (index_t i = 0; i < count && block.ignores; ++i)
            losses[i] = block.classes[at + i] == ignored ? 0.0 : losses[i];
    }
    // Computes what the gradients of samples of a block, from `at` on, are made of: the factors of
    // exponentials, (width,), and the entries at targets, (count,).
    template <class Scalar>
    [[gnu::noinline]] void take_scales(const Plan& plan, const SoftmaxBlock<Precision>& block,
                                       index_t at, ExpScale* softmax_scale, Scalar* entry) const {
        alignas(cache_line) double exact[max_tile_samples];
        take_scales_of(plan, block, at, softmax_scale, exact);
        for (index_t i = 0; i < count; ++i) entry[i] = rounded_entry<Scalar>(exact[i]);
    }
    // Computes what softmax is made of, which needs no pivots: the factors of exponentials,
    // (width,).
    [[gnu::noinline]] void take_softmax_scales(ExpScale* softmax_scale) const {
        for (index_t i = 0; i < width; ++i)
            softmax_scale[i] = over_sum(Scale{1}, InverseSum<Scale>(defined_sum(sum[i]), error[i]));
    }
    // Writes log Σ e^x of samples from `first` on; where there is no softmax, what the largest
    // logit says.
    template <class Scalar> [[gnu::noinline]] void write_log_sums(const Plan& plan, index_t first) {
        for (index_t i = 0; i < count; ++i) {
            log[i] += center[i];
            if (log[i] == log[i] || plan.is_abandoned()) continue;
            log[i] = static_cast<double>(pivot[i]);
            plan.samples.for_each(input, first + i, 1, [&](index_t, index_t offset) {
                const Scalar* from = plan.pointer<const Scalar>(input) + offset;
                for (index_t c = 0; c < plan.classes; ++c) {
                    const double x = to_double(from[c * plan.class_stride[input]]);
                    if (x != x) log[i] = x;
                }
            });
        }
        write_losses(plan, first, count, log);
    }

    index_t count = 0, width = 0;  // samples, and these in whole lanes
    Shift shift;
    // Hold the pivot of each sample, the chunk of classes that has it, and what ExpSum says.
    alignas(cache_line) Real pivot[max_tile_samples];
    alignas(cache_line) index_t pivot_chunk_of[max_tile_samples];
    alignas(cache_line) double sum[max_tile_samples], error[max_tile_samples];
    alignas(cache_line) double smoothing[max_tile_samples], most[max_tile_samples];
    alignas(cache_line) double pivot_chunk[max_tile_samples];
    alignas(cache_line) double exp_pivot[max_tile_samples], others[max_tile_samples];
    // Hold LogSumExp of each.
    alignas(cache_line) double center[max_tile_samples], log[max_tile_samples];

private:
    // Makes smoothed losses of the losses of samples of a block, from `at` on.
    template <class Scalar>
    [[gnu::noinline]] void smooth_losses(const Plan& plan, SoftmaxBlock<Precision>& block,
                                         index_t at) const {
        const Smoothing of(plan);
        const double* const weights = block.loss_weights() + at;
        double* const losses = block.losses + at;
        alignas(cache_line) double all[max_tile_samples];
        const auto is_lost = [&](index_t i) {
            return cancels<Precision>(of, all[i], {center[i], log[i]}, shift.shift(i));
        };
        std::uint64_t lost = 0;
        for (index_t i = 0; i < count; ++i) {
            all[i] =
                smoothing_sum<Precision>(of, smoothing[i], {center[i], log[i]}, shift.shift(i));
            lost |= std::uint64_t{is_lost(i)};
        }
        for (index_t i = 0; i < count && lost; ++i)
            if (is_lost(i)) all[i] = sum_smoothing_again<Scalar>(plan, block.first + at + i);
        for (index_t i = 0; i < count; ++i)
            losses[i] = smoothed_loss<Precision>(of, losses[i], weights[i], all[i]);
    }
    // Returns Σ w·(log S - x) of a sample's classes, each term about its largest logit, which is
    // finite.
    template <class Scalar>
    [[gnu::noinline]] static double sum_smoothing_again(const Plan& plan, index_t sample) {
        double sum = 0;
        plan.samples.for_each(input, sample, 1, [&](index_t, index_t offset) {
            const Scalar* from = plan.pointer<const Scalar>(input) + offset;
            const auto logit = [&](index_t c) {
                return to_double(from[c * plan.class_stride[input]]);
            };
            index_t largest = 0;
            for (index_t c = 0; c < plan.classes; ++c)
                if (logit(c) > logit(largest)) largest = c;
            const double max = logit(largest);
            double rest = 0;
            for (index_t c = 0; c < plan.classes; ++c)
                if (c != largest) rest += exp_difference(logit(c), max);
            const double log = log1p(rest);
            const TermWeights weights(plan, 0);
            for (index_t c = 0; c < plan.classes; ++c) sum += weights[c] * ((max - logit(c)) + log);
        });
        return sum + plan.infinite_weight;
    }
    // Computes the same with entries that are not rounded, once for all types.
    [[gnu::noinline]] void take_scales_of(const Plan& plan, const SoftmaxBlock<Precision>& block,
                                          index_t at, ExpScale* __restrict softmax_scale,
                                          double* __restrict entry) const {
        const double all_class_weights = plan.all_class_weights();
        const double* const weights = block.loss_weights() + at;
        const auto take = [&](auto smooths) {
            for (index_t i = 0; i < count; ++i) {
                const Scale total = block.total_scale[at + i];
                const InverseSum<Scale> inverse = inverse_sum(i);
                softmax_scale[i] = over_sum(total, inverse);
                if constexpr (smooths)
                    entry[i] =
                        smoothed_entry_at_target(all_class_weights, block.scale(at + i), weights[i],
                                                 Scale{exp_pivot[i]}, others_of(i), inverse);
                else entry[i] = -share_of(others_of(i), total, inverse);
            }
        };
        if (is_smoothed<Precision>(plan)) take(std::bool_constant<Precision::smooths>());
        else take(std::false_type());
        std::fill(softmax_scale + count, softmax_scale + width, ExpScale{});
    }
    // Returns 1/S of sample i, whose pivot is taken out. Double: of what was summed, which is as
    // exact as can be.
    InverseSum<Scale> inverse_sum(index_t i) const {
        if constexpr (Precision::exact) return {sum[i], error[i]};
        else return {exp_pivot[i], others[i]};
    }
    // Returns Σ e^x of all classes but the pivot. Double: with what its difference rounds off.
    Scale others_of(index_t i) const {
        if constexpr (Precision::exact) {
            const double high = sum[i] - exp_pivot[i];
            const double low = two_diff_error(sum[i], exp_pivot[i], high) + error[i];
            return others[i] == 0 ? Scale{0} : Scale{high} + Scale{low};
        } else {
            return others[i];
        }
    }
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
