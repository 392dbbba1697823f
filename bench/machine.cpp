// SPDX-License-Identifier: BSD-3-Clause
// What the machine's memory can do: the yardstick that the benchmarks stand beside, measured in the
// same rounds.
//
// A C face for ctypes. Every function returns the seconds of one pass over `bytes` (a multiple of
// 64 for each thread to have whole cache lines) by a team of `threads`, the team's start and end
// included. -1: not on this machine.
#include <omp.h>

#include <chrono>
#include <cstddef>
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

using Word = std::uint64_t;
// Its bytes differ, so that no compiler turns the plain stores into a call of memset.
constexpr Word pattern = 0x0123456789abcdef;

// Runs body(begin, end) on equal parts of n words, each of whole cache lines.
template <class Body> double seconds(int threads, std::size_t n, Body body) {
    const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads)
    {
        const std::size_t team = static_cast<std::size_t>(omp_get_num_threads());
        const std::size_t thread = static_cast<std::size_t>(omp_get_thread_num());
        body(n / 8 * thread / team * 8, n / 8 * (thread + 1) / team * 8);
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void fill(Word* array, std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) array[i] = pattern;
}

}  // namespace

extern "C" {

// The sum of an array. Four cache lines at a time: one chain of additions would wait for itself.
double read_seconds(const Word* array, std::size_t bytes, int threads) {
    static volatile Word total;
    return seconds(threads, bytes / sizeof(Word), [&](std::size_t begin, std::size_t end) {
        Word chains[32] = {};
        for (std::size_t i = begin; i + 32 <= end; i += 32)
            for (std::size_t k = 0; k < 32; ++k) chains[k] += array[i + k];
        Word sum = 0;
        for (const Word chain : chains) sum += chain;
        if (sum == 1) total = sum;
    });
}

// Plain stores. The hardware may read each line before it is overwritten; that is not counted.
double fill_seconds(Word* array, std::size_t bytes, int threads) {
    return seconds(threads, bytes / sizeof(Word),
                   [&](std::size_t begin, std::size_t end) { fill(array, begin, end); });
}

// Stores that pass the caches by. `array` stands at a multiple of 64.
double fill_nontemporal_seconds(Word* array, std::size_t bytes, int threads) {
#if defined(__SSE2__)
    return seconds(threads, bytes / sizeof(Word), [&](std::size_t begin, std::size_t end) {
#if defined(__AVX512F__)
        const __m512i value = _mm512_set1_epi64(static_cast<long long>(pattern));
        for (std::size_t i = begin; i < end; i += 8)
            _mm512_stream_si512(reinterpret_cast<__m512i*>(array + i), value);
#elif defined(__AVX__)
        const __m256i value = _mm256_set1_epi64x(static_cast<long long>(pattern));
        for (std::size_t i = begin; i < end; i += 4) _mm256_stream_si256(reinterpret_cast<__m256i*>(array + i), value);
#else
        const __m128i value = _mm_set1_epi64x(static_cast<long long>(pattern));
        for (std::size_t i = begin; i < end; i += 2) _mm_stream_si128(reinterpret_cast<__m128i*>(array + i), value);
#endif
        _mm_sfence();
    });
#else
    static_cast<void>(array), static_cast<void>(bytes), static_cast<void>(threads);
    return -1;
#endif
}

// The first write to pages fresh from the system: advised to be huge (2 MiB), or 4 KiB each.
double first_touch_seconds(std::size_t bytes, int threads, int huge) {
#if defined(__linux__)
    constexpr std::size_t huge_page = std::size_t{2} << 20;
    void* const memory = mmap(nullptr, bytes + huge_page, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return -1;
    const auto address =
        (reinterpret_cast<std::uintptr_t>(memory) + huge_page - 1) / huge_page * huge_page;
    Word* const array = reinterpret_cast<Word*>(address);
    madvise(array, bytes, huge != 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    const double time = fill_seconds(array, bytes, threads);
    munmap(memory, bytes + huge_page);
    return time;
#else
    static_cast<void>(bytes), static_cast<void>(threads), static_cast<void>(huge);
    return -1;
#endif
}

}  // extern "C"
