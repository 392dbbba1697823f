// SPDX-License-Identifier: BSD-3-Clause
// Exponentials of logits, in the precisions that results need, and what they are relative to.
//
//     Single   e^x · 2^280 in double, within 8e-11: for float and the 16-bit types. Nothing is
//     taken
//              off x unless a sample's largest logit is beyond 350, so that most need no maximum.
//     Double   e^(x - max) within 1 ULP, x - max taken without rounding.
//     Bfloat16 in exp_bfloat16.hpp.
//
// One worked line of Single: x = 1, x·log2(e) = 1.4427 = n + f with n = 11/8 (the nearest eighth)
// and f = 0.0677; e^x·2^280 = 2^(n + 280)·2^f, the first by a table of eighths and exponent bits,
// the second by a polynomial.
#pragma once

#include "../tuning.hpp"
#include "vec.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

inline constexpr double log2_e = 0x1.71547652b82fep+0;
inline constexpr double round_to_integer = 0x1.8p52;  // added, it leaves an integer in the low bits

// Returns the polynomial with these coefficients, that of the highest power first.
template <class Real, class... Coefficient>
[[gnu::always_inline]] inline Real polynomial(Real x, Real highest, Coefficient... coefficient) {
    Real value = highest;
    ((value = multiply_add(value, x, Real(coefficient))), ...);
    return value;
}

// ---------------------------------------------------------------- the precisions

struct Single {
    using Real = float;    // of logits
    using Exp = double;    // of exponentials
    using Scale = double;  // of what multiplies exponentials
    // Sums are compensated if `exact`; if `fused`, they add products of two factors unrounded.
    static constexpr bool exact = false, fused = true;
    // Terms below this part of the pivot are far below the last bit of any result, and inexact.
    static constexpr double negligible = 0x1p-740;
    // A larger scale of a gradient would make them matter.
    static constexpr double max_scale = 0x1p500;
    static constexpr float max_unshifted = 350;  // a largest logit that needs no shift
    static constexpr float max_unclamped = 500;  // a logit whose exponential has meaning
    static constexpr float depth = 900;          // below the shift, from which e^x is taken as 0
    static constexpr double smoothing_unit = 1;  // of Σ w·(x - shift)

    // Returns what was seen in either of two lanes.
    static float join(float a, float b) { return a < b ? b : a; }
    // Returns 2^f for -1/16 <= f <= 1/16, up to 8e-11 more or less (Remez): a quotient of two is
    // twice as much off, 0.0028 ULP of single precision.
    template <class Number> [[gnu::always_inline]] static Number exp2_fraction(Number f) {
        return polynomial(f, Number(0x1.3b2467dce84b4p-7), 0x1.c6be345df0c79p-5,
                          0x1.ebfbe0a8d155ap-3, 0x1.62e42fb90c128p-1, 0x1.fffffffff9b14p-1);
    }
};

struct Double {
    using Real = double;
    using Exp = double;
    using Scale = DoubleDouble;
    static constexpr bool exact = true, fused = false;
    static constexpr double negligible = 0, max_scale = infinity;
    // So that the terms of the lowest numbers, which mask classes, have a sum.
    static constexpr double smoothing_unit = 0x1p64;
};

// Says what exponentials of `width` samples are relative to: e^x is computed as
// e^(x - shift(i))·scale. `clamps` says whether logits may be anything at all; without, sums tell
// afterwards whether they were in range.
template <class Precision, int width> class ExpShift;

// ---------------------------------------------------------------- Single

// Holds two factors of exponentials, 2^(n + 280) and 2^f; sums add their product before it is
// rounded.
struct ExpParts {
    Vec power, fraction;
};

template <int width> class ExpShift<Single, width> {
public:
    // Shifts nothing, and clamps nothing.
    ExpShift() = default;
    // Shifts each sample whose largest logit needs it, and clamps. max: (samples,).
    ExpShift(const float* max, index_t samples) : clamps_(true) {
        for (index_t i = 0; i < samples; ++i) {
            const float size = std::fabs(max[i]);
            shift_[i] = size > Single::max_unshifted && size < infinity ? max[i] : 0.0f;
        }
    }
    // Gives sample i the shift of sample k of another.
    template <int other> void take(index_t i, const ExpShift<Single, other>& from, index_t k) {
        shift_[i] = from.shift_[k];
        clamps_ |= from.clamps_;
    }
    bool clamps() const { return clamps_; }
    double shift(index_t i) const { return shift_[i]; }
    static constexpr double scale = exp_scale;

    // Collects how far logits are from 0; NaN does not count. Where exp2_eighths saturates, sums
    // show what has no exponential, and nothing is collected.
    using Seen = float;
    static constexpr Seen none_seen = 0;
    static bool all_in_range(Seen seen) { return seen <= Single::max_unclamped; }

    // Tells whether an unshifted sum of the exponentials of C logits shows that no logit was too
    // large, and that the largest was not too small. NaN is not in range.
    static bool sum_in_range(double sum, index_t classes) {
        constexpr double most = 0x1p504;
        static_assert(504 / log2_e < Single::max_unshifted);
        return sum <= most * scale && sum >= static_cast<double>(classes) * (scale / most);
    }

    // Returns Vec::size logits less their shifts: samples from `i` on, or classes of sample 0.
    template <bool clamped>
    [[gnu::always_inline]] Vec shifted(const float* logits, index_t i) const {
        if constexpr (!clamped) return Vec::load(logits);
        else
            return Vec::load(logits) -
                   (width > 1 ? Vec::load(shift_ + i) : Vec(static_cast<double>(shift_[0])));
    }
    // Returns the parts of e^x of logits that are shifted.
    template <bool clamped> [[gnu::always_inline]] static ExpParts parts(Vec x) {
        if constexpr (!clamped) return parts_of(x);
        const Vec lowest(-Single::depth);
        const ExpParts parts = parts_of(no_less_than(lowest, x));
        return {zero_below(lowest, x, parts.power), parts.fraction};
    }

private:
    template <class, int> friend class ExpShift;
    [[gnu::always_inline]] static ExpParts parts_of(Vec x) {
        const Vec at = multiply_add(x, Vec(log2_e), Vec(round_to_eighths));
        const Vec n = at - Vec(round_to_eighths);
        return {exp2_eighths(at, n), Single::exp2_fraction(multiply_subtract(x, Vec(log2_e), n))};
    }
    bool clamps_ = false;
    float shift_[width] = {};
};

// ---------------------------------------------------------------- Double

// Returns 2^n for an integer n in [-1023, 1023], where -1023 gives 0.
[[gnu::always_inline]] constexpr double exp2_integer(double n) {
    return std::bit_cast<double>(std::bit_cast<std::uint64_t>(n + (round_to_integer + 1023)) << 52);
}

// Returns e^(high + low) for high <= 0 and low of at most its last bit: within 1 ULP, subnormal
// results too; 0 below e^-800.
[[gnu::always_inline]] inline double exp_double(double high, double low) {
    // log(2) in two parts: the first has 40 bits, so that its products with integers below 2^13 are
    // exact.
    constexpr double log_2_high = 0x1.62e42fefap-1, log_2_low = 0x1.cf79abc9e3b3ap-40;
    constexpr double lowest = -800;
    const bool below = high < lowest;
    high = below ? lowest : high;
    low = below ? 0.0 : low;
    const double n = (high * log2_e + round_to_integer) - round_to_integer;
    const double most = high - n * log_2_high, less = n * log_2_low;
    const double x = most - less;
    const double tail = ((most - x) - less) + low;
    // The series to x^13 / 13!, for |x| <= log(2)/2: the next term is below 2^-57.
    const double series =
        polynomial(x, 1 / 6227020800., 1 / 479001600., 1 / 39916800., 1 / 3628800., 1 / 362880.,
                   1 / 40320., 1 / 5040., 1 / 720., 1 / 120., 1 / 24., 1 / 6., 1 / 2.);
    const double rest = x * x * series;
    const double fraction = 1.0 + (x + (rest + (tail + tail * (x + rest))));
    // In two steps, so that a subnormal result is rounded once.
    const double first = n < -1000.0 ? -1000.0 : n;
    return fraction * exp2_integer(first) * exp2_integer(n - first);
}

// The shift has to be the largest logit.
template <int width> class ExpShift<Double, width> {
public:
    ExpShift() = default;
    ExpShift(const double* max, index_t samples) {
        for (index_t i = 0; i < samples; ++i) max_[i] = max[i] == -infinity ? 0.0 : max[i];
    }
    template <int other> void take(index_t i, const ExpShift<Double, other>& from, index_t k) {
        max_[i] = from.max_[k];
    }
    static bool clamps() { return true; }
    double shift(index_t i) const { return max_[i]; }
    static constexpr double scale = 1;
    static bool sum_in_range(double, index_t) { return true; }
    using Seen = float;  // nothing
    static constexpr Seen none_seen = 0;
    static bool all_in_range(Seen) { return true; }
    template <bool> [[gnu::always_inline]] double exp(double logit, index_t i, Seen&) const {
        const DoubleDouble x = two_diff(logit, max_[i]);
        return exp_double(x.high, x.low);
    }

private:
    template <class, int> friend class ExpShift;
    double max_[width] = {};
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
