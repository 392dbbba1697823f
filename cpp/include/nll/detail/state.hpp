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

inline void check_smoothing(LossFunction function, double label_smoothing) {
    check_smoothing(label_smoothing);
    Options options;
    options.label_smoothing = label_smoothing;
    if (function == LossFunction::nll_loss) check_no_smoothing(options);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail

#if defined(NLL_COMPILED)
#define NLL_DEFINED
#else
#define NLL_DEFINED inline
#endif

NLL_DEFINED State::State(LossFunction function, const Weight& weight, double label_smoothing)
    : kind_(detail::kind_of(function, weight, label_smoothing)) {
    detail::check_smoothing(function, label_smoothing);
}

NLL_DEFINED State State::from_bytes(std::span<const std::uint8_t> bytes) {
    if (bytes.size() != static_cast<std::size_t>(size))
        detail::refuse("a state has " + std::to_string(size) + " bytes, not " +
                       std::to_string(bytes.size()));
    detail::Sums sums;
    State state(detail::decode(bytes.data(), sums));
    detail::StateAccess::pack(sums, state);
    return state;
}

NLL_DEFINED State::Bytes State::to_bytes() const {
    detail::Sums sums;
    detail::StateAccess::unpack(*this, sums);
    Bytes bytes;
    detail::encode(kind_, sums, bytes.data());
    return bytes;
}

NLL_DEFINED void State::merge(const State& other) {
    detail::check_kind("the kinds of the states differ", other.kind_, kind_);
    detail::Sums sums, others;
    detail::StateAccess::unpack(*this, sums);
    detail::StateAccess::unpack(other, others);
    detail::merge(sums, others);
    detail::StateAccess::pack(sums, *this);
}

NLL_DEFINED DType State::dtype() const {
    if (dtypes_ == 0 || dtypes_ & 8) return DType::float64;
    if (dtypes_ == 1) return DType::float16;
    return dtypes_ == 2 ? DType::bfloat16 : DType::float32;
}

NLL_DEFINED Loss State::loss(const Options& options) const {
    if (options.reduction == Reduction::none)
        throw std::invalid_argument(
            "reduction is none, but a state has no losses of samples: it must be 'mean' or 'sum'");
    const detail::DefaultFloatingPoint environment;
    detail::Sums sums;
    detail::StateAccess::unpack(*this, sums);
    return detail::loss_of(sums.sum[detail::Sums::loss], sums.sum[detail::Sums::weight], count_,
                           options.dtype.value_or(dtype()), options);
}

NLL_DEFINED double State::total_weight() const {
    detail::Sums sums;
    detail::StateAccess::unpack(*this, sums);
    return detail::rounded(sums.sum[detail::Sums::weight], detail::format_of<double>);
}

NLL_DEFINED double State::standard_error() const {
    const detail::DefaultFloatingPoint environment;
    detail::Sums sums;
    detail::StateAccess::unpack(*this, sums);
    return std::apply([&](const auto&... sum) { return detail::standard_error_of(sum..., count_); },
                      sums.sum);
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
    detail::Sums sums;
    State state(detail::merge_bytes(states, count, stride, sums));
    detail::StateAccess::pack(sums, state);
    return state;
}

#undef NLL_DEFINED

}  // namespace nll::inline NLL_VERSION_NAMESPACE
