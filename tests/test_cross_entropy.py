# SPDX-License-Identifier: BSD-3-Clause
"""`cross_entropy`, its gradient and `log_softmax` against their definitions, each result within its bound of ULP."""

from __future__ import annotations

from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest

import nll
from support import oracle, softmax_oracle
from support.constants import CHUNK_SIZE, MAX_SEQUENTIAL_CLASSES
from support.losses import assert_cross_entropy
from support.oracle import assert_same_bits, from_bits
from support.pairs import pairwise
from support.samples import (
    FLOAT_DTYPES,
    REDUCTIONS,
    random_grad_output,
    random_logits,
    random_target,
)
from support.softmax_oracle import BOUNDS, assert_within_bound, ulp

SHAPE = (3, 5, 4, 2, 3)  # (N, C, d1, d2, d3)
FLOAT64 = np.dtype(np.float64)
INFINITY, NAN = np.inf, np.nan
FEW_AND_MANY_CLASSES = [3, MAX_SEQUENTIAL_CLASSES + 1]


# ---- log_softmax


def test_log_softmax_in_every_layout(layout, dtype, rng):
    input = layout(random_logits(rng, SHAPE, dtype))
    assert_within_bound(nll.log_softmax(input), softmax_oracle.log_softmax(input))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -3, -4])
def test_log_softmax_of_an_axis(axis, rng):
    input = random_logits(rng, (3, 4, 5, 2), np.float32)
    assert_within_bound(nll.log_softmax(input, axis=axis), softmax_oracle.log_softmax(input, axis=axis))


@pytest.mark.parametrize("axis", [1, 0, -1])
def test_log_softmax_of_one_dimension(axis, dtype, rng):
    input = random_logits(rng, 5, dtype)
    assert_within_bound(nll.log_softmax(input, axis=axis), softmax_oracle.log_softmax(input, axis=axis))


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0), (0, 0), (2, 0, 0)], ids=str)
def test_log_softmax_of_nothing(shape, dtype):
    assert_same_bits(nll.log_softmax(np.zeros(shape, dtype)), np.zeros(shape, dtype))


def test_log_softmax_only_reads(dtype, rng):
    input = random_logits(rng, (40, 5), dtype)
    before = input.tobytes()
    nll.log_softmax(input)
    assert input.tobytes() == before


# ---- reductions


@pairwise(reduced=["sum", "mean"], weighted=[False, True], dtype=FLOAT_DTYPES)
def test_reduced_double_is_the_exact_sum_of_the_losses(reduced, weighted, dtype, rng):
    input, target = random_logits(rng, (3000, 7), dtype, 20), random_target(rng, 3000, 7, ignored=-100)
    weight = rng.uniform(0.1, 1, 7) if weighted else np.ones(7)
    losses = nll.cross_entropy(input, target, reduction="none", dtype=np.float64)
    total_weight = sum(Fraction(weight[t]) for t in target if t >= 0)
    exact = sum(Fraction(loss) * Fraction(weight[t]) for loss, t in zip(losses, target, strict=True) if t >= 0)
    expected = oracle.encode(exact if reduced == "sum" else exact / total_weight, oracle.FLOAT64)
    arrays = input, target, weight if weighted else None
    actual = nll.cross_entropy(*arrays, reduction=reduced, dtype=np.float64)
    assert_same_bits(actual, from_bits(expected, FLOAT64))


@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_reduced_double_is_the_exact_sum_of_smoothed_losses(reduced, rng):
    input, target = random_logits(rng, (3000, 7), np.float64, 20), random_target(rng, 3000, 7, ignored=-100)
    weight, choices = rng.uniform(0.1, 1, 7), {"label_smoothing": 0.1}
    losses = nll.cross_entropy(input, target, weight, reduction="none", **choices)
    divisor = sum(Fraction(weight[t]) for t in target if t >= 0) if reduced == "mean" else 1
    expected = oracle.encode(sum(map(Fraction, losses)) / divisor, oracle.FLOAT64)
    actual = nll.cross_entropy(input, target, weight, reduction=reduced, **choices)
    assert_same_bits(actual, from_bits(expected, FLOAT64))


def test_reduced_losses_are_rounded_once(dtype, rng):
    """Not to the dtype of each loss first: a thousand losses far below its last digit still count."""
    count = 1000
    rows = np.tile(np.array([[0, -9]], dtype), (count, 1))
    rows[0] = [0, 60]
    loss = float(nll.cross_entropy(rows, np.zeros(count, int), reduction="sum"))
    exact = softmax_oracle.cross_entropy(rows, np.zeros(count, int), reduction="sum").loss
    assert abs(loss - exact) <= BOUNDS[dtype] * ulp(exact, dtype)


@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_infinite_losses_reach_the_reduced_one(reduced, threads):
    """A thread may have nothing but an infinite loss, and be the first or the last to end."""
    for special, expected in ((-INFINITY, INFINITY), (INFINITY, NAN), (NAN, NAN)):
        for sample in range(3):
            input = np.zeros((3, 40_000), np.float32)
            input[sample, 9] = special
            for _ in range(20):
                loss = nll.cross_entropy(input, [9, 9, 9], reduction=reduced)
                np.testing.assert_equal(float(loss), expected)


# ---- label smoothing


@pairwise(
    label_smoothing=[0.0, 0.1, 0.5, 1.0, 1, np.float32(0.1)],
    shape=[(40, 7), (6, 9, 5), (5, MAX_SEQUENTIAL_CLASSES + 2), (3, CHUNK_SIZE + 52, 2)],
    weighted=[False, True],
    dtype=FLOAT_DTYPES,
    reduction=REDUCTIONS,
)
def test_label_smoothing(label_smoothing, shape, weighted, dtype, reduction, rng):
    target_shape = (shape[0], *shape[2:])
    input, target = random_logits(rng, shape, dtype), random_target(rng, target_shape, shape[1], ignored=-100)
    weight = rng.uniform(0.5, 2, shape[1]) if weighted else None
    grad_output = random_grad_output(rng, target_shape, reduction)
    choices = {"label_smoothing": label_smoothing, "reduction": reduction}
    assert_cross_entropy(input, target, weight, grad_output=grad_output, **choices)


def test_no_smoothing_is_the_default(dtype, reduction, rng):
    arrays = random_logits(rng, (40, 7), dtype), random_target(rng, 40, 7), rng.uniform(0.5, 2, 7)
    assert_same_bits(
        nll.cross_entropy(*arrays, reduction=reduction, label_smoothing=0.0),
        nll.cross_entropy(*arrays, reduction=reduction),
    )


@pytest.mark.parametrize("class_count", FEW_AND_MANY_CLASSES)
def test_smoothing_of_an_impossible_class_is_infinite(class_count, dtype):
    input = np.zeros((2, class_count), dtype)
    input[0, 1] = -INFINITY
    loss = nll.cross_entropy(input, [0, 0], label_smoothing=0.1, reduction="none")
    assert loss[0] == INFINITY
    assert np.isfinite(float(loss[1]))
    planes = np.ascontiguousarray(input.T)[None]
    loss = nll.cross_entropy(planes, [[0, 0]], label_smoothing=0.1, reduction="none")
    assert loss[0, 0] == INFINITY


@pytest.mark.parametrize("class_count", FEW_AND_MANY_CLASSES)
def test_gradient_of_a_smoothed_sample_with_an_impossible_class(class_count, dtype):
    """The loss is infinite; what pulls at the logits is not."""
    input, target = np.zeros((2, class_count), dtype), np.array([0, 0])
    input[0, 1] = -INFINITY
    expected = softmax_oracle.cross_entropy(input, target, label_smoothing=0.1)
    gradient = nll.cross_entropy_backward(np.ones(2), input, target, reduction="none", label_smoothing=0.1)
    assert_within_bound(gradient, expected.gradient, expected.gradient_scale)


def test_smoothed_certain_sample(dtype):
    """Terms of 740·0.1/3 beside some far below."""
    input = np.array([[740, 0, 0], [104, 0, 0], [20, 0, 0], [0, 0, 0]], dtype)
    assert_cross_entropy(input, np.array([0, 0, 0, 0]), label_smoothing=0.1, reduction="none")
    assert_cross_entropy(input, np.array([1, 1, 1, 1]), [0.0, 1, 2], label_smoothing=1.0, reduction="none")


# ---- what has to hold between results


@pairwise(class_count=[2, 10, MAX_SEQUENTIAL_CLASSES + 1, 5000], label_smoothing=[0.0, 0.1], dtype=FLOAT_DTYPES)
def test_gradient_of_a_sample_adds_to_zero(class_count, label_smoothing, dtype, rng):
    """Within the bounds of its entries."""
    input, target = random_logits(rng, (30, class_count), dtype), random_target(rng, 30, class_count)
    gradient = nll.cross_entropy_backward(1.0, input, target, reduction="sum", label_smoothing=label_smoothing)
    exact = softmax_oracle.cross_entropy(input, target, reduction="sum", label_smoothing=label_smoothing)
    allowed = BOUNDS[dtype] * ulp(exact.gradient_scale, dtype)
    assert (np.abs(gradient.astype(np.longdouble).sum(1)) <= 1.0001 * allowed.sum(1)).all()


@pytest.mark.parametrize("class_count", [1, 2, 10, MAX_SEQUENTIAL_CLASSES + 1, 5000])
def test_agrees_with_nll_loss_of_log_softmax(class_count, dtype, rng):
    """Each has its own error."""
    input, target = random_logits(rng, (30, class_count), dtype), random_target(rng, 30, class_count, ignored=-100)
    one = nll.cross_entropy(input, target, reduction="none").astype(np.float64)
    other = nll.nll_loss(nll.log_softmax(input), target, reduction="none").astype(np.float64)
    assert (np.abs(one - other) <= 2 * BOUNDS[dtype] * ulp(np.maximum(one, other), dtype)).all()


# ---- anything


@st.composite
def strided_logits(draw: st.DrawFn, dtype: np.dtype) -> tuple[np.ndarray, int]:
    """A window of a random array with its axes in any order, steps of either sign, and the class axis anywhere."""
    rank = draw(st.integers(1, 4))
    shape = [draw(st.integers(1, 6)) for _ in range(rank)]
    axis = draw(st.integers(0, rank - 1))
    shape[axis] = draw(st.integers(1, 90))
    steps = [draw(st.sampled_from([1, 1, 2, -1, -3])) for _ in range(rank)]
    order = draw(st.permutations(range(rank)))
    largest = float(ml_dtypes.finfo(dtype).max)
    near = st.floats(-30, 30, width=16)
    anything = st.floats(-largest, largest) | st.just(-np.inf) | st.just(np.inf) | st.just(np.nan)
    palette = draw(st.lists(near, min_size=1, max_size=8)) + draw(st.lists(near | anything, max_size=4))
    seed = draw(st.integers(0, 2**32 - 1))
    frame_shape = [shape[i] * abs(steps[i]) for i in order]
    with np.errstate(over="ignore"):
        frame = np.random.default_rng(seed).choice(np.array(palette), frame_shape).astype(dtype)
    window = frame.transpose(np.argsort(order))[tuple(slice(None, None, step) for step in steps)]
    return window, axis


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(data=st.data())
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_any_logits_in_any_layout(dtype, data):
    input, axis = data.draw(strided_logits(dtype))
    class_count = input.shape[axis]
    target_shape = np.delete(input.shape, axis)
    size = int(target_shape.prod())
    labels = st.lists(st.integers(-1, class_count - 1), min_size=size, max_size=size)
    target = np.array(data.draw(labels), int).reshape(target_shape)
    weight = data.draw(st.none() | st.just(np.linspace(0.3, 2, class_count)))
    result_dtype = data.draw(st.sampled_from([None, *FLOAT_DTYPES]))
    choices = {"axis": axis, "ignore_index": -1, "reduction": "none", "dtype": result_dtype}
    assert_cross_entropy(input, target, weight, **choices)
    log_softmax = nll.log_softmax(input, axis=axis)
    assert_within_bound(log_softmax, softmax_oracle.log_softmax(input, axis=axis))
