// SPDX-License-Identifier: BSD-3-Clause
// The loops over tiles: up to 128 samples side by side, class after class. They serve few classes,
// and classes that do not lie side by side.
//
//     for each tile of a block:
//         load the logits as a tile, (classes, samples), if they are not laid out so
//         sums = Σ over classes of e^(x - shift), unshifted; if out of range, again from the maxima
//         take the pivots out of the sums
//         losses; then the gradient, class after class, from the exponentials
//
// The steps load and compute part after part where there are more classes than a tile holds.
#pragma once

#include "entry_loops.hpp"
#include "gradient_writer.hpp"
#include "softmax_sums.hpp"
#include "tile_reader.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Returns the samples of a block: a few tiles; of very many classes one narrow tile, after which a
// call can be stopped.
inline index_t tiles_block(const Plan& plan) {
    const index_t classes = std::max<index_t>(plan.classes, 1);
    const index_t least = 64 * classes <= max_wide_elements ? 64 : lanes;
    return std::clamp<index_t>(max_block_elements / classes / 64 * 64, least, block_size);
}

template <class Scalar, class Precision> class SoftmaxTiles {
    using Space = Workspace<Scalar, Precision>;
    using Real = typename Precision::Real;
    using Exp = typename Precision::Exp;
    using ExpScale = typename Precision::ExpScale;
    using Shift = ExpShift<Precision, max_tile_samples>;

public:
    // staging: as GradientWriter takes it.
    SoftmaxTiles(const Plan& plan, Workspace<Scalar, Precision>& space, void* staging)
        : plan_(plan),
          space_(space),
          pitch_(widest_tile(plan)),
          whole_(plan.classes <= space.size / pitch_),
          part_(whole_ ? plan.classes : space.size / pitch_ / pair_size * pair_size),
          reader_(plan, pitch_, space.logits, space.results),
          writer_(plan, tiles_block(plan), pitch_, space.results, staging) {}

    // Computes the losses of a block and writes the gradient, if the plan has one.
    void cross_entropy(SoftmaxBlock<Precision>& block) {
        for_each_tile(block.first, block.count, [&](index_t first, index_t) {
            sum_up_but_pivots(block.classes + first, block.ignores);
            sums_.template take_losses<Scalar>(plan_, block, first);
            if (plan_.has(gradient)) write_gradient(block, first);
        });
    }
    // Writes the plan's softmax_result of samples [begin, begin + count).
    void softmax(index_t begin, index_t count) {
        for_each_tile(begin, count, [&](index_t, index_t samples) {
            if (plan_.softmax_result == SoftmaxResult::softmax) {
                sum_up(false);
                return write_softmax();
            }
            sum_up_but_pivots(nullptr, false);
            sums_.take_logs(false);
            if (plan_.softmax_result == SoftmaxResult::log_sum_exp)
                return sums_.template write_log_sums<Scalar>(plan_, tile_.begin);
            for_each_part(0, plan_.classes, [&](index_t first, index_t classes) {
                const auto [to, pitch] = writer_.place_tile(tile_, first);
                for (index_t c = 0; c < classes; ++c)
                    for (index_t i = 0; i < samples; ++i) {
                        const double logit = reader_.at(c, i);
                        to[c * pitch + i] =
                            rounded_entry<Scalar>((logit - sums_.center[i]) - sums_.log[i]);
                    }
                writer_.commit_tile(tile_, first, classes, {to, pitch});
            });
        });
    }
    void finish() { writer_.finish(); }

private:
    // Returns the samples of a tile that the buffers hold. Rows are transposed into a tile, and are
    // in the first cache beside it.
    static index_t widest_tile(const Plan& plan) {
        const int share = plan.class_stride[input] == 1 ? 2 : 1;
        const index_t samples = Space::size / share / std::max<index_t>(plan.classes, 1);
        return std::clamp<index_t>(samples / lanes * lanes, lanes, max_tile_samples / share);
    }
    // ------------------------------------------------------------ loading

    // Calls visit(first, count) for the tiles of a block, loaded if a tile holds all classes.
    template <class Visit> void for_each_tile(index_t begin, index_t samples, Visit&& visit) {
        writer_.begin_block(begin);
        for_each_block(0, samples, pitch_, [&](index_t first, index_t count) {
            tile_ = {begin + first, count, padded(count)};
            sums_.begin(count);
            next_ = nullptr;
            if (whole_) {
                reader_.load(tile_, 0, plan_.classes);
                next_ = reader_.find(tile_.begin + count);
            }
            visit(first, count);
        });
        writer_.end_block(samples);
    }
    template <class Visit> void for_each_chunk(Visit&& visit) const {
        for_each_block(0, plan_.classes, chunk_size, visit);
    }
    // Calls visit(first, classes) for the parts of a range of classes, loaded one by one.
    template <class Visit> void for_each_part(index_t begin, index_t classes, Visit&& visit) {
        for_each_block(begin, begin + classes, part_, [&](index_t first, index_t count) {
            if (plan_.is_abandoned()) return;
            if (!whole_) reader_.load(tile_, first, count);
            visit(first, count);
        });
    }
    // ------------------------------------------------------------ the sums of a tile

    // Computes the sums of each sample; knows_max: its largest logit was found. Where a tile holds
    // all classes, their exponentials are kept.
    [[gnu::noinline]] void sum_up(bool knows_max) {
        if (!needs_max<Precision>(plan_) && !sums_.shift.clamps()) {
            sum_classes();
            if (sums_in_range()) return;
        }
        if (!knows_max) find_max(false);
        // Tiles after this, which are likely to be alike, begin so.
        sums_.shift = Shift(max_, tile_.width, is_smoothed<Precision>(plan_));
        sum_classes();
    }
    // Computes the sums, and takes the pivots out of them. targets: (count,), or nullptr: then the
    // largest logits are the pivots.
    [[gnu::noinline]] void sum_up_but_pivots(const index_t* targets, bool ignores) {
        if (targets) load_pivots(targets, ignores);
        else find_max(true);
        sum_up(targets == nullptr);
        sums_.exclude_pivots(targets, ignores, [&] {
            if constexpr (Precision::exact) return exclude_again();
            if (sequential()) std::copy_n(sums_.sum, tile_.width, sums_.pivot_chunk);
            for_each_chunk([&](index_t first, index_t classes) { sum_others_of(first, classes); });
        });
    }
    // Sets the pivots to the logits at the targets; of ignored samples to 0.
    void load_pivots(const index_t* targets, bool ignores) {
        for (index_t i = 0; i < tile_.count && !sequential(); ++i)
            sums_.pivot_chunk_of[i] = targets[i] / chunk_size;
        if (whole_ && !ignores) {
            for (index_t i = 0; i < tile_.count; ++i) sums_.pivot[i] = reader_.at(targets[i], i);
            return;
        }
        const Scalar* from = plan_.pointer<const Scalar>(input);
        plan_.samples.for_each(input, tile_.begin, tile_.count, [&](index_t i, index_t offset) {
            if (targets[i] != ignored)
                sums_.pivot[i] =
                    converted<Real>(from[offset + targets[i] * plan_.class_stride[input]]);
        });
    }
    // Finds the largest logit of each sample, the first of equal ones; `is_pivot`: and its chunk.
    void find_max(bool is_pivot) {
        std::fill_n(max_, tile_.width, -std::numeric_limits<Real>::infinity());
        for_each_chunk([&](index_t first, index_t classes) {
            alignas(cache_line) Real before[max_tile_samples];
            std::copy_n(max_, tile_.width, before);
            for_each_part(first, classes, [&](index_t, index_t count) {
                raise_to_max(reader_.tile(), count, tile_.width, reader_.pitch(), max_);
            });
            for (index_t i = 0; i < tile_.width && is_pivot; ++i)
                if (max_[i] > before[i]) sums_.pivot_chunk_of[i] = first / chunk_size;
        });
        if (is_pivot) std::copy_n(max_, tile_.width, sums_.pivot);
    }
    bool sums_in_range() const {
        std::uint64_t outside = 0;  // as wide as a sum, for SIMD
        for (index_t i = 0; i < tile_.width; ++i)
            outside |= std::uint64_t{!Shift::sum_in_range(sums_.sum[i], plan_.classes)};
        return in_range_ && !outside;
    }

    bool sequential() const { return plan_.classes <= max_sequential_classes; }
    void sum_classes() {
        in_range_ = true;
        sums_.clear();
        const bool adds_terms = sequential() && Precision::fused;  // beside the exponentials
        if (is_smoothed<Precision>(plan_) && !adds_terms)
            for_each_chunk([&](index_t first, index_t classes) { sum_smoothing(first, classes); });
        if (sequential()) {
            if (!is_smoothed<Precision>(plan_)) return compute_exps(plan_.classes, sums_.sum, 0);
            return compute_exps(plan_.classes, sums_.sum, 0,
                                std::bool_constant<Precision::fused>());
        }
        for_each_chunk([&](index_t first, index_t classes) { add_chunk_sums(first, classes); });
    }
    // Computes the exponentials of the classes that are loaded and adds them to sums: one after
    // the other, or by lanes of classes, lane_pitch apart, where Double adds nothing.
    template <bool smooths = false>
    void compute_exps(index_t classes, double* sums, index_t lane_pitch,
                      std::bool_constant<smooths> = {}) {
        // Narrower logits in double, which are rare, need no code of their own to be asked for.
        using Ahead = std::conditional_t<Precision::exact, Real, Scalar>;
        const bool has_next = next_ && std::same_as<Ahead, Scalar>;
        const void* next = has_next ? static_cast<const void*>(next_) : reader_.tile();
        const auto* ahead = static_cast<const Ahead*>(next);
        const index_t stride = plan_.class_stride[input];
        const index_t ahead_step = !has_next ? 0 : stride == 1 ? tile_.width : stride;
        const auto compute = [&]<bool clamped>() {
            return exps_of_tile<clamped, Precision, smooths>(
                reader_.tile(), classes, tile_.width, reader_.pitch(), sums_.shift, ahead,
                ahead_step, space_.exps, pitch_, sums, sums_.error, lane_pitch,
                TermWeights(plan_, 0), sums_.smoothing);
        };
        if (sums_.shift.clamps()) compute.template operator()<true>();  // all have an exponential
        else in_range_ &= compute.template operator()<false>();
    }
    void compute_exps(index_t classes) {
        alignas(cache_line) double unused[max_tile_samples] = {};
        constexpr index_t adds_nothing = Precision::exact;  // see exps_of_tile
        compute_exps(classes, unused, adds_nothing);
    }
    void add_chunk_sums(index_t first, index_t classes) {
        auto& sums = lane_sums_;
        sums.begin(tile_.width);
        if constexpr (Precision::fused) sums.clear();
        for_each_part(first, classes, [&](index_t, index_t count) {
            if (Precision::fused) return compute_exps(count, sums.sum, sums.pitch);
            compute_exps(count);
            const auto exp = [&](index_t c, index_t i) { return space_.exps[c * pitch_ + i]; };
            if (Precision::exact) sums.add_each(count, exp);
            else sums.add_pairs(count, exp);
        });
        sums.finish();
        for (index_t i = 0; i < tile_.width; ++i) {
            sums_.add(i, first / chunk_size, sums.sum[i], Precision::exact ? sums.error[i] : 0.0);
        }
    }
    // Adds Σ w·(x - shift) of a chunk, in smoothing units.
    void sum_smoothing(index_t begin, index_t classes) {
        LaneSums<Precision::exact>& sums = lane_sums_;
        sums.begin(tile_.width);
        for_each_part(begin, classes, [&](index_t first, index_t count) {
            const TermWeights weights(plan_, first);
            const Real* tile = reader_.tile();
            const index_t pitch = reader_.pitch();
            sums.add_each(count, [&](index_t c, index_t i) {
                const double unit = Precision::smoothing_unit;
                return weights[c] * (tile[c * pitch + i] / unit - sums_.shift.shift(i) / unit);
            });
        });
        sums.finish();
        for (index_t i = 0; i < tile_.width; ++i)
            sums_.smoothing[i] +=
                Precision::exact ? compensated_total(sums.sum[i], sums.error[i]) : sums.sum[i];
    }

    // Adds up a chunk again without the pivots that are nearly all of a sum in it.
    void sum_others_of(index_t first, index_t classes) {
        const auto dominates = [&](index_t i) {
            return sums_.pivot_chunk_of[i] == first / chunk_size && sums_.dominates(i);
        };
        bool any = false;
        for (index_t i = 0; i < tile_.width; ++i) any |= dominates(i);
        if (!any) return;
        auto& others = lane_sums_;
        others.begin(tile_.width);
        for_each_part(first, classes, [&](index_t, index_t count) {
            if (!whole_) compute_exps(count);
            others.add_pairs(count, [&](index_t c, index_t i) {
                const Exp exp = space_.exps[c * pitch_ + i];
                return exp == static_cast<Exp>(sums_.exp_pivot[i]) ? Exp{0} : exp;
            });
        });
        others.finish();
        for (index_t i = 0; i < tile_.width; ++i)
            if (dominates(i)) sums_.exclude_again(i, others.sum[i]);
    }

    // Adds up the tile again without the pivots that are nearly all of their sums.
    [[gnu::noinline]] void exclude_again()
        requires(Precision::exact)
    {
        ExpSum all[max_tile_samples];
        auto& others = lane_sums_;
        for_each_chunk([&](index_t begin, index_t chunk) {
            others.begin(tile_.width);
            for_each_part(begin, chunk, [&](index_t, index_t count) {
                if (!whole_) compute_exps(count);
                others.add_each(count, [&](index_t c, index_t i) {
                    const Exp exp = space_.exps[c * pitch_ + i];
                    return exp == sums_.exp_pivot[i] ? Exp{0} : exp;
                });
            });
            others.finish();
            for (index_t i = 0; i < tile_.width; ++i)
                add_chunk(all[i].sum, all[i].error, others.sum[i], others.error[i]);
        });
        for (index_t i = 0; i < tile_.count; ++i)
            if (sums_.dominates(i)) sums_.exclude_again(i, all[i]);
    }

    // ------------------------------------------------------------ results

    void write_softmax() {
        alignas(cache_line) ExpScale scale[max_tile_samples];
        sums_.take_softmax_scales(scale);
        for_each_part(0, plan_.classes, [&](index_t first, index_t classes) {
            if (!whole_) compute_exps(classes);
            const auto [to, pitch] = writer_.place_tile(tile_, first);
            scale_tile(space_.exps, classes, tile_.width, pitch_, scale, to, pitch);
            writer_.commit_tile(tile_, first, classes, {to, pitch});
        });
    }
    // Writes the gradient of this tile, whose samples are those of the block from `at` on.
    void write_gradient(const SoftmaxBlock<Precision>& block, index_t at) {
        alignas(cache_line) ExpScale softmax_scale[max_tile_samples];
        alignas(cache_line) Scalar entry[max_tile_samples];
        sums_.take_scales(plan_, block, at, softmax_scale, entry);
        const index_t* targets = block.classes + at;
        for_each_part(0, plan_.classes, [&](index_t first, index_t classes) {
            if (!whole_) compute_exps(classes);
            const auto [to, pitch] = writer_.place_tile(tile_, first);
            if (is_smoothed<Precision>(plan_))
                write_smoothed(block, at, softmax_scale, first, classes, to, pitch);
            else scale_tile(space_.exps, classes, tile_.width, pitch_, softmax_scale, to, pitch);
            for (index_t i = 0; i < tile_.count; ++i) {
                const index_t c = targets[i] - first;
                if (c >= 0 && c < classes) to[c * pitch + i] = entry[i];
            }
            for (index_t i = 0; i < tile_.count && block.ignores; ++i)
                for (index_t c = 0; c < classes && targets[i] == ignored; ++c)
                    to[c * pitch + i] = Scalar{};
            writer_.commit_tile(tile_, first, classes, {to, pitch});
        });
    }
    void write_smoothed(const SoftmaxBlock<Precision>& block, index_t at,
                        const ExpScale* softmax_scale, index_t first, index_t classes, Scalar* to,
                        index_t pitch) {
        const double* weights = plan_.class_weights ? plan_.class_weights + first : nullptr;
        smoothed_tile(space_.exps, classes, tile_.count, pitch_, softmax_scale,
                      block.smoothing_scale + at, weights, to, pitch);
    }

    const Plan& plan_;
    Workspace<Scalar, Precision>& space_;
    const index_t pitch_;  // samples of a tile
    const bool whole_;     // a tile has all classes
    const index_t part_;   // classes of a tile
    TileReader<Scalar, Real> reader_;
    GradientWriter<Scalar> writer_;
    TileSamples tile_{};
    const Scalar* next_ = nullptr;  // the next tile's first sample
    bool in_range_ = true;
    alignas(cache_line) Real max_[max_tile_samples];
    SoftmaxSums<Precision> sums_;
    LaneSums<Precision::exact> lane_sums_;
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
