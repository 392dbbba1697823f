// SPDX-License-Identifier: BSD-3-Clause
// Runs kernels over all samples of a call: in pieces, in threads where that pays, until a label is
// bad.
#pragma once

#include <utility>

#include "checks.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

#if defined(NLL_COMPILED)
// Returns the compiled library's, for this machine.
Kernel label_check();
#endif

inline namespace NLL_INSTRUCTION_SET {

#if !defined(NLL_COMPILED)
inline Kernel label_check() { return check_labels; }
#endif

// Says how work is cut: a kernel's block of samples, and what a sample costs in elements.
// takes_long: a block may take more than the few milliseconds of a piece.
struct Grain {
    index_t block, elements;
    bool takes_long = false;
};

// Tells whether blocks of a long call take long, too: they have more elements than a piece should
// have, or classes so far apart that one may be the first to touch a lot of memory.
inline bool takes_long(const Plan& plan, index_t block) {
    if (plan.samples.count * plan.classes <= max_unwatched_elements) return false;
    if (plan.classes > max_piece_elements / std::clamp(plan.samples.count, index_t{1}, block))
        return true;
    for (const Operand operand : {input, gradient}) {
        if (!plan.has(operand)) continue;
        const index_t apart = absolute(plan.class_stride[operand]);
        const index_t bytes = std::min(apart, page_bytes) * size_of(plan.dtype[operand]);
        if (plan.classes > max_block_span / std::clamp<index_t>(bytes, 1, page_bytes)) return true;
    }
    return false;
}

// Runs a kernel over [0, count) on so many threads, until a label is bad.
inline void run_until_bad(const Plan& plan, Kernel kernel, index_t count, Grain grain, int threads,
                          const Options& options, Partial& total) {
    if (count == 0) return;
    const index_t stoppable = max_piece_elements / std::max<index_t>(grain.elements, 1);
    const index_t fair = count / (threads * pieces_per_thread);
    const index_t blocks = std::min({fair, stoppable, max_piece_samples}) / grain.block;
    const index_t piece = std::max(blocks, index_t{1}) * grain.block;
    const auto reduce = [&](const Plan& some, std::atomic<bool>* abandon) {
        parallel::reduce(
            total, count, piece, threads, options.interrupt,
            [&](index_t first, index_t last, Partial& part) {
                kernel(some, first, last, part);
                return part.bad_sample < 0;
            },
            [](Partial& sum, const Partial& part) { merge(sum, part); }, abandon);
    };
    if (!grain.takes_long || !options.interrupt) return reduce(plan, nullptr);
    std::atomic<bool> abandon{false};
    Plan stoppable_plan = plan;
    stoppable_plan.abandon = &abandon;
    reduce(stoppable_plan, &abandon);
}

// Throws for the lowest bad label. The walk, which ended at some bad one, need not have been in C
// order: target is looked through once more, in that order, to the first.
[[noreturn]] inline void throw_lowest_bad_label(const Plan& plan, const Partial& known,
                                                const Array& target_array, const Options& options) {
    Array c_order = target_array;
    index_t stride = 1;
    for (int a = c_order.rank - 1; a >= 0; --a)
        c_order.strides[a] = std::exchange(stride, stride * c_order.shape[a]);
    Plan scan = plan;
    scan.weight = {};
    scan.data[sample_weight] = nullptr;
    scan.samples = samples_of({nullptr, &target_array, &c_order, nullptr, nullptr}, 0, losses);
    Partial found;
    run_until_bad(scan, label_check(), scan.samples.count, {block_size, 1}, 1, options, found);
    if (found.bad_sample >= 0) throw_bad_label(scan, found);
    throw_bad_label(plan, known);  // another thread has mended the lowest since
}

// Throws for the first of the samples' own weights that no double is: see check_sample_weights.
inline void require_sample_weights(const Plan& plan, const Array& target_array,
                                   const Options& options) {
    const DType dtype = plan.dtype[sample_weight];
    if (!plan.has(sample_weight) || (dtype != DType::int64 && dtype != DType::uint64)) return;
    const index_t count = plan.samples.count;
    const int threads = count < min_parallel_samples ? 1 : parallel::limit(options.num_threads);
    Partial found;
    run_until_bad(plan, check_sample_weights, count, {block_size, 1}, threads, options, found);
    if (found.bad_position == Partial().bad_position) return;
    std::array<index_t, max_rank> coordinate;
    for (int a = target_array.rank - 1; a >= 0; --a) {
        coordinate[a] = found.bad_position % target_array.shape[a];
        found.bad_position /= target_array.shape[a];
    }
    throw_beyond_doubles("sample_weight", coordinate.data(), target_array.rank, found.bad_label,
                         dtype);
}

// Runs a kernel over all samples; on one thread unless it `pays`.
inline Partial run(const Plan& plan, Kernel kernel, Grain grain, bool pays,
                   const Array& target_array, const Options& options) {
    Partial total;
    const int threads = pays ? parallel::limit(options.num_threads) : 1;
    run_until_bad(plan, kernel, plan.samples.count, grain, threads, options, total);
    if (total.bad_sample >= 0) throw_lowest_bad_label(plan, total, target_array, options);
    return total;
}

// Runs a kernel that reads labels, and at most one element of each sample.
inline Partial run_samples(const Plan& plan, Kernel kernel, const Array& target_array,
                           const Options& options) {
    const index_t least = plan.on_own_pages() ? min_parallel_pages : min_parallel_samples;
    const bool pays = plan.samples.count >= least;
    return run(plan, kernel, {block_size, 1}, pays, target_array, options);
}

// Runs a kernel that reads or writes all classes of each sample.
inline Partial run_elements(const Plan& plan, Kernel kernel, index_t block, index_t min_parallel,
                            const Array& target_array, const Options& options) {
    const bool pays = plan.samples.count * std::max<index_t>(plan.classes, 1) >= min_parallel;
    const Grain grain{block, plan.classes, takes_long(plan, block)};
    return run(plan, kernel, grain, pays, target_array, options);
}

// Runs parts of a row on all threads of a call.
class ThreadTeam final : public Team {
public:
    ThreadTeam(int threads, bool (*interrupt)())
        : threads_(threads), interrupt_(interrupt), interruptible_(interrupt) {}
    // Throws Interrupted if a signal asks to stop. It is asked between runs, too, which may be many
    // and short.
    void run(index_t count, void* context, Work* work) override {
        interruptible_.ask();
        struct Nothing {
            void* memory = nullptr;
        } nothing;
        const index_t most = max_piece_elements / chunk_size;
        const index_t piece = std::clamp<index_t>(count / (threads_ * pieces_per_thread), 1, most);
        parallel::reduce(
            nothing, count, piece, threads_, interrupt_,
            [&](index_t first, index_t last, Nothing& part) {
                work(context, part.memory, first, last);
                return true;
            },
            [](Nothing&, const Nothing&) {});
    }

private:
    int threads_;
    bool (*interrupt_)();
    parallel::Interruptible interruptible_;
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
