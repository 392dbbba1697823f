// SPDX-License-Identifier: BSD-3-Clause
// The cross-entropy of a block of samples from their logits, its gradient, and the logarithm of their softmax.
//
// With S the sum of e^x over the classes of a sample, and rest that over all but the target t, its loss is log(S) -
// x_t, and the gradient at the target is -rest/S. Where e^x_t is most of S, log(S) - x_t and p_t - 1 would lose every
// digit: then the loss is log1p(rest/e^x_t), and rest is made of its own terms.
//
// Many classes that lie side by side are taken sample by sample (rows). Otherwise, and where there are few of them, up
// to 128 samples are taken at a time, class by class (tiles). Both add up in the same order.
#pragma once

#include "rows.hpp"
#include "tiles.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

// Whether samples are taken one by one.
inline bool by_rows(const Plan& plan) {
    return plan.classes > in_turn &&  // a row has costs of its own
           (plan.samples.count == 1 || absolute(plan.class_stride[input]) <= absolute(plan.samples.stride(input)));
}

// Samples of a block.
inline index_t softmax_block(const Plan& plan) {
    if (!by_rows(plan)) return tiles_block(plan);
    return std::clamp<index_t>(most_in_block / std::max<index_t>(plan.classes, 1), 1, block_size);
}

// Memory for a row's powers or for a block's gradient, where there is use for it. If it cannot be had, nullptr: then
// powers are computed twice, and gradients written in shorter stretches.
template <class Scalar, class Arithmetic> void* scratch_of(const Plan& plan, Partial& partial) {
    index_t size = 0;
    if (!by_rows(plan)) size = bytes_of<Scalar>(Tiles<Scalar, Arithmetic>::gathered(plan));
    else if (plan.classes <= Rows<Scalar, Arithmetic>::most_kept)
        size = bytes_of<typename Arithmetic::Power>(paired(plan.classes));
    if (size > 0 && !partial.scratch)
        partial.scratch.reset(new (std::nothrow) std::byte[static_cast<std::size_t>(size)]);
    return partial.scratch.get();
}

// What the loss and the gradient of each sample of a block are multiplied with.
template <class Arithmetic>
void load_factors(const Plan& plan, index_t begin, index_t count, Block<Arithmetic>& block) {
    if (!plan.weight) std::fill_n(block.weights, count, 1.0);
    if (!plan.data[gradient]) return;
    double grad_output[block_size];
    std::fill_n(grad_output, count, plan.grad_output);
    if (plan.data[output]) load_grad_output(plan, begin, count, grad_output);
    using Factor = typename Arithmetic::Factor;
    const Factor divisor{plan.divisor}, share = sum_of(Factor{1}, Factor{-plan.label_smoothing});
    const Factor each = quotient_of(Factor{plan.label_smoothing}, Factor{static_cast<double>(plan.classes)});
    for (index_t i = 0; i < count; ++i) {
        block.target[i] = quotient_of(product_of(Factor{grad_output[i]}, block.weights[i]), divisor);
        block.each[i] = {0};
        if (plan.label_smoothing != 0) {
            block.target[i] = product_of(block.target[i], share);
            block.each[i] = product_of(quotient_of(Factor{grad_output[i]}, divisor), each);
        }
        block.all[i] = sum_of(block.target[i], product_of(block.each[i], plan.class_weights));
    }
}

// The labels of a block, and what they say about the loss and the gradient. False if a label is bad.
template <class Arithmetic>
bool prepare(const Plan& plan, const SampleWeights& sample_weights, index_t begin, index_t count,
             Block<Arithmetic>& block, Survey<double>& weights_survey, Partial& partial) {
    block.count = count;
    const index_t kept = load_classes(plan, begin, count, block.classes, partial);
    if (kept < 0) return false;
    partial.count += kept;
    block.ignores = kept < count || plan.zero_gradient;
    if (plan.weight) {
        sample_weights.load(block.classes, count, block.weights);
        weights_survey = add_weights(sample_weights, block.weights, count, partial);
    }
    // Factors that are alike serve for all blocks that are not larger.
    const bool alike = !plan.weight && !plan.data[output];
    if (!alike || block.loaded < count) load_factors(plan, begin, count, block);
    block.loaded = alike ? std::max(block.loaded, count) : 0;
    if (plan.zero_gradient) std::fill_n(block.classes, count, ignored);
    return true;
}

// Adds the losses of a block, or writes them if the plan has an output for them.
template <class Arithmetic>
void add_losses_of(const Plan& plan, index_t begin, Block<Arithmetic>& block, const Survey<double>& weights_survey,
                   Partial& partial) {
    const bool weighs = plan.weight && plan.label_smoothing == 0;
    if (plan.data[output] && !plan.data[gradient]) {
        if (weighs)
            for (index_t i = 0; i < block.count; ++i) block.losses[i] *= block.weights[i];
        return write_losses(plan, begin, block.count, block.losses);
    }
    pad(block.losses, block.count);
    if (weighs) add_products(partial.loss, block.losses, block.weights, block.count, weights_survey);
    else add_block(partial.loss, block.losses, block.count, survey(block.losses, block.count), certified<double>);
}

template <class Scalar, class Arithmetic>
void cross_entropy_sweep(const Plan& plan, index_t first, index_t last, Partial& partial) {
    Workspace<Scalar, Arithmetic> space;
    void* scratch = plan.data[gradient] ? scratch_of<Scalar, Arithmetic>(plan, partial) : nullptr;
    const bool rows = by_rows(plan);
    Rows<Scalar, Arithmetic> row_work(plan, space, scratch);
    Tiles<Scalar, Arithmetic> tiles(plan, space, scratch);
    const SampleWeights sample_weights(plan, last - first);
    Block<Arithmetic> block;
    for_each_block(first, last, softmax_block(plan), [&](index_t begin, index_t count) {
        Survey<double> weights_survey;
        if (!prepare(plan, sample_weights, begin, count, block, weights_survey, partial)) return;
        if (rows) row_work.cross_entropy(begin, block);
        else tiles.cross_entropy(begin, block);
        add_losses_of(plan, begin, block, weights_survey, partial);
    });
    row_work.finish();
    tiles.finish();
    if (plan.streams) finish_streams();
}

// Writes log(softmax) where a gradient would be.
template <class Scalar, class Arithmetic>
void log_softmax_sweep(const Plan& plan, index_t first, index_t last, Partial& partial) {
    Workspace<Scalar, Arithmetic> space;
    const bool rows = by_rows(plan);
    Rows<Scalar, Arithmetic> row_work(plan, space, nullptr);
    Tiles<Scalar, Arithmetic> tiles(plan, space, rows ? nullptr : scratch_of<Scalar, Arithmetic>(plan, partial));
    for_each_block(first, last, softmax_block(plan), [&](index_t begin, index_t count) {
        if (rows) row_work.log_softmax(begin, count);
        else tiles.log_softmax(begin, count);
    });
    tiles.finish();
    if (plan.streams) finish_streams();
}

// Few long rows are shared by all threads, chunk by chunk: here [first, last) are chunks of plan.shared's row.

template <class Scalar, class Arithmetic> void take_chunks(const Plan& plan, index_t first, index_t last, Partial&) {
    Workspace<Scalar, Arithmetic> space;
    Rows<Scalar, Arithmetic>(plan, space, nullptr).take_chunks(*plan.shared, first, last);
}

// Merges chunks in their order; with the last, the loss is known, unless they have to be taken once more.
template <class Scalar, class Arithmetic, bool with_loss>
void merge_chunks(const Plan& plan, index_t first, index_t last, Partial& partial) {
    SharedRow& row = *plan.shared;
    for (index_t chunk = first; chunk < last; ++chunk) merge(row.whole, row.chunks[chunk - row.first_chunk]);
    if (last * chunk_size < plan.classes) return;
    Workspace<Scalar, Arithmetic> space;
    Rows<Scalar, Arithmetic> rows(plan, space, nullptr);
    if (!rows.is_complete(row)) return;
    if constexpr (with_loss) {
        Block<Arithmetic> block;
        Survey<double> weights_survey;
        if (!prepare(plan, SampleWeights(plan, 1), row.sample, 1, block, weights_survey, partial)) return;
        rows.settle(row, block.classes[0]);
        rows.take_loss(row, block);
        add_losses_of(plan, row.sample, block, weights_survey, partial);
    } else {
        rows.settle(row, 0);
    }
}

// Writes the gradient, or log(softmax).
template <class Scalar, class Arithmetic, bool with_loss>
void use_chunks(const Plan& plan, index_t first, index_t last, Partial& partial) {
    Workspace<Scalar, Arithmetic> space;
    Rows<Scalar, Arithmetic> rows(plan, space, nullptr);
    if constexpr (with_loss) {
        Block<Arithmetic> block;
        Partial counted;  // already
        Survey<double> weights_survey;
        if (prepare(plan, SampleWeights(plan, 1), plan.shared->sample, 1, block, weights_survey, counted))
            rows.write_gradient(*plan.shared, block, first, last);
        else merge(partial, counted);
    } else {
        rows.write_logarithms(*plan.shared, first, last);
    }
    if (plan.streams) finish_streams();
}

// The arithmetic that a result in the input's own type needs.
template <class Scalar>
using ArithmeticOf = std::conditional_t<std::same_as<Scalar, double>, Double,
                                        std::conditional_t<std::same_as<Scalar, bfloat16>, Half, Single>>;

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
