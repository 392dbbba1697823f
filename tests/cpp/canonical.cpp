// SPDX-License-Identifier: BSD-3-Clause
// Losses, gradients and log_softmax have the bits of reference.hpp: for class counts about every
// boundary of the kernels, all kinds of logits, in every layout, and for rows that threads share.
#include <nll/nll.hpp>

#include <array>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "check.hpp"
#include "elements.hpp"
#include "reference.hpp"

using elements::rounded;
using elements::rounded_entry;
using elements::widened;
using nll::index_t;
using nll::Options;
using nll::View;
using reference::Bfloat16;
using reference::Double;
using reference::infinity;
using reference::Single;
using reference::Softmax;

namespace {

template <class T> struct Values : std::vector<T> {
    using std::vector<T>::vector;
    T& operator[](index_t i) { return this->data()[i]; }
    const T& operator[](index_t i) const { return this->data()[i]; }
};

// ---------------------------------------------------------------- element types

template <class Scalar> constexpr const char* name_of = "float64";
template <> constexpr const char* name_of<float> = "float32";
template <> constexpr const char* name_of<nll::float16> = "float16";
template <> constexpr const char* name_of<nll::bfloat16> = "bfloat16";

// ---------------------------------------------------------------- problems

constexpr std::string_view kinds[] = {"usual",    "confident", "masked", "400 off",  "10000 off",
                                      "wide",     "limits",    "ties",   "last low", "last high",
                                      "all -inf", "one +inf",  "one NaN"};

std::mt19937_64 random_bits(6);
double uniform() { return 0x1p-53 * static_cast<double>(random_bits() >> 11); }
double normal() { return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283 * uniform()); }
index_t below(index_t end) { return static_cast<index_t>(uniform() * static_cast<double>(end)); }

void fill(std::string_view kind, double* x, index_t classes, index_t target, index_t sample) {
    const index_t other = below(classes), one = sample % 2 ? other : target;
    const double sign = sample % 2 ? -1 : 1;
    for (index_t c = 0; c < classes; ++c) {
        x[c] = 3 * normal();
        if (kind == "400 off") x[c] += 400 * sign;
        if (kind == "10000 off") x[c] += 10000 * sign;
        if (kind == "wide") x[c] = -1000 * uniform();
        if (kind == "ties") x[c] = std::floor(x[c]);
        if (kind == "all -inf" || (kind == "masked" && uniform() < 0.3)) x[c] = -infinity;
    }
    if (kind == "confident") x[one] += 10 + 60 * uniform();
    if (kind == "masked" && sample % 4 == 3) x[target] = -infinity;
    // Beyond some limit after a sample that is not: a kernel that has met one is on its guard.
    constexpr double low[] = {-160, -501, -1e5, -3e38, -2000}, high[] = {25, 501, 3000, 1e5, 700};
    const index_t any = (sample / 3 + classes) % 5;
    if (kind == "last low" && sample % 3 == 1) x[classes - 1] = low[any];
    if (kind == "last high" && sample % 3 == 1) x[classes - 1] = high[any];
    if (kind == "one +inf") x[one] = infinity;
    if (kind == "one NaN") x[one] = reference::nan;
    if (kind == "limits") {  // of the largest logit that needs no shift, and of those that count
        const double limit = sign * (sample % 4 < 2 ? 350 : sample % 4 == 2 ? 128 : 150);
        for (index_t c = 0; c < classes; ++c) x[c] = limit - std::fabs(x[c]);
        x[other] = limit + 0.5 * static_cast<double>(sample % 3 - 1);
        constexpr double depths[] = {900, 920, 1060, 149, 740};
        x[(other + 1) % classes] = x[other] - depths[sample / 2 % 5];
    }
}

constexpr std::int32_t ignored = -100;

struct Problem {
    std::string_view kind;  // of the logits of all samples, or "mixed"
    index_t samples, classes;
    Values<double> x;  // (samples, classes)
    Values<std::int32_t> target;
    Values<double> weight, grad_output;

    // The last two samples have a loss of 64, one at the last class and one at the first.
    Problem(std::string_view kind, index_t samples, index_t classes)
        : kind(kind), samples(samples), classes(classes) {
        for (index_t s = 0; s < samples; ++s) {
            const bool is_last = s == samples - 1, is_next = s == samples - 2;
            Values<double> row(static_cast<std::size_t>(classes), -400);
            index_t t = below(classes);
            if (s % 3 == 1) t = classes - 1;
            if (s % 3 == 2) t = 0;
            if (is_next) t = classes - 1;
            if (is_last) t = 0;
            if (is_last || is_next) {
                row.front() = row.back() = 0;
                row[t] = -64;
            } else {
                fill(kind == "mixed" ? kinds[s % 13] : kind, row.data(), classes, t, s);
                if (s % 5 == 4) t = ignored;
            }
            x.insert(x.end(), row.begin(), row.end());
            target.push_back(static_cast<std::int32_t>(t));
            grad_output.push_back(0.3 * static_cast<double>(s + 1));
        }
        for (index_t c = 0; c < classes; ++c)
            weight.push_back(0.25 * static_cast<double>(1 + c % 5));
    }
    template <class Scalar> Problem rounded_to() const {
        Problem problem = *this;
        for (double& value : problem.x) value = widened(rounded<Scalar>(value));
        return problem;
    }
    const double* row(index_t s) const { return x.data() + s * classes; }
    bool keeps(index_t s) const { return target[s] != ignored; }
};

// The results of a problem in this precision, where those of all classes are (samples, classes).
template <class Precision, class Scalar> struct Expected {
    // Of the mean. The gradient of bfloat16 is of this precision only if it is scaled so; in double
    // a large one shows what is far below a sample's largest logit.
    static constexpr bool wider =
        std::same_as<Precision, Single> && std::same_as<Scalar, nll::bfloat16>;
    static constexpr bool in_double = std::same_as<Precision, Double>;
    static constexpr double grad_output = wider ? 0x1.8p40 : in_double ? 0x1.8p700 : 1.5;
    Values<double> loss, weighted_loss;
    Values<Scalar> gradient, mean_gradient, log_softmax;

    explicit Expected(const Problem& problem) {
        double divisor = 0;
        for (index_t s = 0; s < problem.samples; ++s)
            if (problem.keeps(s)) divisor += problem.weight[problem.target[s]];
        for (index_t s = 0; s < problem.samples; ++s) {
            const index_t classes = problem.classes;
            const double* x = problem.row(s);
            index_t largest = 0;
            for (index_t c = 0; c < classes; ++c)
                if (x[c] > x[largest] || x[largest] != x[largest]) largest = c;
            const Softmax<Precision> softmax(x, classes, largest);
            for (index_t c = 0; c < classes; ++c)
                log_softmax.push_back(rounded_entry<Scalar>(softmax.log_softmax(c)));
            if (problem.keeps(s)) {
                const index_t t = problem.target[s];
                const double weight = problem.weight[t], own = problem.grad_output[s];
                const Softmax<Precision> of_target(x, classes, t);
                loss.push_back(of_target.loss());
                weighted_loss.push_back(of_target.loss() * weight);
                for (index_t c = 0; c < classes; ++c) {
                    gradient.push_back(rounded_entry<Scalar>(of_target.gradient(c, 1, own, 1)));
                    mean_gradient.push_back(
                        rounded_entry<Scalar>(of_target.gradient(c, weight, grad_output, divisor)));
                }
            } else {
                const auto all = static_cast<std::size_t>((s + 1) * classes);
                loss.push_back(0);
                weighted_loss.push_back(0);
                gradient.resize(all, Scalar{});
                mean_gradient.resize(all, Scalar{});
            }
        }
    }
};

// ---------------------------------------------------------------- calls

// An array of (N, C, D), whose samples are (N, D).
struct Layout {
    const char* name;
    std::array<index_t, 3> shape, strides;
    index_t size;
    index_t place(index_t sample, index_t c) const {
        const index_t D = shape[2];
        return sample / D * strides[0] + c * strides[1] + sample % D * strides[2];
    }
};

std::array<Layout, 4> layouts_of(index_t samples, index_t C) {
    const index_t D = samples / 2, pitch = 2 * C + 3;
    return {{{"rows", {samples, C, 1}, {C, 1, 1}, samples * C},
             {"channels-last", {2, C, D}, {D * C, 1, C}, samples * C},
             {"planes", {2, C, D}, {C * D, D, 1}, samples * C},
             {"every second class", {samples, C, 1}, {pitch, 2, 1}, samples * pitch}}};
}

// Compares all functions for logits in this layout, with losses of this type.
template <class Precision, class Loss, class Scalar>
void compare(const Problem& problem, const Expected<Precision, Scalar>& expected,
             const Layout& layout, int threads) {
    const auto is = [&]<class T>(const char* function, index_t s, index_t c, T found, T wanted) {
        const double value = widened(found), other = widened(wanted);
        if (std::memcmp(&found, &wanted, sizeof(T)) == 0) return;
        if (value != value && other != other) return;
        if (++failures() > 40) return;
        std::printf("%s, %s, losses in %s, %d classes, %s, %s, %d threads: ", function,
                    name_of<Scalar>, name_of<Loss>, static_cast<int>(problem.classes),
                    problem.kind.data(), layout.name, threads);
        std::printf("sample %d, class %d: %a, not %a\n", static_cast<int>(s), static_cast<int>(c),
                    value, other);
    };
    const auto all_are = [&](const char* function, const Values<Scalar>& found,
                             const Values<Scalar>& wanted) {
        for (index_t s = 0; s < problem.samples; ++s)
            for (index_t c = 0; c < problem.classes; ++c)
                is(function, s, c, found[layout.place(s, c)], wanted[s * problem.classes + c]);
    };

    Values<Scalar> input(static_cast<std::size_t>(layout.size)), out(input);
    for (index_t s = 0; s < problem.samples; ++s)
        for (index_t c = 0; c < problem.classes; ++c)
            input[layout.place(s, c)] = rounded<Scalar>(problem.row(s)[c]);
    const View<Scalar, 3> x{input.data(), layout.shape, layout.strides};
    const View<Scalar, 3> to{out.data(), layout.shape, layout.strides};
    const std::array<index_t, 2> shape{layout.shape[0], layout.shape[2]};
    const View<const std::int32_t, 2> target{problem.target.data(), shape};
    const Options plain{.num_threads = threads};
    Options weighted = plain;
    weighted.weight = View<const double, 1>{problem.weight.data(), {problem.classes}};

    Values<Loss> losses(problem.target.size());
    nll::cross_entropy(x, target, View<Loss, 2>{losses.data(), shape}, weighted);
    for (index_t s = 0; s < problem.samples; ++s)
        is("cross_entropy", s, -1, losses[s], rounded<Loss>(expected.weighted_loss[s]));

    weighted.dtype = nll::dtype_of<Loss>;
    const double mean =
        nll::cross_entropy_value_and_grad(x, target, to, weighted, expected.grad_output).value;
    is("mean", -1, -1, mean, nll::cross_entropy(x, target, weighted).value);
    if (!std::same_as<Loss, double> || std::same_as<Scalar, double>)  // it has its own precision
        all_are("cross_entropy_value_and_grad", out, expected.mean_gradient);

    // A loss before it is rounded, as a sum without error shows it: but for its last bits, a
    // multiple of another loss takes it off.
    weighted.reduction = nll::Reduction::sum;
    for (index_t s = 0; s < problem.samples - 2; ++s) {
        const double loss = expected.loss[s];
        if (problem.classes == 1 || !problem.keeps(s) || loss == 0 || !(loss < infinity)) continue;
        if (std::same_as<Loss, nll::float16>) continue;  // it has no numbers so small
        const index_t t = problem.target[s], other = problem.samples - (t == 0 ? 2 : 1);
        Values<std::int32_t> labels(problem.target.size(), ignored);
        for (const index_t kept : {s, other}) labels[kept] = problem.target[kept];
        Values<double> weight(problem.weight.size(), 0.0);
        weight[t] = std::ldexp(1.0, std::clamp(-std::ilogb(loss), -400, 19));
        weight[labels[other]] = -(loss * weight[t]) / expected.loss[other];
        weighted.weight = View<const double, 1>{weight.data(), {problem.classes}};
        const View<const std::int32_t, 2> two{labels.data(), shape};
        const double found = nll::cross_entropy(x, two, weighted).value;
        const double wanted =
            std::fma(weight[labels[other]], expected.loss[other], loss * weight[t]);
        is("cross_entropy, not rounded", s, -1, found, widened(rounded<Loss>(wanted)));
    }

    if constexpr (std::same_as<Loss, Scalar>) {
        const View<const double, 2> grad_output{problem.grad_output.data(), shape};
        nll::cross_entropy_backward(grad_output, x, target, to, plain);
        all_are("cross_entropy_backward", out, expected.gradient);
        nll::log_softmax(x, x, plain);
        all_are("log_softmax", input, expected.log_softmax);
    }
}

template <class Precision, class Loss, class Scalar> void check(const Problem& unrounded) {
    const Problem problem = unrounded.rounded_to<Scalar>();
    const Expected<Precision, Scalar> expected(problem);
    for (const Layout& layout : layouts_of(problem.samples, problem.classes)) {
        compare<Precision, Loss>(problem, expected, layout, 1);
        if (problem.samples < 5) compare<Precision, Loss>(problem, expected, layout, 5);
    }
}

void check_all(const Problem& problem) {
    check<Single, float, float>(problem);
    check<Single, float, nll::float16>(problem);
    check<Single, nll::float16, nll::float16>(problem);
    check<Single, float, nll::bfloat16>(problem);
    check<Bfloat16, nll::bfloat16, nll::bfloat16>(problem);
    check<Double, double, double>(problem);
    check<Double, double, float>(problem);
}

}  // namespace

int main() {
    const std::string_view set = nll::build_info().instruction_set;
    reference::fused = set != "x86-64";
#if !defined(__FMA__) && !defined(__FP_FAST_FMA) && !defined(__ARM_FEATURE_FMA)
    if (set == "native") reference::fused = false;
#endif
    // Under emulation, which is a hundred times as slow, one kind of each class count has to do.
#if defined(NLL_EMULATED)
    constexpr bool emulated = true;
#else
    constexpr bool emulated = false;
#endif
    for (const index_t classes :
         {1, 2, 15, 16, 17, 64, 127, 128, 129, 130, 2047, 2048, 2049, 4100}) {
        if (!emulated && (classes < 1000 || classes == 2049))
            for (const std::string_view kind : kinds)
                check_all(Problem(kind, classes < 1000 ? 46 : 6, classes));
        check_all(Problem("mixed", classes < 1000 ? 46 : emulated ? 4 : 16, classes));
    }
    // Rows that are fewer than threads, and so long, are shared by them.
    for (const std::string_view kind : {"confident", "masked"})
        if (!emulated) check_all(Problem(kind, 4, 70'000));
    if (failures() > 0) std::printf("%d results differ\n", failures());
    return failures() != 0;
}
