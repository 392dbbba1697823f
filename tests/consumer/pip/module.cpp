// SPDX-License-Identifier: BSD-3-Clause
#include <pybind11/pybind11.h>

#include <cstdint>
#include <nll/nll.hpp>

PYBIND11_MODULE(nll_consumer, m) {
    m.def("mean_loss", [] {
        const float log_probability[] = {-1, -2, -3, -4, -5, -6};
        const std::int32_t label[] = {0, 2};
        return nll::nll_loss(nll::View<const float, 2>{log_probability, {2, 3}},
                             nll::View<const std::int32_t, 1>{label, {2}})
            .value;
    });
}
