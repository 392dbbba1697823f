// SPDX-License-Identifier: BSD-3-Clause
// A call from its arguments to its result: check, plan, run, finish.
//
//     axis    = check_arguments(arrays)      checks.hpp
//     plan    = Plan(arrays, axis)           plan.hpp, samples.hpp
//     before anything is written that the caller has seen: labels; Σ weight of a mean    finish.hpp
//     kernels of each sample's precision     precision.hpp
//     partial = run(plan, kernel)            run.hpp -> nll_loss.hpp, softmax.hpp
//     loss    = loss_of(partial)             finish.hpp
#pragma once

#include "finish.hpp"
#include "gradient_memory.hpp"
#include "kernels.hpp"
#include "precision.hpp"
#include "run.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {

inline namespace NLL_INSTRUCTION_SET {

// Runs a loss for its value, its gradient or both, as its arrays say. kernel(plan, dtype) computes
// it, losses and their sum in `dtype`.
template <class RunKernel> Loss run_loss(const Call& call, RunKernel&& kernel) {
    const DefaultFloatingPoint environment;
    const Options& options = call.options;
    Arrays arrays = call.arrays;
    arrays[sample_weight] = options.sample_weight;
    const int axis = check_arguments(arrays, options);
    Plan plan(arrays, axis, options);
    if (!arrays[grad_output]) plan.grad_output = call.grad_output;
    require_sample_weights(plan, *arrays[target], options);
    plan.moments = call.collected != nullptr;
    plan.record = call.record;
    if (arrays[gradient] || (arrays[losses] && !call.fresh)) {
        Partial checked = run_samples(plan, label_check(), *arrays[target], options);
        if (arrays[gradient]) set_divisor(plan, checked, options);
    }
    const DType own = arrays[input] ? arrays[input]->dtype : arrays[gradient]->dtype;
    const DType dtype = arrays[losses] ? arrays[losses]->dtype : options.dtype.value_or(own);
    Partial partial = kernel(plan, dtype);
    if (call.collected) {
        merge(*call.collected, partial);
        return {};
    }
    return call.wants_loss ? loss_of(partial, dtype, options) : Loss{};
}

inline Loss run_nll_loss(Kernel sweep, const Call& call) {
    check_no_smoothing(call.options);
    return run_loss(call, [&](Plan& plan, DType) {
        const Array& target_array = *call.arrays[target];
        if (!plan.has(gradient)) return run_samples(plan, sweep, target_array, call.options);
        prepare_gradient(plan, GradientKind::one_hot, call.fresh, call.options);
        const index_t block = one_hot_block(plan, size_of(plan.dtype[gradient]));
        return run_elements(plan, sweep, block, min_parallel_elements, target_array, call.options);
    });
}

// Runs kernels that read all classes of a sample: each row by all threads where there are fewer
// rows than threads, or where one is so long that a call could not be stopped in it.
inline Partial run_softmax(Plan& plan, const SoftmaxKernels& kernels, const Array& target_array,
                           bool fresh, const Options& options) {
    if (plan.samples.count == 0) return {};
    if (plan.has(gradient)) prepare_gradient(plan, GradientKind::dense, fresh, options);
    const int threads = parallel::limit(options.num_threads);
    const bool shares = plan.samples.count < threads && plan.classes >= min_shared_classes;
    if (!by_rows(plan) || !(shares || plan.classes > max_unshared_classes))
        return run_elements(plan, kernels.sweep, softmax_block(plan), min_parallel_exps,
                            target_array, options);
    ThreadTeam team(threads, options.interrupt);
    plan.team = &team;
    Partial partial;
    partial.memory = parallel::require_thread_memory();
    kernels.split_rows(plan, 0, plan.samples.count, partial);
    if (partial.bad_sample >= 0) throw_lowest_bad_label(plan, partial, target_array, options);
    return partial;
}

// The loss and the gradient come of one sweep where they need the same precision: neither depends
// on whether the other is asked for.
inline Loss run_cross_entropy(const CrossEntropyKernels& kernels, const Call& call) {
    const Options& options = call.options;
    return run_loss(call, [&](Plan& plan, DType dtype) {
        std::optional<SmoothingWeights> weights;
        if (plan.smooths()) weights.emplace(plan, options);
        const double class_factor = max_class_factor(plan, options);
        const KernelsByFactor of_loss(kernels, plan, dtype, class_factor);
        const KernelsByFactor of_gradient(kernels, plan, plan.dtype[input],
                                          class_factor * max_grad_factor(plan));
        const double most =
            max_factor(plan, options, std::min(of_loss.first_limit(), of_gradient.first_limit()));
        const auto run = [&](Plan& some, const KernelsByFactor& chosen) {
            some.by_factor = &chosen;
            return run_softmax(some, chosen.up_to(most), *call.arrays[target], call.fresh, options);
        };
        if (!plan.has(gradient)) return run(plan, of_loss);
        if (!call.wants_loss || of_loss.same_up_to(most, of_gradient))
            return run(plan, of_gradient);
        Plan loss = plan;
        loss.data[gradient] = nullptr;
        Partial partial = run(loss, of_loss);
        run(plan, of_gradient);
        return partial;
    });
}

// Computes softmax, log_softmax or logsumexp: see Operand for where the result is.
inline void run_softmax_result(const SoftmaxKernels& kernels, const Call& call) {
    const DefaultFloatingPoint environment;
    check_elements(call.arrays);
    const Array& from = *call.arrays[input];
    const int axis = class_axis(call.options.axis, from.rank);
    check_sizes("input", from);
    check_options(call.options, from.shape[axis]);
    Array of_samples = from;  // of target's shape, but without memory
    of_samples.data = nullptr;
    --of_samples.rank;
    std::copy(from.shape.begin() + axis + 1, from.shape.begin() + from.rank,
              of_samples.shape.begin() + axis);
    std::fill_n(of_samples.strides.begin(), of_samples.rank, 0);
    if (call.arrays[gradient]) check_output(*call.arrays[gradient], "input", from);
    else check_log_sums(*call.arrays[losses], of_samples);
    check_addresses(call.arrays);
    Arrays arrays = call.arrays;
    arrays[target] = &of_samples;
    Plan plan(arrays, axis, call.options);
    plan.softmax_result = call.softmax_result;
    plan.label_smoothing = 0;  // it says nothing about these
    run_softmax(plan, kernels, of_samples, call.fresh, call.options);
}

}  // namespace NLL_INSTRUCTION_SET

inline int thread_limit(int num_threads) {
    check_num_threads(num_threads);
    return parallel::limit(num_threads);
}

inline void set_thread_limit(int threads) {
    if (threads < 1 || threads > parallel::max_threads)
        throw std::invalid_argument("num_threads is " + std::to_string(threads) + ", outside [1, " +
                                    std::to_string(parallel::max_threads) + "]");
    parallel::set_limit(threads);
}

inline BuildInfo build_info_of(const char* instruction_set) {
#if defined(_OPENMP)
    constexpr int openmp = _OPENMP;
#else
    constexpr int openmp = 0;
#endif
#if defined(__VERSION__)
    return {NLL_VERSION, __VERSION__, instruction_set, openmp};
#else
    return {NLL_VERSION, "MSVC", instruction_set, openmp};
#endif
}

#if !defined(NLL_COMPILED)

template <class Scalar> Loss nll_loss_as(const Call& call) {
    return run_nll_loss(nll_loss_sweep<Scalar>, call);
}
template <class Scalar> Loss cross_entropy_as(const Call& call) {
    return run_cross_entropy(cross_entropy_kernels_of<Scalar>(), call);
}
template <class Scalar> void softmax_as(const Call& call) {
    run_softmax_result(softmax_kernels_of<Scalar>(), call);
}

template <class> Loss nll_loss(const Call& call) {
    return visit_floating(dtype_of_call(call),
                          [&]<class Scalar>() { return nll_loss_as<Scalar>(call); });
}
template <class> Loss cross_entropy(const Call& call) {
    return visit_floating(dtype_of_call(call),
                          [&]<class Scalar>() { return cross_entropy_as<Scalar>(call); });
}
template <class> void softmax(const Call& call) {
    visit_floating(dtype_of_call(call), [&]<class Scalar>() { softmax_as<Scalar>(call); });
}

#endif

}  // namespace NLL_HIDDEN detail

#if !defined(NLL_COMPILED)
inline BuildInfo build_info() { return detail::build_info_of("native"); }
inline int get_num_threads(int num_threads) { return detail::thread_limit(num_threads); }
inline void set_num_threads(int threads) { detail::set_thread_limit(threads); }
#endif

}  // namespace nll::inline NLL_VERSION_NAMESPACE
