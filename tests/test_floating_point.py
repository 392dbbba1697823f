# SPDX-License-Identifier: BSD-3-Clause
"""The caller's floating-point environment changes no bit, springs no trap, and is the caller's again afterwards."""

from __future__ import annotations

import platform
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not sys.platform.startswith("linux"),
    reason="sets the control register of x86-64 by way of glibc",
)

# MXCSR: flush to zero, rounding, masks of the six exceptions, denormals are zero.
ENVIRONMENTS = {
    "flush-to-zero": 0x9F80,
    "denormals-are-zero": 0x1FC0,
    "both": 0x9FC0,
    "down": 0x3F80,
    "up": 0x5F80,
    "to-zero": 0x7F80,
    "every-trap": 0x0000,
    "every-trap-and-flushing-to-zero": 0x8040 | 0x6000,
}

CALLS = """
import ctypes, itertools, sys
import ml_dtypes, numpy as np, nll

libm = ctypes.CDLL("libm.so.6")
environment = ctypes.create_string_buffer(32)  # the last four bytes are the register of SSE
CONTROL, EXCEPTIONS = 0xFFC0, 0x3F

def control():
    libm.fegetenv(environment)
    return int.from_bytes(environment.raw[28:32], "little") & CONTROL

def set_control(value):
    libm.fegetenv(environment)
    environment[28:32] = value.to_bytes(4, "little")
    libm.fesetenv(environment)

DEFAULT = control()

rng = np.random.default_rng(0)
calls = []
def add(function, *arguments, **keywords):
    calls.append((function, arguments, keywords))

for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
    tiny = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    for shape in ((6, 5), (300, 200), (4, 3, 700)):
        logits = (rng.normal(size=shape) * 8).astype(dtype)
        logits[0, 0] = np.float64(tiny * 3).astype(dtype)
        target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
        target[0] = -100
        nothing = np.full_like(target, -100)
        wrong = target.copy()
        wrong[-1] = shape[1]
        broken = logits.copy()
        broken[1, 0], broken[2, 0] = np.nan, np.inf
        weights = {
            "none": None,
            "subnormal": rng.uniform(1, 2, shape[1]).astype(np.float32) * np.float32(1e-40),
            "nan": np.where(np.arange(shape[1]) == 1, np.nan, 1.0),
            "infinite": np.where(np.arange(shape[1]) == 1, np.inf, 1.0),
            "zero": np.zeros(shape[1]),
            "huge": np.full(shape[1], 1e300),
        }
        for weight, reduction in itertools.product(weights.values(), ("none", "sum", "mean")):
            for smoothing in (0.0, 0.25):
                for given in (logits, broken):
                    add(nll.cross_entropy, given, target, weight, reduction=reduction, label_smoothing=smoothing)
                if reduction != "none":
                    add(nll.cross_entropy_value_and_grad, logits, target, weight, reduction=reduction,
                        label_smoothing=smoothing, grad_output=1e-30)
            add(nll.nll_loss, broken, target, weight, reduction=reduction, return_total_weight=True)
            if reduction != "none":
                add(nll.nll_loss_value_and_grad, logits, target, weight, reduction=reduction, grad_output=1e-35)
        for labels in (nothing, wrong):
            for empty in ("nan", "zero", "raise"):
                add(nll.nll_loss_value_and_grad, logits, labels, empty=empty)
                add(nll.cross_entropy_value_and_grad, logits, labels, empty=empty)
        add(nll.log_softmax, broken)
        add(nll.log_softmax, (logits * np.asarray(9, dtype)).astype(dtype))

def outcome(function, arguments, keywords):
    try:
        result = function(*arguments, **keywords)
    except (ValueError, IndexError) as error:
        return type(error).__name__ + str(error)
    return result if isinstance(result, tuple) else (result,)

def as_bytes(result):
    return result if isinstance(result, str) else [np.asarray(part).tobytes() for part in result]

nll.set_num_threads(2)
expected = [as_bytes(outcome(*call)) for call in calls]
"""

COMPARE = """
for call, before in zip(calls, expected, strict=True):
    set_control(VALUE)
    result = outcome(*call)
    after = control()
    set_control(DEFAULT)
    what = (call[0].__name__, call[1][0].shape, call[1][0].dtype, call[2])
    assert after == VALUE & CONTROL, (what, hex(after))
    assert as_bytes(result) == before, what
print(len(calls))
"""


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment_of_the_caller(name, run_python):
    """Weights, scales and results, which the calling thread computes, are as exact as what its threads compute."""
    pytest.importorskip("ml_dtypes")
    code = CALLS + COMPARE.replace("VALUE", hex(ENVIRONMENTS[name]))
    assert int(run_python(code).stdout) > 500
