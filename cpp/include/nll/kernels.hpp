// SPDX-License-Identifier: BSD-3-Clause
// The kernels of an input dtype.
#pragma once

#include "cross_entropy.hpp"
#include "nll_loss.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

template <class Scalar> constexpr Kernels kernels_of() {
    using Own = ArithmeticOf<Scalar>;
    using AtLeastSingle = std::conditional_t<std::same_as<Own, Half>, Single, Own>;
    return {nll_check,
            nll_forward<Scalar>,
            nll_gradient<Scalar>,
            cross_entropy_sweep<Scalar, Own>,
            log_softmax_sweep<Scalar, Own>,
            cross_entropy_sweep<Scalar, AtLeastSingle>,
            cross_entropy_sweep<Scalar, Double>};
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
