# SPDX-License-Identifier: BSD-3-Clause
"""Arrays that another thread changes during a call: some answer, or an error, but no address outside of them."""

from __future__ import annotations

import pytest

# Arrays lie between guards whose values are looked at afterwards; a wrong read would most likely end the process, as
# beyond the guards there is no memory: labels are changed to such that lie far outside.
RACE = """
import mmap, threading, time
import ml_dtypes
import numpy as np
import nll

PAGE = mmap.PAGESIZE
def guarded(array):
    guard = PAGE // array.itemsize
    memory = np.full(array.size + 2 * guard, 77, array.dtype)
    inside = memory[guard:-guard].reshape(array.shape)
    inside[...] = array
    guards.append((memory[:guard], memory[-guard:]))
    return inside

guards = []
rng = np.random.default_rng(0)
N, C = SHAPE
input = guarded(rng.normal(size=(N, C)).astype(DTYPE))
target = guarded(rng.integers(0, C, N))
weight, whole_weight = guarded(rng.uniform(1, 2, C)), guarded(rng.integers(1, 9, C))
sample_weight, whole_sample_weight = guarded(rng.uniform(1, 2, N)), guarded(rng.integers(1, 9, N))
group = guarded(rng.integers(0, 5, N).astype(np.int32))
grad_output = guarded(rng.normal(size=N))
out, losses_out = guarded(np.zeros_like(input)), guarded(np.zeros(N))
apart = guarded(np.ascontiguousarray(input.T)).T
total = nll.LossAccumulator("cross_entropy", groups=5)

WILD = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 0, 1], np.float64).astype(DTYPE)
def change():
    turn = 0
    while not stop:
        turn += 1
        with np.errstate(all="ignore"):
            input[turn % N] = WILD[turn % 7]
            apart[:, turn % C] = WILD[turn % 7]
            out[turn % N] = WILD[turn % 7]
            for real in weight, sample_weight, grad_output:
                real[turn % len(real)] = (np.nan, np.inf, -1e300, 1e-320, 1.0)[turn % 5]
        for whole in whole_weight, whole_sample_weight:
            whole[turn % len(whole)] = (2**62, -1, 3)[turn % 3]
        target[turn % N] = (2**62, -(2**63), C, -1, -100)[turn % 5]
        group[turn % N] = (2**31 - 1, -1, 5)[turn % 3]
        target[turn % N] = turn % C
        group[turn % N] = turn % 5

both = dict(sample_weight=sample_weight)
calls = [
    lambda: nll.nll_loss(input, target, weight, **both),
    lambda: nll.nll_loss(apart, target, whole_weight, sample_weight=whole_sample_weight, reduction="none"),
    lambda: nll.nll_loss_value_and_grad(input, target, weight, out=out),
    lambda: nll.nll_loss_backward(grad_output, apart, target, reduction="none"),
    lambda: nll.cross_entropy(input, target, weight, label_smoothing=0.1, **both),
    lambda: nll.cross_entropy(apart, target, reduction="none"),
    lambda: nll.cross_entropy_value_and_grad(input, target, whole_weight, out=out),
    lambda: nll.cross_entropy_value_and_grad(apart, target, label_smoothing=0.1, **both),
    lambda: nll.cross_entropy_backward(grad_output, input, target, reduction="none", out=out),
    lambda: nll.cross_entropy_value_and_grad(out, target, out=out),
    lambda: nll.log_softmax(input, out=out),
    lambda: nll.softmax(apart),
    lambda: nll.logsumexp(input),
    lambda: total.update(input, target, group=group),
    lambda: total.update(apart, target, sample_weight, group=group),
]
nll.set_num_threads(2)
stop = False
thread = threading.Thread(target=change)
thread.start()
outcomes = set()
end = time.monotonic() + 1
while time.monotonic() < end or len(outcomes) < 2:
    for call in calls:
        try:
            call()
            outcomes.add("value")
        except IndexError as error:
            assert ", outside [" in str(error), error
            outcomes.add("label")
        except ValueError as error:
            assert "beyond 2^53" in str(error) or "2^-500 to 2^500" in str(error), error
            outcomes.add("weight")
stop = True
thread.join()
for guard in guards:
    for side in guard:
        assert (side == side.dtype.type(77)).all(), "written outside of an array"
target[...] = 0
input[...] = 0
assert abs(float(nll.cross_entropy(input, target)) - np.log(C)) < 0.01 * np.log(C)
"""


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [("(20_000, 3)", "np.float32"), ("(300, 500)", "np.float64"), ("(2, 100_000)", "np.float16")],
    ids=["few-classes", "rows", "long-rows"],
)
def test_arrays_that_another_thread_changes(shape, dtype, run_python):
    pytest.importorskip("ml_dtypes")
    run_python(RACE.replace("SHAPE", shape).replace("DTYPE", dtype), timeout=60)
