// SPDX-License-Identifier: BSD-3-Clause
// Rows that all threads work on, one row after the other: few rows of very many classes.
//
//     all threads:  sums of chunks;      then merged in the order of classes, as in a row
//     if out of range, all threads: maxima of chunks;      and the sums once more
//     one thread:   loss
//     all threads:  gradient, or log_softmax, of chunks
#pragma once

#include <memory>

#include "softmax_row.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

template <class Scalar, class Precision> class SoftmaxSplitRow {
    using Row = SoftmaxRow<Scalar, Precision>;
    using Space = Workspace<Scalar, Precision>;

public:
    // sums, maxima: (max_chunks_held,), for a round of chunks. memory: of the calling thread; it
    // serves between rounds.
    SoftmaxSplitRow(const Plan& plan, ExpSum* sums, Pivot* maxima, void* memory)
        : plan_(plan), sums_(sums), maxima_(maxima), memory_(memory) {}

    // Computes the loss of a block of one sample, and writes the gradient, if the plan has one.
    void cross_entropy(SoftmaxBlock<Precision>& block) {
        find(block.first);
        const index_t c = block.classes[0];
        block.losses[0] = 0;
        if (c == ignored) {
            if (to_)
                for_each_chunk([&](Row& row, index_t first, index_t classes) {
                    row.write_zeros(to_, first, classes);
                });
            return;
        }
        ExpSum sum = sum_of(c / chunk_size);
        Row row(plan_, construct_in<Space>(memory_));
        const Pivot pivot = row.pivot_at(from_, c);
        row.exclude_pivot(from_, shift_, pivot, nullptr, sum);
        block.losses[0] = row.loss_of(sum, pivot, shift_, block.class_weight(0));
        if (!to_) return;
        write_gradient(row.gradient_of(to_, sum, block, 0));
    }
    // Writes the plan's softmax_result of a sample.
    void softmax(index_t sample) {
        find(sample);
        const Pivot max = find_max();
        ExpSum sum = sum_of(max.chunk);
        Row of_caller(plan_, construct_in<Space>(memory_));
        of_caller.exclude_pivot(from_, shift_, max, nullptr, sum);
        const LogSumExp log_sum = Row::log_sum_of(sum, max, shift_);
        if (plan_.softmax_result == SoftmaxResult::log_sum_exp) {
            const double log_sum_exp = of_caller.log_sum_of_logits(from_, log_sum);
            write_losses(plan_, sample, 1, &log_sum_exp);
        } else if (plan_.softmax_result == SoftmaxResult::softmax) {
            write_gradient(Row::softmax_of(to_, sum));
        } else {
            for_each_chunk([&](Row& row, index_t first, index_t classes) {
                row.write_log_softmax(from_, to_, first, classes, log_sum);
            });
        }
    }

private:
    void find(index_t sample) {
        plan_.samples.for_each_run(sample, 1, [&](const Samples::Run& run) {
            from_ = plan_.pointer<const Scalar>(input) + run.offset[input];
            to_ = plan_.pointer<Scalar>(gradient);
            if (to_) to_ += run.offset[gradient];
        });
    }
    index_t chunks() const { return (plan_.classes + chunk_size - 1) / chunk_size; }

    // Calls visit(row, first, classes) for chunks [begin, begin + count) on all threads.
    template <class Visit> void for_each_chunk(index_t begin, index_t count, const Visit& visit) {
        struct Context {
            const Plan& plan;
            const Visit& visit;
            index_t begin;
        } context{plan_, visit, begin};
        plan_.team->run(
            count, &context, [](void* opaque, void* memory, index_t first, index_t last) {
                const Context& at = *static_cast<Context*>(opaque);
                Row row(at.plan, construct_in<Space>(memory));
                const index_t end = std::min((at.begin + last) * chunk_size, at.plan.classes);
                for_each_block((at.begin + first) * chunk_size, end, chunk_size,
                               [&](index_t c, index_t classes) { at.visit(row, c, classes); });
                row.finish();
            });
    }
    template <class Visit> void for_each_chunk(const Visit& visit) {
        for_each_chunk(0, chunks(), visit);
    }

    void write_gradient(const typename Row::Gradient& gradient) {
        for_each_chunk([&](Row& row, index_t first, index_t classes) {
            const auto* exps = row.exps_of(from_, first, classes, shift_, nullptr);
            row.write_gradient(gradient, exps, first, classes);
        });
    }

    Pivot find_max() {
        Pivot max{-infinity, 0};
        for_each_block(0, chunks(), max_chunks_held, [&](index_t begin, index_t count) {
            for_each_chunk(begin, count, [&](Row& row, index_t first, index_t classes) {
                maxima_[first / chunk_size - begin] = row.find_max(from_, first, first + classes);
            });
            for (index_t chunk = 0; chunk < count; ++chunk)
                if (maxima_[chunk].logit > max.logit) max = maxima_[chunk];
        });
        return max;
    }
    ExpSum sum_of(index_t chunk_of_pivot) {
        const auto sum = [&] {
            ExpSum all;
            for_each_block(0, chunks(), max_chunks_held, [&](index_t begin, index_t count) {
                for_each_chunk(begin, count, [&](Row& row, index_t first, index_t classes) {
                    sums_[first / chunk_size - begin] =
                        row.sum_chunk(from_, first, classes, shift_, nullptr, NoBetween());
                });
                for (index_t chunk = 0; chunk < count; ++chunk)
                    add_chunk(all, sums_[chunk], begin + chunk == chunk_of_pivot);
            });
            return all;
        };
        return sum_with_valid_shift<Precision>(plan_.classes, shift_, sum,
                                               [&] { return Row::shift_to(find_max().logit); });
    }

    const Plan& plan_;
    ExpSum* const sums_;
    Pivot* const maxima_;
    void* const memory_;
    const Scalar* from_ = nullptr;  // the row at hand, class 0
    Scalar* to_ = nullptr;
    typename Row::Shift shift_;
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
