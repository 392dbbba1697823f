// SPDX-License-Identifier: BSD-3-Clause
// Sums without error. A block of values is summed in a few doubles by SIMD when their exponents prove that no
// addition rounds; otherwise value by value in integers. Either way the sum is an integer in fixed point, so it
// does not depend on the order, the number of parts, or the floating-point environment. It is rounded once.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "stream.hpp"

namespace nll {

// Σ digit[i]·2^(32·i + lowest_exponent). From the last bit of the product of two subnormals, 2^-2148, to the sum of
// 2^62 products of the largest doubles. Digits outside [low, high) are zero and unwritten.
struct ExactSum {
    static constexpr int lowest_exponent = -2176;
    static constexpr int digits = 136;
    std::int64_t digit[digits];
    int low = digits, high = 0;
    int pending = 0;  // additions since the last carry
    bool nan = false, positive_infinity = false, negative_infinity = false;
};

inline namespace NLL_INSTRUCTION_SET {

// ---------------------------------------------------------------- the integer accumulator

// Every digit but the highest comes into [0, 2^32). That one keeps the sign of the whole.
inline void carry(ExactSum& sum) {
    std::int64_t over = 0;
    for (int i = sum.low; i < sum.high; ++i) {
        const std::int64_t digit = sum.digit[i] + over;
        if (i + 1 == sum.high && digit >= -(std::int64_t{1} << 32) && digit < std::int64_t{1} << 32) {
            sum.digit[i] = digit;
            break;
        }
        over = digit >> 32;
        sum.digit[i] = digit & 0xffffffff;
        if (i + 1 == sum.high) sum.digit[sum.high++] = 0;
    }
    sum.pending = 0;
}

inline void touch(ExactSum& sum, int first, int last) {
    if (sum.high == 0) sum.low = sum.high = first;
    while (sum.low > first) sum.digit[--sum.low] = 0;
    while (sum.high < last) sum.digit[sum.high++] = 0;
}

// sum += ±magnitude·2^exponent
inline void add(ExactSum& sum, std::uint64_t magnitude, int exponent, bool negative) {
    const int place = exponent - ExactSum::lowest_exponent;
    const int first = place >> 5, shift = place & 31;
    touch(sum, first, first + 3);
    const std::uint64_t low = (magnitude & 0xffffffff) << shift, high = (magnitude >> 32) << shift;
    const std::int64_t sign = negative ? -1 : 1;
    sum.digit[first] += sign * static_cast<std::int64_t>(low & 0xffffffff);
    sum.digit[first + 1] += sign * static_cast<std::int64_t>((low >> 32) + (high & 0xffffffff));
    sum.digit[first + 2] += sign * static_cast<std::int64_t>(high >> 32);
    if (++sum.pending == 1 << 28) carry(sum);
}

struct Decoded {
    std::uint64_t magnitude;
    int exponent;
    bool negative, finite;
};

// ±magnitude·2^exponent by integers, so that a subnormal counts even where the processor would flush it.
template <class Real> Decoded decoded(Real value) {
    using Bits = std::conditional_t<sizeof(Real) == 4, std::uint32_t, std::uint64_t>;
    constexpr int fraction_bits = format_of<Real>.precision - 1;
    constexpr Bits exponents = (Bits{1} << (8 * sizeof(Real) - 1 - fraction_bits)) - 1;
    const auto bits = std::bit_cast<Bits>(value);
    const Bits exponent = (bits >> fraction_bits) & exponents;
    const Bits fraction = bits & ((Bits{1} << fraction_bits) - 1);
    return {exponent ? fraction | Bits{1} << fraction_bits : fraction,
            format_of<Real>.smallest_exponent + static_cast<int>(exponent ? exponent - 1 : 0),
            (bits >> (8 * sizeof(Real) - 1)) != 0, exponent != exponents};
}

inline void add_special(ExactSum& sum, double value) {
    sum.nan |= value != value;
    sum.positive_infinity |= value > 0;
    sum.negative_infinity |= value < 0;
}

template <class Real> void add(ExactSum& sum, Real value) {
    const Decoded d = decoded(value);
    if (!d.finite) add_special(sum, value);
    else if (d.magnitude != 0) add(sum, d.magnitude, d.exponent, d.negative);
}

// sum += a·b, in up to 106 bits and at any exponent
inline void add_product(ExactSum& sum, double a, double b) {
    const Decoded x = decoded(a), y = decoded(b);
    if (!x.finite || !y.finite) return add_special(sum, a * b);
    const std::uint64_t x_high = x.magnitude >> 32, x_low = x.magnitude & 0xffffffff;
    const std::uint64_t y_high = y.magnitude >> 32, y_low = y.magnitude & 0xffffffff;
    const int exponent = x.exponent + y.exponent;
    const bool negative = x.negative != y.negative;
    add(sum, x_low * y_low, exponent, negative);
    add(sum, x_low * y_high, exponent + 32, negative);
    add(sum, x_high * y_low, exponent + 32, negative);
    add(sum, x_high * y_high, exponent + 64, negative);
}

inline void merge(ExactSum& sum, const ExactSum& other) {
    sum.nan |= other.nan;
    sum.positive_infinity |= other.positive_infinity;
    sum.negative_infinity |= other.negative_infinity;
    if (other.high == 0) return;
    if (sum.high == 0) {
        std::copy(other.digit + other.low, other.digit + other.high, sum.digit + other.low);
        sum.low = other.low;
        sum.high = other.high;
        sum.pending = other.pending;
        return;
    }
    ExactSum part = other;
    carry(part);
    carry(sum);
    touch(sum, part.low, part.high);
    for (int i = part.low; i < part.high; ++i) sum.digit[i] += part.digit[i];
    sum.pending = 1;
}

// ---------------------------------------------------------------- blocks

inline constexpr index_t block_size = 512;  // values whose sum the certificate below is proved for

// Blocks are padded with zeros to a multiple of this. Loops over lanes have a fixed length, which compilers turn into
// SIMD.
inline constexpr index_t lanes = 16;
constexpr index_t padded(index_t count) { return (count + lanes - 1) / lanes * lanes; }

template <class Real> struct Survey {
    using Bits = std::conditional_t<sizeof(Real) == 4, std::uint32_t, std::uint64_t>;
    static constexpr int exponent_shift = format_of<Real>.precision - 1;
    Bits largest = 0;   // magnitude, as bits; 0 if all values are zero
    Bits smallest = 0;  // of those that are not zero
    Bits fraction = 0;  // all fractions' bits together
    double total = 0;   // the plain sum

    // Exponents, of what is below 2^(top + 1) and not below 2^bottom. One less for subnormals, one more for specials.
    int top() const { return exponent(largest); }
    int bottom() const { return exponent(smallest); }
    static int exponent(Bits magnitude) {
        return static_cast<int>(magnitude >> exponent_shift) + 1 - format_of<Real>.past_largest_exponent;
    }
};

// values: padded to whole lanes with zeros.
template <class Real> Survey<Real> survey(const Real* values, index_t count) {
    using Bits = typename Survey<Real>::Bits;
    constexpr Bits sign = Bits{1} << (8 * sizeof(Real) - 1);
    Bits largest[lanes], before_smallest[lanes], fraction[lanes];
    double total[lanes];
    for (int l = 0; l < lanes; ++l) largest[l] = fraction[l] = 0, before_smallest[l] = ~Bits{0}, total[l] = 0;
    for (index_t i = 0; i < count; i += lanes)
        for (int l = 0; l < lanes; ++l) {
            const Bits bits = std::bit_cast<Bits>(values[i + l]) & ~sign;
            largest[l] = std::max(largest[l], bits);
            before_smallest[l] = std::min<Bits>(before_smallest[l], bits - 1);  // zero wraps to the largest
            fraction[l] |= bits;
            total[l] += static_cast<double>(values[i + l]);
        }
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) {
            largest[l] = std::max(largest[l], largest[l + half]);
            before_smallest[l] = std::min(before_smallest[l], before_smallest[l + half]);
            fraction[l] |= fraction[l + half];
            total[l] += total[l + half];
        }
    return {largest[0], static_cast<Bits>(before_smallest[0] + 1), fraction[0], total[0]};
}

// value(0) + … + value(count - 1), each addition rounded. Values up to whole lanes are asked for.
template <class Value> double plain_sum(index_t count, Value&& value) {
    double total[lanes] = {};
    for (index_t i = 0; i < count; i += lanes)
        for (int l = 0; l < lanes; ++l) total[l] += value(i + l);
    for (int l = 1; l < lanes; ++l) total[0] += total[l];
    return total[0];
}

// sum += value(0) + … + value(count - 1), which are below 2^bound, cut into slices 43 bits apart by adding and taking
// off 1.5·2^k. The first slice has multiples of 2^(bound - 43) up to 2^bound, so 512 of them add in 52 bits; and so on.
// The last has what is left. Values up to whole lanes are asked for, and must be 0 from count on.
template <int slices, class Value> void add_sliced(ExactSum& sum, index_t count, int bound, Value&& value) {
    double cut[slices], total[slices][lanes] = {};
    for (int s = 0; s < slices; ++s) cut[s] = 1.5 * power_of_two(bound + 9 - 43 * s);
    for (index_t i = 0; i < count; i += lanes) {
        NLL_ONE_GROUP_OF_LANES;
        double rest[lanes];
        for (int l = 0; l < lanes; ++l) rest[l] = value(i + l);
        for (int s = 0; s < slices - 1; ++s)
            for (int l = 0; l < lanes; ++l) {
                const double slice = (rest[l] + cut[s]) - cut[s];
                total[s][l] += slice;
                rest[l] -= slice;
            }
        for (int l = 0; l < lanes; ++l) total[slices - 1][l] += rest[l];
    }
    for (int s = 0; s < slices; ++s) {
        for (int l = 1; l < lanes; ++l) total[s][0] += total[s][l];
        add(sum, total[s][0]);
    }
}

// The spans, largest less smallest exponent of a block, up to which so many slices add without rounding. One: 53 bits,
// less 9 for 512 values, less the values' own bits. Two: the remainders, below 2^-43 of the bound, add likewise. Three:
// below 2^-86. One and two hold in every rounding mode. Three needs the rounding to nearest that every call sets: in
// other modes a small value rounds away to a whole unit of the first slice, and its remainder may have 54 bits.
struct Spans {
    int one, two, three;  // never: no span is that small
    static constexpr int never = -1;
};
template <class Scalar> inline constexpr Spans certified{};
template <> inline constexpr Spans certified<float16>{40, Spans::never, Spans::never};  // multiples of 2^-24 below 2^16
template <> inline constexpr Spans certified<bfloat16>{36, 63, Spans::never};
template <> inline constexpr Spans certified<float>{20, 63, Spans::never};
template <> inline constexpr Spans certified<double>{Spans::never, 34, 77};

// sum += the same in as many slices as a span needs, or one by one.
template <class Value>
void add_certified(ExactSum& sum, index_t count, int span, int bound, Spans spans, Value&& value) {
    if (span <= spans.two) add_sliced<2>(sum, count, bound, value);
    else if (span <= spans.three) add_sliced<3>(sum, count, bound, value);
    else
        for (index_t i = 0; i < count; ++i) add(sum, value(i));
}

// sum += the values of a block, padded to whole lanes with zeros; `spans` as certified for the numbers that they are.
template <class Real>
void add_block(ExactSum& sum, const Real* values, index_t count, const Survey<Real>& block, Spans spans) {
    if (block.largest == 0) return;
    constexpr int top_limit = sizeof(Real) == 4 ? 128 : 977, bottom_limit = sizeof(Real) == 4 ? -126 : -873;
    const int span = block.top() - block.bottom();
    // Beyond these, cuts or what they leave might not be normal numbers.
    if (block.top() >= top_limit || block.bottom() < bottom_limit)
        for (index_t i = 0; i < count; ++i) add(sum, values[i]);
    else if (span <= spans.one) add(sum, block.total);
    else
        add_certified(sum, count, span, block.top() + 1, spans,
                      [&](index_t i) { return static_cast<double>(values[i]); });
}

// Whether every value of a block has at most float's 24 bits.
inline bool fits_float(const Survey<double>& block) { return (block.fraction & ((1u << 29) - 1)) == 0; }

// sum += Σ a·b of a block, both padded to whole lanes with zeros.
template <class Real>
void add_products(ExactSum& sum, const Real* a, const double* b, index_t count, const Survey<double>& b_block) {
    const Survey<Real> a_block = survey(a, count);
    // Magnitudes of 2^-400 to 2^400 keep every product, and the error of every product, a normal number.
    constexpr int limit = 400,
                  lowest = std::max(-limit, format_of<Real>.smallest_exponent + format_of<Real>.precision - 1);
    const bool safe = a_block.top() < std::min(limit, format_of<Real>.past_largest_exponent) && b_block.top() < limit &&
                      (a_block.largest == 0 || a_block.bottom() >= lowest) &&
                      (b_block.largest == 0 || b_block.bottom() >= -limit);
    if (!safe) {
        for (index_t i = 0; i < count; ++i) add_product(sum, static_cast<double>(a[i]), b[i]);
        return;
    }
    if (a_block.largest == 0 || b_block.largest == 0) return;
    const int span = (a_block.top() - a_block.bottom()) + (b_block.top() - b_block.bottom()) + 1;
    const int bound = a_block.top() + b_block.top() + 2;
    add_certified(sum, count, span, bound, certified<double>,
                  [&](index_t i) { return static_cast<double>(a[i]) * b[i]; });
    if (sizeof(Real) == 4 && fits_float(b_block)) return;  // 24 + 24 bits: the products were exact
    alignas(64) double error[block_size];
    for (index_t i = 0; i < padded(count); ++i) {
        const auto factor = static_cast<double>(a[i]);
        error[i] = std::fma(factor, b[i], -(factor * b[i]));
    }
    add_block(sum, error, count, survey(error, count), certified<double>);
}

// ---------------------------------------------------------------- rounding

// ±(mantissa + what is left)·2^exponent, where what is left is in [0, 1), and not 0 only if `inexact`.
// The mantissa's top bit is set, or the value is zero.
struct Unrounded {
    bool negative, inexact;
    std::uint64_t mantissa;
    int exponent;
};

// To nearest, ties to even, with integers only: a conversion would round twice, or flush subnormal results.
inline double rounded(const Unrounded& value, Format format) {
    if (value.mantissa == 0) return 0.0;
    const std::uint64_t sign = std::uint64_t{value.negative} << 63;
    // The exponent of the last bit that is kept.
    const int last = std::max(value.exponent + 64 - format.precision, format.smallest_exponent);
    const int drop = last - value.exponent;
    std::uint64_t kept = 0, half = 0, rest = 0;
    if (drop < 64)
        kept = value.mantissa >> drop, half = std::uint64_t{1} << (drop - 1), rest = value.mantissa & (2 * half - 1);
    if (drop == 64) half = std::uint64_t{1} << 63, rest = value.mantissa;
    if (drop <= 64 && (rest > half || (rest == half && (value.inexact || (kept & 1))))) ++kept;
    const auto width = static_cast<int>(std::bit_width(kept));
    if (kept == 0) return std::bit_cast<double>(sign);
    if (width + last > format.past_largest_exponent)
        return std::bit_cast<double>(sign | std::bit_cast<std::uint64_t>(std::numeric_limits<double>::infinity()));
    const int exponent = width - 1 + last;
    if (exponent < -1022) return std::bit_cast<double>(sign | kept);  // last is -1074: a subnormal double
    return std::bit_cast<double>(sign | static_cast<std::uint64_t>(exponent + 1023) << 52 |
                                 ((kept << (53 - width)) & ((std::uint64_t{1} << 52) - 1)));
}

// |sum| as digits, least first, without zeros at either end: Σ digit[i]·2^(32·i + exponent).
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

// The digits shifted up until the top bit is set, so many of the highest of them (zeros below, if there are fewer).
// Returns whether a digit below those is not zero. `exponent` becomes that of the last of them.
inline bool top_digits(const Magnitude& value, std::uint32_t* digit, int count, int& exponent) {
    const int shift = std::countl_zero(value.digit[value.count - 1]);
    const auto at = [&](int i) -> std::uint64_t { return i >= 0 ? value.digit[i] : 0; };
    const int below = value.count - count;
    for (int i = 0; i < count; ++i)
        digit[i] = static_cast<std::uint32_t>((at(i + below) << 32 | at(i + below - 1)) >> (32 - shift));
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

// a / b for b != 0: long division (Knuth, The Art of Computer Programming, vol. 2, 4.3.1 D) to three digits, the first
// of which is 0 or 1, so to 64 bits at least.
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
            borrow += static_cast<std::int64_t>(rest[i + j]) - static_cast<std::int64_t>(product & 0xffffffff);
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

inline bool is_finite(const ExactSum& sum) { return !(sum.nan || sum.positive_infinity || sum.negative_infinity); }

// The sum as IEEE adds specials: NaN if one was NaN or both infinities met.
inline double special(const ExactSum& sum) {
    if (sum.nan || (sum.positive_infinity && sum.negative_infinity)) return std::numeric_limits<double>::quiet_NaN();
    return sum.positive_infinity ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
}

inline double rounded(const ExactSum& sum, Format format) {
    return is_finite(sum) ? rounded(leading(magnitude(sum)), format) : special(sum);
}

// sum / weight, rounded once; with the quotients of IEEE where one is not finite or weight is 0.
inline double rounded_quotient(const ExactSum& sum, const ExactSum& weight, Format format) {
    const Magnitude dividend = magnitude(sum), divisor = magnitude(weight);
    if (is_finite(sum) && is_finite(weight) && divisor.count != 0) return rounded(quotient(dividend, divisor), format);
    const auto ieee = [](const ExactSum& part, const Magnitude& value) {
        return !is_finite(part) ? special(part) : value.count == 0 ? 0.0 : value.negative ? -1.0 : 1.0;
    };
    return ieee(sum, dividend) / ieee(weight, divisor) + 0.0;  // of a finite loss by an infinite weight: +0
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
