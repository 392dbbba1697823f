// SPDX-License-Identifier: BSD-3-Clause
// The floating-point environment that every computation of the library runs in.
#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

#include "abi.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
namespace parallel {

// Sets rounding to nearest and no flushing of subnormals in its scope, whatever the caller, or a
// library, has set.
class DefaultFloatingPoint {
public:
    DefaultFloatingPoint(const DefaultFloatingPoint&) = delete;
#if defined(__SSE__)
    DefaultFloatingPoint() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~DefaultFloatingPoint() { _mm_setcsr(saved_); }

private:
    unsigned saved_;
#else
    DefaultFloatingPoint() {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultFloatingPoint() { std::fesetenv(&saved_); }

private:
    std::fenv_t saved_;
#endif
};

}  // namespace parallel
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
