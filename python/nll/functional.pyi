# Types of the functions: what a call returns depends on `reduction` and `return_total_weight`.
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._typing import Array, Empty, Losses, Reduced, Reduction, Scalar

@overload
def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduced = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    dtype: DTypeLike | None = ...,
    return_total_weight: Literal[False] = ...,
) -> Scalar: ...
@overload
def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Literal["none"],
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    dtype: DTypeLike | None = ...,
    return_total_weight: Literal[False] = ...,
) -> Losses: ...
@overload
def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduced = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    dtype: DTypeLike | None = ...,
    return_total_weight: Literal[True],
) -> tuple[Scalar, np.float64]: ...
@overload
def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Literal["none"],
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    dtype: DTypeLike | None = ...,
    return_total_weight: Literal[True],
) -> tuple[Losses, np.float64]: ...
@overload
def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduction = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    dtype: DTypeLike | None = ...,
    return_total_weight: bool,
) -> Any: ...
def nll_loss_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduction = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    out: Array | None = ...,
) -> Array: ...
@overload
def nll_loss_value_and_grad(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduced = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    grad_output: ArrayLike = ...,
    return_total_weight: Literal[False] = ...,
    out: Array | None = ...,
) -> tuple[Scalar, Array]: ...
@overload
def nll_loss_value_and_grad(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduced = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    grad_output: ArrayLike = ...,
    return_total_weight: Literal[True],
    out: Array | None = ...,
) -> tuple[Scalar, np.float64, Array]: ...
@overload
def nll_loss_value_and_grad(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduced = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    grad_output: ArrayLike = ...,
    return_total_weight: bool,
    out: Array | None = ...,
) -> tuple[Any, ...]: ...
@overload
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduced = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    label_smoothing: float = ...,
    dtype: DTypeLike | None = ...,
    return_total_weight: Literal[False] = ...,
) -> Scalar: ...
@overload
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Literal["none"],
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    label_smoothing: float = ...,
    dtype: DTypeLike | None = ...,
    return_total_weight: Literal[False] = ...,
) -> Losses: ...
@overload
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduced = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    label_smoothing: float = ...,
    dtype: DTypeLike | None = ...,
    return_total_weight: Literal[True],
) -> tuple[Scalar, np.float64]: ...
@overload
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Literal["none"],
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    label_smoothing: float = ...,
    dtype: DTypeLike | None = ...,
    return_total_weight: Literal[True],
) -> tuple[Losses, np.float64]: ...
@overload
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduction = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    label_smoothing: float = ...,
    dtype: DTypeLike | None = ...,
    return_total_weight: bool,
) -> Any: ...
def cross_entropy_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduction = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    label_smoothing: float = ...,
    out: Array | None = ...,
) -> Array: ...
@overload
def cross_entropy_value_and_grad(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduced = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    label_smoothing: float = ...,
    grad_output: ArrayLike = ...,
    return_total_weight: Literal[False] = ...,
    out: Array | None = ...,
) -> tuple[Scalar, Array]: ...
@overload
def cross_entropy_value_and_grad(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduced = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    label_smoothing: float = ...,
    grad_output: ArrayLike = ...,
    return_total_weight: Literal[True],
    out: Array | None = ...,
) -> tuple[Scalar, np.float64, Array]: ...
@overload
def cross_entropy_value_and_grad(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    ignore_index: int | None = ...,
    reduction: Reduced = ...,
    axis: int = ...,
    index_base: int = ...,
    empty: Empty = ...,
    label_smoothing: float = ...,
    grad_output: ArrayLike = ...,
    return_total_weight: bool,
    out: Array | None = ...,
) -> tuple[Any, ...]: ...
def softmax(
    input: ArrayLike,
    *,
    axis: int = ...,
    out: Array | None = ...,
) -> Array: ...
def log_softmax(
    input: ArrayLike,
    *,
    axis: int = ...,
    out: Array | None = ...,
) -> Array: ...
@overload
def logsumexp(
    input: ArrayLike,
    *,
    axis: int = ...,
    keepdims: Literal[True],
    dtype: DTypeLike | None = ...,
) -> Array: ...
@overload
def logsumexp(
    input: ArrayLike,
    *,
    axis: int = ...,
    keepdims: bool = ...,
    dtype: DTypeLike | None = ...,
) -> Losses: ...
