// SPDX-License-Identifier: BSD-3-Clause
// The four formats of floating point and their conversions: exact upwards; downwards rounded once,
// ties to even. (But see rounded_entry for bfloat16.)
#pragma once

#include <cmath>
#include <limits>

#include "simd/hints.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

// Describes a format by its significant bits, the exponent of its last subnormal bit, and that of
// the first power of two past it.
struct Format {
    int precision, smallest_exponent, past_largest_exponent;
};
template <class Scalar> inline constexpr Format format_of{};
template <> inline constexpr Format format_of<float16>{11, -24, 16};
template <> inline constexpr Format format_of<bfloat16>{8, -133, 128};
template <> inline constexpr Format format_of<float>{24, -149, 128};
template <> inline constexpr Format format_of<double>{53, -1074, 1024};

inline namespace NLL_INSTRUCTION_SET {

inline Format format(DType dtype) {
    switch (dtype) {
        case DType::float16: return format_of<float16>;
        case DType::bfloat16: return format_of<bfloat16>;
        case DType::float32: return format_of<float>;
        default: return format_of<double>;
    }
}

// Call visit.operator()<T>() for the T of a dtype.
template <class Visit> decltype(auto) visit_integer(DType dtype, Visit&& visit) {
    switch (dtype) {
        case DType::int8: return visit.template operator()<std::int8_t>();
        case DType::int16: return visit.template operator()<std::int16_t>();
        case DType::int32: return visit.template operator()<std::int32_t>();
        case DType::uint8: return visit.template operator()<std::uint8_t>();
        case DType::uint16: return visit.template operator()<std::uint16_t>();
        case DType::uint32: return visit.template operator()<std::uint32_t>();
        case DType::uint64: return visit.template operator()<std::uint64_t>();
        default: return visit.template operator()<std::int64_t>();
    }
}
template <class Visit> decltype(auto) visit_floating(DType dtype, Visit&& visit) {
    switch (dtype) {
        case DType::float16: return visit.template operator()<float16>();
        case DType::bfloat16: return visit.template operator()<bfloat16>();
        case DType::float32: return visit.template operator()<float>();
        default: return visit.template operator()<double>();
    }
}
template <class Visit> decltype(auto) visit_real(DType dtype, Visit&& visit) {
    return is_floating(dtype) ? visit_floating(dtype, visit) : visit_integer(dtype, visit);
}

inline double exp2i(int exponent) {
    return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52);
}

// Names the type in which a block's values are held: exact for every Scalar.
template <class Scalar>
using Real = std::conditional_t<std::same_as<Scalar, double>, double, float>;

inline float to_real(float value) { return value; }
inline double to_real(double value) { return value; }
inline float to_real(bfloat16 value) {
    return std::bit_cast<float>(std::uint32_t{value.bits} << 16);
}
inline float to_real(float16 value) {
    const std::uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = (value.bits & 0x7fffu)
                                                                         << 13;
    const std::uint32_t normal = magnitude + ((127u - 15u) << 23);
    const std::uint32_t special = magnitude | 0x7f800000u;
    const auto subnormal =
        std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude + (113u << 23)) - 0x1p-14f);
    const std::uint32_t bits = magnitude >= 0x1fu << 23 ? special
                               : magnitude < 1u << 23   ? subnormal
                                                        : normal;
    return std::bit_cast<float>(sign | bits);
}

template <class Scalar> double to_double(Scalar value) {
    if constexpr (std::integral<Scalar>) return static_cast<double>(value);
    else return static_cast<double>(to_real(value));
}

template <class Scalar> [[gnu::always_inline]] inline Scalar from_double(double value) {
    if constexpr (std::same_as<Scalar, double> || std::same_as<Scalar, float>) {
        return static_cast<Scalar>(value);
    } else {
        // Adding and taking off 1.5·2^k rounds to a multiple of 2^(k - 52): the last bit that
        // Scalar keeps here.
        constexpr Format format = format_of<Scalar>;
        const int exponent =
            static_cast<int>(std::bit_cast<std::uint64_t>(value) >> 52 & 0x7ff) - 1023;
        const int last =
            std::max(std::min(exponent, format.past_largest_exponent) - format.precision + 1,
                     format.smallest_exponent);
        const double cut = 1.5 * exp2i(last + 52);
        double kept = std::fabs(value);
        kept = (kept + cut) - cut;
        const bool overflows = kept >= exp2i(format.past_largest_exponent);
        const auto single = std::bit_cast<std::uint32_t>(
            static_cast<float>(overflows ? std::numeric_limits<double>::infinity() : kept));
        const auto sign =
            static_cast<std::uint16_t>(std::bit_cast<std::uint64_t>(value) >> 48 & 0x8000);
        std::uint16_t bits;
        if constexpr (std::same_as<Scalar, bfloat16>)
            bits = static_cast<std::uint16_t>(single >> 16);
        else if (kept < 0x1p-14) bits = static_cast<std::uint16_t>(kept * 0x1p24);
        else bits = static_cast<std::uint16_t>(overflows ? 0x7c00 : (single >> 13) - (112u << 10));
        if (value != value) bits = std::same_as<Scalar, bfloat16> ? 0x7fc0 : 0x7e00;
        return {static_cast<std::uint16_t>(sign | bits)};
    }
}

// Rounds an entry of a gradient, softmax or log_softmax. A zero is +0, also where a number is below
// all of the type. An entry of bfloat16 is rounded to single precision first, which adds 2^-16 ULP,
// then to the nearest, halves away from zero.
template <class Scalar> [[gnu::always_inline]] inline Scalar rounded_entry(double value) {
    if constexpr (std::floating_point<Scalar>) {
        return static_cast<Scalar>(value) + Scalar{0};
    } else {
        std::uint16_t bits;
        if constexpr (std::same_as<Scalar, bfloat16>) {
            const auto single = std::bit_cast<std::uint32_t>(static_cast<float>(value));
            bits = static_cast<std::uint16_t>((single + 0x8000) >> 16);
            if (value != value) bits = 0x7fc0;
        } else {
            bits = from_double<Scalar>(value).bits;
        }
        return {static_cast<std::uint16_t>(bits == 0x8000 ? 0 : bits)};
    }
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
