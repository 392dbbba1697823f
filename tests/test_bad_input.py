# SPDX-License-Identifier: BSD-3-Clause
"""No bad argument is accepted: each gets an error of the right kind that names the argument, the value and the rule.

Every case runs through all functions that take the argument, and none may touch an array of the caller.
"""

from __future__ import annotations

import functools
import weakref
from collections import UserList, deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any
from unittest.mock import Mock

import ml_dtypes
import numpy as np
import pytest

import nll
from support.layouts import LAYOUTS
from support.notes import note
from support.oracle import assert_same_bits
from support.pairs import pairwise

AxisError = np.exceptions.AxisError


def nll_loss(*, out: Any = None, **arguments: Any) -> Any:
    return nll.nll_loss(**arguments)


def nll_loss_backward(**arguments: Any) -> Any:
    return nll.nll_loss_backward(**{"grad_output": grad_output_for(arguments)} | arguments)


def nll_loss_value_and_grad(**arguments: Any) -> Any:
    return nll.nll_loss_value_and_grad(**arguments)


def nll_loss_module(*, input: Any, target: Any, out: Any = None, **choices: Any) -> Any:
    return nll.NLLLoss(**choices)(input, target)


def cross_entropy(*, out: Any = None, **arguments: Any) -> Any:
    return nll.cross_entropy(**arguments)


def cross_entropy_backward(**arguments: Any) -> Any:
    return nll.cross_entropy_backward(**{"grad_output": grad_output_for(arguments)} | arguments)


def cross_entropy_value_and_grad(**arguments: Any) -> Any:
    return nll.cross_entropy_value_and_grad(**arguments)


def cross_entropy_module(*, input: Any, target: Any, out: Any = None, **choices: Any) -> Any:
    return nll.CrossEntropyLoss(**choices)(input, target)


def cross_entropy_in_place(**arguments: Any) -> Any:
    """Its gradient takes the place of the logits where it can."""
    input = arguments["input"]
    writeable = type(input) is np.ndarray and input.dtype == np.float32 and input.flags.c_contiguous
    return nll.cross_entropy_value_and_grad(**arguments | ({"out": input} if writeable else {}))


def grad_output_for(arguments: dict[str, Any]) -> Any:
    return np.ones((2, 4)) if arguments.get("reduction") == "none" else 1.0


FORWARD: list[Callable[..., Any]] = [nll_loss, cross_entropy]
BACKWARD: list[Callable[..., Any]] = [nll_loss_backward, cross_entropy_backward]
VALUE_AND_GRAD: list[Callable[..., Any]] = [
    nll_loss_value_and_grad,
    cross_entropy_value_and_grad,
    cross_entropy_in_place,
]
INTO_OUT = BACKWARD + VALUE_AND_GRAD[:2]
MODULES: list[Callable[..., Any]] = [nll_loss_module, cross_entropy_module]
FUNCTIONS = [*FORWARD, *BACKWARD, *VALUE_AND_GRAD, *MODULES]
THREADS = [1, 2, 3]
CROSS_ENTROPY = [f for f in FUNCTIONS if f.__name__.startswith("cross_entropy")]


def valid() -> dict[str, Any]:
    """Arguments that every function accepts: input (2, 3, 4)."""
    return {
        "input": -np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "target": np.array([[0, 1, 2, 0], [1, 1, 0, 2]]),
        "out": np.full((2, 3, 4), 7, np.float32),
    }


def assert_refuses(
    function: Callable[..., Any], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    arrays = [arguments[name] for name in ("input", "out") if isinstance(arguments.get(name), np.ndarray)]
    before = [array.tobytes() for array in arrays]
    with pytest.raises(error, match=message) as caught:
        function(**arguments)
    assert caught.type is error  # no subclass, such as AxisError for ValueError
    assert [array.tobytes() for array in arrays] == before


def assert_all_refuse(
    functions: list[Callable[..., Any]], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    for function in functions:
        with note(function):
            assert_refuses(function, arguments, error, message)


def test_valid_arguments_are_accepted():
    for function in FUNCTIONS:
        function(**valid())


def case(name: str, error: type[Exception], message: str, **change: Any) -> Any:
    return pytest.param(change, error, message, id=name)


# ---- what all functions take


class Raising:
    """An integer that fails."""

    def __index__(self) -> int:
        raise ZeroDivisionError("no index today")

    def __repr__(self) -> str:
        raise ZeroDivisionError("no repr today")


class Liar(str):
    """A word that says to be every other."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("mean")

    def __str__(self) -> str:
        return "mean"


class HiddenMask:
    """Gives its array as NumPy asks for one: with a mask."""

    def __init__(self, array: Any) -> None:
        self.array = np.ma.masked_array(array, np.zeros(np.shape(array), bool))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


STRUCTURED = np.zeros((2, 3, 4), [("value", np.float32)])
MASKED = np.ma.masked_array(np.zeros((2, 4), int), mask=np.eye(2, 4, dtype=bool))
UNMASKED = np.ma.masked_array(np.zeros((2, 4), int))

INPUT = [
    case("integer", TypeError, r"input.*int64", input=np.zeros((2, 3, 4), np.int64)),
    case("bool", TypeError, r"input.*bool", input=np.zeros((2, 3, 4), bool)),
    case("complex", TypeError, r"input.*complex64", input=np.zeros((2, 3, 4), np.complex64)),
    case("object", TypeError, r"input.*object", input=np.zeros((2, 3, 4), object)),
    case("string", TypeError, r"input.*<U1", input=np.full((2, 3, 4), "1")),
    case("date", TypeError, r"input.*datetime64", input=np.zeros((2, 3, 4), "M8[s]")),
    case("float8-e4m3", TypeError, r"input.*float8_e4m3fn", input=np.zeros((2, 3, 4), ml_dtypes.float8_e4m3fn)),
    case("float8-e5m2", TypeError, r"input.*float8_e5m2", input=np.zeros((2, 3, 4), ml_dtypes.float8_e5m2)),
    case("longdouble", TypeError, r"input.*longdouble|input.*float128|input.*float96", input=np.zeros((2, 3, 4), "g")),
    case("raw-bytes", TypeError, r"input.*V2", input=np.zeros((2, 3, 4), "V2")),
    case("structured", TypeError, r"input.*value", input=STRUCTURED),
    case("masked", TypeError, r"input.*mask", input=np.ma.masked_less(np.zeros((2, 3, 4)), 1)),
    case("ragged-list", TypeError, r"input.*list.*inhomogeneous", input=[[1.0], [1.0, 2.0]]),
    case("none", TypeError, r"input", input=None),
    case("text", TypeError, r"input", input="log-probabilities"),
    case("dict", TypeError, r"input", input={}),
    case("hidden-mask", TypeError, r"input.*mask", input=HiddenMask(np.zeros((2, 3, 4), np.float32))),
    case("0-d", ValueError, r"input.*0 dimensions", input=np.float32(1), target=0, out=np.zeros((), np.float32)),
]
TARGET = [
    case("float", TypeError, r"target.*float64", target=np.zeros((2, 4))),
    case("bfloat16", TypeError, r"target.*bfloat16", target=np.zeros((2, 4), ml_dtypes.bfloat16)),
    case(
        "whole-float",
        TypeError,
        r'write target\.astype\(int\), or in R storage\.mode\(target\) <- "integer"$',
        target=np.ones((2, 4), np.float32),
    ),
    case("whole-bfloat16", TypeError, r"write target\.astype\(int\)", target=np.ones((2, 4), ml_dtypes.bfloat16)),
    case(
        "whole-float-list", TypeError, r"write target\.astype\(int\), or in R as\.integer\(target\)$", target=[1.0, 2.0]
    ),
    case("float-with-nan", TypeError, r"NaN is none: in R write as\.integer.*NA_integer_", target=[1.0, np.nan]),
    case("fraction", TypeError, r"labels must be integers$", target=[[0.0, 1, 2, 0], [1, 1.5, 0, 2]]),
    case("infinite", TypeError, r"labels must be integers$", target=[np.inf, 0]),
    case("beyond-integers-of-R", TypeError, r"labels must be integers$", target=[2.0**31, 0]),
    case("words", TypeError, r"return_inverse=True.*a factor in R as\.integer\(target\)$", target=["cat", "dog"]),
    case("objects-that-are-words", TypeError, r"return_inverse=True", target=np.array(["cat", "dog"], object)),
    case("objects", TypeError, r"labels must be integers$", target=np.array(["cat", 1], object)),
    case("bool", TypeError, r"target.*bool", target=np.zeros((2, 4), bool)),
    case("object", TypeError, r"target.*object", target=np.zeros((2, 4), object)),
    case("complex", TypeError, r"target.*complex128", target=np.zeros((2, 4), complex)),
    case("int4", TypeError, r"target.*int4", target=np.zeros((2, 4), ml_dtypes.int4)),
    case("timedelta", TypeError, r"target.*timedelta64", target=np.zeros((2, 4), "m8[s]")),
    case("masked", TypeError, r"target.*mask", target=MASKED),
    case("masked-array-without-a-mask", TypeError, r"target.*mask", target=UNMASKED),
    case("none", TypeError, r"target", target=None),
    case("hidden-mask", TypeError, r"target.*mask", target=HiddenMask(np.zeros((2, 4), int))),
    case("of-input's-shape", TypeError, r"target.*argmax\(axis\).*probabilities", target=np.ones((2, 3, 4))),
]
SHAPES = [
    case("batch", ValueError, r"target.*\(3, 4\).*\(2, 3, 4\)", target=np.zeros((3, 4), int)),
    case("batch-of-one", ValueError, r"target.*\(1, 4\).*\(2, 3, 4\)", target=np.zeros((1, 4), int)),
    case("spatial", ValueError, r"target.*\(2, 5\).*\(2, 3, 4\)", target=np.zeros((2, 5), int)),
    case("transposed", ValueError, r"target.*\(4, 2\).*\(2, 3, 4\)", target=np.zeros((4, 2), int)),
    case("too-few-dimensions", ValueError, r"target.*\(2,\).*\(2, 3, 4\)", target=np.zeros(2, int)),
    case("input's-own", ValueError, r"target.*\(2, 3, 4\).*\(2, 3, 4\)", target=np.zeros((2, 3, 4), int)),
    case("one-class", ValueError, r"target.*\(2, 1, 4\).*target\.squeeze\(1\)", target=np.zeros((2, 1, 4), int)),
    case("column", ValueError, r"target.*\(2, 4, 1\).*squeeze\(2\)", target=np.zeros((2, 4, 1), int), axis=-1),
    case("scalar", ValueError, r"target.*\(\).*\(2, 3, 4\)", target=0),
    case("of-another-axis", ValueError, r"target.*\(2, 4\).*\(2, 3, 4\)", axis=2),
    case(
        "no-classes",
        IndexError,
        r"target\[0, 0\] is 0, outside \[0, 0\)",
        input=np.zeros((2, 0, 4), np.float32),
        out=np.zeros((2, 0, 4), np.float32),
    ),
]
WEIGHT = [
    case("too-short", ValueError, r"weight.*2.*3", weight=np.ones(2)),
    case("too-long", ValueError, r"weight.*4.*3", weight=np.ones(4)),
    case("empty", ValueError, r"weight.*0.*3", weight=np.ones(0)),
    case("two-dimensional", ValueError, r"weight.*\(1, 3\)", weight=np.ones((1, 3))),
    case("zero-dimensional", ValueError, r"weight.*\(\)", weight=2.0),
    case("complex", TypeError, r"weight.*complex128", weight=np.ones(3, complex)),
    case("bool", TypeError, r"weight.*bool", weight=np.ones(3, bool)),
    case("object", TypeError, r"weight.*object", weight=np.ones(3, object)),
    case("float8", TypeError, r"weight.*float8_e5m2", weight=np.ones(3, ml_dtypes.float8_e5m2)),
    case("masked", TypeError, r"weight.*mask", weight=np.ma.masked_array([1.0, 2, 3], [0, 0, 1])),
    case("hidden-mask", TypeError, r"weight.*mask", weight=HiddenMask(np.ones(3))),
    case("beyond-doubles", ValueError, r"weight\[1\] is 9007199254740993.*2\^53", weight=[1, 2**53 + 1, 1]),
    case("below-doubles", ValueError, r"weight\[2\] is -9007199254740993.*2\^53", weight=[1, 1, -(2**53) - 1]),
    case(
        "beyond-int64", ValueError, r"weight\[0\] is 18446744073709551615.*2\^53", weight=np.uint64([2**64 - 1, 0, 0])
    ),
]
CHOICES = [
    case("reduction-misspelt", ValueError, r"reduction.*'avg'", reduction="avg"),
    case("reduction-in-capitals", ValueError, r"reduction.*'MEAN'", reduction="MEAN"),
    case("reduction-empty", ValueError, r"reduction.*''", reduction=""),
    case("reduction-that-lies", ValueError, r"reduction.*'avg'", reduction=Liar("avg")),
    case("reduction-that-fails", TypeError, r"reduction.*Raising", reduction=Raising()),
    case("reduction-none", TypeError, r"reduction.*None", reduction=None),
    case("reduction-integer", TypeError, r"reduction.*1", reduction=1),
    case("reduction-bytes", TypeError, r"reduction", reduction=b"mean"),
    case("empty-misspelt", ValueError, r"empty.*'inf'", empty="inf"),
    case("empty-float", TypeError, r"empty", empty=0.0),
    case("ignore-index-float", TypeError, r"ignore_index.*1\.5", ignore_index=1.5),
    case("ignore-index-integral-float", TypeError, r"ignore_index.*1\.0.*: write 1, or in R 1L$", ignore_index=1.0),
    case("ignore-index-float32", TypeError, r"must be an integer: write -1, or in R -1L$", ignore_index=np.float32(-1)),
    case("ignore-index-beyond-R", TypeError, r"must be an integer$", ignore_index=2.0**31),
    case(
        "ignore-index-nan", TypeError, r"ignore_index is nan; .*; in R write NA_integer_ for NA$", ignore_index=np.nan
    ),
    case("ignore-index-false", TypeError, r"ignore_index is False; it must be .* not a bool$", ignore_index=False),
    case("ignore-index-bool", TypeError, r"ignore_index.*True.*; in R write NA_integer_ for NA$", ignore_index=True),
    case("ignore-index-numpy-bool", TypeError, r"ignore_index", ignore_index=np.True_),
    case("ignore-index-text", TypeError, r"ignore_index.*'-100'", ignore_index="-100"),
    case("ignore-index-array", TypeError, r"ignore_index", ignore_index=np.array([1, 2])),
    case("ignore-index-too-large", ValueError, r"ignore_index.*18446744073709551616", ignore_index=2**64),
    case("ignore-index-of-5000-digits", ValueError, r"ignore_index is an int, outside", ignore_index=10**5000),
    case("ignore-index-that-fails", TypeError, r"ignore_index.*no index today", ignore_index=Raising()),
    case("ignore-index-too-small", ValueError, r"ignore_index.*-9223372036854775809", ignore_index=-(2**63) - 1),
    case("index-base-float", TypeError, r"index_base.*0\.5", index_base=0.5),
    case("index-base-integral-float", TypeError, r"index_base is 1\.0; .*: write 1, or in R 1L$", index_base=1.0),
    case("index-base-true", TypeError, r"index_base is True; it must be an integer, not a bool$", index_base=True),
    case("index-base-nan", TypeError, r"index_base is nan; it must be an integer$", index_base=np.nan),
    case("index-base-bool", TypeError, r"index_base.*False", index_base=False),
    case("index-base-none", TypeError, r"index_base.*None", index_base=None),
    case("index-base-and-classes-too-large", ValueError, r"index_base.*9223372036854775806", index_base=2**63 - 2),
    case("index-base-too-large", ValueError, r"index_base.*9223372036854775808", index_base=2**63),
    case("index-base-of-5000-digits", ValueError, r"index_base is an int, outside", index_base=-(10**5000)),
    case("index-base-that-fails", TypeError, r"index_base.*no index today", index_base=Raising()),
    case("index-base-too-small", ValueError, r"index_base.*-9223372036854775809", index_base=-(2**63) - 1),
    case("axis-too-large", AxisError, r"axis 3 is out of bounds for input with 3 dimensions", axis=3),
    case("axis-too-small", AxisError, r"axis -4 is out of bounds for input with 3 dimensions", axis=-4),
    case("axis-huge", AxisError, r"axis 1180591620717411303424 is out of bounds", axis=2**70),
    case("axis-of-5000-digits", AxisError, r"axis an int is out of bounds", axis=10**5000),
    case("axis-that-fails", TypeError, r"axis.*no index today", axis=Raising()),
    case("axis-float", TypeError, r"axis.*1\.0", axis=1.0),
    case("axis-bool", TypeError, r"axis.*True", axis=True),
    case("axis-none", TypeError, r"axis.*None", axis=None),
    case("axis-tuple", TypeError, r"axis.*\(1,\)", axis=(1,)),
]


@pytest.mark.parametrize(("change", "error", "message"), INPUT + TARGET + SHAPES + WEIGHT + CHOICES)
def test_refused_by_every_function(change, error, message):
    assert_all_refuse(FUNCTIONS, valid() | change, error, message)


@pytest.mark.parametrize("axis", [2, -2])
def test_axis_of_a_one_dimensional_input(axis):
    """axis=1 is its only axis, since that is the default."""
    with pytest.raises(AxisError, match=rf"axis {axis} is out of bounds for input with 1 dimension"):
        nll.nll_loss(np.zeros(3), 0, axis=axis)


@pytest.mark.parametrize(("change", "error", "message"), CHOICES)
def test_object_says_so_at_the_latest_when_it_is_called(change, error, message):
    arguments = valid()
    for loss in (nll.NLLLoss, nll.CrossEntropyLoss):
        with note(loss), pytest.raises(error, match=message):
            loss(**change).value_and_grad(arguments["input"], arguments["target"], out=arguments["out"])
    assert (arguments["out"] == 7).all()


def test_unknown_keywords():
    assert_all_refuse(FUNCTIONS, valid() | {"size_average": True}, TypeError, "size_average")


def test_label_smoothing_is_about_logits():
    functions = [function for function in FUNCTIONS if function not in CROSS_ENTROPY]
    assert_all_refuse(functions, valid() | {"label_smoothing": 0.1}, TypeError, "label_smoothing")


@pytest.mark.parametrize("function", [nll.nll_loss, nll.cross_entropy], ids=lambda f: f.__name__)
def test_positional_choices(function):
    with pytest.raises(TypeError, match="positional"):
        function(valid()["input"], valid()["target"], None, -100)


# ---- masks, and lists of lists


def nested(depth: int) -> Any:
    """A number in so many lists."""
    value: Any = 1.0
    for _ in range(depth):
        value = [value]
    return value


def in_itself(times: int) -> list[Any]:
    """A list whose elements are all the list itself."""
    value: list[Any] = []
    value.extend([value] * times)
    return value


ROW = np.ma.masked_array([-1.0, -2.0, -3.0], [0, 1, 0])
LABELS = np.ma.masked_array([0, 1], [0, 1])


@pytest.mark.parametrize("sequence", [list, tuple, deque, UserList])
def test_masks_inside_sequences_are_not_dropped(sequence):
    """NumPy drops them."""
    arguments = {"input": np.zeros((2, 3)), "target": [0, 1]}
    for change in (
        {"input": sequence([ROW, ROW])},
        {"input": sequence([[-1.0, np.ma.masked, -2.0], [0.0, 0.0, 0.0]])},
        {"target": [[0, 0]], "input": [sequence([[0.0, 0.0], ROW[:2]])]},
        {"target": sequence([0, np.ma.masked])},
        {"input": np.zeros((2, 3, 2)), "target": sequence([LABELS, [0, 1]])},
        {"weight": sequence([1.0, np.ma.masked, 1.0])},
        {"sample_weight": sequence([np.ma.masked, 1.0])},
    ):
        *_, name = change
        for function in (nll.nll_loss, nll.cross_entropy_value_and_grad):
            with note(change, function), pytest.raises(TypeError, match=rf"^{name} is a masked array, or holds one"):
                function(**arguments | change)
    for grad_output in (sequence([1.0, np.ma.masked]), sequence([LABELS[0], LABELS[1]])):
        with pytest.raises(TypeError, match=r"^grad_output is .*, or holds one"):
            nll.nll_loss_backward(grad_output, **arguments, reduction="none")
    with pytest.raises(TypeError, match=r"^group is .*, or holds one"):
        nll.LossAccumulator(groups=3).update(**arguments, group=sequence([0, np.ma.masked]))


@pytest.mark.parametrize(
    "value",
    [nested(65), nested(5000), in_itself(1), in_itself(2), [in_itself(3), ROW]],
    ids=["65-dimensions", "5000-dimensions", "in-itself", "twice-in-itself", "in-itself-beside-a-mask"],
)
@pytest.mark.parametrize("name", ["input", "target", "weight", "sample_weight"])
def test_lists_that_end_nowhere(name, value):
    """Nor does anyone wait for them."""
    with pytest.raises(TypeError, match=rf"^{name} is a (list that NumPy cannot take: .*64 dimensions|masked array)"):
        nll.nll_loss(**{"input": np.zeros((2, 3)), "target": [0, 1]} | {name: value})


def test_lists_of_64_dimensions():
    """As many as NumPy's arrays have."""
    with pytest.raises(TypeError, match=r"^target has dtype float64; labels must be integers: write"):
        nll.nll_loss(nested(64), nested(63))
    with pytest.raises(TypeError, match=r"^target has dtype float64"):
        nll.nll_loss(np.zeros((1,) * 64), np.zeros((1,) * 62 + (0,)))


# ---- labels


def label_cases() -> list[Any]:
    cases = []
    for name, position in (("first", (0, 0)), ("middle", (1, 0)), ("last", (1, 3))):
        for label in (3, -1, 127, -99, -128):
            cases.append(pytest.param(np.int8, position, label, id=f"{name}-{label}"))
    wide = [(np.int64, 2**32), (np.int64, -(2**32)), (np.int64, 2**63 - 1), (np.int64, -(2**63))]
    wide += [
        (np.uint64, 2**63),
        (np.uint64, 2**64 - 1),
        (np.uint64, 2**64 - 100),
        (np.uint32, 2**32 - 1),
        (np.uint8, 255),
    ]
    return cases + [pytest.param(dtype, (1, 2), label, id=f"{dtype.__name__}-{label}") for dtype, label in wide]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(("dtype", "position", "label"), label_cases())
def test_label_outside_the_classes(reduction, dtype, position, label):
    arguments = valid() | {"reduction": reduction, "target": valid()["target"].astype(dtype)}
    arguments["target"][position] = label
    row, column = position
    message = rf"^target\[{row}, {column}\] is {label}, outside \[0, 3\) \(ignore_index is -100\)$"
    functions = [f for f in FUNCTIONS if f not in VALUE_AND_GRAD] if reduction == "none" else FUNCTIONS
    assert_all_refuse(functions, arguments, IndexError, message)


def test_label_next_to_ignored_ones():
    arguments = valid()
    arguments["target"][...] = -100
    arguments["target"][1, 1] = 5
    message = r"target\[1, 1\] is 5, outside \[0, 3\) \(ignore_index is -100\)"
    assert_all_refuse(FUNCTIONS, arguments, IndexError, message)


def test_message_tells_index_base_and_ignore_index():
    arguments = valid() | {"index_base": 1, "ignore_index": None}
    message = r"target\[0, 0\] is 0, outside \[1, 4\) \(ignore_index is None\)"
    assert_all_refuse(FUNCTIONS, arguments, IndexError, message)
    arguments = valid() | {"index_base": -2, "ignore_index": 2**64 - 1}
    message = r"target\[0, 1\] is 1, outside \[-2, 1\) \(ignore_index is 18446744073709551615\)"
    assert_all_refuse(FUNCTIONS, arguments, IndexError, message)


def test_labels_at_both_ends_of_the_classes():
    """The last class and the first are accepted, and what lies next to them is not."""
    for index_base in (0, 5, -7):
        arguments = valid() | {"index_base": index_base, "ignore_index": None, "target": valid()["target"] + index_base}
        for function in FUNCTIONS:
            function(**arguments)
        for label in (index_base - 1, index_base + 3):
            arguments["target"][1, 2] = label
            message = rf"target\[1, 2\] is {label}, outside \[{index_base}, {index_base + 3}\)"
            assert_all_refuse(FUNCTIONS, arguments, IndexError, message)


@pytest.mark.parametrize(
    ("index_base", "label"), [(-5, 2**64 - 3), (-1, 2**64 - 1), (-(2**63), 2**63), (-(2**63), 2**63 + 1)]
)
def test_label_that_would_wrap_into_the_classes(index_base, label):
    """Less index_base, in 64 bits, it would be a class."""
    with pytest.raises(IndexError, match=rf"target\[0\] is {label}, outside \[{index_base}, {index_base + 10}\)"):
        nll.nll_loss(np.zeros((1, 10)), np.array([label], np.uint64), index_base=index_base)


@pytest.mark.parametrize(("index_base", "label"), [(2**63 - 10, -(2**63)), (-(2**63), 2**63 - 1), (7, -9)])
def test_signed_label_that_would_wrap_into_the_classes(index_base, label):
    with pytest.raises(IndexError, match=rf"target\[0\] is {label}, outside \[{index_base}, {index_base + 10}\)"):
        nll.nll_loss(np.zeros((1, 10)), np.array([label], np.int64), index_base=index_base)


def test_label_of_one_sample():
    with pytest.raises(IndexError, match=r"^target is 3, outside \[0, 3\)"):
        nll.nll_loss(np.zeros(3), 3)


def test_label_of_a_batch():
    with pytest.raises(IndexError, match=r"^target\[2\] is -7, outside \[0, 3\)"):
        nll.nll_loss(np.zeros((4, 3)), [0, 1, -7, 9])


@pairwise(indirect=["threads"], function=FUNCTIONS, layout=LAYOUTS, threads=THREADS)
def test_position_is_in_the_coordinates_of_target(function, layout, threads):
    """Of several bad labels it is the lowest in C order, wherever they lie in memory."""
    target = np.zeros((3, 20, 15, 18), np.int16)
    for position in ((2, 19, 14, 17), (1, 7, 3, 0), (1, 7, 2, 11), (1, 8, 0, 0)):
        target[position] = 9
    if layout.__name__ == "zero_stride_batch":
        target, expected = np.broadcast_to(target[1], target.shape), (0, 7, 2, 11)
    elif layout.__name__ == "zero_stride_images":
        target, expected = layout(target), (1, 7, 3, 0)
    else:
        target, expected = layout(target), (1, 7, 2, 11)
    input = layout(np.zeros((3, 4, 20, 15, 18), np.float32))
    arguments = {"input": input, "target": target, "out": np.full(input.shape, 7, np.float32)}
    place = ", ".join(map(str, expected))
    assert_refuses(function, arguments, IndexError, rf"target\[{place}\] is 9, outside \[0, 4\)")


@pairwise(indirect=["threads"], function=FUNCTIONS, position=[0, 70_001, 99_999], threads=THREADS)
def test_one_bad_label_among_many(function, position, threads):
    target = np.zeros(100_000, np.uint8)
    target[position] = target[-1] = 200
    arguments = {"input": np.zeros((100_000, 2)), "target": target, "out": np.full((100_000, 2), 7.0)}
    assert_refuses(function, arguments, IndexError, rf"target\[{position}\] is 200, outside \[0, 2\)")


# ---- out


def unaligned(shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(bytearray(4 * int(np.prod(shape)) + 1), np.float32, offset=1).reshape(shape)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def strided(array: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    """(2, 3, 4) elements, of which some share memory."""
    return np.lib.stride_tricks.as_strided(array, (2, 3, 4), strides)


def beside_input() -> dict[str, Any]:
    buffer = np.zeros(40, np.float32)
    return {"input": buffer[:24].reshape(2, 3, 4), "out": buffer[8:32].reshape(2, 3, 4)}


def before_a_reversed_input() -> dict[str, Any]:
    """The memory that they share is before input's first element."""
    buffer = np.zeros(36, np.float32)
    return {"input": buffer[12:].reshape(2, 3, 4)[::-1], "out": buffer[:24].reshape(2, 3, 4)}


def labels_inside_out() -> dict[str, Any]:
    buffer = np.zeros(24, np.float32)
    return {"target": buffer[4:12].view(np.int32).reshape(2, 4), "out": buffer.reshape(2, 3, 4)}


def weight_inside_out() -> dict[str, Any]:
    buffer = np.ones(24, np.float32)
    return {"weight": buffer[5:8], "out": buffer.reshape(2, 3, 4)}


OUT = [
    case("shape", ValueError, r"out.*\(2, 3, 5\).*\(2, 3, 4\)", out=np.zeros((2, 3, 5), np.float32)),
    case("transposed-shape", ValueError, r"out.*\(4, 3, 2\).*\(2, 3, 4\)", out=np.zeros((4, 3, 2), np.float32)),
    case("broadcastable-shape", ValueError, r"out.*\(1, 3, 4\)", out=np.zeros((1, 3, 4), np.float32)),
    case("dtype", TypeError, r"out.*float64.*float32", out=np.zeros((2, 3, 4))),
    case("byte-order", TypeError, r"out.*>f4", out=np.zeros((2, 3, 4), ">f4")),
    case("list", TypeError, r"out.*list", out=[[0.0]]),
    case("masked", TypeError, r"out.*[Mm]ask", out=np.ma.masked_array(np.zeros((2, 3, 4), np.float32))),
    case("read-only", ValueError, r"out.*(read-only|writ)", out=read_only(np.zeros((2, 3, 4), np.float32))),
    case("zero-strides", ValueError, r"out.*share.*memory", out=strided(np.zeros(40, np.float32), (0, 16, 4))),
    case("self-overlap", ValueError, r"out.*share.*memory", out=strided(np.zeros(40, np.float32), (4, 16, 4))),
    case(
        "interleaved-self-overlap", ValueError, r"out.*share.*memory", out=strided(np.zeros(40, np.float32), (12, 8, 4))
    ),
    case("unaligned", ValueError, r"out.*align", out=unaligned((2, 3, 4))),
    pytest.param(beside_input(), ValueError, r"out.*input", id="overlaps-input"),
    pytest.param(before_a_reversed_input(), ValueError, r"out.*input", id="overlaps-reversed-input"),
    pytest.param(labels_inside_out(), ValueError, r"out.*target", id="overlaps-target"),
    pytest.param(weight_inside_out(), ValueError, r"out.*weight", id="overlaps-weight"),
]

OUT_OF_INPUT = {row.id for row in OUT} - {"overlaps-target", "overlaps-weight"}


@pytest.mark.parametrize(("change", "error", "message"), OUT)
def test_out_is_refused(change, error, message):
    assert_all_refuse(INTO_OUT, valid() | change, error, message)


class Half(np.ndarray):
    """Of half its claimed size."""

    dtype = property(lambda self: np.dtype(np.float32))  # type: ignore[assignment]


class Larger(np.ndarray):
    """Of fewer samples than it claims."""

    shape = property(lambda self: (2, 3, 4))  # type: ignore[assignment]


class Writeable(np.ndarray):
    """Read-only, and silent about it."""

    class flags:  # type: ignore[assignment]
        writeable = aligned = True


class Aligned(np.ndarray):
    """Nowhere near where elements begin."""

    class flags:  # type: ignore[assignment]
        writeable = aligned = True

    strides = property(lambda self: (48, 16, 4))  # type: ignore[assignment]


class Claimant:
    """No array, though isinstance is told so, and the memory that it gives is another each time."""

    __class__ = np.ndarray  # type: ignore[assignment]
    dtype, shape, strides = np.dtype(np.float32), (2, 3, 4), (48, 16, 4)

    class flags:
        writeable = aligned = True

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.zeros((2, 3, 4), np.float16)


LYING = [
    case("dtype", TypeError, r"out has dtype float16; it must be float32", out=np.zeros((2, 3, 4), "f2").view(Half)),
    case("shape", ValueError, r"out has shape \(1, 3, 4\), but", out=np.zeros((1, 3, 4), "f4").view(Larger)),
    case("writeable", ValueError, r"out is read-only", out=read_only(np.zeros((2, 3, 4), "f4")).view(Writeable)),
    case("aligned", ValueError, r"out is not aligned", out=unaligned((2, 3, 4)).view(Aligned)),
    case("class", TypeError, r"out is .*Claimant; it must be a numpy\.ndarray", out=Claimant()),
]


@pytest.mark.parametrize(("change", "error", "message"), LYING)
def test_out_is_judged_by_its_memory(change, error, message):
    """Whatever a subclass says of itself: what it says is not what would be written."""
    for function in [*INTO_OUT, log_softmax]:
        out = change["out"]
        before = np.asarray(out).tobytes()
        with note(function), pytest.raises(error, match=message):
            function(**valid() | change)
        assert np.asarray(out).tobytes() == before


def test_out_that_overlaps_grad_output():
    buffer = np.zeros(24, np.float32)
    arguments = valid() | {"grad_output": buffer[:8].reshape(2, 4), "out": buffer.reshape(2, 3, 4), "reduction": "none"}
    assert_all_refuse(BACKWARD, arguments, ValueError, r"out.*grad_output")


def test_out_in_the_place_of_input_is_refused():
    """The gradient does not need input's values, but whoever calls may."""
    arguments = valid()
    arguments["out"] = arguments["input"]
    assert_all_refuse([nll_loss_backward, nll_loss_value_and_grad], arguments, ValueError, r"out.*input")


def test_out_over_an_input_that_is_copied():
    memory = np.zeros((2, 3, 4), np.float32)
    swapped = memory.view(memory.dtype.newbyteorder())
    assert_all_refuse(INTO_OUT, valid() | {"input": swapped, "out": memory}, ValueError, "out shares memory with input")


def test_out_whose_memory_is_too_hard_to_compare(monkeypatch):
    """It counts as shared."""

    def give_up(*arrays: np.ndarray, max_work: int) -> bool:
        raise np.exceptions.TooHardError

    monkeypatch.setattr(np, "shares_memory", give_up)
    strided = np.empty((4, 3, 4), np.float32)[::2]
    assert_all_refuse(INTO_OUT, valid() | {"out": strided}, ValueError, "out (has elements that share|shares) memory")


@pytest.mark.parametrize("function", INTO_OUT, ids=lambda f: f.__name__)
def test_out_interleaved_with_input_shares_nothing(function):
    """Overlap is what numpy.shares_memory says, not whether the extents meet."""
    frame = np.zeros((2, 3, 8), np.float32)
    function(**valid() | {"input": frame[..., ::2], "out": frame[..., 1::2]})
    assert (frame[..., ::2] == 0).all()
    assert (frame[..., 1::2] != 0).any()


# ---- grad_output

GRAD_OUTPUTS = [
    case("wrong-shape", ValueError, r"grad_output.*\(4, 2\).*\(2, 4\)", grad_output=np.ones((4, 2))),
    case("broadcastable-shape", ValueError, r"grad_output.*\(4,\).*\(2, 4\)", grad_output=np.ones(4)),
    case("number", ValueError, r"grad_output.*\(\).*\(2, 4\)", grad_output=1.0),
    case("integer", TypeError, r"grad_output.*int64", grad_output=np.ones((2, 4), int)),
    case("bool", TypeError, r"grad_output.*bool", grad_output=np.ones((2, 4), bool)),
    case("complex", TypeError, r"grad_output.*complex128", grad_output=np.ones((2, 4), complex)),
    case("object", TypeError, r"grad_output.*object", grad_output=np.ones((2, 4), object)),
    case("float8", TypeError, r"grad_output.*float8_e5m2", grad_output=np.ones((2, 4), ml_dtypes.float8_e5m2)),
    case("masked", TypeError, r"grad_output.*mask", grad_output=np.ma.masked_array(np.ones((2, 4)))),
]


@pytest.mark.parametrize(("change", "error", "message"), GRAD_OUTPUTS)
def test_unreduced_grad_output_is_refused(change, error, message):
    assert_all_refuse(BACKWARD, valid() | {"reduction": "none"} | change, error, message)


@pytest.mark.parametrize("reduced", ["sum", "mean"])
@pytest.mark.parametrize(
    ("grad_output", "error", "message"),
    [
        pytest.param(np.ones((2, 4)), ValueError, r"grad_output.*\(2, 4\)", id="array"),
        pytest.param(np.ones(1), ValueError, r"grad_output.*\(1,\)", id="array-of-one"),
        pytest.param(1j, TypeError, r"grad_output.*1j", id="complex"),
        pytest.param("1", TypeError, r"grad_output", id="text"),
        pytest.param(None, TypeError, r"grad_output", id="none"),
        pytest.param(np.datetime64(1, "s"), TypeError, r"grad_output", id="date"),
    ],
)
def test_reduced_grad_output_is_refused(reduced, grad_output, error, message):
    assert_all_refuse(INTO_OUT, valid() | {"reduction": reduced, "grad_output": grad_output}, error, message)


def test_value_and_grad_of_none():
    message = r"reduction is '?none'?.*'mean'"
    assert_all_refuse(VALUE_AND_GRAD, valid() | {"reduction": "none"}, ValueError, message)


# ---- dtype


@pytest.mark.parametrize("dtype", [int, np.complex64, ml_dtypes.float8_e5m2, "i8", np.longdouble, object])
def test_dtype_of_no_loss(dtype):
    assert_all_refuse(FORWARD, valid() | {"dtype": dtype}, TypeError, r"dtype")


@pytest.mark.parametrize("dtype", ["no such name", 3.5, "f4,,", [("a", "f4"), ("a", "f4")], ("f4", -1), {"names": 3}])
def test_dtype_that_numpy_does_not_know(dtype):
    assert_all_refuse(FORWARD, valid() | {"dtype": dtype}, TypeError, r"^dtype is .*; it must be float16, bfloat16")
    with pytest.raises(TypeError, match=r"^dtype is .*; it must be float16, bfloat16"):
        nll.LossAccumulator(dtype=dtype)


# ---- sizes


def huge(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An array of one element's memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


class Exhausted:
    """An integer and an array for which there is no memory."""

    def __index__(self) -> int:
        raise MemoryError("none left")

    def __array__(self, *arguments: Any, **named: Any) -> np.ndarray:
        raise MemoryError("none left")

    def __bool__(self) -> bool:
        raise MemoryError("none left")

    @property
    def dtype(self) -> np.dtype[Any]:
        raise MemoryError("none left")


@pytest.mark.parametrize("name", ["input", "target", "axis", "ignore_index", "dtype", "return_total_weight"])
def test_an_argument_that_runs_out_of_memory(name):
    """It is no other error than that."""
    with pytest.raises(MemoryError, match="none left"):
        nll.nll_loss(**{"input": np.zeros((2, 3)), "target": [0, 1]} | {name: Exhausted()})


class OfNoClass:
    """An object for whose class there is no memory."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise MemoryError("none left")


class OnNoDevice:
    """An array for whose device there is no memory."""

    def __dlpack_device__(self) -> tuple[int, int]:
        raise MemoryError("none left")


class NoNumber(Fraction):
    """A number for which there is no memory."""

    def __float__(self) -> float:
        raise MemoryError("none left")


@pytest.mark.parametrize(("name", "kind"), [("axis", OfNoClass), ("target", OnNoDevice), ("label_smoothing", NoNumber)])
def test_a_question_that_runs_out_of_memory(name, kind):
    with pytest.raises(MemoryError, match="none left"):
        nll.cross_entropy(**{"input": np.zeros((2, 3)), "target": [0, 1]} | {name: kind()})


LONG = np.longdouble("1e400")  # a double on some machines, and infinite
BEYOND = [10**400, Fraction(10**400), *([LONG, np.array(LONG)] if np.isfinite(LONG) else [])]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("number", BEYOND, ids=lambda number: type(number).__name__)
def test_grad_output_beyond_float64(number, sign):
    with pytest.raises(ValueError, match=r"^grad_output is .*, beyond the largest float64$"):
        nll.nll_loss_backward(sign * number, np.zeros((2, 3)), [0, 1])


@pytest.mark.parametrize("number", [np.inf, np.float32(np.inf), np.longdouble("inf"), ml_dtypes.bfloat16(np.inf)])
def test_infinite_grad_output(number):
    for sign in (1, -1):
        assert nll.nll_loss_backward(sign * number, np.zeros((1, 1)), [0]) == -sign * np.inf


def test_float_target_too_large_for_any_memory():
    with pytest.raises(TypeError, match=r"write target\.astype\(int\)"):
        nll.nll_loss(huge((2**50, 1)), huge((2**50,)))


def test_result_too_large_for_any_memory():
    with pytest.raises(MemoryError):
        nll.nll_loss(huge((2**50, 1)), huge((2**50,), np.int8), reduction="none")


@pytest.mark.parametrize("function", INTO_OUT, ids=lambda f: f.__name__)
def test_gradient_too_large_for_any_memory(function):
    with pytest.raises(MemoryError):
        function(input=huge((2, 2**57)), target=np.array([0, 1]))


def test_more_elements_than_can_be_counted_with_room_to_spare():
    """NumPy allows no array of 2**63 bytes, and the core none of 2**59 elements, so that no product overflows."""
    with pytest.raises(ValueError, match=r"input.*\(2147483648, 1073741824\)"):
        nll.nll_loss(huge((2**31, 2**30), np.float16), huge((2**31,), np.int8))
    assert nll.nll_loss(huge((1, 2**58), np.float16), [2**58 - 1]) == 0


# ---- label smoothing, and what is in place

SMOOTHING = [
    case("below-0", ValueError, r"label_smoothing is -0\.10*, outside \[0, 1\]", label_smoothing=-0.1),
    case("above-1", ValueError, r"label_smoothing is 1\.50*, outside \[0, 1\]", label_smoothing=1.5),
    case("just-above-1", ValueError, r"label_smoothing is 1\.0000000000000002, ", label_smoothing=1 + 2**-52),
    case("nan", ValueError, r"label_smoothing is nan", label_smoothing=np.nan),
    case("infinite", ValueError, r"label_smoothing is inf", label_smoothing=np.inf),
    case("integer", ValueError, r"label_smoothing is 2", label_smoothing=2),
    case("text", TypeError, r"label_smoothing is .*a", label_smoothing="a"),
    case("bool", TypeError, r"label_smoothing is True", label_smoothing=True),
    case("none", TypeError, r"label_smoothing is .*None", label_smoothing=None),
    case("complex", TypeError, r"label_smoothing is .*1j", label_smoothing=1j),
    case("array", ValueError, r"label_smoothing.*\(3,\)", label_smoothing=np.zeros(3)),
]


@pytest.mark.parametrize(("change", "error", "message"), SMOOTHING)
def test_label_smoothing_is_refused(change, error, message):
    assert_all_refuse(CROSS_ENTROPY, valid() | change, error, message)


def log_softmax(*, target: Any = None, **arguments: Any) -> Any:
    return nll.log_softmax(**arguments)


IN_PLACE = [log_softmax, cross_entropy_backward, cross_entropy_value_and_grad]
BUFFER = np.arange(60, dtype=np.float32)
ALMOST_IN_PLACE = [
    pytest.param(BUFFER[:24].reshape(2, 3, 4), BUFFER[1:25].reshape(2, 3, 4), id="one-element-on"),
    pytest.param(BUFFER[:24].reshape(2, 3, 4), BUFFER[12:36].reshape(2, 3, 4), id="one-sample-on"),
    pytest.param(BUFFER[:24].reshape(2, 3, 4), BUFFER[:24].reshape(4, 3, 2).T, id="other-strides"),
    pytest.param(BUFFER[:24].reshape(2, 3, 4), BUFFER[:24].reshape(2, 3, 4)[::-1], id="backwards"),
    pytest.param(BUFFER[:24].reshape(2, 3, 4), BUFFER[:48].reshape(2, 3, 8)[..., ::2], id="twice-the-strides"),
]


@pytest.mark.parametrize(("input", "out"), ALMOST_IN_PLACE)
def test_out_that_is_almost_in_place(input, out):
    assert_all_refuse(IN_PLACE, valid() | {"input": input, "out": out}, ValueError, r"out shares memory with input")


def test_logits_in_place_that_another_argument_shares():
    buffer = np.arange(24, dtype=np.float32)
    logits = buffer.reshape(2, 3, 4)
    labels, weight = buffer[4:12].view(np.int32).reshape(2, 4), buffer[5:8]
    for change, name in (({"target": labels}, "target"), ({"weight": weight}, "weight")):
        arguments = valid() | {"input": logits, "out": logits} | change
        assert_all_refuse(IN_PLACE[1:], arguments, ValueError, rf"out shares memory with {name}")


def test_read_only_logits_in_place():
    logits = read_only(valid()["input"])
    assert_all_refuse(IN_PLACE, valid() | {"input": logits, "out": logits}, ValueError, r"out.*(read-only|writ)")


def test_repeated_logits_in_place():
    logits = np.broadcast_to(np.float32([[[1], [2], [3]]]), (2, 3, 4))
    for function in IN_PLACE:
        with pytest.raises(ValueError, match="out"):
            function(**valid() | {"input": logits, "out": logits})


@pytest.mark.parametrize("axis", [3, -4, 2**70])
def test_log_softmax_of_an_axis_that_is_not_there(axis):
    assert_refuses(
        log_softmax, valid() | {"axis": axis}, AxisError, rf"axis {axis} is out of bounds for input with 3 dimensions"
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [*INPUT, *(row for row in CHOICES if row.id.startswith("axis")), *(row for row in OUT if row.id in OUT_OF_INPUT)],
)
def test_log_softmax_refuses(change, error, message):
    assert_refuses(log_softmax, valid() | change, error, message)


def test_log_softmax_takes_a_dtype_from_its_input_only():
    with pytest.raises(TypeError, match="dtype"):
        nll.log_softmax(np.zeros((2, 3)), dtype=np.float64)
    with pytest.raises(TypeError, match="positional"):
        nll.log_softmax(np.zeros((2, 3)), 1)


# ---- arrays of other packages


class DeviceArray:
    """What a GPU array looks like to a CPU: DLPack tells where it is, and there is no other way in."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)  # CUDA

    def __dlpack__(self, **keywords: Any) -> Any:
        raise BufferError("the array is not on the CPU")


class RefusingDeviceArray(DeviceArray):
    """One that says so itself, as PyTorch's and CuPy's do."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("can't convert a device array to numpy implicitly")


@pytest.mark.parametrize("array", [DeviceArray(), RefusingDeviceArray()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("argument", ["input", "target", "weight"])
def test_device_array(argument, array):
    assert_all_refuse(FUNCTIONS, valid() | {argument: array}, TypeError, rf"{argument}.*(device|CUDA|CPU)")


def test_device_array_as_out():
    assert_all_refuse(INTO_OUT, valid() | {"out": DeviceArray()}, TypeError, r"out")


def test_torch_tensor_that_requires_a_gradient(torch):
    tensor = torch.zeros(2, 3, 4, requires_grad=True)
    assert_all_refuse(FUNCTIONS, valid() | {"input": tensor}, TypeError, r"input.*\.detach\(\)")


def test_torch_bfloat16_tensor(torch):
    tensor = torch.zeros(2, 3, 4, dtype=torch.bfloat16)
    assert_all_refuse(FUNCTIONS, valid() | {"input": tensor}, TypeError, r"input.*bfloat16.*(nll\.torch|\.view\()")


def test_torch_tensor_on_no_device(torch):
    assert_refuses(nll_loss, valid() | {"input": torch.zeros(2, 3, 4, device="meta")}, TypeError, r"input")


def test_sparse_torch_tensor(torch):
    assert_refuses(nll_loss, valid() | {"input": torch.zeros(2, 3, 4).to_sparse()}, TypeError, r"input")


class RaisesOnConversion:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("lazy array without data")


def test_error_of_an_array_like_is_not_hidden():
    with pytest.raises((TypeError, RuntimeError), match="lazy array without data"):
        nll.nll_loss(RaisesOnConversion(), [0])


# ---- objects that fail, and objects that claim to be others


class Fails:
    """It does at whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError("no attribute today")

    def _fails(self, *arguments: Any, **named: Any) -> Any:
        raise ZeroDivisionError("no answer today")

    __repr__ = __str__ = __index__ = __float__ = __bool__ = __array__ = __dlpack_device__ = _fails


class Silent(Exception):
    """An error that fails to say what it is."""

    def __repr__(self) -> str:
        raise ZeroDivisionError("no message today")

    __str__ = __repr__


class FailsInSilence:
    """Not even its errors tell more."""

    def _fails(self, *arguments: Any, **named: Any) -> Any:
        raise Silent

    __index__ = __float__ = __bool__ = __array__ = _fails
    dtype = requires_grad = property(_fails)


class HasNoClass:
    """An integer that isinstance cannot place."""

    __class__ = property(lambda self: 1 / 0)  # type: ignore[assignment]

    def __index__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        raise ZeroDivisionError


def claims_to_be(kind: type) -> Any:
    """An object of another class than it says, which does nothing that the class does."""
    own = {"__class__": kind, "__bool__": lambda self: 1 / 0, "__repr__": lambda self: 1 / 0}
    return type(f"ClaimsToBe{kind.__name__}", (), own)()


def dead_reference() -> Any:
    return weakref.proxy(Fails())


CLAIMED = [np.ndarray, np.ma.MaskedArray, list, str, float, bool, int, bytes, np.float32, np.dtype]
HOSTILE: dict[str, Callable[[], Any]] = {
    "fails": Fails,
    "fails-in-silence": FailsInSilence,
    "no-class": HasNoClass,
    "dead-reference": dead_reference,
    "mock": lambda: Mock(spec=np.ndarray, __bool__=Mock(side_effect=ZeroDivisionError)),
    **{f"claims-to-be-{kind.__name__}": functools.partial(claims_to_be, kind) for kind in CLAIMED},
}
INPUT_OF_TWO = np.zeros((2, 3))
TAKES: list[tuple[str, Callable[[Any], Any]]] = [
    ("input", lambda value: nll.nll_loss(value, [0, 1])),
    ("input", lambda value: nll.softmax(value)),
    ("target", lambda value: nll.nll_loss(INPUT_OF_TWO, value)),
    ("weight", lambda value: nll.nll_loss(INPUT_OF_TWO, [0, 1], value)),
    ("sample_weight", lambda value: nll.nll_loss(INPUT_OF_TWO, [0, 1], sample_weight=value)),
    ("ignore_index", lambda value: nll.nll_loss(INPUT_OF_TWO, [0, 1], ignore_index=value)),
    ("reduction", lambda value: nll.nll_loss(INPUT_OF_TWO, [0, 1], reduction=value)),
    ("axis", lambda value: nll.nll_loss(INPUT_OF_TWO, [0, 1], axis=value)),
    ("index_base", lambda value: nll.nll_loss(INPUT_OF_TWO, [0, 1], index_base=value)),
    ("empty", lambda value: nll.nll_loss(INPUT_OF_TWO, [0, 1], empty=value)),
    ("dtype", lambda value: nll.nll_loss(INPUT_OF_TWO, [0, 1], dtype=value)),
    ("return_total_weight", lambda value: nll.nll_loss(INPUT_OF_TWO, [0, 1], return_total_weight=value)),
    ("label_smoothing", lambda value: nll.cross_entropy(INPUT_OF_TWO, [0, 1], label_smoothing=value)),
    ("grad_output", lambda value: nll.nll_loss_backward(value, INPUT_OF_TWO, [0, 1])),
    ("grad_output", lambda value: nll.nll_loss_backward(value, INPUT_OF_TWO, [0, 1], reduction="none")),
    ("out", lambda value: nll.nll_loss_backward(1.0, INPUT_OF_TWO, [0, 1], out=value)),
    ("keepdims", lambda value: nll.logsumexp(INPUT_OF_TWO, keepdims=value)),
    ("n", lambda value: nll.set_num_threads(value)),
    ("loss", lambda value: nll.LossAccumulator(value)),
    ("groups", lambda value: nll.LossAccumulator(groups=value)),
    ("group", lambda value: nll.LossAccumulator(groups=2).update(INPUT_OF_TWO, [0, 1], group=value)),
    ("other", lambda value: nll.LossAccumulator().merge(value)),
    ("data", lambda value: nll.LossAccumulator.from_bytes(value)),
    ("reduction", lambda value: nll.LossAccumulator().compute(value)),
    ("states", lambda value: nll.merge(value)),
]


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_an_object_raises_comes_with_the_name_of_the_argument(kind):
    for name, call in TAKES:
        with note(name), pytest.raises(TypeError, match=rf"^{name} (is|has) ") as caught:
            call(HOSTILE[kind]())
        assert caught.type is TypeError


class Shy(float):
    """A number that is not told."""

    def __float__(self) -> float:
        raise ZeroDivisionError("no number today")

    __eq__ = __lt__ = __le__ = __float__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class ShyFraction(Fraction):
    """Another one."""

    def __float__(self) -> float:
        raise ZeroDivisionError("no number today")


def test_numbers_that_fail_as_numbers():
    """A float is one, whatever it says."""
    gradient = nll.nll_loss_backward(Shy(0.5), INPUT_OF_TWO, [0, 1])
    assert_same_bits(gradient, nll.nll_loss_backward(0.5, INPUT_OF_TWO, [0, 1]))
    assert nll.cross_entropy(INPUT_OF_TWO, [0, 1], label_smoothing=Shy(0.5)) > 0
    with pytest.raises(TypeError, match=r"^grad_output is ShyFraction\(1, 2\), .*no number today"):
        nll.nll_loss_backward(ShyFraction(1, 2), INPUT_OF_TWO, [0, 1])
    with pytest.raises(TypeError, match=r"^axis is .*; it must be an integer$"):
        nll.nll_loss(INPUT_OF_TWO, [0, 1], axis=Shy(1))


@pytest.mark.parametrize("flag", [np.array([1, 2]), np.array([]), np.ones((2, 2), bool)], ids=repr)
def test_flags_that_are_neither_true_nor_false(flag):
    for function in (nll.nll_loss, nll.nll_loss_value_and_grad):
        with pytest.raises(TypeError, match=r"^return_total_weight is .*; it must be True or False$"):
            function(INPUT_OF_TWO, [0, 1], return_total_weight=flag)


def test_flag_of_pandas_that_is_not_available():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"^return_total_weight is <NA>; it must be True or False$"):
        nll.nll_loss(INPUT_OF_TWO, [0, 1], return_total_weight=pandas.NA)


def test_words_in_a_target_that_fail():
    """They are no words."""
    values = np.empty(2, object)
    values[0], values[1] = dead_reference(), HasNoClass()
    with pytest.raises(TypeError, match=r"^target has dtype object; labels must be integers$"):
        nll.nll_loss(INPUT_OF_TWO, values)


def test_array_without_a_class_beside_out():
    """It is converted as any other."""

    class Array(HasNoClass):
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.zeros((2, 3))

    out = np.empty((2, 3))
    assert nll.nll_loss_backward(1.0, Array(), [0, 1], out=out) is out
