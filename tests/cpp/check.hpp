// SPDX-License-Identifier: BSD-3-Clause
// Just enough to write a test as a program: CHECK counts failures and says where; main returns
// whether there were some.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

inline int& failures() {
    static int count = 0;
    return count;
}

#define CHECK(...)                                                                \
    do {                                                                          \
        if (!(__VA_ARGS__)) {                                                     \
            std::printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #__VA_ARGS__); \
            ++failures();                                                         \
        }                                                                         \
    } while (false)

inline bool same_bits(double a, double b) {
    return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

// Returns an error in units of the last place of a double.
inline double ulps(double value, long double exact) {
    int exponent;
    std::frexp(exact, &exponent);
    return static_cast<double>(std::fabs(value - exact) /
                               std::ldexp(1.0L, std::max(exponent - 53, -1074)));
}

template <class Error, class Call> std::string message_of(Call&& call) {
    try {
        call();
    } catch (const Error& error) {
        return error.what();
    }
    return "nothing was thrown";
}
