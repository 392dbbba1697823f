// SPDX-License-Identifier: BSD-3-Clause
// The walk over strided samples: each exactly once, at its own offsets, and its place in target.
#include <nll/detail/samples.hpp>

#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "check.hpp"

using namespace nll;
using namespace nll::detail;

namespace {

std::mt19937_64 random_bits(2);
index_t below(index_t limit) {
    return static_cast<index_t>(random_bits() % static_cast<std::uint64_t>(limit));
}

// Returns an array with its axes in any order of memory: backwards, broadcast and padded, too.
Array array_of(const std::vector<index_t>& shape) {
    Array array;
    array.data = nullptr;
    array.dtype = DType::float32;
    array.rank = static_cast<int>(shape.size());
    std::vector<int> order(shape.size());
    std::iota(order.begin(), order.end(), 0);
    if (below(3)) std::shuffle(order.begin(), order.end(), random_bits);
    index_t stride = 1;
    for (const int a : order) {
        array.shape[a] = shape[a];
        array.strides[a] = below(8) ? (below(4) ? stride : -stride) : 0;
        stride *= shape[a] + (below(3) ? 0 : 2);
    }
    return array;
}

// Returns the offset of a sample in an operand.
index_t offset_of(const Array& array, int operand, int axis,
                  const std::array<index_t, max_rank>& coordinate, int rank) {
    index_t offset = 0;
    for (int a = 0; a < rank; ++a)
        offset += coordinate[a] * array.strides[has_class_axis(operand) && a >= axis ? a + 1 : a];
    return offset;
}

void every_sample_once() {
    const int axis = static_cast<int>(below(3));
    std::vector<index_t> shape(axis + 1 + below(4));
    for (index_t& extent : shape) extent = 1 + below(6);
    std::vector<index_t> samples_shape(shape);
    samples_shape.erase(samples_shape.begin() + axis);
    const int rank = static_cast<int>(samples_shape.size());
    const Array of_input = array_of(shape), of_target = array_of(samples_shape);
    const Array of_losses = array_of(samples_shape), of_grad_output = array_of(samples_shape);
    const Array of_gradient = array_of(shape), of_sample_weight = array_of(samples_shape);
    Arrays arrays{&of_input,       &of_target,   &of_losses,
                  &of_grad_output, &of_gradient, &of_sample_weight};
    for (const Operand optional : {input, losses, grad_output, sample_weight})
        if (below(2)) arrays[optional] = nullptr;
    const Samples samples = samples_of(arrays, axis, gradient);

    std::map<index_t, int> seen;
    for (index_t first = 0; first < samples.count;) {
        const index_t count = std::min(samples.count - first, 1 + below(40));
        index_t expected_begin = 0;
        samples.for_each_run(first, count, [&](const Samples::Run& run) {
            CHECK(run.begin == expected_begin);
            expected_begin += run.length;
            for (index_t i = 0; i < run.length; ++i) {
                std::array<index_t, max_rank> coordinate;
                ++seen[position(samples, first + run.begin + i, coordinate)];
                for (int o = 0; o < operands; ++o) {
                    const index_t offset =
                        arrays[o] ? offset_of(*arrays[o], o, axis, coordinate, rank) : 0;
                    const index_t found =
                        run.offset[o] + i * samples.stride(static_cast<Operand>(o));
                    CHECK(found == offset);
                }
            }
        });
        CHECK(expected_begin == count);
        first += count;
    }
    CHECK(static_cast<index_t>(seen.size()) == samples.count);
    for (const auto& [place, times] : seen)
        CHECK(times == 1 && place >= 0 && place < samples.count);
}

// A run may be found from any sample, as writers of tiles do; for_each tells each offset, whichever
// samples it is asked for.
void runs_from_anywhere() {
    const std::vector<index_t> shape{1 + below(5), 1 + below(5), 1 + below(5), 1 + below(5)};
    const Array of_gradient = array_of(shape);
    const Array of_target = array_of({shape[0], shape[2], shape[3]});
    const Samples samples =
        samples_of({nullptr, &of_target, nullptr, nullptr, &of_gradient}, 1, gradient);
    index_t visited = 0;
    for (const Operand operand : {target, gradient})
        for (index_t first = 0, count; first < samples.count; first += count) {
            count = std::min(samples.count - first, 1 + below(40));
            samples.for_each(operand, first, count, [&](index_t i, index_t offset) {
                std::array<index_t, max_rank> at;
                const Samples::Run run = samples.run_from(first + i, at);
                CHECK(run.offset[operand] == offset && run.length > 0 &&
                      first + i + run.length <= samples.count);
                const index_t last = first + i + run.length - 1;
                CHECK(samples.run_from(last, at).offset[operand] ==
                      offset + (run.length - 1) * samples.stride(operand));
                ++visited;
            });
        }
    CHECK(visited == 2 * samples.count);
}

void contiguous_axes_merge() {
    const auto rank = [](const View<float, 4>& view, int axis) {
        const Array of_input(view), of_target(View<int, 3>(nullptr, {4, 5, 6}));
        return samples_of({&of_input, &of_target, nullptr, nullptr, nullptr}, axis, input).rank;
    };
    CHECK(rank({nullptr, {4, 5, 6, 3}}, 3) == 1);  // channels-last
    CHECK(rank({nullptr, {4, 3, 5, 6}}, 1) == 2);
    CHECK(rank({nullptr, {4, 3, 5, 6}, {3 * 7 * 8, 7 * 8, 8, 1}}, 1) == 3);  // a window
}

}  // namespace

int main() {
    for (int round = 0; round < 3000; ++round) every_sample_once();
    for (int round = 0; round < 300; ++round) runs_from_anywhere();
    contiguous_axes_merge();
    return failures() != 0;
}
