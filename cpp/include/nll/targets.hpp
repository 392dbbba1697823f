// SPDX-License-Identifier: BSD-3-Clause
// A block of labels of any integer type -> classes, and the weights of those classes.
// Each label is read once into a register, checked, and used from there: memory that changes meanwhile can change a
// loss, never an address.
#pragma once

#include "plan.hpp"
#include "stream.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

inline constexpr index_t ignored = -1;  // in place of a class

// A class that is as wide as what is chosen by it, for SIMD.
template <class Scalar> using ClassBeside = std::conditional_t<sizeof(Scalar) == 8, index_t, std::int32_t>;

// Where a sample stands in target: its coordinates, and its place in C order.
inline index_t position(const Samples& samples, index_t sample, std::array<index_t, max_rank>& coordinate) {
    std::array<index_t, max_rank> extent;
    for (int a = samples.target_rank - 1; a >= 0; --a) {
        const Samples::Place& place = samples.place[a];
        coordinate[place.axis] = sample % place.extent;
        extent[place.axis] = place.extent;
        sample /= place.extent;
    }
    index_t c_order = 0;
    for (int a = 0; a < samples.target_rank; ++a) c_order = c_order * extent[a] + coordinate[a];
    return c_order;
}

// Labels of a run -> classes. Returns how many were kept; `bad` tells of a label outside the classes.
template <class Label>
index_t load_run(const Label* label, index_t stride, index_t count, const Plan& plan, index_t* classes, bool& bad) {
    const std::optional<Label> ignore = plan.ignore_index.as<Label>();
    const Label ignored_label = ignore.value_or(0);
    const std::uint64_t ignores = ignore.has_value();
    const auto base = static_cast<std::uint64_t>(plan.index_base), limit = static_cast<std::uint64_t>(plan.classes);
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
    // As many again are asked for: at each page, the processor's own guesses begin anew.
    for (index_t at = count; at < 2 * count; at += 64 / index_t{sizeof(Label)}) NLL_PREFETCH_FAR(label + at);
    return load(std::integral_constant<index_t, 1>());
}

// Looks for the bad labels of a block that load_run has found bad, and notes the lowest.
template <class Label> bool note_bad(const Plan& plan, index_t first, index_t count, Partial& partial) {
    bool found = false;
    plan.samples.for_each_run(first, count, [&](const Samples::Run& run) {
        for (index_t i = 0; i < run.length; ++i) {
            const Label value = plan.pointer<const Label>(target)[run.offset[target] + i * plan.samples.stride(target)];
            bool bad = false;
            index_t one;
            load_run(&value, 0, 1, plan, &one, bad);
            if (!bad) continue;
            found = true;
            std::array<index_t, max_rank> coordinate;
            const index_t sample = first + run.begin + i, place = position(plan.samples, sample, coordinate);
            if (place < partial.bad_position) {
                partial.bad_position = place;
                partial.bad_sample = sample;
                partial.bad_label = static_cast<std::uint64_t>(value);
            }
        }
    });
    return found;
}

// The classes of samples [first, first + count), `ignored` for those to leave out. Returns how many are kept, or -1 if
// a label is bad: then the lowest is noted in `partial`, and the classes must not be used.
inline index_t load_classes(const Plan& plan, index_t first, index_t count, index_t* classes, Partial& partial) {
    return visit_integer(plan.dtype[target], [&]<class Label>() -> index_t {
        for (;;) {
            index_t kept = 0;
            bool bad = false;
            plan.samples.for_each_run(first, count, [&](const Samples::Run& run) {
                kept += load_run(plan.pointer<const Label>(target) + run.offset[target], plan.samples.stride(target),
                                 run.length, plan, classes + run.begin, bad);
            });
            if (!bad) return kept;
            if (note_bad<Label>(plan, first, count, partial)) return -1;
            // Another thread has mended the label since: read the block again.
        }
    });
}

// The weights of consecutive classes as double; 1 without weights.
inline void load_class_weights(const Plan& plan, index_t first, index_t count, double* weights) {
    if (!plan.weight) return static_cast<void>(std::fill_n(weights, count, 1.0));
    visit_real(plan.weight.dtype, [&]<class T>() {
        const T* data = static_cast<const T*>(plan.weight.data) + first * plan.weight.stride;
        for (index_t c = 0; c < count; ++c) weights[c] = to_double(data[c * plan.weight.stride]);
    });
}

// The weights of samples by their classes, as double; 0 for ignored samples. Those of few classes are looked up in a
// table, which is surveyed once instead of every block.
class SampleWeights {
public:
    SampleWeights(const Plan& plan, index_t samples)
        : weight_(plan.weight), tabled_(plan.weight && plan.classes <= std::min(samples, most)) {
        if (!tabled_) return;
        const index_t size = 1 + plan.classes;
        std::fill_n(table_, padded(size), 0.0);
        load_class_weights(plan, 0, plan.classes, table_ + 1);
        const Survey<double> all = survey(table_, size);
        // Of narrower bounds no block would have more use.
        surveyed_ = fits_float(all) && all.top() - all.bottom() <= certified<float>.one;
        if (surveyed_) survey_ = all;
    }

    // Of each class, `ignored` included; nullptr if there is no table.
    const double* table() const { return tabled_ ? table_ + 1 : nullptr; }

    void load(const index_t* classes, index_t count, double* weights) const {
        if (tabled_)
            for (index_t i = 0; i < count; ++i) weights[i] = table()[classes[i]];
        else if (weight_.size == 0) std::fill_n(weights, count, 0.0);  // all are ignored
        else
            visit_real(weight_.dtype, [&]<class T>() {
                const T* data = static_cast<const T*>(weight_.data);
                for (index_t i = 0; i < count; ++i) {
                    const double of_class = to_double(data[std::max<index_t>(classes[i], 0) * weight_.stride]);
                    weights[i] = classes[i] == ignored ? 0.0 : of_class;
                }
            });
    }

    // Of weights that were loaded, padded to whole lanes with zeros: their survey, or one with wider bounds.
    Survey<double> surveyed(const double* weights, index_t count) const {
        if (!surveyed_) return survey(weights, count);
        Survey<double> block = survey_;
        block.total = plain_sum(count, [&](index_t i) { return weights[i]; });
        return block;
    }

private:
    static constexpr index_t most = 512;
    static_assert(ignored == -1);
    const Weight& weight_;
    bool tabled_, surveyed_ = false;
    Survey<double> survey_;
    alignas(64) double table_[padded(1 + most)];  // from `ignored` on
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
