// SPDX-License-Identifier: BSD-3-Clause
// Sums over classes in their one order, whatever the layout, the threads and the processor: chunks
// of chunk_size classes; in a chunk 16 lanes, the class modulo 16; the lanes in a tree; the chunks
// one after the other. Sums of up to max_sequential_classes are one chain of additions. Computed
// in two ways: of a row, many classes of one sample side by side; and of a tile, class after class
// of many samples. tests/cpp/reference.hpp is the order in scalar code.
#pragma once

#include "exp_loops.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Joins `count` lanes in a tree: each with that half as many places on.
template <int count, class Number, class Join>
[[gnu::always_inline]] inline Number join_lanes(const Number* lane, Join&& join) {
    if constexpr (count == 1) {
        return lane[0];
    } else {
        Number joined[count / 2];
        for (int l = 0; l < count / 2; ++l) joined[l] = join(lane[l], lane[count / 2 + l]);
        return join_lanes<count / 2>(joined, join);
    }
}
[[gnu::always_inline]] inline double add_lanes(const double* lane) {
    return join_lanes<lanes>(lane, [](double a, double b) { return a + b; });
}
[[gnu::always_inline]] inline double largest_lane(const double* lane) {
    return join_lanes<lanes>(lane, [](double a, double b) { return a < b ? b : a; });
}

// ---------------------------------------------------------------- rows

struct CompensatedSum {
    double sum, error;
};

// Returns the sum of lanes, and as its error the sum of `lost` and of what adding up lanes rounds
// off.
[[gnu::always_inline]] inline CompensatedSum compensated_sum(const double* lane,
                                                             const double* lost) {
    double sum[lanes], error[lanes];
    std::copy_n(lane, lanes, sum);
    std::copy_n(lost, lanes, error);
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) {
            compensated_add(sum[l], error[l], sum[l + half]);
            error[l] += error[l + half];
        }
    return {sum[0], error[0]};
}

// Returns Σ term(c) over c < classes, with what its additions round off.
template <class Term> CompensatedSum compensated_sum(index_t classes, Term&& term) {
    double sum[lanes] = {}, error[lanes] = {};
    const index_t whole = classes / lanes * lanes;
    for (index_t c = 0; c < whole; c += lanes) {
        NLL_ONE_VECTOR for (int l = 0; l < lanes; ++l)
            compensated_add(sum[l], error[l], term(c + l));
    }
    for (index_t c = whole; c < classes; ++c)
        compensated_add(sum[c - whole], error[c - whole], term(c));
    return compensated_sum(sum, error);
}

// Returns the sum of all exponentials but those equal to the pivot's. exps: (classes,), whole
// pairs.
template <class Exp>
[[gnu::noinline]] double sum_without(const Exp* exps, index_t classes, Exp exp_pivot) {
    const auto other = [&](index_t c) { return exps[c] == exp_pivot ? Exp{0} : exps[c]; };
    double lane[lanes] = {};
    for (index_t c = 0; c < classes; c += pair_size)
        for (int l = 0; l < lanes; ++l)
            lane[l] += static_cast<double>(other(c + l) + other(c + lanes + l));
    return add_lanes(lane);
}

// Returns the largest of (classes,) logits.
template <class Real>
[[gnu::noinline]] Real max_of(const Real* __restrict logits, index_t classes) {
    constexpr int wide = 4 * lanes;  // chains of comparisons, each step of which waits for the last
    Real max[wide];
    std::fill_n(max, wide, -std::numeric_limits<Real>::infinity());
    const auto raise = [&](index_t c, auto count) {
        for (int l = 0; l < count; ++l) max[l] = max[l] < logits[c + l] ? logits[c + l] : max[l];
    };
    index_t c = 0;
    for (; c + wide <= classes; c += wide) raise(c, std::integral_constant<int, wide>());
    for (; c + lanes <= classes; c += lanes) raise(c, std::integral_constant<int, lanes>());
    // The last few together with some before them.
    if (c < classes && classes >= lanes)
        raise(classes - lanes, std::integral_constant<int, lanes>());
    for (; c < classes && classes < lanes; ++c) max[0] = max[0] < logits[c] ? logits[c] : max[0];
    return join_lanes<wide>(max, [](Real a, Real b) { return a < b ? b : a; });
}

// ---------------------------------------------------------------- tiles

// Raises max, (samples,), to the largest of logits, (classes, pitch).
template <class Real>
[[gnu::noinline]] void raise_to_max(const Real* logits, index_t classes, index_t samples,
                                    index_t pitch, Real* __restrict max) {
    for (index_t c = 0; c < classes; ++c) {
        const Real* __restrict from = logits + c * pitch;
        for (index_t i = 0; i < samples; ++i) max[i] = max[i] < from[i] ? from[i] : max[i];
    }
}

// Adds up lanes of classes of up to max_tile_samples samples; compensated ones beside what their
// additions round off.
template <bool compensated> class LaneSums {
public:
    static constexpr index_t pitch = max_tile_samples;

    // Begins sums of so many samples.
    void begin(index_t samples) {
        samples_ = samples;
        filled_ = 0;
    }
    // Sets all lanes to 0, to be added to from outside.
    void clear()
        requires(!compensated)
    {
        for (filled_ = 0; filled_ < lanes; ++filled_)
            std::fill_n(sum + filled_ * pitch, samples_, 0.0);
    }
    // Adds term(c, i) of classes [0, classes), those of a pair of lanes together. Classes come in
    // whole pairs of lanes unless they are the last.
    template <class Term> void add_pairs(index_t classes, Term&& term) {
        for (index_t first = 0; first < classes; first += pair_size)
            for (index_t k = 0; k < std::min(lanes, classes - first); ++k) {
                const index_t c = first + k, next = c + lanes;
                fill(k);
                if (next >= classes) add_lane(k, [&](index_t i) { return term(c, i); });
                else add_lane(k, [&](index_t i) { return term(c, i) + term(next, i); });
            }
    }
    // Adds term(c, i) of classes [0, classes) one by one, i up to whole lanes of samples. A lane's
    // sums of some samples stay in registers.
    template <class Term> void add_each(index_t classes, Term&& term) {
        for (index_t k = 0; k < std::min(lanes, classes); ++k) {
            fill(k);
            for (index_t first = 0; first < samples_; first += lanes) {
                double* const to = sum + k * pitch + first;
                double* const error_to = error + (compensated ? k * pitch + first : 0);
                double total[lanes], lost[lanes] = {};
                std::copy_n(to, lanes, total);
                if constexpr (compensated) std::copy_n(error_to, lanes, lost);
                for (index_t c = k; c < classes; c += lanes) {
                    NLL_ONE_GROUP_OF_LANES;
                    for (int l = 0; l < lanes; ++l) {
                        const auto value = static_cast<double>(term(c, first + l));
                        if constexpr (compensated) compensated_add(total[l], lost[l], value);
                        else total[l] += value;
                    }
                }
                std::copy_n(total, lanes, to);
                if constexpr (compensated) std::copy_n(lost, lanes, error_to);
            }
        }
    }
    // Adds up the lanes in a tree: sum[i] and error[i] are then those of sample i.
    [[gnu::noinline]] void finish() {
        for (index_t half = lanes / 2; half > 0; half /= 2) {
            for (index_t k = 0; k < filled_ - half; ++k) {
                add_lane(k, [&](index_t i) { return sum[(k + half) * pitch + i]; });
                if constexpr (compensated)
                    for (index_t i = 0; i < samples_; ++i)
                        error[k * pitch + i] += error[(k + half) * pitch + i];
            }
            filled_ = std::min(filled_, half);
        }
    }

    double sum[lanes * pitch];  // (lanes, pitch)
    double error[compensated ? lanes * pitch : 1];

private:
    void fill(index_t k) {
        if (k < filled_) return;
        std::fill_n(sum + k * pitch, samples_, 0.0);
        if constexpr (compensated) std::fill_n(error + k * pitch, samples_, 0.0);
        filled_ = k + 1;
    }
    template <class Term> [[gnu::always_inline]] void add_lane(index_t k, Term&& term) {
        double *to = sum + k * pitch, *error_to = error + (compensated ? k * pitch : 0);
        for (index_t i = 0; i < samples_; ++i) {
            if constexpr (compensated) compensated_add(to[i], error_to[i], term(i));
            else to[i] += static_cast<double>(term(i));
        }
    }
    index_t samples_ = 0, filled_ = 0;  // filled lanes
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
