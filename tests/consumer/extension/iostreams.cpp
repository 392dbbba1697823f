// SPDX-License-Identifier: BSD-3-Clause
// A library that uses the iostreams of the libstdc++ that a process shares, as most do.
#include <sstream>

extern "C" double through_iostreams(double number) {
    std::stringstream stream;
    stream << number;
    stream >> number;
    return number;
}
