// SPDX-License-Identifier: BSD-3-Clause
// The canonical order of a sample, as scalar code: what all kernels compute, to the last bit, in
// every layout and for any number of threads. `x` are the logits of the C classes of a sample; the
// pivot is its target, or for log_softmax the class of the first largest logit.
//
//   shift        the largest logit if it is beyond +-350, else 0         (double: beyond +-150)
//   e[c]         2^280 exp(x[c] - shift) = step * fraction
//                                                     (double: 2^500, and step + step * fraction)
//   chunk        the sum of e[c] over 2048 classes in 16 lanes: class c in lane c mod 16. A lane
//                adds its classes one after the other, and lanes are added in a tree. If C is at
//                most 128, there is one lane
//   sum, error   the chunks, added one after the other, and what these additions have rounded off
//                                                             (double: what all have rounded off)
//   others       (sum - e[pivot]) + error. If less than 2^-10 of the sum is left, first the chunk
//                of the pivot is summed again: (e[pivot] - chunk) + its other classes is added to
//                error. They are in 16 lanes, c and c + 16 added first         (double: if less
//                than 2^-30 is left, all chunks, in 16 lanes, c after c; sum and error are then
//                e[pivot] and these)
//   center, log  if others < e[pivot], x[pivot] and log(1 + others / e[pivot]), else shift and
//                log(sum), for their sum is log(sum of exp(x))        (double: if < 2^900 e[pivot])
//   loss         (center - x[pivot]) + log
//   log_softmax  (x[c] - center) - log
//   gradient     scale / (e[pivot] + others) * e[c]; at the target it is
//                -scale * (others / (e[pivot] + others)); scale is weight * grad_output / divisor
//                  (double: the power of 2 that makes sum + error 1 to 2 multiplies it, and scale,
//                  if the quotient of both is 1 or more, or else e[c] and others)
//
// A product and a sum have one rounding where the instruction set has such an operation (`fused`):
// step * fraction is then added to its lane without being rounded. Results are rounded once to
// their element type; losses and gradients are never -0. (bfloat16, whose exponentials are of
// float and whose entries are rounded twice, has its own section.)
#pragma once

#include <nll/types.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>

namespace reference {

using nll::index_t;
inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline constexpr double nan = std::numeric_limits<double>::quiet_NaN();
inline constexpr double log2_e = 0x1.71547652b82fep+0;

// ---------------------------------------------------------------- arithmetic

inline bool fused = false;
template <class Real> Real multiply_add(Real a, Real b, Real c) {
    return fused ? std::fma(a, b, c) : a * b + c;
}

// Evaluates a polynomial by Horner's rule. Its coefficients begin with that of the highest power.
template <class Real> Real polynomial(Real x, std::initializer_list<Real> coefficients) {
    Real value = 0;
    for (const Real coefficient : coefficients) value = multiply_add(value, x, coefficient);
    return value;
}

inline double nearest_integer(double x) { return (x + 0x1.8p52) - 0x1.8p52; }

// Returns a + b - sum, where sum is a + b rounded.
inline double two_sum_error(double a, double b, double sum) {
    const double part = sum - a;
    return (a - (sum - part)) + (b - part);
}

// A sum, and what its additions have rounded off.
struct Compensated {
    double sum, error;
    Compensated(double sum = 0, double error = 0) : sum(sum), error(error) {}
    void operator+=(Compensated other) {
        const double total = sum + other.sum;
        error += two_sum_error(sum, other.sum, total);
        error += other.error;
        sum = total;
    }
};

// The number high + low. Where low has no finite result, as beside an infinite high, it is 0.
struct DoubleDouble {
    double high, low;
    DoubleDouble(double high, double low = 0)
        : high(high), low(std::fabs(low) < infinity ? low : 0) {}
};
inline DoubleDouble operator+(DoubleDouble a, DoubleDouble b) {
    const double high = a.high + b.high;
    return {high, two_sum_error(a.high, b.high, high) + a.low + b.low};
}
inline DoubleDouble operator*(DoubleDouble a, double b) {
    const double high = a.high * b;
    return {high, std::fma(a.high, b, -high) + a.low * b};
}
inline DoubleDouble operator*(DoubleDouble a, DoubleDouble b) {
    const DoubleDouble product = a * b.high;
    return {product.high, product.low + a.high * b.low};
}
inline DoubleDouble operator/(DoubleDouble a, DoubleDouble b) {
    const double high = a.high / b.high;
    return {high, (std::fma(-high, b.high, a.high) - high * b.low + a.low) / b.high};
}
inline double product(double a, double b) { return a * b; }
inline double product(DoubleDouble a, double b) { return multiply_add(b, a.high, b * a.low); }

// ---------------------------------------------------------------- sums over classes

// Sums [0, count) in 1 or 16 lanes. `add` adds a class to its lane.
template <class Sum, class Add> Sum in_lanes(int lanes, index_t count, Add&& add) {
    Sum lane[16] = {};
    for (index_t c = 0; c < count; ++c) add(lane[c % lanes], c);
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
    return lane[0];
}

// Sums the terms of [0, count) in 16 lanes. Those of c and c + 16 are added first, in their type.
template <class Term> double in_pairs(index_t count, Term&& term) {
    return in_lanes<double>(16, count, [&](double& lane, index_t c) {
        if (c % 32 < 16) lane += c + 16 < count ? term(c) + term(c + 16) : term(c);
    });
}

// ---------------------------------------------------------------- in double, for results in float

// The number n of eighths next to x log2(e), and 2^(n + more).
struct Step {
    double n, power;
    int eighth;
    Step(double x, int more) : n(multiply_add(x, log2_e, 0x1.8p49) - 0x1.8p49) {
        constexpr double steps[] = {
            0x1.0000000000000p+0, 0x1.172b83c7d517bp+0, 0x1.306fe0a31b715p+0, 0x1.4bfdad5362a27p+0,
            0x1.6a09e667f3bcdp+0, 0x1.8ace5422aa0dbp+0, 0x1.ae89f995ad3adp+0, 0x1.d5818dcfba487p+0};
        const auto eighths = static_cast<int>(n * 8);
        eighth = eighths & 7;
        power = std::ldexp(steps[eighth], (eighths >> 3) + more);
    }
};

// 2^280 exp(x - shift) with a relative error of 8e-11: (x - shift) log2(e) is n + f, where n is in
// eighths; 2^n is from a table, and 2^f a polynomial. It is 0 for x - shift < -900.
struct Single {
    using Scale = double;
    static constexpr bool compensated = false;
    static constexpr double negligible = 0x1p-740, scale = 0x1p280;
    double shift;

    explicit Single(double largest)
        : shift(std::fabs(largest) > 350 && std::fabs(largest) < infinity ? largest : 0) {}

    struct Factors {
        double step, fraction;
    };
    Factors factors(double x) const {
        const double below = x - shift;
        if (below < -900) return {0, 1};
        if (!(below <= 350)) return {nan, nan};  // beside +inf alone
        const Step step(below, 280);
        const double f = multiply_add(below, log2_e, -step.n);
        return {step.power,
                polynomial(f, {0x1.3b2467dce84b4p-7, 0x1.c6be345df0c79p-5, 0x1.ebfbe0a8d155ap-3,
                               0x1.62e42fb90c128p-1, 0x1.fffffffff9b14p-1})};
    }
    double exp(double x) const {
        const auto [step, fraction] = factors(x);
        return step * fraction;
    }
    Compensated sum(const double* x, index_t count, int lanes) const {
        return {in_lanes<double>(lanes, count, [&](double& lane, index_t c) {
            const auto [step, fraction] = factors(x[c]);
            lane = multiply_add(step, fraction, lane);
        })};
    }
    double sum_without(index_t pivot, const double* x, index_t count) const {
        return in_pairs(count, [&](index_t c) { return c == pivot ? 0.0 : exp(x[c]); });
    }

    // Returns log(all / part), where others = all - part. all / part is 2^n z with z in [2/3, 3/2],
    // and log(z) a series of (z - 1) / (z + 1).
    static double log_of_quotient(double all, double part, double others) {
        if (all != all) return nan;
        const auto apart = std::bit_cast<std::int64_t>(all) - std::bit_cast<std::int64_t>(part);
        const auto n = static_cast<int>((apart + (std::int64_t{1} << 51)) >> 52);
        const double z = std::ldexp(all, -n);  // times part
        const double s = (n == 0 ? others : z - part) / (z + part), s2 = s * s;
        const double series =
            s2 * polynomial(s2, {2 / 15., 2 / 13., 2 / 11., 2 / 9., 2 / 7., 2 / 5., 2 / 3.});
        return n * 0x1.62e42fefa39efp-1 + s * (2 + series);
    }
    static bool is_about_pivot(double others, double exp_pivot) { return others < exp_pivot; }
    static double log_about_pivot(double, double, double exp_pivot, double others) {
        return log_of_quotient(exp_pivot + others, exp_pivot, others);
    }
    static double log_about_shift(double sum, double error) {
        return log_of_quotient(sum, scale, (sum - scale) + error);
    }
    static double entry(double factor, double exp) { return factor * exp; }
};

// ---------------------------------------------------------------- for results in double

// 2^500 exp(x - shift): x - shift, which is taken without error, is n log(2) + r, where n is in
// eighths; 2^n is from a table, what its numbers lack is in another, and exp(r) - 1 a polynomial.
// It is 0 for x - shift < -1050.
struct Double {
    using Scale = DoubleDouble;
    static constexpr bool compensated = true;
    static constexpr double negligible = 0, scale = 0x1p500;
    double shift;

    explicit Double(double largest)
        : shift(std::fabs(largest) > 150 && std::fabs(largest) < infinity ? largest : 0) {}

    double exp(double x) const {
        constexpr double lacking[] = {0,
                                      -0x1.01b16p-55,
                                      0x1.34d75p-55,
                                      0x1.690cfp-56,
                                      -0x1.3b3f0p-54,
                                      0x1.db730p-55,
                                      0x1.c1a78p-55,
                                      0x1.4a386p-56};
        const double high = x - shift;
        if (high < -1050) return 0;
        if (!(high <= 150)) return nan;  // beside +inf alone
        const Step step(high, 500);
        const double rest = multiply_add(step.n, -0x1.62e42fefap-1, high);
        const double low = two_sum_error(x, -shift, high);
        const double r = multiply_add(step.n, -0x1.cf79abc9e3b3ap-40, rest) + low;
        const double series =
            polynomial(r, {0x1.a01f8f4b1a4c5p-13, 0x1.6c1d00cea5f11p-10, 0x1.1111110abad2dp-7,
                           0x1.555555471342cp-5, 0x1.55555555555d0p-3, 0x1.0000000000115p-1});
        const double fraction = multiply_add(r * r, series, r + lacking[step.eighth]);
        return multiply_add(step.power, fraction, step.power);
    }
    Compensated sum(const double* x, index_t count, int lanes) const {
        return in_lanes<Compensated>(lanes, count,
                                     [&](Compensated& lane, index_t c) { lane += {exp(x[c])}; });
    }
    Compensated sum_without(index_t pivot, const double* x, index_t count) const {
        return in_lanes<Compensated>(16, count, [&](Compensated& lane, index_t c) {
            if (c != pivot) lane += {exp(x[c])};
        });
    }

    // Returns log(y + lost). y is 2^n z with z in [sqrt(1/2), sqrt(2)), and log(z) a series of
    // (z - 1) / (z + 1).
    static double log_of(double y, double lost) {
        if (y != y) return nan;
        constexpr std::int64_t root_of_half = 0x3fe6a09e667f3bcd;
        const auto n = static_cast<int>((std::bit_cast<std::int64_t>(y) - root_of_half) >> 52);
        const double f = std::ldexp(y, -n) - 1, s = f / (2 + f), s2 = s * s;
        const double series =
            s2 * polynomial(s2, {2 / 25., 2 / 23., 2 / 21., 2 / 19., 2 / 17., 2 / 15., 2 / 13.,
                                 2 / 11., 2 / 9., 2 / 7., 2 / 5., 2 / 3.});
        const double half_square = 0.5 * f * f;
        const double less = s * (half_square + series) + (n * 0x1.a39ef35793c76p-33 + lost / y);
        return n * 0x1.62e42fee00000p-1 - ((half_square - less) - f);
    }
    static bool is_about_pivot(double others, double exp_pivot) {
        return others < 0x1p900 * exp_pivot;
    }
    static double log_about_pivot(double sum, double error, double exp_pivot, double) {
        const double high = sum - exp_pivot, rest = high / exp_pivot, y = 1 + rest;
        const double low = two_sum_error(sum, -exp_pivot, high) + error;
        const double rounded_off = (std::fma(-rest, exp_pivot, high) + low) / exp_pivot;
        return log_of(y, (rest - (y - 1)) + rounded_off);
    }
    static double log_about_shift(double sum, double error) {
        return log_of(sum / scale, error / scale);
    }
};

// ---------------------------------------------------------------- a sample

// The largest logit. NaN does not count.
inline double largest_of(const double* x, index_t classes) {
    double largest = -infinity;
    for (index_t c = 0; c < classes; ++c) largest = largest < x[c] ? x[c] : largest;
    return largest;
}

template <class Precision> class Softmax {
public:
    Softmax(const double* x, index_t classes, index_t pivot)
        : x_(x), pivot_(pivot), exp_(largest_of(x, classes)) {
        constexpr index_t chunk_size = 2048;
        const int lanes = classes > 128 ? 16 : 1;
        Compensated sum;
        for (index_t first = 0; first < classes; first += chunk_size)
            sum += exp_.sum(x + first, std::min(chunk_size, classes - first), lanes);
        if (!(sum.sum > 0 && sum.sum < infinity)) sum.sum = nan;  // +inf, or all -inf
        exp_pivot_ = exp_.exp(x[pivot]);
        if constexpr (Precision::compensated) {
            if (sum.sum - exp_pivot_ < 0x1p-30 * sum.sum) {
                Compensated others;
                for (index_t first = 0; first < classes; first += chunk_size)
                    others += exp_.sum_without(pivot - first, x + first,
                                               std::min(chunk_size, classes - first));
                const double total = others.sum + others.error;
                sum.sum = exp_pivot_ + total;
                sum.error = two_sum_error(exp_pivot_, total, sum.sum);
            }
        } else {
            if (sum.sum - exp_pivot_ < 0x1p-10 * sum.sum) {
                const index_t first = pivot / chunk_size * chunk_size;
                const index_t count = std::min(chunk_size, classes - first);
                const double chunk = exp_.sum(x + first, count, lanes).sum;
                sum.error +=
                    (exp_pivot_ - chunk) + exp_.sum_without(pivot - first, x + first, count);
            }
        }
        others_ = (sum.sum - exp_pivot_) + sum.error;
        if (others_ < Precision::negligible * exp_pivot_) others_ = 0;
        if (Precision::is_about_pivot(others_, exp_pivot_)) {
            center_ = x[pivot];
            log_ = Precision::log_about_pivot(sum.sum, sum.error, exp_pivot_, others_);
        } else {
            center_ = exp_.shift;
            log_ = Precision::log_about_shift(sum.sum, sum.error);
        }
        sum_ = sum;
    }

    double loss() const { return (center_ - x_[pivot_]) + log_; }
    double log_softmax(index_t c) const { return (x_[c] - center_) - log_; }
    double gradient(index_t c, double weight, double grad_output, double divisor) const {
        using Scale = typename Precision::Scale;
        const Scale scale = Scale(grad_output) * weight / Scale(divisor);
        if constexpr (Precision::compensated) {
            return gradient_in_double(c, scale);
        } else {
            const double inverse = 1 / (exp_pivot_ + others_);
            if (c == pivot_) return -(scale * (inverse * others_));
            return Precision::entry(scale * inverse, exp_.exp(x_[c]));
        }
    }

private:
    double gradient_in_double(index_t c, DoubleDouble scale) const {
        double unit = sum_.sum == sum_.sum ? std::ldexp(1.0, -std::ilogb(sum_.sum)) : nan;
        DoubleDouble factor =
            scale * (DoubleDouble(1) / DoubleDouble(sum_.sum * unit, sum_.error * unit));
        if (!(std::fabs(factor.high) < 1)) {
            factor = factor * unit;
            unit = 1;
        }
        if (c != pivot_) return product(factor, exp_.exp(x_[c]) * unit);
        const double high = sum_.sum - exp_pivot_;
        const double low = two_sum_error(sum_.sum, -exp_pivot_, high) + sum_.error;
        const DoubleDouble others = DoubleDouble(high) + DoubleDouble(low);
        const DoubleDouble entry = factor * DoubleDouble(others.high * unit, others.low * unit);
        return others_ == 0 ? -(factor.high * 0) : -(entry.high + entry.low);
    }

    const double* x_;
    index_t pivot_;
    Precision exp_;
    Compensated sum_;
    double exp_pivot_, others_, center_, log_;
};

// ---------------------------------------------------------------- for results in bfloat16

// 2^92 exp(x - shift) in float, with a relative error of 2e-5. Samples are shifted unless their
// largest logit is in [-32, 19.5]. It is 0 for x - shift < -149.
struct Bfloat16 {
    using Scale = double;
    static constexpr bool compensated = false;
    static constexpr double negligible = 0x1p-160, scale = 0x1p92;
    double shift;

    explicit Bfloat16(double largest)
        : shift(largest >= -32 && largest <= 19.5 ? 0
                : largest - largest == 0          ? largest
                                                  : nan) {}

    // The biased exponent of the result, and its fraction, are a number of [0, 256): at is that in
    // steps of 1 / 128, from 2 on.
    float power(double x) const {
        const float below = static_cast<float>(x) - static_cast<float>(shift);
        if (below < -149) return 0;
        const float at =
            multiply_add(below, static_cast<float>(log2_e) / 128, 2 + (127 + 92) / 128.0f);
        if (!(at < 4)) return at;
        const float biased = (at - 2) * 128, exponent = std::floor(biased);
        const float fraction =
            polynomial(1 + (biased - exponent), {0x1.ec320cp-10f, -0x1.a1e728p-12f, 0x1.3c93dep-5f,
                                                 0x1.b9b122p-4f, 0x1.6a3ed8p-2f, 0x1.fe3eacp-2f});
        return std::ldexp(fraction, static_cast<int>(exponent) - 127);
    }
    double exp(double x) const { return power(x); }
    // Sums pairs in float, but not where there is one lane.
    Compensated sum(const double* x, index_t count, int lanes) const {
        if (lanes > 1) return {in_pairs(count, [&](index_t c) { return power(x[c]); })};
        return {in_lanes<double>(1, count, [&](double& lane, index_t c) { lane += exp(x[c]); })};
    }
    double sum_without(index_t pivot, const double* x, index_t count) const {
        return in_pairs(count, [&](index_t c) { return c == pivot ? 0.0f : power(x[c]); });
    }
    static bool is_about_pivot(double others, double exp_pivot) { return others < exp_pivot; }
    static double log_about_pivot(double, double, double exp_pivot, double others) {
        return Single::log_of_quotient(exp_pivot + others, exp_pivot, others);
    }
    static double log_about_shift(double sum, double error) {
        return Single::log_of_quotient(sum, scale, (sum - scale) + error);
    }
    // Multiplies with the fraction of a factor, and with its power of 2.
    static double entry(double factor, double exp) {
        const auto bits = std::bit_cast<std::uint64_t>(factor) & 0x7ff0000000000000;
        const double power = std::clamp(std::bit_cast<double>(bits), 0x1p-126, 0x1p126);
        const auto fraction = static_cast<float>(factor == factor ? factor / power : nan);
        return static_cast<float>(exp) * fraction * static_cast<float>(power);
    }
};

}  // namespace reference
