// SPDX-License-Identifier: BSD-3-Clause
// The kernels of every input dtype for one instruction set. CMake builds this file once for each,
// with its flags and its NLL_INSTRUCTION_SET; everything that is compiled here lies in the
// namespace of that name.
#include <nll/detail/kernels.hpp>

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

extern const KernelTable kernel_table;

const KernelTable kernel_table{
    check_labels,
    sum_group,
    {kernels_of<float16>(), kernels_of<bfloat16>(), kernels_of<float>(), kernels_of<double>()}};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
