// SPDX-License-Identifier: BSD-3-Clause
// Tells compilers how to treat a loop, and caches what will be read.
#pragma once

#include "../../types.hpp"

// Names the instruction set of the kernels. They are compiled once for each, in a namespace of that
// name: were two of them to share a function's name, the linker could keep the copy that was built
// for a newer processor for everyone.
#ifndef NLL_INSTRUCTION_SET
#define NLL_INSTRUCTION_SET native
#endif

#if defined(__GNUC__) && !defined(__clang__)
// Unrolls a short loop of fixed length, so that its arrays stay in registers.
#define NLL_UNROLL _Pragma("GCC unroll 16")
// Keeps a loop over lanes from being unrolled to scalars before it is vectorised.
#define NLL_ONE_VECTOR _Pragma("GCC unroll 1")
// Stands at the start of a loop's body that works on one group of lanes: GCC would vectorise over
// several groups, whose elements it then has to shuffle.
#define NLL_ONE_GROUP_OF_LANES __asm__ volatile("")
// Stands in the body of a loop: tells GCC that its function stores to memory. GCC 12.1
// to 12.3, 13.1 and 13.2 overlook a store whose address they compute from integers alone (GCC's bug
// 113787), take the function for pure, and delete its calls: on Arm, where one index serves arrays
// of float and of double in one object.
#define NLL_STORES __asm__ volatile("" ::: "memory")
#else
#define NLL_STORES ((void)0)
#define NLL_UNROLL
#define NLL_ONE_VECTOR
#define NLL_ONE_GROUP_OF_LANES ((void)0)
#endif

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Asks for the cache line at an address, which need not be one of the program's.
[[gnu::always_inline]] inline void prefetch([[maybe_unused]] const void* address) {
#if defined(__GNUC__)
    __builtin_prefetch(address);
#endif
}
// Asks for it into the second cache.
[[gnu::always_inline]] inline void prefetch_far([[maybe_unused]] const void* address) {
#if defined(__GNUC__)
    __builtin_prefetch(address, 0, 2);
#endif
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
