// SPDX-License-Identifier: BSD-3-Clause
// The words of the library: element types, choices, and what a call returns.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>

#define NLL_VERSION "0.1.0"

#if defined(__FAST_MATH__)
#error "nll computes exact sums; -ffast-math lets the compiler break them. Build without it."
#endif

namespace nll {

using index_t = std::int64_t;

// Storage of the 16-bit formats; arithmetic happens in float or double.
struct float16 {
    std::uint16_t bits;
};
struct bfloat16 {
    std::uint16_t bits;
};

enum class DType : std::uint8_t {
    float16,
    bfloat16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
};

template <class T>
inline constexpr DType dtype_of = [] {
    if constexpr (std::same_as<T, float16>) return DType::float16;
    else if constexpr (std::same_as<T, bfloat16>) return DType::bfloat16;
    else if constexpr (std::same_as<T, float>) return DType::float32;
    else if constexpr (std::same_as<T, double>) return DType::float64;
    else {
        static_assert(std::integral<T> && !std::same_as<T, bool>, "an element is a float or an integer");
        constexpr auto first = std::is_signed_v<T> ? DType::int8 : DType::uint8;
        return static_cast<DType>(static_cast<int>(first) + std::countr_zero(sizeof(T)));
    }
}();

constexpr bool is_floating(DType dtype) { return dtype <= DType::float64; }

enum class Reduction : std::uint8_t { none, sum, mean };

// What the mean of nothing is (total weight 0): the IEEE quotient, +0, or std::invalid_argument.
enum class Empty : std::uint8_t { nan, zero, raise };

// The label that marks a sample to leave out: any integer of [-2^63, 2^64), or std::nullopt for none.
// It is compared with labels as an integer, whatever their type: 156 in uint8 is not -100.
class IgnoreIndex {
public:
    constexpr IgnoreIndex(std::nullopt_t) {}
    template <std::integral Integer>
        requires(!std::same_as<Integer, bool>)
    constexpr IgnoreIndex(Integer value)
        : bits_(static_cast<std::uint64_t>(value)), negative_(value < 0), present_(true) {}

    // The same integer as a label of this type, if it has one.
    template <std::integral Label> constexpr std::optional<Label> as() const {
        const auto label = static_cast<Label>(bits_);
        const bool same = static_cast<std::uint64_t>(label) == bits_ && (label < 0) == negative_;
        return present_ && same ? std::optional<Label>(label) : std::nullopt;
    }
    constexpr explicit operator bool() const { return present_; }
    constexpr bool negative() const { return negative_; }
    constexpr std::uint64_t bits() const { return bits_; }

private:
    std::uint64_t bits_ = 0;
    bool negative_ = false;
    bool present_ = false;
};

struct Loss {
    double value;         // rounded once to the loss's dtype; NaN for Reduction::none, whose losses are in an array
    double total_weight;  // sum of the kept samples' weights, rounded once to double
    index_t count;        // samples that were not ignored
};

struct BuildInfo {
    const char* version;
    const char* compiler;
    const char* instruction_set;  // of the kernels that run: "x86-64", "x86-64-v3", "x86-64-v4" or "native"
    int openmp;                   // the _OPENMP date, 0 without
};

// A class axis that input does not have. It is std::invalid_argument in C++ and numpy's AxisError in Python.
struct AxisError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

// Options::interrupt asked to stop. What the call was writing is incomplete.
struct Interrupted {};

}  // namespace nll
