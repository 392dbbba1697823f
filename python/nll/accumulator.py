# SPDX-License-Identifier: BSD-3-Clause
"""Losses over data that comes in batches, in threads, in processes: added up exactly."""

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, Literal

from numpy.typing import ArrayLike, DTypeLike

from . import _core
from ._arguments import (
    as_choices,
    as_group,
    as_groups,
    as_rows,
    as_stacked_rows,
    as_word,
    check_class,
    naming,
)
from ._typing import Array, Empty, Losses, Reduced

# The attributes of an accumulator; others are a subclass's.
_OWN = {"_choices", "_groups", "_kind", "_lacks_weight", "_core", "_update"}


class LossAccumulator:
    r"""A loss over data that comes in batches: the bits of one call over all of it.

    It adds up what each batch holds without any error. So the loss of all samples has the same bits
    as one call of `nll_loss` or `cross_entropy` has, and its state the same bytes, whatever the
    batches, their order, the threads that update it, and the accumulators that were merged into it.

    Parameters
    ----------
    loss : {"nll", "cross_entropy"}
        What is computed of each batch: `nll_loss` of log-probabilities, `cross_entropy` of logits.
    weight : array_like, shape (C,), optional
        Weight of each class. It is copied.
    ignore_index, axis, index_base : int
        As the loss takes them.
    empty : {"nan", "zero", "raise"}
        What the mean is if the total weight is 0.
    label_smoothing : float
        As `cross_entropy` takes it.
    dtype : dtype, optional
        The loss's dtype; that of the inputs unless given, the widest of them if they differ.
    groups : int, optional
        Keep one state for each of so many groups, such as sequences, domains or classes. Results
        are then arrays, (groups,).

    Attributes
    ----------
    state_size : int
        Bytes of a state, S.

    See Also
    --------
    merge : Merge states as bytes.
    nll_loss, cross_entropy : The losses, where the choices are explained at length.

    Notes
    -----
    A state holds the exact sums :math:`\sum w l`, :math:`\sum w`, :math:`\sum v^2`,
    :math:`\sum v w` and :math:`\sum w^2` over the samples that are kept, and counts those and the
    ignored ones. Here :math:`l` is a loss without its weight :math:`w`, and :math:`v` its weighted
    loss as ``reduction="none"`` returns it in float64. It also holds what it is of: the loss, the
    label smoothing, and a digest of the class weights. States of different kinds do not merge.
    ``nll/state.hpp`` in `get_include` has the table of its bytes.

    Methods may be called from many threads at a time, and no update is lost. A call that raises
    leaves the accumulator as it was.

    Examples
    --------
    >>> import numpy as np
    >>> from nll import LossAccumulator
    >>> total = LossAccumulator("cross_entropy")
    >>> for batch in np.eye(3), np.zeros((5, 3)):
    ...     total.update(batch, np.arange(len(batch)) % 3)
    >>> total.compute()
    np.float64(0.8934244481420877)
    >>> total.perplexity, total.count
    (np.float64(2.443482921006334), 8)
    """

    state_size: ClassVar[int] = _core.state_size

    def __init__(
        self,
        loss: Literal["nll"] | Literal["cross_entropy"] = "nll",
        weight: ArrayLike | None = None,
        *,
        ignore_index: int | None = -100,
        axis: int = 1,
        index_base: int = 0,
        empty: Empty = "nan",
        label_smoothing: float = 0.0,
        dtype: DTypeLike | None = None,
        groups: int | None = None,
    ) -> None:
        choices = as_choices(
            weight=weight,
            ignore_index=ignore_index,
            axis=axis,
            index_base=index_base,
            empty=empty,
            label_smoothing=label_smoothing,
            dtype=dtype,
        )
        is_cross_entropy = as_word("loss", loss, ("nll", "cross_entropy")) == "cross_entropy"
        kind = _core.Kind(is_cross_entropy, choices["label_smoothing"], choices["weight"])
        self._begin(kind, choices, as_groups(groups))

    def _begin(self, kind: _core.Kind, choices: dict[str, Any], groups: int | None) -> None:
        self._choices = choices
        self._groups = groups
        self._kind = kind
        self._lacks_weight = kind.has_weights and choices["weight"] is None
        self._core = _core.Accumulator(
            kind,
            choices["weight"],
            choices["ignore_index"],
            choices["axis"],
            choices["index_base"],
            choices["dtype"],
            -1 if groups is None else groups,
        )
        self._update = self._core.update

    def update(
        self,
        input: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        group: ArrayLike | None = None,
    ) -> None:
        """Add the losses of a batch.

        Parameters
        ----------
        input : array_like, shape (N, C, d1, ..., dk) or (C,)
            Log-probabilities or logits, as the loss takes them.
        target : array_like of integers, shape (N, d1, ..., dk) or ()
            Labels.
        sample_weight : array_like, optional
            Weight of each sample: of target's shape, or one that broadcasts to it.
        group : array_like of integers, shape (N, d1, ..., dk) or (), or "target"
            The group of each sample, in [0, groups), of ignored ones too. "target" groups samples
            by their classes, of which there must be `groups`; ignored ones are then not counted.
            With groups only. For each sample of a batch 24 to 40 bytes are allocated: 8 more with
            weights, 8 more if the groups are not in order.

        Raises
        ------
        TypeError, ValueError, IndexError
            As the loss does. The accumulator is then as it was.
        """
        groups: object = None
        if group is not None or self._groups is not None:
            groups = as_group(group, self._groups)
        if self._lacks_weight:
            problem = "the state has class weights, and does not tell them"
            raise ValueError(f"weight is None, but {problem}: pass it to from_bytes")
        self._update(input, target, sample_weight, groups)

    def merge(self, other: "LossAccumulator | bytes | Array") -> None:
        """Add what another accumulator holds.

        Parameters
        ----------
        other : LossAccumulator, bytes or ndarray of uint8
            Another accumulator, its `to_bytes` or its `state`.

        Raises
        ------
        TypeError
            If it is something else.
        ValueError
            If its loss, label smoothing, class weights or number of groups are others, or if the
            bytes are no state. The accumulator is then as it was.
        """
        check_class("other", other)
        if isinstance(other, LossAccumulator):
            if other._groups != self._groups:
                raise ValueError(f"groups is {other._groups}, not {self._groups}")
            with naming("other"):
                self._core.merge(other._core)
        else:
            rows = as_rows("other", other, self._groups, self.state_size)
            with naming("other"):
                self._core.merge_rows(rows)

    def __iadd__(self, other: "LossAccumulator") -> "LossAccumulator":
        if not isinstance(other, LossAccumulator):
            return NotImplemented
        self.merge(other)
        return self

    def __add__(self, other: "LossAccumulator") -> "LossAccumulator":
        if not isinstance(other, LossAccumulator):
            return NotImplemented
        total = self.copy()
        total.merge(other)
        return total

    def __radd__(self, other: Literal[0]) -> "LossAccumulator":
        if isinstance(other, int) and other == 0:  # where sum() begins
            return self.copy()
        return NotImplemented

    def copy(self) -> "LossAccumulator":
        """Copy the accumulator.

        Returns
        -------
        LossAccumulator
            One of the same choices, which holds the same. Attributes of a subclass are shared.
        """
        twin = object.__new__(type(self))
        twin._begin(self._kind, self._choices, self._groups)
        twin._core.merge(self._core)
        vars(twin).update(self._attributes_of_subclasses())
        return twin

    def reset(self) -> None:
        """Forget all samples."""
        self._core.reset()

    def compute(self, reduction: Reduced = "mean") -> Losses:
        """Compute the loss of all samples.

        Parameters
        ----------
        reduction : {"mean", "sum"}
            What to compute.

        Returns
        -------
        NumPy scalar, or ndarray of shape (groups,)
            The loss, rounded once. It is float64 before the first update.

        Raises
        ------
        ValueError
            If the mean is of nothing, and `empty` is "raise".
        """
        word = as_word("reduction", reduction, ("sum", "mean"))
        return self._core.compute(word, self._choices["empty"])

    @property
    def standard_error(self) -> Any:
        r"""Standard error of the mean, if samples were drawn independently.

        It is Cochran's for a ratio of two sums [1]_,

        .. math:: \sqrt{\frac{n}{n - 1} \sum (v - m w)^2} \Big/ \Big|\sum w\Big|

        with the mean :math:`m` and the count :math:`n`; without weights, the standard deviation
        over :math:`\sqrt n`. It is within 8 ULP, also where the losses are nearly equal. NaN for
        fewer than two samples, for a total weight of 0, and where a loss is not finite.

        Returns
        -------
        numpy.float64, or ndarray of shape (groups,)
            The standard error.

        References
        ----------
        .. [1] W. G. Cochran, Sampling Techniques, 3rd ed., Wiley 1977, section 6.4.
        """
        return self._core.standard_error()

    @property
    def perplexity(self) -> Any:
        """Perplexity: e to the power of the mean.

        Returns
        -------
        numpy.float64, or ndarray of shape (groups,)
            It is infinite where it is beyond float64. An empty mean is as `empty` says.
        """
        return self._core.perplexity(self._choices["empty"])

    @property
    def total_weight(self) -> Any:
        """Sum of the weights of the samples that were not ignored.

        Returns
        -------
        numpy.float64, or ndarray of shape (groups,)
            The sum, rounded once.
        """
        return self._core.total_weight()

    @property
    def count(self) -> Any:
        """Number of samples that were not ignored.

        Returns
        -------
        int, or ndarray of shape (groups,)
            The number.
        """
        return self._core.count()

    @property
    def ignored(self) -> Any:
        """Number of samples that were ignored.

        Returns
        -------
        int, or ndarray of shape (groups,)
            The number.
        """
        return self._core.ignored()

    @property
    def groups(self) -> int | None:
        """Number of groups.

        Returns
        -------
        int or None
            The number.
        """
        return self._groups

    @property
    def state(self) -> Array:
        """State as an array of bytes.

        Returns
        -------
        ndarray of uint8, shape (S,) or (groups, S)
            What `to_bytes` returns. It is a copy.
        """
        return self._core.rows()

    def to_bytes(self) -> bytes:
        """Return the state as bytes: S, or S for each group.

        Returns
        -------
        bytes
            The same for equal data in any order; for the losses of logits, on processors that have
            a fused multiply-add, or on those that have none. They hold the sums alone: not
            `ignore_index`, `axis`, `index_base`, `empty`, `dtype`, nor the class weights.
        """
        return self._core.rows().tobytes()

    @classmethod
    def from_bytes(
        cls,
        data: "bytes | Array",
        weight: ArrayLike | None = None,
        *,
        ignore_index: int | None = -100,
        axis: int = 1,
        index_base: int = 0,
        empty: Empty = "nan",
        dtype: DTypeLike | None = None,
        groups: int | None = None,
    ) -> "LossAccumulator":
        """Make an accumulator of a state.

        Parameters
        ----------
        data : bytes or ndarray of uint8
            What `to_bytes` or `state` gave. It says what loss and label smoothing it is of.
        weight : array_like, shape (C,), optional
            The class weights of the state, if it has some: they are needed for updates.
        ignore_index, axis, index_base, empty, dtype : optional
            As the class takes them.
        groups : int, optional
            Number of groups that the bytes are of.

        Returns
        -------
        LossAccumulator
            One that holds what the state holds.

        Raises
        ------
        TypeError
            If an argument has the wrong type.
        ValueError
            If the bytes are no state, or one of other class weights.

        Examples
        --------
        >>> from nll import LossAccumulator
        >>> total = LossAccumulator("nll", [1.0, 2.0])
        >>> total.update([[-0.5, -1.0]], [1])
        >>> LossAccumulator.from_bytes(total.to_bytes()).total_weight
        np.float64(2.0)
        """
        groups = as_groups(groups)
        rows = as_rows("data", data, groups, cls.state_size)
        choices = as_choices(
            weight=weight,
            ignore_index=ignore_index,
            axis=axis,
            index_base=index_base,
            empty=empty,
            label_smoothing=0.0,
            dtype=dtype,
        )
        with naming("data"):
            kind = _core.Kind.of(rows[:1])
        choices["label_smoothing"] = kind.label_smoothing
        if choices["weight"] is not None:
            given = _core.Kind(kind.is_cross_entropy, kind.label_smoothing, choices["weight"])
            kind.check(given)
        accumulator = object.__new__(cls)
        accumulator._begin(kind, choices, groups)
        with naming("data"):
            accumulator._core.merge_rows(rows)
        return accumulator

    def _attributes_of_subclasses(self) -> dict[str, Any]:
        """Return what subclasses have added to the attributes that `_begin` sets."""
        return {name: value for name, value in vars(self).items() if name not in _OWN}

    def __reduce__(self) -> tuple[Any, ...]:
        made_of = (type(self), self.to_bytes(), self._choices, self._groups)
        return _restored, made_of, self._attributes_of_subclasses() or None

    def __repr__(self) -> str:
        choices = self._choices | {"groups": self._groups}
        listed = ", ".join(f"{name}={value!r}" for name, value in choices.items())
        loss = "cross_entropy" if self._kind.is_cross_entropy else "nll"
        return f"{type(self).__name__}({loss!r}, {listed})"


def _restored(
    cls: type[LossAccumulator],
    data: bytes,
    choices: dict[str, Any],
    groups: int | None,
) -> LossAccumulator:
    """Make a pickled accumulator again."""
    named = {name: value for name, value in choices.items() if name != "label_smoothing"}
    return cls.from_bytes(data, **named, groups=groups)


def merge(states: "Array | Sequence[bytes | Array]") -> Array:
    """Merge states as bytes.

    The result has the same bytes for any order, and for states that were merged before.

    Parameters
    ----------
    states : array_like of uint8, shape (k, ..., S), or sequence of bytes
        States along the first axis, as `LossAccumulator.state` or `LossAccumulator.to_bytes` gives
        them. States of groups, (k, groups, S), are merged group by group.

    Returns
    -------
    ndarray of uint8, shape (..., S)
        The merged state, for `LossAccumulator.from_bytes`.

    Raises
    ------
    TypeError
        If it is not an array of uint8.
    ValueError
        If there is none, if one is no state (damaged, cut, or made up), or if they differ in their
        loss, label smoothing or class weights. The message says which, and in what.

    See Also
    --------
    LossAccumulator : Where states come from.

    Examples
    --------
    >>> from nll import LossAccumulator, merge
    >>> parts = [LossAccumulator("nll") for _ in range(3)]
    >>> for i, part in enumerate(parts):
    ...     part.update([[-1.0 - i]], [0])
    >>> LossAccumulator.from_bytes(merge([part.state for part in parts])).compute()
    np.float64(2.0)
    """
    rows = as_stacked_rows(states, _core.state_size)
    count, *groups, size = rows.shape
    return _core.merge(rows.reshape(count, prod(groups), size)).reshape(*groups, size)
