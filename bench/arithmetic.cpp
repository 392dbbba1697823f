// SPDX-License-Identifier: BSD-3-Clause
// The limit that arithmetic sets to cross-entropy: exponentials and their sum, from the first-level
// cache, by one thread. Prints one JSON object: dtype -> nanoseconds per logit.
#include <nll/softmax.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

using namespace nll;

template <class Arithmetic> double nanoseconds() {
    constexpr index_t classes = 1024;
    std::vector<typename Arithmetic::Real> values(classes);
    double seconds[51];
    for (index_t c = 0; c < classes; ++c)
        values[static_cast<std::size_t>(c)] = static_cast<typename Arithmetic::Real>(c % 7) / 2;
    const typename Arithmetic::Real largest = 3;
    RowLanes<Arithmetic> row;
    const Reference<Arithmetic, 1> reference(&largest, 1);
    constexpr int repetitions = 400;
    for (double& one : seconds) {
        const auto start = std::chrono::steady_clock::now();
        for (int r = 0; r < repetitions; ++r)
            visit_guard<Arithmetic>(reference.guard(), [&](auto guard) {
                exponentials_of_row<guard.value>(values.data(), classes, reference,
                                                 reinterpret_cast<const std::byte*>(values.data()),
                                                 0, nullptr, row);
            });
        one = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    std::sort(std::begin(seconds), std::end(seconds));
    return seconds[25] / repetitions / classes * 1e9;
}

int main() {
    std::printf("{\"float32\": %.4f, \"bfloat16\": %.4f, \"float64\": %.4f}\n",
                nanoseconds<Single>(), nanoseconds<Half>(), nanoseconds<Double>());
}
