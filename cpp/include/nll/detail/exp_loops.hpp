// SPDX-License-Identifier: BSD-3-Clause
// The exponentials of buffers, added up or kept: compute over memory that is in the first cache,
// and no decision.
#pragma once

#include "plan.hpp"
#include "simd/exp_bfloat16.hpp"
#include "simd/transpose.hpp"
#include "weights.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Pairs of lanes: rows are padded to them, and single terms of a pair are added first.
inline constexpr index_t pair_size = 2 * lanes;
constexpr index_t paired(index_t count) { return (count + pair_size - 1) / pair_size * pair_size; }

// Raises seen, (lanes,), to logits, (lanes,), if those far below have an exponential, which is 0,
// else to |logits|; NaN does not count.
template <bool any_below, class Real>
[[gnu::always_inline]] inline void raise_seen(const Real* logits, Real* seen) {
    NLL_ONE_VECTOR for (int l = 0; l < lanes; ++l) {
        const Real size = any_below ? logits[l] : std::fabs(logits[l]);
        seen[l] = seen[l] < size ? size : seen[l];
    }
}
// Tells whether all logits had exponentials, from what raise_seen noted, (lanes,). Where powers
// saturate, a logit without one makes the sum infinite or NaN, which is seen anyway: then nothing
// is noted.
template <class Precision, class Seen> bool all_in_range(const Seen* seen) {
    if constexpr (Precision::by_eighths && Vec::exp2_saturates) {
        return true;
    } else {
        Seen all = seen[0];
        for (int l = 1; l < lanes; ++l) all = Precision::join(all, seen[l]);
        return ExpShift<Precision, 1>::all_in_range(all);
    }
}

// Calls visit(k) for the vectors of `count` numbers: unrolled, so that what they add to stays in
// registers: 10 to 30 % faster with AVX2. Where vectors are of two doubles, Double's code would be
// five times as large.
template <class Precision, int count, class Visit>
[[gnu::always_inline]] inline void for_each_vec(Visit&& visit) {
    if constexpr (Precision::exact && Vec::size < 8) {
        NLL_ONE_VECTOR for (int k = 0; k < count; k += Vec::size) visit(k);
    } else {
        NLL_UNROLL for (int k = 0; k < count; k += Vec::size) visit(k);
    }
}

// ---------------------------------------------------------------- a row

// Accumulates a row by lanes.
template <class Precision> struct RowLanes {
    using Shift = ExpShift<Precision, 1>;
    double sum[lanes] = {};                           // of exponentials
    double error[Precision::exact ? lanes : 1] = {};  // what its additions round off
    double smoothing[lanes] = {};                     // of w·(x - shift)
    typename Shift::Seen seen[lanes];

    RowLanes() { std::fill_n(seen, lanes, Shift::none_seen); }
    bool in_range() const { return all_in_range<Precision>(seen); }
};

// Holds the last classes of a row, fewer than a pair of lanes, filled up with -inf.
template <class Precision> struct LastClasses {
    using Real = typename Precision::Real;
    index_t count = 0;  // (count,): whole pairs of lanes, by eighths whole lanes
    alignas(cache_line) Real logits[pair_size];

    LastClasses() = default;
    template <class Scalar> LastClasses(const Scalar* from, index_t classes) {
        count = Precision::by_eighths ? padded(classes) : paired(classes);
        for (index_t c = 0; c < pair_size; ++c)
            logits[c] =
                c < classes ? converted<Real>(from[c]) : -std::numeric_limits<Real>::infinity();
    }
};

// Computes e^(x - shift)·scale of logits, (classes,), whole pairs of lanes, and then of `last`,
// clamped, and adds them to `row`. `keeps`: stores them to exps, (paired(classes + last),).
// `smooths`: adds w·(x - shift) of logits, too; only Single does. With every 16 logits it asks for
// the cache line row_ahead bytes on, and for that of as many logits from `far_ahead` on.
template <bool clamped, bool keeps, bool smooths = false, class Scalar, class Precision>
[[gnu::noinline]] void exps_of_row(const Scalar* __restrict logits, index_t classes,
                                   const LastClasses<Precision>& last,
                                   const ExpShift<Precision, 1>& row_shift,
                                   const std::byte* far_ahead,
                                   typename Precision::Exp* __restrict exps,
                                   RowLanes<Precision>& row,
                                   [[maybe_unused]] TermWeights weights = {}) {
    static_assert(Precision::fused || !smooths);
    using Real = typename Precision::Real;
    const ExpShift<Precision, 1> shift = row_shift;  // its own memory, which no store changes
    RowLanes<Precision> found = row;
    [[maybe_unused]] Vec sum[lanes / Vec::size], error[lanes / Vec::size],
        smoothing[lanes / Vec::size];
    if constexpr (Precision::by_eighths)
        for (int l = 0; l < lanes; l += Vec::size) {
            sum[l / Vec::size] = Vec::load(found.sum + l);
            if constexpr (Precision::exact) error[l / Vec::size] = Vec::load(found.error + l);
            smoothing[l / Vec::size] = Vec::load(found.smoothing + l);
        }
    // Computes the exponentials of a pair of lanes, or of one, from class c on.
    const auto compute = [&](const auto* from, index_t c, auto group, auto clamps,
                             auto adds_terms) __attribute__((always_inline)) {
        constexpr index_t size = group.value;
        [[maybe_unused]] Real converted_pair[size];
        const Real* pair = converted_pair;
        if constexpr (std::same_as<decltype(from), const Real*>) pair = from;
        else
            for (int l = 0; l < size; ++l) converted_pair[l] = converted<Real>(from[l]);
        if constexpr (Precision::by_eighths) {
            for_each_vec<Precision, size>([&](int l) __attribute__((always_inline)) {
                const auto x = shift.template shifted<clamps>(pair + l, 0);
                const ExpParts parts = Precision::template parts<clamps>(x);
                [[maybe_unused]] const Vec exp = Precision::exp(parts);
                if constexpr (keeps) exp.store(exps + c + l);
                if constexpr (adds_terms) {
                    Vec& terms = smoothing[l % lanes / Vec::size];
                    terms = terms + Vec::load(weights.of_pair(c) + l) * x;
                }
                Vec& total = sum[l % lanes / Vec::size];
                if constexpr (Precision::fused)
                    total = multiply_add(parts.power, parts.fraction, total);
                else compensated_add(total, error[l % lanes / Vec::size], exp);
            });
            if constexpr (!Vec::exp2_saturates)
                for (index_t half = 0; half < size; half += lanes)
                    raise_seen<clamps || Precision::any_below>(pair + half, found.seen);
        } else {
            NLL_ONE_VECTOR for (int l = 0; l < lanes; ++l) {
                const auto exp = shift.template exp<clamps>(pair[l], 0, found.seen[l]);
                const auto next = shift.template exp<clamps>(pair[lanes + l], 0, found.seen[l]);
                if constexpr (keeps) {
                    exps[c + l] = exp;
                    exps[c + lanes + l] = next;
                }
                found.sum[l] += static_cast<double>(exp + next);
            }
        }
    };
    constexpr index_t group = Precision::by_eighths ? index_t{lanes} : pair_size;
    for (index_t c = 0; c < classes; c += pair_size) {
        for (index_t half = 0; half < pair_size; half += lanes) {
            prefetch(logits + c + half + row_ahead / index_t{sizeof(Scalar)});
            prefetch_far(far_ahead);
            far_ahead += lanes * sizeof(Scalar);
        }
        compute(logits + c, c, std::integral_constant<index_t, pair_size>(),
                std::bool_constant<clamped>(), std::bool_constant<smooths>());
    }
    for (index_t c = 0; c < last.count; c += group)
        compute(last.logits + c, classes + c, std::integral_constant<index_t, group>(),
                std::true_type(), std::false_type());
    if constexpr (keeps) {
        const index_t end = classes + last.count;
        std::fill_n(exps + end, paired(end) - end, typename Precision::Exp{0});
    }
    if constexpr (Precision::by_eighths)
        for (int l = 0; l < lanes; l += Vec::size) {
            sum[l / Vec::size].store(found.sum + l);
            if constexpr (Precision::exact) error[l / Vec::size].store(found.error + l);
            if constexpr (smooths) smoothing[l / Vec::size].store(found.smoothing + l);
        }
    row = found;
}

// ---------------------------------------------------------------- a tile

// Computes e^(x - shift)·scale of logits, (classes, pitch), of samples in whole lanes. Stores them
// to exps, (classes, exps_pitch). Adds them to sums, (samples,), one after the other, Double what
// that rounds off to errors, (samples,); or, if lane_pitch is not 0, to lanes of classes, (lanes,
// lane_pitch), Double to nothing. `smooths`: adds w·(x - shift) one after the other to smoothing,
// (samples,), which is of Single and without lanes. Prefetches `samples` elements of each class
// from `ahead` on, ahead_step apart. Returns whether every logit had an exponential.
template <bool clamped, class Precision, bool smooths = false, class Scalar>
[[gnu::noinline]] bool exps_of_tile(const typename Precision::Real* logits, index_t classes,
                                    index_t samples, index_t pitch,
                                    const ExpShift<Precision, max_tile_samples>& shift,
                                    const Scalar* ahead, index_t ahead_step,
                                    typename Precision::Exp* exps, index_t exps_pitch,
                                    double* __restrict sums, double* __restrict errors,
                                    index_t lane_pitch, [[maybe_unused]] TermWeights weights = {},
                                    [[maybe_unused]] double* __restrict smoothing = nullptr) {
    static_assert(Precision::fused || !smooths);
    constexpr index_t line = cache_line / index_t{sizeof(Scalar)};
    bool in_range = true;
    // Computes samples of one or two groups of lanes, class after class.
    const auto compute = [&](index_t first, auto groups, auto by_lanes) {
        constexpr int count = groups.value * lanes;
        using Shift = ExpShift<Precision, max_tile_samples>;
        typename Shift::Seen seen[lanes];
        std::fill_n(seen, lanes, Shift::none_seen);
        const auto for_each_class = [&](auto&& visit) {
            for (index_t c = 0; c < classes; ++c) {
                for (index_t i = first; i < first + count; i += line)
                    prefetch(ahead + c * ahead_step + i);
                visit(c, logits + c * pitch + first, exps + c * exps_pitch + first);
            }
        };
        if constexpr (Precision::by_eighths) {
            [[maybe_unused]] Vec sum[count / Vec::size], error[count / Vec::size],
                terms[count / Vec::size];
            for (int k = 0; k < count; k += Vec::size) {
                if constexpr (!by_lanes) sum[k / Vec::size] = Vec::load(sums + first + k);
                if constexpr (!by_lanes && Precision::exact)
                    error[k / Vec::size] = Vec::load(errors + first + k);
                if constexpr (smooths) terms[k / Vec::size] = Vec::load(smoothing + first + k);
            }
            for_each_class([&](index_t c, const auto* __restrict from, auto* __restrict to) {
                [[maybe_unused]] double* lane = sums + c % lanes * lane_pitch + first;
                [[maybe_unused]] const Vec weight = smooths ? Vec(weights[c]) : Vec(0.0);
                for_each_vec<Precision, count>([&](int k) __attribute__((always_inline)) {
                    const auto x = shift.template shifted<clamped>(from + k, first + k);
                    const ExpParts parts = Precision::template parts<clamped>(x);
                    if constexpr (smooths) {
                        Vec& term = terms[k / Vec::size];
                        term = term + weight * x;
                    }
                    const Vec exp = Precision::exp(parts);
                    exp.store(to + k);
                    if constexpr (Precision::exact) {
                        if constexpr (!by_lanes)
                            compensated_add(sum[k / Vec::size], error[k / Vec::size], exp);
                    } else if constexpr (by_lanes) {
                        multiply_add(parts.power, parts.fraction, Vec::load(lane + k))
                            .store(lane + k);
                    } else {
                        Vec& total = sum[k / Vec::size];
                        total = multiply_add(parts.power, parts.fraction, total);
                    }
                });
                if constexpr (!Vec::exp2_saturates && !clamped)
                    for (int k = 0; k < count; k += lanes)
                        raise_seen<Precision::any_below>(from + k, seen);
            });
            for (int k = 0; k < count; k += Vec::size) {
                if constexpr (!by_lanes) sum[k / Vec::size].store(sums + first + k);
                if constexpr (!by_lanes && Precision::exact)
                    error[k / Vec::size].store(errors + first + k);
                if constexpr (smooths) terms[k / Vec::size].store(smoothing + first + k);
            }
        } else {
            alignas(cache_line) double sum[count];
            std::copy_n(sums + first, count, sum);
            for_each_class([&](index_t, const auto* __restrict from, auto* __restrict to) {
                NLL_ONE_VECTOR for (int l = 0; l < lanes; ++l) {
                    NLL_UNROLL for (int k = l; k < count; k += lanes) {
                        to[k] = shift.template exp<clamped>(from[k], first + k, seen[l]);
                        sum[k] += static_cast<double>(to[k]);
                    }
                }
            });
            std::copy_n(sum, count, sums + first);
        }
        in_range &= all_in_range<Precision>(seen);
    };
    const auto compute_all = [&](auto by_lanes) {
        index_t first = 0;
        for (; first + 2 * lanes <= samples; first += 2 * lanes)
            compute(first, std::integral_constant<int, 2>(), by_lanes);
        if (first < samples) compute(first, std::integral_constant<int, 1>(), by_lanes);
    };
    constexpr bool may_be_by_lanes = Precision::by_eighths && !smooths;
    if (may_be_by_lanes && lane_pitch != 0) compute_all(std::bool_constant<may_be_by_lanes>());
    else compute_all(std::false_type());
    return in_range;
}

// Computes e^(x - shift)·scale of one logit of each sample, clamped. logits, exps: (samples,),
// whole lanes.
template <class Precision>
void exps_of_samples(const typename Precision::Real* logits, index_t samples,
                     const ExpShift<Precision, max_tile_samples>& shift, double* exps) {
    for (index_t i = 0; i < samples; i += lanes) {
        NLL_STORES;
        if constexpr (Precision::by_eighths) {
            for (index_t k = i; k < i + lanes; k += Vec::size) {
                const auto x = shift.template shifted<true>(logits + k, k);
                Precision::exp(Precision::template parts<true>(x)).store(exps + k);
            }
        } else {
            auto unused = shift.none_seen;
            for (index_t k = i; k < i + lanes; ++k)
                exps[k] = static_cast<double>(shift.template exp<true>(logits[k], k, unused));
        }
    }
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
