# SPDX-License-Identifier: BSD-3-Clause
"""How exact cross-entropy, its gradient and log-softmax are, measured in ULP on every instruction set.

`pytest -rP tests/test_cross_entropy_accuracy.py` prints the tables.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import nll
from support import softmax_oracle
from support.constants import MAX_SEQUENTIAL_CLASSES
from support.oracle import FORMATS, assert_same_bits
from support.samples import FLOAT_DTYPES
from support.softmax_oracle import BOUNDS, ulp_errors

CLASS_COUNTS = [1, 2, 3, 10, MAX_SEQUENTIAL_CLASSES, MAX_SEQUENTIAL_CLASSES + 1, 1000, 50257, 262144]
SCALES = [1, 10, 100]
INSTRUCTION_SETS = ["x86-64", "x86-64-v3", "x86-64-v4"]


def cases(dtype: np.dtype[Any]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Logits of each kind with the target at the largest and off it."""
    rng = np.random.default_rng(dtype.itemsize)
    for class_count in CLASS_COUNTS:
        for scale in SCALES:
            logits = scale * rng.normal(size=(min(max(6000 // class_count, 1), 400), class_count))
            logits = logits.astype(dtype)
            at_largest = logits.argmax(1)
            off_largest = (at_largest + rng.integers(1, max(class_count, 2), len(logits))) % class_count
            for place, target in (("at", at_largest), ("off", off_largest)):
                yield f"{class_count:6} {scale:4}·N(0,1) {place:3}", logits, target


class Result(NamedTuple):
    """Numbers, and what they are of."""

    case: str
    what: str
    dtype: np.dtype[Any]
    numbers: np.ndarray


def results(dtype: np.dtype[Any]) -> Iterator[Result]:
    """Losses in the dtype of the logits and in every wider one, gradients, and log-softmax once for both targets."""
    for case, logits, target in cases(dtype):
        for wide in as_wide_as(dtype):
            losses = nll.cross_entropy(logits, target, reduction="none", dtype=wide)
            yield Result(case, f"loss-{wide}", wide, losses)
        gradient = nll.cross_entropy_backward(np.ones(len(target)), logits, target, reduction="none")
        yield Result(case, "gradient", dtype, gradient)
        if case.endswith("at "):
            yield Result(case, "log_softmax", dtype, nll.log_softmax(logits))


@functools.cache
def exact_results(dtype: np.dtype[Any]) -> list[Result]:
    """What `results` should be."""
    exact = []
    for case, logits, target in cases(dtype):
        expected = softmax_oracle.cross_entropy(logits, target)
        exact += [Result(case, f"loss-{wide}", wide, expected.loss) for wide in as_wide_as(dtype)]
        exact.append(Result(case, "gradient", dtype, expected.gradient))
        if case.endswith("at "):
            exact.append(Result(case, "log_softmax", dtype, softmax_oracle.log_softmax(logits)))
    return exact


def as_wide_as(dtype: np.dtype[Any]) -> list[np.dtype[Any]]:
    return [wide for wide in FLOAT_DTYPES if FORMATS[wide].precision >= FORMATS[dtype].precision]


# ---- the same on every instruction set, each in a process of its own

PROGRAM = """
import pickle
import nll
from support.samples import FLOAT_DTYPES
from test_cross_entropy_accuracy import results
assert nll.build_info()["instruction_set"] == {instruction_set!r}
with open({path!r}, "wb") as file:
    pickle.dump({{str(dtype): list(results(dtype)) for dtype in FLOAT_DTYPES}}, file)
"""


@pytest.fixture(scope="module")
def results_on(
    tmp_path_factory: pytest.TempPathFactory, run_python: Callable[..., Any]
) -> Callable[[str], dict[str, list[Result]]]:
    """A function that gives the results on an instruction set, computed the first time it is asked for them."""

    @functools.cache
    def results_on(instruction_set: str) -> dict[str, list[Result]]:
        path = tmp_path_factory.mktemp("results") / instruction_set
        program = PROGRAM.format(instruction_set=instruction_set, path=str(path))
        run_python(program, NLL_INSTRUCTION_SET=instruction_set)
        return pickle.loads(path.read_bytes())

    return results_on


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> str:
    best = nll.build_info()["instruction_set"]
    if best not in INSTRUCTION_SETS:
        if request.param != INSTRUCTION_SETS[-1]:
            pytest.skip(f"this build has no other than {best}")
        return best
    if INSTRUCTION_SETS.index(request.param) > INSTRUCTION_SETS.index(best):
        pytest.skip(f"this machine runs {best}")
    return request.param


def test_accuracy(instruction_set, dtype, results_on):
    """The errors are within their bounds. Their median, 99th percentile and maximum in ULP are printed."""
    print("input    classes logits   target result           median    99 %    most")
    too_large = []
    for actual, exact in zip(results_on(instruction_set)[str(dtype)], exact_results(dtype), strict=True):
        assert actual[:3] == exact[:3]
        assert actual.numbers.dtype == actual.dtype
        errors = ulp_errors(actual.numbers, exact.numbers)
        median, most, worst = np.median(errors), np.percentile(errors, 99), errors.max()
        line = f"{dtype!s:8} {actual.case} {actual.what:13} {median:7.4f} {most:7.4f} {worst:7.4f}"
        print(line)
        if worst > BOUNDS[actual.dtype]:
            too_large.append(f"{line}  is above {BOUNDS[actual.dtype]}")
    assert not too_large, "\n".join(too_large)


def test_instruction_sets_with_fused_multiply_add_give_the_same_bits(dtype, results_on):
    if nll.build_info()["instruction_set"] != "x86-64-v4":
        pytest.skip("needs a machine with AVX-512, and its kernels")
    one, other = (results_on(instruction_set)[str(dtype)] for instruction_set in INSTRUCTION_SETS[1:])
    for a, b in zip(one, other, strict=True):
        assert_same_bits(a.numbers, b.numbers)
