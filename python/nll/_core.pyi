from contextvars import ContextVar
from typing import Any

from numpy import dtype, ndarray

from ._build import BuildInfo

class NotNative(TypeError): ...

thread_context: ContextVar[int]

def nll_loss(
    input: ndarray[Any, Any],
    target: ndarray[Any, Any],
    weight: ndarray[Any, Any] | None,
    ignore_index: int | None,
    reduction: str,
    axis: int,
    index_base: int,
    empty: str,
    dtype: dtype[Any] | None,
    return_total_weight: bool,
    /,
) -> Any: ...
def nll_loss_backward(
    grad_output: float | ndarray[Any, Any],
    input: ndarray[Any, Any],
    target: ndarray[Any, Any],
    weight: ndarray[Any, Any] | None,
    ignore_index: int | None,
    reduction: str,
    axis: int,
    index_base: int,
    empty: str,
    out: ndarray[Any, Any] | None,
    /,
) -> Any: ...
def nll_loss_value_and_grad(
    input: ndarray[Any, Any],
    target: ndarray[Any, Any],
    weight: ndarray[Any, Any] | None,
    ignore_index: int | None,
    reduction: str,
    axis: int,
    index_base: int,
    empty: str,
    grad_output: float,
    return_total_weight: bool,
    out: ndarray[Any, Any] | None,
    /,
) -> Any: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int, /) -> None: ...
def build_info() -> BuildInfo: ...
