// SPDX-License-Identifier: BSD-3-Clause
// Class weights of any element type -> the doubles of classes, and of samples by their classes.
#pragma once

#include "labels.hpp"
#include "rounding.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Loads the weights, (count,), of classes [first, first + count); 1 without weights.
inline void load_class_weights(const Plan& plan, index_t first, index_t count, double* weights) {
    if (!plan.weight) {
        std::fill_n(weights, count, 1.0);
        return;
    }
    visit_real(plan.weight.dtype, [&]<class T>() {
        const T* data = static_cast<const T*>(plan.weight.data) + first * plan.weight.stride;
        for (index_t c = 0; c < count; ++c) weights[c] = to_double(data[c * plan.weight.stride]);
    });
}

// Calls visit(weight) for each class.
template <class Visit> void for_each_class_weight(const Plan& plan, Visit&& visit) {
    for_each_block(0, plan.classes, block_size, [&](index_t first, index_t count) {
        double weights[block_size];
        load_class_weights(plan, first, count, weights);
        for (index_t c = 0; c < count; ++c) visit(weights[c]);
    });
}

// Sums the class weights for label smoothing into the plan.
inline void sum_class_weights(Plan& plan) {
    ExactSum sum;
    plan.infinite_weight = 0;
    for_each_class_weight(plan, [&](double weight) {
        if (std::fabs(weight) < infinity) add(sum, weight);
        else plan.infinite_weight += weight;
    });
    plan.class_weight_sum = rounded(sum, format_of<double>);
}

// Loads the finite weights, (count,), of classes [first, first + count); 0 for others.
inline void load_finite_weights(const Plan& plan, index_t first, index_t count, double* weights) {
    load_class_weights(plan, first, count, weights);
    if (plan.infinite_weight == 0) return;
    for (index_t c = 0; c < count; ++c)
        weights[c] = std::fabs(weights[c]) < infinity ? weights[c] : 0.0;
}

// Loads the weights of samples by their classes; 0 for ignored ones. Those of few classes are
// looked up in a table of doubles.
class SampleWeights {
public:
    SampleWeights(const Plan& plan, index_t samples)
        : weight_(plan.weight),
          tabled_(plan.weight && plan.classes <= std::min(samples, max_tabled_classes)) {
        static_assert(ignored == -1);
        if (!tabled_) return;
        table_[0] = 0;
        load_class_weights(plan, 0, plan.classes, table_ + 1);
    }

    // Returns the weights of classes [ignored, C), to be indexed by a class, or nullptr.
    const double* table() const { return tabled_ ? table_ + 1 : nullptr; }

    // Loads `weights`, (count,), of samples of these classes, (count,).
    void load(const index_t* classes, index_t count, double* weights) const {
        if (tabled_) {
            for (index_t i = 0; i < count; ++i) weights[i] = table()[classes[i]];
        } else if (weight_.size == 0) {
            std::fill_n(weights, count, 0.0);  // all are ignored
        } else {
            visit_real(weight_.dtype, [&]<class T>() {
                const T* data = static_cast<const T*>(weight_.data);
                for (index_t i = 0; i < count; ++i) {
                    const index_t c = std::max<index_t>(classes[i], 0);
                    const double weight = to_double(data[c * weight_.stride]);
                    weights[i] = classes[i] == ignored ? 0.0 : weight;
                }
            });
        }
    }

private:
    const Weight& weight_;
    bool tabled_;
    alignas(cache_line) double table_[1 + max_tabled_classes];
};

// Pads the weights of a block, (count,), with zeros and adds them to the partial's total. Returns
// their range.
inline BlockRange<double> add_weights(double* weights, index_t count, Partial& partial) {
    pad(weights, count);
    const BlockRange<double> range = block_range(weights, count);
    Spans spans = certified<double>;
    if (fits_float(range)) spans.one = certified<float>.one;
    add_block(partial.weight, weights, count, range, spans);
    return range;
}

// Reads all labels of [first, last): whether they are classes, how many are kept, and the total
// weight. It comes before anything is written.
inline void check_labels(const Plan& plan, index_t first, index_t last, Partial& partial) {
    struct Variables {
        Variables(const Plan& plan, index_t samples) : sample_weights(plan, samples) {}
        SampleWeights sample_weights;
        alignas(cache_line) index_t classes[block_size];
        alignas(cache_line) double weights[block_size];
    };
    auto& at = construct_in<Variables>(partial.memory, plan, last - first);
    for_each_block(first, last, block_size, [&](index_t begin, index_t count) {
        const index_t kept = load_classes(plan, begin, count, at.classes, partial);
        if (kept < 0) return;
        partial.count += kept;
        if (!plan.weight) return;
        at.sample_weights.load(at.classes, count, at.weights);
        add_weights(at.weights, count, partial);
    });
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
