// SPDX-License-Identifier: BSD-3-Clause
// Conversions of the 16-bit formats: all of their numbers, and every midpoint between two.
#include <nll/exact_sum.hpp>

#include "check.hpp"

using namespace nll;

namespace {

template <class Scalar> void all_numbers() {
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const Scalar scalar{static_cast<std::uint16_t>(bits)};
        const double value = to_double(scalar);
        if (value != value) {
            CHECK(to_double(from_double<Scalar>(value)) != to_double(from_double<Scalar>(value)));
            continue;
        }
        CHECK(from_double<Scalar>(value).bits == bits);
    }
}

// Against the integer rounding of the exact sum.
template <class Scalar> void between_numbers() {
    for (std::uint32_t bits = 0; bits < 0x8000; ++bits) {
        const double value = to_double(Scalar{static_cast<std::uint16_t>(bits)});
        const double next = to_double(Scalar{static_cast<std::uint16_t>(bits + 1)});
        if (!std::isfinite(value)) break;
        const double middle = std::isfinite(next)
                                  ? value + (next - value) / 2
                                  : value + (value - to_double(Scalar{static_cast<std::uint16_t>(bits - 1)})) / 2;
        for (const double near : {std::nextafter(middle, 0.0), middle, std::nextafter(middle, 1e308)})
            for (const double sign : {1.0, -1.0}) {
                ExactSum sum;
                add(sum, sign * near);
                const double expected = rounded(sum, format_of<Scalar>);
                CHECK(same_bits(to_double(from_double<Scalar>(sign * near)),
                                expected == 0 && near == 0 ? sign * 0.0 : expected));
            }
    }
}

}  // namespace

int main() {
    all_numbers<float16>();
    all_numbers<bfloat16>();
    between_numbers<float16>();
    between_numbers<bfloat16>();
    CHECK(to_double(from_double<float16>(1e300)) == std::numeric_limits<double>::infinity());
    CHECK(same_bits(to_double(from_double<bfloat16>(-1e-300)), -0.0));
    return failures() != 0;
}
