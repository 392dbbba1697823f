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

template <class Scalar, class Precision> constexpr SoftmaxKernels cross_entropy_kernels_as() {
    return {cross_entropy_sweep<Scalar, Precision>, cross_entropy_split_rows<Scalar, Precision>};
}
template <class Scalar> constexpr CrossEntropyKernels cross_entropy_kernels_of() {
    return {cross_entropy_kernels_as<Scalar, PrecisionOf<Scalar>>(),
            cross_entropy_kernels_as<Scalar, AtLeastSingle<Scalar>>(),
            cross_entropy_kernels_as<Scalar, Double>(), PrecisionOf<Scalar>::max_scale};
}
template <class Scalar> constexpr SoftmaxKernels softmax_kernels_of() {
    using Precision = PrecisionOf<Scalar>;
    return {softmax_sweep<Scalar, Precision>, softmax_split_rows<Scalar, Precision>};
}

template <class Scalar> constexpr Kernels kernels_of() {
    return {nll_loss_sweep<Scalar>, softmax_kernels_of<Scalar>(),
            cross_entropy_kernels_of<Scalar>()};
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
