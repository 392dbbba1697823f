// SPDX-License-Identifier: BSD-3-Clause
// Sums of exponentials over classes, in small buffers.
//
// A sum over classes has one order, whatever the layout, the threads and the processor: chunks of `chunk_size` classes;
// in a chunk 16 lanes, the class modulo 16; the lanes in a tree; the chunks one after the other. Only plain sums of up
// to `in_turn` classes are taken one after the other. It is computed in two ways: for a row, many classes of one sample
// side by side; and for a tile, class after class of many samples.
#pragma once

#include "exponential.hpp"
#include "plan.hpp"

namespace nll {
inline namespace NLL_INSTRUCTION_SET {

inline constexpr index_t in_turn = 128;      // classes
inline constexpr index_t chunk_size = 2048;  // classes: values and exponentials of a chunk fit in a first-level cache

// log(1 + x) for 0 <= x < 2^1000, or NaN: within 1 ULP. The way of fdlibm: 1 + x is 2^n·z with z near 1, log z an odd
// series of s = (z - 1)/(z + 1), and what was lost in 1 + x is added.
[[gnu::always_inline]] inline double log1p_of(double x) {
    constexpr double log_2_high = 0x1.62e42fee00000p-1, log_2_low = 0x1.a39ef35793c76p-33;
    const double y = 1 + x, lost = (x - (y - 1)) / y;
    constexpr auto root_of_half = std::uint64_t{0x3fe6a09e667f3bcd};
    const auto bits = std::bit_cast<std::uint64_t>(y);
    const std::uint64_t n_bits = (bits - root_of_half) >> 52;
    const double n = std::bit_cast<double>(n_bits | std::bit_cast<std::uint64_t>(0x1p52)) - 0x1p52;
    const double f = std::bit_cast<double>(bits - (n_bits << 52)) - 1;
    const double s = f / (2 + f), s2 = s * s;
    // 2/3 s^2 + 2/5 s^4 + ... for s^2 < 0.0295: the next term is below 2^-60.
    const double series = s2 * polynomial(s2, 2 / 25., 2 / 23., 2 / 21., 2 / 19., 2 / 17., 2 / 15., 2 / 13., 2 / 11.,
                                          2 / 9., 2 / 7., 2 / 5., 2 / 3.);
    const double half_square = 0.5 * f * f;
    return n * log_2_high - ((half_square - (s * (half_square + series) + (n * log_2_low + lost))) - f);
}

// ---------------------------------------------------------------- the softmax of a sample

// Adds a number to a sum that keeps what is rounded off; of infinities nothing is.
[[gnu::always_inline]] inline void accumulate(double& sum, double& error, double number) {
    const double total = sum + number;
    error += lost(sum, number, total);
    sum = total;
}
inline double total_of(double sum, double error) { return std::fabs(sum) < infinity ? sum + error : sum; }

// Adds the next chunk's powers, `sum` + `error`.
[[gnu::always_inline]] inline void add_chunk(double& all, double& all_lost, double sum, double error) {
    accumulate(all, all_lost, sum);
    all_lost += error;
}

inline void merge(Softmax& all, const Softmax& chunk) {
    add_chunk(all.sum, all.lost, chunk.sum, chunk.lost);
    all.below += chunk.below;
    all.weight += chunk.weight;
    all.near &= chunk.near;
    if (chunk.largest > all.largest) {
        all.largest = chunk.largest;
        all.chunk = chunk.chunk;
    }
}

// Logits with +inf among them, or all of them -inf, have no softmax.
[[gnu::always_inline]] inline double defined(double sum) {
    return sum > 0 && sum < infinity ? sum : std::numeric_limits<double>::quiet_NaN();
}

// Whether the power of the one may be taken off a sum in which each addition was rounded.
[[gnu::always_inline]] inline bool leaves_enough(double sum, double unit) { return sum - unit >= 0x1p-10 * sum; }

// Where it may not, the rounded sum of its chunk is replaced by its power, which is there once, and the sum of all
// others in that chunk.
[[gnu::always_inline]] inline double without_chunk(double unit, double chunk_sum, double others) {
    return (unit - chunk_sum) + others;
}

// The powers of all but the one.
template <class Arithmetic> [[gnu::always_inline]] inline double rest_of(double sum, double lost, double unit) {
    const double rest = (sum - unit) + lost;
    return rest < Arithmetic::flushed * unit ? 0.0 : rest;
}

// log(all/unit), or NaN, for unit + rest = all and a quotient of [2^-1000, 2^1000]: within 1 ULP if `exact`, where unit
// is 1 and rest not negative; or within 2^-39. Divides once: all/unit is 2^n·z with z in [2/3, 3/2], log z an odd
// series of (z - 1)/(z + 1).
template <class Arithmetic> [[gnu::always_inline]] inline double log_quotient_of(double all, double unit, double rest) {
    if constexpr (Arithmetic::exact) {
        return log1p_of(rest);
    } else {
        // Numbers are nearly as far apart as their bits, on a scale of logarithms.
        constexpr std::uint64_t bias = 1024;
        const std::uint64_t apart = std::bit_cast<std::uint64_t>(all) - std::bit_cast<std::uint64_t>(unit);
        const std::uint64_t n_bits = (apart + (bias << 52) + (std::uint64_t{1} << 51)) >> 52;
        const double n = std::bit_cast<double>(n_bits | std::bit_cast<std::uint64_t>(0x1p52)) - (0x1p52 + bias);
        const double z = all * std::bit_cast<double>(std::bit_cast<std::uint64_t>(1.0) - ((n_bits - bias) << 52));
        const double s = (n == 0 ? rest : z - unit) / (z + unit), s2 = s * s;  // z is times unit
        // 2/3 s^2 + 2/5 s^4 + ... for s^2 <= 0.04: the next term is below 2^-40.
        const double series = s2 * polynomial(s2, 2 / 15., 2 / 13., 2 / 11., 2 / 9., 2 / 7., 2 / 5., 2 / 3.);
        return n * 0x1.62e42fefa39efp-1 + s * (2 + series);
    }
}

// log Σ e^x is center + log: about the logit of the one where that is most of the sum, and otherwise about the offset,
// whose power is `base`.
struct LogSum {
    double center, log;
};
template <class Arithmetic>
[[gnu::always_inline]] inline LogSum log_sum_of(double sum, double lost, double unit, double rest, double logit,
                                                double offset, double base) {
    const bool most = rest < unit;
    const double of = most ? unit : base, others = most ? rest : (sum - base) + lost;
    return {most ? logit : offset, log_quotient_of<Arithmetic>(most ? unit + rest : sum, of, others)};
}

// ---------------------------------------------------------------- a row: classes of one sample, in whole pairs of
// lanes

inline constexpr index_t pair_size = 2 * lanes;
constexpr index_t paired(index_t count) { return (count + pair_size - 1) / pair_size * pair_size; }

template <class To, class From> [[gnu::always_inline]] inline To converted(From value) {
    if constexpr (std::same_as<To, From>) return value;
    else return static_cast<To>(to_real(value));
}

// In a tree.
template <int count = lanes> [[gnu::always_inline]] inline double add_lanes(const double* lane) {
    if constexpr (count == 1) {
        return lane[0];
    } else {
        double sum[count / 2];
        for (int l = 0; l < count / 2; ++l) sum[l] = lane[l] + lane[count / 2 + l];
        return add_lanes<count / 2>(sum);
    }
}

// How far from 0 values are, by lanes; NaN does not count.
[[gnu::always_inline]] inline void see_values(const float* values, float* seen) {
    NLL_ONE_VECTOR for (int l = 0; l < lanes; ++l) {
        const float size = std::fabs(values[l]);
        seen[l] = seen[l] < size ? size : seen[l];
    }
}

// Of a row so far, by lanes: the sums of exponentials, and what of the values shows that they need a guard.
template <class Arithmetic> struct RowLanes {
    using Shared = Reference<Arithmetic, 1>;
    double sum[lanes] = {};
    typename Shared::Seen seen[lanes];

    RowLanes() { std::fill_n(seen, lanes, Shared::none_seen); }
    bool all_near(Guard guard) const { return guard == Guard::all || Shared::all_near(seen, sum, lanes); }
};

// Adds the exponentials, and keeps them if there is a place for them. What fills up the last pair of lanes may be far
// from the center. Memory is asked for long before, into the second cache: a line after `ahead` with every 64 bytes or
// less; and from there shortly before.
template <Guard guard, class Scalar, class Arithmetic>
[[gnu::noinline]] void exponentials_of_row(const Scalar* __restrict values, index_t classes,
                                           const Reference<Arithmetic, 1>& shared, const std::byte* ahead, index_t step,
                                           typename Arithmetic::Power* __restrict powers, RowLanes<Arithmetic>& row) {
    using Real = typename Arithmetic::Real;
    using Shared = Reference<Arithmetic, 1>;
    constexpr index_t shortly = 2048 / sizeof(Scalar);
    const Shared reference = shared;  // its own memory, which no store changes
    RowLanes<Arithmetic> found = row;
    const auto compute = [&](index_t begin, index_t end, auto guarded, auto keeps) {
        [[maybe_unused]] Group sum[lanes / Group::size];
        if constexpr (Arithmetic::fused)
            for (int l = 0; l < lanes; l += Group::size) sum[l / Group::size] = Group::load(found.sum + l);
        for (index_t c = begin; c < end; c += pair_size) {
            for (index_t half = 0; half < pair_size; half += lanes) {
                NLL_PREFETCH(values + c + half + shortly);
                NLL_PREFETCH_FAR(ahead);
                ahead += step;
            }
            [[maybe_unused]] Real wide[pair_size];
            const Real* pair = wide;
            if constexpr (std::same_as<Scalar, Real>) pair = values + c;
            else
                for (int l = 0; l < pair_size; ++l) wide[l] = converted<Real>(values[c + l]);
            if constexpr (Arithmetic::fused) {
                NLL_UNROLL for (int l = 0; l < pair_size; l += Group::size) {
                    const Factors of = reference.template factors<guarded.value>(pair + l, 0);
                    if constexpr (keeps) (of.step * of.fraction).store(powers + c + l);
                    Group& total = sum[l % lanes / Group::size];
                    total = multiply_add(of.step, of.fraction, total);
                }
                if constexpr (Shared::sees_values && guarded.value == Guard::none)
                    for (index_t half = 0; half < pair_size; half += lanes) see_values(pair + half, found.seen);
            } else {
                NLL_ONE_VECTOR for (int l = 0; l < lanes; ++l) {
                    const auto power = reference.template exponential<guarded.value>(pair[l], 0, found.seen[l]);
                    const auto next = reference.template exponential<guarded.value>(pair[lanes + l], 0, found.seen[l]);
                    if constexpr (keeps) {
                        powers[c + l] = power;
                        powers[c + lanes + l] = next;
                    }
                    found.sum[l] += static_cast<double>(power + next);
                }
            }
        }
        if constexpr (Arithmetic::fused)
            for (int l = 0; l < lanes; l += Group::size) sum[l / Group::size].store(found.sum + l);
    };
    const auto compute_all = [&](auto keeps) {
        constexpr Guard last = guard == Guard::none ? Shared::next_guard(guard) : guard;
        const index_t whole = guard == last ? 0 : classes / pair_size * pair_size;
        if constexpr (guard != last) compute(0, whole, std::integral_constant<Guard, guard>(), keeps);
        compute(whole, classes, std::integral_constant<Guard, last>(), keeps);
    };
    if (powers) compute_all(std::true_type());
    else compute_all(std::false_type());
    row = found;
}

// The sum, in the same order, of all powers but one.
template <class Power> [[gnu::noinline]] double sum_of_others(const Power* powers, index_t classes, Power one) {
    const auto other = [&](index_t c) { return powers[c] == one ? Power{0} : powers[c]; };
    double lane[lanes] = {};
    for (index_t c = 0; c < classes; c += pair_size)
        for (int l = 0; l < lanes; ++l) lane[l] += static_cast<double>(other(c + l) + other(c + lanes + l));
    return add_lanes(lane);
}

struct Compensated {
    double sum, error;
};

// The sum in the same order, of which nothing is lost.
template <class Number> [[gnu::noinline]] Compensated compensated_sum(const Number* values, index_t classes) {
    double sum[lanes] = {}, error[lanes] = {};
    for (index_t c = 0; c < classes; c += lanes)
        for (int l = 0; l < lanes; ++l) accumulate(sum[l], error[l], static_cast<double>(values[c + l]));
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) {
            accumulate(sum[l], error[l], sum[l + half]);
            error[l] += error[l + half];
        }
    return {sum[0], error[0]};
}

template <class Real> [[gnu::noinline]] Real largest_of(const Real* __restrict values, index_t classes) {
    constexpr int wide = 2 * lanes;  // for each waits for itself
    Real largest[wide];
    std::fill_n(largest, wide, -std::numeric_limits<Real>::infinity());
    const index_t even = classes / wide * wide;
    for (index_t c = 0; c < even; c += wide)
        for (int l = 0; l < wide; ++l) largest[l] = largest[l] < values[c + l] ? values[c + l] : largest[l];
    for (index_t c = even; c < classes; ++c)
        largest[c - even] = largest[c - even] < values[c] ? values[c] : largest[c - even];
    return *std::max_element(largest, largest + wide);
}

// ---------------------------------------------------------------- a tile: samples side by side, class after class

// The largest of each sample, so far.
template <class Real>
[[gnu::noinline]] void take_largest(const Real* values, index_t classes, index_t samples, index_t pitch,
                                    Real* __restrict largest) {
    for (index_t c = 0; c < classes; ++c) {
        const Real* __restrict from = values + c * pitch;
        for (index_t i = 0; i < samples; ++i) largest[i] = largest[i] < from[i] ? from[i] : largest[i];
    }
}

// Whether what waits is copied between the exponentials of tiles. Where registers are as wide as a cache line, this
// gains 12 % of images from memory, of double 20 % (Emerald Rapids); with AVX2 it loses 5 to 10 % (Zen 3).
#if defined(__AVX512F__)
inline constexpr bool streams_between = true;
#else
inline constexpr bool streams_between = false;
#endif

// The exponentials, and of each sample the sum of powers so far: in turn, or by lanes of classes that are so far apart
// (0: in turn). Of each class, so many samples after `ahead` are asked for, and as much of what waits is written. The
// reference is one for all samples, or one for each. Says whether all values were near.
template <Guard guard, class Scalar, class Arithmetic, int width>
[[gnu::noinline]] bool exponentials_of_tile(const typename Arithmetic::Real* values, index_t classes, index_t samples,
                                            index_t pitch, const Reference<Arithmetic, width>& shared,
                                            const Scalar* ahead, index_t step, Waiting& waiting,
                                            typename Arithmetic::Power* powers, index_t powers_pitch,
                                            double* __restrict sums, index_t lane_pitch) {
    using Shared = Reference<Arithmetic, width>;
    constexpr index_t line = 64 / sizeof(Scalar);
    const std::conditional_t<(width > 1), const Shared&, const Shared> reference = shared;
    Waiting written = waiting;
    bool near = true;
    // One or two groups of lanes, class after class: of each class, two cache lines that lie side by side.
    const auto compute = [&](index_t first, auto groups, auto by_lanes) {
        constexpr int count = groups.value * lanes;
        typename Shared::Seen seen[lanes];
        std::fill_n(seen, lanes, Shared::none_seen);
        const auto for_each_class = [&](auto&& visit) {
            for (index_t c = 0; c < classes; ++c) {
                for (index_t i = first; i < first + count; i += line) NLL_PREFETCH(ahead + c * step + i);
                if constexpr (streams_between) written.copy_some(count / line);
                visit(c, values + c * pitch + first, powers + c * powers_pitch + first);
            }
        };
        if constexpr (Arithmetic::fused) {
            Group sum[count / Group::size];
            for (int k = 0; k < count; k += Group::size) sum[k / Group::size] = Group::load(sums + first + k);
            for_each_class([&](index_t c, const auto* __restrict from, auto* __restrict to) {
                double* lane = sums + c % lanes * lane_pitch + first;
                NLL_UNROLL for (int k = 0; k < count; k += Group::size) {
                    const Factors of = reference.template factors<guard>(from + k, first + k);
                    (of.step * of.fraction).store(to + k);
                    if constexpr (by_lanes) {
                        multiply_add(of.step, of.fraction, Group::load(lane + k)).store(lane + k);
                    } else {
                        Group& total = sum[k / Group::size];
                        total = multiply_add(of.step, of.fraction, total);
                    }
                }
                if constexpr (Shared::sees_values && guard == Guard::none)
                    for (int k = 0; k < count; k += lanes) see_values(from + k, seen);
            });
            if constexpr (!by_lanes)
                for (int k = 0; k < count; k += Group::size) sum[k / Group::size].store(sums + first + k);
        } else {
            alignas(64) double sum[count];
            std::copy_n(sums + first, count, sum);
            for_each_class([&](index_t, const auto* __restrict from, auto* __restrict to) {
                NLL_ONE_VECTOR for (int l = 0; l < lanes; ++l) {
                    NLL_UNROLL for (int k = l; k < count; k += lanes) {
                        to[k] = reference.template exponential<guard>(from[k], width > 1 ? first + k : 0, seen[l]);
                        sum[k] += static_cast<double>(to[k]);
                    }
                }
            });
            std::copy_n(sum, count, sums + first);
        }
        for (int lane = 0; lane < (by_lanes ? lanes : 1); ++lane)
            near &= Shared::all_near(seen, sums + lane * lane_pitch + first, count);
    };
    const auto compute_all = [&](auto by_lanes) {
        index_t first = 0;
        for (; first + 2 * lanes <= samples; first += 2 * lanes)
            compute(first, std::integral_constant<int, 2>(), by_lanes);
        if (first < samples) compute(first, std::integral_constant<int, 1>(), by_lanes);
    };
    if (Arithmetic::fused && lane_pitch != 0) compute_all(std::bool_constant<Arithmetic::fused>());
    else compute_all(std::false_type());
    waiting = written;
    return near || guard == Guard::all;
}

// Sums of up to 16 lanes of classes, each of up to `width` samples. Compensated ones add up beside what additions round
// off.
template <int width, bool compensated> class LaneSums {
public:
    // All lanes 0, to be added to.
    void clear(index_t samples) {
        for (filled_ = 0; filled_ < lanes; ++filled_) std::fill_n(sum + filled_ * width, samples, 0.0);
    }
    // The powers of some classes of all samples, whole pairs of lanes unless they are the last; `counted` is what
    // counts of the power of a sample.
    template <class Power> void add_classes(const Power* values, index_t classes, index_t samples, index_t pitch) {
        add_classes(values, classes, samples, pitch, [](Power power, index_t) { return power; });
    }
    template <class Power, class Counted>
    [[gnu::noinline]] void add_classes(const Power* values, index_t classes, index_t samples, index_t pitch,
                                       const Counted& counted) {
        for (index_t first = 0; first < classes; first += pair_size)
            for (index_t k = 0; k < std::min(lanes, classes - first); ++k) {
                if (k >= filled_) {
                    std::fill_n(sum + k * width, samples, 0.0);
                    if constexpr (compensated) std::fill_n(error + k * width, samples, 0.0);
                    filled_ = k + 1;
                }
                const Power* from = values + (first + k) * pitch;
                const Power* next = first + k + lanes < classes ? from + lanes * pitch : nullptr;
                if (!next) {
                    add_lane(k, samples, [&](index_t i) { return counted(from[i], i); });
                } else if (compensated) {
                    add_lane(k, samples, [&](index_t i) { return counted(from[i], i); });
                    add_lane(k, samples, [&](index_t i) { return counted(next[i], i); });
                } else {
                    add_lane(k, samples, [&](index_t i) { return counted(from[i], i) + counted(next[i], i); });
                }
            }
    }
    // Adds up the lanes, in a tree: the sums are then in the first.
    [[gnu::noinline]] void finish(index_t samples) {
        for (index_t half = lanes / 2; half > 0; half /= 2) {
            for (index_t k = 0; k < filled_ - half; ++k) {
                add_lane(k, samples, [&](index_t i) { return sum[(k + half) * width + i]; });
                if constexpr (compensated)
                    for (index_t i = 0; i < samples; ++i) error[k * width + i] += error[(k + half) * width + i];
            }
            filled_ = std::min(filled_, half);
        }
    }

    double sum[lanes * width];
    double error[compensated ? lanes * width : 1];

private:
    template <class Number> [[gnu::always_inline]] void add_lane(index_t k, index_t samples, Number&& number) {
        double *to = sum + k * width, *lost_of = error + (compensated ? k * width : 0);
        for (index_t i = 0; i < samples; ++i) {
            if constexpr (compensated) accumulate(to[i], lost_of[i], static_cast<double>(number(i)));
            else to[i] += static_cast<double>(number(i));
        }
    }
    index_t filled_ = 0;  // lanes
};

}  // namespace NLL_INSTRUCTION_SET
}  // namespace nll
