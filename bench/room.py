# SPDX-License-Identifier: BSD-3-Clause
"""A process in which contestants play. ``python -m bench.room`` answers requests on its standard input.

The interpreter may be another one than that of the benchmark, with other versions and another OpenMP runtime; it needs
NumPy and the contestants' own packages. `Room` is the side that asks.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from .cases import Case, Data
from .measure import Machine, Turn, check
from .peers import enter

ROOT = Path(__file__).parent.parent


class Failure(Exception):
    """A room's own error, as it was printed there; or its end."""


class Room:
    """Ask a new process, of a session of its own: an interrupt from the terminal does not reach it."""

    def __init__(self, names: list[str], threads: int, python: str = sys.executable, machine: Path | None = None):
        self.process = subprocess.Popen(
            [python, "-m", "bench.room"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.players: dict[str, dict[str, str]] = {}
        self.absent: dict[str, str] = {}
        try:
            self.players, self.absent, self.openmp_runtimes = self.ask("enter", names, threads, machine)
        except Failure as failure:
            self.absent = dict.fromkeys(names, str(failure).strip().rpartition("\n")[2])
        except BaseException:
            self.close()
            raise

    def ask(self, *request: Any) -> Any:
        try:
            pickle.dump(request, self.process.stdin)
            self.process.stdin.flush()
            failed, answer = pickle.load(self.process.stdout)
        except (EOFError, OSError) as error:
            raise Failure(f"its process ended with status {self.process.wait()}") from error
        if failed:
            raise Failure(answer)
        return answer

    def close(self) -> None:
        """End it, whatever it is doing."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Inside:
    """The answers: a method for each request."""

    def enter(self, names: list[str], threads: int, machine: Path | None) -> Any:
        self.machine_library, self.threads = machine, threads
        self.data: Data | None = None
        self.contestants, absent = enter(names, threads)
        players = {name: {"title": one.title, "version": one.version} for name, one in self.contestants.items()}
        return players, absent, openmp_runtimes()

    @cached_property
    def machine(self) -> Machine:
        return Machine(self.machine_library, self.threads)

    def prepare(self, case: Case) -> Any:
        """(What was found of each contestant that can run the case, why others failed, the least bytes, pairs.)"""
        if self.data is None or self.data.case.source != case.source:
            self.data = None  # two of them may be too large for the memory
            self.data = Data(case)
        self.turns, checks, failed = {}, {}, {}
        for name, contestant in self.contestants.items():
            try:
                if (asked := contestant.asked(case)) and (call := contestant.prepare(case, self.data)):
                    found = check(asked, self.data, contestant, call)
                    self.turns[name], checks[name] = Turn(call), found
            except Exception as error:
                if name == "nll":
                    raise
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        return checks, failed, self.data.bound(case), len(self.data.targets)

    def turn(self, name: str) -> float:
        return self.turns[name].seconds()

    def rate(self, kind: str) -> float:
        return self.machine.rate(kind)


def openmp_runtimes() -> list[str]:
    """The file names of the OpenMP runtimes in this process."""
    file = Path("/proc/self/maps")
    paths = re.findall(r"/\S*lib(?:gomp|omp|iomp)\S*", file.read_text()) if file.exists() else []
    return sorted({Path(path).name for path in paths})


def main() -> None:
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    inside = Inside()
    while True:
        try:
            request, *arguments = pickle.load(questions)
        except EOFError:
            return
        try:
            answer = False, getattr(inside, request)(*arguments)
        except Exception:
            answer = True, traceback.format_exc()
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
