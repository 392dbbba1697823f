# SPDX-License-Identifier: BSD-3-Clause
"""nll.dask: the bits of the whole array, whatever the chunks; lazy, in small graphs, no chunk gathered.

Most tests run again under the other setting of array.query-planning.
"""

from __future__ import annotations

import doctest
import importlib
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import nll
from support import softmax_oracle
from support.oracle import assert_same_bits
from support.samples import random_input, random_logits, random_target, random_weight
from support.softmax_oracle import assert_within_bound, ulp_errors

dask = pytest.importorskip("dask", exc_type=ImportError)
da = pytest.importorskip("dask.array", exc_type=ImportError)
lazy = importlib.import_module("nll.dask")

SHAPE = (6, 5, 4)  # (N, C, d1)
WHOLE_ROWS = {"one-chunk": SHAPE, "samples": (4, 5, 3)}
OF_CLASSES = {"classes": (6, 2, 4), "all-axes": (4, (1, 0, 2, 2), (1, 3)), "single-elements": (2, 1, 4)}
CHUNKS = WHOLE_ROWS | OF_CLASSES
REDUCED = ["sum", "mean"]
PLANS = da.Array.__module__.startswith("dask.array._array_expr")  # array.query-planning, as it was set at first


@pytest.fixture(autouse=True)
def synchronous():
    """One task after the other, unless a test says something else."""
    with dask.config.set(scheduler="sync"):
        yield


def of(table: dict[str, Any]) -> Any:
    """The values of a table as parameters, with its keys as ids."""
    return [pytest.param(value, id=key) for key, value in table.items()]


@pytest.fixture(params=of(CHUNKS))
def chunks(request):
    return request.param


@pytest.fixture(params=of(OF_CLASSES))
def class_chunks(request):
    return request.param


@pytest.fixture(params=["unweighted", "weighted"])
def weight(request, rng):
    return None if request.param == "unweighted" else random_weight(rng, SHAPE[1], np.float64)


@pytest.fixture(params=[0.0, 0.1], ids=["sharp", "smoothed"])
def label_smoothing(request):
    return request.param


@pytest.fixture
def target(rng):
    """A quarter of it is ignored."""
    return random_target(rng, (6, 4), SHAPE[1], ignored=-100)


def lazily(input: Any, target: Any, chunks: Any) -> tuple[Any, Any]:
    """Both as Dask arrays; target has other chunks than input."""
    return da.from_array(input, chunks=chunks), da.from_array(target, chunks=2 if np.ndim(target) else -1)


def fail(*blocks: Any) -> Any:
    raise AssertionError("a block was computed")


def broken(shape: Any, chunks: Any, dtype: Any = np.float32) -> Any:
    """An array whose blocks cannot be computed."""
    whole = da.zeros(shape, chunks=chunks, dtype=dtype)
    return da.map_blocks(fail, whole, dtype=dtype, meta=np.empty((0,) * len(shape), dtype))


def assert_nll_loss(input: Any, target: Any, chunks: Any, weight: Any, reduction: str) -> None:
    """The loss, the total weight and the gradient have the bits of the local call."""
    arguments = {"reduction": reduction, "return_total_weight": True}
    results = da.compute(*lazy.nll_loss(*lazily(input, target, chunks), weight, **arguments))
    for result, expected in zip(results, nll.nll_loss(input, target, weight, **arguments), strict=True):
        assert_same_bits(result, expected)
    if reduction != "none":
        arguments["grad_output"] = 1.7
        results = da.compute(*lazy.nll_loss_value_and_grad(*lazily(input, target, chunks), weight, **arguments))
        expected = nll.nll_loss_value_and_grad(input, target, weight, **arguments)
        for result, one in zip(results, expected, strict=True):
            assert_same_bits(result, one)


class TestNllLoss:
    def test_bits_of_the_local_call(self, rng, chunks, weight, reduction, target):
        assert_nll_loss(random_input(rng, SHAPE, np.float32), target, chunks, weight, reduction)

    def test_bits_of_each_dtype(self, rng, dtype, reduction, target):
        weight = random_weight(rng, SHAPE[1], np.float32)
        assert_nll_loss(random_input(rng, SHAPE, dtype), target, CHUNKS["all-axes"], weight, reduction)

    def test_gradient_does_not_need_the_input(self, target, chunks):
        gradient = lazy.nll_loss_value_and_grad(broken(SHAPE, chunks), target)[1]
        assert_same_bits(gradient.compute(), nll.nll_loss_backward(1.0, np.zeros(SHAPE, np.float32), target))

    def test_sum_of_float16_in_float32(self, chunks):
        input = da.full(SHAPE, -60000, dtype=np.float16, chunks=chunks)
        loss = lazy.nll_loss(input, np.zeros((6, 4), int), reduction="sum", dtype=np.float32)
        assert_same_bits(loss.compute(), np.float32(24 * 60000))


class TestCrossEntropyOfWholeRows:
    """The class axis is one chunk."""

    @pytest.mark.parametrize("chunks", of(WHOLE_ROWS))
    def test_bits_of_the_local_loss(self, rng, chunks, dtype, reduction, target, label_smoothing):
        weight = random_weight(rng, SHAPE[1], np.float64) if reduction == "mean" else None
        input = random_logits(rng, SHAPE, dtype)
        arguments = {"reduction": reduction, "return_total_weight": True, "label_smoothing": label_smoothing}
        results = da.compute(*lazy.cross_entropy(*lazily(input, target, chunks), weight, **arguments))
        for result, expected in zip(results, nll.cross_entropy(input, target, weight, **arguments), strict=True):
            assert_same_bits(result, expected)

    @pytest.mark.parametrize("reduction", REDUCED)
    def test_bits_of_the_local_gradient(self, rng, dtype, weight, reduction, target):
        """That of a mean in float64 is divided by the total weight twice, so to say: once rounded."""
        input = random_logits(rng, SHAPE, dtype)
        arguments = {"reduction": reduction, "grad_output": 1.7}
        arrays = lazily(input, target, CHUNKS["samples"])
        gradient = lazy.cross_entropy_value_and_grad(*arrays, weight, **arguments)[1].compute()
        expected = nll.cross_entropy_value_and_grad(input, target, weight, **arguments)[1]
        if dtype == np.float64 and reduction == "mean":
            np.testing.assert_allclose(gradient, expected, rtol=2**-51)
        else:
            assert_same_bits(gradient, expected)

    def test_log_softmax(self, rng, dtype):
        input = random_logits(rng, SHAPE, dtype)
        result = lazy.log_softmax(da.from_array(input, chunks=CHUNKS["samples"]))
        assert_same_bits(result.compute(), nll.log_softmax(input))


def assert_within(actual: Any, exact: Any, scale: Any) -> None:
    """As exact as nll promises; float64, for which logarithms of sums are rounded to float64, within 16 ULP here."""
    if np.asarray(actual).dtype == np.float64:
        assert ulp_errors(actual, exact, scale).max(initial=0) <= 16
    else:
        assert_within_bound(actual, exact, scale)


class TestCrossEntropyOfClassChunks:
    def test_loss(self, rng, class_chunks, dtype, reduction, target, label_smoothing):
        input, weight = random_logits(rng, SHAPE, dtype), rng.uniform(0.1, 3, SHAPE[1])
        arguments = {"reduction": reduction, "label_smoothing": label_smoothing}
        exact = softmax_oracle.cross_entropy(input, target, weight, **arguments)
        loss, total_weight = lazy.cross_entropy(
            *lazily(input, target, class_chunks), weight, return_total_weight=True, **arguments
        )
        assert loss.dtype == dtype
        assert_within(loss.compute(), exact.loss, exact.loss_scale)
        assert_same_bits(total_weight.compute(), nll.nll_loss(input, target, weight, return_total_weight=True)[1])

    @pytest.mark.parametrize("reduction", REDUCED)
    def test_gradient(self, rng, class_chunks, dtype, reduction, target, label_smoothing):
        weight = abs(random_weight(rng, SHAPE[1], np.float32)) if reduction == "mean" else None
        input = random_logits(rng, SHAPE, dtype)
        arguments = {"reduction": reduction, "grad_output": 1.7, "label_smoothing": label_smoothing}
        exact = softmax_oracle.cross_entropy(input, target, weight, **arguments)
        _, gradient = lazy.cross_entropy_value_and_grad(*lazily(input, target, class_chunks), weight, **arguments)
        assert gradient.chunks == da.from_array(input, chunks=class_chunks).chunks
        assert_within(gradient.compute(), exact.gradient, exact.gradient_scale)

    def test_log_softmax(self, rng, class_chunks, dtype):
        input = random_logits(rng, SHAPE, dtype)
        result = lazy.log_softmax(da.from_array(input, chunks=class_chunks)).compute()
        assert_within(result, softmax_oracle.log_softmax(input), None)

    @pytest.mark.parametrize("largest", [20, 700, 1e5, 1e30])
    @pytest.mark.parametrize("chunks", [(1, 1), (1, 2), (1, (1, 2))], ids=str)
    def test_labels_that_are_all_but_certain(self, largest, chunks):
        """The digits that log(S) and p - 1 lose: 4.122307e-09 for a logit of 20."""
        input, target = np.array([[largest, largest - 20, largest - 20]], np.float32), np.array([0])
        exact = softmax_oracle.cross_entropy(input, target, reduction="mean")
        loss, gradient = lazy.cross_entropy_value_and_grad(*lazily(input, target, chunks))
        assert_within(loss.compute(), exact.loss, exact.loss_scale)
        assert_within(gradient.compute(), exact.gradient, exact.gradient_scale)

    def test_bits_depend_on_class_chunks_alone(self, rng, target):
        input, weight = random_logits(rng, SHAPE, np.float64), random_weight(rng, SHAPE[1], np.float64)
        results = [
            da.compute(*lazy.cross_entropy_value_and_grad(*lazily(input, target, (n, 2, d)), weight), **scheduler)
            for n, d in [(6, 4), (1, 4), (4, (1, 3))]
            for scheduler in ({"scheduler": "sync"}, {"scheduler": "threads", "num_workers": 4})
        ]
        for result in results[1:]:
            assert_same_bits(result[0], results[0][0])
            assert_same_bits(result[1], results[0][1])

    def test_bits_of_either_byte_order(self, dtype):
        """Those of native arrays: the largest logit is taken off in float64 of either order."""
        input, target = np.full((4, 6), 5000, dtype), np.zeros(4, int)
        input[:, 0] += 25
        native = lazy.cross_entropy_value_and_grad(*lazily(input, target, (2, 2)))
        swapped = lazily(input.astype(np.dtype(dtype).newbyteorder(">")), target.astype(">i8"), (2, 2))
        for result, expected in zip(lazy.cross_entropy_value_and_grad(*swapped), native, strict=True):
            assert_same_bits(result.compute(), expected.compute())
        logs = lazy.log_softmax(da.from_array(input, chunks=(2, 2)))
        assert_same_bits(lazy.log_softmax(swapped[0]).compute(), logs.compute())

    @pytest.mark.parametrize("chunks", [(4, 1), (4, 2), (4, (0, 1, 2))], ids=str)
    @pytest.mark.parametrize("row", [[0.05, 3, 1], [-math.inf, 1, 2], [1, 2, -math.inf]], ids=str)
    @pytest.mark.parametrize("weight", [[0.5, math.inf, 2], [-math.inf, 1, 0], [math.inf, 1, -math.inf]], ids=str)
    @pytest.mark.parametrize("label_smoothing", [0.1, 1])
    def test_infinite_weights_of_smoothed_classes(self, row, weight, chunks, label_smoothing):
        """Where all of a chunk's probability is one class's, its infinite weight is not multiplied by 0."""
        input, target, weight = np.array([row] * 4, np.float32), np.array([0, 1, 2, -100]), np.array(weight)
        arguments = {"label_smoothing": label_smoothing, "reduction": "none"}
        losses = lazy.cross_entropy(*lazily(input, target, chunks), weight, **arguments).compute()
        np.testing.assert_array_equal(losses, nll.cross_entropy(input, target, weight, **arguments))
        arguments["reduction"] = "sum"
        gradient = lazy.cross_entropy_value_and_grad(*lazily(input, target, chunks), weight, **arguments)[1].compute()
        expected = nll.cross_entropy_value_and_grad(input, target, weight, **arguments)[1]
        np.testing.assert_allclose(gradient, expected, rtol=3e-7)

    @pytest.mark.parametrize("row", [
        pytest.param([-math.inf, -math.inf, 1.0, 2.0], id="a-chunk-without-probability"),
        pytest.param([1.0, 2.0, -math.inf, -math.inf], id="the-other-one"),
        pytest.param([-math.inf, 0.0, 1.0, -math.inf], id="one-in-each"),
        pytest.param([-math.inf] * 4, id="no-probability"),
        pytest.param([math.inf, 0.0, 0.0, 0.0], id="infinite"),
        pytest.param([0.0, 0.0, math.nan, 0.0], id="nan"),
        pytest.param([3e38, -3e38, 0.0, 3e38], id="largest"),
    ])  # fmt: skip
    @pytest.mark.parametrize("label_smoothing", [0.0, 0.5])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda t: t.__name__)
    def test_extreme_logits(self, row, label_smoothing, dtype):
        input, target = np.tile(np.array(row, dtype), (5, 1)), np.array([0, 1, 2, 3, -100])
        input[abs(input) == np.float32(3e38)] *= 5e269 if dtype == np.float64 else 1
        arguments = {"reduction": "none", "label_smoothing": label_smoothing}
        for weight in None, np.array([0, 1, 0.5, 2]), np.array([1, 0, -1, 0]):
            losses = lazy.cross_entropy(*lazily(input, target, (2, 2)), weight, **arguments).compute()
            np.testing.assert_allclose(losses, nll.cross_entropy(input, target, weight, **arguments), rtol=3e-7)
        arguments["reduction"] = "sum"
        gradient = lazy.cross_entropy_value_and_grad(*lazily(input, target, (2, 2)), **arguments)[1].compute()
        np.testing.assert_allclose(gradient, nll.cross_entropy_backward(1.0, input, target, **arguments), rtol=3e-7)
        result = lazy.log_softmax(da.from_array(input, chunks=(2, 2))).compute()
        np.testing.assert_allclose(result, nll.log_softmax(input), rtol=3e-7)


@pytest.mark.parametrize("shape", [(6, 4), (6, 1), (4,)], ids=str)
@pytest.mark.parametrize("chunks", of({name: CHUNKS[name] for name in ("samples", "all-axes")}))
class TestSampleWeight:
    """A weight for each sample, of a shape that broadcasts, lazy too."""

    @pytest.mark.parametrize("reduction", REDUCED)
    @pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy"])
    def test_loss_and_gradient(self, rng, loss, shape, chunks, weight, reduction, target):
        input, sample_weight = random_logits(rng, SHAPE, np.float32), rng.uniform(0.1, 2, shape)
        arguments = {"reduction": reduction, "return_total_weight": True}
        function = f"{loss}_value_and_grad"
        expected = getattr(nll, function)(input, target, weight, sample_weight=sample_weight, **arguments)
        for given in sample_weight, da.from_array(sample_weight, chunks=2):
            arrays = lazily(input, target, chunks)
            results = da.compute(*getattr(lazy, function)(*arrays, weight, sample_weight=given, **arguments))
            for result, one in zip(results, expected, strict=True):
                np.testing.assert_allclose(result, one, rtol=1e-6)
            assert_same_bits(results[1], expected[1])

    def test_smoothed_losses(self, rng, shape, chunks, weight, target):
        input, sample_weight = random_logits(rng, SHAPE, np.float32), rng.uniform(0.1, 2, shape)
        arguments = {"sample_weight": sample_weight, "label_smoothing": 0.1, "reduction": "none"}
        losses = lazy.cross_entropy(*lazily(input, target, chunks), weight, **arguments).compute()
        np.testing.assert_allclose(losses, nll.cross_entropy(input, target, weight, **arguments), rtol=3e-6)


def test_shape_of_sample_weight():
    """The words are those of nll."""
    arrays, sample_weight = (np.zeros(SHAPE), np.zeros((6, 4), int)), np.ones(7)
    with pytest.raises(ValueError, match="sample_weight has shape") as expected:
        nll.nll_loss(*arrays, sample_weight=sample_weight)
    with pytest.raises(ValueError, match="sample_weight has shape") as raised:
        lazy.nll_loss(*lazily(*arrays, 2), sample_weight=sample_weight)
    assert str(raised.value) == str(expected.value)


# ---- arguments


class TestArguments:
    @pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy"])
    @pytest.mark.parametrize(
        ("shape", "axis", "chunks"),
        [
            ((7,), 1, 3),
            ((7,), -1, 7),
            ((7,), 0, 3),
            ((6, 4, 5), -1, 3),
            ((6, 4, 5), 0, 3),
            ((0, 3), 1, 2),
            ((2, 0), 1, 2),
        ],
    )
    def test_axis(self, rng, loss, shape, axis, chunks):
        input = random_logits(rng, shape, np.float32)
        position = 0 if len(shape) == 1 else axis % len(shape)
        samples = shape[:position] + shape[position + 1 :]
        target = np.full(samples, -100) if not shape[position] else rng.integers(0, shape[position], samples)
        for reduction in "mean", "none":
            arguments = {"axis": axis, "reduction": reduction}
            result = getattr(lazy, loss)(*lazily(input, target, chunks), **arguments).compute()
            expected = getattr(nll, loss)(input, target, **arguments)
            np.testing.assert_allclose(result, expected, rtol=2e-7)
            assert np.shape(result) == np.shape(expected)
        gradient = getattr(lazy, f"{loss}_value_and_grad")(*lazily(input, target, chunks), axis=axis)[1].compute()
        expected = getattr(nll, f"{loss}_value_and_grad")(input, target, axis=axis)[1]
        np.testing.assert_allclose(gradient, expected, rtol=2e-7)
        result = lazy.log_softmax(da.from_array(input, chunks=chunks), axis=axis).compute()
        np.testing.assert_allclose(result, nll.log_softmax(input, axis=axis), rtol=2e-7)

    @pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy"])
    @pytest.mark.parametrize(
        ("labels", "choices"),
        [
            pytest.param(np.array([1, 5, 3, 9, 1, 1], np.uint8), {"index_base": 1, "ignore_index": 9}, id="from-one"),
            pytest.param(np.array([0, 4, 2, 1, 1, 3], np.int8), {"ignore_index": None}, id="none-ignored"),
            pytest.param(np.array([0, 4, 2, 2, 1, 3], np.int32), {"ignore_index": 2}, id="a-class-ignored"),
            pytest.param(
                np.array([0, 4, 2**64 - 1, 2, 1, 3], np.uint64), {"ignore_index": 2**64 - 1}, id="a-large-sentinel"
            ),
            pytest.param(
                np.array([2**63 - 5, 2**63 - 1, 7, 2**63 - 5, 2**63 - 3, 2**63 - 5], np.uint64),
                {"ignore_index": 7, "index_base": 2**63 - 5},
                id="a-large-base",
            ),
            pytest.param(
                np.array([-(2**63), -(2**63) + 4, 7, -(2**63), -(2**63), -(2**63)]),
                {"ignore_index": 7, "index_base": -(2**63)},
                id="a-small-base",
            ),
        ],
    )
    def test_labels(self, rng, loss, labels, choices):
        input = random_logits(rng, SHAPE[:2], np.float32)
        arrays = lazily(input, labels, (4, 2))
        for reduction in "sum", "none":
            result = getattr(lazy, loss)(*arrays, reduction=reduction, **choices).compute()
            np.testing.assert_allclose(result, getattr(nll, loss)(input, labels, reduction=reduction, **choices), 2e-7)
        function = f"{loss}_value_and_grad"
        gradient = getattr(lazy, function)(*arrays, **choices)[1].compute()
        np.testing.assert_allclose(gradient, getattr(nll, function)(input, labels, **choices)[1], 2e-7)

    @pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy"])
    @pytest.mark.parametrize("empty", ["nan", "zero", "raise"])
    @pytest.mark.parametrize("weights", ["all-ignored", "zero"])
    @pytest.mark.parametrize("chunks", of({name: CHUNKS[name] for name in ("samples", "all-axes")}))
    def test_empty_mean(self, loss, empty, weights, chunks):
        input, target = np.zeros(SHAPE, np.float32), np.full((6, 4), -100 if weights == "all-ignored" else 1)
        weight = None if weights == "all-ignored" else np.zeros(SHAPE[1])
        function = f"{loss}_value_and_grad"
        results = getattr(lazy, function)(*lazily(input, target, chunks), weight, empty=empty)
        if empty == "raise":
            for result in results:
                with pytest.raises(ValueError, match="the total weight of the"):
                    result.compute()
            return
        for result, expected in zip(results, getattr(nll, function)(input, target, weight, empty=empty), strict=True):
            assert_same_bits(result.compute(), expected)

    @pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy"])
    @pytest.mark.parametrize("chunks", of({name: CHUNKS[name] for name in ("samples", "all-axes")}))
    @pytest.mark.parametrize("dtype", [">f4", ">f8"])
    def test_gradient_of_an_empty_mean_is_native(self, loss, chunks, dtype):
        arrays = lazily(np.zeros(SHAPE, dtype), np.full((6, 4), -100), chunks)
        gradient = getattr(lazy, f"{loss}_value_and_grad")(*arrays, empty="zero")[1]
        assert gradient.dtype.isnative
        assert gradient.compute().dtype.isnative

    @pytest.mark.parametrize("empty", ["nan", "zero", "raise"])
    def test_empty_mean_of_smoothed_class_chunks(self, empty):
        arrays = lazily(np.zeros((3, 4), np.float32), np.zeros(3, int), 2)
        loss = lazy.cross_entropy(*arrays, np.array([0.0, 1, 1, 1]), empty=empty, label_smoothing=0.5)
        if empty == "raise":
            with pytest.raises(ValueError, match="the total weight of the"):
                loss.compute()
        else:
            assert_same_bits(loss.compute(), np.float32(0 if empty == "zero" else math.inf))

    def test_weight_may_be_lazy(self, rng, target, class_chunks):
        input, weight = random_input(rng, SHAPE, np.float32), rng.uniform(size=SHAPE[1])
        loss = lazy.nll_loss(*lazily(input, target, class_chunks), da.from_array(weight, chunks=2))
        assert_same_bits(loss.compute(), nll.nll_loss(input, target, weight))

    def test_tensors_of_pytorch(self, rng, target):
        """As the local call takes them."""
        torch = pytest.importorskip("torch", exc_type=ImportError)
        input = random_input(rng, SHAPE, np.float32)
        loss = lazy.nll_loss(torch.from_numpy(input), torch.from_numpy(target))
        assert_same_bits(loss.compute(), nll.nll_loss(input, target))
        with pytest.raises(TypeError, match=r"^input is a torch\.Tensor .* requires a gradient; pass it"):
            lazy.nll_loss(torch.from_numpy(input).requires_grad_(), target)

    def test_arrays_of_numpy(self, rng, target):
        input = random_input(rng, SHAPE, np.float32)
        assert_same_bits(lazy.nll_loss(input, target).compute(), nll.nll_loss(input, target))


class TestErrors:
    @pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy"])
    def test_position_of_a_bad_label_is_that_in_the_whole_array(self, loss, chunks):
        target = np.zeros((6, 4), int)
        target[4, 3] = 9
        arrays = lazily(np.zeros(SHAPE, np.float32), target, chunks)
        message = re.escape("target[4, 3] is 9, outside [0, 5) (ignore_index is -100)")
        value, gradient = getattr(lazy, f"{loss}_value_and_grad")(*arrays)
        losses = getattr(lazy, loss)(*arrays, reduction="none")
        for result in value, gradient, losses:
            with pytest.raises(IndexError, match=message):
                result.compute()

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            pytest.param({"target": np.zeros((6, 5), int)}, ValueError, id="target-shape"),
            pytest.param({"target": np.zeros((6, 4))}, TypeError, id="target-dtype"),
            pytest.param({"target": np.zeros((6, 4), bool)}, TypeError, id="bool-target"),
            pytest.param({"input": np.zeros(SHAPE, int)}, TypeError, id="input-dtype"),
            pytest.param({"input": np.zeros(SHAPE, complex)}, TypeError, id="complex-input"),
            pytest.param({"weight": np.zeros(4)}, ValueError, id="weight-length"),
            pytest.param({"weight": np.zeros((5, 1))}, ValueError, id="weight-dimensions"),
            pytest.param({"axis": 3}, np.exceptions.AxisError, id="axis"),
            pytest.param({"axis": -4}, np.exceptions.AxisError, id="negative-axis"),
            pytest.param({"axis": 1.0}, TypeError, id="float-axis"),
            pytest.param({"reduction": "avg"}, ValueError, id="reduction"),
            pytest.param({"empty": "0"}, ValueError, id="empty"),
            pytest.param({"ignore_index": 1.5}, TypeError, id="ignore-index"),
            pytest.param({"index_base": 2**63}, ValueError, id="index-base"),
            pytest.param({"dtype": int}, TypeError, id="dtype"),
            pytest.param({"label_smoothing": 2}, ValueError, id="label-smoothing"),
        ],
    )
    def test_arguments_are_checked_at_once(self, arguments, error):
        """The words are those of nll."""
        arrays = {"input": np.zeros(SHAPE, np.float32), "target": np.zeros((6, 4), int)}
        with pytest.raises(error) as expected:
            nll.cross_entropy(**arrays | arguments)
        given = arrays | arguments
        given["input"], given["target"] = lazily(given["input"], given["target"], 2)
        with pytest.raises(error) as raised:
            lazy.cross_entropy(**given)
        assert str(raised.value) == str(expected.value)

    @pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy"])
    @pytest.mark.parametrize("name", ["input", "target", "weight", "sample_weight"])
    @pytest.mark.parametrize(
        "array",
        [
            pytest.param([[1, 2], [3]], id="ragged"),
            pytest.param(np.ma.masked_array([1, 2], [True, False]), id="masked"),
            pytest.param([np.ma.masked_array([1, 2], [True, False])], id="holds-masked"),
            pytest.param(da.ones(2, chunks=1).map_blocks(np.ma.masked_array), id="lazily-masked"),
        ],
    )
    def test_arrays_that_cannot_be_taken(self, loss, name, array):
        """The words name the argument, as those of nll do."""
        arrays = dict(zip(("input", "target"), lazily(np.zeros((2, 3)), np.zeros(2, int), 2), strict=True))
        with pytest.raises(TypeError, match=rf"^{name} is a .*(that NumPy cannot take|mask would be lost)"):
            getattr(lazy, f"{loss}_value_and_grad")(**arrays | {name: array})

    @pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy"])
    def test_return_total_weight_is_a_flag(self, loss):
        for function in loss, f"{loss}_value_and_grad":
            with pytest.raises(TypeError, match="return_total_weight is 'no'; it must be True or False"):
                getattr(lazy, function)(da.zeros((2, 3)), da.zeros(2, dtype=int), return_total_weight="no")

    def test_gradient_of_no_reduction(self):
        with pytest.raises(ValueError, match="reduction is 'none'"):
            lazy.nll_loss_value_and_grad(da.zeros((2, 3)), da.zeros(2, dtype=int), reduction="none")

    def test_unknown_chunks(self):
        input = da.zeros((4, 3), chunks=2)
        input = da.map_blocks(fail, input, chunks=((math.nan, math.nan), (2, 1)), meta=np.empty((0, 0)))
        with pytest.raises(ValueError, match="input has chunks of unknown sizes; call its compute_chunk_sizes"):
            lazy.nll_loss(input, da.zeros(4, dtype=int))


# ---- laziness, graphs, threads


class Watch(dask.callbacks.Callback):
    """Counts tasks and takes the sizes of their results."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def _posttask(self, key, result, graph, state, worker):
        self.sizes.append(getattr(result, "nbytes", 0))


def calls(input: Any, target: Any) -> list[Any]:
    """All functions' results."""
    return [
        lazy.nll_loss(input, target),
        lazy.nll_loss(input, target, reduction="none"),
        lazy.cross_entropy(input, target),
        lazy.cross_entropy(input, target, reduction="none"),
        lazy.cross_entropy(input, target, label_smoothing=0.1),
        *lazy.nll_loss_value_and_grad(input, target, return_total_weight=True),
        *lazy.cross_entropy_value_and_grad(input, target),
        lazy.log_softmax(input),
    ]


class TestGraphs:
    @pytest.mark.parametrize("chunks", [(64, 4096), (16, 4096), (64, 1024), (16, 1024)], ids=str)
    def test_no_task_holds_more_than_a_chunk(self, chunks):
        """Of the loss, only the input's chunks are large."""
        input = da.zeros((64, 4096), chunks=chunks, dtype=np.float32)
        target = da.zeros(64, chunks=16, dtype=np.int64)
        chunk = 4 * math.prod(chunks)
        for result in calls(input, target):
            with Watch() as watch:
                result.compute(optimize_graph=result.ndim == 2)
            large = [size for size in watch.sizes if size >= chunk]
            assert max(large) == chunk or result.ndim == 2
            if result.ndim < 2:
                assert len(large) <= math.prod(input.numblocks)

    @pytest.mark.parametrize("chunks", [(1, 8), (4, 2)], ids=["whole-rows", "class-chunks"])
    def test_tasks_for_each_chunk(self, chunks):
        """Those of the source and of labels included. Query planning does not fuse blockwise tasks."""
        most = {"value": 4.5, "gradient": 6.5} if PLANS else {"value": 2.5, "gradient": 4.5}
        input = da.zeros((64, 8), chunks=chunks)
        target = da.zeros(64, chunks=chunks[0], dtype=np.int64)
        value, gradient = lazy.cross_entropy_value_and_grad(input, target)
        for result, name in ((value, "value"), (gradient, "gradient")):
            with Watch() as watch:
                result.compute()
            assert len(watch.sizes) <= most[name] * math.prod(input.numblocks) + 20

    def test_nothing_is_computed_before_compute(self, chunks):
        calls(broken(SHAPE, chunks), broken((6, 4), 3, np.int64))

    @pytest.mark.parametrize("chunks", of({name: CHUNKS[name] for name in ("samples", "all-axes")}))
    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_meta(self, chunks, dtype):
        input, target = da.zeros(SHAPE, chunks=chunks, dtype=dtype), da.zeros((6, 4), dtype=np.int64)
        for result in calls(input, target):
            computed = result.compute()
            assert type(result._meta) is np.ndarray
            assert result.dtype == result._meta.dtype == computed.dtype
            assert result.shape == np.shape(computed)
            assert result._meta.ndim == np.ndim(computed)

    def test_loss_and_gradient_share_their_tasks(self):
        input, target = da.zeros((8, 8), chunks=2), da.zeros(8, chunks=2, dtype=int)
        again = lazy.cross_entropy(input, target)
        assert again.name == lazy.cross_entropy(input, target).name
        assert again.name == lazy.cross_entropy_value_and_grad(input, target)[0].name
        assert again.name != lazy.cross_entropy(input, target, index_base=-1).name

    @pytest.mark.parametrize("chunks", [(8, 64), (8, 16)], ids=["whole-rows", "class-chunks"])
    def test_one_thread_a_task(self, monkeypatch, chunks):
        """Each function of nll that a task calls may use one thread."""
        seen = set()

        def watched(function):
            def call(*arguments, **keywords):
                seen.add(nll.get_num_threads())
                return function(*arguments, **keywords)

            return call

        input, target = da.zeros((64, 64), chunks=chunks), da.zeros(64, chunks=8, dtype=int)
        results = calls(input, target)
        for name in lazy._blocks.functional.__dict__.keys() & set(nll.__all__):
            monkeypatch.setattr(lazy._blocks.functional, name, watched(getattr(nll.functional, name)))
        with nll.num_threads(3):
            da.compute(*results, scheduler="threads", num_workers=2)
        assert seen == {1}


# ---- packages beside it


def test_xarray():
    """The recipe of the documentation."""
    xr = pytest.importorskip("xarray", exc_type=ImportError)
    logits = xr.DataArray(da.zeros((6, 4, 8), chunks=(2, 4, 4)), dims=("time", "place", "class"))
    labels = xr.DataArray(da.zeros((6, 4), chunks=(3, 2), dtype=int), dims=("time", "place"))
    losses = xr.apply_ufunc(
        lazy.cross_entropy,
        logits,
        labels,
        input_core_dims=[["class"], []],
        kwargs={"axis": -1, "reduction": "none"},
        dask="allowed",
    )
    assert losses.dims == ("time", "place")
    assert isinstance(losses.data, da.Array)
    np.testing.assert_allclose(losses.compute().mean("place"), math.log(8))


def test_without_dask(run_python):
    """The import says what to install."""
    run_python("""
import sys
sys.modules["dask"] = None
try:
    import nll.dask
except ImportError as error:
    assert "python -m pip install \\"nll[dask]\\"" in str(error), error
else:
    raise AssertionError("imported")
""")


@pytest.mark.parametrize("name", lazy.__all__)
def test_example_in_docstring(name):
    (example,) = doctest.DocTestFinder().find(getattr(lazy, name), name, module=False)
    assert example.examples
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example).failed == 0


def test_mean_of_unequal_chunks():
    """What dask_ml.metrics.log_loss computes, with an argument that scikit-learn no longer takes: 0.572 for 0.400."""
    probabilities, labels = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]), np.array([0, 0, 1, 0])
    input = np.log(probabilities)
    mean_of_means = (nll.nll_loss(input[:3], labels[:3]) + nll.nll_loss(input[3:], labels[3:])) / 2
    loss = lazy.nll_loss(da.from_array(input, chunks=((3, 1), 2)), da.from_array(labels, chunks=((3, 1),)))
    assert f"{mean_of_means:.3f}" == "0.572"
    assert f"{loss.compute():.3f}" == "0.400"


LIMIT = 336 << 20  # bytes that a worker may use


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    distributed = pytest.importorskip("distributed", exc_type=ImportError)
    with (
        mock.patch.dict(os.environ),  # where a cluster leaves OMP_NUM_THREADS=1 for whoever comes next
        dask.config.set({"distributed.admin.system-monitor.gil.enabled": False}),
        distributed.LocalCluster(
            n_workers=3,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=LIMIT,
            local_directory=tmp_path_factory.mktemp("workers"),
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


class TestCluster:
    """Three workers, each a process of its own, on the loopback interface."""

    @pytest.fixture
    def arrays(self):
        """Logits and labels that each worker makes alike."""
        random = da.random.default_rng(0)
        logits = random.normal(size=(256, 1024), chunks=(32, 256)).astype(np.float32)
        return logits, random.integers(0, 1024, size=256, chunks=64)

    @pytest.mark.parametrize("class_chunk", [1024, 256], ids=["whole-rows", "class-chunks"])
    def test_bits(self, client, arrays, class_chunk):
        """Those of one process, and for whole rows, of the local call."""
        arrays = arrays[0].rechunk((32, class_chunk)), arrays[1]
        results = lazy.cross_entropy_value_and_grad(*arrays)
        expected = da.compute(*results, scheduler="sync")
        if class_chunk == 1024:
            expected = nll.cross_entropy_value_and_grad(*da.compute(*arrays, scheduler="sync"))
        for result, one in zip(da.compute(*results, scheduler=client), expected, strict=True):
            assert_same_bits(result, one)

    def test_bad_label(self, client, arrays):
        loss = lazy.cross_entropy(arrays[0], da.where(da.arange(256, chunks=64) == 200, 1024, arrays[1]))
        with pytest.raises(IndexError, match=r"target\[200\] is 1024, outside \[0, 1024\)"):
            loss.compute(scheduler=client)

    def test_a_worker_is_killed(self, client, arrays):
        """The others compute again what it had, and the result is the same."""

        def slow(block):
            time.sleep(0.03)
            return block

        results = lazy.cross_entropy_value_and_grad(*arrays)
        expected = da.compute(*results, scheduler="sync")
        logits = arrays[0].map_blocks(slow, meta=np.empty((0, 0), np.float32))
        workers = client.run(os.getpid)
        futures = client.compute(lazy.cross_entropy_value_and_grad(logits, arrays[1]))
        victim, last = None, time.monotonic() + 60
        while victim is None:  # until one has something to lose
            assert time.monotonic() < last
            held = client.has_what()
            victim = next((worker for worker in workers if len(held[worker]) > 2), None)
        os.kill(workers[victim], signal.SIGKILL)
        for result, one in zip(client.gather(futures), expected, strict=True):
            assert_same_bits(result, one)
        client.wait_for_workers(3)
        assert workers[victim] not in client.run(os.getpid).values()

    def test_shard_larger_than_a_worker_may_be(self, client, tmp_path):
        """A chunk of it at a time is read, and no worker is started anew for the memory that it took."""
        zarr = pytest.importorskip("zarr", exc_type=ImportError)
        shape, chunk = (1408, 65536), (352, 4096)
        assert 4 * math.prod(shape) > LIMIT
        row = np.random.default_rng(0).normal(size=(1, shape[1])).astype(np.float32)
        stored = zarr.create_array(
            tmp_path / "logits.zarr", shape=shape, chunks=chunk, shards=shape, dtype="float32", compressors=None
        )
        stored[:] = np.broadcast_to(row, shape)
        logits = da.from_zarr(tmp_path / "logits.zarr", chunks=chunk)
        labels = np.random.default_rng(1).integers(0, shape[1], shape[0])
        workers = client.run(os.getpid)
        loss = lazy.cross_entropy(logits, labels).compute(scheduler=client)
        assert loss == pytest.approx(nll.cross_entropy(np.broadcast_to(row, shape), labels), rel=1.2e-7)
        assert client.run(os.getpid) == workers


def test_query_planning():
    """Most of the tests above, under the other setting, which a process reads once."""
    again = "local_call or test_gradient or test_log_softmax or test_axis or TestErrors or TestGraphs or xarray"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", again],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"DASK_ARRAY__QUERY_PLANNING": str(not PLANS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
