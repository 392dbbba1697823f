// SPDX-License-Identifier: BSD-3-Clause
// The formulas of one sample: logarithms against arithmetic of more digits; sums over classes in
// their one order, of rows and of tiles; and how often a row is summed.
#include <nll/detail/softmax_rows.hpp>

#include <random>
#include <vector>

#include "check.hpp"

using namespace nll;
using namespace nll::detail;

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// ---------------------------------------------------------------- logarithms

double log_of_sum(double unit, double others) { return log_quotient(unit + others, unit, others); }

void logarithms() {
    std::mt19937_64 random(2);
    std::uniform_real_distribution<double> fraction(1, 2);
    double worst = 0, worst_of_sums = 0;
    for (int i = 0; i < 200'000; ++i) {
        const double x = std::ldexp(fraction(random), i % 1100 - 1060);
        worst = std::max(worst, ulps(detail::log1p(x), std::log1p(static_cast<long double>(x))));
        const double unit = std::ldexp(fraction(random), i % 1000 - 220);
        const double others = unit * std::ldexp(fraction(random), i % 760 - 740);
        const long double exact = std::log1p(static_cast<long double>(others) / unit);
        worst_of_sums = std::max(worst_of_sums, ulps(log_of_sum(unit, others), exact));
        CHECK(same_bits(log_of_sum(unit, others), log_of_sum(unit * 0x1p-3, others * 0x1p-3)));
    }
    // About each power of 2 the series begins anew, and where it ends it is farthest off.
    for (int i = 0; i < 200'000; ++i) {
        const double unit = fraction(random), others = unit * (i * 0x1p-14);
        const long double exact = std::log1p(static_cast<long double>(others) / unit);
        worst_of_sums = std::max(worst_of_sums, ulps(log_of_sum(unit, others), exact));
    }
    CHECK(worst < 1);
    CHECK(worst_of_sums < 0x1p14);  // of 2^53
    CHECK(same_bits(log_of_sum(1, 0), 0.0) && std::isnan(log_of_sum(1, nan)));
    CHECK(same_bits(detail::log1p(0), 0.0) && std::isnan(detail::log1p(nan)));
    // Quotients below 1, too: where the sum is less than the exponential of the shift.
    double worst_of_quotients = 0;
    for (int i = 0; i < 200'000; ++i) {
        const double unit = std::ldexp(fraction(random), 280);
        const double sum = std::ldexp(fraction(random), i % 1000 - 220);
        const long double exact = std::log(static_cast<long double>(sum) / unit);
        const double log = log_quotient(sum, unit, sum - unit);
        worst_of_quotients =
            std::max(worst_of_quotients, std::fabs(log - static_cast<double>(exact)));
    }
    CHECK(worst_of_quotients < 0x1p-39);
    // Of any number, and what it lost.
    double worst_of_numbers = 0;
    for (int i = 0; i < 200'000; ++i) {
        const double y = std::ldexp(fraction(random), i % 2 ? i % 1990 - 995 : -1 + i % 4 / 2);
        const double lost = y * std::ldexp(fraction(random) - 1.5, -53);
        const auto whole = static_cast<long double>(y);
        const long double exact = y < 0.5 ? std::log(whole + lost) : std::log1p((whole - 1) + lost);
        worst_of_numbers = std::max(worst_of_numbers, ulps(detail::log_of(y, lost), exact));
    }
    CHECK(worst_of_numbers < 1);
}

// About the pivot where its exponential is most of the sum, and about the shift elsewhere.
void logarithms_of_sums() {
    for (const double others : {0.0, 1e-9, 0.9, 1.1, 50257.0, 1e200}) {
        const double unit = 0x1p260, pivot = -20 / log2_e;  // of the shift, 0, it is 2^280
        const LogSumExp found = log_sum_exp<Single>(unit * (1 + others), 0, unit, unit * others,
                                                    pivot, 0, 0x1p280, false);
        CHECK(found.center == (others < 1 ? pivot : 0));
        CHECK(std::fabs(found.center + found.log - (pivot + std::log1p(others))) < 1e-11);
        if (others < 1)
            CHECK(std::fabs(found.log - std::log1p(others)) <= 2e-12 * std::log1p(others));
        CHECK(negative_log_softmax(found, pivot) == (found.center - pivot) + found.log);
    }
    CHECK(std::isnan(log_sum_exp<Single>(nan, 0, 1, nan, 0, 0, 1, false).log));
    CHECK(std::isnan(log_sum_exp<Double>(nan, 0, 1, nan, 0, 0, 1, false).log));
    // Double: the digits of a difference of logits are kept, or do not count.
    for (const double pivot : {149.0, 1.0, -500.0, -620.0, -640.0, -infinity})
        for (const bool smooths : {false, true}) {
            const auto exp_pivot = static_cast<double>(std::exp(static_cast<long double>(pivot)));
            const double others = 3, sum = exp_pivot + others;
            const double error = two_sum_error(exp_pivot, others, sum);
            const LogSumExp found =
                log_sum_exp<Double>(sum, error, exp_pivot, others, pivot, 0, 1, smooths);
            CHECK(found.center == (others < (smooths ? 1 : 0x1p900) * exp_pivot ? pivot : 0));
            const long double exact = std::log1p(others / static_cast<long double>(exp_pivot));
            const double loss = negative_log_softmax(found, pivot);
            CHECK(pivot == -infinity ? loss == infinity : ulps(loss, exact) < 1);
        }
    // Also those that the difference of a sum and a smaller pivot rounds off.
    std::mt19937_64 random(2);
    std::uniform_real_distribution<double> fraction(1, 2);
    double worst = 0;
    for (int i = 0; i < 100'000; ++i) {
        const double exp_pivot = fraction(random), others = exp_pivot * fraction(random);
        const double sum = exp_pivot + others, error = two_sum_error(exp_pivot, others, sum);
        const auto log = log_sum_exp<Double>(sum, error, exp_pivot, others, 0, 0, 1, false).log;
        worst =
            std::max(worst, ulps(log, std::log1p(others / static_cast<long double>(exp_pivot))));
    }
    CHECK(worst < 0.8);
}

// Double: neither a small scale nor a small part of a sum is lost before the other is there.
void scales_over_sums() {
    for (int n = -1022; n <= 1022; ++n)
        CHECK(std::ldexp(1.5, n) * InverseSum<DoubleDouble>::unit_of(std::ldexp(1.5, n)) == 1.5);
    for (const double scale : {3e-308, 1e-300, 0.4, 0.99, 1.0, 1.5, 65536.0, 1e100, 1e300})
        for (const double sum : {0x1.8p70, 0x1.fp500, 0x1.1p560, 0x1.7p716})
            for (double part = sum; part >= 0x1p-1020; part *= 0x1.3p-7) {
                const long double exact = static_cast<long double>(scale) * part / sum;
                if (exact > 1e308L) continue;
                const InverseSum<DoubleDouble> inverse(sum, 0);
                const double entry = product(over_sum(DoubleDouble{scale}, inverse), part);
                const double share = share_of(DoubleDouble{part}, DoubleDouble{scale}, inverse);
                CHECK(ulps(entry, exact) < 1.01 && ulps(share, exact) < 1.01);
            }
}

// ---------------------------------------------------------------- sums over classes

// Returns the sum of a row, its last pair of lanes filled up with -inf.
template <class Precision>
double sum_of_row(std::vector<typename Precision::Real> logits, typename Precision::Real max) {
    const auto classes = paired(static_cast<index_t>(logits.size()));
    logits.resize(classes, -std::numeric_limits<typename Precision::Real>::infinity());
    std::vector<typename Precision::Exp> exps(classes);
    RowLanes<Precision> row;
    exps_of_row<true, true>(logits.data(), classes, LastClasses<Precision>(),
                            ExpShift<Precision, 1>(&max, 1, false),
                            reinterpret_cast<const std::byte*>(logits.data()), exps.data(), row);
    if constexpr (!Precision::exact) return add_lanes(row.sum);
    const auto sum = compensated_sum(row.sum, row.error);
    return compensated_total(sum.sum, sum.error);
}

// Returns the sum of a sample of a tile, whose classes are loaded `part` by `part`.
template <class Precision>
double sum_of_tile(const std::vector<typename Precision::Real>& logits,
                   typename Precision::Real max, index_t part, index_t sample) {
    using Real = typename Precision::Real;
    constexpr index_t samples = 48;
    const std::vector<Real> all(max_tile_samples, max);
    const ExpShift<Precision, max_tile_samples> shift(all.data(), max_tile_samples, false);
    LaneSums<Precision::exact> sums;
    sums.begin(samples);
    if constexpr (Precision::fused) sums.clear();
    for_each_block(0, static_cast<index_t>(logits.size()), part, [&](index_t first, index_t count) {
        std::vector<Real> tile(count * samples, Real{0});
        std::vector<typename Precision::Exp> exps(tile.size());
        for (index_t c = 0; c < count; ++c) tile[c * samples + sample] = logits[first + c];
        std::vector<double> unused(samples, 0.0);
        exps_of_tile<true, Precision>(tile.data(), count, samples, samples, shift, tile.data(), 0,
                                      exps.data(), samples,
                                      Precision::fused ? sums.sum : unused.data(), nullptr,
                                      Precision::fused ? sums.pitch : index_t{Precision::exact});
        const auto exp = [&](index_t c, index_t i) { return exps[c * samples + i]; };
        if (Precision::exact) sums.add_each(count, exp);
        else if (!Precision::fused) sums.add_pairs(count, exp);
    });
    sums.finish();
    return Precision::exact ? compensated_total(sums.sum[sample], sums.error[sample])
                            : sums.sum[sample];
}

// A row, and the same logits as one column of a tile, have the same sum to the last bit.
template <class Precision> void rows_and_tiles() {
    using Real = typename Precision::Real;
    std::mt19937_64 random(4);
    std::uniform_real_distribution<double> below(-30, 0);
    for (const int classes : {1, 2, 7, 15, 16, 17, 31, 32, 33, 100, 129, 2048}) {
        const Real max = 400;
        std::vector<Real> logits(classes);
        for (Real& logit : logits) logit = static_cast<Real>(max + below(random));
        logits[random() % logits.size()] = max;
        const double sum = sum_of_row<Precision>(logits, max);
        CHECK(sum > 0);
        for (const index_t part : {pair_size, 3 * pair_size, chunk_size})
            for (const index_t sample : {0, 5, 47})
                CHECK(same_bits(sum, sum_of_tile<Precision>(logits, max, part, sample)));
    }
}

// The order of lanes, pairs and tree, spelled out.
void order_of_lanes() {
    std::mt19937_64 random(7);
    std::uniform_real_distribution<float> uniform(0, 1);
    for (const index_t classes : {1, 16, 17, 40, 2048}) {
        std::vector<float> exps(paired(classes), 0.0f);
        for (index_t c = 0; c < classes; ++c) exps[c] = uniform(random);
        double pairs[lanes] = {}, each[lanes] = {};
        for (index_t c = 0; c < paired(classes); ++c) {
            each[c % lanes] += exps[c];
            if (c % pair_size < lanes) pairs[c % lanes] += exps[c] + exps[c + lanes];
        }
        for (int half = lanes / 2; half > 0; half /= 2)
            for (int l = 0; l < half; ++l) pairs[l] += pairs[l + half], each[l] += each[l + half];
        const auto exp = [&](index_t c, index_t) { return exps[c]; };
        LaneSums<false> of_pairs, of_each;
        of_pairs.begin(1);
        of_each.begin(1);
        of_pairs.add_pairs(classes, exp);
        of_each.add_each(classes, exp);
        of_pairs.finish();
        of_each.finish();
        CHECK(same_bits(of_pairs.sum[0], pairs[0]) && same_bits(of_each.sum[0], each[0]));
        CHECK(same_bits(sum_without(exps.data(), paired(classes), 2.0f), pairs[0]));
    }
}

void compensated_sums() {
    const double values[] = {1, 0x1p-60, 0x1p-60, 0x1p-107, -0x1p-90};
    constexpr double lost = 0x1p-59 - 0x1p-90 + 0x1p-107;
    LaneSums<true> sums;
    sums.begin(1);
    sums.add_each(5, [&](index_t c, index_t) { return values[c]; });
    sums.finish();
    CHECK(sums.sum[0] == 1 && sums.error[0] == lost);
    double row[pair_size] = {};
    std::copy_n(values, 5, row + 14);
    const auto of_row = compensated_sum(pair_size, [&](index_t c) { return row[c]; });
    CHECK(of_row.sum == 1 && of_row.error == lost);
    CHECK(compensated_total(infinity, nan) == infinity && compensated_total(1, 0x1p-52) > 1);
}

void largest_logits() {
    for (index_t classes = 1; classes <= 100; ++classes)
        for (index_t at = 0; at < classes; ++at) {
            std::vector<float> logits(classes, -5);
            logits[at] = -2;
            logits[(at + 1) % classes] = static_cast<float>(classes > 1 ? nan : -2);
            CHECK(max_of(logits.data(), classes) == -2);
            float max[] = {-3};
            raise_to_max(logits.data(), classes, 1, 1, max);
            CHECK(max[0] == -2);
        }
    const float none[] = {static_cast<float>(nan), -static_cast<float>(infinity)};
    CHECK(max_of(none, 2) == -infinity);
}

void chunks() {
    SoftmaxSums<Single> all;
    all.begin(3);
    all.clear();
    all.pivot_chunk_of[2] = 1;
    bool in_range = true;
    index_t at = 0;
    for (const double of_chunk :
         {0.0, 0x1p60, 3.0}) {  // the first is of classes without probability
        ExpSum chunk;
        chunk.sum = chunk.smoothing = of_chunk;
        chunk.in_range = of_chunk != 3;
        in_range &= all.add(2, at++, chunk);
    }
    CHECK(all.sum[2] == 0x1p60 && all.error[2] == 3);  // nothing is lost
    CHECK(all.pivot_chunk[2] == 0x1p60 && all.smoothing[2] == 0x1p60 + 3 && !in_range);
    CHECK(error_of_chunk(0x1p60, 0x1p60, 5) == 5);
    double exps[pair_size] = {};
    exps[3] = 0x1p60, exps[4] = 5, exps[20] = 0x1p-40;
    CHECK(sum_without(exps, pair_size, 0x1p60) == 5 + 0x1p-40);
    CHECK(!leaves_enough<Single>(1, 1 - 0x1p-20));  // 20 of 53 bits would be lost
    CHECK(leaves_enough<Double>(1, 1 - 0x1p-20) && !leaves_enough<Double>(1, 1 - 0x1p-40));
    CHECK(leaves_enough<Single>(2, 1) && !leaves_enough<Single>(2, 2));
    CHECK(!leaves_enough<Single>(nan, 1));
    CHECK(sum_others<Single>(3, 0.5, 2) == 1.5);
    CHECK(sum_others<Single>(2 + 0x1p-50, 0, 2) == 0x1p-50);
    CHECK(same_bits(sum_others<Single>(2, 0x1p-741, 2), 0.0));  // they were too small to be exact
    CHECK(sum_others<Double>(2, 0x1p-741, 2) == 0x1p-741);
    for (const double none : {0.0, infinity, nan}) CHECK(std::isnan(defined_sum(none)));
    CHECK(defined_sum(3) == 3 && std::isnan(sum_others<Single>(nan, 0, 0)));
}

// ---------------------------------------------------------------- how often a row is summed

// Once, if it is in range unshifted or the shift is made from its maximum; else once more. Rows
// after one that was not begin with their maximum.
template <class Precision> void rounds_of_a_row() {
    using Shift = ExpShift<Precision, 1>;
    Shift shift;
    int sums = 0, maxima = 0;
    const auto sum_row = [&](bool in_range, bool needs_max = false) {
        sums = maxima = 0;
        sum_with_valid_shift(
            needs_max, shift,
            [&] {
                ++sums;
                return in_range;
            },
            [&] {
                ++maxima;
                const typename Precision::Real max = 1000;
                return Shift(&max, 1, false);
            });
    };
    sum_row(true);
    CHECK(sums == 1 && maxima == 0);
    for (const double sum : {0.0, infinity, nan}) CHECK(!Shift::sum_in_range(sum, 1));
    CHECK(Shift::sum_in_range(Shift::scale, 1));
    sum_row(false);
    CHECK(sums == 2 && maxima == 1 && shift.clamps());
    sum_row(true);
    CHECK(sums == 1 && maxima == 1);
    CHECK(shift.shift(0) == 1000);
    shift = {};
    sum_row(true, true);
    CHECK(sums == 1 && maxima == 1);
}

// Ordinary logits are in range whatever their number: no last class needs the maximum.
template <class Scalar, class Precision> void ordinary_rows() {
    static Workspace<Scalar, Precision> space;
    for (index_t classes = max_sequential_classes + 1; classes < 300; ++classes) {
        std::vector<Scalar> logits(classes, from_double<Scalar>(0.5));
        const std::int32_t label = 0;
        const Array of_input(View<const Scalar, 2>{logits.data(), {1, classes}});
        const Array of_target(View<const std::int32_t, 1>{&label, {1}});
        const Options options;
        const Plan plan({&of_input, &of_target, nullptr, nullptr, nullptr}, 1, options);
        SoftmaxRow<Scalar, Precision> row(plan, space);
        const ExpSum sum = row.sum_chunk(logits.data(), 0, classes, {}, nullptr, NoBetween());
        CHECK(sum.in_range && ExpShift<Precision, 1>::sum_in_range(sum.sum, classes));
        // Wherever one is that has no exponential, it is seen.
        for (const index_t at : {index_t{0}, classes - 1}) {
            logits[at] = from_double<Scalar>(700);
            const ExpSum odd = row.sum_chunk(logits.data(), 0, classes, {}, nullptr, NoBetween());
            CHECK(!(odd.in_range && ExpShift<Precision, 1>::sum_in_range(odd.sum, classes)));
            logits[at] = from_double<Scalar>(0.5);
        }
    }
}

}  // namespace

int main() {
    logarithms();
    logarithms_of_sums();
    scales_over_sums();
    rows_and_tiles<Single>();
    rows_and_tiles<Bfloat16>();
    rows_and_tiles<Double>();
    order_of_lanes();
    compensated_sums();
    largest_logits();
    chunks();
    rounds_of_a_row<Single>();
    rounds_of_a_row<Bfloat16>();
    rounds_of_a_row<Double>();
    ordinary_rows<float, Single>();
    ordinary_rows<bfloat16, Bfloat16>();
    return failures() != 0;
}
