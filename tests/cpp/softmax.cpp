// SPDX-License-Identifier: BSD-3-Clause
// The exponentials of exponential.hpp, and the logarithms and sums of softmax.hpp, against
// arithmetic of more digits.
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
    return static_cast<double>(std::fabs(value - exact) /
                               std::ldexp(1.0L, std::max(exponent - 53, -1074)));
}

void exponentials_of_doubles() {
    std::mt19937_64 random(1);
    double worst = 0;
    for (int i = 0; i < 200'000; ++i) {
        const double x = -std::ldexp(std::uniform_real_distribution<double>(1, 2)(random),
                                     static_cast<int>(i % 70) - 60);
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

template <class Arithmetic> double log_of(double unit, double rest) {
    return log_quotient_of<Arithmetic>(unit + rest, unit, rest);
}

void logarithms() {
    std::mt19937_64 random(2);
    std::uniform_real_distribution<double> fraction(1, 2);
    double worst = 0, worst_of_sums = 0;
    for (int i = 0; i < 200'000; ++i) {
        const double x = std::ldexp(fraction(random), static_cast<int>(i % 1100) - 1060);
        worst = std::max(worst, ulps(log1p_of(x), std::log1p(static_cast<long double>(x))));
        const double unit = std::ldexp(fraction(random), i % 1000 - 220);
        const double rest = unit * std::ldexp(fraction(random), i % 760 - 740);
        const long double exact = std::log1p(static_cast<long double>(rest) / unit);
        worst_of_sums = std::max(worst_of_sums, ulps(log_of<Single>(unit, rest), exact));
        CHECK(same_bits(log_of<Single>(unit, rest), log_of<Single>(unit * 0x1p-3, rest * 0x1p-3)));
    }
    // About each power of 2 the series begins anew, and where it ends it is farthest off.
    for (int i = 0; i < 200'000; ++i) {
        const double unit = fraction(random), rest = unit * (i * 0x1p-14);
        const long double exact = std::log1p(static_cast<long double>(rest) / unit);
        worst_of_sums = std::max(worst_of_sums, ulps(log_of<Single>(unit, rest), exact));
    }
    CHECK(worst < 1);
    CHECK(worst_of_sums < 0x1p14);  // of 2^53
    CHECK(same_bits(log_of<Double>(1, 0.3), log1p_of(0.3)));
    for (const auto log : {log_of<Single>, log_of<Double>}) {
        CHECK(same_bits(log(1, 0), 0.0));
        CHECK(std::isnan(log(1, std::numeric_limits<double>::quiet_NaN())));
    }
    // Quotients below 1, too: where the sum of all powers is less than the power of the offset.
    double worst_of_quotients = 0;
    for (int i = 0; i < 200'000; ++i) {
        const double unit = std::ldexp(fraction(random), 280),
                     all = std::ldexp(fraction(random), i % 1000 - 220);
        const long double exact = std::log(static_cast<long double>(all) / unit);
        const double error =
            std::fabs(log_quotient_of<Single>(all, unit, all - unit) - static_cast<double>(exact));
        worst_of_quotients = std::max(worst_of_quotients, error);
    }
    CHECK(worst_of_quotients < 0x1p-39);
}

// About the logit of the one where that is most of the sum, and about the offset elsewhere.
void logarithms_of_sums() {
    for (const double rest : {0.0, 1e-9, 0.9, 1.1, 50257.0, 1e200}) {
        const double unit = 0x1p260, logit = -20 / log2_e;  // the power of the offset, 0, is 2^280
        const LogSum found =
            log_sum_of<Single>(unit * (1 + rest), 0, unit, unit * rest, logit, 0, 0x1p280);
        CHECK(found.center == (rest < 1 ? logit : 0));
        CHECK(std::fabs(found.center + found.log - (logit + std::log1p(rest))) < 1e-11);
        if (rest < 1) CHECK(std::fabs(found.log - std::log1p(rest)) <= 2e-12 * std::log1p(rest));
    }
    const double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK(std::isnan(log_sum_of<Single>(nan, 0, 1, nan, 0, 0, 1).log));
    CHECK(std::isnan(log_sum_of<Double>(nan, 0, 1, nan, 0, 0, 1).log));
}

// A power as rows take it; and whether the value was near enough to do without a guard, or without
// another.
template <class Arithmetic> struct Found {
    typename Arithmetic::Power power;
    bool near;
};
template <Guard guard, class Arithmetic>
Found<Arithmetic> taken(const Reference<Arithmetic, 1>& reference,
                        typename Arithmetic::Real value) {
    std::vector<typename Arithmetic::Real> values(pair_size, value);
    std::vector<typename Arithmetic::Power> powers(pair_size);
    RowLanes<Arithmetic> row;
    exponentials_of_row<guard>(values.data(), pair_size, reference,
                               reinterpret_cast<const std::byte*>(values.data()), 0, powers.data(),
                               row);
    for (const auto power : powers)
        CHECK(same_bits(static_cast<double>(power), static_cast<double>(powers[0])));
    return {powers[0], row.all_near(guard)};
}
template <class Arithmetic>
auto power_of(const Reference<Arithmetic, 1>& reference, typename Arithmetic::Real value) {
    const auto power = reference.power_of(value, 0);
    visit_guard<Arithmetic>(reference.guard(), [&](auto guard) {
        auto found = taken<guard.value>(reference, value);
        if (!found.near) found = taken<Guard::all>(reference, value);
        CHECK(same_bits(static_cast<double>(found.power), static_cast<double>(power)));
    });
    return power;
}

double error_of(double value, double exponent) {
    return std::fabs(value / std::exp2(exponent) - 1);
}

void fractions_of_eighths() {
    double worst = 0;
    for (int step = -(1 << 20); step <= 1 << 20; ++step) {
        const double f = std::ldexp(step, -24);
        worst = std::max(worst, error_of(Single::power_of_two(f), f));
    }
    CHECK(worst < 8e-11);
    for (int n = -1302 * 8; n < 743 * 8 - Group::size;
         ++n) {  // those whose step is a normal number
        const auto fraction = static_cast<double>(std::exp2(static_cast<long double>(n % 8) / 8));
        CHECK(same_bits(step_of(n / 8.0 + to_eighths), std::ldexp(fraction, n / 8 + 280)));
        double at[Group::size], out[Group::size];
        for (int l = 0; l < Group::size; ++l) at[l] = (n + l) / 8.0;
        const Group group = Group::load(at);
        steps_of(multiply_add(group, Group(1.0), Group(to_eighths)), group).store(out);
        for (int l = 0; l < Group::size; ++l) CHECK(same_bits(out[l], step_of(at[l] + to_eighths)));
    }
}

// The fraction of a power is taken from the polynomial, whose value has to have the exponent of 1.
void fractions_of_halves() {
    double worst = 0;
    for (int step = 0; step < 1 << 15; ++step) {  // all fractions of x·log2(e) that there are
        const float f = 1 + std::ldexp(static_cast<float>(step), -15),
                    value = Half::power_of_two(f);
        CHECK(value >= 1 && value < 2);
        worst = std::max(worst, error_of(static_cast<double>(value), static_cast<double>(f) - 1));
    }
    CHECK(worst < 3e-7);
}

constexpr float most = std::numeric_limits<float>::max(),
                infinite = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

// What is too far below is next to nothing, or is seen, and is nothing with a guard; NaN stays one.
void values_beyond_eighths() {
    const Reference<Single, 1> reference, guarded = reference.more_guarded();
    CHECK(reference.guard() == Guard::none && guarded.guard() == Guard::all);
    for (float value = -500; value <= 500; value += 0.03125f)
        CHECK(taken<Guard::none>(reference, value).near);
    for (const float value : {501.0f, 600.0f, 1e4f, most, infinite}) {
        const auto found = taken<Guard::none>(reference, value);
        CHECK(!found.near || !reference.holds(found.power, 1));
    }
    std::vector<float> low{-most, -1e30f, -1e6f};
    for (float value = -904; value > -20'000; value *= 1.001f) low.push_back(value);
    for (const float value : low) {
        const auto found = taken<Guard::none>(reference, value);
        CHECK(Group::steps_saturate ? found.near && found.power < 0x1p-1010 : !found.near);
    }
    low.push_back(-infinite);
    for (const float value : low) {
        const auto found = taken<Guard::all>(guarded, value);
        CHECK(found.near && same_bits(found.power, 0.0) &&
              same_bits(guarded.power_of(value, 0), 0.0));
    }
    CHECK(!taken<Guard::none>(reference, -infinite).near);
    for (const float value : {not_a_number, -not_a_number}) {
        CHECK(!taken<Guard::none>(reference, value).near);
        CHECK(std::isnan(taken<Guard::all>(guarded, value).power) &&
              std::isnan(guarded.power_of(value, 0)));
    }
}

// Values that are too far from the center are seen, and with a guard count as next to nothing; NaN
// stays one.
void values_beyond_halves() {
    constexpr float above = 24, below = 150;
    for (const float center : {0.0f, 3.5f, -100.0f, 127.0f}) {
        const Reference<Half, 1> reference(&center, 1);
        CHECK(reference.guard() == Guard::none && reference.more_guarded().guard() == Guard::low);
        CHECK(reference.more_guarded().more_guarded().guard() == Guard::all);
        for (float away = -below; away < above; away += 0.03125f)
            CHECK(taken<Guard::none>(reference, center + away).near);
        for (const float value : {center + above + 2, 1e4f, 1e5f, 3e9f, most, infinite})
            CHECK(!taken<Guard::none>(reference, value).near);
        std::vector<float> low{-most, -infinite, -1e30f, -1e6f};
        for (float away = below + 4; away < 20'000; away *= 1.001f) low.push_back(center - away);
        for (const float value : low) {
            CHECK(!taken<Guard::none>(reference, value).near);
            const auto found = taken<Guard::low>(reference, value);
            CHECK(found.near && found.power > std::numeric_limits<float>::min());
            CHECK(found.power == reference.power_of(value, 0));
            CHECK(found.power < 0x1p-120f);
        }
        for (const float value : {not_a_number, -not_a_number}) {
            CHECK(!taken<Guard::none>(reference, value).near &&
                  !taken<Guard::low>(reference, value).near);
            CHECK(std::isnan(reference.power_of(value, 0)));
        }
        CHECK(reference.power_of(infinite, 0) == infinite);
    }
}

// The largest relative error of a quotient of powers, where the reference's center is so far from
// the largest value.
template <class Arithmetic>
double worst_of(typename Arithmetic::Real largest, double reach, float center_off = 0) {
    const auto center = static_cast<typename Arithmetic::Real>(largest + center_off);
    const Reference<Arithmetic, 1> reference(&center, 1);
    CHECK(reference.reaches(&largest, 1));
    std::mt19937_64 random(3);
    std::uniform_real_distribution<double> below(-reach, 0);
    double worst = 0;
    for (int i = 0; i < 100'000; ++i) {
        const auto x = static_cast<typename Arithmetic::Real>(largest + below(random));
        const long double exact = std::exp(static_cast<long double>(x) - largest);
        const auto quotient = static_cast<double>(power_of<Arithmetic>(reference, x)) /
                              power_of<Arithmetic>(reference, largest);
        worst = std::max(worst, static_cast<double>(std::fabs(quotient / exact - 1)));
    }
    return worst;
}

void exponentials_relative_to_a_center() {
    // Of x·log2(e) as a float, without fused operations the product is rounded, too. 0.01 ULP of
    // bfloat16 is 3.9e-5.
    const double half = multiply_add(1 + 0x1p-30, 1 - 0x1p-30, -1.0) != 0 ? 2e-5 : 3.5e-5;
    for (const float largest :
         {0.0f, 3.25f, -17.5f, 127.0f, -350.0f, 350.0f, 1234.5f, -16000.0f, 1e6f, -3e8f, 3e38f}) {
        CHECK(worst_of<Single>(largest, 500) < 1.6e-10);
        CHECK(worst_of<Half>(largest, 100) < half);
        CHECK(worst_of<Double>(largest, 600) < 0x1p-52);
    }
    for (const float away : {-20.0f, -17.0f, 0.25f, 20.0f})
        CHECK(worst_of<Half>(100.5f, 100, away) < half);
}

// Which center it is changes no bit of a quotient; out of its reach, another is asked for.
void powers_of_other_centers() {
    std::mt19937_64 random(5);
    std::uniform_real_distribution<float> near(-Half::reach, Half::reach), below(-100, 0);
    for (int i = 0; i < 100'000; ++i) {
        const float largest = near(random), value = largest + below(random),
                    center = near(random) / 2;
        const Reference<Half, 1> own(&largest, 1), other(&center, 1);
        if (!other.reaches(&largest, 1)) continue;
        const auto quotient = [&](const auto& reference) {
            return static_cast<double>(power_of<Half>(reference, value)) /
                   power_of<Half>(reference, largest);
        };
        CHECK(same_bits(quotient(own), quotient(other)));
    }
}

// Far from 0 the center has to be the largest: it is taken off first.
template <class Arithmetic> void reach_of(float reach, float far) {
    const Reference<Arithmetic, 1> zero;
    const float within[] = {reach, -reach, 0}, beyond[] = {reach * 1.01f, -reach * 1.01f};
    CHECK(zero.reaches(within, 3));
    CHECK(!zero.reaches(beyond, 1) && !zero.reaches(beyond + 1, 1));
    // A sum of up to so many powers that it holds is of values whose largest it reaches.
    const index_t classes = 1000;
    int held = 0;
    for (float value = -2 * far; value < 2 * far; value += 0.25f) {
        const auto power = static_cast<double>(taken<Guard::none>(zero, value).power);
        for (const double sum : {power, power * 30, power * classes}) {
            if (!taken<Guard::none>(zero, value).near || !zero.holds(sum, classes)) continue;
            CHECK(std::fabs(value) <= far);
            ++held;
        }
    }
    CHECK(static_cast<float>(held) > 3 * reach);
    for (const double sum : {0.0, infinity, -1.0, static_cast<double>(not_a_number)})
        CHECK(!zero.holds(sum, 1));
    const float infinities[] = {0, -infinite};
    CHECK(!zero.reaches(infinities, 2));
    const float undefined[] = {0, not_a_number};
    CHECK(!zero.reaches(undefined, 2));
    const float at = far * 2, beside = std::nextafter(at, 0.0f);
    const Reference<Arithmetic, 1> distant(&at, 1);
    CHECK(distant.guard() == Guard::all && distant.reaches(&at, 1) && !distant.reaches(&beside, 1));
    const float border = far, over = std::nextafter(far, 2 * far);
    const Reference<Arithmetic, 1> at_border(&border, 1);
    CHECK(at_border.guard() == Guard::none && at_border.reaches(&border, 1) &&
          !at_border.reaches(&over, 1));
}

// A row, and the same numbers as one column of a tile, have the same sums to the last bit.
template <class Arithmetic> void sums_of_rows_and_tiles(int classes) {
    using Power = typename Arithmetic::Power;
    std::mt19937_64 random(4);
    std::uniform_real_distribution<double> uniform(0, 1);
    std::vector<Power> powers(static_cast<std::size_t>(paired(classes)) * 16, Power{0});
    for (int c = 0; c < classes; ++c)
        powers[static_cast<std::size_t>(c) * 16 + 5] = static_cast<Power>(uniform(random));
    std::vector<double> lane(lanes, 0.0);
    for (std::size_t c = 0; c < powers.size() / 16; c += pair_size)
        for (std::size_t l = 0; l < lane.size(); ++l)
            lane[l] +=
                static_cast<double>(powers[(c + l) * 16 + 5] + powers[(c + l + lanes) * 16 + 5]);
    LaneSums<16, false> once, twice;
    once.add_classes(powers.data(), classes, 16, 16);
    once.finish(16);
    CHECK(same_bits(once.sum[5], add_lanes(lane.data())));
    const int part = classes / 2 / 32 * 32;
    twice.add_classes(powers.data(), part, 16, 16);
    twice.add_classes(powers.data() + part * 16, classes - part, 16, 16);
    twice.finish(16);
    CHECK(same_bits(twice.sum[5], once.sum[5]));
}

void compensated_sums() {
    const double values[] = {1, 0x1p-60, 0x1p-60, 0x1p-107, -0x1p-90};
    LaneSums<1, true> sums;
    sums.add_classes(values, 5, 1, 1);
    sums.finish(1);
    CHECK(sums.sum[0] == 1 && sums.error[0] == 0x1p-59 - 0x1p-90 + 0x1p-107);
    double row[32] = {};
    std::copy_n(values, 5, row + 14);
    const Compensated of_row = compensated_sum(row, 32);
    CHECK(of_row.sum == 1 && of_row.error == 0x1p-59 - 0x1p-90 + 0x1p-107);
}

void chunks() {
    const auto chunk = [](double largest, double sum, index_t number) {
        Softmax softmax;
        softmax.sum = sum;
        softmax.largest = largest;
        softmax.chunk = number;
        return softmax;
    };
    Softmax all;
    merge(all, chunk(-infinity, 0, 0));  // classes of probability 0
    merge(all, chunk(1, 0x1p60, 1));
    merge(all, chunk(1, 3, 2));
    CHECK(all.largest == 1 && all.chunk == 1);
    CHECK(all.sum + all.lost == 0x1p60 && all.sum == 0x1p60 && all.lost == 3);  // nothing is lost
    CHECK(without_chunk(0x1p60, 0x1p60, 5) == 5);
    double powers[pair_size] = {};
    powers[3] = 0x1p60, powers[4] = 5, powers[20] = 0x1p-40;
    CHECK(sum_of_others(powers, pair_size, 0x1p60) == 5 + 0x1p-40);
    CHECK(rest_of<Single>(3, 0.5, 2) == 1.5);
    CHECK(rest_of<Single>(2 + 0x1p-50, 0, 2) == 0x1p-50);
    CHECK(
        same_bits(rest_of<Single>(2, 0x1p-741, 2), 0.0));  // powers that were too small to be exact
    CHECK(rest_of<Double>(2, 0x1p-741, 2) == 0x1p-741);
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (const double none : {0.0, infinity, nan}) CHECK(std::isnan(defined(none)));
    CHECK(defined(3) == 3 && std::isnan(rest_of<Single>(nan, 0, 0)));
}

}  // namespace

int main() {
    exponentials_of_doubles();
    logarithms();
    logarithms_of_sums();
    exponentials_relative_to_a_center();
    fractions_of_eighths();
    fractions_of_halves();
    values_beyond_eighths();
    values_beyond_halves();
    powers_of_other_centers();
    reach_of<Single>(Single::reach, Single::reach);
    reach_of<Half>(Half::reach, Half::far);
    for (const int classes : {1, 2, 7, 15, 16, 17, 31, 33, 100, 2048}) {
        sums_of_rows_and_tiles<Single>(classes);
        sums_of_rows_and_tiles<Half>(classes);
    }
    compensated_sums();
    chunks();
    return failures() != 0;
}
