# SPDX-License-Identifier: BSD-3-Clause
"""The losses as functions of NumPy arrays.

Each function hands its arguments to the extension as they are. Only if one of them is not native, or the result has
to go into `out`, do they pass through `_arguments`, which converts or explains them.
"""

from typing import Any

from numpy.typing import ArrayLike, DTypeLike

from . import _arguments, _core


def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
    dtype: DTypeLike | None = None,
    return_total_weight: bool = False,
) -> Any:
    r"""Compute the negative log likelihood loss of log-probabilities.

    The loss of a sample with label :math:`t` and log-probabilities :math:`x` is :math:`-w_t x_t`, in nats if the
    logarithms are natural. ``"sum"`` and ``"mean"`` are

    .. math:: \sum_n -w_{t_n} x_{n, t_n} \qquad \frac{\sum_n -w_{t_n} x_{n, t_n}}{\sum_n w_{t_n}}

    over the samples that are not ignored: the true values for the given numbers, rounded once. So they have the same
    bits for any number of threads, order of the samples and memory layout.

    Parameters
    ----------
    input : array_like, shape (N, C, d1, ..., dk) or (C,)
        Log-probabilities in float16, bfloat16 (of ml_dtypes), float32 or float64. Any strides are read in place; only
        arrays that are unaligned or byte-swapped are copied.
    target : array_like of integers, shape (N, d1, ..., dk) or ()
        Labels: input's shape without the class axis, in any integer dtype.
    weight : array_like, shape (C,), optional
        Weight of each class, in any of the float dtypes or integers up to 2^53. 1 unless given.
    ignore_index : int or None
        Label of samples to leave out: their loss is 0, and nothing of their input is used. Compared as an integer,
        whatever target's dtype; None leaves out nothing.
    reduction : {"mean", "sum", "none"}
        "none" returns the loss of each sample, the product in float64 rounded to the result's dtype.
    axis : int
        The class axis of input. 1 is also the only axis of a 1-d input; negative axes count from the end, so that
        -1 is channels-last.
    index_base : int
        Label of the first class: 1 for data that count from 1.
    empty : {"nan", "zero", "raise"}
        What a mean is whose total weight is 0: the IEEE quotient (NaN, or infinite), +0, or ValueError.
    dtype : dtype, optional
        Of the loss; input's unless given.
    return_total_weight : bool
        Return ``(loss, total_weight)``.

    Returns
    -------
    loss : NumPy scalar, or ndarray of target's shape for "none"
        The loss. A 0-d target gives a scalar for "none" too.
    total_weight : numpy.float64
        Sum of the weights of the samples that are not ignored, rounded once. Only if asked for.

    Raises
    ------
    TypeError
        If an argument has the wrong dtype or is the wrong kind of object, such as a masked array, or an array that
        is not on the CPU or requires a gradient.
    ValueError
        If a shape, length, word or value is wrong; numpy.exceptions.AxisError for `axis`.
    IndexError
        If a label is neither ignored nor in [index_base, index_base + C). Names the first such position.

    See Also
    --------
    nll_loss_value_and_grad : The loss and its gradient.
    NLLLoss : The same choices for many calls.

    Notes
    -----
    The loss is that of PyTorch's ``NLLLoss`` and ONNX's ``NegativeLogLikelihoodLoss`` [1]_.

    References
    ----------
    .. [1] https://onnx.ai/onnx/operators/onnx__NegativeLogLikelihoodLoss.html

    Examples
    --------
    >>> import numpy as np
    >>> from nll import nll_loss
    >>> probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    >>> nll_loss(np.log(probabilities), [0, 1, -100])
    np.float64(0.2899092476264711)
    >>> nll_loss(np.log(probabilities), [0, 1, 2], weight=[1.0, 0.5, 2.0], reduction="none")
    array([0.35667494, 0.11157178, 1.83258146])
    """
    try:
        return _core.nll_loss(
            input, target, weight, ignore_index, reduction, axis, index_base, empty, dtype, return_total_weight
        )
    except _core.NotNative:
        pass
    array = _arguments.as_input(input)
    return _core.nll_loss(
        array,
        _arguments.as_target(target),
        *_arguments.as_choices(array.ndim, weight, ignore_index, reduction, axis, index_base, empty),
        _arguments.as_dtype(dtype),
        bool(return_total_weight),
    )


def nll_loss_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
    out: Any = None,
) -> Any:
    r"""Compute the gradient of the negative log likelihood loss with respect to input.

    It is :math:`-w_t g` at the target of each sample that is not ignored, for "mean" divided by :math:`\sum w_t`
    (rounded to float64): in float64, in this order, rounded once. Elsewhere it is exactly +0.

    Parameters
    ----------
    grad_output : float, or array_like of floats of target's shape for "none"
        Gradient of the loss, :math:`g`.
    input : array_like, shape (N, C, d1, ..., dk) or (C,)
        Gives the gradient its shape and dtype, and is not read.
    target : array_like of integers, shape (N, d1, ..., dk) or ()
        Labels.
    weight : array_like, shape (C,), optional
        Weight of each class.
    ignore_index : int or None
        Label of samples to leave out.
    reduction : {"mean", "sum", "none"}
        Of the loss.
    axis : int
        The class axis of input.
    index_base : int
        Label of the first class.
    empty : {"nan", "zero", "raise"}
        What the gradient of a mean is whose total weight is 0: the IEEE quotients, all +0, or ValueError.
    out : ndarray, optional
        Where to write the gradient: of input's shape and dtype, with memory of its own.

    Returns
    -------
    ndarray
        The gradient, in input's memory order; `out` itself if it was given.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `nll_loss` does. Then `out` is as it was.

    See Also
    --------
    nll_loss : Where the parameters are explained at length.
    nll_loss_value_and_grad : The loss and its gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from nll import nll_loss_backward
    >>> nll_loss_backward(1.0, np.zeros((2, 3)), [0, 2])
    array([[-0.5,  0. ,  0. ],
           [ 0. ,  0. , -0.5]])
    """
    if out is None or _core.is_plain_out(out, input, False, target, weight, grad_output):
        try:
            return _core.nll_loss_backward(
                grad_output, input, target, weight, ignore_index, reduction, axis, index_base, empty, out
            )
        except _core.NotNative:
            pass
    array, labels = _arguments.as_input(input), _arguments.as_target(target)
    choices = _arguments.as_choices(array.ndim, weight, ignore_index, reduction, axis, index_base, empty)
    gradient = _arguments.as_grad_output(grad_output, reduction)
    memory = _arguments.as_out(out, array, input=array, target=labels, weight=choices[0], grad_output=gradient)
    result = _core.nll_loss_backward(gradient, array, labels, *choices, memory)
    return result if out is None else out


def nll_loss_value_and_grad(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
    grad_output: ArrayLike = 1.0,
    return_total_weight: bool = False,
    out: Any = None,
) -> Any:
    """Compute the negative log likelihood loss and its gradient with respect to input.

    Parameters
    ----------
    input : array_like, shape (N, C, d1, ..., dk) or (C,)
        Log-probabilities in float16, bfloat16, float32 or float64.
    target : array_like of integers, shape (N, d1, ..., dk) or ()
        Labels.
    weight : array_like, shape (C,), optional
        Weight of each class.
    ignore_index : int or None
        Label of samples to leave out.
    reduction : {"mean", "sum"}
        Of the loss.
    axis : int
        The class axis of input.
    index_base : int
        Label of the first class.
    empty : {"nan", "zero", "raise"}
        What a mean and its gradient are if the total weight is 0.
    grad_output : float
        Gradient of the loss.
    return_total_weight : bool
        Return ``(loss, total_weight, grad)``.
    out : ndarray, optional
        Where to write the gradient: of input's shape and dtype, with memory of its own. Used again and again it
        saves the time that new memory costs, which for large arrays is most of it.

    Returns
    -------
    loss : NumPy scalar
        As `nll_loss` returns it.
    total_weight : numpy.float64
        Sum of the weights of the samples that are not ignored. Only if asked for.
    grad : ndarray
        As `nll_loss_backward` returns it; `out` itself if it was given.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `nll_loss` does. Then `out` is as it was.

    See Also
    --------
    nll_loss : Where the parameters are explained at length.

    Examples
    --------
    >>> import numpy as np
    >>> from nll import nll_loss_value_and_grad
    >>> loss, grad = nll_loss_value_and_grad(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 1], reduction="sum")
    >>> loss
    np.float64(0.9808292530117262)
    >>> grad
    array([[-1.,  0.],
           [ 0., -1.]])
    """
    if out is None or _core.is_plain_out(out, input, False, target, weight):
        try:
            return _core.nll_loss_value_and_grad(
                input,
                target,
                weight,
                ignore_index,
                reduction,
                axis,
                index_base,
                empty,
                grad_output,
                return_total_weight,
                out,
            )
        except _core.NotNative:
            pass
    array, labels = _arguments.as_input(input), _arguments.as_target(target)
    choices = _arguments.as_choices(array.ndim, weight, ignore_index, reduction, axis, index_base, empty)
    number = _arguments.as_number("grad_output", grad_output)
    memory = _arguments.as_out(out, array, input=array, target=labels, weight=choices[0])
    *loss, grad = _core.nll_loss_value_and_grad(array, labels, *choices, number, bool(return_total_weight), memory)
    return (*loss, grad if out is None else out)


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
    label_smoothing: float = 0.0,
    dtype: DTypeLike | None = None,
    return_total_weight: bool = False,
) -> Any:
    r"""Compute the cross-entropy of logits and labels, the negative log likelihood of their log-softmax.

    The loss of a sample with label :math:`t` and logits :math:`x` is

    .. math:: l = w_t \left( \log \sum_c e^{x_c} - x_t \right)

    in nats. It is within 0.51 units in the last place (ULP) of the true value for float16, bfloat16 and float32, also
    where the label is all but certain; within 4 for float64. The losses, in float64 and before they are rounded, are
    added up exactly: ``"sum"`` is :math:`\sum l`, and ``"mean"`` is :math:`\sum l / \sum w_t` over the samples that
    are not ignored. So they have the same bits for any number of threads, order of the samples and memory layout.

    Parameters
    ----------
    input : array_like, shape (N, C, d1, ..., dk) or (C,)
        Logits in float16, bfloat16 (of ml_dtypes), float32 or float64. Any strides are read in place; only arrays that
        are unaligned or byte-swapped are copied. -inf is a probability of 0; a sample with +inf, or with nothing but
        -inf, has the loss NaN.
    target : array_like of integers, shape (N, d1, ..., dk) or ()
        Labels: input's shape without the class axis, in any integer dtype.
    weight : array_like, shape (C,), optional
        Weight of each class, in any of the float dtypes or integers up to 2^53. 1 unless given.
    ignore_index : int or None
        Label of samples to leave out: their loss is 0, and nothing of their input is used. Compared as an integer,
        whatever target's dtype; None leaves out nothing.
    reduction : {"mean", "sum", "none"}
        "none" returns the loss of each sample.
    axis : int
        The class axis of input. 1 is also the only axis of a 1-d input; negative axes count from the end, so that
        -1 is channels-last.
    index_base : int
        Label of the first class: 1 for data that count from 1.
    empty : {"nan", "zero", "raise"}
        What a mean is whose total weight is 0: the IEEE quotient (NaN, or infinite), +0, or ValueError.
    label_smoothing : float
        In [0, 1]: so much of each label is spread over all classes alike. With :math:`s` for it, a sample's loss is
        :math:`(1 - s)\, l + \frac{s}{C} \sum_c w_c (\log \sum_k e^{x_k} - x_c)`; a mean is still divided by
        :math:`\sum w_t`.
    dtype : dtype, optional
        Of the loss; input's unless given.
    return_total_weight : bool
        Return ``(loss, total_weight)``.

    Returns
    -------
    loss : NumPy scalar, or ndarray of target's shape for "none"
        The loss. A 0-d target gives a scalar for "none" too.
    total_weight : numpy.float64
        Sum of the weights of the samples that are not ignored, rounded once. Only if asked for.

    Raises
    ------
    TypeError
        If an argument has the wrong dtype or is the wrong kind of object, such as a masked array, or an array that
        is not on the CPU or requires a gradient.
    ValueError
        If a shape, length, word or value is wrong; numpy.exceptions.AxisError for `axis`.
    IndexError
        If a label is neither ignored nor in [index_base, index_base + C). Names the first such position.

    See Also
    --------
    cross_entropy_value_and_grad : The loss and its gradient.
    nll_loss : The same from log-probabilities.
    CrossEntropyLoss : The same choices for many calls.

    Notes
    -----
    The loss is that of PyTorch's ``CrossEntropyLoss`` with class indices [1]_ and ONNX's ``SoftmaxCrossEntropyLoss``.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html

    Examples
    --------
    >>> import numpy as np
    >>> from nll import cross_entropy
    >>> logits = np.array([[20, 0, 0], [0, 1, 0]], np.float32)
    >>> cross_entropy(logits, [0, 1], reduction="none")
    array([4.1223074e-09, 5.5144471e-01], dtype=float32)
    >>> cross_entropy(logits, [0, 1], label_smoothing=0.1)
    np.float32(0.9757224)
    """
    try:
        return _core.cross_entropy(
            input,
            target,
            weight,
            ignore_index,
            reduction,
            axis,
            index_base,
            empty,
            label_smoothing,
            dtype,
            return_total_weight,
        )
    except _core.NotNative:
        pass
    array = _arguments.as_input(input)
    return _core.cross_entropy(
        array,
        _arguments.as_target(target),
        *_arguments.as_choices(array.ndim, weight, ignore_index, reduction, axis, index_base, empty),
        _arguments.as_label_smoothing(label_smoothing),
        _arguments.as_dtype(dtype),
        bool(return_total_weight),
    )


def cross_entropy_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
    label_smoothing: float = 0.0,
    out: Any = None,
) -> Any:
    r"""Compute the gradient of the cross-entropy with respect to the logits.

    It is :math:`w_t g (p_c - [c = t])` with the softmax :math:`p`, for "mean" divided by :math:`\sum w_t`; exactly +0
    for samples that are ignored. Each element is within 0.51 ULP of the true value (4 for float64), also at a target
    that is all but certain; with label smoothing, of the largest of the terms that are added.

    Parameters
    ----------
    grad_output : float, or array_like of floats of target's shape for "none"
        Gradient of the loss, :math:`g`.
    input : array_like, shape (N, C, d1, ..., dk) or (C,)
        Logits.
    target : array_like of integers, shape (N, d1, ..., dk) or ()
        Labels.
    weight : array_like, shape (C,), optional
        Weight of each class.
    ignore_index : int or None
        Label of samples to leave out.
    reduction : {"mean", "sum", "none"}
        Of the loss.
    axis : int
        The class axis of input.
    index_base : int
        Label of the first class.
    empty : {"nan", "zero", "raise"}
        What the gradient of a mean is whose total weight is 0: the IEEE quotients, all +0, or ValueError.
    label_smoothing : float
        Of the loss.
    out : ndarray, optional
        Where to write the gradient: of input's shape and dtype. It may be input itself, or an array of the same
        memory and strides; otherwise it must share no memory with the arguments.

    Returns
    -------
    ndarray
        The gradient, in input's memory order; `out` itself if it was given.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy` does. Then `out` is as it was.

    See Also
    --------
    cross_entropy : Where the parameters are explained at length.
    cross_entropy_value_and_grad : The loss and its gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from nll import cross_entropy_backward
    >>> cross_entropy_backward(1.0, np.zeros((2, 4)), [0, 2])
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125, -0.375,  0.125]])
    """
    if out is None or _core.is_plain_out(out, input, True, target, weight, grad_output):
        try:
            return _core.cross_entropy_backward(
                grad_output,
                input,
                target,
                weight,
                ignore_index,
                reduction,
                axis,
                index_base,
                empty,
                label_smoothing,
                out,
            )
        except _core.NotNative:
            pass
    array, labels = _arguments.as_input(input), _arguments.as_target(target)
    choices = _arguments.as_choices(array.ndim, weight, ignore_index, reduction, axis, index_base, empty)
    smoothing = _arguments.as_label_smoothing(label_smoothing)
    gradient = _arguments.as_grad_output(grad_output, reduction)
    memory = _arguments.as_out(
        out, array, in_place=True, input=array, target=labels, weight=choices[0], grad_output=gradient
    )
    result = _core.cross_entropy_backward(gradient, array, labels, *choices, smoothing, memory)
    return result if out is None else out


def cross_entropy_value_and_grad(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: str = "nan",
    label_smoothing: float = 0.0,
    grad_output: ArrayLike = 1.0,
    return_total_weight: bool = False,
    out: Any = None,
) -> Any:
    """Compute the cross-entropy and its gradient with respect to the logits, which are read once for both.

    Parameters
    ----------
    input : array_like, shape (N, C, d1, ..., dk) or (C,)
        Logits in float16, bfloat16 (of ml_dtypes), float32 or float64.
    target : array_like of integers, shape (N, d1, ..., dk) or ()
        Labels.
    weight : array_like, shape (C,), optional
        Weight of each class.
    ignore_index : int or None
        Label of samples to leave out.
    reduction : {"mean", "sum"}
        Of the loss.
    axis : int
        The class axis of input.
    index_base : int
        Label of the first class.
    empty : {"nan", "zero", "raise"}
        What a mean and its gradient are if the total weight is 0.
    label_smoothing : float
        In [0, 1]: so much of each label is spread over all classes alike.
    grad_output : float
        Gradient of the loss.
    return_total_weight : bool
        Return ``(loss, total_weight, grad)``.
    out : ndarray, optional
        Where to write the gradient: of input's shape and dtype. It may be input itself: then the gradient takes the
        place of the logits, and nothing large is allocated. Otherwise it must share no memory with the arguments.

    Returns
    -------
    loss : NumPy scalar
        As `cross_entropy` returns it.
    total_weight : numpy.float64
        Sum of the weights of the samples that are not ignored. Only if asked for.
    grad : ndarray
        As `cross_entropy_backward` returns it; `out` itself if it was given.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy` does. Then `out` is as it was, also if it is input.

    See Also
    --------
    cross_entropy : Where the parameters are explained at length.

    Examples
    --------
    >>> import numpy as np
    >>> from nll import cross_entropy_value_and_grad
    >>> loss, grad = cross_entropy_value_and_grad(np.zeros((1, 4)), [3])
    >>> loss
    np.float64(1.3862943611198906)
    >>> grad
    array([[ 0.25,  0.25,  0.25, -0.75]])
    """
    if out is None or _core.is_plain_out(out, input, True, target, weight):
        try:
            return _core.cross_entropy_value_and_grad(
                input,
                target,
                weight,
                ignore_index,
                reduction,
                axis,
                index_base,
                empty,
                label_smoothing,
                grad_output,
                return_total_weight,
                out,
            )
        except _core.NotNative:
            pass
    array, labels = _arguments.as_input(input), _arguments.as_target(target)
    choices = _arguments.as_choices(array.ndim, weight, ignore_index, reduction, axis, index_base, empty)
    smoothing = _arguments.as_label_smoothing(label_smoothing)
    number = _arguments.as_number("grad_output", grad_output)
    memory = _arguments.as_out(out, array, in_place=True, input=array, target=labels, weight=choices[0])
    *loss, grad = _core.cross_entropy_value_and_grad(
        array, labels, *choices, smoothing, number, bool(return_total_weight), memory
    )
    return (*loss, grad if out is None else out)


def log_softmax(input: ArrayLike, *, axis: int = 1, out: Any = None) -> Any:
    r"""Compute the logarithm of the softmax of logits, :math:`x_c - \log \sum_k e^{x_k}`.

    Each value is within 0.51 ULP of the true one, for float64 within 4.

    Parameters
    ----------
    input : array_like, shape (N, C, d1, ..., dk) or (C,)
        Logits in float16, bfloat16 (of ml_dtypes), float32 or float64, in any layout.
    axis : int
        The class axis. 1 is also the only axis of a 1-d input; negative axes count from the end.
    out : ndarray, optional
        Where to write the result: of input's shape and dtype. It may be input itself, or an array of the same memory
        and strides; otherwise it must share no memory with input.

    Returns
    -------
    ndarray
        Log-probabilities, in input's memory order; `out` itself if it was given. -inf where the logit is -inf; NaN in
        a sample with +inf, or with nothing but -inf.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy` does. Then `out` is as it was.

    See Also
    --------
    cross_entropy : The loss straight from logits, which is faster, and exact where the label is all but certain.

    Examples
    --------
    >>> import numpy as np
    >>> from nll import log_softmax
    >>> log_softmax(np.array([[0.0, np.log(3)]]))
    array([[-1.38629436, -0.28768207]])
    """
    if out is None or _core.is_plain_out(out, input, True):
        try:
            return _core.log_softmax(input, axis, out)
        except _core.NotNative:
            pass
    array = _arguments.as_input(input)
    memory = _arguments.as_out(out, array, in_place=True, input=array)
    result = _core.log_softmax(array, _arguments.as_axis(axis, array.ndim), memory)
    return result if out is None else out
