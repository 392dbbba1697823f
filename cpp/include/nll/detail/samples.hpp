// SPDX-License-Identifier: BSD-3-Clause
// The order in which a call walks over its samples: the only index arithmetic of the library.
//
//     for each run of samples that every array reaches by one constant stride:
//         sample i of the run, array o: data[o] + run.offset[o] + i * samples.stride(o)
#pragma once

#include <utility>

#include "operands.hpp"
#include "simd/hints.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

inline index_t absolute(index_t value) { return value < 0 ? -value : value; }

// Holds all samples of a call, in the order of the memory that it touches most. An axis is merged
// into the next one wherever every operand allows it: a contiguous (N, C) array, or (N, H, W, C),
// has one axis.
struct Samples {
    struct Axis {
        index_t extent;
        std::array<index_t, operands> stride;
    };
    // Describes samples that every operand reaches by one constant stride.
    struct Run {
        index_t begin, length;  // samples [begin, begin + length) of their block
        std::array<index_t, operands> offset;
    };
    // Says where an axis of target stands in this order, before axes were merged.
    struct Place {
        int axis;
        index_t extent;
    };

    index_t count;
    int rank;                            // >= 1
    std::array<Axis, max_rank> axis;     // outermost first
    std::array<bool, operands> one_run;  // of all samples, for the operand alone
    int target_rank;
    std::array<Place, max_rank> place;

    index_t stride(Operand operand) const { return axis[rank - 1].stride[operand]; }

    // Returns the run from a sample on, and in `at` the sample's place on each axis. Inlined, or
    // the linker would keep that of one instruction set.
    [[gnu::always_inline]] Run run_from(index_t first, std::array<index_t, max_rank>& at) const {
        Run run{0, 0, {}};
        for (int a = rank - 1; a >= 0; --a) {
            const index_t outer = a > 0 ? first / axis[a].extent : 0;
            at[a] = first - outer * axis[a].extent;
            first = outer;
            for (int o = 0; o < operands; ++o) run.offset[o] += at[a] * axis[a].stride[o];
        }
        run.length = axis[rank - 1].extent - at[rank - 1];
        return run;
    }
    // Calls visit(run) for the runs of samples [first, first + count), count > 0.
    template <class Visit> void for_each_run(index_t first, index_t count, Visit&& visit) const {
        std::array<index_t, max_rank> at;
        Run run = run_from(first, at);
        const Axis& inner = axis[rank - 1];
        for (;;) {
            run.length = std::min(count - run.begin, inner.extent - at[rank - 1]);
            visit(static_cast<const Run&>(run));
            run.begin += run.length;
            if (run.begin == count) return;
            for (int o = 0; o < operands; ++o) run.offset[o] -= at[rank - 1] * inner.stride[o];
            at[rank - 1] = 0;
            for (int a = rank - 2; a >= 0; --a) {
                for (int o = 0; o < operands; ++o) run.offset[o] += axis[a].stride[o];
                if (++at[a] < axis[a].extent) break;
                for (int o = 0; o < operands; ++o)
                    run.offset[o] -= axis[a].extent * axis[a].stride[o];
                at[a] = 0;
            }
        }
    }
    // Calls visit(begin, length, offset) for the runs of samples [first, first + count) that one
    // operand reaches by its stride, whatever the others do: they may be longer.
    template <class Visit>
    void for_each_run_of(Operand operand, index_t first, index_t count, Visit&& visit) const {
        if (one_run[operand]) return visit(index_t{0}, count, first * stride(operand));
        for_each_run(first, count,
                     [&](const Run& run) { visit(run.begin, run.length, run.offset[operand]); });
    }
    // Calls visit(i, offset): that of each of the samples in the operand, in their order.
    template <class Visit>
    void for_each(Operand operand, index_t first, index_t count, Visit&& visit) const {
        for_each_run_of(operand, first, count, [&](index_t begin, index_t length, index_t offset) {
            for (index_t i = 0; i < length; ++i) visit(begin + i, offset + i * stride(operand));
        });
    }
};

// Tells whether an operand reaches both axes by the stride of the inner one.
inline bool merges_into(const Samples::Axis& outer, const Samples::Axis& inner, int operand) {
    return outer.stride[operand] == inner.extent * inner.stride[operand];
}

// Orders the samples of these arrays (nullptr: not part of the call) by `leading`'s memory. The
// class axis of input and gradient is `axis`.
inline Samples samples_of(const std::array<const Array*, operands>& arrays, int axis,
                          Operand leading) {
    const Array& shaped = *arrays[target];
    Samples samples;
    samples.count = 1;
    samples.rank = 0;
    samples.target_rank = shaped.rank;
    std::array<Samples::Axis, max_rank> all;
    for (int a = 0; a < shaped.rank; ++a) {
        all[a].extent = shaped.shape[a];
        samples.count *= shaped.shape[a];
        samples.place[a] = {a, shaped.shape[a]};
        for (int o = 0; o < operands; ++o) {
            const int of_array = has_class_axis(o) && a >= axis ? a + 1 : a;
            all[a].stride[o] = arrays[o] ? arrays[o]->strides[of_array] : 0;
        }
    }

    // Longest strides first. Stable, so that equal ones keep C order; axes are few.
    const auto reach = [&](int place) {
        return absolute(all[samples.place[place].axis].stride[leading]);
    };
    for (int a = 1; a < shaped.rank; ++a)
        for (int b = a; b > 0 && reach(b) > reach(b - 1); --b)
            std::swap(samples.place[b], samples.place[b - 1]);

    for (int a = 0; a < shaped.rank; ++a) {
        const Samples::Axis& next = all[samples.place[a].axis];
        if (next.extent == 1) continue;
        bool merges = samples.rank > 0;
        for (int o = 0; merges && o < operands; ++o)
            merges = merges_into(samples.axis[samples.rank - 1], next, o);
        if (merges) {
            const index_t outer = samples.axis[samples.rank - 1].extent;
            samples.axis[samples.rank - 1] = {outer * next.extent, next.stride};
        } else {
            samples.axis[samples.rank++] = next;
        }
    }
    if (samples.rank == 0) samples.axis[samples.rank++] = {1, {}};
    samples.one_run.fill(true);
    for (int a = 1; a < samples.rank; ++a)
        for (int o = 0; o < operands; ++o)
            samples.one_run[o] &= merges_into(samples.axis[a - 1], samples.axis[a], o);
    return samples;
}

inline namespace NLL_INSTRUCTION_SET {

// Returns where a sample stands in target: its coordinates, and its place in C order.
inline index_t position(const Samples& samples, index_t sample,
                        std::array<index_t, max_rank>& coordinate) {
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

// Calls visit(begin, count) for blocks of at most `block` of [first, last).
template <class Visit>
void for_each_block(index_t first, index_t last, index_t block, Visit&& visit) {
    for (; first < last; first += block) visit(first, std::min(block, last - first));
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
