# SPDX-License-Identifier: BSD-3-Clause
"""The losses as objects: the choices bound once, no other state."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from numpy.typing import ArrayLike, DTypeLike

from . import functional


@dataclass(frozen=True, eq=False)
class NLLLoss:
    """The negative log likelihood loss with its choices bound.

    Parameters
    ----------
    weight, ignore_index, reduction, axis, index_base, empty, dtype, return_total_weight
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

    weight: ArrayLike | None = None
    _: KW_ONLY
    ignore_index: int | None = -100
    reduction: str = "mean"
    axis: int = 1
    index_base: int = 0
    empty: str = "nan"
    dtype: DTypeLike | None = None
    return_total_weight: bool = False

    def __call__(self, input: ArrayLike, target: ArrayLike) -> Any:
        """Compute the loss, as `nll_loss` does.

        Parameters
        ----------
        input : array_like, shape (N, C, d1, ..., dk) or (C,)
            Log-probabilities.
        target : array_like of integers, shape (N, d1, ..., dk) or ()
            Labels.

        Returns
        -------
        NumPy scalar, ndarray or tuple
            The loss; ``(loss, total_weight)`` if that was chosen.
        """
        return functional.nll_loss(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            axis=self.axis,
            index_base=self.index_base,
            empty=self.empty,
            dtype=self.dtype,
            return_total_weight=self.return_total_weight,
        )

    def backward(self, grad_output: ArrayLike, input: ArrayLike, target: ArrayLike, out: Any = None) -> Any:
        """Compute the gradient, as `nll_loss_backward` does.

        Parameters
        ----------
        grad_output : float, or array_like of floats of target's shape for "none"
            Gradient of the loss.
        input : array_like, shape (N, C, d1, ..., dk) or (C,)
            Gives the gradient its shape and dtype.
        target : array_like of integers, shape (N, d1, ..., dk) or ()
            Labels.
        out : ndarray, optional
            Where to write the gradient.

        Returns
        -------
        ndarray
            The gradient of input.
        """
        return functional.nll_loss_backward(
            grad_output,
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            axis=self.axis,
            index_base=self.index_base,
            empty=self.empty,
            out=out,
        )

    def value_and_grad(self, input: ArrayLike, target: ArrayLike, out: Any = None) -> Any:
        """Compute the loss and its gradient, as `nll_loss_value_and_grad` does.

        Parameters
        ----------
        input : array_like, shape (N, C, d1, ..., dk) or (C,)
            Log-probabilities.
        target : array_like of integers, shape (N, d1, ..., dk) or ()
            Labels.
        out : ndarray, optional
            Where to write the gradient.

        Returns
        -------
        tuple
            ``(loss, grad)``, or ``(loss, total_weight, grad)`` if that was chosen.
        """
        return functional.nll_loss_value_and_grad(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            axis=self.axis,
            index_base=self.index_base,
            empty=self.empty,
            return_total_weight=self.return_total_weight,
            out=out,
        )
