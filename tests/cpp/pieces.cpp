// SPDX-License-Identifier: BSD-3-Clause
// The pieces of a call: every sample in one, none of more elements than a call may take before it
// can be stopped, unless one block has them.
#include <nll/detail/nll_loss.hpp>
#include <nll/detail/run.hpp>
#include <nll/detail/softmax.hpp>

#include <mutex>
#include <thread>
#include <vector>

#include "check.hpp"

using namespace nll;
using namespace nll::detail;

namespace {

struct Piece {
    index_t first, last;
};
std::vector<Piece> pieces;
std::mutex noting;
void note(index_t first, index_t last) {
    const std::lock_guard hold(noting);
    pieces.push_back({first, last});
}

// Checks that the noted pieces are [0, count) in parts.
void check_all_once(index_t count) {
    std::sort(pieces.begin(), pieces.end(),
              [](const Piece& a, const Piece& b) { return a.first < b.first; });
    index_t end = 0;
    for (const Piece& piece : pieces) {
        CHECK(piece.first == end && piece.last > piece.first);
        end = piece.last;
    }
    CHECK(end == count);
}

// Returns a plan of (N, C, D) input and gradient, whose axes are so in memory. No memory is theirs.
Plan plan_of(const std::array<index_t, 3>& shape, const std::array<int, 3>& order) {
    static const Options options;
    std::array<index_t, 3> strides;
    index_t stride = 1;
    for (int a = 2; a >= 0; --a) {
        strides[order[a]] = stride;
        stride *= shape[order[a]];
    }
    const Array samples(View<std::int32_t, 2>(nullptr, {shape[0], shape[2]}));
    const Array classes(View<float, 3>(nullptr, shape, strides));
    Plan plan({&classes, &samples, nullptr, nullptr, &classes}, 1, options);
    plan.data.fill(nullptr);  // no operand is part of the call
    return plan;
}

void pieces_of_samples() {
    const Plan plan = plan_of({1, 1, 1}, {0, 1, 2});
    const Kernel kernel = [](const Plan&, index_t first, index_t last, Partial& partial) {
        note(first, last);
        partial.count += last - first;
    };
    for (const index_t count : {1, 511, 512, 513, 10'000, 300'000})
        for (const index_t elements :
             {index_t{0}, index_t{1}, index_t{10}, index_t{1000}, index_t{50'257}, index_t{262'144},
              max_piece_elements, max_piece_elements + 1, 4 * max_piece_elements})
            for (const index_t block : {index_t{1}, index_t{16}, index_t{64}, block_size})
                for (const int threads : {1, 2, 64}) {
                    Partial total;
                    pieces.clear();
                    run_until_bad(plan, kernel, count, {block, elements}, threads, {}, total);
                    CHECK(total.count == count);
                    check_all_once(count);
                    for (const auto& [first, last] : pieces) {
                        const index_t samples = last - first;
                        CHECK(first % block == 0);
                        CHECK(samples <= std::max(block, max_piece_samples));
                        CHECK(samples <= block || samples * elements <= max_piece_elements);
                        CHECK(samples <= std::max(block, count / (threads * pieces_per_thread)));
                    }
                }
    Partial none;
    pieces.clear();
    run_until_bad(plan, kernel, 0, {block_size, 1}, 2, {}, none);
    CHECK(pieces.empty());
}

void no_piece_after_a_bad_label() {
    const Plan plan = plan_of({1, 1, 1}, {0, 1, 2});
    const Kernel kernel = [](const Plan&, index_t first, index_t last, Partial& partial) {
        note(first, last);
        partial.bad_sample = first;
        partial.bad_position = first;
    };
    Partial total;
    pieces.clear();
    run_until_bad(plan, kernel, 1'000'000, {block_size, 1}, 1, {}, total);
    CHECK(pieces.size() == 1 && total.bad_sample == 0);
}

// Where a block takes long, a call is stopped in the middle of it.
void a_block_is_abandoned() {
    const Plan plan = plan_of({1, 1, 1}, {0, 1, 2});
    const Kernel endless = [](const Plan& some, index_t first, index_t last, Partial&) {
        note(first, last);
        while (!some.is_abandoned()) std::this_thread::yield();
    };
    for (const index_t count : {1, 3})
        for (const int threads : {1, 3}) {
            Partial total;
            bool stopped = false;
            pieces.clear();
            try {
                run_until_bad(plan, endless, count, {1, 1, true}, threads,
                              {.interrupt = [] { return true; }}, total);
            } catch (const Interrupted&) {
                stopped = true;
            }
            CHECK(stopped && !pieces.empty());
        }
}

// Asks nobody while all is short, and has the same pieces done where blocks take long.
void a_block_that_takes_long() {
    CHECK(!takes_long(plan_of({16, 1'000'000, 1}, {0, 1, 2}), 1));    // rows
    CHECK(takes_long(plan_of({2048, 1'000'000, 1}, {1, 0, 2}), 16));  // planes
    Plan apart = plan_of({8192, 65'536, 1}, {1, 0, 2});
    CHECK(!takes_long(apart, 1));
    float memory = 0;
    apart.data[gradient] = &memory;  // a page for each class
    CHECK(takes_long(apart, 1));
    CHECK(!takes_long(plan_of({16, 65'536, 1}, {1, 0, 2}), 16));  // few of them
    const Plan plan = plan_of({1, 1, 1}, {0, 1, 2});
    const Kernel kernel = [](const Plan&, index_t first, index_t last, Partial& partial) {
        note(first, last);
        partial.count += last - first;
    };
    for (const int threads : {1, 2, 5}) {
        Partial total;
        pieces.clear();
        run_until_bad(plan, kernel, 10'000, {16, 1, true}, threads,
                      {.interrupt = [] { return false; }}, total);
        CHECK(total.count == 10'000);
        check_all_once(10'000);
    }
}

// What kernels take for a block, of whatever shape, is bounded; or it is as few samples as a kernel
// can compute at once.
void blocks_of_kernels() {
    for (const index_t classes :
         {index_t{1}, index_t{10}, index_t{128}, index_t{129}, index_t{2048}, index_t{65'536},
          index_t{65'537}, index_t{262'144}, max_wide_elements, 4 * max_wide_elements})
        for (const auto& [N, D] :
             {std::pair<index_t, index_t>{1, 1}, {1000, 1}, {3, 100}, {2, 600}})
            for (const auto& order : {std::array{0, 1, 2}, std::array{0, 2, 1}, std::array{2, 1, 0},
                                      std::array{1, 0, 2}}) {
                const Plan plan = plan_of({N, classes, D}, order);
                const index_t of_softmax = softmax_block(plan);
                CHECK(of_softmax >= 1 && of_softmax <= block_size);
                CHECK(of_softmax * classes <= max_wide_elements ||
                      of_softmax == (by_rows(plan) ? 1 : lanes));
                for (const index_t size : {2, 4, 8}) {
                    const index_t of_writer = one_hot_block(plan, size);
                    CHECK(of_writer >= 1 && of_writer <= block_size);
                    CHECK(of_writer * classes <= max_wide_elements || of_writer <= lanes);
                }
            }
}

// Rows that threads share are cut into chunks of classes.
void pieces_of_a_row() {
    for (const index_t count : {index_t{1}, index_t{16}, index_t{1000}, max_chunks_held})
        for (const int threads : {1, 2, 64}) {
            ThreadTeam team(threads, nullptr);
            pieces.clear();
            int context = 0;
            team.run(count, &context, [](void* noted, void* memory, index_t first, index_t last) {
                CHECK(memory != nullptr);
                note(first, last);
                const std::lock_guard hold(noting);
                ++*static_cast<int*>(noted);
            });
            check_all_once(count);
            CHECK(context == static_cast<int>(pieces.size()));
            for (const auto& [first, last] : pieces)
                CHECK((last - first) * chunk_size <= max_piece_elements);
        }
}

}  // namespace

int main() {
    pieces_of_samples();
    no_piece_after_a_bad_label();
    a_block_is_abandoned();
    a_block_that_takes_long();
    blocks_of_kernels();
    pieces_of_a_row();
    return failures() != 0;
}
