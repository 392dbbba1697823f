# SPDX-License-Identifier: BSD-3-Clause
"""Random bad arguments of the losses, each with the error that it must get."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from support.layouts import byte_swapped, unaligned
from support.oracle import as_native
from support.problems import Problem, Rng, laid_out, one_of

AxisError = np.exceptions.AxisError


class Refusal(NamedTuple):
    """Arguments in place of good ones, and the error that they get."""

    what: str
    errors: tuple[type[Exception], ...]
    message: str
    arguments: dict[str, Any]


def label(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal | None:
    """Labels outside of the classes at a few positions, of which the lowest is named."""
    target, first, ignored = as_native(problem.target).copy(), problem.index_base, problem.ignore_index
    end, limits = first + problem.class_count, np.iinfo(target.dtype)
    candidates = [first - 1, end, limits.min, limits.max, int(rng.integers(limits.min, limits.max, dtype=target.dtype))]
    bad = [v for v in candidates if limits.min <= v <= limits.max and not first <= v < end and v != ignored]
    if not bad or target.size == 0:
        return None
    positions = rng.integers(target.size, size=int(rng.integers(1, 4)))
    for position in positions:
        target.flat[position] = one_of(rng, *bad)
    lowest = np.unravel_index(positions.min(), target.shape)
    place = f"[{', '.join(map(str, lowest))}]" if target.ndim else ""
    message = f"target{place} is {target[lowest]}, outside [{first}, {end}) (ignore_index is {ignored})"
    return Refusal("a bad label", (IndexError,), f"^{re_escape(message)}$", {"target": laid_out(rng, target)})


def re_escape(text: str) -> str:
    return "".join(f"\\{c}" if c in "[]()." else c for c in text)


def other_shape(rng: Rng, shape: tuple[int, ...]) -> tuple[int, ...]:
    """One longer, shorter or wider."""
    kind = one_of(rng, "longer", "shorter", "wider", "column")
    if kind == "shorter" and shape:
        return shape[1:]
    if kind == "wider" and shape:
        place = int(rng.integers(len(shape)))
        return tuple(n + (i == place) for i, n in enumerate(shape))
    return (*shape, 1) if kind == "column" else (1, *shape)


def target_shape(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal:
    """A target for another input."""
    shape = other_shape(rng, np.shape(problem.target))
    target = np.full(shape, problem.index_base, np.asarray(problem.target).dtype)
    return Refusal(
        "a target of another shape", (ValueError,), "^target has shape", {"target": target, "sample_weight": None}
    )


def input_dtype(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal:
    """Numbers that are not of the four float types."""
    dtype = one_of(rng, np.int64, bool, np.complex64, object, np.longdouble, ml_dtypes.float8_e5m2, "M8[s]", "U1", "V4")
    return Refusal(
        "an input of another dtype", (TypeError,), "^input ", {"input": np.zeros(np.shape(problem.input), dtype)}
    )


def target_dtype(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal:
    """Labels that are not integers."""
    shape = np.shape(problem.target)
    dtype = one_of(rng, float, np.float16, bool, complex, object, ml_dtypes.bfloat16, ml_dtypes.int4, "m8[s]", "U1")
    return Refusal("a target of another dtype", (TypeError,), "^target ", {"target": np.zeros(shape, dtype)})


def masked(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal:
    """A masked array, whose mask would be lost."""
    name = one_of(rng, "input", "target", "weight", "sample_weight")
    good = arguments[name]
    array = np.ma.masked_array(np.ones(problem.class_count) if good is None else np.array(good))
    return Refusal(f"a masked {name}", (TypeError,), f"^{name} is a masked array", {name: array})


def nothing(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal:
    """No argument where one is needed."""
    names = ("input", "target", "axis", "index_base", "reduction", "empty", "label_smoothing", "grad_output")
    name = one_of(rng, *(name for name in names if name in arguments))
    return Refusal(f"{name}=None", (TypeError,), f"^{name} ", {name: None})


def weight(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal:
    """Class weights of another length, rank, dtype or size."""
    count = problem.class_count
    wrong_dtype = one_of(rng, bool, complex, object, ml_dtypes.float8_e5m2)
    large = np.full(count, 2**53, one_of(rng, np.int64, np.uint64))
    if count:
        large[rng.integers(count)] += 1
    value, error = one_of(
        rng,
        (np.ones(count + 1), ValueError),
        (np.ones(max(count - 1, 0)), ValueError),
        (np.ones((1, count)), ValueError),
        (2.0, ValueError),
        (np.ones(count, wrong_dtype), TypeError),
        (large, ValueError),
        ("balanced", TypeError),
    )
    if count == 0 and np.shape(value) == (0,) and error is ValueError:
        value = np.ones(1)
    return Refusal("a wrong weight", (error,), "^weight", {"weight": value})


def smoothed_weight(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal | None:
    """Class weights that would not leave room for smoothing."""
    if "label_smoothing" not in arguments or problem.class_count == 0:
        return None
    value = np.ones(problem.class_count)
    place = int(rng.integers(len(value)))
    value[place] = one_of(rng, 2.0**501, -(2.0**501), 2.0**-501, 5e-324)
    return Refusal(
        "a large weight that is smoothed",
        (ValueError,),
        rf"^weight\[{place}\] is .* label_smoothing",
        {"weight": value, "label_smoothing": 0.5},
    )


def sample_weight(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal | None:
    """Weights of samples of another shape, dtype or size."""
    target = np.asarray(problem.target)
    kind = one_of(rng, "shape", "dtype", "large")
    if kind == "dtype":
        value = np.ones(target.shape, one_of(rng, bool, complex, object, "U1"))
        return Refusal("a sample_weight of another dtype", (TypeError,), "^sample_weight ", {"sample_weight": value})
    if kind == "shape":
        shape = (
            (2, *target.shape) if rng.random() < 0.5 else (*target.shape[:-1], max(target.shape[-1:], default=1) + 2)
        )
        value = np.ones(shape)
        return Refusal("a sample_weight of another shape", (ValueError,), "^sample_weight ", {"sample_weight": value})
    kept = np.argwhere(problem.kept)
    if len(kept) == 0:
        return None
    value = np.ones(target.shape, one_of(rng, np.int64, np.uint64))
    places = sorted(map(tuple, kept[rng.integers(len(kept), size=2)].tolist()))
    for place in places:
        value[place] = 2**53 + 1
    named = re_escape(f"[{', '.join(map(str, places[0]))}]") if target.ndim else ""
    value = laid_out(rng, value)
    return Refusal("a large sample_weight", (ValueError,), f"^sample_weight{named} is 9007", {"sample_weight": value})


def word(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal:
    """Another word, or none."""
    name = one_of(rng, "reduction", "empty")
    value, error = one_of(
        rng,
        ("", ValueError),
        ("Mean", ValueError),
        ("avg", ValueError),
        (b"mean", TypeError),
        (1, TypeError),
        ([], TypeError),
    )
    return Refusal(f"{name}={value!r}", (error,), f"^{name} is", {name: value})


def integer(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal:
    """No integer, or one out of bounds."""
    name = one_of(rng, "ignore_index", "index_base", "axis")
    if rng.random() < 0.5:
        value = one_of(rng, 1.0, 0.5, np.nan, True, np.False_, "1", np.float32(1), [1], (1,), {}, 1j, np.array([1, 2]))
        return Refusal(f"{name}={value!r}", (TypeError,), f"^{name} ", {name: value})
    if name == "axis":
        rank = np.ndim(problem.input)
        value = one_of(rng, max(rank, 2), -rank - 1, 2**31, 2**63, -(2**63) - 1, 2**70)
        return Refusal(
            f"axis={value}", (AxisError,), f"^axis {value} is out of bounds for input with {rank} d", {name: value}
        )
    if name == "index_base" and rng.random() < 0.5 and problem.class_count > 1:
        value = 2**63 - int(rng.integers(1, problem.class_count))
    else:
        value = one_of(rng, 2**64, -(2**63) - 1, 2**70, 10**30)
    return Refusal(f"{name}={value}", (ValueError,), f"^{name} ", {name: value})


def smoothing(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal | None:
    """A label smoothing that is no number of [0, 1]."""
    if "label_smoothing" not in arguments:
        return Refusal(
            "label_smoothing of log-probabilities", (TypeError,), "label_smoothing", {"label_smoothing": 0.1}
        )
    value, error = one_of(
        rng,
        (-0.1, ValueError),
        (math.nextafter(1, 2), ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (2, ValueError),
        (10**400, ValueError),
        (np.ones(2), ValueError),
        (True, TypeError),
        ("0.1", TypeError),
        (0.1j, TypeError),
    )
    return Refusal(f"label_smoothing={value!r:.40}", (error,), "^label_smoothing ", {"label_smoothing": value})


def flag(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal:
    """Neither True nor False; or a keyword that there is not."""
    if "return_total_weight" not in arguments:
        return Refusal("another keyword", (TypeError,), "size_average", {"size_average": True})
    value = one_of(rng, "yes", "", [], (), {})
    return Refusal(
        f"return_total_weight={value!r}", (TypeError,), "^return_total_weight ", {"return_total_weight": value}
    )


def result_dtype(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal | None:
    """A loss that would not be of the four float types."""
    if "dtype" not in arguments:
        return None
    value = one_of(rng, int, np.complex64, "no dtype", np.longdouble, object, 3, ml_dtypes.float8_e5m2, bool)
    return Refusal(f"dtype={value!r}", (TypeError,), "^dtype is", {"dtype": value})


def grad_output(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal | None:
    """A gradient of the loss of another shape or dtype."""
    if "grad_output" not in arguments:
        return None
    shape = np.shape(problem.target)
    if arguments["reduction"] == "none":
        value, error = one_of(
            rng,
            (np.ones(other_shape(rng, shape)), ValueError),
            (np.ones(shape, one_of(rng, int, bool, complex, object)), TypeError),
            ("one", TypeError),
        )
    else:
        value, error = one_of(
            rng,
            (np.ones((1,)), ValueError),
            (np.ones((2, 2)), ValueError),
            (True, TypeError),
            ("1", TypeError),
            (1j, TypeError),
            (10**400, ValueError),
        )
    return Refusal("a wrong grad_output", (error,), "^grad_output ", {"grad_output": value})


# ---- out


def out(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal | None:
    """An array that the gradient cannot be written into."""
    if "out" not in arguments:
        return None
    input = as_native(problem.input)
    shape, dtype = input.shape, input.dtype
    good = np.full(shape, 7, dtype)
    read_only = good.copy()
    read_only.flags.writeable = False
    other = one_of(
        rng, *{np.dtype(t) for t in (np.float16, np.float32, np.float64, np.int32, ml_dtypes.bfloat16)} - {dtype}
    )
    cases: list[tuple[Any, type[Exception]]] = [
        (np.full(other_shape(rng, shape), 7, dtype), ValueError),
        (np.full(shape, 7, other), TypeError),
        (read_only, ValueError),
        (np.ma.masked_array(good), TypeError),
        (good.tolist(), TypeError),
    ]
    if dtype.kind != "V":
        cases.append((byte_swapped(good), TypeError))
    if good.size:
        cases.append((unaligned(good), ValueError))
    if good.size > 1:
        cases += [
            (overlapping_itself(good), ValueError),
            (np.ndarray(shape, dtype, np.zeros(1, dtype), 0, (0,) * good.ndim), ValueError),
        ]
    value, error = one_of(rng, *cases)
    return Refusal("a wrong out", (error,), "^out ", {"input": input, "out": value})


def overlapping_itself(array: np.ndarray) -> np.ndarray:
    """Two elements share memory, and no stride is 0: as windows of a series do."""
    frame = np.zeros(array.size, array.dtype)
    longest = [n for n in array.shape if n > 1]
    if len(longest) < 2:
        return np.ndarray(array.shape, array.dtype, frame, 0, (0,) * array.ndim)
    return np.ndarray(array.shape, array.dtype, frame, 0, (array.itemsize,) * array.ndim)


def shared_memory(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal | None:
    """An `out` over the memory of another argument."""
    input = as_native(problem.input)
    if "out" not in arguments or input.size < 2:
        return None
    name = one_of(rng, "input", "target", "weight", "sample_weight")
    if name == "input":
        shift = one_of(rng, 0, int(rng.integers(1, input.size)))
        frame = np.zeros(input.size + shift, input.dtype)
        parts = [np.ndarray(input.shape, input.dtype, frame, shift * place * input.itemsize) for place in (0, 1)]
        if sum(n > 1 for n in input.shape) > 1:  # from the same address, in other strides
            parts[1] = np.ndarray(input.shape, input.dtype, frame, shift * input.itemsize, order="F")
        elif shift == 0:
            return None
        one, other = parts if rng.random() < 0.5 else reversed(parts)
        one[...] = input
        return Refusal(
            "an out over input", (ValueError,), "^out shares memory with input", {"input": one, "out": other}
        )
    value = arguments[name]
    value = np.ones(problem.class_count if name == "weight" else ()) if value is None else as_native(value)
    if value.size == 0:
        return None
    frame = np.zeros(max(value.nbytes, input.nbytes) + 8, np.uint8)
    shared = frame[: value.nbytes].view(value.dtype).reshape(value.shape)
    shared[...] = value
    memory = frame[: input.nbytes].view(input.dtype).reshape(input.shape)
    return Refusal(
        f"an out over {name}",
        (ValueError,),
        f"^out shares memory with {name}",
        {"input": input, name: shared, "out": memory},
    )


KINDS: list[Callable[[Rng, Problem, dict[str, Any]], Refusal | None]] = [
    label,
    label,
    label,
    target_shape,
    input_dtype,
    target_dtype,
    masked,
    nothing,
    weight,
    smoothed_weight,
    sample_weight,
    sample_weight,
    word,
    integer,
    smoothing,
    flag,
    result_dtype,
    grad_output,
    out,
    out,
    shared_memory,
]


def random_refusal(rng: Rng, problem: Problem, arguments: dict[str, Any]) -> Refusal | None:
    """Draws a bad argument among those that the function takes; None where there is none of the kind."""
    return one_of(rng, *KINDS)(rng, problem, arguments)
