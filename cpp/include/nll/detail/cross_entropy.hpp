// SPDX-License-Identifier: BSD-3-Clause
// The formulas of one sample. x_c are its logits, t its target, w_c the class weights, v its own
// weight.
//
//     S        = Σ e^x_c
//     loss     = v·w_t·(log S - x_t)
//     gradient = g·w_t·(e^x_c/S - [c = t]),   g: v times grad_output over a mean's divisor
//
// and with label smoothing ε
//
//     loss     = v·[(1 - ε)·w_t·(log S - x_t) + ε/C·Σ w_c·(log S - x_c)]
//     gradient = g·[(1 - ε)·w_t + ε/C·Σ w]·e^x_c/S - g·ε/C·w_c - [c = t]·g·(1 - ε)·w_t
//
// Two differences lose every digit where e^x_t is most of S: log S - x_t and e^x_t/S - 1. So the
// pivot, the target's logit (log_softmax: the largest), is taken out of the sum. What it leaves is
//
//     others        = Σ e^x_c, c other than t
//     log S - x_t   = log(1 + others/e^x_t)
//     e^x_t/S - 1   = -others/S
//
// Exponentials are relative to a shift, e^(x - shift)·scale (simd/exp.hpp); every quotient of two
// is free of it. tests/cpp/reference.hpp computes what is not smoothed in scalar code, bit for bit.
#pragma once

#include "plan.hpp"
#include "simd/exp.hpp"
#include "simd/log.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// ---------------------------------------------------------------- sums

// Holds a logit that is taken out of the sum, and the chunk of classes that has it.
struct Pivot {
    double logit = 0;
    index_t chunk = 0;
};

// Holds sums over a chunk of classes of a sample.
struct ExpSum {
    double sum = 0, error = 0;  // of exponentials, and what their roundings lost
    double smoothing = 0;       // Σ w·(x - shift)
    double most = 0;       // the largest lane's sum: no exponential is more; of log Σ e^x alone
    bool in_range = true;  // every logit had an exponential
};

// Adds the sums of a chunk, with those before it in the order of classes.
[[gnu::always_inline]] inline void add_chunk(double& sum, double& error, double chunk,
                                             double chunk_error) {
    compensated_add(sum, error, chunk);
    error += chunk_error;
}

// Returns the sum, or NaN where there is no softmax: +inf among the logits, or nothing but -inf.
[[gnu::always_inline]] inline double defined_sum(double sum) {
    return sum > 0 && sum < infinity ? sum : std::numeric_limits<double>::quiet_NaN();
}

// Tells whether the pivot may be subtracted from a sum. Otherwise its chunk is added up again
// without it, since each addition was rounded; with Double all chunks are: what additions rounded
// off, nearly all that is left, was itself added up with a rounding each.
template <class Precision>
[[gnu::always_inline]] inline bool leaves_enough(double sum, double exp_pivot) {
    return sum - exp_pivot >= (Precision::exact ? 0x1p-30 : 0x1p-10) * sum;
}
// Returns the error of a sum whose chunk with the pivot was added up again: `others` without it.
[[gnu::always_inline]] inline double error_of_chunk(double exp_pivot, double chunk, double others) {
    return (exp_pivot - chunk) + others;
}

template <class Precision>
[[gnu::always_inline]] inline double sum_others(double sum, double error, double exp_pivot) {
    const double others = (sum - exp_pivot) + error;
    return others < Precision::negligible * exp_pivot ? 0.0 : others;
}

// Tells whether the call is smoothed, in a precision that serves such calls.
template <class Precision> bool is_smoothed(const Plan& plan) {
    return Precision::smooths && plan.smooths();
}
// Tells whether exponentials have to be relative to the largest logit, whatever it is.
template <class Precision> bool needs_max(const Plan& plan) {
    return Precision::exact && is_smoothed<Precision>(plan);
}

// ---------------------------------------------------------------- loss

// Holds log S = center + log: about the pivot where that is most of the sum, else about the shift.
// With Double no digit may be lost between the two, so the center is the pivot unless it is so far
// from the shift that their difference is most of the loss. With smoothing log S - shift has to be
// exact as well; then the shift is the largest logit, and Double chooses as the others do.
struct LogSumExp {
    double center, log;
};
template <class Precision>
[[gnu::always_inline]] inline LogSumExp log_sum_exp(double sum, double error, double exp_pivot,
                                                    double others, double pivot, double shift,
                                                    double scale, bool smooths) {
    if constexpr (Precision::exact) {
        const bool about_pivot = others < (smooths ? 1 : 0x1p900) * exp_pivot;
        // What sums and quotients round off is kept: exponentials have had their share of 4 ULP.
        const double high = sum - exp_pivot, rest = high / exp_pivot, near = 1 + rest;
        const double low = two_diff_error(sum, exp_pivot, high) + error;
        const double rounded_off = (std::fma(-rest, exp_pivot, high) + low) / exp_pivot;
        const double quotient = about_pivot ? near : sum / scale;
        const double lost = about_pivot ? (rest - (near - 1)) + rounded_off : error / scale;
        return {about_pivot ? pivot : shift, log_of(quotient, lost)};
    } else {
        const bool confident = others < exp_pivot;
        const double unit = confident ? exp_pivot : scale;
        const double rest = confident ? others : (sum - scale) + error;
        return {confident ? pivot : shift,
                log_quotient(confident ? exp_pivot + others : sum, unit, rest)};
    }
}

// Returns log S - x.
[[gnu::always_inline]] inline double negative_log_softmax(const LogSumExp& log_sum, double x) {
    return (log_sum.center - x) + log_sum.log;
}

// Holds what a smoothed call's samples have in common: copies, which no store to a result changes.
struct Smoothing {
    double target, share;                      // 1 - ε, ε/C
    double class_weight_sum, infinite_weight;  // as the plan's
    explicit Smoothing(const Plan& plan)
        : target(1 - plan.label_smoothing),
          share(plan.label_smoothing / static_cast<double>(plan.classes)),
          class_weight_sum(plan.class_weight_sum),
          infinite_weight(plan.infinite_weight) {}
};

// Returns Σ w·(log S - x) over all classes, in units of Precision::smoothing_unit. terms: Σ
// w·(x - shift) over finite weights. An infinite one makes it infinite: log S - x_c is more than 0.
template <class Precision>
[[gnu::always_inline]] inline double smoothing_sum(const Smoothing& of, double terms,
                                                   const LogSumExp& log_sum, double shift) {
    constexpr double unit = Precision::smoothing_unit;
    return of.class_weight_sum * (negative_log_softmax(log_sum, shift) / unit) - terms +
           of.infinite_weight;
}
// Tells whether it has too few digits, since nearly all weight is on a class of probability 1: its
// two parts are alike, whose logit is far from the shift; or log S, which is not about the pivot,
// is off by as much as exponentials are, and that is more than 0.01 ULP of it.
template <class Precision>
[[gnu::always_inline]] inline bool cancels(const Smoothing& of, double sum,
                                           const LogSumExp& log_sum, double shift) {
    const double part = of.class_weight_sum * negative_log_softmax(log_sum, shift);
    const double off = log_sum.center == shift ? 0.125 * std::fabs(of.class_weight_sum) : 0;
    return !Precision::exact && std::fabs(sum) < std::max(off, 0x1p-20 * std::fabs(part));
}
// Returns the smoothed loss. loss: of the target, without its weight. sum: of all classes.
template <class Precision>
[[gnu::always_inline]] inline double smoothed_loss(const Smoothing& of, double loss, double weight,
                                                   double sum) {
    return of.target * weight * loss + (of.share * Precision::smoothing_unit) * sum;
}

// ---------------------------------------------------------------- gradient

// Holds what the gradient of a sample is scaled with:
// total·softmax - smoothing·w_c - [c = t]·target.
template <class Scale> struct GradScale {
    Scale target, smoothing, total;
};
template <class Scale>
GradScale<Scale> grad_scale_of(const Plan& plan, double grad_output, double weight,
                               double sample_weight) {
    const Scale divisor{plan.divisor};
    GradScale<Scale> scale{Scale{grad_output} * weight / divisor, Scale{0}, Scale{0}};
    if (plan.smooths()) {
        const Scale share = Scale{plan.label_smoothing} / Scale{static_cast<double>(plan.classes)};
        scale.target = scale.target * (Scale{1} + Scale{-plan.label_smoothing});
        scale.smoothing = Scale{grad_output} * sample_weight / divisor * share;
    }
    scale.total = scale.target + scale.smoothing * plan.all_class_weights();
    return scale;
}

// Holds 1/S: one division serves all entries of a sample.
template <class Scale> struct InverseSum {
    double inverse;
    // Takes the two parts of S.
    InverseSum(double part, double rest) : inverse(1 / (part + rest)) {}
};
// Double: of S·unit, which is in [1, 2), so that a small scale does not vanish beside 1/S.
template <> struct InverseSum<DoubleDouble> {
    double unit;
    DoubleDouble inverse;
    InverseSum(double sum, double error)
        : unit(unit_of(sum)), inverse(DoubleDouble{1} / DoubleDouble{sum * unit, error * unit}) {}
    // Returns the power of 2 that brings a normal number to [1, 2).
    static double unit_of(double number) {
        const std::uint64_t exponent = std::bit_cast<std::uint64_t>(number) & 0x7ff0000000000000;
        return std::bit_cast<double>(0x7fe0000000000000 - exponent);
    }
};

// Returns scale/S, which multiplies exponentials.
inline double over_sum(double scale, const InverseSum<double>& sum) { return scale * sum.inverse; }
// A large scale includes the unit: e^x·unit alone may be less than any normal number, though the
// product of all three is not. A small scale does not: scale·unit may be less.
inline UnitDoubleDouble over_sum(DoubleDouble scale, const InverseSum<DoubleDouble>& sum) {
    const DoubleDouble factor = scale * sum.inverse;
    const bool small = std::fabs(factor.high) < 1;
    const double own = small ? 1 : sum.unit;
    return {{factor.high * own, factor.low * own}, small ? sum.unit : 1};
}
// Returns scale·part/S of a part of S.
inline double share_of(double part, double scale, const InverseSum<double>& sum) {
    return scale * (sum.inverse * part);
}
inline double share_of(DoubleDouble part, DoubleDouble scale, const InverseSum<DoubleDouble>& sum) {
    return product(over_sum(scale, sum), part);
}

// Returns the smoothed gradient at the target, -target·others/S + smoothing·(Σ w·e^x_t/S - w_t).
template <class Scale>
[[gnu::always_inline]] inline double smoothed_entry_at_target(double all_class_weights,
                                                              const GradScale<Scale>& scale,
                                                              double weight, Scale exp_pivot,
                                                              Scale others,
                                                              const InverseSum<Scale>& sum) {
    const double entry = -share_of(others, scale.target, sum);
    const double of_all = share_of(exp_pivot, scale.smoothing * all_class_weights, sum);
    return entry + (of_all - product(scale.smoothing, weight));
}

// Returns the gradient elsewhere, from e^x_c; smoothing: smoothing·w_c.
template <class Scale> double smoothed_entry(Scale softmax_scale, double exp, double smoothing) {
    return product(softmax_scale, exp) - smoothing;
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
