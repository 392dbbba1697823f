# SPDX-License-Identifier: BSD-3-Clause
"""`softmax` and `logsumexp` against their definitions, each result within its bound of ULP."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import nll
from support import softmax_oracle
from support.constants import CHUNK_SIZE, MAX_SEQUENTIAL_CLASSES
from support.losses import assert_softmax
from support.notes import note
from support.oracle import assert_same_bits
from support.samples import FLOAT_DTYPES, random_logits
from support.softmax_oracle import assert_within_bound
from test_cross_entropy_extremes import EXTREMES

CLASSES = [1, 2, 10, MAX_SEQUENTIAL_CLASSES, MAX_SEQUENTIAL_CLASSES + 1, 1000, CHUNK_SIZE, CHUNK_SIZE + 1, 5000]


@pytest.mark.parametrize("class_count", CLASSES)
@pytest.mark.parametrize("spread", [0.01, 3, 60], ids=str)
def test_rows(class_count, spread, dtype, rng):
    assert_softmax(random_logits(rng, (9, class_count), dtype, spread))


@pytest.mark.parametrize("class_count", [2, 19, 300])
def test_planes_and_every_layout(class_count, layout, dtype, rng):
    input = layout(random_logits(rng, (3, class_count, 70), dtype))
    assert_softmax(input)
    assert_softmax(input, axis=0)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
def test_axes(axis, rng):
    assert_softmax(random_logits(rng, (4, 5, 6, 7), np.dtype(np.float32)), axis=axis)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_dimension(axis, dtype, rng):
    input = random_logits(rng, (200,), dtype)
    assert_within_bound(nll.softmax(input, axis=axis), softmax_oracle.softmax(input, axis=axis))
    assert isinstance(nll.logsumexp(input, axis=axis), dtype.type)
    assert nll.logsumexp(input, axis=axis, keepdims=True).shape == (1,)


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name, dtype):
    with np.errstate(over="ignore"):
        logits = np.array([EXTREMES[name]], np.float64).astype(dtype)
    for repeated in (logits, np.repeat(logits, 40, axis=0), np.repeat(logits.T, 40, axis=1)):
        assert_softmax(repeated, axis=0 if repeated.shape[0] == logits.shape[1] and repeated.shape[1] == 40 else 1)


@pytest.mark.parametrize("classes", [3, 300])
def test_rows_without_a_softmax(classes, dtype):
    """As the largest logit says: what SciPy and PyTorch return."""
    input = np.full((5, classes), -np.inf)
    input[1, 1] = np.inf
    input[2, :] = 0
    input[2, 0], input[2, 1] = np.nan, np.inf
    input[3, :] = 0
    input[3, -1] = np.nan
    input[4, :] = 7
    for axis, rows in ((1, input), (0, input.T)):
        sums = nll.logsumexp(rows.astype(dtype), axis=axis).astype(np.float64)
        assert_same_bits(sums[:2], np.array([-np.inf, np.inf]))
        assert np.isnan(sums[2:4]).all()
        assert sums[4] == pytest.approx(7 + np.log(classes), rel=0.01)
        assert np.isnan(np.moveaxis(nll.softmax(rows.astype(dtype), axis=axis), axis, 1)[:4].astype(np.float64)).all()


@pytest.mark.parametrize("result_dtype", FLOAT_DTYPES, ids=lambda d: f"as-{d}")
@pytest.mark.parametrize("class_count", [10, 300])
def test_sums_in_another_dtype(result_dtype, class_count, dtype, rng):
    """They are as exact as that dtype, or as input's where it has fewer digits."""
    assert_softmax(random_logits(rng, (50, class_count), dtype, 5), dtype=result_dtype)


@pytest.mark.parametrize("bits_dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_signalling_nan_in_a_wider_dtype_warns_of_nothing(bits_dtype):
    """NumPy warns where it converts one."""
    signalling = {np.float16: 0x7C01, ml_dtypes.bfloat16: 0x7F81}[bits_dtype]
    input = np.array([[signalling, 0]], np.uint16).view(bits_dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(nll.logsumexp(input, dtype=np.float64)).all()


def test_keepdims(rng):
    input = random_logits(rng, (4, 5, 6), np.dtype(np.float32))
    for axis, shape in ((0, (1, 5, 6)), (1, (4, 1, 6)), (-1, (4, 5, 1))):
        kept = nll.logsumexp(input, axis=axis, keepdims=True)
        assert kept.shape == shape
        assert_same_bits(kept, np.expand_dims(nll.logsumexp(input, axis=axis), axis))


@pytest.mark.parametrize("shape", [(3, 5), (2, 700), (2, 5, 100), (2, 40_000)], ids=str)
def test_in_place_and_out(shape, dtype, rng):
    input = random_logits(rng, shape, dtype)
    expected = nll.softmax(input)
    out = np.empty_like(input)
    assert nll.softmax(input, out=out) is out
    assert_same_bits(out, expected)
    assert nll.softmax(input, out=input) is input
    assert_same_bits(input, expected)


@pytest.mark.parametrize("shape", [(3, 70_000), (3000, 20), (100, 1000), (2, 9, 4000)], ids=str)
def test_threads_and_parts_of_a_batch_change_no_bit(shape, dtype, rng):
    input = random_logits(rng, shape, dtype)
    with nll.num_threads(1):
        probabilities, sums = nll.softmax(input), nll.logsumexp(input)
    for threads in (2, 5):
        with nll.num_threads(threads), note(threads):
            assert_same_bits(nll.softmax(input), probabilities)
            assert_same_bits(nll.logsumexp(input), sums)
            assert_same_bits(nll.softmax(input[1:2]), probabilities[1:2])
            assert_same_bits(nll.logsumexp(input[1:2]), sums[1:2])
    turned = np.asfortranarray(input)
    assert_same_bits(np.ascontiguousarray(nll.softmax(turned)), probabilities)
    assert_same_bits(np.ascontiguousarray(nll.logsumexp(turned)), sums)


@pytest.mark.parametrize("classes", [5, 1000, 70_000])
@pytest.mark.parametrize("margin", [0, 3, 20, 60])
def test_a_class_of_nearly_all(classes, margin, dtype, rng):
    """Its logarithm keeps its digits, wherever it is and whoever shares the row."""
    input = rng.normal(size=(1, classes)).astype(dtype)
    input[0, classes * 4 // 5] = margin + np.log(classes)
    with nll.num_threads(1):
        logs, sums = nll.log_softmax(input), nll.logsumexp(input)
    with nll.num_threads(5):
        assert_same_bits(nll.log_softmax(input), logs)
        assert_same_bits(nll.logsumexp(input), sums)
    copies = np.repeat(input, 3, 0)
    assert_same_bits(nll.log_softmax(copies), np.repeat(logs, 3, 0))
    assert_same_bits(np.ascontiguousarray(nll.log_softmax(np.asfortranarray(copies))), np.repeat(logs, 3, 0))
    assert_within_bound(logs, softmax_oracle.log_softmax(input))
    assert_within_bound(sums, *softmax_oracle.logsumexp(input))


@pytest.mark.parametrize("dtype_", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (0, 0)], ids=str)
def test_nothing(shape, dtype_):
    assert_same_bits(nll.softmax(np.zeros(shape, dtype_)), np.zeros(shape, dtype_))
    assert_same_bits(nll.logsumexp(np.zeros(shape, dtype_)), np.zeros(shape[:1] + shape[2:], dtype_))


def test_no_classes():
    """The sum of nothing is 0."""
    assert_same_bits(nll.logsumexp(np.zeros((2, 0))), np.full(2, -np.inf))


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"axis": 2}, np.exceptions.AxisError, "axis 2 is out of bounds for input with 2 dimensions"),
    ({"axis": -3}, np.exceptions.AxisError, "axis -3 is out of bounds for input with 2 dimensions"),
    ({"axis": None}, TypeError, "axis is None"),
    ({"input": np.float32(1)}, ValueError, "input has 0 dimensions"),
    ({"input": np.zeros((2, 3), int)}, TypeError, "input has dtype int64"),
    ({"input": np.ma.zeros((2, 3))}, TypeError, "input is a masked array"),
]


@pytest.mark.parametrize("function", [nll.softmax, nll.logsumexp], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda v: str(v)[:30])
def test_bad_arguments(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(**{"input": np.zeros((2, 3))} | arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keepdims": "yes"}, TypeError, "keepdims is 'yes'"),
        ({"dtype": np.int32}, TypeError, "dtype is int32"),
    ],
)
def test_bad_arguments_of_logsumexp(arguments, error, message):
    with pytest.raises(error, match=message):
        nll.logsumexp(np.zeros((2, 3)), **arguments)


def test_bad_out():
    for out, error in ((np.zeros((3, 2)), ValueError), (np.zeros((2, 3), np.float32), TypeError), ([], TypeError)):
        with pytest.raises(error, match=r"^out "):
            nll.softmax(np.zeros((2, 3)), out=out)
