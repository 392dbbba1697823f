// SPDX-License-Identifier: BSD-3-Clause
// Blocks at the limits of the certificate: the largest values and the smallest odd one that a slice
// has to hold. A limit that is one exponent too wide for rounding to nearest loses the last bit of
// one of them.
#include <nll/detail/weights.hpp>

#include <cfenv>
#include <random>
#include <vector>

#include "check.hpp"

using namespace nll;
using namespace nll::detail;

namespace {

// Adds a block, and a second one that takes all but a few of its bits away: by blocks, and value by
// value. Values are numbers of Scalar.
template <class Scalar>
void check_pair(const std::vector<Real<Scalar>>& block,
                const std::vector<Real<Scalar>>& taken_away) {
    using Value = Real<Scalar>;
    ExactSum fast, slow;
    for (const std::vector<Value>* values : {&block, &taken_away}) {
        alignas(64) Value padded_block[block_size] = {};
        std::copy(values->begin(), values->end(), padded_block);
        const auto count = static_cast<index_t>(values->size());
        add_block(fast, padded_block, count, block_range(padded_block, count), certified<Scalar>);
        for (const Value value : *values) add(slow, value);
    }
    CHECK(same_bits(rounded(fast, format_of<double>), rounded(slow, format_of<double>)));
}

template <class Value> Value power(int exponent) {
    return static_cast<Value>(std::ldexp(1.0, exponent));
}

// One slice: 511 largest values fill the top of the sum's 53 bits, the odd last bit of one value is
// the bottom.
template <class Scalar> void one_slice(int span) {
    using Value = Real<Scalar>;
    constexpr int bits = format_of<Scalar>.precision;
    std::vector<Value> block(block_size, 2 - power<Value>(1 - bits));
    block[100] = power<Value>(-span) + power<Value>(-span + 1 - bits);
    std::vector<Value> away(block);
    for (Value& value : away) value = -value;
    away[100] = 0;
    check_pair<Scalar>(block, away);
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
    check_pair<float>(block, away);
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
        check_pair<double>(block, away);
        for (int odd = 1; odd <= 3; ++odd) {
            std::vector<double> remainders(static_cast<std::size_t>(count + 1),
                                           std::ldexp(2 - 0x1p-52, unit - 1));
            remainders[0] = 2 - 0x1p-52;
            remainders[static_cast<std::size_t>(odd)] = std::ldexp(1 + 0x1p-52, -span);
            std::vector<double> rest(remainders);
            for (double& value : rest) value = -value;
            rest[static_cast<std::size_t>(odd)] = 0;
            check_pair<double>(remainders, rest);
        }
    }
}

// Adds Σ a·b, (count,), by blocks and takes each product away.
template <class Value> void check_products(const Value* a, const double* b, index_t count) {
    ExactSum sum;
    add_products(sum, a, b, count, block_range(b, count));
    for (index_t i = 0; i < count; ++i) add_product(sum, -static_cast<double>(a[i]), b[i]);
    CHECK(magnitude(sum).count == 0 && is_finite(sum));
}

// Products as slices_of_double has values: the second factors are powers of 2, so that a product's
// exponent is the sum of both, and slices begin one bit higher than it.
void slices_of_products(int span, int unit) {
    for (const int shift : {0, -30, 17})
        for (const int odd : {1, 200, 511}) {
            alignas(64) double a[block_size], b[block_size];
            std::fill_n(b, block_size, std::ldexp(1.0, shift));
            std::fill_n(
                a, block_size,
                std::ldexp(1.0, -span) + std::ldexp(1.0, unit) - std::ldexp(1.0, -span - 52));
            a[0] = 1;
            check_products(a, b, block_size);
            std::fill_n(a, block_size, std::ldexp(2 - 0x1p-52, unit - 1));
            a[0] = 2 - 0x1p-52;
            a[odd] = std::ldexp(1 + 0x1p-52, -span);
            check_products(a, b, block_size);
        }
}

// Factors just below 2, whose products are just below 4.
template <class Value> void largest_products() {
    std::mt19937_64 random(3);
    std::uniform_real_distribution<double> little(0x1p-10, 0x1p-6);
    for (int round = 0; round < 20; ++round) {
        alignas(64) Value a[block_size];
        alignas(64) double b[block_size];
        for (index_t i = 0; i < block_size; ++i) {
            a[i] = static_cast<Value>(2 - little(random));
            b[i] = 2 - little(random);
        }
        check_products(a, b, block_size);
    }
}

// One factor of 53 bits, anywhere, among those that have float's 24: its product alone is rounded.
template <class Value> void one_long_factor() {
    for (const index_t count : {5, 40, 512})
        for (const index_t at : {index_t{0}, index_t{4}, count / 2, count - 1})
            for (const double last : {0x1p-52, 0x1p-30, 0x1p-24}) {
                alignas(64) Value a[block_size] = {};
                alignas(64) double b[block_size] = {};
                for (index_t i = 0; i < count; ++i) {
                    a[i] = 1 + power<Value>(1 - format_of<Value>.precision) *
                                   static_cast<Value>(2 * i + 1);
                    b[i] = 1 + 0x1p-23 * static_cast<double>(2 * i + 1);
                }
                check_products(a, b, count);
                b[at] += last;
                check_products(a, b, count);
            }
}

// Blocks whose first or second slices have an odd sum of as many bits as can be: 511 numbers of
// `bits` bits just below a power of 2.
void slices_full_of_bits() {
    for (const int top : {1, -43, -86})
        for (int bits = 20; bits <= 53; ++bits) {
            std::vector<double> block(block_size,
                                      std::ldexp(1.0, top) - std::ldexp(1.0, top - bits));
            std::vector<double> away(block_size, -std::ldexp(1.0, top));
            block[0] = 1, away[0] = -1;
            check_pair<double>(block, away);
        }
}

void every_span(int last) {
    for (int span = 10; span <= last; ++span) {
        one_slice<float>(span);
        one_slice<bfloat16>(span);
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
            check_pair<double>(block, away);
        }
}

// Weights of 25 bits, one more than float has, at the limit of spans of float's one slice.
void weights_of_25_bits() {
    constexpr int span = certified<float>.one;
    alignas(64) double weights[block_size];
    for (const double sign : {1.0, -1.0})
        for (const double smallest : {std::ldexp(1 + 0x1p-24, -span), 0.0}) {
            std::fill_n(weights, block_size, sign * (2 - 0x1p-24));
            weights[100] = smallest;
            Partial fast;
            ExactSum slow;
            for (const double weight : weights) add(slow, weight);
            add_weights(weights, block_size, fast);
            for (const double weight : weights) add(fast.weight, -weight);
            for (const double weight : weights) add(slow, -weight);
            CHECK(magnitude(fast.weight).count == 0 && magnitude(slow).count == 0);
        }
}

// One number that is not finite among those of some span: no infinity becomes NaN, in sums or in
// their flags.
template <class Scalar> void specials() {
    using Value = Real<Scalar>;
    constexpr int highest = format_of<Scalar>.past_largest_exponent - 1;
    for (const double special : {infinity, -infinity, std::nan("")})
        for (const int span : {0, 10, 30, 50, 70, 100}) {
            alignas(64) Value block[block_size];
            for (index_t i = 0; i < block_size; ++i)
                block[i] = power<Value>(highest - static_cast<int>(i) % (span + 1));
            block[37] = static_cast<Value>(special);
            ExactSum fast, slow;
            add_block(fast, block, block_size, block_range(block, block_size), certified<Scalar>);
            for (const Value value : block) add(slow, value);
            CHECK(fast.nan == slow.nan && fast.positive_infinity == slow.positive_infinity &&
                  fast.negative_infinity == slow.negative_infinity);
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
    for (int span = 10; span <= 90; ++span) {
        slices_of_products(span, -42);
        slices_of_products(span, -85);
    }
    slices_full_of_bits();
    largest_products<float>();
    largest_products<double>();
    one_long_factor<float>();
    one_long_factor<double>();
    weights_of_25_bits();
    specials<float16>();
    specials<bfloat16>();
    specials<float>();
    specials<double>();
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
