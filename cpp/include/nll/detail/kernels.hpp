// SPDX-License-Identifier: BSD-3-Clause
// The kernels of an input dtype, as pointers: the table at which calls meet templates.
#pragma once

#include "nll_loss.hpp"
#include "softmax.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Names the precision that a result in an input's own type needs, and the one for wider results.
template <class Scalar>
using PrecisionOf =
    std::conditional_t<std::same_as<Scalar, double>, Double,
                       std::conditional_t<std::same_as<Scalar, bfloat16>, Bfloat16, Single>>;
template <class Scalar>
using AtLeastSingle = std::conditional_t<std::same_as<Scalar, double>, Double, Single>;

// Returns kernels<Precision>() of the precisions that results of inputs of a type may need.
template <class Scalar, class KernelsOf>
constexpr PrecisionKernels precision_kernels_of(KernelsOf kernels) {
    using Own = PrecisionOf<Scalar>;
    return {kernels.template operator()<Own>(),
            kernels.template operator()<AtLeastSingle<Scalar>>(),
            kernels.template operator()<Double>(), Own::max_scale};
}
template <class Scalar> constexpr PrecisionKernels cross_entropy_kernels_of() {
    return precision_kernels_of<Scalar>([]<class Precision>() -> SoftmaxKernels {
        return {cross_entropy_sweep<Scalar, Precision>,
                cross_entropy_split_rows<Scalar, Precision>};
    });
}
template <class Scalar> constexpr PrecisionKernels softmax_kernels_of() {
    return precision_kernels_of<Scalar>([]<class Precision>() -> SoftmaxKernels {
        return {softmax_sweep<Scalar, Precision>, softmax_split_rows<Scalar, Precision>};
    });
}

template <class Scalar> constexpr Kernels kernels_of() {
    return {nll_loss_sweep<Scalar>, softmax_kernels_of<Scalar>(),
            cross_entropy_kernels_of<Scalar>()};
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
