// SPDX-License-Identifier: BSD-3-Clause
// Stores of results that have all classes of a sample: the gradient of cross-entropy, softmax and
// log_softmax. Loops ask for a place, fill it, and commit it; only the writer knows whether that is
// the array itself, a buffer whose values are copied or transposed to it, or a staging buffer whose
// block is streamed past the caches.
//
//     row:   to = place_row(row, first);              to[c], c < classes;        commit_row(...)
//     tile:  to = place_tile(tile, first);            to[c·pitch + i];           commit_tile(...)
//     block: begin_block(begin); tiles of it;         end_block(count)
//     last:  finish()
#pragma once

#include "simd/stores.hpp"
#include "tile_reader.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

template <class Scalar> class GradientWriter {
public:
    // Points at a tile: element (c, i) is to[c·pitch + i].
    struct Tile {
        Scalar* to;
        index_t pitch;
    };

    // buffer: as many elements as a Workspace has results. staging: staging_size(plan, block)
    // elements, or nullptr, without which results go out in shorter stretches.
    GradientWriter(const Plan& plan, index_t block, index_t tile_pitch, Scalar* buffer,
                   void* staging)
        : plan_(plan),
          block_(block),
          tile_pitch_(tile_pitch),
          buffer_(buffer),
          staging_(static_cast<Scalar*>(staging)),
          streams_(plan.store == Store::streamed),
          rows_(plan.class_stride[gradient] == 1),
          cursor_(plan, gradient) {}

    // Returns the elements of a block of tiles if it is streamed in one: rows that lie side by
    // side, or every plane; else 0.
    static index_t staging_size(const Plan& plan, index_t block) {
        const index_t stride = plan.samples.stride(gradient), elements = plan.classes * block;
        const bool dense = plan.class_stride[gradient] == 1 ? stride == plan.classes : stride == 1;
        const bool stages = plan.store == Store::streamed && dense;
        return stages && elements <= max_block_elements ? elements : 0;
    }

    // ------------------------------------------------------------ rows

    // Returns where classes from `first` on of the sample at `row` are to be written.
    Scalar* place_row(Scalar* row, index_t first) const {
        return rows_ && !streams_ ? row + first : buffer_;
    }
    void commit_row(Scalar* row, index_t first, index_t classes, const Scalar* placed) const {
        if (placed != buffer_) return;
        const index_t stride = plan_.class_stride[gradient];
        if (streams_ && rows_) stream(row + first, placed, bytes_of<Scalar>(classes));
        else copy_values(placed, 1, 0, row + first * stride, stride, 0, classes, 1);
    }

    // ------------------------------------------------------------ tiles

    void begin_block(index_t begin) { block_begin_ = begin; }
    // Returns where classes from `first` on of a tile are to be written.
    Tile place_tile(const TileSamples& tile, index_t first) {
        if (staging_ && !rows_)
            return {staging_ + first * block_ + (tile.begin - block_begin_), block_};
        if (!streams_ && tile.width == tile.count)
            if (Scalar* const to = cursor_.find_tile(tile.begin, tile.count)) {
                const index_t pitch = plan_.class_stride[gradient];
                return {to + first * pitch, pitch};
            }
        return {buffer_, tile_pitch_};
    }
    void commit_tile(const TileSamples& tile, index_t first, index_t classes, Tile placed) const {
        if (placed.to != buffer_) return;
        if (staging_) {
            Scalar* rows = staging_ + (tile.begin - block_begin_) * plan_.classes;
            return transpose(placed.to, placed.pitch, rows + first, plan_.classes, classes,
                             tile.count);
        }
        plan_.samples.for_each_run(tile.begin, tile.count, [&](const Samples::Run& run) {
            store_run(run, first, classes, placed);
        });
    }
    // Streams a block of `count` samples that was staged.
    void end_block(index_t count) const {
        if (!staging_) return;
        const index_t pitch = plan_.class_stride[gradient];
        plan_.samples.for_each_run(block_begin_, count, [&](const Samples::Run& run) {
            Scalar* to = plan_.pointer<Scalar>(gradient) + run.offset[gradient];
            if (rows_)
                return stream(to, staging_ + run.begin * plan_.classes,
                              bytes_of<Scalar>(run.length * plan_.classes));
            for (index_t c = 0; c < plan_.classes; ++c)
                stream(to + c * pitch, staging_ + c * block_ + run.begin,
                       bytes_of<Scalar>(run.length));
        });
    }

    // Lets other threads read what was streamed.
    void finish() const {
        if (streams_) finish_streams();
    }

private:
    void store_run(const Samples::Run& run, index_t first, index_t classes, Tile placed) const {
        const index_t class_stride = plan_.class_stride[gradient];
        const index_t stride = plan_.samples.stride(gradient);
        Scalar* to = plan_.pointer<Scalar>(gradient) + run.offset[gradient] + first * class_stride;
        const Scalar* from = placed.to + run.begin;
        if (rows_) {
            transpose(from, placed.pitch, to, stride, classes, run.length);
        } else if (streams_ && stride == 1) {
            for (index_t c = 0; c < classes; ++c)
                stream(to + c * class_stride, from + c * placed.pitch,
                       bytes_of<Scalar>(run.length));
        } else {
            copy_values(from, placed.pitch, 1, to, class_stride, stride, classes, run.length);
        }
    }

    const Plan& plan_;
    const index_t block_, tile_pitch_;
    Scalar* const buffer_;
    Scalar* const staging_;  // (block, classes) for rows, (classes, block) for planes
    const bool streams_, rows_;
    RunCursor<Scalar> cursor_;
    index_t block_begin_ = 0;
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
