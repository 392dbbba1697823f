// SPDX-License-Identifier: BSD-3-Clause
// Rows: many classes of one sample side by side, a chunk at a time.
#pragma once

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
                const Softmax softmax = softmax_of(from);
                const double logit = logit_of(from, block.classes[i]);
                block.losses[i] = loss_of(softmax, logit, block.weights[i]);
                if (!to) return;
                const GradientRow row = gradient_of(to, softmax, logit, block, i);
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
            const Softmax softmax = softmax_of(from);
            const double log_sum = log_sum_of<Arithmetic>(softmax.unit, softmax.rest);
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
        const bool usable = row.known || (!Arithmetic::exact && row.whole.near && reference_.reaches(&largest, 1));
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
            const GradientRow whole = gradient_of(to, row.whole, row.logit, block, i);
            for_each_chunk(first_chunk, last_chunk, [&](index_t first, index_t classes) {
                if (block.classes[i] == ignored) write_zeros(to, first, classes);
                else write(whole, powers_of(from, first, classes), first, classes);
            });
        });
    }
    void write_logarithms(const SharedRow& row, index_t first_chunk, index_t last_chunk) {
        const double log_sum = log_sum_of<Arithmetic>(row.whole.unit, row.whole.rest);
        for_each_row(row.sample, 1, [&](index_t, const Scalar* from, Scalar* to) {
            for_each_chunk(first_chunk, last_chunk, [&](index_t first, index_t classes) {
                write_logarithms(from, to, first, classes, row.whole.largest, log_sum);
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
        reference_ = Reference<Arithmetic, 1>(&center, 1, guard_);
    }
    void take_center(const SharedRow& row) {
        guard_ = row.known ? Guard::all : Guard::none;
        if (row.known) refer_to(row.center);
        else reference_ = {};
    }

    // The powers of a chunk, if there is a place for them. What waits of the last gradient is written between them, a
    // few lines at a time: memory is written while the processor computes.
    RowLanes<Arithmetic> add_powers(const Scalar* from, index_t first, index_t classes, Power* powers) {
        // The next chunk, or the next sample's first.
        const bool more = first + classes < plan_.classes;
        const Scalar* next =
            more ? from + (first + classes) * plan_.class_stride[input] : from + plan_.samples.stride(input);
        RowLanes<Arithmetic> row;
        const auto compute = [&](const auto* values) {
            for_each_block(0, classes, written_ < plan_.classes ? few : chunk_size, [&](index_t at, index_t some) {
                write_waiting(first + at + some);
                visit_guard<Arithmetic>(reference_.guard(), [&](auto guard) {
                    exponentials_of_row<guard.value>(values + at, some, reference_,
                                                     reinterpret_cast<const std::byte*>(next + at),
                                                     lanes * sizeof(Scalar), powers ? powers + at : nullptr, row);
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
        nll::add_chunk(softmax, row.largest_of_all(), sum.sum, sum.error, first / chunk_size);
        softmax.near &= row.all_near(reference_.guard());
    }
    // When all chunks are added. Their powers may have been kept.
    void settle(const Scalar* from, Softmax& softmax, const Power* kept) {
        const auto largest = static_cast<Real>(softmax.largest);
        softmax.unit = reference_.power_of(std::fabs(largest) < infinity ? largest : Real{0}, 0);
        if (!Arithmetic::exact && !leaves_enough(softmax.sum, softmax.unit)) {
            const index_t first = softmax.chunk * chunk_size;
            const index_t classes = std::min(chunk_size, plan_.classes - first);
            const Power* powers = kept ? kept + first : space_.powers;
            if (!kept) add_powers(from, first, classes, space_.powers);
            const double others = sum_of_others(powers, paired(classes), static_cast<Power>(softmax.unit));
            softmax.lost += without_chunk(softmax.unit, softmax.chunk_sum, others);
        }
        softmax.rest = rest_of<Arithmetic>(softmax.largest, softmax.sum, softmax.lost, softmax.unit);
        softmax.below += softmax.weight * (softmax.largest - reference_.offset(0));
    }

    Softmax softmax_of(const Scalar* from) {
        if (Arithmetic::exact || reference_.offset(0) != 0) {
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
        while (!softmax.near) {
            reference_ = reference_.more_guarded();
            guard_ = reference_.guard();  // from now on: other rows will have such values, too
            softmax = sum();
        }
        settle(from, softmax, kept_);
        return softmax;
    }

    // Of a chunk, for the gradient.
    const Power* powers_of(const Scalar* from, index_t first, index_t classes) {
        if (kept_) return kept_ + first;
        add_powers(from, first, classes, space_.powers);
        return space_.powers;
    }

    double logit_of(const Scalar* from, index_t target) const {
        return converted<Real>(from[target * plan_.class_stride[input]]);
    }
    double loss_of(const Softmax& softmax, double logit, double weight) const {
        const double log_sum = log_sum_of<Arithmetic>(softmax.unit, softmax.rest);
        const double loss = (softmax.largest - logit) + log_sum;
        if (plan_.label_smoothing == 0) return loss;
        return smoothed(plan_, loss, weight, softmax.below + softmax.weight * log_sum);
    }

    GradientRow gradient_of(Scalar* to, const Softmax& softmax, double logit, const Block<Arithmetic>& block,
                            index_t i) const {
        const auto inverse = inverse_sum<Factor>(softmax.unit, softmax.rest);
        const double power = reference_.power_of(static_cast<Real>(logit), 0);
        const double entry =
            target_entry(plan_, block, i, softmax.largest, softmax.unit, softmax.rest, inverse, logit, power);
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
    GradientRow waiting_ = {};            // the last gradient,
    index_t written_ = plan_.classes;     // of which so many classes are written
    Reference<Arithmetic, 1> reference_;  // of the last row; the next may do with it
    Guard guard_ = Guard::none;
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
