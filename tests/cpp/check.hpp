// SPDX-License-Identifier: BSD-3-Clause
// Just enough to write a test as a program: CHECK counts failures and says where; main returns
// whether there were some.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdio>
#include <string>

inline int& failures() {
    static int count = 0;
    return count;
}

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            std::printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            ++failures();                                                       \
        }                                                                       \
    } while (false)

inline bool same_bits(double a, double b) {
    return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

template <class Error, class Call> std::string message_of(Call&& call) {
    try {
        call();
    } catch (const Error& error) {
        return error.what();
    }
    return "nothing was thrown";
}
