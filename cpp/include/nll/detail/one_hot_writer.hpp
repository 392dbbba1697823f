// SPDX-License-Identifier: BSD-3-Clause
// Stores of the gradient of nll_loss: one entry a sample, +0 elsewhere. Zeros and entries of a few
// samples are written together, while a cache holds them.
//
//     entries[i] = -(w·grad_output)/divisor            of each sample, or one for all
//     one stretch of memory   cached:  clear it, then enter
//                             streamed, short rows:  one-hot rows in registers
//                                       fits a buffer: clear and enter that, copied later
//                                       else:        zeros past the caches, then enter
//     planes                  class after class: entries[i] where it is the sample's class, else 0
//     anything else           zeros, then entries
//     entries_only            entries
#pragma once

#include "block.hpp"
#include "simd/one_hot_rows.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Tells whether the gradients of consecutive samples are one stretch of memory: rows of classes,
// or, with `inner` samples between two classes, slabs of so many samples.
inline bool is_stretch(const Plan& plan, index_t& inner) {
    const Samples& samples = plan.samples;
    inner = samples.rank == 2 ? samples.axis[1].extent : 1;
    return samples.rank <= 2 && samples.axis[0].stride[gradient] == plan.classes * inner &&
           plan.class_stride[gradient] == inner &&
           (samples.rank == 1 || samples.stride(gradient) == 1) && inner <= block_size &&
           inner * plan.classes <= max_wide_elements;
}

// Returns how many samples are written at a time, at most block_size: as many as a buffer holds,
// but at least one row or slab; of planes, so many that a buffer holds all classes, at least one
// lane.
inline index_t one_hot_block(const Plan& plan, index_t element_size) {
    const index_t row = std::max<index_t>(1, plan.classes);
    index_t inner;
    if (!is_stretch(plan, inner)) {
        if (plan.samples.stride(gradient) == 1)
            return std::clamp(max_wide_elements / row, lanes, block_size);
        inner = 1;
    }
    const index_t fitting = buffer_bytes / std::min(buffer_bytes, row * element_size);
    // 32 of any type are whole cache lines: none is written in two parts.
    const index_t whole = fitting >= 32 * inner ? 32 * inner : inner;
    return std::max(inner, std::min(fitting, block_size) / whole * whole);
}

template <class Scalar> class OneHotWriter {
public:
    explicit OneHotWriter(const Plan& plan)
        : plan_(plan), differ_((plan.weighs() || plan.has(grad_output)) && !plan.zero_gradient) {
        if (!plan.has(gradient)) return;
        index_t inner;
        stretch_ = is_stretch(plan, inner) && plan.store != Store::entries_only;
        in_registers_ = stretch_ && inner == 1 && plan.store == Store::streamed &&
                        OneHotRows<Scalar>::serves(plan.classes);
        if (differ_) return;
        const double entry = plan.zero_gradient ? 0.0 : 0.0 - plan.grad_output / plan.divisor;
        std::fill_n(entries_, block_size, from_double<Scalar>(entry));
    }

    // Returns how many samples to write at a time, at most.
    index_t block() const {
        return in_registers_ ? block_size : one_hot_block(plan_, sizeof(Scalar));
    }

    // Writes samples [first, first + count). classes: (count,). weights: (count,), if the plan has
    // some.
    void write(index_t first, index_t count, const index_t* classes, const double* weights) {
        finish_pending();
        if (differ_) load_entries(first, count, weights);
        if (stretch_) return write_stretch(first, count, classes);
        const bool planes = plan_.samples.stride(gradient) == 1 &&
                            plan_.classes < std::numeric_limits<std::int32_t>::max();
        plan_.samples.for_each_run(first, count, [&](const Samples::Run& run) {
            Scalar* to = plan_.pointer<Scalar>(gradient) + run.offset[gradient];
            const index_t* of = classes + run.begin;
            const Scalar* entries = entries_ + run.begin;
            if (plan_.store != Store::entries_only) {
                if (planes) return write_planes(to, run.length, of, entries);
                write_zeros(to, run.length);
            }
            write_entries(to, run.length, of, entries);
        });
    }

    // Tells whether write() has left something to be streamed.
    bool pending() const { return buffer_copy_.pending() || rows_.pending(); }
    // Streams as much of it as so many samples have, in whole lines.
    void pump(index_t samples) {
        const index_t bytes = bytes_of<Scalar>(samples * plan_.classes);
        const index_t lines = (bytes + cache_line - 1) / cache_line;
        if (in_registers_) rows_.copy(lines);
        else buffer_copy_.copy(lines);
    }
    // Streams all of it, and lets other threads read it.
    void finish() {
        finish_pending();
        if (plan_.store == Store::streamed) finish_streams();
    }

private:
    static constexpr index_t buffer_size = buffer_bytes / index_t{sizeof(Scalar)};

    void finish_pending() {
        rows_.finish();
        buffer_copy_.finish();
    }

    void load_entries(index_t first, index_t count, const double* weights) {
        load_grad_output(plan_, first, count, grad_outputs_);
        for (index_t i = 0; i < count; ++i) {
            const double weight = plan_.weighs() ? weights[i] : 1.0;
            entries_[i] = from_double<Scalar>(0.0 - weight * grad_outputs_[i] / plan_.divisor);
        }
    }

    // Writes samples whose gradients are one stretch of memory.
    void write_stretch(index_t first, index_t count, const index_t* classes) {
        const index_t begin = first * plan_.classes, size = count * plan_.classes;
        Scalar* const stretch = plan_.pointer<Scalar>(gradient) + begin;
        const auto clear = [](Scalar* to, index_t elements) {
            std::memset(static_cast<void*>(to), 0,
                        static_cast<std::size_t>(bytes_of<Scalar>(elements)));
        };
        const auto enter = [&](Scalar* to) {
            plan_.samples.for_each_run(first, count, [&](const Samples::Run& run) {
                write_entries(to + (run.offset[gradient] - begin), run.length, classes + run.begin,
                              entries_ + run.begin);
            });
        };
        if (plan_.store == Store::cached) {
            clear(stretch, size);
            return enter(stretch);
        }
        if (in_registers_)
            return rows_.begin(stretch, count, plan_.classes, classes, entries_, differ_);
        clear(buffer_, std::min(size, buffer_size));
        if (size <= buffer_size) {
            enter(buffer_);
            buffer_copy_ = {stretch, buffer_, bytes_of<Scalar>(size)};
            return;
        }
        for (index_t at = 0; at < size && !plan_.is_abandoned(); at += buffer_size)
            stream(stretch + at, buffer_, bytes_of<Scalar>(std::min(buffer_size, size - at)));
        finish_streams();
        enter(stretch);
    }

    // Writes a run whose samples lie side by side, class after class.
    void write_planes(Scalar* to, index_t count, const index_t* classes, const Scalar* entries) {
        // Names an integer as wide as an entry, for SIMD; a class might not fit 16 bits.
        using Class = std::conditional_t<sizeof(Scalar) == 8, index_t, std::int32_t>;
        const bool streams = plan_.store == Store::streamed;
        Class place[block_size];
        for (index_t i = 0; i < count; ++i) place[i] = static_cast<Class>(classes[i]);
        for (index_t c = 0; c < plan_.classes; ++c) {
            if (plan_.is_abandoned()) return;
            Scalar* const plane = to + c * plan_.class_stride[gradient];
            Scalar* const part = streams ? buffer_ : plane;
            for (index_t i = 0; i < count; ++i)
                part[i] = place[i] == static_cast<Class>(c) ? entries[i] : Scalar{};
            if (streams) stream(plane, part, bytes_of<Scalar>(count));
        }
    }
    // Writes the entries of a run in any layout, where zeros are.
    void write_entries(Scalar* to, index_t count, const index_t* classes, const Scalar* entries) {
        const index_t stride = plan_.samples.stride(gradient);
        const auto enter = [&](auto step) {
            for (index_t i = 0; i < count; ++i, to += stride)
                if (classes[i] != ignored) to[classes[i] * step] = entries[i];
        };
        if (plan_.class_stride[gradient] == 1) enter(std::integral_constant<index_t, 1>());
        else enter(plan_.class_stride[gradient]);
    }
    // Writes zeros to a run in any layout.
    void write_zeros(Scalar* to, index_t count) {
        const index_t class_stride = plan_.class_stride[gradient];
        const index_t stride = plan_.samples.stride(gradient);
        if (class_stride == 1) {
            for (index_t i = 0; i < count; ++i)
                for_each_block(0, plan_.classes, max_piece_elements,
                               [&](index_t first, index_t classes) {
                                   if (plan_.is_abandoned()) return;
                                   std::fill_n(to + i * stride + first, classes, Scalar{});
                               });
        } else {
            for (index_t c = 0; c < plan_.classes && !plan_.is_abandoned(); ++c)
                for (index_t i = 0; i < count; ++i) to[c * class_stride + i * stride] = Scalar{};
        }
    }

    const Plan& plan_;
    const bool differ_;  // entries, from sample to sample
    bool stretch_ = false, in_registers_ = false;
    DeferredCopy buffer_copy_;
    OneHotRows<Scalar> rows_;
    static_assert(OneHotRows<Scalar>::most_rows >= block_size && buffer_size >= block_size);
    alignas(cache_line) Scalar entries_[block_size + OneHotRows<Scalar>::beyond];
    alignas(cache_line) Scalar buffer_[buffer_size];
    alignas(cache_line) double grad_outputs_[block_size];
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
