# SPDX-License-Identifier: BSD-3-Clause
"""The losses for Dask arrays, chunked along any axes, that of the classes included.

Each function means what its namesake in `nll` means, and returns lazy arrays: nothing is computed
before ``compute``, and no task needs more than one chunk of the input. ::

    import dask.array as da
    from nll.dask import cross_entropy, cross_entropy_value_and_grad

    logits = da.from_zarr("logits.zarr")    # (N, C), in chunks of (1024, 32768)
    labels = da.from_zarr("labels.zarr")    # (N,)
    loss = cross_entropy(logits, labels, ignore_index=0).compute()

* **What moves.** A chunk with all classes becomes a state of `LossAccumulator.state_size` bytes,
  and states are merged in a tree. Where the class axis has K > 1 chunks, a chunk of logits gives
  three float64 a sample before that: the logarithm of its sum of exponentials, as two, and the loss
  among its own classes of those samples whose label it has.
* **Bits.** A loss that is reduced has the same bits whatever the scheduler, the workers and the
  order. Those of `nll_loss` are those of `nll.nll_loss` on the whole array, whatever the chunks.
  Those of `cross_entropy` are the ones of `nll.cross_entropy` if the class axis is one chunk; if it
  is not, they depend on its chunks alone. Losses and gradients are then within 0.51 ULP of the true
  values; those of float64, of whose logits differences are rounded, within about 16.
* **Gradients** have input's chunks. That of a mean needs the total weight first, which is that of
  the labels alone. Where the class axis has many chunks, each is computed in float64, a part of the
  size of a cache at a time, and rounded once. The gradient of a cross-entropy's mean in float64 may
  differ from the local one in the last bits.
* **Errors.** Shapes, dtypes and words are checked at once. A bad label raises IndexError from
  ``compute``, with its position in the whole array.
* **Threads.** Each task uses one thread of nll: the scheduler has the others.

`target` and `sample_weight` are rechunked as input is. What is no Dask array becomes one.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from . import _blocks, functional
from ._arguments import (
    as_array,
    as_empty,
    as_flag,
    as_ignore_index,
    as_index_base,
    as_integer,
    as_label_smoothing,
    as_number,
    as_reduction,
    as_word,
    holds_a_mask,
)
from ._blocks import Choices
from ._typing import Array, Empty, Reduced, Reduction
from .accumulator import LossAccumulator

try:
    import dask.array as da
    from dask.layers import ArraySliceDep
except ImportError as _error:
    raise ImportError('nll.dask needs Dask 2024.12: python -m pip install "nll[dask]"') from _error

__all__ = [
    "cross_entropy",
    "cross_entropy_value_and_grad",
    "log_softmax",
    "nll_loss",
    "nll_loss_value_and_grad",
]

DaskArray: TypeAlias = Any  # dask.array.Array, of either kind of array.query-planning

# Names of axes beside input's own, which are 0, 1, ...
CLASSES, PARTS, STATE = 1000, 1001, 1002

FAN_IN = 16  # states that are merged at a time


@dataclass(frozen=True)
class _Call:
    """The arrays of a call, lazy and chunked alike, and its choices."""

    input: DaskArray
    target: DaskArray
    weight: DaskArray | None
    sample_weight: DaskArray | None
    choices: Choices

    @property
    def index(self) -> tuple[int, ...]:
        """The names of input's axes."""
        return tuple(range(self.input.ndim))

    @property
    def samples(self) -> tuple[int, ...]:
        """The names of target's axes."""
        return self.choices.samples(self.index)  # type: ignore[arg-type, return-value]

    def of_input(self) -> tuple[Any, ...]:
        """The places of blocks of input, as an argument."""
        return ArraySliceDep(self.input.chunks), self.index

    def of_samples(self) -> tuple[Any, ...]:
        """The places of blocks of target, as an argument."""
        return ArraySliceDep(self.target.chunks), self.samples

    def class_weight(self, given: bool = True) -> tuple[Any, ...]:
        """The weights of classes as an argument, or None."""
        lacks = self.weight is None or not given
        return (None, None) if lacks else (self.weight, (CLASSES,))

    def weights(self, of_classes: bool = True) -> tuple[Any, ...]:
        """The weights of classes and samples as arguments, or None."""
        lacks = self.sample_weight is None
        of_samples = (None, None) if lacks else (self.sample_weight, self.samples)
        return (*self.class_weight(of_classes), *of_samples)

    def blocks(
        self,
        function: Any,
        index: tuple[Any, ...],
        *arguments: Any,
        dtype: Any,
        lengths: dict[Any, Any] | None = None,
        new_axes: dict[Any, Any] | None = None,
        **keywords: Any,
    ) -> DaskArray:
        """An array with a task for each block; some axes have other lengths in it than in input."""
        return da.blockwise(
            function,
            index,
            *arguments,
            dtype=dtype,
            meta=np.empty((0,) * len(index), dtype),
            adjust_chunks=lengths,
            new_axes=new_axes,
            align_arrays=False,
            concatenate=True,
            **keywords,
        )

    def reduced(self, function: Any, index: tuple[int, ...], *arguments: Any) -> DaskArray:
        """The merged state, (S,), of what a function returns for each block."""
        states = self.blocks(
            function,
            (*index, STATE),
            *arguments,
            dtype=np.uint8,
            lengths=dict.fromkeys(index, 1),
            new_axes={STATE: LossAccumulator.state_size},
            choices=self.choices,
        )
        if not index:
            return states
        chunked = [axis for axis, blocks in enumerate(states.numblocks[:-1]) if blocks > 1]
        fan_in = max(2, int(FAN_IN ** (1 / max(len(chunked), 1))))
        return da.reduction(
            states,
            chunk=_blocks.whole,
            combine=_blocks.merged,
            aggregate=_blocks.merged,
            axis=tuple(range(len(index))),
            dtype=np.uint8,
            split_every=dict.fromkeys(range(len(index)), fan_in),
            meta=np.empty(0, np.uint8),
        )

    def number(self, function: Any, *states: DaskArray, dtype: Any, **keywords: Any) -> DaskArray:
        """What a function makes of states: a number."""
        arguments = [one for state in states for one in (state, (STATE,))]
        return self.blocks(function, (), *arguments, dtype=dtype, **keywords)

    def weights_state(self) -> DaskArray:
        """The merged state of labels and weights alone. It holds the total weight."""
        arguments = (self.target, self.samples, *self.weights(), *self.of_samples())
        return self.reduced(_blocks.state_of_weights, self.samples, *arguments)

    def partials(self) -> DaskArray:
        """What all chunks of classes give for each sample, together."""
        choices = self.choices
        arguments: tuple[Any, ...] = (self.input, self.index)
        function: Any = _blocks.log_sums_of_block
        if choices.loss == "cross_entropy":
            function = _blocks.partials
            arguments += (self.target, self.samples, *self.class_weight())
        apart = self.blocks(
            function,
            self.index,
            *arguments,
            *self.of_input(),
            dtype=np.float64,
            lengths={choices.axis: choices.parts},
            choices=choices,
        )
        return self.blocks(
            _blocks.gathered,
            tuple(PARTS if name == choices.axis else name for name in self.index),
            *(apart, self.index),
            dtype=np.float64,
            new_axes={PARTS: choices.parts * choices.class_chunks},
        )

    def of_partials(self) -> tuple[Any, ...]:
        """Partials as an argument."""
        axis = self.choices.axis
        return self.partials(), tuple(PARTS if n == axis else n for n in self.index)

    def losses(self) -> DaskArray:
        """The loss of each sample."""
        choices, dtype = self.choices, self.choices.dtype
        target = (self.target, self.samples)
        if choices.loss == "cross_entropy" and choices.class_chunks > 1:
            arguments = (*self.of_partials(), *target, *self.weights(), *self.of_samples())
            return self.blocks(
                _blocks.losses_of_partials,
                self.samples,
                *arguments,
                dtype=dtype,
                choices=choices,
            )
        losses = self.blocks(
            _blocks.losses_of_block if choices.class_chunks == 1 else _blocks.losses_of_classes,
            self.index,
            *(self.input, self.index, *target, *self.weights(), *self.of_input()),
            dtype=dtype,
            lengths={choices.axis: 1},
            choices=choices,
        )
        return da.reduction(
            losses,
            chunk=_blocks.whole,
            combine=_blocks.added,
            aggregate=_blocks.added,
            axis=(choices.axis,),
            dtype=dtype,
            split_every=FAN_IN,
            meta=np.empty((0,) * self.target.ndim, dtype),
        )

    def loss(self) -> tuple[DaskArray, DaskArray]:
        """The loss as it was chosen, and the merged state that has the total weight."""
        choices = self.choices
        if choices.reduction == "none":
            return self.losses(), self.weights_state()
        target = (self.target, self.samples)
        if choices.loss == "cross_entropy" and choices.class_chunks > 1:
            arguments = (*self.of_partials(), *target, *self.weights(), *self.of_samples())
            state = self.reduced(_blocks.state_of_partials, self.samples, *arguments)
        else:
            is_whole = choices.class_chunks == 1
            function = _blocks.state_of_block if is_whole else _blocks.state_of_classes
            arguments = (self.input, self.index, *target, *self.weights(), *self.of_input())
            state = self.reduced(function, self.index, *arguments)
        keywords = {"dtype": choices.dtype, "choices": choices}
        if self.weight is None and self.sample_weight is None:
            return self.number(_blocks.loss_of, state, **keywords), state
        if choices.class_chunks == 1 or not choices.label_smoothing:
            return self.number(_blocks.loss_of, state, **keywords), state
        weights = self.weights_state()  # smoothed losses have theirs already
        if choices.reduction == "sum":
            return self.number(_blocks.loss_of, state, **keywords), weights
        return self.number(_blocks.quotient_of, state, weights, **keywords), weights

    def value(self, return_total_weight: object) -> Any:
        """What the functions without a gradient return."""
        with_weight = as_flag("return_total_weight", return_total_weight)
        loss, state = self.loss()
        return (loss, self.total_weight(state)) if with_weight else loss

    def total_weight(self, state: DaskArray) -> DaskArray:
        """The total weight that a state holds."""
        return self.number(_blocks.total_weight_of, state, dtype=np.float64)

    def scales(self, total: tuple[Any, ...], grad_output: float, *, of_classes: bool) -> DaskArray:
        """The gradient of the result in the loss of each sample, with the weights of its class."""
        weights = self.weights(of_classes)
        return self.blocks(
            _blocks.scales,
            self.samples,
            *(self.target, self.samples, *weights, *total, *self.of_samples()),
            dtype=np.float64,
            choices=self.choices,
            grad_output=grad_output,
        )

    def gradient(self, grad_output: float) -> DaskArray:
        """The gradient, with input's chunks."""
        choices, target = self.choices, (self.target, self.samples)
        total: tuple[Any, ...] = (None, None)
        if choices.reduction == "mean":
            state, keywords = self.weights_state(), {"dtype": np.float64, "choices": choices}
            total = (self.number(_blocks.divisor_of, state, **keywords), ())
        smooths = choices.label_smoothing > 0 and self.weight is not None
        dtype = self.input.dtype

        def scales(of_classes: bool) -> tuple[Any, ...]:
            return self.scales(total, grad_output, of_classes=of_classes), self.samples

        if choices.loss == "nll":
            return self.blocks(
                _blocks.nll_gradient,
                self.index,
                *(*target, *scales(True), *total, *self.of_input()),
                dtype=dtype,
                choices=choices,
                input_dtype=dtype,
            )
        if choices.class_chunks == 1:
            alone = choices.reduction == "sum"
            weights = self.weights(alone or smooths)
            scale = (None, None) if alone else scales(not smooths)
            return self.blocks(
                _blocks.cross_entropy_gradient,
                self.index,
                *(self.input, self.index, *target, *weights, *scale, *total, *self.of_input()),
                dtype=dtype,
                choices=choices,
                grad_output=grad_output,
            )
        bare = scales(False) if choices.label_smoothing else (None, None)
        return self.blocks(
            _blocks.cross_entropy_gradient_of_classes,
            self.index,
            *(self.input, self.index, *self.of_partials(), *target),
            *self.class_weight(),
            *(*scales(True), *bare, *total, *self.of_input()),
            dtype=dtype,
            choices=choices,
        )

    def value_and_grad(self, grad_output: object, return_total_weight: object) -> tuple[Any, ...]:
        """What the functions with a gradient return."""
        with_weight = as_flag("return_total_weight", return_total_weight)
        loss, state = self.loss()
        gradient = self.gradient(as_number("grad_output", grad_output))
        return (loss, self.total_weight(state), gradient) if with_weight else (loss, gradient)


def _as_dask(name: str, value: object) -> DaskArray:
    """A lazy array of known shape, native. What the local call cannot take raises as it does."""
    try:
        array = da.asarray(np.ma.masked if holds_a_mask(value) else value)
    except Exception:  # as of a tensor, whose dtype is not NumPy's
        array = da.asarray(as_array(name, value))
    as_array(name, array._meta)
    array = array.astype(array.dtype.newbyteorder("="))
    if any(np.isnan(n) for n in array.shape):
        cure = "call its compute_chunk_sizes() first"
        raise ValueError(f"{name} has chunks of unknown sizes; {cure}")
    return array


def _dummy(array: DaskArray, shape: tuple[int, ...] | None = None) -> Array:
    """An array of zeros like a lazy one, in the memory of one number."""
    zero = np.zeros((), array.dtype)
    return np.broadcast_to(zero, array.shape if shape is None else shape)


def _checked(
    function: Any,
    input: DaskArray,
    target: DaskArray,
    weight: DaskArray | None,
    sample_weight: DaskArray | None,
    *,
    axis: object,
    dtype: object,
    **keywords: object,
) -> tuple[int, np.dtype[Any]]:
    """The class axis, from 0, and the loss's dtype; arguments that do not fit raise.

    The core itself says what is wrong: it gets arrays of the same shapes if these do not fit, and
    else arrays without samples.
    """
    given = _blocks.given_weights(weight, sample_weight)
    position = as_integer("axis", axis)
    position += input.ndim if position < 0 else -(input.ndim == position == 1)
    samples = input.shape[:position] + input.shape[position + 1 :]
    fits = 0 <= position < input.ndim and target.shape == samples
    if fits and sample_weight is not None:
        ends = zip(sample_weight.shape[::-1], samples[::-1], strict=False)
        fits = sample_weight.ndim <= len(samples) and all(n in (1, m) for n, m in ends)
    if not fits:
        dummies = {name: _dummy(array) for name, array in given.items()}
        function(_dummy(input), _dummy(target), axis=axis, **dummies, **keywords)
    none = (0,) * max(target.ndim, 1)
    at = max(position, int(input.ndim == 1))
    if weight is not None:
        given["weight"] = _dummy(weight)
    if sample_weight is not None:
        given["sample_weight"] = _dummy(sample_weight, none)
    losses = function(
        _dummy(input, none[:at] + input.shape[position : position + 1] + none[at:]),
        _dummy(target, none),
        axis=at,
        reduction="none",
        dtype=dtype,
        **given,
        **keywords,
    )
    return position, losses.dtype


def _call_of(
    loss: str,
    input: Any,
    target: Any,
    weight: Any,
    sample_weight: Any,
    *,
    axis: object,
    reduction: str,
    ignore_index: object,
    index_base: object,
    empty: object,
    label_smoothing: object = 0.0,
    dtype: object = None,
) -> _Call:
    """The call with these arguments, chunked alike."""
    input, target = _as_dask("input", input), _as_dask("target", target)
    if weight is not None:
        weight = _as_dask("weight", weight).rechunk(-1)
    if sample_weight is not None:
        sample_weight = _as_dask("sample_weight", sample_weight)
    function = functional.nll_loss if loss == "nll" else functional.cross_entropy
    keywords = {"ignore_index": ignore_index, "index_base": index_base}
    if loss == "cross_entropy":
        keywords["label_smoothing"] = label_smoothing
    arrays = (input, target, weight, sample_weight)
    position, loss_dtype = _checked(function, *arrays, axis=axis, dtype=dtype, **keywords)
    chunks = input.chunks[:position] + input.chunks[position + 1 :]
    if sample_weight is not None:
        sample_weight = da.broadcast_to(sample_weight, target.shape).rechunk(chunks)
    choices = Choices(
        loss,
        position,
        _bounds(input.chunks[position]),
        loss_dtype,
        reduction,
        as_ignore_index(ignore_index),
        as_index_base(index_base),
        as_empty(empty),
        as_label_smoothing(label_smoothing),
    )
    return _Call(input, target.rechunk(chunks), weight, sample_weight, choices)


def _bounds(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Where chunks begin, and where the last one ends."""
    return (0, *(int(end) for end in np.cumsum(lengths)))


# ---------------------------------------------------------------- what is public


def nll_loss(
    input: DaskArray,
    target: DaskArray,
    weight: DaskArray | None = None,
    *,
    sample_weight: DaskArray | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: Empty = "nan",
    dtype: DTypeLike | None = None,
    return_total_weight: bool = False,
) -> Any:
    """Compute the negative log likelihood loss of lazy log-probabilities, lazily.

    Parameters
    ----------
    input : dask.array.Array, shape (N, C, d1, ..., dk) or (C,)
        Log-probabilities, chunked along any axes.
    target : dask.array.Array of integers, shape (N, d1, ..., dk) or ()
        Labels.
    weight : array_like, shape (C,), optional
        Weight of each class; it may be lazy.
    sample_weight : array_like, optional
        Weight of each sample, of a shape that broadcasts to target's; it may be lazy.
    ignore_index : int or None
        Label of samples to leave out.
    reduction : {"mean", "sum", "none"}
        Reduction of the loss.
    axis : int
        The class axis of input.
    index_base : int
        Label of the first class.
    empty : {"nan", "zero", "raise"}
        What the mean is if the total weight is 0. "raise" raises from ``compute``.
    dtype : dtype, optional
        The loss's dtype; input's unless given.
    return_total_weight : bool
        Return ``(loss, total_weight)``.

    Returns
    -------
    loss : dask.array.Array
        The loss, 0-d, or of target's shape for "none". It has the bits of `nll.nll_loss`.
    total_weight : dask.array.Array
        Sum of the weights of the samples that are not ignored, 0-d. Only if asked for.

    Raises
    ------
    TypeError, ValueError
        As `nll.nll_loss` does, and where chunks are of unknown sizes.
    IndexError
        From ``compute``, if a label is out of range. The message names its position in the whole
        array: the first of those in a chunk.

    See Also
    --------
    nll.nll_loss : Where the parameters are explained at length.

    Examples
    --------
    >>> import dask.array as da
    >>> from nll.dask import nll_loss
    >>> input = da.log(da.from_array([[0.5, 0.5], [0.25, 0.75]], chunks=1))
    >>> nll_loss(input, da.from_array([0, 1])).compute()
    np.float64(0.4904146265058631)
    """
    call = _call_of(
        "nll",
        input,
        target,
        weight,
        sample_weight,
        axis=axis,
        reduction=as_reduction(reduction),
        ignore_index=ignore_index,
        index_base=index_base,
        empty=empty,
        dtype=dtype,
    )
    return call.value(return_total_weight)


def nll_loss_value_and_grad(
    input: DaskArray,
    target: DaskArray,
    weight: DaskArray | None = None,
    *,
    sample_weight: DaskArray | None = None,
    ignore_index: int | None = -100,
    reduction: Reduced = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: Empty = "nan",
    grad_output: float = 1.0,
    return_total_weight: bool = False,
) -> tuple[Any, ...]:
    """Compute the negative log likelihood loss and its gradient in input, lazily.

    The gradient does not need input's numbers: its chunks are made of labels.

    Parameters
    ----------
    input : dask.array.Array, shape (N, C, d1, ..., dk) or (C,)
        Log-probabilities, chunked along any axes.
    target : dask.array.Array of integers, shape (N, d1, ..., dk) or ()
        Labels.
    weight : array_like, shape (C,), optional
        Weight of each class; it may be lazy.
    sample_weight : array_like, optional
        Weight of each sample, of a shape that broadcasts to target's; it may be lazy.
    ignore_index : int or None
        Label of samples to leave out.
    reduction : {"mean", "sum"}
        Reduction of the loss.
    axis : int
        The class axis of input.
    index_base : int
        Label of the first class.
    empty : {"nan", "zero", "raise"}
        What a mean and its gradient are if the total weight is 0.
    grad_output : float
        Gradient of the loss. A lazy one is computed at once.
    return_total_weight : bool
        Return ``(loss, total_weight, grad)``.

    Returns
    -------
    loss : dask.array.Array
        The loss, 0-d.
    total_weight : dask.array.Array
        Sum of the weights of the samples that are not ignored, 0-d. Only if asked for.
    grad : dask.array.Array
        The gradient, with input's shape, dtype and chunks, and the bits of
        `nll.nll_loss_value_and_grad`.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `nll_loss` does.

    See Also
    --------
    nll_loss : The loss alone.

    Examples
    --------
    >>> import dask.array as da
    >>> from nll.dask import nll_loss_value_and_grad
    >>> input = da.log(da.from_array([[0.5, 0.5], [0.25, 0.75]], chunks=1))
    >>> loss, grad = nll_loss_value_and_grad(input, da.from_array([0, 1]), reduction="sum")
    >>> grad.compute()
    array([[-1.,  0.],
           [ 0., -1.]])
    """
    call = _call_of(
        "nll",
        input,
        target,
        weight,
        sample_weight,
        axis=axis,
        reduction=as_word("reduction", reduction, ("sum", "mean")),
        ignore_index=ignore_index,
        index_base=index_base,
        empty=empty,
    )
    return call.value_and_grad(grad_output, return_total_weight)


def cross_entropy(
    input: DaskArray,
    target: DaskArray,
    weight: DaskArray | None = None,
    *,
    sample_weight: DaskArray | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: Empty = "nan",
    label_smoothing: float = 0.0,
    dtype: DTypeLike | None = None,
    return_total_weight: bool = False,
) -> Any:
    """Compute the cross-entropy of lazy logits and labels, lazily.

    Parameters
    ----------
    input : dask.array.Array, shape (N, C, d1, ..., dk) or (C,)
        Logits, chunked along any axes.
    target : dask.array.Array of integers, shape (N, d1, ..., dk) or ()
        Labels.
    weight : array_like, shape (C,), optional
        Weight of each class; it may be lazy.
    sample_weight : array_like, optional
        Weight of each sample, of a shape that broadcasts to target's; it may be lazy.
    ignore_index : int or None
        Label of samples to leave out.
    reduction : {"mean", "sum", "none"}
        Reduction of the loss.
    axis : int
        The class axis of input.
    index_base : int
        Label of the first class.
    empty : {"nan", "zero", "raise"}
        What the mean is if the total weight is 0. "raise" raises from ``compute``.
    label_smoothing : float
        The part of each label that is spread evenly over all classes, in [0, 1].
    dtype : dtype, optional
        The loss's dtype; input's unless given.
    return_total_weight : bool
        Return ``(loss, total_weight)``.

    Returns
    -------
    loss : dask.array.Array
        The loss, 0-d, or of target's shape for "none". It has the bits of `nll.cross_entropy` if
        the class axis is one chunk. If it is not, the bits depend on its chunks alone.
    total_weight : dask.array.Array
        Sum of the weights of the samples that are not ignored, 0-d. Only if asked for.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `nll_loss` does.

    See Also
    --------
    nll.cross_entropy : Where the parameters are explained at length.
    cross_entropy_value_and_grad : The loss and its gradient.

    Examples
    --------
    >>> import dask.array as da
    >>> from nll.dask import cross_entropy
    >>> logits = da.zeros((6, 4), chunks=(2, 2))
    >>> loss = cross_entropy(logits, da.arange(6, chunks=2) % 4)
    >>> loss.compute()
    np.float64(1.3862943611198906)
    """
    call = _call_of(
        "cross_entropy",
        input,
        target,
        weight,
        sample_weight,
        axis=axis,
        reduction=as_reduction(reduction),
        ignore_index=ignore_index,
        index_base=index_base,
        empty=empty,
        label_smoothing=label_smoothing,
        dtype=dtype,
    )
    return call.value(return_total_weight)


def cross_entropy_value_and_grad(
    input: DaskArray,
    target: DaskArray,
    weight: DaskArray | None = None,
    *,
    sample_weight: DaskArray | None = None,
    ignore_index: int | None = -100,
    reduction: Reduced = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: Empty = "nan",
    label_smoothing: float = 0.0,
    grad_output: float = 1.0,
    return_total_weight: bool = False,
) -> tuple[Any, ...]:
    """Compute the cross-entropy and its gradient in the logits, lazily.

    Parameters
    ----------
    input : dask.array.Array, shape (N, C, d1, ..., dk) or (C,)
        Logits, chunked along any axes.
    target : dask.array.Array of integers, shape (N, d1, ..., dk) or ()
        Labels.
    weight : array_like, shape (C,), optional
        Weight of each class; it may be lazy.
    sample_weight : array_like, optional
        Weight of each sample, of a shape that broadcasts to target's; it may be lazy.
    ignore_index : int or None
        Label of samples to leave out.
    reduction : {"mean", "sum"}
        Reduction of the loss.
    axis : int
        The class axis of input.
    index_base : int
        Label of the first class.
    empty : {"nan", "zero", "raise"}
        What a mean and its gradient are if the total weight is 0.
    label_smoothing : float
        The part of each label that is spread evenly over all classes, in [0, 1].
    grad_output : float
        Gradient of the loss. A lazy one is computed at once.
    return_total_weight : bool
        Return ``(loss, total_weight, grad)``.

    Returns
    -------
    loss : dask.array.Array
        As `cross_entropy` returns it.
    total_weight : dask.array.Array
        Sum of the weights of the samples that are not ignored, 0-d. Only if asked for.
    grad : dask.array.Array
        The gradient, with input's shape, dtype and chunks.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `nll_loss` does.

    See Also
    --------
    cross_entropy : The loss alone.

    Examples
    --------
    >>> import dask.array as da
    >>> from nll.dask import cross_entropy_value_and_grad
    >>> loss, grad = cross_entropy_value_and_grad(da.zeros((1, 4), chunks=2), da.from_array([3]))
    >>> grad.compute()
    array([[ 0.25,  0.25,  0.25, -0.75]])
    """
    call = _call_of(
        "cross_entropy",
        input,
        target,
        weight,
        sample_weight,
        axis=axis,
        reduction=as_word("reduction", reduction, ("sum", "mean")),
        ignore_index=ignore_index,
        index_base=index_base,
        empty=empty,
        label_smoothing=label_smoothing,
    )
    return call.value_and_grad(grad_output, return_total_weight)


def log_softmax(input: DaskArray, *, axis: int = 1) -> Any:
    """Compute the logarithm of the softmax of lazy logits, lazily.

    Parameters
    ----------
    input : dask.array.Array, shape (N, C, d1, ..., dk) or (C,)
        Logits, chunked along any axes.
    axis : int
        The class axis.

    Returns
    -------
    dask.array.Array
        Log-probabilities, with input's shape, dtype and chunks. They have the bits of
        `nll.log_softmax` if the class axis is one chunk.

    Raises
    ------
    TypeError, ValueError
        As `nll.log_softmax` does, and where chunks are of unknown sizes.

    See Also
    --------
    cross_entropy : The loss straight from logits: faster, and exact for labels all but certain.

    Examples
    --------
    >>> import dask.array as da
    >>> from nll.dask import log_softmax
    >>> log_softmax(da.from_array([[0.0, 0.0]], chunks=1)).compute()
    array([[-0.69314718, -0.69314718]])
    """
    input = _as_dask("input", input)
    functional.log_softmax(_dummy(input, (0,) * input.ndim), axis=axis)
    position = 0 if input.ndim == 1 else axis % input.ndim
    bounds = _bounds(input.chunks[position])
    samples = input.shape[:position] + input.shape[position + 1 :]
    chunks = input.chunks[:position] + input.chunks[position + 1 :]
    nothing = da.empty(samples, dtype=np.int64, chunks=chunks)
    choices = Choices("log_softmax", position, bounds, input.dtype, "none", None, 0, "nan", 0.0)
    call = _Call(input, nothing, None, None, choices)
    block, dtype = (input, call.index), input.dtype
    if choices.class_chunks == 1:
        function = _blocks.log_softmax_of_block
        return call.blocks(function, call.index, *block, dtype=dtype, axis=position)
    return call.blocks(
        _blocks.log_softmax_of_classes,
        call.index,
        *(*block, *call.of_partials(), *call.of_input()),
        dtype=dtype,
        choices=choices,
    )
