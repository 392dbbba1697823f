// SPDX-License-Identifier: BSD-3-Clause
// Numbers n·2^exponent with integers n of any length, as one learns to add, divide and round
// them at school. They share no code with the library.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "bytes.hpp"

namespace fuzz {

// ---------------------------------------------------------------- integers without sign

// Holds Σ digit[i]·2^(32·i). The highest digit is not 0; no digits are zero.
using Natural = std::vector<std::uint32_t>;

inline void trim(Natural& n) {
    while (!n.empty() && n.back() == 0) n.pop_back();
}
inline Natural natural(std::uint64_t value) {
    Natural n{static_cast<std::uint32_t>(value), static_cast<std::uint32_t>(value >> 32)};
    trim(n);
    return n;
}
inline int length_in_bits(const Natural& n) {
    return n.empty() ? 0 : 32 * static_cast<int>(n.size()) - std::countl_zero(n.back());
}
inline bool less(const Natural& a, const Natural& b) {
    if (a.size() != b.size()) return a.size() < b.size();
    return std::lexicographical_compare(a.rbegin(), a.rend(), b.rbegin(), b.rend());
}
inline Natural shifted_up(const Natural& n, int bits) {
    Natural result(static_cast<std::size_t>(bits) / 32);
    result.reserve(result.size() + n.size() + 1);
    std::uint64_t over = 0;
    for (const std::uint32_t digit : n) {
        over |= std::uint64_t{digit} << bits % 32;
        result.push_back(static_cast<std::uint32_t>(over));
        over >>= 32;
    }
    result.push_back(static_cast<std::uint32_t>(over));
    trim(result);
    return result;
}
inline Natural sum_of(const Natural& a, const Natural& b) {
    Natural result;
    std::uint64_t over = 0;
    for (std::size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
        over += std::uint64_t{i < a.size() ? a[i] : 0} + (i < b.size() ? b[i] : 0);
        result.push_back(static_cast<std::uint32_t>(over));
        over >>= 32;
    }
    result.push_back(static_cast<std::uint32_t>(over));
    trim(result);
    return result;
}
// Returns a - b, which is not negative.
inline Natural difference_of(const Natural& a, const Natural& b) {
    Natural result;
    std::int64_t over = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        over += std::int64_t{a[i]} - (i < b.size() ? b[i] : 0);
        result.push_back(static_cast<std::uint32_t>(over));
        over >>= 32;
    }
    trim(result);
    return result;
}
// ---------------------------------------------------------------- numbers

// Takes a finite double apart: ±size·2^exponent.
struct Parts {
    std::uint64_t size;
    int exponent;
    bool negative;

    explicit Parts(double value) {
        const auto bits = std::bit_cast<std::uint64_t>(value);
        const std::uint64_t fraction = bits & ((std::uint64_t{1} << 52) - 1);
        const int place = static_cast<int>(bits >> 52 & 0x7ff);
        REQUIRE(place != 0x7ff);
        size = place ? fraction | std::uint64_t{1} << 52 : fraction;
        exponent = std::max(place, 1) - 1075;
        negative = bits >> 63;
    }
};

// Holds ±n·2^exponent.
struct Dyadic {
    Natural n{};
    int exponent = 0;
    bool negative = false;

    Dyadic(Natural n, int exponent, bool negative)
        : n(std::move(n)), exponent(exponent), negative(negative) {}
    bool is_zero() const { return n.empty(); }
};

inline Dyadic operator-(Dyadic a) {
    a.negative = !a.negative;
    return a;
}
inline Dyadic operator+(const Dyadic& a, const Dyadic& b) {
    if (a.is_zero()) return b;
    if (b.is_zero()) return a;
    const int exponent = std::min(a.exponent, b.exponent);
    const Natural x = shifted_up(a.n, a.exponent - exponent);
    const Natural y = shifted_up(b.n, b.exponent - exponent);
    if (a.negative == b.negative) return {sum_of(x, y), exponent, a.negative};
    if (less(x, y)) return {difference_of(y, x), exponent, b.negative};
    return {difference_of(x, y), exponent, a.negative};
}
inline bool operator==(const Dyadic& a, const Dyadic& b) { return (a + -b).is_zero(); }

inline bool less_in_size(const Dyadic& a, const Dyadic& b) {
    const int exponent = std::min(a.exponent, b.exponent);
    return less(shifted_up(a.n, a.exponent - exponent), shifted_up(b.n, b.exponent - exponent));
}
// Tells whether a number is a multiple of 2^exponent.
inline bool is_multiple_of_power(const Dyadic& a, int exponent) {
    for (int i = 0; a.exponent + i < exponent && i < length_in_bits(a.n); ++i)
        if (a.n[static_cast<std::size_t>(i / 32)] >> i % 32 & 1) return false;
    return true;
}

// Describes a format of floating point by its digits in bits, the exponent of its last subnormal
// bit, and the exponent of the first power of 2 that it has not.
struct Precision {
    int bits, last, end;
};
inline constexpr Precision in_float16{11, -24, 16}, in_bfloat16{8, -133, 128},
    in_float{24, -149, 128}, in_double{53, -1074, 1024};

// Returns a / b, b != 0, rounded to nearest, ties to even.
inline double rounded_quotient(const Dyadic& a, const Dyadic& b, Precision format) {
    if (a.is_zero()) return 0.0;
    const int apart = a.exponent - b.exponent;
    // The quotient of the integers is in (2^(top - 1), 2^(top + 1)): one more bit than it may need
    // would round at the wrong place.
    int top = length_in_bits(a.n) - length_in_bits(b.n);
    if (less(shifted_up(a.n, std::max(-top, 0)), shifted_up(b.n, std::max(top, 0)))) --top;
    const int last = std::max(top + apart - format.bits + 1, format.last);
    Natural rest = shifted_up(a.n, std::max(apart - last, 0));
    const Natural divisor = shifted_up(b.n, std::max(last - apart, 0));
    std::uint64_t quotient = 0;
    for (int i = 53; i >= 0; --i) {
        const Natural part = shifted_up(divisor, i);
        if (less(rest, part)) continue;
        rest = difference_of(rest, part);
        quotient |= std::uint64_t{1} << i;
    }
    const Natural twice = shifted_up(rest, 1);
    const bool is_tie = !less(twice, divisor) && !less(divisor, twice);
    quotient += is_tie ? quotient & 1 : less(divisor, twice);
    const double size = std::ldexp(static_cast<double>(quotient), last);
    const double value = size >= std::ldexp(1.0, format.end - 1) * 2 ? infinity : size;
    return a.negative != b.negative ? -value : value;
}
inline double rounded(const Dyadic& a, Precision format) {
    return rounded_quotient(a, {natural(1), 0, false}, format);
}

// ---------------------------------------------------------------- sums

// Holds a number in two's complement, in units of 2^-2176: a sum of many is one carry after the
// other.
class FixedPoint {
public:
    // Adds ±size·2^exponent.
    void add(unsigned __int128 size, int exponent, bool negative) {
        const int place = exponent - unit;
        std::int64_t over = 0;
        auto digit = digits_.begin() + place / 32;
        std::uint32_t part = static_cast<std::uint32_t>(size) << place % 32;
        size >>= 32 - place % 32;
        for (; digit != digits_.end(); ++digit) {
            over += negative ? std::int64_t{*digit} - part : std::int64_t{*digit} + part;
            *digit = static_cast<std::uint32_t>(over);
            over >>= 32;
            part = static_cast<std::uint32_t>(size);
            size >>= 32;
        }
    }
    void operator+=(const FixedPoint& other) {
        std::uint64_t over = 0;
        for (std::size_t i = 0; i < digits_.size(); ++i) {
            over += std::uint64_t{digits_[i]} + other.digits_[i];
            digits_[i] = static_cast<std::uint32_t>(over);
            over >>= 32;
        }
    }
    bool is_negative() const { return digits_.back() >> 31; }
    Dyadic value() const {
        Natural n(digits_.begin(), digits_.end());
        if (is_negative()) {
            for (std::uint32_t& digit : n) digit = ~digit;
            n = sum_of(n, natural(1));
        }
        trim(n);
        return {n, unit, is_negative()};
    }

private:
    static constexpr int unit = -2176;
    std::array<std::uint32_t, 140> digits_{};
};

// Holds a sum as IEEE's rules have it: what is finite without error, and whether a NaN or an
// infinity was added.
struct Sum {
    FixedPoint finite;
    bool nan = false, positive_infinity = false, negative_infinity = false;

    void add(double value) { add_product(value, 1); }
    void add_product(double a, double b) {
        const double product = a * b;
        if (a - a == 0 && b - b == 0) {
            const Parts x(a), y(b);
            finite.add(static_cast<unsigned __int128>(x.size) * y.size, x.exponent + y.exponent,
                       x.negative != y.negative);
            return;
        }
        nan |= product != product;
        positive_infinity |= product == infinity;
        negative_infinity |= product == -infinity;
    }
    void merge(const Sum& other) {
        finite += other.finite;
        nan |= other.nan;
        positive_infinity |= other.positive_infinity;
        negative_infinity |= other.negative_infinity;
    }
    bool is_finite() const { return !(nan || positive_infinity || negative_infinity); }
    bool is_zero() const { return is_finite() && finite.value().is_zero(); }
    // Returns a number of this sum's sign, and its special if there is one.
    double sign() const {
        if (nan || (positive_infinity && negative_infinity)) return fuzz::nan;
        if (!is_finite()) return positive_infinity ? infinity : -infinity;
        return is_zero() ? 0.0 : finite.is_negative() ? -1.0 : 1.0;
    }
};
inline double rounded(const Sum& sum, Precision format) {
    return sum.is_finite() ? rounded(sum.finite.value(), format) : sum.sign();
}
// A finite sum over an infinite one is +0.
inline double rounded_quotient(const Sum& a, const Sum& b, Precision format) {
    if (a.is_finite() && b.is_finite() && !b.is_zero())
        return rounded_quotient(a.finite.value(), b.finite.value(), format);
    return a.sign() / b.sign() + 0.0;
}

// Tells whether two doubles have the same bits. All NaNs are one.
inline bool same(double a, double b) {
    return (a != a && b != b) || std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

}  // namespace fuzz
