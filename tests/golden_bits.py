# SPDX-License-Identifier: BSD-3-Clause
"""Records the bits of some thousand results, to compare those of a later build with.

    python tests/golden_bits.py record golden.json
    python tests/golden_bits.py compare golden.json

A problem is one call of a public function. Its name tells all about it, and seeds its random
numbers. The file holds {instruction set: {name: hash}}. `compare` lists the problems that have
other bits than recorded, and then exits with 1. Both commands do so, too, if a problem has other
bits on two threads than on one, or in memory that is given than in new memory. `--only` selects
names by a regular expression. With a selection, `record` keeps all else that its file holds.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import nll
from support import layouts

Axes = dict[str, list[Any]]
Hashes = dict[str, str]  # by the names of results

INSTRUCTION_SETS = ["x86-64", "x86-64-v3", "x86-64-v4"]
LAYOUTS = {  # dimensions of the input, and its memory
    "rows": (2, layouts.c_order),
    "fortran": (2, layouts.fortran),
    "reversed": (2, layouts.negative_strides),
    "every-second": (2, layouts.every_second),
    "images": (3, layouts.c_order),
    "channels-last": (3, layouts.channels_last),
    "transposed": (4, layouts.transposed_images),
    "cropped": (4, layouts.cropped),
    "repeated-sample": (2, layouts.zero_stride_batch),
    "repeated-class": (2, lambda array: np.broadcast_to(array[:, :1], array.shape)),
}

AROUND = [n + i for n in (32, 64, 128, 2048) for i in (-1, 0, 1)]
ORDINARY = ["usual", "confident", "offset", "far", "masked", "ties", "level"]
INPUT: Axes = {
    "dtype": ["float16", "bfloat16", "float32", "float64"],
    "classes": [1, 2, 3, 10, 16, 17, 100, 130, 160, 1000, *AROUND, 4096, 4097, 70_000],
    "samples": [1, 7, 15, 16, 17, 64, 127, 128, 129, 511, 512, 513, 1500],
    "layout": list(LAYOUTS),
    "values": [*ORDINARY, "wide", "subnormal", "infinite", "all-masked", "nan"],
}
LABELS: Axes = {
    "weight": ["none", "float16", "float32", "float64", "int64", "huge", "zeros"],
    "sample_weight": ["none", "float32", "int64"],
    "reduction": ["none", "sum", "mean"],
    "ignored": ["nothing", "unhit", "some", "some-nan", "class", "all"],
    "target": ["int64", "int32", "uint8"],
    "index_base": [0, 1],
    "empty": ["nan", "zero"],
}
SMOOTHING: Axes = {"label_smoothing": [0.0, 0.1, 1.0]}
RESULT: Axes = {"result": [None, "float32", "float64"]}
GRADIENT: Axes = {"grad_output": [1.0, -3.7, 1e30, 1e-30, 1e200]}
REDUCED: Axes = {"reduction": ["sum", "mean"]}
APART: Axes = {"out": ["fresh", "given", "other-order"]}
IN_PLACE: Axes = {"out": [*APART["out"], "in-place"]}
NLL_LOSS, CROSS_ENTROPY = INPUT | LABELS, INPUT | LABELS | SMOOTHING
FUNCTIONS = {
    "nll_loss": NLL_LOSS | RESULT,
    "nll_loss_backward": NLL_LOSS | GRADIENT | APART,
    "nll_loss_value_and_grad": NLL_LOSS | GRADIENT | APART | REDUCED,
    "cross_entropy": CROSS_ENTROPY | RESULT,
    "cross_entropy_backward": CROSS_ENTROPY | GRADIENT | IN_PLACE,
    "cross_entropy_value_and_grad": CROSS_ENTROPY | GRADIENT | IN_PLACE | REDUCED,
    "softmax": INPUT | IN_PLACE,
    "log_softmax": INPUT | IN_PLACE,
    "logsumexp": INPUT | RESULT,
}

MOST_ELEMENTS = 300_000  # in a problem that is not large
FEWEST_FOR_THREADS = 16_384  # elements: smaller calls have one thread in any case
MANY_SAMPLES = [("rows", 20_011, 10), ("images", 30_000, 3), ("fortran", 9001, 33)]
LARGE = [  # layout, bytes and classes of results that are larger than the caches
    ("rows", 17_000_000, 2),
    ("rows", 17_000_000, 17),
    ("rows", 17_000_000, 65),
    ("rows", 35_000_000, 1100),  # new pages from the system
    ("rows", 17_000_000, 70_001),
    ("fortran", 17_000_000, 130),
    ("channels-last", 17_000_000, 19),
    ("images", 35_000_000, 19),
    ("rows", 17_000_000, 10_000_000),  # one row
]
LARGE_FUNCTIONS = [  # one of each computes a large problem
    ["nll_loss_backward", "nll_loss_value_and_grad"],
    ["cross_entropy_backward", "cross_entropy_value_and_grad"],
    ["softmax", "log_softmax"],
]


class Problem(NamedTuple):
    """What to compute. Axes that the function does not have are as here."""

    function: str
    dtype: str
    classes: int
    samples: int
    layout: str
    weight: str = "none"
    sample_weight: str = "none"
    label_smoothing: float = 0.0
    reduction: str = "mean"
    values: str = "usual"
    ignored: str = "nothing"
    target: str = "int64"
    index_base: int = 0
    empty: str = "nan"
    result: str | None = None
    grad_output: float = 1.0
    out: str = "fresh"

    @property
    def name(self) -> str:
        """Tells all but `out`, which no bit depends on."""
        bare = dict.fromkeys(["function", "dtype", "layout", "reduction", "values"], "")
        prefix = bare | {"classes": "C=", "samples": "N="}
        named = {"function", "weight", "label_smoothing", *FUNCTIONS[self.function]} - {"out"}
        parts = {axis: value for axis, value in self._asdict().items() if axis in named}
        return " ".join(f"{prefix.get(axis, axis + '=')}{value}" for axis, value in parts.items())

    @property
    def ways(self) -> dict[str, tuple[int, str]]:
        """Maps names of results, which have to be the same, to their threads and memory."""
        size, out = self.samples * self.classes, self.out
        ways = [(n, out) for n in ([1, 2] if size >= FEWEST_FOR_THREADS else [1])]
        if size > MOST_ELEMENTS:
            last = "aligned" if self.function.startswith("nll") else "in-place"
            ways = [(1, "fresh"), (2, "misaligned"), (2, last)]
        return {f"{self.name} threads={threads} out={out}": (threads, out) for threads, out in ways}

    @property
    def ignore_index(self) -> int | None:
        label = 255 if self.target == "uint8" else -100
        return {"nothing": None, "class": self.index_base}.get(self.ignored, label)


# ---- the problems


def is_possible(choice: dict[str, Any], most_elements: float) -> bool:
    """Says whether these go together. What is not chosen goes with anything."""
    repeats = choice.get("layout", "").startswith("repeated")
    in_that_layout = choice.get("out") in ("given", "in-place")
    size = choice.get("samples", 1) * choice.get("classes", 1)
    return size <= most_elements and not (repeats and in_that_layout)


def drawn(function: str, most_elements: float = MOST_ELEMENTS, **fixed: Any) -> Problem:
    """Draws what is not fixed, in the same way for the same arguments."""
    rng = random.Random(f"{function} {fixed}")
    axes = FUNCTIONS[function]
    fixed = {axis: value for axis, value in fixed.items() if axis in axes}
    while True:
        choice = {axis: rng.choice(values) for axis, values in axes.items()} | fixed
        if is_possible(choice, most_elements):
            return Problem(function, **choice)


def crossed(function: str, axes: Axes, **fixed: Any) -> Iterator[Problem]:
    """Crosses the axes; the function need not have them."""
    own = {axis: values for axis, values in axes.items() if axis in FUNCTIONS[function]}
    for choice in itertools.product(*own.values()):
        yield drawn(function, **dict(zip(own, choice, strict=True)), **fixed)


def pairs(function: str) -> Iterator[Problem]:
    """Yields problems in which each value of an axis meets each value of every other axis."""
    met: set[tuple[Any, ...]] = set()
    axes = FUNCTIONS[function]
    for one, other in itertools.combinations(axes, 2):
        for pair in itertools.product(axes[one], axes[other]):
            fixed = dict(zip((one, other), pair, strict=True))
            if tuple(fixed.items()) not in met and is_possible(fixed, MOST_ELEMENTS):
                problem = drawn(function, **fixed)
                met.update(itertools.combinations([(a, getattr(problem, a)) for a in axes], 2))
                yield problem


def large() -> Iterator[Problem]:
    """Yields problems whose results are written past the caches."""
    for (layout, size, classes), dtype in itertools.product(LARGE, INPUT["dtype"]):
        rng = random.Random(f"{layout} {size} {classes} {dtype}")
        elements = size // np.dtype(dtype).itemsize
        shape = {"samples": elements // classes or 1, "classes": min(classes, elements)}
        ignored = "some" if shape["samples"] > 1 else "unhit"
        fixed = {"layout": layout, "dtype": dtype, "ignored": ignored} | shape
        for functions in LARGE_FUNCTIONS:
            yield drawn(rng.choice(functions), math.inf, values=rng.choice(ORDINARY), **fixed)


def cancelling() -> Iterator[Problem]:
    """Yields problems whose results are small differences, so that rounding hides no bit."""
    kernels = {axis: INPUT[axis] for axis in ("dtype", "classes")}
    kernels["layout"] = ["rows", "fortran", "images", "channels-last", "every-second"]
    level = {"values": "level", "weight": "none", "sample_weight": "none"}
    level |= {"reduction": "sum", "grad_output": 1.0}
    yield from crossed("cross_entropy_backward", kernels, **level, label_smoothing=1.0)
    rolled: dict[str, Any] = {"values": "rolled", "weight": "alternating", "reduction": "sum"}
    rolled |= {"ignored": "unhit", "label_smoothing": 0.0, "sample_weight": "none"}
    for classes in INPUT["classes"][1:]:
        kernels |= {"classes": [classes], "result": [None, "float32"]}
        samples = 64 if classes < 5000 else 4
        yield from crossed("cross_entropy", kernels, **rolled, samples=samples)


def problems() -> Iterator[Problem]:
    """Yields all problems, and first those that take longest."""
    yield from large()
    for function in FUNCTIONS:
        kinds = {axis: INPUT[axis] for axis in ("dtype", "values")}
        if "nll" not in function:  # a row that threads share
            row = {"layout": "rows", "samples": 1, "ignored": "unhit"}
            yield from crossed(function, kinds, **row, classes=300_000)
            yield from crossed(function, kinds | SMOOTHING, **row, classes=70_000)
        kinds = {"dtype": INPUT["dtype"], "target": LABELS["target"]}
        for layout, samples, classes in MANY_SAMPLES:
            yield from crossed(function, kinds, layout=layout, samples=samples, classes=classes)
    kernels = {axis: INPUT[axis] for axis in ("dtype", "classes", "layout")}
    yield from crossed("cross_entropy_value_and_grad", kernels)
    yield from cancelling()
    for function in FUNCTIONS:
        yield from pairs(function)


# ---- their arrays


def logits_of(problem: Problem, rng: np.random.Generator, classes: np.ndarray) -> np.ndarray:
    """Draws logits (n, C), in float64, of samples whose labels are these classes (n,)."""
    shape = count, _ = len(classes), problem.classes
    x, limits = 3 * rng.standard_normal(shape), ml_dtypes.finfo(problem.dtype)
    offsets = [-10_000, -1000, -400, 400, 1000, 10_000]
    some, others = rng.random(count) < 0.2, rng.integers(problem.classes, size=count)
    sample = np.arange(count)
    match problem.values:
        case "confident":
            x[sample, np.where(some, others, classes)] += rng.uniform(20, 40, count)
        case "offset":
            x += rng.choice(offsets, (count, 1))
        case "far":
            x += rng.choice(offsets)
        case "masked":
            x[rng.random(shape) < 0.1] = -np.inf
            x[rng.random(shape) < 0.1] = float(limits.min)
            x[sample, others] = 1
        case "ties":
            x = np.round(x)
        case "level":
            x = 1 + float(limits.eps) * rng.integers(4, size=shape)
        case "rolled":
            x[sample, classes] += rng.uniform(0, 20, count)
            x[1::2] = np.roll(x[::2], 1, axis=1)
        case "wide":
            x = np.ldexp(x, rng.integers(-30, 10, shape))
        case "subnormal":
            x *= 9 * float(limits.smallest_subnormal)
        case "infinite" | "nan" as kind:
            x[sample, others] = np.where(some, np.inf if kind == "infinite" else np.nan, 1)
        case "all-masked":
            x[some] = -np.inf
    return x


def weight_of(kind: str, count: int, rng: np.random.Generator) -> np.ndarray | None:
    """Draws numbers (count,), some of them 0 or negative."""
    weight = np.where(rng.random(count) < 0.2, 0, rng.uniform(-0.5, 3, count))
    match kind:
        case "none":
            return None
        case "zeros":
            return np.zeros(count)
        case "alternating":
            return (-1.0) ** np.arange(count)
        case "huge":
            return weight * 2.0**40
        case "int64":
            return (100 * weight).astype(np.int64)
    return weight.astype(kind)


def laid_out(problem: Problem, array: np.ndarray) -> np.ndarray:
    """Shapes (N, C) to (N, C), (B, C, D) or (B, C, H, W) in the problem's layout; (N,) likewise."""
    rank, memory = LAYOUTS[problem.layout]
    extents, rest = [], problem.samples
    for _ in range(rank - 2):
        extents.append(next((n for n in (2, 3, 7) if rest % n == 0), 1))
        rest //= extents[-1]
    array = array.reshape(*extents, rest, *array.shape[1:])
    if array.ndim < rank:
        return array if problem.layout.startswith("repeated") else memory(array)
    array = memory(np.moveaxis(array, -1, 1))
    return np.moveaxis(array, 1, -1) if problem.layout == "channels-last" else array


def arrays_of(problem: Problem) -> tuple[np.ndarray, dict[str, Any]]:
    """Draws logits (N, C), and the other arrays as they are passed. Many samples repeat some."""
    rng = np.random.default_rng(zlib.crc32(problem.name.encode()))
    count = min(problem.samples, MOST_ELEMENTS // problem.classes | 1)
    most_classes = 200 if problem.target == "uint8" else problem.classes
    classes = rng.integers(min(problem.classes, most_classes), size=count)
    if problem.values == "rolled":
        classes[::2] = classes[::2] % (problem.classes - 1) // 2 * 2
        classes[1::2] = classes[::2] + 1
    labels = (classes + problem.index_base).astype(problem.target)
    logits = logits_of(problem, rng, classes).astype(problem.dtype)
    if problem.ignored in ("some", "some-nan", "all"):
        ignored = rng.random(count) < (1 if problem.ignored == "all" else 0.25)
        labels[ignored] = problem.ignore_index
        logits[ignored] = np.nan if problem.ignored == "some-nan" else logits[ignored]
    grad_output: Any = problem.grad_output
    if problem.reduction == "none":
        numbers = grad_output * rng.standard_normal(problem.samples)
        fits = abs(grad_output) < 1000
        grad_output = laid_out(problem, numbers.astype(problem.dtype if fits else "float64"))
    logits = np.resize(logits, (problem.samples, problem.classes))
    sample_weight = weight_of(problem.sample_weight, problem.samples, rng)
    return logits, {
        "target": laid_out(problem, np.resize(labels, problem.samples)),
        "weight": weight_of(problem.weight, problem.classes, rng),
        "sample_weight": None if sample_weight is None else laid_out(problem, sample_weight),
        "grad_output": grad_output,
    }


def out_of(problem: Problem, input: np.ndarray, out: str) -> np.ndarray | None:
    """Makes memory for a result."""
    match out:
        case "given":
            return laid_out(problem, np.full((problem.samples, problem.classes), 7, input.dtype))
        case "other-order":
            return np.full_like(input, 7, order="F" if input.flags.c_contiguous else "C")
        case "in-place":
            return input
        case "aligned" | "misaligned":
            line = 64 // input.itemsize
            frame = np.full(input.size + 2 * line, 7, input.dtype)
            start = -frame.ctypes.data // input.itemsize % line + (out == "misaligned")
            return frame[start : start + input.size].reshape(input.shape)
    return None


# ---- their results


def hash_of(results: tuple[Any, ...]) -> str:
    """Hashes dtypes, shapes and bits. All NaN count as one."""
    digest = hashlib.sha256()
    for result in map(np.ascontiguousarray, results):
        special = np.array([np.inf, np.nan], result.dtype)
        bits, (infinity, nan) = (array.view(f"u{array.itemsize}") for array in (result, special))
        is_nan = bits << 1 > infinity << 1
        digest.update(f"{result.dtype} {result.shape}".encode())
        digest.update(np.where(is_nan, nan, bits) if is_nan.any() else bits)
    return digest.hexdigest()[:16]


def hashes_of(problem: Problem) -> Hashes:
    """Computes a problem in each way."""
    logits, arrays = arrays_of(problem)
    function = getattr(nll, problem.function)
    values = problem._asdict() | arrays | {"dtype": problem.result, "return_total_weight": True}
    values["axis"] = -1 if problem.layout == "channels-last" else 1
    values["ignore_index"] = problem.ignore_index
    hashes = {}
    for name, (threads, out) in problem.ways.items():
        values["input"] = laid_out(problem, logits.copy())
        values["out"] = out_of(problem, values["input"], out)
        own = inspect.signature(function).parameters.keys() & values.keys()
        with nll.num_threads(threads):
            results = function(**{parameter: values[parameter] for parameter in own})
        hashes[name] = hash_of(results if isinstance(results, tuple) else (results,))
    return hashes


# ---- the command


def is_usable(instruction_set: str) -> bool:
    """Says whether nll can be imported with it; prints why not."""
    environment = os.environ | {"NLL_INSTRUCTION_SET": instruction_set}
    command = [sys.executable, "-c", "import nll"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{instruction_set} is left out: {done.stderr.strip().splitlines()[-1]}")
    return done.returncode == 0


def compute(instruction_set: str, only: str) -> Hashes:
    """Computes in new processes, for nll reads the environment once."""
    os.environ.update(NLL_INSTRUCTION_SET=instruction_set, OMP_WAIT_POLICY="passive")
    selected = [p for p in problems() if any(re.search(only, name) for name in p.ways)]
    hashes: Hashes = {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for found in pool.map(hashes_of, selected, chunksize=4):
            hashes |= {name: value for name, value in found.items() if re.search(only, name)}
    print(f"{instruction_set}: {len(hashes)} results of {len(selected)} problems", flush=True)
    return hashes


def problems_with_several_results(hashes: Hashes) -> list[str]:
    results = defaultdict(set)
    for name, value in hashes.items():
        results[name.partition(" threads=")[0]].add(value)
    return [name for name, values in results.items() if len(values) > 1]


def list_names(what: str, names: list[str]) -> None:
    """Prints how many there are of each function and dtype, and the first."""
    print(f"{what}: {len(names)}")
    for group, count in sorted(Counter(" ".join(name.split()[:2]) for name in names).items()):
        print(f"{count:7} {group}")
    print(*(f"    {name}" for name in names[:20]), sep="\n")


def main() -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", metavar="REGEX", default="")
    parser.add_argument("--instruction-set", choices=INSTRUCTION_SETS)
    given = parser.parse_args()
    sets = [given.instruction_set] if given.instruction_set else INSTRUCTION_SETS
    starts_anew = given.command == "record" and not (given.only or given.instruction_set)
    recorded: dict[str, Hashes] = {}
    if given.command == "compare" or (not starts_anew and given.file.exists()):
        recorded = json.loads(given.file.read_text())
    faults: dict[str, list[str]] = {}
    for instruction_set in filter(is_usable, sets):
        hashes, before = compute(instruction_set, given.only), recorded.get(instruction_set, {})
        several = problems_with_several_results(hashes)
        faults[f"{instruction_set}, bits depend on threads or memory"] = several
        if given.command == "record":
            recorded[instruction_set] = before | hashes
            continue
        differ = [name for name in hashes if before.get(name, hashes[name]) != hashes[name]]
        only_one = {name for name in before if re.search(given.only, name)} ^ hashes.keys()
        faults[f"{instruction_set}, other bits than recorded"] = differ
        faults[f"{instruction_set}, only recorded or only computed"] = sorted(only_one)
    if given.command == "record":
        given.file.write_text(json.dumps(recorded, indent=0))
    for what, names in faults.items():
        if names:
            list_names(what, names)
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main())
