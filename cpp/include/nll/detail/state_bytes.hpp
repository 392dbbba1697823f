// SPDX-License-Identifier: BSD-3-Clause
// The bytes of a state, which state.hpp describes.
//
//     bytes      -> Kind, Sums    decode    refuses what no data gives
//     Kind, Sums -> bytes         encode
#pragma once

#include "state_sums.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Says where the fields of a state's bytes are.
struct Layout {
    static constexpr std::uint8_t magic[8] = {0x89, 'n', 'l', 'l', '\r', '\n', 0x1a, '\n'};
    static constexpr std::uint16_t version = 1;
    static constexpr int version_at = 8, function = 10, has_weights = 11, dtypes = 12,
                         weighted = 13, specials = 14, label_smoothing = 16, weights = 24,
                         weight_digest = 32, count = 40, ignored = 48, sums = 56, checksum = 2776;
    static constexpr int sum_size = 4 * ExactSum::digits;
    static_assert(checksum == sums + Sums::sums * sum_size && State::size == checksum + 8);
};

inline std::uint64_t checksum_of(const std::uint8_t* bytes) {
    return xxh64(Layout::checksum / 8,
                 [&](index_t i) { return load_word<std::uint64_t>(bytes + 8 * i); });
}

inline void encode(const State::Kind& kind, const Sums& sums, std::uint8_t* bytes) {
    std::fill_n(bytes, State::size, std::uint8_t{0});
    std::copy_n(Layout::magic, 8, bytes);
    store_word(bytes + Layout::version_at, Layout::version);
    bytes[Layout::function] = static_cast<std::uint8_t>(kind.function);
    bytes[Layout::has_weights] = kind.weights >= 0;
    bytes[Layout::dtypes] = sums.dtypes;
    bytes[Layout::weighted] = sums.weighted;
    store_word(bytes + Layout::label_smoothing, std::bit_cast<std::uint64_t>(kind.label_smoothing));
    store_word(bytes + Layout::weights,
               static_cast<std::uint64_t>(std::max<index_t>(kind.weights, 0)));
    store_word(bytes + Layout::weight_digest, kind.weight_digest);
    store_word(bytes + Layout::count, static_cast<std::uint64_t>(sums.count));
    store_word(bytes + Layout::ignored, static_cast<std::uint64_t>(sums.ignored));
    std::uint16_t specials = 0;
    for (int s = 0; s < Sums::sums; ++s) {
        const ExactSum& sum = sums.sum[static_cast<std::size_t>(s)];
        specials = static_cast<std::uint16_t>(specials | specials_of(sum) << 3 * s);
        const Digits digits = digits_of(sum);
        std::uint8_t* const to = bytes + Layout::sums + s * Layout::sum_size;
        const int end = std::min(digits.low + digits.count, ExactSum::digits);
        for (int i = digits.low; i < end; ++i) store_word(to + 4 * i, digits.digit[i - digits.low]);
        if (digits.negative) std::fill(to + 4 * end, to + Layout::sum_size, std::uint8_t{0xff});
    }
    store_word(bytes + Layout::specials, specials);
    store_word(bytes + Layout::checksum, checksum_of(bytes));
}

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument(what); }
inline void require(bool holds, const char* fault) {
    if (!holds) refuse("no data gives these bytes: " + std::string(fault));
}

// Reads a sum of `count` numbers, each a multiple of 2^last_exponent and below 2^bound in
// magnitude.
inline void decode_sum(const std::uint8_t* bytes, const char* name, index_t count,
                       int last_exponent, int bound, ExactSum& sum) {
    constexpr int words = ExactSum::digits / 2;
    const auto word = [&](int i) { return load_word<std::uint64_t>(bytes + 8 * i); };
    const bool negative = word(words - 1) >> 63;
    const std::uint64_t above = negative ? ~std::uint64_t{0} : 0;
    int low = 0, high = words;
    while (low < words && word(low) == 0) ++low;
    if (low == words) return;
    while (high > low + 1 && word(high - 1) == above) --high;
    for (int i = low; i < high; ++i) {
        sum.digit[2 * i] = static_cast<std::uint32_t>(word(i));
        sum.digit[2 * i + 1] = static_cast<std::uint32_t>(word(i) >> 32);
    }
    sum.low = 2 * low;
    sum.high = 2 * high;
    if (negative) sum.digit[sum.high - 1] -= std::int64_t{1} << 32;

    const int last = last_exponent - ExactSum::lowest_exponent, first_word = last / 64;
    const bool fine = low < first_word ||
                      (low == first_word && (word(low) & ((std::uint64_t{1} << last % 64) - 1)));
    // The sum over 2^bound, rounded down, is in [-count, count).
    const int top = (bound - ExactSum::lowest_exponent) / 64;
    static_assert(ExactSum::lowest_exponent % 64 == 0);
    const auto whole = static_cast<index_t>(word(top));
    const bool reaches =
        high <= top + 1 && whole < count && whole >= -count && (whole < 0) == negative;
    if (fine || !reaches)
        refuse("no data gives these bytes: " + std::to_string(count) +
               (count == 1 ? " sample does" : " samples do") + " not add up to such a " + name);
}

// Reads bytes, (State::size,), into sums that are empty. Throws std::invalid_argument unless some
// data has this state.
inline State::Kind decode(const std::uint8_t* bytes, Sums& sums) {
    if (!std::equal(Layout::magic, Layout::magic + 8, bytes))
        refuse("these bytes are no state: they do not begin as one");
    const auto version = load_word<std::uint16_t>(bytes + Layout::version_at);
    if (version != Layout::version)
        refuse("the state has version " + std::to_string(version) +
               ", but this build of nll reads version " + std::to_string(Layout::version));
    if (load_word<std::uint64_t>(bytes + Layout::checksum) != checksum_of(bytes))
        refuse("the state is damaged: its checksum is that of other bytes");

    State::Kind kind;
    const bool has_weights = bytes[Layout::has_weights] == 1;
    require(bytes[Layout::function] <= 1, "there is no such loss");
    require(bytes[Layout::has_weights] <= 1 && bytes[Layout::weighted] <= 1 &&
                bytes[Layout::dtypes] < 16 && !(bytes[Layout::specials + 1] >> 7),
            "a flag is set that means nothing");
    kind.function = static_cast<LossFunction>(bytes[Layout::function]);
    const auto smoothing = load_word<std::uint64_t>(bytes + Layout::label_smoothing);
    kind.label_smoothing = std::bit_cast<double>(smoothing);
    require(kind.label_smoothing >= 0 && kind.label_smoothing <= 1 && !(smoothing >> 63),
            "label_smoothing is outside [0, 1]");
    require(kind.function == LossFunction::cross_entropy || smoothing == 0,
            "label_smoothing is for cross-entropy");
    const auto weights = load_word<std::uint64_t>(bytes + Layout::weights);
    kind.weight_digest = load_word<std::uint64_t>(bytes + Layout::weight_digest);
    require(!(weights >> 62) && (has_weights || (weights == 0 && kind.weight_digest == 0)),
            "there are no such class weights");
    kind.weights = has_weights ? static_cast<index_t>(weights) : -1;

    const auto count = load_word<std::uint64_t>(bytes + Layout::count);
    const auto ignored_count = load_word<std::uint64_t>(bytes + Layout::ignored);
    constexpr auto most = static_cast<std::uint64_t>(max_count);
    require(count <= most && ignored_count <= most, "no state has so many samples");
    sums.count = static_cast<index_t>(count);
    sums.ignored = static_cast<index_t>(ignored_count);
    sums.dtypes = bytes[Layout::dtypes];
    sums.weighted = bytes[Layout::weighted];
    const bool is_empty = count == 0 && ignored_count == 0;
    require(is_empty ? sums.dtypes == 0 && !sums.weighted
                     : sums.dtypes != 0 && (sums.weighted || !has_weights),
            "its samples have no dtype, or no weights, or it has these without a sample");

    static constexpr const char* name[] = {"loss", "weight", "square", "cross", "weight_square"};
    const auto specials = load_word<std::uint16_t>(bytes + Layout::specials);
    require(count > 0 || specials == 0, "there is a NaN or an infinity of no sample");
    for (int s = 0; s < Sums::sums; ++s) {
        ExactSum& sum = sums.sum[static_cast<std::size_t>(s)];
        const bool is_weight = s == Sums::weight;
        decode_sum(bytes + Layout::sums + s * Layout::sum_size, name[s], sums.count,
                   is_weight ? -1074 : -2148, is_weight ? 1024 : 2048, sum);
        set_specials(sum, specials >> 3 * s & 7);
    }

    const auto bytes_of_sum = [&](int s) { return bytes + Layout::sums + s * Layout::sum_size; };
    const auto same = [&](int s, int t) {
        return std::equal(bytes_of_sum(s), bytes_of_sum(s) + Layout::sum_size, bytes_of_sum(t)) &&
               (specials >> 3 * s & 7) == (specials >> 3 * t & 7);
    };
    const auto is_negative = [&](int s) { return bytes_of_sum(s)[Layout::sum_size - 1] >> 7 != 0; };
    const auto special = [&](int s) { return specials >> 3 * s & 7; };
    const auto folded = [&](int s) { return (special(s) & 1) | ((special(s) & 6) ? 2 : 0); };
    require(!is_negative(Sums::square) && !is_negative(Sums::weight_square) &&
                !((special(Sums::square) | special(Sums::weight_square)) & 4),
            "a sum of squares is negative");
    require((folded(Sums::loss) & ~special(Sums::square)) == 0 &&
                folded(Sums::weight) == special(Sums::weight_square),
            "a NaN or an infinity has no square");
    if (sums.weighted) {
        require(sums.sum[Sums::weight_square].high != 0 || sums.sum[Sums::weight].high == 0,
                "there are weights, but their squares are 0");
        return kind;
    }
    ExactSum of_count;
    if (count > 0) add(of_count, count, 0, false);
    const auto is_count = [&](int s) {
        const ExactSum& sum = sums.sum[static_cast<std::size_t>(s)];
        const Digits found = digits_of(sum), expected = digits_of(of_count);
        return found.low == expected.low && found.count == expected.count && !found.negative &&
               special(s) == 0 &&
               std::equal(found.digit, found.digit + found.count, expected.digit);
    };
    require(
        is_count(Sums::weight) && is_count(Sums::weight_square) && same(Sums::loss, Sums::cross),
        "without weights, their sums are the count, and cross is loss");
    return kind;
}

// Returns the merged sums of states as bytes, (count,), `stride` bytes apart.
inline State::Kind merge_bytes(const std::uint8_t* states, index_t count, index_t stride,
                               Sums& total) {
    if (count <= 0)
        throw std::invalid_argument("there is no state to merge: of what kind would it be?");
    State::Kind kind;
    for (index_t i = 0; i < count; ++i) {
        Sums sums;
        try {
            const State::Kind found = decode(states + i * stride, i == 0 ? total : sums);
            if (i == 0) {
                kind = found;
                continue;
            }
            check_kind("its kind is not that of states[0]", found, kind);
            merge(total, sums);
        } catch (const std::invalid_argument& error) {
            throw std::invalid_argument("states[" + std::to_string(i) + "]: " + error.what());
        }
    }
    return kind;
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
