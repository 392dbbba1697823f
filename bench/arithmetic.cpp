// SPDX-License-Identifier: BSD-3-Clause
// The limit that arithmetic sets to cross-entropy: exponentials and their sum, from the first-level
// cache, by one thread. Prints one JSON object: dtype -> nanoseconds per logit.
#include <nll/detail/exp_loops.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

using namespace nll;
using namespace nll::detail;

template <class Precision> double nanoseconds() {
    constexpr index_t classes = 1024;
    std::vector<typename Precision::Real> logits(classes);
    double seconds[51];
    for (index_t c = 0; c < classes; ++c)
        logits[static_cast<std::size_t>(c)] = static_cast<typename Precision::Real>(c % 7) / 2;
    RowLanes<Precision> row;
    const ExpShift<Precision, 1> shift;
    const auto* ahead = reinterpret_cast<const std::byte*>(logits.data());
    constexpr int repetitions = 400;
    for (double& one : seconds) {
        const auto start = std::chrono::steady_clock::now();
        for (int r = 0; r < repetitions; ++r)
            exps_of_row<false, false>(logits.data(), classes, LastClasses<Precision>(), shift,
                                      ahead, static_cast<typename Precision::Exp*>(nullptr), row);
        one = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    std::sort(std::begin(seconds), std::end(seconds));
    return seconds[25] / repetitions / classes * 1e9;
}

int main() {
    std::printf("{\"float32\": %.4f, \"bfloat16\": %.4f, \"float64\": %.4f}\n",
                nanoseconds<Single>(), nanoseconds<Bfloat16>(), nanoseconds<Double>());
}
