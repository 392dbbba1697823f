# SPDX-License-Identifier: BSD-3-Clause
"""Shapes, strides and axes of every kind: a result depends on the numbers only, not on where they lie in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import nll
from support import oracle
from support.layouts import LAYOUTS, OWN_MEMORY, c_order, channels_last
from support.losses import assert_exact, assert_exact_gradient
from support.oracle import assert_same_bits
from support.pairs import pairwise
from support.samples import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    REDUCTIONS,
    random_grad_output,
    random_input,
    random_target,
    random_weight,
)

THREADS = [1, 2, 3]
many = hypothesis.settings(max_examples=150, deadline=None)


@st.composite
def memories(draw: st.DrawFn, array: np.ndarray, *, writable: bool = False) -> np.ndarray:
    """The values of an array in memory of any axis order, of any steps (backwards too), with a margin, or broadcast."""
    if array.ndim == 0:
        return array.copy()
    order = draw(st.permutations(range(array.ndim)))
    steps = [draw(st.sampled_from([1, -1, 2, -3])) for _ in range(array.ndim)]
    margins = [draw(st.integers(0, 2)) for _ in range(array.ndim)]
    sizes = [n * abs(step) + margin for n, step, margin in zip(array.shape, steps, margins, strict=True)]
    frame = np.full([sizes[a] for a in order], 77, array.dtype).transpose(np.argsort(order))
    window = frame[tuple(slice(0, n * abs(step), abs(step)) for n, step in zip(array.shape, steps, strict=True))]
    window = window[tuple(slice(None, None, step // abs(step)) for step in steps)]
    window[...] = array
    if not writable and draw(st.booleans()):
        axis = draw(st.integers(0, array.ndim - 1))
        window = np.broadcast_to(np.take(window, range(min(1, window.shape[axis])), axis), array.shape)
    return window


class Call(NamedTuple):
    input: np.ndarray
    target: np.ndarray
    weight: np.ndarray | None
    axis: int


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """An input of up to five dimensions, some of size 0 or 1, with its target and perhaps weights, in any memory."""
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = draw(st.integers(1, 5))
    target_shape = [n for a, n in enumerate(shape) if a != axis]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    input = random_input(rng, shape, draw(st.sampled_from(FLOAT_DTYPES)))
    label_dtype = draw(st.sampled_from(INTEGER_DTYPES))
    target = random_target(rng, target_shape, shape[axis], label_dtype, ignored=draw(st.sampled_from([None, 100])))
    weight = random_weight(rng, shape[axis], draw(st.sampled_from([None, *FLOAT_DTYPES])))
    return Call(draw(memories(input)), draw(memories(np.asarray(target))), weight, axis)


def keywords(call: Call, reduction: str) -> dict[str, Any]:
    return {"axis": call.axis, "ignore_index": 100, "reduction": reduction}


@many
@hypothesis.given(call=calls())
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss_of_any_memory(call, reduction):
    assert_exact(*call[:3], **keywords(call, reduction))


@many
@hypothesis.given(call=calls(), data=st.data())
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_of_any_memory(call, reduction, data):
    grad_output: Any = 0.3
    if reduction == "none":
        grad_output = data.draw(memories(np.random.default_rng(0).normal(size=call.target.shape)))
    out = data.draw(memories(np.full(call.input.shape, np.nan, call.input.dtype), writable=True))
    expected = oracle.nll_loss_backward(grad_output, *call[:3], **keywords(call, reduction))
    assert_same_bits(nll.nll_loss_backward(grad_output, *call[:3], **keywords(call, reduction)), expected)
    assert nll.nll_loss_backward(grad_output, *call[:3], **keywords(call, reduction), out=out) is out
    assert_same_bits(out, expected)


@many
@hypothesis.given(call=calls())
def test_value_and_gradient_of_any_memory(call):
    loss, gradient = nll.nll_loss_value_and_grad(*call[:3], **keywords(call, "mean"))
    assert_same_bits(loss, oracle.nll_loss(*call[:3], **keywords(call, "mean")).loss)
    assert_same_bits(gradient, oracle.nll_loss_backward(1.0, *call[:3], **keywords(call, "mean")))


@pairwise(indirect=["threads"], reduction=REDUCTIONS, layout=LAYOUTS, threads=THREADS)
def test_large_arrays_in_any_memory(reduction, layout, threads, rng):
    shape = (5, 3, 70, 81)
    input = layout(random_input(rng, shape, np.float32))
    target = layout(random_target(rng, (5, 70, 81), 3, np.uint8, ignored=255))
    assert_same_bits(
        nll.nll_loss(input, target, ignore_index=255, reduction=reduction),
        nll.nll_loss(input.copy("C"), target.copy("C"), ignore_index=255, reduction=reduction),
    )


def test_large_gradients_in_any_memory(layout, threads, rng):
    shape = (5, 3, 70, 81)
    input = layout(random_input(rng, shape, np.float32))
    target = layout(random_target(rng, (5, 70, 81), 3, np.uint8, ignored=255))
    assert_same_bits(
        nll.nll_loss_backward(1.0, input, target, ignore_index=255),
        nll.nll_loss_backward(1.0, input.copy("C"), target.copy("C"), ignore_index=255),
    )


@pairwise(
    indirect=["threads"],
    memory=OWN_MEMORY,
    shape=[(3, 4, 1300), (1300, 4), (2, 3, 40, 50), (2, 700, 3), (3, 2, 5, 700)],
    threads=THREADS,
    reduction=REDUCTIONS,
)
def test_gradients_of_many_blocks_into_any_memory(memory, shape, threads, reduction, rng):
    """Rows and planes that are longer than a block are among them."""
    input, target = random_input(rng, shape, np.float32), random_target(rng, (shape[0], *shape[2:]), shape[1])
    out = memory(np.full(shape, np.nan, np.float32))
    grad_output = random_grad_output(rng, target.shape, reduction)
    nll.nll_loss_backward(grad_output, input, target, reduction=reduction, out=out)
    assert_same_bits(out, oracle.nll_loss_backward(grad_output, input, target, reduction=reduction))


@pairwise(
    indirect=["threads"],
    shape=[(3, 4, 1300), (2, 3, 3, 700)],
    input_memory=[c_order, channels_last],
    layout=LAYOUTS,
    threads=THREADS,
    reduction=["none", "mean"],
)
def test_gradients_of_many_blocks_by_target_in_any_memory(shape, input_memory, layout, threads, reduction, rng):
    """The axes of target do not collapse as those of the gradient do."""
    input = input_memory(random_input(rng, shape, np.float32))
    target = layout(random_target(rng, (shape[0], *shape[2:]), shape[1]))
    grad_output = layout(rng.normal(size=target.shape)) if reduction == "none" else 0.3
    assert_exact_gradient(grad_output, input, target, reduction=reduction)


def test_order_of_the_samples_does_not_matter(dtype, rng):
    input, target = random_input(rng, (5000, 4), dtype), random_target(rng, 5000, 4, ignored=-100)
    order, weight = rng.permutation(5000), random_weight(rng, 4, np.float64)
    for reduction in ("sum", "mean"):
        assert_same_bits(
            nll.nll_loss(input[order], target[order], weight, reduction=reduction),
            nll.nll_loss(input, target, weight, reduction=reduction),
        )


def test_unreduced_loss_of_permuted_axes_is_the_permuted_loss(rng):
    input, target = random_input(rng, (3, 4, 5, 2), np.float32), random_target(rng, (3, 5, 2), 4)
    loss = nll.nll_loss(input, target, reduction="none")
    moved = nll.nll_loss(np.moveaxis(input, 1, -1), target, reduction="none", axis=-1)
    flipped = nll.nll_loss(input.transpose(3, 1, 2, 0), target.transpose(2, 1, 0), reduction="none")
    assert_same_bits(moved, loss)
    assert_same_bits(flipped, loss.transpose(2, 1, 0))


def test_as_many_dimensions_as_numpy_has(reduction, rng):
    shape = (2, 3, *[1] * 60, 2, 2)
    input, target = random_input(rng, shape, np.float32), random_target(rng, (2, *shape[2:]), 3)
    assert_exact(input, target, reduction=reduction)
