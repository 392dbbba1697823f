// SPDX-License-Identifier: BSD-3-Clause
// The negative log likelihood of a block of samples, -weight[t]·input[t], and its gradient.
#pragma once

#include <cstring>

#include "one_hot.hpp"
#include "targets.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

template <class Visit> void for_each_block(index_t first, index_t last, index_t block, Visit&& visit) {
    for (; first < last; first += block) visit(first, std::min(block, last - first));
}

// A block of samples whose labels are loaded: their classes, and those of the samples after them, `known` in all.
template <class Scalar> struct LossBlock {
    index_t first, count, known;
    const index_t* classes;
    bool all_kept;  // of all known
    alignas(64) Real<Scalar> losses[block_size];
    alignas(64) double weights[block_size];  // if the plan has some
};

// A block's losses without weights, -input[t] of kept samples and 0 of others; and its weights. Gathered first and
// summed later: stores of sums between the loads would keep the processor from having many loads under way. Memory for
// the next block is asked for while this one is loaded. meanwhile(so many) is called for every `few` samples: stores
// that pass the caches by cost little between loads that wait for memory.
template <class Scalar, class Meanwhile>
void load_losses(const Plan& plan, const SampleWeights& sample_weights, LossBlock<Scalar>& block, index_t few,
                 Meanwhile&& meanwhile) {
    static constexpr Scalar zero{};
    alignas(64) Scalar gathered[block_size];
    const index_t class_stride = plan.class_stride[input], stride = plan.samples.stride(input);
    // Of a short row every line will be wanted soon, whichever class is.
    const bool short_rows = class_stride == 1 && absolute(stride) * static_cast<index_t>(sizeof(Scalar)) <= 64;
    // Memory is asked for long before, into the second cache, and from there shortly before. The first cache can wait
    // for some 20 lines only, and whoever asks it for more waits, too.
    const index_t far_ahead = short_rows ? block_size / 2 : block.count, ahead = 32;
    plan.samples.for_each_run(block.first, block.count, [&](const Samples::Run& run) {
        const Scalar* sample = plan.pointer<const Scalar>(input) + run.offset[input];
        const index_t* of = block.classes + run.begin;
        Scalar* to = gathered + run.begin;
        double* weights = block.weights + run.begin;
        // As if the run went on beyond its end; it mostly does.
        const index_t asked = std::clamp<index_t>(block.known - run.begin - far_ahead, 0, run.length);
        const auto gather = [&](auto kept, auto step, auto weigh) {
            const auto address = [&](index_t i) { return kept(of[i]) ? sample + i * stride + of[i] * step : &zero; };
            const auto load = [&](index_t i) {
                to[i] = *address(i);
                weigh(weights[i], of[i]);
            };
            for_each_block(0, run.length, few, [&](index_t begin, index_t some) {
                const index_t end = begin + some, last_asked = std::clamp(asked, begin, end);
                for (index_t i = begin; i < last_asked; ++i) {
                    NLL_PREFETCH_FAR(short_rows ? sample + (i + far_ahead) * stride : address(i + far_ahead));
                    NLL_PREFETCH(short_rows ? sample + (i + ahead) * stride : address(i + ahead));
                    load(i);
                }
                for (index_t i = last_asked; i < end; ++i) load(i);
                meanwhile(some);
            });
        };
        const auto gather_weighed = [&](auto step, auto weigh) {
            if (block.all_kept) gather([](index_t) { return std::true_type(); }, step, weigh);
            else gather([](index_t c) { return c != ignored; }, step, weigh);
        };
        const auto gather_step = [&](auto step) {
            if (const double* table = sample_weights.table())
                gather_weighed(step, [table](double& weight, index_t c) { weight = table[c]; });
            else gather_weighed(step, [](double&, index_t) {});
        };
        if (class_stride == 1) gather_step(std::integral_constant<index_t, 1>());
        else gather_step(class_stride);
    });
    if (plan.weight && !sample_weights.table()) sample_weights.load(block.classes, block.count, block.weights);
    for (index_t i = 0; i < block.count; ++i) block.losses[i] = -to_real(gathered[i]);
}

// Fills up to whole lanes with zeros, which change no sum.
template <class T> void pad(T* values, index_t count) {
    for (index_t i = count; i % lanes != 0; ++i) values[i] = 0;
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

// Pads the weights of a block, and adds them to the total; and their survey.
inline Survey<double> add_weights(const SampleWeights& sample_weights, double* weights, index_t count,
                                  Partial& partial) {
    pad(weights, count);
    const Survey<double> block = sample_weights.surveyed(weights, count);
    Spans spans = certified<double>;
    if (fits_float(block)) spans.one = certified<float>.one;
    add_block(partial.weight, weights, count, block, spans);
    return block;
}

// Labels only: are they classes, how many are kept, and their total weight.
inline void nll_check(const Plan& plan, index_t first, index_t last, Partial& partial) {
    const SampleWeights sample_weights(plan, last - first);
    for_each_block(first, last, block_size, [&](index_t begin, index_t count) {
        alignas(64) index_t classes[block_size];
        alignas(64) double weights[block_size];
        const index_t kept = load_classes(plan, begin, count, classes, partial);
        if (kept < 0) return;
        partial.count += kept;
        if (!plan.weight) return;
        sample_weights.load(classes, count, weights);
        add_weights(sample_weights, weights, count, partial);
    });
}

// Adds a block's losses, times its weights if there are any. Both are padded with zeros.
template <class Scalar, class Real>
void add_losses(const Real* losses, const double* weights, const Survey<double>& weights_survey, index_t count,
                Partial& partial) {
    if (weights) add_products(partial.loss, losses, weights, count, weights_survey);
    else add_block(partial.loss, losses, count, survey(losses, count), certified<Scalar>);
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

inline constexpr index_t tile_bytes = 16 << 10;  // of a gradient: half of a first cache, beside what is read

// Samples whose gradient is written at a time, at most block_size: a tile's, at least one row or slab.
inline index_t gradient_block(const Plan& plan, index_t element_size) {
    index_t inner;
    if (!is_stretch(plan, inner)) {
        if (plan.samples.stride(gradient) == 1) return block_size;  // planes are written once, whatever their size
        inner = 1;
    }
    const index_t fitting = tile_bytes / std::max<index_t>(1, std::min(tile_bytes, plan.classes * element_size));
    // 32 of any type are whole cache lines: none is written in two parts.
    const index_t whole = fitting >= 32 * inner ? 32 * inner : inner;
    return std::max(inner, std::min(fitting, block_size) / whole * whole);
}

// The gradient of a run whose samples lie side by side, a class at a time: a plane's entries or zeros.
template <class Scalar>
void write_planes(Scalar* to, const Plan& plan, index_t count, const index_t* classes, const Scalar* entries) {
    using Class = ClassBeside<Scalar>;
    Class place[block_size];
    alignas(64) Scalar part[block_size];
    for (index_t i = 0; i < count; ++i) place[i] = static_cast<Class>(classes[i]);
    for (index_t c = 0; c < plan.classes; ++c) {
        Scalar* plane = to + c * plan.class_stride[gradient];
        Scalar* written = plan.streams ? part : plane;
        for (index_t i = 0; i < count; ++i) written[i] = place[i] == static_cast<Class>(c) ? entries[i] : Scalar{};
        if (plan.streams) stream(plane, part, bytes_of<Scalar>(count));
    }
}

// The entries of a run in any layout, where zeros are.
template <class Scalar>
void write_entries(Scalar* to, const Plan& plan, index_t count, const index_t* classes, const Scalar* entries) {
    const index_t class_stride = plan.class_stride[gradient], stride = plan.samples.stride(gradient);
    const auto enter = [&](auto step) {
        for (index_t i = 0; i < count; ++i, to += stride)
            if (classes[i] != ignored) to[classes[i] * step] = entries[i];
    };
    if (class_stride == 1) enter(std::integral_constant<index_t, 1>());
    else enter(class_stride);
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
template <class Scalar> class Gradient {
public:
    explicit Gradient(const Plan& plan)
        : plan_(plan),
          planes_(plan.samples.stride(gradient) == 1 && plan.classes < std::numeric_limits<std::int32_t>::max()),
          differ_((plan.weight || plan.data[output]) && !plan.zero_gradient) {
        if (!plan.data[gradient]) return;
        index_t inner;
        stretch_ = is_stretch(plan, inner);
        one_hot_ = stretch_ && inner == 1 && plan.streams && OneHotRows<Scalar>::serves(plan.classes);
        if (!differ_)
            std::fill_n(entries_, block_size,
                        from_double<Scalar>(plan.zero_gradient ? 0.0 : 0.0 - plan.grad_output / plan.divisor));
    }

    // Samples to write at a time, at most.
    index_t block() const { return one_hot_ ? block_size : gradient_block(plan_, sizeof(Scalar)); }

    // `weights` is read if the plan has some.
    void write(index_t first, index_t count, const index_t* classes, const double* weights) {
        stream_rest();
        if (differ_) {
            alignas(64) double grad_output[block_size];
            std::fill_n(grad_output, count, plan_.grad_output);
            if (plan_.data[output]) load_grad_output(plan_, first, count, grad_output);
            for (index_t i = 0; i < count; ++i)
                entries_[i] =
                    from_double<Scalar>(0.0 - (plan_.weight ? weights[i] : 1.0) * grad_output[i] / plan_.divisor);
        }
        if (stretch_ && !plan_.zeroed) return write_stretch(first, count, classes);
        plan_.samples.for_each_run(first, count, [&](const Samples::Run& run) {
            Scalar* to = plan_.pointer<Scalar>(gradient) + run.offset[gradient];
            if (planes_ && !plan_.zeroed)
                return write_planes(to, plan_, run.length, classes + run.begin, entries_ + run.begin);
            if (!plan_.zeroed) write_zeros(to, plan_, run.length);
            write_entries(to, plan_, run.length, classes + run.begin, entries_ + run.begin);
        });
    }

    // Whether write() has left something to be streamed; as much of it as so many samples have, in whole lines; all.
    bool waits() const { return waiting_tile_.waits() || waiting_rows_.waits(); }
    void stream_part(index_t samples) {
        const index_t lines = (bytes_of<Scalar>(samples * plan_.classes) + cache_line - 1) / cache_line;
        if (one_hot_) waiting_rows_.write_some(lines);
        else waiting_tile_.copy_some(lines);
    }
    void stream_rest() {
        waiting_rows_.write_rest();
        waiting_tile_.copy_rest();
    }

private:
    static constexpr index_t tile_size = tile_bytes / static_cast<index_t>(sizeof(Scalar));

    // Samples whose gradients are one stretch of memory.
    void write_stretch(index_t first, index_t count, const index_t* classes) {
        Scalar* const stretch = plan_.pointer<Scalar>(gradient) + first * plan_.classes;
        const index_t size = count * plan_.classes;
        const auto clear = [](Scalar* to, index_t elements) {
            std::memset(static_cast<void*>(to), 0, static_cast<std::size_t>(bytes_of<Scalar>(elements)));
        };
        const auto enter = [&](Scalar* to) {
            plan_.samples.for_each_run(first, count, [&](const Samples::Run& run) {
                Scalar* run_to = to + (run.offset[gradient] - first * plan_.classes);
                write_entries(run_to, plan_, run.length, classes + run.begin, entries_ + run.begin);
            });
        };
        if (!plan_.streams) {
            clear(stretch, size);
            return enter(stretch);
        }
        if (one_hot_) return waiting_rows_.begin(stretch, count, plan_.classes, classes, entries_, differ_);
        clear(tile_, std::min(size, tile_size));
        if (size <= tile_size) {
            enter(tile_);
            waiting_tile_ = {stretch, tile_, bytes_of<Scalar>(size)};
        } else {
            for (index_t at = 0; at < size; at += tile_size)
                stream(stretch + at, tile_, bytes_of<Scalar>(std::min(tile_size, size - at)));
            finish_streams();
            enter(stretch);
        }
    }

    const Plan& plan_;
    bool stretch_ = false, one_hot_ = false, planes_, differ_;
    Waiting waiting_tile_;
    OneHotRows<Scalar> waiting_rows_;
    static_assert(OneHotRows<Scalar>::most_rows >= block_size);
    alignas(64) Scalar entries_[block_size + OneHotRows<Scalar>::beyond];
    alignas(64) Scalar tile_[tile_size];
};

// ---------------------------------------------------------------- both

// Adds the losses of the samples if the plan has an input, or writes them if it has an output; and writes the gradient
// if it has one. Both in one sweep: memory that is read and memory that is written are two ways, used at once. Only
// add_weights and add_losses know how the Part sums; the benchmark has one that does not sum exactly.
template <class Scalar, class Part = Partial>
void nll_sweep(const Plan& plan, index_t first, index_t last, Part& partial) {
    alignas(64) index_t room[4 * block_size];
    index_t* classes = room;  // of a block, and after them of the next; copied to the front only when room ends
    const bool writes = plan.data[gradient];
    Gradient<Scalar> gradients(plan);
    const SampleWeights sample_weights(plan, last - first);
    LossBlock<Scalar> block;
    const index_t tile = writes ? gradients.block() : block_size;
    const index_t most = block_size / tile * tile;
    const auto size = [&](index_t begin) { return std::clamp<index_t>(last - begin, 0, most); };
    index_t next_kept = load_classes(plan, first, size(first), classes, partial);
    for_each_block(first, last, most, [&](index_t begin, index_t count) {
        const index_t kept = next_kept, next = begin + count;
        next_kept = next < last ? load_classes(plan, next, size(next), classes + count, partial) : 0;
        if (kept >= 0) {
            partial.count += kept;
            block.first = begin, block.count = count, block.classes = classes;
            block.known = count + (next_kept >= 0 ? size(next) : 0);
            block.all_kept = kept == count && next_kept == size(next);
            if (plan.data[input]) {
                load_losses(plan, sample_weights, block, gradients.waits() ? 16 : block_size,
                            [&](index_t some) { gradients.stream_part(some); });
                Survey<double> weights_survey;
                if (plan.weight) weights_survey = add_weights(sample_weights, block.weights, count, partial);
                if (plan.data[output]) {
                    alignas(64) double values[block_size];
                    for (index_t i = 0; i < count; ++i) values[i] = static_cast<double>(block.losses[i]);
                    if (plan.weight)
                        for (index_t i = 0; i < count; ++i) values[i] *= block.weights[i];
                    write_losses(plan, begin, count, values);
                } else {
                    pad(block.losses, count);
                    add_losses<Scalar>(block.losses, plan.weight ? block.weights : nullptr, weights_survey, count,
                                       partial);
                }
            } else if (plan.weight) {
                sample_weights.load(classes, count, block.weights);
            }
            if (writes)
                for_each_block(begin, next, tile, [&](index_t at, index_t samples) {
                    gradients.write(at, samples, classes + (at - begin), block.weights + (at - begin));
                });
        }
        const index_t* const of_next = classes + count;
        if (of_next + 2 * block_size <= std::end(room)) classes += count;
        else classes = room, std::copy_n(of_next, size(next), classes);
    });
    gradients.stream_rest();
    if (plan.streams) finish_streams();
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
