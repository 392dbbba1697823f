# SPDX-License-Identifier: BSD-3-Clause
"""Who is measured: nll and its peers, the columns of the table.

A contestant's `prepare` takes the data of a case and returns the call to be timed, or None where it cannot run the
case. A call takes the next pair of input and target at every turn and returns loss and gradient (None: forward only)
as the library's own arrays, complete when it returns; `to_numpy` makes them NumPy's.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle
from typing import Any, ClassVar

import numpy as np

from .cases import Case, Data

Call = Callable[[], Any]


def in_turn(function: Callable[..., Any], inputs: list[Any], targets: list[Any]) -> Call:
    """`function` of the next pair of input and target; of a single pair without any cost in between."""
    if len(targets) == 1:
        return partial(function, inputs[0], targets[0])
    pairs = cycle([(inputs[i % len(inputs)], target) for i, target in enumerate(targets)])
    return lambda: function(*next(pairs))


class Contestant(ABC):
    name: str
    title: str
    version: str
    tolerance: ClassVar[dict[str, float]]
    """dtype -> the largest error, relative to the largest magnitude of the values, that counts as its own rounding."""
    rounds_once: ClassVar[set[str]] = set()
    """Losses whose sums and means have no error at all."""

    @abstractmethod
    def __init__(self, threads: int): ...

    @abstractmethod
    def prepare(self, case: Case, data: Data) -> Call | None: ...

    def to_numpy(self, case: Case, result: Any) -> tuple[np.ndarray, np.ndarray | None]:
        loss, gradient = result if case.gradient else (result, None)
        return np.asarray(loss), None if gradient is None else np.asarray(gradient)


class Nll(Contestant):
    name = title = "nll"
    # Half a unit in the last place and a little more: beside the true value's own rounding, one unit.
    tolerance: ClassVar = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23}
    rounds_once: ClassVar = {"nll_loss"}

    def __init__(self, threads: int):
        import nll

        nll.set_num_threads(threads)
        self.version = nll.__version__
        self.nll = nll

    def prepare(self, case: Case, data: Data) -> Call:
        keywords: dict[str, Any] = {}
        if data.weight is not None:
            keywords["weight"] = data.weight
        if case.channels_last:
            keywords["axis"] = -1
        if case.reduction != "mean":
            keywords["reduction"] = case.reduction
        if case.gradient == "out":
            keywords["out"] = data.out
        function = getattr(self.nll, case.loss + ("_value_and_grad" if case.gradient else ""))
        return in_turn(partial(function, **keywords) if keywords else function, data.inputs, data.targets)


class Torch(Contestant):
    name, title = "torch", "PyTorch"
    # Its sums are in the input's dtype.
    tolerance: ClassVar = {"float16": 2e-3, "bfloat16": 5e-2, "float32": 1e-5}

    def __init__(self, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.version = torch.__version__
        self.torch = torch

    def tensor(self, array: np.ndarray) -> Any:
        """The same memory as a tensor."""
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def prepare(self, case: Case, data: Data) -> Call:
        torch = self.torch
        inputs = [self.tensor(array) for array in data.inputs]
        if case.channels_last:
            inputs = [tensor.movedim(-1, 1) for tensor in inputs]
            assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in inputs)
        targets = [self.tensor(array) for array in data.targets]
        loss_of = getattr(torch.nn.functional, case.loss)
        keywords: dict[str, Any] = {}
        if data.weight is not None:
            keywords["weight"] = self.tensor(data.weight)
        if case.reduction != "mean":
            keywords["reduction"] = case.reduction
        if not case.gradient:
            return in_turn(partial(loss_of, **keywords) if keywords else loss_of, inputs, targets)

        def loss_and_backward(leaf: Any, target: Any) -> tuple[Any, Any]:
            leaf.grad = None
            loss = loss_of(leaf, target, **keywords)
            loss.backward()
            return loss, leaf.grad

        return in_turn(loss_and_backward, [tensor.requires_grad_() for tensor in inputs], targets)

    def to_numpy(self, case: Case, result: Any) -> tuple[np.ndarray, np.ndarray | None]:
        loss, gradient = result if case.gradient else (result, None)
        loss = loss.detach()
        if loss.dtype == self.torch.bfloat16:
            loss = loss.float()
        if gradient is not None:
            if case.channels_last:
                gradient = gradient.movedim(1, -1)
            if gradient.dtype == self.torch.bfloat16:
                gradient = gradient.float()
            gradient = gradient.numpy()
        return loss.numpy(), gradient


class Numpy(Contestant):
    """The line that NumPy's users write."""

    name, title = "numpy", "NumPy one-liner"
    tolerance: ClassVar = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5}

    def __init__(self, threads: int):
        self.version = np.__version__

    def prepare(self, case: Case, data: Data) -> Call | None:
        losses: dict[str, Callable[..., Any]] = {"nll_loss": self.nll_loss}
        if case.loss not in losses:
            return None
        if not case.gradient:
            function = losses[case.loss]
        elif case.loss == "nll_loss" and case.reduction == "mean" and not case.weighted:
            function = self.nll_loss_and_gradient
        else:
            return None
        return in_turn(partial(function, case, data), data.inputs, data.targets)

    @staticmethod
    def nll_loss(case: Case, data: Data, x: np.ndarray, t: np.ndarray) -> Any:
        if x.ndim == 2 and not case.weighted and case.reduction == "mean":
            if x.itemsize == 2:
                return -x[np.arange(len(t)), t].mean(dtype=np.float32)
            return -x[np.arange(len(t)), t].mean()
        losses = -np.take_along_axis(x, np.expand_dims(t, case.axis), case.axis)
        if data.weight is not None:
            weights = np.expand_dims(data.weight[t], case.axis)
            losses *= weights
        if case.reduction == "none":
            return losses.squeeze(case.axis)
        if case.reduction == "sum":
            return losses.sum()
        return losses.sum() / weights.sum() if case.weighted else losses.mean()

    @staticmethod
    def nll_loss_and_gradient(case: Case, data: Data, x: np.ndarray, t: np.ndarray) -> Any:
        if case.gradient == "out":
            gradient = data.out
            gradient.fill(0)
        else:
            gradient = np.zeros_like(x)  # which writes the zeros, unlike np.zeros
        if x.ndim == 2:
            at_target = np.arange(len(t)), t
            gradient[at_target] = -1 / len(t)
            return -x[at_target].mean(), gradient
        index = np.expand_dims(t, case.axis)
        np.put_along_axis(gradient, index, -1 / t.size, case.axis)
        return -np.take_along_axis(x, index, case.axis).mean(), gradient


class Jax(Contestant):
    """Compiled (`jit`), with targets of 32 bits as JAX holds them, waiting for every result."""

    name, title = "jax", "JAX"
    tolerance: ClassVar = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5}

    def __init__(self, threads: int):
        os.environ["NPROC"] = str(threads)  # the size of XLA's pool of threads; read when JAX starts
        import jax

        self.version = jax.__version__
        self.jax = jax

    def prepare(self, case: Case, data: Data) -> Call | None:
        jax, jnp = self.jax, self.jax.numpy
        losses: dict[str, Callable[..., Any]] = {"nll_loss": self.nll_loss, "cross_entropy": self.cross_entropy}
        if case.loss not in losses:
            return None
        inputs = [jax.device_put(array) for array in data.inputs]  # the same memory
        targets = [jax.device_put(array.astype(np.int32)) for array in data.targets]
        weight = None if data.weight is None else jax.device_put(data.weight)

        def loss_of(x: Any, t: Any) -> Any:
            return losses[case.loss](case, x, t, weight)

        if not case.gradient:
            forward = jax.jit(loss_of)
            return in_turn(lambda x, t: forward(x, t).block_until_ready(), inputs, targets)
        value_and_grad = jax.value_and_grad(loss_of)
        if case.gradient == "fresh":
            both = jax.jit(value_and_grad)
            return in_turn(lambda x, t: jax.block_until_ready(both(x, t)), inputs, targets)

        # The old gradient's memory is given away to the new one.
        into = jax.jit(lambda old, x, t: value_and_grad(x, t), donate_argnums=0, keep_unused=True)
        latest = jnp.ones_like(inputs[0])

        def into_latest(x: Any, t: Any) -> tuple[Any, Any]:
            nonlocal latest
            loss, latest = jax.block_until_ready(into(latest, x, t))
            return loss, latest

        return in_turn(into_latest, inputs, targets)

    def cross_entropy(self, case: Case, x: Any, t: Any, weight: Any) -> Any:
        return self.nll_loss(case, self.jax.nn.log_softmax(x, case.axis), t, weight)

    def nll_loss(self, case: Case, x: Any, t: Any, weight: Any) -> Any:
        jnp = self.jax.numpy
        # All targets of the benchmark are good; without the promise JAX fills in a NaN where one is not.
        index = jnp.expand_dims(t, case.axis)
        losses = -jnp.take_along_axis(x, index, case.axis, mode="promise_in_bounds").squeeze(case.axis)
        if case.weighted:
            weights = weight.at[t].get(mode="promise_in_bounds")
            losses = losses * weights
        if case.reduction == "none":
            return losses
        if case.reduction == "sum":
            return losses.sum()
        return losses.sum() / weights.sum() if case.weighted else losses.mean()


CONTESTANTS: dict[str, type[Contestant]] = {kind.name: kind for kind in (Nll, Torch, Numpy, Jax)}


def enter(names: Iterable[str], threads: int) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that are installed, and why the others are not here."""
    present, absent = [], {}
    for name in names:
        try:
            present.append(CONTESTANTS[name](threads))
        except ImportError as error:
            absent[name] = str(error)
    return present, absent
