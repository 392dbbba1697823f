// SPDX-License-Identifier: BSD-3-Clause
#include <nll/nll.hpp>

#include <cstdint>
#include <cstdio>

int main() {
    const float log_probability[] = {-1, -2, -3, -4, -5, -6};
    const std::int32_t label[] = {0, 2};
    const nll::View<const float, 2> input{log_probability, {2, 3}};
    const nll::View<const std::int32_t, 1> target{label, {2}};
    std::printf("loss %g\n", nll::nll_loss(input, target).value);
}
