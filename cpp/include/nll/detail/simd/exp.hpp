// SPDX-License-Identifier: BSD-3-Clause
// Exponentials of logits, in the precisions that results need, and what they are relative to.
//
//     Single   e^x · 2^280 in double, within 8e-11: for float and the 16-bit types
//     Double   e^x · 2^500 in double, within 0.61 ULP, without fused operations 0.64: for double,
//              and for extreme weights
//     Bfloat16 in exp_bfloat16.hpp
//
// Nothing is taken off x unless a sample's largest logit is far from 0, so that most need no
// maximum.
//
// One worked line of both: x = 1, x·log2(e) = 1.4427 is about n = 12/8, the nearest eighth. 2^n is
// of a table of eighths and of exponent bits, the rest of a polynomial: for Single 2^f of f =
// 1.4427 - n = -0.0573, for Double e^r - 1 of r = x - n·log(2) = -0.0397.
#pragma once

#include "../tuning.hpp"
#include "vec.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

inline constexpr double log2_e = 0x1.71547652b82fep+0;

// Returns the polynomial with these coefficients, that of the highest power first.
template <class Real, class... Coefficient>
[[gnu::always_inline]] inline Real polynomial(Real x, Real highest, Coefficient... coefficient) {
    Real value = highest;
    ((value = multiply_add(value, x, Real(coefficient))), ...);
    return value;
}

// ---------------------------------------------------------------- the precisions

// Holds numbers n of eighths next to x·log2(e), and `at` = n + round_to_eighths.
struct Eighths {
    Vec at, n;
    [[gnu::always_inline]] explicit Eighths(Vec x)
        : at(multiply_add(x, Vec(log2_e), Vec(round_to_eighths))), n(at - Vec(round_to_eighths)) {}
};
// Holds the parts of exponentials: the power of 2, and the fraction that Precision::exp joins with
// it.
struct ExpParts {
    Vec power, fraction;
};

struct Single {
    using Real = float;                       // of logits
    using Exp = double;                       // of exponentials
    using Scale = double;                     // of what gradients are scaled with
    using ExpScale = double;                  // of what multiplies exponentials
    using Shifted = Vec;                      // logits less their shift
    static constexpr bool by_eighths = true;  // as above, and in vectors
    // Sums are compensated if `exact`; if `fused`, they add products of two factors unrounded.
    static constexpr bool exact = false, fused = true;
    static constexpr bool smooths = true;  // whether it serves label smoothing
    // Exponentials have this power of 2: neither they nor their sums overflow, nor lose small ones.
    static constexpr int power = 280;
    // Terms below this part of the pivot are far below the last bit of any result, and inexact.
    static constexpr double negligible = 0x1p-740;
    // A larger scale of a gradient would make them matter.
    static constexpr double max_scale = 0x1p500;
    static constexpr int unshifted_bits = 504;   // of a sum that shows that it needs no shift
    static constexpr float max_unshifted = 350;  // a largest logit that needs no shift
    static constexpr float max_unclamped = 500;  // a logit whose exponential has meaning
    static constexpr float depth = 900;          // below the shift, from which e^x is taken as 0
    static constexpr bool any_below = true;      // unclamped logits may be as low as they like
    static constexpr double smoothing_unit = 1;  // of Σ w·(x - shift)

    // Returns what was seen in either of two lanes.
    static float join(float a, float b) { return a < b ? b : a; }
    // Returns 2^f for -1/16 <= f <= 1/16, up to 8e-11 more or less (Remez): a quotient of two is
    // twice as much off, 0.0028 ULP of single precision.
    template <class Number> [[gnu::always_inline]] static Number exp2_fraction(Number f) {
        return polynomial(f, Number(0x1.3b2467dce84b4p-7), 0x1.c6be345df0c79p-5,
                          0x1.ebfbe0a8d155ap-3, 0x1.62e42fb90c128p-1, 0x1.fffffffff9b14p-1);
    }
    [[gnu::always_inline]] static Shifted subtract(Vec logits, Vec shift) { return logits - shift; }
    // Returns the parts of e^x; `clamped`: of 0 for x below -depth. Else e^-depth stands for what
    // is less, -inf, too: it counts as nothing, and so rows with masked logits need no clamped sum.
    template <bool clamped> [[gnu::always_inline]] static ExpParts parts(Vec x) {
        const Vec lowest(-depth), high = no_less_than(lowest, x);
        const Eighths e(high);
        return {clamped ? exp2_eighths_from<power>(lowest, x, e.at, e.n)
                        : exp2_eighths<power>(e.at, e.n),
                exp2_fraction(multiply_subtract(high, Vec(log2_e), e.n))};
    }
    [[gnu::always_inline]] static Vec exp(ExpParts parts) { return parts.power * parts.fraction; }
};

struct Double {
    using Real = double;
    using Exp = double;
    using Scale = DoubleDouble;
    using ExpScale = UnitDoubleDouble;
    struct Shifted {
        Vec high, low;  // the low part is of clamped logits
        [[gnu::always_inline]] Shifted(Vec high, Vec low = Vec(0.0)) : high(high), low(low) {}
    };
    static constexpr bool by_eighths = true;
    static constexpr bool exact = true, fused = false, smooths = true, any_below = false;
    static constexpr double negligible = 0, max_scale = infinity;
    // Exponentials are normal numbers down to 900 below a largest logit of -150. So they are 0 only
    // where a gradient is scaled with more than 2^224, if it is to be anything else.
    static constexpr int power = 500, unshifted_bits = 216;
    static constexpr double max_unshifted = 150, max_unclamped = 350, depth = 1050;
    // So that the terms of the lowest numbers, which mask classes, have a sum.
    static constexpr double smoothing_unit = 0x1p64;

    static double join(double a, double b) { return a < b ? b : a; }
    // Returns e^r - 1 for |r| <= log(2)/16, up to 5e-18 more or less (Remez), plus `low`.
    [[gnu::always_inline]] static Vec exp_minus_1(Vec r, Vec low) {
        const Vec series =
            polynomial(r, Vec(0x1.a01f8f4b1a4c5p-13), 0x1.6c1d00cea5f11p-10, 0x1.1111110abad2dp-7,
                       0x1.555555471342cp-5, 0x1.55555555555d0p-3, 0x1.0000000000115p-1);
        return multiply_add(r * r, series, r + low);
    }
    [[gnu::always_inline]] static Shifted subtract(Vec logits, Vec shift) {
        const Vec high = logits - shift;
        return {high, two_diff_error(logits, shift, high)};
    }
    template <bool clamped> [[gnu::always_inline]] static ExpParts parts(const Shifted& x) {
        // log(2) in two parts: the first has 36 bits, so that its products with n, of 14 bits, are
        // exact, and so is what they leave of x.
        constexpr double log_2_high = 0x1.62e42fefap-1, log_2_low = 0x1.cf79abc9e3b3ap-40;
        const Vec lowest(-depth);
        const Vec high = clamped ? no_less_than(lowest, x.high) : x.high;
        const Eighths e(high);
        Vec r = multiply_add(e.n, Vec(-log_2_low), multiply_add(e.n, Vec(-log_2_high), high));
        if constexpr (clamped) r = r + zero_below(lowest, x.high, x.low);
        // Where powers saturate, no sum shows what is below normal numbers: it is 0 there, too, so
        // that all instruction sets have the same bits.
        return {clamped || Vec::exp2_saturates ? exp2_eighths_from<power>(lowest, x.high, e.at, e.n)
                                               : exp2_eighths<power>(e.at, e.n),
                exp_minus_1(r, exp2_eighths_low(e.at))};
    }
    [[gnu::always_inline]] static Vec exp(ExpParts parts) {
        return multiply_add(parts.power, parts.fraction, parts.power);
    }
};

// Says what exponentials of `width` samples are relative to: e^x is computed as
// e^(x - shift(i))·scale. `clamps` says whether logits may be anything at all; without, sums tell
// afterwards whether they were in range.
template <class Precision, int width> class ExpShift;

// ---------------------------------------------------------------- Single and Double

template <class Precision, int width>
    requires(Precision::by_eighths)
class ExpShift<Precision, width> {
    using Real = typename Precision::Real;
    using Shifted = typename Precision::Shifted;

public:
    // Shifts nothing, and clamps nothing.
    ExpShift() = default;
    // Shifts each sample whose largest logit needs it, and clamps. max: (samples,). Smoothed terms
    // of Double, none of which may lose digits, are relative to the largest logit in any case.
    ExpShift(const Real* max, index_t samples, bool smooths) : clamps_(true) {
        const Real limit = Precision::exact && smooths ? Real{0} : Precision::max_unshifted;
        for (index_t i = 0; i < samples; ++i) {
            const Real size = std::fabs(max[i]);
            shift_[i] = size > limit && size < infinity ? max[i] : Real{0};
        }
    }
    // Gives sample i the shift of sample k of another.
    template <int other> void take(index_t i, const ExpShift<Precision, other>& from, index_t k) {
        shift_[i] = from.shift_[k];
        clamps_ |= from.clamps_;
    }
    bool clamps() const { return clamps_; }
    double shift(index_t i) const { return shift_[i]; }
    static constexpr double scale = exp2_integer(Precision::power);

    // Collects how far logits are from 0; NaN does not count. Where exp2_eighths saturates, sums
    // show what has no exponential, and nothing is collected.
    using Seen = Real;
    static constexpr Seen none_seen = 0;
    static bool all_in_range(Seen seen) { return seen <= Precision::max_unclamped; }

    // Tells whether an unshifted sum of the exponentials of C logits shows that no logit was too
    // large, and that the largest was not too small. NaN is not in range.
    static bool sum_in_range(double sum, index_t classes) {
        constexpr double most = exp2_integer(Precision::unshifted_bits);
        static_assert(Precision::unshifted_bits / log2_e < Precision::max_unshifted);
        return sum <= most * scale && sum >= static_cast<double>(classes) * (scale / most);
    }

    // Returns Vec::size logits less their shifts: samples from `i` on, or classes of sample 0.
    template <bool clamped>
    [[gnu::always_inline]] Shifted shifted(const Real* logits, index_t i) const {
        if constexpr (!clamped) return Vec::load(logits);
        else
            return Precision::subtract(
                Vec::load(logits),
                width > 1 ? Vec::load(shift_ + i) : Vec(static_cast<double>(shift_[0])));
    }

private:
    template <class, int> friend class ExpShift;
    bool clamps_ = false;
    Real shift_[width] = {};
};

// Returns e^(x - max), as Double has it, of one number.
inline double exp_difference(double x, double max) {
    double exps[Vec::size];
    Double::exp(Double::parts<true>(Double::subtract(Vec(x), Vec(max)))).store(exps);
    return exps[0] / exp2_integer(Double::power);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
