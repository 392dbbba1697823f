// SPDX-License-Identifier: BSD-3-Clause
// Writes short rows that are 0 but for one entry, side by side in memory, as the gradient of the
// negative log likelihood is.
//
// They are made in registers and written past the caches, a cache line at a time: each element
// looks up the target of its row, and is the entry if that is its own class. So nothing is cleared,
// and nothing is read that was just stored. Which row and class an element has repeats after as
// many rows as a line has elements. (1 000 000, 10): 2.9 ms, by cleared tiles 3.3 ms.
#pragma once

#include <bit>

#include "../formats.hpp"
#include "stores.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

#if defined(__AVX512BW__)

template <class Scalar> class OneHotRows {
    static constexpr index_t line_elements = cache_line / index_t{sizeof(Scalar)};
    // Names an integer as wide as an element.
    using Index =
        std::conditional_t<sizeof(Scalar) == 8, std::int64_t,
                           std::conditional_t<sizeof(Scalar) == 4, std::int32_t, std::int16_t>>;

public:
    static constexpr index_t most_rows = 512, most_classes = 64;
    static constexpr index_t beyond = 2 * line_elements;  // entries that are read, but not used
    static bool serves(index_t classes) { return classes <= most_classes; }

    // Starts to write rows, (rows, classes), to `to`. targets: (rows,); a row whose target is no
    // class is all 0. entries: (rows + beyond,) if they differ, else one for all; they have to stay
    // until all is written. What is less than a line is written at once.
    void begin(Scalar* to, index_t rows, index_t classes, const index_t* targets,
               const Scalar* entries, bool differ) {
        const index_t size = rows * classes, head = bytes_before_line(to, bytes_of<Scalar>(size)) /
                                                    index_t{sizeof(Scalar)};
        if (classes != classes_ || head != head_) lay_out(classes, head);
        for (index_t i = 0; i < rows; ++i) targets_[i] = static_cast<Index>(targets[i]);
        std::fill_n(targets_ + rows, beyond, Index{-1});
        entries_ = entries;
        differ_ = differ;
        lines_ = (size - head) / line_elements;
        const auto write = [&](index_t first, index_t last) {
            for (index_t e = first; e < last; ++e) {
                const index_t row = e / classes;
                to[e] = targets[row] == e % classes ? entries[differ ? row : 0] : Scalar{};
            }
        };
        write(0, head);
        write(head + lines_ * line_elements, size);
        to_ = to + head;
        row_ = line_ = 0;
    }
    bool pending() const { return lines_ > 0; }
    // Writes up to so many lines.
    void copy(index_t lines) {
        if (!pending()) return;
        lines = std::min(lines, lines_);
        lines_ -= lines;
        if (differ_) write_lines<true>(lines);
        else write_lines<false>(lines);
    }
    void finish() { copy(lines_); }

private:
    template <bool differ> void write_lines(index_t lines) {
        while (lines > 0) {
            const __m512i here = load(targets_ + row_),
                          after = load(targets_ + row_ + line_elements);
            __m512i entry = all(entries_[0]), entry_after = entry;
            if constexpr (differ)
                entry = load(entries_ + row_), entry_after = load(entries_ + row_ + line_elements);
            const index_t first = line_, some = std::min(lines, classes_ - first);
            auto* to = reinterpret_cast<__m512i*>(to_);
            for (index_t line = 0; line < some; ++line) {
                const __m512i row = load(row_of_[first + line]), c = load(class_of_[first + line]);
                const __m512i value = differ ? picked(entry, row, entry_after) : entry;
                _mm512_stream_si512(to + line, where_equal(picked(here, row, after), c, value));
            }
            to_ += some * line_elements;
            lines -= some;
            line_ += some;
            if (line_ == classes_) line_ = 0, row_ += line_elements;
        }
    }

    static __m512i load(const void* from) { return _mm512_loadu_si512(from); }
    static __m512i all(Scalar value) {
        const auto bits = std::bit_cast<Index>(value);
        if constexpr (sizeof(Scalar) == 2) return _mm512_set1_epi16(bits);
        else if constexpr (sizeof(Scalar) == 4) return _mm512_set1_epi32(bits);
        else return _mm512_set1_epi64(bits);
    }
    // Picks elements by an index into those of both.
    static __m512i picked(__m512i first, __m512i index, __m512i second) {
        if constexpr (sizeof(Scalar) == 2) return _mm512_permutex2var_epi16(first, index, second);
        else if constexpr (sizeof(Scalar) == 4)
            return _mm512_permutex2var_epi32(first, index, second);
        else return _mm512_permutex2var_epi64(first, index, second);
    }
    // Returns value where a equals b, elsewhere 0.
    static __m512i where_equal(__m512i a, __m512i b, __m512i value) {
        if constexpr (sizeof(Scalar) == 2)
            return _mm512_maskz_mov_epi16(_mm512_cmpeq_epi16_mask(a, b), value);
        else if constexpr (sizeof(Scalar) == 4)
            return _mm512_maskz_mov_epi32(_mm512_cmpeq_epi32_mask(a, b), value);
        else return _mm512_maskz_mov_epi64(_mm512_cmpeq_epi64_mask(a, b), value);
    }

    void lay_out(index_t classes, index_t head) {
        classes_ = classes;
        head_ = head;
        index_t row = head / classes, c = head % classes;
        for (index_t line = 0; line < classes; ++line)
            for (index_t l = 0; l < line_elements; ++l) {
                row_of_[line][l] = static_cast<Index>(row);
                class_of_[line][l] = static_cast<Index>(c);
                if (++c == classes) c = 0, ++row;
            }
    }

    index_t classes_ = 0, head_ = 0;  // what is laid out, from so many elements on
    index_t lines_ = 0;               // to be written, to to_,
    index_t row_ = 0, line_ = 0;  // the next of which is so many lines after the start of this row
    Scalar* to_ = nullptr;
    const Scalar* entries_ = nullptr;
    bool differ_ = false;
    Index targets_[most_rows + beyond];
    alignas(cache_line) Index row_of_[most_classes][line_elements],
        class_of_[most_classes][line_elements];
};

#else

// Serves nothing: without registers as wide as a cache line it does not pay.
template <class Scalar> struct OneHotRows {
    static constexpr index_t most_rows = 512, beyond = 0;
    static bool serves(index_t) { return false; }
    void begin(Scalar*, index_t, index_t, const index_t*, const Scalar*, bool) {}
    static bool pending() { return false; }
    void copy(index_t) {}
    void finish() {}
};

#endif

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
