// SPDX-License-Identifier: BSD-3-Clause
// The element types as numbers: the 16-bit formats taken apart and put together as their standards
// define them, by arithmetic that shares nothing with the library's.
#pragma once

#include "reference.hpp"

#include <concepts>

namespace elements {

// The bits of a fraction, and the exponents of the lowest and of the highest normal number.
struct Format {
    int bits, lowest, highest;
};
template <class Scalar> inline constexpr Format format{10, -14, 15};
template <> inline constexpr Format format<nll::bfloat16>{7, -126, 127};

template <class Scalar> double widened(Scalar value) {
    if constexpr (std::floating_point<Scalar>) {
        return value;
    } else {
        const auto [bits, lowest, highest] = format<Scalar>;
        const int magnitude = value.bits & 0x7fff, place = std::max(magnitude >> bits, 1) - 1;
        const int number = magnitude - (place << bits);  // with the first bit, which is not stored
        double size = std::ldexp(number, place + lowest - bits);
        if (place > highest - lowest)
            size = number == 1 << bits ? reference::infinity : reference::nan;
        return value.bits >> 15 ? -size : size;
    }
}

// Rounds once, ties to even. A NaN is any.
template <class Scalar> Scalar rounded(double value) {
    if constexpr (std::floating_point<Scalar>) {
        return static_cast<Scalar>(value);
    } else {
        const auto [bits, lowest, highest] = format<Scalar>;
        if (value != value) return {0x7fff};
        const double size = std::min(std::fabs(value), std::ldexp(1.0, highest + 1));
        const int exponent = size == 0 ? lowest : std::max(std::ilogb(size), lowest);
        const double number = reference::nearest_integer(std::ldexp(size, bits - exponent));
        const int magnitude = ((exponent - lowest) << bits) + static_cast<int>(number);
        return {static_cast<std::uint16_t>(magnitude | (std::signbit(value) ? 0x8000 : 0))};
    }
}

// Rounds an entry of a gradient, which is never -0. Halves of bfloat16 go away from zero, those of
// a number that is rounded to float.
template <class Scalar> Scalar rounded_entry(double value) {
    Scalar entry = rounded<Scalar>(value);
    if constexpr (std::same_as<Scalar, nll::bfloat16>) {
        const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
        if (value == value) entry = {static_cast<std::uint16_t>((bits + 0x8000) >> 16)};
    }
    return widened(entry) == 0 ? Scalar{} : entry;
}

}  // namespace elements
