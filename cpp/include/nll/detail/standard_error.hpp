// SPDX-License-Identifier: BSD-3-Clause
// The standard error of a mean from exact sums. Its numerator is a small difference of large
// products where losses are much alike, and is taken without error: with integers of any length.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "rounding.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Holds ±Σ digit[i]·2^(32·(i + exponent)). The highest digit is not 0; no digits are zero.
struct Integer {
    std::vector<std::uint32_t> digit;
    int exponent = 0;
    bool negative = false;
};

inline void trim(Integer& value) {
    while (!value.digit.empty() && value.digit.back() == 0) value.digit.pop_back();
}

inline Integer integer_of(const ExactSum& sum) {
    const Magnitude value = magnitude(sum);
    return {{value.digit, value.digit + value.count}, value.exponent / 32, value.negative};
}

inline Integer operator*(const Integer& a, const Integer& b) {
    Integer product{std::vector<std::uint32_t>(a.digit.size() + b.digit.size()),
                    a.exponent + b.exponent, a.negative != b.negative};
    for (std::size_t i = 0; i < a.digit.size(); ++i) {
        std::uint64_t over = 0;
        for (std::size_t j = 0; j < b.digit.size(); ++j) {
            over += std::uint64_t{a.digit[i]} * b.digit[j] + product.digit[i + j];
            product.digit[i + j] = static_cast<std::uint32_t>(over);
            over >>= 32;
        }
        product.digit[i + b.digit.size()] = static_cast<std::uint32_t>(over);
    }
    trim(product);
    return product;
}

inline Integer operator+(const Integer& a, const Integer& b) {
    if (a.digit.empty()) return b;
    if (b.digit.empty()) return a;
    const auto end = [](const Integer& of) {
        return of.exponent + static_cast<int>(of.digit.size());
    };
    Integer sum;
    sum.exponent = std::min(a.exponent, b.exponent);
    const int count = std::max(end(a), end(b)) - sum.exponent + 1;
    sum.digit.resize(static_cast<std::size_t>(count));
    const auto at = [&](const Integer& of, int i) -> std::int64_t {
        const int place = i + sum.exponent - of.exponent;
        if (place < 0 || place >= static_cast<int>(of.digit.size())) return 0;
        const auto digit = static_cast<std::int64_t>(of.digit[static_cast<std::size_t>(place)]);
        return of.negative ? -digit : digit;
    };
    for (const std::int64_t sign : {1, -1}) {
        std::int64_t over = 0;
        for (int i = 0; i < count; ++i) {
            over += sign * (at(a, i) + at(b, i));
            sum.digit[static_cast<std::size_t>(i)] = static_cast<std::uint32_t>(over);
            over >>= 32;
        }
        sum.negative = sign < 0;
        if (over >= 0) break;  // else the sum is negative: once more, of its negative
    }
    trim(sum);
    return sum;
}

inline Integer operator-(const Integer& value) {
    return {value.digit, value.exponent, !value.negative};
}

// Holds mantissa·2^exponent: a positive integer but for 2^-52 of it, with a mantissa of [1, 2).
struct Scaled {
    double mantissa;
    int exponent;
};
inline Scaled scaled(const Integer& value) {
    double top = 0;
    const auto count = static_cast<int>(value.digit.size());
    for (int i = count - 1; i >= std::max(count - 3, 0); --i)
        top = top * 0x1p32 + value.digit[static_cast<std::size_t>(i)];
    int exponent;
    const double mantissa = 2 * std::frexp(top, &exponent);
    return {mantissa, exponent - 1 + 32 * (value.exponent + std::max(count - 3, 0))};
}

// Returns sqrt(n/(n - 1)·Σ (v - m·w)²) / |Σ w|, m = loss/weight, which is the root of
// n/(n - 1)·(square·weight² - 2·cross·loss·weight + weight_square·loss²) / weight⁴.
inline double standard_error_of(const ExactSum& loss, const ExactSum& weight,
                                const ExactSum& square, const ExactSum& cross,
                                const ExactSum& weight_square, index_t count) {
    for (const ExactSum* sum : {&loss, &weight, &square, &cross, &weight_square})
        if (!is_finite(*sum)) return std::numeric_limits<double>::quiet_NaN();
    const Integer l = integer_of(loss), w = integer_of(weight), lw = l * w;
    if (count < 2 || w.digit.empty()) return std::numeric_limits<double>::quiet_NaN();
    const Integer crossed = -(integer_of(cross) * lw);
    const Integer squares = integer_of(square) * (w * w) + integer_of(weight_square) * (l * l);
    const Integer numerator = squares + (crossed + crossed);
    // A sum of squares is not negative; damaged sums may say so.
    if (numerator.digit.empty() || numerator.negative) return 0.0;
    const Scaled top = scaled(numerator), bottom = scaled(w);
    const auto n = static_cast<double>(count);
    const double bottom_square = bottom.mantissa * bottom.mantissa;
    double ratio = top.mantissa / (bottom_square * bottom_square) * (n / (n - 1));
    int exponent = top.exponent - 4 * bottom.exponent;
    if (exponent % 2 != 0) {
        ratio *= 2;
        --exponent;
    }
    return std::ldexp(std::sqrt(ratio), exponent / 2);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
