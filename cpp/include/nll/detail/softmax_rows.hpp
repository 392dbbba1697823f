// SPDX-License-Identifier: BSD-3-Clause
// The loops over rows: many classes of one sample side by side, a chunk at a time.
//
//     for each group of rows of a block:
//         for each row:
//             sum = Σ over chunks of e^(x - shift), unshifted; if out of range, again from the
//             maximum
//         take the pivots out of the sums; losses; what the results are made of
//
// Rows of a group differ in nothing from rows alone: what is computed once a row is a long chain of
// dependent operations, of which a group takes many at a time. Results are written with the next
// group, a part at a time between its exponentials, since stores wait for memory while those wait
// for arithmetic: from exponentials that were kept, or from logits. Else they are written at once,
// from new exponentials. tests/cpp/reference.hpp has the order.
#pragma once

#include "softmax_row.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

template <class Scalar, class Precision> class SoftmaxRows {
    using Row = SoftmaxRow<Scalar, Precision>;
    using Exp = typename Precision::Exp;
    using ExpScale = typename Precision::ExpScale;

public:
    // Returns the rows of a group. What waits to be written stays in the first cache.
    static index_t group_of(const Plan& plan) {
        if (!plan.has(gradient)) return max_tile_samples;
        return std::clamp<index_t>(chunk_size / plan.classes, 1, max_deferred_rows);
    }
    // Returns the bytes of memory for the exponentials of a group, or 0 if they are not kept.
    static index_t kept_bytes(const Plan& plan) {
        const bool keeps = plan.has(gradient) && plan.classes <= max_kept_classes &&
                           plan.softmax_result != SoftmaxResult::log_softmax;
        return keeps ? bytes_of<Exp>(group_of(plan) * paired(plan.classes)) : 0;
    }
    // kept: memory of kept_bytes, or nullptr.
    SoftmaxRows(const Plan& plan, Workspace<Scalar, Precision>& space, void* kept)
        : plan_(plan), group_(group_of(plan)), row_(plan, space), kept_(static_cast<Exp*>(kept)) {
        std::fill_n(written_, max_deferred_rows, plan.classes);
    }

    // Computes the losses of a block and writes the gradient, if the plan has one.
    void cross_entropy(SoftmaxBlock<Precision>& block) {
        for_each_group(block.first, block.count, [&](index_t first) {
            const index_t* targets = block.classes + first;
            for (index_t i = 0; i < sums_.count; ++i) {
                if (targets[i] == ignored) continue;
                sums_.pivot_chunk_of[i] = targets[i] / chunk_size;
                sum_row(i);
                sums_.pivot[i] = row_.logit_at(from_[i], targets[i]);  // now it is in a cache
            }
            exclude_pivots(targets, block.ignores);
            sums_.template take_losses<Scalar>(plan_, block, first);
            if (!plan_.has(gradient)) return;
            alignas(cache_line) ExpScale softmax_scale[max_tile_samples];
            alignas(cache_line) Scalar entry[max_tile_samples];
            sums_.take_scales(plan_, block, first, softmax_scale, entry);
            for (index_t i = 0; i < sums_.count; ++i) {
                if (targets[i] == ignored) write_zeros(i);
                else
                    write_or_defer(i, {to_[i], softmax_scale[i], block.smoothing_scale[first + i],
                                       targets[i], entry[i]});
            }
        });
    }
    // Writes the plan's softmax_result of samples [begin, begin + count), at most block_size.
    void softmax(index_t begin, index_t count) {
        for_each_group(begin, count, [&](index_t first) {
            if (plan_.softmax_result == SoftmaxResult::softmax) {
                for (index_t i = 0; i < sums_.count; ++i) sum_row(i);
                alignas(cache_line) ExpScale softmax_scale[max_tile_samples];
                sums_.take_softmax_scales(softmax_scale);
                for (index_t i = 0; i < sums_.count; ++i)
                    write_or_defer(i, {to_[i], softmax_scale[i]});
                return;
            }
            for (index_t i = 0; i < sums_.count; ++i) {
                sum_row(i);
                sums_.set_pivot_to_max(
                    i, [&] { return row_.find_max(from_[i], 0, plan_.classes); },
                    [&](index_t chunk) {
                        return plan_.classes <= chunk_size
                                   ? sums_.sum[i]
                                   : row_.sum_of_chunk(from_[i], chunk, shift_);
                    });
            }
            exclude_pivots(nullptr, false);
            sums_.take_logs(false);
            if (plan_.softmax_result == SoftmaxResult::log_sum_exp)
                return sums_.template write_log_sums<Scalar>(plan_, begin + first);
            for (index_t i = 0; i < sums_.count; ++i)
                write_or_defer(
                    i,
                    {.to = to_[i], .from = from_[i], .log_sum = {sums_.center[i], sums_.log[i]}});
        });
    }
    // Writes what is left of the last group.
    void finish() {
        for (index_t i = 0; i < group_ && i < max_deferred_rows; ++i)
            write_deferred(i, plan_.classes);
        row_.finish();
    }

private:
    // Calls visit(first) for groups of a block's rows, which are then the ones at hand.
    template <class Visit> void for_each_group(index_t begin, index_t samples, Visit&& visit) {
        const Samples& all = plan_.samples;
        for_each_block(0, samples, group_, [&](index_t first, index_t count) {
            sums_.begin(count);
            sums_.clear();
            all.for_each_run(begin + first, count, [&](const Samples::Run& run) {
                for (index_t i = 0; i < run.length; ++i) {
                    from_[run.begin + i] = plan_.pointer<const Scalar>(input) + run.offset[input] +
                                           i * all.stride(input);
                    if (plan_.has(gradient))
                        to_[run.begin + i] = plan_.pointer<Scalar>(gradient) +
                                             run.offset[gradient] + i * all.stride(gradient);
                }
            });
            visit(first);
        });
    }
    template <class Visit> void for_each_chunk(Visit&& visit) const {
        for_each_block(0, plan_.classes, chunk_size, visit);
    }

    // ------------------------------------------------------------ sums

    // Returns where the exponentials of row i of a group are kept, or nullptr.
    Exp* kept(index_t i) const { return kept_ ? kept_ + i * paired(plan_.classes) : nullptr; }

    // Sums row i of the group.
    [[gnu::noinline]] void sum_row(index_t i) {
        const WriteDeferred between{*this, std::min(i, max_deferred_rows - 1)};
        const auto sum = [&] {
            sums_.clear(i);
            bool in_range = true;
            for_each_chunk([&](index_t first, index_t classes) {
                Exp* const exps = kept_ ? kept(i) + first : nullptr;
                const ExpSum chunk =
                    row_.sum_chunk(from_[i], first, classes, shift_, exps, between);
                in_range &= sums_.add(i, first / chunk_size, chunk);
            });
            return in_range && Row::Shift::sum_in_range(sums_.sum[i], plan_.classes);
        };
        sum_with_valid_shift(needs_max<Precision>(plan_), shift_, sum, [&] {
            return Row::shift_to(row_.find_max(from_[i], 0, plan_.classes).logit,
                                 is_smoothed<Precision>(plan_));
        });
        sums_.shift.take(i, shift_, 0);
    }
    void exclude_pivots(const index_t* targets, bool ignores) {
        sums_.exclude_pivots(targets, ignores, [&] {
            for (index_t i = 0; i < sums_.count; ++i) {
                if (!sums_.dominates(i) || (targets && targets[i] == ignored)) continue;
                row_.exclude_again(from_[i], kept(i), i, sums_);
            }
        });
    }

    // ------------------------------------------------------------ results

    void write_zeros(index_t i) {
        for_each_chunk(
            [&](index_t first, index_t classes) { row_.write_zeros(to_[i], first, classes); });
    }
    // Writes a row of results with the next group, or now.
    [[gnu::noinline]] void write_or_defer(index_t i, const typename Row::Result& result) {
        if (result.from ? plan_.class_stride[input] == 1 : kept_ != nullptr) {
            write_deferred(i, plan_.classes);
            deferred_[i] = result;
            written_[i] = 0;
            return;
        }
        for_each_chunk([&](index_t first, index_t classes) {
            const Exp* exps =
                result.from ? nullptr
                            : row_.exps_of(from_[i], first, classes, sums_.shift_of(i), nullptr);
            row_.write(result, exps, first, classes);
        });
    }
    // Writes deferred row i up to a class before the exponentials of another take its place: by
    // small parts where its stores wait for memory.
    struct WriteDeferred {
        SoftmaxRows& rows;
        index_t i;
        index_t step() const {
            const bool waits =
                rows.plan_.store != Store::cached && rows.written_[i] < rows.plan_.classes;
            return waits ? deferred_row_step : chunk_size;
        }
        void operator()(index_t end) const { rows.write_deferred(i, end); }
    };
    // Writes deferred row i up to class `end` at least, in whole cache lines.
    [[gnu::noinline]] void write_deferred(index_t i, index_t end) {
        constexpr index_t line = cache_line / index_t{sizeof(Scalar)};
        const typename Row::Result& row = deferred_[i];
        const auto place =
            static_cast<index_t>(reinterpret_cast<std::uintptr_t>(row.to) / sizeof(Scalar));
        index_t& written = written_[i];
        while (written < std::min(end, plan_.classes)) {
            index_t last = std::min(end, written + chunk_size / 2);
            last = std::min(last + line - (place + last) % line, plan_.classes);
            row_.write(row, kept_ ? kept(i) + written : nullptr, written, last - written);
            written = last;
        }
    }

    const Plan& plan_;
    const index_t group_;
    Row row_;
    Exp* const kept_;
    typename Row::Shift shift_;  // of the last row; the next may do with it
    SoftmaxSums<Precision> sums_;
    const Scalar* from_[max_tile_samples];  // the rows of the group
    Scalar* to_[max_tile_samples];
    typename Row::Result deferred_[max_deferred_rows];
    index_t written_[max_deferred_rows];  // classes of each
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
