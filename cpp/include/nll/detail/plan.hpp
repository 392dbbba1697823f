// SPDX-License-Identifier: BSD-3-Clause
// One call, type-erased: what the kernels read, what they write, and what they find.
#pragma once

#include <atomic>
#include <new>
#include <type_traits>
#include <utility>

#include "exact_sum.hpp"
#include "heap.hpp"
#include "samples.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

// Says how a gradient is written: plainly, if the caches hold it; past them; or, where its memory
// is zeros on pages that nobody has touched, only its entries that are not zero.
enum class Store : std::uint8_t { cached, streamed, entries_only };

// Runs work(context, memory, first, last) for parts of [0, count) on all threads of a call, with
// the memory of the thread. Throws Interrupted if a signal asks to stop.
struct Team {
    using Work = void(void* context, void* memory, index_t first, index_t last);
    virtual void run(index_t count, void* context, Work* work) = 0;

protected:
    ~Team() = default;
};

// Notes of each sample what sums by group need, in the order of a plan's samples.
struct Record {
    double* values;   // (count,), losses without weights, or smoothed ones with them
    double* weights;  // (count,), or nullptr: every weight is 1
    index_t* groups;  // (count,); where the sample is ignored ~group, or -1 if by_class
    bool by_class;    // groups are to become the samples' classes
};

class KernelsByFactor;

struct Plan {
    Samples samples;
    index_t classes;
    std::array<void*, operands> data{};
    std::array<DType, operands> dtype{};
    std::array<index_t, operands> class_stride{};
    Weight weight;
    IgnoreIndex ignore_index;
    index_t index_base;

    // The gradient at a kept target is -(w·grad_output)/divisor; for Reduction::none each sample's
    // grad_output is in its operand.
    double grad_output = 1.0;
    double divisor = 1.0;
    bool zero_gradient = false;
    Store store = Store::cached;

    double label_smoothing;
    // For label smoothing: Σ of the finite weight[c], rounded once, and Σ of those that are not.
    double class_weight_sum = 0, infinite_weight = 0;
    // For label smoothing: the class weights, (C,), and these with next to 0 for those that are not
    // finite; nullptr without weights.
    const double *class_weights = nullptr, *finite_weights = nullptr;
    // Names what a call without labels computes. Losses keep exponentials as softmax does.
    SoftmaxResult softmax_result = SoftmaxResult::softmax;
    Team* team = nullptr;                        // of a row that all threads share
    const KernelsByFactor* by_factor = nullptr;  // where samples need different precisions
    // Points at what is set when a call is to stop in the middle of a block. A kernel of blocks
    // that take long looks at it, and then does nothing more.
    const std::atomic<bool>* abandon = nullptr;

    bool moments = false;            // the partial gets its sums of squares, too
    const Record* record = nullptr;  // in place of any sum but that of weights

    // Arrays that are not part of the call are nullptr; input and gradient have classes on `axis`.
    Plan(const std::array<const Array*, operands>& arrays, int axis, const Options& options)
        : samples(samples_of(arrays, axis, arrays[gradient] ? gradient : input)),
          classes(arrays[arrays[gradient] ? gradient : input]->shape[axis]),
          weight(options.weight),
          ignore_index(options.ignore_index),
          index_base(options.index_base),
          label_smoothing(options.label_smoothing) {
        for (int o = 0; o < operands; ++o) {
            if (!arrays[o]) continue;
            static std::uint64_t nothing;  // where an array has no element, nor an address
            data[o] = arrays[o]->data ? arrays[o]->data : &nothing;
            dtype[o] = arrays[o]->dtype;
            if (has_class_axis(o)) class_stride[o] = arrays[o]->strides[axis];
        }
    }

    template <class T> T* pointer(Operand operand) const { return static_cast<T*>(data[operand]); }
    bool has(Operand operand) const { return data[operand] != nullptr; }
    // Tells whether each sample's logits, side by side, are on pages of their own.
    bool on_own_pages() const {
        return has(input) && class_stride[input] == 1 &&
               absolute(samples.stride(input)) * size_of(dtype[input]) >= page_bytes;
    }
    bool weighs() const { return weight || has(sample_weight); }
    double all_class_weights() const { return class_weight_sum + infinite_weight; }
    bool smooths() const { return label_smoothing != 0; }
    bool is_abandoned() const { return abandon && abandon->load(std::memory_order_relaxed); }
};

// Collects what is found in a range of samples. Partials merge in any order with the same result.
struct Partial {
    ExactSum loss, weight;  // weight stays empty without weights: then it is count
    // Σ v², Σ v·w, Σ w², if the plan has moments. v: a loss with its weight w, rounded to double.
    // Without weights, the last two stay empty.
    ExactSum square, cross, weight_square;
    index_t count = 0;                                           // kept samples
    index_t bad_position = std::numeric_limits<index_t>::max();  // the lowest, in target's C order
    index_t bad_sample = -1;
    std::uint64_t bad_label = 0;
    void* memory = nullptr;  // of the thread, for a kernel's variables (parallel.hpp)
    // A kernel's, kept from one range to the next, and its bytes.
    OnHeap<std::byte> scratch;
    index_t scratch_bytes = 0;
};

// Constructs the variables of a kernel in the memory of its thread, (thread_memory_bytes,).
template <class T, class... Arguments> T& construct_in(void* memory, Arguments&&... arguments) {
    static_assert(sizeof(T) <= thread_memory_bytes && alignof(T) <= cache_line);
    static_assert(std::is_trivially_destructible_v<T>);
    return *new (memory) T(std::forward<Arguments>(arguments)...);
}

// Computes the samples [first, last) of a plan and adds to the partial.
using Kernel = void (*)(const Plan&, index_t first, index_t last, Partial&);

// Sums some noted samples of one group, (count,), as a call does its blocks. Returns how many are
// ignored. smooths: the noted losses have their weights.
using SumGroup = index_t (*)(const Record&, const index_t* samples, index_t count, bool smooths,
                             Partial&);

// Serve what is made of all classes of a sample: samples one by one or many at a time; and rows
// that plan.team shares, each in turn.
struct SoftmaxKernels {
    Kernel sweep, split_rows;
};

// Serve cross-entropy in the precision of its input, at least in single, and in double.
// own_max_scale: a larger scale of a gradient needs more than its own precision.
struct CrossEntropyKernels {
    SoftmaxKernels own, as_single, as_double;
    double own_max_scale;
};

// Serve one input dtype.
struct Kernels {
    Kernel nll_loss;
    SoftmaxKernels softmax;  // in the precision of its input
    CrossEntropyKernels cross_entropy;
};

// Holds what is built for one instruction set. of: in the order of DType.
struct KernelTable {
    Kernel check_labels;
    SumGroup sum_group;
    Kernels of[4];
};

inline namespace NLL_INSTRUCTION_SET {

inline void merge(Partial& partial, const Partial& other) {
    merge(partial.loss, other.loss);
    merge(partial.weight, other.weight);
    merge(partial.square, other.square);
    merge(partial.cross, other.cross);
    merge(partial.weight_square, other.weight_square);
    partial.count += other.count;
    if (other.bad_position < partial.bad_position) {
        partial.bad_position = other.bad_position;
        partial.bad_sample = other.bad_sample;
        partial.bad_label = other.bad_label;
    }
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
