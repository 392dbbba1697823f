// SPDX-License-Identifier: BSD-3-Clause
// The state as a C++ user has it: the bits of one call, the same bytes in any order, refusals.
#include <nll/nll.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <nll/detail/xxh64.hpp>

#include "check.hpp"

using namespace nll;

namespace {

constexpr index_t classes = 7, samples = 3000;
std::mt19937_64 random_bits(1);

struct Data {
    std::vector<float> input;
    std::vector<std::int32_t> target;
    std::vector<std::uint16_t> group;

    View<const float, 2> rows(index_t first, index_t count) const {
        return {input.data() + first * classes, {count, classes}};
    }
    View<const std::int32_t, 1> labels(index_t first, index_t count) const {
        return {target.data() + first, {count}};
    }
    View<const std::uint16_t, 1> groups(index_t first, index_t count) const {
        return {group.data() + first, {count}};
    }
};

Data random_data() {
    Data data;
    for (index_t i = 0; i < samples; ++i) {
        data.target.push_back(
            random_bits() % 5 == 0 ? -100 : static_cast<std::int32_t>(random_bits() % classes));
        data.group.push_back(static_cast<std::uint16_t>(random_bits() % 9));
        for (index_t c = 0; c < classes; ++c)
            data.input.push_back(std::ldexp(static_cast<float>(random_bits() % 100'000) - 50'000.0f,
                                            -static_cast<int>(random_bits() % 30)));
    }
    return data;
}

const Data data = random_data();
const std::vector<double> weight{1, 0.1, 2, 0, 7, 1e-3, -0.5};
const Options weighted{.weight = View<const double, 1>{weight.data(), {classes}}};

struct Case {
    LossFunction function;
    Options options;
};
const Case cases[] = {
    {LossFunction::nll_loss, {}},
    {LossFunction::nll_loss, weighted},
    {LossFunction::cross_entropy, {}},
    {LossFunction::cross_entropy, weighted},
    {LossFunction::cross_entropy, {.label_smoothing = 0.1}},
    {LossFunction::cross_entropy, {.weight = weighted.weight, .label_smoothing = 0.1}},
};

State empty_state(const Case& of) {
    return State(of.function, of.options.weight, of.options.label_smoothing);
}
void add(State& state, const Case& of, index_t first, index_t count) {
    if (of.function == LossFunction::nll_loss)
        add_nll_loss(state, data.rows(first, count), data.labels(first, count), of.options);
    else add_cross_entropy(state, data.rows(first, count), data.labels(first, count), of.options);
}
State state_of(const Case& of, index_t first, index_t count) {
    State state = empty_state(of);
    add(state, of, first, count);
    return state;
}
State whole(const Case& of) { return state_of(of, 0, samples); }

// Cuts the data at random, and returns the states of the parts in random order.
std::vector<State> parts_of(const Case& of) {
    std::vector<State> parts;
    for (index_t first = 0; first < samples;) {
        const index_t count =
            std::min<index_t>(samples - first, static_cast<index_t>(random_bits() % 700));
        parts.push_back(state_of(of, first, count));
        first += count;
    }
    std::shuffle(parts.begin(), parts.end(), random_bits);
    return parts;
}

void has_the_bits_of_one_call() {
    for (const Case& of : cases)
        for (const Reduction reduction : {Reduction::sum, Reduction::mean})
            for (const DType dtype : {DType::float32, DType::bfloat16}) {
                Case one = of;
                one.options.reduction = reduction;
                one.options.dtype = dtype;
                const Loss expected =
                    of.function == LossFunction::nll_loss
                        ? nll_loss(data.rows(0, samples), data.labels(0, samples), one.options)
                        : cross_entropy(data.rows(0, samples), data.labels(0, samples),
                                        one.options);
                State total = empty_state(one);
                for (const State& part : parts_of(one)) total += part;
                const Loss loss = total.loss({.reduction = reduction});
                CHECK(total.dtype() == dtype);
                CHECK(same_bits(loss.value, expected.value));
                CHECK(same_bits(loss.total_weight, expected.total_weight));
                CHECK(same_bits(total.total_weight(), expected.total_weight));
                CHECK(loss.count == expected.count && total.count() == loss.count);
                CHECK(total.count() + total.ignored() == samples);
            }
}

void has_the_same_bytes_in_any_order() {
    for (const Case& of : cases) {
        const State::Bytes expected = whole(of).to_bytes();
        State by_batches = empty_state(of);
        for (index_t first = 0; first < samples; first += 100) add(by_batches, of, first, 100);
        CHECK(by_batches.to_bytes() == expected);
        std::vector<std::uint8_t> rows;
        for (const State& part : parts_of(of)) {
            const State::Bytes bytes = part.to_bytes();
            rows.insert(rows.end(), bytes.begin(), bytes.end());
        }
        const auto count = static_cast<index_t>(rows.size()) / State::size;
        const State merged = merge(rows.data(), count, State::size);
        CHECK(merged.to_bytes() == expected);
        CHECK(merged.kind() == whole(of).kind());
        CHECK(State::from_bytes(expected).to_bytes() == expected);
    }
}

// All at once, on any number of threads.
void threads_change_nothing() {
    for (Case of : cases) {
        const State::Bytes expected = whole(of).to_bytes();
        for (const int threads : {1, 2, 5}) {
            of.options.num_threads = threads;
            CHECK(whole(of).to_bytes() == expected);
        }
    }
}

void standard_errors() {
    const std::vector<double> losses{1, 2, 3, 4};
    std::vector<double> input(losses);
    for (double& x : input) x = -x;
    const std::vector<std::uint8_t> target(4, 0);
    const auto error_of = [&](const std::vector<double>& of, double scale) {
        std::vector<double> rows;
        for (const double loss : of) rows.push_back(-loss * scale);
        State state(LossFunction::nll_loss);
        add_nll_loss(state, View<const double, 2>{rows.data(), {index_t(of.size()), 1}},
                     View<const std::uint8_t, 1>{target.data(), {index_t(of.size())}});
        return state.standard_error();
    };
    CHECK(ulps(error_of(losses, 1), std::sqrt(5.0L / 3 / 4)) <= 8);
    CHECK(ulps(error_of(losses, 0x1p-1000), std::sqrt(5.0L / 3 / 4) * 0x1p-1000L) <= 8);
    CHECK(ulps(error_of(losses, 0x1p1000), std::sqrt(5.0L / 3 / 4) * 0x1p1000L) <= 8);
    CHECK(same_bits(error_of({0.1, 0.1, 0.1}, 1), 0.0));
    CHECK(ulps(error_of({1 + 0x1p-52, 1}, 1), 0x1p-53L) <= 8);
    CHECK(std::isnan(error_of({1}, 1)));
    CHECK(std::isnan(error_of({}, 1)));
    CHECK(std::isnan(error_of({INFINITY, 1}, 1)));

    // Weights 1 and 3 of losses 5 and 1: m = 2, and (n/(n - 1))·(3² + 3²)/4².
    const double two[] = {1, 3}, rows[] = {-5, 0, 0, -1};
    const std::uint8_t both[] = {0, 1};
    const Weight weights = View<const double, 1>{two, {2}};
    State state(LossFunction::nll_loss, weights);
    add_nll_loss(state, View<const double, 2>{rows, {2, 2}}, View<const std::uint8_t, 1>{both, {2}},
                 {.weight = weights});
    CHECK(state.loss().value == 2);
    CHECK(ulps(state.standard_error(), 1.5L) <= 8);
}

void perplexities() {
    const auto perplexity_of = [](double loss) {
        const double row = -loss;
        const std::uint8_t label = 0;
        State state(LossFunction::nll_loss);
        add_nll_loss(state, View<const double, 2>{&row, {1, 1}},
                     View<const std::uint8_t, 1>{&label, {1}});
        return state.perplexity();
    };
    CHECK(perplexity_of(0) == 1);
    CHECK(perplexity_of(3) == std::exp(3.0));
    CHECK(perplexity_of(1000) == INFINITY);
    CHECK(std::isnan(State(LossFunction::nll_loss).perplexity()));
    CHECK(State(LossFunction::nll_loss).perplexity(Empty::zero) == 1);
}

void kinds_do_not_mix() {
    const auto message = [](const State& one, const State& other) {
        State total = one;
        const std::string text = message_of<std::invalid_argument>([&] { total.merge(other); });
        CHECK(total.to_bytes() == one.to_bytes());
        return text;
    };
    const State plain(LossFunction::cross_entropy), smoothed(LossFunction::cross_entropy, {}, 0.1);
    const std::string prefix = "the kinds of the states differ: ";
    CHECK(message(plain, State(LossFunction::nll_loss)) ==
          prefix + "the loss is nll_loss, not cross_entropy");
    CHECK(message(plain, smoothed) == prefix + "label_smoothing is 0.1, not 0");
    CHECK(message(smoothed, State(LossFunction::nll_loss, weighted.weight)) ==
          prefix +
              "the loss is nll_loss, not cross_entropy; label_smoothing is 0, not 0.1; class "
              "weights are of 7 classes, not none");
    std::vector<float> others(weight.begin(), weight.end());
    const Weight rounded = View<const float, 1>{others.data(), {classes}};
    CHECK(message(State(LossFunction::nll_loss, rounded),
                  State(LossFunction::nll_loss, weighted.weight)) ==
          prefix + "class weights are of 7 classes, but other numbers");
    const std::int8_t integers[] = {1, 2, 3};
    const double doubles[] = {1, 2, 3};
    CHECK(State(LossFunction::nll_loss, View<const std::int8_t, 1>{integers, {3}}).kind() ==
          State(LossFunction::nll_loss, View<const double, 1>{doubles, {3}}).kind());
    const double zero[] = {0}, negative_zero[] = {-0.0};
    CHECK(State(LossFunction::nll_loss, View<const double, 1>{zero, {1}}).kind() ==
          State(LossFunction::nll_loss, View<const double, 1>{negative_zero, {1}}).kind());
    CHECK(message_of<std::invalid_argument>([] { State(LossFunction::nll_loss, {}, 0.1); }) ==
          "label_smoothing is for cross-entropy: the negative log likelihood reads one class");
    CHECK(message_of<std::invalid_argument>([] { State(LossFunction::cross_entropy, {}, 2); }) ==
          "label_smoothing is 2, outside [0, 1]");
    State state(LossFunction::cross_entropy);
    CHECK(message_of<std::invalid_argument>([&] {
              add_cross_entropy(state, data.rows(0, 9), data.labels(0, 9),
                                {.label_smoothing = 0.5});
          }) == "the call is not of the state's kind: label_smoothing is 0.5, not 0");
}

// What makes a state is what its bytes, and calls, may have.
void kinds_that_no_state_has() {
    const auto refusal_of_kind = [](const State::Kind& kind) {
        return message_of<std::invalid_argument>([&] { State{kind}; });
    };
    constexpr auto nll = LossFunction::nll_loss, logits = LossFunction::cross_entropy;
    constexpr auto unknown = static_cast<LossFunction>(9);
    const std::string smoothing =
        "label_smoothing is for cross-entropy: the negative log likelihood reads one class";
    CHECK(refusal_of_kind({unknown}) == "the loss is 9, outside [0, 1]");
    CHECK(message_of<std::invalid_argument>([] { State{unknown}; }) ==
          "the loss is 9, outside [0, 1]");
    CHECK(refusal_of_kind({logits, 2}) == "label_smoothing is 2, outside [0, 1]");
    CHECK(refusal_of_kind({logits, std::nan("")}).starts_with("label_smoothing is "));
    CHECK(refusal_of_kind({nll, 0.5}) == smoothing);
    CHECK(refusal_of_kind({nll, 0, -5}) == "there are -5 class weights, outside [-1, 2^62)");
    CHECK(refusal_of_kind({nll, 0, index_t{1} << 62}).starts_with("there are 46116860184273"));
    CHECK(refusal_of_kind({nll, 0, -1, 3}) == "there are no class weights, but a digest of them");
    for (const State::Kind& kind :
         {State::Kind{nll}, {logits, 1}, {logits, -0.0}, {nll, 0, 0, 3}}) {
        const State state(kind);
        CHECK(state.kind() == kind);
        CHECK(State::from_bytes(state.to_bytes()).kind() == kind);
    }

    const std::int64_t large[] = {1, (std::int64_t{1} << 53) + 1};
    CHECK(message_of<std::invalid_argument>(
              [&] { State(nll, View<const std::int64_t, 1>{large, {2}}); }) ==
          "weight[1] is 9007199254740993, beyond 2^53: as a double it would be another number");
    const double wide[] = {0x1p501}, one[] = {1};
    CHECK(message_of<std::invalid_argument>([&] {
              State(logits, View<const double, 1>{wide, {1}}, 0.1);
          }).starts_with("weight[0] is 6.5"));
    CHECK(message_of<std::invalid_argument>([&] {
              State(nll, View<const double, 1>{one, {-1}});
          }) == "weight of shape (-1,) has a negative size");
    CHECK(message_of<std::invalid_argument>([&] {
              State(nll, Weight(one, DType::float64, 3, index_t{1} << 61));
          }).starts_with("weight of shape (3,) has more elements, or a longer reach"));
    CHECK(message_of<std::invalid_argument>([&] {
              State(nll, Weight(one, static_cast<DType>(12), 1, 1));
          }).starts_with("weight is of DType(12)"));
}

// A smoothing that is no normal number is told from 0, whatever the caller has set.
void subnormal_smoothing() {
#if defined(__SSE2__)
    const State smoothed(LossFunction::cross_entropy, {}, 0x1p-1070);
    State plain(LossFunction::cross_entropy);
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);  // denormals are zero, and results flushed to zero
    const std::string merged = message_of<std::invalid_argument>([&] { plain.merge(smoothed); });
    const std::string made =
        message_of<std::invalid_argument>([] { State(LossFunction::nll_loss, {}, 0x1p-1070); });
    const std::string added = message_of<std::invalid_argument>([&] {
        add_cross_entropy(plain, data.rows(0, 9), data.labels(0, 9),
                          {.label_smoothing = 0x1p-1070});
    });
    _mm_setcsr(before);
    CHECK(merged.starts_with("the kinds of the states differ: label_smoothing is "));
    CHECK(made.starts_with("label_smoothing is for cross-entropy"));
    CHECK(added.starts_with("the call is not of the state's kind: label_smoothing is "));
#endif
}

void groups_are_integers() {
    std::vector<State> states(2, State(LossFunction::nll_loss));
    const State::Bytes before = states[0].to_bytes();
    const Array input(data.rows(0, 9)), target(data.labels(0, 9));
    Array group(data.groups(0, 9));
    const auto refusal_of_groups = [&] {
        return message_of<std::invalid_argument>([&] {
            detail::collect_as<float>({LossFunction::nll_loss, states, true, &group},
                                      {{&input, &target, nullptr, nullptr, nullptr}, Options{}});
        });
    };
    group.dtype = DType::float16;
    CHECK(refusal_of_groups() == "group is of float16; it must be of an integer of 8 to 64 bits");
    group.dtype = DType::uint16;
    group.rank = 65;
    CHECK(refusal_of_groups() == "group has 65 dimensions, outside [0, 64]");
    CHECK(states[0].to_bytes() == before);
}

// A dtype that no loss has would be a flag of the bytes that means nothing.
void dtypes_of_losses_are_floats() {
    const std::string rule = " is of float16, bfloat16, float32 or float64";
    State state(LossFunction::nll_loss);
    const State::Bytes before = state.to_bytes();
    CHECK(message_of<std::invalid_argument>([&] {
              add_nll_loss(state, data.rows(0, 9), data.labels(0, 9), {.dtype = DType::int64});
          }) == "dtype is int64; a loss" + rule);
    CHECK(state.to_bytes() == before);
    CHECK(message_of<std::invalid_argument>([&] { state.loss({.dtype = DType::uint8}); }) ==
          "dtype is uint8; a loss" + rule);
    CHECK(message_of<std::invalid_argument>([&] {
              state.loss({.reduction = static_cast<Reduction>(9)});
          }) == "reduction is 9, outside [0, 2]");
    CHECK(message_of<std::invalid_argument>([&] { state.perplexity(static_cast<Empty>(3)); }) ==
          "empty is 3, outside [0, 2]");
}

void dtypes_of_losses() {
    const auto dtype_of = [](std::initializer_list<DType> added) {
        State state(LossFunction::nll_loss);
        for (const DType dtype : added)
            add_nll_loss(state, data.rows(0, 1), data.labels(0, 1), {.dtype = dtype});
        return state.dtype();
    };
    constexpr DType half = DType::float16, brain = DType::bfloat16;
    CHECK(dtype_of({}) == DType::float64 && dtype_of({DType::float64, half}) == DType::float64);
    CHECK(dtype_of({half, half}) == half && dtype_of({brain}) == brain);
    CHECK(dtype_of({half, brain}) == DType::float32 && dtype_of({brain, half}) == DType::float32);
    CHECK(dtype_of({brain, DType::float32}) == DType::float32);
}

void has_no_losses_of_samples() {
    CHECK(message_of<std::invalid_argument>(
              [] { State(LossFunction::nll_loss).loss({.reduction = Reduction::none}); }) ==
          "reduction is none, but a state has no losses of samples: it must be 'mean' or 'sum'");
}

void nothing_adds_nothing() {
    for (const Case& of : cases) CHECK(state_of(of, 3, 0).to_bytes() == empty_state(of).to_bytes());
}

void errors_leave_the_state() {
    for (const Case& of : cases) {
        State state = state_of(of, 0, 100);
        const State::Bytes before = state.to_bytes();
        std::vector<std::int32_t> labels(data.target);
        labels[2000] = classes;
        const View<const std::int32_t, 1> target{labels.data(), {samples}};
        CHECK(message_of<std::out_of_range>([&] {
                  if (of.function == LossFunction::nll_loss)
                      add_nll_loss(state, data.rows(0, samples), target, of.options);
                  else add_cross_entropy(state, data.rows(0, samples), target, of.options);
              }) == "target[2000] is 7, outside [0, 7) (ignore_index is -100)");
        CHECK(state.to_bytes() == before);
    }
}

void groups() {
    for (const Case& of : cases) {
        std::vector<State> states(9, empty_state(of)), expected(states);
        for (index_t i = 0; i < samples; ++i)
            add(expected[data.group[static_cast<std::size_t>(i)]], of, i, 1);
        for (const index_t batch : {index_t{1000}, index_t{37}}) {
            std::fill(states.begin(), states.end(), empty_state(of));
            for (index_t first = 0; first < samples; first += batch) {
                const index_t count = std::min(batch, samples - first);
                if (of.function == LossFunction::nll_loss)
                    add_nll_loss(std::span<State>(states), data.rows(first, count),
                                 data.labels(first, count), data.groups(first, count), of.options);
                else
                    add_cross_entropy(std::span<State>(states), data.rows(first, count),
                                      data.labels(first, count), data.groups(first, count),
                                      of.options);
            }
            for (std::size_t g = 0; g < states.size(); ++g)
                CHECK(states[g].to_bytes() == expected[g].to_bytes());
        }
        const std::span<State> few(states.data(), 8);
        const State::Bytes before = states[0].to_bytes();
        const auto first = std::find(data.group.begin(), data.group.end(), 8);
        CHECK(message_of<std::out_of_range>([&] {
                  if (of.function == LossFunction::nll_loss)
                      add_nll_loss(few, data.rows(0, samples), data.labels(0, samples),
                                   data.groups(0, samples), of.options);
                  else
                      add_cross_entropy(few, data.rows(0, samples), data.labels(0, samples),
                                        data.groups(0, samples), of.options);
              }) ==
              "group[" + std::to_string(first - data.group.begin()) + "] is 8, outside [0, 8)");
        CHECK(states[0].to_bytes() == before);
    }
}

// ---------------------------------------------------------------- bytes

std::string refusal(std::span<const std::uint8_t> bytes) {
    return message_of<std::invalid_argument>([&] { State::from_bytes(bytes); });
}

void every_flipped_bit_is_seen() {
    for (const Case& of : {cases[1], cases[4]}) {
        State::Bytes bytes = whole(of).to_bytes();
        for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
            bytes[bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
            CHECK(refusal(bytes) != "nothing was thrown");
            bytes[bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
        }
    }
}

void other_lengths_are_refused() {
    const State::Bytes whole_state = whole(cases[0]).to_bytes();
    std::vector<std::uint8_t> bytes(whole_state.begin(), whole_state.end());
    bytes.resize(2 * bytes.size());
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        const std::string expected = size == whole_state.size()
                                         ? "nothing was thrown"
                                         : "a state has 2784 bytes, not " + std::to_string(size);
        CHECK(refusal({bytes.data(), size}) == expected);
    }
}

// Changes bytes and gives them a checksum that fits.
template <class Change> std::string refusal_of(const State& state, Change&& change) {
    State::Bytes bytes = state.to_bytes();
    change(bytes);
    const auto word = [&](index_t i) { return detail::load_word<std::uint64_t>(&bytes[8 * i]); };
    detail::store_word(&bytes[2776], detail::xxh64(2776 / 8, word));
    const std::string text = refusal(bytes);
    // Whatever is accepted is written as it was read.
    if (text == "nothing was thrown") CHECK(State::from_bytes(bytes).to_bytes() == bytes);
    return text;
}

void hostile_bytes_are_refused() {
    const State plain = whole(cases[0]), with_weights = whole(cases[1]);
    const auto set = [](index_t at, int value) {
        return [at, value](State::Bytes& bytes) {
            bytes[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(value);
        };
    };
    const std::string prefix = "no data gives these bytes: ";
    CHECK(refusal_of(plain, [](State::Bytes&) {}) == "nothing was thrown");
    CHECK(refusal_of(plain, set(1, 'N')) == "these bytes are no state: they do not begin as one");
    CHECK(refusal_of(plain, set(8, 2)) ==
          "the state has version 2, but this build of nll reads version 1");
    CHECK(refusal_of(plain, set(10, 2)) == prefix + "there is no such loss");
    CHECK(refusal_of(plain, set(11, 2)) == prefix + "a flag is set that means nothing");
    CHECK(refusal_of(plain, set(12, 16)) == prefix + "a flag is set that means nothing");
    CHECK(refusal_of(plain, set(13, 2)) == prefix + "a flag is set that means nothing");
    CHECK(refusal_of(plain, set(15, 0x80)) == prefix + "a flag is set that means nothing");
    CHECK(refusal_of(plain, set(22, 1)) == prefix + "label_smoothing is for cross-entropy");
    const State logits = whole(cases[2]);
    CHECK(refusal_of(logits, set(23, 0x40)) == prefix + "label_smoothing is outside [0, 1]");
    CHECK(refusal_of(logits, set(23, 0x80)) == prefix + "label_smoothing is outside [0, 1]");
    CHECK(refusal_of(logits, set(23, 0x3f)) == "nothing was thrown");
    CHECK(refusal_of(plain, set(24, 1)) == prefix + "there are no such class weights");
    CHECK(refusal_of(plain, set(32, 1)) == prefix + "there are no such class weights");
    const std::string flags = prefix +
                              "its samples have no dtype, or no weights, or it has these without a "
                              "sample";
    CHECK(refusal_of(plain, set(12, 0)) == flags);
    CHECK(refusal_of(with_weights, set(13, 0)) == flags);
    CHECK(refusal_of(plain, set(47, 0x41)) == prefix + "no state has so many samples");
    CHECK(refusal_of(plain, set(55, 0xff)) == prefix + "no state has so many samples");
    CHECK(refusal_of(plain, set(40, static_cast<int>(plain.count() % 256) ^ 1)) ==
          prefix + "without weights, their sums are the count, and cross is loss");
    const State none(LossFunction::nll_loss);
    CHECK(refusal_of(none, set(14, 1)) == prefix + "there is a NaN or an infinity of no sample");
    CHECK(refusal_of(none, set(700, 1)) == prefix + "0 samples do not add up to such a weight");
    for (const int at : {12, 13, 48}) CHECK(refusal_of(none, set(at, 1)) == flags);
    CHECK(refusal_of(plain, set(14, 1)) == prefix + "a NaN or an infinity has no square");
    CHECK(refusal_of(plain, set(14, 8)) == prefix + "a NaN or an infinity has no square");
    CHECK(refusal_of(plain, set(15, 1)) == prefix + "a sum of squares is negative");
    const std::string end = std::to_string(plain.count()) + " samples do not add up to such a ";
    CHECK(refusal_of(plain, set(56, 1)) == prefix + end + "loss");      // below 2^-2148
    CHECK(refusal_of(plain, set(599, 1)) == prefix + end + "loss");     // above all doubles
    CHECK(refusal_of(plain, set(599, 0x7f)) == prefix + end + "loss");  // no sign
    CHECK(refusal_of(plain, set(736, 1)) == prefix + end + "weight");   // below 2^-1074
    CHECK(refusal_of(plain, set(1143, 0x7f)) == prefix + end + "weight");
    CHECK(refusal_of(plain, [](State::Bytes& bytes) {
              std::fill(bytes.begin() + 1144, bytes.begin() + 1688, std::uint8_t{0xff});
              bytes[1144] = bytes[1145] = bytes[1146] = 0;
              bytes[1147] = 0xf0;
          }) == prefix + "a sum of squares is negative");
    CHECK(refusal_of(plain, set(1688, 255)) == prefix + end + "cross");
    CHECK(refusal_of(plain, [](State::Bytes& bytes) {
              std::fill(bytes.begin() + 1688, bytes.begin() + 2232, std::uint8_t{0});
          }) == prefix + "without weights, their sums are the count, and cross is loss");
    CHECK(refusal_of(with_weights, [](State::Bytes& bytes) {
              std::fill(bytes.begin() + 2232, bytes.begin() + 2776, std::uint8_t{0});
          }) == prefix + "there are weights, but their squares are 0");
}

// Random bytes in random places, with a checksum that fits: refused, or a state that is what its
// bytes say, and can be merged and read.
void random_bytes() {
    int refused = 0;
    for (int round = 0; round < 20'000; ++round) {
        const State state = whole(cases[round % 2]);
        State::Bytes bytes = state.to_bytes();
        const std::size_t changes = 1 + random_bits() % 3;
        for (std::size_t i = 0; i < changes; ++i) {
            const std::size_t first = random_bits() % (round % 3 ? 56 : 2776);
            const std::size_t count = std::min<std::size_t>(1 + random_bits() % 9, 2776 - first);
            for (std::size_t b = first; b < first + count; ++b)
                bytes[b] = static_cast<std::uint8_t>(round % 5 ? random_bits() : 0xff);
        }
        const std::string text = refusal_of(state, [&](State::Bytes& to) { to = bytes; });
        if (text != "nothing was thrown") {
            ++refused;
            continue;
        }
        const auto word = [&](index_t i) {
            return detail::load_word<std::uint64_t>(&bytes[8 * i]);
        };
        detail::store_word(&bytes[2776], detail::xxh64(2776 / 8, word));
        State sum = State::from_bytes(bytes);
        for (int twice = 0; twice < 2; ++twice) {
            try {
                sum.merge(State(sum));
            } catch (const std::invalid_argument&) {
                break;
            }
            CHECK(State::from_bytes(sum.to_bytes()).to_bytes() == sum.to_bytes());
        }
        sum.loss();
        sum.standard_error();
        sum.perplexity();
    }
    CHECK(refused > 10'000);
}

void too_many_samples() {
    State::Bytes bytes = State(LossFunction::nll_loss).to_bytes();
    bytes[12] = 4;
    bytes[55] = 0x40;  // 2^62 ignored
    const auto word = [&](index_t i) { return detail::load_word<std::uint64_t>(&bytes[8 * i]); };
    detail::store_word(&bytes[2776], detail::xxh64(2776 / 8, word));
    State state = State::from_bytes(bytes);
    CHECK(state.ignored() == index_t{1} << 62);
    CHECK(message_of<std::invalid_argument>([&] { state.merge(State(state)); }) ==
          "the states have more than 2^62 samples together");
    CHECK(state.to_bytes() == bytes);
}

void merging_says_which() {
    std::vector<std::uint8_t> rows;
    for (const Case& of : {cases[0], cases[0], cases[1]}) {
        const State::Bytes bytes = whole(of).to_bytes();
        rows.insert(rows.end(), bytes.begin(), bytes.end());
    }
    const auto message = [&](index_t count) {
        return message_of<std::invalid_argument>([&] { merge(rows.data(), count, State::size); });
    };
    CHECK(message(0) == "there is no state to merge: of what kind would it be?");
    CHECK(message(2) == "nothing was thrown");
    CHECK(message(3) ==
          "states[2]: its kind is not that of states[0]: class weights are of 7 "
          "classes, not none");
    rows[static_cast<std::size_t>(State::size) + 77] ^= 1;
    CHECK(message(3) == "states[1]: the state is damaged: its checksum is that of other bytes");
}

// What is moved from is as one that has just been made, of its kind.
void moved() {
    const State fresh(LossFunction::nll_loss, weighted.weight);
    State filled = fresh;
    add_nll_loss(filled, data.rows(0, 100), data.labels(0, 100), weighted);
    const State::Bytes bytes = filled.to_bytes();
    State taken(std::move(filled));
    CHECK(taken.to_bytes() == bytes && filled.to_bytes() == fresh.to_bytes());
    CHECK(filled.count() == 0 && filled.loss().count == 0);
    filled.merge(taken);
    CHECK(filled.to_bytes() == bytes);
    State assigned(LossFunction::cross_entropy);
    assigned = std::move(filled);
    CHECK(assigned.to_bytes() == bytes && filled.to_bytes() == fresh.to_bytes());
    add_nll_loss(filled, data.rows(0, 100), data.labels(0, 100), weighted);
    CHECK(filled.to_bytes() == bytes);
    State& same = filled;
    filled = std::move(same);
    CHECK(filled.to_bytes() == bytes);
}

// An array with elements and without an address is refused; the other is as it was.
void elements_at_no_address() {
    const std::int32_t label = 1;
    const float row[] = {0, -1};
    float gradient[] = {7, 7};
    const View<const float, 2> input{row, {1, 2}}, nowhere{nullptr, {1, 2}};
    const View<const std::int32_t, 1> target{&label, {1}};
    const View<float, 2> to{gradient, {1, 2}}, to_nowhere{nullptr, {1, 2}};
    CHECK(message_of<std::invalid_argument>([&] {
              cross_entropy_value_and_grad(nowhere, target, to);
          }) == "input of shape (1, 2) has no address");
    CHECK(message_of<std::invalid_argument>([&] {
              cross_entropy_value_and_grad(input, target, to_nowhere);
          }) == "out of shape (1, 2) has no address");
    CHECK(message_of<std::invalid_argument>([&] { softmax(nowhere, to); }) ==
          "input of shape (1, 2) has no address");
    CHECK(gradient[0] == 7 && gradient[1] == 7);
}

// Without an element there need be no address: samples are ignored, and counted.
void no_class_at_no_address() {
    const std::int32_t ignored[] = {-100, -100, -100}, group[] = {0, 1, 1};
    const View<const float, 2> input{nullptr, {3, 0}};
    const View<const std::int32_t, 1> target{ignored, {3}}, groups{group, {3}};
    for (const bool logits : {false, true}) {
        std::vector<State> states(
            2, State(logits ? LossFunction::cross_entropy : LossFunction::nll_loss));
        if (logits) add_cross_entropy(std::span<State>(states), input, target, groups);
        else add_nll_loss(std::span<State>(states), input, target, groups);
        CHECK(states[0].count() == 0 && states[0].ignored() == 1);
        CHECK(states[1].count() == 0 && states[1].ignored() == 2);
        float losses[] = {7, 7, 7};
        const View<float, 1> to{losses, {3}};
        if (logits) cross_entropy(input, target, to);
        else nll_loss(input, target, to);
        CHECK(same_bits(losses[0], 0.0) && same_bits(losses[1], 0.0) && same_bits(losses[2], 0.0));
    }
}

}  // namespace

int main() {
    has_the_bits_of_one_call();
    has_the_same_bytes_in_any_order();
    threads_change_nothing();
    standard_errors();
    perplexities();
    kinds_do_not_mix();
    kinds_that_no_state_has();
    subnormal_smoothing();
    groups_are_integers();
    dtypes_of_losses_are_floats();
    dtypes_of_losses();
    has_no_losses_of_samples();
    nothing_adds_nothing();
    errors_leave_the_state();
    groups();
    every_flipped_bit_is_seen();
    other_lengths_are_refused();
    hostile_bytes_are_refused();
    random_bytes();
    too_many_samples();
    merging_says_which();
    moved();
    no_class_at_no_address();
    elements_at_no_address();
    return failures() != 0;
}
