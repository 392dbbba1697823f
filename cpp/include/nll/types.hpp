// SPDX-License-Identifier: BSD-3-Clause
// The words of the library: element types, choices, and what a call returns.
#pragma once

#include <bit>
#include <cfloat>
#include <concepts>
#include <cstdint>
#include <optional>
#include <stdexcept>

#include "detail/abi.hpp"

#define NLL_VERSION "0.1.0"

#if defined(__FAST_MATH__)
#error "nll computes exact sums; -ffast-math lets the compiler break them. Build without it."
#endif
// The parts of it that change results: GCC names each, clang none.
#if defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "nll computes exact sums; -funsafe-math-optimizations, or a part of it, breaks them."
#endif
// 16 says that a 16-bit type is not widened. nll computes in float and double.
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "nll computes exact sums; wider intermediate results break them. Build with -mfpmath=sse."
#endif

namespace nll::inline NLL_VERSION_NAMESPACE {

using index_t = std::int64_t;

template <class T, int Rank> struct View;
struct Array;

// Stores the bits of a 16-bit format; arithmetic happens in float or double.
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

// Name the element types that arrays may have.
template <class T>
concept FloatElement = std::same_as<T, float16> || std::same_as<T, bfloat16> ||
                       std::same_as<T, float> || std::same_as<T, double>;
template <class T>
concept IntegerElement = std::integral<T> && !std::same_as<T, bool> && sizeof(T) <= 8;

template <class T>
inline constexpr DType dtype_of = [] {
    if constexpr (std::same_as<T, float16>) return DType::float16;
    else if constexpr (std::same_as<T, bfloat16>) return DType::bfloat16;
    else if constexpr (std::same_as<T, float>) return DType::float32;
    else if constexpr (std::same_as<T, double>) return DType::float64;
    else {
        static_assert(IntegerElement<T>,
                      "an element is float16, bfloat16, float, double, or an "
                      "integer of at most 64 bits");
        constexpr auto first = std::is_signed_v<T> ? DType::int8 : DType::uint8;
        return static_cast<DType>(static_cast<int>(first) + std::countr_zero(sizeof(T)));
    }
}();

constexpr bool is_floating(DType dtype) { return dtype <= DType::float64; }
constexpr bool is_integer(DType dtype) { return dtype >= DType::int8 && dtype <= DType::uint64; }
constexpr bool is_signed_integer(DType dtype) {
    return dtype >= DType::int8 && dtype <= DType::int64;
}
constexpr index_t size_of(DType dtype) {
    constexpr std::int8_t size[] = {2, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8};
    return size[static_cast<int>(dtype)];
}

enum class Reduction : std::uint8_t { none, sum, mean };

// Says what the mean of nothing is (total weight 0): the IEEE quotient, +0, or an error.
enum class Empty : std::uint8_t { nan, zero, raise };

// Marks the samples to leave out by their label: any integer of [-2^63, 2^64), or std::nullopt.
// It is compared with labels as an integer, whatever their type: 156 in uint8 is not -100.
class IgnoreIndex {
public:
    constexpr IgnoreIndex(std::nullopt_t) {}
    template <IntegerElement Integer>
    constexpr IgnoreIndex(Integer value)
        : bits_(static_cast<std::uint64_t>(value)), negative_(value < 0), present_(true) {}

    // Returns this integer as a label of the given type, if it has one.
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

// Points at class weights, (C,), of any element type; or says that there are none.
struct Weight {
    static constexpr index_t none = INT64_MIN;  // a size: no other is taken for no weights

    const void* data = nullptr;
    DType dtype = DType::float32;
    index_t size = none;
    index_t stride = 0;

    constexpr Weight() = default;
    constexpr Weight(const void* address, DType element, index_t count, index_t step)
        : data(address), dtype(element), size(count), stride(step) {}
    template <class T>
    constexpr Weight(View<T, 1> view)
        : Weight(view.data, dtype_of<std::remove_const_t<T>>, view.shape[0], view.strides[0]) {}
    constexpr explicit operator bool() const { return size != none; }
};

// Says what a call computes, beside its arrays.
struct Options {
    Weight weight{};  // of each class; none: every weight is 1
    // Points at a weight for each sample, of target's shape and any element type; 0 strides
    // broadcast. What a sample counts is that of its class times its own, rounded once to double.
    const Array* sample_weight = nullptr;
    IgnoreIndex ignore_index = -100;  // or std::nullopt
    Reduction reduction = Reduction::mean;
    index_t axis = 1;        // of the classes in input; negative: from the end
    index_t index_base = 0;  // the label of the first class
    Empty empty = Empty::nan;
    std::optional<DType> dtype{};  // of the one loss, a float; input's without
    double label_smoothing = 0;    // cross-entropy: in [0, 1], what is spread over all classes
    int num_threads = 0;           // 0: get_num_threads()
    // Asked by the calling thread every 50 ms: true throws Interrupted, and it may throw itself.
    bool (*interrupt)() = nullptr;
};

struct Loss {
    double value;         // rounded once to the loss's dtype; NaN for Reduction::none
    double total_weight;  // the sum of the kept samples' weights, rounded once to double
    index_t count;        // samples that were not ignored
};

struct BuildInfo {
    const char* version;
    const char* compiler;
    const char* instruction_set;  // "x86-64", "x86-64-v3", "x86-64-v4" or "native"
    int openmp;                   // the _OPENMP date, 0 without
};

// Reports a class axis that input does not have: numpy's AxisError in Python.
struct AxisError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

// Reports that Options::interrupt asked to stop. What the call was writing is incomplete.
struct Interrupted {};

}  // namespace nll::inline NLL_VERSION_NAMESPACE
