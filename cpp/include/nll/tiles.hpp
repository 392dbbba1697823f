// SPDX-License-Identifier: BSD-3-Clause
// Tiles: up to 128 samples side by side, class after class.
#pragma once

#include <utility>

#include "block.hpp"
#include "buffers.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

// Samples of a block: a few tiles.
inline index_t tiles_block(const Plan& plan) {
    return std::clamp<index_t>(most_in_block / std::max<index_t>(plan.classes, 1) / 64 * 64, 64, block_size);
}

template <class Scalar, class Arithmetic> class Tiles {
    using Real = typename Arithmetic::Real;
    using Power = typename Arithmetic::Power;
    static constexpr int most_samples = 128;
    // Classes up to which each element is asked whether it is its sample's target. Of more, entries are stored later,
    // and so are those of 16 bits: for them the question costs as much as it saves.
    static constexpr index_t most_chosen = std::floating_point<Scalar> ? 32 : 0;
    static constexpr std::integral_constant<Guard, Guard::all> guarded{};

public:
    Tiles(const Plan& plan, Workspace<Scalar, Arithmetic>& space, void* gathered)
        : plan_(plan),
          space_(space),
          gathered_(static_cast<Scalar*>(gathered)),
          block_(tiles_block(plan)),
          others_(gathered ? gathered_ + plan.classes * block_ : nullptr),
          pitch_(std::clamp<index_t>(space.size / std::max<index_t>(plan.classes, 1) / lanes * lanes, lanes,
                                     plan.class_stride[input] == 1 ? most_samples / 2 : most_samples)),
          whole_(plan.classes <= space.size / pitch_),
          part_(whole_ ? plan.classes : space.size / pitch_ / pair_size * pair_size) {}

    // Results are gathered for a whole block, and then streamed, between the exponentials of the next one: in longer
    // stretches, of rows that lie side by side or of every plane. In memory for so many elements: of this block, and of
    // the one that waits; or 0 where there is no use for it.
    static index_t gathered(const Plan& plan) {
        const index_t class_stride = plan.class_stride[gradient], stride = plan.samples.stride(gradient);
        const index_t elements = plan.classes * tiles_block(plan);
        const bool streams = plan.streams && (class_stride == 1 ? stride == plan.classes : stride == 1);
        return streams && elements <= most_in_block ? 2 * elements : 0;
    }

    void cross_entropy(index_t begin, Block<Arithmetic>& block) {
        block_begin_ = begin;
        for_each_block(0, block.count, pitch_, [&](index_t first, index_t count) {
            softmax(begin + first, count, block.classes + first, block.ignores);
            alignas(64) double center[most_samples], log_sum[most_samples];
            take_log_sums(center, log_sum);
            double* losses = block.losses + first;
            for (index_t i = 0; i < count; ++i) losses[i] = (center[i] - logit_[i]) + log_sum[i];
            if (plan_.label_smoothing != 0)
                for (index_t i = 0; i < count; ++i) {
                    const double every = below_[i] + weight_[i] * ((center[i] - offset(i)) + log_sum[i]);
                    losses[i] = smoothed(plan_, losses[i], block.weights[first + i], every);
                }
            for (index_t i = 0; i < count && block.ignores; ++i)
                losses[i] = block.classes[first + i] == ignored ? 0.0 : losses[i];
            if (plan_.data[gradient]) write_gradient(first, block);
        });
        if (gathered_) stream_block(begin, block.count);
    }

    void log_softmax(index_t begin, index_t count) {
        block_begin_ = begin;
        for_each_block(0, count, pitch_, [&](index_t first, index_t samples) {
            softmax(begin + first, samples, nullptr, false);
            alignas(64) double center[most_samples], log_sum[most_samples];
            take_log_sums(center, log_sum);
            for_each_block(0, plan_.classes, part_, [&](index_t from, index_t classes) {
                if (!whole_) load(from, classes);
                const Destination to = destination(from);
                for (index_t c = 0; c < classes; ++c)
                    for (index_t i = 0; i < samples; ++i) {
                        const double value = values_[c * values_pitch_ + i];
                        to.to[c * to.pitch + i] = from_double<Scalar>((value - center[i]) - log_sum[i]);
                    }
                store(from, classes, to);
            });
        });
        if (gathered_) stream_block(begin, count);
    }

    // Writes what waits of the last block.
    void finish() { waiting_.copy_rest(); }

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
    // The memory of a sample; and so many samples, this one first, that are in the same run.
    template <class T> std::pair<T*, index_t> memory_of(Operand operand, index_t sample) {
        if (sample < run_first_ || sample >= run_first_ + run_.length) {
            std::array<index_t, max_rank> at;
            run_ = plan_.samples.run_from(sample, at);
            run_first_ = sample;
        }
        const index_t within = sample - run_first_;
        return {plan_.pointer<T>(operand) + run_.offset[operand] + within * plan_.samples.stride(operand),
                run_.length - within};
    }
    // That of the tile's samples where it is laid out as a tile, else nullptr.
    template <class T> T* in_place(Operand operand, index_t first) {
        if (plan_.samples.stride(operand) != 1 || width_ != count_) return nullptr;
        const auto [memory, run] = memory_of<T>(operand, begin_);
        return run >= count_ ? memory + first * plan_.class_stride[operand] : nullptr;
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
    // Where results are to be written, as a tile: among those of the block, or where they belong, if these are laid out
    // so; else into the workspace.
    struct Destination {
        Scalar* to;
        index_t pitch;
    };
    Destination destination(index_t first) {
        if (gathered_ && plan_.class_stride[gradient] != 1)
            return {gathered_ + first * block_ + (begin_ - block_begin_), block_};
        Scalar* to = plan_.streams ? nullptr : in_place<Scalar>(gradient, first);
        if (to) return {to, plan_.class_stride[gradient]};
        return {space_.part, pitch_};
    }
    void store(index_t first, index_t classes, Destination written) const {
        if (written.to != space_.part) return;
        if (gathered_) {
            Scalar* rows = gathered_ + (begin_ - block_begin_) * plan_.classes;
            return transpose(space_.part, pitch_, rows + first, plan_.classes, classes, count_);
        }
        plan_.samples.for_each_run(begin_, count_, [&](const Samples::Run& run) {
            store_tile(plan_, run, first, classes, space_.part, pitch_);
        });
    }
    void stream_block(index_t begin, index_t count) {
        constexpr auto bytes = bytes_of<Scalar>;
        const index_t class_stride = plan_.class_stride[gradient];
        plan_.samples.for_each_run(begin, count, [&](const Samples::Run& run) {
            finish();
            Scalar* to = plan_.pointer<Scalar>(gradient) + run.offset[gradient];
            if (class_stride == 1)
                waiting_ = {to, gathered_ + run.begin * plan_.classes, bytes(run.length * plan_.classes)};
            else
                waiting_ = {to,           gathered_ + run.begin, bytes(run.length), plan_.classes, bytes(class_stride),
                            bytes(block_)};
        });
        if (streams_between) std::swap(gathered_, others_);
        else finish();
    }

    // The softmax of each sample, whose one is at its target, or without targets the largest. Where a tile holds all
    // classes, their powers are kept.
    void softmax(index_t begin, index_t count, const index_t* targets, bool ignores) {
        begin_ = begin;
        count_ = count;
        width_ = padded(count);
        next_ = nullptr;
        if (whole_) {
            load(0, plan_.classes);
            if (begin + count < plan_.samples.count) next_ = memory_of<const Scalar>(input, begin + count).first;
        }
        std::fill_n(logit_, width_, Real{0});
        std::fill_n(chunk_, width_, index_t{0});
        if (targets) {
            load_logits(targets, ignores);
            for (index_t i = 0; i < count_ && !in_turns(); ++i) chunk_[i] = targets[i] / chunk_size;
        }
        bool knows_largest = false;
        const auto know_largest = [&] {
            look_for_largest(!targets);
            knows_largest = true;
            each_ = Arithmetic::exact || !shared_.reaches(largest_, width_);
            if (!each_) return;
            reference_ = Reference<Arithmetic, most_samples>(largest_, width_);
            const Reference<Arithmetic, 1> first(largest_, 1, shared_.guard());
            if (first.offset(0) == 0 && std::fabs(largest_[0]) < infinity)
                shared_ = first;  // the next tile may do with it; only each sample's own may shift
        };
        // As in Rows::sums_of.
        if (each_ || shared_.guard() == Guard::all || !targets) know_largest();
        for (;;) {
            sum_chunks();
            if (near_ && (knows_largest || sums_are_held())) break;
            if (knows_largest) shared_ = shared_.more_guarded();  // other tiles will have such values, too
            else know_largest();
        }
        settle(targets, ignores);
    }

    // And without targets, the largest is the one.
    void look_for_largest(bool is_one) {
        std::fill_n(largest_, width_, -std::numeric_limits<Real>::infinity());
        for_each_chunk([&](index_t first, index_t classes) {
            alignas(64) Real before[most_samples];
            std::copy_n(largest_, width_, before);
            for_each_part(first, classes,
                          [&](index_t, index_t part) { take_largest(values_, part, width_, values_pitch_, largest_); });
            for (index_t i = 0; i < width_ && is_one; ++i)
                if (largest_[i] > before[i]) chunk_[i] = first / chunk_size;
        });
        if (is_one) std::copy_n(largest_, width_, logit_);
    }
    bool sums_are_held() const {
        std::uint64_t others = 0;
        for (index_t i = 0; i < width_; ++i) others |= std::uint64_t{!shared_.holds(sum_[i], plan_.classes)};
        return !others;
    }

    bool in_turns() const { return !Arithmetic::exact && plan_.classes <= in_turn; }
    void sum_chunks() {
        near_ = true;
        for (double* zero : {sum_, lost_}) std::fill_n(zero, width_, 0.0);
        if (plan_.label_smoothing != 0) {
            for (double* zero : {below_, weight_}) std::fill_n(zero, width_, 0.0);
            for_each_chunk([&](index_t first, index_t classes) { smooth(first, classes); });
        }
        if (in_turns()) return compute_powers(plan_.classes, sum_, 0);
        for_each_chunk([&](index_t first, index_t classes) { add_chunk(first, classes); });
    }

    // Powers of the classes that are loaded.
    void compute_powers(index_t classes) {
        alignas(64) double unused[most_samples] = {};
        compute_powers(classes, unused, 0);
    }
    // And they count among the sums: in turn, or by lanes that are so far apart.
    void compute_powers(index_t classes, double* sums, index_t lane_pitch) {
        const Scalar* ahead = next_ ? next_ : reinterpret_cast<const Scalar*>(values_);
        const index_t step = !next_ ? 0 : plan_.class_stride[input] == 1 ? width_ : plan_.class_stride[input];
        const auto compute = [&](auto guard, const auto& reference) {
            near_ &= exponentials_of_tile<guard.value>(values_, classes, width_, values_pitch_, reference, ahead, step,
                                                       waiting_, space_.powers, pitch_, sums, lane_pitch);
        };
        if (each_) return compute(guarded, reference_);
        visit_guard<Arithmetic>(shared_.guard(), [&](auto guard) { compute(guard, shared_); });
    }

    void add_chunk(index_t first, index_t classes) {
        LaneSums<most_samples, Arithmetic::exact> sums;
        if (Arithmetic::fused) sums.clear(width_);
        for_each_part(first, classes, [&](index_t, index_t count) {
            if (Arithmetic::fused) return compute_powers(count, sums.sum, most_samples);
            compute_powers(count);
            sums.add_classes(space_.powers, count, width_, pitch_);
        });
        sums.finish(width_);
        for (index_t i = 0; i < width_; ++i) {
            nll::add_chunk(sum_[i], lost_[i], sums.sum[i], Arithmetic::exact ? sums.error[i] : 0.0);
            chunk_sum_[i] = chunk_[i] == first / chunk_size ? sums.sum[i] : chunk_sum_[i];
        }
    }

    void settle(const index_t* targets, bool ignores) {
        const auto take_units = [&](auto guard, const auto& reference) {
            for (index_t first = 0; first < width_; first += lanes)
                reference.template powers<guard.value>(logit_ + first, each_ ? first : 0, unit_ + first);
        };
        if (each_) take_units(guarded, reference_);
        else visit_guard<Arithmetic>(shared_.guard(), [&](auto guard) { take_units(guard, shared_); });
        for (index_t i = 0; i < count_ && ignores; ++i) unit_[i] = targets[i] == ignored ? 0.0 : unit_[i];
        std::uint64_t few = 0;
        for (index_t i = 0; i < width_; ++i) {
            sum_[i] = defined(sum_[i]);
            rest_[i] = rest_of<Arithmetic>(sum_[i], lost_[i], unit_[i]);
            few |= std::uint64_t{!leaves_enough(sum_[i], unit_[i])};
        }
        if (Arithmetic::exact || !few) return;
        if (in_turns()) std::copy_n(sum_, width_, chunk_sum_);
        for_each_chunk([&](index_t first, index_t classes) { replace_sums(first, classes); });
        for (index_t i = 0; i < width_; ++i) rest_[i] = rest_of<Arithmetic>(sum_[i], lost_[i], unit_[i]);
    }
    double offset(index_t i) const { return each_ ? reference_.offset(i) : shared_.offset(0); }

    // Where the one of this chunk is nearly all of a sum, so that its roundings matter.
    void replace_sums(index_t first, index_t classes) {
        const auto rounded = [&](index_t i) {
            return chunk_[i] == first / chunk_size && !leaves_enough(sum_[i], unit_[i]);
        };
        bool any = false;
        for (index_t i = 0; i < width_; ++i) any |= rounded(i);
        if (!any) return;
        LaneSums<most_samples, false> others;
        for_each_part(first, classes, [&](index_t, index_t count) {
            if (!whole_) compute_powers(count);
            others.add_classes(space_.powers, count, width_, pitch_, [&](Power power, index_t i) {
                return power == static_cast<Power>(unit_[i]) ? Power{0} : power;
            });
        });
        others.finish(width_);
        for (index_t i = 0; i < width_; ++i)
            if (rounded(i)) lost_[i] += without_chunk(unit_[i], chunk_sum_[i], others.sum[i]);
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

    // At the targets; of ignored samples 0.
    void load_logits(const index_t* targets, bool ignores) {
        if (whole_ && !ignores) {
            for (index_t i = 0; i < count_; ++i) logit_[i] = values_[targets[i] * values_pitch_ + i];
            return;
        }
        plan_.samples.for_each_run(begin_, count_, [&](const Samples::Run& run) {
            const Scalar* sample = plan_.pointer<const Scalar>(input) + run.offset[input];
            for (index_t i = run.begin; i < run.begin + run.length; ++i, sample += plan_.samples.stride(input))
                if (targets[i] != ignored) logit_[i] = converted<Real>(sample[targets[i] * plan_.class_stride[input]]);
        });
    }

    void take_log_sums(double* center, double* log) const {
        const auto take = [&](auto&& offset_of, auto&& base_of) {
            for (index_t i = 0; i < width_; ++i) {
                const LogSum log_sum = log_sum_of<Arithmetic>(sum_[i], lost_[i], unit_[i], rest_[i],
                                                              static_cast<double>(logit_[i]), offset_of(i), base_of(i));
                center[i] = log_sum.center;
                log[i] = log_sum.log;
            }
        };
        const double offset = shared_.offset(0), base = shared_.base(0);
        if (each_) take([&](index_t i) { return reference_.offset(i); }, [&](index_t i) { return reference_.base(i); });
        else take([=](index_t) { return offset; }, [=](index_t) { return base; });
    }

    // `block`, from its sample `at` on, has the samples of this tile.
    void write_gradient(index_t at, const Block<Arithmetic>& block) {
        for_each_part(0, plan_.classes, [&](index_t first, index_t classes) {
            if (!whole_) compute_powers(classes);
            write_part(first, classes, at, block);
        });
    }

    // The entries of the gradient from powers.
    void write_part(index_t first, index_t classes, index_t at, const Block<Arithmetic>& block) {
        using Factor = typename Arithmetic::Factor;
        alignas(64) Factor factor[most_samples];
        alignas(64) Scalar entry[most_samples];
        const index_t* targets = block.classes + at;
        const auto [to, pitch] = destination(first);
        for (index_t i = 0; i < count_; ++i) {
            const auto inverse = inverse_sum<Factor>(unit_[i], rest_[i]);
            factor[i] = product_of(block.all[at + i], inverse);
            entry[i] = entry_of<Scalar>(target_entry(plan_, block, at + i, unit_[i], rest_[i], inverse));
        }
        std::fill(factor + count_, factor + width_, Factor{0});
        const bool smooths = plan_.label_smoothing != 0, chooses = whole_ && classes <= most_chosen && !smooths;
        alignas(64) ClassBeside<Scalar> place[most_samples];
        if (chooses) {
            for (index_t i = 0; i < count_; ++i) place[i] = static_cast<ClassBeside<Scalar>>(targets[i]);
            std::fill(place + count_, place + width_, ClassBeside<Scalar>{ignored});
            std::fill(entry + count_, entry + width_, Scalar{});
        }
        if (!smooths) {
            scale_powers<Arithmetic, true>(space_.powers, classes, width_, pitch_, factor, to, pitch,
                                           chooses ? place : nullptr, entry);
        } else {
            load_class_weights(plan_, first, classes, space_.class_weights);
            for (index_t c = 0; c < classes; ++c)
                for (index_t i = 0; i < count_; ++i)
                    to[c * pitch + i] = entry_of<Scalar>(scaled(factor[i], space_.powers[c * pitch_ + i]) -
                                                         scaled(block.each[at + i], space_.class_weights[c]));
        }
        for (index_t i = 0; i < count_ && !chooses; ++i) {
            const auto target = static_cast<std::uint64_t>(targets[i] - first);
            if (target < static_cast<std::uint64_t>(classes)) to[static_cast<index_t>(target) * pitch + i] = entry[i];
        }
        for (index_t i = 0; i < count_ && block.ignores; ++i)
            for (index_t c = 0; c < classes && targets[i] == ignored; ++c) to[c * pitch + i] = Scalar{};
        store(first, classes, {to, pitch});
    }

    const Plan& plan_;
    Workspace<Scalar, Arithmetic>& space_;
    // Results of this block and of the one that waits, each (classes, block) or (block, classes); or nullptr.
    Scalar* gathered_;
    const index_t block_;
    Scalar* others_;
    Waiting waiting_;
    const index_t pitch_;  // samples of a tile
    const bool whole_;     // a tile has all classes
    const index_t part_;   // classes of a tile
    index_t block_begin_ = 0;
    index_t begin_ = 0, count_ = 0, width_ = 0;  // of the tile; width_ is in whole groups
    Samples::Run run_{};                         // a run that was met last,
    index_t run_first_ = 0;                      // and its first sample
    const Scalar* next_ = nullptr;               // the next tile's first sample
    const Real* values_ = nullptr;
    index_t values_pitch_ = 0;
    Reference<Arithmetic, 1> shared_;  // of all samples, unless `each_` needs its own
    Reference<Arithmetic, most_samples> reference_;
    bool each_ = false, near_ = true;
    // Of each sample, as in One and Softmax.
    alignas(64) Real logit_[most_samples], largest_[most_samples];
    alignas(64) double sum_[most_samples], lost_[most_samples], below_[most_samples], weight_[most_samples];
    alignas(64) index_t chunk_[most_samples];
    alignas(64) double chunk_sum_[most_samples], unit_[most_samples], rest_[most_samples];
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
