# SPDX-License-Identifier: BSD-3-Clause
"""The C++ side: its own tests, projects that use it, and a certificate whose limits matter."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
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


def compiled(cxx: str, folder: Path, program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    source = folder / "program.cpp"
    source.write_text(program)
    command = [cxx, "-std=c++20", *flags, f"-I{ROOT}/cpp/include", str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("-ffast-math", "-ffast-math lets the compiler break them"),
        ("-funsafe-math-optimizations", "a part of it, breaks them"),
        ("-freciprocal-math", "a part of it, breaks them"),
        ("-fno-signed-zeros", "a part of it, breaks them"),
        ("-mfpmath=387", "wider intermediate results break them"),
    ],
)
def test_flags_that_break_exactness_are_refused(cxx: str, tmp_path: Path, flag: str, reason: str) -> None:
    preprocess = [cxx, flag, "-dM", "-E", "-xc++", os.devnull]
    macros = subprocess.run(preprocess, capture_output=True, text=True, check=False).stdout
    if not re.search(r"__(FAST|ASSOCIATIVE|RECIPROCAL)_MATH__|__NO_SIGNED_ZEROS__|_METHOD__ 2", macros):
        pytest.skip("this compiler has no such flag, or does not tell of it")
    refused = compiled(cxx, tmp_path, "#include <nll/nll.hpp>\nint main() {}\n", flag, "-fsyntax-only")
    assert refused.returncode != 0
    assert reason in refused.stderr


# (functions, arguments, the rule that each call of these breaks)
CALLS_THAT_DO_NOT_COMPILE = [
    ("nll_loss cross_entropy", "ints, labels", "input is of float, double"),
    ("nll_loss cross_entropy", "input, floats", "target is of integers"),
    ("nll_loss cross_entropy", "input, wide", "target is of integers"),
    ("nll_loss cross_entropy", "input, labels, labels", "a result are of float, double"),
    ("nll_loss cross_entropy", "input, labels, constant", "are written: not const"),
    ("nll_loss_backward", "1.0, floats, grad", "target is of integers"),
    ("nll_loss_backward", "1.0, labels, input", "are written: not const"),
    ("nll_loss_backward", "1.0, labels, ints", "a result are of float, double"),
    ("nll_loss_backward", "labels, labels, grad", "grad_output is of float, double"),
    ("cross_entropy_backward", "labels, input, labels, grad", "grad_output is of float, double"),
    ("cross_entropy_backward", "1.0, input, floats, grad", "target is of integers"),
    ("cross_entropy_backward", "1.0, input, labels, input", "are written: not const"),
    ("nll_loss_value_and_grad cross_entropy_value_and_grad", "input, floats, grad", "target is of integers"),
    ("nll_loss_value_and_grad cross_entropy_value_and_grad", "input, labels, input", "are written: not const"),
    ("softmax log_softmax", "input, input", "are written: not const"),
    ("softmax log_softmax", "ints, grad", "input is of float, double"),
    ("logsumexp", "input, labels", "a result are of float, double"),
    ("logsumexp", "input, constant", "are written: not const"),
    ("add_nll_loss add_cross_entropy", "state, ints, labels", "input is of float, double"),
    ("add_nll_loss add_cross_entropy", "state, input, floats", "target is of integers"),
    ("add_nll_loss add_cross_entropy", "states, input, labels, floats", "group is of integers"),
]


def test_calls_of_other_types_do_not_compile(cxx: str, tmp_path: Path) -> None:
    """Each call gives the error of its rule. Ranks tell them apart: a template is instantiated once for each."""
    calls = [(f"{name}({given});", rule) for names, given, rule in CALLS_THAT_DO_NOT_COMPILE for name in names.split()]
    calls.append(("View<float, 65> view;", "a view has 0 to 64 axes"))
    calls.append(('static_assert(std::is_convertible_v<__int128, IgnoreIndex>, "has 128 bits");', "has 128 bits"))
    program = "#include <nll/nll.hpp>\nusing namespace nll;\n"
    for number, (call, _) in enumerate(calls):
        rank = number + 2
        views = [
            ("const float", rank, "input"),
            ("float", rank, "grad"),
            ("int", rank, "ints"),
            ("long", rank - 1, "labels"),
            ("float", rank - 1, "floats"),
            ("const float", rank - 1, "constant"),
            ("__int128", rank - 1, "wide"),
        ]
        arguments = [f"View<{element}, {axes}> {name}" for element, axes, name in views]
        program += f"void call({', '.join(arguments)}, State& state, std::span<State> states) {{ {call} }}\n"
    flags = ["-std=gnu++20", "-DNLL_COMPILED", "-fsyntax-only"]
    if "clang" in run(cxx, "--version"):
        flags.append("-ferror-limit=0")
    printed = compiled(cxx, tmp_path, program, *flags).stderr
    errors = [line for line in printed.splitlines() if "error:" in line]
    for rule, count in Counter(rule for _, rule in calls).items():
        assert sum(rule in error for error in errors) == count, (rule, printed)


def test_public_headers_have_no_warnings(cxx: str, tmp_path: Path) -> None:
    program = (ROOT / "tests/consumer/cmake/consumer.cpp").read_text()
    warnings = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wsign-conversion", "-Werror"]
    done = compiled(cxx, tmp_path, program, *warnings, "-DNLL_COMPILED", "-fsyntax-only")
    assert done.returncode == 0, done.stderr


def test_state_header_needs_no_other(cxx: str, tmp_path: Path) -> None:
    program = "#include <nll/state.hpp>\nint main() { return nll::State({}).loss({}).count != 0; }\n"
    done = compiled(cxx, tmp_path, program, "-O0", "-pthread", "-o", str(tmp_path / "program"))
    assert done.returncode == 0, done.stderr
    run(tmp_path / "program")


@pytest.mark.parametrize("option", ["NLL_OPENMP", "NLL_JAX"])
def test_unknown_choices_of_cmake_are_refused(tmp_path: Path, option: str) -> None:
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", f"-D{option}=maybe"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert f"{option} is 'maybe'; it must be AUTO, ON or OFF" in refused.stderr


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
