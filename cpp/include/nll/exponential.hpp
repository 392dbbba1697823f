// SPDX-License-Identifier: BSD-3-Clause
// Exponentials: how exact they have to be, and what they are relative to.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "exact_sum.hpp"  // lanes
#include "group.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

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
[[gnu::always_inline]] constexpr double power_of(double n) {
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
    static constexpr float reach = 350, depth = 900, unguarded = 500;
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

// What exponentials of `width` samples are relative to: the power of offset(i) is base(i). It reaches a sample's
// largest value or not; a sum of powers that it holds can only be of values whose largest it reaches.
template <class Arithmetic, int width> class Reference;

// ---------------------------------------------------------------- in single precision: 2^(x·log2(e) + 280)
//
// x·log2(e) is n + f, where n is in eighths; powers are products of 2^n, from a table, and of 2^f, a polynomial. A
// sample whose largest value is beyond `reach` has that taken off first, in double; others have nothing taken off: so
// powers depend on the sample alone. With a guard, what is more than `depth` below the largest is 0. Without, AVX-512
// makes a NaN of -inf only, and others nonsense of what is far from 0, beyond `unguarded` at least: both are seen, and
// all is taken once more.

// Factors of the powers of a group.
struct Factors {
    Group step, fraction;
};

template <int width> class Reference<Single, width> {
public:
    // What shows that a guard is needed: sums that are NaN; and where steps would be nonsense, distances from 0.
    using Seen = float;
    static constexpr Seen none_seen = 0;
    static constexpr bool sees_values = !Group::steps_saturate;
    static bool all_near(const Seen* seen, const double* sums, index_t count) {
        std::uint64_t far = 0, undefined = 0;
        for (int l = 0; l < lanes && sees_values; ++l) far |= std::uint64_t{seen[l] > Single::unguarded};
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
    static double base(index_t) { return step_bias; }
    bool reaches(const float* largest, index_t samples) const {
        bool within = true;
        for (index_t i = 0; i < samples; ++i)
            within &= offset_[0] != 0 ? largest[i] == offset_[0] : std::fabs(largest[i]) <= Single::reach;
        return within;
    }
    bool holds(double sum, index_t classes) const {
        constexpr double most = 0x1p504;
        static_assert(504 / log2_e < Single::reach);
        return sum <= most * step_bias && sum >= static_cast<double>(classes) * (step_bias / most);
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
        for (index_t i = 0; i < samples; ++i)  // all -inf would count as something
            if (!(std::fabs(largest[i]) < infinity)) {
                origin_[i] = std::numeric_limits<float>::quiet_NaN();
                guard_ = Guard::all;
            }
    }
    Guard guard() const { return offset_[0] != 0 ? Guard::all : guard_; }
    Reference more_guarded() const {
        Reference same = *this;
        same.guard_ = next_guard(guard_);
        return same;
    }
    double offset(index_t i) const { return offset_[i]; }
    double base(index_t i) const { return base_[i]; }
    // A largest value that is `far_below` the center is as good as one within reach: what is cut off is 2^-167 of it.
    bool holds(double sum, index_t classes) const {
        constexpr double far_below = 33, most = 0x1p28, least = 0x1p-46, unit = nll::power_of(Half::bias);
        static_assert(28.5 / log2_e < Half::reach && 47 / log2_e < far_below);
        return std::fabs(center_[0]) <= Half::far - far_below && sum <= most * unit &&
               sum >= static_cast<double>(classes) * (least * unit);
    }
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
        const auto power = std::bit_cast<float>(p ^ f ^ shifted);       // the fraction of p, the exponent of `shifted`
        if constexpr (guard == Guard::all) return at < 4 ? power : at;  // infinity and NaN stay
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
            base_[i] = nll::power_of(Half::bias - n);
        }
    }
    Guard guard_ = Guard::none;
    float center_[width] = {}, offset_[width] = {};
    float lowest_[width], origin_[width];
    double base_[width];
};

// ---------------------------------------------------------------- in double precision: e^(x - center)
//
// Its argument is taken without any rounding. The center has to be the largest.
template <int width> class Reference<Double, width> {
public:
    using Seen = std::uint64_t;
    static constexpr Seen none_seen = 0;
    static bool all_near(const Seen*, const double*, index_t) { return true; }
    static constexpr Guard next_guard(Guard) { return Guard::all; }

    Reference() = default;
    Reference(const double* largest, index_t samples, Guard = Guard::all) {
        for (index_t i = 0; i < samples; ++i) center_[i] = largest[i] == -infinity ? 0.0 : largest[i];
    }
    static Guard guard() { return Guard::all; }
    Reference more_guarded() const { return *this; }
    double offset(index_t i) const { return center_[i]; }
    static double base(index_t) { return 1; }
    static bool reaches(const double*, index_t) { return true; }
    static bool holds(double, index_t) { return true; }
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

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
