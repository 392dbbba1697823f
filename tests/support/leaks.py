# SPDX-License-Identifier: BSD-3-Clause
"""Calls and errors without end: `python -m support.leaks 1000000` makes so many of each kind and prints what grew."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

import nll

input = np.linspace(-2, 2, 24, dtype=np.float32).reshape(8, 3)
target = np.arange(8) % 3
weight = np.array([0.5, 1.0, 2.0])
whole_weight = np.array([1, 2, 3])
sample_weight = np.linspace(0.1, 1, 8)
out = np.empty_like(input)
outs = np.ones(8)
half = input.astype(ml_dtypes.bfloat16)
apart = np.asfortranarray(input)
swapped = input.astype(">f4")
long_row = np.zeros((1, 5000), np.float32)
total = nll.LossAccumulator("cross_entropy", weight, groups=3)
state = nll.LossAccumulator("nll").state

CALLS: dict[str, Callable[[], Any]] = {
    "mean": lambda: nll.nll_loss(input, target),
    "losses": lambda: nll.nll_loss(input, target, weight, reduction="none", dtype=np.float64),
    "total-weight": lambda: nll.nll_loss(input, target, whole_weight, return_total_weight=True),
    "gradient": lambda: nll.nll_loss_backward(1.0, input, target, weight),
    "gradient-of-each": lambda: nll.nll_loss_backward(outs, input, target, reduction="none", out=out),
    "both": lambda: nll.nll_loss_value_and_grad(apart, target, sample_weight=sample_weight),
    "cross-entropy": lambda: nll.cross_entropy(half, target, label_smoothing=0.1),
    "cross-entropies": lambda: nll.cross_entropy(input, target, reduction="none"),
    "cross-entropy-both": lambda: nll.cross_entropy_value_and_grad(half, target, weight, out=None),
    "into-out": lambda: nll.cross_entropy_backward(2.0, input, target, sample_weight=sample_weight, out=out),
    "long-row": lambda: nll.cross_entropy_value_and_grad(long_row, [7]),
    "softmax": lambda: (nll.softmax(half), nll.log_softmax(input, out=out), nll.logsumexp(input, keepdims=True)),
    "converted": lambda: nll.cross_entropy(swapped, target.tolist(), weight.tolist(), ignore_index=np.int8(2)),
    "object": lambda: nll.CrossEntropyLoss(weight, label_smoothing=0.1).value_and_grad(input, target, out=out),
    "update": lambda: total.update(input, target, sample_weight, group=target),
    "results": lambda: (total.compute(), total.perplexity, total.standard_error, total.total_weight, total.count),
    "states": lambda: (nll.merge([state, state]), total.copy(), nll.LossAccumulator.from_bytes(state)),
}
ERRORS: dict[str, Callable[[], Any]] = {
    "label": lambda: nll.nll_loss(input, target + 3),
    "label-before-gradient": lambda: nll.cross_entropy_value_and_grad(input, target + 3, weight, out=out),
    "float-target": lambda: nll.cross_entropy(input, target * 0.5),
    "shape": lambda: nll.nll_loss(input, target[:4]),
    "weight": lambda: nll.nll_loss(input, target, weight[:2]),
    "whole-weight": lambda: nll.cross_entropy(input, target, whole_weight + 2**60),
    "dtype": lambda: nll.cross_entropy(target[:, None], target),
    "reduction": lambda: nll.nll_loss(input, target, reduction="avg"),
    "axis": lambda: nll.nll_loss_backward(1.0, input, target, axis=7),
    "out": lambda: nll.log_softmax(input, out=out[::2]),
    "out-shared": lambda: nll.nll_loss_backward(1.0, input, target, out=input),
    "empty": lambda: nll.nll_loss(input, target * 0 - 100, empty="raise"),
    "object": lambda: nll.nll_loss(object(), target),
    "integer": lambda: nll.nll_loss(input, target, ignore_index=object()),
    "state": lambda: nll.merge([state, state + 1]),
    "kind": lambda: total.merge(nll.LossAccumulator("nll", groups=3)),
    "group": lambda: total.update(input, target, group=target + 3),
    "threads": lambda: nll.set_num_threads(0),
}
NAMED = {name: value for name, value in globals().items() if isinstance(value, np.ndarray)}


def refused(call: Callable[[], Any]) -> Callable[[], None]:
    def attempt() -> None:
        try:
            call()
        except (TypeError, ValueError, IndexError):
            return
        raise AssertionError("no error")

    return attempt


class Heap(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def bytes_in_use() -> int:
    """What malloc has given and not got back; 0 where nobody tells."""
    if not sys.platform.startswith("linux") or not hasattr(libc := ctypes.CDLL(None), "mallinfo2"):
        return 0
    libc.mallinfo2.restype = Heap
    heap = libc.mallinfo2()
    return int(heap.uordblks + heap.hblkhd)


def resident_bytes() -> int:
    if not sys.platform.startswith("linux"):
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def in_use() -> dict[str, int]:
    gc.collect()
    references = {f"references of {name}": sys.getrefcount(array) for name, array in NAMED.items()}
    references |= {"references of None": sys.getrefcount(None), "references of float": sys.getrefcount(float)}
    return references | {
        "blocks of Python": sys.getallocatedblocks(),
        "bytes of malloc": bytes_in_use(),
        "resident bytes": resident_bytes(),
    }


def growth(call: Callable[[], Any], times: int) -> dict[str, int]:
    """What is in use after so many calls, beyond what was after a few."""
    for _ in range(64):
        call()
    in_use()
    before = in_use()
    for _ in range(times):
        call()
    after = in_use()
    return {what: after[what] - before[what] for what in before}


def leaks(grown: dict[str, int], times: int) -> dict[str, int]:
    """What grew by more than a hundredth of the calls, and pages by more than a few."""
    allowed = {"bytes of malloc": times // 2, "resident bytes": times + 2**18}
    return {what: more for what, more in grown.items() if more > allowed.get(what, 16 + times // 100)}


def every_call() -> Iterator[tuple[str, Callable[[], Any]]]:
    yield from CALLS.items()
    yield from ((f"{name} (refused)", refused(call)) for name, call in ERRORS.items())


def main(times: int) -> None:
    for name, call in every_call():
        grown = growth(call, times)
        more = ", ".join(f"{what} {by:+}" for what, by in grown.items() if by)
        print(f"{name}: {'LEAKS ' if leaks(grown, times) else ''}{more or 'nothing grew'}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
