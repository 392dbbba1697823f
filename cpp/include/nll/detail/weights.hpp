// SPDX-License-Identifier: BSD-3-Clause
// Weights of classes and of samples, of any element type -> the doubles of classes, and of samples.
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

// Points at the finite class weights from some class on; without weights, at as many ones as a pair
// of lanes has, again and again.
struct TermWeights {
    const double* weights = nullptr;
    index_t mask = 0;

    TermWeights() = default;
    TermWeights(const Plan& plan, index_t first)
        : weights(plan.finite_weights ? plan.finite_weights + first : ones),
          mask(plan.finite_weights ? -1 : 0) {}
    const double* of_pair(index_t c) const { return weights + (c & mask); }
    double operator[](index_t c) const { return mask == 0 ? 1.0 : weights[c]; }

private:
    alignas(cache_line) static constexpr double ones[2 * lanes] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                                                   1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                                                   1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
};

// Loads the weights that samples have by their classes; 0 for ignored ones. Those of few classes
// are looked up in a table of doubles.
class WeightsByClass {
public:
    WeightsByClass(const Plan& plan, index_t samples)
        : weight_(plan.weight),
          tabled_(plan.weight && plan.classes <= std::min(samples, max_tabled_classes)) {
        static_assert(ignored == -1);
        if (!tabled_) return;
        table_[0] = 0;
        load_class_weights(plan, 0, plan.classes, table_ + 1);
    }

    // Returns the weights of classes [ignored, C), to be indexed by a class, or nullptr.
    const double* table() const { return tabled_ ? table_ + 1 : nullptr; }

    // Loads `weights`, (count,), of samples of these classes, (count,); 1 without class weights.
    void load(const index_t* classes, index_t count, double* weights) const {
        if (!weight_) {
            std::fill_n(weights, count, 1.0);
        } else if (tabled_) {
            for (index_t i = 0; i < count; ++i) weights[i] = table()[classes[i]];
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

// Loads the samples' own weights, (count,), of samples [first, first + count); 0 for ignored ones.
inline void load_sample_weights(const Plan& plan, index_t first, index_t count,
                                const index_t* classes, double* weights) {
    visit_real(plan.dtype[sample_weight], [&]<class T>() {
        const T* from = plan.pointer<const T>(sample_weight);
        plan.samples.for_each(sample_weight, first, count, [&](index_t i, index_t offset) {
            weights[i] = classes[i] == ignored ? 0.0 : to_double(from[offset]);
        });
    });
}
// Multiplies weights, (count,), of samples [first, first + count) by their own, if the plan has
// some; each product is rounded once.
inline void multiply_sample_weights(const Plan& plan, index_t first, index_t count,
                                    const index_t* classes, double* weights) {
    if (!plan.has(sample_weight)) return;
    visit_real(plan.dtype[sample_weight], [&]<class T>() {
        const T* from = plan.pointer<const T>(sample_weight);
        plan.samples.for_each(sample_weight, first, count, [&](index_t i, index_t offset) {
            weights[i] = classes[i] == ignored ? 0.0 : weights[i] * to_double(from[offset]);
        });
    });
}

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
        Variables(const Plan& plan, index_t samples) : by_class(plan, samples) {}
        WeightsByClass by_class;
        alignas(cache_line) index_t classes[block_size];
        alignas(cache_line) double weights[block_size];
    };
    auto& at = construct_in<Variables>(partial.memory, plan, last - first);
    for_each_block(first, last, block_size, [&](index_t begin, index_t count) {
        const index_t kept = load_classes(plan, begin, count, at.classes, partial);
        if (kept < 0) return;
        partial.count += kept;
        if (!plan.weighs()) return;
        at.by_class.load(at.classes, count, at.weights);
        multiply_sample_weights(plan, begin, count, at.classes, at.weights);
        add_weights(at.weights, count, partial);
    });
}

// Tells whether an integer of 64 bits is one that a double may round.
inline bool is_beyond_doubles(std::uint64_t bits, DType dtype) {
    const bool negative = dtype == DType::int64 && bits >> 63;
    return (negative ? 0 - bits : bits) > std::uint64_t{1} << 53;
}

// Notes the first kept sample whose own weight is an integer that no double is, if the weights are
// of 64 bits: its position, and its weight's bits as bad_label. It passes over bad labels.
inline void check_sample_weights(const Plan& plan, index_t first, index_t last, Partial& partial) {
    struct Variables {
        alignas(cache_line) index_t classes[block_size];
    };
    auto& at = construct_in<Variables>(partial.memory);
    Partial of_labels;
    const auto* from = plan.pointer<const std::uint64_t>(sample_weight);
    for_each_block(first, last, block_size, [&](index_t begin, index_t count) {
        if (load_classes(plan, begin, count, at.classes, of_labels) < 0) return;
        plan.samples.for_each(sample_weight, begin, count, [&](index_t i, index_t offset) {
            const std::uint64_t bits = from[offset];
            if (at.classes[i] == ignored || !is_beyond_doubles(bits, plan.dtype[sample_weight]))
                return;
            std::array<index_t, max_rank> coordinate;
            const index_t place = position(plan.samples, begin + i, coordinate);
            if (place >= partial.bad_position) return;
            partial.bad_position = place;
            partial.bad_label = bits;
        });
    });
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
