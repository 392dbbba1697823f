# SPDX-License-Identifier: BSD-3-Clause
"""What is shipped: its size, what it exports and needs, and that it lives beside other builds in one process."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import tomllib
import zlib
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path

import pytest

import nll
from support.build import ROOT, run

CONSUMER = ROOT / "tests/consumer"
LINUX = sys.platform == "linux"
MODULE = Path(nll._core.__file__)
MODULES = sorted(MODULE.parent.glob(f"_*{sysconfig.get_config_var('EXT_SUFFIX')}"))
ARCHIVE = Path(nll.get_cmake_dir()).parents[1] / "libnll.a"
OPENMP = ["-fopenmp"] if nll.build_info()["openmp"] else []

needs_sources = pytest.mark.skipif(not (ROOT / "cpp").is_dir(), reason="installed without the sources")
needs_elf = pytest.mark.skipif(not LINUX, reason="reads ELF files and loads them as Linux does")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def compile_cxx() -> Callable[..., Path]:
    """compile_cxx(result, sources and flags…), quickly: without optimisation unless a flag says otherwise."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"

    def build(result: Path, *arguments: object) -> Path:
        result.parent.mkdir(parents=True, exist_ok=True)
        run(compiler, "-std=c++20", "-O0", "-fPIC", *arguments, "-o", result)
        return result

    return build


def python_extension(path: Path) -> Path:
    return path.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))


# ---------------------------------------------------------------- what is in the wheel


def test_size_of_the_wheel() -> None:
    """A wheel is a zip file: each file is compressed by itself.

    Half of it is the module, half the archive for C++. With kernels of -O2 they would take a quarter less, and a fifth
    to two fifths more time.
    """
    installed = [path for file in files("nll") or [] if (path := Path(str(file.locate()))).is_file()]
    shipped = [path for path in installed if path.suffix not in {".pyc", ".pyo"}]
    assert MODULE in shipped
    assert ARCHIVE in shipped
    compressed = {path.name: len(zlib.compress(path.read_bytes(), 6)) for path in shipped}
    largest = sorted(compressed.items(), key=lambda item: -item[1])[:4]
    assert sum(compressed.values()) <= 4_200_000, largest


@needs_elf
@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name.partition(".")[0])
def test_module_exports_its_init_function_alone(module: Path) -> None:
    exported = [line.split()[-1] for line in run("nm", "-D", "--defined-only", module).splitlines()]
    assert exported == [f"PyInit_{module.name.partition('.')[0]}"]


@needs_elf
def test_module_needs_nothing_that_knows_locales() -> None:
    """They differ between copies of libstdc++, of which a process may have several."""
    needed = run("nm", "-D", "-C", "--undefined-only", MODULE)
    assert "std::" in needed
    assert not re.findall(r".*std::(?:locale|ctype|num_get|basic_\w*(?:stream|buf)|ios_base|use_facet).*", needed)


@needs_sources
def test_archive_tells_its_version_in_its_names(tmp_path: Path) -> None:
    major, minor, _ = nll.__version__.split(".")
    macro = re.search(r"#define NLL_VERSION_NAMESPACE (\w+)", (ROOT / "cpp/include/nll/detail/abi.hpp").read_text())
    assert macro is not None
    assert macro.group(1) == (f"v0_{minor}" if major == "0" else f"v{major}")
    if LINUX:
        names = re.findall(r" [A-Za-z] (nll::\S+)", run("nm", "-C", ARCHIVE))
        assert names
        assert not [name for name in names if not name.startswith(f"nll::{macro.group(1)}::")]


# ---------------------------------------------------------------- beside others in a process


@needs_sources
@needs_elf
def test_builds_in_one_process_share_nothing(compile_cxx: Callable[..., Path], tmp_path: Path) -> None:
    """Four: the module, two of the same version with other flags, and the next version. All symbols are global."""
    include = tmp_path / "include"
    shutil.copytree(nll.get_include(), include)
    for path in include.rglob("*.hpp"):
        text = path.read_text()
        text = text.replace("NLL_VERSION_NAMESPACE v0_1", "NLL_VERSION_NAMESPACE v0_2")
        path.write_text(text.replace('NLL_VERSION "0.1.0"', 'NLL_VERSION "0.2.0"'))
    python = f"-I{sysconfig.get_path('include')}"
    source = CONSUMER / "extension/embedder.cpp"
    builds = {"same": (nll.get_include(), "-O1"), "other": (nll.get_include(), "-O0"), "next": (include, "-O0")}
    for name, (headers, flag) in builds.items():
        extension = python_extension(tmp_path / name)
        compile_cxx(extension, "-shared", flag, *OPENMP, f"-DEMBEDDER={name}", python, f"-I{headers}", source)
        exported = run("nm", "-D", "-C", "--defined-only", extension)
        assert not re.findall(r".* u .*nll.*|.*nll::\w+::detail::(?:native|parallel)::\w+\(.*", exported)
        if flag == "-O1":  # nothing but types that are caught: without it, what makes a value is a function
            assert not re.findall(r".* nll::\w+::(?!AxisError|Interrupted).*", exported)
    code = """
import os, sys
sys.setdlopenflags(os.RTLD_GLOBAL | os.RTLD_NOW)
import nll, same, other, next
builds = [same, other, next]
threads = [build.get_num_threads for build in [*builds, nll]]
def limits():
    return [get() for get in threads]
def losses():
    return [*(build.mean_loss() for build in builds), nll.nll_loss([[0.0, -3.5]], [1])]

assert [build.version() for build in builds] == [nll.__version__, nll.__version__, "0.2.0"]
one = 1 if nll.build_info()["openmp"] is None else None
same.set_num_threads(2)
other.set_num_threads(5)
next.set_num_threads(3)
nll.set_num_threads(4)
assert limits() == [one or 2, one or 5, one or 3, one or 4], limits()
assert losses() == [3.5] * 4
child = os.fork()
if child == 0:
    import signal
    signal.alarm(60)
    assert limits() == [1, 1, 1, 1], limits()
    assert losses() == [3.5] * 4
    same.set_num_threads(2)
    assert limits() == [one or 2, 1, 1, 1], limits()
    assert losses() == [3.5] * 4
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert limits() == [one or 2, one or 5, one or 3, one or 4], limits()
"""
    run(sys.executable, "-c", code, PYTHONPATH=os.pathsep.join([str(tmp_path), str(Path(nll.__file__).parents[1])]))


@needs_sources
@needs_elf
def test_libstdcxx_of_its_own(compile_cxx: Callable[..., Path], tmp_path: Path) -> None:
    """A module with a static libstdc++, nothing of which is hidden, after another library has used iostreams."""
    iostreams = compile_cxx(tmp_path / "libiostreams.so", "-shared", CONSUMER / "extension/iostreams.cpp")
    package = tmp_path / "nll"
    shutil.copytree(Path(nll.__file__).parent, package, ignore=shutil.ignore_patterns("_core*.so", "include", "lib"))
    includes = run(sys.executable, "-m", "pybind11", "--includes").split()
    module = [ROOT / "python/bindings/module.cpp", "-DNLL_COMPILED", *includes, f"-I{nll.get_include()}", ARCHIVE]
    compile_cxx(python_extension(package / "_core"), "-shared", *module, *OPENMP, "-static-libstdc++", "-static-libgcc")
    code = f"""
import ctypes
through_iostreams = ctypes.CDLL({str(iostreams)!r}).through_iostreams
through_iostreams.argtypes, through_iostreams.restype = [ctypes.c_double], ctypes.c_double
assert through_iostreams(3.5) == 3.5
import nll
assert nll.__file__.startswith({str(tmp_path)!r})
assert nll.get_num_threads() >= 1
assert nll.nll_loss([[0.0, -3.5]], [1]) == 3.5
try:
    nll.nll_loss([[0.0, -3.5]], [2])
except IndexError as error:
    assert "target[0] is 2" in str(error)
"""
    run(sys.executable, "-c", code, PYTHONPATH=str(tmp_path))


@needs_sources
@needs_elf
def test_threads_may_be_unwound_where_they_ask(compile_cxx: Callable[..., Path], tmp_path: Path) -> None:
    source = [ROOT / "tests/cpp/unwinding.cpp", "-DNLL_COMPILED", f"-I{nll.get_include()}", ARCHIVE]
    run(compile_cxx(tmp_path / "unwinding", *source, *OPENMP, "-pthread"))


# ---------------------------------------------------------------- what others ask for


@needs_sources
def test_find_package_takes_no_other_minor_version_below_1(tmp_path: Path) -> None:
    assert nll.__version__.startswith("0.1.")
    versions = "-DVERSIONS=0.0;0.1;0.1.0;0.2;1.0"
    where = f"-Dnll_DIR={nll.get_cmake_dir()}"
    printed = run("cmake", "-S", CONSUMER / "versions", "-B", tmp_path, "-G", "Ninja", versions, where)
    found = dict(re.findall(r"nll (\S+) found: (\S+)", printed))
    assert found == {"0.0": "0", "0.1": "1", "0.1.0": "1", "0.2": "0", "1.0": "0"}


def install(target: Path, requirement: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    run(sys.executable, "-m", "pip", "install", *quiet, "--target", target, requirement)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="has no NumPy that old")
def test_oldest_numpy(tmp_path: Path) -> None:
    """Alone with it: Python sees no other package."""
    oldest = re.search(r"numpy>=([\d.]+)", " ".join(nll_requires()))
    assert oldest is not None
    install(tmp_path, f"numpy=={oldest.group(1)}.*")
    shutil.copytree(Path(nll.__file__).parent, tmp_path / "nll", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import numpy as np
import nll
assert np.__version__.startswith("{oldest.group(1)}.")
assert nll.__file__.startswith({str(tmp_path)!r})
logits = np.array([[2.0, 0.5, 0.1], [0.0, 3.0, 0.0], [1.0, 1.0, 1.0]])
target = np.array([0, 1, 255], np.uint8)
for dtype in np.float16, np.float32, np.float64:
    loss, grad = nll.cross_entropy_value_and_grad(logits.astype(dtype), target, ignore_index=255)
    assert type(loss) is dtype and grad.dtype == dtype and grad.shape == (3, 3) and not grad[2].any()
    assert abs(loss - 0.20585083523924466) < 1e-3
assert loss == 0.20585083523924466
log_probability = nll.log_softmax(logits)
assert nll.nll_loss(log_probability, target, ignore_index=255) == loss
losses = nll.nll_loss(log_probability[:2], target[:2], np.array([1, 2, 3]), reduction="none", dtype=np.float32)
assert losses.dtype == np.float32 and losses.shape == (2,)
images = np.asfortranarray(np.zeros((2, 3, 5, 7), np.float32))
out = np.empty_like(images)
assert nll.nll_loss_backward(1.0, images, np.zeros((2, 5, 7), np.int16), out=out) is out
assert abs(out[:, 0].sum() + 1) < 1e-6 and not out[:, 1:].any()
large = np.zeros((100_000, 3), np.float32)
assert nll.NLLLoss(reduction="sum")(large, np.zeros(100_000, np.int64)) == 0
for call, error in [
    (lambda: nll.nll_loss(logits, target), IndexError),
    (lambda: nll.nll_loss(logits, target[:2]), ValueError),
    (lambda: nll.nll_loss(logits, target * 0.5), TypeError),
    (lambda: nll.nll_loss(logits, target, axis=5), np.exceptions.AxisError),
]:
    try:
        call()
    except error:
        continue
    raise AssertionError(error)
"""
    run(sys.executable, "-S", "-W", "error", "-c", code, PYTHONPATH=str(tmp_path), PYTHONNOUSERSITE="1")


def nll_requires() -> list[str]:
    from importlib.metadata import requires

    return [line for line in requires("nll") or [] if "extra" not in line]


@needs_sources
def test_oldest_build_backend_knows_every_setting(tmp_path: Path) -> None:
    """The metadata, for which all of pyproject.toml is read and checked, from the oldest that it asks for."""
    requirements = " ".join(project()["build-system"]["requires"])
    oldest = re.search(r"scikit-build-core>=([\d.]+)", requirements)
    assert oldest is not None
    for requirement in (f"scikit-build-core=={oldest.group(1)}", "packaging", "pathspec"):
        install(tmp_path / "backend", requirement)
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE", "CMakeLists.txt", "cpp/include/nll/types.hpp"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    code = f"""
import os, sys
os.chdir({str(source)!r})
from scikit_build_core.build import prepare_metadata_for_build_wheel
print("folder", prepare_metadata_for_build_wheel({str(tmp_path)!r}))
"""
    printed = run(sys.executable, "-S", "-c", code, PYTHONPATH=str(tmp_path / "backend"))
    folder = re.search(r"folder (\S+)", printed)
    assert folder is not None
    assert f"Version: {nll.__version__}\n" in (tmp_path / folder.group(1) / "METADATA").read_text()


@needs_sources
def test_wheels_for_macos_are_built_without_openmp() -> None:
    settings = pytest.importorskip("scikit_build_core.settings.skbuild_read_settings")
    environment = project()["tool"]["cibuildwheel"]["macos"]["environment"]
    reader = settings.SettingsReader.from_file(ROOT / "pyproject.toml", env=environment)
    reader.validate_may_exit()
    assert reader.settings.cmake.define["NLL_OPENMP"] == "OFF"


@needs_sources
def test_tests_of_the_wheels_exist() -> None:
    command = project()["tool"]["cibuildwheel"]["test-command"]
    named = re.findall(r"\{project\}/(\S+)", command)
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]
