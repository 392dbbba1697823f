# SPDX-License-Identifier: BSD-3-Clause
"""The C++ side: its own tests, projects that use it, and a certificate whose limits matter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nll
from support.build import ROOT, BackgroundBuild, run

pytestmark = pytest.mark.skipif(not (ROOT / "cpp").is_dir(), reason="installed without the sources")


@pytest.fixture(scope="module")
def cxx() -> str:
    return os.environ.get("CXX") or shutil.which("c++") or "g++"


def test_ctest(cpp_build: BackgroundBuild) -> None:
    """Every C++ program passes, on every instruction set that this machine runs."""
    processors = str(os.cpu_count())
    printed = run("ctest", "--test-dir", cpp_build.build, "--output-on-failure", "--parallel", processors)
    assert "100% tests passed" in printed


def test_kernels_share_no_function_with_other_instruction_sets(cpp_build: BackgroundBuild) -> None:
    """Every function that a linker may merge carries the name of its instruction set."""
    if not (objects := list(cpp_build.build.glob("**/nll_kernels_x86_64_v*.dir/**/*.o"))):
        pytest.skip("kernels are built for one instruction set here")
    for kernels in objects:
        name = re.search(r"nll_kernels_(\w+)\.dir", str(kernels)).group(1)  # type: ignore[union-attr]
        own = re.compile(rf"nll::v\w+::detail::{name}::|DW\.ref\.__gxx_personality_v0$")
        weak = [line for line in run("nm", "-C", kernels).splitlines() if re.search(r" [WVu] ", line)]
        leaks = [line for line in weak if not own.search(line)]
        assert not leaks, "\n".join(leaks)


@pytest.mark.parametrize("target", ["nll::nll", "nll::headers"])
@pytest.mark.parametrize("way", ["installed", "add_subdirectory", "wheel"])
def test_cmake_consumer(cpp_build: BackgroundBuild, tmp_path: Path, way: str, target: str) -> None:
    where = {
        "installed": f"-DCMAKE_PREFIX_PATH={cpp_build.prefix}",
        "add_subdirectory": f"-DNLL_SOURCE_DIR={ROOT}",
        "wheel": f"-Dnll_DIR={nll.get_cmake_dir()}",
    }[way]
    run("cmake", "-S", ROOT / "tests/consumer/cmake", "-B", tmp_path, "-G", "Ninja", where, f"-DNLL_TARGET={target}")
    run("cmake", "--build", tmp_path, "--target", "consumer")
    assert run(tmp_path / "consumer") == "loss 3.5\n"
    flags = (tmp_path / "build.ninja").read_text()
    compiled = re.search(r"build CMakeFiles/consumer.dir/.*?(?=\nbuild )", flags, re.DOTALL)
    assert compiled is not None
    assert "openmp" not in compiled.group().lower(), "OpenMP has leaked into the consumer's flags"


def test_scikit_build_core_consumer_finds_the_wheel_with_no_path(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests/consumer/pip", tmp_path / "project")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "--no-build-isolation", "--no-deps", "--target", tmp_path / "site", tmp_path / "project")
    code = "import nll_consumer; print(nll_consumer.mean_loss())"
    assert run(sys.executable, "-c", code, PYTHONPATH=str(tmp_path / "site")) == "3.5\n"


def test_without_openmp(tmp_path: Path) -> None:
    """The public functions, and those of threads, of the headers alone: one thread does all of it."""
    options = ["-DNLL_TESTS=ON", "-DNLL_OPENMP=OFF", "-DCMAKE_BUILD_TYPE=Debug"]
    run("cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *options)
    run("cmake", "--build", tmp_path, "--target", "calls_headers", "threads_headers")
    printed = run("ctest", "--test-dir", tmp_path, "--output-on-failure", "-R", "^(calls|threads)_headers$")
    assert re.search(r"100% tests passed.* out of 2\b", printed)


def test_fast_math_is_refused(cxx: str, tmp_path: Path) -> None:
    source = tmp_path / "fast.cpp"
    source.write_text("#include <nll/nll.hpp>\nint main() {}\n")
    command = [cxx, "-std=c++20", "-ffast-math", f"-I{ROOT}/cpp/include", "-fsyntax-only", str(source)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "-ffast-math lets the compiler break them" in refused.stderr


LIMITS = {"one slice of float": ("20", "21"), "two of float": ("63", "65"), "two of double": ("34", "36")} | {
    "three of double": ("77", "79")
}


@pytest.mark.parametrize("limit", ["none", *LIMITS])
def test_certificate_is_sharp(cxx: str, tmp_path: Path, limit: str) -> None:
    """The test of the certificate fails for a limit that is relaxed to the first span that is unsafe, and only then."""
    shutil.copytree(ROOT / "cpp/include", tmp_path / "include")
    if limit != "none":
        proved, unsafe = LIMITS[limit]
        line = re.compile(rf"(constexpr \w+ certified<{limit.split()[-1]}>.*)\b{proved}\b(.*)")
        changed = 0
        for header in (tmp_path / "include").rglob("*.hpp"):
            relaxed, count = line.subn(rf"\g<1>{unsafe}\g<2>", header.read_text())
            header.write_text(relaxed)
            changed += count
        assert changed == 1
    flags = ["-std=c++20", "-O1", "-ffp-contract=off", f"-I{tmp_path}/include"]
    run(cxx, *flags, ROOT / "tests/cpp/certificate.cpp", "-o", tmp_path / "certificate")
    tested = subprocess.run([tmp_path / "certificate"], capture_output=True, check=False)
    assert (tested.returncode == 0) == (limit == "none")
