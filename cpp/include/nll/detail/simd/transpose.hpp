// SPDX-License-Identifier: BSD-3-Clause
// Values of some classes of some samples between memory in any layout and small buffers.
#pragma once

#include <algorithm>
#include <cstring>

#include "../formats.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

template <class To, class From> [[gnu::always_inline]] inline To converted(From value) {
    if constexpr (std::same_as<To, From>) return value;
    else return static_cast<To>(to_real(value));
}

// Transposes a square: to[c, i] = from[i, c] for 8 x 8 elements; strides are those of rows. Loops
// are unrolled, so that rows stay in registers.
template <class T>
[[gnu::always_inline]] inline void transpose_square(const T* from, index_t from_stride, T* to,
                                                    index_t to_stride) {
#if defined(__GNUC__)
    typedef T Row __attribute__((vector_size(8 * sizeof(T))));
    if constexpr (sizeof(T) == 4) {
        // Half of the columns at a time. Rows that are 4 apart are loaded side by side, so that
        // elements, and then pairs of them, are exchanged inside of 16 bytes alone.
        typedef T Half __attribute__((vector_size(16)));
        typedef std::uint64_t Pairs __attribute__((vector_size(32)));
        NLL_UNROLL for (int first = 0; first < 8; first += 4) {
            Row row[4];
            NLL_UNROLL for (int i = 0; i < 4; ++i) {
                Half low, high;
                std::memcpy(&low, from + i * from_stride + first, sizeof(Half));
                std::memcpy(&high, from + (i + 4) * from_stride + first, sizeof(Half));
                row[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
            }
            Pairs pairs[4], column[4];
            NLL_UNROLL for (int i = 0; i < 2; ++i) {
                pairs[i] = reinterpret_cast<Pairs>(
                    __builtin_shufflevector(row[2 * i], row[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13));
                pairs[2 + i] = reinterpret_cast<Pairs>(__builtin_shufflevector(
                    row[2 * i], row[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15));
            }
            NLL_UNROLL for (int k = 0; k < 4; k += 2) {
                column[k] = __builtin_shufflevector(pairs[k], pairs[k + 1], 0, 4, 2, 6);
                column[k + 1] = __builtin_shufflevector(pairs[k], pairs[k + 1], 1, 5, 3, 7);
            }
            NLL_UNROLL for (int c = 0; c < 4; ++c)
                std::memcpy(to + (first + c) * to_stride, &column[c], sizeof(Row));
        }
    } else {
        // Interleaves pairs of rows, 4 apart: three times, and all is in place.
        Row row[8], mixed[8];
        NLL_UNROLL for (int i = 0; i < 8; ++i)
            std::memcpy(&row[i], from + i * from_stride, sizeof(Row));
        NLL_UNROLL for (int step = 0; step < 3; ++step) {
            NLL_UNROLL for (int i = 0; i < 4; ++i) {
                mixed[2 * i] =
                    __builtin_shufflevector(row[i], row[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
                mixed[2 * i + 1] =
                    __builtin_shufflevector(row[i], row[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
            }
            NLL_UNROLL for (int i = 0; i < 8; ++i) row[i] = mixed[i];
        }
        NLL_UNROLL for (int i = 0; i < 8; ++i)
            std::memcpy(to + i * to_stride, &row[i], sizeof(Row));
    }
#else
    for (int i = 0; i < 8; ++i)
        for (int c = 0; c < 8; ++c) to[c * to_stride + i] = from[i * from_stride + c];
#endif
}

// Transposes: to[c, i] = from[i, c], (columns, rows) of (rows, columns), in squares; the last of
// them overlap those before.
template <class T>
[[gnu::noinline]] void transpose(const T* from, index_t from_stride, T* to, index_t to_stride,
                                 index_t rows, index_t columns) {
    using Bits =
        std::conditional_t<sizeof(T) == 8, std::uint64_t,
                           std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>>;
    if (rows < 8 || columns < 8) {
        for (index_t c = 0; c < columns; ++c)
            for (index_t i = 0; i < rows; ++i) to[c * to_stride + i] = from[i * from_stride + c];
        return;
    }
    const auto* from_bits = reinterpret_cast<const Bits*>(from);
    auto* to_bits = reinterpret_cast<Bits*>(to);
    for (index_t first = 0; first < rows; first += 8) {
        const index_t i = std::min(first, rows - 8);
        for (index_t start = 0; start < columns; start += 8) {
            const index_t c = std::min(start, columns - 8);
            transpose_square(from_bits + i * from_stride + c, from_stride,
                             to_bits + c * to_stride + i, to_stride);
        }
    }
}

// Copies and converts the values of some classes of some samples, from and to any strides.
template <class From, class To>
[[gnu::noinline]] void copy_values(const From* from, index_t from_class, index_t from_sample,
                                   To* to, index_t to_class, index_t to_sample, index_t classes,
                                   index_t samples) {
    if (from_sample == 1 && to_sample == 1) {
        for (index_t c = 0; c < classes; ++c)
            for (index_t i = 0; i < samples; ++i)
                to[c * to_class + i] = converted<To>(from[c * from_class + i]);
    } else if (from_class == 1 && to_class == 1) {
        for (index_t i = 0; i < samples; ++i)
            for (index_t c = 0; c < classes; ++c)
                to[i * to_sample + c] = converted<To>(from[i * from_sample + c]);
    } else {
        constexpr index_t side = 16;  // the first cache holds both sides of such a square
        for (index_t first = 0; first < samples; first += side)
            for (index_t c = 0; c < classes; ++c)
                for (index_t i = first; i < std::min(first + side, samples); ++i)
                    to[c * to_class + i * to_sample] =
                        converted<To>(from[c * from_class + i * from_sample]);
    }
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
