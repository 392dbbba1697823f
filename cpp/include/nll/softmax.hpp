// SPDX-License-Identifier: BSD-3-Clause
// Exponentials, and their sums over classes, in small buffers.
//
// A sum over classes has one order, whatever the layout, the threads and the processor: chunks of `chunk_size` classes;
// in a chunk 16 lanes, the class modulo 16; the lanes in a tree; the chunks one after the other. Only plain sums of up
// to `in_turn` classes are taken one after the other. It is computed in two ways: for a row, many classes of one sample
// side by side; and for a tile, class after class of many samples.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "plan.hpp"
#include "stream.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

inline constexpr index_t in_turn = 128;      // classes
inline constexpr index_t chunk_size = 2048;  // classes: values and exponentials of a chunk fit in a first-level cache
inline constexpr double log2_e = 0x1.71547652b82fep+0;
inline constexpr double infinity = std::numeric_limits<double>::infinity();

// In one rounding where the processor can. All processors that can get the same bits.
template <class Real> [[gnu::always_inline]] inline Real multiply_add(Real a, Real b, Real c) {
#if defined(__FMA__) || defined(__FP_FAST_FMA) || defined(__ARM_FEATURE_FMA)
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
}

// The polynomial with these coefficients, of the highest power first.
template <class Real, class... Coefficient>
[[gnu::always_inline]] inline Real polynomial(Real x, Real highest, Coefficient... coefficient) {
    Real value = highest;
    ((value = multiply_add(value, x, coefficient)), ...);
    return value;
}

// Adding 1.5·2^52 rounds to an integer, which is then in the low bits.
inline constexpr double to_integer = 0x1.8p52;

// 2^n for an integer n in [-1023, 1023], where -1023 gives 0.
[[gnu::always_inline]] inline double power_of(double n) {
    return std::bit_cast<double>(std::bit_cast<std::uint64_t>(n + (to_integer + 1023)) << 52);
}

// The difference of two numbers, and what was rounded off it.
struct Difference {
    double high, low;
};
[[gnu::always_inline]] inline Difference difference_of(double a, double b) {
    const double high = a - b, minuend = a - high;
    return {high, (a - (high + minuend)) + (minuend - b)};
}

// e^(high + low) for high <= 0 and low of at most its last bit: within 1 ULP, subnormal results too; 0 below e^-800.
[[gnu::always_inline]] inline double exp_of(double high, double low) {
    // log(2) in two parts: the first has 40 bits, so that its products with integers below 2^13 are exact.
    constexpr double log_2_high = 0x1.62e42fefap-1, log_2_low = 0x1.cf79abc9e3b3ap-40;
    constexpr double lowest = -800;
    const bool below = high < lowest;
    high = below ? lowest : high;
    low = below ? 0.0 : low;
    const double n = (high * log2_e + to_integer) - to_integer;
    const double most = high - n * log_2_high, less = n * log_2_low;
    const double x = most - less;
    const double tail = ((most - x) - less) + low;
    // The series to x^13 / 13!, for |x| <= log(2)/2: the next term is below 2^-57.
    const double series = polynomial(x, 1 / 6227020800., 1 / 479001600., 1 / 39916800., 1 / 3628800., 1 / 362880.,
                                     1 / 40320., 1 / 5040., 1 / 720., 1 / 120., 1 / 24., 1 / 6., 1 / 2.);
    const double rest = x * x * series;
    const double fraction = 1.0 + (x + (rest + (tail + tail * (x + rest))));
    // In two steps, so that a subnormal result is rounded once.
    const double first = n < -1000.0 ? -1000.0 : n;
    return fraction * power_of(first) * power_of(n - first);
}

// log(1 + x) for 0 <= x < 2^1000, or NaN: within 1 ULP. The way of fdlibm: 1 + x is 2^n·z with z near 1, log z an odd
// series of s = (z - 1)/(z + 1), and what was lost in 1 + x is added.
[[gnu::always_inline]] inline double log1p_of(double x) {
    constexpr double log_2_high = 0x1.62e42fee00000p-1, log_2_low = 0x1.a39ef35793c76p-33;
    const double y = 1 + x, lost = (x - (y - 1)) / y;
    constexpr auto root_of_half = std::uint64_t{0x3fe6a09e667f3bcd};
    const auto bits = std::bit_cast<std::uint64_t>(y);
    const std::uint64_t n_bits = (bits - root_of_half) >> 52;
    const double n = std::bit_cast<double>(n_bits | std::bit_cast<std::uint64_t>(0x1p52)) - 0x1p52;
    const double f = std::bit_cast<double>(bits - (n_bits << 52)) - 1;
    const double s = f / (2 + f), s2 = s * s;
    // 2/3 s^2 + 2/5 s^4 + ... for s^2 < 0.0295: the next term is below 2^-60.
    const double series = s2 * polynomial(s2, 2 / 25., 2 / 23., 2 / 21., 2 / 19., 2 / 17., 2 / 15., 2 / 13., 2 / 11.,
                                          2 / 9., 2 / 7., 2 / 5., 2 / 3.);
    const double half_square = 0.5 * f * f;
    return n * log_2_high - ((half_square - (s * (half_square + series) + (n * log_2_low + lost))) - f);
}

// What a + b = sum has rounded off.
[[gnu::always_inline]] inline double lost(double a, double b, double sum) {
    const double part = sum - a;
    return (a - (sum - part)) + (b - part);
}

// A factor: a double, or two where roundings would add up.
struct Plain {
    double high;
};
struct Paired {
    double high, low = 0;
};
// Beside infinities the low part comes out NaN.
inline Paired cleared(double high, double low) { return {high, low == low ? low : 0.0}; }

inline Plain product_of(Plain a, double b) { return {a.high * b}; }
inline Paired product_of(Paired a, double b) {
    const double high = a.high * b;
    return cleared(high, std::fma(a.high, b, -high) + a.low * b);
}
inline Plain product_of(Plain a, Plain b) { return {a.high * b.high}; }
inline Paired product_of(Paired a, Paired b) {
    const Paired product = product_of(a, b.high);
    return cleared(product.high, product.low + a.high * b.low);
}
inline Plain quotient_of(Plain a, Plain b) { return {a.high / b.high}; }
inline Paired quotient_of(Paired a, Paired b) {
    const double high = a.high / b.high;
    return cleared(high, (std::fma(-high, b.high, a.high) - high * b.low + a.low) / b.high);
}
inline Plain sum_of(Plain a, Plain b) { return {a.high + b.high}; }
inline Paired sum_of(Paired a, Paired b) {
    const double high = a.high + b.high;
    return cleared(high, lost(a.high, b.high, high) + a.low + b.low);
}
// factor·number, in one double
inline double scaled(Plain factor, double number) { return factor.high * number; }
inline double scaled(Paired factor, double number) { return multiply_add(number, factor.high, number * factor.low); }

// How exact exponentials and sums have to be depends on the result. A rest of them that is only terms too small to be
// exact is `flushed`: it is far below the last bit of any result.
struct Double {
    using Real = double;   // of values
    using Power = double;  // of exponentials
    using Factor = Paired;
    static constexpr bool exact = true;
    static constexpr double flushed = 0;
};
struct Single {
    using Real = float;
    using Power = double;
    using Factor = Plain;
    static constexpr bool exact = false;
    static constexpr double flushed = 0x1p-740;
    // See Reference. From `far` on x·log2(e) would not be exact enough.
    static constexpr float far = 0x1p14f, reach = 350, depth = 900;
    static constexpr int bias = 280;
    // 2^(f - 1) for 1 <= f < 2, up to 8.1e-11 more (Remez): a quotient of two is as much off, 0.0014 ULP of single
    // precision. Itself in [1, 2).
    [[gnu::always_inline]] static double power_of_two(double f) {
        return polynomial(f, 0x1.68b07caa19257p-16, -0x1.d3a0dbab66fd4p-18, 0x1.e8f3468f86988p-11, 0x1.1a01deb98b996p-8,
                          0x1.d08bfc31ca63fp-6, 0x1.ea2f1efb85ae8p-4, 0x1.631395d31377ap-2, 0x1.fff7926ba987cp-2);
    }
};
struct Half {  // bfloat16's
    using Real = float;
    using Power = float;
    using Factor = Plain;
    static constexpr bool exact = false;
    static constexpr double flushed = 0x1p-160;
    // x·log2(e) is rounded to 2^-16, and log2(e) as a float puts in less: 2e-5 in a quotient, 0.006 ULP of bfloat16
    // (without fused operations 3.5e-5, 0.009).
    static constexpr float far = 128, reach = 20, depth = 149;
    static constexpr int bias = 92;
    // Up to 1.6e-7 more.
    [[gnu::always_inline]] static float power_of_two(float f) {
        return polynomial(f, 0x1.ec320cp-10f, -0x1.a1e728p-12f, 0x1.3c93dep-5f, 0x1.b9b122p-4f, 0x1.6a3ed8p-2f,
                          0x1.fe3eacp-2f);
    }
};

// Whether a largest term may be taken off a sum in which each addition was rounded.
[[gnu::always_inline]] inline bool leaves_enough(double sum, double unit) { return sum - unit >= 0x1p-10 * sum; }

// What the exponentials of `width` samples are relative to: 2^(x·log2(e) - n), for values about a `center`. Which n it
// is changes no bit of a quotient of two powers, as long as the largest value of a sample is within `reach`. Centers
// that are too far for x·log2(e) are taken off x first, which is exact; they have to be the largest.
//
// x·log2(e) - n and what an exponent is biased with are a number of [0, 2^(bits of an exponent)); scaled, and added to
// 2, it is one of [2, 4), and its bits are those of the exponent, before those of the fraction. Values that are too far
// from the center for that are seen by its first bits (2 has one, and no number beyond has that alone); then all is
// taken once more, with a guard: what is more than `depth` below the center, as where logits are masked, counts as
// that, 2^-793 of the largest or less (Half: 2^-186); and if that does not do, a NaN stays one.
enum class Guard { none, low, all };

template <class Arithmetic, int width> class Reference {
    using Real = typename Arithmetic::Real;
    using Power = typename Arithmetic::Power;
    static constexpr int exponent_bits = sizeof(Power) == 8 ? 11 : 8, mantissa = std::numeric_limits<Power>::digits - 1;
    static constexpr Power log2_of_e = static_cast<Power>(log2_e);
    static constexpr Power unit = Power{2} / (1 << exponent_bits);  // of the exponent

public:
    using Bits = std::conditional_t<sizeof(Power) == 8, std::uint64_t, std::uint32_t>;
    static constexpr Bits none_seen = std::bit_cast<Bits>(Power{2});
    // `seen`: the bits of all numbers, or'ed.
    static bool all_near(Bits seen) { return seen >> mantissa == none_seen >> mantissa; }

    Reference() { set(1); }
    Reference(const Real* largest, index_t samples, Guard guard = Guard::none) : guard_(guard) {
        for (index_t i = 0; i < samples; ++i) center_[i] = std::fabs(largest[i]) < infinity ? largest[i] : Real{0};
        set(samples);
    }
    Guard guard() const { return offset_[0] != 0 ? Guard::all : guard_; }
    Reference more_guarded() const {
        Reference same = *this;
        same.guard_ = guard_ == Guard::none ? Guard::low : Guard::all;
        return same;
    }
    double offset(index_t i) const { return offset_[i]; }
    // Of several samples, from the first center. Numbers of one sign compare as their bits do.
    bool reaches(const Real* largest, index_t samples) const {
        const auto bits = [](Real number) { return std::bit_cast<std::uint32_t>(std::fabs(number)); };
        std::uint32_t distance = 0, size = 0;
        for (index_t i = 0; i < samples; ++i) {
            distance = std::max(distance, bits(largest[i] - center_[0]));
            size = std::max(size, bits(largest[i]));
        }
        const bool near = distance <= bits(Arithmetic::reach) && size <= bits(Arithmetic::far);
        return distance == 0 || (near && offset_[0] == 0);
    }
    template <Guard guard> [[gnu::always_inline]] Power exponential(Power value, index_t i, Bits& seen) const {
        if constexpr (guard == Guard::all) value -= static_cast<Power>(offset_[i]);
        if constexpr (guard != Guard::none) value = value < lowest_[i] ? lowest_[i] : value;  // NaN stays
        const Power at = multiply_add(value, log2_of_e * unit, origin_[i]);
        const Bits bits = std::bit_cast<Bits>(at), shifted = bits << exponent_bits;
        constexpr Bits one = std::bit_cast<Bits>(Power{1}), fraction = (Bits{1} << mantissa) - 1;
        if constexpr (guard != Guard::all) seen |= bits;
        const Bits f = (shifted & fraction) | one;
        const auto p = std::bit_cast<Bits>(Arithmetic::power_of_two(std::bit_cast<Power>(f)));
        const auto power = std::bit_cast<Power>(p ^ f ^ shifted);  // the fraction of p, the exponent of `shifted`
        if constexpr (guard == Guard::all) return at == at ? power : at;
        return power;
    }
    [[gnu::always_inline]] Power power_of(Real value, index_t i) const {
        Bits unused;
        return exponential<Guard::all>(value, i, unused);
    }

private:
    void set(index_t samples) {
        constexpr double biased = std::numeric_limits<Power>::max_exponent - 1 + Arithmetic::bias;
        for (index_t i = 0; i < samples; ++i) {
            offset_[i] = std::fabs(center_[i]) > Arithmetic::far ? center_[i] : Real{0};
            const Power kept = center_[i] - offset_[i];
            lowest_[i] = kept - Arithmetic::depth;
            const double n = (static_cast<double>(kept) * log2_e + to_integer) - to_integer;
            origin_[i] = static_cast<Power>(2 + (biased - n) * unit);
        }
    }
    Guard guard_ = Guard::none;
    Real center_[width] = {}, offset_[width] = {};
    Power lowest_[width], origin_[width];
};

// Calls visit(std::integral_constant<Guard, guard>()).
template <class Visit> void visit_guard(Guard guard, Visit&& visit) {
    if (guard == Guard::none) visit(std::integral_constant<Guard, Guard::none>());
    else if (guard == Guard::low) visit(std::integral_constant<Guard, Guard::low>());
    else visit(std::integral_constant<Guard, Guard::all>());
}

// For double: e^(x - center), whose argument is taken without any rounding. The center has to be the largest.
template <int width> class Reference<Double, width> {
public:
    using Bits = std::uint64_t;
    static constexpr Bits none_seen = 0;
    static bool all_near(Bits) { return true; }

    Reference() = default;
    Reference(const double* largest, index_t samples, Guard = Guard::all) {
        for (index_t i = 0; i < samples; ++i) center_[i] = largest[i] == -infinity ? 0.0 : largest[i];
    }
    static Guard guard() { return Guard::all; }
    Reference more_guarded() const { return *this; }
    double offset(index_t i) const { return center_[i]; }
    static bool reaches(const double*, index_t) { return true; }
    template <Guard> [[gnu::always_inline]] double exponential(double value, index_t i, Bits&) const {
        const Difference difference = difference_of(value, center_[i]);
        return exp_of(difference.high, difference.low);
    }
    [[gnu::always_inline]] double power_of(double value, index_t i) const {
        Bits unused;
        return exponential<Guard::all>(value, i, unused);
    }

private:
    double center_[width] = {};
};

// ---------------------------------------------------------------- the softmax of a sample

// Adds a number to a sum that keeps what is rounded off; of infinities nothing is.
[[gnu::always_inline]] inline void accumulate(double& sum, double& error, double number) {
    const double total = sum + number;
    error += lost(sum, number, total);
    sum = total;
}
inline double total_of(double sum, double error) { return std::fabs(sum) < infinity ? sum + error : sum; }

// Adds the next chunk's powers, `sum` + `error`.
inline void add_chunk(Softmax& all, double largest, double sum, double error, index_t chunk) {
    if (all.chunk < 0 || largest > all.largest) {
        all.largest = largest;
        all.chunk = chunk;
        all.chunk_sum = sum;
    }
    accumulate(all.sum, all.lost, sum);
    all.lost += error;
}

inline void merge(Softmax& all, const Softmax& chunk) {
    add_chunk(all, chunk.largest, chunk.sum, chunk.lost, chunk.chunk);
    all.below += chunk.below;
    all.weight += chunk.weight;
    all.near &= chunk.near;
}

// Where the largest value is nearly all of the sum, the rounded sum of its chunk is replaced by its power, which is
// there once, and the sum of all others in that chunk.
[[gnu::always_inline]] inline double without_chunk(double unit, double chunk_sum, double others) {
    return (unit - chunk_sum) + others;
}

// When all classes are added: the powers of all but the largest value, whose is `unit`. Logits with +inf among them, or
// all of them -inf, have no softmax.
template <class Arithmetic>
[[gnu::always_inline]] inline double rest_of(double largest, double sum, double lost, double unit) {
    const double rest = (sum - unit) + lost;
    const double flushed = rest < Arithmetic::flushed * unit ? 0.0 : rest;
    return std::fabs(largest) == infinity ? std::numeric_limits<double>::quiet_NaN() : flushed;
}

// log(1 + rest/unit) for 0 <= rest < 2^1000 unit, or NaN: within 1 ULP if `exact`, where the unit is 1; or within
// 2^-39. Divides once: (unit + rest)/unit is 2^n·z with z in [2/3, 3/2], log z an odd series of (z - 1)/(z + 1).
template <class Arithmetic> [[gnu::always_inline]] inline double log_sum_of(double unit, double rest) {
    if constexpr (Arithmetic::exact) {
        return log1p_of(rest);
    } else {
        // Numbers are nearly as far apart as their bits, on a scale of logarithms.
        const double all = unit + rest;
        const std::uint64_t apart = std::bit_cast<std::uint64_t>(all) - std::bit_cast<std::uint64_t>(unit);
        const std::uint64_t n_bits = (apart + (std::uint64_t{1} << 51)) >> 52;
        const double n = std::bit_cast<double>(n_bits | std::bit_cast<std::uint64_t>(0x1p52)) - 0x1p52;
        const double z = all * std::bit_cast<double>(std::bit_cast<std::uint64_t>(1.0) - (n_bits << 52));  // times unit
        const double s = (n == 0 ? rest : z - unit) / (z + unit), s2 = s * s;
        // 2/3 s^2 + 2/5 s^4 + ... for s^2 <= 0.04: the next term is below 2^-40.
        const double series = s2 * polynomial(s2, 2 / 15., 2 / 13., 2 / 11., 2 / 9., 2 / 7., 2 / 5., 2 / 3.);
        return n * 0x1.62e42fefa39efp-1 + s * (2 + series);
    }
}

// ---------------------------------------------------------------- a row: classes of one sample, in whole pairs of
// lanes

inline constexpr index_t pair_size = 2 * lanes;
constexpr index_t paired(index_t count) { return (count + pair_size - 1) / pair_size * pair_size; }

template <class To, class From> [[gnu::always_inline]] inline To converted(From value) {
    if constexpr (std::same_as<To, From>) return value;
    else return static_cast<To>(to_real(value));
}

// `count` lanes as double. Processors convert on the way from memory; compilers would load and then split.
template <int count> [[gnu::always_inline]] inline void widen(const float* from, double* to) {
#if defined(__AVX512F__)
    for (int l = 0; l < count; l += 8)  // without a mask GCC 12 would warn of what is not initialised
        _mm512_store_pd(to + l, _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from + l)));
#elif defined(__AVX__)
    for (int l = 0; l < count; l += 4) _mm256_store_pd(to + l, _mm256_cvtps_pd(_mm_loadu_ps(from + l)));
#else
    for (int l = 0; l < count; ++l) to[l] = from[l];
#endif
}

// Of lanes, in a tree.
template <int count = lanes, class Number, class Fold>
[[gnu::always_inline]] inline Number fold_lanes(const Number* lane, Fold&& fold) {
    if constexpr (count == 1) {
        return lane[0];
    } else {
        Number folded[count / 2];
        for (int l = 0; l < count / 2; ++l) folded[l] = fold(lane[l], lane[count / 2 + l]);
        return fold_lanes<count / 2>(folded, fold);
    }
}
inline double add_lanes(const double* lane) {
    return fold_lanes(lane, [](double a, double b) { return a + b; });
}

// Of a row so far, by lanes: the sums of exponentials, and the largest values; NaN does not count.
template <class Arithmetic> struct RowLanes {
    using Real = typename Arithmetic::Real;
    using Shared = Reference<Arithmetic, 1>;
    double sum[lanes] = {};
    Real largest[lanes];
    typename Shared::Bits seen[lanes];

    RowLanes() {
        std::fill_n(largest, lanes, -std::numeric_limits<Real>::infinity());
        std::fill_n(seen, lanes, Shared::none_seen);
    }
    Real largest_of_all() const {
        return fold_lanes(largest, [](Real a, Real b) { return a < b ? b : a; });
    }
    bool all_near() const {
        return Shared::all_near(fold_lanes(seen, [](auto a, auto b) { return a | b; }));
    }
};

// Adds the exponentials, and keeps them if there is a place for them. What fills up the last pair of lanes may be far
// from the center. A line after `ahead` is asked for with every 64 bytes or less.
template <Guard guard, class Scalar, class Arithmetic>
[[gnu::noinline]] void exponentials_of_row(const Scalar* __restrict values, index_t classes,
                                           const Reference<Arithmetic, 1>& shared, const std::byte* ahead, index_t step,
                                           typename Arithmetic::Power* __restrict powers, RowLanes<Arithmetic>& row) {
    using Real = typename Arithmetic::Real;
    using Power = typename Arithmetic::Power;
    const Reference<Arithmetic, 1> reference = shared;  // its own memory, which no store changes
    RowLanes<Arithmetic> found = row;
    const auto compute = [&](index_t begin, index_t end, auto guarded, auto keeps) {
        for (index_t c = begin; c < end; c += pair_size) {
            for (index_t half = 0; half < pair_size; half += lanes) {
                NLL_PREFETCH(ahead);
                ahead += step;
            }
            [[maybe_unused]] Real wide[pair_size];
            const Real* pair = wide;
            if constexpr (std::same_as<Scalar, Real>) pair = values + c;
            else
                for (int l = 0; l < pair_size; ++l) wide[l] = converted<Real>(values[c + l]);
            [[maybe_unused]] alignas(64) Power wide_power[pair_size];
            const Power* x = wide_power;
            if constexpr (std::same_as<Power, Real>) x = pair;
            else widen<pair_size>(pair, wide_power);
            for (int l = 0; l < lanes; ++l) {
                const Real value = pair[l], next = pair[lanes + l];
                const auto power = reference.template exponential<guarded.value>(x[l], 0, found.seen[l]);
                const auto next_power = reference.template exponential<guarded.value>(x[lanes + l], 0, found.seen[l]);
                if constexpr (keeps) {
                    powers[c + l] = power;
                    powers[c + lanes + l] = next_power;
                }
                found.sum[l] += static_cast<double>(power + next_power);
                const Real larger = value < next ? next : value;
                found.largest[l] = found.largest[l] < larger ? larger : found.largest[l];
            }
        }
    };
    const auto compute_all = [&](auto keeps) {
        constexpr Guard last = std::max(guard, Guard::low);
        const index_t whole = guard == last ? 0 : classes / pair_size * pair_size;
        if constexpr (guard != last) compute(0, whole, std::integral_constant<Guard, guard>(), keeps);
        compute(whole, classes, std::integral_constant<Guard, last>(), keeps);
    };
    if (powers) compute_all(std::true_type());
    else compute_all(std::false_type());
    row = found;
}

// The sum, in the same order, of all powers but one.
template <class Power> [[gnu::noinline]] double sum_of_others(const Power* powers, index_t classes, Power one) {
    const auto other = [&](index_t c) { return powers[c] == one ? Power{0} : powers[c]; };
    double lane[lanes] = {};
    for (index_t c = 0; c < classes; c += pair_size)
        for (int l = 0; l < lanes; ++l) lane[l] += static_cast<double>(other(c + l) + other(c + lanes + l));
    return add_lanes(lane);
}

struct Compensated {
    double sum, error;
};

// The sum in the same order, of which nothing is lost.
template <class Number> [[gnu::noinline]] Compensated compensated_sum(const Number* values, index_t classes) {
    double sum[lanes] = {}, error[lanes] = {};
    for (index_t c = 0; c < classes; c += lanes)
        for (int l = 0; l < lanes; ++l) accumulate(sum[l], error[l], static_cast<double>(values[c + l]));
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) {
            accumulate(sum[l], error[l], sum[l + half]);
            error[l] += error[l + half];
        }
    return {sum[0], error[0]};
}

template <class Real> [[gnu::noinline]] Real largest_of(const Real* __restrict values, index_t classes) {
    constexpr int wide = 2 * lanes;  // for each waits for itself
    Real largest[wide];
    std::fill_n(largest, wide, -std::numeric_limits<Real>::infinity());
    const index_t even = classes / wide * wide;
    for (index_t c = 0; c < even; c += wide)
        for (int l = 0; l < wide; ++l) largest[l] = largest[l] < values[c + l] ? values[c + l] : largest[l];
    for (index_t c = even; c < classes; ++c)
        largest[c - even] = largest[c - even] < values[c] ? values[c] : largest[c - even];
    return *std::max_element(largest, largest + wide);
}

// ---------------------------------------------------------------- a tile: samples side by side, class after class

// The largest of each sample, so far.
template <class Real>
[[gnu::noinline]] void take_largest(const Real* values, index_t classes, index_t samples, index_t pitch,
                                    Real* __restrict largest) {
    for (index_t c = 0; c < classes; ++c) {
        const Real* __restrict from = values + c * pitch;
        for (index_t i = 0; i < samples; ++i) largest[i] = largest[i] < from[i] ? from[i] : largest[i];
    }
}

// The exponentials; of each sample the largest value so far, and the sum of powers so far, in turn. Of each class, so
// many samples after `ahead` are asked for. The reference is one for all samples, or one for each. Says
// whether all values were near.
template <Guard guard, class Scalar, class Arithmetic, int width>
[[gnu::noinline]] bool exponentials_of_tile(const typename Arithmetic::Real* values, index_t classes, index_t samples,
                                            index_t pitch, const Reference<Arithmetic, width>& shared,
                                            const Scalar* ahead, index_t step, typename Arithmetic::Power* powers,
                                            index_t powers_pitch, typename Arithmetic::Real* __restrict largest,
                                            double* __restrict sums) {
    using Real = typename Arithmetic::Real;
    using Power = typename Arithmetic::Power;
    using Shared = Reference<Arithmetic, width>;
    constexpr index_t line = 64 / sizeof(Scalar);
    constexpr bool each = width > 1;
    const std::conditional_t<each, const Shared&, const Shared> reference = shared;
    bool near = true;
    // One or two groups of lanes, class after class: of each class, two cache lines that lie side by side.
    const auto compute = [&](index_t first, auto groups) {
        constexpr int count = groups.value * lanes;
        double sum[count];
        Real most[count];
        typename Shared::Bits seen[lanes];
        [[maybe_unused]] alignas(64) Power wide[count];
        std::copy_n(sums + first, count, sum);
        std::copy_n(largest + first, count, most);
        std::fill_n(seen, lanes, Shared::none_seen);
        for (index_t c = 0; c < classes; ++c) {
            for (index_t i = first; i < first + count; i += line) NLL_PREFETCH(ahead + c * step + i);
            const Real* __restrict from = values + c * pitch + first;
            Power* __restrict to = powers + c * powers_pitch + first;
            const Power* x = wide;
            if constexpr (std::same_as<Power, Real>) x = from;
            else widen<count>(from, wide);
            for (int l = 0; l < lanes; ++l) {
                NLL_UNROLL for (int k = l; k < count; k += lanes) {
                    const auto power = reference.template exponential<guard>(x[k], each ? first + k : 0, seen[l]);
                    to[k] = power;
                    sum[k] += static_cast<double>(power);
                    most[k] = most[k] < from[k] ? from[k] : most[k];
                }
            }
        }
        std::copy_n(sum, count, sums + first);
        std::copy_n(most, count, largest + first);
        near &= Shared::all_near(fold_lanes(seen, [](auto a, auto b) { return a | b; }));
    };
    index_t first = 0;
    for (; first + 2 * lanes <= samples; first += 2 * lanes) compute(first, std::integral_constant<int, 2>());
    if (first < samples) compute(first, std::integral_constant<int, 1>());
    return near;
}

// Sums of up to 16 lanes of classes, each of up to `width` samples. Compensated ones add up beside what additions round
// off.
template <int width, bool compensated> class LaneSums {
public:
    // The powers of some classes of all samples, whole pairs of lanes unless they are the last; `counted` is what
    // counts of the power of a sample.
    template <class Power> void add_classes(const Power* values, index_t classes, index_t samples, index_t pitch) {
        add_classes(values, classes, samples, pitch, [](Power power, index_t) { return power; });
    }
    template <class Power, class Counted>
    [[gnu::noinline]] void add_classes(const Power* values, index_t classes, index_t samples, index_t pitch,
                                       const Counted& counted) {
        for (index_t first = 0; first < classes; first += pair_size)
            for (index_t k = 0; k < std::min(lanes, classes - first); ++k) {
                if (k >= filled_) {
                    std::fill_n(sum + k * width, samples, 0.0);
                    if constexpr (compensated) std::fill_n(error + k * width, samples, 0.0);
                    filled_ = k + 1;
                }
                const Power* from = values + (first + k) * pitch;
                const Power* next = first + k + lanes < classes ? from + lanes * pitch : nullptr;
                if (!next) {
                    add_lane(k, samples, [&](index_t i) { return counted(from[i], i); });
                } else if (compensated) {
                    add_lane(k, samples, [&](index_t i) { return counted(from[i], i); });
                    add_lane(k, samples, [&](index_t i) { return counted(next[i], i); });
                } else {
                    add_lane(k, samples, [&](index_t i) { return counted(from[i], i) + counted(next[i], i); });
                }
            }
    }
    // Adds up the lanes, in a tree: the sums are then in the first.
    [[gnu::noinline]] void finish(index_t samples) {
        for (index_t half = lanes / 2; half > 0; half /= 2) {
            for (index_t k = 0; k < filled_ - half; ++k) {
                add_lane(k, samples, [&](index_t i) { return sum[(k + half) * width + i]; });
                if constexpr (compensated)
                    for (index_t i = 0; i < samples; ++i) error[k * width + i] += error[(k + half) * width + i];
            }
            filled_ = std::min(filled_, half);
        }
    }

    double sum[lanes * width];
    double error[compensated ? lanes * width : 1];

private:
    template <class Number> [[gnu::always_inline]] void add_lane(index_t k, index_t samples, Number&& number) {
        double *to = sum + k * width, *lost_of = error + (compensated ? k * width : 0);
        for (index_t i = 0; i < samples; ++i) {
            if constexpr (compensated) accumulate(to[i], lost_of[i], static_cast<double>(number(i)));
            else to[i] += static_cast<double>(number(i));
        }
    }
    index_t filled_ = 0;  // lanes
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
