// SPDX-License-Identifier: BSD-3-Clause
// Both losses and their gradients against a loop over samples: any types, shapes, strides, labels,
// weights and choices, wrong ones included.
//
//     nll_loss            every bit, by integers of any length
//     cross_entropy       every bit, by reference.hpp; smoothed: within the bound of its error
//     a wrong argument    the right kind of exception, of a label its words too, and nothing
//     written
//
// Elements that are no part of a result are not written, either; inputs stay as they were.
#include <nll/nll.hpp>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../cpp/elements.hpp"
#include "../cpp/reference.hpp"
#include "bytes.hpp"
#include "dyadic.hpp"

using fuzz::Bytes;
using fuzz::infinity;
using fuzz::Numbers;
using fuzz::Sum;
using nll::Array;
using nll::DType;
using nll::index_t;
using nll::Options;
using nll::Reduction;

namespace {

// ---------------------------------------------------------------- elements

template <class Visit> decltype(auto) with_type(DType dtype, Visit&& visit) {
    switch (dtype) {
        case DType::float16: return visit(nll::float16{});
        case DType::bfloat16: return visit(nll::bfloat16{});
        case DType::float32: return visit(float{});
        case DType::float64: return visit(double{});
        case DType::int8: return visit(std::int8_t{});
        case DType::int16: return visit(std::int16_t{});
        case DType::int32: return visit(std::int32_t{});
        case DType::int64: return visit(std::int64_t{});
        case DType::uint8: return visit(std::uint8_t{});
        case DType::uint16: return visit(std::uint16_t{});
        case DType::uint32: return visit(std::uint32_t{});
        default: return visit(std::uint64_t{});
    }
}

double rounded_to(DType dtype, double value) {
    return with_type(dtype, [&](auto type) -> double {
        using T = decltype(type);
        if constexpr (std::integral<T>) return value;
        else return elements::widened(elements::rounded<T>(value));
    });
}
double entry_of_softmax(DType dtype, double value) {
    return with_type(dtype, [&](auto type) -> double {
        using T = decltype(type);
        if constexpr (std::integral<T>) return value;
        else return elements::widened(elements::rounded_entry<T>(value));
    });
}
fuzz::Precision precision_of(DType dtype) {
    if (dtype == DType::float16) return fuzz::in_float16;
    if (dtype == DType::bfloat16) return fuzz::in_bfloat16;
    return dtype == DType::float32 ? fuzz::in_float : fuzz::in_double;
}

constexpr DType floats[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};
constexpr DType integers[] = {DType::int8,  DType::int16,  DType::int32,  DType::int64,
                              DType::uint8, DType::uint16, DType::uint32, DType::uint64};

// ---------------------------------------------------------------- arrays

// Holds an array in memory that has the bytes it reaches, and no more: what is read or written
// beside them is found.
class Memory {
public:
    // Chooses strides. `writes`: no two elements share memory.
    Memory(Bytes& bytes, DType dtype, const std::vector<index_t>& shape, bool writes) {
        array.dtype = dtype;
        array.rank = static_cast<int>(shape.size());
        std::vector<int> order;
        for (int a = 0; a < array.rank; ++a) order.push_back(a);
        if (bytes.coin())
            for (int a = array.rank - 1; a > 0; --a) std::swap(order[a], order[bytes.below(a + 1)]);
        index_t stride = bytes.one_in(4) ? bytes.between(1, 3) : 1, first = 0, last = 0;
        const bool is_plain = bytes.coin();
        for (int i = array.rank - 1; i >= 0; --i) {
            const int a = order[i];
            const index_t extent = shape[a];
            array.shape[a] = extent;
            array.strides[a] = !is_plain && bytes.one_in(4) ? -stride : stride;
            if (!writes && !is_plain && bytes.one_in(6)) array.strides[a] = bytes.between(-3, 3);
            if (extent <= 1 && bytes.one_in(4)) array.strides[a] = bytes.between(-9, 9);
            if (extent > 0) {
                const index_t reach = (extent - 1) * array.strides[a];
                (reach < 0 ? first : last) += reach;
            }
            stride *= std::max<index_t>(extent, 1);
            if (!is_plain && bytes.one_in(4)) stride += bytes.between(1, 5);
        }
        allocate(last - first + 1, -first);
    }
    index_t count() const {
        index_t count = 1;
        for (int a = 0; a < array.rank; ++a) count *= array.shape[a];
        return count;
    }
    // Returns where the element is whose position in C order this is.
    index_t place(index_t position) const {
        index_t place = 0;
        for (int a = array.rank - 1; a >= 0; --a) {
            place += position % array.shape[a] * array.strides[a];
            position /= array.shape[a];
        }
        return place;
    }
    void set(index_t position, double value) {
        with_type(array.dtype, [&](auto type) {
            using T = decltype(type);
            T* const to = static_cast<T*>(array.data) + place(position);
            if constexpr (std::integral<T>)
                *to = static_cast<T>(static_cast<std::int64_t>(std::fabs(value) < 0x1p62 ? value
                                                               : value > 0               ? 0x1p62
                                                                                         : 0.0));
            else *to = elements::rounded<T>(value);
        });
    }
    void set_integer(index_t position, std::uint64_t value) {
        with_type(array.dtype, [&](auto type) {
            using T = decltype(type);
            if constexpr (std::integral<T>)
                static_cast<T*>(array.data)[place(position)] = static_cast<T>(value);
        });
    }
    double get(index_t position) const {
        return with_type(array.dtype, [&](auto type) -> double {
            using T = decltype(type);
            const T value = static_cast<const T*>(array.data)[place(position)];
            if constexpr (std::integral<T>) return static_cast<double>(value);
            else return elements::widened(value);
        });
    }
    __int128 get_integer(index_t position) const {
        return with_type(array.dtype, [&](auto type) -> __int128 {
            using T = decltype(type);
            if constexpr (std::integral<T>)
                return static_cast<const T*>(array.data)[place(position)];
            else return 0;
        });
    }
    bool is_as_before() const { return std::equal(before_.begin(), before_.end(), memory_.get()); }
    void remember() { before_.assign(memory_.get(), memory_.get() + size_); }
    // Tells whether all that is between elements is as it was.
    bool gaps_are_as_before() {
        const std::vector<std::byte> now(memory_.get(), memory_.get() + size_);
        const auto step = static_cast<std::size_t>(nll::size_of(array.dtype));
        const auto origin =
            static_cast<std::size_t>(static_cast<std::byte*>(array.data) - memory_.get());
        std::vector<std::byte> with_elements = before_;
        for (index_t i = 0; i < count(); ++i) {
            const std::size_t at = origin + static_cast<std::size_t>(place(i)) * step;
            std::copy_n(now.begin() + static_cast<std::ptrdiff_t>(at), step,
                        with_elements.begin() + static_cast<std::ptrdiff_t>(at));
        }
        return with_elements == now;
    }

    Array array;

private:
    void allocate(index_t elements, index_t origin) {
        const index_t size = nll::size_of(array.dtype);
        for (int a = 0; a < array.rank; ++a)
            if (array.shape[a] == 0) elements = origin = 0;
        size_ = static_cast<std::size_t>(elements * size);
        memory_.reset(new std::byte[size_]);
        std::fill_n(memory_.get(), size_, std::byte{0xa5});
        array.data = memory_.get() + origin * size;
        remember();
    }
    std::unique_ptr<std::byte[]> memory_;
    std::vector<std::byte> before_;
    std::size_t size_ = 0;
};

// ---------------------------------------------------------------- problems

enum class Function { value, backward, value_and_grad, log_softmax };

struct Problem {
    bool of_logits;
    Function function;
    Options options;
    double grad_output = 1;
    int axis;                           // of the classes, counted from the front
    std::vector<index_t> shape, inner;  // of input; and without its class axis
    std::optional<Memory> input, target, losses, grad_outputs, gradient, weight, sample_weight;
    bool in_place = false, is_broken = false;  // an argument is wrong, whatever the data

    explicit Problem(Bytes& bytes) {
        of_logits = bytes.coin();
        function = bytes.pick({Function::value, Function::value, Function::backward,
                               Function::value_and_grad, Function::value_and_grad});
        if (of_logits && bytes.one_in(8)) function = Function::log_softmax;
        choose_shape(bytes);
        choose_options(bytes);
        choose_arrays(bytes);
        if (bytes.one_in(20)) break_something(bytes);
    }
    index_t classes() const { return shape[static_cast<std::size_t>(axis)]; }
    index_t samples() const {
        index_t samples = 1;
        for (const index_t extent : inner) samples *= extent;
        return samples;
    }
    // Returns the position in input's C order of a class of a sample.
    index_t position(index_t sample, index_t c) const {
        index_t after = 1;
        for (int a = axis + 1; a < static_cast<int>(shape.size()); ++a) after *= shape[a];
        return (sample / after * classes() + c) * after + sample % after;
    }
    bool reads_input() const { return function != Function::backward || of_logits; }

private:
    void choose_shape(Bytes& bytes) {
        const int rank = bytes.pick({2, 2, 2, 3, 3, 1, 4, 5});
        axis = bytes.coin() ? std::min(1, rank - 1) : bytes.below(rank);
        // Few elements make a quick case; what needs many has them along one axis.
        index_t room = bytes.pick({30, 300, 3000}) * (bytes.one_in(24) ? 10 : 1);
        const auto extent = [&](index_t most) -> index_t {
            if (bytes.one_in(30)) return 0;
            const index_t chosen = std::min<index_t>(
                most, bytes.coin() ? bytes.between(1, 9) : bytes.between(1, 6000));
            room /= std::max<index_t>(chosen, 1);
            return chosen;
        };
        const bool classes_first = bytes.coin();
        shape.assign(static_cast<std::size_t>(rank), 1);
        if (classes_first) {
            shape[axis] = extent(room);
            static constexpr index_t limits[] = {1,   2,    16,   127,  128,  129, 130,
                                                 255, 1024, 2047, 2048, 2049, 4097};
            if (bytes.one_in(3)) {
                shape[axis] = bytes.pick(limits);
                room = std::min<index_t>(room, 12'000 / shape[axis]);
            }
        }
        for (int a = 0; a < rank; ++a)
            if (a != axis) shape[a] = extent(std::max<index_t>(room, 1));
        if (!classes_first) shape[axis] = extent(std::max<index_t>(room, 1));
        inner = shape;
        inner.erase(inner.begin() + axis);
        options.axis = bytes.coin() ? axis : axis - rank;
        if (rank == 1 && bytes.coin()) options.axis = 1;
    }

    void choose_options(Bytes& bytes) {
        options.num_threads = bytes.pick({0, 0, 1, 3});
        options.reduction = bytes.pick({Reduction::mean, Reduction::sum, Reduction::none});
        if (function == Function::value_and_grad && options.reduction == Reduction::none)
            options.reduction = Reduction::mean;
        options.empty = bytes.pick({nll::Empty::nan, nll::Empty::zero, nll::Empty::raise});
        if (bytes.one_in(3)) options.dtype = bytes.pick(floats);
        if (bytes.one_in(3)) {
            static constexpr index_t bases[] = {1,
                                                -1,
                                                -3,
                                                100,
                                                250,
                                                -128,
                                                std::numeric_limits<index_t>::min(),
                                                std::numeric_limits<index_t>::max() - 5};
            options.index_base = bytes.pick(bases);
        }
        switch (bytes.below(6)) {
            case 0: options.ignore_index = std::nullopt; break;
            case 1: options.ignore_index = bytes.below(4) + options.index_base % 1000; break;
            case 2: options.ignore_index = bytes.pick({255, 0, -1, 65535}); break;
            case 3: options.ignore_index = bytes.word(); break;
            case 4: options.ignore_index = static_cast<std::int64_t>(bytes.word()); break;
            default: break;
        }
        if (of_logits && bytes.one_in(4))
            options.label_smoothing = bytes.pick({0.1, 0.5, 1.0, 0x1p-30, 0x1p-1074, 0.0});
        if (bytes.one_in(3)) grad_output = rounded_to(DType::float64, Numbers(bytes).next());
    }

    void choose_arrays(Bytes& bytes) {
        const DType dtype = bytes.pick(floats);
        input.emplace(bytes, dtype, shape, false);
        target.emplace(bytes, bytes.pick(integers), inner, false);
        if (function == Function::value && options.reduction == Reduction::none)
            losses.emplace(bytes, bytes.pick(floats), inner, true);
        if (function != Function::value) {
            in_place = of_logits && bytes.one_in(4);
            if (in_place) input.emplace(bytes, dtype, shape, true);
            else gradient.emplace(bytes, dtype, shape, true);
        }
        if (function == Function::backward && options.reduction == Reduction::none)
            grad_outputs.emplace(bytes, bytes.pick(floats), inner, false);
        const auto any_type = [&] {
            return bytes.coin() ? bytes.pick(floats) : bytes.pick(integers);
        };
        if (bytes.one_in(3)) weight.emplace(bytes, any_type(), std::vector{classes()}, false);
        if (bytes.one_in(3)) sample_weight.emplace(bytes, any_type(), inner, false);

        fill_input(bytes);
        fill_labels(bytes);
        for (auto* weights : {&weight, &sample_weight})
            if (*weights) fill_weights(bytes, **weights);
        if (grad_outputs) {
            Numbers numbers(bytes);
            for (index_t i = 0; i < samples(); ++i) grad_outputs->set(i, numbers.next());
        }
        for (auto* memory :
             {&input, &target, &losses, &grad_outputs, &gradient, &weight, &sample_weight})
            if (*memory) (*memory)->remember();
        if (weight)
            options.weight = {weight->array.data, weight->array.dtype, classes(),
                              weight->array.strides[0]};
        if (sample_weight) options.sample_weight = &sample_weight->array;
    }

    void fill_input(Bytes& bytes) {
        const int kind = bytes.below(6);
        Numbers numbers(bytes);
        const double offset = bytes.pick({0.0, 0.0, 30.0, -60.0, 349.0, -400.0, 1e4, -3e38});
        const double spread = bytes.pick({1.0, 1.0, 3.0, 20.0, 150.0, 900.0});
        for (index_t s = 0; s < samples(); ++s) {
            const index_t one = classes() ? bytes.below(static_cast<int>(classes())) : 0;
            for (index_t c = 0; c < classes(); ++c) {
                double x =
                    offset + 0x1p-31 * spread * static_cast<std::int32_t>(bytes.word() >> 32);
                if (kind == 0) x = numbers.next();
                if (kind == 1 && c == one) x += bytes.pick({10.0, 40.0, 500.0, infinity});
                if (kind == 2 && bytes.one_in(4)) x = -infinity;
                if (kind == 3 && c == one && bytes.one_in(4)) x = numbers.next();
                input->set(position(s, c), x);
            }
        }
    }

    void fill_labels(Bytes& bytes) {
        const int often_ignored = bytes.pick({1, 3, 30, 255}), often_bad = bytes.one_in(4);
        const auto base = static_cast<std::uint64_t>(options.index_base);
        const int few = bytes.coin() ? 1 : 1000000;  // classes that samples have
        for (index_t s = 0; s < samples(); ++s) {
            std::uint64_t label = base;
            if (classes())
                label += static_cast<std::uint64_t>(
                    bytes.below(static_cast<int>(std::min<index_t>(classes(), few))));
            if ((options.ignore_index && bytes.one_in(often_ignored)) || classes() == 0)
                label = options.ignore_index.bits();
            if (often_bad && bytes.one_in(20))
                label = bytes.coin()
                            ? bytes.word()
                            : base + static_cast<std::uint64_t>(classes() * (bytes.coin() ? 1 : 0) -
                                                                1 + (bytes.coin() ? 1 : 0));
            target->set_integer(s, label);
        }
    }

    void fill_weights(Bytes& bytes, Memory& weights) {
        const int kind = bytes.below(4);
        Numbers numbers(bytes);
        for (index_t i = 0; i < weights.count(); ++i) {
            if (kind == 0) weights.set(i, numbers.next());
            else weights.set(i, kind == 1 ? bytes.below(3) : 0.01 * bytes.below(1000));
            if (!nll::is_floating(weights.array.dtype) && bytes.one_in(200))
                weights.set_integer(i, bytes.word());
        }
    }

    // Makes one argument wrong: everything else is as it was.
    void break_something(Bytes& bytes) {
        is_broken = true;
        Memory* const out = gradient ? &*gradient : losses ? &*losses : nullptr;
        switch (bytes.below(7)) {
            case 0: options.axis = bytes.pick<index_t>({64, -7, 5, 1 << 30}); break;
            case 1: options.label_smoothing = bytes.pick({-0.1, 1.5, fuzz::nan, infinity}); break;
            case 2: options.num_threads = bytes.pick({-1, 257}); break;
            case 3:
                options.weight = {input->array.data, DType::float32, classes() + bytes.pick({1, 7}),
                                  0};
                break;
            case 4:
                is_broken = function != Function::log_softmax && !inner.empty();
                if (is_broken) ++target->array.shape[0];
                break;
            case 5:
                // The gradient of nll_loss is what says how many classes there are.
                is_broken =
                    out && out->array.rank > 0 && (of_logits || function != Function::backward);
                if (is_broken) ++out->array.shape[0];
                break;
            default:
                is_broken = classes() > 2;
                options.index_base = std::numeric_limits<index_t>::max() - 1;
        }
    }
};

// ---------------------------------------------------------------- labels and weights

// Says what a sample is: its class, or that it is ignored, or that its label is bad; and its
// weight.
struct Sample {
    index_t c = 0;
    bool kept = false, bad = false;
    double class_weight = 1, sample_weight = 1, weight = 1;
};

std::vector<Sample> samples_of(const Problem& problem) {
    const nll::IgnoreIndex& ignore = problem.options.ignore_index;
    const __int128 ignored_label = ignore.negative()
                                       ? __int128{static_cast<std::int64_t>(ignore.bits())}
                                       : __int128{ignore.bits()};
    std::vector<Sample> samples(static_cast<std::size_t>(problem.samples()));
    for (std::size_t s = 0; s < samples.size(); ++s) {
        Sample& sample = samples[s];
        const auto position = static_cast<index_t>(s);
        const __int128 label = problem.target->get_integer(position);
        const __int128 c = label - problem.options.index_base;
        if (ignore && label == ignored_label) continue;
        sample.bad = c < 0 || c >= problem.classes();
        if (sample.bad) continue;
        sample.kept = true;
        sample.c = static_cast<index_t>(c);
        if (problem.weight) sample.class_weight = problem.weight->get(sample.c);
        if (problem.sample_weight) sample.sample_weight = problem.sample_weight->get(position);
        sample.weight = sample.class_weight * sample.sample_weight;
        if (!problem.weight) sample.weight = sample.sample_weight;
    }
    return samples;
}

std::string text(__int128 number) {
    if (number < 0) return "-" + text(-number);
    const auto digit = std::string(1, static_cast<char>('0' + static_cast<int>(number % 10)));
    return number < 10 ? digit : text(number / 10) + digit;
}

// Returns the words for the lowest bad label, or none.
std::string label_fault(const Problem& problem, const std::vector<Sample>& samples) {
    for (std::size_t s = 0; s < samples.size(); ++s) {
        if (!samples[s].bad) continue;
        std::string place;
        index_t rest = static_cast<index_t>(s);
        for (std::size_t a = problem.inner.size(); a-- > 0;) {
            place = text(rest % problem.inner[a]) + (place.empty() ? "" : ", ") + place;
            rest /= problem.inner[a];
        }
        const nll::IgnoreIndex& ignore = problem.options.ignore_index;
        const __int128 base = problem.options.index_base;
        const std::string ignored = !ignore ? "None"
                                    : ignore.negative()
                                        ? text(static_cast<std::int64_t>(ignore.bits()))
                                        : text(ignore.bits());
        return "target" + (place.empty() ? "" : "[" + place + "]") + " is " +
               text(problem.target->get_integer(static_cast<index_t>(s))) + ", outside [" +
               text(base) + ", " + text(base + problem.classes()) + ") (ignore_index is " +
               ignored + ")";
    }
    return "";
}

bool is_beyond_doubles(const Memory& weights, index_t position) {
    constexpr __int128 limit = __int128{1} << 53;
    const __int128 value = weights.get_integer(position);
    return value > limit || value < -limit;
}

// Tells whether an argument is wrong, whatever the labels are.
bool has_bad_argument(const Problem& problem) {
    const __int128 end = __int128{problem.options.index_base} + problem.classes();
    if (problem.is_broken || (problem.options.index_base > 0 && end > __int128{1} << 63))
        return true;
    if (!problem.weight) return false;
    for (index_t c = 0; c < problem.classes(); ++c) {
        if (is_beyond_doubles(*problem.weight, c)) return true;
        const double size = std::fabs(problem.weight->get(c));
        if (problem.weight->array.dtype == DType::float64 && problem.options.label_smoothing != 0 &&
            size > 0 && size < infinity && (size < 0x1p-500 || size > 0x1p500))
            return true;
    }
    return false;
}
bool has_bad_sample_weight(const Problem& problem, const std::vector<Sample>& samples) {
    for (std::size_t s = 0; problem.sample_weight && s < samples.size(); ++s)
        if (samples[s].kept && is_beyond_doubles(*problem.sample_weight, static_cast<index_t>(s)))
            return true;
    return false;
}

// ---------------------------------------------------------------- the precision of exponentials

enum class Exps { bfloat16, single, as_double };

// Calls visit(Softmax) for the logits of one sample, computed in this precision.
template <class Visit>
void with_softmax(Exps exps, const std::vector<double>& x, index_t pivot, Visit&& visit) {
    const auto classes = static_cast<index_t>(x.size());
    if (exps == Exps::bfloat16)
        visit(reference::Softmax<reference::Bfloat16>(x.data(), classes, pivot));
    else if (exps == Exps::single)
        visit(reference::Softmax<reference::Single>(x.data(), classes, pivot));
    else visit(reference::Softmax<reference::Double>(x.data(), classes, pivot));
}

// Returns the precision that a sample needs, by what all samples' results are multiplied with, and
// its own by: see detail/precision.hpp.
Exps exps_for(const Problem& problem, DType result, double common, double factor) {
    const DType input = problem.input->array.dtype;
    const bool smooths = problem.options.label_smoothing != 0;
    if (input == DType::float64 || result == DType::float64 || factor >= 0x1p500 / common)
        return Exps::as_double;
    return input == DType::bfloat16 && result == input && factor < 0x1p20 / common && !smooths
               ? Exps::bfloat16
               : Exps::single;
}

// ---------------------------------------------------------------- results

// Holds a number to be found, to the bit; or within an error, where it is a smoothed one.
struct Wanted {
    long double value = 0, error = 0;
    bool is_exact = true;
};

void require_near(double found, const Wanted& wanted, DType dtype) {
    if (wanted.is_exact) {
        REQUIRE(fuzz::same(found, static_cast<double>(wanted.value)));
        return;
    }
    if (!(wanted.value - wanted.value == 0)) {
        REQUIRE(!(found - found == 0));
        return;
    }
    const fuzz::Precision format = precision_of(dtype);
    if (std::fabs(wanted.value) + wanted.error > std::ldexp(0.99L, format.end)) return;
    REQUIRE(wanted.error == infinity || std::fabs(found - wanted.value) <= wanted.error);
}
// Returns the last place of a number of this size.
long double last_place(long double size, DType dtype) {
    const fuzz::Precision format = precision_of(dtype);
    return std::ldexp(1.0L, size > 0 && size < infinity
                                ? std::max(std::ilogb(size) - format.bits + 1, format.last)
                                : format.last);
}

// Tells whether products of which these are some may be beyond doubles, or below them: a result
// that is within them may then be lost.
bool exceeds_doubles(std::initializer_list<long double> products) {
    return std::any_of(products.begin(), products.end(), [](long double product) {
        const long double size = std::fabs(product);
        return size != 0 && size < infinity && !(size > 0x1p-900L && size < 0x1p900L);
    });
}

// Returns log Σ e^x - x_c of a sample, free of cancellation; NaN where there is no softmax.
std::vector<long double> negative_log_softmax(const std::vector<double>& x) {
    std::size_t largest = 0;
    for (std::size_t c = 0; c < x.size(); ++c)
        if (!(x[c] <= x[largest])) largest = c;
    if (!(std::fabs(x[largest]) < infinity)) return std::vector<long double>(x.size(), fuzz::nan);
    long double others = 0;
    for (std::size_t c = 0; c < x.size(); ++c)
        if (c != largest) others += std::exp(static_cast<long double>(x[c]) - x[largest]);
    std::vector<long double> result;
    for (const double logit : x)
        result.push_back((static_cast<long double>(x[largest]) - logit) + std::log1p(others));
    return result;
}

struct Expected {
    std::vector<Wanted> losses, gradient;  // of samples; and in input's C order
    Wanted loss;
    double total_weight = 0;
    index_t count = 0;
    bool is_empty = false;  // of a mean
};

// Adds up losses and weights without error, or, smoothed, in long double.
struct Reduced {
    Sum loss, weight;
    long double smoothed = 0, error = 0;
};

std::vector<double> logits_of(const Problem& problem, index_t sample) {
    std::vector<double> x;
    for (index_t c = 0; c < problem.classes(); ++c)
        x.push_back(problem.input->get(problem.position(sample, c)));
    return x;
}

Expected log_softmax_of(const Problem& problem) {
    Expected expected;
    expected.gradient.resize(static_cast<std::size_t>(problem.samples() * problem.classes()));
    const DType dtype = problem.input->array.dtype;
    const Exps exps = dtype == DType::bfloat16  ? Exps::bfloat16
                      : dtype == DType::float64 ? Exps::as_double
                                                : Exps::single;
    for (index_t s = 0; problem.classes() && s < problem.samples(); ++s) {
        const std::vector<double> x = logits_of(problem, s);
        std::size_t largest = 0;
        for (std::size_t c = 0; c < x.size(); ++c)
            if (x[c] > x[largest] || x[largest] != x[largest]) largest = c;
        with_softmax(exps, x, static_cast<index_t>(largest), [&](const auto& softmax) {
            for (index_t c = 0; c < problem.classes(); ++c)
                expected.gradient[static_cast<std::size_t>(problem.position(s, c))].value =
                    entry_of_softmax(dtype, softmax.log_softmax(c));
        });
    }
    return expected;
}

Expected expected_of(const Problem& problem, const std::vector<Sample>& samples) {
    Expected expected;
    const Options& options = problem.options;
    const DType own = problem.input->array.dtype;
    const DType dtype = problem.losses ? problem.losses->array.dtype : options.dtype.value_or(own);
    const bool weighs = problem.weight || problem.sample_weight;
    const auto classes = static_cast<long double>(problem.classes());
    Reduced total;
    for (const Sample& sample : samples) {
        expected.count += sample.kept;
        if (sample.kept) total.weight.add(weighs ? sample.weight : 1.0);
    }
    expected.total_weight = fuzz::rounded(total.weight, fuzz::in_double);
    const bool is_mean = options.reduction == Reduction::mean;
    expected.is_empty = is_mean && total.weight.is_zero();
    const bool is_zero = expected.is_empty && options.empty == nll::Empty::zero;
    const double divisor = is_mean ? expected.total_weight : 1.0;

    const long double smoothing = options.label_smoothing, share = smoothing / classes;
    // Of a share below the normal numbers, doubles have the nearest multiple of 2^-1074.
    const auto lost_of_share = [&](long double factor) {
        return share < 0x1p-1022L ? std::fabs(factor) * 0x1p-1074L : 0.0L;
    };
    std::vector<double> weights;
    long double weight_sum = 0, weight_sizes = 0;
    for (index_t c = 0; smoothing != 0 && c < problem.classes(); ++c) {
        weights.push_back(problem.weight ? problem.weight->get(c) : 1.0);
        weight_sum += weights.back();
        weight_sizes += std::fabs(weights.back());
    }

    double of_classes = 1;
    for (index_t c = 0; problem.weight && c < problem.classes(); ++c)
        of_classes = std::max(of_classes, std::fabs(problem.weight->get(c)));
    const double of_calls =
        std::max(1.0, problem.grad_outputs ? 1.0 : std::fabs(problem.grad_output)) /
        std::min(1.0, std::fabs(divisor));
    const auto relative_error = [](Exps exps) {
        return exps == Exps::as_double ? 0x1p-51L : 0x1p-30L;
    };
    expected.losses.resize(samples.size());
    if (problem.function != Function::value)
        expected.gradient.resize(samples.size() * static_cast<std::size_t>(problem.classes()));
    const DType of_losses = problem.losses ? problem.losses->array.dtype : dtype;
    for (std::size_t i = 0; i < samples.size(); ++i) {
        const Sample& sample = samples[i];
        if (!sample.kept) continue;
        const auto s = static_cast<index_t>(i);
        const double grad_output =
            problem.grad_outputs ? problem.grad_outputs->get(s) : problem.grad_output;
        const auto entry = [&](index_t c) -> Wanted& {
            return expected.gradient[static_cast<std::size_t>(problem.position(s, c))];
        };
        const auto take = [&](double loss) {
            if (weighs) total.loss.add_product(loss, sample.weight);
            else total.loss.add(loss);
            const double weighted = weighs ? loss * sample.weight : loss;
            expected.losses[i].value = rounded_to(of_losses, weighted + 0.0);
        };
        if (!problem.of_logits) {
            if (problem.reads_input()) take(-problem.input->get(problem.position(s, sample.c)));
            if (problem.function != Function::value && !is_zero)
                entry(sample.c).value =
                    rounded_to(own, 0.0 - sample.weight * grad_output / divisor);
            continue;
        }
        const std::vector<double> x = logits_of(problem, s);
        const auto at_least_1 = [](double number) { return std::max(1.0, std::fabs(number)); };
        const double factor = at_least_1(problem.sample_weight ? sample.sample_weight : 1.0) *
                              at_least_1(problem.grad_outputs ? grad_output : 1.0);
        const Exps of_loss = exps_for(problem, dtype, of_classes, factor);
        const Exps of_gradient = exps_for(problem, own, of_classes * of_calls, factor);
        if (smoothing == 0) {
            with_softmax(of_loss, x, sample.c, [&](const auto& softmax) { take(softmax.loss()); });
            if (problem.function != Function::value && !is_zero)
                with_softmax(of_gradient, x, sample.c, [&](const auto& softmax) {
                    for (index_t c = 0; c < problem.classes(); ++c)
                        entry(c).value = entry_of_softmax(
                            own, softmax.gradient(c, sample.weight, grad_output, divisor));
                });
            continue;
        }
        const std::vector<long double> nls = negative_log_softmax(x);
        long double of_all = 0, sizes = 0;
        for (std::size_t c = 0; c < x.size(); ++c) {
            of_all += weights[c] * nls[c];
            sizes += std::fabs(weights[c] * nls[c]);
        }
        const auto t = static_cast<std::size_t>(sample.c);
        const long double v = sample.sample_weight;
        const long double of_target = v * (1 - smoothing) * weights[t] * nls[t];
        const long double loss = of_target + v * share * of_all;
        const long double largest = std::fabs(of_target) + std::fabs(v * share * sizes);
        const bool is_extreme = exceeds_doubles({of_target, sizes, share * sizes, v * sizes});
        const long double off = lost_of_share(v * sizes);
        total.smoothed += loss;
        total.error += is_extreme ? infinity : largest * relative_error(of_loss) + off;
        expected.losses[i] = {
            loss, last_place(largest, of_losses) + largest * relative_error(of_loss) * 2 + off,
            false};
        if (is_extreme) expected.losses[i].error = infinity;
        if (problem.function == Function::value || is_zero) continue;
        const long double g = static_cast<long double>(grad_output) * v / divisor;
        const long double of_weight =
            (1 - smoothing) * std::fabs(weights[t]) + share * weight_sizes;
        const bool is_extreme_gradient =
            exceeds_doubles({grad_output * v, g, g * weights[t], grad_output * v * weights[t],
                             divisor, g * share, g * of_weight});
        for (std::size_t c = 0; c < x.size(); ++c) {
            const long double p = std::exp(-nls[c]);
            const long double hit = c == t ? g * (1 - smoothing) * weights[t] : 0;
            const long double at_all = g * ((1 - smoothing) * weights[t] + share * weight_sum) * p;
            const long double bound =
                std::fabs(hit) + std::fabs(g * share * weights[c]) + std::fabs(g * of_weight * p);
            const long double off = lost_of_share(g * (std::fabs(weights[c]) + weight_sizes * p));
            // Exponentials below all doubles are 0.
            const long double error = last_place(bound, own) +
                                      bound * relative_error(of_gradient) * 2 + off +
                                      std::fabs(g * of_weight) * 0x1p-1070L;
            entry(static_cast<index_t>(c)) = {at_all - g * share * weights[c] - hit,
                                              is_extreme_gradient ? infinity : error, false};
        }
    }

    if (problem.of_logits && smoothing != 0) {
        const long double over = is_mean ? divisor : 1;
        const long double value = total.smoothed / over;
        const long double error = std::fabs(total.error / over) + std::fabs(value) * 0x1p-51L;
        expected.loss = {value, error + last_place(std::fabs(value) + error, dtype), false};
        if (is_mean && !(expected.total_weight - expected.total_weight == 0))
            expected.loss.error = infinity;
    } else if (is_mean) {
        expected.loss.value = fuzz::rounded_quotient(total.loss, total.weight, precision_of(dtype));
    } else {
        expected.loss.value = fuzz::rounded(total.loss, precision_of(dtype));
    }
    if (is_zero) expected.loss = {};
    return expected;
}

// ---------------------------------------------------------------- calls

std::optional<nll::Loss> run(Problem& problem) {
    const Options& options = problem.options;
    const Array &input = problem.input->array, &target = problem.target->array;
    const Array* const losses = problem.losses ? &problem.losses->array : nullptr;
    const Array* const grad_outputs = problem.grad_outputs ? &problem.grad_outputs->array : nullptr;
    const Array& gradient = problem.gradient ? problem.gradient->array : input;
    const double grad_output = problem.grad_output;
    switch (problem.function) {
        case Function::value:
            return problem.of_logits ? nll::cross_entropy(input, target, losses, options)
                                     : nll::nll_loss(input, target, losses, options);
        case Function::backward:
            if (problem.of_logits)
                nll::cross_entropy_backward(grad_outputs, grad_output, input, target, gradient,
                                            options);
            else nll::nll_loss_backward(grad_outputs, grad_output, target, gradient, options);
            return std::nullopt;
        case Function::value_and_grad:
            return problem.of_logits ? nll::cross_entropy_value_and_grad(input, target, grad_output,
                                                                         gradient, options)
                                     : nll::nll_loss_value_and_grad(input, target, grad_output,
                                                                    gradient, options);
        default: nll::log_softmax(input, gradient, options); return std::nullopt;
    }
}

void require_untouched(Problem& problem) {
    for (auto* memory : {&problem.input, &problem.target, &problem.losses, &problem.grad_outputs,
                         &problem.gradient, &problem.weight, &problem.sample_weight})
        if (*memory) REQUIRE((*memory)->is_as_before());
}

void require_results(Problem& problem, const Expected& expected,
                     const std::optional<nll::Loss>& loss) {
    Memory* const gradient = problem.gradient   ? &*problem.gradient
                             : problem.in_place ? &*problem.input
                                                : nullptr;
    const bool none = problem.options.reduction == Reduction::none;
    const DType own = problem.input->array.dtype;
    if (loss) {
        REQUIRE(loss->count == expected.count);
        REQUIRE(fuzz::same(loss->total_weight, expected.total_weight));
        if (none) REQUIRE(loss->value != loss->value);
        else require_near(loss->value, expected.loss, problem.options.dtype.value_or(own));
    }
    if (problem.losses)
        for (index_t s = 0; s < problem.samples(); ++s)
            require_near(problem.losses->get(s), expected.losses[static_cast<std::size_t>(s)],
                         problem.losses->array.dtype);
    if (gradient)
        for (index_t i = 0; i < gradient->count(); ++i)
            require_near(gradient->get(i), expected.gradient[static_cast<std::size_t>(i)], own);
    for (auto* memory :
         {&problem.target, &problem.grad_outputs, &problem.weight, &problem.sample_weight})
        if (*memory) REQUIRE((*memory)->is_as_before());
    if (problem.losses) REQUIRE(problem.losses->gaps_are_as_before());
    if (gradient) REQUIRE(gradient->gaps_are_as_before());
    if (!problem.in_place) REQUIRE(problem.input->is_as_before());
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    const std::string set = nll::build_info().instruction_set;
    reference::fused = set != "x86-64";
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes bytes(data, size);
    Problem problem(bytes);
    const bool has_labels = problem.function != Function::log_softmax;
    bool invalid = has_bad_argument(problem), may_be_invalid = invalid;
    std::string bad_label;
    Expected expected;
    if (!invalid && has_labels) {
        const std::vector<Sample> samples = samples_of(problem);
        bad_label = label_fault(problem, samples);
        may_be_invalid = has_bad_sample_weight(problem, samples);
        invalid = may_be_invalid && bad_label.empty();
        if (!may_be_invalid && bad_label.empty()) {
            expected = expected_of(problem, samples);
            invalid = may_be_invalid =
                expected.is_empty && problem.options.empty == nll::Empty::raise;
        }
    } else if (!invalid) {
        expected = log_softmax_of(problem);
    }
    try {
        const std::optional<nll::Loss> loss = run(problem);
        REQUIRE(!invalid && bad_label.empty());
        require_results(problem, expected, loss);
        return 0;
    } catch (const std::invalid_argument& error) {
        if (!may_be_invalid) std::fprintf(stderr, "%s\n", error.what());
        REQUIRE(may_be_invalid);
    } catch (const std::out_of_range& error) {
        if (bad_label != error.what())
            std::fprintf(stderr, "%s\n%s\n", error.what(), bad_label.c_str());
        REQUIRE(bad_label == error.what() && !invalid);
    }
    require_untouched(problem);
    return 0;
}
