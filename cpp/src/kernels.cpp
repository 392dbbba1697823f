// SPDX-License-Identifier: BSD-3-Clause
// The kernels of every input dtype for one instruction set. CMake builds this file once for each, with its flags and
// its NLL_INSTRUCTION_SET; everything that is compiled here lies in the namespace of that name.
#include <nll/kernels.hpp>

namespace nll::NLL_INSTRUCTION_SET {

extern const Kernels kernel_table[];

// In the order of DType.
const Kernels kernel_table[] = {kernels_of<float16>(), kernels_of<bfloat16>(), kernels_of<float>(),
                                kernels_of<double>()};

}  // namespace nll::NLL_INSTRUCTION_SET
