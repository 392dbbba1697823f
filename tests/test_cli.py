# SPDX-License-Identifier: BSD-3-Clause
"""The command line: what it says of real files, in real processes, beside plain NumPy and fractions."""

from __future__ import annotations

import base64
import errno
import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nll

pytest.importorskip("click", reason="of the extra nll[cli]")
pytest.importorskip("rich", reason="of the extra nll[cli]")

from click.testing import CliRunner

from nll._cli.blocks import divide
from nll._cli.commands import Commands
from nll._cli.commands import nll as command
from nll._cli.errors import required
from nll._cli.outputs import output
from nll._cli.sources import Zipped

N, C = 400, 7


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which tests keep their files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def logits(rng: np.random.Generator) -> np.ndarray:
    """Better than chance, and saved as logits.npy."""
    target = rng.integers(0, C, N)
    logits = (2 * rng.normal(size=(N, C))).astype(np.float32)
    logits[np.arange(N), target] += 2
    np.save("logits.npy", logits)
    target[::9] = -100
    np.save("target.npy", target)
    return logits


@pytest.fixture
def target(logits: np.ndarray) -> np.ndarray:
    return np.load("target.npy")


def run(*arguments: object, status: int = 0) -> Any:
    """Run the command in this process."""
    result = CliRunner().invoke(command, list(map(str, arguments)))
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


def numbers(value: Any) -> Any:
    """What JSON holds, with the numbers that are not finite."""
    if isinstance(value, dict):
        return {key: numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [numbers(one) for one in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def score(*arguments: object) -> dict[str, Any]:
    """What the command saves as JSON."""
    run("score", *arguments, "--json", "result.json")
    return json.loads(Path("result.json").read_text("utf-8"))


def refused(*arguments: object, status: int = 2) -> str:
    result = run(*arguments, status=status)
    return result.stderr.strip().splitlines()[-1]


def process(*arguments: object, code: str | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start the command as a process."""
    start = ["-m", "nll"] if code is None else ["-c", code]
    root = str(Path(nll.__file__).parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, *start, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths} | environment,
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """By its definition in double, classes along the last axis."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def nearest(exact: Fraction) -> float:
    return exact.numerator / exact.denominator  # Python rounds a quotient of integers once


# ---- what it says


def test_log_probabilities_give_the_exact_mean(logits, target):
    values = log_softmax(logits)
    np.save("values.npy", values)
    loss = score("values.npy", "target.npy", "--kind", "log-probabilities")["loss"]
    kept = np.flatnonzero(target != -100)
    total = sum((-Fraction(float(values[i, target[i]])) for i in kept), Fraction(0))
    assert (loss["mean"], loss["sum"]) == (nearest(total / len(kept)), nearest(total))
    assert (loss["count"], loss["ignored"], loss["total_weight"]) == (len(kept), N - len(kept), len(kept))


@pytest.mark.parametrize("kind", ["logits", "log-probabilities", "probabilities"])
@pytest.mark.parametrize("axis", [1, -1, 2])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_figures(logits, target, kind, axis, dtype):
    values = log_softmax(logits)
    values = {"logits": logits, "log-probabilities": values, "probabilities": np.exp(values)}[kind].astype(dtype)
    logs = {"logits": log_softmax, "log-probabilities": np.float64, "probabilities": lambda p: np.log(np.float64(p))}
    logs = logs[kind](values)
    shaped = np.moveaxis(values.reshape(20, 20, C), -1, axis)
    np.save("values.npy", shaped)
    np.save("target.npy", target.reshape(20, 20))
    found = score("values.npy", "target.npy", "--kind", kind, "--axis", axis)

    kept = target != -100
    rows, labels = logs[kept], target[kept]
    losses = -rows[np.arange(len(rows)), labels]
    top, confidence = values[kept].argmax(1), np.exp(rows.max(1))
    order = np.argsort(-values[kept].astype(np.float64), axis=1, kind="stable")
    bins = np.minimum(np.ceil(confidence * 15).astype(int) - 1, 14)
    gaps = [abs((top == labels)[bins == b].sum() - confidence[bins == b].sum()) for b in range(15)]
    close = {"rel": 1e-6}
    assert found["loss"]["mean"] == pytest.approx(losses.mean(), **close)
    assert found["loss"]["standard_error"] == pytest.approx(losses.std(ddof=1) / np.sqrt(len(losses)), **close)
    assert found["loss"]["perplexity"] == pytest.approx(np.exp(losses.mean()), **close)
    assert found["loss"]["bits"] == pytest.approx(losses.mean() / np.log(2), **close)
    assert found["accuracy"]["top1"] == np.mean(top == labels)
    assert found["accuracy"]["top5"] == np.mean((order[:, :5] == labels[:, None]).any(1))
    assert found["calibration"]["expected_error"] == pytest.approx(sum(gaps) / len(losses), rel=1e-5)
    assert sum(found["histogram"]["counts"]) + found["histogram"]["below"] == len(losses)


def test_the_state_is_that_of_an_accumulator(logits, target):
    total = nll.LossAccumulator("cross_entropy")
    total.update(logits, target)
    for more in [], ["--per-class"], ["--loss-only"]:
        found = score("logits.npy", "target.npy", *more)
        assert base64.b64decode(found["loss"]["state"]) == total.to_bytes()


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_weights(logits, target, rng, smoothing):
    weight = rng.uniform(0.5, 2, C)
    np.save("weight.npy", weight)
    found = score("logits.npy", "target.npy", "--weight", "weight.npy", "--label-smoothing", smoothing)
    total = nll.LossAccumulator("cross_entropy", weight, label_smoothing=smoothing)
    total.update(logits, target)
    assert base64.b64decode(found["loss"]["state"]) == total.to_bytes()
    assert found["loss"]["total_weight"] == total.total_weight


def test_sample_weight(logits, target, rng):
    weight = rng.uniform(0.5, 2, N)
    np.save("weight.npy", weight)
    found = score("logits.npy", "target.npy", "--sample-weight", "weight.npy", "--worst", 3)
    kept = target != -100
    losses = -log_softmax(logits)[np.arange(N), np.where(kept, target, 0)]
    mean = (weight * losses)[kept].sum() / weight[kept].sum()
    assert found["loss"]["mean"] == pytest.approx(mean, rel=1e-6)
    assert found["worst"]["samples"][0]["loss"] == pytest.approx((weight * losses)[kept].max(), rel=1e-6)


def test_labels_from_one(logits, target):
    shifted = np.where(target == -100, 0, target + 1).astype(np.uint8)
    np.save("shifted.npy", shifted)
    found = score("logits.npy", "shifted.npy", "--index-base", 1, "--ignore-index", 0, "--worst", 2)
    plain = score("logits.npy", "target.npy", "--worst", 2)
    assert found["loss"] == plain["loss"]
    assert found["accuracy"] == plain["accuracy"]
    for one, other in zip(found["worst"]["samples"], plain["worst"]["samples"], strict=True):
        assert (one["target"], one["predicted"]) == (other["target"] + 1, other["predicted"] + 1)


@pytest.mark.parametrize("ndim", [1, 2])
def test_shift(logits, target, ndim):
    shape = (N,) if ndim == 1 else (4, N // 4)
    logits, target = logits.reshape(*shape, C), target.reshape(shape)
    np.save("logits.npy", logits)
    np.save("target.npy", target)
    np.save("before.npy", logits[..., :-1, :])
    np.save("after.npy", target[..., 1:])
    found = score("logits.npy", "target.npy", "--shift", "--chunk", 1e-3, "--worst", 4)
    expected = score("before.npy", "after.npy", "--axis", -1, "--worst", 4)
    for part in "loss", "accuracy", "calibration", "histogram":
        assert found[part] == expected[part]
    for one, other in zip(found["worst"]["samples"], expected["worst"]["samples"], strict=True):
        *first, last = other["position"]
        assert one["position"] == [*first, last + 1]
        assert one["loss"] == other["loss"]


def test_classes(logits, target):
    table = score("logits.npy", "target.npy", "--per-class")["classes"]
    for label in range(C):
        alone = nll.LossAccumulator("cross_entropy")
        alone.update(logits[target == label], target[target == label])
        alone = nll.LossAccumulator.from_bytes(alone.to_bytes(), dtype=np.float64)
        assert (table["mean"][label], table["count"][label]) == (alone.compute(), alone.count)
        assert table["standard_error"][label] == alone.standard_error
        assert table["accuracy"][label] == np.mean(logits[target == label].argmax(1) == label)


@pytest.mark.parametrize("whole", [True, False], ids=["of-each-sample", "of-first-axes"])
def test_groups(logits, target, whole):
    logits, target = logits.reshape(8, 50, C), target.reshape(8, 50)
    group = np.arange(8, dtype=np.uint16) // 3
    full = np.broadcast_to(group[:, None], target.shape)
    np.save("logits.npy", logits)
    np.save("target.npy", target)
    np.save("group.npy", full if whole else group)
    table = score("logits.npy", "target.npy", "--axis", -1, "--group", "group.npy")["groups"]
    assert len(table["mean"]) == 3
    for index in range(3):
        alone = nll.LossAccumulator("cross_entropy", axis=-1)
        alone.update(logits[group == index], target[group == index])
        alone = nll.LossAccumulator.from_bytes(alone.to_bytes(), dtype=np.float64)
        assert (table["mean"][index], table["count"][index]) == (alone.compute(), alone.count)
        assert table["ignored"][index] == alone.ignored


def test_worst(logits, target):
    found = score("logits.npy", "target.npy", "--worst", 5)["worst"]["samples"]
    losses = nll.cross_entropy(logits, target, reduction="none")
    order = np.argsort(-losses, kind="stable")[:5]
    assert [one["position"] for one in found] == [[index] for index in order]
    assert [one["loss"] for one in found] == losses[order].tolist()
    assert [one["predicted"] for one in found] == logits[order].argmax(1).tolist()
    assert [one["target"] for one in found] == target[order].tolist()
    assert found[0]["probability"] == pytest.approx(np.exp(-losses[order[0]]))


def test_losses_of_samples(logits, target):
    weight = np.linspace(1, 2, C)
    np.save("weight.npy", weight)
    run("score", "logits.npy", "target.npy", "--weight", "weight.npy", "--per-sample", "losses.npy")
    losses = np.load("losses.npy")
    expected = nll.cross_entropy(logits, target, weight, reduction="none")
    assert losses.dtype == np.float64
    assert losses.tolist() == expected.tolist()


def test_comparison(logits, target, rng):
    other = (logits + rng.normal(size=logits.shape)).astype(np.float32)
    np.save("other.npy", other)
    found = score("logits.npy", "target.npy", "--compare", "other.npy")["comparison"]
    kept = target != -100
    logs, others = log_softmax(logits)[kept], log_softmax(other)[kept]
    rows, labels = np.arange(kept.sum()), target[kept]
    difference = others[rows, labels] - logs[rows, labels]
    divergence = (np.exp(others) * (others - logs)).sum(1)
    for key, values in ("difference", difference), ("divergence", divergence), ("other", -others[rows, labels]):
        assert found[key]["mean"] == pytest.approx(values.mean(), rel=1e-6)
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert found[key]["standard_error"] == pytest.approx(error, rel=1e-6)
    assert found["agreement"] == np.mean(logits[kept].argmax(1) == other[kept].argmax(1))


def test_a_comparison_with_itself_differs_in_nothing(logits):
    found = score("logits.npy", "target.npy", "--compare", "logits.npy")["comparison"]
    assert (found["difference"]["mean"], found["difference"]["standard_error"]) == (0, 0)
    assert (found["divergence"]["mean"], found["agreement"]) == (0, 1)


@pytest.mark.parametrize("classes", [3, 40, 5000], ids=["class-by-class", "together", "row-by-row"])
def test_equal_logits_are_found_in_their_order(classes):
    samples = min(classes, 40)
    np.save("logits.npy", np.zeros((samples, classes), np.float32))
    np.save("target.npy", np.arange(samples))
    found = score("logits.npy", "target.npy")["accuracy"]
    assert (found["top1_count"], found["top5_count"]) == (1, min(5, classes))


@pytest.mark.parametrize("classes", [31, 32, 100, 4095, 4096])
def test_accuracy_with_many_classes(rng, classes):
    logits = rng.integers(0, 50, (60, classes)).astype(np.float32)  # with many that are equal
    target = rng.integers(0, classes, 60)
    logits[np.arange(60), target] += 49
    np.save("logits.npy", logits)
    np.save("target.npy", target)
    found = score("logits.npy", "target.npy")
    order = np.argsort(-logits, axis=1, kind="stable")
    assert found["accuracy"]["top1_count"] == np.count_nonzero(order[:, 0] == target)
    assert found["accuracy"]["top5_count"] == np.count_nonzero((order[:, :5] == target[:, None]).any(1))


def test_a_probability_of_zero_leaves_the_confidence():
    np.save("logits.npy", np.array([[-np.inf, 2, 0], [1, -np.inf, 0]], np.float32))
    np.save("target.npy", np.array([0, 0]))
    found = numbers(score("logits.npy", "target.npy", "--per-class"))
    assert found["loss"]["mean"] == np.inf
    assert found["loss"]["perplexity"] == np.inf
    filled = [value for value in found["calibration"]["confidence"] if not np.isnan(value)]
    assert filled == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))])


def test_few_classes_of_images(rng):
    images = rng.normal(size=(5, 2, 8, 9)).astype(np.float32)
    images[0] = 0  # equal ones: the first is taken
    target = rng.integers(0, 2, (5, 8, 9))
    np.save("images.npy", images)
    np.save("target.npy", target)
    assert score("images.npy", "target.npy")["accuracy"]["top1"] == np.mean(images.argmax(1) == target)


def test_ignored_labels_are_none_or_one(logits, target):
    np.save("target.npy", np.where(target == -100, 0, target))
    assert score("logits.npy", "target.npy", "--ignore-index", "none")["loss"]["count"] == N
    assert score("logits.npy", "target.npy", "--ignore-index", 0)["loss"]["count"] < N


def test_probabilities_that_are_taken_for_logits_are_noted(logits):
    np.save("values.npy", np.exp(log_softmax(logits)))
    assert "values.npy looks like probabilities" in run("score", "values.npy", "target.npy").stderr
    assert "looks like" not in run("score", "logits.npy", "target.npy").stderr


@pytest.mark.parametrize("kind", ["log-probabilities", "probabilities"])
def test_comparison_of_probabilities(logits, kind):
    """It finds what a comparison of logits finds."""
    values = log_softmax(logits)
    np.save("other.npy", (values[::-1] if kind == "log-probabilities" else np.exp(values[::-1])).copy())
    np.save("values.npy", values if kind == "log-probabilities" else np.exp(values))
    np.save("reversed.npy", logits[::-1].copy())
    found = score("values.npy", "target.npy", "--compare", "other.npy", "--kind", kind)["comparison"]
    of_logits = score("logits.npy", "target.npy", "--compare", "reversed.npy")["comparison"]
    assert found["agreement"] == of_logits["agreement"]
    for part in "other", "difference", "divergence":
        assert found[part]["mean"] == pytest.approx(of_logits[part]["mean"], rel=1e-5)


def test_a_picture_of_losses_beyond_its_histogram():
    """It says how many are left out."""
    pytest.importorskip("matplotlib")
    np.save("sure.npy", np.where(np.eye(C) == 1, 1e6, 0.0))
    np.save("labels.npy", np.arange(C))
    run("score", "sure.npy", "labels.npy", "--plot", "picture.svg")
    assert "100.0 % are smaller than" in Path("picture.svg").read_text("utf-8")


@pytest.mark.parametrize("classes", [C, 50], ids=["bars", "the-worst"])
@pytest.mark.parametrize("value", [np.inf, np.nan], ids=str)
def test_a_picture_of_a_mean_that_is_not_finite(rng, classes, value):
    """It has no line of the mean, and so no legend of lines, of which Matplotlib would warn."""
    pytest.importorskip("matplotlib")
    logits = rng.normal(size=(N, classes))
    target = rng.integers(0, classes, N)
    logits[0, target[0]] = -value
    np.save("logits.npy", logits)
    np.save("target.npy", target)
    run("score", "logits.npy", "target.npy", "--plot", "picture.svg")
    assert "all classes" not in Path("picture.svg").read_text("utf-8")


def test_what_is_not_a_number_is_told():
    np.save("logits.npy", np.array([[np.nan, 2, 0], [1, 0, np.nan], [3, 0, 1]], np.float32))
    np.save("target.npy", np.array([0, 0, 0]))
    found = numbers(score("logits.npy", "target.npy", "--worst", 1))
    assert np.isnan(found["loss"]["mean"])
    assert found["accuracy"]["undefined"] == 2
    assert (found["accuracy"]["top1_count"], sum(found["calibration"]["count"])) == (1, 1)
    assert found["worst"]["samples"][0]["position"] == [0]


@pytest.mark.parametrize("format", ["npy", "safetensors"])
@pytest.mark.parametrize("shape", [(0, C), (3, C, 0), (2, C), (2, 0)], ids=str)
def test_nothing_to_score(shape, format):
    empty = np.zeros(shape, np.float32)
    if format == "npy":
        np.save("logits.npy", empty)
    else:
        pytest.importorskip("safetensors.numpy").save_file({"a": empty}, "logits.safetensors")
    np.save("target.npy", np.full((shape[0], *shape[2:]), -100))
    found = numbers(score(f"logits.{format}", "target.npy", "--per-class", "--worst", 2))
    assert np.isnan(found["loss"]["mean"])
    assert found["loss"]["count"] == 0


@pytest.fixture
def without_classes() -> None:
    """Predictions of no class, whose samples are all ignored."""
    np.save("logits.npy", np.zeros((20, 0), np.float32))
    np.save("target.npy", np.full(20, -100))
    np.save("group.npy", np.arange(20) // 7)


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--kind", "log-probabilities"],
        ["--kind", "probabilities"],
        ["--per-class"],
        ["--group", "group.npy"],
        ["--worst", 3],
        ["--compare", "logits.npy"],
        ["--per-sample", "losses.npy"],
        ["--plot", "picture.svg"],
    ],
    ids=lambda more: " ".join(map(str, more)),
)
@pytest.mark.usefixtures("without_classes")
def test_samples_of_no_class_are_ignored(more):
    if "--plot" in more:
        pytest.importorskip("matplotlib")
    found = score("logits.npy", "target.npy", *more)
    assert (found["loss"]["count"], found["loss"]["ignored"]) == (0, 20)


@pytest.mark.parametrize("kind", ["logits", "log-probabilities", "probabilities"])
@pytest.mark.usefixtures("without_classes")
def test_a_label_where_there_is_no_class_is_told_with_status_2(kind):
    np.save("target.npy", np.where(np.arange(20) == 7, 0, -100))
    message = refused("score", "logits.npy", "target.npy", "--kind", kind)
    assert message == "Error: target.npy[7] is 0, outside [0, 0) (ignore_index is -100)"


def test_one_sample_without_an_axis_of_samples(logits):
    np.save("one.npy", logits[3])
    np.save("label.npy", np.array(2))
    expected = nll.cross_entropy(logits[3], 2, dtype=np.float64)
    assert score("one.npy", "label.npy")["loss"]["mean"] == pytest.approx(float(expected), rel=1e-6)


# ---- the same from any file, in any blocks, in parts


def saved(kind: str, logits: np.ndarray) -> str:
    """Save logits; return what names them on the command line."""
    if kind in ("npz", "npz-compressed"):
        (np.savez if kind == "npz" else np.savez_compressed)("values.npz", logits=logits, more=logits)
        return "values.npz:logits"
    if kind == "safetensors":
        pytest.importorskip("safetensors.numpy").save_file({"a": logits, "b": logits * 2}, "v.safetensors")
        return "v.safetensors:a"
    if kind.startswith("zarr"):
        zarr = pytest.importorskip("zarr")
        version = 2 if kind == "zarr-2" else 3
        if kind == "zarr-group":
            zarr.open_group("v.zarr", mode="w").create_array("a", data=logits, chunks=(64, C))
            return "v.zarr/a"
        zarr.create_array("v.zarr", data=logits, chunks=(64, C), zarr_format=version)
        return "v.zarr"
    if kind == "shards":
        for index, part in enumerate(np.split(logits, [10, 11, 50, 51, 52, 53, 54, 55, 90, 91, 99])):
            np.save(f"shard-{index}.npy", part)
        return "shard-*.npy"
    array = {"fortran": np.asfortranarray(logits), "big-endian": logits.astype(">f4")}[kind]
    np.save("values.npy", array)
    return "values.npy"


FORMATS = ["npz", "npz-compressed", "safetensors", "zarr-2", "zarr-3", "zarr-group", "shards", "fortran", "big-endian"]


@pytest.mark.parametrize("format", FORMATS)
def test_formats(logits, format):
    expected = score("logits.npy", "target.npy", "--worst", 3)
    found = score(saved(format, logits), "target.npy", "--worst", 3, "--chunk", 1e-3)
    assert found.pop("files") != expected.pop("files")
    assert found == expected


@pytest.mark.parametrize("format", ["raw", "uint16", "safetensors", "safetensors-uint16"])
def test_bfloat16(logits, format):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    halves = logits.astype(bfloat16)
    name, more = "halves.npy", ["--dtype", "bfloat16"]
    if format.startswith("safetensors"):
        name, more = "halves.safetensors", more if format.endswith("uint16") else []
        stored = halves.view(np.uint16) if more else halves
        pytest.importorskip("safetensors.numpy").save_file({"halves": stored}, name)
    else:
        np.save("halves.npy", halves if format == "raw" else halves.view(np.uint16))
    found = score(name, "target.npy", *more)
    assert score(name, "target.npy", "--dtype", "bfloat16") == found  # also where the file says it
    np.save("wide.npy", halves.astype(np.float32))
    assert found["loss"]["mean"] == pytest.approx(score("wide.npy", "target.npy")["loss"]["mean"], rel=1e-6)
    assert found["accuracy"] == score("wide.npy", "target.npy")["accuracy"]


def test_a_npz_whose_header_is_long(logits):
    """Version 2 of the format, for structures of many fields."""
    with zipfile.ZipFile("long.npz", "w") as archive, archive.open("a.npy", "w") as member:
        np.lib.format.write_array(member, logits, version=(2, 0))
    assert score("long.npz", "target.npy")["loss"] == score("logits.npy", "target.npy")["loss"]


def test_labels_are_no_raw_bytes(logits):
    """--dtype is of predictions' raw elements; labels stay what they are."""
    pytest.importorskip("ml_dtypes")
    np.save("halves.npy", logits.astype("bfloat16").view(np.uint16))
    np.save("labels.npy", np.load("target.npy").astype(np.int16))
    found = score("halves.npy", "labels.npy", "--dtype", "bfloat16")
    assert found["loss"] == score("halves.npy", "target.npy", "--dtype", "bfloat16")["loss"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_zarr_arrays_of_either_byte_order(logits, order):
    zarr = pytest.importorskip("zarr")
    zarr.create_array("ordered.zarr", data=logits.astype(f"{order}f4"), chunks=(64, C), zarr_format=2)
    assert score("ordered.zarr", "target.npy")["loss"] == score("logits.npy", "target.npy")["loss"]


def test_a_zarr_array_of_objects_is_refused(logits):
    zarr, numcodecs = pytest.importorskip("zarr"), pytest.importorskip("numcodecs")
    zarr.create_array("odd.zarr", data=logits, chunks=(64, C), zarr_format=2, filters=[numcodecs.Base64()])
    message = refused("score", "odd.zarr", "target.npy")
    assert message == "Error: odd.zarr has the codec 'base64': nll reads arrays of numbers, and never unpickles"


def test_a_npz_says_that_it_cannot_be_mapped(logits):
    np.savez("values.npz", logits)
    result = run("score", "values.npz", "target.npy")
    assert result.stderr.startswith("note: values.npz: a .npz cannot be mapped, so arr_0 is read whole")


EVERYTHING = ["--per-class", "--group", "group.npy", "--worst", 7, "--compare", "other.npy"]


@pytest.fixture
def companions(logits, rng):
    """Other predictions, and groups."""
    np.save("other.npy", (logits + rng.normal(size=logits.shape)).astype(np.float32))
    np.save("group.npy", np.arange(N) * 5 // N)


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.usefixtures("logits")
def test_agreement_where_classes_lie_apart(classes, rng):
    """Of equal logits the first counts."""
    one, other = rng.integers(0, 4, (2, 50, classes, 3)).astype(np.float32)
    np.save("logits.npy", one)
    np.save("other.npy", other)
    np.save("target.npy", rng.integers(0, classes, (50, 3)))
    found = score("logits.npy", "target.npy", "--compare", "other.npy")["comparison"]
    assert found["agreement"] == np.mean(one.argmax(1) == other.argmax(1))


@pytest.mark.usefixtures("logits")
def test_the_loss_only_has_no_accuracy_of_classes():
    found = score("logits.npy", "target.npy", "--per-class", "--loss-only")
    assert found["classes"]["accuracy"] is None
    assert "accuracy" not in found
    assert "top-1" not in run("score", "logits.npy", "target.npy", "--per-class", "--loss-only").stdout


def test_a_loss_without_end_changes_no_other_confidence(logits, target):
    logits[1, target[1]] = -np.inf
    np.save("logits.npy", logits)
    found = [score("logits.npy", "target.npy", "--chunk", chunk)["calibration"] for chunk in (1e-9, 1e-3, 1)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1e-9, 1e-3, 100])
@pytest.mark.usefixtures("companions")
def test_blocks_and_threads_change_nothing(threads, chunk):
    expected = score("logits.npy", "target.npy", *EVERYTHING)
    found = score("logits.npy", "target.npy", *EVERYTHING, "--threads", threads, "--chunk", chunk)
    assert found == expected


@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.usefixtures("companions")
def test_merged_parts_are_the_whole_byte_for_byte(everything):
    names = ["logits", "target", "other", "group"]
    for name in names:
        for index, part in enumerate(np.split(np.load(f"{name}.npy"), [90, 91, 300])):
            np.save(f"{name}-{index}.npy", part)

    def arguments(part: object) -> list[object]:
        more = ["--per-class", "--worst", 7] if everything else ["--loss-only"]
        if everything:
            more += ["--group", f"group-{part}.npy", "--compare", f"other-{part}.npy"]
        return ["score", f"logits-{part}.npy", f"target-{part}.npy", *more]

    for part in range(4):
        run(*arguments(part), "--json", f"{part}.json")
    run(*arguments("*"), "--json", "whole.json")
    run("merge", "0.json", "1.json", "2.json", "3.json", "--json", "merged.json")
    assert Path("merged.json").read_bytes() == Path("whole.json").read_bytes()
    run("merge", "0.json", "1.json", "--json", "first.json")
    run("merge", "2.json", "3.json", "--json", "second.json")
    run("merge", "first.json", "second.json", "--json", "merged.json")
    assert Path("merged.json").read_bytes() == Path("whole.json").read_bytes()


@pytest.mark.parametrize(
    "more",
    [
        ["--weight", "weight.npy", "--per-class"],
        ["--label-smoothing", 0.1, "--per-class"],
        ["--label-smoothing", 1],
        ["--sample-weight", "sample.npy", "--worst", 2],
        ["--compare", "other.npy", "--weight", "weight.npy"],
        ["--compare", "other.npy", "--label-smoothing", 0.1],
        ["--kind", "log-probabilities", "--compare", "other.npy", "--weight", "weight.npy"],
        ["--ignore-index", "none", "--index-base", -100],
        ["--ignore-index", 2**64 - 1, "--index-base", -100],
        ["--reduction", "sum"],
    ],
    ids=lambda more: " ".join(map(str, more)),
)
def test_what_is_saved_can_be_merged(logits, target, more):
    logits = -np.abs(np.pad(logits, ((0, 0), (0, 100))))  # with classes for the labels from -100 on
    np.save("logits.npy", logits)
    np.save("other.npy", logits[::-1].copy())
    np.save("weight.npy", np.arange(100 + C) + 1)
    np.save("sample.npy", np.linspace(1, 2, N))
    run("score", "logits.npy", "target.npy", *more, "--json", "it.json")
    run("merge", "it.json", "--json", "again.json")
    assert Path("again.json").read_bytes() == Path("it.json").read_bytes()


@pytest.mark.parametrize(
    ("shape", "limit", "cuts", "granule"),
    [((10,), 3, (), 1), ((10,), 3, (4, 5), 1), ((10,), 3, (7,), 2), ((4, 6, 5), 7, (2,), 1), ((4, 6, 5), 30, (3,), 1)],
    ids=str,
)
def test_blocks_cover_each_sample_once(shape, limit, cuts, granule):
    seen = np.zeros(shape, int)
    for block in divide(shape, limit, cuts, granule):
        assert seen[block].size <= max(limit, granule * int(np.prod(shape[1:]))) + granule
        assert not any(block[0].start < cut < block[0].stop for cut in cuts)
        seen[block] += 1
    assert (seen == 1).all()


# ---- what it refuses, and how it ends


def test_a_wrong_label_names_file_position_and_value(logits, target):
    target[[250, 300]] = [7, -1]
    for index, part in enumerate(np.split(target, [100, 200])):
        np.save(f"labels-{index}.npy", part)
    for chunk in 1e-4, 100:
        message = refused("score", "logits.npy", "labels-*.npy", "--chunk", chunk, "--threads", 2)
        assert message == "Error: labels-2.npy[50] is 7, outside [0, 7) (ignore_index is -100)"
    np.save("square.npy", target.reshape(20, 20))
    np.save("logits.npy", logits.reshape(20, 20, C))
    message = refused("score", "logits.npy", "square.npy", "--shift", "--ignore-index", 7, "--per-class")
    assert message == "Error: square.npy[0, 9] is -100, outside [0, 7) (ignore_index is 7)"


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("trapped", "w")


def prepare_bad_files(target: np.ndarray) -> None:
    np.save("short.npy", target[:-1])
    np.save("floats.npy", target.astype(np.float32))
    np.save("integers.npy", np.zeros((N, C), np.int64))
    np.save("raw.npy", np.zeros((N, C), "V2"))
    np.save("objects.npy", np.array([Trap()], object), allow_pickle=True)
    np.savez("objects.npz", a=np.array([Trap()], object))
    np.savez("two.npz", a=target, b=target)
    np.save("weight.npy", np.ones(C + 1))
    np.save("group.npy", np.full(N, -3))
    np.save("other.npy", np.zeros((N, C + 1), np.float32))
    np.save("part-0.npy", np.zeros((2, C), np.float32))
    np.save("part-1.npy", np.zeros((2, C - 1), np.float32))
    Path("pickled.npy").write_bytes(pickle.dumps(Trap()))
    Path("cut.npy").write_bytes(Path("logits.npy").read_bytes()[:2000])
    Path("cut.npz").write_bytes(Path("two.npz").read_bytes()[:2000])
    np.save("scalar.npy", np.float32(1))
    for index, dtype in enumerate([np.float32, np.float32, np.float64]):
        np.save(f"same-{index}.npy", np.zeros((N, C), dtype))
    np.save("weight-of-7.npy", np.ones(C))
    np.save("many-groups.npy", np.full(N, 1 << 20))
    np.save("wide.npy", np.zeros((2, (1 << 17) + 1), np.float16))
    np.save("two.npy", target[:2])
    np.save("label.npy", target[0])
    for index in range(2):
        np.save(f"line-{index}.npy", np.zeros(C, np.float32))
    with zipfile.ZipFile("header.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY" + bytes([3, 0]) + bytes(100))
    Path("text.json").write_text("{}", "utf-8")
    Path("no.json").write_text("{", "utf-8")


BAD = {
    "no-input": (["none.npy", "target.npy"], "none.npy: no such file"),
    "no-shards": (["none-*.npy", "target.npy"], "none-*.npy: no file has such a name"),
    "length": (["logits.npy", "short.npy"], "short.npy has shape (399,), but logits.npy has (400, 7)"),
    "float-labels": (["logits.npy", "floats.npy"], "floats.npy has dtype float32; labels must be integers"),
    "integer-logits": (["integers.npy", "target.npy"], "integers.npy has dtype int64; predictions must be"),
    "raw": (["raw.npy", "target.npy"], "raw.npy has raw elements of 2 bytes: pass --dtype bfloat16"),
    "objects": (["objects.npy", "target.npy"], "objects.npy: it holds Python objects, which nll never unpickles"),
    "npz-objects": (["objects.npz", "target.npy"], "objects.npz: it holds Python objects, which nll never"),
    "pickle": (["pickled.npy", "target.npy"], "pickled.npy is none of the formats that are read"),
    "two-arrays": (["logits.npy", "two.npz"], "two.npz has 2 arrays (a, b): name one, as two.npz:NAME"),
    "no-such-array": (["logits.npy", "two.npz:c"], "two.npz has no array 'c'; it has a, b"),
    "name-of-npy": (["logits.npy:a", "target.npy"], "logits.npy: a .npy file has one array, without a name"),
    "cut": (["cut.npy", "target.npy"], "cut.npy: mmap length is greater than file size"),
    "cut-archive": (["logits.npy", "cut.npz:a"], "cut.npz: "),
    "weight": (["logits.npy", "target.npy", "--weight", "weight.npy"], "weight.npy has shape (8,), but there are 7"),
    "group": (["logits.npy", "target.npy", "--group", "group.npy"], "group.npy[0] is -3; groups are 0 or more"),
    "other": (["logits.npy", "target.npy", "--compare", "other.npy"], "other.npy has shape (400, 8), but logits.npy"),
    "shards": (["part-*.npy", "target.npy"], "part-1.npy has shape (2, 6), which does not continue (2, 7) of part-0"),
    "scalar": (["scalar.npy", "target.npy"], "scalar.npy has no dimension; predictions have a class axis"),
    "axis-of-shards": (["same-[01].npy", "target.npy", "--axis", 0], "axis is 0, along which shards are joined"),
    "shards-of-classes": (["line-*.npy", "label.npy"], "the class axis is 0, along which shards are joined"),
    "dtype-of-shards": (["same-*.npy", "target.npy"], "same-2.npy has dtype float64, but same-0.npy has float32"),
    "long-name": (["a" * 300 + ".npy", "target.npy"], "a.npy: File name too long"),
    "header": (["header.npz", "target.npy"], "a has a header of version (3, 0)"),
    "not-raw": (["same-2.npy", "target.npy", "--dtype", "bfloat16"], "float64, which are no raw bytes of bfloat16"),
    "sample-weight": (
        ["logits.npy", "target.npy", "--sample-weight", "short.npy"],
        "short.npy has shape (399,), which does not broadcast to (400,) of target.npy",
    ),
    "float-groups": (
        ["logits.npy", "target.npy", "--group", "floats.npy"],
        "floats.npy has dtype float32; groups must",
    ),
    "many-groups": (["logits.npy", "target.npy", "--group", "many-groups.npy"], "groups up to 1048576; at most 131072"),
    "many-classes": (["wide.npy", "two.npy", "--per-class"], "--per-class is for at most 131072 classes, not 131073"),
    "compare": (
        [
            "logits.npy",
            "target.npy",
            "--compare",
            "logits.npy",
            "--weight",
            "weight-of-7.npy",
            "--label-smoothing",
            0.1,
        ],
        "--compare takes --weight or --label-smoothing, not both",
    ),
    "no-label": (
        ["logits.npy", "target.npy", "--ignore-index", 2**64],
        "is outside [-2^63, 2^64): no label can be that",
    ),
    "axis": (["logits.npy", "target.npy", "--axis", 2], "--axis 2 is out of bounds for logits.npy"),
    "kind": (["logits.npy", "target.npy", "--kind", "log-probabilities"], "a log-probability is at most 0"),
    "probabilities": (["logits.npy", "target.npy", "--kind", "probabilities"], "a probability is in [0, 1]"),
    "smoothing": (["logits.npy", "target.npy", "--kind", "probabilities", "--label-smoothing", 0.1], "for logits"),
    "ignore-index": (["logits.npy", "target.npy", "--ignore-index", "x"], "'x' is neither an integer nor none"),
    "plot": (["logits.npy", "target.npy", "--loss-only", "--plot", "p.png"], "--plot shows accuracy and calibration"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_with_status_2(logits, target, name):
    prepare_bad_files(target)
    arguments, words = BAD[name]
    assert words in refused("score", *arguments)
    assert not Path("trapped").exists()


@pytest.mark.parametrize("chunk", ["inf", "nan", "0", "-1"])
def test_a_chunk_is_a_number_above_0(logits, chunk):
    assert "Invalid value for '--chunk'" in refused("score", "logits.npy", "target.npy", "--chunk", chunk)


def test_a_chunk_may_be_larger_than_any_memory(logits):
    assert score("logits.npy", "target.npy", "--chunk", 1e308) == score("logits.npy", "target.npy")


def with_header(
    descr: str = "'<f4'", shape: str = f"({N}, {C})", end: str = "}", numbers: bytes = bytes(4 * N * C)
) -> bytes:
    """The bytes of a .npy file whose header says this."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {end}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + numbers


HEADERS = {
    "endless": with_header(shape="(99999999999999999999,)"),
    "negative": with_header(shape=f"(-{N}, {C})"),
    "bool": with_header(shape=f"(True, {C})"),
    "deep": with_header(shape=f"({'-' * 5000}1,)"),
    "no-dtype": with_header("',,'"),
    "cut": with_header(end=""),
}


@pytest.mark.parametrize("format", ["npy", "npz"])
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_damaged_header_is_told_with_status_2(logits, header, format):
    Path("bad.npy").write_bytes(header)
    if format == "npz":
        with zipfile.ZipFile("bad.npz", "w") as archive:
            archive.write("bad.npy")
    assert refused("score", f"bad.{format}", "target.npy").startswith(f"Error: bad.{format}: ")


def half_packed() -> bytes:
    """The deflated beginning of an array, and a block of a kind that there is not."""
    packer = zlib.compressobj(wbits=-15)
    begin = with_header(numbers=np.random.default_rng(1).bytes(2 * N * C))
    return packer.compress(begin) + packer.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 100


MEMBERS = {  # bytes, flags and method of compression
    "damaged": (half_packed(), 0, zipfile.ZIP_DEFLATED),
    "damaged-header": (b"\xff" * 100, 0, zipfile.ZIP_DEFLATED),
    "encrypted": (with_header(), 1, zipfile.ZIP_STORED),
    "unknown-method": (with_header(), 0, 77),
}


@pytest.mark.parametrize(("member", "flags", "method"), MEMBERS.values(), ids=MEMBERS)
def test_a_npz_that_cannot_be_unpacked_is_told_with_status_2(logits, member, flags, method):
    with zipfile.ZipFile("bad.npz", "w") as archive:
        archive.writestr("a.npy", member)
    whole = bytearray(Path("bad.npz").read_bytes())
    for begin in 6, whole.index(b"PK\1\2") + 8:  # of the two headers that say both
        whole[begin : begin + 4] = struct.pack("<HH", flags, method)
    Path("bad.npz").write_bytes(whole)
    assert refused("score", "bad.npz", "target.npy").startswith("Error: bad.npz: ")


@pytest.mark.parametrize("format", ["npy", "npz", "zarr", "safetensors"])
def test_numbers_are_no_raw_bytes(logits, format):
    if format == "npz":
        np.savez("logits.npz", logits)
    elif format == "zarr":
        pytest.importorskip("zarr").create_array("logits.zarr", data=logits, chunks=(64, C))
    elif format == "safetensors":
        pytest.importorskip("safetensors.numpy").save_file({"a": logits}, "logits.safetensors")
    message = refused("score", f"logits.{format}", "target.npy", "--dtype", "bfloat16")
    assert message == f"Error: logits.{format} has dtype float32, which are no raw bytes of bfloat16"


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_safetensors_of_a_dtype_that_numpy_lacks_are_told_with_status_2(logits, dtype):
    pytest.importorskip("safetensors")
    about = {"a": {"dtype": dtype, "shape": [N, C], "data_offsets": [0, N * C]}}
    header = json.dumps(about).encode()
    Path("small.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(N * C))
    message = refused("score", "small.safetensors", "target.npy")
    assert message == f"Error: small.safetensors: a has dtype {dtype}, which NumPy does not have"


def test_bad_safetensors_are_told_with_status_2(logits):
    save = pytest.importorskip("safetensors.numpy").save_file
    save({"a": np.float32([1.0])[0:1].reshape(())}, "scalar.safetensors")
    assert "scalar.safetensors: a is a single number" in refused("score", "scalar.safetensors", "target.npy")
    Path("cut.safetensors").write_bytes(bytes(20))
    assert "cut.safetensors: " in refused("score", "cut.safetensors", "target.npy")


def test_arrays_of_a_zarr_group(logits):
    """One is taken; of several, one has to be named."""
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group("group.zarr", mode="w")
    group.create_array("a", data=logits, chunks=(64, C))
    assert score("group.zarr", "target.npy")["loss"] == score("logits.npy", "target.npy")["loss"]
    group.create_array("b", data=logits, chunks=(64, C))
    assert "group.zarr has 2 arrays (a, b): name one" in refused("score", "group.zarr", "target.npy")
    assert "no Zarr array is there" in refused("score", "group.zarr:c", "target.npy")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("array.zarr:a", "array.zarr: it is one Zarr array, without a name ('a')"),
        ("group.zarr:part", "group.zarr: part is a group: name an array in it, as group.zarr:part/NAME"),
        ("list.zarr", "list.zarr: no Zarr array is there"),
        ("deep.zarr", "deep.zarr: no Zarr array is there"),
    ],
)
def test_a_bad_zarr_array_is_told_with_status_2(logits, given, words):
    zarr = pytest.importorskip("zarr")
    zarr.create_array("array.zarr", data=logits, chunks=(64, C))
    zarr.open_group("group.zarr", mode="w").create_group("part").create_array("a", data=logits, chunks=(64, C))
    for name, about in ("list", "[]"), ("deep", "[" * 100_000):
        Path(f"{name}.zarr").mkdir()
        Path(f"{name}.zarr/zarr.json").write_text(about, "utf-8")
    assert words in refused("score", given, "target.npy")


@pytest.mark.parametrize("raw", [np.dtype(np.uint16), np.dtype("V2")], ids=str)
def test_raw_bytes_of_a_zarr_array(logits, raw):
    zarr = pytest.importorskip("zarr")
    halves = logits.astype(pytest.importorskip("ml_dtypes").bfloat16)
    np.save("halves.npy", halves.view(np.uint16))
    zarr.create_array("raw.zarr", data=halves.view(raw), chunks=(64, C), zarr_format=2)
    found = score("raw.zarr", "target.npy", "--dtype", "bfloat16", "--chunk", 1e-3)
    assert found["loss"] == score("halves.npy", "target.npy", "--dtype", "bfloat16")["loss"]


def test_a_picture_needs_what_it_shows(logits):
    run("score", "logits.npy", "target.npy", "--loss-only", "--json", "it.json")
    assert "it.json has no accuracy and calibration" in refused("merge", "it.json", "--plot", "it.png")


def test_a_zarr_array_is_not_unpickled(logits):
    zarr = pytest.importorskip("zarr")
    zarr.create_array("trap.zarr", data=logits, chunks=(N, C), zarr_format=2, compressors=None)
    about = json.loads(Path("trap.zarr/.zarray").read_text("utf-8"))
    Path("trap.zarr/.zarray").write_text(json.dumps(about | {"filters": [{"id": "pickle", "protocol": 5}]}), "utf-8")
    (chunk,) = (path for path in Path("trap.zarr").iterdir() if not path.name.startswith("."))
    chunk.write_bytes(pickle.dumps(Trap()))
    assert "trap.zarr" in refused("score", "trap.zarr", "target.npy")
    assert not Path("trapped").exists()


@pytest.mark.parametrize("format", ["zarr", "npz"])
def test_a_damaged_block_is_told_with_status_2(logits, format):
    if format == "zarr":
        zarr = pytest.importorskip("zarr")
        zarr.create_array("damaged.zarr", data=logits, chunks=(N, C))
        (chunk,) = (path for path in Path("damaged.zarr/c").rglob("*") if path.is_file())
        chunk.write_bytes(b"damaged")
    else:
        np.savez("damaged.npz", logits)
        whole = bytearray(Path("damaged.npz").read_bytes())
        whole[500] ^= 255
        Path("damaged.npz").write_bytes(whole)
    assert "damaged" in refused("score", f"damaged.{format}", "target.npy")


def damaged(change: Any) -> Any:
    def write(whole: dict[str, Any]) -> None:
        change(whole)
        Path("bad.json").write_text(json.dumps(whole), "utf-8")

    return write


def put(value: Any, *path: str | int) -> Any:
    """Make the change by which a member of the object has another value."""

    def change(whole: dict[str, Any]) -> None:
        *outer, last = path
        for key in outer:
            whole = whole[key]
        whole[last] = value

    return damaged(change)


def state_of_another(loss: str, weight: Any = None, smoothing: float = 0.0) -> str:
    total = nll.LossAccumulator(loss, weight, label_smoothing=smoothing)
    return base64.b64encode(total.to_bytes()).decode("ascii")


DAMAGE = {
    "infinite-count": put(np.inf, "accuracy", "top1_count"),
    "negative-count": put(-1, "accuracy", "top1_count"),
    "bool-count": put(True, "accuracy", "top5_count"),
    "count-of-nobody": put(N + 1, "accuracy", "undefined"),
    "endless-count": put(10**400, "accuracy", "top1_count"),
    "count-beyond-int64": put([2**63 + 5] * 15, "calibration", "count"),
    "count-of-bin": put([0] * 14 + [N + 1], "calibration", "count"),
    "right-beyond-count": put([N] * 15, "calibration", "correct_count"),
    "endless-confidence": put(["9" * 4000] * 15, "calibration", "confidence_sum"),
    "negative-confidence": put(["-1"] * 15, "calibration", "confidence_sum"),
    "number-of-confidence": put([0] * 15, "calibration", "confidence_sum"),
    "few-confidences": put(["0"], "calibration", "confidence_sum"),
    "infinite-limit": put(np.inf, "worst", "limit"),
    "no-limit": put(0, "worst", "limit"),
    "infinite-position": put([np.inf], "worst", "samples", 0, "position"),
    "word-of-target": put("x", "worst", "samples", 0, "target"),
    "number-of-file": put(1, "worst", "samples", 0, "file"),
    "infinite-agreement": put(np.inf, "comparison", "agreed_count"),
    "agreement-of-nobody": put(N + 1, "comparison", "agreed_count"),
    "right-of-class-beyond-count": put([N] * C, "classes", "top1_count"),
    "no-files": put({}, "files"),
    "no-input": put([], "files", "input"),
    "word-of-files": put("logits.npy", "files", "target"),
    "numbers-of-files": put([1], "files", "group"),
    "no-file-of-comparison": damaged(lambda it: it["files"].pop("compare")),
    "word-of-classes": put("7", "options", "classes"),
    "null-of-classes": put(None, "options", "classes"),
    "negative-classes": put(-5, "options", "classes"),
    "other-classes": put(C + 1, "options", "classes"),
    "word-of-base": put("0", "options", "index_base"),
    "base-beyond-int64": put(2**63, "options", "index_base"),
    "label-beyond-uint64": put(2**64, "options", "ignore_index"),
    "kind-of-nothing": put(["logits"], "options", "kind"),
    "smoothing-of-nothing": put(np.nan, "options", "label_smoothing"),
    "number-of-shift": put(0, "options", "shift"),
    "other-reduction": put("none", "options", "reduction"),
    "state-of-another-loss": put(state_of_another("nll"), "loss", "state"),
    "state-of-smoothing": put(state_of_another("cross_entropy", smoothing=0.1), "loss", "state"),
    "state-of-weights": put(state_of_another("cross_entropy", np.ones(C)), "loss", "state"),
    "difference-of-another-loss": put(state_of_another("cross_entropy"), "comparison", "difference", "state"),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.usefixtures("companions")
def test_a_damaged_result_is_told_with_status_2(change):
    run("score", "logits.npy", "target.npy", *EVERYTHING, "--json", "good.json")
    change(json.loads(Path("good.json").read_text("utf-8")))
    assert refused("merge", "bad.json").startswith("Error: bad.json is damaged: ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damaged(lambda it: it.update(format="x")), "bad.json is no result of nll score --json"),
        (damaged(lambda it: it.update(version=2)), "bad.json has version 2; this nll reads version 1"),
        (damaged(lambda it: it.pop("files")), "bad.json is damaged"),
        (damaged(lambda it: it["loss"].update(state=it["loss"]["state"][:-8] + "AAAAAAA=")), "bad.json is damaged"),
        (damaged(lambda it: it["loss"].update(state="%")), "bad.json is damaged"),
        (damaged(lambda it: it["classes"].update(states="AAAA")), "bad.json is damaged"),
        (damaged(lambda it: it["calibration"].update(count=[-1] * 15)), "bad.json is damaged"),
        (damaged(lambda it: it["options"].update(shift=True)), "its shift is True, not False"),
        (damaged(lambda it: it.pop("classes")), "bad.json lacks a table of classes"),
        (damaged(lambda it: it["histogram"].update(edges=[0, 1])), "bad.json is damaged"),
        (lambda it: Path("bad.json").write_text("{", "utf-8"), "bad.json is no JSON"),
        (lambda it: Path("bad.json").write_text("[" * 100_000, "utf-8"), "bad.json is no JSON"),
        (lambda it: None, "bad.json: No such file"),
    ],
)
def test_what_cannot_be_merged_is_told_with_status_2(logits, change, words):
    run("score", "logits.npy", "target.npy", "--per-class", "--json", "good.json")
    change(json.loads(Path("good.json").read_text("utf-8")))
    assert words in refused("merge", "good.json", "bad.json")


def test_states_of_other_weights_are_not_merged(logits):
    for name, last in ("a", 1.0), ("b", 2.0):
        np.save("weight.npy", np.array([1.0] * (C - 1) + [last]))
        run("score", "logits.npy", "target.npy", "--weight", "weight.npy", "--json", f"{name}.json")
    assert refused("merge", "a.json", "b.json").startswith("Error: b.json: ")


def test_classes_of_other_weights_are_not_merged(logits):
    """Nor where the states of all samples would."""
    for name, last in ("a", 1.0), ("b", 2.0):
        np.save("weight.npy", np.array([1.0] * (C - 1) + [last]))
        run("score", "logits.npy", "target.npy", "--weight", "weight.npy", "--per-class", "--json", f"{name}.json")
    one, other = (json.loads(Path(f"{name}.json").read_text("utf-8")) for name in "ab")
    Path("b.json").write_text(json.dumps(other | {"loss": one["loss"]}), "utf-8")
    assert refused("merge", "a.json", "b.json").startswith("Error: b.json: ")


def test_results_that_keep_other_samples_are_not_merged(logits):
    for name, worst in ("a", 2), ("b", 3):
        run("score", "logits.npy", "target.npy", "--worst", worst, "--json", f"{name}.json")
    assert refused("merge", "a.json", "b.json") == "Error: b.json keeps 3 worst samples, not 2"


def test_a_sample_weight_that_is_no_number_is_told_with_status_2(logits):
    """It is no label that is wrong."""
    np.save("weight.npy", np.full(N, 2**60))
    message = refused("score", "logits.npy", "target.npy", "--sample-weight", "weight.npy")
    assert "sample_weight" in message
    assert "2^53" in message


def test_a_first_label_that_no_label_can_be_is_told_with_status_2(logits):
    message = refused("score", "logits.npy", "target.npy", "--index-base", 2**64)
    assert message == f"Error: index_base is {2**64}, outside [-2^63, 2^63)"


def test_a_folder_is_not_overwritten(logits):
    """And nothing was written beside it."""
    Path("taken").mkdir()
    assert "taken: Is a directory" in refused("score", "logits.npy", "target.npy", "--json", "taken", status=1)
    assert not list(Path().glob("*.part"))


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError("a broken disk"), 1, "Error: a broken disk"),
        (MemoryError(), 1, "Error: not enough memory"),
        (MemoryError("8 EiB"), 1, "Error: not enough memory: 8 EiB"),
        (BrokenPipeError(errno.EPIPE, "closed"), 1, ""),
        (KeyboardInterrupt(), 130, "nll: stopped"),
    ],
    ids=["disk", "memory", "so-much-memory", "pipe", "control-c"],
)
def test_each_end_has_its_status(error, status, words):
    def end() -> None:
        raise error

    group = Commands("all")
    group.command("end")(end)
    result = CliRunner().invoke(group, ["end"])
    assert (result.exit_code, result.stderr.strip()) == (status, words)


def test_a_package_that_lacks_one_of_its_own_says_which(monkeypatch):
    def lacks(name: str) -> None:
        raise ModuleNotFoundError("No module named 'zstd'", name="zstd")

    monkeypatch.setattr("importlib.import_module", lacks)
    with pytest.raises(ModuleNotFoundError, match="zstd"):
        required("zarr")


@pytest.mark.parametrize("option", ["--json", "--plot", "--per-sample"])
def test_a_failure_to_write_has_status_1(logits, option):
    if option == "--plot":
        pytest.importorskip("matplotlib")
    message = refused("score", "logits.npy", "target.npy", option, "nowhere/it.png", status=1)
    assert message == "Error: nowhere/it.png: No such file or directory"


def test_losses_of_samples_are_written_whole_or_not(logits, target):
    target[-1] = 99
    np.save("target.npy", target)
    np.save("losses.npy", np.zeros(3))
    refused("score", "logits.npy", "target.npy", "--per-sample", "losses.npy")
    assert np.load("losses.npy").tolist() == [0, 0, 0]
    assert not list(Path().glob("*.part"))


@pytest.mark.parametrize("option", ["--json", "--plot", "--per-sample"])
def test_files_that_cannot_be_written_are_known_before_samples_are_scored(logits, option, monkeypatch):
    monkeypatch.setattr("nll._cli.commands.score", lambda *arguments, **named: pytest.fail("it was scored"))
    if option == "--plot":
        pytest.importorskip("matplotlib")
    refused("score", "logits.npy", "target.npy", option, "nowhere/it.png", status=1)


@pytest.mark.parametrize("name", ["it.xyz", "it", "it.png.gz"])
def test_the_format_of_a_picture_is_known_before_samples_are_scored(logits, name, monkeypatch):
    pytest.importorskip("matplotlib")
    run("score", "logits.npy", "target.npy", "--json", "it.json")
    monkeypatch.setattr("nll._cli.commands.score", lambda *arguments, **named: pytest.fail("it was scored"))
    for start in ["score", "logits.npy", "target.npy"], ["merge", "it.json"]:
        assert refused(*start, "--plot", name) == f"Error: --plot {name}: its name ends in no format of pictures"


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_the_table_is_there_whatever_becomes_of_files(logits, option, monkeypatch):
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pytest.importorskip("matplotlib")
    monkeypatch.setattr(f"nll._cli.{'document.dump' if option == '--json' else 'plot.headline'}", fail)
    result = run("score", "logits.npy", "target.npy", option, "it.png", "--per-sample", "losses.npy", status=1)
    assert "mean NLL" in result.stdout
    assert result.stderr == "Error: it.png: No space left on device\n"
    assert sorted(path.name for path in Path().iterdir()) == ["logits.npy", "losses.npy", "target.npy"]


def test_outputs_of_two_runs_have_names_of_their_own():
    """Until they are whole. Then the last one stays."""
    with output("it.json") as one, output("it.json") as other:
        for each in one, other:
            Path(each.partial).write_text(each.partial)
        one.keep()
        other.keep()
        assert Path("it.json").read_text() == other.partial
    assert [path.name for path in Path().iterdir()] == ["it.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="links and devices")
def test_a_device_is_not_replaced(logits):
    os.mkfifo("pipe")
    message = refused("score", "logits.npy", "target.npy", "--json", "pipe", status=1)
    assert message == "Error: pipe is no regular file, which could be replaced"


@pytest.mark.parametrize("option", ["--json", "--plot", "--per-sample"])
@pytest.mark.parametrize("taken", ["logits.npy", "./target.npy", "soft.npy", "hard.npy", "weight.npy", "group.npy"])
@pytest.mark.usefixtures("companions")
def test_no_output_replaces_an_input(option, taken):
    np.save("weight.npy", np.ones(C))
    os.symlink("logits.npy", "soft.npy")
    os.link("logits.npy", "hard.npy")
    before = Path(taken).read_bytes()
    more = ["--weight", "weight.npy", "--group", "group.npy"]
    message = refused("score", "logits.npy", "target.npy", *more, option, taken)
    assert message.startswith(f"Error: {option} {taken} would replace the input ")
    assert Path(taken).read_bytes() == before


def test_no_output_replaces_another_one_or_a_part_of_an_input(logits):
    found = refused("score", "logits.npy", "target.npy", "--json", "a.png", "--plot", "./a.png")
    assert found == "Error: --plot ./a.png would replace that of --json"
    run("score", "logits.npy", "target.npy", "--json", "a.json")
    assert refused("merge", "a.json", "--json", "a.json") == "Error: --json a.json would replace the input a.json"
    pytest.importorskip("zarr").create_array("v.zarr", data=logits, chunks=(64, C))
    found = refused("score", "v.zarr", "target.npy", "--json", "v.zarr/zarr.json")
    assert found == "Error: --json v.zarr/zarr.json would replace the input v.zarr"


OPTIONS_OF_FILES = ["--weight", "--sample-weight", "--group", "--compare", "--json", "--plot", "--per-sample"]


@pytest.mark.parametrize("option", OPTIONS_OF_FILES)
def test_an_empty_name_is_refused(logits, option):
    """A variable of a shell that is not set must not leave out what was asked for."""
    assert refused("score", "logits.npy", "target.npy", option, "").startswith(f"Error: Invalid value for '{option}'")
    if option in ("--json", "--plot"):
        run("score", "logits.npy", "target.npy", "--json", "it.json")
        assert refused("merge", "it.json", option, "").startswith(f"Error: Invalid value for '{option}'")
    assert "Invalid value for 'TARGET'" in refused("score", "logits.npy", "")


@pytest.mark.parametrize("value", [-3, 2])
def test_one_group_of_all_samples(logits, value):
    np.save("group.npy", np.array(value))
    if value < 0:
        assert "group.npy[] is -3; groups" in refused("score", "logits.npy", "target.npy", "--group", "group.npy")
    else:
        table = score("logits.npy", "target.npy", "--group", "group.npy")["groups"]
        assert [count > 0 for count in table["count"]] == [False, False, True]


@pytest.mark.parametrize("more", [[], ["--shift"]], ids=["as-it-is", "shifted"])
def test_a_npz_is_read_once(logits, target, more, monkeypatch):
    """Each shard of it, and kept no longer than it is needed."""
    for part in range(2):
        half = slice(part * N // 2, (part + 1) * N // 2)
        np.savez(f"values-{part}.npz", logits[half][None])
    np.save("both.npy", np.stack([logits[: N // 2], logits[N // 2 :]]))
    np.save("target.npy", target.reshape(2, -1))
    loads, held = [], []
    load, release = Zipped.load, Zipped.release

    def counted(self: Zipped) -> np.ndarray:
        loads.append(self.path)
        return load(self)

    def watched(self: Zipped, slices: Any) -> None:
        release(self, slices)
        held.append(self.held is not None)

    monkeypatch.setattr(Zipped, "load", counted)
    monkeypatch.setattr(Zipped, "release", watched)
    arguments = ["target.npy", "--axis", -1, "--chunk", 1e-3, "--threads", 1, *more]
    found = score("values-*.npz", *arguments)
    assert loads == ["values-0.npz", "values-1.npz"]
    assert (len(held) > 10, held.count(False), held[-1]) == (True, 2, False)
    assert found["loss"] == score("both.npy", *arguments)["loss"]


@pytest.mark.parametrize("name", ["x.zarr.npy", "d.zarr/x.npy", "d.zarr/x.npz"])
def test_a_file_of_numpy_is_one_whatever_its_name(logits, name):
    Path("d.zarr").mkdir()
    (np.savez if name.endswith("z") else np.save)(name, logits)
    assert score(name, "target.npy")["loss"] == score("logits.npy", "target.npy")["loss"]


def test_a_zipped_zarr_array_is_not_taken_for_a_npz(logits):
    zarr = pytest.importorskip("zarr")
    with zarr.storage.ZipStore("v.zarr.zip", mode="w") as store:
        zarr.create_array(store, data=logits, chunks=(64, C))
    assert "v.zarr.zip: no Zarr array is there" in refused("score", "v.zarr.zip", "target.npy")


@pytest.mark.parametrize("more", [[], ["--loss-only"], ["--compare", "good.npy"]], ids=lambda more: " ".join(more))
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_no_class_has_a_probability_below_0_or_above_1(target, dtype, more):
    good = np.full((N, C), 1 / C, dtype)
    np.save("good.npy", good)
    for value, kind, rule in (
        (-0.5, "probabilities", "a probability is in [0, 1]"),
        (1.5, "probabilities", "a probability is in [0, 1]"),
        (0.5, "log-probabilities", "a log-probability is at most 0"),
    ):
        bad = good if kind == "probabilities" else np.log(good)
        np.save("good.npy", bad)
        bad = bad.copy()
        label = (target[1] + 1) % C
        bad[1, label] = value
        bad[0] = value  # which is ignored
        np.save("bad.npy", bad)
        words = f"Error: bad.npy[1, {label}] is {value}, but {rule}: is --kind {kind} right?"
        assert refused("score", "bad.npy", "target.npy", "--kind", kind, *more) == words
        if more:
            assert refused("score", "good.npy", "target.npy", "--kind", kind, "--compare", "bad.npy") == words


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["score", "logits.npy", "target.npy"], 0),
        (["score", "logits.npy", "none.npy"], 2),
        (["score", "logits.npy"], 2),
        (["score", "logits.npy", "target.npy", "--json", "nowhere/it.json"], 1),
    ],
    ids=["success", "bad-input", "usage", "failure"],
)
@pytest.mark.usefixtures("logits")
def test_processes_end_with_a_status(arguments, status):
    started = process(*arguments)
    out, err = started.communicate(timeout=60)
    assert started.returncode == status, err
    assert "Traceback" not in err
    assert bool(out) == (status == 0)
    assert bool(err) == (status != 0)


def sparse(name: str, dtype: Any, shape: tuple[int, int]) -> None:
    """Save zeros that take no space."""
    array = np.lib.format.open_memmap(name, "w+", dtype, shape)
    array.flush()
    np.save("target.npy", np.zeros(shape[0], np.uint8))


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_control_c_says_how_far_it_came():
    sparse("logits.npy", np.float64, (25_000, 10_000))
    more = ["--per-sample", "losses.npy", "--json", "it.json", "--threads", "1", "--chunk", "1"]
    # A shell that starts the tests in the background has them, and what they start, ignore the signal.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from nll.__main__ import main; main()"
    started = process("score", "logits.npy", "target.npy", *more, code=code)
    deadline = time.monotonic() + 60
    while not list(Path().glob("losses.npy.*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    found = re.fullmatch(r"nll: stopped after ([\d,]+) of 25,000 samples \(.*%\); their mean NLL is (.*)\. .*\n", err)
    assert found is not None, err
    done = int(found[1].replace(",", ""))
    assert 0 <= done < 25_000
    assert done == 0 or float(found[2]) == pytest.approx(np.log(10_000), rel=1e-6)
    assert sorted(path.name for path in Path().iterdir()) == ["logits.npy", "target.npy"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's count of a process's memory")
@pytest.mark.parametrize("more", ["--loss-only", "--worst=3"])
def test_a_file_larger_than_the_memory_it_takes(more):
    sparse("logits.npy", np.float32, (10_000, 40_000))  # 1.6 GB
    code = """
import re, sys
from nll.__main__ import main
try:
    main()
finally:
    print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
    started = process("score", "logits.npy", "target.npy", more, "--threads", "2", code=code)
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    assert int(re.search(r"peak (\d+)", out)[1]) < 400_000, out


@pytest.mark.skipif(sys.platform != "linux", reason="opens a pseudo-terminal")
def test_progress_is_shown_on_a_terminal_only(logits):
    pytest.importorskip("tqdm")
    import fcntl
    import pty
    import termios

    for is_terminal in True, False:
        ours, theirs = pty.openpty() if is_terminal else os.pipe()
        if is_terminal:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        with subprocess.Popen(
            [sys.executable, "-m", "nll", "score", "logits.npy", "target.npy"],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env=os.environ | {"PYTHONPATH": str(Path(nll.__file__).parents[1])},
        ) as started:
            os.close(theirs)
            shown = b""
            try:
                while piece := os.read(ours, 4096):
                    shown += piece
            except OSError:  # a terminal whose other side was closed
                pass
            assert started.wait(60) == 0
        os.close(ours)
        assert (b"scoring" in shown) == is_terminal, shown


# ---- how it looks


def test_the_table(logits, companions):
    out = run("score", "logits.npy", "target.npy", *EVERYTHING, "--reduction", "sum").stdout
    for words in ("mean NLL", "sum of NLL", "perplexity", "bits", "total weight", "355 kept, 45 ignored"):
        assert words in out
    for words in ("top-1 accuracy", "top-5 accuracy", "expected calibration error", "By class", "By group"):
        assert words in out
    for words in ("Compared with other.npy", "mean KL", "Worst samples", "target.npy["):
        assert words in out


LONG = "a-name-of-many-words-" * 8


@pytest.mark.parametrize("columns", [None, 60])
def test_nothing_of_the_table_is_cut(logits, columns):
    """In a file there is room; in a terminal, names are folded."""
    os.rename("target.npy", f"{LONG}.npy")
    terminal = {} if columns is None else {"FORCE_COLOR": "1", "COLUMNS": str(columns), "TERM": "dumb"}
    out, err = process("score", "logits.npy", f"{LONG}.npy", "--worst", 2, **terminal).communicate(timeout=60)
    assert "…" not in out, err
    if columns is None:
        assert out.count(f"{LONG}.npy[") == 2
    else:
        assert "predicted" in out


NAMES = [
    pytest.param("a:100:.npy", "a:100:.npy", id="emoji"),
    pytest.param("a[bold].npy", "a[bold].npy", id="markup"),
    pytest.param("a$\\x$.npy", "a$\\x$.npy", id="mathematics"),
    pytest.param("a\x1b[31m.npy", "a\\x1b[31m.npy", id="escape-sequence"),
    pytest.param("a\udcff.npy", "a\\udcff.npy", id="no-unicode"),
    pytest.param("s1²2.npy", "s1²2.npy", id="superscript"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes")
@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_names_are_shown_as_they_are(logits, name, shown):
    """Nothing in them is a command to a terminal, or to what draws the picture."""
    pytest.importorskip("matplotlib")
    os.rename("logits.npy", name)
    found = run("score", name, "target.npy", "--plot", f"{name}.svg", "--json", "it.json")
    assert found.stdout.startswith(f"{shown}: logits of 7 classes\n")
    assert run("merge", "it.json").stdout.startswith(f"{shown}: logits of 7 classes\n")
    found = refused("score", name, "target.npy", "--axis", 5)
    assert found.startswith(f"Error: --axis 5 is out of bounds for {shown}")


def test_shards_with_superscripts(logits):
    for index, part in enumerate(np.split(logits, 4)):
        np.save(f"s1²{index}.npy", part)
    assert score("s1*.npy", "target.npy")["loss"] == score("logits.npy", "target.npy")["loss"]


@pytest.mark.parametrize("environment", [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
], ids=["PYTHONIOENCODING", "LC_ALL"])  # fmt: skip
@pytest.mark.usefixtures("companions")
def test_output_without_unicode(environment):
    """It has what it can have."""
    np.save("ü.npy", np.load("target.npy"))
    started = process("score", "logits.npy", "ü.npy", *EVERYTHING, **environment)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 0, err
    assert re.search(r"mean NLL +\d\.\d+ \+- 0", out)


@pytest.mark.skipif(sys.platform == "win32", reason="closes a stream in a shell")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-"])
def test_a_stream_may_be_closed(logits, closed):
    command = f"{sys.executable} -m nll score logits.npy target.npy --json it.json {closed}"
    paths = {"PYTHONPATH": str(Path(nll.__file__).parents[1])}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=os.environ | paths, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("it.json").exists()
    assert ("mean NLL" in done.stdout) == (closed != ">&-")


def test_the_object_is_as_documented(logits, companions):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(run("schema").stdout)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for more in [], ["--loss-only", "--per-class"], EVERYTHING:
        run("score", "logits.npy", "target.npy", *more, "--json", "it.json")
        found = json.loads(Path("it.json").read_text("utf-8"))
        assert not [error.message for error in validator.iter_errors(found)]
        documented = set(schema["properties"])
        assert set(found) <= documented


@pytest.mark.parametrize("classes", [C, 50], ids=["bars", "the-worst"])
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture(rng, classes, suffix):
    pytest.importorskip("matplotlib")
    np.save("logits.npy", rng.normal(size=(N, classes)))
    np.save("target.npy", rng.integers(0, classes, N))
    run("score", "logits.npy", "target.npy", "--plot", f"picture.{suffix}", "--json", "it.json")
    picture = Path(f"picture.{suffix}").read_bytes()
    assert picture.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    run("merge", "it.json", "--plot", f"again.{suffix}")
    assert suffix == "svg" or Path(f"again.{suffix}").read_bytes() == picture


def test_info():
    lines = dict(line.split(": ", 1) for line in run("info").stdout.splitlines())
    assert lines == {key: str(value) for key, value in nll.build_info().items()}


def test_help_tells_every_option():
    words = run("score", "--help").stdout
    for option in (
        *("--kind", "--axis", "--weight", "--sample-weight", "--ignore-index", "--index-base", "--shift"),
        *("--reduction", "--label-smoothing", "--per-class", "--group", "--worst", "--compare", "--per-sample"),
        *("--json", "--plot", "--threads", "--chunk", "--dtype", "--loss-only"),
    ):
        assert re.search(rf"^  {option}\b", words, re.MULTILINE), option


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    script = run("completion", shell).stdout
    assert f"_NLL_COMPLETE={shell}_complete" in script
    if shell == "bash":
        code = "from nll._cli.commands import nll; nll(prog_name='nll')"
        words = {"COMP_WORDS": "nll score --ki", "COMP_CWORD": "2", "_NLL_COMPLETE": "bash_complete"}
        out, err = process(code=code, **words).communicate(timeout=60)
        assert out.split() == ["plain,--kind"], err


def test_a_missing_package_is_named_with_what_to_install():
    code = "import sys; sys.modules['click'] = None; from nll.__main__ import main; main()"
    started = process(code=code)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 1
    assert err == "nll: the command line needs click: python -m pip install 'nll[cli]'\n"


@pytest.mark.parametrize("package", ["rich", "matplotlib"])
@pytest.mark.usefixtures("logits")
def test_a_package_that_comes_late_is_named_too(monkeypatch, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    message = refused("score", "logits.npy", "target.npy", "--plot", "it.png", status=1)
    assert message == f"Error: this needs {package}: python -m pip install 'nll[cli]'"


def test_nothing_is_imported_before_it_is_needed(run_python):
    heavy = {"rich", "matplotlib", "zarr", "safetensors", "tqdm", "ml_dtypes", "h5py"}
    found = run_python("import nll._cli.commands, sys; print(*{name.partition('.')[0] for name in sys.modules})")
    assert not heavy & set(found.stdout.split())
