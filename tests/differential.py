# SPDX-License-Identifier: BSD-3-Clause
"""Random problems against exact oracles, or against PyTorch, until one differs.

    python tests/differential.py public --calls 200000      # every public function of nll against the definitions
    python tests/differential.py pytorch --calls 100000     # both losses against PyTorch in double precision

A problem that differs is told with the command that draws it again. --seed begins another run.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

MODES = {"public": "support.public_calls", "pytorch": "support.pytorch"}


def run(mode: str, *, seed: int, calls: int, seconds: float = np.inf, first: int = 0) -> Counter[str]:
    """Checks problems, each drawn from the seed and its number; counts them by kind. The first that fails raises."""
    check: Callable[[np.random.Generator], str] = importlib.import_module(MODES[mode]).check
    kinds: Counter[str] = Counter()
    end = time.monotonic() + seconds
    for number in range(first, first + calls):
        if time.monotonic() > end:
            break
        try:
            kinds[check(np.random.default_rng([seed, number]))] += 1
        except BaseException as error:
            error.add_note(f"again by: python tests/differential.py {mode} --seed {seed} --first {number} --calls 1")
            raise
    return kinds


def main() -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=np.inf)
    parser.add_argument("--first", type=int, default=0, help="the number of the first problem")
    given = parser.parse_args()
    begin = time.monotonic()
    kinds = run(**vars(given))
    for kind, count in sorted(kinds.items()):
        print(f"{count:8} {kind}")
    print(f"{kinds.total():8} problems in {time.monotonic() - begin:.0f} s, none differs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
