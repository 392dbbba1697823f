# SPDX-License-Identifier: BSD-3-Clause
"""`nll_loss` and its gradient against their exact definition, bit for bit, where it is a matter of this loss alone."""

from __future__ import annotations

import numpy as np
import pytest

import nll
from support.constants import BLOCK_SIZE, MAX_TABLED_CLASSES, around
from support.layouts import c_order, channels_last
from support.losses import assert_exact, assert_exact_gradient, assert_nll_loss
from support.oracle import assert_same_bits
from support.pairs import pairwise
from support.samples import (
    FLOAT_DTYPES,
    REDUCTIONS,
    WEIGHT_DTYPES,
    random_grad_output,
    random_input,
    random_target,
    random_weight,
)

SPECIALS = [np.nan, np.inf, -np.inf]
THREADS = [1, 2, 3]


# ---- input


def test_other_classes_have_no_effect(reduction, rng):
    input, target = np.full((60, 5), np.nan, np.float32), random_target(rng, 60, 5)
    input[np.arange(60), target] = random_input(rng, 60, np.float32)
    assert_nll_loss(input, target, reduction=reduction)


def test_gradient_reads_no_number_of_input(dtype, reduction, rng):
    input, target = np.full((60, 5), np.nan, dtype), random_target(rng, 60, 5)
    assert_exact_gradient(random_grad_output(rng, 60, reduction), input, target, reduction=reduction)


# ---- weights


def test_integer_weights_up_to_the_largest_exact_double(reduction, rng):
    input, target = random_input(rng, (50, 3), np.float32), random_target(rng, 50, 3)
    assert_nll_loss(input, target, np.array([2**53, 2**53 - 1, -(2**53)]), reduction=reduction)


def test_weight_may_be_strided(reduction, rng):
    input, target = random_input(rng, (50, 7), np.float32), random_target(rng, 50, 7)
    assert_nll_loss(input, target, random_weight(rng, 21, np.float64)[::-3], reduction=reduction)


def test_weight_of_an_absent_class_has_no_effect(reduction, rng):
    input, target = random_input(rng, (60, 5), np.float32), random_target(rng, 60, 4)
    weight = random_weight(rng, 5, np.float64)
    weight[4] = np.nan
    assert_nll_loss(input, target, weight, reduction=reduction)


@pairwise(
    sample_count=[MAX_TABLED_CLASSES - 2, *around(MAX_TABLED_CLASSES), 3 * BLOCK_SIZE],
    class_count=around(MAX_TABLED_CLASSES),
    weight_dtype=WEIGHT_DTYPES,
    reduction=REDUCTIONS,
)
def test_as_many_classes_as_a_table_of_weights_has_and_more(sample_count, class_count, weight_dtype, reduction, rng):
    input = random_input(rng, (sample_count, class_count), np.float32)
    target = random_target(rng, sample_count, class_count, ignored=-100)
    assert_nll_loss(input, target, random_weight(rng, class_count, weight_dtype), reduction=reduction)


@pairwise(span=[0, 19, 20, 21, 40, 63, 64, 200], dtype=[np.float32, np.float64], reduction=REDUCTIONS)
def test_class_weights_far_apart(span, dtype, reduction):
    """A block of large weights but one small one; in the next the large ones cancel, and every bit is seen."""
    eps = np.finfo(dtype).eps
    large, small = np.ldexp(2 - eps, span - 100), np.ldexp(1 + eps, -100)
    target = np.repeat([0, 2], BLOCK_SIZE)
    target[[3, 700]] = 1, -100
    weight, row = np.array([large, small, -large], dtype), np.array([-1.75, -0.3, -1.75], dtype)
    assert_exact(np.tile(row, (len(target), 1)), target, weight, reduction=reduction)


# ---- zeros and special values


def test_zero_losses_are_positive(dtype, reduction):
    loss = nll.nll_loss(np.array([[0, 1], [-0.0, 1], [np.nan, 1]], dtype), [0, 0, -100], reduction=reduction)
    assert_same_bits(loss, np.zeros(np.shape(loss), dtype))


def test_zero_weights_give_positive_zeros(dtype, reduction):
    loss = nll.nll_loss(np.array([[5], [-5]], dtype), [0, 0], [-0.0], reduction=reduction, empty="zero")
    assert_same_bits(loss, np.zeros(np.shape(loss), dtype))


def test_zeros_of_the_gradient_are_positive(dtype, reduction):
    grad_output = np.array([1.0, 0, -1, 1]) if reduction == "none" else 1.0
    gradient = nll.nll_loss_backward(
        grad_output, np.ones((4, 3), dtype), [0, 0, 1, -100], [0.0, -0.0, 1], reduction=reduction, empty="zero"
    )
    assert_same_bits(gradient, np.zeros((4, 3), dtype))


@pairwise(
    special=SPECIALS,
    weight=[None, [2.0, 1.0], [0.0, 1.0], [-1.0, 3.0]],
    dtype=FLOAT_DTYPES,
    reduction=REDUCTIONS,
)
def test_special_inputs(special, weight, dtype, reduction):
    input = np.array([[special, 1], [2, 3], [4, 5]], dtype)
    assert_nll_loss(input, np.array([0, 1, 1]), weight, reduction=reduction)


@pairwise(special=SPECIALS, dtype=FLOAT_DTYPES, reduction=REDUCTIONS)
def test_special_weights(special, dtype, reduction):
    grad_output = np.array([1.0, 0, 2]) if reduction == "none" else 0.5
    arrays = np.array([[1, 1], [-2, 3], [0, 5]], dtype), np.array([0, 0, 1]), [special, 1]
    assert_nll_loss(*arrays, grad_output=grad_output, reduction=reduction)


@pairwise(special=SPECIALS, dtype=FLOAT_DTYPES, reduction=REDUCTIONS)
def test_special_grad_output(special, dtype, reduction):
    grad_output = np.array([special, 1, special]) if reduction == "none" else special
    assert_exact_gradient(grad_output, np.ones((3, 2), dtype), np.array([0, 1, -100]), reduction=reduction)


@pairwise(
    indirect=["threads"],
    where=["input", "weight"],
    specials=[{100: np.nan}, {100: np.inf}, {19_900: -np.inf}, {100: np.inf, 19_900: -np.inf}],
    threads=THREADS,
    dtype=FLOAT_DTYPES,
)
def test_special_values_on_several_threads(where, specials, threads, dtype, rng):
    input, target = random_input(rng, (20_000, 4), dtype), random_target(rng, 20_000, 2)
    weight = np.array([1, 1.5, 1, 1])
    for spare_class, (sample, special) in enumerate(specials.items(), 2):
        target[sample] = spare_class
        if where == "input":
            input[sample] = special
        else:
            weight[spare_class] = special
    for reduced in ("sum", "mean"):
        assert_exact(input, target, weight, reduction=reduced)


def test_opposite_infinities_have_no_sum(dtype):
    input = np.array([[np.inf], [-np.inf], [1]], dtype)
    assert np.isnan(nll.nll_loss(input, [0, 0, 0], reduction="sum"))


# ---- gradient


def test_gradient_is_computed_in_the_documented_order():
    """-(w * g) is rounded before the division, and total_weight is rounded before it divides."""
    weight, g = np.array([1 + 2.0**-52, 2.0**-53]), 1 + 2.0**-51
    input, target = np.zeros((2, 2)), np.array([0, 1])
    w0, w1 = weight.tolist()
    total_weight = w0 + w1
    assert nll.nll_loss_backward(g, input, target, weight)[0, 0] == -(w0 * g) / total_weight
    assert nll.nll_loss_backward(g, input, target, weight)[1, 1] == -(w1 * g) / total_weight


@pairwise(exponent=[-140, -20, 100], dtype=FLOAT_DTYPES, reduction=REDUCTIONS)
def test_gradient_beyond_the_range_of_the_dtype(exponent, dtype, reduction):
    grad_output = np.full(2, -(2.0**exponent)) if reduction == "none" else -(2.0**exponent)
    arrays = np.ones((2, 2), dtype), np.array([0, 1]), [1.0, 1.0 + 2**-20]
    assert_exact_gradient(grad_output, *arrays, reduction=reduction)


@pairwise(
    empty=["nan", "zero"],
    value=[0, 2, -2],
    weight=[[0.0, 0.0], [0.75, -0.75]],
    dtype=FLOAT_DTYPES,
    reduction=REDUCTIONS,
)
def test_weights_that_add_to_zero(empty, value, weight, dtype, reduction):
    """Every bit of what IEEE 754's division makes of it, infinities in the gradient too."""
    arrays = np.array([[value, 1], [1, 0], [1, 1]], dtype), np.array([0, 1, -100]), weight
    assert_nll_loss(*arrays, empty=empty, reduction=reduction)


# ---- gradients larger than the caches


@pytest.mark.parametrize("memory", [c_order, channels_last], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(2**21, 16), (5, 19, 600, 601), (40, 2**20 + 3), (3, 2**18, 41)], ids=str)
def test_gradient_larger_than_the_caches(shape, memory, rng):
    """128 MB and more, which are written in another way on most machines. The same bits, and nothing beside them."""
    input = np.broadcast_to(np.float32(0), shape)
    target = random_target(rng, (shape[0], *shape[2:]), shape[1], np.int32)
    frame = memory(np.full(shape, 7, np.float32))
    out = frame[1:, 1:-1] if shape[1] > 16 else frame
    input, target = input[: len(out), : out.shape[1]], np.minimum(target[: len(out)], out.shape[1] - 1)
    nll.nll_loss_backward(1.0, input, target, out=out)
    expected = np.full(shape, 7, np.float32)
    inner = expected[1:, 1:-1] if shape[1] > 16 else expected
    inner[...] = 0
    np.put_along_axis(inner, target[:, None], np.float32(-1 / target.size), 1)
    assert np.array_equal(frame.view(np.uint32), expected.view(np.uint32))


@pairwise(
    indirect=["threads"],
    shape=[(2**20, 10), (2, 19, 512, 601), (30, 2**19 + 3), (3, 2**16, 61)],
    memory=[c_order, channels_last],
    threads=[1, 3],
)
def test_large_fresh_gradient_has_the_bits_of_one_into_out(shape, memory, threads, rng):
    """Beyond 32 MiB it is zeros from the system, of which only some entries may have to be written."""
    input = memory(np.zeros(shape, np.float32))
    target = random_target(rng, (shape[0], *shape[2:]), shape[1], np.int32, ignored=-100)
    weight = random_weight(rng, shape[1], np.float32)
    out = np.full_like(input, 7)
    nll.nll_loss_backward(0.37, input, target, weight, out=out)
    for _ in range(2):  # the second time some of the memory may be that of the first
        assert_same_bits(nll.nll_loss_backward(0.37, input, target, weight), out)
        assert_same_bits(nll.nll_loss_value_and_grad(input, target, weight, grad_output=0.37)[1], out)


def test_bad_label_beside_a_large_fresh_gradient():
    input, target = np.zeros((2**20, 10), np.float32), np.zeros(2**20, np.int64)
    target[-3] = 10
    with pytest.raises(IndexError, match=r"target\[1048573\] is 10, outside \[0, 10\)"):
        nll.nll_loss_backward(1.0, input, target)
