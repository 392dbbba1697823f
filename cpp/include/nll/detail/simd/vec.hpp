// SPDX-License-Identifier: BSD-3-Clause
// Doubles in registers, as many as the instruction set has lanes for: for the loops that compilers
// do not vectorise well by themselves. Every instruction set has the same operations, and those
// with fused multiply-add give the same bits.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "double_double.hpp"
#include "exp2_table.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

#if defined(__AVX512F__)

// Masks that cover all lanes keep GCC 12 from warnings about its own headers.
struct Vec {
    static constexpr int size = 8;
    static constexpr bool exp2_saturates = true;  // to 0 and infinity
    __m512d lane;
    Vec() = default;
    [[gnu::always_inline]] Vec(__m512d lanes) : lane(lanes) {}
    [[gnu::always_inline]] Vec(double number) : lane(_mm512_set1_pd(number)) {}
    [[gnu::always_inline]] static Vec load(const double* from) { return _mm512_loadu_pd(from); }
    [[gnu::always_inline]] static Vec load(const float* from) {
        return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from));
    }
    [[gnu::always_inline]] void store(double* to) const { _mm512_storeu_pd(to, lane); }
};
[[gnu::always_inline]] inline Vec operator+(Vec a, Vec b) { return _mm512_add_pd(a.lane, b.lane); }
[[gnu::always_inline]] inline Vec operator-(Vec a, Vec b) { return _mm512_sub_pd(a.lane, b.lane); }
[[gnu::always_inline]] inline Vec operator*(Vec a, Vec b) { return _mm512_mul_pd(a.lane, b.lane); }
[[gnu::always_inline]] inline Vec multiply_add(Vec a, Vec b, Vec c) {
    return _mm512_fmadd_pd(a.lane, b.lane, c.lane);
}
[[gnu::always_inline]] inline Vec multiply_subtract(Vec a, Vec b, Vec c) {
    return _mm512_fmsub_pd(a.lane, b.lane, c.lane);
}
// Returns the values, raised to `lowest` where they are less; NaN stays.
[[gnu::always_inline]] inline Vec no_less_than(Vec lowest, Vec value) {
    return _mm512_maskz_max_pd(0xff, lowest.lane, value.lane);
}
// Returns `number`, or 0 where a value is less than `lowest`.
[[gnu::always_inline]] inline Vec zero_below(Vec lowest, Vec value, Vec number) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(value.lane, lowest.lane, _CMP_NLT_UQ),
                               number.lane);
}
// Returns 2^(n + power) as the scalar function does; with AVX-512 it saturates to 0 and infinity.
template <int power> [[gnu::always_inline]] inline Vec exp2_eighths(Vec at, Vec n) {
    const __m512d entry = _mm512_maskz_permutexvar_pd(0xff, _mm512_castpd_si512(at.lane),
                                                      _mm512_load_pd(exp2_table<power>.entry));
    return _mm512_maskz_scalef_pd(0xff, entry, n.lane);
}
// Returns that, or 0 where x is less than `lowest`: there, scaling to less than a normal number
// would take 28 times as long.
template <int power>
[[gnu::always_inline]] inline Vec exp2_eighths_from(Vec lowest, Vec x, Vec at, Vec n) {
    const __m512d entry = _mm512_maskz_permutexvar_pd(0xff, _mm512_castpd_si512(at.lane),
                                                      _mm512_load_pd(exp2_table<power>.entry));
    const __mmask8 from_lowest = _mm512_cmp_pd_mask(x.lane, lowest.lane, _CMP_NLT_UQ);
    return _mm512_maskz_scalef_pd(from_lowest, entry, n.lane);
}
[[gnu::always_inline]] inline Vec exp2_eighths_low(Vec at) {
    return _mm512_maskz_permutexvar_pd(0xff, _mm512_castpd_si512(at.lane),
                                       _mm512_load_pd(exp2_lacking));
}

#elif defined(__AVX2__) && defined(__FMA__)

struct Vec {
    static constexpr int size = 8;  // in two registers
    static constexpr bool exp2_saturates = false;
    __m256d lane, next;
    Vec() = default;
    [[gnu::always_inline]] Vec(__m256d lanes, __m256d others) : lane(lanes), next(others) {}
    [[gnu::always_inline]] Vec(double number)
        : Vec(_mm256_set1_pd(number), _mm256_set1_pd(number)) {}
    [[gnu::always_inline]] static Vec load(const double* from) {
        return {_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4)};
    }
    [[gnu::always_inline]] static Vec load(const float* from) {
        return {_mm256_cvtps_pd(_mm_loadu_ps(from)), _mm256_cvtps_pd(_mm_loadu_ps(from + 4))};
    }
    [[gnu::always_inline]] void store(double* to) const {
        _mm256_storeu_pd(to, lane);
        _mm256_storeu_pd(to + 4, next);
    }
};
[[gnu::always_inline]] inline Vec operator+(Vec a, Vec b) {
    return {_mm256_add_pd(a.lane, b.lane), _mm256_add_pd(a.next, b.next)};
}
[[gnu::always_inline]] inline Vec operator-(Vec a, Vec b) {
    return {_mm256_sub_pd(a.lane, b.lane), _mm256_sub_pd(a.next, b.next)};
}
[[gnu::always_inline]] inline Vec operator*(Vec a, Vec b) {
    return {_mm256_mul_pd(a.lane, b.lane), _mm256_mul_pd(a.next, b.next)};
}
[[gnu::always_inline]] inline Vec multiply_add(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_pd(a.lane, b.lane, c.lane), _mm256_fmadd_pd(a.next, b.next, c.next)};
}
[[gnu::always_inline]] inline Vec multiply_subtract(Vec a, Vec b, Vec c) {
    return {_mm256_fmsub_pd(a.lane, b.lane, c.lane), _mm256_fmsub_pd(a.next, b.next, c.next)};
}
[[gnu::always_inline]] inline Vec no_less_than(Vec lowest, Vec value) {
    return {_mm256_max_pd(lowest.lane, value.lane), _mm256_max_pd(lowest.next, value.next)};
}
[[gnu::always_inline]] inline Vec zero_below(Vec lowest, Vec value, Vec number) {
    return {_mm256_and_pd(_mm256_cmp_pd(value.lane, lowest.lane, _CMP_NLT_UQ), number.lane),
            _mm256_and_pd(_mm256_cmp_pd(value.next, lowest.next, _CMP_NLT_UQ), number.next)};
}
// Returns the low halves of all lanes, in an order that unpacking undoes.
[[gnu::always_inline]] inline __m256i low_halves(Vec at) {
    return _mm256_castps_si256(_mm256_shuffle_ps(
        _mm256_castpd_ps(at.lane), _mm256_castpd_ps(at.next), _MM_SHUFFLE(2, 0, 2, 0)));
}
template <int power> [[gnu::always_inline]] inline Vec exp2_eighths(Vec at, Vec) {
    const auto load = [](const std::uint32_t* from) {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
    };
    const __m256i j = low_halves(at);
    const __m256i low = _mm256_permutevar8x32_epi32(load(exp2_table<power>.low), j);
    const __m256i high = _mm256_permutevar8x32_epi32(load(exp2_table<power>.high), j);
    const auto step = [](__m256i entry, __m256d eighths) {
        return _mm256_castsi256_pd(
            _mm256_add_epi64(entry, _mm256_slli_epi64(_mm256_castpd_si256(eighths), 49)));
    };
    return {step(_mm256_unpacklo_epi32(low, high), at.lane),
            step(_mm256_unpackhi_epi32(low, high), at.next)};
}
[[gnu::always_inline]] inline Vec exp2_eighths_low(Vec at) {
    const __m256i high = _mm256_permutevar8x32_epi32(
        _mm256_load_si256(reinterpret_cast<const __m256i*>(exp2_lacking_high.of)), low_halves(at));
    const __m256i zero = _mm256_setzero_si256();
    return {_mm256_castsi256_pd(_mm256_unpacklo_epi32(zero, high)),
            _mm256_castsi256_pd(_mm256_unpackhi_epi32(zero, high))};
}

#else

struct Vec {
#if defined(__GNUC__)
    static constexpr int size = 2;
    typedef double Lanes __attribute__((vector_size(8 * size)));
    [[gnu::always_inline]] explicit Vec(Lanes lanes) : lane(lanes) {}
    [[gnu::always_inline]] double operator[](int l) const { return lane[l]; }
    [[gnu::always_inline]] void set(int l, double number) { lane[l] = number; }
#else
    static constexpr int size = 1;
    using Lanes = double;
    double operator[](int) const { return lane; }
    void set(int, double number) { lane = number; }
#endif
    static constexpr bool exp2_saturates = false;
    Lanes lane = {};
    Vec() = default;
    [[gnu::always_inline]] Vec(double number) {
        for (int l = 0; l < size; ++l) set(l, number);
    }
    template <class Real> [[gnu::always_inline]] static Vec load(const Real* from) {
        return generate([&](int l) { return static_cast<double>(from[l]); });
    }
    [[gnu::always_inline]] void store(double* to) const {
        for (int l = 0; l < size; ++l) to[l] = (*this)[l];
    }
    template <class Number> [[gnu::always_inline]] static Vec generate(Number&& number) {
        Vec group;
        for (int l = 0; l < size; ++l) group.set(l, number(l));
        return group;
    }
};
[[gnu::always_inline]] inline Vec operator+(Vec a, Vec b) { return Vec(a.lane + b.lane); }
[[gnu::always_inline]] inline Vec operator-(Vec a, Vec b) { return Vec(a.lane - b.lane); }
[[gnu::always_inline]] inline Vec operator*(Vec a, Vec b) { return Vec(a.lane * b.lane); }
#if defined(__FMA__) || defined(__FP_FAST_FMA) || defined(__ARM_FEATURE_FMA)
[[gnu::always_inline]] inline Vec multiply_add(Vec a, Vec b, Vec c) {
    return Vec::generate([&](int l) { return multiply_add(a[l], b[l], c[l]); });
}
[[gnu::always_inline]] inline Vec multiply_subtract(Vec a, Vec b, Vec c) {
    return Vec::generate([&](int l) { return multiply_add(a[l], b[l], -c[l]); });
}
#else
[[gnu::always_inline]] inline Vec multiply_add(Vec a, Vec b, Vec c) {
    return Vec(a.lane * b.lane + c.lane);
}
[[gnu::always_inline]] inline Vec multiply_subtract(Vec a, Vec b, Vec c) {
    return Vec(a.lane * b.lane - c.lane);
}
#endif
#if defined(__SSE2__) && defined(__GNUC__)
[[gnu::always_inline]] inline Vec no_less_than(Vec lowest, Vec value) {
    return Vec(_mm_max_pd(lowest.lane, value.lane));
}
[[gnu::always_inline]] inline Vec zero_below(Vec lowest, Vec value, Vec number) {
    return Vec(_mm_and_pd(_mm_cmpnlt_pd(value.lane, lowest.lane), number.lane));
}
#else
[[gnu::always_inline]] inline Vec no_less_than(Vec lowest, Vec value) {
    return Vec::generate([&](int l) { return value[l] < lowest[l] ? lowest[l] : value[l]; });
}
[[gnu::always_inline]] inline Vec zero_below(Vec lowest, Vec value, Vec number) {
    return Vec::generate([&](int l) { return value[l] < lowest[l] ? 0.0 : number[l]; });
}
#endif
template <int power> [[gnu::always_inline]] inline Vec exp2_eighths(Vec at, Vec) {
    return Vec::generate([&](int l) { return exp2_eighths<power>(at[l]); });
}
[[gnu::always_inline]] inline Vec exp2_eighths_low(Vec at) {
    return Vec::generate([&](int l) { return exp2_eighths_low(at[l]); });
}

#endif

#if !defined(__AVX512F__)

// Returns 2^(n + power), or 0 where x is less than `lowest`.
template <int power>
[[gnu::always_inline]] inline Vec exp2_eighths_from(Vec lowest, Vec x, Vec at, Vec n) {
    return zero_below(lowest, x, exp2_eighths<power>(at, n));
}

#endif

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
