# SPDX-License-Identifier: BSD-3-Clause
"""More samples, classes and elements than 31 or 32 bits count, and elements farther apart: counted and found right.

Strides of 0 and files with holes make them out of little memory.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import nll
from support import oracle
from support.losses import Loss
from support.notes import note
from support.oracle import assert_same_bits
from support.samples import random_target

MANY = [2**31 + 1, 2**32 + 3]


def repeated(value: float, shape: tuple[int, ...]) -> np.ndarray:
    """A number so many times, in the memory of one."""
    return np.broadcast_to(value, shape)


@pytest.fixture(params=["float16", "float64"])
def far(request: pytest.FixtureRequest, tmp_path):
    """A function that lays an array out so that its elements span more than 2^32 others, the holes of a file."""

    def lay_out(array: np.ndarray, name: str) -> np.ndarray:
        steps = 2**31 + 5, 2**29 + 3, 2**27 + 1
        size = 1 + sum((extent - 1) * step for extent, step in zip(array.shape, steps, strict=False))
        assert size > 2**32
        memory = np.memmap(tmp_path / name, array.dtype, "w+", shape=size)
        placed = as_strided(memory, array.shape, [array.itemsize * step for step in steps[: array.ndim]])
        placed[...] = array
        return placed

    lay_out.dtype = np.dtype(request.param)
    return lay_out


def test_elements_that_are_far_apart(far, loss: Loss, rng):
    """Results and gradients of an input, its labels and its gradient's memory are those of arrays side by side."""
    input, target = loss.random_input(rng, (3, 4, 5), far.dtype), random_target(rng, (3, 5), 4)
    expected = loss.value_and_grad(input, target)
    placed, labels, out = far(input, "input"), far(target, "target"), far(np.full_like(input, 7), "out")
    assert_same_bits(loss.value(placed, labels), expected[0])
    value, gradient = loss.value_and_grad(placed, labels, out=out)
    assert gradient is out
    assert_same_bits(value, expected[0])
    assert_same_bits(out, expected[1])


@pytest.mark.parametrize("classes", MANY)
def test_many_classes_of_which_each_is_found(classes, tmp_path):
    """In a file of so many bytes, all but three of them holes."""
    labels = np.array([0, 2**31 - 1, classes - 1])
    memory = np.memmap(tmp_path / "rows", np.float16, "w+", shape=classes + 2)
    input = as_strided(memory, (3, classes), (2, 2))  # each row begins an element later
    for sample, label in enumerate(labels):
        input[sample, label] = -1 - sample
    losses = nll.nll_loss(input, labels, reduction="none")
    assert_same_bits(losses, np.array([1, 2, 3], np.float16))
    with pytest.raises(IndexError, match=rf"target\[1\] is {classes}, outside \[0, {classes}\)"):
        nll.nll_loss(input, [0, classes, 0])


def test_many_samples_are_counted():
    samples = MANY[0]
    input, target = repeated(np.float32(-0.7), (samples, 1)), repeated(np.uint8(0), (samples,))
    loss, total_weight = nll.nll_loss(input, target, reduction="sum", return_total_weight=True)
    assert total_weight == samples
    exact = samples * oracle.Fraction(float(np.float32(0.7)))
    assert_same_bits(loss, oracle.from_bits(oracle.encode(exact, oracle.FORMATS[loss.dtype]), loss.dtype))


def test_states_count_many_samples():
    """Merged with itself again and again, a state of three samples, one of them ignored, counts 3 * 2^40."""
    total = nll.LossAccumulator("nll")
    total.update([[-0.5], [-1.5], [-2.5]], [0, -100, 0])
    for _ in range(40):
        total.merge(total.copy())
    assert (total.count, total.ignored) == (2 * 2**40, 2**40)
    assert total.compute("sum") == 3 * 2**40
    assert total.compute() == 1.5


def test_position_of_a_label_after_many():
    target = as_strided(np.array([0, 7], np.int8), (2, 2**31 + 1), (1, 0))
    with pytest.raises(IndexError, match=r"target\[1, 0\] is 7, outside \[0, 1\)"):
        nll.nll_loss(repeated(np.float32(-1), (2, 1, 2**31 + 1)), target)


@pytest.mark.parametrize("shape", [(1, 2**32 + 3), (2**15 + 1, 2**16)], ids=["a-row", "rows"])
def test_cross_entropy_of_many_elements(shape):
    """Of equal logits it is the logarithm of their number, for each sample and for all."""
    logits, target = repeated(np.float16(3), shape), repeated(np.int64(shape[1] - 1), shape[:1])
    loss = nll.cross_entropy(logits, target, dtype=np.float32)
    assert abs(loss - math.log(shape[1])) <= 0.51 * np.spacing(np.float32(math.log(shape[1])))


# ---- sizes that overflow

REACHES = {
    "stride": ((2, 3), (2**62, 4)),
    "negative-stride": ((2, 3), (-(2**62), 4)),
    "class-stride": ((2, 3), (4, 2**62)),
    "sum-of-strides": ((3, 3), (2**61, 2**61)),
    "product": ((2**40, 2**10), (2**22, 2**12)),
    "lowest-stride": ((2, 3), (-(2**63), 4)),
    "both-ways": ((2, 3), (-(2**62), 2**62)),
}


@pytest.mark.parametrize("name", REACHES)
@pytest.mark.parametrize("role", ["input", "target", "out", "sample_weight", "grad_output"])
def test_reach_beyond_64_bits_is_refused(name, role):
    """Arrays that only stride tricks make: an address is never computed."""
    shape, strides = REACHES[name]
    small = repeated(np.float32(0), shape)
    given = as_strided(np.zeros(1, np.float32 if role != "target" else np.int32), shape, strides)
    samples = repeated(np.int32(0), shape[:1])
    if role == "input":
        calls = [lambda: nll.nll_loss(given, samples), lambda: nll.cross_entropy(given, samples, reduction="sum")]
        calls += [lambda: nll.log_softmax(given), lambda: nll.logsumexp(given)]
    elif role == "out":
        calls = [lambda: nll.nll_loss_backward(1.0, small, samples, out=given)]
        calls += [lambda: nll.cross_entropy_value_and_grad(small, samples, out=given)]
    else:
        input = repeated(np.float32(0), (shape[0], 1, shape[1]))
        labels = given if role == "target" else repeated(np.int32(0), shape)
        named = {role: given} if role == "sample_weight" else {}
        calls = [lambda: nll.nll_loss(input, labels, **named), lambda: nll.cross_entropy(input, labels, **named)]
        if role == "grad_output":
            calls = [lambda: nll.cross_entropy_backward(given, input, labels, reduction="none")]
    for call in calls:
        with pytest.raises((ValueError, MemoryError)):
            call()


def test_products_of_sizes_do_not_wrap():
    """Of every two powers of two: 2^59 elements and more are refused, fewer are looked at."""
    element = np.zeros(1, np.float16)
    for rows, columns in itertools.product(range(28, 58, 3), repeat=2):
        if rows + columns > 61:  # NumPy has no such array
            continue
        input = as_strided(element, (1, 2**rows, 2**columns), (0, 0, 0))
        error, message = (ValueError, "more elements") if rows + columns >= 59 else (IndexError, "is -1, outside")
        with note(rows, columns), pytest.raises(error, match=message):
            nll.nll_loss(input, repeated(np.int64(-1), (1, 2**columns)))
