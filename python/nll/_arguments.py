# SPDX-License-Identifier: BSD-3-Clause
"""Arguments that are not native: converted where nothing is lost, explained where not.

The extension takes native arguments as they are: aligned arrays of its element types in the
machine's byte order, ints, floats, bools and words. Anything else comes here. It leaves as one of
those, or as an error that names argument, value and rule.

An object is what its type is: `isinstance` would ask for its class, which may claim anything, or
raise. What an object raises, other than MemoryError, becomes an error that names the argument.
"""

import math
import operator
import sys
from collections import UserList, deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np

from ._typing import Array

CPU = 1  # of DLPack's device types
DIMENSIONS = 64  # of NumPy's arrays, at most
FLOATS = "float16, bfloat16, float32 or float64"
MANY = 10_000  # elements, enough to tell what an array means
SEQUENCES = (list, tuple, deque, UserList)  # what arrays are made of, dimension by dimension


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether this is one of the four float types, in either byte order."""
    if dtype.kind == "f":
        return dtype.type in (np.float16, np.float32, np.float64)
    return dtype.type.__name__ == "bfloat16" and dtype.type.__module__ == "ml_dtypes"


def as_array(name: str, value: object) -> Array:
    """An ndarray that shares the memory of `value` where it can; native and aligned."""
    if issubclass(type(value), np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, or holds one, whose mask would be lost; mark masked "
            f"samples in target by ignore_index, for example with target.filled(ignore_index)"
        )
    if issubclass(type(value), np.ndarray):
        array = value
    else:
        check_device(name, value)
        try:
            if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
                array = np.from_dlpack(value)
            elif holds_a_mask(value):
                array = np.ma.masked
            else:
                array = np.asanyarray(value)  # a masked array as such
        except MemoryError:
            raise
        except Exception as error:
            problem = f"that NumPy cannot take: {hint(value, error)}"
            raise TypeError(f"{name} is {a_kind_of(value)} {problem}") from error
        if isinstance(array, np.ma.MaskedArray):
            return as_array(name, array)
    array = np.asarray(array)  # a subclass's memory as it is
    if not is_aligned(array) or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="), order="K", copy=True)
    return with_native_name(array)


def holds_a_mask(value: object) -> bool:
    """Tell whether a list or a tuple, or one inside of it, holds a masked array: NumPy drops masks.

    It raises for lists that end nowhere. Each one is looked at once a level, wherever it stands:
    NumPy looks 2^64 times at a list that holds itself twice.
    """
    level: dict[int, Any] = {id(value): value} if issubclass(type(value), SEQUENCES) else {}
    for _ in range(DIMENSIONS):
        kinds = set(chain.from_iterable(map(type, one) for one in level.values()))
        if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
            return True
        inner = {kind for kind in kinds if issubclass(kind, SEQUENCES)}
        if not inner:
            return False
        level = {id(one): one for outer in level.values() for one in outer if type(one) in inner}
    raise ValueError(f"it has more than {DIMENSIONS} dimensions")


def with_native_name(array: Array) -> Array:
    """The same memory, whose dtype does not name the machine's byte order as Zarr's does."""
    named = array.dtype.byteorder not in "=|"
    return array.view(array.dtype.newbyteorder("=")) if named else array


def is_aligned(array: Array) -> bool:
    """Tell whether the array lies in its memory in whole elements."""
    itemsize = max(array.itemsize, 1)
    return array.flags.aligned and not any(stride % itemsize for stride in array.strides)


def shown(value: object) -> str:
    """Show a value in a message: its repr, if it has one, and one line holds it."""
    try:
        text = repr(value)
    except Exception:  # of its own, or of an integer with too many digits
        text = ""
    return text if 0 < len(text) <= 80 and "\n" not in text else a_kind_of(value)


def a_kind_of(value: object) -> str:
    """Name a value's type, with its article."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def told(error: Exception) -> str:
    """Tell in one line what an error says; if that is nothing, its type."""
    try:
        lines = str(error).splitlines()
    except Exception:  # of its own
        lines = []
    return lines[0] if lines else type(error).__name__


def hint(value: object, error: Exception) -> str:
    """Tell why NumPy cannot take an object, and what to do."""
    try:
        requires_grad = bool(getattr(value, "requires_grad", False))
        dtype = str(getattr(value, "dtype", ""))
    except Exception:  # of its own
        return told(error)
    if requires_grad:
        return "it requires a gradient; pass it .detach()ed"
    if "bfloat16" in dtype:
        cure = "tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)"
        return f"NumPy has no bfloat16 of its own; pass {cure}"
    return told(error)


def check_class(name: str, value: object) -> None:
    """Refuse an object that raises where `isinstance` asks for its class."""
    try:
        isinstance(value, bool)
    except MemoryError:
        raise
    except Exception as error:
        problem = f"whose class cannot be told: {told(error)}"
        raise TypeError(f"{name} is {a_kind_of(value)} {problem}") from error


def check_device(name: str, value: object) -> None:
    try:
        locate = getattr(value, "__dlpack_device__", None)
        device = CPU if locate is None else int(locate()[0])
    except MemoryError:
        raise
    except Exception as error:
        problem = f"whose device cannot be told: {told(error)}"
        raise TypeError(f"{name} is {a_kind_of(value)} {problem}") from error
    if device != CPU:
        raise TypeError(
            f"{name} is {a_kind_of(value)} on a device (DLPack type {device}); "
            f"nll computes on the CPU: copy it there first, for example with .cpu()"
        )


def as_input(value: object) -> Array:
    array = as_array("input", value)
    if not is_floating(array.dtype):
        raise TypeError(f"input has dtype {array.dtype}; it must be {FLOATS}")
    return array


def as_target(value: object, input: Array) -> Array:
    array = as_array("target", value)
    if array.size == 0 and issubclass(type(value), SEQUENCES):
        array = array.astype(np.intp)  # NumPy makes empty lists float64
    if array.dtype.kind not in "iu":
        rule = "labels must be integers"
        if array.dtype.kind == "b":
            rule += "; a mask belongs into target by ignore_index"
        elif array.dtype.name.startswith(("int", "uint")):  # ml_dtypes' of 2 and of 4 bits
            rule += " of 8 to 64 bits: pass target.astype(numpy.int8)"
        elif array.ndim and array.shape == input.shape:
            rule += (
                ", one for all classes of a sample: those of one-hot rows are "
                "target.argmax(axis), with input's class axis; probabilities of classes are not "
                "taken"
            )
        elif is_floating(array.dtype):
            rule += as_whole_labels(array)
        elif are_words(first_of(array)):
            rule += (
                "; those of words are np.unique(target, return_inverse=True)[1], and those of a "
                "factor in R as.integer(target)"
            )
        raise TypeError(f"target has dtype {array.dtype}; {rule}")
    return array


def first_of(array: Array) -> Array:
    """Copy the first elements of an array: of its last dimensions, since `flat` takes 32."""
    while array.ndim > 32 and array.size:
        array = array[0]
    return array.flat[:MANY] if array.size else array.ravel()


def as_whole_labels(array: Array) -> str:
    """Say how to make integers of floats, if they are whole, in 32 bits as R has them, or NaN.

    NaN is R's NA. What is said is of the first ones: an array may be larger than memory.
    """
    first = first_of(array)
    with np.errstate(all="ignore"):
        whole = (first == np.trunc(first)) & (abs(first) < 2.0**31)
        nan = np.isnan(first)
    if not (whole | nan).all():
        return ""
    in_r = "as.integer(target)"
    if array.ndim > 1:  # as.integer drops dimensions
        in_r = 'storage.mode(target) <- "integer"'
    if nan.any():
        return f", and NaN is none: in R write {in_r}, and ignore_index=NA_integer_ for NA"
    return f": write target.astype(int), or in R {in_r}"


def are_words(array: Array) -> bool:
    words = array.dtype.kind == "O" and all(issubclass(type(value), str) for value in array)
    return array.size > 0 and (words or array.dtype.kind == "U")


def as_weight(value: object) -> Array | None:
    if value is None:
        return None
    array = as_array("weight", value)
    if not is_floating(array.dtype) and array.dtype.kind not in "iu":
        raise TypeError(f"weight has dtype {array.dtype}; it must be {FLOATS}, or integer")
    if array.ndim != 1:
        rule = "it must have one number for each class, (C,)"
        raise ValueError(f"weight has shape {array.shape}; {rule}")
    return array


def as_sample_weight(value: object, target: Array) -> Array | None:
    """A number for each sample, of target's shape: what is broadcast is read in place."""
    if value is None:
        return None
    array = as_array("sample_weight", value)
    if not is_floating(array.dtype) and array.dtype.kind not in "iu":
        rule = f"it must be {FLOATS}, or integer"
        if array.dtype.kind == "b":
            rule += "; a mask is sample_weight=mask.astype(np.uint8)"
        raise TypeError(f"sample_weight has dtype {array.dtype}; {rule}")
    try:
        return np.broadcast_to(array, target.shape)
    except ValueError:
        problem = f"which does not broadcast to target's shape {target.shape}"
        raise ValueError(f"sample_weight has shape {array.shape}, {problem}") from None


def as_integer(name: str, value: object) -> int:
    check_class(name, value)
    if isinstance(value, bool | np.bool_):
        rule = "it must be an integer, not a bool" + as_written(name, value)
        raise TypeError(f"{name} is {shown(value)}; {rule}")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except MemoryError:
        raise
    except TypeError:
        rule = "it must be an integer" + as_written(name, value)
        raise TypeError(f"{name} is {shown(value)}; {rule}") from None
    except Exception as error:  # what its __index__ raises
        problem = f"which is no integer: {shown(error)}"
        raise TypeError(f"{name} is {shown(value)}, {problem}") from error


def as_written(name: str, value: object) -> str:
    """Say how to write the integer that is meant by a whole float, or by R's NA, which is True."""
    try:
        number = float(value) if issubclass(type(value), float | np.floating) else None  # type: ignore[arg-type]
    except Exception:  # of its own
        number = None
    is_nan = number is not None and number != number
    if name == "ignore_index" and (value is True or is_nan):
        return "; in R write NA_integer_ for NA"
    if number is not None and number.is_integer() and abs(number) < 2**31:
        return f": write {int(number)}, or in R {int(number)}L"
    return ""


def as_index_base(value: object) -> int:
    integer = as_integer("index_base", value)
    if not -(2**63) <= integer < 2**63:
        raise ValueError(f"index_base is {shown(integer)}, outside [-2^63, 2^63)")
    return integer


def as_num_threads(value: object) -> int:
    integer = as_integer("n", value)
    if not 1 <= integer <= 256:
        raise ValueError(f"n is {shown(integer)}; it must be 1 to 256 threads")
    return integer


def as_axis(value: object, ndim: int) -> int:
    axis = as_integer("axis", value)
    if ndim > 0 and not -ndim <= axis < max(ndim, 2):  # 1 is the only axis of a 1-d input, too
        dimensions = f"{ndim} dimension" if ndim == 1 else f"{ndim} dimensions"
        problem = f"out of bounds for input with {dimensions}"
        raise np.exceptions.AxisError(f"axis {shown(axis)} is {problem}")
    return axis


def as_ignore_index(value: object) -> int | None:
    if value is None:
        return None
    integer = as_integer("ignore_index", value)
    if not -(2**63) <= integer < 2**64:
        rule = "outside [-2^63, 2^64): no label can be that"
        raise ValueError(f"ignore_index is {shown(integer)}, {rule}")
    return integer


def as_word(name: str, value: object, words: tuple[str, ...]) -> str:
    listed = ", ".join(repr(word) for word in words[:-1]) + f" or {words[-1]!r}"
    if not issubclass(type(value), str):
        raise TypeError(f"{name} is {shown(value)}; it must be the string {listed}")
    word = str.__str__(value)  # a subclass may say anything of itself
    if word not in words:
        raise ValueError(f"{name} is {shown(word)}; it must be {listed}")
    return sys.intern(word)


def as_reduction(value: object) -> str:
    return as_word("reduction", value, ("none", "sum", "mean"))


def as_empty(value: object) -> str:
    return as_word("empty", value, ("nan", "zero", "raise"))


def as_dtype(value: object) -> np.dtype[Any] | None:
    if value is None:
        return None
    try:
        dtype = np.dtype(value)  # type: ignore[call-overload]
    except MemoryError:
        raise
    except Exception:
        raise TypeError(f"dtype is {shown(value)}; it must be {FLOATS}") from None
    if not is_floating(dtype):
        raise TypeError(f"dtype is {dtype}; it must be {FLOATS}")
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native


def with_digits_for(dtype: np.dtype[Any], input: Array) -> Array:
    """Input in a dtype in which as many digits are computed as the result's dtype has."""
    if dtype == input.dtype or (input.itemsize > 2 and dtype.itemsize <= input.itemsize):
        return input
    with np.errstate(all="ignore"):  # NumPy warns of signalling NaN
        return input.astype(np.promote_types(dtype, np.float32), copy=False)


def as_number(name: str, value: Any) -> float:
    """A real number: of Python, a NumPy scalar, or an array without dimensions."""
    if issubclass(type(value), float):
        return float.__float__(value)  # a subclass may say anything of itself
    if not issubclass(type(value), Real | np.generic):
        array = as_array(name, value)
        if array.ndim:
            rule = "for a reduced loss it must be one number"
            raise ValueError(f"{name} has shape {array.shape}; {rule}")
        value = array[()]
    is_real = issubclass(type(value), Real) or is_floating(np.asarray(value).dtype)
    if not is_real or type(value) in (bool, np.bool_):
        raise TypeError(f"{name} is {shown(value)}; it must be a real number")
    try:
        number = float(value)
        is_beyond = math.isinf(number) and bool(value != number)  # a finite number of more bits
    except MemoryError:
        raise
    except OverflowError:
        is_beyond = True
    except Exception as error:
        problem = f"which is no real number: {shown(error)}"
        raise TypeError(f"{name} is {shown(value)}, {problem}") from error
    if is_beyond:
        raise ValueError(f"{name} is {shown(value)}, beyond the largest float64")
    return number


def as_grad_output(value: object, *, of_samples: bool) -> float | Array:
    """A number or, where each sample has its own, an array of floats."""
    if not of_samples:
        return as_number("grad_output", value)
    array = as_array("grad_output", value)
    if not is_floating(array.dtype):
        raise TypeError(f"grad_output has dtype {array.dtype}; it must be {FLOATS}")
    return array


def as_label_smoothing(value: object) -> float:
    number = as_number("label_smoothing", value)
    if not 0 <= number <= 1:
        raise ValueError(f"label_smoothing is {shown(value)}, outside [0, 1]")
    return number


def as_flag(name: str, value: object) -> bool:
    if value is not None and not hasattr(type(value), "__bool__"):
        raise TypeError(f"{name} is {shown(value)}; it must be True or False")
    try:
        return bool(value)
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(f"{name} is {shown(value)}; it must be True or False") from error


def as_choices(
    *,
    weight: object,
    ignore_index: object,
    axis: object,
    index_base: object,
    empty: object,
    label_smoothing: object,
    dtype: object,
) -> dict[str, Any]:
    """What an accumulator is made with, native and by name. The weight is a copy, read-only."""
    weight = as_weight(weight)
    if weight is not None:
        weight = weight.copy()
        weight.flags.writeable = False
    axis = as_integer("axis", axis)
    if not -(2**31) <= axis < 2**31:
        raise np.exceptions.AxisError(f"axis {shown(axis)} is out of bounds for any input")
    return {
        "weight": weight,
        "ignore_index": as_ignore_index(ignore_index),
        "axis": axis,
        "index_base": as_index_base(index_base),
        "empty": as_empty(empty),
        "label_smoothing": as_label_smoothing(label_smoothing),
        "dtype": as_dtype(dtype),
    }


def as_groups(value: object) -> int | None:
    if value is None:
        return None
    groups = as_integer("groups", value)
    if not 1 <= groups < 2**31:
        raise ValueError(f"groups is {shown(groups)}; it must be None, or in [1, 2^31)")
    return groups


def as_group(value: Any, groups: int | None) -> object:
    """The groups of samples as they were given, or None where they are the classes."""
    if groups is None:
        raise ValueError("group is given, but groups is None: the accumulator has no groups")
    if value is None:
        raise ValueError(f"group is None, but groups is {groups}: each sample needs a group")
    if issubclass(type(value), str):
        if not str.__eq__(value, "target"):
            rule = "it must be 'target', or an array of integers"
            raise ValueError(f"group is {shown(value)}; {rule}")
        return None
    return value


def as_batch(
    input: object,
    target: object,
    sample_weight: object,
    group: object,
) -> tuple[Array, Array, Array | None, Array | None]:
    """Convert the arguments of an update; the first one that cannot be raises.

    The extension calls this when an argument is not native.
    """
    scores = as_input(input)
    labels = as_target(target, scores)
    weights = as_sample_weight(sample_weight, labels)
    if group is None:
        return scores, labels, weights, None
    array = as_array("group", group)
    if array.size == 0 and issubclass(type(group), SEQUENCES):
        array = array.astype(np.intp)
    if array.dtype.kind not in "iu":
        raise TypeError(f"group has dtype {array.dtype}; groups must be integers")
    return scores, labels, weights, array


def as_bytes(name: str, value: Any) -> Array:
    """Bytes as an array of uint8 that shares their memory."""
    if issubclass(type(value), bytes | bytearray | memoryview):
        try:
            return np.frombuffer(value, np.uint8)
        except (BufferError, ValueError) as error:  # of a memoryview
            problem = f"that gives no bytes: {told(error)}"
            raise ValueError(f"{name} is {a_kind_of(value)} {problem}") from error
    array = as_array(name, value)
    if array.dtype != np.uint8:
        raise TypeError(f"{name} has dtype {array.dtype}; a state is of bytes, or of uint8")
    return array


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name an argument in what the core says of its bytes."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def as_rows(name: str, value: object, groups: int | None, size: int) -> Array:
    """States of so many bytes as an array, (1, S) or (groups, S).

    Whether one state without groups is of the right length is left to the core.
    """
    array = as_bytes(name, value)
    if groups is None:
        if array.ndim != 1 or (array.size > size and array.size % size == 0):
            count, rest = divmod(array.size, size)
            many = "1 state has" if count == 1 else f"{count} states have"
            cure = f" (as {many}: then pass groups)" if count and not rest else ""
            raise ValueError(f"{name} has shape {array.shape}{cure}; one state has ({size},)")
        return array.reshape(1, -1)
    if array.shape not in ((groups, size), (groups * size,)):
        raise ValueError(
            f"{name} has shape {array.shape}; the states of {groups} groups have "
            f"({groups}, {size}), or ({groups * size},)"
        )
    return array.reshape(groups, size)


def as_stacked_rows(value: Any, size: int) -> Array:
    """States of so many bytes to merge as an array, (k, ..., S)."""
    if issubclass(type(value), list | tuple):
        rows = [as_bytes(f"states[{i}]", row) for i, row in enumerate(value)]
        shapes = {row.shape for row in rows}
        if len(shapes) > 1:
            i = next(i for i, row in enumerate(rows) if row.shape != rows[0].shape)
            problem = f"states[{i}] has shape {rows[i].shape}, but states[0] has {rows[0].shape}"
            raise ValueError(f"{problem}; one state has ({size},)")
        array = np.stack(rows) if rows else np.empty((0, size), np.uint8)
    else:
        array = as_bytes("states", value)
    if array.ndim < 2 or array.shape[-1] != size:
        rule = f"it must be (k, ..., {size})"
        raise ValueError(f"states has shape {array.shape}; {rule}")
    return array


def as_out(
    out: object,
    others: dict[str, Any],
    given: dict[str, Any],
    *,
    in_place: bool,
) -> Array | None:
    """The memory of `out`, if it can be written like input, and shares none with other arguments.

    In place, it may be that of input, element by element. `given` has the arguments before they
    were converted: memory that was copied is another argument's, too.
    """
    if out is None:
        return None
    if not issubclass(type(out), np.ndarray) or issubclass(type(out), np.ma.MaskedArray):
        raise TypeError(f"out is {a_kind_of(out)}; it must be a numpy.ndarray")
    out = np.asarray(out)  # the memory that is written: a subclass may say anything of itself
    arrays = {name: one for name, one in given.items() if issubclass(type(one), np.ndarray)}
    given = others | arrays
    like = others["input"]
    if out.dtype != like.dtype or not out.dtype.isnative:
        found = out.dtype if out.dtype.isnative else out.dtype.str
        raise TypeError(f"out has dtype {found}; it must be {like.dtype}")
    if out.shape != like.shape:
        raise ValueError(f"out has shape {out.shape}, but input has {like.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only; it must be writeable")
    if not is_aligned(out):
        raise ValueError("out is not aligned to its elements; it cannot be written in place")
    memory = with_native_name(out)
    if overlaps_itself(memory):
        problem = f"elements that share memory (strides {out.strides})"
        raise ValueError(f"out has {problem}; each must have its own")
    for name, other in others.items():
        may_be_same = in_place and name == "input"
        if may_be_same and same_memory(memory, like):
            continue
        both = (array for array in (other, given[name]) if isinstance(array, np.ndarray))
        if any(shares_memory(memory, np.asarray(array)) for array in both):
            same = "be the same memory in the same strides, or " if may_be_same else ""
            raise ValueError(f"out shares memory with {name}; it must {same}have its own")
    return memory


def overlaps_itself(array: Array) -> bool:
    """Tell whether two elements share memory.

    Two that do still share it if both move along an axis. So there are two that both have index 0
    along the axes before the first one along which they differ; there, one has index 0.
    """
    while array.ndim and array.size:
        if shares_memory(array[:1], array[1:]):
            return True
        array = array[0, ...]
    return False


def same_memory(one: Array, other: Array) -> bool:
    return one.ctypes.data == other.ctypes.data and one.strides == other.strides


def shares_memory(one: Array, other: Array) -> bool:
    """Tell whether two arrays have a byte in common: also if that takes too long to find out."""
    try:
        return np.shares_memory(one, other, max_work=10**6)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def as_native(given: dict[str, Any], in_place: bool) -> dict[str, Any]:
    """Convert the arguments of a call, by name; the first one that cannot be raises.

    The extension calls this when an argument is not native, or when `out` needs a closer look.

    Parameters
    ----------
    given : dict
        Arguments as the user gave them: of a loss, `softmax`, `log_softmax` or `logsumexp`.
    in_place : bool
        Whether `out` may be input itself.

    Returns
    -------
    dict
        The same names, with native arguments.
    """
    array = as_input(given["input"])
    native: dict[str, Any] = {"input": array}
    is_loss = "target" in given
    if is_loss:
        native["target"] = as_target(given["target"], array)
        native["weight"] = as_weight(given["weight"])
        native["sample_weight"] = as_sample_weight(given["sample_weight"], native["target"])
        native["ignore_index"] = as_ignore_index(given["ignore_index"])
        native["reduction"] = as_reduction(given["reduction"])
    native["axis"] = as_axis(given["axis"], array.ndim)
    if is_loss:
        native["index_base"] = as_index_base(given["index_base"])
        native["empty"] = as_empty(given["empty"])
    if "label_smoothing" in given:
        native["label_smoothing"] = as_label_smoothing(given["label_smoothing"])
    if "grad_output" in given:
        with_loss = "return_total_weight" in given  # which is reduced
        of_samples = native["reduction"] == "none" and not with_loss
        native["grad_output"] = as_grad_output(given["grad_output"], of_samples=of_samples)
    if "dtype" in given:
        native["dtype"] = as_dtype(given["dtype"])
    if not is_loss and native.get("dtype") is not None:
        native["input"] = with_digits_for(native["dtype"], array)
    if "out" in given:
        native["out"] = as_out(given["out"], native, given, in_place=in_place)
    for name in ("return_total_weight", "keepdims"):
        if name in given:
            native[name] = as_flag(name, given[name])
    return native
