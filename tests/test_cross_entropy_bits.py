# SPDX-License-Identifier: BSD-3-Clause
"""Cross-entropy, its gradient and log-softmax have the same bits however they are computed.

With any number of threads, in any memory layout, for any part of the batch, in place or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import nll
from support import softmax_oracle
from support.constants import CHUNK_SIZE, LANES, MAX_KEPT_CLASSES, MAX_SEQUENTIAL_CLASSES, around
from support.layouts import OWN_MEMORY, cropped, every_second, fortran, negative_strides
from support.notes import note
from support.oracle import assert_same_bits
from support.pairs import pairwise
from support.samples import FLOAT_DTYPES, REDUCTIONS, random_target, random_weight
from support.softmax_oracle import assert_within_bound

# Few classes, and those that do not lie side by side, are computed for samples side by side, others for classes side by
# side. Few are summed one after the other, more in lanes and in chunks.
CLASS_COUNTS = [1, 2, 5, LANES, LANES + 1, 40, 64, *around(MAX_SEQUENTIAL_CLASSES), 300, *around(CHUNK_SIZE), 5000]
CLASS_COUNTS_OF_EACH_LOOP = [1, 5, *around(MAX_SEQUENTIAL_CLASSES)[1:], 300, CHUNK_SIZE + 1]
LAYOUTS_OF_ROWS = [fortran, negative_strides, every_second, cropped]


@pytest.fixture(params=CLASS_COUNTS, ids=lambda n: f"{n}-classes")
def class_count(request: pytest.FixtureRequest) -> int:
    return request.param


class Results(NamedTuple):
    losses: np.ndarray
    mean: np.ndarray
    total_weight: np.ndarray
    gradient: np.ndarray
    log_softmax: np.ndarray


def results_of(input: np.ndarray, target: np.ndarray, weight: Any = None, *, axis: int = 1, **choices: Any) -> Results:
    """Of every function, whose results for a loss and its gradient together must be those of each."""
    choices = {"axis": axis, "ignore_index": -7} | choices
    losses = nll.cross_entropy(input, target, weight, reduction="none", **choices)
    mean, total_weight = nll.cross_entropy(input, target, weight, return_total_weight=True, **choices)
    gradient = nll.cross_entropy_backward(0.3, input, target, weight, **choices)
    value, gradient_beside = nll.cross_entropy_value_and_grad(input, target, weight, grad_output=0.3, **choices)
    assert_same_bits(value, mean)
    assert_same_bits(gradient_beside, gradient)
    return Results(losses, mean, total_weight, gradient, nll.log_softmax(input, axis=axis))


def assert_all_same_bits(actual: Results, expected: Results) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert_same_bits(one, other)


def varied_logits(rng: np.random.Generator, shape: Any, dtype: Any) -> np.ndarray:
    """With ties of the largest, certain samples, and classes without any probability, on axis 1."""
    logits = 5 * rng.normal(size=shape)
    logits = np.where(rng.random(shape) < 0.05, np.round(logits.max(1, keepdims=True)), logits)
    logits = np.where(rng.random(shape) < 0.02, -np.inf, logits)
    logits[:, rng.integers(shape[1])] += rng.choice([0, 0, 0, 30, 800], (shape[0], *shape[2:]))
    logits[:, 0] = np.where(np.isneginf(logits).all(1), 0, logits[:, 0])
    return logits.astype(dtype)


# ---- threads

SHAPES_OF_THREADS = [
    (20_000, 5),
    (3000, 64),
    (40, 5000),
    (3, MAX_KEPT_CLASSES + 1),
    (1, 262_144),
    (2, 19, 60, 101),
    (2, 300, 900),
    (2, CHUNK_SIZE + 52, 40),
]


@pytest.mark.parametrize("shape", SHAPES_OF_THREADS, ids=str)
def test_threads(shape, dtype, rng):
    input = varied_logits(rng, shape, dtype)
    target = random_target(rng, (shape[0], *shape[2:]), shape[1], ignored=-7)
    weight = random_weight(rng, shape[1], np.float64)
    with nll.num_threads(1):
        expected = results_of(input, target, weight)
    for n in (2, 3):
        with nll.num_threads(n):
            assert_all_same_bits(results_of(input, target, weight), expected)


@pytest.mark.parametrize("shape", SHAPES_OF_THREADS, ids=str)
def test_threads_with_smoothing(shape, rng):
    input = varied_logits(rng, shape, np.float32)
    input[np.isneginf(input)] = -50
    target = random_target(rng, (shape[0], *shape[2:]), shape[1], ignored=-7)
    with nll.num_threads(1):
        expected = results_of(input, target, label_smoothing=0.1)
    with nll.num_threads(3):
        assert_all_same_bits(results_of(input, target, label_smoothing=0.1), expected)


# ---- layouts


def test_layouts_of_rows(class_count, dtype, rng):
    input, target = varied_logits(rng, (11, class_count), dtype), random_target(rng, 11, class_count, ignored=-7)
    expected = results_of(input, target)
    for layout in LAYOUTS_OF_ROWS:
        with note(layout):
            assert_all_same_bits(results_of(layout(input), target), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_layouts_of_smoothed_rows(class_count, dtype, rng):
    input, target = rng.normal(size=(7, class_count)).astype(dtype), random_target(rng, 7, class_count, ignored=-7)
    weight, choices = random_weight(rng, class_count, np.float64), {"label_smoothing": 0.1}
    expected = results_of(input, target, weight, **choices)
    for layout in LAYOUTS_OF_ROWS:
        with note(layout):
            assert_all_same_bits(results_of(layout(input), target, weight, **choices), expected)


def assert_same_bits_on_the_first_axis(
    sample_count: int, class_count: int, dtype: Any, rng: np.random.Generator
) -> None:
    input = varied_logits(rng, (sample_count, class_count), dtype)
    target = random_target(rng, sample_count, class_count, ignored=-7)
    actual = results_of(np.ascontiguousarray(input.T), target, axis=0)
    turned = actual._replace(gradient=actual.gradient.T, log_softmax=actual.log_softmax.T)
    assert_all_same_bits(turned, results_of(input, target))


def test_classes_on_the_first_axis(class_count, dtype, rng):
    assert_same_bits_on_the_first_axis(19, class_count, dtype, rng)


@pytest.mark.parametrize("first", range(1, 2 * MAX_SEQUENTIAL_CLASSES + LANES, LANES))
def test_every_small_number_of_classes(first, rng):
    """How many samples are taken at a time depends on it; as many as there are lanes make whole vectors of them."""
    for class_count in range(first, first + LANES):
        assert_same_bits_on_the_first_axis(LANES, class_count, np.float32, rng)


@pairwise(axis=[0, 1, -1], class_count=CLASS_COUNTS, dtype=FLOAT_DTYPES)
def test_axes_of_images(axis, class_count, dtype, rng):
    """Of (C, N, d1), (N, C, d1) and (N, d1, C), the same samples: those of contiguous rows."""
    rows, target = varied_logits(rng, (6, class_count), dtype), random_target(rng, 6, class_count, ignored=-7)
    expected = results_of(rows, target)
    images = np.moveaxis(rows.reshape(2, 3, class_count), -1, axis)

    def as_rows(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, axis, -1).reshape(6, class_count)

    for layout in OWN_MEMORY:
        actual = results_of(layout(images), layout(target.reshape(2, 3)), axis=axis)
        turned = actual._replace(
            losses=actual.losses.reshape(6), gradient=as_rows(actual.gradient), log_softmax=as_rows(actual.log_softmax)
        )
        with note(layout):
            assert_all_same_bits(turned, expected)


@pytest.mark.parametrize("class_count", CLASS_COUNTS_OF_EACH_LOOP)
@pytest.mark.parametrize("count", [1, *around(LANES), 64, 65, *around(MAX_SEQUENTIAL_CLASSES), 200])
def test_any_number_of_samples_side_by_side(count, class_count, rng):
    rows = varied_logits(rng, (count, class_count), np.float32)
    target = random_target(rng, count, class_count, ignored=-7)
    expected = results_of(rows, target)
    side_by_side = np.ascontiguousarray(rows.T)[None]
    actual = results_of(side_by_side, target[None])
    turned = actual._replace(
        losses=actual.losses[0], gradient=actual.gradient[0].T, log_softmax=actual.log_softmax[0].T
    )
    assert_all_same_bits(turned, expected)


def test_repeated_samples(class_count, dtype, rng):
    """By strides of 0."""
    row = varied_logits(rng, (1, class_count), dtype)
    target = random_target(rng, 40, class_count, ignored=-7)
    rows = np.broadcast_to(row, (40, class_count))
    assert_all_same_bits(results_of(rows, target), results_of(rows.copy(), target))


def test_repeated_classes(class_count, dtype, rng):
    rows = np.broadcast_to(varied_logits(rng, (40, 1), dtype), (40, class_count))
    target = random_target(rng, 40, class_count, ignored=-7)
    assert_all_same_bits(results_of(rows, target), results_of(rows.copy(), target))


# ---- parts of a batch


def part_of_batch(input, target, part):
    gradient = nll.cross_entropy_backward(0.3, input[part], target[part], reduction="sum", ignore_index=-7)
    losses = nll.cross_entropy(input[part], target[part], reduction="none", ignore_index=-7)
    return losses, gradient, nll.log_softmax(input[part])


@pairwise(parts=[40, 2, 3], class_count=CLASS_COUNTS, dtype=FLOAT_DTYPES)
def test_parts_of_a_batch(parts, class_count, dtype, rng):
    input, target = varied_logits(rng, (40, class_count), dtype), random_target(rng, 40, class_count, ignored=-7)
    whole = part_of_batch(input, target, slice(None))
    pieces = [part_of_batch(input, target, part) for part in np.array_split(np.arange(40), parts)]
    for actual, expected in zip(zip(*pieces, strict=True), whole, strict=True):
        assert_same_bits(np.concatenate(actual), expected)


@pairwise(axis=[0, 1], class_count=CLASS_COUNTS, dtype=FLOAT_DTYPES)
def test_masked_and_undefined_samples_beside_others(axis, class_count, dtype, rng):
    """What is far from the other logits changes how exponentials are taken from there on, and no bit of any sample."""
    input = rng.normal(size=(40, class_count)).astype(dtype)
    lowest = np.finfo(np.float32).min if dtype != np.float16 else -65504
    for sample, value in [(7, -np.inf), (18, lowest), (19, np.nan), (22, np.inf), (30, -1000), (38, -np.inf)]:
        input[sample, rng.integers(class_count)] = value
    input[[12, 25]] += np.asarray(600, dtype)
    input[33:35] -= np.asarray(20_000, dtype)
    target = random_target(rng, 40, class_count, ignored=-7)
    turned, choices = np.ascontiguousarray(np.moveaxis(input, 1, axis)), {"axis": axis, "ignore_index": -7}
    losses = nll.cross_entropy(turned, target, reduction="none", **choices)
    gradient = nll.cross_entropy_backward(0.3, turned, target, reduction="sum", **choices)
    for i in range(40):
        loss, gradient_alone, _ = part_of_batch(input, target, slice(i, i + 1))
        assert_same_bits(losses[i], loss[0])
        assert_same_bits(gradient.take(i, 1 - axis), gradient_alone[0])


# The shift of the exponentials changes at some distance of the largest logit from 0, and for bfloat16 also from that of
# the sample before.
CENTERS = [0, 20, 97, 108, 127.5, 129, 340, 350, 351, -20, -97, -129, -345, -351, 600, -600]


@pytest.mark.parametrize("class_count", CLASS_COUNTS_OF_EACH_LOOP)
@pytest.mark.parametrize("spread", [0.01, 8, 200], ids=lambda spread: f"spread-{spread}")
def test_logits_far_from_0(spread, class_count, dtype, rng):
    input = (np.repeat(CENTERS, 3)[:, None] + spread * rng.normal(size=(48, class_count))).astype(dtype)
    input = input[rng.permutation(48)]
    target = random_target(rng, 48, class_count, ignored=-7)
    whole = part_of_batch(input, target, slice(None))
    side_by_side = results_of(np.ascontiguousarray(input.T), target, axis=0)
    assert_same_bits(side_by_side.losses, whole[0])
    assert_same_bits(side_by_side.log_softmax.T, whole[2])
    for i in range(48):
        for alone, expected in zip(part_of_batch(input, target, slice(i, i + 1)), whole, strict=True):
            assert_same_bits(alone[0], expected[i])
    exact = softmax_oracle.cross_entropy(input, target, ignore_index=-7, reduction="sum", grad_output=0.3)
    assert_within_bound(whole[0], softmax_oracle.cross_entropy(input, target, ignore_index=-7).loss)
    assert_within_bound(whole[1], exact.gradient, exact.gradient_scale)
    assert_within_bound(whole[2], softmax_oracle.log_softmax(input))


def test_one_dimensional_input(class_count, dtype, rng):
    input, target = varied_logits(rng, (3, class_count), dtype), random_target(rng, 3, class_count)
    losses, gradient, log_softmax = part_of_batch(input, target, slice(None))
    for i in range(3):
        assert_same_bits(nll.cross_entropy(input[i], target[i]), losses[i])
        assert_same_bits(nll.cross_entropy_backward(0.3, input[i], target[i]), gradient[i])
        assert_same_bits(nll.log_softmax(input[i]), log_softmax[i])


# ---- in place


class InPlace(NamedTuple):
    """A function with `out`, called as function(input, out)."""

    name: str
    call: Callable[..., Any]


def in_place_functions(target: np.ndarray, weight: Any, label_smoothing: float) -> list[InPlace]:
    choices = {"ignore_index": -7, "label_smoothing": label_smoothing}
    return [
        InPlace("log_softmax", lambda input, out: nll.log_softmax(input, out=out)),
        InPlace(
            "backward", lambda input, out: nll.cross_entropy_backward(0.3, input, target, weight, **choices, out=out)
        ),
        InPlace(
            "value_and_grad",
            lambda input, out: nll.cross_entropy_value_and_grad(input, target, weight, **choices, out=out)[-1],
        ),
    ]


@pairwise(label_smoothing=[0.0, 0.1], class_count=CLASS_COUNTS, dtype=FLOAT_DTYPES)
def test_in_place(label_smoothing, class_count, dtype, rng):
    input, target = varied_logits(rng, (5, class_count, 2), dtype), random_target(rng, (5, 2), class_count, ignored=-7)
    if label_smoothing:
        input[np.isneginf(input)] = -50
    for name, function in in_place_functions(target, random_weight(rng, class_count, np.float64), label_smoothing):
        expected = function(input, None)
        for layout in OWN_MEMORY:
            beside, logits = layout(np.full_like(input, 7)), layout(input.copy())
            with note(name, layout):
                assert function(input, beside) is beside
                assert_same_bits(beside, expected)
                assert function(logits, logits) is logits
                assert_same_bits(logits, expected)


@pairwise(indirect=["threads"], shape=SHAPES_OF_THREADS, threads=[2, 3], dtype=FLOAT_DTYPES)
def test_in_place_on_several_threads(shape, threads, dtype, rng):
    input = varied_logits(rng, shape, dtype)
    target = random_target(rng, (shape[0], *shape[2:]), shape[1], ignored=-7)
    for _, function in in_place_functions(target, random_weight(rng, shape[1], np.float64), 0.0):
        logits = input.copy()
        expected = function(input, None)
        function(logits, logits)
        assert_same_bits(logits, expected)


def test_in_place_through_another_view_of_the_same_memory(rng):
    logits, target = varied_logits(rng, (20, 9), np.float32), random_target(rng, 20, 9)
    expected = nll.cross_entropy_backward(1.0, logits, target)
    nll.cross_entropy_backward(1.0, logits[:], target, out=logits.view())
    assert_same_bits(logits, expected)


def test_window_in_place_leaves_the_frame_alone(own_memory, dtype, rng):
    frame = own_memory(np.full((9, 12, 5), 7, dtype))
    window, target = frame[2:-1, 1:-2, 1:4], random_target(rng, (6, 3), 9, ignored=-7)
    window[...] = varied_logits(rng, window.shape, dtype)
    expected = nll.cross_entropy_backward(1.0, window.copy(), target, ignore_index=-7)
    nll.cross_entropy_backward(1.0, window, target, ignore_index=-7, out=window)
    assert_same_bits(window, expected)
    window[...] = 7
    assert (frame == 7).all()


def test_fresh_log_softmax_has_the_memory_order_of_input(layout):
    input = layout(np.zeros((3, 5, 4, 2), np.float32))
    assert nll.log_softmax(input).strides == np.empty_like(input).strides


# ---- gradients that are too large for the caches are written past them


@pytest.mark.parametrize("shape", [(2**20 + 3, 17), (2**19 + 3, 65), (9, 19, 330, 331), (7, 2**21 + 1)], ids=str)
def test_gradient_larger_than_the_caches(shape, rng):
    """The same as of its parts, which fit in."""
    input = rng.normal(size=shape[1:]).astype(np.float32)[None]
    input = np.broadcast_to(input, shape)
    target = random_target(rng, (shape[0], *shape[2:]), shape[1], np.int32, ignored=-7)
    frame = np.full((shape[0] + 2, *shape[1:]), 7, np.float32)
    nll.cross_entropy_backward(0.3, input, target, reduction="sum", ignore_index=-7, out=frame[1:-1])
    size = -(-shape[0] // 16)
    for begin in range(0, shape[0], size):
        part = slice(begin, begin + size)
        expected = nll.cross_entropy_backward(0.3, input[part], target[part], reduction="sum", ignore_index=-7)
        assert np.array_equal(frame[1:-1][part].view(np.uint32), expected.view(np.uint32))
    assert (frame[0] == 7).all()
    assert (frame[-1] == 7).all()


# ---- results of another dtype


@pairwise(
    result_dtype=FLOAT_DTYPES,
    class_count=[5, MAX_SEQUENTIAL_CLASSES + 1, CHUNK_SIZE + 1],
    own_memory=OWN_MEMORY,
    dtype=FLOAT_DTYPES,
    reduction=REDUCTIONS,
)
def test_result_dtype_is_the_same_in_every_layout(result_dtype, class_count, own_memory, dtype, reduction, rng):
    input = varied_logits(rng, (6, class_count, 3), dtype)
    target = random_target(rng, (6, 3), class_count, ignored=-7)
    choices = {"reduction": reduction, "dtype": result_dtype, "ignore_index": -7}
    expected = nll.cross_entropy(input, target, **choices)
    assert_same_bits(nll.cross_entropy(own_memory(input), own_memory(target), **choices), expected)
