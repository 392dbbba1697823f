// SPDX-License-Identifier: BSD-3-Clause
// Sums without error. SIMD adds a block of values in a few doubles when their exponents prove that
// no addition rounds; otherwise integers add them one by one. Either way the sum is an integer in
// fixed point: it does not depend on the order, the number of parts, or the floating-point
// environment. rounding.hpp rounds it once.
//
//     range = block_range(values)                    largest and smallest exponent, plain sum
//     span of exponents <= certified.one             sum += the plain sum: no addition rounded
//                       <= two, three                sum += Σ high slices, Σ rest: none rounded
//                       otherwise                    sum += each value, in integers
//
// See tests/cpp/certificate.cpp for the worst cases of each limit.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "formats.hpp"
#include "tuning.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

// Holds Σ digit[i]·2^(32·i + lowest_exponent): from the last bit of the product of two subnormals,
// 2^-2148, to the sum of 2^62 products of the largest doubles. Digits outside [low, high) are zero
// and unwritten.
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

// Brings every digit but the highest into [0, 2^32). That one keeps the sign of the whole.
inline void carry(ExactSum& sum) {
    std::int64_t over = 0;
    for (int i = sum.low; i < sum.high; ++i) {
        const std::int64_t digit = sum.digit[i] + over;
        if (i + 1 == sum.high && digit >= -(std::int64_t{1} << 32) &&
            digit < std::int64_t{1} << 32) {
            sum.digit[i] = digit;
            break;
        }
        over = digit >> 32;
        sum.digit[i] = digit & 0xffffffff;
        if (i + 1 == sum.high) sum.digit[sum.high++] = 0;
    }
    sum.pending = 0;
}

inline void extend(ExactSum& sum, int first, int last) {
    if (sum.high == 0) sum.low = sum.high = first;
    while (sum.low > first) sum.digit[--sum.low] = 0;
    while (sum.high < last) sum.digit[sum.high++] = 0;
}

// Adds ±magnitude·2^exponent.
inline void add(ExactSum& sum, std::uint64_t magnitude, int exponent, bool negative) {
    const int place = exponent - ExactSum::lowest_exponent;
    const int first = place >> 5, shift = place & 31;
    extend(sum, first, first + 3);
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

// Takes a number apart, ±magnitude·2^exponent, by integers: a subnormal counts even where the
// processor would flush it.
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

// Adds a·b, in up to 106 bits and at any exponent.
inline void add_product(ExactSum& sum, double a, double b) {
    const Decoded x = decoded(a), y = decoded(b);
    if (!x.finite || !y.finite) return add_special(sum, a * b);
    if (x.magnitude == 0 || y.magnitude == 0) return;
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
    const auto add_digits = [&](const ExactSum& part) {
        extend(sum, part.low, part.high);
        for (int i = part.low; i < part.high; ++i) sum.digit[i] += part.digit[i];
        sum.pending += part.pending + 1;
    };
    if (sum.pending + other.pending < (1 << 28) - 1) return add_digits(other);
    ExactSum part = other;
    carry(part);
    carry(sum);
    add_digits(part);
}

// ---------------------------------------------------------------- blocks

// Says what the certificate needs to know of a block of values.
template <class Real> struct BlockRange {
    using Bits = std::conditional_t<sizeof(Real) == 4, std::uint32_t, std::uint64_t>;
    static constexpr int exponent_shift = format_of<Real>.precision - 1;
    Bits largest = 0;   // magnitude, as bits; 0 if all values are zero
    Bits smallest = 0;  // of those that are not zero
    Bits fraction = 0;  // all fractions' bits together
    double total = 0;   // the plain sum

    // Return exponents: values are below 2^(top + 1) and, if not zero, at least 2^bottom.
    // Subnormals count one less, infinities and NaN one more.
    int top() const { return exponent(largest); }
    int bottom() const { return exponent(smallest); }
    static int exponent(Bits magnitude) {
        return static_cast<int>(magnitude >> exponent_shift) + 1 -
               format_of<Real>.past_largest_exponent;
    }
};

// Fills up to whole lanes with zeros, which change no sum.
template <class T> void pad(T* values, index_t count) {
    for (index_t i = count; i % lanes != 0; ++i) values[i] = 0;
}

// Finds the range of `values`, (padded(count),), which are 0 from count on.
template <class Real> BlockRange<Real> block_range(const Real* values, index_t count) {
    using Bits = typename BlockRange<Real>::Bits;
    constexpr Bits sign = Bits{1} << (8 * sizeof(Real) - 1);
    Bits largest[lanes], before_smallest[lanes], fraction[lanes];
    double total[lanes];
    for (int l = 0; l < lanes; ++l)
        largest[l] = fraction[l] = 0, before_smallest[l] = ~Bits{0}, total[l] = 0;
    for (index_t i = 0; i < count; i += lanes)
        for (int l = 0; l < lanes; ++l) {
            const Bits bits = std::bit_cast<Bits>(values[i + l]) & ~sign;
            largest[l] = std::max(largest[l], bits);
            before_smallest[l] =
                std::min<Bits>(before_smallest[l], bits - 1);  // zero wraps to the largest
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

// Adds value(0) + … + value(count - 1), which are below 2^bound, cut into slices 43 bits apart by
// adding and taking off 1.5·2^k. The first slice has multiples of 2^(bound - 43) up to 2^bound, so
// 512 of them add in 52 bits; and so on. The last has what is left. Values up to whole lanes are
// asked for, and must be 0 from count on.
template <int slices, class Value>
void add_sliced(ExactSum& sum, index_t count, int bound, Value&& value) {
    double cut[slices], total[slices][lanes] = {};
    for (int s = 0; s < slices; ++s) cut[s] = 1.5 * exp2i(bound + 9 - 43 * s);
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

// Holds the spans, largest less smallest exponent of a block, up to which one, two or three slices
// add without rounding. One: 53 bits, less 9 for the sum of 512 values, less the bits of a value.
// Two: what the first leaves is below 2^-43 of the bound, and adds up likewise. Three: what two
// leave is below 2^-86 of it. One and two hold in every rounding mode. Three needs the rounding to
// nearest that every call sets: in other modes a small value rounds away to a whole unit of the
// first slice, and its remainder may have 54 bits.
struct Spans {
    int one, two, three;  // never: no span is that small
    static constexpr int never = -1;
};
template <class Scalar> inline constexpr Spans certified{};
template <>
inline constexpr Spans certified<float16>{40, Spans::never,
                                          Spans::never};  // multiples of 2^-24 below 2^16
template <> inline constexpr Spans certified<bfloat16>{36, 63, Spans::never};
template <> inline constexpr Spans certified<float>{20, 63, Spans::never};
template <> inline constexpr Spans certified<double>{Spans::never, 34, 77};

// Adds values likewise, in as many slices as their span needs, or one by one.
template <class Value>
void add_certified(ExactSum& sum, index_t count, int span, int bound, Spans spans, Value&& value) {
    if (span <= spans.two) add_sliced<2>(sum, count, bound, value);
    else if (span <= spans.three) add_sliced<3>(sum, count, bound, value);
    else
        for (index_t i = 0; i < count; ++i) add(sum, value(i));
}

// Adds `values`, (padded(count),), which are 0 from count on; `spans` are certified for the numbers
// that they are.
template <class Real>
void add_block(ExactSum& sum, const Real* values, index_t count, const BlockRange<Real>& block,
               Spans spans) {
    if (block.largest == 0) return;
    constexpr int top_limit = sizeof(Real) == 4 ? 128 : 977,
                  bottom_limit = sizeof(Real) == 4 ? -126 : -873;
    const int span = block.top() - block.bottom();
    // Cuts, and what they leave, are normal numbers within these limits.
    if (block.top() >= top_limit || block.bottom() < bottom_limit)
        for (index_t i = 0; i < count; ++i) add(sum, values[i]);
    else if (span <= spans.one) add(sum, block.total);
    else
        add_certified(sum, count, span, block.top() + 1, spans,
                      [&](index_t i) { return static_cast<double>(values[i]); });
}

// Tells whether every value of a block has at most float's 24 bits.
inline bool fits_float(const BlockRange<double>& block) {
    return (block.fraction & ((1u << 29) - 1)) == 0;
}

// Adds Σ a·b; both are (padded(count),), and 0 from count on.
template <class Real>
void add_products(ExactSum& sum, const Real* a, const double* b, index_t count,
                  const BlockRange<double>& b_block) {
    const BlockRange<Real> a_block = block_range(a, count);
    // Every product, and the error of every product, is a normal number for magnitudes of 2^-400 to
    // 2^400.
    constexpr int limit = 400, lowest = std::max(-limit, format_of<Real>.smallest_exponent +
                                                             format_of<Real>.precision - 1);
    const bool safe = a_block.top() < std::min(limit, format_of<Real>.past_largest_exponent) &&
                      b_block.top() < limit &&
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
    add_block(sum, error, count, block_range(error, count), certified<double>);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
