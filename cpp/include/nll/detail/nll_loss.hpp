// SPDX-License-Identifier: BSD-3-Clause
// The negative log likelihood, -weight[t]·input[t]: its losses, its gradient, or both in one sweep.
//
//     for each block of 512 samples:
//         classes = labels of the next block                (their memory is asked for meanwhile)
//         losses  = -input[t], gathered; weights = weight[t]
//         write losses·weights, or add them exactly
//         gradient: one entry a sample, written past the caches between the gathers
#pragma once

#include "one_hot_writer.hpp"
#include "simd/transpose.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Holds a block of samples whose labels are loaded. classes: (known,), those of the block and of
// samples after it.
template <class Scalar> struct LossBlock {
    index_t first, count, known;
    const index_t* classes;
    bool all_kept;  // of all that are known
    alignas(cache_line) Scalar gathered[block_size];
    alignas(cache_line) Real<Scalar> losses[block_size];
    alignas(cache_line) double weights[block_size];  // if the plan has some
};

// Gathers a block's losses without weights, -input[t] of kept samples and 0 of others, and its
// weights. Losses are summed later: stores of sums between the loads would keep the processor from
// having many loads under way. pump(count) is called after every `step` samples: stores that pass
// the caches by cost little between loads that wait for memory.
template <class Scalar, class Pump>
void gather_losses(const Plan& plan, const WeightsByClass& by_class, LossBlock<Scalar>& block,
                   index_t step, Pump&& pump) {
    static constexpr Scalar zero{};
    const index_t class_stride = plan.class_stride[input], stride = plan.samples.stride(input);
    // Every line of a short row will be wanted soon, whichever class is.
    const bool short_rows = class_stride == 1 && bytes_of<Scalar>(absolute(stride)) <= cache_line;
    const bool own_pages = plan.on_own_pages();
    const index_t far_ahead = short_rows ? block_size / 2 : block.count;
    const double* const table = by_class.table();
    plan.samples.for_each_run(block.first, block.count, [&](const Samples::Run& run) {
        const Scalar* sample = plan.pointer<const Scalar>(input) + run.offset[input];
        const index_t* of = block.classes + run.begin;
        Scalar* to = block.gathered + run.begin;
        double* weights = block.weights + run.begin;
        // Prefetches go on as if the run did not end; it mostly does not.
        const index_t prefetched =
            std::clamp<index_t>(block.known - run.begin - far_ahead, 0, run.length);
        const auto gather = [&](auto is_kept, auto class_step, auto weighs) {
            const auto address = [&](index_t i) {
                return is_kept(of[i]) ? sample + i * stride + of[i] * class_step : &zero;
            };
            const auto load = [&](index_t i) {
                to[i] = *address(i);
                if constexpr (weighs) weights[i] = table[of[i]];
            };
            for_each_block(0, run.length, step, [&](index_t begin, index_t count) {
                const index_t end = begin + count, middle = std::clamp(prefetched, begin, end);
                for (index_t i = begin; i < middle; ++i) {
                    const index_t far = i + far_ahead, near = i + gather_ahead;
                    if (!own_pages) prefetch_far(short_rows ? sample + far * stride : address(far));
                    prefetch(short_rows ? sample + near * stride : address(near));
                    load(i);
                }
                for (index_t i = middle; i < end; ++i) load(i);
                pump(count);
            });
        };
        const auto choose_kept = [&](auto class_step, auto weighs) {
            if (block.all_kept)
                gather([](index_t) { return std::true_type(); }, class_step, weighs);
            else gather([](index_t c) { return c != ignored; }, class_step, weighs);
        };
        const auto choose_weights = [&](auto class_step) {
            if (table) choose_kept(class_step, std::true_type());
            else choose_kept(class_step, std::false_type());
        };
        if (class_stride == 1) choose_weights(std::integral_constant<index_t, 1>());
        else choose_weights(class_stride);
    });
    if (plan.weighs() && !table) by_class.load(block.classes, block.count, block.weights);
    multiply_sample_weights(plan, block.first, block.count, block.classes, block.weights);
    for (index_t i = 0; i < block.count; ++i) block.losses[i] = -to_real(block.gathered[i]);
}

// Loads labels one block ahead of the sweep, so that a gather knows what to ask for.
class LabelsAhead {
public:
    // Loads the first of [first, last) blocks of `size` samples.
    LabelsAhead(const Plan& plan, index_t first, index_t last, index_t size, Partial& partial)
        : plan_(plan), partial_(partial), last_(last), size_(size), next_(first) {
        load_next();
    }
    // Steps to the next block and loads the one after it. Returns how many of its samples are
    // kept, or -1 if a label is bad.
    index_t step() {
        classes_ += count_;
        const index_t kept = next_kept_;
        count_ = next_count_;
        if (classes_ + count_ + block_size > std::end(room_)) {
            std::copy_n(classes_, count_, room_);
            classes_ = room_;
        }
        load_next();
        return kept;
    }
    const index_t* classes() const { return classes_; }  // (known(),)
    index_t known() const { return count_ + (next_kept_ >= 0 ? next_count_ : 0); }
    bool next_all_kept() const { return next_kept_ == next_count_; }

private:
    void load_next() {
        next_count_ = std::min(size_, last_ - next_);
        next_kept_ = next_count_ > 0
                         ? load_classes(plan_, next_, next_count_, classes_ + count_, partial_)
                         : 0;
        next_ += next_count_;
    }
    const Plan& plan_;
    Partial& partial_;
    const index_t last_, size_;
    index_t next_, count_ = 0, next_count_ = 0, next_kept_ = 0;
    alignas(cache_line) index_t room_[4 * block_size];
    index_t* classes_ = room_;
};

// Adds or writes the losses of samples [first, last), if the plan has an input, and writes their
// gradient, if it has one. Memory that is read and memory that is written are two ways: both in one
// sweep use them at once.
template <class Scalar>
void nll_loss_sweep(const Plan& plan, index_t first, index_t last, Partial& partial) {
    struct Variables {
        Variables(const Plan& plan, index_t first, index_t last, Partial& partial)
            : writer(plan),
              by_class(plan, last - first),
              part(plan.has(gradient) ? writer.block() : block_size),
              labels(plan, first, last, block_size / part * part, partial) {}
        OneHotWriter<Scalar> writer;
        WeightsByClass by_class;
        index_t part;
        LabelsAhead labels;
        LossBlock<Scalar> block;
    };
    auto& at = construct_in<Variables>(partial.memory, plan, first, last, partial);
    LossBlock<Scalar>& block = at.block;
    OneHotWriter<Scalar>& writer = at.writer;
    const bool writes = plan.has(gradient);
    for_each_block(first, last, block_size / at.part * at.part, [&](index_t begin, index_t count) {
        const index_t kept = at.labels.step();
        if (kept < 0) return;
        partial.count += kept;
        block.first = begin;
        block.count = count;
        block.known = at.labels.known();
        block.classes = at.labels.classes();
        block.all_kept = kept == count && at.labels.next_all_kept();
        if (plan.has(input)) {
            gather_losses(plan, at.by_class, block, writer.pending() ? gather_step : block_size,
                          [&](index_t samples) { writer.pump(samples); });
            BlockRange<double> range;
            if (plan.weighs()) range = add_weights(block.weights, count, partial);
            const double* const weights = plan.weighs() ? block.weights : nullptr;
            take_losses<Scalar, Real<Scalar>>(
                plan, {begin, count, block.classes, block.losses, weights, weights, range},
                partial);
        } else if (plan.weighs()) {
            at.by_class.load(block.classes, count, block.weights);
            multiply_sample_weights(plan, begin, count, block.classes, block.weights);
        }
        if (writes)
            for_each_block(0, count, at.part, [&](index_t first_of_part, index_t samples) {
                writer.write(begin + first_of_part, samples, block.classes + first_of_part,
                             block.weights + first_of_part);
            });
    });
    writer.finish();
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
