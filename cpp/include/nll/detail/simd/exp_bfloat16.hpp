// SPDX-License-Identifier: BSD-3-Clause
// Exponentials of bfloat16 logits, e^x·2^92 in single precision: 1.8 times as fast as those in
// double where a language model's logits come from memory, and as exact as 8 bits need.
//
// x·log2(e) + 92 and the exponent's bias are a number of [0, 2^8). Scaled, and added to 2, it is
// one of [2, 4), whose bits are those of the exponent before those of the fraction. Worked: x = 1,
// x·log2(e) + 92 + 127 = 220.4427; at = 2 + 220.4427/128; its bits, shifted up by 8, are the
// exponent 220 of 2^93 and the fraction 0.4427, of which the polynomial makes 2^0.4427's.
#pragma once

#include "exp.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

struct Bfloat16 {
    using Real = float;
    using Exp = float;
    using Scale = double;
    using ExpScale = double;
    static constexpr bool by_eighths = false, exact = false, fused = false, smooths = false;
    static constexpr double negligible = 0x1p-160;
    static constexpr double max_scale = 0x1p20;
    static constexpr double smoothing_unit = 1;
    // Largest logits that need no shift: their exponentials and the sum's are normal numbers.
    static constexpr float min_unshifted = -32, max_unshifted = 19.5f;
    static constexpr float depth = 149;  // below the shift, from which e^x is taken as 0
    static constexpr int bias = 92;

    // Returns what was seen in either of two lanes.
    static std::uint32_t join(std::uint32_t a, std::uint32_t b) { return a | b; }
    // Returns 2^(f - 1) for 1 <= f < 2 (Remez), as it is rounded up to 3e-7 more and 1.4e-7 less.
    // It is itself in [1, 2).
    [[gnu::always_inline]] static float exp2_fraction(float f) {
        return polynomial(f, 0x1.ec320cp-10f, -0x1.a1e728p-12f, 0x1.3c93dep-5f, 0x1.b9b122p-4f,
                          0x1.6a3ed8p-2f, 0x1.fe3eacp-2f);
    }
};

// x·log2(e) is rounded to 2^-16, and log2(e) as a float puts in less: 2e-5 in a quotient, 0.006 ULP
// of bfloat16 (without fused operations 3.5e-5, 0.009).
template <int width> class ExpShift<Bfloat16, width> {
    using Bits = std::uint32_t;
    static constexpr int exponent_bits = 8, mantissa = std::numeric_limits<float>::digits - 1;
    static constexpr float step = 2.0f / (1 << exponent_bits);
    static constexpr float origin =
        2 + (std::numeric_limits<float>::max_exponent - 1 + Bfloat16::bias) * step;

public:
    ExpShift() = default;
    // Shifts each sample whose largest logit needs it, and clamps. One that is not finite makes
    // every exponential NaN.
    ExpShift(const float* max, index_t samples, bool) : clamps_(true) {
        constexpr float nan = std::numeric_limits<float>::quiet_NaN();
        for (index_t i = 0; i < samples; ++i) {
            const bool near =
                max[i] >= Bfloat16::min_unshifted && max[i] <= Bfloat16::max_unshifted;
            shift_[i] = near ? 0.0f : std::fabs(max[i]) < infinity ? max[i] : nan;
        }
    }
    // Gives sample i the shift of sample k of another.
    template <int other> void take(index_t i, const ExpShift<Bfloat16, other>& from, index_t k) {
        shift_[i] = from.shift_[k];
        clamps_ |= from.clamps_;
    }
    bool clamps() const { return clamps_; }
    double shift(index_t i) const { return shift_[i]; }
    static constexpr double scale = exp2_integer(Bfloat16::bias);

    // Collects the bits of all those numbers: some are not of [2, 4) if a logit was NaN, or too far
    // from 0.
    using Seen = Bits;
    static constexpr Seen none_seen = std::bit_cast<Bits>(2.0f);
    static bool all_in_range(Seen seen) { return seen >> mantissa == none_seen >> mantissa; }

    // Tells whether an unshifted sum shows that the largest logit needs no shift: the shift depends
    // on the sample alone.
    static bool sum_in_range(double sum, index_t classes) {
        constexpr double most = 0x1p28, least = 0x1p-46;
        static_assert(28 / log2_e < Bfloat16::max_unshifted);
        static_assert(-46 / log2_e > Bfloat16::min_unshifted);
        return sum <= most * scale && sum >= static_cast<double>(classes) * (least * scale);
    }

    // Returns e^(x - shift)·scale of a logit of sample i, or nonsense that is `seen`.
    template <bool shifted>
    [[gnu::always_inline]] float exp(float logit, index_t i, Seen& seen) const {
        if constexpr (shifted) logit -= shift_[i];
        const bool below = shifted && logit < -Bfloat16::depth;
        if constexpr (shifted) logit = below ? -Bfloat16::depth : logit;
        const float at = multiply_add(logit, static_cast<float>(log2_e) * step, origin);
        seen |= std::bit_cast<Bits>(at);
        const Bits bits = std::bit_cast<Bits>(at) << exponent_bits;
        constexpr Bits one = std::bit_cast<Bits>(1.0f), fraction = (Bits{1} << mantissa) - 1;
        const Bits f = (bits & fraction) | one;
        const auto p = std::bit_cast<Bits>(Bfloat16::exp2_fraction(std::bit_cast<float>(f)));
        const auto value = std::bit_cast<float>(p ^ f ^ bits);  // p's fraction, bits' exponent
        if constexpr (shifted) return below ? 0.0f : at < 4 ? value : at;  // NaN stays
        return value;
    }

private:
    template <class, int> friend class ExpShift;
    bool clamps_ = false;
    float shift_[width] = {};
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
