// SPDX-License-Identifier: BSD-3-Clause
// Sums without error, products, squares and quotients, against integers of any length: after any
// program of additions each sum is that of its terms, and is rounded once.
#include <nll/detail/rounding.hpp>
#include <nll/detail/slice_products.hpp>

#include <array>

#include "bytes.hpp"
#include "dyadic.hpp"

using fuzz::Bytes;
using fuzz::Dyadic;
using fuzz::Numbers;
using fuzz::Sum;
using nll::index_t;
namespace detail = nll::detail;

namespace {

// Holds a sum of the library, and what it has to be.
struct Pair {
    detail::ExactSum found;
    Sum wanted;
};

struct OfFormat {
    detail::Format library;
    fuzz::Precision own;
};
constexpr OfFormat formats[] = {
    {detail::format_of<nll::float16>, fuzz::in_float16},
    {detail::format_of<nll::bfloat16>, fuzz::in_bfloat16},
    {detail::format_of<float>, fuzz::in_float},
    {detail::format_of<double>, fuzz::in_double},
};

Dyadic value_of(const detail::ExactSum& sum) {
    const detail::Magnitude value = detail::magnitude(sum);
    fuzz::Natural digits(value.digit, value.digit + value.count);
    fuzz::trim(digits);
    REQUIRE(digits.size() == static_cast<std::size_t>(value.count));  // no zeros above
    REQUIRE(digits.empty() || (digits[0] != 0 && value.exponent >= -2176));
    const int up = value.exponent + 2176;
    return {fuzz::shifted_up(digits, digits.empty() ? 0 : up), -2176, value.negative};
}

void require_equal(const Pair& sum) {
    REQUIRE(value_of(sum.found) == sum.wanted.finite.value());
    REQUIRE(sum.found.nan == sum.wanted.nan);
    REQUIRE(sum.found.positive_infinity == sum.wanted.positive_infinity);
    REQUIRE(sum.found.negative_infinity == sum.wanted.negative_infinity);
}

void require_rounded(const Pair& sum, const OfFormat& to) {
    REQUIRE(fuzz::same(detail::rounded(sum.found, to.library), fuzz::rounded(sum.wanted, to.own)));
}

void require_quotient(const Pair& a, const Pair& b, const OfFormat& to) {
    REQUIRE(fuzz::same(detail::rounded_quotient(a.found, b.found, to.library),
                       fuzz::rounded_quotient(a.wanted, b.wanted, to.own)));
}

// Holds values as kernels do: zeros up to whole lanes.
template <class Real> struct Block {
    alignas(64) Real value[detail::block_size] = {};
    index_t count;

    Block(Bytes& bytes, index_t count) : count(count) {
        Numbers numbers(bytes);
        const bool repeats = bytes.coin(), of_16_bits = bytes.one_in(4);
        for (index_t i = 0; i < count; ++i) {
            if (repeats && i >= 8) {
                value[i] = bytes.coin() ? value[i % 8] : -value[i % 8];
                continue;
            }
            const double number = numbers.next();
            value[i] = static_cast<Real>(number);
            if (of_16_bits) value[i] = shortened(value[i]);
        }
    }
    detail::BlockRange<Real> range() const { return detail::block_range(value, count); }

private:
    // Cuts a value to the digits of bfloat16.
    static Real shortened(Real value) {
        const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
        return std::bit_cast<float>(bits & 0xffff0000);
    }
};

// Adds a block to a pair, in the way that the bytes choose.
template <class Real> void add_block(Bytes& bytes, Pair& sum, index_t count) {
    const Block<Real> block(bytes, count);
    detail::Spans spans = detail::certified<Real>;
    bool shorter = true;
    for (index_t i = 0; i < count; ++i)
        shorter &= (std::bit_cast<typename detail::BlockRange<Real>::Bits>(block.value[i]) &
                    ((1u << (sizeof(Real) == 4 ? 16 : 29)) - 1)) == 0;
    if (shorter) {
        if (sizeof(Real) == 4) spans = detail::certified<nll::bfloat16>;
        else spans.one = detail::certified<float>.one;
    }
    detail::add_block(sum.found, block.value, count, block.range(), spans);
    for (index_t i = 0; i < count; ++i) sum.wanted.add(static_cast<double>(block.value[i]));
}
template <class Real> void add_products(Bytes& bytes, Pair& sum, index_t count) {
    const Block<Real> a(bytes, count);
    const Block<double> b(bytes, count);
    detail::add_products(sum.found, a.value, b.value, count, b.range());
    for (index_t i = 0; i < count; ++i)
        sum.wanted.add_product(static_cast<double>(a.value[i]), b.value[i]);
}
template <class Real> void add_squares(Bytes& bytes, Pair& sum, index_t count) {
    const Block<Real> a(bytes, count);
    detail::add_squares(sum.found, a.value, count, a.range());
    for (index_t i = 0; i < count; ++i) {
        const auto value = static_cast<double>(a.value[i]);
        sum.wanted.add_product(value, value);
    }
}
void add_cross(Bytes& bytes, Pair& sum, index_t count) {
    const Block<double> a(bytes, count), b(bytes, count);
    detail::add_cross(sum.found, a.value, a.range(), b.value, b.range(), count);
    for (index_t i = 0; i < count; ++i) sum.wanted.add_product(a.value[i], b.value[i]);
}

index_t count_of_block(Bytes& bytes) {
    if (bytes.coin()) return bytes.between(0, 40);
    return bytes.coin() ? detail::block_size : bytes.between(0, detail::block_size);
}

void step(Bytes& bytes, std::array<Pair, 3>& sums) {
    Pair &sum = bytes.pick({&sums[0], &sums[1], &sums[2]})[0], &other = sums[2];
    const int way = bytes.below(14);
    const index_t count = way >= 7 ? count_of_block(bytes) : 0;
    switch (way) {
        case 0:
        case 1: {
            Numbers numbers(bytes);
            for (int i = bytes.between(1, 8); i > 0; --i) {
                const double value = numbers.next();
                detail::add(sum.found, value);
                sum.wanted.add(value);
            }
            return;
        }
        case 2: {
            const auto value = static_cast<float>(Numbers(bytes).next());
            detail::add(sum.found, value);
            return sum.wanted.add(static_cast<double>(value));
        }
        case 3: {
            Numbers numbers(bytes);
            const double a = numbers.next(), b = bytes.coin() ? a : numbers.next();
            detail::add_product(sum.found, a, b);
            return sum.wanted.add_product(a, b);
        }
        case 4: {
            const std::uint64_t size = bytes.word();
            const int exponent = bytes.below(4090) - 2148;
            const bool negative = bytes.coin();
            detail::add(sum.found, size, exponent, negative);
            return sum.wanted.finite.add(size, exponent, negative);
        }
        case 5:
            if (&sum == &other) return detail::carry(sum.found);
            detail::merge(sum.found, other.found);
            return sum.wanted.merge(other.wanted);
        case 6: sum = {}; return;
        case 7: return add_block<float>(bytes, sum, count);
        case 8: return add_block<double>(bytes, sum, count);
        case 9: return add_products<float>(bytes, sum, count);
        case 10: return add_products<double>(bytes, sum, count);
        case 11: return add_squares<float>(bytes, sum, count);
        case 12: return add_squares<double>(bytes, sum, count);
        default: return add_cross(bytes, sum, count);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes bytes(data, size);
    std::array<Pair, 3> sums;
    for (int steps = bytes.between(1, 6); steps > 0; --steps) step(bytes, sums);
    for (const Pair& sum : sums) {
        require_equal(sum);
        require_rounded(sum, bytes.pick(formats));
    }
    require_quotient(sums[0], sums[1], bytes.pick(formats));
    require_quotient(sums[1], sums[2], bytes.pick(formats));
    // A digit's room is for 2^28 additions: what two carries leave is the same number.
    for (Pair& sum : sums) {
        detail::carry(sum.found);
        detail::carry(sum.found);
        require_equal(sum);
    }
    return 0;
}
