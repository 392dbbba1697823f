# SPDX-License-Identifier: BSD-3-Clause
"""What is counted about a block's predictions besides losses: which class is on top, and how sure.

All of it is integers, so that sums are the same in any order.
"""

from dataclasses import dataclass, field

import numpy as np

from .._typing import Array

TOP = 5  # classes among which the target counts as found
BINS = 15  # of confidences, of equal width, as Guo et al. 2017 have them
UNIT = 2**40  # confidences are added up as multiples of 1 / UNIT
EDGES = 2.0 ** (np.arange(-20 * 4, 7 * 4 + 1) / 4)  # of the histogram of losses, in nats
ROW_BY_ROW = 128  # classes from which on each row is worth calls of its own


@dataclass
class Calibration:
    """Counts of samples by the confidence in their top class, in bins of equal width."""

    count: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    correct: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)  # sums, in 1 / UNIT

    def add(self, other: "Calibration") -> None:
        self.count = self.count + other.count
        self.correct = self.correct + other.correct
        self.confidence = [a + b for a, b in zip(self.confidence, other.confidence, strict=True)]

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of accuracy and confidence."""
        total = int(self.count.sum())
        pairs = zip(self.correct.tolist(), self.confidence, strict=True)
        distance = sum(abs(correct * UNIT - confidence) for correct, confidence in pairs)
        return distance / (total * UNIT) if total else float("nan")


def calibrated(confidence: Array, correct: Array) -> Calibration:
    """Count samples by their confidence. confidence, correct: (n,), numbers in [0, 1] and bools."""
    index = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    units = np.rint(confidence * UNIT).astype(np.int64)
    # Sums of doubles that are integers below 2^53 are exact.
    high = np.bincount(index, units >> 20, BINS)
    low = np.bincount(index, units & (2**20 - 1), BINS)
    return Calibration(
        np.bincount(index, minlength=BINS),
        np.bincount(index[correct], minlength=BINS),
        [(int(more) << 20) + int(less) for more, less in zip(high, low, strict=True)],
    )


def histogram(losses: Array) -> Array:
    """Count losses below EDGES[0], between the edges, and from the last one on. losses: (n,)."""
    index = np.searchsorted(EDGES, losses, side="right")
    return np.bincount(index, minlength=len(EDGES) + 1)


def comparable(input: Array) -> Array:
    """Convert halves to single precision, which processors compare faster."""
    return input.astype(np.float32) if input.dtype.itemsize == 2 else input


def largest(input: Array, axis: int) -> Array:
    """Return the largest number of each sample."""
    return np.asarray(input.max(axis))


def is_top(input: Array, target: Array, equal: Array, axis: int) -> Array:
    """Tell whether targets are the first of the largest classes.

    equal: where the target is as large as the largest class; the others are left out.
    """
    found = equal.copy()
    rows = np.moveaxis(input, axis, -1)
    classes = target[equal]
    if rows.shape[-1] >= ROW_BY_ROW:
        pairs = zip(zip(*np.nonzero(equal), strict=True), classes.tolist(), strict=True)
        found[equal] = [not (rows[at][:label] == rows[at][label]).any() for at, label in pairs]
    else:
        found[equal] = rows[equal].argmax(-1) == classes
    return found


def top_class(input: Array, axis: int) -> Array:
    """Return the first of the largest classes of each sample."""
    classes = input.shape[axis]
    if axis == input.ndim - 1 or classes > ROW_BY_ROW:
        return np.asarray(input.argmax(axis))
    rows = np.moveaxis(input, axis, 0)
    best, found = rows[0], np.zeros(rows.shape[1:], np.int64)
    for index in range(1, classes):
        larger = rows[index] > best
        np.copyto(found, index, where=larger)
        best = np.maximum(best, rows[index])
    return found


def of_class(input: Array, classes: Array, axis: int) -> Array:
    """Return the number of one class of each sample."""
    return np.take_along_axis(input, np.expand_dims(classes, axis), axis).squeeze(axis)


def in_top(input: Array, target: Array, missed: Array, axis: int) -> Array:
    """Tell which targets are among the TOP largest classes; of equal ones the first are larger.

    target: classes, of input's shape without axis. missed: where the largest class is another one.
    """
    found = ~missed
    rows = np.moveaxis(input, axis, -1)
    classes = target[missed]
    if rows.shape[-1] >= ROW_BY_ROW:
        positions = zip(*np.nonzero(missed), strict=True)
        ahead = [
            count_ahead(rows[position], int(label))
            for position, label in zip(
                positions,
                classes,
                strict=True,
            )
        ]
        found[missed] = np.array(ahead, np.int64) < TOP
    else:
        columns = rows[missed].T  # (C, m)
        pivot = columns[classes, np.arange(len(classes))]
        behind = np.zeros(len(classes), np.int64)
        for index, column in enumerate(columns):
            behind += (column > pivot) | ((column == pivot) & (index < classes))
        found[missed] = behind < TOP
    return found


def count_ahead(row: Array, target: int) -> int:
    """Count the classes that are larger than the target, or equal and before it. row: (C,)."""
    ahead = int(np.count_nonzero(row > row[target]))
    return ahead if ahead >= TOP else ahead + int(np.count_nonzero(row[:target] == row[target]))
