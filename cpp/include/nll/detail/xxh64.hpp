// SPDX-License-Identifier: BSD-3-Clause
// XXH64, the hash that tells damaged bytes and different weights: whole 64-bit words, seed 0.
// Defined in https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md.
#pragma once

#include <bit>
#include <cstring>

#include "simd/hints.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

inline constexpr std::uint64_t prime[] = {0x9e3779b185ebca87, 0xc2b2ae3d27d4eb4f,
                                          0x165667b19e3779f9, 0x85ebca77c2b2ae63,
                                          0x27d4eb2f165667c5};

inline namespace NLL_INSTRUCTION_SET {

// Reads and writes little-endian words at any address.
template <class Word> Word load_word(const std::uint8_t* bytes) {
    Word word = 0;
    if constexpr (std::endian::native == std::endian::little)
        std::memcpy(&word, bytes, sizeof word);
    else
        for (std::size_t i = 0; i < sizeof word; ++i)
            word =
                static_cast<Word>(word | static_cast<Word>(static_cast<Word>(bytes[i]) << 8 * i));
    return word;
}
template <class Word> void store_word(std::uint8_t* bytes, Word word) {
    if constexpr (std::endian::native == std::endian::little)
        std::memcpy(bytes, &word, sizeof word);
    else
        for (std::size_t i = 0; i < sizeof word; ++i)
            bytes[i] = static_cast<std::uint8_t>(word >> 8 * i);
}

// Returns the hash of word(0), …, word(words - 1), each the little-endian value of eight bytes.
template <class Word> std::uint64_t xxh64(index_t words, Word&& word) {
    const auto round = [](std::uint64_t lane, std::uint64_t input) {
        return std::rotl(lane + input * prime[1], 31) * prime[0];
    };
    std::uint64_t hash = prime[4];
    index_t i = 0;
    if (words >= 4) {
        std::uint64_t lane[] = {prime[0] + prime[1], prime[1], 0, 0 - prime[0]};
        for (; i + 4 <= words; i += 4)
            for (int l = 0; l < 4; ++l) lane[l] = round(lane[l], word(i + l));
        hash = std::rotl(lane[0], 1) + std::rotl(lane[1], 7) + std::rotl(lane[2], 12) +
               std::rotl(lane[3], 18);
        for (const std::uint64_t one : lane) hash = (hash ^ round(0, one)) * prime[0] + prime[3];
    }
    hash += static_cast<std::uint64_t>(8 * words);
    for (; i < words; ++i) hash = std::rotl(hash ^ round(0, word(i)), 27) * prime[0] + prime[3];
    hash = (hash ^ hash >> 33) * prime[1];
    hash = (hash ^ hash >> 29) * prime[2];
    return hash ^ hash >> 32;
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
