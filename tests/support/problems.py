# SPDX-License-Identifier: BSD-3-Clause
"""Random problems: legal arguments of the losses, of every dtype, shape, layout and choice, drawn from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from support import layouts
from support.constants import BLOCK_SIZE, CHUNK_SIZE, MAX_SEQUENTIAL_CLASSES, MIN_PARALLEL_SAMPLES, around
from support.samples import FLOAT_DTYPES, INTEGER_DTYPES, REDUCTIONS, random_input, random_logits, random_weight

Rng = np.random.Generator

MOST_ELEMENTS = 4000  # of an input, but for those that threads share
SPECIALS = [np.nan, np.inf, -np.inf, 0.0, -0.0]
VALUES = ["normal", "normal", "confident", "ties", "exponents", "bits", "masked", "specials"]
IGNORED = ["-100", "-100", "unsigned", "in-range", "none", "largest"]


@dataclass(frozen=True)
class Problem:
    """What the losses take, but for `out`: legal, each by itself and all together."""

    input: Any
    target: Any
    weight: Any
    sample_weight: Any
    grad_output: Any
    dtype: Any
    ignore_index: int | None
    reduction: str
    axis: int
    index_base: int
    empty: str
    label_smoothing: float

    @property
    def choices(self) -> dict[str, Any]:
        """The keywords of every function of the losses."""
        names = "sample_weight", "ignore_index", "reduction", "axis", "index_base", "empty"
        return {name: getattr(self, name) for name in names}

    @property
    def class_count(self) -> int:
        shape = np.shape(self.input)
        return shape[0 if len(shape) == 1 else self.axis]

    @property
    def kept(self) -> np.ndarray:
        """Of target's shape: which samples are not ignored."""
        labels = np.asarray(self.target)
        kept = np.array([label != self.ignore_index for label in labels.ravel().tolist()], bool)
        return kept.reshape(labels.shape)

    def __str__(self) -> str:
        """Tell everything but the numbers."""
        told = []
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray) and value.size > 1:
                value = f"<{value.dtype.str if value.dtype.kind != 'V' else value.dtype} {value.shape} {value.strides}>"
            told.append(f"{name}={value!s}")
        return ", ".join(told)


# ---- shapes and numbers


def one_of(rng: Rng, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def random_shape(rng: Rng) -> tuple[tuple[int, ...], int]:
    """The shape of an input, and its class axis as it is passed."""
    kind = rng.random()
    if kind < 0.002:  # what threads share
        shape = [one_of(rng, *around(MIN_PARALLEL_SAMPLES)), int(rng.integers(1, 4))]
        return tuple(shape), one_of(rng, 1, -1)
    if kind < 0.02:
        return (int(rng.integers(1, 3)), one_of(rng, *around(CHUNK_SIZE))), 1
    if kind < 0.05:
        return (one_of(rng, *around(BLOCK_SIZE)), int(rng.integers(1, 5))), 1
    rank = one_of(rng, 1, 2, 2, 2, 2, 3, 3, 3, 4, 5)
    axis = int(rng.integers(rank)) if rng.random() < 0.3 else min(1, rank - 1)
    small = 8 if rank < 4 else 4
    shape = [int(rng.integers(1, small)) for _ in range(rank)]
    if rng.random() < 0.08:
        shape[rng.integers(rank)] = 0
    elif rng.random() < 0.2:
        shape[axis] = one_of(rng, 1, 33, *around(MAX_SEQUENTIAL_CLASSES))
    elif rng.random() < 0.2:
        shape[rng.integers(rank)] = int(rng.integers(1, 70))
    while math.prod(shape) > MOST_ELEMENTS:
        shape[int(np.argmax(shape))] //= 2
    if rank == 1:
        return tuple(shape), one_of(rng, 1, 0, -1)
    return tuple(shape), axis - rank if rng.random() < 0.3 else axis


def random_bits(rng: Rng, shape: Any, dtype: np.dtype[Any]) -> np.ndarray:
    return rng.integers(0, 256, (*shape, dtype.itemsize), np.uint8).view(dtype)[..., 0]


def random_values(rng: Rng, shape: tuple[int, ...], dtype: np.dtype[Any], kind: str) -> np.ndarray:
    """Logits, or log-probabilities, of a kind."""
    values = random_logits(rng, shape, np.float64, one_of(rng, 0.01, 1.0, 3.0, 3.0, 20.0))
    limits = ml_dtypes.finfo(dtype)
    match kind:
        case "confident":
            values = np.where(rng.random(shape) < 0.2, values + rng.uniform(20, 60), values)
        case "ties":
            values = np.round(values)
        case "exponents":
            lowest, most = (-20, 15) if dtype == np.float16 else (-120, 120)
            low = int(rng.integers(lowest, most - 6))
            values = random_input(rng, shape, np.float64, (low, min(low + int(rng.integers(2, 60)), most)))
        case "bits":
            return random_bits(rng, shape, dtype)
        case "masked":
            values = np.where(rng.random(shape) < 0.15, one_of(rng, -np.inf, float(limits.min)), values)
        case "specials":
            extremes = [*SPECIALS, float(limits.max), float(limits.smallest_subnormal)]
            values = np.where(rng.random(shape) < 0.1, rng.choice(extremes, shape), values)
    with np.errstate(all="ignore"):
        return values.astype(dtype)


# ---- labels


def random_labels(rng: Rng, shape: tuple[int, ...], class_count: int) -> tuple[np.ndarray, int, int | None]:
    """Labels, of which some may be ignored, in an integer dtype that has them; index_base, ignore_index."""
    dtype = one_of(rng, np.dtype(np.int64), *INTEGER_DTYPES)
    limits = np.iinfo(dtype)
    base = int(one_of(rng, 0, 0, 0, 1, int(rng.integers(-9, 10))))
    if rng.random() < 0.03:
        base = one_of(rng, 2**63 - class_count, -(2**63))
    if not limits.min <= base <= base + class_count - 1 <= limits.max:
        base = max(base, 0) if base < 2**62 else 0
        dtype = dtype if base + class_count - 1 <= limits.max else np.dtype(np.int64)
        limits = np.iinfo(dtype)
    ignore_index = {
        "-100": -100,
        "unsigned": 255,
        "in-range": base + int(rng.integers(max(class_count, 1))),
        "none": None,
        "largest": one_of(rng, int(limits.max), int(limits.min), 2**64 - 1, -(2**63)),
    }[one_of(rng, *IGNORED)]
    labels = np.array([base + int(c) for c in rng.integers(0, max(class_count, 1), math.prod(shape))], dtype)
    if class_count == 0:
        ignore_index = base
    can_be_ignored = ignore_index is not None and limits.min <= ignore_index <= limits.max
    if can_be_ignored:
        share = one_of(rng, 0, 0.25, 0.25, 0.9, 1)
        labels[rng.random(labels.shape) < (1 if class_count == 0 else share)] = ignore_index
    return labels.reshape(shape), base, ignore_index


# ---- weights


def random_class_weight(rng: Rng, class_count: int, label_smoothing: float, anything: bool) -> np.ndarray | None:
    """Of either sign, zeros among them; NaN and infinities where anything is allowed.

    Positive where losses are smoothed: terms of classes without a weight would leave no unit in the last place.
    """
    kind = one_of(rng, "none", "none", "none", "random", "random", "random", "zeros", "magnitude", "anything")
    if kind == "none" or (class_count == 0 and kind != "zeros"):
        return None
    dtype = one_of(rng, *FLOAT_DTYPES, *INTEGER_DTYPES)
    if kind == "zeros":
        return np.zeros(class_count, dtype)
    weight = random_weight(rng, class_count, dtype)
    assert weight is not None
    if kind == "magnitude":
        weight = np.ldexp(rng.uniform(1, 2, class_count), int(rng.integers(-100, 100)))
    if kind == "anything" and anything:
        weight = np.where(rng.random(class_count) < 0.3, rng.choice(SPECIALS, class_count), weight.astype(np.float64))
    return np.where(weight == 0, weight.dtype.type(1), abs(weight)) if label_smoothing else weight


def random_sample_weight(rng: Rng, shape: tuple[int, ...], *, positive: bool, anything: bool) -> np.ndarray | None:
    """Of a shape that broadcasts to target's."""
    kind = one_of(rng, "none", "none", "none", "random", "mask", "magnitude", "anything")
    if kind == "none":
        return None
    shape = tuple(1 if rng.random() < 0.2 else extent for extent in shape)[int(rng.integers(len(shape) + 1)) :]
    if kind == "mask":
        return rng.integers(0, 2, shape).astype(one_of(rng, *INTEGER_DTYPES, *FLOAT_DTYPES))
    if kind == "magnitude":
        return np.ldexp(rng.uniform(1, 2, shape), int(rng.integers(-100, 100)))
    weight = np.asarray(rng.uniform(0 if positive else -0.5, 3, shape))
    if kind == "anything" and anything:
        weight = np.where(rng.random(shape) < 0.3, rng.choice(SPECIALS, shape), weight)
    return weight.astype(one_of(rng, *FLOAT_DTYPES))


def random_grad(rng: Rng, shape: tuple[int, ...], reduction: str) -> Any:
    """A number, as Python or NumPy has it; numbers of any float dtype where each sample has one."""
    if reduction == "none":
        with np.errstate(over="ignore"):
            return np.asarray(rng.normal(size=shape)).astype(one_of(rng, *FLOAT_DTYPES))
    number = float(rng.normal())
    return one_of(rng, 1.0, 1, number, np.float32(number), np.array(number), 0.0, number * 2.0**20)


# ---- layouts


def restrided(rng: Rng, array: np.ndarray) -> np.ndarray:
    """The same numbers in a window of another array, its axes in any order, steps of either sign."""
    order = rng.permutation(array.ndim)
    steps = rng.choice([1, 1, 2, 3], array.ndim)
    margins = rng.integers(0, 2, array.ndim)
    extents = np.array(array.shape, int) * steps + margins
    frame = np.full(extents[order], 77, array.dtype).transpose(np.argsort(order))
    window = frame[..., *(slice(0, n * step, step) for n, step in zip(array.shape, steps, strict=True))]
    window = window[..., *(slice(None, None, one_of(rng, 1, 1, -1)) for _ in array.shape)]
    window[...] = array
    return window


def repeated(rng: Rng, array: np.ndarray) -> np.ndarray:
    """Numbers that repeat along some of the axes, with strides of 0."""
    along = [rng.random() < 0.5 for _ in array.shape]
    first = array[tuple(slice(0, 1) if is_repeated else slice(None) for is_repeated in along)]
    return np.broadcast_to(first, array.shape)


def laid_out(rng: Rng, array: np.ndarray | None, *, repeats: bool = False, own_memory: bool = False) -> Any:
    """The array in another layout, or as another kind of object. Own memory: a native array that can be written.

    Its numbers may repeat some of the array's where that is asked for.
    """
    if array is None:
        return None
    kind, array = rng.random(), array.copy()
    if kind < 0.3 or array.ndim == 0:
        return array
    if kind < 0.55:
        return restrided(rng, array)
    if kind < 0.65 and array.ndim >= 2 and array.size:
        return one_of(rng, *layouts.OWN_MEMORY)(array)
    if own_memory:
        return np.asfortranarray(array)
    if kind < 0.75 and repeats and array.size:
        return repeated(rng, array)
    if kind < 0.8:
        array.flags.writeable = False
        return array
    if kind < 0.86:
        return layouts.unaligned(array)
    if kind < 0.92 and array.dtype.kind != "V":
        return layouts.byte_swapped(array)
    if kind < 0.95:
        return array.view(layouts.Subclass)
    if kind < 0.97 and array.dtype == np.float64 and array.size:
        return array.tolist()
    return np.asfortranarray(array)


# ---- problems


def random_problem(rng: Rng, *, cross_entropy: bool, plain: bool = False) -> Problem:
    """Draws a problem of one of the losses.

    A plain one has no weights of samples and no infinite weights; nor, beside label smoothing, numbers so near to
    float64's largest that sums in double overflow.
    """
    shape, axis = random_shape(rng)
    class_axis = 0 if len(shape) == 1 else axis
    target_shape = tuple(np.delete(shape, class_axis).tolist())
    class_count = shape[class_axis]
    dtype = one_of(rng, *FLOAT_DTYPES)
    label_smoothing = float(one_of(rng, 0, 0, 0.1, float(rng.random()), 1.0)) if cross_entropy else 0.0
    values = random_values(rng, shape, dtype, one_of(rng, *VALUES))
    if plain and label_smoothing and dtype == np.float64:
        values = np.where(np.abs(values) >= 2.0**960, np.copysign(np.inf, values), values)
    labels, index_base, ignore_index = random_labels(rng, target_shape, class_count)
    anything = not cross_entropy and not plain
    weight = random_class_weight(rng, class_count, label_smoothing, anything)
    own = None
    if not plain:
        own = random_sample_weight(rng, target_shape, positive=label_smoothing > 0, anything=anything)
    reduction = one_of(rng, *REDUCTIONS)
    problem = Problem(
        input=laid_out(rng, values, repeats=True),
        target=laid_out(rng, labels, repeats=True),
        weight=laid_out(rng, weight, repeats=True),
        sample_weight=laid_out(rng, own, repeats=True),
        grad_output=random_grad(rng, target_shape, reduction),
        dtype=None if rng.random() < 0.6 else one_of(rng, *FLOAT_DTYPES),
        ignore_index=ignore_index,
        reduction=reduction,
        axis=axis,
        index_base=index_base,
        empty=one_of(rng, "nan", "nan", "zero", "raise"),
        label_smoothing=label_smoothing,
    )
    if reduction == "none":
        return replace(problem, grad_output=laid_out(rng, problem.grad_output, repeats=True))
    return problem
