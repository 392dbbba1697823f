# SPDX-License-Identifier: BSD-3-Clause
"""The picture: ``python -m bench.plot results.json picture.png``. One line a case, one mark a peer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .report import duration, lost, peers

# name -> (colour, marker)
MARKS = {
    "torch": ("#d95f02", "o"),
    "compile": ("#e6ab02", "s"),
    "numpy": ("#1b9e77", "^"),
    "jax": ("#7570b3", "D"),
    "numba": ("#66a61e", "v"),
    "sklearn": ("#1f78b4", "P"),
    "tensorflow": ("#a6761d", "X"),
    "plain": ("#555555", "|"),
}
LINE = 0.2  # inches


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw ratios on a logarithmic scale, losses with a ring of red; beside them how near nll is to the machine."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    cases = results["cases"]
    rows = range(len(cases))
    figure = Figure(figsize=(14, 2.2 + LINE * len(cases)), layout="constrained")
    FigureCanvasAgg(figure)
    axes, limits = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    ringed = False
    smallest, largest = 0.5, 2.0
    for name in peers(results):
        found = [(row, case["contestants"][name]) for row, case in enumerate(cases) if name in case["contestants"]]
        if not found:
            continue
        ratios = [entry["ratio"]["median"] for _, entry in found]
        smallest, largest = min(smallest, *ratios), max(largest, *ratios)
        colour, marker = MARKS.get(name.partition("@")[0], ("black", "*"))
        axes.scatter(
            ratios,
            [row for row, _ in found],
            color=colour,
            marker=marker,
            s=30,
            label=results["titles"][name],
            zorder=3,
        )
        for row, entry in found:
            axes.plot(entry["ratio"]["quartiles"], [row] * 2, color=colour, linewidth=1, zorder=2)
            if entry["floor"]:
                axes.plot([entry["floor"]] * 2, [row - 0.4, row + 0.4], color=colour, linewidth=1, linestyle=":")
            if lost(name, entry):
                axes.scatter(
                    entry["ratio"]["median"],
                    row,
                    s=130,
                    facecolors="none",
                    edgecolors="red",
                    linewidths=1.5,
                    zorder=4,
                    label=None if ringed else "below 1, or below its floor (dotted)",
                )
                ringed = True
    axes.axvspan(smallest / 2, 1, color="red", alpha=0.06, linewidth=0)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(smallest / 1.3, largest * 1.3)
    names = [f"{case['name']}   {duration(case['contestants']['nll']['seconds']['median'])}" for case in cases]
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlabel("time of the peer / time of nll (right of 1: nll is faster)")

    for key, share, shift, colour in (
        ("memory", lambda case: case.get("bandwidth", {}).get("share", {}).get("median"), -0.2, "#80b1d3"),
        ("exponentials", lambda case: case.get("arithmetic", {}).get("share"), 0.2, "#fdb462"),
    ):
        known = [(row, 100 * value) for row, value in zip(rows, map(share, cases), strict=True) if value is not None]
        limits.barh(
            [row + shift for row, _ in known], [min(value, 150) for _, value in known], 0.4, color=colour, label=key
        )
    limits.axvline(100, color="black", linewidth=1)
    limits.set_xlim(0, 150)
    limits.set_xlabel("% of the machine's limit")
    for each in (axes, limits):
        each.grid(axis="both", alpha=0.3)
        each.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=5, fontsize=9, frameon=False)
    machine = results["machine"]
    axes.set_title(
        f"{machine['cpu']}, {results['threads']} threads; case and nll's time; medians and quartiles", fontsize=9
    )
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
