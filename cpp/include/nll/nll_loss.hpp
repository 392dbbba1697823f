// SPDX-License-Identifier: BSD-3-Clause
// The negative log likelihood of a block of samples, -weight[t]·input[t], and its gradient.
#pragma once

#include <cstring>

#include "stream.hpp"
#include "targets.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

// -input[t] of a block's kept samples, 0 of the others. Gathered first and summed later: stores of sums between the
// loads would keep the processor from having many loads under way. The classes of the first `known` >= count samples
// are loaded: memory for the next block is asked for while this one is computed.
template <class Scalar>
void load_losses(const Plan& plan, index_t first, index_t count, index_t known, const index_t* classes, bool all_kept,
                 Real<Scalar>* losses) {
    static constexpr Scalar zero{};
    constexpr index_t ahead = 64;  // loads under way: fewer wait for memory, more evict each other
    alignas(64) Scalar gathered[block_size];
    const index_t class_stride = plan.class_stride[input], stride = plan.samples.stride(input);
    // Of a short row every line will be wanted soon, whichever class is.
    const bool short_rows = class_stride == 1 && absolute(stride) * static_cast<index_t>(sizeof(Scalar)) <= 64;
    plan.samples.for_each_run(first, count, [&](const Samples::Run& run) {
        const Scalar* sample = plan.pointer<const Scalar>(input) + run.offset[input];
        const index_t* of = classes + run.begin;
        Scalar* to = gathered + run.begin;
        const auto gather = [&](auto kept) {
            const auto address = [&](index_t i) {
                return kept(of[i]) ? sample + i * stride + of[i] * class_stride : &zero;
            };
            const index_t asked = std::clamp<index_t>(known - run.begin - ahead, 0, run.length);
            for (index_t i = 0; i < asked; ++i) {  // as if the run went on; it mostly does
                NLL_PREFETCH(short_rows ? sample + (i + ahead) * stride : address(i + ahead));
                to[i] = *address(i);
            }
            for (index_t i = asked; i < run.length; ++i) to[i] = *address(i);
        };
        if (all_kept) gather([](index_t) { return std::true_type(); });
        else gather([](index_t c) { return c != ignored; });
    });
    for (index_t i = 0; i < count; ++i) losses[i] = -to_real(gathered[i]);
}

// Fills up to whole lanes with zeros, which change no sum.
template <class T> void pad(T* values, index_t count) {
    for (index_t i = count; i < padded(count); ++i) values[i] = 0;
}

inline void write_losses(const Plan& plan, index_t first, index_t count, const double* losses) {
    visit_floating(plan.dtype[output], [&]<class Loss>() {
        plan.samples.for_each_run(first, count, [&](const Samples::Run& run) {
            Loss* to = plan.pointer<Loss>(output) + run.offset[output];
            for (index_t i = 0; i < run.length; ++i)
                to[i * plan.samples.stride(output)] = from_double<Loss>(losses[run.begin + i] + 0.0);  // -0 + 0 is +0
        });
    });
}

template <class Visit> void for_each_block(index_t first, index_t last, index_t block, Visit&& visit) {
    for (; first < last; first += block) visit(first, std::min(block, last - first));
}

// The weights of a block, which are added to the total; and their survey.
inline Survey<double> add_weights(const Plan& plan, index_t count, const index_t* classes, double* weights,
                                  Partial& partial) {
    load_weights(plan.weight, classes, count, weights);
    pad(weights, count);
    const Survey<double> block = survey(weights, count);
    Spans spans = certified<double>;
    if (fits_float(block)) spans.one = certified<float>.one;
    add_block(partial.weight, weights, count, block, spans);
    return block;
}

// Labels only: are they classes, how many are kept, and their total weight.
inline void nll_check(const Plan& plan, index_t first, index_t last, Partial& partial) {
    for_each_block(first, last, block_size, [&](index_t begin, index_t count) {
        alignas(64) index_t classes[block_size];
        alignas(64) double weights[block_size];
        const index_t kept = load_classes(plan, begin, count, classes, partial);
        if (kept < 0) return;
        partial.count += kept;
        if (plan.weight) add_weights(plan, count, classes, weights, partial);
    });
}

// Adds a block's losses, times its weights if there are any. Both are padded with zeros.
template <class Scalar, class Real>
void add_losses(const Real* losses, const double* weights, const Survey<double>& weights_survey, index_t count,
                Partial& partial) {
    if (weights) add_products(partial.loss, losses, weights, count, weights_survey);
    else add_block(partial.loss, losses, count, survey(losses, count), certified<Scalar>);
}

// Adds the losses of the samples, or writes them if the plan has an output. Only add_weights and add_losses know how
// the Part sums; the benchmark has one that does not sum exactly.
template <class Scalar, class Part = Partial>
void nll_forward(const Plan& plan, index_t first, index_t last, Part& partial) {
    alignas(64) index_t classes[2 * block_size];  // of a block, and of the next
    const auto size = [&](index_t begin) { return std::clamp<index_t>(last - begin, 0, block_size); };
    index_t next_kept = load_classes(plan, first, size(first), classes, partial);
    for_each_block(first, last, block_size, [&](index_t begin, index_t count) {
        const index_t kept = next_kept, next = begin + count;
        next_kept = next < last ? load_classes(plan, next, size(next), classes + block_size, partial) : 0;
        if (kept >= 0) {
            alignas(64) double weights[block_size];
            alignas(64) Real<Scalar> losses[block_size];
            Survey<double> weights_survey;
            partial.count += kept;
            if (plan.weight) weights_survey = add_weights(plan, count, classes, weights, partial);
            const index_t known = count + (next_kept >= 0 ? size(next) : 0);
            load_losses<Scalar>(plan, begin, count, known, classes, kept == count && next_kept == size(next), losses);
            if (plan.data[output]) {
                alignas(64) double values[block_size];
                for (index_t i = 0; i < count; ++i) values[i] = static_cast<double>(losses[i]);
                if (plan.weight)
                    for (index_t i = 0; i < count; ++i) values[i] *= weights[i];
                write_losses(plan, begin, count, values);
            } else {
                pad(losses, count);
                add_losses<Scalar>(losses, plan.weight ? weights : nullptr, weights_survey, count, partial);
            }
        }
        std::copy_n(classes + block_size, size(next), classes);
    });
}

// ---------------------------------------------------------------- gradient

// Whether the gradients of consecutive samples are one stretch of memory: rows of classes, or, with `inner` samples
// between two classes, slabs of so many samples.
inline bool is_stretch(const Plan& plan, index_t& inner) {
    const Samples& samples = plan.samples;
    inner = samples.rank == 2 ? samples.axis[1].extent : 1;
    return samples.rank <= 2 && samples.axis[0].stride[gradient] == plan.classes * inner &&
           plan.class_stride[gradient] == inner && (samples.rank == 1 || samples.stride(gradient) == 1) &&
           inner <= block_size;
}

inline constexpr index_t tile_bytes = 32 << 10;  // of a gradient: what a first cache holds

// Samples whose gradient is written at a time, at most block_size: a tile's, at least one row or slab.
inline index_t gradient_block(const Plan& plan, index_t element_size) {
    index_t inner;
    if (!is_stretch(plan, inner)) {
        if (plan.samples.stride(gradient) == 1) return block_size;  // planes are written once, whatever their size
        inner = 1;
    }
    const index_t fitting = tile_bytes / std::max<index_t>(1, std::min(tile_bytes, plan.classes * element_size));
    return std::max(inner, std::min(fitting, block_size) / inner * inner);
}

// The gradient of a run whose samples lie side by side, a class at a time: a plane's entries or zeros.
template <class Scalar>
void write_planes(Scalar* to, const Plan& plan, index_t count, const index_t* classes, const Scalar* entries) {
    using Index =
        std::conditional_t<sizeof(Scalar) == 8, index_t, std::int32_t>;  // wide as what is chosen by it, for SIMD
    Index place[block_size];
    alignas(64) Scalar part[block_size];
    for (index_t i = 0; i < count; ++i) place[i] = static_cast<Index>(classes[i]);
    for (index_t c = 0; c < plan.classes; ++c) {
        Scalar* plane = to + c * plan.class_stride[gradient];
        Scalar* written = plan.streams ? part : plane;
        for (index_t i = 0; i < count; ++i) written[i] = place[i] == static_cast<Index>(c) ? entries[i] : Scalar{};
        if (plan.streams) stream(plane, part, static_cast<std::size_t>(count) * sizeof(Scalar));
    }
}

// The entries of a run in any layout, where zeros are.
template <class Scalar>
void write_entries(Scalar* to, const Plan& plan, index_t count, const index_t* classes, const Scalar* entries) {
    const index_t class_stride = plan.class_stride[gradient], stride = plan.samples.stride(gradient);
    for (index_t i = 0; i < count; ++i, to += stride)
        if (classes[i] != ignored) to[classes[i] * class_stride] = entries[i];
}

// Zeros for a run in any layout.
template <class Scalar> void write_zeros(Scalar* to, const Plan& plan, index_t count) {
    const index_t class_stride = plan.class_stride[gradient], stride = plan.samples.stride(gradient);
    if (class_stride == 1)
        for (index_t i = 0; i < count; ++i) std::fill_n(to + i * stride, plan.classes, Scalar{});
    else
        for (index_t c = 0; c < plan.classes; ++c)
            for (index_t i = 0; i < count; ++i) to[c * class_stride + i * stride] = Scalar{};
}

// The gradients of a block that are one stretch of memory.
template <class Scalar>
void write_stretch(const Plan& plan, index_t first, index_t count, const index_t* classes, const Scalar* entries) {
    constexpr index_t tile_size = tile_bytes / static_cast<index_t>(sizeof(Scalar));
    Scalar* const stretch = plan.pointer<Scalar>(gradient) + first * plan.classes;
    const index_t size = count * plan.classes;
    const auto bytes = [](index_t elements) { return static_cast<std::size_t>(elements) * sizeof(Scalar); };
    const auto enter = [&](Scalar* to) {
        plan.samples.for_each_run(first, count, [&](const Samples::Run& run) {
            Scalar* run_to = to + (run.offset[gradient] - first * plan.classes);
            write_entries(run_to, plan, run.length, classes + run.begin, entries + run.begin);
        });
    };
    if (!plan.streams) {
        std::memset(static_cast<void*>(stretch), 0, bytes(size));
        return enter(stretch);
    }
    alignas(64) Scalar tile[tile_size];
    std::memset(static_cast<void*>(tile), 0, bytes(std::min(size, tile_size)));
    if (size <= tile_size) {
        enter(tile);
        stream(stretch, tile, bytes(size));
    } else {
        for (index_t at = 0; at < size; at += tile_size)
            stream(stretch + at, tile, bytes(std::min(tile_size, size - at)));
        finish_streams();
        enter(stretch);
    }
}

// The elements of grad_output for a block, as double.
inline void load_grad_output(const Plan& plan, index_t first, index_t count, double* grad_output) {
    visit_floating(plan.dtype[output], [&]<class Grad>() {
        plan.samples.for_each_run(first, count, [&](const Samples::Run& run) {
            const Grad* from = plan.pointer<const Grad>(output) + run.offset[output];
            for (index_t i = 0; i < run.length; ++i)
                grad_output[run.begin + i] = to_double(from[i * plan.samples.stride(output)]);
        });
    });
}

// -(w·g)/divisor at the target of every kept sample, in this order, and +0 elsewhere.
template <class Scalar> void nll_gradient(const Plan& plan, index_t first, index_t last, Partial& partial) {
    index_t inner;
    const bool stretch = is_stretch(plan, inner);
    const bool planes = plan.samples.stride(gradient) == 1 && plan.classes < std::numeric_limits<std::int32_t>::max();
    const bool differ = (plan.weight || plan.data[output]) && !plan.zero_gradient;
    const Scalar same_for_all = from_double<Scalar>(plan.zero_gradient ? 0.0 : 0.0 - plan.grad_output / plan.divisor);
    alignas(64) Scalar entries[block_size];
    if (!differ) std::fill_n(entries, block_size, same_for_all);
    for_each_block(first, last, gradient_block(plan, sizeof(Scalar)), [&](index_t begin, index_t count) {
        alignas(64) index_t classes[block_size];
        if (load_classes(plan, begin, count, classes, partial) < 0) return;
        if (differ) {
            alignas(64) double weights[block_size], grad_output[block_size];
            std::fill_n(weights, count, 1.0);
            std::fill_n(grad_output, count, plan.grad_output);
            if (plan.weight) load_weights(plan.weight, classes, count, weights);
            if (plan.data[output]) load_grad_output(plan, begin, count, grad_output);
            for (index_t i = 0; i < count; ++i)
                entries[i] = from_double<Scalar>(0.0 - weights[i] * grad_output[i] / plan.divisor);
        }
        if (stretch) return write_stretch(plan, begin, count, classes, entries);
        plan.samples.for_each_run(begin, count, [&](const Samples::Run& run) {
            Scalar* to = plan.pointer<Scalar>(gradient) + run.offset[gradient];
            if (planes) return write_planes(to, plan, run.length, classes + run.begin, entries + run.begin);
            write_zeros(to, plan, run.length);
            write_entries(to, plan, run.length, classes + run.begin, entries + run.begin);
        });
    });
    if (plan.streams) finish_streams();
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
