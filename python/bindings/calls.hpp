// SPDX-License-Identifier: BSD-3-Clause
// What nll._core lends to the package's other modules. So a process has one copy of the kernels,
// and one count of threads, which nll.set_num_threads sets.
#pragma once

#include <nll/nll.hpp>

namespace nll::python {

using Core = Loss(const detail::Call&);

struct Calls {
    Core *nll_loss, *cross_entropy;
};

// Names the capsule that holds the address of the Calls.
inline constexpr const char* capsule_of_calls = "nll._core.calls";

}  // namespace nll::python
