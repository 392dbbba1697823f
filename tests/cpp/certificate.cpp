// SPDX-License-Identifier: BSD-3-Clause
// Blocks at the limits of the certificate: the largest values and the smallest odd one that a slice
// has to hold. A limit that is one exponent too wide for rounding to nearest loses the last bit of
// one of them.
#include <nll/detail/rounding.hpp>

#include <cfenv>
#include <vector>

#include "check.hpp"

using namespace nll;
using namespace nll::detail;

namespace {

// Adds a block, and a second one that takes all but a few of its bits away: by blocks, and value by
// value.
template <class Real>
void check_pair(const std::vector<Real>& block, const std::vector<Real>& taken_away) {
    ExactSum fast, slow;
    for (const std::vector<Real>* values : {&block, &taken_away}) {
        alignas(64) Real padded_block[block_size] = {};
        std::copy(values->begin(), values->end(), padded_block);
        const auto count = static_cast<index_t>(values->size());
        add_block(fast, padded_block, count, block_range(padded_block, count), certified<Real>);
        for (const Real value : *values) add(slow, value);
    }
    CHECK(same_bits(rounded(fast, format_of<double>), rounded(slow, format_of<double>)));
}

template <class Real> Real power(int exponent) {
    return static_cast<Real>(std::ldexp(1.0, exponent));
}

// One slice: 511 largest values fill the top of the sum's 53 bits, the odd last bit of one value is
// the bottom.
template <class Real> void one_slice(int span) {
    constexpr int bits = format_of<Real>.precision;
    std::vector<Real> block(block_size, 2 - power<Real>(1 - bits));
    block[100] = power<Real>(-span) + power<Real>(-span + 1 - bits);
    std::vector<Real> away(block);
    for (Real& value : away) value = -value;
    away[100] = 0;
    check_pair(block, away);
}

// Two slices of float: 510 values that are nothing but remainder, just below half of the first
// slice's unit.
void two_slices_of_float(int span) {
    const float remainder = static_cast<float>(std::ldexp(2 - 0x1p-23, -44));
    std::vector<float> block(block_size, remainder);
    block[0] = 2 - 0x1p-23f;
    block[1] = static_cast<float>(std::ldexp(1 + 0x1p-23, -span));
    std::vector<float> away(block);
    for (float& value : away) value = -value;
    away[1] = 0;
    check_pair(block, away);
}

// Slices of double: values that leave a remainder of almost half a unit of the slice before the
// last (2^unit) and an odd last bit, 2^(-span - 52). Each of the second block has that bit more, so
// that only those bits are left.
void slices_of_double(int span, int unit) {
    for (index_t count = 500; count < block_size; ++count) {
        const double together = std::ldexp(1.0, -span) + std::ldexp(1.0, unit);
        std::vector<double> block(static_cast<std::size_t>(count + 1),
                                  together - std::ldexp(1.0, -span - 52));
        std::vector<double> away(static_cast<std::size_t>(count + 1), -together);
        block[0] = 1, away[0] = -1;
        check_pair(block, away);
        for (int odd = 1; odd <= 3; ++odd) {
            std::vector<double> remainders(static_cast<std::size_t>(count + 1),
                                           std::ldexp(2 - 0x1p-52, unit - 1));
            remainders[0] = 2 - 0x1p-52;
            remainders[static_cast<std::size_t>(odd)] = std::ldexp(1 + 0x1p-52, -span);
            std::vector<double> rest(remainders);
            for (double& value : rest) value = -value;
            rest[static_cast<std::size_t>(odd)] = 0;
            check_pair(remainders, rest);
        }
    }
}

void every_span(int last) {
    for (int span = 10; span <= last; ++span) {
        one_slice<float>(span);
        two_slices_of_float(span);
        one_slice<double>(span);
        slices_of_double(span, -43);
        slices_of_double(span, -86);
    }
}

// Blocks of every exponent that double has, subnormals included, that need one, two or three
// slices: at the ends, cuts and what they leave are no numbers any more, and values add one by one.
void every_exponent() {
    for (int top = -1074; top <= 1023; ++top)
        for (const int span : {0, 20, 34, 60, 77}) {
            std::vector<double> block(block_size, std::ldexp(2 - 0x1p-52, top));
            for (std::size_t i = 1; i < block.size(); i += 2)
                block[i] = std::ldexp(1 + static_cast<double>(2 * i + 1) * 0x1p-52, top - span);
            std::vector<double> away(block_size, -std::ldexp(1.0, top));
            check_pair(block, away);
        }
}

// Σ a·b of factors of all pairs of exponents whose product, and its error, may or may not be
// normal numbers: by blocks, and product by product.
template <class Real> void every_product() {
    constexpr int lowest = format_of<Real>.smallest_exponent,
                  highest = format_of<Real>.past_largest_exponent - 1;
    constexpr double odd = 2.0 / (std::uint64_t{1} << format_of<Real>.precision);
    for (int of_a = lowest; of_a <= highest; of_a += sizeof(Real) == 4 ? 1 : 7)
        for (int of_b = -1074; of_b <= 1023; of_b += 11) {
            alignas(64) Real a[block_size] = {};
            alignas(64) double b[block_size] = {};
            for (int i = 0; i < 40; ++i) {
                a[i] = static_cast<Real>(std::ldexp(1 + (2 * i + 1) * odd, of_a));
                b[i] = std::ldexp(1 + (4 * i + 3) * 0x1p-52, of_b);
            }
            ExactSum fast, slow;
            add_products(fast, a, b, 40, block_range(b, 40));
            for (int i = 0; i < 40; ++i) add_product(slow, static_cast<double>(a[i]), b[i]);
            ExactSum difference = fast;
            for (int i = 0; i < 40; ++i) add_product(difference, static_cast<double>(-a[i]), b[i]);
            CHECK(same_bits(rounded(fast, format_of<double>), rounded(slow, format_of<double>)));
            CHECK(magnitude(difference).count == 0 && is_finite(difference));
        }
}

}  // namespace

int main() {
    every_exponent();
    every_product<float>();
    every_product<double>();
    every_span(90);
    for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
        std::fesetround(mode);
        every_span(certified<double>.two);  // a third slice is for rounding to nearest alone
        for (int span = certified<double>.two; span <= 90; ++span) {
            one_slice<float>(span);
            two_slices_of_float(span);
        }
    }
    return failures() != 0;
}
