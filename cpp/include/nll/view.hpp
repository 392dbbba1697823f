// SPDX-License-Identifier: BSD-3-Clause
// Strided views of the caller's memory, and the order in which a call walks over their samples.
// This is the only index arithmetic of the library.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "types.hpp"

namespace nll {

inline constexpr int max_rank = 64;  // NumPy's own limit

// A view of elements of type T: constness is T's, strides are in elements, may be negative, and 0 broadcasts.
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

// A view whose element type and rank are known at run time only.
struct Array {
    void* data;  // const or not is the business of the function that takes it
    DType dtype;
    int rank;
    std::array<index_t, max_rank> shape, strides;

    Array() {}  // the entries beyond rank stay unwritten: clearing 1 KiB would cost as much as a small loss
    template <class T, int Rank>
    Array(View<T, Rank> view)
        : data(const_cast<std::remove_const_t<T>*>(view.data)), dtype(dtype_of<std::remove_const_t<T>>), rank(Rank) {
        std::copy(view.shape.begin(), view.shape.end(), shape.begin());
        std::copy(view.strides.begin(), view.strides.end(), strides.begin());
    }
};

// Class weights, (C,), of any element type; or none.
struct Weight {
    const void* data = nullptr;
    DType dtype = DType::float32;
    index_t size = -1;
    index_t stride = 0;

    constexpr Weight() = default;
    constexpr Weight(const void* data, DType dtype, index_t size, index_t stride)
        : data(data), dtype(dtype), size(size), stride(stride) {}
    template <class T>
    constexpr Weight(View<T, 1> view)
        : Weight(view.data, dtype_of<std::remove_const_t<T>>, view.shape[0], view.strides[0]) {}
    constexpr explicit operator bool() const { return size >= 0; }
};

// The arrays that a call reads or writes. Each has one entry per sample and, where it has a class axis, per class.
enum Operand : int { input, target, output, gradient, operands };  // output: the losses, or grad_output

// All samples of a call, in the order of the memory that it touches most. An axis is merged into the next
// one wherever every operand allows it, so that a contiguous (N, C) array, or (N, H, W, C), has one axis.
struct Samples {
    struct Axis {
        index_t extent;
        std::array<index_t, operands> stride;
    };
    // Samples that every operand reaches by one constant stride.
    struct Run {
        index_t begin, length;  // the samples begin, …, begin + length - 1 of their block
        std::array<index_t, operands> offset;
    };

    index_t count;
    int rank;                         // >= 1
    std::array<Axis, max_rank> axis;  // outermost first
    int target_rank;
    struct Place {
        int axis;  // of target
        index_t extent;
    };
    std::array<Place, max_rank> place;  // the same order, before axes were merged

    index_t stride(Operand operand) const { return axis[rank - 1].stride[operand]; }

    // The run from a sample on, and where the sample stands. Inlined, or the linker would keep that of one instruction
    // set.
    [[gnu::always_inline]] Run run_from(index_t first, std::array<index_t, max_rank>& at) const {
        Run run{0, 0, {}};
        for (int a = rank - 1; a >= 0; --a) {
            const index_t outer = a > 0 ? first / axis[a].extent : 0;
            at[a] = first - outer * axis[a].extent;
            first = outer;
            for (int o = 0; o < operands; ++o) run.offset[o] += at[a] * axis[a].stride[o];
        }
        run.length = axis[rank - 1].extent - at[rank - 1];
        return run;
    }
    template <class Visit> void for_each_run(index_t first, index_t count, Visit&& visit) const {
        std::array<index_t, max_rank> at;
        Run run = run_from(first, at);
        const Axis& inner = axis[rank - 1];
        for (;;) {
            run.length = std::min(count - run.begin, inner.extent - at[rank - 1]);
            visit(static_cast<const Run&>(run));
            run.begin += run.length;
            if (run.begin == count) return;
            for (int o = 0; o < operands; ++o) run.offset[o] -= at[rank - 1] * inner.stride[o];
            at[rank - 1] = 0;
            for (int a = rank - 2; a >= 0; --a) {
                for (int o = 0; o < operands; ++o) run.offset[o] += axis[a].stride[o];
                if (++at[a] < axis[a].extent) break;
                for (int o = 0; o < operands; ++o) run.offset[o] -= axis[a].extent * axis[a].stride[o];
                at[a] = 0;
            }
        }
    }
};

inline std::string shape_text(const index_t* shape, int rank) {
    std::string text = "(";
    for (int a = 0; a < rank; ++a) text += (a ? ", " : "") + std::to_string(shape[a]);
    return text + (rank == 1 ? ",)" : ")");
}

inline index_t absolute(index_t value) { return value < 0 ? -value : value; }

// Sizes whose product, or whose reach in bytes, 64 bits cannot count: std::invalid_argument.
inline void check_sizes(const char* name, const Array& array) {
    const auto fail = [&](const char* rule) {
        throw std::invalid_argument(std::string(name) + " of shape " + shape_text(array.shape.data(), array.rank) +
                                    rule);
    };
    for (int a = 0; a < array.rank; ++a)
        if (array.shape[a] < 0) fail(" has a negative size");
    if (std::find(array.shape.begin(), array.shape.begin() + array.rank, 0) != array.shape.begin() + array.rank) return;
    constexpr index_t limit = std::numeric_limits<index_t>::max() / 16;  // elements of 8 bytes, and room for a sum
    index_t elements = 1, reach = 0;
    for (int a = 0; a < array.rank; ++a) {
        const index_t extent = array.shape[a], stride = array.strides[a];
        if (extent > limit / elements || stride > limit || stride < -limit ||
            (extent > 1 && absolute(stride) > (limit - reach) / (extent - 1)))
            fail(" has more elements, or a longer reach, than 64 bits can count");
        elements *= extent;
        reach += (extent - 1) * absolute(stride);
    }
}

// What a call computes, beside its arrays.
struct Options {
    Weight weight{};                  // of each class; none: every weight is 1
    IgnoreIndex ignore_index = -100;  // or std::nullopt
    Reduction reduction = Reduction::mean;
    index_t axis = 1;        // of the classes in input; negative: from the end
    index_t index_base = 0;  // the label of the first class
    Empty empty = Empty::nan;
    std::optional<DType> dtype{};   // the loss's; input's without
    double label_smoothing = 0;     // of cross-entropy: in [0, 1], the part of every class alike
    int num_threads = 0;            // 0: get_num_threads()
    bool (*interrupt)() = nullptr;  // asked by the calling thread every 50 ms: true throws Interrupted
    // Where results go is memory that nobody has seen: losses may be written before all labels are checked, and a
    // gradient is all zeros, best on pages that were not touched since the system gave them.
    bool out_is_new = false;
};

// The class axis of an input of this rank: negative axes count from the end, and 1 is the only axis of a 1-d input.
inline int class_axis(index_t axis, int rank) {
    if (rank == 0)
        throw std::invalid_argument("input has 0 dimensions; it needs a class axis: (C,), (N, C) or (N, C, d1, ...)");
    if (rank == 1 && axis == 1) return 0;
    if (axis < -rank || axis >= rank)
        throw AxisError("axis " + std::to_string(axis) + " is out of bounds for input with " + std::to_string(rank) +
                        (rank == 1 ? " dimension" : " dimensions"));
    return static_cast<int>(axis < 0 ? axis + rank : axis);
}

// The samples of these arrays (nullptr: not part of the call), in the order of `leading`'s memory.
// Arrays with a class axis, which is at `axis`, are input and gradient; the others have target's shape.
inline Samples samples_of(const std::array<const Array*, operands>& arrays, int axis, Operand leading) {
    const Array& shaped = *arrays[target];
    Samples samples;
    samples.count = 1;
    samples.rank = 0;
    samples.target_rank = shaped.rank;
    std::array<Samples::Axis, max_rank> all;
    for (int a = 0; a < shaped.rank; ++a) {
        all[a].extent = shaped.shape[a];
        samples.count *= shaped.shape[a];
        samples.place[a] = {a, shaped.shape[a]};
        for (int o = 0; o < operands; ++o) {
            const bool has_classes = o == input || o == gradient;
            all[a].stride[o] = arrays[o] ? arrays[o]->strides[has_classes && a >= axis ? a + 1 : a] : 0;
        }
    }

    // Longest strides first. Stable, so that equal ones keep C order; by insertion, for there are few axes.
    const auto reach = [&](int place) { return absolute(all[samples.place[place].axis].stride[leading]); };
    for (int a = 1; a < shaped.rank; ++a)
        for (int b = a; b > 0 && reach(b) > reach(b - 1); --b) std::swap(samples.place[b], samples.place[b - 1]);

    for (int a = 0; a < shaped.rank; ++a) {
        const Samples::Axis& next = all[samples.place[a].axis];
        if (next.extent == 1) continue;
        bool merges = samples.rank > 0;
        for (int o = 0; merges && o < operands; ++o)
            merges = samples.axis[samples.rank - 1].stride[o] == next.extent * next.stride[o];
        if (merges) samples.axis[samples.rank - 1] = {samples.axis[samples.rank - 1].extent * next.extent, next.stride};
        else samples.axis[samples.rank++] = next;
    }
    if (samples.rank == 0) samples.axis[samples.rank++] = {1, {}};
    return samples;
}

}  // namespace nll
