// SPDX-License-Identifier: BSD-3-Clause
// The cross-entropy of a block of samples from their logits, its gradient, and the logarithm of their softmax.
//
// With m the largest logit of a sample and S = 1 + rest the sum of e^(x - m), its loss is (m - x_t) + log1p(rest), and
// the gradient at the target is made of all other terms of S: where x_t is nearly all of S, log(S) and x_t/S - 1 would
// lose every digit. What is loaded once serves both.
//
// Many classes that lie side by side are taken sample by sample (rows). Otherwise, and where there are few of them, up
// to 128 samples are taken at a time, class by class (tiles). Both add up in the same order.
#pragma once

#include "nll_loss.hpp"
#include "softmax.hpp"
#include "tiles.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

// What a kernel works in.
template <class Scalar, class Arithmetic> struct Workspace {
    using Real = typename Arithmetic::Real;
    static constexpr index_t size = (16 << 10) / sizeof(Real);
    static_assert(size >= chunk_size);
    alignas(64) Real values[size];
    alignas(64) typename Arithmetic::Power powers[size];
    alignas(64) Scalar part[size];
    alignas(64) double class_weights[chunk_size];  // for label smoothing
};

// A block of samples: what the labels say about each, and what is found.
template <class Arithmetic> struct Block {
    using Factor = typename Arithmetic::Factor;
    index_t count;
    bool ignores;  // a sample
    alignas(64) index_t classes[block_size];
    alignas(64) double weights[block_size];
    alignas(64) double losses[block_size];  // without the weight, unless smoothed
    // The gradient is all·softmax - each·(class weight), less `target` at the target.
    alignas(64) Factor target[block_size], each[block_size], all[block_size];
};

// Whether samples are taken one by one.
inline bool by_rows(const Plan& plan) {
    return plan.classes > in_turn &&  // a row has costs of its own
           (plan.samples.count == 1 || absolute(plan.class_stride[input]) <= absolute(plan.samples.stride(input)));
}

// ---------------------------------------------------------------- one sample's terms

// The loss with smoothing from that without. `every` is Σ w·(largest - x) + log1p(rest)·Σ w.
inline double smoothed(const Plan& plan, double loss, double weight, double every) {
    const double smoothing = plan.label_smoothing;
    return (1 - smoothing) * weight * loss + smoothing / static_cast<double>(plan.classes) * every;
}

// The gradient at the target of sample i: -target·(1 - p) + each·(p·Σ w - w). `power` is e^(logit - largest).
template <class Arithmetic>
double target_entry(const Plan& plan, const Block<Arithmetic>& block, index_t i, double largest, double rest,
                    double logit, double power) {
    using Factor = typename Arithmetic::Factor;
    const Factor sum = sum_of(Factor{1}, Factor{rest});
    const double others = logit == largest ? rest : sum.high - power;
    const double entry = -scaled(quotient_of(block.target[i], sum), others);
    if (plan.label_smoothing == 0) return entry;
    const Factor every = quotient_of(product_of(block.each[i], plan.class_weights), sum);
    return entry + (scaled(every, power) - scaled(block.each[i], block.weights[i]));
}

template <class Scalar> Scalar without_sign_of_zero(Scalar value) {
    return {static_cast<std::uint16_t>(value.bits == 0x8000 ? 0 : value.bits)};
}

// Rounds an entry of a gradient; a zero is +0, also where a number is below all of the type.
template <class Scalar> Scalar entry_of(double value) {
    if constexpr (std::floating_point<Scalar>) return static_cast<Scalar>(value) + Scalar{0};
    else return without_sign_of_zero(from_double<Scalar>(value));
}

// The gradient from powers, class after class of `samples`: a factor for each sample, or one for all.
template <class Arithmetic, bool each, class Scalar>
[[gnu::noinline]] void scale_powers(const typename Arithmetic::Power* powers, index_t classes, index_t samples,
                                    index_t pitch, const typename Arithmetic::Factor* factor, Scalar* part,
                                    index_t part_pitch) {
    const auto scale = [&](auto&& entry) {
        for (index_t c = 0; c < classes; ++c) {
            const typename Arithmetic::Power* __restrict from = powers + c * pitch;
            Scalar* __restrict to = part + c * part_pitch;
            for (index_t i = 0; i < samples; ++i) to[i] = entry(from[i], each ? i : 0);
        }
    };
    if constexpr (std::same_as<Arithmetic, Half> && std::same_as<Scalar, bfloat16>) {
        constexpr index_t most = 128;
        float mantissa[each ? most : 1], exponent[each ? most : 1];  // of a factor, which may be less than any float
        bool negative = false;
        for (index_t i = 0; i < (each ? samples : 1); ++i) {
            const double one = factor[i].high;
            const double power_of_two = std::bit_cast<double>(std::bit_cast<std::uint64_t>(one) & 0x7ff0000000000000);
            exponent[i] = static_cast<float>(std::clamp(power_of_two, 0x1p-126, 0x1p126));
            mantissa[i] = static_cast<float>(one / exponent[i]);
            negative |= std::signbit(one);
        }
        // Rounds halves away from zero: in a product of rounded numbers they say nothing.
        const auto entry = [&](float power, index_t i) {
            const auto bits = std::bit_cast<std::uint32_t>(power * mantissa[i] * exponent[i]);
            return bfloat16{static_cast<std::uint16_t>((bits + 0x8000) >> 16)};
        };
        if (!negative) return scale(entry);
        return scale([&](float power, index_t i) { return without_sign_of_zero(entry(power, i)); });
    }
    scale([&](auto power, index_t i) { return entry_of<Scalar>(scaled(factor[i], static_cast<double>(power))); });
}

// ---------------------------------------------------------------- rows: classes side by side

template <class Scalar, class Arithmetic> class Rows {
    using Real = typename Arithmetic::Real;
    using Power = typename Arithmetic::Power;

public:
    Rows(const Plan& plan, Workspace<Scalar, Arithmetic>& space, void* kept)
        : plan_(plan), space_(space), kept_(static_cast<Power*>(kept)) {}

    void cross_entropy(index_t begin, Block<Arithmetic>& block) {
        for_each_row(begin, block.count, [&](index_t i, const Scalar* from, Scalar* to) {
            if (block.classes[i] == ignored) {
                block.losses[i] = 0;
            } else {
                const Softmax softmax = softmax_of(from);
                const double logit = logit_of(from, block.classes[i]);
                block.losses[i] = loss_of(softmax, logit, block.weights[i]);
                if (to)
                    return for_each_chunk([&](index_t first, index_t classes) {
                        write_gradient(from, to, first, classes, softmax, logit, block, i);
                    });
            }
            if (to) for_each_chunk([&](index_t first, index_t classes) { write_zeros(to, first, classes); });
        });
    }

    void log_softmax(index_t begin, index_t count) {
        for_each_row(begin, count, [&](index_t, const Scalar* from, Scalar* to) {
            const Softmax softmax = softmax_of(from);
            const double log_sum = log1p_of<Arithmetic::exact>(softmax.rest);
            for_each_chunk([&](index_t first, index_t classes) {
                write_logarithms(from, to, first, classes, softmax.largest, log_sum);
            });
        });
    }

    // The same of one row in steps, each of some of its chunks.

    void take_chunks(SharedRow& row, index_t first_chunk, index_t last_chunk) {
        take_center(row);
        for_each_row(row.sample, 1, [&](index_t, const Scalar* from, Scalar*) {
            for_each_chunk(first_chunk, last_chunk, [&](index_t first, index_t classes) {
                Softmax& chunk = row.chunks[first / chunk_size - row.first_chunk];
                chunk = {};
                if (row.known || !Arithmetic::exact) add_chunk(chunk, from, first, classes, nullptr);
                else
                    nll::add_chunk(chunk, largest_of(load(from, first, classes), paired(classes)), 0, 0,
                                   first / chunk_size);
            });
        });
    }
    // When all are merged. If its powers have to be taken relative to another number, they have to be taken once more.
    void finish(SharedRow& row) {
        take_center(row);
        const auto largest = static_cast<Real>(row.whole.largest);
        const bool usable = row.known || (!Arithmetic::exact && reference_.reaches(&largest, 1));
        if (!usable) {
            row = {.sample = row.sample, .chunks = row.chunks, .known = true, .center = row.whole.largest};
            return;
        }
        row.known = true;
        for_each_row(row.sample, 1, [&](index_t, const Scalar* from, Scalar*) { settle(from, row.whole, nullptr); });
        row.finished = true;
    }
    // Losses of an ignored sample are 0.
    void take_loss(SharedRow& row, Block<Arithmetic>& block) {
        for_each_row(row.sample, 1, [&](index_t i, const Scalar* from, Scalar*) {
            const bool kept = block.classes[i] != ignored;
            row.logit = kept ? logit_of(from, block.classes[i]) : 0.0;
            block.losses[i] = kept ? loss_of(row.whole, row.logit, block.weights[i]) : 0.0;
        });
    }
    void write_gradient(const SharedRow& row, const Block<Arithmetic>& block, index_t first_chunk, index_t last_chunk) {
        take_center(row);
        for_each_row(row.sample, 1, [&](index_t i, const Scalar* from, Scalar* to) {
            for_each_chunk(first_chunk, last_chunk, [&](index_t first, index_t classes) {
                if (block.classes[i] == ignored) write_zeros(to, first, classes);
                else write_gradient(from, to, first, classes, row.whole, row.logit, block, i);
            });
        });
    }
    void write_logarithms(const SharedRow& row, index_t first_chunk, index_t last_chunk) {
        const double log_sum = log1p_of<Arithmetic::exact>(row.whole.rest);
        for_each_row(row.sample, 1, [&](index_t, const Scalar* from, Scalar* to) {
            for_each_chunk(first_chunk, last_chunk, [&](index_t first, index_t classes) {
                write_logarithms(from, to, first, classes, row.whole.largest, log_sum);
            });
        });
    }

    // Classes whose powers may be kept between the loss and the gradient: what a second-level cache holds.
    static constexpr index_t most_kept = 64 << 10;

private:
    template <class Visit> void for_each_row(index_t begin, index_t count, Visit&& visit) const {
        const Samples& samples = plan_.samples;
        samples.for_each_run(begin, count, [&](const Samples::Run& run) {
            for (index_t i = 0; i < run.length; ++i) {
                Scalar* to = plan_.pointer<Scalar>(gradient);
                if (to) to += run.offset[gradient] + i * samples.stride(gradient);
                visit(run.begin + i, plan_.pointer<const Scalar>(input) + run.offset[input] + i * samples.stride(input),
                      to);
            }
        });
    }
    template <class Visit> void for_each_chunk(Visit&& visit) const {
        for_each_block(0, plan_.classes, chunk_size, visit);
    }
    template <class Visit> void for_each_chunk(index_t first, index_t last, Visit&& visit) const {
        for_each_block(first * chunk_size, std::min(last * chunk_size, plan_.classes), chunk_size, visit);
    }

    // Whether a chunk's values can be read where they are.
    bool in_place(index_t classes) const { return plan_.class_stride[input] == 1 && classes == paired(classes); }
    // Whole pairs of lanes of values, filled up with -inf.
    const Real* load(const Scalar* from, index_t first, index_t classes) {
        const index_t stride = plan_.class_stride[input];
        if constexpr (std::same_as<Scalar, Real>)
            if (in_place(classes)) return from + first;
        copy_values(from + first * stride, stride, 0, space_.values, 1, 0, classes, 1);
        std::fill(space_.values + classes, space_.values + paired(classes), -std::numeric_limits<Real>::infinity());
        return space_.values;
    }
    // Where a chunk's results are to be written: where they belong, or into the workspace for `store`.
    Scalar* destination(Scalar* to, index_t first) {
        return plan_.class_stride[gradient] == 1 && !plan_.streams ? to + first : space_.part;
    }
    void store(Scalar* to, index_t first, index_t classes, const Scalar* written) const {
        const index_t stride = plan_.class_stride[gradient];
        if (written == space_.part) store_row(written, to + first * stride, stride, classes, plan_.streams);
    }

    void refer_to(double largest) {
        const auto center = static_cast<Real>(largest);
        reference_ = Reference<Arithmetic, 1>(&center, 1);
    }
    void take_center(const SharedRow& row) {
        if (row.known) refer_to(row.center);
        else reference_ = {};
    }

    // The powers of a chunk, if there is a place for them; their sum.
    double add_powers(const Scalar* from, index_t first, index_t classes, Power* powers, Real& largest) {
        // The next chunk, or the next sample's first.
        const bool more = first + classes < plan_.classes;
        const Scalar* next =
            more ? from + (first + classes) * plan_.class_stride[input] : from + plan_.samples.stride(input);
        double sums[lanes];
        const auto compute = [&](const auto* values) {
            exponentials_of_row(values, paired(classes), reference_, reinterpret_cast<const std::byte*>(next),
                                lanes * sizeof(Scalar), powers, sums, largest);
        };
        if (in_place(classes)) compute(from + first);
        else compute(load(from, first, classes));
        return add_lanes(sums);
    }
    void add_chunk(Softmax& softmax, const Scalar* from, index_t first, index_t classes, Power* powers) {
        if (plan_.label_smoothing != 0) {
            const Real* values = load(from, first, classes);
            double* weights = space_.class_weights;
            load_class_weights(plan_, first, classes, weights);
            std::fill(weights + classes, weights + paired(classes), 0.0);
            const double offset = reference_.offset(0);
            for (index_t c = 0; c < classes; ++c)
                space_.powers[c] = static_cast<Power>(weights[c] * (offset - values[c]));
            std::fill(space_.powers + classes, space_.powers + paired(classes), Power{0});
            const Compensated below = compensated_sum(space_.powers, paired(classes));
            const Compensated weight = compensated_sum(weights, paired(classes));
            softmax.below += total_of(below.sum, below.error);
            softmax.weight += total_of(weight.sum, weight.error);
        }
        Real largest;
        if (Arithmetic::exact && !powers) powers = space_.powers;
        Compensated sum{add_powers(from, first, classes, powers, largest), 0};
        if (Arithmetic::exact) sum = compensated_sum(powers, paired(classes));
        nll::add_chunk(softmax, largest, sum.sum, sum.error, first / chunk_size);
    }
    // When all chunks are added. Their powers may have been kept.
    void settle(const Scalar* from, Softmax& softmax, const Power* kept) {
        const auto largest = static_cast<Real>(softmax.largest);
        softmax.unit = reference_.template exponential<true>(std::fabs(largest) < infinity ? largest : Real{0}, 0);
        if (!Arithmetic::exact && !leaves_enough(softmax.sum, softmax.unit)) {
            const index_t first = softmax.chunk * chunk_size;
            const index_t classes = std::min(chunk_size, plan_.classes - first);
            const Power* powers = kept ? kept + first : space_.powers;
            Real unused;
            if (!kept) add_powers(from, first, classes, space_.powers, unused);
            const Compensated sum = compensated_sum(powers, paired(classes));
            replace_chunk(softmax, sum.sum, sum.error);
        }
        softmax.rest = rest_of<Arithmetic>(softmax.largest, softmax.sum, softmax.lost, softmax.unit);
        softmax.below += softmax.weight * (softmax.largest - reference_.offset(0));
    }

    Softmax softmax_of(const Scalar* from) {
        if constexpr (Arithmetic::exact) {
            Real largest = -std::numeric_limits<Real>::infinity();
            for_each_chunk([&](index_t first, index_t classes) {
                largest = std::max(largest, largest_of(load(from, first, classes), paired(classes)));
            });
            refer_to(largest);
        }
        const auto sum = [&] {
            Softmax softmax;
            for_each_chunk([&](index_t first, index_t classes) {
                add_chunk(softmax, from, first, classes, kept_ ? kept_ + first : nullptr);
            });
            return softmax;
        };
        Softmax softmax = sum();
        const auto largest = static_cast<Real>(softmax.largest);
        if (!reference_.reaches(&largest, 1)) {
            refer_to(softmax.largest);
            softmax = sum();
        }
        settle(from, softmax, kept_);
        return softmax;
    }

    // Of a chunk, for the gradient.
    const Power* powers_of(const Scalar* from, index_t first, index_t classes) {
        if (kept_) return kept_ + first;
        Real unused;
        add_powers(from, first, classes, space_.powers, unused);
        return space_.powers;
    }

    double logit_of(const Scalar* from, index_t target) const {
        return converted<Real>(from[target * plan_.class_stride[input]]);
    }
    double loss_of(const Softmax& softmax, double logit, double weight) const {
        const double log_sum = log1p_of<Arithmetic::exact>(softmax.rest), loss = (softmax.largest - logit) + log_sum;
        if (plan_.label_smoothing == 0) return loss;
        return smoothed(plan_, loss, weight, softmax.below + softmax.weight * log_sum);
    }

    void write_gradient(const Scalar* from, Scalar* to, index_t first, index_t classes, const Softmax& softmax,
                        double logit, const Block<Arithmetic>& block, index_t i) {
        using Factor = typename Arithmetic::Factor;
        const Power* powers = powers_of(from, first, classes);
        const double scale = 1 / softmax.unit;  // of powers, to e^(x - largest)
        const Factor sum = sum_of(Factor{1}, Factor{softmax.rest});
        const Factor factor = product_of(quotient_of(block.all[i], sum), scale);
        Scalar* part = destination(to, first);
        if (plan_.label_smoothing == 0) {
            scale_powers<Arithmetic, false>(powers, 1, classes, 0, &factor, part, 0);
        } else {
            load_class_weights(plan_, first, classes, space_.class_weights);
            for (index_t c = 0; c < classes; ++c)
                part[c] = entry_of<Scalar>(scaled(factor, powers[c]) - scaled(block.each[i], space_.class_weights[c]));
        }
        const index_t target = block.classes[i] - first;
        if (target >= 0 && target < classes)
            part[target] = entry_of<Scalar>(target_entry(plan_, block, i, softmax.largest, softmax.rest, logit,
                                                         static_cast<double>(powers[target]) * scale));
        store(to, first, classes, part);
    }
    void write_zeros(Scalar* to, index_t first, index_t classes) {
        Scalar* part = destination(to, first);
        std::fill_n(part, classes, Scalar{});
        store(to, first, classes, part);
    }
    void write_logarithms(const Scalar* from, Scalar* to, index_t first, index_t classes, double largest,
                          double log_sum) {
        const Real* values = load(from, first, classes);
        Scalar* part = destination(to, first);
        for (index_t c = 0; c < classes; ++c) part[c] = from_double<Scalar>((values[c] - largest) - log_sum);
        store(to, first, classes, part);
    }

    const Plan& plan_;
    Workspace<Scalar, Arithmetic>& space_;
    Power* kept_;                         // paired(classes) powers, or none: then they are computed again
    Reference<Arithmetic, 1> reference_;  // of the last row; the next may do with it
};

// ---------------------------------------------------------------- tiles: samples side by side

template <class Scalar, class Arithmetic> class Tiles {
    using Real = typename Arithmetic::Real;
    using Power = typename Arithmetic::Power;
    static constexpr int most_samples = 128;

public:
    Tiles(const Plan& plan, Workspace<Scalar, Arithmetic>& space, void* gathered)
        : plan_(plan),
          space_(space),
          gathered_(static_cast<Scalar*>(gathered)),
          pitch_(std::clamp<index_t>(space.size / std::max<index_t>(plan.classes, 1) / lanes * lanes, lanes,
                                     plan.class_stride[input] == 1 ? most_samples / 2 : most_samples)),
          whole_(plan.classes <= space.size / pitch_),
          part_(whole_ ? plan.classes : space.size / pitch_ / pair_size * pair_size) {}

    // Whether results are better gathered for a whole block, and then streamed: longer stretches of every plane.
    static bool gathers(const Plan& plan) {
        return plan.streams && plan.samples.stride(gradient) == 1 && plan.class_stride[gradient] != 1 &&
               plan.classes <= most_gathered / block_size;
    }
    static constexpr index_t most_gathered = 32 << 10;  // elements

    void cross_entropy(index_t begin, Block<Arithmetic>& block) {
        block_begin_ = begin;
        for_each_block(0, block.count, pitch_, [&](index_t first, index_t count) {
            softmax(begin + first, count);
            alignas(64) double logit[most_samples], log_sum[most_samples];
            load_logits(block.classes + first, logit);
            take_log_sums(log_sum);
            double* losses = block.losses + first;
            for (index_t i = 0; i < count; ++i) losses[i] = (largest_[i] - logit[i]) + log_sum[i];
            if (plan_.label_smoothing != 0)
                for (index_t i = 0; i < count; ++i)
                    losses[i] =
                        smoothed(plan_, losses[i], block.weights[first + i], below_[i] + weight_[i] * log_sum[i]);
            for (index_t i = 0; i < count && block.ignores; ++i)
                losses[i] = block.classes[first + i] == ignored ? 0.0 : losses[i];
            if (plan_.data[gradient]) write_gradient(first, logit, block);
        });
        if (gathered_) store_block(begin, block.count);
    }

    void log_softmax(index_t begin, index_t count) {
        block_begin_ = begin;
        for_each_block(0, count, pitch_, [&](index_t first, index_t samples) {
            softmax(begin + first, samples);
            alignas(64) double log_sum[most_samples];
            take_log_sums(log_sum);
            for_each_block(0, plan_.classes, part_, [&](index_t from, index_t classes) {
                if (!whole_) load(from, classes);
                const Destination to = destination(from);
                for (index_t c = 0; c < classes; ++c)
                    for (index_t i = 0; i < samples; ++i) {
                        const double value = values_[c * values_pitch_ + i];
                        to.to[c * to.pitch + i] = from_double<Scalar>((value - largest_[i]) - log_sum[i]);
                    }
                store(from, classes, to);
            });
        });
        if (gathered_) store_block(begin, count);
    }

private:
    template <class Visit> void for_each_chunk(Visit&& visit) const {
        for_each_block(0, plan_.classes, chunk_size, visit);
    }
    // The parts of a chunk, loaded unless all classes are.
    template <class Visit> void for_each_part(index_t first, index_t classes, Visit&& visit) {
        for_each_block(first, first + classes, part_, [&](index_t from, index_t count) {
            if (!whole_) load(from, count);
            visit(from, count);
        });
    }
    // The memory of the tile's samples where it is laid out as a tile, else nullptr.
    template <class T> T* in_place(Operand operand, index_t first) const {
        T* found = nullptr;
        if (plan_.samples.stride(operand) == 1 && width_ == count_)
            plan_.samples.for_each_run(begin_, count_, [&](const Samples::Run& run) {
                if (run.length == count_)
                    found = plan_.pointer<T>(operand) + run.offset[operand] + first * plan_.class_stride[operand];
            });
        return found;
    }
    void load(index_t first, index_t classes) {
        if constexpr (std::same_as<Scalar, Real>)
            if ((values_ = in_place<const Scalar>(input, first))) {
                values_pitch_ = plan_.class_stride[input];
                return;
            }
        values_ = space_.values;
        values_pitch_ = pitch_;
        for (index_t c = 0; c < classes && width_ > count_; ++c)
            std::fill(space_.values + c * pitch_ + count_, space_.values + c * pitch_ + width_, Real{0});
        plan_.samples.for_each_run(begin_, count_, [&](const Samples::Run& run) {
            load_tile(plan_, run, first, classes, space_.values, pitch_, space_.part);
        });
    }
    // Where results are to be written: where they belong if that is laid out as a tile, else into the workspace.
    struct Destination {
        Scalar* to;
        index_t pitch;
    };
    Destination destination(index_t first) {
        if (gathered_) return {gathered_ + (begin_ - block_begin_), block_size};
        Scalar* to = plan_.streams ? nullptr : in_place<Scalar>(gradient, first);
        if (to) return {to, plan_.class_stride[gradient]};
        return {space_.part, pitch_};
    }
    void store(index_t first, index_t classes, Destination written) const {
        if (written.to != space_.part) return;
        plan_.samples.for_each_run(begin_, count_, [&](const Samples::Run& run) {
            store_tile(plan_, run, first, classes, space_.part, pitch_);
        });
    }

    void store_block(index_t begin, index_t count) const {
        plan_.samples.for_each_run(begin, count, [&](const Samples::Run& run) {
            store_tile(plan_, run, 0, plan_.classes, gathered_, block_size);
        });
    }

    // The softmax of each sample. Where a tile holds all classes, their powers are kept.
    void softmax(index_t begin, index_t count) {
        begin_ = begin;
        count_ = count;
        width_ = padded(count);
        next_ = nullptr;
        if (whole_) {
            load(0, plan_.classes);
            if (begin + count < plan_.samples.count)
                plan_.samples.for_each_run(begin + count, 1, [&](const Samples::Run& run) {
                    next_ = plan_.pointer<const Scalar>(input) + run.offset[input];
                });
        }
        if (Arithmetic::exact) {
            std::fill_n(largest_, width_, -std::numeric_limits<Real>::infinity());
            for_each_part(0, plan_.classes,
                          [&](index_t, index_t part) { take_largest(values_, part, width_, values_pitch_, largest_); });
        } else {
            each_ = false;
            sum_chunks();
            each_ = !shared_.reaches(largest_, width_);
        }
        if (Arithmetic::exact || each_) {
            each_ = true;
            reference_ = Reference<Arithmetic, most_samples>(largest_, width_);
            shared_ = Reference<Arithmetic, 1>(largest_, 1);  // the next tile may do with it
            sum_chunks();
        }
        settle();
    }

    bool in_turns() const { return !Arithmetic::exact && plan_.classes <= in_turn; }
    void sum_chunks() {
        std::fill_n(largest_, width_, -std::numeric_limits<Real>::infinity());
        for (double* zero : {sum_, lost_}) std::fill_n(zero, width_, 0.0);
        if (plan_.label_smoothing != 0) {
            for (double* zero : {below_, weight_}) std::fill_n(zero, width_, 0.0);
            for_each_chunk([&](index_t first, index_t classes) { smooth(first, classes); });
        }
        if (in_turns()) return compute_powers(plan_.classes, largest_, sum_);
        std::fill_n(chunk_, width_, index_t{-1});
        for_each_chunk([&](index_t first, index_t classes) { add_chunk(first, classes); });
    }

    void compute_powers(index_t classes) {
        alignas(64) Real largest[most_samples];
        alignas(64) double sum[most_samples];
        compute_powers(classes, largest, sum);
    }
    // Powers of the classes that are loaded; they count among the largest and the sums in turn.
    void compute_powers(index_t classes, Real* largest, double* sums) {
        const index_t step = plan_.class_stride[input] == 1 ? width_ : plan_.class_stride[input];
        const auto compute = [&](const auto& reference) {
            exponentials_of_tile(values_, classes, width_, values_pitch_, reference, next_, step, space_.powers, pitch_,
                                 largest, sums);
        };
        if (each_) compute(reference_);
        else compute(shared_);
    }

    void add_chunk(index_t first, index_t classes) {
        alignas(64) Real largest[most_samples];
        std::fill_n(largest, width_, -std::numeric_limits<Real>::infinity());
        LaneSums<most_samples, Arithmetic::exact> sums;
        for_each_part(first, classes, [&](index_t, index_t count) {
            alignas(64) double unused[most_samples];
            compute_powers(count, largest, unused);
            sums.add_classes(space_.powers, count, width_, pitch_);
        });
        sums.finish(width_);
        for (index_t i = 0; i < width_; ++i) {
            Softmax softmax;
            softmax.largest = largest_[i];
            softmax.sum = sum_[i];
            softmax.lost = lost_[i];
            softmax.chunk = chunk_[i];
            softmax.chunk_sum = chunk_sum_[i];
            nll::add_chunk(softmax, largest[i], sums.sum[i], Arithmetic::exact ? sums.error[i] : 0.0,
                           first / chunk_size);
            largest_[i] = static_cast<Real>(softmax.largest);
            sum_[i] = softmax.sum;
            lost_[i] = softmax.lost;
            chunk_[i] = softmax.chunk;
            chunk_sum_[i] = softmax.chunk_sum;
        }
    }

    void settle() {
        const auto take_units = [&](const auto& reference) {
            for (index_t i = 0; i < width_; ++i) {
                const Real largest = std::fabs(largest_[i]) < infinity ? largest_[i] : Real{0};
                unit_[i] = reference.template exponential<true>(largest, each_ ? i : 0);
            }
        };
        if (each_) take_units(reference_);
        else take_units(shared_);
        int few = 0;
        for (index_t i = 0; i < width_; ++i) few |= static_cast<int>(!leaves_enough(sum_[i], unit_[i]));
        if (!Arithmetic::exact && few) {
            if (in_turns()) {
                std::fill_n(chunk_, width_, index_t{0});
                std::copy_n(sum_, width_, chunk_sum_);
            }
            for_each_chunk([&](index_t first, index_t classes) { replace_sums(first, classes); });
        }
        for (index_t i = 0; i < width_; ++i) rest_[i] = rest_of<Arithmetic>(largest_[i], sum_[i], lost_[i], unit_[i]);
        if (plan_.label_smoothing != 0)
            for (index_t i = 0; i < width_; ++i) below_[i] += weight_[i] * (largest_[i] - offset(i));
    }
    double offset(index_t i) const { return each_ ? reference_.offset(i) : shared_.offset(0); }

    // Where a largest value of this chunk is nearly all of a sum, so that its roundings matter.
    void replace_sums(index_t first, index_t classes) {
        const auto rounded = [&](index_t i) {
            return chunk_[i] == first / chunk_size && !leaves_enough(sum_[i], unit_[i]);
        };
        bool any = false;
        for (index_t i = 0; i < width_; ++i) any |= rounded(i);
        if (!any) return;
        LaneSums<most_samples, true> sums;
        for_each_part(first, classes, [&](index_t, index_t count) {
            if (!whole_) compute_powers(count);
            sums.add_classes(space_.powers, count, width_, pitch_);
        });
        sums.finish(width_);
        for (index_t i = 0; i < width_; ++i)
            if (rounded(i)) lost_[i] += (sums.sum[i] - chunk_sum_[i]) + sums.error[i];
    }

    // Adds Σ w·(offset - x) and Σ w of a chunk.
    void smooth(index_t first, index_t classes) {
        LaneSums<most_samples, true> differences, weights;
        for_each_part(first, classes, [&](index_t from, index_t count) {
            load_class_weights(plan_, from, count, space_.class_weights);
            for (index_t c = 0; c < count; ++c)
                for (index_t i = 0; i < width_; ++i)
                    space_.powers[c * pitch_ + i] =
                        static_cast<Power>(space_.class_weights[c] * (offset(i) - values_[c * values_pitch_ + i]));
            differences.add_classes(space_.powers, count, width_, pitch_);
            for (index_t c = 0; c < count; ++c)
                std::fill_n(space_.powers + c * pitch_, width_, static_cast<Power>(space_.class_weights[c]));
            weights.add_classes(space_.powers, count, width_, pitch_);
        });
        differences.finish(width_);
        weights.finish(width_);
        for (index_t i = 0; i < width_; ++i) {
            below_[i] += total_of(differences.sum[i], differences.error[i]);
            weight_[i] += total_of(weights.sum[i], weights.error[i]);
        }
    }

    // Of samples whose class is among those that are loaded, values at it, or powers.
    template <class Number>
    void take_at(const index_t* targets, index_t first, index_t classes, const Number* values, index_t pitch,
                 double* at_target) const {
        for (index_t i = 0; i < count_; ++i) {
            const auto target = static_cast<std::uint64_t>(targets[i] - first);
            if (target < static_cast<std::uint64_t>(classes))
                at_target[i] = static_cast<double>(values[static_cast<index_t>(target) * pitch + i]);
        }
    }
    void load_logits(const index_t* classes, double* logits) const {
        std::fill_n(logits, count_, 0.0);
        if (whole_) return take_at(classes, 0, plan_.classes, values_, values_pitch_, logits);
        plan_.samples.for_each_run(begin_, count_, [&](const Samples::Run& run) {
            const Scalar* sample = plan_.pointer<const Scalar>(input) + run.offset[input];
            for (index_t i = 0; i < run.length; ++i, sample += plan_.samples.stride(input)) {
                const index_t c = classes[run.begin + i];
                logits[run.begin + i] = c == ignored ? 0.0 : converted<Real>(sample[c * plan_.class_stride[input]]);
            }
        });
    }
    void take_log_sums(double* log_sums) const {
        for (index_t i = 0; i < width_; ++i) log_sums[i] = log1p_of<Arithmetic::exact>(rest_[i]);
    }

    // `block`, from its sample `at` on, has the samples of this tile.
    void write_gradient(index_t at, const double* logits, const Block<Arithmetic>& block) {
        alignas(64) double scale[most_samples];  // of powers, to e^(x - largest)
        for (index_t i = 0; i < width_; ++i) scale[i] = 1 / unit_[i];
        for_each_part(0, plan_.classes, [&](index_t first, index_t classes) {
            if (!whole_) compute_powers(classes);
            write_part(first, classes, scale, at, logits, block);
        });
    }

    // The entries of the gradient from powers.
    void write_part(index_t first, index_t classes, const double* scale, index_t at, const double* logits,
                    const Block<Arithmetic>& block) {
        using Factor = typename Arithmetic::Factor;
        alignas(64) Factor factor[most_samples];
        alignas(64) double power[most_samples] = {}, entry[most_samples];
        const index_t* targets = block.classes + at;
        const auto [to, pitch] = destination(first);
        take_at(targets, first, classes, space_.powers, pitch_, power);
        for (index_t i = 0; i < count_; ++i) {
            const Factor sum = sum_of(Factor{1}, Factor{rest_[i]});
            factor[i] = product_of(quotient_of(block.all[at + i], sum), scale[i]);
            entry[i] = target_entry(plan_, block, at + i, largest_[i], rest_[i], logits[i], power[i] * scale[i]);
        }
        std::fill(factor + count_, factor + width_, Factor{0});
        scale_powers<Arithmetic, true>(space_.powers, classes, width_, pitch_, factor, to, pitch);
        if (plan_.label_smoothing != 0) {
            load_class_weights(plan_, first, classes, space_.class_weights);
            for (index_t c = 0; c < classes; ++c)
                for (index_t i = 0; i < count_; ++i)
                    to[c * pitch + i] = entry_of<Scalar>(scaled(factor[i], space_.powers[c * pitch_ + i]) -
                                                         scaled(block.each[at + i], space_.class_weights[c]));
        }
        for (index_t i = 0; i < count_; ++i) {
            const index_t target = targets[i] - first;
            if (target >= 0 && target < classes) to[target * pitch + i] = entry_of<Scalar>(entry[i]);
        }
        for (index_t i = 0; i < count_ && block.ignores; ++i)
            for (index_t c = 0; c < classes && targets[i] == ignored; ++c) to[c * pitch + i] = Scalar{};
        store(first, classes, {to, pitch});
    }

    const Plan& plan_;
    Workspace<Scalar, Arithmetic>& space_;
    Scalar* gathered_;     // (classes, block_size), or nullptr
    const index_t pitch_;  // samples of a tile
    const bool whole_;     // a tile has all classes
    const index_t part_;   // classes of a tile
    index_t block_begin_ = 0;
    index_t begin_ = 0, count_ = 0, width_ = 0;  // of the tile; width_ is in whole groups
    const Scalar* next_ = nullptr;               // the next tile's first sample
    const Real* values_ = nullptr;
    index_t values_pitch_ = 0;
    Reference<Arithmetic, 1> shared_;  // of all samples, unless `each_` needs its own
    Reference<Arithmetic, most_samples> reference_;
    bool each_ = false;
    // Of each sample, as in Softmax.
    alignas(64) Real largest_[most_samples];
    alignas(64) double sum_[most_samples], lost_[most_samples], below_[most_samples], weight_[most_samples];
    alignas(64) index_t chunk_[most_samples];
    alignas(64) double chunk_sum_[most_samples], unit_[most_samples], rest_[most_samples];
};

// ---------------------------------------------------------------- kernels

// Samples of a block: a few tiles, or the rows that a first cache holds.
inline index_t softmax_block(const Plan& plan) {
    constexpr index_t elements = 32 << 10;
    const index_t rows = std::clamp<index_t>(elements / std::max<index_t>(plan.classes, 1), 1, block_size);
    return by_rows(plan) ? rows : std::max<index_t>(rows / 64 * 64, 64);
}

// Memory for a row's powers or for a block's gradient, where there is use for it. If it cannot be had, nullptr: then
// powers are computed twice, and gradients written in shorter stretches.
template <class Scalar, class Arithmetic> void* scratch_of(const Plan& plan, Partial& partial) {
    index_t size = 0;
    if (by_rows(plan))
        size = plan.classes <= Rows<Scalar, Arithmetic>::most_kept
                   ? paired(plan.classes) * static_cast<index_t>(sizeof(typename Arithmetic::Power))
                   : 0;
    else if (Tiles<Scalar, Arithmetic>::gathers(plan))
        size = Tiles<Scalar, Arithmetic>::most_gathered * static_cast<index_t>(sizeof(Scalar));
    if (size > 0 && !partial.scratch)
        partial.scratch.reset(new (std::nothrow) std::byte[static_cast<std::size_t>(size)]);
    return partial.scratch.get();
}

// The labels of a block, and what they say about the loss and the gradient. False if a label is bad.
template <class Arithmetic>
bool prepare(const Plan& plan, index_t begin, index_t count, Block<Arithmetic>& block, Survey<double>& weights_survey,
             Partial& partial) {
    block.count = count;
    const index_t kept = load_classes(plan, begin, count, block.classes, partial);
    if (kept < 0) return false;
    partial.count += kept;
    block.ignores = kept < count || plan.zero_gradient;
    if (plan.weight) weights_survey = add_weights(plan, count, block.classes, block.weights, partial);
    else std::fill_n(block.weights, count, 1.0);
    if (!plan.data[gradient]) return true;
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
    Block<Arithmetic> block;
    for_each_block(first, last, softmax_block(plan), [&](index_t begin, index_t count) {
        Survey<double> weights_survey;
        if (!prepare(plan, begin, count, block, weights_survey, partial)) return;
        if (rows) row_work.cross_entropy(begin, block);
        else tiles.cross_entropy(begin, block);
        add_losses_of(plan, begin, block, weights_survey, partial);
    });
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
    rows.finish(row);
    if (!with_loss || !row.finished) return;
    Block<Arithmetic> block;
    Survey<double> weights_survey;
    if (!prepare(plan, row.sample, 1, block, weights_survey, partial)) return;
    rows.take_loss(row, block);
    add_losses_of(plan, row.sample, block, weights_survey, partial);
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
        if (prepare(plan, plan.shared->sample, 1, block, weights_survey, counted))
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
