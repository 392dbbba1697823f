// SPDX-License-Identifier: BSD-3-Clause
// The entries of a result, of exponentials or logits in the first cache: gradients, probabilities,
// log-probabilities. Each is rounded once.
#pragma once

#include "cross_entropy.hpp"
#include "formats.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Holds a scale that may be less than any float as two that are not.
struct FloatScale {
    float mantissa, power;
    FloatScale(float mantissa, float power) : mantissa(mantissa), power(power) {}
    explicit FloatScale(double scale) {
        const double whole =
            std::bit_cast<double>(std::bit_cast<std::uint64_t>(scale) & 0x7ff0000000000000);
        const double clamped = std::clamp(whole, 0x1p-126, 0x1p126);
        power = static_cast<float>(clamped);
        mantissa = scale == scale ? static_cast<float>(scale / clamped)
                                  : std::numeric_limits<float>::quiet_NaN();
    }
};

// Names what exponentials are multiplied with: in single precision if they and the entries are.
template <class Exp, class Scale, class Scalar>
using EntryScale = std::conditional_t<std::same_as<Exp, float> && std::same_as<Scalar, bfloat16>,
                                      FloatScale, Scale>;

// Holds the scales of the samples of a tile.
template <class Scale> struct EntryScales {
    alignas(cache_line) Scale scale[max_tile_samples];
    void set(index_t i, Scale of_sample) { scale[i] = of_sample; }
    const Scale& operator[](index_t i) const { return scale[i]; }
};
template <> struct EntryScales<UnitDoubleDouble> {
    alignas(cache_line) double high[max_tile_samples], low[max_tile_samples],
        unit[max_tile_samples];
    void set(index_t i, const UnitDoubleDouble& of_sample) {
        high[i] = of_sample.factor.high;
        low[i] = of_sample.factor.low;
        unit[i] = of_sample.unit;
    }
    UnitDoubleDouble operator[](index_t i) const { return {{high[i], low[i]}, unit[i]}; }
};
template <> struct EntryScales<FloatScale> {
    alignas(cache_line) float mantissa[max_tile_samples], power[max_tile_samples];
    void set(index_t i, double of_sample) {
        const FloatScale scale(of_sample);
        mantissa[i] = scale.mantissa;
        power[i] = scale.power;
    }
    FloatScale operator[](index_t i) const { return {mantissa[i], power[i]}; }
};

template <class Scalar, class Scale>
[[gnu::always_inline]] inline Scalar scaled_entry(const Scale& scale, auto exp) {
    return rounded_entry<Scalar>(product(scale, static_cast<double>(exp)));
}
// Rounds halves away from zero: in a product of rounded numbers they say nothing.
template <class Scalar>
[[gnu::always_inline]] inline Scalar scaled_entry(const FloatScale& scale, float exp) {
    const auto single = std::bit_cast<std::uint32_t>(exp * scale.mantissa * scale.power);
    const auto bits = static_cast<std::uint16_t>((single + 0x8000) >> 16);
    return {static_cast<std::uint16_t>(bits == 0x8000 ? 0 : bits)};
}

// Writes to[c] = scale·exps[c], rounded, for c < classes.
template <class Exp, class Scale, class Scalar>
[[gnu::noinline]] void scale_row(const Exp* __restrict exps, index_t classes, Scale scale,
                                 Scalar* __restrict to) {
    const EntryScale<Exp, Scale, Scalar> factor(scale);
    for (index_t c = 0; c < classes; ++c) to[c] = scaled_entry<Scalar>(factor, exps[c]);
}

// Writes to[c] = scale·exps[c] - smoothing·weights[c], rounded, for c < classes; weights:
// (classes,), or nullptr for 1.
template <class Exp, class ExpScale, class Scale, class Scalar>
[[gnu::noinline]] void smoothed_row(const Exp* __restrict exps, index_t classes, ExpScale scale,
                                    Scale smoothing, const double* __restrict weights,
                                    Scalar* __restrict to) {
    const auto write = [&](auto&& smoothing_of) {
        for (index_t c = 0; c < classes; ++c)
            to[c] = rounded_entry<Scalar>(
                smoothed_entry(scale, static_cast<double>(exps[c]), smoothing_of(c)));
    };
    const double alike = product(smoothing, 1.0);
    if (weights) write([&](index_t c) { return product(smoothing, weights[c]); });
    else write([&](index_t) { return alike; });
}

// Writes to[c] = (logits[c] - center) - log, rounded, for c < classes, which may be in place. Most
// rows of float have no center.
template <class Real, class Scalar>
[[gnu::noinline]] void subtract_log_sum(const Real* logits, index_t classes,
                                        const LogSumExp& log_sum, Scalar* __restrict to) {
    const auto write = [&](const Real* __restrict from, auto&& subtract) {
        if constexpr (std::same_as<Scalar, Real>)
            if (from == to) {
                for (index_t c = 0; c < classes; ++c)
                    to[c] = rounded_entry<Scalar>(subtract(to[c]));
                return;
            }
        for (index_t c = 0; c < classes; ++c) to[c] = rounded_entry<Scalar>(subtract(from[c]));
    };
    const double center = log_sum.center, log = log_sum.log;
    if (std::same_as<Scalar, float> && center == 0)
        write(logits, [&](Real x) { return static_cast<double>(x) - log; });
    else write(logits, [&](Real x) { return (static_cast<double>(x) - center) - log; });
}

// Writes to[c·to_pitch + i] = scale[i]·exps[c·pitch + i] - smoothing[i]·weights[c], rounded. scale,
// smoothing: (samples,); weights: (classes,), or nullptr for 1.
template <class Exp, class ExpScale, class Scale, class Scalar>
[[gnu::noinline]] void smoothed_tile(const Exp* exps, index_t classes, index_t samples,
                                     index_t pitch, const ExpScale* __restrict scale,
                                     const Scale* __restrict smoothing, const double* weights,
                                     Scalar* to, index_t to_pitch) {
    for (index_t c = 0; c < classes; ++c) {
        const Exp* __restrict from = exps + c * pitch;
        Scalar* __restrict out = to + c * to_pitch;
        const double weight = weights ? weights[c] : 1.0;
        for (index_t i = 0; i < samples; ++i)
            out[i] = rounded_entry<Scalar>(smoothed_entry(scale[i], static_cast<double>(from[i]),
                                                          product(smoothing[i], weight)));
    }
}

// Writes to[c·to_pitch + i] = scale[i]·exps[c·pitch + i], rounded. scale: (samples,).
template <class Exp, class Scale, class Scalar>
[[gnu::noinline]] void scale_tile(const Exp* exps, index_t classes, index_t samples, index_t pitch,
                                  const Scale* scale, Scalar* to, index_t to_pitch) {
    EntryScales<EntryScale<Exp, Scale, Scalar>> factor;
    for (index_t i = 0; i < samples; ++i) factor.set(i, scale[i]);
    for (index_t c = 0; c < classes; ++c) {
        const Exp* __restrict from = exps + c * pitch;
        Scalar* __restrict out = to + c * to_pitch;
        for (index_t i = 0; i < samples; ++i) out[i] = scaled_entry<Scalar>(factor[i], from[i]);
    }
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
