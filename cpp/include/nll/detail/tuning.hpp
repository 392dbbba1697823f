// SPDX-License-Identifier: BSD-3-Clause
// Every constant that was measured or that fixes an order of sums, with its reason. Machines: two
// cores each of Zen 3 (AVX2), Zen 4, Zen 5 and Emerald Rapids (AVX-512).
#pragma once

#include "../types.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

// ---------------------------------------------------------------- orders of sums: they fix bits

// Loops over lanes have this fixed length, which compilers turn into SIMD. Blocks are padded to it.
inline constexpr index_t lanes = 16;
constexpr index_t padded(index_t count) { return (count + lanes - 1) / lanes * lanes; }

// Samples of a block: the certificate of exact_sum.hpp is proved for so many values.
inline constexpr index_t block_size = 512;

// Classes whose exponentials are added one after the other; of more, by lanes. Up to here a tile of
// 64 samples fits the first cache, and beyond it a row takes less time than its part of a tile.
inline constexpr index_t max_sequential_classes = 128;

// Classes of a chunk: its logits and exponentials, 24 KiB, fit a first cache of 32 KiB.
inline constexpr index_t chunk_size = 2048;

// ---------------------------------------------------------------- caches

inline constexpr index_t cache_line = 64;
inline constexpr index_t page_bytes = 4096;

// Elements of a block of softmaxes: their logits and results fit the second cache of 256 KiB.
inline constexpr index_t max_block_elements = 32 << 10;

// Bytes of a kernel's buffer: half of a first cache, beside what is read.
inline constexpr index_t buffer_bytes = 16 << 10;

// Bytes of the memory that a thread has for the variables of one kernel, which are too large for
// the stacks of small threads.
inline constexpr index_t thread_memory_bytes = 192 << 10;

// Samples of a tile of planes; of rows, which are transposed into a tile, half as many.
inline constexpr int max_tile_samples = 128;

// Classes whose exponentials are kept between the loss and the gradient of a row: 512 KiB, which
// the second cache holds. Those of longer rows are computed again.
inline constexpr index_t max_kept_classes = 64 << 10;

// Class weights that are looked up in a table of doubles, 4 KiB.
inline constexpr index_t max_tabled_classes = 512;

// Bytes of the last cache that one call counts on: of a larger one, which many cores share, it has
// a part. A gradient of more than half of it is written past the caches, or page by page.
inline constexpr index_t max_counted_cache = 32 << 20;

// Bytes of a row of a gradient from which entries alone are written to zeroed memory. Shorter rows
// share pages, and are cheaper to write whole.
inline constexpr index_t min_entries_only_row = 4096;

// ---------------------------------------------------------------- prefetches

// Samples ahead that a gather asks for into the first cache, which can wait for some 20 lines only;
// the second cache is asked half a block (short rows) or a block ahead: 1.2 to 2 times as fast, but
// 10 % slower where each sample has pages of its own, which are looked up twice then.
inline constexpr index_t gather_ahead = 32;

// Bytes ahead that a row's exponentials ask for, into the first and into the second cache. From
// 1 to 3 KiB and from 16 to 32 KiB the differences are noise; without the first it is 8 % slower.
inline constexpr index_t row_ahead = 2 << 10;
inline constexpr index_t row_far_ahead = 16 << 10;

// Classes after which a part of the previous row's gradient is written past the caches between
// exponentials: 20 % at (4096, 50257).
inline constexpr index_t deferred_row_step = 256;

// Rows whose results wait to be written: a chunk's worth of classes, of which each has at least so
// many.
inline constexpr index_t max_deferred_rows = chunk_size / max_sequential_classes;

// Samples between two parts of a gradient that is written while losses are gathered.
inline constexpr index_t gather_step = 16;

// ---------------------------------------------------------------- threads

// Fewer samples, written elements or exponentials take less time than it takes to wake a thread.
inline constexpr index_t min_parallel_samples = 8192;
// Samples on pages of their own, each of which the processor has to look up: 2048 rows of 50257
// classes take 13 us, and 5 on two threads.
inline constexpr index_t min_parallel_pages = 2048;
inline constexpr index_t min_parallel_elements = 32768;
inline constexpr index_t min_parallel_exps = 16384;

// Pieces of work a thread: one that is held up holds up little.
inline constexpr index_t pieces_per_thread = 8;

// Elements of a piece, after which a call can be stopped: a millisecond, or ten where losses in
// double are smoothed. Samples of a piece: its first block is gathered without prefetch, 1 % of so
// many.
inline constexpr index_t max_piece_elements = index_t{1} << 20;
inline constexpr index_t max_piece_samples = 32768;

// Elements of a block of planes that is as wide as it should be; of more classes it is narrow.
inline constexpr index_t max_wide_elements = index_t{1} << 22;

// Elements of a call that ends soon enough by itself. Where a larger one has blocks that take
// longer than a piece should, a thread that does nothing else asks for signals, which costs 0.1 ms.
inline constexpr index_t max_unwatched_elements = index_t{1} << 24;

// Bytes that a block may span: 45 ms, where it is the first to touch them.
inline constexpr index_t max_block_span = index_t{1} << 27;

// Classes of a row from which all threads share it where samples are fewer than they; and those
// from which it is always shared, so that a call can be stopped in the middle of it.
inline constexpr index_t min_shared_classes = 16 * chunk_size;
inline constexpr index_t max_unshared_classes = max_wide_elements;

// Chunks of a shared row whose sums are held at a time, 0.5 MiB.
inline constexpr index_t max_chunks_held = 8192;

}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
