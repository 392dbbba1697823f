# SPDX-License-Identifier: BSD-3-Clause
"""The losses under test: the functions of each, arrays for them, and the assertion that what they return is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import nll
from support import oracle, softmax_oracle
from support.oracle import as_native, assert_same_bits
from support.samples import random_input, random_logits, random_weight
from support.softmax_oracle import assert_within_bound


@dataclass(frozen=True)
class Loss:
    """A loss as functions and as an object. `assert_right` takes the arguments of all of them."""

    name: str
    value: Callable[..., Any]
    backward: Callable[..., Any]
    value_and_grad: Callable[..., Any]
    bound: Callable[..., Any]
    random_input: Callable[..., np.ndarray]  # of (rng, shape, dtype)
    random_weight: Callable[..., np.ndarray | None]  # of (rng, class_count, dtype)
    assert_right: Callable[..., None]

    def __str__(self) -> str:
        return self.name


def assert_exact(input: Any, target: Any, weight: Any = None, **choices: Any) -> None:
    """The loss and the total weight of `nll_loss` have the bits of the definition."""
    loss, total_weight = nll.nll_loss(input, target, weight, return_total_weight=True, **choices)
    expected = oracle.nll_loss(input, target, weight, **choices)
    assert_same_bits(loss, expected.loss)
    assert_same_bits(total_weight, expected.total_weight)


def assert_exact_gradient(grad_output: Any, *arrays: Any, **choices: Any) -> None:
    """The gradient of `nll_loss` has the bits of the definition."""
    gradient = nll.nll_loss_backward(grad_output, *arrays, **choices)
    assert_same_bits(gradient, oracle.nll_loss_backward(grad_output, *arrays, **choices))


def ones_for(target: Any, reduction: str) -> Any:
    """The gradient of a result in itself."""
    return np.ones(np.shape(target)) if reduction == "none" else 1.0


def assert_nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    grad_output: Any = None,
    dtype: Any = None,
    reduction: str = "mean",
    **choices: Any,
) -> None:
    """The loss, the total weight and the gradient have the bits of the definition."""
    choices = choices | {"reduction": reduction}
    grad_output = ones_for(target, reduction) if grad_output is None else grad_output
    assert_exact(input, target, weight, dtype=dtype, **choices)
    assert_exact_gradient(grad_output, input, target, weight, **choices)
    if reduction != "none" and dtype is None:
        assert_the_same_in_one_call(NLL_LOSS, grad_output, input, target, weight, **choices)


def assert_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    grad_output: Any = None,
    dtype: Any = None,
    reduction: str = "mean",
    **choices: Any,
) -> None:
    """The loss and the gradient are within the bounds of their dtypes, their zeros +0, and the total weight exact."""
    choices = choices | {"reduction": reduction}
    grad_output = ones_for(target, reduction) if grad_output is None else grad_output
    like = as_native(input)
    exact = softmax_oracle.cross_entropy(like, target, weight, grad_output=grad_output, **choices)
    loss, total_weight = nll.cross_entropy(input, target, weight, dtype=dtype, return_total_weight=True, **choices)
    gradient = nll.cross_entropy_backward(grad_output, input, target, weight, **choices)
    assert loss.dtype == (like.dtype if dtype is None else dtype)
    assert gradient.dtype == like.dtype
    assert_within_bound(loss, exact.loss, exact.loss_scale)
    assert_within_bound(gradient, exact.gradient, exact.gradient_scale)
    for result in (np.asarray(loss), gradient):
        assert not np.signbit(result[result == 0]).any(), "a zero is negative"
    labels = {
        name: choices[name] for name in ("sample_weight", "ignore_index", "axis", "index_base") if name in choices
    }
    assert_same_bits(total_weight, oracle.nll_loss(np.zeros_like(like), target, weight, **labels).total_weight)
    if reduction != "none" and dtype is None:
        assert_the_same_in_one_call(CROSS_ENTROPY, grad_output, input, target, weight, **choices)


def assert_the_same_in_one_call(loss: Loss, grad_output: Any, *arrays: Any, **choices: Any) -> None:
    """`value_and_grad` returns the bits of the functions that return one of both."""
    value, total_weight, gradient = loss.value_and_grad(
        *arrays, grad_output=grad_output, return_total_weight=True, **choices
    )
    alone = loss.value(*arrays, return_total_weight=True, **choices)
    assert_same_bits(value, alone[0])
    assert_same_bits(total_weight, alone[1])
    assert_same_bits(gradient, loss.backward(grad_output, *arrays, **choices))


def assert_softmax(input: Any, axis: int = 1, dtype: Any = None) -> None:
    """`softmax` and `log_softmax`, and `logsumexp` in this dtype, are within their bounds."""
    like = as_native(input)
    assert_within_bound(nll.softmax(input, axis=axis), softmax_oracle.softmax(like, axis=axis))
    assert_within_bound(nll.log_softmax(input, axis=axis), softmax_oracle.log_softmax(like, axis=axis))
    exact = softmax_oracle.logsumexp(like, axis=axis)
    actual = nll.logsumexp(input, axis=axis, dtype=dtype)
    assert actual.dtype == (like.dtype if dtype is None else dtype)
    assert actual.shape == exact.value.shape
    assert_within_bound(actual, exact.value, exact.scale)


def positive_weight(*arguments: Any) -> np.ndarray | None:
    """Weights without a sign, as smoothed losses need: their terms must not cancel beyond the bound."""
    weight = random_weight(*arguments)
    return None if weight is None else abs(weight)


NLL_LOSS = Loss(
    "nll_loss",
    nll.nll_loss,
    nll.nll_loss_backward,
    nll.nll_loss_value_and_grad,
    nll.NLLLoss,
    random_input,
    random_weight,
    assert_nll_loss,
)
CROSS_ENTROPY = Loss(
    "cross_entropy",
    nll.cross_entropy,
    nll.cross_entropy_backward,
    nll.cross_entropy_value_and_grad,
    nll.CrossEntropyLoss,
    random_logits,
    random_weight,
    assert_cross_entropy,
)
SMOOTHED = Loss(
    "smoothed_cross_entropy",
    *(
        partial(function, label_smoothing=0.1)
        for function in (
            nll.cross_entropy,
            nll.cross_entropy_backward,
            nll.cross_entropy_value_and_grad,
            nll.CrossEntropyLoss,
        )
    ),
    random_logits,
    positive_weight,
    partial(assert_cross_entropy, label_smoothing=0.1),
)
LOSSES = [NLL_LOSS, CROSS_ENTROPY, SMOOTHED]
