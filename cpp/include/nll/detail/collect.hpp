// SPDX-License-Identifier: BSD-3-Clause
// How the samples of a call get into a state, or into those of their groups.
//
// Grouped, a call notes every sample (block.hpp). Afterwards the samples are put in the order of
// their groups, and each group is summed by the block, as in a call.
#pragma once

#include <functional>
#include <numeric>
#include <utility>

#include "block.hpp"
#include "parallel.hpp"
#include "state_sums.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

#if defined(NLL_COMPILED)
// Returns the compiled library's, for this machine.
SumGroup group_sum();
#endif

inline namespace NLL_INSTRUCTION_SET {

#if !defined(NLL_COMPILED)
inline SumGroup group_sum() { return sum_group; }
#endif

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
    const bool negative = is_signed_integer(group.dtype) && bad_group >> 63;
    throw std::out_of_range(place_text("group", bad.data(), samples.target_rank) + " is " +
                            text(bad_group, negative) + ", outside [0, " + std::to_string(groups) +
                            ")");
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
        const DefaultFloatingPoint environment;
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
        check_rank("group", *to.group);
        check_integer("group", to.group->dtype);
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

}  // namespace NLL_INSTRUCTION_SET

#if !defined(NLL_COMPILED)
template <class Scalar> void collect_as(const Collection& to, const Call& call) {
    collect_with(to, call, [&](const Call& summed) {
        if (to.function == LossFunction::nll_loss) nll_loss_as<Scalar>(summed);
        else cross_entropy_as<Scalar>(summed);
    });
}
template <class> void collect(const Collection& to, const Call& call) {
    visit_floating(dtype_of_call(call), [&]<class Scalar>() { collect_as<Scalar>(to, call); });
}
#endif

}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
