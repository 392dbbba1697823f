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
SOME = 32  # classes from which on rows are worth more than columns
STRIP = 1 << 19  # numbers that are compared at a time, while a cache holds them
WORDS = 128  # of eight bools each, that are added up; 255 at most


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


def top_class(input: Array, axis: int) -> Array:
    """Return the first of the largest classes of each sample."""
    classes = input.shape[axis]
    if axis == input.ndim - 1 or classes > SOME:
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


def survey(
    input: Array,
    target: Array,
    kept: Array,
    axis: int,
) -> tuple[Array, Array, Array, Array]:
    """Tell how the target of each sample stands among its classes.

    Parameters
    ----------
    input : ndarray
        Predictions.
    target, kept : ndarray
        Classes, and which samples count, of input's shape without axis.
    axis : int
        The class axis.

    Returns
    -------
    chosen, largest : ndarray
        The target's number, and the largest one. Where it is not kept, the largest means nothing.
    first, inside : ndarray of bool
        Whether it is the largest, or among the TOP largest; of equal ones the first are larger.
    """
    chosen = of_class(input, target, axis)
    rows = np.moveaxis(input, axis, -1)
    classes = rows.shape[-1]
    side_by_side = axis == input.ndim - 1
    if side_by_side and classes >= SOME:
        largest, ahead, equal = compare_rows(rows, chosen)
    else:
        columns = np.moveaxis(input, axis, 0)
        if side_by_side:  # one after the other they are read many times faster
            columns = np.ascontiguousarray(columns)
        largest, ahead, equal = compare_columns(columns, chosen)
    tied = np.nonzero((ahead < TOP) & (equal > 1))  # the target is one of them
    before = (rows[tied] == chosen[tied][:, None]) & (np.arange(classes) < target[tied][:, None])
    ahead[tied] += np.minimum(before.sum(1), TOP).astype(ahead.dtype)
    return chosen, largest, kept & (ahead == 0), kept & (ahead < TOP)


def compare_columns(columns: Array, pivot: Array) -> tuple[Array, Array, Array]:
    """Find the largest class, and how many are larger than the pivot, and equal to it.

    columns: (C, ...). pivot, and what is returned: (...).
    """
    dtype = np.uint8 if len(columns) < 256 else np.int64
    ahead: Array = np.zeros(pivot.shape, dtype)
    equal: Array = np.zeros(pivot.shape, dtype)
    largest = pivot.copy()
    for column in columns:
        ahead += column > pivot
        equal += column == pivot
        np.maximum(largest, column, out=largest)
    return largest, ahead, equal


def compare_rows(rows: Array, pivot: Array) -> tuple[Array, Array, Array]:
    """Find the same as `compare_columns`, but count no equal ones where TOP classes are larger.

    rows: (..., C). pivot, and what is returned: (...).
    """
    classes = rows.shape[-1]
    flat, pivots = rows.reshape(-1, classes), pivot.reshape(-1, 1)
    largest = np.empty_like(pivot)
    ahead, equal = np.empty(pivot.shape, np.int64), np.ones(pivot.shape, np.int64)
    maxima, larger, same = largest.reshape(-1), ahead.reshape(-1), equal.reshape(-1)
    step = min(max(STRIP // classes, 1), max(len(flat), 1))
    words = min(WORDS, -(-classes // 8))
    found = np.zeros((step, -(-classes // (8 * words)), 8 * words), bool)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        flat[part].max(1, out=maxima[part])
        larger[part] = count_true(np.greater, flat[part], pivots[part], found)
        near = np.flatnonzero(larger[part] < TOP)
        if 2 * len(near) > step:  # then all are faster than a copy of most
            same[part] = count_true(np.equal, flat[part], pivots[part], found)
        elif len(near):
            near += start
            same[near] = count_true(np.equal, flat[near], pivots[near], found)
    return largest, ahead, equal


def count_true(compare: np.ufunc, rows: Array, pivots: Array, found: Array) -> Array:
    """Count the numbers of each row that compare with its pivot, eight at a time.

    rows: (n, C). pivots: (n, 1). found: bools, (n or more, groups, 8 * words), False from the C-th
    of a row on; they are overwritten, as fresh memory would cost more.
    """
    count, classes = rows.shape
    compare(rows, pivots, out=found.reshape(len(found), -1)[:count, :classes])
    # Each byte is 0 or 1, and words are too few for their sum to run over.
    sums = found[:count].view(np.uint64).sum(-1)
    return np.asarray(sums.view(np.uint8).sum(-1, dtype=np.int64))
