# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: one list of cases, their data, their true values and the bytes that no method can avoid.

A case says nothing about who runs it; `bench.contestants` says how each library is called for it. Whatever depends
on the loss stands in `LOSSES`: a new loss is one more entry there, its cases are more entries of `CASES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    shape: tuple[int, ...]  # (N, C, d1, ..., dk), whatever the layout
    floors: dict[str, float] = field(default_factory=dict)  # peer -> the least ratio of its time to ours
    loss: str = "nll_loss"
    gradient: str | None = None  # None: forward only; "fresh"; "out": into an array that is reused
    reduction: str = "mean"
    dtype: str = "float32"
    weighted: bool = False
    patches: bool = False  # targets piecewise constant in 32 x 32 squares, as in images; otherwise random
    channels_last: bool = False
    values: str = "usual"  # a kind that the loss's `draw` knows
    cached: bool = False  # small: measured warm, in the caches; otherwise the data come from memory
    faults: dict[str, str] = field(default_factory=dict)  # peer -> why its value is known to be wrong

    @property
    def name(self) -> str:
        """What is measured, as the table says it."""
        gradient = {None: "", "fresh": " + gradient, fresh", "out": " + gradient, into out="}[self.gradient]
        loss = (
            "cross-entropy" if self.loss == "cross_entropy" else "forward" if gradient else f"forward {self.reduction}"
        )
        choices = [
            "weighted" * self.weighted,
            self.dtype if self.dtype != "float32" else "",
            "("
            + ", ".join(f"{extent:,}".replace(",", " ") if extent > 99_999 else str(extent) for extent in self.shape)
            + ")",
        ]
        layout = [
            "" if len(self.shape) == 2 or self.loss == "cross_entropy" else ", patches" if self.patches else ", random",
            ", channels-last" * self.channels_last,
            ", confident predictions" * (self.values == "wide"),
        ]
        return " ".join([loss + gradient, *filter(None, choices)]) + "".join(layout)

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


@dataclass(frozen=True)
class Loss:
    """What depends on the loss."""

    draw: Callable[[np.random.Generator, tuple[int, ...], str], np.ndarray]
    """(generator, shape, kind of values) -> input in float32."""
    input_bytes: Callable[[Case, np.ndarray], int]
    """(case, target) -> bytes of input that every forward method reads."""
    losses: Callable[[Case, np.ndarray, np.ndarray], np.ndarray]
    """(case, input, target) -> the true unweighted losses, in double."""
    gradient: Callable[[Case, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    """(case, input, target, factor of each sample) -> the true gradient, in double."""


def draw_log_probabilities(generator: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    if kind == "wide":  # a confident classifier's: from -1e-8 where it is right to -1e2 where it is wrong
        logarithms = generator.standard_normal(shape, dtype=np.float32)
        logarithms *= 4
        logarithms -= 6
        return np.negative(np.exp(logarithms, out=logarithms), out=logarithms)
    values = generator.standard_exponential(shape, dtype=np.float32)
    return np.negative(values, out=values)


def bytes_of_lines_at_targets(case: Case, target: np.ndarray) -> int:
    """Counts each cache line of input that holds an element at its target once."""
    n, c, *spatial = case.shape
    d = math.prod(spatial)
    if case.channels_last:
        index = np.arange(case.samples) * c + target.ravel()
    else:
        index = (np.arange(n)[:, None] * c + target.reshape(n, d)) * d + np.arange(d)
    touched = np.zeros(case.elements * case.numpy_dtype.itemsize // LINE + 1, dtype=bool)
    touched[index * case.numpy_dtype.itemsize // LINE] = True
    return LINE * int(np.count_nonzero(touched))


def losses_at_targets(case: Case, values: np.ndarray, target: np.ndarray) -> np.ndarray:
    picked = np.take_along_axis(values, np.expand_dims(target, case.axis), case.axis)
    return -picked.squeeze(case.axis).astype(np.float64)


def gradient_at_targets(case: Case, values: np.ndarray, target: np.ndarray, factor: np.ndarray) -> np.ndarray:
    gradient = np.zeros(values.shape)
    np.put_along_axis(gradient, np.expand_dims(target, case.axis), np.expand_dims(-factor, case.axis), case.axis)
    return gradient


def draw_logits(generator: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    return generator.standard_normal(shape, dtype=np.float32)


def bytes_of_all_logits(case: Case, target: np.ndarray) -> int:
    return case.elements * case.numpy_dtype.itemsize


def probabilities(case: Case, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The softmax, and the logarithm of what it was divided by, in double."""
    logits = values.astype(np.float64)
    largest = logits.max(case.axis, keepdims=True)
    powers = np.exp(logits - largest)
    sums = powers.sum(case.axis, keepdims=True)
    return powers / sums, (largest + np.log(sums)).squeeze(case.axis)


def cross_entropies(case: Case, values: np.ndarray, target: np.ndarray) -> np.ndarray:
    losses = [
        losses_at_targets(case, values[block], target[block]) + probabilities(case, values[block])[1]
        for block in blocks_of(case)
    ]
    return np.concatenate(losses)


def gradient_of_logits(case: Case, values: np.ndarray, target: np.ndarray, factor: np.ndarray) -> np.ndarray:
    gradient = probabilities(case, values)[0] * np.expand_dims(factor, case.axis)
    return gradient + gradient_at_targets(case, values, target, factor)


def blocks_of(case: Case) -> Iterator[slice]:
    """Blocks of the first axis that are small enough for true values in double."""
    step = max(1, 2**23 // math.prod(case.shape[1:]))
    return (slice(start, start + step) for start in range(0, case.shape[0], step))


LOSSES = {
    "nll_loss": Loss(
        draw=draw_log_probabilities,
        input_bytes=bytes_of_lines_at_targets,
        losses=losses_at_targets,
        gradient=gradient_at_targets,
    ),
    "cross_entropy": Loss(
        draw=draw_logits,
        input_bytes=bytes_of_all_logits,
        losses=cross_entropies,
        gradient=gradient_of_logits,
    ),
}


class Data:
    """The arrays of one case, made once and shared by all contestants.

    A case that is not `cached` gets several pairs of input and target, which every contestant takes in turn:
    measuring one pair again and again would find it in the caches.
    """

    def __init__(self, case: Case, seed: int = 20240229):
        self.case = case
        loss = LOSSES[case.loss]
        generator = np.random.default_rng(seed)
        target = self._draw_target(generator)
        self.input_bytes = loss.input_bytes(case, target)
        span = 0 if case.cached else span_of_memory()
        # In both senses: the inputs, and what is touched of them for all targets.
        inputs = min(max(1, math.ceil(span / (case.elements * case.numpy_dtype.itemsize))), 8)
        pairs = max(inputs, min(math.ceil(span / (self.input_bytes + target.nbytes)), 64))
        self.inputs = [self._draw_input(generator) for _ in range(inputs)]
        self.targets = [target] + [self._draw_target(generator) for _ in range(pairs - 1)]
        self.weight = generator.uniform(0.5, 2, case.shape[1]).astype(np.float32) if case.weighted else None

    @cached_property
    def out(self) -> np.ndarray:
        """The gradient's memory where it is reused; its pages are there already."""
        out = aligned(self.case.input_shape, self.case.numpy_dtype)
        out.fill(1)
        return out

    def _draw_target(self, generator: np.random.Generator) -> np.ndarray:
        shape = self.case.target_shape
        if self.case.patches:
            corners = (shape[0], *(math.ceil(size / 32) for size in shape[1:]))
            target = generator.integers(self.case.shape[1], size=corners)
            for axis, size in enumerate(shape[1:], start=1):
                target = target.repeat(32, axis).take(range(size), axis)
        else:
            target = generator.integers(self.case.shape[1], size=shape)
        return copied(target.astype(np.int64))

    def _draw_input(self, generator: np.random.Generator) -> np.ndarray:
        values = LOSSES[self.case.loss].draw(generator, self.case.input_shape, self.case.values)
        return copied(values.astype(self.case.numpy_dtype, copy=False))

    def bound(self) -> tuple[int, int]:
        """The least bytes that any method (reads, writes): input as the loss needs it, targets, and the result.

        With a gradient the targets are read twice, as nothing may be written before all of them are known to be good.
        """
        case = self.case
        reads = self.input_bytes + self.targets[0].nbytes * (2 if case.gradient else 1)
        writes = 0
        if case.gradient:
            writes += case.elements * case.numpy_dtype.itemsize
        if case.reduction == "none":
            writes += case.samples * case.numpy_dtype.itemsize
        return reads, writes

    def true_loss(self) -> np.ndarray:
        """Of the first pair, in double: products of single precision are exact, and so are the sums of `fsum`."""
        losses, weights = self._first_losses(), self._first_weights()
        losses *= weights
        if self.case.reduction == "none":
            return losses
        total = math.fsum(losses.ravel())
        return np.asarray(total if self.case.reduction == "sum" else total / math.fsum(weights.ravel()))

    def true_gradient(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Of the first pair, in double, in blocks of the first axis."""
        case = self.case
        factors = self._first_weights()
        if case.reduction == "mean":
            factors = factors / math.fsum(factors.ravel())
        for block in blocks_of(case):
            yield (
                block,
                LOSSES[case.loss].gradient(case, self.inputs[0][block], self.targets[0][block], factors[block]),
            )

    def _first_losses(self) -> np.ndarray:
        return LOSSES[self.case.loss].losses(self.case, self.inputs[0], self.targets[0])

    def _first_weights(self) -> np.ndarray:
        target = self.targets[0]
        return np.ones(target.shape) if self.weight is None else self.weight.astype(np.float64)[target]


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

HUGE_ROW = (1, 8_000_000)  # which all threads share

CASES = [
    Case((64, 10), {"torch": 1.5}, cached=True),
    Case((1024, 1000), {"torch": 1.2}, cached=True),
    Case((1_000_000, 10), {"torch": 1.5}),
    Case((1_000_000, 10), values="wide"),
    Case((100_000, 1000), {"torch": 2}),
    Case(IMAGES, {"torch": 2.5}, weighted=True, patches=True),
    Case(IMAGES, {"torch": 2.5}, weighted=True),
    Case(IMAGES, {"torch": 10}, weighted=True, patches=True, channels_last=True),
    Case(IMAGES, {"torch": 10}, weighted=True, channels_last=True),
    Case(IMAGES, {"torch": 1.5}, reduction="none", patches=True),
    Case((1_000_000, 10), {"torch": 1.5}, dtype="bfloat16"),
    Case((1_000_000, 10), {"torch": 1.5}, dtype="float16", faults={"torch": "adds up in float16, which overflows"}),
    Case((1_000_000, 10), {"torch": 2.5}, gradient="fresh"),
    Case(TOKENS, {"torch": 2.5}, gradient="fresh"),
    Case(IMAGES, {"torch": 2.5}, gradient="fresh", patches=True),
    Case((1_000_000, 10), {"torch": 6}, gradient="out"),
    Case(TOKENS, {"torch": 6}, gradient="out"),
    Case(IMAGES, {"torch": 6}, gradient="out", patches=True),
    *(
        Case(shape, floors, "cross_entropy", gradient, dtype=dtype, cached=shape == (64, 10))
        for gradient, shape, dtype, floors in [
            (None, (64, 10), "float32", {"torch": 3, "jax": 5}),
            (None, (1_000_000, 10), "float32", {"torch": 10, "jax": 2}),
            (None, TOKENS, "float32", {"torch": 5.5, "jax": 8}),
            (None, IMAGES, "float32", {"torch": 6, "jax": 2}),
            (None, HUGE_ROW, "float32", {}),
            ("fresh", (64, 10), "float32", {"torch": 8, "jax": 5}),
            ("fresh", (1_000_000, 10), "float32", {"torch": 5, "jax": 2}),
            ("fresh", TOKENS, "float32", {"torch": 6, "jax": 2}),
            ("fresh", IMAGES, "float32", {"torch": 4, "jax": 2}),
            ("out", (1_000_000, 10), "float32", {"torch": 10, "jax": 4}),
            ("out", TOKENS, "float32", {"torch": 12, "jax": 4}),
            ("out", IMAGES, "float32", {"torch": 7, "jax": 3}),
            ("out", HUGE_ROW, "float32", {}),
            ("out", TOKENS, "bfloat16", {"torch": 12, "jax": 3}),
        ]
    ),
]
