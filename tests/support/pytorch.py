# SPDX-License-Identifier: BSD-3-Clause
"""Random problems of both losses against PyTorch in float64: no difference beyond PyTorch's own error.

PyTorch gets the numbers of every dtype as the same doubles. With u = 2^-53, its errors are bounded so:

- log_softmax is (x - max) - log(sum of exp(x - max)). The difference d = max - x is rounded once, by d·u; that moves
  the sum by the mean of d under the softmax, which is at most log(C)·u. Each exp is within 1 ULP, so 2·u; adding C of
  them makes (C - 1)·u; the log is within 1 ULP again, 2·u·log S; and the last difference is rounded. Together
  (C + 1 + log C + 3·|log_softmax|)·u, and as much again as 1/100 for what is of second order.
- A sum of n numbers in any order is within (n - 1)·u of the sum of their magnitudes. A product or quotient is within u.

nll's own error is 0.5, 0.51 or 4 units in the last place of the result's dtype. Where PyTorch's sums may pass the
largest double, the exact oracles decide. Where it has another definition (empty means, ignored samples without a
softmax), tests in test_peers.py say which.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from support.losses import CROSS_ENTROPY, NLL_LOSS, Loss
from support.notes import note
from support.oracle import as_native
from support.problems import Problem, Rng, one_of, random_problem
from support.softmax_oracle import BOUNDS, ulp

torch.set_num_threads(1)
U = 1.01 * 2.0**-53
worst: dict[str, float] = {}  # of each loss, result and dtype: the largest difference as a part of what is allowed


class Result(NamedTuple):
    """What PyTorch computed, how far it may be from the truth, and what nll counts its own error by."""

    value: np.ndarray
    bound: np.ndarray
    scale: np.ndarray


class Doubles(NamedTuple):
    """A problem in float64, its classes on axis 1 and its labels counted from 0, of (R,) samples."""

    input: np.ndarray  # (R, C)
    classes: np.ndarray  # (R,); 0 where they are ignored
    kept: np.ndarray  # (R,)
    weight: np.ndarray  # (C,)
    grad: np.ndarray  # (R,)
    divisor: float  # of the mean, and 1 otherwise
    divisor_error: float  # relative, of PyTorch's


IGNORED = -100


def doubles_of(problem: Problem) -> Doubles:
    rows = np.moveaxis(as_native(problem.input), 0 if np.ndim(problem.input) == 1 else problem.axis, -1)
    kept = problem.kept.ravel()
    labels = np.asarray(problem.target).ravel().tolist()
    classes = [label - problem.index_base if k else 0 for label, k in zip(labels, kept, strict=True)]
    weight = np.ones(rows.shape[-1]) if problem.weight is None else np.asarray(problem.weight).astype(np.float64)
    grad = np.broadcast_to(np.asarray(problem.grad_output).astype(np.float64).ravel(), kept.shape)
    at = np.array(classes, np.int64)
    divisor, error = 1.0, 0.0
    if problem.reduction == "mean":
        own = weight[at][kept]
        divisor = float(own.sum())
        error = float((len(own) + 1) * U * np.abs(own).sum() / abs(divisor)) if divisor else 0.0
    return Doubles(rows.reshape(kept.size, rows.shape[-1]).astype(np.float64), at, kept, weight, grad, divisor, error)


# ---- PyTorch


def pytorch_results(loss: Loss, problem: Problem, doubles: Doubles) -> tuple[np.ndarray, np.ndarray]:
    """The loss, of target's shape or (), and its gradient, (R, C)."""
    shape = np.shape(problem.target)
    rank_one = np.ndim(problem.input) == 1
    rows = doubles.input.reshape(*shape, problem.class_count)
    input = torch.tensor(rows if rank_one else np.moveaxis(rows, -1, 1).copy(), requires_grad=True)
    target = torch.tensor(np.where(doubles.kept, doubles.classes, IGNORED).reshape(shape))
    weight = None if problem.weight is None else torch.tensor(doubles.weight)
    smoothing = {"label_smoothing": problem.label_smoothing} if loss is CROSS_ENTROPY else {}
    function = getattr(torch.nn.functional, loss.name)
    value = function(input, target, weight, reduction=problem.reduction, ignore_index=IGNORED, **smoothing)
    grad = doubles.grad.reshape(shape) if problem.reduction == "none" else float(problem.grad_output)
    value.backward(torch.tensor(grad, dtype=torch.float64))
    assert input.grad is not None
    gradient = input.grad.numpy()
    gradient = gradient if rank_one else np.moveaxis(gradient, 1, -1)
    return value.detach().numpy(), gradient.reshape(doubles.input.shape)


# ---- bounds


def per_sample(doubles: Doubles, smoothing: float, *, logits: bool) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (R,) of the errors of the losses of the samples, and the largest terms of them."""
    count, class_count = doubles.input.shape
    at = np.arange(count), doubles.classes
    w = np.where(doubles.kept, doubles.weight[doubles.classes], 0.0)
    if not logits:
        terms = np.abs(w * np.where(doubles.kept, doubles.input[at], 0.0))
        return U * terms, terms
    values = np.abs(log_softmax(doubles.input))
    errors = U * (class_count + 1 + math.log(class_count) + 3 * values)
    own = (1 - smoothing) * np.abs(w)
    terms = own * values[at]
    bound = own * errors[at] + 4 * U * terms
    if smoothing:
        each = smoothing / class_count * np.abs(doubles.weight)
        bound = bound + (each * (errors + (class_count + 4) * U * values)).sum(1)
        bound = bound + U * (terms + (each * values).sum(1))
        terms = np.maximum(terms, (each * values).sum(1))
    return np.where(doubles.kept, bound, 0.0), np.where(doubles.kept, terms, 0.0)


def log_softmax(rows: np.ndarray) -> np.ndarray:
    shifted = rows - rows.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def bound_of_loss(problem: Problem, doubles: Doubles, value: np.ndarray, *, logits: bool) -> Result:
    bound, terms = per_sample(doubles, problem.label_smoothing, logits=logits)
    if problem.reduction == "none":
        return Result(value, bound.reshape(value.shape), terms.reshape(value.shape))
    whole = terms.sum()
    divisor = abs(doubles.divisor)
    # A product may be subnormal, and have fewer digits.
    bound = bound.sum() + (len(terms) + 4) * U * whole + len(terms) * 2.0**-1074
    return Result(value, bound / divisor + (doubles.divisor_error + U) * whole / divisor, whole / divisor)


def bound_of_gradient(problem: Problem, doubles: Doubles, value: np.ndarray, *, logits: bool) -> Result:
    count, class_count = doubles.input.shape
    smoothing = problem.label_smoothing
    at = np.arange(count), doubles.classes
    factor = np.where(doubles.kept, doubles.grad, 0.0)[:, None] / doubles.divisor
    of_log = np.zeros(doubles.input.shape)  # of log_softmax, or of log-probabilities
    of_log[at] = (1 - smoothing) * doubles.weight[doubles.classes]
    if smoothing:
        of_log += smoothing / class_count * doubles.weight
    of_log = np.abs(factor * of_log)
    relative = doubles.divisor_error + 6 * U
    if not logits:
        return Result(value, relative * of_log, of_log)
    values = log_softmax(doubles.input)
    errors = U * (class_count + 1 + math.log(class_count) + 3 * np.abs(values))
    whole = of_log.sum(1, keepdims=True)
    from_sum = np.exp(values) * whole
    bound = relative * (of_log + from_sum) + from_sum * (errors + (class_count + 3) * U)
    scale = np.maximum(of_log, from_sum) if smoothing else np.abs(value)
    return Result(value, np.where(doubles.kept[:, None], bound, 0.0), scale)


# ---- the comparison


def differences(actual: np.ndarray, result: Result, own: float) -> np.ndarray:
    """The difference of each number as a part of what is allowed; infinite where one is NaN or infinite alone."""
    doubles, value = actual.astype(np.float64), result.value
    bound = np.where(np.isfinite(result.bound), result.bound, 0.0) + 2.0**-1074 * 64
    magnitude = np.maximum(np.abs(value), np.where(np.isfinite(result.scale), result.scale, 0.0)) + bound
    allowed = bound + own * ulp(np.where(np.isfinite(magnitude), magnitude, 0.0), actual.dtype)
    beyond = 2.0**128 if actual.dtype.itemsize == 4 or actual.dtype.kind == "V" else 2.0**16
    if actual.dtype != np.float64:  # what is beyond the largest number is the next one
        doubles = np.clip(doubles, -beyond, beyond)
        value = np.clip(value, -beyond, beyond)
    equal = (doubles == value) | (np.isnan(doubles) & np.isnan(value))
    parts = np.abs(doubles - value) / allowed
    return np.where(equal, 0.0, np.where(np.isnan(parts), np.inf, parts))


def assert_explained(actual: Any, result: Result, own: float, what: str) -> None:
    """The difference is within both errors."""
    actual = np.asarray(actual)
    with np.errstate(all="ignore"):
        parts = differences(actual, result, own)
    if parts.size == 0:
        return
    place = np.unravel_index(parts.argmax(), parts.shape)
    assert parts[place] <= 1, (
        f"{what} is {actual[place]!r} at {tuple(map(int, place))}, and {result.value[place]!r} in PyTorch: "
        f"{parts[place]:.3g} times the errors of both"
    )
    worst[what] = max(worst.get(what, 0.0), float(parts[place]))


def report() -> list[str]:
    """The largest differences that were seen, as parts of what is allowed."""
    return [f"{part:8.3f} of both errors: {what}" for what, part in sorted(worst.items())]


def check(rng: Rng) -> str:
    """Draws a problem; PyTorch's results explain nll's."""
    loss = one_of(rng, NLL_LOSS, CROSS_ENTROPY)
    problem = random_problem(rng, cross_entropy=loss is CROSS_ENTROPY, plain=True)
    with note(loss, problem), np.errstate(all="ignore"):
        return compare(loss, problem)


def compare(loss: Loss, problem: Problem) -> str:
    if problem.class_count == 0:
        return "without classes"
    doubles, logits = doubles_of(problem), loss is CROSS_ENTROPY
    if problem.reduction == "mean" and doubles.divisor == 0:
        return "empty means"
    arrays = problem.input, problem.target, problem.weight
    choices = problem.choices | ({"label_smoothing": problem.label_smoothing} if logits else {})
    value, gradient = pytorch_results(loss, problem, doubles)
    gradient = np.where(doubles.kept[:, None], gradient, 0.0)  # PyTorch has NaN where what is ignored has no softmax
    result = bound_of_loss(problem, doubles, value, logits=logits)
    if overflows(problem, doubles):
        loss.assert_right(*arrays, grad_output=problem.grad_output, dtype=problem.dtype, **choices)
        return "sums beyond float64, decided by the oracle"
    own_value = loss.value(*arrays, **choices, dtype=problem.dtype)
    own = BOUNDS if logits else dict.fromkeys(BOUNDS, 0.5)
    assert_explained(own_value, result, own[own_value.dtype], f"{loss} in {own_value.dtype}")
    own_gradient = as_rows(loss.backward(problem.grad_output, *arrays, **choices), problem)
    result = bound_of_gradient(problem, doubles, gradient, logits=logits)
    assert_explained(own_gradient, result, own[own_gradient.dtype], f"gradient of {loss} in {own_gradient.dtype}")
    return f"{loss}, {problem.reduction}"


def overflows(problem: Problem, doubles: Doubles) -> bool:
    """Whether PyTorch's sum may pass the largest double, though no term does."""
    if problem.reduction == "none":
        return False
    largest = [np.abs(array[np.isfinite(array)]).max(initial=1.0) for array in (doubles.input, doubles.weight)]
    return not math.isfinite(2.0 * len(doubles.kept) * largest[0] * largest[1])


def as_rows(gradient: np.ndarray, problem: Problem) -> np.ndarray:
    rows = np.moveaxis(gradient, 0 if gradient.ndim == 1 else problem.axis, -1)
    return rows.reshape(problem.kept.size, problem.class_count)
