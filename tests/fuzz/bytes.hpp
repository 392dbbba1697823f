// SPDX-License-Identifier: BSD-3-Clause
// What a fuzz target draws its case from, and how it says that something is not so.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>

// Ends the process where a result is not what it has to be: libFuzzer keeps the input.
#define REQUIRE(...)                                                                       \
    do {                                                                                   \
        if (!(__VA_ARGS__)) {                                                              \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #__VA_ARGS__); \
            std::abort();                                                                  \
        }                                                                                  \
    } while (false)

namespace fuzz {

inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// Draws numbers from the bytes of an input, one after the other. Where they end, it draws pseudo-
// random ones (SplitMix64) that depend on all of the input: a few bytes make a whole case, and more
// of them choose more of it.
class Bytes {
public:
    Bytes(const std::uint8_t* data, std::size_t size) : next_(data), end_(data + size) {
        for (const std::uint8_t* byte = data; byte != end_; ++byte)
            state_ = (state_ ^ *byte) * 0x100000001b3;  // FNV-1a
    }

    std::uint8_t byte() {
        return static_cast<std::uint8_t>(next_ != end_ ? *next_++ : random() >> 56);
    }
    std::uint64_t word() {
        if (next_ == end_) return random();
        std::uint64_t word = 0;
        for (int i = 0; i < 8; ++i) word = word << 8 | byte();
        return word;
    }
    // Returns a number of [0, end), end > 0.
    int below(int end) {
        const int low = byte();
        return (end > 256 ? low << 16 | byte() << 8 | byte() : low) % end;
    }
    int between(int first, int last) { return first + below(last - first + 1); }
    bool one_in(int times) { return below(times) == times - 1; }
    bool coin() { return byte() & 1; }
    template <class T> T pick(std::initializer_list<T> choices) {
        return choices.begin()[below(static_cast<int>(choices.size()))];
    }
    template <class T, std::size_t count> const T& pick(const T (&choices)[count]) {
        return choices[below(static_cast<int>(count))];
    }

private:
    std::uint64_t random() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return z ^ z >> 31;
    }
    const std::uint8_t *next_, *end_;
    std::uint64_t state_ = 0xcbf29ce484222325;
};

// Draws numbers of one kind, chosen first: what a sum finds easy, and what it finds hard.
class Numbers {
public:
    explicit Numbers(Bytes& bytes)
        : bytes_(bytes), kind_(bytes.below(8)), low_(bytes.between(-1074, 1023)) {
        if (bytes.coin()) low_ = bytes.between(-60, 60);
        const int span = bytes.coin() ? bytes.between(0, 90) : bytes.below(2100);
        high_ = std::min(low_ + span, 1023);
        is_coarse_ = bytes.coin();
        specials_ = bytes.one_in(8) ? bytes.between(2, 200) : 0;
    }
    double next() {
        if (specials_ && bytes_.one_in(specials_)) return special();
        switch (kind_) {
            case 0: return 0.25 * static_cast<std::int8_t>(bytes_.byte());
            case 1: return 0x1p-60 * static_cast<double>(static_cast<std::int64_t>(bytes_.word()));
            case 2: return std::bit_cast<double>(bytes_.word());
            case 3: return bytes_.coin() ? special() : within();
            default: return within();
        }
    }

private:
    // Returns one of any digits with an exponent of [low, high]; coarse: of float's digits.
    double within() {
        std::uint64_t digits = bytes_.word();
        if (digits % 8 == 0) digits |= ~std::uint64_t{0} << 11;  // the largest fraction
        const std::uint64_t sign = digits & 1, dropped = is_coarse_ ? 40 : 11;
        const auto fraction =
            static_cast<double>((digits >> dropped << dropped | std::uint64_t{1} << 63) >> 11);
        const double size = std::ldexp(fraction, bytes_.between(low_, high_) - 52);
        return sign ? -size : size;
    }
    double special() {
        static constexpr double list[] = {0.0,       -0.0,         infinity,   -infinity,  nan,
                                          0x1p-1074, 0x1p-1022,    0x1p-149,   0x1p-126,   0x1p-24,
                                          0x1p-14,   65504,        65520,      0x1p128,    -0x1p127,
                                          0x1p500,   -0x1p977,     0x1p-873,   0x1p1023,   1.0,
                                          -1.0,      0x1.fffffep0, 0x1p53 - 1, -0x1p-1074, 0x1p400};
        return bytes_.pick(list);
    }
    Bytes& bytes_;
    int kind_, low_, high_, specials_;
    bool is_coarse_;
};

}  // namespace fuzz
