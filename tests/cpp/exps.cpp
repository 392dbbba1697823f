// SPDX-License-Identifier: BSD-3-Clause
// Exponentials as rows and tiles compute them, against arithmetic of more digits: how exact they
// are, and that none that is wrong goes unseen.
#include <nll/detail/entry_loops.hpp>
#include <nll/detail/exp_loops.hpp>

#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "check.hpp"

using namespace nll;
using namespace nll::detail;

namespace {

constexpr float largest_float = std::numeric_limits<float>::max();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
const bool fused = multiply_add(1 + 0x1p-30, 1 - 0x1p-30, -1.0) != 0;

double relative_error(long double value, long double exact) {
    return static_cast<double>(std::fabs(value / exact - 1));
}

// ---------------------------------------------------------------- the functions

// 2^n of eighths by a table, as numbers and as vectors.
template <int power> void powers_of_eighths() {
    for (int n = -(1022 + power) * 8; n < (1023 - power) * 8 - Vec::size; ++n) {  // normal numbers
        const auto fraction = static_cast<double>(std::exp2(static_cast<long double>(n % 8) / 8));
        CHECK(same_bits(exp2_eighths<power>(n / 8.0 + round_to_eighths),
                        std::ldexp(fraction, n / 8 + power)));
        double at[Vec::size], exps[Vec::size];
        for (int l = 0; l < Vec::size; ++l) at[l] = (n + l) / 8.0;
        const Vec eighths = Vec::load(at);
        exp2_eighths<power>(multiply_add(eighths, Vec(1.0), Vec(round_to_eighths)), eighths)
            .store(exps);
        for (int l = 0; l < Vec::size; ++l)
            CHECK(same_bits(exps[l], exp2_eighths<power>(at[l] + round_to_eighths)));
    }
}

// Single: 2^f of the polynomial.
void exps_of_eighths() {
    double worst = 0;
    for (int step = -(1 << 20); step <= 1 << 20; ++step) {
        const double f = std::ldexp(step, -24);
        worst = std::max(worst, relative_error(Single::exp2_fraction(f), std::exp2(f)));
    }
    CHECK(worst < 8e-11);
    powers_of_eighths<Single::power>();
    powers_of_eighths<Double::power>();
}

// Bfloat16: the fraction of an exponential is taken from the polynomial, whose value has to have
// the exponent of 1.
void exps_of_fractions() {
    double worst = 0;
    for (int step = 0; step < 1 << 15; ++step) {  // all fractions of x·log2(e) that there are
        const float f = 1 + std::ldexp(static_cast<float>(step), -15);
        const float value = Bfloat16::exp2_fraction(f);
        CHECK(value >= 1 && value < 2);
        worst = std::max(worst, relative_error(value, std::exp2(static_cast<double>(f) - 1)));
    }
    CHECK(worst < 3e-7);
}

// ---------------------------------------------------------------- rows and tiles

template <class Precision> using RowShift = ExpShift<Precision, 1>;
template <class Precision> using TileShift = ExpShift<Precision, max_tile_samples>;
template <class Precision> using Reals = std::vector<typename Precision::Real>;

// Returns e^(logit - shift)·scale of sample i, clamped.
template <class Precision, int width>
double exp_at(const ExpShift<Precision, width>& shift, typename Precision::Real logit, index_t i) {
    TileShift<Precision> of_one;
    of_one.take(0, shift, i);
    const typename Precision::Real logits[lanes] = {logit};
    double exps[lanes];
    exps_of_samples(logits, lanes, of_one, exps);
    return exps[0];
}

// Shifts all samples by one largest logit.
template <class Precision, int width>
ExpShift<Precision, width> shift_to(typename Precision::Real max) {
    const Reals<Precision> all(width, max);
    return ExpShift<Precision, width>(all.data(), width, false);
}

void exps_of_doubles() {
    std::mt19937_64 random(1);
    std::uniform_real_distribution<double> fraction(1, 2);
    double worst = 0;
    const auto check = [&](const double* max, const double* x) {
        const TileShift<Double> shift(max, lanes, false);
        double exps[lanes];
        exps_of_samples(x, lanes, shift, exps);
        for (int l = 0; l < lanes; ++l) {
            const auto difference =
                static_cast<long double>(x[l]) - static_cast<long double>(shift.shift(l));
            worst = std::max(worst, ulps(exps[l], std::exp(difference) * 0x1p500L));
        }
    };
    for (int i = 0; i < 40'000; ++i) {
        double max[lanes], x[lanes];
        for (int l = 0; l < lanes; ++l) {
            const double size = std::ldexp(fraction(random), (i + 5 * l) % 69 - 60);
            const double large = std::ldexp(fraction(random), 8 + i % 10);
            max[l] = l % 3 == 0 ? 0 : l % 3 == 1 ? large : -large;
            x[l] = l % 6 == 3 ? std::fmod(size, 150) : max[l] - size;
            // What the difference of two logits has rounded off counts.
            if (l % 3 == 1 && i % 10 == 0) x[l] = fraction(random) / 2;
        }
        check(max, x);
    }
    for (double first = -1050; first <= 150; first += 0.16) {
        double x[lanes];
        for (int l = 0; l < lanes; ++l) x[l] = std::min(first + 0.01 * l, 150.0);
        const double zeros[lanes] = {};
        check(zeros, x);
    }
    CHECK(worst < (fused ? 0.61 : 0.64));
    for (const double max : {0.0, 1000.0}) {
        const auto shift = shift_to<Double, 1>(max);
        CHECK(exp_at(shift, max, 0) == 0x1p500);
        CHECK(exp_at(shift, max - 1050, 0) > 0 && std::isnan(exp_at(shift, nan, 0)));
        for (const double x : {max - 1050.5, -1e300, -infinity})
            CHECK(same_bits(exp_at(shift, x, 0), 0.0));
    }
    for (const float max : {0.0f, 1000.0f}) {
        const auto shift = shift_to<Bfloat16, 1>(max);
        CHECK(exp_at(shift, max - 149, 0) > 0 && same_bits(exp_at(shift, max - 150, 0), 0.0));
    }
    CHECK(exp_difference(5, 5) == 1 && exp_difference(-infinity, 5) == 0);
    CHECK(ulps(exp_difference(-745, -5), std::exp(-740.0L)) < 1);  // subnormal
    for (int n = -1022; n <= 1023; ++n) CHECK(exp2_integer(n) == std::ldexp(1.0, n));
    CHECK(same_bits(exp2_integer(-1023), 0.0));
}

// Holds exponentials of one sample, and whether they may be used: no logit was noted as out of
// range, nor is the sum, as one of so many classes.
template <class Precision> struct Computed {
    std::vector<typename Precision::Exp> exps;
    double sum = 0;
    bool accepted = false;
};

// Computes a row, whole pairs of lanes; `clamps_last`: of which the last pair is clamped in any
// case, as it is where classes fill up no pair.
template <bool clamped, class Precision>
Computed<Precision> compute_row(const Reals<Precision>& logits, const RowShift<Precision>& shift,
                                bool clamps_last = false) {
    const auto classes = static_cast<index_t>(logits.size());
    const index_t whole = classes - (clamps_last ? pair_size : 0);
    const LastClasses<Precision> last(logits.data() + whole, classes - whole);
    const auto* ahead = reinterpret_cast<const std::byte*>(logits.data());
    Computed<Precision> found;
    found.exps.resize(logits.size());
    RowLanes<Precision> kept, added;
    exps_of_row<clamped, true>(logits.data(), whole, last, shift, ahead, found.exps.data(), kept);
    exps_of_row<clamped, false>(logits.data(), whole, last, shift, ahead,
                                static_cast<typename Precision::Exp*>(nullptr), added);
    for (int l = 0; l < lanes; ++l) {
        CHECK(same_bits(kept.sum[l], added.sum[l]) || kept.sum[l] != kept.sum[l]);
        found.sum += kept.sum[l];
    }
    CHECK(kept.in_range() == added.in_range());
    found.accepted = kept.in_range() && RowShift<Precision>::sum_in_range(found.sum, classes);
    return found;
}

// Computes the tile whose sample `i` has these logits, and all others have 0; by lanes of classes,
// or one class after the other.
template <bool clamped, class Precision>
Computed<Precision> compute_tile(const Reals<Precision>& logits, const TileShift<Precision>& shift,
                                 index_t i, index_t samples, bool by_lanes) {
    using Real = typename Precision::Real;
    const auto classes = static_cast<index_t>(logits.size());
    const index_t pitch = samples + 16;
    Reals<Precision> tile(logits.size() * pitch, Real{0});
    for (index_t c = 0; c < classes; ++c) tile[c * pitch + i] = logits[c];
    std::vector<typename Precision::Exp> exps(tile.size());
    std::vector<double> sums(lanes * max_tile_samples, 0.0), errors(max_tile_samples, 0.0);
    const bool in_range = exps_of_tile<clamped, Precision>(
        tile.data(), classes, samples, pitch, shift, tile.data(), pitch, exps.data(), pitch,
        sums.data(), errors.data(), by_lanes ? max_tile_samples : 0);
    Computed<Precision> found;
    for (index_t c = 0; c < classes; ++c) found.exps.push_back(exps[c * pitch + i]);
    for (index_t lane = 0; lane < (by_lanes ? lanes : 1); ++lane)
        found.sum += sums[lane * max_tile_samples + i];
    if (Precision::exact && by_lanes)  // where nothing was added
        found.sum = std::accumulate(found.exps.begin(), found.exps.end(), 0.0);
    found.accepted = in_range && TileShift<Precision>::sum_in_range(found.sum, classes);
    return found;
}

// Double: what is cut off from 1050 below 0 on is so also where nothing is clamped, if it counts.
void far_below() {
    for (const double x : {-1049.0, -1051.0, -1060.0, -1080.0, -1e4}) {
        Reals<Double> logits(pair_size, 0.0);
        logits[5] = x;
        const auto row = compute_row<false, Double>(logits, {});
        const auto tile = compute_tile<false, Double>(logits, {}, 3, lanes, false);
        for (const Computed<Double>& found : {row, tile}) {
            CHECK(found.accepted == Vec::exp2_saturates);
            if (found.accepted) CHECK(same_bits(found.exps[5], exp_at(RowShift<Double>(), x, 0)));
        }
    }
}

// ---------------------------------------------------------------- how exact they are

// Returns the largest relative error of quotients of exponentials whose shift is made from the
// largest logit, of logits down to so much below it; and checks that all loops have the same bits.
template <class Precision> double worst_quotient(typename Precision::Real max, double reach) {
    using Real = typename Precision::Real;
    std::mt19937_64 random(3);
    std::uniform_real_distribution<double> below(-reach, 0);
    Reals<Precision> logits(20'000 / pair_size * pair_size);
    for (Real& logit : logits) logit = static_cast<Real>(max + below(random));
    logits[0] = max;
    const auto shift = shift_to<Precision, 1>(max);
    const auto row = compute_row<true, Precision>(logits, shift);
    const auto tile_shift = shift_to<Precision, max_tile_samples>(max);
    const auto tile = compute_tile<true, Precision>(logits, tile_shift, 3, lanes, false);
    double worst = 0;
    for (std::size_t c = 0; c < logits.size(); ++c) {
        const double exp = row.exps[c];
        CHECK(same_bits(exp, tile.exps[c]) && same_bits(exp, exp_at(shift, logits[c], 0)));
        const long double exact = std::exp(static_cast<long double>(logits[c]) - max);
        worst = std::max(worst, relative_error(exp / row.exps[0], exact));
    }
    return worst;
}

// Without fused operations the product of a logit and log2(e), in single precision, is rounded,
// too. 0.01 ULP of bfloat16 is 3.9e-5.
const double bfloat16_error = fused ? 2e-5 : 3.5e-5;

void exps_from_the_maximum() {
    for (const float max :
         {0.0f, 3.25f, -17.5f, 127.0f, -350.0f, 350.0f, 1234.5f, -16000.0f, 1e6f, -3e8f, 3e38f}) {
        CHECK(worst_quotient<Single>(max, 500) < 1.6e-10);
        CHECK(worst_quotient<Bfloat16>(max, 100) < bfloat16_error);
        CHECK(worst_quotient<Double>(max, 600) < 0x1.ap-52);  // of two within 0.64 ULP, rounded
    }
}

// A sample that needs no shift has the same exponentials whether they are computed unshifted or
// from its maximum: it does not depend on its neighbours.
template <class Precision> void unshifted_is_from_the_maximum(float lowest, float highest) {
    using Real = typename Precision::Real;
    std::mt19937_64 random(5);
    int accepted = 0;
    for (float max = lowest; max <= highest; max += 0.25f) {
        std::uniform_real_distribution<Real> below(-100, 0);
        Reals<Precision> logits(pair_size);
        for (Real& logit : logits) logit = max + below(random);
        logits[random() % pair_size] = max;
        const auto unshifted = compute_row<false, Precision>(logits, {});
        if (!unshifted.accepted) continue;
        ++accepted;
        const auto shift = shift_to<Precision, 1>(max);
        const auto shifted = compute_row<true, Precision>(logits, shift);
        CHECK(unshifted.exps == shifted.exps && unshifted.sum == shifted.sum);
        CHECK(shift.shift(0) == 0);
        const auto tile_shift = shift_to<Precision, max_tile_samples>(max);
        CHECK((compute_tile<false, Precision>(logits, {}, 1, 48, false).exps == shifted.exps));
        CHECK(
            (compute_tile<true, Precision>(logits, tile_shift, 1, 48, false).exps == shifted.exps));
        for (const Real logit : logits)
            CHECK(exp_at(RowShift<Precision>(), logit, 0) == exp_at(shift, logit, 0));
    }
    CHECK(accepted > static_cast<int>(highest - lowest));  // a quarter of those that were tried
}

// ---------------------------------------------------------------- what has none is seen

// Tells whether e^odd is right beside an ordinary exponential, or so small that it is nothing.
template <class Precision>
bool is_right(const Computed<Precision>& found, std::size_t at, typename Precision::Real odd,
              std::size_t ordinary_at, typename Precision::Real ordinary, double error) {
    const long double exact = std::exp(static_cast<long double>(odd) - ordinary);
    const auto quotient = static_cast<long double>(found.exps[at]) /
                          static_cast<long double>(found.exps[ordinary_at]);
    const long double negligible = Precision::exact ? 0x1p-1290L : Precision::negligible;
    if (exact < negligible) return quotient >= 0 && quotient < negligible;
    return relative_error(quotient, exact) < error;
}

// One odd logit among ordinary ones, at any place: unshifted, it is right or it is seen; from the
// maximum it is right, or, if there is no softmax, the sum is not finite.
template <class Precision> void odd_logit(float odd, std::size_t at, double error) {
    constexpr float ordinary = 0.5f;
    Reals<Precision> logits(2 * pair_size, ordinary);
    logits[at] = odd;
    const std::size_t ordinary_at = at == 0;
    const auto check = [&](const Computed<Precision>& found) {
        if (found.accepted)
            CHECK(is_right<Precision>(found, at, odd, ordinary_at, ordinary, error));
        return found.accepted;
    };
    const bool in_row = check(compute_row<false, Precision>(logits, {}));
    // A target in the last lanes, which are clamped, has the exponential that they have.
    const auto with_last_lanes = compute_row<false, Precision>(logits, {}, true);
    if (check(with_last_lanes) && at >= pair_size)
        CHECK(exp_at(RowShift<Precision>(), odd, 0) ==
              static_cast<double>(with_last_lanes.exps[at]));
    // What has no exponential is not accepted in any loop, and what plainly has one is in all.
    const bool plain = odd >= -100 && odd <= 15;
    if (plain) CHECK(in_row);
    const auto sample = static_cast<index_t>(at) % 48;
    for (const bool by_lanes : {false, true}) {
        const bool in_tile =
            check(compute_tile<false, Precision>(logits, {}, sample, 48, by_lanes));
        CHECK(in_tile == in_row);
    }
    const float max = odd > ordinary ? odd : ordinary;
    const bool has_softmax = odd < infinity;  // not NaN
    const auto check_from_max = [&](const Computed<Precision>& found) {
        if (has_softmax) {
            CHECK(found.sum < infinity);
            // Beside a large logit the ordinary ones are nothing: the odd one is the whole sum.
            if (odd > 100) CHECK(relative_error(found.exps[at], found.sum) < error);
            else CHECK(is_right<Precision>(found, at, odd, ordinary_at, ordinary, error));
        } else {
            CHECK(!(found.sum < infinity));
        }
    };
    check_from_max(compute_row<true, Precision>(logits, shift_to<Precision, 1>(max)));
    for (const bool by_lanes : {false, true})
        check_from_max(compute_tile<true, Precision>(
            logits, shift_to<Precision, max_tile_samples>(max), sample, 48, by_lanes));
}

template <class Precision> void odd_logits(double error) {
    std::size_t at = 0;
    for (std::uint32_t bits = 0; bits < 0x10000; bits += 5) {  // numbers of bfloat16
        odd_logit<Precision>(to_real(bfloat16{static_cast<std::uint16_t>(bits)}), at, error);
        at = (at + 1) % (2 * pair_size);
    }
    for (float odd = -1100; odd < 800; odd += 0.75f) {
        odd_logit<Precision>(odd, at, error);
        at = (at + 1) % (2 * pair_size);
    }
    for (const float odd :
         {-900.0f, -1000.0f, 501.0f, 600.0f, 1e5f, -1e5f, largest_float, -largest_float,
          static_cast<float>(infinity), -static_cast<float>(infinity), static_cast<float>(nan)})
        for (at = 0; at < 2 * pair_size; ++at) odd_logit<Precision>(odd, at, error);
}

// Holds which largest logits need no shift, and that sums tell them from those that do.
template <class Precision>
void range_of_sums(float low_accepted, float high_accepted, float low_refused, float high_refused) {
    using Shift = RowShift<Precision>;
    for (const index_t classes : {1, 30, 1000})
        for (float logit = -1000; logit <= 1000; logit += 0.25f) {
            const Reals<Precision> logits(pair_size, logit);
            const auto found = compute_row<false, Precision>(logits, {});
            // All classes have this logit, or all but one have next to nothing.
            for (const double sum : {found.exps[0] * static_cast<double>(classes),
                                     static_cast<double>(found.exps[0])}) {
                const bool accepted =
                    !std::isnan(found.sum) && found.accepted && Shift::sum_in_range(sum, classes);
                if (accepted) CHECK(logit > low_refused && logit < high_refused);
                if (classes == 1 && logit >= low_accepted && logit <= high_accepted)
                    CHECK(accepted);
            }
        }
    for (const double none : {0.0, infinity, -1.0, nan}) CHECK(!Shift::sum_in_range(none, 1));
    // The shift of such a sample is 0, and a sample without softmax is no other's matter.
    const auto shift = [](float max) { return shift_to<Precision, 1>(max).shift(0); };
    for (float max = low_accepted; max <= high_accepted; max += 0.25f) CHECK(shift(max) == 0);
    for (const float max : {low_refused - 1, high_refused + 1, 1e30f, -1e30f, largest_float})
        CHECK(shift(max) == max);
    const Shift zero = shift_to<Precision, 1>(0.0f), none;
    CHECK(zero.clamps() && !none.clamps() && none.shift(0) == 0);
    // Smoothed terms of Double are always relative to the largest logit.
    for (const float max : {-12.0f, 3.0f, 140.0f}) {
        const typename Precision::Real largest = max;
        const double smoothed = Shift(&largest, 1, true).shift(0);
        CHECK(smoothed == (Precision::exact ? largest : shift(max)));
    }
}

// Every sample of a tile has its own shift.
template <class Precision> void shifts_of_a_tile() {
    using Real = typename Precision::Real;
    Reals<Precision> max(max_tile_samples);
    for (index_t i = 0; i < max_tile_samples; ++i)
        max[i] = static_cast<Real>(i % 5 ? 40 * i - 2000 : i);
    const TileShift<Precision> shift(max.data(), max_tile_samples, false);
    Reals<Precision> tile(pair_size * max_tile_samples);
    for (std::size_t k = 0; k < tile.size(); ++k)
        tile[k] = max[k % max_tile_samples] - static_cast<Real>(k / max_tile_samples % 7);
    std::vector<typename Precision::Exp> exps(tile.size());
    std::vector<double> sums(max_tile_samples, 0.0), errors(sums), pivots(sums);
    exps_of_tile<true, Precision>(tile.data(), pair_size, max_tile_samples, max_tile_samples, shift,
                                  tile.data(), 0, exps.data(), max_tile_samples, sums.data(),
                                  errors.data(), 0);
    exps_of_samples(max.data(), max_tile_samples, shift, pivots.data());
    for (index_t i = 0; i < max_tile_samples; ++i) {
        const auto alone = shift_to<Precision, 1>(max[i]);
        CHECK(shift.shift(i) == alone.shift(0) && pivots[i] == exp_at(alone, max[i], 0));
        for (index_t c = 0; c < pair_size; ++c)
            CHECK(exps[c * max_tile_samples + i] ==
                  exp_at(alone, tile[c * max_tile_samples + i], 0));
    }
}

// ---------------------------------------------------------------- scaling

template <class Exp, class Scalar> void scaling() {
    using Scale = double;
    std::mt19937_64 random(6);
    std::uniform_real_distribution<double> uniform(0, 1);
    constexpr index_t samples = 48, classes = 37;
    std::vector<Exp> exps(classes * samples);
    for (Exp& exp : exps) exp = static_cast<Exp>(uniform(random) * 0x1p92);
    std::vector<Scale> scale(samples);
    for (std::size_t i = 0; i < scale.size(); ++i)
        scale[i] = (i % 2 ? -1 : 1) * std::ldexp(uniform(random), -92 - static_cast<int>(i));
    scale[3] = nan, scale[4] = 0;
    std::vector<Scalar> tile(classes * samples), row(classes);
    scale_tile(exps.data(), classes, samples, samples, scale.data(), tile.data(), samples);
    constexpr int bits = format_of<Scalar>.precision;
    for (index_t i = 0; i < samples; ++i) {
        std::vector<Exp> of_sample(classes);
        for (index_t c = 0; c < classes; ++c) of_sample[c] = exps[c * samples + i];
        scale_row(of_sample.data(), classes, scale[i], row.data());
        for (index_t c = 0; c < classes; ++c) {
            const double entry = to_double(row[c]), in_tile = to_double(tile[c * samples + i]);
            const double exact = scale[i] * static_cast<double>(of_sample[c]);
            CHECK(same_bits(entry, in_tile) || (std::isnan(entry) && std::isnan(in_tile)));
            CHECK(!same_bits(entry, -0.0) && std::isnan(entry) == std::isnan(exact));
            if (exact != 0 && exact == exact)
                CHECK(std::fabs(entry - exact) <=
                      std::max(0.501 * std::ldexp(std::fabs(exact), 1 - bits),
                               0.501 * std::ldexp(1.0, format_of<Scalar>.smallest_exponent)));
        }
    }
}

}  // namespace

int main() {
    exps_of_doubles();
    far_below();
    exps_of_eighths();
    exps_of_fractions();
    exps_from_the_maximum();
    unshifted_is_from_the_maximum<Single>(-400, 400);
    unshifted_is_from_the_maximum<Bfloat16>(-40, 30);
    unshifted_is_from_the_maximum<Double>(-200, 200);
    odd_logits<Single>(1.6e-10);
    odd_logits<Bfloat16>(bfloat16_error);
    odd_logits<Double>(0x1.ap-52);
    range_of_sums<Single>(-345, 345, -Single::max_unshifted, Single::max_unshifted);
    range_of_sums<Bfloat16>(-31.75f, 15.75f, Bfloat16::min_unshifted, Bfloat16::max_unshifted);
    range_of_sums<Double>(-149, 146, -150, 150);
    shifts_of_a_tile<Single>();
    shifts_of_a_tile<Bfloat16>();
    shifts_of_a_tile<Double>();
    scaling<double, float>();
    scaling<double, float16>();
    scaling<double, bfloat16>();
    scaling<float, bfloat16>();
    return failures() != 0;
}
