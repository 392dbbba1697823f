// SPDX-License-Identifier: BSD-3-Clause
// Memory for threads that have to go on where there is none: nullptr, and no exception.
//
// GNU's `new (std::nothrow)` throws one, and catches it. A thread's first exception needs memory
// itself, and where that cannot be had, glibc ends the process.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

#if defined(_WIN32)
#include <malloc.h>
#endif

#include "tuning.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

// Returns memory that begins with a cache line, or nullptr.
inline void* try_allocate(std::size_t bytes) {
    constexpr std::size_t line = cache_line;
    const std::size_t whole = (bytes + line - 1) / line * line;
#if defined(_WIN32)
    return _aligned_malloc(whole, line);
#else
    return std::aligned_alloc(line, whole);
#endif
}

// Ends an object in memory of try_allocate.
struct EndOnHeap {
    template <class T> void operator()(T* object) const {
        std::destroy_at(object);
#if defined(_WIN32)
        _aligned_free(object);
#else
        std::free(object);
#endif
    }
};
template <class T> using OnHeap = std::unique_ptr<T, EndOnHeap>;

// Makes a T, or nothing.
template <class T> OnHeap<T> try_make() {
    static_assert(alignof(T) <= cache_line && std::is_nothrow_default_constructible_v<T>);
    void* const memory = try_allocate(sizeof(T));
    return OnHeap<T>(memory ? new (memory) T : nullptr);
}

}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
