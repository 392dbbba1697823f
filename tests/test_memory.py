# SPDX-License-Identifier: BSD-3-Clause
"""A call allocates nothing that grows with its arguments, but for its result.

The peak of a fresh process's memory is measured (the fixture `peak_growth` says how). 1 MiB and 32 KiB a thread are
allowed; for the gradient of a cross-entropy, whose threads keep what they computed of a sample, 600 KiB a thread.
"""

from __future__ import annotations

import pytest

from support.constants import MAX_KEPT_CLASSES, around

MIB = 2**20
ALLOWED = MIB + 2 * 32 * 1024
ALLOWED_BESIDE_LOGITS = MIB + 2 * 600 * 1024
TWO_THREADS = "nll.set_num_threads(2)\n"

# 64 MiB of input, 16 MiB of labels
MANY_ROWS = TWO_THREADS + "input, target = np.full((2**21, 8), -1, np.float32), np.ones(2**21, np.int64)"
FEW_HUGE_ROWS = TWO_THREADS + "input, target = np.full((16, 2**20), -1, np.float32), np.arange(16)"
IMAGES = TWO_THREADS + "input, target = np.full((4, 16, 512, 512), -1, np.float32), np.ones((4, 512, 512), np.int64)"
CHANNELS_LAST = IMAGES + "; input = np.moveaxis(np.full((4, 512, 512, 16), -1, np.float32), -1, 1)"
WINDOW = IMAGES + "; input = np.full((4, 16, 520, 520), -1, np.float32)[:, :, 4:-4, 4:-4]"
HALF = TWO_THREADS + "input, target = np.full((2**22, 8), -1, np.float16), np.ones(2**22, np.uint8)"
WEIGHTED = MANY_ROWS + "; weight = np.linspace(0.1, 1, 8)"

each_layout = pytest.mark.parametrize(
    "setup",
    [
        pytest.param(setup, id=name)
        for name, setup in [
            ("many-rows", MANY_ROWS),
            ("few-huge-rows", FEW_HUGE_ROWS),
            ("images", IMAGES),
            ("channels-last", CHANNELS_LAST),
            ("window", WINDOW),
            ("float16", HALF),
        ]
    ],
)


@each_layout
def test_mean(setup, peak_growth):
    assert peak_growth(setup, "nll.nll_loss(input, target)") < ALLOWED


def test_weighted_mean(peak_growth):
    assert peak_growth(WEIGHTED, "nll.nll_loss(input, target, weight)") < ALLOWED


def test_mean_of_a_wide_range(peak_growth):
    """Values whose exponents are too far apart for the fast sums."""
    setup = MANY_ROWS + "; input *= np.ldexp(1, np.arange(2**21) % 200 - 100)[:, None]"
    assert peak_growth(setup, "nll.nll_loss(input, target)") < ALLOWED


def test_unreduced_loss(peak_growth):
    assert peak_growth(MANY_ROWS, 'nll.nll_loss(input, target, reduction="none")') < 8 * MIB + ALLOWED


@each_layout
def test_fresh_gradient(setup, peak_growth):
    grown = peak_growth(setup, "nll.nll_loss_backward(1.0, input, target)")
    assert 60 * MIB < grown < 64 * MIB + ALLOWED  # the lower bound shows that the measure sees what it should


@each_layout
def test_gradient_into_out(setup, peak_growth):
    setup += "; out = np.full_like(input, 7)"
    assert peak_growth(setup, "nll.nll_loss_backward(1.0, input, target, out=out)") < ALLOWED


@each_layout
def test_value_and_grad_into_out(setup, peak_growth):
    setup += "; out = np.full_like(input, 7)"
    assert peak_growth(setup, "nll.nll_loss_value_and_grad(input, target, out=out)") < ALLOWED


def test_unreduced_gradient_into_out(peak_growth):
    setup = WEIGHTED + "; out = np.full_like(input, 7); grad_output = np.ones(2**21)"
    call = 'nll.nll_loss_backward(grad_output, input, target, weight, reduction="none", out=out)'
    assert peak_growth(setup, call) < ALLOWED


@each_layout
def test_cross_entropy(setup, peak_growth):
    assert peak_growth(setup, "nll.cross_entropy(input, target)") < MIB


def test_smoothed_cross_entropy_with_weights(peak_growth):
    assert peak_growth(WEIGHTED, "nll.cross_entropy(input, target, weight, label_smoothing=0.1)") < MIB


def test_cross_entropy_in_double(peak_growth):
    assert peak_growth(FEW_HUGE_ROWS, "nll.cross_entropy(input, target, dtype=np.float64)") < MIB


def test_unreduced_cross_entropy(peak_growth):
    assert peak_growth(MANY_ROWS, 'nll.cross_entropy(input, target, reduction="none")') < 9 * MIB


def test_fresh_gradient_of_cross_entropy(peak_growth):
    grown = peak_growth(MANY_ROWS, "nll.cross_entropy_value_and_grad(input, target)")
    assert 60 * MIB < grown < 64 * MIB + ALLOWED_BESIDE_LOGITS


@each_layout
def test_cross_entropy_value_and_grad_into_out(setup, peak_growth):
    setup += "; out = np.full_like(input, 7)"
    call = "nll.cross_entropy_value_and_grad(input, target, out=out)"
    assert peak_growth(setup, call) < ALLOWED_BESIDE_LOGITS


@each_layout
def test_cross_entropy_value_and_grad_in_place(setup, peak_growth):
    call = "nll.cross_entropy_value_and_grad(input, target, out=input)"
    assert peak_growth(setup, call) < ALLOWED_BESIDE_LOGITS


@pytest.mark.parametrize("classes", [50_257, *around(MAX_KEPT_CLASSES)])
def test_gradient_of_rows_of_a_vocabulary(classes, peak_growth):
    setup = TWO_THREADS + f"input, target = np.full((300, {classes}), -1, np.float32), np.arange(300)"
    call = "nll.cross_entropy_value_and_grad(input, target, out=input)"
    assert peak_growth(setup, call) < ALLOWED_BESIDE_LOGITS


def test_log_softmax_in_place(peak_growth):
    assert peak_growth(MANY_ROWS, "nll.log_softmax(input, out=input)") < ALLOWED_BESIDE_LOGITS


def test_nothing_is_leaked(peak_growth):
    """A thousand results and errors later, as much memory is in use."""
    setup = """
input, target = np.zeros((5000, 2), np.float32), np.zeros(5000, np.int64)
bad_target = target + 2

def many():
    for _ in range(1000):
        nll.nll_loss(input, target, reduction="none")
        nll.nll_loss_value_and_grad(input, target, [1.0, 2.0])
        try:
            nll.nll_loss_backward(1.0, input, bad_target)
        except IndexError:
            pass
        nll.cross_entropy(input, target, reduction="none")
        nll.cross_entropy_value_and_grad(input, target, [1.0, 2.0])
        try:
            nll.cross_entropy_backward(1.0, input, bad_target, out=input)
        except IndexError:
            pass

many()
"""
    assert peak_growth(setup, "many()") < ALLOWED
