// SPDX-License-Identifier: BSD-3-Clause
// Threads: how many, and when not. The only OpenMP of the library.
//
// GNU's OpenMP hangs in a forked child whose parent had a team, and ends the process when it cannot
// create a thread. So a child runs serially, without a call into OpenMP, until set_num_threads is
// called there; and before a thread's team grows, as many plain threads are created and joined to
// see that they can be had. (Between that and the team the last free thread may go to somebody
// else: this race remains.)
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define NLL_HAS_FORK 1
#endif

#include "floating_point.hpp"
#include "heap.hpp"
#include "system_files.hpp"
#include "tuning.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
namespace parallel {

inline constexpr int max_threads = 256;

struct State {
    std::atomic<int> requested{0};          // by set_num_threads; 0: the default
    std::atomic<bool> busy{false};          // a region is under way
    std::atomic<bool> serial_child{false};  // forked, and set_num_threads not yet called
};
inline State state;

// Holds what a thread keeps from one call to the next, until it ends: a call need neither ask for
// memory nor have a large stack.
struct OfThread {
    bool lost_team = false;  // this thread forked: its OpenMP team stayed behind
    int proven_team = 1;     // a team that this thread has had
    alignas(cache_line) std::byte memory[thread_memory_bytes];  // for the variables of a kernel
};

// Finds it by a key of POSIX threads. A thread_local variable of a library that was loaded at run
// time is allocated when it is first met, and where there is no memory for it the process ends.
class KeptByThreads {
public:
    KeptByThreads(const KeptByThreads&) = delete;
    KeptByThreads& operator=(const KeptByThreads&) = delete;

#if defined(NLL_HAS_FORK)
    KeptByThreads() {
        const auto end = [](void* kept) { EndOnHeap()(static_cast<OfThread*>(kept)); };
        has_key_ = pthread_key_create(&key_, end) == 0;
    }
    ~KeptByThreads() {
        if (has_key_.exchange(false)) pthread_key_delete(key_);
    }
    // Returns the calling thread's, or nullptr if it has none yet.
    static OfThread* get() {
        return has_key_ ? static_cast<OfThread*>(pthread_getspecific(key_)) : local().get();
    }
    // Returns the calling thread's, or nullptr if there is no memory for it.
    static OfThread* get_or_make() {
        if (OfThread* const own = get()) return own;
        OnHeap<OfThread> made = try_make<OfThread>();
        if (!has_key_) return (local() = std::move(made)).get();
        if (!made || pthread_setspecific(key_, made.get()) != 0) return nullptr;
        return made.release();
    }
#else
    KeptByThreads() = default;
    static OfThread* get() { return local().get(); }
    static OfThread* get_or_make() {
        if (!local()) local() = try_make<OfThread>();
        return local().get();
    }
#endif

private:
    // Where there is no key, or no more: destructors of static objects, which end after this, call.
    static OnHeap<OfThread>& local() {
        thread_local OnHeap<OfThread> kept;
        return kept;
    }
#if defined(NLL_HAS_FORK)
    static inline pthread_key_t key_{};
    static inline std::atomic<bool> has_key_{false};
#endif
};
inline const KeptByThreads kept_by_threads;

#if defined(NLL_HAS_FORK)
inline const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
    state.busy = false;
    state.serial_child = true;
    if (OfThread* const own = kept_by_threads.get()) {
        own->lost_team = true;
        own->proven_team = 1;
    }
});
#endif

// Returns the CPUs that the process's control group grants (Linux), or max_threads. The group above
// may grant less than our own.
inline int cgroup_quota() {
    static const int quota = [] {
        double least = max_threads;
        const auto grant = [&](const std::string& folder) {
            // "150000 100000" or "max 100000"; in version 1 two files: "150000" or "-1", and
            // "100000".
            std::string text = read_system_file(folder + "/cpu.max");
            if (text.empty())
                text = read_system_file(folder + "/cpu.cfs_quota_us") +
                       read_system_file(folder + "/cpu.cfs_period_us");
            std::string_view rest = text;
            const std::int64_t time = take_integer(rest), period = take_integer(rest);
            if (time > 0 && period > 0)
                least = std::min(least, static_cast<double>(time) / static_cast<double>(period));
        };
        const std::string groups = read_system_file("/proc/self/cgroup");
        std::string_view rest = groups;
        while (!rest.empty()) {  // "0::/path", or "4:cpu,cpuacct:/path"
            const std::string_view line = take_line(rest);
            const auto first = line.find(':'), second = line.find(':', first + 1);
            if (second == line.npos) continue;
            const std::string controllers(line.substr(first + 1, second - first - 1));
            if (!controllers.empty() && controllers.find("cpu") == controllers.npos) continue;
            const std::string root =
                "/sys/fs/cgroup" + (controllers.empty() ? "" : "/" + controllers);
            std::string path(line.substr(second + 1));
            for (;;) {
                grant(root + path);
                const auto slash = path.rfind('/');
                if (path.empty() || slash == path.npos) break;
                path.resize(slash);
            }
        }
        return std::max(1, static_cast<int>(least));
    }();
    return quota;
}

// Returns the threads that a large call would use: `chosen` if not 0, else as set, else what
// OpenMP, affinity and quota allow.
inline int limit([[maybe_unused]] int chosen) {
#if defined(_OPENMP)
    if (state.serial_child) return 1;
    if (chosen == 0) chosen = state.requested;
    if (chosen != 0) return std::min(chosen, max_threads);
    return std::max(
        1, std::min({omp_get_max_threads(), omp_get_num_procs(), cgroup_quota(), max_threads}));
#else
    return 1;
#endif
}

inline void set_limit(int threads) {
    state.requested = threads;
    state.serial_child = false;
}

// Starts a thread that calls `work`, which outlives it; returns one that is not joinable if there
// is none to be had. (A template of the standard library is visible whatever its arguments are: one
// with a lambda of nll's would be shared by all builds of nll in a process.)
template <class Work> std::thread start(Work& work) {
    void (*const call)(void*) = [](void* its) { (*static_cast<Work*>(its))(); };
    try {
        return std::thread(call, static_cast<void*>(&work));
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
    }
    return {};
}

// Tells whether so many threads more can be created now, with some memory beside their stacks.
inline bool can_create(int threads) {
    constexpr std::size_t enough = 64 << 10;
    const OnHeap<std::byte> memory(static_cast<std::byte*>(try_allocate(enough)));
    if (!memory) return false;
    std::mutex gate;
    auto wait = [&] { const std::lock_guard hold(gate); };
    std::thread created[max_threads];
    int count = 0;
    {
        const std::lock_guard hold(gate);
        while (count < threads && (created[count] = start(wait)).joinable()) ++count;
    }
    for (int i = 0; i < count; ++i) created[i].join();
    return count == threads;
}

inline constexpr auto patience = std::chrono::milliseconds(50);

// Asks every 50 ms whether to stop, between the regions of a call that has many short ones.
class Interruptible {
public:
    explicit Interruptible(bool (*interrupt)()) : interrupt_(interrupt) {}
    void ask() {
        if (!interrupt_ || std::chrono::steady_clock::now() - asked_ < patience) return;
        asked_ = std::chrono::steady_clock::now();
        if (interrupt_()) throw Interrupted();
    }

private:
    bool (*interrupt_)();
    std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
};

// Returns what the calling thread keeps.
inline OfThread& require_of_thread() {
    OfThread* const own = kept_by_threads.get_or_make();
    if (!own) throw std::bad_alloc();
    return *own;
}
// Returns the calling thread's memory for the variables of a kernel, (thread_memory_bytes,).
inline void* require_thread_memory() { return require_of_thread().memory; }

// Calls work(first, last, part) for [0, count) in pieces of `piece`, and merge(total, part) for
// every thread's part. Neither may throw. Which thread does which piece is left to chance, and a
// thread may have several parts: the merge must not depend on it. part.memory is that of the
// thread; a thread for which there is none leaves the work to others, but where the calling one has
// none, std::bad_alloc is thrown before anything is done. The caller has set the default
// floating-point environment for its own thread. Once work returns false no thread takes another
// piece; the pieces before that one have then all been done.
//
// A region of OpenMP lets no exception through and no unwinding. So the calling thread asks
// interrupt() between two regions, every 50 ms: interrupt() may throw, and Python may unwind the
// thread there, as it does to end daemon threads.
//
// abandon: nullptr where a piece takes a few milliseconds. Otherwise others do the work, while the
// calling thread has nothing to do but to ask; it sets *abandon if the call is to stop, and work
// may then return soon with anything for its result.
template <class Part, class Work, class Merge>
void reduce(Part& total, index_t count, index_t piece, int threads, bool (*interrupt)(),
            Work&& work, Merge&& merge, std::atomic<bool>* abandon = nullptr) {
    using Clock = std::chrono::steady_clock;
    std::atomic<index_t> next{0};
    std::atomic<bool> stop{false}, pause{false};
    [[maybe_unused]] OfThread& own = require_of_thread();
    total.memory = own.memory;
    if (!interrupt) abandon = nullptr;

    // Takes pieces until none is left, or stop or pause is set. The thread that watches the clock
    // sets pause when it is time to ask.
    const auto take_pieces = [&](Part& part, bool watch, Clock::time_point asked) noexcept {
        while (!stop.load(std::memory_order_relaxed) && !pause.load(std::memory_order_relaxed)) {
            const index_t first = next.fetch_add(piece, std::memory_order_relaxed);
            if (first >= count) break;
            if (!work(first, std::min(first + piece, count), part)) stop = true;
            if (watch && Clock::now() - asked > patience) pause = true;
        }
    };
    // Runs region(watch, asked) until no piece is left, and asks in between.
    const auto run = [&](bool watch, auto&& region) {
        auto asked = watch ? Clock::now() : Clock::time_point{};
        for (;;) {
            region(watch, asked);
            if (!pause || stop || next >= count) return;
            if (interrupt()) throw Interrupted();
            pause = false;
            asked = Clock::now();
        }
    };
    // Does what one of several threads has to do.
    std::mutex merging;
    const auto take_share = [&](bool watch, Clock::time_point asked) noexcept {
        const DefaultFloatingPoint environment;  // which a thread does not inherit
        OfThread* const its = kept_by_threads.get_or_make();
        const OnHeap<Part> part = try_make<Part>();  // not on its stack
        if (!its || !part) return;
        part->memory = its->memory;
        take_pieces(*part, watch, asked);
        const std::lock_guard one_at_a_time(merging);
        merge(total, *part);
    };
    // Runs region(watch, asked) once in a fresh thread, if there is one, and asks meanwhile.
    // (std::async would have variables of its own there, which may not be had: see heap.hpp.)
    const auto run_beside = [&](auto&& region) {
        std::mutex gate;
        std::condition_variable ended;
        bool has_ended = false;
        auto work = [&] {
            region(false, Clock::time_point{});
            const std::lock_guard hold(gate);
            has_ended = true;
            ended.notify_one();
        };
        struct Joined {
            std::thread thread;
            ~Joined() {
                if (thread.joinable()) thread.join();
            }
        } const beside{start(work)};
        if (!beside.thread.joinable()) return;
        try {
            std::unique_lock hold(gate);
            while (!has_ended) {
                if (ended.wait_for(hold, patience) == std::cv_status::no_timeout) continue;
                hold.unlock();
                if (interrupt && interrupt()) throw Interrupted();
                hold.lock();
            }
        } catch (...) {
            stop = true;  // before the thread is waited for
            if (abandon) *abandon = true;
            throw;
        }
    };

#if defined(_OPENMP)
    threads = static_cast<int>(std::min<index_t>(threads, (count + piece - 1) / piece));
    if (threads > 1 && !(state.serial_child || omp_in_parallel() || state.busy.exchange(true))) {
        struct Idle {
            ~Idle() { state.busy = false; }
        } const idle_again;
        const bool beside = own.lost_team || abandon;  // a fresh thread gets a team of its own
        if (beside ? can_create(threads) : threads <= own.proven_team || can_create(threads - 1)) {
            const auto region = [&](bool watch, Clock::time_point asked) {
#pragma omp parallel num_threads(threads)
                take_share(watch && omp_get_thread_num() == 0, asked);
            };
            if (beside) {
                run_beside(region);
            } else {
                own.proven_team = threads;
                run(interrupt != nullptr, region);
            }
            if (stop || next >= count) return;  // else no thread, or none had memory
        }
    }
#else
    static_cast<void>(threads);
#endif
    if (abandon) {
        run_beside(take_share);
        if (stop || next >= count) return;
    }
    run(interrupt != nullptr && count > piece,
        [&](bool watch, Clock::time_point asked) { take_pieces(total, watch, asked); });
}

}  // namespace parallel
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
