# SPDX-License-Identifier: BSD-3-Clause
"""The axes of the tests as fixtures with readable ids."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nll
from layouts import LAYOUTS
from samples import FLOAT_DTYPES, INTEGER_DTYPES

TESTS = Path(__file__).parent


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Its seed is fixed, and another one for each test and parameter."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.rpartition("/")[2].encode()))


@pytest.fixture(params=FLOAT_DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> np.dtype[Any]:
    """Of the input."""
    return request.param


@pytest.fixture(params=INTEGER_DTYPES, ids=lambda t: f"target-{t}")
def target_dtype(request: pytest.FixtureRequest) -> np.dtype[Any]:
    return request.param


@pytest.fixture(params=[None, *FLOAT_DTYPES, np.dtype(np.int64)], ids=lambda t: f"weight-{t}")
def weight_dtype(request: pytest.FixtureRequest) -> np.dtype[Any] | None:
    return request.param


@pytest.fixture(params=["none", "sum", "mean"])
def reduction(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n}-threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with nll.num_threads(request.param):
        yield request.param


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__.replace("_", "-"))
def layout(request: pytest.FixtureRequest) -> Callable[[np.ndarray], np.ndarray]:
    return request.param


# ---- other packages and other processes


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in a fresh interpreter, which finds nll and the modules of the tests; fail if it does."""

    def run(code: str, *, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=TESTS,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def peak_growth(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[str, str], int]:
    """By how many bytes a call raises the memory that a process has in use, at its peak.

    Linux counts it: the peak (VmHWM) starts again from what is in use now (VmRSS) when 5 is written to clear_refs.
    The setup has touched all arguments before, and calls with a few samples in the same number of threads have loaded
    all code.
    """
    if sys.platform != "linux":
        pytest.skip("reads Linux's count of a process's memory")

    def measure(setup: str, call: str) -> int:
        program = f"""
import numpy as np
import nll
{setup}

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

small_input, small_target = np.zeros((40_000, 2), np.float32), np.zeros(40_000, np.int64)
nll.nll_loss(small_input, small_target, reduction="none")
nll.nll_loss_value_and_grad(small_input, small_target, [1.0, 2.0], out=np.empty_like(small_input))
nll.cross_entropy_value_and_grad(small_input, small_target, [1.0, 2.0], out=np.empty_like(small_input))
for logits in small_input, small_input.reshape(200, 400):
    for dtype in np.float32, np.float64:
        nll.cross_entropy(logits, small_target[:len(logits)], reduction="none", dtype=dtype)
status("VmRSS"), status("VmHWM")
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
result = {call}
print(status("VmHWM") - before)
"""
        return int(run_python(program).stdout)

    return measure
