# SPDX-License-Identifier: BSD-3-Clause
"""Scoring: goes through the samples, block by block, on several threads.

Losses and their sums are the core's. Where it has no function for a number of each sample, such as
a divergence, that number is added up as the loss of predictions that are the same for all classes.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from .. import (
    LossAccumulator,
    cross_entropy,
    get_num_threads,
    log_softmax,
    merge,
    nll_loss,
    num_threads,
)
from .._typing import Array
from . import measures
from .blocks import OfSamples, Predictions, divide, first_wrong
from .errors import BadInput
from .sources import Slices
from .tally import Choices, Comparison, Counts, Parted, Tally, Worst, restored

DEFAULT_CHUNK = 16.0  # MiB of predictions


class Interrupted(Exception):
    """Ctrl-C, after some samples."""

    def __init__(self, total: LossAccumulator, samples: int) -> None:
        done = total.count + total.ignored
        share = f"{done:,} of {samples:,} samples ({done / max(samples, 1):.1%})"
        super().__init__(f"stopped after {share}; their mean NLL is {float(total.compute()):.7g}")


@dataclass
class Job:
    """What is to be scored, and what is to be found out about it."""

    choices: Choices
    files: dict[str, list[str]]
    predictions: Predictions
    target: OfSamples
    weight: Array | None = None  # of classes
    sample_weight: OfSamples | None = None
    group: OfSamples | None = None
    groups: int = 0
    other: Predictions | None = None
    counts: bool = True
    per_class: bool = False
    worst: int = 0
    per_sample: Array | None = None  # where losses go


@dataclass
class Found:
    """What the main thread adds up of a block."""

    samples: int
    counts: Counts | None = None
    class_correct: Array | None = None
    group_correct: Array | None = None
    agreed: int = 0
    worst: list[Worst] = field(default_factory=list)


def score(
    job: Job,
    *,
    threads: int | None = None,
    chunk: float = DEFAULT_CHUNK,
    progress: Callable[[int], object] = lambda samples: None,
) -> Tally:
    """Score all samples.

    Parameters
    ----------
    job : Job
        What to do.
    threads : int, optional
        How many blocks are worked on at a time.
    chunk : float
        MiB of predictions in a block.
    progress : callable
        Is told of each number of samples that were scored.

    Returns
    -------
    Tally
        What came out: the same for any threads and chunk.

    Raises
    ------
    BadInput
        If a label or a prediction is wrong; the first one is named.
    Interrupted
        At Ctrl-C.
    """
    return Run(job, threads or get_num_threads(), chunk).finish(progress)


class Run:
    """One pass over the samples."""

    def __init__(self, job: Job, threads: int, chunk: float) -> None:
        self.job = job
        self.axis = job.predictions.axis
        self.shape = job.predictions.samples
        itemsize = job.predictions.source.dtype.itemsize
        if job.other is not None:
            chunk /= 4  # of both, all probabilities are computed in double
        limit = int(min(chunk * 2**20, 2.0**62)) // max(itemsize * job.predictions.classes, 1)
        source = job.predictions.source
        along = (source.cuts, source.granule) if self.axis else ((), 1)
        self.blocks = list(divide(self.shape, max(limit, 1), *along))
        self.workers = max(min(threads, len(self.blocks)), 1)
        self.threads_each = max(threads // self.workers, 1)
        self.stopped = threading.Event()
        total = self.accumulator(job.choices.loss)
        self.tally = Tally(job.choices, job.files, total, worst_limit=job.worst)
        if job.counts:
            self.tally.counts = Counts()
        if job.per_class:
            self.tally.by_class = self.parted(job.predictions.classes)
        if job.group is not None:
            self.tally.by_group = self.parted(job.groups)
        if job.other is not None:
            self.tally.comparison = Comparison(
                self.accumulator(job.choices.loss), self.accumulator("nll"), self.accumulator("nll")
            )

    def accumulator(self, loss: Any, groups: int | None = None) -> LossAccumulator:
        choices = self.job.choices
        try:
            return LossAccumulator(
                loss,
                self.job.weight,
                ignore_index=choices.ignore_index,
                axis=self.axis,
                index_base=choices.index_base,
                label_smoothing=choices.label_smoothing if loss == "cross_entropy" else 0.0,
                groups=groups,
            )
        except (TypeError, ValueError) as error:
            raise BadInput(str(error)) from error

    def parted(self, count: int) -> Parted:
        return Parted(self.accumulator(self.job.choices.loss, count), np.zeros(count, np.int64))

    def finish(self, progress: Callable[[int], object]) -> Tally:
        pending: deque[Future[Found]] = deque()

        def take() -> None:
            found = pending.popleft().result()
            self.add(found)
            progress(found.samples)

        with ThreadPoolExecutor(self.workers, "nll-score") as pool:
            try:
                for slices in self.blocks:
                    pending.append(pool.submit(self.work, slices))
                    if len(pending) > 2 * self.workers:
                        take()
                while pending:
                    take()
            except KeyboardInterrupt:
                self.stop(pool)
                raise Interrupted(self.total(), prod(self.shape)) from None
            except BaseException:
                self.stop(pool)
                raise
        self.tally.total = self.total()
        self.tally.in_double()
        return self.tally

    def stop(self, pool: ThreadPoolExecutor) -> None:
        """Let blocks under way end, and no other begin."""
        self.stopped.set()
        pool.shutdown(cancel_futures=True)

    def total(self) -> LossAccumulator:
        """Return the state of all samples, which groups or classes hold if there are some."""
        tally = self.tally
        parts = tally.by_group or tally.by_class
        total = restored(tally.total.state)
        if parts is not None:
            rows = parts.losses.state
            total.merge(merge(rows))
            parts.losses = restored(rows, len(parts.correct))
        return total

    def add(self, found: Found) -> None:
        tally = self.tally
        if tally.counts is not None and found.counts is not None:
            tally.counts.add(found.counts)
        if tally.by_class is not None and found.class_correct is not None:
            tally.by_class.correct += found.class_correct
        if tally.by_group is not None and found.group_correct is not None:
            tally.by_group.correct += found.group_correct
        if tally.comparison is not None:
            tally.comparison.agreed += found.agreed
        tally.keep_worst(found.worst)

    def work(self, slices: Slices) -> Found:
        """Score a block, in a thread of the pool."""
        shape = tuple(one.stop - one.start for one in slices)
        if self.stopped.is_set():
            return Found(0)
        with num_threads(self.threads_each), np.errstate(all="ignore"):
            found = Block(self, slices).score(Found(prod(shape)))
        job = self.job
        for each in (job.predictions, job.target, job.other, job.sample_weight, job.group):
            if each is not None:
                each.release(slices)
        return found


class Block:
    """Some samples: what was read of them."""

    def __init__(self, run: Run, slices: Slices) -> None:
        self.run = run
        self.job = run.job
        self.choices = run.job.choices
        self.tally = run.tally
        self.axis = run.axis
        self.slices = slices
        self.input = self.job.predictions.read(slices)
        self.target = np.asarray(self.job.target.read(slices))
        self.group = None if self.job.group is None else np.asarray(self.job.group.read(slices))
        weights = self.job.sample_weight
        self.weights = {} if weights is None else {"sample_weight": weights.read(slices)}
        ignored = self.choices.ignore_index
        self.kept = np.ones(self.target.shape, bool) if ignored is None else self.target != ignored
        # Class numbers, some class for ignored samples. The core refuses labels that are none.
        numbers = np.where(self.kept, self.target, 0).astype(np.int64) - self.choices.index_base
        self.classes = np.clip(numbers, 0, max(self.choices.classes - 1, 0))

    def score(self, found: Found) -> Found:
        """Add the losses to the run's states; find what else is asked for."""
        scores = self.scores(self.input)
        self.update(scores)
        kept, classes = self.kept, self.classes
        if self.tally.by_class is not None and self.tally.by_group is None:
            self.update_ignored(int(kept.size - np.count_nonzero(kept)))
        plain = weighted = None
        if self.job.counts:
            plain = self.losses(scores)
        if self.job.worst or self.job.per_sample is not None:
            is_plain = plain is not None and self.choices.is_plain
            weighted = plain if is_plain else self.losses(scores, as_chosen=True)
        if self.job.per_sample is not None:
            self.job.per_sample[self.slices] = weighted
        if plain is not None:
            found.counts, right = self.count(plain)
            if self.tally.by_class is not None:
                found.class_correct = np.bincount(classes[right], minlength=self.choices.classes)
            if self.group is not None:
                groups = self.group[right].astype(np.int64)
                found.group_correct = np.bincount(groups, minlength=self.job.groups)
        if self.job.worst and weighted is not None:
            found.worst = self.worst(weighted, scores)
        if self.job.other is not None:
            found.agreed = self.compare(self.job.other, scores)
        return found

    # ---- the losses, which the core computes

    def scores(self, input: Array) -> Array:
        """Return what the core takes the loss of: logits, or logarithms of probabilities."""
        if self.choices.kind == "logits" or not self.choices.classes:
            return input
        self.check(input)
        if self.choices.kind != "probabilities":
            return input
        chosen = measures.of_class(input, self.classes, self.axis).astype(np.float64)
        return self.same_for_all_classes(np.log(chosen))

    def same_for_all_classes(self, values: Array) -> Array:
        """View one number of each sample as that of each of its classes."""
        return np.broadcast_to(np.expand_dims(values, self.axis), self.input.shape)

    def update(self, scores: Array) -> None:
        """Add to the run's states; a wrong label is named with its file."""
        tally = self.tally
        try:
            if tally.by_group is not None:
                tally.by_group.losses.update(scores, self.target, group=self.group, **self.weights)
            if tally.by_class is not None:
                tally.by_class.losses.update(scores, self.target, group="target", **self.weights)
            if tally.by_group is None and tally.by_class is None:
                tally.total.update(scores, self.target, **self.weights)
        except (IndexError, TypeError, ValueError) as error:
            self.refuse_label()
            raise BadInput(str(error)) from error

    def update_ignored(self, count: int) -> None:
        """Count ignored samples, which belong to no class."""
        label = self.choices.ignore_index
        if count and label is not None:
            shape = [1] * self.input.ndim
            shape[0 if self.axis else 1], shape[self.axis] = count, self.choices.classes
            dtype = self.target.dtype
            labels = np.full([size for i, size in enumerate(shape) if i != self.axis], label, dtype)
            self.tally.total.update(np.broadcast_to(np.zeros((), self.input.dtype), shape), labels)

    def losses(self, scores: Array, *, as_chosen: bool = False, dtype: Any = None) -> Array:
        """Return the loss of each sample: plain, or weighted and smoothed as chosen.

        It is rounded to single precision at least: to double costs eight times as much.
        """
        choices = self.choices
        if dtype is None:
            dtype = np.float32 if scores.dtype.itemsize <= 4 else np.float64
        named: dict[str, Any] = {
            "ignore_index": choices.ignore_index,
            "axis": self.axis,
            "index_base": choices.index_base,
            "reduction": "none",
            "dtype": dtype,
        }
        weight = None
        if as_chosen:
            weight = self.job.weight
            named |= self.weights
        if choices.loss == "nll":
            return np.asarray(nll_loss(scores, self.target, weight, **named))
        smoothing = choices.label_smoothing if as_chosen else 0.0
        return np.asarray(
            cross_entropy(scores, self.target, weight, label_smoothing=smoothing, **named),
        )

    # ---- what is counted besides

    def confidence(self, input: Array, largest: Array, chosen: Array, losses: Array) -> Array:
        """Return the probability of the largest class, from the loss of the chosen one."""
        largest = largest.astype(np.float64)
        if self.choices.kind == "probabilities":
            return largest
        if self.choices.kind == "log-probabilities":
            return np.exp(largest)
        logarithm = largest - chosen - losses
        endless = np.isinf(losses)
        if endless.any():  # there the target's logit tells nothing about the others
            top = measures.top_class(input, self.axis)
            named: dict[str, Any] = {"axis": self.axis, "ignore_index": None}
            of_top = np.asarray(cross_entropy(input, top, reduction="none", **named))
            logarithm = np.where(endless, -of_top.astype(np.float64), logarithm)
        return np.asarray(np.exp(logarithm))

    def count(self, losses: Array) -> tuple[Counts, Array]:
        """Count what was found; tell also which samples are right."""
        if not self.choices.classes:  # then all samples are ignored
            return Counts(), self.kept
        input = measures.comparable(self.input)
        kept, classes = self.kept, self.classes
        chosen, largest, first, inside = measures.survey(input, classes, kept, self.axis)
        confidence = self.confidence(input, largest, chosen, losses)
        defined = kept & ~np.isnan(losses) & ~np.isnan(confidence)
        right, inside = first & defined, inside & defined
        sure = np.minimum(confidence[defined], 1.0)
        counts = Counts(
            top1=int(np.count_nonzero(right)),
            top5=int(np.count_nonzero(inside)),
            undefined=int(np.count_nonzero(kept & ~defined)),
            calibration=measures.calibrated(sure, right[defined]),
            histogram=measures.histogram(losses[defined]),
        )
        return counts, right

    def worst(self, losses: Array, scores: Array) -> list[Worst]:
        """Find the samples of the largest losses. What is not a number counts as infinite."""
        kept = self.kept
        flat = np.where(kept, np.where(np.isnan(losses), np.inf, losses), -np.inf).ravel()
        candidates = np.flatnonzero(kept.ravel())
        if len(candidates) > self.job.worst:
            least = np.partition(flat[candidates], -self.job.worst)[-self.job.worst]
            candidates = candidates[flat[candidates] >= least]
        order = np.lexsort((candidates, -flat[candidates]))
        plain = losses if self.choices.is_plain else self.losses(scores)
        found = []
        for index in candidates[order][: self.job.worst]:
            offset = np.unravel_index(index, kept.shape)
            file, position = self.job.target.locate(self.position(offset))
            row = np.moveaxis(self.input, self.axis, -1)[offset]
            found.append(
                Worst(
                    loss=float(losses[offset]),
                    file=file,
                    position=tuple(map(int, position)),
                    target=int(self.target[offset]),
                    predicted=int(row.argmax()) + self.choices.index_base,
                    probability=float(np.exp(-plain[offset])),
                )
            )
        return found

    def compare(self, other: Predictions, scores: Array) -> int:
        """Add the differences to the others to the run's states; count equal top classes."""
        comparison = self.tally.comparison
        theirs = other.read(self.slices)
        their_scores = self.scores(theirs)
        assert comparison is not None
        comparison.other.update(their_scores, self.target, **self.weights)
        wide = np.float64
        difference = self.losses(scores, dtype=wide) - self.losses(their_scores, dtype=wide)
        minus = self.same_for_all_classes(-difference)
        comparison.difference.update(minus, self.target, **self.weights)
        p, q = self.log_probabilities(theirs), self.log_probabilities(self.input)
        terms = np.where(p == -np.inf, 0.0, np.exp(p) * (p - q))
        minus = self.same_for_all_classes(-terms.sum(self.axis))
        comparison.divergence.update(minus, self.target, **self.weights)
        if not self.choices.classes:
            return 0
        tops = [
            measures.top_class(measures.comparable(one), self.axis)
            for one in (
                theirs,
                self.input,
            )
        ]
        return int(np.count_nonzero(self.kept & (tops[0] == tops[1])))

    def log_probabilities(self, input: Array) -> Array:
        """Return the logarithms of all classes' probabilities in double."""
        wide = input.astype(np.float64)
        if self.choices.kind == "logits":
            return np.asarray(log_softmax(wide, axis=self.axis))
        return wide if self.choices.kind == "log-probabilities" else np.asarray(np.log(wide))

    # ---- what is wrong, and where

    def position(self, offset: Any) -> tuple[int, ...]:
        """Turn a position in the block into one among all samples."""
        return tuple(int(i) + one.start for i, one in zip(offset, self.slices, strict=True))

    def refuse_label(self) -> None:
        choices = self.choices
        found = first_wrong(self.target, choices.ignore_index, choices.index_base, choices.classes)
        if found is None:
            return
        offset, value = found
        file, own = self.job.target.locate(self.position(offset))
        where = ", ".join(map(str, own))
        last = choices.index_base + choices.classes
        rule = f"outside [{choices.index_base}, {last}) (ignore_index is {choices.ignore_index})"
        raise BadInput(f"{file}[{where}] is {value}, {rule}")

    def check(self, input: Array) -> None:
        """Refuse what is no probability, or no logarithm of one: of any class of kept samples."""
        wide = measures.comparable(input)
        largest = wide.max(self.axis).astype(np.float64)
        rule = "a log-probability is at most 0"
        if self.choices.kind == "probabilities":
            rule = "a probability is in [0, 1]"
            below = np.argwhere(self.kept & (wide.min(self.axis) < 0))
            if below.size:
                self.refuse(input, below[0], wide.argmin(self.axis), rule)
        else:
            largest = np.exp(largest)
        above = np.argwhere(self.kept & (largest > 1 + tolerance(input)))
        if above.size:
            self.refuse(input, above[0], measures.top_class(wide, self.axis), rule)

    def refuse(self, input: Array, offset: Array, classes: Array, rule: str) -> None:
        position = tuple(int(i) for i in offset)
        label = int(classes[position])
        value = measures.of_class(input, classes, self.axis)[position]
        is_other = input is not self.input
        source = self.job.other if is_other and self.job.other is not None else self.job.predictions
        name = source.locate(self.position(position), label)
        raise BadInput(f"{name} is {value}, but {rule}: is --kind {self.choices.kind} right?")


def tolerance(input: Array) -> float:
    """By how much rounding may lift a probability beyond 1."""
    epsilon = {2: 2.0**-8, 4: 2.0**-23, 8: 2.0**-52}[input.dtype.itemsize]
    return float(np.sqrt(epsilon))
