# The extension takes native arguments only, and says NotNative of others: so each may be any object.
from contextvars import ContextVar
from typing import Any

from ._build import BuildInfo

class NotNative(TypeError): ...

thread_context: ContextVar[int]

def nll_loss(
    input: object,
    target: object,
    weight: object,
    ignore_index: object,
    reduction: object,
    axis: object,
    index_base: object,
    empty: object,
    dtype: object,
    return_total_weight: bool,
    /,
) -> Any: ...
def nll_loss_backward(
    grad_output: object,
    input: object,
    target: object,
    weight: object,
    ignore_index: object,
    reduction: object,
    axis: object,
    index_base: object,
    empty: object,
    out: object,
    /,
) -> Any: ...
def nll_loss_value_and_grad(
    input: object,
    target: object,
    weight: object,
    ignore_index: object,
    reduction: object,
    axis: object,
    index_base: object,
    empty: object,
    grad_output: object,
    return_total_weight: bool,
    out: object,
    /,
) -> Any: ...
def cross_entropy(
    input: object,
    target: object,
    weight: object,
    ignore_index: object,
    reduction: object,
    axis: object,
    index_base: object,
    empty: object,
    label_smoothing: object,
    dtype: object,
    return_total_weight: bool,
    /,
) -> Any: ...
def cross_entropy_backward(
    grad_output: object,
    input: object,
    target: object,
    weight: object,
    ignore_index: object,
    reduction: object,
    axis: object,
    index_base: object,
    empty: object,
    label_smoothing: object,
    out: object,
    /,
) -> Any: ...
def cross_entropy_value_and_grad(
    input: object,
    target: object,
    weight: object,
    ignore_index: object,
    reduction: object,
    axis: object,
    index_base: object,
    empty: object,
    label_smoothing: object,
    grad_output: object,
    return_total_weight: bool,
    out: object,
    /,
) -> Any: ...
def log_softmax(input: object, axis: object, out: object, /) -> Any: ...
def is_plain_out(out: object, input: object, in_place: bool, /, *apart_from: object) -> bool: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int, /) -> None: ...
def build_info() -> BuildInfo: ...
