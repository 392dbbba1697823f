# SPDX-License-Identifier: BSD-3-Clause
"""The JSON object: what came out, and the states from which more can be added.

`score.schema.json` beside this file, which `nll schema` prints, says what each member means.
"""

import base64
import json
import math
import os
import zlib
from importlib.resources import files
from typing import Any

import numpy as np

from .. import LossAccumulator, __version__
from .._typing import Array
from .errors import BadInput, Failure
from .measures import BINS, EDGES, UNIT, Calibration
from .tally import Choices, Comparison, Counts, Parted, Tally, Worst, restored

FORMAT = "nll.score"
VERSION = 1
COMPARED = ("other", "difference", "divergence")


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
        return Tally(
            choices=Choices(**found["options"]),
            files={str(key): [str(one) for one in value] for key, value in found["files"].items()},
            total=state_of(found["loss"]),
            counts=counts_of(found) if "accuracy" in found else None,
            by_class=parted_of(found["classes"]) if "classes" in found else None,
            by_group=parted_of(found["groups"]) if "groups" in found else None,
            worst=[worst_of(one) for one in found["worst"]["samples"]] if "worst" in found else [],
            worst_limit=int(found["worst"]["limit"]) if "worst" in found else 0,
            comparison=comparison_of(found["comparison"]) if "comparison" in found else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
        raise BadInput(f"{name} is damaged: {type(error).__name__}: {error}") from error


def state_of(found: dict[str, Any]) -> Any:
    return restored(base64.b64decode(found["state"], validate=True))


def integers(values: Any, length: int) -> Array:
    array = np.array(values)
    if array.shape != (length,) or array.dtype.kind not in "iu" or (array < 0).any():
        raise ValueError(f"{length} counts are expected, not {values!r:.60}")
    return array.astype(np.int64)


def counts_of(found: dict[str, Any]) -> Counts:
    bins, losses = found["calibration"], found["histogram"]
    sums = [int(total) for total in bins["confidence_sum"]]
    if len(sums) != BINS or losses["edges"] != EDGES.tolist():
        raise ValueError("its bins are others")
    calibration = Calibration(
        integers(bins["count"], BINS),
        integers(bins["correct_count"], BINS),
        sums,
    )
    row = [losses["below"], *losses["counts"], losses["above"]]
    accuracy = found["accuracy"]
    top1, top5, undefined = (
        int(accuracy[key])
        for key in (
            "top1_count",
            "top5_count",
            "undefined",
        )
    )
    return Counts(top1, top5, undefined, calibration, integers(row, len(EDGES) + 1))


def parted_of(found: dict[str, Any]) -> Parted:
    length = len(found["top1_count"])
    packed = base64.b64decode(found["states"], validate=True)
    # No more than it should be is unpacked, whatever the bytes ask for.
    data = zlib.decompressobj().decompress(packed, length * LossAccumulator.state_size + 1)
    return Parted(restored(data, length), integers(found["top1_count"], length))


def worst_of(found: dict[str, Any]) -> Worst:
    position = tuple(int(i) for i in found["position"])
    numbers = {key: float(found[key]) for key in ("loss", "probability")}
    return Worst(**(found | {"position": position} | numbers))


def comparison_of(found: dict[str, Any]) -> Comparison:
    other, difference, divergence = (state_of(found[key]) for key in COMPARED)
    return Comparison(other, difference, divergence, int(found["agreed_count"]))


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


def save(path: str, found: dict[str, Any]) -> None:
    """Save an object: all of it, or nothing."""
    partial = f"{path}.part"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(dump(found))
        os.replace(partial, path)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def load(path: str) -> Tally:
    """Read a tally of a file."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BadInput(f"{path} is no JSON: {error}") from error
    return as_tally(found, path)
