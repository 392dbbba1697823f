# SPDX-License-Identifier: BSD-3-Clause
"""How it is measured: the memory's own speed, rounds in random order, values compared before any timing."""

from __future__ import annotations

import ctypes
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .cases import Case, Data, aligned
from .contestants import Contestant, enter

HERE = Path(__file__).parent
TURN = 5e-3  # seconds: short calls are repeated until a turn takes as long, so that the clock's steps do not matter
PAUSE = 10e-3  # seconds before a turn: OpenMP's threads go on spinning for milliseconds after a region


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "c++"))


class Machine:
    """The bandwidths of this machine's memory, by the kernels of machine.cpp on arrays of 512 MiB."""

    size = 512 << 20

    def __init__(self, threads: int):
        self.threads = threads
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "machine.so")
            flags = ["-O3", "-std=c++20", "-march=native", "-fopenmp", "-shared", "-fPIC"]
            subprocess.run([*compiler(), *flags, str(HERE / "machine.cpp"), "-o", str(library)], check=True)
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


def machine_of(threads: int) -> Machine | None:
    try:
        return Machine(threads)
    except (OSError, subprocess.CalledProcessError) as failure:
        print(f"without bandwidths, as machine.cpp cannot be compiled: {failure}", file=sys.stderr)
        return None


def spread(values: list[float]) -> dict[str, Any]:
    quartiles = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(quartiles[1]), "quartiles": [float(quartiles[0]), float(quartiles[2])]}


class Turn:
    """A call and how often it is repeated at one turn."""

    def __init__(self, call: Callable[[], Any]):
        self.timer = timeit.Timer(call)
        self.call = call
        self.number = 1
        call()
        while (seconds := self.timer.timeit(self.number)) < TURN / 2:
            self.number = max(self.number + 1, min(self.number * 10, int(self.number * TURN / max(seconds, 1e-9))))

    def seconds(self) -> float:
        time.sleep(PAUSE)
        self.call()  # the first call after another contestant's wakes the threads up
        return self.timer.timeit(self.number) / self.number


def rounds(
    calls: dict[str, Callable[[], Any]],
    yardsticks: dict[str, Callable[[], float]],
    number: int,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each call and what each yardstick says, once a round, in random order."""
    turns: dict[str, Callable[[], float]] = {name: Turn(call).seconds for name, call in calls.items()}
    turns |= yardsticks
    results: dict[str, list[float]] = {name: [] for name in turns}
    generator = random.Random(0)
    for _ in range(number):
        for name in generator.sample(list(turns), len(turns)):
            results[name].append(turns[name]())
    return {name: results[name] for name in calls}, {name: results[name] for name in yardsticks}


def check(case: Case, data: Data, contestant: Contestant, call: Callable[[], Any]) -> dict[str, Any]:
    """Compares the first call's loss and gradient with the true values.

    An error beyond the contestant's tolerance ends the benchmark, except where the case expects it from this peer.
    """
    loss, gradient = contestant.to_numpy(case, call())
    tolerance = 0 if case.loss in contestant.rounds_once else contestant.tolerance[case.dtype]
    # The true values are rounded to the result's dtype as the last step, so that an exact result has no error.
    errors = {"loss": error(loss, data.true_loss().astype(loss.dtype))}
    if gradient is not None:
        blocks = [error(gradient[block], true.astype(gradient.dtype)) for block, true in data.true_gradient()]
        errors["gradient"] = max(blocks)
    fault = case.faults.get(contestant.name)
    result: dict[str, Any] = {"errors": errors}
    if loss.ndim == 0:
        result["loss"] = float(loss)
    if not all(value <= tolerance for value in errors.values()):
        if fault is None:
            raise SystemExit(f"{case.name}: {contestant.title} is wrong: {result}")
        result["wrong"] = fault
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


def measured(case: Case, names: list[str], threads: int, number: int) -> dict[str, Any]:
    """The record of one case."""
    contestants, _ = enter(names, threads)
    machine = machine_of(threads)
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
    seconds, rates = rounds(calls, yardsticks, number)

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
