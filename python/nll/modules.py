# SPDX-License-Identifier: BSD-3-Clause
"""The losses as objects: the choices bound once, no other state."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, NamedTuple

from numpy.typing import ArrayLike, DTypeLike

from . import functional
from ._typing import Array, Empty, Reduction


class Functions(NamedTuple):
    """The functions of one loss."""

    value: Callable[..., Any]
    backward: Callable[..., Array]
    value_and_grad: Callable[..., tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class BoundLoss:
    """A loss whose choices are the attributes of the object."""

    _functions: ClassVar[Functions]

    weight: ArrayLike | None = None
    _: KW_ONLY
    ignore_index: int | None = -100
    reduction: Reduction = "mean"
    axis: int = 1
    index_base: int = 0
    empty: Empty = "nan"
    dtype: DTypeLike | None = None
    return_total_weight: bool = False

    def __call__(
        self,
        input: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> Any:
        """Compute the loss.

        Parameters
        ----------
        input : array_like, shape (N, C, d1, ..., dk) or (C,)
            What the loss is computed from, as its function takes it.
        target : array_like of integers, shape (N, d1, ..., dk) or ()
            Labels.
        sample_weight : array_like, optional
            Weight of each sample: of target's shape, or one that broadcasts to it.

        Returns
        -------
        NumPy scalar, ndarray or tuple
            The loss; ``(loss, total_weight)`` if that was chosen.
        """
        return self._functions.value(input, target, sample_weight=sample_weight, **vars(self))

    def backward(
        self,
        grad_output: ArrayLike,
        input: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        out: Array | None = None,
    ) -> Array:
        """Compute the gradient of input.

        Parameters
        ----------
        grad_output : float, or array_like of floats of target's shape for "none"
            Gradient of the loss.
        input : array_like, shape (N, C, d1, ..., dk) or (C,)
            As for the loss.
        target : array_like of integers, shape (N, d1, ..., dk) or ()
            Labels.
        sample_weight : array_like, optional
            Weight of each sample: of target's shape, or one that broadcasts to it.
        out : ndarray, optional
            Where to write the gradient.

        Returns
        -------
        ndarray
            The gradient of input.
        """
        choices = dict(vars(self))
        del choices["dtype"], choices["return_total_weight"]
        choices["sample_weight"] = sample_weight
        return self._functions.backward(grad_output, input, target, **choices, out=out)

    def value_and_grad(
        self,
        input: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        out: Array | None = None,
    ) -> tuple[Any, ...]:
        """Compute the loss and the gradient of input.

        Parameters
        ----------
        input : array_like, shape (N, C, d1, ..., dk) or (C,)
            As for the loss.
        target : array_like of integers, shape (N, d1, ..., dk) or ()
            Labels.
        sample_weight : array_like, optional
            Weight of each sample: of target's shape, or one that broadcasts to it.
        out : ndarray, optional
            Where to write the gradient.

        Returns
        -------
        tuple
            ``(loss, grad)``, or ``(loss, total_weight, grad)`` if that was chosen.
        """
        choices = dict(vars(self))
        del choices["dtype"]
        choices["sample_weight"] = sample_weight
        return self._functions.value_and_grad(input, target, **choices, out=out)


@dataclass(frozen=True, eq=False)
class NLLLoss(BoundLoss):
    """The negative log likelihood loss with its choices bound.

    Parameters
    ----------
    weight, ignore_index, reduction, axis, index_base, empty, dtype, return_total_weight : optional
        As `nll_loss` takes them. They are checked when the loss is computed.

    See Also
    --------
    nll_loss : The loss as a function.

    Examples
    --------
    >>> import numpy as np
    >>> from nll import NLLLoss
    >>> loss_fn = NLLLoss(ignore_index=255)
    >>> loss_fn(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 255])
    np.float64(0.6931471805599453)
    """

    _functions = Functions(
        functional.nll_loss,
        functional.nll_loss_backward,
        functional.nll_loss_value_and_grad,
    )


@dataclass(frozen=True, eq=False)
class CrossEntropyLoss(BoundLoss):
    """The cross-entropy of logits with its choices bound.

    Parameters
    ----------
    weight, ignore_index, reduction, axis, index_base, empty, dtype, return_total_weight : optional
        As `cross_entropy` takes them. They are checked when the loss is computed.
    label_smoothing : float
        Likewise.

    See Also
    --------
    cross_entropy : The loss as a function.

    Examples
    --------
    >>> import numpy as np
    >>> from nll import CrossEntropyLoss
    >>> loss_fn = CrossEntropyLoss(reduction="sum")
    >>> loss_fn(np.zeros((2, 4)), [0, 3])
    np.float64(2.772588722239781)
    """

    label_smoothing: float = field(default=0.0, kw_only=True)

    _functions = Functions(
        functional.cross_entropy,
        functional.cross_entropy_backward,
        functional.cross_entropy_value_and_grad,
    )
