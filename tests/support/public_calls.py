# SPDX-License-Identifier: BSD-3-Clause
"""Random calls of the public functions: what they return has the bits, or is within the bounds, of the oracles.

What is refused is refused by the right kind of error, which names the argument; and nothing is written then.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

import nll
from support import oracle
from support.losses import CROSS_ENTROPY, NLL_LOSS, Loss, assert_softmax
from support.notes import note
from support.oracle import assert_same_bits
from support.problems import Problem, Rng, laid_out, one_of, random_problem, random_shape, random_values, restrided
from support.refusals import Refusal, random_refusal
from support.samples import FLOAT_DTYPES

# ---- memory


def owner(array: np.ndarray) -> np.ndarray:
    """The array that has the memory which this one shows a part of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@contextmanager
def unwritten(*values: Any) -> Iterator[None]:
    """Asserts that the block writes none of the memory of these arrays, nor what lies around them."""
    arrays = [owner(value) for value in values if isinstance(value, np.ndarray)]
    before = [array.tobytes() for array in arrays]
    yield
    assert [array.tobytes() for array in arrays] == before, "an array of the caller was written"


def assert_in_order_of(result: np.ndarray, input: Any) -> None:
    """A fresh result lies in memory as `numpy.empty_like` lays it."""
    like = np.empty_like(np.asarray(input))
    assert type(result) is np.ndarray
    assert result.size == 0 or all(
        one == other for n, one, other in zip(result.shape, result.strides, like.strides, strict=True) if n > 1
    ), f"strides of {result.strides}, not {like.strides}"


def assert_writes(call: Callable[..., Any], rng: Rng, expected: np.ndarray) -> None:
    """The call writes what is expected into `out`, of any strides, and nothing beside it."""
    out = laid_out(rng, np.full(expected.shape, 7, expected.dtype), own_memory=True)
    before = owner(out).tobytes()
    result = call(out=out)
    assert (result[-1] if isinstance(result, tuple) else result) is out
    assert_same_bits(out, expected)
    out[...] = 7
    assert owner(out).tobytes() == before, "what lies around out was written"


def assert_works_in_place(call: Callable[..., Any], rng: Rng, input: Any, expected: np.ndarray) -> None:
    """The call takes its input's memory, or another array that shows it, for the result."""
    input = laid_out(rng, oracle.as_native(input), own_memory=True)
    out = one_of(rng, input, input[...])
    result = call(input, out=out)
    assert (result[-1] if isinstance(result, tuple) else result) is out
    assert_same_bits(input, expected)


# ---- the losses


def total_is_zero(problem: Problem) -> bool:
    choices = {name: problem.choices[name] for name in ("sample_weight", "ignore_index", "axis", "index_base")}
    arrays = np.asarray(problem.input), problem.target, problem.weight
    with np.errstate(all="ignore"):
        return oracle.total(oracle.kept_samples(*arrays, **choices).weights) == 0


def smoothing_of(loss: Loss, problem: Problem) -> dict[str, float]:
    return {"label_smoothing": problem.label_smoothing} if loss is CROSS_ENTROPY else {}


def check_loss(rng: Rng) -> str:
    """A loss, its gradient and its total weight; in another way, they are the same."""
    loss = one_of(rng, NLL_LOSS, CROSS_ENTROPY)
    problem = random_problem(rng, cross_entropy=loss is CROSS_ENTROPY)
    arrays = problem.input, problem.target, problem.weight
    choices = problem.choices | smoothing_of(loss, problem)
    with note(loss, problem), unwritten(*vars(problem).values()), nll.num_threads(int(rng.integers(1, 4))):
        if problem.empty == "raise" and problem.reduction == "mean" and total_is_zero(problem):
            refusal = Refusal("the empty mean", (ValueError,), "the total weight .* is 0", {})
            call = one_of(rng, loss.value, loss.value_and_grad, lambda *a, **k: loss.backward(1.0, *a, **k))
            assert_refused(lambda: call(*arrays, **choices), refusal)
            return "empty means refused"
        with np.errstate(all="ignore"):
            loss.assert_right(*arrays, grad_output=problem.grad_output, dtype=problem.dtype, **choices)
        one_of(rng, *WAYS)(rng, loss, problem, choices)
    return str(loss)


def through_object(rng: Rng, loss: Loss, problem: Problem, choices: dict[str, Any]) -> None:
    """The same by an object that has the choices."""
    arrays = problem.input, problem.target
    own = choices["sample_weight"]
    bound = {name: value for name, value in choices.items() if name != "sample_weight"}
    with_weight = bool(rng.integers(2))
    fn = loss.bound(problem.weight, **bound, dtype=problem.dtype, return_total_weight=with_weight)
    value = loss.value(*arrays, problem.weight, **choices, dtype=problem.dtype, return_total_weight=with_weight)
    assert_same(fn(*arrays, own), value)
    gradient = loss.backward(problem.grad_output, *arrays, problem.weight, **choices)
    assert_same(fn.backward(problem.grad_output, *arrays, own), gradient)
    if problem.reduction != "none":
        both = loss.value_and_grad(*arrays, problem.weight, **choices, return_total_weight=with_weight)
        assert_same(fn.value_and_grad(*arrays, sample_weight=own), both)


def into_memory(rng: Rng, loss: Loss, problem: Problem, choices: dict[str, Any]) -> None:
    """The gradient in `out`, and in input where it may be; a fresh one in input's memory order."""
    arrays = problem.target, problem.weight

    def call(input: Any = problem.input, out: Any = None) -> Any:
        if with_loss:
            grad = problem.grad_output
            return loss.value_and_grad(input, *arrays, **choices, grad_output=grad, out=out)
        return loss.backward(problem.grad_output, input, *arrays, **choices, out=out)

    with_loss = problem.reduction != "none" and bool(rng.integers(2))
    fresh = call()
    fresh = fresh[-1] if with_loss else fresh
    assert_in_order_of(fresh, problem.input)
    assert_writes(call, rng, fresh)
    if loss is CROSS_ENTROPY:
        assert_works_in_place(call, rng, problem.input, fresh)


def in_other_memory(rng: Rng, loss: Loss, problem: Problem, choices: dict[str, Any]) -> None:
    """Other layouts, positional weights and any number of threads change no bit."""
    expected = loss.value(problem.input, problem.target, problem.weight, **choices, return_total_weight=True)
    arrays = [None if a is None else np.asarray(a) for a in (problem.input, problem.target, problem.weight)]
    input, target, weight = (None if a is None else restrided(rng, a) for a in arrays)
    before = nll.get_num_threads()
    with nll.num_threads(int(rng.integers(1, 9))):
        assert_same(loss.value(input, target, weight, **choices, return_total_weight=True), expected)
    assert nll.get_num_threads() == before
    assert_same(loss.value(input, target, weight=weight, **choices), expected[0])


WAYS = [through_object, into_memory, into_memory, in_other_memory]


def assert_same(actual: Any, expected: Any) -> None:
    """The same bits, number by number where there are several."""
    if not isinstance(expected, tuple):
        actual, expected = (actual,), (expected,)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert type(one) is type(other)
        assert_same_bits(one, other)


# ---- softmax


def check_softmax(rng: Rng) -> str:
    """Every function of logits alone."""
    shape, axis = random_shape(rng)
    kind = one_of(rng, "normal", "confident", "ties", "exponents", "bits", "masked", "specials")
    input = laid_out(rng, random_values(rng, shape, one_of(rng, *FLOAT_DTYPES), kind))
    dtype = one_of(rng, None, None, *FLOAT_DTYPES)
    function = one_of(rng, nll.softmax, nll.log_softmax)
    with note(function, "shape", shape, "axis", axis, "dtype", dtype, kind), unwritten(input):
        fresh = function(input, axis=axis)
        with np.errstate(all="ignore"):
            assert_softmax(input, axis, dtype)
        assert_in_order_of(fresh, input)
        with nll.num_threads(int(rng.integers(1, 5))):
            assert_writes(lambda out: function(input, axis=axis, out=out), rng, fresh)
            assert_works_in_place(lambda a, out: function(a, axis=axis, out=out), rng, input, fresh)
            sums = nll.logsumexp(input, axis=axis, dtype=dtype)
            kept = nll.logsumexp(input, axis=axis, dtype=dtype, keepdims=True)
        assert_same_bits(kept, np.expand_dims(sums, 0 if len(shape) == 1 else axis))
    return "softmax"


# ---- accumulators


def check_accumulator(rng: Rng) -> str:
    """Batches in any order, merged in any order, have the bits of one call; groups those of their samples."""
    loss = one_of(rng, NLL_LOSS, CROSS_ENTROPY)
    problem = replace(random_problem(rng, cross_entropy=loss is CROSS_ENTROPY), empty=one_of(rng, "nan", "zero"))
    with note("accumulator", loss, problem), unwritten(*vars(problem).values()):
        groups = one_of(rng, None, None, int(rng.integers(1, 5)))
        check_batches(rng, loss, problem, groups if np.size(problem.target) else None)
    return "accumulators"


def check_batches(rng: Rng, loss: Loss, problem: Problem, groups: int | None) -> None:
    """Parts of the samples go to accumulators that are copied, pickled, made of bytes, and merged."""
    target = np.asarray(problem.target)
    rows = np.moveaxis(np.asarray(problem.input), 0 if np.ndim(problem.input) == 1 else problem.axis, -1)
    rows = rows.reshape(target.size, problem.class_count)
    labels, kept = target.ravel(), problem.kept.ravel()
    own = problem.sample_weight
    own = None if own is None else np.broadcast_to(np.asarray(own), target.shape).ravel()
    group = None if groups is None else rng.integers(0, groups, target.size)
    choices = {
        "ignore_index": problem.ignore_index,
        "index_base": problem.index_base,
        "empty": problem.empty,
        "dtype": problem.dtype,
    }
    name = "cross_entropy" if loss is CROSS_ENTROPY else "nll"
    smoothing = smoothing_of(loss, problem)
    empty = nll.LossAccumulator(name, problem.weight, **choices, **smoothing, axis=-1, groups=groups)
    order = rng.permutation(target.size)
    cuts = np.sort(rng.integers(0, target.size + 1, int(rng.integers(0, 4))))
    parts = []
    for part in np.split(order, cuts):
        batch = [laid_out(rng, array[part]) for array in (rows, labels)]
        of_part = empty.copy()
        weights = None if own is None else laid_out(rng, own[part])
        of_part.update(*batch, weights, group=None if group is None else laid_out(rng, group[part]))
        parts.append(of_part)
    total = one_of(rng, *MERGES)(empty, parts)
    everything = empty.copy()
    everything.update(rows, labels, own, group=group)
    assert everything.to_bytes() == total.to_bytes()
    choices |= smoothing | {"axis": -1}
    for g in [None] if groups is None else range(groups):
        here = slice(None) if g is None else group == g
        seen: tuple[Any, ...] = (total.total_weight, total.count, total.ignored)
        expected = kept[here].sum(), (~kept[here]).sum()
        seen = seen if g is None else tuple(array[g] for array in seen)
        assert seen[1:] == expected, f"count and ignored are {seen[1:]}, not {expected}"
        for reduction in ("sum", "mean"):
            arrays = rows[here], labels[here], problem.weight
            weights = None if own is None else own[here]
            wanted = nll_or_cross_entropy(loss, arrays, choices | {"reduction": reduction, "sample_weight": weights})
            value = total.compute(reduction)
            assert_same_bits(value if g is None else value[g], wanted[0])
            assert_same_bits(np.float64(seen[0]), wanted[1])
    total.reset()
    assert total.to_bytes() == empty.to_bytes()


def nll_or_cross_entropy(loss: Loss, arrays: tuple[Any, ...], choices: dict[str, Any]) -> tuple[Any, Any]:
    """By the definition, or, for cross-entropy, in one call: that is compared with the definition elsewhere."""
    if loss is NLL_LOSS:
        with np.errstate(all="ignore"):
            return oracle.nll_loss(*arrays, **choices)
    value: tuple[Any, Any] = loss.value(*arrays, **choices, return_total_weight=True)
    return value


def one_by_one(empty: Any, parts: list[Any]) -> Any:
    total = empty.copy()
    for part in parts:
        total.merge(part)
    return total


def from_the_right(empty: Any, parts: list[Any]) -> Any:
    total = empty.copy()
    for part in reversed(parts):
        total = copy.copy(pickle.loads(pickle.dumps(part))) + total
    return total


def by_bytes(empty: Any, parts: list[Any]) -> Any:
    total = empty.copy()
    for part in parts:
        total.merge(part.to_bytes())
    return total


def by_states(empty: Any, parts: list[Any]) -> Any:
    total = empty.copy()
    total.merge(nll.merge(np.stack([part.state for part in parts])))
    return total


def by_sum(empty: Any, parts: list[Any]) -> Any:
    return sum(parts)


MERGES = [one_by_one, from_the_right, by_bytes, by_states, by_sum]


# ---- what is refused


def assert_refused(call: Callable[[], Any], refusal: Refusal) -> None:
    caught, result = None, None
    try:
        result = call()
    except Exception as error:
        caught = error
    assert caught is not None, f"{refusal.what} is accepted: {result!r}"
    assert type(caught) in refusal.errors, f"{refusal.what}: a {type(caught).__name__}: {caught}"
    assert re.search(refusal.message, str(caught)), f"{refusal.what}: {caught!s} is not {refusal.message}"


def check_refusal(rng: Rng) -> str:
    """One argument is bad, of any function that takes it."""
    loss = one_of(rng, NLL_LOSS, CROSS_ENTROPY)
    problem = replace(random_problem(rng, cross_entropy=loss is CROSS_ENTROPY), empty="nan")
    way = one_of(rng, "value", "backward", "value_and_grad")
    if way == "value_and_grad" and problem.reduction == "none":
        problem = replace(problem, reduction="mean", grad_output=1.0)
    arguments = problem.choices | smoothing_of(loss, problem)
    arguments |= {name: getattr(problem, name) for name in ("input", "target", "weight")}
    if way == "value":
        arguments |= {"dtype": problem.dtype, "return_total_weight": False}
    else:
        arguments |= {"grad_output": problem.grad_output, "out": None}
    refusal = random_refusal(rng, problem, arguments)
    if refusal is None:
        return "refusals that do not fit"
    arguments |= refusal.arguments
    if arguments.get("out", 0) is None and refusal.arguments.keys() & {"input", "axis"} == set():
        input = oracle.as_native(problem.input)
        arguments["out"] = one_of(rng, None, laid_out(rng, np.full(input.shape, 7, input.dtype), own_memory=True))
    function = getattr(loss, way)
    with note(function, refusal.what, problem), unwritten(*arguments.values()):
        assert_refused(lambda: function(**arguments), refusal)
    return "refusals"


# ---- threads


def check_threads(rng: Rng) -> str:
    """The counts that are asked for hold where they are asked for."""
    outer, inner, wrong = (
        int(rng.integers(1, 257)),
        int(rng.integers(1, 257)),
        one_of(rng, 0, -1, 257, 2**70, 1.0, True),
    )
    before = nll.get_num_threads()
    with nll.num_threads(outer):
        with nll.num_threads(inner):
            assert nll.get_num_threads() == inner
            error = TypeError if isinstance(wrong, float | bool) else ValueError
            refusal = Refusal("a wrong number of threads", (error,), "^n is ", {})
            assert_refused(lambda: one_of(rng, nll.set_num_threads, nll.num_threads)(wrong), refusal)
        assert nll.get_num_threads() == outer
    assert nll.get_num_threads() == before
    nll.set_num_threads(before)
    return "threads"


CHECKS = [check_loss] * 10 + [check_refusal] * 6 + [check_softmax] * 3 + [check_accumulator] * 3 + [check_threads]


def check(rng: Rng) -> str:
    """Draws a call or a few that belong together; returns what kind they are."""
    return one_of(rng, *CHECKS)(rng)
