# SPDX-License-Identifier: BSD-3-Clause
"""The oracle itself: its rounding against NumPy, its sums against math.fsum, its losses by hand and by PyTorch."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from support import oracle
from support.oracle import FORMATS, assert_same_bits, bits_of, from_bits
from support.samples import FLOAT_DTYPES, random_input, random_target, random_weight


def random_finite(rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
    """2000 numbers over the whole range of the dtype, subnormals included, and the ends of the range."""
    format = FORMATS[dtype]
    bits = [*rng.integers(0, format.infinity, 2000).tolist(), 1, format.infinity - 1]
    return from_bits([b | format.sign_bit * (rng.random() < 0.5) for b in bits], dtype)


def test_decode_then_encode_gives_the_bits_back(dtype, rng):
    format = FORMATS[dtype]
    array = np.concatenate([random_finite(rng, dtype), np.array([0, np.nan, np.inf, -np.inf], dtype)])
    array = array[(array != 0) | ~np.signbit(array)]  # -0 is read as 0
    bits = [oracle.encode(oracle.as_exact(value), format) for value in oracle.decode(array)]
    assert_same_bits(from_bits(bits, dtype), array)


def test_decode_is_the_conversion_to_double(dtype, rng):
    array = random_finite(rng, dtype)
    np.testing.assert_array_equal([oracle.as_float(value) for value in oracle.decode(array)], array.astype(np.float64))


@pytest.mark.parametrize("to", FLOAT_DTYPES[:3], ids=str)
def test_encode_rounds_as_a_conversion_from_the_next_wider_format(to, rng):
    wider = np.float64 if to == np.float32 else np.float32  # from double, ml_dtypes rounds twice
    numbers = random_finite(rng, to)
    with np.errstate(over="ignore"):
        ties = (numbers.astype(wider) + np.nextafter(numbers, to.type(np.inf)).astype(wider)) / 2
        sources = np.concatenate([ties, np.nextafter(ties, 0), np.nextafter(ties, wider(np.inf))])
        sources = sources[sources != 0]
        expected = sources.astype(to)
    assert_same_bits(from_bits([oracle.encode(float(s), FORMATS[to]) for s in sources], to), expected)


def test_encode_rounds_to_double_as_division_of_integers_does(rng):
    for numerator, denominator in rng.integers(-(2**62), 2**62, (2000, 2)).tolist():
        exact = Fraction(numerator, denominator)
        assert oracle.encode(exact, oracle.FLOAT64) == bits_of(float(exact))


def test_sum_is_fsum(rng):
    input = random_input(rng, (3000, 1), np.float64, (-100, 100))
    expected = np.float64(-math.fsum(input[:, 0]))
    assert_same_bits(oracle.nll_loss(input, np.zeros(3000, int), reduction="sum").loss, expected)


def test_values_by_hand():
    input = np.array([[-1.0, -2, -3], [-4, -5, -6], [-7, -8, -9]], np.float32)
    target, weight = np.array([0, 1, 2]), np.array([1.0, 2, 5])
    assert oracle.nll_loss(input, target, weight, reduction="none").loss.tolist() == [1, 10, 45]
    assert oracle.nll_loss(input, target, weight, reduction="sum").loss == 56
    assert oracle.nll_loss(input, target, weight) == (7, 8)
    assert oracle.nll_loss(input, target, weight, ignore_index=2) == (np.float32(11 / 3), 3)
    assert oracle.nll_loss_backward(1.0, input, target, weight).tolist() == [
        [-0.125, 0, 0],
        [0, -0.25, 0],
        [0, 0, -0.625],
    ]


@pytest.mark.parametrize(("numerator", "expected"), [(0, np.nan), (1, np.inf), (-1, -np.inf)])
def test_division_by_a_zero_total_weight(numerator, expected):
    input, weight = np.array([[-1.0 * numerator, 0], [0, 0]]), np.array([1.0, -1])
    np.testing.assert_equal(oracle.nll_loss(input, np.array([0, 1]), weight), (expected, 0))
    assert oracle.nll_loss(input, np.array([0, 1]), weight, empty="zero") == (0, 0)


def test_agrees_with_pytorch_in_double(reduction, rng, torch):
    input = random_input(rng, (4, 5, 3, 2), np.float64, (-3, 3))
    target = random_target(rng, (4, 3, 2), 5, ignored=-100)
    weight = rng.uniform(0.5, 2, 5)
    leaf = torch.tensor(input, requires_grad=True)
    loss = torch.nn.functional.nll_loss(leaf, torch.tensor(target), torch.tensor(weight), reduction=reduction)
    grad_output = rng.normal(size=target.shape) if reduction == "none" else 0.7
    loss.backward(torch.tensor(grad_output, dtype=torch.float64))
    expected = oracle.nll_loss(input, target, weight, reduction=reduction).loss
    np.testing.assert_allclose(loss.detach(), expected, rtol=1e-14)
    gradient = oracle.nll_loss_backward(grad_output, input, target, weight, reduction=reduction)
    np.testing.assert_allclose(leaf.grad, gradient, rtol=1e-14)


def test_every_weight_dtype_is_read_exactly(weight_dtype, rng):
    weight = random_weight(rng, 4, weight_dtype)
    loss = oracle.nll_loss(-np.eye(4), np.arange(4), weight, reduction="none").loss
    np.testing.assert_array_equal(loss, np.ones(4) if weight is None else weight.astype(np.float64))
