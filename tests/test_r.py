# SPDX-License-Identifier: BSD-3-Clause
"""nll from R, through reticulate: what goes in, what comes back, and what an error says.

Needs Rscript, reticulate and Python's shared library, on Debian r-base-core, r-cran-reticulate and libpython3-dev.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import nll

PAGE = Path(__file__).parents[1] / "python/examples/from_r.R"
FIRST_WITH_NUMPY_2 = (1, 39)  # of reticulate; Debian 12 has 1.28, which knows NumPy 1 alone
SETUP = """
library(reticulate)
nll <- import("nll")
bits <- function(x) cat(dim(x), ":", sprintf("%a", x), "\n")
"""


def environment_of_r(**environment: str) -> dict[str, str]:
    """What R sees; reticulate finds Python by RETICULATE_PYTHON, and that its packages, by nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RETICULATE"))}
    return kept | {"LC_ALL": "C.UTF-8"} | environment


def rscript(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["Rscript", "--no-init-file", *map(str, arguments)],
        env=environment_of_r(**environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def r_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has this nll, and a NumPy that reticulate knows."""
    if shutil.which("Rscript") is None:
        pytest.skip("Rscript is not installed")
    version = rscript("-e", 'cat(as.character(packageVersion("reticulate")))')
    if version.returncode != 0:
        pytest.skip("R's package reticulate is not installed")
    numpy = f"numpy=={np.__version__}"
    if tuple(map(int, re.findall(r"\d+", version.stdout)[:2])) < FIRST_WITH_NUMPY_2:
        if sys.version_info >= (3, 13):
            pytest.skip(f"reticulate {version.stdout} wants NumPy 1, which is not there for this Python")
        numpy = "numpy==1.26.*"
    folder = tmp_path_factory.mktemp("r") / "environment"
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    subprocess.run([sys.executable, "-m", "pip", "install", *quiet, "--target", packages, numpy], check=True)
    (packages / "nll").symlink_to(Path(nll.__file__).parent)
    python = folder / "bin/python"
    found = rscript("-e", "cat(reticulate::py_discover_config()$libpython)", RETICULATE_PYTHON=str(python))
    assert found.returncode == 0, found.stderr
    if not found.stdout:
        pytest.skip("Python's shared library is not installed")
    return python


class Session:
    """An R that has run SETUP, and runs one piece of code after the other."""

    END = "---- end of a piece\n"

    def __init__(self, python: Path) -> None:
        self.process = subprocess.Popen(
            ["R", "--no-save", "--no-restore", "--no-init-file", "--no-echo"],
            env=environment_of_r(RETICULATE_PYTHON=str(python)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.run(SETUP) == ""

    def run(self, code: str) -> str:
        """Run code and return what it prints; fail if it does, or after two minutes."""
        timer = threading.Timer(120, self.process.kill)
        timer.start()
        printed = ""
        try:
            self.process.stdin.write(f"{code}\ncat({json.dumps(self.END)})\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                if line == self.END:
                    return printed
                printed += line
        finally:
            timer.cancel()
        raise AssertionError(f"R has ended\n{printed}")

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def session(r_environment: Path) -> Iterator[Session]:
    session = Session(r_environment)
    yield session
    session.stop()


@pytest.fixture
def run_r(session: Session) -> Callable[[str], str]:
    """Run code whose names are its own, and return what it prints."""
    return lambda code: session.run(f"local({{\n{code}\n}})")


def array_of(line: str) -> np.ndarray:
    """What `bits` of SETUP printed: an array of R, column by column."""
    shape, values = line.split(":")
    return np.array([float.fromhex(value) for value in values.split()]).reshape(
        [int(size) for size in shape.split()] or -1, order="F"
    )


def quarters(*shape: int) -> np.ndarray:
    """Numbers that R and NumPy have exactly; `(7 * seq_len(n)) %% 13 / -4` there."""
    return (7 * np.arange(1, np.prod(shape) + 1) % 13 / -4).reshape(shape, order="F")


# ---- the page


def test_page(r_environment):
    """It prints what it says."""
    said = re.findall(r"^#> (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(said) > 10
    done = rscript(PAGE, RETICULATE_PYTHON=str(r_environment))
    assert done.returncode == 0, done.stderr
    assert [line.rstrip() for line in done.stdout.splitlines()] == said


# ---- what goes in


def test_arrays_are_read_in_place(run_r):
    """Two views of an array of R share memory, in Fortran's order, and a call allocates nothing of its size."""
    printed = run_r(
        """
np <- import("numpy", convert = FALSE)
tracemalloc <- import("tracemalloc")
input <- array(-1, c(1000, 10, 50))
target <- matrix(10L, 1000, 50)
for (a in list(input, target, input[, , 1], target[, 1, drop = TRUE] |> array())) {
  view <- r_to_py(a)
  cat(py_to_r(np$shares_memory(view, r_to_py(a))), py_to_r(view$flags$f_contiguous), "\n")
}
call <- function() nll$nll_loss(input, target, array(rep(1, 10)), index_base = 1L)
invisible(call())
tracemalloc$start()
cat(call(), tracemalloc$get_traced_memory()[[2]], "\n")
"""
    )
    *views, call = printed.splitlines()
    assert [view.split() for view in views] == [["TRUE", "TRUE"]] * 4
    loss, peak = map(float, call.split())
    assert loss == 1
    assert peak < 50_000  # bytes; target has 200 000, input 4 000 000


@pytest.mark.parametrize("labels", ["c(3L, 1L)", "array(c(3L, 1L))"], ids=["vector", "array"])
def test_labels_count_from_one(labels, run_r):
    printed = run_r(f"bits(nll$nll_loss(matrix(-(1:6) / 4, 2), {labels}, index_base = 1L))")
    assert array_of(printed) == [(5 / 4 + 2 / 4) / 2]


def test_batch_of_one_sample(run_r):
    printed = run_r("bits(nll$nll_loss(matrix(-(1:3) / 4, 1), array(2L), index_base = 1L))")
    assert array_of(printed) == [0.5]


def test_numbers_of_a_factor(run_r):
    """A factor arrives as its words, and as.integer(factor) as labels that count from one."""
    printed = run_r(
        """
animals <- factor(c("owl", "cat", "dog"), levels = c("cat", "dog", "owl"))
cat(class(r_to_py(animals))[1], r_to_py(animals)[[0]] |> py_to_r(), "\n")
bits(nll$nll_loss(matrix(-(1:9) / 4, 3), as.integer(animals), index_base = 1L, reduction = "none"))
"""
    )
    words, losses = printed.splitlines()
    assert words.split() == ["python.builtin.list", "owl"]
    assert array_of(losses).tolist() == [7 / 4, 2 / 4, 6 / 4]


@pytest.mark.parametrize("labels", ["array(c(1L, NA, 3L))", "as.integer(factor(c('a', NA, 'c'), c('a', 'b', 'c')))"])
def test_na_may_be_ignored(labels, run_r):
    printed = run_r(
        f"""
input <- matrix(-(1:9) / 4, 3)
bits(nll$nll_loss(input, {labels}, index_base = 1L, ignore_index = NA_integer_, reduction = "none"))
bits(nll$nll_loss(input, {labels}, index_base = 1L, ignore_index = NA_integer_))
"""
    )
    losses, mean = printed.splitlines()
    assert array_of(losses).tolist() == [1 / 4, 0, 9 / 4]
    assert array_of(mean).tolist() == [5 / 4]


# ---- what comes back


def test_gradient_is_an_array_of_r(run_r):
    printed = run_r(
        """
input <- array((7 * seq_len(24)) %% 13 / -4, c(2, 3, 4))
target <- matrix(rep(1:3, length.out = 8), 2)
result <- nll$cross_entropy_value_and_grad(input, target, c(1, 2, 0.5), index_base = 1L, return_total_weight = TRUE)
cat(class(result), length(result), class(result[[3]]), "\n")
for (part in result) bits(part)
bits(nll$nll_loss_backward(0.5, input, target, index_base = 1L))
"""
    )
    classes, *parts, backward = printed.splitlines()
    assert classes.split() == ["list", "3", "array"]
    target = np.resize([1, 2, 3], 8).reshape(2, 4, order="F")
    loss, total_weight, gradient = map(array_of, parts)
    expected = nll.cross_entropy_value_and_grad(
        quarters(2, 3, 4), target, [1, 2, 0.5], index_base=1, return_total_weight=True
    )
    assert (loss[0], total_weight[0]) == expected[:2]
    np.testing.assert_array_equal(gradient, expected[2])
    one_hot = target[:, None] == np.arange(1, 4)[:, None]
    np.testing.assert_array_equal(array_of(backward), np.where(one_hot, -0.5 / 8, 0))


def test_children_of_mclapply_compute(run_r):
    """They are forks of an R in which threads have computed."""
    printed = run_r(
        """
input <- matrix(-(1:100000) / 4, 50000)
target <- array(rep(1:2, 25000))
loss <- function(scale) nll$nll_loss(input * scale, target, index_base = 1L)
bits(loss(1))
bits(unlist(parallel::mclapply(c(1, 2, 4), loss, mc.cores = 2)))
"""
    )
    parent, children = map(array_of, printed.splitlines())
    assert children.tolist() == [parent[0], 2 * parent[0], 4 * parent[0]]


# ---- errors

MESSAGES = {
    "label": (
        "nll$nll_loss(input, c(1L, 7L), index_base = 1L)",
        "IndexError: target[1] is 7, outside [1, 4) (ignore_index is -100)",
    ),
    "double-labels": (
        "nll$nll_loss(input, c(1, 2), index_base = 1L)",
        "TypeError: target has dtype float64; labels must be integers: write target.astype(int), or in R "
        "as.integer(target)",
    ),
    "double-labels-of-images": (
        "nll$nll_loss(array(0, c(2, 3, 4)), matrix(1, 2, 4), index_base = 1L)",
        "TypeError: target has dtype float64; labels must be integers: write target.astype(int), or in R "
        'storage.mode(target) <- "integer"',
    ),
    "double-labels-with-NA": (
        "nll$nll_loss(input, c(1, NA), index_base = 1L)",
        "TypeError: target has dtype float64; labels must be integers, and NaN is none: in R write "
        "as.integer(target), and ignore_index=NA_integer_ for NA",
    ),
    "fractions": (
        "nll$nll_loss(input, c(0.5, 2), index_base = 1L)",
        "TypeError: target has dtype float64; labels must be integers",
    ),
    "factor": (
        "nll$nll_loss(input, factor(c('cat', 'dog')), index_base = 1L)",
        "TypeError: target has dtype <U3; labels must be integers; those of words are "
        "np.unique(target, return_inverse=True)[1], and those of a factor in R as.integer(target)",
    ),
    "double-index-base": (
        "nll$nll_loss(input, target, index_base = 1)",
        "TypeError: index_base is 1.0; it must be an integer: write 1, or in R 1L",
    ),
    "double-ignore-index": (
        "nll$nll_loss(input, target, index_base = 1L, ignore_index = 255)",
        "TypeError: ignore_index is 255.0; it must be an integer: write 255, or in R 255L",
    ),
    "NA-of-logical-values": (
        "nll$nll_loss(input, target, index_base = 1L, ignore_index = NA)",
        "TypeError: ignore_index is True; it must be an integer, not a bool; in R write NA_integer_ for NA",
    ),
    "NA-of-doubles": (
        "nll$nll_loss(input, target, index_base = 1L, ignore_index = NA_real_)",
        "TypeError: ignore_index is nan; it must be an integer; in R write NA_integer_ for NA",
    ),
    "NA-that-is-not-ignored": (
        "nll$nll_loss(input, c(1L, NA), index_base = 1L)",
        "IndexError: target[1] is -2147483648, outside [1, 4) (ignore_index is -100)",
    ),
    "double-axis": (
        "nll$nll_loss(input, target, index_base = 1L, axis = -1)",
        "TypeError: axis is -1.0; it must be an integer: write -1, or in R -1L",
    ),
    "double-threads": (
        "nll$set_num_threads(2)",
        "TypeError: n is 2.0; it must be an integer: write 2, or in R 2L",
    ),
    "memory-of-r-is-not-written": (
        "nll$nll_loss_backward(1, input, target, index_base = 1L, out = input)",
        "ValueError: out is read-only; it must be writeable",
    ),
}


@pytest.fixture(scope="module")
def conditions(session: Session) -> dict[str, list[str]]:
    """Of each call in MESSAGES the classes of the condition, and its text."""
    program = "input <- matrix(-(1:6) / 4, 2)\ntarget <- c(1L, 2L)\n"
    for call, _ in MESSAGES.values():
        program += f"caught <- tryCatch({call}, condition = identity)\n"
        program += 'cat(class(caught), "|", trimws(conditionMessage(caught)), "\n")\n'
    lines = session.run(program).splitlines()
    assert len(lines) == len(MESSAGES)
    return {name: [part.strip() for part in line.split("|")] for name, line in zip(MESSAGES, lines, strict=True)}


@pytest.mark.parametrize("name", MESSAGES)
def test_error_is_a_condition_with_its_text(name, conditions):
    classes, text = conditions[name]
    assert {"error", "condition"} <= set(classes.split())
    assert text == MESSAGES[name][1]


# ---- the examples that R's torch gives for nn_nll_loss


def test_example_of_a_batch(run_r):
    """Three samples of five classes, targets 2, 1 and 5."""
    printed = run_r(
        """
input <- nll$log_softmax(matrix((7 * seq_len(15)) %% 13 / -4, 3))
bits(nll$nll_loss(input, c(2L, 1L, 5L), index_base = 1L))
"""
    )
    scores = quarters(3, 5)
    log_sums = np.log(np.exp(scores).sum(1))
    assert array_of(printed)[0] == pytest.approx((log_sums - scores[[0, 1, 2], [1, 0, 4]]).mean(), rel=1e-14)


@pytest.mark.parametrize("ignored", [None, 3], ids=["all-kept", "ignore-class-3"])
def test_example_of_images(ignored, run_r):
    """Five images of 8 x 8 pixels, four classes; torch up to 0.17 takes ignore_index = 3 for class 4."""
    choice = "" if ignored is None else f", ignore_index = {ignored}L"
    printed = run_r(
        f"""
input <- nll$log_softmax(array((7 * seq_len(1280)) %% 13 / -4, c(5, 4, 8, 8)))
target <- array(rep(1:4, 80), c(5, 8, 8))
bits(nll$nll_loss(input, target, index_base = 1L{choice}))
"""
    )
    scores, target = quarters(5, 4, 8, 8), np.tile([1, 2, 3, 4], 80).reshape((5, 8, 8), order="F")
    log_sums = np.log(np.exp(scores).sum(1))
    losses = log_sums - np.take_along_axis(scores, target[:, None] - 1, 1)[:, 0]
    assert array_of(printed)[0] == pytest.approx(losses[target != ignored].mean(), rel=1e-14)
