# SPDX-License-Identifier: BSD-3-Clause
"""Calls of `cross_entropy` whose results must be within the bounds of their dtypes, and logits for them."""

from __future__ import annotations

from typing import Any

import numpy as np

import nll
import oracle
import softmax_oracle
from oracle import assert_same_bits
from softmax_oracle import assert_within_bound


def random_logits(rng: np.random.Generator, shape: Any, dtype: Any, scale: float = 3) -> np.ndarray:
    return (scale * rng.normal(size=shape)).astype(dtype)


def assert_within(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    grad_output: Any = None,
    dtype: Any = None,
    reduction: str = "mean",
    **choices: Any,
) -> None:
    """The loss, the total weight and the gradient are within the bounds of their dtypes."""
    input, choices = np.asarray(input), choices | {"reduction": reduction}
    if grad_output is None:
        grad_output = np.ones(np.shape(target)) if reduction == "none" else 1.0
    exact = softmax_oracle.cross_entropy(input, target, weight, grad_output=grad_output, **choices)
    loss, total_weight = nll.cross_entropy(input, target, weight, dtype=dtype, return_total_weight=True, **choices)
    gradient = nll.cross_entropy_backward(grad_output, input, target, weight, **choices)
    assert loss.dtype == (input.dtype if dtype is None else dtype)
    assert gradient.dtype == input.dtype
    assert_within_bound(loss, exact.loss, exact.loss_scale)
    assert_within_bound(gradient, exact.gradient, exact.gradient_scale)
    labels = {name: choices[name] for name in ("ignore_index", "axis", "index_base") if name in choices}
    assert_same_bits(total_weight, oracle.nll_loss(np.zeros_like(input), target, weight, **labels).total_weight)
    if reduction != "none" and dtype is None:
        value, beside = nll.cross_entropy_value_and_grad(input, target, weight, grad_output=grad_output, **choices)
        assert_same_bits(value, loss)
        assert_same_bits(beside, gradient)
