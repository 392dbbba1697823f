# SPDX-License-Identifier: BSD-3-Clause
"""What a type checker tells a user: which words there are, and what a call returns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nll

SETUP = """
from typing import Any, Literal, assert_type

import numpy as np
import nll

Array = np.ndarray[Any, np.dtype[Any]]
Scalar = np.floating[Any]
input, target = np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
bound = nll.CrossEntropyLoss(reduction="sum", label_smoothing=0.1)
"""
WELL_TYPED = """
assert_type(nll.nll_loss(input, target), Scalar)
assert_type(nll.cross_entropy(input, target, axis=-1, empty="zero", reduction="sum"), Scalar)
assert_type(nll.nll_loss(input, target, return_total_weight=True), tuple[Scalar, np.float64])
assert_type(nll.cross_entropy(input, target, label_smoothing=0.1, reduction="none"), Array | Any)
assert_type(
    nll.nll_loss(input, target, reduction="none", return_total_weight=True),
    tuple[Array | Any, np.float64],
)
assert_type(nll.nll_loss_value_and_grad(input, target), tuple[Scalar, Array])
assert_type(
    nll.cross_entropy_value_and_grad(input, target, return_total_weight=True, out=input),
    tuple[Scalar, np.float64, Array],
)
assert_type(nll.nll_loss_backward(1.0, input, target), Array)
assert_type(nll.cross_entropy_backward(1.0, input, target, ignore_index=None), Array)
assert_type(nll.log_softmax(input, out=input), Array)
assert_type(bound.backward(1.0, input, target), Array)
value, gradient = bound.value_and_grad(input, target, out=input)
number: float = float(nll.nll_loss([[0.0, 1.0]], [0]))
total = nll.LossAccumulator("cross_entropy", np.ones(3), label_smoothing=0.1, groups=2)
total.update(input, target, group="target")
total += nll.LossAccumulator.from_bytes(total.to_bytes(), groups=2)
assert_type(total + total, nll.LossAccumulator)
assert_type(total.compute("sum"), Array | Any)
assert_type(nll.merge([total.state, total.to_bytes()]), Array)


def wrapped(reduction: Literal["mean", "sum", "none"], total: bool) -> Any:
    if reduction != "none":
        nll.nll_loss_value_and_grad(input, target, return_total_weight=total)
    return nll.cross_entropy(input, target, reduction=reduction, return_total_weight=total)
"""
ILL_TYPED = [
    'nll.nll_loss(input, target, reduction="avg")',
    'nll.nll_loss_backward(1.0, input, target, reduction="avg")',
    'nll.cross_entropy(input, target, reduction="average")',
    'nll.cross_entropy_backward(1.0, input, target, reduction="batchmean")',
    'nll.cross_entropy_value_and_grad(input, target, reduction="none")',
    'nll.nll_loss(input, target, empty="inf")',
    'nll.cross_entropy_value_and_grad(input, target, empty="0")',
    'nll.NLLLoss(reduction="avg")',
    'nll.CrossEntropyLoss(empty="inf")',
    "nll.cross_entropy(input, target, axis=1.5)",
    "nll.cross_entropy(input, target, size_average=True)",
    "nll.nll_loss_backward(1.0, input, target, out=[[0.0]])",
    "nll.log_softmax(input).no_such_attribute",
    "nll.nll_loss(input, target).no_such_attribute",
    'nll.nll_loss(input, target, reduction="none").no_such_attribute',
    'nll.LossAccumulator("nllloss")',
    'nll.LossAccumulator("nll", reduction="sum")',
    'nll.LossAccumulator("nll").compute("none")',
    "nll.LossAccumulator().merge(1.5)",
    "nll.LossAccumulator.from_bytes(None)",
    "loss, total_weight = nll.nll_loss(input, target)",
    "loss, gradient = nll.nll_loss_value_and_grad(input, target, return_total_weight=True)",
    "loss, total_weight, gradient = nll.cross_entropy_value_and_grad(input, target)",
]


def faults(tmp_path: Path, program: str) -> dict[int, str]:
    """What mypy finds in a user's program, by lines; it finds nll where Python does."""
    (tmp_path / "program.py").write_text(program)
    root = str(Path(nll.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "program.py"],
        cwd=tmp_path,
        env=os.environ | ({"MYPYPATH": root} if "site-packages" not in root else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"^program\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    return {int(line): message for line, message in found}


def test_what_calls_return(tmp_path):
    assert faults(tmp_path, SETUP + WELL_TYPED) == {}


def test_what_is_refused(tmp_path):
    lines = SETUP.splitlines()
    found = faults(tmp_path, "\n".join(lines + ILL_TYPED))
    missed = [call for line, call in enumerate(ILL_TYPED, len(lines) + 1) if line not in found]
    assert not missed
    assert len(found) == len(ILL_TYPED), found
