# SPDX-License-Identifier: BSD-3-Clause
"""The losses for JAX: under jit, grad, value_and_grad and vmap, on the CPU.

`nll_loss` and `cross_entropy` take and return JAX arrays, and mean what the functions of `nll` of
the same names mean. They are operations of the compiled program: through XLA's foreign function
interface they read and write XLA's own buffers, and nothing is copied.

>>> import jax
>>> import jax.numpy as jnp
>>> from nll.jax import cross_entropy
>>> @jax.jit
... def step(weight, images, labels):
...     def loss_of(weight):
...         return cross_entropy(images @ weight, labels, ignore_index=255)
...
...     loss, gradient = jax.value_and_grad(loss_of)(weight)
...     return weight - gradient, loss
>>> weight, images, labels = jnp.zeros((3, 3)), jnp.eye(3), jnp.array([2, 0, 255])
>>> for _ in range(3):
...     weight, loss = step(weight, images, labels)
...     print(f"{loss:.3f}")
1.099
0.794
0.590

* **Arguments.** `input`, `target` and `weight` may be traced; all others are fixed when JAX traces.
  Their names and meanings are those of `nll.cross_entropy`. Without ``jax_enable_x64``, JAX makes
  32 bits of 64: of weights too, and of `total_weight`.
* **Gradients** are those of `input`. A weight that is differentiated is a TypeError: use
  ``jax.lax.stop_gradient(weight)``. That of a reduced cross-entropy is computed together with the
  loss, in one sweep, where JAX asks for both, and is then multiplied by the gradient of the loss:
  both round, unless that gradient is a power of two. Where that would lose something, namely for
  float16, and for the other losses, it is computed when the gradient of the loss is there.
  Derivatives of the gradient, and forward-mode ones (``jax.jvp``), are refused by JAX.
* **vmap.** The calls that it puts together are one call for ``reduction="none"`` and the same class
  weights, and for single samples, ``(C,)``, without weights. Others run one after the other.
* **Several devices.** XLA gathers sharded arrays for a call. Outside of ``jax.jit``, JAX refuses to
  compute with the result, as with that of ``jax.pure_callback``: compile the function that calls
  the loss. In ``jax.shard_map``, where each device makes its own, gradients need
  ``check_vma=False``.
* **Errors.** Dtypes, shapes and words are checked when JAX traces, and raise as those of `nll` do.
  A bad label is found when the program runs. JAX raises it, with nll's message (``target[1, 5] is
  7, outside [0, 3) (ignore_index is -100)``), from the call or where its result is waited for: as
  ``jax.errors.JaxRuntimeError`` or as ValueError, by the way that it called the program.
* **Threads.** They are those of ``nll.set_num_threads``; no other work of XLA is waited for.
  ``nll.num_threads`` does not reach into a compiled program.

Where nll was built without JAX, as pip's isolated builds are, or with a newer one, the same
functions call back into Python (``jax.pure_callback``): slower, and with copies. A warning says so,
once, with the command that builds it in. `FOREIGN` tells which it is.

`NLLLoss` and `CrossEntropyLoss` are the losses as objects with ``update(input, target)``, in the
places of those of ``brainpy.losses``.
"""

import importlib
import importlib.util
import re
import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import _arguments, functional
from ._typing import Empty, Reduction

try:
    import jax
    import jax.ffi
    import jax.numpy as jnp
except ImportError as _error:
    raise ImportError("nll.jax needs JAX 0.5 or later: python -m pip install jax") from _error

__all__ = ["FOREIGN", "CrossEntropyLoss", "NLLLoss", "cross_entropy", "nll_loss"]


def _handlers() -> dict[str, Any]:
    """The handlers of XLA's foreign function interface, if they were built, with no newer JAX.

    XLA would not start if it were given handlers for a newer interface than its own.
    """
    if importlib.util.find_spec("nll._jax") is None:
        return {}
    built = importlib.import_module("nll._jax")
    header = Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h").read_text()
    own = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header)
    return dict(built.handlers) if built.api_version <= tuple(map(int, own)) else {}


_found = _handlers()
FOREIGN = bool(_found)  # whether calls go through that interface
for _name, _handler in _found.items():
    jax.ffi.register_ffi_target(f"nll.{_name}", _handler, platform="cpu")

_BUILD = (
    "python -m pip install cmake ninja pybind11 scikit-build-core && "
    "python -m pip install --no-build-isolation -C cmake.define.NLL_JAX=ON ."
)

# Says what each function of nll takes, in this order, before the weight of each class.
_TAKES = {
    "nll_loss": ("input", "target"),
    "nll_loss_backward": ("grad_output", "target"),
    "cross_entropy": ("input", "target"),
    "cross_entropy_value_and_grad": ("input", "target"),
    "cross_entropy_backward": ("grad_output", "input", "target"),
}


@dataclass(frozen=True)
class _Choices:
    """What a call computes, as far as it is known when JAX traces it."""

    loss: str  # its name
    shape: tuple[int, ...]  # of input
    input_dtype: np.dtype[Any]
    dtype: np.dtype[Any]  # of the loss
    axis: int
    reduction: str
    ignore_index: int | None
    index_base: int
    empty: str
    label_smoothing: float
    return_total_weight: bool
    in_place: bool

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of target."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def losses(self) -> list[Any]:
        """The loss, and the total weight if that was chosen: shapes and dtypes."""
        shape = self.target_shape if self.reduction == "none" else ()
        widest = jax.dtypes.canonicalize_dtype(np.float64)
        total_weight = jax.ShapeDtypeStruct((), widest)
        return [jax.ShapeDtypeStruct(shape, self.dtype)] + [total_weight] * self.return_total_weight

    @property
    def gradient(self) -> Any:
        """The gradient of input: shape and dtype."""
        return jax.ShapeDtypeStruct(self.shape, self.input_dtype)

    @property
    def saves_gradient(self) -> bool:
        """Whether the gradient is computed with the loss, and scaled when it is asked for.

        In float16 it would have lost by then what a large gradient of the loss is to save.
        """
        reduced = self.loss == "cross_entropy" and self.reduction != "none"
        return reduced and self.input_dtype != np.float16

    def aliases(self, name: str) -> dict[int, int]:
        """Operands in whose places a function's results are to be."""
        at = {"cross_entropy_value_and_grad": {0: 1}, "cross_entropy_backward": {1: 0}}
        return at.get(name, {}) if self.in_place else {}

    @property
    def attributes(self) -> dict[str, Any]:
        """The choices as the handlers of _jax read them."""
        ignored = self.ignore_index
        return {
            "rank": np.int64(len(self.shape)),
            "axis": np.int64(self.axis),
            "reduction": np.uint8(("none", "sum", "mean").index(self.reduction)),
            "ignored": np.uint8(0 if ignored is None else 1 if ignored < 0 else 2),
            "ignore_index": np.int64(((ignored or 0) + 2**63) % 2**64 - 2**63),
            "index_base": np.int64(self.index_base),
            "empty": np.uint8(("nan", "zero", "raise").index(self.empty)),
            "label_smoothing": np.float64(self.label_smoothing),
        }

    @property
    def keywords(self) -> dict[str, Any]:
        """The choices as the functions of nll take them, but for the axis."""
        names = ["reduction", "ignore_index", "index_base", "empty"]
        if self.loss == "cross_entropy":
            names.append("label_smoothing")
        return {name: getattr(self, name) for name in names}


# ---------------------------------------------------------------- calls of nll


def _call(name: str, choices: _Choices, results: Sequence[Any], *operands: Any) -> Any:
    """Let XLA call one of nll's functions; an operand may be None."""
    given = [operand for operand in operands if operand is not None]
    if FOREIGN:
        function = jax.ffi.ffi_call(
            f"nll.{name}",
            results,
            vmap_method="expand_dims",
            input_output_aliases=choices.aliases(name),
        )
        return function(*given, **choices.attributes)
    callback = _Callback(name, choices, tuple(results))
    return jax.pure_callback(callback, results, *given, vmap_method="expand_dims")


@dataclass(frozen=True)
class _Callback:
    """One of nll's functions in Python, with the axes that vmap puts before those of operands.

    They are of vmap's size, or of size 1 where an operand is the same for all.
    """

    name: str
    choices: _Choices
    results: tuple[Any, ...]

    def __call__(self, *operands: Any) -> list[Any]:
        of_samples = self.choices.reduction == "none"
        rank = len(self.choices.shape)
        ranks = {
            "input": rank,
            "target": rank - 1,
            "grad_output": rank - 1 if of_samples else 0,
            "weight": 1,
        }
        names = (*_TAKES[self.name], "weight")
        arrays = dict(zip(names, map(np.asarray, operands), strict=False))
        shares_weight = "weight" not in arrays or arrays["weight"].size == self.class_count
        leading = {name: array.ndim - ranks[name] for name, array in arrays.items()}
        batch = np.broadcast_shapes(*(arrays[name].shape[:n] for name, n in leading.items()))
        for name, n in leading.items():
            arrays[name] = np.broadcast_to(arrays[name], batch + arrays[name].shape[n:])
        results = [np.empty(batch + result.shape, result.dtype) for result in self.results]
        if 0 in batch:
            return results

        if of_samples and shares_weight and len(results) == 1:
            if "weight" in arrays:
                arrays["weight"] = arrays["weight"][(0,) * len(batch)]
            self.compute(arrays, results, self.choices.axis + len(batch))
            return results
        for index in np.ndindex(batch):
            each = {name: array[(*index, ...)] for name, array in arrays.items()}
            self.compute(each, [result[(*index, ...)] for result in results], self.choices.axis)
        return results

    @property
    def class_count(self) -> int:
        return self.choices.shape[self.choices.axis]

    def compute(self, arrays: dict[str, Any], results: list[Any], axis: int) -> None:
        """Write the results of one call."""
        keywords = self.choices.keywords | {"axis": axis}
        target, weight = arrays["target"], arrays.get("weight")
        if "grad_output" not in arrays:
            loss, total_weight = getattr(functional, self.choices.loss)(
                arrays["input"],
                target,
                weight,
                **keywords,
                dtype=self.choices.dtype,
                return_total_weight=True,
            )
            results[0][...] = loss
            if self.choices.return_total_weight:
                results[-1][...] = total_weight
        if self.name != self.choices.loss:
            gradient = results["grad_output" not in arrays]
            like = np.broadcast_to(np.empty((), gradient.dtype), gradient.shape)
            getattr(functional, f"{self.choices.loss}_backward")(
                arrays.get("grad_output", 1.0),
                arrays.get("input", like),
                target,
                weight,
                **keywords,
                out=gradient,
            )


# ---------------------------------------------------------------- what JAX differentiates


def _value(choices: _Choices, input: Any, target: Any, weight: Any) -> Any:
    return _call(choices.loss, choices, choices.losses, input, target, weight)


def _forward(choices: _Choices, input: Any, target: Any, weight: Any) -> Any:
    """The results, and what the gradient is made of: itself, or the arguments."""
    if weight is not None and weight.perturbed:
        remedy = "pass jax.lax.stop_gradient(weight)"
        raise TypeError(f"weight is differentiated, but nll has no gradient of it: {remedy}")
    arrays = input.value, target.value, None if weight is None else weight.value
    if choices.saves_gradient:
        loss, *total_weight = choices.losses
        results = [loss, choices.gradient, *total_weight]
        name = f"{choices.loss}_value_and_grad"
        loss, gradient, *total_weight = _call(name, choices, results, *arrays)
        return [loss, *total_weight], gradient
    return _value(choices, *arrays), arrays


def _backward(choices: _Choices, kept: Any, cotangents: Any) -> Any:
    """The gradient of input, and none of target and weight."""
    grad_output = cotangents[0]
    if isinstance(grad_output, jax.custom_derivatives.SymbolicZero):
        return None, None, None
    if choices.saves_gradient:
        return _scaled(kept, grad_output), None, None
    operands = dict(zip(("input", "target"), kept, strict=False)) | {"grad_output": grad_output}
    name = f"{choices.loss}_backward"
    taken = [operands[operand] for operand in _TAKES[name]]
    (gradient,) = _call(name, choices, [choices.gradient], *taken, kept[2])
    return gradient, None, None


def _scale(gradient: Any, grad_output: Any) -> Any:
    """Multiply, but what is exactly zero stays so: entries of ignored samples among it."""
    wide = np.float64 if gradient.dtype == np.float64 else np.float32
    scaled = (gradient.astype(wide) * grad_output.astype(wide)).astype(gradient.dtype)
    return jnp.where(gradient == 0, gradient, scaled)


_scaled = jax.jit(_scale)
_differentiable = jax.custom_vjp(_value, nondiff_argnums=(0,))
_differentiable.defvjp(_forward, _backward, symbolic_zeros=True)


def _results(choices: _Choices, input: Any, target: Any, weight: Any) -> Any:
    """The loss, and the total weight if that was chosen.

    A single sample without a weight is its own sum and mean. Calls without reduction are those of
    which vmap makes one.
    """
    single = weight is None and len(choices.shape) == 1 and not choices.return_total_weight
    if not single or choices.reduction == "none" or choices.empty == "raise":
        return _differentiable(choices, input, target, weight)
    (loss,) = _differentiable(replace(choices, reduction="none"), input, target, None)
    limits, ignored = np.iinfo(target.dtype), choices.ignore_index
    if choices.reduction == "sum" or ignored is None or not limits.min <= ignored <= limits.max:
        return [loss]
    empty = np.nan if choices.empty == "nan" else 0.0
    return [jnp.where(target == np.array(ignored, target.dtype), empty, loss)]


_compiled = jax.jit(_results, static_argnums=0)

# ---------------------------------------------------------------- arguments


def _as_jax(name: str, value: Any, convert: Any) -> Any:
    """A JAX array, whose dtype is one that `convert` of `_arguments` takes."""
    if isinstance(value, jax.Array):
        array = value
    elif hasattr(value, "__jax_array__"):
        array = jnp.asarray(value)
    else:
        numbers = convert(value)
        narrow = jax.dtypes.canonicalize_dtype(numbers.dtype)
        narrowed = numbers.astype(narrow, copy=False)
        if narrow.kind in "iu" and (narrowed != numbers).any():
            rule = "which is what JAX makes of them without jax_enable_x64"
            raise ValueError(f"{name} has {numbers.dtype} numbers beyond {narrow}, {rule}")
        return jnp.asarray(narrowed)
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended):
        raise TypeError(f"{name} has dtype {array.dtype}, JAX's own; it must be numbers")
    if not all(isinstance(size, int) for size in array.shape):
        rule = "its sizes must be known when JAX traces"
        raise ValueError(f"{name} has shape {array.shape}; {rule}")
    convert(np.broadcast_to(np.empty((), array.dtype), array.shape))
    return array


def _class_axis(axis: Any, shape: tuple[int, ...]) -> int:
    """The class axis counted from the front, as the core counts."""
    rank = len(shape)
    if rank == 0:
        rule = "it needs a class axis: (C,), (N, C) or (N, C, d1, ...)"
        raise ValueError(f"input has 0 dimensions; {rule}")
    return _arguments.as_axis(axis, rank) % rank


def _loss(name: str, input: Any, target: Any, weight: Any, given: dict[str, Any]) -> Any:
    """Check the arguments, and have JAX take the call into its program."""
    _say_how()
    input = _as_jax("input", input, _arguments.as_input)
    target = _as_jax("target", target, lambda value: _arguments.as_target(value, input))
    if weight is not None:
        weight = _as_jax("weight", weight, _arguments.as_weight)
    dtype = _arguments.as_dtype(given["dtype"]) or input.dtype
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"dtype is {dtype}, which JAX has with jax_enable_x64 alone")
    choices = _Choices(
        loss=name,
        shape=input.shape,
        input_dtype=input.dtype,
        dtype=dtype,
        axis=_class_axis(given["axis"], input.shape),
        reduction=_arguments.as_reduction(given["reduction"]),
        ignore_index=_arguments.as_ignore_index(given["ignore_index"]),
        index_base=_arguments.as_index_base(given["index_base"]),
        empty=_arguments.as_empty(given["empty"]),
        label_smoothing=_arguments.as_label_smoothing(given["label_smoothing"]),
        return_total_weight=_arguments.as_flag("return_total_weight", given["return_total_weight"]),
        in_place=_arguments.as_flag("in_place", given["in_place"]),
    )
    if target.shape != choices.target_shape:
        problem = (
            f"target has shape {target.shape}, but input of shape {input.shape} with its classes "
            f"on axis {choices.axis} needs {choices.target_shape}"
        )
        if target.ndim == input.ndim and target.shape[choices.axis] == 1:
            cure = f"as target.squeeze({choices.axis}) gives it"
            problem += f": without the axis of length 1, {cure}"
        raise ValueError(problem)
    classes = input.shape[choices.axis]
    if weight is not None and weight.shape != (classes,):
        counted = "1 class" if classes == 1 else f"{classes} classes"
        raise ValueError(f"weight has shape {weight.shape}, but there are {counted}")
    loss, *total_weight = _compiled(choices, input, target, weight)
    return (loss, *total_weight) if total_weight else loss


_said = False


def _say_how() -> None:
    """Warn once, if calls go through Python."""
    global _said
    if FOREIGN or _said:
        return
    _said = True
    warnings.warn(
        f"nll was built without this JAX: nll.jax calls back into Python, which is slower. In "
        f"nll's sources, this builds it in: {_BUILD}",
        RuntimeWarning,
        stacklevel=4,
    )


# ---------------------------------------------------------------- the public face


def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: Empty = "nan",
    dtype: Any = None,
    return_total_weight: bool = False,
) -> Any:
    """Compute the negative log likelihood loss of log-probabilities in JAX.

    Parameters
    ----------
    input : jax.Array, shape (N, C, d1, ..., dk) or (C,)
        Log-probabilities in float16, bfloat16, float32 or float64. Anything else that JAX or NumPy
        takes as such an array will do.
    target : jax.Array of integers, shape (N, d1, ..., dk) or ()
        Labels: input's shape without the class axis, in any integer dtype.
    weight : jax.Array, shape (C,), optional
        Weight of each class. It has no gradient.
    ignore_index : int or None
        Label of samples to leave out.
    reduction : {"mean", "sum", "none"}
        "none" returns the loss of each sample.
    axis : int
        The class axis of input.
    index_base : int
        Label of the first class.
    empty : {"nan", "zero", "raise"}
        What the mean is if the total weight is 0.
    dtype : dtype, optional
        The loss's dtype; input's unless given.
    return_total_weight : bool
        Return ``(loss, total_weight)``.

    Returns
    -------
    loss : jax.Array
        The loss: of target's shape for "none", else ().
    total_weight : jax.Array
        Sum of the weights of the samples that are not ignored: float64, or float32 without
        ``jax_enable_x64``. Only if asked for.

    Raises
    ------
    TypeError, ValueError
        As `nll.nll_loss` does, when JAX traces the call; TypeError also where `weight` is
        differentiated.
    jax.errors.JaxRuntimeError or ValueError
        If a label is neither ignored nor a class, or for ``empty="raise"``: when the program runs.

    See Also
    --------
    nll.nll_loss : Where the parameters are explained at length.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from nll.jax import nll_loss
    >>> log_probabilities = jnp.array([[-0.5, -1.0], [-1.5, -0.25]])
    >>> loss, gradient = jax.value_and_grad(nll_loss)(log_probabilities, jnp.array([0, 1]))
    >>> print(loss)
    0.375
    >>> print(gradient)
    [[-0.5  0. ]
     [ 0.  -0.5]]
    """
    given = {
        "ignore_index": ignore_index,
        "reduction": reduction,
        "axis": axis,
        "index_base": index_base,
        "empty": empty,
        "label_smoothing": 0.0,
        "dtype": dtype,
        "return_total_weight": return_total_weight,
        "in_place": False,
    }
    return _loss("nll_loss", input, target, weight, given)


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    axis: int = 1,
    index_base: int = 0,
    empty: Empty = "nan",
    label_smoothing: float = 0.0,
    dtype: Any = None,
    return_total_weight: bool = False,
    in_place: bool = False,
) -> Any:
    """Compute the cross-entropy of logits and labels in JAX.

    Parameters
    ----------
    input : jax.Array, shape (N, C, d1, ..., dk) or (C,)
        Logits in float16, bfloat16, float32 or float64. Anything else that JAX or NumPy takes as
        such an array will do.
    target : jax.Array of integers, shape (N, d1, ..., dk) or ()
        Labels: input's shape without the class axis, in any integer dtype.
    weight : jax.Array, shape (C,), optional
        Weight of each class. It has no gradient.
    ignore_index : int or None
        Label of samples to leave out.
    reduction : {"mean", "sum", "none"}
        "none" returns the loss of each sample.
    axis : int
        The class axis of input.
    index_base : int
        Label of the first class.
    empty : {"nan", "zero", "raise"}
        What the mean is if the total weight is 0.
    label_smoothing : float
        The part of each label that is spread evenly over all classes, in [0, 1].
    dtype : dtype, optional
        The loss's dtype; input's unless given.
    return_total_weight : bool
        Return ``(loss, total_weight)``.
    in_place : bool
        Let the gradient take the memory of the logits, which halves what a step needs for both.
        Where something else needs the logits, a caller who does not donate them for example, XLA
        copies them first. No result changes. If ``vmap`` maps anything, it must map the logits.

    Returns
    -------
    loss : jax.Array
        The loss: of target's shape for "none", else ().
    total_weight : jax.Array
        Sum of the weights of the samples that are not ignored: float64, or float32 without
        ``jax_enable_x64``. Only if asked for.

    Raises
    ------
    TypeError, ValueError
        As `nll.cross_entropy` does, when JAX traces the call; TypeError also where `weight` is
        differentiated.
    jax.errors.JaxRuntimeError or ValueError
        If a label is neither ignored nor a class, or for ``empty="raise"``: when the program runs.

    See Also
    --------
    nll.cross_entropy : Where the parameters are explained at length.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from nll.jax import cross_entropy
    >>> step = jax.jit(jax.value_and_grad(cross_entropy))
    >>> loss, gradient = step(jnp.zeros((1, 4)), jnp.array([3]))
    >>> print(loss)
    1.3862944
    >>> print(gradient)
    [[ 0.25  0.25  0.25 -0.75]]
    """
    given = {
        "ignore_index": ignore_index,
        "reduction": reduction,
        "axis": axis,
        "index_base": index_base,
        "empty": empty,
        "label_smoothing": label_smoothing,
        "dtype": dtype,
        "return_total_weight": return_total_weight,
        "in_place": in_place,
    }
    return _loss("cross_entropy", input, target, weight, given)


@dataclass(frozen=True, eq=False)
class NLLLoss:
    """The negative log likelihood loss in the place of ``brainpy.losses.NLLLoss``.

    It has the shapes of its documentation, `(C,)` and `(N, C, d1, ..., dk)` among them, and the
    weights and ignored labels.

    Parameters
    ----------
    reduction, weight, ignore_index, axis, index_base, empty, dtype, return_total_weight : optional
        As `nll_loss` takes them. They are checked when the loss is computed.

    See Also
    --------
    nll_loss : The loss as a function.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from nll.jax import NLLLoss
    >>> loss_fn = NLLLoss("sum", ignore_index=255)
    >>> print(loss_fn.update(jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]])), jnp.array([0, 255])))
    0.6931472
    """

    reduction: Reduction = "mean"
    weight: Any = None
    ignore_index: int | None = -100
    _: KW_ONLY
    axis: int = 1
    index_base: int = 0
    empty: Empty = "nan"
    dtype: Any = None
    return_total_weight: bool = False

    def update(self, input: Any, target: Any) -> Any:
        """Compute the loss.

        Parameters
        ----------
        input : jax.Array, shape (N, C, d1, ..., dk) or (C,)
            Log-probabilities.
        target : jax.Array of integers, shape (N, d1, ..., dk) or ()
            Labels.

        Returns
        -------
        jax.Array or tuple
            The loss; ``(loss, total_weight)`` if that was chosen.
        """
        return nll_loss(input, target, **vars(self))

    __call__ = update


@dataclass(frozen=True, eq=False)
class CrossEntropyLoss:
    """The cross-entropy of logits in the place of ``brainpy.losses.CrossEntropyLoss``.

    The classes are where its documentation says, ``(N, C, d1, ..., dk)``. (brainpy 2.8 has them on
    the last axis: that is ``axis=-1``.)

    Parameters
    ----------
    weight, ignore_index, reduction, label_smoothing : optional
        As `cross_entropy` takes them. They are checked when the loss is computed.
    axis, index_base, empty, dtype, return_total_weight, in_place : optional
        Likewise.

    See Also
    --------
    cross_entropy : The loss as a function.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from nll.jax import CrossEntropyLoss
    >>> print(CrossEntropyLoss(reduction="sum").update(jnp.zeros((2, 4)), jnp.array([0, 3])))
    2.7725887
    """

    weight: Any = None
    ignore_index: int | None = -100
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0
    _: KW_ONLY
    axis: int = 1
    index_base: int = 0
    empty: Empty = "nan"
    dtype: Any = None
    return_total_weight: bool = False
    in_place: bool = False

    def update(self, input: Any, target: Any) -> Any:
        """Compute the loss.

        Parameters
        ----------
        input : jax.Array, shape (N, C, d1, ..., dk) or (C,)
            Logits.
        target : jax.Array of integers, shape (N, d1, ..., dk) or ()
            Labels.

        Returns
        -------
        jax.Array or tuple
            The loss; ``(loss, total_weight)`` if that was chosen.
        """
        return cross_entropy(input, target, **vars(self))

    __call__ = update
