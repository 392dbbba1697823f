// SPDX-License-Identifier: BSD-3-Clause
// The kernels of an input dtype.
#pragma once

#include "cross_entropy.hpp"
#include "nll_loss.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

template <class Scalar> constexpr Kernels kernels_of() {
    return {nll_check,
            nll_forward<Scalar>,
            nll_gradient<Scalar>,
            cross_entropy<Scalar, ArithmeticOf<Scalar>>,
            cross_entropy<Scalar, Double>,
            log_softmax<Scalar, ArithmeticOf<Scalar>>};
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
