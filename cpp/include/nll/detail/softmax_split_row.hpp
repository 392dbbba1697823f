// SPDX-License-Identifier: BSD-3-Clause
// Rows that all threads work on, one row after the other: few rows of very many classes.
//
//     all threads:  sums of chunks;      then merged in the order of classes, as in a row
//     if out of range, all threads: maxima of chunks;      and the sums once more
//     one thread:   loss
//     all threads:  gradient, softmax or log_softmax, of chunks
#pragma once

#include "softmax_row.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

template <class Scalar, class Precision> class SoftmaxSplitRow {
    using Row = SoftmaxRow<Scalar, Precision>;
    using Space = Workspace<Scalar, Precision>;
    using ExpScale = typename Precision::ExpScale;

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
        Row row(plan_, construct_in<Space>(memory_));
        total_.begin(1);
        total_.pivot[0] = row.logit_at(from_, c);
        total_.pivot_chunk_of[0] = c / chunk_size;
        sum_up();
        exclude_pivot();
        total_.template take_losses<Scalar>(plan_, block, 0);
        if (!to_) return;
        ExpScale softmax_scale[lanes];
        Scalar entry;
        total_.take_scales(plan_, block, 0, softmax_scale, &entry);
        write({to_, softmax_scale[0], block.smoothing_scale[0], c, entry});
    }
    // Writes the plan's softmax_result of a sample.
    void softmax(index_t sample) {
        find(sample);
        total_.begin(1);
        sum_up();
        if (plan_.softmax_result == SoftmaxResult::softmax) {
            ExpScale softmax_scale[lanes];
            total_.take_softmax_scales(softmax_scale);
            return write({to_, softmax_scale[0]});
        }
        total_.set_pivot_to_max(
            0, [&] { return find_max(); },
            [&](index_t chunk) {
                return Row(plan_, construct_in<Space>(memory_)).sum_of_chunk(from_, chunk, shift_);
            });
        exclude_pivot();
        total_.take_logs(false);
        if (plan_.softmax_result == SoftmaxResult::log_sum_exp)
            return total_.template write_log_sums<Scalar>(plan_, sample);
        write({.to = to_, .from = from_, .log_sum = {total_.center[0], total_.log[0]}});
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

    void write(const typename Row::Result& result) {
        for_each_chunk([&](Row& row, index_t first, index_t classes) {
            const auto* exps =
                result.from ? nullptr : row.exps_of(from_, first, classes, shift_, nullptr);
            row.write(result, exps, first, classes);
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
    // Computes the sums of the row at hand.
    [[gnu::noinline]] void sum_up() {
        const auto sum = [&] {
            total_.clear();
            bool in_range = true;
            for_each_block(0, chunks(), max_chunks_held, [&](index_t begin, index_t count) {
                for_each_chunk(begin, count, [&](Row& row, index_t first, index_t classes) {
                    sums_[first / chunk_size - begin] =
                        row.sum_chunk(from_, first, classes, shift_, nullptr, NoBetween());
                });
                for (index_t chunk = 0; chunk < count; ++chunk)
                    in_range &= total_.add(0, begin + chunk, sums_[chunk]);
            });
            return in_range && Row::Shift::sum_in_range(total_.sum[0], plan_.classes);
        };
        sum_with_valid_shift(needs_max<Precision>(plan_), shift_, sum, [&] {
            return Row::shift_to(find_max().logit, is_smoothed<Precision>(plan_));
        });
        total_.shift.take(0, shift_, 0);
    }
    void exclude_pivot() {
        total_.exclude_pivots(nullptr, false, [&] {
            if constexpr (Precision::exact) return exclude_again();
            Row row(plan_, construct_in<Space>(memory_));
            row.exclude_again(from_, nullptr, 0, total_);
        });
    }

    // Adds up the row at hand again without its pivot.
    void exclude_again() {
        ExpSum others;
        for_each_block(0, chunks(), max_chunks_held, [&](index_t begin, index_t count) {
            for_each_chunk(begin, count, [&](Row& row, index_t first, index_t classes) {
                const auto chunk = row.compensated_others(from_, first, classes, shift_, nullptr,
                                                          total_.exp_pivot[0]);
                ExpSum& to = sums_[first / chunk_size - begin];
                to.sum = chunk.sum;
                to.error = chunk.error;
            });
            for (index_t chunk = 0; chunk < count; ++chunk)
                add_chunk(others.sum, others.error, sums_[chunk].sum, sums_[chunk].error);
        });
        total_.exclude_again(0, others);
    }

    const Plan& plan_;
    ExpSum* const sums_;
    Pivot* const maxima_;
    void* const memory_;
    const Scalar* from_ = nullptr;  // the row at hand, class 0
    Scalar* to_ = nullptr;
    typename Row::Shift shift_;
    SoftmaxSums<Precision> total_;
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
