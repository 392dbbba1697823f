// SPDX-License-Identifier: BSD-3-Clause
// States out of any bytes and out of any data.
//
//     bytes    refused, or a state whose fields are what they may be; it has these bytes again, and
//              its losses are its sums as integers of any length, rounded once
//     merging  adds the fields, in any order and by any way; what comes out is a state, too
//     data     in batches, in any order, with groups or without: the bytes of one call, and its
//     loss
#include <nll/nll.hpp>

#include <nll/detail/xxh64.hpp>

#include <optional>
#include <stdexcept>
#include <vector>

#include "../cpp/elements.hpp"
#include "bytes.hpp"
#include "dyadic.hpp"

using fuzz::Bytes;
using fuzz::Numbers;
using nll::DType;
using nll::index_t;
using nll::LossFunction;
using nll::Options;
using nll::Reduction;
using nll::State;
using nll::View;

namespace {

// ---------------------------------------------------------------- fields

enum Field : int { loss, weight, square, cross, weight_square, fields };
constexpr int first_field = 56, field_size = 544, checksum_at = 2776, count_at = 40,
              ignored_at = 48;
constexpr std::uint64_t most_samples = std::uint64_t{1} << 62;

std::uint64_t word_of(const State::Bytes& bytes, int at) {
    std::uint64_t word = 0;
    for (int i = 7; i >= 0; --i) word = word << 8 | bytes[static_cast<std::size_t>(at + i)];
    return word;
}
void set_word(State::Bytes& bytes, int at, std::uint64_t word) {
    for (int i = 0; i < 8; ++i)
        bytes[static_cast<std::size_t>(at + i)] = static_cast<std::uint8_t>(word >> 8 * i);
}
void set_checksum(State::Bytes& bytes) {
    set_word(bytes, checksum_at, nll::detail::xxh64(checksum_at / 8, [&](index_t i) {
                 return word_of(bytes, static_cast<int>(8 * i));
             }));
}

// Reads a field as it is described: an integer in two's complement, in units of 2^-2176.
fuzz::Sum sum_of(const State::Bytes& bytes, int field) {
    fuzz::Sum sum;
    for (int i = 0; i < field_size / 8; ++i) {
        const std::uint64_t word = word_of(bytes, first_field + field * field_size + 8 * i);
        const bool is_last = i == field_size / 8 - 1;
        if (is_last && word >> 63) sum.finite.add(0 - word, 64 * i - 2176, true);
        else sum.finite.add(word, 64 * i - 2176, false);
    }
    const int specials = bytes[14] | bytes[15] << 8;
    sum.nan = specials >> 3 * field & 1;
    sum.positive_infinity = specials >> 3 * field & 2;
    sum.negative_infinity = specials >> 3 * field & 4;
    return sum;
}

// Requires what every state has to be: numbers of its samples that can add up to its sums.
void require_possible(const State::Bytes& bytes) {
    const std::uint64_t count = word_of(bytes, count_at);
    REQUIRE(count <= most_samples && word_of(bytes, ignored_at) <= most_samples);
    REQUIRE(bytes[10] <= 1 && bytes[11] <= 1 && bytes[12] < 16 && bytes[13] <= 1);
    for (int field = 0; field < fields; ++field) {
        const fuzz::Sum sum = sum_of(bytes, field);
        const fuzz::Dyadic value = sum.finite.value();
        const int end = field == weight ? 1024 : 2048, last = field == weight ? -1074 : -2148;
        const fuzz::Dyadic most(fuzz::natural(count), end, false);
        REQUIRE(value.is_zero() || !fuzz::less_in_size(most, value));
        REQUIRE(fuzz::is_multiple_of_power(value, last));
        const bool is_square = field == square || field == weight_square;
        REQUIRE(!is_square || (!sum.negative_infinity && (value.is_zero() || !value.negative)));
        REQUIRE(count > 0 || sum.is_zero());
    }
}

// ---------------------------------------------------------------- what a state says

constexpr struct {
    DType dtype;
    fuzz::Precision precision;
} formats[] = {{DType::float16, fuzz::in_float16},
               {DType::bfloat16, fuzz::in_bfloat16},
               {DType::float32, fuzz::in_float},
               {DType::float64, fuzz::in_double}};

void require_results(const State& state, const State::Bytes& bytes, Bytes& choices) {
    const fuzz::Sum of_loss = sum_of(bytes, loss), of_weight = sum_of(bytes, weight);
    const auto [dtype, precision] = choices.pick(formats);
    Options options{.reduction = choices.pick({Reduction::sum, Reduction::mean}),
                    .empty = choices.pick({nll::Empty::nan, nll::Empty::zero, nll::Empty::raise}),
                    .dtype = dtype};
    double wanted = fuzz::rounded(of_loss, precision);
    if (options.reduction == Reduction::mean) {
        wanted = fuzz::rounded_quotient(of_loss, of_weight, precision);
        if (of_weight.is_zero() && options.empty == nll::Empty::zero) wanted = 0;
    }
    const bool raises = options.reduction == Reduction::mean && of_weight.is_zero() &&
                        options.empty == nll::Empty::raise;
    try {
        const nll::Loss found = state.loss(options);
        REQUIRE(!raises);
        REQUIRE(fuzz::same(found.value, wanted));
        REQUIRE(fuzz::same(found.total_weight, fuzz::rounded(of_weight, fuzz::in_double)));
        REQUIRE(static_cast<std::uint64_t>(found.count) == word_of(bytes, count_at));
    } catch (const std::invalid_argument&) {
        REQUIRE(raises);
    }
    REQUIRE(fuzz::same(state.total_weight(), fuzz::rounded(of_weight, fuzz::in_double)));
    const int dtypes = bytes[12];
    const DType widest = dtypes == 0 || dtypes & 8 ? DType::float64
                         : dtypes == 1             ? DType::float16
                         : dtypes == 2             ? DType::bfloat16
                                                   : DType::float32;
    REQUIRE(state.dtype() == widest);
    const double error = state.standard_error(), perplexity = state.perplexity();
    REQUIRE(error != error || error >= 0);
    REQUIRE(perplexity != perplexity || perplexity >= 0);
    if (state.count() < 2) REQUIRE(error != error);
}

// ---------------------------------------------------------------- merging

bool are_of_one_kind(const State::Bytes& a, const State::Bytes& b) {
    const auto kind_begins = a.begin() + 16, kind_ends = a.begin() + count_at;
    return a[10] == b[10] && a[11] == b[11] && std::equal(kind_begins, kind_ends, b.begin() + 16);
}

// Merges by the definition: fields add, flags are or'ed. Returns nothing for too many samples.
std::optional<State::Bytes> merged_by_fields(const State::Bytes& a, const State::Bytes& b) {
    State::Bytes bytes = a;
    for (const int at : {count_at, ignored_at}) {
        const std::uint64_t samples = word_of(a, at) + word_of(b, at);
        if (samples > most_samples) return std::nullopt;
        set_word(bytes, at, samples);
    }
    for (const std::size_t flags : {12, 13, 14, 15})
        bytes[flags] = static_cast<std::uint8_t>(a[flags] | b[flags]);
    for (int field = 0; field < fields; ++field) {
        int over = 0;
        for (int i = 0; i < field_size; ++i) {
            const auto at = static_cast<std::size_t>(first_field + field * field_size + i);
            over += a[at] + b[at];
            bytes[at] = static_cast<std::uint8_t>(over);
            over >>= 8;
        }
    }
    set_checksum(bytes);
    return bytes;
}

void require_merges(const std::vector<State>& states, Bytes& choices) {
    for (const State& a : states)
        for (const State& b : states) {
            const State::Bytes of_a = a.to_bytes(), of_b = b.to_bytes();
            const bool mixes = are_of_one_kind(of_a, of_b);
            const std::optional<State::Bytes> wanted =
                mixes ? merged_by_fields(of_a, of_b) : std::nullopt;
            State sum = a;
            try {
                sum.merge(b);
                REQUIRE(wanted && sum.to_bytes() == *wanted);
                REQUIRE((State(b) += a).to_bytes() == *wanted);
                const State again = State::from_bytes(*wanted);
                REQUIRE(again.to_bytes() == *wanted);
                require_possible(*wanted);
                require_results(again, *wanted, choices);
            } catch (const std::invalid_argument&) {
                REQUIRE(!wanted);
                REQUIRE(sum.to_bytes() == of_a);
            }
            std::vector<std::uint8_t> rows(of_a.begin(), of_a.end());
            rows.insert(rows.end(), static_cast<std::size_t>(choices.below(3)), 0xa5);
            const auto stride = static_cast<index_t>(rows.size());
            rows.insert(rows.end(), of_b.begin(), of_b.end());
            try {
                const State merged = nll::merge(rows.data(), 2, stride);
                REQUIRE(wanted && merged.to_bytes() == *wanted);
            } catch (const std::invalid_argument&) {
                REQUIRE(!wanted);
            }
        }
}

// ---------------------------------------------------------------- data

// Holds a batch of logits, (samples, classes), and what else a call of it is given.
template <class Scalar> struct Data {
    index_t samples, classes;
    std::vector<Scalar> input;
    std::vector<std::int16_t> target;
    std::vector<float> sample_weight;
    std::vector<double> class_weight;
    std::vector<std::uint8_t> group;
    index_t groups;
    LossFunction function;
    double label_smoothing = 0;

    explicit Data(Bytes& bytes)
        : samples(bytes.coin() ? bytes.below(40) : bytes.below(1200)),
          classes(bytes.between(1, 7)),
          groups(bytes.between(1, 9)),
          function(bytes.pick({LossFunction::nll_loss, LossFunction::cross_entropy})) {
        Numbers numbers(bytes);
        const bool is_usual = bytes.coin();
        const int often_ignored = bytes.between(2, 100);
        for (index_t i = 0; i < samples; ++i) {
            const bool is_ignored = bytes.one_in(often_ignored);
            target.push_back(static_cast<std::int16_t>(
                is_ignored ? -100 : bytes.below(static_cast<int>(classes))));
            group.push_back(static_cast<std::uint8_t>(bytes.below(static_cast<int>(groups))));
            for (index_t c = 0; c < classes; ++c)
                input.push_back(elements::rounded<Scalar>(
                    is_usual
                        ? 0x1p-60 * static_cast<double>(static_cast<std::int64_t>(bytes.word()))
                        : numbers.next()));
        }
        if (bytes.one_in(20) && samples > 0)
            target[static_cast<std::size_t>(bytes.below(static_cast<int>(samples)))] =
                static_cast<std::int16_t>(bytes.word() >> 48);
        if (bytes.one_in(3)) {
            Numbers weights(bytes);
            for (index_t i = 0; i < samples; ++i)
                sample_weight.push_back(static_cast<float>(weights.next()));
        }
        if (bytes.one_in(3)) {
            Numbers weights(bytes);
            for (index_t c = 0; c < classes; ++c) class_weight.push_back(weights.next());
        }
        if (function == LossFunction::cross_entropy && class_weight.empty() && bytes.one_in(4))
            label_smoothing = bytes.pick({0.1, 1.0});
    }

    // Calls visit(input, target, group, options) for samples [first, first + count).
    template <class Visit>
    decltype(auto) with_rows(index_t first, index_t count, Visit&& visit) const {
        Options options{.label_smoothing = label_smoothing};
        nll::Array weights;
        if (!class_weight.empty())
            options.weight = View<const double, 1>{class_weight.data(), {classes}};
        if (!sample_weight.empty() || samples == 0) {
            weights = nll::Array(View<const float, 1>{sample_weight.data() + first, {count}});
            if (samples != 0) options.sample_weight = &weights;
        }
        return visit(View<const Scalar, 2>{input.data() + first * classes, {count, classes}},
                     View<const std::int16_t, 1>{target.data() + first, {count}},
                     View<const std::uint8_t, 1>{group.data() + first, {count}}, options);
    }
    State empty_state() const {
        return with_rows(0, 0, [&](auto, auto, auto, const Options& options) {
            return State(function, options.weight, label_smoothing);
        });
    }
    void add(State& state, index_t first, index_t count) const {
        with_rows(first, count, [&](auto from, auto labels, auto, const Options& options) {
            if (function == LossFunction::nll_loss) nll::add_nll_loss(state, from, labels, options);
            else nll::add_cross_entropy(state, from, labels, options);
        });
    }
    void add(std::vector<State>& states, index_t first, index_t count) const {
        with_rows(first, count, [&](auto from, auto labels, auto of, const Options& options) {
            if (function == LossFunction::nll_loss)
                nll::add_nll_loss(std::span<State>(states), from, labels, of, options);
            else nll::add_cross_entropy(std::span<State>(states), from, labels, of, options);
        });
    }
    nll::Loss loss(Reduction reduction) const {
        return with_rows(0, samples, [&](auto from, auto labels, auto, Options options) {
            options.reduction = reduction;
            return function == LossFunction::nll_loss ? nll::nll_loss(from, labels, options)
                                                      : nll::cross_entropy(from, labels, options);
        });
    }
};

template <class Scalar> void require_batches(Bytes& bytes, std::vector<State>& states) {
    const Data<Scalar> data(bytes);
    State whole = data.empty_state();
    const State::Bytes before = whole.to_bytes();
    try {
        data.add(whole, 0, data.samples);
    } catch (const std::out_of_range&) {
        REQUIRE(whole.to_bytes() == before);
        return;
    }
    const State::Bytes wanted = whole.to_bytes();
    require_possible(wanted);
    REQUIRE(State::from_bytes(wanted).to_bytes() == wanted);
    require_results(whole, wanted, bytes);
    for (const Reduction reduction : {Reduction::sum, Reduction::mean}) {
        const nll::Loss one = data.loss(reduction), found = whole.loss({.reduction = reduction});
        REQUIRE(fuzz::same(found.value, one.value) && found.count == one.count);
        REQUIRE(fuzz::same(found.total_weight, one.total_weight));
    }
    states.push_back(whole);

    State merged = data.empty_state();
    std::vector<State> of_groups(static_cast<std::size_t>(data.groups), merged);
    for (index_t first = 0; first < data.samples || first == 0;) {
        const index_t count = std::min<index_t>(data.samples - first,
                                                bytes.coin() ? bytes.below(1000) : bytes.below(9));
        if (bytes.coin()) {
            State part = data.empty_state();
            data.add(part, first, count);
            if (bytes.coin()) part.merge(State(merged)), merged = part;
            else merged.merge(State::from_bytes(part.to_bytes()));
        } else {
            data.add(merged, first, count);
        }
        data.add(of_groups, first, count);
        first += count;
        if (data.samples == 0 || count == 0) {
            data.add(merged, first, data.samples - first);
            data.add(of_groups, first, data.samples - first);
            break;
        }
    }
    REQUIRE(merged.to_bytes() == wanted);
    State all = of_groups.back();
    for (std::size_t g = of_groups.size() - 1; g-- > 0;) all.merge(of_groups[g]);
    REQUIRE(all.to_bytes() == wanted);
}

void add_states_of_data(Bytes& bytes, std::vector<State>& states) {
    switch (bytes.below(4)) {
        case 0: return require_batches<float>(bytes, states);
        case 1: return require_batches<double>(bytes, states);
        case 2: return require_batches<nll::bfloat16>(bytes, states);
        default: return require_batches<nll::float16>(bytes, states);
    }
}

// ---------------------------------------------------------------- bytes

void take_bytes(std::span<const std::uint8_t> given, Bytes& choices, std::vector<State>& states) {
    std::optional<State> state;
    try {
        state = State::from_bytes(given);
    } catch (const std::invalid_argument&) {
        return;
    }
    State::Bytes bytes;
    REQUIRE(given.size() == bytes.size());
    std::copy(given.begin(), given.end(), bytes.begin());
    REQUIRE(state->to_bytes() == bytes);
    require_possible(bytes);
    require_results(*state, bytes, choices);
    states.push_back(*state);
}

// Writes an integer of a few digits into a field.
void set_field(Bytes& bytes, State::Bytes& to, int field) {
    const int first = first_field + field * field_size, place = bytes.below(field_size / 4);
    const auto fill = static_cast<std::uint8_t>(bytes.coin() ? 0xff : 0);
    for (int i = 0; i < field_size; ++i)
        to[static_cast<std::size_t>(first + i)] = i < 4 * place ? 0 : fill;
    for (int i = 4 * place; i < std::min(4 * place + bytes.between(0, 12), field_size); ++i)
        to[static_cast<std::size_t>(first + i)] = bytes.byte();
}

// Changes the bytes of a state in a few places; mostly with a checksum that fits.
State::Bytes changed(Bytes& bytes, State::Bytes state) {
    for (int changes = bytes.between(0, 6); changes > 0; --changes) {
        switch (bytes.below(6)) {
            case 0: set_field(bytes, state, bytes.below(fields)); break;
            case 1:
                set_word(state, bytes.pick({count_at, ignored_at}),
                         bytes.coin() ? bytes.word() : most_samples - bytes.word() % 3);
                break;
            case 2: set_word(state, count_at, bytes.byte()); break;
            case 3: state[static_cast<std::size_t>(bytes.between(8, 16))] = bytes.byte(); break;
            case 4: {  // without weights, their sums are the count, and cross is loss
                state[13] = 0;
                std::copy_n(state.begin() + first_field, field_size,
                            state.begin() + first_field + cross * field_size);
                for (const int field : {weight, weight_square}) {
                    const auto at = first_field + field * field_size;
                    std::fill_n(state.begin() + at, field_size, std::uint8_t{0});
                    set_word(state, at + 2176 / 8, word_of(state, count_at));
                }
                break;
            }
            default: state[static_cast<std::size_t>(bytes.below(2784))] = bytes.byte();
        }
    }
    if (!bytes.one_in(20)) set_checksum(state);
    return state;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes bytes(data, size);
    std::vector<State> states;
    if (size > 0 && data[0] == 0x89) take_bytes({data, size}, bytes, states);
    for (int i = bytes.between(1, 3); i > 0; --i) {
        const bool extends = !states.empty() && bytes.coin();
        if (bytes.one_in(3)) {
            add_states_of_data(bytes, states);
            continue;
        }
        const State plain(bytes.pick({LossFunction::nll_loss, LossFunction::cross_entropy}), {});
        const State::Bytes given =
            changed(bytes, extends ? states.back().to_bytes() : plain.to_bytes());
        const int length = bytes.one_in(40) ? bytes.below(2784) : 2784;
        take_bytes(std::span<const std::uint8_t>(given).first(static_cast<std::size_t>(length)),
                   bytes, states);
    }
    require_merges(states, bytes);
    return 0;
}
