// SPDX-License-Identifier: BSD-3-Clause
// An exact sum, or the quotient of two, to a number that is rounded once.
#pragma once

#include "exact_sum.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Holds ±(mantissa + rest)·2^exponent with a rest in [0, 1), which is not 0 only if `inexact`. The
// mantissa's top bit is set, or the value is zero.
struct Unrounded {
    bool negative, inexact;
    std::uint64_t mantissa;
    int exponent;
};

// Rounds to nearest, ties to even, with integers only: a conversion would round twice, or flush
// subnormal results.
inline double rounded(const Unrounded& value, Format format) {
    if (value.mantissa == 0) return 0.0;
    const std::uint64_t sign = std::uint64_t{value.negative} << 63;
    // `last` is the exponent of the last bit that is kept.
    const int last = std::max(value.exponent + 64 - format.precision, format.smallest_exponent);
    const int drop = last - value.exponent;
    std::uint64_t kept = 0, half = 0, rest = 0;
    if (drop < 64)
        kept = value.mantissa >> drop, half = std::uint64_t{1} << (drop - 1),
        rest = value.mantissa & (2 * half - 1);
    if (drop == 64) half = std::uint64_t{1} << 63, rest = value.mantissa;
    if (drop <= 64 && (rest > half || (rest == half && (value.inexact || (kept & 1))))) ++kept;
    const auto width = static_cast<int>(std::bit_width(kept));
    if (kept == 0) return std::bit_cast<double>(sign);
    if (width + last > format.past_largest_exponent)
        return std::bit_cast<double>(
            sign | std::bit_cast<std::uint64_t>(std::numeric_limits<double>::infinity()));
    const int exponent = width - 1 + last;
    if (exponent < -1022)
        return std::bit_cast<double>(sign | kept);  // last is -1074: a subnormal double
    const std::uint64_t digits = width > 53 ? 0 : kept << (53 - width);  // 2^53 after a carry
    return std::bit_cast<double>(sign | static_cast<std::uint64_t>(exponent + 1023) << 52 |
                                 (digits & ((std::uint64_t{1} << 52) - 1)));
}

// Holds |sum| as digits, least first, without zeros at either end: Σ digit[i]·2^(32·i + exponent).
struct Magnitude {
    std::uint32_t digit[ExactSum::digits + 1];
    int count = 0, exponent = 0;
    bool negative = false;
};

inline Magnitude magnitude(const ExactSum& sum) {
    Magnitude result;
    for (const std::int64_t sign : {1, -1}) {
        std::int64_t over = 0;
        result.count = 0;
        for (int i = sum.low; i < sum.high; ++i) {
            over += sign * sum.digit[i];
            result.digit[result.count++] = static_cast<std::uint32_t>(over);
            over >>= 32;
        }
        result.negative = sign < 0;
        if (over < 0) continue;  // the sum is negative: once more, of its negative
        if (over > 0) result.digit[result.count++] = static_cast<std::uint32_t>(over);
        break;
    }
    int zeros = 0;
    while (result.count > 0 && result.digit[result.count - 1] == 0) --result.count;
    while (zeros < result.count && result.digit[zeros] == 0) ++zeros;
    std::copy(result.digit + zeros, result.digit + result.count, result.digit);
    result.count -= zeros;
    result.exponent = 32 * (sum.low + zeros) + ExactSum::lowest_exponent;
    return result;
}

// Copies the `count` highest digits, shifted up until the top bit is set (zeros below, if there are
// fewer). Returns whether a digit below those is not zero. `exponent` becomes that of the last of
// them.
inline bool top_digits(const Magnitude& value, std::uint32_t* digit, int count, int& exponent) {
    const int shift = std::countl_zero(value.digit[value.count - 1]);
    const auto at = [&](int i) -> std::uint64_t { return i >= 0 ? value.digit[i] : 0; };
    const int below = value.count - count;
    for (int i = 0; i < count; ++i)
        digit[i] =
            static_cast<std::uint32_t>((at(i + below) << 32 | at(i + below - 1)) >> (32 - shift));
    exponent = value.exponent + 32 * below - shift;
    bool inexact = below > 0 && static_cast<std::uint32_t>(at(below - 1) << shift) != 0;
    for (int i = 0; i < below - 1; ++i) inexact |= value.digit[i] != 0;
    return inexact;
}

inline Unrounded leading(const Magnitude& value) {
    if (value.count == 0) return {};
    std::uint32_t digit[2];
    Unrounded result{value.negative, false, 0, 0};
    result.inexact = top_digits(value, digit, 2, result.exponent);
    result.mantissa = std::uint64_t{digit[1]} << 32 | digit[0];
    return result;
}

// Returns a / b for b != 0, to 64 bits at least: long division (Knuth, The Art of Computer
// Programming, vol. 2, 4.3.1 D) to three digits, the first of which is 0 or 1.
inline Unrounded quotient(const Magnitude& a, const Magnitude& b) {
    if (a.count == 0) return {};
    const int n = std::max(b.count, 2);
    std::uint32_t divisor[ExactSum::digits + 1], rest[ExactSum::digits + 4];
    int divisor_exponent, rest_exponent;
    top_digits(b, divisor, n, divisor_exponent);
    bool inexact = top_digits(a, rest, n + 2, rest_exponent);
    rest[n + 2] = 0;
    std::uint64_t mantissa = 0;
    bool carried = false;
    for (int j = 2; j >= 0; --j) {
        const std::uint64_t high = std::uint64_t{rest[j + n]} << 32 | rest[j + n - 1];
        std::uint64_t digit = high / divisor[n - 1], left = high % divisor[n - 1];
        while (digit >> 32 || digit * divisor[n - 2] > (left << 32 | rest[j + n - 2])) {
            --digit;
            left += divisor[n - 1];
            if (left >> 32) break;
        }
        std::uint64_t product = 0;
        std::int64_t borrow = 0;
        for (int i = 0; i < n; ++i) {
            product += digit * divisor[i];
            borrow += static_cast<std::int64_t>(rest[i + j]) -
                      static_cast<std::int64_t>(product & 0xffffffff);
            rest[i + j] = static_cast<std::uint32_t>(borrow);
            borrow >>= 32;
            product >>= 32;
        }
        borrow += static_cast<std::int64_t>(rest[j + n]) - static_cast<std::int64_t>(product);
        rest[j + n] = static_cast<std::uint32_t>(borrow);
        if (borrow < 0) {  // the digit was one too large
            --digit;
            std::uint64_t sum = 0;
            for (int i = 0; i < n; ++i) {
                sum += std::uint64_t{rest[i + j]} + divisor[i];
                rest[i + j] = static_cast<std::uint32_t>(sum);
                sum >>= 32;
            }
            rest[j + n] += static_cast<std::uint32_t>(sum);
        }
        if (j == 2) carried = digit != 0;
        else mantissa = mantissa << 32 | digit;
    }
    for (int i = 0; i < n; ++i) inexact |= rest[i] != 0;
    int exponent = rest_exponent - divisor_exponent;
    if (carried) {
        inexact |= (mantissa & 1) != 0;
        mantissa = mantissa >> 1 | std::uint64_t{1} << 63;
        ++exponent;
    }
    return {a.negative != b.negative, inexact, mantissa, exponent};
}

inline bool is_finite(const ExactSum& sum) {
    return !(sum.nan || sum.positive_infinity || sum.negative_infinity);
}

// Returns a sum that is not finite as IEEE adds specials: NaN if one was NaN or both infinities
// met.
inline double special(const ExactSum& sum) {
    if (sum.nan || (sum.positive_infinity && sum.negative_infinity))
        return std::numeric_limits<double>::quiet_NaN();
    return sum.positive_infinity ? std::numeric_limits<double>::infinity()
                                 : -std::numeric_limits<double>::infinity();
}

inline double rounded(const ExactSum& sum, Format format) {
    return is_finite(sum) ? rounded(leading(magnitude(sum)), format) : special(sum);
}

// Returns sum / weight, rounded once; IEEE's quotients where one is not finite or weight is 0.
inline double rounded_quotient(const ExactSum& sum, const ExactSum& weight, Format format) {
    const Magnitude dividend = magnitude(sum), divisor = magnitude(weight);
    if (is_finite(sum) && is_finite(weight) && divisor.count != 0)
        return rounded(quotient(dividend, divisor), format);
    const auto ieee = [](const ExactSum& part, const Magnitude& value) {
        return !is_finite(part)   ? special(part)
               : value.count == 0 ? 0.0
               : value.negative   ? -1.0
                                  : 1.0;
    };
    return ieee(sum, dividend) / ieee(weight, divisor) +
           0.0;  // of a finite loss by an infinite weight: +0
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
