# SPDX-License-Identifier: BSD-3-Clause
"""The axes of the tests as fixtures with readable ids."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nll
from support.build import ROOT, BackgroundBuild
from support.layouts import LAYOUTS, OWN_MEMORY
from support.losses import LOSSES, Loss
from support.samples import FLOAT_DTYPES, INTEGER_DTYPES, REDUCTIONS

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


@pytest.fixture(params=LOSSES, ids=str)
def loss(request: pytest.FixtureRequest) -> Loss:
    """The functions of a loss, and the assertion that their results are right."""
    return request.param


@pytest.fixture(params=REDUCTIONS)
def reduction(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n}-threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with nll.num_threads(request.param):
        yield request.param


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__.replace("_", "-"))
def layout(request: pytest.FixtureRequest) -> Callable[[np.ndarray], np.ndarray]:
    return request.param


@pytest.fixture(params=OWN_MEMORY, ids=lambda layout: layout.__name__.replace("_", "-"))
def own_memory(request: pytest.FixtureRequest) -> Callable[[np.ndarray], np.ndarray]:
    """A layout in which each element has memory of its own, so that it can be written."""
    return request.param


ROUNDING_MODES = {
    "x86_64": {"down": 0x400, "up": 0x800, "to-zero": 0xC00},
    "AMD64": {"down": 0x400, "up": 0x800, "to-zero": 0xC00},
    "aarch64": {"down": 0x800000, "up": 0x400000, "to-zero": 0xC00000},
    "arm64": {"down": 0x800000, "up": 0x400000, "to-zero": 0xC00000},
}.get(platform.machine(), {})


class RoundingMode:
    """One of the processor's rounding modes, which holds for the calling thread inside a `with` block."""

    def __init__(self, mode: int, library: ctypes.CDLL) -> None:
        self.mode = mode
        self.library = library

    def __enter__(self) -> None:
        self.library.fesetround(self.mode)
        self.before = self.seen()

    def __exit__(self, *error: object) -> None:
        self.after = self.seen()
        self.library.fesetround(0)

    @staticmethod
    def seen() -> list[float]:
        """Sums that come out differently in each of the four modes."""
        return [float(np.float64(one) + np.float64(tiny)) for one, tiny in ((1, 1e-30), (-1, -1e-30), (1, 2e-16))]

    @property
    def stayed(self) -> bool:
        """Whether it was still set at the end of the block."""
        return self.after == self.before


@pytest.fixture(params=["nearest", "down", "up", "to-zero"])
def rounding_mode(request: pytest.FixtureRequest) -> RoundingMode:
    """A context manager in which the calling thread rounds so."""
    library = ctypes.util.find_library("m")
    if library is None or not (request.param == "nearest" or request.param in ROUNDING_MODES):
        pytest.skip("this platform's names of rounding modes are not known")
    return RoundingMode(ROUNDING_MODES.get(request.param, 0), ctypes.CDLL(library))


# ---- the C++ side, which takes minutes to build


def needs_build(item: pytest.Item) -> bool:
    return "cpp_build" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests that need the build for the end."""
    items.sort(key=needs_build)


@pytest.fixture(scope="session")
def cpp_build(background_build: BackgroundBuild) -> BackgroundBuild:
    """The build of the C++ library with its tests, and its installation."""
    background_build.finish()
    return background_build


@pytest.fixture(scope="session", autouse=True)
def background_build(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BackgroundBuild | None]:
    """That build from its start, which is when the first test begins, if one of the tests needs it."""
    if not (ROOT / "cpp").is_dir() or not any(map(needs_build, request.session.items)):
        yield None
        return
    build = BackgroundBuild(tmp_path_factory.mktemp("cpp"))
    yield build
    build.stop()


# ---- other packages and other processes


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in a fresh interpreter, which finds nll and `support`; fail if it does."""

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
