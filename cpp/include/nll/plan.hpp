// SPDX-License-Identifier: BSD-3-Clause
// One call, type-erased: what the kernels read, what they write, and what they find.
#pragma once

#include <memory>

#include "exact_sum.hpp"
#include "view.hpp"

namespace nll {

// Of some chunks of the classes of a sample: Σ of the powers of e, relative to what all chunks of the sample share, and
// what is rounded off it; and for label smoothing Σ w·(offset - x) and Σ w. Where it is looked for, the largest value,
// and the chunk that has it.
struct Softmax {
    double sum = 0, lost = 0;
    double below = 0, weight = 0;
    bool near = true;  // powers could do without a guard
    double largest = -std::numeric_limits<double>::infinity();
    index_t chunk = 0;
    // Of all classes: the power of one of them; Σ of the others; and Σ of the chunk that has the one.
    double unit = 1, rest = 0;
    double chunk_sum = 0;
};

// The logit at the target, or without one the largest, and the chunk that has it: its power is taken out of the sum,
// for where it is nearly all of it, log(S) and 1 - p would lose every digit.
struct One {
    double logit = 0;
    index_t chunk = 0;
};

// A row that all threads work on: of some of its chunks each, of all of it, and its one. First its largest value is
// looked for, if need be; then powers are taken, with a guard if need be.
struct SharedRow {
    index_t sample = 0, first_chunk = 0;
    Softmax* chunks = nullptr;  // from first_chunk on
    bool needs_largest = false, knows_largest = false, guarded = false, finished = false;
    One largest = {};
    Softmax whole = {};
    double logit = 0;
};

struct Plan {
    Samples samples;
    index_t classes;
    std::array<void*, operands> data{};
    std::array<DType, operands> dtype{};
    std::array<index_t, operands> class_stride{};
    Weight weight;
    IgnoreIndex ignore_index;
    index_t index_base;

    // The gradient at a kept target is -(w·grad_output)/divisor; grad_output is in an array for Reduction::none.
    double grad_output = 1.0;
    double divisor = 1.0;
    bool zero_gradient = false;
    // How a gradient that is too large for the caches is written: past them, or only where it is not zero.
    bool streams = false, zeroed = false;

    double label_smoothing;
    double class_weights = 0;  // Σ weight[c], for label smoothing
    SharedRow* shared = nullptr;

    // Arrays that are not part of the call are nullptr; input and gradient have their classes on `axis`.
    Plan(const std::array<const Array*, operands>& arrays, int axis, const Options& options)
        : samples(samples_of(arrays, axis, arrays[gradient] ? gradient : input)),
          classes(arrays[arrays[gradient] ? gradient : input]->shape[axis]),
          weight(options.weight),
          ignore_index(options.ignore_index),
          index_base(options.index_base),
          label_smoothing(options.label_smoothing) {
        for (int o = 0; o < operands; ++o) {
            if (!arrays[o]) continue;
            data[o] = arrays[o]->data;
            dtype[o] = arrays[o]->dtype;
            if (o == input || o == gradient) class_stride[o] = arrays[o]->strides[axis];
        }
    }

    template <class T> T* pointer(Operand operand) const { return static_cast<T*>(data[operand]); }
};

// What was found in a range of samples. Partials merge in any order with the same result.
struct Partial {
    ExactSum loss, weight;  // weight stays empty without class weights: then it is count
    index_t count = 0;      // kept samples
    index_t bad_position = std::numeric_limits<index_t>::max();  // the lowest in target's C order
    index_t bad_sample = -1;
    std::uint64_t bad_label = 0;
    std::unique_ptr<std::byte[]> scratch;  // a kernel's, which keeps it from one range to the next
};

// Computes the samples [first, last) of a plan and adds to the partial.
using Kernel = void (*)(const Plan&, index_t first, index_t last, Partial&);

// What is made of all classes of a sample: a sweep over samples; or over the chunks of plan.shared, whose softmax is
// taken, merged, and used.
struct SoftmaxKernels {
    Kernel sweep, take_chunks, merge_chunks, use_chunks;
};

// Of one input dtype, built for one instruction set.
struct Kernels {
    Kernel nll_check, nll_sweep;
    SoftmaxKernels log_softmax, cross_entropy;
    SoftmaxKernels cross_entropy_single, cross_entropy_double;  // as exact as losses of these, wider, types need
};

inline namespace NLL_INSTRUCTION_SET {

inline void merge(Partial& partial, const Partial& other) {
    merge(partial.loss, other.loss);
    merge(partial.weight, other.weight);
    partial.count += other.count;
    if (other.bad_position < partial.bad_position) {
        partial.bad_position = other.bad_position;
        partial.bad_sample = other.bad_sample;
        partial.bad_label = other.bad_label;
    }
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
