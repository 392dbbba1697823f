// SPDX-License-Identifier: BSD-3-Clause
// What exactness costs: the library's forward kernel beside the same kernel whose blocks go into a
// plain double sum. One JSON line a case. Both gather alike, in threads alike, and take turns; the
// medians of their times are printed.
#include <nll/nll.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

using namespace nll;
using namespace nll::detail;

namespace {

// Holds plain sums of a range of samples.
struct PlainSums {
    double loss = 0, weight = 0;
    index_t count = 0;
    void* memory = nullptr;  // not needed; parallel::reduce sets it
};

// Returns the sum of value(i), i < count, which is whole lanes.
template <class Value> double lane_sum(index_t count, Value&& value) {
    double sums[lanes] = {};
    for (index_t i = 0; i < count; i += lanes)
        for (int l = 0; l < lanes; ++l) sums[l] += value(i + l);
    return std::accumulate(sums, sums + lanes, 0.0);
}

// Adds samples [first, last) as nll_loss_sweep does, but in plain double sums.
template <class Scalar>
void plain_sweep(const Plan& plan, index_t first, index_t last, PlainSums& sums) {
    Partial unused;
    const WeightsByClass by_class(plan, last - first);
    LossBlock<Scalar> block;
    LabelsAhead labels(plan, first, last, block_size, unused);
    for_each_block(first, last, block_size, [&](index_t begin, index_t count) {
        const index_t kept = labels.step();
        sums.count += kept;
        block.first = begin;
        block.count = count;
        block.known = labels.known();
        block.classes = labels.classes();
        block.all_kept = kept == count && labels.next_all_kept();
        gather_losses(plan, by_class, block, block_size, [](index_t) {});
        pad(block.losses, count);
        const auto loss = [&](index_t i) { return static_cast<double>(block.losses[i]); };
        if (!plan.weight) {
            sums.loss += lane_sum(padded(count), loss);
            return;
        }
        pad(block.weights, count);
        const auto weight = [&](index_t i) { return block.weights[i]; };
        sums.weight += lane_sum(padded(count), weight);
        sums.loss += lane_sum(padded(count), [&](index_t i) { return weight(i) * loss(i); });
    });
}

template <class Scalar>
double plain_mean(View<const Scalar, 2> input, View<const std::int64_t, 1> target,
                  const Options& options) {
    const Array from(input), labels(target);
    const Plan plan({&from, &labels}, 1, options);
    PlainSums total;
    const index_t pieces =
        std::max<index_t>(1, std::min<index_t>(32, plan.samples.count / block_size / 16));
    parallel::reduce(
        total, plan.samples.count, block_size * pieces, parallel::limit(options.num_threads),
        nullptr,
        [&](index_t first, index_t last, PlainSums& part) {
            plain_sweep<Scalar>(plan, first, last, part);
            return true;
        },
        [](PlainSums& sum, const PlainSums& part) {
            sum.loss += part.loss;
            sum.weight += part.weight;
            sum.count += part.count;
        });
    return total.loss / (options.weight ? total.weight : static_cast<double>(total.count));
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

double median(std::vector<double> times) {
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                     times.end());
    return times[times.size() / 2];
}

template <class Scalar>
void measure(const char* name, index_t N, index_t C, bool weighted, int threads, int rounds) {
    std::vector<Scalar> data(static_cast<std::size_t>(N * C));
    std::vector<std::int64_t> labels(static_cast<std::size_t>(N));
    std::vector<float> weight(static_cast<std::size_t>(C));
    std::mt19937 random(0);
    std::uniform_real_distribution<float> probability(0.01f, 0.99f);
    for (Scalar& value : data) value = static_cast<Scalar>(-4 * probability(random));
    for (std::int64_t& label : labels) label = static_cast<std::int64_t>(random()) % C;
    for (float& value : weight) value = probability(random);
    const View<const Scalar, 2> input{data.data(), {N, C}};
    const View<const std::int64_t, 1> target{labels.data(), {N}};
    Options options{.num_threads = threads};
    if (weighted) options.weight = View<const float, 1>{weight.data(), {C}};

    std::vector<double> exact, plain;
    double difference = 0;
    for (int round = 0; round <= rounds; ++round) {
        const double start = now();
        const double a = nll_loss(input, target, options).value;
        const double middle = now();
        const double b = plain_mean(input, target, options);
        const double end = now();
        difference = std::max(difference, std::abs(a - b) / std::abs(a));
        if (round == 0) continue;  // warms up
        exact.push_back(middle - start);
        plain.push_back(end - middle);
    }
    if (difference > 1e-6) std::exit(1);
    std::printf("{\"case\": \"%s (%lld, %lld)\", \"exact_s\": %.9f, \"plain_s\": %.9f}\n", name,
                static_cast<long long>(N), static_cast<long long>(C), median(exact), median(plain));
    std::fflush(stdout);
}

}  // namespace

// exactness [threads] [rounds]
int main(int count, char** words) {
    const int threads = count > 1 ? std::atoi(words[1]) : 2,
              rounds = count > 2 ? std::atoi(words[2]) : 31;
    measure<float>("float32", 4000000, 10, false, threads, rounds);
    measure<float>("float32", 200000, 1000, false, threads, rounds);
    measure<float>("float32 weighted", 4000000, 10, true, threads, rounds);
    measure<float>("float32 weighted", 200000, 1000, true, threads, rounds);
    measure<double>("float64", 4000000, 10, false, threads, rounds);
    measure<double>("float64", 100000, 1000, false, threads, rounds);
    measure<double>("float64 weighted", 4000000, 10, true, threads, rounds);
}
