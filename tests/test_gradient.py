# SPDX-License-Identifier: BSD-3-Clause
"""`nll_loss_backward` and `nll_loss_value_and_grad` against the definition, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

import nll
import oracle
from layouts import OWN_MEMORY, c_order, channels_last
from oracle import assert_same_bits
from samples import FLOAT_DTYPES, INTEGER_DTYPES, random_input, random_target, random_weight

SHAPE = (3, 5, 4, 2, 3)  # (N, C, d1, d2, d3)
TARGET_SHAPE = (3, 4, 2, 3)


def random_grad_output(rng, target_shape, reduction, dtype=np.float64):
    """A number with every bit of a double in use, or an array of them for "none"."""
    return rng.normal(size=target_shape).astype(dtype) if reduction == "none" else rng.normal()


def assert_exact(*arrays, **keywords):
    assert_same_bits(nll.nll_loss_backward(*arrays, **keywords), oracle.nll_loss_backward(*arrays, **keywords))


# ---- values


def test_every_layout_dtype_and_weight(dtype, weight_dtype, reduction, layout, rng):
    input = layout(random_input(rng, SHAPE, dtype))
    target = layout(random_target(rng, TARGET_SHAPE, 5, np.int32, ignored=-100))
    grad_output = random_grad_output(rng, TARGET_SHAPE, reduction)
    assert_exact(grad_output, input, target, random_weight(rng, 5, weight_dtype), reduction=reduction)


def test_every_target_dtype(target_dtype, dtype, reduction, rng):
    input, target = random_input(rng, (50, 7), dtype), random_target(rng, 50, 7, target_dtype)
    assert_exact(random_grad_output(rng, 50, reduction), input, target, reduction=reduction)


@pytest.mark.parametrize("weight_dtype", INTEGER_DTYPES, ids=str)
def test_every_integer_weight_dtype(weight_dtype, reduction, rng):
    input, target = random_input(rng, (50, 7), np.float32), random_target(rng, 50, 7)
    weight = random_weight(rng, 7, weight_dtype)
    assert_exact(random_grad_output(rng, 50, reduction), input, target, weight, reduction=reduction)


def test_every_thread_count(threads, dtype, reduction, rng):
    input, target = random_input(rng, (20_000, 3), dtype), random_target(rng, 20_000, 3, np.uint8, ignored=255)
    weight, grad_output = random_weight(rng, 3, np.float64), random_grad_output(rng, 20_000, reduction)
    assert_exact(grad_output, input, target, weight, reduction=reduction, ignore_index=255)


def test_every_thread_count_with_images(threads, dtype, reduction, rng):
    input, target = random_input(rng, (2, 3, 10_000), dtype), random_target(rng, (2, 10_000), 3, np.int16)
    assert_exact(random_grad_output(rng, (2, 10_000), reduction), input, target, reduction=reduction)


def test_every_thread_count_with_many_classes(threads, reduction, rng):
    input, target = random_input(rng, (7, 30_000), np.float32), random_target(rng, 7, 30_000)
    assert_exact(random_grad_output(rng, 7, reduction), input, target, reduction=reduction)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_axis_names_the_class_axis(axis, reduction, rng):
    shape = (3, 4, 5, 2)
    input = random_input(rng, shape, np.float32)
    target = random_target(rng, np.delete(shape, axis), shape[axis])
    assert_exact(random_grad_output(rng, target.shape, reduction), input, target, reduction=reduction, axis=axis)


def test_one_dimensional_input(dtype, reduction, rng):
    grad_output = np.array(0.3) if reduction == "none" else 0.3
    assert_exact(grad_output, random_input(rng, 5, dtype), np.array(3), reduction=reduction)


@pytest.mark.parametrize("ignore_index", [2, -1, None, 2**64 - 1], ids=str)
def test_ignore_index(ignore_index, reduction, rng):
    input, target = random_input(rng, (60, 5), np.float32), random_target(rng, 60, 5, ignored=2)
    if ignore_index == -1:
        target[target == 2] = -1
    grad_output = random_grad_output(rng, 60, reduction)
    assert_exact(grad_output, input, target, reduction=reduction, ignore_index=ignore_index)


def test_index_base(reduction, rng):
    input, target = random_input(rng, (60, 5), np.float32), random_target(rng, 60, 5) + 1
    assert_exact(random_grad_output(rng, 60, reduction), input, target, reduction=reduction, index_base=1)


@pytest.mark.parametrize("grad_dtype", FLOAT_DTYPES, ids=lambda t: f"grad-{t}")
def test_every_dtype_of_grad_output(grad_dtype, dtype, layout, rng):
    input, target = random_input(rng, SHAPE, dtype), random_target(rng, TARGET_SHAPE, 5)
    grad_output = layout(random_grad_output(rng, TARGET_SHAPE, "none", grad_dtype))
    assert_exact(grad_output, input, target, random_weight(rng, 5, np.float64), reduction="none")


@pytest.mark.parametrize("number", [2, 0.1, np.float32(0.1), np.float16(0.1), np.int8(-3), np.array(0.1)], ids=repr)
def test_grad_output_may_be_any_real_number(number, rng):
    input, target = random_input(rng, (20, 5), np.float32), random_target(rng, 20, 5)
    assert_exact(number, input, target)


def test_gradient_is_added_up_in_the_documented_order():
    """-(w * g) is rounded before the division, and total_weight is rounded before it divides."""
    weight, g = np.array([1 + 2.0**-52, 2.0**-53]), 1 + 2.0**-51
    input, target = np.zeros((2, 2)), np.array([0, 1])
    w0, w1 = weight.tolist()
    total_weight = w0 + w1
    assert nll.nll_loss_backward(g, input, target, weight)[0, 0] == -(w0 * g) / total_weight
    assert nll.nll_loss_backward(g, input, target, weight)[1, 1] == -(w1 * g) / total_weight


def test_input_is_never_read_as_a_number(dtype, reduction, rng):
    target = random_target(rng, 60, 5)
    gradient = nll.nll_loss_backward(
        random_grad_output(rng, 60, reduction), np.full((60, 5), np.nan, dtype), target, reduction=reduction
    )
    assert np.isfinite(gradient).all()


# ---- zeros and special values


def test_zeros_are_positive(dtype, reduction):
    grad_output = np.array([1.0, 0, -1, 1]) if reduction == "none" else 1.0
    gradient = nll.nll_loss_backward(
        grad_output, np.ones((4, 3), dtype), [0, 0, 1, -100], [0.0, -0.0, 1], reduction=reduction, empty="zero"
    )
    assert_same_bits(gradient, np.zeros((4, 3), dtype))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_grad_output(special, dtype, reduction):
    grad_output = np.array([special, 1, special]) if reduction == "none" else special
    assert_exact(grad_output, np.ones((3, 2), dtype), np.array([0, 1, -100]), reduction=reduction)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_weights(special, dtype, reduction):
    grad_output = np.array([1.0, 0, 2]) if reduction == "none" else 0.5
    assert_exact(grad_output, np.ones((3, 2), dtype), np.array([0, 0, 1]), [special, 1], reduction=reduction)


def test_weight_of_an_ignored_class_has_no_effect(dtype, reduction):
    grad_output = np.array([1.0, 0, 2]) if reduction == "none" else 0.5
    arrays = grad_output, np.ones((3, 2), dtype), np.array([0, 0, 1]), [np.nan, 1]
    assert_exact(*arrays, reduction=reduction, ignore_index=0)


@pytest.mark.parametrize("exponent", [-140, -20, 100])
def test_gradient_beyond_the_range_of_the_dtype(exponent, dtype, reduction):
    grad_output = np.full(2, -(2.0**exponent)) if reduction == "none" else -(2.0**exponent)
    assert_exact(grad_output, np.ones((2, 2), dtype), np.array([0, 1]), [1.0, 1.0 + 2**-20], reduction=reduction)


# ---- nothing to average


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0), (0, 0)], ids=str)
def test_no_samples(shape, empty, dtype, reduction):
    target = np.zeros((shape[0], *shape[2:]), int)
    grad_output = np.zeros(target.shape) if reduction == "none" else 1.0
    assert_exact(grad_output, np.zeros(shape, dtype), target, reduction=reduction, empty=empty)


@pytest.mark.parametrize("empty", ["nan", "zero"])
def test_all_samples_ignored(empty, dtype, reduction):
    grad_output = np.ones(4) if reduction == "none" else 1.0
    assert_exact(grad_output, np.zeros((4, 3), dtype), np.full(4, -100), reduction=reduction, empty=empty)


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize("weight", [[0.0, 0.0], [0.75, -0.75]], ids=str)
def test_weights_that_add_to_zero(weight, empty, dtype, reduction):
    grad_output = np.ones(3) if reduction == "none" else 1.0
    arrays = grad_output, np.ones((3, 2), dtype), np.array([0, 1, -100]), weight
    assert_exact(*arrays, reduction=reduction, empty=empty)


@pytest.mark.parametrize("empty", ["zero", "raise"])
@pytest.mark.parametrize("weight", [None, [1.0, -0.5, 2.0]], ids=["unweighted", "weighted"])
def test_empty_has_no_effect_on_other_gradients(weight, empty, dtype, rng):
    input, target = random_input(rng, (50, 3), dtype), random_target(rng, 50, 3, ignored=-100)
    assert_exact(0.3, input, target, weight, empty=empty)
    loss, gradient = nll.nll_loss_value_and_grad(input, target, weight, empty=empty)
    assert_same_bits(loss, oracle.nll_loss(input, target, weight).loss)
    assert_same_bits(gradient, oracle.nll_loss_backward(1.0, input, target, weight))


def test_empty_raise_leaves_out_alone():
    out = np.full((2, 3), 7.0)
    for call in (
        lambda: nll.nll_loss_backward(1.0, np.ones((2, 3)), [0, 1], [1, -1, 5], empty="raise", out=out),
        lambda: nll.nll_loss_value_and_grad(np.ones((2, 3)), [-100, -100], empty="raise", out=out),
    ):
        with pytest.raises(ValueError, match="empty"):
            call()
    assert (out == 7).all()


# ---- memory of the result


def test_fresh_gradient_has_the_memory_order_of_input(layout, dtype):
    input = layout(np.zeros(SHAPE, dtype))
    gradient = nll.nll_loss_backward(1.0, input, np.zeros(TARGET_SHAPE, int))
    assert type(gradient) is np.ndarray
    assert gradient.strides == np.empty_like(input).strides
    assert nll.nll_loss_value_and_grad(input, np.zeros(TARGET_SHAPE, int))[1].strides == gradient.strides


@pytest.mark.parametrize("memory", OWN_MEMORY, ids=lambda f: f.__name__)
def test_gradient_into_out(memory, dtype, reduction, rng):
    input, target = random_input(rng, SHAPE, dtype), random_target(rng, TARGET_SHAPE, 5, ignored=-100)
    out = memory(np.full(SHAPE, np.nan, dtype))
    grad_output = random_grad_output(rng, TARGET_SHAPE, reduction)
    assert nll.nll_loss_backward(grad_output, input, target, reduction=reduction, out=out) is out
    assert_same_bits(out, oracle.nll_loss_backward(grad_output, input, target, reduction=reduction))


def test_out_beside_other_data_is_written_only_where_it_lies(threads, rng):
    frame = np.full((20_003, 9), 7, np.float32)
    out = frame[1:-2, 2:-2]
    input, target = random_input(rng, out.shape, np.float32), random_target(rng, len(out), 5)
    nll.nll_loss_backward(1.0, input, target, out=out)
    assert_same_bits(out, oracle.nll_loss_backward(1.0, input, target))
    out[...] = 7
    assert (frame == 7).all()


@pytest.mark.parametrize("memory", [c_order, channels_last], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(2**21, 16), (5, 19, 600, 601), (40, 2**20 + 3), (3, 2**18, 41)], ids=str)
def test_gradient_larger_than_the_caches(shape, memory, rng):
    """128 MB and more, which are written in another way on most machines. The same bits, and nothing beside them."""
    input = np.broadcast_to(np.float32(0), shape)
    target = random_target(rng, (shape[0], *shape[2:]), shape[1], np.int32)
    frame = memory(np.full(shape, 7, np.float32))
    out = frame[1:, 1:-1] if shape[1] > 16 else frame
    input, target = input[: len(out), : out.shape[1]], np.minimum(target[: len(out)], out.shape[1] - 1)
    nll.nll_loss_backward(1.0, input, target, out=out)
    expected = np.full(shape, 7, np.float32)
    inner = expected[1:, 1:-1] if shape[1] > 16 else expected
    inner[...] = 0
    np.put_along_axis(inner, target[:, None], np.float32(-1 / target.size), 1)
    assert np.array_equal(frame.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("memory", [c_order, channels_last], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(2**20, 10), (2, 19, 512, 601), (30, 2**19 + 3), (3, 2**16, 61)], ids=str)
def test_large_fresh_gradient_has_the_bits_of_one_into_out(shape, memory, threads, rng):
    """Beyond 32 MiB it is zeros from the system, of which only some entries may have to be written."""
    input = memory(np.zeros(shape, np.float32))
    target = random_target(rng, (shape[0], *shape[2:]), shape[1], np.int32, ignored=-100)
    weight = random_weight(rng, shape[1], np.float32)
    out = np.full_like(input, 7)
    nll.nll_loss_backward(0.37, input, target, weight, out=out)
    for _ in range(2):  # the second time some of the memory may be that of the first
        assert_same_bits(nll.nll_loss_backward(0.37, input, target, weight), out)
        assert_same_bits(nll.nll_loss_value_and_grad(input, target, weight, grad_output=0.37)[1], out)


def test_bad_label_beside_a_large_fresh_gradient(rng):
    input, target = np.zeros((2**20, 10), np.float32), np.zeros(2**20, np.int64)
    target[-3] = 10
    with pytest.raises(IndexError, match=r"target\[1048573\] is 10, outside \[0, 10\)"):
        nll.nll_loss_backward(1.0, input, target)


# ---- value and gradient in one call


@pytest.mark.parametrize("reduced", ["sum", "mean"])
@pytest.mark.parametrize("samples", [60, 20_000])
def test_value_and_grad_is_the_two_calls(samples, reduced, dtype, threads, rng):
    input, target = random_input(rng, (samples, 3), dtype), random_target(rng, samples, 3, np.uint8, ignored=9)
    weight, keywords = random_weight(rng, 3, np.float64), {"reduction": reduced, "ignore_index": 9}
    loss, gradient = nll.nll_loss_value_and_grad(input, target, weight, grad_output=0.3, **keywords)
    assert_same_bits(loss, nll.nll_loss(input, target, weight, **keywords))
    assert_same_bits(gradient, nll.nll_loss_backward(0.3, input, target, weight, **keywords))


def test_value_and_grad_in_every_layout(layout, dtype, rng):
    input = layout(random_input(rng, SHAPE, dtype))
    target = layout(random_target(rng, TARGET_SHAPE, 5, np.uint16, ignored=9))
    weight = random_weight(rng, 5, np.float32)
    loss, total_weight, gradient = nll.nll_loss_value_and_grad(
        input, target, weight, ignore_index=9, return_total_weight=True
    )
    expected = oracle.nll_loss(input, target, weight, ignore_index=9)
    assert_same_bits(loss, expected.loss)
    assert_same_bits(total_weight, expected.total_weight)
    assert_same_bits(gradient, oracle.nll_loss_backward(1.0, input, target, weight, ignore_index=9))


def test_value_and_grad_into_out(dtype, rng):
    input, target = random_input(rng, (60, 5), dtype), random_target(rng, 60, 5)
    out = np.full_like(input, np.nan)
    loss, gradient = nll.nll_loss_value_and_grad(input, target, out=out)
    assert gradient is out
    assert_same_bits(out, oracle.nll_loss_backward(1.0, input, target))
    assert_same_bits(loss, oracle.nll_loss(input, target).loss)


@pytest.mark.parametrize("reduced", ["sum", "mean"])
@pytest.mark.parametrize("empty", ["nan", "zero"])
def test_value_and_grad_of_nothing(reduced, empty, dtype):
    arrays, keywords = (np.zeros((0, 3), dtype), np.zeros(0, int)), {"reduction": reduced, "empty": empty}
    loss, gradient = nll.nll_loss_value_and_grad(*arrays, **keywords)
    assert gradient.shape == (0, 3)
    assert_same_bits(loss, oracle.nll_loss(*arrays, **keywords).loss)
