// SPDX-License-Identifier: BSD-3-Clause
// What compilers and caches are told. To ask for memory before it is needed; and to be left out of stores: a plain
// store reads the line that it writes to, which for memory that no cache will keep anyway is half of the traffic.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "scalar.hpp"

#if defined(__GNUC__)
#define NLL_PREFETCH(address) __builtin_prefetch(address)
#define NLL_PREFETCH_FAR(address) __builtin_prefetch(address, 0, 2)  // into the second cache
#else
#define NLL_PREFETCH(address) ((void)(address))
#define NLL_PREFETCH_FAR(address) ((void)(address))
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define NLL_UNROLL _Pragma("GCC unroll 16")
#define NLL_ONE_VECTOR _Pragma("GCC unroll 1")  // GCC would make single numbers of short loops before it vectorises
#else
#define NLL_ONE_VECTOR
#define NLL_UNROLL  // short loops of a fixed length are unrolled anyway
#endif

// At the start of a loop's body that works on one group of lanes: compilers shall vectorise within the group. GCC would
// unroll it and vectorise over several groups, whose elements it then has to shuffle.
#if defined(__GNUC__) && !defined(__clang__)
#define NLL_ONE_GROUP_OF_LANES __asm__ volatile("")
#else
#define NLL_ONE_GROUP_OF_LANES ((void)0)
#endif

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

inline constexpr std::int64_t cache_line = 64;

template <class T> constexpr std::int64_t bytes_of(std::int64_t elements) { return elements * std::int64_t{sizeof(T)}; }

// Copies cache lines past the caches, if the processor can. Call finish_streams before others may read them.
[[gnu::always_inline]] inline void stream_lines(std::byte* to, const std::byte* from, std::int64_t lines) {
#if defined(__SSE2__)
    for (std::int64_t at = 0; at < lines * cache_line; at += cache_line) {
#if defined(__AVX512F__)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), _mm512_loadu_si512(from + at));
#elif defined(__AVX__)
        for (std::int64_t part = at; part < at + cache_line; part += 32)
            _mm256_stream_si256(reinterpret_cast<__m256i*>(to + part),
                                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + part)));
#else
        for (std::int64_t part = at; part < at + cache_line; part += 16)
            _mm_stream_si128(reinterpret_cast<__m128i*>(to + part),
                             _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + part)));
#endif
    }
#else
    std::memcpy(to, from, static_cast<std::size_t>(lines * cache_line));
#endif
}

// Bytes before the first whole cache line.
inline std::int64_t before_line(const void* memory, std::int64_t bytes) {
    const auto past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(memory) % cache_line);
    return std::min(bytes, (cache_line - past) % cache_line);
}

// Copies, whole cache lines past the caches.
inline void stream(void* to, const void* from, std::int64_t bytes) {
    auto* out = static_cast<std::byte*>(to);
    const auto* in = static_cast<const std::byte*>(from);
    const std::int64_t head = before_line(to, bytes), lines = (bytes - head) / cache_line;
    std::memcpy(out, in, static_cast<std::size_t>(head));
    stream_lines(out + head, in + head, lines);
    const std::int64_t end = head + lines * cache_line;
    std::memcpy(out + end, in + end, static_cast<std::size_t>(bytes - end));
}

// Stretches of memory, all as long and as far apart, that are copied some cache lines at a time, past the caches where
// lines are whole. Stores that wait for memory cost little between loads that do, or between computations.
class Waiting {
public:
    Waiting() = default;
    Waiting(void* to, const void* from, std::int64_t bytes, std::int64_t stretches = 1, std::int64_t to_pitch = 0,
            std::int64_t from_pitch = 0)
        : to_(static_cast<std::byte*>(to)),
          from_(static_cast<const std::byte*>(from)),
          bytes_(bytes),
          stretches_(stretches),
          to_pitch_(to_pitch),
          from_pitch_(from_pitch) {
        begin_stretch();
    }

    bool waits() const { return stretches_ > 0; }
    // So many lines, or what is left of a stretch.
    [[gnu::always_inline]] void copy_some(std::int64_t lines) {
        if (lines < lines_) copy_lines(lines);
        else if (waits()) end_stretch();
    }
    void copy_rest() {
        while (waits()) end_stretch();
    }

private:
    void begin_stretch() {
        const std::int64_t head = before_line(to_, bytes_);
        copy(head);
        lines_ = (bytes_ - head) / cache_line;
        tail_ = (bytes_ - head) % cache_line;
    }
    [[gnu::noinline]] void end_stretch() {
        copy_lines(lines_);
        copy(tail_);
        to_ += to_pitch_ - bytes_;
        from_ += from_pitch_ - bytes_;
        if (--stretches_ > 0) begin_stretch();
    }
    [[gnu::always_inline]] void copy_lines(std::int64_t lines) {
        stream_lines(to_, from_, lines);
        advance(lines * cache_line);
        lines_ -= lines;
    }
    void copy(std::int64_t bytes) {
        std::memcpy(to_, from_, static_cast<std::size_t>(bytes));
        advance(bytes);
    }
    void advance(std::int64_t bytes) {
        to_ += bytes;
        from_ += bytes;
    }

    std::byte* to_ = nullptr;  // of what is not copied yet
    const std::byte* from_ = nullptr;
    std::int64_t lines_ = 0, tail_ = 0;  // of this stretch: whole lines, and bytes after them
    std::int64_t bytes_ = 0, stretches_ = 0, to_pitch_ = 0, from_pitch_ = 0;
};

inline void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
