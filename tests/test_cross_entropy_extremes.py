# SPDX-License-Identifier: BSD-3-Clause
"""Cross-entropy, its gradient and log-softmax of logits at the ends of what numbers can be, within the same bounds."""

from __future__ import annotations

import ml_dtypes
import mpmath
import numpy as np
import pytest

import nll
from support import softmax_oracle
from support.constants import CHUNK_SIZE, MAX_SEQUENTIAL_CLASSES
from support.losses import assert_cross_entropy
from support.notes import note
from support.oracle import FORMATS, assert_same_bits
from support.samples import random_logits, random_target
from support.softmax_oracle import assert_within_bound

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
INFINITY, NAN = np.inf, np.nan

# ---- extremes

EXTREMES = {
    "confident": [20, 0, 0],
    "confident-at-the-end-of-float32": [104, 0, 0],
    "confident-at-the-end-of-float64": [740, 0, 0],
    "beyond-confident": [11_000, 0, 0],
    "subnormal-float16": [0, -8, -14, -17, -17.5],
    "subnormal-float32": [0, -85, -88, -100, -103, -103.5, -104],
    "subnormal-float64": [0, -650, -706, -710, -740, -744.5, -745, -746],
    "less-than-the-last-digit": [0, -40, -75, -700],
    "masked-by-a-large-number": [-1e9, 0, 1, -1e9],
    "masked-by-the-largest": [-3e38, 0, 1, -3e38],
    "all-masked": [-1e9, -1e9, -1e9],
    "zeros": [0, 0, 0, 0],
    "ones": [1, 1, 1],
    "two-are-largest": [3, 1, 3, -2],
    "two-are-largest-and-certain": [50, 0, 50, -1000],
    "offset-1e3": [1e3, 1e3 + 1, 1e3 - 2],
    "offset-1e6": [1e6, 1e6 + 1, 1e6 - 2],
    "offset-minus-1e6": [-1e6, -1e6 - 1, -1e6 + 0.5],
    "offset-2**14": [16384, 16383, 16380.5],
    "offset-2**24": [2**24, 2**24 - 1, 2**24 - 7],
    "offset-1e30": [1e30, 1e30, 1e30 * (1 - 2**-24)],
    "offset-2**53": [2.0**53, 2.0**53 - 1, 2.0**53 - 3],
    "1e38": [1e38, -1e38, 0],
    "3e38": [3e38, 3e38, -3e38],
    "1e308": [1e308, -1e308, 0],
    "numbers-near-0": [1e-40, -1e-40, 1e-300, 0],
    "one-class": [5],
    "one-large-class": [-3e38],
    "minus-infinity": [0, -INFINITY, 1],
    "one-class-left": [-INFINITY, 3, -INFINITY],
    "no-class-left": [-INFINITY, -INFINITY],
    "infinity": [0, INFINITY, 1],
    "both-infinities": [-INFINITY, INFINITY],
    "infinities": [INFINITY, INFINITY],
    "nan": [0, NAN, 1],
    "nan-first": [NAN, 0, 1],
    "nan-last": [0, 1, NAN],
    "nan-beside-infinity": [INFINITY, NAN, -INFINITY],
    "nan-beside-minus-infinity": [-INFINITY, NAN, -INFINITY],
    "one-class-nan": [NAN],
    "one-class-minus-infinity": [-INFINITY],
}


# Classes without probability before them, so that each way of adding up is taken.
ABSENT = [0, MAX_SEQUENTIAL_CLASSES, CHUNK_SIZE + 452]


def extreme_rows(name: str, dtype: np.dtype, absent: int) -> tuple[np.ndarray, np.ndarray]:
    """A row once for each target, after so many classes of no probability."""
    values = np.array(EXTREMES[name])
    with np.errstate(over="ignore"):
        row = np.concatenate([np.full(absent, -INFINITY), values]).astype(dtype)
    return np.tile(row, (len(values), 1)), absent + np.arange(len(values))


each_extreme = pytest.mark.parametrize("name", EXTREMES)


@each_extreme
def test_extremes(name, dtype):
    for absent in ABSENT:
        with note(absent, "absent classes"):
            input, target = extreme_rows(name, dtype, absent)
            assert_cross_entropy(input, target, reduction="none")
            assert_within_bound(nll.log_softmax(input), softmax_oracle.log_softmax(input))


@each_extreme
def test_extreme_losses_in_double(name):
    for absent in ABSENT:
        with note(absent, "absent classes"):
            input, target = extreme_rows(name, FLOAT32, absent)
            assert_cross_entropy(input, target, reduction="none", dtype=FLOAT64)


@each_extreme
def test_extremes_side_by_side(name, dtype):
    """They have no effect on the samples beside them, also where many are computed at a time."""
    class_count = len(EXTREMES[name])
    rows = np.zeros((21, class_count), dtype)
    with np.errstate(over="ignore"):
        rows[::4] = np.array(EXTREMES[name]).astype(dtype)
    side_by_side = np.ascontiguousarray(rows.T)[None]
    target = np.arange(21)[None] % class_count
    assert_cross_entropy(side_by_side, target, reduction="none")
    log_softmax = nll.log_softmax(side_by_side)
    assert_within_bound(log_softmax, softmax_oracle.log_softmax(side_by_side))


def test_values_by_hand():
    def loss(row, target):
        return nll.cross_entropy(np.array(row, np.float32), target)

    assert loss([20, 0, 0], 0) == np.float32(4.1223072363804075e-09)
    assert loss([20, 0, 0], 1) == np.float32(20.000000004122307)
    assert loss([104, 0, 0], 0) == np.float32(2 * 6.8e-46)  # the smallest subnormal
    assert loss([0, 0, 0], 0) == np.float32(np.log(3))
    assert_same_bits(loss([7], 0), np.float32(0))
    assert_same_bits(loss([-INFINITY, 7], 1), np.float32(0))
    assert loss([-INFINITY, 7], 0) == INFINITY
    assert np.isnan(loss([INFINITY, 0], 1))
    assert np.isnan(loss([-INFINITY, -INFINITY], 1))


def test_undefined_rows_get_nothing_but_nan(dtype):
    for row in ([INFINITY, 0], [-INFINITY, -INFINITY], [NAN, 0], [INFINITY, -INFINITY]):
        input = np.array([row, [0, 0]], dtype)
        gradient = nll.cross_entropy_backward(1.0, input, [0, 0], reduction="sum")
        assert np.isnan(gradient[0].astype(float)).all()
        assert_same_bits(gradient[1], np.array([-0.5, 0.5], dtype))
        assert np.isnan(nll.log_softmax(input)[0].astype(float)).all()


def test_class_without_probability_gets_a_positive_zero(dtype):
    gradient = nll.cross_entropy_backward(-1.0, np.array([[0, -INFINITY, 0]], dtype), [0])
    assert_same_bits(gradient, np.array([[0.5, 0, -0.5]], dtype))


def test_certain_target_gets_a_positive_zero(dtype):
    """Where nothing is left for the others, whatever the sign of the zero that the arithmetic comes to."""
    for row in ([0, -INFINITY], [0, -20_000], [0]):
        for grad_output in (1.0, -1.0):
            gradient = nll.cross_entropy_backward(grad_output, np.array([row], dtype), [0])
            assert_same_bits(gradient, np.zeros((1, len(row)), dtype))


@pytest.mark.parametrize("class_count", [2, 9, MAX_SEQUENTIAL_CLASSES + 1])
def test_zeros_of_a_gradient_are_positive(class_count, dtype):
    """Also those that a number of either sign was rounded to."""
    input = np.zeros((400, class_count), dtype)
    input[:, 0] = np.linspace(0, 1000, 400)
    for grad_output in (1.0, -1.0):
        for target in (0, 1):
            gradient = nll.cross_entropy_backward(grad_output, input, np.full(400, target), reduction="sum")
            assert target == 1 or (gradient == 0).any()
            assert not np.signbit(gradient[gradient == 0]).any()


@pytest.mark.parametrize("distance", range(680, 748, 4))
def test_losses_down_to_subnormal_doubles(distance, rng):
    below = rng.uniform(0, 4, (20, 3)) + distance
    input = np.concatenate([np.zeros((20, 1)), -below], axis=1)
    for target in (0, 1):
        assert_cross_entropy(input, np.full(20, target), reduction="none")
        assert_cross_entropy(input.astype(np.float32), np.full(20, target), reduction="none", dtype=FLOAT64)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6, 1e9, 1e15, 1e30, 1e300])
def test_common_offset(offset, dtype, rng):
    """As far as the dtype tells the logits apart, which the exact differences of its numbers show."""
    if offset > float(ml_dtypes.finfo(dtype).max):
        offset = float(ml_dtypes.finfo(dtype).max) / 4
    for sign in (1, -1):
        input = (sign * offset + random_logits(rng, (30, MAX_SEQUENTIAL_CLASSES + 1), FLOAT64)).astype(dtype)
        for logits in (input, input[:, :9]):
            target = random_target(rng, 30, logits.shape[1])
            assert_cross_entropy(logits, target, reduction="none")
            assert_within_bound(nll.log_softmax(logits), softmax_oracle.log_softmax(logits))


@pytest.mark.parametrize("class_count", [2, 3, 20, MAX_SEQUENTIAL_CLASSES + 1, CHUNK_SIZE + 52])
def test_confident_predictions(class_count, dtype, rng):
    """The target's probability from a half to all but 1, and that of others from a half to all but 0."""
    lead = np.linspace(0, 120, 50)[:, None]
    input = rng.normal(size=(50, class_count))
    input[:, :1] += lead
    input = input.astype(dtype)
    for target in (np.zeros(50, int), rng.integers(1, class_count, 50)):
        assert_cross_entropy(input, target, reduction="none")


@pytest.mark.parametrize(("samples", "class_count"), [(10, 20_000), (1, 262_144)])
@pytest.mark.parametrize("order", ["any", "ascending", "descending"])
def test_many_classes_of_like_probability(order, samples, class_count, dtype, rng):
    """Hundreds of thousands of additions leave no more of an error than a few, whichever comes first."""
    input = random_logits(rng, (samples, class_count), FLOAT64, 1)
    if order != "any":
        input = np.sort(input) if order == "ascending" else np.sort(input)[:, ::-1]
    target, grad_output = random_target(rng, samples, class_count), rng.normal(size=samples)
    assert_cross_entropy(input.astype(dtype), target, grad_output=grad_output, reduction="none")


@pytest.mark.parametrize("exponent", [-1000, -150, -40, -10, 10, 100, 900])
def test_weights_and_grad_outputs_of_any_magnitude(exponent, dtype, rng):
    """The product is what the bound is about: a small loss times a large weight may be an ordinary number."""
    input, target = random_logits(rng, (50, 6), dtype, 4), random_target(rng, 50, 6)
    lead = np.linspace(0, min(1.2 * abs(exponent), 680), 25).astype(dtype)  # all probabilities are normal doubles
    input[np.arange(25), target[:25]] += lead
    factor = 2.0**exponent
    assert_cross_entropy(input, target, factor * rng.uniform(1, 2, 6), reduction="none")
    assert_cross_entropy(input, target, grad_output=factor * rng.uniform(1, 2, 50), reduction="none")
    assert_cross_entropy(input, target, factor * rng.uniform(1, 2, 6), reduction="sum", dtype=FLOAT64)
    assert_cross_entropy(input, target, factor * rng.uniform(1, 2, 6), reduction="mean")


# Up to which a gradient may be scaled in the precision of its input: what that takes as nothing must stay nothing.
MAX_SCALES = {"bfloat16": 20, "float16": 500, "float32": 500, "float64": 500}


@pytest.mark.parametrize("by", ["grad_output", "weight"])
@pytest.mark.parametrize("beyond", [-1, 0, 1, 20, 39, 99, 239], ids=str)
@pytest.mark.parametrize("class_count", [2, MAX_SEQUENTIAL_CLASSES + 1])
def test_scales_that_make_small_probabilities_matter(class_count, beyond, by, dtype):
    """A probability of 2^-n, scaled with 2^m, is a number of the dtype: at the target, and elsewhere."""
    scale = 2.0 ** (MAX_SCALES[str(dtype)] + beyond)
    format = FORMATS[dtype]
    last_bit = 2 - format.max_exponent - format.precision  # the exponent of the smallest subnormal
    powers = np.log2(scale) - last_bit - np.array([-3, 0, 4, 10, 20])
    distances = np.log(2.0) * np.minimum(powers, 1010)  # so that losses, before their weights, are normal doubles
    logits = np.full((2 * len(distances), class_count), -np.inf)
    logits[:, 0] = 0
    logits[:, -1] = -np.repeat(distances, 2)
    target = np.tile([0, class_count - 1], len(distances))
    size = scale if by == "weight" else 1.0
    assert_cross_entropy(logits.astype(dtype), target, [size] * class_count, grad_output=scale / size, reduction="sum")


@pytest.mark.parametrize("largest", [0, -149, 149, 5000])
@pytest.mark.parametrize("class_count", [2, MAX_SEQUENTIAL_CLASSES + 1])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_gradients_where_a_probability_is_no_double(dtype, axis, class_count, largest):
    """p·g is an ordinary number, though p is less than the smallest one: at the target, and elsewhere."""
    distances = np.array([700, 708, 715, 724, 735, 744, 745, 746, 760, 800, 899])
    exponents = np.minimum(np.log2(np.e) * distances - (500 if dtype == FLOAT64 else 100), 1020)
    logits = np.full((2 * len(distances), class_count), -np.inf)
    logits[:, 0] = largest
    logits[:, -1] = largest - np.repeat(distances, 2)
    target = np.tile([0, class_count - 1], len(distances))
    grad_output = np.repeat(1.37 * np.exp2(np.floor(exponents)), 2)
    input = np.asfortranarray(logits.astype(dtype)) if axis == 0 else logits.astype(dtype)
    gradient = nll.cross_entropy_backward(grad_output, input, target, reduction="none")
    assert_within_bound(gradient, softmax_oracle.cross_entropy(input, target, grad_output=grad_output).gradient)
    assert_within_bound(nll.softmax(input), softmax_oracle.softmax(input))


@pytest.mark.parametrize("grad_output", [2.0**16, 1e30])
def test_scaled_gradients_of_subnormal_probabilities(grad_output):
    """Loss scales of ordinary size, in double."""
    logits = np.array([[0, -distance] for distance in np.linspace(690, 760, 200)])
    for label in (0, 1):
        assert_cross_entropy(logits, np.full(200, label), grad_output=np.full(200, grad_output), reduction="none")


def test_a_row_whose_exponentials_err_alike():
    """1 over their sum has to be as exact as the sum: here each rounding more would show in an entry."""
    logits = [["-0x1.482504d9d01e4p+2", "0x1.235d38bb87e34p-7", "0x1.4dcb79974095ap-8", "-0x1.baa15c7a6acf3p+1"]]
    input = np.array([[float.fromhex(x) for x in row] for row in logits])
    for label in range(4):
        assert_cross_entropy(input, [label], reduction="sum")


@pytest.mark.parametrize("class_count", [600, 1 << 17])
def test_masked_classes_have_no_probability_however_many(class_count, dtype):
    """The loss of the only class that is left is 0, also where weights would show what next to nothing adds up to."""
    logits = np.full((1, class_count), -INFINITY)
    logits[0, 0] = -32
    choices = {"sample_weight": [2.0**19], "reduction": "sum"}
    for input in (logits, np.where(np.isinf(logits), -5000, logits)):
        loss, gradient = nll.cross_entropy_value_and_grad(input.astype(dtype), [0], **choices)
        assert_same_bits(loss, np.zeros((), dtype)[()])
        assert_same_bits(gradient, np.zeros_like(gradient))


@pytest.mark.parametrize("heavy", [0, 1, 16, 99])
def test_a_large_weight_of_whichever_class(heavy, dtype):
    """It shows probabilities of 2^-600, which are nothing to others."""
    logits, weight = np.full((1, 100), -600 * np.log(2)), np.ones(100)
    logits[0, heavy], weight[heavy] = 0, 2.0**600
    assert_cross_entropy(logits.astype(dtype), [heavy], weight=weight, reduction="sum")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("class_count", [100, 128, 129, 1500, 5000, 2**20])
def test_many_equal_classes_beside_a_confident_one(class_count, axis):
    """In double. What a sum rounds off is all that is left without the label: it has to be added up without error, and
    a loss is not one of its place.
    """
    for gap in (21.0, 30.7, 36.4, 38.3, 40.0, 40.9, 41.7, 100.3, 278.4, 600.0):
        with mpmath.workprec(2000):
            exact = mpmath.log1p(mpmath.exp(-mpmath.mpf(gap)) * (class_count - 1))
        for label in (0, class_count // 2, class_count - 1):
            logits = np.full((class_count, 1), -gap)
            logits[label] = 0
            input = logits if axis == 0 else logits.T.copy()
            loss = nll.cross_entropy(input, [label], reduction="sum", axis=axis)
            assert abs(mpmath.mpf(float(loss)) - exact) <= 4 * np.spacing(float(exact)), (gap, label)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("far", [300, 20000, -20000], ids=str)
def test_the_same_far_logits_in_every_sample(far, axis, dtype):
    """A tile takes over what exponentials were relative to in the last one."""
    logits = np.zeros((400, 10), dtype)
    logits += np.asarray(far, dtype)
    input, target = np.ascontiguousarray(logits if axis else logits.T), np.arange(400) % 10
    assert_cross_entropy(input, target, reduction="none", axis=axis)


# ---- weights at the ends of what numbers can be, with label smoothing


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ([1, INFINITY], INFINITY),
        ([INFINITY, 1], INFINITY),
        ([0, INFINITY], INFINITY),
        ([INFINITY, INFINITY], INFINITY),
        ([-INFINITY, 1], -INFINITY),
        ([INFINITY, -INFINITY], NAN),
        ([NAN, 1], NAN),
    ],
    ids=str,
)
@pytest.mark.parametrize("logits", [[0, 1], [1, 0], [0, 60], [-700, 0], [5, 5]], ids=str)
def test_smoothed_loss_with_infinite_weights(logits, weight, expected, label, dtype):
    """log S - x_c is more than 0 for every class, at the largest logit, too: an infinite weight makes it infinite."""
    for axis, input in ((1, [logits]), (0, np.transpose([logits]))):
        loss = nll.cross_entropy(
            np.asarray(input).astype(dtype), [label], weight, label_smoothing=0.5, reduction="sum", axis=axis
        )
        np.testing.assert_equal(float(loss), expected)


@pytest.mark.parametrize("weight", [[1, INFINITY], [1, -INFINITY]], ids=str)
def test_smoothed_loss_of_a_masked_class_with_an_infinite_weight(weight, dtype):
    """Infinite times infinite is infinite, and no NaN."""
    for axis, shape in ((1, (1, 2)), (0, (2, 1))):
        input = np.array([0, -INFINITY]).reshape(shape).astype(dtype)
        loss = nll.cross_entropy(input, [0], weight, label_smoothing=0.1, reduction="sum", axis=axis)
        np.testing.assert_equal(float(loss), weight[1])


def test_smoothed_loss_with_zero_weights(dtype):
    """A weight of 0 is a number like others: 0 times the infinite loss of a masked class is NaN."""
    wide = {"reduction": "sum", "dtype": FLOAT64}
    smoothed = nll.cross_entropy(np.array([[0.0, 1.0]], dtype), [0], [1, 0], label_smoothing=0.5, **wide)
    plain = nll.cross_entropy(np.array([[0.0, 1.0]], dtype), [0], **wide)
    assert abs(smoothed - 0.75 * plain) < 4 * np.spacing(plain)
    masked = nll.cross_entropy(np.array([[0.0, -INFINITY]], dtype), [0], [1, 0], label_smoothing=0.5)
    assert np.isnan(masked)


@pytest.mark.parametrize("largest", [15, 30, 100])
def test_smoothed_loss_where_the_largest_logit_alone_has_a_weight(largest):
    """It is s/C·log(1 + e^-x): no other term is there to measure its error by."""
    logits = np.array([[0, largest]], np.float32)
    assert_cross_entropy(logits, np.array([0]), [0.0, 1.0], label_smoothing=1.0, reduction="sum")


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("distance", [8, 20, 200, 300])
@pytest.mark.parametrize("other", [0, 1e-30, 1e-5, 1e-2])
@pytest.mark.parametrize("lowest", [0, -100, 500, -900])
def test_smoothed_loss_where_one_class_has_nearly_all_weight(lowest, other, distance, label):
    """What exponentials are off by is much of the loss then, if log Σ e^x is not about that class."""
    logits = np.array([[lowest, lowest + distance]], np.float32)
    weight = np.array([other, 1.0])
    assert_cross_entropy(logits, np.array([label]), weight, label_smoothing=1.0, reduction="sum")


def test_smoothed_loss_with_two_masked_classes_in_double():
    """Masked by the lowest number there is: the loss is s/C times twice that."""
    lowest = np.finfo(np.float64).min
    assert_cross_entropy(np.array([[0, 0, lowest, lowest]]), np.array([0]), label_smoothing=0.1, reduction="none")


def test_gradient_of_class_weights_that_add_to_0():
    """Each entry is the IEEE quotient, as an empty mean has it."""
    gradient = nll.cross_entropy_backward(1.0, np.array([[1.0, 2], [3, 5]]), [0, 1], [1.0, -1])
    np.testing.assert_equal(gradient, [[-INFINITY, INFINITY], [-INFINITY, INFINITY]])


@pytest.mark.parametrize("grad_output", [INFINITY, -INFINITY])
def test_gradient_of_an_infinite_grad_output(grad_output, dtype):
    """A probability of e^-740 is one, too: infinity times it is no NaN."""
    logits = np.array([[0, -740], [0, -740], [30, -700]]).astype(dtype)
    grads = np.array([grad_output, 1, grad_output]).astype(dtype)
    gradient = nll.cross_entropy_backward(grads, logits, [0, 1, 1], reduction="none")
    np.testing.assert_equal(gradient[[0, 2]], np.array([[-1, 1], [1, -1]]) * grad_output)
    np.testing.assert_equal(gradient[1], [1, -1])


def test_the_smoothed_loss_of_a_sample_beyond_float64_is_infinite():
    """In the mean, too, which the weights would bring back: what is reduced are the samples' losses as doubles."""
    lowest = np.finfo(np.float64).min
    input = np.array([[0, lowest, lowest]])
    mean = nll.cross_entropy(input, [0], label_smoothing=1.0)
    assert_same_bits(mean, np.float64(-lowest * (2 / 3)))
    for reduction in ("none", "sum", "mean"):
        assert np.all(
            nll.cross_entropy(input, [0], np.full(3, 3.0), reduction=reduction, label_smoothing=1.0) == np.inf
        )


@pytest.mark.parametrize("size", [2.0**-501, 2.0**501, 2.0**1023, 5e-324])
def test_smoothing_says_which_weights_it_serves(size):
    logits = np.zeros((2, 3))
    rule = r"weight\[1\] is -?[\d.e+-]+; with label_smoothing, weights are 0, infinite, or of 2\^-500 to 2\^500"
    with pytest.raises(ValueError, match=rule):
        nll.cross_entropy(logits, [0, 1], [1.0, -size, 1.0], label_smoothing=0.1)
    assert np.isfinite(nll.cross_entropy(logits, [0, 1], [1.0, -size, 1.0], reduction="sum"))
    nearest = np.clip(size, 2.0**-500, 2.0**500)
    assert np.isfinite(nll.cross_entropy(logits, [0, 1], [1.0, nearest, 1.0], label_smoothing=0.1))


# ---- what a result depends on


@pytest.mark.parametrize("grad_output", [1.0, -3.7, 2.0**21, 1e30, 1e200])
@pytest.mark.parametrize("classes", [10, MAX_SEQUENTIAL_CLASSES + 1])
def test_the_loss_does_not_depend_on_grad_output(classes, grad_output, dtype, rng):
    input, target = random_logits(rng, (70, classes), dtype, 40), random_target(rng, 70, classes)
    loss, gradient = nll.cross_entropy_value_and_grad(input, target, grad_output=grad_output, reduction="sum")
    assert_same_bits(loss, nll.cross_entropy(input, target, reduction="sum"))
    alone = nll.cross_entropy_backward(grad_output, input, target, reduction="sum")
    assert_same_bits(gradient, alone)


@pytest.mark.parametrize("far", [30, 300, 3e4, -INFINITY, INFINITY, NAN], ids=str)
@pytest.mark.parametrize("classes", [10, MAX_SEQUENTIAL_CLASSES + 1, 1024])
def test_a_sample_does_not_depend_on_its_neighbours(classes, far, dtype, rng):
    """One whose logits are far from 0, masked or undefined changes how others are computed, but none of their bits."""
    input = random_logits(rng, (40, classes), dtype, 9)
    target = random_target(rng, 40, classes)
    disturbed = input.copy()
    disturbed[::7, 0] = far
    losses = nll.cross_entropy(disturbed, target, reduction="none")
    gradient = nll.cross_entropy_backward(np.ones(40), disturbed, target, reduction="none")
    for i in range(1, 6):
        assert_same_bits(losses[i], nll.cross_entropy(input[i], target[i], reduction="none"))
        assert_same_bits(gradient[i], nll.cross_entropy_backward(np.array(1.0), input[i], target[i], reduction="none"))


@pytest.mark.parametrize("classes", [MAX_SEQUENTIAL_CLASSES, MAX_SEQUENTIAL_CLASSES + 1, 200, CHUNK_SIZE + 40])
def test_odd_logits_in_the_last_lanes(classes, dtype):
    """The last logits of a row are computed apart from the others, and count as they do."""
    odd = [-170, -160, -153, -151, -140, -90, -30, 18, 24, 26, 40, 90, 170, 340, 360, 510, 620, 3000, -3000, 6e4, -6e4]
    logits = np.full((len(odd), classes), 0.5, dtype)
    logits[:, -1] = odd
    for label in (0, classes - 1):
        assert_cross_entropy(logits, np.full(len(odd), label), reduction="none")
