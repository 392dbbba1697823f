# SPDX-License-Identifier: BSD-3-Clause
"""The way of arguments into the extension, and what it does in Python's threads."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import nll
from nll import _arguments
from support.oracle import assert_same_bits

INPUT = -np.arange(12, dtype=np.float32).reshape(4, 3)
TARGET = np.array([0, 2, 1, 1])

# ---- arguments that are not native

FORWARD = [nll.nll_loss, nll.cross_entropy]
BACKWARD = [nll.nll_loss_backward, nll.cross_entropy_backward]
VALUE_AND_GRAD = [nll.nll_loss_value_and_grad, nll.cross_entropy_value_and_grad]
SMOOTHED = [nll.cross_entropy, nll.cross_entropy_backward, nll.cross_entropy_value_and_grad]
# In the order in which arguments are checked. Each value is refused by `_arguments`.
FAULTY: dict[str, Any] = {
    "input": "logits",
    "target": [0.5],
    "weight": ["1"],
    "ignore_index": 0.5,
    "reduction": "avg",
    "axis": 1.5,
    "index_base": None,
    "empty": "inf",
    "label_smoothing": 2,
    "grad_output": "1",
    "dtype": np.int64,
    "out": [[0.0]],
    "return_total_weight": "yes",
}
SOUND: dict[str, Any] = {
    "input": INPUT,
    "target": TARGET,
    "weight": None,
    "ignore_index": -100,
    "reduction": "mean",
    "axis": 1,
    "index_base": 0,
    "empty": "nan",
    "label_smoothing": 0.0,
    "grad_output": 1.0,
    "dtype": None,
    "out": None,
    "return_total_weight": False,
}


def names_of(function: Any) -> list[str]:
    """The function's arguments in the order in which they are checked."""
    own = {"dtype": function in FORWARD, "out": function not in FORWARD}
    own["grad_output"] = function in BACKWARD + VALUE_AND_GRAD
    own["return_total_weight"] = function in FORWARD + VALUE_AND_GRAD
    own["label_smoothing"] = function in SMOOTHED
    if function is nll.log_softmax:
        return ["input", "axis", "out"]
    return [name for name in FAULTY if own.get(name, True)]


@pytest.mark.parametrize("function", [*FORWARD, *BACKWARD, *VALUE_AND_GRAD, nll.log_softmax], ids=lambda f: f.__name__)
def test_first_faulty_argument_is_named(function):
    """Nothing of how arguments are passed to the extension shows in the error."""
    names = names_of(function)
    arguments = {name: FAULTY[name] for name in names}
    for name in names:
        with pytest.raises((TypeError, ValueError)) as caught:
            function(**arguments)
        assert str(caught.value).startswith(name)
        assert caught.value.__context__ is None or caught.value.__suppress_context__
        assert "native" not in repr(caught.value.__context__)
        arguments[name] = SOUND[name]
    function(**arguments)


@pytest.mark.parametrize("convert", [np.asarray, np.ndarray.tolist], ids=["native", "converted"])
def test_error_of_the_core_has_no_context(convert):
    with pytest.raises(IndexError, match=r"target\[3\] is 1, outside") as caught:
        nll.nll_loss(convert(INPUT[:, :1]), convert(np.array([0, 0, 0, 1])))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("flag", [1, np.True_, np.array(True), 2.5])
def test_return_total_weight_is_true_for_what_is_true(flag):
    assert nll.nll_loss(INPUT, TARGET, return_total_weight=flag)[1] == 4
    assert nll.nll_loss(INPUT.tolist(), TARGET, return_total_weight=flag)[1] == 4


@pytest.mark.parametrize("flag", [None, 0, np.False_])
def test_return_total_weight_is_false_for_what_is_false(flag):
    assert nll.nll_loss(INPUT, TARGET, return_total_weight=flag).ndim == 0


@pytest.mark.parametrize("flag", ["yes", [], ()])
def test_return_total_weight_that_is_no_truth(flag):
    with pytest.raises(TypeError, match=r"return_total_weight is .*; it must be True or False"):
        nll.nll_loss(INPUT, TARGET, return_total_weight=flag)


class Subclass(np.ndarray):
    """One that takes no part in what NumPy does to others."""

    def __array_function__(self, *arguments: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("function", VALUE_AND_GRAD, ids=lambda f: f.__name__)
def test_out_is_returned_itself(function):
    expected = function(INPUT, TARGET)[1]
    plain, window = np.zeros((4, 3), np.float32), np.zeros((6, 5), np.float32)[1:-1, 1:-1]
    for out in plain, window, plain.view(Subclass), np.zeros((4, 3), np.float32, order="F"):
        for input in INPUT, INPUT.tolist() if out.dtype == float else INPUT.astype(">f4"):
            out[...] = 7
            assert function(input, TARGET, out=out)[1] is out
            assert_same_bits(np.asarray(out), expected)


# ---- elements of `out` that share memory


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-40, 40)), min_size=1, max_size=5))
def test_overlap_with_itself(axes):
    array = as_strided(np.zeros(4000)[2000:], [n for n, _ in axes], [8 * s for _, s in axes])
    places = [
        sum(i * stride for i, (_, stride) in zip(index, axes, strict=True))
        for index in itertools.product(*(range(n) for n, _ in axes))
    ]
    assert _arguments.overlaps_itself(array) == (len(set(places)) < len(places))


INTERLEAVED = [
    pytest.param((1000, 1001), (1001, 1000), id="two-axes"),
    pytest.param((64, 64, 64), (4095, 4096, 64 * 4097), id="three-axes"),
    pytest.param((9, 10, 11, 7), (770, 693, 630, 990), id="four-axes"),
    pytest.param((7, 4, 5, 4, 3), (748406, 938234, 362674, 658433, 839426), id="five-axes"),
]


@pytest.mark.parametrize(("shape", "strides"), INTERLEAVED)
def test_interleaved_out_costs_no_memory(shape, strides):
    """Whose elements lie between each other's, but each alone."""
    room = np.zeros(1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)), np.float32)
    out = as_strided(room, shape, [4 * s for s in strides])
    tracemalloc.start()
    try:
        assert not _arguments.overlaps_itself(out)
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()
    input = np.broadcast_to(np.float32(0), shape)
    assert nll.log_softmax(input, out=out) is out
    assert_same_bits(np.unique(out), np.unique(nll.log_softmax(input)))


# ---- threads

ENDLESS = """
import os, signal, sys, threading, time
import numpy as np, nll
input, target = np.broadcast_to(np.float32(-1), (2**39, 1)), np.broadcast_to(np.int8(0), 2**39)
small_input, small_target = np.zeros((500, 10), np.float32), np.zeros(500, np.int64)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_exit_while_threads_are_inside_calls(threads, run_python):
    """Some are in the middle of a long call, others go in and out of short ones."""
    run_python(
        ENDLESS
        + f"""
def short():
    while True:
        nll.nll_loss(small_input, small_target)

nll.set_num_threads({threads})
for call in [lambda: nll.nll_loss(input, target)] * 3 + [short] * 5:
    threading.Thread(target=call, daemon=True).start()
time.sleep(0.3)
"""
    )


def test_interrupt_in_the_main_thread_of_a_child():
    """The thread that forks is the child's main thread, whichever it was."""
    program = (
        ENDLESS
        + """
def fork():
    child = os.fork()
    if child:
        status.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print("ready", flush=True)
        nll.nll_loss(input, target)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    os._exit(0)

status = []
signal.signal(signal.SIGINT, signal.SIG_IGN)
thread = threading.Thread(target=fork)
thread.start()
thread.join()
sys.exit(status[0])
"""
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGINT)
            assert process.communicate(timeout=20)[0] == "interrupted\n"
            assert process.returncode == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


# ---- other interpreters

IN_ANOTHER_INTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

CODE = '''
try:
    import nll
except ImportError as error:
    assert "interpreter" in str(error), error
else:
    assert nll.nll_loss([[-1.0, -2.0]], [0]) == 1
'''
if imported_before:
    import nll
failure = interpreters.run_string(interpreters.create(), CODE)
assert failure is None, failure
import nll
assert nll.nll_loss([[-1.0, -2.0]], [0]) == 1
"""


@pytest.mark.parametrize("imported_before", [False, True], ids=["first", "after-the-main-one"])
def test_another_interpreter_of_the_process_is_served_or_refused(imported_before, run_python):
    run_python(f"imported_before = {imported_before}\n" + IN_ANOTHER_INTERPRETER, timeout=30)
