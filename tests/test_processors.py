# SPDX-License-Identifier: BSD-3-Clause
"""Processors that this machine is not, under qemu: whole losses and gradients, bit for bit.

The C++ library is built for 64-bit Arm by GCC and clang: GCC 12's vectoriser once made the gradient wrong there, and
nowhere else. What is built here runs on x86-64 processors that have one of its instruction sets and no more.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.build import ROOT, BackgroundBuild, run

PROGRAMS = ["calls_nll", "calls_headers", "canonical_nll"]
NEEDED = {"gcc": ["aarch64-linux-gnu-g++", "qemu-aarch64"], "clang": ["clang++", "ld.lld", "qemu-aarch64"]}


def needs(*programs: str) -> None:
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"not installed here: {', '.join(missing)}")


@pytest.mark.skipif(not (ROOT / "cpp").is_dir(), reason="installed without the sources")
@pytest.mark.parametrize("compiler", NEEDED)
def test_arm64(compiler: str, tmp_path: Path) -> None:
    needs(*NEEDED[compiler])
    toolchain = ROOT / f"tests/cpp/toolchains/{compiler}.cmake"
    options = [
        "-DNLL_TESTS=ON",
        "-DNLL_OPENMP=OFF",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
    ]
    run("cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *options)
    run("cmake", "--build", tmp_path, "--target", *PROGRAMS)
    printed = run("ctest", "--test-dir", tmp_path, "--output-on-failure", "-R", f"^({'|'.join(PROGRAMS)})$")
    assert re.search(rf"100% tests passed.* out of {len(PROGRAMS)}\b", printed), printed


# ---------------------------------------------------------------- x86-64


PROCESSORS = {"Nehalem": "x86-64", "Haswell": "x86-64-v3"}  # the last that have no more than these kernels ask for
HASHES = """
import itertools, nll
from golden_bits import FUNCTIONS, INPUT, crossed, hashes_of
print(nll.build_info()["instruction_set"])
kinds = {"dtype": INPUT["dtype"], "classes": [3, 130, 2049]}
for problem in itertools.chain.from_iterable(crossed(function, kinds, samples=17) for function in FUNCTIONS):
    print(hashes_of(problem))
"""


@pytest.fixture(params=PROCESSORS)
def processor(request: pytest.FixtureRequest) -> str:
    if platform.machine() not in {"x86_64", "AMD64"}:
        pytest.skip("built for another kind of processor")
    needs("qemu-x86_64")
    return request.param


def test_python_on_a_processor_of_one_instruction_set(
    processor: str, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """It picks that one by itself, and computes what this machine does when it is told to use it."""
    expected = run_python(HASHES, timeout=300, NLL_INSTRUCTION_SET=PROCESSORS[processor]).stdout
    emulated = subprocess.run(
        ["qemu-x86_64", "-cpu", processor, sys.executable, "-c", HASHES],
        cwd=ROOT / "tests",
        env=os.environ | {"NLL_INSTRUCTION_SET": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert emulated.returncode == 0, emulated.stderr
    assert emulated.stdout.splitlines() == expected.splitlines()


def test_cpp_on_a_processor_of_one_instruction_set(processor: str, cpp_build: BackgroundBuild) -> None:
    """The public functions. (Children of a fork that start threads end qemu itself.)"""
    run("qemu-x86_64", "-cpu", processor, cpp_build.build / "tests/cpp/calls_nll")
