// SPDX-License-Identifier: BSD-3-Clause
// The kernels of every input dtype for one instruction set. CMake builds this file once for each, with its flags and
// its NLL_INSTRUCTION_SET; everything that is compiled here lies in the namespace of that name.
#include <nll/nll_loss.hpp>

namespace nll::NLL_INSTRUCTION_SET {

extern const Kernels kernel_table[];

// In the order of DType.
const Kernels kernel_table[] = {
    {nll_check, nll_forward<float16>, nll_gradient<float16>},
    {nll_check, nll_forward<bfloat16>, nll_gradient<bfloat16>},
    {nll_check, nll_forward<float>, nll_gradient<float>},
    {nll_check, nll_forward<double>, nll_gradient<double>},
};

}  // namespace nll::NLL_INSTRUCTION_SET
