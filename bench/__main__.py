# SPDX-License-Identifier: BSD-3-Clause
"""``python -m bench``: measures nll beside its peers and prints one table."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import report
from .cases import CASES, Case, last_level_cache
from .contestants import CONTESTANTS, Contestant, enter
from .measure import compiler, machine_of, measured

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
    return tqdm(total=total, file=sys.stderr, unit="case", leave=False) if sys.stderr.isatty() else nullcontext()


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

    machine = machine_of(chosen.threads)
    results = surroundings(chosen, contestants, absent)
    if report.busy(results):
        print(report.BUSY, file=sys.stderr)
    results["bandwidth"] = machine.survey(3 if chosen.quick else 9) if machine else {}
    del machine
    results["cases"] = []
    with progress(len(cases)) as bar:
        for case in cases:
            if bar is None:
                print(case.name, file=sys.stderr)
            else:
                bar.set_description(case.name)
            names = [one.name for one in contestants]
            results["cases"].append(in_new_process(measured, case, names, chosen.threads, chosen.rounds))
            if bar is not None:
                bar.update()
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


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns. Memory that earlier cases have left to a library's heap would spare it new pages."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


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
