// SPDX-License-Identifier: BSD-3-Clause
// What is computed of one row, on ranges of its classes: for the loop over rows, and for the
// threads that share one. See tests/cpp/reference.hpp for its order of sums.
#pragma once

#include "gradient_writer.hpp"
#include "lane_sums.hpp"
#include "softmax_block.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Does nothing between the parts of a chunk, which is then one.
struct NoBetween {
    static index_t step() { return chunk_size; }
    void operator()(index_t) const {}
};

// Works on ranges of the classes of one row, for the loop below and for the rows that threads
// share. A row's pointers are those of its class 0: `from` in input, `to` in the gradient.
template <class Scalar, class Precision> class SoftmaxRow {
    using Real = typename Precision::Real;
    using Exp = typename Precision::Exp;
    using Scale = typename Precision::Scale;

public:
    using Shift = ExpShift<Precision, 1>;
    // Holds what the gradient of a row is made of, beside its exponentials.
    struct Gradient {
        Scalar* to = nullptr;
        Scale softmax_scale{}, smoothing_scale{};
        index_t target = ignored;
        Scalar entry{};
    };

    SoftmaxRow(const Plan& plan, Workspace<Scalar, Precision>& space)
        : plan_(plan), space_(space), writer_(plan, 1, 0, space.results, nullptr) {}

    Pivot pivot_at(const Scalar* from, index_t c) const {
        return {converted<Real>(from[c * plan_.class_stride[input]]), c / chunk_size};
    }
    // Returns the largest logit of classes [first, last), chunk by chunk; the first of equal ones.
    Pivot find_max(const Scalar* from, index_t first, index_t last) {
        Pivot max{-infinity, 0};
        for_each_block(first, last, chunk_size, [&](index_t begin, index_t classes) {
            const double of_chunk = max_of(load(from, begin, classes), classes);
            if (of_chunk > max.logit) max = {of_chunk, begin / chunk_size};
        });
        return max;
    }
    static Shift shift_to(double max) {
        const auto logit = static_cast<Real>(max);
        return Shift(&logit, 1);
    }

    // Returns the sums of a chunk; its exponentials are stored to `kept`, (paired(classes),), if
    // there is a place for them. between(c) is called before each part of it.
    template <class Between>
    ExpSum sum_chunk(const Scalar* from, index_t first, index_t classes, const Shift& shift,
                     Exp* kept, Between&& between) {
        ExpSum chunk;
        if (plan_.smooths()) chunk.smoothing = sum_smoothing(from, first, classes, shift);
        if constexpr (Precision::exact) {
            const Exp* exps = store_exps(from, first, classes, shift, kept, between);
            const auto sum = compensated_sum(paired(classes), [&](index_t c) { return exps[c]; });
            chunk.sum = sum.sum;
            chunk.error = sum.error;
        } else {
            const auto row = compute_exps(from, first, classes, shift, kept, between);
            chunk.sum = add_lanes(row.sum);
            chunk.in_range = row.in_range();
        }
        return chunk;
    }
    // Takes the pivot out of the sum of all chunks. kept: the row's exponentials, or nullptr.
    void exclude_pivot(const Scalar* from, const Shift& shift, const Pivot& pivot, const Exp* kept,
                       ExpSum& sum) {
        sum.sum = defined_sum(sum.sum);
        sum.exp_pivot = shift.exp_at(static_cast<Real>(pivot.logit), 0);
        if (!Precision::exact && !leaves_enough(sum.sum, sum.exp_pivot)) {
            const index_t first = pivot.chunk * chunk_size;
            const index_t classes = std::min(chunk_size, plan_.classes - first);
            const Exp* exps = exps_of(from, first, classes, shift, kept);
            const auto exp_pivot = static_cast<Exp>(sum.exp_pivot);
            const double others = sum_without(exps, paired(classes), exp_pivot);
            sum.error += error_of_chunk(sum.exp_pivot, sum.pivot_chunk, others);
        }
        sum.others = sum_others<Precision>(sum.sum, sum.error, sum.exp_pivot);
    }

    static LogSumExp log_sum_of(const ExpSum& sum, const Pivot& pivot, const Shift& shift) {
        return log_sum_exp<Precision>(sum.sum, sum.error, sum.exp_pivot, sum.others, pivot.logit,
                                      shift.shift(0), Shift::scale);
    }
    double loss_of(const ExpSum& sum, const Pivot& pivot, const Shift& shift, double weight) const {
        const LogSumExp log_sum = log_sum_of(sum, pivot, shift);
        const double loss = negative_log_softmax(log_sum, pivot.logit);
        if (!plan_.smooths()) return loss;
        return smoothed_loss(plan_, loss, weight, sum.smoothing, log_sum, shift.shift(0));
    }
    Gradient gradient_of(Scalar* to, const ExpSum& sum, const SoftmaxBlock<Precision>& block,
                         index_t i) const {
        const Scale inverse = inverse_sum<Scale>(sum.exp_pivot, sum.others);
        const double entry = entry_at_target(plan_, block.scale(i), block.class_weight(i),
                                             sum.exp_pivot, sum.others, inverse);
        return {to, block.total_scale[i] * inverse, block.smoothing_scale[i], block.classes[i],
                rounded_entry<Scalar>(entry)};
    }

    // Returns what a row of softmax is made of: a gradient without a target.
    static Gradient softmax_of(Scalar* to, const ExpSum& sum) {
        return {to, inverse_sum<Scale>(sum.exp_pivot, sum.others)};
    }
    // Returns log Σ e^x, from that of a softmax; where there is none, what the largest logit says.
    double log_sum_of_logits(const Scalar* from, const LogSumExp& log_sum) const {
        const double sum = log_sum.center + log_sum.log;
        if (sum == sum) return sum;
        double max = -infinity;
        for (index_t c = 0; c < plan_.classes; ++c) {
            const double x = to_double(from[c * plan_.class_stride[input]]);
            if (x != x) return x;
            max = std::max(max, x);
        }
        return max;
    }

    // Returns the exponentials of a chunk, (paired(classes),): those that were kept, or new ones.
    const Exp* exps_of(const Scalar* from, index_t first, index_t classes, const Shift& shift,
                       const Exp* kept) {
        return kept ? kept + first : store_exps(from, first, classes, shift, nullptr, NoBetween());
    }
    // Writes the gradient of classes [first, first + classes) from their exponentials.
    void write_gradient(const Gradient& row, const Exp* exps, index_t first, index_t classes) {
        Scalar* to = writer_.place_row(row.to, first);
        if (!plan_.smooths()) {
            scale_row(exps, classes, row.softmax_scale, to);
        } else {
            const double* weights =
                plan_.weight ? class_weights_of(plan_, first, classes, space_.class_weights)
                             : nullptr;
            smoothed_row(exps, classes, row.softmax_scale, row.smoothing_scale, weights, to);
        }
        const index_t target = row.target - first;
        if (target >= 0 && target < classes) to[target] = row.entry;
        writer_.commit_row(row.to, first, classes, to);
    }
    void write_zeros(Scalar* row, index_t first, index_t classes) {
        Scalar* to = writer_.place_row(row, first);
        std::fill_n(to, classes, Scalar{});
        writer_.commit_row(row, first, classes, to);
    }
    void write_log_softmax(const Scalar* from, Scalar* row, index_t first, index_t classes,
                           const LogSumExp& log_sum) {
        const Real* logits = load(from, first, classes);
        Scalar* to = writer_.place_row(row, first);
        for (index_t c = 0; c < classes; ++c)
            to[c] = from_double<Scalar>((logits[c] - log_sum.center) - log_sum.log);
        writer_.commit_row(row, first, classes, to);
    }
    void finish() { writer_.finish(); }

private:
    // Returns the logits of a chunk, (classes,): where they are, or copied to the workspace.
    const Real* load(const Scalar* from, index_t first, index_t classes) {
        const index_t stride = plan_.class_stride[input];
        if constexpr (std::same_as<Scalar, Real>)
            if (stride == 1) return from + first;
        copy_values(from + first * stride, stride, 0, space_.logits, 1, 0, classes, 1);
        return space_.logits;
    }
    // Computes the exponentials of a chunk, and stores them to `kept` unless that is nullptr.
    // Before each part of it, between(classes of the row up to its end) is called.
    template <class Between>
    RowLanes<Precision> compute_exps(const Scalar* from, index_t first, index_t classes,
                                     const Shift& shift, Exp* kept, Between&& between) {
        RowLanes<Precision> row;
        const auto compute = [&](const auto* logits, index_t at, index_t count, auto clamped) {
            if (count == 0) return;
            const std::byte* ahead = far_ahead(from, first + at);
            if (kept) exps_of_row<clamped, true>(logits, count, shift, ahead, kept + at, row);
            else exps_of_row<clamped, false>(logits, count, shift, ahead, kept, row);
        };
        const auto compute_all = [&](const auto* logits) {
            for_each_block(0, classes, between.step(), [&](index_t at, index_t count) {
                between(first + at + count);
                const index_t whole = count / pair_size * pair_size;
                if (shift.clamps()) compute(logits + at, at, whole, std::true_type());
                else compute(logits + at, at, whole, std::false_type());
                if (whole == count) return;
                alignas(cache_line) Real last[pair_size];  // filled up with what is to be clamped
                std::fill_n(last, pair_size, -std::numeric_limits<Real>::infinity());
                for (index_t c = whole; c < count; ++c)
                    last[c - whole] = converted<Real>(logits[at + c]);
                compute(last, at + whole, pair_size, std::true_type());
            });
        };
        if (plan_.class_stride[input] == 1) compute_all(from + first);
        else compute_all(load(from, first, classes));
        return row;
    }
    // Stores the exponentials of a chunk to `kept`, or else to the workspace, and returns them.
    template <class Between>
    const Exp* store_exps(const Scalar* from, index_t first, index_t classes, const Shift& shift,
                          Exp* kept, Between&& between) {
        Exp* const exps = kept ? kept : space_.exps;
        compute_exps(from, first, classes, shift, exps, between);
        return exps;
    }
    // Returns what is to be prefetched with class c: of this row, or beyond its end of the next.
    const std::byte* far_ahead(const Scalar* from, index_t c) const {
        c += row_far_ahead / index_t{sizeof(Scalar)};
        return reinterpret_cast<const std::byte*>(
            c < plan_.classes ? from + c * plan_.class_stride[input]
                              : from + plan_.samples.stride(input) + (c - plan_.classes));
    }
    // Returns Σ w·(shift - x) of a chunk.
    double sum_smoothing(const Scalar* from, index_t first, index_t classes, const Shift& shift) {
        const Real* __restrict logits = load(from, first, classes);
        const double center = shift.shift(0);
        const auto sum = [&](auto&& term) {
            if constexpr (!Precision::exact) return plain_lane_sum(classes, term);
            const auto sum = compensated_sum(classes, term);
            return compensated_total(sum.sum, sum.error);
        };
        if (plan_.weight) {
            const double* __restrict weights =
                finite_weights_of(plan_, first, classes, space_.class_weights);
            return sum([&](index_t c) { return weights[c] * (center - logits[c]); });
        }
        if (center != 0) return sum([&](index_t c) { return center - logits[c]; });
        return sum([&](index_t c) { return -static_cast<double>(logits[c]); });
    }

    const Plan& plan_;
    Workspace<Scalar, Precision>& space_;
    GradientWriter<Scalar> writer_;
};

// Sums a row: sum(shift) from the shift at hand, and if its exponentials were out of range, again
// from the row's maximum, find_max(). Rows after it, which are likely to be alike, begin with that.
template <class Precision, class Shift, class Sum, class FindMax>
ExpSum sum_with_valid_shift(index_t classes, Shift& shift, Sum&& sum, FindMax&& find_max) {
    if (!Precision::exact && !shift.clamps()) {
        const ExpSum found = sum();
        if (found.in_range && Shift::sum_in_range(found.sum, classes)) return found;
    }
    shift = find_max();
    return sum();
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
