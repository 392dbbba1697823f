// SPDX-License-Identifier: BSD-3-Clause
// Gradients that are written past the caches, or only where they are not zero, are the same as
// those that are written plainly, at any alignment, in every layout, alone and in one sweep with
// the losses; and so are those of cross-entropy, softmax and log_softmax.
#include <nll/detail/parallel.hpp>
#include <nll/detail/plan.hpp>
#include <nll/detail/rounding.hpp>

#include <initializer_list>
#include <random>
#include <utility>
#include <vector>

#include "check.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE::detail::inline NLL_INSTRUCTION_SET {
extern const KernelTable kernel_table;  // of the compiled kernels
}

using namespace nll;
using namespace nll::detail;

namespace {

std::mt19937_64 random_bits(4);

template <class Scalar>
void same_as_plain(std::array<index_t, 3> shape, std::array<int, 3> order, index_t shift,
                   bool with_losses, bool weighted) {
    const Kernels& kernels = kernel_table.of[static_cast<int>(dtype_of<Scalar>)];
    const auto [N, C, D] = shape;
    std::array<index_t, 3> strides;  // in memory, the axes are in this order
    index_t stride = 1;
    for (int a = 2; a >= 0; --a) {
        strides[static_cast<std::size_t>(order[static_cast<std::size_t>(a)])] = stride;
        stride *= shape[static_cast<std::size_t>(order[static_cast<std::size_t>(a)])];
    }
    std::vector<std::int32_t> labels(static_cast<std::size_t>(N * D));
    for (std::int32_t& label : labels)
        label = static_cast<std::int32_t>(random_bits() % static_cast<std::uint64_t>(C + 1)) - 1;
    std::vector<Scalar> logs(static_cast<std::size_t>(N * C * D));
    for (Scalar& log : logs)
        log = from_double<Scalar>(-static_cast<double>(random_bits() % 1024) / 64);
    const Array input_array(View<const Scalar, 3>{logs.data(), shape});
    std::vector<double> weight(static_cast<std::size_t>(C));
    for (std::size_t c = 0; c < weight.size(); ++c)
        weight[c] = 0.5 + static_cast<double>(c % 7) / 16;
    Options options{.ignore_index = -1};
    if (weighted) options.weight = View<double, 1>{weight.data(), {C}};
    const Array target_array(View<std::int32_t, 2>{labels.data(), {N, D}});
    const auto size = static_cast<std::size_t>(N * C * D + shift);
    std::vector<std::uint8_t> plain((size + 1) * sizeof(Scalar), 0xee), streamed(plain),
        zeroed(plain);
    std::fill_n(zeroed.begin() + shift * index_t{sizeof(Scalar)}, logs.size() * sizeof(Scalar),
                std::uint8_t{0});
    Plan forward({&input_array, &target_array, nullptr, nullptr, nullptr}, 1, options);
    Partial losses;
    losses.memory = parallel::require_thread_memory();
    kernels.nll_loss(forward, 0, forward.samples.count, losses);
    for (std::vector<std::uint8_t>* memory : {&plain, &streamed, &zeroed}) {
        auto* data = reinterpret_cast<Scalar*>(memory->data()) + shift;
        const Array to(View<Scalar, 3>{data, shape, strides});
        Plan plan({with_losses ? &input_array : nullptr, &target_array, nullptr, nullptr, &to}, 1,
                  options);
        if (memory == &streamed) plan.store = Store::streamed;
        if (memory == &zeroed) plan.store = Store::entries_only;
        plan.divisor = 3;
        Partial partial;
        partial.memory = parallel::require_thread_memory();
        kernels.nll_loss(plan, 0, plan.samples.count, partial);
        CHECK(partial.bad_sample < 0 && partial.count == losses.count);
        if (with_losses)
            CHECK(rounded(partial.loss, format_of<double>) ==
                  rounded(losses.loss, format_of<double>));
    }
    CHECK(plain == streamed);
    CHECK(plain == zeroed);
    CHECK(plain.back() == 0xee &&
          (shift == 0 || plain.front() == 0xee));  // nothing beside it is touched

    for (const int what : {0, 1, 2}) {  // gradient, softmax, log_softmax
        const bool with_gradient = what == 0;
        std::vector<std::uint8_t> softmax((size + 1) * sizeof(Scalar), 0xee),
            softmax_streamed(softmax);
        for (std::vector<std::uint8_t>* memory : {&softmax, &softmax_streamed}) {
            const Array to(
                View<Scalar, 3>{reinterpret_cast<Scalar*>(memory->data()) + shift, shape, strides});
            Plan plan({&input_array, &target_array, nullptr, nullptr, &to}, 1, options);
            if (memory == &softmax_streamed) plan.store = Store::streamed;
            plan.divisor = 3;
            if (what == 2) plan.softmax_result = SoftmaxResult::log_softmax;
            Partial partial;
            partial.memory = parallel::require_thread_memory();
            const Kernel sweep =
                with_gradient ? kernels.cross_entropy.own.sweep : kernels.softmax.sweep;
            sweep(plan, 0, plan.samples.count, partial);
            CHECK(partial.bad_sample < 0 && partial.count == (with_gradient ? losses.count : 0));
        }
        CHECK(softmax == softmax_streamed);
        CHECK(softmax.back() == 0xee && (shift == 0 || softmax.front() == 0xee));
    }
}

}  // namespace

int main() {
    const std::array<index_t, 3> shapes[] = {
        {700, 10, 1},  {3, 20000, 1}, {1, 5, 3000}, {2, 7, 600},  {300, 10, 4},
        {5, 900, 30},  {40, 3, 512},  {1, 1, 1},    {600, 1, 1},  {2, 9000, 3},
        {3, 70000, 1}, {1100, 2, 1},  {530, 64, 1}, {600, 65, 1}, {17, 229, 27}};
    for (const auto& shape : shapes)
        for (const index_t shift : {0, 1, 5})
            for (const auto& order : {std::array{0, 1, 2}, std::array{0, 2, 1}, std::array{2, 1, 0},
                                      std::array{1, 0, 2}})
                for (const auto& [with_losses, weighted] :
                     std::initializer_list<std::pair<bool, bool>>{
                         {false, true}, {true, true}, {true, false}}) {
                    same_as_plain<float>(shape, order, shift, with_losses, weighted);
                    same_as_plain<double>(shape, order, shift, with_losses, weighted);
                    same_as_plain<float16>(shape, order, shift, with_losses, weighted);
                }
    return failures() != 0;
}
