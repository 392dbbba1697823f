// SPDX-License-Identifier: BSD-3-Clause
// How the memory of a gradient is written: what caches keep of it, and pages that are new from the system.
//
// The first write to a page has the system clear it. All threads together touch new pages before anything else, in the
// order of memory: faster than to meet them one by one between computations, or where planes are far apart. Where few
// lines of a gradient are not zero, cleared pages need no more than its entries.
#pragma once

#include <fstream>

#include "nll_loss.hpp"
#include "parallel.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

// The last cache's bytes, as the system tells. (sysconf tells a virtual machine of all caches of its host.)
inline index_t last_level_cache() {
    static const index_t size = [] {
        index_t kibibytes = 0;
        std::ifstream("/sys/devices/system/cpu/cpu0/cache/index3/size") >> kibibytes;  // "32768K"
        return kibibytes > 0 ? kibibytes << 10 : index_t{32} << 20;
    }();
    return size;
}

inline index_t gradient_size(const Plan& plan) {
    const DType dtype = plan.dtype[gradient];
    return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}

// Whether the gradient is one stretch of memory, in whatever order.
inline bool is_dense(const Plan& plan) {
    index_t last = (plan.classes - 1) * plan.class_stride[gradient];
    bool ascending = plan.class_stride[gradient] > 0;
    for (int a = 0; a < plan.samples.rank; ++a) {
        last += (plan.samples.axis[a].extent - 1) * plan.samples.axis[a].stride[gradient];
        ascending &= plan.samples.axis[a].stride[gradient] >= 0;
    }
    return ascending && last + 1 == plan.samples.count * plan.classes;
}

// Touches the pages of new memory, which is zeros, in order and by all threads. Each takes whole huge pages, should the
// system have some: two that need the same one wait for each other.
inline void touch_pages(void* memory, index_t size, const Options& options) {
    constexpr index_t page = 4096, huge_page = 2 << 20;
    const auto begin = static_cast<index_t>(reinterpret_cast<std::uintptr_t>(memory) % huge_page);
    Partial none;
    parallel::reduce(
        none, (begin + size + huge_page - 1) / huge_page, 1, parallel::limit(options.num_threads), options.interrupt,
        [&](index_t first, index_t last, Partial&) {
            for (index_t at = std::max(first * huge_page, begin); at < std::min(last * huge_page, begin + size);
                 at += page)
                *(static_cast<volatile std::byte*>(memory) + (at - begin)) = std::byte{};
            return true;
        },
        [](Partial&, const Partial&) {});
}

// Chooses how the gradient is written, and prepares its memory. `entries_do`: all but one entry of a sample is 0.
inline void prepare_gradient(Plan& plan, bool entries_do, const Options& options) {
    constexpr index_t long_row = 4096;
    const index_t row = plan.classes * gradient_size(plan), size = plan.samples.count * row;
    // What fits beside input. Of a larger cache, which many cores share, one call cannot count on more.
    const index_t fitting = std::min(last_level_cache(), index_t{32} << 20) / 2;
    const bool rows = plan.class_stride[gradient] == 1;
    if (size <= fitting) return;
    const bool is_new = options.out_is_new && is_dense(plan);
    if (is_new) touch_pages(plan.data[gradient], size, options);
    plan.zeroed = is_new && entries_do && (!rows || row >= long_row);
    plan.streams = !plan.zeroed;
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
