# SPDX-License-Identifier: BSD-3-Clause
"""What a contestant is, a column of the table; and nll as one. The others stand in `bench.peers`.

A contestant's `prepare` takes a case and its data and returns the call to be timed, or None where it cannot run the
case. A call takes the next pair of input and target at every turn and returns the library's own arrays, complete when
it returns; `to_numpy` makes them NumPy's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any, ClassVar

import numpy as np

from .cases import Case, Data

Call = Callable[[], Any]
Arrays = tuple[np.ndarray | None, np.ndarray | None]


def in_turn(function: Callable[..., Any], inputs: list[Any], *targets: list[Any]) -> Call:
    """`function` of the next pair of input and target; of a single pair without any cost in between."""
    if len(targets[0]) == 1:
        return partial(function, inputs[0], *(one[0] for one in targets))
    pairs = cycle([(inputs[i % len(inputs)], *its) for i, its in enumerate(zip(*targets, strict=True))])
    return lambda: function(*next(pairs))


def inputs_in_turn(function: Callable[..., Any], inputs: list[Any]) -> Call:
    """`function` of the next input, for what has no target."""
    if len(inputs) == 1:
        return partial(function, inputs[0])
    turn = cycle(inputs)
    return lambda: function(next(turn))


class Contestant(ABC):
    name: ClassVar[str]
    title: ClassVar[str]
    version: str = ""
    apart: ClassVar[bool] = False  # in a process of its own
    usual: ClassVar[bool] = True  # whether --quick has it, too
    tolerance: ClassVar[dict[str, float]] = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-12}
    """dtype -> the largest error, relative to the largest magnitude of the values, that counts as its own rounding."""

    @abstractmethod
    def __init__(self, threads: int): ...

    @abstractmethod
    def prepare(self, case: Case, data: Data) -> Call | None: ...

    def allowed_error(self, case: Case) -> float:
        return self.tolerance[case.dtype]

    def asked(self, case: Case) -> Case | None:
        """The case whose values this contestant is to find."""
        return case

    def to_numpy(self, case: Case, result: Any) -> Arrays:
        """The loss, or what else has one number a sample; and the large array."""
        small, large = parts(case, result)
        return None if small is None else np.asarray(small), None if large is None else np.asarray(large)


def parts(case: Case, result: Any) -> tuple[Any, Any]:
    """A call's result as a small and a large one; None where the case has none of the kind."""
    if case.array is None:
        return result, None
    return result if case.is_loss and not case.alone else (None, result)


class Nll(Contestant):
    name = title = "nll"
    # Half a unit in the last place and a little more: beside the true value's own rounding, one unit. In float64 the
    # true values themselves are off by some units.
    tolerance: ClassVar = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 1e-14}

    def __init__(self, threads: int):
        import nll

        nll.set_num_threads(threads)
        self.version = nll.__version__
        self.nll = nll

    def allowed_error(self, case: Case) -> float:
        """Sums and means of `nll_loss` have no error at all, where the true ones have none, either."""
        both = case.weighted and case.sample_weighted
        is_exact = case.function == "nll_loss" and case.dtype != "float64" and not both
        return 0 if is_exact else self.tolerance[case.dtype]

    def prepare(self, case: Case, data: Data) -> Call | None:
        nll = self.nll
        keywords: dict[str, Any] = {}
        if case.weighted:
            keywords["weight"] = data.weight
        if case.smoothing:
            keywords["label_smoothing"] = case.smoothing
        if case.channels_last:
            keywords["axis"] = -1
        if case.state:
            self.accumulator = nll.LossAccumulator(case.function.removesuffix("_loss"), **keywords)
            more = {"sample_weight": data.sample_weight} if case.sample_weighted else {}
            return in_turn(partial(self.accumulator.update, **more), data.inputs, data.targets)
        if case.sample_weighted:
            keywords["sample_weight"] = data.sample_weight
        if case.reduction != "mean":
            keywords["reduction"] = case.reduction
        if case.array == "out":
            keywords["out"] = data.out
        if not case.is_loss:
            return inputs_in_turn(partial(getattr(nll, case.function), **keywords), data.inputs)
        function = getattr(nll, case.function + ("_backward" if case.alone else "_value_and_grad" * bool(case.array)))
        function = partial(function, **keywords) if keywords else function
        return in_turn(partial(function, 1.0) if case.alone else function, data.inputs, data.targets)

    def to_numpy(self, case: Case, result: Any) -> Arrays:
        return super().to_numpy(case, self.accumulator.compute() if case.state else result)


class Plain(Nll):
    """nll itself without what the case has in addition: what that costs."""

    name, title = "plain", "plain nll"

    def __init__(self, threads: int):
        super().__init__(threads)
        self.version = ""

    def asked(self, case: Case) -> Case | None:
        return case.plain

    def prepare(self, case: Case, data: Data) -> Call | None:
        return super().prepare(case.plain, data) if case.plain else None
