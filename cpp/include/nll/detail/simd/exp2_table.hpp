// SPDX-License-Identifier: BSD-3-Clause
// Powers of 2 in steps of an eighth: what the entries of a table, and a shift of exponent bits,
// make of at = n + round_to_eighths, where 8·n is an integer.
#pragma once

#include <bit>
#include <cstdint>

#include "../formats.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

inline constexpr double round_to_eighths = 0x1.8p49;  // added, it leaves eighths in the low bits

// Returns 2^n for an integer n in [-1023, 1023], where -1023 gives 0.
[[gnu::always_inline]] constexpr double exp2_integer(double n) {
    constexpr double round_to_integer = 0x1.8p52;  // added, it leaves an integer in the low bits
    return std::bit_cast<double>(std::bit_cast<std::uint64_t>(n + (round_to_integer + 1023)) << 52);
}

// Holds 2^(j/8 + power); the bits of these entries, less their number of eighths; and the same as
// two halves each.
struct Exp2Table {
    alignas(64) double entry[8];
    std::uint64_t bits[8];
    alignas(32) std::uint32_t low[8], high[8];
};
template <int power>
alignas(64) inline constexpr Exp2Table exp2_table = [] {
    constexpr double powers[8] = {
        1,
        0x1.172b83c7d517bp+0,
        0x1.306fe0a31b715p+0,
        0x1.4bfdad5362a27p+0,
        0x1.6a09e667f3bcdp+0,
        0x1.8ace5422aa0dbp+0,
        0x1.ae89f995ad3adp+0,
        0x1.d5818dcfba487p+0,
    };
    Exp2Table table{};
    for (std::uint64_t j = 0; j < 8; ++j) {
        table.entry[j] = powers[j] * exp2_integer(power);
        table.bits[j] = std::bit_cast<std::uint64_t>(table.entry[j]) - (j << 49);
        table.low[j] = static_cast<std::uint32_t>(table.bits[j]);
        table.high[j] = static_cast<std::uint32_t>(table.bits[j] >> 32);
    }
    return table;
}();

// Holds what the entries lack of the powers that they stand for, relative to them; in 21 bits, so
// that the lower half of each number is 0. And the upper halves.
alignas(64) inline constexpr double exp2_lacking[8] = {
    0,
    -0x1.01b16p-55,
    0x1.34d75p-55,
    0x1.690cfp-56,
    -0x1.3b3f0p-54,
    0x1.db730p-55,
    0x1.c1a78p-55,
    0x1.4a386p-56,
};
struct UpperHalves {
    alignas(32) std::uint32_t of[8];
};
inline constexpr UpperHalves exp2_lacking_high = [] {
    UpperHalves upper{};
    for (int j = 0; j < 8; ++j)
        upper.of[j] =
            static_cast<std::uint32_t>(std::bit_cast<std::uint64_t>(exp2_lacking[j]) >> 32);
    return upper;
}();

// Returns 2^(n + power). Its bits mean nothing where the result has no normal exponent.
template <int power> [[gnu::always_inline]] inline double exp2_eighths(double at) {
    const auto bits = std::bit_cast<std::uint64_t>(at);
    return std::bit_cast<double>(exp2_table<power>.bits[bits & 7] + (bits << 49));
}
// Returns what that lacks of the power, relative to it.
[[gnu::always_inline]] inline double exp2_eighths_low(double at) {
    return exp2_lacking[std::bit_cast<std::uint64_t>(at) & 7];
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
