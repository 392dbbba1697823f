# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: one list of cases, their data, their true values and the bytes that no method can avoid.

A case says nothing about who runs it; `bench.contestants` and `bench.peers` say how each library is called for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    shape: tuple[int, ...]  # (N, C, d1, ..., dk), whatever the layout
    floors: dict[str, float] = field(default_factory=dict)  # contestant -> the least ratio of its time to ours
    function: str = "nll_loss"  # or cross_entropy, softmax, log_softmax, logsumexp
    array: str | None = (
        None  # the large result, a gradient or a softmax: None, "fresh", or "out": memory that is reused
    )
    alone: bool = False  # the gradient without the loss
    state: bool = False  # added to a LossAccumulator
    reduction: str = "mean"
    dtype: str = "float32"
    weighted: bool = False
    sample_weighted: bool = False
    smoothing: float = 0.0
    patches: bool = False  # targets piecewise constant in 32 x 32 squares, as in images; otherwise random
    channels_last: bool = False
    padding: int = 0  # classes that each row of the memory has beyond those of the shape: x[:, :C]
    values: str = "usual"  # or "wide", log-probabilities of a confident classifier, or "masked" logits
    cached: bool = False  # small: measured warm, in the caches; otherwise the data come from memory
    readme: bool = False  # stands in the README; --quick measures nothing else
    faults: dict[str, str] = field(default_factory=dict)  # peer -> why its value is known to be wrong

    @property
    def name(self) -> str:
        """What is measured, as the table says it."""
        what = "LossAccumulator, " * self.state + self.function + "_backward" * self.alone
        if self.is_loss and not self.alone and not self.state:
            what += {"none": ", each loss", "sum": ", sum"}.get(self.reduction, "")
            what += " and gradient" * (self.array is not None)
        choices = [
            {None: "", "fresh": "fresh", "out": "into out="}[self.array],
            f"smoothing {self.smoothing:g}" * (self.smoothing != 0),
            "class weights" * self.weighted,
            "sample weights" * self.sample_weighted,
            self.dtype * (self.dtype != "float32"),
        ]
        n, c, *spatial = (f"{it:,}".replace(",", " ") if it > 99_999 else str(it) for it in self.shape)
        if self.padding:
            c += f" of {self.shape[1] + self.padding}"
        layout = [
            ", patches" * self.patches,
            ", channels-last" * self.channels_last,
            {"wide": ", confident predictions", "masked": ", half of the classes masked"}.get(self.values, ""),
        ]
        return ", ".join([what, *filter(None, choices)]) + f" ({', '.join([n, c, *spatial])})" + "".join(layout)

    @property
    def is_loss(self) -> bool:
        return self.function in ("nll_loss", "cross_entropy")

    @property
    def plain(self) -> Case | None:
        """The plain call beside which this one is shown: without what it has in addition. None: it is plain itself."""
        if self.is_loss:
            plain = replace(self, smoothing=0.0, sample_weighted=False, state=False, alone=False)
            return None if plain == self else plain
        return replace(self, function="cross_entropy") if self.array else None

    @property
    def source(self) -> tuple[Any, ...]:
        """What decides upon the data: cases that agree in it share one `Data`."""
        kind = "log-probabilities" if self.function == "nll_loss" else "logits"
        choices = (self.dtype, self.patches, self.channels_last, self.padding, self.values, self.cached)
        return kind, self.shape, *choices

    @property
    def axis(self) -> int:
        return -1 if self.channels_last else 1

    @property
    def target_shape(self) -> tuple[int, ...]:
        return self.shape[:1] + self.shape[2:]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape as it lies in memory."""
        n, c, *spatial = self.shape
        return (n, *spatial, c) if self.channels_last else self.shape

    @property
    def samples(self) -> int:
        return math.prod(self.target_shape)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        if self.dtype == "bfloat16":
            import ml_dtypes  # which gives NumPy this dtype

            dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
            return dtype
        return np.dtype(self.dtype)


class Data:
    """The arrays of the cases that share a source, made once and shared by all contestants.

    A case that is not `cached` gets several pairs of input and target, which every contestant takes in turn:
    measuring one pair again and again would find it in the caches. True values are those of the first pair, in double.
    """

    def __init__(self, case: Case, seed: int = 20240229):
        self.case = case  # one of those that share it: nothing but its source is used
        generator = np.random.default_rng(seed)
        target = self._draw_target(generator)
        whole = case.elements * case.numpy_dtype.itemsize
        self.input_bytes = self._lines_at(target) if case.function == "nll_loss" else whole
        span = 0 if case.cached else span_of_memory()
        # In both senses: the inputs, and what is touched of them for all targets.
        inputs = min(max(1, math.ceil(span / whole)), 8)
        pairs = max(inputs, min(math.ceil(span / (self.input_bytes + target.nbytes)), 64))
        self.stored = [self._draw_input(generator) for _ in range(inputs)]
        self.inputs = [array[..., : case.input_shape[-1]] for array in self.stored]
        self.targets = [target] + [self._draw_target(generator) for _ in range(pairs - 1)]
        self.weight = generator.uniform(0.5, 2, case.shape[1]).astype(np.float32)
        self.sample_weight = copied(generator.uniform(0.5, 2, case.target_shape).astype(np.float32))
        self._small: dict[str, np.ndarray | None] = {}

    @cached_property
    def out(self) -> np.ndarray:
        """The large result's memory where it is reused; its pages are there already."""
        out = self._empty()
        out.fill(1)
        return out[..., : self.case.input_shape[-1]]

    def bound(self, case: Case) -> tuple[int, int]:
        """The least bytes that any method (reads, writes): input as the loss needs it, targets, weights, the result.

        With a gradient the targets are read twice, as nothing may be written before all of them are known to be good.
        """
        size = case.numpy_dtype.itemsize
        reads = 0 if case.function == "nll_loss" and case.alone else self.input_bytes
        if case.is_loss:
            reads += self.targets[0].nbytes * (2 if case.array else 1)
            reads += self.sample_weight.nbytes * case.sample_weighted
        writes = case.elements * size if case.array else 0
        if case.function == "logsumexp" or case.reduction == "none":
            writes += case.samples * size
        return reads, writes

    def true_small(self, case: Case) -> np.ndarray | None:
        """The loss, or each sample's, or its logsumexp; computed once."""
        if case.name not in self._small:
            self._small[case.name] = self._true_small(case)
        return self._small[case.name]

    def _true_small(self, case: Case) -> np.ndarray | None:
        # Products of single precision are exact, and so is `fsum`.
        if case.function == "logsumexp":
            return self.log_sums
        if not case.is_loss or case.alone:
            return None
        losses = self.losses
        factors = self._factors(case)
        if case.smoothing:
            smoothed = np.concatenate([self._smoothed(case, block) for block in self._blocks()])
            at_target = factors * losses * (1 - case.smoothing)
            losses = at_target + smoothed * self._sample_factors(case) * case.smoothing / case.shape[1]
        else:
            losses = factors * losses
        if case.reduction == "none":
            return losses
        total = math.fsum(losses.ravel())
        return np.asarray(total if case.reduction == "sum" else total / math.fsum(factors.ravel()))

    def true_large(self, case: Case) -> Iterator[tuple[slice, np.ndarray]]:
        """The gradient or softmax, in a few blocks of the first axis: the first, one in the middle and the last."""
        blocks = list(self._blocks())
        for block in sorted({0, len(blocks) // 2, len(blocks) - 1}):
            yield blocks[block], self._large(case, blocks[block])

    def _large(self, case: Case, block: slice) -> np.ndarray:
        target, factors = self.targets[0][block], self._factors(case)
        scale = 1 / math.fsum(factors.ravel()) if case.reduction == "mean" else 1
        at_target = factors[block] * (1 - case.smoothing) * scale
        if case.function == "nll_loss":
            result = np.zeros(self.inputs[0][block].shape)
        else:
            logs = self.inputs[0][block].astype(np.float64) - np.expand_dims(self.log_sums[block], case.axis)
            if case.function == "log_softmax":
                return logs
            result = np.exp(logs)
            if case.function == "softmax":
                return result
            share = case.smoothing / case.shape[1] * self._sample_factors(case)[block] * scale
            weights = self._class_factors(case)
            result *= np.expand_dims(at_target + share * weights.sum(), case.axis)
            result -= np.expand_dims(share, case.axis) * weights
        index = np.expand_dims(target, case.axis)
        found = np.take_along_axis(result, index, case.axis)
        np.put_along_axis(result, index, found - np.expand_dims(at_target, case.axis), case.axis)
        return result

    @cached_property
    def log_sums(self) -> np.ndarray:
        """The logsumexp of each sample."""
        found = []
        for block in self._blocks():
            logits = self.inputs[0][block].astype(np.float64)
            largest = logits.max(self.case.axis, keepdims=True)
            np.exp(logits - largest, out=logits)
            found.append((largest + np.log(logits.sum(self.case.axis, keepdims=True))).squeeze(self.case.axis))
        return np.concatenate(found)

    @cached_property
    def losses(self) -> np.ndarray:
        """The loss of each sample, without any weight."""
        index = np.expand_dims(self.targets[0], self.case.axis)
        picked = np.take_along_axis(self.inputs[0], index, self.case.axis).squeeze(self.case.axis).astype(np.float64)
        return -picked if self.case.function == "nll_loss" else self.log_sums - picked

    def _smoothed(self, case: Case, block: slice) -> np.ndarray:
        """The sum over the classes of weight times loss, for each sample of a block."""
        weights = self._class_factors(case)
        sums = (self.inputs[0][block].astype(np.float64) * weights).sum(case.axis)
        return self.log_sums[block] * weights.sum() - sums

    def _class_factors(self, case: Case) -> np.ndarray:
        """The weights of the classes, along their axis."""
        weights = self.weight.astype(np.float64) if case.weighted else np.ones(case.shape[1])
        return weights if case.channels_last else weights.reshape(-1, *[1] * (len(case.shape) - 2))

    def _sample_factors(self, case: Case) -> np.ndarray:
        return self.sample_weight.astype(np.float64) if case.sample_weighted else np.ones(case.target_shape)

    def _factors(self, case: Case) -> np.ndarray:
        factors = self._sample_factors(case)
        return factors * self.weight.astype(np.float64)[self.targets[0]] if case.weighted else factors

    def _blocks(self) -> Iterator[slice]:
        """Blocks of the first axis that are small enough for true values in double."""
        step = max(1, 2**22 // math.prod(self.case.shape[1:]))
        return (slice(start, min(start + step, self.case.shape[0])) for start in range(0, self.case.shape[0], step))

    def _lines_at(self, target: np.ndarray) -> int:
        """Bytes of the cache lines of input that hold an element at its target, each line once."""
        n, c, *spatial = self.case.shape
        d = math.prod(spatial)
        if self.case.channels_last:
            index = np.arange(self.case.samples) * c + target.ravel()
        else:
            index = (np.arange(n)[:, None] * c + target.reshape(n, d)) * d + np.arange(d)
        size = self.case.numpy_dtype.itemsize
        touched = np.zeros(self.case.elements * size // LINE + 1, dtype=bool)
        touched[index * size // LINE] = True
        return LINE * int(np.count_nonzero(touched))

    def _draw_target(self, generator: np.random.Generator) -> np.ndarray:
        shape = self.case.target_shape
        if self.case.patches:
            corners = (shape[0], *(math.ceil(size / 32) for size in shape[1:]))
            target = generator.integers(self.case.shape[1], size=corners)
            for axis, size in enumerate(shape[1:], start=1):
                target = target.repeat(32, axis).take(range(size), axis)
        else:
            classes = self.case.shape[1] if self.case.values != "masked" else math.ceil(self.case.shape[1] / 2)
            target = generator.integers(classes, size=shape)
        return copied(target.astype(np.int64))

    def _draw_input(self, generator: np.random.Generator) -> np.ndarray:
        shape, dtype = self.case.input_shape, np.float64 if self.case.dtype == "float64" else np.float32
        if self.case.function != "nll_loss":
            values = generator.standard_normal(shape, dtype=dtype)
            if self.case.values == "masked":  # classes that no sample has, in the two usual ways
                half = math.ceil(shape[1] / 2)
                values[:, half::2] = -math.inf
                values[:, half + 1 :: 2] = -1000
        elif self.case.values == "wide":  # from -1e-8 where it is right to -1e2 where it is wrong
            values = generator.standard_normal(shape, dtype=dtype)
            values *= 4
            values -= 6
            np.negative(np.exp(values, out=values), out=values)
        else:
            values = generator.standard_exponential(shape, dtype=dtype)
            np.negative(values, out=values)
        input = self._empty()
        input[..., : shape[-1]] = values
        input[..., shape[-1] :] = 0
        return input

    def _empty(self) -> np.ndarray:
        shape = (*self.case.input_shape[:-1], self.case.input_shape[-1] + self.case.padding)
        return aligned(shape, self.case.numpy_dtype)


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An empty array at the start of a page, so that all contestants may use it without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 4096, np.uint8)
    start = -memory.ctypes.data % 4096
    return memory[start : start + size].view(dtype).reshape(shape)


def copied(array: np.ndarray) -> np.ndarray:
    result = aligned(array.shape, array.dtype)
    result[...] = array
    return result


def last_level_cache() -> int:
    """In bytes; 32 MiB where the system does not say."""
    sizes = [32 << 20]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]])
    return max(sizes)


def span_of_memory() -> int:
    """So many bytes taken in turn are never found in the caches; at most 1 GiB is spent on it."""
    return min(max(4 * last_level_cache(), 256 << 20), 1 << 30)


IMAGES = (4, 19, 512, 1024)  # a batch for segmentation: 19 classes of street scenes
TOKENS = (4096, 50257)  # a batch for a language model with GPT-2's vocabulary
ROWS = (1_000_000, 10)
HUGE_ROW = (1, 8_000_000)  # which all threads share
VOLUME = (2, 4, 64, 64, 64)
# Too small for the memory to bind, too large for the cost of a call: image classifiers, detectors, small images.
BETWEEN = ((256, 1000), (1024, 1000), (128, 10, 8), (8, 21, 64, 64))
SMALL = ((64, 10), *BETWEEN, VOLUME)
SMOOTHED = {"plain": 1 / 1.3}  # the time of a smoothed loss, at most, over that of the unsmoothed


def case(function: str, shape: tuple[int, ...], floors: dict[str, float] | None = None, **choices: Any) -> Case:
    return Case(shape, floors or {}, function, cached=shape in SMALL, **choices)


def cases_of_nll_loss() -> Iterator[Case]:
    make: Callable[..., Case] = lambda *rest, **choices: case("nll_loss", *rest, **choices)  # noqa: E731
    overflow = {"torch": "adds up in float16, which overflows"}
    yield make((64, 10), {"torch": 1.5}, readme=True)
    yield make((1024, 1000), {"torch": 1.2})
    yield make(ROWS, {"torch": 1.5}, readme=True)
    yield make(ROWS, {"torch": 2.5}, array="fresh")
    yield make(ROWS, {"torch": 6}, array="out", readme=True)
    yield make(ROWS, array="out", alone=True)
    yield make(ROWS, sample_weighted=True)
    yield make(ROWS, sample_weighted=True, weighted=True)
    yield make(ROWS, sample_weighted=True, array="out")
    yield make(ROWS, state=True)
    yield make(ROWS, {"torch": 1.5, "jax": 1.1}, reduction="none", weighted=True)
    yield make(ROWS, values="wide")
    yield make(ROWS, {"torch": 1.5}, dtype="bfloat16")
    yield make(ROWS, {"torch": 1.5}, dtype="float16", faults=overflow)
    yield make(ROWS, dtype="float64")
    yield make(ROWS, dtype="float64", array="out")
    yield make((100_000, 1000), {"torch": 2})
    yield make(TOKENS, {"torch": 1})
    yield make(TOKENS, {"torch": 2.5}, array="fresh")
    yield make(TOKENS, {"torch": 6}, array="out", readme=True)
    yield make(TOKENS, array="out", alone=True)
    yield make(IMAGES, {"torch": 2.5}, weighted=True)
    for array, floor in ((None, 2.5), ("fresh", 2.5), ("out", 6.0)):
        yield make(IMAGES, {"torch": floor}, array=array, weighted=array is None, patches=True, readme=array is None)
    yield make(IMAGES, {"torch": 1.5, "jax": 1.1}, reduction="none", patches=True)
    yield make(IMAGES, sample_weighted=True, patches=True)
    for patches in (True, False):
        yield make(IMAGES, {"torch": 10}, weighted=True, patches=patches, channels_last=True)
    yield make(VOLUME)
    for dtype in ("float32", "float64", "bfloat16"):
        for shape in (TOKENS, *BETWEEN):
            if shape != TOKENS or dtype == "float32":
                yield make(shape, {"torch": 1.5, "jax": 1.1}, reduction="none", weighted=True, dtype=dtype)
    yield make((64, 10), state=True)


def cases_of_cross_entropy() -> Iterator[Case]:
    make: Callable[..., Case] = lambda *rest, **choices: case("cross_entropy", *rest, **choices)  # noqa: E731
    yield make((64, 10), {"torch": 3, "jax": 5}, readme=True)
    yield make((64, 10), {"torch": 8, "jax": 5}, array="fresh")
    yield make((64, 10), state=True)
    yield make(ROWS, {"torch": 10, "jax": 2}, readme=True)
    yield make(ROWS, {"torch": 5, "jax": 2}, array="fresh")
    yield make(ROWS, {"torch": 10, "jax": 4}, array="out", readme=True)
    yield make(ROWS, array="out", alone=True)
    yield make(ROWS, array="out", sample_weighted=True)
    yield make(ROWS, state=True)
    yield make(ROWS, dtype="float64")
    yield make(ROWS, dtype="float64", array="out")
    yield make(TOKENS, {"torch": 5.5, "jax": 8}, readme=True)
    yield make(TOKENS, {"torch": 6, "jax": 2}, array="fresh")
    yield make(TOKENS, {"torch": 12, "jax": 4}, array="out", readme=True)
    yield make(TOKENS, array="out", alone=True)
    yield make(TOKENS, array="out", sample_weighted=True)
    yield make(TOKENS, {"torch": 12, "jax": 3}, array="out", dtype="bfloat16")
    yield make(TOKENS, padding=47)
    yield make(TOKENS, padding=47, array="out")
    yield make(IMAGES, {"torch": 6, "jax": 2}, readme=True)
    yield make(IMAGES, {"torch": 4, "jax": 2}, array="fresh")
    yield make(IMAGES, {"torch": 7, "jax": 3}, array="out", readme=True)
    yield make(IMAGES, array="out", alone=True)
    yield make(IMAGES, array="out", sample_weighted=True)
    for array in (None, "out"):
        yield make(HUGE_ROW, array=array)
    for dtype in ("float32", "float64", "bfloat16"):
        for shape in (*BETWEEN, VOLUME):
            if shape in BETWEEN[:2] or dtype == "float32":
                for array, floor in ((None, 2.5), ("out", 4.0)):
                    yield make(shape, {"torch": floor}, array=array, dtype=dtype)
        for array in (None, "out"):
            yield make(BETWEEN[1], array=array, dtype=dtype, values="masked")
    for shape in (*BETWEEN[:2], BETWEEN[3], TOKENS, IMAGES):
        for weighted in (False, True):
            for array in (None, "out"):
                readme = shape == BETWEEN[0] and not weighted
                yield make(shape, SMOOTHED, array=array, smoothing=0.1, weighted=weighted, readme=readme)


def cases_of_softmax() -> Iterator[Case]:
    for shape in (*BETWEEN[:2], TOKENS, IMAGES):
        for array in ("fresh", "out"):
            floors = {"torch": 1.3} | ({"plain": 1.0} if array == "out" else {})
            yield case("log_softmax", shape, floors, array=array, readme=shape == TOKENS and array == "out")
        yield case("softmax", shape, array="out")
        yield case("logsumexp", shape)
    yield case("softmax", TOKENS, array="fresh")
    yield case("log_softmax", HUGE_ROW, array="out")


CASES = [*cases_of_nll_loss(), *cases_of_cross_entropy(), *cases_of_softmax()]


def groups(cases: list[Case]) -> list[list[Case]]:
    """The cases that share a process: the small ones, then those of each source; always with the same data together.

    Memory that earlier cases have left to a library's heap would spare a large array its new pages.
    """
    found: dict[tuple[Any, ...], list[Case]] = {}
    for one in cases:
        found.setdefault(one.source, []).append(one)
    small = [one for group in found.values() for one in group if one.cached]
    return [*filter(None, [small]), *(group for group in found.values() if not group[0].cached)]


def tiny(one: Case) -> Case:
    """A case of few numbers that asks the same of a contestant."""
    extents = (5, 7, 3, 4, 2)[: len(one.shape)]
    return replace(one, shape=extents, cached=True, faults={}, padding=min(one.padding, 2))
