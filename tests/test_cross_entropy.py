# SPDX-License-Identifier: BSD-3-Clause
"""`cross_entropy`, its gradient and `log_softmax` against their definitions, each result within its bound of ULP."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest

import nll
import oracle
import softmax_oracle
from cross_entropy_bounds import assert_within, random_logits
from oracle import assert_same_bits, from_bits
from samples import FLOAT_DTYPES, random_target, random_weight
from softmax_oracle import BOUNDS, assert_within_bound, ulp

SHAPE = (3, 5, 4, 2, 3)  # (N, C, d1, d2, d3)
TARGET_SHAPE = (3, 4, 2, 3)
FLOAT64 = np.dtype(np.float64)
INFINITY, NAN = np.inf, np.nan


def random_grad_output(rng, target_shape, reduction):
    return rng.normal(size=target_shape) if reduction == "none" else rng.normal()


# ---- every kind of argument


def test_every_dtype_and_weight(dtype, weight_dtype, reduction, rng):
    input, target = random_logits(rng, SHAPE, dtype), random_target(rng, TARGET_SHAPE, 5, np.int32, ignored=-100)
    grad_output = random_grad_output(rng, TARGET_SHAPE, reduction)
    assert_within(input, target, random_weight(rng, 5, weight_dtype), grad_output=grad_output, reduction=reduction)


def test_every_layout(layout, dtype, reduction, rng):
    input = layout(random_logits(rng, SHAPE, dtype))
    target = layout(random_target(rng, TARGET_SHAPE, 5, np.uint8, ignored=100))
    assert_within(input, target, random_weight(rng, 5, np.float64), ignore_index=100, reduction=reduction)
    assert_within_bound(nll.log_softmax(input), softmax_oracle.log_softmax(input))


def test_every_target_dtype(target_dtype, reduction, rng):
    input, target = random_logits(rng, (50, 7), np.float32), random_target(rng, 50, 7, target_dtype)
    assert_within(input, target, reduction=reduction)


@pytest.mark.parametrize("result_dtype", FLOAT_DTYPES, ids=lambda t: f"to-{t}")
def test_every_dtype_of_the_loss(result_dtype, dtype, reduction, rng):
    input, target = random_logits(rng, (200, 5), dtype), random_target(rng, 200, 5)
    assert_within(input, target, random_weight(rng, 5, np.float64), dtype=result_dtype, reduction=reduction)


@pytest.mark.parametrize("class_count", [1, 2, 64, 65, 1000])
@pytest.mark.parametrize("samples", [1, 15, 17, 513])
def test_sizes_around_a_block(samples, class_count, dtype, rng):
    samples = min(samples, 60_000 // class_count)
    input = random_logits(rng, (samples, class_count), dtype)
    assert_within(input, random_target(rng, samples, class_count, ignored=-100), reduction="none")


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -3, -4])
def test_axis_names_the_class_axis(axis, reduction, rng):
    shape = (3, 4, 5, 2)
    input = random_logits(rng, shape, np.float32)
    target = random_target(rng, np.delete(shape, axis), shape[axis])
    assert_within(input, target, axis=axis, reduction=reduction)
    assert_within_bound(nll.log_softmax(input, axis=axis), softmax_oracle.log_softmax(input, axis=axis))


@pytest.mark.parametrize("axis", [1, 0, -1])
def test_one_dimensional_input_has_one_axis(axis, dtype, reduction, rng):
    input = random_logits(rng, 5, dtype)
    grad_output = np.array(0.3) if reduction == "none" else 0.3
    assert_within(input, np.array(3), grad_output=grad_output, axis=axis, reduction=reduction)
    assert_within_bound(nll.log_softmax(input, axis=axis), softmax_oracle.log_softmax(input, axis=axis))


@pytest.mark.parametrize("index_base", [1, -3, 200])
def test_index_base_is_the_label_of_the_first_class(index_base, reduction, rng):
    input, target = random_logits(rng, (50, 7), np.float32), random_target(rng, 50, 7) + index_base
    assert_within(input, target, index_base=index_base, reduction=reduction)


@pytest.mark.parametrize("ignore_index", [2, -1, None, 2**64 - 1], ids=str)
def test_ignore_index(ignore_index, reduction, rng):
    input, target = random_logits(rng, (60, 5), np.float32), random_target(rng, 60, 5, ignored=2)
    if ignore_index == -1:
        target[target == 2] = -1
    assert_within(input, target, random_weight(rng, 5, np.float32), ignore_index=ignore_index, reduction=reduction)


def test_kinds_of_results(dtype):
    input, target = np.zeros((2, 3, 4, 5), dtype), np.zeros((2, 4, 5), int)
    unreduced = nll.cross_entropy(input, target, reduction="none")
    assert type(unreduced) is np.ndarray
    assert unreduced.shape == target.shape
    assert type(nll.cross_entropy(input, target)) is dtype.type
    assert type(nll.cross_entropy(input[0, :, 0, 0], 1, reduction="none")) is dtype.type
    _, total_weight, gradient = nll.cross_entropy_value_and_grad(input, target, return_total_weight=True)
    assert type(total_weight) is np.float64
    assert type(gradient) is np.ndarray


def test_arguments_are_left_alone(reduction, dtype, rng):
    arrays = random_logits(rng, (40, 5), dtype), random_target(rng, 40, 5), random_weight(rng, 5, np.float64)
    before = [array.tobytes() for array in arrays]
    nll.cross_entropy(*arrays, reduction=reduction)
    nll.cross_entropy_backward(random_grad_output(rng, 40, reduction), *arrays, reduction=reduction)
    nll.log_softmax(arrays[0])
    assert [array.tobytes() for array in arrays] == before


# ---- ignored samples


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1], ids=["not-smoothed", "smoothed"])
def test_logits_of_an_ignored_sample_have_no_effect(label_smoothing, special, dtype, reduction, rng):
    input, target = random_logits(rng, (60, 5), dtype), random_target(rng, 60, 5, ignored=-100)
    input[target == -100] = special
    assert_within(input, target, label_smoothing=label_smoothing, reduction=reduction)


@pytest.mark.parametrize("class_count", [3, 65, 3000])
def test_ignored_samples_get_positive_zeros(class_count, dtype, reduction):
    input, target = np.full((4, class_count), np.nan, dtype), np.full(4, -100)
    input[1] = -np.inf
    grad_output = np.full(4, -np.nan) if reduction == "none" else -1.0
    loss = nll.cross_entropy(input, target, reduction=reduction, empty="zero")
    gradient = nll.cross_entropy_backward(grad_output, input, target, reduction=reduction, empty="zero")
    assert_same_bits(loss, np.zeros(np.shape(loss), dtype))
    assert_same_bits(gradient, np.zeros(input.shape, dtype))


def test_weight_of_an_ignored_class_has_no_effect(dtype, reduction, rng):
    input, target = random_logits(rng, (60, 5), dtype), random_target(rng, 60, 5)
    weight = np.array([0.5, np.nan, 2, 1, 3])
    expected = softmax_oracle.cross_entropy(input, target, np.nan_to_num(weight), ignore_index=1, reduction=reduction)
    loss = nll.cross_entropy(input, target, weight, ignore_index=1, reduction=reduction)
    assert_within_bound(loss, expected.loss)


# ---- reductions


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_reduced_double_is_the_exact_sum_of_the_losses(reduced, weighted, dtype, rng):
    input, target = random_logits(rng, (3000, 7), dtype, 20), random_target(rng, 3000, 7, ignored=-100)
    weight = rng.uniform(0.1, 1, 7) if weighted else np.ones(7)
    losses = nll.cross_entropy(input, target, reduction="none", dtype=np.float64)
    total_weight = sum(Fraction(weight[t]) for t in target if t >= 0)
    exact = sum(Fraction(loss) * Fraction(weight[t]) for loss, t in zip(losses, target, strict=True) if t >= 0)
    expected = oracle.encode(exact if reduced == "sum" else exact / total_weight, oracle.FLOAT64)
    arrays = input, target, weight if weighted else None
    actual = nll.cross_entropy(*arrays, reduction=reduced, dtype=np.float64)
    assert_same_bits(actual, from_bits(expected, FLOAT64))


@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_reduced_double_is_the_exact_sum_of_smoothed_losses(reduced, rng):
    input, target = random_logits(rng, (3000, 7), np.float64, 20), random_target(rng, 3000, 7, ignored=-100)
    weight, choices = rng.uniform(0.1, 1, 7), {"label_smoothing": 0.1}
    losses = nll.cross_entropy(input, target, weight, reduction="none", **choices)
    divisor = sum(Fraction(weight[t]) for t in target if t >= 0) if reduced == "mean" else 1
    expected = oracle.encode(sum(map(Fraction, losses)) / divisor, oracle.FLOAT64)
    actual = nll.cross_entropy(input, target, weight, reduction=reduced, **choices)
    assert_same_bits(actual, from_bits(expected, FLOAT64))


def test_reduced_losses_are_rounded_once(dtype, rng):
    """Not to the dtype of each loss first: a thousand losses far below its last digit still count."""
    count = 1000
    rows = np.tile(np.array([[0, -9]], dtype), (count, 1))
    rows[0] = [0, 60]
    loss = float(nll.cross_entropy(rows, np.zeros(count, int), reduction="sum"))
    exact = softmax_oracle.cross_entropy(rows, np.zeros(count, int), reduction="sum").loss
    assert abs(loss - exact) <= BOUNDS[dtype] * ulp(exact, dtype)


@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_infinite_losses_reach_the_reduced_one(reduced, threads):
    """A thread may have nothing but an infinite loss, and be the first or the last to end."""
    for special, expected in ((-INFINITY, INFINITY), (INFINITY, NAN), (NAN, NAN)):
        for sample in range(3):
            input = np.zeros((3, 40_000), np.float32)
            input[sample, 9] = special
            for _ in range(20):
                loss = nll.cross_entropy(input, [9, 9, 9], reduction=reduced)
                np.testing.assert_equal(float(loss), expected)


def test_float16_sum_in_float32_does_not_overflow():
    input, target = np.tile(np.float16([60_000, 0]), (10, 1)), np.ones(10, int)
    assert nll.cross_entropy(input, target, reduction="sum") == np.inf
    assert nll.cross_entropy(input, target, reduction="sum", dtype=np.float32) == 10 * np.float32(np.float16(60_000))


# ---- nothing to average


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0), (0, 0), (2, 0, 0)], ids=str)
def test_no_samples(shape, empty, dtype, reduction):
    arrays, choices = (np.zeros(shape, dtype), np.zeros((shape[0], *shape[2:]), int)), {"reduction": reduction}
    grad_output = np.zeros(arrays[1].shape) if reduction == "none" else 1.0
    expected = oracle.nll_loss(*arrays, empty=empty, **choices).loss
    assert_same_bits(nll.cross_entropy(*arrays, empty=empty, **choices), expected)
    gradient = nll.cross_entropy_backward(grad_output, *arrays, empty=empty, **choices)
    assert_same_bits(gradient, np.zeros(shape, dtype))
    assert_same_bits(nll.log_softmax(arrays[0]), np.zeros(shape, dtype))


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize("class_count", [3, 0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1], ids=["not-smoothed", "smoothed"])
def test_all_samples_ignored(label_smoothing, class_count, empty, dtype, reduction):
    arrays = np.zeros((4, class_count), dtype), np.full(4, -100)
    choices = {"reduction": reduction, "empty": empty}
    grad_output = np.ones(4) if reduction == "none" else 1.0
    loss = nll.cross_entropy(*arrays, label_smoothing=label_smoothing, **choices)
    assert_same_bits(loss, oracle.nll_loss(*arrays, **choices).loss)
    gradient = nll.cross_entropy_backward(grad_output, *arrays, label_smoothing=label_smoothing, **choices)
    assert_same_bits(gradient, np.zeros((4, class_count), dtype))


@pytest.mark.parametrize("weight", [[0.0, 0.0], [0.75, -0.75]], ids=str)
@pytest.mark.parametrize("row", [[0, 0], [3, 1]], ids=str)
def test_weights_that_add_to_zero(row, weight, dtype):
    """The IEEE quotient of the sum by 0; or, if so chosen, 0."""
    input, target = np.array([row, row], dtype), [0, 1]
    total = weight[1] * (row[0] - row[1])
    expected = NAN if total == 0 else np.copysign(INFINITY, total)
    np.testing.assert_equal(float(nll.cross_entropy(input, target, weight)), expected)
    assert not np.isfinite(nll.cross_entropy_backward(1.0, input, target, weight).astype(float)).any()
    loss, gradient = nll.cross_entropy_value_and_grad(input, target, weight, empty="zero")
    assert_same_bits(loss, dtype.type(0))
    assert_same_bits(gradient, np.zeros((2, 2), dtype))


def test_empty_raise():
    out = np.full((2, 2), 7.0)
    for call in (nll.cross_entropy, lambda *a, **k: nll.cross_entropy_value_and_grad(*a, **k, out=out)):
        with pytest.raises(ValueError, match="empty"):
            call(np.zeros((2, 2)), [-100, -100], empty="raise")
    assert (out == 7).all()
    assert nll.cross_entropy(np.zeros((2, 2)), [0, -100], empty="raise") == np.log(2)


# ---- label smoothing


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.5, 1.0, 1, np.float32(0.1)], ids=repr)
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_label_smoothing(weighted, label_smoothing, dtype, reduction, rng):
    for shape in ((40, 7), (6, 9, 5), (5, 130), (3, 2100, 2)):
        input, target = (
            random_logits(rng, shape, dtype),
            random_target(rng, (shape[0], *shape[2:]), shape[1], ignored=-100),
        )
        weight = rng.uniform(0.5, 2, shape[1]) if weighted else None
        grad_output = random_grad_output(rng, target.shape, reduction)
        choices = {"label_smoothing": label_smoothing, "reduction": reduction}
        assert_within(input, target, weight, grad_output=grad_output, **choices)


def test_no_smoothing_is_the_default(dtype, reduction, rng):
    arrays = random_logits(rng, (40, 7), dtype), random_target(rng, 40, 7), rng.uniform(0.5, 2, 7)
    assert_same_bits(
        nll.cross_entropy(*arrays, reduction=reduction, label_smoothing=0.0),
        nll.cross_entropy(*arrays, reduction=reduction),
    )


@pytest.mark.parametrize("class_count", [3, 100])
def test_smoothing_of_an_impossible_class_is_infinite(class_count, dtype):
    input = np.zeros((2, class_count), dtype)
    input[0, 1] = -INFINITY
    loss = nll.cross_entropy(input, [0, 0], label_smoothing=0.1, reduction="none")
    assert loss[0] == INFINITY
    assert np.isfinite(float(loss[1]))
    planes = np.ascontiguousarray(input.T)[None]
    loss = nll.cross_entropy(planes, [[0, 0]], label_smoothing=0.1, reduction="none")
    assert loss[0, 0] == INFINITY


@pytest.mark.parametrize("class_count", [3, 100])
def test_gradient_of_a_smoothed_sample_with_an_impossible_class(class_count, dtype):
    """The loss is infinite; what pulls at the logits is not."""
    input, target = np.zeros((2, class_count), dtype), np.array([0, 0])
    input[0, 1] = -INFINITY
    expected = softmax_oracle.cross_entropy(input, target, label_smoothing=0.1)
    gradient = nll.cross_entropy_backward(np.ones(2), input, target, reduction="none", label_smoothing=0.1)
    assert_within_bound(gradient, expected.gradient, expected.gradient_scale)


def test_smoothed_certain_sample(dtype):
    """Terms of 740·0.1/3 beside some far below."""
    input = np.array([[740, 0, 0], [104, 0, 0], [20, 0, 0], [0, 0, 0]], dtype)
    assert_within(input, np.array([0, 0, 0, 0]), label_smoothing=0.1, reduction="none")
    assert_within(input, np.array([1, 1, 1, 1]), [0.0, 1, 2], label_smoothing=1.0, reduction="none")


# ---- what has to hold between results


@pytest.mark.parametrize("class_count", [2, 10, 100, 5000])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1], ids=["not-smoothed", "smoothed"])
def test_gradient_of_a_sample_adds_to_zero(label_smoothing, class_count, dtype, rng):
    """Within the bounds of its entries."""
    input, target = random_logits(rng, (30, class_count), dtype), random_target(rng, 30, class_count)
    gradient = nll.cross_entropy_backward(1.0, input, target, reduction="sum", label_smoothing=label_smoothing)
    exact = softmax_oracle.cross_entropy(input, target, reduction="sum", label_smoothing=label_smoothing)
    allowed = BOUNDS[dtype] * ulp(exact.gradient_scale, dtype)
    assert (np.abs(gradient.astype(np.longdouble).sum(1)) <= 1.0001 * allowed.sum(1)).all()


@pytest.mark.parametrize("class_count", [1, 2, 10, 100, 5000])
def test_agrees_with_nll_loss_of_log_softmax(class_count, dtype, rng):
    """Each has its own error."""
    input, target = random_logits(rng, (30, class_count), dtype), random_target(rng, 30, class_count, ignored=-100)
    one = nll.cross_entropy(input, target, reduction="none").astype(np.float64)
    other = nll.nll_loss(nll.log_softmax(input), target, reduction="none").astype(np.float64)
    assert (np.abs(one - other) <= 2 * BOUNDS[dtype] * ulp(np.maximum(one, other), dtype)).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("shape", [(40, 7), (3, 80, 5, 2)], ids=str)
def test_agrees_with_pytorch(shape, weighted, smoothing, reduction, rng, torch):
    """Loss and gradient in double, where PyTorch's error is some 2**-50 of the terms that it adds."""
    input, target = (
        random_logits(rng, shape, np.float64),
        random_target(rng, (shape[0], *shape[2:]), shape[1], ignored=-100),
    )
    weight = rng.uniform(0.5, 2, shape[1]) if weighted else None
    grad_output = random_grad_output(rng, target.shape, reduction)
    leaf = torch.tensor(input, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        leaf,
        torch.tensor(target),
        None if weight is None else torch.tensor(weight),
        reduction=reduction,
        label_smoothing=smoothing,
    )
    loss.backward(torch.tensor(grad_output, dtype=torch.float64))
    choices = {"reduction": reduction, "label_smoothing": smoothing}
    actual = nll.cross_entropy(input, target, weight, **choices)
    np.testing.assert_allclose(actual, loss.detach().numpy(), rtol=1e-13, atol=1e-14)
    gradient = nll.cross_entropy_backward(grad_output, input, target, weight, **choices)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_log_softmax_agrees_with_pytorch(rng, torch):
    input = random_logits(rng, (6, 50, 3), np.float64)
    expected = torch.log_softmax(torch.tensor(input), 1).numpy()
    np.testing.assert_allclose(nll.log_softmax(input), expected, rtol=1e-13, atol=1e-14)


# ---- the processor's settings in the calling thread


@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00], ids=["down", "up", "to-zero"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_rounding_mode_of_the_caller_has_no_effect(mode, threads, dtype, rng):
    library = ctypes.util.find_library("m")
    if library is None or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the names of rounding modes are known for x86-64 only")
    libm = ctypes.CDLL(library)
    cases = [(random_logits(rng, (n, c), dtype), random_target(rng, n, c)) for n, c in ((9000, 5), (30, 3000))]

    def results():
        for arrays in cases:
            yield nll.cross_entropy(*arrays, reduction="none")
            yield from nll.cross_entropy_value_and_grad(*arrays)
            yield nll.log_softmax(arrays[0])

    expected = list(results())
    libm.fesetround(mode)
    actual = list(results())
    libm.fesetround(0)
    for one, other in zip(actual, expected, strict=True):
        assert_same_bits(one, other)


# ---- anything


@st.composite
def strided_logits(draw: st.DrawFn, dtype: np.dtype) -> tuple[np.ndarray, int]:
    """A window of a random array with its axes in any order, steps of either sign, and the class axis anywhere."""
    rank = draw(st.integers(1, 4))
    shape = [draw(st.integers(1, 6)) for _ in range(rank)]
    axis = draw(st.integers(0, rank - 1))
    shape[axis] = draw(st.integers(1, 90))
    steps = [draw(st.sampled_from([1, 1, 2, -1, -3])) for _ in range(rank)]
    order = draw(st.permutations(range(rank)))
    largest = float(ml_dtypes.finfo(dtype).max)
    near = st.floats(-30, 30, width=16)
    anything = st.floats(-largest, largest) | st.just(-np.inf) | st.just(np.inf) | st.just(np.nan)
    palette = draw(st.lists(near, min_size=1, max_size=8)) + draw(st.lists(near | anything, max_size=4))
    seed = draw(st.integers(0, 2**32 - 1))
    frame_shape = [shape[i] * abs(steps[i]) for i in order]
    with np.errstate(over="ignore"):
        frame = np.random.default_rng(seed).choice(np.array(palette), frame_shape).astype(dtype)
    window = frame.transpose(np.argsort(order))[tuple(slice(None, None, step) for step in steps)]
    return window, axis


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(data=st.data())
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_any_logits_in_any_layout(dtype, data):
    input, axis = data.draw(strided_logits(dtype))
    class_count = input.shape[axis]
    target_shape = np.delete(input.shape, axis)
    size = int(target_shape.prod())
    labels = st.lists(st.integers(-1, class_count - 1), min_size=size, max_size=size)
    target = np.array(data.draw(labels), int).reshape(target_shape)
    weight = data.draw(st.none() | st.just(np.linspace(0.3, 2, class_count)))
    result_dtype = data.draw(st.sampled_from([None, *FLOAT_DTYPES]))
    choices = {"axis": axis, "ignore_index": -1, "reduction": "none", "dtype": result_dtype}
    assert_within(input, target, weight, **choices)
    log_softmax = nll.log_softmax(input, axis=axis)
    assert_within_bound(log_softmax, softmax_oracle.log_softmax(input, axis=axis))
