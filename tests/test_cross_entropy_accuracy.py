# SPDX-License-Identifier: BSD-3-Clause
"""How exact cross-entropy, its gradient and log-softmax are, measured in ULP on every instruction set.

`pytest -rP tests/test_cross_entropy_accuracy.py` prints the tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nll
from support import softmax_oracle
from support.constants import MAX_SEQUENTIAL_CLASSES
from support.oracle import FORMATS
from support.samples import FLOAT_DTYPES
from support.softmax_oracle import BOUNDS, ulp_errors

CLASS_COUNTS = [1, 2, 3, 10, MAX_SEQUENTIAL_CLASSES, MAX_SEQUENTIAL_CLASSES + 1, 1000, 50257, 262144]
SCALES = [1, 10, 100]
INSTRUCTION_SETS = ["x86-64", "x86-64-v3", "x86-64-v4"]


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


def losses_of(logits: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """In the dtype of the logits, and in every wider one."""
    precision = FORMATS[logits.dtype].precision
    wider = [dtype for dtype in FLOAT_DTYPES if FORMATS[dtype].precision >= precision]
    return {f"loss-{dtype}": nll.cross_entropy(logits, target, reduction="none", dtype=dtype) for dtype in wider}


def gradient_of(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    return nll.cross_entropy_backward(np.ones(len(target)), logits, target, reduction="none")


def print_accuracy(dtype: np.dtype[Any]) -> None:
    """Median, 99th percentile and maximum of the errors in ULP; the exit status tells whether all are within bounds."""
    bad = []
    for name, logits, target in cases(dtype):
        exact = softmax_oracle.cross_entropy(logits, target)
        results = {what: (losses, exact.loss) for what, losses in losses_of(logits, target).items()}
        results["gradient"] = gradient_of(logits, target), exact.gradient
        if name.endswith("at "):
            results["log_softmax"] = nll.log_softmax(logits), softmax_oracle.log_softmax(logits)
        for what, (actual, expected) in results.items():
            errors = ulp_errors(actual, expected)
            median, most, worst = np.median(errors), np.percentile(errors, 99), errors.max()
            line = f"{dtype!s:8} {name} {what:13} {median:7.4f} {most:7.4f} {worst:7.4f}"
            if worst > BOUNDS[actual.dtype]:
                line += f"  is above {BOUNDS[actual.dtype]}"
                bad.append(line)
            print(line)
    if bad:
        raise SystemExit("\n".join(["above the bound:", *bad]))


def print_digest(dtype: np.dtype[Any]) -> None:
    """Of the bits of all results."""
    digest = hashlib.sha256()
    for _, logits, target in cases(dtype):
        for result in (*losses_of(logits, target).values(), gradient_of(logits, target), nll.log_softmax(logits)):
            digest.update(result.tobytes())
    print(digest.hexdigest())


PROGRAM = """
import nll, test_cross_entropy_accuracy
from support.samples import FLOAT_DTYPES
assert nll.build_info()["instruction_set"] == {instruction_set!r}
test_cross_entropy_accuracy.{function}(next(dtype for dtype in FLOAT_DTYPES if str(dtype) == {dtype!r}))
"""


def test_accuracy(instruction_set, dtype, run_python):
    program = PROGRAM.format(instruction_set=instruction_set, dtype=str(dtype), function="print_accuracy")
    print("input    classes logits   target result           median    99 %    most")
    print(run_python(program, NLL_INSTRUCTION_SET=instruction_set).stdout)


def test_instruction_sets_with_fused_multiply_add_give_the_same_bits(dtype, run_python):
    if nll.build_info()["instruction_set"] != "x86-64-v4":
        pytest.skip("this machine or build has but one of them")
    digests = {}
    for instruction_set in INSTRUCTION_SETS[1:]:
        program = PROGRAM.format(instruction_set=instruction_set, dtype=str(dtype), function="print_digest")
        digests[instruction_set] = run_python(program, NLL_INSTRUCTION_SET=instruction_set).stdout
    assert len(set(digests.values())) == 1, digests
