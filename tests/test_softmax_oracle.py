# SPDX-License-Identifier: BSD-3-Clause
"""The oracle of the cross-entropy itself, against 400 digits; and its unit in the last place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support import oracle, softmax_oracle
from support.oracle import FORMATS
from support.samples import random_input, random_target
from support.softmax_oracle import multiple_precision, ulp, ulp_errors

mpmath = pytest.importorskip("mpmath")

CASES = {
    "ordinary": np.array([[0.5, -1.25, 3], [2, 2, -7], [0.1, 0.2, 0.3]]),
    "confident": np.array([[20.0, 0, 0], [0, 104, 0], [0, 0, 740], [-1e9, 0, 1]]),
    "large": np.array([[1e6, 1e6 + 1, 1e6 - 3], [1e30, 1e30, 0], [-1e300, -1e300, -1e300]]),
    "no-common-digits": np.array([[1.0, 1e-17, -700], [1e5 / 3, 1e5 / 3 - 1 / 7, 1e-9 / 3], [700.1, 1 / 3, 2e-300]]),
    "ties": np.array([[1.0, 1, 1], [0.25, 0.25, -4], [-300, -300, 12]]),
    "absent-classes": np.array([[0.0, -np.inf, 1], [-np.inf, 5, 5], [-np.inf, -np.inf, 3]]),
}


@pytest.fixture(params=CASES)
def logits(request: pytest.FixtureRequest) -> np.ndarray:
    return CASES[request.param]


@pytest.fixture(params=["chosen", "mpmath"])
def arithmetic(request: pytest.FixtureRequest) -> softmax_oracle.Arithmetic:
    """The one that is used here, and the one for machines without a long double."""
    return softmax_oracle.ARITHMETIC if request.param == "chosen" else multiple_precision()


def by_definition(logits: np.ndarray) -> tuple[list[list[Any]], list[list[Any]]]:
    """-log p and p of every class, from e^x / sum e^x in 400 digits more than are lost."""
    powers = [[mpmath.exp(mpmath.mpf(x)) for x in row] for row in logits.tolist()]
    softmax = [[power / mpmath.fsum(row) for power in row] for row in powers]
    return [[-mpmath.log(p) if p else mpmath.inf for p in row] for row in softmax], softmax


def as_mpf(value: Any) -> Any:
    if not isinstance(value, np.longdouble):
        return mpmath.mpf(value)
    mantissa, exponent = np.frexp(value)  # it may be beyond double
    high = float(mantissa)
    return mpmath.ldexp(mpmath.mpf(high) + mpmath.mpf(float(mantissa - np.longdouble(high))), int(exponent))


def assert_agrees(actual: Any, expected: Any) -> None:
    """To 2**-58, where both are within the range of long double."""
    for a, e in zip(np.asarray(actual).ravel(), np.asarray(expected, object).ravel(), strict=True):
        if mpmath.isinf(e) or abs(e) < mpmath.mpf(10) ** -4000:
            assert a == (np.inf if mpmath.isinf(e) else 0)
        else:
            assert abs(as_mpf(a) - e) <= abs(e) * mpmath.mpf(2) ** -58, (a, e)


@pytest.fixture(autouse=True)
def many_digits():
    with mpmath.workdps(1200):
        yield


@pytest.mark.parametrize("target", [0, 1, 2])
def test_loss_and_gradient(target, logits, arithmetic):
    minus_log, softmax = by_definition(logits)
    expected = softmax_oracle.cross_entropy(logits, np.full(len(logits), target), arithmetic=arithmetic)
    assert_agrees(expected.loss, [row[target] for row in minus_log])
    if logits.max() > 1e20:
        return  # 1 - p has more zeros than there are digits; p is 0 and 1 there
    one_hot = np.eye(3)[target].tolist()
    assert_agrees(expected.gradient, [[p - o for p, o in zip(row, one_hot, strict=True)] for row in softmax])


def test_log_softmax(logits, arithmetic):
    minus_log, _ = by_definition(logits)
    assert_agrees(-softmax_oracle.log_softmax(logits, arithmetic=arithmetic), minus_log)


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_smoothing_weights_and_reductions(reduction, smoothing, arithmetic):
    logits, target, weight = CASES["ordinary"], [1, -100, 2], [0.25, 2.0, 1.5]
    minus_log, softmax = by_definition(logits)
    s = mpmath.mpf(smoothing)
    losses, gradient = [mpmath.mpf(0)] * 3, [[mpmath.mpf(0)] * 3] * 3
    for i in (0, 2):
        t = target[i]
        q = [w * ((1 - s) * (c == t) + s / 3) for c, w in enumerate(weight)]
        losses[i] = sum(a * b for a, b in zip(q, minus_log[i], strict=True))
        gradient[i] = [p * sum(q) - one for p, one in zip(softmax[i], q, strict=True)]
    divisor = 3.5 if reduction == "mean" else 1
    expected = softmax_oracle.cross_entropy(
        logits, target, weight, label_smoothing=smoothing, reduction=reduction, arithmetic=arithmetic
    )
    assert_agrees(expected.loss, losses if reduction == "none" else sum(losses) / divisor)
    assert_agrees(expected.gradient, [[g / divisor for g in row] for row in gradient])


@pytest.mark.parametrize("row", [[np.nan, 1], [np.inf, 1], [-np.inf, -np.inf], [np.inf, -np.inf]], ids=str)
def test_undefined_rows(row, arithmetic):
    logits, target = np.array([row, [0, 0], row]), [0, 1, -100]
    loss, gradient, *_ = softmax_oracle.cross_entropy(logits, target, arithmetic=arithmetic)
    np.testing.assert_array_equal(np.isnan(loss.astype(float)), [True, False, False])
    np.testing.assert_array_equal(gradient.astype(float), [[np.nan, np.nan], [0.5, -0.5], [0, 0]])
    np.testing.assert_array_equal(np.isnan(gradient.astype(float)).all(1), [True, False, False])


def test_long_double_is_mpmath(dtype, rng):
    """On random rows, whatever their dtype."""
    input, target = random_input(rng, (20, 30), dtype, (-8, 6)), random_target(rng, 20, 30)
    expected = softmax_oracle.cross_entropy(input, target)
    exact = softmax_oracle.cross_entropy(input, target, arithmetic=multiple_precision())
    for one, other in zip(expected, exact, strict=True):
        assert_agrees(one, other)


# ---- units in the last place


def test_ulp_is_the_distance_to_the_next_number(dtype, rng):
    format = FORMATS[dtype]
    bits = np.array([0, 1, 2, *rng.integers(0, format.infinity - 1, 2000).tolist(), format.infinity - 2])
    numbers, following = (oracle.from_bits((bits + i).tolist(), dtype).astype(np.float64) for i in (0, 1))
    np.testing.assert_array_equal(ulp(numbers, dtype), following - numbers)
    np.testing.assert_array_equal(ulp(-numbers, dtype), following - numbers)
    np.testing.assert_array_equal(ulp(np.inf, dtype), ulp(oracle.from_bits(format.infinity - 1, dtype), dtype))


def test_ulp_errors(dtype, arithmetic):
    format = FORMATS[dtype]
    one, smallest = dtype.type(1), oracle.from_bits(1, dtype)
    largest = oracle.from_bits(format.infinity - 1, dtype)
    epsilon = arithmetic.real(2.0 ** (1 - format.precision))
    beyond = arithmetic.real(2.0) ** (format.max_exponent + 1)
    infinity = dtype.type(np.inf)
    half, nan = arithmetic.real(0.5), arithmetic.real(np.nan)
    cases = [
        (one, arithmetic.real(1.0), 0),
        (one, 1 + epsilon / 4, 0.25),
        (one, 1 - epsilon / 4, 0.5),  # below 1 numbers are closer
        (smallest, half * arithmetic.real(float(smallest)), 0.5),
        (dtype.type(0), half * arithmetic.real(float(smallest)), 0.5),
        (infinity, beyond, 0),
        (infinity, beyond * beyond, 0),
        (largest, beyond * beyond, 1),
        (infinity, arithmetic.real(float(largest)), 1),
        (-infinity, beyond, 2.0**format.precision * 2),
        (dtype.type(np.nan), nan, 0),
        (dtype.type(np.nan), beyond, np.inf),
        (one, nan, np.inf),
    ]
    for actual, exact, errors in cases:
        error = ulp_errors(np.array(actual, dtype), np.asarray(exact, arithmetic.dtype), arithmetic=arithmetic)
        assert error == errors, (actual, exact, error)
