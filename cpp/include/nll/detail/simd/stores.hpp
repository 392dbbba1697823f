// SPDX-License-Identifier: BSD-3-Clause
// Copies that pass the caches by. A plain store reads the line that it writes to, which for memory
// that no cache will keep anyway is half of the traffic.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../tuning.hpp"
#include "hints.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

template <class T> constexpr index_t bytes_of(index_t elements) {
    return elements * index_t{sizeof(T)};
}

// Copies whole cache lines past the caches, if the processor can; `to` is aligned to one. Others
// may read them after finish_streams().
[[gnu::always_inline]] inline void stream_lines(std::byte* to, const std::byte* from,
                                                index_t lines) {
#if defined(__SSE2__)
    for (index_t at = 0; at < lines * cache_line; at += cache_line) {
#if defined(__AVX512F__)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), _mm512_loadu_si512(from + at));
#elif defined(__AVX__)
        for (index_t part = at; part < at + cache_line; part += 32)
            _mm256_stream_si256(reinterpret_cast<__m256i*>(to + part),
                                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + part)));
#else
        for (index_t part = at; part < at + cache_line; part += 16)
            _mm_stream_si128(reinterpret_cast<__m128i*>(to + part),
                             _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + part)));
#endif
    }
#else
    std::memcpy(to, from, static_cast<std::size_t>(lines * cache_line));
#endif
}

inline void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// Returns how many of `bytes` at an address come before its first whole cache line.
inline index_t bytes_before_line(const void* memory, index_t bytes) {
    const auto past = static_cast<index_t>(reinterpret_cast<std::uintptr_t>(memory) % cache_line);
    return std::min(bytes, (cache_line - past) % cache_line);
}

// Copies memory some cache lines at a time, past the caches where lines are whole: stores that wait
// for memory cost little between loads that do.
class DeferredCopy {
public:
    DeferredCopy() = default;
    DeferredCopy(void* to, const void* from, index_t bytes)
        : to_(static_cast<std::byte*>(to)), from_(static_cast<const std::byte*>(from)) {
        const index_t head = bytes_before_line(to, bytes);
        copy_bytes(head);
        lines_ = (bytes - head) / cache_line;
        tail_ = (bytes - head) % cache_line;
    }

    bool pending() const { return lines_ > 0 || tail_ > 0; }
    // Copies up to so many lines.
    void copy(index_t lines) {
        lines = std::min(lines, lines_);
        stream_lines(to_, from_, lines);
        advance(lines * cache_line);
        lines_ -= lines;
    }
    // Copies all that is left.
    void finish() {
        copy(lines_);
        copy_bytes(std::exchange(tail_, 0));
    }

private:
    void copy_bytes(index_t bytes) {
        if (bytes > 0) std::memcpy(to_, from_, static_cast<std::size_t>(bytes));
        advance(bytes);
    }
    void advance(index_t bytes) {
        to_ += bytes;
        from_ += bytes;
    }

    std::byte* to_ = nullptr;
    const std::byte* from_ = nullptr;
    index_t lines_ = 0, tail_ = 0;  // whole lines to copy, and bytes after them
};

// Copies memory, whole cache lines past the caches.
inline void stream(void* to, const void* from, index_t bytes) {
    DeferredCopy(to, from, bytes).finish();
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
