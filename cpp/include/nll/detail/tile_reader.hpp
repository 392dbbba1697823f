// SPDX-License-Identifier: BSD-3-Clause
// Reads a tile, class after class of samples side by side, from memory in any layout.
#pragma once

#include "plan.hpp"
#include "simd/transpose.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Finds the memory of samples; it remembers the run that it met last.
template <class T> class RunCursor {
public:
    RunCursor(const Plan& plan, Operand operand) : plan_(plan), operand_(operand) {}
    // Returns the address of a sample, and in `side_by_side` how many samples, this one first, are
    // in the same run.
    T* find(index_t sample, index_t& side_by_side) {
        if (sample < first_ || sample >= first_ + run_.length) {
            std::array<index_t, max_rank> at;
            run_ = plan_.samples.run_from(sample, at);
            first_ = sample;
        }
        const index_t within = sample - first_;
        side_by_side = run_.length - within;
        return plan_.pointer<T>(operand_) + run_.offset[operand_] +
               within * plan_.samples.stride(operand_);
    }
    // Returns the address of a tile, class after class of `count` samples, if it is laid out so.
    T* find_tile(index_t sample, index_t count) {
        if (plan_.samples.stride(operand_) != 1) return nullptr;
        index_t side_by_side;
        T* const memory = find(sample, side_by_side);
        return side_by_side >= count ? memory : nullptr;
    }

private:
    const Plan& plan_;
    Operand operand_;
    Samples::Run run_{};
    index_t first_ = 0;
};

// Describes a tile: samples [begin, begin + count), computed in whole lanes.
struct TileSamples {
    index_t begin, count, width;
};

template <class Scalar, class Real> class TileReader {
public:
    // buffer, raw: the elements of a tile, (classes, pitch).
    TileReader(const Plan& plan, index_t pitch, Real* buffer, Scalar* raw)
        : plan_(plan), buffer_pitch_(pitch), buffer_(buffer), raw_(raw), cursor_(plan, input) {}

    // Makes classes [first, first + classes) of a tile the one at hand: in place, or copied.
    void load(const TileSamples& tile, index_t first, index_t classes) {
        if constexpr (std::same_as<Scalar, Real>)
            if (tile.width == tile.count)
                if (const Scalar* in_place = cursor_.find_tile(tile.begin, tile.count)) {
                    pitch_ = plan_.class_stride[input];
                    tile_ = in_place + first * pitch_;
                    return;
                }
        tile_ = buffer_;
        pitch_ = buffer_pitch_;
        if (tile.width > tile.count)
            for (index_t c = 0; c < classes; ++c)
                std::fill(buffer_ + c * pitch_ + tile.count, buffer_ + c * pitch_ + tile.width,
                          Real{0});
        plan_.samples.for_each_run(tile.begin, tile.count,
                                   [&](const Samples::Run& run) { load_run(run, first, classes); });
    }
    const Real* tile() const { return tile_; }  // (classes, pitch())
    index_t pitch() const { return pitch_; }
    Real at(index_t c, index_t i) const { return tile_[c * pitch_ + i]; }

    // Returns the address of a sample, or nullptr beyond the last.
    const Scalar* find(index_t sample) {
        index_t side_by_side;
        return sample < plan_.samples.count ? cursor_.find(sample, side_by_side) : nullptr;
    }

private:
    void load_run(const Samples::Run& run, index_t first, index_t classes) const {
        const index_t class_stride = plan_.class_stride[input];
        const index_t stride = plan_.samples.stride(input);
        const Scalar* from =
            plan_.pointer<const Scalar>(input) + run.offset[input] + first * class_stride;
        Real* to = buffer_ + run.begin;
        if (class_stride != 1)
            return copy_values(from, class_stride, stride, to, pitch_, 1, classes, run.length);
        if constexpr (std::same_as<Scalar, Real>) {
            transpose(from, stride, to, pitch_, run.length, classes);
        } else {
            Scalar* const raw = raw_ + run.begin;
            transpose(from, stride, raw, pitch_, run.length, classes);
            copy_values(raw, pitch_, 1, to, pitch_, 1, classes, run.length);
        }
    }

    const Plan& plan_;
    const index_t buffer_pitch_;
    Real* const buffer_;
    Scalar* const raw_;
    RunCursor<const Scalar> cursor_;
    const Real* tile_ = nullptr;
    index_t pitch_ = 0;
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
