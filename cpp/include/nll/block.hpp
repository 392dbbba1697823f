// SPDX-License-Identifier: BSD-3-Clause
// A block of samples whose losses are made of all their classes, and the terms of one sample.
#pragma once

#include "nll_loss.hpp"
#include "softmax.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

inline constexpr index_t most_in_block = 32 << 10;  // elements: what the first two caches hold

// What a kernel works in.
template <class Scalar, class Arithmetic> struct Workspace {
    using Real = typename Arithmetic::Real;
    static constexpr index_t size = (16 << 10) / sizeof(Real);
    static_assert(size >= chunk_size);
    alignas(64) Real values[size];
    alignas(64) typename Arithmetic::Power powers[size];
    alignas(64) Scalar part[size];
    alignas(64) double class_weights[chunk_size];  // for label smoothing
};

// A block of samples: what the labels say about each, and what is found.
template <class Arithmetic> struct Block {
    using Factor = typename Arithmetic::Factor;
    index_t count, loaded = 0;  // samples, and those whose factors are those of any block
    bool ignores;               // a sample
    alignas(64) index_t classes[block_size];
    alignas(64) double weights[block_size];
    alignas(64) double losses[block_size];  // without the weight, unless smoothed
    // The gradient is all·softmax - each·(class weight), less `target` at the target.
    alignas(64) Factor target[block_size], each[block_size], all[block_size];
};

// The loss with smoothing from that without. `every` is Σ w·(log Σ e^x - x).
inline double smoothed(const Plan& plan, double loss, double weight, double every) {
    const double smoothing = plan.label_smoothing;
    return (1 - smoothing) * weight * loss + smoothing / static_cast<double>(plan.classes) * every;
}

// What powers are multiplied with, to be probabilities. One division serves all entries.
template <class Factor> Factor inverse_sum(double unit, double rest) {
    return quotient_of(Factor{1}, sum_of(Factor{unit}, Factor{rest}));
}

// The gradient at the target of sample i, whose power is `unit`: -target·(1 - p) + each·(p·Σ w - w). `inverse` is the
// inverse_sum.
template <class Arithmetic>
double target_entry(const Plan& plan, const Block<Arithmetic>& block, index_t i, double unit, double rest,
                    typename Arithmetic::Factor inverse) {
    const double entry = -scaled(product_of(block.target[i], product_of(inverse, rest)), 1);
    if (plan.label_smoothing == 0) return entry;
    const auto every = product_of(product_of(block.each[i], plan.class_weights), product_of(inverse, unit));
    return entry + (scaled(every, 1) - scaled(block.each[i], block.weights[i]));
}

template <class Scalar> Scalar without_sign_of_zero(Scalar value) {
    return {static_cast<std::uint16_t>(value.bits == 0x8000 ? 0 : value.bits)};
}

// Rounds an entry of a gradient; a zero is +0, also where a number is below all of the type.
template <class Scalar> Scalar entry_of(double value) {
    if constexpr (std::floating_point<Scalar>) return static_cast<Scalar>(value) + Scalar{0};
    else return without_sign_of_zero(from_double<Scalar>(value));
}

// The gradient from powers, class after class of `samples`: a factor for each sample, or one for all; and if there are
// `targets`, what stands there.
template <class Arithmetic, bool each, class Scalar>
[[gnu::noinline]] void scale_powers(const typename Arithmetic::Power* powers, index_t classes, index_t samples,
                                    index_t pitch, const typename Arithmetic::Factor* factor, Scalar* part,
                                    index_t part_pitch, const ClassBeside<Scalar>* targets = nullptr,
                                    const Scalar* entries = nullptr) {
    const auto for_each_class = [&](auto&& write) {
        for (index_t c = 0; c < classes; ++c) {
            const typename Arithmetic::Power* __restrict from = powers + c * pitch;
            Scalar* __restrict to = part + c * part_pitch;
            for (index_t i = 0; i < samples; ++i) write(to[i], from[i], i, c);
        }
    };
    const auto scale = [&](auto&& entry) {
        if constexpr (each && std::floating_point<Scalar>)
            if (targets)
                return for_each_class([&](Scalar& to, auto power, index_t i, index_t c) {
                    const Scalar other = entry(power, i), own = entries[i];
                    to = targets[i] == static_cast<ClassBeside<Scalar>>(c) ? own : other;
                });
        for_each_class([&](Scalar& to, auto power, index_t i, index_t) { to = entry(power, each ? i : 0); });
    };
    if constexpr (std::same_as<Arithmetic, Half> && std::same_as<Scalar, bfloat16>) {
        constexpr index_t most = 128;
        float mantissa[each ? most : 1], exponent[each ? most : 1];  // of a factor, which may be less than any float
        bool negative = false;
        for (index_t i = 0; i < (each ? samples : 1); ++i) {
            const double one = factor[i].high;
            const double power_of_two = std::bit_cast<double>(std::bit_cast<std::uint64_t>(one) & 0x7ff0000000000000);
            exponent[i] = static_cast<float>(std::clamp(power_of_two, 0x1p-126, 0x1p126));
            mantissa[i] = static_cast<float>(one / exponent[i]);
            negative |= std::signbit(one);
        }
        // Rounds halves away from zero: in a product of rounded numbers they say nothing.
        const auto entry = [&](float power, index_t i) {
            const auto bits = std::bit_cast<std::uint32_t>(power * mantissa[i] * exponent[i]);
            return bfloat16{static_cast<std::uint16_t>((bits + 0x8000) >> 16)};
        };
        if (!negative) return scale(entry);
        return scale([&](float power, index_t i) { return without_sign_of_zero(entry(power, i)); });
    }
    scale([&](auto power, index_t i) { return entry_of<Scalar>(scaled(factor[i], static_cast<double>(power))); });
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
