// SPDX-License-Identifier: BSD-3-Clause
// A partial of all samples -> the loss, its total weight, and what a mean's gradient is divided by.
#pragma once

#include <string>

#include "plan.hpp"
#include "rounding.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Returns the exact total weight: without weights it is the count.
inline const ExactSum& total_weight(Partial& partial, const Options& options) {
    const bool added = partial.weight.high != 0;
    if (!options.weight && !options.sample_weight && !added)
        add(partial.weight, static_cast<std::uint64_t>(partial.count), 0, false);
    return partial.weight;
}

inline bool is_zero(const ExactSum& sum) { return is_finite(sum) && magnitude(sum).count == 0; }

inline void check_empty(const ExactSum& weight, index_t count, const Options& options) {
    if (options.reduction == Reduction::mean && options.empty == Empty::raise && is_zero(weight))
        throw std::invalid_argument(
            "the total weight of the " + std::to_string(count) +
            " samples that are not ignored is 0: they have no mean (empty is 'raise')");
}

// Rounds the reduced loss of `count` samples to `dtype`, and the total weight to double.
inline Loss loss_of(const ExactSum& sum, const ExactSum& weight, index_t count, DType dtype,
                    const Options& options) {
    Loss loss{std::numeric_limits<double>::quiet_NaN(), rounded(weight, format_of<double>), count};
    if (options.reduction == Reduction::sum) loss.value = rounded(sum, format(dtype));
    if (options.reduction == Reduction::mean) {
        check_empty(weight, count, options);
        const bool zero = options.empty == Empty::zero && is_zero(weight);
        loss.value = zero ? 0.0 : rounded_quotient(sum, weight, format(dtype));
    }
    return loss;
}
inline Loss loss_of(Partial& partial, DType dtype, const Options& options) {
    const ExactSum& weight = total_weight(partial, options);
    return loss_of(partial.loss, weight, partial.count, dtype, options);
}

// Sets what the gradient of a mean is divided by, or that it is zero.
inline void set_divisor(Plan& plan, Partial& partial, const Options& options) {
    if (options.reduction != Reduction::mean) return;
    const ExactSum& weight = total_weight(partial, options);
    check_empty(weight, partial.count, options);
    plan.divisor = rounded(weight, format_of<double>);
    plan.zero_gradient = options.empty == Empty::zero && is_zero(weight);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
