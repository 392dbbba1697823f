// SPDX-License-Identifier: BSD-3-Clause
// The compiled library: every call of nll.hpp, and the choice of the kernels for this machine.
#include <nll/nll.hpp>

#include <cstdlib>
#include <cstring>
#include <string>

#include <nll/detail/call.hpp>
#include <nll/detail/state.hpp>

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

namespace x86_64_v4 {
extern const KernelTable kernel_table;
}
namespace x86_64_v3 {
extern const KernelTable kernel_table;
}
inline namespace NLL_INSTRUCTION_SET {  // baseline
extern const KernelTable kernel_table;
}

namespace {

struct InstructionSet {
    const char* name;
    const KernelTable& table;
    bool (*runs)();
};

// The best first. The compiler's own test asks the operating system too.
const InstructionSet instruction_sets[] = {
#if defined(NLL_HAS_x86_64_v4)
    {"x86-64-v4", x86_64_v4::kernel_table,
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl");
     }},
#endif
#if defined(NLL_HAS_x86_64_v3)
    {"x86-64-v3", x86_64_v3::kernel_table,
     [] {
         return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
     }},
#endif
#if defined(__x86_64__)
    {"x86-64", NLL_INSTRUCTION_SET::kernel_table, [] { return true; }},
#else
    {"native", NLL_INSTRUCTION_SET::kernel_table, [] { return true; }},
#endif
};

// Returns the best that the machine runs, or the one that NLL_INSTRUCTION_SET in the environment
// names.
const InstructionSet& choose() {
    const char* wanted = std::getenv("NLL_INSTRUCTION_SET");
    std::string usable;
    for (const InstructionSet& set : instruction_sets) {
        if (!set.runs()) continue;
        if (!wanted || !*wanted || !std::strcmp(wanted, set.name)) return set;
        usable += std::string(usable.empty() ? "" : ", ") + set.name;
    }
    throw std::invalid_argument("NLL_INSTRUCTION_SET is '" + std::string(wanted) +
                                "'; this machine runs " + usable);
}

const InstructionSet& chosen() {
    static const InstructionSet& set = choose();
    return set;
}

const Kernels& kernels_of_call(const Call& call) {
    return chosen().table.of[static_cast<int>(dtype_of_call(call))];
}

}  // namespace

Kernel label_check() { return chosen().table.check_labels; }
SumGroup group_sum() { return chosen().table.sum_group; }

Loss nll_loss(const Call& call) { return run_nll_loss(kernels_of_call(call).nll_loss, call); }
Loss cross_entropy(const Call& call) {
    return run_cross_entropy(kernels_of_call(call).cross_entropy, call);
}
void softmax(const Call& call) { run_softmax_result(kernels_of_call(call).softmax, call); }

void collect(const Collection& to, const Call& call) {
    collect_with(to, call, to.function == LossFunction::nll_loss ? nll_loss : cross_entropy);
}

}  // namespace NLL_HIDDEN detail

BuildInfo build_info() { return detail::build_info_of(detail::chosen().name); }
int get_num_threads(int num_threads) { return detail::thread_limit(num_threads); }
void set_num_threads(int threads) { detail::set_thread_limit(threads); }

}  // namespace nll::inline NLL_VERSION_NAMESPACE
