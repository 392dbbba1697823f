# SPDX-License-Identifier: BSD-3-Clause
"""`nll_loss` against its exact definition, bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import nll
import oracle
from oracle import assert_same_bits
from samples import FLOAT_DTYPES, INTEGER_DTYPES, random_input, random_target, random_weight

SHAPE = (3, 5, 4, 2, 3)  # (N, C, d1, d2, d3)
TARGET_SHAPE = (3, 4, 2, 3)


def assert_exact(*arrays, **keywords):
    """The loss and the total weight are those of the definition."""
    actual = nll.nll_loss(*arrays, return_total_weight=True, **keywords)
    expected = oracle.nll_loss(*arrays, **keywords)
    assert_same_bits(actual[0], expected.loss)
    assert_same_bits(actual[1], expected.total_weight)


# ---- values


def test_every_layout_dtype_and_weight(dtype, weight_dtype, reduction, layout, rng):
    input = layout(random_input(rng, SHAPE, dtype))
    target = layout(random_target(rng, TARGET_SHAPE, 5, np.int32, ignored=-100))
    assert_exact(input, target, random_weight(rng, 5, weight_dtype), reduction=reduction)


def test_every_target_dtype(target_dtype, dtype, reduction, rng):
    input = random_input(rng, (50, 7), dtype)
    assert_exact(input, random_target(rng, 50, 7, target_dtype), reduction=reduction)


@pytest.mark.parametrize("weight_dtype", INTEGER_DTYPES, ids=str)
def test_every_integer_weight_dtype(weight_dtype, dtype, reduction, rng):
    input, target = random_input(rng, (50, 7), dtype), random_target(rng, 50, 7)
    assert_exact(input, target, random_weight(rng, 7, weight_dtype), reduction=reduction)


def test_integer_weights_up_to_the_largest_exact_double(reduction, rng):
    input, target = random_input(rng, (50, 3), np.float32), random_target(rng, 50, 3)
    assert_exact(input, target, np.array([2**53, 2**53 - 1, -(2**53)]), reduction=reduction)


def test_weight_may_be_strided(reduction, rng):
    input, target = random_input(rng, (50, 7), np.float32), random_target(rng, 50, 7)
    assert_exact(input, target, random_weight(rng, 21, np.float64)[::-3], reduction=reduction)


@pytest.mark.parametrize("class_count", [511, 512, 513], ids="C{}".format)
@pytest.mark.parametrize("sample_count", [510, 511, 512, 513, 1500], ids="N{}".format)
def test_as_many_classes_as_a_table_of_weights_has_and_more(class_count, sample_count, weight_dtype, reduction, rng):
    input = random_input(rng, (sample_count, class_count), np.float32)
    target = random_target(rng, sample_count, class_count, ignored=-100)
    assert_exact(input, target, random_weight(rng, class_count, weight_dtype), reduction=reduction)


@pytest.mark.parametrize("span", [0, 19, 20, 21, 40, 63, 64, 200], ids="span{}".format)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_class_weights_far_apart(span, dtype, reduction):
    """A block of 511 large weights and a small one; in the next the large ones cancel, and every bit is seen."""
    eps = np.finfo(dtype).eps
    large, small = np.ldexp(2 - eps, span - 100), np.ldexp(1 + eps, -100)
    target = np.repeat([0, 2], 512)
    target[[3, 700]] = 1, -100
    weight = np.array([large, small, -large], dtype)
    assert_exact(np.tile(np.array([-1.75, -0.3, -1.75], dtype), (1024, 1)), target, weight, reduction=reduction)


def test_every_thread_count(threads, dtype, reduction, rng):
    input, target = random_input(rng, (20_000, 3), dtype), random_target(rng, 20_000, 3, np.uint8, ignored=255)
    assert_exact(input, target, random_weight(rng, 3, np.float64), reduction=reduction, ignore_index=255)


def test_every_thread_count_without_weight(threads, dtype, reduction, rng):
    input, target = random_input(rng, (2, 3, 10_000), dtype), random_target(rng, (2, 10_000), 3, np.int16)
    assert_exact(input, target, reduction=reduction)


@pytest.mark.parametrize("samples", [1, 2, 511, 512, 513, 1024, 1025])
@pytest.mark.parametrize("class_count", [1, 2, 33, 1000])
def test_sizes_around_a_block(samples, class_count, reduction, rng):
    input = random_input(rng, (samples, class_count), np.float32)
    assert_exact(input, random_target(rng, samples, class_count, ignored=-100), reduction=reduction)


@pytest.mark.parametrize("images", [(1, 7), (7, 1), (3, 511), (2, 513), (1100, 3)])
def test_images_around_a_block(images, reduction, rng):
    n, d = images
    input = random_input(rng, (n, 4, d), np.float32)
    assert_exact(input, random_target(rng, (n, d), 4, np.uint8), reduction=reduction)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -3, -4])
def test_axis_names_the_class_axis(axis, reduction, rng):
    shape = (3, 4, 5, 2)
    input = random_input(rng, shape, np.float32)
    target = random_target(rng, np.delete(shape, axis), shape[axis])
    assert_exact(input, target, reduction=reduction, axis=axis)


@pytest.mark.parametrize("axis", [1, 0, -1])
def test_one_dimensional_input_has_one_axis(axis, dtype, reduction, rng):
    assert_exact(random_input(rng, 5, dtype), np.array(3), random_weight(rng, 5, dtype), reduction=reduction, axis=axis)


@pytest.mark.parametrize("index_base", [1, -3, 200])
def test_index_base_is_the_label_of_the_first_class(index_base, reduction, rng):
    input, target = random_input(rng, (50, 7), np.float32), random_target(rng, 50, 7) + index_base
    assert_exact(input, target, reduction=reduction, index_base=index_base)


def test_index_base_at_the_end_of_uint64(reduction, rng):
    base = 2**63 - 7
    input, target = random_input(rng, (50, 7), np.float32), random_target(rng, 50, 7, np.uint64) + np.uint64(base)
    assert_exact(input, target, reduction=reduction, index_base=base)


# ---- ignore_index


@pytest.mark.parametrize("ignore_index", [-100, -1, 2, 0, 255, None, 2**63, 2**64 - 1, -(2**63)], ids=str)
def test_ignore_index_for_every_target_dtype(ignore_index, target_dtype, reduction, rng):
    limits = np.iinfo(target_dtype)
    fits = ignore_index is not None and limits.min <= ignore_index <= limits.max
    target = random_target(rng, 60, 5, target_dtype, ignored=ignore_index if fits else None)
    input, weight = random_input(rng, (60, 5), np.float32), random_weight(rng, 5, np.float32)
    assert_exact(input, target, weight, reduction=reduction, ignore_index=ignore_index)


def test_ignore_index_is_not_wrapped_to_the_dtype_of_target():
    input = -np.arange(200.0)[None]
    assert nll.nll_loss(input, np.array([156], np.uint8)) == 156  # -100 modulo 256
    assert nll.nll_loss(input, np.array([100], np.int8), ignore_index=100 + 256) == 100


@pytest.mark.parametrize(
    ("label", "ignore_index"), [(np.uint64(2**64 - 1), -1), (np.int64(-1), 2**64 - 1), (np.int8(-100), 156)]
)
def test_ignore_index_of_the_same_bits_is_another_number(label, ignore_index):
    with pytest.raises(
        IndexError, match=rf"target\[0\] is {label}, outside \[0, 3\) \(ignore_index is {ignore_index}\)"
    ):
        nll.nll_loss(np.zeros((1, 3)), np.array([label]), ignore_index=ignore_index)


def test_ignore_index_none_ignores_nothing():
    with pytest.raises(IndexError, match=r"target\[0\] is -100"):
        nll.nll_loss(np.zeros((1, 3)), [-100], ignore_index=None)


def test_ignore_index_is_compared_before_index_base_is_taken_off(reduction, rng):
    input, target = random_input(rng, (60, 5), np.float32), random_target(rng, 60, 5) + 1
    assert_exact(input, target, reduction=reduction, ignore_index=3, index_base=1)


@pytest.mark.parametrize("ignored", [np.nan, np.inf, -np.inf])
def test_input_of_an_ignored_sample_has_no_effect(ignored, dtype, reduction, rng):
    input = random_input(rng, (60, 5), dtype)
    target = random_target(rng, 60, 5, ignored=-100)
    input[target == -100] = ignored
    assert_exact(input, target, reduction=reduction)


@pytest.mark.parametrize("unused", [np.nan, np.inf])
def test_weight_of_an_ignored_or_absent_class_has_no_effect(unused, reduction, rng):
    input, target = random_input(rng, (60, 5), np.float32), random_target(rng, 60, 4)
    weight = random_weight(rng, 5, np.float64)
    weight[[2, 4]] = unused
    assert_exact(input, target, weight, reduction=reduction, ignore_index=2)


def test_other_classes_have_no_effect(reduction, rng):
    input, target = np.full((60, 5), np.nan, np.float32), random_target(rng, 60, 5)
    input[np.arange(60), target] = random_input(rng, 60, np.float32)
    assert_exact(input, target, reduction=reduction)


# ---- zeros and special values


def test_zero_losses_are_positive(dtype, reduction):
    loss = nll.nll_loss(np.array([[0, 1], [-0.0, 1], [np.nan, 1]], dtype), [0, 0, -100], reduction=reduction)
    assert_same_bits(loss, np.zeros(np.shape(loss), dtype))


def test_zero_weights_give_positive_zeros(dtype, reduction):
    loss = nll.nll_loss(np.array([[5], [-5]], dtype), [0, 0], [-0.0], reduction=reduction, empty="zero")
    assert_same_bits(loss, np.zeros(np.shape(loss), dtype))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weight", [None, [2.0, 1.0], [0.0, 1.0], [-1.0, 3.0]], ids=str)
def test_special_inputs(special, weight, dtype, reduction):
    input = np.array([[special, 1], [2, 3], [4, 5]], dtype)
    assert_exact(input, np.array([0, 1, 1]), weight, reduction=reduction)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_weights(special, dtype, reduction):
    assert_exact(np.array([[1, 1], [-2, 3], [0, 5]], dtype), np.array([0, 0, 1]), [special, 1], reduction=reduction)


@pytest.mark.parametrize("specials", [{100: np.nan}, {100: np.inf}, {19_900: -np.inf}, {100: np.inf, 19_900: -np.inf}])
@pytest.mark.parametrize("where", ["input", "weight"])
def test_special_values_on_several_threads(where, specials, threads, dtype, rng):
    input, target = random_input(rng, (20_000, 4), dtype), random_target(rng, 20_000, 2)
    weight = np.array([1, 1.5, 1, 1])
    for spare_class, (sample, special) in enumerate(specials.items(), 2):
        target[sample] = spare_class
        if where == "input":
            input[sample] = special
        else:
            weight[spare_class] = special
    for reduced in ("sum", "mean"):
        assert_exact(input, target, weight, reduction=reduced)


def test_opposite_infinities_have_no_sum(dtype):
    input = np.array([[np.inf], [-np.inf], [1]], dtype)
    assert np.isnan(nll.nll_loss(input, [0, 0, 0], reduction="sum"))


# ---- dtype, total weight and the kind of the result


@pytest.mark.parametrize("result_dtype", FLOAT_DTYPES, ids=lambda t: f"to-{t}")
def test_dtype_is_the_one_rounding(result_dtype, dtype, reduction, rng):
    input, target = random_input(rng, (80, 5), dtype), random_target(rng, 80, 5)
    assert_exact(input, target, random_weight(rng, 5, np.float64), reduction=reduction, dtype=result_dtype)


@pytest.mark.parametrize(
    "name", ["float32", "f8", float, np.float16, np.dtype(np.float64), ml_dtypes.bfloat16], ids=str
)
def test_dtype_may_be_named_as_in_numpy(name, rng):
    assert nll.nll_loss(np.zeros((2, 2), np.float32), [0, 1], dtype=name).dtype == np.dtype(name)


def test_float16_sum_in_float32_does_not_overflow():
    input, target = np.full((10, 1), -60_000, np.float16), np.zeros(10, int)
    assert nll.nll_loss(input, target, reduction="sum") == np.inf
    assert nll.nll_loss(input, target, reduction="sum", dtype=np.float32) == 600_000


@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_reduced_loss_is_a_numpy_scalar(reduced, dtype):
    loss = nll.nll_loss(np.zeros((2, 3), dtype), [0, 1], reduction=reduced)
    assert type(loss) is dtype.type


def test_loss_of_one_sample_is_a_numpy_scalar(dtype, reduction):
    assert type(nll.nll_loss(np.zeros(3, dtype), 1, reduction=reduction)) is dtype.type


def test_unreduced_loss_has_the_shape_of_target(dtype):
    loss = nll.nll_loss(np.zeros((2, 3, 4, 5), dtype), np.zeros((2, 4, 5), int), reduction="none")
    assert type(loss) is np.ndarray
    assert loss.dtype == dtype
    assert loss.shape == (2, 4, 5)


def test_total_weight_is_a_double(dtype, reduction):
    arrays = np.zeros((3, 2), dtype), [0, 1, -100]
    _, total_weight = nll.nll_loss(*arrays, reduction=reduction, return_total_weight=True)
    assert type(total_weight) is np.float64
    assert total_weight == 2


# ---- nothing to average


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize(
    "shape",
    [(0, 3), (0, 3, 4), (2, 3, 0), (2, 3, 4, 0), (0, 0), (2, 0, 0)],
    ids=str,
)
def test_no_samples(shape, empty, dtype, reduction):
    target = np.zeros((shape[0], *shape[2:]), int)
    assert_exact(np.zeros(shape, dtype), target, reduction=reduction, empty=empty)


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize("class_count", [3, 0])
def test_all_samples_ignored(class_count, empty, dtype, reduction):
    assert_exact(np.zeros((4, class_count), dtype), np.full(4, -100), reduction=reduction, empty=empty)


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize("value", [0, 2, -2])
@pytest.mark.parametrize("weight", [[0.0, 0.0], [0.75, -0.75]], ids=str)
def test_weights_that_add_to_zero(weight, value, empty, dtype, reduction):
    assert_exact(np.array([[value, 1], [1, 0]], dtype), np.array([0, 1]), weight, reduction=reduction, empty=empty)


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param((np.zeros((0, 3)), np.zeros(0, int)), id="no-samples"),
        pytest.param((np.zeros((2, 3)), np.full(2, -100)), id="all-ignored"),
        pytest.param((np.ones((2, 3)), np.array([0, 1]), [1, -1, 5]), id="weights-that-add-to-zero"),
    ],
)
def test_empty_raise(arrays):
    with pytest.raises(ValueError, match="empty"):
        nll.nll_loss(*arrays, empty="raise")


@pytest.mark.parametrize("empty", ["zero", "raise"])
@pytest.mark.parametrize("weight", [None, [1.0, -0.5, 2.0]], ids=["unweighted", "weighted"])
def test_empty_has_no_effect_on_other_means(weight, empty, dtype, rng):
    input, target = random_input(rng, (50, 3), dtype), random_target(rng, 50, 3, ignored=-100)
    assert_exact(input, target, weight, empty=empty)


def test_empty_raise_is_about_the_mean_only():
    assert nll.nll_loss(np.zeros((2, 3)), [-100, -100], reduction="sum", empty="raise") == 0
    assert nll.nll_loss(np.ones((2, 3)), [0, -100], empty="raise") == -1


# ---- arguments are only read


def test_arguments_are_left_alone(reduction, rng):
    arrays = random_input(rng, (40, 5), np.float32), random_target(rng, 40, 5), random_weight(rng, 5, np.float64)
    before = [array.copy() for array in arrays]
    nll.nll_loss(*arrays, reduction=reduction)
    for array, copy in zip(arrays, before, strict=True):
        assert_same_bits(array, copy) if array.dtype.kind == "f" else np.testing.assert_array_equal(array, copy)
