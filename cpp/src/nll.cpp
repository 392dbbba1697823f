// SPDX-License-Identifier: BSD-3-Clause
// The compiled library: every call of nll.hpp, and the choice of the kernels for this machine.
#include <nll/nll.hpp>

#include <cstring>

#include <nll/call.hpp>

namespace nll {

#define NLL_DECLARE(name)                \
    namespace name {                     \
    extern const Kernels kernel_table[]; \
    }
NLL_DECLARE(x86_64_v4)
NLL_DECLARE(x86_64_v3)
NLL_DECLARE(baseline)
#undef NLL_DECLARE

namespace {

struct InstructionSet {
    const char* name;
    const Kernels* table;
    bool (*runs)();
};

// The best first. The compiler's own test asks the operating system too.
const InstructionSet instruction_sets[] = {
#if defined(NLL_X86_LEVELS)
    {"x86-64-v4", x86_64_v4::kernel_table,
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl");
     }},
    {"x86-64-v3", x86_64_v3::kernel_table,
     [] {
         return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                __builtin_cpu_supports("bmi2");
     }},
    {"x86-64", baseline::kernel_table, [] { return true; }},
#else
    {"native", baseline::kernel_table, [] { return true; }},
#endif
};

// The best that the machine runs, or the one that NLL_INSTRUCTION_SET in the environment names.
const InstructionSet& choose() {
    const char* wanted = std::getenv("NLL_INSTRUCTION_SET");
    std::string usable;
    for (const InstructionSet& set : instruction_sets) {
        if (!set.runs()) continue;
        if (!wanted || !*wanted || !std::strcmp(wanted, set.name)) return set;
        usable += std::string(usable.empty() ? "" : ", ") + set.name;
    }
    throw std::invalid_argument("NLL_INSTRUCTION_SET is '" + std::string(wanted) + "'; this machine runs " + usable);
}

const InstructionSet& chosen() {
    static const InstructionSet& set = choose();
    return set;
}

}  // namespace

const Kernels& kernels(DType dtype) { return chosen().table[static_cast<int>(dtype)]; }

BuildInfo build_info() { return build_info_of(chosen().name); }

}  // namespace nll
