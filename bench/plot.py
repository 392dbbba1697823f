# SPDX-License-Identifier: BSD-3-Clause
"""The picture: ``python -m bench.plot results.json picture.png``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .report import ratio

COLOURS = {"torch": "#d95f02", "numpy": "#1b9e77", "jax": "#7570b3"}


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars of peer time / nll time for every case, on a logarithmic scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    cases = results["cases"]
    peers = [name for name in results["titles"] if name != "nll"]
    thickness = 0.8 / max(len(peers), 1)
    figure = Figure(figsize=(10, 1.6 + 0.22 * len(cases) * max(len(peers), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    floor_shown = False
    largest = 2.0
    for column, peer in enumerate(peers):
        shift = (column - (len(peers) - 1) / 2) * thickness
        found = [(row, case["contestants"][peer]) for row, case in enumerate(cases) if peer in case["contestants"]]
        if not found:
            continue
        places = [row + shift for row, _ in found]
        medians = [entry["ratio"]["median"] for _, entry in found]
        errors = [
            [abs(entry["ratio"]["median"] - entry["ratio"]["quartiles"][side]) for _, entry in found] for side in (0, 1)
        ]
        largest = max(largest, *(entry["ratio"]["quartiles"][1] for _, entry in found))
        axes.barh(
            places,
            [median - 1 for median in medians],
            left=1,
            height=thickness,
            xerr=errors,
            color=COLOURS.get(peer),
            label=results["titles"][peer],
            error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
        )
        for place, (_, entry) in zip(places, found, strict=True):
            axes.annotate(
                ratio(entry["ratio"]["median"]),
                (max(entry["ratio"]["quartiles"][1], entry["floor"] or 1, 1), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        for place, (_, entry) in zip(places, found, strict=True):
            if entry["floor"]:
                axes.plot(
                    [entry["floor"]] * 2,
                    [place - thickness / 2, place + thickness / 2],
                    color="black",
                    linewidth=2,
                    label=None if floor_shown else "the least that is asked for",
                )
                floor_shown = True
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(right=largest * 1.6)
    axes.set_yticks(range(len(cases)), [case["name"] for case in cases], fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel("time of the peer / time of nll (above 1: nll is faster)")
    machine = results["machine"]
    axes.set_title(
        f"{machine['cpu']}, {results['threads']} threads, medians and quartiles of {results['rounds']} rounds",
        fontsize=9,
    )
    axes.set_ylim(len(cases) - 0.5, -0.5)
    figure.legend(loc="outside upper center", ncols=len(peers) + 1, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
