# SPDX-License-Identifier: BSD-3-Clause
"""The losses by their definition, in exact arithmetic: what every result of nll is compared with, bit for bit.

Every finite number of the four floating-point formats is an integer multiple of 2**-1074. So numbers are read from
their bits as Python integers in that unit (`decode`), added and multiplied without any error, and rounded once, by
integer arithmetic, to the bits of a format (`encode`). NaN and the infinities, which have no exact value, stay Python
floats.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

UNIT = 1 << 1074  # decoded integers count multiples of 1 / UNIT

Decoded = int | float  # an integer in units of 1 / UNIT; a float only for NaN and the infinities
Exact = Fraction | float  # likewise


@dataclass(frozen=True)
class Format:
    """A binary floating-point format of IEEE 754's kind."""

    dtype: np.dtype[Any]
    precision: int  # significant bits, the hidden one included
    max_exponent: int  # finite numbers are below 2**(max_exponent + 1)

    @functools.cached_property
    def bits_dtype(self) -> np.dtype[Any]:
        return np.dtype(f"u{self.dtype.itemsize}")

    @functools.cached_property
    def sign_bit(self) -> int:
        return 1 << (8 * self.dtype.itemsize - 1)

    @functools.cached_property
    def infinity(self) -> int:
        return (2 * self.max_exponent + 1) << (self.precision - 1)

    @functools.cached_property
    def nan(self) -> int:
        return self.infinity | 1 << (self.precision - 2)

    @functools.cached_property
    def lowest_place(self) -> int:
        """The exponent of the smallest subnormal."""
        return 2 - self.max_exponent - self.precision


FORMATS = {
    format.dtype: format
    for format in (
        Format(np.dtype(np.float16), 11, 15),
        Format(np.dtype(ml_dtypes.bfloat16), 8, 127),
        Format(np.dtype(np.float32), 24, 127),
        Format(np.dtype(np.float64), 53, 1023),
    )
}
FLOAT64 = FORMATS[np.dtype(np.float64)]


# ---- numbers


def decode_bits(bits: int, format: Format) -> Decoded:
    field, fraction = divmod(bits & (format.sign_bit - 1), 1 << (format.precision - 1))
    sign = -1 if bits & format.sign_bit else 1
    if field == 2 * format.max_exponent + 1:
        return math.nan if fraction else sign * math.inf
    if field > 0:
        fraction |= 1 << (format.precision - 1)
    return sign * fraction << (max(field, 1) - 1 + format.lowest_place + 1074)


def as_native(array: Any) -> np.ndarray:
    """The array in the machine's byte order, as every result of nll is."""
    array = np.asarray(array)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def decode(array: np.ndarray) -> list[Decoded]:
    """The elements of an array of floats or integers in C order."""
    if array.dtype.kind in "iu":
        return [value * UNIT for value in array.ravel().tolist()]
    native = as_native(array)
    format = FORMATS[native.dtype]
    return [decode_bits(bits, format) for bits in native.view(format.bits_dtype).ravel().tolist()]


@functools.lru_cache(maxsize=1 << 16)  # the gradients of many samples are the same number
def encode(value: Exact, format: Format) -> int:
    """The bits of the number of the format that is nearest to value; of two, the one whose last bit is 0. 0 is +0."""
    if isinstance(value, float) and math.isnan(value):
        return format.nan
    sign = format.sign_bit if value < 0 else 0
    if isinstance(value, float) and math.isinf(value):
        return format.infinity | sign
    numerator, denominator = abs(value).as_integer_ratio()
    if numerator == 0:
        return 0
    exponent = numerator.bit_length() - denominator.bit_length()
    if numerator << max(-exponent, 0) < denominator << max(exponent, 0):
        exponent -= 1  # now 2**exponent <= magnitude < 2**(exponent + 1)
    place = max(exponent - (format.precision - 1), format.lowest_place)
    unit = denominator << max(place, 0)  # so that digits count multiples of 2**place
    digits, rest = divmod(numerator << max(-place, 0), unit)
    if 2 * rest > unit or (2 * rest == unit and digits % 2 == 1):
        digits += 1
    # The hidden bit, and a carry out of the digits, count up the exponent field by themselves.
    bits = ((place - format.lowest_place) << (format.precision - 1)) + digits
    return min(bits, format.infinity) | sign


def as_exact(value: Decoded, unit: int = UNIT) -> Exact:
    return Fraction(value, unit) if isinstance(value, int) else value


def as_float(value: Decoded) -> float:
    """The double that a decoded number is (every number of the four formats is one)."""
    return value / UNIT if isinstance(value, int) else value


def sign(value: Decoded | Exact) -> float:
    """-1, 0, 1, or the special itself: enough to find which special an operation with a special gives."""
    return value if isinstance(value, float) else float((value > 0) - (value < 0))


def product(a: Decoded, b: Decoded) -> Decoded:
    """In units of 1 / UNIT**2."""
    return a * b if isinstance(a, int) and isinstance(b, int) else sign(a) * sign(b)


def total(terms: Iterable[Decoded]) -> Decoded:
    terms = list(terms)
    specials = [term for term in terms if isinstance(term, float)]
    return sum(specials) if specials else sum(terms)


def ieee_quotient(a: float, b: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


def quotient(a: Exact, b: Exact) -> Exact:
    """Exact where both are numbers and b is not 0; IEEE 754's special value otherwise."""
    if isinstance(a, Fraction) and isinstance(b, Fraction) and b != 0:
        return a / b
    return ieee_quotient(sign(a), sign(b))


# ---- arrays


def from_bits(bits: Any, dtype: np.dtype[Any]) -> np.ndarray:
    return np.array(bits, FORMATS[dtype].bits_dtype).view(dtype)


def bits_of(array: Any) -> np.ndarray:
    """The bits of the elements as unsigned integers, with one pattern for every NaN."""
    array = np.array(array)
    format = FORMATS[array.dtype]
    bits = array.view(format.bits_dtype)
    return np.where(np.isnan(array), format.bits_dtype.type(format.nan), bits)


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Same dtype, shape and bits: +0 is not -0, and no unit in the last place is forgiven. NaN is NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    differs = np.argwhere(bits_of(actual) != bits_of(expected))
    if len(differs):
        first = tuple(differs[0])
        raise AssertionError(
            f"{len(differs)} of {actual.size} differ, first at {first}: {actual[first]!r} "
            f"({bits_of(actual)[first]:#x}) should be {expected[first]!r} ({bits_of(expected)[first]:#x})"
        )


# ---- negative log likelihood


class Samples(NamedTuple):
    """The samples that are not ignored."""

    positions: list[int]  # in the flattened target
    classes: list[int]
    values: list[Decoded]  # input at the target
    weights: list[Decoded]  # in units of 1 / UNIT


class Loss(NamedTuple):
    loss: np.ndarray
    total_weight: np.ndarray


def kept_samples(
    input: np.ndarray,
    target: Any,
    weight: Any,
    sample_weight: Any,
    ignore_index: int | None,
    axis: int,
    index_base: int,
) -> Samples:
    rows = np.moveaxis(input, 0 if input.ndim == 1 else axis, -1)
    class_count = rows.shape[-1]
    labels = np.asarray(target).ravel().tolist()
    positions = [position for position, label in enumerate(labels) if label != ignore_index]
    classes = [labels[position] - index_base for position in positions]
    assert all(0 <= c < class_count for c in classes), "the oracle is asked for legal targets only"
    rows = rows.reshape(len(labels), class_count)
    values = decode(rows[np.array(positions, np.intp), np.array(classes, np.intp)])
    class_weights = [UNIT] * class_count if weight is None else decode(np.asarray(weight))
    weights = [class_weights[c] for c in classes]
    if sample_weight is not None:
        own = np.broadcast_to(np.asarray(sample_weight), np.shape(target)).astype(np.float64).ravel()
        with np.errstate(all="ignore"):  # each product is rounded once
            products = [np.float64(as_float(w)) * own[position] for w, position in zip(weights, positions, strict=True)]
        weights = decode(np.array(products, np.float64))
    return Samples(positions, classes, values, weights)


def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
    dtype: Any = None,
) -> Loss:
    """-w * input[t] of each sample, or the exact sum or weighted mean, rounded once; and the sum of w.

    w is weight[t] * sample_weight, rounded to double.
    """
    input = as_native(input)
    dtype = np.dtype(dtype or input.dtype)
    samples = kept_samples(input, target, weight, sample_weight, ignore_index, axis, index_base)
    total_weight = as_exact(total(samples.weights))
    if reduction == "none":
        bits = [0] * np.asarray(target).size
        for position, value, w in zip(samples.positions, samples.values, samples.weights, strict=True):
            bits[position] = encode(-(as_float(w) * as_float(value)), FORMATS[dtype])  # the product in double
        loss = from_bits(bits, dtype).reshape(np.shape(target))
    else:
        terms = (product(-value, w) for value, w in zip(samples.values, samples.weights, strict=True))
        exact = as_exact(total(terms), UNIT * UNIT)
        if reduction == "mean":
            exact = Fraction(0) if empty == "zero" and total_weight == 0 else quotient(exact, total_weight)
        loss = from_bits(encode(exact, FORMATS[dtype]), dtype)
    return Loss(loss, from_bits(encode(total_weight, FLOAT64), FLOAT64.dtype))


def nll_loss_backward(
    grad_output: Any,
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
) -> np.ndarray:
    """-(w * g) / total weight at the target, operation by operation in double, rounded once; +0 elsewhere."""
    input = as_native(input)
    format = FORMATS[input.dtype]
    samples = kept_samples(input, target, weight, sample_weight, ignore_index, axis, index_base)
    exact_weight = as_exact(total(samples.weights))
    total_weight = float(from_bits(encode(exact_weight, FLOAT64), FLOAT64.dtype))
    class_count = input.shape[0 if input.ndim == 1 else axis]
    grads = [as_float(g) for g in decode(np.asarray(grad_output))] if reduction == "none" else []
    rows = np.zeros((np.asarray(target).size, class_count), format.bits_dtype)
    for position, c, w in zip(samples.positions, samples.classes, samples.weights, strict=True):
        value = -(as_float(w) * (grads[position] if reduction == "none" else float(grad_output)))
        if reduction == "mean":
            value = 0.0 if empty == "zero" and total_weight == 0 else ieee_quotient(value, total_weight)
        rows[position, c] = encode(value, format)
    if input.ndim == 1:
        return rows.reshape(input.shape).view(input.dtype)
    rows = rows.reshape(*np.shape(target), class_count).view(input.dtype)
    return np.moveaxis(rows, -1, axis)
