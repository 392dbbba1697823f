// SPDX-License-Identifier: BSD-3-Clause
// What is computed of one row, on ranges of its classes: for the loop over rows, and for the
// threads that share one. See tests/cpp/reference.hpp for its order of sums.
#pragma once

#include "entry_loops.hpp"
#include "gradient_writer.hpp"
#include "softmax_sums.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Stands for no work between the parts of a chunk, which is then one part.
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
    using ExpScale = typename Precision::ExpScale;

public:
    using Shift = ExpShift<Precision, 1>;
    // Holds what a row of results is made of, at `to`: a gradient, or softmax without a target, of
    // exponentials; log_softmax of logits, which are at `from`.
    struct Result {
        Scalar* to = nullptr;
        ExpScale softmax_scale{};
        Scale smoothing_scale{};
        index_t target = ignored;
        Scalar entry{};
        const Scalar* from = nullptr;
        LogSumExp log_sum{};
    };

    SoftmaxRow(const Plan& plan, Workspace<Scalar, Precision>& space)
        : plan_(plan), space_(space), writer_(plan, 1, 0, space.results, nullptr) {}

    Real logit_at(const Scalar* from, index_t c) const {
        return converted<Real>(from[c * plan_.class_stride[input]]);
    }
    // Returns the largest logit of classes [first, last), chunk by chunk; the first of equal ones.
    [[gnu::noinline]] Pivot find_max(const Scalar* from, index_t first, index_t last) {
        Pivot max{-infinity, 0};
        for_each_block(first, last, chunk_size, [&](index_t begin, index_t classes) {
            const double of_chunk = max_of(load(from, begin, classes), classes);
            if (of_chunk > max.logit) max = {of_chunk, begin / chunk_size};
        });
        return max;
    }
    static Shift shift_to(double max, bool smooths) {
        const auto logit = static_cast<Real>(max);
        return Shift(&logit, 1, smooths);
    }

    // Returns the sums of a chunk; its exponentials are stored to `kept`, (paired(classes),), if
    // there is a place for them. between(c) is called before each part of it.
    template <class Between>
    ExpSum sum_chunk(const Scalar* from, index_t first, index_t classes, const Shift& shift,
                     Exp* kept, Between&& between) {
        ExpSum chunk;
        const bool smooths = is_smoothed<Precision>(plan_);
        if (Precision::exact && smooths)
            chunk.smoothing = sum_smoothing(from, first, classes, shift);
        const auto row =
            compute_exps(from, first, classes, shift, kept, between, !Precision::exact && smooths);
        chunk.in_range = row.in_range();
        if constexpr (Precision::exact) {
            const auto sum = compensated_sum(row.sum, row.error);
            chunk.sum = sum.sum;
            chunk.error = sum.error;
        } else {
            chunk.sum = add_lanes(row.sum);
            if (smooths) chunk.smoothing = add_lanes(row.smoothing);
            if (plan_.softmax_result != SoftmaxResult::softmax) chunk.most = largest_lane(row.sum);
        }
        return chunk;
    }
    // Returns the sum of one chunk, given by its number.
    [[gnu::noinline]] double sum_of_chunk(const Scalar* from, index_t chunk, const Shift& shift) {
        const index_t first = chunk * chunk_size;
        const index_t classes = std::min(chunk_size, plan_.classes - first);
        return sum_chunk(from, first, classes, shift, nullptr, NoBetween()).sum;
    }
    // Returns the sum of a chunk without classes whose exponentials are exp_pivot; of Double.
    CompensatedSum compensated_others(const Scalar* from, index_t first, index_t classes,
                                      const Shift& shift, const Exp* kept, double exp_pivot) {
        const Exp* exps = exps_of(from, first, classes, shift, kept);
        return compensated_sum(classes,
                               [&](index_t c) { return exps[c] == exp_pivot ? Exp{0} : exps[c]; });
    }
    // Adds up the chunk of the pivot of a sample again, without it; with Double, all chunks.
    [[gnu::noinline]] void exclude_again(const Scalar* from, const Exp* kept, index_t i,
                                         SoftmaxSums<Precision>& sums) {
        if constexpr (Precision::exact) {
            ExpSum others;
            for_each_block(0, plan_.classes, chunk_size, [&](index_t first, index_t classes) {
                const auto chunk = compensated_others(from, first, classes, sums.shift_of(i), kept,
                                                      sums.exp_pivot[i]);
                add_chunk(others.sum, others.error, chunk.sum, chunk.error);
            });
            return sums.exclude_again(i, others);
        }
        const index_t first = sums.pivot_chunk_of[i] * chunk_size;
        const index_t classes = std::min(chunk_size, plan_.classes - first);
        const Exp* exps = exps_of(from, first, classes, sums.shift_of(i), kept);
        const auto exp_pivot = static_cast<Exp>(sums.exp_pivot[i]);
        sums.exclude_again(i, sum_without(exps, paired(classes), exp_pivot));
    }

    // Returns the exponentials of a chunk, (paired(classes),): those that were kept, or new ones.
    const Exp* exps_of(const Scalar* from, index_t first, index_t classes, const Shift& shift,
                       const Exp* kept) {
        return kept ? kept + first : store_exps(from, first, classes, shift, nullptr, NoBetween());
    }
    // Writes the results of classes [first, first + classes). exps: theirs; log_softmax needs none.
    [[gnu::noinline]] void write(const Result& row, const Exp* exps, index_t first,
                                 index_t classes) {
        Scalar* to = writer_.place_row(row.to, first);
        if (row.from) {
            subtract_log_sum(load(row.from, first, classes), classes, row.log_sum, to);
        } else if (!is_smoothed<Precision>(plan_)) {
            scale_row(exps, classes, row.softmax_scale, to);
        } else {
            const double* weights = plan_.class_weights ? plan_.class_weights + first : nullptr;
            smoothed_row(exps, classes, row.softmax_scale, row.smoothing_scale, weights, to);
        }
        const index_t target = row.target - first;
        if (target >= 0 && target < classes) to[target] = row.entry;
        writer_.commit_row(row.to, first, classes, to);
    }
    [[gnu::noinline]] void write_zeros(Scalar* row, index_t first, index_t classes) {
        Scalar* to = writer_.place_row(row, first);
        std::fill_n(to, classes, Scalar{});
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
    // Computes the exponentials of a chunk, and stores them to `kept` unless that is nullptr;
    // `smooths`: and adds up w·(x - shift). Before each part of it, between(classes of the row up
    // to its end) is called.
    template <class Between>
    RowLanes<Precision> compute_exps(const Scalar* from, index_t first, index_t classes,
                                     const Shift& shift, Exp* kept, Between&& between,
                                     bool smooths = false) {
        RowLanes<Precision> row;
        const auto compute_all = [&](const auto* logits) {
            // The last classes are copied early, since loads of a few numbers that were just stored
            // one by one would wait.
            const index_t rest = classes % pair_size, end = classes - rest;
            const LastClasses<Precision> last(logits + end, rest), none{};
            for_each_block(0, classes, between.step(), [&](index_t at, index_t count) {
                between(first + at + count);
                const auto compute = [&](auto clamped, auto keeps, auto smoothed) {
                    exps_of_row<clamped, keeps, smoothed>(
                        logits + at, std::min(count, end - at), at + count == classes ? last : none,
                        shift, far_ahead(from, first + at), (kept ? kept : space_.exps) + at, row,
                        TermWeights(plan_, first + at));
                };
                // Clamped rows, which are few, keep theirs in any case.
                const auto choose = [&](auto smoothed) {
                    if (shift.clamps()) compute(std::true_type(), std::true_type(), smoothed);
                    else if (kept) compute(std::false_type(), std::true_type(), smoothed);
                    else compute(std::false_type(), std::false_type(), smoothed);
                };
                if (smooths) choose(std::bool_constant<Precision::fused>());
                else choose(std::false_type());
            });
            const TermWeights weights(plan_, first + end);
            for (index_t c = 0; c < rest && smooths; ++c)
                row.smoothing[c % lanes] += weights[c] * (last.logits[c] - shift.shift(0));
        };
        // Narrower logits in double, which are rare, are copied: they need no code of their own.
        if constexpr (!Precision::exact || std::same_as<Scalar, Real>)
            if (plan_.class_stride[input] == 1) {
                compute_all(from + first);
                return row;
            }
        compute_all(load(from, first, classes));
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
    // Returns what to prefetch with class c: further on in this row, or in the next where it ends.
    const std::byte* far_ahead(const Scalar* from, index_t c) const {
        c += row_far_ahead / index_t{sizeof(Scalar)};
        return reinterpret_cast<const std::byte*>(
            c < plan_.classes ? from + c * plan_.class_stride[input]
                              : from + plan_.samples.stride(input) + (c - plan_.classes));
    }
    // Returns Σ w·(x - shift) of a chunk, in smoothing units, with what its additions round off.
    double sum_smoothing(const Scalar* from, index_t first, index_t classes, const Shift& shift) {
        constexpr double unit = Precision::smoothing_unit;
        const Real* __restrict logits = load(from, first, classes);
        const double center = shift.shift(0) / unit;
        const double* __restrict weights = plan_.finite_weights;
        const auto term = [&](index_t c) { return logits[c] / unit - center; };
        const auto weighted = [&](index_t c) { return weights[first + c] * term(c); };
        const auto sum =
            weights ? compensated_sum(classes, weighted) : compensated_sum(classes, term);
        return compensated_total(sum.sum, sum.error);
    }

    const Plan& plan_;
    Workspace<Scalar, Precision>& space_;
    GradientWriter<Scalar> writer_;
};

// Sums a row: sum() does so with `shift`, and tells whether all exponentials were in range. If not,
// or if the largest logit is needed anyway, shift_of_max() returns one for that, and
// the row is summed again. The next rows, which are likely to be alike, begin with this shift.
template <class Shift, class Sum, class ShiftOfMax>
void sum_with_valid_shift(bool needs_max, Shift& shift, Sum&& sum, ShiftOfMax&& shift_of_max) {
    if (!needs_max && !shift.clamps() && sum()) return;
    shift = shift_of_max();
    sum();
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
