// SPDX-License-Identifier: BSD-3-Clause
// The kernels of an input dtype.
#pragma once

#include "cross_entropy.hpp"
#include "nll_loss.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

template <class Scalar, class Arithmetic> constexpr SoftmaxKernels cross_entropy_of() {
    return {cross_entropy_sweep<Scalar, Arithmetic>, take_chunks<Scalar, Arithmetic>,
            merge_chunks<Scalar, Arithmetic, true>, use_chunks<Scalar, Arithmetic, true>};
}

template <class Scalar> constexpr Kernels kernels_of() {
    using Own = ArithmeticOf<Scalar>;
    using AtLeastSingle = std::conditional_t<std::same_as<Own, Half>, Single, Own>;
    return {nll_check,
            nll_sweep<Scalar>,
            {log_softmax_sweep<Scalar, Own>, take_chunks<Scalar, Own>, merge_chunks<Scalar, Own, false>,
             use_chunks<Scalar, Own, false>},
            cross_entropy_of<Scalar, Own>(),
            cross_entropy_of<Scalar, AtLeastSingle>(),
            cross_entropy_of<Scalar, Double>()};
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
