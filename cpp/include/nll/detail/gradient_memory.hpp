// SPDX-License-Identifier: BSD-3-Clause
// Chooses how the memory of a gradient is written, and prefaults pages that are new.
//
// The first write to a page has the system clear it. All threads together touch new pages before
// anything else, in the order of memory: faster than to meet them one by one between computations,
// or where planes are far apart.
#pragma once

#include "parallel.hpp"
#include "plan.hpp"
#include "system_files.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Says what a gradient is made of: one entry a sample that is not zero, or all classes.
enum class GradientKind { one_hot, dense };

// Returns the last cache's bytes, as the system tells. (sysconf tells a virtual machine of all
// caches of its host.)
inline index_t last_level_cache() {
    static const index_t size = [] {
        const auto file = read_system_file("/sys/devices/system/cpu/cpu0/cache/index3/size");
        std::string_view text = file;
        const index_t kibibytes = take_integer(text);  // "32768K"
        return kibibytes > 0 ? kibibytes << 10 : max_counted_cache;
    }();
    return size;
}

// Tells whether the gradient is one stretch of memory, in whatever order.
inline bool is_dense(const Plan& plan) {
    index_t last = (plan.classes - 1) * plan.class_stride[gradient];
    bool ascending = plan.class_stride[gradient] > 0;
    for (int a = 0; a < plan.samples.rank; ++a) {
        const Samples::Axis& axis = plan.samples.axis[a];
        last += (axis.extent - 1) * axis.stride[gradient];
        ascending &= axis.stride[gradient] >= 0;
    }
    return ascending && last + 1 == plan.samples.count * plan.classes;
}

// Touches each page of new memory, which is zeros, in order and by all threads. Each takes whole
// huge pages, should the system have some: two that need the same one wait for each other.
inline void prefault(void* memory, index_t size, const Options& options) {
    constexpr index_t huge_page = 2 << 20;
    const auto begin = static_cast<index_t>(reinterpret_cast<std::uintptr_t>(memory) % huge_page);
    Partial none;
    parallel::reduce(
        none, (begin + size + huge_page - 1) / huge_page, 1, parallel::limit(options.num_threads),
        options.interrupt,
        [&](index_t first, index_t last, Partial&) {
            const index_t end = std::min(last * huge_page, begin + size);
            for (index_t at = std::max(first * huge_page, begin); at < end; at += page_bytes)
                *(static_cast<volatile std::byte*>(memory) + (at - begin)) = std::byte{};
            return true;
        },
        [](Partial&, const Partial&) {});
}

// Chooses the plan's store, and prefaults memory that is `fresh`.
inline void prepare_gradient(Plan& plan, GradientKind kind, bool fresh, const Options& options) {
    const index_t row = plan.classes * size_of(plan.dtype[gradient]);
    const index_t size = plan.samples.count * row;
    if (size <= std::min(last_level_cache(), max_counted_cache) / 2) return;
    const bool is_new = fresh && is_dense(plan);
    if (is_new) prefault(plan.data[gradient], size, options);
    const bool short_rows = plan.class_stride[gradient] == 1 && row < min_entries_only_row;
    const bool entries_only = is_new && kind == GradientKind::one_hot && !short_rows;
    plan.store = entries_only ? Store::entries_only : Store::streamed;
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
