# SPDX-License-Identifier: BSD-3-Clause
"""Ctrl-C ends any call within 0.3 s: on every path, and in what comes before it, calls ask for signals often enough.

A timer's signals, whose handler notes the time, come every few milliseconds. The longest time without one is the
longest that Ctrl-C could wait: from the call's begin to its end, whatever it does meanwhile.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import nll
from support.pairs import pairwise
from support.samples import FLOAT_DTYPES

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this platform has no timers that signal")

PROMISED = 0.3  # seconds


class LongEnough(Exception):
    """Ends a call that would take minutes."""


def longest_wait(call: Callable[[], Any], seconds: float) -> float:
    """The seconds that Ctrl-C could have to wait in a call, which is ended after so many."""
    answered = []
    over = False

    def answer(*_: object) -> None:
        nonlocal over
        answered.append(time.monotonic())
        if not over and answered[-1] > begin + seconds:
            over = True
            raise LongEnough

    before = signal.signal(signal.SIGALRM, answer)
    begin = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        call()
    except LongEnough:
        pass
    finally:
        over = True
        end = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return float(np.diff([begin, *(moment for moment in answered if moment < end), end]).max())


def assert_ends_soon(call: Callable[[], Any], seconds: float = 0.15) -> None:
    """It keeps the promise in one of three tries: a loaded machine may give this process no time for longer."""
    waits = []
    while not waits or (min(waits) > PROMISED and len(waits) < 3):
        waits.append(longest_wait(call, seconds))
    assert min(waits) <= PROMISED, [f"{wait:.2f} s" for wait in waits]


def overlapping(shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Elements whose addresses are so many elements apart: where samples overlap, many of them need little memory."""
    size = 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
    logits = np.random.default_rng(0).normal(size=min(size, 2**16)) * 3
    return as_strided(np.resize(logits.astype(dtype), size), shape, [np.dtype(dtype).itemsize * s for s in strides])


# ---- a number for all samples, which has all the time in the world

# Shape and strides in elements. Which loop takes what: rows of many classes side by side; tiles of few classes, and of
# classes apart from each other; a row that all threads share.
LAYOUTS = {
    "few-classes": ((2**34, 10), (0, 1)),
    "rows": ((2**20, 50_257), (1, 1)),
    "long-rows": ((4096, 262_144), (1, 1)),
    "one-row": ((1, 2**27), (0, 0)),
    "images": ((1024, 19, 512, 512), (0, 8, 1, 1)),
    "fortran": ((8192, 262_144), (1, 32)),
    "fortran-of-a-million": ((2048, 1_000_000), (1, 8)),
    "fortran-of-millions": ((20, 2**26), (1, 1)),
}
CLASS_WEIGHTS: dict[str, Callable[[int], Any]] = {
    "": lambda classes: None,
    "float-weights": lambda classes: np.broadcast_to(np.float64(1.5), classes),
    "integer-weights": lambda classes: np.broadcast_to(np.int64(3), classes),
}
REDUCED: dict[str, Callable[..., Any]] = {
    "nll_loss": nll.nll_loss,
    "cross_entropy": nll.cross_entropy,
    "in-double": lambda *arrays, **choices: nll.cross_entropy(*arrays, **choices, dtype=np.float64),
    "smoothed": lambda *arrays, **choices: nll.cross_entropy(*arrays, **choices, label_smoothing=0.1),
}


def once(array: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(array, shape)


@pairwise(
    layout=list(LAYOUTS),
    call=list(REDUCED),
    dtype=FLOAT_DTYPES,
    class_weight=list(CLASS_WEIGHTS),
    sample_weight=[False, True],
    count=[1, 2],
)
def test_reduced_losses(layout, call, dtype, class_weight, sample_weight, count):
    input = overlapping(*LAYOUTS[layout], dtype)
    samples = input[:, 0].shape
    target = once(np.int64(1), samples)
    choices = {"sample_weight": once(1.5, samples)} if sample_weight else {}
    weight = CLASS_WEIGHTS[class_weight](input.shape[1])
    with nll.num_threads(count):
        assert_ends_soon(lambda: REDUCED[call](input, target, weight, **choices))


# ---- a number for each sample, or for each of its classes: as long as its memory is filled

RESULTS = {
    "losses": lambda input, target: nll.nll_loss(input, target, reduction="none"),
    "cross-entropies": lambda input, target: nll.cross_entropy(input, target, reduction="none"),
    "logsumexp": lambda input, target: nll.logsumexp(input),
    "nll_loss_backward": lambda input, target: nll.nll_loss_backward(1.0, input, target),
    "of-each-loss": lambda input, target: nll.cross_entropy_backward(
        once(1e30, target.shape), input, target, reduction="none"
    ),
    "value_and_grad": lambda input, target: nll.cross_entropy_value_and_grad(input, target),
    "smoothed": lambda input, target: nll.cross_entropy_value_and_grad(input, target, label_smoothing=0.1),
    "softmax": lambda input, target: nll.softmax(input),
    "log_softmax": lambda input, target: nll.log_softmax(input),
}
FILLED = {
    "few-classes": ((2**23, 8), (0, 1)),
    "rows": ((1024, 65_536), (1, 1)),
    "one-row": ((1, 2**26), (0, 1)),
    "images": ((16, 16, 512, 512), (0, 8, 1, 1)),
    "fortran": ((256, 262_144), (1, 2)),
    "fortran-of-millions": ((16, 2**23), (1, 2)),
}


@pairwise(layout=list(FILLED), call=list(RESULTS), dtype=FLOAT_DTYPES, count=[1, 2])
def test_results_of_many_elements(layout, call, dtype, count):
    input = overlapping(*FILLED[layout], dtype)
    target = once(np.int64(1), input[:, 0].shape)
    with nll.num_threads(count):
        assert_ends_soon(lambda: RESULTS[call](input, target))


# ---- states

GROUPS: dict[str, tuple[int, Callable[[int], Any]]] = {
    "one-group": (1, lambda samples: once(np.int8(0), (samples,))),
    "of-two-in-turn": (2, lambda samples: once(np.int8([0, 1]), (samples // 2, 2)).reshape(-1)),
}


@pytest.mark.parametrize("groups", GROUPS)
def test_update_by_groups(groups):
    """What comes after the sweep, the sort of the samples and the sum of each group, asks as well."""
    samples = 2**23
    count, group_of = GROUPS[groups]
    input, target, group = once(np.float32(-1), (samples, 1)), once(np.int8(0), (samples,)), group_of(samples)
    total = nll.LossAccumulator("nll", groups=count)
    before = total.count.sum()
    assert_ends_soon(lambda: total.update(input, target, group=group), seconds=60)
    assert total.count.sum() % samples == before
