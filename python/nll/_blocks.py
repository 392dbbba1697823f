# SPDX-License-Identifier: BSD-3-Clause
"""What the tasks of `nll.dask` compute: of blocks, which are NumPy arrays, and of states.

A block of input has some samples and some classes, at a place in the whole array: a slice for each
axis. One of target has the same samples. Where the classes of a sample are in many blocks, the loss
is that of the block among the blocks, and that of the class in its block.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from . import functional
from ._threads import num_threads
from ._typing import Array
from .accumulator import LossAccumulator, merge

Place: TypeAlias = tuple[slice, ...]  # where a block lies in the whole array

IGNORED = -1  # in place of the class of a sample that is ignored, or has its class elsewhere
SLAB = 1 << 17  # elements of a block that are widened to float64 at a time: 1 MiB
LARGE = 2.0**20  # below, 2^-33 of a float64 is left, and float32 needs 2^-25


@dataclass(frozen=True)
class Choices:
    """What all tasks of a call compute."""

    loss: str  # "nll" or "cross_entropy"
    axis: int  # of classes in input, from 0
    class_bounds: tuple[int, ...]  # of the chunks of classes: 0, ..., C
    dtype: np.dtype[Any]  # of the loss
    reduction: str
    ignore_index: int | None
    index_base: int
    empty: str
    label_smoothing: float

    @property
    def classes(self) -> int:
        """C."""
        return self.class_bounds[-1]

    @property
    def class_chunks(self) -> int:
        """K."""
        return len(self.class_bounds) - 1

    @property
    def parts(self) -> int:
        """The numbers that a chunk of classes gives for each sample."""
        return 2 if self.loss == "log_softmax" else 4 if self.label_smoothing else 3

    @property
    def labels(self) -> dict[str, Any]:
        """How labels are read."""
        return {"ignore_index": self.ignore_index, "index_base": self.index_base}

    def samples(self, place: Place) -> Place:
        """The place of a block of input without that of its classes."""
        return place[: self.axis] + place[self.axis + 1 :]


# ---------------------------------------------------------------- tasks
# A block of input is (n, c, d1, ..., dk) with the c classes of place[axis] on `axis`; one of
# target, (n, d1, ..., dk), and its sample weights, if there are some, have the same samples.


@contextmanager
def _task(place: Place) -> Iterator[None]:
    """Use one thread, give no warnings, and tell positions in the whole target.

    A block of target lies at `place`.
    """

    def shifted(position: re.Match[str]) -> str:
        numbers = map(int, position[1].split(","))
        whole = (str(n + at.start) for n, at in zip(numbers, place, strict=True))
        return f"target[{', '.join(whole)}]"

    with num_threads(1), np.errstate(all="ignore"):  # infinities and NaN are results
        try:
            yield
        except IndexError as error:
            raise IndexError(re.sub(r"^target\[([^\]]+)\]", shifted, str(error))) from None


def _of_one_class(values: Array, classes: int) -> Array:
    """Log-probabilities of targets as those of all classes, (..., C), in the same memory."""
    return np.broadcast_to(np.asarray(values)[..., None], (*np.shape(values), classes))


def given_weights(weight: Array | None, sample_weight: Array | None) -> dict[str, Any]:
    """The weights that are given, by name."""
    given = {"weight": weight, "sample_weight": sample_weight}
    return {name: array for name, array in given.items() if array is not None}


def _state(
    axes: int,
    loss: str,
    input: Array,
    target: Array,
    weight: Array | None = None,
    sample_weight: Array | None = None,
    **keywords: Any,
) -> Array:
    """The state of a block, (1, ..., 1, S): so many axes of blocks, and its own."""
    total = LossAccumulator(loss, weight, **keywords)  # type: ignore[arg-type]
    total.update(input, target, **given_weights(None, sample_weight))
    state: Array = total.state.reshape((1,) * axes + (-1,))
    return state


def _classes(target: Array, choices: Choices) -> Array:
    """Class of each sample, from 0, or IGNORED. Labels out of range raise."""
    zeros = _of_one_class(np.broadcast_to(np.float32(0), target.shape), choices.classes)
    functional.nll_loss(zeros, target, axis=-1, reduction="sum", **choices.labels)
    # Modulo 2^64, as labels and index_base may be anything.
    classes = target.astype(np.int64) - np.int64(choices.index_base)
    ignored, range_of = choices.ignore_index, np.iinfo(target.dtype)
    if ignored is None or not range_of.min <= ignored <= range_of.max:
        return np.asarray(classes)
    return np.where(target == target.dtype.type(ignored), IGNORED, classes)


def _classes_in(target: Array, at: slice, choices: Choices) -> Array:
    """Class of each sample among those at `at`, or IGNORED."""
    classes = _classes(target, choices)
    return np.where((at.start <= classes) & (classes < at.stop), classes - at.start, IGNORED)


def losses_of_block(
    block: Array,
    target: Array,
    weight: Array | None,
    sample_weight: Array | None,
    place: Place,
    *,
    choices: Choices,
) -> Array:
    """The losses of a block with all classes, with a class axis of length 1."""
    function, keywords = functional.nll_loss, choices.labels
    if choices.loss == "cross_entropy":
        function = functional.cross_entropy
        keywords["label_smoothing"] = choices.label_smoothing
    with _task(choices.samples(place)):
        losses = function(
            block,
            target,
            axis=choices.axis,
            reduction="none",
            dtype=choices.dtype,
            **keywords,
            **given_weights(weight, sample_weight),
        )
    return np.expand_dims(losses, choices.axis)


def state_of_block(
    block: Array,
    target: Array,
    weight: Array | None,
    sample_weight: Array | None,
    place: Place,
    *,
    choices: Choices,
) -> Array:
    """The state of a block with all classes."""
    with _task(choices.samples(place)):
        return _state(
            block.ndim,
            choices.loss,
            block,
            target,
            weight,
            sample_weight,
            axis=choices.axis,
            label_smoothing=choices.label_smoothing,
            **choices.labels,
        )


def _picked(block: Array, target: Array, place: Place, choices: Choices) -> tuple[Array, Array]:
    """The log-probabilities of targets that lie among the classes of a block, and all classes.

    What lies elsewhere is 0, and its class is IGNORED.
    """
    at = place[choices.axis]
    inside = _classes_in(target, at, choices)
    keywords: dict[str, Any] = {"ignore_index": IGNORED, "reduction": "none"}
    losses = functional.nll_loss(block, inside, axis=choices.axis, **keywords)
    return -np.asarray(losses), np.where(inside == IGNORED, IGNORED, inside + at.start)


def losses_of_classes(
    block: Array,
    target: Array,
    weight: Array | None,
    sample_weight: Array | None,
    place: Place,
    *,
    choices: Choices,
) -> Array:
    """The losses of targets among the classes of a block, 0 elsewhere; the class axis is of 1."""
    with _task(choices.samples(place)):
        picked, classes = _picked(block, target, place, choices)
        losses = functional.nll_loss(
            _of_one_class(picked, choices.classes),
            classes,
            axis=-1,
            ignore_index=IGNORED,
            reduction="none",
            dtype=choices.dtype,
            **given_weights(weight, sample_weight),
        )
    return np.expand_dims(losses, choices.axis)


def state_of_classes(
    block: Array,
    target: Array,
    weight: Array | None,
    sample_weight: Array | None,
    place: Place,
    *,
    choices: Choices,
) -> Array:
    """The state of targets among the classes of a block: others count as ignored."""
    with _task(choices.samples(place)):
        picked, classes = _picked(block, target, place, choices)
        picked = _of_one_class(picked, choices.classes)
        keywords = {"axis": -1, "ignore_index": IGNORED}
        return _state(block.ndim, "nll", picked, classes, weight, sample_weight, **keywords)


def state_of_weights(
    target: Array,
    weight: Array | None,
    sample_weight: Array | None,
    place: Place,
    *,
    choices: Choices,
) -> Array:
    """The state of losses that are all 0: it holds the total weight."""
    with _task(place):
        zeros = np.broadcast_to(choices.dtype.type(0), (*target.shape, choices.classes))
        weights = (weight, sample_weight)
        return _state(target.ndim, "nll", zeros, target, *weights, axis=-1, **choices.labels)


def merged(states: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """The state of all, (S,), or with the axes of the states."""
    merged = merge(states.reshape(-1, states.shape[-1]))
    return merged.reshape((1,) * len(axis) + (-1,)) if keepdims else merged


def whole(block: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """What a reduction begins with: the block as it is."""
    return block


def added(losses: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """The sum of numbers of which all but one are 0, in their dtype."""
    return np.asarray(losses.sum(axis[0], losses.dtype, keepdims=keepdims))


def loss_of(state: Array, *, choices: Choices) -> Any:
    """The loss of all samples."""
    total = LossAccumulator.from_bytes(
        state,
        empty=choices.empty,  # type: ignore[arg-type]
        dtype=choices.dtype,
    )
    return total.compute(choices.reduction)  # type: ignore[arg-type]


def total_weight_of(state: Array) -> Any:
    """The total weight of all samples."""
    return LossAccumulator.from_bytes(state).total_weight


def divisor_of(state: Array, *, choices: Choices) -> Any:
    """The total weight of all samples; raises where an empty mean is to."""
    total = LossAccumulator.from_bytes(state, empty=choices.empty)  # type: ignore[arg-type]
    total.compute()
    return total.total_weight


# ---- many chunks of classes: logits


def _slabs(block: Array, axis: int) -> Iterator[tuple[slice, ...]]:
    """Places of the parts of a block that are widened at a time: all classes of some samples."""
    samples = [a for a in range(block.ndim) if a != axis]
    longest = max(samples, key=block.shape.__getitem__, default=None)
    if longest is None:
        yield (slice(None),)
        return
    step = max(1, SLAB * block.shape[longest] // max(block.size, 1))
    for first in range(0, block.shape[longest], step):
        of_longest = slice(first, first + step)
        yield tuple(of_longest if a == longest else slice(None) for a in range(block.ndim))


def _log_sums(block: Array, axis: int) -> tuple[Array, Array]:
    """The logarithm of the sum of exponentials, as r + c: float64, with a class axis of length 1.

    In c alone, a large one would lose what tells classes apart: so r is the largest logit then, and
    c is of the logits less that. Otherwise r is 0. In float64, it is always the largest logit.
    """
    keywords: dict[str, Any] = {"axis": axis, "keepdims": True, "dtype": np.float64}
    if not block.shape[axis]:
        shape = (*block.shape[:axis], 1, *block.shape[axis + 1 :])
        return np.zeros(shape), np.full(shape, -np.inf)
    large = np.array(True)
    if block.dtype.type is not np.float64:
        sums = np.asarray(functional.logsumexp(block, **keywords))
        large = np.isfinite(sums) & (np.abs(sums) > LARGE)
        if not large.any():
            return np.zeros(sums.shape), sums
    shifts = block.max(axis, keepdims=True).astype(np.float64)
    shifts = np.where(large & np.isfinite(shifts), shifts, 0)
    sums = np.empty(shifts.shape)
    for part in _slabs(block, axis):
        sums[part] = functional.logsumexp(block[part] - shifts[part], **keywords)
    return shifts, sums


def _without_infinities(weight: Array) -> tuple[Array, Any]:
    """Weights of classes in float64, with 1 or -1 for the infinite ones, and the sum of these.

    A loss that has parts is not multiplied by an infinite weight part by part: one may be 0. Any
    loss above 0 times that weight is the weight itself.
    """
    wide = weight.astype(np.float64)
    infinite = np.isinf(wide)
    return np.where(infinite, np.sign(wide), wide), wide[infinite].sum()


def partials(
    block: Array,
    target: Array,
    weight: Array | None,
    place: Place,
    *,
    choices: Choices,
) -> Array:
    """What a chunk of classes gives for each sample: 3 or 4 numbers on the class axis, in float64.

    The logarithm of the sum of its exponentials, as two; the loss of targets that it has, among its
    own classes; with label smoothing, the sum of the weighted losses of all its classes, where
    infinite weights are 1 or -1.
    """
    axis, at = choices.axis, place[choices.axis]
    keywords: dict[str, Any] = {"ignore_index": IGNORED, "reduction": "none", "dtype": np.float64}
    loss, width = functional.cross_entropy, at.stop - at.start
    with _task(choices.samples(place)):
        inside = _classes_in(target, at, choices)
        shifts, sums = _log_sums(block, axis)
        if not width:
            losses = [np.zeros(sums.shape)] * (choices.parts - 2)
            return np.concatenate([shifts, sums, *losses], axis)
        # Where no class of the chunk has a probability, that of the chunk says so to targets.
        losses = [np.expand_dims(loss(block, inside, axis=axis, **keywords), axis)]
        losses[0] = np.where(sums == -np.inf, 0, losses[0])
        if choices.label_smoothing:
            of_chunk = np.ones(width) if weight is None else _without_infinities(weight[at])[0]
            largest = np.asarray(block).argmax(axis)  # whose loss, times 0, is 0
            uniform = loss(block, largest, of_chunk, axis=axis, label_smoothing=1, **keywords)
            uniform = np.expand_dims(uniform * width, axis)
            losses.append(np.where(sums == -np.inf, (of_chunk * np.inf).sum(), uniform))
        return np.concatenate([shifts, sums, *losses], axis)


def log_sums_of_block(block: Array, place: Place, *, choices: Choices) -> Array:
    """The logarithm of the sum of a chunk's exponentials, as 2 numbers on the class axis."""
    with _task(choices.samples(place)):
        return np.concatenate(_log_sums(block, choices.axis), choices.axis)


def gathered(partials: Array) -> Array:
    """Partials of all chunks of classes, which Dask has concatenated."""
    return partials


def _by_chunks(partials: Array, choices: Choices) -> tuple[Array, list[Array]]:
    """What is subtracted of all logits of a sample, (..., 1), and parts of all chunks, (..., K).

    The first part is the logarithms of the chunks' sums, less that.
    """
    last = np.moveaxis(partials, choices.axis, -1)
    apart = last.reshape(*last.shape[:-1], choices.class_chunks, choices.parts)
    shifts, sums, *losses = (np.ascontiguousarray(part) for part in np.moveaxis(apart, -1, 0))
    shift = shifts.max(-1, keepdims=True)
    return shift, [shifts - shift + sums, *losses]


def _picked_of(partials: Array, classes: Array, choices: Choices) -> Array:
    """Log-probabilities of the targets: that of the chunk, and that of the class in its chunk."""
    log_sums, losses = _by_chunks(partials, choices)[1][:2]
    chunks = np.searchsorted(choices.class_bounds[1:], classes, side="right")
    of_chunk = functional.cross_entropy(
        log_sums,
        np.where(classes == IGNORED, IGNORED, chunks),
        ignore_index=IGNORED,
        axis=-1,
        reduction="none",
    )
    in_chunk = np.take_along_axis(losses, chunks[..., None], -1)[..., 0]
    return -(np.where(classes == IGNORED, 0, in_chunk) + of_chunk)


def _smoothed_of(
    partials: Array,
    classes: Array,
    weight: Array | None,
    sample_weight: Array | None,
    choices: Choices,
) -> Array:
    """The smoothed losses with their weights, in float64."""
    picked = _of_one_class(_picked_of(partials, classes, choices), choices.classes)
    keywords: dict[str, Any] = {"ignore_index": IGNORED, "axis": -1, "reduction": "none"}
    keywords |= given_weights(weight, sample_weight)
    losses = functional.nll_loss(picked, classes, **keywords)
    log_sums, _, uniform = _by_chunks(partials, choices)[1]
    of_chunks = -np.asarray(functional.log_softmax(log_sums, axis=-1))
    bounds = choices.class_bounds
    finite, infinite = None, 0.0
    if weight is not None:
        finite, infinite = _without_infinities(weight)
    for k in range(choices.class_chunks):
        if bounds[k] < bounds[k + 1]:
            of_chunk = slice(bounds[k], bounds[k + 1])
            total = bounds[k + 1] - bounds[k] if finite is None else finite[of_chunk].sum()
            uniform[..., k] += total * of_chunks[..., k]
    of_all = (uniform.sum(-1) + infinite) / choices.classes
    if sample_weight is not None:
        of_all = of_all * sample_weight
    share = choices.label_smoothing
    return np.where(classes == IGNORED, 0, (1 - share) * losses + share * of_all)


def _as_nll(
    partials: Array,
    target: Array,
    weight: Array | None,
    sample_weight: Array | None,
    choices: Choices,
) -> tuple[Any, ...]:
    """What nll_loss takes for a block of samples: input, classes, and weights still to be used."""
    of = (_classes(target, choices), weight, sample_weight)
    if choices.label_smoothing:
        smoothed = _smoothed_of(partials, *of, choices)
        return _of_one_class(-smoothed, choices.classes), of[0], None, None
    picked = _picked_of(partials, of[0], choices)
    return _of_one_class(picked, choices.classes), *of


def losses_of_partials(
    partials: Array,
    target: Array,
    weight: Array | None,
    sample_weight: Array | None,
    place: Place,
    *,
    choices: Choices,
) -> Array:
    """The losses of a block of samples, of target's shape."""
    keywords: dict[str, Any] = {"axis": -1, "ignore_index": IGNORED, "dtype": choices.dtype}
    with _task(place):
        picked, classes, *weights = _as_nll(partials, target, weight, sample_weight, choices)
        keywords |= given_weights(*weights)
        return np.asarray(functional.nll_loss(picked, classes, reduction="none", **keywords))


def state_of_partials(
    partials: Array,
    target: Array,
    weight: Array | None,
    sample_weight: Array | None,
    place: Place,
    *,
    choices: Choices,
) -> Array:
    """The state of a block of samples. With label smoothing, its weights are 1."""
    with _task(place):
        arguments = _as_nll(partials, target, weight, sample_weight, choices)
        return _state(target.ndim, "nll", *arguments, axis=-1, ignore_index=IGNORED)


def quotient_of(state: Array, weights: Array, *, choices: Choices) -> Any:
    """The mean of losses whose weights are in another state."""
    total = LossAccumulator.from_bytes(
        weights,
        empty=choices.empty,  # type: ignore[arg-type]
        dtype=np.float64,
    )
    nothing = total.compute()  # raises where an empty mean is to
    if choices.empty == "zero" and total.total_weight == 0:
        return choices.dtype.type(nothing)
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = LossAccumulator.from_bytes(state, dtype=np.float64).compute("sum")
        return np.asarray(loss / total.total_weight).astype(choices.dtype)[()]


def _with_rest(
    block: Array,
    partials: Array,
    place: Place,
    choices: Choices,
    compute: Any,
) -> Array:
    """What `compute` makes of a block's logits and of one more, in which all other classes are.

    It gets float64 of some samples, (n, c + 1, ...), and their place in the block, a slice on each
    axis but that of classes. It may overwrite them, and returns as many.
    """
    axis, at = choices.axis, place[choices.axis]
    shift, (log_sums, *_) = _by_chunks(partials, choices)
    chunk = int(np.searchsorted(choices.class_bounds[1:], at.start, side="right"))
    rest = functional.logsumexp(np.delete(log_sums, chunk, -1), axis=-1, keepdims=True)
    shift, rest = (np.moveaxis(np.asarray(array), -1, axis) for array in (shift, rest))
    result = np.empty(block.shape, block.dtype)
    if not block.shape[axis]:
        return result
    for part in _slabs(block, axis):
        widened = np.concatenate([block[part] - shift[part], rest[part]], axis)
        computed = compute(widened, choices.samples(part))
        result[part] = computed[(slice(None),) * axis + (slice(-1),)]
    return result


def log_softmax_of_block(block: Array, *, axis: int) -> Array:
    """Log-probabilities of a block with all classes."""
    with num_threads(1):
        return functional.log_softmax(block, axis=axis)


def log_softmax_of_classes(
    block: Array,
    partials: Array,
    place: Place,
    *,
    choices: Choices,
) -> Array:
    """Log-probabilities of a chunk of classes."""

    def compute(widened: Array, part: Place) -> Array:
        return functional.log_softmax(widened, axis=choices.axis, out=widened)

    with _task(choices.samples(place)):
        return _with_rest(block, partials, place, choices, compute)


# ---- gradients


def scales(
    target: Array,
    weight: Array | None,
    sample_weight: Array | None,
    total_weight: Any,
    place: Place,
    *,
    choices: Choices,
    grad_output: float,
) -> Array:
    """The gradient of the result in the loss of each sample without its weight, in float64."""
    with _task(place):
        scales = functional.nll_loss(
            _of_one_class(np.broadcast_to(-grad_output, target.shape), choices.classes),
            target,
            axis=-1,
            reduction="none",
            **choices.labels,
            **given_weights(weight, sample_weight),
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(scales if total_weight is None else scales / total_weight)


def _is_zero(total_weight: Any, choices: Choices) -> bool:
    """Whether the gradient is that of an empty mean which is to be 0."""
    return total_weight is not None and choices.empty == "zero" and total_weight == 0


def nll_gradient(
    target: Array,
    scales: Array,
    total_weight: Any,
    place: Place,
    *,
    choices: Choices,
    input_dtype: np.dtype[Any],
) -> Array:
    """The gradient of the log-probabilities of a block."""
    shape = tuple(at.stop - at.start for at in place)
    if _is_zero(total_weight, choices):
        return np.zeros(shape, input_dtype)
    with _task(choices.samples(place)):
        return functional.nll_loss_backward(
            scales,
            np.broadcast_to(input_dtype.type(0), shape),
            _classes_in(target, place[choices.axis], choices),
            axis=choices.axis,
            ignore_index=IGNORED,
            reduction="none",
            out=np.empty(shape, input_dtype),
        )


def cross_entropy_gradient(
    block: Array,
    target: Array,
    weight: Array | None,
    sample_weight: Array | None,
    scales: Array | None,
    total_weight: Any,
    place: Place,
    *,
    choices: Choices,
    grad_output: float,
) -> Array:
    """The gradient of a block with all classes.

    Scales are those without the weights of classes, if these are given; None for a sum.
    """
    if _is_zero(total_weight, choices):
        return np.zeros(block.shape, block.dtype)
    keywords = choices.labels | given_weights(weight, None if scales is not None else sample_weight)
    with _task(choices.samples(place)):
        return functional.cross_entropy_backward(
            grad_output if scales is None else scales,
            block,
            target,
            axis=choices.axis,
            reduction="sum" if scales is None else "none",
            label_smoothing=choices.label_smoothing,
            **keywords,
        )


def cross_entropy_gradient_of_classes(
    block: Array,
    partials: Array,
    target: Array,
    weight: Array | None,
    scales: Array,
    bare_scales: Array | None,
    total_weight: Any,
    place: Place,
    *,
    choices: Choices,
) -> Array:
    """The gradient of a chunk of classes. All others are one more class, that of other targets.

    With label smoothing s, it is that of (1 - s) times the loss, and of s times the mean loss of
    all classes, for which there are scales without the weights of classes.
    """
    if _is_zero(total_weight, choices):
        return np.zeros(block.shape, block.dtype)
    axis, at, share = choices.axis, place[choices.axis], choices.label_smoothing
    width = at.stop - at.start
    keywords: dict[str, Any] = {"ignore_index": IGNORED, "axis": axis, "reduction": "none"}
    backward = functional.cross_entropy_backward
    with _task(choices.samples(place)):
        ignored = _classes(target, choices) == IGNORED
        inside = _classes_in(target, at, choices)
        classes = np.where(~ignored & (inside == IGNORED), width, inside)
        if share:
            weights, of_infinite = np.ones(choices.classes), None
            if weight is not None:
                weights, infinite = _without_infinities(weight)
                if infinite != 0:  # then each probability is multiplied by it, but for its own
                    of_infinite = np.where(np.isinf(weight[at]), np.nan, infinite)
                    of_infinite = np.append(of_infinite, infinite)
                    of_infinite = of_infinite.reshape(-1, *(1 for _ in block.shape[axis + 1 :]))
            others = weights[: at.start].sum() + weights[at.stop :].sum()
            weights = np.append(weights[at], others)

        def compute(widened: Array, part: Place) -> Array:
            if not share:
                return backward(scales[part], widened, classes[part], out=widened, **keywords)
            gradient = backward((1 - share) * scales[part], widened, classes[part], **keywords)
            assert bare_scales is not None
            if of_infinite is not None:
                added = np.expand_dims(bare_scales[part], axis) * of_infinite
                added = added * (widened != -np.inf)
                gradient += np.where(np.expand_dims(ignored[part], axis), 0, added)
            gradient += backward(
                share * (width + 1) / choices.classes * bare_scales[part],
                widened,
                classes[part],
                weights,
                label_smoothing=1,
                out=widened,
                **keywords,
            )
            return gradient

        return _with_rest(block, partials, place, choices, compute)
