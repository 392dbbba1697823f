// SPDX-License-Identifier: BSD-3-Clause
// The public functions as a C++ user calls them: types, layouts, and errors with nothing written.
#include <nll/nll.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "check.hpp"

using namespace nll;

namespace {

const std::vector<float> data{-1, -2, -3, -4, -5, -6, -7, -8, -9};
const View<const float, 2> input3{data.data(), {3, 3}};

void values() {
    const std::vector<std::int64_t> labels{0, 1, 2};
    const View<const std::int64_t, 1> target{labels.data(), {3}};
    const std::vector<double> weight{1, 2, 5};
    const Options weighted{.weight = View<const double, 1>{weight.data(), {3}}};
    CHECK(nll_loss(input3, target).value == 5);
    CHECK(nll_loss(input3, target, {.reduction = Reduction::sum}).value == 15);
    const Loss loss = nll_loss(input3, target, weighted);
    CHECK(loss.value == 7 && loss.total_weight == 8 && loss.count == 3);
    CHECK(nll_loss(input3, target, {.ignore_index = 2}).value == 3);
    CHECK(nll_loss(input3, target, {.ignore_index = std::nullopt, .axis = -1}).value == 5);
    CHECK(nll_loss(input3, target, {.axis = 0}).value == (1 + 5 + 9) / 3.0);

    std::vector<double> losses(3);
    CHECK(
        std::isnan(nll_loss(input3, target, View<double, 1>{losses.data(), {3}}, weighted).value));
    CHECK((losses == std::vector<double>{1, 10, 45}));

    std::vector<float> gradient(9, 7);
    const View<float, 2> grad_input{gradient.data(), {3, 3}};
    CHECK(nll_loss_value_and_grad(input3, target, grad_input, weighted).value == 7);
    CHECK((gradient == std::vector<float>{-0.125f, 0, 0, 0, -0.25f, 0, 0, 0, -0.625f}));
    nll_loss_backward(2.0, target, grad_input, {.ignore_index = 1});
    CHECK((gradient == std::vector<float>{-1, 0, 0, 0, 0, 0, 0, 0, -1}));
    const std::vector<float> grad_output{1, 2, 3};
    nll_loss_backward(View<const float, 1>{grad_output.data(), {3}}, target, grad_input, weighted);
    CHECK((gradient == std::vector<float>{-1, 0, 0, 0, -4, 0, 0, 0, -15}));
}

void logits() {
    const std::vector<float> zeros(12, 0);
    const View<const float, 2> input{zeros.data(), {3, 4}};
    const std::uint8_t labels[] = {0, 255, 3};
    const View<const std::uint8_t, 1> target{labels, {3}};
    const Options options{.ignore_index = 255, .reduction = Reduction::sum};
    CHECK(cross_entropy(input, target, options).value == static_cast<float>(2 * std::log(4.0)));
    std::vector<double> losses(3);
    CHECK(std::isnan(
        cross_entropy(input, target, View<double, 1>{losses.data(), {3}}, options).value));
    CHECK(std::fabs(losses[0] - std::log(4.0)) < 1e-15 && losses[1] == 0 && losses[2] == losses[0]);

    std::vector<float> gradient(zeros);
    const View<float, 2> in_place{gradient.data(), {3, 4}};
    const std::vector<float> expected{-0.75f, 0.25f, 0.25f, 0.25f, 0,     0,
                                      0,      0,     0.25f, 0.25f, 0.25f, -0.75f};
    const Loss loss = cross_entropy_value_and_grad(in_place, target, in_place, options);
    CHECK(loss.value == static_cast<float>(2 * std::log(4.0)) && loss.count == 2);
    CHECK(gradient == expected);
    gradient = zeros;
    cross_entropy_backward(1.0, input, target, in_place, options);
    CHECK(gradient == expected);
    const float grad_output[] = {1, 7, 1};
    cross_entropy_backward(View<const float, 1>{grad_output, {3}}, input, target, in_place,
                           options);
    CHECK(gradient == expected);
    log_softmax(input, in_place);
    CHECK(gradient == std::vector<float>(12, static_cast<float>(-std::log(4.0))));
    softmax(input, in_place);
    CHECK(gradient == std::vector<float>(12, 0.25f));
    float log_sums[3];
    logsumexp(input, View<float, 1>{log_sums, {3}});
    CHECK(log_sums[2] == static_cast<float>(std::log(4.0)));
    // Smoothing is of losses, and changes no bit of these.
    std::vector<double> logits(64 * 7), plain(logits), beside(logits);
    for (std::size_t i = 0; i < logits.size(); ++i)
        logits[i] = 130 - 0.37 * static_cast<double>(i * i * 7 % 50);
    const View<const double, 2> of_doubles{logits.data(), {64, 7}};
    for (const auto of : {log_softmax<const double, 2, double>, softmax<const double, 2, double>}) {
        of(of_doubles, {plain.data(), {64, 7}}, {});
        of(of_doubles, {beside.data(), {64, 7}}, {.label_smoothing = 0.1});
        CHECK(plain == beside);
    }
    CHECK(message_of<std::invalid_argument>([&] {
              double wide[3];
              logsumexp(input, View<double, 1>{wide, {3}});
          }) == "out has another type than input, and not a narrower one");

    const auto smoothed = [&](double smoothing) {
        return message_of<std::invalid_argument>(
            [&] { cross_entropy(input, target, {.label_smoothing = smoothing}); });
    };
    CHECK(smoothed(1.5) == "label_smoothing is 1.5, outside [0, 1]");
    CHECK(smoothed(std::numeric_limits<double>::quiet_NaN()) != "nothing was thrown");
    CHECK(message_of<std::invalid_argument>(
              [&] { nll_loss(input, target, {.label_smoothing = 0.1}); }) ==
          "label_smoothing is for cross-entropy: the negative log likelihood reads one class");
    for (const int threads : {-1, 257})
        CHECK(message_of<std::invalid_argument>([&] {
                  cross_entropy(input, target, {.num_threads = threads});
              }) == "num_threads is " + std::to_string(threads) + ", outside [0, 256]");
    const Array of_losses(View<const float, 1>{grad_output, {3}}), of_target(target), to(in_place);
    CHECK(message_of<std::invalid_argument>(
              [&] { nll_loss_backward(&of_losses, 1.0, of_target, to, {.ignore_index = 255}); }) ==
          "grad_output is an array of target's shape for reduction none, and a number "
          "otherwise");
    const std::vector<float> before(gradient);
    CHECK(message_of<std::out_of_range>([&] {
              cross_entropy_value_and_grad(input, target, in_place);
          }) == "target[1] is 255, outside [0, 4) (ignore_index is -100)");
    CHECK(gradient == before);
}

// A sample's own weight is taken times that of its class; 0 strides broadcast it.
void sample_weights() {
    const float of_samples[] = {2, 100, 0.5f}, of_classes[] = {1, 3, 5, 7};
    const std::uint8_t labels[] = {0, 255, 3};
    const View<const std::uint8_t, 1> target{labels, {3}};
    const std::vector<float> zeros(12);
    const View<const float, 2> input{zeros.data(), {3, 4}};
    const Array weights(View<const float, 1>{of_samples, {3}});
    Options options{.weight = View<const float, 1>{of_classes, {4}},
                    .sample_weight = &weights,
                    .ignore_index = 255,
                    .reduction = Reduction::sum};
    CHECK(cross_entropy(input, target, options).total_weight == 2 * 1 + 0.5 * 7);
    std::vector<float> gradient(12);
    nll_loss_backward(1.0, target, View<float, 2>{gradient.data(), {3, 4}}, options);
    CHECK(gradient == (std::vector<float>{-2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -3.5f}));
    const Array broadcast(View<const float, 1>{of_samples, {3}, {0}});
    options.sample_weight = &broadcast;
    CHECK(nll_loss(input, target, options).total_weight == 2 * (1 + 7));
    const std::int64_t large[] = {1, std::int64_t{1} << 60, -(std::int64_t{1} << 54)};
    const Array integers(View<const std::int64_t, 1>{large, {3}}),
        few(View<const float, 1>{of_samples, {2}});
    options.sample_weight = &integers;
    CHECK(message_of<std::invalid_argument>([&] { nll_loss(input, target, options); }) ==
          "sample_weight[2] is -18014398509481984, beyond 2^53: as a double it would be another "
          "number");
    options.sample_weight = &few;
    CHECK(message_of<std::invalid_argument>([&] { nll_loss(input, target, options); }) ==
          "sample_weight has shape (2,), but target has (3,)");
}

template <class Label> void label_types() {
    const Label labels[] = {1, 2, 3};
    const View<const Label, 1> target{labels, {3}};
    CHECK(nll_loss(input3, target, {.index_base = 1}).value == 5);
    CHECK(message_of<std::out_of_range>([&] { nll_loss(input3, target); }) ==
          "target[2] is 3, outside [0, 3) (ignore_index is -100)");
}

// Where samples have their own, the one for all of them is not used: nothing depends on it, not
// even what precision exponentials have.
void grad_output_beside_grad_outputs() {
    constexpr index_t samples = 500, classes = 40;
    std::vector<float> logits(samples * classes), of_losses(samples, 1.0f);
    std::vector<std::int64_t> labels(samples);
    for (std::size_t i = 0; i < logits.size(); ++i)
        logits[i] = static_cast<float>(std::sin(static_cast<double>(i)));
    const Array input(View<const float, 2>{logits.data(), {samples, classes}});
    const Array target(View<const std::int64_t, 1>{labels.data(), {samples}});
    const Array grad_outputs(View<const float, 1>{of_losses.data(), {samples}});
    const auto gradient_beside = [&](double grad_output) {
        std::vector<float> gradient(logits.size());
        const Array to(View<float, 2>{gradient.data(), {samples, classes}});
        const Options none{.reduction = Reduction::none};
        cross_entropy_backward(&grad_outputs, grad_output, input, target, to, none);
        return gradient;
    };
    const std::vector<float> expected = gradient_beside(1);
    for (const double unused : {0x1p758, 0.0, std::nan("")})
        CHECK(gradient_beside(unused) == expected);
}

// Ends of the ranges that arguments have: the last that is taken, and the first that is not.
void limits_of_arguments() {
    const float row[] = {-1, -2, -3};
    const View<const float, 1> sample{row, {3}};
    const std::int64_t one = 1, last = std::numeric_limits<std::int64_t>::max();
    const auto loss_of = [&](const std::int64_t& label, const Options& options) {
        return nll_loss(sample, View<const std::int64_t, 0>{&label, {}}, options).value;
    };
    CHECK(loss_of(one, {}) == 2 && loss_of(one, {.axis = 0}) == 2 &&
          loss_of(one, {.axis = -1}) == 2);
    CHECK(loss_of(last, {.index_base = last - 2}) == 3);
    CHECK(message_of<std::out_of_range>([&] { loss_of(one, {.index_base = -5}); }) ==
          "target is 1, outside [-5, -2) (ignore_index is -100)");
    // Less a negative base it would wrap to class 2.
    const std::uint64_t beyond = std::uint64_t{0} - 3;
    CHECK(message_of<std::out_of_range>([&] {
              nll_loss(sample, View<const std::uint64_t, 0>{&beyond, {}}, {.index_base = -5});
          }) == "target is 18446744073709551613, outside [-5, -2) (ignore_index is -100)");
    const std::uint8_t label = 1, unlike = 156;  // -100 in 8 bits
    float loss = 7, zero = 0;
    nll_loss(View<const float, 2>{row, {1, 3}}, View<const std::uint8_t, 1>{&label, {1}},
             View<float, 1>{&loss, {1}, {0}}, {});  // whose stride is not used
    CHECK(loss == 2);
    nll_loss(View<const float, 2>{&zero, {1, 1}}, View<const std::uint8_t, 1>{&label, {1}},
             View<float, 1>{&loss, {1}}, {.index_base = 1});
    CHECK(same_bits(loss, 0.0));
    CHECK(message_of<std::out_of_range>([&] {
              nll_loss(sample, View<const std::uint8_t, 0>{&unlike, {}});
          }) == "target is 156, outside [0, 3) (ignore_index is -100)");
    const double large[] = {1, 0x1p501, 1};
    CHECK(message_of<std::invalid_argument>([&] {
              cross_entropy(sample, View<const std::int64_t, 0>{&one, {}},
                            {.weight = View<const double, 1>{large, {3}}, .label_smoothing = 0.1});
          }).starts_with("weight[1] is 6.5"));
}

// What a total weight of nothing, and one that is infinite, make of a mean and its gradient.
void empty_means() {
    const std::uint8_t labels[] = {0, 1};
    const View<const std::uint8_t, 1> target{labels, {2}};
    const View<const float, 2> input{data.data(), {2, 3}};
    std::vector<float> gradient(6, 7);
    const View<float, 2> to{gradient.data(), {2, 3}};
    const double opposite[] = {1, -1, 0}, infinite[] = {HUGE_VAL, 0, 0};
    Options options{.weight = View<const double, 1>{opposite, {3}}, .empty = Empty::zero};
    const Loss loss = nll_loss_value_and_grad(input, target, to, options);
    CHECK(same_bits(loss.value, 0.0) && loss.total_weight == 0 && loss.count == 2);
    for (const float entry : gradient) CHECK(same_bits(entry, 0.0));
    options.empty = Empty::nan;
    CHECK(nll_loss_value_and_grad(input, target, to, options).value == -HUGE_VAL);
    CHECK(gradient[0] == -HUGE_VAL && gradient[4] == HUGE_VAL && same_bits(gradient[1], 0.0));
    options.weight = View<const double, 1>{infinite, {3}};
    for (const Empty empty : {Empty::nan, Empty::zero, Empty::raise}) {
        options.empty = empty;
        CHECK(std::isnan(nll_loss(input, target, options).value));
        CHECK(nll_loss(input, target, {.empty = empty}).value == 3);
    }
    // Ignored samples have no weight, in a table and out of it.
    const std::vector<double> many(600, 2);
    const std::vector<float> row(2 * 600, -1);
    for (const index_t classes : {3, 600})
        CHECK(nll_loss(View<const float, 2>{row.data(), {2, classes}}, target,
                       {.weight = View<const double, 1>{many.data(), {classes}}, .ignore_index = 1})
                  .total_weight == 2);
}

// Logits of ln 2 and 0 have probabilities 2/3 and 1/3; smoothing takes 0.3 of the loss to both.
void smoothing() {
    const double logits[] = {std::log(2.0), 0}, of_classes[] = {3, 5}, own[] = {0.5};
    const std::uint8_t label = 1;
    const View<const double, 2> input{logits, {1, 2}};
    const View<const std::uint8_t, 1> target{&label, {1}};
    const Array of_samples(View<const double, 1>{own, {1}});
    Options options{.reduction = Reduction::sum, .label_smoothing = 0.3};
    double gradient[2];
    const View<double, 2> to{gradient, {1, 2}};
    const auto near = [](double value, double expected) {
        return std::fabs(value - expected) <= 1e-15 * std::fabs(expected);
    };
    const double of_zero = std::log(1.5), of_one = std::log(3.0);
    double loss = cross_entropy_value_and_grad(input, target, to, options).value;
    CHECK(near(loss, 0.85 * of_one + 0.15 * of_zero));
    CHECK(near(gradient[0], 2 / 3. - 0.15) && near(gradient[1], 1 / 3. - 0.85));
    options.weight = View<const double, 1>{of_classes, {2}};
    options.sample_weight = &of_samples;
    loss = cross_entropy_value_and_grad(input, target, to, options).value;
    CHECK(near(loss, 0.5 * (0.85 * 5 * of_one + 0.15 * 3 * of_zero)));
    const double all = 0.5 * (0.85 * 5 + 0.15 * 3);
    CHECK(near(gradient[0], all * 2 / 3 - 0.5 * 0.15 * 3));
    CHECK(near(gradient[1], all / 3 - 0.5 * 0.85 * 5));
}

void strided_windows() {
    std::vector<float> big(2 * 4 * 6 * 8);
    for (std::size_t i = 0; i < big.size(); ++i) big[i] = -static_cast<float>(i);
    std::vector<std::uint8_t> labels(2 * 3 * 5, 2);
    const View<const float, 4> window{big.data() + 9, {2, 4, 3, 5}, {192, 48, 16, 1}};
    const View<const std::uint8_t, 3> target{labels.data(), {2, 3, 5}};
    double expected = 0;
    for (int n = 0; n < 2; ++n)
        for (int h = 0; h < 3; ++h)
            for (int w = 0; w < 5; ++w) expected += 9 + 192 * n + 48 * 2 + 16 * h + w;
    CHECK(nll_loss(window, target, {.reduction = Reduction::sum}).value == expected);
}

void errors_leave_everything() {
    std::int32_t labels[] = {0, -1, 2};
    const View<std::int32_t, 1> target{labels, {3}};
    std::vector<float> gradient(9, 7), losses(3, 7);
    const std::vector<float> before(gradient);
    const View<float, 2> grad_input{gradient.data(), {3, 3}};
    CHECK(message_of<std::out_of_range>([&] {
              nll_loss_value_and_grad(input3, target, grad_input);
          }) == "target[1] is -1, outside [0, 3) (ignore_index is -100)");
    CHECK(message_of<std::out_of_range>([&] {
              nll_loss_backward(1.0, target, grad_input);
          }).starts_with("target[1] is -1"));
    CHECK(message_of<std::out_of_range>([&] {
              nll_loss(input3, target, View<float, 1>{losses.data(), {3}});
          }).starts_with("target[1]"));
    CHECK(gradient == before && losses == std::vector<float>(3, 7));

    // Nothing of the blocks before the one that has the bad label.
    const std::vector<float> many_rows(2000 * 3, -1);
    std::vector<std::uint8_t> many_labels(2000, 1);
    many_labels.back() = 3;
    std::vector<float> many(2000 * 3, 7);
    const View<const float, 2> rows{many_rows.data(), {2000, 3}};
    const View<const std::uint8_t, 1> of_rows{many_labels.data(), {2000}};
    const Options sum{.reduction = Reduction::sum, .num_threads = 1};
    for (const auto run : {nll_loss<const float, 2, const std::uint8_t, float>,
                           cross_entropy<const float, 2, const std::uint8_t, float>})
        CHECK(message_of<std::out_of_range>([&] {
                  run(rows, of_rows, View<float, 1>{many.data(), {2000}}, {.num_threads = 1});
              }).starts_with("target[1999] is 3"));
    CHECK(message_of<std::out_of_range>([&] {
              nll_loss_backward(1.0, of_rows, View<float, 2>{many.data(), {2000, 3}}, sum);
          }).starts_with("target[1999] is 3"));
    CHECK(many == std::vector<float>(2000 * 3, 7));

    labels[1] = 1;
    const auto invalid = [&](const Options& options) {
        return message_of<std::invalid_argument>([&] { nll_loss(input3, target, options); });
    };
    CHECK(invalid({.axis = 2}) == "axis 2 is out of bounds for input with 2 dimensions");
    CHECK(invalid({.index_base = std::numeric_limits<index_t>::max() - 1}) ==
          "index_base 9223372036854775806 and 3 classes go beyond 2^63");
    const float two[] = {1, 1};
    CHECK(invalid({.weight = View<const float, 1>{two, {2}}}) ==
          "weight has shape (2,), but there are 3 classes");
    const std::int64_t large[] = {1, -(std::int64_t{1} << 53) - 1, 1};
    CHECK(invalid({.weight = View<const std::int64_t, 1>{large, {3}}}) ==
          "weight[1] is -9007199254740993, beyond 2^53: as a double it would be another number");
    CHECK(invalid({.reduction = Reduction::none}) != "nothing was thrown");
    CHECK(message_of<std::invalid_argument>(
              [&] { nll_loss(input3, View<std::int32_t, 1>{labels, {2}}); }) ==
          "target has shape (2,), but input of shape (3, 3) with its classes on axis 1 needs (3,)");
    CHECK(message_of<std::invalid_argument>([&] {
              nll_loss_value_and_grad(input3, target,
                                      View<float, 2>{gradient.data(), {3, 3}, {0, 1}});
          }) == "out has stride 0 on axis 0: elements that share memory cannot be written");
    constexpr index_t huge = index_t{1} << 40;
    CHECK(message_of<std::invalid_argument>([&] {
              nll_loss(View<const float, 3>{data.data(), {huge, 1, huge}, {0, 0, 0}},
                       View<std::int32_t, 2>{labels, {huge, huge}, {0, 0}});
          }) ==
          "input of shape (1099511627776, 1, 1099511627776) has more elements, or a longer reach, "
          "than 64 bits can count");
    const std::int32_t none[] = {-100, -100, -100};
    CHECK(message_of<std::invalid_argument>([&] {
              nll_loss(input3, View<const std::int32_t, 1>{none, {3}}, {.empty = Empty::raise});
          }) ==
          "the total weight of the 0 samples that are not ignored is 0: they have no mean (empty "
          "is 'raise')");
    CHECK(std::isnan(nll_loss(input3, View<const std::int32_t, 1>{none, {3}}).value));
    CHECK(same_bits(
        nll_loss(input3, View<const std::int32_t, 1>{none, {3}}, {.empty = Empty::zero}).value,
        0.0));
}

// ---------------------------------------------------------------- refusals of run-time arrays

// Holds elements, and their array of 3 along each axis.
template <class T, int Rank = 1> struct Typed {
    std::vector<T> elements = std::vector<T>(9);
    Array array{View<T, Rank>{elements.data(), threes()}};

    static std::array<index_t, Rank> threes() {
        std::array<index_t, Rank> extents;
        extents.fill(3);
        return extents;
    }
};

template <class Call> std::string refusal(Call&& call) {
    return message_of<std::invalid_argument>(call);
}

constexpr auto floats = "; it must be of float16, bfloat16, float32 or float64";
constexpr auto integers = "; it must be of an integer of 8 to 64 bits";

void elements_of_other_types() {
    const Array input(input3);
    Typed<std::int64_t> target, int_losses;
    Typed<float> float_target, losses;
    Typed<double, 2> gradient;
    Typed<std::int32_t, 2> int_input;
    const Options sum{.reduction = Reduction::sum}, none{.reduction = Reduction::none};
    for (const auto call :
         {static_cast<Loss (*)(const Array&, const Array&, const Array*, const Options&)>(
              &nll_loss),
          static_cast<Loss (*)(const Array&, const Array&, const Array*, const Options&)>(
              &cross_entropy)}) {
        CHECK(refusal([&] { call(int_input.array, target.array, nullptr, sum); }) ==
              std::string("input is of int32") + floats);
        CHECK(refusal([&] { call(input, float_target.array, nullptr, sum); }) ==
              std::string("target is of float32") + integers);
        CHECK(refusal([&] { call(input, target.array, &int_losses.array, none); }) ==
              std::string("out is of int64") + floats);
    }
    const std::string like_input = "out is of float64; it must be of float32, as input is";
    CHECK(refusal([&] { nll_loss_value_and_grad(input, target.array, 1, gradient.array, sum); }) ==
          like_input);
    CHECK(refusal([&] {
              cross_entropy_value_and_grad(input, target.array, 1, gradient.array, sum);
          }) == like_input);
    CHECK(refusal([&] {
              cross_entropy_backward(nullptr, 1, input, target.array, gradient.array, sum);
          }) == like_input);
#if defined(NLL_COMPILED)  // the headers would compile the softmax of every type
    CHECK(refusal([&] { softmax(input, gradient.array, {}); }) == like_input);
    CHECK(refusal([&] { log_softmax(input, gradient.array, {}); }) == like_input);
    CHECK(refusal([&] { softmax(int_input.array, int_input.array, {}); }) ==
          std::string("input is of int32") + floats);
    CHECK(refusal([&] {
              logsumexp(Array(View<double, 2>{gradient.elements.data(), {3, 3}}), int_losses.array,
                        {});
          }) == std::string("out is of int64") + floats);
#endif
    CHECK(refusal([&] { nll_loss_backward(nullptr, 1, target.array, int_input.array, sum); }) ==
          std::string("out is of int32") + floats);
    CHECK(refusal([&] {
              nll_loss_backward(&int_losses.array, 1, target.array, gradient.array, none);
          }) == std::string("grad_output is of int64") + floats);
    Array unknown = losses.array;
    unknown.dtype = static_cast<DType>(12);
    const std::string anything =
        " is of DType(12); it must be of float16, bfloat16, float32 or float64, or an integer of 8 "
        "to 64 bits";
    CHECK(refusal([&] { nll_loss(input, target.array, nullptr, {.sample_weight = &unknown}); }) ==
          "sample_weight" + anything);
    CHECK(refusal([&] {
              nll_loss(input, target.array, nullptr,
                       {.weight = Weight(losses.elements.data(), unknown.dtype, 3, 1)});
          }) == "weight" + anything);
    CHECK(gradient.elements == std::vector<double>(9) &&
          int_losses.elements == std::vector<std::int64_t>(9) &&
          int_input.elements == std::vector<std::int32_t>(9));
}

void choices_that_are_none() {
    Typed<std::int64_t> target;
    const View<const std::int64_t, 1> labels{target.elements.data(), {3}};
    const auto invalid = [&](const Options& options) {
        return refusal([&] { nll_loss(input3, labels, options); });
    };
    CHECK(invalid({.dtype = DType::int64}) ==
          "dtype is int64; a loss is of float16, bfloat16, float32 or float64");
    CHECK(invalid({.reduction = static_cast<Reduction>(9)}) == "reduction is 9, outside [0, 2]");
    CHECK(invalid({.empty = static_cast<Empty>(3)}) == "empty is 3, outside [0, 2]");
    for (const int threads : {-5, 300}) {
        const std::string expected =
            "num_threads is " + std::to_string(threads) + ", outside [0, 256]";
        CHECK(refusal([&] { get_num_threads(threads); }) == expected);
        CHECK(invalid({.num_threads = threads}) == expected);
    }
    CHECK(get_num_threads(256) == 256 || get_num_threads(256) == 1);
}

void ranks_beyond_all_arrays() {
    Typed<std::int64_t> target;
    Typed<float, 2> gradient;
    Array many(input3);
    for (const int rank : {-1, 65}) {
        many.rank = rank;
        const std::string rule = " has " + std::to_string(rank) + " dimensions, outside [0, 64]";
        CHECK(refusal([&] { nll_loss(many, target.array, nullptr, {}); }) == "input" + rule);
        CHECK(refusal([&] { nll_loss(Array(input3), many, nullptr, {}); }) == "target" + rule);
        CHECK(refusal([&] { nll_loss_backward(nullptr, 1, target.array, many, {}); }) ==
              "out" + rule);
#if defined(NLL_COMPILED)
        CHECK(refusal([&] { softmax(many, many, {}); }) == "input" + rule);
#endif
    }
}

// The order of axes and signs do not matter; where there is a place for each element, it may be
// any.
void outputs_that_overlap_themselves() {
    std::vector<float> memory(64);
    const std::vector<float> zeros(64);
    const auto written = [&](std::array<index_t, 3> shape, std::array<index_t, 3> strides) {
        return refusal([&] {
            softmax(View<const float, 3>{zeros.data(), shape, {0, 0, 0}},
                    View<float, 3>{memory.data() + 32, shape, strides});
        });
    };
    const std::string rule = ": elements that share memory cannot be written";
    CHECK(refusal([&] { softmax(input3, View<float, 2>{memory.data(), {3, 3}, {1, 1}}); }) ==
          "out has strides 1 and 1 on axes 0 and 1" + rule);
    CHECK(written({3, 1, 3}, {-1, 5, 1}) == "out has strides -1 and 1 on axes 0 and 2" + rule);
    CHECK(written({4, 2, 1}, {2, 6, 0}) == "out has strides 2 and 6 on axes 0 and 1" + rule);
    CHECK(written({3, 2, 1}, {2, 6, 0}) == "nothing was thrown");
    CHECK(written({2, 3, 1}, {3, 2, 0}) == "nothing was thrown");  // 0 2 4 3 5 7
    CHECK(written({3, 3, 1}, {3, 2, 0}) == "nothing was thrown");  // 0 2 4 3 5 7 6 8 10
    CHECK(written({3, 4, 1}, {3, 2, 0}) == "out has strides 3 and 2 on axes 0 and 1" + rule);
    CHECK(written({2, 2, 2}, {1, 2, 3}) == "out has 8 elements in 7 places" + rule);
    CHECK(written({2, 2, 2}, {1, 2, 4}) == "nothing was thrown");
    CHECK(written({2, 2, 2}, {4, -1, 2}) == "nothing was thrown");
    CHECK(written({0, 3, 3}, {1, 1, 1}) == "nothing was thrown");
}

void weights_that_are_none() {
    Typed<std::int64_t> target;
    const View<const std::int64_t, 1> labels{target.elements.data(), {3}};
    const double numbers[] = {1, 1, 1};
    const auto invalid = [&](const Weight& weight) {
        return refusal([&] { nll_loss(input3, labels, {.weight = weight}); });
    };
    CHECK(invalid(View<const double, 1>{numbers, {-1}}) ==
          "weight has shape (-1,), but there are 3 classes");
    CHECK(invalid(View<const double, 1>{nullptr, {-1}}) ==
          "weight has shape (-1,), but there are 3 classes");
    CHECK(invalid(Weight(numbers, DType::float64, 3, index_t{1} << 61)) ==
          "weight of shape (3,) has more elements, or a longer reach, than 64 bits can count");
    CHECK(invalid(Weight()) == "nothing was thrown");
}

// Losses have a type of their own: it says what they are rounded to, and how exact they are.
void losses_are_of_their_own_type() {
    const std::vector<float> logits{0.1f, 2, -3, 20, 0, 0, 1, 1, 1};
    const View<const float, 2> input{logits.data(), {3, 3}};
    Typed<std::int64_t> target;
    const View<const std::int64_t, 1> labels{target.elements.data(), {3}};
    std::vector<double> expected(3), losses(3);
    cross_entropy(input, labels, View<double, 1>{expected.data(), {3}});
    cross_entropy(input, labels, View<double, 1>{losses.data(), {3}}, {.dtype = DType::float32});
    CHECK(losses == expected);
    CHECK(std::fabs(losses[1] - std::log1p(2 * std::exp(-20.0))) < 1e-23);
}

constexpr View<const float, 2> beyond_64_bits{nullptr, {index_t{1} << 40, index_t{1} << 40}};
static_assert(beyond_64_bits.strides[0] == index_t{1} << 40);
constexpr View<const float, 3> beyond_them{nullptr, {1, index_t{1} << 40, index_t{1} << 40}};
static_assert(beyond_them.strides[0] == 0);

void shapes_beyond_64_bits() {
    Typed<std::int64_t> target;
    CHECK(refusal([&] {
              nll_loss(beyond_64_bits, View<const std::int64_t, 1>{target.elements.data(), {3}});
          }).starts_with("input of shape (1099511627776, 1099511627776) has more elements"));
}

}  // namespace

int main() {
    elements_of_other_types();
    choices_that_are_none();
    ranks_beyond_all_arrays();
    outputs_that_overlap_themselves();
    weights_that_are_none();
    losses_are_of_their_own_type();
    shapes_beyond_64_bits();
    values();
    logits();
    label_types<std::int8_t>();
    label_types<std::uint8_t>();
    label_types<std::int16_t>();
    label_types<std::uint16_t>();
    label_types<std::int32_t>();
    label_types<std::uint32_t>();
    label_types<std::int64_t>();
    label_types<std::uint64_t>();
    label_types<long long>();
    sample_weights();
    grad_output_beside_grad_outputs();
    limits_of_arguments();
    empty_means();
    smoothing();
    strided_windows();
    errors_leave_everything();
    return failures() != 0;
}
