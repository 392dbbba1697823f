# SPDX-License-Identifier: BSD-3-Clause
"""Cross-entropy, its gradient and log-softmax by their definitions, in more digits than any result has.

NumPy's long double serves where it has 64 bits or more, and mpmath, with 120, elsewhere. What is left of its errors is
below 2**-58 of a result, 0.03 units in the last place (ULP) of float64; test_softmax_oracle.py shows that. Results are
compared in ULP of their own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from support.oracle import FORMATS

BOUNDS = {dtype: 4.0 if dtype == np.float64 else 0.51 for dtype in FORMATS}  # ULP


class Arithmetic(NamedTuple):
    """Real numbers as NumPy arrays of `dtype`, made from arrays of float64."""

    dtype: np.dtype[Any]
    real: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    log1p: Callable[[Any], Any]


def long_double() -> Arithmetic:
    assert np.finfo(np.longdouble).nmant >= 63
    return Arithmetic(np.dtype(np.longdouble), np.longdouble, np.exp, np.log1p)


def multiple_precision() -> Arithmetic:
    import mpmath

    context = mpmath.mp.clone()
    context.prec = 120

    def each(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def of_array(values: Any) -> np.ndarray:
            values = np.asarray(values, object)
            results = np.empty(values.size, object)
            results[:] = [function(value) for value in values.ravel()]
            return results.reshape(values.shape)

        return of_array

    return Arithmetic(np.dtype(object), each(context.mpf), each(context.exp), each(context.log1p))


ARITHMETIC = long_double() if np.finfo(np.longdouble).nmant >= 63 else multiple_precision()


# ---- units in the last place


def ulp(value: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """The distance of the two numbers of the dtype that value lies between, as float64.

    Below the normal numbers it is the smallest subnormal; beyond the largest number, the distance below that.
    """
    format = FORMATS[dtype]
    exact = np.abs(np.asarray(value))
    with np.errstate(over="ignore", under="ignore"):
        magnitude = np.asarray(exact).astype(np.float64)
    magnitude = np.where(np.asarray(magnitude > exact, bool), np.nextafter(magnitude, 0), magnitude)
    magnitude = np.minimum(magnitude, np.finfo(np.float64).max)
    exponent = np.minimum(np.frexp(magnitude)[1] - 1, format.max_exponent)
    place = np.where(magnitude == 0, format.lowest_place, exponent - (format.precision - 1))
    return np.ldexp(1.0, np.maximum(place, format.lowest_place))


def ulp_errors(actual: Any, exact: Any, scale: Any = None, arithmetic: Arithmetic = ARITHMETIC) -> np.ndarray:
    """By how many ULP of its own dtype each number is wrong, as float64.

    The unit is that of `scale`, which is `exact` unless given. An infinity counts as the first number beyond the
    largest one; where only one is NaN, the error is infinite.
    """
    actual, exact = np.asarray(actual), np.asarray(exact)
    assert actual.shape == exact.shape
    beyond = arithmetic.real(2.0) ** (FORMATS[actual.dtype].max_exponent + 1)
    doubles = actual.astype(np.float64)
    nan, exact_nan = np.isnan(doubles), np.asarray(exact != exact, bool)
    doubles, exact = np.where(nan, 0.0, doubles), np.where(exact_nan, arithmetic.real(0.0), exact)
    numbers = np.where(np.isinf(doubles), np.sign(doubles) * beyond, arithmetic.real(doubles))
    unit = ulp(exact if scale is None else np.where(exact_nan, arithmetic.real(0.0), scale), actual.dtype)
    with np.errstate(over="ignore", under="ignore"):
        errors = np.abs(numbers - np.clip(exact, -beyond, beyond)) / arithmetic.real(unit)
        errors = np.asarray(errors).astype(np.float64)
    return np.where(nan | exact_nan, np.where(nan & exact_nan, 0.0, np.inf), errors)


def assert_within_bound(actual: Any, exact: Any, scale: Any = None) -> None:
    """Each number is as exact as nll promises for its dtype."""
    actual = np.asarray(actual)
    errors = ulp_errors(actual, exact, scale)
    bound = BOUNDS[actual.dtype]
    if errors.size and errors.max() > bound:
        worst = np.unravel_index(errors.argmax(), errors.shape)
        place = ", ".join(map(str, worst))
        raise AssertionError(
            f"{(errors > bound).sum()} of {errors.size} are more than {bound} ULP of {actual.dtype} off, the most at "
            f"({place}) by {errors[worst]:.4g}: {actual[worst]!r} should be {np.asarray(exact)[worst]!r}"
        )


# ---- softmax


class Rows(NamedTuple):
    """Samples with their classes side by side, (R, C), relative to their largest logit."""

    below: np.ndarray  # (R, C), largest - x
    powers: np.ndarray  # (R, C), e^(x - largest)
    largest: np.ndarray  # (R,), the class
    rest: np.ndarray  # (R,), sum of the powers of the other classes
    undefined: np.ndarray  # (R,), whether a logit is NaN or +inf, or all are -inf


def rows_of(input: np.ndarray, axis: int, arithmetic: Arithmetic) -> Rows:
    classes_last = np.moveaxis(input, 0 if input.ndim == 1 else axis, -1)
    logits = classes_last.astype(np.float64).reshape(math.prod(classes_last.shape[:-1]), classes_last.shape[-1])
    largest = logits.argmax(1) if logits.size else np.zeros(len(logits), np.intp)
    at_largest = np.arange(len(logits)), largest
    top = logits[at_largest] if logits.size else np.zeros(len(logits))
    undefined = np.isnan(logits).any(1) | (np.abs(top) == np.inf)
    logits = np.where(undefined[:, None], 0.0, logits)
    top = np.where(undefined, 0.0, top)
    absent = logits == -np.inf
    x, m = arithmetic.real(np.where(absent, 0.0, logits)), arithmetic.real(top)[:, None]
    below = m - x
    part = m - below
    lost = (m - (below + part)) + (part - x)  # so that the true difference is below + lost
    zero = arithmetic.real(0.0)
    far = absent | np.asarray(below > 11_000, bool)  # e^-11000 is no number of any dtype, nor of long double
    powers = np.where(far, zero, arithmetic.exp(-np.where(far, zero, below)) * (1 - np.where(far, zero, lost)))
    others = powers.copy()
    if logits.size:
        others[at_largest] = zero
    below = np.where(absent, arithmetic.real(np.inf), below)
    return Rows(below, powers, largest, others.sum(1), undefined)


class Expected(NamedTuple):
    """What is true but for the last digits of the arithmetic; and the largest of it and the terms added for it."""

    loss: np.ndarray  # of target's shape, or () if reduced
    gradient: np.ndarray  # of input's shape
    loss_scale: np.ndarray
    gradient_scale: np.ndarray


def cross_entropy(
    input: np.ndarray,
    target: Any,
    weight: Any = None,
    *,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: str = "none",
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
    label_smoothing: float = 0.0,
    grad_output: Any = 1.0,
    arithmetic: Arithmetic = ARITHMETIC,
) -> Expected:
    """The losses or their sum or weighted mean, and its gradient times grad_output.

    Where the total weight is 0, though samples are kept, the gradient is infinite or NaN: which, is not told.
    """
    real, zero, one = arithmetic.real, arithmetic.real(0.0), arithmetic.real(1.0)
    target_shape = np.shape(target)
    rows = rows_of(input, axis, arithmetic)
    count, class_count = rows.powers.shape
    labels = np.asarray(target).ravel().tolist()
    kept = np.array([label != ignore_index for label in labels], bool)
    classes = np.array([label - index_base if label != ignore_index else 0 for label in labels], np.intp)
    doubles = np.ones(class_count) if weight is None else np.asarray(weight).astype(np.float64)
    weights = real(doubles)
    if not kept.any():  # then there may be no class
        loss = np.full(count, zero) if reduction == "none" else zero
        if reduction == "mean" and empty == "nan":
            loss = real(np.nan)
        gradient = np.full(rows.powers.shape, zero)
        return Expected(*(finish(a, target_shape, input, axis, reduction) for a in (loss, gradient, loss, gradient)))
    at_target = np.arange(count), classes
    own = np.broadcast_to(np.asarray(1.0 if sample_weight is None else sample_weight, np.float64), target_shape).ravel()
    own = np.where(kept, own, 0.0)
    w = np.where(kept, weights[classes], zero)
    divisor = real(np.where(kept, doubles[classes], 0.0) * own).sum() if reduction == "mean" else one
    g = np.where(kept, np.broadcast_to(real(np.asarray(grad_output, np.float64).ravel()), count), zero) * real(own)

    # log(sum) - x at every class: both parts are positive
    log_sum = arithmetic.log1p(rows.rest)
    minus_log_softmax = rows.below + log_sum[:, None]
    total = one + rows.rest
    softmax = rows.powers / total[:, None]
    at_largest = classes == rows.largest
    others = np.where(at_largest, rows.rest, total - rows.powers[at_target]) / total

    smoothing = real(float(label_smoothing))
    share = smoothing / class_count
    losses = w * np.where(kept, minus_log_softmax[at_target], zero)
    scales = np.abs(losses)
    factor = (one - smoothing) * w
    gradient = factor[:, None] * softmax
    gradient[at_target] = -factor * others
    gradient_scale = np.abs(gradient)
    if label_smoothing:
        spread = share * (weights * minus_log_softmax).sum(1)
        losses, scales = (one - smoothing) * losses, np.abs((one - smoothing) * losses)
        losses = np.where(kept, losses + spread, zero)
        scales = np.maximum(scales, share * (np.abs(weights) * minus_log_softmax).max(1))
        scales = np.maximum(scales, np.abs(losses))
        terms = (share * weights.sum()) * softmax, np.broadcast_to(share * weights, softmax.shape)
        gradient = gradient + terms[0] - terms[1]
        for array in (*terms, gradient, (factor[:, None] + share * weights.sum()) * softmax):
            gradient_scale = np.maximum(gradient_scale, np.abs(array))
    gradient, gradient_scale = ((g / divisor)[:, None] * a for a in (gradient, gradient_scale))
    losses, scales = real(own) * losses, np.abs(real(own) * scales)
    nan = real(np.nan)
    undefined = rows.undefined & kept
    losses = np.where(undefined, nan, np.where(kept, losses, zero))
    gradient = np.where(undefined[:, None], nan, np.where(kept[:, None], gradient, zero))
    if reduction != "none":
        losses, scales = losses.sum() / divisor, np.abs(scales[kept].sum() / divisor)
    if divisor == 0 and empty == "zero":
        losses, scales, gradient = zero, zero, np.full(gradient.shape, zero)
    arrays = losses, gradient, scales, np.abs(gradient_scale)
    return Expected(*(finish(a, target_shape, input, axis, reduction) for a in arrays))


def finish(array: Any, target_shape: tuple[int, ...], input: np.ndarray, axis: int, reduction: str) -> np.ndarray:
    """In the shape of the result: () is a reduced loss, (R,) one of each sample, (R, C) a gradient."""
    array = np.asarray(array)
    if array.ndim == 2:
        return like_input(array, input, axis)
    return array.reshape(target_shape) if reduction == "none" else array


def like_input(rows: np.ndarray, input: np.ndarray, axis: int) -> np.ndarray:
    axis = 0 if input.ndim == 1 else axis
    shape = np.moveaxis(np.empty(input.shape, bool), axis, -1).shape
    return np.moveaxis(rows.reshape(shape), -1, axis)


def log_softmax(input: np.ndarray, *, axis: int = 1, arithmetic: Arithmetic = ARITHMETIC) -> np.ndarray:
    rows = rows_of(input, axis, arithmetic)
    values = -(rows.below + arithmetic.log1p(rows.rest)[:, None])
    return like_input(np.where(rows.undefined[:, None], arithmetic.real(np.nan), values), input, axis)


def softmax(input: np.ndarray, *, axis: int = 1, arithmetic: Arithmetic = ARITHMETIC) -> np.ndarray:
    rows = rows_of(input, axis, arithmetic)
    values = rows.powers / (arithmetic.real(1.0) + rows.rest)[:, None]
    return like_input(np.where(rows.undefined[:, None], arithmetic.real(np.nan), values), input, axis)


class LogSumExp(NamedTuple):
    value: np.ndarray  # of target's shape
    scale: np.ndarray  # the larger of it and the largest logit


def logsumexp(input: np.ndarray, *, axis: int = 1, arithmetic: Arithmetic = ARITHMETIC) -> LogSumExp:
    """Its value: of undefined rows NaN where a logit is, else the largest logit."""
    rows = rows_of(input, axis, arithmetic)
    classes_last = np.moveaxis(input, 0 if input.ndim == 1 else axis, -1)
    logits = classes_last.astype(np.float64).reshape(rows.powers.shape)
    top = logits.max(1, initial=-np.inf)  # NaN where there is one
    finite = np.where(rows.undefined, 0.0, top)
    value = arithmetic.real(finite) + arithmetic.log1p(rows.rest)
    scale = np.maximum(np.abs(value), np.abs(arithmetic.real(finite)))
    value = np.where(rows.undefined, arithmetic.real(top), value)
    shape = classes_last.shape[:-1]
    return LogSumExp(value.reshape(shape), scale.reshape(shape))
