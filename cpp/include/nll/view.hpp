// SPDX-License-Identifier: BSD-3-Clause
// Strided views of the caller's memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include "types.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {

inline constexpr int max_rank = 64;  // NumPy's own limit, since version 2

// Views elements of type T: constness is T's. Strides are in elements, may be negative, and 0
// broadcasts.
template <class T, int Rank> struct View {
    static_assert(Rank >= 0 && Rank <= max_rank, "a view has 0 to 64 axes");
    using Extents = std::array<index_t, static_cast<std::size_t>(Rank)>;

    T* data = nullptr;
    Extents shape{};
    Extents strides{};

    constexpr View() = default;
    // Views elements in C order. A product of sizes beyond 64 bits wraps: calls refuse such shapes.
    constexpr View(T* elements, const Extents& sizes) : data(elements), shape(sizes) {
        std::uint64_t stride = 1;
        for (std::size_t axis = shape.size(); axis-- > 0;) {
            strides[axis] = static_cast<index_t>(stride);
            stride *= static_cast<std::uint64_t>(std::max<index_t>(shape[axis], 1));
        }
    }
    constexpr View(T* elements, const Extents& sizes, const Extents& steps)
        : data(elements), shape(sizes), strides(steps) {}
    constexpr operator View<const T, Rank>() const
        requires(!std::is_const_v<T>)
    {
        return {data, shape, strides};
    }
};

// Views elements whose type and rank are known at run time only.
struct Array {
    void* data;  // const or not is the business of the function that takes it
    DType dtype;
    int rank;
    std::array<index_t, max_rank> shape, strides;  // entries beyond rank stay unwritten

    Array() {}  // clearing 1 KiB would cost as much as a small loss
    template <class T, int Rank>
    Array(View<T, Rank> view)
        : data(const_cast<std::remove_const_t<T>*>(view.data)),
          dtype(dtype_of<std::remove_const_t<T>>),
          rank(Rank) {
        std::copy(view.shape.begin(), view.shape.end(), shape.begin());
        std::copy(view.strides.begin(), view.strides.end(), strides.begin());
    }
};

}  // namespace nll::inline NLL_VERSION_NAMESPACE
