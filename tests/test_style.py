# SPDX-License-Identifier: BSD-3-Clause
"""The tools of the house have nothing to say: layout of C++ and Python, lint, types, docstrings.

`.pre-commit-config.yaml` runs the same ones before a commit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import clang_format
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "python/nll").rglob("*.py"))
CPP = sorted(
    str(path.relative_to(ROOT))
    for folder in ("cpp", "python/bindings", "tests", "bench")
    for path in (ROOT / folder).rglob("*.[ch]pp")
)


def assert_silent(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["ruff", "check"], id="ruff"),
        pytest.param(
            ["ruff", "check", "--select=E501", "--line-length=100", "python/nll"], id="columns-of-the-package"
        ),
        pytest.param(["ruff", "format", "--diff"], id="ruff-format"),
        pytest.param(["mypy"], id="mypy"),
        pytest.param(["numpydoc", "lint", *PACKAGE], id="docstrings"),
    ],
)
def test_python(arguments):
    assert_silent(sys.executable, "-m", *arguments)


def test_layout_of_cpp():
    assert_silent(clang_format.get_executable("clang-format"), "--dry-run", "--Werror", *CPP)
