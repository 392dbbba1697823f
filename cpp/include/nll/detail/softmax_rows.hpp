// SPDX-License-Identifier: BSD-3-Clause
// The loops over rows: many classes of one sample side by side, a chunk at a time.
//
//     for each row:
//         sum = Σ over chunks of e^(x - shift), unshifted; if out of range, again from the maximum
//         take the pivot out of the sum
//         loss; then the gradient from the exponentials that were kept, or from new ones
//
// A kept row's gradient is written a part at a time between the exponentials of the next row, since
// stores wait for memory while those wait for arithmetic. tests/cpp/reference.hpp has the order.
#pragma once

#include "softmax_row.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

template <class Scalar, class Precision> class SoftmaxRows {
    using Row = SoftmaxRow<Scalar, Precision>;
    using Exp = typename Precision::Exp;

public:
    // kept: memory for the exponentials of a row, (paired(classes),), or nullptr.
    SoftmaxRows(const Plan& plan, Workspace<Scalar, Precision>& space, void* kept)
        : plan_(plan), row_(plan, space), kept_(static_cast<Exp*>(kept)) {}

    // Computes the losses of a block and writes the gradient, if the plan has one.
    void cross_entropy(SoftmaxBlock<Precision>& block) {
        for_each_row(block.first, block.count, [&](index_t i, const Scalar* from, Scalar* to) {
            const index_t c = block.classes[i];
            if (c == ignored) {
                block.losses[i] = 0;
                if (to)
                    for_each_chunk([&](index_t first, index_t classes) {
                        row_.write_zeros(to, first, classes);
                    });
                return;
            }
            ExpSum sum = sum_of(from, c / chunk_size);
            const Pivot pivot = row_.pivot_at(from, c);  // now it is in a cache
            row_.exclude_pivot(from, shift_, pivot, kept_, sum);
            block.losses[i] = row_.loss_of(sum, pivot, shift_, block.class_weight(i));
            if (!to) return;
            write_or_defer(from, row_.gradient_of(to, sum, block, i));
        });
    }
    // Writes the plan's softmax_result of samples [begin, begin + count), at most block_size.
    void softmax(index_t begin, index_t count) {
        double log_sums[block_size];
        for_each_row(begin, count, [&](index_t i, const Scalar* from, Scalar* to) {
            Pivot max;
            ExpSum sum = sum_and_max_of(from, max);
            row_.exclude_pivot(from, shift_, max, kept_, sum);
            if (plan_.softmax_result == SoftmaxResult::softmax)
                return write_or_defer(from, Row::softmax_of(to, sum));
            const LogSumExp log_sum = Row::log_sum_of(sum, max, shift_);
            log_sums[i] = row_.log_sum_of_logits(from, log_sum);
            if (!to) return;
            for_each_chunk([&](index_t first, index_t classes) {
                row_.write_log_softmax(from, to, first, classes, log_sum);
            });
        });
        if (plan_.has(losses)) write_losses(plan_, begin, count, log_sums);
    }
    // Writes what is left of the last gradient.
    void finish() {
        write_deferred(plan_.classes);
        row_.finish();
    }

private:
    template <class Visit> void for_each_row(index_t begin, index_t count, Visit&& visit) const {
        const Samples& samples = plan_.samples;
        samples.for_each_run(begin, count, [&](const Samples::Run& run) {
            for (index_t i = 0; i < run.length; ++i) {
                Scalar* to = plan_.pointer<Scalar>(gradient);
                if (to) to += run.offset[gradient] + i * samples.stride(gradient);
                const Scalar* from = plan_.pointer<const Scalar>(input) + run.offset[input];
                visit(run.begin + i, from + i * samples.stride(input), to);
            }
        });
    }
    template <class Visit> void for_each_chunk(Visit&& visit) const {
        for_each_block(0, plan_.classes, chunk_size, visit);
    }

    // Returns the sums of all chunks, and the largest logit as the pivot.
    ExpSum sum_and_max_of(const Scalar* from, Pivot& max) {
        const auto sum = [&] {
            ExpSum all;
            max = {-infinity, 0};
            for_each_chunk([&](index_t first, index_t classes) {
                Exp* kept = kept_ ? kept_ + first : nullptr;
                const ExpSum chunk =
                    row_.sum_chunk(from, first, classes, shift_, kept, WriteDeferred{*this});
                const Pivot of_chunk = row_.find_max(from, first, first + classes);
                const bool larger = of_chunk.logit > max.logit;
                if (larger) max = of_chunk;
                add_chunk(all, chunk, larger);
            });
            return all;
        };
        return sum_with_valid_shift<Precision>(plan_.classes, shift_, sum, [&] {
            return Row::shift_to(row_.find_max(from, 0, plan_.classes).logit);
        });
    }

    // Writes a gradient, or softmax, from the exponentials that were kept, with the next row, or
    // now from new ones.
    void write_or_defer(const Scalar* from, const typename Row::Gradient& gradient) {
        if (kept_) return defer(gradient);
        for_each_chunk([&](index_t first, index_t classes) {
            const Exp* exps = row_.exps_of(from, first, classes, shift_, nullptr);
            row_.write_gradient(gradient, exps, first, classes);
        });
    }

    // Writes the deferred gradient up to a class before the exponentials take its place.
    struct WriteDeferred {
        SoftmaxRows& rows;
        index_t step() const {
            return rows.written_ < rows.plan_.classes ? deferred_row_step : chunk_size;
        }
        void operator()(index_t end) const { rows.write_deferred(end); }
    };

    // Returns the sums of all chunks, and in pivot_chunk that of the chunk that has the pivot.
    ExpSum sum_of(const Scalar* from, index_t chunk_of_pivot) {
        const auto sum = [&] {
            ExpSum all;
            for_each_chunk([&](index_t first, index_t classes) {
                Exp* kept = kept_ ? kept_ + first : nullptr;
                const ExpSum chunk =
                    row_.sum_chunk(from, first, classes, shift_, kept, WriteDeferred{*this});
                add_chunk(all, chunk, first / chunk_size == chunk_of_pivot);
            });
            return all;
        };
        return sum_with_valid_shift<Precision>(plan_.classes, shift_, sum, [&] {
            return Row::shift_to(row_.find_max(from, 0, plan_.classes).logit);
        });
    }

    void defer(const typename Row::Gradient& gradient) {
        write_deferred(plan_.classes);
        deferred_ = gradient;
        written_ = 0;
    }
    // Writes the deferred gradient up to class `end` at least, in whole cache lines.
    void write_deferred(index_t end) {
        constexpr index_t line = cache_line / index_t{sizeof(Scalar)};
        const auto place =
            static_cast<index_t>(reinterpret_cast<std::uintptr_t>(deferred_.to) / sizeof(Scalar));
        while (written_ < std::min(end, plan_.classes)) {
            index_t last = std::min(end, written_ + chunk_size / 2);
            last = std::min(last + line - (place + last) % line, plan_.classes);
            row_.write_gradient(deferred_, kept_ + written_, written_, last - written_);
            written_ = last;
        }
    }

    const Plan& plan_;
    Row row_;
    Exp* const kept_;
    typename Row::Shift shift_;  // of the last row; the next may do with it
    typename Row::Gradient deferred_;
    index_t written_ = plan_.classes;  // of the deferred gradient
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
