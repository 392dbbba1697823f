// SPDX-License-Identifier: BSD-3-Clause
// Training steps of a linear classifier: three clouds of points in the plane, the loss and its
// gradient from nll.
#include <nll/nll.hpp>

#include <array>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

int main() {
    constexpr int samples = 3000, classes = 3, features = 3;  // x, y and the constant 1
    constexpr std::array<std::array<double, 2>, classes> center{{{0, 2}, {-2, -1}, {2, -1}}};

    std::mt19937 random(0);
    std::uniform_real_distribution<float> noise(-1.5f, 1.5f);
    std::vector<float> point(samples * features);  // (N, F)
    std::vector<std::uint8_t> label(samples);      // (N,)
    for (int n = 0; n < samples; ++n) {
        const int c = n % classes;
        point[n * features] = static_cast<float>(center[c][0]) + noise(random);
        point[n * features + 1] = static_cast<float>(center[c][1]) + noise(random);
        point[n * features + 2] = 1;
        label[n] = n % 10 == 0 ? 255 : static_cast<std::uint8_t>(c);  // one label in ten is unknown
    }

    std::array<float, classes * features> parameter{};  // (C, F)
    std::vector<float> logits(samples *
                              classes);  // (N, C); then their gradient, in the same memory
    const nll::View<float, 2> input{logits.data(), {samples, classes}};
    const nll::View<const std::uint8_t, 1> target{label.data(), {samples}};
    const nll::Options options{.ignore_index = 255};

    for (int step = 0; step <= 50; ++step) {
        for (int n = 0; n < samples; ++n)
            for (int c = 0; c < classes; ++c) {
                float& logit = logits[n * classes + c];
                logit = 0;
                for (int f = 0; f < features; ++f)
                    logit += parameter[c * features + f] * point[n * features + f];
            }
        const nll::Loss loss = nll::cross_entropy_value_and_grad(input, target, input, options);
        if (step % 10 == 0)
            std::printf("step %2d: loss %.6f over %lld labelled points\n", step, loss.value,
                        static_cast<long long>(loss.count));

        for (int n = 0; n < samples; ++n)
            for (int c = 0; c < classes; ++c)
                for (int f = 0; f < features; ++f)
                    parameter[c * features + f] -=
                        logits[n * classes + c] * point[n * features + f];
    }

    label[4] = 7;
    try {
        nll::cross_entropy(input, target, options);
    } catch (const std::out_of_range& error) {
        std::printf("%s\n", error.what());
    }
}
