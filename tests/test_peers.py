# SPDX-License-Identifier: BSD-3-Clause
"""What other packages document as their examples, and the cases that they get wrong, each with its true value."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import nll
from support.oracle import assert_same_bits
from support.pairs import pairwise
from support.samples import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    REDUCTIONS,
    random_grad_output,
    random_input,
    random_target,
)

# ---- their examples


class TestOnnxExamples:
    """Of the operator NegativeLogLikelihoodLoss, version 22, in the ONNX standard."""

    input = np.array([[[1, 2], [2, 2], [3, 2]], [[0, 1], [2, 2], [1, 2]]], np.float32)  # (N, C, d1)
    target = np.array([[2, 1], [0, 2]])
    weight = np.array([0.2, 0.3, 0.1], np.float32)

    def test_none(self):
        loss = nll.nll_loss(self.input, self.target, reduction="none")
        assert_same_bits(loss, np.array([[-3, -2], [0, -2]], np.float32))  # the standard prints -0.

    def test_weighted_sum(self):
        assert nll.nll_loss(self.input, self.target, self.weight, reduction="sum") == np.float32(-1.1)

    def test_weighted_mean(self):
        loss = nll.nll_loss(self.input, self.target, self.weight)
        assert f"{loss:.2f}" == "-1.57"
        assert loss == pytest.approx(-1.1 / 0.7, rel=1e-7)


class TestMindSporeExample:
    """Of the operator NLLLoss, which returns the loss and the total weight."""

    input = np.array([[0.5488135, 0.71518934], [0.60276335, 0.5448832], [0.4236548, 0.6458941]], np.float32)
    weight = np.array([0.3834415, 0.79172504], np.float32)

    def test_loss_and_total_weight(self):
        loss, total_weight = nll.nll_loss(self.input, [0, 0, 0], self.weight, return_total_weight=True)
        assert loss == pytest.approx(-0.52507716, abs=6e-8)
        assert loss == np.float32(-0.52507722)  # the true value rounds to the next float32
        assert str(np.float32(total_weight)) == "1.1503246"


class TestBrainpyExample:
    """Its docstring's call, log-probabilities of (3, 5) and targets 1, 0, 4; and its sign, which it once had wrong."""

    def test_log_probabilities_of_five_classes(self, rng):
        logits = rng.normal(size=(3, 5)).astype(np.float32)
        input = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        loss = nll.nll_loss(input, [1, 0, 4])
        assert loss == pytest.approx(-(float(input[0, 1]) + float(input[1, 0]) + float(input[2, 4])) / 3, rel=1e-6)

    def test_loss_of_probabilities_below_one_is_positive(self):
        input = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
        assert nll.nll_loss(input, [0, 1]) == pytest.approx(0.2899, abs=5e-5)


class TestRExamples:
    """Of nn_nll_loss in R's torch, whose classes count from 1."""

    def test_batch_with_targets_from_one(self, rng):
        input = rng.normal(size=(3, 5)).astype(np.float32)  # (N, C)
        loss = nll.nll_loss(input, [2, 1, 5], index_base=1)
        assert_same_bits(loss, nll.nll_loss(input, [1, 0, 4]))

    def test_images_with_targets_from_one(self, rng):
        input = rng.normal(size=(5, 4, 8, 8)).astype(np.float32)  # (N, C, height, width)
        target = rng.integers(1, 5, (5, 8, 8))
        loss = nll.nll_loss(input, target, index_base=1)
        expected = -np.take_along_axis(input.astype(np.float64), target[:, None] - 1, 1).mean()
        assert loss == pytest.approx(expected, rel=1e-6)

    def test_column_major_images(self, rng):
        """R's memory order."""
        input, target = rng.normal(size=(5, 4, 8, 8)), rng.integers(1, 5, (5, 8, 8))
        assert nll.nll_loss(np.asfortranarray(input), np.asfortranarray(target), index_base=1) == nll.nll_loss(
            input, target, index_base=1
        )

    def test_class_zero_is_outside(self):
        with pytest.raises(IndexError, match=r"target\[1\] is 0, outside \[1, 6\)"):
            nll.nll_loss(np.zeros((2, 5)), [1, 0], index_base=1)


def test_numpy_one_liner_example():
    """-input[range(N), target].mean()"""
    input = np.array(
        [
            [-0.5043, 0.9023, -0.4046],
            [-0.4370, -0.8637, 0.1674],
            [-0.5451, -0.5573, 0.0531],
            [-0.6751, -1.0447, -1.6793],
        ]
    )
    assert f"{nll.nll_loss(input, [0, 2, 2, 1]):.4f}" == "0.3321"


# ---- PyTorch


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("weight", [None, [1.0]], ids=["unweighted", "weighted"])
def test_ignored_rows_do_not_spoil_a_mean_of_ones(dtype, weight):
    """PyTorch, bfloat16: 0.0167."""
    target = np.zeros(16384, int)
    target[::16] = -100
    assert nll.nll_loss(np.full((16384, 1), -1, dtype), target, weight) == 1


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_ignored_rows_do_not_spoil_the_gradient(dtype):
    """PyTorch, bfloat16 with weights: 60 times too large."""
    target = np.zeros(16384, int)
    target[::16] = -100
    gradient = nll.nll_loss_backward(1.0, np.full((16384, 1), -1, dtype), target, [1.0])
    assert gradient[1, 0] == np.array(-1 / 15360).astype(dtype)


def test_ignored_rows_do_not_spoil_a_large_float32_mean():
    """PyTorch: 0.533."""
    target = np.zeros(1 << 25, np.uint8)
    target[::16] = 255
    input = np.broadcast_to(np.float32(-1), (1 << 25, 1))
    assert nll.nll_loss(input, target, ignore_index=255) == 1
    assert nll.nll_loss(input, target, ignore_index=255, reduction="sum") == 31457280


def test_border_of_a_bfloat16_segmentation_may_be_ignored(rng):
    """PyTorch: 0.127 for 3.404."""
    input = -rng.exponential(3, (4, 19, 64, 64)).astype(ml_dtypes.bfloat16)
    target = rng.integers(0, 19, (4, 64, 64))
    target[:, 0] = target[:, -1] = target[:, :, 0] = target[:, :, -1] = 255
    inner = target[:, 1:-1, 1:-1]
    expected = -np.take_along_axis(input[:, :, 1:-1, 1:-1].astype(np.float64), inner[:, None], 1).mean()
    assert float(nll.nll_loss(input, target, ignore_index=255)) == pytest.approx(expected, rel=2**-8)


@pytest.mark.parametrize("shape", [(70_000, 1), (1, 1, 265, 265)], ids=str)
def test_float16_mean_of_many_samples_is_not_nan(shape):
    """PyTorch: nan, and a gradient of -0. The total weight is beyond float16."""
    input, target = np.full(shape, -1, np.float16), np.zeros((shape[0], *shape[2:]), int)
    loss, total_weight, gradient = nll.nll_loss_value_and_grad(input, target, return_total_weight=True)
    assert loss == 1
    assert total_weight == target.size
    assert (gradient == np.float16(-1 / target.size)).all()
    assert gradient.ravel()[0] < 0


def test_float16_mean_of_large_losses_is_not_infinite():
    """PyTorch: inf."""
    assert nll.nll_loss(np.full((20_000, 1), -10, np.float16), np.zeros(20_000, int)) == 10


@pytest.mark.parametrize(("dtype", "largest"), [(np.float32, 3e38), (np.float64, 1.5e308)], ids=["float32", "float64"])
def test_mean_of_two_losses_near_the_largest_number(dtype, largest):
    """PyTorch: inf."""
    assert nll.nll_loss(np.full((2, 1), -largest, dtype), [0, 0]) == dtype(largest)


@pytest.mark.parametrize("logit", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_ignored_samples_without_a_softmax_have_no_gradient(logit, label_smoothing, reduction):
    """PyTorch: NaN in the whole row."""
    grad_output = np.ones(2) if reduction == "none" else 1.0
    choices = {"reduction": reduction, "label_smoothing": label_smoothing}
    gradient = nll.cross_entropy_backward(grad_output, np.array([[logit, 1], [1, 2]]), [-100, 0], **choices)
    assert_same_bits(gradient[0], np.zeros(2))
    assert np.isfinite(gradient[1]).all()


def test_smoothed_mean_of_a_total_weight_of_0():
    """PyTorch: NaN, the sum of a quotient 0/0 and an infinite one. The sum of the losses is more than 0."""
    logits, target = np.array([[1.0, 2], [3, 5]]), [0, -100]
    assert nll.cross_entropy(logits, target, [0, 2.0], label_smoothing=0.1) == math.inf


EMPTY_MEANS = {
    "all-ignored": ([[-1.0, -2], [-3, -5]], [-100, -100], None),
    "all-ignored-and-weighted": ([[-1.0, -2], [-3, -5]], [-100, -100], [1.0, 2]),
    "no-samples": (np.zeros((0, 2)), np.zeros(0, int), None),
    "no-samples-and-weighted": (np.zeros((0, 2)), np.zeros(0, int), [1.0, 2]),
    "no-pixels": (np.zeros((2, 3, 0)), np.zeros((2, 0), int), None),
    "no-classes": (np.zeros((2, 0)), [-100, -100], None),
    "one-sample-ignored": ([-1.0, -2], -100, None),
    "weights-of-0": ([[-1.0, -2], [-3, -5]], [0, 1], [0.0, 0]),
    "weights-of-0-and-ignored": ([[-1.0, -2], [-3, -5]], [0, -100], [0.0, 2]),
}


@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
@pytest.mark.parametrize("case", EMPTY_MEANS)
def test_empty_means_are_those_of_pytorch(name, case, torch):
    input, target, weight = EMPTY_MEANS[case]
    leaf = torch.tensor(input, dtype=torch.float64, requires_grad=True)
    of_classes = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    expected = getattr(torch.nn.functional, name)(leaf, torch.tensor(target), of_classes)
    expected.backward()
    loss, gradient = getattr(nll, name + "_value_and_grad")(np.array(input), target, weight)
    assert_same_bits(loss, expected.detach().numpy())
    assert_same_bits(gradient, leaf.grad.numpy())


@pytest.mark.parametrize("target_dtype", INTEGER_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (6, 5, 3, 2)], ids=str)
def test_every_integer_target_is_as_good_as_int64(shape, target_dtype, rng):
    """PyTorch refuses all but int64, and uint8 for (N, C)."""
    input, target = random_input(rng, shape, np.float32), random_target(rng, (shape[0], *shape[2:]), 5)
    assert nll.nll_loss(input, target.astype(target_dtype)) == nll.nll_loss(input, target)


def test_double_weight_for_float32_input(rng):
    """PyTorch refuses it."""
    input, target, weight = random_input(rng, (6, 5), np.float32), random_target(rng, 6, 5), rng.uniform(size=5)
    assert nll.nll_loss(input, target, weight) == pytest.approx(
        nll.nll_loss(input.astype(float), target, weight), rel=1e-7
    )


@pytest.mark.parametrize("shape", [(1,), (3,), (0,)], ids=str)
def test_one_sample_has_one_target(shape):
    """PyTorch takes element 0, or nothing."""
    with pytest.raises(ValueError, match="target"):
        nll.nll_loss(np.array([-1.0, -2, -3]), np.zeros(shape, int))


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (3, 1, 1)], ids=str)
def test_weight_has_one_dimension(shape):
    """PyTorch takes any shape of C elements for images."""
    with pytest.raises(ValueError, match="weight"):
        nll.nll_loss(np.zeros((1, 3, 2, 4)), np.zeros((1, 2, 4), int), np.ones(shape))


SHAPES = [(40, 7), (6, 5, 4), (3, 80, 5, 2), (3, 200, 2)]
WITHIN = {np.float32: {"rtol": 2e-6, "atol": 2e-6}, np.float64: {"rtol": 1e-12, "atol": 1e-14}}  # PyTorch's own errors


def assert_agrees_with_pytorch(torch, name, shape, weighted, dtype, rng, *, reduction, **choices):
    """Loss and gradient of ordinary cases."""
    input = np.minimum(rng.normal(size=shape), 0) if name == "nll_loss" else 3 * rng.normal(size=shape)
    target = random_target(rng, (shape[0], *shape[2:]), shape[1], ignored=-100)
    weight = rng.uniform(0.5, 2, shape[1]).astype(dtype) if weighted else None
    arrays, choices = (input.astype(dtype), target, weight), choices | {"reduction": reduction}
    grad_output = random_grad_output(rng, target.shape, reduction, dtype)
    tensors = [None if array is None else torch.tensor(array) for array in arrays]
    leaf = tensors[0].requires_grad_()
    loss = getattr(torch.nn.functional, name)(*tensors, **choices)
    loss.backward(torch.tensor(grad_output, dtype=leaf.dtype))
    np.testing.assert_allclose(getattr(nll, name)(*arrays, **choices), loss.detach().numpy(), **WITHIN[dtype])
    gradient = getattr(nll, name + "_backward")(grad_output, *arrays, **choices)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), **WITHIN[dtype])


@pairwise(shape=SHAPES, weighted=[False, True], dtype=[np.float32, np.float64], reduction=REDUCTIONS)
def test_nll_loss_agrees_with_pytorch(shape, weighted, dtype, reduction, rng, torch):
    assert_agrees_with_pytorch(torch, "nll_loss", shape, weighted, dtype, rng, reduction=reduction)


@pairwise(
    shape=SHAPES,
    label_smoothing=[0.0, 0.1, 1.0],
    weighted=[False, True],
    dtype=[np.float32, np.float64],
    reduction=REDUCTIONS,
)
def test_cross_entropy_agrees_with_pytorch(shape, label_smoothing, weighted, dtype, reduction, rng, torch):
    choices = {"label_smoothing": label_smoothing, "reduction": reduction}
    assert_agrees_with_pytorch(torch, "cross_entropy", shape, weighted, dtype, rng, **choices)


def test_log_softmax_agrees_with_pytorch(rng, torch):
    input = 3 * rng.normal(size=(6, 50, 3))
    expected = torch.log_softmax(torch.tensor(input), 1).numpy()
    np.testing.assert_allclose(nll.log_softmax(input), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_confident_cross_entropy_is_not_zero(dtype):
    """PyTorch, float32: 0, and a gradient of 0 at the target."""
    loss, gradient = nll.cross_entropy_value_and_grad(np.array([[20, 0, 0]], dtype), [0])
    assert f"{loss:.6e}" == "4.122307e-09"
    assert loss == pytest.approx(4.1223072363804075e-09, rel=6e-8)
    np.testing.assert_allclose(gradient, [[-4.1223072278837e-09, 2.0611536139418e-09, 2.0611536139418e-09]], rtol=6e-8)


# ---- ONNX and ONNX Runtime


def test_mean_with_ignore_index_minus_one_divides_by_the_count_kept():
    """ONNX reference: 5.25, it divides by N."""
    input = -np.arange(1.0, 13).reshape(4, 3).astype(np.float32)
    assert nll.nll_loss(input, [0, -1, 2, 1], ignore_index=-1) == 7


@pytest.mark.parametrize("weight", [None, [1.0, 2, 4]], ids=["unweighted", "weighted"])
def test_target_minus_one_is_no_class(weight):
    """ONNX reference and ONNX Runtime: class C - 1."""
    with pytest.raises(IndexError, match=r"target\[1\] is -1, outside \[0, 3\)"):
        nll.nll_loss(np.zeros((4, 3), np.float32), [0, -1, 2, 1], weight)


@pytest.mark.parametrize(("shape", "target_shape"), [((4, 3), (3,)), ((4, 3), (5,)), ((2, 3, 4), (2, 3))], ids=str)
def test_as_many_targets_as_samples(shape, target_shape):
    """ONNX Runtime answers over a part; brainpy takes more and fewer."""
    with pytest.raises(ValueError, match="target"):
        nll.nll_loss(np.zeros(shape, np.float32), np.zeros(target_shape, int))


def test_as_many_weights_as_classes():
    """ONNX Runtime takes 7 weights for 3 classes."""
    with pytest.raises(ValueError, match=r"weight.*7.*3"):
        nll.nll_loss(np.zeros((4, 3), np.float32), [0, 1, 2, 1], np.ones(7))


@pytest.mark.parametrize("word", ["avg", "batchmean", "Mean", "elementwise_mean", ""])
def test_unknown_reduction_is_an_error(word):
    """ONNX Runtime sums, the ONNX reference reduces nothing."""
    with pytest.raises(ValueError, match="reduction"):
        nll.nll_loss(np.zeros((4, 3), np.float32), [0, 1, 2, 1], reduction=word)


@pytest.mark.parametrize("weight", [None, np.ones(3)], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(("empty", "expected"), [("nan", math.nan), ("zero", 0.0)])
def test_empty_mean_is_the_same_with_and_without_weight(weight, empty, expected):
    """ONNX Runtime: 0 without weight, nan with."""
    loss = nll.nll_loss(np.zeros((0, 3), np.float32), np.zeros(0, int), weight, empty=empty)
    assert_same_bits(loss, np.float32(expected))


def test_ignored_losses_are_positive_zeros():
    """ONNX Runtime: -0."""
    loss = nll.nll_loss(-np.ones((2, 3), np.float32), [0, -1], ignore_index=-1, reduction="none")
    assert_same_bits(loss, np.array([1, 0], np.float32))


def test_bfloat16_mean_does_not_saturate():
    """ONNX reference: 4.0."""
    input = np.full((1000, 1), -2.296875, ml_dtypes.bfloat16)
    assert nll.nll_loss(input, np.zeros(1000, int)) == 2.296875


# ---- brainpy and the NumPy one-liner


def test_images_as_wide_as_the_batch_is_large():
    """brainpy and the one-liner, (N, C, d1) with d1 = N: every sample with every other, -0.0729 for 0.0948."""
    rng = np.random.default_rng(0)
    input, target = rng.standard_normal((3, 5, 3)), rng.integers(0, 5, (3, 3))
    loss = nll.nll_loss(input, target, reduction="none")
    assert_same_bits(loss, -np.take_along_axis(input, target[:, None], 1)[:, 0])
    assert nll.nll_loss(input, target) == pytest.approx(0.0948, abs=5e-5)


@pytest.mark.parametrize("label", [3, 7, -100, -1, 2**32])
def test_labels_are_not_clamped(label):
    """brainpy: the last class, or the first."""
    with pytest.raises(IndexError, match=rf"target\[1\] is {label}, outside \[0, 3\)"):
        nll.nll_loss(-np.arange(1.0, 13).reshape(4, 3), [0, label, 2, 1], ignore_index=None)


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (4, 4)], ids=str)
def test_target_of_more_dimensions_makes_no_table(shape):
    """The one-liner: an N x N table, averaged."""
    with pytest.raises(ValueError, match="target"):
        nll.nll_loss(np.zeros((4, 3)), np.zeros(shape, int))


def test_bool_target_is_no_mask():
    with pytest.raises(TypeError, match="target"):
        nll.nll_loss(np.zeros((4, 2)), [True, False, True, True])


# ---- MindSpore


def test_unreduced_losses_of_ignored_samples_are_zero():
    """MindSpore leaves what the memory held before."""
    for _ in range(20):
        junk = np.full(16, 1001, np.float32)
        del junk
        loss = nll.nll_loss(-np.ones((16, 2), np.float32), np.full(16, -100), reduction="none")
        assert_same_bits(loss, np.zeros(16, np.float32))


def test_infinite_log_probability_of_another_class_has_no_effect():
    """MindSpore: nan."""
    assert nll.nll_loss(np.array([[-1, -np.inf], [-2, -0.1]], np.float32), [0, 0]) == 1.5


def test_class_without_probability_has_no_effect_on_the_cross_entropy_of_another():
    """MindSpore: nan. The true value is log(2) / 2."""
    logits = np.array([[0, -np.inf], [0, 0]], np.float32)
    loss, gradient = nll.cross_entropy_value_and_grad(logits, [0, 0])
    assert loss == np.float32(0.3465736)
    assert_same_bits(gradient, np.array([[0, 0], [-0.25, 0.25]], np.float32))


def test_nan_weight_of_an_absent_class_has_no_effect():
    """MindSpore: nan."""
    assert nll.nll_loss(np.array([[-1, -5], [-2, -6]], np.float32), [0, 0], [1, np.nan]) == 1.5


def test_double_input_is_computed_in_double():
    """MindSpore: in float32."""
    assert nll.nll_loss(np.array([[-(1 + 2.0**-40)]]), [0], [1]) == 1 + 2.0**-40


@pytest.mark.parametrize(("reduced", "expected"), [("sum", 0.0), ("mean", math.nan)])
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 3, 4, 0)], ids=str)
def test_empty_images(shape, reduced, expected):
    """MindSpore: memory that nobody wrote."""
    loss = nll.nll_loss(np.zeros(shape, np.float32), np.zeros((shape[0], *shape[2:]), int), reduction=reduced)
    assert_same_bits(loss, np.float32(expected))


# ---- R


def test_ignore_index_counts_as_targets_do():
    """R torch up to 0.17: ignore_index = k ignores class k + 1."""
    input = -np.arange(1.0, 10).reshape(3, 3)
    loss = nll.nll_loss(input, [1, 2, 3], index_base=1, ignore_index=2, reduction="none")
    assert loss.tolist() == [1, 0, 9]
    assert nll.nll_loss(input, [1, 255, 3], index_base=1, ignore_index=255) == 5
