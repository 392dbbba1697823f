# SPDX-License-Identifier: BSD-3-Clause
"""The table, as plain text and in Markdown: ``python -m bench.report results.json`` prints the latter."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LEGEND = (
    "Ratios are medians over the rounds with their quartiles; above 1 nll is faster. GB/s: the bytes that no method "
    "can avoid, over nll's time. Of bandwidth: the time of those bytes at the speed of reads and stores that the same "
    "rounds measured, one after the other, over nll's time: beyond 100% where it reads and stores at once; in brackets "
    "with first writes to fresh huge pages in place of stores."
)
BUSY = "Other programs were running at the start: threads that wait for a core make these figures unreliable."


def busy(results: dict[str, Any]) -> bool:
    return (results["machine"]["load_at_start"] or 0) > 0.5


def duration(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def peers(results: dict[str, Any]) -> list[str]:
    return [name for name in results["titles"] if name != "nll"]


def rows(results: dict[str, Any]) -> list[list[str]]:
    """The head, then one row a case."""
    head = ["case", "nll", "GB/s", "of bandwidth"]
    judged = {name for case in results["cases"] for name, entry in case["contestants"].items() if entry.get("floor")}
    for name in peers(results):
        head += [f"{results['titles'][name]} / nll", *(["floor"] if name in judged else [])]
    table = [head]
    for case in results["cases"]:
        row = [case["name"], duration(case["contestants"]["nll"]["seconds"]["median"])]
        if bandwidth := case.get("bandwidth"):
            share = f"{bandwidth['share']['median']:.0%}"
            if touch := bandwidth["share_of_first_touch"]:
                share += f" ({touch['median']:.0%} of fresh pages')"
            row += [f"{bandwidth['bytes_per_second']['median'] / 1e9:.1f}", share]
        else:
            row += ["", "in cache"]
        for name in peers(results):
            entry = case["contestants"].get(name)
            if entry is None:
                row.append("cannot")
            else:
                low, high = entry["ratio"]["quartiles"]
                mark = " (wrong value)" if "wrong" in entry else ""
                row.append(f"{ratio(entry['ratio']['median'])} [{ratio(low)}-{ratio(high)}]{mark}")
            if name in judged:
                row.append(f"{entry['floor']:g}" if entry and entry["floor"] else "")
        table.append(row)
    return table


def remarks(results: dict[str, Any]) -> list[str]:
    """What a reader must be told in words: where a peer is faster, below the floor or wrong."""
    lines = [BUSY] if busy(results) else []
    for name in peers(results):
        title = results["titles"][name]
        found = [(case, case["contestants"].get(name)) for case in results["cases"]]
        entries = [(case["name"], entry) for case, entry in found if entry]
        faster = [f"{case} ({ratio(e['ratio']['median'])})" for case, e in entries if e["ratio"]["median"] < 1]
        if faster:
            lines.append(f"{title} is faster than nll in {len(faster)} of {len(entries)} cases: {'; '.join(faster)}.")
        elif entries:
            lines.append(f"{title} is faster than nll in no case that it can run.")
        below = [
            f"{case} ({ratio(e['ratio']['median'])}, floor {e['floor']:g})"
            for case, e in entries
            if e["floor"] and e["ratio"]["median"] < e["floor"]
        ]
        if below:
            lines.append(f"Below the floor against {title}: {'; '.join(below)}.")
        for case, entry in entries:
            if "wrong" in entry:
                lines.append(
                    f"{title}'s value is wrong in {case}: {entry.get('loss')}, as it {entry['wrong']}; nll's is exact."
                )
    return lines


def machine_lines(results: dict[str, Any]) -> list[str]:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['last_level_cache'] >> 20} MiB last-level cache, "
        f"transparent huge pages: {machine['transparent_huge_pages']}; {machine['system']}",
        f"{versions}; {results['threads']} threads each, {results['rounds']} rounds, {results['date']}",
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
    return lines


def pages_rows(results: dict[str, Any]) -> list[list[str]]:
    table = [["the same pages for both", "pages", "nll", "PyTorch", "PyTorch / nll"]]
    for pages in results["pages"]:
        for case in pages["cases"]:
            own, peer = case["contestants"]["nll"], case["contestants"]["torch"]
            times = [duration(own["seconds"]["median"]), duration(peer["seconds"]["median"])]
            table.append([case["name"], pages["title"], *times, ratio(peer["ratio"]["median"])])
    return table


def exactness_rows(results: dict[str, Any]) -> list[list[str]]:
    table = [["cost of exactness", "exact", "plain sum in double", "exact / plain"]]
    for entry in results["exactness"]:
        times = [duration(entry["exact_s"]), duration(entry["plain_s"])]
        table.append([entry["case"], *times, f"{entry['exact_s'] / entry['plain_s']:.2f}"])
    return table


def arithmetic_rows(results: dict[str, Any]) -> list[list[str]]:
    """Forward cross-entropy beside what its exponentials alone would take."""
    table = [["limit of arithmetic", "nll", "exponentials from the first-level cache, all threads", "of that limit"]]
    for case in results["cases"]:
        if case["loss"] != "cross_entropy" or case["gradient"] or "bandwidth" not in case:
            continue
        if limit := results["arithmetic"].get(case["dtype"]):
            least = limit * 1e-9 * case["elements"] / results["threads"]
            seconds = case["contestants"]["nll"]["seconds"]["median"]
            table.append([case["name"], duration(seconds), duration(least), f"{least / seconds:.0%}"])
    return table


def aligned_table(table: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def markdown_table(table: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])


def paragraphs(results: dict[str, Any], render: Any) -> list[str]:
    parts = [render(rows(results)), "\n".join(remarks(results))]
    tables = (pages_rows(results), arithmetic_rows(results), exactness_rows(results))
    parts += [render(table) for table in tables if len(table) > 1]
    return parts


def text(results: dict[str, Any]) -> str:
    return "\n\n".join(["\n".join(machine_lines(results)), *paragraphs(results, aligned_table), LEGEND])


def markdown(results: dict[str, Any]) -> str:
    return "\n\n".join([*paragraphs(results, markdown_table), LEGEND, "; ".join(machine_lines(results)) + "."])


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
