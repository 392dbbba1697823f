# SPDX-License-Identifier: BSD-3-Clause
"""Shows that the tests bite: breaks the library in small ways, one at a time, and runs tests that have to fail.

    python tests/mutants.py                       # all of them, one after the other
    python tests/mutants.py --only certified      # those whose name this regular expression finds
    python tests/mutants.py --list

mutants.toml lists them: {file: [mutant]}. A mutant replaces `old`, which stands once in its file, by `new`; `breaks`
says what is wrong then; or `equivalent`, why no test can tell. `by` names the tests that are run until one fails, the
cheapest first: programs of tests/cpp, compiled alone; those with `library:` before them, linked with the compiled
library, of which that is built again that the mutant changes; files of pytest, which import the package as it was
changed, with the installed module unless the mutant is in C++. With `@x86-64-v4` a program is built for that
instruction set.

It exits with 1 if a mutant survives that is not called equivalent, or an equivalent one does not, or if one cannot be
compiled. Every test that is used has to pass first with nothing changed. All of it happens in a copy of the tree.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
LIST = TESTS / "mutants.toml"
COPIED = "cpp", "python", "tests", "CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md"
PATIENCE = 300  # seconds, after which a test has failed: some mutants never end


@dataclass
class Mutant:
    """A small change that is wrong, or that no test can tell."""

    name: str
    file: str
    old: str
    new: str
    by: list[str]
    breaks: str = ""
    equivalent: str = ""

    @property
    def is_cpp(self) -> bool:
        return not self.file.endswith(".py")

    def builds_library(self) -> bool:
        """Tell whether its tests need the library, or the module, as it has changed them."""
        return self.is_cpp and any(test.startswith(("library:", "tests/")) for test in self.by)

    def apply(self, text: str) -> str:
        """Return the text of its file with the change."""
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: {self.file} has its old text {count} times: {self.old!r}")
        return text.replace(self.old, self.new)


def load() -> list[Mutant]:
    files = tomllib.loads(LIST.read_text("utf-8"))
    return [Mutant(file=file, **fields) for file, listed in files.items() for fields in listed]


class Failed(Exception):
    """Says that a test has failed, and how."""


class NotBuilt(Exception):
    """Says that a compiler has refused the sources."""


@dataclass
class Tree:
    """A copy of the sources, with what is built of it."""

    path: Path
    instruction_set: str
    built: Path = field(init=False)

    def __post_init__(self) -> None:
        for name in COPIED:
            source = ROOT / name
            for file in [source] if source.is_file() else source.rglob("*"):
                to = self.path / file.relative_to(ROOT)
                if not file.is_file() or {".so", ".pyc"} & {file.suffix}:
                    continue
                if not to.exists() or to.read_bytes() != file.read_bytes():  # else what is built of it is good
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, to)
        self.built = self.path / "build"
        self.package = self.path / "python/nll"
        self.use_installed_module()

    def run(self, *command: object, broken: type[Exception] = Failed, **environment: str) -> None:
        try:
            done = subprocess.run(
                list(map(str, command)),
                cwd=self.path,
                env=POLITE | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=None if broken is NotBuilt else PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise broken(f"no end after {PATIENCE} s") from error
        if done.returncode != 0:
            if "static assertion failed" in done.stdout:
                raise Failed("a static assertion failed")
            raise broken(done.stdout[-3000:] or f"exit status {done.returncode}")

    def test(self, test: str, *, is_cpp: bool) -> None:
        """Run a test. Raises Failed or NotBuilt."""
        if test.startswith("tests/"):
            if is_cpp:
                self.use_own_module()
            file = test.split()
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *file]
            return self.run(*command, PYTHONPATH=str(self.path / "python"))
        if test.startswith("library:"):
            target = test.removeprefix("library:") + "_nll"
            self.build(target)
            return self.run(self.built / "tests/cpp" / target, OMP_NUM_THREADS="2")
        name, _, instruction_set = test.partition("@")
        self.compile(name, instruction_set or self.instruction_set)
        self.run(self.path / name, OMP_NUM_THREADS="2")

    def compile(self, program: str, instruction_set: str) -> None:
        """Compile a program of tests/cpp alone, after the standard library's headers: most of the work is theirs."""
        compiler = shutil.which("c++") or "g++"
        flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-fopenmp"]
        if instruction_set:
            flags.append(f"-march={instruction_set}")
        standard = self.path / f"standard{instruction_set}.hpp"
        if not standard.exists():
            sources = [path.read_text("utf-8") for path in self.path.glob("*/**/*.[ch]pp") if "nll" in path.parts]
            included = {line for text in sources for line in re.findall(r"^#include <[a-z]+>$", text, re.MULTILINE)}
            standard.write_text("\n".join(sorted(included)), "utf-8")
            self.run(compiler, *flags, "-x", "c++-header", standard, "-o", f"{standard}.gch", broken=NotBuilt)
        source = self.path / f"tests/cpp/{program}.cpp"
        include = ["-include", standard, f"-I{self.path}/cpp/include"]
        self.run(compiler, *flags, *include, source, "-o", self.path / program, broken=NotBuilt)

    # The module: that which is installed, or one of these sources.

    def use_installed_module(self) -> None:
        import nll._core

        installed = Path(nll._core.__file__)
        self.module = self.package / installed.name
        self.link(self.module, installed)
        self.link(self.package / "include", installed.parent / "include")
        self.link(self.package / "lib", installed.parent / "lib")

    def use_own_module(self) -> None:
        self.build("_core")
        self.link(self.module, next(self.built.rglob(self.module.name)))

    @staticmethod
    def link(name: Path, to: Path) -> None:
        name.unlink(missing_ok=True)
        if to.exists():
            name.symlink_to(to)

    def build(self, target: str) -> None:
        self.has_built = True
        if not (self.built / "build.ninja").exists():
            import pybind11

            options = {
                "NLL_TESTS": "ON",
                "NLL_PYTHON": "ON",
                "NLL_JAX": "OFF",
                "NLL_INSTRUCTION_SETS": "baseline",
                "CMAKE_BUILD_TYPE": "None",
                "CMAKE_CXX_FLAGS": "-O1",
                "Python_EXECUTABLE": sys.executable,
                "pybind11_DIR": pybind11.get_cmake_dir(),
            }
            defined = [f"-D{name}={value}" for name, value in options.items()]
            self.run("cmake", "-S", ".", "-B", self.built, "-G", "Ninja", *defined, broken=NotBuilt)
        self.run("cmake", "--build", self.built, "-j1", "--target", target, broken=NotBuilt)


POLITE: dict[str, str] = {}


def trial(mutant: Mutant, tree: Tree) -> tuple[bool, str]:
    """Tell whether the tests' answer to a mutant is the one that is wanted, and what it is."""
    path = tree.path / mutant.file
    original, before = path.read_bytes(), path.stat()
    tree.has_built = False
    path.write_text(mutant.apply(original.decode()), "utf-8")
    try:
        for test in mutant.by:
            tree.test(test, is_cpp=mutant.is_cpp)
        return bool(mutant.equivalent), "survives"
    except Failed as failure:
        reason = str(failure).strip().splitlines()
        return not mutant.equivalent, f"killed by {test}: {reason[0][:100] if reason else ''}"
    except NotBuilt as problem:
        return False, f"cannot be compiled:\n{problem}"
    finally:
        path.write_bytes(original)
        if not tree.has_built:  # else it has to be built again
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def passes(test: str, is_cpp: bool, tree: Tree) -> None:
    try:
        tree.test(test, is_cpp=is_cpp)
    except (Failed, NotBuilt) as problem:
        raise SystemExit(f"{test} fails with nothing changed:\n{problem}") from problem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="NAME", help="a regular expression that finds it")
    parser.add_argument("--list", action="store_true", help="show them, and stop")
    parser.add_argument("--jobs", type=int, default=1, help="trees in which mutants are tried at the same time")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="for the copies, to be used again as they are built"
    )
    parser.add_argument("--unchecked", action="store_true", help="do not run the tests with nothing changed first")
    chosen = parser.parse_args()
    mutants = [mutant for mutant in load() if re.search(chosen.only, mutant.name)]
    for mutant in mutants:
        mutant.apply((ROOT / mutant.file).read_text("utf-8"))
    if chosen.list:
        for mutant in mutants:
            print(f"{mutant.name:40} {mutant.file}\n    {mutant.breaks or 'equivalent: ' + mutant.equivalent}")
        return 0
    if chosen.keep:
        return run(mutants, chosen.jobs, chosen.unchecked, chosen.keep.resolve())
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        return run(mutants, chosen.jobs, chosen.unchecked, Path(scratch))


def run(mutants: list[Mutant], jobs: int, unchecked: bool, scratch: Path) -> int:
    import nll

    POLITE.update(os.environ)
    if hasattr(os, "nice"):
        os.nice(19 - os.nice(0))
    machine = str(nll.build_info()["instruction_set"])
    built_for = "x86-64-v3" if machine.startswith("x86-64-v") else ""
    runnable = [m for m in mutants if not any("@" in test and test.partition("@")[2] != machine for test in m.by)]
    begin = time.monotonic()
    wrong = 0
    trees = [Tree(scratch / str(i), built_for) for i in range(min(jobs, len(runnable)) or 1)]
    needed = sorted({(test, m.is_cpp) for m in runnable for test in m.by})
    for test, is_cpp in [] if unchecked else needed:
        passes(test, is_cpp, trees[0])
    free = list(trees)

    def attempt(mutant: Mutant) -> tuple[bool, str, float]:
        tree = free.pop()
        since = time.monotonic()
        try:
            return (*trial(mutant, tree), time.monotonic() - since)
        finally:
            free.append(tree)

    ordered = sorted(runnable, key=Mutant.builds_library)
    with ThreadPoolExecutor(len(trees)) as pool:
        for mutant, (good, what, seconds) in zip(ordered, pool.map(attempt, ordered), strict=True):
            wrong += not good
            print(f"{'' if good else 'WRONG: '}{mutant.name} {what} ({seconds:.0f} s)", flush=True)
    killed = sum(not mutant.equivalent for mutant in runnable)
    used = os.times()
    print(
        f"{len(runnable)} mutants, {wrong} of them wrong: {killed} to be killed, {len(runnable) - killed} equivalent; "
        f"{len(mutants) - len(runnable)} are for other processors. {time.monotonic() - begin:.0f} s, "
        f"{used.children_user + used.children_system:.0f} s of a processor"
    )
    return wrong != 0


if __name__ == "__main__":
    sys.exit(main())
