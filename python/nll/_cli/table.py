# SPDX-License-Identifier: BSD-3-Clause
"""Tables for people, of the object that `document` makes."""

import sys
from typing import Any

import numpy as np

from .errors import printable, required

ROWS = 20  # of a table of classes or groups
ALL_ROWS = 40  # up to so many, all are shown
WIDE = 1 << 16  # columns, where there is no terminal: nothing is cut


def show(found: dict[str, Any], *, per_class: bool) -> None:
    """Print what came out on standard output."""
    new_console = required("rich.console").Console
    named: dict[str, Any] = {"highlight": False, "soft_wrap": True, "emoji": False}
    console = new_console(**named)
    if not console.is_terminal:
        console = new_console(**named, width=WIDE)
    options, loss = found["options"], found["loss"]
    names = found["files"]["input"]
    name = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)} files)"
    console.print(
        f"[bold]{escaped(name)}[/bold]: {options['kind']} of {options['classes']:,} classes",
    )
    console.print(summary(found, loss, options))
    if per_class and "classes" in found:
        console.print(parts("class", found["classes"]))
    if "groups" in found:
        console.print(parts("group", found["groups"]))
    if "comparison" in found:
        console.print(comparison(found))
    if "worst" in found:
        console.print(worst(found["worst"]["samples"]))


def escaped(text: str) -> str:
    return str(required("rich.markup").escape(printable(text)))


def new_table(*columns: str, title: str | None = None) -> Any:
    box = required("rich.box")
    table = required("rich.table").Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def with_error(mean: float, error: float) -> str:
    """Write a mean and its standard error, with the digits that it has."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sign = "±" if encoding.lower().startswith("utf") else "+-"
    return f"{mean:.7g}" if np.isnan(error) else f"{mean:.7g} {sign} {error:.2g}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def summary(found: dict[str, Any], loss: dict[str, Any], options: dict[str, Any]) -> Any:
    table = required("rich.table").Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    rows = [("mean NLL", f"[bold]{with_error(loss['mean'], loss['standard_error'])}[/bold] nats")]
    if options["reduction"] == "sum":
        rows.insert(0, ("sum of NLL", f"[bold]{loss['sum']:.10g}[/bold] nats"))
    rows += [
        ("perplexity", f"{loss['perplexity']:.7g}"),
        ("bits", f"{loss['bits']:.7g}"),
        ("total weight", f"{loss['total_weight']:,.10g}"),
        ("samples", f"{loss['count']:,} kept, {loss['ignored']:,} ignored"),
    ]
    if "accuracy" in found:
        accuracy = found["accuracy"]
        rows.append(("top-1 accuracy", percent(accuracy["top1"])))
        if accuracy["top5"] is not None:
            rows.append(("top-5 accuracy", percent(accuracy["top5"])))
        error = percent(found["calibration"]["expected_error"])
        rows.append(("expected calibration error", error))
        if accuracy["undefined"]:
            rows.append(("not a number", f"[red]{accuracy['undefined']:,} samples[/red]"))
    for row in rows:
        table.add_row(*row)
    return table


def chosen_rows(columns: dict[str, Any]) -> list[int]:
    """Choose the rows to show: all that have samples, or those with the largest sums."""
    count = np.array(columns["count"])
    present = np.flatnonzero(count)
    if len(present) <= ALL_ROWS:
        return [int(row) for row in present]
    sums = np.array(columns["sum"])[present]
    worst = np.argsort(-np.nan_to_num(sums, nan=np.inf), kind="stable")[:ROWS]
    return [int(row) for row in present[worst]]


def parts(what: str, columns: dict[str, Any]) -> Any:
    """Make the table of classes or groups."""
    rows = chosen_rows(columns)
    present = int(np.count_nonzero(columns["count"]))
    plural = {"class": "classes", "group": "groups"}[what]
    title = f"By {what}"
    if len(rows) < present:
        title += f": the {len(rows)} of {present:,} {plural} that lose most (--json has all)"
    total = sum(value for value in columns["sum"] if np.isfinite(value))
    accuracy = columns["accuracy"]
    names = [what, "samples", "mean NLL", "share of the loss"]
    table = new_table(*names, *(["top-1 accuracy"] if accuracy else []), title=title)
    for row in rows:
        share = columns["sum"][row] / total if total else float("nan")
        table.add_row(
            str(row + columns["first"]),
            f"{columns['count'][row]:,}",
            with_error(columns["mean"][row], columns["standard_error"][row]),
            percent(share),
            *([percent(accuracy[row])] if accuracy else []),
        )
    return table


def worst(samples: list[dict[str, Any]]) -> Any:
    """Make the table of the worst samples."""
    table = new_table("label at", "loss", "target", "predicted", "p(target)", title="Worst samples")
    for one in samples:
        where = f"{one['file']}[{', '.join(map(str, one['position']))}]"
        labels = str(one["target"]), str(one["predicted"])
        table.add_row(escaped(where), f"{one['loss']:.5g}", *labels, f"{one['probability']:.3g}")
    return table


def comparison(found: dict[str, Any]) -> Any:
    """Make the table of what differs from other predictions."""
    compared = found["comparison"]
    names = found["files"]["compare"]
    other = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
    table = required("rich.table").Table(
        title=f"Compared with {escaped(other)}",
        title_justify="left",
        title_style="bold",
        box=None,
        show_header=False,
        pad_edge=False,
    )
    for key, label in (
        ("other", "its mean NLL"),
        ("difference", "difference"),
        ("divergence", "mean KL from it"),
    ):
        one = compared[key]
        table.add_row(label, f"{with_error(one['mean'], one['standard_error'])} nats")
    table.add_row("same top class", percent(compared["agreement"]))
    return table
