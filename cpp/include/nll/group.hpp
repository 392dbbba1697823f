// SPDX-License-Identifier: BSD-3-Clause
// A group of doubles in registers, as wide as the instruction set has them: for the loops that compilers do not
// vectorise well by themselves. And arithmetic in one rounding where the processor can; all processors that can get the
// same bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "stream.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

template <class Real> [[gnu::always_inline]] inline Real multiply_add(Real a, Real b, Real c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__FP_FAST_FMA) || defined(__ARM_FEATURE_FMA)
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
}

// Powers of 2 by eighths of an exponent: 2^(n + 280) where n·8 is an integer.
inline constexpr double step_bias = 0x1p280;
alignas(64) inline constexpr double step_table[8] = {
    step_bias,
    0x1.172b83c7d517bp+0 * step_bias,
    0x1.306fe0a31b715p+0 * step_bias,
    0x1.4bfdad5362a27p+0 * step_bias,
    0x1.6a09e667f3bcdp+0 * step_bias,
    0x1.8ace5422aa0dbp+0 * step_bias,
    0x1.ae89f995ad3adp+0 * step_bias,
    0x1.d5818dcfba487p+0 * step_bias,
};
inline constexpr double to_eighths = 0x1.8p49;  // added, it rounds to eighths, which are then in the low bits

// The bits of the table's entries, less their number of eighths; as two halves each, too.
struct StepBits {
    std::uint64_t whole[8];
    alignas(32) std::uint32_t low[8], high[8];
};
inline constexpr StepBits step_bits = [] {
    StepBits bits{};
    for (std::uint64_t j = 0; j < 8; ++j) {
        bits.whole[j] = std::bit_cast<std::uint64_t>(step_table[j]) - (j << 49);
        bits.low[j] = static_cast<std::uint32_t>(bits.whole[j]);
        bits.high[j] = static_cast<std::uint32_t>(bits.whole[j] >> 32);
    }
    return bits;
}();

// Of at = n + to_eighths. Nonsense where the result has no normal exponent.
[[gnu::always_inline]] inline double step_of(double at) {
    const auto bits = std::bit_cast<std::uint64_t>(at);
    return std::bit_cast<double>(step_bits.whole[bits & 7] + (bits << 49));
}

#if defined(__AVX512F__)

// Without masks, GCC 12 would warn of what is not initialised in its own headers.
struct Group {
    static constexpr int size = 8;
    static constexpr bool steps_saturate = true;  // to 0 and infinity
    __m512d lane;
    Group() = default;
    [[gnu::always_inline]] Group(__m512d lanes) : lane(lanes) {}
    [[gnu::always_inline]] Group(double number) : lane(_mm512_set1_pd(number)) {}
    [[gnu::always_inline]] static Group load(const double* from) { return _mm512_loadu_pd(from); }
    [[gnu::always_inline]] static Group load(const float* from) {
        return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from));
    }
    [[gnu::always_inline]] void store(double* to) const { _mm512_storeu_pd(to, lane); }
};
[[gnu::always_inline]] inline Group operator-(Group a, Group b) { return _mm512_sub_pd(a.lane, b.lane); }
[[gnu::always_inline]] inline Group operator*(Group a, Group b) { return _mm512_mul_pd(a.lane, b.lane); }
[[gnu::always_inline]] inline Group multiply_add(Group a, Group b, Group c) {
    return _mm512_fmadd_pd(a.lane, b.lane, c.lane);
}
[[gnu::always_inline]] inline Group multiply_subtract(Group a, Group b, Group c) {
    return _mm512_fmsub_pd(a.lane, b.lane, c.lane);
}
// Values, but no less than the lowest; NaN stays.
[[gnu::always_inline]] inline Group at_least(Group lowest, Group value) {
    return _mm512_maskz_max_pd(0xff, lowest.lane, value.lane);
}
// 0 where a value is less than the lowest.
[[gnu::always_inline]] inline Group where_at_least(Group lowest, Group value, Group number) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(value.lane, lowest.lane, _CMP_NLT_UQ), number.lane);
}
[[gnu::always_inline]] inline Group steps_of(Group at, Group n) {
    const __m512d entry = _mm512_maskz_permutexvar_pd(0xff, _mm512_castpd_si512(at.lane), _mm512_load_pd(step_table));
    return _mm512_maskz_scalef_pd(0xff, entry, n.lane);
}

#elif defined(__AVX2__) && defined(__FMA__)

struct Group {
    static constexpr int size = 8;  // in two registers
    static constexpr bool steps_saturate = false;
    __m256d lane, next;
    Group() = default;
    [[gnu::always_inline]] Group(__m256d lanes, __m256d others) : lane(lanes), next(others) {}
    [[gnu::always_inline]] Group(double number) : Group(_mm256_set1_pd(number), _mm256_set1_pd(number)) {}
    [[gnu::always_inline]] static Group load(const double* from) {
        return {_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4)};
    }
    [[gnu::always_inline]] static Group load(const float* from) {
        return {_mm256_cvtps_pd(_mm_loadu_ps(from)), _mm256_cvtps_pd(_mm_loadu_ps(from + 4))};
    }
    [[gnu::always_inline]] void store(double* to) const {
        _mm256_storeu_pd(to, lane);
        _mm256_storeu_pd(to + 4, next);
    }
};
[[gnu::always_inline]] inline Group operator-(Group a, Group b) {
    return {_mm256_sub_pd(a.lane, b.lane), _mm256_sub_pd(a.next, b.next)};
}
[[gnu::always_inline]] inline Group operator*(Group a, Group b) {
    return {_mm256_mul_pd(a.lane, b.lane), _mm256_mul_pd(a.next, b.next)};
}
[[gnu::always_inline]] inline Group multiply_add(Group a, Group b, Group c) {
    return {_mm256_fmadd_pd(a.lane, b.lane, c.lane), _mm256_fmadd_pd(a.next, b.next, c.next)};
}
[[gnu::always_inline]] inline Group multiply_subtract(Group a, Group b, Group c) {
    return {_mm256_fmsub_pd(a.lane, b.lane, c.lane), _mm256_fmsub_pd(a.next, b.next, c.next)};
}
[[gnu::always_inline]] inline Group at_least(Group lowest, Group value) {
    return {_mm256_max_pd(lowest.lane, value.lane), _mm256_max_pd(lowest.next, value.next)};
}
[[gnu::always_inline]] inline Group where_at_least(Group lowest, Group value, Group number) {
    return {_mm256_and_pd(_mm256_cmp_pd(value.lane, lowest.lane, _CMP_NLT_UQ), number.lane),
            _mm256_and_pd(_mm256_cmp_pd(value.next, lowest.next, _CMP_NLT_UQ), number.next)};
}
[[gnu::always_inline]] inline Group steps_of(Group at, Group) {
    const auto load = [](const std::uint32_t* from) {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
    };
    // The low halves of all lanes, in an order that unpacking undoes.
    const __m256i j = _mm256_castps_si256(
        _mm256_shuffle_ps(_mm256_castpd_ps(at.lane), _mm256_castpd_ps(at.next), _MM_SHUFFLE(2, 0, 2, 0)));
    const __m256i low = _mm256_permutevar8x32_epi32(load(step_bits.low), j);
    const __m256i high = _mm256_permutevar8x32_epi32(load(step_bits.high), j);
    const auto step = [](__m256i entry, __m256d eighths) {
        return _mm256_castsi256_pd(_mm256_add_epi64(entry, _mm256_slli_epi64(_mm256_castpd_si256(eighths), 49)));
    };
    return {step(_mm256_unpacklo_epi32(low, high), at.lane), step(_mm256_unpackhi_epi32(low, high), at.next)};
}

#else

struct Group {
#if defined(__GNUC__)
    static constexpr int size = 2;
    typedef double Lanes __attribute__((vector_size(8 * size)));
    [[gnu::always_inline]] explicit Group(Lanes lanes) : lane(lanes) {}
    [[gnu::always_inline]] double operator[](int l) const { return lane[l]; }
    [[gnu::always_inline]] void set(int l, double number) { lane[l] = number; }
#else
    static constexpr int size = 1;
    using Lanes = double;
    double operator[](int) const { return lane; }
    void set(int, double number) { lane = number; }
#endif
    static constexpr bool steps_saturate = false;
    Lanes lane = {};
    Group() = default;
    [[gnu::always_inline]] Group(double number) {
        for (int l = 0; l < size; ++l) set(l, number);
    }
    template <class Real> [[gnu::always_inline]] static Group load(const Real* from) {
        return of_each([&](int l) { return static_cast<double>(from[l]); });
    }
    [[gnu::always_inline]] void store(double* to) const {
        for (int l = 0; l < size; ++l) to[l] = (*this)[l];
    }
    template <class Number> [[gnu::always_inline]] static Group of_each(Number&& number) {
        Group group;
        for (int l = 0; l < size; ++l) group.set(l, number(l));
        return group;
    }
};
[[gnu::always_inline]] inline Group operator-(Group a, Group b) { return Group(a.lane - b.lane); }
[[gnu::always_inline]] inline Group operator*(Group a, Group b) { return Group(a.lane * b.lane); }
#if defined(__FMA__) || defined(__FP_FAST_FMA) || defined(__ARM_FEATURE_FMA)
[[gnu::always_inline]] inline Group multiply_add(Group a, Group b, Group c) {
    return Group::of_each([&](int l) { return multiply_add(a[l], b[l], c[l]); });
}
[[gnu::always_inline]] inline Group multiply_subtract(Group a, Group b, Group c) {
    return Group::of_each([&](int l) { return multiply_add(a[l], b[l], -c[l]); });
}
#else
[[gnu::always_inline]] inline Group multiply_add(Group a, Group b, Group c) { return Group(a.lane * b.lane + c.lane); }
[[gnu::always_inline]] inline Group multiply_subtract(Group a, Group b, Group c) {
    return Group(a.lane * b.lane - c.lane);
}
#endif
[[gnu::always_inline]] inline Group at_least(Group lowest, Group value) {
    return Group::of_each([&](int l) { return value[l] < lowest[l] ? lowest[l] : value[l]; });
}
[[gnu::always_inline]] inline Group where_at_least(Group lowest, Group value, Group number) {
    return Group::of_each([&](int l) { return value[l] < lowest[l] ? 0.0 : number[l]; });
}
[[gnu::always_inline]] inline Group steps_of(Group at, Group) {
    return Group::of_each([&](int l) { return step_of(at[l]); });
}

#endif

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
