// SPDX-License-Identifier: BSD-3-Clause
// Logarithms of one number, in as many bits as a result needs; compilers vectorise loops over them.
#pragma once

#include <bit>
#include <cstdint>

#include "exp.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Returns log(y + lost) of a number y of [2^-1000, 2^1000], and what it has lost to rounding; or
// NaN. Within 1 ULP. The way of fdlibm: y is 2^n·z with z near 1, log z an odd series of s = (z -
// 1)/(z + 1), and what was lost is added.
[[gnu::always_inline]] inline double log_of(double y, double lost) {
    constexpr double log_2_high = 0x1.62e42fee00000p-1, log_2_low = 0x1.a39ef35793c76p-33;
    constexpr std::uint64_t bias = 1024, root_of_half = 0x3fe6a09e667f3bcd;
    const auto bits = std::bit_cast<std::uint64_t>(y);
    const std::uint64_t n_bits = (bits + ((bias << 52) - root_of_half)) >> 52;
    const double n =
        std::bit_cast<double>(n_bits | std::bit_cast<std::uint64_t>(0x1p52)) - (0x1p52 + bias);
    const double f = std::bit_cast<double>(bits - ((n_bits - bias) << 52)) - 1;
    const double s = f / (2 + f), s2 = s * s;
    // 2/3 s^2 + 2/5 s^4 + ... for s^2 < 0.0295: the next term is below 2^-60.
    const double series = s2 * polynomial(s2, 2 / 25., 2 / 23., 2 / 21., 2 / 19., 2 / 17., 2 / 15.,
                                          2 / 13., 2 / 11., 2 / 9., 2 / 7., 2 / 5., 2 / 3.);
    const double half_square = 0.5 * f * f;
    const double log =
        n * log_2_high -
        ((half_square - (s * (half_square + series) + (n * log_2_low + lost / y))) - f);
    return y == y ? log : y;
}
// Returns log(1 + x) for 0 <= x < 2^1000, or NaN: within 1 ULP.
[[gnu::always_inline]] inline double log1p(double x) {
    const double y = 1 + x;
    return log_of(y, x - (y - 1));
}

// Returns log(sum/unit) for unit + others = sum and a quotient of [2^-1000, 2^1000], or NaN: within
// 2^-39, by one division: sum/unit is 2^n·z with z in [2/3, 3/2], log z an odd series of (z - 1)/(z
// + 1).
[[gnu::always_inline]] inline double log_quotient(double sum, double unit, double others) {
    // Numbers are nearly as far apart as their bits, on a scale of logarithms.
    constexpr std::uint64_t bias = 1024;
    const std::uint64_t apart =
        std::bit_cast<std::uint64_t>(sum) - std::bit_cast<std::uint64_t>(unit);
    const std::uint64_t n_bits = (apart + (bias << 52) + (std::uint64_t{1} << 51)) >> 52;
    const double n =
        std::bit_cast<double>(n_bits | std::bit_cast<std::uint64_t>(0x1p52)) - (0x1p52 + bias);
    const double z =
        sum * std::bit_cast<double>(std::bit_cast<std::uint64_t>(1.0) - ((n_bits - bias) << 52));
    const double s = (n == 0 ? others : z - unit) / (z + unit), s2 = s * s;
    // 2/3 s^2 + 2/5 s^4 + ... for s^2 <= 0.04: the next term is below 2^-40.
    const double series =
        s2 * polynomial(s2, 2 / 15., 2 / 13., 2 / 11., 2 / 9., 2 / 7., 2 / 5., 2 / 3.);
    return n * 0x1.62e42fefa39efp-1 + s * (2 + series);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
