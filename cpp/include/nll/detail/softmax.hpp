// SPDX-License-Identifier: BSD-3-Clause
// The sweeps of cross-entropy, softmax, log_softmax and logsumexp over blocks of samples, and which
// loop serves which shape:
//
//     rows        many classes of a sample side by side: one sample at a time
//     tiles       few classes, or classes apart from each other: up to 128 samples at a time
//     split rows  fewer rows than threads, of very many classes: one row by all threads
//
// All add up in one order (lane_sums.hpp), so that layouts, threads and splits give the same bits.
#pragma once

#include <memory>

#include "softmax_rows.hpp"
#include "softmax_split_row.hpp"
#include "softmax_tiles.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Tells whether samples are taken one by one.
inline bool by_rows(const Plan& plan) {
    const bool side_by_side =
        absolute(plan.class_stride[input]) <= absolute(plan.samples.stride(input));
    return plan.classes > max_sequential_classes && (plan.samples.count == 1 || side_by_side);
}

// Returns the samples of a block.
inline index_t softmax_block(const Plan& plan) {
    if (!by_rows(plan)) return tiles_block(plan);
    return std::clamp<index_t>(max_block_elements / plan.classes, 1, block_size);
}

// Returns memory of so many bytes, kept in the partial from one range of samples to the next; or
// nullptr, if it cannot be had.
inline void* scratch(Partial& partial, index_t bytes) {
    if (bytes > partial.scratch_bytes) {
        partial.scratch.reset();
        partial.scratch.reset(
            static_cast<std::byte*>(try_allocate(static_cast<std::size_t>(bytes))));
        partial.scratch_bytes = partial.scratch ? bytes : 0;
    }
    return bytes > 0 ? partial.scratch.get() : nullptr;
}
// Calls sweep<Loop>(memory) with the loop that serves the plan and the memory that this would like
// to have. Without it, rows compute their exponentials twice, and a block's results are written in
// shorter stretches.
template <class Scalar, class Precision, class Sweep>
void with_loop(const Plan& plan, Partial& partial, Sweep&& sweep) {
    using Rows = SoftmaxRows<Scalar, Precision>;
    using Tiles = SoftmaxTiles<Scalar, Precision>;
    if (by_rows(plan)) {
        sweep.template operator()<Rows>(scratch(partial, Rows::kept_bytes(plan)));
    } else {
        const index_t size = GradientWriter<Scalar>::staging_size(plan, tiles_block(plan));
        const index_t bytes = plan.has(gradient) ? bytes_of<Scalar>(size) : 0;
        sweep.template operator()<Tiles>(scratch(partial, bytes));
    }
}

// Computes the losses of samples [first, last), and writes the gradient, if the plan has one.
template <class Scalar, class Precision>
void cross_entropy_sweep(const Plan& plan, index_t first, index_t last, Partial& partial) {
    const auto sweep = [&]<class Loop>(void* scratch) {
        struct Variables {
            Variables(const Plan& plan, index_t samples, void* scratch)
                : by_class(plan, samples), block(plan), loop(plan, space, scratch) {}
            WeightsByClass by_class;
            SoftmaxBlock<Precision> block;
            Workspace<Scalar, Precision> space;
            Loop loop;
        };
        auto& at = construct_in<Variables>(partial.memory, plan, last - first, scratch);
        for_each_block(first, last, softmax_block(plan), [&](index_t begin, index_t count) {
            if (!at.block.begin(begin, count, at.by_class, partial)) return;
            at.loop.cross_entropy(at.block);
            at.block.finish(partial);
        });
        at.loop.finish();
    };
    with_loop<Scalar, Precision>(plan, partial, sweep);
}

// Writes the plan's softmax_result of samples [first, last).
template <class Scalar, class Precision>
void softmax_sweep(const Plan& plan, index_t first, index_t last, Partial& partial) {
    const auto sweep = [&]<class Loop>(void* scratch) {
        struct Variables {
            Variables(const Plan& plan, void* scratch) : loop(plan, space, scratch) {}
            Workspace<Scalar, Precision> space;
            Loop loop;
        };
        Loop& loop = construct_in<Variables>(partial.memory, plan, scratch).loop;
        for_each_block(first, last, softmax_block(plan),
                       [&](index_t begin, index_t count) { loop.softmax(begin, count); });
        loop.finish();
    };
    with_loop<Scalar, Precision>(plan, partial, sweep);
}

// Holds what outlives a team's work on a row of samples [first, last), while the memory of the
// calling thread serves that work, too.
template <class Scalar, class Precision> struct SplitRows {
    SplitRows(const Plan& plan, void* memory)
        : by_class(plan, 1), block(plan), loop(plan, sums, maxima, memory) {}
    WeightsByClass by_class;
    SoftmaxBlock<Precision> block;
    ExpSum sums[max_chunks_held];
    Pivot maxima[max_chunks_held];
    SoftmaxSplitRow<Scalar, Precision> loop;
};

template <class Scalar, class Precision>
void cross_entropy_split_rows(const Plan& plan, index_t first, index_t last, Partial& partial) {
    const auto at = std::make_unique<SplitRows<Scalar, Precision>>(plan, partial.memory);
    for (index_t sample = first; sample < last; ++sample) {
        if (!at->block.begin(sample, 1, at->by_class, partial)) continue;
        at->loop.cross_entropy(at->block);
        at->block.finish(partial);
    }
}

template <class Scalar, class Precision>
void softmax_split_rows(const Plan& plan, index_t first, index_t last, Partial& partial) {
    const auto at = std::make_unique<SplitRows<Scalar, Precision>>(plan, partial.memory);
    for (index_t sample = first; sample < last; ++sample) at->loop.softmax(sample);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
