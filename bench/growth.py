# SPDX-License-Identifier: BSD-3-Clause
"""How the time of cross-entropy grows: ``python -m bench.growth PICTURE.png`` draws time per logit over size.

For several numbers of classes, from logits that fit into the first-level cache to 4 GiB of them; forward, and with the
gradient into memory that is reused. A flat line is linear growth.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np

import nll

CLASSES = (2, 10, 100, 1000, 50257)
KIB = 1024


def seconds(call: partial[object]) -> float:
    """The median of some repetitions that take a quarter of a second, at least three."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < 0.25:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=int, default=4 * KIB, metavar="MIB", help="of logits (default: %(default)s)")
    chosen = parser.parse_args()
    nll.set_num_threads(chosen.threads)

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = [4 * KIB]
    while sizes[-1] * 4 <= chosen.most * KIB * KIB:
        sizes.append(sizes[-1] * 4)
    generator = np.random.default_rng(0)
    logits = generator.standard_normal(max(sizes) // 4, dtype=np.float32)
    out = np.ones_like(logits)

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for classes in CLASSES:
        found = []
        for size in sizes:
            samples = size // 4 // classes
            if samples == 0:
                continue
            input = logits[: samples * classes].reshape(samples, classes)
            gradient = out[: samples * classes].reshape(samples, classes)
            target = generator.integers(classes, size=samples)
            forward = seconds(partial(nll.cross_entropy, input, target))
            both = seconds(partial(nll.cross_entropy_value_and_grad, input, target, out=gradient))
            found.append((input.nbytes, forward / input.size * 1e9, both / input.size * 1e9))
            print(
                f"C = {classes:6d}  {input.nbytes / KIB:10.0f} KiB  forward {found[-1][1]:6.3f} ns, "
                f"with gradient {found[-1][2]:6.3f} ns a logit",
                flush=True,
            )
        for axis, column in zip(axes, (1, 2), strict=True):
            axis.plot([row[0] for row in found], [row[column] for row in found], marker="o", label=f"C = {classes}")
    for axis, title in zip(axes, ("forward", "value and gradient, into out="), strict=True):
        axis.set(title=title, xscale="log", yscale="log", xlabel="logits (bytes, float32)")
        axis.grid(which="both", alpha=0.3)
    axes[0].set_ylabel(f"time per logit (ns), {chosen.threads} threads")
    axes[0].legend()
    figure.savefig(chosen.picture, dpi=130)


if __name__ == "__main__":
    main()
