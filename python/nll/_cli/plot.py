# SPDX-License-Identifier: BSD-3-Clause
"""One picture of the object that `document` makes: losses, classes, reliability."""

from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadInput, printable, required
from .outputs import Output

INK, ACCENT, LIGHT, WARM, ROSE = "#22303c", "#2a6f97", "#8ec1dd", "#d1495b", "#efb5bd"
FEW = 10  # samples of a bin that say little
MAX_BARS = 30  # classes that are all shown, side by side
LARGEST = 15  # classes that are shown of more


def format_of(path: str) -> str:
    """Tell the format that a file's name says; refuse a name that says none."""
    required("matplotlib")
    suffix = Path(path).suffix[1:].lower()
    known = required("matplotlib.figure").Figure().canvas.get_supported_filetypes()
    if suffix not in known:
        raise BadInput(f"--plot {path}: its name ends in no format of pictures")
    return suffix


def save(file: Output, found: dict[str, Any]) -> None:
    """Save the picture in the format that the file's name says."""
    matplotlib = required("matplotlib")
    figure_module = required("matplotlib.figure")
    style = {
        "font.size": 12,
        "axes.titlesize": 13,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "figure.titleweight": "bold",
        "figure.titlesize": 15,
    }
    with matplotlib.rc_context(style):
        figure = figure_module.Figure(figsize=(15, 5.4), dpi=144, layout="constrained")
        with_classes = "classes" in found
        grid = figure.add_gridspec(5, 3 if with_classes else 2)
        histogram(figure.add_subplot(grid[:, 0]), found)
        if with_classes:
            classes(figure.add_subplot(grid[:, 1]), found)
        upper = figure.add_subplot(grid[:4, -1])
        reliability(upper, figure.add_subplot(grid[4, -1], sharex=upper), found)
        with file.failing():
            figure.suptitle(headline(found), x=0.01, ha="left", parse_math=False)
            figure.savefig(file.partial, format=format_of(file.path))
    file.keep()


def headline(found: dict[str, Any]) -> str:
    loss = found["loss"]
    names = found["files"]["input"]
    name = names[0] if len(names) == 1 else f"{names[0]} … ({len(names)} files)"
    error = loss["standard_error"]
    spread = "" if np.isnan(error) else f" ± {error:.2g}"
    accuracy = found["accuracy"]["top1"]
    parts = [
        f"mean NLL {loss['mean']:.4g}{spread} nats",
        f"perplexity {loss['perplexity']:.4g}",
        f"{accuracy:.1%} right",
        f"{loss['count']:,} samples",
    ]
    return f"{printable(name.rpartition('/')[2])}:  " + "  ·  ".join(parts)


def histogram(axes: Any, found: dict[str, Any]) -> None:
    """Draw how many samples have which loss."""
    edges = np.array(found["histogram"]["edges"])
    counts = np.array(found["histogram"]["counts"], float)
    below, above = found["histogram"]["below"], found["histogram"]["above"]
    total = max(counts.sum() + below + above, 1)
    middle = median(edges, counts, below, total)
    if total < 5000:  # wider bins for fewer samples
        edges, counts = edges[::2], counts.reshape(-1, 2).sum(1)
    present = np.flatnonzero(counts)
    first, last = (present[0], present[-1]) if len(present) else (0, len(counts) - 1)
    shares = 100 * counts[first : last + 1] / total
    axes.bar(
        edges[first : last + 1],
        shares,
        np.diff(edges[first : last + 2]),
        align="edge",
        color=ACCENT,
    )
    axes.set_xscale("log")
    axes.set(title="Losses of samples", xlabel="-log p of the target (nats)", ylabel="samples (%)")
    axes.set_ylim(top=1.25 * max(shares.max(), 1e-9))
    mean = plain_mean(found)
    mean_is_larger = mean is None or middle is None or mean >= middle
    for value, label, color, to_the_right in (
        (mean, "mean", WARM, mean_is_larger),
        (middle, "median", INK, not mean_is_larger),
    ):
        if value is not None and np.isfinite(value) and value > 0:
            axes.axvline(value, ymax=0.9, color=color, linewidth=1.5, linestyle="--")
            axes.annotate(
                f"{label} {value:.3g}",
                (value, 0.92),
                xycoords=("data", "axes fraction"),
                color=color,
                ha="left" if to_the_right else "right",
                va="bottom",
            )
    outside = [(below, f"smaller than {edges[0]:.0e}"), (above, f"larger than {edges[-1]:.0f}")]
    notes = [f"{100 * count / total:.1f} % are {words}" for count, words in outside if count]
    if notes:
        axes.annotate(
            "\n".join(notes),
            (0.02, 0.88),
            xycoords="axes fraction",
            va="top",
            fontsize=10,
        )


def plain_mean(found: dict[str, Any]) -> float | None:
    """Return the mean loss where it is that of what the histogram shows."""
    options = found["options"]
    is_plain = not (options["weighted"] or options["sample_weighted"] or options["label_smoothing"])
    return float(found["loss"]["mean"]) if is_plain else None


def median(edges: Any, counts: Any, below: int, total: float) -> float | None:
    """Estimate the median loss from the histogram."""
    cumulated = below + np.cumsum(counts)
    index = int(np.searchsorted(cumulated, total / 2))
    if below >= total / 2 or index >= len(counts):
        return None
    return float(np.sqrt(edges[index] * edges[index + 1]))


def classes(axes: Any, found: dict[str, Any]) -> None:
    """Draw the mean loss of each class, or of those that lose most."""
    columns = found["classes"]
    mean, count, sums = (np.array(columns[key], float) for key in ("mean", "count", "sum"))
    present = np.flatnonzero((count > 0) & np.isfinite(mean))
    error = np.nan_to_num(np.array(columns["standard_error"], float))
    bars = {"color": ACCENT, "error_kw": {"ecolor": INK, "elinewidth": 1.2}}
    overall = found["loss"]["mean"]
    if len(present) <= MAX_BARS:
        names = present + columns["first"]
        axes.bar(range(len(present)), mean[present], yerr=error[present], **bars)
        step = max(len(present) // 15, 1)
        axes.set_xticks(range(0, len(present), step), [str(name) for name in names[::step]])
        axes.set(title="Loss by class", xlabel="class", ylabel="mean NLL (nats)")
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0), high * 1.12)
        if np.isfinite(overall):
            axes.axhline(overall, color=WARM, linewidth=1.5, linestyle="--", label="all classes")
    else:
        worst = present[np.argsort(-sums[present], kind="stable")][:LARGEST]
        worst = worst[np.argsort(-mean[worst], kind="stable")]
        axes.barh(range(len(worst)), mean[worst], xerr=error[worst], **bars)
        labels = [f"{row + columns['first']}  ({int(count[row]):,})" for row in worst]
        axes.set_yticks(range(len(worst)), labels, fontsize=10)
        axes.invert_yaxis()
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        title = f"Loss by class: the {len(worst)} of {len(present):,} that lose most"
        axes.set(title=title, xlabel="mean NLL (nats)", ylabel="class (samples)")
        if np.isfinite(overall):
            axes.axvline(overall, color=WARM, linewidth=1.5, linestyle="--", label="all classes")
    if np.isfinite(overall):  # then there is a line to tell of
        axes.legend(
            frameon=False,
            loc="upper right" if len(present) <= MAX_BARS else "best",
            fontsize=10,
        )


def reliability(axes: Any, below: Any, found: dict[str, Any]) -> None:
    """Draw how often the top class is right by confidence; below, how many samples there are."""
    bins = found["calibration"]
    edges, count = np.array(bins["edges"]), np.array(bins["count"], float)
    accuracy, confidence = (np.array(bins[key], float) for key in ("accuracy", "confidence"))
    present = np.flatnonzero(count)
    width, left = np.diff(edges)[present], edges[:-1][present]
    right, sure = accuracy[present], confidence[present]
    pale = np.where(count[present] < FEW, 0.35, 1.0)
    shape: dict[str, Any] = {"align": "edge", "edgecolor": "white"}
    for low, high, color, label in (
        (np.zeros_like(right), np.minimum(right, sure), ACCENT, "accuracy"),
        (sure, np.maximum(right, sure), LIGHT, "more than confidence"),
        (right, np.maximum(right, sure), ROSE, "less than confidence"),
    ):
        colors = [(color, alpha) for alpha in pale]
        axes.bar(left, high - low, width, bottom=low, color=colors, **shape)
        axes.bar([0], [0], color=color, label=label)  # for the legend, not pale
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_title(f"Reliability: calibration error {bins['expected_error']:.1%}")
    legend = axes.legend(loc="upper left", fontsize=10, framealpha=0.85, edgecolor="none")
    if (pale < 1).any():
        legend.set_title(f"pale: under {FEW} samples", {"size": 10})
    axes.tick_params(labelbottom=False)
    shares = 100 * count[present] / max(count.sum(), 1)
    below.bar(left, shares, width, color=INK, alpha=0.6, **shape)
    below.set(xlabel="confidence in the top class", ylabel="share (%)")
