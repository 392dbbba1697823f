# SPDX-License-Identifier: BSD-3-Clause
"""Arguments that are not native: converted where nothing is lost, explained where not.

The extension takes aligned arrays of its element types in the machine's byte order, ints and words as they are.
Everything else comes here, and leaves as one of those or as an error that names argument, value and rule.
"""

import operator
import sys
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

CPU = 1  # of DLPack's device types
FLOATS = "float16, bfloat16, float32 or float64"


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether this is one of the four float types, in either byte order."""
    if dtype.kind == "f":
        return dtype.type in (np.float16, np.float32, np.float64)
    return dtype.type.__name__ == "bfloat16" and dtype.type.__module__ == "ml_dtypes"


def as_array(name: str, value: object) -> Array:
    """An ndarray that shares the memory of `value` where it can; native and aligned."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost; mark masked samples in target by ignore_index, "
            f"for example with target.filled(ignore_index)"
        )
    if isinstance(value, np.ndarray):
        array = value
    else:
        check_device(name, value)
        try:
            if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
                array = np.from_dlpack(value)
            else:
                array = np.asarray(value)
        except MemoryError:
            raise
        except Exception as error:
            raise TypeError(f"{name} is a {kind_of(value)} that NumPy cannot take: {hint(value, error)}") from error
        if isinstance(array, np.ma.MaskedArray):
            return as_array(name, array)
    array = np.asarray(array)  # a subclass's memory as it is
    misaligned = not array.flags.aligned or any(stride % max(array.itemsize, 1) for stride in array.strides)
    if misaligned or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="), order="K", copy=True)
    return array


def kind_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def hint(value: object, error: Exception) -> str:
    if getattr(value, "requires_grad", False):
        return "it requires a gradient; pass it .detach()ed"
    if "bfloat16" in str(getattr(value, "dtype", "")):
        return "NumPy has no bfloat16 of its own; pass tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def check_device(name: str, value: object) -> None:
    locate = getattr(value, "__dlpack_device__", None)
    if locate is None:
        return
    try:
        device = int(locate()[0])
    except Exception as error:
        raise TypeError(f"{name} is a {kind_of(value)} whose device cannot be told: {error}") from error
    if device != CPU:
        raise TypeError(
            f"{name} is a {kind_of(value)} on a device (DLPack type {device}); "
            f"nll computes on the CPU: copy it there first, for example with .cpu()"
        )


def as_input(value: object) -> Array:
    array = as_array("input", value)
    if not is_floating(array.dtype):
        raise TypeError(f"input has dtype {array.dtype}; it must be {FLOATS}")
    return array


def as_target(value: object) -> Array:
    array = as_array("target", value)
    if array.size == 0 and not isinstance(value, np.ndarray) and isinstance(value, list | tuple):
        array = array.astype(np.intp)  # NumPy makes empty lists float64
    if array.dtype.kind not in "iu":
        rule = "labels must be integers"
        if array.dtype.kind == "b":
            rule += "; a mask belongs into target by ignore_index"
        raise TypeError(f"target has dtype {array.dtype}; {rule}")
    return array


def as_weight(value: object) -> Array | None:
    if value is None:
        return None
    array = as_array("weight", value)
    if not is_floating(array.dtype) and array.dtype.kind not in "iu":
        raise TypeError(f"weight has dtype {array.dtype}; it must be {FLOATS}, or integer")
    if array.ndim != 1:
        raise ValueError(f"weight has shape {array.shape}; it must have one number for each class, (C,)")
    return array


def as_integer(name: str, value: object) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {value}; it must be an integer, not a bool")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it must be an integer") from None


def as_int64(name: str, value: object) -> int:
    integer = as_integer(name, value)
    if not -(2**63) <= integer < 2**63:
        raise ValueError(f"{name} is {integer}, outside [-2^63, 2^63)")
    return integer


def as_axis(value: object, ndim: int) -> int:
    axis = as_integer("axis", value)
    if not -(2**31) <= axis < 2**31:  # the core says it of smaller ones
        dimensions = f"{ndim} dimension" if ndim == 1 else f"{ndim} dimensions"
        raise np.exceptions.AxisError(f"axis {axis} is out of bounds for input with {dimensions}")
    return axis


def as_ignore_index(value: object) -> int | None:
    if value is None:
        return None
    integer = as_integer("ignore_index", value)
    if not -(2**63) <= integer < 2**64:
        raise ValueError(f"ignore_index is {integer}, outside [-2^63, 2^64): no label can be that")
    return integer


def as_word(name: str, value: object, words: tuple[str, ...]) -> str:
    listed = ", ".join(repr(word) for word in words[:-1]) + f" or {words[-1]!r}"
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}; it must be the string {listed}")
    if value not in words:
        raise ValueError(f"{name} is {value!r}; it must be {listed}")
    return sys.intern(str(value))


def as_reduction(value: object) -> str:
    return as_word("reduction", value, ("none", "sum", "mean"))


def as_empty(value: object) -> str:
    return as_word("empty", value, ("nan", "zero", "raise"))


def as_dtype(value: object) -> np.dtype[Any] | None:
    if value is None:
        return None
    try:
        dtype = np.dtype(value)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"dtype is {value!r}; it must be {FLOATS}") from None
    if not is_floating(dtype):
        raise TypeError(f"dtype is {dtype}; it must be {FLOATS}")
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native


def as_number(name: str, value: object) -> float:
    """A real number: of Python, a NumPy scalar, or an array without dimensions."""
    if not isinstance(value, Real | np.generic):
        array = as_array(name, value)
        if array.ndim:
            raise ValueError(f"{name} has shape {array.shape}; for a reduced loss it must be one number")
        value = array[()]
    if isinstance(value, bool | np.bool_) or not (isinstance(value, Real) or is_floating(np.asarray(value).dtype)):
        raise TypeError(f"{name} is {value!r}; it must be a real number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is {value!r}, beyond the largest float64") from None


def as_grad_output(value: object, reduction: str) -> float | Array:
    if reduction != "none":
        return as_number("grad_output", value)
    array = as_array("grad_output", value)
    if not is_floating(array.dtype):
        raise TypeError(f"grad_output has dtype {array.dtype}; it must be {FLOATS}")
    return array


Choices: TypeAlias = tuple[Array | None, int | None, str, int, int, str]


def as_choices(
    ndim: int, weight: object, ignore_index: object, reduction: object, axis: object, index_base: object, empty: object
) -> Choices:
    """What all functions share, in the order in which the extension takes it."""
    return (
        as_weight(weight),
        as_ignore_index(ignore_index),
        as_reduction(reduction),
        as_axis(axis, ndim),
        as_int64("index_base", index_base),
        as_empty(empty),
    )


def as_label_smoothing(value: object) -> float:
    number = as_number("label_smoothing", value)
    if not 0 <= number <= 1:
        raise ValueError(f"label_smoothing is {value!r}, outside [0, 1]")
    return number


def as_out(out: object, like: Array, *, in_place: bool = False, **apart_from: object) -> Array | None:
    """The memory of `out`, if it can be written like `like`, and shares none with the arrays named.

    In place, it may be that of `like`, element by element.
    """
    if out is None:
        return None
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out is a {kind_of(out)}; it must be a numpy.ndarray")
    if out.dtype != like.dtype or not out.dtype.isnative:
        raise TypeError(
            f"out has dtype {out.dtype.str if not out.dtype.isnative else out.dtype}; it must be {like.dtype}"
        )
    if out.shape != like.shape:
        raise ValueError(f"out has shape {out.shape}, but input has {like.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only; it must be writeable")
    if not out.flags.aligned or any(stride % out.itemsize for stride in out.strides):
        raise ValueError("out is not aligned to its elements; it cannot be written in place")
    if overlaps_itself(out):
        raise ValueError(f"out has elements that share memory (strides {out.strides}); each must have its own")
    for name, other in apart_from.items():
        if isinstance(other, np.ndarray) and shares_memory(out, other):
            if in_place and other is like and same_memory(out, other):
                continue
            rule = "be the same memory in the same strides, or have its own" if in_place else "have its own"
            raise ValueError(f"out shares memory with {name}; it must {rule if other is like else 'have its own'}")
    return np.asarray(out)


def overlaps_itself(array: Array) -> bool:
    reach = array.itemsize
    for stride, extent in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < reach:
            break  # it need not: interleaved elements can still be apart
        reach += stride * (extent - 1)
    else:
        return False
    if array.size == 0:
        return False
    if 0 in (s for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        return True
    offsets = np.zeros(1, np.int64)
    for stride, extent in zip(array.strides, array.shape, strict=True):
        offsets = np.add.outer(offsets, np.arange(extent, dtype=np.int64) * stride).ravel()
    return bool(np.diff(np.sort(offsets)).min() < array.itemsize)


def same_memory(one: Array, other: Array) -> bool:
    return one.ctypes.data == other.ctypes.data and one.strides == other.strides


def shares_memory(one: Array, other: Array) -> bool:
    try:
        return np.shares_memory(one, other, max_work=10**6)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True  # not to be told apart in reasonable time
