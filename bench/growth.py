# SPDX-License-Identifier: BSD-3-Clause
"""How the time of cross-entropy grows, as a picture: ``python -m bench.growth size|classes PICTURE.png``.

``size``: time per logit over the size of the logits, from the first-level cache to 4 GiB, for several numbers of
classes; a flat line is linear growth. ``classes``: time per logit over the number of classes, 2 to 8192, each power of
two and its neighbours, for logits that stay in the caches; nll and PyTorch on one thread. Both forward, and with the
gradient into memory that is reused. Each point is printed as it is measured; Ctrl-C draws what there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import nll

KIB = 1024
SIZES = (2, 10, 100, 1000, 50257)  # numbers of classes whose time is shown over the size
LOGITS = 256_000  # in cache
MODEST = 64  # classes from which on no larger number may cost more than RISE times a smaller one
RISE = 1.15
KINDS = ("forward", "value and gradient, into out=")
Point = dict[str, Any]  # series, kind, x, and nanoseconds a logit


def seconds(call: Callable[[], object], budget: float) -> float:
    """The median of some repetitions that take so many seconds, at least three."""
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < budget:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def calls_of_nll(logits: np.ndarray, target: np.ndarray, out: np.ndarray) -> tuple[Callable[[], object], ...]:
    return (
        partial(nll.cross_entropy, logits, target),
        partial(nll.cross_entropy_value_and_grad, logits, target, out=out),
    )


def calls_of_torch(threads: int) -> Callable[..., tuple[Callable[[], object], ...]] | None:
    """The same of PyTorch, if it is installed."""
    try:
        import torch
    except ImportError as error:
        print(f"without PyTorch: {error}")
        return None
    torch.set_num_threads(threads)
    loss_of = torch.nn.functional.cross_entropy

    def calls(logits: np.ndarray, target: np.ndarray, out: np.ndarray) -> tuple[Callable[[], object], ...]:
        tensor, labels = torch.from_numpy(logits), torch.from_numpy(target)
        leaf = tensor.detach().requires_grad_()

        def both() -> None:
            leaf.grad = None
            loss_of(leaf, labels).backward()

        return partial(loss_of, tensor, labels), both

    return calls


def over_size(most: int, budget: float) -> Iterator[Point]:
    sizes = [4 * KIB]
    while sizes[-1] * 4 <= most * KIB * KIB:
        sizes.append(sizes[-1] * 4)
    generator = np.random.default_rng(0)
    logits = generator.standard_normal(max(sizes) // 4, dtype=np.float32)
    out = np.ones_like(logits)
    for classes in SIZES:
        for size in sizes:
            samples = size // 4 // classes
            if samples == 0:
                continue
            shape, count = (samples, classes), samples * classes
            target = generator.integers(classes, size=samples)
            calls = calls_of_nll(logits[:count].reshape(shape), target, out[:count].reshape(shape))
            for kind, call in zip(KINDS, calls, strict=True):
                yield {
                    "series": f"C = {classes}",
                    "kind": kind,
                    "x": 4 * count,
                    "ns": seconds(call, budget) / count * 1e9,
                }


def over_classes(threads: int, budget: float) -> Iterator[Point]:
    around = (2**power + shift for power in range(1, 14) for shift in (-1, 0, 1))
    contestants = {"nll": calls_of_nll, "PyTorch": calls_of_torch(threads)}
    generator = np.random.default_rng(0)
    logits = generator.standard_normal(LOGITS, dtype=np.float32)
    out = np.ones_like(logits)
    for classes in sorted({it for it in around if 2 <= it <= 8192}):
        shape = (LOGITS // classes, classes)
        count = shape[0] * shape[1]
        target = generator.integers(classes, size=shape[0])
        for series, calls_of in contestants.items():
            if calls_of is None:
                continue
            for kind, call in zip(
                KINDS, calls_of(logits[:count].reshape(shape), target, out[:count].reshape(shape)), strict=True
            ):
                yield {"series": series, "kind": kind, "x": classes, "ns": seconds(call, budget) / count * 1e9}


def cliffs(points: list[Point]) -> tuple[list[Point], list[str]]:
    """Where nll costs more than RISE times what fewer classes cost, or more than PyTorch; and in words."""
    marked, words = [], []
    for kind in KINDS:
        own = {it["x"]: it for it in points if it["kind"] == kind and it["series"] == "nll"}
        peer = {it["x"]: it["ns"] for it in points if it["kind"] == kind and it["series"] == "PyTorch"}
        least: Point | None = None
        for classes, point in sorted(own.items()):
            if classes in peer and peer[classes] < point["ns"]:
                words.append(f"{kind}: PyTorch is faster at C = {classes}: {point['ns'] / peer[classes]:.2f} times")
                marked.append(point)
            if classes < MODEST:
                continue
            if least and point["ns"] > RISE * least["ns"]:
                rise = point["ns"] / least["ns"]
                words.append(f"{kind}: C = {classes} takes {rise:.2f} times the time of C = {least['x']}")
                marked.append(point)
            if least is None or point["ns"] < least["ns"]:
                least = point
    return marked, words


def draw(points: list[Point], marked: list[Point], path: Path, label: str, threads: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5), layout="constrained")
    FigureCanvasAgg(figure)
    is_size = label.startswith("logits")
    values = sorted({it["x"] for it in points})
    place = {x: x if is_size else values.index(x) for x in values}  # neighbours would hide each other on a true axis
    both = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(both, KINDS, strict=True):
        for series in dict.fromkeys(it["series"] for it in points):
            found = [(place[it["x"]], it["ns"]) for it in points if it["series"] == series and it["kind"] == kind]
            if found:
                axes.plot(*zip(*found, strict=True), marker="o", markersize=3.5, label=series)
        if rings := [(place[it["x"]], it["ns"]) for it in marked if it["kind"] == kind]:
            style = {
                "facecolors": "none",
                "edgecolors": "red",
                "label": "more than 15 % above fewer classes, or slower",
            }
            axes.scatter(*zip(*rings, strict=True), s=90, zorder=3, **style)
        axes.set(title=kind, yscale="log", xlabel=label)
        if is_size:
            axes.set_xscale("log")
        else:
            axes.set_xticks(range(len(values)), map(str, values), fontsize=7, rotation=90)
        axes.grid(which="both", alpha=0.3)
        axes.legend()
    both[0].set_ylabel(f"time per logit (ns), {threads} thread{'s' * (threads != 1)}")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__.splitlines()[0])
    parser.add_argument("over", choices=("size", "classes"))
    parser.add_argument("picture", type=Path)
    parser.add_argument("--threads", type=int, help="default: 2 over the size, 1 over the classes")
    parser.add_argument("--most", type=int, default=4 * KIB, metavar="MIB", help="of logits (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.25, help="for each point (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the points")
    chosen = parser.parse_args()
    is_size = chosen.over == "size"
    threads = chosen.threads or (2 if is_size else 1)
    nll.set_num_threads(threads)

    points: list[Point] = []
    try:
        for point in over_size(chosen.most, chosen.seconds) if is_size else over_classes(threads, chosen.seconds):
            points.append(point)
            print("{series:10s} {x:12,d} {ns:8.3f} ns a logit, {kind}".format(**point), flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    marked, words = ([], []) if is_size else cliffs(points)
    print("\n".join(words))
    if chosen.json:
        chosen.json.write_text(json.dumps(points, indent=1) + "\n")
    label = "logits (bytes, float32)" if is_size else f"classes ({LOGITS} logits, float32)"
    draw(points, marked, chosen.picture, label, threads)


if __name__ == "__main__":
    main()
