// SPDX-License-Identifier: BSD-3-Clause
// A block of labels of any integer type -> classes; and the check of all labels of a call.
//
// Each label is read once into a register, checked, and used from there: memory that changes
// meanwhile can change a loss, never an address.
#pragma once

#include "plan.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

inline constexpr index_t ignored = -1;  // in place of a class

// Converts `count` labels, `stride` apart, to classes, (count,). Returns how many are kept; sets
// `bad` if one is no class.
template <class Label>
index_t load_run(const Label* label, index_t stride, index_t count, const Plan& plan,
                 index_t* classes, bool& bad) {
    const std::optional<Label> ignore = plan.ignore_index.as<Label>();
    const Label ignored_label = ignore.value_or(0);
    const std::uint64_t ignores = ignore.has_value();
    const auto base = static_cast<std::uint64_t>(plan.index_base);
    const auto limit = static_cast<std::uint64_t>(plan.classes);
    const auto load = [&](auto step) {
        std::uint64_t skipped = 0, outside = 0;
        for (index_t i = 0; i < count; ++i) {
            const Label value = label[i * step];
            const std::uint64_t skip = ignores & std::uint64_t{value == ignored_label};
            const std::uint64_t place = static_cast<std::uint64_t>(value) - base;
            std::uint64_t wrong = place >= limit;
            // Classes end at 2^63, but a larger label less a negative base could wrap to one.
            if constexpr (std::same_as<Label, std::uint64_t>) wrong |= value >> 63;
            outside |= wrong & ~skip;
            skipped += skip;
            classes[i] = static_cast<index_t>(skip ? static_cast<std::uint64_t>(ignored) : place);
        }
        bad |= outside != 0;
        return count - static_cast<index_t>(skipped);
    };
    if (stride != 1) return load(stride);
    // The processor's own prefetches begin anew at each page: ask for as many labels again.
    for (index_t at = count; at < 2 * count; at += cache_line / index_t{sizeof(Label)})
        prefetch_far(label + at);
    return load(std::integral_constant<index_t, 1>());
}

// Notes the lowest bad label of a block that load_run has found bad. Returns whether there is one.
template <class Label>
bool note_bad(const Plan& plan, index_t first, index_t count, Partial& partial) {
    bool found = false;
    plan.samples.for_each(target, first, count, [&](index_t i, index_t offset) {
        const Label value = plan.pointer<const Label>(target)[offset];
        bool bad = false;
        index_t unused;
        load_run(&value, 0, 1, plan, &unused, bad);
        if (!bad) return;
        found = true;
        std::array<index_t, max_rank> coordinate;
        const index_t place = position(plan.samples, first + i, coordinate);
        if (place < partial.bad_position) {
            partial.bad_position = place;
            partial.bad_sample = first + i;
            partial.bad_label = static_cast<std::uint64_t>(value);
        }
    });
    return found;
}

// Loads the classes, (count,), of samples [first, first + count): `ignored` for those to leave out.
// Returns how many are kept, or -1 if a label is bad: then `partial` knows the lowest, and the
// classes must not be used.
inline index_t load_classes(const Plan& plan, index_t first, index_t count, index_t* classes,
                            Partial& partial) {
    return visit_integer(plan.dtype[target], [&]<class Label>() -> index_t {
        for (;;) {
            index_t kept = 0;
            bool bad = false;
            plan.samples.for_each_run_of(
                target, first, count, [&](index_t begin, index_t length, index_t offset) {
                    kept +=
                        load_run(plan.pointer<const Label>(target) + offset,
                                 plan.samples.stride(target), length, plan, classes + begin, bad);
                });
            if (!bad) return kept;
            if (note_bad<Label>(plan, first, count, partial)) return -1;
            // Another thread has mended the label since: read the block again.
        }
    });
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
