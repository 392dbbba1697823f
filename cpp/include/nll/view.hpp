// SPDX-License-Identifier: BSD-3-Clause
// Strided views of the caller's memory.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include "types.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {

inline constexpr int max_rank = 64;  // NumPy's own limit, since version 2

// Views elements of type T: constness is T's. Strides are in elements, may be negative, and 0
// broadcasts.
template <class T, int Rank> struct View {
    T* data = nullptr;
    std::array<index_t, Rank> shape{};
    std::array<index_t, Rank> strides{};

    constexpr View() = default;
    constexpr View(T* data, std::array<index_t, Rank> shape) : data(data), shape(shape) {
        index_t stride = 1;
        for (int axis = Rank - 1; axis >= 0; --axis) {
            strides[axis] = stride;
            stride *= std::max<index_t>(shape[axis], 1);
        }
    }
    constexpr View(T* data, std::array<index_t, Rank> shape, std::array<index_t, Rank> strides)
        : data(data), shape(shape), strides(strides) {}
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
