// SPDX-License-Identifier: BSD-3-Clause
// Arithmetic that keeps what a rounding takes off: two_sum, two_diff, double-double numbers (Dekker
// 1971; Knuth, The Art of Computer Programming, vol. 2, 4.2.2).
#pragma once

#include <cmath>

#include "../formats.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Returns a·b + c in one rounding where the processor can.
template <class Real> [[gnu::always_inline]] inline Real multiply_add(Real a, Real b, Real c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__FP_FAST_FMA) || defined(__ARM_FEATURE_FMA)
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
}

// Returns what a + b = sum has rounded off.
template <class Number>
[[gnu::always_inline]] inline Number two_sum_error(Number a, Number b, Number sum) {
    const Number part = sum - a;
    return (a - (sum - part)) + (b - part);
}

// Returns what a - b = difference has rounded off.
template <class Number>
[[gnu::always_inline]] inline Number two_diff_error(Number a, Number b, Number difference) {
    const Number minuend = a - difference;
    return (a - (difference + minuend)) + (minuend - b);
}

// Adds a number to sum + error: the error takes what rounding the sum loses. Infinities make it
// NaN.
template <class Number>
[[gnu::always_inline]] inline void compensated_add(Number& sum, Number& error, Number number) {
    const Number total = sum + number;
    error = error + two_sum_error(sum, number, total);
    sum = total;
}
inline double compensated_total(double sum, double error) {
    return std::fabs(sum) < infinity ? sum + error : sum;
}

// Holds high + low, about 106 bits. The low part is 0 where its own computation has no finite
// result, as beside an infinite high.
struct DoubleDouble {
    double high, low = 0;
};
inline DoubleDouble with_defined_low(double high, double low) {
    return {high, std::fabs(low) < infinity ? low : 0.0};
}

inline DoubleDouble operator*(DoubleDouble a, double b) {
    const double high = a.high * b;
    return with_defined_low(high, std::fma(a.high, b, -high) + a.low * b);
}
inline DoubleDouble operator*(DoubleDouble a, DoubleDouble b) {
    const DoubleDouble product = a * b.high;
    return with_defined_low(product.high, product.low + a.high * b.low);
}
inline DoubleDouble operator/(DoubleDouble a, DoubleDouble b) {
    const double high = a.high / b.high;
    const double rest = std::fma(-high, b.high, a.high) - high * b.low + a.low;
    return with_defined_low(high, rest / b.high);
}
inline DoubleDouble operator+(DoubleDouble a, DoubleDouble b) {
    const double high = a.high + b.high;
    return with_defined_low(high, two_sum_error(a.high, b.high, high) + a.low + b.low);
}

// Holds a factor of numbers, and a power of 2 that they are multiplied with first.
struct UnitDoubleDouble {
    DoubleDouble factor;
    double unit = 1;
};

// Returns factor·number as one double.
[[gnu::always_inline]] inline double product(double factor, double number) {
    return factor * number;
}
[[gnu::always_inline]] inline double product(DoubleDouble factor, double number) {
    return multiply_add(number, factor.high, number * factor.low);
}
[[gnu::always_inline]] inline double product(const UnitDoubleDouble& scale, double number) {
    return product(scale.factor, number * scale.unit);
}
inline double product(const UnitDoubleDouble& scale, DoubleDouble number) {
    const DoubleDouble all =
        scale.factor * DoubleDouble{number.high * scale.unit, number.low * scale.unit};
    return all.high + all.low;
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
