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

// Copies; whole cache lines of `to` are written past the caches. Call finish_streams before others may read.
inline void stream(void* to, const void* from, std::size_t bytes) {
#if defined(__SSE2__)
    constexpr std::size_t line = 64;
    auto* out = static_cast<std::byte*>(to);
    const auto* in = static_cast<const std::byte*>(from);
    const std::size_t head = std::min(bytes, (line - reinterpret_cast<std::uintptr_t>(out) % line) % line);
    std::memcpy(out, in, head);
    std::size_t at = head;
    for (; at + line <= bytes; at += line) {
#if defined(__AVX512F__)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(out + at), _mm512_loadu_si512(in + at));
#elif defined(__AVX__)
        for (std::size_t part = at; part < at + line; part += 32)
            _mm256_stream_si256(reinterpret_cast<__m256i*>(out + part),
                                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + part)));
#else
        for (std::size_t part = at; part < at + line; part += 16)
            _mm_stream_si128(reinterpret_cast<__m128i*>(out + part),
                             _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + part)));
#endif
    }
    std::memcpy(out + at, in + at, bytes - at);
#else
    std::memcpy(to, from, bytes);
#endif
}

inline void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
