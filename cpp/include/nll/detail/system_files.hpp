// SPDX-License-Identifier: BSD-3-Clause
// Reads the small text files in which a system tells of itself.
//
// No iostreams and no locale: where libstdc++ is linked into a library, its own copy of them meets
// that of another library by ids that are unique across the process, and `std::ifstream >> number`
// crashes.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>

#include "abi.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

// Returns a file's text, at most its first 64 KiB; "" if it cannot be read.
inline std::string read_system_file(const std::string& path) {
    constexpr std::size_t most = 64 << 10;
    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };
    const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "r"));
    std::string text;
    char part[1024];
    while (file && text.size() < most) {
        const std::size_t read = std::fread(part, 1, sizeof part, file.get());
        if (read == 0) break;
        text.append(part, read);
    }
    return text;
}

// Takes spaces and an integer off the front of text and returns the integer: of "32768K" 32768, and
// "K" is left. Where there is none, or none that 64 bits hold, returns 0 and takes spaces alone.
inline std::int64_t take_integer(std::string_view& text) {
    text.remove_prefix(std::min(text.find_first_not_of(" \t\n"), text.size()));
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc()) return 0;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
}

// Takes a line off the front of text and returns it, without its end.
inline std::string_view take_line(std::string_view& text) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    return line;
}

}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
