// SPDX-License-Identifier: BSD-3-Clause
// A thread may be ended where it asks whether to stop: Python ends its daemon threads so, by
// unwinding them from there.
#include <nll/nll.hpp>

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.hpp"

using namespace nll;

namespace {

const float log_probability = -1;
const std::uint8_t label = 0;

double loss_of(index_t samples, int threads, bool (*interrupt)()) {
    return nll_loss(View<const float, 2>{&log_probability, {samples, 1}, {0, 0}},
                    View<const std::uint8_t, 1>{&label, {samples}, {0}},
                    {.reduction = Reduction::sum, .num_threads = threads, .interrupt = interrupt})
        .value;
}

bool end_thread() { pthread_exit(nullptr); }

// A call that would take hours, but whose thread ends when it is asked.
void* call(void* told) {
    struct Tell {
        int* told;
        ~Tell() { ++told[1]; }
    } const tell{static_cast<int*>(told)};
    loss_of(index_t{1} << 40, tell.told[0], end_thread);
    return nullptr;
}

void ends_in_a_call(int threads) {
    int told[] = {threads, 0};
    pthread_t thread;
    CHECK(pthread_create(&thread, nullptr, call, told) == 0);
    CHECK(pthread_join(thread, nullptr) == 0);
    CHECK(told[1] == 1);
    CHECK(loss_of(100'000, threads, nullptr) == 100'000);
}

// The thread that forked lost its team: others work for it, in a thread of their own.
void ends_in_a_child(int threads) {
    CHECK(loss_of(100'000, threads, nullptr) == 100'000);
    const pid_t child = fork();
    if (child == 0) {
        struct Leave {
            ~Leave() { _exit(0); }
        } const leave;
        alarm(60);  // ends a child that hangs
        set_num_threads(threads);
        loss_of(index_t{1} << 40, threads, end_thread);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

}  // namespace

int main() {
    for (const int threads : {1, 2, 3}) {
        ends_in_a_call(threads);
        ends_in_a_child(threads);
    }
    return failures();
}
