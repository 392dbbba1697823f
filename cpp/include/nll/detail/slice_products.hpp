// SPDX-License-Identifier: BSD-3-Clause
// Sums of squares and of products without error, for the moments of a state: numbers are cut into
// slices of 21 bits, whose products add up in doubles without rounding.
#pragma once

#include "exact_sum.hpp"
#include "simd/vec.hpp"

namespace nll::inline NLL_VERSION_NAMESPACE {
namespace NLL_HIDDEN detail {
inline namespace NLL_INSTRUCTION_SET {

// Cuts numbers below 2^bound into slices 21 bits apart: the first has multiples of 2^(bound - 21),
// at most 2^21 of them, and each after it multiples of 2^-21 times that, at most 2^20.
template <int slices> class Slicer {
public:
    explicit Slicer(int bound) {
        for (int s = 0; s + 1 < slices; ++s) cut_[s] = 1.5 * exp2i(bound + 52 - 21 * (s + 1));
    }
    [[gnu::always_inline]] void operator()(Vec rest, Vec* slice) const {
        NLL_UNROLL for (int s = 0; s + 1 < slices; ++s) {
            slice[s] = (rest - Vec(-cut_[s])) - Vec(cut_[s]);
            rest = rest - slice[s];
        }
        slice[slices - 1] = rest;
    }

private:
    double cut_[slices];
};

// Returns in how many slices the numbers of a block have no rest, each of `precision` bits at most.
template <class Real> int slices_of(const BlockRange<Real>& block, int precision) {
    return (block.top() - block.bottom() + precision + 20) / 21;
}

// Adds Σ a·b of blocks that have no rest. Slices i of a and j of b have products of one unit for
// one i + j: 2^42 for 0, and else less than 2^42 + 2^40·(i + j) a sample, of which 512 add in 53
// bits. `square`: b is a.
template <int slices, bool square, class A, class B>
void add_slice_products(ExactSum& sum, const A* a, int a_bound, const B* b, int b_bound,
                        index_t count) {
    constexpr int places = 2 * slices - 1;
    const Slicer<slices> cut_a(a_bound), cut_b(b_bound);
    Vec total[places];
    NLL_UNROLL for (int p = 0; p < places; ++p) total[p] = Vec(0.0);
    for (index_t n = 0; n < count; n += Vec::size) {
        Vec of_a[slices], of_b[slices];
        cut_a(Vec::load(a + n), of_a);
        if constexpr (!square) cut_b(Vec::load(b + n), of_b);
        NLL_UNROLL for (int i = 0; i < slices; ++i) {
            if constexpr (square) {
                total[2 * i] = multiply_add(of_a[i], of_a[i], total[2 * i]);
                const Vec twice = multiply_add(of_a[i], Vec(1.0), of_a[i]);
                NLL_UNROLL for (int j = i + 1; j < slices; ++j) total[i + j] =
                    multiply_add(twice, of_a[j], total[i + j]);
            } else {
                NLL_UNROLL for (int j = 0; j < slices; ++j) total[i + j] =
                    multiply_add(of_a[i], of_b[j], total[i + j]);
            }
        }
    }
    NLL_UNROLL for (int p = 0; p < places; ++p) {
        double lane[Vec::size];
        total[p].store(lane);
        for (int l = 1; l < Vec::size; ++l) lane[0] += lane[l];
        add(sum, lane[0]);
    }
}

// Tells whether all products of slices are normal numbers.
template <class Real> bool slices_safely(const BlockRange<Real>& block) {
    constexpr int top_limit = sizeof(Real) == 4 ? 128 : 400,
                  bottom_limit = sizeof(Real) == 4 ? -126 : -400;
    return block.largest == 0 || (block.top() < top_limit && block.bottom() >= bottom_limit);
}

template <class Real> int precision_of(const BlockRange<Real>& block) {
    if constexpr (sizeof(Real) == 4) return format_of<float>.precision;
    else return fits_float(block) ? format_of<float>.precision : format_of<double>.precision;
}

// Adds Σ a·b of factors that are cut into so many slices. Returns false, and adds nothing, if they
// are too many. square, a_bound, b_bound: as add_slice_products has them.
template <bool square, class Real>
bool add_in_slices(int slices, ExactSum& sum, const Real* a, int a_bound, const Real* b,
                   int b_bound, index_t count) {
    if (slices > 4) return false;
    if (slices == 4) add_slice_products<4, square>(sum, a, a_bound, b, b_bound, count);
    else if (slices == 3) add_slice_products<3, square>(sum, a, a_bound, b, b_bound, count);
    else add_slice_products<2, square>(sum, a, a_bound, b, b_bound, count);
    return true;
}

// Adds Σ a²; a is (padded(count),), 0 from count on, and of this range.
template <class Real>
void add_squares(ExactSum& sum, const Real* a, index_t count, const BlockRange<Real>& block) {
    if (block.largest == 0) return;
    if (slices_safely(block)) {
        const int bound = block.top() + 1;
        const int slices = slices_of(block, precision_of(block));
        if (add_in_slices<true>(slices, sum, a, bound, a, bound, count)) return;
    }
    for (index_t i = 0; i < count; ++i)
        add_product(sum, static_cast<double>(a[i]), static_cast<double>(a[i]));
}

// Adds Σ a·b likewise.
inline void add_cross(ExactSum& sum, const double* a, const BlockRange<double>& a_block,
                      const double* b, const BlockRange<double>& b_block, index_t count) {
    if (slices_safely(a_block) && slices_safely(b_block)) {
        if (a_block.largest == 0 || b_block.largest == 0) return;
        const int a_bound = a_block.top() + 1, b_bound = b_block.top() + 1;
        const int slices = std::max(slices_of(a_block, precision_of(a_block)),
                                    slices_of(b_block, precision_of(b_block)));
        if (add_in_slices<false>(slices, sum, a, a_bound, b, b_bound, count)) return;
    }
    for (index_t i = 0; i < count; ++i) add_product(sum, a[i], b[i]);
}

}  // namespace NLL_INSTRUCTION_SET
}  // namespace NLL_HIDDEN detail
}  // namespace nll::inline NLL_VERSION_NAMESPACE
