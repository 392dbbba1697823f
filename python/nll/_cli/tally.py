# SPDX-License-Identifier: BSD-3-Clause
"""What was counted so far: exact sums and integers, which are the same in any order."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .. import LossAccumulator
from .._typing import Array
from .errors import BadInput
from .measures import EDGES, Calibration

Kind = Literal["logits", "log-probabilities", "probabilities"]
KINDS: tuple[Kind, ...] = ("logits", "log-probabilities", "probabilities")


@dataclass(frozen=True)
class Choices:
    """What all parts of one evaluation have in common."""

    kind: Kind
    classes: int
    ignore_index: int | None
    index_base: int
    label_smoothing: float
    shift: bool
    reduction: Literal["mean", "sum"]
    weighted: bool  # by class
    sample_weighted: bool

    @property
    def loss(self) -> Literal["nll", "cross_entropy"]:
        return "cross_entropy" if self.kind == "logits" else "nll"

    @property
    def is_plain(self) -> bool:
        """Whether the loss of a sample is -log p of its target, and nothing else."""
        return not (self.weighted or self.sample_weighted or self.label_smoothing)


@dataclass
class Worst:
    """A sample of a large loss."""

    loss: float
    file: str  # of its label
    position: tuple[int, ...]  # there
    target: int
    predicted: int
    probability: float  # of its target

    @property
    def rank(self) -> float:
        """Sort the largest first, and what is not a number before."""
        return -math.inf if math.isnan(self.loss) else -self.loss


@dataclass
class Parted:
    """A state for each class or group, and how often the top class was right there."""

    losses: LossAccumulator
    correct: Array

    def add(self, other: "Parted") -> None:
        one, two = (self, other) if len(self.correct) >= len(other.correct) else (other, self)
        rows = two.losses.state
        missing = len(one.correct) - len(two.correct)
        if missing:
            empty = LossAccumulator.from_bytes(rows[0])
            empty.reset()
            rows = np.concatenate([rows, np.broadcast_to(empty.state, (missing, rows.shape[1]))])
        total = restored(one.losses.state, len(one.correct))
        total.merge(rows)
        self.losses = total
        self.correct = one.correct + np.pad(two.correct, (0, missing))


@dataclass
class Comparison:
    """What predictions and others of the same samples have in common, and what not."""

    other: LossAccumulator  # of the others' losses
    difference: LossAccumulator  # of the losses less the others'
    divergence: LossAccumulator  # Kullback-Leibler's, from the others
    agreed: int = 0  # samples with the same top class

    def add(self, other: "Comparison") -> None:
        self.other = self.other + other.other
        self.difference = self.difference + other.difference
        self.divergence = self.divergence + other.divergence
        self.agreed += other.agreed


@dataclass
class Counts:
    """What is counted of classes and confidences."""

    top1: int = 0
    top5: int = 0
    undefined: int = 0  # samples whose loss or confidence is not a number
    calibration: Calibration = field(default_factory=Calibration)
    histogram: Array = field(default_factory=lambda: np.zeros(len(EDGES) + 1, np.int64))

    def add(self, other: "Counts") -> None:
        self.top1 += other.top1
        self.top5 += other.top5
        self.undefined += other.undefined
        self.calibration.add(other.calibration)
        self.histogram = self.histogram + other.histogram


@dataclass
class Tally:
    """Everything that is known of the samples that were scored."""

    choices: Choices
    files: dict[str, list[str]]
    total: LossAccumulator
    counts: Counts | None = None
    by_class: Parted | None = None
    by_group: Parted | None = None
    worst: list[Worst] = field(default_factory=list)
    worst_limit: int = 0
    comparison: Comparison | None = None

    def keep_worst(self, found: Iterable[Worst]) -> None:
        """Keep the worst samples. Of equal ones, those found first."""
        self.worst = sorted([*self.worst, *found], key=lambda one: one.rank)[: self.worst_limit]

    def in_double(self) -> None:
        """Let all states compute losses in double: the total's, and those of groups and classes."""
        if self.by_group is not None and self.by_class is not None:
            by_class = self.by_class
            by_class.losses = restored(by_class.losses.state, len(by_class.correct))
        if self.comparison is not None:
            for key in ("other", "difference", "divergence"):
                setattr(self.comparison, key, restored(getattr(self.comparison, key).state))

    def add(self, other: "Tally", name: str) -> None:
        """Add another tally; refuse one of another kind, saying what differs."""
        for key, value in vars(self.choices).items():
            theirs = getattr(other.choices, key)
            if theirs != value:
                raise BadInput(f"{name}: its {key} is {theirs}, not {value}")
        for what in PARTS:
            if (getattr(self, what) is None) != (getattr(other, what) is None):
                state = "lacks" if getattr(other, what) is None else "has"
                raise BadInput(f"{name} {state} {PARTS[what]}, unlike the first file")
        if self.worst_limit != other.worst_limit:
            problem = f"{other.worst_limit} worst samples, not {self.worst_limit}"
            raise BadInput(f"{name} keeps {problem}")
        pairs: list[tuple[Any, Any]] = [(getattr(self, key), getattr(other, key)) for key in PARTS]
        try:
            self.total = self.total + other.total
            for mine, theirs in pairs:
                if mine is not None:
                    mine.add(theirs)
        except ValueError as error:
            raise BadInput(f"{name}: {error}") from error
        self.keep_worst(other.worst)
        for key, files in other.files.items():
            known = self.files.setdefault(key, [])
            known.extend(files if key not in SHARED else [one for one in files if one not in known])


PARTS = {
    "counts": "accuracy and calibration",
    "by_class": "a table of classes",
    "by_group": "a table of groups",
    "comparison": "a comparison",
}
SHARED = ("weight",)  # files that every part was scored with


def restored(state: Any, groups: int | None = None) -> LossAccumulator:
    """Make an accumulator of a state: to add up and to compute, in double."""
    return LossAccumulator.from_bytes(state, groups=groups, dtype=np.float64)
