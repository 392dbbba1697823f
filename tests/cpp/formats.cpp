// SPDX-License-Identifier: BSD-3-Clause
// Conversions of the 16-bit formats: all of their numbers, and every midpoint between two; and the
// rounding of a gradient's entries.
#include <nll/detail/rounding.hpp>

#include <random>

#include "check.hpp"

using namespace nll;
using namespace nll::detail;

namespace {

template <class Scalar> Scalar of_bits(std::uint32_t bits) {
    return {static_cast<std::uint16_t>(bits)};
}

template <class Scalar> void all_numbers() {
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const double value = to_double(of_bits<Scalar>(bits));
        if (value != value) CHECK(std::isnan(to_double(from_double<Scalar>(value))));
        else CHECK(from_double<Scalar>(value).bits == bits);
    }
}

// Calls visit with the middle between each two numbers, and with the doubles beside it.
template <class Scalar, class Visit> void for_each_middle(Visit&& visit) {
    for (std::uint32_t bits = 0; bits < 0x8000; ++bits) {
        const double value = to_double(of_bits<Scalar>(bits));
        const double next = to_double(of_bits<Scalar>(bits + 1));
        if (!std::isfinite(value)) break;
        const double step =
            std::isfinite(next) ? next - value : value - to_double(of_bits<Scalar>(bits - 1));
        const double middle = value + step / 2;
        for (const double near :
             {std::nextafter(middle, 0.0), middle, std::nextafter(middle, infinity)})
            for (const double sign : {1.0, -1.0}) visit(sign * near);
    }
}

// Rounds with the integers of the exact sum.
template <class Scalar> void between_numbers() {
    for_each_middle<Scalar>([](double value) {
        ExactSum sum;
        add(sum, value);
        CHECK(same_bits(to_double(from_double<Scalar>(value)), rounded(sum, format_of<Scalar>)));
    });
}

// ---------------------------------------------------------------- entries of a gradient

// Returns the step from a number of bfloat16 to the next.
double step_of_bfloat16(double value) {
    int exponent;
    std::frexp(value, &exponent);
    return std::ldexp(1.0, std::max(exponent - 8, -133));
}

// A zero is +0. Only bfloat16 is rounded twice, and at most 0.501 ULP away.
template <class Scalar> void check_entry(double value) {
    const double entry = to_double(rounded_entry<Scalar>(value));
    CHECK(!same_bits(entry, -0.0));
    if (value != value) {
        CHECK(std::isnan(entry));
    } else if constexpr (!std::same_as<Scalar, bfloat16>) {
        CHECK(entry == to_double(from_double<Scalar>(value)));
    } else if (std::isinf(entry)) {
        constexpr double largest = 0x1.fep127;
        CHECK(std::signbit(entry) == std::signbit(value));
        CHECK(std::fabs(value) >= largest + 0.499 * step_of_bfloat16(largest));
    } else {
        CHECK(std::fabs(entry - value) <= 0.501 * step_of_bfloat16(value));
    }
}

template <class Scalar> void entries() {
    std::mt19937_64 random(1);
    for (int i = 0; i < 1'000'000; ++i) check_entry<Scalar>(std::bit_cast<double>(random()));
    std::uniform_real_distribution<double> fraction(-2, 2);
    for (int i = 0; i < 1'000'000; ++i)
        check_entry<Scalar>(std::ldexp(fraction(random), i % 320 - 160));
    for (const double special :
         {0.0, infinity, 0x1p-1074, 0x1p-1022, 0x1p-150, 0x1p-149, 0x1p-134, 0x1p-133, 0x1p-126,
          0x1.fffffffffffffp127, 0x1p128, 0x1.fffffffffffffp1023})
        for (const double sign : {1.0, -1.0}) check_entry<Scalar>(sign * special);
    // NaN of any sign and payload, one that single precision does not have among them.
    constexpr std::uint64_t nan = 0x7ff0'0000'0000'0000, sign = std::uint64_t{1} << 63;
    for (int bit = 0; bit < 52; ++bit)
        for (const std::uint64_t payload :
             {std::uint64_t{1} << bit, (std::uint64_t{2} << bit) - 1, ~nan - sign})
            for (const std::uint64_t negative : {std::uint64_t{0}, sign})
                check_entry<Scalar>(
                    std::bit_cast<double>(negative | nan | (payload & (~nan - sign))));
}

template <class Scalar> void entries_between_numbers() {
    for_each_middle<Scalar>([](double value) { check_entry<Scalar>(value); });
}

}  // namespace

int main() {
    all_numbers<float16>();
    all_numbers<bfloat16>();
    between_numbers<float16>();
    between_numbers<bfloat16>();
    CHECK(to_double(from_double<float16>(1e300)) == infinity);
    CHECK(same_bits(to_double(from_double<bfloat16>(-1e-300)), -0.0));
    entries<float>();
    entries<double>();
    entries<float16>();
    entries<bfloat16>();
    entries_between_numbers<float16>();
    entries_between_numbers<bfloat16>();
    return failures() != 0;
}
