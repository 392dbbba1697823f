# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark's list of cases is sound: at a tiny size each contestant finds the true values; rows outlive a run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cases import CASES, tiny
from bench.measure import build
from bench.peers import CONTESTANTS
from bench.report import duration
from bench.room import Room

ROOT = Path(__file__).parents[1]
TINY = {case.name: case for case in map(tiny, CASES)}


@pytest.fixture(scope="module")
def room():
    """All that are installed but PyTorch's compiler, which takes seconds a case. In another process, as they set the
    threads and much else for the whole of it."""
    found = Room([name for name in CONTESTANTS if name != "compile"], 1)
    yield found
    found.close()


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in TINY.items()])
def test_contestants_find_the_true_values(room, case):
    checks, failed, _, _ = room.ask("prepare", case)
    assert "nll" in checks
    assert failed == {}
    assert {name: it for name, it in checks.items() if "wrong" in it} == {}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4e-7, "400 ns"), (2.26e-6, "2.3 µs"), (0.0994, "99 ms"), (0.0996, "100 ms"), (0.123, "123 ms"), (1.26, "1.3 s")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_cases_have_names_of_their_own():
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("source", [file.name for file in (ROOT / "bench").glob("*.cpp")])
def test_programs_compile(source, tmp_path):
    build(source, tmp_path / "program", "-fsyntax-only")


def test_an_interrupted_run_keeps_its_rows(tmp_path):
    file = tmp_path / "results.json"
    options = ["--peers=numpy", "--threads=1", "--rounds=100000", "--patience=0.1", f"--json={file}"]
    run = subprocess.Popen(
        [sys.executable, "-m", "bench", *options, r"--cases=nll_loss.*\(64, 10\)|nll_loss.*\(256, 1000\)"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    head = [run.stdout.readline() for _ in range(3)]
    run.send_signal(signal.SIGINT)
    rest, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    rows = json.loads(file.read_text())["cases"]
    assert [row["name"] for row in rows][:1] == ["nll_loss (64, 10)"]
    assert head[2].startswith(rows[0]["name"])
    assert "interrupted after" in errors
    assert "above 1 nll is faster" in rest
