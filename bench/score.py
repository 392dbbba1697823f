# SPDX-License-Identifier: BSD-3-Clause
"""How fast ``nll score`` reads: ``python -m bench.score`` scores 4 GiB of logits in the page cache, beside a reader.

Each round runs all of them: the reader, which takes the largest number of each block through a mapping, in as many
threads; and the command as a process, less the time of one that scores a single sample, which is its start-up.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

CLASSES = 50257
BLOCK = 80  # samples that the reader takes at a time, 16 MB
WAYS = {
    "loss alone": ["--loss-only"],
    "with accuracy and calibration": [],
    "with tables of classes and the worst": ["--per-class", "--worst", "10"],
}


def save(folder: Path, name: str, samples: int) -> tuple[Path, Path]:
    """Save logits and labels of so many samples."""
    generator = np.random.default_rng(0)
    logits, labels = folder / f"{name}.npy", folder / f"{name}-labels.npy"
    some = 3 * generator.standard_normal((64, CLASSES), dtype=np.float32)
    array = np.lib.format.open_memmap(logits, "w+", np.float32, (samples, CLASSES))
    for start in range(0, samples, len(some)):
        array[start : start + len(some)] = some[: samples - start]
    np.save(labels, generator.integers(CLASSES, size=samples))
    return logits, labels


def read(logits: Path, threads: int) -> None:
    array = np.load(logits, mmap_mode="r")
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start: array[start : start + BLOCK].max(), range(0, len(array), BLOCK)))


def score(files: tuple[Path, Path], threads: int, more: list[str]) -> None:
    command = [sys.executable, "-m", "nll", "score", *map(str, files), "--threads", str(threads), *more]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=4, help="of logits (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        samples = int(chosen.gib * 2**30) // (4 * CLASSES)
        files, single = (save(Path(folder), *it) for it in (("logits", samples), ("single", 1)))
        gigabytes = 4e-9 * samples * CLASSES
        reading, starting = [], []
        scoring: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(chosen.rounds):
            reading.append(seconds(lambda: read(files[0], chosen.threads)))
            starting.append(seconds(lambda: score(single, chosen.threads, [])))
            for way, more in WAYS.items():
                whole = seconds(lambda more=more: score(files, chosen.threads, more))
                scoring[way].append(whole - starting[-1])
    bandwidth = gigabytes / statistics.median(reading)
    print(f"{gigabytes:.1f} GB of logits, {chosen.threads} threads, medians of {chosen.rounds} rounds")
    print(f"{'reading':40s} {bandwidth:5.1f} GB/s")
    for way, times in scoring.items():
        ratios = [it / own for it, own in zip(reading, times, strict=True)]
        share = statistics.median(ratios)
        print(f"{way:40s} {gigabytes / statistics.median(times):5.1f} GB/s, {share:4.0%} of reading")
    print(f"{'a single sample, start to end':40s} {statistics.median(starting):5.2f} s")


if __name__ == "__main__":
    main()
