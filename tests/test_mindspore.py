# SPDX-License-Identifier: BSD-3-Clause
"""The real MindSpore beside nll: its documented example, ordinary cases, and the cases in which it differs.

MindSpore 2.10 asks for any NumPy from 1.25 on, but works with NumPy 1 alone; so it wants an environment of its own.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest

import nll
from support.pairs import pairwise
from support.samples import REDUCTIONS, random_target


class MindSpore:
    """MindSpore on the CPU: its modules, and its functions of arrays."""

    def __init__(self) -> None:
        import mindspore

        mindspore.set_device("CPU")
        self.ops = mindspore.ops
        self.grad = mindspore.grad
        self.tensor = mindspore.Tensor

    def tensors(self, *arrays: Any) -> list[Any]:
        """Labels as int32, which all of its functions take."""
        given = [None if array is None else np.asarray(array) for array in arrays]
        return [
            None if array is None else self.tensor(array.astype(np.int32) if array.dtype == np.int64 else array)
            for array in given
        ]

    def primitive(self, input: Any, target: Any, weight: Any, **choices: Any) -> tuple[np.ndarray, np.ndarray]:
        """The operator NLLLoss: loss and total weight."""
        loss, total_weight = self.ops.NLLLoss(**choices)(*self.tensors(input, target, weight))
        return loss.asnumpy(), total_weight.asnumpy()

    def call(self, name: str, *arrays: Any, **choices: Any) -> np.ndarray:
        """A function of mindspore.ops."""
        return getattr(self.ops, name)(*self.tensors(*arrays), **choices).asnumpy()


@pytest.fixture(scope="module")
def mindspore() -> MindSpore:
    if importlib.util.find_spec("mindspore") is None:
        pytest.skip("mindspore is not installed")
    if int(np.__version__.split(".")[0]) > 1:
        pytest.skip("NumPy 1, which mindspore works with, is not installed")
    return MindSpore()


# ---- its documented example


def test_documented_example(mindspore):
    """Of the operator NLLLoss; its sum in float32 is one unit of the last place off."""
    input = np.array([[0.5488135, 0.71518934], [0.60276335, 0.5448832], [0.4236548, 0.6458941]], np.float32)
    target, weight = np.array([0, 0, 0]), np.array([0.3834415, 0.79172504], np.float32)
    theirs = mindspore.primitive(input, target, weight, reduction="mean")
    loss, total_weight = nll.nll_loss(input, target, weight, return_total_weight=True)
    assert [str(number) for number in theirs] == ["-0.52507716", "1.1503246"]
    assert loss == np.nextafter(theirs[0], np.float32(-1))
    assert np.float32(total_weight) == theirs[1]


# ---- ordinary cases

WITHIN = {"rtol": 2e-6, "atol": 2e-6}  # MindSpore's own errors


@pairwise(reduction=REDUCTIONS, ignore_index=[None, -100, 3], weighted=[False, True])
def test_operator_agrees(reduction, ignore_index, weighted, rng, mindspore):
    """Loss, total weight and gradient of `ops.NLLLoss()(input, target, weight)`."""
    input = np.minimum(rng.normal(size=(40, 7)), 0).astype(np.float32)
    target = random_target(rng, 40, 7)
    if ignore_index is not None and reduction != "none":  # it leaves ignored losses unwritten
        target[::5] = ignore_index
    weight = rng.uniform(0.5, 2, 7).astype(np.float32) if weighted else np.ones(7, np.float32)
    choices = {"reduction": reduction} | ({} if ignore_index is None else {"ignore_index": ignore_index})
    kept = target != choices.get("ignore_index", -100)
    loss, total_weight = nll.nll_loss(input, target, weight, return_total_weight=True, **choices)
    theirs = mindspore.primitive(input, target, weight, **choices)
    if reduction == "none":
        np.testing.assert_allclose(theirs[0][kept], loss[kept], **WITHIN)
    else:
        np.testing.assert_allclose(theirs, [loss, total_weight], **WITHIN)
    tensors = mindspore.tensors(input, target, weight)
    gradient = mindspore.grad(lambda leaf: mindspore.ops.NLLLoss(**choices)(leaf, *tensors[1:])[0].sum())(tensors[0])
    grad_output = np.ones(40) if reduction == "none" else 1.0
    np.testing.assert_allclose(
        gradient.asnumpy(), nll.nll_loss_backward(grad_output, input, target, weight, **choices), **WITHIN
    )


@pairwise(
    name=["nll_loss", "cross_entropy"],
    shape=[(40, 7), (6, 5, 4), (3, 20, 5, 2)],
    reduction=REDUCTIONS,
    weighted=[False, True],
    ignore_index=[-100, 3],
)
def test_functions_agree(name, shape, reduction, weighted, ignore_index, rng, mindspore):
    """`ops.nll_loss` and `ops.cross_entropy`, images too."""
    input = (np.minimum(rng.normal(size=shape), 0) if name == "nll_loss" else 3 * rng.normal(size=shape)).astype(
        np.float32
    )
    target = random_target(rng, (shape[0], *shape[2:]), shape[1], ignored=ignore_index)
    weight = rng.uniform(0.5, 2, shape[1]).astype(np.float32) if weighted else None
    choices = {"reduction": reduction, "ignore_index": ignore_index}
    theirs = mindspore.call(name, input, target, weight, **choices)
    np.testing.assert_allclose(theirs, getattr(nll, name)(input, target, weight, **choices), **WITHIN)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("label_smoothing", [0.1, 1.0])
def test_label_smoothing_agrees(label_smoothing, weighted, rng, mindspore):
    logits, target = (3 * rng.normal(size=(40, 7))).astype(np.float32), random_target(rng, 40, 7, ignored=-100)
    weight = rng.uniform(0.5, 2, 7).astype(np.float32) if weighted else None
    theirs = mindspore.call("cross_entropy", logits, target, weight, label_smoothing=label_smoothing)
    ours = nll.cross_entropy(logits, target, weight, label_smoothing=label_smoothing)
    np.testing.assert_allclose(theirs, ours, **WITHIN)


# ---- where it differs

NAN = math.nan
FLOAT = np.float32
WITH_INF = np.array([[-1, -np.inf], [-2, -0.1]], FLOAT)
LOGITS_WITH_INF = np.array([[0, -np.inf], [0, 0]], FLOAT)
TWO = np.array([[-1, -5], [-2, -6]], FLOAT)
JUST_ABOVE_1 = 1 + 2.0**-40
MANY = np.full((70_000, 1), -1, np.float16)
ZEROS = np.zeros(70_000, int)

VALUES = [
    pytest.param("nll_loss", (WITH_INF, [0, 0]), NAN, 1.5, id="infinity-of-another-class"),
    pytest.param("cross_entropy", (LOGITS_WITH_INF, [0, 0]), NAN, np.log(2) / 2, id="class-without-probability"),
    pytest.param("nll_loss", (TWO, [0, 0], FLOAT([1, NAN])), NAN, 1.5, id="NaN-weight-of-an-absent-class"),
    pytest.param("nll_loss", (MANY, ZEROS), NAN, 1, id="mean-of-70000-float16"),
]


@pytest.mark.parametrize(("name", "arguments", "theirs", "true"), VALUES)
def test_value_differs(name, arguments, theirs, true, mindspore):
    np.testing.assert_equal(float(mindspore.call(name, *arguments)), theirs)
    assert getattr(nll, name)(*arguments) == pytest.approx(true, rel=1e-7)


def test_operator_leaves_ignored_losses_unwritten(mindspore):
    """What memory held before comes back; true are zeros."""
    input, target, weight = -np.ones((16, 2), FLOAT), np.full(16, -100), np.ones(2, FLOAT)
    seen = set()
    for number in range(20):
        junk = [mindspore.ops.add(*mindspore.tensors(np.full(16, 1000 + number, FLOAT), FLOAT(1))) for _ in range(4)]
        del junk
        seen |= set(mindspore.primitive(input, target, weight, reduction="none")[0].tolist())
    assert seen != {0}
    assert not nll.nll_loss(input, target, weight, reduction="none").any()


def test_operator_computes_float64_in_float32(mindspore):
    input, weight = np.array([[-JUST_ABOVE_1]]), np.array([1.0])
    assert mindspore.primitive(input, [0], weight)[0] == 1
    assert nll.nll_loss(input, [0], weight) == JUST_ABOVE_1


def test_total_weight_of_float16_overflows(mindspore):
    weight = np.ones(1, np.float16)
    assert mindspore.primitive(MANY, ZEROS, weight)[1] == np.inf
    assert nll.nll_loss(MANY, ZEROS, weight, return_total_weight=True) == (1, 70_000)


def test_gradient_of_a_mean_without_weight(mindspore):
    """`ops.nll_loss`: NaN everywhere; 0/0 stands at the targets alone."""
    tensors = mindspore.tensors(TWO, [0, 0], FLOAT([0, 1]))
    gradient = mindspore.grad(lambda input: mindspore.ops.nll_loss(input, *tensors[1:]))(tensors[0])
    assert np.isnan(gradient.asnumpy()).all()
    np.testing.assert_array_equal(nll.nll_loss_backward(1.0, TWO, [0, 0], [0, 1]), [[NAN, 0], [NAN, 0]])


REFUSED_HERE = [
    pytest.param((-np.ones((2, 3, 4), FLOAT), [1, 2]), {}, ValueError, id="label-for-a-whole-image"),
    pytest.param((-np.ones((4, 3), FLOAT), [[0], [1], [2], [0]]), {}, ValueError, id="column-of-labels"),
    pytest.param((TWO, [0, -1]), {}, IndexError, id="label-below-0"),
    pytest.param((TWO, [0, 1]), {"reduction": "bogus"}, ValueError, id="unknown-reduction"),
]


@pytest.mark.parametrize(("arguments", "choices", "error"), REFUSED_HERE)
def test_what_it_answers_is_refused(arguments, choices, error, mindspore):
    """`ops.nll_loss` gives a number."""
    assert np.isfinite(mindspore.call("nll_loss", *arguments, **choices)).all()
    with pytest.raises(error):
        nll.nll_loss(*arguments, **choices)


REFUSED_THERE = [
    pytest.param((TWO, np.uint8([0, 1]), np.ones(2, FLOAT)), id="uint8-labels"),
    pytest.param((-np.ones((2, 3, 4), FLOAT), np.zeros((2, 4), int), np.ones(3, FLOAT)), id="images"),
]


@pytest.mark.parametrize("arguments", REFUSED_THERE)
def test_what_it_refuses_is_taken(arguments, mindspore):
    """By the operator NLLLoss."""
    with pytest.raises((TypeError, RuntimeError)):
        mindspore.primitive(*arguments)
    assert np.isfinite(nll.nll_loss(*arguments))
