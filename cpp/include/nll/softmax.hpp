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

#include "group.hpp"
#include "plan.hpp"
#include "stream.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

inline constexpr index_t in_turn = 128;      // classes
inline constexpr index_t chunk_size = 2048;  // classes: values and exponentials of a chunk fit in a first-level cache
inline constexpr double log2_e = 0x1.71547652b82fep+0;
inline constexpr double infinity = std::numeric_limits<double>::infinity();

// The polynomial with these coefficients, of the highest power first.
template <class Real, class... Coefficient>
[[gnu::always_inline]] inline Real polynomial(Real x, Real highest, Coefficient... coefficient) {
    Real value = highest;
    ((value = multiply_add(value, x, Real(coefficient))), ...);
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
// exact is `flushed`: it is far below the last bit of any result. Where a power is a product of two factors, sums are
// `fused`: of the products as they are before they are rounded.
struct Double {
    using Real = double;   // of values
    using Power = double;  // of exponentials
    using Factor = Paired;
    static constexpr bool exact = true, fused = false;
    static constexpr double flushed = 0;
};
struct Single {
    using Real = float;
    using Power = double;
    using Factor = Plain;
    static constexpr bool exact = false, fused = true;
    static constexpr double flushed = 0x1p-740;
    // See its Reference.
    static constexpr float reach = 350, depth = 900;
    // 2^f for -1/16 <= f <= 1/16, up to 8e-11 more or less (Remez): a quotient of two is twice as much off, 0.0028 ULP
    // of single precision.
    template <class Number> [[gnu::always_inline]] static Number power_of_two(Number f) {
        return polynomial(f, Number(0x1.3b2467dce84b4p-7), 0x1.c6be345df0c79p-5, 0x1.ebfbe0a8d155ap-3,
                          0x1.62e42fb90c128p-1, 0x1.fffffffff9b14p-1);
    }
};
struct Half {  // bfloat16's
    using Real = float;
    using Power = float;
    using Factor = Plain;
    static constexpr bool exact = false, fused = false;
    static constexpr double flushed = 0x1p-160;
    // See its Reference. x·log2(e) is rounded to 2^-16, and log2(e) as a float puts in less: 2e-5 in a quotient, 0.006
    // ULP of bfloat16 (without fused operations 3.5e-5, 0.009). From `far` on that would be more.
    static constexpr float far = 128, reach = 20, depth = 149;
    static constexpr int bias = 92;
    // 2^(f - 1) for 1 <= f < 2, up to 1.6e-7 more (Remez). Itself in [1, 2).
    [[gnu::always_inline]] static float power_of_two(float f) {
        return polynomial(f, 0x1.ec320cp-10f, -0x1.a1e728p-12f, 0x1.3c93dep-5f, 0x1.b9b122p-4f, 0x1.6a3ed8p-2f,
                          0x1.fe3eacp-2f);
    }
};

// Whether a largest term may be taken off a sum in which each addition was rounded.
[[gnu::always_inline]] inline bool leaves_enough(double sum, double unit) { return sum - unit >= 0x1p-10 * sum; }

// What powers are taken with. `all`: with anything at all. `none`: with values that are not too far from a center; it
// has to be asked for, and is nearly always the case. `low`: values may be too far below it, as where logits are
// masked.
enum class Guard { none, low, all };

// Calls visit(std::integral_constant<Guard, guard>()).
template <class Arithmetic, class Visit> void visit_guard(Guard guard, Visit&& visit) {
    const auto with = [&]<Guard some>() { visit(std::integral_constant<Guard, some>()); };
    if constexpr (Arithmetic::exact) return with.template operator()<Guard::all>();
    if (guard == Guard::all) return with.template operator()<Guard::all>();
    if constexpr (std::same_as<Arithmetic, Half>)
        if (guard == Guard::low) return with.template operator()<Guard::low>();
    with.template operator()<Guard::none>();
}

// The numbers that exponentials of `width` samples are relative to.
template <class Arithmetic, int width> class Reference;

// ---------------------------------------------------------------- in single precision: 2^(x·log2(e) + 280)
//
// x·log2(e) is n + f, where n is in eighths; powers are products of 2^n, from a table, and of 2^f, a polynomial. A
// sample whose largest value is beyond `reach` has that taken off first, in double; others have nothing taken off: so
// powers depend on the sample alone. With a guard, what is more than `depth` below the largest is 0. Without, AVX-512
// makes a NaN of -inf only, and others nonsense of all that is less than -`depth`: both are seen, and all is taken once
// more.

// Factors of the powers of a group.
struct Factors {
    Group step, fraction;
};

template <int width> class Reference<Single, width> {
public:
    // What shows that a guard is needed: sums that are NaN; and where steps would be nonsense, the smallest value.
    using Seen = float;
    static constexpr Seen none_seen = 0;
    static constexpr bool sees_values = !Group::steps_saturate;
    static bool all_near(const Seen* seen, const double* sums, index_t count) {
        std::uint64_t far = 0, undefined = 0;
        for (int l = 0; l < lanes && sees_values; ++l) far |= std::uint64_t{!(seen[l] >= -Single::depth)};
        for (index_t i = 0; i < count; ++i) undefined |= std::uint64_t{sums[i] != sums[i]};
        return !far && !undefined;
    }
    static constexpr Guard next_guard(Guard) { return Guard::all; }

    Reference() = default;
    Reference(const float* largest, index_t samples, Guard guard = Guard::none) : guard_(guard) {
        for (index_t i = 0; i < samples; ++i) {
            const float size = std::fabs(largest[i]);
            offset_[i] = size > Single::reach && size < infinity ? largest[i] : 0.0f;
        }
    }
    Guard guard() const { return offset_[0] != 0 ? Guard::all : guard_; }
    Reference more_guarded() const {
        Reference same = *this;
        same.guard_ = Guard::all;
        return same;
    }
    double offset(index_t i) const { return offset_[i]; }
    bool reaches(const float* largest, index_t samples) const {
        bool within = true;
        for (index_t i = 0; i < samples; ++i)
            within &= offset_[0] != 0 ? largest[i] == offset_[0] : std::fabs(largest[i]) <= Single::reach;
        return within;
    }
    // Of samples from the first on, or of values of one. NaN stays one.
    template <Guard guard> [[gnu::always_inline]] Factors factors(const float* values, index_t first) const {
        if constexpr (guard == Guard::none) return factors_of(Group::load(values));
        const Group lowest(-Single::depth);
        const Group offset = width > 1 ? Group::load(offset_ + first) : Group(this->offset(0));
        const Group value = Group::load(values) - offset;
        const Factors factors = factors_of(at_least(lowest, value));
        return {where_at_least(lowest, value, factors.step), factors.fraction};
    }
    template <Guard guard> [[gnu::always_inline]] void powers(const float* values, index_t first, double* power) const {
        for (int l = 0; l < lanes; l += Group::size) {
            const Factors factors = this->factors<guard>(values + l, first + l);
            (factors.step * factors.fraction).store(power + l);
        }
    }
    double power_of(float value, index_t i) const {
        const double below = static_cast<double>(value) - static_cast<double>(offset_[i]);
        if (below < -Single::depth) return 0;
        const double at = multiply_add(below, log2_e, to_eighths), n = at - to_eighths;
        return step_of(at) * Single::power_of_two(multiply_add(below, log2_e, -n));
    }

private:
    [[gnu::always_inline]] static Factors factors_of(Group value) {
        const Group at = multiply_add(value, Group(log2_e), Group(to_eighths)), n = at - Group(to_eighths);
        return {steps_of(at, n), Single::power_of_two(multiply_subtract(value, Group(log2_e), n))};
    }
    Guard guard_ = Guard::none;
    float offset_[width] = {};
};

// ---------------------------------------------------------------- bfloat16's: 2^(x·log2(e) - n + 92)
//
// For values about a `center`. Which n it is changes no bit of a quotient of two powers, as long as the largest value
// of a sample is within `reach`. Centers that are too far for x·log2(e) are taken off x first, which is exact; they
// have to be the largest.
//
// x·log2(e) - n and what an exponent is biased with are a number of [0, 2^8); scaled, and added to 2, it is one of
// [2, 4), and its bits are those of the exponent, before those of the fraction. Values that are too far from the center
// for that are seen by its first bits (2 has one, and no number beyond has that alone); then all is taken once more,
// with a guard: what is more than `depth` below the center counts as that, 2^-186 of the largest or less; and if that
// does not do, a NaN stays one.
template <int width> class Reference<Half, width> {
    static constexpr int exponent_bits = 8, mantissa = std::numeric_limits<float>::digits - 1;
    static constexpr auto log2_of_e = static_cast<float>(log2_e);
    static constexpr float exponent_step = 2.0f / (1 << exponent_bits);

public:
    using Seen = std::uint32_t;  // the bits of all those numbers, or'ed
    static constexpr Seen none_seen = std::bit_cast<Seen>(2.0f);
    static constexpr bool sees_values = false;
    static bool all_near(const Seen* seen, const double*, index_t) {
        Seen all = 0;
        for (int l = 0; l < lanes; ++l) all |= seen[l];
        return all >> mantissa == none_seen >> mantissa;
    }
    static constexpr Guard next_guard(Guard guard) { return guard == Guard::none ? Guard::low : Guard::all; }

    Reference() { set(1); }
    Reference(const float* largest, index_t samples, Guard guard = Guard::none) : guard_(guard) {
        for (index_t i = 0; i < samples; ++i) center_[i] = std::fabs(largest[i]) < infinity ? largest[i] : 0.0f;
        set(samples);
    }
    Guard guard() const { return offset_[0] != 0 ? Guard::all : guard_; }
    Reference more_guarded() const {
        Reference same = *this;
        same.guard_ = next_guard(guard_);
        return same;
    }
    double offset(index_t i) const { return offset_[i]; }
    // Of several samples, from the first center. Numbers of one sign compare as their bits do.
    bool reaches(const float* largest, index_t samples) const {
        const auto bits = [](float number) { return std::bit_cast<std::uint32_t>(std::fabs(number)); };
        std::uint32_t distance = 0, size = 0;
        for (index_t i = 0; i < samples; ++i) {
            distance = std::max(distance, bits(largest[i] - center_[0]));
            size = std::max(size, bits(largest[i]));
        }
        const bool near = distance <= bits(Half::reach) && size <= bits(Half::far);
        return distance == 0 || (near && offset_[0] == 0);
    }
    template <Guard guard> [[gnu::always_inline]] float exponential(float value, index_t i, Seen& seen) const {
        if constexpr (guard == Guard::all) value -= offset_[i];
        if constexpr (guard != Guard::none) value = value < lowest_[i] ? lowest_[i] : value;  // NaN stays
        const float at = multiply_add(value, log2_of_e * exponent_step, origin_[i]);
        const Seen bits = std::bit_cast<Seen>(at), shifted = bits << exponent_bits;
        constexpr Seen one = std::bit_cast<Seen>(1.0f), fraction = (Seen{1} << mantissa) - 1;
        if constexpr (guard != Guard::all) seen |= bits;
        const Seen f = (shifted & fraction) | one;
        const auto p = std::bit_cast<Seen>(Half::power_of_two(std::bit_cast<float>(f)));
        const auto power = std::bit_cast<float>(p ^ f ^ shifted);  // the fraction of p, the exponent of `shifted`
        if constexpr (guard == Guard::all) return at == at ? power : at;
        return power;
    }
    template <Guard guard> [[gnu::always_inline]] void powers(const float* values, index_t first, double* power) const {
        Seen unused = 0;
        for (int l = 0; l < lanes; ++l)
            power[l] = static_cast<double>(exponential<guard>(values[l], width > 1 ? first + l : 0, unused));
    }
    float power_of(float value, index_t i) const {
        Seen unused = 0;
        return exponential<Guard::all>(value, i, unused);
    }

private:
    void set(index_t samples) {
        constexpr double biased = std::numeric_limits<float>::max_exponent - 1 + Half::bias;
        for (index_t i = 0; i < samples; ++i) {
            offset_[i] = std::fabs(center_[i]) > Half::far ? center_[i] : 0.0f;
            const float kept = center_[i] - offset_[i];
            lowest_[i] = kept - Half::depth;
            const double n = (static_cast<double>(kept) * log2_e + to_integer) - to_integer;
            origin_[i] = static_cast<float>(2 + (biased - n) * exponent_step);
        }
    }
    Guard guard_ = Guard::none;
    float center_[width] = {}, offset_[width] = {};
    float lowest_[width], origin_[width];
};

// ---------------------------------------------------------------- in double precision: e^(x - center)
//
// Its argument is taken without any rounding. The center has to be the largest.
template <int width> class Reference<Double, width> {
public:
    using Seen = std::uint64_t;
    static constexpr Seen none_seen = 0;
    static constexpr bool sees_values = false;
    static bool all_near(const Seen*, const double*, index_t) { return true; }
    static constexpr Guard next_guard(Guard) { return Guard::all; }

    Reference() = default;
    Reference(const double* largest, index_t samples, Guard = Guard::all) {
        for (index_t i = 0; i < samples; ++i) center_[i] = largest[i] == -infinity ? 0.0 : largest[i];
    }
    static Guard guard() { return Guard::all; }
    Reference more_guarded() const { return *this; }
    double offset(index_t i) const { return center_[i]; }
    static bool reaches(const double*, index_t) { return true; }
    template <Guard> [[gnu::always_inline]] double exponential(double value, index_t i, Seen&) const {
        const Difference difference = difference_of(value, center_[i]);
        return exp_of(difference.high, difference.low);
    }
    template <Guard> void powers(const double* values, index_t first, double* power) const {
        for (int l = 0; l < lanes; ++l) power[l] = power_of(values[l], width > 1 ? first + l : 0);
    }
    [[gnu::always_inline]] double power_of(double value, index_t i) const {
        Seen unused = 0;
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
    typename Shared::Seen seen[lanes];

    RowLanes() {
        std::fill_n(largest, lanes, -std::numeric_limits<Real>::infinity());
        std::fill_n(seen, lanes, Shared::none_seen);
    }
    Real largest_of_all() const {
        return fold_lanes(largest, [](Real a, Real b) { return a < b ? b : a; });
    }
    bool all_near(Guard guard) const { return guard == Guard::all || Shared::all_near(seen, sum, lanes); }
};

// Adds the exponentials, and keeps them if there is a place for them. What fills up the last pair of lanes may be far
// from the center. A line after `ahead` is asked for with every 64 bytes or less.
template <Guard guard, class Scalar, class Arithmetic>
[[gnu::noinline]] void exponentials_of_row(const Scalar* __restrict values, index_t classes,
                                           const Reference<Arithmetic, 1>& shared, const std::byte* ahead, index_t step,
                                           typename Arithmetic::Power* __restrict powers, RowLanes<Arithmetic>& row) {
    using Real = typename Arithmetic::Real;
    const Reference<Arithmetic, 1> reference = shared;  // its own memory, which no store changes
    RowLanes<Arithmetic> found = row;
    const auto compute = [&](index_t begin, index_t end, auto guarded, auto keeps) {
        [[maybe_unused]] Group sum[lanes / Group::size];
        if constexpr (Arithmetic::fused)
            for (int l = 0; l < lanes; l += Group::size) sum[l / Group::size] = Group::load(found.sum + l);
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
            if constexpr (Arithmetic::fused) {
                NLL_UNROLL for (int l = 0; l < pair_size; l += Group::size) {
                    const Factors of = reference.template factors<guarded.value>(pair + l, 0);
                    if constexpr (keeps) (of.step * of.fraction).store(powers + c + l);
                    Group& total = sum[l % lanes / Group::size];
                    total = multiply_add(of.step, of.fraction, total);
                }
            }
            NLL_ONE_VECTOR for (int l = 0; l < lanes; ++l) {
                const Real value = pair[l], next = pair[lanes + l];
                if constexpr (!Arithmetic::fused) {
                    const auto power = reference.template exponential<guarded.value>(value, 0, found.seen[l]);
                    const auto after = reference.template exponential<guarded.value>(next, 0, found.seen[l]);
                    if constexpr (keeps) {
                        powers[c + l] = power;
                        powers[c + lanes + l] = after;
                    }
                    found.sum[l] += static_cast<double>(power + after);
                } else if constexpr (Reference<Arithmetic, 1>::sees_values && guarded.value == Guard::none) {
                    const Real smaller = value < next ? value : next;
                    found.seen[l] = smaller < found.seen[l] ? smaller : found.seen[l];
                }
                const Real larger = value < next ? next : value;
                found.largest[l] = found.largest[l] < larger ? larger : found.largest[l];
            }
        }
        if constexpr (Arithmetic::fused)
            for (int l = 0; l < lanes; l += Group::size) sum[l / Group::size].store(found.sum + l);
    };
    const auto compute_all = [&](auto keeps) {
        constexpr Guard last = guard == Guard::none ? Reference<Arithmetic, 1>::next_guard(guard) : guard;
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

// The exponentials; of each sample the largest value so far, and the sum of powers so far: in turn, or by lanes of
// classes that are so far apart (0: in turn). Of each class, so many samples after `ahead` are asked for. The reference
// is one for all samples, or one for each. Says whether all values were near.
template <Guard guard, class Scalar, class Arithmetic, int width>
[[gnu::noinline]] bool exponentials_of_tile(const typename Arithmetic::Real* values, index_t classes, index_t samples,
                                            index_t pitch, const Reference<Arithmetic, width>& shared,
                                            const Scalar* ahead, index_t step, typename Arithmetic::Power* powers,
                                            index_t powers_pitch, typename Arithmetic::Real* __restrict largest,
                                            double* __restrict sums, index_t lane_pitch) {
    using Real = typename Arithmetic::Real;
    using Power = typename Arithmetic::Power;
    using Shared = Reference<Arithmetic, width>;
    constexpr index_t line = 64 / sizeof(Scalar);
    constexpr bool each = width > 1;
    const std::conditional_t<each, const Shared&, const Shared> reference = shared;
    bool near = true;
    // One or two groups of lanes, class after class: of each class, two cache lines that lie side by side.
    const auto compute = [&](index_t first, auto groups, auto by_lanes) {
        constexpr int count = groups.value * lanes;
        alignas(64) double sum[count];
        alignas(64) Real most[count];
        typename Shared::Seen seen[lanes];
        std::copy_n(sums + first, count, sum);
        [[maybe_unused]] Group total[count / Group::size];
        if constexpr (Arithmetic::fused)
            for (int k = 0; k < count; k += Group::size) total[k / Group::size] = Group::load(sum + k);
        std::copy_n(largest + first, count, most);
        std::fill_n(seen, lanes, Shared::none_seen);
        for (index_t c = 0; c < classes; ++c) {
            for (index_t i = first; i < first + count; i += line) NLL_PREFETCH(ahead + c * step + i);
            const Real* __restrict from = values + c * pitch + first;
            Power* __restrict to = powers + c * powers_pitch + first;
            if constexpr (Arithmetic::fused) {
                double* lane = sums + c % lanes * lane_pitch + first;
                NLL_UNROLL for (int k = 0; k < count; k += Group::size) {
                    const Factors of = reference.template factors<guard>(from + k, first + k);
                    (of.step * of.fraction).store(to + k);
                    if constexpr (by_lanes) {
                        multiply_add(of.step, of.fraction, Group::load(lane + k)).store(lane + k);
                    } else {
                        Group& so_far = total[k / Group::size];
                        so_far = multiply_add(of.step, of.fraction, so_far);
                    }
                }
            }
            NLL_ONE_VECTOR for (int l = 0; l < lanes; ++l) {
                NLL_UNROLL for (int k = l; k < count; k += lanes) {
                    if constexpr (!Arithmetic::fused) {
                        const auto power =
                            reference.template exponential<guard>(from[k], each ? first + k : 0, seen[l]);
                        to[k] = power;
                        sum[k] += static_cast<double>(power);
                    } else if constexpr (Shared::sees_values && guard == Guard::none) {
                        seen[l] = from[k] < seen[l] ? from[k] : seen[l];
                    }
                    most[k] = most[k] < from[k] ? from[k] : most[k];
                }
            }
        }
        std::copy_n(most, count, largest + first);
        if constexpr (Arithmetic::fused)
            for (int k = 0; k < count; k += Group::size) total[k / Group::size].store(sum + k);
        if constexpr (by_lanes) {
            for (int lane = 0; lane < lanes; ++lane)
                near &= Shared::all_near(seen, sums + lane * lane_pitch + first, count);
        } else {
            std::copy_n(sum, count, sums + first);
            near &= Shared::all_near(seen, sum, count);
        }
    };
    const auto compute_all = [&](auto by_lanes) {
        index_t first = 0;
        for (; first + 2 * lanes <= samples; first += 2 * lanes)
            compute(first, std::integral_constant<int, 2>(), by_lanes);
        if (first < samples) compute(first, std::integral_constant<int, 1>(), by_lanes);
    };
    if constexpr (Arithmetic::fused)
        if (lane_pitch != 0) {
            compute_all(std::true_type());
            return near || guard == Guard::all;
        }
    compute_all(std::false_type());
    return near || guard == Guard::all;
}

// Sums of up to 16 lanes of classes, each of up to `width` samples. Compensated ones add up beside what additions round
// off.
template <int width, bool compensated> class LaneSums {
public:
    // All lanes 0, to be added to.
    void clear(index_t samples) {
        for (filled_ = 0; filled_ < lanes; ++filled_) std::fill_n(sum + filled_ * width, samples, 0.0);
    }
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
