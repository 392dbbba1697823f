// SPDX-License-Identifier: BSD-3-Clause
// Chooses the precision that a sample needs. Exponentials that are taken as nothing must not matter
// where they are multiplied with large factors: weights, gradients of losses. A sample's kernels
// follow from what all samples have in common and from its own factors, not from those of others:
// a loss is the same in any batch, and so are the sums of a state.
#pragma once

#include "softmax_block.hpp"
#include "weight_passes.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Returns a bound, at least 1, of the class weights.
inline double max_class_factor(const Plan& plan, const Options& options) {
    double max[lanes];
    std::fill_n(max, lanes, 1.0);
    if (plan.weight)
        for_each_block_of_weights(plan, options, [&](const double* weights, index_t count) {
            for (index_t c = 0; c < count; c += lanes)
                for (int l = 0; l < lanes; ++l) {
                    const double size = std::fabs(weights[c + l]);
                    max[l] = max[l] < size ? size : max[l];
                }
        });
    return *std::max_element(max, max + lanes);
}
// Returns a bound, at least 1, of what every sample's gradient is multiplied with beside weights.
inline double max_grad_factor(const Plan& plan) {
    return std::max(1.0, std::fabs(plan.grad_output)) / std::min(1.0, std::fabs(plan.divisor));
}

// Loads bounds, at least 1, of the factors that samples [first, first + count) have of their own,
// (count,), at most factors_block; 1 if a label is bad, which another sweep reports. NaN counts as
// nothing, since no precision matters to it.
inline constexpr index_t factors_block = 128;
inline void load_factors(const Plan& plan, index_t first, index_t count, double* factors) {
    index_t classes[factors_block];
    double some[factors_block];
    std::fill_n(factors, count, 1.0);
    const auto multiply = [&] {
        for (index_t i = 0; i < count; ++i) factors[i] *= std::max(1.0, std::fabs(some[i]));
    };
    Partial of_labels;
    if (load_classes(plan, first, count, classes, of_labels) < 0) return;
    if (plan.has(sample_weight)) {
        load_sample_weights(plan, first, count, classes, some);
        multiply();
    }
    if (plan.has(grad_output)) {
        load_grad_output(plan, first, count, some);
        multiply();
    }
}

// Returns a bound of the factors that samples have of their own: that of integers, if it is less
// than `enough`, or the largest there is. (Floats of any type may be infinite.)
inline double max_factor(const Plan& plan, const Options& options, double enough) {
    if (!plan.has(sample_weight) && !plan.has(grad_output)) return 1;
    double of_types = plan.has(grad_output) ? infinity : 1;
    if (plan.has(sample_weight))
        of_types *= is_floating(plan.dtype[sample_weight]) ? infinity : 0x1p64;
    if (of_types < enough) return of_types;
    if (!plan.has(grad_output)) {  // mostly no weight is large, whosever it is
        const double largest = max_sample_weight(plan, options);
        if (largest < enough) return largest;
    }
    return max_of_blocks(plan, options, [&](index_t first, index_t count) {
        double max = 1;
        for_each_block(first, first + count, factors_block, [&](index_t begin, index_t some) {
            double factors[factors_block];
            load_factors(plan, begin, some, factors);
            max = std::max(max, *std::max_element(factors, factors + some));
        });
        return max;
    });
}

}  // namespace NLL_INSTRUCTION_SET

// Holds the kernels of samples whose own factors are below a limit, below another, and beyond.
class KernelsByFactor {
public:
    // dtype: of the result. common: a bound of the factors that all samples have.
    KernelsByFactor(const CrossEntropyKernels& kernels, const Plan& plan, DType dtype,
                    double common)
        : kernels_{of_scale(kernels, plan, dtype, 1),
                   of_scale(kernels, plan, dtype, kernels.own_max_scale), kernels.as_double},
          limits_{kernels.own_max_scale / common, Single::max_scale / common} {}

    // Returns the factors below which all samples have the same kernels.
    double first_limit() const { return limits_[0]; }
    const SoftmaxKernels& of(double factor) const { return kernels_[level(factor)]; }
    // Returns kernels for samples whose factors are at most `most`.
    SoftmaxKernels up_to(double most) const;
    // Tells whether others are the same for each of them.
    bool same_up_to(double most, const KernelsByFactor& other) const {
        const auto same = [&](double factor) { return of(factor).sweep == other.of(factor).sweep; };
        bool all = same(1) && same(most);
        for (const double limit : {limits_[0], limits_[1], other.limits_[0], other.limits_[1]})
            all &= same(std::clamp(limit, 1.0, std::max(1.0, most)));
        return all;
    }

private:
    // Smoothing's terms may cancel, so that it needs more than an input's own precision.
    static SoftmaxKernels of_scale(const CrossEntropyKernels& kernels, const Plan& plan,
                                   DType dtype, double scale) {
        if (dtype == DType::float64 || !(scale < Single::max_scale)) return kernels.as_double;
        const bool own = dtype == plan.dtype[input] && scale < kernels.own_max_scale;
        return own && !plan.smooths() ? kernels.own : kernels.as_single;
    }
    int level(double factor) const { return (factor >= limits_[0]) + (factor >= limits_[1]); }

    std::array<SoftmaxKernels, 3> kernels_;
    std::array<double, 2> limits_;
};

inline namespace NLL_INSTRUCTION_SET {

// Runs a kernel of each sample, on ranges of samples that have the same.
template <Kernel SoftmaxKernels::* kernel>
void run_by_factor(const Plan& plan, index_t first, index_t last, Partial& partial) {
    const SoftmaxKernels* chosen = nullptr;
    index_t begin = first;
    const auto run_to = [&](index_t end) {
        if (begin < end && partial.bad_sample < 0) (chosen->*kernel)(plan, begin, end, partial);
        begin = end;
    };
    for_each_block(first, last, factors_block, [&](index_t at, index_t count) {
        double factors[factors_block];
        load_factors(plan, at, count, factors);
        for (index_t i = 0; i < count; ++i) {
            const SoftmaxKernels& wanted = plan.by_factor->of(factors[i]);
            if (chosen != &wanted) run_to(at + i);
            chosen = &wanted;
        }
    });
    run_to(last);
}

}  // namespace NLL_INSTRUCTION_SET

inline SoftmaxKernels KernelsByFactor::up_to(double most) const {
    if (level(1) == level(most)) return of(1);
    return {run_by_factor<&SoftmaxKernels::sweep>, run_by_factor<&SoftmaxKernels::split_rows>};
}

}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
