# SPDX-License-Identifier: BSD-3-Clause
"""``python -m bench``: measures nll beside its peers and prints each row as it is measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import report
from .cases import CASES, Case, groups, last_level_cache
from .measure import Machine, build, lines_of, measured
from .peers import CONTESTANTS
from .room import ROOT, Failure, Room

# Fresh memory costs more than any arithmetic, and the kind of pages decides how much. NumPy advises its large arrays to
# be huge, which nll takes over; PyTorch does not unless it is told to. So the same cases once more with equal pages for
# both. title -> (environment, the kinds of large arrays that it is about)
PAGES = {
    "4 KiB pages for both": ({"NUMPY_MADVISE_HUGEPAGE": "0"}, {"fresh"}),
    "huge pages for both": ({"THP_MEM_ALLOC_ENABLE": "1"}, {"fresh", "out"}),
}
LARGE = 32 << 20  # bytes of a large array from which on its pages matter


def arguments() -> argparse.Namespace:
    usual = [name for name in CONTESTANTS if name not in ("nll", "plain")]
    quick = ",".join(name for name in usual if CONTESTANTS[name].usual)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure nll beside its peers; each row is printed as it is measured. Ctrl-C ends the run, and "
        "what was measured is kept.",
    )
    parser.add_argument("--cases", default="", metavar="REGEX", help="only the cases whose name matches")
    parser.add_argument(
        "--peers",
        metavar="LIST",
        help=f"default: {','.join(usual)} ({quick} with --quick); NAME@PYTHON plays in another interpreter, where it "
        "may have another version",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="every contestant once a round (default: 15)")
    parser.add_argument(
        "--patience", type=float, metavar="S", help="a contestant leaves a case after so many seconds (default: 0.45)"
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each contestant (default: 2)")
    parser.add_argument("--quick", action="store_true", help="the rows of the README alone, in two minutes")
    parser.add_argument("--no-extras", action="store_true", help="without the runs on other pages and of exactness")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured, row by row")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the ratios")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    chosen = parser.parse_args()
    chosen.rounds = chosen.rounds or (5 if chosen.quick else 15)
    chosen.patience = chosen.patience or (0.4 if chosen.quick else 0.45)
    chosen.peers = (chosen.peers if chosen.peers is not None else quick if chosen.quick else ",".join(usual)).split(",")
    return chosen


def main() -> int:
    chosen = arguments()
    cases = [case for case in CASES if re.search(chosen.cases, case.name) and (case.readme or not chosen.quick)]
    if not cases:
        print(f"no case matches {chosen.cases!r}", file=sys.stderr)
        return 2
    chosen.peers = [name for name in chosen.peers if name]
    if unknown := [name for name in chosen.peers if name.partition("@")[0] not in CONTESTANTS]:
        print(f"no such peer: {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = surroundings(chosen)
    if report.busy(results):
        print(report.BUSY, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        try:
            measure_all(chosen, cases, results, Path(folder))
        except KeyboardInterrupt:
            results["interrupted"] = True
            print(f"\ninterrupted after {len(results['cases'])} of {len(cases)} cases", file=sys.stderr)
        except Failure as failure:
            results["interrupted"] = str(failure)
            print(failure, file=sys.stderr)
    save(chosen, results)
    if not results["cases"]:
        return 1
    print("\n" + report.after(results, chosen.markdown))
    if chosen.plot:
        from .plot import draw

        draw(results, chosen.plot)
    return 1 if "interrupted" in results else 0


def measure_all(chosen: argparse.Namespace, cases: list[Case], results: dict[str, Any], folder: Path) -> None:
    """Add everything to the results as it is found."""
    library = None
    if any(case.function != "nll_loss" for case in cases) and (program := built("arithmetic.cpp", folder / "exps")):
        results["arithmetic"] = lines_of(program, 1)[0]
    if not all(case.cached for case in cases) and (
        library := built("machine.cpp", folder / "machine.so", "-shared", "-fPIC")
    ):
        results["bandwidth"] = Machine(library, chosen.threads).survey(3 if chosen.quick else 9)
    table = None
    for group in groups(cases):
        with ExitStack() as stack:
            rooms = []
            for names, python in players(chosen.peers):
                rooms.append(Room(names, chosen.threads, python, library))
                stack.callback(rooms[-1].close)
            if "nll" in rooms[0].absent:
                raise Failure(f"nll cannot play: {rooms[0].absent['nll']}")
            if table is None:
                introduce(chosen, results, rooms)
                colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
                table = report.Table(results, [case.name for case in cases], chosen.markdown, colour)
                print(table.head(), flush=True)
            for case in group:
                whisper(case.name)
                here = [room for room in rooms if room.players]
                results["cases"].append(measured(case, here, chosen.rounds, chosen.patience, results))
                whisper("")
                print(table.row(results["cases"][-1]), flush=True)
                save(chosen, results)
    if chosen.quick or chosen.no_extras:
        return
    if "torch" in chosen.peers:
        other_pages(chosen, cases, results["pages"])
    # What exact sums cost: the same kernel with them and with a plain sum in double.
    if program := built("exactness.cpp", folder / "exactness"):
        results["exactness"] = lines_of(program, chosen.threads)


def players(peers: list[str]) -> list[tuple[list[str], str]]:
    """Who plays in which process, and its interpreter; nll and most of the others in the first."""
    together, apart = ["nll"], []
    for name in peers:
        kind, at, python = name.partition("@")
        if at or CONTESTANTS[kind].apart:
            apart.append(([name], python or sys.executable))
        else:
            together.append(name)
    return [([*together, "plain"], sys.executable), *apart]


def introduce(chosen: argparse.Namespace, results: dict[str, Any], rooms: list[Room]) -> None:
    """Note who is here, in the order of the columns."""
    found = {name: player for room in rooms for name, player in room.players.items()}
    for name in ["nll", *chosen.peers, "plain"]:
        title = CONTESTANTS[name.partition("@")[0]].title
        if player := found.get(name):
            short = ".".join(player["version"].split(".")[:2])
            results["titles"][name] = f"{title} {short}" if name != "nll" and short else title
            results["versions"] |= {title: player["version"]} if short else {}
        else:
            results["titles"][name] = title
    for room in rooms:
        results["absent"] |= room.absent
    results["openmp_runtimes"] = [room.openmp_runtimes for room in rooms if room.players]


def built(source: str, target: Path, *flags: str) -> Path | None:
    """Build a C++ program of this folder; None without a compiler."""
    try:
        return build(source, target, *flags)
    except OSError as failure:
        print(f"without {source}: {failure}", file=sys.stderr)
        return None


def whisper(text: str) -> None:
    """Say on a terminal what is being measured, until the next line is written."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def save(chosen: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write the file as a whole: it is good even if the run is killed."""
    if chosen.json:
        new = chosen.json.with_name(chosen.json.name + ".new")
        new.write_text(json.dumps(results, indent=1) + "\n")
        new.replace(chosen.json)


def other_pages(chosen: argparse.Namespace, cases: list[Case], found: list[dict[str, Any]]) -> None:
    """The large losses with a gradient once more, each kind of pages in processes of their own."""
    large = [case for case in cases if case.is_loss and case.elements * case.numpy_dtype.itemsize > LARGE]
    plain = [case for case in large if case.plain is None and case.dtype == "float32" and not case.padding]
    for title, (environment, kinds) in PAGES.items():
        names = [case.name for case in plain if case.array in kinds]
        if not names or not sys.platform.startswith("linux"):
            continue
        print(f"once more with {title}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "results.json")
            options = {
                "--cases": "|".join(f"^{re.escape(name)}$" for name in names),
                "--peers": "torch",
                "--rounds": chosen.rounds,
                "--patience": chosen.patience,
                "--threads": chosen.threads,
                "--json": file,
            }
            command = [sys.executable, "-m", "bench", "--no-extras"]
            command += [f"{option}={value}" for option, value in options.items()]
            subprocess.run(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL, check=True)
            found.append({"title": title, "environment": environment, "cases": json.loads(file.read_text())["cases"]})


def surroundings(chosen: argparse.Namespace) -> dict[str, Any]:
    """Everything a reader needs to know about the place of the measurement; and room for what will be measured."""
    settings = ("OMP_", "GOMP_", "KMP_", "MKL_", "XLA_", "NUMBA_", "NPROC", "NUMPY_MADVISE_HUGEPAGE", "THP_MEM_ALLOC")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "last_level_cache": last_level_cache(),
            "system": platform.platform(),
            "transparent_huge_pages": transparent_huge_pages(),
            "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
        "versions": {"Python": platform.python_version()},
        "titles": {},
        "absent": {},
        "threads": chosen.threads,
        "rounds": chosen.rounds,
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(settings)},
        "bandwidth": {},
        "arithmetic": {},  # dtype -> nanoseconds that a logit's exponential takes from the first-level cache
        "cases": [],
        "pages": [],
        "exactness": [],
    }


def cpu_model() -> str:
    file = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", file.read_text(), re.MULTILINE) if file.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def transparent_huge_pages() -> str | None:
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", file.read_text()) if file.exists() else None
    return chosen and chosen[1]


if __name__ == "__main__":
    raise SystemExit(main())
