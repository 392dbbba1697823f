# SPDX-License-Identifier: BSD-3-Clause
"""Random problems against exact oracles, or against PyTorch, until one differs.

    python tests/differential.py public --calls 200000      # every public function of nll against the definitions
    python tests/differential.py pytorch --calls 100000     # both losses against PyTorch in double precision

A problem that differs is told with the command that draws it again. --seed begins another run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

MODES = {"public": "support.public_calls", "pytorch": "support.pytorch"}


def outcomes(mode: str, seed: int, first: int = 0) -> Iterator[str | Exception]:
    """Checks problems without end, each drawn from the seed and its number: their kinds, or how they differ."""
    check = importlib.import_module(MODES[mode]).check
    for number in itertools.count(first):
        try:
            yield check(np.random.default_rng([seed, number]))
        except Exception as error:
            error.add_note(f"again by: python tests/differential.py {mode} --seed {seed} --first {number} --calls 1")
            yield error


def assert_none_differs(mode: str, seed: int, calls: int) -> None:
    for outcome in itertools.islice(outcomes(mode, seed), calls):
        if isinstance(outcome, Exception):
            raise outcome


def until(seconds: float, values: Iterator[Any]) -> Iterator[Any]:
    end = time.monotonic() + seconds
    return itertools.takewhile(lambda _: time.monotonic() < end, values)


def main() -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=10_000, help="problems at most")
    parser.add_argument("--seconds", type=float, default=np.inf, help="time at most")
    parser.add_argument("--first", type=int, default=0, help="the number of the first problem")
    given = parser.parse_args()
    begin, kinds, failures = time.monotonic(), Counter[str](), 0
    drawn = itertools.islice(outcomes(given.mode, given.seed, given.first), given.calls)
    with contextlib.suppress(KeyboardInterrupt):
        for outcome in until(given.seconds, drawn):
            if isinstance(outcome, Exception):
                failures += 1
                traceback.print_exception(outcome, limit=-1)
            else:
                kinds[outcome] += 1
    for kind, count in sorted(kinds.items()):
        print(f"{count:8} {kind}")
    if given.mode == "pytorch":
        print(*importlib.import_module(MODES[given.mode]).report(), sep="\n")
    print(f"{kinds.total() + failures:8} problems in {time.monotonic() - begin:.0f} s, {failures} differ")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
