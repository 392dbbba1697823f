// SPDX-License-Identifier: BSD-3-Clause
// The state of a loss over data that comes in batches: exact sums, which merge in any order, on any
// machine, with the same result.
//
//     nll::State state(nll::LossFunction::cross_entropy);
//     for (batch) nll::add_cross_entropy(state, input, target, options);
//     state.merge(nll::State::from_bytes(bytes_of_another_machine));
//     nll::Loss loss = state.loss({.dtype = nll::DType::float32});   // the bits of one call
//
// For each kept sample, l is its loss without weight, w its weight (1 without any), and v its
// weighted loss rounded to double: what Reduction::none gives in double. A state holds
//
//     loss           Σ w·l      (with label smoothing: Σ of the smoothed losses, weights included)
//     weight         Σ w
//     square         Σ v²
//     cross          Σ v·w
//     weight_square  Σ w²
//     count, ignored            samples that were kept, and those that were not
//
// without any error. So data that is equal gives states that are equal, to the last byte, whatever
// the order, the batches and the threads. For nll_loss that holds on all machines; the losses of
// cross_entropy themselves are the same on all that have a fused multiply-add, and within their
// bounds on others.
//
// The bytes, all little-endian (C++ and Python write and read the same):
//
//     offset  bytes  field
//          0      8  89 6e 6c 6c 0d 0a 1a 0a: "\x89nll\r\n\x1a\n"
//          8      2  version, 1
//         10      1  loss: 0 nll_loss, 1 cross_entropy
//         11      1  1 if there are class weights, else 0
//         12      1  dtypes of the losses that were added: float16 1, bfloat16 2, float32 4,
//                    float64 8, or'ed; they say in what dtype a loss is returned
//         13      1  1 if a sample was added with a weight given, else 0
//         14      2  specials: NaN, +inf and -inf met in loss (bits 0 to 2), weight (3 to 5),
//                    square (6 to 8), cross (9 to 11), weight_square (12 to 14)
//         16      8  label_smoothing, a double
//         24      8  number of class weights; 0 without
//         32      8  XXH64, seed 0, of the class weights as doubles (NaN: 0x7ff8000000000000,
//                    zero: +0); 0 without
//         40      8  count
//         48      8  ignored
//         56    544  loss, as an integer in two's complement, in units of 2^-2176
//        600    544  weight
//       1144    544  square
//       1688    544  cross
//       2232    544  weight_square
//       2776      8  XXH64, seed 0, of all bytes before
//
// from_bytes refuses everything else: other lengths, versions and checksums, and every field that
// no data could have given (a sum that its count cannot reach, a negative square, and so on). The
// checksum finds accidents; it is no signature.
#pragma once

#include <array>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "detail/operands.hpp"
#include "types.hpp"
#include "view.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {

namespace NLL_HIDDEN detail {
struct StateAccess;
}

enum class LossFunction : std::uint8_t { nll_loss, cross_entropy };

class State {
public:
    static constexpr index_t size = 2784;  // bytes
    using Bytes = std::array<std::uint8_t, size>;

    // Tells states apart that must not be merged.
    struct Kind {
        LossFunction function = LossFunction::nll_loss;
        double label_smoothing = 0;
        index_t weights = -1;             // number of class weights, or -1
        std::uint64_t weight_digest = 0;  // as in the bytes
        bool operator==(const Kind&) const = default;
    };

    // Begins without a sample. Throws std::invalid_argument for a smoothing outside [0, 1], or one
    // of nll_loss, and for weights that a call would refuse.
    NLL_API explicit State(LossFunction function, const Weight& weight = {},
                           double label_smoothing = 0);
    // Begins without a sample, of this kind. Throws std::invalid_argument for one that no state
    // has.
    NLL_API explicit State(const Kind& kind);
    State(const State&) = default;
    State& operator=(const State&) = default;
    // Leaves the other without a sample, of its kind.
    State(State&& other) noexcept
        : kind_(other.kind_),
          count_(std::exchange(other.count_, 0)),
          ignored_(std::exchange(other.ignored_, 0)),
          dtypes_(std::exchange(other.dtypes_, std::uint8_t{0})),
          weighted_(std::exchange(other.weighted_, false)),
          stretch_(std::exchange(other.stretch_, {})),
          digits_(std::move(other.digits_)) {}
    State& operator=(State&& other) noexcept {
        State taken(std::move(other));
        kind_ = taken.kind_;
        count_ = taken.count_;
        ignored_ = taken.ignored_;
        dtypes_ = taken.dtypes_;
        weighted_ = taken.weighted_;
        stretch_ = taken.stretch_;
        digits_ = std::move(taken.digits_);
        return *this;
    }
    ~State() = default;

    // Throws std::invalid_argument if they are not the bytes of a state, and says why.
    NLL_API static State from_bytes(std::span<const std::uint8_t> bytes);
    NLL_API Bytes to_bytes() const;

    // Adds what another state holds. Throws std::invalid_argument if its kind is another, and says
    // what differs; both are then as they were.
    NLL_API void merge(const State& other);
    State& operator+=(const State& other) {
        merge(other);
        return *this;
    }
    friend State operator+(State one, const State& other) { return one += other; }

    // Returns the loss of all samples, for Reduction::sum or mean, and Options::empty: rounded once
    // to Options::dtype, or to the dtype of the losses that were added (the widest, if they
    // differ). It has the bits that one call for all of them returns.
    NLL_API Loss loss(const Options& options = {}) const;
    // Returns the dtype of loss() without Options::dtype.
    NLL_API DType dtype() const;
    // Returns the sum of weights, rounded once.
    NLL_API double total_weight() const;
    // Returns the standard error of the mean, of samples that were drawn independently:
    //
    //     sqrt(n/(n - 1)·Σ (v - m·w)²) / Σ w,   m = Σ w·l / Σ w, n = count
    //
    // This is Cochran's for a ratio of two sums (Sampling Techniques, 3rd ed., 1977, section 6.4);
    // without weights it is s/sqrt(n). It is within 8 ULP. NaN for fewer than two samples, for
    // Σ w = 0, and where a sum is not finite.
    NLL_API double standard_error() const;
    // Returns e^mean: infinity where that is larger than all doubles.
    NLL_API double perplexity(Empty empty = Empty::nan) const;
    index_t count() const { return count_; }      // samples that were not ignored
    index_t ignored() const { return ignored_; }  // samples that were
    const Kind& kind() const { return kind_; }

private:
    friend struct detail::StateAccess;

    // Describes a sum: `count` digits of 32 bits from `low` on; specials in bits 0 to 2, and in
    // bit 3 whether 2^32 to the power of low + count is to be taken off.
    struct Stretch {
        std::int16_t low = 0, count = 0;
        std::uint8_t flags = 0;
    };
    static constexpr int sums = 5;

    Kind kind_;
    index_t count_ = 0, ignored_ = 0;
    std::uint8_t dtypes_ = 0;
    bool weighted_ = false;
    std::array<Stretch, sums> stretch_{};
    std::vector<std::uint32_t> digits_;  // of all sums, one after the other
};

// Merges `count` states as bytes, `stride` bytes apart. Throws std::invalid_argument as from_bytes
// and State::merge, or for none at all, and says which of them it is.
NLL_API State merge(const std::uint8_t* states, index_t count, index_t stride);

namespace NLL_HIDDEN detail {

// Says where the losses of a call are added.
struct Collection {
    LossFunction function;
    std::span<State> states;       // one; or those of the groups
    bool grouped = false;          // states are those of groups
    const Array* group = nullptr;  // (N, d1, ..., dk), of integers; without, groups are classes
    bool same_weights = false;     // known, so that their digest need not be computed
    std::mutex* gate = nullptr;    // held while states change
};

#if defined(NLL_COMPILED)
NLL_API void collect(const Collection& to, const Call& call);
template <class> void collect_as(const Collection& to, const Call& call) { collect(to, call); }
#else
template <class = void> void collect(const Collection& to, const Call& call);
template <class Scalar> void collect_as(const Collection& to, const Call& call);
#endif

}  // namespace NLL_HIDDEN detail

// ---------------------------------------------------------------- batches

// Adds the losses of a batch to a state, in one sweep. Options::weight and label_smoothing are
// those that the state was made with; its reduction and empty have no meaning. Throws as nll_loss
// does: the state is then as it was.
template <class Scalar, int Rank, class Label>
NLL_HIDDEN void add_nll_loss(State& state, View<Scalar, Rank> input, View<Label, Rank - 1> target,
                             const Options& options = {}) {
    const Array from = detail::input_array(input), labels = detail::target_array(target);
    detail::collect_as<std::remove_const_t<Scalar>>(
        {LossFunction::nll_loss, {&state, 1}},
        {{&from, &labels, nullptr, nullptr, nullptr}, options});
}
template <class Scalar, int Rank, class Label>
NLL_HIDDEN void add_cross_entropy(State& state, View<Scalar, Rank> input,
                                  View<Label, Rank - 1> target, const Options& options = {}) {
    const Array from = detail::input_array(input), labels = detail::target_array(target);
    detail::collect_as<std::remove_const_t<Scalar>>(
        {LossFunction::cross_entropy, {&state, 1}},
        {{&from, &labels, nullptr, nullptr, nullptr}, options});
}

// Add each sample to the state of its group. group: (N, d1, ..., dk), in [0, states.size()), also
// where the sample is ignored. A group outside throws std::out_of_range, as a label does. All
// states are of one kind.
template <class Scalar, int Rank, class Label, class Group>
NLL_HIDDEN void add_nll_loss(std::span<State> states, View<Scalar, Rank> input,
                             View<Label, Rank - 1> target, View<Group, Rank - 1> group,
                             const Options& options = {}) {
    const Array from = detail::input_array(input), labels = detail::target_array(target),
                groups = detail::group_array(group);
    detail::collect_as<std::remove_const_t<Scalar>>(
        {LossFunction::nll_loss, states, true, &groups},
        {{&from, &labels, nullptr, nullptr, nullptr}, options});
}
template <class Scalar, int Rank, class Label, class Group>
NLL_HIDDEN void add_cross_entropy(std::span<State> states, View<Scalar, Rank> input,
                                  View<Label, Rank - 1> target, View<Group, Rank - 1> group,
                                  const Options& options = {}) {
    const Array from = detail::input_array(input), labels = detail::target_array(target),
                groups = detail::group_array(group);
    detail::collect_as<std::remove_const_t<Scalar>>(
        {LossFunction::cross_entropy, states, true, &groups},
        {{&from, &labels, nullptr, nullptr, nullptr}, options});
}

}  // namespace nll::inline NLL_VERSION_NAMESPACE

#if !defined(NLL_COMPILED)
#include "nll.hpp"  // which defines what is declared here
#endif
