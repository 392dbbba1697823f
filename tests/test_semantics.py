# SPDX-License-Identifier: BSD-3-Clause
"""What every loss does with its arguments: each test runs for `nll_loss` and for `cross_entropy`, smoothed and not.

`loss.assert_right` compares the value, the total weight and the gradient with the definition: bit for bit for
`nll_loss`, within the bounds of ULP for `cross_entropy`. It also requires that `value_and_grad` returns the same bits.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from support import oracle
from support.constants import BLOCK_SIZE, LANES, MAX_SEQUENTIAL_CLASSES, MIN_PARALLEL_SAMPLES, around
from support.layouts import LAYOUTS, OWN_MEMORY
from support.losses import CROSS_ENTROPY, NLL_LOSS
from support.oracle import assert_same_bits
from support.pairs import pairwise
from support.samples import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    REDUCTIONS,
    WEIGHT_DTYPES,
    random_grad_output,
    random_target,
)

SHAPE = (3, 5, 4, 2, 3)  # (N, C, d1, d2, d3)
TARGET_SHAPE = (3, 4, 2, 3)
AXES = [0, 1, 2, 3, -1, -2, -3, -4]
EMPTY = ["nan", "zero"]
THREADS = [1, 2, 3]

not_smoothed = pytest.mark.parametrize("loss", [NLL_LOSS, CROSS_ENTROPY], ids=str)


# ---- dtypes and layouts


@pairwise(
    dtype=FLOAT_DTYPES,
    weight_dtype=WEIGHT_DTYPES,
    target_dtype=INTEGER_DTYPES,
    grad_dtype=FLOAT_DTYPES,
    reduction=REDUCTIONS,
    layout=LAYOUTS,
)
def test_every_dtype_and_layout(loss, dtype, weight_dtype, target_dtype, grad_dtype, reduction, layout, rng):
    input = layout(loss.random_input(rng, SHAPE, dtype))
    target = layout(random_target(rng, TARGET_SHAPE, 5, target_dtype, ignored=100))
    grad_output = random_grad_output(rng, TARGET_SHAPE, reduction, grad_dtype)
    if reduction == "none":
        grad_output = layout(grad_output)
    weight = loss.random_weight(rng, 5, weight_dtype)
    loss.assert_right(input, target, weight, grad_output=grad_output, ignore_index=100, reduction=reduction)


@pairwise(dtype=FLOAT_DTYPES, result_dtype=FLOAT_DTYPES, weight_dtype=[None, *FLOAT_DTYPES], reduction=REDUCTIONS)
def test_dtype_is_that_of_the_loss(loss, dtype, result_dtype, weight_dtype, reduction, rng):
    input, target = loss.random_input(rng, (200, 5), dtype), random_target(rng, 200, 5)
    loss.assert_right(input, target, loss.random_weight(rng, 5, weight_dtype), dtype=result_dtype, reduction=reduction)


@pytest.mark.parametrize(
    "name", ["float32", "f8", float, np.float16, np.dtype(np.float64), ml_dtypes.bfloat16], ids=str
)
def test_dtype_may_be_named_as_in_numpy(loss, name):
    assert loss.value(np.zeros((2, 2), np.float32), [0, 1], dtype=name).dtype == np.dtype(name)


@pytest.mark.parametrize("number", [2, 0.1, np.float32(0.1), np.float16(0.1), np.int8(-3), np.array(0.1)], ids=repr)
def test_grad_output_may_be_any_real_number(loss, number, rng):
    input, target = loss.random_input(rng, (20, 5), np.float32), random_target(rng, 20, 5)
    loss.assert_right(input, target, grad_output=number)


# ---- axis, index_base, ignore_index


@pytest.mark.parametrize("axis", AXES)
def test_axis_names_the_class_axis(loss, axis, reduction, rng):
    shape = (3, 4, 5, 2)
    input = loss.random_input(rng, shape, np.float32)
    target = random_target(rng, np.delete(shape, axis), shape[axis])
    grad_output = random_grad_output(rng, target.shape, reduction)
    loss.assert_right(input, target, grad_output=grad_output, axis=axis, reduction=reduction)


@pairwise(axis=[1, 0, -1], dtype=FLOAT_DTYPES, reduction=REDUCTIONS)
def test_one_dimensional_input_has_one_axis(loss, axis, dtype, reduction, rng):
    input, weight = loss.random_input(rng, 5, dtype), loss.random_weight(rng, 5, dtype)
    grad_output = random_grad_output(rng, (), reduction)
    loss.assert_right(input, np.array(3), weight, grad_output=grad_output, axis=axis, reduction=reduction)


@pytest.mark.parametrize("index_base", [1, -3, 200])
def test_index_base_is_the_label_of_the_first_class(loss, index_base, reduction, rng):
    input, target = loss.random_input(rng, (50, 7), np.float32), random_target(rng, 50, 7) + index_base
    loss.assert_right(input, target, index_base=index_base, reduction=reduction)


def test_index_base_at_the_end_of_its_range(loss, reduction, rng):
    base = 2**63 - 7
    input, target = loss.random_input(rng, (50, 7), np.float32), random_target(rng, 50, 7, np.uint64) + np.uint64(base)
    loss.assert_right(input, target, index_base=base, reduction=reduction)


@pairwise(
    ignore_index=[-100, -1, 2, 0, 255, None, 2**63, 2**64 - 1, -(2**63)],
    target_dtype=INTEGER_DTYPES,
    reduction=REDUCTIONS,
)
def test_ignore_index_for_every_target_dtype(loss, ignore_index, target_dtype, reduction, rng):
    limits = np.iinfo(target_dtype)
    fits = ignore_index is not None and limits.min <= ignore_index <= limits.max
    target = random_target(rng, 60, 5, target_dtype, ignored=ignore_index if fits else None)
    input, weight = loss.random_input(rng, (60, 5), np.float32), loss.random_weight(rng, 5, np.float32)
    loss.assert_right(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def test_ignore_index_is_not_wrapped_to_the_dtype_of_target(loss, rng):
    input = loss.random_input(rng, (1, 200), np.float64)
    loss.assert_right(input, np.array([156], np.uint8))  # -100 modulo 256
    loss.assert_right(input, np.array([100], np.int8), ignore_index=100 + 256)


@pytest.mark.parametrize(
    ("label", "ignore_index"),
    [(np.uint64(2**64 - 1), -1), (np.int64(-1), 2**64 - 1), (np.int8(-100), 156), (np.int64(-100), None)],
    ids=str,
)
def test_ignore_index_of_the_same_bits_is_another_number(loss, label, ignore_index):
    message = rf"target\[0\] is {label}, outside \[0, 3\) \(ignore_index is {ignore_index}\)"
    with pytest.raises(IndexError, match=message):
        loss.value(np.zeros((1, 3)), np.array([label]), ignore_index=ignore_index)


@pytest.mark.parametrize("ignore_index", [0, 3, 5, 6])
def test_ignore_index_is_compared_before_index_base_is_taken_off(loss, ignore_index, reduction, rng):
    input, target = loss.random_input(rng, (60, 5), np.float32), random_target(rng, 60, 5) + 1
    loss.assert_right(input, target, ignore_index=ignore_index, index_base=1, reduction=reduction)


@pairwise(special=[np.nan, np.inf, -np.inf], dtype=FLOAT_DTYPES, reduction=REDUCTIONS)
def test_input_of_an_ignored_sample_has_no_effect(loss, special, dtype, reduction, rng):
    input, target = loss.random_input(rng, (60, 5), dtype), random_target(rng, 60, 5, ignored=-100)
    input[target == -100] = special
    loss.assert_right(input, target, reduction=reduction)


@pairwise(special=[np.nan, np.inf], dtype=FLOAT_DTYPES, reduction=REDUCTIONS)
@not_smoothed
def test_weight_of_an_ignored_class_has_no_effect(loss, special, dtype, reduction, rng):
    """With smoothing it has, as the weight of a class that other samples are smoothed to."""
    input, target = loss.random_input(rng, (60, 5), dtype), random_target(rng, 60, 5)
    weight, choices = np.array([0.5, 1, 2, 1, 3]), {"ignore_index": 1, "reduction": reduction}
    unused = np.where([0, 1, 0, 0, 0], special, weight)
    grad_output = random_grad_output(rng, 60, reduction)
    loss.assert_right(input, target, weight, grad_output=grad_output, **choices)
    assert_same_bits(loss.value(input, target, unused, **choices), loss.value(input, target, weight, **choices))
    assert_same_bits(
        loss.backward(grad_output, input, target, unused, **choices),
        loss.backward(grad_output, input, target, weight, **choices),
    )


@pairwise(class_count=[3, MAX_SEQUENTIAL_CLASSES + 1, 3000], dtype=FLOAT_DTYPES, reduction=REDUCTIONS)
def test_ignored_samples_get_positive_zeros(loss, class_count, dtype, reduction):
    input, target = np.full((4, class_count), np.nan, dtype), np.full(4, -100)
    input[1] = -np.inf
    grad_output = np.full(4, -np.nan) if reduction == "none" else -1.0
    choices = {"reduction": reduction, "empty": "zero"}
    value = loss.value(input, target, **choices)
    assert_same_bits(value, np.zeros(np.shape(value), dtype))
    assert_same_bits(loss.backward(grad_output, input, target, **choices), np.zeros(input.shape, dtype))


# ---- sizes and threads


@pairwise(
    sample_count=sorted({1, 2, *around(LANES), *around(BLOCK_SIZE), 2 * BLOCK_SIZE, 2 * BLOCK_SIZE + 1}),
    class_count=[1, 2, 2 * LANES + 1, MAX_SEQUENTIAL_CLASSES, MAX_SEQUENTIAL_CLASSES + 1],
    dtype=FLOAT_DTYPES,
    reduction=REDUCTIONS,
)
def test_sizes_around_a_block(loss, sample_count, class_count, dtype, reduction, rng):
    input = loss.random_input(rng, (sample_count, class_count), dtype)
    target = random_target(rng, sample_count, class_count, ignored=-100)
    target[0] = 0  # one is kept
    loss.assert_right(input, target, reduction=reduction)


@pytest.mark.parametrize("images", [(1, 7), (7, 1), (3, BLOCK_SIZE - 1), (2, BLOCK_SIZE + 1), (1100, 3)], ids=str)
def test_images_around_a_block(loss, images, reduction, rng):
    n, d = images
    input = loss.random_input(rng, (n, 4, d), np.float32)
    loss.assert_right(input, random_target(rng, (n, d), 4, np.uint8), reduction=reduction)


@pairwise(
    indirect=["threads"],
    shape=[(2 * MIN_PARALLEL_SAMPLES + 7, 3), (2, 3, MIN_PARALLEL_SAMPLES + 1), (7, 30_000)],
    threads=THREADS,
    weighted=[False, True],
    dtype=FLOAT_DTYPES,
    reduction=REDUCTIONS,
)
def test_every_thread_count(loss, shape, threads, weighted, dtype, reduction, rng):
    target_shape = (shape[0], *shape[2:])
    input, target = loss.random_input(rng, shape, dtype), random_target(rng, target_shape, shape[1], ignored=-100)
    weight = loss.random_weight(rng, shape[1], np.float64) if weighted else None
    grad_output = random_grad_output(rng, target_shape, reduction)
    target.flat[0] = 1
    loss.assert_right(input, target, weight, grad_output=grad_output, reduction=reduction)


@pairwise(
    indirect=["rounding_mode", "threads"],
    rounding_mode=["nearest", "down", "up", "to-zero"],
    threads=THREADS,
    dtype=FLOAT_DTYPES,
)
def test_rounding_mode_of_the_caller_has_no_effect_and_stays(loss, rounding_mode, threads, dtype, rng):
    cases = [
        (loss.random_input(rng, (n, c), dtype), random_target(rng, n, c), rng.uniform(0.1, 1, c))
        for n, c in ((MIN_PARALLEL_SAMPLES + 1, 2), (30, 3000))
    ]

    def results():
        for arrays in cases:
            for reduction in REDUCTIONS:
                yield loss.value(*arrays, reduction=reduction)
            yield from loss.value_and_grad(*arrays, grad_output=0.3)
            yield loss.backward(0.3, *arrays)

    expected = list(results())
    with rounding_mode:
        actual = list(results())
    assert rounding_mode.stayed
    for one, other in zip(actual, expected, strict=True):
        assert_same_bits(one, other)


# ---- kinds of results


def test_reduced_loss_is_a_numpy_scalar(loss, dtype):
    for reduced in ("sum", "mean"):
        assert type(loss.value(np.zeros((2, 3), dtype), [0, 1], reduction=reduced)) is dtype.type


def test_loss_of_one_sample_is_a_numpy_scalar(loss, dtype, reduction):
    assert type(loss.value(np.zeros(3, dtype), 1, reduction=reduction)) is dtype.type


def test_unreduced_loss_has_the_shape_of_target(loss, dtype):
    losses = loss.value(np.zeros((2, 3, 4, 5), dtype), np.zeros((2, 4, 5), int), reduction="none")
    assert type(losses) is np.ndarray
    assert losses.dtype == dtype
    assert losses.shape == (2, 4, 5)


def test_total_weight_is_a_double(loss, dtype, reduction):
    arrays = np.zeros((3, 2), dtype), [0, 1, -100]
    _, total_weight = loss.value(*arrays, reduction=reduction, return_total_weight=True)
    assert type(total_weight) is np.float64
    assert total_weight == 2


def test_fresh_gradient_has_the_memory_order_of_input(loss, layout):
    input, target = layout(np.zeros(SHAPE, np.float32)), np.zeros(TARGET_SHAPE, int)
    for gradient in (loss.backward(1.0, input, target), loss.value_and_grad(input, target)[-1]):
        assert type(gradient) is np.ndarray
        assert gradient.strides == np.empty_like(input).strides


@pairwise(own_memory=OWN_MEMORY, dtype=FLOAT_DTYPES, reduction=REDUCTIONS)
def test_gradient_into_out(loss, own_memory, dtype, reduction, rng):
    input, target = loss.random_input(rng, SHAPE, dtype), random_target(rng, TARGET_SHAPE, 5, ignored=-100)
    grad_output = random_grad_output(rng, TARGET_SHAPE, reduction)
    expected = loss.backward(grad_output, input, target, reduction=reduction)
    out = own_memory(np.full(SHAPE, np.nan, dtype))
    assert loss.backward(grad_output, input, target, reduction=reduction, out=out) is out
    assert_same_bits(out, expected)
    if reduction != "none":
        out[...] = np.nan
        value, gradient = loss.value_and_grad(input, target, grad_output=grad_output, reduction=reduction, out=out)
        assert gradient is out
        assert_same_bits(out, expected)
        assert_same_bits(value, loss.value(input, target, reduction=reduction))


def test_out_beside_other_data_is_written_only_where_it_lies(loss, threads, rng):
    frame = np.full((20_003, 9), 7, np.float32)
    out = frame[1:-2, 2:-2]
    input, target = loss.random_input(rng, out.shape, np.float32), random_target(rng, len(out), 5)
    loss.backward(1.0, input, target, out=out)
    assert_same_bits(out, loss.backward(1.0, input, target))
    out[...] = 7
    assert (frame == 7).all()


def test_arguments_are_only_read(loss, dtype, reduction, rng):
    arrays = loss.random_input(rng, (40, 5), dtype), random_target(rng, 40, 5), loss.random_weight(rng, 5, np.float64)
    grad_output = random_grad_output(rng, 40, reduction)
    before = [np.asarray(array).tobytes() for array in (*arrays, grad_output)]
    loss.value(*arrays, reduction=reduction)
    loss.backward(grad_output, *arrays, reduction=reduction)
    if reduction != "none":
        loss.value_and_grad(*arrays, grad_output=grad_output, reduction=reduction)
    assert [np.asarray(array).tobytes() for array in (*arrays, grad_output)] == before


# ---- nothing to average


@pairwise(
    shape=[(0, 3), (0, 3, 4), (2, 3, 0), (2, 3, 4, 0), (0, 0), (2, 0, 0)],
    empty=EMPTY,
    dtype=FLOAT_DTYPES,
    reduction=REDUCTIONS,
)
def test_no_samples(loss, shape, empty, dtype, reduction):
    target = np.zeros((shape[0], *shape[2:]), int)
    loss.assert_right(np.zeros(shape, dtype), target, empty=empty, reduction=reduction)


@pairwise(class_count=[3, 0], empty=EMPTY, dtype=FLOAT_DTYPES, reduction=REDUCTIONS)
def test_all_samples_ignored(loss, class_count, empty, dtype, reduction):
    input, target = np.zeros((4, class_count), dtype), np.full(4, -100)
    loss.assert_right(input, target, empty=empty, reduction=reduction)


WEIGHTS_THAT_ADD_TO_0 = [[0.0, 0.0], [0.75, -0.75]]


@pytest.mark.parametrize("weight", WEIGHTS_THAT_ADD_TO_0, ids=str)
@pytest.mark.parametrize("row", [[0, 0], [2, -1]], ids=str)
@not_smoothed
def test_mean_by_a_total_weight_of_0_is_the_ieee_quotient(loss, row, weight, dtype):
    arrays = np.array([row, row], dtype), [0, 1], weight
    expected = oracle.ieee_quotient(float(loss.value(*arrays, reduction="sum")), 0.0)
    np.testing.assert_equal(float(loss.value(*arrays)), expected)
    value, gradient = loss.value_and_grad(*arrays)
    np.testing.assert_equal(float(value), expected)
    assert not np.isfinite(gradient[[0, 1], [0, 1]].astype(float)).any()
    assert not np.isfinite(loss.backward(1.0, *arrays)[[0, 1], [0, 1]].astype(float)).any()


@pytest.mark.parametrize("weight", WEIGHTS_THAT_ADD_TO_0, ids=str)
@pytest.mark.parametrize("row", [[0, 0], [2, -1]], ids=str)
def test_mean_by_a_total_weight_of_0_may_be_0(loss, row, weight, dtype):
    arrays = np.array([row, row], dtype), [0, 1], weight
    assert_same_bits(loss.value(*arrays, empty="zero"), dtype.type(0))
    assert_same_bits(loss.backward(1.0, *arrays, empty="zero"), np.zeros((2, 2), dtype))
    value, gradient = loss.value_and_grad(*arrays, empty="zero")
    assert_same_bits(value, dtype.type(0))
    assert_same_bits(gradient, np.zeros((2, 2), dtype))


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param((np.zeros((0, 3)), np.zeros(0, int)), id="no-samples"),
        pytest.param((np.zeros((2, 3)), np.full(2, -100)), id="all-ignored"),
        pytest.param((np.ones((2, 3)), np.array([0, 1]), [1, -1, 5]), id="weights-that-add-to-zero"),
    ],
)
def test_mean_by_a_total_weight_of_0_may_be_an_error(loss, arrays):
    out = np.full(arrays[0].shape, 7.0)
    for call in (
        lambda: loss.value(*arrays, empty="raise"),
        lambda: loss.backward(1.0, *arrays, empty="raise", out=out),
        lambda: loss.value_and_grad(*arrays, empty="raise", out=out),
    ):
        with pytest.raises(ValueError, match="empty"):
            call()
    assert (out == 7).all()


@pairwise(empty=["zero", "raise"], weight=[None, [1.0, -0.5, 2.0]], dtype=FLOAT_DTYPES)
def test_empty_has_no_effect_on_other_means(loss, empty, weight, dtype, rng):
    arrays = loss.random_input(rng, (50, 3), dtype), random_target(rng, 50, 3, ignored=-100), weight
    value, gradient = loss.value_and_grad(*arrays, empty=empty)
    assert_same_bits(value, loss.value(*arrays))
    assert_same_bits(loss.value(*arrays, empty=empty), value)
    assert_same_bits(gradient, loss.backward(1.0, *arrays))
    assert_same_bits(loss.backward(1.0, *arrays, empty=empty), gradient)


def test_empty_raise_is_about_the_mean_only(loss):
    nothing = np.zeros((2, 2)), [-100, -100]
    assert loss.value(*nothing, reduction="sum", empty="raise") == 0
    assert (loss.value(*nothing, reduction="none", empty="raise") == 0).all()
    assert (loss.backward(1.0, *nothing, reduction="sum", empty="raise") == 0).all()
    assert_same_bits(loss.value(np.ones((2, 2)), [0, -100], empty="raise"), loss.value(np.ones((1, 2)), [0]))


def test_float16_sum_in_float32_does_not_overflow(loss):
    input, target = np.tile(np.float16([-60_000, 0]), (10, 1)), np.zeros(10, int)
    assert loss.value(input, target, reduction="sum") == np.inf
    expected = loss.value(input.astype(np.float32), target, reduction="sum")
    assert np.isfinite(expected)
    assert loss.value(input, target, reduction="sum", dtype=np.float32) == expected
