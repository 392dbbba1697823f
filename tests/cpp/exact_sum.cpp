// SPDX-License-Identifier: BSD-3-Clause
// The accumulator and its rounding, against themselves by exact identities and against integers.
#include <nll/detail/rounding.hpp>
#include <nll/detail/slice_products.hpp>

#include <algorithm>
#include <random>
#include <vector>

#include "check.hpp"

using namespace nll;
using namespace nll::detail;

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
std::mt19937_64 random_bits(1);

double any_double() {  // of any exponent, subnormals included
    for (;;)
        if (const double value = std::bit_cast<double>(random_bits()); std::isfinite(value))
            return value;
}

double mid_double() {
    return std::ldexp(static_cast<double>(random_bits() >> 11) - 0x1p52,
                      static_cast<int>(random_bits() % 60));
}

double any_fraction() {  // of [1, 2)
    return 1 + std::ldexp(static_cast<double>(random_bits() >> 12), -52);
}

ExactSum sum_of(const std::vector<double>& values) {
    ExactSum sum;
    for (const double value : values) add(sum, value);
    return sum;
}

void order_does_not_matter() {
    for (int round = 0; round < 200; ++round) {
        std::vector<double> values(1 + random_bits() % 300);
        for (double& value : values) value = round % 2 ? any_double() : mid_double();
        const double expected = rounded(sum_of(values), format_of<double>);
        std::shuffle(values.begin(), values.end(), random_bits);
        ExactSum merged;
        for (std::size_t first = 0; first < values.size();) {
            const std::size_t last = std::min(values.size(), first + 1 + random_bits() % 50);
            merge(merged, sum_of({values.begin() + static_cast<std::ptrdiff_t>(first),
                                  values.begin() + static_cast<std::ptrdiff_t>(last)}));
            first = last;
        }
        CHECK(same_bits(rounded(merged, format_of<double>), expected));
    }
}

// Digits that were added to as often as they can bear are carried before they are merged.
void carries_before_a_merge() {
    ExactSum many, sum;
    for (int i = 0; i < 100; ++i) add(many, -any_fraction());
    ExactSum carried = many;
    carry(carried);
    many.pending = sum.pending = (1 << 27) - 1;
    add(sum, 3.0);
    merge(sum, many);
    CHECK(sum.pending < 4);
    add(carried, 3.0);
    CHECK(same_bits(rounded(sum, format_of<double>), rounded(carried, format_of<double>)));
}

void cancels_to_nothing() {
    for (int round = 0; round < 200; ++round) {
        std::vector<double> values(100);
        for (double& value : values) value = any_double();
        const double small = any_double();
        ExactSum sum = sum_of(values);
        add(sum, small);
        for (const double value : values) add(sum, -value);
        CHECK(same_bits(rounded(sum, format_of<double>), small));
        add(sum, -small);
        CHECK(same_bits(rounded(sum, format_of<double>), 0.0));
        CHECK(magnitude(sum).count == 0);
    }
}

void many_carries() {
    ExactSum sum;
    for (int i = 0; i < 1000; ++i) {
        add(sum, -0x1.fffffffffffffp100);
        carry(sum);
        carry(sum);
    }
    CHECK(sum.high - sum.low < 8);
    CHECK(same_bits(rounded(sum, format_of<double>), -1000 * 0x1.fffffffffffffp100));
}

void products_are_exact() {
    for (int round = 0; round < 2000; ++round) {
        const double a = any_double(), b = mid_double();
        ExactSum sum;
        add_product(sum, a, b);
        const double product = a * b;
        if (std::isfinite(product) && std::fabs(product) > 0x1p-900) {
            CHECK(same_bits(rounded(sum, format_of<double>), product));
            add(sum, -product);
            CHECK(same_bits(rounded(sum, format_of<double>), std::fma(a, b, -product)));
        }
    }
    ExactSum least;
    add_product(least, 0x1p-1074, 0x1p-1074);
    const Magnitude value = magnitude(least);
    CHECK(value.count == 1);
    CHECK(value.exponent <= -2148);
    add_product(least, std::numeric_limits<double>::max(), -std::numeric_limits<double>::max());
    CHECK(same_bits(rounded(least, format_of<double>), -infinity));
}

void products_of_specials_are_ieee() {
    const auto product_of = [](double a, double b) {
        ExactSum sum;
        add(sum, 1.0);
        add_product(sum, a, b);
        return rounded(sum, format_of<double>);
    };
    CHECK(std::isnan(product_of(0, infinity)) && std::isnan(product_of(-infinity, 0)));
    CHECK(product_of(infinity, -0x1p-1074) == -infinity);
    CHECK(product_of(-infinity, -infinity) == infinity);
    CHECK(std::isnan(product_of(nan, 0)) && std::isnan(product_of(infinity, nan)));
}

bool same_sum(const ExactSum& a, const ExactSum& b) {
    ExactSum difference = a;
    ExactSum negative;
    const Magnitude value = magnitude(b);
    for (int i = 0; i < value.count; ++i)
        add(negative, value.digit[i], value.exponent + 32 * i, !value.negative);
    merge(difference, negative);
    return magnitude(difference).count == 0;
}

// Sums of squares and of products by slices, of blocks with every span of exponents; also of the
// largest numbers, whose sums need all 53 bits.
template <class Real> void slices_are_exact() {
    constexpr int precision = format_of<Real>.precision;
    const Real largest = static_cast<Real>(2) - std::ldexp(static_cast<Real>(1), 1 - precision);
    for (int span = 0; span <= 70; ++span)
        for (const int low : {-110, -30, 0, 50, -900, -420, 330, 900}) {
            if (sizeof(Real) == 4 && std::abs(low) > 110) continue;
            for (const bool worst : {false, true}) {
                alignas(64) Real a[block_size];
                alignas(64) double b[block_size];
                for (int i = 0; i < block_size; ++i) {
                    const int exponent = low + static_cast<int>(random_bits() % (span + 1u));
                    const auto digits = static_cast<Real>(random_bits() >> 11);
                    a[i] = worst ? std::ldexp(largest, i ? low + span : low)
                                 : std::ldexp(digits, exponent - 52);
                    b[i] = worst ? static_cast<double>(a[i]) : -std::ldexp(any_fraction(), low);
                    if (!worst && random_bits() % 2) a[i] = -a[i];
                }
                for (const index_t count : {block_size, index_t{16}, index_t{1}}) {
                    std::fill(a + count, a + block_size, Real{0});
                    std::fill(b + count, b + block_size, 0.0);
                    ExactSum squares, by_one;
                    add_squares(squares, a, count, block_range(a, count));
                    for (index_t i = 0; i < count; ++i) add_product(by_one, a[i], a[i]);
                    CHECK(same_sum(squares, by_one));
                    if constexpr (std::same_as<Real, double>) {
                        ExactSum cross, cross_by_one;
                        add_cross(cross, a, block_range(a, count), b, block_range(b, count), count);
                        for (index_t i = 0; i < count; ++i) add_product(cross_by_one, a[i], b[i]);
                        CHECK(same_sum(cross, cross_by_one));
                    }
                }
            }
        }
}

// q is a/b rounded to nearest if no neighbour n has |a - n·b| < |a - q·b|, which ExactSums tell
// exactly.
void quotients_are_nearest() {
    const auto residue = [](const ExactSum& a, double q, double b) {
        ExactSum left = a;
        add_product(left, -q, b);
        Magnitude m = magnitude(left);
        m.negative = false;
        return m;
    };
    // Digits have no zeros at the ends.
    const auto less = [](const Magnitude& a, const Magnitude& b) {
        const int top_a = a.count ? a.exponent / 32 + a.count : -1000,
                  top_b = b.count ? b.exponent / 32 + b.count : -1000;
        if (top_a != top_b) return top_a < top_b;
        for (int i = 1; i <= std::max(a.count, b.count); ++i) {
            const std::uint32_t x = i <= a.count ? a.digit[a.count - i] : 0,
                                y = i <= b.count ? b.digit[b.count - i] : 0;
            if (x != y) return x < y;
        }
        return false;
    };
    for (int round = 0; round < 5000; ++round) {
        ExactSum a, b;
        const int terms = 1 + static_cast<int>(random_bits() % 4);
        for (int i = 0; i < terms; ++i) add(a, mid_double());
        const double divisor =
            round % 3 ? mid_double() : static_cast<double>(1 + random_bits() % 1000000);
        if (divisor == 0) continue;
        add(b, divisor);
        const double q = rounded_quotient(a, b, format_of<double>);
        if (q == 0) continue;
        const Magnitude here = residue(a, q, divisor);
        CHECK(!less(residue(a, std::nextafter(q, 1e308), divisor), here));
        CHECK(!less(residue(a, std::nextafter(q, -1e308), divisor), here));
    }
    for (int round = 0; round < 5000; ++round) {  // exact quotients, and many digits of divisor
        ExactSum a, b;
        const double q = mid_double(), one = mid_double(), two = std::ldexp(mid_double(), -200);
        if (q == 0 || one == 0) continue;
        add(b, one), add(b, two);
        add_product(a, q, one), add_product(a, q, two);
        CHECK(same_bits(rounded_quotient(a, b, format_of<double>), q));
    }
}

// Quotients 1 + d + 2^-precision ± 2^-beside, d 0 or the last digit of 1: at a tie of the format,
// and beside it by less than any digit of a quotient tells.
void quotients_beside_ties() {
    for (const Format format :
         {format_of<float16>, format_of<bfloat16>, format_of<float>, format_of<double>})
        for (const double divisor : {1.0, 3.0, -5.0, 0x1.000001p40, 0x1.fffffffffffffp-700})
            for (const double last : {0.0, std::ldexp(1.0, 1 - format.precision)})
                for (const double sign : {1.0, -1.0, 0.0})
                    for (const int beside : {60, 63, 64, 65, 66, 80, 96, 97, 128, 160, 200, 300}) {
                        ExactSum a, b;
                        add(b, divisor);
                        const double tie = std::ldexp(1.0, -format.precision);
                        for (const double part : {1.0, last, tie, std::ldexp(sign, -beside)})
                            add_product(a, part, divisor);
                        const bool up = sign == 0 ? last != 0 : sign > 0;
                        CHECK(same_bits(rounded_quotient(a, b, format),
                                        1 + last + (up ? 2 * tie : 0)));
                    }
}

// Quotients q - 1/b, whose first guess of a digit is one too large though two digits of b agree:
// Knuth's step D6, that one of 2^31 random quotients needs.
void digits_one_too_large() {
    for (const std::uint64_t q : {0x80000180u, 0x80000380u, 0xfffffe80u, 0xc0000980u})
        for (const std::uint64_t low : {1u, 2u, 0x80000001u, 0xffffffffu}) {
            ExactSum a, b;
            for (const auto& [digit, exponent] : {std::pair{std::uint64_t{1}, 95}, {low, 0}}) {
                add(b, digit, exponent, false);
                add(a, digit * q, exponent, false);
            }
            add(a, std::uint64_t{1}, 0, true);
            const auto number = static_cast<double>(q);
            CHECK(same_bits(rounded_quotient(a, b, format_of<double>), number));
            // q is a tie of float that would go up to the even number.
            CHECK(same_bits(rounded_quotient(a, b, format_of<float>), number - 0x80));
            ExactSum less;  // than b by 1: the first digit is 0, and not 1
            for (const auto& [digit, exponent] : {std::pair{std::uint64_t{1}, 95}, {low - 1, 0}})
                add(less, digit, exponent, false);
            CHECK(same_bits(rounded_quotient(less, b, format_of<double>), 1.0));
        }
}

void rounds_once() {
    const auto rounded_to = [](std::initializer_list<double> values, Format format) {
        return rounded(sum_of(values), format);
    };
    // Just above a tie of float; rounded to double first, it would be the tie, and go down.
    CHECK(same_bits(rounded_to({1, 0x1p-24, 0x1p-100}, format_of<float>), 1 + 0x1p-23));
    CHECK(same_bits(rounded_to({1, 0x1p-24}, format_of<float>), 1));
    CHECK(same_bits(rounded_to({1, 0x1p-24, -0x1p-100}, format_of<float>), 1));
    CHECK(same_bits(rounded_to({1 + 0x1p-23, 0x1p-24}, format_of<float>), 1 + 0x1p-22));
    CHECK(same_bits(rounded_to({65519}, format_of<float16>), 65504));
    CHECK(same_bits(rounded_to({65520}, format_of<float16>), infinity));
    CHECK(same_bits(rounded_to({-0x1p-25}, format_of<float16>), -0.0));
    CHECK(same_bits(rounded_to({-0x1p-25, -0x1p-80}, format_of<float16>), -0x1p-24));
    CHECK(same_bits(rounded_to({0x1.8p-24}, format_of<float16>), 0x1p-23));
    CHECK(same_bits(rounded_to({0x1p-1074, 0x1p-1074}, format_of<double>), 0x1p-1073));
    CHECK(same_bits(rounded_to({0x1p-150}, format_of<float>), 0));
    CHECK(same_bits(rounded_to({0x1p-150, 0x1p-1074}, format_of<float>), 0x1p-149));
    CHECK(same_bits(rounded_to({std::numeric_limits<double>::max(), 0x1p969}, format_of<double>),
                    std::numeric_limits<double>::max()));
    CHECK(same_bits(rounded_to({std::numeric_limits<double>::max(), 0x1p970}, format_of<double>),
                    infinity));
}

// Whichever part has the digits, and whichever the special.
void merging_keeps_specials() {
    for (const double special : {infinity, -infinity, nan}) {
        const auto merged = [](std::initializer_list<double> a, std::initializer_list<double> b) {
            ExactSum sum = sum_of(a);
            merge(sum, sum_of(b));
            return rounded(sum, format_of<double>);
        };
        for (const double sum :
             {merged({special}, {1}), merged({1}, {special}), merged({special}, {}),
              merged({}, {special}), merged({1, special}, {2})})
            CHECK(special == special ? sum == special : std::isnan(sum));
    }
}

void specials_are_ieee() {
    const auto quotient = [](std::initializer_list<double> a, std::initializer_list<double> b) {
        return rounded_quotient(sum_of(a), sum_of(b), format_of<double>);
    };
    CHECK(quotient({infinity, 1}, {2}) == infinity);
    CHECK(quotient({1}, {}) == infinity);
    CHECK(quotient({-0x1p-1074}, {1, -1}) == -infinity);
    CHECK(std::isnan(quotient({}, {})));
    CHECK(std::isnan(quotient({infinity, -infinity}, {1})));
    CHECK(std::isnan(quotient({infinity}, {infinity})));
    CHECK(std::isnan(quotient({nan}, {1})));
    CHECK(same_bits(quotient({-5}, {infinity}), 0.0));
    CHECK(same_bits(quotient({}, {-3}), 0.0));
}

}  // namespace

int main() {
    order_does_not_matter();
    carries_before_a_merge();
    cancels_to_nothing();
    many_carries();
    products_are_exact();
    products_of_specials_are_ieee();
    slices_are_exact<float>();
    slices_are_exact<double>();
    quotients_are_nearest();
    quotients_beside_ties();
    digits_one_too_large();
    rounds_once();
    merging_keeps_specials();
    specials_are_ieee();
    return failures() != 0;
}
