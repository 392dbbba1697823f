// SPDX-License-Identifier: BSD-3-Clause
// Exponentials, and the log-sum-exp of class values in small buffers.
//
// A sum over classes has one order, whatever the layout, the threads and the processor: chunks of `chunk_size` classes;
// in a chunk 16 lanes, the class modulo 16; the lanes in a tree; the chunks one after the other. It is computed in two
// ways: for a row, many classes of one sample side by side; and for a tile, class after class of many samples.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "plan.hpp"
#include "stream.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

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

// log(1 + x) for 0 <= x < 2^1000, or NaN, within 1 ULP. The way of fdlibm: 1 + x is 2^n·z with z near 1, log z an odd
// series of s = (z - 1)/(z + 1), and what was lost in 1 + x is added.
[[gnu::always_inline]] inline double log1p_of(double x) {
    constexpr double log_2_high = 0x1.62e42fee00000p-1, log_2_low = 0x1.a39ef35793c76p-33;
    const double y = 1 + x;
    const double lost = (x - (y - 1)) / y;
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

// How exact exponentials and sums have to be depends on the result. A largest term may be taken off a plain sum that it
// `leaves_enough` of; a rest that is only terms too small to be exact is `flushed`, and it is far below the last bit of
// any result. A chunk's powers, relative to its own largest value, may be scaled to the sample's if one rounding more
// does not matter; else they are computed again.
struct Double {
    using Real = double;   // of values
    using Power = double;  // of exponentials
    using Factor = Paired;
    static constexpr bool scales_chunks = false;
    static bool leaves_enough(double, double) { return false; }
    static double flushed(double rest) { return rest; }
};
struct Single {
    using Real = float;
    using Power = double;
    using Factor = Plain;
    static constexpr bool scales_chunks = true;
    static bool leaves_enough(double sum, double unit) { return sum - unit >= 0x1p-10 * sum; }
    static double flushed(double rest) { return rest < 0x1p-900 ? 0.0 : rest; }
};
struct Half {  // bfloat16's
    using Real = float;
    using Power = float;
    using Factor = Plain;
    static constexpr bool scales_chunks = true;
    static bool leaves_enough(double sum, double unit) { return Single::leaves_enough(sum, unit); }
    static double flushed(double rest) { return rest < 0x1p-165 ? 0.0 : rest; }
};

// What the exponentials of `width` samples are relative to: exponential(x, i) = unit[i]·e^(x - largest[i]).
template <class Arithmetic, int width> struct Reference;

// For values of single precision: 2^(x·log2(e) - n), where n rounds that power of the largest value. The polynomial is
// within 4.1e-11 of 2^f, 0.0007 ULP of single precision, for |f| <= 1/2 (Remez). Values that are so far below the
// largest that e^(x - largest) < 2^-990 count as that.
template <int width> struct Reference<Single, width> {
    float offset[width];  // taken off x first, where x·log2(e) would not be exact enough; then the difference is exact
    float lowest[width];
    double origin[width];  // to_integer - n
    double unit[width];
    bool shifted;  // an offset is not 0

    Reference(const float* largest, index_t samples) {
        constexpr float far = 0x1p14f, reach = 690, most = std::numeric_limits<float>::max();
        float finite[width], farthest = 0;
        for (index_t i = 0; i < samples; ++i) finite[i] = std::fabs(largest[i]) <= most ? largest[i] : 0.0f;
        for (index_t i = 0; i < samples; ++i) farthest = std::max(farthest, std::fabs(finite[i]));
        shifted = farthest > far;
        for (index_t i = 0; i < samples; ++i) {
            offset[i] = std::fabs(finite[i]) > far ? finite[i] : 0.0f;
            const float kept = finite[i] - offset[i];
            lowest[i] = kept - reach;
            origin[i] = to_integer - ((static_cast<double>(kept) * log2_e + to_integer) - to_integer);
        }
        for (index_t i = 0; i < samples; ++i) unit[i] = exponential<true>(finite[i], i);
    }

    template <bool shifts> [[gnu::always_inline]] double exponential(float value, index_t i) const {
        if constexpr (shifts) value -= offset[i];
        const auto x = static_cast<double>(value < lowest[i] ? lowest[i] : value);
        const double k = multiply_add(x, log2_e, origin[i]);
        const double f = multiply_add(x, log2_e, -(k - origin[i]));
        const double power =
            polynomial(f, 0x1.fe17856b36eb8p-17, 0x1.446a1fd6f73a4p-13, 0x1.5d8a708707370p-10, 0x1.3b29dc40dc6e6p-7,
                       0x1.c6b08aaf30084p-5, 0x1.ebfbe0a4be790p-3, 0x1.62e42ff116283p-1, 0x1.ffffffffabbcep-1);
        return std::bit_cast<double>(std::bit_cast<std::uint64_t>(power) + (std::bit_cast<std::uint64_t>(k) << 52));
    }
};

// For bfloat16, in single precision: 2^64·e^(x - largest), so that results of 2^-133 come from normal numbers. The
// polynomial is within 7.5e-8; the rounding of x - largest > -131 puts in 8e-6 at most, 0.002 ULP of bfloat16. Values
// further below count as that.
template <int width> struct Reference<Half, width> {
    float largest[width];
    double unit[width];
    static constexpr bool shifted = false;

    Reference(const float* values, index_t samples) {
        for (index_t i = 0; i < samples; ++i)
            largest[i] = std::fabs(values[i]) <= std::numeric_limits<float>::max() ? values[i] : 0.0f;
        for (index_t i = 0; i < samples; ++i) unit[i] = exponential<false>(largest[i], i);
    }
    template <bool> [[gnu::always_inline]] float exponential(float value, index_t i) const {
        constexpr float origin = 0x1.8p23f + 64, lowest = -131;
        const float difference = value - largest[i], x = difference < lowest ? lowest : difference;
        const float k = multiply_add(x, static_cast<float>(log2_e), origin);
        const float f = multiply_add(x, static_cast<float>(log2_e), -(k - origin));
        const float power = polynomial(f, 0x1.5c08e58p-10f, 0x1.3d0c52cp-7f, 0x1.c6b6e4ep-5f, 0x1.ebf9174p-3f,
                                       0x1.62e428cp-1f, 0x1.000002p+0f);
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(power) + (std::bit_cast<std::uint32_t>(k) << 23));
    }
};

// For double: e^(x - largest), whose argument is taken without any rounding.
template <int width> struct Reference<Double, width> {
    double largest[width];
    double unit[width];
    static constexpr bool shifted = false;

    Reference(const double* values, index_t samples) {
        for (index_t i = 0; i < samples; ++i) {
            largest[i] = values[i] == -infinity ? 0.0 : values[i];
            unit[i] = 1.0;
        }
    }
    template <bool> [[gnu::always_inline]] double exponential(double value, index_t i) const {
        const Difference difference = difference_of(value, largest[i]);
        return exp_of(difference.high, difference.low);
    }
};

// ---------------------------------------------------------------- sums over classes

// Sums of 16 lanes of classes, each of up to `width` samples. Compensated ones add up beside what additions round off.
template <int width, bool compensated> struct ClassSums {
    double sum[lanes * width];
    double error[compensated ? lanes * width : 1];
    int filled = 0;  // lanes

    // The values of some classes of all samples, a multiple of 16 classes unless they are the last.
    template <class Power>
    [[gnu::noinline]] void add(const Power* values, index_t classes, index_t samples, index_t pitch) {
        for (index_t c = 0; c < classes; ++c) {
            const index_t k = c % lanes;
            const Power* from = values + c * pitch;
            double *to = sum + k * width, *lost_of = error + (compensated ? k * width : 0);
            if (c == k && k >= filled) {
                std::copy_n(from, samples, to);
                if constexpr (compensated) std::fill_n(lost_of, samples, 0.0);
            } else {
                add_rows(to, from, to, lost_of, samples);
            }
        }
        filled = std::max(filled, static_cast<int>(std::min<index_t>(classes, lanes)));
    }
    // Adds up the lanes, in a tree: the sums are then in the first.
    [[gnu::noinline]] void finish(index_t samples) {
        for (int half = lanes / 2; half > 0; half /= 2) {
            for (int k = 0; k < filled - half; ++k) {
                double* lost_of = error + (compensated ? k * width : 0);
                add_rows(sum + k * width, sum + (k + half) * width, sum + k * width, lost_of, samples);
                if constexpr (compensated)
                    for (index_t i = 0; i < samples; ++i) lost_of[i] += error[(k + half) * width + i];
            }
            filled = std::min(filled, half);
        }
    }
    // The sums of these values alone.
    template <class Power> const double* of(const Power* values, index_t classes, index_t samples, index_t pitch) {
        add(values, classes, samples, pitch);
        finish(samples);
        return sum;
    }
    // Those of doubles, which need not be copied first.
    [[gnu::noinline]] const double* of(const double* values, index_t classes, index_t samples, index_t pitch)
        requires(!compensated)
    {
        const double* lane[lanes];
        int count = static_cast<int>(std::min<index_t>(classes, lanes));
        for (int k = 0; k < count; ++k) lane[k] = values + k * pitch;
        const auto add_to = [&](int k, const double* from) {
            add_rows(lane[k], from, sum + k * width, error, samples);
            lane[k] = sum + k * width;
        };
        for (index_t c = lanes; c < classes; ++c) add_to(static_cast<int>(c % lanes), values + c * pitch);
        for (int half = lanes / 2; half > 0; half /= 2) {
            for (int k = 0; k < count - half; ++k) add_to(k, lane[k + half]);
            count = std::min(count, half);
        }
        return lane[0];
    }

private:
    template <class Power>
    static void add_rows(const double* a, const Power* b, double* to, double* lost_of, index_t samples) {
        for (index_t i = 0; i < samples; ++i) {
            const double before = a[i], value = static_cast<double>(b[i]), total = before + value;
            to[i] = total;
            if constexpr (compensated) lost_of[i] += lost(before, value, total);
        }
    }
};

// Σ e^(x - largest) of each sample without one largest term: plain sums, where such a term leaves enough of their
// digits; compensated ones where it is nearly all. `recover` computes the compensated ones.
template <class Arithmetic, int width, class Recover>
void take_rests(const double* sums, const double* units, index_t samples, double* rests, Recover&& recover) {
    int few = 0;
    for (index_t i = 0; i < samples; ++i) {
        rests[i] = sums[i] - units[i];
        few |= !Arithmetic::leaves_enough(sums[i], units[i]);
    }
    if (few) {
        const ClassSums<width, true>& compensated = recover();
        for (index_t i = 0; i < samples; ++i)
            if (!Arithmetic::leaves_enough(sums[i], units[i]))
                rests[i] = (compensated.sum[i] - units[i]) + compensated.error[i];
    }
    for (index_t i = 0; i < samples; ++i) rests[i] = Arithmetic::flushed(rests[i] / units[i]);
}

// ---------------------------------------------------------------- parts of a softmax

// The factor that takes e^(x - part) to e^(x - largest), for the largest value of a part of the classes.
[[gnu::noinline]] inline double share_of(double part, double largest) {
    if (part == largest) return 1.0;
    const Difference down = difference_of(part, largest);
    return exp_of(down.high, down.low);
}

inline void merge(Softmax& all, Softmax part) {
    if (all.rest == -1) return static_cast<void>(all = part);
    if (part.largest > all.largest) std::swap(all, part);
    const double share = share_of(part.largest, all.largest), term = (1 + part.rest) * share, before = all.rest;
    all.rest += term;
    all.lost += part.lost * share + lost(before, term, all.rest);
    all.below += part.below + (part.largest == all.largest ? 0.0 : part.weight * (all.largest - part.largest));
    all.weight += part.weight;
}

// When all classes are merged. Logits with +inf among them, or all of them -inf, have no softmax.
inline void settle(Softmax& all) {
    all.rest += all.lost;
    if (std::fabs(all.largest) == infinity) all.rest = std::numeric_limits<double>::quiet_NaN();
}

// A compensated sum; of infinities there is no error.
inline double total_of(double sum, double error) { return std::fabs(sum) < infinity ? sum + error : sum; }

// ---------------------------------------------------------------- a row: classes of one sample, in whole groups of 16

// The largest; NaN does not count.
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

// The exponentials, and their sums by lanes. A line after `ahead` is asked for with every 64 bytes or less.
template <class Arithmetic>
[[gnu::noinline]] void exponentials_of_row(const typename Arithmetic::Real* __restrict values, index_t classes,
                                           const Reference<Arithmetic, 1>& shared, const std::byte* ahead, index_t step,
                                           typename Arithmetic::Power* __restrict powers, double* __restrict sums) {
    const Reference<Arithmetic, 1> reference = shared;  // its own memory, which no store changes
    double lane[lanes] = {};
    const auto compute = [&](auto shifts) {
        for (index_t c = 0; c < classes; c += lanes) {
            NLL_PREFETCH(ahead);
            ahead += step;
            for (int l = 0; l < lanes; ++l) {
                const auto power = reference.template exponential<shifts.value>(values[c + l], 0);
                powers[c + l] = power;
                lane[l] += static_cast<double>(power);
            }
        }
    };
    if (reference.shifted) compute(std::true_type());
    else compute(std::false_type());
    std::copy_n(lane, lanes, sums);
}

inline double add_lanes(const double* lane) {
    double sum[lanes];
    std::copy_n(lane, lanes, sum);
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) sum[l] += sum[l + half];
    return sum[0];
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

// The exponentials. Of each class, so many samples after `ahead` are asked for.
template <class Scalar, class Arithmetic, int width>
[[gnu::noinline]] void exponentials_of_tile(const typename Arithmetic::Real* values, index_t classes, index_t samples,
                                            index_t pitch, const Reference<Arithmetic, width>& reference,
                                            const Scalar* ahead, index_t step, typename Arithmetic::Power* powers,
                                            index_t powers_pitch) {
    constexpr index_t line = 64 / sizeof(Scalar);
    const auto compute = [&](auto shifts) {
        for (index_t c = 0; c < classes; ++c) {
            for (index_t i = 0; ahead && i < samples; i += line) NLL_PREFETCH(ahead + c * step + i);
            const typename Arithmetic::Real* __restrict from = values + c * pitch;
            typename Arithmetic::Power* __restrict to = powers + c * powers_pitch;
            for (index_t i = 0; i < samples; ++i) to[i] = reference.template exponential<shifts.value>(from[i], i);
        }
    };
    if (reference.shifted) compute(std::true_type());
    else compute(std::false_type());
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
