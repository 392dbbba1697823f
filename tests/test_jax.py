# SPDX-License-Identifier: BSD-3-Clause
"""nll.jax: the bits of nll under JAX's transformations, through XLA's interface and through Python; brainpy."""

from __future__ import annotations

import doctest
import functools
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import nll
from support.losses import CROSS_ENTROPY, NLL_LOSS, SMOOTHED, Loss
from support.oracle import assert_same_bits
from support.pairs import pairwise
from support.samples import FLOAT_DTYPES, INTEGER_DTYPES, REDUCTIONS, random_grad_output, random_logits, random_target
from support.softmax_oracle import ulp

jax = pytest.importorskip("jax")
jnp = jax.numpy

import nll.jax  # noqa: E402

# It is said once in a process, at the first call of whichever test comes first.
pytestmark = pytest.mark.filterwarnings("ignore:nll was built without this JAX:RuntimeWarning")

IGNORED = -7
WAYS = ["xla", "python"]


@functools.cache
def through(way: str) -> ModuleType:
    """nll.jax as it is, if it was built with JAX; or as it is without."""
    if way == "xla":
        pytest.importorskip("nll._jax", reason="nll was built without JAX")
        return nll.jax
    bridge = load_without_handlers()
    with warnings.catch_warnings(action="ignore"):
        bridge.nll_loss(jnp.zeros(1), jnp.zeros((), int))
    return bridge


def load_without_handlers() -> ModuleType:
    """nll.jax as it is in a build that has no nll._jax."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "nll._jax", None)
        module = load(nll.jax.__file__)
    assert not module.FOREIGN
    return module


def load(path: str) -> ModuleType:
    """nll.jax once more."""
    spec = importlib.util.spec_from_file_location("nll.jax_once_more", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(params=WAYS)
def bridge(request: pytest.FixtureRequest) -> ModuleType:
    return through(request.param)


@pytest.fixture(autouse=True)
def wide() -> Iterator[None]:
    """JAX has 64 bits."""
    with jax.enable_x64(True):
        yield


def function_of(bridge: ModuleType, loss: Loss, **choices: Any) -> Callable[..., Any]:
    """The function of the same name."""
    if loss.name.startswith("smoothed"):
        choices["label_smoothing"] = 0.1
    return functools.partial(getattr(bridge, loss.name.removeprefix("smoothed_")), **choices)


def draw(
    rng: np.random.Generator, loss: Loss, dtype: Any, shape: tuple[int, ...] = (6, 5, 4)
) -> tuple[np.ndarray, ...]:
    """Input, target with ignored labels, and weight."""
    target = random_target(rng, shape[:1] + shape[2:], shape[1], ignored=IGNORED)
    return loss.random_input(rng, shape, dtype), target, loss.random_weight(rng, shape[1], dtype)


def gradient_at(function: Callable[..., Any], grad_output: Any, input: Any, *others: Any) -> Any:
    """The gradient of input for this gradient of the loss."""
    value, gradient_of = jax.vjp(lambda input: function(input, *others), jnp.asarray(input))
    return gradient_of(jnp.asarray(grad_output, value.dtype))[0]


# ---------------------------------------------------------------- values and gradients


@pairwise(way=WAYS, dtype=FLOAT_DTYPES, reduction=REDUCTIONS, compile=[jax.jit, lambda f: f])
def test_loss(loss, way, dtype, reduction, compile, rng):
    input, target, weight = draw(rng, loss, dtype)
    function = compile(function_of(through(way), loss, ignore_index=IGNORED, reduction=reduction))
    expected = loss.value(input, target, weight, ignore_index=IGNORED, reduction=reduction)
    assert_same_bits(np.asarray(function(input, target, weight)), np.asarray(expected))


@pairwise(way=WAYS, dtype=FLOAT_DTYPES, reduction=["sum", "mean"])
def test_value_and_grad(loss, way, dtype, reduction, rng):
    input, target, weight = draw(rng, loss, dtype)
    function = function_of(through(way), loss, ignore_index=IGNORED, reduction=reduction)
    value, gradient = jax.jit(jax.value_and_grad(function))(jnp.asarray(input), target, weight)
    choices = {"ignore_index": IGNORED, "reduction": reduction}
    assert_same_bits(np.asarray(value), np.asarray(loss.value(input, target, weight, **choices)))
    assert_same_bits(np.asarray(gradient), loss.backward(1.0, input, target, weight, **choices))


@pairwise(way=WAYS, dtype=FLOAT_DTYPES, loss=[NLL_LOSS, CROSS_ENTROPY])
def test_gradient_of_each_loss(way, dtype, loss, rng):
    input, target, weight = draw(rng, loss, dtype)
    grad_output = random_grad_output(rng, target.shape, "none", dtype)
    choices = {"ignore_index": IGNORED, "reduction": "none"}
    gradient = gradient_at(function_of(through(way), loss, **choices), grad_output, input, target, weight)
    assert_same_bits(np.asarray(gradient), loss.backward(grad_output, input, target, weight, **choices))


@pytest.mark.parametrize("grad_output", [1024.0, -0.125])
def test_a_power_of_two_scales_without_rounding(loss, bridge, grad_output, rng):
    input, target, _ = draw(rng, loss, np.float32)
    gradient = gradient_at(function_of(bridge, loss, ignore_index=IGNORED), grad_output, input, target)
    assert_same_bits(np.asarray(gradient), loss.backward(grad_output, input, target, ignore_index=IGNORED))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32, np.float64])
def test_scaling_rounds_once_more(bridge, dtype, rng):
    input, target, weight = draw(rng, CROSS_ENTROPY, dtype)
    function = functools.partial(bridge.cross_entropy, ignore_index=IGNORED, dtype=np.float32)
    gradient = np.asarray(gradient_at(function, 0.3, input, target, weight))
    expected = nll.cross_entropy_backward(np.float32(0.3), input, target, weight, ignore_index=IGNORED)
    error = abs(gradient.astype(np.longdouble) - expected.astype(np.longdouble))
    # In float64 an entry is a product with a factor in two parts: without fused operations up to an ULP off by itself.
    bound = 2.5 if dtype == np.float64 else 1.5
    assert (error <= bound * ulp(expected.astype(np.longdouble), np.dtype(dtype))).all()


@pairwise(way=WAYS, loss=[NLL_LOSS, CROSS_ENTROPY], dtype=FLOAT_DTYPES, result=[None, np.float32, np.float64])
def test_strict_promotion(way, loss, dtype, result, rng):
    """No dtype is promoted that this mode refuses, and no bit is another."""
    input, target, weight = draw(rng, loss, dtype)
    function = function_of(through(way), loss, ignore_index=IGNORED, dtype=result)
    expected = gradient_at(function, -3.0, input, target, weight)
    with jax.numpy_dtype_promotion("strict"):
        assert_same_bits(np.asarray(gradient_at(function, -3.0, input, target, weight)), np.asarray(expected))


def test_loss_scaling_saves_what_float16_would_lose(bridge, rng):
    """Of a mean of so many samples, most entries of the gradient are below all that float16 has."""
    input, target = random_logits(rng, (4000, 50), np.float16), random_target(rng, 4000, 50)
    gradient = np.asarray(gradient_at(bridge.cross_entropy, 2.0**15, input, target))
    assert_same_bits(gradient, nll.cross_entropy_backward(2.0**15, input, target))
    assert (gradient == 0).mean() < 0.001
    assert (nll.cross_entropy_backward(1.0, input, target) == 0).mean() > 0.2


@pairwise(way=WAYS, loss=[NLL_LOSS, CROSS_ENTROPY], reduction=["sum", "mean"], grad_output=[-3.0, np.inf, np.nan])
def test_gradient_of_ignored_samples_is_zero(way, loss, reduction, grad_output, rng):
    input, target, _ = draw(rng, loss, np.float32, (8, 3))
    target[0] = IGNORED
    input[target == IGNORED] = np.nan
    function = function_of(through(way), loss, ignore_index=IGNORED, reduction=reduction)
    gradient = np.asarray(gradient_at(function, grad_output, input, target))[target == IGNORED]
    assert_same_bits(gradient, np.zeros_like(gradient))


@pairwise(way=WAYS, loss=[NLL_LOSS, CROSS_ENTROPY], label=INTEGER_DTYPES)
def test_targets(way, loss, label, rng):
    input, target, weight = draw(rng, loss, np.float32)
    target = target.astype(label)
    ignored = int(np.array(IGNORED).astype(label))
    assert_same_bits(
        np.asarray(function_of(through(way), loss, ignore_index=ignored)(input, target, weight)),
        np.asarray(loss.value(input, target, weight, ignore_index=ignored)),
    )


@pytest.mark.parametrize("ignored", [None, -(2**63), 2**63 + 5, 2**64 - 1])
def test_ignore_index_of_64_bits(bridge, ignored):
    bits = np.array([0, 1, 1 if ignored is None else ignored % 2**64], np.uint64)
    target = bits.view(np.int64) if ignored is not None and ignored < 0 else bits
    input = np.log(np.array([[0.5, 0.5], [0.25, 0.75], [0.125, 0.875]]))
    expected = nll.nll_loss(input, target, ignore_index=ignored)
    assert_same_bits(np.asarray(bridge.nll_loss(input, target, ignore_index=ignored)), np.asarray(expected))


SHAPES_AND_AXES = [((3,), 1), ((3,), -1), ((4, 3), -1), ((4, 2, 5, 3), -1), ((3, 4, 2), 0), ((4, 3, 2, 5), 1)]


@pairwise(way=WAYS, loss=[NLL_LOSS, CROSS_ENTROPY], shape_and_axis=SHAPES_AND_AXES)
def test_class_axis(way, loss, shape_and_axis, rng):
    shape, axis = shape_and_axis
    input = loss.random_input(rng, shape, np.float32)
    target = np.asarray(random_target(rng, np.delete(shape, 0 if len(shape) == 1 else axis), 3))
    step = jax.value_and_grad(function_of(through(way), loss, axis=axis))
    value, gradient = step(jnp.asarray(input), target)
    assert_same_bits(np.asarray(value), np.asarray(loss.value(input, target, axis=axis)))
    assert_same_bits(np.asarray(gradient), loss.backward(1.0, input, target, axis=axis))


def test_labels_from_one(loss, bridge, rng):
    input, target, _ = draw(rng, loss, np.float32)
    choices = {"index_base": 1, "ignore_index": IGNORED + 1}
    value = function_of(bridge, loss, **choices)(input, target + 1)
    assert_same_bits(np.asarray(value), np.asarray(loss.value(input, target, ignore_index=IGNORED)))


@pairwise(way=WAYS, loss=[NLL_LOSS, CROSS_ENTROPY], empty=["nan", "zero"], shape=[(0, 3), (2, 3), (2, 0)])
def test_empty_mean(way, loss, empty, shape):
    input, target = np.ones(shape, np.float32), np.full(shape[:1], -100)
    function = function_of(through(way), loss, empty=empty)
    value, gradient = jax.value_and_grad(function)(jnp.asarray(input), target)
    assert_same_bits(np.asarray(value), np.asarray(loss.value(input, target, empty=empty)))
    assert_same_bits(np.asarray(gradient), loss.backward(1.0, input, target, empty=empty))


@pairwise(way=WAYS, loss=[NLL_LOSS, CROSS_ENTROPY], reduction=REDUCTIONS, result=[np.float32, np.float64])
def test_dtype_and_total_weight(way, loss, reduction, result, rng):
    input, target, weight = draw(rng, loss, np.float16)
    choices = {"ignore_index": IGNORED, "reduction": reduction}
    function = function_of(through(way), loss, dtype=result, return_total_weight=True, **choices)
    (value, total_weight), gradient_of = jax.vjp(lambda input: function(input, target, weight), jnp.asarray(input))
    expected = loss.value(input, target, weight, dtype=result, return_total_weight=True, **choices)
    assert_same_bits(np.asarray(value), np.asarray(expected[0]))
    assert_same_bits(np.asarray(total_weight), np.asarray(expected[1]))
    grad_output = np.ones(value.shape, result)
    (gradient,) = gradient_of((jnp.asarray(grad_output), jnp.zeros(())))
    factor = grad_output if reduction == "none" else 1.0
    assert_same_bits(np.asarray(gradient), loss.backward(factor, input, target, weight, **choices))


def test_total_weight_has_no_gradient(loss, bridge, rng):
    input, target, _ = draw(rng, loss, np.float32)
    function = function_of(bridge, loss, ignore_index=IGNORED, return_total_weight=True)
    gradient = jax.grad(lambda input: function(input, target)[1])(jnp.asarray(input))
    assert_same_bits(np.asarray(gradient), np.zeros_like(input))


def test_total_weight_of_32_bits(bridge):
    with jax.enable_x64(False):
        _, total_weight = bridge.nll_loss(jnp.zeros((3, 2)), jnp.array([0, 1, 1]), return_total_weight=True)
    assert_same_bits(np.asarray(total_weight), np.array(3, np.float32))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32])
def test_subnormal_losses_are_not_flushed(bridge, dtype):
    """XLA's threads flush what is below the normal numbers."""
    input = np.zeros((1, 2), dtype)
    input[0, 0] = 88.5
    expected = np.asarray(nll.cross_entropy(input, [0]))
    assert 0 < expected < 2.0**-126
    assert_same_bits(np.asarray(jax.jit(bridge.cross_entropy)(input, np.array([0]))), expected)
    assert_same_bits(np.asarray(bridge.cross_entropy(input, np.array([0]), reduction="none"))[0], expected)


# ---------------------------------------------------------------- vmap


@pairwise(
    way=WAYS,
    loss=[NLL_LOSS, CROSS_ENTROPY],
    reduction=REDUCTIONS,
    mapped=["input", "target", "weight", "input-target", "input-weight", "input-target-weight"],
)
def test_vmap(way, loss, reduction, mapped, rng):
    """The results of the calls, one by one: values and gradients."""
    arrays = dict(zip(("input", "target", "weight"), draw(rng, loss, np.float32), strict=True))
    weight = np.stack([arrays["weight"]] * 3) * np.float32([[1], [2], [0.5]])
    for name in mapped.split("-"):
        arrays[name] = weight if name == "weight" else np.stack([np.roll(arrays[name], i, 0) for i in range(3)])
    axes = tuple(0 if name in mapped.split("-") else None for name in arrays)
    choices = {"ignore_index": IGNORED, "reduction": reduction}
    function = function_of(through(way), loss, **choices)

    def value_and_grad(input, target, weight):
        value, gradient_of = jax.vjp(lambda input: function(input, target, weight), input)
        return value, gradient_of(jnp.ones_like(value))[0]

    values, gradients = jax.jit(jax.vmap(value_and_grad, axes))(*map(jnp.asarray, arrays.values()))
    for i in range(3):
        each = [array if axis is None else array[i] for array, axis in zip(arrays.values(), axes, strict=True)]
        assert_same_bits(np.asarray(values[i]), np.asarray(loss.value(*each, **choices)))
        grad_output = np.ones(each[1].shape) if reduction == "none" else 1.0
        assert_same_bits(np.asarray(gradients[i]), loss.backward(grad_output, *each, **choices))


@pytest.mark.parametrize(("shape", "words"), [((6, 5), "2 dimensions"), ((5,), "1 dimension")], ids=str)
def test_axis_out_of_bounds(loss, bridge, shape, words):
    with pytest.raises(np.exceptions.AxisError, match=f"axis 3 is out of bounds for input with {words}"):
        function_of(bridge, loss, axis=3)(jnp.zeros(shape), jnp.zeros(shape[:-1], int))


def test_vmap_of_nothing(loss, bridge):
    values = jax.vmap(function_of(bridge, loss))(jnp.zeros((0, 6, 5)), jnp.zeros((0, 6), int))
    assert values.shape == (0,)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_vmap_of_vmap(loss, bridge, reduction, rng):
    """Axes that are mapped in one of the two for one array, in the other for another."""
    input, target, _ = draw(rng, loss, np.float32, (3, 6, 5))  # (3, 6, 5): the first mapped
    target = random_target(rng, (4, 6), 5)
    function = function_of(bridge, loss, reduction=reduction)
    values = jax.vmap(jax.vmap(function, (None, 0)), (0, None))(jnp.asarray(input), jnp.asarray(target))
    for i, j in np.ndindex(3, 4):
        expected = loss.value(input[i], target[j], reduction=reduction)
        assert_same_bits(np.asarray(values[i, j]), np.asarray(expected))


@pairwise(way=WAYS, reduction=["mean", "sum"], empty=["nan", "zero"], ignored=[IGNORED, None, 2**40])
def test_vmap_of_single_samples_without_weight(loss, way, reduction, empty, ignored, rng):
    """Each is its own mean and sum; the mean of an ignored one is that of nothing."""
    input, target, _ = draw(rng, loss, np.float32, (8, 5))
    target = np.maximum(target, 0).astype(np.int32) if ignored != IGNORED else target
    choices = {"ignore_index": ignored, "reduction": reduction, "empty": empty}
    step = jax.vmap(jax.value_and_grad(function_of(through(way), loss, **choices)))
    values, gradients = step(jnp.asarray(input), target)
    expected = [loss.value(*pair, **choices) for pair in zip(input, target, strict=True)]
    assert_same_bits(np.asarray(values), np.array(expected))
    expected = [loss.backward(1.0, *pair, **choices) for pair in zip(input, target, strict=True)]
    assert_same_bits(np.asarray(gradients), np.stack(expected))


def test_vmap_of_single_samples(loss, bridge, rng):
    input, target, weight = draw(rng, loss, np.float32, (50, 7))
    choices = {"ignore_index": IGNORED, "reduction": "none"}
    function = function_of(bridge, loss, **choices)
    gradients, values = jax.vmap(lambda input, target: jax.value_and_grad(function)(input, target, weight)[::-1])(
        jnp.asarray(input), target
    )
    assert_same_bits(np.asarray(values), loss.value(input, target, weight, **choices))
    assert_same_bits(np.asarray(gradients), loss.backward(np.ones(50), input, target, weight, **choices))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_vmap_over_nothing(loss, bridge, reduction):
    function = function_of(bridge, loss, reduction=reduction)
    values = jax.vmap(function)(jnp.zeros((0, 4, 3)), jnp.zeros((0, 4), int))
    assert values.shape == ((0, 4) if reduction == "none" else (0,))


# ---------------------------------------------------------------- other transformations


def test_scan_map_and_checkpoint(bridge, rng):
    input, target = random_logits(rng, (5, 6, 3), np.float32), random_target(rng, (5, 6), 3)
    expected = [nll.cross_entropy_value_and_grad(*pair) for pair in zip(input, target, strict=True)]

    def step(total, pair):
        value, gradient = jax.value_and_grad(jax.checkpoint(bridge.cross_entropy))(*pair)
        return total + value, gradient

    total, gradients = jax.jit(lambda pairs: jax.lax.scan(step, jnp.float32(0), pairs))((input, target))
    values = jax.lax.map(lambda pair: bridge.cross_entropy(*pair), (jnp.asarray(input), jnp.asarray(target)))
    assert_same_bits(np.asarray(values), np.array([value for value, _ in expected]))
    assert_same_bits(np.asarray(gradients), np.stack([gradient for _, gradient in expected]))
    assert total == functools.reduce(np.add, np.asarray(values), np.float32(0))


def test_a_differentiated_weight_is_refused(loss, bridge):
    function = function_of(bridge, loss)
    arguments = jnp.zeros((4, 3)), jnp.array([0, 1, 2, 0]), jnp.ones(3)
    with pytest.raises(TypeError, match=r"no gradient of it: pass jax\.lax\.stop_gradient\(weight\)"):
        jax.grad(function, argnums=2)(*arguments)
    constant = jax.grad(lambda x, t, w: function(x, t, jax.lax.stop_gradient(w)), argnums=2)
    assert not constant(*arguments).any()


def test_what_jax_refuses(bridge):
    input, target = jnp.zeros((4, 3)), jnp.array([0, 1, 2, 0])
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda input: bridge.cross_entropy(input, target), (input,), (input,))
    with pytest.raises(ValueError, match=r"cannot be differentiated|do not support JVP"):
        jax.grad(lambda input: jax.grad(bridge.cross_entropy)(input, target).sum())(input)


# ---------------------------------------------------------------- errors


X, T = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0])
BAD_ARGUMENTS = {
    "input-of-integers": ((X.astype(int), T), {}),
    "input-of-bits": ((X.astype(ml_dtypes.float8_e5m2), T), {}),
    "input-without-axes": ((np.float32(0), T), {}),
    "target-of-floats": ((X, T * 1.0), {}),
    "target-of-bools": ((X, T > 0), {}),
    "target-too-short": ((X, T[:3]), {}),
    "target-of-2-axes": ((X, T[:, None]), {}),
    "weight-too-long": ((X, T, np.ones(4)), {}),
    "weight-of-2-axes": ((X, T, np.ones((3, 1))), {}),
    "weight-of-bools": ((X, T, np.ones(3, bool)), {}),
    "word": ((X, T), {"reduction": "average"}),
    "no-word": ((X, T), {"reduction": None}),
    "empty": ((X, T), {"empty": "inf"}),
    "axis-too-high": ((X, T), {"axis": 2}),
    "axis-too-low": ((X, T), {"axis": -3}),
    "axis-of-one": ((X[0], T[0]), {"axis": 2}),
    "axis-far-off": ((X, T), {"axis": 2**40}),
    "ignore-index": ((X, T), {"ignore_index": 1.0}),
    "index-base": ((X, T), {"index_base": True}),
    "smoothing": ((X, T), {"label_smoothing": 1.5}),
    "dtype": ((X, T), {"dtype": int}),
}


@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize(("arguments", "choices"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments(arguments, choices, jitted):
    """The kind of error and the words of nll, when JAX traces."""
    with pytest.raises((TypeError, ValueError)) as expected:
        nll.cross_entropy(*arguments, **choices)
    call = functools.partial(nll.jax.cross_entropy, **choices)
    if jitted:
        call = functools.partial(jax.eval_shape, call)
        arguments = tuple(map(jnp.asarray, arguments))
    with pytest.raises(type(expected.value)) as found:
        call(*arguments)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    "value", [np.ma.masked_equal(X, 1), X + 0j, "text", [[object()]]], ids=["masked", "complex", "text", "objects"]
)
def test_bad_kinds_of_input(value):
    """They have the words of nll, too; jax.jit would take the mask off before nll sees it."""
    with pytest.raises(TypeError) as expected:
        nll.cross_entropy(value, T)
    with pytest.raises(TypeError) as found:
        nll.jax.cross_entropy(value, T)
    assert str(found.value) == str(expected.value)


def raised(call: Callable[..., Any], *arguments: Any) -> str:
    """The message of what it raises, from the call or where the result is waited for."""
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError)) as found:
        jax.block_until_ready(call(*arguments))
    return str(found.value)


CALLS = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "value-and-grad": lambda f: jax.jit(jax.value_and_grad(f)),
    "grad": jax.grad,
}


@pairwise(way=WAYS, loss=[NLL_LOSS, CROSS_ENTROPY], how=CALLS)
def test_bad_label(way, loss, how):
    """The next call is none the worse."""
    call = CALLS[how](function_of(through(way), loss, ignore_index=None))
    assert "target[1, 2] is 3, outside [0, 3) (ignore_index is None)" in raised(
        call, jnp.zeros((2, 3, 4)), jnp.array([[0, 1, 2, 0], [1, 1, 3, -1]])
    )
    jax.block_until_ready(call(jnp.zeros((2, 3, 4)), jnp.zeros((2, 4), int)))


def test_bad_label_in_a_large_array(loss):
    """JAX does not wait for such a program: the error comes later."""
    target = np.zeros(300_000, int)
    target[[123_456, 234_567]] = -1
    call = jax.jit(function_of(through("xla"), loss, reduction="none"))
    assert "target[123456] is -1, outside [0, 2)" in raised(call, jnp.zeros((300_000, 2)), target)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bad_label_under_vmap(loss, reduction):
    call = jax.vmap(jax.vmap(function_of(through("xla"), loss, reduction=reduction)))
    where = "target[1, 0, 2] is 5" if reduction == "none" else "call [1, 0] of vmap: target[2] is 5"
    assert where in raised(call, jnp.zeros((2, 2, 3, 4)), jnp.zeros((2, 2, 3), int).at[1, 0, 2].set(5))


def test_empty_mean_raises(loss, bridge):
    call = jax.jit(function_of(bridge, loss, empty="raise"))
    assert "they have no mean (empty is 'raise')" in raised(call, jnp.zeros((2, 3)), jnp.array([-100, -100]))


@pytest.mark.parametrize("name", ["input", "target", "weight"])
def test_random_keys_are_refused(bridge, name):
    arrays = {"input": jnp.zeros((2, 3)), "target": jnp.zeros(2, int), "weight": jnp.ones(3)}
    arrays[name] = jax.random.split(jax.random.key(0), arrays[name].shape)
    with pytest.raises(TypeError, match=rf"{name} has dtype key<.*>, JAX's own; it must be numbers"):
        bridge.nll_loss(**arrays)


@pytest.mark.parametrize("label", ["int2", "int4", "uint2", "uint4"])
def test_labels_of_less_than_a_byte_are_refused(bridge, label):
    target = np.array([0, 1]).astype(getattr(ml_dtypes, label))
    for convert, loss in (np.asarray, nll.nll_loss), (jnp.asarray, bridge.nll_loss):
        with pytest.raises(TypeError, match=f"target has dtype {label}; labels must be integers of 8 to 64 bits"):
            loss(np.zeros((2, 3)), convert(target))


@pytest.mark.parametrize("name", ["input", "target"])
def test_symbolic_shapes_are_refused(bridge, name):
    export = pytest.importorskip("jax.export")
    (n,) = export.symbolic_shape("n")
    shapes = {"input": (2, 3), "target": (2,)}
    shapes[name] = (n, *shapes[name][1:])
    arrays = jax.ShapeDtypeStruct(shapes["input"], jnp.float32), jax.ShapeDtypeStruct(shapes["target"], jnp.int32)
    with pytest.raises(ValueError, match=rf"{name} has shape \(n,.*\); its sizes must be known when JAX traces"):
        export.export(jax.jit(bridge.nll_loss))(*arrays)


def test_numbers_that_32_bits_cannot_hold(bridge):
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"target has int64 numbers beyond int32, .* jax_enable_x64"):
            bridge.nll_loss(np.zeros((2, 3), np.float32), np.array([0, 2**32]))
        with pytest.raises(ValueError, match="dtype is float64, which JAX has with jax_enable_x64 alone"):
            bridge.nll_loss(np.zeros((2, 3), np.float32), np.array([0, 1]), dtype=np.float64)


def test_without_jax(run_python):
    run_python("""
import sys
sys.modules["jax"] = None
try:
    import nll.jax
except ImportError as error:
    assert "python -m pip install jax" in str(error)
else:
    raise AssertionError("imported")
""")


def test_a_build_with_a_newer_jax_is_as_one_without(monkeypatch):
    built = pytest.importorskip("nll._jax", reason="nll was built without JAX")
    monkeypatch.setattr(built, "api_version", (0, 10**6))
    assert not load(nll.jax.__file__).FOREIGN


def test_a_build_without_jax_says_so_once():
    bridge = load_without_handlers()
    arguments = jnp.zeros((1, 2)), jnp.array([1])
    with pytest.warns(RuntimeWarning, match=r"--no-build-isolation -C cmake\.define\.NLL_JAX=ON") as warned:
        bridge.cross_entropy(*arguments)
    assert [warning.filename for warning in warned] == [__file__]
    bridge.cross_entropy(*arguments)  # a warning would be an error


# ---------------------------------------------------------------- XLA's buffers and threads


def test_nothing_is_copied(peak_growth):
    """128 MiB of logits, read and written in place; a gradient is the only result."""
    pytest.importorskip("nll._jax", reason="nll was built without JAX")
    setup = """
import jax, jax.numpy as jnp, nll.jax
large, labels = jnp.zeros((4096, 8192)), jnp.zeros(4096, int)
loss = jax.jit(nll.jax.cross_entropy).lower(large, labels).compile()
step = jax.jit(jax.value_and_grad(nll.jax.cross_entropy)).lower(large, labels).compile()
jax.block_until_ready(jax.jit(nll.jax.cross_entropy)(large[:512, :256], labels[:512]))
"""
    size = 4096 * 8192 * 4
    assert peak_growth(setup, "jax.block_until_ready(loss(large, labels))") < size / 32
    growth = peak_growth(setup, "jax.block_until_ready(step(large, labels))")
    assert size * 31 / 32 < growth < size * 33 / 32


def test_the_program_of_loss_and_gradient_is_one_call():
    """Where the gradient of the loss is known to be 1, nothing is multiplied."""
    pytest.importorskip("nll._jax", reason="nll was built without JAX")
    step = jax.jit(jax.value_and_grad(nll.jax.cross_entropy))
    shapes = jax.ShapeDtypeStruct((64, 10), jnp.float32), jax.ShapeDtypeStruct((64,), jnp.int32)
    program = step.lower(*shapes).compile().as_text()
    assert program.count("custom-call(") == 1
    assert not [name for name in ("multiply", "select", "copy", "fusion", "convert") if f" {name}(" in program]


@pairwise(way=WAYS, loss=[CROSS_ENTROPY, SMOOTHED], reduction=REDUCTIONS, dtype=[np.float16, np.float32])
def test_in_place(way, loss, reduction, dtype, rng):
    """XLA copies logits that are still needed; no result changes."""
    input, target, weight = draw(rng, loss, dtype)
    choices = {"ignore_index": IGNORED, "reduction": reduction}
    function = function_of(through(way), loss, in_place=True, **choices)

    def step(logits):
        value, gradient_of = jax.vjp(lambda logits: function(logits, target, weight), logits)
        return value, gradient_of(jnp.ones_like(value))[0], logits

    value, gradient, logits = jax.jit(step)(jnp.asarray(input))
    grad_output = np.ones(target.shape) if reduction == "none" else 1.0
    assert_same_bits(np.asarray(value), np.asarray(loss.value(input, target, weight, **choices)))
    assert_same_bits(np.asarray(gradient), loss.backward(grad_output, input, target, weight, **choices))
    assert_same_bits(np.asarray(logits), input)


@pytest.mark.parametrize("value", ["no", "", []], ids=repr)
def test_in_place_is_a_flag(value):
    with pytest.raises(TypeError, match=r"in_place is .*; it must be True or False"):
        nll.jax.cross_entropy(X, T, in_place=value)


def test_in_place_halves_the_memory_of_a_step():
    pytest.importorskip("nll._jax", reason="nll was built without JAX")
    size = 1024 * 4096 * 4

    def temporary(in_place: bool) -> int:
        def loss_of(hidden, weight, target):
            return nll.jax.cross_entropy(hidden @ weight, target, in_place=in_place)

        shapes = [(1024, 16), (16, 4096), (1024,)]
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32 if len(shape) == 2 else jnp.int32) for shape in shapes]
        step = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1))).lower(*arrays).compile()
        return step.memory_analysis().temp_size_in_bytes

    assert 2 * size <= temporary(False) < 2.1 * size
    assert size <= temporary(True) < 1.1 * size


CROWD = """
import os, sys, threading
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
if not {foreign}:
    sys.modules["nll._jax"] = None
import warnings
warnings.simplefilter("ignore")
import jax, jax.numpy as jnp, nll.jax
assert nll.jax.FOREIGN == {foreign}
nll.set_num_threads(4)
logits, target = jnp.ones((512, 256)), jnp.zeros(512, int)

@jax.jit
def step(scale):
    losses = [nll.jax.cross_entropy(jnp.sin(scale * logits + i), target) for i in range(8)]
    gradient = jax.grad(lambda scale: nll.jax.cross_entropy(jnp.cos(scale * logits), target))(scale)
    return sum(losses) + gradient

expected = step(1.0)
wrong = []
def work():
    results = [step(1.0) for _ in range(10)]
    wrong.extend(result for result in results if result != expected)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong, wrong
"""


@pytest.mark.parametrize("way", WAYS)
def test_many_calls_at_once_on_one_processor(way, run_python):
    """XLA has one thread there: a call that waited for it would never end."""
    if way == "xla":
        pytest.importorskip("nll._jax", reason="nll was built without JAX")
    run_python(CROWD.replace("{foreign}", str(way == "xla")))


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_set_num_threads(run_python):
    pytest.importorskip("nll._jax", reason="nll was built without JAX")
    run_python("""
import os
import jax, jax.numpy as jnp, nll.jax
logits, target = jnp.ones((100_000, 10)), jnp.zeros(100_000, int)
loss = jax.jit(nll.jax.cross_entropy)

def threads_of(n):
    nll.set_num_threads(n)
    for _ in range(20):
        jax.block_until_ready(loss(logits, target))
    return len(os.listdir("/proc/self/task"))

threads_of(1)
alone = threads_of(1)
assert threads_of(1) == alone
if nll.build_info()["openmp"]:
    assert threads_of(3) >= alone + 2
""")


# ---------------------------------------------------------------- beside the peers


@pytest.mark.parametrize("shape", [(64, 10), (7, 1000)])
def test_optax(bridge, shape, rng):
    optax = pytest.importorskip("optax")
    input, target = jnp.asarray(random_logits(rng, shape, np.float32)), random_target(rng, shape[0], shape[1])

    def peer(input, target):
        return optax.softmax_cross_entropy_with_integer_labels(input, target).mean()

    ours, theirs = (jax.jit(jax.value_and_grad(f))(input, target) for f in (bridge.cross_entropy, peer))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-8)


def documented_examples() -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(nll.jax) if test.examples]


@pytest.mark.parametrize("example", documented_examples(), ids=lambda test: test.name)
def test_examples_in_docstrings(example):
    through("xla")
    with jax.enable_x64(False):
        results = doctest.DocTestRunner().run(example)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.fixture
def bp() -> Iterator[Any]:
    """brainpy, which wants its arrays in 32 bits unless it is told."""
    with jax.enable_x64(False):
        yield pytest.importorskip("brainpy")


class TestBrainpy:
    """Its NLLLoss documents shapes, weights and ignored labels, of which it has (N, C) alone."""

    log_probabilities = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], np.float32))

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_in_its_place(self, bp, bridge, reduction):
        arguments = bp.math.asarray(self.log_probabilities), bp.math.asarray([0, 1, 2])
        ours, theirs = bridge.NLLLoss(reduction), bp.losses.NLLLoss(reduction)
        np.testing.assert_allclose(ours.update(*arguments), theirs.update(*arguments), rtol=1e-6)
        np.testing.assert_allclose(ours(*arguments), theirs(*arguments), rtol=1e-6)

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_unbatched(self, bp, bridge, reduction):
        loss = bridge.NLLLoss(reduction).update(bp.math.asarray(self.log_probabilities[0]), bp.math.asarray(1))
        assert_same_bits(np.asarray(loss), -self.log_probabilities[0, 1])

    @pytest.mark.parametrize("shape", [(4, 3, 5), (3, 3, 3), (2, 3, 4, 5)])
    def test_more_axes(self, bp, bridge, shape, rng):
        input, target = random_logits(rng, shape, np.float32), random_target(rng, shape[:1] + shape[2:], 3)
        losses = bridge.NLLLoss("none").update(bp.math.asarray(input), bp.math.asarray(target))
        assert_same_bits(np.asarray(losses), nll.nll_loss(input, target, reduction="none"))

    def test_weight_and_ignore_index(self, bp, bridge):
        target, weight = np.array([0, 255, 2]), np.array([1, 2, 0.5], np.float32)
        loss = bridge.NLLLoss("mean", bp.math.asarray(weight), 255)
        expected = nll.nll_loss(self.log_probabilities, target, weight, ignore_index=255)
        assert_same_bits(np.asarray(loss.update(self.log_probabilities, bp.math.asarray(target))), np.asarray(expected))

    def test_cross_entropy_by_position(self, bp, bridge, rng):
        """The parameters stand in the order of brainpy's."""
        names = list(inspect.signature(bp.losses.CrossEntropyLoss).parameters)
        assert list(inspect.signature(bridge.CrossEntropyLoss).parameters)[: len(names)] == names
        input, target = bp.math.asarray(random_logits(rng, (20, 3), np.float32)), random_target(rng, 20, 3, ignored=255)
        choices = (np.array([1, 2, 0.5], np.float32), 255, "sum", 0.0)
        ours, theirs = (losses.CrossEntropyLoss(*choices) for losses in (bridge, bp.losses))
        np.testing.assert_allclose(ours.update(input, target), theirs.update(input, target), rtol=1e-6)

    @pytest.mark.parametrize("way", WAYS)
    def test_training(self, bp, way, rng):
        """Under its jit, grad and for_loop: the same curve as with its own loss."""
        bm = bp.math
        images, labels = random_logits(rng, (20, 16, 12), np.float32), random_target(rng, (20, 16), 3)

        class Classifier(bp.DynamicalSystem):
            def __init__(self):
                super().__init__()
                weight = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
                self.weight = bm.TrainVar(bm.asarray(weight))

            def update(self, images):
                return jax.nn.log_softmax(bm.as_jax(images @ self.weight))

        def curve(loss):
            with bm.training_environment():
                model = Classifier()
            optimizer = bp.optim.SGD(lr=0.5, train_vars=model.train_vars().unique())
            gradient_of = bm.grad(
                lambda images, labels: loss.update(model(images), labels),
                grad_vars=model.train_vars().unique(),
                return_value=True,
            )

            def step(images, labels):
                gradient, value = gradient_of(images, labels)
                optimizer.update(gradient)
                return value

            return np.asarray(bm.jit(lambda: bm.for_loop(step, (bm.asarray(images), bm.asarray(labels))))())

        ours, theirs = curve(through(way).NLLLoss("mean")), curve(bp.losses.NLLLoss("mean"))
        assert ours[-1] < ours[0]
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
