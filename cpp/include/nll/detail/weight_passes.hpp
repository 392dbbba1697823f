// SPDX-License-Identifier: BSD-3-Clause
// Passes over all weights of a call before its sweeps. They ask for signals, and those over samples
// run on threads where that pays. No kernel includes this.
#pragma once

#include "parallel.hpp"
#include "weights.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Calls visit(weights, count) for blocks of classes, padded, and asks whether to stop.
template <class Visit>
void for_each_block_of_weights(const Plan& plan, const Options& options, Visit&& visit) {
    parallel::Interruptible interruptible(options.interrupt);
    for_each_block(0, plan.classes, block_size, [&](index_t first, index_t count) {
        alignas(cache_line) double weights[block_size];
        load_class_weights(plan, first, count, weights);
        pad(weights, count);
        visit(weights, count);
        interruptible.ask();
    });
}

// Holds the class weights that label smoothing reads for every sample, as doubles.
class SmoothingWeights {
public:
    // Points the plan at its weights, which are copied unless they are contiguous doubles, and sums
    // them into it.
    SmoothingWeights(Plan& plan, const Options& options) {
        if (!plan.weight) {
            plan.class_weight_sum = static_cast<double>(plan.classes);
            return;
        }
        ExactSum sum;
        for_each_block_of_weights(plan, options, [&](double* weights, index_t count) {
            for (index_t c = 0; c < count; ++c) {
                if (std::fabs(weights[c]) < infinity) continue;
                plan.infinite_weight += weights[c];
                weights[c] = 0;
            }
            add_block(sum, weights, count, block_range(weights, count), certified<double>);
        });
        plan.class_weight_sum = rounded(sum, format_of<double>);
        if (plan.weight.dtype == DType::float64 && plan.weight.stride == 1) {
            plan.class_weights = static_cast<const double*>(plan.weight.data);
        } else {
            copy_ = load(plan, options);
            plan.class_weights = copy_.get();
        }
        plan.finite_weights = plan.class_weights;
        if (plan.infinite_weight == 0) return;
        finite_ = load(plan, options);
        for (index_t c = 0; c < plan.classes; ++c)
            if (!(std::fabs(finite_[c]) < infinity)) finite_[c] = as_finite(finite_[c]);
        plan.finite_weights = finite_.get();
    }

private:
    // Returns the number that stands for a weight that is infinite or NaN, which is added apart.
    // For an infinite one it is so small that it adds nothing to finite terms, but not 0: with a
    // logit of -inf the term is infinite.
    static double as_finite(double weight) {
        return weight == weight ? std::copysign(std::numeric_limits<double>::min(), weight) : 0;
    }
    static std::unique_ptr<double[]> load(const Plan& plan, const Options& options) {
        std::unique_ptr<double[]> weights(new double[static_cast<std::size_t>(plan.classes)]);
        double* to = weights.get();
        for_each_block_of_weights(plan, options, [&](const double* block, index_t count) {
            to = std::copy_n(block, count, to);
        });
        return weights;
    }
    std::unique_ptr<double[]> copy_, finite_;
};

// Returns the largest of of_block(first, count) over blocks of all samples, and 0. It must not
// throw. NaN counts as nothing, since no precision matters to it.
template <class OfBlock>
double max_of_blocks(const Plan& plan, const Options& options, OfBlock&& of_block) {
    struct Largest {
        double value = 0;
        void* memory = nullptr;
    } largest;
    const index_t count = plan.samples.count;
    const int threads = count < min_parallel_samples ? 1 : parallel::limit(options.num_threads);
    const index_t fair = count / (threads * pieces_per_thread) / block_size * block_size;
    parallel::reduce(
        largest, count, std::clamp(fair, block_size, max_piece_samples), threads, options.interrupt,
        [&](index_t first, index_t last, Largest& part) {
            for_each_block(first, last, block_size, [&](index_t begin, index_t samples) {
                part.value = std::max(part.value, of_block(begin, samples));
            });
            return true;
        },
        [](Largest& all, const Largest& part) { all.value = std::max(all.value, part.value); });
    return largest.value;
}

// Returns the largest of 1 and the magnitudes of samples' own weights, of ignored ones, too.
inline double max_sample_weight(const Plan& plan, const Options& options) {
    return visit_real(plan.dtype[sample_weight], [&]<class T>() {
        const T* const data = plan.pointer<const T>(sample_weight);
        const index_t stride = plan.samples.stride(sample_weight);
        return max_of_blocks(plan, options, [&](index_t first, index_t count) {
            double max[4] = {1, 1, 1, 1};  // chains of comparisons
            plan.samples.for_each_run_of(
                sample_weight, first, count, [&](index_t, index_t length, index_t offset) {
                    for (index_t i = 0; i < length; ++i) {
                        const double size = std::fabs(to_double(data[offset + i * stride]));
                        max[i % 4] = max[i % 4] < size ? size : max[i % 4];
                    }
                });
            return std::max(std::max(max[0], max[1]), std::max(max[2], max[3]));
        });
    });
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
