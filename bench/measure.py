# SPDX-License-Identifier: BSD-3-Clause
"""How it is measured: the machine's own limits, values compared before any timing, rounds in random order."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shlex
import statistics
import subprocess
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cases import Case, Data, aligned
from .contestants import Contestant

if TYPE_CHECKING:
    from .room import Room

HERE = Path(__file__).parent
TURN = 5e-3  # seconds: short calls are repeated until a turn takes as long, so that the clock's steps do not matter
PAUSE = 10e-3  # seconds before a turn: OpenMP's threads go on spinning for milliseconds after a region


def build(source: str, target: Path, *flags: str) -> Path:
    """Build a C++ program of this folder with the flags of the kernels, for this machine."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    usual = ["-O3", "-std=c++20", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    usual += ["-mprefer-vector-width=512", "-fopenmp", "-I", "cpp/include"]
    subprocess.run([*compiler, *usual, *flags, f"bench/{source}", "-o", str(target)], cwd=HERE.parent, check=True)
    return target


def lines_of(program: Path, threads: int) -> list[Any]:
    """The JSON values that a program prints, one a line."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    run = subprocess.run([str(program)], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines() if line.strip()]


class Machine:
    """The bandwidths of this machine's memory, by the kernels of machine.cpp on arrays of 512 MiB."""

    size = 512 << 20

    def __init__(self, library: Path, threads: int):
        self.threads = threads
        self.library = ctypes.CDLL(str(library))
        arguments = {
            "read": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
            "fill": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
            "fill_nontemporal": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
            "first_touch": (ctypes.c_size_t, ctypes.c_int, ctypes.c_int),
        }
        for name, types in arguments.items():
            function = getattr(self.library, f"{name}_seconds")
            function.argtypes, function.restype = types, ctypes.c_double
        self.array = aligned((self.size,), np.dtype(np.uint8))
        self.array.fill(1)

    def rate(self, kind: str, threads: int | None = None) -> float:
        """Bytes per second of one pass; 0 where the machine cannot do it."""
        threads = threads or self.threads
        if kind.startswith("first_touch"):
            seconds = self.library.first_touch_seconds(self.size, threads, kind == "first_touch_huge")
        else:
            seconds = getattr(self.library, f"{kind}_seconds")(self.array.ctypes.data, self.size, threads)
        return self.size / seconds if seconds > 0 else 0.0

    def survey(self, repetitions: int) -> dict[str, dict[str, Any]]:
        """Threads -> kind -> what `spread` says of its rates."""
        kinds = ["read", "fill", "fill_nontemporal", "first_touch", "first_touch_huge"]
        result: dict[str, dict[str, Any]] = {}
        for threads in sorted({1, self.threads}):
            rates: dict[str, list[float]] = {kind: [] for kind in kinds}
            for kind in kinds:
                self.rate(kind, threads)  # a virtual machine's own pages may be fresh at their very first use
            for _ in range(repetitions):
                for kind in kinds:
                    rates[kind].append(self.rate(kind, threads))
            result[str(threads)] = {kind: spread(values) for kind, values in rates.items() if all(values)}
        return result


def spread(values: list[float]) -> dict[str, Any]:
    quartiles = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(quartiles[1]), "quartiles": [float(quartiles[0]), float(quartiles[2])]}


class Turn:
    """A call and how often it is repeated at one turn."""

    def __init__(self, call: Callable[[], Any]):
        self.timer = timeit.Timer(call)
        self.call = call
        self.number = 1
        while (seconds := self.timer.timeit(self.number)) < TURN / 2:
            self.number = max(self.number + 1, min(self.number * 10, int(self.number * TURN / max(seconds, 1e-9))))
        self.is_short = seconds < 10 * TURN

    def seconds(self) -> float:
        time.sleep(PAUSE)
        if self.is_short:
            self.call()  # the first call after another contestant's wakes the threads up
        return self.timer.timeit(self.number) / self.number


def check(case: Case, data: Data, contestant: Contestant, call: Callable[[], Any]) -> dict[str, Any]:
    """Compare the results of the first call with the true values."""
    errors = {}
    small, large = contestant.to_numpy(case, call())
    # The true values are rounded to the result's dtype as the last step, so that an exact result has no error.
    true = data.true_small(case)
    if true is not None:
        errors["loss"] = error(small, true.astype(small.dtype))
    if case.array:
        errors["array"] = max(error(large[block], it.astype(large.dtype)) for block, it in data.true_large(case))
    result: dict[str, Any] = {"errors": errors}
    if small is not None and small.ndim == 0:
        result["loss"] = float(small)
    if not all(value <= contestant.allowed_error(case) for value in errors.values()):
        result["wrong"] = case.faults.get(contestant.name, "is off by more than its rounding")
    return result


def error(values: np.ndarray, true: np.ndarray) -> float:
    """The largest error, relative to the largest true magnitude."""
    if values.shape != true.shape:
        return float("inf")
    if np.array_equal(values, true):
        return 0.0
    values, true = values.astype(np.float64), true.astype(np.float64)
    result = np.max(np.abs(values - true)) / np.max(np.abs(true))
    return float(result) if np.isfinite(result) else float("inf")


def measured(case: Case, rooms: list[Room], rounds: int, patience: float, limits: dict[str, Any]) -> dict[str, Any]:
    """The record of one case. nll plays in the first room."""
    checks: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    turns: dict[str, Callable[[], float]] = {}
    for room in rooms:
        found, failed, bound, pairs = room.ask("prepare", case)
        checks |= found
        failures |= failed
        turns |= {name: (lambda room=room, name=name: room.ask("turn", name)) for name in found}
        if room is rooms[0]:
            reads, writes = bound
            pairs_in_turn = pairs
    if "wrong" in checks["nll"]:
        raise SystemExit(f"{case.name}: nll is wrong: {checks['nll']}")
    yardsticks: dict[str, Callable[[], float]] = {}
    if limits["bandwidth"] and not case.cached:
        kinds = ["read"] if writes == 0 else ["read", "fill", "fill_nontemporal"]
        if case.array == "fresh":
            kinds.append("first_touch_huge")
        yardsticks = {kind: (lambda kind=kind: rooms[0].ask("rate", kind)) for kind in kinds}
        yardsticks = {kind: rate for kind, rate in yardsticks.items() if rate()}

    found = play(turns | yardsticks, rounds, dict.fromkeys(turns, patience) | dict.fromkeys(yardsticks, patience / 4))
    own = found["nll"]
    record: dict[str, Any] = {
        "name": case.name,
        "function": case.function,
        "elements": case.elements,
        "shape": case.shape,
        "dtype": case.dtype,
        "array": case.array,
        "readme": case.readme,
        "pairs_in_turn": pairs_in_turn,
        "bound_bytes": {"read": reads, "written": writes},
        "contestants": {},
        "failed": failures,
    }
    for name, checked in checks.items():
        seconds = found[name]
        entry = {"seconds": spread(seconds), "rounds": len(seconds), **checked}
        if name != "nll":
            entry["ratio"] = spread([peer / own for peer, own in zip(seconds, own, strict=False)])
            entry["floor"] = case.floors.get(name)
        record["contestants"][name] = entry
    if yardsticks:
        record["bandwidth"] = bandwidth(reads, writes, own, {kind: found[kind] for kind in yardsticks})
    if case.function != "nll_loss" and case.dtype in limits["arithmetic"]:
        least = limits["arithmetic"][case.dtype] * 1e-9 * case.elements / limits["threads"]
        record["arithmetic"] = {"seconds": least, "share": least / statistics.median(own)}
    return record


def play(turns: dict[str, Callable[[], float]], rounds: int, patience: dict[str, float]) -> dict[str, list[float]]:
    """What each turn says, once a round, in random order. Those whose turns took all their seconds leave earlier."""
    results: dict[str, list[float]] = {name: [] for name in turns}
    left = dict(patience)
    generator = random.Random(0)
    for _ in range(rounds):
        playing = [name for name in turns if left[name] > 0]
        if not playing:
            break
        if "nll" not in playing:
            playing.append("nll")  # beside whom the others are seen
        for name in generator.sample(playing, len(playing)):
            start = time.perf_counter()
            results[name].append(turns[name]())
            left[name] -= time.perf_counter() - start
    return results


def bandwidth(reads: int, writes: int, seconds: list[float], rates: dict[str, list[float]]) -> dict[str, Any]:
    """How near to the memory's own speed these seconds are: the least bytes, each at the rate of its kind, over them.

    Writes count at the faster of plain and non-temporal stores, and once more as a first touch of fresh huge pages.
    """
    fills = [kind for kind in ("fill", "fill_nontemporal") if kind in rates]
    store = max(fills, key=lambda kind: statistics.median(rates[kind]), default=None)

    def share(store: str | None) -> dict[str, Any]:
        least = [reads / rate for rate in rates["read"]]
        if store:
            least = [time + writes / rate for time, rate in zip(least, rates[store], strict=False)]
        return spread([bound / time for bound, time in zip(least, seconds, strict=False)])

    return {
        "bytes_per_second": spread([(reads + writes) / time for time in seconds]),
        "machine": {kind: spread(values) for kind, values in rates.items()},
        "store": store,
        "share": share(store),
        "share_of_first_touch": share("first_touch_huge") if "first_touch_huge" in rates else None,
    }
