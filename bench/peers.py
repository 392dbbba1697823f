# SPDX-License-Identifier: BSD-3-Clause
"""The peers, and who is in a table. Each is imported where it is asked for, and only where it is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import numpy as np

from .cases import Case, Data
from .contestants import Arrays, Call, Contestant, Nll, Plain, in_turn, inputs_in_turn, parts


def is_plain_mean(case: Case) -> bool:
    """Whether it is the mean without weights and smoothing, as loops and one-liners have it."""
    return case.is_loss and case.plain is None and case.reduction == "mean" and not case.weighted


class Torch(Contestant):
    name, title = "torch", "PyTorch"
    # Its sums are in the input's dtype.
    tolerance: ClassVar = Contestant.tolerance | {"bfloat16": 5e-2}

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

    def loss_of(self, case: Case, data: Data) -> Callable[[Any, Any], Any]:
        """(input, target) -> loss, as its users write it."""
        loss_of = getattr(self.torch.nn.functional, case.function)
        keywords: dict[str, Any] = {}
        weight = self.tensor(data.weight).to(self.tensor(data.out).dtype)  # another one is refused
        if case.weighted:
            keywords["weight"] = weight
        if case.smoothing:
            keywords["label_smoothing"] = case.smoothing
        if case.sample_weighted:
            sample_weight = self.tensor(data.sample_weight)

            def weighted(x: Any, t: Any) -> Any:
                losses = loss_of(x, t, reduction="none", **keywords) * sample_weight
                if case.reduction == "none":
                    return losses
                total = (sample_weight * weight[t] if case.weighted else sample_weight).sum()
                return losses.sum() if case.reduction == "sum" else losses.sum() / total

            return weighted
        if case.reduction != "mean":
            keywords["reduction"] = case.reduction
        return partial(loss_of, **keywords) if keywords else loss_of

    def prepare(self, case: Case, data: Data) -> Call | None:
        torch = self.torch
        if case.state:
            return None
        inputs = [self.tensor(array) for array in data.inputs]
        if case.channels_last:
            inputs = [tensor.movedim(-1, 1) for tensor in inputs]
            assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in inputs)
        if not case.is_loss:
            function = partial(getattr(torch, case.function), dim=1)
            return inputs_in_turn(
                partial(function, out=self.tensor(data.out)) if case.array == "out" else function, inputs
            )
        targets = [self.tensor(array) for array in data.targets]
        loss_of = self.loss_of(case, data)
        if not case.array:
            return in_turn(loss_of, inputs, targets)
        if case.alone and case.function == "nll_loss":
            if not is_plain_mean(case.plain or case) or len(case.shape) != 2:
                return None
            one, count = torch.ones(()), torch.tensor(float(case.samples))  # the total weight, which its forward gives
            mean, ignored = 1, -100
            backward = torch.ops.aten.nll_loss_backward.grad_input
            out = self.tensor(data.out)
            return in_turn(
                lambda x, t: backward(one, x, t, None, mean, ignored, count, grad_input=out), inputs, targets
            )

        # The gradient's memory cannot be given to it.
        def loss_and_backward(leaf: Any, target: Any) -> Any:
            leaf.grad = None
            loss = loss_of(leaf, target)
            loss.backward()
            return leaf.grad if case.alone else (loss, leaf.grad)

        return in_turn(loss_and_backward, [tensor.detach().requires_grad_() for tensor in inputs], targets)

    def to_numpy(self, case: Case, result: Any) -> Arrays:
        small, large = parts(case, result)
        if large is not None and case.channels_last:
            large = large.movedim(1, -1)
        wide = self.torch.float64 if case.dtype == "float64" else self.torch.float32
        return tuple(None if it is None else it.detach().to(wide).numpy() for it in (small, large))


class Compiled(Torch):
    """PyTorch's compiler, which takes seconds a case: for the losses of the README alone."""

    name, title, usual = "compile", "torch.compile", False

    def __init__(self, threads: int):
        super().__init__(threads)
        self.version = ""  # PyTorch's

    def loss_of(self, case: Case, data: Data) -> Callable[[Any, Any], Any]:
        self.torch.compiler.reset()  # beyond some versions of a function it would fall back without a word
        return self.torch.compile(super().loss_of(case, data), dynamic=False)

    def prepare(self, case: Case, data: Data) -> Call | None:
        return super().prepare(case, data) if case.readme and case.is_loss and not case.alone else None


class Numpy(Contestant):
    """The lines that NumPy's users write, with the softmax of SciPy."""

    name, title = "numpy", "NumPy"
    tolerance: ClassVar = Contestant.tolerance | {"float32": 2e-5}

    def __init__(self, threads: int):
        self.version = np.__version__
        try:
            import scipy
            from scipy import special
        except ImportError:
            self.version += " without SciPy"
        else:
            self.version += f" with SciPy {scipy.__version__}"
            self.special = special

    def prepare(self, case: Case, data: Data) -> Call | None:
        if case.function == "nll_loss":
            if case.array:
                function = self.nll_loss_and_gradient if is_plain_mean(case) else None
            else:
                function = None if case.state else self.nll_loss
            return function and in_turn(partial(function, case, data), data.inputs, data.targets)
        special = getattr(self, "special", None)
        if special is None or case.dtype not in ("float32", "float64") or case.smoothing or case.state:
            return None
        if not case.is_loss:
            # They cannot write into memory that is there.
            function = None if case.array == "out" else partial(getattr(special, case.function), axis=case.axis)
            return function and inputs_in_turn(function, data.inputs)
        if not case.array:
            return in_turn(
                lambda x, t: self.nll_loss(case, data, special.log_softmax(x, case.axis), t), data.inputs, data.targets
            )
        if not is_plain_mean(case):
            return None

        def loss_and_gradient(x: np.ndarray, t: np.ndarray) -> Any:
            log_probabilities = special.log_softmax(x, case.axis)
            index = np.expand_dims(t, case.axis)
            loss = -np.take_along_axis(log_probabilities, index, case.axis).mean()
            gradient = np.exp(log_probabilities, out=data.out if case.array == "out" else log_probabilities)
            at_target = np.take_along_axis(gradient, index, case.axis)
            np.put_along_axis(gradient, index, at_target - 1, case.axis)
            gradient /= case.samples
            return loss, gradient

        return in_turn(loss_and_gradient, data.inputs, data.targets)

    @staticmethod
    def nll_loss(case: Case, data: Data, x: np.ndarray, t: np.ndarray) -> Any:
        if x.ndim == 2 and is_plain_mean(case):
            picked = x[np.arange(len(t)), t]
            return -picked.mean(dtype=np.float32) if x.itemsize == 2 else -picked.mean()
        losses = -np.take_along_axis(x, np.expand_dims(t, case.axis), case.axis).squeeze(case.axis)
        weights: Any = None
        if case.weighted:
            weights = data.weight[t]
        if case.sample_weighted:
            weights = data.sample_weight if weights is None else weights * data.sample_weight
        if weights is not None:
            losses = losses * weights
        if case.reduction == "none":
            return losses
        if case.reduction == "sum":
            return losses.sum()
        return losses.mean() if weights is None else losses.sum() / weights.sum()

    @staticmethod
    def nll_loss_and_gradient(case: Case, data: Data, x: np.ndarray, t: np.ndarray) -> Any:
        if case.array == "out":
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

    def __init__(self, threads: int):
        os.environ["NPROC"] = str(threads)  # the size of XLA's pool of threads; read when JAX starts
        import jax

        self.version = jax.__version__
        self.jax = jax

    def prepare(self, case: Case, data: Data) -> Call | None:
        jax, jnp = self.jax, self.jax.numpy
        if case.state:
            return None
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        inputs = [jax.device_put(array) for array in data.stored]  # the same memory; a slice of it would be copied
        if not case.is_loss:
            function: Callable[..., Any] = partial(getattr(jax.nn, case.function), axis=case.axis)
            targets = [None] * len(inputs)
        else:
            targets = [jax.device_put(array.astype(np.int32)) for array in data.targets]
            loss_of = self.loss_of(case, data)
            kind = (jax.grad if case.alone else jax.value_and_grad) if case.array else lambda it: it
            function = kind(loss_of)
        one_or_two = function if case.is_loss else lambda x, t: function(x)
        if case.array != "out":
            fresh = jax.jit(one_or_two)
            return in_turn(lambda x, t: jax.block_until_ready(fresh(x, t)), inputs, targets)

        # The old array's memory is given away to the new one.
        into = jax.jit(lambda old, x, t: one_or_two(x, t), donate_argnums=0, keep_unused=True)
        latest = jnp.ones_like(inputs[0])

        def into_latest(x: Any, t: Any) -> Any:
            nonlocal latest
            result = jax.block_until_ready(into(latest, x, t))
            latest = parts(case, result)[1]
            return result

        return in_turn(into_latest, inputs, targets)

    def loss_of(self, case: Case, data: Data) -> Callable[[Any, Any], Any]:
        jax, jnp = self.jax, self.jax.numpy
        weight = jax.device_put(data.weight)
        sample_weight = jax.device_put(data.sample_weight)

        def loss_of(x: Any, t: Any) -> Any:
            if case.padding:
                x = x[:, : case.shape[1]]
            if case.function == "cross_entropy":
                x = jax.nn.log_softmax(x, case.axis)
            # All targets of the benchmark are good; without the promise JAX fills in a NaN where one is not.
            index = jnp.expand_dims(t, case.axis)
            losses = -jnp.take_along_axis(x, index, case.axis, mode="promise_in_bounds").squeeze(case.axis)
            weights: Any = None
            if case.weighted:
                weights = weight.at[t].get(mode="promise_in_bounds")
                losses = losses * weights
            if case.smoothing:
                of_class = jnp.expand_dims(weight, range(1, x.ndim - 1)) if case.weighted else 1
                others = -(x * of_class).mean(case.axis)
                losses = (1 - case.smoothing) * losses + case.smoothing * others
            if case.sample_weighted:
                weights = sample_weight if weights is None else weights * sample_weight
                losses = losses * sample_weight
            if case.reduction == "none":
                return losses
            if case.reduction == "sum":
                return losses.sum()
            return losses.mean() if weights is None else losses.sum() / weights.sum()

        return loss_of

    def to_numpy(self, case: Case, result: Any) -> Arrays:
        small, large = super().to_numpy(case, result)
        return small, large[:, : case.shape[1]] if large is not None and case.padding else large


class Numba(Contestant):
    """The loops of `bench.numba_loops`; for rows, as their author has them."""

    name, title = "numba", "numba"

    def __init__(self, threads: int):
        import numba

        from . import numba_loops

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        self.version = numba.__version__
        self.loops = numba_loops

    def prepare(self, case: Case, data: Data) -> Call | None:
        if not is_plain_mean(case) or len(case.shape) != 2 or case.dtype not in ("float32", "float64"):
            return None
        if not case.array:
            return in_turn(getattr(self.loops, case.function), data.inputs, data.targets)
        both = getattr(self.loops, f"{case.function}_and_gradient")

        def loss_and_gradient(x: np.ndarray, t: np.ndarray) -> Any:
            gradient = data.out if case.array == "out" else np.empty_like(x)
            return both(x, t, gradient), gradient

        return in_turn(loss_and_gradient, data.inputs, data.targets)


class Sklearn(Contestant):
    """The loss of its own multinomial regression; labels as floating point numbers, and weights that hold the mean's
    divisor, made in advance."""

    name, title = "sklearn", "scikit-learn"

    def __init__(self, threads: int):
        import sklearn
        from sklearn._loss import HalfMultinomialLoss

        self.version = sklearn.__version__
        self.threads = threads
        self.kind = HalfMultinomialLoss

    def prepare(self, case: Case, data: Data) -> Call | None:
        good = case.function == "cross_entropy" and len(case.shape) == 2 and case.reduction == "mean"
        if not good or case.dtype not in ("float32", "float64") or case.smoothing or case.state or case.padding:
            return None
        loss = self.kind(n_classes=case.shape[1])
        labels = [target.astype(case.dtype) for target in data.targets]
        weights = []
        for target in data.targets:
            factors = data.sample_weight.astype(np.float64) if case.sample_weighted else np.ones(len(target))
            if case.weighted:
                factors = factors * data.weight[target]
            weights.append((factors / factors.sum()).astype(case.dtype))
        losses = np.empty(case.samples, case.dtype)
        more = {"n_threads": self.threads}

        def forward(x: np.ndarray, t: np.ndarray, w: np.ndarray) -> Any:
            return loss.loss(t, x, w, losses, **more).sum(dtype=np.float64)

        def backward(x: np.ndarray, t: np.ndarray, w: np.ndarray) -> Any:
            return loss.gradient(t, x, w, data.out if case.array == "out" else None, **more)

        def both(x: np.ndarray, t: np.ndarray, w: np.ndarray) -> Any:
            found, gradient = loss.loss_gradient(t, x, w, losses, data.out if case.array == "out" else None, **more)
            return found.sum(dtype=np.float64), gradient

        return in_turn(backward if case.alone else both if case.array else forward, data.inputs, labels, weights)


class Tensorflow(Contestant):
    """Its one kernel for loss and gradient, in a compiled function; in a process of its own."""

    name, title, apart = "tensorflow", "TensorFlow", True

    def __init__(self, threads: int):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.version = tf.__version__
        self.tf = tf

    def prepare(self, case: Case, data: Data) -> Call | None:
        tf = self.tf
        rows = len(case.shape) == 2 or case.channels_last
        if not rows or case.smoothing or case.state or case.padding or case.function == "nll_loss":
            return None
        inputs = [tf.constant(array) for array in data.inputs]
        if not case.is_loss:
            function = {"logsumexp": tf.reduce_logsumexp}.get(case.function) or getattr(tf.nn, case.function)
            compiled = tf.function(partial(function, axis=-1))
            return inputs_in_turn(compiled, inputs)
        weight, sample_weight = tf.constant(data.weight), tf.constant(data.sample_weight.ravel())

        @tf.function
        def loss_and_gradient(x: Any, t: Any) -> Any:
            x, t = tf.reshape(x, (-1, case.shape[1])), tf.reshape(t, (-1,))
            losses, gradient = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=x, labels=t)
            weights = None
            if case.weighted:
                weights = tf.gather(weight, t)
            if case.sample_weighted:
                weights = sample_weight if weights is None else weights * sample_weight
            if weights is not None:
                weights = tf.cast(weights, losses.dtype)
                losses *= weights
            if case.reduction == "none":
                loss = tf.reshape(losses, case.target_shape)
            else:
                total = case.samples if weights is None else tf.reduce_sum(weights)
                loss = tf.reduce_sum(losses) / tf.cast(total, losses.dtype)
            if not case.array:
                return loss
            shares = tf.ones_like(losses) if weights is None else weights
            shares /= tf.cast(case.samples, losses.dtype) if weights is None else tf.reduce_sum(weights)
            gradient = tf.reshape(gradient * shares[:, None], case.input_shape)
            return gradient if case.alone else (loss, gradient)

        targets = [tf.constant(array) for array in data.targets]
        return in_turn(loss_and_gradient, inputs, targets)


CONTESTANTS: dict[str, type[Contestant]] = {
    kind.name: kind for kind in (Nll, Torch, Compiled, Numpy, Jax, Numba, Sklearn, Tensorflow, Plain)
}


def enter(names: Iterable[str], threads: int) -> tuple[dict[str, Contestant], dict[str, str]]:
    """The contestants that are installed, and why the others are not here. What follows an @ tells two of a kind."""
    present: dict[str, Contestant] = {}
    absent: dict[str, str] = {}
    for name in names:
        try:
            present[name] = CONTESTANTS[name.partition("@")[0]](threads)
        except ImportError as error:
            absent[name] = str(error)
    return present, absent
