// SPDX-License-Identifier: BSD-3-Clause
// The state of a loss: what its public functions do.
#pragma once

#include "collect.hpp"
#include "finish.hpp"
#include "standard_error.hpp"
#include "state_bytes.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Refuses a loss that is none, and a smoothing that it does not have.
inline void check_function(LossFunction function, double label_smoothing) {
    if (function > LossFunction::cross_entropy)
        throw std::invalid_argument("the loss is " + std::to_string(static_cast<int>(function)) +
                                    ", outside [0, 1]");
    check_smoothing(label_smoothing);
    Options options;
    options.label_smoothing = label_smoothing;
    if (function == LossFunction::nll_loss) check_no_smoothing(options);
}

// Returns the kind of a state that is made with these, as calls have to have them, too.
inline State::Kind new_kind(LossFunction function, const Weight& weight, double label_smoothing) {
    const DefaultFloatingPoint environment;
    check_function(function, label_smoothing);
    Options options;
    options.weight = weight;
    options.label_smoothing = label_smoothing;
    check_weight_numbers(options);
    return kind_of(function, weight, label_smoothing);
}

// Returns a kind as states have it, with no smoothing of -0.
inline State::Kind checked(State::Kind kind) {
    const DefaultFloatingPoint environment;
    check_function(kind.function, kind.label_smoothing);
    kind.label_smoothing += 0.0;
    if (kind.weights < -1 || kind.weights >= max_count)
        throw std::invalid_argument("there are " + std::to_string(kind.weights) +
                                    " class weights, outside [-1, 2^62)");
    if (kind.weights == -1 && kind.weight_digest != 0)
        throw std::invalid_argument("there are no class weights, but a digest of them");
    return kind;
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail

#if defined(NLL_COMPILED)
#define NLL_DEFINED
#else
#define NLL_DEFINED inline
#endif

NLL_DEFINED State::State(LossFunction function, const Weight& weight, double label_smoothing)
    : kind_(detail::new_kind(function, weight, label_smoothing)) {}

NLL_DEFINED State::State(const Kind& kind) : kind_(detail::checked(kind)) {}

NLL_DEFINED State State::from_bytes(std::span<const std::uint8_t> bytes) {
    if (bytes.size() != static_cast<std::size_t>(size))
        detail::refuse("a state has " + std::to_string(size) + " bytes, not " +
                       std::to_string(bytes.size()));
    const detail::DefaultFloatingPoint environment;
    detail::Sums total;
    State state(detail::decode(bytes.data(), total));
    detail::StateAccess::pack(total, state);
    return state;
}

NLL_DEFINED State::Bytes State::to_bytes() const {
    detail::Sums total;
    detail::StateAccess::unpack(*this, total);
    Bytes bytes;
    detail::encode(kind_, total, bytes.data());
    return bytes;
}

NLL_DEFINED void State::merge(const State& other) {
    const detail::DefaultFloatingPoint environment;
    detail::check_kind("the kinds of the states differ", other.kind_, kind_);
    detail::Sums total, others;
    detail::StateAccess::unpack(*this, total);
    detail::StateAccess::unpack(other, others);
    detail::merge(total, others);
    detail::StateAccess::pack(total, *this);
}

NLL_DEFINED DType State::dtype() const {
    if (dtypes_ == 0 || dtypes_ & 8) return DType::float64;
    if (dtypes_ == 1) return DType::float16;
    return dtypes_ == 2 ? DType::bfloat16 : DType::float32;
}

NLL_DEFINED Loss State::loss(const Options& options) const {
    detail::check_choices(options);
    if (options.reduction == Reduction::none)
        throw std::invalid_argument(
            "reduction is none, but a state has no losses of samples: it must be 'mean' or 'sum'");
    const detail::DefaultFloatingPoint environment;
    detail::Sums total;
    detail::StateAccess::unpack(*this, total);
    return detail::loss_of(total.sum[detail::Sums::loss], total.sum[detail::Sums::weight], count_,
                           options.dtype.value_or(dtype()), options);
}

NLL_DEFINED double State::total_weight() const {
    detail::Sums total;
    detail::StateAccess::unpack(*this, total);
    return detail::rounded(total.sum[detail::Sums::weight], detail::format_of<double>);
}

NLL_DEFINED double State::standard_error() const {
    const detail::DefaultFloatingPoint environment;
    detail::Sums total;
    detail::StateAccess::unpack(*this, total);
    return std::apply([&](const auto&... sum) { return detail::standard_error_of(sum..., count_); },
                      total.sum);
}

NLL_DEFINED double State::perplexity(Empty empty) const {
    Options options;
    options.empty = empty;
    options.dtype = DType::float64;
    const double mean = loss(options).value;
    const detail::DefaultFloatingPoint environment;
    return std::exp(mean);
}

NLL_DEFINED State merge(const std::uint8_t* states, index_t count, index_t stride) {
    const detail::DefaultFloatingPoint environment;
    detail::Sums total;
    State state(detail::merge_bytes(states, count, stride, total));
    detail::StateAccess::pack(total, state);
    return state;
}

#undef NLL_DEFINED

}  // namespace nll::inline NLL_VERSION_NAMESPACE
