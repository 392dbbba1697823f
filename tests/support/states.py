# SPDX-License-Identifier: BSD-3-Clause
"""States by their definition: the bytes of exact sums, written with Python's integers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np

from support import oracle

SIZE = 2784
SUM_SIZE = 544
UNIT = 2176  # sums count multiples of 2**-UNIT
DTYPES = {"float16": 1, "bfloat16": 2, "float32": 4, "float64": 8}
FIELDS = {  # offset and format, little-endian
    "magic": (0, "8s"),
    "version": (8, "H"),
    "function": (10, "B"),
    "has_weights": (11, "B"),
    "dtypes": (12, "B"),
    "weighted": (13, "B"),
    "specials": (14, "H"),
    "label_smoothing": (16, "d"),
    "weights": (24, "Q"),
    "weight_digest": (32, "Q"),
    "count": (40, "Q"),
    "ignored": (48, "Q"),
    "checksum": (2776, "Q"),
}
SUMS = ["loss", "weight", "square", "cross", "weight_square"]
MASK = 2**64 - 1


# ---- XXH64


PRIMES = [
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
]


def rotated(value: int, places: int) -> int:
    return (value << places | value >> (64 - places)) & MASK


def mixed(lane: int, word: int) -> int:
    return rotated((lane + word * PRIMES[1]) & MASK, 31) * PRIMES[0] & MASK


def xxh64(data: bytes) -> int:
    """The hash of any bytes with seed 0."""
    stripes = len(data) // 32
    words = struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])
    value = PRIMES[4]
    if stripes:
        lanes = [(PRIMES[0] + PRIMES[1]) & MASK, PRIMES[1], 0, -PRIMES[0] & MASK]
        for i in range(4 * stripes):
            lanes[i % 4] = mixed(lanes[i % 4], words[i])
        value = sum(map(rotated, lanes, (1, 7, 12, 18))) & MASK
        for lane in lanes:
            value = ((value ^ mixed(0, lane)) * PRIMES[0] + PRIMES[3]) & MASK
    value = (value + len(data)) & MASK
    for word in words[4 * stripes :]:
        value = (rotated(value ^ mixed(0, word), 27) * PRIMES[0] + PRIMES[3]) & MASK
    rest = data[len(words) * 8 :]
    if len(rest) >= 4:
        value = (rotated(value ^ int.from_bytes(rest[:4], "little") * PRIMES[0] & MASK, 23)) * PRIMES[1]
        value = (value + PRIMES[2]) & MASK
        rest = rest[4:]
    for byte in rest:
        value = rotated(value ^ byte * PRIMES[4] & MASK, 11) * PRIMES[0] & MASK
    value = (value ^ value >> 33) * PRIMES[1] & MASK
    value = (value ^ value >> 29) * PRIMES[2] & MASK
    return value ^ value >> 32


# ---- bytes


def field(state: Any, name: str) -> Any:
    offset, format = FIELDS[name]
    return struct.unpack_from(f"<{format}", bytes(state), offset)[0]


def exact_sum(state: Any, name: str) -> Fraction:
    """One of the sums, in which no special is."""
    first = 56 + SUM_SIZE * SUMS.index(name)
    return Fraction(int.from_bytes(bytes(state)[first : first + SUM_SIZE], "little", signed=True), 1 << UNIT)


def sealed(state: Any) -> bytes:
    """The bytes with a checksum that fits."""
    return bytes(state)[:-8] + struct.pack("<Q", xxh64(bytes(state)[:-8]))


def changed(state: Any, **fields: Any) -> bytes:
    """The bytes with other fields or sums (as Fractions), and a checksum that fits."""
    data = bytearray(state)
    for name, value in fields.items():
        if name in SUMS:
            first, units = 56 + SUM_SIZE * SUMS.index(name), value * (1 << UNIT)
            assert units.denominator == 1
            data[first : first + SUM_SIZE] = int(units).to_bytes(SUM_SIZE, "little", signed=True)
        else:
            offset, format = FIELDS[name]
            struct.pack_into(f"<{format}", data, offset, value)
    return sealed(data)


def digest(weight: Any) -> int:
    """Of class weights: NaN has one pattern, and zero no sign."""
    doubles = np.asarray(weight).astype("<f8") + 0.0
    return xxh64(np.where(np.isnan(doubles), np.array(0x7FF8 << 48, "<u8").view("<f8"), doubles).tobytes())


def fractions_of(array: Any) -> list[Fraction | float]:
    """The elements of an array of floats, exactly; NaN and the infinities as they are."""
    return [oracle.as_exact(value) for value in oracle.decode(np.asarray(array))]


def state_of(
    loss: str,
    values: list[Any],
    weights: list[Any] | None,
    losses: Any,
    *,
    dtype: Any,
    ignored: int = 0,
    label_smoothing: float = 0.0,
    class_weights: Any = None,
) -> bytes:
    """The state of kept samples.

    Parameters are the exact losses without their weights, the weights or None, and the weighted losses in float64.
    """
    count = len(values)
    ones = [Fraction(1)] * count if weights is None else weights
    rounded = fractions_of(losses)
    products: dict[str, Callable[[int], list[Any]]] = {
        "loss": lambda i: [values[i], ones[i]],
        "weight": lambda i: [ones[i]],
        "square": lambda i: [rounded[i], rounded[i]],
        "cross": lambda i: [rounded[i], ones[i]],
        "weight_square": lambda i: [ones[i], ones[i]],
    }
    specials, sums = 0, {}
    for place, name in enumerate(SUMS):
        total = Fraction(0)
        for i in range(count):
            factors = products[name](i)
            if all(isinstance(factor, Fraction) for factor in factors):
                total += math.prod(factors)
                continue
            special = math.prod(oracle.sign(factor) for factor in factors)
            bit = 0 if math.isnan(special) else 1 if special > 0 else 2
            specials |= 1 << (3 * place + bit)
        sums[name] = total
    return changed(
        bytes(SIZE),
        magic=b"\x89nll\r\n\x1a\n",
        version=1,
        function=int(loss == "cross_entropy"),
        has_weights=int(class_weights is not None),
        dtypes=DTYPES[np.dtype(dtype).name],
        weighted=int(weights is not None),
        specials=specials,
        label_smoothing=label_smoothing,
        weights=0 if class_weights is None else len(class_weights),
        weight_digest=0 if class_weights is None else digest(class_weights),
        count=count,
        ignored=ignored,
        **sums,
    )


# ---- the standard error


def standard_error(losses: Any, weights: Any = None, exact_losses: Any = None) -> mpmath.mpf:
    """Of the ratio of the sums of weighted losses and weights, each a list of Fractions, to 200 bits.

    The mean is that of the losses before they are rounded, where these are given.
    """
    count = len(losses)
    weights = [Fraction(1)] * count if weights is None else weights
    mean = sum(exact_losses or losses) / sum(weights)
    square = sum((loss - mean * weight) ** 2 for loss, weight in zip(losses, weights, strict=True))
    square *= Fraction(count, count - 1) / sum(weights) ** 2
    with mpmath.workprec(200):
        return mpmath.sqrt(mpmath.mpf(square.numerator) / square.denominator)
