// SPDX-License-Identifier: BSD-3-Clause
// The same bits for any number of threads, from several threads at once, within somebody else's
// region, after a fork, and in any floating-point environment.
#include <nll/nll.hpp>

#include <array>
#include <atomic>
#include <cfenv>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/wait.h>
#include <unistd.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "check.hpp"

using namespace nll;

namespace {

const std::thread::id main_thread = std::this_thread::get_id();
std::atomic<int> allocated_by_others{0};

}  // namespace

// clang's sanitizers have operators of their own.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define NLL_HAS_OTHER_OPERATORS
#endif
#endif
#if !defined(NLL_HAS_OTHER_OPERATORS)
// Both count, `new (std::nothrow)` of GNU's library by way of this one.
[[gnu::noinline]] void* operator new(std::size_t size) {
    allocated_by_others += std::this_thread::get_id() != main_thread;
    if (void* const memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
    allocated_by_others += std::this_thread::get_id() != main_thread;
    const auto line = static_cast<std::size_t>(alignment);
    if (void* const memory = std::aligned_alloc(line, (size + line - 1) / line * line))
        return memory;
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}
#endif

namespace {

constexpr index_t samples = 100000, classes = 7;
std::vector<float> data(samples* classes);
std::vector<std::int16_t> labels(samples);
const View<const float, 2> input_view{data.data(), {samples, classes}};
const View<const std::int16_t, 1> target_view{labels.data(), {samples}};

double loss_with(int threads) {
    return nll_loss(input_view, target_view, {.reduction = Reduction::sum, .num_threads = threads})
        .value;
}

void any_number_of_threads(double expected) {
    for (int threads = 1; threads <= 9; ++threads) CHECK(same_bits(loss_with(threads), expected));
    std::vector<float> gradient(data.size()), first;
    for (const int threads : {1, 3}) {
        nll_loss_value_and_grad(input_view, target_view,
                                View<float, 2>{gradient.data(), {samples, classes}},
                                {.num_threads = threads});
        if (threads == 1) first = gradient;
    }
    CHECK(first == gradient);
}

// A thread that has no memory must not throw, nor have anything throw inside: see heap.hpp.
void threads_ask_for_no_memory_that_throws() {
    const std::vector<double> logits(4 * 70000);  // whose exponentials are kept by each thread
    const std::int64_t label[4] = {};
    const View<const double, 2> rows{logits.data(), {4, 70000}};
    const View<const std::int64_t, 1> targets{label, {4}};
    std::vector<double> gradient(logits.size());
    allocated_by_others = 0;
    for (const index_t row_count : {4, 1})  // pieces on threads, and a row on all of them
        cross_entropy_value_and_grad(View<const double, 2>{rows.data, {row_count, 70000}},
                                     View<const std::int64_t, 1>{targets.data, {row_count}},
                                     View<double, 2>{gradient.data(), {row_count, 70000}},
                                     {.num_threads = 3, .interrupt = [] { return false; }});
    loss_with(3);
    CHECK(allocated_by_others == 0);
}

void at_the_same_time(double expected) {
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i)
        callers.emplace_back([&] {
            for (int round = 0; round < 20; ++round) wrong += !same_bits(loss_with(2), expected);
        });
    for (std::thread& caller : callers) caller.join();
    CHECK(wrong == 0);
}

void within_a_region([[maybe_unused]] double expected) {
#if defined(_OPENMP)
    int wrong = 0;
#pragma omp parallel num_threads(3) reduction(+ : wrong)
    wrong += !same_bits(loss_with(4), expected);
    CHECK(wrong == 0);
#endif
}

void lowest_bad_label() {
    std::vector<std::int16_t> bad(labels);
    bad[99999] = bad[50001] = 7;
    bad[50000] = -1;
    for (const int threads : {1, 2, 5})
        CHECK(message_of<std::out_of_range>([&] {
                  nll_loss(input_view, View<const std::int16_t, 1>{bad.data(), {samples}},
                           {.num_threads = threads});
              }) == "target[50000] is -1, outside [0, 7) (ignore_index is -100)");
}

void a_bad_label_ends_the_call() {
    const float one = -1;
    const std::uint8_t label = 7;
    constexpr index_t many = index_t{1} << 40;  // hours, if all of them were looked at
    for (const int threads : {1, 2})
        CHECK(message_of<std::out_of_range>([&] {
                  nll_loss(View<const float, 2>{&one, {many, 1}, {0, 0}},
                           View<const std::uint8_t, 1>{&label, {many}, {0}},
                           {.num_threads = threads});
              }) == "target[0] is 7, outside [0, 1) (ignore_index is -100)");
}

void lowest_bad_label_in_any_order() {  // walked in Fortran order, position (0, 399) comes last
    std::vector<float> log_probability(300 * 400, -1);
    std::vector<std::int32_t> classes_of(300 * 400, 0);
    const View<const float, 3> input{log_probability.data(), {300, 1, 400}, {1, 0, 300}};
    const View<const std::int32_t, 2> target{classes_of.data(), {300, 400}, {1, 300}};
    classes_of[299] = 5;            // (299, 0)
    classes_of[150 + 300 * 7] = 6;  // (150, 7)
    classes_of[300 * 399] = -8;     // (0, 399)
    for (const int threads : {1, 2, 3})
        CHECK(message_of<std::out_of_range>([&] {
                  nll_loss(input, target, {.num_threads = threads});
              }) == "target[0, 399] is -8, outside [0, 1) (ignore_index is -100)");
}

void rounding_modes(double expected) {
    for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
        std::fesetround(mode);
        const double one = loss_with(1), three = loss_with(3);
        CHECK(std::fegetround() == mode);
        std::fesetround(FE_TONEAREST);
        CHECK(same_bits(one, expected) && same_bits(three, expected));
    }
}

// Rounds so, and where the processor can, reads and writes subnormals as zeros.
void set_environment(int rounding_mode) {
    std::fesetround(rounding_mode);
#if defined(__SSE__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
}
// Tells of numbers that depend on it.
std::array<double, 4> environment() {
    volatile double one = 1, tiny = 0x1p-60, least = 0x1p-1074;
    return {one + tiny, -one - tiny, least + least, least * one};
}

// A call has the same results, and threads come back with what they had, if its own thread, or
// those that it finds waiting for work, are in another environment.
void environments_of_threads() {
    std::vector<double> tiny(8 * samples), weight(8, 0x1.5p-700);
    for (std::size_t i = 0; i < tiny.size(); ++i)
        tiny[i] = -0x1p-1074 * static_cast<double>(1 + i % 1000);
    const View<const double, 2> small{tiny.data(), {samples, 8}};
    const auto results = [&](int threads) {
        const Options weighted{.weight = View<const double, 1>{weight.data(), {8}},
                               .num_threads = threads};
        double gradient[8];
        const std::uint8_t zero = 0;
        nll_loss_backward(0x1p-1060, View<const std::uint8_t, 1>{&zero, {1}},
                          View<double, 2>{gradient, {1, 8}}, {.reduction = Reduction::sum});
        const Options wide{.dtype = DType::float64, .num_threads = threads};
        return std::array{cross_entropy(input_view, target_view, wide).value,
                          nll_loss(small, target_view, weighted).value,
                          cross_entropy(small, target_view, weighted).value, gradient[0]};
    };
    const auto expected = results(1);
    CHECK(expected[1] > 0 && expected[1] < 0x1p-1022 && expected[3] == -0x1p-1060);
    for (const int threads : {1, 3})
        for (const int mode : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
            bool same = false, stayed = false;
            std::thread([&] {
                set_environment(mode);
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
                set_environment(mode);
#endif
                const auto before = environment();
                const auto found = results(threads);
                stayed = std::equal(before.begin(), before.end(), environment().begin(), same_bits);
                same = std::equal(found.begin(), found.end(), expected.begin(), same_bits);
            }).join();
            CHECK(same);
            CHECK(stayed);
        }
}

void interrupted() {
    static std::atomic<int> asked;
    const float one = -1;
    const std::uint8_t zero = 0;
    constexpr index_t many = index_t{1} << 40;  // hours, if it were not stopped
    const View<const float, 2> same{&one, {many, 1}, {0, 0}};
    const View<const std::uint8_t, 1> same_label{&zero, {many}, {0}};
    for (const int threads : {1, 2}) {
        bool stopped = false;
        asked = 0;
        try {
            nll_loss(same, same_label,
                     {.num_threads = threads, .interrupt = [] { return ++asked == 2; }});
        } catch (const Interrupted&) {
            stopped = true;
        }
        CHECK(stopped);
    }
}

// What interrupt() throws comes out of the call, also if the library could mean something by it.
void interrupted_by_an_exception() {
    const float one = -1;
    const std::uint8_t zero = 0, zeros[128] = {};
    constexpr index_t many = index_t{1} << 40, many_classes = index_t{1} << 24;
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    // Of pages that nobody has written there is one.
    const std::unique_ptr<float, Free> logits(
        static_cast<float*>(std::calloc(many_classes, sizeof(float))));
    const auto stop = []() -> bool {
        throw std::system_error(std::make_error_code(std::errc::operation_canceled));
    };
    const auto stops = [](auto&& call) {
        try {
            call();
        } catch (const std::system_error&) {
            return true;
        }
        return false;
    };
    for (const int threads : {1, 2}) {
        const Options options{.num_threads = threads, .interrupt = stop};
        CHECK(stops([&] {
            nll_loss(View<const float, 2>{&one, {many, 1}, {0, 0}},
                     View<const std::uint8_t, 1>{&zero, {many}, {0}}, options);
        }));
        CHECK(stops([&] {  // one piece takes long: another thread does it
            cross_entropy(View<const float, 3>{logits.get(), {1, many_classes, 128}, {0, 1, 0}},
                          View<const std::uint8_t, 2>{zeros, {1, 128}}, options);
        }));
    }
}

#if defined(__GNUC__) && !defined(__APPLE__)
// Calls when everything else of the process has ended: its static objects begin first.
struct LastCalls {
    ~LastCalls() {
        const float rows[] = {-1, -2, -3, -4};
        const std::uint8_t label[] = {1, 0};
        bool good = true;
        const auto call = [&] {
            good &= nll_loss(View<const float, 2>{rows, {2, 2}},
                             View<const std::uint8_t, 1>{label, {2}}, {.num_threads = 2})
                        .value == 2.5;
        };
        call();
        std::thread(call).join();
        if (!good) std::_Exit(1);
    }
};
[[gnu::init_priority(101)]] const LastCalls last_calls;
#endif

void forked(double expected) {
#if defined(__unix__) || defined(__APPLE__)
    CHECK(same_bits(loss_with(2), expected));
    const int two = get_num_threads(2);  // 1 without OpenMP
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);  // ends a child that hangs
        bool good = get_num_threads(2) == 1 && same_bits(loss_with(2), expected);
        set_num_threads(2);
        good = good && get_num_threads(0) == two && same_bits(loss_with(0), expected) &&
               same_bits(loss_with(3), expected);
        _exit(good ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    CHECK(same_bits(loss_with(2), expected));
#else
    static_cast<void>(expected);
#endif
}

}  // namespace

int main() {
    std::mt19937 random(3);
    std::normal_distribution<float> normal(-2, 3);
    for (float& value : data) value = normal(random);
    for (std::int16_t& label : labels) label = static_cast<std::int16_t>(random() % classes);
    const double expected = loss_with(1);
    any_number_of_threads(expected);
    threads_ask_for_no_memory_that_throws();
    at_the_same_time(expected);
    within_a_region(expected);
    lowest_bad_label();
    a_bad_label_ends_the_call();
    lowest_bad_label_in_any_order();
    rounding_modes(expected);
    environments_of_threads();
    interrupted();
    interrupted_by_an_exception();
    forked(expected);
    CHECK(message_of<std::invalid_argument>([] { set_num_threads(0); }) ==
          "num_threads is 0, outside [1, 256]");
    return failures() != 0;
}
