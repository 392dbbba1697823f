// SPDX-License-Identifier: BSD-3-Clause
// A block of samples whose losses are made of all their classes: what labels and weights say about
// each before the sweep, and what becomes of its losses after it.
#pragma once

#include "block.hpp"
#include "cross_entropy.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Holds the buffers of a kernel. Elements of `logits`, `exps` and `results` are (size,).
template <class Scalar, class Precision> struct Workspace {
    using Real = typename Precision::Real;
    static constexpr index_t size = buffer_bytes / index_t{sizeof(Real)};
    static_assert(size >= chunk_size);
    alignas(cache_line) Real logits[size];
    alignas(cache_line) typename Precision::Exp exps[size];
    alignas(cache_line) Scalar results[size];
};

template <class Precision> class SoftmaxBlock {
public:
    using Scale = typename Precision::Scale;

    explicit SoftmaxBlock(const Plan& plan) : plan_(plan) {}

    // Loads the labels, weights and scales of samples [begin, begin + count). Returns false if a
    // label is bad. `by_class` is of the plan.
    bool begin(index_t begin, index_t samples, const WeightsByClass& by_class, Partial& partial) {
        first = begin;
        count = samples;
        const index_t kept = load_classes(plan_, begin, count, classes, partial);
        if (kept < 0) return false;
        partial.count += kept;
        ignores = kept < count || plan_.zero_gradient;
        if (plan_.weighs()) {
            by_class.load(classes, count, weights);
            if (plan_.has(sample_weight) && is_smoothed<Precision>(plan_)) {
                std::copy_n(weights, count, class_weights);
                load_sample_weights(plan_, begin, count, classes, sample_weights);
            }
            multiply_sample_weights(plan_, begin, count, classes, weights);
            weights_range_ = add_weights(weights, count, partial);
        }
        load_scales();
        if (plan_.zero_gradient) std::fill_n(classes, count, ignored);
        return true;
    }
    // Writes or adds the losses of the block.
    void finish(Partial& partial) {
        const double* const of_samples = plan_.weighs() ? weights : nullptr;
        const double* factors = of_samples;
        if (is_smoothed<Precision>(plan_)) {  // the losses have the weights of classes
            factors = nullptr;
            for (index_t i = 0; plan_.has(sample_weight) && i < count; ++i)
                losses[i] *= sample_weights[i];
        }
        take_losses<double, double>(
            plan_, {first, count, classes, losses, factors, of_samples, weights_range_}, partial);
    }

    index_t first = 0, count = 0;
    bool ignores = false;  // some sample of the block
    alignas(cache_line) index_t classes[block_size];
    alignas(cache_line) double weights[block_size];
    // For label smoothing of samples that have weights of their own: the factors of `weights`.
    alignas(cache_line) double class_weights[block_size], sample_weights[block_size];
    alignas(cache_line) double losses[block_size];
    // Hold the GradScale of each sample.
    alignas(cache_line) Scale target_scale[block_size], smoothing_scale[block_size];
    alignas(cache_line) Scale total_scale[block_size];

    // Returns what the losses of samples are weighted with before they are smoothed, (count,).
    const double* loss_weights() const {
        return plan_.has(sample_weight) && is_smoothed<Precision>(plan_) ? class_weights : weights;
    }
    GradScale<Scale> scale(index_t i) const {
        return {target_scale[i], smoothing_scale[i], total_scale[i]};
    }

private:
    void load_scales() {
        // Scales that are alike serve for all blocks that are not larger.
        const bool alike = !plan_.weighs() && !plan_.has(grad_output);
        if (alike && count <= scaled_) return;
        if (!plan_.weighs()) std::fill_n(weights, count, 1.0);
        scaled_ = alike ? count : 0;
        if (!plan_.has(gradient)) return;
        load_grad_output(plan_, first, count, grad_outputs_);
        for (index_t i = 0; i < count; ++i) {
            const bool own = is_smoothed<Precision>(plan_) && plan_.has(sample_weight);
            const auto scale = grad_scale_of<Scale>(plan_, grad_outputs_[i], weights[i],
                                                    own ? sample_weights[i] : 1.0);
            target_scale[i] = scale.target;
            smoothing_scale[i] = scale.smoothing;
            total_scale[i] = scale.total;
        }
    }

    const Plan& plan_;
    BlockRange<double> weights_range_;
    index_t scaled_ = 0;  // samples whose scales are those of any block
    alignas(cache_line) double grad_outputs_[block_size];
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
