# SPDX-License-Identifier: BSD-3-Clause
"""A weight for each sample is as exact as those of classes, in any dtype and layout, alone and together with them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import nll
from support.constants import BLOCK_SIZE, MAX_SEQUENTIAL_CLASSES
from support.layouts import byte_swapped, unaligned
from support.losses import CROSS_ENTROPY, NLL_LOSS, SMOOTHED
from support.notes import note
from support.oracle import assert_same_bits
from support.samples import FLOAT_DTYPES, INTEGER_DTYPES, random_target

SHAPES = [(BLOCK_SIZE + 88, 10), (30, MAX_SEQUENTIAL_CLASSES + 1), (3, 6, 40), (5,)]
LOSSES_AND_SMOOTHED = [NLL_LOSS, CROSS_ENTROPY, SMOOTHED]


def target_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] + shape[2:] if len(shape) > 1 else ()


def random_sample_weight(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Weights of which some are 0; signed only where integers are."""
    values = rng.uniform(0, 20, shape) * (rng.uniform(size=shape) < 0.8)
    return np.asarray(values).astype(dtype)


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param


@pytest.fixture(params=LOSSES_AND_SMOOTHED, ids=str)
def any_loss(request: pytest.FixtureRequest) -> Any:
    return request.param


# ---- values


@pytest.mark.parametrize("with_class_weights", [False, True], ids=["alone", "and-of-classes"])
def test_losses_and_gradients(any_loss, shape, reduction, with_class_weights, dtype, rng):
    classes = shape[min(1, len(shape) - 1)]
    input = any_loss.random_input(rng, shape, dtype)
    target = random_target(rng, target_shape(shape), classes, np.int64, ignored=-100)
    weight = rng.uniform(0.5, 2, classes) if with_class_weights else None
    sample_weight = random_sample_weight(rng, target_shape(shape), np.float64)
    grad_output = rng.normal(size=target_shape(shape)) if reduction == "none" else 0.7
    any_loss.assert_right(
        input, target, weight, sample_weight=sample_weight, reduction=reduction, grad_output=grad_output
    )


@pytest.mark.parametrize("weight_dtype", [*FLOAT_DTYPES, *INTEGER_DTYPES], ids=str)
def test_every_dtype(any_loss, weight_dtype, rng):
    input = any_loss.random_input(rng, (40, 6), np.dtype(np.float32))
    target = random_target(rng, 40, 6, np.uint8, ignored=255)
    sample_weight = random_sample_weight(rng, (40,), weight_dtype)
    any_loss.assert_right(input, target, [1, 2, 3, 4, 5, 6], sample_weight=sample_weight, ignore_index=255)


def test_product_with_the_weight_of_the_class_is_rounded_once(reduction):
    """(1 + 2^-52)^2 has a bit more than double has."""
    odd = 1 + 2.0**-52
    input, target = np.array([[-1.0, -3.0], [-1.0, -(1 + 2.0**-30)]]), [0, 1]
    rounded = Fraction(float(np.float64(odd) * np.float64(odd)))
    assert rounded != Fraction(odd) ** 2
    exact = [rounded, rounded * Fraction(1 + 2.0**-30)]
    actual = nll.nll_loss(input, target, [odd, odd], sample_weight=odd, reduction=reduction, return_total_weight=True)
    expected = {"none": exact, "sum": sum(exact), "mean": sum(exact) / (2 * rounded)}[reduction]
    assert_same_bits(actual[0], np.array(expected, np.float64)[()] if reduction == "none" else np.float64(expected))
    assert_same_bits(actual[1], np.float64(2 * rounded))


@pytest.mark.parametrize("exponent", [-1000, -500, -160, 130, 520, 1000])
def test_weights_of_any_magnitude(any_loss, exponent, reduction, dtype, rng):
    if any_loss is SMOOTHED and dtype == np.float64:
        exponent = min(exponent, 900)
    input = any_loss.random_input(rng, (30, 5), dtype)
    target = random_target(rng, 30, 5)
    sample_weight = 2.0**exponent * rng.uniform(1, 2, 30)
    any_loss.assert_right(input, target, sample_weight=sample_weight, reduction=reduction)


def test_as_class_weights_where_all_samples_of_a_class_have_the_same(any_loss, shape, reduction, dtype, rng):
    classes = shape[min(1, len(shape) - 1)]
    input = any_loss.random_input(rng, shape, dtype)
    target = random_target(rng, target_shape(shape), classes)
    weight = rng.uniform(0.5, 2, classes)
    if any_loss is SMOOTHED:
        weight[:] = weight[0]
    by_class = any_loss.value(input, target, weight, reduction=reduction)
    by_sample = any_loss.value(input, target, sample_weight=weight[target], reduction=reduction)
    if any_loss is SMOOTHED:
        np.testing.assert_allclose(by_sample.astype(np.float64), by_class.astype(np.float64), rtol=1e-2)
    else:
        assert_same_bits(by_sample, by_class)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_chunks_and_order_change_no_bit(any_loss, threads, rng):
    input = any_loss.random_input(rng, (20_000, 7), np.dtype(np.float32))
    target = random_target(rng, 20_000, 7, ignored=-100)
    sample_weight = rng.uniform(0, 1, 20_000)
    expected = any_loss.value(input, target, sample_weight=sample_weight, return_total_weight=True)
    order = rng.permutation(20_000)
    with nll.num_threads(threads):
        for rows in (slice(None), order):
            actual = any_loss.value(
                input[rows], target[rows], sample_weight=sample_weight[rows], return_total_weight=True
            )
            assert_same_bits(actual[0], expected[0])
            assert_same_bits(actual[1], expected[1])


def test_a_row_that_threads_share(dtype, rng):
    logits = CROSS_ENTROPY.random_input(rng, (1, 70_000), dtype)
    for threads in (1, 2):
        with nll.num_threads(threads), note(threads):
            CROSS_ENTROPY.assert_right(logits, [69_999], sample_weight=[0.3], reduction="sum")
            SMOOTHED.assert_right(logits, [69_999], sample_weight=[0.3], reduction="sum")


# ---- layouts


def broadcasts() -> dict[str, np.ndarray]:
    """Weights for a target of (3, 4, 5) that are not of its shape, or not contiguous."""
    base = np.arange(1, 61, dtype=np.float32).reshape(3, 4, 5)
    return {
        "one-number": np.float32(2),
        "of-the-last-axis": base[0, 0],
        "of-the-first-axis": base[:, :1, :1],
        "of-the-middle-axis": base[:1, :, :1],
        "fortran": np.asfortranarray(base),
        "backwards": base[::-1, :, ::-1],
        "every-other": np.repeat(base, 2, axis=2)[..., ::2],
        "overlapping": as_strided(base, (3, 4, 5), (4, 4, 4)),
        "read-only": np.broadcast_to(base[:, :, :1], (3, 4, 5)),
        "byte-swapped": byte_swapped(base),
        "unaligned": unaligned(base),
    }


@pytest.mark.parametrize("name", broadcasts())
def test_layouts_and_broadcasting(any_loss, name, reduction, layout, rng):
    input = layout(any_loss.random_input(rng, (3, 6, 4, 5), np.dtype(np.float32)))
    target = random_target(rng, (3, 4, 5), 6, ignored=-100)
    any_loss.assert_right(input, target, sample_weight=broadcasts()[name], reduction=reduction)


def test_broadcast_weights_are_not_copied(peak_growth):
    setup = """
input = np.zeros((4_000_000, 2), np.float32)
target = np.zeros(4_000_000, np.int64)
nll.nll_loss(input, target, sample_weight=np.float32(0.5))
"""
    assert peak_growth(setup, "nll.nll_loss(input, target, sample_weight=np.float32(0.5))") < 1 << 20


# ---- ignored samples, zeros, empty means


def test_weights_of_ignored_samples_are_not_read(any_loss, reduction, dtype, rng):
    input = any_loss.random_input(rng, (40, 5), dtype)
    target = random_target(rng, 40, 5, ignored=-100)
    sample_weight = rng.uniform(1, 2, 40)
    expected = any_loss.value(input, target, sample_weight=sample_weight, reduction=reduction, return_total_weight=True)
    for odd in (np.nan, np.inf, -1e300):
        sample_weight[target == -100] = odd
        actual = any_loss.value(
            input, target, sample_weight=sample_weight, reduction=reduction, return_total_weight=True
        )
        assert_same_bits(actual[0], expected[0])
        assert_same_bits(actual[1], expected[1])
    too_large = np.where(target == -100, 2**60, 3)
    any_loss.value(input, target, sample_weight=too_large, reduction=reduction)


@pytest.mark.parametrize("odd", [np.inf, 1e300])
def test_weights_of_ignored_samples_change_no_precision(odd, rng):
    """States hold the losses in double: other exponentials would show there."""
    logits = CROSS_ENTROPY.random_input(rng, (60, 5), np.dtype(np.float32))
    target, states = random_target(rng, 60, 5, ignored=-100), []
    assert (target == -100).any()
    for of_ignored in (1.0, odd):
        total = nll.LossAccumulator("cross_entropy")
        total.update(logits, target, np.where(target == -100, of_ignored, 0.75))
        states.append(total.to_bytes())
    assert states[0] == states[1]


@pytest.mark.parametrize("classes", [10, MAX_SEQUENTIAL_CLASSES + 1])
@pytest.mark.parametrize("large", [2.0**21, 2.0**200, 2.0**600], ids=["2^21", "2^200", "2^600"])
def test_a_large_weight_changes_no_other_sample(large, classes, any_loss, dtype, rng):
    """Exponents of a few samples need a wider precision: it is theirs alone, whatever batch they are in."""
    count = BLOCK_SIZE + 40
    input, target = any_loss.random_input(rng, (count, classes), dtype), random_target(rng, count, classes)
    own = rng.uniform(0.5, 2, count)
    own[rng.choice(count, 7, replace=False)] = large
    weight = rng.uniform(0.5, 2, classes)
    grad_output = rng.normal(size=count)

    def results(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        chosen = {"sample_weight": own[rows], "reduction": "none"}
        losses = any_loss.value(input[rows], target[rows], weight, **chosen)
        return losses, any_loss.backward(grad_output[rows], input[rows], target[rows], weight, **chosen)

    together = results(slice(None))
    alone = [results(slice(i, i + 1)) for i in range(count)]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert_same_bits(whole, np.concatenate(parts))


@pytest.mark.parametrize("large", [2.0**21, 2.0**200, 2.0**600], ids=["2^21", "2^200", "2^600"])
@pytest.mark.parametrize("label_smoothing", [0, 0.1])
def test_a_large_weight_changes_no_state_of_other_batches(large, label_smoothing, dtype, rng):
    """Sums have the same bytes, whatever the batches: also where their samples' weights differ by much."""
    input, target = rng.normal(scale=8, size=(200, 10)).astype(dtype), random_target(rng, 200, 10)
    own = np.ones(200)
    own[150] = large
    states = []
    for cut in (200, 100, 151, 37):
        accumulator = nll.LossAccumulator("cross_entropy", label_smoothing=label_smoothing)
        for first in range(0, 200, cut):
            rows = slice(first, first + cut)
            accumulator.update(input[rows], target[rows], sample_weight=own[rows])
        states.append(accumulator.to_bytes())
    assert len(set(states)) == 1


def test_weight_of_0_is_not_ignored(any_loss):
    """It counts, and 0 times infinity is NaN."""
    input = np.array([[-np.inf, 0.0], [-1.0, -2.0]])
    loss, total_weight = any_loss.value(
        input, [0, 0], sample_weight=[0.0, 1.0], reduction="none", return_total_weight=True
    )
    assert np.isnan(loss[0])
    assert loss[1] > 0
    assert total_weight == 1


@pytest.mark.parametrize("empty", ["nan", "zero", "raise"])
def test_total_weight_of_0(loss, empty):
    input, target = np.array([[-1.0, -2.0], [-3.0, -1.0]]), np.array([0, 1])
    arguments = {"sample_weight": [0.0, 0.0], "empty": empty}
    if empty == "raise":
        with pytest.raises(ValueError, match="total weight"):
            loss.value(input, target, **arguments)
        return
    value, gradient = loss.value_and_grad(input, target, **arguments)
    assert np.isnan(value) if empty == "nan" else value == 0
    assert np.isnan(gradient[0, 0]) if empty == "nan" else not gradient.any()


def test_without_samples(any_loss, reduction):
    loss = any_loss.value(np.zeros((0, 3)), np.zeros(0, int), sample_weight=np.ones(0), reduction=reduction)
    assert np.shape(loss) == ((0,) if reduction == "none" else ())


# ---- bad weights

ARRAYS: dict[str, Any] = {
    "input": -np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "target": np.array([[0, 1, 2, 0], [1, 1, 0, 2]]),
}
BAD = {
    "too-long": (ValueError, r"sample_weight has shape \(5,\).*target's shape \(2, 4\)", np.ones(5)),
    "transposed": (ValueError, r"sample_weight has shape \(4, 2\)", np.ones((4, 2))),
    "of-input's-shape": (ValueError, r"sample_weight has shape \(2, 3, 4\)", np.ones((2, 3, 4))),
    "too-many-axes": (ValueError, r"sample_weight has shape \(1, 2, 4\)", np.ones((1, 2, 4))),
    "bool": (TypeError, r"sample_weight has dtype bool.*astype", np.ones((2, 4), bool)),
    "complex": (TypeError, r"sample_weight has dtype complex128", np.ones((2, 4), complex)),
    "object": (TypeError, r"sample_weight has dtype object", np.ones((2, 4), object)),
    "text": (TypeError, r"sample_weight", "balanced"),
    "masked": (TypeError, r"sample_weight.*mask", np.ma.masked_array(np.ones((2, 4)))),
    "beyond-doubles": (
        ValueError,
        r"sample_weight\[1, 2\] is 9007199254740993, beyond 2\^53",
        np.array([[1] * 4, [1, 1, 2**53 + 1, 2**60]]),
    ),
    "below-doubles": (ValueError, r"sample_weight\[0, 3\] is -9007199254740993", [[1, 1, 1, -(2**53) - 1], [1] * 4]),
    "beyond-int64": (
        ValueError,
        r"sample_weight\[0, 0\] is 18446744073709551615",
        np.full((2, 4), 2**64 - 1, np.uint64),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_weights(loss, name):
    error, message, sample_weight = BAD[name]
    out = np.full((2, 3, 4), 7, np.float32)
    calls = {
        "value": lambda: loss.value(**ARRAYS, sample_weight=sample_weight),
        "none": lambda: loss.value(**ARRAYS, sample_weight=sample_weight, reduction="none"),
        "backward": lambda: loss.backward(1.0, **ARRAYS, sample_weight=sample_weight, out=out),
        "value_and_grad": lambda: loss.value_and_grad(**ARRAYS, sample_weight=sample_weight, out=out),
        "object": lambda: loss.bound().value_and_grad(*ARRAYS.values(), sample_weight, out=out),
    }
    for way, call in calls.items():
        with note(way), pytest.raises(error, match=message) as caught:
            call()
        assert caught.type is error
    assert (out == 7).all()


def test_weight_beyond_doubles_in_memory_order_is_named_in_c_order():
    """The first in C order, whatever the order of memory and the threads."""
    target = np.zeros((300, 200), np.int64)
    sample_weight = np.ones((300, 200), np.int64, order="F")
    sample_weight[250, 3] = sample_weight[17, 150] = sample_weight[17, 199] = 2**54
    input = np.asfortranarray(np.zeros((300, 2, 200), np.float32))
    with pytest.raises(ValueError, match=r"sample_weight\[17, 150\]"):
        nll.nll_loss(input, target, sample_weight=sample_weight)


def test_out_over_the_memory_of_weights(loss):
    sample_weight = np.ones((2, 12), np.float32)
    out = sample_weight.reshape(2, 3, 4)
    with pytest.raises(ValueError, match="out shares memory with sample_weight"):
        loss.value_and_grad(**ARRAYS, sample_weight=sample_weight[:, :4], out=out)


# ---- objects, and what they are for


def test_objects_take_them_with_the_call(loss, rng):
    input = loss.random_input(rng, (9, 4), np.dtype(np.float32))
    target, sample_weight = random_target(rng, 9, 4), rng.uniform(size=9)
    bound = loss.bound(reduction="sum")
    assert_same_bits(
        bound(input, target, sample_weight), loss.value(input, target, sample_weight=sample_weight, reduction="sum")
    )
    assert_same_bits(
        bound.backward(2.0, input, target, sample_weight),
        loss.backward(2.0, input, target, sample_weight=sample_weight, reduction="sum"),
    )


def test_micro_batches_with_one_divisor_have_the_bits_of_one_batch(rng):
    """Gradient accumulation: sums and total weights add up; the mean of means is another number."""
    logits = rng.normal(size=(96, 10)).astype(np.float32)
    target, mask = rng.integers(0, 10, 96), rng.integers(0, 2, 96)
    mean, total_weight, gradient = nll.cross_entropy_value_and_grad(
        logits, target, sample_weight=mask, return_total_weight=True
    )
    parts = [slice(0, 7), slice(7, 50), slice(50, 96)]
    gradients = [
        nll.cross_entropy_backward(
            1.0 / total_weight, logits[part], target[part], sample_weight=mask[part], reduction="sum"
        )
        for part in parts
    ]
    np.testing.assert_allclose(np.concatenate(gradients), gradient, rtol=1e-6)
    losses = [
        nll.cross_entropy(logits[part], target[part], sample_weight=mask[part], reduction="sum", dtype=np.float64)
        for part in parts
    ]
    assert sum(losses) / total_weight == pytest.approx(float(mean), rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_accumulators_of_batches_and_of_groups(label_smoothing, dtype, rng):
    """The bits of one call, and in each group those of a call with its samples alone."""
    logits = CROSS_ENTROPY.random_input(rng, (900, 7), dtype)
    target = random_target(rng, 900, 7, ignored=-100)
    weight, sample_weight, group = rng.uniform(1, 2, 7), rng.uniform(0, 3, 900), rng.integers(0, 4, 900)
    total = nll.LossAccumulator("cross_entropy", weight, label_smoothing=label_smoothing)
    groups = nll.LossAccumulator("cross_entropy", weight, label_smoothing=label_smoothing, groups=4)
    for part in (slice(0, 1), slice(1, 600), slice(600, 900)):
        total.update(logits[part], target[part], sample_weight[part])
        groups.update(logits[part], target[part], sample_weight[part], group=group[part])

    def expected(rows: Any) -> tuple[Any, Any]:
        return nll.cross_entropy(
            logits[rows],
            target[rows],
            weight,
            sample_weight=sample_weight[rows],
            label_smoothing=label_smoothing,
            return_total_weight=True,
        )

    loss, total_weight = expected(slice(None))
    assert_same_bits(total.compute(), loss)
    assert_same_bits(total.total_weight, total_weight)
    for g in range(4):
        loss, total_weight = expected(group == g)
        assert_same_bits(groups.compute()[g], loss)
        assert_same_bits(groups.total_weight[g], total_weight)


def test_a_bad_weight_leaves_an_accumulator_as_it_was():
    total = nll.LossAccumulator()
    total.update([[-1.0, -2.0]], [1], 0.5)
    before = total.to_bytes()
    for sample_weight, error in (([1, 2], ValueError), ([True], TypeError), ([2**60], ValueError)):
        with pytest.raises(error, match="sample_weight"):
            total.update([[-1.0, -2.0]], [1], sample_weight)
    assert total.to_bytes() == before
