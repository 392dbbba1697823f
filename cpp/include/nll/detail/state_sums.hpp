// SPDX-License-Identifier: BSD-3-Clause
// The sums of a loss: their kind, at hand to be added to and merged, and packed.
//
//     packed -> Sums      unpack        State holds few digits: most sums are narrow
//     Sums   -> packed    pack
//     Sums += Sums        merge         digits add: no order matters
//     Sums += a call      add           as the kernels found them
#pragma once

#include "../state.hpp"
#include "checks.hpp"
#include "floating_point.hpp"
#include "plan.hpp"
#include "xxh64.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

// Holds what a state holds, as accumulators.
struct Sums {
    enum Which : int { loss, weight, square, cross, weight_square, sums };
    std::array<ExactSum, sums> sum;
    index_t count = 0, ignored = 0;
    std::uint8_t dtypes = 0;
    bool weighted = false;
};

// Holds an exact sum in two's complement: digits from `low` on, zeros below, `negative` ones above.
// The lowest and the highest digit tell something.
struct Digits {
    int low = 0, count = 0;
    bool negative = false;
    std::uint32_t digit[ExactSum::digits + 3];
};

inline constexpr std::uint8_t negative_flag = 8;  // of a packed sum, beside its specials
inline constexpr index_t max_count = index_t{1} << 62;

inline namespace NLL_INSTRUCTION_SET {

// ---------------------------------------------------------------- kinds

// Returns XXH64 of the weights as doubles: the same for all numbers of the same value.
inline std::uint64_t digest_of(const Weight& weight) {
    return xxh64(weight.size, [&](index_t c) {
        const double value = visit_real(weight.dtype, [&]<class T>() {
            return to_double(static_cast<const T*>(weight.data)[c * weight.stride]);
        });
        return value != value ? std::uint64_t{0x7ff8} << 48
                              : std::bit_cast<std::uint64_t>(value + 0.0);
    });
}

inline State::Kind kind_of(LossFunction function, const Weight& weight, double label_smoothing) {
    const DefaultFloatingPoint environment;
    State::Kind kind{function, label_smoothing + 0.0, -1, 0};
    if (weight) kind.weights = weight.size, kind.weight_digest = digest_of(weight);
    return kind;
}

// Says what differs.
inline std::string difference(const State::Kind& found, const State::Kind& expected) {
    std::string text;
    const auto differs = [&](const std::string& name, const std::string& is,
                             const std::string& should_be) {
        text += (text.empty() ? "" : "; ") + name + is + ", not " + should_be;
    };
    const auto name_of = [](LossFunction function) {
        return function == LossFunction::nll_loss ? "nll_loss" : "cross_entropy";
    };
    const auto weights_of = [](const State::Kind& kind) {
        return kind.weights < 0 ? std::string("none")
                                : "of " + std::to_string(kind.weights) +
                                      (kind.weights == 1 ? " class" : " classes");
    };
    if (found.function != expected.function)
        differs("the loss is ", name_of(found.function), name_of(expected.function));
    if (found.label_smoothing != expected.label_smoothing)
        differs("label_smoothing is ", detail::text(found.label_smoothing),
                detail::text(expected.label_smoothing));
    if (found.weights != expected.weights)
        differs("class weights are ", weights_of(found), weights_of(expected));
    else if (found.weight_digest != expected.weight_digest)
        text += (text.empty() ? "" : "; ") + ("class weights are " + weights_of(found)) +
                ", but other numbers";
    return text;
}

inline void check_kind(const std::string& name, const State::Kind& found,
                       const State::Kind& expected) {
    if (!(found == expected))
        throw std::invalid_argument(name + ": " + difference(found, expected));
}

// ---------------------------------------------------------------- sums as digits

inline Digits digits_of(const ExactSum& sum) {
    Digits result;
    result.low = sum.low;
    std::int64_t over = 0;
    const auto put = [&](std::int64_t digit) {
        over += digit;
        result.digit[result.count++] = static_cast<std::uint32_t>(over);
        over >>= 32;
    };
    for (int i = sum.low; i < sum.high; ++i) put(sum.digit[i]);
    while (over != 0 && over != -1) put(0);
    result.negative = over != 0;
    const std::uint32_t above = result.negative ? 0xffffffff : 0;
    if (result.negative) result.digit[result.count++] = above;
    int zeros = 0;
    while (zeros < result.count && result.digit[zeros] == 0) ++zeros;
    std::copy(result.digit + zeros, result.digit + result.count, result.digit);
    result.low += zeros;
    result.count -= zeros;
    while (result.count > 1 && result.digit[result.count - 1] == above) --result.count;
    if (result.count == 0) result.low = 0;
    return result;
}

// Sets an empty sum to digits from `low` on, in two's complement.
inline void set_digits(ExactSum& sum, int low, int count, bool negative,
                       const std::uint32_t* digit) {
    if (count == 0) return;
    sum.low = low;
    sum.high = low + count;
    std::copy_n(digit, count, sum.digit + low);
    if (negative) sum.digit[sum.high - 1] -= std::int64_t{1} << 32;
}

inline std::uint8_t specials_of(const ExactSum& sum) {
    return static_cast<std::uint8_t>(sum.nan | sum.positive_infinity << 1 |
                                     sum.negative_infinity << 2);
}
inline void set_specials(ExactSum& sum, int specials) {
    sum.nan = specials & 1;
    sum.positive_infinity = specials & 2;
    sum.negative_infinity = specials & 4;
}

// ---------------------------------------------------------------- sums

inline void check_count(index_t one, index_t other) {
    if (one > max_count - other)
        throw std::invalid_argument("the states have more than 2^62 samples together");
}

inline void merge(Sums& sums, const Sums& other) {
    check_count(sums.count, other.count);
    check_count(sums.ignored, other.ignored);
    for (std::size_t i = 0; i < Sums::sums; ++i) merge(sums.sum[i], other.sum[i]);
    sums.count += other.count;
    sums.ignored += other.ignored;
    sums.dtypes |= other.dtypes;
    sums.weighted |= other.weighted;
}

// Says what samples a partial is of.
struct Batch {
    index_t ignored;
    DType dtype;    // of their losses
    bool weighted;  // they have weights of their own
};

// A batch without samples adds nothing: data is the same however it is cut.
inline void add(Sums& sums, const Partial& partial, const Batch& batch) {
    if (partial.count == 0 && batch.ignored == 0) return;
    check_count(sums.count, partial.count);
    check_count(sums.ignored, batch.ignored);
    merge(sums.sum[Sums::loss], partial.loss);
    merge(sums.sum[Sums::square], partial.square);
    if (batch.weighted) {
        merge(sums.sum[Sums::weight], partial.weight);
        merge(sums.sum[Sums::cross], partial.cross);
        merge(sums.sum[Sums::weight_square], partial.weight_square);
    } else if (partial.count > 0) {
        const auto count = static_cast<std::uint64_t>(partial.count);
        add(sums.sum[Sums::weight], count, 0, false);
        merge(sums.sum[Sums::cross], partial.loss);
        add(sums.sum[Sums::weight_square], count, 0, false);
    }
    sums.count += partial.count;
    sums.ignored += batch.ignored;
    sums.dtypes = static_cast<std::uint8_t>(sums.dtypes | 1 << static_cast<int>(batch.dtype));
    sums.weighted |= batch.weighted;
}

}  // namespace NLL_INSTRUCTION_SET

// ---------------------------------------------------------------- packed sums

// Reads and writes what a State keeps to itself.
struct StateAccess {
    static void unpack(const State& state, Sums& sums) {
        const std::uint32_t* digit = state.digits_.data();
        for (std::size_t s = 0; s < Sums::sums; ++s) {
            const State::Stretch& stretch = state.stretch_[s];
            set_digits(sums.sum[s], stretch.low, stretch.count, stretch.flags & negative_flag,
                       digit);
            set_specials(sums.sum[s], stretch.flags);
            digit += stretch.count;
        }
        sums.count = state.count_;
        sums.ignored = state.ignored_;
        sums.dtypes = state.dtypes_;
        sums.weighted = state.weighted_;
    }

    // Leaves the state as it was if there is no memory for it.
    static void pack(const Sums& sums, State& state) {
        std::array<State::Stretch, State::sums> stretch;
        std::uint32_t digit[State::sums * (ExactSum::digits + 3)];
        std::uint32_t* end = digit;
        for (std::size_t s = 0; s < Sums::sums; ++s) {
            const Digits digits = digits_of(sums.sum[s]);
            stretch[s].low = static_cast<std::int16_t>(digits.low);
            stretch[s].count = static_cast<std::int16_t>(digits.count);
            stretch[s].flags = static_cast<std::uint8_t>(specials_of(sums.sum[s]) |
                                                         (digits.negative ? negative_flag : 0));
            end = std::copy_n(digits.digit, digits.count, end);
        }
        state.digits_.reserve(static_cast<std::size_t>(end - digit));
        state.digits_.assign(digit, end);
        state.stretch_ = stretch;
        state.count_ = sums.count;
        state.ignored_ = sums.ignored;
        state.dtypes_ = sums.dtypes;
        state.weighted_ = sums.weighted;
    }

    static void add(State& state, const Partial& partial, const Batch& batch) {
        static_assert(static_cast<int>(Sums::sums) == State::sums);
        Sums sums;
        unpack(state, sums);
        detail::add(sums, partial, batch);
        pack(sums, state);
    }
};

}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
