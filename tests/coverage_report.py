# SPDX-License-Identifier: BSD-3-Clause
"""Tells what share of lines and branches the tests execute, and compares the rest with the list of what none can.

    python tests/coverage_report.py cpp.json python.json

The files are gcovr's and coverage.py's, in JSON; `.ci/trust coverage` writes both. Each line that no test executes
must be named, by its text and with a reason, in tests/uncovered.toml, as often as the file has such lines with that
text, and each that is named there must be such a line: otherwise they are listed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GAPS = Path(__file__).with_name("uncovered.toml")
PARTS = {"core": "cpp/", "bindings": "python/bindings/", "Python": "python/nll/"}


class Coverage(NamedTuple):
    """What is known of one source file."""

    lines: dict[int, bool]  # whether a line was executed
    branches: Counter[bool]  # how many ways out of a line were taken, and how many not


def coverage_of_cpp(report: dict) -> dict[str, Coverage]:
    """Adds up the instances of a template, each of which gcovr may tell by itself."""
    found = {}
    for file in report["files"]:
        lines: dict[int, bool] = defaultdict(bool)
        taken: dict[tuple[int, int], bool] = defaultdict(bool)
        for line in file["lines"]:
            if line.get("gcovr/noncode") or line.get("gcovr/excluded"):
                continue
            number = line["line_number"]
            lines[number] |= line["count"] > 0
            for index, branch in enumerate(line.get("branches", ())):
                taken[number, index] |= branch["count"] > 0
        found[file["file"]] = Coverage(dict(lines), Counter(taken.values()))
    return found


def coverage_of_python(report: dict) -> dict[str, Coverage]:
    found = {}
    for path, file in report["files"].items():
        lines = dict.fromkeys(file["executed_lines"], True) | dict.fromkeys(file["missing_lines"], False)
        branches = Counter({True: len(file["executed_branches"]), False: len(file["missing_branches"])})
        found[f"python/nll/{path.rpartition('/nll/')[2]}"] = Coverage(lines, branches)
    return found


def share(counts: Counter[bool]) -> str:
    return f"{counts[True]} of {counts.total()} ({100 * counts[True] / max(counts.total(), 1):.1f} %)"


def uncovered(found: dict[str, Coverage]) -> dict[tuple[str, str], list[int]]:
    """Maps a file and the text of a line to the numbers of lines with that text that no test executes."""
    texts = defaultdict(list)
    for file, coverage in sorted(found.items()):
        source = (ROOT / file).read_text().splitlines()
        for number, executed in sorted(coverage.lines.items()):
            if not executed:
                texts[file, source[number - 1].strip()].append(number)
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cpp", type=Path)
    parser.add_argument("python", type=Path)
    given = parser.parse_args()
    found = coverage_of_cpp(json.loads(given.cpp.read_text()))
    found |= coverage_of_python(json.loads(given.python.read_text()))
    for part, prefix in PARTS.items():
        own = [coverage for file, coverage in found.items() if file.startswith(prefix)]
        lines = Counter(executed for coverage in own for executed in coverage.lines.values())
        branches = sum((coverage.branches for coverage in own), Counter())
        print(f"{part}: lines {share(lines)}, branches {share(branches)}")
    missed = uncovered(found)
    named: Counter[tuple[str, str]] = Counter()
    varying: Counter[tuple[str, str]] = Counter()
    for gap in tomllib.loads(GAPS.read_text())["gap"]:
        (varying if gap.get("varies") else named).update((gap["file"], line) for line in gap["lines"])
    counted = Counter({key: len(numbers) for key, numbers in missed.items()})
    named += (counted - named) & varying
    for (file, line), more in sorted((counted - named).items()):
        numbers = ",".join(map(str, missed[file, line]))
        print(f"{file}:{numbers}: no test executes this, {more} times more than {GAPS.name} names it: {line}")
    for (file, line), more in sorted((named - counted).items()):
        print(f"{file}: executed or gone, but {GAPS.name} names it {more} times too often: {line}")
    print(f"lines that no test executes: {counted.total()}, named with a reason: {named.total()}")
    return int(counted != named)


if __name__ == "__main__":
    sys.exit(main())
