// SPDX-License-Identifier: BSD-3-Clause
// Training steps of a linear classifier: three clouds of points in the plane, the loss and its gradient from nll.
// The gradient with respect to the log-probabilities is turned into that of the weights by the chain rule.
#include <nll/nll.hpp>

#include <algorithm>
#include <array>
#include <cmath>
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

    std::array<float, classes * features> parameter{};      // (C, F)
    std::vector<float> log_probability(samples * classes);  // (N, C)
    std::vector<float> gradient(samples * classes);         // (N, C)
    const nll::View<const float, 2> input{log_probability.data(), {samples, classes}};
    const nll::View<const std::uint8_t, 1> target{label.data(), {samples}};
    const nll::View<float, 2> grad_input{gradient.data(), {samples, classes}};
    const nll::Options options{.ignore_index = 255};

    for (int step = 0; step <= 50; ++step) {
        for (int n = 0; n < samples; ++n) {
            float* row = &log_probability[n * classes];
            for (int c = 0; c < classes; ++c) {
                row[c] = 0;
                for (int f = 0; f < features; ++f) row[c] += parameter[c * features + f] * point[n * features + f];
            }
            const float most = std::max({row[0], row[1], row[2]});
            const float log_sum =
                most + std::log(std::exp(row[0] - most) + std::exp(row[1] - most) + std::exp(row[2] - most));
            for (int c = 0; c < classes; ++c) row[c] -= log_sum;
        }
        const nll::Loss loss = nll::nll_loss_value_and_grad(input, target, grad_input, options);
        if (step % 10 == 0)
            std::printf("step %2d: loss %.6f over %lld labelled points\n", step, loss.value,
                        static_cast<long long>(loss.count));

        for (int n = 0; n < samples; ++n) {  // back through log_softmax and the product
            const float* grad = &gradient[n * classes];
            const float sum = grad[0] + grad[1] + grad[2];
            for (int c = 0; c < classes; ++c) {
                const float grad_logit = grad[c] - std::exp(log_probability[n * classes + c]) * sum;
                for (int f = 0; f < features; ++f) parameter[c * features + f] -= grad_logit * point[n * features + f];
            }
        }
    }

    label[4] = 7;
    try {
        nll::nll_loss(input, target, options);
    } catch (const std::out_of_range& error) {
        std::printf("%s\n", error.what());
    }
}
