// SPDX-License-Identifier: BSD-3-Clause
// The exponentials, logarithms and sums of softmax.hpp against arithmetic of more digits.
#include <nll/softmax.hpp>

#include <cmath>
#include <random>
#include <vector>

#include "check.hpp"

using namespace nll;

namespace {

// In units of the last place of a double.
double ulps(double value, long double exact) {
    int exponent;
    std::frexp(exact, &exponent);
    return static_cast<double>(std::fabs(value - exact) / std::ldexp(1.0L, std::max(exponent - 53, -1074)));
}

void exponentials_of_doubles() {
    std::mt19937_64 random(1);
    double worst = 0;
    for (int i = 0; i < 200'000; ++i) {
        const double x =
            -std::ldexp(std::uniform_real_distribution<double>(1, 2)(random), static_cast<int>(i % 70) - 60);
        worst = std::max(worst, ulps(exp_of(x, 0), std::exp(static_cast<long double>(x))));
        const double low = x * 0x1p-54;
        worst = std::max(worst, ulps(exp_of(x, low), std::exp(static_cast<long double>(x) + low)));
    }
    for (double x = -746; x < -700; x += 0.01)  // results are subnormal
        worst = std::max(worst, ulps(exp_of(x, 0), std::exp(static_cast<long double>(x))));
    CHECK(worst < 1);
    CHECK(exp_of(0, 0) == 1);
    CHECK(same_bits(exp_of(-801, 0), 0.0) && same_bits(exp_of(-infinity, 0), 0.0));
    CHECK(std::isnan(exp_of(std::numeric_limits<double>::quiet_NaN(), 0)));
}

void logarithms() {
    std::mt19937_64 random(2);
    double worst = 0;
    for (int i = 0; i < 200'000; ++i) {
        const double x =
            std::ldexp(std::uniform_real_distribution<double>(1, 2)(random), static_cast<int>(i % 1100) - 1060);
        worst = std::max(worst, ulps(log1p_of(x), std::log1p(static_cast<long double>(x))));
    }
    CHECK(worst < 1);
    CHECK(same_bits(log1p_of(0), 0.0));
    CHECK(std::isnan(log1p_of(std::numeric_limits<double>::quiet_NaN())));
}

// The largest relative error of exponential(x) / unit against e^(x - largest).
template <class Arithmetic> double worst_of(typename Arithmetic::Real largest, double reach) {
    const Reference<Arithmetic, 1> reference(&largest, 1);
    std::mt19937_64 random(3);
    std::uniform_real_distribution<double> below(-reach, 0);
    double worst = 0;
    for (int i = 0; i < 100'000; ++i) {
        const auto x = static_cast<typename Arithmetic::Real>(largest + below(random));
        const auto power = reference.shifted ? reference.template exponential<true>(x, 0)
                                             : reference.template exponential<false>(x, 0);
        const long double exact = std::exp(static_cast<long double>(x) - largest);
        worst = std::max(worst, static_cast<double>(std::fabs(power / reference.unit[0] / exact - 1)));
    }
    return worst;
}

void exponentials_relative_to_the_largest() {
    for (const float largest : {0.0f, 3.25f, -17.5f, 1234.5f, -16000.0f, 16400.0f, 1e6f, -3e8f, 3e38f}) {
        CHECK(worst_of<Single>(largest, 600) < 1e-10);
        CHECK(worst_of<Half>(largest, 100) < 1e-5);
        CHECK(worst_of<Double>(largest, 600) < 0x1p-52);
    }
}

// A row, and the same numbers as one column of a tile, have the same sums to the last bit.
template <class Arithmetic> void sums_of_rows_and_tiles(int classes) {
    using Power = typename Arithmetic::Power;
    std::mt19937_64 random(4);
    std::uniform_real_distribution<double> uniform(0, 1);
    std::vector<Power> powers(static_cast<std::size_t>(padded(classes)) * 16, Power{0});
    std::vector<double> lane(lanes, 0.0);
    for (int c = 0; c < classes; ++c) {
        const auto power = static_cast<Power>(uniform(random));
        powers[static_cast<std::size_t>(c) * 16 + 5] = power;
        lane[static_cast<std::size_t>(c % lanes)] += static_cast<double>(power);
    }
    ClassSums<16, false> of_tile, added;
    const double* sums = of_tile.of(powers.data(), classes, 16, 16);
    added.add(powers.data(), classes, 16, 16);
    added.finish(16);
    CHECK(same_bits(sums[5], add_lanes(lane.data())));
    CHECK(same_bits(added.sum[5], sums[5]));
}

void compensated_sums() {
    const double values[] = {1, 0x1p-60, 0x1p-60, 0x1p-107, -0x1p-90};
    ClassSums<1, true> sums;
    sums.add(values, 5, 1, 1);
    sums.finish(1);
    CHECK(sums.sum[0] == 1 && sums.error[0] == 0x1p-59 - 0x1p-90 + 0x1p-107);
}

void merging() {
    Softmax all;
    merge(all, Softmax{-infinity, 0, 0, 0});  // classes of probability 0
    merge(all, Softmax{1, 0.5, 0, 0});
    merge(all, Softmax{2, 0.25, 0, 0});
    CHECK(all.largest == 2);
    CHECK(std::fabs(all.rest - (0.25 + 1.5 * std::exp(-1.0))) < 1e-15);
    merge(all, Softmax{2, 0, 0, 0});  // a tie: the second of the largest is part of the rest
    CHECK(std::fabs(all.rest - (1.25 + 1.5 * std::exp(-1.0))) < 1e-15);
}

}  // namespace

int main() {
    exponentials_of_doubles();
    logarithms();
    exponentials_relative_to_the_largest();
    for (const int classes : {1, 2, 7, 15, 16, 17, 31, 33, 100, 2048}) {
        sums_of_rows_and_tiles<Single>(classes);
        sums_of_rows_and_tiles<Half>(classes);
    }
    compensated_sums();
    merging();
    return failures() != 0;
}
