# SPDX-License-Identifier: BSD-3-Clause
"""``python -m bench``: measures nll beside its peers and prints one table."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from . import report
from .cases import CASES, Case, Data, last_level_cache
from .contestants import CONTESTANTS, Contestant, enter
from .measure import Machine, check, compiler, rounds, spread

ROOT = Path(__file__).parent.parent
LARGE = 256 << 20  # bytes of input; --quick leaves such cases out

# Fresh memory costs more than any arithmetic, and the kind of pages decides how much. NumPy advises its large arrays to
# be huge, which nll takes over; PyTorch does not unless it is told to. So the same cases once more with equal pages for
# both. title -> (environment, the kinds of gradient that it is about)
PAGES = {
    "4 KiB pages for both": ({"NUMPY_MADVISE_HUGEPAGE": "0"}, {"fresh"}),
    "huge pages for both": ({"THP_MEM_ALLOC_ENABLE": "1"}, {"fresh", "out"}),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure nll beside its peers.")
    parser.add_argument("--cases", default="", metavar="REGEX", help="only the cases whose name matches")
    parser.add_argument("--peers", default="torch,numpy,jax", metavar="LIST", help="default: torch,numpy,jax")
    parser.add_argument("--rounds", type=int, metavar="N", help="every contestant once a round (default: 15)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each contestant (default: 2)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, without the largest arrays and the extras")
    parser.add_argument("--no-extras", action="store_true", help="without the runs on other pages and of exactness")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the ratios")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    chosen = parser.parse_args()
    chosen.rounds = chosen.rounds or (3 if chosen.quick else 15)
    return chosen


def progress(total: int) -> Any:
    """A bar where there is a terminal and tqdm; otherwise None, and the cases' names are printed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return nullcontext()
    return tqdm(total=total, file=sys.stderr, unit="round", leave=False) if sys.stderr.isatty() else nullcontext()


def main() -> int:
    chosen = arguments()
    cases = [case for case in CASES if re.search(chosen.cases, case.name)]
    if chosen.quick:
        cases = [case for case in cases if case.elements * case.numpy_dtype.itemsize < LARGE]
    if not cases:
        print(f"no case matches {chosen.cases!r}", file=sys.stderr)
        return 2
    peers = [name for name in chosen.peers.split(",") if name]
    if unknown := [name for name in peers if name not in CONTESTANTS]:
        print(f"no such peer: {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}", file=sys.stderr)
        return 2
    contestants, absent = enter(["nll", *peers], chosen.threads)
    if "nll" in absent:
        print(f"nll is not installed: {absent['nll']}", file=sys.stderr)
        return 2
    for name, reason in absent.items():
        print(f"without {CONTESTANTS[name].title}: {reason}", file=sys.stderr)

    try:
        machine = Machine(chosen.threads)
    except (OSError, subprocess.CalledProcessError) as failure:
        print(f"without bandwidths, as machine.cpp cannot be compiled: {failure}", file=sys.stderr)
        machine = None

    results = surroundings(chosen, contestants, absent)
    if report.busy(results):
        print(report.BUSY, file=sys.stderr)
    results["bandwidth"] = machine.survey(3 if chosen.quick else 9) if machine else {}
    generator = random.Random(0)
    with progress(len(cases) * chosen.rounds) as bar:
        results["cases"] = []
        for case in cases:
            if bar is None:
                print(case.name, file=sys.stderr)
            else:
                bar.set_description(case.name)
            advance = (lambda: None) if bar is None else bar.update
            results["cases"].append(measured(case, contestants, machine, chosen.rounds, generator, advance))
            gc.collect()
    del machine
    extras = not (chosen.quick or chosen.no_extras)
    results["pages"] = other_pages(chosen, cases) if extras and "torch" in peers else []
    # What exact sums cost: the same kernel with them and with a plain sum in double.
    results["exactness"] = run_program("exactness.cpp", chosen.threads) if extras else []
    # dtype -> nanoseconds that a logit's exponential takes from the first-level cache.
    results["arithmetic"] = run_program("arithmetic.cpp", 1)[0] if extras else {}

    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    if chosen.plot:
        from .plot import draw

        draw(results, chosen.plot)
    print(report.markdown(results) if chosen.markdown else report.text(results))
    return 0


def measured(
    case: Case,
    contestants: list[Contestant],
    machine: Machine | None,
    number: int,
    generator: random.Random,
    advance: Callable[[], Any],
) -> dict[str, Any]:
    """The record of one case."""
    data = Data(case)
    calls, checks = {}, {}
    for contestant in contestants:
        call = contestant.prepare(case, data)
        if call is not None:
            calls[contestant.name] = call
            checks[contestant.name] = check(case, data, contestant, call)
    reads, writes = data.bound()
    kinds = []
    if machine and not case.cached:
        kinds = ["read"] if writes == 0 else ["read", "fill", "fill_nontemporal"]
        if case.gradient == "fresh":
            kinds.append("first_touch_huge")
        kinds = [kind for kind in kinds if machine.rate(kind)]
    yardsticks: dict[str, Callable[[], float]] = {}
    if machine:
        yardsticks = {kind: partial(machine.rate, kind) for kind in kinds}
    seconds, rates = rounds(calls, yardsticks, number, generator, advance)

    record: dict[str, Any] = {
        "name": case.name,
        "loss": case.loss,
        "elements": case.elements,
        "shape": case.shape,
        "dtype": case.dtype,
        "gradient": case.gradient,
        "pairs_in_turn": len(data.targets),
        "bound_bytes": {"read": reads, "written": writes},
        "contestants": {},
    }
    for name, values in seconds.items():
        entry = {"seconds": spread(values), **checks[name]}
        if name != "nll":
            entry["ratio"] = spread([peer / own for peer, own in zip(values, seconds["nll"], strict=True)])
            entry["floor"] = case.floors.get(name)
        record["contestants"][name] = entry
    if rates:
        record["bandwidth"] = bandwidth(reads, writes, seconds["nll"], rates)
    return record


def bandwidth(reads: int, writes: int, seconds: list[float], rates: dict[str, list[float]]) -> dict[str, Any]:
    """How near to the memory's own speed these seconds are: the least bytes, each at the rate of its kind, over them.

    Writes count at the faster of plain and non-temporal stores, and once more as a first touch of fresh huge pages.
    """
    fills = [kind for kind in ("fill", "fill_nontemporal") if kind in rates]
    store = max(fills, key=lambda kind: statistics.median(rates[kind]), default=None)

    def share(store: str | None) -> dict[str, Any]:
        least = [reads / rate for rate in rates["read"]]
        if store:
            least = [time + writes / rate for time, rate in zip(least, rates[store], strict=True)]
        return spread([bound / time for bound, time in zip(least, seconds, strict=True)])

    return {
        "bytes_per_second": spread([(reads + writes) / time for time in seconds]),
        "machine": {kind: spread(values) for kind, values in rates.items()},
        "store": store,
        "share": share(store),
        "share_of_first_touch": share("first_touch_huge") if "first_touch_huge" in rates else None,
    }


def other_pages(chosen: argparse.Namespace, cases: list[Case]) -> list[dict[str, Any]]:
    """The cases with a gradient once more, each kind of pages in a process of its own."""
    found = []
    for title, (environment, kinds) in PAGES.items():
        names = [case.name for case in cases if case.gradient in kinds]
        if not names or not sys.platform.startswith("linux"):
            continue
        print(f"once more with {title}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "results.json")
            options = {
                "--cases": "|".join(f"^{re.escape(name)}$" for name in names),
                "--peers": "torch",
                "--rounds": chosen.rounds,
                "--threads": chosen.threads,
                "--json": file,
            }
            command = [sys.executable, "-m", "bench", "--no-extras"]
            command += [f"{option}={value}" for option, value in options.items()]
            subprocess.run(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL, check=True)
            found.append({"title": title, "environment": environment, "cases": json.loads(file.read_text())["cases"]})
    return found


def run_program(source: str, threads: int) -> list[Any]:
    """The JSON values that a C++ program of this folder prints, one a line; built as CMake builds the kernels."""
    print(source, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program")
        flags = ["-O3", "-std=c++20", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
        flags += ["-mprefer-vector-width=512", "-fopenmp", "-I", "cpp/include"]
        subprocess.run([*compiler(), *flags, f"bench/{source}", "-o", str(program)], cwd=ROOT, check=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        run = subprocess.run([str(program)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines() if line.strip()]


def surroundings(chosen: argparse.Namespace, contestants: list[Contestant], absent: dict[str, str]) -> dict[str, Any]:
    """Everything a reader needs to know about the place of the measurement."""
    settings = ("OMP_", "GOMP_", "KMP_", "MKL_", "XLA_", "NPROC", "NUMPY_MADVISE_HUGEPAGE", "THP_MEM_ALLOC_ENABLE")
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
        "versions": {"python": platform.python_version()} | {one.title: one.version for one in contestants},
        "titles": {one.name: one.title for one in contestants},
        "absent": absent,
        "threads": chosen.threads,
        "rounds": chosen.rounds,
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(settings)},
        "openmp_runtimes": openmp_runtimes(),
    }


def cpu_model() -> str:
    file = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", file.read_text(), re.MULTILINE) if file.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def transparent_huge_pages() -> str | None:
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", file.read_text()) if file.exists() else None
    return chosen and chosen[1]


def openmp_runtimes() -> list[str]:
    """The file names of the OpenMP runtimes in this process: two of them would spin against each other."""
    file = Path("/proc/self/maps")
    paths = re.findall(r"/\S*lib(?:gomp|omp|iomp)\S*", file.read_text()) if file.exists() else []
    return sorted({Path(path).name for path in paths})


if __name__ == "__main__":
    raise SystemExit(main())
