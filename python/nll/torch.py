# SPDX-License-Identifier: BSD-3-Clause
"""The losses on PyTorch's CPU tensors, in PyTorch's own terms.

``nll.torch.cross_entropy`` and ``nll.torch.nll_loss`` take the place of their namesakes in
``torch.nn.functional``, and ``CrossEntropyLoss`` and ``NLLLoss`` of those in ``torch.nn``: in a
training loop, only the line of the loss changes. The package wants PyTorch and ml_dtypes:
``python -m pip install "nll[torch]"``.

>>> import torch
>>> import nll.torch
>>> logits = torch.tensor([[2.0, 0.5, 0.1], [0.0, 3.0, 0.0]], requires_grad=True)
>>> loss = nll.torch.cross_entropy(logits, torch.tensor([0, 1]))
>>> loss.backward()
>>> loss.item()
0.20585083961486816
>>> logits.grad
tensor([[-0.1358,  0.0813,  0.0545],
        [ 0.0226, -0.0453,  0.0226]])

What is the same: the names of the arguments, their order and defaults, shapes, the values of all
reductions, autograd. What is new:

* `sample_weight` is a weight for each sample, pixel or token, which multiplies that of its class.
* `axis` is the class axis (-1 for channels-last), `index_base` the label of the first class,
  `empty` what a mean without samples is, `dtype` the loss's dtype. `ignore_index` may be None.
* target may have any integer dtype, weight any float or integer dtype, whatever input's dtype is.
* A bad label raises IndexError with its position, its value and the rule.
* Sums are exact: the same bits for any number of threads and any order, and no overflow of float16
  or stagnation of bfloat16 in between. There is nothing that is not deterministic.

What is refused, by a TypeError that says so: tensors that are not on the CPU, sparse, quantised,
nested or complex ones, class probabilities as target, and weights that require a gradient.

Memory and time. Tensors of the four float dtypes and of all integer dtypes are read where they are,
with any strides. `cross_entropy` of a reduced loss computes the gradient in the sweep that computes
the loss; backward returns it as it is where the gradient of the loss is 1, and scales it in place
otherwise. So between forward and backward one array of input's size is kept (PyTorch: the
log-softmax). float16, whose gradient must be scaled before it is rounded, reduction "none" and
`nll_loss` keep input instead and compute the gradient in backward.

Transformations. ``torch.compile`` and ``torch.export`` see the operators ``torch.ops.nll.nll_loss``
and ``torch.ops.nll.cross_entropy`` and their ``_backward``: no graph break. They keep input and
compute the gradient in backward, which costs a compiled graph no more than scaling a copy would.
``torch.func.grad`` and ``torch.vmap`` work, vmap by one call for each slice; they ignore no uint64
label beyond int64. Under ``torch.autocast("cpu")``, losses of half precision are float32, as
PyTorch's are, but input is not copied for that. Second derivatives and forward-mode derivatives
raise an error. ``torch.jit.trace`` runs the losses, but what it made cannot be saved: save what
``torch.export.export`` makes.

Threads. Where nll and PyTorch are built with the same OpenMP library, as on Linux, they share its
threads, and ``torch.set_num_threads`` holds for both.
"""

try:
    import ml_dtypes  # noqa: F401
    import torch
except ModuleNotFoundError as error:
    needs = 'nll.torch needs PyTorch and ml_dtypes: python -m pip install "nll[torch]"'
    raise ModuleNotFoundError(f"{needs} ({error})", name=error.name) from error
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from ._torch import CROSS_ENTROPY, NLL_LOSS, compute, reduction_of

__all__ = ["CrossEntropyLoss", "NLLLoss", "cross_entropy", "nll_loss"]


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int | None = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    sample_weight: Tensor | None = None,
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Compute the negative log likelihood loss of log-probabilities.

    It is `nll.nll_loss` of tensors, with the arguments of ``torch.nn.functional.nll_loss`` [1]_.

    Parameters
    ----------
    input : Tensor, shape (N, C, d1, ..., dk) or (C,)
        Log-probabilities in float16, bfloat16, float32 or float64, in the CPU's memory.
    target : Tensor of integers, shape (N, d1, ..., dk) or ()
        Labels: input's shape without the class axis, in any integer dtype.
    weight : Tensor, shape (C,), optional
        Weight of each class, in any of the float or integer dtypes. It gets no gradient.
    size_average : bool, optional
        What PyTorch had before `reduction`. It overrides that, with a warning.
    ignore_index : int or None
        Label of samples to leave out. None leaves out nothing.
    reduce : bool, optional
        Like `size_average`.
    reduction : {"mean", "sum", "none"}
        "none" returns the loss of each sample.
    sample_weight : Tensor, optional
        Weight of each sample: of target's shape, or one that broadcasts to it. It gets no gradient.
    axis : int
        The class axis of input; negative axes count from the end, so that -1 is channels-last.
    index_base : int
        Label of the first class: 1 if the labels count from 1.
    empty : {"nan", "zero", "raise"}
        What the mean is if the total weight is 0: the IEEE quotient, +0, or a ValueError.
    dtype : torch.dtype, optional
        The loss's dtype; input's unless given, float32 for half precision under autocast.

    Returns
    -------
    Tensor
        The loss: without dimensions, or of target's shape for "none".

    Raises
    ------
    TypeError
        If a tensor is of the wrong dtype, not on the CPU, sparse, quantised, nested or complex.
    ValueError
        If a shape, length, word or value is wrong; numpy.exceptions.AxisError for `axis`.
    IndexError
        If a label is neither ignored nor in [index_base, index_base + C). The message names the
        first such position.

    See Also
    --------
    cross_entropy : The loss straight from logits.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.nll_loss.html

    Examples
    --------
    >>> import torch
    >>> import nll.torch
    >>> input = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]).log()
    >>> nll.torch.nll_loss(input, torch.tensor([0, 1]))
    tensor(0.2899)
    """
    if has_torch_function_variadic(input, target, weight, sample_weight):
        return handle_torch_function(
            nll_loss,
            (input, target, weight, sample_weight),
            input,
            target,
            weight=weight,
            sample_weight=sample_weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            axis=axis,
            index_base=index_base,
            empty=empty,
            dtype=dtype,
        )
    if size_average is not None or reduce is not None:
        reduction = reduction_of(size_average, reduce)
    choices = (ignore_index, reduction, axis, index_base, empty)
    return compute(NLL_LOSS, input, target, weight, sample_weight, choices, dtype)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int | None = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    sample_weight: Tensor | None = None,
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Compute the cross-entropy of logits and labels.

    It is `nll.cross_entropy` of tensors, with the arguments of
    ``torch.nn.functional.cross_entropy`` [1]_, but for class probabilities as target.

    Parameters
    ----------
    input : Tensor, shape (N, C, d1, ..., dk) or (C,)
        Logits in float16, bfloat16, float32 or float64, in the CPU's memory.
    target : Tensor of integers, shape (N, d1, ..., dk) or ()
        Labels: input's shape without the class axis, in any integer dtype.
    weight : Tensor, shape (C,), optional
        Weight of each class, in any of the float or integer dtypes. It gets no gradient.
    size_average : bool, optional
        What PyTorch had before `reduction`. It overrides that, with a warning.
    ignore_index : int or None
        Label of samples to leave out. None leaves out nothing.
    reduce : bool, optional
        Like `size_average`.
    reduction : {"mean", "sum", "none"}
        "none" returns the loss of each sample.
    label_smoothing : float
        The part of each label that is spread evenly over all classes, in [0, 1].
    sample_weight : Tensor, optional
        Weight of each sample: of target's shape, or one that broadcasts to it. It gets no gradient.
    axis : int
        The class axis of input; negative axes count from the end, so that -1 is channels-last.
    index_base : int
        Label of the first class: 1 if the labels count from 1.
    empty : {"nan", "zero", "raise"}
        What the mean is if the total weight is 0: the IEEE quotient, +0, or a ValueError.
    dtype : torch.dtype, optional
        The loss's dtype; input's unless given, float32 for half precision under autocast.

    Returns
    -------
    Tensor
        The loss: without dimensions, or of target's shape for "none".

    Raises
    ------
    TypeError, ValueError, IndexError
        As `nll_loss` does; TypeError also for class probabilities.

    See Also
    --------
    nll_loss : The loss of log-probabilities.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html

    Examples
    --------
    >>> import torch
    >>> import nll.torch
    >>> logits = torch.tensor([[20.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> nll.torch.cross_entropy(logits, torch.tensor([0, 1]), reduction="none")
    tensor([4.1223e-09, 5.5144e-01])
    """
    if has_torch_function_variadic(input, target, weight, sample_weight):
        return handle_torch_function(
            cross_entropy,
            (input, target, weight, sample_weight),
            input,
            target,
            weight=weight,
            sample_weight=sample_weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            label_smoothing=label_smoothing,
            axis=axis,
            index_base=index_base,
            empty=empty,
            dtype=dtype,
        )
    if size_average is not None or reduce is not None:
        reduction = reduction_of(size_average, reduce)
    choices = (ignore_index, reduction, axis, index_base, empty, label_smoothing)
    return compute(CROSS_ENTROPY, input, target, weight, sample_weight, choices, dtype)


class NLLLoss(torch.nn.NLLLoss):  # type: ignore[misc]
    """The negative log likelihood loss as a module, a ``torch.nn.NLLLoss``.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, axis, index_base, empty, dtype : optional
        As `nll_loss` takes them. weight becomes a buffer.

    See Also
    --------
    nll_loss : The loss as a function.

    Examples
    --------
    >>> import torch
    >>> import nll.torch
    >>> criterion = nll.torch.NLLLoss(ignore_index=255)
    >>> criterion(torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log(), torch.tensor([0, 255]))
    tensor(0.6931)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int | None = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        *,
        axis: int = 1,
        index_base: int = 0,
        empty: str = "nan",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction)
        self.axis, self.index_base, self.empty, self.dtype = axis, index_base, empty, dtype

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Parameters
        ----------
        input : Tensor, shape (N, C, d1, ..., dk) or (C,)
            Log-probabilities.
        target : Tensor of integers, shape (N, d1, ..., dk) or ()
            Labels.
        sample_weight : Tensor, optional
            Weight of each sample.

        Returns
        -------
        Tensor
            The loss.
        """
        return nll_loss(
            input,
            target,
            self.weight,
            sample_weight=sample_weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            axis=self.axis,
            index_base=self.index_base,
            empty=self.empty,
            dtype=self.dtype,
        )


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):  # type: ignore[misc]
    """The cross-entropy of logits and labels as a module, a ``torch.nn.CrossEntropyLoss``.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing : optional
        As `cross_entropy` takes them. weight becomes a buffer.
    axis, index_base, empty, dtype : optional
        Likewise.

    See Also
    --------
    cross_entropy : The loss as a function.

    Examples
    --------
    >>> import torch
    >>> import nll.torch
    >>> criterion = nll.torch.CrossEntropyLoss(reduction="sum")
    >>> criterion(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor(2.7726)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int | None = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        axis: int = 1,
        index_base: int = 0,
        empty: str = "nan",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.axis, self.index_base, self.empty, self.dtype = axis, index_base, empty, dtype

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Parameters
        ----------
        input : Tensor, shape (N, C, d1, ..., dk) or (C,)
            Logits.
        target : Tensor of integers, shape (N, d1, ..., dk) or ()
            Labels.
        sample_weight : Tensor, optional
            Weight of each sample.

        Returns
        -------
        Tensor
            The loss.
        """
        return cross_entropy(
            input,
            target,
            self.weight,
            sample_weight=sample_weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            axis=self.axis,
            index_base=self.index_base,
            empty=self.empty,
            dtype=self.dtype,
        )
