# SPDX-License-Identifier: BSD-3-Clause
"""The JSON object: what came out, and the states from which more can be added.

`score.schema.json` beside this file, which `nll schema` prints, says what each member means.
"""

import base64
import json
import math
import re
import zlib
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np

from .. import LossAccumulator, __version__, _core
from .._typing import Array
from .errors import BadInput
from .measures import BINS, EDGES, UNIT, Calibration
from .outputs import Output
from .tally import KINDS, Choices, Comparison, Counts, Parted, Tally, Worst, restored

FORMAT = "nll.score"
VERSION = 1
# What is raised where an object is not as the schema says.
DAMAGES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def schema() -> str:
    """Return the JSON Schema of the object."""
    return files(__package__).joinpath("score.schema.json").read_text("utf-8")


# ---- a tally as an object


def as_object(tally: Tally, *, with_states: bool = True) -> dict[str, Any]:
    """Return what came out as an object of JSON's types, but for numbers that are not finite.

    with_states: also those of classes and groups, which may take megabytes and a second.
    """
    found: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "nll": __version__,
        "files": tally.files,
        "options": vars(tally.choices).copy(),
        "loss": figures(tally.total),
    }
    with_counts = tally.counts is not None
    if tally.counts is not None:
        found |= counts_object(tally.counts, found["loss"]["count"], tally.choices.classes)
    if tally.by_class is not None:
        first = tally.choices.index_base
        found["classes"] = parted(tally.by_class, first, counted=with_counts, states=with_states)
    if tally.by_group is not None:
        found["groups"] = parted(tally.by_group, 0, counted=with_counts, states=with_states)
    if tally.worst_limit:
        found["worst"] = {
            "limit": tally.worst_limit,
            "samples": [as_sample(one) for one in tally.worst],
        }
    if tally.comparison is not None:
        found["comparison"] = compared(tally.comparison, found["loss"]["count"])
    return found


def figures(losses: Any) -> dict[str, Any]:
    """Return what a state tells, and itself."""
    mean = float(losses.compute())
    return {
        "mean": mean,
        "standard_error": float(losses.standard_error),
        "sum": float(losses.compute("sum")),
        "perplexity": float(losses.perplexity),
        "bits": mean / math.log(2),
        "total_weight": float(losses.total_weight),
        "count": int(losses.count),
        "ignored": int(losses.ignored),
        "state": base64.b64encode(losses.to_bytes()).decode("ascii"),
    }


def counts_object(counts: Counts, count: int, classes: int) -> dict[str, Any]:
    """Return accuracy, calibration and the histogram of losses."""
    bins = counts.calibration
    return {
        "accuracy": {
            "top1": ratio(counts.top1, count),
            "top5": ratio(counts.top5, count) if classes > 5 else None,
            "top1_count": counts.top1,
            "top5_count": counts.top5,
            "undefined": counts.undefined,
        },
        "calibration": {
            "expected_error": bins.error,
            "edges": [index / BINS for index in range(BINS + 1)],
            "count": bins.count.tolist(),
            "accuracy": ratios(bins.correct, bins.count),
            "confidence": [
                ratio(total / UNIT, number)
                for total, number in zip(
                    bins.confidence,
                    bins.count.tolist(),
                    strict=True,
                )
            ],
            "correct_count": bins.correct.tolist(),
            "confidence_sum": [str(total) for total in bins.confidence],
        },
        "histogram": {
            "edges": EDGES.tolist(),
            "counts": counts.histogram[1:-1].tolist(),
            "below": int(counts.histogram[0]),
            "above": int(counts.histogram[-1]),
        },
    }


def parted(parts: Parted, first: int, *, counted: bool, states: bool) -> dict[str, Any]:
    """Return the columns of a table of classes or groups; `first` is the label of its first row."""
    count = parts.losses.count
    columns = {
        "first": first,
        "mean": parts.losses.compute().tolist(),
        "standard_error": parts.losses.standard_error.tolist(),
        "sum": parts.losses.compute("sum").tolist(),
        "total_weight": parts.losses.total_weight.tolist(),
        "count": count.tolist(),
        "ignored": parts.losses.ignored.tolist(),
        "accuracy": ratios(parts.correct, count) if counted else None,
        "top1_count": parts.correct.tolist(),
    }
    if states:
        packed = zlib.compress(parts.losses.to_bytes())
        columns["states"] = base64.b64encode(packed).decode("ascii")
    return columns


def as_sample(one: Worst) -> dict[str, Any]:
    return vars(one) | {"position": list(one.position)}


def compared(comparison: Comparison, count: int) -> dict[str, Any]:
    """Return what the comparison of two predictions says."""
    return {
        "other": figures(comparison.other),
        "difference": figures(comparison.difference),
        "divergence": figures(comparison.divergence),
        "agreement": ratio(comparison.agreed, count),
        "agreed_count": comparison.agreed,
    }


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def ratios(parts: Array, wholes: Array) -> list[float]:
    return [ratio(*pair) for pair in zip(parts.tolist(), wholes.tolist(), strict=True)]


# ---- an object as a tally


def as_tally(found: Any, name: str) -> Tally:
    """Read a tally back; refuse an object that is none, or of another version."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadInput(f"{name} is no result of nll score --json")
    if found.get("version") != VERSION:
        raise BadInput(
            f"{name} has version {found.get('version')}; this nll reads version {VERSION}",
        )
    try:
        return tally_of(found)
    except (*DAMAGES, zlib.error) as error:
        raise BadInput(f"{name} is damaged: {type(error).__name__}: {error}") from error


def tally_of(found: dict[str, Any]) -> Tally:
    choices = choices_of(found["options"])
    total = state_of(found["loss"], choices)
    by_class = parted_of(found["classes"], choices) if "classes" in found else None
    if by_class is not None and len(by_class.correct) != choices.classes:
        raise ValueError(f"it has {len(by_class.correct)} rows of {choices.classes} classes")
    worst = found.get("worst", {"limit": 0, "samples": []})
    return Tally(
        choices=choices,
        files=files_of(found["files"], with_other="comparison" in found),
        total=total,
        counts=counts_of(found, total.count) if "accuracy" in found else None,
        by_class=by_class,
        by_group=parted_of(found["groups"], choices) if "groups" in found else None,
        worst=[worst_of(one) for one in worst["samples"]],
        worst_limit=integer(worst["limit"], least=int("worst" in found)),
        comparison=comparison_of(found, choices, total.count) if "comparison" in found else None,
    )


def integer(value: Any, *, least: int = 0, most: int = 2**63 - 1) -> int:
    """Take an integer of [least, most] as it is."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"an integer of [{least}, {most}] is expected, not {value!r:.60}")
    return value


def integers(values: Any, length: int, most: Any) -> Array:
    """Take counts, each of [0, most]. most: a number, or one for each count."""
    array = np.array(values)
    if array.shape != (length,) or array.dtype.kind not in "iu" or (array < 0).any():
        raise ValueError(f"{length} counts are expected, not {values!r:.60}")
    if (array > most).any():
        raise ValueError("it counts more samples than there are")
    return array.astype(np.int64)


def is_label(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**64


# What options may be.
OPTIONS: dict[str, Callable[[Any], object]] = {
    "kind": lambda value: value in KINDS,
    "classes": lambda value: type(value) is int and 0 <= value < 2**63,
    "ignore_index": lambda value: value is None or is_label(value),
    "index_base": lambda value: is_label(value) and value < 2**63,
    "label_smoothing": lambda value: type(value) in (int, float) and 0 <= value <= 1,
    "shift": lambda value: type(value) is bool,
    "reduction": lambda value: value in ("mean", "sum"),
    "weighted": lambda value: type(value) is bool,
    "sample_weighted": lambda value: type(value) is bool,
}


def choices_of(found: dict[str, Any]) -> Choices:
    choices = Choices(**found)
    for key, is_right in OPTIONS.items():
        if not is_right(found[key]):
            raise ValueError(f"its {key} is {found[key]!r:.60}")
    return choices


def files_of(found: dict[str, Any], *, with_other: bool) -> dict[str, list[str]]:
    for key in ["input", "target", *(["compare"] if with_other else []), *found]:
        names = found[key]
        if type(names) is not list or not names or not all(type(one) is str for one in names):
            raise ValueError(f"its files of {key} are {names!r:.60}")
    return found


def state_of(found: dict[str, Any], choices: Choices, loss: str | None = None) -> LossAccumulator:
    """Restore a state: of a loss, or of that which was chosen."""
    return restored_as(base64.b64decode(found["state"], validate=True), choices, loss)


def restored_as(
    data: bytes,
    choices: Choices,
    loss: str | None = None,
    groups: int | None = None,
) -> LossAccumulator:
    """Restore states; refuse those of another loss, label smoothing or weights than chosen."""
    losses = restored(data, groups)
    kind = _core.Kind.of(np.frombuffer(data, np.uint8)[None, : LossAccumulator.state_size])
    is_cross_entropy = (loss or choices.loss) == "cross_entropy"
    smoothing = choices.label_smoothing if is_cross_entropy else 0
    expected = (is_cross_entropy, smoothing, choices.weighted)
    if (kind.is_cross_entropy, kind.label_smoothing, kind.has_weights) != expected:
        raise ValueError("a state is of another loss than its options say")
    return losses


def counts_of(found: dict[str, Any], samples: int) -> Counts:
    bins, losses, accuracy = found["calibration"], found["histogram"], found["accuracy"]
    if losses["edges"] != EDGES.tolist():
        raise ValueError("its bins are others")
    count = integers(bins["count"], BINS, samples)
    sums = [
        integer(int(total) if re.fullmatch("[0-9]+", total) else total, most=number * UNIT)
        for total, number in zip(bins["confidence_sum"], count.tolist(), strict=True)
    ]
    return Counts(
        integer(accuracy["top1_count"], most=samples),
        integer(accuracy["top5_count"], most=samples),
        integer(accuracy["undefined"], most=samples),
        Calibration(count, integers(bins["correct_count"], BINS, count), sums),
        integers([losses["below"], *losses["counts"], losses["above"]], len(EDGES) + 1, samples),
    )


def parted_of(found: dict[str, Any], choices: Choices) -> Parted:
    length = len(found["top1_count"])
    packed = base64.b64decode(found["states"], validate=True)
    # No more than it should be is unpacked, whatever the bytes ask for.
    data = zlib.decompressobj().decompress(packed, length * LossAccumulator.state_size + 1)
    losses = restored_as(data, choices, groups=length)
    return Parted(losses, integers(found["top1_count"], length, losses.count))


def worst_of(found: dict[str, Any]) -> Worst:
    label = {"least": -(2**63), "most": 2**64}
    if type(found["file"]) is not str:
        raise ValueError(f"the file of a label is {found['file']!r:.60}")
    return Worst(
        loss=float(found["loss"]),
        file=found["file"],
        position=tuple(integer(index) for index in found["position"]),
        target=integer(found["target"], **label),
        predicted=integer(found["predicted"], **label),
        probability=float(found["probability"]),
    )


def comparison_of(found: dict[str, Any], choices: Choices, samples: int) -> Comparison:
    compared = found["comparison"]
    return Comparison(
        state_of(compared["other"], choices),
        state_of(compared["difference"], choices, "nll"),
        state_of(compared["divergence"], choices, "nll"),
        integer(compared["agreed_count"], most=samples),
    )


# ---- files


def dump(found: dict[str, Any]) -> str:
    """Write an object as JSON. Numbers that are not finite become "nan", "inf" and "-inf"."""
    return json.dumps(finite(found), indent=1, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def save(file: Output, found: dict[str, Any]) -> None:
    """Save an object: all of it, or nothing."""
    with file.failing(), open(file.partial, "w", encoding="utf-8") as written:
        written.write(dump(found))
    file.keep()


def load(path: str) -> Tally:
    """Read a tally of a file."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error
    except (RecursionError, ValueError) as error:
        raise BadInput(f"{path} is no JSON: {error}") from error
    return as_tally(found, path)
