// SPDX-License-Identifier: BSD-3-Clause
// The walk over strided samples: each exactly once, at its own offsets, and its place in target.
#include <nll/targets.hpp>

#include <map>
#include <numeric>
#include <random>

#include "check.hpp"

using namespace nll;

namespace {

std::mt19937_64 random_bits(2);
index_t below(index_t limit) { return static_cast<index_t>(random_bits() % static_cast<std::uint64_t>(limit)); }

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
        array.shape[static_cast<std::size_t>(a)] = shape[static_cast<std::size_t>(a)];
        array.strides[static_cast<std::size_t>(a)] = below(8) ? (below(4) ? stride : -stride) : 0;
        stride *= shape[static_cast<std::size_t>(a)] + (below(3) ? 0 : 2);
    }
    return array;
}

void every_sample_once() {
    const int axis = static_cast<int>(below(3));
    std::vector<index_t> shape(static_cast<std::size_t>(axis + 1 + below(4)));
    for (index_t& extent : shape) extent = 1 + below(6);
    std::vector<index_t> samples_shape(shape);
    samples_shape.erase(samples_shape.begin() + axis);
    const Array in = array_of(shape), labels = array_of(samples_shape), losses = array_of(samples_shape),
                grad = array_of(shape);
    const std::array<const Array*, operands> arrays{below(2) ? &in : nullptr, &labels, below(2) ? &losses : nullptr,
                                                    &grad};
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
                    index_t offset = 0;
                    for (int a = 0; arrays[static_cast<std::size_t>(o)] && a < labels.rank; ++a) {
                        const bool has_classes = o == input || o == gradient;
                        offset += coordinate[static_cast<std::size_t>(a)] *
                                  arrays[static_cast<std::size_t>(o)]
                                      ->strides[static_cast<std::size_t>(has_classes && a >= axis ? a + 1 : a)];
                    }
                    CHECK(run.offset[static_cast<std::size_t>(o)] + i * samples.stride(static_cast<Operand>(o)) ==
                          offset);
                }
            }
        });
        CHECK(expected_begin == count);
        first += count;
    }
    CHECK(static_cast<index_t>(seen.size()) == samples.count);
    for (const auto& [place, times] : seen) CHECK(times == 1 && place >= 0 && place < samples.count);
}

void contiguous_axes_merge() {
    const Array rows(View<float, 4>(nullptr, {4, 5, 6, 3})), labels(View<int, 3>(nullptr, {4, 5, 6}));
    CHECK(samples_of({&rows, &labels, nullptr, nullptr}, 3, input).rank == 1);  // channels-last
    const Array planes(View<float, 4>(nullptr, {4, 3, 5, 6}));
    CHECK(samples_of({&planes, &labels, nullptr, nullptr}, 1, input).rank == 2);
    const Array window(View<float, 4>(nullptr, {4, 3, 5, 6}, {3 * 7 * 8, 7 * 8, 8, 1}));
    CHECK(samples_of({&window, &labels, nullptr, nullptr}, 1, input).rank == 3);
}

}  // namespace

int main() {
    for (int round = 0; round < 3000; ++round) every_sample_once();
    contiguous_axes_merge();
    return failures() != 0;
}
