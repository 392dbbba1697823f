# SPDX-License-Identifier: BSD-3-Clause
"""LossAccumulator: batches have the bits of one call, groups those of their own, and no update is lost."""

from __future__ import annotations

import copy
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest

import nll
from nll._arguments import shown
from support import states
from support.layouts import LAYOUTS
from support.losses import CROSS_ENTROPY, SMOOTHED, Loss
from support.oracle import assert_same_bits
from support.pairs import pairwise
from support.samples import FLOAT_DTYPES, INTEGER_DTYPES, WEIGHT_DTYPES, random_target

REDUCED = ["sum", "mean"]
NAMES = {"nll_loss": "nll", "cross_entropy": "cross_entropy", "smoothed_cross_entropy": "cross_entropy"}


def accumulator_of(loss: Loss, *arguments: Any, **choices: Any) -> nll.LossAccumulator:
    """An accumulator of the loss under test."""
    smoothing = {"label_smoothing": 0.1} if loss is SMOOTHED else {}
    return nll.LossAccumulator(NAMES[loss.name], *arguments, **smoothing, **choices)


def in_batches(accumulator: nll.LossAccumulator, count: int, *arrays: Any, **named: Any) -> nll.LossAccumulator:
    """Update it with batches of so many samples."""
    for first in range(0, len(arrays[1]), count):
        batch = slice(first, first + count)
        accumulator.update(*(a[batch] for a in arrays), **{name: a[batch] for name, a in named.items()})
    return accumulator


def data_of(loss: Loss, rng: np.random.Generator, count: int = 300, dtype: Any = np.float32) -> Any:
    return loss.random_input(rng, (count, 5), dtype), random_target(rng, count, 5, ignored=-100)


# ---- the loss


@pairwise(
    dtype=FLOAT_DTYPES, weight_dtype=WEIGHT_DTYPES, reduction=REDUCED, result_dtype=[None, np.float32, np.float64]
)
def test_loss_has_the_bits_of_one_call(loss, dtype, weight_dtype, reduction, result_dtype, rng):
    input, target = data_of(loss, rng, dtype=dtype)
    weight = loss.random_weight(rng, 5, weight_dtype)
    accumulator = in_batches(accumulator_of(loss, weight, dtype=result_dtype), 37, input, target)
    value, total_weight = loss.value(
        input, target, weight, reduction=reduction, dtype=result_dtype, return_total_weight=True
    )
    assert_same_bits(accumulator.compute(reduction), value)
    assert_same_bits(accumulator.total_weight, total_weight)
    assert type(accumulator.compute(reduction)) is type(value)
    assert accumulator.count == (target != -100).sum()
    assert accumulator.ignored == (target == -100).sum()


@pytest.mark.parametrize("batch", [1, 7, 511, 512, 513, 20_000])
def test_any_batch(loss, batch, threads, rng):
    input, target = data_of(loss, rng, 20_000 if batch > 100 else 600)
    accumulator = in_batches(accumulator_of(loss), batch, input, target)
    assert_same_bits(accumulator.compute(), loss.value(input, target))


def test_images(loss, layout, rng):
    shape = (3, 5, 4, 2)
    input, target = layout(loss.random_input(rng, shape, np.float32)), layout(random_target(rng, (3, 4, 2), 5))
    accumulator = accumulator_of(loss)
    accumulator.update(input, target)
    assert_same_bits(accumulator.compute(), loss.value(input, target))
    assert accumulator.count == 24


@pytest.mark.parametrize(
    "choices",
    [{"axis": -1}, {"axis": 0}, {"ignore_index": None}, {"ignore_index": 3}, {"index_base": 1}, {"index_base": -7}],
    ids=str,
)
def test_choices_are_those_of_the_loss(loss, choices, rng):
    input = loss.random_input(rng, (4, 4, 4), np.float32)
    target = random_target(rng, (4, 4), 4) + choices.get("index_base", 0)
    accumulator = accumulator_of(loss, **choices)
    accumulator.update(input, target)
    assert_same_bits(accumulator.compute(), loss.value(input, target, **choices))


def test_one_sample_without_dimensions(loss):
    accumulator = accumulator_of(loss)
    accumulator.update([0.5, 1.5], 1)
    assert_same_bits(accumulator.compute(), loss.value([0.5, 1.5], 1))


@pytest.mark.parametrize("target_dtype", INTEGER_DTYPES, ids=str)
def test_target_dtypes(loss, target_dtype, rng):
    input, target = loss.random_input(rng, (50, 5), np.float32), random_target(rng, 50, 5, target_dtype)
    accumulator = accumulator_of(loss)
    accumulator.update(input, target)
    assert_same_bits(accumulator.compute(), loss.value(input, target))


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ([np.float16, ml_dtypes.bfloat16], np.float32),
        ([np.float16, np.float32], np.float32),
        ([ml_dtypes.bfloat16] * 2, ml_dtypes.bfloat16),
        ([np.float32, np.float64, np.float16], np.float64),
        ([], np.float64),
    ],
    ids=["halves", "half-and-single", "bfloat16", "double", "none"],
)
def test_loss_has_the_widest_dtype_of_the_inputs(loss, dtypes, expected):
    accumulator = accumulator_of(loss)
    for dtype in dtypes:
        accumulator.update(np.array([[0.5, 1]], dtype), [0])
    for same in (accumulator, nll.LossAccumulator.from_bytes(accumulator.to_bytes())):
        assert same.compute().dtype == expected
    assert nll.LossAccumulator.from_bytes(accumulator.to_bytes(), dtype="f2").compute().dtype == np.float16


@pytest.mark.parametrize("groups", [None, 2], ids=["whole", "grouped"])
def test_a_batch_without_samples_adds_nothing(loss, groups):
    """No dtype, no weights: the state is of the data, however it was cut."""
    accumulator, never = accumulator_of(loss, groups=groups), accumulator_of(loss, groups=groups)
    group = {} if groups is None else {"group": []}
    accumulator.update(np.zeros((0, 3), np.float16), [], sample_weight=np.ones(0), **group)
    np.testing.assert_array_equal(accumulator.state, never.state)
    assert accumulator.compute().dtype == np.float64
    for some in (accumulator, never):
        some.update(np.array([[0.5, 1, 2]], np.float32), [0], **({} if groups is None else {"group": [1]}))
    accumulator.update(np.zeros((0, 3)), np.zeros(0, np.uint8), **group)
    np.testing.assert_array_equal(accumulator.state, never.state)


@pytest.mark.parametrize("convert", [np.ndarray.tolist, lambda a: a.astype(a.dtype.newbyteorder(">"))])
def test_arrays_that_are_not_native(loss, convert, rng):
    input, target = loss.random_input(rng, (20, 5), np.float64), random_target(rng, 20, 5)
    accumulator = accumulator_of(loss, groups=2)
    accumulator.update(convert(input), convert(target), group=convert(target % 2))
    for group in range(2):
        mine = target % 2 == group
        assert_same_bits(accumulator.compute()[group], loss.value(input[mine], target[mine]))


@pytest.mark.parametrize("empty", ["nan", "zero", "raise"])
@pytest.mark.parametrize("weight", [None, [1.0, -1.0]], ids=["all-ignored", "weights-add-to-0"])
def test_empty_mean(empty, weight):
    input, target = np.zeros((2, 2)), [-100, -100] if weight is None else [0, 1]
    accumulator = nll.LossAccumulator("nll", weight, empty=empty)
    accumulator.update(input, target)
    if empty == "raise":
        for get in (accumulator.compute, lambda: accumulator.perplexity):
            with pytest.raises(ValueError, match=r"the total weight of the . samples .* is 0"):
                get()
    else:
        assert_same_bits(accumulator.compute(), nll.nll_loss(input, target, weight, empty=empty))
        assert_same_bits(accumulator.perplexity, np.float64(1 if empty == "zero" else np.nan))
    assert_same_bits(accumulator.compute("sum"), np.float64(0))
    assert math.isnan(accumulator.standard_error)


def test_weight_is_copied():
    weight = np.array([1.0, 2.0])
    accumulator = nll.LossAccumulator("nll", weight)
    weight[:] = 7
    accumulator.update([[0.0, 0.0]], [1])
    assert accumulator.total_weight == 2


# ---- the standard error and the perplexity


def assert_close(actual: Any, exact: Any) -> None:
    """Within 8 ULP."""
    with mpmath.workprec(200):
        assert abs(mpmath.mpf(float(actual)) - exact) <= 8 * mpmath.mpf(float(np.spacing(abs(actual))))


SAMPLES = {
    "usual": lambda rng: rng.exponential(size=1000),
    "wide": lambda rng: np.ldexp(rng.uniform(1, 2, 1000), rng.integers(-300, 300, 1000)),
    "tiny": lambda rng: rng.exponential(size=1000) * 1e-300,
    "huge": lambda rng: rng.exponential(size=1000) * 1e300,
    "nearly-equal": lambda rng: 1e6 + rng.integers(0, 3, 1000) * 2.0**-32,
    "one-other": lambda rng: np.r_[np.full(999, 0.1), np.nextafter(0.1, 1)],
    "two": lambda rng: np.array([1.0, 4.0]),
}


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_standard_error(samples, weighted, dtype, rng):
    with np.errstate(all="ignore"):
        losses = SAMPLES[samples](rng).astype(dtype)
    if not np.isfinite(losses).all() or (losses == losses[0]).all():
        return  # beyond float32
    weight, target = rng.uniform(0.1, 3, 2) if weighted else None, np.arange(len(losses)) % 2
    input = np.where(np.eye(2, dtype=bool)[target], -losses[:, None], dtype(77))
    accumulator = in_batches(nll.LossAccumulator("nll", weight, dtype=np.float64), 100, input, target)
    weighted_losses = nll.nll_loss(input, target, weight, reduction="none", dtype=np.float64)
    weights = None if weight is None else states.fractions_of(weight[target])
    mean = None if weight is None else [x * w for x, w in zip(states.fractions_of(losses), weights, strict=True)]
    exact = states.standard_error(states.fractions_of(weighted_losses), weights, mean)
    assert type(accumulator.standard_error) is np.float64
    assert_close(accumulator.standard_error, exact)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_standard_error_of_logits(weighted, smoothing, rng):
    input, target = data_of(CROSS_ENTROPY, rng)
    weight = rng.uniform(0.1, 3, 5) if weighted else None
    choices = {"label_smoothing": smoothing, "dtype": np.float64}
    accumulator = in_batches(nll.LossAccumulator("cross_entropy", weight, **choices), 100, input, target)
    kept = target != -100
    losses = nll.cross_entropy(input, target, weight, reduction="none", **choices)[kept]
    weights = None if weight is None else states.fractions_of(weight[target[kept]])
    exact = states.standard_error(states.fractions_of(losses), weights)
    assert abs(accumulator.standard_error / float(exact) - 1) < 1e-14  # the mean is of losses that are not rounded


def test_standard_error_is_that_of_the_mean(rng):
    losses = rng.exponential(size=500)
    accumulator = nll.LossAccumulator("nll")
    accumulator.update(-losses[:, None], np.zeros(500, int))
    assert math.isclose(accumulator.standard_error, losses.std(ddof=1) / math.sqrt(500), rel_tol=1e-12)


def test_standard_error_of_a_ratio(rng):
    """By its formula: residuals of losses from the mean, with weights."""
    losses, weight, target = rng.exponential(size=500), np.array([0.5, 4.0]), rng.integers(0, 2, 500)
    accumulator = nll.LossAccumulator("nll", weight)
    accumulator.update(-np.stack([losses, losses], 1), target)
    w = weight[target]
    mean = (w * losses).sum() / w.sum()
    expected = math.sqrt(500 / 499 * (w**2 * (losses - mean) ** 2).sum()) / w.sum()
    assert math.isclose(accumulator.standard_error, expected, rel_tol=1e-12)


def test_standard_error_of_equal_losses_is_0():
    accumulator = nll.LossAccumulator("nll")
    accumulator.update(np.full((1000, 1), -0.1), np.zeros(1000, int))
    assert_same_bits(accumulator.standard_error, np.float64(0))


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, np.inf], [1.0, np.nan], [1e300, 1e300]], ids=str)
def test_no_standard_error(losses):
    """The squares of 1e300 are summed, too: that is no reason."""
    accumulator = nll.LossAccumulator("nll")
    accumulator.update(-np.array(losses).reshape(-1, 1), np.zeros(len(losses), int))
    expected = 0.0 if losses[:1] == [1e300] else np.nan
    assert_same_bits(accumulator.standard_error, np.float64(expected))


@pytest.mark.parametrize(("loss", "expected"), [(0.0, 1), (1.0, math.e), (1000.0, np.inf), (1e308, np.inf), (-1e4, 0)])
def test_perplexity(loss, expected):
    accumulator = nll.LossAccumulator("nll")
    accumulator.update([[-loss]], [0])
    assert type(accumulator.perplexity) is np.float64
    assert math.isclose(accumulator.perplexity, expected, rel_tol=1e-15)


def test_perplexity_is_that_of_the_mean_in_float64():
    accumulator = nll.LossAccumulator("nll", dtype=np.float16)
    accumulator.update(np.full((1, 1), -20, np.float16), [0])
    assert accumulator.perplexity == math.exp(20)  # which float16 has not


# ---- groups


@pairwise(weight_dtype=[None, np.float64], group_dtype=INTEGER_DTYPES, layout=LAYOUTS[:7], batch=[1, 3])
def test_groups_have_the_bytes_of_their_own(loss, weight_dtype, group_dtype, layout, batch, rng):
    shape = (3, 5, 40, 3)
    input, target = loss.random_input(rng, shape, np.float32), random_target(rng, (3, 40, 3), 5, ignored=-100)
    group = random_target(rng, (3, 40, 3), 7, group_dtype)
    group[group == 4] = 5  # one has no sample
    weight = loss.random_weight(rng, 5, weight_dtype)
    accumulator = accumulator_of(loss, weight, groups=7)
    in_batches(accumulator, batch, layout(input), layout(target), group=layout(group))
    rows = np.moveaxis(input, 1, -1)
    for g in range(7):
        alone = accumulator_of(loss, weight)
        if g != 4:
            alone.update(rows[group == g], target[group == g])
        assert (accumulator.state[g] == alone.state).all()
        assert accumulator.count[g] == alone.count
        assert accumulator.ignored[g] == alone.ignored
        for get in (
            lambda a: a.total_weight,
            lambda a: a.standard_error,
            lambda a: a.perplexity,
            lambda a: a.compute("sum").astype(float),
        ):
            assert_same_bits(np.asarray(get(accumulator))[g], np.asarray(get(alone)))
    everything = accumulator_of(loss, weight)
    everything.update(input, target)
    assert (nll.merge(accumulator.state) == everything.state).all()


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize("groups", [1, 3, 100, 100_000])
def test_any_number_of_groups(groups, order, threads, rng):
    input = -rng.exponential(size=(20_000, 2))
    target, group = random_target(rng, 20_000, 2, ignored=-100), rng.integers(0, groups, 20_000)
    if order == "sorted":
        group.sort()
    accumulator = nll.LossAccumulator("nll", groups=groups)
    accumulator.update(input, target, group=group)
    expected = np.bincount(group, (target != -100), groups)
    assert (accumulator.count == expected).all()
    for g in np.unique(group)[:3]:
        mine = group == g
        assert_same_bits(accumulator.compute("sum")[g], nll.nll_loss(input[mine], target[mine], reduction="sum"))


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5, 4.0]], ids=["", "weighted"])
def test_classes_as_groups(loss, weight, rng):
    input, target = loss.random_input(rng, (200, 4), np.float32), random_target(rng, 200, 4, ignored=-100)
    accumulator = accumulator_of(loss, weight, groups=4, index_base=3)
    for batch in (slice(0, 90), slice(90, 200)):
        accumulator.update(input[batch], np.where(target < 0, target, target + 3)[batch], group="target")
    for c in range(4):
        alone = accumulator_of(loss, weight)
        alone.update(input[target == c], target[target == c])
        assert (accumulator.state[c] == alone.state).all()
    assert (accumulator.ignored == 0).all()


def test_results_of_groups_are_arrays():
    accumulator = nll.LossAccumulator("nll", groups=3)
    accumulator.update(np.zeros((2, 2), np.float16), [0, 1], group=[0, 2])
    assert accumulator.groups == 3
    for array, dtype in [
        (accumulator.compute(), np.float16),
        (accumulator.standard_error, np.float64),
        (accumulator.perplexity, np.float64),
        (accumulator.total_weight, np.float64),
        (accumulator.count, np.int64),
        (accumulator.ignored, np.int64),
    ]:
        assert type(array) is np.ndarray
        assert array.shape == (3,)
        assert array.dtype == dtype
    assert accumulator.state.shape == (3, states.SIZE)
    assert np.isnan(accumulator.compute()[1])


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        ([0, 3], IndexError, r"^group\[1\] is 3, outside \[0, 3\)$"),
        ([-1, -2], IndexError, r"^group\[0\] is -1, outside \[0, 3\)$"),
        (np.array([0, 2**64 - 1], np.uint64), IndexError, r"^group\[1\] is 18446744073709551615, outside"),
        ([0], ValueError, r"^group has shape \(1,\), but target has \(2,\)$"),
        ([[0, 1]], ValueError, r"^group has shape \(1, 2\)"),
        ([0.5, 1], TypeError, "^group has dtype float64; groups must be integers$"),
        ([True, False], TypeError, "^group has dtype bool"),
        (None, ValueError, "^group is None, but groups is 3"),
        ("targets", ValueError, "^group is 'targets'; it must be 'target', or an array of integers$"),
        ("target", ValueError, "^group is 'target', but there are 3 groups for 2 classes$"),
        ("t" * 1000, ValueError, "^group is a str; it must be 'target', or an array of integers$"),
    ],
    ids=[
        "large",
        "negative",
        "uint64",
        "short",
        "two-dimensional",
        "float",
        "bool",
        "missing",
        "other-word",
        "classes",
        "long-word",
    ],
)
def test_wrong_groups_are_refused(loss, group, error, message):
    accumulator = accumulator_of(loss, groups=3)
    before = accumulator.to_bytes()
    with pytest.raises(error, match=message):
        accumulator.update(np.zeros((2, 2)), [0, -100], group=group)
    assert accumulator.to_bytes() == before


def test_lowest_wrong_group_is_named(rng):
    group = np.zeros((40, 30), int)
    group[7, 3] = group[3, 7] = 9
    accumulator = nll.LossAccumulator("nll", groups=2)
    images = np.zeros((40, 2, 30))
    for order in "C", "F":
        with pytest.raises(IndexError, match=r"group\[3, 7\] is 9, outside \[0, 2\)"):
            accumulator.update(np.asarray(images, order=order), np.zeros((40, 30), int), group=group)


def test_groups_where_there_are_none():
    with pytest.raises(ValueError, match="group is given, but groups is None"):
        nll.LossAccumulator("nll").update([[0.0]], [0], group=[0])


# ---- the floating-point environment


def test_rounding_mode_of_the_caller_has_no_effect_and_stays(loss, rounding_mode, rng):
    input, target = data_of(loss, rng)
    weight, group = rng.uniform(0.1, 3, 5), rng.integers(0, 9, len(target))

    def results() -> list[Any]:
        one, grouped = accumulator_of(loss, weight), accumulator_of(loss, weight, groups=9)
        one.update(input, target)
        grouped.update(input, target, group=group)
        merged = nll.LossAccumulator.from_bytes(nll.merge(grouped.state))
        return [one.state, grouped.state, *(get(merged) for get in (nll.LossAccumulator.compute, *READ))]

    expected = results()
    with rounding_mode:
        actual = results()
    assert rounding_mode.stayed
    for found, right in zip(actual, expected, strict=True):
        assert np.asarray(found).tobytes() == np.asarray(right).tobytes()


READ = [
    lambda accumulator: accumulator.standard_error,
    lambda accumulator: accumulator.perplexity,
    lambda accumulator: accumulator.total_weight,
]


def test_flushed_subnormals_of_the_caller_have_no_effect(torch):
    """As torch.set_flush_denormal sets a thread: weights, losses and squares below the normal numbers count."""
    tiny = np.array([2.0**-1060, 2.0**-1070])

    def state(groups: int | None) -> bytes:
        accumulator = nll.LossAccumulator("nll", tiny, groups=groups)
        group = {} if groups is None else {"group": [0, 0, 0]}
        accumulator.update(-np.array([[1.5, 1], [1, 0.75], [1e-310, 2]]), [0, 1, 0], **group)
        assert accumulator.total_weight.tobytes() != bytes(8)  # as a number it would be flushed, too
        return accumulator.to_bytes()

    expected = state(None)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes nothing")
    try:
        assert state(None) == state(1) == expected
    finally:
        torch.set_flush_denormal(False)


# ---- errors


def bad(**changes: Any) -> dict[str, Any]:
    input, target = np.full((600, 3), -1.5), np.zeros(600, int)
    return {"input": input, "target": target} | changes


LABEL = np.where(np.arange(600) == 599, 3, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (bad(target=LABEL), IndexError, r"^target\[599\] is 3, outside \[0, 3\) \(ignore_index is -100\)$"),
        (bad(target=np.zeros(599, int)), ValueError, "^target has shape"),
        (bad(target=np.zeros(600)), TypeError, "^target has dtype float64"),
        (bad(input=np.zeros((600, 3), int)), TypeError, "^input has dtype int64"),
        (bad(input=np.zeros((600, 4))), ValueError, r"^weight has shape \(3,\), but there are 4 classes"),
        (bad(input=np.ma.zeros((600, 3))), TypeError, "^input is a masked array"),
    ],
    ids=["label", "shape", "target-dtype", "input-dtype", "weight", "mask"],
)
@pytest.mark.parametrize("groups", [None, 2], ids=["", "groups"])
def test_failing_update_leaves_the_state(loss, arguments, error, message, groups):
    accumulator = accumulator_of(loss, [1.0, 2.0, 3.0], groups=groups)
    named = {} if groups is None else {"group": np.arange(600) % 2}
    accumulator.update(**bad(), **named)
    before = accumulator.to_bytes()
    with pytest.raises(error, match=message):
        accumulator.update(**arguments, **named)
    assert accumulator.to_bytes() == before


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"loss": "nllloss"}, ValueError, "loss is 'nllloss'; it must be 'nll' or 'cross_entropy'"),
        ({"loss": nll.nll_loss}, TypeError, "loss is <function nll_loss"),
        ({"weight": [[1.0]]}, ValueError, r"weight has shape \(1, 1\)"),
        ({"weight": "1"}, TypeError, "weight has dtype"),
        ({"ignore_index": 0.5}, TypeError, "ignore_index is 0.5"),
        ({"ignore_index": 2**64}, ValueError, "ignore_index is 18446744073709551616"),
        ({"axis": 1.5}, TypeError, "axis is 1.5"),
        ({"axis": 2**40}, np.exceptions.AxisError, "axis 1099511627776 is out of bounds"),
        ({"axis": 10**5000}, np.exceptions.AxisError, "axis an int is out of bounds"),
        ({"index_base": 2**63}, ValueError, "index_base is 9223372036854775808"),
        ({"empty": "inf"}, ValueError, "empty is 'inf'"),
        ({"label_smoothing": 0.1}, ValueError, "label_smoothing is for cross-entropy"),
        ({"label_smoothing": 2}, ValueError, r"label_smoothing is 2, outside \[0, 1\]"),
        ({"dtype": np.int64}, TypeError, "dtype is int64"),
        ({"groups": 0}, ValueError, r"groups is 0; it must be None, or in \[1, 2\^31\)"),
        ({"groups": 2**31}, ValueError, "groups is 2147483648"),
        ({"groups": 10**5000}, ValueError, "groups is an int; it must be None, or in"),
        ({"groups": 1.5}, TypeError, "groups is 1.5"),
        ({"groups": True}, TypeError, "groups is True"),
    ],
    ids=lambda value: "-".join(map(shown, value.items())) if isinstance(value, dict) else "",
)
def test_wrong_choices_are_refused(choices, error, message):
    with pytest.raises(error, match=message):
        nll.LossAccumulator(**choices)


@pytest.mark.parametrize("reduction", ["none", "avg"])
def test_other_reductions_are_refused(reduction):
    with pytest.raises(ValueError, match=f"reduction is '{reduction}'; it must be 'sum' or 'mean'"):
        nll.LossAccumulator("nll").compute(reduction)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="interrupts a process as a terminal does")
@pytest.mark.parametrize("groups", [None, 2], ids=["", "groups"])
def test_interrupted_update_leaves_the_state(groups):
    """Here one in a row that would take minutes."""
    program = f"""
import signal
import numpy as np, nll
signal.signal(signal.SIGINT, signal.default_int_handler)
named = {{}} if {groups} is None else {{"group": np.zeros(20, int)}}
total = nll.LossAccumulator("cross_entropy", groups={groups})
total.update(np.zeros((20, 3), np.float32), np.zeros(20, int), **named)
before = total.to_bytes()
input = np.broadcast_to(np.float32(0), (20, 2**33))
try:
    print("ready", flush=True)
    total.update(input, np.zeros(20, int), **named)
except KeyboardInterrupt:
    assert total.to_bytes() == before
    print("interrupted", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            assert process.wait() == 0
        finally:
            process.kill()


# ---- merging, copies, bytes


def filled(loss: str = "nll", **choices: Any) -> nll.LossAccumulator:
    accumulator = nll.LossAccumulator(loss, **choices)
    group = {} if accumulator.groups is None else {"group": [0, 1, 1]}
    accumulator.update([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]], [0, 1, -100], **group)
    return accumulator


MERGED = {
    "merge": lambda one, other: [one.merge(other), one][1],
    "merge-bytes": lambda one, other: [one.merge(other.to_bytes()), one][1],
    "merge-state": lambda one, other: [one.merge(other.state), one][1],
    "+": lambda one, other: one + other,
    "sum": lambda one, other: sum([one, other]),
    "nll.merge": lambda one, other: nll.LossAccumulator.from_bytes(
        nll.merge([one.state, other.state]), one._choices["weight"], groups=one.groups
    ),
}


def iadd(one: Any, other: Any) -> Any:
    one += other
    return one


MERGED["+="] = iadd


@pytest.mark.parametrize("way", MERGED)
@pytest.mark.parametrize("choices", [{}, {"groups": 2}, {"weight": [1.0, 3.0]}], ids=str)
def test_merging(way, choices):
    one, other = filled(**choices), filled(**choices)
    other_before = other.to_bytes()
    merged = MERGED[way](one, other)
    twice = filled(**choices)
    group = {} if one.groups is None else {"group": [0, 1, 1]}
    twice.update([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]], [0, 1, -100], **group)
    assert merged.to_bytes() == twice.to_bytes()
    assert other.to_bytes() == other_before


def test_sums_leave_their_parts():
    one, other = filled(), filled()
    before = one.to_bytes()
    total = one + other
    alone = sum([one])
    total.update([[0.0, 0.0]], [0])
    alone.update([[0.0, 0.0]], [0])
    assert one.to_bytes() == other.to_bytes() == before


def test_merging_with_itself():
    one = filled()
    one.merge(one)
    assert one.count == 4
    one += one
    assert one.count == 8


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (lambda: nll.LossAccumulator("cross_entropy"), ValueError, "^other: .*: the loss is cross_entropy, not nll"),
        (lambda: nll.LossAccumulator("nll", [1, 2]), ValueError, "class weights are of 2 classes, not none"),
        (lambda: nll.LossAccumulator("nll", groups=2), ValueError, "groups is 2, not None"),
        (lambda: b"state", ValueError, "a state has 2784 bytes, not 5"),
        (lambda: nll.LossAccumulator("nll", groups=2).state, ValueError, r"other has shape \(2, 2784\)"),
        (lambda: nll.LossAccumulator("cross_entropy").state, ValueError, "the loss is cross_entropy"),
        (lambda: 3.5, TypeError, "other has dtype float64; a state is of bytes, or of uint8"),
        (lambda: None, TypeError, "other has dtype object"),
    ],
    ids=["loss", "weights", "groups", "short", "rows", "bytes-of-another", "float", "None"],
)
def test_what_does_not_merge(other, error, message):
    one = filled()
    before = one.to_bytes()
    with pytest.raises(error, match=message):
        one.merge(other())
    assert one.to_bytes() == before


def test_one_group_that_does_not_merge_leaves_all():
    one = filled(groups=2)
    before = one.to_bytes()
    rows = one.state
    rows[1, 100] ^= 1
    with pytest.raises(ValueError, match=r"^other: group 1: the state is damaged"):
        one.merge(rows)
    rows = np.stack([one.state[0], nll.LossAccumulator("cross_entropy").state])
    with pytest.raises(ValueError, match="the loss is cross_entropy, not nll_loss"):
        one.merge(rows)
    assert one.to_bytes() == before


@pytest.mark.parametrize("other", [1, 0.0, None, 3j], ids=repr)
def test_what_cannot_be_added(other):
    with pytest.raises(TypeError, match="unsupported operand"):
        filled() + other
    with pytest.raises(TypeError, match="unsupported operand"):
        other + filled()
    with pytest.raises(TypeError, match="unsupported operand"):
        iadd(filled(), other)


TWINS = {
    "pickle": lambda a: pickle.loads(pickle.dumps(a)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "method": nll.LossAccumulator.copy,
}


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"groups": 2},
        {"weight": [1.0, 2.0], "ignore_index": None, "axis": -1},
        {"loss": "cross_entropy", "label_smoothing": 0.1, "dtype": ml_dtypes.bfloat16, "empty": "zero"},
    ],
    ids=lambda choices: ",".join(choices) or "defaults",
)
def test_twins(twin, choices):
    """They hold the same, go on in the same way, and each for itself."""
    choices = {"loss": "nll"} | choices
    one = nll.LossAccumulator(**choices)
    group = {} if one.groups is None else {"group": [1]}
    one.update([[-1.0, -2.0]], [0], **group)
    other = TWINS[twin](one)
    assert repr(other) == repr(one)
    assert other.to_bytes() == one.to_bytes()
    other.update([[-3.0, -4.0]], [1], **group)
    assert other.to_bytes() != one.to_bytes()
    one.update([[-3.0, -4.0]], [1], **group)
    assert other.to_bytes() == one.to_bytes()
    assert_same_bits(other.compute(), one.compute())


class Named(nll.LossAccumulator):
    """A subclass with something of its own."""

    def name(self) -> str:
        return "named"


def test_subclasses_stay_what_they_are():
    one = Named("nll")
    one.update([[-1.0]], [0])
    for other in (one + one, pickle.loads(pickle.dumps(one)), Named.from_bytes(one.to_bytes()), sum([one])):
        assert type(other) is Named


class Labelled(nll.LossAccumulator):
    """A subclass whose objects have attributes, and another way to be made."""

    def __init__(self, label: str) -> None:
        super().__init__("nll")
        self.label = label
        self.parts = [label]
        self.me = self


@pytest.mark.parametrize("twin", [*TWINS, "+", "sum"])
def test_attributes_of_subclasses_are_carried(twin):
    one = Labelled("validation")
    one.update([[-1.0]], [0])
    ways = TWINS | {"+": lambda a: a + nll.LossAccumulator("nll"), "sum": lambda a: sum([a])}
    other = ways[twin](one)
    assert type(other) is Labelled
    assert vars(other).keys() == vars(one).keys()
    assert (other.label, other.parts) == ("validation", ["validation"])
    is_deep = twin in ("pickle", "deepcopy")
    assert (other.parts is one.parts) is not is_deep
    assert (other.me is other) is is_deep
    assert other.to_bytes() == one.to_bytes()
    other.update([[-3.0]], [0])
    assert (one.count, other.count) == (1, 2)


def losses_of(seed: int) -> nll.LossAccumulator:
    accumulator = nll.LossAccumulator("cross_entropy", [1.0, 0.5, 2.0])
    rng = np.random.default_rng(seed)
    accumulator.update(rng.normal(size=(100, 3)), rng.integers(0, 3, 100))
    return accumulator


def test_accumulators_come_back_from_processes():
    with get_context("spawn").Pool(2) as pool:
        parts = pool.map(losses_of, range(6))
    assert sum(parts).to_bytes() == sum(map(losses_of, reversed(range(6)))).to_bytes()


def test_state_goes_on_where_it_was():
    one = filled("cross_entropy", weight=[1.0, 3.0], label_smoothing=0.25)
    other = nll.LossAccumulator.from_bytes(one.state, [1.0, 3.0])
    for accumulator in (one, other):
        accumulator.update([[0.5, 1.5]], [1])
    assert one.to_bytes() == other.to_bytes()


def test_state_of_weights_that_are_not_known():
    """Everything can be read and merged, but not added to."""
    one = filled(weight=[1.0, 3.0])
    for other in (nll.LossAccumulator.from_bytes(one.to_bytes()), TWINS["pickle"](one) + one):
        assert_same_bits(other.compute(), one.compute())
    other = TWINS["pickle"](nll.LossAccumulator.from_bytes(one.to_bytes()))
    other.merge(one)
    assert other.count == 4
    with pytest.raises(ValueError, match="weight is None, but the state has class weights"):
        other.update([[0.0, 0.0]], [0])
    assert other.count == 4


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0], "class weights are of 1 class, not of 2 classes"),
        ([1.0, 2.0], "class weights are of 2 classes, but other numbers"),
    ],
    ids=["fewer", "others"],
)
def test_state_of_other_weights_is_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        nll.LossAccumulator.from_bytes(filled(weight=[1.0, 3.0]).to_bytes(), weight)


def test_state_without_weights_is_refused_with_some():
    with pytest.raises(ValueError, match="class weights are of 2 classes, not none"):
        nll.LossAccumulator.from_bytes(filled().to_bytes(), [1.0, 3.0])


@pytest.mark.parametrize(
    ("data", "groups", "message"),
    [
        (lambda: filled(groups=2).to_bytes(), None, r"as 2 states have: then pass groups"),
        (lambda: filled(groups=2).state, None, r"data has shape \(2, 2784\)"),
        (lambda: filled().to_bytes(), 2, r"data has shape \(2784,\); the states of 2 groups have \(2, 2784\)"),
        (lambda: filled(groups=2).to_bytes(), 3, r"the states of 3 groups have"),
        (lambda: filled(groups=2).state.T, 2, r"data has shape \(2784, 2\)"),
        (lambda: filled(groups=2).state[:1], None, r"data has shape \(1, 2784\) \(as 1 state has: then pass groups\)"),
        (lambda: np.zeros((2, 5), np.uint8), None, r"^data has shape \(2, 5\); one state has \(2784,\)$"),
        (lambda: np.zeros((0, 2784), np.uint8), None, r"^data has shape \(0, 2784\); one state has \(2784,\)$"),
        (lambda: np.zeros((2, 2785), np.uint8), None, r"^data has shape \(2, 2785\); one state has \(2784,\)$"),
    ],
    ids=["no-groups", "rows", "one-state", "other-groups", "transposed", "a-row", "cut", "no-rows", "longer"],
)
def test_bytes_of_other_groups_are_refused(data, groups, message):
    with pytest.raises(ValueError, match=message):
        nll.LossAccumulator.from_bytes(data(), groups=groups)


def released(data: bytes) -> memoryview:
    view = memoryview(data)
    view.release()
    return view


@pytest.mark.parametrize(
    "view",
    [
        lambda data: memoryview(data + data)[::2],
        lambda data: memoryview(np.frombuffer(data, np.uint8).reshape(2, -1).T),
        lambda data: memoryview(np.asfortranarray(np.stack([np.frombuffer(data, np.uint8)] * 2))),
        released,
    ],
    ids=["every-other", "transposed", "fortran", "released"],
)
def test_views_that_are_no_bytes(view):
    """They name the argument, whatever Python says of them."""
    data = filled().to_bytes()
    message = "is a memoryview that gives no bytes: .*(contiguous|released)"
    with pytest.raises(ValueError, match=rf"^data {message}"):
        nll.LossAccumulator.from_bytes(view(data))
    with pytest.raises(ValueError, match=rf"^other {message}"):
        filled().merge(view(data))
    with pytest.raises(ValueError, match=rf"^states {message}"):
        nll.merge(view(data))
    with pytest.raises(ValueError, match=rf"^states\[1\] {message}"):
        nll.merge([data, view(data)])


@pytest.mark.parametrize("data", [b"", b"state", bytes(states.SIZE), bytes(states.SIZE + 1)], ids=len)
def test_bytes_that_are_no_state_come_with_the_name_of_the_argument(data):
    message = "a state has 2784 bytes, not" if len(data) != states.SIZE else "these bytes are no state"
    with pytest.raises(ValueError, match=rf"^data: {message}"):
        nll.LossAccumulator.from_bytes(data)
    with pytest.raises(ValueError, match=rf"^other: {message}"):
        filled().merge(data)
    rows = filled(groups=2).state
    rows[1] = 0
    with pytest.raises(ValueError, match=r"^data: group 1: these bytes are no state"):
        nll.LossAccumulator.from_bytes(rows, groups=2)


@pytest.mark.parametrize("data", [None, 3, [1.5], "state"], ids=repr)
def test_what_is_not_bytes(data):
    with pytest.raises(TypeError, match=r"data has dtype .*; a state is of bytes, or of uint8"):
        nll.LossAccumulator.from_bytes(data)


def test_bytes_of_groups():
    one = filled(groups=2)
    for data in (one.to_bytes(), one.state, bytearray(one.to_bytes())):
        assert nll.LossAccumulator.from_bytes(data, groups=2).to_bytes() == one.to_bytes()
    alone = nll.LossAccumulator.from_bytes(filled(groups=1 + 1).state[:1], groups=1)
    assert alone.count.tolist() == [1]


def test_reset():
    for choices in {}, {"groups": 2}, {"weight": [1.0, 2.0]}:
        one = filled(**choices)
        one.reset()
        assert one.to_bytes() == nll.LossAccumulator("nll", **choices).to_bytes()
        assert np.all(one.count == 0)


def test_state_is_a_copy():
    one = filled()
    before = one.to_bytes()
    one.state[:] = 0
    assert one.to_bytes() == before


def test_repr_tells_the_choices():
    text = repr(nll.LossAccumulator("cross_entropy", ignore_index=7, groups=3))
    assert text.startswith("LossAccumulator('cross_entropy', ")
    assert "ignore_index=7" in text
    assert "groups=3" in text


# ---- threads


@pytest.mark.parametrize("size", [(3, 4), (2000, 40)], ids=["small", "large"])
@pytest.mark.parametrize("groups", [None, 5], ids=["", "groups"])
def test_concurrent_updates_lose_nothing(size, groups, rng):
    batches = [(rng.normal(size=size).astype(np.float32), rng.integers(0, size[1], size[0])) for _ in range(40)]
    named = {} if groups is None else {"group": rng.integers(0, groups, size[0])}
    expected = nll.LossAccumulator("cross_entropy", groups=groups)
    for batch in batches * 3:
        expected.update(*batch, **named)
    total = nll.LossAccumulator("cross_entropy", groups=groups)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda batch: total.update(*batch, **named), batches * 3))
    assert total.to_bytes() == expected.to_bytes()


def test_every_method_from_many_threads():
    """While others update, merge and reset: a state that is read is always one that was."""
    total, part = nll.LossAccumulator("nll"), filled()
    stop, failures = threading.Event(), []

    def repeat(call: Any) -> None:
        try:
            while not stop.is_set():
                call()
        except BaseException as error:  # the test's thread raises it
            failures.append(error)

    def read() -> None:
        twin = TWINS["pickle"](total)
        assert twin.count % 2 == 0
        assert twin.count == 2 * twin.ignored
        assert twin.count == 0 or twin.compute() == 2.5

    calls = [
        lambda: total.update([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]], [0, 1, -100]),
        lambda: total.merge(part),
        lambda: total.merge(total.to_bytes()) if total.count < 1000 else total.reset(),
        lambda: part.merge(part) if part.count < 100 else part.reset(),
        read,
        read,
    ]
    threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# ---- what the field gets wrong


def test_batches_of_unequal_sizes_are_not_averaged():
    """The mean of means weighs a sample in a small batch more."""
    losses = np.array([[1.0]] * 9 + [[11.0]])
    total = nll.LossAccumulator("nll")
    means = []
    for batch in (losses[:9], losses[9:]):
        total.update(-batch, np.zeros(len(batch), int))
        means.append(nll.nll_loss(-batch, np.zeros(len(batch), int)))
    assert total.compute() == 2.0
    assert np.mean(means) == 6.0


def test_gradient_accumulation_over_micro_batches(rng):
    """Sums of gradients over one divisor are the gradient of the mean of all."""
    input, target = rng.normal(size=(64, 5)), random_target(rng, 64, 5, ignored=-100)
    total, gradient = nll.LossAccumulator("cross_entropy"), np.zeros_like(input)
    for first in range(0, 64, 10):
        batch = slice(first, first + 10)
        total.update(input[batch], target[batch])
        gradient[batch] = nll.cross_entropy_backward(1.0, input[batch], target[batch], reduction="sum")
    expected = nll.cross_entropy_value_and_grad(input, target)
    assert_same_bits(total.compute(), expected[0])
    np.testing.assert_allclose(gradient / total.total_weight, expected[1], rtol=1e-15)


def test_exact_beyond_the_precision_of_any_sum():
    total = nll.LossAccumulator("nll")
    for loss in (2.0**60, 1.0, -(2.0**60)):
        total.update([[-loss]], [0])
    assert total.compute("sum") == 1.0
    assert Fraction(total.compute()) == Fraction(float(np.float64(1) / 3))
