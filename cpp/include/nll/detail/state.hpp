// SPDX-License-Identifier: BSD-3-Clause
// The state of a loss: its sums at hand, packed, and as bytes; and how a call's samples get in.
//
//     packed -> Sums           unpack        State holds few digits: most sums are narrow
//     Sums   -> packed         pack
//     bytes  -> Kind, Sums     decode        refuses what no data gives
//     Kind, Sums -> bytes      encode
//     Sums += Sums             merge         digits add: no order matters
//     Sums += a call           add           as the kernels found them
//
// Grouped, a call notes every sample (block.hpp). Afterwards the samples are put in the order of
// their groups, and each group is summed by the block, as in a call.
#pragma once

#include <functional>
#include <numeric>
#include <utility>

#include "../state.hpp"
#include "block.hpp"
#include "checks.hpp"
#include "finish.hpp"
#include "standard_error.hpp"
#include "xxh64.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

// Holds what a state holds, as accumulators.
struct Sums {
    enum Which : int { loss, weight, square, cross, weight_square, sums };
    std::array<ExactSum, sums> sum;
    index_t count = 0, ignored = 0;
    std::uint8_t dtypes = 0;
    bool weighted = false;
};

// Holds an exact sum in two's complement: digits from `low` on, zeros below, `negative` ones above.
// The lowest and the highest digit tell something.
struct Digits {
    int low = 0, count = 0;
    bool negative = false;
    std::uint32_t digit[ExactSum::digits + 3];
};

#if defined(NLL_COMPILED)
// Returns the compiled library's, for this machine.
SumGroup group_sum();
#endif

inline constexpr std::uint8_t negative_flag = 8;  // of a packed sum, beside its specials
inline constexpr index_t max_count = index_t{1} << 62;

inline namespace NLL_INSTRUCTION_SET {

#if !defined(NLL_COMPILED)
inline SumGroup group_sum() { return sum_group; }
#endif

// ---------------------------------------------------------------- kinds

// Returns XXH64 of the weights as doubles: the same for all numbers of the same value.
inline std::uint64_t digest_of(const Weight& weight) {
    return xxh64(weight.size, [&](index_t c) {
        const double value = visit_real(weight.dtype, [&]<class T>() {
            return to_double(static_cast<const T*>(weight.data)[c * weight.stride]);
        });
        return value != value ? std::uint64_t{0x7ff8} << 48
                              : std::bit_cast<std::uint64_t>(value + 0.0);
    });
}

inline State::Kind kind_of(LossFunction function, const Weight& weight, double label_smoothing) {
    const DefaultFloatingPoint environment;
    State::Kind kind{function, label_smoothing + 0.0, -1, 0};
    if (weight) kind.weights = weight.size, kind.weight_digest = digest_of(weight);
    return kind;
}

// Says what differs.
inline std::string difference(const State::Kind& found, const State::Kind& expected) {
    std::string text;
    const auto differs = [&](const std::string& name, const std::string& is,
                             const std::string& should_be) {
        text += (text.empty() ? "" : "; ") + name + is + ", not " + should_be;
    };
    const auto name_of = [](LossFunction function) {
        return function == LossFunction::nll_loss ? "nll_loss" : "cross_entropy";
    };
    const auto weights_of = [](const State::Kind& kind) {
        return kind.weights < 0 ? std::string("none")
                                : "of " + std::to_string(kind.weights) +
                                      (kind.weights == 1 ? " class" : " classes");
    };
    if (found.function != expected.function)
        differs("the loss is ", name_of(found.function), name_of(expected.function));
    if (found.label_smoothing != expected.label_smoothing)
        differs("label_smoothing is ", detail::text(found.label_smoothing),
                detail::text(expected.label_smoothing));
    if (found.weights != expected.weights)
        differs("class weights are ", weights_of(found), weights_of(expected));
    else if (found.weight_digest != expected.weight_digest)
        text += (text.empty() ? "" : "; ") + ("class weights are " + weights_of(found)) +
                ", but other numbers";
    return text;
}

inline void check_kind(const std::string& name, const State::Kind& found,
                       const State::Kind& expected) {
    if (!(found == expected))
        throw std::invalid_argument(name + ": " + difference(found, expected));
}

// ---------------------------------------------------------------- sums as digits

inline Digits digits_of(const ExactSum& sum) {
    Digits result;
    result.low = sum.low;
    std::int64_t over = 0;
    const auto put = [&](std::int64_t digit) {
        over += digit;
        result.digit[result.count++] = static_cast<std::uint32_t>(over);
        over >>= 32;
    };
    for (int i = sum.low; i < sum.high; ++i) put(sum.digit[i]);
    while (over != 0 && over != -1) put(0);
    result.negative = over != 0;
    const std::uint32_t above = result.negative ? 0xffffffff : 0;
    if (result.negative) result.digit[result.count++] = above;
    int zeros = 0;
    while (zeros < result.count && result.digit[zeros] == 0) ++zeros;
    std::copy(result.digit + zeros, result.digit + result.count, result.digit);
    result.low += zeros;
    result.count -= zeros;
    while (result.count > 1 && result.digit[result.count - 1] == above) --result.count;
    if (result.count == 0) result.low = 0;
    return result;
}

// Sets an empty sum to digits from `low` on, in two's complement.
inline void set_digits(ExactSum& sum, int low, int count, bool negative,
                       const std::uint32_t* digit) {
    if (count == 0) return;
    sum.low = low;
    sum.high = low + count;
    std::copy_n(digit, count, sum.digit + low);
    if (negative) sum.digit[sum.high - 1] -= std::int64_t{1} << 32;
}

inline std::uint8_t specials_of(const ExactSum& sum) {
    return static_cast<std::uint8_t>(sum.nan | sum.positive_infinity << 1 |
                                     sum.negative_infinity << 2);
}
inline void set_specials(ExactSum& sum, int specials) {
    sum.nan = specials & 1;
    sum.positive_infinity = specials & 2;
    sum.negative_infinity = specials & 4;
}

// ---------------------------------------------------------------- sums

inline void check_count(index_t one, index_t other) {
    if (one > max_count - other)
        throw std::invalid_argument("the states have more than 2^62 samples together");
}

inline void merge(Sums& sums, const Sums& other) {
    check_count(sums.count, other.count);
    check_count(sums.ignored, other.ignored);
    for (std::size_t i = 0; i < Sums::sums; ++i) merge(sums.sum[i], other.sum[i]);
    sums.count += other.count;
    sums.ignored += other.ignored;
    sums.dtypes |= other.dtypes;
    sums.weighted |= other.weighted;
}

// Says what samples a partial is of.
struct Batch {
    index_t ignored;
    DType dtype;    // of their losses
    bool weighted;  // they have weights of their own
};

inline void add(Sums& sums, const Partial& partial, const Batch& batch) {
    check_count(sums.count, partial.count);
    check_count(sums.ignored, batch.ignored);
    merge(sums.sum[Sums::loss], partial.loss);
    merge(sums.sum[Sums::square], partial.square);
    if (batch.weighted) {
        merge(sums.sum[Sums::weight], partial.weight);
        merge(sums.sum[Sums::cross], partial.cross);
        merge(sums.sum[Sums::weight_square], partial.weight_square);
    } else if (partial.count > 0) {
        const auto count = static_cast<std::uint64_t>(partial.count);
        add(sums.sum[Sums::weight], count, 0, false);
        merge(sums.sum[Sums::cross], partial.loss);
        add(sums.sum[Sums::weight_square], count, 0, false);
    }
    sums.count += partial.count;
    sums.ignored += batch.ignored;
    sums.dtypes = static_cast<std::uint8_t>(sums.dtypes | 1 << static_cast<int>(batch.dtype));
    sums.weighted |= batch.weighted;
}

// ---------------------------------------------------------------- bytes

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
    require(sums.dtypes != 0 ? sums.weighted || !has_weights
                             : count == 0 && ignored_count == 0 && !sums.weighted,
            "its samples have no dtype, or no weights");

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

}  // namespace NLL_INSTRUCTION_SET

// ---------------------------------------------------------------- packed sums

// Reads and writes what a State keeps to itself.
struct StateAccess {
    static State::Kind& kind(State& state) { return state.kind_; }

    static void unpack(const State& state, Sums& sums) {
        const std::uint32_t* digit = state.digits_.data();
        for (std::size_t s = 0; s < Sums::sums; ++s) {
            const State::Stretch& stretch = state.stretch_[s];
            set_digits(sums.sum[s], stretch.low, stretch.count, stretch.flags & negative_flag,
                       digit);
            set_specials(sums.sum[s], stretch.flags);
            digit += stretch.count;
        }
        sums.count = state.count_;
        sums.ignored = state.ignored_;
        sums.dtypes = state.dtypes_;
        sums.weighted = state.weighted_;
    }

    // Leaves the state as it was if there is no memory for it.
    static void pack(const Sums& sums, State& state) {
        std::array<State::Stretch, State::sums> stretch;
        std::uint32_t digit[State::sums * (ExactSum::digits + 3)];
        std::uint32_t* end = digit;
        for (std::size_t s = 0; s < Sums::sums; ++s) {
            const Digits digits = digits_of(sums.sum[s]);
            stretch[s].low = static_cast<std::int16_t>(digits.low);
            stretch[s].count = static_cast<std::int16_t>(digits.count);
            stretch[s].flags = static_cast<std::uint8_t>(specials_of(sums.sum[s]) |
                                                         (digits.negative ? negative_flag : 0));
            end = std::copy_n(digits.digit, digits.count, end);
        }
        state.digits_.reserve(static_cast<std::size_t>(end - digit));
        state.digits_.assign(digit, end);
        state.stretch_ = stretch;
        state.count_ = sums.count;
        state.ignored_ = sums.ignored;
        state.dtypes_ = sums.dtypes;
        state.weighted_ = sums.weighted;
    }

    static void add(State& state, const Partial& partial, const Batch& batch) {
        static_assert(static_cast<int>(Sums::sums) == State::sums);
        Sums sums;
        unpack(state, sums);
        detail::add(sums, partial, batch);
        pack(sums, state);
    }
};

inline namespace NLL_INSTRUCTION_SET {

// ---------------------------------------------------------------- groups

// Calls visit(first, last) for [0, count) in pieces, and asks whether to stop in between.
template <class Visit>
void for_each_piece(index_t count, parallel::Interruptible& interruptible, Visit&& visit) {
    for_each_block(0, count, max_piece_samples, [&](index_t first, index_t samples) {
        visit(first, first + samples);
        interruptible.ask();
    });
}

// Reads the groups of all samples, (samples.count,), in their order. The group array is the losses'
// operand of `samples`. Throws for the first in C order that is not in [0, groups).
inline void load_groups(const Samples& samples, const Array& group, index_t groups, index_t* to,
                        parallel::Interruptible& interruptible) {
    index_t bad_position = std::numeric_limits<index_t>::max();
    std::array<index_t, max_rank> bad;
    std::uint64_t bad_group = 0;
    for_each_piece(samples.count, interruptible, [&](index_t first, index_t last) {
        visit_integer(group.dtype, [&]<class Label>() {
            const Label* const from = static_cast<const Label*>(group.data);
            samples.for_each(losses, first, last - first, [&](index_t i, index_t offset) {
                to[first + i] = static_cast<index_t>(from[offset]);
            });
        });
        for (index_t i = first; i < last; ++i) {
            if (to[i] >= 0 && to[i] < groups) continue;
            std::array<index_t, max_rank> coordinate;
            const index_t place = position(samples, i, coordinate);
            if (place >= bad_position) continue;
            bad_position = place;
            bad = coordinate;
            bad_group = static_cast<std::uint64_t>(to[i]);
        }
    });
    if (bad_position == std::numeric_limits<index_t>::max()) return;
    std::string message = "group";
    for (int a = 0; a < samples.target_rank; ++a)
        message += (a ? ", " : "[") + std::to_string(bad[static_cast<std::size_t>(a)]);
    if (samples.target_rank) message += "]";
    const bool negative = is_signed_integer(group.dtype) && bad_group >> 63;
    throw std::out_of_range(message + " is " + text(bad_group, negative) + ", outside [0, " +
                            std::to_string(groups) + ")");
}

inline index_t group_of(const Record& record, index_t sample) {
    const index_t group = record.groups[sample];
    return group < 0 ? ~group : group;
}

// Returns the samples that have a group, in the order of their groups.
inline std::vector<index_t> by_group(const Record& record, index_t count, index_t groups,
                                     parallel::Interruptible& interruptible) {
    std::vector<index_t> order;
    order.reserve(static_cast<std::size_t>(count));
    bool sorted = true;
    for_each_piece(count, interruptible, [&](index_t first, index_t last) {
        for (index_t i = first; i < last; ++i) {
            if (record.by_class && record.groups[i] < 0) continue;  // an ignored one has no class
            sorted &= order.empty() || group_of(record, order.back()) <= group_of(record, i);
            order.push_back(i);
        }
    });
    if (sorted) return order;
    if (groups > 4 * count) {
        index_t compared = 0;
        std::sort(order.begin(), order.end(), [&](index_t a, index_t b) {
            if (++compared % max_piece_samples == 0) interruptible.ask();
            return group_of(record, a) < group_of(record, b);
        });
        return order;
    }
    const auto kept = static_cast<index_t>(order.size());
    const auto for_each_kept = [&](auto&& visit) {
        for_each_piece(kept, interruptible, [&](index_t first, index_t last) {
            for (index_t at = first; at < last; ++at) visit(order[static_cast<std::size_t>(at)]);
        });
    };
    std::vector<index_t> end(static_cast<std::size_t>(groups) + 1);
    for_each_kept([&](index_t i) { ++end[static_cast<std::size_t>(group_of(record, i)) + 1]; });
    std::partial_sum(end.begin(), end.end(), end.begin());
    std::vector<index_t> ordered(order.size());
    for_each_kept([&](index_t i) {
        ordered[static_cast<std::size_t>(end[static_cast<std::size_t>(group_of(record, i))]++)] = i;
    });
    return ordered;
}

// Holds a group, and what some samples of it add up to.
struct OfGroup {
    std::size_t group;
    State state;
};

// Returns what the noted samples, in the order of their groups, add up to in each of these.
inline std::vector<OfGroup> sum_groups(const State::Kind& kind, const Record& record,
                                       const std::vector<index_t>& order, DType dtype,
                                       const Options& options,
                                       parallel::Interruptible& interruptible) {
    static_assert(max_piece_samples % block_size == 0);  // pieces are blocks of the whole
    std::vector<OfGroup> sums;
    const DefaultFloatingPoint environment;
    for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
        const index_t group = group_of(record, order[first]);
        while (last < order.size() && group_of(record, order[last]) == group)
            if (++last % max_piece_samples == 0) interruptible.ask();
        Partial partial;
        index_t skipped = 0;
        const index_t* const samples = order.data() + first;
        for_each_piece(static_cast<index_t>(last - first), interruptible,
                       [&](index_t begin, index_t end) {
                           skipped += group_sum()(record, samples + begin, end - begin,
                                                  options.label_smoothing != 0, partial);
                       });
        sums.push_back({static_cast<std::size_t>(group), State(kind)});
        StateAccess::add(sums.back().state, partial, {skipped, dtype, record.weights != nullptr});
    }
    return sums;
}

// Adds the sums to the states of their groups: to all of them, or, without memory, to none.
inline void add_groups(std::span<State> states, std::vector<OfGroup>& sums) {
    for (OfGroup& sum : sums) sum.state.merge(states[sum.group]);
    for (OfGroup& sum : sums) std::swap(states[sum.group], sum.state);
}

// ---------------------------------------------------------------- calls

// Runs a loss, run(call), and adds what it finds to the states.
template <class Run> void collect_with(const Collection& to, const Call& given, Run&& run) {
    Options options = given.options;
    options.reduction = Reduction::sum;
    const Array &from = *given.arrays[input], &labels = *given.arrays[target];
    Partial partial;
    Call call{given.arrays, options};
    call.collected = &partial;
    if (!to.same_weights) {
        check_arguments(call.arrays, options);
        const auto kind = kind_of(to.function, options.weight, options.label_smoothing);
        for (const State& state : to.states)
            check_kind("the call is not of the state's kind", kind, state.kind());
    }
    const DType dtype = options.dtype.value_or(from.dtype);
    const bool weighted = options.weight || options.sample_weight;
    const auto lock = [&] {
        return to.gate ? std::unique_lock(*to.gate) : std::unique_lock<std::mutex>();
    };
    const auto count_samples = [&] {
        const auto first = labels.shape.begin();
        return std::accumulate(first, first + labels.rank, index_t{1}, std::multiplies<>());
    };
    if (!to.grouped) {
        run(call);
        const index_t skipped = count_samples() - partial.count;
        const auto hold = lock();
        return StateAccess::add(to.states[0], partial, {skipped, dtype, weighted});
    }

    const int axis = check_arguments(call.arrays, options);
    const index_t samples = count_samples();
    const auto groups = static_cast<index_t>(to.states.size());
    if (to.group) {
        check_same_shape("group", *to.group, "target", labels);
        check_sizes("group", *to.group);
    } else if (const index_t classes = from.shape[static_cast<std::size_t>(axis)];
               groups != classes) {
        throw std::invalid_argument("group is 'target', but there are " + std::to_string(groups) +
                                    " groups for " + std::to_string(classes) +
                                    (classes == 1 ? " class" : " classes"));
    }
    const auto size = static_cast<std::size_t>(samples);
    const std::unique_ptr<double[]> values(new double[size]);
    const std::unique_ptr<double[]> weights(weighted ? new double[size] : nullptr);
    const std::unique_ptr<index_t[]> group_numbers(new index_t[size]);
    const Record record{values.get(), weights.get(), group_numbers.get(), to.group == nullptr};
    parallel::Interruptible interruptible(options.interrupt);
    if (to.group)
        load_groups(samples_of({&from, &labels, to.group, nullptr, nullptr}, axis, input),
                    *to.group, groups, record.groups, interruptible);
    call.record = &record;
    run(call);
    if (groups == 0) return;
    const std::vector<index_t> order = by_group(record, samples, groups, interruptible);
    std::vector<OfGroup> sums =
        sum_groups(to.states[0].kind(), record, order, dtype, options, interruptible);
    const auto hold = lock();  // asks for no signal: who waits here may have what that waits for
    add_groups(to.states, sums);
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

inline void check_smoothing(LossFunction function, double label_smoothing) {
    if (!(label_smoothing >= 0 && label_smoothing <= 1))
        throw std::invalid_argument("label_smoothing is " + text(label_smoothing) +
                                    ", outside [0, 1]");
    Options options;
    options.label_smoothing = label_smoothing;
    if (function == LossFunction::nll_loss) check_no_smoothing(options);
}

}  // namespace NLL_INSTRUCTION_SET

#if !defined(NLL_COMPILED)
template <class Scalar> void collect_as(const Collection& to, const Call& call) {
    collect_with(to, call, [&](const Call& summed) {
        if (to.function == LossFunction::nll_loss) nll_loss_as<Scalar>(summed);
        else cross_entropy_as<Scalar>(summed);
    });
}
template <class> void collect(const Collection& to, const Call& call) {
    visit_floating(call.arrays[input]->dtype,
                   [&]<class Scalar>() { collect_as<Scalar>(to, call); });
}
#endif

}  // namespace NLL_HIDDEN detail

// ---------------------------------------------------------------- the class

#if defined(NLL_COMPILED)
#define NLL_DEFINED
#else
#define NLL_DEFINED inline
#endif

NLL_DEFINED State::State(LossFunction function, const Weight& weight, double label_smoothing)
    : kind_(detail::kind_of(function, weight, label_smoothing)) {
    detail::check_smoothing(function, label_smoothing);
}

NLL_DEFINED State State::from_bytes(std::span<const std::uint8_t> bytes) {
    if (bytes.size() != static_cast<std::size_t>(size))
        detail::refuse("a state has " + std::to_string(size) + " bytes, not " +
                       std::to_string(bytes.size()));
    detail::Sums sums;
    State state(detail::decode(bytes.data(), sums));
    detail::StateAccess::pack(sums, state);
    return state;
}

NLL_DEFINED State::Bytes State::to_bytes() const {
    detail::Sums sums;
    detail::StateAccess::unpack(*this, sums);
    Bytes bytes;
    detail::encode(kind_, sums, bytes.data());
    return bytes;
}

NLL_DEFINED void State::merge(const State& other) {
    detail::check_kind("the kinds of the states differ", other.kind_, kind_);
    detail::Sums sums, others;
    detail::StateAccess::unpack(*this, sums);
    detail::StateAccess::unpack(other, others);
    detail::merge(sums, others);
    detail::StateAccess::pack(sums, *this);
}

NLL_DEFINED DType State::dtype() const {
    if (dtypes_ == 0 || dtypes_ & 8) return DType::float64;
    if (dtypes_ == 1) return DType::float16;
    return dtypes_ == 2 ? DType::bfloat16 : DType::float32;
}

NLL_DEFINED Loss State::loss(const Options& options) const {
    if (options.reduction == Reduction::none)
        throw std::invalid_argument(
            "reduction is none, but a state has no losses of samples: it must be 'mean' or 'sum'");
    const detail::DefaultFloatingPoint environment;
    detail::Sums sums;
    detail::StateAccess::unpack(*this, sums);
    return detail::loss_of(sums.sum[detail::Sums::loss], sums.sum[detail::Sums::weight], count_,
                           options.dtype.value_or(dtype()), options);
}

NLL_DEFINED double State::total_weight() const {
    detail::Sums sums;
    detail::StateAccess::unpack(*this, sums);
    return detail::rounded(sums.sum[detail::Sums::weight], detail::format_of<double>);
}

NLL_DEFINED double State::standard_error() const {
    const detail::DefaultFloatingPoint environment;
    detail::Sums sums;
    detail::StateAccess::unpack(*this, sums);
    return std::apply([&](const auto&... sum) { return detail::standard_error_of(sum..., count_); },
                      sums.sum);
}

NLL_DEFINED double State::perplexity(Empty empty) const {
    Options options;
    options.empty = empty;
    options.dtype = DType::float64;
    const double mean = loss(options).value;
    const detail::DefaultFloatingPoint environment;
    return std::exp(mean);
}

NLL_DEFINED State merge(const std::uint8_t* states, index_t count, index_t stride) {
    detail::Sums sums;
    State state(detail::merge_bytes(states, count, stride, sums));
    detail::StateAccess::pack(sums, state);
    return state;
}

#undef NLL_DEFINED

}  // namespace nll::inline NLL_VERSION_NAMESPACE
