# SPDX-License-Identifier: BSD-3-Clause
"""Samples in blocks: which there are, and what predictions, labels and weights say about one."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np

from .._typing import Array
from .errors import BadInput
from .sources import Held, Slices, Source

CLASSES_IN_SHARDS = "the class axis is 0, along which shards are joined; classes cannot lie there"


def divide(
    shape: Sequence[int],
    limit: int,
    cuts: Sequence[int] = (),
    granule: int = 1,
) -> Iterator[Slices]:
    """Divide samples into blocks of about `limit`, in C order.

    No block lies on both sides of a cut of axis 0. Blocks along axis 0 are of whole granules.
    """
    if not shape:
        yield ()
        return
    axis, inner = len(shape) - 1, 1
    while axis > 0 and inner * shape[axis] <= limit:
        inner *= shape[axis]
        axis -= 1
    step = max(limit // max(inner, 1), 1)
    if axis == 0:
        step = -(-step // granule) * granule
        runs = list(pairwise([0, *cuts, shape[0]]))
    else:
        runs = [(0, shape[axis])]
    along: list[slice] = []
    for first, last in runs:
        along += [slice(start, min(start + step, last)) for start in range(first, last, step)]
    whole = tuple(slice(0, size) for size in shape[axis + 1 :])
    for outer in product(*(range(size) for size in shape[:axis])):
        for one in along:
            yield (*(slice(index, index + 1) for index in outer), one, *whole)


class Predictions:
    """Predictions of samples: a source with a class axis."""

    def __init__(self, source: Source, axis: int, shift: bool) -> None:
        ndim = len(source.shape)
        if ndim == 0:
            raise BadInput(f"{source.files[0]} has no dimension; predictions have a class axis")
        if ndim == 1:  # one sample
            if len(source.files) > 1:
                raise BadInput(CLASSES_IN_SHARDS)
            source = Held(source.read((slice(0, source.shape[0]),))[None], source.files[0])
            axis, ndim = 1, 2
        if not -ndim <= axis < ndim:
            raise BadInput(
                f"--axis {axis} is out of bounds for {source.files[0]} of shape {source.shape}",
            )
        self.source = source
        self.axis = axis % ndim
        self.shift = int(shift)
        if self.axis == 0 and len(source.files) > 1:
            raise BadInput(CLASSES_IN_SHARDS)
        self.classes = source.shape[self.axis]
        samples = [size for index, size in enumerate(source.shape) if index != self.axis]
        if shift:
            samples[-1] = max(samples[-1] - 1, 0)
        self.samples = tuple(samples)

    def read(self, slices: Slices) -> Array:
        return self.source.read(self.with_classes(slices))

    def release(self, slices: Slices) -> None:
        last = slices[-1]
        if last.stop == self.samples[-1]:  # what a shift leaves out is of no use any more
            slices = (*slices[:-1], slice(last.start, last.stop + self.shift))
        self.source.release(self.with_classes(slices))

    def with_classes(self, slices: Slices) -> Slices:
        return (*slices[: self.axis], slice(0, self.classes), *slices[self.axis :])

    def locate(self, position: Sequence[int], label: int) -> str:
        """Name an element: its file and where it is there."""
        full = (*position[: self.axis], label, *position[self.axis :])
        file, own = self.source.locate(full)
        return f"{file}[{', '.join(map(str, own))}]"


class OfSamples:
    """Something that each sample has: a label, a weight, a group."""

    def __init__(self, source: Source, shift: bool) -> None:
        self.source = source
        self.shift = int(shift)
        self.shape = tuple(source.shape)
        if shift:
            self.shape = (*self.shape[:-1], max(self.shape[-1] - 1, 0))

    def shifted(self, slices: Slices) -> Slices:
        last = slices[-1]
        return (*slices[:-1], slice(last.start + self.shift, last.stop + self.shift))

    def read(self, slices: Slices) -> Array:
        return self.source.read(self.shifted(slices))

    def release(self, slices: Slices) -> None:
        self.source.release(self.shifted(slices))

    def locate(self, position: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Tell the file of a sample, and where it is there."""
        return self.source.locate((*position[:-1], position[-1] + self.shift))


def labels(source: Source, predictions: Predictions, shift: bool) -> OfSamples:
    """Take labels: integers of the shape that predictions have without their class axis."""
    if source.dtype.kind not in "iu":
        raise BadInput(f"{source.files[0]} has dtype {source.dtype}; labels must be integers")
    if source.shape == () and len(predictions.source.shape) == 2:
        source = Held(source.read(())[None], source.files[0])
    found = OfSamples(source, shift) if source.shape else None
    if found is None or found.shape != predictions.samples or (shift and source.shape[-1] == 0):
        rule = f"without its class axis ({predictions.axis}) that is {of_files(predictions)}"
        problem = f"but {predictions.source.files[0]} has {predictions.source.shape}: {rule}"
        raise BadInput(f"{source.files[0]} has shape {source.shape}, {problem}")
    return found


def of_files(predictions: Predictions) -> tuple[int, ...]:
    """Tell the shape of the samples in the files, before a shift."""
    full = predictions.source.shape
    return (*full[: predictions.axis], *full[predictions.axis + 1 :])


def spread(source: Source, target: OfSamples, shift: bool, *, leading: bool = False) -> OfSamples:
    """Take what is to be broadcast to target's shape.

    leading: also one of target's leading axes alone, such as (N,) of (N, L).
    """
    full = target.source.shape
    if source.shape != full:
        array = source.read(tuple(slice(0, size) for size in source.shape))
        if leading and source.shape == full[: len(source.shape)]:
            array = array.reshape(*source.shape, *(1 for _ in full[len(source.shape) :]))
        try:
            array = np.broadcast_to(array, full)
        except ValueError:
            problem = f"which does not broadcast to {full} of {target.source.files[0]}"
            raise BadInput(f"{source.files[0]} has shape {source.shape}, {problem}") from None
        source = Held(array, source.files[0])
    return OfSamples(source, shift)


def largest(source: Source, limit: int = 1 << 22) -> int:
    """Return the largest of integers; refuse negative ones."""
    found = -1
    for slices in divide(source.shape, limit, source.cuts, source.granule):
        block = source.read(slices)
        if block.size and int(block.min()) < 0:
            offset = np.argwhere(block < 0)[0]
            position = [int(i) + one.start for i, one in zip(offset, slices, strict=True)]
            file, own = source.locate(position)
            where = ", ".join(map(str, own))
            raise BadInput(f"{file}[{where}] is {block[tuple(offset)]}; groups are 0 or more")
        found = max(found, int(block.max()) if block.size else -1)
        source.release(slices)
    return found


def first_wrong(
    block: Array,
    ignore_index: int | None,
    first: int,
    count: int,
) -> tuple[tuple[int, ...], Any] | None:
    """Find the first label that is neither ignored nor one of `count` from `first` on."""
    wrong = (block < first) | (block >= first + count)
    if ignore_index is not None:
        wrong &= block != ignore_index
    found = np.argwhere(wrong)
    if not len(found):
        return None
    position = tuple(int(i) for i in found[0])
    return position, block[position]
