// SPDX-License-Identifier: BSD-3-Clause
// Rows: many classes of one sample side by side, a chunk at a time.
#pragma once

#include <utility>

#include "block.hpp"
#include "buffers.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

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
                Softmax softmax = sums_of(from, block.classes[i] / chunk_size);
                const One one = one_of(from, block.classes[i]);  // not before: now it is in a cache
                settle(from, softmax, one, kept_);
                block.losses[i] = loss_of(softmax, one.logit, block.weights[i]);
                if (!to) return;
                const GradientRow row = gradient_of(to, softmax, block, i);
                if (kept_) return wait(row);
                return for_each_chunk([&](index_t first, index_t classes) {
                    write(row, powers_of(from, first, classes), first, classes);
                });
            }
            if (to) for_each_chunk([&](index_t first, index_t classes) { write_zeros(to, first, classes); });
        });
    }
    // Writes what waits of the last gradient.
    void finish() { write_waiting(plan_.classes); }

    void log_softmax(index_t begin, index_t count) {
        for_each_row(begin, count, [&](index_t, const Scalar* from, Scalar* to) {
            const One one = largest_of_row(from);
            Softmax softmax = sums_of(from, one.chunk);
            settle(from, softmax, one, nullptr);
            const LogSum log_sum = log_of(softmax, one.logit);
            for_each_chunk(
                [&](index_t first, index_t classes) { write_logarithms(from, to, first, classes, log_sum); });
        });
    }

    // The same of one row in steps, each of some of its chunks.

    void take_chunks(const SharedRow& row, index_t first_chunk, index_t last_chunk) {
        const bool looks = looks_for_largest(row);
        take_reference(row);
        for_each_row(row.sample, 1, [&](index_t, const Scalar* from, Scalar*) {
            for_each_chunk(first_chunk, last_chunk, [&](index_t first, index_t classes) {
                Softmax& chunk = row.chunks[first / chunk_size - row.first_chunk];
                chunk = {};
                if (!looks) return add_chunk(chunk, from, first, classes, nullptr);
                chunk.largest = largest_of(load(from, first, classes), paired(classes));
                chunk.chunk = first / chunk_size;
            });
        });
    }
    // Whether the merged chunks are the softmax. Otherwise they have to be taken once more.
    bool is_complete(SharedRow& row) {
        take_reference(row);
        const Softmax whole = std::exchange(row.whole, {});
        if (looks_for_largest(row)) {
            row.largest = {whole.largest, whole.chunk};
            row.knows_largest = true;
        } else if (whole.near && (row.knows_largest || reference_.holds(whole.sum, plan_.classes))) {
            row.whole = whole;
            return true;
        } else {
            (row.knows_largest ? row.guarded : row.needs_largest) = true;
        }
        return false;
    }
    // Takes the one out of the sum: the target, unless it is ignored, or without a target the largest.
    void settle(SharedRow& row, index_t target_class) {
        row.finished = true;
        if (target_class == ignored) return;
        for_each_row(row.sample, 1, [&](index_t, const Scalar* from, Scalar*) {
            const One one = plan_.data[target] ? one_of(from, target_class) : row.largest;
            row.logit = one.logit;
            settle(from, row.whole, one, nullptr);
        });
    }
    // Losses of an ignored sample are 0.
    void take_loss(const SharedRow& row, Block<Arithmetic>& block) const {
        block.losses[0] = block.classes[0] == ignored ? 0.0 : loss_of(row.whole, row.logit, block.weights[0]);
    }
    void write_gradient(const SharedRow& row, const Block<Arithmetic>& block, index_t first_chunk, index_t last_chunk) {
        take_reference(row);
        for_each_row(row.sample, 1, [&](index_t i, const Scalar* from, Scalar* to) {
            const GradientRow whole = gradient_of(to, row.whole, block, i);
            for_each_chunk(first_chunk, last_chunk, [&](index_t first, index_t classes) {
                if (block.classes[i] == ignored) write_zeros(to, first, classes);
                else write(whole, powers_of(from, first, classes), first, classes);
            });
        });
    }
    void write_logarithms(const SharedRow& row, index_t first_chunk, index_t last_chunk) {
        take_reference(row);
        const LogSum log_sum = log_of(row.whole, row.logit);
        for_each_row(row.sample, 1, [&](index_t, const Scalar* from, Scalar* to) {
            for_each_chunk(first_chunk, last_chunk, [&](index_t first, index_t classes) {
                write_logarithms(from, to, first, classes, log_sum);
            });
        });
    }

    // Classes whose powers may be kept between the loss and the gradient: what a second-level cache holds.
    static constexpr index_t most_kept = 64 << 10;

private:
    using Factor = typename Arithmetic::Factor;
    // What the gradient of a row is made of, beside its powers.
    struct GradientRow {
        Scalar* to;
        Factor factor, each;
        index_t target;
        Scalar entry;
    };
    static constexpr index_t few = 256;  // classes between which a waiting gradient is written
    static constexpr index_t far_ahead = (16 << 10) / sizeof(Scalar);

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

    void refer_to(double largest, Guard guard) {
        const auto center = static_cast<Real>(largest);
        reference_ = Reference<Arithmetic, 1>(&center, 1, guard);
    }
    void take_reference(const SharedRow& row) {
        if (row.knows_largest) refer_to(row.largest.logit, row.guarded ? Guard::all : Guard::none);
        else reference_ = {};
    }
    // The exponentials of double are relative to the largest value, and without a target it is the one.
    bool looks_for_largest(const SharedRow& row) const {
        return !row.knows_largest && (row.needs_largest || Arithmetic::exact || !plan_.data[target]);
    }
    One one_of(const Scalar* from, index_t target_class) const {
        return {converted<Real>(from[target_class * plan_.class_stride[input]]), target_class / chunk_size};
    }
    One largest_of_row(const Scalar* from) {
        One largest{-infinity, 0};
        for_each_chunk([&](index_t first, index_t classes) {
            const double of_chunk = largest_of(load(from, first, classes), paired(classes));
            if (of_chunk > largest.logit) largest = {of_chunk, first / chunk_size};
        });
        return largest;
    }

    // The powers of a chunk, if there is a place for them. What waits of the last gradient is written between them, a
    // few lines at a time: memory is written while the processor computes.
    RowLanes<Arithmetic> add_powers(const Scalar* from, index_t first, index_t classes, Power* powers) {
        RowLanes<Arithmetic> row;
        const auto compute = [&](const auto* values) {
            for_each_block(0, classes, written_ < plan_.classes ? few : chunk_size, [&](index_t at, index_t some) {
                write_waiting(first + at + some);
                // Of this sample, or beyond its end of the next.
                const index_t c = first + at + far_ahead;
                const Scalar* ahead = c < plan_.classes ? from + c * plan_.class_stride[input]
                                                        : from + plan_.samples.stride(input) + (c - plan_.classes);
                visit_guard<Arithmetic>(reference_.guard(), [&](auto guard) {
                    exponentials_of_row<guard.value>(values + at, some, reference_,
                                                     reinterpret_cast<const std::byte*>(ahead), lanes * sizeof(Scalar),
                                                     powers ? powers + at : nullptr, row);
                });
            });
        };
        if (in_place(classes)) compute(from + first);
        else compute(load(from, first, classes));
        return row;
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
        if (Arithmetic::exact && !powers) powers = space_.powers;
        const RowLanes<Arithmetic> row = add_powers(from, first, classes, powers);
        Compensated sum{add_lanes(row.sum), 0};
        if (Arithmetic::exact) sum = compensated_sum(powers, paired(classes));
        nll::add_chunk(softmax.sum, softmax.lost, sum.sum, sum.error);
        softmax.chunk_sum = sum.sum;
        softmax.near &= row.all_near(reference_.guard());
    }
    // When all chunks are added. Their powers may have been kept; then the sum of the chunk that has the one is known.
    void settle(const Scalar* from, Softmax& softmax, One one, const Power* kept) {
        softmax.sum = defined(softmax.sum);
        softmax.unit = reference_.power_of(static_cast<Real>(one.logit), 0);
        if (!Arithmetic::exact && !leaves_enough(softmax.sum, softmax.unit)) {
            const index_t first = one.chunk * chunk_size;
            const index_t classes = std::min(chunk_size, plan_.classes - first);
            const Power* powers = kept ? kept + first : space_.powers;
            if (!kept) softmax.chunk_sum = add_lanes(add_powers(from, first, classes, space_.powers).sum);
            const double others = sum_of_others(powers, paired(classes), static_cast<Power>(softmax.unit));
            softmax.lost += without_chunk(softmax.unit, softmax.chunk_sum, others);
        }
        softmax.rest = rest_of<Arithmetic>(softmax.sum, softmax.lost, softmax.unit);
    }

    // Of all chunks, before the one, which lies in this chunk, is taken out.
    Softmax sums_of(const Scalar* from, index_t chunk_of_one) {
        bool knows_largest = false;
        const auto know_largest = [&] {
            refer_to(largest_of_row(from).logit, guard_);
            knows_largest = true;
        };
        // Powers of any values at all are relative to the largest. Others say themselves whether they can be used.
        if (reference_.guard() == Guard::all) know_largest();
        for (;;) {
            Softmax softmax;
            double chunk_sum = 0;
            for_each_chunk([&](index_t first, index_t classes) {
                add_chunk(softmax, from, first, classes, kept_ ? kept_ + first : nullptr);
                if (first / chunk_size == chunk_of_one) chunk_sum = softmax.chunk_sum;
            });
            if (softmax.near && (knows_largest || reference_.holds(softmax.sum, plan_.classes))) {
                softmax.chunk_sum = chunk_sum;
                return softmax;
            }
            if (knows_largest) {
                reference_ = reference_.more_guarded();
                guard_ = reference_.guard();  // from now on: other rows will have such values, too
            } else {
                know_largest();
            }
        }
    }

    // Of a chunk, for the gradient.
    const Power* powers_of(const Scalar* from, index_t first, index_t classes) {
        if (kept_) return kept_ + first;
        add_powers(from, first, classes, space_.powers);
        return space_.powers;
    }

    LogSum log_of(const Softmax& softmax, double logit) const {
        return log_sum_of<Arithmetic>(softmax.sum, softmax.lost, softmax.unit, softmax.rest, logit,
                                      reference_.offset(0), reference_.base(0));
    }
    double loss_of(const Softmax& softmax, double logit, double weight) const {
        const LogSum log_sum = log_of(softmax, logit);
        const double loss = (log_sum.center - logit) + log_sum.log;
        if (plan_.label_smoothing == 0) return loss;
        const double every = softmax.below + softmax.weight * ((log_sum.center - reference_.offset(0)) + log_sum.log);
        return smoothed(plan_, loss, weight, every);
    }

    GradientRow gradient_of(Scalar* to, const Softmax& softmax, const Block<Arithmetic>& block, index_t i) const {
        const auto inverse = inverse_sum<Factor>(softmax.unit, softmax.rest);
        const double entry = target_entry(plan_, block, i, softmax.unit, softmax.rest, inverse);
        return {to, product_of(block.all[i], inverse), block.each[i], block.classes[i], entry_of<Scalar>(entry)};
    }
    void write(const GradientRow& row, const Power* powers, index_t first, index_t classes) {
        Scalar* part = destination(row.to, first);
        if (plan_.label_smoothing == 0) {
            scale_powers<Arithmetic, false>(powers, 1, classes, 0, &row.factor, part, 0);
        } else {
            load_class_weights(plan_, first, classes, space_.class_weights);
            for (index_t c = 0; c < classes; ++c)
                part[c] = entry_of<Scalar>(scaled(row.factor, powers[c]) - scaled(row.each, space_.class_weights[c]));
        }
        const index_t target = row.target - first;
        if (target >= 0 && target < classes) part[target] = row.entry;
        store(row.to, first, classes, part);
    }

    // A gradient whose powers are kept waits until the next row's powers take their places.
    void wait(const GradientRow& row) {
        finish();
        waiting_ = row;
        written_ = 0;
    }
    // As far as `end` at least, in whole lines.
    void write_waiting(index_t end) {
        constexpr auto line = static_cast<index_t>(64 / sizeof(Scalar));
        const auto place = static_cast<index_t>(reinterpret_cast<std::uintptr_t>(waiting_.to) / sizeof(Scalar));
        while (written_ < std::min(end, plan_.classes)) {
            index_t last = std::min(end, written_ + chunk_size / 2);
            last = std::min(last + line - (place + last) % line, plan_.classes);
            write(waiting_, kept_ + written_, written_, last - written_);
            written_ = last;
        }
    }
    void write_zeros(Scalar* to, index_t first, index_t classes) {
        Scalar* part = destination(to, first);
        std::fill_n(part, classes, Scalar{});
        store(to, first, classes, part);
    }
    void write_logarithms(const Scalar* from, Scalar* to, index_t first, index_t classes, LogSum log_sum) {
        const Real* values = load(from, first, classes);
        Scalar* part = destination(to, first);
        for (index_t c = 0; c < classes; ++c) part[c] = from_double<Scalar>((values[c] - log_sum.center) - log_sum.log);
        store(to, first, classes, part);
    }

    const Plan& plan_;
    Workspace<Scalar, Arithmetic>& space_;
    Power* kept_;                         // paired(classes) powers, or none: then they are computed again
    GradientRow waiting_ = {};            // the last gradient,
    index_t written_ = plan_.classes;     // of which so many classes are written
    Reference<Arithmetic, 1> reference_;  // of the last row; the next may do with it
    Guard guard_ = Guard::none;
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
