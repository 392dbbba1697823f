# SPDX-License-Identifier: BSD-3-Clause
"""The table, row by row, as plain text or Markdown: ``python -m bench.report results.json`` prints the latter."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LEGEND = (
    "Columns of peers: the peer's time over nll's, medians over the rounds; above 1 nll is faster. ! marks what is "
    "below 1, or below the floor that is asked for; ~ what has that within its quartiles. Plain nll: its call "
    "without smoothing, sample weights or state, or the cross-entropy and its gradient beside a softmax, over nll: "
    "below 1, these cost something. Memory: the time of the bytes that no method can avoid, at the speed of reads and "
    "stores that the same rounds measured, one after the other, over nll's: beyond 100% where it reads and stores at "
    "once, or finds much in the caches. Exps: the same of the exponentials alone, from the first-level cache on "
    "all threads. -: cannot."
)
BUSY = "Other programs were running at the start: threads that wait for a core make these figures unreliable."
RED, PLAIN = "\x1b[31m", "\x1b[0m"


def busy(results: dict[str, Any]) -> bool:
    return (results["machine"]["load_at_start"] or 0) > 0.5


def duration(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            number = seconds / size
            return f"{number:.2g} {unit}" if number < 99.5 else f"{number:.0f} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def ratio(value: float) -> str:
    return f"{value:.2f}" if value < 2 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def peers(results: dict[str, Any]) -> list[str]:
    """The names of the columns, nll's plain call as the last."""
    return [name for name in results["titles"] if name != "nll"]


def asked_of(name: str, entry: dict[str, Any]) -> float:
    """The least ratio that is no loss: the floor, or 1; nll's plain call may be faster."""
    return entry["floor"] or (0 if name == "plain" else 1)


def lost(name: str, entry: dict[str, Any]) -> bool:
    return "wrong" not in entry and entry["ratio"]["median"] < asked_of(name, entry)


class Table:
    """Lay out rows as they come: widths follow from the names of all cases and the titles."""

    def __init__(self, results: dict[str, Any], names: list[str], markdown: bool = False, colour: bool = False):
        self.peers, self.absent = peers(results), results["absent"]
        self.markdown, self.colour = markdown, colour
        over = " / nll" if markdown else ""
        self.titles = ["case", "nll", "memory", "exps"]
        self.titles += [
            results["titles"][name] + over if name != "plain" else results["titles"][name] for name in self.peers
        ]
        self.widths = [max(map(len, [*names, "case"])), *(max(len(title), 6) for title in self.titles[1:])]

    def head(self) -> str:
        if self.markdown:
            return "| " + " | ".join(self.titles) + " |\n|" + "---|" * len(self.titles)
        return self._aligned(self.titles) + "\n" + "-" * (sum(self.widths) + 2 * len(self.widths) - 2)

    def row(self, case: dict[str, Any]) -> str:
        cells = [case["name"], duration(case["contestants"]["nll"]["seconds"]["median"])]
        memory, arithmetic = case.get("bandwidth"), case.get("arithmetic")
        cells.append(f"{memory['share']['median']:.0%}" if memory else "cached")
        cells.append(f"{arithmetic['share']:.0%}" if arithmetic else "")
        cells += [self._cell(name, case) for name in self.peers]
        if self.markdown:
            return "| " + " | ".join(cells) + " |"
        line = self._aligned(cells)
        return line if not self.colour else self._coloured(line, case)

    def _cell(self, name: str, case: dict[str, Any]) -> str:
        if name in case["failed"]:
            return "failed"
        if name not in case["contestants"]:
            return "absent" if name in self.absent else "" if name == "plain" else "-"
        entry = case["contestants"][name]
        figure = ratio(entry["ratio"]["median"])
        if "wrong" in entry:
            return f"{figure} (wrong value)" if self.markdown else f"{figure}?"
        low, high = entry["ratio"]["quartiles"]
        figure += "~" * (low < asked_of(name, entry) <= high)
        if lost(name, entry):
            return f"**{figure}**" if self.markdown else f"{figure}!"
        return figure

    def _aligned(self, cells: list[str]) -> str:
        first, *others = zip(cells, self.widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])

    def _coloured(self, line: str, case: dict[str, Any]) -> str:
        """The line with its losses in red: its cells stand where they stood."""
        end, pieces = len(line), []
        for name, width in reversed(list(zip(self.peers, self.widths[-len(self.peers) :], strict=True))):
            entry = case["contestants"].get(name)
            piece = line[end - width : end]
            pieces.append(f"  {RED}{piece}{PLAIN}" if entry and lost(name, entry) else f"  {piece}")
            end -= width + 2
        return line[:end] + "".join(reversed(pieces))


def remarks(results: dict[str, Any]) -> list[str]:
    """What a reader must be told in words: where a peer is faster, below the floor, wrong or not here."""
    lines = [BUSY] if busy(results) else []
    for name in peers(results):
        title = results["titles"][name]
        if name in results["absent"]:
            lines.append(f"{title} is not here: {results['absent'][name]}.")
            continue
        found = [(case, case["contestants"].get(name)) for case in results["cases"]]
        entries = [(case["name"], entry) for case, entry in found if entry]
        if name != "plain":
            faster = [f"{case} ({ratio(e['ratio']['median'])})" for case, e in entries if e["ratio"]["median"] < 1]
            if faster:
                lines.append(
                    f"{title} is faster than nll in {len(faster)} of {len(entries)} cases: {'; '.join(faster)}."
                )
            elif entries:
                lines.append(f"{title} is faster than nll in no case that it can run, of {len(entries)}.")
        below = [
            f"{case} ({ratio(e['ratio']['median'])}, floor {e['floor']:.2g})"
            for case, e in entries
            if e["floor"] and lost(name, e)
        ]
        if below:
            lines.append(f"Below the floor against {title}: {'; '.join(below)}.")
        lines += [
            f"{title} failed in {case['name']}: {case['failed'][name]}"
            for case in results["cases"]
            if name in case["failed"]
        ]
        for case, entry in entries:
            if "wrong" in entry:
                value = f"{entry['loss']}" if "loss" in entry else f"{entry['errors']}"
                lines.append(f"{title}'s value is wrong in {case}: {value}, as it {entry['wrong']}; nll's is right.")
    return lines


def machine_lines(results: dict[str, Any]) -> list[str]:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['last_level_cache'] >> 20} MiB last-level cache, "
        f"transparent huge pages: {machine['transparent_huge_pages']}; {machine['system']}",
        f"{versions}; {results['threads']} threads each, up to {results['rounds']} rounds, {results['date']}",
    ]
    names = {
        "read": "read",
        "fill": "fill",
        "fill_nontemporal": "fill past the caches",
        "first_touch": "first touch of 4 KiB pages",
        "first_touch_huge": "of huge pages",
    }
    for threads, rates in results["bandwidth"].items():
        figures = ", ".join(f"{names[kind]} {rate['median'] / 1e9:.1f}" for kind, rate in rates.items())
        lines.append(f"memory, {threads} thread{'s' if threads != '1' else ''}, GB/s: {figures}")
    if exps := results["arithmetic"]:
        figures = ", ".join(f"{dtype} {nanoseconds:.2f}" for dtype, nanoseconds in exps.items())
        lines.append(f"an exponential and its sum from the first-level cache, one thread, ns: {figures}")
    return lines


def pages_rows(results: dict[str, Any]) -> list[list[str]]:
    table = [["the same pages for both", "pages", "nll", "PyTorch", "PyTorch / nll"]]
    for pages in results["pages"]:
        for case in pages["cases"]:
            if peer := case["contestants"].get("torch"):
                own = case["contestants"]["nll"]
                times = [duration(own["seconds"]["median"]), duration(peer["seconds"]["median"])]
                table.append([case["name"], pages["title"], *times, ratio(peer["ratio"]["median"])])
    return table


def exactness_rows(results: dict[str, Any]) -> list[list[str]]:
    table = [["cost of exactness", "exact", "plain sum in double", "exact / plain"]]
    for entry in results["exactness"]:
        times = [duration(entry["exact_s"]), duration(entry["plain_s"])]
        table.append([entry["case"], *times, f"{entry['exact_s'] / entry['plain_s']:.2f}"])
    return table


def aligned_table(table: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def markdown_table(table: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])


def after(results: dict[str, Any], markdown: bool = False) -> str:
    """What follows the rows."""
    render = markdown_table if markdown else aligned_table
    parts = ["\n".join(remarks(results))]
    parts += [render(table) for table in (pages_rows(results), exactness_rows(results)) if len(table) > 1]
    machine = machine_lines(results)
    return "\n\n".join([*parts, LEGEND, "; ".join(machine) + "." if markdown else "\n".join(machine)])


def markdown(results: dict[str, Any]) -> str:
    table = Table(results, [], markdown=True)
    return "\n".join([table.head(), *map(table.row, results["cases"]), "", after(results, markdown=True)])


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
